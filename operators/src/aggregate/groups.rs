//! The groups that one epoch touches: each is read once and written once.

use millstream_state::value::{ValueReader, ValueWriter};
use millstream_state::{StoreId, TaskState};

use crate::aggregates::{AggregatePlan, Arguments, GroupState};
use crate::diagnostic::Code;
use crate::key_index::KeyIndex;
use crate::operator::OperatorError;

/// Why a row fails.
pub(super) type Failure = (Code, String);

/// What a group's store entry holds.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The largest event time of its rows.
    pub time: i64,
    /// Where the expiry index has the group, if it is there.
    pub indexed: Option<i64>,
    /// The aggregates.
    pub state: GroupState,
}

/// A group within an epoch.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// What it holds now; `None` if it does not exist.
    pub entry: Option<Entry>,
    /// Whether `entry` differs from the store.
    pub dirty: bool,
    /// With folding: what consumers know of it, and the newest row that changed it.
    pub pending: Option<Pending>,
}

/// A change that has not been sent yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Whether consumers know of the row.
    pub existed: bool,
    /// What they know of it, if they want to be told.
    pub before: Option<Entry>,
    /// Sequence number of the newest row.
    pub seq: u32,
    /// The newest row.
    pub row: usize,
}

impl Entry {
    /// Whether row `row` of `arguments` can be added to what a group holds, if it holds anything; `fallible` says whether a
    /// result can fail.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(
        entry: Option<&Entry>,
        plan: &AggregatePlan,
        (arguments, row): (&Arguments, usize),
        fallible: bool,
    ) -> Result<(), Failure> {
        if plan.updates_cannot_fail() && !fallible {
            return Ok(());
        }
        let new;
        let state = match entry {
            Some(entry) => &entry.state,
            None => {
                new = plan.new_state();
                &new
            }
        };
        plan.check(state, arguments, row)?;
        if fallible {
            let mut after = state.clone();
            plan.update(&mut after, arguments, row)?;
            plan.result_error(&after).map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}

impl Group {
    /// Adds row `row` of `arguments`, which has event time `time` and sequence number `seq`, and holds the change back until
    /// it is sent. With `before` consumers are told what they knew; `fallible` says whether a result can fail.
    ///
    /// # Errors
    /// Why the row fails; it then leaves no trace: what consumers know stays true.
    pub fn add(
        &mut self,
        plan: &AggregatePlan,
        (arguments, row): (&Arguments, usize),
        (time, seq): (i64, u32),
        before: bool,
        fallible: bool,
    ) -> Result<(), Failure> {
        let existed = self.entry.is_some();
        let previous = if before || fallible { self.entry.clone() } else { None };
        let new = || Entry { time, indexed: None, state: plan.new_state() };
        let mut entry = self.entry.take().unwrap_or_else(new);
        if let Err(failure) = plan.update(&mut entry.state, arguments, row) {
            self.entry = existed.then_some(entry);
            return Err(failure);
        }
        if fallible && let Some(failure) = plan.result_error(&entry.state) {
            self.entry = previous;
            return Err(failure);
        }
        entry.time = entry.time.max(time);
        self.entry = Some(entry);
        self.dirty = true;
        match &mut self.pending {
            Some(pending) => (pending.seq, pending.row) = (seq, row),
            None => self.pending = Some(Pending { existed, before: previous.filter(|_| before), seq, row }),
        }
        Ok(())
    }
}

/// The groups of an epoch, by store key.
#[derive(Default)]
pub(super) struct Groups {
    /// The keys in the store, in the order of `all`.
    pub keys: KeyIndex,
    /// In the order in which they were first touched.
    pub all: Vec<Group>,
}

impl Groups {
    /// The number of the group with this key; a new one has no entry yet and must be [loaded](Groups::load).
    pub fn index_of(&mut self, store_key: &[u8]) -> usize {
        let number = self.keys.number_of(store_key);
        if number == self.all.len() {
            self.all.push(Group::default());
        }
        number
    }

    /// The group with this key, if the epoch has touched it.
    pub fn find(&self, store_key: &[u8]) -> Option<usize> {
        self.keys.find(store_key)
    }

    /// The groups that hold a change back, in the order of the rows that caused it.
    pub fn pending(&self) -> Vec<usize> {
        let pending = self.all.iter().enumerate();
        let mut pending: Vec<(u32, usize)> =
            pending.filter_map(|(number, group)| Some((group.pending.as_ref()?.seq, number))).collect();
        pending.sort_unstable();
        pending.into_iter().map(|(_, number)| number).collect()
    }

    /// Reads all groups, in one go; none of them may have been changed.
    pub fn load(
        &mut self,
        plan: &AggregatePlan,
        state: &TaskState,
        store: StoreId,
    ) -> Result<(), OperatorError> {
        let keys: Vec<&[u8]> = self.keys.iter().collect();
        for (group, found) in self.all.iter_mut().zip(state.multi_get(store, &keys)?) {
            group.entry = found.map(|bytes| decode(plan, &bytes)).transpose()?;
        }
        Ok(())
    }

    /// Writes what has changed.
    pub fn write(&mut self, plan: &AggregatePlan, state: &mut TaskState, store: StoreId) {
        let (mut bytes, mut aggregates) = (Vec::new(), Vec::new());
        for (group, store_key) in self.all.iter_mut().zip(self.keys.iter()).filter(|(group, _)| group.dirty) {
            group.dirty = false;
            match &group.entry {
                Some(entry) => {
                    encode(plan, entry, &mut aggregates, &mut bytes);
                    state.put(store, store_key, &bytes);
                }
                None => state.delete(store, store_key),
            }
        }
    }
}

const LAYOUT: u8 = 1;

/// Makes `bytes` those of an entry; `aggregates` is room for a part of them.
pub(super) fn encode(plan: &AggregatePlan, entry: &Entry, aggregates: &mut Vec<u8>, bytes: &mut Vec<u8>) {
    aggregates.clear();
    plan.write(&entry.state, aggregates);
    let mut writer = ValueWriter::new(bytes, LAYOUT);
    writer.put_i64(entry.time).put_option(entry.indexed.is_some());
    if let Some(indexed) = entry.indexed {
        writer.put_i64(indexed);
    }
    writer.put_bytes(aggregates);
}

/// Reads an entry from its bytes in the store.
pub(super) fn decode(plan: &AggregatePlan, bytes: &[u8]) -> Result<Entry, OperatorError> {
    let mut reader = ValueReader::new(bytes, LAYOUT)?;
    let time = reader.get_i64()?;
    let indexed = if reader.get_option()? { Some(reader.get_i64()?) } else { None };
    let aggregates = reader.get_bytes()?;
    reader.finish()?;
    let state = plan.read(aggregates)?;
    Ok(Entry { time, indexed, state })
}
