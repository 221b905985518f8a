//! What `check` says about mistakes.
//!
//! Each `diagnostics/CODE-*.toml` holds a mistake; the `.txt` beside it is what is said about it, to the character. The pages
//! in `docs/errors` show the same text. `UPDATE=1 cargo test` writes both anew.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

#[path = "diagnostics/rules.rs"]
mod rules;

use std::fs;
use std::path::{Path, PathBuf};

use millstream_engine::topology::{self, Target, TestInput, TestPart, Topology};
use millstream_operators::diagnostic::{Code, Diagnostic, Severity};
use millstream_operators::registry::Registry;
use proptest::prelude::*;

/// Tests run in the folder of their crate; messages that name files stay the same everywhere.
fn folder() -> PathBuf {
    PathBuf::from("tests/diagnostics")
}

fn read(text: &str) -> (Option<Topology>, Vec<Diagnostic>) {
    topology::read(text, &folder(), &|_| None)
}

/// Name and content of every topology in the folder.
fn topologies() -> Vec<(String, String)> {
    let paths = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<(String, String)> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    all.sort();
    all
}

/// Compares with a file, or writes it.
fn same(path: &Path, actual: &str) -> Result<(), String> {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, actual).unwrap();
    }
    match fs::read_to_string(path).unwrap_or_default() == actual {
        true => Ok(()),
        false => Err(format!("{} differs; it should be:\n{actual}", path.display())),
    }
}

fn rendered(text: &str) -> String {
    topology::render(&read(text).1, "topology.toml", text, false)
}

#[test]
fn every_mistake_is_described() {
    let mut surprises = Vec::new();
    for (name, text) in topologies() {
        let (topology, diagnostics) = read(&text);
        if let Err(difference) = same(&folder().join(format!("{name}.txt")), &rendered(&text)) {
            surprises.push(difference);
        }
        let has_errors = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        assert_eq!(topology.is_none(), has_errors, "{name}");
        if let Some(code) = name.split('-').next().and_then(Code::from_number) {
            let others = diagnostics.iter().filter(|diagnostic| diagnostic.code != code);
            surprises.extend(others.map(|other| format!("{name}: {} {}", other.code, other.message)));
            if diagnostics.is_empty() {
                surprises.push(format!("{name}: nothing is said"));
            }
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

#[test]
fn every_code_of_check_has_a_mistake() {
    let names: Vec<String> = topologies().into_iter().map(|(name, _)| name).collect();
    for code in Code::ALL.iter().filter(|code| code.number() < "M0800") {
        assert!(names.iter().any(|name| name.starts_with(code.number())), "no file for {code}");
    }
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let mut files: Vec<String> = fs::read_dir("../docs/errors")
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.number()).collect();
    assert_eq!(files, codes);
    for code in Code::ALL {
        let page = topology::explain(*code).unwrap_or_else(|| panic!("{code} has no page"));
        assert!(page.starts_with(&format!("# {code}: {}\n", code.title())), "{code}");
    }
}

#[test]
fn pages_show_what_is_said() {
    let topologies = topologies();
    for code in Code::ALL {
        let Some((_, text)) = topologies.iter().find(|(name, _)| name.starts_with(code.number())) else {
            continue;
        };
        let path = PathBuf::from(format!("../docs/errors/{code}.md"));
        let page = fs::read_to_string(&path).unwrap();
        let (before, rest) =
            page.split_once("```text\n").unwrap_or_else(|| panic!("{code} shows no message"));
        let (_, after) = rest.split_once("```").unwrap();
        let said = rendered(text);
        same(&path, &format!("{before}```text\n{}\n```{after}", said.trim_end())).unwrap();
    }
}

#[test]
fn many_mistakes_come_at_once_and_in_order() {
    let text = fs::read_to_string(folder().join("many.toml")).unwrap();
    let (topology, diagnostics) = read(&text);
    assert!(topology.is_none());
    assert!(diagnostics.len() >= 15, "{}", diagnostics.len());
    assert!(diagnostics.is_sorted_by_key(|diagnostic| diagnostic.span.start));
    // What follows from another mistake is not said: `orders` has a broken key, so nothing is said about `big`.
    assert!(diagnostics.iter().all(|diagnostic| !diagnostic.message.contains("amuont")));
    same(&folder().join("many.json"), &topology::to_json(&diagnostics, "topology.toml", &text)).unwrap();
}

#[test]
fn places_count_characters_from_one() {
    let text = "[app]\nid = \"shop\"\n# é\n[sources.a]\ntopic = \"ü/\" # x\nvalue = { 'é' = \"nope\" }\n";
    let (_, diagnostics) = read(text);
    let lines: Vec<serde_json::Value> = topology::to_json(&diagnostics, "a.toml", text)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let place = |line: &serde_json::Value| {
        ["line", "column", "end_line", "end_column"].map(|key| line[key].as_u64().unwrap())
    };
    assert_eq!(lines[0]["code"], "M0314");
    assert_eq!(place(&lines[0]), [5, 9, 5, 13]);
    assert_eq!(lines[1]["code"], "M0201");
    assert_eq!(place(&lines[1]), [6, 18, 6, 22]);
    assert_eq!(lines[1]["severity"], "error");
}

#[test]
fn variables_are_read_where_they_may_stand() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("brokers"), "secret-host:9092\n").unwrap();
    let text = r#"
        [app]
        id = "shop"
        [kafka]
        brokers = "${file:brokers}"
        [runtime]
        commit-every = "${COMMIT:-250ms}"
        [sources.orders]
        topic = "${STAGE}-orders"
        value = { amount = "float64" }
        [sinks.out]
        from  = "orders"
        topic = "${EMPTY:-spare}-out"
    "#;
    let environment = |name: &str| match name {
        "STAGE" => Some("test".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    let (topology, diagnostics) = topology::read(text, folder.path(), &environment);
    assert_eq!(diagnostics, []);
    let topology = topology.unwrap();
    assert_eq!(topology.sources[0].topic, "test-orders");
    assert_eq!(topology.runtime.commit_every(), 250);
    assert!(matches!(&topology.sinks[0].topic, topology::SinkTopic::Fixed(topic) if topic == "spare-out"));
    assert_eq!(topology.kafka.brokers.as_ref().unwrap().reveal(), "secret-host:9092");
    assert!(!format!("{topology:?}").contains("secret-host"));
}

#[test]
fn what_a_machine_lacks_concerns_only_who_connects() {
    let text = fs::read_to_string(folder().join("deferred.toml")).unwrap();
    let (topology, diagnostics) = read(&text);
    assert_eq!(diagnostics, []);
    let topology = topology.unwrap();
    let rendered = topology::render(&topology.deferred, "topology.toml", &text, false);
    same(&folder().join("deferred.said"), &rendered).unwrap();
    assert_eq!(topology.runtime.instance, None);
}

#[test]
fn the_cluster_is_described_whole() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [("ca.pem", ""), ("client.pem", ""), ("client.key", ""), ("password", "hush\n")] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let text = r#"
        [app]
        id = "shop"
        [kafka.security]
        protocol     = "${PROTOCOL:-sasl-ssl}"
        ca           = "ca.pem"
        certificate  = "client.pem"
        key          = "client.key"
        key-password = "${file:password}"
        mechanism    = "SCRAM-SHA-512"
        username     = "shop"
        password     = "${file:password}"
        [kafka.properties]
        linger.ms               = 20
        "socket.nagle.disable"  = true
        client.rack             = "${RACK}"
        [kafka.topics]
        replication-factor  = 3
        min-insync-replicas = 2
        partitions          = 6
        max-message-bytes   = "4MiB"
        [runtime]
        threads = 2
        session-timeout = "6s"
        transaction-timeout = "5s"
        [sources.orders]
        topic = "orders"
        value = { amount = "float64" }
        [sinks.out]
        from = "orders"
    "#;
    let environment = |name: &str| (name == "RACK").then(|| "a".to_owned());
    let (topology, diagnostics) = topology::read(text, folder.path(), &environment);
    assert_eq!(diagnostics, []);
    let topology = topology.unwrap();
    assert_eq!(topology.deferred, []);
    let topology::Kafka { security, properties, topics, .. } = &topology.kafka;
    assert_eq!(security.protocol.name(), "sasl-ssl");
    assert_eq!(security.mechanism.unwrap().name(), "SCRAM-SHA-512");
    assert_eq!(security.key.as_deref(), Some(folder.path().join("client.key").as_path()));
    assert_eq!(security.password.as_ref().unwrap().reveal(), "hush");
    assert_eq!(security.problems(), []);
    let properties: Vec<_> = properties.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
    assert_eq!(properties, [("linger.ms", "20"), ("socket.nagle.disable", "true"), ("client.rack", "a")]);
    assert_eq!(
        *topics,
        topology::TopicDefaults {
            replication_factor: Some(3),
            min_insync_replicas: Some(2),
            partitions: Some(6),
            max_message_bytes: Some(4 << 20),
        }
    );
    assert_eq!((topology.runtime.session_timeout(), topology.runtime.transaction_timeout()), (6_000, 5_000));
    assert!(!format!("{topology:?}").contains("hush"));
}

#[test]
fn a_secret_is_not_printed_by_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "pass word").unwrap();
    let text = "[app]\nid = \"a\"\n[kafka]\nbrokers = \"${file:secret}\"\n[runtime]\nmemory = \"${file:secret}\"\n\
                listen = \"${file:secret}\"\ninstance = \"${file:secret}\"\ncommit-every = \"${file:secret}\"\n\
                [sources.s]\ntopic = \"${file:secret}\"\nvalue = { a = \"string\" }\n";
    let (_, diagnostics) = topology::read(text, folder.path(), &|_| None);
    let rendered = topology::render(&diagnostics, "a.toml", text, false);
    assert!(diagnostics.len() >= 6, "{rendered}");
    assert!(!rendered.contains("pass word"), "{rendered}");

    let literal = "[app]\nid = \"a\"\n[kafka.security]\npassword = \"hunter2\" # hunter2 is no secret\n\
                   [kafka.properties]\nsasl.password = 'hunter2'\nssl = { keystore = { password = \"hunter2\" } }\n";
    let (_, diagnostics) = topology::read(literal, folder.path(), &|_| None);
    let rendered = topology::render(&diagnostics, "a.toml", literal, false);
    assert!(diagnostics.len() >= 4, "{rendered}");
    assert!(!rendered.contains("\"hunter2") && !rendered.contains("'hunter2"), "{rendered}");
    assert!(rendered.contains("\"*******\""), "{rendered}");
}

#[test]
fn columns_keep_the_order_of_the_file() {
    let text = r#"
        [app]
        id = "shop"
        [types.place]
        street = "string"
        city   = { type = "string", field = "town" }
        [sources.orders]
        topic = "orders"
        key   = { zone = "int32", area = "string" }
        headers = { trace = { type = "string", field = "x-trace" } }
        metadata = { offset = "offset" }
        [sources.orders.value]
        zone  = "int32"
        to    = "list<place>"
        at    = { type = "timestamp", field = "created-at" }
        b     = "decimal(10,2)"
        a     = { x = "date", w = "bytes" }
        [sinks.out]
        from  = "orders"
    "#;
    let (topology, diagnostics) = read(text);
    assert_eq!(diagnostics, []);
    let layout = &topology.as_ref().unwrap().sources[0].layout;
    let names: Vec<&str> = layout.schema.names().collect();
    assert_eq!(names, ["zone", "area", "to", "at", "b", "a", "trace", "offset"]);
    assert_eq!(layout.schema.key, 2);
    assert_eq!(layout.value.len(), 5);
    assert_eq!(layout.value[2].field, "created-at");
    assert_eq!(layout.value[1].children[0].children[1].field, "town");
    assert_eq!(layout.headers[0].header, "x-trace");
    let sink = &topology.unwrap().sinks[0].layout;
    let written: Vec<&str> = sink.value.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(written, ["to", "at", "b", "a", "trace", "offset"]);
}

#[test]
fn steps_come_after_their_inputs_and_otherwise_as_in_the_file() {
    let text = r#"
        [app]
        id = "shop"
        [sources.s]
        topic = "s"
        value = { a = "int64" }
        [steps.z]
        op = "filter"
        from = { node = "y", as = "q" }
        where = "q.a > 1"
        [steps.b]
        op = "filter"
        from = "s"
        where = "s.a > 1"
        [steps.y]
        op = "filter"
        from = "s"
        where = "a > 1"
        [sinks.out]
        from = "z"
        [sinks.out2]
        from = "b"
    "#;
    let (topology, diagnostics) = read(text);
    assert_eq!(diagnostics, []);
    let topology = topology.unwrap();
    let names: Vec<&str> = topology.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["b", "y", "z"]);
}

#[test]
fn sinks_choose_columns_headers_time_and_topic() {
    let text = r#"
        [app]
        id = "shop"
        [sources.orders]
        topic = "orders"
        key   = { customer = "string" }
        value = { amount = "float64", trace = "string", at = "timestamp" }
        [sinks.out]
        from        = "orders"
        topic       = { expression = "concat('orders-', orders.customer)" }
        columns     = { customer = "customer", double = "2 * amount" }
        include-key = true
        headers     = { x-trace = "trace" }
        time        = "at"
    "#;
    let (topology, diagnostics) = read(text);
    assert_eq!(diagnostics, []);
    let sink = &topology.unwrap().sinks[0];
    let rows: Vec<&str> = sink.layout.schema.names().collect();
    assert_eq!(rows, ["customer", "double", "trace", "at"]);
    let made: Vec<&str> = sink.columns.iter().flatten().map(|(name, _)| name.as_str()).collect();
    assert_eq!(made, ["double", "trace", "at"]);
    let written: Vec<&str> = sink.layout.value.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(written, ["customer", "double"]);
    assert_eq!(sink.layout.time, Some(3));
    assert_eq!(sink.layout.headers[0].header, "x-trace");
}

#[test]
fn tests_hold_checked_values_and_windowed_keys_are_json() {
    let text = r#"
        [app]
        id = "shop"
        [sources.orders]
        topic = "orders"
        key   = { customer = "string" }
        value = { amount = "decimal(10,2)", tags = "list<string>", at = "timestamp", place = { city = "string" } }
        time  = "at"
        [steps.spend]
        op      = "aggregate"
        from    = "orders"
        window  = { tumbling = "1m" }
        columns = { spend = "sum(amount)" }
        [sinks.out]
        from = "spend"
        [[tests]]
        name    = "spend per minute"
        partial = true
        input   = [
            { to = "orders", key = { customer = "a" }, value = { amount = "1.50", tags = ["x"], at = 2026-01-01T00:00:00Z, place = { city = "Ulm" } } },
            { to = "orders", delete = true, headers = { trace = "t" }, at = "1970-01-01T00:00:01Z" },
            { advance = "1h" },
            { wall-clock = "10s" },
            { restart = true },
        ]
        expect  = [
            { from = "spend", key = { window_start = 2026-01-01T00:00:00Z }, value = { spend = "1.50" }, at = "2026-01-01T00:00:00Z" },
            { from = "out", key = { customer = "a" }, delete = true },
        ]
        [[tests]]
        name  = "a bad record"
        input = [{ to = "orders", value = {} }]
        error = "M0803"
    "#;
    let (topology, diagnostics) = read(text);
    assert_eq!(diagnostics, []);
    let topology = topology.unwrap();
    let layout = &topology.sinks[0].layout;
    let key: Vec<&str> = layout.key.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(key, ["customer", "window_start", "window_end"]);
    assert_eq!(layout.key_format.name(), "json");

    let [first, second] = topology.tests.as_slice() else { panic!("two tests") };
    assert!(first.partial && first.error.is_none());
    assert_eq!(second.error, Some(Code::RecordTime));
    let [TestInput::Record(order), TestInput::Record(deleted), rest @ ..] = first.inputs.as_slice() else {
        panic!("two records first")
    };
    assert_eq!(rest, [TestInput::Advance(3_600_000), TestInput::WallClock(10_000), TestInput::Restart]);
    let TestPart::Columns(columns) = &order.value else { panic!("columns") };
    let value = |name: &str| columns.iter().find(|(column, _)| column == name).unwrap().1.clone();
    assert_eq!(value("amount"), serde_json::json!("1.50"));
    assert_eq!(value("at"), serde_json::json!("2026-01-01T00:00:00Z"));
    assert_eq!(value("place"), serde_json::json!({ "city": "Ulm" }));
    assert_eq!((&deleted.key, &deleted.value, deleted.at), (&TestPart::Null, &TestPart::Null, Some(1_000)));
    assert_eq!(deleted.headers, [("trace".to_owned(), "t".to_owned())]);
    assert_eq!(first.expect[0].at, Some(1_767_225_600_000));
    assert!(first.expect[1].delete && first.expect[1].from == Target::Sink("out".to_owned()));
}

/// The steps that the message proposes make merged streams fit.
#[test]
fn merged_streams_fit_with_the_step_that_is_proposed() {
    let mut tried = 0;
    for (name, mut text) in topologies().into_iter().filter(|(name, _)| name.starts_with("M0310")) {
        // A new key may leave columns to be brought into line.
        for _ in 0..3 {
            let (_, diagnostics) = read(&text);
            for diagnostic in &diagnostics {
                let help = diagnostic.help.as_deref().unwrap_or_default();
                for step in help.split('`').filter(|part| part.contains(" = { op = ")) {
                    let step_name = step.split(' ').next().unwrap();
                    let fitted = step_name.strip_suffix("_fitted").unwrap();
                    let merged = |line: &str| match line.starts_with("from = [") {
                        true => line.replace(&format!("\"{fitted}\""), &format!("\"{step_name}\"")),
                        false => line.to_owned(),
                    };
                    text = text.lines().map(|line| merged(line) + "\n").collect();
                    let header = if text.contains("\n[steps]\n") { "" } else { "\n[steps]\n" };
                    text.push_str(&format!("{header}{step}\n"));
                }
            }
        }
        assert!(text.contains("_fitted"), "{name}: {}", rendered(&text));
        assert_eq!(read(&text).1, [], "{name}:\n{text}{}", rendered(&text));
        tried += 1;
    }
    assert!(tried > 3);
}

#[test]
fn tests_that_no_longer_fit_keep_nothing_from_running() {
    let text = fs::read_to_string(folder().join("M0702-expectation.toml")).unwrap();
    let registry = Registry::default();
    let (topology, diagnostics) =
        topology::read_with(&registry, &text, &folder(), &|_| None, topology::Tests::Leave);
    assert_eq!((topology.unwrap().tests.len(), diagnostics.len()), (0, 0));
    assert!(read(&text).0.is_none());
}

/// Deep or wide types end in an error, not in a stack overflow or a full memory.
#[test]
fn types_cannot_exhaust_the_process() {
    let frame = |types: &str, of: &str| {
        format!(
            "[app]\nid = \"a\"\n{types}\n[sources.s]\ntopic = \"s\"\nvalue = {{ a = \"{of}\" }}\n[sinks.o]\nfrom = \"s\"\n"
        )
    };
    let deep = frame("", &format!("{}int64{}", "list<".repeat(50_000), ">".repeat(50_000)));
    assert_eq!(read(&deep).1[0].code, Code::OutOfRange);
    let mut chain = String::from("[types.t0]\na = \"int64\"\n");
    let mut wide = chain.clone();
    for index in 1..2_000 {
        chain.push_str(&format!("[types.t{index}]\na = \"t{}\"\n", index - 1));
        wide.push_str(&format!("[types.t{index}]\na = \"t{0}\"\nb = \"t{0}\"\n", index - 1));
    }
    for types in [chain, wide] {
        assert!(read(&frame(&types, "t1999")).1.iter().any(|diagnostic| diagnostic.code == Code::OutOfRange));
    }
}

/// A topology of the folder with a few places deleted, doubled or overwritten.
fn damaged() -> impl Strategy<Value = String> {
    let texts: Vec<String> = topologies().into_iter().map(|(_, text)| text).collect();
    let change = (
        any::<prop::sample::Index>(),
        1..12_usize,
        0..4_u8,
        prop::sample::select(b"[]{}\"'=.,#\n$\\\xc3 a1".to_vec()),
    );
    (prop::sample::select(texts), prop::collection::vec(change, 1..6)).prop_map(|(text, changes)| {
        let mut bytes = text.into_bytes();
        for (at, length, kind, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            let end = (at + length).min(bytes.len());
            match kind {
                0 => drop(bytes.drain(at..end)),
                1 => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                2 => bytes[at] = byte,
                _ => bytes.insert(at, byte),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_makes_it_panic(text in damaged()) {
        let (topology, diagnostics) = read(&text);
        let has_errors = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        prop_assert_eq!(topology.is_none(), has_errors);
        topology::render(&diagnostics, "topology.toml", &text, true);
        let lines = topology::to_json(&diagnostics, "topology.toml", &text);
        prop_assert_eq!(lines.lines().count(), diagnostics.len());
    }
}
