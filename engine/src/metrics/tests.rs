//! What a scrape shows, and whether the pages, the dashboard and the alerts in `docs/` speak of the metrics there are.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use millstream_state::TaskState;
use serde_json::Value as Json;

use super::*;
use crate::plan::Plan;
use crate::record::Record;
use crate::task::{GlobalStates, Task};
use crate::topology::read;

const TOPOLOGY: &str = r#"
    [app]
    id = "shop"
    [sources.orders]
    topic    = "orders-topic"
    key      = { customer = "string" }
    value    = { amount = "float64" }
    on-error = "skip"
    [steps.large]
    op    = "filter"
    from  = "orders"
    where = "amount > 10"
    [steps.spend]
    op      = "aggregate"
    from    = "large"
    columns = { spend = "sum(amount)" }
    [sinks.out]
    from = "spend"
"#;

fn task() -> (Arc<SubTopology>, Task) {
    task_of(TOPOLOGY)
}

/// The first task of a topology; its models are those of the flights.
fn task_of(text: &str) -> (Arc<SubTopology>, Task) {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../topology-examples/flights"));
    let (topology, findings) = read(text, folder, &|_| None);
    let plan = Plan::new(&topology.unwrap_or_else(|| panic!("{findings:?}"))).unwrap();
    let sub = plan.sub_topologies[0].clone();
    let state = TaskState::in_memory(&Task::store_specs(&sub));
    let task = Task::open(sub.clone(), 3, state, vec![0], &[], GlobalStates::default(), false).unwrap();
    (sub, task)
}

fn record(offset: i64, key: Option<&str>, value: &str) -> (usize, Record) {
    let key = key.map(|key| key.as_bytes().to_vec());
    let value = Some(value.as_bytes().to_vec());
    (0, Record { key, value, timestamp: 1_000 * offset, headers: Vec::new(), offset })
}

/// The value of a series, given as it is written.
fn value(rendered: &str, series: &str) -> Option<f64> {
    let line = rendered.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

#[test]
fn a_task_is_counted_while_it_is_open_and_its_nodes_beyond() {
    let metrics = Metrics::new("shop", "shop-0").unwrap();
    let (sub, mut task) = task();
    let mut counting = metrics.task(&sub, 3).unwrap();
    let shown = |series: &str| value(&metrics.render().unwrap(), series);
    let records =
        "millstream_task_processed_records_total{app=\"shop\",partition=\"3\",sub_topology=\"orders\"}";
    let lag = "millstream_task_input_lag_records{app=\"shop\",partition=\"3\",sub_topology=\"orders\",topic=\"orders-topic\"}";
    let stream_time =
        "millstream_task_stream_time_seconds{app=\"shop\",partition=\"3\",sub_topology=\"orders\"}";
    let running = "millstream_tasks{app=\"shop\",state=\"running\"}";
    let rows_in = "millstream_node_in_rows_total{app=\"shop\",node=\"large\",sub_topology=\"orders\"}";
    let rows_out = "millstream_node_out_rows_total{app=\"shop\",node=\"large\",sub_topology=\"orders\"}";
    let dropped = "millstream_node_dropped_rows_total{app=\"shop\",node=\"spend\",reason=\"null-key\",sub_topology=\"orders\"}";
    let failed =
        "millstream_node_error_records_total{app=\"shop\",code=\"M0801\",node=\"orders\",outcome=\"skip\"}";
    let sink =
        "millstream_written_bytes_total{app=\"shop\",kind=\"sink\",node=\"out\",sub_topology=\"orders\"}";
    assert_eq!((shown(records), shown(lag), shown(running)), (Some(0.0), Some(0.0), Some(1.0)));
    // Stream time has no value before the first record, and 1970 is none.
    assert_eq!(shown(stream_time), None);

    for offset in [0, 3] {
        let batch = vec![
            record(offset, Some("a"), "{\"amount\": 20.0}"),
            record(offset + 1, None, "{\"amount\": 30.0}"),
            record(offset + 2, Some("b"), "{\"amount\": "),
        ];
        let epoch = task.process(batch, 0).unwrap();
        counting.epoch(&epoch, task.counters(), task.stream_time());
    }
    counting.wrote(Rank::Sink(0), 2, 64);
    counting.lag(0, 17);
    counting.memory(1_000, 200, 30);
    assert_eq!(shown(records), Some(6.0));
    assert_eq!(
        shown("millstream_task_epochs_total{app=\"shop\",partition=\"3\",sub_topology=\"orders\"}"),
        Some(2.0)
    );
    assert_eq!((shown(rows_in), shown(rows_out), shown(dropped)), (Some(4.0), Some(4.0), Some(2.0)));
    assert_eq!((shown(failed), shown(sink)), (Some(2.0), Some(64.0)));
    assert_eq!((shown(stream_time), shown(lag)), (Some(3.0), Some(17.0)));
    let memory = |owner: &str| format!("millstream_memory_bytes{{app=\"shop\",owner=\"{owner}\"}}");
    let held = ["staged", "state-cache", "input-queues"].map(|owner| shown(&memory(owner)));
    assert_eq!(held, [Some(1_000.0), Some(200.0), Some(30.0)]);

    // The task is opened again before the old handle is gone: its series stay.
    let again = metrics.task(&sub, 3).unwrap();
    drop(counting);
    assert_eq!((shown(lag), shown(running)), (Some(17.0), Some(1.0)));
    drop(again);
    let rendered = metrics.render().unwrap();
    assert!(!rendered.contains("partition=\"3\""), "{rendered}");
    assert_eq!((value(&rendered, running), value(&rendered, rows_in)), (Some(0.0), Some(4.0)));
    assert_eq!(value(&rendered, &memory("staged")), Some(0.0));
}

#[test]
fn commits_restores_and_memory_are_seen() {
    let metrics = Metrics::new("shop", "shop-0").unwrap();
    let (sub, _) = task();
    let shown = |series: &str| value(&metrics.render().unwrap(), series);
    let aborted = |reason: &str| {
        shown(&format!("millstream_transactions_aborted_total{{app=\"shop\",reason=\"{reason}\"}}"))
    };
    metrics.committed(Duration::from_millis(7));
    metrics.aborted(AbortReason::Fenced);
    metrics.client_error(Client::Producer, "BrokerTransportFailure");
    assert_eq!(shown("millstream_commits_total{app=\"shop\"}"), Some(1.0));
    let within =
        |le: &str| shown(&format!("millstream_commit_duration_seconds_bucket{{app=\"shop\",le=\"{le}\"}}"));
    assert_eq!((within("0.005"), within("0.01")), (Some(0.0), Some(1.0)));
    assert_eq!((aborted("fenced"), aborted("rebalance")), (Some(1.0), Some(0.0)));
    let error =
        "millstream_client_errors_total{app=\"shop\",client=\"producer\",error=\"BrokerTransportFailure\"}";
    assert_eq!(shown(error), Some(1.0));

    let remaining =
        "millstream_restore_remaining_records{app=\"shop\",partition=\"0\",sub_topology=\"orders\"}";
    let restoring = "millstream_tasks{app=\"shop\",state=\"restoring\"}";
    let restore = metrics.restore(&sub, 0).unwrap();
    restore.read(100, 5_000, 40);
    assert_eq!((shown(remaining), shown(restoring)), (Some(40.0), Some(1.0)));
    restore.done(Duration::from_secs(2));
    assert_eq!((shown(remaining), shown(restoring)), (None, Some(0.0)));
    assert_eq!(shown("millstream_restored_bytes_total{app=\"shop\"}"), Some(5_000.0));
    assert_eq!(shown("millstream_restore_duration_seconds_count{app=\"shop\"}"), Some(1.0));

    let queued = || shown("millstream_memory_bytes{app=\"shop\",owner=\"input-queues\"}");
    let (mut one, mut other) =
        (metrics.memory(Owner::InputQueues).unwrap(), metrics.memory(Owner::InputQueues).unwrap());
    one.set(100);
    other.set(30);
    one.set(50);
    assert_eq!(queued(), Some(80.0));
    drop(one);
    assert_eq!(queued(), Some(30.0));
    let build = format!(
        "millstream_build_info{{app=\"shop\",process=\"shop-0\",version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(shown(&build), Some(1.0));
    if cfg!(target_os = "linux") {
        assert!(shown("millstream_resident_memory_bytes{app=\"shop\"}").unwrap() > 1_000_000.0);
    }
}

#[test]
fn a_model_is_timed_with_each_batch() {
    const INPUTS: [&str; 17] = [
        "dep_delay",
        "distance",
        "planned_minutes",
        "scheduled_hour",
        "origin_departures_1h",
        "origin_delay_1h",
        "origin_departures_3h",
        "origin_delay_3h",
        "origin_lost_1h",
        "carrier_departures_3h",
        "carrier_delay_3h",
        "carrier_lost_24h",
        "aircraft_legs",
        "aircraft_delay",
        "aircraft_last_delay",
        "dest_lost_3h",
        "dest_lost_24h",
    ];
    let columns: String = INPUTS.iter().map(|name| format!("{name} = \"float64\"\n")).collect();
    let text = format!(
        "[app]\nid = \"a\"\n[sources.flights]\ntopic = \"flights\"\n[sources.flights.value]\n{columns}\
         [models.late]\npath = \"models/late\"\nversion = \"1\"\n\
         [steps.scored]\nop = \"predict\"\nfrom = \"flights\"\nmodel = \"late\"\n\
         outputs = {{ score = {{ tensor = \"probabilities\", class = \"1\" }} }}\n[sinks.out]\nfrom = \"scored\"\n"
    );
    let metrics = Metrics::new("a", "a-0").unwrap();
    let (sub, mut task) = task_of(&text);
    let mut counting = metrics.task(&sub, 0).unwrap();
    for batch in [vec![record(0, None, "{}"), record(1, None, "{}")], vec![record(2, None, "{}")]] {
        let epoch = task.process(batch, 0).unwrap();
        counting.epoch(&epoch, task.counters(), task.stream_time());
    }
    let shown = |series: &str| {
        let labels = "{app=\"a\",node=\"scored\",sub_topology=\"flights\"}";
        value(&metrics.render().unwrap(), &format!("{series}{labels}"))
    };
    assert_eq!(shown("millstream_model_batch_rows_sum"), Some(3.0));
    assert_eq!(shown("millstream_model_batch_rows_count"), Some(2.0));
    assert_eq!(shown("millstream_model_latency_seconds_count"), Some(2.0));
    assert!(shown("millstream_model_latency_seconds_sum").unwrap() > 0.0);
}

#[test]
fn names_follow_the_rules() {
    const UNITS: [&str; 5] = ["seconds", "bytes", "records", "rows", "info"];
    // What is counted is the thing itself.
    const THINGS: [&str; 9] =
        ["epochs", "commits", "aborted", "unknown", "replaced", "errors", "rebalances", "trips", "tasks"];
    let mut names = BTreeSet::new();
    for Definition { name, kind, labels, help } in DEFINITIONS {
        assert!(names.insert(name), "{name} stands twice");
        let word = name.strip_prefix("millstream_").unwrap_or_else(|| panic!("{name}"));
        assert!(word.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        let unit = word.strip_suffix("_total").unwrap_or(word);
        assert_eq!(unit != word, *kind == MetricKind::Counter, "{name}");
        let unit = unit.rsplit('_').next().unwrap_or_default();
        assert!(UNITS.contains(&unit) || THINGS.contains(&unit), "{name}");
        assert!(help.ends_with('.') || help.ends_with(')'), "{name}");
        // Prometheus gives these itself.
        assert!(labels.iter().all(|label| !["app", "instance", "job", "le"].contains(label)), "{name}");
    }
}

fn docs(file: &str) -> std::path::PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).join(file)
}

#[test]
fn the_page_is_current() {
    let path = docs("metrics.md");
    if std::env::var_os("MILLSTREAM_ACCEPT").is_some() {
        std::fs::write(&path, metrics_page()).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == metrics_page(),
        "docs/metrics.md is not current: run `MILLSTREAM_ACCEPT=1 cargo test -p millstream-engine metrics`"
    );
}

/// The words of an expression: names, and single characters besides them. Strings are left out.
fn words(expression: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let end = if first == '"' {
            rest[1..].find('"').map_or(rest.len(), |end| end + 2)
        } else {
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
                .filter(|end| *end > 0)
                .unwrap_or(if first.is_ascii_alphanumeric() { rest.len() } else { first.len_utf8() })
        };
        let (word, after) = rest.split_at(end);
        if first != '"' && !first.is_whitespace() {
            words.push(word);
        }
        rest = after;
    }
    words
}

/// The definition that a series belongs to.
fn definition(series: &str) -> Option<&'static Definition> {
    let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| series.strip_suffix(part));
    DEFINITIONS.iter().find(|found| match found.kind {
        MetricKind::Histogram => of_histogram == Some(found.name),
        _ => found.name == series,
    })
}

/// What is wrong with an expression; notes the metrics in it, and gives the labels that its result may have.
fn problems(expression: &str, used: &mut BTreeSet<&'static str>) -> (Vec<String>, BTreeSet<&'static str>) {
    let words = words(expression);
    let mut labels: BTreeSet<&'static str> = ["app", "instance", "job", "le"].into_iter().collect();
    let mut problems = Vec::new();
    let is_ours = |word: &&&str| word.starts_with("millstream_");
    for word in words.iter().filter(is_ours) {
        match definition(word) {
            Some(found) => {
                used.insert(found.name);
                labels.extend(found.labels);
            }
            None => problems.push(format!("there is no metric `{word}`: {expression}")),
        }
    }
    // Labels of one metric in its braces.
    for (at, word) in words.iter().enumerate().filter(|(_, word)| is_ours(word)) {
        if words.get(at + 1) != Some(&"{") {
            continue;
        }
        let inner = words[at + 2..].iter().take_while(|word| **word != "}");
        let names = inner.filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()));
        let own = definition(word).map_or(&[][..], |found| found.labels);
        for name in
            names.filter(|name| !own.contains(*name) && !["app", "instance", "job", "le"].contains(*name))
        {
            problems.push(format!("`{word}` has no label `{name}`: {expression}"));
        }
    }
    // Labels that rows are grouped or joined by.
    for (at, _) in
        words.iter().enumerate().filter(|(_, word)| ["by", "on", "ignoring", "group_left"].contains(*word))
    {
        if words.get(at + 1) != Some(&"(") {
            continue;
        }
        for name in words[at + 2..].iter().take_while(|word| **word != ")").filter(|word| **word != ",") {
            if !labels.contains(name) {
                problems.push(format!("no metric has the label `{name}`: {expression}"));
            }
        }
    }
    (problems, labels)
}

/// Every value of a key, anywhere.
fn values<'a>(json: &'a Json, key: &str, found: &mut Vec<&'a str>) {
    match json {
        Json::Object(map) => {
            found.extend(map.get(key).and_then(Json::as_str));
            map.values().for_each(|value| values(value, key, found));
        }
        Json::Array(items) => items.iter().for_each(|item| values(item, key, found)),
        _ => {}
    }
}

/// The alerts' keys with their values, those of `labels` and `annotations` among them. A value `|` is what is indented below.
fn alerts(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut alerts: Vec<BTreeMap<String, String>> = Vec::new();
    let mut block: Option<(String, usize)> = None;
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let trimmed = line.trim_start();
        let depth = line.len() - trimmed.len();
        if let Some(name) = trimmed.strip_prefix("- alert: ") {
            alerts.push(BTreeMap::from([("alert".to_owned(), name.to_owned())]));
            block = None;
            continue;
        }
        let Some(alert) = alerts.last_mut() else { continue };
        match &block {
            Some((key, indent)) if depth > *indent || trimmed.is_empty() => {
                let value = alert.entry(key.clone()).or_default();
                value.push_str(trimmed);
                value.push(' ');
            }
            _ => {
                let (key, value) = trimmed.split_once(':').unwrap_or((trimmed, ""));
                block = (value.trim() == "|").then(|| (key.to_owned(), depth));
                alert.insert(key.to_owned(), value.trim().trim_start_matches('|').to_owned());
            }
        }
    }
    alerts
}

#[test]
fn dashboard_and_alerts_speak_of_what_there_is() {
    /// Shown by neither, on purpose.
    const LEFT_OUT: &[&str] = &["millstream_written_bytes_total", "millstream_restored_bytes_total"];
    let dashboard: Json =
        serde_json::from_slice(&std::fs::read(docs("grafana-dashboard.json")).unwrap()).unwrap();
    let rules = std::fs::read_to_string(docs("alerts.yaml")).unwrap();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();

    let mut expressions = Vec::new();
    values(&dashboard, "expr", &mut expressions);
    values(&dashboard, "query", &mut expressions);
    assert!(expressions.len() >= 20, "{}", expressions.len());
    for expression in expressions.into_iter().filter(|text| text.contains("millstream_")) {
        wrong.extend(problems(expression, &mut used).0);
    }

    let alerts = alerts(&rules);
    assert!(alerts.len() >= 10, "{}", alerts.len());
    for alert in &alerts {
        let expression = alert.get("expr").unwrap_or_else(|| panic!("{alert:?}"));
        let (found, labels) = problems(expression, &mut used);
        wrong.extend(found);
        for said in ["summary", "description"] {
            let text = alert.get(said).unwrap_or_else(|| panic!("no {said}: {alert:?}"));
            for part in text.split("$labels.").skip(1) {
                let name: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if !labels.contains(name.as_str()) {
                    wrong.push(format!("its metrics have no label `{name}`: {alert:?}"));
                }
            }
        }
        assert!(alert.contains_key("severity") && alert.contains_key("for"), "{alert:?}");
    }

    for Definition { name, .. } in DEFINITIONS {
        if used.contains(name) == LEFT_OUT.contains(name) {
            wrong.push(format!("`{name}` is neither shown nor left out on purpose, or both"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
