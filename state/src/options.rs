//! The memory that all tasks of a process share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rocksdb::{Cache, WriteBufferManager};

/// One memory budget for the state of all tasks of a process: blocks that were read, write buffers, and caches of
/// what was promoted. Make it once and open every task with it; clones share the budget. What is staged is not part
/// of it, see [`TaskState::staged_bytes`](crate::TaskState::staged_bytes).
#[derive(Clone)]
pub struct StateOptions {
    memory: usize,
    pub(crate) blocks: Cache,
    pub(crate) write_buffers: WriteBufferManager,
    caches: Arc<CacheBudget>,
}

impl StateOptions {
    /// A budget of this many bytes.
    pub fn new(memory: usize) -> Self {
        // Write buffers are charged to the block cache, so the two of them stay within its three quarters.
        let caches = memory / 4;
        let blocks = Cache::new_hyper_clock_cache(memory - caches, 0);
        let write_buffers =
            WriteBufferManager::new_write_buffer_manager_with_cache(memory / 4, false, blocks.clone());
        let caches = Arc::new(CacheBudget { bytes: caches, tasks: AtomicUsize::new(0) });
        Self { memory, blocks, write_buffers, caches }
    }

    /// What blocks that were read take now, of all tasks.
    pub fn block_cache_bytes(&self) -> usize {
        self.blocks.get_usage().saturating_sub(self.write_buffer_bytes())
    }

    /// What writes take now that are not on disk, of all tasks.
    pub fn write_buffer_bytes(&self) -> usize {
        self.write_buffers.get_usage()
    }

    pub(crate) fn cache_share(&self) -> CacheShare {
        CacheShare::new(self.caches.clone())
    }
}

impl fmt::Debug for StateOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateOptions").field("memory", &self.memory).finish_non_exhaustive()
    }
}

struct CacheBudget {
    bytes: usize,
    tasks: AtomicUsize,
}

/// A task's part of the caches' budget: the same for each open task.
pub(crate) struct CacheShare(Arc<CacheBudget>);

impl CacheShare {
    fn new(budget: Arc<CacheBudget>) -> Self {
        budget.tasks.fetch_add(1, Ordering::Relaxed);
        Self(budget)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes / self.0.tasks.load(Ordering::Relaxed).max(1)
    }
}

impl Drop for CacheShare {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}
