//! The tests of the crate, in one binary.

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
    use millstream_state::{
        Checkpoint, Fingerprint, StateDirectory, StateError, StateOptions, StoreSpec, TaskState,
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
            let directory = StateDirectory::open(self.folder.path(), "app")?;
            Ok((TaskState::open(&directory, TASK, specs, &self.options)?, directory))
        }

        pub fn task(&self) -> std::path::PathBuf {
            self.folder.path().join("app").join(TASK)
        }
    }

    pub fn checkpoint(offset: i64, stores: usize) -> Checkpoint {
        Checkpoint {
            input_offsets: [(("payments".to_owned(), 0), offset)].into(),
            changelog_offsets: vec![offset * 10; stores],
            metadata: offset.to_be_bytes().to_vec(),
        }
    }
}
