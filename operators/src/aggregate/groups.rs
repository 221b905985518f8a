//! The groups that one epoch touches: each is read once and written once.

use hashbrown::HashTable;
use millstream_state::value::{ValueError, ValueReader, ValueWriter};
use millstream_state::{StoreId, TaskState};

use crate::aggregates::{AggregatePlan, Arguments, GroupState};
use crate::diagnostic::Code;
use crate::hash::hash_bytes;
use crate::operator::OperatorError;

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
#[derive(Debug)]
pub(super) struct Group {
    /// Its key in the store.
    pub store_key: Box<[u8]>,
    /// What it holds now; `None` if it does not exist.
    pub entry: Option<Entry>,
    /// Whether `entry` differs from the store.
    pub dirty: bool,
    /// With folding: what consumers know of it, and the newest row that changed it.
    pub pending: Option<Pending>,
}

/// A change that has not been sent yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// Whether consumers know of the row.
    pub existed: bool,
    /// What they know of it, if they want to be told.
    pub before: Option<Entry>,
    /// Sequence number of the newest row.
    pub seq: u32,
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
    ) -> Result<(), (Code, String)> {
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
            Some(pending) => pending.seq = seq,
            None => self.pending = Some(Pending { existed, before: previous.filter(|_| before), seq }),
        }
        Ok(())
    }
}

/// The groups of an epoch, by store key.
#[derive(Default)]
pub(super) struct Groups {
    table: HashTable<u32>,
    /// In the order in which they were first touched.
    pub all: Vec<Group>,
}

impl Groups {
    /// The number of the group with this key; a new one has no entry yet and must be [loaded](Groups::load).
    #[expect(clippy::indexing_slicing, reason = "the table holds positions of `all` only")]
    pub fn index_of(&mut self, store_key: &[u8]) -> usize {
        let hash = hash_bytes(store_key);
        let all = &mut self.all;
        let entry = self.table.entry(
            hash,
            |index| *all[*index as usize].store_key == *store_key,
            |index| hash_bytes(&all[*index as usize].store_key),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(found) => *found.get() as usize,
            hashbrown::hash_table::Entry::Vacant(free) => {
                let index = all.len();
                free.insert(index as u32);
                all.push(Group { store_key: store_key.into(), entry: None, dirty: false, pending: None });
                index
            }
        }
    }

    /// The group with this key, if the epoch has touched it.
    #[expect(clippy::indexing_slicing, reason = "the table holds positions of `all` only")]
    pub fn find(&self, store_key: &[u8]) -> Option<usize> {
        let all = &self.all;
        self.table
            .find(hash_bytes(store_key), |index| *all[*index as usize].store_key == *store_key)
            .map(|index| *index as usize)
    }

    /// Reads the groups from number `from` on, in one go.
    pub fn load(
        &mut self,
        from: usize,
        plan: &AggregatePlan,
        state: &TaskState,
        store: StoreId,
    ) -> Result<(), OperatorError> {
        let new = self.all.get_mut(from..).unwrap_or_default();
        if new.is_empty() {
            return Ok(());
        }
        let keys: Vec<&[u8]> = new.iter().map(|group| &*group.store_key).collect();
        let found = state.multi_get(store, &keys)?;
        let entries: Result<Vec<Option<Entry>>, OperatorError> =
            found.iter().map(|bytes| bytes.as_ref().map(|bytes| decode(plan, bytes)).transpose()).collect();
        drop(found);
        for (group, entry) in new.iter_mut().zip(entries?) {
            group.entry = entry;
        }
        Ok(())
    }

    /// Writes what has changed.
    pub fn write(&mut self, plan: &AggregatePlan, state: &mut TaskState, store: StoreId) {
        let mut bytes = Vec::new();
        for group in self.all.iter_mut().filter(|group| group.dirty) {
            group.dirty = false;
            match &group.entry {
                Some(entry) => {
                    bytes.clear();
                    encode(plan, entry, &mut bytes);
                    state.put(store, &group.store_key, &bytes);
                }
                None => state.delete(store, &group.store_key),
            }
        }
    }
}

const LAYOUT: u8 = 1;

fn encode(plan: &AggregatePlan, entry: &Entry, bytes: &mut Vec<u8>) {
    let mut aggregates = Vec::new();
    plan.write(&entry.state, &mut aggregates);
    let mut writer = ValueWriter::new(bytes, LAYOUT);
    writer.put_i64(entry.time).put_option(entry.indexed.is_some());
    if let Some(indexed) = entry.indexed {
        writer.put_i64(indexed);
    }
    writer.put_bytes(&aggregates);
}

/// Reads an entry from its bytes in the store.
pub(super) fn decode(plan: &AggregatePlan, bytes: &[u8]) -> Result<Entry, OperatorError> {
    let read = || -> Result<(i64, Option<i64>, &[u8]), ValueError> {
        let mut reader = ValueReader::new(bytes, LAYOUT)?;
        let time = reader.get_i64()?;
        let indexed = if reader.get_option()? { Some(reader.get_i64()?) } else { None };
        let aggregates = reader.get_bytes()?;
        reader.finish()?;
        Ok((time, indexed, aggregates))
    };
    let (time, indexed, aggregates) = read().map_err(|error| OperatorError::Stored(error.to_string()))?;
    let state = plan.read(aggregates).map_err(|error| OperatorError::Stored(error.to_string()))?;
    Ok(Entry { time, indexed, state })
}
