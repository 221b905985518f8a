//! `suppress`: sends fewer of a table's changes, the last one of a row instead of each.
//!
//! A change waits in a buffer, and the next one of its row takes its place there. It is sent when stream time has gone on for long
//! enough since the first of them, or since the end of the row's window; what is due goes in the order of these times, then of
//! the keys.
//!
//! With a window the store is that order: `window end | key` → entry. Without, it holds `0 | key` → entry, which a change finds,
//! and `1 | time | key` → nothing, by which what is due is found. An epoch reads the entries of its rows and those that come due
//! in it, takes the rows one after the other in memory, and writes what has changed at its end.

use std::collections::BTreeSet;

use arrow::array::cast::AsArray;
use arrow::datatypes::TimestampMillisecondType;
use millstream_state::value::{ValueError, ValueReader, ValueWriter};
use millstream_state::{StateError, StoreId, TaskState};

use crate::batch::{Batch, RowKind};
use crate::config::{Field, FieldKind, format_duration, format_size};
use crate::diagnostic::{Code, Diagnostic};
use crate::key::KeyEncoder;
use crate::operator::{
    Advance, Arity, Context, Definition, Operator, OperatorError, OperatorSpec, Resolved, Step,
    StoreDeclaration, StoreKind, Wanted,
};
use crate::outgoing::{Outgoing, Row, Sending};
use crate::row::{RowCodec, RowEncoder};
use crate::schema::{Kind, Schema, described};
use crate::touched::Touched;

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "suppress",
    summary: "Sends fewer changes of a table: the last one when a window closes, or of each row one in a while.",
    arity: Arity::One,
    keyed: true,
    fields: &[
        Field {
            name: "until",
            kind: FieldKind::Choice(&["window-close"]),
            required: false,
            doc: "`window-close` sends each row of a table with windows once, when its window takes no more rows: its result is \
                  final. Either this or `for`.",
        },
        Field {
            name: "for",
            kind: FieldKind::Duration,
            required: false,
            doc: "A change is sent when this much stream time has passed since the row's first change that was not sent; what \
                  came between is left out.",
        },
        Field {
            name: "max-rows",
            kind: FieldKind::Integer,
            required: false,
            doc: "How many rows may wait, in each task; default: any number.",
        },
        Field {
            name: "max-bytes",
            kind: FieldKind::Size,
            required: false,
            doc: "How much the waiting rows of each task may take in its store, such as `64MiB`; default: any amount.",
        },
        Field {
            name: "when-full",
            kind: FieldKind::Choice(&["emit-early", "fail"]),
            required: false,
            doc: "What happens when more would wait: `emit-early` (default of `for`) sends the row that has waited longest, \
                  `fail` (default of `until`) stops before the record.",
        },
    ],
    example: r#"[steps.final]
op    = "suppress"
from  = "per_minute"
until = "window-close""#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    step.require_kind(Kind::Table, "a stream's rows do not replace each other: leave the step out")?;
    let fields = &step.fields;
    let schema = &step.input().schema;
    let until = until(step);
    let max_rows = fields.integer("max-rows", 1..=1_000_000_000_000);
    let max_bytes = fields.size("max-bytes");
    let when_full = fields.choice("when-full", &["emit-early", "fail"]);
    let until = until?;
    let is_window = matches!(until, Until::WindowClose { .. });
    let fails = when_full.as_ref().map_or(is_window, |when_full| when_full.value == "fail");
    if fields.has("when-full") && !fields.has("max-rows") && !fields.has("max-bytes") {
        fields.missing("max-rows", "say how much may wait: max-rows = 100000, or max-bytes = \"64MiB\"");
        return None;
    }
    if let (Some(when_full), true, false) = (&when_full, is_window, fails) {
        step.diagnostics().push(
            Diagnostic::error(
                Code::KeysExclude,
                when_full.span.clone(),
                "`when-full = \"emit-early\"` and `until = \"window-close\"` exclude each other",
            )
            .also(fields.key_span("until"), "only final results are to be sent")
            .help("a result that is sent early is not final: say `when-full = \"fail\"`, or `for` instead of `until`"),
        );
        return None;
    }
    let is_bounded = max_rows.is_some() || max_bytes.is_some();
    if is_bounded && fails && fields.text("on-error").is_some_and(|on_error| on_error.value != "fail") {
        step.diagnostics().push(
            Diagnostic::error(
                Code::KeysExclude,
                fields.key_span("on-error"),
                "`on-error` and a buffer that fails when it is full exclude each other",
            )
            .help("remove `on-error`: without a change that found no room, the table would be wrong from then on"),
        );
        return None;
    }
    let bound = |value: i64| value.unsigned_abs();
    let definition = Suppress {
        schema: schema.clone(),
        until,
        max_rows: max_rows.map(|placed| bound(placed.value)),
        max_bytes: max_bytes.map(|placed| placed.value),
        fails,
    };
    Some(Resolved::simple(schema.clone(), definition))
}

/// Reads `until` or `for`.
fn until(step: &Step<'_>) -> Option<Until> {
    let fields = &step.fields;
    match (fields.has("until"), fields.has("for")) {
        (false, false) => {
            fields.missing("until", "say until when changes wait: until = \"window-close\", or for = \"5s\"");
            None
        }
        (true, true) => {
            step.diagnostics().push(
                Diagnostic::error(
                    Code::KeysExclude,
                    fields.key_span("for"),
                    "`until` and `for` exclude each other",
                )
                .also(fields.key_span("until"), "`until` says when changes are sent")
                .help("keep one of them"),
            );
            None
        }
        (false, true) => fields.duration("for").map(|placed| Until::For(placed.value)),
        (true, false) => {
            let said = fields.choice("until", &["window-close"])?;
            match step.input().schema.closes_after {
                Some(after) => Some(Until::WindowClose { after }),
                None => {
                    let from = &step.input().from.value;
                    step.error(
                        Code::SuppressNeedsWindow,
                        said.span,
                        format!("the rows of `{from}` have no windows that close"),
                        "let it read an `aggregate` with a `window`, or say `for = \"5s\"` instead",
                    );
                    None
                }
            }
        }
    }
}

/// What a change waits for; in milliseconds.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// Stream time is so far past the end of the row's window.
    WindowClose { after: i64 },
    /// Stream time is so far past the row's first change that was not sent.
    For(i64),
}

/// A checked `suppress`.
#[derive(Clone, Debug)]
struct Suppress {
    schema: Schema,
    until: Until,
    max_rows: Option<u64>,
    max_bytes: Option<u64>,
    /// Whether it fails when it is full.
    fails: bool,
}

impl Suppress {
    fn is_bounded(&self) -> bool {
        self.max_rows.is_some() || self.max_bytes.is_some()
    }
}

impl Definition for Suppress {
    fn stores(&self) -> Vec<StoreDeclaration> {
        let until = match self.until {
            Until::WindowClose { .. } => "window-close",
            Until::For(_) => "for",
        };
        let mut parts = vec!["suppress 1".to_owned(), until.to_owned(), self.schema.key.to_string()];
        parts.extend(described(self.schema.columns.fields()));
        vec![StoreDeclaration::new("", StoreKind::KeyValue, &parts)]
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = match self.until {
            Until::WindowClose { after } => {
                vec![("until", "window-close".to_owned()), ("closes after", format_duration(after))]
            }
            Until::For(duration) => vec![("for", format_duration(duration))],
        };
        facts.extend(self.max_rows.map(|rows| ("max rows", rows.to_string())));
        facts.extend(self.max_bytes.map(|bytes| ("max bytes", format_size(bytes))));
        if self.is_bounded() {
            facts.push(("when full", if self.fails { "fail" } else { "emit-early" }.to_owned()));
        }
        facts
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(RunningSuppress {
            keys: KeyEncoder::of(&self.schema)?,
            rows: RowCodec::new(&self.schema.columns)?,
            definition: self.clone(),
            before: wanted.before,
            stream_time: None,
            earliest: 0,
            waiting: Some(Waiting::default()),
        }))
    }
}

struct RunningSuppress {
    definition: Suppress,
    keys: KeyEncoder,
    rows: RowCodec,
    /// Whether consumers want the row that a change replaces.
    before: bool,
    stream_time: Option<i64>,
    /// No entry of the store waits since an earlier time.
    earliest: i64,
    /// What waits, where that is bounded; `None`: it has to be counted.
    waiting: Option<Waiting>,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    rows: u64,
    bytes: u64,
}

/// A change that waits.
#[derive(Clone, Debug)]
struct Entry {
    /// The time it waits from: of the first change that was not sent, or the end of the window.
    since: i64,
    /// Event time of the change.
    time: i64,
    /// Whether consumers know of the row.
    known: bool,
    /// Whether the row is gone.
    gone: bool,
    /// The row as it is now; of one that is gone the key at least.
    row: Row,
    /// The row that consumers know, and its time, if they want to be told.
    before: Option<(i64, Row)>,
}

/// A place of the buffer within an epoch.
#[derive(Debug, Default)]
struct Slot {
    entry: Option<Entry>,
    /// Whether it is known what the store has.
    loaded: bool,
    /// The time since which the entry in the store waits, if there is one.
    stored: Option<i64>,
    /// Whether the store has something else.
    dirty: bool,
    /// What the entry counts for in [`Waiting::bytes`].
    bytes: u64,
}

/// The buffer within an epoch.
struct Buffer<'a, 'b> {
    definition: &'a Suppress,
    input: RowEncoder<'a>,
    slots: Touched<Slot>,
    /// What is known of the order in which entries are sent: the time since which one waits, its key, the number of its slot. With
    /// a bound these are all entries that the epoch has met, without one those that come due in it.
    order: BTreeSet<(i64, Box<[u8]>, usize)>,
    /// What waits since no later than this comes due in this epoch.
    due: Option<i64>,
    /// From this key of the store's order on its entries have not been looked for; `None`: they all have.
    unknown_from: Option<Vec<u8>>,
    waiting: Option<Waiting>,
    outgoing: Outgoing<'a>,
    encoding: Encoding,
    tells_before: bool,
    state: &'b mut TaskState,
    store: StoreId,
}

const ROW: u8 = 0;
const SINCE: u8 = 1;

impl Suppress {
    /// The store's key of a row that waits since `since`.
    fn row_key(&self, since: i64, key: &[u8], out: &mut Vec<u8>) {
        out.clear();
        match self.until {
            Until::WindowClose { .. } => out.extend_from_slice(&since.to_be_bytes()),
            Until::For(_) => out.push(ROW),
        }
        out.extend_from_slice(key);
    }

    /// The row's key of such a key.
    fn key_of<'k>(&self, row_key: &'k [u8]) -> &'k [u8] {
        let start = match self.until {
            Until::WindowClose { .. } => 8,
            Until::For(_) => 1,
        };
        row_key.get(start..).unwrap_or_default()
    }

    /// The store's key by which a row that waits since `since` is found when it is due; of a key that is empty, where those begin
    /// that wait from then on.
    fn order_key(&self, since: i64, key: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 + key.len());
        if let Until::For(_) = self.until {
            out.push(SINCE);
        }
        // Times are not negative, so that big-endian bytes are in their order.
        out.extend_from_slice(&since.to_be_bytes());
        out.extend_from_slice(key);
        out
    }

    /// What comes after all keys by which rows are found when they are due.
    fn order_end(&self) -> &'static [u8] {
        match self.until {
            Until::WindowClose { .. } => &[0xff],
            Until::For(_) => &[SINCE + 1],
        }
    }

    /// Time and key of such a key.
    fn split_order_key<'k>(&self, order_key: &'k [u8]) -> Result<(i64, &'k [u8]), OperatorError> {
        let rest = match self.until {
            Until::WindowClose { .. } => order_key,
            Until::For(_) => order_key.get(1..).unwrap_or_default(),
        };
        let (since, key) = rest
            .split_first_chunk()
            .ok_or_else(|| OperatorError::Stored("a key of the buffer is too short".to_owned()))?;
        Ok((i64::from_be_bytes(*since), key))
    }
}

/// How many entries are read at once of those that have waited longest.
const CHUNK: usize = 256;

impl Buffer<'_, '_> {
    /// The number of the slot of a row.
    fn slot(&mut self, since: i64, key: &[u8], scratch: &mut Vec<u8>) -> usize {
        self.definition.row_key(since, key, scratch);
        self.slots.number_of(scratch)
    }

    /// The key of a slot's row.
    fn key(&self, number: usize) -> &[u8] {
        self.definition.key_of(self.slots.keys.get(number))
    }

    /// Finds the entries in the store that wait since no later than `until`, but no more than `most`.
    fn find(&mut self, until: i64, most: usize) -> Result<(), OperatorError> {
        let Some(from) = self.unknown_from.take() else { return Ok(()) };
        let to = match until.checked_add(1) {
            Some(next) => self.definition.order_key(next, &[]),
            None => self.definition.order_end().to_vec(),
        };
        let mut found: Vec<(i64, Box<[u8]>)> = Vec::new();
        let mut entries = self.state.scan(self.store, &from, &to)?;
        while let Some((order_key, _)) = entries.next_entry()? {
            if found.len() == most {
                self.unknown_from = Some(order_key.to_vec());
                break;
            }
            let (since, key) = self.definition.split_order_key(order_key)?;
            found.push((since, key.into()));
        }
        drop(entries);
        if self.unknown_from.is_none() && until != i64::MAX {
            self.unknown_from = Some(to);
        }
        let mut scratch = Vec::new();
        let numbers: Vec<usize> =
            found.iter().map(|(since, key)| self.slot(*since, key, &mut scratch)).collect();
        self.load()?;
        for ((since, key), number) in found.into_iter().zip(numbers) {
            // The epoch may have sent it already.
            let entry = self.slots.all.get(number).and_then(|slot| slot.entry.as_ref());
            if entry.is_some_and(|entry| entry.since == since) {
                self.order.insert((since, key, number));
            }
        }
        Ok(())
    }

    /// Reads the entries of all slots that were not read, in one go.
    fn load(&mut self) -> Result<(), OperatorError> {
        let slots = self.slots.all.iter().zip(self.slots.keys.iter()).enumerate();
        let (numbers, keys): (Vec<usize>, Vec<&[u8]>) =
            slots.filter(|(_, (slot, _))| !slot.loaded).map(|(number, (_, key))| (number, key)).unzip();
        let found = self.state.multi_get(self.store, &keys)?;
        let mut ordered = Vec::new();
        for ((number, store_key), found) in numbers.into_iter().zip(&keys).zip(found) {
            let Some(slot) = self.slots.all.get_mut(number) else { continue };
            slot.loaded = true;
            let Some(bytes) = found else { continue };
            let entry = decode(&bytes)?;
            slot.stored = Some(entry.since);
            slot.bytes = (store_key.len() + bytes.len()) as u64;
            if self.definition.is_bounded() {
                let key = self.definition.key_of(store_key).into();
                ordered.push((entry.since, key, number));
            }
            slot.entry = Some(entry);
        }
        self.order.extend(ordered);
        Ok(())
    }

    /// Puts a change into its slot.
    fn put(&mut self, number: usize, change: Entry) {
        let is_new = self.slots.all.get(number).is_some_and(|slot| slot.entry.is_none());
        // What is not due in this epoch and cannot be sent early need not be in its order.
        let is_sent = self.definition.is_bounded() || self.due.is_some_and(|due| change.since <= due);
        if is_new && is_sent {
            self.order.insert((change.since, self.key(number).into(), number));
        }
        let Some(slot) = self.slots.all.get_mut(number) else { return };
        let change = match slot.entry.take() {
            Some(Entry { since, known, before, .. }) => Entry { since, known, before, ..change },
            None => change,
        };
        let bytes_before = slot.bytes;
        if self.definition.max_bytes.is_some() {
            self.encoding.entry(&change, &self.input);
            slot.bytes = (self.slots.keys.get(number).len() + self.encoding.bytes.len()) as u64;
        }
        slot.dirty = true;
        slot.entry = Some(change);
        if let Some(waiting) = &mut self.waiting {
            waiting.rows += u64::from(is_new);
            waiting.bytes = waiting.bytes.saturating_sub(bytes_before) + slot.bytes;
        }
    }

    /// Takes an entry out of its slot.
    fn take(&mut self, number: usize) -> Option<Entry> {
        let slot = self.slots.all.get_mut(number)?;
        slot.dirty = true;
        let entry = slot.entry.take()?;
        let bytes = std::mem::take(&mut slot.bytes);
        if let Some(waiting) = &mut self.waiting {
            waiting.rows = waiting.rows.saturating_sub(1);
            waiting.bytes = waiting.bytes.saturating_sub(bytes);
        }
        Some(entry)
    }

    /// Forgets a row that nobody knows of.
    fn forget(&mut self, number: usize) {
        if let Some(entry) = self.take(number) {
            let key = self.key(number).into();
            self.order.remove(&(entry.since, key, number));
        }
    }

    /// Sends what waits since no later than `until`.
    fn send_due(&mut self, until: i64, seq: u32) -> Result<(), OperatorError> {
        while self.order.first().is_some_and(|(since, ..)| *since <= until) {
            self.send_first(seq)?;
        }
        Ok(())
    }

    fn send_first(&mut self, seq: u32) -> Result<(), OperatorError> {
        let Some((_, _, number)) = self.order.pop_first() else { return Ok(()) };
        let Some(Entry { time, known, gone, row, before, .. }) = self.take(number) else { return Ok(()) };
        let sending = |kind, time| Sending { kind, time, seq };
        match (known, gone) {
            // Consumers need not know of a row that has come and gone.
            (false, true) => Ok(()),
            (false, false) => self.outgoing.push(&row, sending(RowKind::Insert, time)),
            (true, true) => {
                let row = before.as_ref().map_or(&row, |(_, before)| before);
                self.outgoing.push(row, sending(RowKind::Delete, time))
            }
            (true, false) => {
                if let Some((time, before)) = before.as_ref().filter(|_| self.tells_before) {
                    self.outgoing.push(before, sending(RowKind::UpdateBefore, *time))?;
                }
                self.outgoing.push(&row, sending(RowKind::UpdateAfter, time))
            }
        }
    }

    /// Whether more waits than may.
    fn is_over(&self) -> bool {
        let Some(Waiting { rows, bytes }) = self.waiting else { return false };
        self.definition.max_rows.is_some_and(|most| rows > most)
            || self.definition.max_bytes.is_some_and(|most| bytes > most)
    }

    /// Sends what has waited longest until no more waits than may.
    fn send_early(&mut self, seq: u32) -> Result<(), OperatorError> {
        while self.is_over() {
            while let Some(unknown) = &self.unknown_from {
                let first = self.order.first();
                let order_key = first.map(|(since, key, _)| self.definition.order_key(*since, key));
                if order_key.is_some_and(|order_key| order_key < *unknown) {
                    break;
                }
                self.find(i64::MAX, CHUNK)?;
            }
            if self.order.is_empty() {
                break;
            }
            self.send_first(seq)?;
        }
        Ok(())
    }

    /// Writes what has changed.
    fn write(&mut self) {
        for (slot, store_key) in self.slots.all.iter().zip(self.slots.keys.iter()) {
            if !slot.dirty {
                continue;
            }
            let key = self.definition.key_of(store_key);
            let since = slot.entry.as_ref().map(|entry| entry.since);
            match &slot.entry {
                Some(entry) => {
                    self.encoding.entry(entry, &self.input);
                    self.state.put(self.store, store_key, &self.encoding.bytes);
                }
                None if slot.stored.is_some() => self.state.delete(self.store, store_key),
                None => {}
            }
            if let (Until::For(_), true) = (self.definition.until, since != slot.stored) {
                if let Some(stored) = slot.stored {
                    self.state.delete(self.store, &self.definition.order_key(stored, key));
                }
                if let Some(since) = since {
                    self.state.put(self.store, &self.definition.order_key(since, key), &[]);
                }
            }
        }
    }
}

impl RunningSuppress {
    /// What waits from this time on, and later, is not due.
    fn due(&self, stream_time: Option<i64>) -> Option<i64> {
        let delay = match self.definition.until {
            Until::WindowClose { after } => after,
            Until::For(duration) => duration,
        };
        stream_time.map(|time| time.saturating_sub(delay)).filter(|due| *due >= 0)
    }

    fn buffer<'a, 'b>(
        &'a self,
        input: &'a Batch,
        due: Option<i64>,
        context: &'b mut Context<'_>,
    ) -> Result<Buffer<'a, 'b>, OperatorError> {
        let store = context.store(0);
        Ok(Buffer {
            definition: &self.definition,
            input: self.rows.encoder(input.rows.columns())?,
            slots: Touched::default(),
            order: BTreeSet::new(),
            due,
            unknown_from: Some(self.definition.order_key(self.earliest, &[])),
            waiting: self.waiting,
            outgoing: Outgoing::new(&input.rows, &self.rows)?,
            encoding: Encoding::default(),
            tells_before: self.before,
            state: &mut *context.state,
            store,
        })
    }

    /// Counts what waits, if that matters and is not known.
    fn count(&mut self, context: &mut Context<'_>) -> Result<(), StateError> {
        if self.waiting.is_some() || !self.definition.is_bounded() {
            return Ok(());
        }
        let to: &[u8] = match self.definition.until {
            Until::WindowClose { .. } => self.definition.order_end(),
            Until::For(_) => &[ROW + 1],
        };
        let mut waiting = Waiting::default();
        let store = context.store(0);
        let mut entries = context.state.scan(store, &[], to)?;
        while let Some((key, value)) = entries.next_entry()? {
            waiting.rows += 1;
            waiting.bytes += (key.len() + value.len()) as u64;
        }
        self.waiting = Some(waiting);
        Ok(())
    }

    fn process_rows(&mut self, input: &Batch, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        self.count(context)?;
        let keys = self.keys.encode_all(input.rows.columns(), input.len())?;
        let ends = match self.definition.until {
            Until::WindowClose { .. } => {
                let column = input.rows.columns().get(self.definition.schema.key.saturating_sub(1));
                column.and_then(|column| column.as_primitive_opt::<TimestampMillisecondType>())
            }
            Until::For(_) => None,
        };
        let rows = input.time.iter().zip(&input.seq).enumerate();
        let is_new = |row: usize| input.kind(row) != RowKind::UpdateBefore;
        let last = rows.clone().filter(|(row, _)| is_new(*row)).map(|(_, (time, _))| *time).max();
        let due = self.due(self.stream_time.max(last));
        let mut stream_time = self.stream_time;
        let mut failed = None;

        let mut buffer = self.buffer(input, due, context)?;
        let mut scratch = Vec::new();
        let mut numbers = Vec::with_capacity(input.len());
        for (row, &time) in input.time.iter().enumerate() {
            let since = ends.map_or(time, |ends| ends.value(row));
            let number = is_new(row).then(|| buffer.slot(since, keys.get(row), &mut scratch));
            numbers.push((number, since));
        }
        match due {
            Some(due) => buffer.find(due, usize::MAX)?,
            None => buffer.load()?,
        }

        let mut replaced: Option<usize> = None;
        for ((row, (&time, &seq)), (number, since)) in rows.zip(numbers) {
            let Some(number) = number else {
                replaced = Some(row);
                continue;
            };
            let kind = input.kind(row);
            let before = match kind {
                _ if !self.before => None,
                RowKind::UpdateAfter => replaced.take(),
                RowKind::Delete => Some(row),
                RowKind::Insert | RowKind::UpdateBefore => None,
            };
            let before = before.map(|row| {
                let time = input.time.get(row).copied().unwrap_or_default();
                (time, Row::Given(row))
            });
            let (known, gone) = (kind != RowKind::Insert, kind == RowKind::Delete);
            stream_time = stream_time.max(Some(time));
            buffer.put(number, Entry { since, time, known, gone, row: Row::Given(row), before });
            if gone && ends.is_some() {
                let entry = buffer.slots.all.get(number).and_then(|slot| slot.entry.as_ref());
                if entry.is_some_and(|entry| !entry.known) {
                    buffer.forget(number);
                }
            }
            if let Some(due) = self.due(stream_time) {
                buffer.send_due(due, seq)?;
            }
            if !buffer.is_over() {
                continue;
            }
            if self.definition.fails {
                let waiting = buffer.waiting.unwrap_or_default();
                failed = Some((seq, waiting));
                break;
            }
            buffer.send_early(seq)?;
        }
        buffer.write();
        let waiting = buffer.waiting;
        let output = buffer.outgoing.finish()?;
        self.end(stream_time, waiting);
        if let Some((seq, Waiting { rows, bytes })) = failed {
            let room = match self.definition.max_rows {
                Some(most) if rows > most => format!("more than {most} rows wait"),
                _ => format!("what waits takes {bytes} bytes"),
            };
            let message =
                format!("{room}; raise `max-rows` or `max-bytes`, or say `when-full = \"emit-early\"`");
            context.fail(seq, Code::RecordSuppress, message);
        }
        Ok(output)
    }

    /// Sends what waits since no later than `until`.
    fn send(&mut self, until: i64, seq: u32, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        self.count(context)?;
        let nothing = Batch::empty(&self.definition.schema.columns);
        let mut buffer = self.buffer(&nothing, Some(until), context)?;
        buffer.find(until, usize::MAX)?;
        buffer.send_due(until, seq)?;
        buffer.write();
        let waiting = buffer.waiting;
        let output = buffer.outgoing.finish()?;
        self.end(self.stream_time, waiting);
        Ok(output)
    }

    fn end(&mut self, stream_time: Option<i64>, waiting: Option<Waiting>) {
        self.stream_time = stream_time;
        self.waiting = waiting;
        // What was due is sent.
        self.earliest = self.due(stream_time).map_or(0, |due| due.saturating_add(1));
    }
}

const LAYOUT: u8 = 1;

/// Buffers for encoding, used again and again.
#[derive(Debug, Default)]
struct Encoding {
    /// What was encoded last.
    bytes: Vec<u8>,
    row: Vec<u8>,
}

impl Encoding {
    fn entry(&mut self, entry: &Entry, input: &RowEncoder<'_>) {
        let Entry { since, time, known, gone, row, before } = entry;
        self.row.clear();
        row.write(input, &mut self.row);
        let mut writer = ValueWriter::new(&mut self.bytes, LAYOUT);
        writer.put_i64(*since).put_i64(*time).put_bool(*known).put_bool(*gone).put_bytes(&self.row);
        writer.put_option(before.is_some());
        if let Some((time, before)) = before {
            self.row.clear();
            before.write(input, &mut self.row);
            writer.put_i64(*time).put_bytes(&self.row);
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Entry, ValueError> {
    let mut reader = ValueReader::new(bytes, LAYOUT)?;
    let (since, time) = (reader.get_i64()?, reader.get_i64()?);
    let (known, gone) = (reader.get_bool()?, reader.get_bool()?);
    let row = Row::Stored(reader.get_bytes()?.into());
    let before = match reader.get_option()? {
        true => Some((reader.get_i64()?, Row::Stored(reader.get_bytes()?.into()))),
        false => None,
    };
    reader.finish()?;
    Ok(Entry { since, time, known, gone, row, before })
}

impl Operator for RunningSuppress {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        match inputs.first() {
            Some(input) if !input.is_empty() => Ok(vec![self.process_rows(input, context)?]),
            _ => Ok(vec![Batch::empty(&self.definition.schema.columns)]),
        }
    }

    fn advance(
        &mut self,
        to: Advance,
        seq: u32,
        context: &mut Context<'_>,
    ) -> Result<Vec<Batch>, OperatorError> {
        let until = match to {
            Advance::End => Some(i64::MAX),
            Advance::To(time) => {
                self.stream_time = self.stream_time.max(Some(time));
                self.due(self.stream_time)
            }
        };
        match until {
            Some(until) => Ok(vec![self.send(until, seq, context)?]),
            None => Ok(Vec::new()),
        }
    }

    fn position(&self) -> Option<i64> {
        self.stream_time
    }

    fn reset(&mut self, position: Option<i64>) {
        self.stream_time = position;
        self.earliest = 0;
        // An operator that has never seen a row has an empty store.
        self.waiting = position.is_none().then(Waiting::default);
    }
}
