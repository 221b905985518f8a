//! The command line as its users see it: every test runs the built binary.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests may panic")]

mod bad_input;
mod commands;
mod dev;
mod diff;
mod examples;
mod flights;
mod kafka;
mod kafka_streams;
mod nexmark;
#[path = "../../engine/src/oracle.rs"]
mod oracle;
mod own;
mod pipe;
mod schema;
mod support;
