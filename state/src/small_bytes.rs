//! Byte strings that live without an allocation while they are short.

use std::{cmp::Ordering, ops::Deref};

const INLINE: usize = 22;

/// An owned byte string in 24 bytes; up to 22 bytes are kept in place. Most keys and values of a store are short,
/// and a read that follows no pointer saves a cache miss.
#[derive(Clone)]
pub(crate) enum SmallBytes {
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Box<[u8]>),
}

impl SmallBytes {
    /// Takes new contents; an allocation of the same length is used again.
    pub(crate) fn assign(&mut self, new: &[u8]) {
        match self {
            Self::Heap(bytes) if bytes.len() == new.len() => bytes.copy_from_slice(new),
            _ => *self = new.into(),
        }
    }
}

impl From<&[u8]> for SmallBytes {
    #[inline]
    fn from(slice: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        match bytes.get_mut(..slice.len()) {
            Some(inline) => {
                inline.copy_from_slice(slice);
                Self::Inline { len: slice.len() as u8, bytes }
            }
            None => Self::Heap(slice.into()),
        }
    }
}

impl Default for SmallBytes {
    fn default() -> Self {
        Self::Inline { len: 0, bytes: [0; INLINE] }
    }
}

impl Deref for SmallBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Heap(bytes) => bytes,
        }
    }
}

impl PartialEq for SmallBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SmallBytes {}

impl PartialOrd for SmallBytes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SmallBytes {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            // Behind their end they are zero, so the order of the arrays is that of the strings, but for strings that
            // differ in zeros at their end: of those the shorter is first.
            (Self::Inline { len: a_len, bytes: a }, Self::Inline { len: b_len, bytes: b }) => {
                head(a).cmp(&head(b)).then_with(|| tail(a).cmp(&tail(b))).then(a_len.cmp(b_len))
            }
            _ => (**self).cmp(&**other),
        }
    }
}

// Numbers are compared faster than byte strings. The two overlap, which does no harm: the tail counts only where the
// heads are equal.
#[inline]
fn head(bytes: &[u8; INLINE]) -> Option<u128> {
    bytes.first_chunk().map(|head| u128::from_be_bytes(*head))
}

#[inline]
fn tail(bytes: &[u8; INLINE]) -> Option<u64> {
    bytes.last_chunk().map(|tail| u64::from_be_bytes(*tail))
}
