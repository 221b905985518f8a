//! The name of this process in its application, and the workers it has had.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;

use super::clock;
use super::error::RuntimeError;
use crate::topology::{Runtime, RuntimeKey};

/// The file in the application's folder of the state directory.
const FILE: &str = "INSTANCE";

/// What the state directory knows of the process it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    /// The name.
    pub name: String,
    /// How many workers the process had when it ran last: their transactional ids may have open transactions.
    pub workers_before: usize,
}

/// Reads the name of this process, or makes one; `given` beats it. Remembers that there are `workers` now. The state directory
/// must be locked.
pub(super) fn instance(
    directory: &Path,
    given: Option<&str>,
    workers: usize,
) -> Result<Instance, Box<RuntimeError>> {
    let path = directory.join(FILE);
    let io_error =
        |action: &str, source| RuntimeError::Io { action: format!("{action} {}", path.display()), source };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(io_error("read", error).into()),
    };
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    let mut kept = Runtime::default();
    for key in [RuntimeKey::Instance, RuntimeKey::Threads] {
        // What could not have been given is not there, or damaged.
        let _ = kept.set(key, lines.next().unwrap_or_default());
    }
    let workers_before = kept.threads.map_or(0, NonZeroUsize::get);
    let kept = kept.instance;
    let same = given.is_none_or(|given| kept.as_deref() == Some(given));
    let new = || format!("{:08x}", RandomState::new().hash_one((clock::now(), std::process::id())) as u32);
    let name = given.map(str::to_owned).or(kept).unwrap_or_else(new);
    let write = || -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        writeln!(file, "{name}\n{workers}")?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(|error| io_error("write", error))?;
    Ok(Instance { name, workers_before: if same { workers_before } else { 0 } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_once_and_a_given_one_beats_it() {
        let directory = tempfile::tempdir().unwrap();
        let of = |given, workers| instance(directory.path(), given, workers).unwrap();
        let first = of(None, 3);
        assert_eq!((first.name.len(), first.workers_before), (8, 0));
        assert_eq!(of(None, 2), Instance { workers_before: 3, ..first.clone() });
        assert_eq!(of(Some("shop-0"), 1), Instance { name: "shop-0".to_owned(), workers_before: 0 });
        assert_eq!(of(Some("shop-0"), 1).workers_before, 1);
        assert_eq!(of(None, 1).name, "shop-0");
    }

    #[test]
    fn what_is_damaged_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        for damaged in [&b""[..], b"\n4\n", b"shop\xff0\n4\n", b"shop 0\n4\n", b"\0\0\0"] {
            fs::write(directory.path().join(FILE), damaged).unwrap();
            let found = instance(directory.path(), None, 1).unwrap();
            assert_eq!(found.name.len(), 8, "{damaged:?}");
            assert_eq!(instance(directory.path(), None, 1).unwrap().name, found.name);
        }
        for damaged in ["shop-0", "shop-0\n", "shop-0\n-4\n", "shop-0\n44444\n"] {
            fs::write(directory.path().join(FILE), damaged).unwrap();
            let found = instance(directory.path(), None, 1).unwrap();
            assert_eq!((found.name.as_str(), found.workers_before), ("shop-0", 0), "{damaged:?}");
        }
    }
}
