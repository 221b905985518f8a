//! `millstream run` on a real broker: what it commits is what an undisturbed run over the same input gives.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use millstream::engine::kafka::{ClientSettings, GroupConsumer, GroupEvent, GroupOptions};
use serde_json::json;

use super::application::{Application, TOPOLOGY, feed, feed_into, payments};
use super::broker::{Broker, BrokerOptions};
use super::java;
use super::proxy::{END_TRANSACTION, Lost, Proxy};
use crate::support::{command, run as run_to_end};

/// The instance has a name, so that a process without the state of the former one still ends its transaction: else readers
/// of committed records would wait for its time-out.
#[test]
fn twenty_kills_lose_and_double_nothing() {
    let broker = Broker::start(&BrokerOptions::default());
    let application = Application::new(&broker, "killed", TOPOLOGY);
    payments(150_000, &application);
    let feeding = feed(&broker, &application, "4");
    application.kill_again_and_again(&broker, 20, 1600, 4, &["--instance", "one"]);
    let running = application.start(&broker, "state", &["--instance", "one"]);
    application.await_all(&broker, feeding);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(&broker);

    // Some of them must have hit an open transaction with changes of a store behind it: these are written as they are made.
    let aborted = application.aborted(&broker, "featured");
    assert!(aborted >= 5, "{aborted}");
}

#[test]
fn a_process_that_is_asked_to_end_commits_and_another_goes_on() {
    let broker = Broker::start(&BrokerOptions::default());
    let application = Application::new(&broker, "asked", TOPOLOGY);
    payments(40_000, &application);
    let feeding = feed(&broker, &application, "4");
    // The first leaves, the second has state of its own, the third takes up that of the first.
    for state in ["first", "second", "first"] {
        let running = application.start(&broker, state, &["--instance", state]);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(running.end(), Some(0), "{}", application.log());
    }
    let running = application.start(&broker, "second", &["--instance", "second"]);
    application.await_all(&broker, feeding);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(&broker);
}

#[test]
fn nobody_is_ready_before_the_tasks_are() {
    let broker = Broker::shared();
    let application = Application::new(broker, "ready", TOPOLOGY);
    let running = application.start(broker, "state", &[]);
    let start = Instant::now();
    while application.get("/readyz").is_none_or(|answer| !answer.starts_with("HTTP/1.0 200")) {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", application.log());
        std::thread::sleep(Duration::from_millis(1));
    }
    let tasks = application.get("/tasks").unwrap();
    assert!(tasks.contains("running"), "{tasks}");
    assert_eq!(running.end(), Some(0), "{}", application.log());
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
    let feeding = feed(&broker, &application, "4");
    std::thread::sleep(Duration::from_secs(4));
    broker.kill();
    broker.restart();
    application.await_all(&broker, feeding);
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
        proxy.lose(END_TRANSACTION, 2, lost);
        let feeding = feed(&broker, &application, "10");
        proxy.await_loss();
        // Until the process has given the answer up.
        std::thread::sleep(Duration::from_secs(4));
        proxy.heal();
        application.await_all(&broker, feeding);
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
    assert_eq!(running.code(), Some(1), "{}", application.log());
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
    assert_eq!(running.code(), Some(1), "{}", application.log());
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

/// Else the brokers would remove rows that are old and still there.
#[test]
fn the_topic_of_a_table_is_made_compacted_and_said_if_it_is_not() {
    let broker = Broker::shared();
    let table = r#"
[tables.cards]
topic = "{app}-cards"
key   = { card = "string" }
value = { home = "string" }

[steps.known]
op   = "join"
from = "payments"
with = "cards"

[sinks.known_payments]
from  = "known"
topic = "{app}-known"
"#;
    let application =
        Application::of_topics(broker, "table", &format!("{TOPOLOGY}{table}"), &["payments", "known"], 1);
    let file = application.folder.at("topology.toml");
    let running = application.start(broker, "state", &["--create-topics"]);
    application.wait_until("it to be ready", || {
        application.get("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.0 200"))
    });
    assert_eq!(running.end(), Some(0), "{}", application.log());
    let brokers = format!("--brokers={}", broker.brokers());
    let check = || run_to_end(command(&["check", &brokers, "--deny-warnings", &file]), b"");
    check().expect_code(0);

    let cards = application.topic("cards");
    java::call(broker, json!({ "do": "delete-topic", "topic": cards }));
    let config = json!({ "retention.ms": "3600000" });
    java::call(broker, json!({ "do": "create-topic", "topic": cards, "partitions": 1, "config": config }));
    check()
        .expect_code(2)
        .says(&["M0915", &format!("topic `{cards}` removes old records, but `cards` is a table")]);
}

#[test]
fn a_join_that_is_added_finds_the_rows_that_a_table_has() {
    let broker = Broker::shared();
    let table = r#"
[app]
id = "{app}"

[tables.cards]
topic = "{app}-cards"
key   = { card = "string" }
value = { at = "timestamp", amount = "int64" }
time  = "at"

[sinks.all_cards]
from  = "cards"
topic = "{app}-all"
"#;
    let join = r#"
[sources.payments]
topic = "{app}-payments"
key   = { card = "string" }
value = { at = "timestamp", amount = "int64" }
time  = "at"

[steps.known]
op      = "join"
from    = { node = "payments", as = "p" }
with    = { node = "cards", as = "c" }
columns = { amount = "p.amount", last = "c.amount" }

[sinks.known_payments]
from  = "known"
topic = "{app}-known"
"#;
    let application =
        Application::of_topics(broker, "added", table, &["payments", "cards", "all", "known"], 1);
    payments(1_000, &application);
    let run = |source: &str| {
        let running = application.start(broker, "state", &[]);
        let mut feeding = feed_into(broker.brokers(), &application, source, "1000");
        assert_eq!(feeding.code(), Some(0));
        application.await_end_of(broker, source);
        assert_eq!(running.end(), Some(0), "{}", application.log());
    };
    run("cards");
    let text = format!("{table}{join}").replace("{app}", &application.id);
    application.folder.write("topology.toml", text);
    run("payments");
    // An inner join: a payment without its card would not be there.
    assert_eq!(java::consume(broker, &application.topic("known")).len(), 1_000, "{}", application.log());
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
    let file = application.folder.at("topology.toml");
    let brokers = format!("--brokers={}", broker.brokers());
    let check = || run_to_end(command(&["check", &brokers, &file]), b"");
    let said = ["the user needs Read on the group", "kafka-acls.sh", "--group"];
    check().expect_code(1).says(&said);
    for topic in ["large", "totals", "minutes", "featured"] {
        allow("topic", &application.topic(topic), &["write", "describe"]);
    }
    allow("topic", &application.topic("payments"), &["describe_configs", "describe"]);
    for store in ["totals", "minutes", "recent"] {
        allow("topic", &application.topic(&format!("{store}-changelog")), &["describe"]);
    }
    allow("group", &application.id, &["read", "describe"]);
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
    assert_eq!(second.code(), Some(3), "{}", application.log());
    assert!(application.log().contains("is in use by process"), "{}", application.log());
    assert_eq!(first.end(), Some(0));
}

/// Gives what an error says is missing; returns it in short.
fn grant(broker: &Broker, said: &str) -> Vec<String> {
    let command = said.rsplit_once("kafka-acls.sh ").unwrap_or_else(|| panic!("no command in\n{said}")).1;
    let words: Vec<&str> = command.split_whitespace().collect();
    let after = |flag: &str| -> Vec<&str> {
        words.windows(2).filter(|pair| pair[0] == flag).map(|pair| pair[1]).collect()
    };
    assert_eq!(after("--bootstrap-server"), [broker.brokers()]);
    assert_eq!(after("--allow-principal"), ["User:millstream"]);
    let operations = after("--operation");
    let prefix = after("--resource-pattern-type") == ["prefixed"];
    let mut granted = Vec::new();
    for resource in ["topic", "group", "transactional-id"] {
        for name in after(&format!("--{resource}")) {
            // Java writes these names in another way.
            let java_names: Vec<String> =
                operations.iter().map(|name| name.replace("DescribeConfigs", "describe_configs")).collect();
            let command = json!({ "do": "allow", "user": "millstream", "resource": resource.replace('-', "_"),
                "name": name, "prefix": prefix, "operations": java_names });
            java::call(broker, command);
            let star = if prefix { "*" } else { "" };
            granted.push(format!("{resource} {name}{star} {}", operations.join(",")));
        }
    }
    granted
}

/// Whoever does what the errors say gives it what docs/kafka.md lists, and nothing more.
#[test]
fn a_user_needs_the_right_password_and_what_the_errors_name() {
    let broker = Broker::start(&BrokerOptions {
        security: super::broker::Security::SaslSsl,
        users: vec![("millstream", "right")],
        acl: true,
        ..BrokerOptions::default()
    });
    let security = format!(
        "[kafka.security]\nprotocol = \"sasl-ssl\"\nca = \"{}\"\nmechanism = \"SCRAM-SHA-512\"\nusername = \"millstream\"\n\
         password = \"${{file:password}}\"\n\n[sources",
        broker.certificate("ca.pem").display()
    );
    let topology = TOPOLOGY.replacen("[sources", &security, 1).replacen("\"{app}\"", "\"guarded\"", 1);
    let application = Application::new(&broker, "secure", &topology);
    application.folder.write("password", "wrong");
    let mut running = application.start(&broker, "state", &[]);
    assert_eq!(running.code(), Some(1));
    assert!(application.log().to_lowercase().contains("authentication"), "{}", application.log());
    assert!(!application.log().contains("`wrong`"), "{}", application.log());

    application.folder.write("password", "right");
    // To be seen is not to be read or written.
    for (topic, operation) in [("payments", "write"), ("large", "describe")] {
        let topic = application.topic(topic);
        let command = json!({ "do": "allow", "user": "millstream", "resource": "topic", "name": topic,
            "operations": [operation] });
        java::call(&broker, command);
    }
    payments(500, &application);
    let mut feeding = feed(&broker, &application, "100");
    assert_eq!(feeding.code(), Some(0));
    let featured = application.topic("featured");
    let mut granted = BTreeSet::new();
    let running = loop {
        let mut running = application.start(&broker, "state", &["--instance", "one"]);
        let written = || java::call(&broker, json!({ "do": "count", "topic": featured }))["records"] == 500;
        application.wait_until("an error or the end", || !running.goes_on() || written());
        if running.goes_on() {
            break running;
        }
        assert_eq!(running.code(), Some(1), "{}", application.log());
        let before = granted.len();
        granted.extend(grant(&broker, &application.log()));
        assert!(granted.len() > before, "what was given did not help\n{}", application.log());
        // It is known a little later.
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(&broker);
    let mut listed = BTreeSet::from([
        "group guarded Read".to_owned(),
        "transactional-id guarded-* Describe,Write".to_owned(),
        "topic guarded-* Create,Read,Write,Delete,DescribeConfigs".to_owned(),
        format!("topic {} Read", application.topic("payments")),
    ]);
    listed.extend(
        ["large", "totals", "minutes", "featured"]
            .map(|sink| format!("topic {} Write", application.topic(sink))),
    );
    assert_eq!(granted, listed, "{}", application.log());
}

/// Rows of one key would be in different tasks.
#[test]
fn topics_that_are_joined_need_equally_many_partitions() {
    let broker = Broker::shared();
    let joined = r#"
[sources.refunds]
topic = "{app}-refunds"
key   = { card = "string" }
value = { back = "int64" }

[steps.refunded]
op     = "join"
from   = "payments"
with   = "refunds"
within = "1m"

[sinks.refunded_payments]
from  = "refunded"
topic = "{app}-refunded"
"#;
    let application =
        Application::of_topics(broker, "counts", &format!("{TOPOLOGY}{joined}"), &["payments"], 2);
    for (topic, partitions) in
        [("refunds", 3), ("refunded", 1), ("large", 1), ("totals", 1), ("minutes", 1), ("featured", 1)]
    {
        java::create_topic(broker, &application.topic(topic), partitions);
    }
    let said = [
        "error[M0311]",
        "`payments` has 2 partitions and `refunds` has 3",
        "give both the same count, or put `rekey` with `partitions = 2` after `refunds`",
    ];
    let file = application.folder.at("topology.toml");
    let brokers = format!("--brokers={}", broker.brokers());
    run_to_end(command(&["check", &brokers, &file]), b"").expect_code(2).says(&said);
    let mut running = application.start(broker, "state", &[]);
    assert_eq!(running.code(), Some(2), "{}", application.log());
    for part in said {
        assert!(application.log().contains(part), "{}", application.log());
    }
}
