//! Tests of topologies in Rust programs: in memory, without a broker.
//!
//! [`run_tests`] runs the `[[tests]]` of a file, and [`TestDriver`] is what Kafka Streams calls a `TopologyTestDriver`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::cli::files::{self, Checked};
use crate::engine::codec::line::Line;
use crate::engine::driver::cases::run_test;
use crate::engine::driver::pipe::{LineReader, line_duration};
use crate::engine::driver::written::LineWriter;
use crate::engine::driver::{Driver, DriverOptions};
use crate::engine::plan::Plan;
use crate::engine::topology::{Tests, Topology, render};
use crate::operators::registry::Registry;

/// What is wrong, in lines for people; `unwrap` shows them as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct TestError(String);

impl fmt::Display for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for TestError {}

fn said(error: impl fmt::Display) -> TestError {
    TestError(error.to_string())
}

/// Runs the `[[tests]]` of a topology file, each twice: as it is, and with a restart after every input.
///
/// # Errors
/// What is wrong with the file, or what each test that failed expected and found.
pub fn run_tests(registry: &Registry, file: impl AsRef<Path>) -> Result<(), TestError> {
    let (topology, plan) = read(registry, file.as_ref())?;
    let mut failures = Vec::new();
    for test in &topology.tests {
        for (restart, how) in [(false, ""), (true, " (with restarts)")] {
            if let Err(differences) = run_test(&topology, &plan, test, restart).map_err(said)? {
                failures.push(format!("{}{how}:\n{differences}", test.name));
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(TestError(failures.join("\n"))) }
}

fn read(registry: &Registry, file: &Path) -> Result<(Arc<Topology>, Arc<Plan>), TestError> {
    let Checked { topology, findings, text } = files::read(file, registry, Tests::Read).map_err(said)?;
    let name = file.display().to_string();
    let topology = topology.ok_or_else(|| TestError(render(&findings, &name, &text, false)))?;
    let plan = Plan::new(&topology).map_err(said)?;
    Ok((Arc::new(topology), Arc::new(plan)))
}

/// A topology in memory: records in, records out.
pub struct TestDriver {
    driver: Driver,
    reader: LineReader,
    writer: LineWriter,
}

impl TestDriver {
    /// Reads a topology file. Each of its topics has one partition.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn new(registry: &Registry, file: impl AsRef<Path>) -> Result<Self, TestError> {
        let (topology, plan) = read(registry, file.as_ref())?;
        let reader = LineReader::new(&topology).map_err(said)?;
        let writer = LineWriter::new(&topology, false).map_err(said)?;
        let driver = Driver::new(topology, plan, DriverOptions::default()).map_err(said)?;
        Ok(TestDriver { driver, reader, writer })
    }

    /// Does what a line of `millstream pipe` says, commits, and gives the records that sinks have written for it, as such lines. A
    /// line is a record, `{"topic": …, "key": {…}, "value": {…}, "timestamp": …}`, or else `{"advance": "5m"}` (stream time),
    /// `{"wall-clock": "5m"}` or `{"restart": true}`.
    ///
    /// # Errors
    /// What is wrong with the line, or the error of the record.
    pub fn pipe(&mut self, line: &Json) -> Result<Vec<Json>, TestError> {
        let text = line.to_string();
        let duration = |text: &str| line_duration(text).map_err(said);
        let ran = match Line::parse(&text).map_err(said)? {
            Line::Record(record) => {
                let record = self.reader.record(&record).map_err(said)?;
                self.driver.run(vec![record])
            }
            Line::Advance(by) => self.driver.advance(duration(&by)?),
            Line::WallClock(by) => self.driver.wall_clock(duration(&by)?),
            Line::Restart => {
                self.driver.restart().map_err(said)?;
                return Ok(Vec::new());
            }
        };
        let ran = ran.map_err(said)?;
        if let Some((_, error)) = ran.stopped {
            return Err(said(error));
        }
        self.driver.commit().map_err(said)?;
        let lines = self.writer.lines(&ran.written).map_err(said)?;
        lines.iter().map(|line| serde_json::from_slice(line).map_err(said)).collect()
    }
}
