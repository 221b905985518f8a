//! The command line as its users see it: every test runs the built binary.
#![expect(clippy::panic, reason = "what a test needs and does not get ends it")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod bad_input;
mod commands;
mod dev;
mod examples;
mod kafka;
mod pipe;
mod support;
