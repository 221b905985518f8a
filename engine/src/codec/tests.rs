//! Records to rows and back, through the public surface.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, TimestampMillisecondType};
use millstream_operators::diagnostic::Code;
use millstream_operators::schema::{Kind, Schema, TIMESTAMP, column};
use proptest::prelude::*;

use super::by_name::{RecordBuilder, RowWriter, read_column};
use super::layout::{FieldLayout, Format, HeaderLayout, Metadata, SinkLayout, SourceLayout};
use super::line::{Line, Part, Written, write_line};
use super::{Decoded, SinkEncoder, SourceDecoder};
use crate::record::{Header, Record};
use crate::testing::any_batch;

fn fields(columns: &[(&str, DataType)]) -> Vec<FieldLayout> {
    columns.iter().map(|(name, data_type)| FieldLayout::of_column(name, data_type)).collect()
}

/// A source of JSON values, keyed by the first `key` columns.
fn source(columns: &[(&str, DataType)], key: usize) -> SourceLayout {
    let (keys, values) = columns.split_at(key);
    let of = |columns: &[(&str, DataType)]| columns.iter().map(|(n, t)| column(*n, t.clone())).collect();
    SourceLayout {
        schema: Schema::new(Kind::Stream, of(keys), of(values)),
        key: fields(keys),
        key_format: Format::default_for_key(&fields(keys)),
        value: fields(values),
        value_format: Format::Json,
        headers: Vec::new(),
        metadata: Vec::new(),
        time: None,
    }
}

fn sink(source: &SourceLayout) -> SinkLayout {
    SinkLayout {
        schema: source.schema.clone(),
        key: source.key.clone(),
        key_format: source.key_format.clone(),
        value: source.value.clone(),
        value_format: source.value_format.clone(),
        headers: source.headers.clone(),
        time: None,
    }
}

fn record(key: Option<&[u8]>, value: Option<&[u8]>) -> Record {
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    Record { key: owned(key), value: owned(value), timestamp: 5, headers: Vec::new(), offset: 7 }
}

fn value(json: impl AsRef<[u8]>) -> Record {
    record(None, Some(json.as_ref()))
}

fn decode(layout: &SourceLayout, records: &[Record]) -> Decoded {
    SourceDecoder::new(layout, "topic").unwrap().decode(records, 3).unwrap()
}

/// The rows as JSON by column name.
fn rows(layout: &SourceLayout, columns: &RecordBatch) -> Vec<String> {
    let writer = RowWriter::new(&layout.schema);
    let rows = writer.rows(columns).unwrap();
    let text = |row| {
        let mut out = Vec::new();
        rows.write_key(row, &mut out);
        out.push(b' ');
        rows.write_value(row, &mut out);
        String::from_utf8(out).unwrap()
    };
    (0..columns.num_rows()).map(text).collect()
}

/// What the one column `v` of a type becomes when read from JSON: its JSON, or the error.
fn read(data_type: &DataType, json: &str) -> String {
    let layout = source(&[("v", data_type.clone())], 0);
    let decoded = decode(&layout, &[value(format!("{{\"v\":{json}}}"))]);
    match decoded.errors.into_iter().next() {
        Some((0, Code::RecordDecode, message)) => message,
        Some(other) => panic!("{other:?}"),
        None => {
            let row = rows(&layout, &decoded.columns).remove(0);
            row.strip_prefix("null {\"v\":").and_then(|row| row.strip_suffix('}')).unwrap().to_owned()
        }
    }
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

fn record_type() -> DataType {
    DataType::Struct(Fields::from(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("tags", list(DataType::Utf8), true),
    ]))
}

#[test]
fn values_of_every_type_are_read_as_the_language_says() {
    use DataType::{Binary, Boolean, Date32, Decimal128, Float32, Float64, Int32, Int64, Utf8};
    let cases: &[(DataType, &str, &str)] = &[
        (Boolean, " true ", "true"),
        (Int32, "-2147483648", "-2147483648"),
        (Int64, "9223372036854775807", "9223372036854775807"),
        (Int64, "1.0", "1"),
        (Int64, "12e2", "1200"),
        (Int64, "-0", "0"),
        (Float64, "0.1", "0.1"),
        (Float64, "1", "1.0"),
        (Float64, "2.2250738585072011e-308", "2.225073858507201e-308"),
        (Float32, "0.1", "0.1"),
        (Decimal128(10, 2), "\"12.5\"", "\"12.50\""),
        (Decimal128(38, 20), "0.12345678901234567891", "\"0.12345678901234567891\""),
        (Utf8, r#""a\"\\\/\b\f\n\r\t\u00e9\ud83e\udd80""#, "\"a\\\"\\\\/\\b\\f\\n\\r\\té🦀\""),
        (Binary, "\"AP8=\"", "\"AP8=\""),
        (Date32, "\"2024-02-29\"", "\"2024-02-29\""),
        (TIMESTAMP, "\"2026-01-01T01:00:00.25+01:00\"", "\"2026-01-01T00:00:00.250Z\""),
        (TIMESTAMP, "1767225600000", "\"2026-01-01T00:00:00.000Z\""),
        (list(list(Int32)), "[[1,null],null,[]]", "[[1,null],null,[]]"),
        (record_type(), r#"{"x":[{}],"tags":["a"]}"#, r#"{"id":null,"tags":["a"]}"#),
        (record_type(), "null", "null"),
    ];
    for (data_type, json, expected) in cases {
        assert_eq!(&read(data_type, json), expected, "{data_type:?} {json}");
    }
}

#[test]
fn what_does_not_fit_is_named_with_its_place() {
    use DataType::{Binary, Boolean, Date32, Decimal128, Float32, Float64, Int32, Int64, Utf8};
    let cases: &[(DataType, &str, &str)] = &[
        (Float64, "\"12\"", "field `v`: found the string \"12\", expected float64, at byte 5"),
        (Int64, "1.5", "field `v`: found the number 1.5, which int64 cannot hold without loss, at byte 5"),
        (
            Int32,
            "2147483648",
            "field `v`: found the number 2147483648, which is out of the range of int32, at byte 5",
        ),
        (
            Int64,
            "9223372036854775808",
            "field `v`: found the number 9223372036854775808, which is out of the range of int64, at byte 5",
        ),
        (
            Float64,
            "1e400",
            "field `v`: found the number 1e400, which is out of the range of float64, at byte 5",
        ),
        (
            Float32,
            "1e39",
            "field `v`: found the number 1e39, which is out of the range of float32, at byte 5",
        ),
        (Float64, "NaN", "field `v`: found `NaN`, expected float64, at byte 5"),
        (
            Decimal128(4, 2),
            "0.125",
            "field `v`: found the number 0.125, which decimal(4,2) cannot hold without loss, at byte 5",
        ),
        (
            Decimal128(4, 2),
            "\"100\"",
            "field `v`: found the string \"100\", which is out of the range of decimal(4,2), at byte 5",
        ),
        (
            Decimal128(4, 2),
            "\"ten\"",
            "field `v`: found the string \"ten\", expected decimal(4,2), at byte 5",
        ),
        (Boolean, "1", "field `v`: found the number 1, expected bool, at byte 5"),
        (Utf8, "1", "field `v`: found the number 1, expected string, at byte 5"),
        (Utf8, "{}", "field `v`: found an object, expected string, at byte 5"),
        (
            Utf8,
            r#""\ud800""#,
            "field `v`: found a broken escape, expected `\\uXXXX` of a character, at byte 6",
        ),
        (Utf8, "\"a\u{1}\"", "field `v`: found the byte 0x01 in a string, expected it escaped, at byte 7"),
        (Binary, "\"a\"", "field `v`: found the string \"a\", expected bytes in base64, at byte 5"),
        (
            Date32,
            "\"2023-02-29\"",
            "field `v`: found the string \"2023-02-29\", expected a date as \"YYYY-MM-DD\", at byte 5",
        ),
        (
            TIMESTAMP,
            "\"2026-01-01\"",
            "field `v`: found the string \"2026-01-01\", expected a timestamp as \"YYYY-MM-DDThh:mm:ssZ\" (RFC 3339) or epoch milliseconds, at byte 5",
        ),
        (
            list(record_type()),
            r#"[{},{"tags":["a",1]}]"#,
            "field `v[1].tags[1]`: found the number 1, expected string, at byte 22",
        ),
        (record_type(), "[]", "field `v`: found a list, expected an object, at byte 5"),
        (Int32, "01", "found the number 1, expected `,` or `}`, at byte 6"),
        (Int32, "1,\"v\":2", "field `v`: found the field a second time, expected it once, at byte 11"),
        (Int32, "1,", "found '}', expected a field's name, at byte 7"),
    ];
    for (data_type, json, expected) in cases {
        assert_eq!(read(data_type, json), format!("the record's value: {expected}"), "{data_type:?} {json}");
    }
}

#[test]
fn texts_that_are_no_object_are_refused() {
    let layout = source(&[("v", DataType::Int64)], 0);
    let deep = format!("{{\"x\":{}", "[".repeat(100_000));
    let garbage = "x".repeat(10_000_000);
    let cases: &[(&[u8], &str)] = &[
        (b"", "found the end of the text, expected an object, at byte 0"),
        (b"{\"v\":1", "found the end of the text, expected `,` or `}`, at byte 6"),
        (b"{\"v\":\"", "field `v`: found a string that does not end, expected int64, at byte 5"),
        (b"{\"v\":1} {", "found an object, expected the end of the text, at byte 8"),
        (b"{\"v\":\xff}", "found the byte 0xff, which is not UTF-8, at byte 5"),
        (b"null", "found null, expected an object (a null key or value has no bytes at all), at byte 0"),
        (b"[1]", "found a list, expected an object, at byte 0"),
        (deep.as_bytes(), "found more than 128 levels of nesting, at byte 134"),
        (
            garbage.as_bytes(),
            "found `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…`, expected an object, at byte 0",
        ),
    ];
    for (bytes, expected) in cases {
        let decoded = decode(&layout, &[value(bytes)]);
        assert_eq!(decoded.errors, [(0, Code::RecordDecode, format!("the record's value: {expected}"))]);
        assert_eq!(decoded.columns.num_rows(), 0);
    }
}

#[test]
fn a_name_in_key_and_value_is_read_from_the_key() {
    let mut layout = source(&[("card", DataType::Utf8), ("amount", DataType::Float64)], 1);
    layout.value.insert(0, FieldLayout::of_column("card", &DataType::Utf8));
    let decoded = decode(
        &layout,
        &[
            record(Some(b"k"), Some(br#"{"card":17,"amount":1.5}"#)),
            record(None, Some(br#"{"card":"v","amount":1.5}"#)),
        ],
    );
    assert!(decoded.errors.is_empty());
    let expected = [r#"{"card":"k"} {"amount":1.5}"#, r#"null {"amount":1.5}"#];
    assert_eq!(rows(&layout, &decoded.columns), expected);
}

#[test]
fn null_keys_and_null_values_are_no_rows_of_nulls() {
    let layout = source(&[("k", DataType::Int64), ("v", DataType::Int64)], 1);
    let key = 9i64.to_be_bytes();
    let decoded = decode(
        &layout,
        &[
            record(Some(&key), None),
            record(None, Some(b"{}")),
            record(Some(b"short"), Some(b"{}")),
            record(Some(&key), Some(br#"{"v":null}"#)),
        ],
    );
    assert_eq!(decoded.rows, [0, 1, 3]);
    let message = "the record's key: found 5 bytes, expected 8 (int64)".to_owned();
    assert_eq!(decoded.errors, [(2, Code::RecordKey, message)]);
    assert_eq!(decoded.null_value.unwrap().iter().collect::<Vec<_>>(), [true, false, false]);
    assert!(decode(&layout, &[value("{}")]).null_value.is_none());
    let keys = decoded.columns.column(0).as_primitive::<Int64Type>();
    assert_eq!(keys.iter().collect::<Vec<_>>(), [Some(9), None, Some(9)]);
    assert_eq!(decoded.columns.column(1).null_count(), 3);
}

#[test]
fn fields_are_read_and_written_under_their_own_names() {
    let mut layout = source(&[("user", DataType::Int64), ("at", record_type())], 0);
    layout.value[0].field = "user-id".to_owned();
    layout.value[1].children[0].field = "the \"id\"".to_owned();
    let json = br#"{"user-id":1,"at":{"the \"id\"":2,"tags":null}}"#;
    let decoded = decode(&layout, &[value(json)]);
    assert_eq!(rows(&layout, &decoded.columns), [r#"null {"user":1,"at":{"id":2,"tags":null}}"#]);
    let mut encoder = SinkEncoder::new(&sink(&layout));
    let encoded = encoder.encode(&decoded.columns, |_| false).unwrap();
    assert_eq!(encoded.get(0).unwrap().unwrap().value, Some(&json[..]));
}

#[test]
fn headers_and_metadata_become_columns() {
    let names = [("trace", DataType::Utf8), ("count", DataType::Int32), ("raw", DataType::Binary)];
    let mut columns = vec![("v", DataType::Int64)];
    columns.extend(names.clone());
    columns.extend([
        ("t", DataType::Utf8),
        ("p", DataType::Int32),
        ("o", DataType::Int64),
        ("at", TIMESTAMP),
    ]);
    let mut layout = source(&columns, 0);
    layout.value.truncate(1);
    layout.headers = names
        .iter()
        .map(|(name, data_type)| HeaderLayout {
            name: (*name).to_owned(),
            header: format!("x-{name}"),
            data_type: data_type.clone(),
        })
        .collect();
    layout.metadata = [
        ("t", Metadata::Topic),
        ("p", Metadata::Partition),
        ("o", Metadata::Offset),
        ("at", Metadata::Timestamp),
    ]
    .map(|(name, what)| (name.to_owned(), what))
    .to_vec();
    let header = |name: &str, value: &[u8]| Header { name: name.to_owned(), value: Some(value.to_vec()) };
    let mut good = value("{}");
    good.headers = vec![
        header("x-trace", b"old"),
        header("x-raw", b"\xff"),
        header("x-count", b"12"),
        header("x-trace", b"new"),
    ];
    let mut bad = value("{}");
    bad.headers = vec![header("x-count", b"twelve")];
    let mut null = value("{}");
    null.headers = vec![header("x-trace", b"there"), Header { name: "x-trace".to_owned(), value: None }];
    let decoded = decode(&layout, &[good, bad, null]);
    assert_eq!(
        rows(&layout, &decoded.columns),
        [
            r#"null {"v":null,"trace":"new","count":12,"raw":"/w==","t":"topic","p":3,"o":7,"at":"1970-01-01T00:00:00.005Z"}"#,
            r#"null {"v":null,"trace":null,"count":null,"raw":null,"t":"topic","p":3,"o":7,"at":"1970-01-01T00:00:00.005Z"}"#,
        ]
    );
    let message = "the record's header `x-count`: found \"twelve\", expected int32".to_owned();
    assert_eq!(decoded.errors, [(1, Code::RecordHeader, message)]);
}

#[test]
fn event_time_comes_from_its_column_and_has_to_be_there() {
    let mut layout = source(&[("at", TIMESTAMP)], 0);
    layout.time = Some(0);
    let records = ["{\"at\":17}", "{}", "{\"at\":-1}"].map(value);
    let mut decoded = decode(&layout, &records);
    assert_eq!(decoded.time, [17]);
    assert_eq!(decoded.columns.column(0).as_primitive::<TimestampMillisecondType>().value(0), 17);
    let messages: Vec<String> =
        decoded.errors.drain(..).map(|(_, code, message)| format!("{code} {message}")).collect();
    assert_eq!(
        messages,
        [
            "M0803 the event time is null: column `at` needs a timestamp",
            "M0803 the event time is -1 (from the column `at`), expected 0 (1970) or later",
        ]
    );
    // A delete has no columns: it is timed by its record.
    assert_eq!(decode(&layout, &[record(None, None)]).time, [5]);
    layout.time = None;
    assert_eq!(decode(&layout, &records[..1]).time, [5]);
    let mut untimed = value("{}");
    untimed.timestamp = -1;
    assert_eq!(decode(&layout, &[untimed]).errors[0].1, Code::RecordTime);
}

#[test]
fn sinks_write_what_the_language_says() {
    let mut layout = source(
        &[("a", DataType::Utf8), ("b", DataType::Int64), ("v", DataType::Float64), ("text", DataType::Utf8)],
        2,
    );
    let json = [r#"{"v":1.0,"text":"x"}"#, r#"{"v":null,"text":null}"#];
    let records = [
        record(Some(br#"{"a":"k","b":1}"#), Some(json[0].as_bytes())),
        record(Some(br#"{"a":null,"b":1}"#), Some(json[1].as_bytes())),
        record(None, Some(json[1].as_bytes())),
    ];
    let columns = decode(&layout, &records).columns;
    layout.headers =
        vec![HeaderLayout { name: "text".to_owned(), header: "h".to_owned(), data_type: DataType::Utf8 }];
    let mut encoder = SinkEncoder::new(&sink(&layout));
    let encoded = encoder.encode(&columns, |row| row == 1).unwrap();
    let all: Vec<_> = encoded.iter().map(Result::unwrap).collect();
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    assert_eq!(text(all[0].key).unwrap(), r#"{"a":"k","b":1}"#);
    assert_eq!(text(all[0].value).unwrap(), json[0]);
    assert_eq!(all[0].headers().collect::<Vec<_>>(), [("h", &b"x"[..])]);
    assert_eq!((text(all[1].key).unwrap(), all[1].value), (r#"{"a":null,"b":1}"#.to_owned(), None));
    assert_eq!((all[2].key, text(all[2].value).unwrap()), (None, json[1].to_owned()));
    assert_eq!((all[2].headers().count(), all[2].partition_key), (0, None));

    let mut raw = sink(&layout);
    raw.value = fields(&[("text", DataType::Utf8)]);
    raw.value_format = Format::String;
    let mut encoder = SinkEncoder::new(&raw);
    let encoded = encoder.encode(&columns, |row| row == 1).unwrap();
    assert_eq!(encoded.get(0).unwrap().unwrap().value, Some(&b"x"[..]));
    assert_eq!(encoded.get(1).unwrap().unwrap().value, None);
    let (code, message) = encoded.get(2).unwrap().unwrap_err();
    assert_eq!(*code, Code::RecordEncode);
    assert!(message.contains("column `text` is null"), "{message}");
    assert!(encoded.get(3).is_none());
}

#[test]
fn a_windowed_key_is_partitioned_without_its_window() {
    let columns = [
        ("card", DataType::Utf8),
        ("window_start", TIMESTAMP),
        ("window_end", TIMESTAMP),
        ("n", DataType::Int64),
    ];
    let mut layout = source(&columns, 3);
    layout.schema.windowed = true;
    let json =
        br#"{"card":"c1","window_start":"1970-01-01T00:00:00.000Z","window_end":"1970-01-01T00:01:00.000Z"}"#;
    let rows = decode(&layout, &[record(Some(json), Some(b"{}"))]).columns;
    let mut encoder = SinkEncoder::new(&sink(&layout));
    let encoded = encoder.encode(&rows, |_| false).unwrap();
    let record = encoded.get(0).unwrap().unwrap();
    assert_eq!((record.key, record.partition_key), (Some(&json[..]), Some(&b"c1"[..])));
}

#[test]
fn records_are_built_from_columns_by_name() {
    let mut layout = source(&[("card", DataType::Utf8), ("amount", DataType::Float64)], 1);
    layout.value[0].field = "amt".to_owned();
    let mut builder = RecordBuilder::new(&layout).unwrap();
    assert_eq!(builder.key(&Part::columns(r#"{"card":"c1"}"#)).unwrap().unwrap(), b"c1");
    assert_eq!(builder.value(&Part::columns(r#"{"amount":12}"#)).unwrap().unwrap(), br#"{"amt":12.0}"#);
    assert_eq!(builder.value(&Part::columns("{}")).unwrap().unwrap(), br#"{"amt":null}"#);
    for null in [Part::columns("null"), Part::columns(r#"{"card":null}"#), Part::columns("{}"), Part::Absent]
    {
        assert_eq!(builder.key(&null).unwrap(), None);
    }
    let unknown = builder.value(&Part::columns(r#"{"amuont":1}"#)).unwrap_err().to_string();
    assert_eq!(unknown, "found the unknown column `amuont`, did you mean `amount`?, at byte 10");
    let wrong = builder.value(&Part::columns(r#"{"amount":"1"}"#)).unwrap_err().to_string();
    assert_eq!(wrong, "field `amount`: found the string \"1\", expected float64, at byte 10");
    assert_eq!(builder.value(&Part::columns(r#"{"amount":3}"#)).unwrap().unwrap(), br#"{"amt":3.0}"#);
    let mut unkeyed = RecordBuilder::new(&source(&[("v", DataType::Int64)], 0)).unwrap();
    let refused = unkeyed.key(&Part::columns("{}")).unwrap_err().to_string();
    assert_eq!(refused, "found an object, expected null: the source has no key, at byte 0");
    assert_eq!(read_column(&DataType::Int64, " 5 ").unwrap().as_primitive::<Int64Type>().value(0), 5);
    assert!(read_column(&DataType::Int64, "5 6").is_err());
}

#[test]
fn lines_are_read_and_written() {
    let text = r#"{"topic":"t","timestamp":5,"key":null,"value":{"amount":12.0},"headers":[["a","x"],["b",{"base64":"/w=="}],["c",null]],"partition":2}"#;
    let Line::Record(line) = Line::parse(text).unwrap() else { panic!("no record") };
    assert_eq!((line.topic.as_deref(), line.timestamp, line.partition), (Some("t"), Some(5), Some(2)));
    assert_eq!(line.key, Part::Null);
    let mut builder = RecordBuilder::new(&source(&[("amount", DataType::Float64)], 0)).unwrap();
    let value = builder.value(&line.value).unwrap().unwrap();
    assert_eq!(value, br#"{"amount":12.0}"#);
    let headers = line.headers.iter().map(|header| (header.name.as_str(), header.value.as_deref()));
    let mut out = Vec::new();
    write_line("t", 5, Written::Bytes(None), Written::Json(&value), headers, Some(2), &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), text);

    let raw = Line::parse(r#"{"key-bytes":"AA==","value-bytes":null}"#).unwrap();
    let Line::Record(raw) = raw else { panic!("no record") };
    assert_eq!((&raw.key, &raw.value), (&Part::Bytes(vec![0]), &Part::Null));
    let mut out = Vec::new();
    write_line("t", 0, Written::Bytes(Some(&[0])), Written::Json(b"null"), [], None, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"topic":"t","timestamp":0,"key-bytes":"AA==","value":null}"#
    );

    assert_eq!(Line::parse(r#" {"restart": true} "#), Ok(Line::Restart));
    assert_eq!(Line::parse(r#"{"advance":"5m"}"#), Ok(Line::Advance("5m".into())));
    assert_eq!(Line::parse(r#"{"wall-clock":"10s"}"#), Ok(Line::WallClock("10s".into())));
    for (wrong, place) in [
        (r#"{"restart":true,"topic":"t"}"#, 0),
        (r#"{"restart":false}"#, 11),
        (r#"{"topik":"t"}"#, 9),
        (r#"{"timestamp":1.5}"#, 13),
        (r#"{"partition":-1}"#, 13),
        (r#"{"value":1}"#, 9),
        (r#"{"key":null,"key-bytes":""}"#, 24),
        (r#"{"key-bytes":"*"}"#, 13),
        (r#"{"headers":[["a"]]}"#, 12),
        (r#"{"key":{}"#, 9),
        ("", 0),
    ] {
        assert_eq!(Line::parse(wrong).map_err(|fault| fault.byte()), Err(place), "{wrong}");
    }
    let located = Line::parse(r#"{"topic":"t","value":{"amount":"x"}}"#).unwrap();
    let Line::Record(located) = located else { panic!("no record") };
    assert_eq!(builder.value(&located.value).unwrap_err().byte(), 31);
}

/// A source with the columns of a batch, the first `key` of them as key.
fn layout_of(rows: &RecordBatch, key: usize) -> SourceLayout {
    let schema = rows.schema();
    let columns: Vec<(&str, DataType)> =
        schema.fields().iter().map(|field| (field.name().as_str(), field.data_type().clone())).collect();
    let mut layout = source(&columns, key);
    layout.key_format = Format::Json;
    layout
}

proptest! {
    #[test]
    fn what_is_written_reads_back(rows in any_batch(), key in 0usize..3) {
        let layout = layout_of(&rows, key.min(rows.num_columns()));
        let floating_key = layout.key.iter().any(|field| is_floating(&field.data_type));
        let mut encoder = SinkEncoder::new(&sink(&layout));
        let records = |encoder: &mut SinkEncoder, rows: &RecordBatch| -> Vec<Record> {
            let encoded = encoder.encode(rows, |_| false).unwrap();
            encoded.iter().map(|row| row.unwrap()).map(|row| record(row.key, row.value)).collect()
        };
        let written = records(&mut encoder, &rows);
        for part in written.iter().flat_map(|record| record.key.iter().chain(&record.value)) {
            prop_assert!(serde_json::from_slice::<serde_json::Value>(part).is_ok());
        }
        let decoded = decode(&layout, &written);
        prop_assert!(decoded.errors.is_empty());
        prop_assert_eq!(decoded.columns.num_rows(), rows.num_rows());
        // NaN and infinity become null (a key of nothing else becomes a null key), everything else comes back.
        for (again, first) in records(&mut encoder, &decoded.columns).iter().zip(&written) {
            prop_assert_eq!(&again.value, &first.value);
            prop_assert!(again.key == first.key || again.key.is_none() && floating_key);
        }
        for (read, column) in decoded.columns.columns().iter().zip(rows.columns()) {
            if !is_floating(column.data_type()) {
                prop_assert_eq!(read, column);
            }
        }
    }

    #[test]
    fn records_of_a_batch_do_not_touch_each_other(
        rows in any_batch(),
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 20),
    ) {
        let layout = layout_of(&rows, 1);
        let mut encoder = SinkEncoder::new(&sink(&layout));
        let encoded = encoder.encode(&rows, |row| row % 7 == 3).unwrap();
        let mut records: Vec<Record> = encoded.iter().map(Result::unwrap).map(|row| record(row.key, row.value)).collect();
        for (record, (place, byte)) in records.iter_mut().zip(wrong).filter(|(_, (_, byte))| byte % 2 == 0) {
            if let Some(value) = &mut record.value {
                let place = place.index(value.len());
                value[place] = byte;
            }
        }
        let mut decoder = SourceDecoder::new(&layout, "topic").unwrap();
        let together = decoder.decode(&records, 0).unwrap();
        let (mut good, mut bad) = (together.rows.iter(), together.errors.iter());
        for (index, record) in records.iter().enumerate() {
            let alone = decoder.decode(std::slice::from_ref(record), 0).unwrap();
            if let Some((_, code, message)) = alone.errors.first() {
                prop_assert_eq!(bad.next(), Some(&(index, *code, message.clone())));
            } else {
                let row = together.rows.iter().position(|row| *row == index).unwrap();
                prop_assert_eq!(good.next(), Some(&index));
                prop_assert_eq!(&together.columns.slice(row, 1), &alone.columns);
            }
        }
        prop_assert_eq!((good.next(), bad.next()), (None, None));
    }

    #[test]
    fn texts_are_accepted_as_serde_json_accepts_them(text in r#"[ \[\]{}:,"\\a1-9e.0u]{0,12}|\{"v":[ \[\]{}:,"\\a1-9e.0untrlfs]{0,9}\}"#) {
        let layout = source(&[("other", DataType::Int64)], 0);
        let expected = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
        let decoded = decode(&layout, &[value(&text)]);
        // Numbers beyond float64 are no error where nobody reads them.
        let accepted = expected.is_ok() || expected.is_err_and(|error| error.to_string().contains("out of range"));
        prop_assert_eq!(decoded.errors.is_empty(), accepted, "{} {:?}", text, decoded.errors);
    }
}

fn is_floating(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float32 | DataType::Float64 => true,
        DataType::List(item) => is_floating(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| is_floating(field.data_type())),
        _ => false,
    }
}
