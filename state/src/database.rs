//! What lies below the staged writes of a task.

use crate::{Checkpoint, Entry, Slice, StateError, StoreId};

/// One change of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// Sets the value of a key.
    Put(StoreId, &'a [u8], &'a [u8]),
    /// Deletes a key.
    Delete(StoreId, &'a [u8]),
    /// Deletes the keys in `[from, to)`.
    DeleteRange(StoreId, &'a [u8], &'a [u8]),
}

impl<'a> Write<'a> {
    /// Sets the value of a key, or deletes it.
    pub fn new(store: StoreId, key: &'a [u8], value: Option<&'a [u8]>) -> Self {
        match value {
            Some(value) => Self::Put(store, key, value),
            None => Self::Delete(store, key),
        }
    }
}

/// Takes what was committed in atomic batches, and knows nothing of epochs, commits or changelogs. What survives a crash is
/// the result of a first part of the batches, data and checkpoint alike.
pub trait Database: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn get(&self, store: StoreId, key: &[u8]) -> Result<Option<Slice<'_>>, StateError>;

    /// The values of many keys, in the order of the keys.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn multi_get(&self, store: StoreId, keys: &[&[u8]]) -> Result<Vec<Option<Slice<'_>>>, StateError>;

    /// A cursor at the first entry of `[from, to)`.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn cursor(&self, store: StoreId, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + '_>, StateError>;

    /// Applies the writes in their order together with the checkpoint: all of it or nothing, also after a crash.
    ///
    /// # Errors
    /// If the database cannot be written: then nothing is changed.
    fn commit<'w>(
        &mut self,
        writes: &mut dyn Iterator<Item = Write<'w>>,
        checkpoint: &Checkpoint,
    ) -> Result<(), StateError>;

    /// Applies writes of one store, which are sorted by key and have each key once, with the checkpoint. Other than with
    /// [`commit`](Self::commit) a crash may leave them without the checkpoint: only for what can be applied again.
    ///
    /// # Errors
    /// If the database cannot be written.
    fn load(
        &mut self,
        store: StoreId,
        sorted: &[(&[u8], Option<&[u8]>)],
        checkpoint: &Checkpoint,
    ) -> Result<(), StateError>;

    /// Makes what was committed so far survive a crash.
    ///
    /// # Errors
    /// If the database cannot be written.
    fn flush(&mut self) -> Result<(), StateError>;

    /// As [`flush`](Self::flush), without waiting for it.
    ///
    /// # Errors
    /// If the database cannot be written.
    fn flush_in_background(&mut self) -> Result<(), StateError>;

    /// How many bytes were committed and not yet made durable, about.
    fn unflushed_bytes(&self) -> usize;
}

/// A place in a range of a store.
pub trait Cursor {
    /// The key and value here; `None` behind the last.
    fn entry(&self) -> Option<Entry<'_>>;

    /// Goes on to the next entry.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn next(&mut self) -> Result<(), StateError>;

    /// Goes on to the first entry at or after the key.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn seek(&mut self, key: &[u8]) -> Result<(), StateError>;
}
