//! The rows of two tables that are there under the same key: a change of either changes the result.

use arrow::array::{Array, ArrayRef};
use arrow::compute::interleave;

use super::{Join, Marks, Side, keys, values};
use crate::batch::{Batch, RowKind};
use crate::filter::table_changes;
use crate::key_index::KeyIndex;
use crate::operator::{Context, Operator, OperatorError, Wanted};
use crate::table_rows::{RowAt, Stored, TableRows, gather};

pub(super) struct TableTable {
    join: Join,
    tables: [TableRows; 2],
    /// Whether consumers want to know what a change replaces.
    before: bool,
}

/// What both tables have under a key.
type Both = [Option<RowAt>; 2];

/// A change of the result.
struct Change {
    /// The input and its row that caused it.
    cause: (usize, usize),
    kind: RowKind,
    /// What it is made of.
    of: Both,
    time: i64,
}

impl TableTable {
    pub fn new(join: Join, wanted: Wanted) -> Result<Self, OperatorError> {
        let tables = [TableRows::new(&join.from)?, TableRows::new(&join.with)?];
        Ok(TableTable { join, tables, before: wanted.before })
    }

    #[expect(clippy::indexing_slicing, reason = "there are two sides")]
    fn process_rows(&self, inputs: [&Batch; 2], context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let [from, with] = &self.tables;
        let row_keys = [from.keys(inputs[0])?, with.keys(inputs[1])?];
        let mut index = KeyIndex::default();
        // Changes of both in their order; of equal ones that of `from` first.
        let mut causes: Vec<(u32, usize, usize, usize)> = Vec::new();
        for (side, (input, keys)) in inputs.iter().zip(&row_keys).enumerate() {
            for (row, seq) in input.seq.iter().enumerate() {
                if input.kind(row) != RowKind::UpdateBefore {
                    causes.push((*seq, side, row, index.number_of(keys.get(row))));
                }
            }
        }
        causes.sort_unstable();
        let stored = [
            from.load(context.state, context.store(0), &index, true)?,
            with.load(context.state, context.store(1), &index, true)?,
        ];
        let mut current: Vec<Both> =
            stored[0].found.iter().zip(&stored[1].found).map(|(from, with)| [*from, *with]).collect();
        // Whether the row that a change replaces had failed decides between an update, an insert, a delete and nothing.
        let before = self.before || !self.join.cannot_fail();
        let mut changes = Vec::with_capacity(causes.len());
        for (_, side, row, number) in causes {
            let Some(current) = current.get_mut(number) else { continue };
            let old = *current;
            let (input, other) = (inputs[side], 1 - side);
            current[side] = (input.kind(row) != RowKind::Delete).then_some(RowAt::Given(row));
            let has = |of: &Both| self.join.kind.has_result(of[0].is_some(), of[1].is_some());
            let time_of =
                |side: usize, row: Option<RowAt>| row.map(|row| stored[side].time(inputs[side], row));
            let at = input.time.get(row).copied().unwrap_or_default();
            let time = time_of(other, current[other]).unwrap_or(i64::MIN).max(at);
            let mut push = |kind, of, time| changes.push(Change { cause: (side, row), kind, of, time });
            match (has(&old), has(current)) {
                (false, false) => {}
                (false, true) => push(RowKind::Insert, *current, time),
                (true, false) => push(RowKind::Delete, if before { old } else { [None; 2] }, time),
                (true, true) => {
                    if before {
                        let was = time_of(0, old[0]).max(time_of(1, old[1])).unwrap_or(time);
                        push(RowKind::UpdateBefore, old, was);
                    }
                    push(RowKind::UpdateAfter, *current, time);
                }
            }
        }
        self.batch(inputs, &stored, &changes, before, context)
    }

    #[expect(clippy::indexing_slicing, reason = "there are two sides")]
    fn batch(
        &self,
        inputs: [&Batch; 2],
        stored: &[Stored; 2],
        changes: &[Change],
        before: bool,
        context: &mut Context<'_>,
    ) -> Result<Batch, OperatorError> {
        let schemas = [&self.join.from, &self.join.with];
        let places: Vec<(usize, usize)> = changes.iter().map(|change| change.cause).collect();
        let [of_from, of_with] = [0, 1].map(|side| keys(inputs[side], schemas[side]));
        let key: Vec<ArrayRef> = of_from
            .iter()
            .zip(&of_with)
            .map(|(from, with)| interleave(&[from as &dyn Array, with], &places))
            .collect::<Result<_, _>>()?;
        let side = |side: usize| -> Result<Side, OperatorError> {
            let rows: Vec<Option<RowAt>> = changes.iter().map(|change| change.of[side]).collect();
            let gathered = gather(values(inputs[side], schemas[side]), stored[side].rows.columns(), &rows)?;
            Ok(Side::new(gathered, rows.iter().map(Option::is_some)))
        };
        let seq_of = |change: &Change| inputs[change.cause.0].seq.get(change.cause.1).copied();
        let marks = Marks {
            time: changes.iter().map(|change| change.time).collect(),
            seq: changes.iter().filter_map(seq_of).collect(),
            kind: Some(changes.iter().map(|change| change.kind).collect()),
        };
        let (results, errors) = self.join.results(key, [side(0)?, side(1)?], marks)?;
        let keep = context.without_errors(&results, &errors);
        if before == self.before && keep.is_none() {
            return Ok(results);
        }
        table_changes(&results, keep.as_ref(), self.before)
    }
}

impl Operator for TableTable {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let [from, with] = inputs else { return Ok(Vec::new()) };
        let results = self.process_rows([from, with], context)?;
        for (side, (changes, table)) in inputs.iter().zip(&self.tables).enumerate() {
            if context.owns(side) && !changes.is_empty() {
                let store = context.store(side);
                table.write_changes(context.state, store, changes)?;
            }
        }
        Ok(vec![results])
    }
}
