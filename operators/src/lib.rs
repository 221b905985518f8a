//! Batches in, batches out: what a topology computes.
//!
//! An operator is one file or folder here and one line in [`registry`]. This crate knows no thread, no Kafka and no clock:
//! records, time and commits come in as calls, so that a run can be repeated exactly.

// Tests share a file with other crates' tests, which know this crate by its name.
#[cfg(test)]
extern crate self as millstream_operators;

// What operators and functions are written with.
pub use {arrow, datafusion_common, datafusion_expr};

pub mod aggregate;
pub mod aggregates;
pub mod batch;
pub mod branch;
pub mod columns;
pub mod config;
pub mod datum;
pub mod dedup;
pub mod diagnostic;
pub mod explode;
pub mod features;
pub mod filter;
mod hash;
pub mod join;
pub mod key;
mod key_index;
mod keys_in_use;
pub mod merge;
pub mod model;
pub mod operator;
mod outgoing;
pub mod predict;
pub mod processor;
pub mod registry;
pub mod rekey;
pub mod row;
mod rows_by_time;
pub mod schema;
pub mod select;
pub mod sql;
pub mod suppress;
mod table_rows;
#[cfg(test)]
mod testing;
pub mod to_stream;
pub mod to_table;
pub mod top;
mod touched;
mod versions;
pub mod waiting;
