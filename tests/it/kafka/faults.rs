//! What goes wrong around a process of `millstream run`, with the signals, settings and records that do it.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::application::{Application, TABLES, TOPOLOGY, feed, feed_into, payments, random};
use super::broker::Broker;
use super::java;
use super::verifier::ORDER;

/// Kills six processes, one after the other, and lets the last one go on.
fn survive_kills(broker: &Broker, application: &Application, more: &[&str]) {
    payments(20_000, application);
    let feeding = feed(broker, application, "2");
    application.kill_again_and_again(broker, 6, 1300, 3, more);
    let running = application.start(broker, "state", more);
    application.await_all(broker, feeding);
    assert_eq!(running.end(), Some(0), "{}", application.log());
}

#[test]
fn killed_processes_write_each_change_of_a_table_once() {
    let broker = Broker::shared();
    let application = Application::new(broker, "single", TOPOLOGY);
    survive_kills(broker, &application, &["--instance", "one", "--max-batch-rows", "1"]);
    application.check(broker);
    application.check_streams(broker, &TABLES);
    assert!(application.aborted(broker, "totals") > 0, "no kill has hit a transaction");
}

#[test]
fn killed_processes_lose_nothing_at_least_once() {
    let broker = Broker::shared();
    let guarantee = "id = \"{app}\"\nguarantee = \"at-least-once\"";
    let application =
        Application::new(broker, "repeated", &TOPOLOGY.replacen("id = \"{app}\"", guarantee, 1));
    survive_kills(broker, &application, &[]);
    application.check_at_least_once(broker);
}

/// Two sources in one task.
const MERGED: &str = r#"
[app]
id = "{app}"

[sources.payments]
topic = "{app}-payments"
key   = { card = "string" }
value = { at = "timestamp", amount = "int64" }
time  = "at"

[sources.refunds]
topic = "{app}-refunds"
key   = { card = "string" }
value = { at = "timestamp", amount = "int64" }
time  = "at"

[steps.moves]
op   = "merge"
from = ["payments", "refunds"]

[steps.minutes]
op      = "aggregate"
from    = "moves"
window  = { tumbling = "1s" }
columns = { moves = "count(*)", largest = "max(amount)" }

[steps.refunded]
op      = "join"
from    = { node = "payments", as = "p" }
with    = { node = "refunds", as = "r" }
kind    = "outer"
within  = "50ms"
columns = { amount = "p.amount", refund = "r.amount" }

[steps.last_refunds]
op   = "to-table"
from = "refunds"

[steps.seen]
op      = "join"
from    = { node = "payments", as = "p" }
with    = { node = "last_refunds", as = "r" }
kind    = "left"
columns = { amount = "p.amount", refund = "r.amount" }

[sinks.all_moves]
from  = "moves"
topic = "{app}-moves"

[sinks.all_refunded]
from  = "refunded"
topic = "{app}-refunded"

[sinks.all_seen]
from  = "seen"
topic = "{app}-seen"

[sinks.totals_of_minutes]
from  = "minutes"
topic = "{app}-minutes"
"#;

#[test]
fn killed_processes_merge_their_inputs_once() {
    let broker = Broker::shared();
    let topics = ["payments", "refunds", "moves", "minutes", "refunded", "seen", ORDER];
    let application = Application::of_topics(broker, "merged", MERGED, &topics, 1);
    payments(20_000, &application);
    let [payments, mut refunds] =
        ["payments", "refunds"].map(|source| feed_into(broker.brokers(), &application, source, "2"));
    let order = application.topic(ORDER);
    let environment = [("MILLSTREAM_ORDER_TOPIC", order.as_str())];
    let start = || application.start_with(broker, "state", &["--instance", "one"], &environment);
    for number in 0..5 {
        let running = start();
        std::thread::sleep(Duration::from_millis(1000 + number * 97));
        running.kill();
    }
    let running = start();
    application.await_all(broker, payments);
    application.wait_until("all refunds to be written", || !refunds.goes_on());
    application.await_end_of(broker, "refunds");
    assert_eq!(running.end(), Some(0), "{}", application.log());
    assert!(application.aborted(broker, "moves") > 0, "no kill has hit a transaction");
    application.check(broker);
}

/// The workers have transactions of their own, over stores of one process.
#[test]
fn workers_share_the_partitions_of_a_process() {
    let broker = Broker::shared();
    let application = Application::partitioned(broker, "workers", TOPOLOGY, 7);
    payments(30_000, &application);
    let feeding = feed(broker, &application, "5");
    let start = |threads| application.start(broker, "state", &["--instance", "one", "--threads", threads]);
    let running = start("3");
    application.await_progress(broker, 2_000);
    running.kill();
    // Nobody but this process can end the transaction of the third worker soon.
    let running = start("2");
    application.await_progress(broker, 2_000);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    let running = start("3");
    application.await_all(broker, feeding);
    let prefix = format!("{}-one-", application.id);
    let known = java::call(broker, json!({ "do": "transactions", "prefix": prefix }));
    let ids: Vec<&str> =
        known["transactions"].as_array().unwrap().iter().map(|known| known["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["0", "1", "2"].map(|worker| format!("{prefix}{worker}")), "{known}");
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(broker);
}

#[test]
fn a_process_that_sleeps_while_others_go_on_writes_nothing_of_what_it_had_begun() {
    let broker = Broker::shared();
    let application = Application::new(broker, "asleep", TOPOLOGY);
    payments(50_000, &application);
    let feeding = feed(broker, &application, "2");
    let members = || -> Vec<String> {
        let group = java::call(broker, json!({ "do": "group", "group": application.id }));
        let stable = group["state"] == "Stable";
        let members = group["members"].as_array().unwrap().iter().filter(|_| stable);
        let mut members: Vec<_> =
            members.map(|member| member["client"].as_str().unwrap().to_owned()).collect();
        members.sort();
        members
    };
    let both = ["first", "second"].map(|instance| format!("{}-{instance}-consumer", application.id));
    // Its transaction is still open when it wakes up; then the brokers have ended it.
    for (time_out, ended) in [("10s", false), ("2s", true)] {
        let start = |instance| {
            let more = ["--instance", instance, "--commit-every", "400ms", "--transaction-timeout", time_out];
            application.start(broker, instance, &more)
        };
        let first = start("first");
        application.await_progress(broker, 1_000);
        let transaction = || {
            let prefix = format!("{}-first-", application.id);
            let known = java::call(broker, json!({ "do": "transactions", "prefix": prefix }));
            known["transactions"][0]["state"].as_str().unwrap_or_default().to_owned()
        };
        let end = |isolation: &str| {
            let topic = application.topic("featured");
            let ends = json!({ "do": "ends", "topic": topic, "isolation": isolation });
            java::call(broker, ends)["offsets"][0].as_i64().unwrap()
        };
        // In the middle of a transaction with records, not of its end.
        loop {
            first.pause();
            if transaction() == "Ongoing" && end("read_committed") < end("read_uncommitted") {
                break;
            }
            first.resume();
            std::thread::sleep(Duration::from_millis(70));
        }
        let second = start("second");
        application.await_progress(broker, 1_000);
        if ended {
            application.wait_until("the end of the transaction", || transaction() != "Ongoing");
        }
        first.resume();
        application.wait_until("both in the group", || members() == both);
        application.await_progress(broker, 1_000);
        assert_eq!(first.end(), Some(0), "{}", application.log());
        assert_eq!(second.end(), Some(0), "{}", application.log());
    }
    let last = application.start(broker, "first", &["--instance", "first"]);
    application.await_all(broker, feeding);
    assert_eq!(last.end(), Some(0), "{}", application.log());
    application.check(broker);
    assert!(application.aborted(broker, "featured") >= 2, "{}", application.log());
}

#[test]
fn of_two_processes_with_one_instance_the_younger_goes_on() {
    let broker = Broker::shared();
    let application = Application::new(broker, "namesakes", TOPOLOGY);
    payments(30_000, &application);
    let feeding = feed(broker, &application, "5");
    let mut older = application.start(broker, "older", &["--instance", "one"]);
    application.await_progress(broker, 1_000);
    let mut younger = application.start(broker, "younger", &["--instance", "one"]);
    application.await_all(broker, feeding);
    if older.goes_on() {
        // The group gave the partition to the younger one; the older one has to end when it gets it back.
        assert_eq!(younger.end(), Some(0), "{}", application.log());
        let feeding = feed(broker, &application, "5");
        assert_eq!(older.code(), Some(1), "{}", application.log());
        younger = application.start(broker, "younger", &["--instance", "one"]);
        application.await_all(broker, feeding);
    }
    assert_eq!(older.code(), Some(1), "{}", application.log());
    let id = format!("another process uses the transactional id `{}-one-0`", application.id);
    let said = application.log();
    assert!(said.contains(&id) && said.contains("give each process an instance of its own"), "{said}");
    assert_eq!(younger.end(), Some(0), "{}", application.log());
    application.check(broker);
}

#[test]
fn another_producer_that_takes_a_transactional_id_over_ends_the_process() {
    let broker = Broker::shared();
    let application = Application::new(broker, "taken-over", TOPOLOGY);
    payments(30_000, &application);
    let feeding = feed(broker, &application, "5");
    let mut running = application.start(broker, "state", &["--instance", "one"]);
    application.await_progress(broker, 1_000);
    let id = format!("{}-one-0", application.id);
    java::call(broker, json!({ "do": "take-over", "id": id }));
    assert_eq!(running.code(), Some(1), "{}", application.log());
    let said = application.log();
    assert!(said.contains(&format!("another process uses the transactional id `{id}`")), "{said}");
    let running = application.start(broker, "state", &["--instance", "one"]);
    application.await_all(broker, feeding);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(broker);
}

#[test]
fn a_process_that_joins_and_leaves_again_and_again_keeps_nobody_from_working() {
    let broker = Broker::shared();
    let application = Application::partitioned(broker, "storm", TOPOLOGY, 4);
    payments(200_000, &application);
    let feeding = feed(broker, &application, "1");
    let steady = application.start(broker, "steady", &["--instance", "steady"]);
    for _ in 0..6 {
        let before = application.progress(broker);
        let guest = application.start(broker, "guest", &["--instance", "guest"]);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(guest.end(), Some(0), "{}", application.log());
        let done = application.progress(broker) - before;
        assert!(done > 500, "{done} payments in two seconds\n{}", application.log());
    }
    feeding.kill();
    application.await_end(broker);
    assert_eq!(steady.end(), Some(0), "{}", application.log());
    application.check(broker);
}

/// Passes on what it reads.
const NOTES: &str = r#"
[app]
id = "{app}"

[sources.notes]
topic = "{app}-payments"
key   = { card = "string" }
value = { at = "timestamp", note = "string" }
time  = "at"

[sinks.copies]
from  = "notes"
topic = "{app}-large"
"#;

/// A text that no compression makes much smaller.
fn noise(length: usize) -> String {
    random(11)
        .take(length)
        .map(|random| char::from(b'0' + (random >> 58) as u8))
        .filter(|letter| *letter != '\\')
        .collect()
}

fn notes(broker: &Broker, application: &Application, notes: &[(&str, i64, String)]) {
    let records: Vec<Json> = notes
        .iter()
        .map(
            |(card, at, note)| json!({ "key": card, "value": json!({ "at": at, "note": note }).to_string() }),
        )
        .collect();
    let topic = application.topic("payments");
    java::call(broker, json!({ "do": "produce", "topic": topic, "records": records }));
}

#[test]
fn a_record_that_a_topic_does_not_take_ends_the_process_and_is_not_lost() {
    let broker = Broker::shared();
    let application = Application::new(broker, "refused", NOTES);
    let topic = application.topic("large");
    let configure = |setting: &str, value: &str| {
        let config = json!({ (setting): value });
        java::call(broker, json!({ "do": "configure-topic", "topic": topic, "config": config }));
    };
    let copies = || java::consume(broker, &topic).len();
    configure("max.message.bytes", "2000");
    notes(broker, &application, &[("a", 1000, "short".to_owned()), ("a", 1001, "short".to_owned())]);
    let mut running = application.start(broker, "state", &[]);
    application.await_end(broker);
    // Each of them fits, all together do not: they go in several batches.
    let text = noise(25_000);
    let many: Vec<_> =
        (0..200).map(|number| ("a", 1002 + number as i64, text[number * 100..][..100].to_owned())).collect();
    notes(broker, &application, &many);
    application.await_end(broker);
    assert_eq!(copies(), 202, "{}", application.log());
    notes(broker, &application, &[("a", 1202, "short".to_owned()), ("too long", 1203, noise(9_000))]);
    assert_eq!(running.code(), Some(1), "{}", application.log());
    let said = application.log();
    for part in
        [topic.as_str(), "with key `too long`, of 8917 bytes, to", "raise it, and `message.max.bytes`"]
    {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    assert!(copies() < 204 && said.len() < 5_000, "{said}");
    configure("max.message.bytes", "200000");
    let running = application.start(broker, "state", &[]);
    application.await_end(broker);
    assert_eq!((copies(), running.end()), (204, Some(0)), "{}", application.log());

    // Brokers take no records of the far future.
    notes(broker, &application, &[("a", 4_102_444_800_000, "in 2100".to_owned())]);
    let mut running = application.start(broker, "state", &[]);
    assert_eq!(running.code(), Some(1), "{}", application.log());
    let said = application.log();
    for part in [topic.as_str(), "with key `a`", "message.timestamp.after.max.ms", "max-ahead"] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    configure("message.timestamp.after.max.ms", "9223372036854775807");
    let running = application.start(broker, "state", &[]);
    application.await_end(broker);
    assert_eq!((copies(), running.end()), (205, Some(0)), "{}", application.log());
}

#[test]
fn a_clock_that_is_days_off_changes_nothing() {
    let broker = Broker::shared();
    let application = Application::new(broker, "clock", TOPOLOGY);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/clock.c");
    let clock = application.folder.at("clock.so");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o", &clock, source, "-ldl"]).status().unwrap();
    assert!(compiled.success());
    payments(15_000, &application);
    let feeding = feed(broker, &application, "5");
    for days in [3, -3] {
        let off = (days * 86_400).to_string();
        let environment = [("LD_PRELOAD", clock.as_str()), ("CLOCK_OFF", &off)];
        let running = application.start_with(broker, "state", &["--instance", "one"], &environment);
        application.await_progress(broker, 3_000);
        assert_eq!(running.end(), Some(0), "{}", application.log());
    }
    let running = application.start(broker, "state", &["--instance", "one"]);
    application.await_all(broker, feeding);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check(broker);
    let days: BTreeSet<String> =
        application.log().lines().filter_map(|line| Some(line.split_once('T')?.0.to_owned())).collect();
    assert!(days.len() >= 3, "{days:?}");
}
