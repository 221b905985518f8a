//! What a state directory refuses, and how it says so.

use std::fs;

use millstream_state::{
    Fingerprint, StateDirectory, StateError, StateOptions, StoreId, StoreSpec, TaskState, value::ValueWriter,
};
use tempfile::TempDir;

use crate::support::{Disk, TASK, checkpoint, specs};

/// A message names the place and what to do.
fn assert_message(error: &StateError, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }
}

#[test]
fn a_directory_is_locked_while_it_is_open() {
    let folder = TempDir::new().unwrap();
    let first = StateDirectory::open(folder.path(), "app").unwrap();
    let error = StateDirectory::open(folder.path(), "app").unwrap_err();
    assert!(matches!(error, StateError::InUse { owner: Some(pid), .. } if pid == std::process::id()));
    assert!(!error.is_refusal());
    assert_message(
        &error,
        &[folder.path().to_str().unwrap(), &format!("process {}", std::process::id()), "stop"],
    );
    // Another application is no obstacle, nor is a lock file that nobody holds.
    StateDirectory::open(folder.path(), "other").unwrap();
    drop(first);
    StateDirectory::open(folder.path(), "app").unwrap();
}

#[test]
fn a_task_is_open_once() {
    let disk = Disk::new(8 << 20);
    let (_state, directory) = disk.open(&specs(&["a"])).unwrap();
    let error = TaskState::open(&directory, TASK, &specs(&["a"]), &disk.options).unwrap_err();
    assert!(matches!(error, StateError::InUse { owner: Some(_), .. }), "{error}");
}

#[test]
fn names_that_would_leave_the_directory_are_refused() {
    let folder = TempDir::new().unwrap();
    for name in ["", ".", "..", "../other", "a/b", "a b", ".hidden"] {
        let error = StateDirectory::open(folder.path(), name).unwrap_err();
        assert!(matches!(error, StateError::Name { .. }), "{error}");
    }
    let directory = StateDirectory::open(folder.path(), "app").unwrap();
    assert!(matches!(directory.task_path("../x"), Err(StateError::Name { .. })));
    let twice =
        TaskState::open(&directory, TASK, &specs(&["a", "a"]), &StateOptions::new(8 << 20)).unwrap_err();
    assert!(matches!(twice, StateError::DuplicateStore { .. }), "{twice}");
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("app")).unwrap();
    fs::write(folder.path().join("app/thesis.txt"), "precious").unwrap();
    let error = StateDirectory::open(folder.path(), "app").unwrap_err();
    assert!(matches!(error, StateError::NotStateDirectory { .. }), "{error}");
    assert!(error.is_refusal());
    assert_message(&error, &[folder.path().to_str().unwrap(), "would lose data", "choose"]);
    assert_eq!(fs::read_dir(folder.path().join("app")).unwrap().count(), 1);
}

#[test]
fn the_directory_of_another_application_is_refused() {
    let folder = TempDir::new().unwrap();
    drop(StateDirectory::open(folder.path(), "app").unwrap());
    fs::rename(folder.path().join("app"), folder.path().join("copy")).unwrap();
    let error = StateDirectory::open(folder.path(), "copy").unwrap_err();
    assert!(matches!(&error, StateError::ForeignDirectory { found, .. } if found == "app"), "{error}");
    assert!(error.is_refusal());
    assert_message(&error, &["`app`", "`copy`", "would lose data"]);
}

#[test]
fn another_format_version_is_refused() {
    let folder = TempDir::new().unwrap();
    drop(StateDirectory::open(folder.path(), "app").unwrap());
    for version in [0, 2, 70_000] {
        let text = format!("millstream state\nformat {version}\nanything that a later version may write\n");
        fs::write(folder.path().join("app/FORMAT"), text).unwrap();
        let error = StateDirectory::open(folder.path(), "app").unwrap_err();
        assert!(matches!(error, StateError::FormatVersion { found, supported: 1, .. } if found == version));
        assert!(error.is_refusal());
        assert_message(&error, &["FORMAT", &format!("version {version}"), "run the version"]);
    }
}

#[test]
fn a_format_file_that_was_cut_is_damaged() {
    let folder = TempDir::new().unwrap();
    drop(StateDirectory::open(folder.path(), "app").unwrap());
    let path = folder.path().join("app/FORMAT");
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole, b"millstream state\nformat 1\napplication app\n");
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = StateDirectory::open(folder.path(), "app").unwrap_err();
        assert!(error.is_corruption(), "cut to {length}: {error}");
    }
}

#[test]
fn the_folder_of_another_task_is_refused() {
    let disk = Disk::new(8 << 20);
    let (state, directory) = disk.open(&specs(&["a"])).unwrap();
    drop(state);
    fs::rename(disk.task(), directory.task_path("payments-1").unwrap()).unwrap();
    let error = TaskState::open(&directory, "payments-1", &specs(&["a"]), &disk.options).unwrap_err();
    assert!(
        matches!(&error, StateError::ForeignDirectory { found, .. } if found == "app/payments-0"),
        "{error}"
    );
}

#[test]
fn a_task_of_another_format_version_is_refused() {
    let disk = Disk::new(8 << 20);
    drop(disk.open(&specs(&["a"])).unwrap());
    let families = ["default", "store-a"];
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), disk.task(), families).unwrap();
    let mut identity = Vec::new();
    ValueWriter::new(&mut identity, 2).put_u8(0);
    db.put("identity", identity).unwrap();
    drop(db);
    let error = disk.open(&specs(&["a"])).unwrap_err();
    assert!(matches!(error, StateError::FormatVersion { found: 2, supported: 1, .. }), "{error}");
}

fn put_and_commit(state: &mut TaskState, store: StoreId, stores: usize, offset: i64) {
    state.put(store, b"key", b"value");
    state.changelog();
    state.promote(checkpoint(offset, stores)).unwrap();
}

#[test]
fn another_layout_is_refused_and_nothing_is_lost() {
    let disk = Disk::new(8 << 20);
    let (mut state, directory) = disk.open(&specs(&["a"])).unwrap();
    put_and_commit(&mut state, StoreId(0), 1, 1);
    drop((state, directory));
    let other = [StoreSpec { name: "a".to_owned(), fingerprint: Fingerprint::of(&[b"another"]) }];
    let error = disk.open(&other).unwrap_err();
    assert!(error.is_refusal());
    let task = disk.task();
    let (found, expected) = (Fingerprint::of(&[b"a"]).to_string(), other[0].fingerprint.to_string());
    assert_message(
        &error,
        &["`a`", task.to_str().unwrap(), &found, &expected, "refused because it would lose data"],
    );
    let (state, _directory) = disk.open(&specs(&["a"])).unwrap();
    assert_eq!(state.get(StoreId(0), b"key").unwrap().as_deref(), Some(&b"value"[..]));
}

#[test]
fn stores_come_and_go() {
    let disk = Disk::new(8 << 20);
    let (mut state, directory) = disk.open(&specs(&["a", "b"])).unwrap();
    put_and_commit(&mut state, StoreId(1), 2, 1);
    drop((state, directory));
    // A store that is not needed is kept; one that is new starts empty; the order of the specs does not matter.
    let (mut state, directory) = disk.open(&specs(&["c", "a"])).unwrap();
    assert_eq!(state.checkpoint().changelog_offsets, [0, 10]);
    put_and_commit(&mut state, StoreId(0), 2, 2);
    drop((state, directory));
    let (state, _directory) = disk.open(&specs(&["a", "b", "c"])).unwrap();
    assert_eq!(state.checkpoint().changelog_offsets, [20, 10, 20]);
    assert_eq!(state.checkpoint().input_offsets, checkpoint(2, 0).input_offsets);
    assert_eq!(state.get(StoreId(0), b"key").unwrap().as_deref(), None);
    assert_eq!(state.get(StoreId(1), b"key").unwrap().as_deref(), Some(&b"value"[..]));
    assert_eq!(state.get(StoreId(2), b"key").unwrap().as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_store_that_is_gone_is_restored_from_the_start() {
    let disk = Disk::new(8 << 20);
    let (mut state, directory) = disk.open(&specs(&["a", "b"])).unwrap();
    put_and_commit(&mut state, StoreId(0), 2, 1);
    put_and_commit(&mut state, StoreId(1), 2, 2);
    drop((state, directory));
    let families = ["default", "store-a", "store-b"];
    let mut db = rocksdb::DB::open_cf(&rocksdb::Options::default(), disk.task(), families).unwrap();
    db.drop_cf("store-a").unwrap();
    drop(db);
    for _ in 0..2 {
        let (state, _directory) = disk.open(&specs(&["a", "b"])).unwrap();
        assert_eq!(state.checkpoint().changelog_offsets, [0, 20]);
        assert_eq!(state.get(StoreId(0), b"key").unwrap().as_deref(), None);
        assert_eq!(state.get(StoreId(1), b"key").unwrap().as_deref(), Some(&b"value"[..]));
    }
}

#[test]
fn a_fingerprint_tells_its_parts_apart() {
    assert_eq!(Fingerprint::of(&[b"ab", b"c"]).to_string(), Fingerprint::of(&[b"ab", b"c"]).to_string());
    assert_ne!(Fingerprint::of(&[b"ab", b"c"]), Fingerprint::of(&[b"a", b"bc"]));
    assert_ne!(Fingerprint::of(&[]), Fingerprint::of(&[b""]));
    // Golden: it is stored.
    assert_eq!(Fingerprint::of(&[b"ab", b"c"]).to_string(), "601d5476e2ccfe2c87a2bba7a3226597");
}
