//! Rows that wait. Changes of a table become few meanwhile: of each key the first row before and the last one after.

use arrow::error::ArrowError;

use crate::batch::{Batch, RowKind};
use crate::columns::UnsupportedType;
use crate::key::KeyEncoder;
use crate::key_index::KeyIndex;
use crate::schema::{Kind, Schema};

/// How many changes wait before they are folded the first time.
const FEW: usize = 1 << 14;

/// Rows that wait.
pub struct Waiting {
    schema: Schema,
    keys: KeyEncoder,
    batches: Vec<Batch>,
    rows: usize,
    /// How many were left when they were folded last.
    left: usize,
    bytes: usize,
}

/// What the changes of a key come to: positions of rows.
struct Change {
    /// The row that the key had; `None`: it had none, or it is not known.
    before: Option<usize>,
    was_there: bool,
    last: usize,
}

impl Waiting {
    /// None, with these columns.
    pub fn new(schema: &Schema) -> Result<Self, UnsupportedType> {
        let keys = KeyEncoder::of(schema)?;
        Ok(Waiting { schema: schema.clone(), keys, batches: Vec::new(), rows: 0, left: 0, bytes: 0 })
    }

    /// Adds rows, which come after those that wait already.
    pub fn push(&mut self, batch: Batch) -> Result<(), ArrowError> {
        self.rows += batch.len();
        self.bytes += batch.rows.get_array_memory_size();
        self.batches.push(batch);
        if self.schema.kind == Kind::Table && self.rows > 2 * self.left + FEW {
            let left = self.take()?;
            (self.rows, self.left) = (left.len(), left.len());
            self.bytes = left.rows.get_array_memory_size();
            self.batches.push(left);
        }
        Ok(())
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// What they occupy in memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What they come to: rows of a stream in their order, changes of a table in the order in which their keys changed first. A row
    /// that came and went meanwhile is a `delete`: it may have been looked up.
    pub fn take(&mut self) -> Result<Batch, ArrowError> {
        (self.rows, self.left, self.bytes) = (0, 0, 0);
        // They have the order in which they came.
        let batches: Vec<Batch> =
            self.batches.drain(..).map(|batch| Batch { seq: vec![0; batch.len()], ..batch }).collect();
        let all = Batch::interleave(&self.schema.columns, &batches)?;
        match self.schema.kind {
            Kind::Stream => Ok(all),
            Kind::Table => self.folded(&all),
        }
    }

    fn folded(&self, all: &Batch) -> Result<Batch, ArrowError> {
        let keys = self.keys.encode_all(all.rows.columns(), all.len())?;
        let mut index = KeyIndex::default();
        let mut changes: Vec<Change> = Vec::new();
        for row in 0..all.len() {
            let kind = all.kind(row);
            match changes.get_mut(index.number_of(keys.get(row))) {
                Some(change) => change.last = row,
                None => changes.push(Change {
                    before: matches!(kind, RowKind::UpdateBefore | RowKind::Delete).then_some(row),
                    was_there: kind != RowKind::Insert,
                    last: row,
                }),
            }
        }
        let (mut rows, mut kinds, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for Change { before, was_there, last } in changes {
            let time = all.time.get(last).copied().unwrap_or_default();
            let mut push = |row, kind| {
                rows.push(row);
                kinds.push(kind);
                times.push(time);
            };
            if all.kind(last) == RowKind::Delete {
                push(before.unwrap_or(last), RowKind::Delete);
            } else {
                if let Some(before) = before {
                    push(before, RowKind::UpdateBefore);
                }
                push(last, if was_there { RowKind::UpdateAfter } else { RowKind::Insert });
            }
        }
        Ok(Batch { kind: Some(kinds), time: times, ..all.take(&rows)? })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Int64Type};

    use super::*;
    use crate::batch::record_batch;
    use crate::schema::column;

    fn table() -> Schema {
        Schema::new(Kind::Table, vec![column("k", DataType::Utf8)], vec![column("n", DataType::Int64)])
    }

    fn changes(of: &[(&str, i64, RowKind)]) -> Batch {
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(of.iter().map(|(key, ..)| key)));
        let numbers: ArrayRef =
            Arc::new(Int64Array::from_iter_values(of.iter().map(|(_, number, _)| *number)));
        Batch {
            rows: record_batch(&table().columns, vec![keys, numbers], of.len()).unwrap(),
            time: of.iter().map(|(_, number, _)| 10 * number).collect(),
            seq: (0..of.len() as u32).collect(),
            kind: Some(of.iter().map(|(.., kind)| *kind).collect()),
            null_value: None,
        }
    }

    fn shown(batch: &Batch) -> Vec<(String, i64, RowKind, i64)> {
        let (keys, numbers) = (batch.rows.column(0), batch.rows.column(1));
        let row = |row: usize| {
            let key = keys.as_string::<i32>().value(row).to_owned();
            (key, numbers.as_primitive::<Int64Type>().value(row), batch.kind(row), batch.time[row])
        };
        (0..batch.len()).map(row).collect()
    }

    #[test]
    fn of_a_key_the_first_row_before_and_the_last_one_after_are_left() {
        use RowKind::{Delete, Insert, UpdateAfter, UpdateBefore};
        let mut waiting = Waiting::new(&table()).unwrap();
        assert!(waiting.is_empty());
        let update = |key, from, to| [(key, from, UpdateBefore), (key, to, UpdateAfter)];
        waiting.push(changes(&[update("a", 1, 2), update("b", 1, 5)].concat())).unwrap();
        waiting.push(changes(&[("c", 3, Insert), ("d", 4, Delete), ("e", 1, Insert)])).unwrap();
        waiting.push(changes(&update("a", 2, 3))).unwrap();
        waiting.push(changes(&[("b", 5, Delete), ("c", 3, Delete), ("d", 6, Insert)])).unwrap();
        waiting.push(changes(&update("e", 1, 7))).unwrap();
        let row = |key: &str, number, kind, time| (key.to_owned(), number, kind, time);
        let expected = [
            row("a", 1, UpdateBefore, 30),
            row("a", 3, UpdateAfter, 30),
            row("b", 1, Delete, 50),
            row("c", 3, Delete, 30),
            row("d", 4, UpdateBefore, 60),
            row("d", 6, UpdateAfter, 60),
            row("e", 7, Insert, 70),
        ];
        assert_eq!(shown(&waiting.take().unwrap()), expected);
        assert!(waiting.is_empty() && waiting.bytes() == 0);
    }

    #[test]
    fn so_many_changes_of_few_keys_do_not_all_wait() {
        let mut waiting = Waiting::new(&table()).unwrap();
        let some = changes(&[("a", 1, RowKind::UpdateAfter), ("b", 2, RowKind::UpdateAfter)]);
        for _ in 0..2 * FEW {
            waiting.push(some.clone()).unwrap();
            assert!(waiting.rows <= 2 * FEW);
        }
        let left = waiting.take().unwrap();
        assert_eq!(left.rows, some.rows);
    }
}
