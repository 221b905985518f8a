//! What the texts of settings mean: the same in a file, in an environment variable and behind a flag.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use millstream_operators::config::{
    DURATION_HELP, SIZE_HELP, format_duration, format_size, parse_duration, parse_size,
};
use millstream_operators::diagnostic::Code;

use super::Runtime;
use super::settings::is_topic_text;

/// Why a text is not the value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is not of the form.
    Form {
        /// The code of such a mistake.
        code: Code,
        /// The words that do not fit.
        found: String,
        /// What they are not: `a size`.
        what: &'static str,
        /// How it is written.
        help: &'static str,
    },
    /// It is too small or too large.
    Range {
        /// What would fit: `at least 16MiB`.
        expected: String,
    },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::Form { found, what, help, .. } => write!(f, "`{found}` is not {what}; {help}"),
            Misfit::Range { expected } => write!(f, "it is out of range: expected {expected}"),
        }
    }
}

impl std::error::Error for Misfit {}

impl Misfit {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Misfit::Form { code, .. } => *code,
            Misfit::Range { .. } => Code::OutOfRange,
        }
    }

    fn form(code: Code, found: &str, what: &'static str, help: &'static str) -> Self {
        Misfit::Form { code, found: found.to_owned(), what, help }
    }
}

/// A key of `[runtime]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuntimeKey {
    /// `threads`.
    Threads,
    /// `state-dir`.
    StateDir,
    /// `instance`.
    Instance,
    /// `commit-every`.
    CommitEvery,
    /// `memory`.
    Memory,
    /// `listen`.
    Listen,
    /// `max-batch-rows`.
    MaxBatchRows,
    /// `max-task-idle`.
    MaxTaskIdle,
    /// `max-poll-interval`.
    MaxPollInterval,
    /// `session-timeout`.
    SessionTimeout,
    /// `transaction-timeout`.
    TransactionTimeout,
}

impl RuntimeKey {
    /// Every key.
    pub const ALL: &[RuntimeKey] = &[
        RuntimeKey::Threads,
        RuntimeKey::StateDir,
        RuntimeKey::Instance,
        RuntimeKey::CommitEvery,
        RuntimeKey::Memory,
        RuntimeKey::Listen,
        RuntimeKey::MaxBatchRows,
        RuntimeKey::MaxTaskIdle,
        RuntimeKey::MaxPollInterval,
        RuntimeKey::SessionTimeout,
        RuntimeKey::TransactionTimeout,
    ];

    /// The key in the file; with `--` before it, the flag.
    pub fn name(self) -> &'static str {
        match self {
            RuntimeKey::Threads => "threads",
            RuntimeKey::StateDir => "state-dir",
            RuntimeKey::Instance => "instance",
            RuntimeKey::CommitEvery => "commit-every",
            RuntimeKey::Memory => "memory",
            RuntimeKey::Listen => "listen",
            RuntimeKey::MaxBatchRows => "max-batch-rows",
            RuntimeKey::MaxTaskIdle => "max-task-idle",
            RuntimeKey::MaxPollInterval => "max-poll-interval",
            RuntimeKey::SessionTimeout => "session-timeout",
            RuntimeKey::TransactionTimeout => "transaction-timeout",
        }
    }

    /// The environment variable: `MILLSTREAM_STATE_DIR`.
    pub fn variable(self) -> String {
        variable(self.name())
    }

    /// Whether the file holds an integer for it, and not a string.
    pub fn is_count(self) -> bool {
        matches!(self, RuntimeKey::Threads | RuntimeKey::MaxBatchRows)
    }
}

/// The environment variable of a key: `MILLSTREAM_STATE_DIR` of `state-dir`.
pub fn variable(key: &str) -> String {
    format!("MILLSTREAM_{}", key.to_ascii_uppercase().replace('-', "_"))
}

impl Runtime {
    /// Whether a key has a value.
    pub fn has(&self, key: RuntimeKey) -> bool {
        match key {
            RuntimeKey::Threads => self.threads.is_some(),
            RuntimeKey::StateDir => self.state_dir.is_some(),
            RuntimeKey::Instance => self.instance.is_some(),
            RuntimeKey::CommitEvery => self.commit_every.is_some(),
            RuntimeKey::Memory => self.memory.is_some(),
            RuntimeKey::Listen => self.listen.is_some(),
            RuntimeKey::MaxBatchRows => self.max_batch_rows.is_some(),
            RuntimeKey::MaxTaskIdle => self.max_task_idle.is_some(),
            RuntimeKey::MaxPollInterval => self.max_poll_interval.is_some(),
            RuntimeKey::SessionTimeout => self.session_timeout.is_some(),
            RuntimeKey::TransactionTimeout => self.transaction_timeout.is_some(),
        }
    }

    /// Gives a key the value that `text` means.
    ///
    /// # Errors
    /// If it means none; the key keeps what it has.
    pub fn set(&mut self, key: RuntimeKey, text: &str) -> Result<(), Misfit> {
        const DAY: i64 = 86_400_000;
        match key {
            RuntimeKey::Threads => self.threads = Some(count(text, 1 << 10)?),
            RuntimeKey::StateDir => self.state_dir = Some(path(text)?),
            RuntimeKey::Instance => self.instance = Some(instance(text)?),
            RuntimeKey::CommitEvery => self.commit_every = Some(duration(text, 1, DAY)?),
            RuntimeKey::Memory => self.memory = Some(size(text, 16 << 20)?),
            RuntimeKey::Listen => self.listen = Some(address(text, true).map(|()| text.to_owned())?),
            RuntimeKey::MaxBatchRows => self.max_batch_rows = Some(count(text, 1 << 20)?),
            RuntimeKey::MaxTaskIdle => self.max_task_idle = Some(duration(text, 0, DAY)?),
            // The limits of the client library.
            RuntimeKey::MaxPollInterval => self.max_poll_interval = Some(duration(text, 1_000, DAY)?),
            RuntimeKey::SessionTimeout => self.session_timeout = Some(duration(text, 1_000, DAY / 24)?),
            RuntimeKey::TransactionTimeout => self.transaction_timeout = Some(duration(text, 1_000, DAY)?),
        }
        Ok(())
    }
}

fn count(text: &str, most: i64) -> Result<NonZeroUsize, Misfit> {
    let number: i64 = text
        .parse()
        .map_err(|_| Misfit::form(Code::WrongType, text, "a whole number", "write digits only"))?;
    let fitting = Some(number).filter(|number| (1..=most).contains(number));
    let count = fitting.and_then(|number| usize::try_from(number).ok()).and_then(NonZeroUsize::new);
    count.ok_or_else(|| Misfit::Range { expected: format!("1 to {most}") })
}

fn path(text: &str) -> Result<PathBuf, Misfit> {
    if text.is_empty() {
        return Err(Misfit::form(
            Code::InvalidName,
            text,
            "a folder",
            "name one, such as `/var/lib/millstream`",
        ));
    }
    Ok(PathBuf::from(text))
}

fn instance(text: &str) -> Result<String, Misfit> {
    if text.is_empty() || !is_topic_text(text) {
        let help = "an instance is named with letters, digits, `.`, `_` and `-`";
        return Err(Misfit::form(Code::InvalidName, text, "the name of an instance", help));
    }
    Ok(text.to_owned())
}

/// Milliseconds.
pub(super) fn duration(text: &str, least: i64, most: i64) -> Result<i64, Misfit> {
    let millis = parse_duration(text)
        .ok_or_else(|| Misfit::form(Code::InvalidDuration, text, "a duration", DURATION_HELP))?;
    if !(least..=most).contains(&millis) {
        let expected = format!("{} to {}", format_duration(least), format_duration(most));
        return Err(Misfit::Range { expected });
    }
    Ok(millis)
}

/// Bytes of a size such as `512MiB`, at least `least`.
pub(super) fn size(text: &str, least: u64) -> Result<u64, Misfit> {
    let bytes = parse_size(text).ok_or_else(|| Misfit::form(Code::InvalidSize, text, "a size", SIZE_HELP))?;
    if bytes < least {
        return Err(Misfit::Range { expected: format!("at least {}", format_size(least)) });
    }
    Ok(bytes)
}

/// Bootstrap servers: `host:port,host:port`.
///
/// # Errors
/// For the first that is not an address.
pub fn brokers(text: &str) -> Result<(), Misfit> {
    text.split(',').try_for_each(|one| address(one.trim(), false))
}

/// `host:port`; `[::1]:9092` is one, too.
pub(super) fn address(text: &str, port_needed: bool) -> Result<(), Misfit> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if host.starts_with('[') || !host.contains(':') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.map_or(!port_needed, |port| port.parse::<u16>().is_ok());
    let brackets = host.starts_with('[') && host.ends_with(']');
    let plain = |c: char| c.is_alphanumeric() || ".-_".contains(c) || (brackets && "[]:".contains(c));
    let host_fits = !host.is_empty() && host.chars().all(plain);
    if host_fits && port_fits {
        return Ok(());
    }
    let help = "an address is `host:port`, such as `127.0.0.1:9092`";
    Err(Misfit::form(Code::InvalidAddress, text, "an address", help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_set_by_its_text() {
        let mut runtime = Runtime::default();
        for key in RuntimeKey::ALL {
            let text = match key {
                RuntimeKey::Threads | RuntimeKey::MaxBatchRows => "3",
                RuntimeKey::Memory => "64MiB",
                RuntimeKey::Listen => "[::1]:7780",
                RuntimeKey::StateDir | RuntimeKey::Instance => "a",
                _ => "7s",
            };
            assert!(!runtime.has(*key), "{key:?}");
            runtime.set(*key, text).unwrap();
            assert!(runtime.has(*key), "{key:?}");
            let before = runtime.clone();
            assert!(runtime.set(*key, "").is_err(), "{key:?}");
            assert_eq!(runtime, before, "{key:?}");
        }
        assert_eq!(RuntimeKey::StateDir.variable(), "MILLSTREAM_STATE_DIR");
    }

    #[test]
    fn what_does_not_fit_is_said_with_the_fix() {
        let mut runtime = Runtime::default();
        let mut said = |key, text| runtime.set(key, text).unwrap_err().to_string();
        assert_eq!(said(RuntimeKey::Threads, "0"), "it is out of range: expected 1 to 1024");
        assert_eq!(said(RuntimeKey::Threads, "four"), "`four` is not a whole number; write digits only");
        assert_eq!(said(RuntimeKey::Memory, "1MiB"), "it is out of range: expected at least 16MiB");
        assert_eq!(said(RuntimeKey::SessionTimeout, "2h"), "it is out of range: expected 1s to 1h");
        assert!(said(RuntimeKey::CommitEvery, "100").starts_with("`100` is not a duration; write a number"));
        assert!(said(RuntimeKey::Listen, "7780").starts_with("`7780` is not an address; an address is"));
    }
}
