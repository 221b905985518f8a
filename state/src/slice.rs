//! A value that was read.

use std::{fmt, ops::Deref};

/// The bytes of a value, borrowed from where they lie: the staged writes, or a block of the database.
pub struct Slice<'a>(Repr<'a>);

enum Repr<'a> {
    Borrowed(&'a [u8]),
    Pinned(rocksdb::DBPinnableSlice<'a>),
}

impl<'a> Slice<'a> {
    /// Bytes that lie in memory.
    pub fn borrowed(bytes: &'a [u8]) -> Self {
        Self(Repr::Borrowed(bytes))
    }

    pub(crate) fn pinned(bytes: rocksdb::DBPinnableSlice<'a>) -> Self {
        Self(Repr::Pinned(bytes))
    }
}

impl Deref for Slice<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Borrowed(bytes) => bytes,
            Repr::Pinned(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Slice<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Slice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
