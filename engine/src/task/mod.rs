//! One task: a sub-topology on one partition number, with its stores.
//!
//! A task is free of IO. Records come in as a call, an epoch runs the graph over them, and what is to be written comes out;
//! so do commits: [`Task::commit`] says what a commit must hold, [`Task::committed`] is told that it succeeded. Between two
//! epochs a task is a function of its stores and its committed position, so that a restart is not visible.

mod global;
mod output;
mod position;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use millstream_operators::batch::Batch;
use millstream_operators::columns::UnsupportedType;
use millstream_operators::diagnostic::Code;
use millstream_operators::operator::{Advance, Context, DropReason, Operator, OperatorError, Wanted};
use millstream_operators::row::{RowCodec, RowDecoder};
use millstream_operators::schema::Kind;
use millstream_operators::waiting::Waiting;
use millstream_state::{Changelog, Checkpoint, StateError, StoreId, StoreSpec, TaskState};

use self::output::{OutputWriter, dead_letter};
use crate::codec::CodecError;
use crate::codec::decode::{Decoded, SourceDecoder};
use crate::plan::{Origin, PREDICT, SubTopology};
use crate::record::Record;
use crate::schema_registry::SchemaRegistryError;
use crate::topology::{OnError, Source};

pub use self::global::{GlobalStates, GlobalTable, Updated};
pub use self::output::{OutputRecord, Rank};

/// What stops a task although no record is to blame.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// An operator failed.
    #[error("step `{node}`: {error}")]
    Operator {
        /// The step.
        node: String,
        /// What happened.
        error: OperatorError,
    },
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// Arrays did not fit each other.
    #[error("internal error in a task (please report it): {0}")]
    Arrow(#[from] ArrowError),
    /// The schema registry has no answer.
    #[error(transparent)]
    Registry(#[from] SchemaRegistryError),
    /// A committed position cannot be read.
    #[error("the committed position of a task cannot be read: {0}")]
    Position(String),
}

impl From<CodecError> for TaskError {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Arrow(error) => TaskError::Arrow(error),
            CodecError::Registry(error) => TaskError::Registry(error),
        }
    }
}

impl From<UnsupportedType> for TaskError {
    fn from(unsupported: UnsupportedType) -> Self {
        TaskError::Arrow(unsupported.into())
    }
}

/// A record that failed, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// The source, step or sink on which it failed.
    pub node: String,
    /// Stable code.
    pub code: Code,
    /// What was wrong.
    pub message: String,
    /// The topic of the task's input record.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its sequence number in the epoch.
    pub seq: u32,
    /// What was done about it.
    pub on_error: OnError,
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RecordError { node, code, message, topic, partition, offset, .. } = self;
        write!(f, "error[{code}] in `{node}`, record {topic}/{partition} offset {offset}: {message}")
    }
}

/// What an epoch did.
#[derive(Debug, Default)]
pub struct Epoch {
    /// How many of the records it processed: all of them, unless it was stopped.
    pub processed: usize,
    /// What is to be written, in the order of (sequence number, rank).
    pub outputs: Vec<OutputRecord>,
    /// Records that were skipped or dead-lettered.
    pub errors: Vec<RecordError>,
    /// The error that stopped the epoch before record number `processed`.
    pub stopped: Option<RecordError>,
    /// Rows of the slots that were asked for.
    pub tapped: Vec<(usize, Batch)>,
    /// The largest event time of the records of sources.
    pub largest_time: Option<i64>,
    /// How long the models took.
    pub scored: Vec<Scored>,
}

/// What a `predict` step did in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scored {
    /// The step, by its position in the sub-topology.
    pub node: usize,
    /// Rows in.
    pub rows: u64,
    /// How long it took.
    pub took: Duration,
}

/// What a commit must hold, all of it or nothing.
#[derive(Debug)]
pub struct Commit {
    /// Per input, the next offset to read.
    pub offsets: Vec<i64>,
    /// Stream times; kept as the metadata of the committed offset.
    pub metadata: Vec<u8>,
    /// Changes of the stores.
    pub changelog: Changelog,
}

/// Key and value of an entry of a store.
pub type StoreEntry = (Vec<u8>, Vec<u8>);

/// Rows that have waited, by node and its input.
type Waited = BTreeMap<(usize, usize), Batch>;

/// How many rows went through a step.
#[derive(Clone, Debug, Default)]
pub struct NodeCounters {
    /// Rows in.
    pub rows_in: u64,
    /// Rows out, all outputs.
    pub rows_out: u64,
    /// Rows dropped or late, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Errors of rows.
    pub errors: u64,
}

impl NodeCounters {
    /// Adds what another task, or another epoch, has counted.
    pub fn add(&mut self, counted: &NodeCounters) {
        self.rows_in += counted.rows_in;
        self.rows_out += counted.rows_out;
        self.errors += counted.errors;
        for (reason, rows) in &counted.dropped {
            *self.dropped.entry(*reason).or_default() += rows;
        }
    }
}

/// Reads the records of an input.
enum InputReader {
    Source { decoder: Box<SourceDecoder>, source: Arc<Source>, ahead: Option<Ahead> },
    Repartition { codec: RowCodec, columns: SchemaRef, kind: Kind },
}

/// Records that were decoded for their event times and are yet to be processed.
struct Ahead {
    offsets: Vec<i64>,
    decoded: Decoded,
}

impl Ahead {
    /// What became of these records, if they are some of those, one after the other.
    fn of(&self, records: &[&Record]) -> Option<Decoded> {
        let from = self.offsets.binary_search(&records.first()?.offset).ok()?;
        let to = from + records.len();
        let offsets = self.offsets.get(from..to)?;
        let same = offsets.iter().zip(records).all(|(offset, record)| *offset == record.offset);
        same.then(|| self.decoded.part(from..to))
    }
}

/// A running task.
pub struct Task {
    sub: Arc<SubTopology>,
    partition: i32,
    state: TaskState,
    readers: Vec<InputReader>,
    operators: Vec<Box<dyn Operator>>,
    /// Per node, its stores in `state`.
    stores: Vec<Vec<StoreId>>,
    /// Of which the nodes look rows up.
    globals: GlobalStates,
    writers: Vec<OutputWriter>,
    offsets: Vec<i64>,
    counters: Vec<NodeCounters>,
    taps: Vec<usize>,
    /// The rows that wait for the commit, by node and its input.
    waiting: BTreeMap<(usize, usize), Waiting>,
}

/// An error of a row, before it is known what it does to the record.
struct Failure {
    seq: u32,
    node: String,
    code: Code,
    message: String,
    on_error: OnError,
    dead_letter: Option<Arc<str>>,
}

/// What one pass over the graph gave.
#[derive(Default)]
struct Pass {
    outputs: Vec<OutputRecord>,
    failures: Vec<Failure>,
    tapped: Vec<(usize, Batch)>,
    counters: Vec<NodeCounters>,
    largest_time: Option<i64>,
    scored: Vec<Scored>,
    /// Rows that are to wait, by node and its input.
    put_off: Vec<((usize, usize), Batch)>,
}

impl Task {
    /// The stores that a task of `sub` has.
    pub fn store_specs(sub: &SubTopology) -> Vec<StoreSpec> {
        sub.stores.iter().map(|store| store.spec.clone()).collect()
    }

    /// Opens a task over restored `state`; `offsets` and `metadata` are what was committed last, the latter with each input
    /// for which there is some. Without `fold` every update of a table is sent, also where an epoch's updates of a key could be folded into one.
    pub fn open(
        sub: Arc<SubTopology>,
        partition: i32,
        state: TaskState,
        offsets: Vec<i64>,
        metadata: &[&[u8]],
        globals: GlobalStates,
        fold: bool,
    ) -> Result<Self, TaskError> {
        let mut readers = Vec::with_capacity(sub.inputs.len());
        for input in &sub.inputs {
            readers.push(match &input.origin {
                Origin::Source(source) => InputReader::of_source(source)?,
                Origin::Repartition { schema, .. } => InputReader::Repartition {
                    codec: RowCodec::new(&schema.columns)?,
                    columns: schema.columns.clone(),
                    kind: schema.kind,
                },
            });
        }
        let mut operators = Vec::with_capacity(sub.nodes.len());
        for node in &sub.nodes {
            let wanted = Wanted { fold: fold && node.wanted.fold, ..node.wanted };
            let built = node.definition.build(&wanted);
            operators.push(built.map_err(|error| TaskError::Operator { node: node.name.clone(), error })?);
        }
        let stores =
            sub.nodes.iter().map(|node| node.stores.iter().map(|store| StoreId(*store)).collect()).collect();
        let writers = sub.outputs.iter().map(OutputWriter::new).collect::<Result<_, _>>()?;
        let counters = vec![NodeCounters::default(); sub.nodes.len()];
        let mut task = Task {
            sub,
            partition,
            state,
            readers,
            operators,
            stores,
            globals,
            writers,
            offsets,
            counters,
            taps: Vec::new(),
            waiting: BTreeMap::new(),
        };
        let mut positions: BTreeMap<String, i64> = BTreeMap::new();
        for bytes in metadata.iter().filter(|bytes| !bytes.is_empty()) {
            let times = position::decode(bytes).map_err(|error| TaskError::Position(error.to_string()))?;
            for (node, time) in times {
                // Time only goes on.
                let known = positions.entry(node).or_insert(time);
                *known = time.max(*known);
            }
        }
        task.reset(&positions);
        Ok(task)
    }

    /// Lets rows wait, where they may, until [`send_waiting`](Self::send_waiting) is called, before each commit.
    pub fn let_rows_wait(&mut self) -> Result<(), TaskError> {
        for (number, node) in self.sub.nodes.iter().enumerate().filter(|(_, node)| node.waits) {
            for (input, slot) in node.inputs.iter().enumerate() {
                if let Some(schema) = self.sub.slot_schema(*slot) {
                    self.waiting.insert((number, input), Waiting::new(schema)?);
                }
            }
        }
        Ok(())
    }

    /// The largest stream time of its operators.
    pub fn stream_time(&self) -> Option<i64> {
        self.operators.iter().filter_map(|operator| operator.position()).max()
    }

    /// What it is called in logs and on disk: the sub-topology and the partition number.
    pub fn name(&self) -> String {
        format!("{}-{}", self.sub.name, self.partition)
    }

    /// The partition number.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The sub-topology.
    pub fn sub_topology(&self) -> &Arc<SubTopology> {
        &self.sub
    }

    /// How many rows went through each step.
    pub fn counters(&self) -> &[NodeCounters] {
        &self.counters
    }

    /// Per input, the next offset to read.
    pub fn offsets(&self) -> &[i64] {
        &self.offsets
    }

    /// Asks for the rows of these slots with every epoch.
    pub fn tap(&mut self, slots: Vec<usize>) {
        self.taps = slots;
    }

    fn positions(&self) -> BTreeMap<String, i64> {
        let nodes = self.sub.nodes.iter().zip(&self.operators);
        nodes.filter_map(|(node, operator)| Some((node.label(), operator.position()?))).collect()
    }

    fn reset(&mut self, positions: &BTreeMap<String, i64>) {
        for (node, operator) in self.sub.nodes.iter().zip(&mut self.operators) {
            operator.reset(positions.get(&node.label()).copied());
        }
    }

    /// Processes `records`, each with the number of its input, in this order. `now` is the wall clock.
    ///
    /// A record whose error must stop the process ends the epoch before it: everything before it is processed, and
    /// nothing of it.
    pub fn process(&mut self, records: Vec<(usize, Record)>, now: i64) -> Result<Epoch, TaskError> {
        let before = self.positions();
        let pass = self.pass(&records, now)?;
        let fatal =
            pass.failures.iter().filter(|failure| failure.on_error == OnError::Fail).min_by_key(|f| f.seq);
        let Some(fatal) = fatal else {
            return self.finish(records, pass, None);
        };
        let stopped = self.record_error(fatal, &records);
        self.state.abort_epoch();
        self.reset(&before);
        let mut records = records;
        records.truncate(fatal.seq as usize);
        let pass = if records.is_empty() { Pass::default() } else { self.pass(&records, now)? };
        self.finish(records, pass, Some(stopped))
    }

    /// Stream time goes on without a record. An error that must stop the process leaves it where it was.
    pub fn advance(&mut self, to: Advance) -> Result<Epoch, TaskError> {
        let before = self.positions();
        let pass = self.run(self.no_rows(), Some(to), Waited::new())?;
        let fatal = pass.failures.iter().find(|failure| failure.on_error == OnError::Fail);
        let Some(fatal) = fatal else {
            return self.finish(Vec::new(), pass, None);
        };
        let stopped = self.record_error(fatal, &[]);
        self.state.abort_epoch();
        self.reset(&before);
        self.finish(Vec::new(), Pass::default(), Some(stopped))
    }

    /// Processes the rows that wait; `None`: there are none.
    pub fn send_waiting(&mut self) -> Result<Option<Epoch>, TaskError> {
        let mut sent = Waited::new();
        for (place, waiting) in &mut self.waiting {
            if !waiting.is_empty() {
                sent.insert(*place, waiting.take()?);
            }
        }
        if sent.is_empty() {
            return Ok(None);
        }
        let pass = self.run(self.no_rows(), None, sent)?;
        if let Some(Failure { node, message, .. }) = pass.failures.first() {
            let error = OperatorError::Internal(format!("a row that has waited failed: {message}"));
            return Err(TaskError::Operator { node: node.clone(), error });
        }
        self.finish(Vec::new(), pass, None).map(Some)
    }

    fn no_rows(&self) -> Vec<Option<Batch>> {
        (0..self.sub.slots).map(|_| None).collect()
    }

    fn finish(
        &mut self,
        records: Vec<(usize, Record)>,
        mut pass: Pass,
        stopped: Option<RecordError>,
    ) -> Result<Epoch, TaskError> {
        self.state.end_epoch();
        for (place, rows) in pass.put_off.drain(..) {
            if let Some(waiting) = self.waiting.get_mut(&place) {
                waiting.push(rows)?;
            }
        }
        let processed = records.len();
        for (input, record) in &records {
            if let Some(offset) = self.offsets.get_mut(*input) {
                *offset = (*offset).max(record.offset + 1);
            }
        }
        for (reader, next) in self.readers.iter_mut().zip(&self.offsets) {
            if let InputReader::Source { ahead, .. } = reader
                && ahead.as_ref().is_some_and(|ahead| ahead.offsets.last().is_none_or(|last| last < next))
            {
                *ahead = None;
            }
        }
        for (total, counted) in self.counters.iter_mut().zip(pass.counters) {
            total.add(&counted);
        }
        pass.failures.sort_by_key(|failure| failure.seq);
        let errors: Vec<RecordError> =
            pass.failures.iter().map(|failure| self.record_error(failure, &records)).collect();
        for (failure, error) in pass.failures.iter().zip(&errors) {
            if let (Some(topic), Some((_, record))) =
                (&failure.dead_letter, records.get(failure.seq as usize))
            {
                let known =
                    |written: &OutputRecord| written.rank == Rank::DeadLetter && written.is_letter_of(error);
                if !pass.outputs.iter().any(known) {
                    pass.outputs.push(dead_letter(topic.clone(), record, error));
                }
            }
        }
        pass.outputs.sort_by_key(|output| (output.seq, output.rank));
        Ok(Epoch {
            processed,
            outputs: pass.outputs,
            errors,
            stopped,
            tapped: pass.tapped,
            largest_time: pass.largest_time,
            scored: pass.scored,
        })
    }

    fn record_error(&self, failure: &Failure, records: &[(usize, Record)]) -> RecordError {
        let (input, offset) =
            records.get(failure.seq as usize).map_or((0, -1), |(input, record)| (*input, record.offset));
        RecordError {
            node: failure.node.clone(),
            code: failure.code,
            message: failure.message.clone(),
            topic: self.sub.inputs.get(input).map(|input| input.topic.clone()).unwrap_or_default(),
            partition: self.partition,
            offset,
            seq: failure.seq,
            on_error: failure.on_error,
        }
    }

    /// Decodes the records and runs the graph over them.
    fn pass(&mut self, records: &[(usize, Record)], now: i64) -> Result<Pass, TaskError> {
        let mut slots = self.no_rows();
        let mut failures = Vec::new();
        let mut largest_time = None;
        for (number, (input, reader)) in self.sub.inputs.iter().zip(&mut self.readers).enumerate() {
            let own = records.iter().enumerate().filter(|(_, (input, _))| *input == number);
            let (seqs, own): (Vec<u32>, Vec<&Record>) =
                own.map(|(seq, (_, record))| (seq as u32, record)).unzip();
            if own.is_empty() {
                continue;
            }
            let (batch, errors) = reader.read(&own, self.partition, &seqs, now)?;
            if let Origin::Source(_) = input.origin {
                largest_time = largest_time.max(batch.time.iter().max().copied());
            }
            if let Some(slot) = slots.get_mut(input.slot) {
                *slot = Some(batch);
            }
            failures.extend(errors.into_iter().map(|(seq, code, message)| {
                let (on_error, topic) = match &input.origin {
                    Origin::Source(source) => (source.on_error, source.dead_letter.as_str()),
                    Origin::Repartition { .. } => (OnError::Fail, ""),
                };
                Failure::new(seq, &input.node, code, message, on_error, topic)
            }));
        }
        let mut pass = self.run(slots, None, Waited::new())?;
        failures.append(&mut pass.failures);
        Ok(Pass { failures, largest_time, ..pass })
    }

    /// Runs every node over what is in its slots and what of its inputs has waited, then lets stream time go on.
    fn run(
        &mut self,
        mut slots: Vec<Option<Batch>>,
        advance: Option<Advance>,
        mut waited: Waited,
    ) -> Result<Pass, TaskError> {
        let mut pass = Pass::default();
        // The whole pass sees a global table as it is now.
        let read = |table| Some((table, self.globals.read(table)?));
        let globals: BTreeMap<usize, _> = self.sub.globals().into_iter().filter_map(read).collect();
        for (number, node) in self.sub.nodes.iter().enumerate() {
            let mut counted = NodeCounters::default();
            let filled = |slot: &usize| {
                slots.get(*slot).is_some_and(|batch| batch.as_ref().is_some_and(|b| !b.is_empty()))
            };
            let has_waited = waited.keys().any(|(node, _)| *node == number);
            if advance.is_none() && !has_waited && !node.inputs.iter().any(filled) {
                pass.counters.push(counted);
                continue;
            }
            let mut inputs: Vec<Batch> = node
                .inputs
                .iter()
                .map(|slot| match slots.get(*slot) {
                    Some(Some(batch)) => batch.clone(),
                    _ => Batch::empty(&self.sub.slot_columns(*slot)),
                })
                .collect();
            for place in self.waiting.keys().filter(|(node, _)| *node == number) {
                if let Some(input) = inputs.get_mut(place.1) {
                    let none = Batch::empty(&input.rows.schema());
                    let arrived = std::mem::replace(input, waited.remove(place).unwrap_or(none));
                    if !arrived.is_empty() {
                        pass.put_off.push((*place, arrived));
                    }
                }
            }
            counted.rows_in = inputs.iter().map(|batch| batch.len() as u64).sum();
            let (Some(operator), Some(stores)) = (self.operators.get_mut(number), self.stores.get(number))
            else {
                continue;
            };
            let global = node.global.and_then(|table| globals.get(&table)).map(|state| &**state);
            let mut context =
                Context { borrowed: &node.borrowed, global, ..Context::new(&mut self.state, stores) };
            let failed = |error| TaskError::Operator { node: node.name.clone(), error };
            let mut outputs = Vec::new();
            if counted.rows_in > 0 {
                let start = (node.op == PREDICT).then(Instant::now);
                outputs = operator.process(&inputs, &mut context).map_err(failed)?;
                pass.scored.extend(start.map(|start| Scored {
                    node: number,
                    rows: counted.rows_in,
                    took: start.elapsed(),
                }));
            }
            if let Some(to) = advance {
                let caused = operator.advance(to, 0, &mut context).map_err(failed)?;
                outputs = concatenated(node, outputs, caused)?;
            }
            counted.errors = context.errors.len() as u64;
            counted.dropped = std::mem::take(&mut context.dropped);
            pass.failures.extend(context.errors.into_iter().map(|error| {
                // A record that is not to blame is no dead letter.
                let on_error = match node.on_error {
                    OnError::DeadLetter if !error.of_record => OnError::Skip,
                    on_error => on_error,
                };
                Failure::new(error.seq, &node.name, error.code, error.message, on_error, &node.dead_letter)
            }));
            for (output, batch) in node.outputs.iter().zip(outputs) {
                counted.rows_out += batch.len() as u64;
                if let Some(slot) = slots.get_mut(output.slot) {
                    *slot = Some(batch);
                }
            }
            pass.counters.push(counted);
        }
        for writer in &mut self.writers {
            if let Some(Some(batch)) = slots.get(writer.slot()) {
                let errors = writer.write(batch, &mut pass.outputs)?;
                pass.failures.extend(errors.into_iter().map(|(seq, code, message)| {
                    Failure::new(seq, writer.node(), code, message, OnError::Fail, "")
                }));
            }
        }
        for slot in &self.taps {
            if let Some(Some(batch)) = slots.get_mut(*slot).map(Option::take) {
                pass.tapped.push((*slot, batch));
            }
        }
        Ok(pass)
    }

    /// What a commit must hold now.
    pub fn commit(&mut self) -> Commit {
        Commit {
            offsets: self.offsets.clone(),
            metadata: position::encode(&self.positions()),
            changelog: self.state.changelog(),
        }
    }

    /// Some of what the next [`commit`](Self::commit) would hold for the changelogs; to be written in its transaction. It is worth
    /// it for some `writes`.
    pub fn changelog_so_far(&mut self, writes: usize) -> Changelog {
        self.state.changelog_so_far(writes)
    }

    /// The commit succeeded: its writes become the stores' content. `changelog_offsets` are the next offsets of the changelog
    /// partitions after it, per store.
    pub fn committed(&mut self, commit: Commit, changelog_offsets: Vec<i64>) -> Result<(), TaskError> {
        let inputs = self.sub.inputs.iter().zip(&commit.offsets);
        let input_offsets =
            inputs.map(|(input, offset)| ((input.topic.clone(), self.partition), *offset)).collect();
        self.state.promote(Checkpoint { input_offsets, changelog_offsets, metadata: commit.metadata })?;
        Ok(())
    }

    /// Every entry of a store, in key order.
    pub fn store_content(&mut self, store: StoreId) -> Result<Vec<StoreEntry>, StateError> {
        let all = self.state.scan(store, &[], &[0xff; 64])?;
        all.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
    }

    /// The event times of records of an input, as far as they can be told: a record that cannot be read, which fails when it is
    /// processed, has the time of its record. What is decoded for that is not decoded again when it is processed, as long as it
    /// is not asked for the times of others of this input.
    pub fn event_times(&mut self, input: usize, records: &[Record]) -> Result<Vec<i64>, TaskError> {
        let mut times: Vec<i64> = records.iter().map(|record| record.timestamp).collect();
        let reader = self.readers.get_mut(input);
        let Some(InputReader::Source { decoder, ahead, .. }) = reader else { return Ok(times) };
        let decoded = decoder.decode(records, self.partition)?;
        for (index, time) in decoded.rows.iter().zip(&decoded.time) {
            if let Some(slot) = times.get_mut(*index) {
                *slot = *time;
            }
        }
        *ahead = Some(Ahead { offsets: records.iter().map(|record| record.offset).collect(), decoded });
        Ok(times)
    }

    /// Bytes of what was decoded for [event times](Self::event_times) and not processed.
    pub fn decoded_bytes(&self) -> usize {
        let ahead = self.readers.iter().filter_map(|reader| match reader {
            InputReader::Source { ahead, .. } => ahead.as_ref(),
            InputReader::Repartition { .. } => None,
        });
        ahead.map(|ahead| ahead.decoded.columns.get_array_memory_size()).sum()
    }

    /// Per store, the next offset of its changelog that is not contained in it.
    pub fn changelog_offsets(&self) -> &[i64] {
        &self.state.checkpoint().changelog_offsets
    }

    /// How many bytes a crash would lose now, about, and the changelogs would have to bring back.
    pub fn unflushed_bytes(&self) -> usize {
        self.state.unflushed_bytes()
    }

    /// Lets what was committed become durable, without waiting for it.
    pub fn flush_in_background(&mut self) -> Result<(), StateError> {
        self.state.flush_in_background()
    }

    /// Makes what was committed durable, and ends. What is not committed is dropped.
    pub fn close(self) -> Result<(), StateError> {
        self.state.close()
    }

    /// Bytes of writes that are not committed, and of rows that wait.
    pub fn staged_bytes(&self) -> usize {
        let waiting = self.waiting.values().map(Waiting::bytes);
        self.state.staged_bytes() + waiting.sum::<usize>()
    }

    /// Bytes of what the stores keep in memory of what is committed.
    pub fn cache_bytes(&self) -> usize {
        self.state.cache_bytes()
    }
}

impl Failure {
    fn new(seq: u32, node: &str, code: Code, message: String, on_error: OnError, dead_letter: &str) -> Self {
        let dead_letter = (on_error == OnError::DeadLetter).then(|| Arc::from(dead_letter));
        Failure { seq, node: node.to_owned(), code, message, on_error, dead_letter }
    }
}

/// Per output, the rows of `first` and then those of `second`.
fn concatenated(
    node: &crate::plan::PlanNode,
    first: Vec<Batch>,
    second: Vec<Batch>,
) -> Result<Vec<Batch>, TaskError> {
    if first.is_empty() || second.is_empty() {
        return Ok(if first.is_empty() { second } else { first });
    }
    let pairs = node.outputs.iter().zip(first.into_iter().zip(second));
    pairs.map(|(output, (a, b))| Ok(Batch::interleave(&output.schema.columns, &[a, b])?)).collect()
}

impl InputReader {
    fn of_source(source: &Arc<Source>) -> Result<Self, UnsupportedType> {
        let decoder = Box::new(SourceDecoder::new(&source.layout, &source.topic)?);
        Ok(InputReader::Source { decoder, source: source.clone(), ahead: None })
    }

    /// The rows of `records`, whose sequence numbers are `seqs`, and the errors of those that have none.
    #[expect(
        clippy::type_complexity,
        reason = "the same triple as everywhere: sequence number, code, message"
    )]
    fn read(
        &mut self,
        records: &[&Record],
        partition: i32,
        seqs: &[u32],
        now: i64,
    ) -> Result<(Batch, Vec<(u32, Code, String)>), TaskError> {
        let seq_of = |index: usize| seqs.get(index).copied().unwrap_or_default();
        match self {
            InputReader::Source { decoder, source, ahead } => {
                let decoded = match ahead.as_ref().and_then(|ahead| ahead.of(records)) {
                    Some(decoded) => decoded,
                    None => decoder.decode(records, partition)?,
                };
                let mut errors: Vec<_> = decoded
                    .errors
                    .into_iter()
                    .map(|(index, code, message)| (seq_of(index), code, message))
                    .collect();
                let batch = Batch {
                    rows: decoded.columns,
                    time: decoded.time,
                    seq: decoded.rows.iter().map(|index| seq_of(*index)).collect(),
                    kind: None,
                    null_value: decoded.null_value,
                };
                let Some(max_ahead) = source.max_ahead else { return Ok((batch, errors)) };
                let limit = now.saturating_add(max_ahead);
                let ahead: Vec<bool> = batch.time.iter().map(|time| *time > limit).collect();
                if ahead.iter().any(|ahead| *ahead) {
                    for ((time, seq), _) in
                        batch.time.iter().zip(&batch.seq).zip(&ahead).filter(|(_, ahead)| **ahead)
                    {
                        let message = format!(
                            "event time {time} is {} ms ahead of the wall clock; `max-ahead` allows {max_ahead} ms",
                            time - now
                        );
                        errors.push((*seq, Code::RecordTime, message));
                    }
                    let keep = ahead.iter().map(|ahead| Some(!ahead)).collect();
                    return Ok((batch.filter(&keep)?, errors));
                }
                Ok((batch, errors))
            }
            InputReader::Repartition { codec, columns, kind: Kind::Table } => {
                let mut decoder: RowDecoder = codec.decoder()?;
                let mut batch = Batch::empty(columns);
                let mut kinds = Vec::with_capacity(records.len());
                let mut errors = Vec::new();
                for (record, seq) in records.iter().zip(seqs) {
                    if let Err(message) = output::read_change(record, &mut decoder, &mut kinds) {
                        errors.push((*seq, Code::RecordDecode, message));
                    }
                    batch.time.resize(kinds.len(), record.timestamp);
                    batch.seq.resize(kinds.len(), *seq);
                }
                batch.rows = decoder.finish()?;
                batch.kind = Some(kinds);
                Ok((batch, errors))
            }
            InputReader::Repartition { codec, columns, kind: Kind::Stream } => {
                let mut decoder: RowDecoder = codec.decoder()?;
                let mut batch = Batch::empty(columns);
                let mut nulls = Vec::with_capacity(records.len());
                let mut errors = Vec::new();
                for (record, seq) in records.iter().zip(seqs) {
                    match output::read_repartitioned(record, &mut decoder) {
                        Ok(is_null) => {
                            batch.time.push(record.timestamp);
                            batch.seq.push(*seq);
                            nulls.push(is_null);
                        }
                        Err(message) => errors.push((*seq, Code::RecordDecode, message)),
                    }
                }
                batch.rows = decoder.finish()?;
                batch.null_value = nulls.iter().any(|null| *null).then(|| nulls.into());
                Ok((batch, errors))
            }
        }
    }
}

#[cfg(test)]
mod tests;
