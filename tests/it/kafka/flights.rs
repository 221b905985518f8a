//! The example `flights` on a broker: several sub-topologies, one after the other, with a table that is seen as of a time, a
//! global one, and a model. What is committed is what the in-memory driver writes, byte for byte.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use millstream::engine::driver::{Driver, DriverOptions, SourceRecord};
use millstream::engine::plan::{Origin, Plan, SubTopology};
use millstream::engine::record::Record;
use millstream::engine::task::{GlobalStates, GlobalTable, Task};
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

/// The topics that the example reads, and how many of their rows are used; weather and aircraft are used all.
const READ: [(&str, usize); 4] =
    [("departures", DEPARTURES), ("arrivals", ARRIVALS), ("weather", usize::MAX), ("planes", usize::MAX)];

/// The topics that the example writes: streams, and tables.
const STREAMS: [&str; 3] = ["flight-predictions", "flight-features", "flight-days"];
const TABLES: [&str; 4] = ["flight-tally", "flight-hours", "flight-calibration", "flight-latest"];

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
            ("topic   = ", "topic = "),
            ("topic       = ", "topic = "),
            ("topic = \"", "topic = \"{app}-"),
        ] {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        let topics = [&READ.map(|(topic, _)| topic)[..], &STREAMS, &TABLES].concat();
        let application = Application::of_topics(broker, name, &text, &topics, partitions);
        let mut feed = vec!["feed".to_owned(), application.folder.at("topology.toml")];
        feed.extend(["--brokers".to_owned(), broker.brokers().to_owned()]);
        let mut flights = Vec::new();
        for (source, count) in READ {
            let file = example.join("data").join(format!("{source}.csv.gz"));
            let unpacked = Command::new("gzip").arg("-dc").arg(file).output().unwrap();
            let text = String::from_utf8(unpacked.stdout).unwrap();
            let lines: Vec<&str> = text.lines().take(count.saturating_add(1)).collect();
            let file = application.folder.write(&format!("{source}.csv"), lines.join("\n") + "\n");
            feed.extend(["--feed".to_owned(), format!("{source}={file}")]);
            let keys = lines.iter().skip(1).map(|line| line.split(',').next().unwrap().to_owned());
            flights.push(keys.collect::<BTreeSet<_>>());
        }
        let feed: Vec<&str> = feed.iter().map(String::as_str).collect();
        assert_eq!(Running::start(command(&feed)).code(), Some(0));
        let text = application.folder.read("topology.toml");
        let (topology, findings) = topology::read(&text, Path::new("/"), &|_| None);
        let topology = Arc::new(topology.unwrap_or_else(|| panic!("{findings:?}")));
        let plan = Arc::new(Plan::new(&topology).unwrap());
        let complete = flights[0].intersection(&flights[1]).count() as i64;
        Flights { application, topology, plan, complete }
    }

    /// What the in-memory driver writes, by topic, if it gets all records in the order of their times.
    fn expected(&self, broker: &Broker) -> HashMap<String, Vec<Bytes>> {
        let sources = self.topology.sources.iter().map(|source| self.records(broker, &source.topic));
        let mut input: Vec<(usize, Record)> = sources
            .enumerate()
            .flat_map(|(source, partitions)| {
                partitions.into_iter().flatten().map(move |record| (source, record))
            })
            .collect();
        input.sort_by_key(|(source, record)| (record.timestamp, *source));
        let mut driver =
            Driver::new(self.topology.clone(), self.plan.clone(), DriverOptions::default()).unwrap();
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
        expected
    }

    /// Waits until all that the records cause is committed.
    #[track_caller]
    fn await_end(&self, broker: &Broker, expected: &HashMap<String, Vec<Bytes>>) {
        for stream in ["flight-predictions", "flight-features"] {
            let count = json!({ "do": "count", "topic": self.application.topic(stream) });
            self.application
                .wait_until(stream, || java::call(broker, count.clone())["records"] == DEPARTURES);
        }
        for table in ["flight-tally", "flight-hours", "flight-calibration"] {
            self.application.wait_until(table, || {
                let rows = newest(&self.committed(broker, &self.application.topic(table)).concat());
                let json = |bytes: Option<Vec<u8>>| serde_json::from_slice::<Json>(&bytes.unwrap()).unwrap();
                let rows = rows.into_values().map(|record| (json(record.0), json(record.1)));
                // Flights that did not arrive are in no other table.
                let arrived = rows.filter(|(key, _)| key.get("was_late") != Some(&Json::Null));
                arrived.map(|(_, value)| value["flights"].as_i64().unwrap()).sum::<i64>() == self.complete
            });
        }
        // It depends on no order.
        let latest = self.application.topic("flight-latest");
        let values =
            |records: &[Bytes]| newest(records).into_values().map(|record| record.1).collect::<Vec<_>>();
        let expected = values(&expected[&latest]);
        self.application
            .wait_until("the latest", || values(&self.committed(broker, &latest).concat()) == expected);
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

    /// The global tables with all rows.
    fn globals(&self, broker: &Broker) -> GlobalStates {
        let states = GlobalStates::new(&self.plan);
        for (position, table) in self.plan.globals.iter().enumerate() {
            let mut keeper = GlobalTable::new(table.clone()).unwrap();
            for (partition, records) in self.records(broker, &table.source.topic).iter().enumerate() {
                let updated = keeper.update(&states, position, partition as i32, records, 0).unwrap();
                assert!(updated.stopped.is_none() && updated.errors.is_empty());
            }
        }
        states
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
    let expected = flights.expected(broker);
    let running = flights.application.start(broker, "state", &["--create-topics"]);
    flights.await_end(broker, &expected);
    assert_eq!(running.end(), Some(0), "{}", flights.application.log());

    for topic in STREAMS {
        let topic = flights.application.topic(topic);
        let found = flights.committed(broker, &topic).concat();
        for (number, (found, expected)) in found.iter().zip(&expected[&topic]).enumerate() {
            assert_eq!(shown(found), shown(expected), "{topic}, record {number}");
            assert_eq!(found, expected, "{topic}, record {number}");
        }
        assert_eq!(found.len(), expected[&topic].len(), "{topic}");
    }
    for topic in TABLES {
        let topic = flights.application.topic(topic);
        let found = newest(&flights.committed(broker, &topic).concat());
        assert!(found.len() >= 3, "{topic}");
        assert_eq!(found, newest(&expected[&topic]), "{topic}");
    }
}

/// In which order several tasks write a repartition topic is open; what each of them makes of its input is not.
#[test]
fn flights_of_several_processes_are_those_of_the_driver_task_by_task() {
    const PARTITIONS: usize = 4;
    let broker = Broker::shared();
    let flights = Flights::new(broker, "flights-4", PARTITIONS);
    let more = ["--create-topics", "--threads", "2"];
    let processes = ["first", "second"].map(|state| flights.application.start(broker, state, &more));
    flights.await_end(broker, &flights.expected(broker));
    for process in processes {
        assert_eq!(process.end(), Some(0), "{}", flights.application.log());
    }

    let globals = flights.globals(broker);
    let counts = flights.plan.partitions(|_| PARTITIONS as u32).unwrap();
    let readers = flights.plan.sub_topologies.iter().zip(&counts);
    let partitions: HashMap<&str, usize> = readers
        .flat_map(|(sub, count)| sub.inputs.iter().map(|input| (&*input.topic, *count as usize)))
        .collect();
    let mut topics = 0;
    for sub in &flights.plan.sub_topologies {
        // Per topic and partition, what each task has for it.
        let mut expected: BTreeMap<(String, usize), Vec<Vec<Bytes>>> = BTreeMap::new();
        let mut tables = BTreeSet::new();
        let inputs = flights.inputs(broker, sub);
        for partition in 0..PARTITIONS {
            let state = TaskState::in_memory(&Task::store_specs(sub));
            let offsets = vec![0; sub.inputs.len()];
            let mut task =
                Task::open(sub.clone(), partition as i32, state, offsets, &[], globals.clone(), false)
                    .unwrap();
            let epoch = task.process(Flights::input(&inputs, partition), 0).unwrap();
            assert!(epoch.stopped.is_none() && epoch.errors.is_empty());
            for output in &epoch.outputs {
                let count = partitions.get(&*output.topic).copied().unwrap_or(PARTITIONS);
                let target = output.hash.map_or(partition, |hash| hash as usize) % count;
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
    // The sinks, five steps with `rekey`, four with `group-by`, and `top`, which has one for all.
    assert_eq!(topics, STREAMS.len() + TABLES.len() + 5 + 4 + 1);
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
