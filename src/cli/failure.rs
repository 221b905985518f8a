//! How a command fails: what is said, and the exit code.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::engine::driver::DriverError;
use crate::engine::driver::dev::DevError;
use crate::engine::driver::pipe::PipeError;
use crate::engine::feed::FeedError;
use crate::engine::kafka::KafkaError;
use crate::engine::plan::PlanError;
use crate::engine::runtime::RuntimeError;
use crate::engine::schema_registry::SchemaRegistryError;
use crate::engine::settings::SettingError;
use crate::engine::task::RecordError;
use crate::operators::diagnostic::Code;
use crate::state::StateError;

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage, or a wrong topology.
    Usage = 2,
    /// Refused because it would lose data.
    Refused = 3,
}

/// Why a command ends early.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    code: Option<Code>,
    /// `None` if everything has been said.
    message: Option<String>,
}

impl Failure {
    /// A failure with a message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, code: None, message: Some(message.into()) }
    }

    /// A failure about which everything has been said.
    pub fn said(exit: Exit) -> Self {
        Failure { exit, code: None, message: None }
    }

    /// Adds the stable code.
    pub fn code(mut self, code: Option<Code>) -> Self {
        self.code = code;
        self
    }

    /// A file that cannot be read or written; `action` is a verb.
    pub fn file(action: &str, path: &Path, error: &io::Error) -> Self {
        Failure::new(Exit::Failed, format!("cannot {action} `{}`: {error}", path.display()))
    }

    /// A record on which the application stopped.
    pub fn stopped(error: &RecordError) -> Self {
        let advice = match error.code {
            Code::RecordEncode => "leave them out with a `filter` before the sink",
            _ => "set `on-error = \"skip\"` or `\"dead-letter\"` there",
        };
        let RecordError { node, topic, partition, offset, message, .. } = error;
        let place = match offset {
            0.. => format!("at record {topic}/{partition} offset {offset}"),
            _ => format!("when its time went on, in partition {partition} of {topic}"),
        };
        let message = format!(
            "`{node}` stopped {place}: {message}\n  Nothing after it was processed. To go \
             on without such records, {advice}"
        );
        Failure::new(Exit::Failed, message).code(Some(error.code))
    }

    /// Says what happened, and gives the exit code.
    pub fn report(self) -> ExitCode {
        if let Some(message) = &self.message {
            let code = self.code.map(|code| format!("[{code}]")).unwrap_or_default();
            let mut stderr = io::stderr().lock();
            let _ = writeln!(stderr, "error{code}: {message}");
            if let Some(code) = self.code {
                let _ = writeln!(stderr, "  `millstream explain {code}` says more");
            }
        }
        ExitCode::from(self.exit as u8)
    }
}

impl From<io::Error> for Failure {
    /// A failure of stdin or stdout. Whoever reads our output may have enough of it: `… | head`.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::said(Exit::Done),
            _ => Failure::new(Exit::Failed, format!("cannot read or write: {error}")),
        }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Failure::from(DriverError::from(error))
    }
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        let exit = match (&error, error.state()) {
            (_, Some(state)) => of_state(state),
            (DriverError::Plan(PlanError::PartitionCounts { .. }), None) => Exit::Usage,
            _ => Exit::Failed,
        };
        Failure::new(exit, error.to_string()).code(error.code())
    }
}

/// State that may be another's, or of another form, is left as it is.
pub fn of_state(error: &StateError) -> Exit {
    match error {
        StateError::InUse { .. }
        | StateError::ForeignDirectory { .. }
        | StateError::NotStateDirectory { .. }
        | StateError::FormatVersion { .. }
        | StateError::FingerprintMismatch { .. } => Exit::Refused,
        _ => Exit::Failed,
    }
}

impl From<Box<RuntimeError>> for Failure {
    fn from(error: Box<RuntimeError>) -> Self {
        match *error {
            RuntimeError::Stopped(error) => Failure::stopped(&error),
            RuntimeError::Plan(error) => error.into(),
            error => {
                let exit = match error.state() {
                    Some(state) => of_state(state),
                    None if error.is_refusal() => Exit::Refused,
                    None => Exit::Failed,
                };
                Failure::new(exit, error.to_string()).code(error.code())
            }
        }
    }
}

impl From<DevError> for Failure {
    fn from(error: DevError) -> Self {
        match error {
            DevError::Driver(error) => error.into(),
            DevError::Stopped(error) => Failure::stopped(&error),
            DevError::Io { .. } => Failure::new(Exit::Failed, error.to_string()),
        }
    }
}

impl From<PipeError> for Failure {
    fn from(error: PipeError) -> Self {
        match error {
            PipeError::Line { line, message } => {
                Failure::new(Exit::Failed, format!("line {line}: {message}")).code(Some(Code::PipeInput))
            }
            PipeError::Stopped { line, error } => {
                let message = format!("line {line}: `{}` failed: {}", error.node, error.message);
                Failure::new(Exit::Failed, message).code(Some(error.code))
            }
            PipeError::Driver(error) => error.into(),
            PipeError::Io(error) => error.into(),
        }
    }
}

impl From<FeedError> for Failure {
    fn from(error: FeedError) -> Self {
        Failure::new(Exit::Failed, error.to_string()).code(Some(Code::FeedInput))
    }
}

impl From<SchemaRegistryError> for Failure {
    fn from(error: SchemaRegistryError) -> Self {
        let exit = if matches!(error, SchemaRegistryError::Settings(_)) { Exit::Usage } else { Exit::Failed };
        Failure::new(exit, error.to_string()).code(Some(Code::RegistryFailed))
    }
}

impl From<Vec<SettingError>> for Failure {
    fn from(errors: Vec<SettingError>) -> Self {
        let code = errors.first().map(SettingError::code);
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failure::new(Exit::Usage, said.join("\nerror: ")).code(code)
    }
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        let hint = if error.is_authentication() {
            "\n  `[kafka.security]` says who this is and how the connection is protected: does it fit the brokers' listener?"
        } else if error.is_authorization() {
            "\n  The user is known and may not do this: the cluster's ACLs must allow it"
        } else if error.is_message_too_large() {
            "\n  Raise `max.message.bytes` of the topic, and `message.max.bytes` in `[kafka.properties]`"
        } else if error.is_unknown_topic() {
            "\n  The topic, or the partition, does not exist, or the user may not see it"
        } else {
            ""
        };
        Failure::new(Exit::Failed, format!("{error}{hint}"))
    }
}
