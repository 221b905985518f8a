//! Runs the binary, and gives topologies and folders to run it on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value as Json;
use tempfile::TempDir;

/// What a run of the binary gave.
#[derive(Debug)]
pub struct Ran {
    /// The exit code.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Ran {
    /// Fails the test unless the exit code is `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The lines of stdout as JSON.
    #[track_caller]
    pub fn lines(&self) -> Vec<Json> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Fails the test unless stderr holds every one of `parts`.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in\n{}", self.stderr);
        }
        self
    }
}

/// The binary, with an environment that changes nothing.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    for name in ["STATE_DIR", "MAX_BATCH_ROWS", "COMMIT_EVERY", "BROKERS", "LOG"] {
        command.env_remove(format!("MILLSTREAM_{name}"));
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the binary to its end.
pub fn millstream(arguments: &[&str]) -> Ran {
    run(command(arguments), b"")
}

/// Runs the binary with text on stdin.
pub fn with_input(arguments: &[&str], input: &str) -> Ran {
    run(command(arguments), input.as_bytes())
}

/// Runs a command to its end.
pub fn run(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command that stops early closes its stdin.
    let writer = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.unwrap().join().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A folder for one test.
pub struct Folder(TempDir);

impl Folder {
    /// An empty one.
    pub fn new() -> Self {
        Folder(TempDir::new().unwrap())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path in it, as text.
    pub fn at(&self, name: &str) -> String {
        self.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file; gives its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        self.at(name)
    }

    /// Reads a file.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap()
    }
}

/// The folder of the examples.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("topology-examples")
}

/// Payments: large ones pass a filter, each card's are counted, and each minute is summed up when it is over.
pub const PAYMENTS: &str = r#"
[app]
id = "cards"

[sources.payments]
topic = "payments"
key   = { card = "string" }
value = { at = "timestamp", amount = "float64" }
time  = "at"

[steps.large]
op    = "filter"
from  = "payments"
where = "amount >= 100"

[steps.per_card]
op      = "aggregate"
from    = "payments"
columns = { payments = "count(*)", spend = "sum(amount)" }

[steps.per_minute]
op      = "aggregate"
from    = "payments"
window  = { tumbling = "1m" }
emit    = "close"
columns = { payments = "count(*)" }

[sinks.large_payments]
from = "large"

[sinks.cards]
description = "What each card has spent"
from        = "per_card"

[sinks.minutes]
from = "per_minute"

[[tests]]
name   = "large payments pass"
input  = [{ to = "payments", key = { card = "c1" }, value = { at = "2026-01-01T00:00:00Z", amount = 100.0 } },
          { to = "payments", key = { card = "c1" }, value = { at = "2026-01-01T00:00:00Z", amount = 99.0 } }]
expect = [{ from = "large_payments", key = { card = "c1" }, value = { amount = 100.0 } }]
"#;

/// A line for `pipe`: a payment `seconds` after 2026 began.
pub fn payment(card: &str, seconds: i64, amount: f64) -> String {
    let at = 1_767_225_600_000 + seconds * 1000;
    let line = serde_json::json!({
        "topic": "payments", "timestamp": at, "key": { "card": card }, "value": { "at": at, "amount": amount },
    });
    format!("{line}\n")
}
