//! The entries of a store that one epoch touches: each is read once, all in one go, and written once.

use crate::key_index::KeyIndex;

/// Entries by key, in the order in which they were first touched.
#[derive(Debug, Default)]
pub(crate) struct Touched<T> {
    /// Their keys in the store.
    pub keys: KeyIndex,
    /// What is known of each.
    pub all: Vec<T>,
}

impl<T: Default> Touched<T> {
    /// The number of the entry with this key; a new one is as its default says.
    pub fn number_of(&mut self, key: &[u8]) -> usize {
        let number = self.keys.number_of(key);
        if number == self.all.len() {
            self.all.push(T::default());
        }
        number
    }
}
