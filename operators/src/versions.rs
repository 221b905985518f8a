//! The versions of a table's rows, in a store: `key | time, the newest first` → value columns, or that there is no row from then on.
//!
//! A version is valid from its time until that of the next one. Kept are those that are valid at a moment later than the largest
//! event time of the table less its `history`, and each key's newest. What is older is cleared away when its key gets a new version.
//! Who looks versions up as of a moment of the epoch sees those that were there before it. The largest event time itself stands
//! under the empty key, before all others.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use hashbrown::HashMap;
use millstream_state::value::{ValueReader, ValueWriter};
use millstream_state::{StoreId, TaskState};

use crate::batch::Batch;
use crate::columns::UnsupportedType;
use crate::key::{KeyEncoder, Keys};
use crate::operator::{OperatorError, RowsOf, StoreDeclaration, StoreKind};
use crate::row::{RowCodec, RowDecoder};
use crate::schema::{Schema, described};
use crate::table_rows::RowAt;

const LAYOUT: u8 = 1;
const TIME: usize = 8;
/// Where the largest event time stands.
const OBSERVED: &[u8] = &[];

/// The store that holds the versions of `table`.
pub(crate) fn declaration(table: &Schema, suffix: &'static str, rows_of: Option<RowsOf>) -> StoreDeclaration {
    let mut parts = vec!["versions 1".to_owned()];
    parts.extend(table.key_types());
    parts.extend(described(table.value_fields()));
    StoreDeclaration { rows_of, ..StoreDeclaration::new(suffix, StoreKind::KeyValue, &parts) }
}

/// Reads and writes the versions of a table's rows.
pub(crate) struct Versions {
    keys: KeyEncoder,
    key: usize,
    codec: RowCodec,
    history: i64,
}

/// A version that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub time: i64,
    /// `None`: there is no row.
    pub row: Option<RowAt>,
}

impl Versions {
    /// Of a table with these columns that keeps so many milliseconds of history.
    pub fn new(table: &Schema, history: i64) -> Result<Self, UnsupportedType> {
        Ok(Versions {
            keys: KeyEncoder::of(table)?,
            key: table.key,
            codec: RowCodec::new(&table.value_columns())?,
            history,
        })
    }

    /// The largest event time that the table had before the epoch.
    pub fn observed_before_epoch(
        &self,
        state: &TaskState,
        store: StoreId,
    ) -> Result<Option<i64>, OperatorError> {
        let found = state.multi_get_before_epoch(store, &[OBSERVED])?.into_iter().next().flatten();
        let Some(bytes) = found else { return Ok(None) };
        let time = bytes.first_chunk().map(|time| i64::from_be_bytes(*time));
        Ok(Some(time.ok_or_else(|| OperatorError::Stored("a time is too short".to_owned()))?))
    }

    /// Versions valid before this need not be found where the largest event time is `observed`.
    pub fn over(&self, observed: Option<i64>) -> i64 {
        observed.map_or(i64::MIN, |observed| observed.saturating_sub(self.history))
    }

    /// The time of a key's newest version, as it stands now.
    pub fn newest(
        &self,
        state: &mut TaskState,
        store: StoreId,
        key: &[u8],
    ) -> Result<Option<i64>, OperatorError> {
        let first = state.scan(store, key, &end_of(key))?.next().transpose()?;
        Ok(first.map(|(key, _)| time_of(&key)))
    }

    /// Writes versions: rows of `batch` with their keys, in their order, each with the largest event time by then.
    pub fn write(
        &self,
        state: &mut TaskState,
        store: StoreId,
        batch: &Batch,
        keys: &Keys,
        rows: &[(usize, i64)],
    ) -> Result<(), OperatorError> {
        let encoder = self.codec.encoder(batch.rows.columns().get(self.key..).unwrap_or_default())?;
        let (mut bytes, mut row_bytes) = (Vec::new(), Vec::new());
        for &(row, observed) in rows {
            let time = batch.time.get(row).copied().unwrap_or_default();
            let is_row = !batch.is_null_value(row);
            let mut writer = ValueWriter::new(&mut bytes, LAYOUT);
            writer.put_option(is_row);
            if is_row {
                row_bytes.clear();
                encoder.encode(row, &mut row_bytes);
                writer.put_bytes(&row_bytes);
            }
            state.put(store, &version_key(keys.get(row), time), &bytes);
            self.clear(state, store, keys.get(row), self.over(Some(observed)))?;
        }
        Ok(())
    }

    /// Notes the largest event time.
    pub fn observe(&self, state: &mut TaskState, store: StoreId, time: i64) {
        state.put(store, OBSERVED, &time.to_be_bytes());
    }

    /// Removes the versions of a key that are over: all but the first that is not later than `over`, and that one too if it says
    /// that there is no row.
    fn clear(
        &self,
        state: &mut TaskState,
        store: StoreId,
        key: &[u8],
        over: i64,
    ) -> Result<(), OperatorError> {
        if over < 0 {
            return Ok(());
        }
        let mut gone = Vec::new();
        for (number, entry) in state.scan(store, &version_key(key, over), &end_of(key))?.enumerate() {
            let (version, bytes) = entry?;
            let is_row = number == 0 && {
                let mut reader = ValueReader::new(&bytes, LAYOUT)?;
                reader.get_option()?
            };
            if !is_row {
                gone.push(version.to_vec());
            }
        }
        gone.iter().for_each(|version| state.delete(store, version));
        Ok(())
    }

    /// Prepares to look versions up while the rows of `written`, which the store has all of, come one after the other.
    pub fn lookup<'b>(
        &'b self,
        state: &TaskState,
        store: StoreId,
        written: &'b Batch,
    ) -> Result<Lookup<'b>, OperatorError> {
        let keys = self.keys.encode_all(written.rows.columns(), written.len())?;
        let mut rows: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for row in 0..written.len() {
            rows.entry_ref(keys.get(row)).or_default().push(row);
        }
        let overwritten = state.overwritten_in_epoch(store)?;
        Ok(Lookup { versions: self, written, rows, overwritten, decoder: self.codec.decoder()? })
    }
}

/// Versions as of moments of an epoch: those that the store had before it, and those of rows that have come by then.
pub(crate) struct Lookup<'b> {
    versions: &'b Versions,
    written: &'b Batch,
    /// The rows of `written` by their keys.
    rows: HashMap<Vec<u8>, Vec<usize>>,
    /// What the epoch has written into the store, or cleared away, and what stood there before.
    overwritten: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    decoder: RowDecoder,
}

impl Lookup<'_> {
    /// The row of a key as of `time`, where the rows of `written` up to sequence number `seq` have come and the largest event time is
    /// `observed`.
    pub fn as_of(
        &mut self,
        state: &mut TaskState,
        store: StoreId,
        key: &[u8],
        time: i64,
        (seq, observed): (u32, Option<i64>),
    ) -> Result<Option<RowAt>, OperatorError> {
        let Some(found) = self.first(state, store, key, (0, time), seq)? else { return Ok(None) };
        // Further back than the history reaches only what is still valid is known.
        if time < self.versions.over(observed)
            && self.first(state, store, key, (time + 1, i64::MAX), seq)?.is_some()
        {
            return Ok(None);
        }
        Ok(found.row)
    }

    /// The newest version of a key between two times.
    fn first(
        &mut self,
        state: &mut TaskState,
        store: StoreId,
        key: &[u8],
        (from, to): (i64, i64),
        seq: u32,
    ) -> Result<Option<Version>, OperatorError> {
        let given = self.rows.get(key).into_iter().flatten().filter_map(|row| {
            let (of_row, time) = (*self.written.seq.get(*row)?, *self.written.time.get(*row)?);
            (of_row <= seq && (from..=to).contains(&time)).then_some((time, *row))
        });
        let given = given.max();
        let (start, mut end) = (version_key(key, to), version_key(key, from));
        end.push(0);
        let mut kept = None;
        for entry in state.scan(store, &start, &end)? {
            let (version, bytes) = entry?;
            if !self.overwritten.contains_key(&*version) {
                kept = Some((version.to_vec(), bytes.to_vec()));
                break;
            }
        }
        let mut overwritten = self.overwritten.range(start..end);
        let before = overwritten.find_map(|(version, bytes)| Some((version.clone(), bytes.clone()?)));
        let stored = kept.into_iter().chain(before).min();
        let time = stored.as_ref().map(|(version, _)| time_of(version));
        if let Some((given_time, row)) = given.filter(|(given, _)| time.is_none_or(|time| *given >= time)) {
            let row = Some(RowAt::Given(row)).filter(|_| !self.written.is_null_value(row));
            return Ok(Some(Version { time: given_time, row }));
        }
        let Some(((_, bytes), time)) = stored.zip(time) else { return Ok(None) };
        Ok(Some(Version { time, row: read(&mut self.decoder, &bytes)? }))
    }

    /// The rows that were read from the store.
    pub fn finish(mut self) -> Result<RecordBatch, OperatorError> {
        Ok(self.decoder.finish()?)
    }
}

/// Reads the row of a version.
fn read(decoder: &mut RowDecoder, bytes: &[u8]) -> Result<Option<RowAt>, OperatorError> {
    let mut reader = ValueReader::new(bytes, LAYOUT)?;
    if !reader.get_option()? {
        return Ok(None);
    }
    let row = reader.get_bytes()?;
    decoder.push(row)?;
    Ok(Some(RowAt::Stored(decoder.len() - 1)))
}

/// `key | i64::MAX - time`: a scan from a time on meets the version that is valid then first.
fn version_key(key: &[u8], time: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + TIME + 1);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&(i64::MAX - time).to_be_bytes());
    bytes
}

/// Behind the versions of a key: no key is the beginning of another.
fn end_of(key: &[u8]) -> Vec<u8> {
    let mut bytes = version_key(key, 0);
    bytes.push(0);
    bytes
}

fn time_of(version_key: &[u8]) -> i64 {
    version_key.last_chunk().map_or(0, |time| i64::MAX - i64::from_be_bytes(*time))
}
