//! Two streams: rows with the same key match that are not too far apart in event time.
//!
//! Each side keeps its rows in a store, `1 | bucket of time | key | time` → the rows of that time in the order of their coming, so
//! that a key's rows are found by a few short scans and buckets that are over expire as one range. A side keeps exactly its rows
//! later than its own largest event time less the window's whole length and the grace, which stands at `0`; as in Kafka Streams,
//! a side that is behind keeps its rows for longer. Rows that must be given without a match, once none can come any more, stand
//! in a third store, `time | side | key`, in the order in which they are given.

use arrow::array::{Array, ArrayRef};
use arrow::compute::interleave;

use super::{Join, JoinKind, Marks, Side, Window, in_order, keys, values};
use crate::batch::Batch;
use crate::diagnostic::Code;
use crate::filter::kept;
use crate::hash::hash_bytes;
use crate::key::{KeyDecoder, KeyEncoder};
use crate::keys_in_use::KeysInUse;
use crate::operator::{Advance, Context, DropReason, Operator, OperatorError, StoreDeclaration, StoreKind};
use crate::row::{RowCodec, RowDecoder, RowEncoder};
use crate::rows_by_time;
use crate::schema::{Schema, described};
use crate::table_rows::{RowAt, gather};

/// Where a side keeps its largest event time.
const TIME: [u8; 1] = [0];
/// Before the rows of a side.
const ROWS: u8 = 1;

const FROM: usize = 0;
const WITH: usize = 1;
/// The store of rows without a match, after those of the sides.
const UNMATCHED: usize = 2;

impl Window {
    /// How long a side keeps its rows.
    fn retention(self) -> i64 {
        self.before.saturating_add(self.after).saturating_add(self.grace)
    }

    /// Length of a bucket of a store: a window spans about three.
    fn bucket(self) -> i64 {
        (self.retention() / 2).max(1)
    }

    /// How far before and after a row of `side` those of the other may be.
    fn reach(self, side: usize) -> (i64, i64) {
        if side == FROM { (self.before, self.after) } else { (self.after, self.before) }
    }
}

/// The stores of a join of two streams.
pub(super) fn stores(join: &Join, window: Window) -> Vec<StoreDeclaration> {
    let store = |suffix, schemas: &[&Schema], what: &str, kind| {
        let mut parts = vec![what.to_owned(), window.bucket().to_string()];
        for schema in schemas {
            parts.extend(schema.key_types());
            parts.extend(described(schema.value_fields()));
        }
        StoreDeclaration::new(suffix, kind, &parts)
    };
    let rows = StoreKind::Window { retention: window.retention() };
    let mut stores =
        vec![store("-from", &[&join.from], "join 1", rows), store("-with", &[&join.with], "join 1", rows)];
    if join.kind != JoinKind::Inner {
        // A row that has not been given yet is never too old.
        stores.push(store("-outer", &[&join.from, &join.with], "join outer 1", StoreKind::KeyValue));
    }
    stores
}

pub(super) struct StreamStream {
    join: Join,
    window: Window,
    keys: KeyEncoder,
    codecs: [RowCodec; 2],
    stream_time: Option<i64>,
    /// The largest event time of each side's rows; `None`: as the stores have it.
    side_times: Option<[Option<i64>; 2]>,
    /// No row without a match is earlier; `None`: unknown.
    earliest: Option<i64>,
    /// Of which keys each side has rows.
    keys_in_use: [KeysInUse; 2],
}

/// The key of a result.
enum KeyAt {
    /// That of a row of an input.
    Given(usize, usize),
    /// One that was read from a store.
    Stored(usize),
}

/// A result.
struct Found {
    key: KeyAt,
    rows: [Option<RowAt>; 2],
    time: i64,
    seq: u32,
}

/// The results of an epoch, and what was read for them.
struct Results {
    found: Vec<Found>,
    decoders: [RowDecoder; 2],
    keys: KeyDecoder,
}

impl Results {
    /// Reads a row of `side` from its bytes in a store.
    fn read(&mut self, side: usize, bytes: &[u8]) -> Result<RowAt, OperatorError> {
        let [from, with] = &mut self.decoders;
        let decoder = if side == FROM { from } else { with };
        decoder.push(bytes)?;
        Ok(RowAt::Stored(decoder.len() - 1))
    }
}

/// A row that looks for others.
struct Row<'a> {
    side: usize,
    row: usize,
    key: &'a [u8],
    key_hash: u64,
    time: i64,
    seq: u32,
}

/// A row that was found.
struct Match {
    time: i64,
    bytes: Vec<u8>,
}

impl StreamStream {
    pub fn new(join: Join, window: Window) -> Result<Self, OperatorError> {
        let codec = |schema: &Schema| RowCodec::new(&schema.value_columns());
        Ok(StreamStream {
            keys: KeyEncoder::of(&join.from)?,
            codecs: [codec(&join.from)?, codec(&join.with)?],
            join,
            window,
            stream_time: None,
            side_times: None,
            earliest: None,
            keys_in_use: Default::default(),
        })
    }

    /// Whether a row of `side` is a result if it has no match.
    fn stands_alone(&self, side: usize) -> bool {
        self.join.kind.has_result(side == FROM, side == WITH)
    }

    fn results(&self) -> Result<Results, OperatorError> {
        let [from, with] = &self.codecs;
        Ok(Results {
            found: Vec::new(),
            decoders: [from.decoder()?, with.decoder()?],
            keys: self.keys.decoder()?,
        })
    }

    fn process_rows(
        &mut self,
        inputs: [&Batch; 2],
        context: &mut Context<'_>,
    ) -> Result<Batch, OperatorError> {
        let [from, with] = inputs;
        let encode = |batch: &Batch| self.keys.encode_all(batch.rows.columns(), batch.len());
        let row_keys = [encode(from)?, encode(with)?];
        let [from_codec, with_codec] = &self.codecs;
        let encoders = [
            from_codec.encoder(values(from, &self.join.from))?,
            with_codec.encoder(values(with, &self.join.with))?,
        ];
        let mut side_times = match self.side_times {
            Some(times) => times,
            None => [side_time(context, FROM)?, side_time(context, WITH)?],
        };
        let before = side_times;
        let mut results = self.results()?;
        for (seq, side, row) in in_order(inputs) {
            let (batch, keys, encoder) = match side {
                FROM => (from, &row_keys[FROM], &encoders[FROM]),
                _ => (with, &row_keys[WITH], &encoders[WITH]),
            };
            let time = batch.time.get(row).copied().unwrap_or_default();
            let has_key = !keys.is_null(row);
            // Time passes with rows that match nothing, too.
            self.pass_time(time, seq, &mut results, context)?;
            if has_key && let Some(own) = side_times.get_mut(side) {
                *own = (*own).max(Some(time));
            }
            if batch.is_null_value(row) {
                context.count(DropReason::NullValue, 1);
                continue;
            }
            let key = keys.get(row);
            let row = Row { side, row, key, key_hash: hash_bytes(key), time, seq };
            if !has_key {
                if self.stands_alone(side) {
                    results.found.push(alone(&row));
                } else {
                    context.count(DropReason::NullKey, 1);
                }
                continue;
            }
            self.join_row(&row, encoder, side_times, &mut results, context)?;
        }
        for (side, (time, before)) in side_times.iter().zip(&before).enumerate() {
            if let Some(time) = time.filter(|_| time != before) {
                self.pass(side, time, *before, context);
            }
        }
        self.side_times = Some(side_times);
        self.finish(results, inputs, context)
    }

    fn schema(&self, side: usize) -> &Schema {
        if side == FROM { &self.join.from } else { &self.join.with }
    }

    /// A row comes: gives its matches, and stays for those that come after it.
    fn join_row(
        &mut self,
        row: &Row<'_>,
        encoder: &RowEncoder<'_>,
        side_times: [Option<i64>; 2],
        results: &mut Results,
        context: &mut Context<'_>,
    ) -> Result<(), OperatorError> {
        let Row { side, time, key, key_hash, seq, .. } = *row;
        let [from, with] = side_times;
        let (own, other) = if side == FROM { (from, with) } else { (with, from) };
        let Some(matches) = self.matches(row, other, context)? else {
            let message =
                format!("the row matches more than {} rows of the other stream", self.window.max_matches);
            context.fail(seq, Code::RecordMatches, message);
            return Ok(());
        };
        let is_kept = own.is_none_or(|own| time > own.saturating_sub(self.window.retention()));
        let mut bytes = Vec::new();
        encoder.encode(row.row, &mut bytes);
        if is_kept {
            let (store, bucket) = (context.store(side), time / self.window.bucket());
            let row_key = self.row_key(time, key);
            let in_use = if side == FROM { &mut self.keys_in_use[FROM] } else { &mut self.keys_in_use[WITH] };
            if in_use.may_have(bucket, key_hash) {
                rows_by_time::append(context.state, store, &row_key, &bytes)?;
            } else {
                rows_by_time::put_first(context.state, store, &row_key, &bytes);
            }
            in_use.insert(bucket, key_hash);
        } else {
            context.count(DropReason::Late, 1);
        }
        let unmatched = if self.join.kind == JoinKind::Inner { None } else { Some(context.store(UNMATCHED)) };
        let mut last = None;
        for found in &matches {
            if let Some(store) = unmatched.filter(|_| self.stands_alone(1 - side) && last != Some(found.time))
            {
                let key = unmatched_key(found.time, 1 - side, key);
                if context.state.get(store, &key)?.is_some() {
                    context.state.delete(store, &key);
                }
                last = Some(found.time);
            }
            let (mine, others) = (Some(RowAt::Given(row.row)), Some(results.read(1 - side, &found.bytes)?));
            let rows = if side == FROM { [mine, others] } else { [others, mine] };
            let key = KeyAt::Given(side, row.row);
            results.found.push(Found { key, rows, time: time.max(found.time), seq });
        }
        if let (true, true, Some(store)) = (matches.is_empty(), self.stands_alone(side), unmatched) {
            let until = time.saturating_add(self.window.reach(side).1);
            if self.stream_time.is_some_and(|stream_time| until < stream_time) {
                results.found.push(alone(row));
            } else {
                rows_by_time::append(context.state, store, &unmatched_key(time, side, key), &bytes)?;
                self.earliest = self.earliest.map(|earliest| earliest.min(time));
            }
        }
        Ok(())
    }

    /// The rows of the other side that match, in order of time and coming; `None`: there are too many.
    fn matches(
        &self,
        row: &Row<'_>,
        other_time: Option<i64>,
        context: &mut Context<'_>,
    ) -> Result<Option<Vec<Match>>, OperatorError> {
        let Some(other_time) = other_time else { return Ok(Some(Vec::new())) };
        let (before, after) = self.window.reach(row.side);
        // What is older is kept no longer, whether or not it still lies there.
        let kept_from = other_time.saturating_sub(self.window.retention()).saturating_add(1);
        let from = row.time.saturating_sub(before).max(kept_from).max(0);
        let to = row.time.saturating_add(after).min(other_time);
        let store = context.store(1 - row.side);
        let bucket = self.window.bucket();
        let mut matches = Vec::new();
        if from > to {
            return Ok(Some(matches));
        }
        let in_use = if row.side == FROM { &self.keys_in_use[WITH] } else { &self.keys_in_use[FROM] };
        for number in (from / bucket..=to / bucket).filter(|number| in_use.may_have(*number, row.key_hash)) {
            let first = self.row_key(from.max(number * bucket), row.key);
            let end = self.row_key(to.min(number.saturating_mul(bucket).saturating_add(bucket - 1)), row.key);
            let mut past = end;
            past.push(0);
            for entry in context.state.scan(store, &first, &past)? {
                let (key, bytes) = entry?;
                let time = key.last_chunk().map_or(0, |time| i64::from_be_bytes(*time));
                let mut many = false;
                rows_by_time::each(&bytes, |bytes| {
                    many |= matches.len() >= self.window.max_matches;
                    if !many {
                        matches.push(Match { time, bytes: bytes.to_vec() });
                    }
                    Ok(())
                })?;
                if many {
                    return Ok(None);
                }
            }
        }
        Ok(Some(matches))
    }

    /// `1 | bucket | key | time`; times are not negative, so that big-endian bytes are in their order.
    fn row_key(&self, time: i64, key: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(17 + key.len());
        bytes.push(ROWS);
        bytes.extend_from_slice(&(time / self.window.bucket()).to_be_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&time.to_be_bytes());
        bytes
    }

    /// The largest event time of a side goes on.
    fn pass(&mut self, side: usize, time: i64, before: Option<i64>, context: &mut Context<'_>) {
        let store = context.store(side);
        context.state.put(store, &TIME, &time.to_be_bytes());
        let over = |time: i64| (time - self.window.retention()).max(0) / self.window.bucket();
        if before.is_none_or(|before| over(time) > over(before)) {
            let mut end = vec![ROWS];
            end.extend_from_slice(&over(time).to_be_bytes());
            context.state.expire(store, &[ROWS], &end);
            if let Some(in_use) = self.keys_in_use.get_mut(side) {
                in_use.drop_before(over(time));
            }
        }
    }

    /// Stream time reaches `time`: rows that nothing can match any more are given.
    fn pass_time(
        &mut self,
        time: i64,
        seq: u32,
        results: &mut Results,
        context: &mut Context<'_>,
    ) -> Result<(), OperatorError> {
        if self.stream_time.is_none_or(|stream_time| time > stream_time) {
            self.stream_time = Some(time);
            let closed =
                |side| time.saturating_sub(self.window.reach(side).1).saturating_sub(self.window.grace);
            self.give_unmatched([closed(FROM), closed(WITH)], seq, results, context)?;
        }
        Ok(())
    }

    /// Gives the rows without a match that are earlier than the bound of their side.
    fn give_unmatched(
        &mut self,
        bounds: [i64; 2],
        seq: u32,
        results: &mut Results,
        context: &mut Context<'_>,
    ) -> Result<(), OperatorError> {
        let [from, with] = bounds;
        let bound = from.max(with);
        if self.join.kind == JoinKind::Inner || self.earliest.is_some_and(|earliest| earliest >= bound) {
            return Ok(());
        }
        let store = context.store(UNMATCHED);
        let mut given = Vec::new();
        let mut earliest = i64::MAX;
        // Not from the beginning: there lies what has been deleted, and is passed over one by one.
        let first = self.earliest.unwrap_or_default().max(0);
        for entry in context.state.scan(store, &first.to_be_bytes(), &bound.max(0).to_be_bytes())? {
            let (store_key, bytes) = entry?;
            let (time, side, key) = split_unmatched(&store_key)?;
            if time >= if side == FROM { from } else { with } {
                earliest = earliest.min(time);
                continue;
            }
            results.keys.push(key)?;
            let key_number = results.keys.len() - 1;
            rows_by_time::each(&bytes, |row| {
                let row = Some(results.read(side, row)?);
                let rows = if side == FROM { [row, None] } else { [None, row] };
                results.found.push(Found { key: KeyAt::Stored(key_number), rows, time, seq });
                Ok(())
            })?;
            given.push(store_key.to_vec());
        }
        given.iter().for_each(|key| context.state.delete(store, key));
        if earliest == i64::MAX {
            let next =
                context.state.scan(store, &bound.max(0).to_be_bytes(), &[0xff; 9])?.next().transpose()?;
            if let Some((key, _)) = next {
                earliest = split_unmatched(&key)?.0;
            }
        }
        self.earliest = Some(earliest);
        Ok(())
    }

    fn finish(
        &self,
        mut results: Results,
        inputs: [&Batch; 2],
        context: &mut Context<'_>,
    ) -> Result<Batch, OperatorError> {
        let found = &results.found;
        if found.is_empty() {
            return Ok(Batch::empty(&self.join.schema.columns));
        }
        let [from, with] = inputs;
        let places: Vec<(usize, usize)> = found
            .iter()
            .map(|found| match found.key {
                KeyAt::Given(side, row) => (side, row),
                KeyAt::Stored(number) => (2, number),
            })
            .collect();
        let stored_keys = results.keys.finish()?;
        let given_keys = keys(from, &self.join.from).into_iter().zip(keys(with, &self.join.with));
        let key: Vec<ArrayRef> = given_keys
            .zip(&stored_keys)
            .map(|((from, with), stored)| interleave(&[&from as &dyn Array, &with, stored], &places))
            .collect::<Result<_, _>>()?;
        let [from_decoder, with_decoder] = &mut results.decoders;
        let stored = [from_decoder.finish()?, with_decoder.finish()?];
        let side = |side: usize, given: &Batch, stored: &arrow::array::RecordBatch| {
            let rows: Vec<Option<RowAt>> =
                found.iter().map(|found| found.rows.get(side).copied().flatten()).collect();
            let gathered = gather(values(given, self.schema(side)), stored.columns(), &rows)?;
            Ok::<_, OperatorError>(Side::new(gathered, rows.iter().map(Option::is_some)))
        };
        let sides = [side(FROM, from, &stored[FROM])?, side(WITH, with, &stored[WITH])?];
        let marks = Marks {
            time: found.iter().map(|found| found.time).collect(),
            seq: found.iter().map(|found| found.seq).collect(),
            kind: None,
        };
        let (batch, errors) = self.join.results(key, sides, marks)?;
        let keep = context.without_errors(&batch, &errors);
        kept(batch, keep)
    }
}

/// The result of a row that has no match.
fn alone(row: &Row<'_>) -> Found {
    let own = Some(RowAt::Given(row.row));
    let rows = if row.side == FROM { [own, None] } else { [None, own] };
    Found { key: KeyAt::Given(row.side, row.row), rows, time: row.time, seq: row.seq }
}

/// The largest event time of a side's rows, as its store has it.
fn side_time(context: &Context<'_>, side: usize) -> Result<Option<i64>, OperatorError> {
    let Some(bytes) = context.state.get(context.store(side), &TIME)? else { return Ok(None) };
    let time = bytes.first_chunk().map(|time| i64::from_be_bytes(*time));
    Ok(Some(time.ok_or_else(|| OperatorError::Stored("a time is too short".to_owned()))?))
}

/// `time | side | key`. Of equal times the rows of `with` come first, as in Kafka Streams.
fn unmatched_key(time: i64, side: usize, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + key.len());
    bytes.extend_from_slice(&time.to_be_bytes());
    bytes.push(u8::from(side == FROM));
    bytes.extend_from_slice(key);
    bytes
}

fn split_unmatched(store_key: &[u8]) -> Result<(i64, usize, &[u8]), OperatorError> {
    let split = store_key.split_first_chunk().and_then(|(time, rest)| {
        let (side, key) = rest.split_first()?;
        Some((i64::from_be_bytes(*time), if *side == 1 { FROM } else { WITH }, key))
    });
    split.ok_or_else(|| OperatorError::Stored("a key is too short".to_owned()))
}

impl Operator for StreamStream {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let [from, with] = inputs else { return Ok(Vec::new()) };
        Ok(vec![self.process_rows([from, with], context)?])
    }

    fn advance(
        &mut self,
        to: Advance,
        seq: u32,
        context: &mut Context<'_>,
    ) -> Result<Vec<Batch>, OperatorError> {
        let mut results = self.results()?;
        match to {
            Advance::To(time) => self.pass_time(time, seq, &mut results, context)?,
            Advance::End => self.give_unmatched([i64::MAX; 2], seq, &mut results, context)?,
        }
        let nothing = [Batch::empty(&self.join.from.columns), Batch::empty(&self.join.with.columns)];
        Ok(vec![self.finish(results, [&nothing[FROM], &nothing[WITH]], context)?])
    }

    fn position(&self) -> Option<i64> {
        self.stream_time
    }

    fn reset(&mut self, position: Option<i64>) {
        self.stream_time = position;
        self.side_times = None;
        self.earliest = None;
        let empty_from = position.map_or(0, |time| time / self.window.bucket() + 1);
        self.keys_in_use = [empty_from; 2].map(KeysInUse::empty_from);
    }
}
