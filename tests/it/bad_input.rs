//! Records, keys and models that are broken: what is said, and that nothing is lost.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use crate::support::{Folder, Ran, examples, millstream, with_input};

const ORDERS: &str = r#"
[app]
id = "shop"

[sources.orders]
topic    = "orders"
key      = { id = "int64" }
value    = { amount = "int64", note = "string" }
on-error = "fail"

[steps.rate]
op       = "select"
from     = "orders"
add      = { rate = "100 / amount" }
on-error = "fail"

[steps.total]
op       = "aggregate"
from     = "orders"
columns  = { total = "sum(amount)" }
on-error = "fail"

[sinks.rates]
from = "rate"

[sinks.totals]
from = "total"
"#;

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn order(key: i64, amount: i64) -> Json {
    json!({ "topic": "orders", "timestamp": 5, "key": { "id": key }, "value": { "amount": amount, "note": "" } })
}

fn raw(value: &[u8]) -> Json {
    json!({ "topic": "orders", "timestamp": 6, "key": { "id": 2 }, "value-bytes": base64(value) })
}

fn pipe(on_error: &str, lines: &[Json]) -> Ran {
    let folder = Folder::new();
    let file = folder.write("topology.toml", ORDERS.replace("\"fail\"", &format!("\"{on_error}\"")));
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    with_input(&["pipe", &file], &input)
}

/// With `fail` the run stops before the record; with `dead-letter` the record is kept as it came, and the rest goes on.
#[track_caller]
fn broken(record: &Json, code: &str, node: &str, words: &str) {
    let (before, after) = (order(1, 10), order(1, 20));
    let lines = [before, record.clone(), after];
    let stopped = pipe("fail", &lines).expect_code(1);
    assert!(stopped.lines().iter().all(|line| line["key"] == json!({ "id": 1 })), "{}", stopped.stdout);
    assert_eq!(stopped.lines().len(), 2, "what the record before it caused is there: {}", stopped.stdout);
    let stopped = stopped.says(&[&format!("error[{code}]"), &format!("`{node}`"), "line 2", words]);
    assert!(stopped.stderr.len() < 2_000, "a message is short: {}", &stopped.stderr[..2_000]);

    let went_on = pipe("dead-letter", &lines).expect_code(0);
    let lines = went_on.lines();
    let topic = format!("shop-{node}-dead-letter");
    let letters: Vec<&Json> = lines.iter().filter(|line| line["topic"] == topic.as_str()).collect();
    assert_eq!(letters.len(), 1, "{lines:?}");
    let letter = letters[0];
    let headers = letter["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["millstream.error.code", code])), "{headers:?}");
    if let Some(bytes) = record.get("value-bytes") {
        assert_eq!(&letter["value-bytes"], bytes);
    }
    let last = lines.iter().rfind(|line| line["topic"] == "totals").unwrap();
    assert_eq!(last["value"], json!({ "total": 30 }));
}

#[test]
fn a_value_that_is_cut_off() {
    broken(&raw(b"{\"amount\": 1"), "M0801", "orders", "");
}

#[test]
fn a_value_of_the_wrong_type() {
    broken(&raw(b"{\"amount\": \"many\"}"), "M0801", "orders", "amount");
    broken(&raw(b"[1]"), "M0801", "orders", "");
}

#[test]
fn a_value_that_is_not_utf8() {
    broken(&raw(b"{\"amount\": 1, \"note\": \"caf\xe9\"}"), "M0801", "orders", "UTF-8");
}

#[test]
fn ten_megabytes() {
    let note = "x".repeat(10 << 20);
    // Large is not wrong.
    let large = json!({ "topic": "orders", "timestamp": 6, "key": { "id": 1 }, "value": { "amount": 1, "note": note } });
    let ran = pipe("fail", &[large]).expect_code(0);
    assert_eq!(ran.lines().len(), 2);
    // Large and wrong is said in few words.
    broken(&raw(format!("{{\"amount\": 1, \"note\": \"{note}").as_bytes()), "M0801", "orders", "");
    broken(&raw(format!("{{\"amount\": \"{note}\"}}").as_bytes()), "M0801", "orders", "amount");
}

#[test]
fn a_key_of_the_wrong_format() {
    let record =
        json!({ "topic": "orders", "timestamp": 6, "key-bytes": base64(b"abc"), "value": { "amount": 1 } });
    broken(&record, "M0802", "orders", "found 3 bytes, expected 8");
}

#[test]
fn a_division_by_zero() {
    let lines = [order(1, 10), order(2, 0), order(1, 20)];
    pipe("fail", &lines).expect_code(1).says(&["error[M0804]", "`rate`", "line 2"]);
    let ran = pipe("dead-letter", &lines).expect_code(0);
    let of = |topic: &str| ran.lines().iter().filter(|line| line["topic"] == topic).count();
    assert_eq!((of("rates"), of("totals"), of("shop-rate-dead-letter")), (2, 3, 1), "only its own path ends");
    let ran = pipe("skip", &lines).expect_code(0).says(&["M0804", "skipped"]);
    assert_eq!(ran.lines().len(), 5);
}

#[test]
fn a_sum_that_overflows() {
    let lines = [order(1, i64::MAX), order(1, 1), order(1, -1)];
    pipe("fail", &lines).expect_code(1).says(&["error[M0805]", "`total`", "line 2"]);
    let ran = pipe("dead-letter", &lines).expect_code(0);
    let totals: Vec<Json> = ran
        .lines()
        .iter()
        .filter(|line| line["topic"] == "totals")
        .map(|line| line["value"]["total"].clone())
        .collect();
    assert_eq!(totals, [json!(i64::MAX), json!(i64::MAX - 1)], "the record that failed did not count");
}

/// A copy of the flights and their model.
fn flights() -> Folder {
    let folder = Folder::new();
    let from = examples().join("flights");
    let text = std::fs::read_to_string(from.join("topology.toml")).unwrap();
    folder.write("topology.toml", text);
    for file in ["model.onnx", "model.toml", "golden.jsonl"] {
        let path = Path::new("models/late/2").join(file);
        folder.write(path.to_str().unwrap(), std::fs::read(from.join(&path)).unwrap());
    }
    folder
}

#[test]
fn a_model_that_was_changed_or_cut_off() {
    let folder = flights();
    let file = folder.at("topology.toml");
    millstream(&["check", &file]).expect_code(0);
    let model = std::fs::read(folder.path().join("models/late/2/model.onnx")).unwrap();

    let mut changed = model.clone();
    changed[model.len() / 2] ^= 1;
    folder.write("models/late/2/model.onnx", &changed);
    millstream(&["check", &file]).expect_code(2).says(&["error[M0602]", "sha256"]);

    folder.write("models/late/2/model.onnx", &model[..model.len() / 2]);
    millstream(&["test", &file]).expect_code(2).says(&["error[M0602]"]);

    std::fs::remove_file(folder.path().join("models/late/2/model.onnx")).unwrap();
    millstream(&["check", &file]).expect_code(2).says(&["error[M0602]", "model.onnx"]);
}

#[test]
fn a_model_that_asks_for_a_column_that_is_not_there() {
    let folder = flights();
    let text = folder.read("topology.toml");
    let file = folder.write("topology.toml", text.replace("columns.dest_lost_24h", "columns.dest_lost_24"));
    millstream(&["check", &file]).expect_code(2).says(&["error[M0603]", "dest_lost_24h", "`dest_lost_24`"]);
    let inputs = "op      = \"predict\"\ninputs  = { features = [\"dep_delay\", \"distance\"] }\n";
    let file = folder.write("topology.toml", text.replace("op      = \"predict\"\n", inputs));
    millstream(&["check", &file]).expect_code(2).says(&["error[M0603]", "2 columns"]);
}

#[test]
fn a_file_that_is_not_toml() {
    let folder = Folder::new();
    let file = folder.write("topology.toml", "[app\nid = 1\n");
    millstream(&["check", &file]).expect_code(2).says(&["error[M0101]", "topology.toml:1"]);
}

#[test]
fn a_cluster_that_nothing_names_or_that_this_machine_cannot_log_in_to() {
    let folder = Folder::new();
    let feed = format!("orders={}", folder.write("orders.csv", "timestamp,id,amount,note\n0,1,2,x\n"));
    let file = folder.write("topology.toml", ORDERS);
    let said = ["error[M0103]", "`MILLSTREAM_BROKERS`", "`--brokers HOST:9092`"];
    millstream(&["feed", &file, "--feed", &feed]).expect_code(2).says(&said);
    let said = ["error[M0118]", "`--brokers`: `broker:port` is not an address"];
    let brokers = ["--brokers", "127.0.0.1:9092,broker:port"];
    millstream(&["feed", &file, "--feed", &feed, brokers[0], brokers[1]]).expect_code(2).says(&said);
    let feed_of_none = feed.replace("orders=", "order=");
    millstream(&["feed", &file, "--feed", &feed_of_none]).expect_code(2).says(&["did you mean `orders`?"]);

    // Who connects needs the password; all others do not.
    let security = "[kafka.security]\nprotocol = \"sasl-ssl\"\nmechanism = \"PLAIN\"\nusername = \"${KAFKA_USER:-shop}\"\n\
                    password = \"${file:secrets/password}\"\n";
    let file = folder.write("topology.toml", format!("{security}{ORDERS}"));
    millstream(&["check", &file]).expect_code(0);
    with_input(&["pipe", &file], &order(1, 10).to_string()).expect_code(0);
    let said = ["error[M0112]", "topology.toml:5", "`secrets/password` cannot be read"];
    millstream(&["feed", &file, "--feed", &feed, "--brokers", "127.0.0.1:1"]).expect_code(2).says(&said);
}

/// Every step that finds rows by their key.
const KEYED: &str = r#"
[app]
id = "cards"

[sources.payments]
topic = "payments"
key   = { card = "string" }
value = { amount = "int64" }

[tables.limits]
topic = "limits"
key   = { card = "string" }
value = { most = "int64" }

[steps.counted]
op = "aggregate"
from = "payments"
columns = { n = "count(*)" }

[steps.per_minute]
op = "aggregate"
from = "payments"
window = { tumbling = "1m" }
columns = { n = "count(*)" }

[steps.sliding]
op = "aggregate"
from = "payments"
window = { sliding = "1m" }
columns = { n = "count(*)" }

[steps.visits]
op = "aggregate"
from = "payments"
window = { session = "1m" }
columns = { n = "count(*)" }

[steps.recent]
op = "features"
from = "payments"
columns.n = { value = "count(*)", last = "1m" }

[steps.once]
op = "dedup"
from = "payments"
within = "1m"

[steps.newest]
op = "to-table"
from = "payments"

[steps.largest]
op = "top"
from = "payments"
n = 3
order-by = "amount"
partition-by = ["card"]

[steps.limited]
op = "join"
from = "payments"
with = "limits"

[steps.near]
op = "join"
from = { node = "payments", as = "a" }
with = { node = "once", as = "b" }
within = "1m"
columns = { both = "a.amount + b.amount" }
"#;

#[test]
fn rows_without_a_key_are_dropped_where_one_is_needed_and_counted() {
    let folder = Folder::new();
    let file = folder.write("topology.toml", KEYED);
    let record = |topic: &str, time: i64, key: Json| {
        let value = json!({ if topic == "limits" { "most" } else { "amount" }: 1 });
        format!("{}\n", json!({ "topic": topic, "timestamp": time, "key": key, "value": value }))
    };
    let with_key = record("payments", 1_001, json!({ "card": "c" }));
    let payments = folder.write("payments.jsonl", record("payments", 1_000, Json::Null) + &with_key);
    let limits = folder.write("limits.jsonl", record("limits", 1_000, Json::Null));
    let feeds = [format!("payments={payments}"), format!("limits={limits}")];
    let ran = millstream(&["dev", &file, "--feed", &feeds[0], "--feed", &feeds[1]]).expect_code(0);
    let (_, account) = ran.stdout.split_once("\nstep ").unwrap();
    let (steps, _) = account.split_once("\n\n").unwrap();
    let counted: Vec<&str> = steps.lines().skip(1).filter(|line| line.contains(" 1 null-key")).collect();
    assert_eq!(counted.len(), 11, "{}", ran.stdout);
    assert_eq!(steps.lines().count(), 12, "{}", ran.stdout);
}
