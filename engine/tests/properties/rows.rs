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
}
