//! Reading a range of a store.

use std::cmp::Ordering;

use crate::{
    StateError,
    database::Cursor,
    expired::Expired,
    staged::{Staged, StagedRange},
};

/// The entries of a range in key order: the staged writes and the database merged into one, a staged write hiding
/// what the database holds under its key.
///
/// It is an iterator of owned keys and values; [`Scan::next_entry`] lends them and allocates nothing.
pub struct Scan<'a> {
    staged: StagedRange<'a>,
    /// The staged entry that is next.
    head: Option<(&'a [u8], Option<&'a [u8]>)>,
    database: Box<dyn Cursor + 'a>,
    /// Whether the database's entry was returned last and has to be left behind.
    stale: bool,
    expired: &'a Expired,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(staged: &'a Staged, database: Box<dyn Cursor + 'a>, from: &[u8], to: &[u8]) -> Self {
        let mut range = staged.range(from, to);
        let head = range.next();
        Self { staged: range, head, database, stale: false, expired: staged.hidden() }
    }

    /// The next key and value, valid until the next call.
    pub fn next_entry(&mut self) -> Result<Option<(&[u8], &[u8])>, StateError> {
        loop {
            if std::mem::take(&mut self.stale) {
                self.database.next()?;
            }
            while let Some((key, _)) = self.database.entry()
                && let Some(end) = self.expired.end_over(key)
            {
                self.database.seek(end)?;
            }
            let order = match (&self.head, self.database.entry()) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((staged, _)), Some((stored, _))) => (*staged).cmp(stored),
            };
            if order == Ordering::Greater {
                self.stale = true;
                return Ok(self.database.entry());
            }
            self.stale = order == Ordering::Equal;
            let head = self.head.take();
            self.head = self.staged.next();
            if let Some((key, Some(value))) = head {
                return Ok(Some((key, value)));
            }
        }
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
