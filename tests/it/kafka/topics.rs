//! Topics and offsets that are taken away from an application, or changed under it.

use serde_json::{Value as Json, json};

use super::application::{Application, Running, TOPOLOGY, feed, payments};
use super::broker::Broker;
use super::java;
use crate::support::command;

/// One step finds its rows where they are read, one by way of a repartition topic.
const COUNTS: &str = r#"
[app]
id = "{app}"

[kafka.properties]
topic.metadata.refresh.interval.ms = "500"

[sources.payments]
topic = "{app}-payments"
key   = { card = "string" }
value = { at = "timestamp", amount = "int64" }
time  = "at"

[steps.of_cards]
op      = "aggregate"
from    = "payments"
columns = { payments = "count(*)" }

[steps.of_amounts]
op       = "aggregate"
from     = "payments"
group-by = ["amount"]
columns  = { payments = "count(*)" }

[sinks.cards]
from  = "of_cards"
topic = "{app}-cards"

[sinks.amounts]
from  = "of_amounts"
topic = "{app}-amounts"
"#;

const TOPICS: [&str; 3] = ["payments", "cards", "amounts"];

/// Every topic of such an application, by its short name.
const ALL_TOPICS: [&str; 6] =
    ["payments", "of_amounts-repartition", "of_cards-changelog", "of_amounts-changelog", "cards", "amounts"];

fn counts(broker: &Broker, name: &str, partitions: usize) -> Application {
    Application::of_topics(broker, name, COUNTS, &TOPICS, partitions)
}

/// Writes payments, of 50 cards, to all partitions.
fn pay(broker: &Broker, application: &Application, count: usize) {
    let record = |number: usize| {
        let value = json!({ "at": 1_767_225_600_000_u64 + number as u64, "amount": number % 20 });
        json!({ "key": format!("card-{}", number % 50), "value": value.to_string() })
    };
    let records: Vec<Json> = (0..count).map(record).collect();
    let topic = application.topic("payments");
    java::call(broker, json!({ "do": "produce", "topic": topic, "records": records }));
}

/// Waits until all payments are processed, in both steps.
fn await_counts(broker: &Broker, application: &Application) {
    application.await_end(broker);
    let topic = application.topic("of_amounts-repartition");
    let sum = |command: &str| -> Option<i64> {
        let found = java::try_call(broker, json!({ "do": command, "topic": topic, "group": application.id }));
        Some(found["offsets"].as_array()?.iter().filter_map(Json::as_i64).sum())
    };
    // The end has the marker of the last transaction behind the last record.
    application.wait_until("the repartition topic to be read", || {
        sum("committed").zip(sum("ends")).is_some_and(|(committed, end)| committed + 2 >= end)
    });
}

fn delete(broker: &Broker, topic: &str) {
    java::call(broker, json!({ "do": "delete-topic", "topic": topic }));
}

/// Starts a process that has to end by itself, with this exit code, and say so.
#[track_caller]
fn refused(broker: &Broker, application: &Application, state: &str, code: i32, said: &[&str]) {
    let before = application.log().len();
    let mut running = application.start(broker, state, &[]);
    assert_eq!(running.code(), Some(code), "{}", application.log());
    says(&application.log()[before..], said);
}

#[track_caller]
fn says(log: &str, said: &[&str]) {
    for part in said {
        assert!(log.contains(part), "`{part}` is not in\n{log}");
    }
}

#[test]
fn a_topic_that_gets_more_partitions_ends_the_process_that_reads_it() {
    let broker = Broker::shared();
    for name in ["payments", "of_amounts-repartition"] {
        let application = counts(broker, "grown", 2);
        let mut running = application.start(broker, "state", &[]);
        pay(broker, &application, 100);
        await_counts(broker, &application);
        let topic = application.topic(name);
        java::call(broker, json!({ "do": "add-partitions", "topic": topic, "partitions": 3 }));
        assert_eq!(running.code(), Some(1), "{}", application.log());
        let said = format!("`{topic}` has got a partition 2, but it had 2 partitions");
        says(&application.log(), &[&said, "a topic with state behind it cannot grow"]);
        // Nor does it begin with it.
        refused(broker, &application, "state", 3, &["partitions, this topology needs", "would lose data"]);
    }
}

#[test]
fn a_changelog_that_gets_more_partitions_is_refused_at_the_next_start() {
    let broker = Broker::shared();
    let application = counts(broker, "grown-log", 2);
    let running = application.start(broker, "state", &[]);
    pay(broker, &application, 100);
    await_counts(broker, &application);
    let topic = application.topic("of_cards-changelog");
    java::call(broker, json!({ "do": "add-partitions", "topic": topic, "partitions": 3 }));
    pay(broker, &application, 100);
    await_counts(broker, &application);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    let said = format!("`{topic}` has 3 partitions, this topology needs 2");
    refused(broker, &application, "state", 3, &[&said]);
}

/// One application for each topic, with a process under load, to which something happens; then it has to end, and name the topic.
/// Who keeps writing needs some time to believe that a topic is gone: all are tried at the same time.
#[track_caller]
fn each_ends(broker: &Broker, topics: &[&str], happens: impl Fn(&str)) -> Vec<Application> {
    let start = |_: &&str| {
        let application = counts(broker, "taken", 1);
        payments(100_000, &application);
        let running = application.start(broker, "state", &[]);
        let feeding = feed(broker, &application, "0.2");
        (application, running, feeding)
    };
    let mut applications: Vec<(Application, Running, Running)> = topics.iter().map(start).collect();
    for (application, ..) in &applications {
        application.await_progress(broker, 100);
    }
    for (name, (application, ..)) in topics.iter().zip(&applications) {
        happens(&application.topic(name));
    }
    for (name, (application, running, _)) in topics.iter().zip(&mut applications) {
        let code = running.code();
        assert!(code.is_some_and(|code| code > 0), "{name}: {code:?}");
        says(&application.log(), &[&application.topic(name)]);
    }
    applications.into_iter().map(|(application, ..)| application).collect()
}

#[test]
fn a_topic_that_is_deleted_ends_the_process_and_is_named() {
    let broker = Broker::shared();
    each_ends(broker, &ALL_TOPICS, |topic| delete(broker, topic));
}

#[test]
fn a_topic_that_is_made_anew_under_a_process_ends_it() {
    let broker = Broker::shared();
    let topics = ["payments", "of_amounts-repartition", "of_cards-changelog"];
    let applications = each_ends(broker, &topics, |topic| {
        delete(broker, topic);
        let policy = if topic.ends_with("changelog") { "compact" } else { "delete" };
        let config = json!({ "cleanup.policy": policy, "retention.ms": "-1" });
        java::call(broker, json!({ "do": "create-topic", "topic": topic, "config": config }));
    });
    for application in applications {
        refused(broker, &application, "state", 3, &[]);
    }
}

/// Offsets do not tell: the new topic has more records than were read of the old one.
#[test]
fn a_source_that_is_made_anew_and_longer_ends_the_process() {
    let broker = Broker::shared();
    let application = counts(broker, "longer", 1);
    let mut running = application.start(broker, "state", &[]);
    pay(broker, &application, 100);
    await_counts(broker, &application);
    let topic = application.topic("payments");
    delete(broker, &topic);
    java::create_topic(broker, &topic, 1);
    pay(broker, &application, 400);
    assert_eq!(running.code(), Some(3), "{}", application.log());
    says(&application.log(), &[&topic]);
}

#[test]
fn a_changelog_that_is_gone_is_not_made_anew_behind_what_was_committed() {
    let broker = Broker::shared();
    let application = counts(broker, "lost-log", 1);
    for _ in 0..2 {
        let running = application.start(broker, "state", &[]);
        pay(broker, &application, 100);
        await_counts(broker, &application);
        assert_eq!(running.end(), Some(0), "{}", application.log());
    }
    let changelog = application.topic("of_cards-changelog");
    delete(broker, &changelog);
    // Whether there is still some state on disk or not.
    for state in ["state", "other"] {
        refused(broker, &application, state, 3, &[&changelog, "made anew", "would lose data"]);
    }
}

#[test]
fn state_without_committed_offsets_is_not_counted_into_again() {
    let broker = Broker::shared();
    let application = counts(broker, "forgotten", 1);
    let running = application.start(broker, "state", &[]);
    pay(broker, &application, 100);
    await_counts(broker, &application);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    let committed = |name: &str| {
        let topic = application.topic(name);
        let found = java::call(broker, json!({ "do": "committed", "group": application.id, "topic": topic }));
        (topic, found["offsets"].clone())
    };
    let offsets = ["payments", "of_amounts-repartition"].map(committed);
    java::call(broker, json!({ "do": "delete-group", "group": application.id }));
    for state in ["state", "other"] {
        refused(
            broker,
            &application,
            state,
            3,
            &["no offset of `", "is committed", "could be counted twice"],
        );
    }
    // Who knows where it was can say so.
    for (topic, offsets) in offsets {
        let command = json!({ "do": "commit", "group": application.id, "topic": topic, "offsets": offsets });
        java::call(broker, command);
    }
    let running = application.start(broker, "state", &[]);
    pay(broker, &application, 100);
    await_counts(broker, &application);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    application.check_tables(broker, &["cards"]);
}

#[test]
fn a_source_that_is_made_anew_is_not_read_from_the_old_offset() {
    let broker = Broker::shared();
    let application = counts(broker, "anew", 1);
    let running = application.start(broker, "state", &[]);
    pay(broker, &application, 100);
    await_counts(broker, &application);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    let topic = application.topic("payments");
    delete(broker, &topic);
    refused(broker, &application, "state", 1, &["topics do not exist", &topic]);
    java::create_topic(broker, &topic, 1);
    pay(broker, &application, 200);
    refused(broker, &application, "state", 3, &[&format!("no offset of `{topic}` is committed")]);
}

#[test]
fn records_that_are_removed_before_they_are_read_are_missed() {
    let broker = Broker::shared();
    let application = counts(broker, "removed", 1);
    let running = application.start(broker, "state", &[]);
    pay(broker, &application, 100);
    await_counts(broker, &application);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    pay(broker, &application, 100);
    let topic = application.topic("payments");
    java::call(broker, json!({ "do": "delete-records", "topic": topic, "before": [150] }));
    refused(broker, &application, "state", 3, &[&topic, "has no record at offset 100 any more"]);
}

/// What was removed could have deleted something that the disk has.
#[test]
fn a_store_whose_changelog_is_cut_behind_it_is_restored_from_the_beginning() {
    let broker = Broker::shared();
    let application = Application::new(broker, "cut", TOPOLOGY);
    // Brokers take no such order for the changelog of a store without windows.
    const CHANGELOGS: [&str; 2] = ["minutes-changelog", "recent-changelog"];
    // Ten seconds apart, so that no window reaches from one to the other; each has all cards.
    let pay = |number: i64| {
        payments(3_000, &application);
        let text = application.folder.read("payments.csv");
        let later: String = text
            .lines()
            .enumerate()
            .map(|(line, text)| match text.splitn(3, ',').collect::<Vec<_>>()[..] {
                [card, at, amount] if line > 0 => {
                    format!("{card},{},{amount}\n", at.parse::<i64>().unwrap() + number * 13_000)
                }
                _ => format!("{text}\n"),
            })
            .collect();
        application.folder.write("payments.csv", later);
        let file = application.folder.at("topology.toml");
        let feed = format!("payments={}", application.folder.at("payments.csv"));
        let arguments = ["feed", &file, "--feed", &feed, "--brokers", broker.brokers()];
        assert_eq!(Running::start(command(&arguments)).code(), Some(0));
    };
    let work = |state: &str, number| {
        pay(number);
        let running = application.start(broker, state, &["--instance", state]);
        application.await_end(broker);
        assert_eq!(running.end(), Some(0), "{}", application.log());
    };
    work("first", 0);
    work("second", 1);
    let ends: Vec<Json> = CHANGELOGS
        .iter()
        .map(|name| java::call(broker, json!({ "do": "ends", "topic": application.topic(name) })))
        .collect();
    work("second", 2);
    for (name, ends) in CHANGELOGS.iter().zip(ends) {
        let (topic, before) = (application.topic(name), &ends["offsets"]);
        java::call(broker, json!({ "do": "delete-records", "topic": topic, "before": before }));
    }
    work("first", 3);
    says(&application.log(), &["the state is restored from its start"]);
    application.check(broker);
}
