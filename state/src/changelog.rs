//! The writes of a commit as the changelogs get them.

use crate::StoreId;

/// A write as the changelog gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangelogRecord<'a> {
    /// The store that was written.
    pub store: StoreId,
    /// The key.
    pub key: &'a [u8],
    /// The newest value; `None` deletes.
    pub value: Option<&'a [u8]>,
}

/// Records for the changelogs of a task's stores, in the order in which they have to be written. All of them lie in one
/// buffer, for there is one with nearly every row that is processed.
#[derive(Clone, Debug, Default)]
pub struct Changelog {
    bytes: Vec<u8>,
    lengths: Vec<Lengths>,
}

#[derive(Clone, Debug)]
struct Lengths {
    store: StoreId,
    key: usize,
    value: Option<usize>,
}

impl Changelog {
    pub(crate) fn reserve(&mut self, records: usize) {
        self.lengths.reserve(records);
    }

    /// Appends a record.
    pub fn push(&mut self, store: StoreId, key: &[u8], value: Option<&[u8]>) {
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.lengths.push(Lengths { store, key: key.len(), value: value.map(<[u8]>::len) });
    }

    /// Forgets the records, and keeps the memory for others.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.lengths.clear();
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The records.
    pub fn iter(&self) -> impl Iterator<Item = ChangelogRecord<'_>> {
        let mut rest = self.bytes.as_slice();
        let mut take = move |length| {
            let (taken, after) = rest.split_at(length);
            rest = after;
            taken
        };
        self.lengths.iter().map(move |&Lengths { store, key, value }| {
            let key = take(key);
            ChangelogRecord { store, key, value: value.map(&mut take) }
        })
    }
}
