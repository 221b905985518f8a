//! The stores of one task, and the protocol of its commits.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, mem,
};

use crate::{
    Changelog, Database, Fingerprint, Scan, Slice, StateDirectory, StateError, StateOptions, Write,
    options::CacheShare, rocks::RocksDatabase, sorted::last_of_each_key, staged::Staged, table::SlotId,
};

/// How many bytes of promoted entries of a task wait to be written to its database, half of its share of the cache at most.
const UNWRITTEN_BYTES: usize = 8 << 20;

/// A store of a task: its index in the specs given when the state was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreId(pub usize);

/// What is known of a store before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// The store's name, which is also that of its column family.
    pub name: String,
    /// The layout of its keys and values.
    pub fingerprint: Fingerprint,
}

/// How far the inputs and changelogs are contained in the stores. It is written together with the data, in one
/// atomic batch, so the two cannot diverge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The next offset to read of each input partition.
    pub input_offsets: BTreeMap<(String, i32), i64>,
    /// The next offset to restore of each store's changelog, in the order of the specs.
    pub changelog_offsets: Vec<i64>,
    /// What the task wants to keep besides: stream times, for example.
    pub metadata: Vec<u8>,
}

/// The stores of one task.
///
/// Writes are staged in memory. An *epoch* is the part of them that can be undone alone
/// ([`abort_epoch`](Self::abort_epoch)); a *commit* covers many epochs and ends in [`promote`](Self::promote). The order of a
/// commit is: [`changelog`](Self::changelog), the transaction, `promote`. After a commit that failed the state is dropped, and
/// opened and restored again.
///
/// The database gets what was promoted some time later, so that of keys that are written again and again it gets few values.
/// It may hold newer values than its checkpoint says, never any that was not promoted: restoring the changelog from there on
/// gives what was promoted last.
///
/// A [`StoreId`] that is not an index into the specs is a bug of the caller and panics.
pub struct TaskState {
    stores: Vec<Staged>,
    /// `None`: the stores are in memory, and nothing lies below what is staged.
    database: Option<Box<dyn Database>>,
    checkpoint: Checkpoint,
    /// The checkpoint in the database, and the commits that it lacks, the oldest first.
    written: Checkpoint,
    unwritten: VecDeque<Unwritten>,
    /// What the clean entries over a database may take.
    cache: Option<CacheShare>,
}

/// A commit that the database has not got, or not all of it.
struct Unwritten {
    /// The entries that no older commit here has. Such an entry may be gone, and its slot another's: its mark decides.
    entries: Vec<(StoreId, SlotId)>,
    checkpoint: Checkpoint,
}

impl TaskState {
    /// Stores that live in memory and end with this value.
    pub fn in_memory(specs: &[StoreSpec]) -> Self {
        let checkpoint = Checkpoint { changelog_offsets: vec![0; specs.len()], ..Checkpoint::default() };
        let stores = specs.iter().map(|_| Staged::over_nothing()).collect();
        Self::new(stores, None, checkpoint, None)
    }

    /// Opens the stores of a task, named `<sub-topology>-<partition>`, in its folder of the state directory. A store
    /// that is not there yet is created empty, with 0 as its changelog offset, so that it gets restored.
    ///
    /// # Errors
    /// If another task or version wrote the folder, a store has another fingerprint, or the data is damaged.
    pub fn open(
        directory: &StateDirectory,
        task: &str,
        specs: &[StoreSpec],
        options: &StateOptions,
    ) -> Result<Self, StateError> {
        let (database, checkpoint) = RocksDatabase::open(directory, task, specs, options)?;
        Ok(Self::over(Box::new(database), checkpoint, options))
    }

    /// The stores of a task over a database that was opened, with the checkpoint that it holds. The changelog offsets of the
    /// checkpoint say how many stores there are.
    pub fn over(database: Box<dyn Database>, checkpoint: Checkpoint, options: &StateOptions) -> Self {
        let stores = checkpoint.changelog_offsets.iter().map(|_| Staged::over_database()).collect();
        Self::new(stores, Some(database), checkpoint, Some(options.cache_share()))
    }

    fn new(
        stores: Vec<Staged>,
        database: Option<Box<dyn Database>>,
        checkpoint: Checkpoint,
        cache: Option<CacheShare>,
    ) -> Self {
        Self { stores, database, written: checkpoint.clone(), checkpoint, unwritten: VecDeque::new(), cache }
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a store that was not opened is a bug of the caller")]
    fn store(&self, store: StoreId) -> &Staged {
        &self.stores[store.0]
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a store that was not opened is a bug of the caller")]
    fn store_mut(&mut self, store: StoreId) -> &mut Staged {
        &mut self.stores[store.0]
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the database cannot be read.
    #[inline]
    pub fn get(&self, store: StoreId, key: &[u8]) -> Result<Option<Slice<'_>>, StateError> {
        match (self.store(store).get(key), &self.database) {
            (Some(staged), _) => Ok(staged.map(Slice::borrowed)),
            (None, Some(database)) => database.get(store, key),
            (None, None) => Ok(None),
        }
    }

    /// The values of many keys, in the order of the keys. Cheaper than as many calls of [`get`](Self::get) where the
    /// database has to be asked.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn multi_get(&self, store: StoreId, keys: &[&[u8]]) -> Result<Vec<Option<Slice<'_>>>, StateError> {
        let staged = self.store(store);
        self.multi_get_from(store, keys, |key| staged.get(key))
    }

    /// The values that many keys had before the running epoch, in the order of the keys: what was written since the last
    /// [`end_epoch`](Self::end_epoch) does not count. Ranges that have expired since do.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn multi_get_before_epoch(
        &self,
        store: StoreId,
        keys: &[&[u8]],
    ) -> Result<Vec<Option<Slice<'_>>>, StateError> {
        let staged = self.store(store);
        let written = staged.before_epoch();
        self.multi_get_from(store, keys, |key| {
            let before = staged.find(key).and_then(|id| written.get(&id));
            before.copied().unwrap_or_else(|| staged.get(key))
        })
    }

    /// The keys that were written since the last [`end_epoch`](Self::end_epoch), with the values that they had before.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn overwritten_in_epoch(
        &self,
        store: StoreId,
    ) -> Result<BTreeMap<Vec<u8>, Option<Vec<u8>>>, StateError> {
        let staged = self.store(store);
        let written = staged.before_epoch();
        let keys: Vec<&[u8]> = written.keys().map(|id| staged.key(*id)).collect();
        let before = self.multi_get_before_epoch(store, &keys)?;
        let values = before.into_iter().map(|value| value.map(|value| value.to_vec()));
        Ok(keys.iter().map(|key| key.to_vec()).zip(values).collect())
    }

    /// The values of many keys of which `staged` knows some; the database knows the others.
    fn multi_get_from<'s>(
        &'s self,
        store: StoreId,
        keys: &[&[u8]],
        staged: impl Fn(&[u8]) -> Option<Option<&'s [u8]>>,
    ) -> Result<Vec<Option<Slice<'s>>>, StateError> {
        let mut missing = Vec::new();
        let mut values: Vec<Option<Slice<'_>>> = Vec::with_capacity(keys.len());
        for key in keys {
            let value = staged(key);
            if value.is_none() {
                missing.push((values.len(), *key));
            }
            values.push(value.flatten().map(Slice::borrowed));
        }
        if let (false, Some(database)) = (missing.is_empty(), &self.database) {
            let keys: Vec<&[u8]> = missing.iter().map(|(_, key)| *key).collect();
            for ((place, _), found) in missing.iter().zip(database.multi_get(store, &keys)?) {
                if let Some(value) = values.get_mut(*place) {
                    *value = found;
                }
            }
        }
        Ok(values)
    }

    /// Stages a value.
    #[inline]
    pub fn put(&mut self, store: StoreId, key: &[u8], value: &[u8]) {
        self.store_mut(store).write(key, Some(value));
    }

    /// Stages a value for a key that is known to have none: if it is deleted again before it has got into the changelog, that
    /// hears of neither.
    #[inline]
    pub fn put_new(&mut self, store: StoreId, key: &[u8], value: &[u8]) {
        self.store_mut(store).write_new(key, value);
    }

    /// Stages a delete.
    #[inline]
    pub fn delete(&mut self, store: StoreId, key: &[u8]) {
        self.store_mut(store).write(key, None);
    }

    /// Stages the delete of the keys in `[from, to)`, whose retention is over. The changelog does not get to know of
    /// it, so a restore may bring them back: callers check times themselves. It costs about as much as a scan, so it
    /// is better done now and then than with every write.
    pub fn expire(&mut self, store: StoreId, from: &[u8], to: &[u8]) {
        self.store_mut(store).expire(from, to);
    }

    /// The entries with a key in `[from, to)`, in key order.
    ///
    /// # Errors
    /// If the database cannot be read.
    #[expect(clippy::indexing_slicing, reason = "a store that was not opened is a bug of the caller")]
    pub fn scan(&mut self, store: StoreId, from: &[u8], to: &[u8]) -> Result<Scan<'_>, StateError> {
        let database = self.database.as_ref().map(|database| database.cursor(store, from, to)).transpose()?;
        Ok(Scan::new(&mut self.stores[store.0], database, from, to))
    }

    /// Keeps the writes since the last call: they can no longer be undone alone.
    pub fn end_epoch(&mut self) {
        self.stores.iter_mut().for_each(Staged::end_epoch);
    }

    /// Undoes every write since the last [`end_epoch`](Self::end_epoch).
    pub fn abort_epoch(&mut self) {
        self.stores.iter_mut().for_each(Staged::abort_epoch);
    }

    /// The newest value of every key written since the last call: each key once, by store and in the order of their
    /// first writes. Ends the epoch, for what was handed out cannot be undone.
    pub fn changelog(&mut self) -> Changelog {
        self.take_unlogged(|_| true)
    }

    /// A part of the [`changelog`](Self::changelog) ahead of the commit, so that the commit has less to wait for: once there are
    /// some `writes` of a store whose keys are hardly ever written twice between two promotions. Ends the epoch.
    pub fn changelog_so_far(&mut self, writes: usize) -> Changelog {
        self.take_unlogged(|staged| staged.may_be_logged_early(writes))
    }

    /// What the changelog lacks of those stores.
    fn take_unlogged(&mut self, of: impl Fn(&Staged) -> bool) -> Changelog {
        self.end_epoch();
        let mut changelog = Changelog::default();
        for (store, staged) in self.stores.iter_mut().enumerate().filter(|(_, staged)| of(staged)) {
            staged.take_unlogged(&mut changelog, StoreId(store));
        }
        changelog
    }

    /// What the staged writes take in memory, about. They are held until the commit, so it is wise to commit early
    /// when this grows large.
    pub fn staged_bytes(&self) -> usize {
        self.stores.iter().map(Staged::staged_bytes).sum()
    }

    /// What is kept in memory of what was promoted or read, about: the cache over a database, or the stores themselves.
    pub fn cache_bytes(&self) -> usize {
        self.stores.iter().map(Staged::clean_bytes).sum()
    }

    /// Makes everything staged the content of the stores. To be called only after the commit that covers it is known to have
    /// succeeded. Ends the epoch.
    ///
    /// # Errors
    /// If there are writes that the changelog was not asked for, which no commit can have covered: nothing is changed
    /// then. Or if the database cannot be written: the task then has to be closed, and is restored when it is opened
    /// again.
    pub fn promote(&mut self, checkpoint: Checkpoint) -> Result<(), StateError> {
        if checkpoint.changelog_offsets.len() != self.stores.len() {
            return Err(StateError::Checkpoint {
                expected: self.stores.len(),
                found: checkpoint.changelog_offsets.len(),
            });
        }
        self.end_epoch();
        let writes: usize = self.stores.iter().map(Staged::unlogged).sum();
        if writes > 0 {
            return Err(StateError::NotInChangelog { writes });
        }
        let mut now = Vec::new();
        let mut later = Vec::new();
        for (store, staged) in self.stores.iter_mut().enumerate() {
            let promoted = staged.promote().into_iter().map(|id| (StoreId(store), id));
            if staged.is_cached() { later.extend(promoted) } else { now.extend(promoted) }
        }
        self.unwritten.push_back(Unwritten { entries: later, checkpoint: checkpoint.clone() });
        self.checkpoint = checkpoint;
        let bound = self.cache.as_ref().map_or(0, |cache| UNWRITTEN_BYTES.min(cache.bytes() / 2));
        self.write(now, bound)?;
        self.bound_cache();
        Ok(())
    }

    /// Writes into the database, in one atomic batch: what has expired, the entries `now`, and the oldest commits that it lacks,
    /// until no more than `bound` bytes are left. To be called when nothing is staged. If it fails they are still lacking.
    fn write(&mut self, now: Vec<(StoreId, SlotId)>, bound: usize) -> Result<(), StateError> {
        let mut entries = now;
        entries.retain(|&entry| take_unwritten(&mut self.stores, entry));
        let mut reached = None;
        while let Some(oldest) = self.unwritten.front_mut() {
            let is_unwritten = |&(store, id): &(StoreId, SlotId)| {
                self.stores.get(store.0).is_some_and(|staged| staged.is_unwritten(id))
            };
            if unwritten_bytes(&self.stores) <= bound && oldest.entries.iter().any(is_unwritten) {
                break;
            }
            let lacking = mem::take(&mut oldest.entries).into_iter();
            entries.extend(lacking.filter(|&entry| take_unwritten(&mut self.stores, entry)));
            reached = self.unwritten.pop_front();
        }
        let Some(database) = &mut self.database else { return Ok(()) };
        let expired = self.stores.iter().any(|staged| staged.expired().next().is_some());
        if reached.is_none() && entries.is_empty() && !expired {
            return Ok(());
        }
        let checkpoint = reached.map_or_else(|| self.written.clone(), |reached| reached.checkpoint);
        let written = database.commit(&mut writes(&self.stores, &entries), &checkpoint);
        if written.is_ok() {
            self.written = checkpoint;
            self.stores.iter_mut().for_each(Staged::written);
        } else {
            entries.iter().for_each(|&(store, id)| self.store_mut(store).put_unwritten(id));
            self.unwritten.push_front(Unwritten { entries, checkpoint });
        }
        written
    }

    /// Writes everything that was promoted into the database. What is staged may hide a promoted value: then it waits.
    fn write_all(&mut self) -> Result<(), StateError> {
        if self.staged_bytes() == 0 { self.write(Vec::new(), 0) } else { Ok(()) }
    }

    /// The checkpoint that was promoted or restored last.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Applies records of a store's changelog to what was committed, and then sets the changelog offset to `next_offset`. If it
    /// is interrupted the offset is the old one, and restoring the same records again gives the same result. To be called
    /// when nothing is staged.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn restore<'r>(
        &mut self,
        store: StoreId,
        records: impl IntoIterator<Item = (&'r [u8], Option<&'r [u8]>)>,
        next_offset: i64,
    ) -> Result<(), StateError> {
        self.write_all()?;
        self.store_mut(store).forget_cached();
        if let Some(offset) = self.checkpoint.changelog_offsets.get_mut(store.0) {
            *offset = next_offset;
        }
        match &mut self.database {
            Some(database) => {
                let records: Vec<_> = records.into_iter().collect();
                database.load(store, &last_of_each_key(&records), &self.checkpoint)?;
            }
            None => {
                let staged = self.store_mut(store);
                records.into_iter().for_each(|(key, value)| staged.restore(key, value));
            }
        }
        self.written.clone_from(&self.checkpoint);
        Ok(())
    }

    /// Makes what was promoted and restored so far survive a crash; while something is staged perhaps less. Without it a crash
    /// loses some of it, which then is restored from the changelog.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn flush(&mut self) -> Result<(), StateError> {
        self.write_all()?;
        self.database.as_mut().map_or(Ok(()), |database| database.flush())
    }

    /// As [`flush`](Self::flush), without waiting for the disk: it ends by itself, and a crash before that loses no more than
    /// without.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn flush_in_background(&mut self) -> Result<(), StateError> {
        self.write_all()?;
        self.database.as_mut().map_or(Ok(()), |database| database.flush_in_background())
    }

    /// How many bytes a crash would lose now, about, and the changelog would have to bring back.
    pub fn unflushed_bytes(&self) -> usize {
        unwritten_bytes(&self.stores)
            + self.database.as_ref().map_or(0, |database| database.unflushed_bytes())
    }

    /// Flushes what was promoted, and ends.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn close(mut self) -> Result<(), StateError> {
        self.flush()
    }

    /// Each store gives from its cache in proportion to its size.
    fn bound_cache(&mut self) {
        let Some(cache) = &self.cache else { return };
        let share = cache.bytes();
        let total: usize = self.stores.iter().map(Staged::bytes).sum();
        if total <= share {
            return;
        }
        for store in &mut self.stores {
            let bound = store.bytes() as u128 * share as u128 / total as u128;
            store.evict(bound as usize);
        }
    }
}

fn unwritten_bytes(stores: &[Staged]) -> usize {
    stores.iter().map(Staged::unwritten_bytes).sum()
}

/// Whether the database lacks this entry; it is told that it no longer does.
fn take_unwritten(stores: &mut [Staged], (store, id): (StoreId, SlotId)) -> bool {
    stores.get_mut(store.0).is_some_and(|staged| staged.take_unwritten(id))
}

/// What has expired, and then the entries: one inside an expired range was written after it. They are in the order of their
/// keys, for a memtable takes neighbours faster.
fn writes<'a>(stores: &'a [Staged], entries: &[(StoreId, SlotId)]) -> impl Iterator<Item = Write<'a>> {
    let ranges = stores.iter().enumerate().flat_map(|(store, staged)| {
        staged.expired().map(move |(from, to)| Write::DeleteRange(StoreId(store), from, to))
    });
    let entry = |&(store, id): &(StoreId, SlotId)| {
        let (key, value) = stores.get(store.0)?.entry(id);
        Some((store, key, value))
    };
    let mut entries: Vec<_> = entries.iter().filter_map(entry).collect();
    entries.sort_unstable();
    ranges.chain(entries.into_iter().map(|(store, key, value)| Write::new(store, key, value)))
}

impl fmt::Debug for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskState")
            .field("stores", &self.stores.len())
            .field("checkpoint", &self.checkpoint)
            .field("staged_bytes", &self.staged_bytes())
            .finish_non_exhaustive()
    }
}
