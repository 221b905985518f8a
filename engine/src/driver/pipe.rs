//! `pipe`: JSON lines in, JSON lines out.

use std::io::{self, BufRead, Write};
use std::sync::Arc;

use millstream_operators::config::parse_duration;
use millstream_operators::diagnostic::{Code, did_you_mean};

use super::written::LineWriter;
use super::{Driver, DriverError, DriverOptions, Ran, SourceRecord};
use crate::codec::by_name::RecordBuilder;
use crate::codec::line::{Line, Part, RecordLine};
use crate::plan::Plan;
use crate::record::Record;
use crate::task::RecordError;
use crate::topology::Topology;

/// How lines go through.
#[derive(Clone, Debug)]
pub struct PipeOptions {
    /// How the application runs.
    pub driver: DriverOptions,
    /// Lines of a batch.
    pub max_batch_rows: usize,
    /// Restart after this many records.
    pub restart_every: Option<usize>,
    /// Whether the end of the input closes windows.
    pub until_end: bool,
}

/// What ends `pipe`.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// A line is not what `pipe` reads.
    #[error("error[{}] in line {line}: {message}", Code::PipeInput)]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// What was found and what was expected.
        message: String,
    },
    /// A record failed, and `on-error` of its node is `fail`.
    #[error("line {line}: {error}")]
    Stopped {
        /// The line's number, from 1.
        line: usize,
        /// What failed.
        error: Box<RecordError>,
    },
    /// The driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Input or output failed.
    #[error("cannot read or write: {0}")]
    Io(#[from] io::Error),
}

/// Reads lines from `input` and writes what they cause to `output`. Records that are skipped or dead-lettered are told to
/// `report`.
pub fn pipe(
    topology: Arc<Topology>,
    plan: Arc<Plan>,
    options: &PipeOptions,
    input: impl BufRead,
    output: &mut dyn Write,
    report: &mut dyn FnMut(&RecordError),
) -> Result<(), PipeError> {
    let driver = Driver::new(topology.clone(), plan, options.driver.clone())?;
    let writer = LineWriter::new(&topology, options.driver.partitions > 1).map_err(DriverError::from)?;
    let reader = LineReader::new(&topology)?;
    let mut pipe = Pipe {
        driver,
        reader,
        writer,
        output,
        report,
        batch: Vec::new(),
        lines: Vec::new(),
        since_restart: 0,
    };
    for (index, text) in input.lines().enumerate() {
        let number = index + 1;
        let text = match text {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(PipeError::Line {
                    line: number,
                    message: "the line is not UTF-8 text".to_owned(),
                });
            }
            text => text?,
        };
        if text.trim().is_empty() {
            continue;
        }
        let line = Line::parse(&text);
        let line = line.map_err(|fault| PipeError::Line { line: number, message: fault.to_string() })?;
        pipe.take(line, number, options)?;
    }
    pipe.flush()?;
    if options.until_end {
        let ran = pipe.driver.finish()?;
        pipe.put_out(ran, &[])?;
    }
    pipe.driver.commit()?;
    pipe.output.flush()?;
    Ok(())
}

struct Pipe<'a> {
    driver: Driver,
    reader: LineReader,
    writer: LineWriter,
    output: &'a mut dyn Write,
    report: &'a mut dyn FnMut(&RecordError),
    batch: Vec<SourceRecord>,
    /// Per record of the batch, its line.
    lines: Vec<usize>,
    since_restart: usize,
}

impl Pipe<'_> {
    fn take(&mut self, line: Line<'_>, number: usize, options: &PipeOptions) -> Result<(), PipeError> {
        let wrong = |message: String| PipeError::Line { line: number, message };
        let duration = |text: &str| line_duration(text).map_err(wrong);
        match line {
            Line::Record(record) => {
                let record = self.reader.record(&record).map_err(wrong)?;
                self.batch.push(record);
                self.lines.push(number);
                if self.batch.len() >= options.max_batch_rows {
                    self.flush()?;
                }
                self.since_restart += 1;
                if options.restart_every == Some(self.since_restart) {
                    self.since_restart = 0;
                    self.flush()?;
                    self.driver.restart()?;
                }
            }
            Line::WallClock(by) => {
                let by = duration(&by)?;
                self.flush()?;
                let ran = self.driver.wall_clock(by)?;
                self.put_out(ran, &[number])?;
            }
            Line::Advance(by) => {
                let by = duration(&by)?;
                self.flush()?;
                let ran = self.driver.advance(by)?;
                self.put_out(ran, &[number])?;
            }
            Line::Restart => {
                self.flush()?;
                self.driver.restart()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), PipeError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines);
        let ran = self.driver.run(std::mem::take(&mut self.batch))?;
        self.put_out(ran, &lines)?;
        self.driver.commit()?;
        Ok(())
    }

    fn put_out(&mut self, ran: Ran, lines: &[usize]) -> Result<(), PipeError> {
        let lines_out = self.writer.lines(&ran.written).map_err(DriverError::from)?;
        self.output.write_all(&lines_out.concat())?;
        ran.errors.iter().for_each(&mut *self.report);
        match ran.stopped {
            None => Ok(()),
            Some((cause, error)) => {
                self.output.flush()?;
                let line = lines.get(cause).or(lines.last()).copied().unwrap_or_default();
                Err(PipeError::Stopped { line, error: Box::new(error) })
            }
        }
    }
}

/// The milliseconds of a line that moves time.
///
/// # Errors
/// If `text` is no duration.
pub fn line_duration(text: &str) -> Result<i64, String> {
    parse_duration(text).ok_or_else(|| format!("`{text}` is not a duration; write one as \"5m\" or \"10s\""))
}

/// Makes records of lines.
pub struct LineReader {
    sources: Vec<(String, RecordBuilder)>,
    last_timestamp: i64,
}

impl LineReader {
    /// For the sources of `topology`.
    pub fn new(topology: &Topology) -> Result<Self, DriverError> {
        let sources = topology.sources.iter().map(|source| {
            let builder = RecordBuilder::new(&source.layout).map_err(crate::task::TaskError::from)?;
            Ok((source.topic.clone(), builder))
        });
        Ok(LineReader { sources: sources.collect::<Result<_, DriverError>>()?, last_timestamp: 0 })
    }

    /// The record of a line; without a timestamp it gets that of the line before it.
    ///
    /// # Errors
    /// What does not fit the topology.
    pub fn record(&mut self, line: &RecordLine<'_>) -> Result<SourceRecord, String> {
        let position = match &line.topic {
            Some(topic) => self.sources.iter().position(|(name, _)| name == topic).ok_or_else(|| {
                let topics = self.sources.iter().map(|(name, _)| name.as_str());
                let help = did_you_mean(topic, topics.clone()).unwrap_or_else(|| {
                    format!("topics are {}", millstream_operators::diagnostic::listed(topics))
                });
                format!("no source reads topic `{topic}`; {help}")
            })?,
            None if self.sources.len() == 1 => 0,
            None => return Err("the line has no `topic`, and the topology has several sources".to_owned()),
        };
        let (_, builder) = self.sources.get_mut(position).ok_or("the topology has no source")?;
        let part = |what: &str, fault: crate::codec::Fault| format!("the {what} does not fit: {fault}");
        fn null<'p>(part: &Part<'p>) -> Part<'p> {
            if *part == Part::Absent { Part::Null } else { part.clone() }
        }
        let key = builder.key(&null(&line.key)).map_err(|fault| part("key", fault))?;
        let value = builder.value(&null(&line.value)).map_err(|fault| part("value", fault))?;
        self.last_timestamp = line.timestamp.unwrap_or(self.last_timestamp);
        Ok(SourceRecord {
            source: position,
            partition: line.partition,
            record: Record {
                key,
                value,
                timestamp: self.last_timestamp,
                headers: line.headers.clone(),
                offset: 0,
            },
        })
    }
}
