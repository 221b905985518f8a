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
