//! One group per key and window, of tumbling and hopping windows.
//!
//! The store holds `window start | key` → entry: the windows that close next stand at its front, in the order in which they
//! are sent, and expire as one range.

use std::ops::Range;

use super::changes::{Changes, Key, Place};
use super::groups::{Entry, Failure, Groups, decode};
use super::{Aggregate, Wanted, Window};
use crate::aggregates::Arguments;
use crate::batch::{Batch, RowKind};
use crate::key::KeyEncoder;
use crate::operator::{Advance, Context, DropReason, Operator, OperatorError};

const START: usize = 8;

pub(super) struct TimeWindows {
    aggregate: Aggregate,
    size: i64,
    /// How far apart windows begin.
    every: i64,
    window: Window,
    wanted: Wanted,
    keys: KeyEncoder,
    stream_time: Option<i64>,
}

impl TimeWindows {
    pub fn new(
        aggregate: Aggregate,
        (size, every): (i64, i64),
        window: Window,
        wanted: Wanted,
    ) -> Result<Self, OperatorError> {
        let keys = KeyEncoder::of(&aggregate.input)?;
        Ok(TimeWindows { aggregate, size, every, window, wanted, keys, stream_time: None })
    }

    /// Windows that start before this are closed at `stream_time`; closed means `stream_time >= end + grace`.
    fn closed_until(&self, stream_time: Option<i64>) -> i64 {
        let Self { size, every, window: Window { grace, .. }, .. } = *self;
        match stream_time {
            None => 0,
            Some(time) => {
                let last = time.saturating_sub(grace).saturating_sub(size).div_euclid(every);
                (last + 1).saturating_mul(every).max(0)
            }
        }
    }

    /// The starts of the windows that hold a time, the earliest first.
    fn starts(&self, time: i64) -> impl Iterator<Item = i64> + use<> {
        let Self { size, every, .. } = *self;
        let first = (time.saturating_sub(size).div_euclid(every) + 1).max(0);
        (first..=time.div_euclid(every)).map(move |number| number * every)
    }

    fn process_rows(
        &mut self,
        input: &Batch,
        context: &mut Context<'_>,
    ) -> Result<Vec<Batch>, OperatorError> {
        let mut changes = Changes::new(input, &self.keys, &self.aggregate.plan)?;
        let mut groups = Groups::default();
        let store = context.store(0);
        let size = self.size;
        let open_from = self.closed_until(self.stream_time);
        let keys = self.keys.encode_all(input.rows.columns(), input.len())?;
        let arguments = self.aggregate.plan.prepare(&input.rows);
        let usable = context.without_errors(input, arguments.errors());

        // A null value counts as a row of nulls here, as in Kafka Streams' windowed aggregates.
        // Whether a row is late depends on the rows before it only: decide first, so that groups are read in one go.
        let mut numbers = Vec::with_capacity(input.len());
        let mut rows: Vec<(usize, Range<usize>)> = Vec::with_capacity(input.len());
        let mut late = Vec::new();
        let mut store_key = Vec::new();
        let mut stream_time = self.stream_time;
        let mut null_keys = 0;
        for (row, &time) in input.time.iter().enumerate() {
            if keys.is_null(row) {
                null_keys += 1;
            } else if usable.as_ref().is_none_or(|usable| usable.value(row)) {
                stream_time = stream_time.max(Some(time));
                let open_from = self.closed_until(stream_time);
                let first = numbers.len();
                for start in self.starts(time).filter(|start| *start >= open_from) {
                    store_key.clear();
                    store_key.extend_from_slice(&start.to_be_bytes());
                    store_key.extend_from_slice(keys.get(row));
                    numbers.push(groups.index_of(&store_key));
                }
                if numbers.len() == first {
                    late.push(row);
                } else {
                    rows.push((row, first..numbers.len()));
                }
            }
        }
        context.count(DropReason::NullKey, null_keys);
        context.count(DropReason::Late, late.len() as u64);
        groups.load(&self.aggregate.plan, context.state, store)?;

        // A window that sends its result when it closes has to have one then, and not after each of its rows.
        let fallible = !self.window.emit_close && !self.aggregate.plan.results_cannot_fail();
        for (row, windows) in rows {
            let (Some(&time), Some(&seq)) = (input.time.get(row), input.seq.get(row)) else { continue };
            self.pass_time(time, seq, &mut groups, &mut changes, context)?;
            let windows = numbers.get(windows).unwrap_or_default();
            if let Err((code, message)) =
                self.add(&mut groups, windows, (&arguments, row), (time, seq), fallible)
            {
                context.fail(seq, code, message);
                continue;
            }
            for &number in windows {
                let Some(group) = groups.all.get_mut(number) else { continue };
                if self.window.emit_close {
                    // Nothing is said until the window closes.
                    group.pending = None;
                } else if !self.wanted.fold {
                    changes.push_pending(group, Some(split(groups.keys.get(number), size).1))?;
                }
            }
        }
        self.stream_time = stream_time;
        for number in groups.pending() {
            let Some(group) = groups.all.get_mut(number) else { continue };
            changes.push_pending(group, Some(split(groups.keys.get(number), size).1))?;
        }
        groups.write(&self.aggregate.plan, context.state, store);
        let passed = self.closed_until(self.stream_time);
        if passed > open_from {
            context.state.expire(store, &[], &passed.to_be_bytes());
        }
        Ok(vec![self.window.finish(changes, &self.aggregate.schema, context)?, input.take(&late)?])
    }

    /// Adds a row to windows: to all of them or, where it fails in one, to none.
    fn add(
        &self,
        groups: &mut Groups,
        windows: &[usize],
        row: (&Arguments, usize),
        at: (i64, u32),
        fallible: bool,
    ) -> Result<(), Failure> {
        let plan = &self.aggregate.plan;
        let several = windows.len() > 1;
        if several {
            windows
                .iter()
                .filter_map(|number| groups.all.get(*number))
                .try_for_each(|group| Entry::check(group.entry.as_ref(), plan, row, fallible))?;
        }
        for &number in windows {
            if let Some(group) = groups.all.get_mut(number) {
                group.add(plan, row, at, self.wanted.before, fallible && !several)?;
            }
        }
        Ok(())
    }

    /// Stream time reaches `time`: windows that close now are sent.
    fn pass_time(
        &mut self,
        time: i64,
        seq: u32,
        groups: &mut Groups,
        changes: &mut Changes<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), OperatorError> {
        let was = self.closed_until(self.stream_time);
        self.stream_time = self.stream_time.max(Some(time));
        let now = self.closed_until(self.stream_time);
        if now > was && self.window.emit_close {
            groups.write(&self.aggregate.plan, context.state, context.store(0));
            self.send(was, now, seq, changes, context)?;
        }
        Ok(())
    }

    /// Sends the windows that start in [`from`, `to`), in order of end and key.
    fn send(
        &self,
        from: i64,
        to: i64,
        seq: u32,
        changes: &mut Changes<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), OperatorError> {
        for item in context.state.scan(context.store(0), &from.to_be_bytes(), &to.to_be_bytes())? {
            let (store_key, bytes) = item?;
            let entry = decode(&self.aggregate.plan, &bytes)?;
            let (key, window) = split(&store_key, self.size);
            let place = Place { key: Key::Stored(key), window: Some(window), time: entry.time, seq };
            changes.push(place, RowKind::Insert, Some(&entry.state))?;
        }
        Ok(())
    }
}

/// The key and the window of a store key.
fn split(store_key: &[u8], size: i64) -> (&[u8], (i64, i64)) {
    let (start, key) = store_key.split_at_checked(START).unwrap_or((&[0; START], &[]));
    let start = i64::from_be_bytes(start.try_into().unwrap_or_default());
    (key, (start, start.saturating_add(size)))
}

impl Operator for TimeWindows {
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
        match to {
            Advance::To(time) => self.pass_time(time, seq, &mut Groups::default(), &mut changes, context)?,
            Advance::End if self.window.emit_close => {
                self.send(self.closed_until(self.stream_time), i64::MAX, seq, &mut changes, context)?;
            }
            Advance::End => {}
        }
        let passed = if to == Advance::End { i64::MAX } else { self.closed_until(self.stream_time) };
        context.state.expire(context.store(0), &[], &passed.to_be_bytes());
        Ok(vec![self.window.finish(changes, &self.aggregate.schema, context)?, nothing])
    }

    fn position(&self) -> Option<i64> {
        self.stream_time
    }

    fn reset(&mut self, position: Option<i64>) {
        self.stream_time = position;
    }
}
