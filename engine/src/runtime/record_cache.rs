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
    /// In the order in which their keys came first; `None`: the row that came has gone again.
    records: Vec<Option<OutputRecord>>,
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
            now.extend(self.records.drain(..).flatten());
            self.bytes = 0;
        }
        now
    }

    fn put(&mut self, output: OutputRecord) {
        let Self { records, bytes, places, hasher, .. } = self;
        let hash = hasher.hash_one(&output.record.key);
        let found = places.find_entry(hash, |(other, place)| {
            *other == hash
                && records
                    .get(*place)
                    .and_then(Option::as_ref)
                    .is_none_or(|known| known.record.key == output.record.key && known.topic == output.topic)
        });
        self.came += 1;
        self.again += u64::from(found.is_ok());
        let mut found = match found {
            Ok(found) => found,
            Err(_) => {
                *bytes += output.record.bytes();
                places.insert_unique(hash, (hash, records.len()), |(hash, _)| *hash);
                records.push(Some(output));
                return;
            }
        };
        let Some(slot) = records.get_mut(found.get().1) else {
            *bytes += output.record.bytes();
            found.get_mut().1 = records.len();
            records.push(Some(OutputRecord { is_new: false, ..output }));
            return;
        };
        let Some(known) = slot else { return };
        *bytes -= known.record.bytes();
        // Another table may write the same keys.
        let is_new = known.is_new && known.rank == output.rank;
        if is_new && output.record.value.is_none() {
            *slot = None;
            found.remove();
        } else {
            *bytes += output.record.bytes();
            *known = OutputRecord { is_new, ..output };
        }
    }

    /// What is to be written before the transaction ends.
    pub fn take(&mut self) -> Vec<OutputRecord> {
        self.places.clear();
        self.bytes = 0;
        self.records.drain(..).flatten().collect()
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
        let rank = Rank::Sink(0);
        OutputRecord { topic: Arc::from(topic), hash: None, record, seq: value, rank, kind, is_new: false }
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
    fn a_row_that_comes_and_goes_within_a_transaction_is_not_written() {
        let new = |key| OutputRecord { is_new: true, ..table("a", key, 0) };
        let gone = |key| {
            let mut gone = table("a", key, 1);
            gone.record.value = None;
            gone
        };
        let mut cache = RecordCache::default();
        cache.keep(vec![new("x"), table("a", "y", 2), table("a", "x", 3), gone("x"), gone("y")], 100);
        assert_eq!(seqs(&cache.take()), [1], "y had a row before");
        cache.keep(vec![new("x"), gone("x"), new("x")], 100);
        assert_eq!(seqs(&cache.take()), [0]);
        let other = OutputRecord { rank: Rank::Sink(1), ..table("a", "x", 2) };
        cache.keep(vec![new("x"), other, gone("x")], 100);
        assert_eq!(seqs(&cache.take()), [1], "it may be the row of another table");
        let mut cache = RecordCache::default();
        assert_eq!(cache.keep(["a", "b", "c", "x"].map(new).to_vec(), 1).len(), 4);
        cache.keep(vec![gone("x")], 100);
        assert_eq!(seqs(&cache.take()), [1], "it has been written already");
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
