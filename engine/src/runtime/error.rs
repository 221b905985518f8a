//! What ends a run.

use std::time::Duration;

use millstream_operators::diagnostic::{Code, listed};
use millstream_operators::operator::OperatorError;
use millstream_state::StateError;

use super::assignment::AssignmentError;
use super::topics::TopicError;
use crate::http::HttpError;
use crate::kafka::KafkaError;
use crate::metrics::MetricsError;
use crate::plan::PlanError;
use crate::schema_registry::SchemaRegistryError;
use crate::task::{RecordError, TaskError};

/// What ends a run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The address of the HTTP server cannot be had.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The metrics contradict each other.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A record failed, and `on-error` of its node is `fail`. Everything before it is committed.
    #[error("{0}")]
    Stopped(Box<RecordError>),
    /// A task failed.
    #[error("task {task}: {error}")]
    Task {
        /// The task.
        task: String,
        /// What happened.
        error: TaskError,
    },
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The topology cannot run on these topics.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The brokers did not answer.
    #[error("{0}")]
    Unanswered(String),
    /// Topics are not as the topology needs them.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// Tasks cannot be made of what the group assigned.
    #[error(transparent)]
    Assignment(#[from] AssignmentError),
    /// Kafka refused something for good.
    #[error("cannot {action}: {error}")]
    Kafka {
        /// What was tried, as a verb.
        action: String,
        /// Why it failed.
        error: KafkaError,
    },
    /// Another producer has taken over the transactional id.
    #[error(
        "another process uses the transactional id `{id}`, which is made of the application's id and this process's \
         instance `{instance}`; give each process an instance of its own (`runtime.instance`, or a state directory of \
         its own)"
    )]
    Fenced {
        /// The transactional id.
        id: String,
        /// The instance.
        instance: String,
    },
    /// Kafka will never take a record.
    #[error("{error}; {}", remedy(error))]
    Refused {
        /// What Kafka said of which record.
        error: KafkaError,
    },
    /// The user may not do this.
    #[error("cannot {action}: {error}; {permission}")]
    Forbidden {
        /// What was tried, as a verb.
        action: String,
        /// Why it failed.
        error: KafkaError,
        /// What is missing, and the command that gives it.
        permission: String,
    },
    /// The committed offset of an input is gone.
    #[error(
        "`{topic}` partition {partition} has no record at offset {offset} any more, where this application was to go on: its \
         retention was shorter than the application was away, or the topic was made anew; records are lost. To go on with \
         what is there, reset the group's offsets of this topic"
    )]
    OffsetGone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where the application was to go on.
        offset: i64,
    },
    /// There is state, but nothing says up to where the inputs are in it.
    #[error(
        "the task {task} has state, but no offset of {} is committed: the offsets of the consumer group `{group}` have expired \
         or were deleted, the topic was made anew, or the topology reads another one now; refused because records could be counted twice. Commit where it is to go on \
         (kafka-consumer-groups.sh --bootstrap-server … --group {group} --reset-offsets …); to begin without its state, delete \
         its changelogs and its folders in the state directories", listed(topics.iter().map(String::as_str))
    )]
    OffsetsForgotten {
        /// The task.
        task: String,
        /// The consumer group.
        group: String,
        /// The topics that the task reads.
        topics: Vec<String>,
    },
    /// The changelog of a store ends before what was written to it.
    #[error(
        "the changelog `{topic}` partition {partition} ends at offset {end}, but it was written up to offset {offset}: the \
         topic was deleted or made anew; refused because it would lose data: the state of the task {task} is not in it. If \
         that was meant, remove the task's folders in the state directories, and set the offsets of the consumer group anew"
    )]
    ChangelogEnds {
        /// The task.
        task: String,
        /// The changelog topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Its end.
        end: i64,
        /// What was written.
        offset: i64,
    },
    /// The committed state of a store has another layout.
    #[error(
        "store `{store}` of task {task} was written with another layout than this topology needs; refused because it would \
         lose data: run the topology that wrote it, or give the step another name, so that it starts with an empty store"
    )]
    Layout {
        /// The task.
        task: String,
        /// The store.
        store: String,
    },
    /// The metadata of a committed offset was written by something else.
    #[error(
        "the committed offset of `{topic}` partition {partition} was not written by this application ({cause}); another \
         program uses the consumer group `{group}`: stop it, or give this application another id"
    )]
    Metadata {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The consumer group.
        group: String,
        /// Why it cannot be read.
        cause: String,
    },
    /// A worker made no progress.
    #[error(
        "worker {worker} has made no progress for {} s (`runtime.max-poll-interval`): the process leaves the group, so that \
         others take over its tasks; a model or an expression may be too slow for {rows} rows at once", idle.as_secs()
    )]
    Stuck {
        /// The worker.
        worker: usize,
        /// For how long.
        idle: Duration,
        /// `max-batch-rows`.
        rows: usize,
    },
    /// The metadata of commits could grow beyond what brokers take.
    #[error(
        "sub-topology `{0}` has too many steps and stores: what a commit says of them would exceed 4096 bytes of offset \
         metadata; split it with `rekey`, or shorten names"
    )]
    TooManySteps(String),
    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The runtime broke a promise.
    #[error("internal error in the runtime (please report it): {0}")]
    Internal(String),
}

/// How a record that Kafka refuses comes to be taken.
fn remedy(error: &KafkaError) -> &'static str {
    if error.is_message_too_large() {
        "a topic takes batches of up to its `max.message.bytes`: raise it, and `message.max.bytes` in `[kafka.properties]` \
         for more than 1,000,000 bytes; if the record alone is smaller, lower `batch.size` there instead"
    } else {
        "a topic takes records whose time is within its `message.timestamp.before.max.ms` and \
         `message.timestamp.after.max.ms` of the broker's clock, and with a key if it is compacted: change its settings, or \
         give the source a `max-ahead`, so that records of the future are errors of their own"
    }
}

impl RuntimeError {
    /// The failure of the state, if it is one.
    pub fn state(&self) -> Option<&StateError> {
        match self {
            RuntimeError::State(error)
            | RuntimeError::Task {
                error:
                    TaskError::State(error) | TaskError::Operator { error: OperatorError::State(error), .. },
                ..
            } => Some(error),
            _ => None,
        }
    }

    /// Whether going on would lose data.
    pub fn is_refusal(&self) -> bool {
        match self {
            RuntimeError::OffsetGone { .. }
            | RuntimeError::OffsetsForgotten { .. }
            | RuntimeError::ChangelogEnds { .. }
            | RuntimeError::Layout { .. }
            | RuntimeError::Metadata { .. } => true,
            RuntimeError::Topics(error) => error.is_refusal(),
            _ => self.state().is_some_and(StateError::is_refusal),
        }
    }

    /// Whether topics that are read are not those that were read before.
    pub fn topics_were_made_anew(&self) -> bool {
        matches!(self, RuntimeError::Topics(TopicError::MadeAnew { .. }))
    }

    /// The failure of the schema registry, if it is one.
    fn registry(&self) -> Option<&SchemaRegistryError> {
        match self {
            RuntimeError::Task { error: TaskError::Registry(error), .. } => Some(error),
            _ => None,
        }
    }

    /// Whether topics of global tables are not those that were read before: the tables are to be read anew.
    pub(super) fn global_tables_were_made_anew(&self) -> bool {
        matches!(self, RuntimeError::Topics(TopicError::GlobalMadeAnew { .. }))
    }

    /// The stable code, if the error has one.
    pub fn code(&self) -> Option<Code> {
        match self {
            _ if self.registry().is_some() => Some(Code::RegistryFailed),
            RuntimeError::Plan(PlanError::PartitionCounts { .. }) => Some(Code::PartitionCounts),
            RuntimeError::Http(error) => Some(error.code()),
            RuntimeError::Topics(error) => error.code(),
            RuntimeError::Stopped(error) => Some(error.code),
            RuntimeError::Layout { .. } => Some(Code::StateMismatch),
            RuntimeError::OffsetsForgotten { .. } => Some(Code::OffsetsForgotten),
            _ => crate::driver::state_code(self.state()?),
        }
    }
}

/// What ends the work of a session of the group.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nothing that was not committed counts; everything is opened anew.
    Again(String),
    /// The run is over.
    Failed(Box<RuntimeError>),
}

impl From<RuntimeError> for Trouble {
    fn from(error: RuntimeError) -> Self {
        // A registry that is away comes back, and no record is to blame.
        let is_away = matches!(error.registry(), Some(SchemaRegistryError::Unreachable { .. }));
        // A database that is damaged is moved away when it is opened the next time.
        if is_away || error.state().is_some_and(StateError::is_corruption) {
            return Trouble::Again(error.to_string());
        }
        Trouble::Failed(Box::new(error))
    }
}

impl Trouble {
    /// What an error of Kafka means that the client did not mend itself. Whoever is told to begin anew does so from what was
    /// committed, so that it does not matter whether the failed call has had its effect.
    pub fn kafka(action: impl Into<String>, error: KafkaError) -> Self {
        let action = action.into();
        if error.is_message_too_large() || error.is_invalid_timestamp() || error.is_invalid_record() {
            Trouble::from(RuntimeError::Refused { error })
        } else if error.is_authorization() || error.is_authentication() || error.is_unsupported() {
            Trouble::from(RuntimeError::Kafka { action, error })
        } else {
            Trouble::Again(format!("cannot {action}: {error}"))
        }
    }
}
