//! `pipe`: flags and control lines.

use serde_json::{Value as Json, json};

use crate::support::{Folder, PAYMENTS, Ran, payment, with_input};

fn pipe(flags: &[&str], input: &str) -> Ran {
    let folder = Folder::new();
    let file = folder.write("topology.toml", PAYMENTS);
    let mut arguments = vec!["pipe", &file];
    arguments.extend(flags);
    with_input(&arguments, input)
}

/// Payments of a few cards over some minutes.
fn payments() -> String {
    (0..60).map(|n| payment(&format!("c{}", n % 7), n * 11, f64::from((n * 37 % 200) as i32))).collect()
}

fn of_topic(ran: &Ran, topic: &str) -> Vec<Json> {
    ran.lines().into_iter().filter(|line| line["topic"] == topic).collect()
}

#[test]
fn a_record_shows_all_that_it_causes_in_the_order_of_the_sinks() {
    let ran = pipe(&[], &payment("c1", 0, 120.0)).expect_code(0);
    let lines = ran.lines();
    assert_eq!(
        lines,
        [
            json!({
                "topic": "large_payments", "timestamp": 1_767_225_600_000_i64, "key": { "card": "c1" },
                "value": { "at": "2026-01-01T00:00:00.000Z", "amount": 120.0 },
            }),
            json!({
                "topic": "cards", "timestamp": 1_767_225_600_000_i64, "key": { "card": "c1" },
                "value": { "payments": 1, "spend": 120.0 },
            }),
        ]
    );
    assert_eq!(ran.stderr, "");
}

#[test]
fn advance_closes_windows_and_so_does_the_end_if_asked_to() {
    let input = payment("c1", 0, 1.0);
    assert_eq!(of_topic(&pipe(&[], &input), "minutes").len(), 0);
    let closed = of_topic(&pipe(&["--until-end"], &input), "minutes");
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0]["value"], json!({ "payments": 1 }));
    let advanced = pipe(&[], &format!("{input}{{\"advance\": \"2m\"}}\n")).expect_code(0);
    assert_eq!(of_topic(&advanced, "minutes"), closed);
}

#[test]
fn restarts_change_nothing() {
    let plain = pipe(&["--until-end"], &payments()).expect_code(0);
    assert!(plain.lines().len() > 60);
    for every in ["1", "7"] {
        let restarted = pipe(&["--until-end", "--restart-every", every], &payments()).expect_code(0);
        assert_eq!(plain.stdout, restarted.stdout);
    }
    let mut lines: Vec<String> = payments().lines().map(str::to_owned).collect();
    lines.insert(20, r#"{"restart": true}"#.to_owned());
    let restarted = pipe(&["--until-end"], &lines.join("\n")).expect_code(0);
    assert_eq!(plain.stdout, restarted.stdout);
}

#[test]
fn batches_change_no_stream_and_no_last_value() {
    let plain = pipe(&["--until-end"], &payments()).expect_code(0);
    let last = |ran: &Ran| -> std::collections::BTreeMap<String, Json> {
        of_topic(ran, "cards")
            .into_iter()
            .map(|line| (line["key"].to_string(), line["value"].clone()))
            .collect()
    };
    for rows in ["2", "7", "1000"] {
        let batched = pipe(&["--until-end", "--max-batch-rows", rows], &payments()).expect_code(0);
        assert_eq!(of_topic(&plain, "large_payments"), of_topic(&batched, "large_payments"), "{rows}");
        assert_eq!(of_topic(&plain, "minutes"), of_topic(&batched, "minutes"), "{rows}");
        assert_eq!(last(&plain), last(&batched), "{rows}");
    }
}

#[test]
fn partitions_split_keys_and_lose_nothing() {
    let plain = pipe(&[], &payments()).expect_code(0);
    let split = pipe(&["--partitions", "4"], &payments()).expect_code(0);
    let partitions: std::collections::BTreeSet<i64> =
        split.lines().iter().map(|line| line["partition"].as_i64().unwrap()).collect();
    assert!(partitions.len() > 1, "{partitions:?}");
    let without = |mut lines: Vec<Json>| -> Vec<Json> {
        for line in &mut lines {
            line.as_object_mut().unwrap().remove("partition");
        }
        lines
    };
    assert_eq!(of_topic(&plain, "cards"), without(of_topic(&split, "cards")));
}

#[test]
fn a_line_that_cannot_be_read_is_named() {
    for (line, words) in [
        ("{\"topic\": \"payment\", \"value\": null}", "did you mean `payments`?"),
        ("{\"topic\": \"payments\", ", "line 2"),
        ("{\"topic\": \"payments\", \"value\": {\"amont\": 1}}", "amont"),
        ("{\"topic\": \"payments\", \"value\": {\"amount\": \"1\"}}", "amount"),
        ("{\"advance\": \"soon\"}", "duration"),
    ] {
        let ran = pipe(&[], &format!("{}{line}\n", payment("c1", 0, 1.0))).expect_code(1);
        assert_eq!(ran.lines().len(), 1, "what came before it is there: {}", ran.stdout);
        ran.says(&["error[M0905]", "line 2", words]);
    }
}

#[test]
fn a_computed_topic_may_not_be_one_that_is_read_or_filled_otherwise() {
    let folder = Folder::new();
    let file = folder.write(
        "topology.toml",
        r#"
        [app]
        id = "app"
        [sources.s]
        topic = "in"
        key = { k = "string" }
        value = { to = "string" }
        on-error = "dead-letter"
        [steps.per_to]
        op = "aggregate"
        from = "s"
        group-by = ["to"]
        columns = { rows = "count(*)" }
        [sinks.counts]
        from = "per_to"
        [sinks.routed]
        from = "s"
        topic = { expression = "s.to" }
        "#,
    );
    let record =
        |to: &str| format!("{}\n", json!({ "topic": "in", "key": { "k": "a" }, "value": { "to": to } }));
    for (to, why) in [
        ("in", "the source `s` reads it"),
        ("app-s-dead-letter", "it holds the dead letters of `s`"),
        ("app-per_to-changelog", "the application's own"),
        ("app-per_to-repartition", "the application's own"),
    ] {
        let ran = with_input(&["pipe", &file], &[record("app-else"), record(to)].concat()).expect_code(1);
        assert_eq!(of_topic(&ran, "app-else").len(), 1, "{}", ran.stdout);
        assert_eq!(of_topic(&ran, to).len(), 0, "{}", ran.stdout);
        ran.says(&["error[M0807]", "line 2", "`routed`", to, why]);
    }
}

/// SQL knows one zero and one NaN, in whatever partition and batch.
#[test]
fn keys_are_equal_as_numbers_are() {
    let folder = Folder::new();
    let file = folder.write(
        "topology.toml",
        r#"
        [app]
        id = "app"
        [sources.s]
        topic = "s"
        key = { k = "float64" }
        value = { x = "float64", at = "int64" }
        [steps.by_x]
        op = "rekey"
        from = "s"
        key = { zero = "x * 0", nan = "case when x > 0 then cast('NaN' as double) else -cast('NaN' as double) end" }
        [steps.per_x]
        op = "aggregate"
        from = "by_x"
        columns = { rows = "count(*)" }
        [steps.per_k]
        op = "aggregate"
        from = "s"
        columns = { rows = "count(*)" }
        [sinks.xs]
        from = "per_x"
        [sinks.ks]
        from = "per_k"
        "#,
    );
    let record = |k: &str, x: &str| {
        format!("{{\"topic\": \"s\", \"key\": {{\"k\": {k}}}, \"value\": {{\"x\": {x}}}}}\n")
    };
    // Zeros and NaN with a sign and without.
    let input = [record("0.0", "1"), record("-0.0", "-2"), record("0", "3")].concat();
    for partitions in ["1", "8"] {
        let ran = with_input(&["pipe", &file, "--partitions", partitions], &input).expect_code(0);
        let xs = of_topic(&ran, "xs");
        let places: std::collections::BTreeSet<String> =
            xs.iter().map(|line| format!("{} {}", line["key"], line["partition"])).collect();
        assert_eq!(places.len(), 1, "{}", ran.stdout);
        assert_eq!(xs.last().unwrap()["value"], json!({ "rows": 3 }));
    }
    // In one partition the same holds for the keys of records; over several, their bytes decide.
    let ran = with_input(&["pipe", &file], &input).expect_code(0);
    let ks = of_topic(&ran, "ks");
    assert_eq!(ks.last().unwrap()["value"], json!({ "rows": 3 }));
    assert!(
        ks.iter().all(|line| serde_json::to_string(&line["key"]).unwrap() == r#"{"k":0.0}"#),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_record_that_fails_in_one_window_leaves_no_trace_in_the_others() {
    let folder = Folder::new();
    let file = folder.write(
        "topology.toml",
        r#"
        [app]
        id = "app"
        [sources.s]
        topic = "s"
        key = { k = "string" }
        value = { n = "int64" }
        [steps.u]
        op = "aggregate"
        from = "s"
        on-error = "skip"
        window = { hopping = "10ms", every = "5ms" }
        columns = { total = "sum(n)" }
        [sinks.o]
        from = "u"
        "#,
    );
    let record = |at: i64, n: i64| {
        format!("{}\n", json!({ "topic": "s", "timestamp": at, "key": { "k": "a" }, "value": { "n": n } }))
    };
    // The second one is too much for [5, 15), and would fit into [10, 20).
    let input = [record(6, i64::MAX), record(12, 1), record(16, 2)].concat();
    for batch in ["1", "2", "100"] {
        let ran = with_input(&["pipe", &file, "--max-batch-rows", batch], &input).expect_code(0);
        let second = |time: &Json| time.as_str().unwrap()[17..23].to_owned();
        let rows: Vec<Json> = ran
            .lines()
            .iter()
            .map(|line| json!([second(&line["key"]["window_start"]), line["value"]["total"]]))
            .collect();
        let expected = [("00.000", i64::MAX), ("00.005", i64::MAX), ("00.010", 2), ("00.015", 2)];
        assert_eq!(rows, expected.map(|(start, total)| json!([start, total])), "batches of {batch}");
        assert_eq!(ran.stderr.matches("M0805").count(), 1, "{}", ran.stderr);
    }
}

/// Such a record still is a reason for the window behind it, which is open, and in which there are later ones.
#[test]
fn a_record_that_is_in_no_open_sliding_window_is_late() {
    let folder = Folder::new();
    let file = folder.write(
        "topology.toml",
        r#"
        [app]
        id = "app"
        [sources.s]
        topic = "s"
        key = { k = "string" }
        value = { n = "int64" }
        [steps.u]
        op = "aggregate"
        from = "s"
        window = { sliding = "10ms" }
        columns = { total = "sum(n)" }
        [sinks.o]
        from = "u"
        [sinks.too_late]
        from = "u.late"
        "#,
    );
    let record = |key: &str, at: i64, n: i64| {
        format!("{}\n", json!({ "topic": "s", "timestamp": at, "key": { "k": key }, "value": { "n": n } }))
    };
    let input = [record("a", 100, 1), record("b", 105, 2), record("a", 98, 4), record("a", 94, 8)].concat();
    for batch in ["1", "2", "100"] {
        let ran = with_input(&["pipe", &file, "--max-batch-rows", batch], &input).expect_code(0);
        let millis = |time: &Json| time.as_str().unwrap()[20..23].parse::<i64>().unwrap();
        let rows: Vec<Json> = of_topic(&ran, "o")
            .iter()
            .map(|line| {
                json!([millis(&line["key"]["window_start"]), line["value"]["total"], line["timestamp"]])
            })
            .collect();
        assert_eq!(
            rows,
            [json!([90, 1, 100]), json!([95, 2, 105]), json!([99, 1, 100])],
            "batches of {batch}"
        );
        let late: Vec<Json> =
            of_topic(&ran, "too_late").iter().map(|line| line["value"]["n"].clone()).collect();
        assert_eq!(late, [json!(4), json!(8)], "batches of {batch}");
    }
}

#[test]
fn a_record_whose_result_fails_leaves_no_trace_in_an_aggregate() {
    let folder = Folder::new();
    let file = folder.write(
        "topology.toml",
        r#"
        [app]
        id = "app"
        [sources.s]
        topic = "s"
        key = { k = "string" }
        value = { n = "int64" }
        [steps.u]
        op = "aggregate"
        from = "s"
        on-error = "skip"
        retain = "100ms"
        columns = { share = "10 / sum(n)", rows = "count(*)" }
        [steps.small]
        op = "filter"
        from = "u"
        where = "rows < 3"
        [sinks.o]
        from = "small"
        "#,
    );
    let record = |key: &str, at: i64, n: i64| {
        format!("{}\n", json!({ "topic": "s", "timestamp": at, "key": { "k": key }, "value": { "n": n } }))
    };
    let input = [record("a", 1, 2), record("a", 2, -2), record("a", 3, 3), record("z", 500, 1)].concat();
    for batch in ["1", "2", "100"] {
        let ran = with_input(&["pipe", &file, "--max-batch-rows", batch], &input).expect_code(0);
        let values: Vec<Json> =
            ran.lines().iter().map(|line| json!([line["key"]["k"], line["value"]])).collect();
        let row = |share: i64, rows: i64| json!({ "share": share, "rows": rows });
        assert_eq!(
            values,
            [
                json!(["a", row(5, 1)]),
                json!(["a", row(2, 2)]),
                json!(["a", Json::Null]),
                json!(["z", row(10, 1)])
            ],
            "batches of {batch}"
        );
        assert_eq!(ran.stderr.matches("M0804").count(), 1, "{}", ran.stderr);
    }
}

#[test]
fn a_window_that_closes_without_a_result_is_not_the_fault_of_the_record_that_closes_it() {
    let folder = Folder::new();
    let file = |on_error: &str| {
        folder.write(
            &format!("{on_error}.toml"),
            format!(
                r#"
                [app]
                id = "app"
                [sources.s]
                topic = "s"
                key = {{ k = "string" }}
                value = {{ n = "int64" }}
                [steps.u]
                op = "aggregate"
                from = "s"
                window = {{ tumbling = "1s" }}
                emit = "close"
                on-error = "{on_error}"
                columns = {{ share = "10 / sum(n)", rows = "count(*)" }}
                [sinks.o]
                from = "u"
                "#
            ),
        )
    };
    let rows = [(0, 2), (900, -2), (1000, 0), (1900, 5), (2000, 1)];
    let record = |(at, n): (i64, i64)| {
        format!("{}\n", json!({ "topic": "s", "timestamp": at, "key": { "k": "a" }, "value": { "n": n } }))
    };
    let input = rows.map(record).concat();
    for (on_error, batch) in [("dead-letter", "1"), ("dead-letter", "100"), ("skip", "2")] {
        let ran = with_input(&["pipe", &file(on_error), "--max-batch-rows", batch], &input).expect_code(0);
        let written: Vec<Json> =
            ran.lines().iter().map(|line| json!([line["topic"], line["value"]])).collect();
        // The sum is zero after the first row of the second window, and has a share when it closes.
        assert_eq!(written, [json!(["o", { "share": 2, "rows": 2 }])], "{on_error}, batches of {batch}");
        assert_eq!(ran.stderr.matches("M0804").count(), 1, "{}", ran.stderr);
        ran.says(&["M0804", "k = a, window_start = 1970-01-01T00:00:00", "division by zero"]);
    }
    let ran = with_input(&["pipe", &file("fail")], &input).expect_code(1);
    ran.says(&["M0804", "line 3", "closes without a result"]);
}
