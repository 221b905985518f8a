//! Reading a range of a store.

use std::cmp::Ordering;

use crate::{
    Cursor, StateError,
    expired::Overlapping,
    staged::{Staged, StagedRange},
};

/// A key and its value.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

/// The entries of a range in key order: the staged writes and the database merged into one, a staged write hiding
/// what the database holds under its key.
///
/// It is an iterator of owned keys and values; [`Scan::next_entry`] lends them and allocates nothing.
pub struct Scan<'a> {
    staged: StagedRange<'a>,
    /// The staged entry that is next.
    head: Option<(&'a [u8], Option<&'a [u8]>)>,
    /// `None`: nothing lies below what is staged.
    database: Option<Box<dyn Cursor + 'a>>,
    /// Whether the database's entry was returned last and has to be left behind.
    stale: bool,
    /// The expired range that the database's entry has not left yet, and those behind it.
    range: Option<(&'a [u8], &'a [u8])>,
    expired: Overlapping<'a>,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(
        staged: &'a mut Staged,
        database: Option<Box<dyn Cursor + 'a>>,
        from: &[u8],
        to: &[u8],
    ) -> Self {
        let (mut entries, mut expired) = staged.range(from, to);
        Self { head: entries.next(), staged: entries, database, stale: false, range: expired.next(), expired }
    }

    /// The next key and value, valid until the next call.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, StateError> {
        loop {
            if let (true, Some(database)) = (std::mem::take(&mut self.stale), &mut self.database) {
                database.next()?;
            }
            self.leave_expired()?;
            let order = match (&self.head, self.stored()) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((staged, _)), Some((stored, _))) => (*staged).cmp(stored),
            };
            if order == Ordering::Greater {
                self.stale = true;
                return Ok(self.stored());
            }
            self.stale = order == Ordering::Equal;
            let head = self.head.take();
            self.head = self.staged.next();
            if let Some((key, Some(value))) = head {
                return Ok(Some((key, value)));
            }
        }
    }

    fn stored(&self) -> Option<Entry<'_>> {
        self.database.as_ref()?.entry()
    }

    /// Moves the database on to an entry that has not expired.
    fn leave_expired(&mut self) -> Result<(), StateError> {
        let Some(database) = &mut self.database else { return Ok(()) };
        while let (Some((from, to)), Some((key, _))) = (self.range, database.entry()) {
            if key < from {
                break;
            }
            if key < to {
                database.seek(to)?;
            }
            self.range = self.expired.next();
        }
        Ok(())
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<(Box<[u8]>, Box<[u8]>), StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_entry() {
            Ok(entry) => entry.map(|(key, value)| Ok((key.into(), value.into()))),
            Err(error) => Some(Err(error)),
        }
    }
}
