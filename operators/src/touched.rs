//! The entries of a store that one epoch touches: each is read once, all in one go, and written once.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::hash::hash_bytes;
use crate::key::Keys;

/// Entries by key, in the order in which they were first touched.
#[derive(Debug, Default)]
pub(crate) struct Touched<T> {
    numbers: HashTable<u32>,
    /// Their keys in the store.
    pub keys: Keys,
    /// What is known of each.
    pub all: Vec<T>,
}

impl<T: Default> Touched<T> {
    /// The number of the entry with this key; a new one is as its default says.
    pub fn number_of(&mut self, key: &[u8]) -> usize {
        let keys = &mut self.keys;
        let entry = self.numbers.entry(
            hash_bytes(key),
            |number| keys.get(*number as usize) == key,
            |number| hash_bytes(keys.get(*number as usize)),
        );
        match entry {
            Entry::Occupied(known) => *known.get() as usize,
            Entry::Vacant(free) => {
                let number = self.all.len();
                free.insert(number as u32);
                self.keys.push(key);
                self.all.push(T::default());
                number
            }
        }
    }
}
