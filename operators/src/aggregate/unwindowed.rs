//! One group per key, for ever or until it has been untouched for `retain`.
//!
//! The store holds `0 | key` → entry. With `retain` it also holds one index entry `1 | time | key` per group, at a time not
//! later than the group's newest row: an update leaves the index alone, and the sweep moves an entry that turns out
//! to be too early. So the sweep finds every group that expires, and an update writes one entry.

use super::changes::{Changes, Key, Place};
use super::groups::{Entry, Groups, decode};
use super::{Aggregate, GROUP, INDEX, Wanted, index_key};
use crate::batch::{Batch, RowKind};
use crate::key::KeyEncoder;
use crate::operator::{Advance, Context, DropReason, Operator, OperatorError};

pub(super) struct Unwindowed {
    aggregate: Aggregate,
    wanted: Wanted,
    keys: KeyEncoder,
    stream_time: Option<i64>,
    /// No index entry is earlier; `None`: unknown.
    earliest: Option<i64>,
}

impl Unwindowed {
    pub fn new(aggregate: Aggregate, wanted: Wanted) -> Result<Self, OperatorError> {
        let keys = KeyEncoder::of(&aggregate.input)?;
        Ok(Unwindowed { aggregate, wanted, keys, stream_time: None, earliest: None })
    }

    fn process_rows(&mut self, input: &Batch, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let mut changes = Changes::new(input, &self.keys, &self.aggregate.plan)?;
        let mut groups = Groups::default();
        let store = context.store(0);
        let keys = self.keys.encode_all(input.rows.columns(), input.len())?;
        let arguments = self.aggregate.plan.prepare(&input.rows);
        let usable = context.without_errors(input, arguments.errors());

        // First the groups of all rows, read in one go; then the rows, one after the other.
        let mut numbers = Vec::with_capacity(input.len());
        let mut store_key = vec![GROUP];
        let (mut null_keys, mut null_values) = (0, 0);
        for row in 0..input.len() {
            let number = if keys.is_null(row) {
                null_keys += 1;
                None
            } else if input.is_null_value(row) {
                null_values += 1;
                None
            } else if usable.as_ref().is_some_and(|usable| !usable.value(row)) {
                None
            } else {
                store_key.truncate(1);
                store_key.extend_from_slice(keys.get(row));
                Some(groups.index_of(&store_key))
            };
            numbers.push(number);
        }
        context.count(DropReason::NullKey, null_keys);
        context.count(DropReason::NullValue, null_values);
        groups.load(&self.aggregate.plan, context.state, store)?;

        let fallible = !self.aggregate.plan.results_cannot_fail();
        for ((row, number), (&time, &seq)) in
            numbers.into_iter().enumerate().zip(input.time.iter().zip(&input.seq))
        {
            let Some(number) = number else { continue };
            if self.stream_time.is_none_or(|stream_time| time > stream_time) {
                self.stream_time = Some(time);
                self.sweep(time, seq, &mut groups, &mut changes, context)?;
            }
            if self.is_late(time) {
                context.count(DropReason::Late, 1);
                continue;
            }
            let Some(group) = groups.all.get_mut(number) else { continue };
            let row = (&arguments, row);
            if let Err((code, message)) =
                group.add(&self.aggregate.plan, row, (time, seq), self.wanted.before, fallible)
            {
                context.fail(seq, code, message);
                continue;
            }
            let unindexed = |entry: &&mut Entry| self.aggregate.retain.is_some() && entry.indexed.is_none();
            if let Some(entry) = group.entry.as_mut().filter(unindexed) {
                entry.indexed = Some(entry.time);
                self.earliest = self.earliest.map(|earliest| earliest.min(entry.time));
                let index = index_key(entry.time, key_of(groups.keys.get(number)));
                context.state.put(store, &index, &[]);
            }
            if !self.wanted.fold {
                changes.push_pending(group, None)?;
            }
        }
        for number in groups.pending() {
            let Some(group) = groups.all.get_mut(number) else { continue };
            changes.push_pending(group, None)?;
        }
        groups.write(&self.aggregate.plan, context.state, store);
        changes.finish(&self.aggregate.schema, context)
    }

    /// Whether stream time is past the expiry of a row at `time`.
    fn is_late(&self, time: i64) -> bool {
        match (self.aggregate.retain, self.stream_time) {
            (Some(retain), Some(stream_time)) => stream_time > time.saturating_add(retain),
            _ => false,
        }
    }

    /// Deletes the groups whose newest row is older than `retain`.
    fn sweep(
        &mut self,
        stream_time: i64,
        seq: u32,
        groups: &mut Groups,
        changes: &mut Changes<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), OperatorError> {
        let Some(retain) = self.aggregate.retain else { return Ok(()) };
        let bound = stream_time.saturating_sub(retain);
        if bound <= 0 || self.earliest.is_some_and(|earliest| earliest >= bound) {
            return Ok(());
        }
        let store = context.store(0);
        // Not from the beginning: there lies what has been deleted, and is passed over one by one.
        let from = index_key(self.earliest.unwrap_or_default(), &[]);
        let mut expired: Vec<(i64, Box<[u8]>, Entry)> = Vec::new();
        let due: Vec<(Box<[u8]>, i64)> = context
            .state
            .scan(store, &from, &index_key(bound, &[]))?
            .map(|item| {
                item.map_err(OperatorError::from)
                    .and_then(|(index, _)| index_time(&index).map(|time| (index, time)))
            })
            .collect::<Result<_, _>>()?;
        for (index, index_time) in due {
            let key = index.get(9..).unwrap_or_default();
            let mut store_key = vec![GROUP];
            store_key.extend_from_slice(key);
            context.state.delete(store, &index);
            // What the epoch has changed and not written yet is newer than the store.
            let known = groups.find(&store_key);
            let entry = match known.and_then(|number| groups.all.get(number)) {
                Some(group) => group.entry.clone(),
                None => match context.state.get(store, &store_key)? {
                    Some(bytes) => Some(decode(&self.aggregate.plan, &bytes)?),
                    None => None,
                },
            };
            let Some(mut entry) = entry.filter(|entry| entry.indexed == Some(index_time)) else { continue };
            let remains = entry.time >= bound;
            if remains {
                entry.indexed = Some(entry.time);
                context.state.put(store, &index_key(entry.time, key), &[]);
            } else {
                expired.push((entry.time, key.into(), entry.clone()));
            }
            let number = match known {
                Some(number) => number,
                None => groups.index_of(&store_key),
            };
            if let Some(group) = groups.all.get_mut(number) {
                group.dirty = true;
                if !remains {
                    // Consumers learn of the row before they learn that it is gone.
                    changes.push_pending(group, None)?;
                }
                group.entry = remains.then_some(entry);
            }
        }
        expired.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, key, entry) in &expired {
            let place = Place { key: Key::Stored(key), window: None, time: stream_time, seq };
            changes.push(place, RowKind::Delete, self.wanted.before.then_some(&entry.state))?;
        }
        let next = context.state.scan(store, &index_key(bound, &[]), &[INDEX + 1])?.next().transpose()?;
        self.earliest = Some(next.map_or(Ok(i64::MAX), |(index, _)| index_time(&index))?);
        Ok(())
    }
}

/// The key of a store key.
fn key_of(store_key: &[u8]) -> &[u8] {
    store_key.get(1..).unwrap_or_default()
}

fn index_time(index: &[u8]) -> Result<i64, OperatorError> {
    let bytes = index.get(1..9).and_then(|bytes| bytes.try_into().ok());
    let bytes = bytes.ok_or_else(|| OperatorError::Stored("an index entry is too short".to_owned()))?;
    Ok(i64::from_be_bytes(bytes))
}

impl Operator for Unwindowed {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        match inputs.first() {
            Some(input) if !input.is_empty() => Ok(vec![self.process_rows(input, context)?]),
            _ => Ok(vec![Batch::empty(&self.aggregate.schema.columns)]),
        }
    }

    fn advance(
        &mut self,
        to: Advance,
        seq: u32,
        context: &mut Context<'_>,
    ) -> Result<Vec<Batch>, OperatorError> {
        let Advance::To(time) = to else { return Ok(Vec::new()) };
        if self.stream_time.is_some_and(|stream_time| time <= stream_time) {
            return Ok(Vec::new());
        }
        self.stream_time = Some(time);
        let nothing = Batch::empty(&self.aggregate.input.columns);
        let mut changes = Changes::new(&nothing, &self.keys, &self.aggregate.plan)?;
        let mut groups = Groups::default();
        self.sweep(time, seq, &mut groups, &mut changes, context)?;
        groups.write(&self.aggregate.plan, context.state, context.store(0));
        Ok(vec![changes.finish(&self.aggregate.schema, context)?])
    }

    fn position(&self) -> Option<i64> {
        self.stream_time
    }

    fn reset(&mut self, position: Option<i64>) {
        self.stream_time = position;
        self.earliest = None;
    }
}
