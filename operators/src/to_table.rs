//! `to-table`: the newest row of each key. It is also what makes a table of the records of a topic.
//!
//! The store holds the rows as [`crate::table_rows`] says. A table with history has a second one for [`crate::versions`]; its newest
//! row is the one with the largest event time, and those that look rows up as of a time get each version as it comes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;

use crate::batch::{Batch, RowKind, record_batch};
use crate::config::{Field, format_duration};
use crate::key::Keys;
use crate::key_index::KeyIndex;
use crate::operator::{
    Arity, Context, Definition, DropReason, Operator, OperatorError, OperatorSpec, Resolved, Step,
    StoreDeclaration, Wanted,
};
use crate::schema::{Kind, Schema};
use crate::table_rows::{RowAt, Stored, TableRows, declaration, gather};
use crate::versions::{self, Versions};

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
    let definition = ToTable::new(&step.input().schema, None);
    Some(Resolved::simple(definition.schema.clone(), definition))
}

/// A table of the newest rows of a stream.
#[derive(Clone, Debug)]
pub struct ToTable {
    schema: Schema,
    history: Option<i64>,
}

impl ToTable {
    /// Of a stream with these columns, with so many milliseconds of history.
    pub fn new(stream: &Schema, history: Option<i64>) -> Self {
        ToTable { schema: Schema { kind: Kind::Table, ..stream.clone() }, history }
    }

    /// How many milliseconds of history it keeps.
    pub fn history(&self) -> Option<i64> {
        self.history
    }

    /// The columns of the table.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    pub(crate) fn running(&self, wanted: &Wanted) -> Result<RunningToTable, OperatorError> {
        Ok(RunningToTable {
            rows: TableRows::new(&self.schema)?,
            versions: match self.history {
                Some(history) => Some(Versions::new(&self.schema, history)?),
                None => None,
            },
            schema: self.schema.clone(),
            wanted: *wanted,
        })
    }
}

impl Definition for ToTable {
    fn stores(&self) -> Vec<StoreDeclaration> {
        let versions = self.history.map(|_| versions::declaration(&self.schema, "-history", None));
        [declaration(&self.schema, "", None)].into_iter().chain(versions).collect()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        self.history.map(|history| ("history", format_duration(history))).into_iter().collect()
    }

    fn keeps_rows(&self) -> bool {
        true
    }

    fn needs_before(&self, _: &Wanted) -> bool {
        false
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(self.running(wanted)?))
    }
}

pub(crate) struct RunningToTable {
    schema: Schema,
    rows: TableRows,
    /// With history.
    versions: Option<Versions>,
    wanted: Wanted,
}

/// A change of a key.
struct Change {
    /// The row of the input that caused it.
    cause: usize,
    before: Option<RowAt>,
    after: Option<RowAt>,
}

/// What a table with history takes of an epoch.
#[derive(Default)]
struct Accepted {
    /// All that are not too old, each with the largest event time by then.
    rows: Vec<(usize, i64)>,
    /// Those of them that are the newest of their keys when they come.
    is_newest: HashSet<usize>,
}

impl RunningToTable {
    fn process_rows(&self, input: &Batch, context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let keys = self.rows.keys(input)?;
        let mut index = KeyIndex::default();
        let number_of = |row| (!keys.is_null(row)).then(|| index.number_of(keys.get(row)));
        let numbers: Vec<Option<usize>> = (0..input.len()).map(number_of).collect();
        let null_keys = numbers.iter().filter(|number| number.is_none()).count();
        context.count(DropReason::NullKey, null_keys as u64);
        let store = context.store(0);
        let stored = self.rows.load(context.state, store, &index, self.wanted.before)?;

        let accepted = match &self.versions {
            Some(versions) => Some(self.accept(versions, input, (&keys, &numbers), context)?),
            None => None,
        };

        let mut current = stored.found.clone();
        // The newest row of each key, and all changes in their order.
        let mut newest = vec![None; current.len()];
        let mut changes = Vec::with_capacity(input.len());
        for (row, number) in numbers.iter().enumerate() {
            let Some(number) = number else { continue };
            if accepted.as_ref().is_some_and(|accepted| !accepted.is_newest.contains(&row)) {
                continue;
            }
            let after = (!input.is_null_value(row)).then_some(RowAt::Given(row));
            if let (Some(current), Some(newest)) = (current.get_mut(*number), newest.get_mut(*number)) {
                let before = std::mem::replace(current, after);
                changes.push(Change { cause: row, before, after });
                *newest = Some(row);
            }
        }
        if self.wanted.fold {
            let folded = newest.iter().zip(stored.found.iter().zip(&current));
            let folded = folded.filter_map(|(cause, (before, after))| {
                Some(Change { cause: (*cause)?, before: *before, after: *after })
            });
            changes = folded.collect();
            changes.sort_unstable_by_key(|change| change.cause);
        }
        // What was not there and is not there needs no write.
        let written = index.iter().zip(stored.found.iter().zip(&current));
        let written = written.filter(|(_, (before, after))| before != after);
        let written = written.map(|(key, (_, after))| match after {
            Some(RowAt::Given(row)) => (key, Some(*row)),
            _ => (key, None),
        });
        self.rows.write(context.state, store, input, written)?;
        let mut outputs = vec![self.batch(input, &stored, &changes)?];
        if let Some(accepted) = accepted {
            let rows: Vec<usize> = accepted.rows.iter().map(|(row, _)| *row).collect();
            outputs.push(input.take(&rows)?);
        }
        Ok(outputs)
    }

    /// Writes the versions of rows that are not too old.
    fn accept(
        &self,
        versions: &Versions,
        input: &Batch,
        (keys, numbers): (&Keys, &[Option<usize>]),
        context: &mut Context<'_>,
    ) -> Result<Accepted, OperatorError> {
        let store = context.store(1);
        let before = versions.observed_before_epoch(context.state, store)?;
        let mut observed = before;
        let mut accepted = Accepted::default();
        let mut newest: HashMap<usize, Option<i64>> = HashMap::new();
        for (row, (number, &time)) in numbers.iter().zip(&input.time).enumerate() {
            let Some(number) = number else { continue };
            observed = observed.max(Some(time));
            if time < versions.over(observed) {
                context.count(DropReason::Late, 1);
                continue;
            }
            let newest = match newest.entry(*number) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    unknown.insert(versions.newest(context.state, store, keys.get(row))?)
                }
            };
            if newest.is_none_or(|newest| time >= newest) {
                *newest = Some(time);
                accepted.is_newest.insert(row);
            }
            accepted.rows.push((row, observed.unwrap_or(time)));
        }
        versions.write(context.state, store, input, keys, &accepted.rows)?;
        if let Some(observed) = observed.filter(|_| observed != before) {
            versions.observe(context.state, store, observed);
        }
        Ok(accepted)
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
            Some(input) if !input.is_empty() => self.process_rows(input, context),
            _ => Ok(vec![Batch::empty(&self.schema.columns); 1 + usize::from(self.versions.is_some())]),
        }
    }
}
