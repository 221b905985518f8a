//! Columns to JSON text: compact, fields in the order of the columns.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use millstream_operators::columns::{Column, Value};
use serde::Serialize;

use super::json_read::Names;
use super::layout::FieldLayout;
use super::text::{write_date, write_decimal, write_timestamp};

/// The fields of an object and the columns they come from.
#[derive(Debug)]
pub(crate) struct ObjectWriter {
    fields: Vec<FieldWriter>,
}

#[derive(Debug)]
struct FieldWriter {
    /// `"name":`, with the `{` or `,` before it.
    prefix: Vec<u8>,
    column: usize,
    value: ValueWriter,
}

/// The fields of a value's type.
#[derive(Debug)]
pub(crate) enum ValueWriter {
    /// A value without fields.
    Plain,
    /// A list of values.
    List(Box<ValueWriter>),
    /// An object.
    Struct(ObjectWriter),
}

impl ObjectWriter {
    pub(crate) fn new<'f>(fields: impl IntoIterator<Item = (usize, &'f FieldLayout)>, names: Names) -> Self {
        let fields = fields.into_iter().enumerate().map(|(index, (column, field))| {
            let mut prefix = vec![if index == 0 { b'{' } else { b',' }];
            write_json(names.of(field), &mut prefix);
            prefix.push(b':');
            FieldWriter { prefix, column, value: ValueWriter::new(field, names) }
        });
        ObjectWriter { fields: fields.collect() }
    }

    /// Appends an object of a row's columns.
    pub(crate) fn write(&self, columns: &[Column<'_>], row: usize, out: &mut Vec<u8>) {
        if self.fields.is_empty() {
            out.push(b'{');
        }
        for field in &self.fields {
            out.extend_from_slice(&field.prefix);
            match columns.get(field.column) {
                Some(column) => field.value.write(column.value(row), out),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
    }
}

impl ValueWriter {
    pub(crate) fn new(layout: &FieldLayout, names: Names) -> Self {
        match (&layout.data_type, layout.children.first()) {
            (arrow::datatypes::DataType::List(_), Some(item)) => {
                ValueWriter::List(Box::new(ValueWriter::new(item, names)))
            }
            (arrow::datatypes::DataType::Struct(_), _) => {
                ValueWriter::Struct(ObjectWriter::new(layout.children.iter().enumerate(), names))
            }
            _ => ValueWriter::Plain,
        }
    }

    /// Appends a value.
    #[inline]
    pub(crate) fn write(&self, value: Value<'_>, out: &mut Vec<u8>) {
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
            Value::Int32(value) => write_json(&value, out),
            Value::Int64(value) => write_json(&value, out),
            // Not a number and the infinities become null.
            Value::Float32(value) => write_json(&value, out),
            Value::Float64(value) => write_json(&value, out),
            Value::String(value) => write_json(value, out),
            Value::Decimal(value, scale) => quoted(out, |out| write_decimal(value, scale, out)),
            Value::Bytes(value) => quoted(out, |out| out.extend_from_slice(BASE64.encode(value).as_bytes())),
            Value::Date(value) => quoted(out, |out| write_date(value, out)),
            Value::Timestamp(value) => quoted(out, |out| write_timestamp(value, out)),
            Value::List(items, start, end) => {
                out.push(b'[');
                for item in start..end {
                    if item > start {
                        out.push(b',');
                    }
                    match self {
                        ValueWriter::List(writer) => writer.write(items.value(item), out),
                        _ => ValueWriter::Plain.write(items.value(item), out),
                    }
                }
                out.push(b']');
            }
            Value::Struct(fields, row) => match self {
                ValueWriter::Struct(writer) => writer.write(fields, row, out),
                _ => out.extend_from_slice(b"{}"),
            },
        }
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Appends what `serde_json` makes of a number or string: floats with the fewest digits that read back as themselves.
pub(crate) fn write_json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    // Writing plain values to memory cannot fail.
    let _: Result<(), serde_json::Error> = serde_json::to_writer(out, value);
}
