//! Kafka as its protocol promises it, and no better: what a broker does with each request, in memory.
//!
//! Modelled are the logs of partitions with transaction markers, the last stable offset and compaction; idempotent producers
//! with epochs and sequence numbers; the transaction coordinator of protocol version 1 (KIP-98, with the fences of KIP-447 and
//! the check of partitions of KIP-890 part 1), whose markers reach the partitions one by one after the producer has its
//! answer; and the classic group protocol with generations, whose members are told when they ask.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::scheduler::{ProcessId, State};
use crate::kafka::SimulatedError;
use crate::record::Header;

/// A topic and a partition.
pub type Partition = (String, i32);

/// What a record is to those who read committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Open,
    Committed,
    Aborted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub timestamp: i64,
    pub headers: Vec<Header>,
}

#[derive(Clone, Debug)]
pub enum Entry {
    Record { data: Data, producer: u64, outcome: Outcome, compacted: bool },
    Marker,
}

#[derive(Debug, Default)]
pub struct Log {
    pub entries: Vec<Entry>,
    pub start: i64,
    /// First offsets of the transactions that are open here, by producer.
    open: BTreeMap<u64, i64>,
    /// Epoch and next sequence number of each producer.
    sequences: BTreeMap<u64, (i16, i64)>,
}

impl Log {
    /// The high watermark.
    pub fn end(&self) -> i64 {
        self.entries.len() as i64
    }

    /// What those who read committed may read.
    pub fn stable_end(&self) -> i64 {
        self.open.values().copied().min().unwrap_or_else(|| self.end())
    }

    /// Committed records from an offset on, with their offsets.
    pub fn committed(&self, from: i64) -> impl Iterator<Item = (i64, &Data)> {
        let from = from.max(self.start);
        let records = self.entries.iter().enumerate().skip(from as usize);
        records.take(self.stable_end().saturating_sub(from).max(0) as usize).filter_map(|(offset, entry)| {
            match entry {
                Entry::Record { data, outcome: Outcome::Committed, compacted: false, .. } => {
                    Some((offset as i64, data))
                }
                _ => None,
            }
        })
    }

    /// All that was ever committed.
    pub fn all_committed(&self) -> impl Iterator<Item = (i64, &Data)> {
        self.entries.iter().enumerate().filter_map(|(offset, entry)| match entry {
            Entry::Record { data, outcome: Outcome::Committed, .. } => Some((offset as i64, data)),
            _ => None,
        })
    }

    fn append(&mut self, records: Vec<Data>, producer: u64, outcome: Outcome) {
        let records = records.into_iter();
        self.entries.extend(records.map(|data| Entry::Record { data, producer, outcome, compacted: false }));
    }

    /// A producer's transaction has ended here.
    fn mark(&mut self, producer: u64, outcome: Outcome) {
        if let Some(first) = self.open.remove(&producer) {
            for entry in self.entries.iter_mut().skip(first as usize) {
                if let Entry::Record { producer: of, outcome: open @ Outcome::Open, .. } = entry
                    && *of == producer
                {
                    *open = outcome;
                }
            }
        }
        self.entries.push(Entry::Marker);
    }

    /// Removes records with a newer one of the same key behind them.
    fn compact(&mut self) {
        let end = self.stable_end() as usize;
        let mut newer = BTreeSet::new();
        for entry in self.entries.iter_mut().take(end).rev() {
            if let Entry::Record { data, outcome: Outcome::Committed, compacted, .. } = entry
                && let Some(key) = &data.key
                && !newer.insert(key.clone())
            {
                *compacted = true;
            }
        }
    }
}

/// What a broker refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Ask again later.
    Concurrent,
    Unstable,
    Final(SimulatedError),
}

const FENCED: Refusal = Refusal::Final(SimulatedError::Fenced);
const INVALID: Refusal = Refusal::Final(SimulatedError::InvalidTransaction);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Ongoing,
    /// The outcome is decided, and some partitions do not know it yet.
    Ending(Outcome),
    Ended(Outcome),
}

#[derive(Clone, Debug)]
struct Transaction {
    producer: u64,
    epoch: i16,
    phase: Phase,
    /// Counts the transactions of this id.
    number: u64,
    partitions: BTreeSet<Partition>,
    offsets: bool,
    timeout: Duration,
    /// Whether the last to raise the epoch was the time-out, not another producer.
    timed_out: bool,
    /// Partitions that do not know the outcome, the offsets counted as one.
    missing: usize,
}

/// A committed offset and its metadata.
pub type Offset = (i64, String);

#[derive(Debug)]
struct MemberOfGroup {
    process: ProcessId,
    topics: Vec<String>,
    /// Whether it has joined the generation that is being made.
    joined: bool,
    partitions: Vec<Partition>,
}

#[derive(Debug, Default)]
pub struct Group {
    members: BTreeMap<String, MemberOfGroup>,
    pub generation: i32,
    pub stable: bool,
    named: u64,
    rounds: u64,
}

/// What the network does to requests, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Network {
    pub lost: u64,
    pub delayed: u64,
}

#[derive(Default)]
pub struct World {
    pub logs: BTreeMap<Partition, Log>,
    pub counts: BTreeMap<String, u32>,
    pub offsets: BTreeMap<Partition, Offset>,
    /// Offsets in open transactions, by producer.
    pending: BTreeMap<u64, BTreeMap<Partition, Offset>>,
    transactions: BTreeMap<String, Transaction>,
    pub group: Group,
    pub network: Network,
    producers: u64,
    pub aborted: u64,
    pub committed: u64,
}

/// How long a process may be silent, and how long the group waits for its members.
pub const SESSION: Duration = Duration::from_secs(3);
pub const REBALANCE: Duration = Duration::from_secs(8);

/// A producer, as the brokers know it.
#[derive(Clone, Debug, Default)]
pub struct ProducerId {
    pub transactional: Option<String>,
    pub id: u64,
    pub epoch: i16,
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} epoch {}", self.transactional.as_deref().unwrap_or("a producer"), self.epoch)
    }
}

impl World {
    pub fn create_topic(&mut self, name: &str, partitions: u32) {
        self.counts.insert(name.to_owned(), partitions);
        for partition in 0..partitions {
            self.logs.entry((name.to_owned(), partition as i32)).or_default();
        }
    }

    /// Writes without a transaction.
    pub fn write(&mut self, partition: &Partition, data: Data) {
        self.logs.entry(partition.clone()).or_default().append(vec![data], u64::MAX, Outcome::Committed);
    }

    pub fn log(&self, partition: &Partition) -> Option<&Log> {
        self.logs.get(partition)
    }

    pub fn compact(&mut self) {
        let compacted = self.logs.iter_mut().filter(|((topic, _), _)| topic.ends_with("-changelog"));
        compacted.for_each(|(_, log)| log.compact());
    }

    pub fn no_transaction_is_open(&self) -> bool {
        let ended = |phase| matches!(phase, Phase::Idle | Phase::Ended(_));
        self.transactions.values().all(|transaction| ended(transaction.phase)) && self.pending.is_empty()
    }

    /// Whether whoever used this id last was fenced since its transaction took too long.
    pub fn has_timed_out(&self, id: &str) -> bool {
        self.transactions.get(id).is_some_and(|transaction| transaction.timed_out)
    }

    pub fn new_producer(&mut self) -> u64 {
        self.producers += 1;
        self.producers
    }

    fn transaction(&mut self, producer: &ProducerId) -> Result<&mut Transaction, Refusal> {
        let id = producer.transactional.as_ref().ok_or(INVALID)?;
        let transaction = self.transactions.get_mut(id).ok_or(INVALID)?;
        let same = transaction.producer == producer.id && transaction.epoch == producer.epoch;
        if same { Ok(transaction) } else { Err(FENCED) }
    }

    /// FetchOffsets with stable offsets.
    pub fn stable_offsets(&self, partitions: &[Partition]) -> Result<Vec<Option<Offset>>, Refusal> {
        if self.pending.values().any(|offsets| partitions.iter().any(|one| offsets.contains_key(one))) {
            return Err(Refusal::Unstable);
        }
        Ok(partitions.iter().map(|partition| self.offsets.get(partition).cloned()).collect())
    }

    fn member_check(&self, generation: i32, member: &str) -> Result<(), Refusal> {
        if generation < 0 && member.is_empty() {
            return Ok(());
        }
        if !self.group.members.contains_key(member) {
            return Err(Refusal::Final(SimulatedError::UnknownMember));
        }
        let current = generation == self.group.generation;
        if current { Ok(()) } else { Err(Refusal::Final(SimulatedError::StaleGeneration)) }
    }

    /// OffsetCommit.
    pub fn commit_offsets(
        &mut self,
        offsets: Vec<(Partition, Offset)>,
        generation: i32,
        member: &str,
    ) -> Result<(), Refusal> {
        self.member_check(generation, member)?;
        self.offsets.extend(offsets);
        Ok(())
    }

    /// TxnOffsetCommit.
    pub fn add_transaction_offsets(
        &mut self,
        producer: &ProducerId,
        offsets: Vec<(Partition, Offset)>,
        generation: i32,
        member: &str,
    ) -> Result<(), Refusal> {
        let transaction = self.transaction(producer)?;
        if transaction.phase != Phase::Ongoing || !transaction.offsets {
            return Err(INVALID);
        }
        self.member_check(generation, member)?;
        self.pending.entry(producer.id).or_default().extend(offsets);
        Ok(())
    }

    /// Produce. Gives the offset of the last record; `None` if they were there already.
    pub fn produce(
        &mut self,
        producer: &ProducerId,
        partition: &Partition,
        sequence: i64,
        records: Vec<Data>,
    ) -> Result<Option<i64>, Refusal> {
        let mut outcome = Outcome::Committed;
        if producer.transactional.is_some() {
            let transaction = self.transaction(producer)?;
            if transaction.phase != Phase::Ongoing || !transaction.partitions.contains(partition) {
                return Err(INVALID);
            }
            outcome = Outcome::Open;
        }
        let log = self.logs.get_mut(partition).ok_or(INVALID)?;
        let (epoch, expected) = log.sequences.entry(producer.id).or_insert((producer.epoch, 0));
        if *epoch < producer.epoch {
            (*epoch, *expected) = (producer.epoch, 0);
        }
        if sequence < *expected {
            return Ok(None);
        }
        if sequence > *expected {
            return Err(INVALID);
        }
        *expected += records.len() as i64;
        if outcome == Outcome::Open {
            let first = log.end();
            log.open.entry(producer.id).or_insert(first);
        }
        log.append(records, producer.id, outcome);
        Ok(Some(log.end() - 1))
    }
}

impl State {
    /// InitProducerId.
    pub fn init_producer(&mut self, id: &str, timeout: Duration) -> Result<(u64, i16), Refusal> {
        let new = self.world.producers + 1;
        let transaction = self.world.transactions.entry(id.to_owned()).or_insert_with(|| Transaction {
            producer: new,
            epoch: -1,
            phase: Phase::Idle,
            number: 0,
            partitions: BTreeSet::new(),
            offsets: false,
            timeout,
            timed_out: false,
            missing: 0,
        });
        if transaction.producer == new {
            self.world.producers = new;
        }
        transaction.timeout = timeout;
        transaction.timed_out = false;
        match transaction.phase {
            Phase::Idle | Phase::Ended(_) => {
                transaction.epoch += 1;
                transaction.phase = Phase::Idle;
                Ok((transaction.producer, transaction.epoch))
            }
            Phase::Ongoing => {
                // Whoever had it is fenced.
                transaction.epoch += 1;
                self.end(id, Outcome::Aborted);
                Err(Refusal::Concurrent)
            }
            Phase::Ending(_) => Err(Refusal::Concurrent),
        }
    }

    /// AddPartitionsToTxn (`partitions`) or AddOffsetsToTxn (`None`).
    pub fn add_to_transaction(
        &mut self,
        producer: &ProducerId,
        partition: Option<&Partition>,
    ) -> Result<(), Refusal> {
        let transaction = self.world.transaction(producer)?;
        match transaction.phase {
            Phase::Ending(_) => return Err(Refusal::Concurrent),
            Phase::Ongoing => {}
            Phase::Idle | Phase::Ended(_) => {
                transaction.phase = Phase::Ongoing;
                transaction.number += 1;
                transaction.partitions.clear();
                transaction.offsets = false;
                let (number, timeout) = (transaction.number, transaction.timeout);
                let id = producer.transactional.clone().unwrap_or_default();
                self.schedule(timeout, move |state| state.time_out(&id, number));
            }
        }
        let transaction = self.world.transaction(producer)?;
        match partition {
            Some(partition) => drop(transaction.partitions.insert(partition.clone())),
            None => transaction.offsets = true,
        }
        Ok(())
    }

    fn time_out(&mut self, id: &str, number: u64) {
        if let Some(transaction) = self.world.transactions.get_mut(id)
            && transaction.number == number
            && transaction.phase == Phase::Ongoing
        {
            transaction.epoch += 1;
            transaction.timed_out = true;
            self.trace(|| format!("the transaction of {id} takes too long"));
            self.end(id, Outcome::Aborted);
        }
    }

    /// EndTxn.
    pub fn end_transaction(&mut self, producer: &ProducerId, outcome: Outcome) -> Result<(), Refusal> {
        let transaction = self.world.transaction(producer)?;
        match transaction.phase {
            Phase::Ongoing => {
                let id = producer.transactional.clone().unwrap_or_default();
                self.end(&id, outcome);
                Ok(())
            }
            Phase::Ending(ending) if ending == outcome => Err(Refusal::Concurrent),
            Phase::Ended(ended) if ended == outcome => Ok(()),
            // Nothing was added.
            Phase::Idle if outcome == Outcome::Aborted => Ok(()),
            _ => Err(INVALID),
        }
    }

    /// The outcome is decided; the partitions learn of it one by one.
    fn end(&mut self, id: &str, outcome: Outcome) {
        let Some(transaction) = self.world.transactions.get_mut(id) else { return };
        transaction.phase = Phase::Ending(outcome);
        let (producer, partitions) = (transaction.producer, transaction.partitions.clone());
        transaction.missing = partitions.len() + usize::from(transaction.offsets);
        let (offsets, missing) = (transaction.offsets, transaction.missing);
        match outcome {
            Outcome::Committed => self.world.committed += 1,
            _ => self.world.aborted += 1,
        }
        self.trace(|| format!("the transaction of {id} is {outcome:?}"));
        for partition in partitions {
            let (after, id) = (self.marker_delay(), id.to_owned());
            self.schedule(after, move |state| {
                if let Some(log) = state.world.logs.get_mut(&partition) {
                    log.mark(producer, outcome);
                }
                state.marked(&id);
            });
        }
        if offsets {
            let (after, id) = (self.marker_delay(), id.to_owned());
            self.schedule(after, move |state| {
                let pending = state.world.pending.remove(&producer).unwrap_or_default();
                if outcome == Outcome::Committed {
                    state.world.offsets.extend(pending);
                }
                state.marked(&id);
            });
        }
        if missing == 0 {
            transaction_ended(&mut self.world, id);
        }
    }

    fn marker_delay(&mut self) -> Duration {
        if self.random.chance(1, 10) { self.random.millis(50, 1500) } else { self.random.millis(0, 10) }
    }

    fn marked(&mut self, id: &str) {
        if let Some(transaction) = self.world.transactions.get_mut(id) {
            transaction.missing -= 1;
            if transaction.missing == 0 {
                transaction_ended(&mut self.world, id);
            }
        }
    }

    /// JoinGroup of a new member.
    pub fn join_group(&mut self, process: ProcessId, topics: &[String]) -> String {
        let group = &mut self.world.group;
        group.named += 1;
        let name = format!("member-{}-of-{process}", group.named);
        let member = MemberOfGroup { process, topics: topics.to_vec(), joined: true, partitions: Vec::new() };
        group.members.insert(name.clone(), member);
        self.rebalance(Some(&name));
        name
    }

    /// JoinGroup of a member that has given its partitions up.
    pub fn rejoin_group(&mut self, member: &str) {
        if let Some(known) = self.world.group.members.get_mut(member) {
            known.joined = true;
            self.complete_rebalance();
        }
    }

    /// LeaveGroup, or the end of a session.
    pub fn leave_group(&mut self, member: &str) {
        if self.world.group.members.remove(member).is_some() {
            self.trace(|| format!("{member} leaves the group"));
            self.rebalance(None);
        }
    }

    /// Sessions of a process end, if it still says nothing.
    pub fn watch_session(&mut self, process: ProcessId) {
        let life = self.processes[process].life;
        let names: Vec<String> = self.members_of(process);
        self.schedule(SESSION, move |state| {
            let other = &state.processes[process];
            let silent = other.crashed || other.life != life || other.paused_until > state.now;
            for name in names {
                if silent || state.is_gone(process) {
                    state.leave_group(&name);
                }
            }
        });
    }

    pub fn members_of(&self, process: ProcessId) -> Vec<String> {
        let members = self.world.group.members.iter();
        members.filter(|(_, member)| member.process == process).map(|(name, _)| name.clone()).collect()
    }

    fn rebalance(&mut self, joined: Option<&str>) {
        let group = &mut self.world.group;
        // Who has joined the generation that is being made need not join again.
        if group.stable {
            for (name, member) in &mut group.members {
                member.joined = Some(name.as_str()) == joined;
            }
            group.stable = false;
        }
        group.rounds += 1;
        let round = group.rounds;
        self.schedule(REBALANCE, move |state| {
            if state.world.group.rounds == round && !state.world.group.stable {
                state.world.group.members.retain(|_, member| member.joined);
                state.complete_rebalance();
            }
        });
        self.complete_rebalance();
    }

    fn complete_rebalance(&mut self) {
        let World { group, counts, .. } = &mut self.world;
        if group.stable || group.members.is_empty() || group.members.values().any(|member| !member.joined) {
            return;
        }
        group.generation += 1;
        group.stable = true;
        group.members.values_mut().for_each(|member| member.partitions.clear());
        let topics: BTreeSet<String> =
            group.members.values().flat_map(|member| member.topics.iter().cloned()).collect();
        // The range assignor.
        let members = group.members.len();
        for topic in topics {
            let count = counts.get(&topic).copied().unwrap_or(0) as usize;
            let (each, more) = (count / members, count % members);
            let mut next = 0;
            for (number, member) in group.members.values_mut().enumerate() {
                let own = each + usize::from(number < more);
                let own = next..next + own;
                next = own.end;
                member.partitions.extend(own.map(|partition| (topic.clone(), partition as i32)));
            }
        }
        let generation = self.world.group.generation;
        self.trace(|| format!("generation {generation}"));
    }

    /// Whether a member belongs to the group.
    pub fn is_member(&self, member: &str) -> bool {
        self.world.group.members.contains_key(member)
    }

    /// Whether the group waits for a member to give its partitions up.
    pub fn must_rejoin(&self, member: &str) -> bool {
        let known = self.world.group.members.get(member);
        !self.world.group.stable && known.is_some_and(|member| !member.joined)
    }

    /// The partitions of a member in the present generation.
    pub fn assignment(&self, member: &str) -> Option<Vec<Partition>> {
        let known = self.world.group.members.get(member).filter(|_| self.world.group.stable);
        known.map(|member| member.partitions.clone())
    }
}

fn transaction_ended(world: &mut World, id: &str) {
    if let Some(transaction) = world.transactions.get_mut(id)
        && let Phase::Ending(outcome) = transaction.phase
    {
        transaction.phase = Phase::Ended(outcome);
    }
}
