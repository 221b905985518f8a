//! `explode`: one row per element of a list.

use arrow::array::{Array, ListArray};
use arrow::datatypes::{DataType, FieldRef};

use crate::batch::Batch;
use crate::config::{Field, FieldKind};
use crate::diagnostic::Code;
use crate::operator::{
    Arity, Context, Definition, DropReason, Operator, OperatorError, OperatorSpec, Resolved, Step, Wanted,
};
use crate::schema::{Kind, Schema, column, type_name};

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "explode",
    summary: "One row per element of a list; null and empty lists give none.",
    arity: Arity::One,
    keyed: false,
    fields: &[
        Field {
            name: "column",
            kind: FieldKind::String,
            required: true,
            doc: "The column that holds the list.",
        },
        Field {
            name: "as",
            kind: FieldKind::String,
            required: false,
            doc: "The name of the element's column, which takes the list's place; default: the list's name.",
        },
    ],
    example: r#"[steps.items]
op     = "explode"
from   = "orders"
column = "items"
as     = "item""#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    step.require_kind(Kind::Stream, "make a stream of the table with `to-stream`")?;
    let input = &step.input().schema;
    let list =
        step.fields.require_text("column", "name the column that holds the list: column = \"items\"")?;
    let index = step.column(&list, input)?;
    let field = input.columns.fields().get(index)?;
    let DataType::List(item) = field.data_type() else {
        step.error(
            Code::SqlTypes,
            list.span.clone(),
            format!("`{}` is {}, expected a list", list.value, type_name(field.data_type())),
            "`explode` takes a column of type list<T>",
        );
        return None;
    };
    if index < input.key {
        let message = format!("`{}` is a key column", list.value);
        step.error(
            Code::ColumnClash,
            list.span.clone(),
            message,
            "copy it to a value column with `select` first",
        );
        return None;
    }
    let name = match step.fields.text("as") {
        Some(name) if input.index_of(&name).is_some_and(|other| other != index) => {
            step.error(
                Code::ColumnClash,
                name.span.clone(),
                format!("`{}` has a column `{}` already", step.input().from.value, name.value),
                "choose another name for the element",
            );
            return None;
        }
        Some(name) if !step.fields.check_column_name(&name) => return None,
        Some(name) => name.value,
        None => list.value,
    };
    let mut fields: Vec<FieldRef> = input.columns.fields().iter().cloned().collect();
    *fields.get_mut(index)? = column(name, item.data_type().clone());
    let value = fields.split_off(input.key);
    let schema = Schema { windowed: input.windowed, ..Schema::new(Kind::Stream, fields, value) };
    Some(Resolved::simple(schema.clone(), Explode { index, schema }))
}

#[derive(Clone, Debug)]
struct Explode {
    index: usize,
    schema: Schema,
}

impl Definition for Explode {
    fn build(&self, _: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(RunningExplode { definition: self.clone() }))
    }
}

struct RunningExplode {
    definition: Explode,
}

impl Operator for RunningExplode {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let Explode { index, schema } = &self.definition;
        let Some(input) = inputs.first() else { return Ok(Vec::new()) };
        let lists =
            input.rows.columns().get(*index).and_then(|array| array.as_any().downcast_ref::<ListArray>());
        let lists =
            lists.ok_or_else(|| OperatorError::Internal("explode: the column holds no list".to_owned()))?;
        let mut rows = Vec::new();
        let mut elements: Vec<u32> = Vec::new();
        for (row, range) in lists.value_offsets().windows(2).enumerate() {
            if input.is_null_value(row) {
                context.count(DropReason::NullValue, 1);
            } else if let ([start, end], true) = (range, lists.is_valid(row)) {
                rows.extend(std::iter::repeat_n(row, (end - start) as usize));
                elements.extend(*start as u32..*end as u32);
            }
        }
        let repeated = input.take(&rows)?;
        let mut arrays = repeated.rows.columns().to_vec();
        let elements =
            arrow::compute::take(lists.values(), &arrow::array::UInt32Array::from(elements), None)?;
        if let Some(array) = arrays.get_mut(*index) {
            *array = elements;
        }
        Ok(vec![Batch { null_value: None, ..repeated.with_columns(&schema.columns, arrays)? }])
    }
}
