//! `filter`: keeps the rows for which a condition is true.

use arrow::array::cast::AsArray;
use arrow::array::{Array, BooleanArray};

use crate::batch::{Batch, RowKind};
use crate::config::{Field, FieldKind};
use crate::operator::{
    Arity, Context, Definition, Operator, OperatorError, OperatorSpec, Resolved, Step, Wanted,
};
use crate::schema::Kind;
use crate::sql::Expression;

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "filter",
    summary: "Keeps the rows for which a condition is true. A table row that stops matching becomes a delete.",
    arity: Arity::One,
    keyed: false,
    fields: &[Field {
        name: "where",
        kind: FieldKind::Sql,
        required: true,
        doc: "The condition. A row for which it is false or null is left out.",
    }],
    example: r#"[steps.valid]
op    = "filter"
from  = "payments"
where = "amount > 0""#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    let text = step.fields.require_text("where", "add a condition: where = \"amount > 0\"")?;
    let condition = step.condition(&text)?;
    let schema = step.input().schema.clone();
    Some(Resolved::simple(schema.clone(), Filter { condition, kind: schema.kind }))
}

#[derive(Clone, Debug)]
struct Filter {
    condition: Expression,
    kind: Kind,
}

impl Definition for Filter {
    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![("where", self.condition.text().to_owned())]
    }

    fn folds_through(&self) -> bool {
        self.condition.cannot_fail()
    }

    // Whether the replaced row had matched decides between an update, an insert, a delete and nothing.
    fn needs_before(&self, _: &Wanted) -> bool {
        self.kind == Kind::Table
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(RunningFilter { definition: self.clone(), before: wanted.before }))
    }
}

struct RunningFilter {
    definition: Filter,
    before: bool,
}

impl Operator for RunningFilter {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let Some(input) = inputs.first() else { return Ok(Vec::new()) };
        let (matches, _) = matching(&self.definition.condition, input, context);
        let output = match self.definition.kind {
            Kind::Stream => input.filter(&matches)?,
            Kind::Table => table_changes(input, Some(&matches), self.before)?,
        };
        Ok(vec![output])
    }
}

/// The rows for which `condition` is true, and the rows on which it fails: these are reported and do not match.
pub(crate) fn matching(
    condition: &Expression,
    batch: &Batch,
    context: &mut Context<'_>,
) -> (BooleanArray, Vec<usize>) {
    if batch.is_empty() {
        return (BooleanArray::from(Vec::<bool>::new()), Vec::new());
    }
    let evaluated = condition.evaluate(&batch.rows);
    context.without_errors(batch, &evaluated.errors);
    let values = evaluated.values.as_boolean();
    // A failing row is null here, and null is not true.
    let matches =
        if values.null_count() == 0 { values.clone() } else { arrow::compute::prep_null_mask_filter(values) };
    (matches, evaluated.errors.into_iter().map(|(row, _, _)| row).collect())
}

/// What the changes of a table mean where only the rows that `exists` names are there (`None`: all): a row that stops being
/// there is a delete, one that never was there says nothing. Replaced rows are told only with `before`.
pub(crate) fn table_changes(
    input: &Batch,
    exists: Option<&BooleanArray>,
    before: bool,
) -> Result<Batch, OperatorError> {
    let exists = |row: usize| exists.is_none_or(|exists| exists.value(row));
    let mut rows = Vec::new();
    let mut kinds = Vec::new();
    let mut times = Vec::new();
    let mut add = |row: usize, kind: RowKind, time_of: usize| {
        rows.push(row);
        kinds.push(kind);
        times.push(input.time.get(time_of).copied().unwrap_or_default());
    };
    let mut replaced: Option<usize> = None;
    for row in 0..input.len() {
        let is_there = exists(row);
        match input.kind(row) {
            RowKind::UpdateBefore => replaced = Some(row),
            RowKind::Insert if is_there => add(row, RowKind::Insert, row),
            RowKind::Delete if is_there => add(row, RowKind::Delete, row),
            RowKind::Insert | RowKind::Delete => {}
            RowKind::UpdateAfter => match (replaced.take().filter(|old| exists(*old)), is_there) {
                (Some(old), true) => {
                    if before {
                        add(old, RowKind::UpdateBefore, old);
                    }
                    add(row, RowKind::UpdateAfter, row);
                }
                (Some(old), false) => add(old, RowKind::Delete, row),
                (None, true) => add(row, RowKind::Insert, row),
                (None, false) => {}
            },
        }
    }
    let taken = input.take(&rows)?;
    // A delete stands where the row that caused it stood.
    let seq = taken.seq.clone();
    Ok(Batch { kind: Some(kinds), time: times, seq, ..taken })
}

/// The rows of `batch` that `keep` names; of a table, what its changes mean without the others.
pub(crate) fn kept(batch: Batch, keep: Option<BooleanArray>) -> Result<Batch, OperatorError> {
    match keep {
        None => Ok(batch),
        Some(keep) if batch.kind.is_none() => Ok(batch.filter(&keep)?),
        Some(keep) => table_changes(&batch, Some(&keep), true),
    }
}
