//! The staged writes of one store, and what they become by a promotion.
//!
//! An entry is *dirty* until it is promoted, and *unlogged* while the changelog lacks it. Over a database clean entries are a
//! cache of what it holds: a value, or the knowledge that there is none. Over nothing they are the committed data
//! themselves. Two levels can be taken back: the running epoch by an undo log of moved-out old values, and everything
//! since the last promotion by dropping the dirty entries, over nothing with their committed values put back. Reads see
//! one map, never a stack of them.

use std::{cell::Cell, mem};

use crate::{
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
}

#[derive(Default)]
struct Entry {
    /// `None`: there is no such key.
    value: Option<SmallBytes>,
    /// The epoch that wrote it last; the undo log knows the value before that.
    epoch: u64,
    marks: Marks,
    /// Read or written since the eviction last looked at it.
    used: Cell<bool>,
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
    /// Over nothing: the committed values of the dirty entries, of each that has one.
    committed: Option<Vec<(SlotId, SmallBytes)>>,
    /// Slots that became dirty or unlogged. A slot may be in a list twice, or without its mark since the change was
    /// taken back: the entry's mark decides.
    dirty: Vec<SlotId>,
    unlogged: Vec<SlotId>,
    dirty_bytes: usize,
    bytes: usize,
    /// Where the eviction goes on.
    hand: SlotId,
    /// Whether anybody has asked for a single key.
    asked: Cell<bool>,
    /// How many writes the changelog got, and how many keys were written again before the promotion that it had got already.
    logged: u64,
    logged_in_vain: u64,
}

impl Staged {
    pub(crate) fn over_nothing() -> Self {
        Self { committed: Some(Vec::new()), ..Self::over_database() }
    }

    pub(crate) fn over_database() -> Self {
        Self {
            table: Table::new(),
            expired: Expired::default(),
            epoch: 1,
            undo: Vec::new(),
            committed: None,
            dirty: Vec::new(),
            unlogged: Vec::new(),
            dirty_bytes: 0,
            bytes: 0,
            hand: 0,
            asked: Cell::new(false),
            logged: 0,
            logged_in_vain: 0,
        }
    }

    /// `None`: only the database knows. `Some(None)`: there is no such key.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.asked.set(true);
        match self.table.find(key) {
            Some(id) => {
                let entry = self.table.value(id);
                entry.used.set(true);
                Some(entry.value.as_deref())
            }
            None => self.expired.end_over(key).map(|_| None),
        }
    }

    pub(crate) fn write(&mut self, key: &[u8], value: Option<&[u8]>) {
        let mut was_dirty = false;
        let id = match self.table.find(key) {
            Some(id) => {
                was_dirty = self.table.value(id).marks.dirty;
                self.change(id, value);
                id
            }
            None => {
                let value = value.map(SmallBytes::from);
                let marks = Marks { dirty: true, unlogged: false };
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
        entry.used.set(true);
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
        let ids: Vec<SlotId> = self.table.range(from, to).map(|(id, ..)| id).collect();
        if self.committed.is_some() {
            for id in ids {
                self.change(id, None);
                self.table.value_mut(id).marks.unlogged = false;
            }
            return;
        }
        for id in ids {
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
            match (undo, &mut self.committed) {
                (Undo::Unlinked(id), _) => self.table.release(id),
                (Undo::Changed { id, value: Some(value), marks, .. }, Some(committed)) if !marks.dirty => {
                    committed.push((id, value));
                }
                _ => {}
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
                    *entry = Entry { value, epoch, marks, used: Cell::new(true) };
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

    /// Calls back with the newest value of every unlogged key, in the order of their first writes; from now on they
    /// count as logged.
    pub(crate) fn take_unlogged(&mut self, mut take: impl FnMut(&[u8], Option<&[u8]>)) {
        self.end_epoch();
        for id in self.unlogged.drain(..) {
            if mem::take(&mut self.table.value_mut(id).marks.unlogged) {
                take(self.table.key(id), self.table.value(id).value.as_deref());
                self.logged += 1;
            }
        }
    }

    /// Whether hardly any key is written again between two promotions, so that the changelog may get writes as they come.
    pub(crate) fn is_logged_in_vain_seldom(&self) -> bool {
        self.logged_in_vain <= self.logged / 8
    }

    /// As [`unlogged`](Self::unlogged), perhaps too many.
    pub(crate) fn unlogged_at_most(&self) -> usize {
        self.unlogged.len()
    }

    /// How many writes the changelog lacks.
    pub(crate) fn unlogged(&self) -> usize {
        self.unlogged.iter().filter(|&&id| self.table.value(id).marks.unlogged).count()
    }

    /// The ranges that the database still has to delete.
    pub(crate) fn expired(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.expired.iter()
    }

    /// The entries that the database lacks, in the order of their keys: a memtable takes neighbours faster.
    pub(crate) fn dirty(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mut entries: Vec<(&[u8], SlotId)> = self
            .dirty
            .iter()
            .filter(|&&id| self.table.value(id).marks.dirty)
            .map(|&id| (self.table.key(id), id))
            .collect();
        entries.sort_unstable();
        entries.into_iter().map(|(key, id)| (key, self.table.value(id).value.as_deref()))
    }

    /// The database and the changelog have it all now; what is staged becomes the cache, or the committed data.
    pub(crate) fn mark_clean(&mut self) {
        self.end_epoch();
        let mut dirty = mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let entry = self.table.value_mut(id);
            let was_dirty = mem::take(&mut entry.marks.dirty);
            // Over nothing, what is not there needs no entry that says so.
            if was_dirty && entry.value.is_none() && self.committed.is_some() {
                self.uncharge(id);
                self.table.remove(id);
            }
        }
        self.dirty = dirty;
        if let Some(committed) = &mut self.committed {
            committed.clear();
        }
        // Only numbers without a mark are left.
        self.unlogged.clear();
        self.dirty_bytes = 0;
        self.expired.clear();
    }

    /// Back to what was promoted last.
    pub(crate) fn discard(&mut self) {
        self.end_epoch();
        for (id, value) in self.committed.as_mut().map(mem::take).unwrap_or_default() {
            self.uncharge(id);
            let entry = self.table.value_mut(id);
            entry.value = Some(value);
            entry.marks = Marks::default();
            self.charge(id);
        }
        for id in mem::take(&mut self.dirty) {
            if self.table.value(id).marks.dirty {
                self.uncharge(id);
                self.table.remove(id);
            }
        }
        self.unlogged.clear();
        self.expired.clear();
    }

    /// Forgets clean entries, the longest unused first (CLOCK), until what is kept fits. To be called when there are
    /// no others. Of a store that is only scanned nothing is kept: a scan asks the database in any case.
    pub(crate) fn evict(&mut self, bound: usize) {
        if bound == 0 || !self.asked.get() {
            self.table.clear();
            self.bytes = 0;
            self.hand = 0;
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
            if entry.epoch != 0 && !entry.marks.dirty && !entry.used.take() {
                self.uncharge(id);
                self.table.remove(id);
            }
        }
    }

    /// Over nothing: sets the committed value of a key, below what is staged.
    pub(crate) fn restore(&mut self, key: &[u8], value: Option<&[u8]>) {
        let value = value.map(SmallBytes::from);
        let Some(id) = self.table.find(key) else {
            if value.is_some() {
                let id = self.table.insert(key, Entry { value, ..Entry::default() });
                self.charge(id);
            }
            return;
        };
        if self.table.value(id).marks.dirty {
            if let Some(committed) = &mut self.committed {
                committed.retain(|(other, _)| *other != id);
                committed.extend(value.map(|value| (id, value)));
            }
            return;
        }
        self.uncharge(id);
        match value {
            Some(_) => {
                self.table.value_mut(id).value = value;
                self.charge(id);
            }
            None => self.table.remove(id),
        }
    }

    /// Over a database: forgets every clean entry, since it has changed under them.
    pub(crate) fn forget_clean(&mut self) {
        self.end_epoch();
        if self.committed.is_some() {
            return;
        }
        for id in 0..self.table.slots() {
            let entry = self.table.value(id);
            if entry.epoch != 0 && !entry.marks.dirty {
                self.uncharge(id);
                self.table.remove(id);
            }
        }
    }

    pub(crate) fn staged_bytes(&self) -> usize {
        self.dirty_bytes + self.expired.len() * RANGE_BYTES
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
        self.bytes += cost;
        if self.table.value(id).marks.dirty {
            self.dirty_bytes += cost;
        }
    }

    fn uncharge(&mut self, id: SlotId) {
        let cost = self.cost(id);
        self.bytes -= cost;
        if self.table.value(id).marks.dirty {
            self.dirty_bytes -= cost;
        }
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
