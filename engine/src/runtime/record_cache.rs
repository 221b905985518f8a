//! Records of tables that wait for the commit.
//!
//! Nobody reads the records of a transaction before it ends, so of a table's records with one key the newest is all that is
//! worth writing. That only pays where keys are written again within a transaction: where they hardly are, records are
//! written as they come, and the commit has less to wait for.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use millstream_operators::schema::Kind;

use crate::task::OutputRecord;

/// Takes the place of a record that was written before the commit.
const WRITTEN: usize = usize::MAX;

/// The newest records of the running transaction by topic and key, of one task.
#[derive(Default)]
pub(super) struct RecordCache {
    /// In the order in which their keys came first.
    records: Vec<OutputRecord>,
    bytes: usize,
    /// Hashes of the transaction's keys, and where their records are.
    places: HashTable<(u64, usize)>,
    hasher: DefaultHashBuilder,
    /// How many records came, and how many of them with a key that the transaction had already.
    came: u64,
    again: u64,
}

impl RecordCache {
    /// Keeps the records of tables; gives back what is to be written now. Of what it keeps no more than about `most` records
    /// wait, unless that saves writing many.
    pub fn keep(&mut self, outputs: Vec<OutputRecord>, most: usize) -> Vec<OutputRecord> {
        let mut now = Vec::new();
        for output in outputs {
            if output.kind == Kind::Table && output.record.key.is_some() {
                self.put(output);
            } else {
                now.push(output);
            }
        }
        if self.records.len() >= most && self.again < self.came / 4 {
            self.places.iter_mut().for_each(|(_, place)| *place = WRITTEN);
            now.append(&mut self.records);
            self.bytes = 0;
        }
        now
    }

    fn put(&mut self, output: OutputRecord) {
        let Self { records, bytes, places, hasher, .. } = self;
        let hash = hasher.hash_one(&output.record.key);
        let found = places.find_mut(hash, |(other, place)| {
            *other == hash
                && records
                    .get(*place)
                    .is_none_or(|known| known.record.key == output.record.key && known.topic == output.topic)
        });
        self.came += 1;
        self.again += u64::from(found.is_some());
        *bytes += output.record.bytes();
        match found {
            Some((_, place)) => match records.get_mut(*place) {
                Some(known) => {
                    *bytes -= known.record.bytes();
                    *known = output;
                }
                None => {
                    *place = records.len();
                    records.push(output);
                }
            },
            None => {
                places.insert_unique(hash, (hash, records.len()), |(hash, _)| *hash);
                records.push(output);
            }
        }
    }

    /// What is to be written before the transaction ends.
    pub fn take(&mut self) -> Vec<OutputRecord> {
        self.places.clear();
        self.bytes = 0;
        std::mem::take(&mut self.records)
    }

    /// What the waiting records occupy in memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::Record;
    use crate::task::Rank;

    fn output(topic: &str, kind: Kind, key: &str, value: u32) -> OutputRecord {
        let record = Record {
            key: Some(key.as_bytes().to_vec()),
            value: Some(value.to_be_bytes().to_vec()),
            timestamp: i64::from(value),
            headers: Vec::new(),
            offset: -1,
        };
        OutputRecord { topic: Arc::from(topic), hash: None, record, seq: value, rank: Rank::Sink(0), kind }
    }

    fn table(topic: &str, key: &str, value: u32) -> OutputRecord {
        output(topic, Kind::Table, key, value)
    }

    fn seqs(records: &[OutputRecord]) -> Vec<u32> {
        records.iter().map(|record| record.seq).collect()
    }

    #[test]
    fn of_a_topic_and_key_the_newest_record_waits_for_the_commit() {
        let mut cache = RecordCache::default();
        let stream = output("a", Kind::Stream, "x", 2);
        let now = cache.keep(vec![table("a", "x", 0), table("b", "x", 1), stream, table("a", "y", 3)], 100);
        assert_eq!(seqs(&now), [2]);
        assert!(cache.keep(vec![table("a", "x", 4)], 100).is_empty());
        assert_eq!(seqs(&cache.take()), [4, 1, 3]);
        assert_eq!((cache.bytes(), cache.take().len()), (0, 0));
        cache.keep(vec![table("a", "x", 5)], 100);
        assert_eq!(seqs(&cache.take()), [5], "a new transaction writes it again");
    }

    #[test]
    fn records_whose_keys_do_not_come_again_do_not_wait() {
        let mut cache = RecordCache::default();
        let keys: Vec<String> = (0..1000).map(|key| key.to_string()).collect();
        let records = |value| keys.iter().map(move |key| table("a", key, value)).collect::<Vec<_>>();
        assert_eq!(cache.keep(records(1), 100).len(), 1000);
        // They do come again: from now on they wait.
        assert_eq!(cache.keep(records(2), 100).len(), 0);
        assert_eq!(cache.keep(records(3), 100).len(), 0);
        assert!(cache.take().iter().all(|record| record.seq == 3));
    }
}
