//! The rates of Nexmark's queries, fed from memory and from a Kafka broker: `make bench-nexmark` prints a table.
//!
//! Events are those of the generator, ten thousand a second in their own time; an event counts where the query reads its topic. From
//! memory: one thread, stores in memory, no topics, commits included, records made beforehand. From Kafka: one process with one
//! worker, exactly once, four partitions, from its first record to its last one through all of its repartition topics; the broker's
//! CPU time is given beside, since it shares the machine.
//!
//! `cargo bench --bench nexmark -- [QUERY…] [--events N] [--memory | --kafka]` runs a part of it. It reads `/proc` and so needs
//! Linux.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run has nothing to say"
)]

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/it/kafka/broker.rs"]
mod broker;
#[path = "../kafka/cpu.rs"]
mod cpu;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/it/kafka/java.rs"]
mod java;

mod fed_from_kafka;
mod fed_from_memory;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream::engine::topology::{Topology, read};
use millstream_topology_examples::nexmark::{Config, Event, Generator};
use mimalloc::MiMalloc;

/// That of the binary.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// One of the queries.
struct Query {
    name: String,
    file: PathBuf,
    topology: Arc<Topology>,
}

/// What a run gave.
#[derive(Clone, Copy)]
struct Rate {
    /// That the query read.
    events: u64,
    seconds: f64,
    cpu_seconds: f64,
    /// Of the broker.
    broker_seconds: f64,
}

impl Rate {
    fn per_second(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    fn micros(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.events as f64
    }
}

struct Options {
    only: Vec<String>,
    events: usize,
    memory: bool,
    kafka: bool,
}

fn options() -> Options {
    let mut options = Options { only: Vec::new(), events: 500_000, memory: true, kafka: true };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--events" => {
                let events = arguments.next().and_then(|events| events.parse().ok());
                options.events = events.unwrap_or_else(|| panic!("--events needs a number"));
            }
            "--memory" => options.kafka = false,
            "--kafka" => options.memory = false,
            // Cargo's own.
            "--bench" => {}
            _ => options.only.push(argument),
        }
    }
    options
}

fn queries(only: &[String]) -> Vec<Query> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("topology-examples/nexmark");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut queries: Vec<Query> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "toml"))
        .map(|file| {
            let text = std::fs::read_to_string(&file).unwrap();
            let (topology, findings) = read(&text, &folder, &|_| None);
            let topology = topology.unwrap_or_else(|| panic!("{}: {findings:?}", file.display()));
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            Query { name, file, topology: Arc::new(topology) }
        })
        .filter(|query| only.is_empty() || only.contains(&query.name))
        .collect();
    queries.sort_by_key(|query| query.name[1..].parse::<u32>().unwrap());
    assert!(!queries.is_empty(), "no query is named {only:?}");
    queries
}

fn main() {
    let options = options();
    let queries = queries(&options.only);
    let events: Vec<Event> = Generator::new(Config::default()).take(options.events).collect();
    let mut kafka = options.kafka.then(|| fed_from_kafka::Kafka::filled(&events));
    println!("{:<6} {:>31} {:>43}", "", "from memory", "from Kafka, exactly once");
    println!(
        "{:<6} {:>10} {:>11} {:>8} {:>11} {:>10} {:>8} {:>11}",
        "query", "events", "events/s", "CPU us", "events/s", "CPU us", "broker", "written"
    );
    for query in &queries {
        let memory = options.memory.then(|| fed_from_memory::run(query, &events));
        let fed = kafka.as_mut().map(|kafka| kafka.run(query));
        print(&query.name, memory, fed);
    }
}

fn print(name: &str, memory: Option<(Rate, u64)>, kafka: Option<Rate>) {
    let events = memory.map(|(rate, _)| rate.events).or(kafka.map(|rate| rate.events)).unwrap_or_default();
    let cells = |rate: Option<Rate>| match rate {
        Some(rate) => [format!("{:.0}", rate.per_second()), format!("{:.2}", rate.micros(rate.cpu_seconds))],
        None => ["-".to_owned(), "-".to_owned()],
    };
    let [memory_rate, memory_cpu] = cells(memory.map(|(rate, _)| rate));
    let [kafka_rate, kafka_cpu] = cells(kafka);
    let broker = kafka.map_or("-".to_owned(), |rate| format!("{:.2}", rate.micros(rate.broker_seconds)));
    let written = memory.map_or("-".to_owned(), |(_, written)| written.to_string());
    println!(
        "{name:<6} {events:>10} {memory_rate:>11} {memory_cpu:>8} {kafka_rate:>11} {kafka_cpu:>10} {broker:>8} {written:>11}"
    );
}
