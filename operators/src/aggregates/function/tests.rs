use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::array_value_to_string;
use datafusion_common::{Result as PlanResult, ScalarValue, exec_err};
use datafusion_expr::{Accumulator, Volatility, create_udaf};
use proptest::prelude::*;

use super::super::{AggregatePlan, GroupState};
use super::DATAFUSION;
use crate::datum::Datum;
use crate::diagnostic::Code;
use crate::schema::{Kind, Schema, column};
use crate::sql::{Functions, Scope, SqlError};

#[derive(Clone, Debug)]
struct Row {
    x: Option<f64>,
    y: Option<f64>,
    n: Option<i64>,
    s: Option<String>,
    ok: Option<bool>,
}

fn any_row() -> impl Strategy<Value = Row> {
    let number = || proptest::option::weighted(0.9, -1000.0..1000.0f64);
    let text = proptest::option::weighted(0.9, "[a-e]{1,3}");
    let (n, ok) =
        (proptest::option::weighted(0.9, -50i64..50), proptest::option::weighted(0.9, any::<bool>()));
    (number(), number(), n, text, ok).prop_map(|(x, y, n, s, ok)| Row { x, y, n, s, ok })
}

fn schema() -> Schema {
    let columns = vec![
        column("x", DataType::Float64),
        column("y", DataType::Float64),
        column("n", DataType::Int64),
        column("s", DataType::Utf8),
        column("ok", DataType::Boolean),
    ];
    Schema::new(Kind::Stream, Vec::new(), columns)
}

fn batch(rows: &[Row]) -> RecordBatch {
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.x).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.y).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.n).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.s.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.ok).collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(schema().columns, arrays).unwrap()
}

fn compiled(functions: &Arc<Functions>, sqls: &[&str]) -> Result<AggregatePlan, Vec<(usize, SqlError)>> {
    let columns: Vec<(&str, &str)> = sqls.iter().map(|sql| ("c", *sql)).collect();
    AggregatePlan::compile(&columns, &Scope::new(functions, &[("rows", &schema())]))
}

fn plan(sqls: &[&str]) -> AggregatePlan {
    compiled(&Functions::built_in(), sqls).unwrap()
}

fn results(plan: &AggregatePlan, state: &GroupState) -> Vec<ArrayRef> {
    let mut results = plan.results();
    results.push(state);
    let (arrays, errors) = results.finish();
    assert_eq!(errors, []);
    arrays
}

fn numbers(plan: &AggregatePlan, state: &GroupState) -> Vec<Option<f64>> {
    let number = |array: &ArrayRef| {
        let array = arrow::compute::cast(array, &DataType::Float64).unwrap();
        array.is_valid(0).then(|| array.as_primitive::<Float64Type>().value(0))
    };
    results(plan, state).iter().map(number).collect()
}

fn stored(plan: &AggregatePlan, state: &GroupState) -> GroupState {
    let mut bytes = Vec::new();
    plan.write(state, &mut bytes);
    plan.read(&bytes).unwrap()
}

/// Adds rows in one of the ways in which operators do.
fn add(plan: &AggregatePlan, rows: &[Row], way: u8) -> GroupState {
    let arguments = plan.prepare(&batch(rows));
    let mut state = plan.new_state();
    match way {
        // Out of what windows keep of rows.
        0 => {
            let cells: Vec<Datum> = (0..rows.len()).flat_map(|row| arguments.row(row)).collect();
            if plan.value_count() > 0 {
                plan.update_rows(&mut state, &cells, plan.value_count()).unwrap();
            }
        }
        _ => {
            for row in 0..rows.len() {
                plan.update(&mut state, &arguments, row).unwrap();
                if way == 1 {
                    state = stored(plan, &state);
                }
            }
        }
    }
    state
}

/// How far `found` is from being the value at `quantile`, as a part of all values.
fn rank_error(values: &[f64], found: f64, quantile: f64) -> f64 {
    let below = values.iter().filter(|value| **value < found).count() as f64;
    let upto = values.iter().filter(|value| **value <= found).count() as f64;
    let wanted = quantile * values.len() as f64;
    (below - wanted).max(wanted - upto).max(0.0) / values.len() as f64
}

fn close(found: Option<f64>, expected: f64) -> bool {
    found.is_some_and(|found| (found - expected).abs() <= 1e-6 * expected.abs().max(1.0))
}

proptest! {
    #[test]
    fn functions_give_about_what_they_approximate(
        rows in proptest::collection::vec(any_row(), 0..150),
        ways in proptest::collection::vec(0u8..3, 1..5),
    ) {
        let plan = plan(&[
            "approx_distinct(n)", "approx_distinct(s)", "approx_median(x)", "approx_percentile_cont(x, 0.9)",
            "corr(x, y)", "covar_pop(x, y)", "regr_slope(y, x)", "regr_count(y, x)", "bit_xor(n)", "bool_and(ok)",
            "approx_distinct(s) filter (where ok)",
        ]);
        // In parts, each in its own way, that are put together.
        let mut state = plan.new_state();
        for (part, way) in rows.chunks(rows.len().div_ceil(ways.len()).max(1)).zip(&ways) {
            plan.merge(&mut state, &add(&plan, part, *way)).unwrap();
            state = stored(&plan, &state);
        }
        let found = numbers(&plan, &state);
        prop_assert_eq!(&numbers(&plan, &state.clone()), &found);

        let distinct = |values: BTreeSet<String>| values.len() as f64;
        let text = |row: &Row| row.s.clone();
        let all = [
            (found[0], distinct(rows.iter().filter_map(|row| row.n.map(|n| n.to_string())).collect())),
            (found[1], distinct(rows.iter().filter_map(text).collect())),
            (found[10], distinct(rows.iter().filter(|row| row.ok == Some(true)).filter_map(text).collect())),
        ];
        for (found, expected) in all {
            // Of few values two may share one of the sketch's 16,384 registers.
            let error = (found.unwrap() - expected).abs();
            prop_assert!(error <= (0.03 * expected).max(2.0), "{found:?} {expected}");
        }

        let xs: Vec<f64> = rows.iter().filter_map(|row| row.x).collect();
        for (found, quantile) in [(found[2], 0.5), (found[3], 0.9)] {
            prop_assert_eq!(found.is_some(), !xs.is_empty());
            let error = found.map_or(0.0, |found| rank_error(&xs, found, quantile));
            prop_assert!(error <= 0.03 + 1.0 / xs.len().max(1) as f64, "{error} {quantile} of {xs:?}");
        }

        let pairs: Vec<(f64, f64)> = rows.iter().filter_map(|row| Some((row.x?, row.y?))).collect();
        let n = pairs.len() as f64;
        prop_assert!(close(found[7], n));
        let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / n;
        let (mean_x, mean_y) = (mean(|pair| pair.0), mean(|pair| pair.1));
        let sum = |of: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|(x, y)| of(x - mean_x, y - mean_y)).sum::<f64>();
        let (sxx, syy, sxy) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
        if pairs.len() > 1 && sxx > 1e-3 && syy > 1e-3 {
            prop_assert!(close(found[4], sxy / (sxx * syy).sqrt()), "{:?}", found[4]);
            prop_assert!(close(found[5], sxy / n), "{:?} {}", found[5], sxy / n);
            prop_assert!(close(found[6], sxy / sxx), "{:?} {}", found[6], sxy / sxx);
        }

        let xor = rows.iter().filter_map(|row| row.n).reduce(|one, other| one ^ other);
        prop_assert_eq!(found[8], xor.map(|xor| xor as f64));
        let oks: Vec<bool> = rows.iter().filter_map(|row| row.ok).collect();
        let all_ok = (!oks.is_empty()).then(|| f64::from(u8::from(oks.iter().all(|ok| *ok))));
        prop_assert_eq!(found[9], all_ok);
    }

    #[test]
    fn damaged_states_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let plan = plan(&["approx_median(x)", "corr(x, y)"]);
        let _ = plan.read(&[&[super::super::LAYOUT], bytes.as_slice()].concat());
    }
}

/// Multiplies numbers above zero; others make it fail.
#[derive(Debug)]
struct Product(f64);

impl Accumulator for Product {
    fn update_batch(&mut self, values: &[ArrayRef]) -> PlanResult<()> {
        for value in values[0].as_primitive::<Float64Type>().iter().flatten() {
            // Also what fails leaves its trace: whoever calls has to undo it.
            self.0 *= value;
            if value <= 0.0 {
                return exec_err!("{value} is not above zero");
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> PlanResult<ScalarValue> {
        Ok(ScalarValue::Float64(Some(self.0)))
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> PlanResult<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Float64(Some(self.0))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> PlanResult<()> {
        self.update_batch(states)
    }
}

fn with_product() -> Arc<Functions> {
    let product = create_udaf(
        "product",
        vec![DataType::Float64],
        Arc::new(DataType::Float64),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::new(Product(1.0)))),
        Arc::new(vec![DataType::Float64]),
    );
    let mut functions = Functions::built_in().as_ref().clone();
    functions.add_aggregate(product).unwrap();
    Arc::new(functions)
}

#[test]
fn a_row_that_fails_in_a_users_function_leaves_no_trace() {
    let plan =
        compiled(&with_product(), &["product(x)", "product(y)", "count(*)", "product(n) * 2"]).unwrap();
    let row = |x: f64, y: f64| Row { x: Some(x), y: Some(y), n: Some(3), s: None, ok: None };
    let rows = [row(2.0, 3.0), row(5.0, -1.0), row(0.5, 7.0)];
    let arguments = plan.prepare(&batch(&rows));
    let mut state = plan.new_state();
    plan.update(&mut state, &arguments, 0).unwrap();
    let refused = (Code::RecordExpression, "in `product(y)`: -1 is not above zero".to_owned());
    assert_eq!(plan.check(&state, &arguments, 1), Err(refused.clone()));
    assert_eq!(plan.update(&mut state, &arguments, 1), Err(refused));
    plan.update(&mut state, &arguments, 2).unwrap();
    assert_eq!(numbers(&plan, &stored(&plan, &state)), [Some(1.0), Some(21.0), Some(2.0), Some(18.0)]);
    assert!(!plan.updates_cannot_fail() && !plan.results_cannot_fail());
}

#[test]
fn what_a_function_does_not_take_is_said() {
    let said = |sql: &str| {
        let errors = compiled(&with_product(), &[sql]).unwrap_err();
        (errors[0].1.code, errors[0].1.message.clone())
    };
    let arguments = |message: &str| (Code::SqlArguments, message.to_owned());
    assert_eq!(said("corr(x)"), arguments("`corr` does not take (float64)"));
    assert_eq!(said("corr(x, s)"), arguments("`corr` does not take (float64, string)"));
    assert_eq!(said("product(s)"), arguments("`product` does not take (string)"));
    let (code, message) = said("approx_percentile_cont(x, 90)");
    assert_eq!(code, Code::SqlArguments);
    assert!(message.contains("between 0.0 and 1.0"), "{message}");
    assert_eq!(said("corr(distinct x, y)").0, Code::SqlNotAllowed);
    assert_eq!(said("nth_value(x, 1)").0, Code::SqlUnknownAggregate);
    let scope = Scope::new(&with_product(), &[("rows", &schema())]);
    let over_table = AggregatePlan::compile_net(&[("c", "product(x)")], &scope).unwrap_err();
    assert_eq!(over_table[0].1.code, Code::SqlNotAllowed);
}

#[test]
fn what_remembers_every_value_is_exact_and_needs_a_window() {
    let plan = plan(&["array_agg(n)", "median(x)", "string_agg(s, '-')", "percentile_cont(x, 0.25)"]);
    assert_eq!(plan.needs_window(), Some(0));
    let row = |n: i64, s: &str| Row {
        x: Some(n as f64),
        y: None,
        n: (n != 2).then_some(n),
        s: Some(s.to_owned()),
        ok: None,
    };
    let rows = [row(3, "c"), row(1, "a"), row(2, "b"), row(10, "d")];
    for way in 0..3 {
        let mut state = add(&plan, &rows[..1], way);
        plan.merge(&mut state, &add(&plan, &rows[1..], way)).unwrap();
        let found = results(&plan, &state);
        let found: Vec<String> = found.iter().map(|array| array_value_to_string(array, 0).unwrap()).collect();
        assert_eq!(found, ["[3, 1, , 10]", "2.5", "c-a-b-d", "1.75"]);
    }
}

#[test]
fn equal_calls_are_shared_and_states_name_what_reads_them() {
    let one = plan(&["approx_distinct(s)", "approx_distinct(rows.s) + 1", "approx_percentile_cont(x, 0.5)"]);
    assert_eq!(one.new_state().functions.len(), 2);
    // A constant is not kept with each row.
    assert_eq!(one.value_types(), [DataType::Utf8, DataType::Float64]);
    assert!(one.fingerprint().contains(DATAFUSION), "{}", one.fingerprint());
    assert_ne!(
        plan(&["approx_percentile_cont(x, 0.5)"]).fingerprint(),
        plan(&["approx_percentile_cont(x, 0.6)"]).fingerprint()
    );
    let mixed = plan(&["corr(x, y)", "count(*)", "max(x)"]);
    let rows = [1.0, 2.0].map(|x| Row { x: Some(x), y: Some(-x), n: None, s: None, ok: None });
    let found = results(&mixed, &add(&mixed, &rows, 1));
    let found: Vec<String> = found.iter().map(|array| array_value_to_string(array, 0).unwrap()).collect();
    assert_eq!(found[1..], ["2", "2.0"]);
}

/// The version in fingerprints is that of the crate.
#[test]
fn the_version_is_that_of_the_lock_file() {
    let lock = include_str!("../../../../Cargo.lock");
    let version = lock.split("name = \"datafusion-functions-aggregate\"\nversion = \"").nth(1).unwrap();
    let version = version.split('"').next().unwrap();
    assert!(version.starts_with(DATAFUSION.strip_prefix("DataFusion ").unwrap()), "{version}");
}
