//! `millstream run` on a real broker: what it commits is what an undisturbed run over the same input gives.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use super::application::{Application, TOPOLOGY, feed, payments};
use super::broker::{Broker, BrokerOptions};
use super::java;
use crate::support::{command, run as run_to_end};

/// The instance has a name, so that a process without the state of the former one still ends its transaction: else readers
/// of committed records would wait for its time-out.
#[test]
fn twenty_kills_lose_and_double_nothing() {
    let broker = Broker::start(&BrokerOptions::default());
    let application = Application::new(&broker, "killed", TOPOLOGY);
    payments(150_000, &application);
    let feeding = feed(&broker, &application, "4");
    for number in 0..20_u64 {
        let running = application.start(&broker, "state", &["--instance", "one"]);
        std::thread::sleep(Duration::from_millis(1600 + number * 97 % 500));
        running.kill();
        if number % 4 == 3 {
            std::fs::remove_dir_all(application.folder.at("state")).unwrap();
        }
    }
    let running = application.start(&broker, "state", &["--instance", "one"]);
    application.await_all(&broker, feeding);
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
