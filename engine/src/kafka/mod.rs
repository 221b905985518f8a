//! Kafka, through librdkafka: consumers, a transactional producer, administration. The only room with `unsafe` code.
//!
//! It is a thin layer that a caller cannot misuse: everything here is safe to call from any thread that has it, in any
//! order, and every object of C is destroyed once. What it adds to librdkafka is what exactly-once needs and the library
//! leaves open:
//!
//! - offsets are counted by whoever takes the records ([`PartitionQueue`]); librdkafka's positions are never read;
//! - each partition has a queue of its own, detached before it is assigned, never forwarded or paused; it ends with its
//!   assignment, so that whoever keeps it takes nothing from the next;
//! - what fences a commit ([`GroupMetadata`]) is taken once, with the assignment it is for;
//! - offsets that cannot be committed are errors, not left out in silence;
//! - a producer one of whose requests got no answer is spent ([`Producer::is_spent`]);
//! - the end of a client neither hangs nor delivers anything.
//!
//! # Memory
//! A [`client`] owns whatever librdkafka's threads may call back into, and frees it when those threads have ended. Whatever
//! belongs to a client (queues, topics, messages) holds it, and goes first. Codes of errors are numbers: brokers may send
//! some that the bindings' `enum` does not have ([`sys`]).
#![expect(unsafe_code, reason = "librdkafka is C; each block says why it is sound")]

mod admin;
mod client;
mod error;
mod group;
mod message;
mod partition;
mod producer;
mod properties;
mod queue;
mod restore;
mod security;
mod settings;
mod sys;
mod token;

pub use admin::{Admin, Cluster, NewTopic, OffsetSpec, Operation, TopicDescription};
pub use error::KafkaError;
#[cfg(test)]
pub(crate) use error::SimulatedError;
pub use group::{GroupConsumer, GroupEvent, GroupMetadata, GroupOptions};
pub use message::{Headers, HeadersIter, Message};
pub use partition::{Committed, OffsetAndMetadata, TopicPartition};
pub use producer::{Producer, ProducerOptions, SendError, TopicHandle};
pub use properties::{ALLOWED_PROPERTIES, OWNED_PROPERTIES};
pub use queue::{PartitionQueue, Wake};
pub use restore::RestoreConsumer;
pub use security::{Mechanism, Protocol, Secret, Security, SecurityProblem};
pub use settings::ClientSettings;

/// How records are fetched, unless the user says otherwise.
const FETCH: &[(&str, &str)] = &[
    ("fetch.max.bytes", "67108864"),
    ("receive.message.max.bytes", "100000000"),
    ("fetch.min.bytes", "1"),
    ("fetch.error.backoff.ms", "100"),
];

/// How many bytes of a partition come at once where so many may wait: they count when they are unpacked, which may take ten times
/// as much room.
fn bytes_of_a_fetch(queued_bytes: usize) -> usize {
    (queued_bytes / 8).clamp(64 << 10, 4 << 20)
}

/// How many records wait at most where they may take so many bytes: librdkafka counts the bytes of their values, and what it adds
/// to each of them may be several times as much.
fn records_that_wait(queued_bytes: usize) -> usize {
    (queued_bytes / queue::RECORD_BYTES).clamp(1_000, 1_000_000)
}

/// What every reader insists on.
const READ: &[(&str, &str)] = &[
    // Only what was committed, and stable offsets.
    ("isolation.level", "read_committed"),
    // A queue that was drained is filled at once; the default waits a second.
    ("fetch.queue.backoff.ms", "2"),
    ("check.crcs", "true"),
    ("auto.offset.reset", "error"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("allow.auto.create.topics", "false"),
    // As a report of the position only.
    ("enable.partition.eof", "true"),
];
