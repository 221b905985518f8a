//! Disks that lose what was not synced: of the batches since the last flush a crash leaves a first part, drawn from the seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use millstream_state::{
    Checkpoint, Cursor, Database, Entry, Slice, StateError, StateOptions, StoreId, StoreSpec, TaskState,
    Write,
};

use super::super::brokers::Disk;
use super::scheduler::{Handle, ProcessId, current};
use crate::testing::Random;

/// What a database holds.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub stores: Vec<BTreeMap<Vec<u8>, Vec<u8>>>,
    pub checkpoint: Checkpoint,
}

#[derive(Debug, Default)]
struct Files {
    durable: Image,
    /// After each batch that is not durable.
    later: Vec<Image>,
    open: bool,
}

impl Files {
    fn newest(&self) -> &Image {
        self.later.last().unwrap_or(&self.durable)
    }

    fn sync(&mut self, batches: usize) {
        if let Some(durable) = self.later.drain(..batches.min(self.later.len())).next_back() {
            self.durable = durable;
        }
    }
}

type DiskOfProcess = Arc<Mutex<BTreeMap<String, Files>>>;

/// The disks of all processes.
#[derive(Debug, Default)]
pub struct Disks(Vec<DiskOfProcess>);

fn locked(disk: &DiskOfProcess) -> MutexGuard<'_, BTreeMap<String, Files>> {
    disk.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Disks {
    pub fn new(processes: usize) -> Self {
        Disks((0..=processes).map(|_| DiskOfProcess::default()).collect())
    }

    pub fn crash(&mut self, process: ProcessId, random: &mut Random) {
        for files in locked(&self.0[process]).values_mut() {
            let left = random.below(files.later.len() as u64 + 1) as usize;
            files.sync(left);
            files.later.clear();
            files.open = false;
        }
    }

    /// Everything is gone.
    pub fn lose(&mut self, process: ProcessId) {
        locked(&self.0[process]).clear();
    }

    /// What the databases of a process hold now, by task.
    pub fn content(&self, process: ProcessId) -> BTreeMap<String, Image> {
        let files = locked(&self.0[process]);
        files.iter().map(|(task, files)| (task.clone(), files.newest().clone())).collect()
    }
}

/// The disk of a process.
pub struct SimulatedDisk {
    files: DiskOfProcess,
    options: StateOptions,
}

impl SimulatedDisk {
    /// With so many bytes for caches and what is yet to be written.
    pub fn of(handle: &Handle, memory: usize) -> Self {
        let files = handle.state().disks.0[handle.process].clone();
        SimulatedDisk { files, options: StateOptions::new(memory) }
    }
}

fn step() {
    if let Some(simulated) = current() {
        simulated.step();
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, task: &str, specs: &[StoreSpec]) -> Result<TaskState, StateError> {
        step();
        let mut disk = locked(&self.files);
        let files = disk.entry(task.to_owned()).or_default();
        if files.open {
            return Err(StateError::InUse { path: task.into(), owner: None });
        }
        files.open = true;
        if files.newest().stores.is_empty() {
            files.durable = Image {
                stores: vec![BTreeMap::new(); specs.len()],
                checkpoint: Checkpoint { changelog_offsets: vec![0; specs.len()], ..Checkpoint::default() },
            };
        }
        let checkpoint = files.newest().checkpoint.clone();
        let image = files.newest().clone();
        drop(disk);
        let database = SimulatedDatabase { files: self.files.clone(), task: task.to_owned(), image };
        Ok(TaskState::over(Box::new(database), checkpoint, &self.options))
    }

    fn remove(&self, task: &str) -> Result<(), StateError> {
        step();
        locked(&self.files).remove(task);
        Ok(())
    }

    fn block_cache_bytes(&self) -> usize {
        0
    }

    fn write_buffer_bytes(&self) -> usize {
        0
    }
}

struct SimulatedDatabase {
    files: DiskOfProcess,
    task: String,
    image: Image,
}

impl SimulatedDatabase {
    fn sync(&self) {
        if let Some(files) = locked(&self.files).get_mut(&self.task) {
            files.sync(usize::MAX);
        }
    }
}

impl Drop for SimulatedDatabase {
    fn drop(&mut self) {
        // After a crash the next life may have it open already.
        if !std::thread::panicking()
            && let Some(files) = locked(&self.files).get_mut(&self.task)
        {
            files.open = false;
        }
    }
}

impl Database for SimulatedDatabase {
    fn get(&self, store: StoreId, key: &[u8]) -> Result<Option<Slice<'_>>, StateError> {
        Ok(self.image.stores[store.0].get(key).map(|value| Slice::borrowed(value)))
    }

    fn multi_get(&self, store: StoreId, keys: &[&[u8]]) -> Result<Vec<Option<Slice<'_>>>, StateError> {
        keys.iter().map(|key| self.get(store, key)).collect()
    }

    fn cursor(&self, store: StoreId, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + '_>, StateError> {
        let all = &self.image.stores[store.0];
        let entries = if from < to { all.range(from.to_vec()..to.to_vec()).collect() } else { Vec::new() };
        Ok(Box::new(Range { entries, at: 0 }))
    }

    fn commit<'w>(
        &mut self,
        writes: &mut dyn Iterator<Item = Write<'w>>,
        checkpoint: &Checkpoint,
    ) -> Result<(), StateError> {
        step();
        for write in writes {
            match write {
                Write::Put(store, key, value) => {
                    self.image.stores[store.0].insert(key.to_vec(), value.to_vec());
                }
                Write::Delete(store, key) => drop(self.image.stores[store.0].remove(key)),
                Write::DeleteRange(store, from, to) => {
                    self.image.stores[store.0].retain(|key, _| &**key < from || &**key >= to);
                }
            }
        }
        self.image.checkpoint = checkpoint.clone();
        if let Some(files) = locked(&self.files).get_mut(&self.task) {
            files.later.push(self.image.clone());
        }
        step();
        Ok(())
    }

    fn load(
        &mut self,
        store: StoreId,
        sorted: &[(&[u8], Option<&[u8]>)],
        checkpoint: &Checkpoint,
    ) -> Result<(), StateError> {
        let before = self.image.checkpoint.clone();
        let mut writes = sorted.iter().map(|(key, value)| Write::new(store, key, *value));
        self.commit(&mut writes, &before)?;
        self.commit(&mut std::iter::empty(), checkpoint)
    }

    fn flush(&mut self) -> Result<(), StateError> {
        step();
        self.sync();
        step();
        Ok(())
    }

    fn flush_in_background(&mut self) -> Result<(), StateError> {
        step();
        if current().is_some_and(|simulated| simulated.coin()) {
            self.sync();
        }
        Ok(())
    }

    fn unflushed_bytes(&self) -> usize {
        locked(&self.files).get(&self.task).map_or(0, |files| files.later.len())
    }
}

struct Range<'a> {
    entries: Vec<(&'a Vec<u8>, &'a Vec<u8>)>,
    at: usize,
}

impl Cursor for Range<'_> {
    fn entry(&self) -> Option<Entry<'_>> {
        self.entries.get(self.at).map(|(key, value)| (&***key, &***value))
    }

    fn next(&mut self) -> Result<(), StateError> {
        self.at += 1;
        Ok(())
    }

    fn seek(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.at = self.entries.partition_point(|(other, _)| &***other < key);
        Ok(())
    }
}
