//! `to-table`: the newest row of each key. It is also what makes a table of the records of a topic.
//!
//! The store holds the rows as [`crate::table_rows`] says.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;

use crate::batch::{Batch, RowKind, record_batch};
use crate::config::Field;
use crate::key_index::KeyIndex;
use crate::operator::{
    Arity, Context, Definition, DropReason, Operator, OperatorError, OperatorSpec, Resolved, Step,
    StoreDeclaration, Wanted,
};
use crate::schema::{Kind, Schema};
use crate::table_rows::{RowAt, Stored, TableRows, declaration, gather};

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "to-table",
    summary: "The newest row of each key as a table; a null value deletes.",
    arity: Arity::One,
    keyed: true,
    fields: &[] as &[Field],
    example: r#"[steps.newest]
op   = "to-table"
from = "payments""#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    step.require_kind(Kind::Stream, "it is a table already: leave the step out")?;
    step.require_key()?;
    let definition = ToTable::new(&step.input().schema);
    Some(Resolved::simple(definition.schema.clone(), definition))
}

/// A table of the newest rows of a stream.
#[derive(Clone, Debug)]
pub struct ToTable {
    schema: Schema,
}

impl ToTable {
    /// Of a stream with these columns.
    pub fn new(stream: &Schema) -> Self {
        ToTable { schema: Schema { kind: Kind::Table, ..stream.clone() } }
    }

    /// The columns of the table.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }
}

impl Definition for ToTable {
    fn stores(&self) -> Vec<StoreDeclaration> {
        vec![declaration(&self.schema, "", None)]
    }

    fn keeps_rows(&self) -> bool {
        true
    }

    fn needs_before(&self, _: &Wanted) -> bool {
        false
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(RunningToTable {
            rows: TableRows::new(&self.schema)?,
            schema: self.schema.clone(),
            wanted: *wanted,
        }))
    }
}

struct RunningToTable {
    schema: Schema,
    rows: TableRows,
    wanted: Wanted,
}

/// A change of a key.
struct Change {
    /// The row of the input that caused it.
    cause: usize,
    before: Option<RowAt>,
    after: Option<RowAt>,
}

impl RunningToTable {
    fn process_rows(&self, input: &Batch, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let keys = self.rows.keys(input)?;
        let mut index = KeyIndex::default();
        let number_of = |row| (!keys.is_null(row)).then(|| index.number_of(keys.get(row)));
        let numbers: Vec<Option<usize>> = (0..input.len()).map(number_of).collect();
        let null_keys = numbers.iter().filter(|number| number.is_none()).count();
        context.count(DropReason::NullKey, null_keys as u64);
        let store = context.store(0);
        let stored = self.rows.load(context.state, store, &index, self.wanted.before)?;

        let mut current = stored.found.clone();
        // The newest row of each key, and all changes in their order.
        let mut newest = vec![0; current.len()];
        let mut changes = Vec::with_capacity(input.len());
        for (row, number) in numbers.iter().enumerate() {
            let Some(number) = number else { continue };
            let after = (!input.is_null_value(row)).then_some(RowAt::Given(row));
            if let (Some(current), Some(newest)) = (current.get_mut(*number), newest.get_mut(*number)) {
                let before = std::mem::replace(current, after);
                changes.push(Change { cause: row, before, after });
                *newest = row;
            }
        }
        if self.wanted.fold {
            let folded = newest.iter().zip(stored.found.iter().zip(&current));
            let folded = folded.map(|(cause, (before, after))| Change {
                cause: *cause,
                before: *before,
                after: *after,
            });
            changes = folded.collect();
            changes.sort_unstable_by_key(|change| change.cause);
        }
        // What was not there and is not there needs no write.
        let written = index.keys().iter().zip(stored.found.iter().zip(&current));
        let written = written.filter(|(_, (before, after))| before.is_some() || after.is_some());
        let written = written.map(|(key, (_, after))| match after {
            Some(RowAt::Given(row)) => (key, Some(*row)),
            _ => (key, None),
        });
        self.rows.write(context.state, store, input, written)?;
        self.batch(input, &stored, &changes)
    }

    fn batch(&self, input: &Batch, stored: &Stored, changes: &[Change]) -> Result<Batch, OperatorError> {
        let mut rows = Vec::with_capacity(changes.len());
        let mut causes = Vec::with_capacity(changes.len());
        let (mut kinds, mut time, mut seq) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes {
            let mut push = |kind, row: Option<RowAt>, at: i64| {
                rows.push(row);
                causes.push(change.cause as u32);
                kinds.push(kind);
                time.push(at);
                seq.push(input.seq.get(change.cause).copied().unwrap_or_default());
            };
            let now = input.time.get(change.cause).copied().unwrap_or_default();
            match (change.before, change.after) {
                (None, None) => {}
                (None, after) => push(RowKind::Insert, after, now),
                (before, None) => push(RowKind::Delete, before.filter(|_| self.wanted.before), now),
                (Some(before), after) => {
                    if self.wanted.before {
                        push(RowKind::UpdateBefore, Some(before), stored.time(input, before));
                    }
                    push(RowKind::UpdateAfter, after, now);
                }
            }
        }
        let (key, value) = input.rows.columns().split_at(self.schema.key.min(input.rows.num_columns()));
        let causes = UInt32Array::from(causes);
        let key = key.iter().map(|column| take(&crate::key::normalised(column), &causes, None));
        let mut arrays: Vec<ArrayRef> = key.collect::<Result<_, _>>()?;
        arrays.extend(gather(value, stored.rows.columns(), &rows)?);
        Ok(Batch {
            rows: record_batch(&self.schema.columns, arrays, rows.len())?,
            time,
            seq,
            kind: Some(kinds),
            null_value: None,
        })
    }
}

impl Operator for RunningToTable {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        match inputs.first() {
            Some(input) if !input.is_empty() => Ok(vec![self.process_rows(input, context)?]),
            _ => Ok(vec![Batch::empty(&self.schema.columns)]),
        }
    }
}
