//! `dev`: records of files through a whole application in memory, what sinks write into files, and an account of it all.
//!
//! The wall clock of the run is the records' own time, so that a replay of last year behaves as last year did. Records must
//! come in that order, as [`feed::Merge`](crate::feed::Merge) gives them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_operators::diagnostic::Code;
use millstream_operators::schema::Kind;
use serde_json::Value as Json;

use super::written::LineWriter;
use super::{Driver, DriverError, DriverOptions, Ran, SourceRecord, Written};
use crate::plan::{Plan, TABLE};
use crate::record::Record;
use crate::task::{NodeCounters, RecordError};
use crate::topology::{SinkTopic, Topology};

/// How many rows of a table the account shows.
pub const LAST_ROWS: usize = 20;

/// How many output files are open at once; topics chosen for each row can be many.
const OPEN_FILES: usize = 128;

/// How the records go through.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// How the application runs.
    pub driver: DriverOptions,
    /// Largest number of records of a batch.
    pub max_batch_rows: usize,
    /// The folder that gets a file `<topic>.jsonl` for each topic; `None`: nothing is kept.
    pub out: Option<PathBuf>,
}

/// What ends `dev`.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A record failed, and `on-error` of its node is `fail`.
    #[error("{0}")]
    Stopped(Box<RecordError>),
    /// The driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// An output file cannot be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A run of `dev`.
pub struct Dev {
    driver: Driver,
    plan: Arc<Plan>,
    writer: LineWriter,
    outputs: Outputs,
    max_batch_rows: usize,
    batch: Vec<SourceRecord>,
    /// How far the records of a batch may lie apart, so that no clock is early.
    reach: i64,
    account: Account,
}

/// What happened in a run.
#[derive(Debug, Default)]
pub struct Account {
    /// Records per source, in the order of the file.
    pub read: Vec<u64>,
    /// Event time of the first and of the last record.
    pub times: Option<(i64, i64)>,
    /// Records per sink (by position; `None` for dead letters) and topic.
    pub written: BTreeMap<(Option<usize>, Arc<str>), u64>,
    /// Records that failed, by node and code, with the first message.
    pub errors: BTreeMap<(String, &'static str), (u64, String)>,
    /// Per table sink, by position, its last rows.
    pub tables: BTreeMap<usize, LastRows>,
    /// Rows through the steps, in the order in which they run; what a step does before a topic of its own has a line to itself.
    pub steps: Vec<(String, NodeCounters)>,
}

/// The rows of a table that changed last.
#[derive(Debug, Default)]
pub struct LastRows {
    /// By key, when it changed and the row as a line.
    rows: HashMap<Vec<u8>, (u64, Vec<u8>)>,
    /// The keys by when they changed.
    changed: BTreeMap<u64, Vec<u8>>,
    changes: u64,
    /// Whether there were more rows than are kept.
    pub more: bool,
}

impl LastRows {
    fn change(&mut self, key: &[u8], row: Option<Vec<u8>>) {
        self.changes += 1;
        if let Some((before, _)) = self.rows.remove(key) {
            self.changed.remove(&before);
        }
        let Some(row) = row else { return };
        self.rows.insert(key.to_vec(), (self.changes, row));
        self.changed.insert(self.changes, key.to_vec());
        if self.rows.len() > LAST_ROWS
            && let Some((_, oldest)) = self.changed.pop_first()
        {
            self.rows.remove(&oldest);
            self.more = true;
        }
    }

    /// The rows by key, as keys and values by column name.
    pub fn rows(&self) -> Vec<(Json, Json)> {
        let mut rows: Vec<(&Vec<u8>, &Vec<u8>)> =
            self.rows.iter().map(|(key, (_, row))| (key, row)).collect();
        rows.sort();
        let parts = rows.into_iter().filter_map(|(_, row)| {
            let mut row: Json = serde_json::from_slice(row).ok()?;
            Some((row.get_mut("key")?.take(), row.get_mut("value")?.take()))
        });
        parts.collect()
    }
}

impl Dev {
    /// Starts a run with empty stores and empty output files; what an earlier run of this topology left is replaced.
    ///
    /// # Errors
    /// If the state directory is in use or another's, or the output folder cannot be written.
    pub fn new(topology: &Arc<Topology>, plan: Arc<Plan>, options: DevOptions) -> Result<Self, DevError> {
        let driver = Driver::new(topology.clone(), plan.clone(), options.driver.clone())?;
        let mut outputs = Outputs { folder: options.out, open: HashMap::new(), known: BTreeSet::new() };
        for sink in &topology.sinks {
            if let SinkTopic::Fixed(topic) = &sink.topic {
                outputs.file(topic)?;
            }
        }
        let reach =
            topology.sources.iter().flat_map(|source| [source.max_ahead, source.idle_after]).flatten().min();
        let account = Account { read: vec![0; topology.sources.len()], ..Account::default() };
        Ok(Dev {
            writer: LineWriter::new(topology, options.driver.partitions > 1).map_err(DriverError::from)?,
            driver,
            plan,
            outputs,
            max_batch_rows: options.max_batch_rows.max(1),
            batch: Vec::new(),
            reach: reach.unwrap_or(i64::MAX),
            account,
        })
    }

    /// Takes the next record of a source, given by its position; says whether a batch was processed.
    ///
    /// # Errors
    /// If a record fails and its node says `fail`, or the run fails.
    pub fn push(&mut self, source: usize, record: Record) -> Result<bool, DevError> {
        let time = record.timestamp;
        let first = self.batch.first().map_or(time, |first| first.record.timestamp);
        let too_far = time.saturating_sub(first) > self.reach;
        if too_far {
            self.process()?;
        }
        if let Some(read) = self.account.read.get_mut(source) {
            *read += 1;
        }
        let (start, _) = self.account.times.unwrap_or((time, time));
        self.account.times = Some((start, time));
        self.batch.push(SourceRecord { source, partition: None, record });
        let full = self.batch.len() >= self.max_batch_rows;
        if full {
            self.process()?;
        }
        Ok(full || too_far)
    }

    /// Processes the records that wait for a batch to fill.
    ///
    /// # Errors
    /// As [`Dev::push`].
    pub fn process(&mut self) -> Result<(), DevError> {
        let Some(first) = self.batch.first() else { return Ok(()) };
        let ahead = first.record.timestamp.saturating_sub(self.driver.now());
        if ahead > 0 {
            let ran = self.driver.wall_clock(ahead)?;
            self.take_over(ran)?;
        }
        let ran = self.driver.run(std::mem::take(&mut self.batch))?;
        self.take_over(ran)
    }

    /// Commits what was processed, and makes the output files complete up to here.
    ///
    /// # Errors
    /// If the state or a file cannot be written.
    pub fn commit(&mut self) -> Result<(), DevError> {
        self.driver.commit()?;
        self.outputs.flush()
    }

    /// Processes the rest, with `until_end` closes windows and sends what is held back, and commits.
    ///
    /// # Errors
    /// As [`Dev::push`].
    pub fn end(&mut self, until_end: bool) -> Result<(), DevError> {
        self.process()?;
        if until_end {
            let ran = self.driver.finish()?;
            self.take_over(ran)?;
        }
        self.commit()
    }

    /// What has happened so far.
    pub fn account(&mut self) -> &Account {
        let nodes = self.plan.sub_topologies.iter().flat_map(|sub| &sub.nodes);
        let stages = nodes.map(|node| (node.op, node.is_stage));
        let all = stages.chain(self.plan.globals.iter().map(|_| (TABLE, false)));
        let named =
            all.zip(self.driver.counters()).map(|((op, is_stage), (name, counters))| match is_stage {
                true => (format!("{name} ({op})"), counters),
                false => (name, counters),
            });
        self.account.steps = named.collect();
        &self.account
    }

    /// How many records were read, and the event time of the last.
    pub fn progress(&self) -> (u64, Option<i64>) {
        (self.account.read.iter().sum(), self.account.times.map(|(_, last)| last))
    }

    fn take_over(&mut self, ran: Ran) -> Result<(), DevError> {
        let Ran { mut written, errors, stopped, .. } = ran;
        for record in &written {
            *self.account.written.entry((record.sink, record.topic.clone())).or_default() += 1;
        }
        for error in errors {
            let of_kind = self.account.errors.entry((error.node, error.code.number()));
            of_kind.or_insert_with(|| (0, error.message)).0 += 1;
        }
        if self.outputs.folder.is_none() {
            written.retain(|record| table_of(record).is_some());
        }
        let lines = self.writer.lines(&written).map_err(DriverError::from)?;
        for (record, line) in written.iter().zip(lines) {
            self.outputs.write(&record.topic, &line)?;
            if let Some(sink) = table_of(record) {
                let key = record.record.key.as_deref().unwrap_or_default();
                let row = record.record.value.is_some().then_some(line);
                self.account.tables.entry(sink).or_default().change(key, row);
            }
        }
        match stopped {
            None => Ok(()),
            Some((_, error)) => Err(DevError::Stopped(Box::new(error))),
        }
    }
}

/// The sink, if the record is a change of a table.
fn table_of(written: &Written) -> Option<usize> {
    written.sink.filter(|_| written.kind == Kind::Table)
}

/// The files of topics.
struct Outputs {
    folder: Option<PathBuf>,
    open: HashMap<String, BufWriter<File>>,
    /// Topics whose files belong to this run.
    known: BTreeSet<String>,
}

impl Outputs {
    fn write(&mut self, topic: &str, line: &[u8]) -> Result<(), DevError> {
        let Some(file) = self.file(topic)? else { return Ok(()) };
        let result = file.write_all(line);
        result.map_err(|source| self.error(topic, source))
    }

    /// The file of a topic. What an earlier run left in it is overwritten.
    fn file(&mut self, topic: &str) -> Result<Option<&mut BufWriter<File>>, DevError> {
        let Some(folder) = &self.folder else { return Ok(None) };
        if !self.open.contains_key(topic) {
            let path = file_of(folder, topic);
            let io = |source| DevError::Io { path: path.clone(), source };
            let file = if self.known.contains(topic) {
                OpenOptions::new().append(true).open(&path).map_err(io)?
            } else {
                fs::create_dir_all(folder).map_err(io)?;
                File::create(&path).map_err(io)?
            };
            if self.open.len() >= OPEN_FILES {
                self.flush()?;
                self.open.clear();
            }
            self.known.insert(topic.to_owned());
            self.open.insert(topic.to_owned(), BufWriter::new(file));
        }
        Ok(self.open.get_mut(topic))
    }

    fn flush(&mut self) -> Result<(), DevError> {
        let failed =
            self.open.iter_mut().find_map(|(topic, file)| Some((topic.clone(), file.flush().err()?)));
        failed.map_or(Ok(()), |(topic, source)| Err(self.error(&topic, source)))
    }

    fn error(&self, topic: &str, source: io::Error) -> DevError {
        DevError::Io { path: file_of(self.folder.as_deref().unwrap_or(Path::new("")), topic), source }
    }
}

/// Where `dev` writes the records of a topic.
pub fn file_of(folder: &Path, topic: &str) -> PathBuf {
    folder.join(format!("{topic}.jsonl"))
}

impl DevError {
    /// The stable code, if the error has one.
    pub fn code(&self) -> Option<Code> {
        match self {
            DevError::Stopped(error) => Some(error.code),
            DevError::Driver(error) => error.code(),
            DevError::Io { .. } => None,
        }
    }
}
