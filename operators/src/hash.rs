//! The hash of encoded keys within a process; never stored, never sent.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

/// The hash of `bytes`.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hasher = FixedState::with_seed(0).build_hasher();
    hasher.write(bytes);
    hasher.finish()
}
