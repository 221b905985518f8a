//! Avro and Protobuf records to rows and back, through the public surface.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use millstream_operators::schema::{Kind, Schema, TIMESTAMP, column};
use proptest::prelude::*;
use prost_reflect::prost::Message;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
};

use super::by_name::{RecordBuilder, RowWriter};
use super::layout::{FieldLayout, Format, SinkLayout, SourceLayout};
use super::line::Part;
use super::schemas::SchemaFormat;
use super::{SinkEncoder, SourceDecoder};
use crate::record::Record;
use crate::schema_registry::{SchemaKind, SchemaRegistry, SchemaText};
use crate::testing::any_batch;

fn format(kind: SchemaKind, given: Option<SchemaText>, framed: bool) -> SchemaFormat {
    SchemaFormat {
        kind,
        subject: "topic-value".to_owned(),
        name: "topic".to_owned(),
        given,
        message: None,
        framed,
        registry: Arc::new(SchemaRegistry::default()),
    }
}

fn layout(format: &SchemaFormat, columns: &[(&str, DataType)]) -> SourceLayout {
    let of = columns.iter().map(|(name, data_type)| column(*name, data_type.clone())).collect();
    SourceLayout {
        schema: Schema::new(Kind::Stream, Vec::new(), of),
        key: Vec::new(),
        key_format: Format::Json,
        value: columns.iter().map(|(name, data_type)| FieldLayout::of_column(name, data_type)).collect(),
        value_format: Format::Schema(Arc::new(format.clone())),
        headers: Vec::new(),
        metadata: Vec::new(),
        time: None,
    }
}

fn record(value: Vec<u8>) -> Record {
    Record { key: None, value: Some(value), timestamp: 5, headers: Vec::new(), offset: 7 }
}

/// What bytes are read as: the row in JSON, or the error.
fn read(layout: &SourceLayout, bytes: &[u8]) -> String {
    let mut decoder = SourceDecoder::new(layout, "topic").unwrap();
    let decoded = decoder.decode(&[record(bytes.to_vec())], 0).unwrap();
    if let Some((_, _, message)) = decoded.errors.into_iter().next() {
        return message;
    }
    let writer = RowWriter::new(&layout.schema);
    let mut text = Vec::new();
    writer.rows(&decoded.columns).unwrap().write_value(0, &mut text);
    String::from_utf8(text).unwrap()
}

/// The bytes of a row in JSON, or the error.
fn written(layout: &SourceLayout, json: &str) -> Result<Vec<u8>, String> {
    let mut builder = RecordBuilder::new(layout).unwrap();
    builder.value(&Part::columns(json)).map(Option::unwrap).map_err(|fault| fault.to_string())
}

fn avro(text: &str) -> SchemaText {
    SchemaText::new(SchemaKind::Avro, text)
}

fn bare(schema: &str) -> SchemaFormat {
    format(SchemaKind::Avro, Some(avro(schema)), false)
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

/// Reads what `writer` wrote with the columns alone, and with a reader's schema.
fn evolved(writer: &str, reader: Option<&str>, columns: &[(&str, DataType)], body: &[u8]) -> String {
    let format = format(SchemaKind::Avro, reader.map(avro), true);
    let id = format.registry.id("topic-value", &avro(writer)).unwrap();
    let bytes = [&[0][..], &id.to_be_bytes(), body].concat();
    read(&layout(&format, columns), &bytes)
}

#[test]
fn avro_bytes_are_those_of_the_specification() {
    let schema = r#"{"type":"record","name":"r","fields":[
        {"name":"a","type":"long"}, {"name":"s","type":"string"}, {"name":"n","type":["null","double"]},
        {"name":"l","type":{"type":"array","items":"int"}}, {"name":"e","type":{"type":"enum","name":"e","symbols":["X","Y"]}},
        {"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
        {"name":"f","type":{"type":"fixed","name":"f","size":3,"logicalType":"decimal","precision":6,"scale":0}},
        {"name":"u","type":{"type":"long","logicalType":"timestamp-micros"}}, {"name":"o","type":"string","default":"né"}]}"#;
    let columns = [
        ("a", DataType::Int64),
        ("s", DataType::Utf8),
        ("n", DataType::Float64),
        ("l", list(DataType::Int32)),
        ("e", DataType::Utf8),
        ("d", DataType::Decimal128(8, 2)),
        ("f", DataType::Decimal128(6, 0)),
        ("u", TIMESTAMP),
    ];
    let layout = layout(&bare(schema), &columns);
    let row = r#"{"a":-65,"s":"né","n":0.5,"l":[1,-1],"e":"Y","d":"-1.28","f":"-2","u":"1970-01-01T00:00:00.001Z"}"#;
    let bytes = written(&layout, row).unwrap();
    let mut expected = vec![0x81, 0x01, 0x06, b'n', 0xc3, 0xa9, 0x02];
    expected.extend_from_slice(&0.5f64.to_le_bytes());
    expected.extend_from_slice(&[0x04, 0x02, 0x01, 0x00, 0x02, 0x02, 0x80, 0xff, 0xff, 0xfe, 0xd0, 0x0f]);
    expected.extend_from_slice(&[0x06, b'n', 0xc3, 0xa9]);
    assert_eq!(bytes, expected);
    assert_eq!(read(&layout, &bytes), row);
    for (wrong, why) in [
        (r#"{"s":"x"}"#, "field `a`: the value is null, which the schema does not allow"),
        (r#"{"a":1,"s":"x","l":[],"e":"Z"}"#, "field `e`: the schema's enum has no symbol \"Z\""),
    ] {
        let said = written(&layout, wrong).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    for length in 0..bytes.len() {
        assert!(read(&layout, &bytes[..length]).contains("found the end of the bytes"), "{length}");
    }
    let more = [&bytes[..], &[0]].concat();
    assert!(read(&layout, &more).contains("found 1 bytes more than the schema says"));
}

#[test]
fn what_other_writers_wrote_is_resolved_against_the_columns() {
    let (int64, text, double) = (DataType::Int64, DataType::Utf8, DataType::Float64);
    // Fields that nobody wants are passed over, whatever they are, even if they contain themselves.
    let writer = r#"{"type":"record","name":"n.r","fields":[
        {"name":"m","type":{"type":"map","values":"string"}}, {"name":"t","type":["null","r"]},
        {"name":"i","type":"int"}, {"name":"x","type":{"type":"fixed","name":"x","size":2}}, {"name":"y","type":"x"},
        {"name":"b","type":"bytes"}, {"name":"f","type":"float"}]}"#;
    let inner = [&[0x00, 0x00, 0x08, 9, 9, 8, 8, 0x00][..], &1.5f32.to_le_bytes()].concat();
    let body = [
        &[0x01, 0x08, 0x02, b'k', 0x02, b'v', 0x00, 0x02][..],
        &inner,
        &[0x0e, 1, 2, 3, 4, 0x04, b'h', b'i'],
        &0.25f32.to_le_bytes(),
    ]
    .concat();
    let columns = [("i", int64.clone()), ("b", text.clone()), ("f", double.clone()), ("later", text.clone())];
    assert_eq!(evolved(writer, None, &columns, &body), r#"{"i":7,"b":"hi","f":0.25,"later":null}"#);
    // A schema that the user gives has defaults and aliases.
    let reader = r#"{"type":"record","name":"r","fields":[
        {"name":"number","type":"long","aliases":["i"]}, {"name":"later","type":["string","null"],"default":"none"},
        {"name":"list","type":{"type":"array","items":"long"},"default":[1,2]}]}"#;
    let columns = [("number", int64.clone()), ("later", text.clone()), ("list", list(int64.clone()))];
    assert_eq!(evolved(writer, Some(reader), &columns, &body), r#"{"number":7,"later":"none","list":[1,2]}"#);
    let without = r#"{"type":"record","name":"r","fields":[{"name":"later","type":"string"}]}"#;
    assert_eq!(
        evolved(writer, Some(without), &[("later", text.clone())], &body),
        "the record's value: the schema with the id 1: field `later`: the writer's schema lacks it, and the schema given has \
         no default for it"
    );
    // Branches of a union that do not fit fail when they are met; if none fits, all records fail.
    let union = r#"{"type":"record","name":"r","fields":[{"name":"v","type":["null","long","string"]}]}"#;
    assert_eq!(evolved(union, None, &[("v", int64.clone())], &[0x02, 0x04]), r#"{"v":2}"#);
    assert_eq!(evolved(union, None, &[("v", int64.clone())], &[0x00]), r#"{"v":null}"#);
    assert_eq!(evolved(union, None, &[("v", text)], &[0x04, 0x02, b'x']), r#"{"v":"x"}"#);
    assert!(
        evolved(union, None, &[("v", int64)], &[0x04, 0x02, b'x']).contains("string cannot be read as int64")
    );
    let narrow = evolved(union, None, &[("v", DataType::Boolean)], &[0x00]);
    assert!(narrow.contains("the schema with the id 1: field `v`: long cannot be read as bool"), "{narrow}");
    // A nested record in a list, with a field more than the struct has, in blocks.
    let nested = r#"{"type":"record","name":"r","fields":[{"name":"items","type":{"type":"array","items":
        {"type":"record","name":"item","fields":[{"name":"old","type":"string"},{"name":"id","type":"int"}]}}}]}"#;
    let item = DataType::Struct(Fields::from(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("new", DataType::Utf8, true),
    ]));
    assert_eq!(
        evolved(
            nested,
            None,
            &[("items", list(item))],
            &[0x01, 0x06, 0x02, b'o', 0x06, 0x02, 0x00, 0x08, 0x00]
        ),
        r#"{"items":[{"id":3,"new":null},{"id":4,"new":null}]}"#
    );
    // A schema that is no record is the one column.
    assert_eq!(evolved("\"string\"", None, &[("v", DataType::Utf8)], &[0x02, b'k']), r#"{"v":"k"}"#);
}

#[test]
fn records_without_an_id_are_told_apart() {
    let format = format(SchemaKind::Avro, None, true);
    let layout = layout(&format, &[("v", DataType::Int64)]);
    for (bytes, seems) in [
        (&b"{\"v\":1}"[..], "found what looks like JSON"),
        (b"hello", "found the text \"hello\""),
        (b"Obj\x01xxxx", "found an Avro container file"),
        (b"", "found no bytes"),
        (b"\0\0", "found 2 bytes, too few for a schema's id"),
        (b"\xffabcdef", "found 7 bytes that start with 0xff"),
        (b"\0\0\0\0\x09a", "the schema registry does not know the schema id 9"),
    ] {
        let said = read(&layout, bytes);
        assert!(said.contains(seems), "{said}");
    }
}

/// A file with a message of every kind of field, as another writer would have it.
fn order() -> SchemaText {
    let field = |name: &str, number: i32, kind: Type| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(kind.into()),
        ..Default::default()
    };
    let of = |type_name: &str, field: FieldDescriptorProto| FieldDescriptorProto {
        type_name: Some(type_name.to_owned()),
        ..field
    };
    let repeated =
        |field: FieldDescriptorProto| FieldDescriptorProto { label: Some(Label::Repeated.into()), ..field };
    let value = |name: &str, number: i32| EnumValueDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        ..Default::default()
    };
    let file = FileDescriptorProto {
        name: Some("order.proto".to_owned()),
        package: Some("shop".to_owned()),
        syntax: Some("proto3".to_owned()),
        dependency: vec![
            "google/protobuf/timestamp.proto".to_owned(),
            "google/protobuf/wrappers.proto".to_owned(),
        ],
        message_type: vec![
            DescriptorProto { name: Some("Other".to_owned()), ..Default::default() },
            DescriptorProto {
                name: Some("Order".to_owned()),
                field: vec![
                    field("id", 1, Type::Uint64),
                    field("delta", 2, Type::Sint32),
                    repeated(field("counts", 3, Type::Int32)),
                    repeated(field("tags", 4, Type::String)),
                    of(".shop.Order.State", field("state", 5, Type::Enum)),
                    of(".google.protobuf.Timestamp", field("at", 6, Type::Message)),
                    of(".google.protobuf.StringValue", field("note", 7, Type::Message)),
                    of(".shop.Order.Line", field("line", 8, Type::Message)),
                    field("fixed", 9, Type::Fixed64),
                ],
                nested_type: vec![DescriptorProto {
                    name: Some("Line".to_owned()),
                    field: vec![field("sku", 1, Type::String), field("count", 2, Type::Int64)],
                    ..Default::default()
                }],
                enum_type: vec![EnumDescriptorProto {
                    name: Some("State".to_owned()),
                    value: vec![value("NEW", 0), value("PAID", 1)],
                    ..Default::default()
                }],
                ..Default::default()
            },
        ],
        ..Default::default()
    };
    SchemaText::new(SchemaKind::Protobuf, BASE64.encode(file.encode_to_vec()))
}

fn order_columns() -> Vec<(&'static str, DataType)> {
    let line = DataType::Struct(Fields::from(vec![
        Field::new("sku", DataType::Utf8, true),
        Field::new("count", DataType::Int64, true),
    ]));
    vec![
        ("id", DataType::Int64),
        ("delta", DataType::Int32),
        ("counts", list(DataType::Int32)),
        ("tags", list(DataType::Utf8)),
        ("state", DataType::Utf8),
        ("at", TIMESTAMP),
        ("note", DataType::Utf8),
        ("line", line),
        ("fixed", DataType::Int64),
    ]
}

#[test]
fn protobuf_bytes_are_those_of_the_specification() {
    let mut format = format(SchemaKind::Protobuf, Some(order()), true);
    format.message = Some("Order".to_owned());
    let layout = layout(&format, &order_columns());
    let row = r#"{"id":300,"delta":-2,"counts":[1,300],"tags":["a",""],"state":"PAID","at":"1970-01-01T00:00:01.500Z","note":"","line":{"sku":"s","count":0},"fixed":1}"#;
    let bytes = written(&layout, row).unwrap();
    // The id, the second message of the file; packed numbers; default values are left out where they mean nothing.
    let expected: Vec<u8> = [
        &[0, 0, 0, 0, 1, 2, 2][..],
        &[0x08, 0xac, 0x02, 0x10, 0x03, 0x1a, 0x03, 0x01, 0xac, 0x02],
        &[0x22, 0x01, b'a', 0x22, 0x00, 0x28, 0x01],
        &[0x32, 0x08, 0x08, 0x01, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01],
        &[0x3a, 0x00, 0x42, 0x03, 0x0a, 0x01, b's'],
        &[0x49, 1, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(bytes, expected);
    assert_eq!(read(&layout, &bytes), row);
    // Nothing at all: what has presence is null, everything else its default.
    assert_eq!(
        read(&layout, &bytes[..7]),
        r#"{"id":0,"delta":0,"counts":[],"tags":[],"state":"NEW","at":null,"note":null,"line":null,"fixed":0}"#
    );
    // Another writer: numbers one by one, a value twice, a message in two parts, an unknown field and group and symbol.
    let body = [
        &[0x18, 0x05, 0x08, 0x01, 0x18, 0x06, 0x08, 0x02, 0x28, 0x07][..],
        &[0x42, 0x03, 0x0a, 0x01, b's', 0x42, 0x02, 0x10, 0x09],
        &[0xa2, 0x06, 0x01, 0xff, 0x7b, 0x08, 0x01, 0x7c],
    ]
    .concat();
    let other = [&bytes[..7], &body].concat();
    assert_eq!(
        read(&layout, &other),
        r#"{"id":2,"delta":0,"counts":[5,6],"tags":[],"state":"7","at":null,"note":null,"line":{"sku":"s","count":9},"fixed":0}"#
    );
    for (wrong, why) in [
        (&[0x0a, 0x00][..], "field `id`: found the wire type 2, expected 0"),
        (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "out of the range of int64"),
        (&[0x22, 0x05, b'a'], "found the end of the bytes"),
    ] {
        let said = read(&layout, &[&bytes[..7], wrong].concat());
        assert!(said.contains(why), "{said}");
    }
    let said = read(&layout, &[0, 0, 0, 0, 1, 0]);
    assert!(said.contains("it is the message `shop.Other`, expected `shop.Order`"), "{said}");
}

/// A batch's rows through a format without a schema of the user.
fn round_trip(kind: SchemaKind, rows: &RecordBatch) -> (SourceLayout, Vec<Record>, RecordBatch) {
    let schema = rows.schema();
    let columns: Vec<(&str, DataType)> =
        schema.fields().iter().map(|field| (field.name().as_str(), field.data_type().clone())).collect();
    let layout = layout(&format(kind, None, true), &columns);
    let mut encoder = SinkEncoder::new(&SinkLayout {
        schema: layout.schema.clone(),
        key: Vec::new(),
        key_format: Format::Json,
        value: layout.value.clone(),
        value_format: layout.value_format.clone(),
        headers: Vec::new(),
        time: None,
    });
    let encoded = encoder.encode(rows, |_| false).unwrap();
    let records: Vec<Record> =
        encoded.iter().map(|row| record(row.unwrap().value.unwrap().to_vec())).collect();
    let decoded = SourceDecoder::new(&layout, "topic").unwrap().decode(&records, 0).unwrap();
    assert_eq!(decoded.errors, []);
    (layout, records, decoded.columns)
}

/// Whether Protobuf has all types of a column.
fn in_protobuf(data_type: &DataType) -> bool {
    match data_type {
        DataType::Decimal128(..) | DataType::Date32 => false,
        // A list has no null items there, and no lists.
        DataType::List(_) => false,
        DataType::Struct(fields) => fields.iter().all(|field| in_protobuf(field.data_type())),
        _ => true,
    }
}

proptest! {
    #[test]
    fn every_batch_comes_back_from_avro(rows in any_batch()) {
        let (_, _, columns) = round_trip(SchemaKind::Avro, &rows);
        // By their text: NaN is not equal to itself.
        prop_assert_eq!(format!("{columns:?}"), format!("{rows:?}"));
    }

    #[test]
    fn every_batch_comes_back_from_protobuf(rows in any_batch()) {
        let kept: Vec<usize> = rows.schema().fields().iter().enumerate()
            .filter(|(_, field)| in_protobuf(field.data_type())).map(|(index, _)| index).collect();
        let rows = rows.project(&kept).unwrap();
        prop_assume!(rows.num_columns() > 0);
        let (_, _, columns) = round_trip(SchemaKind::Protobuf, &rows);
        prop_assert_eq!(format!("{columns:?}"), format!("{rows:?}"));
    }

    #[test]
    fn broken_bytes_are_an_error_of_their_record(
        rows in any_batch(),
        kind in prop_oneof![Just(SchemaKind::Avro), Just(SchemaKind::Protobuf)],
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 20),
    ) {
        let kept: Vec<usize> = rows.schema().fields().iter().enumerate()
            .filter(|(_, field)| in_protobuf(field.data_type())).map(|(index, _)| index).collect();
        let rows = rows.project(&kept).unwrap();
        prop_assume!(rows.num_columns() > 0);
        let (layout, mut records, _) = round_trip(kind, &rows);
        for (record, (place, byte)) in records.iter_mut().zip(wrong) {
            if let Some(value) = &mut record.value {
                let place = place.index(value.len());
                value[place] = byte;
            }
        }
        let mut decoder = SourceDecoder::new(&layout, "topic").unwrap();
        let together = decoder.decode(&records, 0).unwrap();
        let mut bad = together.errors.iter();
        for (index, record) in records.iter().enumerate() {
            let alone = decoder.decode(std::slice::from_ref(record), 0).unwrap();
            match alone.errors.first() {
                Some((_, code, message)) => prop_assert_eq!(bad.next(), Some(&(index, *code, message.clone()))),
                None => {
                    let row = together.rows.iter().position(|row| *row == index).unwrap();
                    let (one, other) = (together.columns.slice(row, 1), alone.columns);
                    prop_assert_eq!(format!("{one:?}"), format!("{other:?}"));
                }
            }
        }
        prop_assert_eq!(bad.next(), None);
    }
}
