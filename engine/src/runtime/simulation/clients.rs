//! Clients of the simulated brokers that behave as librdkafka does: they try again until their patience ends, give a batch the
//! same sequence number each time, remember that a request got no answer, and keep whatever a caller could misuse usable.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::super::brokers::{Brokers, ChangelogReader, GiveRecord, GroupMember, RecordProducer, ShowRecord};
use super::super::error::Trouble;
use super::super::inputs::RecordQueue;
use super::brokers::{Data, Offset, Outcome, Partition, ProducerId, Refusal};
use super::scheduler::{Handle, State, current};
use super::{Break, broken};
use crate::kafka::{
    Committed, GroupEvent, GroupMetadata, GroupOptions, KafkaError, OffsetAndMetadata, OffsetSpec,
    ProducerOptions, SendError, SimulatedError, TopicHandle, TopicPartition, Wake,
};
use crate::plan::Plan;
use crate::record::{Header, Record};
use crate::topology::TopicDefaults;

/// How long an answer is waited for before the request is sent again.
const REQUEST: Duration = Duration::from_secs(1);

fn handle() -> Handle {
    current().expect("a simulated client belongs to a simulated thread")
}

fn error(error: SimulatedError) -> KafkaError {
    KafkaError::simulated(error)
}

fn partition(of: &TopicPartition) -> Partition {
    (of.topic.to_string(), of.partition)
}

/// Sends a request. `None`: no answer came in time, and it may still arrive.
fn ask<R: Send + 'static>(
    patience: Duration,
    request: impl FnOnce(&mut State) -> R + Send + 'static,
) -> Option<R> {
    let handle = handle();
    handle.step();
    let answer: Arc<Mutex<Option<R>>> = Arc::default();
    let mut state = handle.state();
    let network = state.world.network;
    let travel = |state: &mut State| {
        if state.random.chance(network.lost, 1000) {
            None
        } else if state.random.chance(network.delayed, 1000) {
            Some(state.random.millis(500, 6000))
        } else {
            Some(state.random.millis(0, 4))
        }
    };
    let (there, back) = (travel(&mut state), travel(&mut state));
    let answered = answer.clone();
    if let Some(there) = there {
        state.schedule(there, move |state| {
            let result = request(state);
            if let Some(back) = back {
                state.schedule(back, move |_| *locked(&answered) = Some(result));
            }
        });
    }
    drop(state);
    let waited = answer.clone();
    handle.wait(Some(patience.min(REQUEST)), Box::new(move |_| locked(&waited).is_some()));
    locked(&answer).take()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The time until which something is tried.
fn deadline(patience: Duration) -> Duration {
    handle().state().now + patience
}

fn left(deadline: Duration) -> Duration {
    deadline.saturating_sub(handle().state().now)
}

/// Asks until there is an answer that says something.
fn ask_until<R: Send + 'static>(
    deadline: Duration,
    on_silence: impl Fn(),
    request: impl Fn(&mut State) -> Result<R, Refusal> + Clone + Send + 'static,
) -> Result<R, KafkaError> {
    loop {
        let patience = left(deadline);
        if patience.is_zero() {
            return Err(error(SimulatedError::TimedOut));
        }
        let again = request.clone();
        match ask(patience, move |state| again(state)) {
            None => on_silence(),
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(Refusal::Final(refused))) => return Err(error(refused)),
            Some(Err(Refusal::Concurrent | Refusal::Unstable)) => handle().sleep(Duration::from_millis(20)),
        }
    }
}

/// The brokers, for one process.
pub struct SimulatedKafka;

impl Brokers for SimulatedKafka {
    fn producer(&self, _: &str, options: &ProducerOptions) -> Result<Box<dyn RecordProducer>, KafkaError> {
        let id = handle().state().world.new_producer();
        Ok(Box::new(SimulatedProducer {
            timeout: options.transaction_timeout,
            known: RefCell::new(Known {
                producer: ProducerId { transactional: options.transactional_id.clone(), id, epoch: 0 },
                ..Known::default()
            }),
        }))
    }

    fn member(&self, _: &GroupOptions, topics: &[&str]) -> Result<Arc<dyn GroupMember>, KafkaError> {
        Ok(Arc::new(SimulatedMember {
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            place: Arc::default(),
            assignment: Arc::default(),
        }))
    }

    fn changelogs(
        &self,
        _: &str,
        _: usize,
        from: &[(TopicPartition, i64)],
    ) -> Result<Box<dyn ChangelogReader>, KafkaError> {
        let reads = from.iter().map(|(of, offset)| Reading::new(partition(of), *offset));
        Ok(Box::new(SimulatedReader(reads.collect())))
    }

    fn partitions(&self, topic: &str) -> Result<u32, Trouble> {
        Ok(handle().state().world.counts.get(topic).copied().unwrap_or(1))
    }

    fn offsets(&self, partitions: &[TopicPartition], spec: OffsetSpec) -> Result<Vec<i64>, KafkaError> {
        let asked: Vec<Partition> = partitions.iter().map(partition).collect();
        ask_until(
            deadline(Duration::from_secs(15)),
            || {},
            move |state| {
                let logs = asked.iter().map(|partition| state.world.log(partition));
                let offset = |log: Option<&super::brokers::Log>| match spec {
                    OffsetSpec::Earliest => log.map_or(0, |log| log.start),
                    _ if state.broken == Some(Break::RestoreToStableEnd) => {
                        log.map_or(0, super::brokers::Log::stable_end)
                    }
                    _ => log.map_or(0, super::brokers::Log::end),
                };
                Ok(logs.map(offset).collect())
            },
        )
    }

    fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
        let before: Vec<_> = before.iter().map(|(of, offset)| (partition(of), *offset)).collect();
        let removed = ask(REQUEST, move |state| {
            for (partition, offset) in &before {
                if let Some(log) = state.world.logs.get_mut(partition) {
                    log.start = log.start.max(*offset);
                }
            }
        });
        removed.ok_or_else(|| error(SimulatedError::TimedOut))
    }

    fn topic_id(&self, topic: &str) -> String {
        topic.to_owned()
    }

    fn still_exist(&self, _: &Plan, _: &[u32], _: &TopicDefaults) -> Result<(), Trouble> {
        Ok(())
    }

    fn renew(&self) -> Result<(), Trouble> {
        Ok(())
    }
}

type Target = (u32, i32);

#[derive(Default)]
struct Known {
    producer: ProducerId,
    topics: Vec<String>,
    waiting: BTreeMap<Target, Vec<Data>>,
    sequences: BTreeMap<Target, i64>,
    /// Records of the batch that was sent and not answered: it is sent again as it was.
    unanswered: BTreeMap<Target, usize>,
    delivered: BTreeMap<Target, i64>,
    /// Partitions that the transaction has.
    added: BTreeSet<Target>,
    open: bool,
    /// Why the transaction, or the producer, can go on no more.
    failed: Option<KafkaError>,
    spent: bool,
}

struct SimulatedProducer {
    timeout: Duration,
    known: RefCell<Known>,
}

impl SimulatedProducer {
    fn known(&self) -> RefMut<'_, Known> {
        self.known.borrow_mut()
    }

    fn spend(&self) {
        self.known().spent = true;
    }

    fn fail(&self, error: KafkaError) -> KafkaError {
        let mut known = self.known();
        let fatal = known.failed.as_ref().is_some_and(KafkaError::is_fatal);
        if !fatal && !error.is_retriable() {
            known.failed = Some(error.clone());
        }
        error
    }

    /// Delivers up to `most` records of a partition.
    fn deliver(&self, target: Target, most: usize, deadline: Duration) -> Result<(), KafkaError> {
        let (producer, partition, sequence, records, added) = {
            let known = self.known();
            let waiting = known.waiting.get(&target).map_or(&[][..], Vec::as_slice);
            let most = known.unanswered.get(&target).copied().unwrap_or(most);
            let records = waiting.iter().take(most).cloned().collect::<Vec<_>>();
            let topic = known.topics[target.0 as usize].clone();
            let sequence = known.sequences.get(&target).copied().unwrap_or(0);
            (known.producer.clone(), (topic, target.1), sequence, records, known.added.contains(&target))
        };
        if records.is_empty() {
            return Ok(());
        }
        if producer.transactional.is_some() && !added {
            let (of, to) = (producer.clone(), partition.clone());
            let add = move |state: &mut State| state.add_to_transaction(&of, Some(&to));
            ask_until(deadline, || self.spend(), add).map_err(|error| self.fail(error))?;
            self.known().added.insert(target);
        }
        let sent = records.len();
        self.known().unanswered.insert(target, sent);
        let produce = move |state: &mut State| {
            let produced = state.world.produce(&producer, &partition, sequence, records.clone());
            state.trace(|| {
                let (topic, number) = &partition;
                format!("{producer}: {} records to {topic}/{number}: {produced:?}", records.len())
            });
            produced
        };
        let delivered = ask_until(deadline, || self.spend(), produce).map_err(|error| self.fail(error))?;
        let mut known = self.known();
        known.unanswered.remove(&target);
        if let Some(offset) = delivered {
            known.delivered.insert(target, offset);
        }
        *known.sequences.entry(target).or_default() += sent as i64;
        if let Some(waiting) = known.waiting.get_mut(&target) {
            waiting.drain(..sent.min(waiting.len()));
        }
        Ok(())
    }

    fn targets(&self) -> Vec<Target> {
        let known = self.known();
        known.waiting.iter().filter(|(_, records)| !records.is_empty()).map(|(target, _)| *target).collect()
    }
}

impl RecordProducer for SimulatedProducer {
    fn topic(&self, name: &str) -> Result<TopicHandle, KafkaError> {
        let mut known = self.known();
        let number = match known.topics.iter().position(|topic| topic == name) {
            Some(number) => number,
            None => {
                known.topics.push(name.to_owned());
                known.topics.len() - 1
            }
        };
        Ok(TopicHandle::simulated(number as u32))
    }

    fn send(
        &self,
        topic: TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<(), SendError> {
        let mut known = self.known();
        if let Some(error) = &known.failed {
            return Err(error.clone().into());
        }
        if known.producer.transactional.is_some() && !known.open {
            return Err(error(SimulatedError::State).into());
        }
        let headers = headers
            .iter()
            .map(|(name, value)| Header { name: (*name).to_owned(), value: value.map(<[u8]>::to_vec) });
        let data = Data {
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            timestamp,
            headers: headers.collect(),
        };
        known.waiting.entry((topic.number(), partition)).or_default().push(data);
        Ok(())
    }

    fn poll(&self, _: Duration) {
        // Some of what waits is sent before the flush.
        let targets = self.targets();
        let drawn = handle().state().random.below(4 * targets.len() as u64);
        if let Some(target) = targets.get(drawn as usize)
            && self.known().failed.is_none()
        {
            let most = 1 + handle().state().random.below(20) as usize;
            let _ = self.deliver(*target, most, deadline(REQUEST));
        }
    }

    fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        let deadline = deadline(timeout);
        if let Some(error) = &self.known().failed {
            return Err(error.clone());
        }
        loop {
            let targets = self.targets();
            let drawn = handle().state().random.below(targets.len() as u64) as usize;
            let Some(target) = targets.get(drawn) else { return Ok(()) };
            self.deliver(*target, usize::MAX, deadline)?;
        }
    }

    fn delivery_error(&self) -> Option<KafkaError> {
        None
    }

    fn transaction_error(&self) -> Option<KafkaError> {
        self.known().failed.clone()
    }

    fn delivered(&self, topic: TopicHandle, partition: i32) -> Option<i64> {
        self.known().delivered.get(&(topic.number(), partition)).copied()
    }

    fn buffered_bytes(&self) -> usize {
        0
    }

    fn init_transactions(&self, timeout: Duration) -> Result<(), KafkaError> {
        let id = self.known().producer.transactional.clone().unwrap_or_default();
        let transaction_timeout = self.timeout;
        let init = move |state: &mut State| {
            let producer = state.init_producer(&id, transaction_timeout);
            state.trace(|| format!("{id} is taken over: {producer:?}"));
            producer
        };
        let (id, epoch) = ask_until(deadline(timeout.max(REQUEST)), || {}, init)?;
        let mut known = self.known();
        known.producer.id = id;
        known.producer.epoch = epoch;
        Ok(())
    }

    fn begin(&self) -> Result<(), KafkaError> {
        let mut known = self.known();
        if let Some(error) = &known.failed {
            return Err(error.clone());
        }
        known.open = true;
        known.added.clear();
        known.delivered.clear();
        Ok(())
    }

    fn send_offsets(
        &self,
        offsets: &[OffsetAndMetadata],
        group: &GroupMetadata,
        timeout: Duration,
    ) -> Result<(), KafkaError> {
        let deadline = deadline(timeout);
        let producer = self.known().producer.clone();
        let of = producer.clone();
        let add = move |state: &mut State| state.add_to_transaction(&of, None);
        ask_until(deadline, || self.spend(), add).map_err(|error| self.fail(error))?;
        let offsets = offsets_of(offsets);
        let group = if broken(Break::MetadataAtCommit) { metadata_now() } else { group.clone() };
        let (generation, member) = (group.generation(), group.member_id());
        let commit = move |state: &mut State| {
            let added = state.world.add_transaction_offsets(&producer, offsets.clone(), generation, &member);
            state.trace(|| {
                let offsets =
                    offsets.iter().map(|((topic, number), (offset, _))| format!("{topic}/{number}={offset}"));
                format!(
                    "{producer}: offsets of {member} {generation}: {:?}: {added:?}",
                    offsets.collect::<Vec<_>>()
                )
            });
            added
        };
        ask_until(deadline, || self.spend(), commit).map_err(|error| self.fail(error))
    }

    fn commit(&self, timeout: Duration) -> Result<(), KafkaError> {
        let producer = self.known().producer.clone();
        let end = move |state: &mut State| {
            let ended = state.end_transaction(&producer, Outcome::Committed);
            state.trace(|| format!("{producer}: commit: {ended:?}"));
            ended
        };
        ask_until(deadline(timeout), || self.spend(), end).map_err(|error| self.fail(error))?;
        self.known().open = false;
        Ok(())
    }

    fn abort(&self, timeout: Duration) -> Result<(), KafkaError> {
        let producer = self.known().producer.clone();
        self.known().waiting.clear();
        if self.known().failed.as_ref().is_some_and(KafkaError::is_fatal) {
            self.spend();
            return Err(error(SimulatedError::Fenced));
        }
        let end = move |state: &mut State| state.end_transaction(&producer, Outcome::Aborted);
        ask_until(deadline(timeout), || self.spend(), end).inspect_err(|_| self.spend())?;
        let mut known = self.known();
        known.open = false;
        known.failed = None;
        Ok(())
    }

    fn is_spent(&self) -> bool {
        self.known().spent && !broken(Break::ReuseSpentProducer)
    }
}

/// What the client of this process holds at the moment: no fence if the group has given the member up.
fn metadata_now() -> GroupMetadata {
    let handle = handle();
    let state = handle.state();
    match state.members_of(handle.process).last() {
        Some(member) => GroupMetadata::simulated(state.world.group.generation, member),
        None => GroupMetadata::simulated(-1, ""),
    }
}

fn offsets_of(offsets: &[OffsetAndMetadata]) -> Vec<(Partition, Offset)> {
    offsets.iter().map(|one| (partition(&one.partition), (one.offset, one.metadata.clone()))).collect()
}

/// Where a client is in the group.
#[derive(Debug, Default)]
struct Place {
    member: Option<String>,
    generation: i32,
    assigned: bool,
}

enum Change {
    Join,
    Lost,
    Revoke,
    Assign(Vec<Partition>),
}

impl Place {
    fn change(&self, state: &State) -> Option<Change> {
        let Some(member) = &self.member else { return Some(Change::Join) };
        match (state.is_member(member), self.assigned) {
            (false, true) => Some(Change::Lost),
            (false, false) => Some(Change::Join),
            (true, true) => state.must_rejoin(member).then_some(Change::Revoke),
            (true, false) => state.assignment(member).map(Change::Assign),
        }
    }
}

pub struct SimulatedMember {
    topics: Vec<String>,
    place: Arc<Mutex<Place>>,
    assignment: Arc<AtomicU64>,
}

impl GroupMember for SimulatedMember {
    fn poll(&self, timeout: Duration) -> Option<GroupEvent> {
        let handle = handle();
        handle.step();
        let place = self.place.clone();
        handle.wait(Some(timeout), Box::new(move |state| locked(&place).change(state).is_some()));
        let mut state = handle.state();
        let mut place = locked(&self.place);
        match place.change(&state)? {
            Change::Join => {
                place.member = Some(state.join_group(handle.process, &self.topics));
                None
            }
            Change::Lost => Some(GroupEvent::Revoked { partitions: Vec::new(), lost: true }),
            Change::Revoke => Some(GroupEvent::Revoked { partitions: Vec::new(), lost: false }),
            Change::Assign(partitions) => {
                place.assigned = true;
                place.generation = state.world.group.generation;
                let member = place.member.clone().unwrap_or_default();
                let metadata = GroupMetadata::simulated(place.generation, &member);
                let partitions = partitions.into_iter();
                let partitions = partitions.map(|(topic, partition)| TopicPartition::new(topic, partition));
                Some(GroupEvent::Assigned { partitions: partitions.collect(), metadata })
            }
        }
    }

    fn assign(
        self: Arc<Self>,
        partitions: &[(TopicPartition, i64)],
        _: &dyn Fn(usize) -> Wake,
    ) -> Result<Vec<Box<dyn RecordQueue>>, KafkaError> {
        handle().step();
        let number = self.assignment.fetch_add(1, Ordering::Relaxed) + 1;
        let queues = partitions.iter().map(|(of, offset)| {
            let reading = Reading::new(partition(of), *offset);
            let queue = SimulatedQueue { reading, number, assignment: self.assignment.clone() };
            Box::new(queue) as Box<dyn RecordQueue>
        });
        Ok(queues.collect())
    }

    fn unassign(&self) -> Result<(), KafkaError> {
        let handle = handle();
        handle.step();
        self.assignment.fetch_add(1, Ordering::Relaxed);
        let mut place = locked(&self.place);
        place.assigned = false;
        let mut state = handle.state();
        match &place.member {
            Some(member) if state.is_member(member) => state.rejoin_group(member),
            _ => place.member = None,
        }
        Ok(())
    }

    fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Committed>, KafkaError> {
        let asked: Vec<Partition> = partitions.iter().map(partition).collect();
        let offsets = ask_until(deadline(timeout), || {}, move |state| state.world.stable_offsets(&asked))?;
        let committed = |offset: Option<Offset>| match offset {
            Some((offset, metadata)) => Committed { offset: Some(offset), metadata: Some(metadata) },
            None => Committed::default(),
        };
        Ok(offsets.into_iter().map(committed).collect())
    }

    fn commit(&self, offsets: &[OffsetAndMetadata], timeout: Duration) -> Result<(), KafkaError> {
        let offsets = offsets_of(offsets);
        let (generation, member) = {
            let place = locked(&self.place);
            (place.generation, place.member.clone().unwrap_or_default())
        };
        let commit =
            move |state: &mut State| state.world.commit_offsets(offsets.clone(), generation, &member);
        ask_until(deadline(timeout), || {}, commit)
    }

    fn end_offset(&self, of: &TopicPartition) -> Option<i64> {
        handle().state().world.log(&partition(of)).map(super::brokers::Log::end)
    }

    fn close(&self, _: Duration) {
        let handle = handle();
        handle.step();
        self.assignment.fetch_add(1, Ordering::Relaxed);
        let member = locked(&self.place).member.take();
        // The word may get lost: then the session ends later.
        if let Some(member) = member
            && ask(REQUEST, move |state| state.leave_group(&member)).is_none()
        {
            handle.state().watch_session(handle.process);
        }
    }
}

/// How far a partition is read.
struct Reading {
    partition: Partition,
    next: i64,
    end: Option<i64>,
}

impl Reading {
    fn new(partition: Partition, next: i64) -> Self {
        Reading { partition, next, end: None }
    }

    /// Shows what has been fetched: some of what is there.
    fn take(&mut self, max: usize, mut each: impl FnMut(i64, &Data)) -> usize {
        let handle = handle();
        let mut state = handle.state();
        let most = match state.random.below(4) {
            0 => 0,
            1 => 1 + state.random.below(3) as usize,
            _ => max,
        };
        let Some(log) = state.world.log(&self.partition) else { return 0 };
        let mut taken = 0;
        for (offset, data) in log.committed(self.next).take(most.min(max)) {
            each(offset, data);
            self.next = offset + 1;
            taken += 1;
        }
        if most > 0 && log.committed(self.next).next().is_none() {
            self.end = Some(log.stable_end());
        }
        taken
    }

    fn position(&self) -> i64 {
        self.end.map_or(self.next, |end| end.max(self.next))
    }
}

struct SimulatedQueue {
    reading: Reading,
    number: u64,
    assignment: Arc<AtomicU64>,
}

impl RecordQueue for SimulatedQueue {
    fn take(&mut self, max: usize, _: usize, records: &mut Vec<Record>) -> Result<(), Trouble> {
        handle().step();
        if self.assignment.load(Ordering::Relaxed) == self.number {
            self.reading.take(max, |offset, data| records.push(record(offset, data)));
        }
        Ok(())
    }

    fn has_lag(&self) -> bool {
        if self.reading.end.is_some_and(|end| end >= self.reading.next) {
            return false;
        }
        let handle = handle();
        handle.state().world.log(&self.reading.partition).is_none_or(|log| log.end() > self.reading.next)
    }

    fn queued_bytes(&self) -> usize {
        0
    }
}

/// A record as a task gets it.
pub fn record(offset: i64, data: &Data) -> Record {
    let Data { key, value, timestamp, headers } = data.clone();
    Record { key, value, timestamp, headers, offset }
}

struct SimulatedReader(Vec<Reading>);

impl ChangelogReader for SimulatedReader {
    fn take(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut ShowRecord<'_>,
    ) -> Result<usize, KafkaError> {
        self.take_records(max, timeout, &mut |number, record| {
            each(number, record.key.as_deref(), record.value.as_deref())
        })
    }

    fn take_records(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut GiveRecord<'_>,
    ) -> Result<usize, KafkaError> {
        let handle = handle();
        handle.sleep(timeout.min(Duration::from_millis(5)));
        let mut taken = 0;
        for (number, reading) in self.0.iter_mut().enumerate() {
            taken += reading.take(max, |offset, data| each(number, record(offset, data)));
        }
        if taken == 0 {
            handle.sleep(timeout);
        }
        Ok(taken)
    }

    fn position(&self, index: usize) -> Option<i64> {
        self.0.get(index).map(Reading::position)
    }

    fn queued_bytes(&self) -> usize {
        0
    }
}
