//! A process crashes at each step of its work, and starts again.

use std::time::{Duration, Instant};

use super::application::{Application, TOPOLOGY, feed, payments, random};
use super::broker::Broker;

/// The places, and how often a process comes there before it crashes.
const FAIL_POINTS: &[(&str, u32)] = &[
    ("epoch-processed", 20),
    ("committing", 12),
    ("changelog-produced", 12),
    ("producer-flushed", 12),
    ("offsets-sent", 12),
    ("transaction-ending", 12),
    ("committed", 12),
    ("database-writing", 1),
    ("database-written", 1),
    ("database-flushing", 1),
    ("database-flushed", 1),
    ("task-closing", 1),
    ("database-opening", 1),
    ("database-opened", 1),
    ("restored-some", 1),
];

/// The places that a process may only come to when it is asked to end.
const AT_THE_END: &[&str] =
    &["database-writing", "database-written", "database-flushing", "database-flushed", "task-closing"];

/// The places on the way of a transaction.
const OF_TRANSACTIONS: &[&str] = &["offsets-sent", "transaction-ending"];

/// A rekeyed count behind the others: its records come through a repartition topic.
const REKEYED: &str = r#"
[steps.by_amount]
op   = "rekey"
from = "payments"
key  = { bucket = "'bucket-' || cast(amount % 10 as string)" }

[steps.buckets]
op      = "aggregate"
from    = "by_amount"
columns = { payments = "count(*)" }

[sinks.totals_of_buckets]
from  = "buckets"
topic = "{app}-buckets"
"#;

/// Crashes once at each place, each process going on where the last one died. `count` says how often a place is come to
/// before, where it usually is this often.
fn crash_everywhere(
    name: &str,
    guarantee: &str,
    mut count: impl FnMut(u32) -> u32,
) -> (&'static Broker, Application, usize) {
    let broker = Broker::shared();
    let id = format!("id = \"{{app}}\"\nguarantee = \"{guarantee}\"");
    let topology = TOPOLOGY.replacen("id = \"{app}\"", &id, 1) + REKEYED;
    let topics = ["payments", "large", "featured", "totals", "minutes", "buckets"];
    let application = Application::of_topics(broker, name, &topology, &topics, 1);
    payments(40_000, &application);
    let feeding = feed(broker, &application, "1");
    let transactions = guarantee == "exactly-once";
    let reached = |point: &&(&str, u32)| transactions || !OF_TRANSACTIONS.contains(&point.0);
    let points: Vec<_> = FAIL_POINTS.iter().filter(reached).collect();
    for (point, usual) in &points {
        if *point == "restored-some" {
            std::fs::remove_dir_all(application.folder.at("state")).unwrap();
        }
        let fail = format!("{point}:{}", count(*usual));
        let environment = [("MILLSTREAM_FAIL_POINT", fail.as_str())];
        let mut running = application.start_with(broker, "state", &["--instance", "one"], &environment);
        if AT_THE_END.contains(point) {
            let before = application.progress(broker);
            application.wait_until("some progress", || {
                !running.goes_on() || application.progress(broker) > before + 100
            });
            if running.goes_on() {
                running.ask_to_end();
            }
        }
        assert_eq!(running.code(), None, "{point} was not reached\n{}", application.log());
        assert!(application.log().contains(&format!("fail point {point}\n")), "{}", application.log());
    }
    let running = application.start(broker, "state", &["--instance", "one"]);
    application.await_all(broker, feeding);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    if transactions {
        application.check(broker);
    } else {
        application.check_at_least_once(broker);
    }
    (broker, application, points.len())
}

#[test]
fn a_crash_at_any_step_is_invisible() {
    let (broker, application, _) = crash_everywhere("crashes", "exactly-once", |usual| usual);
    assert!(application.aborted(broker, "large") > 0, "no crash has hit a transaction");
}

#[test]
fn a_crash_at_any_step_loses_nothing_at_least_once() {
    crash_everywhere("crashes-repeated", "at-least-once", |usual| usual);
}

/// Again and again, at other moments: `make chaos`.
#[test]
#[ignore = "it takes as long as it is told to"]
fn chaos() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(60 * number("MILLSTREAM_CHAOS_MINUTES").unwrap_or(5));
    let seed = number("MILLSTREAM_SEEDS").unwrap_or(1);
    let mut drawn = random(seed);
    let (start, mut faults) = (Instant::now(), 0);
    while start.elapsed() < time {
        for guarantee in ["exactly-once", "at-least-once"] {
            // A place that a process comes to once or twice it comes to once.
            let count = |usual: u32| match usual {
                1 => 1,
                usual => 1 + (drawn.next().unwrap_or_default() >> 33) as u32 % (usual * 2),
            };
            faults += crash_everywhere("chaos", guarantee, count).2;
            println!("seed {seed}, {:?}: {faults} crashes", start.elapsed());
        }
    }
    println!("faults: {faults} injected, 0 lost, 0 doubled, 0 wrong");
}
