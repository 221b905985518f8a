//! How the columns of a source or sink lie in the bytes of a record.

use std::sync::Arc;

use arrow::datatypes::DataType;
use millstream_operators::schema::Schema;

use super::schemas::SchemaFormat;

/// A format of record keys or values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object.
    Json,
    /// UTF-8 text; one string column.
    String,
    /// The bytes themselves; one bytes column.
    Bytes,
    /// Four bytes, big-endian, as Kafka's `IntegerSerializer` writes them; one int32 column.
    Int32,
    /// Eight bytes, big-endian, as Kafka's `LongSerializer` writes them; one int64 column.
    Int64,
    /// A format with schemas: Avro or Protobuf.
    Schema(Arc<SchemaFormat>),
}

impl Format {
    /// The name in the topology language.
    pub fn name(&self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::String => "string",
            Format::Bytes => "bytes",
            Format::Int32 => "int32",
            Format::Int64 => "int64",
            Format::Schema(format) => format.kind.name(),
        }
    }
}

/// A column and the field of the record that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldLayout {
    /// The column's name.
    pub name: String,
    /// The field's name in the record; mostly the same.
    pub field: String,
    /// The column's type.
    pub data_type: DataType,
    /// For a struct its fields, for a list its item, else empty.
    pub children: Vec<FieldLayout>,
}

impl FieldLayout {
    /// A field named like its column, and so all fields within.
    pub fn of_column(name: &str, data_type: &DataType) -> Self {
        let children = match data_type {
            DataType::List(item) => vec![FieldLayout::of_column(item.name(), item.data_type())],
            DataType::Struct(fields) => {
                fields.iter().map(|field| FieldLayout::of_column(field.name(), field.data_type())).collect()
            }
            _ => Vec::new(),
        };
        FieldLayout { name: name.to_owned(), field: name.to_owned(), data_type: data_type.clone(), children }
    }
}

impl Format {
    /// The format of keys of these columns if the user names none: raw for one string, int32, int64 or bytes column, else
    /// JSON.
    pub fn default_for_key(columns: &[FieldLayout]) -> Self {
        match columns {
            [one] => match one.data_type {
                DataType::Utf8 => Format::String,
                DataType::Binary => Format::Bytes,
                DataType::Int32 => Format::Int32,
                DataType::Int64 => Format::Int64,
                _ => Format::Json,
            },
            _ => Format::Json,
        }
    }
}

/// What a metadata column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// The topic's name, a string.
    Topic,
    /// The partition, an int32.
    Partition,
    /// The offset, an int64.
    Offset,
    /// The record's timestamp.
    Timestamp,
}

/// A column read from a record header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderLayout {
    /// The column's name.
    pub name: String,
    /// The header's name; of several headers of one name the last counts.
    pub header: String,
    /// The column's type.
    pub data_type: DataType,
}

/// How the records of a source become rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLayout {
    /// The resulting columns: key, value (without names that the key has), headers, metadata.
    pub schema: Schema,
    /// The key's columns, in order; empty for an unkeyed source.
    pub key: Vec<FieldLayout>,
    /// The key's format.
    pub key_format: Format,
    /// The value's columns, in order; names that the key has too are read from the key.
    pub value: Vec<FieldLayout>,
    /// The value's format.
    pub value_format: Format,
    /// Header columns.
    pub headers: Vec<HeaderLayout>,
    /// Metadata columns.
    pub metadata: Vec<(String, Metadata)>,
    /// The column that holds the event time; `None`: the record's timestamp.
    pub time: Option<usize>,
}

/// How rows become the records of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkLayout {
    /// The rows' columns.
    pub schema: Schema,
    /// The key's columns, in order: columns of the schema by name.
    pub key: Vec<FieldLayout>,
    /// The key's format.
    pub key_format: Format,
    /// The value's columns, in order: columns of the schema by name.
    pub value: Vec<FieldLayout>,
    /// The value's format.
    pub value_format: Format,
    /// Record headers and the columns they are written from.
    pub headers: Vec<HeaderLayout>,
    /// The column that becomes the record's timestamp; `None`: the row's event time.
    pub time: Option<usize>,
}
