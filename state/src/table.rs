//! A map from byte keys to values: hashed for points, ordered for ranges.
//!
//! Points are the hot path and cost one hash lookup. The order of the keys is a second index, which range accesses bring up
//! to date: what is added and removed between two of them never gets there, so a store that is scanned now and then
//! hardly pays for its order, and one that is never scanned not at all. Neither do keys that begin with another byte than those that
//! are scanned: that of an index, say.
//! An entry has a stable number, its *slot*, under which others (undo log, list of dirty entries) refer to it.

use std::{
    collections::{BTreeMap, btree_map},
    hash::BuildHasher,
    ops::Bound,
};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::small_bytes::SmallBytes;

/// The number of an entry, valid until it is released.
pub(crate) type SlotId = u32;

/// So many entries are looked through one by one rather than put in order.
const FEW: usize = 1 << 14;

/// The linked slots by key: all of them are in one of the two.
struct Order {
    /// With which byte their keys begin; `None`: with any.
    first: Option<u8>,
    sorted: BTreeMap<SmallBytes, SlotId>,
    /// Linked since the last range access, and perhaps no longer.
    fresh: Vec<SlotId>,
}

#[derive(Default)]
struct Slot<T> {
    key: SmallBytes,
    value: T,
}

pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<SlotId>,
    /// Each with half of its key's hash, so that neither growing nor a look at another key's slot goes to memory.
    hashed: HashTable<(u32, SlotId)>,
    /// Not before the first range access. One for each first byte, or one for all.
    orders: Vec<Order>,
    hasher: DefaultHashBuilder,
}

impl<T: Default> Table<T> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            hashed: HashTable::new(),
            orders: Vec::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "hot; slot numbers come from this table and are never out of bounds"
    )]
    fn slot(&self, id: SlotId) -> &Slot<T> {
        &self.slots[id as usize]
    }

    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "hot; slot numbers come from this table and are never out of bounds"
    )]
    fn slot_mut(&mut self, id: SlotId) -> &mut Slot<T> {
        &mut self.slots[id as usize]
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    /// The slot of a linked entry.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Option<SlotId> {
        let hash = self.hash(key);
        let is_it = |&(other, id): &(u32, SlotId)| other == hash && *self.slot(id).key == *key;
        self.hashed.find(whole(hash), is_it).map(|&(_, id)| id)
    }

    #[inline]
    pub(crate) fn key(&self, id: SlotId) -> &[u8] {
        &self.slot(id).key
    }

    #[inline]
    pub(crate) fn value(&self, id: SlotId) -> &T {
        &self.slot(id).value
    }

    #[inline]
    pub(crate) fn value_mut(&mut self, id: SlotId) -> &mut T {
        &mut self.slot_mut(id).value
    }

    /// Adds an entry; the key must not be linked yet.
    pub(crate) fn insert(&mut self, key: &[u8], value: T) -> SlotId {
        let slot = Slot { key: key.into(), value };
        let id = match self.free.pop() {
            Some(id) => {
                *self.slot_mut(id) = slot;
                id
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as SlotId
            }
        };
        self.link(id);
        id
    }

    /// Makes an entry visible under its key.
    pub(crate) fn link(&mut self, id: SlotId) {
        let hash = self.hash(self.key(id));
        self.hashed.insert_unique(whole(hash), (hash, id), |&(hash, _)| whole(hash));
        let Self { slots, orders, .. } = self;
        let Some(slot) = slots.get(id as usize) else { return };
        if let Some(at) = orders.iter().position(|order| begins(&slot.key, order.first))
            && let Some(Order { fresh, .. }) = orders.get_mut(at)
        {
            fresh.push(id);
            // Cheaper to begin anew than to remember every slot that came and went.
            if fresh.len() > slots.len() {
                orders.swap_remove(at);
            }
        }
    }

    /// Hides an entry but keeps its slot, so that it can be linked again.
    pub(crate) fn unlink(&mut self, id: SlotId) {
        let hash = self.hash(self.key(id));
        if let Ok(entry) = self.hashed.find_entry(whole(hash), |&(_, other)| other == id) {
            entry.remove();
        }
        let Self { slots, orders, .. } = self;
        if let Some(slot) = slots.get(id as usize)
            && let Some(order) = orders.iter_mut().find(|order| begins(&slot.key, order.first))
        {
            order.sorted.remove(&slot.key);
        }
    }

    /// Gives the slot of an unlinked entry back.
    pub(crate) fn release(&mut self, id: SlotId) {
        *self.slot_mut(id) = Slot::default();
        self.free.push(id);
    }

    pub(crate) fn remove(&mut self, id: SlotId) {
        self.unlink(id);
        self.release(id);
    }

    /// Releases every slot.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.free.clear();
        self.hashed.clear();
        self.orders.clear();
    }

    /// The linked slots with a key in `[from, to)`, in key order.
    pub(crate) fn range(&mut self, from: &[u8], to: &[u8]) -> Range<'_, T> {
        let Self { slots, hashed, hasher, orders, .. } = self;
        let slots = slots.as_slice();
        let first = common_first(from, to);
        let at = orders.iter().position(|order| order.first.is_none() || order.first == first);
        let at = at.unwrap_or_else(|| {
            if first.is_none() {
                orders.clear();
            }
            let fresh = hashed.iter().map(|&(_, id)| id).collect();
            orders.push(Order { first, sorted: BTreeMap::new(), fresh });
            orders.len() - 1
        });
        let Some(Order { first, sorted, fresh }) = orders.get_mut(at) else {
            return Range { entries: btree_map::Range::default(), to: to.into(), slots };
        };
        let linked = fresh.drain(..).filter_map(|id| {
            let key = &slots.get(id as usize).filter(|slot| begins(&slot.key, *first))?.key;
            hashed.find(whole(hasher.hash_one(&**key) as u32), |&(_, other)| other == id)?;
            Some((key.clone(), id))
        });
        if sorted.is_empty() {
            *sorted = linked.collect();
        } else {
            sorted.extend(linked);
        }
        let from = Bound::Included(SmallBytes::from(from));
        Range { entries: sorted.range((from, Bound::Unbounded)), to: to.into(), slots }
    }

    /// The linked slots with a key in `[from, to)`, in any order.
    pub(crate) fn between(&mut self, from: &[u8], to: &[u8]) -> Vec<SlotId> {
        if !self.orders.is_empty() || self.hashed.len() > FEW {
            return self.range(from, to).map(|(id, ..)| id).collect();
        }
        let ids = self.hashed.iter().map(|&(_, id)| id);
        ids.filter(|&id| (from..to).contains(&self.key(id))).collect()
    }

    /// How many slots there are, free ones included: slot numbers are below it.
    pub(crate) fn slots(&self) -> SlotId {
        self.slots.len() as SlotId
    }
}

/// Whether a key begins with this byte; any does if there is none.
fn begins(key: &[u8], first: Option<u8>) -> bool {
    first.is_none() || key.first().copied() == first
}

/// The byte with which all keys in `[from, to)` begin, if it is the same.
fn common_first(from: &[u8], to: &[u8]) -> Option<u8> {
    let first = *from.first()?;
    let is_last = match to {
        [next] => Some(*next) == first.checked_add(1),
        _ => false,
    };
    (to.first() == Some(&first) || is_last).then_some(first)
}

/// A hash of which the upper bits differ too.
#[inline]
fn whole(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// Entries in key order. Most ranges are short, so comparing each key with the end is cheaper than looking for it.
pub(crate) struct Range<'a, T> {
    entries: btree_map::Range<'a, SmallBytes, SlotId>,
    to: SmallBytes,
    slots: &'a [Slot<T>],
}

impl<'a, T> Iterator for Range<'a, T> {
    type Item = (SlotId, &'a [u8], &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, &id) = self.entries.next()?;
        let slot = self.slots.get(id as usize)?;
        (*key < self.to).then_some((id, &*slot.key, &slot.value))
    }
}
