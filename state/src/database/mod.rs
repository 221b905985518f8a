//! Where committed data lies.
//!
//! A database takes what was committed in atomic batches and knows nothing of epochs, commits or changelogs.

mod memory;
mod rocks;

pub(crate) use memory::MemoryDatabase;
pub(crate) use rocks::RocksDatabase;

use crate::{Checkpoint, Entry, Slice, StateError, StoreId};

/// One change of a batch.
pub(crate) enum Write<'a> {
    Put(StoreId, &'a [u8], &'a [u8]),
    Delete(StoreId, &'a [u8]),
    /// Deletes the keys in `[from, to)`.
    DeleteRange(StoreId, &'a [u8], &'a [u8]),
}

impl<'a> Write<'a> {
    pub(crate) fn new(store: StoreId, key: &'a [u8], value: Option<&'a [u8]>) -> Self {
        match value {
            Some(value) => Self::Put(store, key, value),
            None => Self::Delete(store, key),
        }
    }
}

/// The stores of one task.
pub(crate) trait Database: Send {
    fn get(&self, store: StoreId, key: &[u8]) -> Result<Option<Slice<'_>>, StateError>;

    /// The values of many keys, in the order of the keys.
    fn multi_get(&self, store: StoreId, keys: &[&[u8]]) -> Result<Vec<Option<Slice<'_>>>, StateError> {
        keys.iter().map(|key| self.get(store, key)).collect()
    }

    /// A cursor at the first entry of `[from, to)`.
    fn cursor(&self, store: StoreId, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + '_>, StateError>;

    /// Applies the writes in their order together with the checkpoint: all of it or nothing, also after a crash.
    fn commit(
        &mut self,
        writes: &mut dyn Iterator<Item = Write<'_>>,
        checkpoint: &Checkpoint,
    ) -> Result<(), StateError>;

    /// Makes what was committed so far survive a crash of the process.
    fn flush(&mut self) -> Result<(), StateError>;

    /// As `flush`, without waiting for it.
    fn flush_in_background(&mut self) -> Result<(), StateError>;

    /// How many bytes were committed and not yet made durable, about.
    fn unflushed_bytes(&self) -> usize;
}

/// A place in a range of a store.
pub(crate) trait Cursor {
    /// The key and value here; `None` behind the last.
    fn entry(&self) -> Option<Entry<'_>>;

    fn next(&mut self) -> Result<(), StateError>;

    /// Goes on to the first entry at or after the key.
    fn seek(&mut self, key: &[u8]) -> Result<(), StateError>;
}
