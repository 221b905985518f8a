//! `to-stream`: the changes of a table as events.

use arrow::array::{Array, BooleanArray, new_null_array};
use arrow::buffer::BooleanBuffer;

use crate::batch::{Batch, RowKind};
use crate::config::Field;
use crate::operator::{
    Arity, Context, Definition, Operator, OperatorError, OperatorSpec, Resolved, Step, Wanted,
};
use crate::schema::{Kind, Schema};

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "to-stream",
    summary: "The changes of a table as a stream: the new row of each change; a delete becomes a null value.",
    arity: Arity::One,
    keyed: false,
    fields: &[] as &[Field],
    example: r#"[steps.changes]
op   = "to-stream"
from = "totals""#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    step.require_kind(Kind::Table, "it is a stream already: leave the step out")?;
    let schema = Schema { kind: Kind::Stream, ..step.input().schema.clone() };
    Some(Resolved::simple(schema.clone(), ToStream { schema }))
}

#[derive(Clone, Debug)]
struct ToStream {
    schema: Schema,
}

impl Definition for ToStream {
    fn needs_before(&self, _: &Wanted) -> bool {
        false
    }

    fn build(&self, _: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(RunningToStream { key: self.schema.key }))
    }
}

struct RunningToStream {
    key: usize,
}

impl Operator for RunningToStream {
    fn process(&mut self, inputs: &[Batch], _: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let Some(input) = inputs.first() else { return Ok(Vec::new()) };
        let is_new: BooleanArray =
            (0..input.len()).map(|row| Some(input.kind(row) != RowKind::UpdateBefore)).collect();
        let changes = input.filter(&is_new)?;
        let deletes: BooleanBuffer =
            (0..changes.len()).map(|row| changes.kind(row) == RowKind::Delete).collect();
        if deletes.count_set_bits() == 0 {
            return Ok(vec![Batch { kind: None, ..changes }]);
        }
        let mask = BooleanArray::new(deletes.clone(), None);
        let mut arrays = changes.rows.columns().to_vec();
        for array in arrays.iter_mut().skip(self.key) {
            *array = if mask.true_count() == mask.len() {
                new_null_array(array.data_type(), array.len())
            } else {
                arrow::compute::nullif(array, &mask)?
            };
        }
        let columns = changes.rows.schema();
        Ok(vec![Batch { kind: None, null_value: Some(deletes), ..changes.with_columns(&columns, arrays)? }])
    }
}
