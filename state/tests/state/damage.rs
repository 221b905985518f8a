//! Damage to the files of a state directory is noticed or has no effect: nobody reads anything else than what was committed.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use millstream_state::{StateDirectory, StateError, StateOptions, StoreId, TaskState};
use tempfile::TempDir;

use crate::support::{TASK, checkpoint, copy, random, specs};

const STORES: [StoreId; 2] = [StoreId(0), StoreId(1)];

/// What each of the stores held after each commit.
type History = Vec<[BTreeMap<Vec<u8>, Vec<u8>>; 2]>;

fn open(folder: &Path) -> Result<(TaskState, StateDirectory), StateError> {
    let directory = StateDirectory::open(folder, "app")?;
    let state = TaskState::open(&directory, TASK, &specs(&["a", "b"]), &StateOptions::new(16 << 20))?;
    Ok((state, directory))
}

fn read(state: &mut TaskState, store: StoreId) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StateError> {
    state
        .scan(store, &[], &[255])?
        .map(|entry| entry.map(|(key, value)| (key.into(), value.into())))
        .collect()
}

/// Makes state with several files of several blocks.
fn history(folder: &Path) -> History {
    let (mut state, _directory) = open(folder).unwrap();
    let mut history = vec![Default::default()];
    let mut random = random(3);
    for number in 1..=2u16 {
        for store in STORES {
            for key in number * 200..number * 200 + 400 {
                let value: Vec<u8> = random.by_ref().take(8).flat_map(u64::to_be_bytes).collect();
                state.put(store, &key.to_be_bytes(), &value);
            }
        }
        // So many that a range is deleted, and not each of them.
        state.expire(STORES[1], &[], &(number * 250).to_be_bytes());
        state.delete(STORES[0], &(number * 300).to_be_bytes());
        state.changelog();
        state.promote(checkpoint(number.into(), 2)).unwrap();
        state.flush().unwrap();
        history.push(STORES.map(|store| read(&mut state, store).unwrap()));
    }
    state.close().unwrap();
    assert_eq!(history[2].each_ref().map(BTreeMap::len), [598, 300]);
    history
}

/// Reads everything, goes on, and reads it again. Each store must hold what it held after the commit whose changelog offset
/// it names: that is the last one, unless RocksDB's list of files ends early, which it takes for an older list.
fn use_state(folder: &Path, history: &History, case: &str) -> Result<(), StateError> {
    let (mut state, directory) = open(folder)?;
    let mut expected: Vec<BTreeMap<_, _>> = Vec::new();
    for store in STORES {
        let commit = state.checkpoint().changelog_offsets[store.0] / 10;
        assert!(commit == 2 || case.starts_with("MANIFEST"), "{case}: commit {commit}");
        expected.push(history[commit as usize][store.0].clone());
    }
    let check = |state: &mut TaskState, expected: &[BTreeMap<Vec<u8>, Vec<u8>>]| {
        // A lookup and a scan read different parts of a file.
        let mut outcome = Ok(());
        for (store, expected) in STORES.into_iter().zip(expected) {
            for key in history.iter().flat_map(|stores| stores[store.0].keys()) {
                match state.get(store, key) {
                    Ok(found) => assert_eq!(found.as_deref(), expected.get(key).map(Vec::as_slice), "{case}"),
                    Err(error) => outcome = Err(error),
                }
            }
            match read(state, store) {
                Ok(found) => assert!(found == *expected, "{case}: {} of {}", found.len(), expected.len()),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    };
    check(&mut state, &expected)?;
    // Some of it is compacted then.
    for number in 7..=8 {
        for (store, expected) in STORES.into_iter().zip(&mut expected) {
            state.put(store, b"next", &[number as u8]);
            expected.insert(b"next".to_vec(), vec![number as u8]);
        }
        state.changelog();
        state.promote(checkpoint(number, 2))?;
        state.flush()?;
    }
    check(&mut state, &expected)?;
    drop((state, directory));
    let (mut state, _directory) = open(folder)?;
    assert_eq!(state.checkpoint(), &checkpoint(8, 2), "{case}");
    check(&mut state, &expected)
}

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// The bits of a byte at this place change.
    Flip(u64, u8),
    /// It ends here.
    Cut(u64),
    /// It goes on.
    Extend,
    /// It is gone.
    Remove,
}

impl Damage {
    /// Of a file of this length: at its ends, in the middle, and at random places.
    fn all(length: u64, seed: u64) -> Vec<Damage> {
        let mut damages = vec![Damage::Extend, Damage::Remove];
        let mut random = random(seed).map(|random| random >> 16);
        if length > 0 {
            let places = [0, length / 2, length - 1].into_iter();
            damages.extend(places.clone().map(|place| Damage::Flip(place, 0xff)));
            let flip = |random: u64| Damage::Flip(random % length, 1 << (random >> 40 & 7));
            damages.extend(random.by_ref().take(5).map(flip));
            damages.extend(places.map(Damage::Cut));
            damages.extend(random.take(3).map(|random| Damage::Cut(random % length)));
        }
        damages
    }

    fn apply(self, path: &Path) {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        match self {
            Damage::Flip(place, bits) => {
                let mut byte = [0];
                file.read_exact_at(&mut byte, place).unwrap();
                file.write_all_at(&[byte[0] ^ bits], place).unwrap();
            }
            Damage::Cut(length) => file.set_len(length).unwrap(),
            Damage::Extend => {
                file.write_all_at(b"something else\n", file.metadata().unwrap().len()).unwrap();
            }
            Damage::Remove => fs::remove_file(path).unwrap(),
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The way out of damage: it is moved away, and the task begins empty.
fn begin_anew(folder: &Path, case: &str) {
    let directory = StateDirectory::open(folder, "app").unwrap();
    assert!(directory.quarantine(TASK).unwrap().exists());
    drop(directory);
    let (mut state, _directory) = open(folder).unwrap();
    assert_eq!(state.checkpoint().changelog_offsets, [0, 0], "{case}");
    assert!(STORES.iter().all(|store| read(&mut state, *store).unwrap().is_empty()), "{case}");
}

#[test]
fn any_file_of_a_task_may_be_damaged() {
    let whole = TempDir::new().unwrap();
    let history = history(whole.path());
    let mut noticed: BTreeMap<String, usize> = BTreeMap::new();
    for (number, file) in files(&whole.path().join("app").join(TASK)).iter().enumerate() {
        let name = file.file_name().unwrap().to_str().unwrap();
        let kind = name.rsplit_once('.').map_or(name, |(_, extension)| extension);
        let kind = kind.split('-').next().unwrap();
        for damage in Damage::all(fs::metadata(file).unwrap().len(), number as u64) {
            let case = format!("{name}: {damage:?}");
            let folder = TempDir::new().unwrap();
            copy(whole.path(), folder.path());
            damage.apply(&folder.path().join("app").join(TASK).join(name));
            if let Err(error) = use_state(folder.path(), &history, &case) {
                assert!(error.is_corruption() && error.to_string().contains(TASK), "{case}: {error}");
                begin_anew(folder.path(), &case);
                *noticed.entry(kind.to_owned()).or_default() += 1;
            } else {
                let needed = matches!(kind, "sst" | "MANIFEST" | "CURRENT");
                assert!(!needed || !matches!(damage, Damage::Remove | Damage::Cut(0)), "{case}");
            }
        }
    }
    println!("{noticed:?}");
    assert_eq!(noticed.keys().collect::<Vec<_>>(), ["CURRENT", "MANIFEST", "sst"]);
    assert!(noticed["sst"] >= 60, "{noticed:?}");
}

#[test]
fn files_that_do_not_belong_to_a_task_change_nothing() {
    let whole = TempDir::new().unwrap();
    let history = history(whole.path());
    let noise: Vec<u8> = random(5).take(2000).flat_map(u64::to_be_bytes).collect();
    for name in [
        "000001.sst",
        "999999.sst",
        "999999.log",
        "999999.blob",
        "MANIFEST-999999",
        "OPTIONS-999999",
        "999999.dbtmp",
        "LOG.old.1",
        "core",
        "lost+found/1",
    ] {
        for content in [&[][..], &noise] {
            let folder = TempDir::new().unwrap();
            copy(whole.path(), folder.path());
            let file = folder.path().join("app").join(TASK).join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
            use_state(folder.path(), &history, name).unwrap();
        }
    }
}

/// Damages the first block of every large file, which opening does not read.
fn flip_data(folder: &Path) {
    let large = |file: &PathBuf| {
        file.extension().is_some_and(|extension| extension == "sst")
            && fs::metadata(file).unwrap().len() > 20_000
    };
    let large: Vec<_> = files(&folder.join("app").join(TASK)).into_iter().filter(large).collect();
    assert_eq!(large.len(), 4);
    large.iter().for_each(|file| Damage::Flip(20, 1).apply(file));
    open(folder).unwrap();
}

#[test]
fn damage_that_was_noticed_is_known_when_it_is_opened_again() {
    let folder = TempDir::new().unwrap();
    history(folder.path());
    flip_data(folder.path());
    let read = || open(folder.path())?.0.get(STORES[0], &200u16.to_be_bytes()).map(drop);
    let noticed = read().unwrap_err();
    assert!(noticed.is_corruption(), "{noticed}");
    let known = open(folder.path()).unwrap_err();
    assert!(known.is_corruption(), "{known}");
    assert_eq!(known.to_string(), noticed.to_string());
    begin_anew(folder.path(), "known");
}

#[test]
fn damage_is_noticed_by_whoever_only_writes() {
    let folder = TempDir::new().unwrap();
    history(folder.path());
    flip_data(folder.path());
    let write = || -> Result<(), StateError> {
        let (mut state, _directory) = open(folder.path())?;
        for number in 3..1000 {
            state.put(STORES[0], b"next", &[0; 100]);
            state.changelog();
            state.promote(checkpoint(number, 2))?;
            state.flush()?;
        }
        Ok(())
    };
    let error = write().unwrap_err();
    assert!(error.is_corruption(), "{error}");
    begin_anew(folder.path(), "written");
}

#[test]
fn the_files_of_an_application_may_be_damaged() {
    let whole = TempDir::new().unwrap();
    let history = history(whole.path());
    let app = whole.path().join("app");
    let of_application: Vec<_> = files(&app).into_iter().filter(|file| file.is_file()).collect();
    assert_eq!(of_application.len(), 2);
    for file in of_application {
        let content = fs::read(&file).unwrap();
        let is_format = file.ends_with("FORMAT");
        let mut all = Damage::all(content.len() as u64, 1);
        let bits =
            (0..content.len() as u64).flat_map(|place| (0..8).map(move |bit| Damage::Flip(place, 1 << bit)));
        all.extend(bits.filter(|_| is_format));
        for damage in all {
            damage.apply(&file);
            let opened = StateDirectory::open(whole.path(), "app");
            match opened {
                Err(error) => {
                    assert!(
                        is_format && (error.is_corruption() || error.is_refusal()),
                        "{damage:?}: {error}"
                    );
                }
                Ok(_) => {
                    let harmless = !is_format || matches!(damage, Damage::Remove | Damage::Extend);
                    assert!(harmless, "{} {damage:?}", file.display());
                }
            }
            fs::write(&file, &content).unwrap();
        }
    }
    fs::write(app.join("FORMAT.new"), "millst").unwrap();
    fs::write(app.join("payments-1"), "no folder").unwrap();
    fs::create_dir(app.join("payments-2")).unwrap();
    use_state(whole.path(), &history, "a whole one").unwrap();
}

#[test]
fn data_without_a_list_of_its_files_is_no_new_database() {
    let folder = TempDir::new().unwrap();
    history(folder.path());
    let task = files(&folder.path().join("app").join(TASK));
    for file in task.iter().filter(|file| file.extension().is_none_or(|extension| extension != "sst")) {
        fs::remove_file(file).unwrap();
    }
    let error = open(folder.path()).unwrap_err();
    assert!(error.is_corruption(), "{error}");
    begin_anew(folder.path(), "data alone");
}
