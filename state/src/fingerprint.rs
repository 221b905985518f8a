//! What a store's bytes mean, as a hash.

use std::fmt;

use sha2::{Digest, Sha256};

/// Identifies the layout of a store: two stores may share bytes only if their fingerprints are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// Hashes the parts that decide a layout. Each part is prefixed with its length, so that moving bytes from one
    /// part to the next gives another fingerprint.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut sha = Sha256::new();
        for part in parts {
            sha.update((part.len() as u64).to_be_bytes());
            sha.update(part);
        }
        let mut truncated = [0; 16];
        for (to, from) in truncated.iter_mut().zip(sha.finalize()) {
            *to = from;
        }
        Self(truncated)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}
