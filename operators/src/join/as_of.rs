//! A stream looks up the rows of a table as they were at its rows' event times: the table keeps its history.
//!
//! With `grace` rows of the stream wait in a store, `time | key` → the rows in the order of their coming, until stream time has passed
//! them by `grace`: versions that come late are found, too. A row that is later than that is joined at once.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;

use super::{History, Join, JoinKind, Marks, Side, keys, values};
use crate::batch::Batch;
use crate::filter::kept;
use crate::key::{KeyEncoder, Keys};
use crate::operator::{
    Advance, Context, DropReason, Operator, OperatorError, RowsOf, StoreDeclaration, StoreKind,
};
use crate::row::{RowCodec, RowDecoder};
use crate::rows_by_time;
use crate::schema::described;
use crate::table_rows::{RowAt, gather};
use crate::versions::{self, Versions};

/// The store of rows that wait, after the one of versions.
const WAITING: usize = 1;

/// The stores of a join with a table that keeps its history.
pub(super) fn stores(join: &Join, history: History) -> Vec<StoreDeclaration> {
    let mut stores = vec![versions::declaration(&join.with, "-with", Some(RowsOf::Versions(1)))];
    if history.grace > 0 {
        let mut parts = vec!["join waiting 1".to_owned()];
        parts.extend(described(join.from.columns.fields()));
        stores.push(StoreDeclaration::new("-waiting", StoreKind::KeyValue, &parts));
    }
    stores
}

pub(super) struct AsOf {
    join: Join,
    history: History,
    keys: KeyEncoder,
    versions: Versions,
    /// Of whole rows of the stream.
    codec: RowCodec,
    stream_time: Option<i64>,
    waiting: Waiting,
}

/// The rows that wait.
struct Waiting {
    grace: i64,
    /// None of them is older: scans begin here, behind the entries of all that have gone.
    from: i64,
}

/// A row of the stream that is joined, and the row that caused it to be.
struct Due {
    /// Among the rows of the epoch, or among those that had waited.
    row: RowAt,
    time: i64,
    seq: u32,
}

impl Waiting {
    /// The rows that have waited until stream time passed them by `grace`.
    fn take_due(
        &mut self,
        over: i64,
        seq: u32,
        waited: &mut RowDecoder,
        due: &mut Vec<Due>,
        context: &mut Context<'_>,
    ) -> Result<(), OperatorError> {
        if self.grace == 0 || over < self.from {
            return Ok(());
        }
        let store = context.store(WAITING);
        let mut gone = Vec::new();
        let end = over.saturating_add(1).to_be_bytes();
        for entry in context.state.scan(store, &self.from.to_be_bytes(), &end)? {
            let (key, bytes) = entry?;
            let time = key.first_chunk().map_or(0, |time| i64::from_be_bytes(*time));
            rows_by_time::each(&bytes, |row| {
                waited.push(row)?;
                due.push(Due { row: RowAt::Stored(waited.len() - 1), time, seq });
                Ok(())
            })?;
            gone.push(key.to_vec());
        }
        gone.iter().for_each(|key| context.state.delete(store, key));
        self.from = over.saturating_add(1);
        Ok(())
    }
}

impl AsOf {
    pub fn new(join: Join, history: History) -> Result<Self, OperatorError> {
        Ok(AsOf {
            keys: KeyEncoder::of(&join.from)?,
            versions: Versions::new(&join.with, history.history)?,
            codec: RowCodec::new(&join.from.columns)?,
            stream_time: None,
            waiting: Waiting { grace: history.grace, from: 0 },
            join,
            history,
        })
    }

    fn process_rows(
        &mut self,
        stream: &Batch,
        written: &Batch,
        context: &mut Context<'_>,
    ) -> Result<Batch, OperatorError> {
        let mut waited = self.codec.decoder()?;
        let mut due: Vec<Due> = Vec::with_capacity(stream.len());
        let encoder = self.codec.encoder(stream.rows.columns())?;
        let row_keys = self.keys.encode_all(stream.rows.columns(), stream.len())?;
        let left = self.join.kind == JoinKind::Left;
        for (row, (&time, &seq)) in stream.time.iter().zip(&stream.seq).enumerate() {
            // A row that is dropped does not move stream time on, as in Kafka Streams.
            if stream.is_null_value(row) {
                context.count(DropReason::NullValue, 1);
                continue;
            }
            if row_keys.is_null(row) && !left {
                context.count(DropReason::NullKey, 1);
                continue;
            }
            self.stream_time = self.stream_time.max(Some(time));
            let over = self.stream_time.unwrap_or_default().saturating_sub(self.history.grace);
            let waits = self.history.grace > 0 && time > over;
            if waits && !row_keys.is_null(row) {
                let mut bytes = Vec::new();
                encoder.encode(row, &mut bytes);
                let mut key = time.to_be_bytes().to_vec();
                key.extend_from_slice(row_keys.get(row));
                let store = context.store(WAITING);
                rows_by_time::append(context.state, store, &key, &bytes)?;
                self.waiting.from = self.waiting.from.min(time);
            } else {
                due.push(Due { row: RowAt::Given(row), time, seq });
            }
            self.waiting.take_due(over, seq, &mut waited, &mut due, context)?;
        }
        self.join_due(stream, waited.finish()?, &due, written, context)
    }

    fn join_due(
        &self,
        stream: &Batch,
        waited: RecordBatch,
        due: &[Due],
        written: &Batch,
        context: &mut Context<'_>,
    ) -> Result<Batch, OperatorError> {
        // Often all rows wait.
        if due.is_empty() {
            return Ok(Batch::empty(&self.join.schema.columns));
        }
        let all = concat_batches(&self.join.from.columns, [&stream.rows, &waited])?;
        let of_due: Vec<usize> = due
            .iter()
            .map(|due| match due.row {
                RowAt::Given(row) => row,
                RowAt::Stored(row) => stream.len() + row,
            })
            .collect();
        let all = Batch {
            time: vec![0; all.num_rows()],
            seq: vec![0; all.num_rows()],
            rows: all,
            kind: None,
            null_value: None,
        };
        let rows = Batch {
            time: due.iter().map(|due| due.time).collect(),
            seq: due.iter().map(|due| due.seq).collect(),
            ..all.take(&of_due)?
        };
        let keys_of_rows: Keys = self.keys.encode_all(rows.rows.columns(), rows.len())?;
        let store = context.store(0);
        let mut lookup = self.versions.lookup(context.state, store, written)?;
        let mut observed = self.versions.observed_before_epoch(context.state, store)?;
        let mut later = (0..written.len()).peekable();
        let left = self.join.kind == JoinKind::Left;
        let (mut taken, mut found) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (row, (&time, &seq)) in rows.time.iter().zip(&rows.seq).enumerate() {
            // At the same time the table's row comes first.
            while let Some(version) =
                later.next_if(|version| written.seq.get(*version).is_some_and(|of_row| *of_row <= seq))
            {
                observed = observed.max(written.time.get(version).copied());
            }
            let table_row = match keys_of_rows.is_null(row) {
                true => None,
                false => lookup.as_of(context.state, store, keys_of_rows.get(row), time, (seq, observed))?,
            };
            if left || table_row.is_some() {
                taken.push(row);
                found.push(table_row);
            }
        }
        let rows = rows.take(&taken)?;
        let of_with = gather(values(written, &self.join.with), lookup.finish()?.columns(), &found)?;
        let key: Vec<ArrayRef> = keys(&rows, &self.join.from);
        let from = Side { values: values(&rows, &self.join.from).to_vec(), present: None };
        let with = Side::new(of_with, found.iter().map(Option::is_some));
        let marks = Marks { time: rows.time, seq: rows.seq, kind: None };
        let (results, errors) = self.join.results(key, [from, with], marks)?;
        let keep = context.without_errors(&results, &errors);
        kept(results, keep)
    }
}

impl Operator for AsOf {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let [stream, written] = inputs else { return Ok(Vec::new()) };
        if stream.is_empty() {
            return Ok(vec![Batch::empty(&self.join.schema.columns)]);
        }
        Ok(vec![self.process_rows(stream, written, context)?])
    }

    fn advance(
        &mut self,
        to: Advance,
        seq: u32,
        context: &mut Context<'_>,
    ) -> Result<Vec<Batch>, OperatorError> {
        let over = match to {
            Advance::To(time) => {
                self.stream_time = self.stream_time.max(Some(time));
                self.stream_time.unwrap_or_default().saturating_sub(self.history.grace)
            }
            Advance::End => i64::MAX - 1,
        };
        let (mut waited, mut due) = (self.codec.decoder()?, Vec::new());
        self.waiting.take_due(over, seq, &mut waited, &mut due, context)?;
        let nothing = Batch::empty(&self.join.from.columns);
        let no_versions = Batch::empty(&self.join.with.columns);
        Ok(vec![self.join_due(&nothing, waited.finish()?, &due, &no_versions, context)?])
    }

    fn position(&self) -> Option<i64> {
        self.stream_time
    }

    fn reset(&mut self, position: Option<i64>) {
        self.stream_time = position;
        self.waiting.from = 0;
    }
}
