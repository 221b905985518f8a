//! What can go wrong with state, told apart by what has to be done about it.

use std::{error::Error, io, path::PathBuf};

use crate::Fingerprint;

/// An error of the state directory or of a store in it.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A process holds the lock of the state directory, or this process has the task open already.
    #[error(
        "the state in {} is in use by {}; stop that process, or give this one another state directory",
        path.display(),
        owner.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The locked directory.
        path: PathBuf,
        /// The process that holds it, where its lock file tells.
        owner: Option<u32>,
    },

    /// The directory holds the state of another application or task.
    #[error(
        "{} holds the state of `{found}`, not of `{expected}`; refused because it would lose data: \
         choose another state directory, or run `{found}` on it",
        path.display()
    )]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// Whose state it holds.
        found: String,
        /// Whose state was to be opened.
        expected: String,
    },

    /// The directory is not empty and was not made by Millstream.
    #[error(
        "{} is not empty and holds no Millstream state; refused because it would lose data: \
         choose an empty or a new directory as state directory",
        path.display()
    )]
    NotStateDirectory {
        /// The directory.
        path: PathBuf,
    },

    /// The directory was written in another format version.
    #[error(
        "the state in {} has format version {found}, this program reads and writes version {supported}; \
         refused because it would lose data: run the version of Millstream that wrote it, \
         or choose another state directory and let the state be rebuilt there",
        path.display()
    )]
    FormatVersion {
        /// The file or database that holds the version.
        path: PathBuf,
        /// The version that was found.
        found: u32,
        /// The only version that this program knows.
        supported: u32,
    },

    /// A store holds data of another layout than the topology needs.
    #[error(
        "store `{store}` in {} was written with another layout (its fingerprint is {found}, the topology needs \
         {expected}); refused because it would lose data: run the topology that wrote it, or give the step another \
         name, so that it starts with an empty store",
        path.display()
    )]
    FingerprintMismatch {
        /// The task's directory.
        path: PathBuf,
        /// The store's name.
        store: String,
        /// The fingerprint in the database.
        found: Fingerprint,
        /// The fingerprint of the topology.
        expected: Fingerprint,
    },

    /// What is on the disk is damaged.
    #[error(
        "the state in {} is damaged: {cause}; it has to be moved away, so that it is rebuilt from its changelog",
        path.display()
    )]
    Corrupt {
        /// The damaged file or directory.
        path: PathBuf,
        /// What was found.
        cause: String,
    },

    /// The operating system refused.
    #[error("cannot {action} {}: {source}; check the permissions and the free space of the disk", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },

    /// The database refused for a reason that is not damage: the disk is full, say.
    #[error("cannot {action} the state in {}: {source}; check the disk", path.display())]
    Database {
        /// What was tried, as a verb.
        action: &'static str,
        /// The task's directory.
        path: PathBuf,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },

    /// A name that cannot be a directory or a store.
    #[error("`{name}` cannot be {what}; use letters, digits, `-`, `_` and `.`")]
    Name {
        /// What it was to name.
        what: &'static str,
        /// The name.
        name: String,
    },

    /// Two stores of a task have the same name.
    #[error("the task has two stores with the name `{store}`; give each its own name")]
    DuplicateStore {
        /// The name.
        store: String,
    },

    /// Writes were to be promoted that no commit can have covered.
    #[error(
        "{writes} staged writes were never handed out for the changelog, so the commit cannot cover them;          take the changelog, commit, promote, and only then write again"
    )]
    NotInChangelog {
        /// How many.
        writes: usize,
    },

    /// A checkpoint does not fit the task.
    #[error(
        "the checkpoint has changelog offsets of {found} stores, the task has {expected} stores; \
         give one offset for each store, in the order of the specs"
    )]
    Checkpoint {
        /// How many stores the task has.
        expected: usize,
        /// How many changelog offsets the checkpoint has.
        found: usize,
    },
}

impl StateError {
    /// Whether going on would lose data, so that the program has to stop with exit code 3.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::ForeignDirectory { .. }
                | Self::NotStateDirectory { .. }
                | Self::FormatVersion { .. }
                | Self::FingerprintMismatch { .. }
        )
    }

    /// Whether the state is damaged: its directory may be moved away and the state be restored from its changelog.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }
}
