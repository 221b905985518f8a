//! What can go wrong with Kafka, and what it asks of the caller.

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;

use super::sys;

/// Codes that decide what happens next: librdkafka's own are negative, a broker's positive.
pub(super) mod code {
    use super::sys::Code;

    pub const TRANSPORT: Code = -195;
    pub const RESOLVE: Code = -193;
    pub const MESSAGE_TIMED_OUT: Code = -192;
    pub const AUTO_OFFSET_RESET: Code = -140;
    pub const INVALID_DIFFERENT_RECORD: Code = -138;
    pub const PARTITION_EOF: Code = -191;
    pub const UNKNOWN_PARTITION: Code = -190;
    pub const UNKNOWN_TOPIC: Code = -188;
    pub const ALL_BROKERS_DOWN: Code = -187;
    pub const INVALID_ARGUMENT: Code = -186;
    pub const TIMED_OUT: Code = -185;
    pub const QUEUE_FULL: Code = -184;
    pub const SSL: Code = -181;
    pub const WAIT_COORDINATOR: Code = -180;
    pub const ASSIGN_PARTITIONS: Code = -175;
    pub const REVOKE_PARTITIONS: Code = -174;
    pub const STATE: Code = -172;
    pub const AUTHENTICATION: Code = -169;
    pub const NO_OFFSET: Code = -168;
    pub const TIMED_OUT_QUEUE: Code = -166;
    pub const UNSUPPORTED_FEATURE: Code = -165;
    pub const NO_ENTRY: Code = -156;
    pub const PURGE_QUEUE: Code = -152;
    pub const PURGE_IN_FLIGHT: Code = -151;
    pub const FATAL: Code = -150;
    pub const FENCED: Code = -144;
    pub const UNKNOWN: Code = -1;
    pub const NONE: Code = 0;
    pub const OFFSET_OUT_OF_RANGE: Code = 1;
    pub const UNKNOWN_TOPIC_OR_PARTITION: Code = 3;
    pub const LEADER_NOT_AVAILABLE: Code = 5;
    pub const NOT_LEADER: Code = 6;
    pub const REQUEST_TIMED_OUT: Code = 7;
    pub const MESSAGE_TOO_LARGE: Code = 10;
    pub const NETWORK: Code = 13;
    pub const COORDINATOR_LOADING: Code = 14;
    pub const COORDINATOR_NOT_AVAILABLE: Code = 15;
    pub const NOT_COORDINATOR: Code = 16;
    pub const BATCH_TOO_LARGE: Code = 18;
    pub const NOT_ENOUGH_REPLICAS: Code = 19;
    pub const NOT_ENOUGH_REPLICAS_AFTER_APPEND: Code = 20;
    pub const ILLEGAL_GENERATION: Code = 22;
    pub const UNKNOWN_MEMBER: Code = 25;
    pub const REBALANCE_IN_PROGRESS: Code = 27;
    pub const TOPIC_AUTHORIZATION: Code = 29;
    pub const GROUP_AUTHORIZATION: Code = 30;
    pub const CLUSTER_AUTHORIZATION: Code = 31;
    pub const INVALID_TIMESTAMP: Code = 32;
    pub const UNSUPPORTED_VERSION: Code = 35;
    pub const TOPIC_EXISTS: Code = 36;
    pub const NOT_CONTROLLER: Code = 41;
    pub const INVALID_PRODUCER_EPOCH: Code = 47;
    pub const CONCURRENT_TRANSACTIONS: Code = 51;
    pub const TRANSACTIONAL_ID_AUTHORIZATION: Code = 53;
    pub const STORAGE: Code = 56;
    pub const SASL_AUTHENTICATION: Code = 58;
    pub const FENCED_INSTANCE: Code = 82;
    pub const INVALID_RECORD: Code = 87;
    pub const UNSTABLE_OFFSET: Code = 88;
    pub const THROTTLED: Code = 89;
    pub const PRODUCER_FENCED: Code = 90;
}

/// An error of librdkafka or of a broker.
///
/// What to do, in this order: [`is_retriable`](Self::is_retriable): the same call again;
/// [`requires_abort`](Self::requires_abort): abort the transaction, roll its tasks back; anything else,
/// [`is_fatal`](Self::is_fatal) above all: drop the client and begin with a new one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({name})")]
pub struct KafkaError {
    code: sys::Code,
    name: String,
    message: String,
    fatal: bool,
    retriable: bool,
    abort: bool,
}

impl KafkaError {
    /// The error with this code, in librdkafka's words.
    pub(super) fn from_code(code: sys::Code) -> Self {
        // SAFETY: the function takes any code and returns a string that lives at least until the thread's next call.
        let message = unsafe { text(sys::rd_kafka_err2str(code)) };
        Self::new(code, message)
    }

    /// The error with this code and a message of our own.
    pub(super) fn new(code: sys::Code, message: impl Into<String>) -> Self {
        // SAFETY: the function takes any code and returns a string that lives at least until the thread's next call.
        let name = unsafe { text(sys::rd_kafka_err2name(code)) };
        let retriable = matches!(
            code,
            code::TRANSPORT
                | code::MESSAGE_TIMED_OUT
                | code::ALL_BROKERS_DOWN
                | code::TIMED_OUT
                | code::TIMED_OUT_QUEUE
                | code::WAIT_COORDINATOR
                | code::LEADER_NOT_AVAILABLE
                | code::NOT_LEADER
                | code::REQUEST_TIMED_OUT
                | code::NETWORK
                | code::COORDINATOR_LOADING
                | code::COORDINATOR_NOT_AVAILABLE
                | code::NOT_COORDINATOR
                | code::NOT_ENOUGH_REPLICAS
                | code::NOT_ENOUGH_REPLICAS_AFTER_APPEND
                | code::NOT_CONTROLLER
                | code::CONCURRENT_TRANSACTIONS
                | code::STORAGE
                | code::UNSTABLE_OFFSET
                | code::THROTTLED
        );
        Self { code, name, message: message.into(), fatal: code == code::FATAL, retriable, abort: false }
    }

    /// The error of a call that returned a code; `Ok` if it is none.
    pub(super) fn check(code: sys::Code) -> Result<(), Self> {
        if code == code::NONE { Ok(()) } else { Err(Self::from_code(code)) }
    }

    /// Takes an error object over and frees it; `Ok` if it is null.
    ///
    /// # Safety
    /// The pointer is null or came from librdkafka, and nobody else frees it.
    pub(super) unsafe fn take(error: *mut sys::rd_kafka_error_t) -> Result<(), Self> {
        let Some(error) = NonNull::new(error) else { return Ok(()) };
        let error = error.as_ptr();
        // SAFETY: the object is valid until it is destroyed, which happens once, below; all texts are copied.
        unsafe {
            let taken = Self {
                code: sys::rd_kafka_error_code(error),
                name: text(sys::rd_kafka_error_name(error)),
                message: text(sys::rd_kafka_error_string(error)),
                fatal: sys::rd_kafka_error_is_fatal(error) != 0,
                retriable: sys::rd_kafka_error_is_retriable(error) != 0,
                abort: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            };
            sys::rd_kafka_error_destroy(error);
            Err(taken)
        }
    }

    /// The same error, told with what was being done.
    pub(super) fn during(mut self, what: impl std::fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub(super) fn fatal(mut self) -> Self {
        self.fatal = true;
        self.retriable = false;
        self
    }

    pub(super) fn code(&self) -> sys::Code {
        self.code
    }

    /// The name of the code, as Kafka's documentation and librdkafka's write it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What happened, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same call may succeed later. For a commit it says more: the commit is under way, and must be called again,
    /// never aborted.
    pub fn is_retriable(&self) -> bool {
        self.retriable
    }

    /// The transaction can only be aborted; its producer is good for another one.
    pub fn requires_abort(&self) -> bool {
        self.abort
    }

    /// The client cannot be used any more.
    pub fn is_fatal(&self) -> bool {
        self.fatal
    }

    /// Another producer has the same transactional id, or a broker gave the transaction up after its time.
    pub fn is_fenced(&self) -> bool {
        matches!(self.code, code::FENCED | code::INVALID_PRODUCER_EPOCH | code::PRODUCER_FENCED)
    }

    /// The group has moved on: the member or generation that a commit was made with is not the group's any more.
    pub fn is_stale_member(&self) -> bool {
        matches!(
            self.code,
            code::ILLEGAL_GENERATION
                | code::UNKNOWN_MEMBER
                | code::REBALANCE_IN_PROGRESS
                | code::FENCED_INSTANCE
        )
    }

    /// The user is known and may not do this: an ACL is missing.
    pub fn is_authorization(&self) -> bool {
        self.is_topic_authorization()
            || self.is_group_authorization()
            || self.is_transactional_id_authorization()
            || self.code == code::CLUSTER_AUTHORIZATION
    }

    /// The user may not do this with a group.
    pub fn is_group_authorization(&self) -> bool {
        self.code == code::GROUP_AUTHORIZATION
    }

    /// The user may not do this with a topic.
    pub fn is_topic_authorization(&self) -> bool {
        self.code == code::TOPIC_AUTHORIZATION
    }

    /// The user may not use the transactional id.
    pub fn is_transactional_id_authorization(&self) -> bool {
        self.code == code::TRANSACTIONAL_ID_AUTHORIZATION
    }

    /// The brokers do not accept the user, password, token or certificate.
    pub fn is_authentication(&self) -> bool {
        matches!(self.code, code::AUTHENTICATION | code::SASL_AUTHENTICATION | code::SSL)
    }

    /// No answer came in time: what was asked for may have happened or not.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.code,
            code::TIMED_OUT | code::TIMED_OUT_QUEUE | code::MESSAGE_TIMED_OUT | code::REQUEST_TIMED_OUT
        )
    }

    /// The topic or partition does not exist, or may not be seen.
    pub fn is_unknown_topic(&self) -> bool {
        matches!(self.code, code::UNKNOWN_TOPIC | code::UNKNOWN_PARTITION | code::UNKNOWN_TOPIC_OR_PARTITION)
    }

    /// The partition has no record at the offset: it begins later, or ends before.
    pub fn is_offset_out_of_range(&self) -> bool {
        matches!(self.code, code::OFFSET_OUT_OF_RANGE | code::AUTO_OFFSET_RESET)
    }

    /// A record or batch is larger than the client, the topic or the broker allows.
    pub fn is_message_too_large(&self) -> bool {
        matches!(self.code, code::MESSAGE_TOO_LARGE | code::BATCH_TOO_LARGE)
    }

    /// A record's time is further from the broker's clock than its topic allows (`message.timestamp.after.max.ms`, an hour
    /// by default, and `message.timestamp.before.max.ms`).
    pub fn is_invalid_timestamp(&self) -> bool {
        self.code == code::INVALID_TIMESTAMP
    }

    /// The record was dropped because something else went wrong.
    pub fn is_purged(&self) -> bool {
        matches!(self.code, code::PURGE_QUEUE | code::PURGE_IN_FLIGHT | code::INVALID_DIFFERENT_RECORD)
    }

    /// A record breaks a rule of its topic: one of a compacted topic has no key, or several have an
    /// [invalid timestamp](Self::is_invalid_timestamp).
    pub fn is_invalid_record(&self) -> bool {
        self.code == code::INVALID_RECORD
    }

    /// The brokers cannot do what is needed: they are too old.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.code, code::UNSUPPORTED_FEATURE | code::UNSUPPORTED_VERSION)
    }
}

/// What a simulated client says.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SimulatedError {
    TimedOut,
    Fenced,
    StaleGeneration,
    UnknownMember,
    InvalidTransaction,
    State,
}

#[cfg(test)]
impl KafkaError {
    pub(crate) fn simulated(error: SimulatedError) -> Self {
        const INVALID_TRANSACTION_STATE: sys::Code = 48;
        let code = match error {
            SimulatedError::TimedOut => code::TIMED_OUT,
            SimulatedError::Fenced => code::FENCED,
            SimulatedError::StaleGeneration => code::ILLEGAL_GENERATION,
            SimulatedError::UnknownMember => code::UNKNOWN_MEMBER,
            SimulatedError::InvalidTransaction => INVALID_TRANSACTION_STATE,
            SimulatedError::State => code::STATE,
        };
        let fatal = error == SimulatedError::Fenced;
        let abort = !fatal && error != SimulatedError::TimedOut;
        Self { fatal, abort, ..Self::from_code(code) }
    }
}

/// A copy of a C string, empty if there is none.
///
/// # Safety
/// The pointer is null or points to a string that ends with a zero byte and lives until the call returns.
pub(super) unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: what the caller promises.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}
