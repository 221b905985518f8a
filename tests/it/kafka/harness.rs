//! What the other tests rely on: a broker that can be ended and started again, and Java's client as the reference.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use millstream::engine::partitioner;
use serde_json::json;

use super::broker::{Broker, BrokerOptions, unique};
use super::java;

#[test]
fn a_killed_broker_comes_back_with_what_it_had() {
    let broker = Broker::start(&BrokerOptions::default());
    java::create_topic(&broker, "kept", 1);
    let kept = json!([{ "key": "a", "value": "1", "timestamp": 5, "headers": [["h", BASE64_STANDARD.encode("x")]] }]);
    java::call(&broker, json!({ "do": "produce", "topic": "kept", "records": kept }));
    broker.pause();
    broker.resume();
    broker.kill();
    broker.restart();
    let records = java::consume(&broker, "kept");
    broker.stop();
    let found: Vec<_> = records
        .iter()
        .map(|record| (record.timestamp, record.value.as_deref(), record.headers.first().cloned()))
        .collect();
    assert_eq!(found, [(5, Some(&b"1"[..]), Some(("h".to_owned(), Some(b"x".to_vec()))))]);

    let directory = broker.directory().to_owned();
    assert!(directory.exists());
    drop(broker);
    assert!(!directory.exists(), "its files are gone with it");
}

#[test]
fn java_finds_the_same_partitions() {
    let broker = Broker::shared();
    let topic = unique("keys");
    java::create_topic(broker, &topic, 7);
    let strings: Vec<String> = (0..200)
        .map(|number| format!("schlüssel-{}", "x".repeat(number % 9) + &number.to_string()))
        .collect();
    let numbers: Vec<i64> = (0..200_i64).map(|number| (number - 100) * 0x1234_5677).collect();
    let keys_of = |kind: &str| -> Vec<(serde_json::Value, Vec<u8>)> {
        match kind {
            "string" => strings.iter().map(|key| (json!(key), key.clone().into_bytes())).collect(),
            "long" => numbers.iter().map(|key| (json!(key), key.to_be_bytes().to_vec())).collect(),
            _ => {
                numbers.iter().map(|key| (json!(*key as i32), (*key as i32).to_be_bytes().to_vec())).collect()
            }
        }
    };
    for kind in ["string", "long", "integer"] {
        let keys = keys_of(kind);
        let records: Vec<_> = keys.iter().map(|(key, _)| json!({ "key": key, "value": "" })).collect();
        let written = java::call(
            broker,
            json!({ "do": "produce", "topic": topic, "key-type": kind, "records": records }),
        );
        for ((key, bytes), record) in keys.iter().zip(written["records"].as_array().unwrap()) {
            assert_eq!(record["partition"], partitioner::partition(bytes, 7), "{kind} {key}");
        }
        let read = java::consume(broker, &topic);
        for (key, bytes) in &keys {
            assert!(read.iter().any(|record| record.key.as_ref() == Some(bytes)), "{kind} {key}");
        }
    }
}
