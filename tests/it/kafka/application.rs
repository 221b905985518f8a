//! An application on a broker: its topics, its processes, and what they have to write.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::broker::{Broker, unique};
use super::java::{self, Record};
use super::verifier::verify;
use crate::support::{Folder, command, run};

/// Steps of every kind of state on one source. `{app}` is the application's id, which its topics begin with.
pub const TOPOLOGY: &str = r#"
[app]
id = "{app}"

[sources.payments]
topic = "{app}-payments"
key   = { card = "string" }
value = { at = "timestamp", amount = "int64" }
time  = "at"

[steps.large]
op    = "filter"
from  = "payments"
where = "amount > 500"

[steps.totals]
op      = "aggregate"
from    = "payments"
columns = { payments = "count(*)", spend = "sum(amount)" }

[steps.minutes]
op      = "aggregate"
from    = "payments"
window  = { tumbling = "1s" }
columns = { payments = "count(*)", largest = "max(amount)" }

[steps.recent]
op   = "features"
from = "payments"
columns.payments_5s = { value = "count(*)", last = "5s" }
columns.spend_5s    = { value = "sum(amount)", last = "5s" }

[sinks.large_payments]
from  = "large"
topic = "{app}-large"

[sinks.totals_of_cards]
from  = "totals"
topic = "{app}-totals"

[sinks.totals_of_minutes]
from  = "minutes"
topic = "{app}-minutes"

[sinks.featured]
from  = "recent"
topic = "{app}-featured"
"#;

/// The sinks of the topology that are streams, and those that are tables.
pub const STREAMS: [&str; 2] = ["large", "featured"];
pub const TABLES: [&str; 2] = ["totals", "minutes"];

/// An application in a folder of its own.
pub struct Application {
    /// Its id, which its topics begin with.
    pub id: String,
    /// Where its topology, its state directories and its log are.
    pub folder: Folder,
    partitions: usize,
}

impl Application {
    /// Writes the topology, and makes its topics with one partition each.
    pub fn new(broker: &Broker, name: &str, topology: &str) -> Self {
        Self::partitioned(broker, name, topology, 1)
    }

    /// Writes the topology, and makes its topics.
    pub fn partitioned(broker: &Broker, name: &str, topology: &str, partitions: usize) -> Self {
        let topics = [&["payments"][..], &STREAMS, &TABLES].concat();
        Self::of_topics(broker, name, topology, &topics, partitions)
    }

    /// Writes any topology, and makes these topics for it.
    pub fn of_topics(
        broker: &Broker,
        name: &str,
        topology: &str,
        topics: &[&str],
        partitions: usize,
    ) -> Self {
        let id = unique(name);
        let folder = Folder::new();
        folder.write("topology.toml", topology.replace("{app}", &id));
        for topic in topics {
            java::create_topic(broker, &format!("{id}-{topic}"), partitions);
        }
        Application { id, folder, partitions }
    }

    /// How many partitions each of its topics has.
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    /// The full name of a topic.
    pub fn topic(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    /// Starts a process that commits often; `more` are flags.
    pub fn start(&self, broker: &Broker, state: &str, more: &[&str]) -> Running {
        self.start_with(broker, state, more, &[])
    }

    /// Starts a process with flags and variables of its environment.
    pub fn start_with(
        &self,
        broker: &Broker,
        state: &str,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> Running {
        let (file, state) = (self.folder.at("topology.toml"), self.folder.at(state));
        let mut arguments = vec!["run", &file, "--brokers", broker.brokers(), "--state-dir", &state];
        let usual = [
            ["--listen", "127.0.0.1:0"],
            ["--commit-every", "20ms"],
            ["--session-timeout", "1s"],
            ["--threads", "1"],
        ];
        arguments.extend(usual.iter().filter(|[flag, _]| !more.contains(flag)).flatten());
        arguments.extend(more);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.at("log")).unwrap();
        let mut command = command(&arguments);
        command.env("MILLSTREAM_LOG", "info").envs(environment.iter().copied());
        Running(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Starts so many processes and kills each after `alive` milliseconds or somewhat more. After every `fresh`th the state directory is gone.
    pub fn kill_again_and_again(&self, broker: &Broker, kills: u64, alive: u64, fresh: u64, more: &[&str]) {
        for number in 0..kills {
            let running = self.start(broker, "state", more);
            std::thread::sleep(Duration::from_millis(alive + number * 97 % 500));
            running.kill();
            if number % fresh == fresh - 1 {
                std::fs::remove_dir_all(self.folder.at("state")).unwrap();
            }
        }
    }

    /// Says how many transactions with records of one of its topics were aborted.
    pub fn aborted(&self, broker: &Broker, topic: &str) -> i64 {
        let data = broker.directory().join("data").display().to_string();
        let topic = self.topic(topic);
        let markers = java::call(broker, json!({ "do": "markers", "topic": topic, "directory": data }));
        markers["aborted"].as_i64().unwrap()
    }

    /// What all processes have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.at("log")).unwrap_or_default()
    }

    /// What the process that was started last answers.
    pub fn get(&self, path: &str) -> Option<String> {
        let log = self.log();
        let (_, address) = log.rsplit_once("http=")?;
        let mut server = TcpStream::connect(address.split_whitespace().next()?.trim_matches('"')).ok()?;
        write!(server, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        server.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// The value of a series of the process that was started last.
    pub fn metric(&self, series: &str) -> Option<f64> {
        self.get("/metrics")?.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// The committed offsets of the payments, all partitions together.
    #[track_caller]
    pub fn progress(&self, broker: &Broker) -> i64 {
        self.progress_in(broker, "payments")
    }

    #[track_caller]
    fn progress_in(&self, broker: &Broker, source: &str) -> i64 {
        let committed = json!({ "do": "committed", "group": self.id, "topic": self.topic(source) });
        let mut found = Json::Null;
        self.wait_until("the committed offsets", || {
            found = java::try_call(broker, committed.clone());
            found.get("error").is_none()
        });
        found["offsets"].as_array().unwrap().iter().filter_map(Json::as_i64).sum()
    }

    /// Waits until `more` payments are committed than now.
    #[track_caller]
    pub fn await_progress(&self, broker: &Broker, more: i64) {
        let before = self.progress(broker);
        self.wait_until("progress", || self.progress(broker) >= before + more);
    }

    /// Waits until the offsets after the last payments are committed. What was sent may still arrive.
    #[track_caller]
    pub fn await_end(&self, broker: &Broker) {
        self.await_end_of(broker, "payments");
    }

    /// The same for any source.
    #[track_caller]
    pub fn await_end_of(&self, broker: &Broker, source: &str) {
        let end = || {
            let ends = java::try_call(broker, json!({ "do": "ends", "topic": self.topic(source) }));
            Some(ends["offsets"].as_array()?.iter().filter_map(Json::as_i64).sum::<i64>())
        };
        self.wait_until("the end", || end() == Some(self.progress_in(broker, source)));
    }

    /// Waits until all payments of the file are written and processed.
    #[track_caller]
    pub fn await_all(&self, broker: &Broker, mut feeding: Running) {
        self.wait_until("all payments to be written", || !feeding.goes_on());
        assert_eq!(feeding.code(), Some(0));
        self.await_end(broker);
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(90), "waited for {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the in-memory driver writes for what is in the input topic, by topic and partition.
    pub fn expected(&self, broker: &Broker) -> BTreeMap<(String, i64), Vec<Json>> {
        let mut input = Vec::new();
        for record in java::consume(broker, &self.topic("payments")) {
            let value: Json = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
            let key = String::from_utf8(record.key.unwrap()).unwrap();
            let line = json!({
                "topic": self.topic("payments"), "timestamp": record.timestamp, "key": { "card": key }, "value": value,
            });
            input.extend(line.to_string().into_bytes());
            input.push(b'\n');
        }
        let file = self.folder.at("topology.toml");
        let pipe = command(&["pipe", &file, "--partitions", &self.partitions.to_string()]);
        let mut expected: BTreeMap<_, Vec<Json>> = BTreeMap::new();
        for line in run(pipe, &input).expect_code(0).lines() {
            let topic = line["topic"].as_str().unwrap().to_owned();
            let partition = line["partition"].as_i64().unwrap_or(0);
            let row = row(&line["key"], line["value"].clone(), &line["timestamp"]);
            expected.entry((topic, partition)).or_default().push(row);
        }
        expected
    }

    /// What is committed in the topic of a sink, by topic and partition.
    pub fn written(&self, broker: &Broker, sink: &str) -> BTreeMap<(String, i64), Vec<Json>> {
        let topic = self.topic(sink);
        let mut written: BTreeMap<_, Vec<Json>> = BTreeMap::new();
        for record in java::consume(broker, &topic) {
            written.entry((topic.clone(), record.partition)).or_default().push(read(&record));
        }
        written
    }

    /// Fails the test unless what is committed in the topics is what an undisturbed run gives: streams record by record,
    /// tables in the last row of each key. Changelogs and state directories have to hold the same. All processes have ended.
    #[track_caller]
    pub fn check(&self, broker: &Broker) {
        if let Err(what) = verify(broker, self) {
            panic!("{what}\n{}", self.log());
        }
    }

    /// Fails the test unless these sinks have the last row of each key that an undisturbed run gives.
    #[track_caller]
    pub fn check_tables(&self, broker: &Broker, sinks: &[&str]) {
        let expected = self.expected(broker);
        for sink in sinks {
            let written = self.written(broker, sink);
            for (partition, expected) in expected.iter().filter(|((topic, _), _)| *topic == self.topic(sink))
            {
                let found = newest(written.get(partition).map_or(&[], Vec::as_slice));
                let expected = newest(expected);
                assert_eq!(found.len(), expected.len(), "{partition:?}");
                for (key, row) in expected {
                    assert_eq!(found.get(&key), Some(&row), "{partition:?} {key}");
                }
            }
        }
    }

    /// Fails the test unless everything that an undisturbed run gives is there, perhaps several times.
    #[track_caller]
    pub fn check_at_least_once(&self, broker: &Broker) {
        let expected = self.expected(broker);
        let rows = |sink: &str| {
            let partition = (self.topic(sink), 0);
            (self.written(broker, sink).remove(&partition).unwrap(), expected[&partition].clone())
        };
        // What depends on its record alone is the same each time.
        let (found, all) = rows("large");
        let times = |rows: &[Json]| {
            let mut times: BTreeMap<String, usize> = BTreeMap::new();
            rows.iter().for_each(|row| *times.entry(row.to_string()).or_default() += 1);
            times
        };
        let found = times(&found);
        for (row, count) in times(&all) {
            assert!(found.get(&row).is_some_and(|found| *found >= count), "{row}");
        }
        assert_eq!(found.len(), times(&all).len());
        let (found, all) = rows("featured");
        let records = |rows: &[Json]| -> BTreeSet<String> {
            rows.iter().map(|row| format!("{} {}", row["key"], row["timestamp"])).collect()
        };
        assert_eq!(records(&found), records(&all));
        // The largest of some is the largest of them when one is seen twice; how many there are is not.
        for sink in TABLES {
            let (found, all) = rows(sink);
            let (found, all) = (newest(&found), newest(&all));
            assert_eq!(found.len(), all.len(), "{sink}");
            for (key, row) in all {
                let (found, value) = (&found[&key]["value"], &row["value"]);
                assert_eq!(found["largest"], value["largest"], "{key}");
                assert!(found["payments"].as_i64() >= value["payments"].as_i64(), "{key}: {found} of {row}");
            }
        }
    }

    /// Fails the test unless these sinks have, record by record, what an undisturbed run gives.
    #[track_caller]
    pub fn check_streams(&self, broker: &Broker, sinks: &[&str]) {
        let expected = self.expected(broker);
        for sink in sinks {
            let written = self.written(broker, sink);
            let of_sink = expected.iter().filter(|((topic, _), _)| *topic == self.topic(sink));
            assert_eq!(written.len(), of_sink.clone().count(), "{sink}");
            assert!(!written.is_empty(), "{sink}");
            for (partition, expected) in of_sink {
                let found = &written[partition];
                let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
                if let Some(number) = differs {
                    let (found, expected) = (&found[number], &expected[number]);
                    panic!("{partition:?}, record {number}: {found} instead of {expected}\n{}", self.log());
                }
                assert_eq!(found.len(), expected.len(), "{partition:?}");
            }
        }
    }
}

/// A process of `millstream`; it is killed when this is dropped.
pub struct Running(Child);

impl Running {
    /// Starts one.
    pub fn start(mut command: Command) -> Self {
        Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Ends it as a crash of the machine does.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Asks it to end; gives the exit code.
    pub fn end(mut self) -> Option<i32> {
        self.ask_to_end();
        self.code()
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to end, once it listens: a process that has not got so far is ended by the signal itself.
    pub fn ask_to_end(&self) {
        let start = Instant::now();
        while !self.catches_signals() && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.signal("-TERM");
    }

    /// Whether it has said what is to be done at SIGTERM. One that has ended needs no more waiting for.
    fn catches_signals(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let caught = of("SigCgt:").map(|mask| u64::from_str_radix(mask, 16).unwrap());
        of("State:").is_some_and(|state| state.starts_with('Z'))
            || caught.is_some_and(|mask| mask & 1 << (libc::SIGTERM - 1) != 0)
    }

    /// It stands still.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// It goes on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Whether it goes on.
    pub fn goes_on(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits until it ends by itself; gives the exit code.
    #[track_caller]
    pub fn code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                if status.code().is_none() {
                    eprintln!("{status}");
                }
                return status.code();
            }
            assert!(start.elapsed() < Duration::from_secs(60), "it does not end\n{}", self.threads_and_log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What its threads wait for, and what it has logged.
    fn threads_and_log(&self) -> String {
        let process = Path::new("/proc").join(self.0.id().to_string());
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let threads = std::fs::read_dir(process.join("task")).into_iter().flatten().flatten();
        let threads = threads.map(|thread| {
            let [name, state, call] = ["comm", "wchan", "syscall"].map(|file| read(thread.path().join(file)));
            format!("{name}: {state} {call}\n")
        });
        threads.collect::<String>() + &read(process.join("fd/2"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A written record as tests compare it. A key of one column is its text.
fn row(key: &Json, value: Json, timestamp: &Json) -> Json {
    let key = match key.as_object() {
        Some(columns) if columns.len() == 1 => columns.values().next().cloned().unwrap_or_default(),
        _ => key.clone(),
    };
    json!({ "key": key, "value": value, "timestamp": timestamp })
}

fn read(record: &Record) -> Json {
    let key = String::from_utf8(record.key.clone().unwrap()).unwrap();
    let key = serde_json::from_str(&key).unwrap_or(Json::String(key));
    let value = record.value.as_deref().map_or(Json::Null, |value| serde_json::from_slice(value).unwrap());
    row(&key, value, &json!(record.timestamp))
}

/// The last row of each key.
pub fn newest(rows: &[Json]) -> BTreeMap<String, Json> {
    rows.iter().map(|row| (row["key"].to_string(), row.clone())).collect()
}

/// Numbers that look random and are the same each time; their upper bits are the better ones.
pub fn random(seed: u64) -> impl Iterator<Item = u64> {
    let next = |random: &u64| {
        Some(random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    };
    std::iter::successors(Some(seed), next).skip(1)
}

/// Payments of 50 cards, one each millisecond, some of them late.
pub fn payments(count: i64, application: &Application) {
    payments_of(50, 2, count, application);
}

/// Payments of so many cards, whose names have so many digits.
pub fn payments_of(cards: u64, digits: usize, count: i64, application: &Application) {
    let mut text = String::from("card,at,amount\n");
    for (number, random) in (0..count).zip(random(7)) {
        let (card, amount) = ((random >> 33) % cards, (random >> 40) % 1000);
        let at = 1_767_225_600_000 + number;
        text.push_str(&format!("card-{card:0digits$},{at},{amount}\n"));
    }
    application.folder.write("payments.csv", text);
}

/// Starts to write payments to the topic, `speed` times as fast as they were made.
pub fn feed(broker: &Broker, application: &Application, speed: &str) -> Running {
    feed_at(broker.brokers(), application, speed)
}

/// The same through these brokers.
pub fn feed_at(brokers: &str, application: &Application, speed: &str) -> Running {
    feed_into(brokers, application, "payments", speed)
}

/// The same into any source.
pub fn feed_into(brokers: &str, application: &Application, source: &str, speed: &str) -> Running {
    let feed = format!("{source}={}", application.folder.at("payments.csv"));
    let file = application.folder.at("topology.toml");
    let arguments = ["feed", &file, "--feed", &feed, "--brokers", brokers, "--speed", speed];
    Running::start(command(&arguments))
}
