//! `test`: runs the `[[tests]]` of a topology.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use millstream_operators::batch::RowKind;
use millstream_operators::schema::Schema;
use serde_json::Value as Json;

use super::written::LineWriter;
use super::{Driver, DriverError, DriverOptions, Ran, SourceRecord};
use crate::codec::by_name::{RecordBuilder, RowWriter, read_column};
use crate::codec::line::Part;
use crate::plan::Plan;
use crate::record::{Header, Record};
use crate::task::{RecordError, TaskError};
use crate::topology::{Expected, OutputRef, Target, Test, TestInput, TestRecord, Topology};

/// How a test ended: nothing, or what differs, in lines for people.
pub type Outcome = Result<(), String>;

/// Runs one test in memory; with `restart` the process restarts between every two inputs.
pub fn run_test(
    topology: &Arc<Topology>,
    plan: &Arc<Plan>,
    test: &Test,
    restart: bool,
) -> Result<Outcome, DriverError> {
    let mut driver = Driver::new(topology.clone(), plan.clone(), DriverOptions::default())?;
    let mut targets: Vec<Target> = test.expect.iter().map(|expected| expected.from.clone()).collect();
    targets.sort();
    targets.dedup();
    let taps: Vec<OutputRef> = targets
        .iter()
        .filter_map(|target| match target {
            Target::Output(output) => Some(output.clone()),
            Target::Sink(_) => None,
        })
        .collect();
    driver.tap(&taps)?;
    let mut run = Run {
        topology,
        rows: BTreeMap::new(),
        taps,
        sinks: LineWriter::new(topology, false)?,
        stopped: None,
    };
    let mut timestamp = 0;
    for input in &test.inputs {
        let ran = match input {
            TestInput::Record(record) => {
                timestamp = record.at.unwrap_or(timestamp);
                match source_record(topology, record, timestamp) {
                    Ok(record) => driver.run(vec![record])?,
                    Err(message) => return Ok(Err(message)),
                }
            }
            TestInput::Advance(by) => driver.advance(*by)?,
            TestInput::WallClock(by) => driver.wall_clock(*by)?,
            TestInput::Restart => {
                driver.restart()?;
                continue;
            }
        };
        run.collect(ran)?;
        if run.stopped.is_some() {
            break;
        }
        driver.commit()?;
        if restart {
            driver.restart()?;
        }
    }
    Ok(run.judge(test, &targets))
}

fn source_record(topology: &Topology, record: &TestRecord, timestamp: i64) -> Result<SourceRecord, String> {
    let position = topology.sources.iter().position(|source| source.name == record.to);
    let (position, source) = position
        .and_then(|position| Some((position, topology.sources.get(position)?)))
        .ok_or_else(|| format!("there is no source `{}`", record.to))?;
    let mut builder = RecordBuilder::new(&source.layout).map_err(|error| error.to_string())?;
    let object = |columns: &Option<Vec<(String, Json)>>| match columns {
        Some(columns) => Json::Object(columns.iter().cloned().collect()).to_string(),
        None => "null".to_owned(),
    };
    let (key, value) = (object(&record.key), object(&record.value));
    let part = |is_null: bool, text| if is_null { Part::Null } else { Part::columns(text) };
    let key = builder
        .key(&part(record.key.is_none(), &key))
        .map_err(|fault| format!("the key does not fit: {fault}"))?;
    let value = builder
        .value(&part(record.value.is_none(), &value))
        .map_err(|fault| format!("the value does not fit: {fault}"))?;
    let headers = record
        .headers
        .iter()
        .map(|(name, text)| Header { name: name.clone(), value: Some(text.clone().into_bytes()) })
        .collect();
    Ok(SourceRecord {
        source: position,
        partition: None,
        record: Record { key, value, timestamp, headers, offset: 0 },
    })
}

/// A row that came out.
struct Row {
    rows: RecordBatch,
    row: usize,
    time: i64,
    is_delete: bool,
}

struct Run<'a> {
    topology: &'a Topology,
    rows: BTreeMap<Target, Vec<Row>>,
    taps: Vec<OutputRef>,
    sinks: LineWriter,
    stopped: Option<RecordError>,
}

impl Run<'_> {
    fn collect(&mut self, ran: Ran) -> Result<(), TaskError> {
        for tapped in ran.tapped {
            let Some(output) = self.taps.get(tapped.tap) else { continue };
            let rows = self.rows.entry(Target::Output(output.clone())).or_default();
            for row in 0..tapped.batch.len() {
                let kind = tapped.batch.kind(row);
                if kind != RowKind::UpdateBefore {
                    rows.push(Row {
                        rows: tapped.batch.rows.clone(),
                        row,
                        time: tapped.batch.time.get(row).copied().unwrap_or_default(),
                        is_delete: kind == RowKind::Delete || tapped.batch.is_null_value(row),
                    });
                }
            }
        }
        for written in &ran.written {
            let sink = written.sink.and_then(|sink| self.topology.sinks.get(sink));
            if let (Some(sink), Some(rows)) = (sink, self.sinks.row(written)?) {
                let is_delete = written.record.value.is_none();
                let row = Row { rows, row: 0, time: written.record.timestamp, is_delete };
                self.rows.entry(Target::Sink(sink.name.clone())).or_default().push(row);
            }
        }
        self.stopped = ran.stopped.map(|(_, error)| error);
        Ok(())
    }

    fn schema(&self, target: &Target) -> Option<&Schema> {
        match target {
            Target::Output(output) => self.topology.output(output),
            Target::Sink(sink) => self.topology.sink(sink).map(|sink| &sink.layout.schema),
        }
    }

    fn judge(&self, test: &Test, targets: &[Target]) -> Outcome {
        match (&self.stopped, test.error) {
            (Some(error), Some(code)) if error.code == code => {}
            (Some(error), Some(code)) => {
                return Err(format!("expected to stop with {code}, but stopped with {error}"));
            }
            (Some(error), None) => return Err(format!("stopped: {error}")),
            (None, Some(code)) => {
                return Err(format!(
                    "expected to stop with {code} ({}), but all records passed",
                    code.title()
                ));
            }
            (None, None) => {}
        }
        let mut report = String::new();
        for target in targets {
            let expected: Vec<&Expected> =
                test.expect.iter().filter(|expected| expected.from == *target).collect();
            let actual = self.rows.get(target).map(Vec::as_slice).unwrap_or_default();
            let (Some(schema), name) = (self.schema(target), name(target)) else { continue };
            self.compare(schema, name, &expected, actual, test.partial, &mut report);
        }
        if report.is_empty() { Ok(()) } else { Err(report) }
    }

    fn compare(
        &self,
        schema: &Schema,
        name: &str,
        expected: &[&Expected],
        actual: &[Row],
        partial: bool,
        report: &mut String,
    ) {
        let mut differences = Vec::new();
        let mut next = 0;
        for (number, wanted) in expected.iter().enumerate() {
            let rest = actual.get(next..).unwrap_or_default();
            let found = if partial {
                rest.iter().position(|row| difference(schema, wanted, row).is_none())
            } else {
                rest.first().filter(|row| difference(schema, wanted, row).is_none()).map(|_| 0)
            };
            match found {
                Some(position) => next += position + 1,
                None => {
                    let why = match (partial, rest.first()) {
                        (false, Some(row)) => difference(schema, wanted, row).unwrap_or_default(),
                        _ => "no such row".to_owned(),
                    };
                    differences.push(format!("row {} of `{name}`: {why}", number + 1));
                    next += usize::from(!partial && !rest.is_empty());
                }
            }
        }
        if !partial && actual.len() > expected.len() {
            differences.push(format!("`{name}` gave {} rows, expected {}", actual.len(), expected.len()));
        }
        if differences.is_empty() {
            return;
        }
        for difference in differences {
            let _ = writeln!(report, "{difference}");
        }
        let _ = writeln!(report, "rows of `{name}`:{}", if actual.is_empty() { " none" } else { "" });
        for (number, row) in actual.iter().enumerate() {
            let _ = writeln!(report, "  {}: {}", number + 1, shown(schema, row));
        }
    }
}

fn name(target: &Target) -> &str {
    match target {
        Target::Output(output) => &output.node,
        Target::Sink(sink) => sink,
    }
}

/// In what a row differs from what is expected.
fn difference(schema: &Schema, expected: &Expected, actual: &Row) -> Option<String> {
    if expected.delete != actual.is_delete {
        let word = |is_delete| if is_delete { "a delete" } else { "a row with a value" };
        return Some(format!("expected {}, found {}", word(expected.delete), word(actual.is_delete)));
    }
    if let Some(at) = expected.at.filter(|at| *at != actual.time) {
        return Some(format!("expected time {at}, found {}", actual.time));
    }
    let column = |name: &str| {
        let index = schema.index_of(name)?;
        Some((
            schema.columns.fields().get(index)?.data_type().clone(),
            actual.rows.columns().get(index)?.clone(),
        ))
    };
    for (name, value) in expected.key.iter().chain(&expected.value) {
        let Some((data_type, array)) = column(name) else {
            return Some(format!("there is no column `{name}`"));
        };
        match read_column(&data_type, &value.to_string()) {
            Err(fault) => return Some(format!("the expected `{name}` does not fit its type: {fault}")),
            Ok(wanted) if same(&wanted, &array, actual.row) => {}
            Ok(_) => {
                return Some(format!(
                    "expected {name} = {value}, found {}",
                    shown_value(name, schema, actual)
                ));
            }
        }
    }
    for name in &expected.null {
        match column(name) {
            Some((_, array)) if array.is_null(actual.row) => {}
            _ => return Some(format!("expected {name} = null, found {}", shown_value(name, schema, actual))),
        }
    }
    None
}

/// Whether the only value of `wanted` is that of `array` at `row`; floats may differ in their last digits.
fn same(wanted: &dyn Array, array: &dyn Array, row: usize) -> bool {
    if wanted.is_null(0) || array.is_null(row) {
        return wanted.is_null(0) && array.is_null(row);
    }
    match array.data_type() {
        DataType::Float64 => {
            let (a, b) = (
                wanted.as_primitive::<Float64Type>().value(0),
                array.as_primitive::<Float64Type>().value(row),
            );
            a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
        }
        DataType::Float32 => {
            let (a, b) = (
                wanted.as_primitive::<Float32Type>().value(0),
                array.as_primitive::<Float32Type>().value(row),
            );
            a == b || (a - b).abs() <= 1e-5 * a.abs().max(b.abs())
        }
        _ => wanted.to_data() == array.slice(row, 1).to_data(),
    }
}

fn shown_value(name: &str, schema: &Schema, row: &Row) -> String {
    let writer = RowWriter::new(schema);
    let Ok(rows) = writer.rows(&row.rows) else { return String::new() };
    let (key, value) = (rows.key(row.row), rows.value(row.row));
    key.get(name).or_else(|| value.get(name)).map_or_else(|| "null".to_owned(), Json::to_string)
}

fn shown(schema: &Schema, row: &Row) -> String {
    let writer = RowWriter::new(schema);
    let Ok(rows) = writer.rows(&row.rows) else { return String::new() };
    let mut text = Vec::new();
    if schema.key > 0 {
        text.extend_from_slice(b"key ");
        rows.write_key(row.row, &mut text);
        text.push(b' ');
    }
    if row.is_delete {
        text.extend_from_slice(b"delete");
    } else {
        rows.write_value(row.row, &mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}
