//! The tests of the crate, in one binary.

#[cfg(test)]
mod damage;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod key;
#[cfg(test)]
mod model;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod value;

#[cfg(test)]
mod support {
    use std::{fs, path::Path};

    use millstream_state::{
        Checkpoint, Fingerprint, StateDirectory, StateError, StateOptions, StoreId, StoreSpec, TaskState,
    };
    use tempfile::TempDir;

    pub const TASK: &str = "payments-0";

    pub fn specs(names: &[&str]) -> Vec<StoreSpec> {
        names
            .iter()
            .map(|name| StoreSpec {
                name: (*name).to_owned(),
                fingerprint: Fingerprint::of(&[name.as_bytes()]),
            })
            .collect()
    }

    /// A state directory that goes away with this value.
    pub struct Disk {
        pub folder: TempDir,
        pub options: StateOptions,
    }

    impl Disk {
        pub fn new(memory: usize) -> Self {
            Self { folder: TempDir::new().unwrap(), options: StateOptions::new(memory) }
        }

        pub fn open(&self, specs: &[StoreSpec]) -> Result<(TaskState, StateDirectory), StateError> {
            // A process that another test starts has our lock, too, until it runs its program.
            let mut directory = StateDirectory::open(self.folder.path(), "app");
            for _ in 0..100 {
                if !matches!(directory, Err(StateError::InUse { .. })) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
                directory = StateDirectory::open(self.folder.path(), "app");
            }
            let directory = directory?;
            Ok((TaskState::open(&directory, TASK, specs, &self.options)?, directory))
        }

        pub fn task(&self) -> std::path::PathBuf {
            self.folder.path().join("app").join(TASK)
        }
    }

    /// As a changelog has it.
    pub type Record = (Vec<u8>, Option<Vec<u8>>);

    pub fn restore(state: &mut TaskState, store: StoreId, records: &[Record], next_offset: i64) {
        let records = records.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
        state.restore(store, records, next_offset).unwrap();
    }

    pub fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    /// Numbers that look random and are the same each time; their upper bits are the better ones.
    pub fn random(seed: u64) -> impl Iterator<Item = u64> {
        let next = |random: &u64| {
            Some(random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
        };
        std::iter::successors(Some(seed), next).skip(1)
    }

    pub fn checkpoint(offset: i64, stores: usize) -> Checkpoint {
        Checkpoint {
            input_offsets: [(("payments".to_owned(), 0), offset)].into(),
            changelog_offsets: vec![offset * 10; stores],
            metadata: offset.to_be_bytes().to_vec(),
        }
    }
}
