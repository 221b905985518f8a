//! Millstream and Kafka Streams doing the same on one broker, in turns: `make bench`.
//!
//! Every workload runs with both guarantees, one thread each, and prints one line,
//! `NAME/GUARANTEE millstream=… kafka_streams=… ratio=… cpu_ratio=…`: records a second and their ratio, and the ratio of CPU
//! seconds a record, above 1 where Millstream is better, medians of three. Both are watched from outside in the same way, by
//! the offsets that they commit and the CPU time of their process. Compared is the second half of the records, when Java has
//! compiled its program; the figures of the whole run, start included, follow in brackets, and what the broker spends on a
//! record: it shares the machine, and its part bounds the ratio of records a second. The command fails where Kafka Streams is
//! better in anything.
//!
//! Both are told to commit every 100 ms. Over a backlog as here Millstream commits every 500 ms whatever it is told; Kafka Streams
//! does so 100 ms after the end of the commit before, or `--commit MS` after it.
//!
//! `cargo bench --bench kafka -- [NAME…] [--records N] [--rounds N] [--guarantee G] [--commit MS] [--millstream BINARY]
//! [--beside BINARY]` runs a part of it, or another build of Millstream in the place of Kafka Streams.
//! It reads `/proc` and so needs Linux.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run has nothing to say"
)]

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/it/kafka/broker.rs"]
mod broker;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/it/kafka/java.rs"]
mod java;

mod application;
mod cpu;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use application::{Application, ENGINES, Engine, Process, Until, tool};
use broker::{Broker, BrokerOptions};
use cpu::cpu_seconds;

struct Workload {
    name: &'static str,
    /// What `benches/topologies` and `Streams.java` call it.
    program: &'static str,
    /// Cards in its input, drawn at random; `None`: each record has one of its own.
    keys: Option<u32>,
    /// How many times the usual records it gets.
    times: u64,
    /// Whether the number of results depends on nothing but the input. A table sends the newest value at each commit.
    exact: bool,
    /// Whether results come out of topics of the application's own, when the input has long been committed.
    has_hops: bool,
    /// Where throughput and CPU time should be, against Kafka Streams.
    target: f64,
}

const USUAL: Workload = Workload {
    name: "",
    program: "",
    keys: Some(100_000),
    times: 1,
    exact: true,
    has_hops: false,
    target: 0.0,
};

const WORKLOADS: &[Workload] = &[
    Workload { name: "passthrough", program: "passthrough", target: 2.5, ..USUAL },
    Workload { name: "json-filter", program: "json-filter", target: 3.0, ..USUAL },
    Workload { name: "keyed-count-100k", program: "keyed-count", exact: false, target: 4.0, ..USUAL },
    Workload {
        name: "keyed-count-2m",
        program: "keyed-count",
        keys: Some(2_000_000),
        exact: false,
        target: 4.0,
        ..USUAL
    },
    Workload {
        name: "tumbling-count",
        program: "tumbling-count",
        keys: Some(10_000),
        exact: false,
        target: 4.0,
        ..USUAL
    },
    Workload {
        name: "hopping-count",
        program: "hopping-count",
        keys: Some(10_000),
        exact: false,
        target: 3.0,
        ..USUAL
    },
    Workload {
        name: "session-count",
        program: "session-count",
        keys: Some(10_000),
        exact: false,
        target: 3.0,
        ..USUAL
    },
    Workload { name: "dedup", program: "dedup", keys: Some(10_000), target: 3.0, ..USUAL },
    Workload { name: "trailing-features", program: "trailing-features", target: 7.0, ..USUAL },
    Workload { name: "stream-table-join", program: "stream-table-join", target: 3.0, ..USUAL },
    Workload { name: "table-table-join", program: "table-table-join", exact: false, target: 3.0, ..USUAL },
    Workload {
        name: "stream-stream-join",
        program: "stream-stream-join",
        keys: Some(10_000),
        target: 3.0,
        ..USUAL
    },
    Workload {
        name: "foreign-key-join",
        program: "foreign-key-join",
        keys: Some(10_000),
        exact: false,
        has_hops: true,
        target: 3.0,
        ..USUAL
    },
    Workload { name: "trees-100x6", program: "trees", target: 4.0, ..USUAL },
];

/// Runs first and is not counted: the broker's JVM has to compile its program, too.
const WARM_UP: Workload = Workload { name: "warm-up", program: "json-filter", ..USUAL };

/// The workload whose store `restore` brings back.
const RESTORED: &str = "keyed-count-2m";
/// A store of ten million entries with values of some ninety bytes, only made to be restored.
const LARGE: Workload = Workload {
    name: "keyed-last-10m",
    program: "keyed-last",
    keys: None,
    times: 5,
    exact: false,
    has_hops: false,
    target: 4.0,
};
const RESTORE_TARGET: f64 = 2.0;
/// Of the latency's load: records a second, seconds that are measured, and seconds before them.
const LOAD: [&str; 3] = ["10000", "20", "10"];
/// How long no result has come when none will.
const QUIET: Duration = Duration::from_secs(5);
/// What exactly once may cost of our own at least once.
const EXACTLY_ONCE_COST: f64 = 0.15;

/// Records a second, and CPU seconds a record.
#[derive(Clone, Copy, Default)]
struct Rate {
    throughput: f64,
    cpu: f64,
    /// Of the broker.
    broker_cpu: f64,
}

/// What one run gave: the second half of the records, and all of them with the start.
struct Run {
    warm: Rate,
    whole: Rate,
}

struct Options {
    only: Vec<String>,
    records: u64,
    rounds: u64,
    guarantees: Vec<&'static str>,
    /// Of Kafka Streams.
    commit: Option<String>,
    millstream: PathBuf,
    beside: Option<PathBuf>,
}

struct Bench {
    options: Options,
    broker: Broker,
    directory: TempDir,
    /// How many applications there have been.
    applications: usize,
    /// Lines that are worse than Kafka Streams.
    lost: Vec<String>,
    /// Lines that are below their target.
    missed: Vec<String>,
}

fn main() {
    let mut bench = Bench::start(options());
    bench.warm_up();
    for workload in WORKLOADS {
        let restore = workload.name == RESTORED && bench.wants("restore-2m");
        if bench.wants(workload.name) || restore {
            bench.load(workload);
            let rates: Vec<f64> = bench
                .options
                .guarantees
                .clone()
                .iter()
                .map(|guarantee| bench.compare(workload, guarantee, restore).throughput)
                .collect();
            if let [exactly, at_least] = rates[..]
                && exactly < (1.0 - EXACTLY_ONCE_COST) * at_least
            {
                let cost = 100.0 * (1.0 - exactly / at_least);
                bench.missed.push(format!("{}: exactly once costs {cost:.0} %", workload.name));
            }
        }
    }
    if bench.wants(LARGE.name) || bench.wants("restore-10m") {
        bench.load(&LARGE);
        // A restore knows no guarantee.
        bench.compare(&LARGE, bench.options.guarantees[0], true);
    }
    if bench.wants("latency") {
        for guarantee in bench.options.guarantees.clone() {
            bench.latency(guarantee);
        }
    }
    for missed in &bench.missed {
        eprintln!("missed: {missed}");
    }
    if !bench.lost.is_empty() {
        eprintln!("worse than Kafka Streams: {}", bench.lost.join(", "));
        std::process::exit(1);
    }
}

fn options() -> Options {
    let mut options = Options {
        only: Vec::new(),
        records: 2_000_000,
        rounds: 3,
        guarantees: vec!["exactly-once", "at-least-once"],
        commit: None,
        millstream: env!("CARGO_BIN_EXE_millstream").into(),
        beside: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut next = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--records" => options.records = next().parse().unwrap(),
            "--commit" => options.commit = Some(next()),
            "--rounds" => options.rounds = next().parse().unwrap(),
            "--guarantee" => {
                let name = next();
                options.guarantees.retain(|guarantee| *guarantee == name);
            }
            "--millstream" => options.millstream = next().into(),
            "--beside" => options.beside = Some(next().into()),
            // Cargo's own.
            "--bench" => {}
            _ => options.only.push(argument),
        }
    }
    assert!(options.rounds > 0, "--rounds has to be 1 at least");
    options
}

impl Bench {
    fn start(options: Options) -> Bench {
        // No compaction and no retention in the middle of somebody's run.
        let properties = vec![
            ("log.cleaner.enable", "false"),
            ("log.retention.ms", "-1"),
            ("log.retention.check.interval.ms", "86400000"),
            ("log.segment.delete.delay.ms", "1000"),
        ];
        let broker = Broker::start(&BrokerOptions { properties, measured: true, ..BrokerOptions::default() });
        let directory = TempDir::new().unwrap();
        Bench { options, broker, directory, applications: 0, lost: Vec::new(), missed: Vec::new() }
    }

    fn wants(&self, name: &str) -> bool {
        self.options.only.is_empty() || self.options.only.iter().any(|only| name.contains(only.as_str()))
    }

    fn records(&self, workload: &Workload) -> u64 {
        workload.times * self.options.records
    }

    fn warm_up(&mut self) {
        self.load(&WARM_UP);
        for engine in ENGINES {
            let application = self.application(engine, WARM_UP.program, "exactly-once", &input(&WARM_UP));
            self.run(&application, &WARM_UP);
            self.remove(&application);
        }
    }

    /// Fills the input of a workload.
    fn load(&self, workload: &Workload) {
        let topic = input(workload);
        java::create_topic(&self.broker, &topic, 4);
        let mut arguments = vec![
            self.broker.brokers().to_owned(),
            topic.clone(),
            self.records(workload).to_string(),
            workload.keys.map_or("each".to_owned(), |keys| keys.to_string()),
        ];
        if workload.program == "trees" {
            arguments.push("trees".to_owned());
        }
        let status = tool("Load", "512m").args(&arguments).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{topic} cannot be filled");
        let ends = java::call(&self.broker, json!({ "do": "ends", "topic": topic }));
        assert_eq!(sum(&ends["offsets"]), self.records(workload), "{topic}");
    }

    /// A new application, with an output topic of its own.
    fn application(
        &mut self,
        engine: Engine,
        program: &'static str,
        guarantee: &'static str,
        input: &str,
    ) -> Application {
        self.applications += 1;
        let id = format!("bench-{}", self.applications);
        let output = format!("{id}-results");
        java::create_topic(&self.broker, &output, 4);
        Application {
            engine,
            program,
            guarantee,
            brokers: self.broker.brokers().to_owned(),
            directory: self.directory.path().join(&id),
            id,
            input: input.to_owned(),
            output,
            millstream: self.options.millstream.clone(),
        }
    }

    fn remove(&self, application: &Application) {
        java::call(&self.broker, json!({ "do": "delete-topics", "prefix": format!("{}-", application.id) }));
        let _ = std::fs::remove_dir_all(&application.directory);
    }

    /// Both engines in turns, each followed by the restore of its store if that is wanted. Gives our warm rate.
    fn compare(&mut self, workload: &Workload, guarantee: &'static str, restore: bool) -> Rate {
        let mut runs = ENGINES.map(|_| Vec::new());
        let mut restores = ENGINES.map(|_| Vec::new());
        let mut results = ENGINES.map(|_| Json::Null);
        for round in 0..self.options.rounds {
            for (index, engine) in ENGINES.into_iter().enumerate() {
                let mut application = self.application(engine, workload.program, guarantee, &input(workload));
                if let (Engine::KafkaStreams, Some(other)) = (engine, &self.options.beside) {
                    application.engine = Engine::Millstream;
                    application.millstream.clone_from(other);
                }
                runs[index].push(self.run(&application, workload));
                if round == 0 {
                    results[index] = match workload.keys {
                        Some(_) => {
                            java::call(&self.broker, json!({ "do": "count", "topic": application.output }))
                        }
                        None => json!({ "keys": self.records(workload) }),
                    };
                }
                if restore {
                    restores[index].push(restored(&application, results[index]["keys"].as_f64().unwrap()));
                }
                self.remove(&application);
            }
        }
        let [ours, theirs] = &results;
        assert_eq!(ours["keys"], theirs["keys"], "{}: the results are not the same", workload.name);
        assert!(
            !workload.exact || ours["records"] == theirs["records"],
            "{}: {ours} {theirs}",
            workload.name
        );

        let [ours, theirs] = runs.map(|runs| {
            let [warm, whole] =
                [|run: &Run| run.warm, |run: &Run| run.whole].map(|part| runs.iter().map(part).collect());
            Run { warm: median(warm), whole: median(whole) }
        });
        let more = format!(
            "whole run: {:.0} : {:.0} records/s, {:.2} : {:.2} us; the broker: {:.2} : {:.2} us",
            ours.whole.throughput,
            theirs.whole.throughput,
            ours.whole.cpu * 1e6,
            theirs.whole.cpu * 1e6,
            ours.warm.broker_cpu * 1e6,
            theirs.warm.broker_cpu * 1e6,
        );
        self.report(
            &format!("{}/{guarantee}", workload.name),
            ours.warm,
            theirs.warm,
            &more,
            workload.target,
        );
        if restore {
            let [ours, theirs] = restores.map(median);
            let size = workload.name.rsplit('-').next().unwrap_or_default();
            self.report(
                &format!("restore-{size}/{guarantee}"),
                ours,
                theirs,
                "keys, from start to ready",
                RESTORE_TARGET,
            );
        }
        ours.warm
    }

    /// Runs an application over its input, until that is committed.
    fn run(&self, application: &Application, workload: &Workload) -> Run {
        let records = self.records(workload);
        let until = if workload.has_hops { Until::Told } else { Until::Committed(records) };
        let flags = match (application.engine, &self.options.commit) {
            (Engine::KafkaStreams, Some(commit)) => vec!["--commit", commit],
            _ => Vec::new(),
        };
        let process = application.start(until, &flags);
        let start = Sample { seconds: 0.0, cpu: 0.0, broker_cpu: self.broker_cpu_seconds(), records: 0 };
        let half = self.await_committed(application, &process, records / 2);
        let mut end = self.await_committed(application, &process, records);
        if workload.has_hops {
            end = self.await_quiet(application, &process, end);
        }
        process.end();
        Run { warm: end.since(&half), whole: end.since(&start) }
    }

    fn await_committed(&self, application: &Application, process: &Process, records: u64) -> Sample {
        let committed = json!({ "do": "committed", "group": application.id, "topic": application.input });
        loop {
            let sample = self.sample(process, sum(&java::call(&self.broker, committed.clone())["offsets"]));
            if sample.records >= records {
                return sample;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until no more results come, and gives what it was when the last ones had come.
    fn await_quiet(&self, application: &Application, process: &Process, mut last: Sample) -> Sample {
        let ends = json!({ "do": "ends", "topic": application.output });
        let mut results = 0;
        loop {
            let sample = self.sample(process, last.records);
            let found = sum(&java::call(&self.broker, ends.clone())["offsets"]);
            if found != results {
                (last, results) = (sample, found);
            } else if sample.seconds - last.seconds > QUIET.as_secs_f64() {
                return last;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn sample(&self, process: &Process, records: u64) -> Sample {
        Sample {
            seconds: process.seconds(),
            cpu: process.cpu_seconds(),
            broker_cpu: self.broker_cpu_seconds(),
            records,
        }
    }

    fn broker_cpu_seconds(&self) -> f64 {
        let process = std::fs::read_to_string(self.broker.directory().join("pid")).unwrap();
        cpu_seconds(process.trim().parse().unwrap()).unwrap()
    }

    fn report(&mut self, name: &str, ours: Rate, theirs: Rate, more: &str, target: f64) {
        let ratio = ours.throughput / theirs.throughput;
        let cpu_ratio = theirs.cpu / ours.cpu;
        let peer = if self.options.beside.is_some() { "other" } else { "kafka_streams" };
        println!(
            "{name} millstream={:.0} {peer}={:.0} ratio={ratio:.2} cpu_ratio={cpu_ratio:.2} \
             (CPU {:.2} : {:.2} us a record; {more})",
            ours.throughput,
            theirs.throughput,
            ours.cpu * 1e6,
            theirs.cpu * 1e6,
        );
        if self.options.beside.is_none() {
            self.judge(name, ratio.min(cpu_ratio), target);
        }
    }

    fn judge(&mut self, name: &str, ratio: f64, target: f64) {
        if ratio < 1.0 {
            self.lost.push(name.to_owned());
        } else if ratio < target {
            self.missed.push(format!("{name}: {ratio:.2} of {target}"));
        }
    }

    /// Milliseconds from the moment a record is due to that at which its result is read, through the JSON filter.
    fn latency(&mut self, guarantee: &'static str) {
        let mut probe = |engine, flags: &[&str]| {
            let input = format!("bench-{}-input", self.applications + 1);
            java::create_topic(&self.broker, &input, 4);
            let application = self.application(engine, "json-filter", guarantee, &input);
            let mut process = application.start(Until::Told, flags);
            process.await_ready();
            let output = tool("Latency", "512m")
                .args([self.broker.brokers(), &input, &application.output])
                .args(LOAD)
                .output()
                .unwrap();
            process.end();
            self.remove(&application);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let measured: Json =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("Latency: {error}: {text}"));
            ["p50", "p99"].map(|name| measured[name].as_f64().unwrap())
        };
        let ours = probe(Engine::Millstream, &[]);
        let theirs = probe(Engine::KafkaStreams, &[]);
        let fast = probe(Engine::Millstream, &["--commit-every", "20ms"]);
        let unbuffered = probe(Engine::KafkaStreams, &["--linger", "0"]);
        let name = format!("latency/{guarantee}");
        let text = |[p50, p99]: [f64; 2]| format!("{p50:.0}/{p99:.0}");
        println!(
            "{name} millstream={} kafka_streams={} ratio={:.2}/{:.2} (p50/p99 in ms; millstream with commit-every = \"20ms\" {}, \
             kafka_streams with linger.ms = 0 {})",
            text(ours),
            text(theirs),
            theirs[0] / ours[0],
            theirs[1] / ours[1],
            text(fast),
            text(unbuffered),
        );
        self.judge(&name, (theirs[0] / ours[0]).min(theirs[1] / ours[1]), 1.0);
        if fast[1] > 30.0 {
            self.missed
                .push(format!("{name}: p99 is {:.0} ms of 30 ms with commit-every = \"20ms\"", fast[1]));
        }
    }
}

/// Where a process is.
struct Sample {
    /// Since it started.
    seconds: f64,
    cpu: f64,
    broker_cpu: f64,
    /// That are committed.
    records: u64,
}

impl Sample {
    fn since(&self, other: &Sample) -> Rate {
        let records = (self.records - other.records) as f64;
        Rate {
            throughput: records / (self.seconds - other.seconds),
            cpu: (self.cpu - other.cpu) / records,
            broker_cpu: (self.broker_cpu - other.broker_cpu) / records,
        }
    }
}

/// Starts an application again, without its local state: until all keys are there.
fn restored(application: &Application, keys: f64) -> Rate {
    std::fs::remove_dir_all(application.state()).unwrap();
    let mut process = application.start(Until::Restored, &[]);
    process.await_ready();
    let (seconds, cpu) = (process.seconds(), process.cpu_seconds());
    let rate = Rate { throughput: keys / seconds, cpu: cpu / keys, broker_cpu: 0.0 };
    process.end();
    rate
}

fn input(workload: &Workload) -> String {
    format!("events-{}", workload.name)
}

fn sum(offsets: &Json) -> u64 {
    offsets.as_array().unwrap().iter().filter_map(Json::as_u64).sum()
}

/// Of each figure.
fn median(rates: Vec<Rate>) -> Rate {
    let middle = |figure: fn(&Rate) -> f64| {
        let mut figures: Vec<f64> = rates.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Rate {
        throughput: middle(|rate| rate.throughput),
        cpu: middle(|rate| rate.cpu),
        broker_cpu: middle(|rate| rate.broker_cpu),
    }
}
