//! `select`: computes columns; the key is kept.

use arrow::array::ArrayRef;
use arrow::datatypes::FieldRef;

use crate::batch::Batch;
use crate::config::{Field, FieldKind, Text};
use crate::diagnostic::{Code, Diagnostic};
use crate::filter::{kept, table_changes};
use crate::operator::{
    Arity, Context, Definition, Operator, OperatorError, OperatorSpec, Resolved, Step, Wanted,
};
use crate::schema::{Kind, Schema, column};
use crate::sql::{Expression, first_of_rows};

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "select",
    summary: "Computes the value's columns; the key is kept, and a null value stays null.",
    arity: Arity::One,
    keyed: false,
    fields: &[
        Field {
            name: "columns",
            kind: FieldKind::SqlTable,
            required: false,
            doc: "The value's columns, exactly these: name = expression.",
        },
        Field {
            name: "add",
            kind: FieldKind::SqlTable,
            required: false,
            doc: "Columns to add to those of the input: name = expression.",
        },
        Field {
            name: "drop",
            kind: FieldKind::Columns,
            required: false,
            doc: "Columns of the input to leave out.",
        },
    ],
    example: r#"[steps.usage]
op      = "select"
from    = "payments"
columns = { usage = "amount / credit", country = "upper(country)" }"#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    let fields = &step.fields;
    let input = &step.input().schema;
    for other in ["add", "drop"] {
        if fields.has("columns") && fields.has(other) {
            step.diagnostics().push(
                Diagnostic::error(
                    Code::KeysExclude,
                    fields.key_span(other),
                    format!("`columns` and `{other}` exclude each other"),
                )
                .also(fields.key_span("columns"), "`columns` says exactly which columns there are")
                .help(format!("remove `{other}`, or replace `columns` by `add`")),
            );
            return None;
        }
    }
    if fields.has("columns") {
        return columns(step, &fields.text_table("columns")?);
    }
    if !fields.has("add") && !fields.has("drop") {
        fields.missing("columns", "give `columns`, or `add` and `drop`");
        return None;
    }
    let mut complete = true;
    let mut keep: Vec<usize> = (input.key..input.columns.fields().len()).collect();
    for name in fields.texts("drop").unwrap_or_default() {
        match step.column(&name, input) {
            Some(index) if index >= input.key && !keep.contains(&index) => {
                let message = format!("`{}` is there twice", name.value);
                step.error(Code::ColumnClash, name.span.clone(), message, "remove one");
                complete = false;
            }
            Some(index) if index < input.key => {
                let message = format!("`{}` is a key column and cannot be dropped", name.value);
                step.error(Code::UnknownColumn, name.span.clone(), message, "change the key with `rekey`");
                complete = false;
            }
            Some(index) => keep.retain(|kept| *kept != index),
            None => complete = false,
        }
    }
    let mut outputs: Vec<(FieldRef, Expression)> = Vec::new();
    let scope = step.scope();
    for index in keep {
        if let (Some(field), Some(expression)) =
            (input.columns.fields().get(index), Expression::column(input, index))
        {
            outputs.push((field.clone(), expression));
        }
    }
    if fields.has("add") {
        for (name, text) in fields.text_table("add")? {
            if input.index_of(&name).is_some() {
                step.error(
                    Code::ColumnClash,
                    name.span.clone(),
                    format!("`{}` has a column `{}` already", step.input().from.value, name.value),
                    "choose another name; to replace a column, list all with `columns`",
                );
                complete = false;
                continue;
            }
            match step.located(&text, crate::sql::compile(&text, &scope)) {
                Some(expression) => {
                    outputs.push((column(&name.value, expression.data_type().clone()), expression))
                }
                None => complete = false,
            }
        }
    }
    if complete && outputs.is_empty() && input.key == 0 {
        let help = "leave at least one column";
        step.error(Code::NoColumns, fields.key_span("drop"), "no column is left", help);
        return None;
    }
    complete.then(|| finish(input, outputs))
}

fn columns(step: &Step<'_>, columns: &[(Text, Text)]) -> Option<Resolved> {
    if columns.is_empty() {
        let help = "name at least one column; columns are left out with `drop`";
        step.error(Code::NoColumns, step.fields.key_span("columns"), "`columns` is empty", help);
        return None;
    }
    let outputs = computed_columns(step, columns)?;
    Some(finish(&step.input().schema, outputs))
}

/// Value columns by name and expression over the first input; a key column may be named again only as itself.
fn computed_columns(step: &Step<'_>, columns: &[(Text, Text)]) -> Option<Vec<(FieldRef, Expression)>> {
    let input = &step.input().schema;
    let scope = step.scope();
    let mut outputs = Vec::new();
    let mut complete = true;
    for (name, text) in columns {
        let Some(expression) = step.located(text, crate::sql::compile(text, &scope)) else {
            complete = false;
            continue;
        };
        match input.index_of(name) {
            Some(index) if index < input.key && expression.as_column() == Some(index) => {}
            Some(index) if index < input.key => {
                step.error(
                    Code::ColumnClash,
                    name.span.clone(),
                    format!("`{}` is a key column of `{}`", name.value, step.input().from.value),
                    "key columns are kept as they are; choose another name, or change the key with `rekey`",
                );
                complete = false;
            }
            _ => outputs.push((column(&name.value, expression.data_type().clone()), expression)),
        }
    }
    complete.then_some(outputs)
}

fn finish(input: &Schema, outputs: Vec<(FieldRef, Expression)>) -> Resolved {
    let (value, expressions): (Vec<FieldRef>, Vec<Expression>) = outputs.into_iter().unzip();
    let Schema { kind, windowed, ranked, closes_after, .. } = *input;
    let marks = Schema::new(kind, input.key_fields().to_vec(), value);
    let schema = Schema { windowed, ranked, closes_after, ..marks };
    Resolved::simple(schema.clone(), Select { expressions, schema })
}

#[derive(Clone, Debug)]
struct Select {
    /// Of the value columns, in order.
    expressions: Vec<Expression>,
    schema: Schema,
}

impl Definition for Select {
    fn facts(&self) -> Vec<(&'static str, String)> {
        let names = self.schema.value_fields().iter().map(|field| field.name().as_str());
        vec![("columns", names.collect::<Vec<_>>().join(", "))]
    }

    fn folds_through(&self) -> bool {
        self.expressions.iter().all(Expression::cannot_fail)
    }

    // Whether the replaced row had failed decides between an update, an insert, a delete and nothing.
    fn needs_before(&self, wanted: &Wanted) -> bool {
        wanted.before || (self.schema.kind == Kind::Table && !self.folds_through())
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        let changes = self.schema.kind == Kind::Table && !self.folds_through();
        Ok(Box::new(RunningSelect { definition: self.clone(), changes, before: wanted.before }))
    }
}

struct RunningSelect {
    definition: Select,
    /// Whether a row of a table may fail.
    changes: bool,
    before: bool,
}

impl Operator for RunningSelect {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let Some(input) = inputs.first() else { return Ok(Vec::new()) };
        let Select { expressions, schema } = &self.definition;
        let key = input.rows.columns().iter().take(schema.key).cloned();
        let (output, keep) = with_computed(input, schema, key.collect(), expressions, context)?;
        Ok(vec![match self.changes {
            true => table_changes(&output, keep.as_ref(), self.before)?,
            false => kept(output, keep)?,
        }])
    }
}

/// `input` with the columns `first` and then the values of `expressions`; and the rows without error, `None` for all.
/// The columns computed for a null value are null.
pub(crate) fn with_computed(
    input: &Batch,
    schema: &Schema,
    first: Vec<ArrayRef>,
    expressions: &[Expression],
    context: &mut Context<'_>,
) -> Result<(Batch, Option<arrow::array::BooleanArray>), OperatorError> {
    if input.is_empty() {
        return Ok((Batch::empty(&schema.columns), None));
    }
    let mut arrays = first;
    let mut errors = Vec::new();
    for expression in expressions {
        let evaluated = expression.evaluate(&input.rows);
        errors.extend(evaluated.errors.into_iter().filter(|(row, _, _)| !input.is_null_value(*row)));
        arrays.push(match &input.null_value {
            None => evaluated.values,
            Some(nulls) => arrow::compute::nullif(
                &evaluated.values,
                &arrow::array::BooleanArray::new(nulls.clone(), None),
            )?,
        });
    }
    let keep = context.without_errors(input, &first_of_rows(errors));
    Ok((input.with_columns(&schema.columns, arrays)?, keep))
}
