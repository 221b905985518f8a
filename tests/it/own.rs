//! What a Rust program adds to Millstream: an operator with a state and timers, functions, and tests of topologies that use them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use millstream::arrow::array::{ArrayRef, AsArray};
use millstream::arrow::datatypes::{DataType, Float64Type};
use millstream::datafusion_expr::{
    self as expr, Accumulator, ColumnarValue, ScalarUDF, Volatility, create_udaf, create_udf,
};
use millstream::engine::codec::line::Line;
use millstream::engine::driver::{Driver, DriverOptions, StateLocation};
use millstream::engine::driver::{pipe::LineReader, written::LineWriter};
use millstream::engine::plan::Plan;
use millstream::engine::topology::{Tests, read_with};
use millstream::operators::config::{Field, FieldKind};
use millstream::operators::datum::Datum;
use millstream::operators::operator::{Arity, OperatorSpec, Resolved, Step};
use millstream::operators::processor::{KeyContext, Processor, Row};
use millstream::operators::schema::column;
use millstream::testing::{TestDriver, run_tests};
use millstream::{Registry, operators};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::support::Folder;

/// Counts the rows of a key until `after` has passed since the first, then sends the count; `limit` makes rows fail.
const BURSTS: OperatorSpec = OperatorSpec {
    name: "bursts",
    summary: "Counts the rows of a burst.",
    arity: Arity::One,
    keyed: true,
    fields: &[
        Field { name: "after", kind: FieldKind::Duration, required: true, doc: "The length of a burst." },
        Field { name: "limit", kind: FieldKind::Integer, required: false, doc: "The most rows of a burst." },
    ],
    example: "[steps.b]\nop = \"bursts\"\nfrom = \"clicks\"\nafter = \"10s\"",
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    if !step.fields.has("after") {
        step.fields.missing("after", "after = \"10s\"");
    }
    let after = step.fields.duration("after")?.value;
    let limit = step.fields.integer("limit", 1..=i64::MAX).map(|limit| limit.value);
    let columns = vec![column("clicks", DataType::Int64), column("sum", DataType::Float64)];
    Resolved::of_processor(step, columns, Bursts { after, limit })
}

#[derive(Debug)]
struct Bursts {
    after: i64,
    limit: Option<i64>,
}

impl Processor for Bursts {
    /// How many rows, and the sum of their weights.
    type State = (i64, f64);
    const STATE_VERSION: u32 = 1;

    fn process(&self, row: &Row<'_>, context: &mut KeyContext<'_, Self::State>) -> Result<(), String> {
        let (clicks, sum) = context.state().copied().unwrap_or_default();
        if clicks == 0 {
            context.schedule(row.time() + self.after);
        }
        context.put((clicks + 1, sum + row.float64("weight")?.unwrap_or_default()));
        match self.limit {
            Some(limit) if clicks >= limit => Err(format!("more than {limit} clicks in a burst")),
            _ => Ok(()),
        }
    }

    fn on_timer(&self, _: i64, context: &mut KeyContext<'_, Self::State>) -> Result<(), String> {
        if let Some((clicks, sum)) = context.state().copied() {
            context.forward([Datum::Int64(clicks), Datum::Float64(sum)]);
        }
        context.delete();
        Ok(())
    }
}

/// `clamped(x)`: x between 0 and 10.
fn clamped() -> ScalarUDF {
    let body = |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let values = arrays[0].as_primitive::<Float64Type>();
        Ok(ColumnarValue::Array(Arc::new(values.unary::<_, Float64Type>(|value| value.clamp(0.0, 10.0)))))
    };
    create_udf("clamped", vec![DataType::Float64], DataType::Float64, Volatility::Immutable, Arc::new(body))
}

/// The logarithm of the product.
#[derive(Debug)]
struct LogProduct(f64);

impl Accumulator for LogProduct {
    fn update_batch(&mut self, values: &[ArrayRef]) -> millstream::datafusion_common::Result<()> {
        self.0 += values[0].as_primitive::<Float64Type>().iter().flatten().map(f64::ln).sum::<f64>();
        Ok(())
    }
    fn evaluate(
        &mut self,
    ) -> millstream::datafusion_common::Result<millstream::datafusion_common::ScalarValue> {
        Ok(self.0.into())
    }
    fn size(&self) -> usize {
        size_of::<Self>()
    }
    fn state(
        &mut self,
    ) -> millstream::datafusion_common::Result<Vec<millstream::datafusion_common::ScalarValue>> {
        Ok(vec![self.0.into()])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> millstream::datafusion_common::Result<()> {
        self.0 += states[0].as_primitive::<Float64Type>().iter().flatten().sum::<f64>();
        Ok(())
    }
}

fn log_product() -> expr::AggregateUDF {
    create_udaf(
        "log_product",
        vec![DataType::Float64],
        Arc::new(DataType::Float64),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::new(LogProduct(0.0)))),
        Arc::new(vec![DataType::Float64]),
    )
}

fn registry() -> Registry {
    let registry = Registry::new().with_operator(&BURSTS).unwrap();
    registry.with_scalar_function(clamped()).unwrap().with_aggregate_function(log_product()).unwrap()
}

const TOPOLOGY: &str = r#"
[app]
id = "bursts"

[sources.clicks]
topic    = "clicks"
key      = { user = "string" }
value    = { weight = "float64" }
on-error = "skip"

[steps.b]
op       = "bursts"
from     = "clicks"
after    = "10s"
on-error = "skip"

[sinks.bursts]
from = "b"

[steps.all]
op      = "aggregate"
from    = "clicks"
columns = { product = "log_product(weight)", rough = "approx_median(clamped(weight))" }

[sinks.of_all]
topic = "all"
from = "all"
"#;

#[test]
fn what_cannot_be_told_apart_is_not_added() {
    let refused = |outcome: Result<Registry, millstream::RegistryError>| outcome.unwrap_err().to_string();
    assert_eq!(
        refused(registry().with_operator(&BURSTS)),
        "there is an operator `bursts` already: give yours another name"
    );
    assert_eq!(
        refused(Registry::new().with_operator(&operators::filter::SPEC)),
        "there is an operator `filter` already: give yours another name"
    );
    assert_eq!(
        refused(registry().with_scalar_function(clamped())),
        "there is a function `clamped` already: give yours another name"
    );
    let named = |name, volatility| {
        let body = |arguments: &[ColumnarValue]| Ok(arguments[0].clone());
        create_udf(name, vec![DataType::Int64], DataType::Int64, volatility, Arc::new(body))
    };
    for (name, volatility, said) in [
        ("sum", Volatility::Immutable, "there is a function `sum` already"),
        ("corr", Volatility::Immutable, "there is a function `corr` already"),
        ("median", Volatility::Immutable, "there is a function `median` already"),
        ("upper", Volatility::Immutable, "there is a function `upper` already"),
        ("Mine", Volatility::Immutable, "`Mine` cannot be called in an expression"),
        ("dice", Volatility::Volatile, "`dice` is not immutable"),
    ] {
        let error = refused(Registry::new().with_scalar_function(named(name, volatility)));
        assert!(error.starts_with(said), "{error}");
    }
}

#[test]
fn a_driver_runs_operators_and_functions_of_a_program() {
    let folder = Folder::new();
    let file = folder.write("topology.toml", TOPOLOGY);
    let mut driver = TestDriver::new(&registry(), &file).unwrap();
    let click = |user: &str, weight: f64, at: i64| json!({ "topic": "clicks", "key": { "user": user }, "value": { "weight": weight }, "timestamp": at });
    let of = |lines: Vec<Json>, topic: &str| -> Vec<Json> {
        lines.into_iter().filter(|line| line["topic"] == topic).collect()
    };
    let first = of(driver.pipe(&click("a", 20.0, 1_000)).unwrap(), "all");
    assert_eq!(first[0]["value"], json!({ "product": 20f64.ln(), "rough": 10.0 }));
    driver.pipe(&json!({ "restart": true })).unwrap();
    driver.pipe(&click("a", 2.0, 3_000)).unwrap();
    let due = of(driver.pipe(&click("b", 1.0, 11_000)).unwrap(), "bursts");
    let expected = json!({
        "topic": "bursts", "timestamp": 11_000, "key": { "user": "a" }, "value": { "clicks": 2, "sum": 22.0 },
    });
    assert_eq!(due, [expected]);
    let due = of(driver.pipe(&json!({ "advance": "10s" })).unwrap(), "bursts");
    assert_eq!((due.len(), &due[0]["value"]["clicks"]), (1, &json!(1)));
    let error = driver.pipe(&json!({ "topic": "clocks" })).unwrap_err().to_string();
    assert!(error.contains("no source reads topic `clocks`"), "{error}");
}

#[test]
fn what_is_wrong_with_a_file_or_a_test_is_said() {
    let folder = Folder::new();
    let said =
        |text: String| run_tests(&registry(), folder.write("topology.toml", &text)).unwrap_err().to_string();
    assert!(said(TOPOLOGY.replace("\"10s\"", "\"10 s\"")).contains("M0105"));
    assert!(
        said(TOPOLOGY.replace("op       = \"bursts\"", "op = \"burst\"")).contains("did you mean `bursts`?")
    );
    assert!(
        said(TOPOLOGY.replace("log_product(weight)", "log_product()"))
            .contains("`log_product` does not take ()")
    );
    let plain = run_tests(&Registry::new(), folder.write("topology.toml", TOPOLOGY)).unwrap_err().to_string();
    assert!(
        plain.contains("there is no operator `bursts`") && plain.contains("no function `clamped`"),
        "{plain}"
    );
    let test = |clicks: i64| {
        format!(
            "{TOPOLOGY}\n[[tests]]\nname = \"t\"\ninput = [\n{{ to = \"clicks\", at = \"2026-01-01T00:00:00Z\", key = {{ user = \"a\" }}, value = {{ weight = 1.0 }} }},\n\
             {{ advance = \"10s\" }},\n]\nexpect = [{{ from = \"bursts\", key = {{ user = \"a\" }}, value = {{ clicks = {clicks} }} }}]\n"
        )
    };
    run_tests(&registry(), folder.write("topology.toml", test(1))).unwrap();
    let differs = said(test(2));
    assert!(differs.contains("t:\n") && differs.contains("t (with restarts):\n"), "{differs}");
}

/// A click: user, weight, event time.
type Click = (u8, f64, i64);

/// How a topology is run; the results must not depend on it.
#[derive(Clone, Debug)]
struct How {
    batch: usize,
    restart: bool,
    spilled: bool,
    partitions: u32,
}

fn run(text: &str, clicks: &[Click], how: &How) -> Vec<Json> {
    let environment = |_: &str| None;
    let (topology, findings) = read_with(&registry(), text, Path::new("."), &environment, Tests::Leave);
    let topology = Arc::new(topology.unwrap_or_else(|| panic!("{findings:?}")));
    let plan = Arc::new(Plan::new(&topology).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let state = StateLocation { directory: folder.path().join("state"), memory: 1 << 20 };
    let options = DriverOptions {
        partitions: how.partitions,
        state: how.spilled.then_some(state),
        fold: how.batch > 1,
    };
    let mut reader = LineReader::new(&topology).unwrap();
    let mut writer = LineWriter::new(&topology, false).unwrap();
    let mut driver = Driver::new(topology, plan, options).unwrap();
    let mut written = Vec::new();
    for clicks in clicks.chunks(how.batch) {
        let records = clicks.iter().map(|(user, weight, at)| {
            let key = json!({ "user": user.to_string() });
            let line =
                json!({ "topic": "clicks", "key": key, "value": { "weight": weight }, "timestamp": at });
            let text = line.to_string();
            let Line::Record(record) = Line::parse(&text).unwrap() else { unreachable!() };
            reader.record(&record).unwrap()
        });
        written.extend(driver.run(records.collect()).unwrap().written);
        driver.commit().unwrap();
        if how.restart {
            driver.restart().unwrap();
        }
    }
    written.extend(driver.finish().unwrap().written);
    let lines = writer.lines(&written).unwrap();
    let lines = lines.iter().map(|line| serde_json::from_slice(line).unwrap());
    lines.filter(|line: &Json| line["topic"] == "bursts").collect()
}

/// The bursts as their definition has them, in the order in which they end: time, user, clicks, sum.
fn model(clicks: &[Click], limit: i64) -> Vec<(i64, u8, i64, f64)> {
    let mut open: BTreeMap<u8, (i64, i64, f64)> = BTreeMap::new();
    let mut done = Vec::new();
    let mut close = |open: &mut BTreeMap<u8, (i64, i64, f64)>, time: i64| {
        let mut due: Vec<(i64, u8)> = open.iter().map(|(user, burst)| (burst.0, *user)).collect();
        due.retain(|(end, _)| *end <= time);
        due.sort_unstable();
        for (end, user) in due {
            let (_, clicks, sum) = open.remove(&user).unwrap();
            done.push((end, user, clicks, sum));
        }
    };
    let mut stream_time = i64::MIN;
    for (user, weight, at) in clicks {
        stream_time = stream_time.max(*at);
        close(&mut open, stream_time);
        let burst = open.entry(*user).or_insert((at + 10_000, 0, 0.0));
        if burst.1 < limit {
            burst.1 += 1;
            burst.2 += weight;
        }
        close(&mut open, stream_time);
    }
    close(&mut open, i64::MAX);
    done
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Late rows, timers that are due when they are set, and rows that fail among them.
    #[test]
    fn a_processor_does_the_same_however_it_is_run(
        clicks in proptest::collection::vec((0u8..4, (0i32..8).prop_map(f64::from), 0i64..40_000), 1..40),
        batch in 1usize..8,
        restart in any::<bool>(),
        spilled in any::<bool>(),
    ) {
        let text = TOPOLOGY.replace("after    = \"10s\"", "after    = \"10s\"\nlimit    = 3");
        let expected: Vec<Json> = model(&clicks, 3)
            .into_iter()
            .map(|(time, user, clicks, sum)| json!({
                "topic": "bursts", "timestamp": time, "key": { "user": user.to_string() },
                "value": { "clicks": clicks, "sum": sum },
            }))
            .collect();
        let how = How { batch, restart, spilled, partitions: 1 };
        prop_assert_eq!(run(&text, &clicks, &how), expected);
        // Of several partitions each has a stream time of its own; in one partition's rows nothing differs between runs.
        let partitioned = |batch: usize, restart: bool| {
            let mut lines = run(&text, &clicks, &How { batch, restart, spilled: false, partitions: 4 });
            lines.sort_by_key(ToString::to_string);
            lines
        };
        prop_assert_eq!(partitioned(batch, restart), partitioned(1, false));
    }
}
