//! The columns of a stream or table, its key, and the names of types.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema as ArrowSchema, SchemaRef, TimeUnit};

/// Whether a node's rows are events or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Each row is an event of its own.
    Stream,
    /// Each row is a change of the row with its key.
    Table,
}

impl Kind {
    /// `stream` or `table`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Stream => "stream",
            Kind::Table => "table",
        }
    }
}

/// What a node puts out. The first `key` columns are the key, in key order; the others are the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Events or changes.
    pub kind: Kind,
    /// The columns, key columns first. Every column may be null.
    pub columns: SchemaRef,
    /// How many columns are key columns.
    pub key: usize,
    /// Whether the last two key columns are `window_start` and `window_end`; they do not count for partitioning.
    pub windowed: bool,
    /// Whether the last key column is a rank: rows lie in the partition of the others.
    pub ranked: bool,
    /// The row of a window changes no more once stream time reaches `window_end` and this many milliseconds; `None` where nobody
    /// can tell, and without windows.
    pub closes_after: Option<i64>,
}

impl Schema {
    /// A schema from its key columns and value columns.
    pub fn new(kind: Kind, key: Vec<FieldRef>, value: Vec<FieldRef>) -> Self {
        let count = key.len();
        let fields: Vec<FieldRef> = key.into_iter().chain(value).collect();
        Schema {
            kind,
            columns: Arc::new(ArrowSchema::new(fields)),
            key: count,
            windowed: false,
            ranked: false,
            closes_after: None,
        }
    }

    /// The key columns.
    pub fn key_fields(&self) -> &[FieldRef] {
        self.columns.fields().get(..self.key).unwrap_or_default()
    }

    /// The value columns.
    pub fn value_fields(&self) -> &[FieldRef] {
        self.columns.fields().get(self.key..).unwrap_or_default()
    }

    /// The types of the key columns.
    pub(crate) fn key_types(&self) -> impl Iterator<Item = String> {
        self.key_fields().iter().map(|field| type_name(field.data_type()))
    }

    /// The value columns as a schema of their own.
    pub fn value_columns(&self) -> SchemaRef {
        Arc::new(ArrowSchema::new(self.value_fields().to_vec()))
    }

    /// How many key columns decide the partition: all but those of the window.
    pub fn partition_key(&self) -> usize {
        if self.windowed { self.key.saturating_sub(2) } else { self.key }
    }

    /// The names of all columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.fields().iter().map(|field| field.name().as_str())
    }

    /// The position of a column.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns.fields().iter().position(|field| field.name() == name)
    }
}

/// Names and types, as fingerprints of stores have them: columns are stored in their order, and two that change places must not be
/// taken for each other.
pub(crate) fn described(fields: &[FieldRef]) -> impl Iterator<Item = String> {
    fields.iter().map(|field| format!("{} {}", field.name(), type_name(field.data_type())))
}

/// A column that may be null.
pub fn column(name: impl Into<String>, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, true))
}

/// The type of event times: UTC, milliseconds.
pub const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

/// The name of a type in the topology language.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "null".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Int64 => "int64".to_owned(),
        DataType::Float32 => "float32".to_owned(),
        DataType::Float64 => "float64".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytes".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(_, _) => "timestamp".to_owned(),
        DataType::List(item) => format!("list<{}>", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let inner: Vec<String> = fields
                .iter()
                .map(|field| format!("{} = {}", field.name(), type_name(field.data_type())))
                .collect();
            format!("{{ {} }}", inner.join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}

/// The column type in which a result of type `data_type` is kept: narrow integers widen, timestamps become milliseconds,
/// string views become strings. `None` if the language has no such column.
pub fn canonical(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Boolean
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(_, _)
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32 => data_type.clone(),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date64 | DataType::Timestamp(_, _) => TIMESTAMP,
        DataType::Dictionary(_, value) => canonical(value)?,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            DataType::List(Arc::new(Field::new("item", canonical(item.data_type())?, true)))
        }
        DataType::Struct(fields) => {
            let fields: Option<Vec<Field>> = fields
                .iter()
                .map(|field| Some(Field::new(field.name(), canonical(field.data_type())?, true)))
                .collect();
            DataType::Struct(Fields::from(fields?))
        }
        _ => return None,
    })
}
