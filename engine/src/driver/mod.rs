//! Whole applications in memory: a topic is a queue, a commit is a call.
//!
//! The driver makes the same calls to its tasks as a run on Kafka: epochs, commits with changelogs, restores. Order is fixed:
//! what an earlier input caused comes first, through repartition topics too, so that a run can be repeated exactly.

pub mod cases;
pub mod dev;
pub mod pipe;
pub mod written;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hashbrown::HashMap;
use millstream_operators::batch::Batch;
use millstream_operators::diagnostic::Code;
use millstream_operators::operator::{Advance, OperatorError};
use millstream_operators::schema::Kind;
use millstream_state::{
    Changelog, ChangelogRecord, StateDirectory, StateError, StateOptions, StoreId, StoreSpec, TaskState,
};

use crate::plan::{Origin, Plan, PlanError, SubTopology};
use crate::record::Record;
use crate::task::{
    Epoch, GlobalStates, GlobalTable, NodeCounters, OutputRecord, Rank, RecordError, StoreEntry, Task,
    TaskError,
};
use crate::topology::{OutputRef, Topology};

/// What stops the driver although no record is to blame.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A task failed.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The topology cannot be run with this partition count.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The driver broke a promise.
    #[error("internal error in the driver (please report it): {0}")]
    Internal(String),
}

impl DriverError {
    /// The failure of the state, if it is one.
    pub fn state(&self) -> Option<&StateError> {
        match self {
            DriverError::State(error)
            | DriverError::Task(
                TaskError::State(error) | TaskError::Operator { error: OperatorError::State(error), .. },
            ) => Some(error),
            DriverError::Task(_) | DriverError::Plan(_) | DriverError::Internal(_) => None,
        }
    }

    /// The stable code, if the error has one.
    pub fn code(&self) -> Option<Code> {
        if let DriverError::Plan(PlanError::PartitionCounts { .. }) = self {
            return Some(Code::PartitionCounts);
        }
        state_code(self.state()?)
    }
}

/// The stable code of a failure of the state, if it has one.
pub(crate) fn state_code(error: &StateError) -> Option<Code> {
    match error {
        StateError::InUse { .. } => Some(Code::StateInUse),
        StateError::ForeignDirectory { .. }
        | StateError::NotStateDirectory { .. }
        | StateError::FormatVersion { .. }
        | StateError::FingerprintMismatch { .. } => Some(Code::StateMismatch),
        StateError::Corrupt { .. } => Some(Code::StateDamaged),
        _ => None,
    }
}

/// How the driver runs an application.
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// Partitions of the sources' topics.
    pub partitions: u32,
    /// Where the stores are; `None`: in memory.
    pub state: Option<StateLocation>,
    /// Whether updates of one key within a batch may be folded into one where nothing downstream can tell; else every
    /// single update is seen.
    pub fold: bool,
}

impl Default for DriverOptions {
    fn default() -> Self {
        DriverOptions { partitions: 1, state: None, fold: false }
    }
}

/// Stores on disk.
#[derive(Clone, Debug)]
pub struct StateLocation {
    /// The state directory.
    pub directory: PathBuf,
    /// Bytes for caches and write buffers.
    pub memory: usize,
}

/// A record for a source.
#[derive(Clone, Debug)]
pub struct SourceRecord {
    /// The position of the source in the topology.
    pub source: usize,
    /// The partition; `None`: that of its key.
    pub partition: Option<i32>,
    /// The record; its offset is given by the driver.
    pub record: Record,
}

/// A record that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The number, within the call, of the input that caused it.
    pub cause: usize,
    /// The sink, by position in the file; `None` for a dead letter.
    pub sink: Option<usize>,
    /// How many repartition topics lie between the sources and what wrote it.
    pub depth: usize,
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// The record.
    pub record: Record,
    /// Whether it is a change of a table.
    pub kind: Kind,
}

/// Rows of a node that was asked for.
#[derive(Clone, Debug)]
pub struct Tapped {
    /// The position in the list of [`Driver::tap`].
    pub tap: usize,
    /// The number, within the call, of the input that caused each row.
    pub causes: Vec<usize>,
    /// The rows.
    pub batch: Batch,
}

/// What a call did.
#[derive(Debug, Default)]
pub struct Ran {
    /// Records written, in order: by cause, depth of the sub-topology, sink, output.
    pub written: Vec<Written>,
    /// Records that were skipped or dead-lettered.
    pub errors: Vec<RecordError>,
    /// The error that stopped the application, and the number of the input that caused it.
    pub stopped: Option<(usize, RecordError)>,
    /// Rows of the nodes that were asked for.
    pub tapped: Vec<Tapped>,
}

/// A record that waits for a task.
struct Waiting {
    cause: usize,
    input: usize,
    record: Record,
}

/// A task with the topics that belong to it.
struct Running {
    task: Task,
    waiting: Vec<Waiting>,
    changelogs: Changelogs,
    /// Offsets and metadata of the last commit.
    committed: Option<(Vec<i64>, Vec<u8>)>,
    /// Wall clock of the last input.
    last_input: i64,
    /// Wall clock up to which silence has moved stream time.
    followed: i64,
    dirty: bool,
}

/// How much a task's changelogs may hold besides the newest record of each key.
const UNCOMPACTED_BYTES: usize = 64 << 20;

/// The changelog partitions of a task, in the order in which they were written.
struct Changelogs {
    commits: Vec<Changelog>,
    bytes: usize,
    /// What the last compaction left.
    compacted_bytes: usize,
    /// By store.
    next_offsets: Vec<i64>,
}

impl Changelogs {
    fn new(stores: usize) -> Self {
        Changelogs { commits: Vec::new(), bytes: 0, compacted_bytes: 0, next_offsets: vec![0; stores] }
    }

    fn append(&mut self, commit: Changelog) {
        for record in commit.iter() {
            if let Some(next) = self.next_offsets.get_mut(record.store.0) {
                *next += 1;
            }
        }
        self.bytes += commit.bytes();
        self.commits.push(commit);
        if self.bytes > 2 * self.compacted_bytes + UNCOMPACTED_BYTES {
            self.compact();
        }
    }

    fn records(&self) -> impl Iterator<Item = ChangelogRecord<'_>> {
        self.commits.iter().flat_map(Changelog::iter)
    }

    /// Keeps the newest record of each key, and none that deletes.
    fn compact(&mut self) {
        let mut newest = HashMap::new();
        for (position, record) in self.records().enumerate() {
            newest.insert((record.store, record.key), position);
        }
        let mut compacted = Changelog::default();
        for (position, record) in self.records().enumerate() {
            if record.value.is_some() && newest.get(&(record.store, record.key)) == Some(&position) {
                compacted.push(record.store, record.key, record.value);
            }
        }
        drop(newest);
        self.bytes = compacted.bytes();
        self.compacted_bytes = self.bytes;
        self.commits = vec![compacted];
    }
}

/// Where the records of a source go.
#[derive(Clone, Copy)]
enum Feeds {
    /// To an input of a sub-topology.
    Input { sub: usize, input: usize },
    /// To a global table.
    Global(usize),
}

/// A global table with what its topic holds.
struct RunningGlobal {
    table: GlobalTable,
    changelog: Changelogs,
    /// By partition.
    next_offsets: Vec<i64>,
    counters: NodeCounters,
}

/// An application in memory.
pub struct Driver {
    topology: Arc<Topology>,
    plan: Arc<Plan>,
    options: DriverOptions,
    /// Keeps the state directory locked; all its tasks share one budget of memory.
    directory: Option<(StateDirectory, StateOptions)>,
    /// Per sub-topology, its tasks by partition.
    tasks: Vec<Vec<Running>>,
    globals: Vec<RunningGlobal>,
    global_states: GlobalStates,
    /// Per source.
    sources: Vec<Feeds>,
    /// Per repartition topic: who reads it.
    readers: HashMap<String, (usize, usize)>,
    next_offsets: HashMap<(usize, usize, usize), i64>,
    taps: Vec<(usize, usize)>,
    now: i64,
    started: bool,
    largest_time: Option<i64>,
    unkeyed: u32,
}

impl Driver {
    /// Opens all tasks of a planned topology, with empty stores.
    pub fn new(
        topology: Arc<Topology>,
        plan: Arc<Plan>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let directory = match &options.state {
            Some(location) => Some((
                StateDirectory::open(&location.directory, &topology.app.id)?,
                StateOptions::new(location.memory),
            )),
            None => None,
        };
        let mut sources = vec![Feeds::Input { sub: 0, input: 0 }; topology.sources.len()];
        let mut readers = HashMap::new();
        for (position, sub) in plan.sub_topologies.iter().enumerate() {
            for (number, input) in sub.inputs.iter().enumerate() {
                match &input.origin {
                    Origin::Source(source) => {
                        let index = topology.sources.iter().position(|found| found.name == source.name);
                        if let Some(slot) = index.and_then(|index| sources.get_mut(index)) {
                            *slot = Feeds::Input { sub: position, input: number };
                        }
                    }
                    Origin::Repartition { .. } => {
                        readers.insert(input.topic.clone(), (position, number));
                    }
                }
            }
        }
        let mut globals = Vec::new();
        for (position, table) in plan.globals.iter().enumerate() {
            let index = topology.sources.iter().position(|found| found.name == table.source.name);
            if let Some(slot) = index.and_then(|index| sources.get_mut(index)) {
                *slot = Feeds::Global(position);
            }
            globals.push(RunningGlobal {
                table: GlobalTable::new(table.clone())?,
                changelog: Changelogs::new(1),
                next_offsets: vec![0; options.partitions as usize],
                counters: NodeCounters::default(),
            });
        }
        let mut driver = Driver {
            topology,
            options,
            directory,
            tasks: Vec::new(),
            globals,
            global_states: GlobalStates::new(&plan),
            plan,
            sources,
            readers,
            next_offsets: HashMap::new(),
            taps: Vec::new(),
            now: 0,
            started: false,
            largest_time: None,
            unkeyed: 0,
        };
        driver.open_globals()?;
        let counts = driver.plan.partitions(|_| driver.options.partitions)?;
        for (sub, count) in driver.plan.clone().sub_topologies.iter().zip(counts) {
            let mut tasks = Vec::new();
            for partition in 0..count {
                let changelogs = Changelogs::new(sub.stores.len());
                let task = driver.open(sub, partition, &changelogs, None)?;
                let (waiting, committed) = (Vec::new(), None);
                tasks.push(Running {
                    task,
                    waiting,
                    changelogs,
                    committed,
                    last_input: 0,
                    followed: 0,
                    dirty: false,
                });
            }
            driver.tasks.push(tasks);
        }
        Ok(driver)
    }

    /// A task with stores restored from their changelogs.
    fn open(
        &self,
        sub: &Arc<SubTopology>,
        partition: u32,
        changelogs: &Changelogs,
        committed: Option<&(Vec<i64>, Vec<u8>)>,
    ) -> Result<Task, DriverError> {
        let state = self.state(&format!("{}-{partition}", sub.name), &Task::store_specs(sub), changelogs)?;
        let offsets = committed.map_or_else(|| vec![0; sub.inputs.len()], |(offsets, _)| offsets.clone());
        let metadata: Vec<&[u8]> = committed.iter().map(|(_, metadata)| metadata.as_slice()).collect();
        let globals = self.global_states.clone();
        Ok(Task::open(sub.clone(), partition as i32, state, offsets, &metadata, globals, self.options.fold)?)
    }

    /// Stores that were empty, restored from their changelogs.
    fn state(
        &self,
        name: &str,
        specs: &[StoreSpec],
        changelogs: &Changelogs,
    ) -> Result<TaskState, DriverError> {
        let mut state = match &self.directory {
            Some((directory, options)) => {
                // Topics begin empty, and so must stores. Opening them first refuses what is not this topology's to remove.
                TaskState::open(directory, name, specs, options)?.close()?;
                let path = directory.task_path(name)?;
                std::fs::remove_dir_all(&path).map_err(|source| StateError::Io {
                    action: "remove",
                    path,
                    source,
                })?;
                TaskState::open(directory, name, specs, options)?
            }
            None => TaskState::in_memory(specs),
        };
        for (store, next_offset) in changelogs.next_offsets.iter().enumerate() {
            let store = StoreId(store);
            let mut count = 0;
            let records = changelogs
                .records()
                .filter(|record| record.store == store)
                .map(|record| (record.key, record.value))
                .inspect(|_| count += 1);
            state.restore(store, records, *next_offset)?;
            tracing::debug!(name, store = store.0, records = count, "store restored");
        }
        Ok(state)
    }

    /// Opens the global tables, which no task may be reading.
    fn open_globals(&self) -> Result<(), DriverError> {
        for (position, (planned, running)) in self.plan.globals.iter().zip(&self.globals).enumerate() {
            // The database must be closed before it is opened again.
            drop(self.global_states.take(position));
            let specs = std::slice::from_ref(&planned.store);
            let state = self.state(&planned.name(), specs, &running.changelog)?;
            if let Some(mut shared) = self.global_states.write(position) {
                *shared = state;
            }
        }
        Ok(())
    }

    /// The topology that runs.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// The wall clock, in milliseconds since 1970.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// Asks for the rows of these nodes with every call.
    pub fn tap(&mut self, outputs: &[OutputRef]) -> Result<(), DriverError> {
        let found: Option<Vec<(usize, usize)>> =
            outputs.iter().map(|output| self.plan.find(output).map(|(sub, slot, _)| (sub, slot))).collect();
        self.taps = found.ok_or_else(|| DriverError::Internal("a tapped node does not exist".to_owned()))?;
        self.apply_taps();
        Ok(())
    }

    fn apply_taps(&mut self) {
        for (position, tasks) in self.tasks.iter_mut().enumerate() {
            let slots: Vec<usize> =
                self.taps.iter().filter(|(sub, _)| *sub == position).map(|(_, slot)| *slot).collect();
            tasks.iter_mut().for_each(|running| running.task.tap(slots.clone()));
        }
    }

    /// Processes `records` as one batch, each to its end.
    pub fn run(&mut self, records: Vec<SourceRecord>) -> Result<Ran, DriverError> {
        // A task that reads what it caused itself must have it before the next record: a batch would hold it back.
        let one_by_one = self.plan.has_cycle();
        let mut ran = Ran::default();
        for (cause, SourceRecord { source, partition, mut record }) in records.into_iter().enumerate() {
            if !self.started {
                self.started = true;
                self.now = record.timestamp;
            }
            match self.sources.get(source).copied() {
                Some(Feeds::Global(table)) => {
                    // What comes before it must not see it.
                    self.drain(&mut ran)?;
                    if ran.stopped.is_none() {
                        self.update(table, cause, partition, record, &mut ran)?;
                    }
                }
                Some(Feeds::Input { sub, input }) => {
                    let count = self.tasks.get(sub).map_or(1, |tasks| tasks.len() as u32);
                    let partition = self.partition(partition, &record, count) as usize;
                    record.offset = self.next_offset(sub, partition, input);
                    self.wait(sub, partition, Waiting { cause, input, record });
                    if one_by_one {
                        self.drain(&mut ran)?;
                    }
                }
                None => return Err(DriverError::Internal("a record of no source".to_owned())),
            }
            if ran.stopped.is_some() {
                break;
            }
        }
        self.drain(&mut ran)?;
        Ok(self.in_order(ran))
    }

    /// The partition of a record for a source.
    fn partition(&mut self, said: Option<i32>, record: &Record, count: u32) -> u32 {
        match (said, &record.key) {
            (Some(partition), _) => partition as u32 % count,
            (None, Some(key)) => crate::partitioner::partition(key, count),
            (None, None) => {
                self.unkeyed = self.unkeyed.wrapping_add(1);
                self.unkeyed % count
            }
        }
    }

    /// Takes a record into a global table.
    fn update(
        &mut self,
        table: usize,
        cause: usize,
        partition: Option<i32>,
        mut record: Record,
        ran: &mut Ran,
    ) -> Result<(), DriverError> {
        let partition = self.partition(partition, &record, self.options.partitions);
        let Some(running) = self.globals.get_mut(table) else { return Ok(()) };
        if let Some(next) = running.next_offsets.get_mut(partition as usize) {
            record.offset = *next;
            *next += 1;
        }
        let updated =
            running.table.update(&self.global_states, table, partition as i32, &[record], self.now)?;
        running.changelog.append(updated.changelog);
        running.counters.add(&updated.counters);
        ran.errors.extend(updated.errors);
        ran.stopped = updated.stopped.map(|error| (cause, error));
        Ok(())
    }

    fn next_offset(&mut self, sub: usize, partition: usize, input: usize) -> i64 {
        let next = self.next_offsets.entry((sub, partition, input)).or_default();
        *next += 1;
        *next - 1
    }

    fn wait(&mut self, sub: usize, partition: usize, waiting: Waiting) {
        if let Some(running) = self.tasks.get_mut(sub).and_then(|tasks| tasks.get_mut(partition)) {
            running.waiting.push(waiting);
        }
    }

    /// Records by cause, depth of the sub-topology and sink; what the same cause sent to one sink stays in its order.
    fn in_order(&self, mut ran: Ran) -> Ran {
        if let Some((failed, _)) = &ran.stopped {
            // Other tasks may have been further already: what comes after the failing record is not said.
            ran.written.retain(|written| written.cause <= *failed);
            ran.tapped.retain(|tapped| tapped.causes.iter().all(|cause| cause <= failed));
        }
        ran.written.sort_by_key(|written| (written.cause, written.depth, written.sink.unwrap_or(usize::MAX)));
        ran
    }

    /// Runs tasks until no record waits.
    fn drain(&mut self, ran: &mut Ran) -> Result<(), DriverError> {
        loop {
            let mut waited = false;
            for sub in 0..self.tasks.len() {
                waited |= self.drain_sub(sub, ran)?;
            }
            if !waited {
                return Ok(());
            }
        }
    }

    fn drain_sub(&mut self, sub: usize, ran: &mut Ran) -> Result<bool, DriverError> {
        let mut waited = false;
        let count = self.tasks.get(sub).map_or(0, Vec::len);
        for partition in 0..count {
            let Some(running) = self.tasks.get_mut(sub).and_then(|tasks| tasks.get_mut(partition)) else {
                continue;
            };
            if let Some((failed, _)) = &ran.stopped {
                // What came before the failing record still goes to its end.
                running.waiting.retain(|waiting| waiting.cause < *failed);
            }
            if running.waiting.is_empty() {
                continue;
            }
            waited = true;
            let mut waiting = std::mem::take(&mut running.waiting);
            waiting.sort_by_key(|waiting| (waiting.cause, waiting.input));
            let causes: Vec<usize> = waiting.iter().map(|waiting| waiting.cause).collect();
            let records = waiting.into_iter().map(|waiting| (waiting.input, waiting.record)).collect();
            running.dirty = true;
            running.last_input = self.now;
            running.followed = self.now;
            let epoch = running.task.process(records, self.now)?;
            log_epoch(&running.task, &epoch);
            self.largest_time = self.largest_time.max(epoch.largest_time);
            self.take_over(sub, partition, epoch, &causes, ran);
        }
        Ok(waited)
    }

    fn take_over(&mut self, sub: usize, partition: usize, epoch: Epoch, causes: &[usize], ran: &mut Ran) {
        let cause_of = |seq: u32| causes.get(seq as usize).copied().unwrap_or_default();
        let depth = self.plan.sub_topologies.get(sub).map_or(0, |sub| sub.depth);
        for OutputRecord { topic, hash, mut record, seq, rank, kind, is_new: _ } in epoch.outputs {
            let cause = cause_of(seq);
            if let (Rank::Repartition(_), Some(&(reader, input))) = (rank, self.readers.get(&*topic)) {
                let count = self.tasks.get(reader).map_or(1, Vec::len);
                let target = hash.map_or(partition, |hash| hash as usize) % count;
                record.offset = self.next_offset(reader, target, input);
                self.wait(reader, target, Waiting { cause, input, record });
                continue;
            }
            let sink = match rank {
                Rank::Sink(sink) => Some(sink),
                _ => None,
            };
            let partition = hash.map_or(partition as u32, |hash| hash % self.options.partitions);
            ran.written.push(Written { cause, sink, depth, topic, partition, record, kind });
        }
        for (slot, batch) in epoch.tapped {
            let causes: Vec<usize> = batch.seq.iter().map(|seq| cause_of(*seq)).collect();
            for (tap, _) in self.taps.iter().enumerate().filter(|(_, tapped)| **tapped == (sub, slot)) {
                ran.tapped.push(Tapped { tap, causes: causes.clone(), batch: batch.clone() });
            }
        }
        ran.errors.extend(epoch.errors);
        let stopped = epoch.stopped.map(|error| (cause_of(error.seq), error));
        let earliest =
            |other: &(usize, RecordError)| ran.stopped.as_ref().is_none_or(|known| other.0 < known.0);
        if let Some(stopped) = stopped.filter(earliest) {
            ran.stopped = Some(stopped);
        }
    }

    /// Sets every operator's stream time to the largest input time so far plus `by` milliseconds, upstream first.
    pub fn advance(&mut self, by: i64) -> Result<Ran, DriverError> {
        let to = self.largest_time.unwrap_or_default().saturating_add(by);
        self.advance_all(Advance::To(to))
    }

    /// Closes windows and sends what is held back.
    pub fn finish(&mut self) -> Result<Ran, DriverError> {
        self.advance_all(Advance::End)
    }

    fn advance_all(&mut self, to: Advance) -> Result<Ran, DriverError> {
        let mut ran = Ran::default();
        for sub in 0..self.tasks.len() {
            self.drain_sub(sub, &mut ran)?;
            let count = self.tasks.get(sub).map_or(0, Vec::len);
            for partition in 0..count {
                self.advance_task(sub, partition, to, &mut ran)?;
            }
        }
        self.drain(&mut ran)?;
        Ok(self.in_order(ran))
    }

    fn advance_task(
        &mut self,
        sub: usize,
        partition: usize,
        to: Advance,
        ran: &mut Ran,
    ) -> Result<(), DriverError> {
        let running = self.tasks.get_mut(sub).and_then(|tasks| tasks.get_mut(partition));
        if let Some(running) = running {
            running.dirty = true;
            let epoch = running.task.advance(to)?;
            log_epoch(&running.task, &epoch);
            self.take_over(sub, partition, epoch, &[0], ran);
        }
        Ok(())
    }

    /// The wall clock goes on. Where all inputs have been silent for `idle-after`, stream time follows it.
    pub fn wall_clock(&mut self, by: i64) -> Result<Ran, DriverError> {
        self.now = self.now.saturating_add(by);
        let mut ran = Ran::default();
        for sub in 0..self.tasks.len() {
            self.drain_sub(sub, &mut ran)?;
            let Some(idle_after) = self.plan.sub_topologies.get(sub).and_then(|sub| sub.idle_after) else {
                continue;
            };
            let count = self.tasks.get(sub).map_or(0, Vec::len);
            for partition in 0..count {
                let running = self.tasks.get(sub).and_then(|tasks| tasks.get(partition));
                let Some(running) = running.filter(|running| self.now - running.last_input >= idle_after)
                else {
                    continue;
                };
                let Some(time) = running.task.stream_time() else { continue };
                let to = time.saturating_add(self.now - running.followed).min(self.now);
                self.advance_task(sub, partition, Advance::To(to), &mut ran)?;
                if let Some(running) = self.tasks.get_mut(sub).and_then(|tasks| tasks.get_mut(partition)) {
                    running.followed = self.now;
                }
            }
        }
        self.drain(&mut ran)?;
        Ok(self.in_order(ran))
    }

    /// Commits every task: changes go to the changelogs, and only then into the stores.
    pub fn commit(&mut self) -> Result<(), DriverError> {
        for running in self.tasks.iter_mut().flatten().filter(|running| running.dirty) {
            running.dirty = false;
            let mut commit = running.task.commit();
            tracing::debug!(task = running.task.name(), changes = commit.changelog.len(), "commit");
            running.changelogs.append(std::mem::take(&mut commit.changelog));
            running.committed = Some((commit.offsets.clone(), commit.metadata.clone()));
            let offsets = running.changelogs.next_offsets.clone();
            running.task.committed(commit, offsets)?;
        }
        Ok(())
    }

    /// Commits, drops the process with its stores, and starts again from topics, changelogs and committed offsets.
    pub fn restart(&mut self) -> Result<(), DriverError> {
        self.commit()?;
        tracing::debug!("restart");
        let mut dropped: Vec<Vec<_>> = Vec::new();
        for tasks in std::mem::take(&mut self.tasks) {
            dropped.push(
                tasks
                    .into_iter()
                    .map(|running| {
                        (running.changelogs, running.committed, running.last_input, running.followed)
                    })
                    .collect(),
            );
        }
        self.open_globals()?;
        for (sub, tasks) in self.plan.clone().sub_topologies.iter().zip(dropped) {
            let mut reopened = Vec::new();
            for (partition, (changelogs, committed, last_input, followed)) in tasks.into_iter().enumerate() {
                let task = self.open(sub, partition as u32, &changelogs, committed.as_ref())?;
                let waiting = Vec::new();
                reopened.push(Running {
                    task,
                    waiting,
                    changelogs,
                    committed,
                    last_input,
                    followed,
                    dirty: false,
                });
            }
            self.tasks.push(reopened);
        }
        self.apply_taps();
        Ok(())
    }

    /// Rows that went through each step, all tasks together, by step in the order of the plan; then those of global tables.
    pub fn counters(&self) -> Vec<(String, NodeCounters)> {
        let mut totals: Vec<(String, NodeCounters)> = Vec::new();
        for (sub, tasks) in self.plan.sub_topologies.iter().zip(&self.tasks) {
            for (number, node) in sub.nodes.iter().enumerate() {
                let mut total = NodeCounters::default();
                for counters in tasks.iter().filter_map(|running| running.task.counters().get(number)) {
                    total.add(counters);
                }
                totals.push((node.name.clone(), total));
            }
        }
        for (planned, running) in self.plan.globals.iter().zip(&self.globals) {
            totals.push((planned.source.name.clone(), running.counters.clone()));
        }
        totals
    }

    /// The content of every store, by name and partition, in key order: for tests of restores.
    pub fn stores(&mut self) -> Result<BTreeMap<(String, usize), Vec<StoreEntry>>, DriverError> {
        let mut contents = BTreeMap::new();
        for (sub, tasks) in self.plan.sub_topologies.iter().zip(&mut self.tasks) {
            for (partition, running) in tasks.iter_mut().enumerate() {
                for (number, store) in sub.stores.iter().enumerate() {
                    let name = (store.spec.name.clone(), partition);
                    contents.insert(name, running.task.store_content(StoreId(number))?);
                }
            }
        }
        Ok(contents)
    }
}

/// What an epoch did, for `MILLSTREAM_LOG=debug`.
fn log_epoch(task: &Task, epoch: &Epoch) {
    tracing::debug!(
        task = task.name(),
        records = epoch.processed,
        out = epoch.outputs.len(),
        errors = epoch.errors.len(),
        stopped = epoch.stopped.is_some(),
        "epoch"
    );
}
