//! Avro and Protobuf: beside Java's libraries, and on a broker with a schema registry.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use millstream::engine::codec::SourceDecoder;
use millstream::engine::codec::by_name::{RecordBuilder, RowWriter};
use millstream::engine::codec::layout::{Format, SourceLayout};
use millstream::engine::codec::line::Part;
use millstream::engine::record::Record;
use millstream::engine::schema_registry::{SchemaKind, SchemaText};
use millstream::engine::topology::{self, Topology};
use serde_json::{Value as Json, json};

use super::application::Application;
use super::broker::Broker;
use super::java::{self, Java};
use super::registry::Registry;
use crate::support::{Folder, millstream};

fn read_topology(text: &str) -> Topology {
    let folder = Folder::new();
    let (topology, findings) = topology::read(text, folder.path(), &|_| None);
    topology.unwrap_or_else(|| panic!("{findings:?}"))
}

/// A source whose records are bare values of a schema.
fn bare(schema: &str, value: &str) -> SourceLayout {
    let folder = Folder::new();
    folder.write("schema.avsc", schema);
    let text = format!(
        "[app]\nid = \"a\"\n[types.inner]\nid = \"int64\"\ntags = \"list<string>\"\n[sources.s]\ntopic = \"s\"\nvalue = {value}\n\
         format = {{ type = \"avro\", schema = \"schema.avsc\", registry = false }}"
    );
    let (topology, findings) = topology::read(&text, folder.path(), &|_| None);
    topology.unwrap_or_else(|| panic!("{findings:?}")).sources.remove(0).layout
}

fn written(layout: &SourceLayout, row: &str) -> Vec<u8> {
    RecordBuilder::new(layout).unwrap().value(&Part::columns(row)).unwrap().unwrap()
}

fn read(layout: &SourceLayout, bytes: Vec<u8>) -> Json {
    let record = Record { key: None, value: Some(bytes), timestamp: 0, headers: Vec::new(), offset: 0 };
    let decoded = SourceDecoder::new(layout, "s").unwrap().decode(&[record], 0).unwrap();
    assert_eq!(decoded.errors, []);
    RowWriter::new(&layout.schema).rows(&decoded.columns).unwrap().value(0)
}

fn bytes(answer: &Json) -> Vec<u8> {
    assert_eq!(answer["error"], Json::Null, "{answer}");
    BASE64_STANDARD.decode(answer["bytes"].as_str().unwrap()).unwrap()
}

const EVERYTHING: &str = r#"{"type":"record","name":"everything","namespace":"a.b","fields":[
    {"name":"b","type":"boolean"},
    {"name":"i","type":["null","int"]},
    {"name":"l","type":"long"},
    {"name":"f","type":"float"},
    {"name":"d","type":["double","null"]},
    {"name":"s","type":["null","string"],"default":null},
    {"name":"y","type":"bytes"},
    {"name":"x","type":{"type":"fixed","name":"x","size":2}},
    {"name":"e","type":{"type":"enum","name":"e","symbols":["RED","GREEN"]}},
    {"name":"day","type":["null",{"type":"int","logicalType":"date"}]},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"n","type":["null",{"type":"bytes","logicalType":"decimal","precision":20,"scale":3}]},
    {"name":"m","type":{"type":"fixed","name":"m","size":9,"logicalType":"decimal","precision":18,"scale":2}},
    {"name":"r","type":["null",{"type":"record","name":"inner","fields":[
        {"name":"id","type":"long"},{"name":"tags","type":{"type":"array","items":["null","string"]}}]}]},
    {"name":"rs","type":{"type":"array","items":"inner"}}]}"#;

const EVERYTHING_COLUMNS: &str = r#"{ b = "bool", i = "int32", l = "int64", f = "float32", d = "float64", s = "string", y = "bytes", x = "bytes", e = "string", day = "date", at = "timestamp", n = "decimal(20,3)", m = "decimal(18,2)", r = "inner", rs = "list<inner>" }"#;

#[test]
fn avro_is_written_and_read_as_java_does() {
    let mut java = Java::start("Schemas", "-Xmx256m -XX:TieredStopAtLevel=1");
    let layout = bare(EVERYTHING, EVERYTHING_COLUMNS);
    let schema = EVERYTHING;
    for row in [
        json!({ "b": true, "i": -1, "l": i64::MIN, "f": 0.5, "d": -0.0, "s": "né🦀", "y": "AP8=", "x": "AQI=", "e": "GREEN",
                "day": "1969-12-31", "at": "2026-01-01T00:00:00.123Z", "n": "-12345678901234567.890", "m": "-0.01",
                "r": { "id": 7, "tags": ["a", null, ""] }, "rs": [{ "id": 1, "tags": [] }, { "id": -1, "tags": ["x"] }] }),
        json!({ "b": false, "i": null, "l": 0, "f": 1e10, "d": null, "s": null, "y": "", "x": "AAA=", "e": "RED", "day": null,
                "at": "1969-12-31T23:59:59.999Z", "n": "0.128", "m": "1.28", "r": null, "rs": [] }),
        json!({ "b": false, "i": 1, "l": 64, "f": 0.0, "d": 1.5, "s": "", "y": "gA==", "x": "//8=", "e": "RED",
                "day": "9999-12-31", "at": "1970-01-01T00:00:00.000Z", "n": null, "m": "9999999999999999.99",
                "r": { "id": 0, "tags": [] }, "rs": [{ "id": 0, "tags": [null] }] }),
    ] {
        let ours = written(&layout, &row.to_string());
        let question = json!({ "do": "avro-read", "writer": schema, "reader": schema, "bytes": BASE64_STANDARD.encode(&ours) });
        let answer = java.ask(&question);
        assert_eq!(bytes(&answer), ours, "{row} {answer}");
        // Java reads its own text, writes it, and what it writes is read as the row.
        let question = json!({ "do": "avro-write", "schema": schema, "value": answer["value"] });
        let theirs = bytes(&java.ask(&question));
        assert_eq!(theirs, ours);
        assert_eq!(read(&layout, theirs), row);
    }
}

#[test]
fn schemas_evolve_as_java_resolves_them() {
    let mut java = Java::start("Schemas", "-Xmx256m -XX:TieredStopAtLevel=1");
    let record = |fields: &str| format!(r#"{{"type":"record","name":"r","fields":[{fields}]}}"#);
    let reader = record(
        r#"{"name":"a","type":"double","aliases":["old_a"]}, {"name":"b","type":["null","long"],"default":null},
           {"name":"c","type":"string","default":"né"}, {"name":"d","type":{"type":"array","items":"long"},"default":[1,-2]}"#,
    );
    let columns = r#"{ a = "float64", b = "int64", c = "string", d = "list<int64>" }"#;
    let writers = [
        (
            record(r#"{"name":"old_a","type":"int"},{"name":"gone","type":{"type":"map","values":"bytes"}}"#),
            r#"{"old_a":3,"gone":{"k":"v","l":""}}"#,
        ),
        (
            record(
                r#"{"name":"b","type":"int"},{"name":"a","type":"float"},{"name":"c","type":["string","null"]}"#,
            ),
            r#"{"b":5,"a":0.5,"c":{"string":"x"}}"#,
        ),
        (
            record(
                r#"{"name":"d","type":{"type":"array","items":"int"}},{"name":"a","type":"long"},{"name":"c","type":"bytes"}"#,
            ),
            r#"{"d":[4,5,6],"a":-9,"c":"text"}"#,
        ),
        (
            record(r#"{"name":"self","type":["null","r"]},{"name":"a","type":"double"}"#),
            r#"{"self":{"r":{"self":null,"a":1.0}},"a":2.5}"#,
        ),
    ];
    let folder = Folder::new();
    folder.write("reader.avsc", &reader);
    let text = format!(
        "[app]\nid = \"a\"\n[sources.s]\ntopic = \"s\"\nvalue = {columns}\nformat = {{ type = \"avro\", schema = \"reader.avsc\" }}"
    );
    let (topology, findings) = topology::read(&text, folder.path(), &|_| None);
    let topology = topology.unwrap_or_else(|| panic!("{findings:?}"));
    let layout = &topology.sources[0].layout;
    for (writer, value) in writers {
        let body = bytes(&java.ask(&json!({ "do": "avro-write", "schema": writer, "value": value })));
        let question = json!({ "do": "avro-read", "writer": writer, "reader": reader, "bytes": BASE64_STANDARD.encode(&body) });
        let mut expected: Json =
            serde_json::from_str(java.ask(&question)["value"].as_str().unwrap()).unwrap();
        // Java's JSON names the branch of a union.
        if let Some(long) = expected["b"].get("long").cloned() {
            expected["b"] = long;
        }
        let id = topology.registry.id("s-value", &SchemaText::new(SchemaKind::Avro, &writer)).unwrap();
        let framed = [&[0][..], &id.to_be_bytes(), &body].concat();
        assert_eq!(read(layout, framed), expected, "{writer}");
    }
}

#[test]
fn protobuf_is_written_and_read_as_java_does() {
    let mut java = Java::start("Schemas", "-Xmx256m -XX:TieredStopAtLevel=1");
    let topology = read_topology(
        r#"
        [app]
        id = "a"
        [types.line]
        sku   = "string"
        count = "int32"
        [sources.s]
        topic  = "s"
        value  = { b = "bool", i = "int32", l = "int64", f = "float32", d = "float64", s = "string", y = "bytes", at = "timestamp", ns = "list<int64>", ss = "list<string>", one = "line", many = "list<line>" }
        format = "protobuf"
        "#,
    );
    let layout = &topology.sources[0].layout;
    let Format::Schema(_) = &layout.value_format else { panic!("{:?}", layout.value_format) };
    for (row, text) in [
        (
            json!({ "b": false, "i": -1, "l": i64::MIN, "f": 0.5, "d": -0.0, "s": "né", "y": "AP8=", "at": "1969-12-31T23:59:59.999Z",
                 "ns": [1, -1, 300], "ss": ["", "x"], "one": { "sku": null, "count": 0 }, "many": [{ "sku": "a", "count": null }, { "sku": "", "count": 2 }] }),
            r#"b: false i: -1 l: -9223372036854775808 f: 0.5 d: -0.0 s: "n\303\251" y: "\000\377" at { seconds: -1 nanos: 999000000 }
            ns: 1 ns: -1 ns: 300 ss: "" ss: "x" one { count: 0 } many { sku: "a" } many { sku: "" count: 2 }"#,
        ),
        (
            json!({ "b": null, "i": null, "l": null, "f": null, "d": null, "s": null, "y": null, "at": null,
                 "ns": [], "ss": [], "one": null, "many": [] }),
            "",
        ),
    ] {
        let framed = written(layout, &row.to_string());
        let id = u32::from_be_bytes(framed[1..5].try_into().unwrap());
        assert_eq!(framed[5], 0);
        let descriptor = topology.registry.schema(id).unwrap().text.clone();
        let question =
            json!({ "do": "protobuf-write", "descriptor": descriptor, "message": "s", "value": text });
        let theirs = bytes(&java.ask(&question));
        assert_eq!(theirs, &framed[6..], "{row}");
        assert_eq!(read(layout, [&framed[..6], &theirs].concat()), row);
    }
}

const TOPOLOGY: &str = r#"
[app]
id = "{app}"

[kafka.registry]
url      = "{registry}"
username = "app"
password = "${file:password}"

[sources.readings]
topic      = "{app}-readings"
key        = { sensor = "string" }
key-format = "avro"
value      = { celsius = "float64", unit = "string" }
format     = "avro"

[steps.hot]
op    = "filter"
from  = "readings"
where = "celsius > 60"

[steps.counts]
op      = "aggregate"
from    = "hot"
columns = { times = "count(*)", largest = "max(celsius)" }

[sinks.alarms]
from       = "hot"
topic      = "{app}-alarms"
key-format = "avro"
format     = "avro"

[sinks.totals]
from   = "counts"
topic  = "{app}-totals"
format = "protobuf"
"#;

/// `app:secret`.
const USER: &str = "YXBwOnNlY3JldA==";

fn body(record: &java::Record) -> (u32, Vec<u8>) {
    let value = record.value.as_ref().unwrap();
    assert_eq!(value[0], 0);
    (u32::from_be_bytes(value[1..5].try_into().unwrap()), value[5..].to_vec())
}

#[test]
fn avro_comes_from_a_broker_and_goes_there_while_schemas_evolve_and_the_registry_is_away() {
    let broker = Broker::shared();
    let mut registry = Registry::start(Some(USER));
    let topology = TOPOLOGY.replace("{registry}", &registry.url());
    let application =
        Application::of_topics(broker, "schemas", &topology, &["readings", "alarms", "totals"], 1);
    application.folder.write("password", "secret\n");
    let readings = application.topic("readings");

    // The first readings are written by `feed`, with the schema of the columns.
    application.folder.write(
        "readings.jsonl",
        "{\"key\":{\"sensor\":\"s1\"},\"value\":{\"celsius\":61.5,\"unit\":\"C\"},\"timestamp\":1}\n",
    );
    let file = application.folder.at("topology.toml");
    let feed = format!("readings={}", application.folder.at("readings.jsonl"));
    millstream(&["feed", &file, "--feed", &feed, "--brokers", broker.brokers()]).expect_code(0);
    let value_subject = format!("{readings}-value");
    assert_eq!(registry.newest(&value_subject)["fields"][0]["name"], "celsius");
    let key = java::consume(broker, &readings)[0].key.clone().unwrap();

    let running = application.start(broker, "state", &[]);
    application
        .wait_until("the first alarm", || java::consume(broker, &application.topic("alarms")).len() == 1);
    // The second schema has no `unit`, another order and a field more; it is registered while nobody can ask for it.
    let second = json!({ "type": "record", "name": "other", "fields": [
        { "name": "place", "type": { "type": "map", "values": "string" } }, { "name": "celsius", "type": ["null", "double"] },
    ] });
    let id = registry.register(&value_subject, &second.to_string());
    registry.stop();
    let mut value = vec![0];
    value.extend_from_slice(&u32::try_from(id).unwrap().to_be_bytes());
    value.extend_from_slice(&[0x02, 0x02, b'k', 0x02, b'v', 0x00, 0x02]);
    value.extend_from_slice(&70.0f64.to_le_bytes());
    let record = json!({ "key": BASE64_STANDARD.encode(&key), "value": BASE64_STANDARD.encode(&value), "timestamp": 2 });
    java::call(
        broker,
        json!({ "do": "produce", "topic": readings, "key-type": "bytes", "value-type": "bytes", "records": [record, record] }),
    );
    application.wait_until("the registry to be missed", || {
        application.log().contains("the schema registry does not answer")
    });
    assert_eq!(java::consume(broker, &application.topic("alarms")).len(), 1);
    registry.resume();
    application.wait_until("all alarms", || java::consume(broker, &application.topic("alarms")).len() == 3);
    assert_eq!(running.end(), Some(0), "{}", application.log());
    assert!(registry.asked(&format!("GET /schemas/ids/{id}")) <= 3);

    let alarms = java::consume(broker, &application.topic("alarms"));
    let expected = [("C", 61.5f64), ("", 70.0), ("", 70.0)];
    let alarms_id = body(&alarms[0]).0;
    for (alarm, (unit, celsius)) in alarms.iter().zip(expected) {
        let mut expected = vec![0x02];
        expected.extend_from_slice(&celsius.to_le_bytes());
        match unit {
            "" => expected.push(0x00),
            unit => expected.extend_from_slice(&[&[0x02, 0x02], unit.as_bytes()].concat()),
        }
        assert_eq!(body(alarm), (alarms_id, expected));
        // A key has a subject and a schema of its own.
        assert_eq!(&alarm.key.as_ref().unwrap()[5..], [0x02, 0x04, b's', b'1']);
    }
    let totals = java::consume(broker, &application.topic("totals"));
    let last = totals.last().unwrap();
    // The first message of its file: three times, at most 70 degrees.
    assert_eq!(&body(last).1[..3], [0x00, 0x08, 0x03]);
    assert_eq!(last.key.as_deref(), Some(&b"s1"[..]));

    // `check` compares what the registry has with the columns.
    let brokers = format!("--brokers={}", broker.brokers());
    let check = || millstream(&["check", &brokers, &file]);
    check().expect_code(0);
    let third =
        json!({ "type": "record", "name": "other", "fields": [{ "name": "celsius", "type": "string" }] });
    registry.register(&format!("{}-value", application.topic("fresh")), &third.to_string());
    let subject = application.topic("fresh");
    let other =
        format!("unit = \"string\" }}\nformat     = {{ type = \"avro\", subject = \"{subject}-value\" }}");
    let changed = topology
        .replace("{app}", &application.id)
        .replace("unit = \"string\" }\nformat     = \"avro\"", &other);
    application.folder.write("topology.toml", &changed);
    check().expect_code(2).says(&["M0942", "string cannot be read as float64"]);
}

#[test]
fn without_a_registry_nothing_starts() {
    let broker = Broker::shared();
    let (before, rest) = TOPOLOGY.split_once("[kafka.registry]").unwrap();
    let (_, after) = rest.split_once("[sources.readings]").unwrap();
    let topology = format!("{before}[sources.readings]{after}");
    let application = Application::of_topics(broker, "bare", &topology, &["readings", "alarms", "totals"], 1);
    let file = application.folder.at("topology.toml");
    millstream(&["check", &file]).expect_code(0);
    millstream(&["run", &file, "--brokers", broker.brokers()]).expect_code(2).says(&["M0941"]);
}
