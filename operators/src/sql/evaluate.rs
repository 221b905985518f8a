//! Expressions over batches.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array, new_empty_array, new_null_array};
use arrow::compute::{CastOptions, take_record_batch};
use arrow::datatypes::{DataType, Decimal128Type, TimeUnit};
use arrow::error::ArrowError;
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{
    BinaryExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, Literal, NotExpr,
};
use datafusion_sql::sqlparser::ast::{Expr, Ident};

use super::column_name;
use super::plan::{Columns, Planned, clean};
use super::resolve::column_index;
use super::syntax::children_mut;
use crate::diagnostic::Code;
use crate::schema::{Schema, TIMESTAMP, canonical, type_name};

/// A compiled expression; cheap to clone.
#[derive(Clone, Debug)]
pub struct Expression(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    text: String,
    canonical: String,
    columns: Vec<usize>,
    column: Option<usize>,
    data_type: DataType,
    physical: Arc<dyn PhysicalExpr>,
}

/// What an expression gives for the rows of a batch.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// One value per row; null for a failing row.
    pub values: ArrayRef,
    /// The failing rows, in order.
    pub errors: RowErrors,
}

/// Rows that failed: row, code, message.
pub type RowErrors = Vec<(usize, Code, String)>;

/// The values of several expressions, with one error for each row on which some fail: the first one's.
pub(crate) fn evaluate_all(expressions: &[Expression], rows: &RecordBatch) -> (Vec<ArrayRef>, RowErrors) {
    let mut errors = Vec::new();
    let values = expressions.iter().map(|expression| {
        let evaluated = expression.evaluate(rows);
        errors.extend(evaluated.errors);
        evaluated.values
    });
    let values = values.collect();
    (values, first_of_rows(errors))
}

/// Of errors in the order of what failed: the first of each row, in the order of the rows.
pub(crate) fn first_of_rows(mut errors: RowErrors) -> RowErrors {
    errors.sort_by_key(|(row, _, _)| *row);
    errors.dedup_by_key(|(row, _, _)| *row);
    errors
}

impl Expression {
    pub(super) fn new(
        text: String,
        syntax: &Expr,
        columns: &Columns,
        planned: Planned,
        data_type: DataType,
    ) -> Self {
        let mut used: Vec<usize> = used_columns(&planned);
        used.sort_unstable();
        used.dedup();
        let canonical = canonical_text(syntax, columns, &used, &data_type);
        let column = column_index(syntax).filter(|_| planned.data_type == data_type);
        let physical = cast_to(planned.physical, &planned.data_type, &data_type);
        Expression(Arc::new(Inner { text, canonical, columns: used, column, data_type, physical }))
    }

    /// The column at `index`, as it is; `None` if there is none or its type is no column type.
    pub fn column(schema: &Schema, index: usize) -> Option<Self> {
        let field = schema.columns.fields().get(index)?;
        let data_type = canonical(field.data_type())?;
        let physical: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&column_name(index), index));
        Some(Expression(Arc::new(Inner {
            text: field.name().clone(),
            canonical: described(&quoted(field.name()), &[(field.name(), field.data_type())], &data_type),
            columns: vec![index],
            column: (*field.data_type() == data_type).then_some(index),
            physical: cast_to(physical, field.data_type(), &data_type),
            data_type,
        })))
    }

    /// The type of the values.
    pub fn data_type(&self) -> &DataType {
        &self.0.data_type
    }

    /// As the user wrote it.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// A text that two expressions share iff they compute the same from the same columns: names resolved, types named.
    pub fn canonical_text(&self) -> String {
        self.0.canonical.clone()
    }

    /// The numbers of the columns it reads, in order.
    pub fn columns(&self) -> Vec<usize> {
        self.0.columns.clone()
    }

    /// The column that the expression is, if it is nothing but a column.
    pub fn as_column(&self) -> Option<usize> {
        self.0.column
    }

    /// Its value, if it reads no column and was computed when it was compiled.
    pub(crate) fn constant(&self) -> Option<&ScalarValue> {
        self.0.physical.downcast_ref::<Literal>().map(Literal::value)
    }

    /// Whether there is no row on which it fails. True only of what surely cannot: columns, literals, comparisons and logic.
    pub fn cannot_fail(&self) -> bool {
        fn cannot_fail(physical: &Arc<dyn PhysicalExpr>) -> bool {
            let safe = match physical.downcast_ref::<BinaryExpr>() {
                Some(binary) => matches!(
                    binary.op(),
                    Operator::Eq
                        | Operator::NotEq
                        | Operator::Lt
                        | Operator::LtEq
                        | Operator::Gt
                        | Operator::GtEq
                        | Operator::And
                        | Operator::Or
                ),
                None => {
                    physical.downcast_ref::<Column>().is_some()
                        || physical.downcast_ref::<Literal>().is_some()
                        || physical.downcast_ref::<NotExpr>().is_some()
                        || physical.downcast_ref::<IsNullExpr>().is_some()
                        || physical.downcast_ref::<IsNotNullExpr>().is_some()
                        || physical.downcast_ref::<InListExpr>().is_some()
                }
            };
            safe && physical.children().into_iter().all(cannot_fail)
        }
        cannot_fail(&self.0.physical)
    }

    /// Evaluates it for every row. A batch that fails is halved until the failing rows are found.
    pub fn evaluate(&self, rows: &RecordBatch) -> Evaluated {
        if let Some(values) = self.0.column.and_then(|index| rows.columns().get(index)) {
            return Evaluated { values: values.clone(), errors: Vec::new() };
        }
        if rows.num_rows() == 0 {
            return Evaluated { values: new_empty_array(&self.0.data_type), errors: Vec::new() };
        }
        if let Ok(values) = self.try_evaluate(rows) {
            return Evaluated { values, errors: Vec::new() };
        }
        let mut parts = Vec::new();
        let mut errors = Vec::new();
        match copied(rows, 0, rows.num_rows()) {
            Ok(rows) => self.evaluate_into(&rows, 0, &mut parts, &mut errors),
            Err(error) => return self.all_failed(rows.num_rows(), &error),
        }
        let values = match parts.as_slice() {
            [all] => Ok(all.clone()),
            _ => arrow::compute::concat(&parts.iter().map(|part| part.as_ref()).collect::<Vec<_>>()),
        };
        match values {
            Ok(values) => Evaluated { values, errors },
            Err(error) => self.all_failed(rows.num_rows(), &error),
        }
    }

    fn all_failed(&self, rows: usize, error: &ArrowError) -> Evaluated {
        let message = self.message(&error.to_string());
        Evaluated {
            values: new_null_array(&self.0.data_type, rows),
            errors: (0..rows).map(|row| (row, Code::RecordExpression, message.clone())).collect(),
        }
    }

    fn evaluate_into(
        &self,
        rows: &RecordBatch,
        first: usize,
        parts: &mut Vec<ArrayRef>,
        errors: &mut Vec<(usize, Code, String)>,
    ) {
        match self.try_evaluate(rows) {
            Ok(values) => parts.push(values),
            Err(message) if rows.num_rows() <= 1 => {
                parts.push(new_null_array(&self.0.data_type, rows.num_rows()));
                errors.push((first, Code::RecordExpression, self.message(&message)));
            }
            Err(_) => {
                let half = rows.num_rows() / 2;
                for (from, to) in [(0, half), (half, rows.num_rows())] {
                    match copied(rows, from, to) {
                        Ok(part) => self.evaluate_into(&part, first + from, parts, errors),
                        Err(error) => {
                            let message = self.message(&error.to_string());
                            parts.push(new_null_array(&self.0.data_type, to - from));
                            errors.extend(
                                (from..to).map(|row| (first + row, Code::RecordExpression, message.clone())),
                            );
                        }
                    }
                }
            }
        }
    }

    fn try_evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, String> {
        let evaluate = || -> Result<ArrayRef, DataFusionError> {
            let values = self.0.physical.evaluate(rows)?.into_array(rows.num_rows())?;
            if let DataType::Decimal128(precision, _) = self.0.data_type {
                // Decimal arithmetic is checked against 128 bits only.
                values.as_primitive::<Decimal128Type>().validate_decimal_precision(precision)?;
            }
            Ok(values)
        };
        let values = catch_unwind(AssertUnwindSafe(evaluate))
            .map_err(|_| "it cannot be computed".to_owned())?
            .map_err(|error| clean(&error))?;
        if values.len() != rows.num_rows() || *values.data_type() != self.0.data_type {
            return Err(format!("it gave {} values of type {}", values.len(), type_name(values.data_type())));
        }
        Ok(values)
    }

    fn message(&self, message: &str) -> String {
        const LONGEST: usize = 80;
        let text: String = self.0.text.split_whitespace().collect::<Vec<_>>().join(" ");
        match text.char_indices().nth(LONGEST) {
            None => format!("in `{text}`: {message}"),
            Some((end, _)) => format!("in `{}…`: {message}", text.get(..end).unwrap_or_default()),
        }
    }
}

/// Some of the rows in memory of their own: a slice still holds its neighbours' bytes, and some casts look at all of them.
fn copied(rows: &RecordBatch, from: usize, to: usize) -> Result<RecordBatch, ArrowError> {
    take_record_batch(rows, &UInt32Array::from_iter_values((from..to).map(|row| row as u32)))
}

fn used_columns(planned: &Planned) -> Vec<usize> {
    let columns = planned.logical.column_refs();
    columns.into_iter().filter_map(|column| column.name.strip_prefix('#')?.parse().ok()).collect()
}

/// A cast from a result's type to the column type it is kept in; out of range is an error of the row.
fn cast_to(physical: Arc<dyn PhysicalExpr>, from: &DataType, to: &DataType) -> Arc<dyn PhysicalExpr> {
    if from == to {
        return physical;
    }
    let cast = |physical, to| -> Arc<dyn PhysicalExpr> {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        Arc::new(CastExpr::new(physical, to, Some(options)))
    };
    match from {
        // The time itself, not what the clocks of its zone show.
        DataType::Timestamp(_, Some(_)) => {
            let utc = cast(physical, DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into())));
            cast(utc, TIMESTAMP)
        }
        _ => cast(physical, to.clone()),
    }
}

fn canonical_text(syntax: &Expr, columns: &Columns, used: &[usize], data_type: &DataType) -> String {
    fn rename(expr: &mut Expr, columns: &Columns) {
        if let Some(name) = column_index(expr).and_then(|index| columns.name(index)) {
            *expr = Expr::Identifier(Ident::with_quote('"', name));
        }
        children_mut(expr).into_iter().for_each(|child| rename(child, columns));
    }
    let mut syntax = syntax.clone();
    rename(&mut syntax, columns);
    let mut inputs: Vec<(&str, &DataType)> =
        used.iter().filter_map(|index| Some((columns.name(*index)?, columns.data_type(*index)?))).collect();
    inputs.sort_unstable_by_key(|(name, _)| *name);
    described(&syntax.to_string(), &inputs, data_type)
}

fn quoted(name: &str) -> String {
    Ident::with_quote('"', name).to_string()
}

fn described(text: &str, inputs: &[(&str, &DataType)], data_type: &DataType) -> String {
    let inputs: Vec<String> =
        inputs.iter().map(|(name, data_type)| format!("{} {}", quoted(name), type_name(data_type))).collect();
    format!("{text} ({}) {}", inputs.join(", "), type_name(data_type))
}
