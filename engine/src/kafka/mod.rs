//! Kafka, through librdkafka: the only room with `unsafe` code.

mod properties;
mod security;

pub use properties::{ALLOWED_PROPERTIES, OWNED_PROPERTIES};
pub use security::{Mechanism, Protocol, Secret, Security, SecurityProblem};
