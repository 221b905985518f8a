//! Random operations on a task's state beside a model made of plain maps.

use std::collections::{BTreeMap, BTreeSet};

use millstream_state::{Changelog, Checkpoint, StateDirectory, StoreId, TaskState};
use proptest::{collection::vec, prelude::*};

use crate::support::{Disk, checkpoint, restore, specs};

const STORES: usize = 2;

/// How many offsets of each changelog a commit takes in [`checkpoint`].
const OFFSETS: i64 = 10;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A record of the changelog.
type Logged = (StoreId, Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Debug)]
enum Op {
    Put(usize, Vec<u8>, Vec<u8>),
    /// If there is no such key.
    PutNew(usize, Vec<u8>, Vec<u8>),
    Delete(usize, Vec<u8>),
    Expire(usize, Vec<u8>, Vec<u8>),
    Get(usize, Vec<u8>),
    Scan(usize, Vec<u8>, Vec<u8>),
    EndEpoch,
    AbortEpoch,
    Changelog,
    ChangelogSoFar(usize),
    Promote,
    Flush,
    Crash,
}

/// Few different keys, so that operations meet; short and long ones, so that both representations are met; some begin alike.
fn key() -> impl Strategy<Value = Vec<u8>> {
    (0..12u8, prop_oneof![Just(0), Just(1), Just(30)]).prop_map(|(number, len)| numbered(number, len))
}

fn numbered(number: u8, len: usize) -> Vec<u8> {
    let mut key = vec![1 + number / 8, number];
    key.resize(2 + len, 7);
    key
}

fn op() -> impl Strategy<Value = Op> {
    let store = 0..STORES;
    let value = prop_oneof![vec(any::<u8>(), 0..4), vec(any::<u8>(), 20..26)];
    prop_oneof![
        8 => (store.clone(), key(), value.clone()).prop_map(|(s, k, v)| Op::Put(s, k, v)),
        4 => (store.clone(), key(), value).prop_map(|(s, k, v)| Op::PutNew(s, k, v)),
        4 => (store.clone(), key()).prop_map(|(s, k)| Op::Delete(s, k)),
        3 => (store.clone(), key(), key()).prop_map(|(s, a, b)| Op::Expire(s, a, b)),
        4 => (store.clone(), key()).prop_map(|(s, k)| Op::Get(s, k)),
        4 => (store, key(), key()).prop_map(|(s, a, b)| Op::Scan(s, a, b)),
        4 => Just(Op::EndEpoch),
        2 => Just(Op::AbortEpoch),
        1 => Just(Op::Changelog),
        1 => (0..4usize).prop_map(Op::ChangelogSoFar),
        2 => Just(Op::Promote),
        1 => Just(Op::Flush),
        1 => Just(Op::Crash),
    ]
}

/// The contents of the stores and the keys that the changelog lacks, at one level of certainty.
#[derive(Clone, Default)]
struct Level {
    stores: [Map; STORES],
    unlogged: [BTreeSet<Vec<u8>>; STORES],
    /// The keys that were written since the promotion, and those of them that were new and are not in the changelog.
    written: [BTreeSet<Vec<u8>>; STORES],
    new: [BTreeSet<Vec<u8>>; STORES],
}

#[derive(Default)]
struct Model {
    promoted: Level,
    kept: Level,
    now: Level,
    /// The changelog of the running commit, and that of all commits.
    uncommitted: Vec<Logged>,
    committed: Vec<Logged>,
    expired: Vec<(usize, Vec<u8>, Vec<u8>)>,
    /// How long the changelog was after each commit.
    history: Vec<usize>,
    /// How many commits a crash cannot take.
    durable: usize,
}

impl Model {
    fn put(&mut self, store: usize, key: &[u8], value: &[u8]) {
        self.now.stores[store].insert(key.to_vec(), value.to_vec());
        self.now.unlogged[store].insert(key.to_vec());
        self.now.written[store].insert(key.to_vec());
    }

    fn may_be_new(&self, store: usize, key: &[u8]) -> bool {
        let expired = |(of, from, to): &(usize, Vec<u8>, Vec<u8>)| {
            *of == store && from.as_slice() <= key && key < to.as_slice()
        };
        !self.now.stores[store].contains_key(key) && !self.expired.iter().any(expired)
    }

    fn put_new(&mut self, store: usize, key: &[u8], value: &[u8]) {
        if !self.now.written[store].contains(key) {
            self.now.new[store].insert(key.to_vec());
        }
        self.put(store, key, value);
    }

    fn delete(&mut self, store: usize, key: &[u8]) {
        self.now.stores[store].remove(key);
        if self.now.new[store].contains(key) {
            self.now.unlogged[store].remove(key);
        } else {
            self.now.unlogged[store].insert(key.to_vec());
            self.now.written[store].insert(key.to_vec());
        }
    }

    fn expire(&mut self, store: usize, from: &[u8], to: &[u8]) {
        let inside = |key: &[u8]| from <= key && key < to;
        self.now.stores[store].retain(|key, _| !inside(key));
        for keys in [&mut self.now.unlogged, &mut self.now.new] {
            keys[store].retain(|key| !inside(key));
        }
        self.expired.push((store, from.to_vec(), to.to_vec()));
    }

    fn changelog(&mut self) -> Vec<Logged> {
        let mut records = Vec::new();
        for store in 0..STORES {
            for key in std::mem::take(&mut self.now.unlogged[store]) {
                let value = self.now.stores[store].get(&key).cloned();
                self.now.new[store].remove(&key);
                records.push((StoreId(store), key, value));
            }
        }
        self.kept = self.now.clone();
        self.uncommitted.extend(records.iter().cloned());
        records
    }

    /// `records` are all that some of the stores have.
    fn changelog_so_far(&mut self, records: Vec<Logged>) {
        let taken: BTreeSet<StoreId> = records.iter().map(|(store, ..)| *store).collect();
        let left = self.now.unlogged.clone();
        for (store, unlogged) in self.now.unlogged.iter_mut().enumerate() {
            if !taken.contains(&StoreId(store)) {
                unlogged.clear();
            }
        }
        assert_eq!(records, self.changelog());
        for (store, left) in left.into_iter().enumerate() {
            if !taken.contains(&StoreId(store)) {
                self.now.unlogged[store] = left;
            }
        }
        self.kept = self.now.clone();
    }

    fn promote(&mut self) -> Checkpoint {
        self.committed.append(&mut self.uncommitted);
        (self.now.written, self.now.new) = Default::default();
        self.kept = self.now.clone();
        self.promoted = self.now.clone();
        self.history.push(self.committed.len());
        checkpoint(self.history.len() as i64, STORES)
    }

    /// Says what of its changelog a store lacks in a database with this checkpoint.
    fn crash(&mut self, store: usize, found: &Checkpoint) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let commits = (found.changelog_offsets[store] / OFFSETS) as usize;
        assert!((self.durable..=self.history.len()).contains(&commits), "at commit {commits}");
        let from = commits.checked_sub(1).map_or(0, |last| self.history[last]);
        let lacking = self.committed[from..].iter().filter(|(of, ..)| *of == StoreId(store));
        lacking.map(|(_, key, value)| (key.clone(), value.clone())).collect()
    }

    /// A store was restored from its changelog: it holds what was promoted, and perhaps again what had expired.
    fn restored(&mut self, store: usize, contents: Map) {
        let promoted = &mut self.promoted.stores[store];
        for (key, value) in &contents {
            let expired = |(s, from, to): &(usize, Vec<u8>, Vec<u8>)| *s == store && from <= key && key < to;
            match promoted.get(key) {
                Some(promoted) => assert_eq!(value, promoted, "{key:?}"),
                None => assert!(self.expired.iter().any(expired), "{key:?} had not expired"),
            }
        }
        assert!(promoted.keys().all(|key| contents.contains_key(key)), "{promoted:?} {contents:?}");
        *promoted = contents;
    }

    /// Back to what was promoted last.
    fn start_anew(&mut self) {
        self.uncommitted.clear();
        self.now = self.promoted.clone();
        self.kept = self.promoted.clone();
    }
}

/// Where the state lives; on a disk it can be opened again.
enum Place {
    Memory,
    Disk(Disk),
}

impl Place {
    fn open(&self) -> (TaskState, Option<StateDirectory>) {
        let specs = specs(&["counts", "default"]);
        match self {
            Self::Memory => (TaskState::in_memory(&specs), None),
            Self::Disk(disk) => {
                let (state, directory) = disk.open(&specs).unwrap();
                (state, Some(directory))
            }
        }
    }
}

fn contents(state: &mut TaskState, store: usize) -> Map {
    let scan = state.scan(StoreId(store), &[], &[255]).unwrap();
    scan.map(|entry| entry.map(|(key, value)| (key.into(), value.into())).unwrap()).collect()
}

/// Records by store and key: in which order the changelog gets different keys means nothing.
fn sorted(changelog: Changelog) -> Vec<Logged> {
    let records =
        changelog.iter().map(|record| (record.store, record.key.to_vec(), record.value.map(<[u8]>::to_vec)));
    let mut records: Vec<Logged> = records.collect();
    records.sort();
    records
}

fn check_all(state: &mut TaskState, model: &Model) {
    for (store, expected) in model.now.stores.iter().enumerate() {
        let every_key: Vec<Vec<u8>> =
            (0..12).flat_map(|number| [0, 1].map(|len| numbered(number, len))).collect();
        let keys: Vec<&[u8]> = every_key.iter().map(Vec::as_slice).collect();
        for (key, value) in keys.iter().zip(state.multi_get(StoreId(store), &keys).unwrap()) {
            assert_eq!(value.as_deref(), expected.get(*key).map(Vec::as_slice), "multi_get {key:?}");
            assert_eq!(
                state.get(StoreId(store), key).unwrap().as_deref(),
                expected.get(*key).map(Vec::as_slice),
                "get {key:?}"
            );
        }
        assert_eq!(&contents(state, store), expected, "store {store}");
    }
}

fn run(place: &Place, ops: &[Op]) {
    let (mut state, mut directory) = place.open();
    let mut model = Model::default();
    for op in ops {
        match op {
            Op::Put(store, key, value) => {
                state.put(StoreId(*store), key, value);
                model.put(*store, key, value);
            }
            Op::PutNew(store, key, value) => {
                if model.may_be_new(*store, key) {
                    state.put_new(StoreId(*store), key, value);
                    model.put_new(*store, key, value);
                }
            }
            Op::Delete(store, key) => {
                state.delete(StoreId(*store), key);
                model.delete(*store, key);
            }
            Op::Expire(store, from, to) => {
                state.expire(StoreId(*store), from, to);
                model.expire(*store, from, to);
            }
            Op::Get(store, key) => {
                let value = state.get(StoreId(*store), key).unwrap();
                assert_eq!(value.as_deref(), model.now.stores[*store].get(key).map(Vec::as_slice));
            }
            Op::Scan(store, from, to) => {
                let mut scan = state.scan(StoreId(*store), from, to).unwrap();
                let stored = &model.now.stores[*store];
                for (key, value) in stored.iter().filter(|(key, _)| (from..to).contains(key)) {
                    assert_eq!(scan.next_entry().unwrap(), Some((key.as_slice(), value.as_slice())));
                }
                assert_eq!(scan.next_entry().unwrap(), None);
            }
            Op::EndEpoch => {
                state.end_epoch();
                model.kept = model.now.clone();
            }
            Op::AbortEpoch => {
                state.abort_epoch();
                model.now = model.kept.clone();
            }
            Op::Changelog => assert_eq!(sorted(state.changelog()), model.changelog()),
            Op::ChangelogSoFar(writes) => model.changelog_so_far(sorted(state.changelog_so_far(*writes))),
            Op::Promote => {
                assert_eq!(sorted(state.changelog()), model.changelog());
                state.promote(model.promote()).unwrap();
                assert_eq!(state.staged_bytes(), 0);
            }
            Op::Flush => {
                // What is staged may keep something from being written.
                let whole = state.staged_bytes() == 0;
                state.flush().unwrap();
                model.durable = if whole { model.history.len() } else { model.durable };
            }
            Op::Crash if matches!(place, Place::Disk(_)) => {
                drop(state);
                drop(directory.take());
                (state, directory) = place.open();
                for store in 0..STORES {
                    let lacking = model.crash(store, state.checkpoint());
                    let end = model.history.len() as i64 * OFFSETS;
                    restore(&mut state, StoreId(store), &lacking, end);
                    model.restored(store, contents(&mut state, store));
                }
                model.start_anew();
            }
            Op::Crash => {}
        }
    }
    check_all(&mut state, &model);
    state.abort_epoch();
    model.now = model.kept.clone();
    check_all(&mut state, &model);

    // The changelog alone gives what was promoted.
    let (mut restored, _) = Place::Memory.open();
    for store in 0..STORES {
        let records = model.committed.iter().filter(|(of, ..)| *of == StoreId(store));
        let records: Vec<_> = records.map(|(_, key, value)| (key.clone(), value.clone())).collect();
        restore(&mut restored, StoreId(store), &records, 77);
        model.restored(store, contents(&mut restored, store));
    }
    assert_eq!(restored.checkpoint().changelog_offsets, [77, 77]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_does_as_the_model(ops in vec(op(), 1..200)) {
        run(&Place::Memory, &ops);
    }
}

proptest! {
    // Each case opens a database several times.
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rocksdb_does_as_the_model(ops in vec(op(), 1..200), memory in prop_oneof![Just(1600), Just(64 << 20)]) {
        run(&Place::Disk(Disk::new(memory)), &ops);
    }
}
