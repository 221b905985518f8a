//! Several feeds as one, in event-time order.

use super::FeedError;
use crate::record::Record;

/// The records of several feeds by event time; on a tie an earlier feed comes first.
#[derive(Debug)]
pub struct Merge<I> {
    feeds: Vec<I>,
    /// The next record of each feed.
    heads: Vec<Option<Record>>,
    started: bool,
}

impl<I: Iterator<Item = Result<Record, FeedError>>> Merge<I> {
    /// Merges feeds that are ordered by event time.
    pub fn new(feeds: Vec<I>) -> Self {
        let heads = feeds.iter().map(|_| None).collect();
        Merge { feeds, heads, started: false }
    }

    fn advance(&mut self, index: usize) -> Result<Option<Record>, FeedError> {
        let next = self.feeds.get_mut(index).and_then(Iterator::next).transpose()?;
        Ok(self.heads.get_mut(index).and_then(|head| std::mem::replace(head, next)))
    }
}

impl<I: Iterator<Item = Result<Record, FeedError>>> Iterator for Merge<I> {
    /// The feed's index and its record.
    type Item = Result<(usize, Record), FeedError>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.started {
            self.started = true;
            for index in 0..self.feeds.len() {
                if let Err(error) = self.advance(index) {
                    return Some(Err(error));
                }
            }
        }
        // Feeds are few: looking at each head is faster than keeping them in a heap.
        let heads = self.heads.iter().enumerate();
        let earliest = heads.filter_map(|(index, head)| Some((head.as_ref()?.timestamp, index))).min();
        let (_, index) = earliest?;
        match self.advance(index) {
            Ok(record) => record.map(|record| Ok((index, record))),
            Err(error) => Some(Err(error)),
        }
    }
}
