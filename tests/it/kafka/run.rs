//! `millstream run` on a real broker: what it commits is what an undisturbed run over the same input gives.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use millstream::engine::kafka::{ClientSettings, GroupConsumer, GroupEvent, GroupOptions};
use serde_json::{Value as Json, json};

use super::broker::{Broker, BrokerOptions, unique};
use super::java::{self, Record};
use super::proxy::{END_TRANSACTION, Lost, Proxy};
use crate::support::{Folder, command, run as run_to_end};

/// Steps of every kind of state on one source. `{app}` is the application's id, which its topics begin with.
const TOPOLOGY: &str = r#"
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
const STREAMS: [&str; 2] = ["large", "featured"];
const TABLES: [&str; 2] = ["totals", "minutes"];

/// An application in a folder of its own.
struct Application {
    id: String,
    folder: Folder,
}

impl Application {
    /// Writes the topology, and makes its topics with one partition each.
    fn new(broker: &Broker, name: &str, topology: &str) -> Self {
        let id = unique(name);
        let folder = Folder::new();
        folder.write("topology.toml", topology.replace("{app}", &id));
        for topic in ["payments", "large", "totals", "minutes", "featured"] {
            java::create_topic(broker, &format!("{id}-{topic}"), 1);
        }
        Application { id, folder }
    }

    fn topic(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    /// Starts a process that commits often; `more` are flags.
    fn start(&self, broker: &Broker, state: &str, more: &[&str]) -> Running {
        let (file, state) = (self.folder.at("topology.toml"), self.folder.at(state));
        let mut arguments = vec!["run", &file, "--brokers", broker.brokers(), "--state-dir", &state];
        arguments.extend(["--listen", "127.0.0.1:0", "--commit-every", "20ms", "--session-timeout", "1s"]);
        arguments.extend(["--threads", "1"]);
        arguments.extend(more);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.at("log")).unwrap();
        Running(
            command(&arguments)
                .env("MILLSTREAM_LOG", "info")
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap(),
        )
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.at("log")).unwrap_or_default()
    }

    /// What the process that was started last answers.
    fn get(&self, path: &str) -> Option<String> {
        let log = self.log();
        let (_, address) = log.rsplit_once("http=")?;
        let mut server = TcpStream::connect(address.split_whitespace().next()?.trim_matches('"')).ok()?;
        write!(server, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        server.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// The value of a series of the process that was started last.
    fn metric(&self, series: &str) -> Option<f64> {
        self.get("/metrics")?.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Waits until the offset after the last payment is committed.
    #[track_caller]
    fn await_end(&self, broker: &Broker) {
        let topic = self.topic("payments");
        let end = java::call(broker, json!({ "do": "ends", "topic": topic }))["offsets"][0].clone();
        let start = Instant::now();
        loop {
            let found = java::call(broker, json!({ "do": "committed", "group": self.id, "topic": topic }));
            if found["offsets"][0] == end {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(180), "{found} of {end}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the in-memory driver writes for what is in the input topic, by sink.
    fn expected(&self, broker: &Broker) -> BTreeMap<String, Vec<Json>> {
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
        let ran = run_to_end(command(&["pipe", &self.folder.at("topology.toml")]), &input).expect_code(0);
        let mut expected: BTreeMap<String, Vec<Json>> = BTreeMap::new();
        for line in ran.lines() {
            let topic = line["topic"].as_str().unwrap().to_owned();
            expected.entry(topic).or_default().push(row(
                &line["key"],
                line["value"].clone(),
                &line["timestamp"],
            ));
        }
        expected
    }

    /// Fails the test unless what is committed in the topics is what an undisturbed run gives.
    #[track_caller]
    fn check(&self, broker: &Broker) {
        let expected = self.expected(broker);
        for sink in STREAMS {
            let topic = self.topic(sink);
            let found: Vec<Json> = java::consume(broker, &topic).iter().map(read).collect();
            let expected = &expected[&topic];
            let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
            if let Some(number) = differs {
                panic!("{topic}, record {number}: {} instead of {}", found[number], expected[number]);
            }
            assert_eq!(found.len(), expected.len(), "{topic}");
        }
        for sink in TABLES {
            let topic = self.topic(sink);
            let found: Vec<Json> = java::consume(broker, &topic).iter().map(read).collect();
            let (found, expected) = (newest(&found), newest(&expected[&topic]));
            assert_eq!(found.len(), expected.len(), "{topic}");
            for (key, row) in expected {
                assert_eq!(found.get(&key), Some(&row), "{topic} {key}");
            }
        }
    }
}

/// A process of `millstream run`; it is killed when this is dropped.
struct Running(Child);

impl Running {
    /// Ends it as a crash of the machine does.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Asks it to end; gives the exit code.
    fn end(mut self) -> Option<i32> {
        let id = self.0.id().to_string();
        std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap();
        self.0.wait().unwrap().code()
    }

    /// Whether it goes on.
    fn goes_on(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A written record as the test compares it. A key of one column is its text.
fn row(key: &Json, value: Json, timestamp: &Json) -> Json {
    let key = match key.as_object() {
        Some(columns) if columns.len() == 1 => columns["card"].clone(),
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
fn newest(rows: &[Json]) -> BTreeMap<String, Json> {
    rows.iter().map(|row| (row["key"].to_string(), row.clone())).collect()
}

/// Payments of 50 cards, one each millisecond, some of them late.
fn payments(count: i64, application: &Application) {
    let mut text = String::from("card,at,amount\n");
    let mut random: u64 = 7;
    for number in 0..count {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (card, amount) = ((random >> 33) % 50, (random >> 40) % 1000);
        let at = 1_767_225_600_000 + number;
        text.push_str(&format!("card-{card:02},{at},{amount}\n"));
    }
    application.folder.write("payments.csv", text);
}

/// Starts to write payments to the topic, `speed` times as fast as they were made.
fn feed(broker: &Broker, application: &Application, speed: &str) -> Running {
    let feed = format!("payments={}", application.folder.at("payments.csv"));
    let file = application.folder.at("topology.toml");
    let arguments = ["feed", &file, "--feed", &feed, "--brokers", broker.brokers(), "--speed", speed];
    Running(command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// The instance has a name, so that a process without the state of the former one still ends its transaction: else readers
/// of committed records would wait for its time-out.
#[test]
fn twenty_kills_lose_and_double_nothing() {
    let broker = Broker::start(&BrokerOptions::default());
    let application = Application::new(&broker, "killed", TOPOLOGY);
    payments(150_000, &application);
    let mut feeding = feed(&broker, &application, "4");
    for number in 0..20_u64 {
        let running = application.start(&broker, "state", &["--instance", "one"]);
        std::thread::sleep(Duration::from_millis(1600 + number * 97 % 500));
        running.kill();
        if number % 4 == 3 {
            std::fs::remove_dir_all(application.folder.at("state")).unwrap();
        }
    }
    let running = application.start(&broker, "state", &["--instance", "one"]);
    while feeding.goes_on() {
        std::thread::sleep(Duration::from_millis(50));
    }
    application.await_end(&broker);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(&broker);

    // Some of them must have hit an open transaction with changes of a store behind it: these are written as they are made.
    let totals = application.topic("totals");
    let data = broker.directory().join("data").display().to_string();
    let markers = java::call(&broker, json!({ "do": "markers", "topic": totals, "directory": data }));
    assert!(markers["aborted"].as_i64().unwrap() >= 5, "{markers}");
}

#[test]
fn a_process_that_is_asked_to_end_commits_and_another_goes_on() {
    let broker = Broker::start(&BrokerOptions::default());
    let application = Application::new(&broker, "asked", TOPOLOGY);
    payments(40_000, &application);
    let mut feeding = feed(&broker, &application, "4");
    // The first leaves, the second has state of its own, the third takes up that of the first.
    for state in ["first", "second", "first"] {
        let running = application.start(&broker, state, &["--instance", state]);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(running.end(), Some(0), "{}", application.log());
    }
    let running = application.start(&broker, "second", &["--instance", "second"]);
    while feeding.goes_on() {
        std::thread::sleep(Duration::from_millis(50));
    }
    application.await_end(&broker);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(&broker);
}

#[test]
fn a_broker_that_is_away_is_waited_for() {
    let broker = Broker::start(&BrokerOptions::default());
    let application = Application::new(&broker, "away", TOPOLOGY);
    payments(30_000, &application);
    broker.kill();
    let running = application.start(&broker, "state", &[]);
    std::thread::sleep(Duration::from_secs(1));
    broker.restart();
    let mut feeding = feed(&broker, &application, "4");
    std::thread::sleep(Duration::from_secs(4));
    broker.kill();
    broker.restart();
    while feeding.goes_on() {
        std::thread::sleep(Duration::from_millis(50));
    }
    application.await_end(&broker);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(&broker);
}

#[test]
fn a_process_that_is_asked_to_end_while_it_joins_does_not_wait_for_the_group() {
    let broker = Broker::shared();
    let application = Application::new(broker, "joining", TOPOLOGY);
    // A member that does not answer the group keeps everybody else out.
    let settings = ClientSettings { brokers: broker.brokers().to_owned(), ..ClientSettings::default() };
    let options = GroupOptions {
        group: application.id.clone(),
        session_timeout: Duration::from_secs(60),
        max_poll_interval: Duration::from_secs(60),
        queued_bytes_per_partition: 1 << 20,
        wait: None,
    };
    let member = GroupConsumer::new(&settings, &options).unwrap();
    member.subscribe(&[&application.topic("payments")]).unwrap();
    let start = Instant::now();
    while !matches!(member.poll(Duration::from_millis(100)), Some(GroupEvent::Assigned { .. })) {
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    let running = application.start(broker, "state", &[]);
    while application.get("/readyz").is_none_or(|answer| !answer.contains("its place in the consumer group"))
    {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", application.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    assert_eq!(running.end(), Some(0), "{}", application.log());
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}\n{}", application.log());
}

#[test]
fn a_commit_that_gets_no_answer_counts_as_what_it_was() {
    let proxy = Proxy::new();
    let broker = Broker::start(&BrokerOptions { proxy: Some(proxy.port()), ..BrokerOptions::default() });
    proxy.connect(broker.brokers());
    let application = Application::new(&broker, "answer", TOPOLOGY);
    payments(20_000, &application);
    let more = ["--brokers", &proxy.address(), "--transaction-timeout", "2s"];
    let running = application.start(&broker, "state", &more);
    for (lost, outcome) in [(Lost::Answer, "committed"), (Lost::Request, "aborted")] {
        proxy.lose(END_TRANSACTION, 5, lost);
        let mut feeding = feed(&broker, &application, "10");
        proxy.await_loss();
        // Until the process has given the answer up.
        std::thread::sleep(Duration::from_secs(4));
        proxy.heal();
        while feeding.goes_on() {
            std::thread::sleep(Duration::from_millis(50));
        }
        application.await_end(&broker);
        let series = |outcome: &str| {
            let id = &application.id;
            format!("millstream_transactions_unknown_total{{app=\"{id}\",outcome=\"{outcome}\"}}")
        };
        assert_eq!(application.metric(&series(outcome)), Some(1.0), "{outcome}\n{}", application.log());
        assert_ne!(application.metric(&series("unresolved")), Some(1.0), "{}", application.log());
    }
    for owner in ["state-cache", "write-buffers", "input-queues", "producer-buffers"] {
        let series = format!("millstream_memory_bytes{{app=\"{}\",owner=\"{owner}\"}}", application.id);
        // Nothing waits any more; what is kept is counted now and then.
        let held = owner.starts_with("state") || owner.starts_with("write");
        let start = Instant::now();
        while application.metric(&series).is_none_or(|bytes| (bytes > 0.0) != held) {
            assert!(start.elapsed() < Duration::from_secs(10), "{owner}: {:?}", application.metric(&series));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(&broker);
}

#[test]
fn a_record_that_fails_stops_the_process_before_it_and_poison_is_set_aside() {
    let broker = Broker::shared();
    let application = Application::new(broker, "poison", TOPOLOGY);
    let topic = application.topic("payments");
    let records = json!([
        { "key": "a", "value": "{\"at\":1000,\"amount\":700}" },
        { "key": "a", "value": "{\"at\":1001,\"amount\":" , "headers": [["trace", "eA=="]] },
        { "key": "a", "value": "{\"at\":1002,\"amount\":900}" },
    ]);
    java::call(broker, json!({ "do": "produce", "topic": topic, "records": records }));
    let mut running = application.start(broker, "state", &[]);
    let status = running.0.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{}", application.log());
    let said = application.log();
    assert!(said.contains(&format!("`payments` stopped at record {topic}/0 offset 1")), "{said}");
    assert_eq!(java::consume(broker, &application.topic("large")).len(), 1);

    let text = application.folder.read("topology.toml");
    let text = text.replace("time  = \"at\"", "time  = \"at\"\non-error = \"dead-letter\"");
    application.folder.write("topology.toml", text);
    let running = application.start(broker, "state", &[]);
    application.await_end(broker);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    assert_eq!(java::consume(broker, &application.topic("large")).len(), 2);
    let letters = java::consume(broker, &format!("{}-payments-dead-letter", application.id));
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].value.as_deref(), Some(&b"{\"at\":1001,\"amount\":"[..]));
    let header = |name: &str| {
        let found = letters[0].headers.iter().find(|(header, _)| header == name).cloned();
        String::from_utf8(found.unwrap().1.unwrap()).unwrap()
    };
    assert_eq!((header("trace"), header("millstream.error.offset")), ("x".to_owned(), "1".to_owned()));
}

#[test]
fn a_window_that_the_clock_closes_and_that_fails_stops_the_process() {
    const CLOSING: &str = r#"
[app]
id = "{app}"

[sources.payments]
topic      = "{app}-payments"
key        = { card = "string" }
value      = { at = "timestamp", amount = "int64" }
time       = "at"
idle-after = "500ms"

[steps.shares]
op      = "aggregate"
from    = "payments"
window  = { tumbling = "1s" }
emit    = "close"
columns = { share = "1 / (count(*) - 1)" }

[sinks.large]
from  = "shares"
topic = "{app}-large"
"#;
    let broker = Broker::shared();
    let application = Application::new(broker, "clock", CLOSING);
    let topic = application.topic("payments");
    let records = json!([{ "key": "a", "value": "{\"at\":1000,\"amount\":700}" }]);
    java::call(broker, json!({ "do": "produce", "topic": topic, "records": records }));
    let mut running = application.start(broker, "state", &[]);
    let start = Instant::now();
    while running.goes_on() {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", application.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(running.0.wait().unwrap().code(), Some(1), "{}", application.log());
    let said = application.log();
    assert!(
        said.contains(&format!("`shares` stopped when its time went on, in partition 0 of {topic}")),
        "{said}"
    );
    application.await_end(broker);
}

#[test]
fn topics_that_are_missing_or_other_than_needed_are_said() {
    let broker = Broker::shared();
    let application = Application::new(broker, "topics", TOPOLOGY);
    let file = application.folder.at("topology.toml");
    let run = |more: &[&str]| {
        let mut arguments = vec!["run", &file, "--brokers", broker.brokers(), "--listen", "127.0.0.1:0"];
        let state = application.folder.at("state");
        arguments.extend(["--state-dir", &state]);
        arguments.extend(more);
        run_to_end(command(&arguments), b"")
    };
    java::call(broker, json!({ "do": "delete-topic", "topic": application.topic("large") }));
    let missing = format!("topics do not exist: `{}-large` of `large_payments`", application.id);
    run(&[]).expect_code(1).says(&[&missing, "--create-topics", "kafka-topics.sh"]);

    java::create_topic(broker, &application.topic("large"), 1);
    java::create_topic(broker, &application.topic("totals-changelog"), 3);
    run(&[]).expect_code(3).says(&["-totals-changelog` has 3 partitions, this topology needs 1"]);

    java::call(broker, json!({ "do": "delete-topic", "topic": application.topic("totals-changelog") }));
    java::create_topic(broker, &application.topic("totals-changelog"), 1);
    run(&[]).expect_code(3).says(&["has `cleanup.policy = delete`, it needs `compact`", "--add-config"]);
}

#[test]
fn check_says_at_once_what_is_wrong_with_the_topics() {
    let broker = Broker::shared();
    let application = Application::new(broker, "checked", TOPOLOGY);
    let file = application.folder.at("topology.toml");
    let brokers = format!("--brokers={}", broker.brokers());
    let check = |more: &[&str]| run_to_end(command(&[&["check", &brokers, &file], more].concat()), b"");
    check(&["--deny-warnings"]).expect_code(0);

    let topic = |name: &str| application.topic(name);
    for name in ["payments", "large"] {
        java::call(broker, json!({ "do": "delete-topic", "topic": topic(name) }));
    }
    let config = json!({ "retention.ms": "3000" });
    let payments_topic = topic("payments");
    java::call(
        broker,
        json!({ "do": "create-topic", "topic": payments_topic, "partitions": 1, "config": config }),
    );
    java::create_topic(broker, &topic("totals-changelog"), 1);
    let found = check(&["--format", "json"]).expect_code(2).lines();
    let text = application.folder.read("topology.toml");
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|finding| {
            let line = finding["line"].as_u64().unwrap() as usize;
            (finding["code"].as_str().unwrap(), text.lines().nth(line - 1).unwrap())
        })
        .collect();
    let line = |name: &str| format!("topic = \"{}\"", topic(name));
    assert_eq!(
        found,
        [("M0913", &*line("payments")), ("M0912", "[steps.totals]"), ("M0910", &line("large"))]
    );

    // What keeps nothing from running is said by those who run.
    java::call(broker, json!({ "do": "delete-topic", "topic": topic("totals-changelog") }));
    java::create_topic(broker, &topic("large"), 1);
    let said = format!("topic `{}` keeps its records for 3s, but", topic("payments"));
    let ran = check(&[]).expect_code(0).says(&[&said, "`recent` looks back 5s", "retention.ms=5000"]);
    assert!(ran.stdout.contains("1 warning"), "{}", ran.stdout);
    check(&["--deny-warnings"]).expect_code(2);
    payments(10, &application);
    let feed = format!("payments={}", application.folder.at("payments.csv"));
    let arguments = ["feed", &file, "--feed", &feed, "--brokers", broker.brokers()];
    run_to_end(command(&arguments), b"").expect_code(0).says(&[&said, "old: the brokers remove"]);
    let running = application.start(broker, "state", &[]);
    let start = Instant::now();
    while !application.log().contains(&said) {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", application.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(running.end(), Some(0), "{}", application.log());
}

#[test]
fn check_names_the_permissions_that_are_missing() {
    let broker = Broker::start(&BrokerOptions {
        security: super::broker::Security::SaslSsl,
        users: vec![("ada", "right")],
        acl: true,
        ..BrokerOptions::default()
    });
    let security = format!(
        "[kafka.security]\nprotocol = \"sasl-ssl\"\nca = \"{}\"\nmechanism = \"SCRAM-SHA-512\"\nusername = \"ada\"\n\
         password = \"${{file:password}}\"\n\n[sources",
        broker.certificate("ca.pem").display()
    );
    let application = Application::new(&broker, "allowed", &TOPOLOGY.replacen("[sources", &security, 1));
    application.folder.write("password", "right");
    let allow = |resource: &str, name: &str, operations: &[&str]| {
        let command = json!({ "do": "allow", "user": "ada", "resource": resource, "name": name,
            "operations": operations });
        java::call(&broker, command);
    };
    for topic in ["large", "totals", "minutes", "featured"] {
        allow("topic", &application.topic(topic), &["write", "describe"]);
    }
    allow("topic", &application.topic("payments"), &["describe_configs", "describe"]);
    for store in ["totals", "minutes", "recent"] {
        allow("topic", &application.topic(&format!("{store}-changelog")), &["describe"]);
    }
    allow("group", &application.id, &["read", "describe"]);
    let file = application.folder.at("topology.toml");
    let brokers = format!("--brokers={}", broker.brokers());
    let check = || run_to_end(command(&["check", &brokers, &file]), b"");
    let start = Instant::now();
    // What is allowed is known a little later.
    while check().code == 1 {
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    let said = format!("lacks `Read` on topic `{}`", application.topic("payments"));
    check().expect_code(2).says(&["error[M0914]", &said, "--operation Read"]);
    allow("topic", &application.topic("payments"), &["read"]);
    while check().code != 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", check().stderr);
    }
}

#[test]
fn two_processes_with_one_state_directory_are_told_apart() {
    let broker = Broker::shared();
    let application = Application::new(broker, "twice", TOPOLOGY);
    let mut first = application.start(broker, "state", &[]);
    let start = Instant::now();
    while !application.folder.path().join("state").join(&application.id).join("INSTANCE").exists() {
        assert!(start.elapsed() < Duration::from_secs(20) && first.goes_on(), "{}", application.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut second = application.start(broker, "state", &[]);
    assert_eq!(second.0.wait().unwrap().code(), Some(3), "{}", application.log());
    assert!(application.log().contains("is in use by process"), "{}", application.log());
    assert_eq!(first.end(), Some(0));
}

#[test]
fn a_password_that_is_wrong_is_said_at_once_and_a_right_one_runs() {
    let broker = Broker::start(&BrokerOptions {
        security: super::broker::Security::SaslSsl,
        users: vec![("millstream", "right")],
        ..BrokerOptions::default()
    });
    let security = format!(
        "[kafka.security]\nprotocol = \"sasl-ssl\"\nca = \"{}\"\nmechanism = \"SCRAM-SHA-512\"\nusername = \"millstream\"\n\
         password = \"${{file:password}}\"\n\n[sources",
        broker.certificate("ca.pem").display()
    );
    let application = Application::new(&broker, "secure", &TOPOLOGY.replacen("[sources", &security, 1));
    application.folder.write("password", "wrong");
    let mut running = application.start(&broker, "state", &[]);
    assert_eq!(running.0.wait().unwrap().code(), Some(1));
    assert!(application.log().to_lowercase().contains("authentication"), "{}", application.log());
    assert!(!application.log().contains("`wrong`"), "{}", application.log());

    application.folder.write("password", "right");
    payments(500, &application);
    let running = application.start(&broker, "state", &[]);
    let mut feeding = feed(&broker, &application, "100");
    while feeding.goes_on() {
        std::thread::sleep(Duration::from_millis(50));
    }
    application.await_end(&broker);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(&broker);
}
