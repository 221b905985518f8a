//! The inputs of a task: what was fetched, and which records come next.
//!
//! A task with several input partitions takes records by event time, as Kafka Streams does: it waits while a partition has
//! more to give and nothing of it was fetched, and `max-task-idle` longer for one that has not. Ties go by input. Each
//! partition stays in the order of its offsets.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::error::Trouble;
use crate::record::Record;

/// Where the records of an input come from.
pub(super) trait RecordQueue: Send {
    /// Adds up to `max` fetched records, until they have `max_bytes`; never waits.
    fn take(&mut self, max: usize, max_bytes: usize, records: &mut Vec<Record>) -> Result<(), Trouble>;

    /// Whether there is more than was taken, fetched or not.
    fn has_lag(&self) -> bool;

    /// Bytes of memory that fetched records occupy which were not taken, about.
    fn queued_bytes(&self) -> usize;
}

impl<Q: RecordQueue + ?Sized> RecordQueue for Box<Q> {
    fn take(&mut self, max: usize, max_bytes: usize, records: &mut Vec<Record>) -> Result<(), Trouble> {
        (**self).take(max, max_bytes, records)
    }

    fn has_lag(&self) -> bool {
        (**self).has_lag()
    }

    fn queued_bytes(&self) -> usize {
        (**self).queued_bytes()
    }
}

struct Input<Q> {
    queue: Q,
    /// Fetched records with their event times.
    buffer: VecDeque<(i64, Record)>,
    /// What they occupy.
    bytes: usize,
}

impl<Q> Input<Q> {
    fn put(&mut self, times: Vec<i64>, records: &mut Vec<Record>) {
        self.bytes += records.iter().map(Record::bytes).sum::<usize>();
        self.buffer.extend(times.into_iter().zip(records.drain(..)));
    }

    fn pop(&mut self) -> Option<Record> {
        let (_, record) = self.buffer.pop_front()?;
        self.bytes -= record.bytes();
        Some(record)
    }
}

/// The inputs of one task, in the order of its sub-topology.
pub(super) struct Inputs<Q> {
    inputs: Vec<Input<Q>>,
    max_task_idle: Duration,
    /// Bytes of records that are taken of an input at once.
    max_bytes: usize,
    /// Since when some input had records and another had none.
    waiting_since: Option<Instant>,
    taken: Vec<Record>,
}

/// What a task can do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Process these records, each with the number of its input.
    Epoch(Vec<(usize, Record)>),
    /// Nothing was fetched.
    Nothing,
    /// Some inputs have records, others have to be waited for: until then, or until they are fetched.
    Wait(Option<Instant>),
}

impl<Q: RecordQueue> Inputs<Q> {
    pub fn new(queues: Vec<Q>, max_task_idle: Duration, max_bytes: usize) -> Self {
        let inputs =
            queues.into_iter().map(|queue| Input { queue, buffer: VecDeque::new(), bytes: 0 }).collect();
        Inputs { inputs, max_task_idle, max_bytes, waiting_since: None, taken: Vec::new() }
    }

    /// The next records, at most `max`. `times` gives the event times of records of an input.
    pub fn next(
        &mut self,
        max: usize,
        now: Instant,
        times: impl FnMut(usize, &[Record]) -> Result<Vec<i64>, Trouble>,
    ) -> Result<Next, Trouble> {
        if let [input] = self.inputs.as_mut_slice() {
            let mut records = Vec::new();
            if input.buffer.is_empty() {
                input.queue.take(max, self.max_bytes, &mut records)?;
            } else {
                records.extend((0..max).map_while(|_| input.pop()));
            }
            if records.is_empty() {
                return Ok(Next::Nothing);
            }
            return Ok(Next::Epoch(records.into_iter().map(|record| (0, record)).collect()));
        }
        self.look_ahead(max, times)?;
        if self.inputs.iter().all(|input| input.buffer.is_empty()) {
            self.waiting_since = None;
            return Ok(Next::Nothing);
        }
        let mut empty = self.inputs.iter().filter(|input| input.buffer.is_empty()).peekable();
        if empty.peek().is_some() {
            if empty.any(|input| input.queue.has_lag()) {
                return Ok(Next::Wait(None));
            }
            let until = *self.waiting_since.get_or_insert(now) + self.max_task_idle;
            if now < until {
                return Ok(Next::Wait(Some(until)));
            }
        } else {
            self.waiting_since = None;
        }
        Ok(Next::Epoch(self.merge(max)))
    }

    /// Takes up to `max` fetched records of each input of which none are left, ahead of their epochs.
    pub fn look_ahead(
        &mut self,
        max: usize,
        mut times: impl FnMut(usize, &[Record]) -> Result<Vec<i64>, Trouble>,
    ) -> Result<(), Trouble> {
        for (number, input) in self.inputs.iter_mut().enumerate().filter(|(_, input)| input.buffer.is_empty())
        {
            input.queue.take(max, self.max_bytes, &mut self.taken)?;
            if !self.taken.is_empty() {
                let times = times(number, &self.taken)?;
                input.put(times, &mut self.taken);
            }
        }
        Ok(())
    }

    /// Takes by event time until an input has to be looked at again.
    fn merge(&mut self, max: usize) -> Vec<(usize, Record)> {
        let mut epoch = Vec::new();
        while epoch.len() < max {
            let heads = self.inputs.iter_mut().enumerate();
            let heads = heads.filter_map(|(number, input)| Some((input.buffer.front()?.0, number, input)));
            let Some((_, number, input)) = heads.min_by_key(|(time, number, _)| (*time, *number)) else {
                break;
            };
            let Some(record) = input.pop() else { break };
            epoch.push((number, record));
            if input.buffer.is_empty() {
                break;
            }
        }
        epoch
    }

    /// Bytes of memory that fetched records occupy which were not processed, about.
    pub fn bytes(&self) -> usize {
        self.inputs.iter().map(|input| input.bytes + input.queue.queued_bytes()).sum()
    }

    /// Whether anything was fetched and not taken, or is known to be there.
    pub fn has_lag(&self) -> bool {
        self.inputs.iter().any(|input| !input.buffer.is_empty() || input.queue.has_lag())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A partition that shows its records one fetch after the other.
    struct Fake {
        fetches: VecDeque<Vec<i64>>,
        lag: bool,
    }

    impl RecordQueue for Fake {
        fn take(&mut self, max: usize, _: usize, records: &mut Vec<Record>) -> Result<(), Trouble> {
            let fetched = self.fetches.pop_front().unwrap_or_default();
            assert!(fetched.len() <= max);
            records.extend(fetched.into_iter().map(|timestamp| Record {
                key: None,
                value: None,
                timestamp,
                headers: Vec::new(),
                offset: 0,
            }));
            Ok(())
        }

        fn has_lag(&self) -> bool {
            self.lag || !self.fetches.is_empty()
        }

        fn queued_bytes(&self) -> usize {
            0
        }
    }

    fn inputs(fetches: [&[&[i64]]; 2], idle: Duration) -> Inputs<Fake> {
        let queue =
            |fetches: &[&[i64]]| Fake { fetches: fetches.iter().map(|f| f.to_vec()).collect(), lag: false };
        Inputs::new(fetches.map(queue).into_iter().collect(), idle, usize::MAX)
    }

    fn next(inputs: &mut Inputs<Fake>, now: Instant) -> Result<Vec<(usize, i64)>, Next> {
        let times =
            |_: usize, records: &[Record]| Ok(records.iter().map(|record| record.timestamp).collect());
        match inputs.next(10, now, times).unwrap() {
            Next::Epoch(records) => {
                Ok(records.into_iter().map(|(input, record)| (input, record.timestamp)).collect())
            }
            other => Err(other),
        }
    }

    #[test]
    fn records_come_by_time_until_an_input_has_to_be_looked_at_again() {
        let mut inputs = inputs([&[&[1, 4], &[6]], &[&[2, 4, 9]]], Duration::ZERO);
        let now = Instant::now();
        assert_eq!(next(&mut inputs, now).unwrap(), [(0, 1), (1, 2), (0, 4)]);
        // The first input has been fetched again: 6 comes before 9.
        assert_eq!(next(&mut inputs, now).unwrap(), [(1, 4), (0, 6)]);
        assert!(inputs.bytes() > 0);
        assert_eq!(next(&mut inputs, now).unwrap(), [(1, 9)]);
        assert_eq!(inputs.bytes(), 0);
        assert_eq!(next(&mut inputs, now), Err(Next::Nothing));
    }

    #[test]
    fn what_was_taken_ahead_comes_first() {
        let mut queue = VecDeque::from([vec![1, 2, 3], vec![4]]);
        queue[0].extend(11..=20);
        let mut inputs = Inputs::new(vec![Fake { fetches: queue, lag: false }], Duration::ZERO, usize::MAX);
        let times = |_: usize, records: &[Record]| Ok(vec![0; records.len()]);
        inputs.look_ahead(20, times).unwrap();
        inputs.look_ahead(20, times).unwrap();
        let now = Instant::now();
        let mut times =
            || next(&mut inputs, now).map(|epoch| epoch.iter().map(|(_, time)| *time).collect::<Vec<_>>());
        assert_eq!(times().unwrap(), [1, 2, 3, 11, 12, 13, 14, 15, 16, 17]);
        assert_eq!(times().unwrap(), [18, 19, 20]);
        assert_eq!(times().unwrap(), [4]);
        assert_eq!(times(), Err(Next::Nothing));
    }

    #[test]
    fn a_partition_with_lag_is_waited_for_and_one_without_for_max_task_idle() {
        let mut inputs = inputs([&[&[5]], &[&[], &[], &[], &[7]]], Duration::from_secs(1));
        let now = Instant::now();
        assert_eq!(next(&mut inputs, now), Err(Next::Wait(None)));
        assert_eq!(next(&mut inputs, now), Err(Next::Wait(None)));
        inputs.inputs[1].queue.fetches.clear();
        assert_eq!(next(&mut inputs, now), Err(Next::Wait(Some(now + Duration::from_secs(1)))));
        assert_eq!(next(&mut inputs, now + Duration::from_secs(1)).unwrap(), [(0, 5)]);
    }
}
