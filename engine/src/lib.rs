//! From a TOML text to running tasks.
//!
//! Data flows one way through the rooms: `topology` → `plan` → `task` → `driver`; `codec` is a leaf.

pub mod codec;
pub mod driver;
pub mod feed;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod partitioner;
pub mod plan;
pub mod record;
pub mod reference;
pub mod runtime;
pub mod schema_registry;
pub mod settings;
pub mod task;
pub mod topology;

// Tests on real brokers use it, too, and name the crate.
#[cfg(test)]
extern crate self as millstream_engine;
#[cfg(test)]
mod oracle;
#[cfg(test)]
#[path = "../../operators/src/testing.rs"]
mod testing;
