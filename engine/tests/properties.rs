//! The laws of whole topologies, on random records: what batches, restarts, partitions and stores must not change, and what
//! stateful operators compute, against models of a few lines.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use millstream_engine::driver::written::LineWriter;
use millstream_engine::driver::{Driver, DriverOptions, Ran, SourceRecord, StateLocation};
use millstream_engine::plan::Plan;
use millstream_engine::record::Record;
use millstream_engine::topology::{self, Topology};
use millstream_operators::operator::StoreKind;
use millstream_operators::schema::Kind;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

#[path = "properties/rows.rs"]
mod rows;

// Topologies. `ON_ERROR` is filled in.

const SOURCE: &str = r#"
[app]
id = "laws"

[sources.events]
topic    = "events"
key      = { k = "string" }
value    = { n = "int64", x = "float64", s = "string", l = "list<int64>" }
on-error = "ON_ERROR"
"#;

/// Name and steps of the topologies that every law is tried on.
const TOPOLOGIES: &[(&str, &str)] = &[
    (
        "stateless",
        r#"
        [steps.positive]
        op       = "filter"
        from     = "events"
        where    = "10 / n > 1"
        on-error = "ON_ERROR"
        [steps.ratio]
        op       = "select"
        from     = "events"
        columns  = { ratio = "10 / n", s = "s" }
        on-error = "ON_ERROR"
        [steps.more]
        op       = "select"
        from     = "positive"
        add      = { twice = "x * 2" }
        drop     = ["l"]
        [steps.route]
        op        = "branch"
        from      = "events"
        branches  = [{ name = "small", where = "12 / n > 3" }, { name = "p", where = "s = 'p'" }]
        otherwise = "others"
        on-error  = "ON_ERROR"
        [steps.both]
        op   = "merge"
        from = ["route.p", "positive", "route.small"]
        [sinks.ratios]
        from = "ratio"
        [sinks.mores]
        from = "more"
        [sinks.boths]
        from = "both"
        [sinks.others]
        from = "route.others"
        "#,
    ),
    (
        "explode, then aggregate by the element",
        r#"
        [steps.items]
        op     = "explode"
        from   = "events"
        column = "l"
        as     = "item"
        [steps.shares]
        op       = "select"
        from     = "items"
        columns  = { share = "6 / item", item = "item" }
        on-error = "ON_ERROR"
        [steps.per_item]
        op       = "aggregate"
        from     = "shares"
        group-by = ["item"]
        columns  = { rows = "count(*)", total = "sum(share)" }
        [steps.per_key]
        op      = "aggregate"
        from    = "shares"
        columns = { rows = "count(*)", first = "first_value(item)", total = "sum(share)" }
        [sinks.shared]
        from = "shares"
        [sinks.items_counted]
        from = "per_item"
        [sinks.keys_counted]
        from = "per_key"
        "#,
    ),
    (
        "unwindowed aggregate",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        columns  = { rows = "count(*)", total = "sum(n)", mean = "avg(x)", spread = "var(x)", last = "last_value(s)", tens = "sum(10 / n) filter (where s <> 'q')" }
        on-error = "ON_ERROR"
        [steps.changes]
        op   = "to-stream"
        from = "totals"
        [steps.even]
        op    = "filter"
        from  = "changes"
        where = "rows % 2 = 0"
        [sinks.all]
        from = "totals"
        [sinks.evens]
        from = "even"
        "#,
    ),
    (
        "unwindowed aggregate that folds",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        columns  = { rows = "count(*)", total = "sum(n)", last = "last_value(s)" }
        on-error = "ON_ERROR"
        [steps.large]
        op    = "filter"
        from  = "totals"
        where = "total > 3"
        [steps.named]
        op      = "select"
        from    = "large"
        columns = { twice = "rows * 2" }
        [sinks.larges]
        from = "large"
        [sinks.names]
        from = "named"
        "#,
    ),
    (
        "retain",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        retain   = "8s"
        columns  = { rows = "count(*)", total = "sum(n)", kinds = "count(distinct s)" }
        on-error = "ON_ERROR"
        [steps.changes]
        op   = "to-stream"
        from = "totals"
        [sinks.all]
        from = "totals"
        [sinks.stream]
        from = "changes"
        "#,
    ),
    (
        "retain that folds, filtered",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        retain   = "8s"
        columns  = { rows = "count(*)", total = "sum(n)" }
        on-error = "ON_ERROR"
        [steps.large]
        op    = "filter"
        from  = "totals"
        where = "total > 3"
        [sinks.all]
        from = "totals"
        [sinks.larges]
        from = "large"
        "#,
    ),
    (
        "tumbling update",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { tumbling = "5s" }
        grace    = "2s"
        columns  = { rows = "count(*)", total = "sum(n)", kinds = "count(distinct s)" }
        on-error = "ON_ERROR"
        [steps.changes]
        op   = "to-stream"
        from = "totals"
        [sinks.all]
        from = "totals"
        [sinks.stream]
        from = "changes"
        [sinks.too_late]
        from = "totals.late"
        "#,
    ),
    (
        "tumbling update that folds",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { tumbling = "5s" }
        columns  = { rows = "count(*)", total = "sum(n)" }
        on-error = "ON_ERROR"
        [steps.large]
        op    = "filter"
        from  = "totals"
        where = "total > 3"
        [sinks.all]
        from = "totals"
        [sinks.larges]
        from = "large"
        "#,
    ),
    (
        "tumbling close",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { tumbling = "5s" }
        grace    = "2s"
        emit     = "close"
        columns  = { rows = "count(*)", total = "sum(n)", mean = "avg(x)" }
        on-error = "ON_ERROR"
        [steps.changes]
        op   = "to-stream"
        from = "totals"
        [steps.longer]
        op       = "aggregate"
        from     = "changes"
        group-by = ["k"]
        columns  = { windows = "count(*)", total = "sum(rows)" }
        [sinks.all]
        from = "totals"
        [sinks.stream]
        from = "changes"
        [sinks.too_late]
        from = "totals.late"
        [sinks.longers]
        from = "longer"
        "#,
    ),
    (
        "hopping update",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { hopping = "6s", every = "2s" }
        grace    = "1s"
        columns  = { rows = "count(*)", total = "sum(n)" }
        on-error = "ON_ERROR"
        [steps.changes]
        op   = "to-stream"
        from = "totals"
        [sinks.all]
        from = "totals"
        [sinks.stream]
        from = "changes"
        [sinks.too_late]
        from = "totals.late"
        "#,
    ),
    (
        "hopping close",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { hopping = "7s", every = "3s" }
        emit     = "close"
        columns  = { rows = "count(*)", total = "sum(n)" }
        on-error = "ON_ERROR"
        [sinks.all]
        from = "totals"
        "#,
    ),
    (
        "sliding update",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { sliding = "5s" }
        grace    = "2s"
        columns  = { rows = "count(*)", total = "sum(n)", ratio = "10 / sum(n)" }
        on-error = "ON_ERROR"
        [steps.changes]
        op   = "to-stream"
        from = "totals"
        [sinks.all]
        from = "totals"
        [sinks.stream]
        from = "changes"
        [sinks.too_late]
        from = "totals.late"
        "#,
    ),
    (
        "sliding update that folds",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { sliding = "4s" }
        columns  = { rows = "count(*)", total = "sum(n)" }
        on-error = "ON_ERROR"
        [steps.large]
        op    = "filter"
        from  = "totals"
        where = "total > 3"
        [sinks.all]
        from = "totals"
        [sinks.larges]
        from = "large"
        "#,
    ),
    (
        "sliding close",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { sliding = "5s" }
        grace    = "2s"
        emit     = "close"
        columns  = { rows = "count(*)", kinds = "count(distinct s)" }
        on-error = "ON_ERROR"
        [steps.changes]
        op   = "to-stream"
        from = "totals"
        [sinks.stream]
        from = "changes"
        [sinks.too_late]
        from = "totals.late"
        "#,
    ),
    (
        "session update",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { session = "2s" }
        grace    = "3s"
        columns  = { rows = "count(*)", total = "sum(n)", first = "first_value(s)", last = "last_value(s)", ratio = "10 / sum(n)" }
        on-error = "ON_ERROR"
        [steps.large]
        op    = "filter"
        from  = "totals"
        where = "rows > 1"
        [steps.changes]
        op   = "to-stream"
        from = "large"
        [sinks.all]
        from = "totals"
        [sinks.stream]
        from = "changes"
        [sinks.too_late]
        from = "totals.late"
        "#,
    ),
    (
        "session update that folds",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { session = "2s" }
        grace    = "3s"
        columns  = { rows = "count(*)", total = "sum(n)", kinds = "count(distinct s)" }
        on-error = "ON_ERROR"
        [steps.large]
        op    = "filter"
        from  = "totals"
        where = "total > 3"
        [sinks.all]
        from = "totals"
        [sinks.larges]
        from = "large"
        "#,
    ),
    (
        "session close",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { session = "2s" }
        grace    = "1s"
        emit     = "close"
        columns  = { rows = "count(*)", total = "sum(n)", ratio = "10 / sum(n)", spread = "var(x)" }
        on-error = "ON_ERROR"
        [steps.changes]
        op   = "to-stream"
        from = "totals"
        [sinks.stream]
        from = "changes"
        [sinks.too_late]
        from = "totals.late"
        "#,
    ),
    (
        "aggregate of a table with retain, by another key and its own",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        retain   = "8s"
        columns  = { rows = "count(*)", total = "sum(n)", last = "last_value(s)" }
        on-error = "ON_ERROR"
        [steps.groups]
        op       = "aggregate"
        from     = "totals"
        group-by = { part = "last", tenth = "10 / total" }
        columns  = { keys = "count(*)", total = "sum(total)", least = "min(total)", most = "max(k)", kinds = "count(distinct rows)", mean = "avg(rows)" }
        on-error = "ON_ERROR"
        [steps.own]
        op       = "aggregate"
        from     = "totals"
        columns  = { keys = "count(last)", least = "min(10 / total)" }
        on-error = "ON_ERROR"
        [steps.changes]
        op   = "to-stream"
        from = "groups"
        [sinks.all]
        from = "groups"
        [sinks.owns]
        from = "own"
        [sinks.stream]
        from = "changes"
        "#,
    ),
    (
        "aggregate of a table of sessions, which folds",
        r#"
        [steps.visits]
        op       = "aggregate"
        from     = "events"
        window   = { session = "2s" }
        grace    = "3s"
        columns  = { rows = "count(*)" }
        on-error = "ON_ERROR"
        [steps.lengths]
        op       = "aggregate"
        from     = "visits"
        group-by = ["rows"]
        columns  = { visits = "count(*)", first = "min(window_start)", last = "max(window_end)", keys = "count(distinct k)" }
        on-error = "ON_ERROR"
        [steps.several]
        op    = "filter"
        from  = "lengths"
        where = "visits > 1"
        [sinks.all]
        from = "lengths"
        [sinks.more]
        from = "several"
        "#,
    ),
    (
        "a table whose results and conditions fail",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        columns  = { ratio = "sum(n) / count(s)", total = "sum(n)" }
        on-error = "ON_ERROR"
        [steps.fraction]
        op       = "filter"
        from     = "totals"
        where    = "10 / total > 1"
        on-error = "ON_ERROR"
        [steps.changes]
        op   = "to-stream"
        from = "fraction"
        [sinks.all]
        from = "totals"
        [sinks.fractions]
        from = "fraction"
        [sinks.stream]
        from = "changes"
        "#,
    ),
    (
        "a table that could fold but for its failures",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        columns  = { total = "sum(n)", rows = "count(*)", ratio = "10 / min(n)" }
        on-error = "ON_ERROR"
        [steps.fraction]
        op       = "select"
        from     = "totals"
        columns  = { share = "10 / total", rows = "rows" }
        on-error = "ON_ERROR"
        [steps.positive]
        op    = "filter"
        from  = "fraction"
        where = "share > 0"
        [sinks.all]
        from = "totals"
        [sinks.positives]
        from = "positive"
        "#,
    ),
    (
        "retain, to a topic that varies",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        retain   = "8s"
        columns  = { total = "sum(n)", last = "last_value(s)" }
        on-error = "ON_ERROR"
        [sinks.by_last]
        from  = "totals"
        topic = { expression = "concat('last-', coalesce(last, 'none'))" }
        "#,
    ),
    (
        "features, then a model",
        r#"
        [models.risk]
        path    = "models"
        version = "lightgbm_regressor"
        [steps.recent]
        op       = "features"
        from     = "events"
        grace    = "3s"
        on-error = "ON_ERROR"
        columns.rows_5s   = { value = "count(*)", last = "5s" }
        columns.mean_12s  = { value = "avg(x)", last = "12s", where = "s <> 'q'" }
        columns.tens_5s   = { value = "sum(10 / n)", last = "5s" }
        columns.each_12s  = { value = "sum(n) / count(s)", last = "12s" }
        [steps.inputs]
        op       = "select"
        from     = "recent"
        columns  = { x0 = "x", x1 = "cast(rows_5s as double)", x2 = "mean_12s", x3 = "cast(n as double)", x4 = "x / 2", x5 = "x * x", x6 = "x", x7 = "x", x8 = "x", x9 = "x" }
        [steps.scored]
        op       = "predict"
        from     = "inputs"
        model    = "risk"
        inputs   = { X = ["x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9"] }
        outputs  = { score = { tensor = "variable" } }
        on-error = "ON_ERROR"
        [steps.before]
        op              = "features"
        from            = "scored"
        include-current = false
        columns.rows    = { value = "count(*)", last = "7s" }
        columns.highest = { value = "max(score)", last = "7s" }
        [sinks.features]
        from = "recent"
        [sinks.scores]
        from = "scored"
        [sinks.befores]
        from = "before"
        "#,
    ),
    (
        "rekey, then aggregate and features",
        r#"
        [steps.by_s]
        op       = "rekey"
        from     = "events"
        key      = { part = "s", tenth = "10 / n" }
        on-error = "ON_ERROR"
        [steps.totals]
        op      = "aggregate"
        from    = "by_s"
        columns = { rows = "count(*)", keys = "max(k)" }
        [steps.recent]
        op   = "features"
        from = "by_s"
        columns.rows = { value = "count(*)", last = "5s" }
        columns.keys = { value = "count(distinct k)", last = "9s" }
        [steps.windows]
        op      = "aggregate"
        from    = "by_s"
        window  = { tumbling = "5s" }
        grace   = "1s"
        emit    = "close"
        columns = { rows = "count(*)" }
        [sinks.moved]
        from = "by_s"
        [sinks.all]
        from = "totals"
        [sinks.features]
        from = "recent"
        [sinks.closed]
        from = "windows"
        "#,
    ),
    (
        "a model on a table",
        r#"
        [models.risk]
        path    = "models"
        version = "lightgbm_regressor"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        retain   = "8s"
        columns  = { a = "avg(x)", b = "avg(n)" }
        [steps.scored]
        op       = "predict"
        from     = "totals"
        model    = "risk"
        inputs   = { X = ["a", "b", "a", "b", "a", "b", "a", "b", "a", "b"] }
        outputs  = { score = { tensor = "variable" } }
        [steps.high]
        op    = "filter"
        from  = "scored"
        where = "score > 0"
        [steps.changes]
        op   = "to-stream"
        from = "high"
        [sinks.scores]
        from = "scored"
        [sinks.stream]
        from = "changes"
        "#,
    ),
    (
        "dedup",
        r#"
        [steps.once]
        op     = "dedup"
        from   = "events"
        within = "2s"
        [steps.each]
        op          = "dedup"
        from        = "events"
        within      = "5s"
        distinct-on = ["s", "l"]
        [sinks.onces]
        from = "once"
        [sinks.each_once]
        from = "each"
        "#,
    ),
    (
        "suppress until windows close",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        window   = { hopping = "6s", every = "3s" }
        grace    = "1s"
        columns  = { rows = "count(*)", total = "sum(n)" }
        on-error = "ON_ERROR"
        [steps.large]
        op    = "filter"
        from  = "totals"
        where = "total > 3"
        [steps.final]
        op       = "suppress"
        from     = "large"
        until    = "window-close"
        max-rows = 1000
        [steps.changes]
        op   = "to-stream"
        from = "final"
        [sinks.finals]
        from = "final"
        [sinks.stream]
        from = "changes"
        "#,
    ),
    (
        "suppress for a time, few at once, with retain",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        retain   = "8s"
        columns  = { rows = "count(*)", total = "sum(n)" }
        on-error = "ON_ERROR"
        [steps.calm]
        op       = "suppress"
        from     = "totals"
        for      = "3s"
        max-rows = 2
        [steps.calmer]
        op        = "suppress"
        from      = "totals"
        for       = "6s"
        max-bytes = "80B"
        [steps.large]
        op    = "filter"
        from  = "calm"
        where = "total > 3"
        [steps.changes]
        op   = "to-stream"
        from = "large"
        [sinks.calms]
        from = "calm"
        [sinks.calmers]
        from = "calmer"
        [sinks.stream]
        from = "changes"
        "#,
    ),
    (
        "top of a stream",
        r#"
        [steps.best]
        op           = "top"
        from         = "events"
        n            = 2
        order-by     = "n desc, x"
        partition-by = ["s"]
        [steps.mine]
        op           = "top"
        from         = "events"
        n            = 3
        order-by     = "10 / n desc, x"
        partition-by = ["k", "s"]
        on-error     = "ON_ERROR"
        [steps.changes]
        op   = "to-stream"
        from = "best"
        [sinks.bests]
        from = "best"
        [sinks.mines]
        from = "mine"
        [sinks.stream]
        from = "changes"
        "#,
    ),
    (
        "top of a table",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        columns  = { rows = "count(*)", total = "sum(n)", last = "last_value(s)" }
        on-error = "ON_ERROR"
        [steps.best]
        op           = "top"
        from         = "totals"
        n            = 1
        order-by     = "10 / total desc"
        partition-by = ["k", "rows"]
        on-error     = "ON_ERROR"
        [steps.by_last]
        op           = "top"
        from         = "totals"
        n            = 2
        order-by     = "total desc, rows"
        partition-by = ["last"]
        [steps.second]
        op    = "filter"
        from  = "by_last"
        where = "rank = 2"
        [steps.changes]
        op   = "to-stream"
        from = "second"
        [sinks.bests]
        from = "best"
        [sinks.lasts]
        from = "by_last"
        [sinks.stream]
        from = "changes"
        "#,
    ),
];

struct App {
    name: String,
    topology: Arc<Topology>,
    plan: Arc<Plan>,
}

fn app(name: &str, steps: &str, on_error: &str) -> App {
    let text = format!("{SOURCE}{steps}").replace("ON_ERROR", on_error);
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../operators/tests");
    let (topology, findings) = topology::read(&text, &models, &|_| None);
    let topology = Arc::new(
        topology.unwrap_or_else(|| panic!("{name}: {}", topology::render(&findings, name, &text, false))),
    );
    let plan = Arc::new(Plan::new(&topology).unwrap());
    App { name: format!("{name} ({on_error})"), topology, plan }
}

fn apps(on_error: &str) -> Vec<App> {
    TOPOLOGIES.iter().map(|(name, steps)| app(name, steps, on_error)).collect()
}

/// Every topology with errors skipped or set aside.
static APPS: LazyLock<Vec<App>> = LazyLock::new(|| {
    let mut apps = apps("dead-letter");
    apps.extend(self::apps("skip").into_iter().step_by(4));
    apps
});

// Records.

#[derive(Clone, Debug)]
struct Row {
    key: Option<&'static str>,
    value: Option<Columns>,
    time: i64,
}

#[derive(Clone, Debug)]
enum Columns {
    Read {
        n: Option<i64>,
        x: Option<f64>,
        s: Option<&'static str>,
        l: Option<Vec<Option<i64>>>,
    },
    /// Bytes that are no row.
    Broken,
}

#[derive(Clone, Debug)]
enum Input {
    Row(Row),
    /// Stream time goes on by itself.
    Advance(i64),
}

impl Row {
    fn record(&self) -> SourceRecord {
        let value = self.value.as_ref().map(|columns| match columns {
            Columns::Broken => b"{\"n\":".to_vec(),
            Columns::Read { n, x, s, l } => json!({"n": n, "x": x, "s": s, "l": l}).to_string().into_bytes(),
        });
        let key = self.key.map(|key| key.as_bytes().to_vec());
        let record = Record { key, value, timestamp: self.time, headers: Vec::new(), offset: 0 };
        SourceRecord { source: 0, partition: None, record }
    }
}

fn columns() -> impl Strategy<Value = Columns> {
    let n = prop_oneof![1 => Just(None), 7 => (-3..6i64).prop_map(Some), 1 => Just(Some(0)), 1 => Just(Some(i64::MAX - 2))];
    let x = prop_oneof![1 => Just(None), 5 => (-8..9i32).prop_map(|x| Some(f64::from(x) / 4.0)), 1 => Just(Some(0.1))];
    let s = prop_oneof![1 => Just(None), 5 => prop::sample::select(vec!["p", "q", "r"]).prop_map(Some)];
    let element = prop_oneof![1 => Just(None), 4 => (0..4i64).prop_map(Some)];
    let l = prop::option::of(prop::collection::vec(element, 0..4));
    let read = (n, x, s, l).prop_map(|(n, x, s, l)| Columns::Read { n, x, s, l });
    prop_oneof![24 => read, 1 => Just(Columns::Broken)]
}

/// Records of few keys, mostly in order of time, some late, some at the same time; and time that goes on without records.
fn inputs(count: usize) -> impl Strategy<Value = Vec<Input>> {
    let key = prop_oneof![1 => Just(None), 12 => prop::sample::select(vec!["a", "b", "c"]).prop_map(Some)];
    let value = prop_oneof![1 => Just(None), 15 => columns().prop_map(Some)];
    let step = prop::sample::select(vec![0, 0, 1, 250, 999, 1000, 2000, 4999, 5000, 13_000]);
    let back = prop_oneof![3 => Just(0), 1 => prop::sample::select(vec![1, 1000, 2000, 2001, 3000, 5000, 8000, 8001, 16_000])];
    let advance =
        prop_oneof![20 => Just(None), 1 => prop::sample::select(vec![0, 1000, 6000, 20_000]).prop_map(Some)];
    prop::collection::vec((key, value, step, back, advance), 1..count).prop_map(|all| {
        let mut now = 40_000;
        let one = all.into_iter().map(|(key, value, step, back, advance)| match advance {
            Some(by) => Input::Advance(by),
            None => {
                now += step;
                Input::Row(Row { key, value, time: now - back })
            }
        });
        one.collect()
    })
}

// Runs.

/// A record that was written, as a line of JSON.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    topic: String,
    table: bool,
    line: String,
}

impl Seen {
    fn json(&self) -> Json {
        serde_json::from_str(&self.line).unwrap()
    }

    /// Topic and key.
    fn place(&self) -> (String, String) {
        let line = self.json();
        let key = line.get("key").or(line.get("key-bytes")).cloned().unwrap_or_default();
        (self.topic.clone(), key.to_string())
    }
}

type Stores = BTreeMap<(String, usize), Vec<(Vec<u8>, Vec<u8>)>>;

#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    seen: Vec<Seen>,
    /// What was skipped or set aside.
    errors: Vec<String>,
    /// Records on which it stopped; they were left out then.
    stopped: Vec<usize>,
    stores: Stores,
}

#[derive(Clone, Copy, Debug)]
struct How {
    batch: usize,
    restart_every: Option<usize>,
    partitions: u32,
    on_disk: bool,
    fold: bool,
}

const ONE_BY_ONE: How = How { batch: 1, restart_every: None, partitions: 1, on_disk: false, fold: false };

struct Running<'a> {
    app: &'a App,
    driver: Driver,
    writer: LineWriter,
    outcome: Outcome,
    since_restart: usize,
    how: How,
}

impl Running<'_> {
    fn take(&mut self, ran: Ran) {
        let lines = self.writer.lines(&ran.written).unwrap();
        for (written, line) in ran.written.iter().zip(lines) {
            self.outcome.seen.push(Seen {
                topic: written.topic.to_string(),
                table: written.kind == Kind::Table,
                line: String::from_utf8(line).unwrap(),
            });
        }
        for error in ran.errors {
            self.outcome.errors.push(error.to_string());
        }
    }

    /// Runs the rows as one batch. Those that stop the application are left out, and it starts again after them.
    fn batch(&mut self, rows: &mut Vec<(usize, &Row)>) {
        while !rows.is_empty() {
            let ran = self.driver.run(rows.iter().map(|(_, row)| row.record()).collect()).unwrap();
            let stopped = ran.stopped.clone();
            self.take(ran);
            match stopped {
                None => rows.clear(),
                Some((cause, _)) => {
                    self.outcome.stopped.push(rows[cause].0);
                    rows.drain(..=cause);
                    self.driver.restart().unwrap();
                }
            }
        }
        self.driver.commit().unwrap();
    }

    /// A restart leaves the stores as they are, but for entries that have expired.
    fn restart(&mut self) {
        let before = self.driver.stores().unwrap();
        self.driver.restart().unwrap();
        let after = self.driver.stores().unwrap();
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        assert_eq!(
            unexpired(self.app, &before, &before),
            unexpired(self.app, &after, &before),
            "{}",
            self.app.name
        );
    }
}

/// `stores` without the entries that have expired in `known`: a restore may bring them back, and nobody can tell.
fn unexpired(app: &App, stores: &Stores, known: &Stores) -> Stores {
    // Entries of windows expire from the first on, or from the first with a certain first byte: what follows is a time.
    let mut left = stores.clone();
    for (name, entries) in &mut left {
        let mut specs = app.plan.sub_topologies.iter().flat_map(|sub| &sub.stores);
        let store = specs.find(|store| store.spec.name == name.0).unwrap();
        if matches!(store.kind, StoreKind::Window { .. }) {
            entries.retain(|(key, _)| {
                let oldest = known[name].iter().find(|(known, _)| known[0] == key[0]);
                oldest.is_some_and(|(oldest, _)| key >= oldest)
            });
        }
    }
    left
}

fn run(app: &App, inputs: &[Input], how: How) -> Outcome {
    let folder = how.on_disk.then(|| tempfile::tempdir().unwrap());
    let state =
        folder.as_ref().map(|folder| StateLocation { directory: folder.path().to_owned(), memory: 1 << 22 });
    let options = DriverOptions { partitions: how.partitions, state, fold: how.fold };
    let driver = Driver::new(app.topology.clone(), app.plan.clone(), options).unwrap();
    let writer = LineWriter::new(&app.topology, false).unwrap();
    let outcome =
        Outcome { seen: Vec::new(), errors: Vec::new(), stopped: Vec::new(), stores: Stores::new() };
    let mut running = Running { app, driver, writer, outcome, since_restart: 0, how };
    let mut rows: Vec<(usize, &Row)> = Vec::new();
    for (number, input) in inputs.iter().enumerate() {
        match input {
            Input::Row(row) => rows.push((number, row)),
            Input::Advance(by) => {
                running.batch(&mut rows);
                let ran = running.driver.advance(*by).unwrap();
                running.take(ran);
            }
        }
        if rows.len() >= how.batch {
            running.batch(&mut rows);
        }
        running.since_restart += 1;
        if running.how.restart_every == Some(running.since_restart) {
            running.since_restart = 0;
            running.batch(&mut rows);
            running.restart();
        }
    }
    running.batch(&mut rows);
    running.outcome.stores = running.driver.stores().unwrap();
    let ran = running.driver.finish().unwrap();
    running.take(ran);
    if app.plan.sub_topologies.len() > 1 {
        // A batch goes from task to task: only within each are errors in the order of records.
        running.outcome.errors.sort();
    }
    running.outcome
}

fn streams(outcome: &Outcome) -> Vec<&str> {
    outcome.seen.iter().filter(|seen| !seen.table).map(|seen| seen.line.as_str()).collect()
}

/// The last line of each row of each table.
fn tables(outcome: &Outcome) -> BTreeMap<(String, String), &str> {
    outcome.seen.iter().filter(|seen| seen.table).map(|seen| (seen.place(), seen.line.as_str())).collect()
}

/// In which rows the tables of two outcomes differ at last. A row that comes and goes within a batch may never be written:
/// then one outcome has its delete, and the other none or an earlier one.
fn different_rows<'a>(one: &'a Outcome, other: &'a Outcome) -> Vec<(Option<&'a str>, Option<&'a str>)> {
    let (one, other) = (tables(one), tables(other));
    let places: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let pairs = places.into_iter().map(|place| (one.get(place).copied(), other.get(place).copied()));
    let exists = |line: &Option<&str>| line.is_some_and(|line| !line.contains("\"value\":null"));
    pairs.filter(|(one, other)| one != other && (exists(one) || exists(other))).collect()
}

/// Per stream and key the lines in order, without what only says where a record was read.
fn per_key(outcome: &Outcome) -> BTreeMap<(String, String), Vec<String>> {
    let mut all: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for seen in outcome.seen.iter().filter(|seen| !seen.table) {
        let mut line = seen.json();
        line.as_object_mut().unwrap().remove("headers");
        all.entry(seen.place()).or_default().push(line.to_string());
    }
    all
}

/// `LAWS_TIMES` multiplies how many cases are tried.
fn cases(cases: u32) -> ProptestConfig {
    let times = std::env::var("LAWS_TIMES").ok().and_then(|times| times.parse().ok());
    let cases = cases * times.unwrap_or(1);
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        max_shrink_time: 30_000,
        ..ProptestConfig::default()
    }
}

/// The applications whose name holds the word in `LAWS_OF`: for looking into a failure.
fn chosen(apps: &[App]) -> impl Iterator<Item = &App> {
    let only = std::env::var("LAWS_OF").unwrap_or_default();
    apps.iter().filter(move |app| app.name.contains(&only))
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn batches_are_not_visible(inputs in inputs(40)) {
        for app in chosen(&APPS) {
            let single = run(app, &inputs, ONE_BY_ONE);
            for batch in [2, 7, usize::MAX] {
                let batched = run(app, &inputs, How { batch, fold: true, ..ONE_BY_ONE });
                prop_assert_eq!(streams(&single), streams(&batched), "{}, batches of {}", app.name, batch);
                prop_assert_eq!(different_rows(&single, &batched), [], "{}, batches of {}", app.name, batch);
                prop_assert_eq!(&single.errors, &batched.errors, "{}, batches of {}", app.name, batch);
                prop_assert_eq!(&single.stores, &batched.stores, "{}, batches of {}", app.name, batch);
            }
        }
    }

    #[test]
    fn without_folding_every_update_is_seen(inputs in inputs(40), batch in 2..20usize) {
        for app in chosen(&APPS) {
            let single = run(app, &inputs, ONE_BY_ONE);
            let batched = run(app, &inputs, How { batch, ..ONE_BY_ONE });
            prop_assert_eq!(&single.seen, &batched.seen, "{}", app.name);
            prop_assert_eq!(&single.errors, &batched.errors, "{}", app.name);
        }
    }

    #[test]
    fn restarts_are_not_visible(inputs in inputs(40), every in 1..6usize) {
        for app in chosen(&APPS) {
            let single = run(app, &inputs, ONE_BY_ONE);
            for restart_every in [1, every] {
                let restarted = run(app, &inputs, How { restart_every: Some(restart_every), ..ONE_BY_ONE });
                prop_assert_eq!(&single.seen, &restarted.seen, "{}, restart every {}", app.name, restart_every);
                prop_assert_eq!(&single.errors, &restarted.errors, "{}, restart every {}", app.name, restart_every);
            }
        }
    }

    /// Where no row is late and none is deleted by time, tasks do not differ in what their stream times decide.
    #[test]
    fn partitions_are_not_visible(mut inputs in inputs(40)) {
        inputs.retain(|input| matches!(input, Input::Row(_)));
        inputs.sort_by_key(|input| match input { Input::Row(row) => row.time, Input::Advance(_) => 0 });
        for app in chosen(&APPS).filter(|app| !app.name.contains("retain") && !app.name.contains("model on a table")) {
            let one = run(app, &inputs, ONE_BY_ONE);
            let four = run(app, &inputs, How { partitions: 4, ..ONE_BY_ONE });
            prop_assert_eq!(per_key(&one), per_key(&four), "{}", app.name);
            prop_assert_eq!(different_rows(&one, &four), [], "{}", app.name);
        }
    }
}

proptest! {
    #![proptest_config(cases(3))]

    #[test]
    fn stores_on_disk_are_as_those_in_memory(inputs in inputs(30), batch in 1..9usize) {
        for app in chosen(&APPS).take(TOPOLOGIES.len()) {
            let how = How { batch, restart_every: Some(7), fold: true, ..ONE_BY_ONE };
            let memory = run(app, &inputs, how);
            let disk = run(app, &inputs, How { on_disk: true, ..how });
            prop_assert_eq!(&memory.seen, &disk.seen, "{}", app.name);
            prop_assert_eq!(&memory.errors, &disk.errors, "{}", app.name);
        }
    }
}

/// Topologies that stop on errors, of one task each: what stops a task stands in its own input.
static STOPPING: LazyLock<Vec<App>> =
    LazyLock::new(|| apps("fail").into_iter().filter(|app| app.plan.sub_topologies.len() == 1).collect());

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn a_stop_is_before_the_record_that_fails(inputs in inputs(40), batch in 2..9usize) {
        prop_assert!(STOPPING.len() > 5);
        for app in chosen(&STOPPING) {
            let single = run(app, &inputs, ONE_BY_ONE);
            let batched = run(app, &inputs, How { batch, fold: true, ..ONE_BY_ONE });
            prop_assert_eq!(&single.stopped, &batched.stopped, "{}", app.name);
            prop_assert_eq!(streams(&single), streams(&batched), "{}", app.name);
            prop_assert_eq!(different_rows(&single, &batched), [], "{}", app.name);

            let bad: BTreeSet<usize> = single.stopped.iter().copied().collect();
            let good = inputs.iter().enumerate().filter(|(number, _)| !bad.contains(number));
            let good: Vec<Input> = good.map(|(_, input)| input.clone()).collect();
            let never = run(app, &good, ONE_BY_ONE);
            prop_assert!(never.stopped.is_empty() && never.errors.is_empty() && single.errors.is_empty());
            prop_assert_eq!(&single.seen, &never.seen, "{}", app.name);
            prop_assert_eq!(unexpired(app, &single.stores, &never.stores), never.stores, "{}", app.name);
        }
    }
}

// Models.

static FAILING: LazyLock<Vec<App>> = LazyLock::new(|| {
    let app = |name: &str, then: &str| {
        let steps = format!(
            r#"
            [steps.totals]
            op       = "aggregate"
            from     = "events"
            columns  = {{ total = "sum(coalesce(n, 1))" }}
            on-error = "ON_ERROR"
            [steps.fraction]
            op       = "filter"
            from     = "totals"
            where    = "10 / total > 1"
            on-error = "ON_ERROR"
            {then}
            "#
        );
        app(name, &steps, "dead-letter")
    };
    let to_table = "[sinks.all]\nfrom = \"fraction\"";
    let to_stream =
        "[steps.changes]\nop = \"to-stream\"\nfrom = \"fraction\"\n[sinks.all]\nfrom = \"changes\"";
    vec![app("to a table", to_table), app("to a stream", to_stream)]
});

proptest! {
    #![proptest_config(cases(30))]

    /// A change of a table fails once, when it happens: not when the next one replaces it, nor never, in a batch.
    #[test]
    fn a_record_is_set_aside_if_and_only_if_it_fails(inputs in inputs(40), batch in 1..9usize) {
        let inputs = small(inputs);
        let mut totals: BTreeMap<&str, i64> = BTreeMap::new();
        let mut failing = Vec::new();
        for event in events(&inputs) {
            let Event::Row(row) = event else { continue };
            let total = totals.entry(row.key).or_default();
            *total += row.n.unwrap_or(1);
            failing.extend((*total == 0).then_some(row.time));
        }
        for app in FAILING.iter() {
            let outcome = run(app, &inputs, How { batch, fold: true, ..ONE_BY_ONE });
            let letters = outcome.seen.iter().filter(|seen| seen.topic == "laws-fraction-dead-letter").map(Seen::json);
            let times: Vec<i64> = letters.filter_map(|letter| letter["timestamp"].as_i64()).collect();
            prop_assert_eq!(&times, &failing, "{}", app.name);
        }
    }
}

/// What a model expects to be written to a topic: time, key, value.
type Lines = Vec<Json>;

fn line(time: i64, key: Json, value: Json) -> Json {
    json!({"timestamp": time, "key": key, "value": value})
}

fn lines_of(outcome: &Outcome, topic: &str) -> Lines {
    let of_topic = outcome.seen.iter().filter(|seen| seen.topic == topic).map(Seen::json);
    of_topic
        .map(|seen| json!({"timestamp": seen["timestamp"], "key": seen["key"], "value": seen["value"]}))
        .collect()
}

/// A row that an aggregating operator takes: it has a key.
struct Taken {
    key: &'static str,
    time: i64,
    n: Option<i64>,
    x: Option<f64>,
    s: Option<&'static str>,
}

enum Event {
    Row(Taken),
    /// Stream time reaches at least this.
    Time(i64),
}

/// What an operator right behind the source sees that drops null values.
fn events(inputs: &[Input]) -> Vec<Event> {
    seen_events(inputs, false)
}

/// What an operator right behind the source sees; a null value may be a row of nulls.
fn seen_events(inputs: &[Input], null_values: bool) -> Vec<Event> {
    let mut largest = None;
    let mut events = Vec::new();
    for input in inputs {
        match input {
            Input::Advance(by) => events.push(Event::Time(largest.unwrap_or(0) + by)),
            Input::Row(Row { value: Some(Columns::Broken), .. }) => {}
            Input::Row(Row { key, value, time }) => {
                largest = largest.max(Some(*time));
                if let (Some(key), Some(Columns::Read { n, x, s, .. })) = (*key, value) {
                    events.push(Event::Row(Taken { key, time: *time, n: *n, x: *x, s: *s }));
                }
                if let (Some(key), None, true) = (*key, value, null_values) {
                    events.push(Event::Row(Taken { key, time: *time, n: None, x: None, s: None }));
                }
            }
        }
    }
    events
}

/// `count(*)` and `sum(n)`; a row whose number makes the sum leave its range is not counted.
#[derive(Clone, Debug, Default)]
struct Total {
    rows: i64,
    total: Option<i64>,
    time: i64,
}

impl Total {
    #[must_use]
    fn add(&mut self, row: &Taken) -> bool {
        let total = match (self.total, row.n) {
            (Some(total), Some(n)) => match total.checked_add(n) {
                Some(total) => Some(total),
                None => return false,
            },
            (total, n) => total.or(n),
        };
        *self = Total { rows: self.rows + 1, total, time: self.time.max(row.time) };
        true
    }

    fn value(&self) -> Json {
        json!({"rows": self.rows, "total": self.total})
    }
}

#[derive(Default)]
struct Tumbled {
    updates: Lines,
    closed: Lines,
    late: Vec<i64>,
}

/// Windows as a list that is searched anew for each row.
fn tumbling(inputs: &[Input], size: i64, grace: i64) -> Tumbled {
    let mut said = Tumbled::default();
    let mut open: BTreeMap<(i64, &str), Total> = BTreeMap::new();
    let mut stream_time = 0;
    let key_of = |(start, key): (i64, &str)| window_key(key, start, start + size);
    let close = |open: &mut BTreeMap<(i64, &str), Total>, until: i64, closed: &mut Lines| {
        let still = open.split_off(&((until - size - grace).max(-1) + 1, ""));
        for (window, total) in std::mem::replace(open, still) {
            closed.push(line(total.time, key_of(window), total.value()));
        }
    };
    for event in seen_events(inputs, true) {
        let time = match &event {
            Event::Row(row) => row.time,
            Event::Time(time) => *time,
        };
        stream_time = stream_time.max(time);
        close(&mut open, stream_time, &mut said.closed);
        let Event::Row(row) = event else { continue };
        let start = row.time - row.time % size;
        if stream_time >= start + size + grace {
            said.late.push(row.time);
            continue;
        }
        let is_new = !open.contains_key(&(start, row.key));
        let total = open.entry((start, row.key)).or_default();
        if total.add(&row) {
            said.updates.push(line(total.time, key_of((start, row.key)), total.value()));
        } else if is_new {
            open.remove(&(start, row.key));
        }
    }
    close(&mut open, i64::MAX, &mut said.closed);
    said
}

/// The key of a window, as it is written.
fn window_key(key: &str, start: i64, end: i64) -> Json {
    let text = |time: i64| {
        let (seconds, millis) = (time / 1000, time % 1000);
        format!("1970-01-01T00:{:02}:{:02}.{millis:03}Z", seconds / 60, seconds % 60)
    };
    json!({"k": key, "window_start": text(start), "window_end": text(end)})
}

fn total_of<'a>(rows: impl IntoIterator<Item = &'a Taken>) -> Total {
    let mut total = Total::default();
    rows.into_iter().for_each(|row| assert!(total.add(row)));
    total
}

/// Sessions as sets of rows.
fn sessions(inputs: &[Input], gap: i64, grace: i64) -> Tumbled {
    let mut said = Tumbled::default();
    let mut open: Vec<Vec<Taken>> = Vec::new();
    let mut stream_time = 0;
    let bounds = |session: &[Taken]| {
        let times = || session.iter().map(|row| row.time);
        (times().min().unwrap(), times().max().unwrap())
    };
    let key_of = |session: &[Taken]| {
        let (start, end) = bounds(session);
        (end, window_key(session[0].key, start, end))
    };
    let close = |open: &mut Vec<Vec<Taken>>, until: i64, closed: &mut Lines| {
        open.sort_by_key(|session| (bounds(session).1, bounds(session).0, session[0].key));
        while open.first().is_some_and(|session| bounds(session).1 < until) {
            let session = open.remove(0);
            let (time, key) = key_of(&session);
            closed.push(line(time, key, total_of(&session).value()));
        }
    };
    for event in seen_events(inputs, true) {
        let time = match &event {
            Event::Row(row) => row.time,
            Event::Time(time) => *time,
        };
        stream_time = stream_time.max(time);
        let open_from = stream_time - gap - grace;
        close(&mut open, open_from, &mut said.closed);
        let Event::Row(row) = event else { continue };
        let touches = |session: &Vec<Taken>| {
            let (start, end) = bounds(session);
            session[0].key == row.key && end >= row.time - gap && start <= row.time + gap
        };
        if row.time < open_from && !open.iter().any(touches) {
            said.late.push(row.time);
            continue;
        }
        // `close` has put them in the order of their ends.
        let (touched, others): (Vec<_>, Vec<_>) = open.into_iter().partition(touches);
        open = others;
        let is_same = touched.iter().all(|session| bounds(session) == (row.time, row.time));
        for session in touched.iter().filter(|_| !is_same) {
            let (time, key) = key_of(session);
            said.updates.push(line(time, key, Json::Null));
        }
        let session: Vec<Taken> = touched.into_iter().flatten().chain([row]).collect();
        let (time, key) = key_of(&session);
        said.updates.push(line(time, key, total_of(&session).value()));
        open.push(session);
    }
    close(&mut open, i64::MAX, &mut said.closed);
    said
}

/// Sliding windows by what they are: sets of rows. Of rows that are late none may be among `inputs`.
fn sliding(inputs: &[Input], size: i64, grace: i64) -> Tumbled {
    let mut said = Tumbled::default();
    let mut rows: Vec<Taken> = Vec::new();
    let mut newest: BTreeMap<(i64, &str), Json> = BTreeMap::new();
    let (mut stream_time, mut closed_until) = (0, i64::MIN);
    let windows = |rows: &[Taken]| {
        let mut windows: BTreeMap<(i64, &'static str), Total> = BTreeMap::new();
        for row in rows {
            for start in [(row.time - size).max(0), row.time + 1] {
                let within =
                    |other: &&Taken| other.key == row.key && (start..=start + size).contains(&other.time);
                let total = total_of(rows.iter().filter(within));
                if total.rows > 0 {
                    windows.insert((start, row.key), total);
                }
            }
        }
        windows
    };
    let line_of = |(start, key): (i64, &str), total: &Total| {
        line(total.time, window_key(key, start, start + size), total.value())
    };
    let events = events(inputs).into_iter().map(Some).chain([None]);
    for event in events {
        stream_time = match &event {
            Some(Event::Row(row)) => stream_time.max(row.time),
            Some(Event::Time(time)) => stream_time.max(*time),
            None => i64::MAX,
        };
        let until = stream_time - grace - size;
        let now_closed =
            windows(&rows).into_iter().filter(|((start, _), _)| (closed_until..until).contains(start));
        said.closed.extend(now_closed.map(|(window, total)| line_of(window, &total)));
        closed_until = closed_until.max(until);
        if let Some(Event::Row(row)) = event {
            rows.push(row);
            newest.extend(windows(&rows).iter().map(|(window, total)| (*window, line_of(*window, total))));
        }
    }
    said.updates = newest.into_values().collect();
    said
}

/// The same records as early as can be, without those that are older than `grace` allows.
fn without_late(inputs: &[Input], grace: i64, earlier: i64) -> Vec<Input> {
    let (mut largest, mut stream_time) = (0, 0);
    let mut kept = Vec::new();
    for input in inputs {
        let mut input = input.clone();
        match &mut input {
            Input::Advance(by) => stream_time = stream_time.max(largest + *by),
            Input::Row(row) => {
                row.time = (row.time - earlier).max(0);
                if row.time < stream_time - grace {
                    continue;
                }
                largest = largest.max(row.time);
                stream_time = stream_time.max(row.time);
            }
        }
        kept.push(input);
    }
    kept
}

/// Aggregates over a window, one that sends updates and one that sends what has closed.
fn windowed(window: &str) -> Vec<App> {
    let app = |emit| {
        let steps = format!(
            r#"
            [steps.totals]
            op       = "aggregate"
            from     = "events"
            window   = {{ {window} }}
            grace    = "3s"
            emit     = "{emit}"
            columns  = {{ rows = "count(*)", total = "sum(n)" }}
            [sinks.all]
            from  = "totals"
            topic = "all"
            [sinks.too_late]
            from  = "totals.late"
            topic = "late"
            "#
        );
        app(emit, &steps, "skip")
    };
    ["update", "close"].into_iter().map(app).collect()
}

static SESSIONS: LazyLock<Vec<App>> = LazyLock::new(|| windowed("session = \"2s\""));
static SLIDING: LazyLock<Vec<App>> = LazyLock::new(|| windowed("sliding = \"5s\""));

static TUMBLING: LazyLock<Vec<App>> = LazyLock::new(|| {
    let emits = ["update", "close"].into_iter();
    let app = |emit| {
        app(
            emit,
            &format!(
                r#"
                [steps.totals]
                op       = "aggregate"
                from     = "events"
                window   = {{ tumbling = "5s" }}
                grace    = "2s"
                emit     = "{emit}"
                columns  = {{ rows = "count(*)", total = "sum(n)" }}
                on-error = "ON_ERROR"
                [sinks.all]
                from  = "totals"
                topic = "all"
                [sinks.too_late]
                from  = "totals.late"
                topic = "late"
                "#
            ),
            "skip",
        )
    };
    emits.map(app).collect()
});

/// A change of a table of totals: the row of `key` was the one and is the other.
struct Change {
    key: &'static str,
    time: i64,
    before: Option<Total>,
    after: Option<Total>,
}

/// Rows of a key go when stream time is more than `retain` past the newest of them.
fn retained(inputs: &[Input], retain: i64) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut keys: BTreeMap<&'static str, Total> = BTreeMap::new();
    let mut stream_time = 0;
    for event in events(inputs) {
        let time = match &event {
            Event::Row(row) => row.time,
            Event::Time(time) => *time,
        };
        stream_time = stream_time.max(time);
        let mut gone: Vec<(i64, &'static str)> = keys
            .iter()
            .filter(|(_, total)| stream_time > total.time + retain)
            .map(|(key, total)| (total.time, *key))
            .collect();
        gone.sort_unstable();
        for (_, key) in gone {
            changes.push(Change { key, time: stream_time, before: keys.remove(key), after: None });
        }
        let Event::Row(row) = event else { continue };
        if stream_time > row.time + retain {
            continue;
        }
        let before = keys.get(row.key).cloned();
        let mut after = before.clone().unwrap_or_default();
        if after.add(&row) {
            keys.insert(row.key, after.clone());
            changes.push(Change { key: row.key, time: after.time, before, after: Some(after) });
        }
    }
    changes
}

/// What a table says whose rows are those of another, or none: a row that stops being there is deleted, one that never was
/// says nothing.
fn told(changes: &[Change], image: impl Fn(&Total) -> Option<Json>) -> Lines {
    let of = |total: &Option<Total>| total.as_ref().and_then(&image);
    let told = changes.iter().filter_map(|Change { key, time, before, after }| {
        let value = match (of(before), of(after)) {
            (_, Some(after)) => after,
            (Some(_), None) => Json::Null,
            (None, None) => return None,
        };
        Some(line(*time, json!({"k": key}), value))
    });
    told.collect()
}

static RETAINED: LazyLock<App> = LazyLock::new(|| {
    app(
        "retained",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        retain   = "8s"
        columns  = { rows = "count(*)", total = "sum(n)" }
        on-error = "ON_ERROR"
        [steps.large]
        op    = "filter"
        from  = "totals"
        where = "total > 3"
        [steps.changes]
        op   = "to-stream"
        from = "totals"
        [steps.large_changes]
        op   = "to-stream"
        from = "large"
        [sinks.all]
        from  = "totals"
        topic = "all"
        [sinks.larges]
        from  = "large"
        topic = "larges"
        [sinks.changed]
        from  = "changes"
        topic = "changed"
        [sinks.large_changed]
        from  = "large_changes"
        topic = "large_changed"
        "#,
        "skip",
    )
});

/// Groups of a table's rows by whether their totals are odd, computed anew after each change.
fn grouped(changes: &[Change]) -> Lines {
    let mut said = Vec::new();
    let mut rows: BTreeMap<&'static str, Total> = BTreeMap::new();
    let mut times: BTreeMap<i64, i64> = BTreeMap::new();
    let group_of = |total: &Total| total.total.unwrap_or(0).rem_euclid(2);
    for Change { key, time, before, after } in changes {
        match after {
            Some(after) => rows.insert(key, after.clone()),
            None => rows.remove(key),
        };
        let mut touched: Vec<i64> = before.iter().chain(after).map(group_of).collect();
        touched.dedup();
        for group in touched {
            let members: Vec<&Total> = rows.values().filter(|total| group_of(total) == group).collect();
            // The row has left its old group before it comes into the new one.
            let time = times.get(&group).map_or(*time, |known| *time.max(known));
            let totals: Vec<i64> = members.iter().filter_map(|total| total.total).collect();
            let value = match members.is_empty() {
                true => Json::Null,
                false => json!({
                    "keys": members.len(),
                    "total": if totals.is_empty() { Json::Null } else { json!(totals.iter().sum::<i64>()) },
                    "least": totals.iter().min(),
                    "largest": totals.iter().max(),
                    "counts": members.iter().map(|total| total.rows).collect::<BTreeSet<_>>().len(),
                    "mean": members.iter().map(|total| total.rows).sum::<i64>() as f64 / members.len() as f64,
                }),
            };
            match members.is_empty() {
                true => times.remove(&group),
                false => times.insert(group, time),
            };
            said.push(line(time, json!({"odd": group}), value));
        }
    }
    said
}

static GROUPED: LazyLock<App> = LazyLock::new(|| {
    app(
        "grouped",
        r#"
        [steps.totals]
        op       = "aggregate"
        from     = "events"
        retain   = "8s"
        columns  = { rows = "count(*)", total = "sum(n)" }
        [steps.groups]
        op       = "aggregate"
        from     = "totals"
        group-by = { odd = "abs(coalesce(total, 0) % 2)" }
        columns  = { keys = "count(*)", total = "sum(total)", least = "min(total)", largest = "max(total)", counts = "count(distinct rows)", mean = "avg(rows)" }
        [steps.changes]
        op   = "to-stream"
        from = "groups"
        [sinks.all]
        from  = "groups"
        topic = "all"
        [sinks.changed]
        from  = "changes"
        topic = "changed"
        "#,
        "skip",
    )
});

/// Tables whose rows may fail, one consumer each, so that nobody else's wants decide what a step is given.
static IMAGES: LazyLock<Vec<(App, &str)>> = LazyLock::new(|| {
    const TOTALS: &str = r#"
        [steps.totals]
        op      = "aggregate"
        from    = "events"
        retain  = "8s"
        columns = { rows = "count(*)", total = "sum(n)" }
    "#;
    const SHARE: &str = r#"
        [steps.share]
        op       = "select"
        from     = "totals"
        columns  = { share = "10 / coalesce(total, 0)" }
        on-error = "ON_ERROR"
    "#;
    // The tensors of the model: its output `log` is the logarithm of `f`.
    const SCORE: &str = r#"
        [models.log]
        path    = "models"
        version = "handmade_types"
        [steps.typed]
        op   = "select"
        from = "events"
        add  = { f = "cast(coalesce(n, 0) as double)", zero = "cast(0 as int)", b = "false" }
        [steps.totals]
        op      = "aggregate"
        from    = "typed"
        retain  = "8s"
        columns = { f = "sum(f)", d = "min(zero)", l = "count(*)", i = "max(zero)", b = "first_value(b)" }
        [steps.score]
        op       = "predict"
        from     = "totals"
        model    = "log"
        inputs   = { f = ["f"], d = ["d"], l = ["l"], i = ["i"], b = ["b"] }
        outputs  = { log = { tensor = "log" } }
        on-error = "ON_ERROR"
    "#;
    let to_stream = |node: &str| {
        format!("[steps.changes]\nop = \"to-stream\"\nfrom = \"{node}\"\n[sinks.out]\nfrom = \"changes\"\n")
    };
    let filtered = |node: &str, condition: &str| {
        format!(
            "[steps.some]\nop = \"filter\"\nfrom = \"{node}\"\nwhere = \"{condition}\"\n{}",
            to_stream("some")
        )
    };
    let by_row = "[sinks.out]\nfrom = \"share\"\ntopic = { expression = \"concat('o', substr('ut', 1, 2 + share * 0))\" }\n";
    let f_only = |then: &str| {
        format!("[steps.f]\nop = \"select\"\nfrom = \"score\"\ncolumns = {{ f = \"f\" }}\n{then}")
    };
    let large = r#"
        [steps.large]
        op       = "filter"
        from     = "totals"
        where    = "10 / coalesce(total, 0) > 1"
        on-error = "ON_ERROR"
        [sinks.out]
        from = "large"
    "#;
    let sink = |node: &str| format!("[sinks.out]\nfrom = \"{node}\"\n");
    let apps = [
        ("share", format!("{TOTALS}{SHARE}{}", sink("share"))),
        ("share, to a stream", format!("{TOTALS}{SHARE}{}", to_stream("share"))),
        ("share, filtered", format!("{TOTALS}{SHARE}{}", filtered("share", "share <> 3"))),
        ("share, to a topic of its own", format!("{TOTALS}{SHARE}{by_row}")),
        ("large", format!("{TOTALS}{large}")),
        ("score", format!("{SCORE}{}", f_only(&sink("f")))),
        ("score, to a stream", format!("{SCORE}{}", f_only(&to_stream("f")))),
        ("score, filtered", format!("{SCORE}{}", f_only(&filtered("f", "f <> 3")))),
    ];
    let apps = apps.into_iter().map(|(name, steps)| (app(name, &steps, "skip"), name));
    apps.collect()
});

/// Every row against every row before it.
fn trailing(inputs: &[Input], grace: i64, include_current: bool) -> Lines {
    const LONGEST: i64 = 12_000;
    let mut said = Vec::new();
    let mut before: Vec<Taken> = Vec::new();
    let mut stream_time = 0;
    for event in events(inputs) {
        let row = match event {
            Event::Row(row) => row,
            Event::Time(time) => {
                stream_time = stream_time.max(time);
                continue;
            }
        };
        stream_time = stream_time.max(row.time);
        // What is older than the grace allows may be gone, and so is gone.
        let over = stream_time - grace - LONGEST;
        let seen = |last: i64| {
            let mut rows: Vec<&Taken> = before
                .iter()
                .filter(|other| {
                    other.key == row.key
                        && other.time <= row.time
                        && other.time > row.time - last
                        && other.time > over
                })
                .collect();
            // Equal times stay in the order in which they came.
            rows.sort_by_key(|row| row.time);
            rows.extend(include_current.then_some(&row));
            rows
        };
        let short = seen(5000);
        let long: Vec<&Taken> =
            seen(LONGEST).into_iter().filter(|row| row.s.is_some_and(|s| s != "q")).collect();
        let numbers: Vec<i64> = long.iter().filter_map(|row| row.n).collect();
        let value = json!({
            "n": row.n,
            "x": row.x,
            "rows": short.len(),
            "first": short.first().and_then(|row| row.x),
            "total": if numbers.is_empty() { Json::Null } else { json!(numbers.iter().sum::<i64>()) },
            "strings": long.iter().filter_map(|row| row.s).collect::<BTreeSet<_>>().len(),
        });
        said.push(line(row.time, json!({"k": row.key}), value));
        before.push(row);
    }
    said
}

static TRAILING: LazyLock<Vec<(i64, bool, App)>> = LazyLock::new(|| {
    let all = [(0, true), (3000, true), (3000, false)].into_iter();
    let app = |grace: i64, include_current: bool| {
        app(
            &format!("grace {grace}, include-current {include_current}"),
            &format!(
                r#"
                [steps.recent]
                op              = "features"
                from            = "events"
                grace           = "{grace}ms"
                include-current = {include_current}
                columns.rows    = {{ value = "count(*)", last = "5s" }}
                columns.first   = {{ value = "first_value(x)", last = "5s" }}
                columns.total   = {{ value = "sum(n)", last = "12s", where = "s <> 'q'" }}
                columns.strings = {{ value = "count(distinct s)", last = "12s", where = "s <> 'q'" }}
                [steps.short]
                op   = "select"
                from = "recent"
                drop = ["s", "l"]
                [sinks.all]
                from  = "short"
                topic = "all"
                "#
            ),
            "skip",
        )
    };
    all.map(|(grace, include_current)| (grace, include_current, app(grace, include_current))).collect()
});

/// Records without numbers so large that sums overflow.
fn small(mut inputs: Vec<Input>) -> Vec<Input> {
    for input in &mut inputs {
        if let Input::Row(Row { value: Some(Columns::Read { n, .. }), .. }) = input {
            *n = n.map(|n| n.min(100));
        }
    }
    inputs
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn tumbling_windows_are_those_of_the_model(inputs in inputs(40), batch in 1..9usize) {
        let said = tumbling(&inputs, 5000, 2000);
        for app in TUMBLING.iter() {
            let is_close = app.name.contains("close");
            let outcome = run(app, &inputs, How { batch: if is_close { batch } else { 1 }, ..ONE_BY_ONE });
            prop_assert_eq!(&lines_of(&outcome, "all"), if is_close { &said.closed } else { &said.updates }, "{}", app.name);
            let late: Vec<i64> = lines_of(&outcome, "late").iter().filter_map(|line| line["timestamp"].as_i64()).collect();
            prop_assert_eq!(&late, &said.late, "{}", app.name);
        }
    }

    #[test]
    fn sessions_are_those_of_the_model(inputs in inputs(40), batch in 1..9usize, restart_every in 1..20usize) {
        let inputs = small(inputs);
        let said = sessions(&inputs, 2000, 3000);
        for app in SESSIONS.iter() {
            let is_close = app.name.contains("close");
            let how = How { batch: if is_close { batch } else { 1 }, restart_every: Some(restart_every), ..ONE_BY_ONE };
            let outcome = run(app, &inputs, how);
            prop_assert_eq!(&lines_of(&outcome, "all"), if is_close { &said.closed } else { &said.updates }, "{}", app.name);
            let late: Vec<i64> = lines_of(&outcome, "late").iter().filter_map(|line| line["timestamp"].as_i64()).collect();
            prop_assert_eq!(&late, &said.late, "{}", app.name);
        }
    }

    #[test]
    fn sliding_windows_are_those_of_the_model(
        inputs in inputs(40), batch in 1..9usize, restart_every in 1..20usize, earlier in 20_000..50_000i64,
    ) {
        let inputs = without_late(&small(inputs), 3000, earlier);
        let said = sliding(&inputs, 5000, 3000);
        for app in SLIDING.iter() {
            let outcome = run(app, &inputs, How { batch, restart_every: Some(restart_every), ..ONE_BY_ONE });
            let lines = lines_of(&outcome, "all");
            if app.name.contains("close") {
                prop_assert_eq!(lines, said.closed.clone());
            } else {
                let newest: BTreeMap<String, &Json> = lines.iter().map(|line| (line["key"].to_string(), line)).collect();
                let expected: BTreeMap<String, &Json> = said.updates.iter().map(|line| (line["key"].to_string(), line)).collect();
                prop_assert_eq!(newest, expected);
            }
            prop_assert!(lines_of(&outcome, "late").is_empty());
        }
    }

    #[test]
    fn retained_rows_are_those_of_the_model(inputs in inputs(40), batch in 1..9usize) {
        let changes = retained(&inputs, 8000);
        let all = told(&changes, |total| Some(total.value()));
        let is_large = |total: &Total| total.total.is_some_and(|total| total > 3);
        let large = told(&changes, |total| is_large(total).then(|| total.value()));
        let single = run(&RETAINED, &inputs, ONE_BY_ONE);
        prop_assert_eq!(&lines_of(&single, "all"), &all);
        prop_assert_eq!(&lines_of(&single, "larges"), &large);
        let batched = run(&RETAINED, &inputs, How { batch, restart_every: Some(11), ..ONE_BY_ONE });
        prop_assert_eq!(&lines_of(&batched, "changed"), &all);
        prop_assert_eq!(&lines_of(&batched, "large_changed"), &large);
    }

    #[test]
    fn groups_of_a_table_are_those_of_the_model(inputs in inputs(40), batch in 1..9usize) {
        // `advance` counts from the newest record of all topics, and in a repartition topic deletes may be newer than inputs.
        let inputs: Vec<Input> = small(inputs).into_iter().filter(|input| matches!(input, Input::Row(_))).collect();
        let expected = grouped(&retained(&inputs, 8000));
        let single = run(&GROUPED, &inputs, ONE_BY_ONE);
        prop_assert_eq!(&lines_of(&single, "all"), &expected);
        let batched = run(&GROUPED, &inputs, How { batch, restart_every: Some(11), fold: true, ..ONE_BY_ONE });
        prop_assert_eq!(&lines_of(&batched, "changed"), &expected);
    }

    /// A row that a step cannot compute is not there: its old one goes, and of a row that never was nothing is said.
    #[test]
    fn rows_that_fail_are_not_there(inputs in inputs(40), batch in 1..9usize) {
        let inputs = small(inputs);
        let changes = retained(&inputs, 8000);
        for (app, name) in IMAGES.iter() {
            let number = |total: &Total| total.total.unwrap_or(0);
            let share = |total: &Total| 10_i64.checked_div(number(total));
            let fails = |total: &Total| match name.starts_with("score") {
                true => number(total) <= 0,
                false => number(total) == 0,
            };
            let image = |total: &Total| match name.split(',').next().unwrap() {
                "share" => Some(json!({"share": share(total)})).filter(|_| !name.ends_with("filtered") || share(total) != Some(3)),
                "large" => share(total).filter(|share| *share > 1).map(|_| total.value()),
                _ => Some(json!({"f": number(total) as f64})).filter(|_| !name.ends_with("filtered") || number(total) != 3),
            };
            let expected = told(&changes, |total| Some(total).filter(|total| !fails(total)).and_then(image));
            // A failure is told when it happens, and not again when the row goes.
            let failures = changes.iter().filter(|change| change.after.as_ref().is_some_and(fails)).count();
            let batched = How { batch, restart_every: Some(11), fold: true, ..ONE_BY_ONE };
            for how in [ONE_BY_ONE, batched] {
                let outcome = run(app, &inputs, how);
                prop_assert_eq!(&lines_of(&outcome, "out"), &expected, "{}, {:?}", name, how);
                prop_assert_eq!(outcome.errors.iter().filter(|error| error.contains("M0801")).count() + failures, outcome.errors.len(), "{}, {:?}", name, how);
            }
        }
    }

    #[test]
    fn features_are_those_of_the_model(inputs in inputs(40), batch in 1..9usize) {
        let inputs = small(inputs);
        for (grace, include_current, app) in TRAILING.iter() {
            let outcome = run(app, &inputs, How { batch, restart_every: Some(13), ..ONE_BY_ONE });
            prop_assert_eq!(lines_of(&outcome, "all"), trailing(&inputs, *grace, *include_current), "{}", app.name);
        }
    }
}
