//! The directory of an application's state, and its lock.
//!
//! Below the state directory lies one folder for each application: a lock file, a format file, and a folder for each
//! task.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use crate::StateError;

/// The version of everything that is written below the state directory.
pub const FORMAT_VERSION: u8 = 1;

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const FORMAT_NEW: &str = "FORMAT.new";
const FORMAT_TITLE: &str = "millstream state";

/// The folder of an application in the state directory, locked until it is dropped. The lock belongs to the open
/// file, so it ends with the process, however that ends.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    application: String,
    _lock: File,
}

impl StateDirectory {
    /// Opens `<path>/<application>`, makes it if it is not there, and locks it.
    ///
    /// # Errors
    /// If another process has locked it, or it holds something else than this application's state in this version.
    pub fn open(path: impl AsRef<Path>, application: &str) -> Result<Self, StateError> {
        check_name("the id of an application", application)?;
        let path = path.as_ref().join(application);
        fs::create_dir_all(&path).map_err(io_error("create", &path))?;
        // A directory that is not ours is left as it is: not even a lock file is added.
        let lock_path = path.join(LOCK);
        let ours = exists(&lock_path)? || exists(&path.join(FORMAT))?;
        if !ours && fs::read_dir(&path).map_err(io_error("read", &path))?.next().is_some() {
            return Err(StateError::NotStateDirectory { path });
        }
        let lock = lock(&path, &lock_path)?;
        check_format(&path, application)?;
        Ok(Self { path, application: application.to_owned(), _lock: lock })
    }

    /// The application's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The application's id.
    pub fn application(&self) -> &str {
        &self.application
    }

    /// The folder of a task, which need not exist.
    ///
    /// # Errors
    /// If the name cannot be that of a folder.
    pub fn task_path(&self, task: &str) -> Result<PathBuf, StateError> {
        check_name("a task", task)?;
        Ok(self.path.join(task))
    }

    /// Moves the folder of a task away, so that the task starts empty and is restored; says where it is now. What to
    /// do with damaged state: nothing is deleted. The task must not be open.
    ///
    /// # Errors
    /// If the folder cannot be moved.
    pub fn quarantine(&self, task: &str) -> Result<PathBuf, StateError> {
        let from = self.task_path(task)?;
        let mut number = 1;
        loop {
            let to = self.path.join(format!("{task}.damaged-{number}"));
            if !exists(&to)? {
                fs::rename(&from, &to).map_err(io_error("move away", &from))?;
                tracing::warn!(task, quarantine = %to.display(), "damaged state moved away");
                return Ok(to);
            }
            number += 1;
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { action, path, source }
}

fn exists(path: &Path) -> Result<bool, StateError> {
    path.try_exists().map_err(io_error("read", path))
}

fn check_name(what: &'static str, name: &str) -> Result<(), StateError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(StateError::Name { what, name: name.to_owned() });
    }
    Ok(())
}

fn lock(directory: &Path, path: &Path) -> Result<File, StateError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(io_error("open", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // The owner is told if it can be told.
            let owner = file.read_to_string(&mut owner).ok().and_then(|_| owner.trim().parse().ok());
            return Err(StateError::InUse { path: directory.to_owned(), owner });
        }
        Err(TryLockError::Error(source)) => return Err(io_error("lock", path)(source)),
    }
    let name_owner = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    name_owner(&mut file).map_err(io_error("write", path))?;
    Ok(file)
}

/// Checks the format file, or writes it into a new directory.
fn check_format(directory: &Path, application: &str) -> Result<(), StateError> {
    let path = directory.join(FORMAT);
    if !exists(&path)? {
        return write_format(directory, &path, application);
    }
    let text = fs::read(&path).map_err(io_error("read", &path))?;
    let text = String::from_utf8_lossy(&text);
    let damaged = || StateError::Corrupt { path: path.clone(), cause: "it is not a format file".to_owned() };
    let mut lines = text.lines();
    if lines.next() != Some(FORMAT_TITLE) {
        return Err(damaged());
    }
    let version =
        lines.next().and_then(|line| line.strip_prefix("format ")?.parse().ok()).ok_or_else(damaged)?;
    if version != u32::from(FORMAT_VERSION) {
        return Err(StateError::FormatVersion { path, found: version, supported: FORMAT_VERSION.into() });
    }
    let found = lines.next().and_then(|line| line.strip_prefix("application ")).ok_or_else(damaged)?;
    // A file that was cut short could end within the name: the last line break proves that it is whole.
    if !text.ends_with('\n') {
        return Err(damaged());
    }
    if found != application {
        return Err(StateError::ForeignDirectory {
            path: directory.to_owned(),
            found: found.to_owned(),
            expected: application.to_owned(),
        });
    }
    Ok(())
}

/// Writes the format file as a whole or not at all.
fn write_format(directory: &Path, path: &Path, application: &str) -> Result<(), StateError> {
    let new = directory.join(FORMAT_NEW);
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        write!(file, "{FORMAT_TITLE}\nformat {FORMAT_VERSION}\napplication {application}\n")?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(io_error("write", path))
}
