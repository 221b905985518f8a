//! One group per key and session: rows of a key that are no further apart than the gap.
//!
//! The store holds `0 | key | start, the latest first` → entry, whose time is the session's end. Sessions of a key do not
//! overlap, so those that a row extends or joins are neighbours there, found by one scan; a session that grows at its end
//! keeps its place, and a row writes one entry. It also holds an index entry `1 | time | key` → start for each place, at a time
//! not later than the session's end: growing leaves the index alone, and when stream time has passed an entry it is moved if
//! its session is still open, and dropped if there is none. So the sweep finds every session that closes. An epoch reads what
//! it will sweep with one scan and one look at many keys.
//!
//! A closed session is gone: a row that would have extended it begins another one.

use std::collections::BTreeMap;
use std::mem;

use hashbrown::{HashMap, HashTable, hash_table};
use millstream_state::{StoreId, TaskState};

use super::changes::{Changes, Key, Place};
use super::groups::{Entry, Failure, decode, encode};
use super::{Aggregate, GROUP, INDEX, Wanted, Window, index_key};
use crate::aggregates::{AggregatePlan, Arguments, GroupState};
use crate::batch::{Batch, RowKind};
use crate::hash::hash_bytes;
use crate::key::KeyEncoder;
use crate::key_index::KeyIndex;
use crate::operator::{Advance, Context, DropReason, Operator, OperatorError};

pub(super) struct SessionWindows {
    aggregate: Aggregate,
    gap: i64,
    window: Window,
    wanted: Wanted,
    keys: KeyEncoder,
    stream_time: Option<i64>,
    /// No index entry is earlier; `None`: unknown.
    earliest: Option<i64>,
    starts: Starts,
}

/// Where the sessions begin that the store holds.
#[derive(Default)]
enum Starts {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// By the hash of the key: where two keys share one, the store is asked in vain.
    Known(HashTable<(u64, i64)>),
    /// More than are kept in memory.
    TooMany,
}

/// How many sessions are known in memory.
const MOST: usize = 1 << 20;

impl Starts {
    /// Says whether the store is known to have had no such session.
    fn insert(&mut self, key: &[u8], start: i64) -> bool {
        let Starts::Known(starts) = self else { return false };
        let is_new = put(starts, (hash_bytes(key), start));
        if starts.len() > MOST {
            *self = Starts::TooMany;
        }
        is_new
    }

    fn remove(&mut self, key: &[u8], start: i64) {
        if let Starts::Known(starts) = self {
            let session = (hash_bytes(key), start);
            if let Ok(known) = starts.find_entry(session.0, |known| *known == session) {
                known.remove();
            }
        }
    }

    /// Looks where sessions begin: each has a place in the index.
    fn look(state: &mut TaskState, store: StoreId) -> Result<Starts, OperatorError> {
        let mut starts = HashTable::new();
        let mut index = state.scan(store, &[INDEX], &[INDEX + 1])?;
        while let Some((bytes, start)) = index.next_entry()? {
            let start = i64::from_be_bytes(*start.first_chunk().ok_or_else(too_short)?);
            put(&mut starts, (hash_bytes(bytes.get(9..).ok_or_else(too_short)?), start));
            if starts.len() > MOST {
                return Ok(Starts::TooMany);
            }
        }
        Ok(Starts::Known(starts))
    }
}

/// Says whether it was not there.
fn put(starts: &mut HashTable<(u64, i64)>, session: (u64, i64)) -> bool {
    let place = starts.entry(session.0, |known| *known == session, |(hash, _)| *hash);
    let is_new = matches!(place, hash_table::Entry::Vacant(_));
    place.insert(session);
    is_new
}

/// A session within an epoch.
struct Session {
    start: i64,
    /// Its time is the session's end.
    entry: Entry,
    /// Whether it differs from the store.
    dirty: bool,
    /// The newest row that changed it, and its sequence number.
    row: usize,
    seq: u32,
}

impl Session {
    fn end(&self) -> i64 {
        self.entry.time
    }

    fn window(&self) -> (i64, i64) {
        (self.start, self.end())
    }
}

/// The sessions of a key that an epoch needs.
#[derive(Default)]
struct KeySessions {
    /// The latest first.
    sessions: Vec<Session>,
    /// The starts of those that the store holds.
    stored: Vec<i64>,
    /// With folding: those that consumers know of.
    known: Vec<Known>,
    /// With folding: those that have closed and about which consumers may have to hear.
    closed: Vec<Session>,
}

/// A session that consumers know of.
struct Known {
    window: (i64, i64),
    /// What they know, if they want to be told.
    before: Option<GroupState>,
    /// The row that made it a part of another one, and its sequence number.
    gone: Option<(usize, u32)>,
}

/// What an epoch needs of the store.
#[derive(Default)]
struct Epoch {
    keys: KeyIndex,
    /// By number of the key.
    all: Vec<KeySessions>,
    /// The part of the index that is swept within the epoch, by time and key.
    due: BTreeMap<(i64, Box<[u8]>), Due>,
    /// That part lies before this time.
    due_until: i64,
    /// The sessions that it leads to and that are not among those above, by store key.
    others: HashMap<Box<[u8]>, Entry>,
}

/// An index entry: the start of its session, and whether the store holds it.
#[derive(Clone, Copy)]
struct Due {
    start: i64,
    is_stored: bool,
}

/// A row within an epoch: where it is in the input, its key, and its time.
#[derive(Clone, Copy)]
struct Row {
    row: usize,
    key: usize,
    time: i64,
    seq: u32,
}

impl SessionWindows {
    pub fn new(
        aggregate: Aggregate,
        gap: i64,
        window: Window,
        wanted: Wanted,
    ) -> Result<Self, OperatorError> {
        let keys = KeyEncoder::of(&aggregate.input)?;
        let (stream_time, earliest, starts) = (None, None, Starts::Unknown);
        Ok(SessionWindows { aggregate, gap, window, wanted, keys, stream_time, earliest, starts })
    }

    /// Sessions that end before this are closed at `stream_time`.
    fn open_from(&self, stream_time: Option<i64>) -> i64 {
        let closed = |time: i64| time.saturating_sub(self.window.grace).saturating_sub(self.gap);
        stream_time.map_or(0, closed).max(0)
    }

    fn process_rows(
        &mut self,
        input: &Batch,
        context: &mut Context<'_>,
    ) -> Result<Vec<Batch>, OperatorError> {
        let mut changes = Changes::new(input, &self.keys, &self.aggregate.plan)?;
        let keys = self.keys.encode_all(input.rows.columns(), input.len())?;
        let arguments = self.aggregate.plan.prepare(&input.rows);
        let usable = context.without_errors(input, arguments.errors());

        // A null value counts as a row of nulls here, as in Kafka Streams' session aggregates.
        // First the sessions of all rows, key by key; then the rows, one after the other.
        let mut epoch = Epoch::default();
        let mut rows: Vec<Row> = Vec::with_capacity(input.len());
        let mut times: Vec<(i64, i64)> = Vec::new();
        let mut stream_time = self.stream_time;
        let mut null_keys = 0;
        for (row, (&time, &seq)) in input.time.iter().zip(&input.seq).enumerate() {
            if keys.is_null(row) {
                null_keys += 1;
            } else if usable.as_ref().is_none_or(|usable| usable.value(row)) {
                stream_time = stream_time.max(Some(time));
                let key = epoch.keys.number_of(keys.get(row));
                match times.get_mut(key) {
                    Some((first, last)) => (*first, *last) = ((*first).min(time), (*last).max(time)),
                    None => times.push((time, time)),
                }
                rows.push(Row { row, key, time, seq });
            }
        }
        context.count(DropReason::NullKey, null_keys);
        let store = context.store(0);
        self.load(&times, &mut epoch, context.state, store)?;
        self.load_due(self.open_from(stream_time), &mut epoch, context.state, store)?;

        let mut late = Vec::new();
        for row in rows {
            self.stream_time = self.stream_time.max(Some(row.time));
            self.sweep(self.open_from(self.stream_time), row.seq, &mut epoch, &mut changes, context)?;
            match self.add(row, &arguments, &mut epoch, &mut changes, context)? {
                Ok(true) => {}
                Ok(false) => late.push(row.row),
                Err((code, message)) => context.fail(row.seq, code, message),
            }
        }
        context.count(DropReason::Late, late.len() as u64);
        if self.is_folded() {
            Self::send_folded(&epoch, &mut changes)?;
        }
        self.write(&epoch, context);
        Ok(vec![self.window.finish(changes, &self.aggregate.schema, context)?, input.take(&late)?])
    }

    fn is_folded(&self) -> bool {
        self.wanted.fold && !self.window.emit_close
    }

    /// Reads the sessions that rows of an epoch may extend: those of each key lie between two times.
    fn load(
        &mut self,
        times: &[(i64, i64)],
        epoch: &mut Epoch,
        state: &mut TaskState,
        store: StoreId,
    ) -> Result<(), OperatorError> {
        if matches!(self.starts, Starts::Unknown) {
            self.starts = Starts::look(state, store)?;
        }
        epoch.all.resize_with(times.len(), KeySessions::default);
        let Starts::Known(starts) = &self.starts else {
            let keys = epoch.keys.iter();
            return keys
                .zip(times)
                .zip(&mut epoch.all)
                .try_for_each(|((key, times), found)| self.scan(key, *times, found, state, store));
        };
        let mut sought: Vec<(usize, i64, Vec<u8>)> = Vec::with_capacity(times.len());
        for (number, (key, (_, last))) in epoch.keys.iter().zip(times).enumerate() {
            let hash = hash_bytes(key);
            let until = last.saturating_add(self.gap);
            let known = starts.iter_hash(hash).filter(|(known, start)| *known == hash && *start <= until);
            let first = sought.len();
            sought.extend(known.map(|(_, start)| {
                let mut store_key = Vec::with_capacity(key.len() + 9);
                group_key(&mut store_key, key, *start);
                (number, *start, store_key)
            }));
            if let Some(of_key) = sought.get_mut(first..) {
                of_key.sort_unstable_by_key(|(_, start, _)| std::cmp::Reverse(*start));
            }
        }
        let store_keys: Vec<&[u8]> = sought.iter().map(|(_, _, store_key)| store_key.as_slice()).collect();
        for ((number, start, _), bytes) in sought.iter().zip(state.multi_get(store, &store_keys)?) {
            if let (Some(bytes), Some(found), Some((first, _))) =
                (bytes, epoch.all.get_mut(*number), times.get(*number))
            {
                self.found(*start, &bytes, *first, found)?;
            }
        }
        Ok(())
    }

    /// Reads the sessions of a key that rows between two times may extend.
    fn scan(
        &self,
        key: &[u8],
        (first, last): (i64, i64),
        found: &mut KeySessions,
        state: &mut TaskState,
        store: StoreId,
    ) -> Result<(), OperatorError> {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        group_key(&mut from, key, last.saturating_add(self.gap));
        group_key(&mut to, key, 0);
        to.push(0);
        let mut stored = state.scan(store, &from, &to)?;
        while let Some((store_key, bytes)) = stored.next_entry()? {
            let start = !i64::from_be_bytes(*store_key.last_chunk().ok_or_else(too_short)?);
            if !self.found(start, bytes, first, found)? {
                break;
            }
        }
        Ok(())
    }

    /// Takes up a session of the store, unless it has ended too early for rows from the time `first` on; says whether it has not.
    fn found(
        &self,
        start: i64,
        bytes: &[u8],
        first: i64,
        found: &mut KeySessions,
    ) -> Result<bool, OperatorError> {
        let entry = decode(&self.aggregate.plan, bytes)?;
        if entry.time < first.saturating_sub(self.gap).max(self.open_from(self.stream_time)) {
            return Ok(false);
        }
        found.stored.push(start);
        if self.is_folded() {
            let before = self.wanted.before.then(|| entry.state.clone());
            found.known.push(Known { window: (start, entry.time), before, gone: None });
        }
        found.sessions.push(Session { start, entry, dirty: false, row: 0, seq: 0 });
        Ok(true)
    }

    /// Adds a row to the sessions that it touches, which become one, and says whether it was not too late.
    fn add(
        &mut self,
        Row { row, key, time, seq }: Row,
        arguments: &Arguments,
        epoch: &mut Epoch,
        changes: &mut Changes<'_>,
        context: &mut Context<'_>,
    ) -> Result<Result<bool, Failure>, OperatorError> {
        let Some(KeySessions { sessions, known, .. }) = epoch.all.get_mut(key) else { return Ok(Ok(false)) };
        let plan = &self.aggregate.plan;
        let open_from = self.open_from(self.stream_time);
        let oldest = time.saturating_sub(self.gap).max(open_from);
        let from = sessions.partition_point(|session| session.start > time.saturating_add(self.gap));
        let touched = sessions.iter().skip(from).take_while(|session| session.end() >= oldest).count();
        let touched = from..from + touched;
        let Some(found) = sessions.get_mut(touched.clone()) else { return Ok(Ok(false)) };
        let start = found.last().map_or(time, |earliest| earliest.start.min(time));
        let end = found.first().map_or(time, |latest| latest.end().max(time));
        if end < open_from {
            return Ok(Ok(false));
        }

        // A window that sends its result when it closes has to have one then, and not after each of its rows.
        let fallible = !self.window.emit_close && !plan.results_cannot_fail();
        let sends = !self.window.emit_close && !self.wanted.fold;
        let before = sends && self.wanted.before;
        let state = match merged(plan, found, (arguments, row), fallible, before) {
            Ok(state) => state,
            Err(failure) => return Ok(Err(failure)),
        };
        let session =
            Session { start, entry: Entry { time: end, indexed: None, state }, dirty: true, row, seq };
        // As in Kafka Streams, a session goes when a row joins it, and comes again, unless it is of one time and stays so.
        let stays = (start, end) == (time, time);
        let place =
            |window: (i64, i64)| Place { key: Key::Row(row), window: Some(window), time: window.1, seq };
        if sends {
            let mut kind = RowKind::Insert;
            for old in found.iter().rev() {
                let state = before.then_some(&old.entry.state);
                if !stays {
                    changes.push(place(old.window()), RowKind::Delete, state)?;
                    continue;
                }
                kind = RowKind::UpdateAfter;
                if let Some(state) = state {
                    changes.push(place(old.window()), RowKind::UpdateBefore, Some(state))?;
                }
            }
            changes.push(place(session.window()), kind, Some(&session.entry.state))?;
        } else if !stays {
            for old in &*found {
                let known = known.iter_mut().find(|known| known.window == old.window());
                if let Some(known) = known.filter(|known| known.gone.is_none()) {
                    known.gone = Some((row, seq));
                }
            }
        }
        let is_new = found.is_empty();
        let has_moved = found.last().is_some_and(|earliest| earliest.start != start);
        sessions.splice(touched, [session]);
        if is_new || has_moved {
            let key: Box<[u8]> = epoch.keys.get(key).into();
            self.index((end, start, key), is_new, epoch, context);
        }
        Ok(Ok(true))
    }

    /// Puts a session into the index: its end, start and key. Where a new one touches no other the index has no such entry: that would be
    /// of one that it touches, or that is closed.
    fn index(
        &mut self,
        (time, start, key): (i64, i64, Box<[u8]>),
        is_new: bool,
        epoch: &mut Epoch,
        context: &mut Context<'_>,
    ) {
        if time < epoch.due_until {
            // It may take the place of another session's, which the store still has.
            let due = epoch.due.entry((time, key)).or_insert(Due { start, is_stored: false });
            due.start = start;
        } else {
            self.earliest = self.earliest.map(|earliest| earliest.min(time));
            let (store, index_key) = (context.store(0), index_key(time, &key));
            match is_new {
                true => context.state.put_new(store, &index_key, &start.to_be_bytes()),
                false => context.state.put(store, &index_key, &start.to_be_bytes()),
            }
        }
    }

    /// Sends what became of the sessions that consumers know of, and the new ones.
    fn send_folded(epoch: &Epoch, changes: &mut Changes<'_>) -> Result<(), OperatorError> {
        let place = |window: (i64, i64), row, seq| Place {
            key: Key::Row(row),
            window: Some(window),
            time: window.1,
            seq,
        };
        for KeySessions { sessions, known, closed, .. } in &epoch.all {
            let changed: Vec<&Session> =
                sessions.iter().chain(closed).filter(|session| session.dirty).collect();
            for Known { window, before, gone } in known {
                if let Some((row, seq)) = *gone
                    && changed.iter().all(|session| session.window() != *window)
                {
                    changes.push(place(*window, row, seq), RowKind::Delete, before.as_ref())?;
                }
            }
            for session in changed {
                let place = place(session.window(), session.row, session.seq);
                let known = known.iter().find(|known| known.window == session.window());
                if let Some(before) = known.and_then(|known| known.before.as_ref()) {
                    changes.push(place, RowKind::UpdateBefore, Some(before))?;
                }
                let kind = known.map_or(RowKind::Insert, |_| RowKind::UpdateAfter);
                changes.push(place, kind, Some(&session.entry.state))?;
            }
        }
        Ok(())
    }

    /// Writes what has changed.
    fn write(&mut self, epoch: &Epoch, context: &mut Context<'_>) {
        let store = context.store(0);
        let (mut store_key, mut bytes, mut aggregates) = (Vec::new(), Vec::new(), Vec::new());
        for (number, KeySessions { sessions, stored, .. }) in epoch.all.iter().enumerate() {
            let key = epoch.keys.get(number);
            for start in stored {
                if sessions.iter().all(|session| session.start != *start) {
                    group_key(&mut store_key, key, *start);
                    context.state.delete(store, &store_key);
                    self.starts.remove(key, *start);
                }
            }
            for session in sessions.iter().filter(|session| session.dirty) {
                group_key(&mut store_key, key, session.start);
                encode(&self.aggregate.plan, &session.entry, &mut aggregates, &mut bytes);
                match self.starts.insert(key, session.start) {
                    true => context.state.put_new(store, &store_key, &bytes),
                    false => context.state.put(store, &store_key, &bytes),
                }
            }
        }
    }

    /// Reads the part of the index before `until`, and the sessions that it leads to.
    fn load_due(
        &mut self,
        until: i64,
        epoch: &mut Epoch,
        state: &mut TaskState,
        store: StoreId,
    ) -> Result<(), OperatorError> {
        epoch.due_until = until;
        if self.earliest.is_some_and(|earliest| earliest >= until) {
            return Ok(());
        }
        // Not from the beginning: there lies what has been deleted, and is passed over one by one.
        let from = index_key(self.earliest.unwrap_or_default(), &[]);
        let mut index = state.scan(store, &from, &[INDEX + 1])?;
        self.earliest = Some(i64::MAX);
        while let Some((bytes, start)) = index.next_entry()? {
            let (time, key) =
                bytes.get(1..).and_then(|rest| rest.split_first_chunk()).ok_or_else(too_short)?;
            let time = i64::from_be_bytes(*time);
            if time >= until {
                self.earliest = Some(time);
                break;
            }
            let start = i64::from_be_bytes(*start.first_chunk().ok_or_else(too_short)?);
            epoch.due.insert((time, key.into()), Due { start, is_stored: true });
        }
        drop(index);
        let Epoch { keys, all, due, others, .. } = epoch;
        let mut missing = Vec::new();
        for ((_, key), Due { start, .. }) in due.iter() {
            let sessions = keys.find(key).and_then(|number| all.get(number));
            if !sessions.is_some_and(|sessions| sessions.stored.contains(start)) {
                let mut store_key = Vec::new();
                group_key(&mut store_key, key, *start);
                missing.push(store_key);
            }
        }
        let store_keys: Vec<&[u8]> = missing.iter().map(Vec::as_slice).collect();
        for (store_key, bytes) in missing.iter().zip(state.multi_get(store, &store_keys)?) {
            if let Some(bytes) = bytes {
                others.insert(store_key.as_slice().into(), decode(&self.aggregate.plan, &bytes)?);
            }
        }
        Ok(())
    }

    /// Lets go of the sessions that end before `until`; with `emit = "close"` sends them, in order of end, start and key.
    fn sweep(
        &mut self,
        until: i64,
        seq: u32,
        epoch: &mut Epoch,
        changes: &mut Changes<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), OperatorError> {
        let store = context.store(0);
        let mut closed: Vec<(Box<[u8]>, i64, Entry)> = Vec::new();
        let mut store_key = Vec::new();
        while epoch.due.first_key_value().is_some_and(|((time, _), _)| *time < until) {
            let Some(((time, key), Due { start, is_stored })) = epoch.due.pop_first() else { break };
            if is_stored {
                context.state.delete(store, &index_key(time, &key));
            }
            let known = epoch.keys.find(&key).and_then(|number| epoch.all.get_mut(number));
            if let Some(KeySessions { sessions, closed: gone, .. }) = known
                && let Some(place) = sessions.iter().position(|session| session.start == start)
                && let Some(end) = sessions.get(place).map(Session::end)
            {
                if end >= until {
                    self.index((end, start, key), false, epoch, context);
                    continue;
                }
                // If the store holds it, it is deleted when the epoch is written.
                let session = sessions.remove(place);
                if self.window.emit_close {
                    closed.push((key, start, session.entry));
                } else if self.wanted.fold {
                    gone.push(session);
                }
                continue;
            }
            group_key(&mut store_key, &key, start);
            match epoch.others.get(store_key.as_slice()).map(|entry| entry.time) {
                // It has become a part of another one.
                None => self.starts.remove(&key, start),
                Some(end) if end >= until => self.index((end, start, key), false, epoch, context),
                Some(_) => {
                    context.state.delete(store, &store_key);
                    self.starts.remove(&key, start);
                    closed.extend(epoch.others.remove(store_key.as_slice()).map(|entry| (key, start, entry)));
                }
            }
        }
        if self.window.emit_close {
            closed.sort_by(|(key, start, entry), (other_key, other_start, other)| {
                (entry.time, start, key).cmp(&(other.time, other_start, other_key))
            });
            for (key, start, entry) in &closed {
                let window = Some((*start, entry.time));
                let place = Place { key: Key::Stored(key), window, time: entry.time, seq };
                changes.push(place, RowKind::Insert, Some(&entry.state))?;
            }
        }
        Ok(())
    }
}

/// The state of the session that a row makes of others, the latest first. It takes that of a single one if it need not be kept.
fn merged(
    plan: &AggregatePlan,
    found: &mut [Session],
    (arguments, row): (&Arguments, usize),
    fallible: bool,
    keep: bool,
) -> Result<GroupState, Failure> {
    let takes = found.len() == 1 && !fallible && !keep;
    let mut in_order = found.iter_mut().rev();
    let mut state = match in_order.next() {
        Some(only) if takes => mem::take(&mut only.entry.state),
        Some(earliest) => earliest.entry.state.clone(),
        None => plan.new_state(),
    };
    for later in in_order {
        plan.merge(&mut state, &later.entry.state)?;
    }
    if let Err(failure) = plan.update(&mut state, arguments, row) {
        if let (true, [only]) = (takes, found) {
            only.entry.state = state;
        }
        return Err(failure);
    }
    match plan.result_error(&state).filter(|_| fallible) {
        Some(failure) => Err(failure),
        None => Ok(state),
    }
}

/// `0 | key | start`, the latest first.
fn group_key(bytes: &mut Vec<u8>, key: &[u8], start: i64) {
    bytes.clear();
    bytes.push(GROUP);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&(!start).to_be_bytes());
}

fn too_short() -> OperatorError {
    OperatorError::Stored("an entry of a session is too short".to_owned())
}

impl Operator for SessionWindows {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        match inputs.first() {
            Some(input) if !input.is_empty() => self.process_rows(input, context),
            _ => Ok(self.aggregate.nothing()),
        }
    }

    fn advance(
        &mut self,
        to: Advance,
        seq: u32,
        context: &mut Context<'_>,
    ) -> Result<Vec<Batch>, OperatorError> {
        let nothing = Batch::empty(&self.aggregate.input.columns);
        let mut changes = Changes::new(&nothing, &self.keys, &self.aggregate.plan)?;
        let (mut epoch, until) = (
            Epoch::default(),
            match to {
                Advance::To(time) => {
                    self.stream_time = self.stream_time.max(Some(time));
                    self.open_from(self.stream_time)
                }
                Advance::End => i64::MAX,
            },
        );
        let store = context.store(0);
        self.load_due(until, &mut epoch, context.state, store)?;
        self.sweep(until, seq, &mut epoch, &mut changes, context)?;
        Ok(vec![self.window.finish(changes, &self.aggregate.schema, context)?, nothing])
    }

    fn position(&self) -> Option<i64> {
        self.stream_time
    }

    fn reset(&mut self, position: Option<i64>) {
        self.stream_time = position;
        self.earliest = None;
        self.starts = Starts::Unknown;
    }
}
