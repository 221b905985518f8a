//! A topology that takes the place of another one under the same application: what `diff` says is what happens.

use serde_json::{Value as Json, json};

use super::application::Application;
use super::broker::Broker;
use super::java;
use crate::support::millstream;

const OLD: &str = r#"
[app]
id = "{app}"

[sources.payments]
topic = "{app}-payments"
key   = { card = "string" }
value = { at = "timestamp", amount = "int64" }
time  = "at"

[sources.returns]
topic = "{app}-returns"
key   = { card = "string" }
value = { at = "timestamp", amount = "int64" }
time  = "at"

[steps.totals]
op      = "aggregate"
from    = "payments"
columns = { records = "count(*)" }

[steps.minutes]
op      = "aggregate"
from    = "payments"
window  = { tumbling = "1m" }
columns = { records = "count(*)" }

[steps.returned]
op      = "aggregate"
from    = "returns"
columns = { records = "count(*)" }

[sinks.totals_of_cards]
from  = "totals"
topic = "{app}-totals"

[sinks.returns_of_cards]
from  = "returned"
topic = "{app}-returned"
"#;

/// `returns` and a part of `payments` meet in `returned`, whose task reads `payments` first now.
const TOGETHER: (&str, &str) = (
    "[steps.returned]\nop      = \"aggregate\"\nfrom    = \"returns\"",
    "[steps.none]\nop = \"filter\"\nfrom = \"payments\"\nwhere = \"amount < 0\"\n\n\
     [steps.both]\nop = \"merge\"\nfrom = [\"none\", \"returns\"]\n\n\
     [steps.returned]\nop      = \"aggregate\"\nfrom    = \"both\"",
);

fn write(broker: &Broker, application: &Application, source: &str, count: usize) {
    let record = |number: usize| {
        let value = json!({ "at": 1_767_225_600_000_u64 + number as u64, "amount": 1 });
        json!({ "key": "card-1", "value": value.to_string() })
    };
    let records: Vec<Json> = (0..count).map(record).collect();
    java::call(broker, json!({ "do": "produce", "topic": application.topic(source), "records": records }));
}

/// The last count in the topic of a sink.
fn last(broker: &Broker, application: &Application, sink: &str) -> Option<i64> {
    let record = java::consume(broker, &application.topic(sink)).pop()?;
    let value: Json = serde_json::from_slice(&record.value?).unwrap();
    value["records"].as_i64()
}

/// Runs the old topology over ten records of each source, and asks what `diff` says of the new one.
fn upgraded(broker: &Broker, changes: &[(&str, &str)]) -> (Application, Json) {
    let topics = ["payments", "returns", "refunds", "totals", "returned"];
    let application = Application::of_topics(broker, "upgraded", OLD, &topics, 1);
    let running = application.start(broker, "state", &[]);
    for source in ["payments", "returns"] {
        write(broker, &application, source, 10);
        application.await_end_of(broker, source);
    }
    assert_eq!(running.end(), Some(0), "{}", application.log());
    let mut new = OLD.to_owned();
    for (from, to) in changes {
        assert!(new.contains(from), "{from}");
        new = new.replace(from, to);
    }
    application.folder.write("old.toml", application.folder.read("topology.toml"));
    application.folder.write("topology.toml", new.replace("{app}", &application.id));
    let (old, new) = (application.folder.at("old.toml"), application.folder.at("topology.toml"));
    let ran = millstream(&["diff", &old, &new, "--format", "json"]);
    let said: Json = serde_json::from_str(&ran.stdout).unwrap();
    let refused = said["findings"].as_array().unwrap().iter().any(|found| found["effect"] == "refused");
    assert!(ran.code == 3 || !refused, "{said:#}");
    (application, said)
}

#[test]
fn what_diff_calls_refused_is_refused() {
    let broker = Broker::shared();
    let layout = (
        "from    = \"returns\"\ncolumns = { records",
        "from    = \"returns\"\ncolumns = { total = \"sum(amount)\", records",
    );
    let layout_together = (
        "from    = \"both\"\ncolumns = { records",
        "from    = \"both\"\ncolumns = { total = \"sum(amount)\", records",
    );
    for (changes, code, subject) in [
        (&[("tumbling = \"1m\"", "tumbling = \"2m\"")][..], "M0902", "store minutes"),
        (&[layout], "M0902", "store returned"),
        // Its state was committed with `returns`, and its folder has another name.
        (&[TOGETHER, layout_together], "M0902", "store returned"),
        (&[("{app}-returns\"", "{app}-refunds\"")], "M0951", "store returned"),
    ] {
        let (application, said) = upgraded(broker, changes);
        let findings = said["findings"].as_array().unwrap();
        let refused: Vec<&Json> = findings.iter().filter(|found| found["effect"] == "refused").collect();
        assert_eq!(refused.len(), 1, "{refused:#?}");
        assert_eq!((&refused[0]["code"], &refused[0]["subject"]), (&json!(code), &json!(subject)));
        for state in ["state", "another"] {
            let before = application.log().len();
            let mut running = application.start(broker, state, &[]);
            assert_eq!(running.code(), Some(3), "{changes:?} {}", application.log());
            let log = &application.log()[before..];
            assert!(log.contains(&format!("error[{code}]")), "{log}");
        }
    }
}

#[test]
fn what_diff_calls_kept_goes_on_and_what_is_new_begins_empty() {
    let broker = Broker::shared();
    for (changes, totals, returned) in [
        (
            &[("window  = { tumbling = \"1m\" }", "window  = { tumbling = \"1m\" }\ngrace = \"1h\"")][..],
            "kept",
            "kept",
        ),
        (&[TOGETHER], "kept", "kept"),
        (
            &[("[sources.returns]", "[sources.aaa]"), ("from    = \"returns\"", "from    = \"aaa\"")],
            "kept",
            "kept",
        ),
        (&[("totals]", "sums]"), ("from  = \"totals\"", "from  = \"sums\"")], "new", "kept"),
    ] {
        let (application, said) = upgraded(broker, changes);
        let stores = said["stores"].as_array().unwrap();
        let change = |names: &[&str]| {
            stores.iter().find(|store| names.contains(&store["name"].as_str().unwrap())).unwrap()["change"]
                .clone()
        };
        assert_eq!(
            (change(&["totals", "sums"]), change(&["returned"])),
            (json!(totals), json!(returned)),
            "{said:#}"
        );
        let running = application.start(broker, "state", &[]);
        for source in ["payments", "returns"] {
            write(broker, &application, source, 10);
            application.await_end_of(broker, source);
        }
        assert_eq!(running.end(), Some(0), "{}", application.log());
        for (sink, change) in [("totals", totals), ("returned", returned)] {
            let expected = if change == "kept" { 20 } else { 10 };
            assert_eq!(last(broker, &application, sink), Some(expected), "{changes:?} {sink}");
        }
    }
}
