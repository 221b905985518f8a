//! Operators that choose among rows, against models that look at all rows again for each.

use std::cmp::Reverse;

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

// top

static TOP_OF_STREAM: LazyLock<App> = LazyLock::new(|| {
    app(
        "top of a stream",
        r#"
        [steps.slim]
        op   = "select"
        from = "events"
        drop = ["l"]
        [steps.best]
        op           = "top"
        from         = "slim"
        n            = 3
        order-by     = "n desc, x"
        partition-by = ["s"]
        [steps.changes]
        op   = "to-stream"
        from = "best"
        [steps.large]
        op    = "filter"
        from  = "best"
        where = "n > 2"
        [steps.large_changes]
        op   = "to-stream"
        from = "large"
        [sinks.all]
        from  = "best"
        topic = "all"
        [sinks.changed]
        from  = "changes"
        topic = "changed"
        [sinks.large_changed]
        from  = "large_changes"
        topic = "large"
        "#,
        "skip",
    )
});

/// A table of totals, ranked as a whole, and by a column of which each change changes the value.
static TOP_OF_TABLE: LazyLock<App> = LazyLock::new(|| {
    app(
        "top of a table",
        r#"
        [steps.totals]
        op      = "aggregate"
        from    = "events"
        retain  = "8s"
        columns = { rows = "count(*)", total = "sum(n)" }
        [steps.best]
        op       = "top"
        from     = "totals"
        n        = 2
        order-by = "total desc"
        [steps.changes]
        op   = "to-stream"
        from = "best"
        [sinks.changed]
        from  = "changes"
        topic = "changed"
        [steps.best_by_rows]
        op           = "top"
        from         = "totals"
        n            = 1
        order-by     = "total % 3, total"
        partition-by = ["rows"]
        [steps.changes_by_rows]
        op   = "to-stream"
        from = "best_by_rows"
        [sinks.changed_by_rows]
        from  = "changes_by_rows"
        topic = "changed-by-rows"
        "#,
        "skip",
    )
});

/// What comes first, nulls last.
fn ascending<T>(value: Option<T>) -> (bool, Option<T>) {
    (value.is_none(), value)
}

fn descending<T>(value: Option<T>) -> (bool, Option<Reverse<T>>) {
    (value.is_none(), value.map(Reverse))
}

/// Rankings as consumers know them: the rows by rank, each with the time of the change that made it so.
#[derive(Default)]
struct Rankings(BTreeMap<String, Vec<(Json, i64)>>);

impl Rankings {
    /// The first rows of a ranking are these now: the ranks whose row is another one are said.
    fn become_(&mut self, ranking: &Json, first: Vec<Json>, time: i64, said: &mut Lines) {
        let known = self.0.entry(ranking.to_string()).or_default();
        let key = |rank: usize| {
            let mut key = ranking.clone();
            key["rank"] = json!(rank + 1);
            key
        };
        for (rank, row) in first.iter().enumerate() {
            match known.get_mut(rank) {
                Some((known, _)) if known == row => {}
                Some(known) => {
                    *known = (row.clone(), known.1.max(time));
                    said.push(line(known.1, key(rank), row.clone()));
                }
                None => {
                    known.push((row.clone(), time));
                    said.push(line(time, key(rank), row.clone()));
                }
            }
        }
        for (rank, (_, since)) in known.drain(first.len()..).enumerate() {
            said.push(line(since.max(time), key(first.len() + rank), Json::Null));
        }
    }
}

fn best_of_stream(inputs: &[Input]) -> Lines {
    let mut said = Lines::new();
    let mut rankings = Rankings::default();
    let mut all: Vec<Whole<'_>> = Vec::new();
    for row in inputs.iter().filter_map(whole) {
        let (Some((_, _, Some(s))), time) = (row.value, row.time) else { continue };
        all.push(row);
        let mut of_s: Vec<&Whole<'_>> =
            all.iter().filter(|row| row.value.is_some_and(|(_, _, other)| other == Some(s))).collect();
        // Equal ones stay in the order in which they came.
        of_s.sort_by_key(|row| {
            let (n, x, _) = row.value.unwrap();
            (descending(n), ascending(x.map(|x| (x * 1000.0) as i64)), row.key)
        });
        let rows = of_s.iter().take(3).map(|row| {
            let (n, x, _) = row.value.unwrap();
            json!({"k": row.key, "n": n, "x": x})
        });
        rankings.become_(&json!({"s": s}), rows.collect(), time, &mut said);
    }
    said
}

fn best_of_table(changes: &[Change]) -> (Lines, Lines) {
    let (mut said, mut said_by_rows) = (Lines::new(), Lines::new());
    let (mut rankings, mut rankings_by_rows) = (Rankings::default(), Rankings::default());
    let mut table: BTreeMap<&str, Total> = BTreeMap::new();
    for Change { key, time, before, after } in changes {
        table.remove(key);
        let mut say = |table: &BTreeMap<&str, Total>, rows: i64| {
            let mut of_rows: Vec<(&&str, &Total)> =
                table.iter().filter(|(_, total)| total.rows == rows).collect();
            of_rows.sort_by_key(|(key, total)| {
                (ascending(total.total.map(|total| total % 3)), ascending(total.total), **key)
            });
            let first = of_rows.iter().take(1).map(|(key, total)| json!({"k": key, "total": total.total}));
            rankings_by_rows.become_(&json!({"rows": rows}), first.collect(), *time, &mut said_by_rows);
        };
        if let Some(before) = before {
            say(&table, before.rows);
        }
        if let Some(after) = after {
            table.insert(key, after.clone());
            say(&table, after.rows);
        }
        let mut all: Vec<(&&str, &Total)> = table.iter().collect();
        all.sort_by_key(|(key, total)| (descending(total.total), **key));
        let first = all.iter().take(2).map(|(key, total)| {
            let mut row = total.value();
            row["k"] = json!(key);
            row
        });
        rankings.become_(&json!({}), first.collect(), *time, &mut said);
    }
    (said, said_by_rows)
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
    fn the_best_rows_of_a_stream_are_those_of_the_model(inputs in inputs(40), batch in 1..9usize) {
        let expected = best_of_stream(&inputs);
        let single = run(&TOP_OF_STREAM, &inputs, ONE_BY_ONE);
        prop_assert_eq!(&lines_of(&single, "all"), &expected);
        let batched = run(&TOP_OF_STREAM, &inputs, How { batch, restart_every: Some(11), ..ONE_BY_ONE });
        prop_assert_eq!(&lines_of(&batched, "changed"), &expected);
        prop_assert_eq!(&lines_of(&batched, "large"), &filtered(&expected, |row| row["n"].as_i64() > Some(2)));
    }

    #[test]
    fn consumers_of_suppress_are_told_what_they_knew(inputs in inputs(40), batch in 1..9usize) {
        let outcome = run(&SUPPRESS, &small(inputs), How { batch, restart_every: Some(11), ..ONE_BY_ONE });
        for (all, large) in [("calm", "calm-large"), ("early", "early-large"), ("final", "final-large")] {
            let expected = filtered(&lines_of(&outcome, all), |row| row["total"].as_i64() > Some(3));
            prop_assert_eq!(&lines_of(&outcome, large), &expected, "{}", large);
        }
    }

    #[test]
    fn the_best_rows_of_a_table_are_those_of_the_model(inputs in inputs(40), batch in 1..9usize) {
        let inputs = small(inputs);
        let (expected, expected_by_rows) = best_of_table(&retained(&inputs, 8000));
        for how in [ONE_BY_ONE, How { batch, restart_every: Some(11), ..ONE_BY_ONE }] {
            let outcome = run(&TOP_OF_TABLE, &inputs, how);
            prop_assert_eq!(&lines_of(&outcome, "changed"), &expected);
            prop_assert_eq!(&lines_of(&outcome, "changed-by-rows"), &expected_by_rows);
        }
    }
}
