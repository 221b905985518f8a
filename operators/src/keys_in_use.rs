//! Which keys a store may have in which bucket of time, so that it is not asked for those that it cannot have.

use std::collections::{BTreeMap, HashSet};

use foldhash::fast::FixedState;

/// How many keys are known. With more of them, what is known of the earliest bucket is forgotten.
const MOST: usize = 1 << 20;

/// Keys by bucket, as hashes: where two keys share one, the store is asked in vain.
#[derive(Default)]
pub(crate) struct KeysInUse {
    buckets: BTreeMap<i64, HashSet<u64, FixedState>>,
    /// Of earlier buckets nothing is known.
    known_from: i64,
    count: usize,
}

impl KeysInUse {
    /// Nothing is known of the buckets before `known_from`, and those from there on are empty.
    pub fn empty_from(known_from: i64) -> Self {
        KeysInUse { known_from, ..KeysInUse::default() }
    }

    /// Whether the store may have the key in the bucket.
    pub fn may_have(&self, bucket: i64, hash: u64) -> bool {
        bucket < self.known_from || self.buckets.get(&bucket).is_some_and(|keys| keys.contains(&hash))
    }

    /// The store gets the key.
    pub fn insert(&mut self, bucket: i64, hash: u64) {
        if bucket < self.known_from {
            return;
        }
        self.count += usize::from(self.buckets.entry(bucket).or_default().insert(hash));
        if self.count > MOST
            && let Some((earliest, keys)) = self.buckets.pop_first()
        {
            self.known_from = earliest + 1;
            self.count -= keys.len();
        }
    }

    /// Earlier buckets are over.
    pub fn drop_before(&mut self, bucket: i64) {
        while let Some(earliest) = self.buckets.first_entry().filter(|earliest| *earliest.key() < bucket) {
            self.count -= earliest.remove().len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_may_be_there() {
        let mut keys = KeysInUse::empty_from(5);
        assert!(keys.may_have(4, 1) && !keys.may_have(5, 1));
        keys.insert(5, 1);
        keys.insert(6, 2);
        assert!(keys.may_have(5, 1) && !keys.may_have(6, 1) && keys.may_have(6, 2));
        (0..MOST as u64).for_each(|key| keys.insert(7, key));
        assert!(keys.may_have(5, 9) && keys.may_have(6, 9) && !keys.may_have(8, 9));
        keys.drop_before(8);
        assert_eq!(keys.count, 0);
        assert!(!keys.may_have(7, 1));
    }
}
