//! The example `flights` on a broker: several sub-topologies, one after the other, with a model. What is committed is what
//! the in-memory driver writes, byte for byte.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use millstream::engine::driver::{Driver, DriverOptions, SourceRecord};
use millstream::engine::plan::{Origin, Plan, SubTopology};
use millstream::engine::record::Record;
use millstream::engine::task::{GlobalStates, Task};
use millstream::engine::topology::{self, Topology};
use millstream::operators::schema::Kind;
use millstream::state::TaskState;
use serde_json::{Value as Json, json};

use super::application::{Application, Running};
use super::broker::Broker;
use super::java;
use crate::support::{command, examples};

/// So many departures and arrivals of the example are used, from the first on.
const DEPARTURES: usize = 1_600;
const ARRIVALS: usize = 1_500;

/// The topics of the example.
const TOPICS: [&str; 5] = ["departures", "arrivals", "flight-predictions", "flight-tally", "flight-features"];

/// The example under a name of its own, with its records in its topics.
struct Flights {
    application: Application,
    topology: Arc<Topology>,
    plan: Arc<Plan>,
    /// How many flights have left and arrived.
    complete: i64,
}

/// What two records have to have in common: key, value, time and headers.
type Bytes = (Option<Vec<u8>>, Option<Vec<u8>>, i64, Vec<(String, Option<Vec<u8>>)>);

fn bytes(record: &Record) -> Bytes {
    let headers = record.headers.iter().map(|header| (header.name.clone(), header.value.clone()));
    (record.key.clone(), record.value.clone(), record.timestamp, headers.collect())
}

/// The last record of each key.
fn newest(records: &[Bytes]) -> BTreeMap<Option<Vec<u8>>, Bytes> {
    records.iter().map(|record| (record.0.clone(), record.clone())).collect()
}

fn shown(record: &Bytes) -> String {
    let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| bytes.escape_ascii().to_string());
    format!("{:?} {:?} {}", text(&record.0), text(&record.1), record.2)
}

impl Flights {
    fn new(broker: &Broker, name: &str, partitions: usize) -> Self {
        let example = examples().join("flights");
        let mut text = std::fs::read_to_string(example.join("topology.toml")).unwrap();
        for (from, to) in [
            ("id          = \"flights\"", "id = \"{app}\""),
            ("models/late", example.join("models/late").to_str().unwrap()),
            ("topic       = ", "topic = "),
            ("topic = \"", "topic = \"{app}-"),
        ] {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        let application = Application::of_topics(broker, name, &text, &TOPICS, partitions);
        let mut flights = Vec::new();
        for (name, count) in [("departures", DEPARTURES), ("arrivals", ARRIVALS)] {
            let file = example.join("data").join(format!("{name}.csv.gz"));
            let unpacked = Command::new("gzip").arg("-dc").arg(file).output().unwrap();
            let text = String::from_utf8(unpacked.stdout).unwrap();
            let lines: Vec<&str> = text.lines().take(count + 1).collect();
            application.folder.write(&format!("{name}.csv"), lines.join("\n") + "\n");
            let keys = lines.iter().skip(1).map(|line| line.split(',').next().unwrap().to_owned());
            flights.push(keys.collect::<BTreeSet<_>>());
        }
        let files = ["departures", "arrivals"].map(|source| {
            let file = application.folder.at(&format!("{source}.csv"));
            format!("{source}={file}")
        });
        let file = application.folder.at("topology.toml");
        let feed = ["feed", &file, "--brokers", broker.brokers(), "--feed", &files[0], "--feed", &files[1]];
        assert_eq!(Running::start(command(&feed)).code(), Some(0));
        let text = application.folder.read("topology.toml");
        let (topology, findings) = topology::read(&text, Path::new("/"), &|_| None);
        let topology = Arc::new(topology.unwrap_or_else(|| panic!("{findings:?}")));
        let plan = Arc::new(Plan::new(&topology).unwrap());
        let complete = flights[0].intersection(&flights[1]).count() as i64;
        Flights { application, topology, plan, complete }
    }

    /// Waits until all that the records cause is committed.
    #[track_caller]
    fn await_end(&self, broker: &Broker) {
        let count = |topic: &str| {
            let topic = self.application.topic(topic);
            java::call(broker, json!({ "do": "count", "topic": topic }))["records"].as_i64().unwrap()
        };
        self.application.wait_until("all predictions", || {
            count("flight-predictions") == DEPARTURES as i64 && count("flight-features") == DEPARTURES as i64
        });
        self.application.wait_until("all outcomes", || {
            let tally = self.committed(broker, &self.application.topic("flight-tally")).concat();
            let flights = newest(&tally).into_values().map(|record| {
                let value: Json = serde_json::from_slice(record.1.as_deref().unwrap()).unwrap();
                value["flights"].as_i64().unwrap()
            });
            flights.sum::<i64>() == self.complete
        });
    }

    /// The committed records of a topic, by partition. The run must have been too short for any to be removed.
    fn records(&self, broker: &Broker, topic: &str) -> Vec<Vec<Record>> {
        let mut partitions: Vec<Vec<Record>> = Vec::new();
        for record in java::consume(broker, topic) {
            let partition = record.partition as usize;
            partitions.resize_with(partitions.len().max(partition + 1), Vec::new);
            partitions[partition].push(record.as_read());
        }
        partitions
    }

    fn committed(&self, broker: &Broker, topic: &str) -> Vec<Vec<Bytes>> {
        self.records(broker, topic).iter().map(|records| records.iter().map(bytes).collect()).collect()
    }

    /// The records of each topic that a sub-topology reads.
    fn inputs(&self, broker: &Broker, sub: &SubTopology) -> Vec<Vec<Vec<Record>>> {
        sub.inputs.iter().map(|input| self.records(broker, &input.topic)).collect()
    }

    /// What a task gets, in the order in which it takes it when nothing is late: by time, then by input. Each partition stays in
    /// its order.
    fn input(topics: &[Vec<Vec<Record>>], partition: usize) -> Vec<(usize, Record)> {
        let partitions = topics.iter().map(|topic| topic.get(partition).cloned().unwrap_or_default().into());
        let mut partitions: Vec<VecDeque<Record>> = partitions.collect();
        let mut input = Vec::new();
        while let Some((number, _)) = partitions
            .iter()
            .enumerate()
            .filter_map(|(number, records)| Some((number, records.front()?.timestamp)))
            .min_by_key(|(number, time)| (*time, *number))
        {
            input.push((number, partitions[number].pop_front().unwrap()));
        }
        input
    }
}

#[test]
fn flights_of_one_partition_are_those_of_the_driver() {
    let broker = Broker::shared();
    let flights = Flights::new(broker, "flights-1", 1);
    let running = flights.application.start(broker, "state", &["--create-topics"]);
    flights.await_end(broker);
    assert_eq!(running.end(), Some(0), "{}", flights.application.log());

    let sources = flights.plan.sub_topologies.iter().find(|sub| sub.depth == 0).unwrap();
    let input = Flights::input(&flights.inputs(broker, sources), 0);
    assert_eq!(input.len(), DEPARTURES + ARRIVALS);
    let mut driver =
        Driver::new(flights.topology.clone(), flights.plan.clone(), DriverOptions::default()).unwrap();
    let mut expected: HashMap<String, Vec<Bytes>> = HashMap::new();
    for chunk in input.chunks(100) {
        let records = chunk.iter().map(|(source, record)| SourceRecord {
            source: *source,
            partition: None,
            record: record.clone(),
        });
        let ran = driver.run(records.collect()).unwrap();
        assert!(ran.stopped.is_none() && ran.errors.is_empty());
        for written in &ran.written {
            expected.entry(written.topic.to_string()).or_default().push(bytes(&written.record));
        }
        driver.commit().unwrap();
    }
    for topic in ["flight-predictions", "flight-features"] {
        let topic = flights.application.topic(topic);
        let found = flights.committed(broker, &topic).concat();
        for (number, (found, expected)) in found.iter().zip(&expected[&topic]).enumerate() {
            assert_eq!(shown(found), shown(expected), "{topic}, record {number}");
            assert_eq!(found, expected, "{topic}, record {number}");
        }
        assert_eq!(found.len(), DEPARTURES);
        assert_eq!(found.len(), expected[&topic].len());
    }
    let tally = flights.application.topic("flight-tally");
    let found = newest(&flights.committed(broker, &tally).concat());
    assert_eq!(found, newest(&expected[&tally]));
    assert_eq!(found.len(), 4);
}

/// In which order several tasks write a repartition topic is open; what each of them makes of its input is not.
#[test]
fn flights_of_several_processes_are_those_of_the_driver_task_by_task() {
    const PARTITIONS: usize = 4;
    let broker = Broker::shared();
    let flights = Flights::new(broker, "flights-4", PARTITIONS);
    let more = ["--create-topics", "--threads", "2"];
    let processes = ["first", "second"].map(|state| flights.application.start(broker, state, &more));
    flights.await_end(broker);
    for process in processes {
        assert_eq!(process.end(), Some(0), "{}", flights.application.log());
    }

    let mut topics = 0;
    for sub in &flights.plan.sub_topologies {
        // Per topic and partition, what each task has for it.
        let mut expected: BTreeMap<(String, usize), Vec<Vec<Bytes>>> = BTreeMap::new();
        let mut tables = BTreeSet::new();
        let inputs = flights.inputs(broker, sub);
        for partition in 0..PARTITIONS {
            let state = TaskState::in_memory(&Task::store_specs(sub));
            let offsets = vec![0; sub.inputs.len()];
            let mut task = Task::open(
                sub.clone(),
                partition as i32,
                state,
                offsets,
                &[],
                GlobalStates::default(),
                false,
            )
            .unwrap();
            let epoch = task.process(Flights::input(&inputs, partition), 0).unwrap();
            assert!(epoch.stopped.is_none() && epoch.errors.is_empty());
            for output in &epoch.outputs {
                let target = output.hash.map_or(partition, |hash| hash as usize % PARTITIONS);
                let topic = output.topic.to_string();
                if output.kind == Kind::Table {
                    tables.insert(topic.clone());
                }
                let tasks = expected.entry((topic, target)).or_default();
                tasks.resize_with(PARTITIONS, Vec::new);
                tasks[partition].push(bytes(&output.record));
            }
        }
        // A task that waits for what others make may have taken its inputs in another order.
        let in_order =
            sub.inputs.len() == 1 || sub.inputs.iter().all(|input| matches!(input.origin, Origin::Source(_)));
        let written: BTreeSet<String> = expected.keys().map(|(topic, _)| topic.clone()).collect();
        for topic in written {
            topics += 1;
            for (target, found) in flights.committed(broker, &topic).into_iter().enumerate() {
                let tasks = expected.remove(&(topic.clone(), target)).unwrap_or_default();
                if tables.contains(&topic) {
                    assert_eq!(newest(&found), newest(&tasks.concat()), "{topic} {target}");
                } else {
                    check(&format!("{topic}/{target}"), &found, &tasks, in_order);
                }
            }
            assert!(!expected.keys().any(|(other, _)| *other == topic), "{topic}");
        }
    }
    // Three sinks, six steps with `rekey`, one with `group-by`.
    assert_eq!(topics, 3 + 6 + 1);
}

/// Fails the test unless `found` are the records of all tasks, each of which has its own in their order.
#[track_caller]
fn check(place: &str, found: &[Bytes], tasks: &[Vec<Bytes>], in_order: bool) {
    let mut missing: HashMap<&Bytes, Vec<(usize, usize)>> = HashMap::new();
    for (task, records) in tasks.iter().enumerate() {
        for (number, record) in records.iter().enumerate() {
            missing.entry(record).or_default().push((task, number));
        }
    }
    let mut last: HashMap<usize, usize> = HashMap::new();
    for record in found {
        let Some(places) = missing.get_mut(record).filter(|places| !places.is_empty()) else {
            panic!("{place}: {} is too many", shown(record));
        };
        let (task, number) = places.remove(0);
        let before = last.insert(task, number);
        assert!(!in_order || before.is_none_or(|before| before < number), "{place}: {}", shown(record));
    }
    let missing: Vec<String> =
        missing.iter().filter(|(_, places)| !places.is_empty()).map(|(record, _)| shown(record)).collect();
    assert!(missing.is_empty(), "{place}: {} are missing, such as {}", missing.len(), missing[0]);
}
