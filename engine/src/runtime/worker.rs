//! A worker: a thread that owns tasks, processes their records and commits them.
//!
//! One transaction of its producer covers outputs, changelogs and input offsets of all its tasks. The order of a commit is
//! that of docs/architecture.md: take no more records, flush the producer, send the offsets under the metadata of the
//! assignment, end the transaction, and only then write to the stores.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use millstream_operators::operator::Advance;
use millstream_state::{Changelog, ChangelogRecord, fail_point};

use super::brokers::{GroupMember, RecordProducer};
use super::commit_metadata::{CommitId, CommitMetadata};
use super::error::{RuntimeError, Trouble};
use super::in_doubt::InDoubt;
use super::inputs::{Inputs, Next, RecordQueue};
use super::record_cache::RecordCache;
#[cfg(test)]
use super::simulation::{Break, broken};
use super::{COUNT_MEMORY_EVERY, Cancelled, OpenTask, Shared, Shutdown, clock, threads};
use crate::http::{InputStatus, TaskState, TaskStatus};
use crate::kafka::{
    GroupMetadata, KafkaError, OffsetAndMetadata, ProducerOptions, SendError, TopicHandle, TopicPartition,
};
use crate::metrics::{AbortReason, Client, Owner, Share, TaskMetrics};
use crate::plan::SubTopology;
use crate::record::Record;
use crate::task::{Commit, Epoch, OutputRecord, Rank, TaskError};
use crate::topology::Guarantee;

/// How long one call to Kafka may take before the session begins anew. Within it the client retries by itself.
const CALL: Duration = Duration::from_secs(30);

/// How long a transactional id is taken over at once, before it is asked whether somebody still wants it.
const TAKE_OVER: Duration = Duration::from_millis(250);

/// How long a full producer is waited for at once.
const FULL: Duration = Duration::from_millis(20);

/// The stores of a task are flushed at least this often, since nothing else bounds what a crash has to restore.
const FLUSH_EVERY: Duration = Duration::from_secs(30);

/// How often there is a commit while there is a backlog, unless it is to be less often anyway. Each record waits for those before it
/// then, and they are done the sooner the fewer commits there are.
const COMMIT_BACKLOG_EVERY: Duration = Duration::from_millis(500);

/// How many records of a task, to changelogs or of tables, are written at once ahead of the commit.
const AHEAD_AT_ONCE: usize = 1000;

/// How many records of an input of a task are decoded while a commit is waited for.
const LOOK_AHEAD: usize = 8192;

/// What a worker is told.
pub(super) enum Command {
    /// To process a task.
    Run(Box<Assigned>),
    /// To commit and to hand all tasks back.
    Release(Sender<Vec<OpenTask>>),
    /// To abort and to drop all tasks: others may have them already.
    Abandon(Sender<Vec<OpenTask>>),
}

/// A task with the partitions it reads.
pub(super) struct Assigned {
    pub open: OpenTask,
    pub inputs: Vec<Box<dyn RecordQueue>>,
    pub consumer: Arc<dyn GroupMember>,
    /// The assignment under which it was opened.
    pub metadata: GroupMetadata,
}

struct Running {
    open: OpenTask,
    metrics: TaskMetrics,
    inputs: Inputs<Box<dyn RecordQueue>>,
    record_cache: RecordCache,
    /// Whether something has happened since the last commit.
    dirty: bool,
    /// Until when a lagging partition is waited for.
    wait_until: Option<Instant>,
    /// Wall clock of the last input, and up to which silence has moved stream time.
    last_input: i64,
    followed: i64,
    flushed: Instant,
}

pub(super) struct Worker {
    number: usize,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    wake: Receiver<()>,
    failures: Sender<Trouble>,
    output: Output,
    tasks: Vec<Running>,
    consumer: Option<(Arc<dyn GroupMember>, GroupMetadata)>,
    /// From when the time until the next commit counts.
    committed_at: Instant,
    /// Whether there has been nothing to do at some time since the last commit.
    has_idled: bool,
    producer_bytes: Share,
    memory_counted: Instant,
}

/// The producer and what it knows of topics.
struct Output {
    shared: Arc<Shared>,
    /// What the producer is called among the clients of the process.
    purpose: String,
    options: ProducerOptions,
    producer: Box<dyn RecordProducer>,
    topics: HashMap<Arc<str>, (TopicHandle, u32)>,
    /// Names this producer in the ids of its commits.
    id: CommitId,
    /// Since when a transaction is open.
    open: Option<Instant>,
}

impl Worker {
    pub fn new(
        number: usize,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        wake: Receiver<()>,
        over: &Cancelled,
        failures: Sender<Trouble>,
    ) -> Result<Self, Trouble> {
        let output = Output::new(number, shared.clone(), &|| over.load(Ordering::Relaxed))?;
        let producer_bytes = shared.metrics.memory(Owner::ProducerBuffers).map_err(RuntimeError::from)?;
        Ok(Worker {
            number,
            shared,
            commands,
            wake,
            failures,
            output,
            tasks: Vec::new(),
            consumer: None,
            committed_at: clock::instant(),
            has_idled: true,
            producer_bytes,
            memory_counted: clock::instant(),
        })
    }

    /// Works until nobody commands it any more.
    pub fn run(mut self) {
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return,
                Err(trouble) => {
                    let reason = match &trouble {
                        Trouble::Failed(error) if matches!(**error, RuntimeError::Fenced { .. }) => {
                            AbortReason::Fenced
                        }
                        Trouble::Failed(error) if matches!(**error, RuntimeError::Stopped(_)) => {
                            AbortReason::FailedRecord
                        }
                        _ => AbortReason::Other,
                    };
                    // Whoever has stopped listening does not need to know; whoever waits for an answer must not wait for
                    // the brokers, too.
                    let _ = self.failures.send(trouble);
                    self.output.abort(reason);
                    self.tasks.clear();
                    self.consumer = None;
                }
            }
            self.shared.heartbeat(self.number);
        }
    }

    /// Obeys, processes what was fetched, commits when it is time. `false`: it is over.
    fn turn(&mut self) -> Result<bool, Trouble> {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command)?;
        }
        let mut progress = false;
        for position in 0..self.tasks.len() {
            progress |= self.step(position)?;
            if self.commit_is_due() {
                self.commit()?;
            }
        }
        self.count_memory();
        if progress {
            self.output.producer.poll(Duration::ZERO);
            return Ok(true);
        }
        self.has_idled = true;
        let pause = self.pause();
        threads::wait_for_either(&self.commands, &self.wake, pause);
        let _ = self.wake.try_recv();
        match self.commands.try_recv() {
            Ok(command) => self.obey(command)?,
            Err(TryRecvError::Disconnected) => return Ok(false),
            Err(TryRecvError::Empty) => {}
        }
        self.output.producer.poll(Duration::ZERO);
        if self.commit_is_due() {
            self.commit()?;
        }
        self.follow_the_clock()?;
        self.flush_stores()?;
        Ok(true)
    }

    fn obey(&mut self, command: Command) -> Result<(), Trouble> {
        match command {
            Command::Run(assigned) => {
                let Assigned { open, inputs, consumer, metadata } = *assigned;
                let now = clock::now();
                let sub = open.task.sub_topology();
                let metrics = self.shared.metrics.task(sub, open.id.partition).map_err(RuntimeError::from)?;
                self.shared.status.update_task(&sub.name, open.id.partition, |task| {
                    *task = TaskStatus {
                        state: TaskState::Running,
                        worker: Some(self.number),
                        ..TaskStatus::default()
                    };
                });
                self.consumer = Some((consumer, metadata));
                self.tasks.push(Running {
                    open,
                    metrics,
                    inputs: Inputs::new(
                        inputs,
                        self.shared.settings.max_task_idle,
                        self.shared.fetched_bytes_per_partition(),
                    ),
                    record_cache: RecordCache::default(),
                    dirty: false,
                    wait_until: None,
                    last_input: now,
                    followed: now,
                    flushed: clock::instant(),
                });
            }
            Command::Release(reply) => {
                self.commit()?;
                self.hand_back(&reply);
            }
            Command::Abandon(reply) => {
                self.output.abort(AbortReason::AssignmentLost);
                self.tasks.clear();
                self.hand_back(&reply);
            }
        }
        Ok(())
    }

    /// Drops the queues of the partitions and gives the tasks away.
    fn hand_back(&mut self, reply: &Sender<Vec<OpenTask>>) {
        self.consumer = None;
        let _ = reply.send(self.tasks.drain(..).map(|running| running.open).collect());
    }

    /// Processes the next records of a task; says whether there were any.
    fn step(&mut self, position: usize) -> Result<bool, Trouble> {
        let Some(running) = self.tasks.get_mut(position) else { return Ok(false) };
        let rows = self.shared.settings.max_batch_rows;
        let task = &mut running.open.task;
        let name = &running.open.name;
        let failed = |error| failed(name, error);
        let next = running
            .inputs
            .next(rows, clock::instant(), |input, records| task.event_times(input, records).map_err(failed));
        let records = match next? {
            Next::Epoch(records) => records,
            Next::Nothing => {
                running.wait_until = None;
                return Ok(false);
            }
            Next::Wait(until) => {
                running.wait_until = until;
                return Ok(false);
            }
        };
        running.wait_until = None;
        let now = clock::now();
        running.last_input = now;
        running.followed = now;
        let order = order_topic().map(|topic| (topic, in_order(&records)));
        let epoch = task.process(records, now).map_err(failed)?;
        fail_point("epoch-processed");
        if let Some((topic, order)) = order {
            self.say_order(position, &topic, &order)?;
        }
        self.take_over(position, epoch)?;
        Ok(true)
    }

    /// Writes what waits for the commit.
    fn send_waiting(&mut self) -> Result<(), Trouble> {
        for position in 0..self.tasks.len() {
            let Some(running) = self.tasks.get_mut(position) else { continue };
            let epoch = running.open.task.send_waiting();
            if let Some(epoch) = epoch.map_err(|error| failed(&running.open.name, error))? {
                if let Some(topic) = order_topic() {
                    self.say_order(position, &topic, SENT)?;
                }
                self.take_over(position, epoch)?;
            }
        }
        Ok(())
    }

    /// Says in which order a task takes its records, and when it sends what has waited.
    fn say_order(&mut self, position: usize, topic: &Arc<str>, order: &str) -> Result<(), Trouble> {
        let Some(running) = self.tasks.get(position) else { return Ok(()) };
        if running.open.task.sub_topology().inputs.len() > 1 {
            self.output.begin()?;
            let (handle, _) = self.output.topic(topic)?;
            let task = running.open.name.as_bytes();
            self.output.enqueue(handle, 0, Some(task), Some(order.as_bytes()), clock::now(), &[])?;
        }
        Ok(())
    }

    /// Writes what an epoch of a task gave. If it was stopped everything before that is committed, and the run is over.
    fn take_over(&mut self, position: usize, epoch: Epoch) -> Result<(), Trouble> {
        let Some(running) = self.tasks.get_mut(position) else { return Ok(()) };
        running.dirty = true;
        for error in &epoch.errors {
            tracing::warn!("{error}");
        }
        self.output.begin()?;
        let task = &running.open.task;
        running.metrics.epoch(&epoch, task.counters(), task.stream_time());
        let Epoch { mut outputs, stopped, .. } = epoch;
        if self.shared.guarantee == Guarantee::ExactlyOnce && self.shared.settings.max_batch_rows > 1 {
            outputs = running.record_cache.keep(outputs, AHEAD_AT_ONCE);
        }
        self.output.write_all(running.open.id.partition, &outputs, &mut running.metrics)?;
        let sub = task.sub_topology().clone();
        let changelog = running.open.task.changelog_so_far(AHEAD_AT_ONCE);
        self.output.log(&sub, running.open.id.partition, &changelog, &mut running.metrics)?;
        match stopped {
            None => Ok(()),
            Some(stopped) => {
                self.commit()?;
                Err(RuntimeError::Stopped(Box::new(stopped)).into())
            }
        }
    }

    /// Where all inputs have been silent for `idle-after`, stream time follows the wall clock.
    fn follow_the_clock(&mut self) -> Result<(), Trouble> {
        let now = clock::now();
        for position in 0..self.tasks.len() {
            let Some(running) = self.tasks.get_mut(position) else { continue };
            let Some(idle_after) = running.open.task.sub_topology().idle_after else { continue };
            if now - running.last_input < idle_after || running.inputs.has_lag() {
                continue;
            }
            let Some(time) = running.open.task.stream_time() else { continue };
            let to = time.saturating_add(now - running.followed).min(now);
            if to <= time {
                continue;
            }
            running.followed = now;
            let epoch = running.open.task.advance(Advance::To(to));
            let epoch = epoch.map_err(|error| failed(&running.open.name, error))?;
            self.take_over(position, epoch)?;
        }
        Ok(())
    }

    /// Flushes the stores of a task for which it is time; of one at once, so that nobody waits for many.
    fn flush_stores(&mut self) -> Result<(), Trouble> {
        let due = |running: &&mut Running| !running.dirty && clock::since(running.flushed) >= FLUSH_EVERY;
        if let Some(running) = self.tasks.iter_mut().find(due) {
            running.flushed = clock::instant();
            if running.open.task.unflushed_bytes() > 0 {
                running.open.task.flush_in_background().map_err(RuntimeError::from)?;
            }
        }
        Ok(())
    }

    fn count_memory(&mut self) {
        if clock::since(self.memory_counted) < COUNT_MEMORY_EVERY {
            return;
        }
        self.memory_counted = clock::instant();
        self.producer_bytes.set(self.output.producer.buffered_bytes());
        for running in &mut self.tasks {
            let task = &running.open.task;
            let queued = running.inputs.bytes() + task.decoded_bytes();
            running.metrics.memory(running.staged_bytes(), task.cache_bytes(), queued);
        }
    }

    fn commit_is_due(&self) -> bool {
        if !self.tasks.iter().any(|running| running.dirty) {
            return false;
        }
        let staged: usize = self.tasks.iter().map(Running::staged_bytes).sum();
        let most = self.shared.staged_bytes_per_worker();
        let every = self.shared.settings.commit_every;
        let is_soon = self.has_idled || staged > most / 8;
        let every = if is_soon { every } else { every.max(COMMIT_BACKLOG_EVERY) };
        clock::since(self.committed_at) >= every || staged > most
    }

    /// Until when there is nothing to do, if nothing comes.
    fn pause(&self) -> Duration {
        const LONGEST: Duration = Duration::from_millis(100);
        let mut pause = LONGEST;
        if self.tasks.iter().any(|running| running.dirty) {
            pause =
                pause.min(self.shared.settings.commit_every.saturating_sub(clock::since(self.committed_at)));
        }
        for until in self.tasks.iter().filter_map(|running| running.wait_until) {
            pause = pause.min(until.saturating_duration_since(clock::instant()));
        }
        pause
    }

    /// Commits everything that was processed, all of it or nothing.
    fn commit(&mut self) -> Result<(), Trouble> {
        let start = clock::instant();
        self.committed_at = start;
        self.has_idled = false;
        if !self.tasks.iter().any(|running| running.dirty) {
            return Ok(());
        }
        let Some((consumer, metadata)) = self.consumer.clone() else {
            return Err(RuntimeError::Internal("a task without an assignment".to_owned()).into());
        };
        fail_point("committing");
        self.output.begin()?;
        self.send_waiting()?;
        self.output.id.number += 1;
        let id = self.output.id;
        let mut commits = Vec::new();
        let mut offsets = Vec::new();
        for running in self.tasks.iter_mut().filter(|running| running.dirty) {
            let sub = running.open.task.sub_topology().clone();
            let mut commit = running.open.task.commit();
            let partition = running.open.id.partition;
            self.output.write_all(partition, &running.record_cache.take(), &mut running.metrics)?;
            // The producer has it then: it need not be held until the brokers have it.
            let changelog = std::mem::take(&mut commit.changelog);
            self.output.log(&sub, partition, &changelog, &mut running.metrics)?;
            let stores = running.open.stores(&*self.shared.brokers);
            for (input, offset) in sub.inputs.iter().zip(&commit.offsets) {
                let metadata = CommitMetadata {
                    id,
                    topic_id: self.shared.brokers.topic_id(&input.topic),
                    positions: commit.metadata.clone(),
                    stores: stores.clone(),
                };
                offsets.push(OffsetAndMetadata {
                    partition: TopicPartition { topic: Arc::from(input.topic.as_str()), partition },
                    offset: *offset,
                    metadata: metadata.encode(),
                });
            }
            commits.push(commit);
        }
        fail_point("changelog-produced");
        let dirty = self.tasks.iter().filter(|running| running.dirty);
        let tasks = dirty.map(|running| (running.open.id, running.open.committed)).collect();
        #[cfg(test)]
        if broken(Break::PromoteBeforeCommit) {
            self.output.producer.flush(CALL).map_err(|error| self.output.not_written(error))?;
            self.promote(id, std::mem::take(&mut commits), &*consumer)?;
        }
        let (output, all) = (&mut self.output, &mut self.tasks);
        let end = || output.end(&offsets, &*consumer, &metadata, InDoubt { id, tasks });
        // The brokers take their time: what can be done without the transaction is done meanwhile.
        let look_ahead = |goes_on: &dyn Fn() -> bool| {
            all.iter_mut().take_while(|_| goes_on()).try_for_each(Running::look_ahead)
        };
        let (ended, looked_ahead) = threads::meanwhile("commit", end, look_ahead)
            .map_err(|error| Trouble::Again(format!("no thread for a commit: {error}")))?;
        #[cfg(test)]
        let ended = match ended {
            Err(Trouble::Again(_)) if broken(Break::OffsetsMoved) && moved(&offsets, &*consumer) => Ok(()),
            ended => ended,
        };
        ended?;
        self.promote(id, commits, &*consumer)?;
        self.shared.committed(&offsets);
        self.shared.metrics.committed(clock::since(start));
        self.flush_stores()?;
        // The time until the next commit counts from the beginning of this one: so long may a result wait. A part of it is for
        // processing, however long the brokers take.
        let processing = self.shared.settings.commit_every / 2;
        self.committed_at =
            clock::instant().checked_sub(processing).map_or(start, |latest| start.max(latest));
        looked_ahead
    }

    /// Makes what was committed the content of the stores. To be called when it is known to be committed.
    fn promote(
        &mut self,
        id: CommitId,
        commits: Vec<Commit>,
        consumer: &dyn GroupMember,
    ) -> Result<(), Trouble> {
        for (running, commit) in self.tasks.iter_mut().filter(|running| running.dirty).zip(commits) {
            running.dirty = false;
            running.open.committed = Some(id);
            let before = running.open.task.changelog_offsets().to_vec();
            let stores = &running.open.task.sub_topology().stores;
            let partition = running.open.id.partition;
            let mut delivered = Vec::with_capacity(stores.len());
            for (store, before) in stores.iter().zip(before) {
                let last = self.output.delivered(&store.changelog, partition);
                let next = last.map_or(before, |last| last + 1);
                if next < before {
                    return Err(RuntimeError::ChangelogEnds {
                        task: running.open.name.clone(),
                        topic: store.changelog.to_string(),
                        partition,
                        end: next,
                        offset: before,
                    }
                    .into());
                }
                delivered.push(next);
            }
            let committed = running.open.task.committed(commit, delivered);
            committed.map_err(|error| failed(&running.open.name, error))?;
            running.show(&self.shared, consumer);
        }
        Ok(())
    }
}

/// Whether somebody has committed since.
#[cfg(test)]
fn moved(offsets: &[OffsetAndMetadata], consumer: &dyn GroupMember) -> bool {
    let partitions: Vec<TopicPartition> = offsets.iter().map(|offset| offset.partition.clone()).collect();
    let committed = consumer.committed(&partitions, CALL);
    committed.is_ok_and(|committed| {
        committed.iter().zip(offsets).any(|(found, wanted)| found.offset >= Some(wanted.offset))
    })
}

fn failed(task: &str, error: TaskError) -> Trouble {
    RuntimeError::Task { task: task.to_owned(), error }.into()
}

/// What stands among the records of a task where it has sent what waited.
const SENT: &str = "sent";

/// The topic in which tasks with several inputs have to say in which order they take their records, in the transaction that has
/// their results: what these should be depends on it. Tests set it by `MILLSTREAM_ORDER_TOPIC`; builds without debug assertions
/// know no such topic.
fn order_topic() -> Option<Arc<str>> {
    #[cfg(test)]
    if super::simulation::current().is_some() {
        return Some(super::simulation::ORDER.into());
    }
    if !cfg!(debug_assertions) {
        return None;
    }
    static TOPIC: LazyLock<Option<Arc<str>>> =
        LazyLock::new(|| std::env::var("MILLSTREAM_ORDER_TOPIC").ok().map(Arc::from));
    TOPIC.clone()
}

/// The input and offset of each record.
fn in_order(records: &[(usize, Record)]) -> String {
    let places = records.iter().map(|(input, record)| format!("{input}:{}", record.offset));
    places.collect::<Vec<_>>().join(" ")
}

impl Running {
    /// Fetches and decodes what comes next.
    fn look_ahead(&mut self) -> Result<(), Trouble> {
        let OpenTask { task, name, .. } = &mut self.open;
        self.inputs.look_ahead(LOOK_AHEAD, |input, records| {
            task.event_times(input, records).map_err(|error| failed(name, error))
        })
    }

    /// What waits for the commit.
    fn staged_bytes(&self) -> usize {
        self.open.task.staged_bytes() + self.record_cache.bytes()
    }

    /// Says where the task is.
    fn show(&mut self, shared: &Shared, consumer: &dyn GroupMember) {
        let task = &self.open.task;
        let partition = self.open.id.partition;
        let sub = task.sub_topology();
        let inputs: Vec<InputStatus> = sub
            .inputs
            .iter()
            .zip(task.offsets())
            .map(|(input, offset)| {
                let end = consumer.end_offset(&TopicPartition::new(input.topic.as_str(), partition));
                InputStatus {
                    topic: input.topic.clone(),
                    offset: *offset,
                    lag: end.map(|end| (end - offset).max(0)),
                }
            })
            .collect();
        for (number, lag) in
            inputs.iter().enumerate().filter_map(|(number, input)| Some((number, input.lag?)))
        {
            self.metrics.lag(number, lag);
        }
        let stream_time = task.stream_time();
        shared.status.update_task(&sub.name, partition, |status| {
            status.inputs = inputs;
            status.stream_time = stream_time;
        });
    }
}

impl Output {
    fn new(number: usize, shared: Arc<Shared>, cancelled: Shutdown<'_>) -> Result<Self, Trouble> {
        let exactly_once = shared.guarantee == Guarantee::ExactlyOnce;
        let purpose = format!("producer-{number}");
        let options = ProducerOptions {
            transactional_id: exactly_once.then(|| shared.transactional_id(number)),
            transaction_timeout: shared.settings.transaction_timeout,
            linger: shared.linger(),
            buffer_bytes: shared.producer_bytes_per_worker(),
            batch_bytes: shared.largest_batch,
            compression: "lz4".to_owned(),
        };
        let producer = started(&shared, &purpose, &options, cancelled)?;
        Ok(Output { shared, purpose, options, producer, topics: HashMap::new(), id: new_id(), open: None })
    }

    /// Begins a transaction, unless one is open. A spent producer is replaced first: a delayed answer to it could otherwise end
    /// the new transaction.
    fn begin(&mut self) -> Result<(), Trouble> {
        if self.options.transactional_id.is_none() {
            self.open.get_or_insert_with(clock::instant);
            return Ok(());
        }
        if self.open.is_some() {
            return Ok(());
        }
        if self.producer.is_spent() {
            self.shared.metrics.producer_replaced();
            tracing::warn!(
                "a request of the producer got no clear answer: it is replaced before the next transaction"
            );
            self.topics.clear();
            self.producer = started(&self.shared, &self.purpose, &self.options, &|| false)?;
            self.id = new_id();
        }
        self.producer.begin().map_err(|error| self.trouble("begin a transaction", error))?;
        self.open = Some(clock::instant());
        Ok(())
    }

    fn abort(&mut self, reason: AbortReason) {
        if self.open.take().is_none() || self.options.transactional_id.is_none() {
            return;
        }
        self.shared.metrics.aborted(reason);
        if let Err(error) = self.producer.abort(CALL) {
            // The next producer of this id, or the brokers' time-out, ends it.
            tracing::warn!(%error, "a transaction could not be aborted");
        }
    }

    fn write_all(
        &mut self,
        partition: i32,
        outputs: &[OutputRecord],
        metrics: &mut TaskMetrics,
    ) -> Result<(), Trouble> {
        let mut written: Vec<(Rank, u64, u64)> = Vec::new();
        let mut last: Option<(&Arc<str>, (TopicHandle, u32))> = None;
        for OutputRecord { topic, hash, record, rank, .. } in outputs {
            let (handle, count) = match last {
                Some((known, found)) if Arc::ptr_eq(known, topic) => found,
                _ => self.topic(topic)?,
            };
            last = Some((topic, (handle, count)));
            let hash = hash.unwrap_or(partition.unsigned_abs());
            let target = hash.checked_rem(count).unwrap_or_default() as i32;
            let Record { key, value, timestamp, headers, .. } = record;
            let headers: Vec<(&str, Option<&[u8]>)> =
                headers.iter().map(|header| (header.name.as_str(), header.value.as_deref())).collect();
            self.enqueue(handle, target, key.as_deref(), value.as_deref(), *timestamp, &headers)?;
            let bytes = key.as_ref().map_or(0, Vec::len) + value.as_ref().map_or(0, Vec::len);
            match written.iter_mut().find(|(known, ..)| known == rank) {
                Some((_, records, sum)) => (*records, *sum) = (*records + 1, *sum + bytes as u64),
                None => written.push((*rank, 1, bytes as u64)),
            }
        }
        for (rank, records, bytes) in written {
            metrics.wrote(rank, records, bytes);
        }
        Ok(())
    }

    /// Writes to the changelogs of a task.
    fn log(
        &mut self,
        sub: &SubTopology,
        partition: i32,
        changelog: &Changelog,
        metrics: &mut TaskMetrics,
    ) -> Result<(), Trouble> {
        if changelog.is_empty() {
            return Ok(());
        }
        let mut stores = Vec::with_capacity(sub.stores.len());
        for store in &sub.stores {
            stores.push((self.topic(&store.changelog)?.0, 0, 0));
        }
        let now = clock::now();
        for ChangelogRecord { store, key, value } in changelog.iter() {
            let Some((handle, records, bytes)) = stores.get_mut(store.0) else { continue };
            *records += 1;
            *bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
            self.enqueue(*handle, partition, Some(key), value, now, &[])?;
        }
        for (store, (_, records, bytes)) in stores.into_iter().enumerate() {
            metrics.wrote_changelog(store, records, bytes);
        }
        Ok(())
    }

    fn enqueue(
        &mut self,
        handle: TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<(), Trouble> {
        let mut full = None;
        loop {
            match self.producer.send(handle, partition, key, value, timestamp, headers) {
                Ok(()) => return Ok(()),
                Err(SendError::QueueFull)
                    if clock::since(*full.get_or_insert_with(clock::instant)) < CALL =>
                {
                    self.producer.poll(FULL);
                }
                Err(SendError::QueueFull) => {
                    return Err(Trouble::Again(format!("no room in the producer for {} s", CALL.as_secs())));
                }
                Err(SendError::Failed(error)) => {
                    return Err(self.not_written(error));
                }
            }
        }
    }

    /// The handle of a topic, and how many partitions it has.
    fn topic(&mut self, name: &Arc<str>) -> Result<(TopicHandle, u32), Trouble> {
        if let Some(known) = self.topics.get(name) {
            return Ok(*known);
        }
        let count = self.shared.brokers.partitions(name)?;
        let handle = self.producer.topic(name);
        let handle = handle.map_err(|error| self.trouble(&format!("write to topic `{name}`"), error))?;
        self.topics.insert(name.clone(), (handle, count));
        Ok((handle, count))
    }

    /// The offset of the last record that was delivered to a partition since the transaction began.
    fn delivered(&self, topic: &Arc<str>, partition: i32) -> Option<i64> {
        let (handle, _) = self.topics.get(topic)?;
        self.producer.delivered(*handle, partition)
    }

    /// Ends what was begun, with these offsets. `commit` is what is in doubt if no answer comes.
    fn end(
        &mut self,
        offsets: &[OffsetAndMetadata],
        consumer: &dyn GroupMember,
        metadata: &GroupMetadata,
        commit: InDoubt,
    ) -> Result<(), Trouble> {
        // Later than that there is no transaction any more.
        let patience = CALL.min(self.options.transaction_timeout);
        let start = clock::instant();
        self.producer.flush(patience).map_err(|error| self.not_written(error))?;
        fail_point("producer-flushed");
        let flushed = clock::since(start);
        if self.options.transactional_id.is_some() {
            let sent = self.producer.send_offsets(offsets, metadata, patience);
            sent.map_err(|error| self.trouble("commit offsets", error))?;
            fail_point("offsets-sent");
            let offsets = clock::since(start) - flushed;
            if let Err(error) = self.producer.commit(patience) {
                let refused = error.requires_abort() || error.is_fenced();
                let trouble = self.trouble("commit the transaction", error);
                // An earlier request that got no answer may have succeeded where a later one was refused.
                if !refused || self.producer.is_spent() {
                    // It may be committed yet: only the next producer ends it.
                    self.open = None;
                    self.shared.in_doubt(commit);
                }
                return Err(trouble);
            }
            let end = clock::since(start) - flushed - offsets;
            tracing::debug!(?flushed, ?offsets, ?end, "committed");
        } else {
            consumer.commit(offsets, patience).map_err(|error| Trouble::kafka("commit offsets", error))?;
        }
        self.open = None;
        fail_point("committed");
        Ok(())
    }

    /// Any of the topics may be behind it, whichever was written when it was noticed.
    fn not_written(&self, error: KafkaError) -> Trouble {
        let error = self.cause(error);
        self.shared.metrics.produce_error(error.name());
        self.trouble(&format!("write to {}", self.written().join(", ")), error)
    }

    /// The topics that the producer has written.
    fn written(&self) -> Vec<&str> {
        let mut topics: Vec<&str> = self.topics.keys().map(|topic| &**topic).collect();
        topics.sort_unstable();
        topics
    }

    /// What is behind an error of the producer.
    fn cause(&self, error: KafkaError) -> KafkaError {
        self.producer.poll(Duration::ZERO);
        let cause = match self.producer.delivery_error() {
            Some(delivery) if !delivery.is_purged() => Some(delivery),
            _ if self.options.transactional_id.is_some() => self.producer.transaction_error(),
            _ => None,
        };
        cause.unwrap_or(error)
    }

    fn trouble(&self, action: &str, error: KafkaError) -> Trouble {
        self.shared.metrics.client_error(Client::Producer, error.name());
        // A transaction that took longer than its time-out was ended by the brokers, which looks the same.
        let late = self.open.is_some_and(|open| clock::since(open) >= self.options.transaction_timeout);
        if error.is_fenced() && !late {
            let id = self.options.transactional_id.clone().unwrap_or_default();
            return RuntimeError::Fenced { id, instance: self.shared.instance.clone() }.into();
        }
        Trouble::kafka(action, error)
    }
}

/// A producer whose predecessor is fenced, unless that is cancelled.
fn started(
    shared: &Shared,
    purpose: &str,
    options: &ProducerOptions,
    cancelled: Shutdown<'_>,
) -> Result<Box<dyn RecordProducer>, Trouble> {
    let trouble = |error| match &options.transactional_id {
        Some(id) => Trouble::kafka(format!("use the transactional id `{id}`"), error),
        None => Trouble::kafka("make a producer", error),
    };
    let producer = shared.brokers.producer(purpose, options).map_err(trouble)?;
    let start = clock::instant();
    while options.transactional_id.is_some() {
        match producer.init_transactions(TAKE_OVER) {
            Ok(()) => break,
            Err(error)
                if (error.is_timeout() || error.is_retriable())
                    && clock::since(start) < CALL
                    && !cancelled() =>
            {
                // A broker that does not know yet who coordinates the transactions says so at once.
                if !error.is_timeout() {
                    threads::sleep(Duration::from_millis(100));
                }
            }
            Err(error) => return Err(trouble(error)),
        }
    }
    Ok(producer)
}

fn new_id() -> CommitId {
    CommitId { producer: RandomState::new().hash_one(clock::now()), number: 0 }
}

/// Ends the transactions that workers of these numbers, which exist no more, may have left open.
pub(super) fn end_transactions(
    shared: &Arc<Shared>,
    workers: std::ops::Range<usize>,
    shutdown: Shutdown<'_>,
) -> Result<(), Trouble> {
    if shared.guarantee == Guarantee::ExactlyOnce {
        for number in workers {
            Output::new(number, shared.clone(), shutdown)?;
        }
    }
    Ok(())
}
