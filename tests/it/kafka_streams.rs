//! Operators mean what they mean in Kafka Streams: random topologies over random records give what its own
//! `TopologyTestDriver` gives (`tests/kafka-streams`), record by record. Where they differ on purpose is said in
//! docs/semantics.md.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use chrono::DateTime;
use millstream::engine::driver::{Driver, DriverOptions, SourceRecord, StateLocation};
use millstream::engine::plan::Plan;
use millstream::engine::record::Record;
use millstream::engine::topology;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRng, TestRunner};
use serde_json::{Value as Json, json};

use crate::kafka::java::Java;

/// One step after the other; what its parameters mean is said by the topologies of both sides.
#[derive(Clone, Copy, Debug)]
enum Step {
    Filter {
        least: i64,
    },
    Select {
        factor: i64,
    },
    Rekey {
        modulo: i64,
    },
    Branch {
        least: i64,
    },
    ToStream,
    ToTable,
    Aggregate {
        window: Option<Window>,
    },
    /// With the table of cards.
    JoinTable {
        kind: &'static str,
    },
    /// With the table of limits as of the payment's time. A scenario has one of them.
    JoinAsOf {
        kind: &'static str,
        history: i64,
        grace: i64,
    },
    /// With the global table of towns, under what the amount says.
    JoinGlobal {
        kind: &'static str,
        modulo: i64,
    },
    /// With the stream of refunds.
    JoinStream {
        kind: &'static str,
        before: i64,
        after: i64,
        grace: i64,
    },
    /// A table with that of shops, by foreign key. A scenario has one of them.
    JoinForeign {
        kind: &'static str,
        modulo: i64,
    },
    /// An aggregate over a table.
    Group {
        modulo: i64,
    },
    /// Without a time until windows close.
    Suppress {
        time: Option<i64>,
        most: Option<i64>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Window {
    shape: Shape,
    grace: i64,
    close: bool,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    /// As far apart as they are long: they are tumbling.
    Hopping {
        size: i64,
        every: i64,
    },
    Sliding {
        size: i64,
    },
    Session {
        gap: i64,
    },
}

/// A record of one of the topics, which have the same columns: streams of payments and refunds, tables of cards, limits, shops and
/// towns.
#[derive(Clone, Debug)]
struct Payment {
    to: usize,
    card: Option<u8>,
    /// No value, a value without an amount, or one with it.
    value: Option<Option<i64>>,
    timestamp: i64,
}

const TOPICS: [&str; 6] = ["payments", "cards", "refunds", "limits", "shops", "towns"];

/// Those that are streams; of the tables that of towns is global.
const STREAMS: [&str; 2] = ["payments", "refunds"];
const GLOBAL: &str = "towns";

#[derive(Clone, Debug)]
struct Scenario {
    steps: Vec<Step>,
    payments: Vec<Payment>,
}

/// How records are processed: so many at once, and perhaps everything begins anew after each time.
#[derive(Clone, Copy, Debug)]
struct How {
    batch: usize,
    restart: bool,
    partitions: u32,
    /// Whether the stores are on disk, with hardly any memory in front of it.
    spilled: bool,
}

const ONE_BY_ONE: How = How { batch: 1, restart: false, partitions: 1, spilled: false };

/// What a node gives.
#[derive(Clone, Copy, PartialEq)]
enum Given {
    Stream,
    Table,
    /// A stream whose keys have windows.
    Windowed,
    WindowedTable,
    /// One of windows that rows make, of which Kafka Streams does not say right what its rows replace.
    UnsureTable,
}

const TOTALS: &str = "columns = { rows = \"count(*)\", amount = \"sum(amount)\", least = \"min(amount)\", \
                      largest = \"max(amount)\" }";

impl Step {
    /// What it makes of that; `None`: it takes something else.
    fn after(self, given: Given) -> Option<Given> {
        use Given::{Stream, Table, UnsureTable, Windowed, WindowedTable};
        match (self, given) {
            (Step::Filter { .. } | Step::Select { .. }, given) => Some(given),
            (Step::Rekey { .. }, Stream | Windowed) => Some(Stream),
            (Step::Branch { .. }, Stream | Windowed) => Some(given),
            (Step::ToStream, Table) => Some(Stream),
            (Step::ToStream, WindowedTable | UnsureTable) => Some(Windowed),
            (Step::ToTable, Stream) => Some(Table),
            (Step::JoinTable { kind: "outer" }, Stream) => None,
            (Step::JoinTable { .. }, Stream | Table) => Some(given),
            (Step::JoinGlobal { .. }, Stream | Windowed) => Some(given),
            (Step::JoinStream { .. } | Step::JoinAsOf { .. }, Stream) => Some(Stream),
            (Step::JoinForeign { .. }, Table) => Some(Table),
            (Step::Aggregate { window: None }, Stream) => Some(Table),
            (Step::Aggregate { window: Some(Window { shape: Shape::Hopping { .. }, .. }) }, Stream) => {
                Some(WindowedTable)
            }
            (Step::Aggregate { window: Some(_) }, Stream) => Some(UnsureTable),
            (Step::Group { .. }, Table | WindowedTable) => Some(Table),
            (Step::Suppress { .. }, WindowedTable) => Some(WindowedTable),
            (Step::Suppress { time: Some(_), .. }, Table) => Some(Table),
            _ => None,
        }
    }

    /// Whether one record may cause several rows.
    fn gives_several(self) -> bool {
        match self {
            Step::Aggregate { window: Some(Window { shape, close, .. }) } => {
                close || !matches!(shape, Shape::Hopping { size, every } if size == every)
            }
            Step::JoinStream { .. }
            | Step::JoinForeign { .. }
            | Step::Suppress { .. }
            | Step::Group { .. } => true,
            Step::JoinAsOf { grace, .. } => grace > 0,
            _ => false,
        }
    }

    /// Whether it gives rows for which nothing has come any more. Kafka Streams may do so later than it could.
    fn waits(self) -> bool {
        matches!(self, Step::JoinStream { kind, .. } if kind != "inner")
    }

    /// Whether it may stand before one that waits: then rows come in the order of the records, with their times.
    fn keeps_times(self) -> bool {
        matches!(
            self,
            Step::Filter { .. }
                | Step::Select { .. }
                | Step::Rekey { .. }
                | Step::Branch { .. }
                | Step::JoinTable { .. }
                | Step::JoinGlobal { .. }
        )
    }

    /// Whether it may stand after one that waits: then nothing depends on when a row comes.
    fn is_stateless(self) -> bool {
        matches!(self, Step::Filter { .. } | Step::Select { .. } | Step::Rekey { .. })
    }

    /// Whether Kafka Streams fails on a row without key there.
    fn needs_keys(self) -> bool {
        matches!(self, Step::JoinAsOf { kind: "left", grace, .. } if grace > 0)
    }

    /// Which of the topics it reads besides.
    fn reads(self) -> Option<usize> {
        match self {
            Step::JoinTable { .. } => Some(1),
            Step::JoinStream { .. } => Some(2),
            Step::JoinAsOf { .. } => Some(3),
            Step::JoinForeign { .. } => Some(4),
            Step::JoinGlobal { .. } => Some(5),
            _ => None,
        }
    }

    fn json(self) -> Json {
        match self {
            Step::Filter { least } => json!({ "op": "filter", "least": least }),
            Step::Select { factor } => json!({ "op": "select", "factor": factor }),
            Step::Rekey { modulo } => json!({ "op": "rekey", "modulo": modulo }),
            Step::Branch { least } => json!({ "op": "branch", "least": least }),
            Step::ToStream => json!({ "op": "to-stream" }),
            Step::ToTable => json!({ "op": "to-table" }),
            Step::JoinTable { kind } => json!({ "op": "join-table", "kind": kind }),
            Step::JoinGlobal { kind, modulo } => {
                json!({ "op": "join-global", "kind": kind, "modulo": modulo })
            }
            Step::JoinAsOf { kind, history, grace } => {
                json!({ "op": "join-as-of", "kind": kind, "history": history, "grace": grace })
            }
            Step::JoinStream { kind, before, after, grace } => json!({
                "op": "join-stream", "kind": kind, "before": before, "after": after, "grace": grace,
            }),
            Step::Aggregate { window: None } => json!({ "op": "aggregate" }),
            Step::JoinForeign { kind, modulo } => {
                json!({ "op": "join-foreign", "kind": kind, "modulo": modulo })
            }
            Step::Group { modulo } => json!({ "op": "group", "modulo": modulo }),
            Step::Aggregate { window: Some(Window { shape, grace, close }) } => {
                let mut step = json!({ "op": "aggregate", "grace": grace, "close": close });
                match shape {
                    Shape::Hopping { size, every } => {
                        (step["hopping"], step["every"]) = (json!(size), json!(every))
                    }
                    Shape::Sliding { size } => step["sliding"] = json!(size),
                    Shape::Session { gap } => step["session"] = json!(gap),
                }
                step
            }
            Step::Suppress { time, most } => json!({ "op": "suppress", "time": time, "most": most }),
        }
    }

    /// Appends it to a topology, behind the node `from`; gives its own name.
    fn write(self, toml: &mut String, number: usize, from: &str) -> String {
        let name = format!("s{number}");
        let only = "columns = { amount = \"amount\" }";
        let text = match self {
            Step::Filter { least } => {
                format!("op = \"filter\"\nfrom = \"{from}\"\nwhere = \"amount >= {least}\"")
            }
            Step::Select { factor } => {
                format!("op = \"select\"\nfrom = \"{from}\"\ncolumns = {{ amount = \"amount * {factor}\" }}")
            }
            Step::Rekey { modulo } => format!(
                "op = \"select\"\nfrom = \"{name}_keyed\"\n{only}\n\n[steps.{name}_keyed]\nop = \"rekey\"\nfrom = \"{from}\"\n\
                 key = {{ bucket{number} = \"cast(amount % {modulo} as string)\" }}"
            ),
            Step::Branch { least } => format!(
                "op = \"merge\"\nfrom = [\"{name}_others\", \"{name}_large\"]\n\n\
                 [steps.{name}_route]\nop = \"branch\"\nfrom = \"{from}\"\notherwise = \"others\"\n\
                 branches = [{{ name = \"large\", where = \"amount >= {least}\" }}]\n\n\
                 [steps.{name}_others]\nop = \"select\"\nfrom = \"{name}_route.others\"\n{only}\n\n\
                 [steps.{name}_large]\nop = \"select\"\nfrom = \"{name}_route.large\"\ncolumns = {{ amount = \"amount * 2\" }}"
            ),
            Step::ToStream => format!("op = \"to-stream\"\nfrom = \"{from}\""),
            Step::ToTable => format!("op = \"to-table\"\nfrom = \"{from}\""),
            Step::JoinTable { kind } => format!("{}\nkind = \"{kind}\"", join(from, "cards")),
            Step::JoinGlobal { kind, modulo } => format!(
                "{}\nkind = \"{kind}\"\non = {{ card = \"cast(l.amount % {modulo} as string)\" }}",
                join(from, GLOBAL)
            ),
            Step::JoinAsOf { kind, grace, .. } => {
                format!("{}\nkind = \"{kind}\"\ngrace = \"{grace}ms\"", join(from, "limits"))
            }
            Step::JoinStream { kind, before, after, grace } => format!(
                "{}\nkind = \"{kind}\"\nwithin = {{ before = \"{before}ms\", after = \"{after}ms\" }}\n\
                 grace = \"{grace}ms\"",
                join(from, "refunds")
            ),
            Step::JoinForeign { kind, modulo } => format!(
                "{}\nkind = \"{kind}\"\nforeign-key = \"cast(l.amount % {modulo} as string)\"",
                join(from, "shops")
            ),
            Step::Group { modulo } => format!(
                "op = \"aggregate\"\nfrom = \"{from}\"\n{TOTALS}\n\
                 group-by = {{ bucket{number} = \"cast(amount % {modulo} as string)\" }}"
            ),
            Step::Aggregate { window } => {
                let mut text = format!("op = \"aggregate\"\nfrom = \"{from}\"\n{TOTALS}");
                if let Some(Window { shape, grace, close }) = window {
                    let emit = if close { "close" } else { "update" };
                    let window = match shape {
                        Shape::Hopping { size, every } if size == every => format!("tumbling = \"{size}ms\""),
                        Shape::Hopping { size, every } => {
                            format!("hopping = \"{size}ms\", every = \"{every}ms\"")
                        }
                        Shape::Sliding { size } => format!("sliding = \"{size}ms\""),
                        Shape::Session { gap } => format!("session = \"{gap}ms\""),
                    };
                    let _ =
                        write!(text, "\nwindow = {{ {window} }}\ngrace = \"{grace}ms\"\nemit = \"{emit}\"");
                }
                text
            }
            Step::Suppress { time: None, .. } => {
                format!("op = \"suppress\"\nfrom = \"{from}\"\nuntil = \"window-close\"")
            }
            Step::Suppress { time: Some(time), most } => {
                let bound = most.map_or(String::new(), |most| format!("\nmax-rows = {most}"));
                format!("op = \"suppress\"\nfrom = \"{from}\"\nfor = \"{time}ms\"{bound}")
            }
        };
        let _ = write!(toml, "\n[steps.{name}]\n{text}\n");
        name
    }
}

fn join(from: &str, with: &str) -> String {
    format!(
        "op = \"join\"\nfrom = {{ node = \"{from}\", as = \"l\" }}\nwith = {{ node = \"{with}\", as = \"r\" }}\n\
         columns = {{ amount = \"l.amount\", other = \"r.amount\" }}"
    )
}

impl Scenario {
    /// Which topics are read.
    fn topics(&self) -> BTreeSet<usize> {
        self.steps.iter().filter_map(|step| step.reads()).chain([0]).collect()
    }

    /// Where rows wait for what may come, nothing is so late that it could come too late for some, and in the end time passes: then
    /// the results do not depend on when they are given.
    fn let_waiting_end(&mut self) {
        let waiting = self.steps.iter().filter_map(|step| match step {
            Step::JoinStream { grace, .. } if step.waits() => Some(*grace),
            _ => None,
        });
        let Some(grace) = waiting.min() else { return };
        let mut now = 0;
        for payment in &mut self.payments {
            now = now.max(payment.timestamp);
            payment.timestamp = payment.timestamp.max(now - grace);
        }
        let timestamp = now + 10_000;
        self.payments.push(Payment { to: 2, card: Some(9), value: Some(None), timestamp });
    }

    /// What Kafka Streams and this have in common.
    fn comparable(&self, mut outputs: Vec<Json>) -> Vec<Json> {
        if self.steps.iter().any(|step| step.waits()) {
            for output in &mut outputs {
                output["cause"].take();
            }
            outputs.sort_by_key(Json::to_string);
        }
        outputs
    }

    fn toml(&self) -> String {
        let mut toml = String::from("[app]\nid = \"scenario\"\n");
        for topic in self.topics() {
            let name = TOPICS[topic];
            let section = if STREAMS.contains(&name) { "sources" } else { "tables" };
            let _ = write!(
                toml,
                "\n[{section}.{name}]\ntopic = \"{name}\"\nkey = {{ card = \"string\" }}\nvalue = {{ amount = \"int64\" }}\n"
            );
            if name == GLOBAL {
                toml.push_str("scope = \"global\"\n");
            }
            let of_limits = self.steps.iter().find_map(|step| match step {
                Step::JoinAsOf { history, .. } if topic == 3 => Some(*history),
                _ => None,
            });
            if let Some(history) = of_limits {
                let _ = writeln!(toml, "history = \"{history}ms\"");
            }
        }
        let mut last = "payments".to_owned();
        for (number, step) in self.steps.iter().enumerate() {
            last = step.write(&mut toml, number, &last);
        }
        let _ = write!(toml, "\n[sinks.results]\nfrom = \"{last}\"\ntopic = \"results\"\n");
        toml
    }

    /// As a test of the topology, for whoever wants to see it fail.
    fn block(&self) -> String {
        let mut block = String::from("\n[[tests]]\nname = \"as Kafka Streams does\"\ninput = [\n");
        for Payment { to, card, value, timestamp } in &self.payments {
            let to = TOPICS[*to];
            let key =
                card.map_or("key = \"null\"".to_owned(), |card| format!("key = {{ card = \"{card}\" }}"));
            let value = match value {
                None => "delete = true".to_owned(),
                Some(None) => "value = {}".to_owned(),
                Some(Some(amount)) => format!("value = {{ amount = {amount} }}"),
            };
            let at = time(*timestamp);
            let _ = writeln!(block, "  {{ to = \"{to}\", {key}, {value}, at = \"{at}\" }},");
        }
        block + "]\n"
    }

    fn json(&self) -> Json {
        let records = self.payments.iter().map(|Payment { to, card, value, timestamp }| {
            let value = value.map_or(Json::Null, |amount| json!({ "amount": amount }));
            json!({ "topic": TOPICS[*to], "key": card.map(|card| card.to_string()), "value": value, "timestamp": timestamp })
        });
        let steps = self.steps.iter().map(|step| step.json());
        json!({ "steps": steps.collect::<Vec<_>>(), "records": records.collect::<Vec<_>>() })
    }

    /// What Millstream writes.
    fn ours(&self, how: How) -> Vec<Json> {
        let How { batch, restart, partitions, spilled } = how;
        let text = self.toml();
        let (topology, findings) = topology::read(&text, Path::new("."), &|_| None);
        let topology = Arc::new(topology.unwrap_or_else(|| panic!("{findings:?}\n{text}")));
        let plan = Arc::new(Plan::new(&topology).unwrap());
        let directory = spilled.then(|| tempfile::tempdir().unwrap());
        let state = directory
            .as_ref()
            .map(|directory| StateLocation { directory: directory.path().to_owned(), memory: 1 << 10 });
        let options = DriverOptions { fold: batch > 1, partitions, state };
        let mut driver = Driver::new(topology.clone(), plan, options).unwrap();
        let mut written = Vec::new();
        for (number, payments) in self.payments.chunks(batch).enumerate() {
            let records = payments.iter().map(|Payment { to, card, value, timestamp }| {
                let value = value.map(|amount| json!({ "amount": amount }).to_string().into_bytes());
                let key = card.map(|card| card.to_string().into_bytes());
                let record = Record { key, value, timestamp: *timestamp, headers: Vec::new(), offset: 0 };
                let source = topology.sources.iter().position(|source| source.topic == TOPICS[*to]).unwrap();
                SourceRecord { source, partition: None, record }
            });
            let ran = driver.run(records.collect()).unwrap();
            assert!(ran.errors.is_empty() && ran.stopped.is_none(), "{ran:?}\n{text}");
            written.extend(
                ran.written.iter().map(|written| ours(number * batch + written.cause, &written.record)),
            );
            if restart {
                driver.restart().unwrap();
            } else if spilled {
                driver.commit().unwrap();
            }
        }
        written
    }

    /// Whether the last step gives a table.
    fn is_table(&self) -> bool {
        let given = self.steps.iter().try_fold(Given::Stream, |given, step| step.after(given));
        matches!(given, Some(Given::Table | Given::WindowedTable | Given::UnsureTable))
    }

    /// What is left of outputs where batches and restarts may not show: all of a stream, the rows of a table at the end.
    fn visible(&self, outputs: Vec<Json>) -> Vec<Json> {
        if !self.is_table() {
            return outputs;
        }
        let newest = outputs.into_iter().map(|output| {
            (output["key"].to_string(), json!({ "value": output["value"], "timestamp": output["timestamp"] }))
        });
        let mut newest: BTreeMap<String, Json> = newest.collect();
        // What comes and goes within a batch may never have been there.
        newest.retain(|_, output| !output["value"].is_null());
        newest.into_iter().map(|(key, output)| json!({ "key": key, "output": output })).collect()
    }

    /// The same records in order of time: none is late for any partition.
    fn in_order_of_time(&self) -> Scenario {
        let mut scenario = self.clone();
        scenario.payments.sort_by_key(|payment| payment.timestamp);
        scenario
    }

    /// Whether the results, and when they are there, depend on which keys lie in one partition: on how far time has gone on with
    /// the rows of others, or on the order in which rows meet that one record has sent to several partitions.
    fn depends_on_partitions(&self) -> bool {
        let is_moving =
            |step: &&Step| matches!(step, Step::Rekey { .. } | Step::Group { .. } | Step::JoinForeign { .. });
        let moves = self.steps.iter().skip_while(|step| !step.gives_several()).filter(is_moving).count();
        moves > 1
            || self.steps.iter().any(|step| match step {
                Step::Aggregate { window: Some(Window { shape, close, .. }) } => {
                    *close || matches!(shape, Shape::Session { .. })
                }
                Step::JoinAsOf { grace, .. } => *grace > 0,
                // A side keeps rows as long as a window and no longer, by the time of all of its keys.
                Step::JoinStream { .. } | Step::Suppress { .. } => true,
                _ => false,
            })
    }

    fn failure(&self, what: &str, found: &[Json], expected: &[Json]) -> TestCaseError {
        let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
        let at = differs.unwrap_or(found.len().min(expected.len()));
        let shown = |outputs: &[Json]| outputs.get(at).map_or("nothing".to_owned(), Json::to_string);
        TestCaseError::fail(format!(
            "output {at} is {} where {what} has {}:\n\n{}{}",
            shown(found),
            shown(expected),
            self.toml(),
            self.block()
        ))
    }
}

/// Those of each key in their order: the partitions know no other.
fn per_key(mut outputs: Vec<Json>) -> Vec<Json> {
    outputs.sort_by_key(|output| output["key"].to_string());
    outputs
}

fn time(millis: i64) -> String {
    DateTime::from_timestamp_millis(millis).unwrap().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A record of ours in the form of the oracle's.
fn ours(cause: usize, record: &Record) -> Json {
    let key = record.key.as_deref().map(|key| std::str::from_utf8(key).unwrap());
    let key = match key.map(|key| (key, serde_json::from_str::<Json>(key))) {
        Some((_, Ok(Json::Object(columns)))) => {
            let of = |name: &str| columns[name].as_str().unwrap().to_owned();
            let name = columns.keys().find(|name| !name.starts_with("window_")).unwrap();
            json!({ "key": columns[name], "start": of("window_start"), "end": of("window_end") })
        }
        Some((key, _)) => json!(key),
        None => Json::Null,
    };
    let value = record.value.as_deref().map_or(Json::Null, |value| serde_json::from_slice(value).unwrap());
    json!({ "key": key, "value": value, "timestamp": record.timestamp, "cause": cause })
}

/// A record of the oracle with its times as ours are written.
fn theirs(mut record: Json) -> Json {
    if let Some(key) = record["key"].as_object_mut() {
        for bound in ["start", "end"] {
            key[bound] = json!(time(key[bound].as_i64().unwrap()));
        }
    }
    record
}

/// What Kafka Streams gives.
fn run(oracle: &mut Java, scenario: &Scenario) -> Vec<Json> {
    let mut answer = oracle.ask(&scenario.json());
    match answer["outputs"].take() {
        Json::Array(outputs) => outputs.into_iter().map(theirs).collect(),
        _ => panic!("{answer}\n{}", scenario.toml()),
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let shape = prop_oneof![
        3 => (5..40i64, 1..80i64).prop_map(|(size, every)| Shape::Hopping { size, every: every.min(size) }),
        2 => (1..40i64).prop_map(|size| Shape::Sliding { size }),
        2 => (1..30i64).prop_map(|gap| Shape::Session { gap }),
    ];
    let window = (shape, prop_oneof![Just(0), 1..30i64], any::<bool>());
    let window = window.prop_map(|(shape, grace, close)| Window { shape, grace, close });
    let within = || prop_oneof![Just(0), 0..30i64];
    let join = (prop::sample::select(vec!["inner", "left", "outer"]), within(), within(), within());
    let join = join.prop_map(|(kind, before, after, grace)| Step::JoinStream { kind, before, after, grace });
    let as_of = (prop::sample::select(vec!["inner", "left"]), 1..40i64, within());
    let as_of =
        as_of.prop_map(|(kind, history, grace)| Step::JoinAsOf { kind, history, grace: grace.min(history) });
    let step = prop_oneof![
        6 => (-2..8i64).prop_map(|least| Step::Filter { least }),
        3 => (-2..4i64).prop_map(|factor| Step::Select { factor }),
        6 => (1..4i64).prop_map(|modulo| Step::Rekey { modulo }),
        3 => (-2..8i64).prop_map(|least| Step::Branch { least }),
        9 => Just(Step::ToStream),
        3 => Just(Step::ToTable),
        6 => prop::sample::select(vec!["inner", "left", "outer"]).prop_map(|kind| Step::JoinTable { kind }),
        6 => (prop::sample::select(vec!["inner", "left"]), 1..4i64)
            .prop_map(|(kind, modulo)| Step::JoinGlobal { kind, modulo }),
        6 => join,
        // Kafka Streams keeps versions on disk only, which takes a tenth of a second.
        1 => as_of,
        12 => prop::option::weighted(0.6, window).prop_map(|window| Step::Aggregate { window }),
        6 => (prop::option::weighted(0.6, 0..30i64), prop::option::of(1..4i64))
            .prop_map(|(time, most)| Step::Suppress { time, most: most.filter(|_| time.is_some()) }),
        6 => (1..4i64).prop_map(|modulo| Step::Group { modulo }),
        6 => (prop::sample::select(vec!["inner", "left"]), 1..5i64)
            .prop_map(|(kind, modulo)| Step::JoinForeign { kind, modulo }),
    ];
    // Steps that do not take what is there are left out. So is a merge of several rows that one record causes, which come in the
    // order of its inputs, where Kafka Streams takes each row to its end before the next.
    // So is a second join of a table with that of cards: a card would change both of its inputs at once.
    // Behind a suppression neither another one stands nor a join of tables nor, if it is for a time, a filter: these are told of a row that
    // was never sent. An outer join behind the filter of a table would send results once more for rows that the filter leaves out.
    prop::collection::vec(step, 1..9).prop_map(|steps| {
        let (mut given, mut several, mut filtered) = (Given::Stream, false, false);
        let (mut in_time, mut waits, mut joined) = (true, false, false);
        let (mut as_of, mut foreign, mut rekeyed, mut suppressed) = (false, false, false, None);
        let fits = |step: &Step| {
            let is_foreign = matches!(step, Step::JoinForeign { .. });
            let joins_tables =
                given == Given::Table && (is_foreign || matches!(step, Step::JoinTable { .. }));
            let is_as_of = matches!(step, Step::JoinAsOf { .. });
            if several && matches!(step, Step::Branch { .. })
                || match (step, suppressed) {
                    (Step::Suppress { .. }, suppressed) => suppressed.is_some(),
                    (Step::Group { .. }, suppressed) => suppressed.is_some(),
                    (Step::Filter { .. }, Some(Step::Suppress { time, .. })) => time.is_some(),
                    (_, suppressed) => joins_tables && suppressed.is_some(),
                }
                || as_of && is_as_of
                || foreign && is_foreign
                || rekeyed && step.needs_keys()
                || joined && joins_tables && !is_foreign
                || filtered && given == Given::Table && matches!(step, Step::JoinTable { kind: "outer" })
            {
                return false;
            }
            let fits_wait = if waits { step.is_stateless() } else { in_time || !step.waits() };
            let Some(after) = step.after(given).filter(|_| fits_wait) else { return false };
            as_of |= is_as_of;
            foreign |= is_foreign;
            rekeyed |= matches!(step, Step::Rekey { .. });
            joined |= joins_tables && !is_foreign;
            in_time &= step.keeps_times();
            waits |= step.waits();
            filtered =
                matches!(step, Step::Filter { .. }) || filtered && after == Given::Table && given == after;
            given = after;
            several |= step.gives_several();
            suppressed = match step {
                Step::Suppress { .. } => Some(*step),
                Step::ToStream => None,
                _ => suppressed,
            };
            true
        };
        steps.into_iter().filter(fits).collect()
    })
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    let card = prop::option::weighted(0.9, 0..4u8);
    let value = prop::option::weighted(0.9, prop::option::weighted(0.9, -3..10i64));
    // Most come in order, some at the same time, some late.
    let step = prop_oneof![4 => 0..6i64, 1 => -60..60i64];
    // Some begin so early that windows around them would begin before 1970.
    let start = prop_oneof![4 => Just(1000i64), 1 => 0..40i64];
    let to = prop_oneof![3 => Just(0), 1 => Just(1), 2 => Just(2), 2 => Just(3), 1 => Just(4), 2 => Just(5)];
    let payments =
        (start, prop::collection::vec((to, card, value, step), 1..60)).prop_map(|(start, drawn)| {
            let mut now = start;
            let mut payments = Vec::new();
            for (to, card, value, step) in drawn {
                now += step.max(0);
                payments.push(Payment { to, card, value, timestamp: (now + step.min(0)).max(0) });
            }
            payments
        });
    (steps(), payments).prop_map(|(steps, payments)| {
        let mut scenario = Scenario { steps, payments };
        let topics = scenario.topics();
        scenario.payments.retain(|payment| topics.contains(&payment.to));
        if scenario.steps.iter().any(|step| step.needs_keys()) {
            scenario.payments.iter_mut().for_each(|payment| payment.card = payment.card.or(Some(0)));
        }
        scenario.let_waiting_end();
        scenario
    })
}

#[test]
fn random_topologies_give_what_kafka_streams_gives() {
    let cases = std::env::var("MILLSTREAM_SCENARIOS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000);
    let number = Cell::new(0);
    let oracle = RefCell::new(Java::start("Scenarios", "-Xmx512m"));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let compare = |scenario: Scenario| {
        let expected = scenario.comparable(run(&mut oracle.borrow_mut(), &scenario));
        let single = scenario.ours(ONE_BY_ONE);
        let found = scenario.comparable(single.clone());
        if found != expected {
            return Err(scenario.failure("Kafka Streams", &found, &expected));
        }
        let same = |scenario: &Scenario, expected: Vec<Json>, hows: &[How]| {
            let expected = scenario.visible(expected);
            for how in hows {
                let mut found = scenario.visible(scenario.ours(*how));
                let mut expected = expected.clone();
                if how.partitions > 1 {
                    (found, expected) = (per_key(found), per_key(expected));
                }
                if found != expected {
                    return Err(scenario.failure(&format!("another order than {how:?}"), &found, &expected));
                }
            }
            Ok(())
        };
        let (batches, restarts) = ([2, 7, usize::MAX], How { restart: true, ..ONE_BY_ONE });
        let [two, seven, all] = batches.map(|batch| How { batch, ..ONE_BY_ONE });
        let seven = How { restart: true, ..seven };
        same(&scenario, single, &[restarts, two, seven, all])?;
        let partitions = How { partitions: 4, ..ONE_BY_ONE };
        same(&scenario, scenario.ours(partitions), &[How { partitions: 4, ..seven }])?;
        if !scenario.depends_on_partitions() {
            let scenario = scenario.in_order_of_time();
            same(&scenario, scenario.ours(ONE_BY_ONE), &[partitions])?;
        }
        // Disks are slow.
        number.set(number.get() + 1);
        if number.get() % 100 == 0 {
            same(&scenario, scenario.ours(ONE_BY_ONE), &[How { spilled: true, ..ONE_BY_ONE }])?;
        }
        Ok(())
    };
    // The same ones each time; more of them are others.
    let random = TestRng::deterministic_rng(config.rng_algorithm);
    if let Err(failure) = TestRunner::new_with_rng(config, random).run(&scenarios(), compare) {
        panic!("{failure}");
    }
}
