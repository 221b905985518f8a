//! Nexmark's queries, the topologies of `topology-examples/nexmark`, over generated events: what they end with has to be what DuckDB
//! computes from the same files with the SQL beside each topology.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use millstream::engine::topology::{SinkTopic, Topology, read};
use millstream::operators::schema::Kind;
use millstream_topology_examples::nexmark::{Config, Event, Generator, TOPICS};
use serde_json::Value as Json;

use crate::support::{Folder, examples, millstream, with_input};

/// How many differing rows are shown.
const SHOWN: usize = 3;

/// Rows, and how many times each is there.
type Rows = BTreeMap<String, usize>;

/// How a query is run.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By `dev`, with so many partitions; it takes records in the order of time.
    Dev(&'static str),
    /// By `pipe`, with restarts, in the order in which the events come.
    Pipe,
}

struct Query {
    name: String,
    file: PathBuf,
    sql: String,
    topology: Topology,
}

impl Query {
    fn all() -> Vec<Query> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(examples().join("nexmark"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|file| file.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        files.sort();
        assert_eq!(files.len(), 21, "{files:?}");
        files.into_iter().map(Query::open).collect()
    }

    fn open(file: PathBuf) -> Query {
        let text = std::fs::read_to_string(&file).unwrap();
        let (topology, findings) = read(&text, file.parent().unwrap(), &|_| None);
        let topology = topology.unwrap_or_else(|| panic!("{}: {findings:?}", file.display()));
        let sql = std::fs::read_to_string(file.with_extension("sql")).unwrap();
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        Query { name, file, sql, topology }
    }

    fn reads(&self, topic: &str) -> bool {
        self.topology.sources.iter().any(|source| source.topic == topic)
    }

    /// What is left of the records of the sink, given in the order in which they were written: of a table the last row of each key.
    fn rows(&self, records: impl Iterator<Item = Json>) -> Rows {
        let [sink] = &self.topology.sinks[..] else { panic!("{} has more than one sink", self.name) };
        assert!(matches!(&sink.topic, SinkTopic::Fixed(topic) if *topic == self.name));
        let is_table = sink.layout.schema.kind == Kind::Table;
        let mut rows = BTreeMap::new();
        for (number, mut record) in records.enumerate() {
            let (key, value) = (record["key"].take(), record["value"].take());
            let place = if is_table { key.to_string() } else { number.to_string() };
            rows.insert(place, (key, value));
        }
        let columns = |json: Json| match json {
            Json::Object(columns) => columns.into_iter(),
            other => panic!("{}: {other} is no object", self.name),
        };
        let left = rows.into_values().filter(|(_, value)| !value.is_null());
        counted(left.map(|(key, value)| columns(key).chain(columns(value)).collect()))
    }

    fn dev(&self, events: &Path, partitions: &str) -> Rows {
        let folder = Folder::new();
        let out = folder.at("out");
        let feeds: Vec<String> = TOPICS
            .into_iter()
            .filter(|topic| self.reads(topic))
            .map(|topic| format!("{topic}={}", events.join(format!("{topic}.jsonl")).display()))
            .collect();
        let mut arguments = vec!["dev", self.file.to_str().unwrap(), "--out", &out, "--until-end"];
        arguments.extend(["--partitions", partitions]);
        for feed in &feeds {
            arguments.extend(["--feed", feed]);
        }
        millstream(&arguments).expect_code(0);
        let text = folder.read(&format!("out/{}.jsonl", self.name));
        self.rows(text.lines().map(|line| serde_json::from_str(line).unwrap()))
    }

    /// Events are records with the bytes that they have on Kafka.
    fn pipe(&self, events: &[Event]) -> Rows {
        let mut input = String::new();
        for event in events.iter().filter(|event| self.reads(event.topic())) {
            let (topic, time) = (event.topic(), event.time());
            let key = BASE64_STANDARD.encode(event.key().1.to_be_bytes());
            let value = BASE64_STANDARD.encode(event.json());
            let _ = writeln!(
                input,
                r#"{{"topic":"{topic}","timestamp":{time},"key-bytes":"{key}","value-bytes":"{value}"}}"#
            );
        }
        let arguments = ["--partitions", "4", "--max-batch-rows", "500", "--restart-every", "7000"];
        let arguments = [&["pipe", self.file.to_str().unwrap(), "--until-end"][..], &arguments].concat();
        let ran = with_input(&arguments, &input).expect_code(0);
        self.rows(ran.lines().into_iter().filter(|line| line["topic"] == *self.name))
    }

    /// Through DuckDB.
    fn sql(&self, events: &Path) -> Rows {
        let tables = std::fs::read_to_string(examples().join("nexmark/events.sql")).unwrap();
        let folder = Folder::new();
        let script = folder.write("query.sql", format!("{tables}\n{}", self.sql));
        let duckdb = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/duckdb");
        let mut command = Command::new(duckdb);
        command.args(["-bail", "-jsonlines", "-f", &script]).current_dir(events).stdin(Stdio::null());
        let output = command.output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success() && stderr.is_empty(), "{}.sql: {stderr}", self.name);
        counted(
            stdout.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()),
        )
    }
}

/// Averages count to twelve digits, everything else as it is.
fn counted(rows: impl Iterator<Item = BTreeMap<String, Json>>) -> Rows {
    let mut counts = Rows::new();
    for mut row in rows {
        for value in row.values_mut().filter(|value| value.is_f64()) {
            *value = format!("{:.11e}", value.as_f64().unwrap()).into();
        }
        *counts.entry(serde_json::to_string(&row).unwrap()).or_default() += 1;
    }
    counts
}

/// Says which rows only one side has; `None` if there are none.
fn difference(ours: &Rows, theirs: &Rows) -> Option<String> {
    let more = |these: &Rows, those: &Rows| -> Vec<(String, usize)> {
        let more = |(row, count): (&String, &usize)| {
            (row.clone(), count.saturating_sub(*those.get(row).unwrap_or(&0)))
        };
        these.iter().map(more).filter(|(_, count)| *count > 0).collect()
    };
    let sides = [("Millstream", more(ours, theirs)), ("DuckDB", more(theirs, ours))];
    let mut text = String::new();
    for (side, rows) in sides.iter().filter(|(_, rows)| !rows.is_empty()) {
        let count: usize = rows.iter().map(|(_, count)| count).sum();
        let _ = writeln!(text, "  {count} rows that only {side} has:");
        for (row, count) in rows.iter().take(SHOWN) {
            let _ = writeln!(text, "    {count} x {row}");
        }
    }
    (!text.is_empty()).then_some(text)
}

fn write(events: &[Event]) -> Folder {
    let folder = Folder::new();
    for topic in TOPICS {
        let lines = events.iter().filter(|event| event.topic() == topic).map(|event| event.line() + "\n");
        folder.write(&format!("{topic}.jsonl"), lines.collect::<String>());
    }
    folder
}

/// Compares what each way gives with what SQL gives, for each query; prints all that differ.
#[track_caller]
fn all_agree(config: Config, count: usize, ways: &[Way]) {
    let events: Vec<Event> = Generator::new(config).take(count).collect();
    let folder = write(&events);
    let mut text = String::new();
    for query in Query::all() {
        let theirs = query.sql(folder.path());
        assert!(!theirs.is_empty(), "{} gives no row", query.name);
        for way in ways {
            let ours = match way {
                Way::Dev(partitions) => query.dev(folder.path(), partitions),
                Way::Pipe => query.pipe(&events),
            };
            if let Some(difference) = difference(&ours, &theirs) {
                let _ = writeln!(text, "{}, {way:?}:\n{difference}", query.name);
            }
        }
    }
    assert!(text.is_empty(), "{config:?}, {count} events\n{text}");
}

#[test]
fn results_are_those_of_sql() {
    // A minute.
    let config = Config { delay: 2_000, ..Config::default() };
    all_agree(config, 30_000, &[Way::Dev("1"), Way::Dev("4")]);
}

#[test]
fn results_are_those_of_sql_over_hours_and_two_days() {
    // From half past six in the evening to ten past one in the night, a few events in each window.
    let start = Config::default().start + 18 * 3_600_000 + 1_800_000;
    let config = Config { seed: 7, start, delay: 3_000_000, ..Config::default() };
    all_agree(config, 8_000, &[Way::Dev("2")]);
}

#[test]
fn results_are_those_of_sql_when_events_come_out_of_order() {
    // Up to two seconds late, on both sides of midnight.
    let start = Config::default().start + 24 * 3_600_000 - 25_000;
    let config = Config { seed: 11, start, delay: 2_000, group: 1_000 };
    all_agree(config, 25_000, &[Way::Pipe]);
}

#[test]
fn rows_that_differ_are_shown() {
    let rows = |rows: &[(&str, usize)]| rows.iter().map(|(row, count)| ((*row).to_owned(), *count)).collect();
    assert_eq!(difference(&rows(&[("a", 1), ("b", 2)]), &rows(&[("a", 1), ("b", 2)])), None);
    let text = difference(&rows(&[("a", 3), ("b", 2)]), &rows(&[("a", 1), ("c", 1), ("b", 2)])).unwrap();
    assert_eq!(
        text,
        "  2 rows that only Millstream has:\n    2 x a\n  1 rows that only DuckDB has:\n    1 x c\n"
    );
}
