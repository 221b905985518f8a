//! One group per key and sliding window.
//!
//! A row at time t makes two windows: [t − size, t], which it ends, and, once there are later rows in it, [t + 1, t + 1 + size],
//! which begins behind it. It is in every window around it, and its own are made of those of its neighbours. Windows do not
//! begin before 0: rows that are earlier than `size` share [0, size].
//!
//! The store holds `0 | time bucket | key | start, the latest first` → entry. What a row needs are neighbours there, from the
//! window that begins behind it back to the newest one that ends before it: one short scan, or two. Buckets that are over
//! expire as one range. For each window it also holds `1 | start | key` → nothing: there they stand in the order in which they
//! close, and expire as a range, too. An epoch reads those that it closes with one scan. A closed window is kept while a row
//! may come that is not too late to make another window of it; which ones a row sees is decided by its time, so that nobody
//! can tell what was pruned when.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use millstream_state::{StoreId, TaskState};

use super::changes::{Changes, Key, Place};
use super::groups::{Entry, Failure, Groups, Pending, decode};
use super::{Aggregate, GROUP, INDEX, Wanted, Window, index_key};
use crate::aggregates::Arguments;
use crate::batch::{Batch, RowKind};
use crate::key::KeyEncoder;
use crate::key_index::KeyIndex;
use crate::operator::{Advance, Context, DropReason, Operator, OperatorError};

pub(super) struct SlidingWindows {
    aggregate: Aggregate,
    size: i64,
    window: Window,
    wanted: Wanted,
    keys: KeyEncoder,
    stream_time: Option<i64>,
    /// Buckets before this one have expired.
    expired: i64,
}

/// The windows of a key by start, the latest first, with the numbers of their groups.
type KeyWindows = Vec<(i64, usize)>;

/// What an epoch needs of the store.
#[derive(Default)]
struct Epoch {
    keys: KeyIndex,
    /// By number of the key.
    windows: Vec<KeyWindows>,
    groups: Groups,
    /// With `emit = "close"`: starts and keys of the windows that close within the epoch and have not been sent.
    closing: BTreeSet<(i64, Box<[u8]>)>,
    /// Windows that start before this close within the epoch.
    closed_until: i64,
}

/// A window that a row changes or makes.
enum Target {
    /// One that there is, by the number of its group.
    Known(usize),
    /// A new one that starts then, with the rows of another in it, and this row if it is `around` it.
    New { start: i64, rows: Option<Entry>, around: bool },
    /// The one that the target before made is sent once more.
    Again,
}

/// A row within an epoch: where it is in the input, its key, and its time.
#[derive(Clone, Copy)]
struct Row {
    row: usize,
    key: usize,
    time: i64,
    seq: u32,
}

impl SlidingWindows {
    pub fn new(
        aggregate: Aggregate,
        size: i64,
        window: Window,
        wanted: Wanted,
    ) -> Result<Self, OperatorError> {
        let keys = KeyEncoder::of(&aggregate.input)?;
        Ok(SlidingWindows { aggregate, size, window, wanted, keys, stream_time: None, expired: 0 })
    }

    /// Windows that end before this are closed at `stream_time`.
    fn open_from(&self, stream_time: Option<i64>) -> i64 {
        stream_time.map_or(i64::MIN, |time| time.saturating_sub(self.window.grace))
    }

    /// The same for their starts.
    fn closed_until(&self, stream_time: Option<i64>) -> i64 {
        self.open_from(stream_time).saturating_sub(self.size).max(0)
    }

    /// Windows that start before this are of no use at `stream_time`: the earliest one of use ends with a row whose window
    /// behind it is still open.
    fn over_until(&self, stream_time: Option<i64>) -> i64 {
        self.closed_until(stream_time).saturating_sub(self.size).saturating_sub(1).max(0)
    }

    fn end(&self, start: i64) -> i64 {
        start.saturating_add(self.size)
    }

    /// Length of a bucket of the store.
    fn bucket(&self) -> i64 {
        self.size.saturating_mul(4)
    }

    fn group_key(&self, bytes: &mut Vec<u8>, key: &[u8], start: i64) {
        bytes.clear();
        bytes.push(GROUP);
        bytes.extend_from_slice(&(start / self.bucket()).to_be_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&(!start).to_be_bytes());
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

        // First the windows of all rows, key by key; then the rows, one after the other.
        let mut epoch = Epoch::default();
        let mut rows: Vec<Row> = Vec::with_capacity(input.len());
        let mut needs: Vec<(usize, i64)> = Vec::with_capacity(input.len());
        let mut late = Vec::new();
        let mut stream_time = self.stream_time;
        let (mut null_keys, mut null_values) = (0, 0);
        for (row, (&time, &seq)) in input.time.iter().zip(&input.seq).enumerate() {
            if keys.is_null(row) {
                null_keys += 1;
            } else if input.is_null_value(row) {
                null_values += 1;
            } else if usable.as_ref().is_none_or(|usable| usable.value(row)) {
                stream_time = stream_time.max(Some(time));
                if self.end(time).saturating_add(1) <= self.open_from(stream_time) {
                    late.push(row);
                    continue;
                }
                let key = epoch.keys.number_of(keys.get(row));
                needs.push((key, time));
                rows.push(Row { row, key, time, seq });
            }
        }
        context.count(DropReason::NullKey, null_keys);
        context.count(DropReason::NullValue, null_values);
        let store = context.store(0);
        self.load_all(needs, &mut epoch, context.state, store)?;
        self.load_closing(stream_time, &mut epoch, context.state, store)?;

        for row in rows {
            self.pass_time(row.time, row.seq, &mut epoch, &mut changes)?;
            match self.add(row, &arguments, &mut epoch, &mut changes, context)? {
                Ok(true) => {}
                Ok(false) => late.push(row.row),
                Err((code, message)) => context.fail(row.seq, code, message),
            }
        }
        self.stream_time = stream_time;
        late.sort_unstable();
        context.count(DropReason::Late, late.len() as u64);
        for number in epoch.groups.pending() {
            self.send_pending(&mut epoch.groups, number, &mut changes)?;
        }
        epoch.groups.write(&self.aggregate.plan, context.state, store);
        self.expire(context);
        Ok(vec![self.window.finish(changes, &self.aggregate.schema, context)?, input.take(&late)?])
    }

    /// Reads the windows that rows may need, which have these keys and times.
    fn load_all(
        &self,
        mut needs: Vec<(usize, i64)>,
        epoch: &mut Epoch,
        state: &mut TaskState,
        store: StoreId,
    ) -> Result<(), OperatorError> {
        epoch.windows.resize_with(epoch.keys.len(), Vec::new);
        needs.sort_unstable();
        // Times far from each other are read apart. What a row needs reaches back two lengths.
        let reach = self.size.saturating_mul(2).saturating_add(1);
        let is_near = |one: &(usize, i64), next: &(usize, i64)| {
            one.0 == next.0 && next.1.saturating_sub(one.1) <= reach
        };
        let Epoch { keys, windows, groups, .. } = epoch;
        for near in needs.chunk_by(is_near).rev() {
            let (Some(&(key, first)), Some(&(_, last))) = (near.first(), near.last()) else { continue };
            if let Some(windows) = windows.get_mut(key) {
                self.load(keys.get(key), (first, last), windows, groups, state, store)?;
            }
        }
        Ok(())
    }

    /// Reads the windows of a key that rows between two times may need.
    fn load(
        &self,
        key: &[u8],
        (first, last): (i64, i64),
        windows: &mut KeyWindows,
        groups: &mut Groups,
        state: &mut TaskState,
        store: StoreId,
    ) -> Result<(), OperatorError> {
        let latest = last.saturating_add(1);
        let earliest = first.saturating_sub(self.size.saturating_mul(2));
        let earliest = earliest.max(self.over_until(self.stream_time));
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for bucket in (earliest / self.bucket()..=latest / self.bucket()).rev() {
            from.clear();
            from.push(GROUP);
            from.extend_from_slice(&bucket.to_be_bytes());
            from.extend_from_slice(key);
            to.clone_from(&from);
            from.extend_from_slice(&(!latest).to_be_bytes());
            to.extend_from_slice(&(!earliest).to_be_bytes());
            to.push(0);
            let mut stored = state.scan(store, &from, &to)?;
            while let Some((store_key, bytes)) = stored.next_entry()? {
                let start = start_of(store_key)?;
                let number = groups.index_of(store_key);
                if let Some(group) = groups.all.get_mut(number) {
                    group.entry = Some(decode(&self.aggregate.plan, bytes)?);
                }
                windows.push((start, number));
                if self.end(start) < first {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Reads the windows that close until `stream_time`, where they are sent.
    fn load_closing(
        &self,
        stream_time: Option<i64>,
        epoch: &mut Epoch,
        state: &mut TaskState,
        store: StoreId,
    ) -> Result<(), OperatorError> {
        let closed = self.closed_until(self.stream_time);
        epoch.closed_until = self.closed_until(stream_time);
        if !self.window.emit_close || epoch.closed_until <= closed {
            return Ok(());
        }
        let groups = &mut epoch.groups;
        let (mut missing, mut store_key) = (Vec::new(), Vec::new());
        let mut index = state.scan(store, &index_key(closed, &[]), &index_key(epoch.closed_until, &[]))?;
        while let Some((bytes, _)) = index.next_entry()? {
            let (start, key) =
                bytes.get(1..).and_then(|rest| rest.split_first_chunk()).ok_or_else(too_short)?;
            let start = i64::from_be_bytes(*start);
            self.group_key(&mut store_key, key, start);
            if groups.find(&store_key).is_none() {
                missing.push(groups.index_of(&store_key));
            }
            epoch.closing.insert((start, key.into()));
        }
        drop(index);
        let keys: Vec<&[u8]> = missing.iter().map(|number| groups.keys.get(*number)).collect();
        for (number, bytes) in missing.iter().zip(state.multi_get(store, &keys)?) {
            if let (Some(group), Some(bytes)) = (groups.all.get_mut(*number), bytes) {
                group.entry = Some(decode(&self.aggregate.plan, &bytes)?);
            }
        }
        Ok(())
    }

    /// Adds a row to the windows that it is in, and says whether there is one.
    fn add(
        &self,
        Row { row, key, time, seq }: Row,
        arguments: &Arguments,
        epoch: &mut Epoch,
        changes: &mut Changes<'_>,
        context: &mut Context<'_>,
    ) -> Result<Result<bool, Failure>, OperatorError> {
        let Some(windows) = epoch.windows.get_mut(key) else { return Ok(Ok(false)) };
        let (groups, key) = (&mut epoch.groups, epoch.keys.get(key));
        let plan = &self.aggregate.plan;
        let open_from = self.open_from(self.stream_time);
        let targets = match time < self.size {
            true => self.targets_of_early(time, open_from, windows, groups),
            false => self.targets(time, open_from, windows, groups),
        };

        // It is added to all of them or, where it fails in one, to none.
        let fallible = !self.window.emit_close && !plan.results_cannot_fail();
        for target in &targets {
            let entry = match target {
                Target::Known(number) => groups.all.get(*number).and_then(|group| group.entry.as_ref()),
                Target::New { rows, around: true, .. } => rows.as_ref(),
                Target::New { .. } | Target::Again => continue,
            };
            if let Err(failure) = Entry::check(entry, plan, (arguments, row), fallible) {
                return Ok(Err(failure));
            }
        }

        let mut is_in_one = false;
        let mut store_key = Vec::new();
        let mut made = None;
        for target in targets {
            let (number, around) = match target {
                Target::Known(number) => (number, true),
                Target::New { start, rows, around } => {
                    self.group_key(&mut store_key, key, start);
                    let number = groups.index_of(&store_key);
                    if let Some(group) = groups.all.get_mut(number) {
                        group.dirty = true;
                        group.pending = Some(Pending { existed: false, before: None, seq, row });
                        group.entry = rows;
                    }
                    let place = windows.partition_point(|(other, _)| *other > start);
                    windows.insert(place, (start, number));
                    context.state.put(context.store(0), &index_key(start, key), &[]);
                    if self.window.emit_close && start < epoch.closed_until {
                        epoch.closing.insert((start, key.into()));
                    }
                    made = Some(number);
                    (number, around)
                }
                Target::Again => {
                    let Some(number) = made else { continue };
                    if let Some(group) = groups.all.get_mut(number)
                        && group.pending.is_none()
                    {
                        let before = group.entry.clone().filter(|_| self.wanted.before);
                        group.pending = Some(Pending { existed: true, before, seq, row });
                    }
                    (number, false)
                }
            };
            let Some(group) = groups.all.get_mut(number) else { continue };
            if around {
                is_in_one = true;
                if let Err(failure) =
                    group.add(plan, (arguments, row), (time, seq), self.wanted.before, false)
                {
                    return Err(OperatorError::Internal(failure.1));
                }
            }
            if self.window.emit_close {
                // Nothing is said until the window closes.
                group.pending = None;
            } else if !self.wanted.fold {
                self.send_pending(groups, number, changes)?;
            }
        }
        Ok(Ok(is_in_one))
    }

    /// The windows that a row changes and makes, in the order in which Kafka Streams does.
    fn targets(&self, time: i64, open_from: i64, windows: &[(i64, usize)], groups: &Groups) -> Vec<Target> {
        let entry = |number: usize| groups.all.get(number).and_then(|group| group.entry.as_ref());
        let mut targets = Vec::new();
        // The newest row before this one, and the newest window that ends before this one.
        let (mut previous, mut left) = (None, None);
        // The newest window around this row and later ones.
        let mut right = None;
        let (mut has_left, mut has_right) = (false, false);
        let earliest = time.saturating_sub(self.size.saturating_mul(2));
        let earliest = earliest.max(self.over_until(self.stream_time));
        let first = windows.partition_point(|(start, _)| *start > time.saturating_add(1));
        for &(start, number) in windows.iter().skip(first).take_while(|(start, _)| *start >= earliest) {
            let Some(entry) = entry(number) else { continue };
            let end = self.end(start);
            if start > time {
                has_right = true;
                continue;
            }
            if end < time {
                (previous, left) = (Some(entry.time), Some(entry));
                break;
            }
            if end >= open_from {
                targets.push(Target::Known(number));
            }
            if end == time {
                has_left = true;
                if entry.time >= time {
                    // A row of this time has made all there is to make.
                    return targets;
                }
                previous = Some(entry.time);
            } else if right.is_none() {
                right = Some(entry);
            }
        }
        let start = time.saturating_sub(self.size);
        let mut made_left = false;
        if let Some(previous) = previous {
            let behind = previous.saturating_add(1);
            if self.end(behind) >= time && self.end(behind) >= open_from && !has(windows, behind) {
                targets.push(Target::New { start: behind, rows: None, around: true });
                made_left = behind == start;
            }
        }
        if made_left {
            // The window behind the row before is the one that ends with this row: Kafka Streams makes it twice, too.
            targets.push(Target::Again);
        } else if !has_left && time >= open_from {
            let rows = left.filter(|left| left.time >= start).cloned();
            targets.push(Target::New { start, rows, around: true });
        }
        if let (false, Some(right)) = (has_right, right) {
            targets.extend(behind(time, right));
        }
        targets
    }

    /// The same for a row that is earlier than the first window is long.
    fn targets_of_early(
        &self,
        time: i64,
        open_from: i64,
        windows: &[(i64, usize)],
        groups: &Groups,
    ) -> Vec<Target> {
        let entry = |number: usize| groups.all.get(number).and_then(|group| group.entry.as_ref());
        let mut targets = Vec::new();
        // The window of all early rows, the newest row before this one, the newest window around this row and later ones.
        let (mut shared, mut previous, mut right) = (None, None, None);
        for &(start, number) in windows.iter().rev().take_while(|(start, _)| *start <= time) {
            let Some(entry) = entry(number) else { continue };
            if start == 0 {
                shared = Some((number, entry));
                previous = Some(entry.time).filter(|previous| *previous < time);
            } else {
                right = Some(entry);
                if self.end(start) >= open_from {
                    targets.push(Target::Known(number));
                }
            }
        }
        let right = right.or(shared.map(|(_, entry)| entry));
        if let (false, Some(right)) = (has(windows, time.saturating_add(1)), right) {
            targets.extend(behind(time, right));
        }
        if let Some(previous) = previous {
            let behind = previous.saturating_add(1);
            if self.end(behind) >= open_from && !has(windows, behind) {
                targets.push(Target::New { start: behind, rows: None, around: true });
            }
        }
        if self.size >= open_from {
            targets.push(match shared {
                Some((number, _)) => Target::Known(number),
                None => Target::New { start: 0, rows: None, around: true },
            });
        }
        targets
    }

    /// Sends what a group holds back.
    fn send_pending(
        &self,
        groups: &mut Groups,
        number: usize,
        changes: &mut Changes<'_>,
    ) -> Result<(), OperatorError> {
        let start = start_of(groups.keys.get(number))?;
        match groups.all.get_mut(number) {
            Some(group) => changes.push_pending(group, Some((start, self.end(start)))),
            None => Ok(()),
        }
    }

    /// Stream time reaches `time`: windows that close now are sent.
    fn pass_time(
        &mut self,
        time: i64,
        seq: u32,
        epoch: &mut Epoch,
        changes: &mut Changes<'_>,
    ) -> Result<(), OperatorError> {
        self.stream_time = self.stream_time.max(Some(time));
        self.send(self.closed_until(self.stream_time), seq, epoch, changes)
    }

    /// Sends the windows that start before `until`, in order of end and key.
    fn send(
        &self,
        until: i64,
        seq: u32,
        epoch: &mut Epoch,
        changes: &mut Changes<'_>,
    ) -> Result<(), OperatorError> {
        let Epoch { groups, closing, .. } = epoch;
        let mut store_key = Vec::new();
        while closing.first().is_some_and(|(start, _)| *start < until) {
            let Some((start, key)) = closing.pop_first() else { break };
            self.group_key(&mut store_key, &key, start);
            let group = groups.find(&store_key).and_then(|number| groups.all.get(number));
            let Some(entry) = group.and_then(|group| group.entry.as_ref()) else { continue };
            let window = Some((start, self.end(start)));
            let place = Place { key: Key::Stored(&key), window, time: entry.time, seq };
            changes.push(place, RowKind::Insert, Some(&entry.state))?;
        }
        Ok(())
    }

    /// Lets go of what is over, bucket by bucket.
    fn expire(&mut self, context: &mut Context<'_>) {
        let first = self.over_until(self.stream_time) / self.bucket();
        if first > self.expired {
            self.expired = first;
            let store = context.store(0);
            let mut to = vec![GROUP];
            to.extend_from_slice(&first.to_be_bytes());
            context.state.expire(store, &[GROUP], &to);
            context.state.expire(store, &[INDEX], &index_key(first * self.bucket(), &[]));
        }
    }
}

/// The window behind a row at `time` with the rows of one that is around it, if there are later ones.
fn behind(time: i64, around: &Entry) -> Option<Target> {
    let start = time.saturating_add(1);
    (around.time > time).then(|| Target::New { start, rows: Some(around.clone()), around: false })
}

/// Whether there is a window with this start.
fn has(windows: &[(i64, usize)], start: i64) -> bool {
    windows.binary_search_by_key(&Reverse(start), |(start, _)| Reverse(*start)).is_ok()
}

/// The start of the window of a group's store key.
fn start_of(store_key: &[u8]) -> Result<i64, OperatorError> {
    let bytes = store_key.last_chunk().ok_or_else(too_short)?;
    Ok(!i64::from_be_bytes(*bytes))
}

fn too_short() -> OperatorError {
    OperatorError::Stored("the key of a window is too short".to_owned())
}

impl Operator for SlidingWindows {
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
        let (store, mut epoch) = (context.store(0), Epoch::default());
        match to {
            Advance::To(time) => {
                self.load_closing(self.stream_time.max(Some(time)), &mut epoch, context.state, store)?;
                self.pass_time(time, seq, &mut epoch, &mut changes)?;
                self.expire(context);
            }
            Advance::End => {
                self.load_closing(Some(i64::MAX), &mut epoch, context.state, store)?;
                self.send(i64::MAX, seq, &mut epoch, &mut changes)?;
                context.state.expire(store, &[GROUP], &[INDEX + 1]);
            }
        }
        Ok(vec![self.window.finish(changes, &self.aggregate.schema, context)?, nothing])
    }

    fn position(&self) -> Option<i64> {
        self.stream_time
    }

    fn reset(&mut self, position: Option<i64>) {
        self.stream_time = position;
        self.expired = 0;
    }
}
