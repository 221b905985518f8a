use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array,
    Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Fields, Float32Type, Int64Type};
use arrow::util::display::array_value_to_string;

use super::*;
use crate::schema::{Kind, TIMESTAMP, column};

fn schema() -> Schema {
    let point = Fields::from(vec![
        Field::new("x", DataType::Float64, true),
        Field::new("name", DataType::Utf8, true),
    ]);
    let list = DataType::List(Arc::new(Field::new("item", DataType::Float32, true)));
    Schema::new(
        Kind::Stream,
        vec![column("k", DataType::Utf8)],
        vec![
            column("a", DataType::Int64),
            column("b", DataType::Int64),
            column("i", DataType::Int32),
            column("amount", DataType::Float64),
            column("country", DataType::Utf8),
            column("ok", DataType::Boolean),
            column("at", TIMESTAMP),
            column("day", DataType::Date32),
            column("d", DataType::Decimal128(10, 2)),
            column("p", list),
            column("s", DataType::Struct(point)),
            column("raw", DataType::Binary),
            column("Größe", DataType::Int64),
        ],
    )
}

/// One row with values, one of nulls, and one where `b` is zero and `a` and `i` are the largest and smallest numbers.
fn rows() -> RecordBatch {
    let schema = schema();
    let point = StructArray::new(
        match schema.columns.field(11).data_type() {
            DataType::Struct(fields) => fields.clone(),
            _ => unreachable!(),
        },
        vec![
            Arc::new(Float64Array::from(vec![Some(1.5), None, Some(0.0)])) as ArrayRef,
            Arc::new(StringArray::from(vec![Some("north"), None, Some("")])),
        ],
        Some(vec![true, false, true].into()),
    );
    let lists = ListArray::from_iter_primitive::<Float32Type, _, _>(vec![
        Some(vec![Some(0.25), Some(0.75)]),
        None,
        Some(vec![]),
    ]);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![Some("c1"), None, Some("c3")])),
        Arc::new(Int64Array::from(vec![Some(7), None, Some(i64::MAX)])),
        Arc::new(Int64Array::from(vec![Some(2), None, Some(0)])),
        Arc::new(Int32Array::from(vec![Some(3), None, Some(i32::MIN)])),
        Arc::new(Float64Array::from(vec![Some(12.5), None, Some(f64::NAN)])),
        Arc::new(StringArray::from(vec![Some("DE"), None, Some("Ä-b")])),
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        // 2026-01-02T03:04:05.678Z
        Arc::new(TimestampMillisecondArray::from(vec![Some(1_767_323_045_678), None, Some(0)])),
        Arc::new(Date32Array::from(vec![Some(20_455), None, Some(0)])),
        Arc::new(
            Decimal128Array::from(vec![Some(1_050), None, Some(-5)]).with_precision_and_scale(10, 2).unwrap(),
        ),
        Arc::new(lists),
        Arc::new(point),
        Arc::new(BinaryArray::from(vec![Some(b"\x01\xff".as_slice()), None, Some(b"")])),
        Arc::new(Int64Array::from(vec![Some(180), None, Some(0)])),
    ];
    RecordBatch::try_new(schema.columns.clone(), arrays).unwrap()
}

fn scope() -> Scope {
    Scope::new(&Functions::built_in(), &[("payments", &schema())])
}

fn compiled(sql: &str) -> Expression {
    compile(sql, &scope()).unwrap_or_else(|errors| panic!("{sql}: {errors:?}"))
}

/// The values of the three rows, `null` and `!` (an error) included.
fn values(expression: &Expression, rows: &RecordBatch) -> Vec<String> {
    let evaluated = expression.evaluate(rows);
    assert_eq!(evaluated.values.len(), rows.num_rows());
    assert_eq!(evaluated.values.data_type(), expression.data_type(), "{}", expression.text());
    (0..rows.num_rows())
        .map(|row| match evaluated.errors.iter().find(|(failed, _, _)| *failed == row) {
            Some(_) => {
                assert!(evaluated.values.is_null(row));
                "!".to_owned()
            }
            None if evaluated.values.is_null(row) => "null".to_owned(),
            None => array_value_to_string(&evaluated.values, row).unwrap(),
        })
        .collect()
}

#[test]
fn expressions_give_values() {
    let table: &[(&str, &str, [&str; 3])] = &[
        // Columns and literals.
        ("a", "int64", ["7", "null", "9223372036854775807"]),
        ("payments.a", "int64", ["7", "null", "9223372036854775807"]),
        ("\"Größe\" + 1", "int64", ["181", "null", "1"]),
        ("k", "string", ["c1", "null", "c3"]),
        ("-9223372036854775808", "int64", ["-9223372036854775808"; 3]),
        ("cast('9223372036854775808' as decimal(38,0))", "decimal(38,0)", ["9223372036854775808"; 3]),
        ("1.5", "float64", ["1.5"; 3]),
        ("'it''s'", "string", ["it's"; 3]),
        ("cast(null as string)", "string", ["null"; 3]),
        // Arithmetic is checked.
        ("a + 1", "int64", ["8", "null", "!"]),
        ("a * 2 - 1", "int64", ["13", "null", "!"]),
        ("a / b", "int64", ["3", "null", "!"]),
        ("a % b", "int64", ["1", "null", "!"]),
        ("i - 1", "int64", ["2", "null", "-2147483649"]),
        ("i - i", "int32", ["0", "null", "0"]),
        ("i + i", "int32", ["6", "null", "!"]),
        ("-i", "int32", ["-3", "null", "!"]),
        ("-a", "int64", ["-7", "null", "-9223372036854775807"]),
        ("abs(i)", "int32", ["3", "null", "!"]),
        ("amount / 0", "float64", ["inf", "null", "NaN"]),
        ("amount * 2", "float64", ["25.0", "null", "NaN"]),
        ("d * 2", "decimal(31,2)", ["21.00", "null", "-0.10"]),
        ("d / 4", "decimal(14,6)", ["2.625000", "null", "-0.012500"]),
        ("round(amount / 3, 2)", "float64", ["4.17", "null", "NaN"]),
        ("floor(amount)", "float64", ["12.0", "null", "NaN"]),
        ("a & 3", "int64", ["3", "null", "3"]),
        ("greatest(a, b)", "int64", ["7", "null", "9223372036854775807"]),
        // Conditions.
        ("amount * 2 > 10 and payments.country = 'DE'", "bool", ["true", "null", "false"]),
        ("b <> 0 and a / b > 1", "bool", ["true", "null", "false"]),
        ("a between 1 and 10", "bool", ["true", "null", "false"]),
        ("a not in (1, 2)", "bool", ["true", "null", "true"]),
        ("country in ('DE', 'AT')", "bool", ["true", "null", "false"]),
        ("a is null", "bool", ["false", "true", "false"]),
        ("a is distinct from b", "bool", ["true", "false", "true"]),
        ("ok is not true", "bool", ["false", "true", "true"]),
        ("not ok", "bool", ["false", "null", "true"]),
        ("case when a > 10 then 'much' when a > 1 then 'some' end", "string", ["some", "null", "much"]),
        ("case b when 0 then null else a / b end", "int64", ["3", "null", "null"]),
        ("coalesce(a, b, 0)", "int64", ["7", "0", "9223372036854775807"]),
        ("nullif(b, 0)", "int64", ["2", "null", "null"]),
        ("nvl(country, '-')", "string", ["DE", "-", "Ä-b"]),
        ("nvl2(a, 1, 2)", "int64", ["1", "2", "1"]),
        ("isnan(amount)", "bool", ["false", "null", "true"]),
        ("a = any([7, 8])", "bool", ["true", "null", "false"]),
        // Strings.
        ("lower(country) || '-' || k", "string", ["de-c1", "null", "ä-b-c3"]),
        ("length(country)", "int32", ["2", "null", "3"]),
        ("substr(country, 2)", "string", ["E", "null", "-b"]),
        ("substring(country from 1 for 1)", "string", ["D", "null", "Ä"]),
        ("substring(country for 1)", "string", ["D", "null", "Ä"]),
        ("trim(both 'D' from country)", "string", ["E", "null", "Ä-b"]),
        ("position('E' in country)", "int32", ["2", "null", "0"]),
        ("split_part(country, '-', 2)", "string", ["", "null", "b"]),
        ("replace(country, 'E', 'e')", "string", ["De", "null", "Ä-b"]),
        ("left(country, 1) || right(country, 1)", "string", ["DE", "null", "Äb"]),
        ("lpad(country, 4, '.')", "string", ["..DE", "null", ".Ä-b"]),
        ("concat_ws('/', country, k)", "string", ["DE/c1", "", "Ä-b/c3"]),
        ("country like 'D_'", "bool", ["true", "null", "false"]),
        ("country not ilike 'd%'", "bool", ["false", "null", "true"]),
        ("country ~ '^[A-Z]{2}$'", "bool", ["true", "null", "false"]),
        ("regexp_like(country, '-')", "bool", ["false", "null", "true"]),
        ("regexp_replace(country, '[a-z]', '*')", "string", ["DE", "null", "Ä-*"]),
        ("encode(raw, 'hex')", "string", ["01ff", "null", ""]),
        (
            "md5(country)",
            "string",
            ["3a52f3c22ed6fcde5bf696a6c02c9e73", "null", "e4ee64902d69cae308355e9bb3aee6ce"],
        ),
        (
            "md5(raw)",
            "string",
            ["90b82cfd67e3a72ceb8d642b3085f86d", "null", "d41d8cd98f00b204e9800998ecf8427e"],
        ),
        (
            "substr(encode(sha256(country), 'hex'), 1, 16)",
            "string",
            ["6814ef46f686990c", "null", "064787c3a305d9ad"],
        ),
        (
            "sha256(raw)",
            "bytes",
            [
                "4b3a43f592f577fcfcb5b0e1f42bec5182c9edc414e1f667528f56e7cf0be11d",
                "null",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ],
        ),
        // JSON and places.
        (
            "json_value(concat('{\"a\":[7,{\"b c\":\"', country, '\"}]}'), '$.a[1].\"b c\"')",
            "string",
            ["DE", "", "Ä-b"],
        ),
        (
            "json_value('{\"a\":{\"n\":-1.5,\"t\":true}}', concat('$.a.', 'n'))",
            "string",
            ["-1.5", "-1.5", "-1.5"],
        ),
        ("json_value('{\"a\":[1]}', '$.a')", "string", ["null", "null", "null"]),
        (
            "json_query(concat('{\"a\":[1,\"', country, '\"]}'), '$[''a'']')",
            "string",
            ["[1,\"DE\"]", "[1,\"\"]", "[1,\"Ä-b\"]"],
        ),
        ("json_exists(concat('{\"', country, '\":null}'), '$.DE')", "bool", ["true", "false", "false"]),
        ("json_value(country, '$.a')", "string", ["null", "null", "null"]),
        ("json_exists(country, '$')", "bool", ["false", "null", "false"]),
        ("json_exists('[]', country)", "bool", ["!", "null", "!"]),
        (
            "cast(geo_distance(52.52, 13.405, 48.8566, 2.3522) as bigint)",
            "int64",
            ["877464", "877464", "877464"],
        ),
        ("cast(geo_distance(0, 179, 0, i * 0 - 179) as bigint)", "int64", ["222390", "null", "222390"]),
        ("geo_distance(i * 31, 0, 0, 0) > 0", "bool", ["!", "null", "!"]),
        // Casts.
        ("cast(a as string)", "string", ["7", "null", "9223372036854775807"]),
        ("cast(a as int32)", "int32", ["7", "null", "!"]),
        ("cast(i as bigint) * 2", "int64", ["6", "null", "-4294967296"]),
        ("a::double", "float64", ["7.0", "null", "9.223372036854776e18"]),
        ("cast(amount as bigint)", "int64", ["12", "null", "!"]),
        ("cast(amount as decimal(10,1))", "decimal(10,1)", ["12.5", "null", "!"]),
        ("cast(country as bigint)", "int64", ["!", "null", "!"]),
        ("try_cast(country as bigint)", "int64", ["null", "null", "null"]),
        ("cast('12' as bigint) + a", "int64", ["19", "null", "!"]),
        ("cast(raw as string)", "string", ["!", "null", ""]),
        // Time.
        ("date_trunc('hour', at)", "timestamp", ["2026-01-02T03:00:00", "null", "1970-01-01T00:00:00"]),
        (
            "date_bin(interval '15 minutes', at)",
            "timestamp",
            ["2026-01-02T03:00:00", "null", "1970-01-01T00:00:00"],
        ),
        ("extract(hour from at)", "int32", ["3", "null", "0"]),
        ("extract(year from day)", "int32", ["2026", "null", "1970"]),
        ("date_part('epoch', at)", "float64", ["1767323045.678", "null", "0.0"]),
        (
            "at + interval '90 minutes'",
            "timestamp",
            ["2026-01-02T04:34:05.678", "null", "1970-01-01T01:30:00"],
        ),
        ("at > '2026-01-01T00:00:00Z'", "bool", ["true", "null", "false"]),
        ("at >= timestamp '2026-01-02 03:04:05.678'", "bool", ["true", "null", "false"]),
        ("at - at < interval '1 second'", "bool", ["true", "null", "true"]),
        ("cast(at as bigint)", "int64", ["1767323045678", "null", "0"]),
        ("cast(1000 as timestamp)", "timestamp", ["1970-01-01T00:00:01"; 3]),
        ("cast('2500-01-01' as timestamp)", "timestamp", ["2500-01-01T00:00:00"; 3]),
        ("cast(at as date)", "date", ["2026-01-02", "null", "1970-01-01"]),
        ("day + 1", "date", ["2026-01-03", "null", "1970-01-02"]),
        ("day - date '2026-01-01'", "int64", ["1", "null", "-20454"]),
        // 03:04 on the clocks of Berlin is 02:04 UTC.
        (
            "at at time zone 'Europe/Berlin'",
            "timestamp",
            ["2026-01-02T02:04:05.678", "null", "1969-12-31T23:00:00"],
        ),
        ("to_timestamp('2026-01-01')", "timestamp", ["2026-01-01T00:00:00"; 3]),
        ("to_char(at, '%Y-%m')", "string", ["2026-01", "null", "1970-01"]),
        ("make_date(2026, i, 1)", "date", ["2026-03-01", "null", "!"]),
        // Lists and structs.
        ("p[2]", "float32", ["0.75", "null", "null"]),
        ("p[-1] >= 0.75", "bool", ["true", "null", "null"]),
        ("p[1:1]", "list<float32>", ["[0.25]", "null", "[]"]),
        ("array_length(p) + 1", "int64", ["3", "null", "1"]),
        ("array_has(p, 0.25)", "bool", ["true", "null", "false"]),
        ("[a, b]", "list<int64>", ["[7, 2]", "[, ]", "[9223372036854775807, 0]"]),
        ("s.x", "float64", ["1.5", "null", "0.0"]),
        ("s['name']", "string", ["north", "null", ""]),
        ("payments.s.x + 1", "float64", ["2.5", "null", "1.0"]),
        ("struct(a, b)['c1']", "int64", ["2", "null", "0"]),
        ("named_struct('x', b)", "{ x = int64 }", ["{x: 2}", "{x: }", "{x: 0}"]),
    ];
    let rows = rows();
    for (sql, data_type, expected) in table {
        let expression = compiled(sql);
        assert_eq!(type_name(expression.data_type()), *data_type, "{sql}");
        assert_eq!(values(&expression, &rows), *expected, "{sql}");
        // A row gives what it gives alone.
        for (row, expected) in expected.iter().enumerate() {
            assert_eq!(values(&expression, &rows.slice(row, 1)), [*expected], "{sql}, row {row} alone");
        }
        assert_eq!(values(&expression, &rows.slice(0, 0)), Vec::<String>::new());
    }
}

#[test]
fn mistakes_are_located() {
    use Code::*;
    // Expression, code, the words concerned, a part of the message, a part of the help.
    let table: &[(&str, Code, &str, &str, &str)] = &[
        ("amont > 1", SqlUnknownColumn, "amont", "no column `amont`", "did you mean `amount`?"),
        ("Amount > 1", SqlUnknownColumn, "Amount", "no column `Amount`", "did you mean `amount`?"),
        ("payments.amont > 1", SqlUnknownColumn, "amont", "`payments` has no column `amont`", "`amount`"),
        ("other.a", SqlUnknownColumn, "other", "no column `other`", "columns are `k`, "),
        ("country = \"DE\"", SqlUnknownColumn, "\"DE\"", "no column `DE`", "`'DE'`"),
        ("1 +\n  fo", SqlUnknownColumn, "fo", "no column `fo`", ""),
        ("'ä€' || größe", SqlUnknownColumn, "größe", "no column `größe`", "`Größe`"),
        ("s.y", SqlUnknownColumn, "y", "no field `y`", "`x`"),
        ("s['y'] > 1", SqlUnknownColumn, "'y'", "no field `y`", "`x`"),
        ("p['x']", SqlUnknownColumn, "'x'", "in a list<float32>", ""),
        ("@x", SqlUnknownColumn, "@x", "no column `@x`", ""),
        ("", SqlSyntax, "", "empty", ""),
        ("amount >", SqlSyntax, ">", "found the end", ""),
        ("(a + b) * (a", SqlSyntax, "a", "found the end", ""),
        ("a\n  + )", SqlSyntax, ")", "expected an expression", ""),
        ("a b", SqlSyntax, "b", "expected an operator or the end", ""),
        ("a, b", SqlSyntax, ",", "found `,`", "one column"),
        ("a;", SqlSyntax, ";", "found `;`", "without `;`"),
        ("country = 'DE", SqlSyntax, "'", "unterminated string", ""),
        ("uper(country)", SqlUnknownFunction, "uper", "no function `uper`", "`upper`"),
        ("1 + unnest(p)", SqlUnknownFunction, "unnest", "no function", "explode"),
        ("version()", SqlUnknownFunction, "version", "no function", ""),
        ("now() > at", SqlNotImmutable, "now()", "another result", "event time"),
        ("current_date", SqlNotImmutable, "current_date", "another result", ""),
        ("random() * a", SqlNotImmutable, "random()", "another result", ""),
        ("uuid()", SqlNotImmutable, "uuid()", "another result", ""),
        ("a in (select 1)", SqlNotAllowed, "a in (select 1)", "subquery", ""),
        ("row_number() over () > 1", SqlNotAllowed, "row_number()", "window function", "features"),
        ("a = $1", SqlNotAllowed, "$1", "placeholder", ""),
        ("ok && ok", SqlNotAllowed, "ok && ok", "`&&` is not offered", ""),
        ("(a, b) in (p)", SqlNotAllowed, "(a, b)", "tuple", ""),
        ("upper(distinct country)", SqlNotAllowed, "upper(distinct country)", "plain arguments", ""),
        ("sum(a) > 1", SqlAggregateNotAllowed, "sum(a)", "one row", "`aggregate`"),
        ("sum(sum(a))", SqlAggregateNotAllowed, "sum(sum(a))", "one row", ""),
        ("nth_value(a)", SqlUnknownAggregate, "nth_value", "not offered", "`sum`"),
        (
            "a > 1 and country = 5",
            SqlStringNumber,
            "country = 5",
            "`country` is a string",
            "`cast(country as bigint)`",
        ),
        ("a = '5'", SqlStringNumber, "a = '5'", "`'5'` is a string", "write `5`"),
        ("amount + country", SqlStringNumber, "amount + country", "not mixed", "cast(country as double)"),
        ("country || a", SqlStringNumber, "country || a", "not mixed", "cast(a as string)"),
        ("concat(country, a)", SqlStringNumber, "concat(country, a)", "not mixed", "cast(a as string)"),
        ("coalesce(country, 5)", SqlStringNumber, "coalesce(country, 5)", "not mixed", "`'5'`"),
        ("a in (1, 'x')", SqlStringNumber, "a in (1, 'x')", "not mixed", ""),
        (
            "case when ok then 'x' else 5 end",
            SqlStringNumber,
            "case when ok then 'x' else 5 end",
            "not mixed",
            "`'5'`",
        ),
        (
            "a > 1 or upper(amount) = 'X'",
            SqlArguments,
            "upper(amount)",
            "does not take (float64)",
            "upper(str)",
        ),
        ("substring(amount from 1)", SqlArguments, "substring(amount from 1)", "does not take", ""),
        ("at > 5", SqlTypes, "at > 5", "`>` does not go with timestamp and int64", ""),
        ("(a and ok) is null", SqlTypes, "a and ok", "need a bool on both sides", ""),
        ("ok || ok", SqlTypes, "ok || ok", "bool and bool", "`or`"),
        ("not a", SqlTypes, "not a", "needs a bool, this is an int64", ""),
        ("amount like 'x'", SqlTypes, "amount like 'x'", "compares strings", ""),
        ("p[country]", SqlTypes, "p[country]", "needs a list and a number", ""),
        ("cast(p as bigint)", SqlTypes, "cast(p as bigint)", "a list<float32> cannot become a bigint", ""),
        ("cast(a as foo)", SqlTypes, "cast(a as foo)", "no type `foo`", "`bigint`"),
        (
            "a < 9223372036854775808",
            SqlNumber,
            "9223372036854775808",
            "larger than an int64",
            "decimal(38,0)",
        ),
        ("[1, 18446744073709551616]", SqlNumber, "18446744073709551616", "larger than an int64", ".0"),
        ("-9223372036854775809", SqlNumber, "-9223372036854775809", "larger than an int64", ""),
        ("-1e999", SqlNumber, "-1e999", "larger than a float64", ""),
        ("repeat('x', 2000000)", SqlConstantFails, "repeat('x', 2000000)", "larger than 1 MiB", ""),
        ("9223372036854775807 + 1 > a", SqlConstantFails, "9223372036854775807 + 1", "overflow", ""),
        ("a + (1 / (2 - 2))", SqlConstantFails, "1 / (2 - 2)", "division by zero", ""),
        ("cast('x' as bigint) + 1", SqlConstantFails, "cast('x' as bigint)", "always fails", ""),
        ("at > 'hello'", SqlConstantFails, "at > 'hello'", "always fails", ""),
        ("date_trunc('houre', at)", SqlConstantFails, "date_trunc('houre', at)", "houre", ""),
        (
            "regexp_like(country, '[')",
            SqlConstantFails,
            "regexp_like(country, '[')",
            "no regular expression",
            "",
        ),
        ("country ~ 'x{999}{999}{999}'", SqlConstantFails, "country ~ 'x{999}{999}{999}'", "", ""),
        (
            "json_value(country, 'a.b')",
            SqlConstantFails,
            "json_value(country, 'a.b')",
            "`a.b` is no JSON path: it begins with `$`",
            "",
        ),
        (
            "json_query(country, '$.a[x]')",
            SqlConstantFails,
            "json_query(country, '$.a[x]')",
            "in brackets",
            "",
        ),
        (
            "geo_distance(91, 0, 0, 0)",
            SqlConstantFails,
            "geo_distance(91, 0, 0, 0)",
            "between -90 and 90",
            "",
        ),
        ("country ~ '['", SqlConstantFails, "country ~ '['", "no regular expression", ""),
        ("null", SqlResultType, "null", "type null", "cast(null as string)"),
        ("at - at", SqlResultType, "at - at", "which no column has", "bigint"),
        ("interval '1 day'", SqlResultType, "interval '1 day'", "which no column has", ""),
    ];
    for (sql, code, words, message, help) in table {
        let errors = compile(sql, &scope()).expect_err(sql);
        let [error] = errors.as_slice() else { panic!("{sql}: {errors:?}") };
        assert_eq!((error.code, &sql[error.span.clone()]), (*code, *words), "{sql}: {error:?}");
        assert!(error.message.contains(message), "{sql}: {}", error.message);
        assert!(error.help.as_deref().unwrap_or_default().contains(help), "{sql}: {:?}", error.help);
        assert!(
            !error.message.contains("Utf8") && !error.message.contains("DataFusion"),
            "{sql}: {}",
            error.message
        );
    }
}

#[test]
fn independent_mistakes_are_found_together() {
    let sql = "amont > 1 and upper(a) = 'X' or bar(b, zz) or country = 5";
    let found: Vec<(Code, &str)> = compile(sql, &scope())
        .unwrap_err()
        .iter()
        .map(|error| (error.code, &sql[error.span.clone()]))
        .collect();
    let expected = [
        (Code::SqlUnknownColumn, "amont"),
        (Code::SqlArguments, "upper(a)"),
        (Code::SqlUnknownFunction, "bar"),
        (Code::SqlUnknownColumn, "zz"),
        (Code::SqlStringNumber, "country = 5"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn several_inputs_are_told_apart() {
    let one =
        Schema::new(Kind::Stream, vec![column("id", DataType::Utf8)], vec![column("x", DataType::Int64)]);
    let other =
        Schema::new(Kind::Table, vec![column("id", DataType::Utf8)], vec![column("y", DataType::Int64)]);
    let scope = Scope::new(&Functions::built_in(), &[("p", &one), ("c", &other)]);
    assert_eq!(compile("c.id", &scope).unwrap().as_column(), Some(2));
    assert_eq!(compile("y + x", &scope).unwrap().columns(), [1, 3]);
    let errors = compile("id = 'a'", &scope).unwrap_err();
    assert_eq!((errors[0].code, errors[0].span.clone()), (Code::SqlUnknownColumn, 0..2));
    assert_eq!(errors[0].message, "`id` is a column of both `p` and `c`");
    assert_eq!(errors[0].help.as_deref(), Some("say `p.id` or `c.id`"));
    let errors = compile("c.x", &scope).unwrap_err();
    assert_eq!(errors[0].message, "`c` has no column `x`");
    // Names of inputs do not matter to what is computed.
    let renamed = Scope::new(&Functions::built_in(), &[("a", &one), ("b", &other)]);
    assert_eq!(
        compile("c.id", &scope).unwrap().canonical_text(),
        compile("b.id", &renamed).unwrap().canonical_text()
    );
    assert_ne!(
        compile("p.id", &scope).unwrap().canonical_text(),
        compile("c.id", &scope).unwrap().canonical_text()
    );
}

#[test]
fn a_condition_is_a_bool() {
    assert!(compile_condition("a > 1", &scope()).is_ok());
    let errors = compile_condition(" a + 1 ", &scope()).unwrap_err();
    assert_eq!((errors[0].code, errors[0].span.clone()), (Code::SqlNotBoolean, 1..6));
    assert_eq!(errors[0].message, "a condition has to be a bool, this is an int64");
    assert_eq!(compile_condition("zz", &scope()).unwrap_err()[0].code, Code::SqlUnknownColumn);
}

#[test]
fn messages_of_rows_name_the_expression() {
    let message = |sql: &str, row: usize| {
        let errors = compiled(sql).evaluate(&rows()).errors;
        let (_, code, message) = errors.into_iter().find(|(failed, _, _)| *failed == row).expect(sql);
        assert_eq!(code, Code::RecordExpression);
        message
    };
    assert_eq!(message("a  / b", 2), "in `a / b`: division by zero");
    assert_eq!(message("a + 1", 2), "in `a + 1`: overflow: 9223372036854775807 + 1");
    assert_eq!(
        message("cast(country as bigint)", 0),
        "in `cast(country as bigint)`: cannot cast string 'DE' to value of int64"
    );
    let long = format!("{} / b", vec!["a"; 60].join(" * "));
    assert!(message(&long, 2).starts_with("in `a * a") && message(&long, 2).contains("…`: "));
}

#[test]
fn a_column_is_passed_on_as_it_is() {
    let rows = rows();
    for sql in ["country", "payments.country", "(country)"] {
        let expression = compiled(sql);
        assert_eq!(expression.as_column(), Some(5));
        assert!(Arc::ptr_eq(&expression.evaluate(&rows).values, rows.column(5)));
    }
    let column = Expression::column(&schema(), 5).unwrap();
    assert!(Arc::ptr_eq(&column.evaluate(&rows).values, rows.column(5)));
    assert_eq!(column.canonical_text(), compiled("country").canonical_text());
    assert_eq!(compiled("a + b * a").columns(), [1, 2]);
    assert_eq!(compiled("a + 0").as_column(), None);
}

#[test]
fn canonical_texts_tell_expressions_apart() {
    let text = |sql: &str| compiled(sql).canonical_text();
    assert_eq!(text("payments.a  +  1"), text("a + 1"));
    assert_eq!(text("LOWER(country)"), text("lower(country)"));
    assert_ne!(text("a + 1"), text("b + 1"));
    assert_ne!(text("a + i"), text("a + b"));
    assert_ne!(text("a = 1"), text("a = 2"));
}

#[test]
fn long_chains_and_deep_nesting_are_refused_or_work() {
    let sum = |count: usize| vec!["1"; count].join(" + ");
    let row = rows().slice(0, 1);
    assert_eq!(values(&compiled(&format!("a + {}", sum(90))), &row), ["97"]);
    assert_eq!(values(&compiled(&format!("{}a{}", "(".repeat(20), ")".repeat(20))), &row), ["7"]);
    for sql in [
        sum(200),
        sum(100_000),
        format!("{}a{}", "(".repeat(500), ")".repeat(500)),
        format!("{} a", "- ".repeat(500)),
    ] {
        let errors = compile(&sql, &scope()).unwrap_err();
        assert_eq!(errors[0].code, Code::SqlNotAllowed, "{}", errors[0]);
    }
}

#[test]
fn one_failing_row_costs_no_other() {
    let count = 1000;
    let schema = Schema::new(Kind::Stream, vec![], vec![column("x", DataType::Int64)]);
    let values: Vec<i64> = (0..count).map(|row| row % 100).collect();
    let rows =
        RecordBatch::try_new(schema.columns.clone(), vec![Arc::new(Int64Array::from(values))]).unwrap();
    let expression = compile("100 / x", &Scope::new(&Functions::built_in(), &[("n", &schema)])).unwrap();
    let evaluated = expression.evaluate(&rows);
    let failed: Vec<usize> = evaluated.errors.iter().map(|(row, _, _)| *row).collect();
    assert_eq!(failed, (0..10).map(|row| row * 100).collect::<Vec<_>>());
    let results = evaluated.values.as_primitive::<Int64Type>();
    assert!((0..1000).all(|row| results.is_null(row) == (row % 100 == 0)));
    assert_eq!(results.value(99), 1);
}

/// A record that asks for too much fails alone, and takes no memory.
#[test]
fn results_are_bounded() {
    let huge = i64::MAX;
    let texts: &[(&str, bool)] = &[
        ("repeat('ab', n)", false),
        ("lpad(t, n)", false),
        ("rpad(t, n, 'ab')", false),
        ("array_repeat(t, n)", false),
        ("list_repeat([1, 2], n)", false),
        ("array_resize([1], n)", false),
        ("array_resize([t], n, t)", false),
        ("range(n)", false),
        ("range(-n, n)", false),
        ("generate_series(n, -n, -1)", false),
        ("generate_series(1, n, 1)", false),
        ("replace(t, 'a', long)", false),
        ("replace(t, '', long)", false),
        ("regexp_replace(t, 'a', long, 'g')", false),
        ("array_to_string(many, long)", false),
        ("array_replace_all(many, 'a', long)", false),
        // Large, but not larger than what comes in.
        ("replace(t, 'b', long)", true),
        ("regexp_replace(t, 'a', '*', 'g')", true),
        ("repeat(long, 3)", true),
        ("lpad(long, 2 * length(long))", true),
        ("array_to_string(many, ', ')", true),
        ("range(1, n, n)", true),
        ("generate_series(n, 1, 1)", true),
    ];
    let long = "long".repeat(300_000);
    let t = "a".repeat(5000);
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let many = ListArray::new(
        item.clone(),
        arrow::buffer::OffsetBuffer::from_lengths([0, 5000, 0]),
        Arc::new(StringArray::from(vec!["a"; 5000])),
        Some(vec![false, true, true].into()),
    );
    let schema = Schema::new(
        Kind::Stream,
        vec![],
        vec![
            column("n", DataType::Int64),
            column("t", DataType::Utf8),
            column("long", DataType::Utf8),
            column("many", DataType::List(item)),
        ],
    );
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![None, Some(huge), Some(2)])),
        Arc::new(StringArray::from(vec![None, Some(t.as_str()), Some("a")])),
        Arc::new(StringArray::from(vec![None, Some(long.as_str()), Some("b")])),
        Arc::new(many),
    ];
    let rows = RecordBatch::try_new(schema.columns.clone(), arrays).unwrap();
    for (sql, fits) in texts {
        let expression = compile(sql, &Scope::new(&Functions::built_in(), &[("rows", &schema)]))
            .unwrap_or_else(|errors| panic!("{sql}: {errors:?}"));
        let errors = expression.evaluate(&rows).errors;
        let failed: Vec<usize> = errors.iter().map(|(row, _, _)| *row).collect();
        assert_eq!(failed, if *fits { vec![] } else { vec![1] }, "{sql}: {errors:?}");
        assert!(
            errors.iter().all(|(_, _, message)| message.contains("larger than 1 MiB")),
            "{sql}: {errors:?}"
        );
    }
}

#[test]
fn functions_on_offer_are_listed() {
    let all = Functions::built_in().names();
    assert!(all.is_sorted_by(|left, right| left.0 < right.0));
    assert!(all.contains(&("date_trunc".to_owned(), FunctionKind::Scalar)));
    assert!(all.contains(&("stddev_pop".to_owned(), FunctionKind::Aggregate)));
    assert!(
        !all.iter().any(|(name, _)| matches!(name.as_str(), "now" | "random" | "arrow_cast" | "nth_value"))
    );
}
