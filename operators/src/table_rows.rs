//! The newest rows of a table, in a store: `key` → event time and value columns.
//!
//! Whoever makes a table of records keeps them ([`Definition::keeps_rows`](crate::operator::Definition::keeps_rows)), and who looks
//! rows up reads them there. Where nobody keeps the rows of an input, the one who looks them up does.

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::error::ArrowError;
use millstream_state::value::{ValueReader, ValueWriter};
use millstream_state::{StoreId, TaskState};

use crate::batch::{Batch, RowKind};
use crate::columns::UnsupportedType;
use crate::key::{KeyEncoder, Keys};
use crate::key_index::KeyIndex;
use crate::operator::{OperatorError, RowsOf, StoreDeclaration, StoreKind};
use crate::row::RowCodec;
use crate::schema::{Schema, described};

const LAYOUT: u8 = 1;

/// The store that holds the rows of `table`.
pub(crate) fn declaration(table: &Schema, suffix: &'static str, rows_of: Option<RowsOf>) -> StoreDeclaration {
    let mut parts = vec!["table 1".to_owned()];
    parts.extend(table.key_types());
    parts.extend(described(table.value_fields()));
    StoreDeclaration { rows_of, ..StoreDeclaration::new(suffix, StoreKind::KeyValue, &parts) }
}

/// Reads and writes the rows of a table.
pub(crate) struct TableRows {
    keys: KeyEncoder,
    key: usize,
    codec: RowCodec,
}

/// Where the value columns of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowAt {
    /// In a batch of the epoch.
    Given(usize),
    /// Among those that the store had before the epoch.
    Stored(usize),
}

/// The rows of some keys before the epoch.
pub(crate) struct Stored {
    /// The value columns.
    pub rows: RecordBatch,
    /// Event times of the rows.
    pub times: Vec<i64>,
    /// Per key its row, if it has one.
    pub found: Vec<Option<RowAt>>,
}

impl TableRows {
    pub fn new(table: &Schema) -> Result<Self, UnsupportedType> {
        Ok(TableRows {
            keys: KeyEncoder::of(table)?,
            key: table.key,
            codec: RowCodec::new(&table.value_columns())?,
        })
    }

    /// The keys of a batch of the table, or of one with the same key columns.
    pub fn keys(&self, batch: &Batch) -> Result<Keys, UnsupportedType> {
        self.keys.encode_all(batch.rows.columns(), batch.len())
    }

    /// Reads the rows that keys had before the epoch; what it has written does not count. Without `values` only whether they are
    /// there, and their times.
    pub fn load(
        &self,
        state: &TaskState,
        store: StoreId,
        keys: &KeyIndex,
        values: bool,
    ) -> Result<Stored, OperatorError> {
        let keys: Vec<&[u8]> = keys.iter().collect();
        let mut decoder = self.codec.decoder()?;
        let mut times = Vec::new();
        let mut found = Vec::with_capacity(keys.len());
        for bytes in state.multi_get_before_epoch(store, &keys)? {
            let Some(bytes) = bytes else {
                found.push(None);
                continue;
            };
            found.push(Some(RowAt::Stored(times.len())));
            let mut reader = ValueReader::new(&bytes, LAYOUT)?;
            times.push(reader.get_i64()?);
            if values {
                let row = reader.get_bytes()?;
                decoder.push(row)?;
            }
        }
        Ok(Stored { rows: decoder.finish()?, times, found })
    }

    /// Writes rows of `batch`: per key the row that it has now, `None` if it has none.
    pub fn write<'k>(
        &self,
        state: &mut TaskState,
        store: StoreId,
        batch: &Batch,
        newest: impl Iterator<Item = (&'k [u8], Option<usize>)>,
    ) -> Result<(), OperatorError> {
        let encoder = self.codec.encoder(batch.rows.columns().get(self.key..).unwrap_or_default())?;
        let (mut bytes, mut row_bytes) = (Vec::new(), Vec::new());
        for (key, row) in newest {
            let Some(row) = row else {
                state.delete(store, key);
                continue;
            };
            row_bytes.clear();
            encoder.encode(row, &mut row_bytes);
            let time = batch.time.get(row).copied().unwrap_or_default();
            ValueWriter::new(&mut bytes, LAYOUT).put_i64(time).put_bytes(&row_bytes);
            state.put(store, key, &bytes);
        }
        Ok(())
    }

    /// Writes what the changes of a table leave: per key the last of them.
    pub fn write_changes(
        &self,
        state: &mut TaskState,
        store: StoreId,
        changes: &Batch,
    ) -> Result<(), OperatorError> {
        let keys = self.keys(changes)?;
        let mut index = KeyIndex::default();
        let mut newest = Vec::new();
        for row in (0..changes.len()).filter(|row| changes.kind(*row) != RowKind::UpdateBefore) {
            let number = index.number_of(keys.get(row));
            let now = Some(row).filter(|row| changes.kind(*row) != RowKind::Delete);
            match newest.get_mut(number) {
                Some(known) => *known = now,
                None => newest.push(now),
            }
        }
        self.write(state, store, changes, index.iter().zip(newest))
    }
}

impl Stored {
    /// The event time of a row of `given` or of one of these.
    pub fn time(&self, given: &Batch, row: RowAt) -> i64 {
        let time = match row {
            RowAt::Given(row) => given.time.get(row),
            RowAt::Stored(row) => self.times.get(row),
        };
        time.copied().unwrap_or_default()
    }
}

/// The rows of some keys while an epoch goes on: those before it, then what the changes of the table leave.
pub(crate) struct Following<'a> {
    index: &'a KeyIndex,
    changes: &'a Batch,
    keys: Keys,
    /// Changes before this one have been seen.
    next: usize,
    rows: Vec<Option<RowAt>>,
}

impl<'a> Following<'a> {
    /// Of the keys of `index`, which had the rows `before`; the keys of `changes` are `keys`.
    pub fn new(index: &'a KeyIndex, before: &Stored, changes: &'a Batch, keys: Keys) -> Self {
        Following { index, changes, keys, next: 0, rows: before.found.clone() }
    }

    /// Sees the changes up to this sequence number: at the same time the table's row comes first.
    pub fn go_to(&mut self, seq: u32) {
        while self.changes.seq.get(self.next).is_some_and(|next| *next <= seq) {
            let kind = self.changes.kind(self.next);
            if kind != RowKind::UpdateBefore
                && let Some(number) = self.index.find(self.keys.get(self.next))
                && let Some(row) = self.rows.get_mut(number)
            {
                *row = (kind != RowKind::Delete).then_some(RowAt::Given(self.next));
            }
            self.next += 1;
        }
    }

    /// The row of the key with this number.
    pub fn row(&self, number: usize) -> Option<RowAt> {
        self.rows.get(number).copied().flatten()
    }
}

/// Columns of rows that are in `given` or in `stored`; where there is no row they are null.
pub(crate) fn gather(
    given: &[ArrayRef],
    stored: &[ArrayRef],
    rows: &[Option<RowAt>],
) -> Result<Vec<ArrayRef>, ArrowError> {
    let all_given: Option<Vec<u32>> = rows
        .iter()
        .map(|row| match row {
            Some(RowAt::Given(row)) => Some(*row as u32),
            _ => None,
        })
        .collect();
    if let Some(rows) = all_given {
        let rows = UInt32Array::from(rows);
        return given.iter().map(|column| take(column, &rows, None)).collect();
    }
    let places: Vec<(usize, usize)> = rows
        .iter()
        .map(|row| match row {
            Some(RowAt::Given(row)) => (0, *row),
            Some(RowAt::Stored(row)) => (1, *row),
            None => (2, 0),
        })
        .collect();
    let columns = given.iter().zip(stored);
    columns
        .map(|(given, stored)| {
            let none = new_null_array(given.data_type(), 1);
            interleave(&[given as &dyn Array, stored, &none], &places)
        })
        .collect()
}
