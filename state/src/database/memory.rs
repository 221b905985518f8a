//! A database in memory. It lives as long as the task.

use super::{Cursor, Database, Write};
use crate::{
    Checkpoint, Entry, Slice, StateError, StoreId,
    small_bytes::SmallBytes,
    table::{Range, SlotId, Table},
};

pub(crate) struct MemoryDatabase {
    stores: Vec<Table<SmallBytes>>,
}

impl MemoryDatabase {
    pub(crate) fn new(stores: usize) -> Self {
        Self { stores: (0..stores).map(|_| Table::new()).collect() }
    }

    #[expect(clippy::indexing_slicing, reason = "a store that was not opened is a bug of the caller")]
    fn store(&self, store: StoreId) -> &Table<SmallBytes> {
        &self.stores[store.0]
    }

    #[expect(clippy::indexing_slicing, reason = "a store that was not opened is a bug of the caller")]
    fn store_mut(&mut self, store: StoreId) -> &mut Table<SmallBytes> {
        &mut self.stores[store.0]
    }
}

impl Database for MemoryDatabase {
    fn get(&self, store: StoreId, key: &[u8]) -> Result<Option<Slice<'_>>, StateError> {
        let table = self.store(store);
        Ok(table.find(key).map(|id| Slice::borrowed(table.value(id))))
    }

    fn cursor(&self, store: StoreId, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + '_>, StateError> {
        let table = self.store(store);
        let mut range = table.range(from, to);
        Ok(Box::new(MemoryCursor { table, here: range.next(), range, to: to.into() }))
    }

    fn commit(
        &mut self,
        writes: &mut dyn Iterator<Item = Write<'_>>,
        _: &Checkpoint,
    ) -> Result<(), StateError> {
        for write in writes {
            match write {
                Write::Put(store, key, value) => {
                    let table = self.store_mut(store);
                    match table.find(key) {
                        Some(id) => table.value_mut(id).assign(value),
                        None => {
                            table.insert(key, value.into());
                        }
                    }
                }
                Write::Delete(store, key) => {
                    let table = self.store_mut(store);
                    if let Some(id) = table.find(key) {
                        table.remove(id);
                    }
                }
                Write::DeleteRange(store, from, to) => {
                    let table = self.store_mut(store);
                    let ids: Vec<SlotId> = table.range(from, to).map(|(_, id)| id).collect();
                    for id in ids {
                        table.remove(id);
                    }
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StateError> {
        Ok(())
    }

    fn flush_in_background(&mut self) -> Result<(), StateError> {
        Ok(())
    }

    fn unflushed_bytes(&self) -> usize {
        0
    }
}

struct MemoryCursor<'a> {
    table: &'a Table<SmallBytes>,
    range: Range<'a>,
    here: Option<(&'a [u8], SlotId)>,
    to: Box<[u8]>,
}

impl Cursor for MemoryCursor<'_> {
    fn entry(&self) -> Option<Entry<'_>> {
        self.here.map(|(key, id)| (key, &**self.table.value(id)))
    }

    fn next(&mut self) -> Result<(), StateError> {
        self.here = self.range.next();
        Ok(())
    }

    fn seek(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.range = self.table.range(key, &self.to);
        self.next()
    }
}
