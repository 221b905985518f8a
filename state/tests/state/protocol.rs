//! Commits, restores and crashes.

use std::{collections::BTreeMap, os::unix::process::ExitStatusExt, path::Path, process};

use millstream_state::{StateDirectory, StateError, StateOptions, StoreId, TaskState};
use tempfile::TempDir;

use crate::support::{Disk, Record, TASK, checkpoint, random, restore, specs};

const A: StoreId = StoreId(0);
const B: StoreId = StoreId(1);

/// Runs a check in memory and on RocksDB.
fn everywhere(check: impl Fn(TaskState)) {
    let specs = specs(&["a", "b"]);
    check(TaskState::in_memory(&specs));
    let disk = Disk::new(64 << 20);
    let (state, _directory) = disk.open(&specs).unwrap();
    check(state);
}

fn commit(state: &mut TaskState, offset: i64) {
    state.changelog();
    state.promote(checkpoint(offset, 2)).unwrap();
}

fn contents(state: &mut TaskState, store: StoreId) -> BTreeMap<Vec<u8>, Vec<u8>> {
    state
        .scan(store, &[], &[255])
        .unwrap()
        .map(|entry| entry.map(|(k, v)| (k.into(), v.into())).unwrap())
        .collect()
}

#[test]
fn writes_that_no_commit_covers_are_not_promoted() {
    everywhere(|mut state| {
        state.put(A, b"k", b"1");
        state.changelog();
        state.put(A, b"k", b"2");
        let error = state.promote(checkpoint(1, 2)).unwrap_err();
        assert!(matches!(error, StateError::NotInChangelog { writes: 1 }), "{error}");
    });
}

#[test]
fn a_checkpoint_has_an_offset_for_each_store() {
    everywhere(|mut state| {
        let error = state.promote(checkpoint(1, 1)).unwrap_err();
        assert!(matches!(error, StateError::Checkpoint { expected: 2, found: 1 }), "{error}");
    });
}

#[test]
fn staged_bytes_follow_the_writes() {
    everywhere(|mut state| {
        assert_eq!(state.staged_bytes(), 0);
        state.put(A, b"k", &[0; 1000]);
        let one = state.staged_bytes();
        assert!((1000..1200).contains(&one), "{one}");
        state.end_epoch();
        state.put(A, b"k", &[0; 2000]);
        state.put(B, b"l", &[0; 2000]);
        state.expire(A, b"x", b"y");
        assert!(state.staged_bytes() > 4000);
        state.abort_epoch();
        assert_eq!(state.staged_bytes(), one);
        commit(&mut state, 1);
        assert_eq!(state.staged_bytes(), 0);
    });
}

#[test]
fn a_front_that_expires_step_by_step_stays_expired() {
    everywhere(|mut state| {
        for round in 0..3u8 {
            for window in 0..200u8 {
                state.put(A, &[1, round, window], b"v");
            }
            commit(&mut state, i64::from(round) + 1);
            for window in 0..200u8 {
                state.end_epoch();
                state.expire(A, &[1], &[1, round, window]);
                assert_eq!(state.get(A, &[1, round, window / 2]).unwrap().is_some(), window == 0);
                let first =
                    state.scan(A, &[1], &[2]).unwrap().next_entry().unwrap().map(|(key, _)| key.to_vec());
                assert_eq!(first, Some(vec![1, round, window]));
            }
            state.abort_epoch();
            assert_eq!(contents(&mut state, A).len(), 2);
            commit(&mut state, i64::from(round) + 100);
            assert_eq!(contents(&mut state, A).len(), 2);
        }
    });
}

#[test]
fn a_restore_is_seen_through_every_cache() {
    everywhere(|mut state| {
        state.put(A, b"old", b"1");
        state.delete(A, b"new");
        assert_eq!(state.get(A, b"old").unwrap().as_deref(), Some(&b"1"[..]));
        commit(&mut state, 1);
        let records = [(b"old".to_vec(), None), (b"new".to_vec(), Some(b"2".to_vec()))];
        restore(&mut state, A, &records, 12);
        assert_eq!(state.get(A, b"old").unwrap().as_deref(), None);
        assert_eq!(state.get(A, b"new").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(state.checkpoint().changelog_offsets, [12, 10]);
        assert_eq!(contents(&mut state, A), [(b"new".to_vec(), b"2".to_vec())].into());
    });
}

#[test]
fn a_large_restore_is_the_last_of_each_key_and_survives_a_restart() {
    let specs = specs(&["a", "b"]);
    let disk = Disk::new(64 << 20);
    let (mut state, directory) = disk.open(&specs).unwrap();
    let mut expected = BTreeMap::new();
    let mut numbers = random(7).map(|number| number >> 32);
    // Some batches become files, some do not; keys come back, are deleted, and are of different lengths.
    for (number, length) in [40_000, 10, 40_000, 1_000, 40_000].into_iter().enumerate() {
        let mut record = |_| {
            let key = format!("card-{}", numbers.next().unwrap() % 30_000).into_bytes();
            let value = numbers.next().unwrap();
            (key, (value % 4 > 0).then(|| [value.to_be_bytes(); 12].concat()))
        };
        let records: Vec<Record> = (0..length).map(&mut record).collect();
        restore(&mut state, B, &records, number as i64 + 1);
        for (key, value) in records {
            match value {
                Some(value) => drop(expected.insert(key, value)),
                None => drop(expected.remove(&key)),
            }
        }
        assert_eq!(contents(&mut state, B), expected, "batch {number}");
    }
    state.close().unwrap();
    drop(directory);
    let (mut state, _directory) = disk.open(&specs).unwrap();
    assert_eq!(state.checkpoint().changelog_offsets, [0, 5]);
    assert_eq!(contents(&mut state, A), BTreeMap::new());
    assert_eq!(contents(&mut state, B), expected);
}

/// Commits some times and tells what the store held after each.
fn history(state: &mut TaskState) -> Vec<BTreeMap<Vec<u8>, Vec<u8>>> {
    // A store that is asked for single keys writes its commits later.
    assert_eq!(state.get(A, &[1, 0]).unwrap().as_deref(), None);
    let mut history = vec![BTreeMap::new()];
    for commit_number in 1..=6 {
        for n in 0..50u8 {
            state.put(A, &[1, n], &[commit_number; 40]);
        }
        state.put(A, &[1, 100 + commit_number], b"only once");
        state.expire(A, &[1, 100], &[1, 99 + commit_number]);
        commit(state, commit_number.into());
        history.push(contents(state, A));
        if commit_number % 2 == 0 {
            state.flush().unwrap();
        }
    }
    history
}

fn open(folder: &Path) -> Result<(TaskState, StateDirectory), StateError> {
    let directory = StateDirectory::open(folder, "app")?;
    let state = TaskState::open(&directory, TASK, &specs(&["a", "b"]), &StateOptions::new(64 << 20))?;
    Ok((state, directory))
}

/// Which commit the database is at: its checkpoint and contents must agree.
fn commit_of(state: &mut TaskState, history: &[BTreeMap<Vec<u8>, Vec<u8>>]) -> Result<usize, StateError> {
    let entries: Result<BTreeMap<_, _>, _> = state.scan(A, &[], &[255])?.collect();
    let contents: BTreeMap<Vec<u8>, Vec<u8>> =
        entries?.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
    let offset = state.checkpoint().input_offsets.values().next().copied().unwrap_or(0);
    assert_eq!(contents, history[offset as usize], "the contents are those of the checkpoint");
    assert_eq!(state.checkpoint().changelog_offsets, [offset * 10, offset * 10]);
    Ok(offset as usize)
}

/// Set for a process that has to crash: where its state is.
const CRASH_IN: &str = "MILLSTREAM_TEST_CRASH_IN";

#[test]
fn after_a_crash_data_and_checkpoint_agree() {
    if let Some(folder) = std::env::var_os(CRASH_IN) {
        let (mut state, _directory) = open(Path::new(&folder)).unwrap();
        history(&mut state);
        // The sixth commit was flushed, the seventh is not, and the rest is only staged.
        state.put(A, b"unflushed", b"");
        commit(&mut state, 7);
        state.put(A, b"staged", b"");
        process::abort();
    }
    let history = history(&mut TaskState::in_memory(&specs(&["a", "b"])));
    let folder = TempDir::new().unwrap();
    let crashed = process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "protocol::after_a_crash_data_and_checkpoint_agree"])
        .env(CRASH_IN, folder.path())
        .output()
        .unwrap();
    assert_eq!(crashed.status.signal(), Some(6), "{crashed:?}");
    let (mut state, _directory) = open(folder.path()).unwrap();
    assert_eq!(commit_of(&mut state, &history).unwrap(), 6);
}

/// A batch of a changelog, of a megabyte.
fn batch(number: i64) -> impl Iterator<Item = Record> {
    let mut random = random(number as u64);
    (number * 1000..number * 1000 + 1000).map(move |offset| {
        let value = random.by_ref().take(125).flat_map(u64::to_be_bytes).collect();
        (offset.to_be_bytes().to_vec(), Some(value))
    })
}

#[test]
fn a_restore_that_is_killed_goes_on_from_what_it_has_restored() {
    const BATCHES: i64 = 60;
    if let Some(folder) = std::env::var_os(CRASH_IN) {
        let (mut state, _directory) = open(Path::new(&folder)).unwrap();
        let (mut unflushed, mut number) = (0, state.checkpoint().changelog_offsets[0] / 1000);
        while number < BATCHES {
            // So many that they become a file, or as few as go into a memtable.
            let next = if number % 12 == 9 { number + 3 } else { number + 1 };
            let records: Vec<Record> = (number..next).flat_map(batch).collect();
            restore(&mut state, A, &records, next * 1000);
            number = next;
            // Something has come to the disk meanwhile, not all.
            if state.unflushed_bytes() < unflushed {
                process::abort();
            }
            unflushed = state.unflushed_bytes();
        }
        state.close().unwrap();
        process::abort();
    }
    let folder = TempDir::new().unwrap();
    let all: BTreeMap<_, _> =
        (0..BATCHES).flat_map(batch).map(|(key, value)| (key, value.unwrap())).collect();
    let (mut restored, mut kills) = (0, 0);
    while restored < BATCHES * 1000 {
        let crashed = process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "protocol::a_restore_that_is_killed_goes_on_from_what_it_has_restored"])
            .env(CRASH_IN, folder.path())
            .output()
            .unwrap();
        assert_eq!(crashed.status.signal(), Some(6), "{crashed:?}");
        let (mut state, _directory) = open(folder.path()).unwrap();
        let offset = state.checkpoint().changelog_offsets[0];
        assert!(offset > restored, "{offset} after {restored}");
        (restored, kills) = (offset, kills + 1);
        // It may have more than it knows, never less.
        let found = contents(&mut state, A);
        assert!(found.iter().all(|(key, value)| all.get(key) == Some(value)));
        assert!(all.keys().take(restored as usize).all(|key| found.contains_key(key)), "{restored}");
    }
    assert_eq!(restored, BATCHES * 1000);
    assert!(kills > 1, "{kills}");
}

#[test]
fn a_key_that_is_written_again_and_again_is_written_to_the_database_once() {
    let disk = Disk::new(64 << 20);
    let specs = specs(&["a", "b"]);
    let (mut state, directory) = disk.open(&specs).unwrap();
    for number in 1..=100 {
        assert_eq!(state.get(A, b"k").unwrap().is_some(), number > 1);
        state.put(A, b"k", &[number as u8; 10_000]);
        commit(&mut state, number);
    }
    let unflushed = state.unflushed_bytes();
    assert!(unflushed < 1 << 20, "{unflushed} bytes for a key of 10,000");
    state.flush().unwrap();
    drop((state, directory));
    let (state, _directory) = disk.open(&specs).unwrap();
    assert_eq!(state.get(A, b"k").unwrap().as_deref(), Some(&[100; 10_000][..]));
    assert_eq!(state.checkpoint(), &checkpoint(100, 2));
}

#[test]
fn a_database_is_ahead_of_its_checkpoint_by_promoted_values_only() {
    let disk = Disk::new(1 << 20);
    let specs = specs(&["a", "b"]);
    let (mut state, directory) = disk.open(&specs).unwrap();
    assert!(state.get(A, b"").unwrap().is_none());
    let key = |n: u32| n.to_be_bytes();
    // More than may wait: the older commits are written, with the newest promoted values.
    for number in 1..=40u32 {
        (0..100).for_each(|n| state.put(A, &key(number * 50 + n), &[number as u8; 100]));
        commit(&mut state, i64::from(number));
    }
    (0..100_000).for_each(|n| state.put(A, &key(n), b"staged"));
    drop((state, directory));
    let (mut state, _directory) = disk.open(&specs).unwrap();
    let reached = state.checkpoint().changelog_offsets[0] / 10;
    assert!((1..40).contains(&reached), "{reached}");
    let found = contents(&mut state, A);
    for (key, value) in &found {
        let n = u32::from_be_bytes(key.as_slice().try_into().unwrap());
        assert_eq!(value, &vec![(n / 50).min(40) as u8; 100]);
    }
    assert!(found.len() >= reached as usize * 50);
}
