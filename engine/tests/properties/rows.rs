//! Operators that choose among rows, against models that look at all rows again for each.

use millstream_engine::task::NodeCounters;
use millstream_operators::operator::DropReason;

use super::*;

/// A row as these models see it: only what cannot be read is missing.
struct Whole<'a> {
    key: Option<&'static str>,
    value: Option<(Option<i64>, Option<f64>, Option<&'static str>)>,
    time: i64,
    row: &'a Row,
}

fn whole(input: &Input) -> Option<Whole<'_>> {
    let Input::Row(row) = input else { return None };
    let value = match &row.value {
        None => None,
        Some(Columns::Read { n, x, s, .. }) => Some((*n, *x, *s)),
        Some(Columns::Broken) => return None,
    };
    Some(Whole { key: row.key, value, time: row.time, row })
}

// dedup

const WITHIN: i64 = 3000;

static DEDUP: LazyLock<App> = LazyLock::new(|| {
    app(
        "dedup",
        r#"
        [steps.per_key]
        op     = "dedup"
        from   = "events"
        within = "3s"
        [steps.per_kind]
        op          = "dedup"
        from        = "events"
        within      = "3s"
        distinct-on = ["s", "n"]
        [sinks.keys]
        from = "per_key"
        [sinks.kinds]
        from = "per_kind"
        "#,
        "skip",
    )
});

/// What is kept, as the times of the rows, and how many rows are late and duplicates.
fn deduplicated(inputs: &[Input], same: impl Fn(&Whole<'_>, &Whole<'_>) -> bool) -> (Vec<i64>, u64, u64) {
    let mut kept: Vec<Whole<'_>> = Vec::new();
    let (mut late, mut duplicates) = (0, 0);
    let (mut stream_time, mut largest) = (0, 0);
    for input in inputs {
        if let Input::Advance(by) = input {
            stream_time = stream_time.max(largest + by);
        }
        let Some(row) = whole(input) else { continue };
        largest = largest.max(row.time);
        if row.key.is_none() {
            continue;
        }
        stream_time = stream_time.max(row.time);
        late += u64::from(row.time < stream_time - WITHIN);
        let is_near = |other: &Whole<'_>| {
            other.time > stream_time - 2 * WITHIN
                && (other.time - row.time).abs() < WITHIN
                && same(other, &row)
        };
        if kept.iter().any(is_near) {
            duplicates += 1;
        } else {
            kept.push(row);
        }
    }
    (kept.iter().map(|row| row.row.time).collect(), late, duplicates)
}

/// What the steps count where all is one batch, but for time that goes on by itself.
fn counted(app: &App, inputs: &[Input]) -> BTreeMap<String, NodeCounters> {
    let mut driver = Driver::new(app.topology.clone(), app.plan.clone(), DriverOptions::default()).unwrap();
    for input in inputs.chunk_by(|one, other| matches!((one, other), (Input::Row(_), Input::Row(_)))) {
        if let [Input::Advance(by)] = input {
            driver.advance(*by).unwrap();
            continue;
        }
        let rows = input.iter().filter_map(|input| match input {
            Input::Row(row) => Some(row.record()),
            Input::Advance(_) => None,
        });
        driver.run(rows.collect()).unwrap();
    }
    driver.counters().into_iter().collect()
}

/// What a filter makes of the changes of a table.
fn filtered(changes: &Lines, matches: impl Fn(&Json) -> bool) -> Lines {
    let mut known = BTreeSet::new();
    let mut said = Lines::new();
    for change in changes {
        let key = change["key"].to_string();
        if !change["value"].is_null() && matches(&change["value"]) {
            known.insert(key);
            said.push(change.clone());
        } else if known.remove(&key) {
            said.push(json!({"timestamp": change["timestamp"], "key": change["key"], "value": null}));
        }
    }
    said
}

// suppress

static SUPPRESS: LazyLock<App> = LazyLock::new(|| {
    let mut steps = String::from(
        r#"
        [steps.totals]
        op      = "aggregate"
        from    = "events"
        retain  = "8s"
        columns = { rows = "count(*)", total = "sum(n)" }
        [steps.windows]
        op      = "aggregate"
        from    = "events"
        window  = { tumbling = "5s" }
        columns = { rows = "count(*)", total = "sum(n)" }
        "#,
    );
    for (name, from, how) in [
        ("calm", "totals", "for = \"3s\""),
        ("early", "totals", "for = \"9s\"\nmax-rows = 1"),
        ("final", "windows", "until = \"window-close\""),
    ] {
        steps += &format!(
            r#"
            [steps.{name}]
            op   = "suppress"
            from = "{from}"
            {how}
            [steps.{name}_changes]
            op   = "to-stream"
            from = "{name}"
            [sinks.{name}_changed]
            from  = "{name}_changes"
            topic = "{name}"
            [steps.{name}_large]
            op    = "filter"
            from  = "{name}"
            where = "total > 3"
            [steps.{name}_large_changes]
            op   = "to-stream"
            from = "{name}_large"
            [sinks.{name}_large_changed]
            from  = "{name}_large_changes"
            topic = "{name}-large"
            "#
        );
    }
    app("suppress", &steps, "skip")
});

fn number(key: &'static str, n: i64, time: i64) -> Input {
    let value = Columns::Read { n: Some(n), x: None, s: None, l: None };
    Input::Row(Row { key: Some(key), value: Some(value), time })
}

#[test]
fn suppress_stops_before_the_record_that_finds_no_room() {
    for bound in ["max-rows = 2", "max-bytes = \"60B\""] {
        let steps = format!(
            r#"
            [steps.totals]
            op      = "aggregate"
            from    = "events"
            columns = {{ total = "sum(n)" }}
            [steps.calm]
            op        = "suppress"
            from      = "totals"
            for       = "1m"
            when-full = "fail"
            {bound}
            [sinks.out]
            from = "calm"
            "#
        );
        let app = app(bound, &steps, "fail");
        let inputs = [
            number("a", 1, 1000),
            number("b", 2, 2000),
            number("a", 3, 3000),
            number("c", 4, 4000),
            number("b", 5, 5000),
        ];
        for batch in [1, 2, 7] {
            let outcome = run(&app, &inputs, How { batch, restart_every: Some(2), ..ONE_BY_ONE });
            assert_eq!(outcome.stopped, [3], "{bound}, batches of {batch}");
            let expected = vec![
                line(3000, json!({"k": "a"}), json!({"total": 4})),
                line(5000, json!({"k": "b"}), json!({"total": 7})),
            ];
            assert_eq!(lines_of(&outcome, "out"), expected, "{bound}, batches of {batch}");
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn what_dedup_keeps_is_what_the_model_keeps(inputs in inputs(40), batch in 1..9usize) {
        let per_key = deduplicated(&inputs, |one, other| one.key == other.key);
        let per_kind = deduplicated(&inputs, |one, other| {
            // Nulls are equal, and a null value is a row of nulls.
            let kind = |row: &Whole<'_>| row.value.map_or((None, None), |(n, _, s)| (n, s));
            one.key == other.key && kind(one) == kind(other)
        });
        let outcome = run(&DEDUP, &inputs, How { batch, restart_every: Some(11), ..ONE_BY_ONE });
        let counters = counted(&DEDUP, &inputs);
        for (topic, step, (kept, late, duplicates)) in [("keys", "per_key", &per_key), ("kinds", "per_kind", &per_kind)] {
            let found: Vec<i64> =
                lines_of(&outcome, topic).iter().filter_map(|line| line["timestamp"].as_i64()).collect();
            prop_assert_eq!(&found, kept, "{}", topic);
            let of = |reason| counters[step].dropped.get(&reason).copied().unwrap_or_default();
            prop_assert_eq!((of(DropReason::Late), of(DropReason::Duplicate)), (*late, *duplicates), "{}", topic);
        }
    }

    #[test]
    fn consumers_of_suppress_are_told_what_they_knew(inputs in inputs(40), batch in 1..9usize) {
        let outcome = run(&SUPPRESS, &small(inputs), How { batch, restart_every: Some(11), ..ONE_BY_ONE });
        for (all, large) in [("calm", "calm-large"), ("early", "early-large"), ("final", "final-large")] {
            let expected = filtered(&lines_of(&outcome, all), |row| row["total"].as_i64() > Some(3));
            prop_assert_eq!(&lines_of(&outcome, large), &expected, "{}", large);
        }
    }
}
