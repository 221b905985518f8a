//! Kafka's own Java client (`tests/kafka/java/Client.java`): makes topics, writes and reads records, looks at groups.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use millstream::engine::record::Header;
use serde_json::{Value as Json, json};

use super::broker::Broker;

/// A record that the Java client read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The number of its partition.
    pub partition: i64,
    /// Its offset.
    pub offset: i64,
    /// Epoch milliseconds.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// As the engine reads it.
    pub fn as_read(&self) -> millstream::engine::record::Record {
        let header =
            |(name, value): &(String, Option<Vec<u8>>)| Header { name: name.clone(), value: value.clone() };
        millstream::engine::record::Record {
            key: self.key.clone(),
            value: self.value.clone(),
            timestamp: self.timestamp,
            headers: self.headers.iter().map(header).collect(),
            offset: self.offset,
        }
    }
}

/// A Java program that answers each line of JSON with one. It ends with this.
pub struct Java {
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Java {
    /// Starts a program of `scripts/kafka java`.
    pub fn start(class: &str, options: &str) -> Self {
        let mut child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka"))
            .args(["java", class])
            .env("MILLSTREAM_JAVA_OPTS", format!("{options} -Dorg.slf4j.simpleLogger.defaultLogLevel=error"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Java { _child: child, input, output }
    }

    /// What it answers.
    #[track_caller]
    pub fn ask(&mut self, question: &Json) -> Json {
        writeln!(self.input, "{question}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{question}: {line}: {error}"))
    }
}

/// Runs a command of the client against a broker; it says there what it takes and gives. One process serves all tests
/// and ends with this one.
#[track_caller]
pub fn call(broker: &Broker, command: Json) -> Json {
    let answer = try_call(broker, command.clone());
    assert!(answer.get("error").is_none(), "{command}: {answer}");
    answer
}

/// The same; a failure is `{"error": …}`.
pub fn try_call(broker: &Broker, mut command: Json) -> Json {
    static JAVA: OnceLock<Mutex<Java>> = OnceLock::new();
    let java = JAVA.get_or_init(|| Mutex::new(Java::start("Client", "-Xmx2g -XX:TieredStopAtLevel=1")));
    let mut java = java.lock().unwrap_or_else(PoisonError::into_inner);
    command["brokers"] = broker.internal().into();
    java.ask(&command)
}

/// Makes a topic, and waits until the broker has it too: the controller answers before that.
#[track_caller]
pub fn create_topic(broker: &Broker, topic: &str, partitions: usize) {
    call(broker, json!({ "do": "create-topic", "topic": topic, "partitions": partitions }));
    let start = Instant::now();
    while try_call(broker, json!({ "do": "ends", "topic": topic })).get("error").is_some() {
        assert!(start.elapsed() < Duration::from_secs(60), "{topic} has no leaders");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The committed records of a topic, by partition and offset.
#[track_caller]
pub fn consume(broker: &Broker, topic: &str) -> Vec<Record> {
    records(&call(broker, json!({ "do": "consume", "topic": topic })))
}

/// The records in an answer of `consume`.
pub fn records(answer: &Json) -> Vec<Record> {
    let bytes = |json: &Json| json.as_str().map(|text| BASE64_STANDARD.decode(text).unwrap());
    answer["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| Record {
            partition: record["partition"].as_i64().unwrap(),
            offset: record["offset"].as_i64().unwrap(),
            timestamp: record["timestamp"].as_i64().unwrap(),
            key: bytes(&record["key"]),
            value: bytes(&record["value"]),
            headers: record["headers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|header| (header[0].as_str().unwrap().to_owned(), bytes(&header[1])))
                .collect(),
        })
        .collect()
}
