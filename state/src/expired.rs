//! The ranges of a store that were expired and not yet deleted in the database.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
};

use crate::small_bytes::SmallBytes;

type Key = SmallBytes;

/// Disjoint key ranges `[from, to)` that hide what the database holds in them.
#[derive(Default)]
pub(crate) struct Expired(BTreeMap<Key, Key>);

/// How to take an expiry back.
pub(crate) struct Addition {
    from: Key,
    replaced: Vec<(Key, Key)>,
}

impl Expired {
    /// Adds a range, merged with those it overlaps or touches, so that a front that is expired step by step stays
    /// one range.
    pub(crate) fn add(&mut self, from: &[u8], to: &[u8]) -> Addition {
        let mut merged: (Key, Key) = (from.into(), to.into());
        let mut replaced = Vec::new();
        // The ranges are disjoint, so only the last one that starts at or before `to` can reach furthest.
        while let Some((start, end)) = self.0.range(..=&merged.1).next_back()
            && *end >= merged.0
        {
            let range = (start.clone(), end.clone());
            self.0.remove(&range.0);
            merged = (merged.0.min(range.0.clone()), merged.1.max(range.1.clone()));
            replaced.push(range);
        }
        let addition = Addition { from: merged.0.clone(), replaced };
        self.0.insert(merged.0, merged.1);
        addition
    }

    pub(crate) fn undo(&mut self, addition: Addition) {
        self.0.remove(&addition.from);
        self.0.extend(addition.replaced);
    }

    /// The end of the range that hides a key.
    pub(crate) fn end_over(&self, key: &[u8]) -> Option<&[u8]> {
        if self.0.is_empty() {
            return None;
        }
        let key = Key::from(key);
        let (_, end) = self.0.range(..=&key).next_back()?;
        (*end > key).then_some(&**end)
    }

    /// The ranges that overlap `[from, to)`, in their order.
    pub(crate) fn overlapping(&self, from: &[u8], to: &[u8]) -> Overlapping<'_> {
        if self.0.is_empty() || from >= to {
            return Overlapping::default();
        }
        let (from, to) = (Key::from(from), Key::from(to));
        let first = self.0.range(..=&from).next_back().filter(|(_, end)| **end > from);
        Overlapping { first, rest: self.0.range((Bound::Excluded(from), Bound::Excluded(to))) }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(from, to)| (&**from, &**to))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Disjoint ranges in their order.
#[derive(Default)]
pub(crate) struct Overlapping<'a> {
    first: Option<(&'a Key, &'a Key)>,
    rest: btree_map::Range<'a, Key, Key>,
}

impl<'a> Iterator for Overlapping<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.first.take().or_else(|| self.rest.next()).map(|(from, to)| (&**from, &**to))
    }
}
