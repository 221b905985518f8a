//! A task's stores in RocksDB: one column family for each store, metadata in `default`.
//!
//! The write-ahead log is off: Kafka is the log. Families are flushed atomically, so what survives a crash is the
//! result of a first part of the batches, data and offsets alike.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rocksdb::{
    BlockBasedOptions, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator,
    DataBlockIndexType, ErrorKind, FlushOptions, IngestExternalFileOptions, LogLevel, Options, ReadOptions,
    SstFileWriter, WriteBatch, WriteOptions,
};

use crate::{
    Checkpoint, Cursor, Database, Entry, FORMAT_VERSION, Fingerprint, Slice, StateDirectory, StateError,
    StateOptions, StoreId, StoreSpec, Write, fail_point,
    value::{ValueError, ValueReader, ValueWriter},
};

const DEFAULT_FAMILY: &str = "default";
const IDENTITY: &[u8] = b"identity";
const CHECKPOINT: &[u8] = b"checkpoint";

/// The file that says what damage was noticed. Most damage shows when a block is read, not when the database is opened: whoever
/// opens it next would go on with it.
const DAMAGED: &str = "DAMAGED";

/// The file that is being made of restored entries. A crash may leave it.
const LOADED: &str = "loaded.sst";

/// From how many bytes on restored entries become a file of their own, past the memtables.
const LOADED_BYTES: usize = 1 << 20;

/// Up to how many keys of a range are deleted one by one. Range deletes slow down every read until they are
/// compacted away, so they have to be worth it.
const POINT_DELETES: usize = 64;

/// Small, since every store of every task has at least one arena.
const ARENA_BYTES: usize = 64 << 10;
const WRITE_BUFFER_BYTES: usize = 16 << 20;
const BLOCK_BYTES: usize = 8 << 10;
const OPEN_FILES: i32 = 256;

/// A task's database.
pub(crate) struct RocksDatabase {
    db: DB,
    path: PathBuf,
    stores: Vec<Store>,
    read: ReadOptions,
    write: WriteOptions,
    /// Fails where a write would have to wait.
    probe: WriteOptions,
    family_options: Options,
    buffer: Vec<u8>,
}

struct Store {
    family: String,
    metadata_key: Vec<u8>,
    fingerprint: Fingerprint,
}

impl Store {
    // The prefix keeps a store named `default` apart from the family of that name.
    fn new(spec: &StoreSpec) -> Self {
        Self {
            family: format!("store-{}", spec.name),
            metadata_key: format!("store-{}", spec.name).into_bytes(),
            fingerprint: spec.fingerprint,
        }
    }
}

impl RocksDatabase {
    pub(crate) fn open(
        directory: &StateDirectory,
        task: &str,
        specs: &[StoreSpec],
        options: &StateOptions,
    ) -> Result<(Self, Checkpoint), StateError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = specs.iter().find(|spec| !names.insert(&spec.name)) {
            return Err(StateError::DuplicateStore { store: twice.name.clone() });
        }
        let path = directory.task_path(task)?;
        check_damaged(&path)?;
        let family_options = family_options(options);
        let database_options = database_options(&family_options, options);
        // A family that no store needs belongs to a former topology: it is opened, since RocksDB wants that, and
        // kept as it is.
        let families = existing_families(&path, &database_options)?;
        let descriptors =
            families.iter().map(|name| ColumnFamilyDescriptor::new(name, family_options.clone()));
        fail_point("database-opening");
        let db = DB::open_cf_descriptors(&database_options, &path, descriptors)
            .map_err(|error| fault("open", &path, error))?;
        let _ = fs::remove_file(path.join(LOADED));
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        // A batch is in the order of its keys.
        write.set_memtable_insert_hint_per_batch(true);
        let mut probe = WriteOptions::default();
        probe.disable_wal(true);
        probe.set_no_slowdown(true);
        let stores = specs.iter().map(Store::new).collect();
        let (read, buffer) = (ReadOptions::default(), Vec::new());
        let mut database = Self { db, path, stores, read, write, probe, family_options, buffer };
        let created = database.check_identity(directory.application(), task)?;
        let checkpoint = database.read_checkpoint(specs, &families)?;

        let missing: Vec<String> = database
            .stores
            .iter()
            .filter(|store| !families.contains(&store.family))
            .map(|store| store.family.clone())
            .collect();
        if created || !missing.is_empty() {
            // The offset 0 of a new store has to be durable before the store exists: if a crash came in between, an
            // old offset would make an empty store look restored.
            database.commit(&mut std::iter::empty(), &checkpoint)?;
            database.flush_families(&[DEFAULT_FAMILY], true)?;
        }
        for family in &missing {
            database
                .db
                .create_cf(family, &database.family_options)
                .map_err(|error| fault("create a store in", &database.path, error))?;
        }
        fail_point("database-opened");
        Ok((database, checkpoint))
    }

    /// Checks whose database this is; says whether it is new.
    fn check_identity(&mut self, application: &str, task: &str) -> Result<bool, StateError> {
        let found = self.db.get_pinned(IDENTITY).map_err(|error| fault("read", &self.path, error))?;
        let Some(found) = found else {
            ValueWriter::new(&mut self.buffer, FORMAT_VERSION).put_str(application).put_str(task);
            self.db
                .put_opt(IDENTITY, &self.buffer, &self.write)
                .map_err(|error| fault("write", &self.path, error))?;
            return Ok(true);
        };
        let read = || -> Result<_, ValueError> {
            let mut reader = ValueReader::new(&found, FORMAT_VERSION)?;
            let names = (reader.get_str()?, reader.get_str()?);
            reader.finish()?;
            Ok(names)
        };
        let names = read().map_err(|error| match error {
            ValueError::Version { found, expected } => StateError::FormatVersion {
                path: self.path.clone(),
                found: found.into(),
                supported: expected.into(),
            },
            other => self.damaged(IDENTITY, &other),
        })?;
        if names != (application, task) {
            return Err(StateError::ForeignDirectory {
                path: self.path.clone(),
                found: format!("{}/{}", names.0, names.1),
                expected: format!("{application}/{task}"),
            });
        }
        Ok(false)
    }

    fn read_checkpoint(&self, specs: &[StoreSpec], families: &[String]) -> Result<Checkpoint, StateError> {
        let mut checkpoint = Checkpoint::default();
        if let Some(value) =
            self.db.get_pinned(CHECKPOINT).map_err(|error| fault("read", &self.path, error))?
        {
            let mut read = || -> Result<(), ValueError> {
                let mut reader = ValueReader::new(&value, FORMAT_VERSION)?;
                for _ in 0..reader.get_u64()? {
                    let partition = (reader.get_str()?.to_owned(), reader.get_i32()?);
                    checkpoint.input_offsets.insert(partition, reader.get_i64()?);
                }
                checkpoint.metadata = reader.get_bytes()?.to_vec();
                reader.finish()
            };
            read().map_err(|error| self.damaged(CHECKPOINT, &error))?;
        }
        for (spec, store) in specs.iter().zip(&self.stores) {
            let value =
                self.db.get_pinned(&store.metadata_key).map_err(|error| fault("read", &self.path, error))?;
            let offset = match value {
                Some(value) if families.contains(&store.family) => {
                    let read = || -> Result<_, ValueError> {
                        let mut reader = ValueReader::new(&value, FORMAT_VERSION)?;
                        let metadata = (reader.get_bytes()?, reader.get_i64()?);
                        reader.finish()?;
                        Ok(metadata)
                    };
                    let (found, offset) =
                        read().map_err(|error| self.damaged(&store.metadata_key, &error))?;
                    let found = <[u8; 16]>::try_from(found)
                        .map(Fingerprint)
                        .map_err(|_| self.damaged(&store.metadata_key, &ValueError::Truncated))?;
                    if found != spec.fingerprint {
                        return Err(StateError::FingerprintMismatch {
                            path: self.path.clone(),
                            store: spec.name.clone(),
                            found,
                            expected: spec.fingerprint,
                        });
                    }
                    offset
                }
                _ => 0,
            };
            checkpoint.changelog_offsets.push(offset);
        }
        Ok(checkpoint)
    }

    fn damaged(&self, key: &[u8], error: &ValueError) -> StateError {
        let cause = format!("its entry `{}` cannot be read: {error}", String::from_utf8_lossy(key));
        StateError::Corrupt { path: self.path.clone(), cause }
    }

    #[expect(clippy::indexing_slicing, reason = "a store that was not opened is a bug of the caller")]
    fn family(&self, store: StoreId) -> Result<&ColumnFamily, StateError> {
        self.family_named(&self.stores[store.0].family)
    }

    fn family_named(&self, name: &str) -> Result<&ColumnFamily, StateError> {
        self.db.cf_handle(name).ok_or_else(|| StateError::Corrupt {
            path: self.path.clone(),
            cause: format!("its column family `{name}` is gone"),
        })
    }

    /// The families of the stores, and that of the metadata.
    fn families(&self) -> Vec<&str> {
        self.stores.iter().map(|store| &*store.family).chain([DEFAULT_FAMILY]).collect()
    }

    fn flush_families(&self, names: &[&str], wait: bool) -> Result<(), StateError> {
        let families = names.iter().map(|name| self.family_named(name)).collect::<Result<Vec<_>, _>>()?;
        let mut options = FlushOptions::default();
        options.set_wait(wait);
        self.db.flush_cfs_opt(&families, &options).map_err(|error| fault("flush", &self.path, error))
    }

    /// Waits until a write need not wait for flushes. RocksDB would do that by itself, but for ever where the disk is full: it
    /// expects that space returns.
    fn await_flushes(&self) -> Result<(), StateError> {
        let mut failed = false;
        loop {
            match self.db.write_opt(WriteBatch::default(), &self.probe) {
                Err(error) if error.kind() == ErrorKind::Incomplete && !failed => {
                    // What has failed while this write was refused is said by the next one.
                    failed = self.has_failed();
                    std::thread::sleep(Duration::from_millis(1));
                }
                outcome => return outcome.map_err(|error| fault("write", &self.path, error)),
            }
        }
    }

    /// Makes a file of the entries, and the file a part of the database.
    fn ingest(&self, store: StoreId, sorted: &[(&[u8], Option<&[u8]>)]) -> Result<(), StateError> {
        let failed = |error| fault("write", &self.path, error);
        let family = self.family(store)?;
        let file = self.path.join(LOADED);
        let mut writer = SstFileWriter::create(&self.family_options);
        writer.open(&file).map_err(failed)?;
        for (key, value) in sorted {
            match value {
                Some(value) => writer.put(key, value),
                None => writer.delete(key),
            }
            .map_err(failed)?;
        }
        writer.finish().map_err(failed)?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db.ingest_external_file_cf_opts(family, &options, vec![&file]).map_err(failed)
    }

    /// Whether a flush or a compaction has failed.
    fn has_failed(&self) -> bool {
        self.db
            .property_int_value("rocksdb.background-errors")
            .is_ok_and(|errors| errors.is_some_and(|errors| errors > 0))
    }

    fn range(&self, family: &ColumnFamily, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        let mut iterator = self.db.raw_iterator_cf_opt(family, options);
        iterator.seek_to_first();
        iterator
    }

    fn delete_range(
        &self,
        batch: &mut WriteBatch,
        store: StoreId,
        from: &[u8],
        to: &[u8],
    ) -> Result<(), StateError> {
        let family = self.family(store)?;
        let mut iterator = self.range(family, from, to);
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        while let Some(key) = iterator.key() {
            if keys.len() == POINT_DELETES {
                batch.delete_range_cf(family, from, to);
                return Ok(());
            }
            keys.push(key.into());
            iterator.next();
        }
        iterator.status().map_err(|error| fault("read", &self.path, error))?;
        for key in keys {
            batch.delete_cf(family, key);
        }
        Ok(())
    }
}

impl Database for RocksDatabase {
    fn get(&self, store: StoreId, key: &[u8]) -> Result<Option<Slice<'_>>, StateError> {
        let value = self.db.get_pinned_cf_opt(self.family(store)?, key, &self.read);
        Ok(value.map_err(|error| fault("read", &self.path, error))?.map(Slice::pinned))
    }

    fn multi_get(&self, store: StoreId, keys: &[&[u8]]) -> Result<Vec<Option<Slice<'_>>>, StateError> {
        let keys = keys.iter().copied();
        let values = self.db.batched_multi_get_cf_opt(self.family(store)?, keys, false, &self.read);
        values
            .into_iter()
            .map(|value| value.map(|found| found.map(Slice::pinned)))
            .map(|value| value.map_err(|error| fault("read", &self.path, error)))
            .collect()
    }

    fn cursor(&self, store: StoreId, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + '_>, StateError> {
        let cursor = RocksCursor { iterator: self.range(self.family(store)?, from, to), path: &self.path };
        cursor.check()?;
        Ok(Box::new(cursor))
    }

    fn commit<'w>(
        &mut self,
        writes: &mut dyn Iterator<Item = Write<'w>>,
        checkpoint: &Checkpoint,
    ) -> Result<(), StateError> {
        let mut batch = WriteBatch::default();
        for write in writes {
            match write {
                Write::Put(store, key, value) => batch.put_cf(self.family(store)?, key, value),
                Write::Delete(store, key) => batch.delete_cf(self.family(store)?, key),
                Write::DeleteRange(store, from, to) => self.delete_range(&mut batch, store, from, to)?,
            }
        }
        let mut writer = ValueWriter::new(&mut self.buffer, FORMAT_VERSION);
        writer.put_u64(checkpoint.input_offsets.len() as u64);
        for ((topic, partition), offset) in &checkpoint.input_offsets {
            writer.put_str(topic).put_i32(*partition).put_i64(*offset);
        }
        writer.put_bytes(&checkpoint.metadata);
        batch.put(CHECKPOINT, &self.buffer);
        for (store, offset) in self.stores.iter().zip(&checkpoint.changelog_offsets) {
            ValueWriter::new(&mut self.buffer, FORMAT_VERSION)
                .put_bytes(&store.fingerprint.0)
                .put_i64(*offset);
            batch.put(&store.metadata_key, &self.buffer);
        }
        self.await_flushes()?;
        fail_point("database-writing");
        self.db.write_opt(batch, &self.write).map_err(|error| fault("write", &self.path, error))?;
        fail_point("database-written");
        Ok(())
    }

    fn load(
        &mut self,
        store: StoreId,
        sorted: &[(&[u8], Option<&[u8]>)],
        checkpoint: &Checkpoint,
    ) -> Result<(), StateError> {
        let bytes: usize = sorted.iter().map(|(key, value)| key.len() + value.map_or(0, <[u8]>::len)).sum();
        if bytes < LOADED_BYTES {
            let mut writes = sorted.iter().map(|(key, value)| Write::new(store, key, *value));
            return self.commit(&mut writes, checkpoint);
        }
        self.ingest(store, sorted)?;
        fail_point("database-loaded");
        self.commit(&mut std::iter::empty(), checkpoint)?;
        // What was ingested is durable at once, and the checkpoint should not stay far behind it.
        self.flush()
    }

    fn flush(&mut self) -> Result<(), StateError> {
        fail_point("database-flushing");
        self.flush_families(&self.families(), true)?;
        fail_point("database-flushed");
        Ok(())
    }

    fn flush_in_background(&mut self) -> Result<(), StateError> {
        self.flush_families(&self.families(), false)
    }

    fn unflushed_bytes(&self) -> usize {
        let stores = self.stores.iter().map(|store| &*store.family);
        let bytes = stores.chain([DEFAULT_FAMILY]).filter_map(|family| {
            let family = self.db.cf_handle(family)?;
            self.db.property_int_value_cf(family, "rocksdb.cur-size-all-mem-tables").ok()?
        });
        bytes.sum::<u64>() as usize
    }
}

struct RocksCursor<'a> {
    iterator: DBRawIterator<'a>,
    path: &'a Path,
}

impl RocksCursor<'_> {
    /// An iterator that ends may have failed.
    fn check(&self) -> Result<(), StateError> {
        if self.iterator.valid() {
            Ok(())
        } else {
            self.iterator.status().map_err(|error| fault("read", self.path, error))
        }
    }
}

impl Cursor for RocksCursor<'_> {
    fn entry(&self) -> Option<Entry<'_>> {
        self.iterator.item()
    }

    fn next(&mut self) -> Result<(), StateError> {
        self.iterator.next();
        self.check()
    }

    fn seek(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.iterator.seek(key);
        self.check()
    }
}

/// Fails if damage was noticed before.
fn check_damaged(path: &Path) -> Result<(), StateError> {
    let marker = path.join(DAMAGED);
    match fs::read(&marker) {
        Ok(cause) => {
            let cause = String::from_utf8_lossy(&cause).into_owned();
            Err(StateError::Corrupt { path: path.to_owned(), cause })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StateError::Io { action: "read", path: marker, source }),
    }
}

/// The families of the database, or only the default one if there is no database yet.
fn existing_families(path: &Path, options: &Options) -> Result<Vec<String>, StateError> {
    let io_error = |source| StateError::Io { action: "read", path: path.to_owned(), source };
    if path.join("CURRENT").try_exists().map_err(io_error)? {
        return DB::list_cf(options, path).map_err(|error| fault("open", path, error));
    }
    if path.try_exists().map_err(io_error)? {
        // RocksDB would take a directory without this file for a new one and forget the data in it.
        for entry in path.read_dir().map_err(io_error)? {
            if entry.map_err(io_error)?.path().extension().is_some_and(|extension| extension == "sst") {
                let cause = "it has data files but no file `CURRENT`".to_owned();
                return Err(StateError::Corrupt { path: path.to_owned(), cause });
            }
        }
    }
    Ok(vec![DEFAULT_FAMILY.to_owned()])
}

fn family_options(options: &StateOptions) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&options.blocks);
    blocks.set_block_size(BLOCK_BYTES);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    let mut family = Options::default();
    family.set_block_based_table_factory(&blocks);
    family.set_arena_block_size(ARENA_BYTES);
    family.set_write_buffer_size(WRITE_BUFFER_BYTES);
    family.set_max_write_buffer_number(3);
    family.set_level_compaction_dynamic_level_bytes(true);
    family.set_compression_type(DBCompressionType::Lz4);
    family.set_bottommost_compression_type(DBCompressionType::Zstd);
    family
}

fn database_options(family: &Options, options: &StateOptions) -> Options {
    let mut database = family.clone();
    database.create_if_missing(true);
    database.set_atomic_flush(true);
    database.set_write_buffer_manager(&options.write_buffers);
    database.set_max_open_files(OPEN_FILES);
    database.set_log_level(LogLevel::Warn);
    database.set_keep_log_file_num(2);
    database
}

/// Sorts an error of RocksDB by what has to be done about it.
fn fault(action: &'static str, path: &Path, error: rocksdb::Error) -> StateError {
    let message = error.as_ref();
    match error.kind() {
        ErrorKind::Corruption => corrupt(path, message),
        ErrorKind::IOError if message.contains("No such file") => corrupt(path, message),
        ErrorKind::IOError if message.contains("lock hold by current process") => {
            StateError::InUse { path: path.to_owned(), owner: Some(std::process::id()) }
        }
        _ => StateError::Database { action, path: path.to_owned(), source: Box::new(error) },
    }
}

fn corrupt(path: &Path, cause: &str) -> StateError {
    // If it cannot be written the damage is noticed again.
    let _ = fs::write(path.join(DAMAGED), cause);
    StateError::Corrupt { path: path.to_owned(), cause: cause.to_owned() }
}
