//! The staged writes of one store, and what they become by a promotion.
//!
//! An entry is *dirty* until it is promoted, *unlogged* while the changelog lacks it, and *unwritten* from its promotion until
//! the database has it. Other entries over a database are a cache of what it holds: a value, or the knowledge that there is
//! none. Over nothing clean entries are the committed data themselves. The running epoch can be taken back, by an undo log of
//! moved-out old values. Reads see one map, never a stack of them.

use std::{
    collections::HashMap,
    mem,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::{
    Changelog, StoreId,
    expired::{Addition, Expired, Overlapping},
    small_bytes::SmallBytes,
    table::{Range, SlotId, Table},
};

/// What an entry costs besides its key and value: its slot and its places in the indexes.
const ENTRY_BYTES: usize = 80;

/// What an expired range costs, about.
const RANGE_BYTES: usize = 96;

#[derive(Clone, Copy, Default)]
struct Marks {
    dirty: bool,
    unlogged: bool,
    unwritten: bool,
    /// Neither the database nor the changelog has the key.
    new: bool,
}

#[derive(Default)]
struct Entry {
    /// `None`: there is no such key.
    value: Option<SmallBytes>,
    /// The epoch that wrote it last; the undo log knows the value before that.
    epoch: u64,
    marks: Marks,
    /// Read or written since the eviction last looked at it.
    used: AtomicBool,
}

/// How to take back one change of the running epoch.
enum Undo {
    /// The entry was added.
    Added(SlotId),
    /// The entry had another value.
    Changed { id: SlotId, value: Option<SmallBytes>, epoch: u64, marks: Marks },
    /// The entry was unlinked by an expiry; its slot is kept until the epoch ends.
    Unlinked(SlotId),
    /// A range was expired.
    Expired(Addition),
}

pub(crate) struct Staged {
    table: Table<Entry>,
    expired: Expired,
    /// The running epoch. Starts at 1, so that no entry seems to be of it by default.
    epoch: u64,
    undo: Vec<Undo>,
    over_database: bool,
    /// Slots that became dirty or unlogged. A slot may be in a list twice, or without its mark since the change was
    /// taken back: the entry's mark decides.
    dirty: Vec<SlotId>,
    unlogged: Vec<SlotId>,
    dirty_bytes: usize,
    unwritten_bytes: usize,
    bytes: usize,
    /// Where the eviction goes on.
    hand: SlotId,
    /// Whether anybody has asked for a single key.
    asked: AtomicBool,
    /// How many writes the changelog got, and how many keys were written again, or expired, before the promotion that it had got
    /// already.
    logged: u64,
    logged_in_vain: u64,
}

impl Staged {
    pub(crate) fn over_nothing() -> Self {
        Self { over_database: false, ..Self::over_database() }
    }

    pub(crate) fn over_database() -> Self {
        Self {
            table: Table::new(),
            expired: Expired::default(),
            epoch: 1,
            undo: Vec::new(),
            over_database: true,
            dirty: Vec::new(),
            unlogged: Vec::new(),
            dirty_bytes: 0,
            unwritten_bytes: 0,
            bytes: 0,
            hand: 0,
            asked: AtomicBool::new(false),
            logged: 0,
            logged_in_vain: 0,
        }
    }

    /// `None`: only the database knows. `Some(None)`: there is no such key.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.asked.store(true, Relaxed);
        match self.table.find(key) {
            Some(id) => {
                let entry = self.table.value(id);
                entry.used.store(true, Relaxed);
                Some(entry.value.as_deref())
            }
            None => self.expired.end_over(key).map(|_| None),
        }
    }

    /// What [`get`](Self::get) has answered before the running epoch, for the entries that the epoch has written.
    pub(crate) fn before_epoch(&self) -> HashMap<SlotId, Option<Option<&[u8]>>> {
        let written = self.undo.iter().filter_map(|undo| match undo {
            Undo::Added(id) => Some((*id, None)),
            Undo::Changed { id, value, .. } => Some((*id, Some(value.as_deref()))),
            Undo::Unlinked(_) | Undo::Expired(_) => None,
        });
        written.collect()
    }

    /// The key of an entry.
    pub(crate) fn key(&self, id: SlotId) -> &[u8] {
        self.table.key(id)
    }

    /// The number of the entry with this key.
    pub(crate) fn find(&self, key: &[u8]) -> Option<SlotId> {
        self.table.find(key)
    }

    /// Writes a value for a key that has none.
    pub(crate) fn write_new(&mut self, key: &[u8], value: &[u8]) {
        let is_dirty = self.table.find(key).is_some_and(|id| self.table.value(id).marks.dirty);
        self.write(key, Some(value));
        if let Some(id) = self.table.find(key).filter(|_| !is_dirty) {
            self.table.value_mut(id).marks.new = true;
        }
    }

    pub(crate) fn write(&mut self, key: &[u8], value: Option<&[u8]>) {
        let mut was_dirty = false;
        let id = match self.table.find(key) {
            Some(id) => {
                was_dirty = self.table.value(id).marks.dirty;
                self.change(id, value);
                if value.is_none() && self.table.value(id).marks.new {
                    // It came and went: nobody has to hear of it.
                    self.uncharge(id);
                    let marks = &mut self.table.value_mut(id).marks;
                    marks.unlogged = false;
                    // Over nothing the promotion removes it.
                    marks.dirty = !self.over_database;
                    self.charge(id);
                    return;
                }
                id
            }
            None => {
                let value = value.map(SmallBytes::from);
                let marks = Marks { dirty: true, ..Marks::default() };
                let id = self.table.insert(key, Entry { value, epoch: self.epoch, marks, used: true.into() });
                self.undo.push(Undo::Added(id));
                self.dirty.push(id);
                self.charge(id);
                id
            }
        };
        let marks = &mut self.table.value_mut(id).marks;
        if !mem::replace(&mut marks.unlogged, true) {
            self.unlogged.push(id);
            self.logged_in_vain += u64::from(was_dirty);
        }
    }

    /// Makes an entry dirty with another value; whether it is unlogged stays as it is.
    fn change(&mut self, id: SlotId, value: Option<&[u8]>) {
        self.uncharge(id);
        let epoch = self.epoch;
        let entry = self.table.value_mut(id);
        let marks = entry.marks;
        if entry.epoch == epoch {
            match (&mut entry.value, value) {
                (Some(old), Some(new)) => old.assign(new),
                (old, new) => *old = new.map(SmallBytes::from),
            }
        } else {
            let value = mem::replace(&mut entry.value, value.map(SmallBytes::from));
            let epoch = mem::replace(&mut entry.epoch, epoch);
            self.undo.push(Undo::Changed { id, value, epoch, marks });
        }
        entry.used.store(true, Relaxed);
        entry.marks.dirty = true;
        if !marks.dirty {
            self.dirty.push(id);
        }
        self.charge(id);
    }

    pub(crate) fn expire(&mut self, from: &[u8], to: &[u8]) {
        if from >= to {
            return;
        }
        let ids = self.table.between(from, to);
        if !self.over_database {
            for id in ids {
                self.change(id, None);
                let marks = &mut self.table.value_mut(id).marks;
                (marks.unlogged, marks.new) = (false, false);
            }
            return;
        }
        for id in ids {
            let marks = self.table.value(id).marks;
            self.logged_in_vain += u64::from(marks.dirty && !marks.unlogged);
            self.uncharge(id);
            self.table.unlink(id);
            self.undo.push(Undo::Unlinked(id));
        }
        let addition = self.expired.add(from, to);
        self.undo.push(Undo::Expired(addition));
    }

    pub(crate) fn end_epoch(&mut self) {
        if self.undo.is_empty() {
            return;
        }
        for undo in self.undo.drain(..) {
            if let Undo::Unlinked(id) = undo {
                self.table.release(id);
            }
        }
        self.epoch += 1;
    }

    pub(crate) fn abort_epoch(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Added(id) => {
                    self.uncharge(id);
                    self.table.remove(id);
                }
                Undo::Changed { id, value, epoch, marks } => {
                    self.uncharge(id);
                    let entry = self.table.value_mut(id);
                    *entry = Entry { value, epoch, marks, used: AtomicBool::new(true) };
                    self.charge(id);
                }
                Undo::Unlinked(id) => {
                    self.table.link(id);
                    self.charge(id);
                }
                Undo::Expired(addition) => self.expired.undo(addition),
            }
        }
        self.epoch += 1;
    }

    /// Writes the newest value of every unlogged key into the changelog, as that of `store`, in the order of their first
    /// writes; from now on they count as logged.
    pub(crate) fn take_unlogged(&mut self, changelog: &mut Changelog, store: StoreId) {
        self.end_epoch();
        changelog.reserve(self.unlogged.len());
        for id in self.unlogged.drain(..) {
            let marks = &mut self.table.value_mut(id).marks;
            if mem::take(&mut marks.unlogged) {
                marks.new = false;
                changelog.push(store, self.table.key(id), self.table.value(id).value.as_deref());
                self.logged += 1;
            }
        }
    }

    /// Whether the changelog may get about `writes` writes, ahead of the commit: there are as many, and hardly any key is written
    /// again, or expires, between two promotions.
    pub(crate) fn may_be_logged_early(&self, writes: usize) -> bool {
        self.unlogged.len() >= writes && self.logged_in_vain <= self.logged / 4
    }

    /// How many writes the changelog lacks.
    pub(crate) fn unlogged(&self) -> usize {
        self.unlogged.iter().filter(|&&id| self.table.value(id).marks.unlogged).count()
    }

    /// The ranges that the database still has to delete.
    pub(crate) fn expired(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.expired.iter()
    }

    /// The changelog has it all now; what is staged becomes the cache, or the committed data. Gives the entries that the database
    /// lacked nothing of before.
    pub(crate) fn promote(&mut self) -> Vec<SlotId> {
        self.end_epoch();
        let mut dirty = mem::take(&mut self.dirty);
        dirty.retain(|&id| {
            let entry = self.table.value_mut(id);
            entry.marks.new = false;
            if !mem::take(&mut entry.marks.dirty) {
                return false;
            }
            if !self.over_database {
                // What is not there needs no entry that says so.
                if entry.value.is_none() {
                    self.uncharge(id);
                    self.table.remove(id);
                }
                return false;
            }
            let is_new = !entry.marks.unwritten;
            if is_new {
                self.put_unwritten(id);
            }
            is_new
        });
        self.dirty_bytes = 0;
        // Only numbers without a mark are left.
        self.unlogged.clear();
        dirty
    }

    /// Whether the database lacks this entry. Its slot may be free or another's since.
    pub(crate) fn is_unwritten(&self, id: SlotId) -> bool {
        id < self.table.slots() && self.table.value(id).marks.unwritten
    }

    /// Whether it [is unwritten](Self::is_unwritten), for the last time.
    pub(crate) fn take_unwritten(&mut self, id: SlotId) -> bool {
        if !self.is_unwritten(id) {
            return false;
        }
        self.unwritten_bytes -= self.cost(id);
        self.table.value_mut(id).marks.unwritten = false;
        true
    }

    /// The database lacks this entry, of which it lacked nothing.
    pub(crate) fn put_unwritten(&mut self, id: SlotId) {
        self.table.value_mut(id).marks.unwritten = true;
        self.unwritten_bytes += self.cost(id);
    }

    pub(crate) fn entry(&self, id: SlotId) -> (&[u8], Option<&[u8]>) {
        (self.table.key(id), self.table.value(id).value.as_deref())
    }

    /// Whether anybody has asked for a single key. A scan asks the database in any case: a store that is only scanned needs no
    /// cache.
    pub(crate) fn is_cached(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// The database has deleted what expired, and it lacks nothing of a store without cache.
    pub(crate) fn written(&mut self) {
        self.expired.clear();
        if !self.is_cached() {
            self.clear();
        }
    }

    /// Forgets all entries. To be called when they are clean.
    fn clear(&mut self) {
        self.table.clear();
        // Only numbers without a mark are left.
        self.dirty.clear();
        self.unlogged.clear();
        self.bytes = 0;
        self.hand = 0;
    }

    /// Forgets clean entries, the longest unused first (CLOCK), until what is kept fits. To be called when there are
    /// no others.
    pub(crate) fn evict(&mut self, bound: usize) {
        if bound == 0 && self.unwritten_bytes == 0 {
            self.clear();
            return;
        }
        // Two rounds: the first may only take the marks of use away.
        for _ in 0..2 * u64::from(self.table.slots()) {
            if self.bytes <= bound {
                return;
            }
            let id = self.hand;
            self.hand = if id + 1 < self.table.slots() { id + 1 } else { 0 };
            let entry = self.table.value(id);
            // A free slot has no epoch.
            if entry.epoch != 0 && !entry.marks.unwritten && !entry.used.swap(false, Relaxed) {
                self.uncharge(id);
                self.table.remove(id);
            }
        }
    }

    /// Over nothing: sets the committed value of a key. To be called when nothing is staged.
    pub(crate) fn restore(&mut self, key: &[u8], value: Option<&[u8]>) {
        if let Some(id) = self.table.find(key) {
            self.uncharge(id);
            self.table.remove(id);
        }
        if let Some(value) = value {
            let value = Some(SmallBytes::from(value));
            let id = self.table.insert(key, Entry { value, ..Entry::default() });
            self.charge(id);
        }
    }

    /// Over a database: forgets every entry, since it has changed under them. To be called when they are clean and written.
    pub(crate) fn forget_cached(&mut self) {
        if self.over_database {
            self.clear();
        }
    }

    pub(crate) fn staged_bytes(&self) -> usize {
        self.dirty_bytes + self.expired.len() * RANGE_BYTES
    }

    pub(crate) fn unwritten_bytes(&self) -> usize {
        self.unwritten_bytes
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn clean_bytes(&self) -> usize {
        self.bytes - self.dirty_bytes
    }

    /// The entries in a range, in key order, and the expired ranges that overlap it: they hide what the database holds.
    pub(crate) fn range(&mut self, from: &[u8], to: &[u8]) -> (StagedRange<'_>, Overlapping<'_>) {
        (StagedRange(self.table.range(from, to)), self.expired.overlapping(from, to))
    }

    fn cost(&self, id: SlotId) -> usize {
        let value = self.table.value(id).value.as_ref();
        ENTRY_BYTES + self.table.key(id).len() + value.map_or(0, |value| value.len())
    }

    fn charge(&mut self, id: SlotId) {
        let cost = self.cost(id);
        let marks = self.table.value(id).marks;
        self.bytes += cost;
        self.dirty_bytes += if marks.dirty { cost } else { 0 };
        self.unwritten_bytes += if marks.unwritten { cost } else { 0 };
    }

    fn uncharge(&mut self, id: SlotId) {
        let cost = self.cost(id);
        let marks = self.table.value(id).marks;
        self.bytes -= cost;
        self.dirty_bytes -= if marks.dirty { cost } else { 0 };
        self.unwritten_bytes -= if marks.unwritten { cost } else { 0 };
    }
}

pub(crate) struct StagedRange<'a>(Range<'a, Entry>);

impl<'a> Iterator for StagedRange<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (_, key, entry) = self.0.next()?;
        Some((key, entry.value.as_deref()))
    }
}
