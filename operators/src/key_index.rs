//! The distinct keys that an epoch touches, numbered in the order in which they are first met.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::hash::hash_bytes;
use crate::key::Keys;

/// Numbers keys.
#[derive(Debug, Default)]
pub(crate) struct KeyIndex {
    table: HashTable<u32>,
    keys: Keys,
}

impl KeyIndex {
    /// The number of this key; a new one gets the next.
    pub fn number_of(&mut self, key: &[u8]) -> usize {
        let keys = &mut self.keys;
        let entry = self.table.entry(
            hash_bytes(key),
            |number| keys.get(*number as usize) == key,
            |number| hash_bytes(keys.get(*number as usize)),
        );
        match entry {
            Entry::Occupied(found) => *found.get() as usize,
            Entry::Vacant(free) => {
                let number = keys.len();
                free.insert(number as u32);
                keys.push(key);
                number
            }
        }
    }

    /// The number of this key, if it has one.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let found = self.table.find(hash_bytes(key), |number| self.keys.get(*number as usize) == key);
        found.map(|number| *number as usize)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key with this number.
    pub fn get(&self, number: usize) -> &[u8] {
        self.keys.get(number)
    }

    /// All keys, by number.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter()
    }
}
