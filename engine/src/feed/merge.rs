//! Several feeds as one, in event-time order.

use super::FeedError;
use crate::record::Record;

/// The records of several feeds by event time; on a tie an earlier feed comes first. What is wrong in a feed comes after
/// the records before it.
#[derive(Debug)]
pub struct Merge<I> {
    feeds: Vec<I>,
    /// What comes next of each feed.
    heads: Vec<Option<Result<Record, FeedError>>>,
    started: bool,
}

impl<I: Iterator<Item = Result<Record, FeedError>>> Merge<I> {
    /// Merges feeds that are ordered by event time.
    pub fn new(feeds: Vec<I>) -> Self {
        let heads = feeds.iter().map(|_| None).collect();
        Merge { feeds, heads, started: false }
    }

    fn advance(&mut self, index: usize) -> Option<Result<Record, FeedError>> {
        let next = self.feeds.get_mut(index)?.next();
        self.heads.get_mut(index).and_then(|head| std::mem::replace(head, next))
    }
}

impl<I: Iterator<Item = Result<Record, FeedError>>> Iterator for Merge<I> {
    /// The feed's index and its record.
    type Item = Result<(usize, Record), FeedError>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.started {
            self.started = true;
            for index in 0..self.feeds.len() {
                self.advance(index);
            }
        }
        // Feeds are few: looking at each head is faster than keeping them in a heap.
        let heads = self.heads.iter().enumerate();
        let (_, index) = heads
            .filter_map(|(index, head)| match head.as_ref()? {
                Ok(record) => Some((record.timestamp, index)),
                // An error has no time.
                Err(_) => Some((i64::MIN, index)),
            })
            .min()?;
        self.advance(index).map(|next| next.map(|record| (index, record)))
    }
}
