use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::DataType;
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;

use super::*;
use crate::datum::{Datum, read_values};
use crate::schema::{Kind as NodeKind, Schema, column};
use crate::sql::Functions;

fn schema() -> Schema {
    Schema::new(
        NodeKind::Stream,
        vec![column("k", DataType::Utf8)],
        vec![
            column("a", DataType::Int64),
            column("i", DataType::Int32),
            column("x", DataType::Float64),
            column("f", DataType::Float32),
            column("d", DataType::Decimal128(10, 2)),
            column("s", DataType::Utf8),
            column("raw", DataType::Binary),
            column("ok", DataType::Boolean),
            column("day", DataType::Date32),
            column("at", crate::schema::TIMESTAMP),
            column(
                "p",
                DataType::List(Arc::new(arrow::datatypes::Field::new("item", DataType::Float32, true))),
            ),
        ],
    )
}

/// A row of the columns that the values of a test need; the others are derived from them or null.
#[derive(Clone, Debug, Default)]
struct Row {
    a: Option<i64>,
    x: Option<f64>,
    d: Option<i128>,
    s: Option<String>,
    ok: Option<bool>,
}

fn batch(rows: &[Row]) -> RecordBatch {
    let schema = schema();
    let all = |data_type: &DataType, name: &str| -> ArrayRef {
        let a = || rows.iter().map(|row| row.a);
        match name {
            "a" => Arc::new(a().collect::<Int64Array>()),
            "i" => Arc::new(a().map(|a| a.map(|a| a as i32)).collect::<arrow::array::Int32Array>()),
            "x" => Arc::new(rows.iter().map(|row| row.x).collect::<Float64Array>()),
            "f" => Arc::new(
                rows.iter().map(|row| row.x.map(|x| x as f32)).collect::<arrow::array::Float32Array>(),
            ),
            "d" => {
                let values = rows.iter().map(|row| row.d).collect::<Decimal128Array>();
                Arc::new(values.with_precision_and_scale(10, 2).unwrap())
            }
            "s" => Arc::new(rows.iter().map(|row| row.s.clone()).collect::<StringArray>()),
            "raw" => {
                let values: Vec<Option<&[u8]>> =
                    rows.iter().map(|row| row.s.as_deref().map(str::as_bytes)).collect();
                Arc::new(arrow::array::BinaryArray::from(values))
            }
            "ok" => Arc::new(rows.iter().map(|row| row.ok).collect::<BooleanArray>()),
            "day" => Arc::new(a().map(|a| a.map(|a| a as i32)).collect::<arrow::array::Date32Array>()),
            "at" => Arc::new(a().collect::<arrow::array::TimestampMillisecondArray>()),
            _ => new_null_array(data_type, rows.len()),
        }
    };
    let fields = schema.columns.fields();
    let arrays = fields.iter().map(|field| all(field.data_type(), field.name())).collect();
    RecordBatch::try_new(schema.columns.clone(), arrays).unwrap()
}

fn plan(columns: &[&str]) -> AggregatePlan {
    let columns: Vec<(&str, &str)> = columns.iter().map(|sql| ("c", *sql)).collect();
    AggregatePlan::compile(&columns, &Scope::new(&Functions::built_in(), &[("events", &schema())]))
        .unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn net_plan(columns: &[&str]) -> AggregatePlan {
    let columns: Vec<(&str, &str)> = columns.iter().map(|sql| ("c", *sql)).collect();
    AggregatePlan::compile_net(&columns, &Scope::new(&Functions::built_in(), &[("events", &schema())]))
        .unwrap()
}

fn fold(plan: &AggregatePlan, rows: &[Row]) -> GroupState {
    let arguments = plan.prepare(&batch(rows));
    assert_eq!(arguments.errors(), []);
    let mut state = plan.new_state();
    for row in 0..rows.len() {
        plan.update(&mut state, &arguments, row).unwrap();
    }
    state
}

/// The results of a group as text, `null` and `!` (an error) included.
fn results(plan: &AggregatePlan, state: &GroupState) -> Vec<String> {
    let mut builder = plan.results();
    builder.push(state);
    let (arrays, errors) = builder.finish();
    let types: Vec<DataType> = plan.output().into_iter().map(|(_, data_type)| data_type).collect();
    assert_eq!(arrays.iter().map(|array| array.data_type().clone()).collect::<Vec<_>>(), types);
    if !errors.is_empty() {
        return vec!["!".to_owned()];
    }
    let text = |array: &ArrayRef| match array.is_null(0) {
        true => "null".to_owned(),
        false => array_value_to_string(array, 0).unwrap(),
    };
    arrays.iter().map(text).collect()
}

fn bytes(plan: &AggregatePlan, state: &GroupState) -> Vec<u8> {
    let mut bytes = Vec::new();
    plan.write(state, &mut bytes);
    bytes
}

fn some_rows() -> Vec<Row> {
    let row = |a: Option<i64>, x: Option<f64>, s: Option<&str>, ok: Option<bool>| Row {
        a,
        x,
        d: a.map(|a| i128::from(a) * 101),
        s: s.map(str::to_owned),
        ok,
    };
    vec![
        row(Some(4), Some(1.5), Some("b"), Some(true)),
        row(None, None, None, None),
        row(Some(-1), Some(-0.5), Some("a"), Some(false)),
        row(Some(4), Some(2.0), Some("ä"), Some(true)),
        row(Some(1), None, Some("b"), None),
    ]
}

#[test]
fn aggregates_give_values() {
    let table = [
        ("count(*)", "int64", "5"),
        ("count(a)", "int64", "4"),
        ("count(1)", "int64", "5"),
        ("count(distinct a)", "int64", "3"),
        ("count(distinct s)", "int64", "3"),
        ("sum(a)", "int64", "8"),
        ("sum(i)", "int64", "8"),
        ("sum(x)", "float64", "3.0"),
        ("sum(f)", "float64", "3.0"),
        ("sum(d)", "decimal(38,2)", "8.08"),
        ("avg(a)", "float64", "2.0"),
        ("mean(x)", "float64", "1.0"),
        ("avg(d)", "decimal(14,6)", "2.020000"),
        ("min(a)", "int64", "-1"),
        ("max(i)", "int32", "4"),
        ("min(x)", "float64", "-0.5"),
        ("max(f)", "float32", "2.0"),
        ("max(d)", "decimal(10,2)", "4.04"),
        ("min(s)", "string", "a"),
        ("max(s)", "string", "ä"),
        ("max(raw)", "bytes", "c3a4"),
        ("min(ok)", "bool", "false"),
        ("max(day)", "date", "1970-01-05"),
        ("max(at)", "timestamp", "1970-01-01T00:00:00.004"),
        ("var(a)", "float64", "6.0"),
        ("var_pop(a)", "float64", "4.5"),
        ("stddev_pop(d)", "float64", "2.1425"),
        ("first_value(a)", "int64", "4"),
        ("last_value(x)", "float64", "null"),
        ("last_value(x) ignore nulls", "float64", "2.0"),
        ("last_value(x ignore nulls)", "float64", "2.0"),
        ("first_value(p)", "list<float32>", "null"),
        ("count(*) filter (where ok)", "int64", "2"),
        ("sum(a) filter (where not ok)", "int64", "-1"),
        ("min(s) filter (where a > 100)", "string", "null"),
        ("SUM(a) / COUNT(*)", "int64", "1"),
        ("(sum(x) / sum(a)) + 1", "float64", "1.375"),
        ("case when count(*) > 3 then 'many' else 'few' end", "string", "many"),
        ("coalesce(sum(a) filter (where a > 100), 0)", "int64", "0"),
        ("max(at) - min(at) > interval '1 second'", "bool", "false"),
        ("10 * sum(a * 2)", "int64", "160"),
    ];
    for (sql, data_type, expected) in table {
        let plan = plan(&[sql]);
        assert_eq!(type_name(&plan.output()[0].1), data_type, "{sql}");
        let result = &results(&plan, &fold(&plan, &some_rows()))[0];
        match expected.contains('.').then(|| (result.parse::<f64>(), expected.parse::<f64>())) {
            Some((Ok(result), Ok(expected))) => assert!((result - expected).abs() < 1e-4, "{sql}: {result}"),
            _ => assert_eq!(result, expected, "{sql}"),
        }
    }
}

#[test]
fn nothing_counts_zero_and_sums_to_null() {
    let plan = plan(&[
        "count(*)",
        "count(a)",
        "count(distinct a)",
        "sum(a)",
        "avg(x)",
        "max(s)",
        "stddev(x)",
        "last_value(a)",
    ]);
    let expected = ["0", "0", "0", "null", "null", "null", "null", "null"];
    assert_eq!(results(&plan, &plan.new_state()), expected);
    let nulls = results(&plan, &fold(&plan, &[Row::default()]));
    assert_eq!(nulls, ["1", "0", "0", "null", "null", "null", "null", "null"]);
    // The sample variance of one value has no meaning, that of the population is zero.
    let plan = self::plan(&["var(x)", "var_pop(x)"]);
    assert_eq!(results(&plan, &fold(&plan, &[Row { x: Some(3.0), ..Row::default() }])), ["null", "0.0"]);
}

#[test]
fn floats_have_one_order() {
    let row = |x: f64| Row { x: Some(x), ..Row::default() };
    let plan = plan(&["min(x)", "max(x)", "count(distinct x)"]);
    let rows = [
        row(-0.0),
        row(f64::NAN),
        row(0.0),
        row(f64::from_bits(f64::NAN.to_bits() | 1 << 63)),
        row(f64::INFINITY),
    ];
    assert_eq!(results(&plan, &fold(&plan, &rows)), ["-0.0", "NaN", "3"]);
}

#[test]
fn an_overflow_leaves_everything_as_it_was() {
    let plan = plan(&["count(*)", "sum(a)", "last_value(a)", "sum(x)"]);
    let mut state = fold(&plan, &[Row { a: Some(i64::MAX), x: Some(1.0), ..Row::default() }]);
    let before = bytes(&plan, &state);
    let arguments = plan.prepare(&batch(&[Row { a: Some(1), x: Some(1.0), ..Row::default() }]));
    let error = plan.update(&mut state, &arguments, 0).unwrap_err();
    assert_eq!(error, (Code::RecordOverflow, "`sum(a)` leaves the range of int64".to_owned()));
    assert_eq!(bytes(&plan, &state), before);
    let stored: Vec<Datum> = arguments.row(0).collect();
    let outcome = plan.update_rows(&mut state.clone(), &stored, stored.len());
    assert_eq!(outcome.unwrap_err(), error);
    // A row that a filter keeps out cannot overflow.
    let filtered = self::plan(&["sum(a) filter (where ok)"]);
    let mut state = fold(&filtered, &[Row { a: Some(i64::MAX), ok: Some(true), ..Row::default() }]);
    let arguments = filtered.prepare(&batch(&[Row { a: Some(1), ..Row::default() }]));
    filtered.update(&mut state, &arguments, 0).unwrap();
    // Decimals have 38 digits.
    let decimals = self::plan(&["sum(cast(d as decimal(38,2)))"]);
    let huge = "sum(cast('99999999999999999999999999999999999999' as decimal(38,0)))";
    assert_eq!(results(&decimals, &fold(&decimals, &some_rows())), ["8.08"]);
    let huge = self::plan(&[huge]);
    let arguments = huge.prepare(&batch(&[Row::default(), Row::default()]));
    let mut state = huge.new_state();
    huge.update(&mut state, &arguments, 0).unwrap();
    assert_eq!(huge.update(&mut state, &arguments, 1).unwrap_err().0, Code::RecordOverflow);
    // An average does not overflow where the sum would.
    let average = self::plan(&["avg(a)"]);
    let row = Row { a: Some(i64::MAX), ..Row::default() };
    assert_eq!(results(&average, &fold(&average, &[row.clone(), row])), ["9.223372036854776e18"]);
}

#[test]
fn decimal_averages_are_rounded() {
    let plan = plan(&["avg(d)"]);
    let average = |values: &[i128]| {
        let rows: Vec<Row> = values.iter().map(|d| Row { d: Some(*d), ..Row::default() }).collect();
        results(&plan, &fold(&plan, &rows)).remove(0)
    };
    assert_eq!(average(&[100, 200, 200]), "1.666667");
    assert_eq!(average(&[-100, -200, -200]), "-1.666667");
    assert_eq!(average(&[100, 100, 200]), "1.333333");
    assert_eq!(average(&[-1, 0, 0]), "-0.003333");
}

#[test]
fn errors_of_arguments_are_errors_of_rows() {
    let rows = [
        Row { a: Some(0), ok: Some(true), ..Row::default() },
        Row { a: Some(0), ..Row::default() },
        Row::default(),
    ];
    let arguments = plan(&["sum(10 / a)", "count(*)"]).prepare(&batch(&rows));
    let failed: Vec<(usize, &str)> =
        arguments.errors().iter().map(|(row, _, message)| (*row, message.as_str())).collect();
    assert_eq!(failed, [(0, "in `10 / a`: division by zero"), (1, "in `10 / a`: division by zero")]);
    // What a filter keeps out is not computed.
    let arguments = plan(&["sum(10 / a) filter (where a <> 0)"]).prepare(&batch(&rows));
    assert_eq!(arguments.errors(), []);
    let arguments = plan(&["sum(10 / a) filter (where ok)"]).prepare(&batch(&rows));
    assert_eq!(arguments.errors().len(), 1);
    assert_eq!((arguments.included(0, 0), arguments.included(0, 1)), (true, false));
    let arguments = plan(&["count(*) filter (where 10 / a > 1)"]).prepare(&batch(&rows));
    assert_eq!(arguments.errors().len(), 2);
    // An expression over aggregates fails for its group only.
    let plan = plan(&["sum(a) / count(a)"]);
    let mut results = plan.results();
    results.push(&fold(&plan, &some_rows()));
    results.push(&plan.new_state());
    results.push_null();
    results.push(&fold(&plan, &some_rows()));
    let (arrays, errors) = results.finish();
    assert_eq!(array_value_to_string(&arrays[0], 3).unwrap(), "2");
    // null / 0: SQL's null comes first.
    assert_eq!(errors, []);
    assert!(arrays[0].is_null(1) && arrays[0].is_null(2));
}

#[test]
fn rows_without_a_group_are_null() {
    let plan = plan(&["count(*)", "coalesce(sum(a), 0)", "1 / count(*)"]);
    let mut results = plan.results();
    results.push_null();
    results.push(&plan.new_state());
    let (arrays, errors) = results.finish();
    assert!(arrays.iter().all(|array| array.is_null(0)));
    assert_eq!(array_value_to_string(&arrays[1], 1).unwrap(), "0");
    assert_eq!(errors.len(), 1);
    assert_eq!((errors[0].0, errors[0].2.as_str()), (1, "in `1 / count(*)`: division by zero"));
}

#[test]
fn what_cannot_be_taken_back_is_not_offered() {
    let scope = Scope::new(&Functions::built_in(), &[("events", &schema())]);
    for sql in ["first_value(a)", "1 + last_value(s)"] {
        let errors = AggregatePlan::compile_net(&[("c", sql)], &scope).unwrap_err();
        assert_eq!((errors[0].0, errors[0].1.code), (0, Code::SqlNotAllowed), "{errors:?}");
    }
}

/// A net sum may leave its range and come back.
#[test]
fn net_sums_fail_only_while_they_do_not_fit() {
    let plan = net_plan(&["sum(a)", "sum(d)"]);
    let rows = [i64::MAX, 1, i64::MAX].map(|a| Row { a: Some(a), d: Some(9_999_999_999), ..Row::default() });
    let arguments = plan.prepare(&batch(&rows));
    let mut state = plan.new_state();
    for row in 0..3 {
        plan.update(&mut state, &arguments, row).unwrap();
    }
    assert!(plan.result_error(&state).is_some());
    plan.take_back(&mut state, &arguments, 0);
    assert!(plan.result_error(&state).is_some());
    plan.take_back(&mut state, &arguments, 1);
    assert_eq!(results(&plan, &state), [i64::MAX.to_string(), "99999999.99".to_owned()]);
    plan.take_back(&mut state, &arguments, 2);
    assert_eq!(results(&plan, &state), ["null", "null"]);
}

#[test]
fn a_merge_that_overflows_is_an_error() {
    let plan = plan(&["sum(a)"]);
    let of = |a: i64| fold(&plan, &[Row { a: Some(a), ..Row::default() }]);
    let (code, message) = plan.merge(&mut of(i64::MAX), &of(1)).unwrap_err();
    assert_eq!((code, message.as_str()), (Code::RecordOverflow, "`sum(a)` leaves the range of int64"));
}

#[test]
fn equal_calls_are_shared() {
    let one = plan(&["sum(a)", "count(*)", "sum(a) / count(*)", "sum(events.a) + sum(i)"]);
    assert_eq!(one.new_state().calls.len(), 3);
    assert_eq!(one.value_types(), [DataType::Int64, DataType::Int32]);
    let filtered = plan(&["sum(a) filter (where ok)", "count(*) filter (where ok)", "sum(a)"]);
    assert_eq!(filtered.value_types(), [DataType::Int64, DataType::Boolean]);
    assert_eq!(plan(&["sum(events.a)"]).fingerprint(), plan(&["SUM( a )"]).fingerprint());
    for other in ["sum(i)", "avg(a)", "sum(a) filter (where ok)", "sum(a + 0)"] {
        assert_ne!(plan(&["sum(a)"]).fingerprint(), plan(&[other]).fingerprint(), "{other}");
    }
    assert_eq!(plan(&["sum(a)", "count(distinct a)"]).needs_window(), Some(1));
    assert_eq!(plan(&["sum(a)"]).needs_window(), None);
}

#[test]
fn a_part_takes_the_values_of_the_whole() {
    let scope = Scope::new(&Functions::built_in(), &[("events", &schema())]);
    let condition = crate::sql::compile_condition("a > 0", &scope).unwrap();
    let columns = [
        ("all", "count(*)", None),
        ("sums", "sum(a) + sum(x)", None),
        ("some", "sum(a) filter (where ok)", Some(condition)),
        ("text", "max(s)", None),
    ];
    let whole = AggregatePlan::compile_where(&columns, &scope).unwrap();
    let rows = some_rows();
    let arguments = whole.prepare(&batch(&rows));
    let expected = results(&whole, &fold(&whole, &rows));
    for columns in [vec![0], vec![1], vec![2, 3], vec![3, 0, 1]] {
        let part = whole.part(&columns);
        let mut cells = Vec::new();
        for row in 0..rows.len() {
            let mut stored = Vec::new();
            arguments.write_row(row, &mut stored);
            let values = read_values(&stored).unwrap();
            assert!(arguments.row(row).eq(values.iter().cloned()));
            // The caller may keep something of its own before a row's values.
            cells.push(Datum::Int64(row as i64));
            cells.extend(values);
        }
        let mut state = part.new_state();
        part.update_rows(&mut state, &cells, part.value_count() + 1).unwrap();
        let expected: Vec<&str> = columns.iter().map(|column| expected[*column].as_str()).collect();
        assert_eq!(results(&part, &state), expected, "{columns:?}");
    }
    assert_eq!(expected[2], "8");
}

#[test]
fn mistakes_are_located() {
    use Code::*;
    let table: &[(&str, Code, &str, &str)] = &[
        ("1 + 1", SqlAggregateNeeded, "1 + 1", "an aggregate is needed"),
        ("a", SqlColumnOutsideAggregate, "a", "outside of an aggregate"),
        ("sum(a) + i", SqlColumnOutsideAggregate, "i", "outside of an aggregate"),
        ("sum(zz)", SqlUnknownColumn, "zz", "no column `zz`"),
        ("sum(a) filter (where zz > 1)", SqlUnknownColumn, "zz", "no column `zz`"),
        ("sum(a) filter (where a)", SqlNotBoolean, "a", "has to be a bool"),
        ("sum(max(a))", SqlNestedAggregate, "max(a)", "inside of another aggregate"),
        ("sum(a) filter (where max(a) > 1)", SqlNestedAggregate, "max(a)", "inside of another aggregate"),
        ("nth_value(a)", SqlUnknownAggregate, "nth_value", "not offered"),
        ("summ(a)", SqlUnknownFunction, "summ", "no function `summ`"),
        ("sum(s)", SqlArguments, "sum(s)", "needs numbers, `s` is a string"),
        ("avg(ok)", SqlArguments, "avg(ok)", "needs numbers"),
        ("sum(a, i)", SqlArguments, "sum(a, i)", "takes one argument, here are 2"),
        ("sum(*)", SqlArguments, "sum(*)", "takes one argument"),
        ("count()", SqlArguments, "count()", "takes one argument, here are 0"),
        ("max(p)", SqlArguments, "max(p)", "has no order"),
        ("sum(distinct a)", SqlNotAllowed, "sum(distinct a)", "for `count` only"),
        (
            "first_value(a order by x)",
            SqlNotAllowed,
            "first_value(a order by x)",
            "the order in which they come",
        ),
        ("sum(a) ignore nulls", SqlNotAllowed, "sum(a)", "ignores them anyway"),
        ("sum(a) over ()", SqlNotAllowed, "sum(a)", "window function"),
        ("sum(a + s)", SqlStringNumber, "a + s", "not mixed"),
        ("upper(sum(a))", SqlArguments, "upper(sum(a))", "does not take (int64)"),
        ("sum(a) || s", SqlColumnOutsideAggregate, "s", "outside"),
        ("max(s) = max(a)", SqlStringNumber, "max(s) = max(a)", "`max(s)` is a string"),
        ("max(at) - min(at)", SqlResultType, "max(at) - min(at)", "which no column has"),
        ("sum(a) >", SqlSyntax, ">", "found the end"),
    ];
    let scope = Scope::new(&Functions::built_in(), &[("events", &schema())]);
    for (sql, code, words, message) in table {
        let errors = AggregatePlan::compile(&[("fine", "count(*)"), ("c", sql)], &scope).expect_err(sql);
        let [(1, error)] = errors.as_slice() else { panic!("{sql}: {errors:?}") };
        assert_eq!((error.code, &sql[error.span.clone()]), (*code, *words), "{sql}: {error:?}");
        assert!(error.message.contains(message), "{sql}: {}", error.message);
    }
    let errors =
        AggregatePlan::compile(&[("one", "sum(zz) / sum(s + 1)"), ("two", "b")], &scope).unwrap_err();
    let found: Vec<(usize, Code)> = errors.iter().map(|(column, error)| (*column, error.code)).collect();
    assert_eq!(found, [(0, SqlUnknownColumn), (0, SqlStringNumber), (1, SqlUnknownColumn)]);
}

const EVERYTHING: &[&str] = &[
    "count(*)",
    "count(a)",
    "sum(a)",
    "sum(x)",
    "sum(d)",
    "avg(a)",
    "avg(x)",
    "avg(d)",
    "var_pop(x)",
    "min(s)",
    "max(x)",
    "first_value(s)",
    "last_value(a ignore nulls)",
    "count(distinct a)",
];

/// Stored states are read by later versions: these bytes never change under the same layout version.
#[test]
fn bytes_of_a_state_are_fixed() {
    let plan = plan(EVERYTHING);
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(bytes(&plan, &plan.new_state())), GOLDEN_EMPTY);
    assert_eq!(hex(bytes(&plan, &fold(&plan, &some_rows()))), GOLDEN_ROWS);
}

const NET: &[&str] =
    &["count(*)", "count(a)", "sum(a)", "sum(x)", "sum(d)", "avg(a)", "avg(x)", "avg(d)", "var_pop(x)"];

#[test]
fn bytes_of_a_net_state_are_fixed() {
    let plan = net_plan(NET);
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(bytes(&plan, &fold(&plan, &some_rows()))), GOLDEN_NET);
}

const GOLDEN_NET: &str = concat!(
    "010a080800100000000000000840060000000800d00c0800100000000000000840060000000800d00c0600",
    "000000000000f03f0000000000000c40",
);
const GOLDEN_EMPTY: &str =
    "0100000000000000000000000000000000000000000000000000000000000000000000000000000000";
const GOLDEN_ROWS: &str = concat!(
    "010a08011001000000000000084001d00c081006000000000000084008d00c06000000000000f03f0000000000000c40",
    "0a0161060000000000000040010a016201040203040104020408",
);

#[test]
fn damaged_bytes_are_refused() {
    let plan = plan(EVERYTHING);
    let good = bytes(&plan, &fold(&plan, &some_rows()));
    assert_eq!(plan.read(&[]).unwrap_err(), DecodeError::Truncated);
    assert_eq!(plan.read(&[9, 0]).unwrap_err(), DecodeError::Version { found: 9, expected: LAYOUT });
    for end in 0..good.len() {
        assert!(plan.read(&good[..end]).is_err());
    }
    let longer: Vec<u8> = good.iter().copied().chain([0]).collect();
    assert_eq!(plan.read(&longer).unwrap_err(), DecodeError::Trailing(1));
}

fn any_row() -> impl Strategy<Value = Row> {
    let float = prop_oneof![
        4 => -100.0..100.0,
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(-0.0),
        1 => Just(0.0),
    ];
    (
        proptest::option::weighted(0.8, prop_oneof![5 => -5i64..5, 1 => any::<i64>()]),
        proptest::option::weighted(0.8, float),
        proptest::option::weighted(0.8, -9_999_999_999i128..9_999_999_999),
        proptest::option::weighted(0.8, "[a-cä]{0,3}"),
        proptest::option::weighted(0.8, any::<bool>()),
    )
        .prop_map(|(a, x, d, s, ok)| Row { a, x, d, s, ok })
}

/// What SQL says, computed from all rows at once.
fn model(sql: &str, rows: &[Row]) -> String {
    let a: Vec<i64> = rows.iter().filter_map(|row| row.a).collect();
    let x: Vec<f64> = rows.iter().filter_map(|row| row.x).collect();
    let d: Vec<i128> = rows.iter().filter_map(|row| row.d).collect();
    let text = |value: Option<String>| value.unwrap_or_else(|| "null".to_owned());
    let decimal = |value: i128, scale: usize| {
        let digits = format!("{:0width$}", value.abs(), width = scale + 1);
        let (whole, rest) = digits.split_at(digits.len() - scale);
        format!("{}{whole}.{rest}", if value < 0 { "-" } else { "" })
    };
    let float = |value: f64| {
        array_value_to_string(&(Arc::new(Float64Array::from(vec![value])) as ArrayRef), 0).unwrap()
    };
    match sql {
        "count(*)" => rows.len().to_string(),
        "count(a)" => a.len().to_string(),
        "sum(a)" => text((!a.is_empty()).then(|| a.iter().sum::<i64>().to_string())),
        "sum(x)" => {
            text(x.split_first().map(|(first, rest)| float(rest.iter().fold(*first, |sum, x| sum + x))))
        }
        "sum(d)" => text((!d.is_empty()).then(|| decimal(d.iter().sum(), 2))),
        "avg(a)" => text(
            (!a.is_empty())
                .then(|| float(a.iter().map(|a| i128::from(*a)).sum::<i128>() as f64 / a.len() as f64)),
        ),
        "min(s)" => text(rows.iter().filter_map(|row| row.s.clone()).min()),
        "max(x)" => text(
            x.iter()
                .copied()
                .reduce(|left, right| {
                    if left.is_nan() || (!right.is_nan() && left.total_cmp(&right).is_ge()) {
                        left
                    } else {
                        right
                    }
                })
                .map(float),
        ),
        "first_value(s)" => text(rows.first().and_then(|row| row.s.clone())),
        "last_value(a ignore nulls)" => text(a.last().map(i64::to_string)),
        "count(distinct a)" => a.iter().collect::<BTreeSet<_>>().len().to_string(),
        _ => unreachable!("{sql}"),
    }
}

/// Whether two results are the same, but for the last digits of floats.
fn are_close((one, other): (String, String)) -> bool {
    match (one.parse::<f64>(), other.parse::<f64>()) {
        (Ok(one), Ok(other)) if one.is_finite() => (one - other).abs() <= 1e-9 * one.abs().max(1e4),
        (Ok(one), Ok(other)) if one.is_nan() => other.is_nan(),
        _ => one == other,
    }
}

proptest! {
    #[test]
    fn results_are_those_of_sql(rows in proptest::collection::vec(any_row(), 0..40), ok_only in any::<bool>()) {
        let modelled = [
            "count(*)", "count(a)", "sum(a)", "sum(x)", "sum(d)", "avg(a)", "min(s)", "max(x)", "first_value(s)",
            "last_value(a ignore nulls)", "count(distinct a)",
        ];
        let sqls: Vec<String> =
            modelled.iter().map(|sql| if ok_only { format!("{sql} filter (where ok)") } else { (*sql).to_owned() }).collect();
        let plan = plan(&sqls.iter().map(String::as_str).collect::<Vec<_>>());
        let mut state = plan.new_state();
        let mut added = Vec::new();
        let arguments = plan.prepare(&batch(&rows));
        for (index, row) in rows.iter().enumerate() {
            let before = bytes(&plan, &state);
            let counts = !ok_only || row.ok == Some(true);
            let sum = added.iter().filter_map(|row: &Row| row.a).map(i128::from).sum::<i128>();
            let fits = !counts || i64::try_from(sum + i128::from(row.a.unwrap_or_default())).is_ok();
            let outcome = plan.update(&mut state, &arguments, index);
            prop_assert_eq!(outcome.is_ok(), fits);
            if !fits {
                prop_assert_eq!(bytes(&plan, &state), before);
            } else if counts {
                added.push(row.clone());
            }
            let expected: Vec<String> = modelled.iter().map(|sql| model(sql, &added)).collect();
            prop_assert_eq!(results(&plan, &state), expected);
        }
    }

    #[test]
    fn storing_between_rows_changes_nothing(rows in proptest::collection::vec(any_row(), 0..40), size in 1usize..8) {
        let plan = plan(EVERYTHING);
        let (mut straight, mut stored, mut values) = (plan.new_state(), plan.new_state(), plan.new_state());
        let whole = plan.prepare(&batch(&rows));
        for (index, row) in rows.iter().enumerate() {
            // The same row out of another batch.
            let part = plan.prepare(&batch(&rows).slice(index - index % size, (rows.len() - (index - index % size)).min(size)));
            let outcome = plan.update(&mut straight, &whole, index);
            prop_assert_eq!(plan.update(&mut stored, &part, index % size), outcome.clone(), "{:?}", row);
            let cells: Vec<Datum> = whole.row(index).collect();
            let before = values.clone();
            let added = plan.update_rows(&mut values, &cells, cells.len());
            prop_assert_eq!(added.is_ok(), outcome.is_ok());
            if added.is_err() {
                values = before;
            }
            let written = bytes(&plan, &straight);
            prop_assert_eq!(&bytes(&plan, &stored), &written);
            prop_assert_eq!(&bytes(&plan, &values), &written);
            stored = plan.read(&written).unwrap();
            prop_assert_eq!(&bytes(&plan, &stored), &written);
        }
        prop_assert_eq!(results(&plan, &straight), results(&plan, &stored));
    }

    /// Of floats the sums may differ in their last digits.
    #[test]
    fn what_is_taken_back_leaves_no_trace(rows in proptest::collection::vec((any_row(), any::<bool>()), 0..40)) {
        let plan = net_plan(NET);
        let (rows, goes): (Vec<Row>, Vec<bool>) = rows.into_iter().unzip();
        let rows: Vec<Row> = rows.into_iter().map(|row| Row { a: row.a.map(|a| a % (1 << 50)), ..row }).collect();
        let arguments = plan.prepare(&batch(&rows));
        let (mut net, mut left) = (plan.new_state(), plan.new_state());
        for row in 0..rows.len() {
            plan.update(&mut net, &arguments, row).unwrap();
        }
        for (row, goes) in goes.iter().enumerate() {
            match goes {
                true => plan.take_back(&mut net, &arguments, row),
                false => plan.update(&mut left, &arguments, row).unwrap(),
            }
            net = plan.read(&bytes(&plan, &net)).unwrap();
        }
        let (found, expected) = (results(&plan, &net), results(&plan, &left));
        prop_assert!(expected.iter().cloned().zip(found.iter().cloned()).all(are_close), "{:?} {:?}", found, expected);
    }

    /// Sums of floats are put together in another order than row by row.
    #[test]
    fn a_merged_group_is_that_of_all_its_rows(rows in proptest::collection::vec(any_row(), 0..40), parts in 1usize..5) {
        let plan = plan(EVERYTHING);
        let arguments = plan.prepare(&batch(&rows));
        let add = |state: &mut GroupState, row| plan.update(state, &arguments, row);
        let mut all = plan.new_state();
        let mut merged = plan.new_state();
        let mut fits = true;
        for part in (0..rows.len()).collect::<Vec<_>>().chunks(rows.len().div_ceil(parts).max(1)) {
            let mut state = plan.new_state();
            fits &= part.iter().all(|row| add(&mut all, *row).is_ok() && add(&mut state, *row).is_ok());
            fits = fits && plan.merge(&mut merged, &state).is_ok();
        }
        prop_assume!(fits);
        let (found, expected) = (results(&plan, &merged), results(&plan, &all));
        prop_assert!(expected.iter().cloned().zip(found.iter().cloned()).all(are_close), "{:?} {:?}", found, expected);
        // Nothing is lost on the way into nothing, to the last bit.
        let mut copy = plan.new_state();
        plan.merge(&mut copy, &all).unwrap();
        prop_assert_eq!(bytes(&plan, &copy), bytes(&plan, &all));
    }

    #[test]
    fn damaged_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let plan = plan(EVERYTHING);
        let _ = plan.read(&[&[LAYOUT], bytes.as_slice()].concat());
        let _ = read_values(&bytes);
    }
}
