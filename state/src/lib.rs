//! The state of stream tasks: bytes only.
//!
//! A [`TaskState`] is the home of one task's stores. Writes are *staged* in memory first and reach the database
//! only after [`TaskState::promote`], when the commit that covers them is known to have succeeded. So the database
//! holds committed data only, never has to be wiped after a crash, and is brought up to date from its own stored
//! changelog offsets.
//!
//! What the bytes mean is the business of the operators; [`mod@key`] and [`mod@value`] give them the two encodings:
//! keys that sort as their columns do, and values that are compact.

mod changelog;
mod database;
mod directory;
mod error;
mod expired;
mod fail_point;
mod fingerprint;
pub mod key;
mod options;
mod rocks;
mod scan;
mod slice;
mod small_bytes;
mod sorted;
mod staged;
mod table;
mod task_state;
pub mod value;

pub use changelog::{Changelog, ChangelogRecord};
pub use database::{Cursor, Database, Write};
pub use directory::{FORMAT_VERSION, StateDirectory};
pub use error::StateError;
pub use fail_point::fail_point;
pub use fingerprint::Fingerprint;
pub use options::StateOptions;
pub use scan::{Entry, Scan};
pub use slice::Slice;
pub use task_state::{Checkpoint, StoreId, StoreSpec, TaskState};
