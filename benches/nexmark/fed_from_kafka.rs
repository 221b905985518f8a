//! A query as a process of its own, on a broker of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use millstream::engine::kafka::{ClientSettings, Producer, ProducerOptions, Security, SendError};
use millstream::engine::partitioner::partition;
use millstream_topology_examples::nexmark::{Event, TOPICS};
use serde_json::json;
use tempfile::TempDir;

use super::{Query, Rate};
use crate::broker::{Broker, BrokerOptions};
use crate::cpu::cpu_seconds;
use crate::java;

const PARTITIONS: u32 = 4;
/// A query that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(300);

/// A broker with the events in its topics.
pub struct Kafka {
    broker: Broker,
    directory: TempDir,
    /// Of each topic.
    events: [u64; TOPICS.len()],
}

impl Kafka {
    /// Starts the broker and writes the events.
    pub fn filled(events: &[Event]) -> Kafka {
        // No compaction and no retention in the middle of a run: the events' own time is long ago.
        let properties = vec![
            ("log.cleaner.enable", "false"),
            ("log.retention.ms", "-1"),
            ("log.retention.check.interval.ms", "86400000"),
        ];
        let broker = Broker::start(&BrokerOptions { properties, measured: true, ..BrokerOptions::default() });
        let settings = ClientSettings {
            brokers: broker.brokers().to_owned(),
            client_id: "nexmark".to_owned(),
            security: Security::default(),
            properties: Vec::new(),
        };
        let options = ProducerOptions {
            transactional_id: None,
            transaction_timeout: Duration::from_secs(60),
            linger: Duration::from_millis(20),
            buffer_bytes: 64 << 20,
            batch_bytes: usize::MAX,
            compression: "lz4".to_owned(),
        };
        let producer = Producer::new(&settings, &options).unwrap();
        let topics = TOPICS.map(|topic| {
            java::create_topic(&broker, topic, PARTITIONS as usize);
            producer.topic(topic).unwrap()
        });
        let mut counts = [0; TOPICS.len()];
        for event in events {
            let position = TOPICS.iter().position(|topic| *topic == event.topic()).unwrap();
            let (key, value) = (event.key().1.to_be_bytes(), event.json());
            let partition = partition(&key, PARTITIONS) as i32;
            let time = event.time() as i64;
            let send = || {
                let value = Some(value.as_bytes());
                producer.send(topics[position], partition, Some(&key), value, time, std::iter::empty())
            };
            while let Err(error) = send() {
                assert!(matches!(error, SendError::QueueFull), "{error:?}");
                producer.poll(Duration::from_millis(10));
            }
            counts[position] += 1;
        }
        producer.flush(PATIENCE).unwrap();
        Kafka { broker, directory: TempDir::new().unwrap(), events: counts }
    }

    /// Runs a query over all that is in its topics, and everything that it writes for itself.
    pub fn run(&mut self, query: &Query) -> Rate {
        let read = |topic: &str| query.topology.sources.iter().any(|source| source.topic == topic);
        let counts = TOPICS.iter().zip(self.events);
        let events = counts.filter(|(topic, _)| read(topic)).map(|(_, count)| count).sum();
        let process = Process::start(query, &self.broker, self.directory.path().join(&query.name));
        let sample = || (Instant::now(), process.cpu_seconds(), self.broker_seconds());
        let await_processed = |wanted: fn(Processed, u64) -> bool| {
            while !process.processed().is_some_and(|processed| wanted(processed, events)) {
                // Fails if it has ended.
                process.cpu_seconds();
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        await_processed(|processed, _| processed.records > 0.0);
        let (start, cpu, broker) = sample();
        await_processed(|processed, events| {
            processed.records >= events as f64 + processed.repartitioned && processed.lag == 0.0
        });
        let (end, cpu_end, broker_end) = sample();
        process.end();
        java::call(&self.broker, json!({ "do": "delete-topics", "prefix": query.topology.app.id }));
        java::call(&self.broker, json!({ "do": "delete-topic", "topic": query.name }));
        Rate {
            events,
            seconds: (end - start).as_secs_f64(),
            cpu_seconds: cpu_end - cpu,
            broker_seconds: broker_end - broker,
        }
    }

    fn broker_seconds(&self) -> f64 {
        let process = std::fs::read_to_string(self.broker.directory().join("pid")).unwrap();
        cpu_seconds(process.trim().parse().unwrap()).unwrap()
    }
}

/// A running query.
struct Process {
    child: Child,
    started: Instant,
    listen: String,
    log: PathBuf,
}

/// How far it is.
#[derive(Clone, Copy)]
struct Processed {
    /// Of all topics, its own included.
    records: f64,
    /// Given to topics of its own.
    repartitioned: f64,
    /// Waiting in the topics of events, as of the last commit. In its own ones the end of a transaction counts, too.
    lag: f64,
}

impl Process {
    fn start(query: &Query, broker: &Broker, directory: PathBuf) -> Process {
        std::fs::create_dir_all(&directory).unwrap();
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let log = directory.join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("run").arg(&query.file).args([
            "--create-topics",
            "--threads",
            "1",
            "--instance",
            "bench",
        ]);
        command.args(["--listen", &listen, "--brokers", broker.brokers(), "--state-dir"]);
        command.arg(directory.join("state")).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        Process { child, started: Instant::now(), listen, log }
    }

    fn processed(&self) -> Option<Processed> {
        let mut stream = TcpStream::connect(&self.listen).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let sum = |name: &str, label: &str| -> f64 {
            let lines = answer.lines().filter(|line| line.starts_with(name) && line.contains(label));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Some(Processed {
            records: sum("millstream_task_processed_records_total{", ""),
            repartitioned: sum("millstream_written_records_total{", "kind=\"repartition\""),
            lag: TOPICS
                .map(|topic| sum("millstream_task_input_lag_records{", &format!("topic=\"{topic}\"")))
                .iter()
                .sum(),
        })
    }

    #[track_caller]
    fn cpu_seconds(&self) -> f64 {
        let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
        assert!(self.started.elapsed() < PATIENCE, "it takes too long\n{}", log());
        cpu_seconds(self.child.id()).unwrap_or_else(|| panic!("it has ended\n{}", log()))
    }

    /// Ends it in order.
    fn end(mut self) {
        let told = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.child.id())).status();
        assert!(told.unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
