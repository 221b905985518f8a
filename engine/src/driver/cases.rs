//! `test`: runs the `[[tests]]` of a topology.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Schema as ArrowSchema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use millstream_operators::batch::RowKind;
use millstream_operators::diagnostic::Code;
use millstream_operators::schema::{Kind, Schema};
use serde_json::Value as Json;

use super::written::LineWriter;
use super::{Driver, DriverError, DriverOptions, Ran, SourceRecord};
use crate::codec::by_name::{RecordBuilder, RowWriter, read_column};
use crate::codec::decode::SourceDecoder;
use crate::codec::layout::SourceLayout;
use crate::codec::line::Part;
use crate::plan::Plan;
use crate::record::{Header, Record};
use crate::task::{RecordError, TaskError};
use crate::topology::{
    Expected, ExpectedLetter, OnError, OutputRef, Target, Test, TestInput, TestPart, TestRecord, Topology,
};

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
    let expected = test.expect.iter().map(|expected| &expected.from);
    let mut targets: Vec<Target> = expected.chain(&test.none).cloned().collect();
    targets.sort();
    targets.dedup();
    let taps: Vec<OutputRef> = targets
        .iter()
        .filter_map(|target| match target {
            Target::Output(output) => Some(output.clone()),
            Target::Sink(_) | Target::DeadLetters(_) => None,
        })
        .collect();
    driver.tap(&taps)?;
    let mut run = Run {
        topology,
        rows: BTreeMap::new(),
        taps,
        sinks: LineWriter::new(topology, false)?,
        set_aside: Vec::new(),
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
    Ok(run.judge(test, &targets).map_err(|differences| run.with_set_aside(differences)))
}

fn source_record(topology: &Topology, record: &TestRecord, timestamp: i64) -> Result<SourceRecord, String> {
    let position = topology.sources.iter().position(|source| source.name == record.to);
    let (position, source) = position
        .and_then(|position| Some((position, topology.sources.get(position)?)))
        .ok_or_else(|| format!("there is no source `{}`", record.to))?;
    let mut builder = RecordBuilder::new(&source.layout).map_err(|error| error.to_string())?;
    let object = |part: &TestPart| match part {
        TestPart::Columns(columns) => Json::Object(columns.iter().cloned().collect()).to_string(),
        TestPart::Null | TestPart::Bytes(_) => String::new(),
    };
    let (key, value) = (object(&record.key), object(&record.value));
    fn said<'t>(part: &TestPart, object: &'t str) -> Part<'t> {
        match part {
            TestPart::Null => Part::Null,
            TestPart::Columns(_) => Part::columns(object),
            TestPart::Bytes(bytes) => Part::Bytes(bytes.clone()),
        }
    }
    let key =
        builder.key(&said(&record.key, &key)).map_err(|fault| format!("the key does not fit: {fault}"))?;
    let value = builder
        .value(&said(&record.value, &value))
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
    letter: Option<Letter>,
}

/// What a dead letter says besides its columns.
struct Letter {
    code: String,
    message: String,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

struct Run<'a> {
    topology: &'a Topology,
    rows: BTreeMap<Target, Vec<Row>>,
    taps: Vec<OutputRef>,
    sinks: LineWriter,
    /// Records that were skipped or dead-lettered.
    set_aside: Vec<RecordError>,
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
                        letter: None,
                    });
                }
            }
        }
        for written in &ran.written {
            let sink = written.sink.and_then(|sink| self.topology.sinks.get(sink));
            if let (Some(sink), Some(rows)) = (sink, self.sinks.row(written)?) {
                let is_delete = written.record.value.is_none();
                let row = Row { rows, row: 0, time: written.record.timestamp, is_delete, letter: None };
                self.rows.entry(Target::Sink(sink.name.clone())).or_default().push(row);
            }
            if written.sink.is_none() {
                let (node, row) = self.letter(&written.record)?;
                self.rows.entry(Target::DeadLetters(node)).or_default().push(row);
            }
        }
        self.set_aside.extend(ran.errors);
        self.stopped = ran.stopped.map(|(_, error)| error);
        Ok(())
    }

    /// The node that a dead letter is of, and the letter as a row of its source, as far as it can be read.
    fn letter(&self, record: &Record) -> Result<(String, Row), TaskError> {
        let header = |name: &str| {
            let name = format!("millstream.error.{name}");
            let found = record.headers.iter().rev().find(|header| header.name == name);
            let value = found.and_then(|header| header.value.as_deref()).unwrap_or_default();
            String::from_utf8_lossy(value).into_owned()
        };
        let node = header("node");
        let mut rows = RecordBatch::new_empty(Arc::new(ArrowSchema::empty()));
        if let Some(source) = self.topology.letters_of(&node) {
            // Neither headers nor an event time keep the columns from being compared.
            let layout = SourceLayout {
                headers: Vec::new(),
                metadata: Vec::new(),
                time: None,
                ..source.layout.clone()
            };
            let key_only = Record { value: None, ..record.clone() };
            for record in [record, &key_only] {
                let decoded = SourceDecoder::new(&layout, "")?.decode(&[record], 0)?;
                if rows.num_rows() == 0 {
                    rows = decoded.columns;
                }
            }
        }
        let letter = Letter {
            code: header("code"),
            message: header("message"),
            key: record.key.clone(),
            value: record.value.clone(),
        };
        let is_delete = record.value.is_none();
        Ok((node, Row { rows, row: 0, time: record.timestamp, is_delete, letter: Some(letter) }))
    }

    /// What differs, and which records were set aside: often that is why.
    fn with_set_aside(&self, mut differences: String) -> String {
        if !self.set_aside.is_empty() {
            if !differences.ends_with('\n') {
                differences.push('\n');
            }
            differences.push_str("records that were set aside:\n");
        }
        for error in &self.set_aside {
            let how = if error.on_error == OnError::Skip { "skipped" } else { "dead letter" };
            let _ = writeln!(differences, "  {how}: {error}");
        }
        differences
    }

    fn schema(&self, target: &Target) -> Option<Schema> {
        match target {
            Target::Output(output) => self.topology.output(output).cloned(),
            Target::Sink(sink) => self.topology.sink(sink).map(|sink| sink.layout.schema.clone()),
            Target::DeadLetters(node) => Some(match self.topology.letters_of(node) {
                Some(source) => source.layout.schema.clone(),
                None => Schema::new(Kind::Stream, Vec::new(), Vec::new()),
            }),
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
            let Some(schema) = self.schema(target) else { continue };
            let partial = test.partial && !test.none.contains(target);
            self.compare(&schema, &target.to_string(), &expected, actual, partial, &mut report);
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

/// In what a row differs from what is expected.
fn difference(schema: &Schema, expected: &Expected, actual: &Row) -> Option<String> {
    if expected.delete != actual.is_delete {
        let word = |is_delete| if is_delete { "a delete" } else { "a row with a value" };
        return Some(format!("expected {}, found {}", word(expected.delete), word(actual.is_delete)));
    }
    if let Some(letter) = &actual.letter
        && let Some(difference) = letter_difference(&expected.letter, letter)
    {
        return Some(difference);
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

/// In what a dead letter differs, its columns aside.
fn letter_difference(expected: &ExpectedLetter, actual: &Letter) -> Option<String> {
    if let Some(code) = expected.code.filter(|code| code.number() != actual.code) {
        return Some(format!("expected {code}, found {}: {}", actual.code, actual.message));
    }
    if let Some(part) = expected.message.as_ref().filter(|part| !actual.message.contains(*part)) {
        return Some(format!("expected a message with {part:?}, found {:?}", actual.message));
    }
    for (name, wanted, found) in
        [("key", &expected.key, &actual.key), ("value", &expected.value, &actual.value)]
    {
        if let Some(wanted) = wanted.as_ref().filter(|wanted| Some(*wanted) != found.as_ref()) {
            let found = found.as_ref().map_or("null".to_owned(), |bytes| BASE64.encode(bytes));
            return Some(format!("expected {name}-bytes {}, found {found}", BASE64.encode(wanted)));
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
    let Some(letter) = &row.letter else { return shown_columns(schema, row) };
    let bytes =
        |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or("null".to_owned(), |bytes| BASE64.encode(bytes));
    let raw = || format!("key-bytes {} value-bytes {}", bytes(&letter.key), bytes(&letter.value));
    // A letter whose value cannot be read shows its bytes.
    let columns = match letter.code == Code::RecordDecode.number() || row.rows.num_rows() == 0 {
        true => raw(),
        false => shown_columns(schema, row),
    };
    format!("{} {:?} {columns}", letter.code, letter.message)
}

fn shown_columns(schema: &Schema, row: &Row) -> String {
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
