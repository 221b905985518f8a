//! Columns to Avro bytes: a writer compiled from the columns and the schema that is written.

use arrow::datatypes::DataType;
use hashbrown::HashMap;
use millstream_operators::columns::{Column, Value};
use millstream_operators::diagnostic::listed;
use millstream_operators::schema::type_name;
use serde_json::{Value as Json, json};

use super::super::binary::write_zigzag;
use super::super::layout::FieldLayout;
use super::super::text::rescaled;
use super::schema::{AvroSchema, Schema};

/// Writes rows as values of one schema.
#[derive(Debug)]
pub(crate) struct AvroWriter(Top);

#[derive(Debug)]
enum Top {
    Record(Vec<Field>),
    Value(usize, String, Node),
}

#[derive(Debug)]
struct Field {
    name: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Column(usize, Node),
    /// A field without a column: its default, as bytes.
    Constant(Vec<u8>),
}

#[derive(Debug)]
enum Node {
    Bool,
    Integer,
    Float,
    Double,
    Bytes,
    Fixed(usize),
    Enum(HashMap<String, i64>),
    /// How many units of the schema are a millisecond.
    Timestamp(i64),
    Decimal {
        size: Option<usize>,
        precision: u8,
        scale: i8,
    },
    List(Box<Node>),
    Record(Vec<Field>),
    Union {
        null: Option<i64>,
        branch: i64,
        value: Box<Node>,
    },
}

/// The schema that columns are written with if the user gives none: a record of unions with null, since every column may
/// be null.
pub(crate) fn derived<'f>(name: &str, fields: impl IntoIterator<Item = &'f FieldLayout>) -> Json {
    let fields: Vec<Json> = fields
        .into_iter()
        .map(|field| {
            let inner = derived_type(&format!("{name}_{}", field.field), field);
            json!({ "name": field.field, "type": ["null", inner], "default": null })
        })
        .collect();
    json!({ "type": "record", "name": name, "fields": fields })
}

fn derived_type(name: &str, layout: &FieldLayout) -> Json {
    match &layout.data_type {
        DataType::Boolean => json!("boolean"),
        DataType::Int32 => json!("int"),
        DataType::Int64 => json!("long"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Decimal128(precision, scale) => {
            json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
        }
        DataType::Binary => json!("bytes"),
        DataType::Date32 => json!({ "type": "int", "logicalType": "date" }),
        DataType::Timestamp(..) => json!({ "type": "long", "logicalType": "timestamp-millis" }),
        DataType::List(_) => {
            let item = layout.children.first().map_or(json!("null"), |item| derived_type(name, item));
            json!({ "type": "array", "items": ["null", item] })
        }
        DataType::Struct(_) => derived(name, &layout.children),
        _ => json!("string"),
    }
}

impl AvroWriter {
    /// A writer of columns as values of `schema`.
    ///
    /// # Errors
    /// If the columns cannot be written so.
    pub(crate) fn new<'f>(
        schema: &AvroSchema,
        fields: impl Iterator<Item = (usize, &'f FieldLayout)>,
    ) -> Result<Self, String> {
        let fields: Vec<(usize, &FieldLayout)> = fields.collect();
        Ok(AvroWriter(match (&schema.root, fields.as_slice()) {
            (root @ Schema::Record(..), _) => Top::Record(record(root, schema, &fields)?),
            (root, [(column, field)]) => Top::Value(*column, field.name.clone(), node(root, schema, field)?),
            (other, _) => {
                return Err(format!(
                    "the schema is {}, expected a record, since there is not exactly one column",
                    other.describe()
                ));
            }
        }))
    }

    /// Appends the body of a row's record.
    ///
    /// # Errors
    /// If a value of the row does not fit the schema.
    #[inline]
    pub(crate) fn write(&self, columns: &[Column<'_>], row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        match &self.0 {
            Top::Record(fields) => write_record(fields, columns, row, out),
            Top::Value(column, name, node) => {
                let value = columns.get(*column).map_or(Value::Null, |column| column.value(row));
                node.write(value, out).map_err(|why| format!("column `{name}`: {why}"))
            }
        }
    }
}

fn record(
    schema: &Schema,
    whole: &AvroSchema,
    columns: &[(usize, &FieldLayout)],
) -> Result<Vec<Field>, String> {
    let Schema::Record(_, fields) = schema else { return Err("no record".to_owned()) };
    let in_schema = |layout: &FieldLayout| fields.iter().any(|field| field.name == layout.field);
    if let Some((_, layout)) = columns.iter().find(|(_, layout)| !in_schema(layout)) {
        return Err(format!(
            "the schema has no field `{}` for the column; its fields are {}",
            layout.field,
            listed(fields.iter().map(|field| field.name.as_str()))
        ));
    }
    let fields = fields.iter().map(|field| {
        let within = |why: String| format!("field `{}`: {why}", field.name);
        let source = match columns.iter().find(|(_, layout)| layout.field == field.name) {
            Some((column, layout)) => {
                Source::Column(*column, node(&field.schema, whole, layout).map_err(within)?)
            }
            None => {
                let nullable = matches!(whole.resolved(&field.schema), Schema::Union(variants)
                    if variants.iter().any(|variant| matches!(variant, Schema::Null)));
                let default = field.default.as_ref().or(nullable.then_some(&Json::Null));
                let default =
                    default.ok_or_else(|| within("no column goes to it, and it has no default".into()))?;
                Source::Constant(default_bytes(default, &field.schema, whole).map_err(within)?)
            }
        };
        Ok(Field { name: field.name.clone(), source })
    });
    fields.collect()
}

/// A default of a schema as bytes.
pub(super) fn default_bytes(default: &Json, schema: &Schema, whole: &AvroSchema) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    write_default(default, schema, whole, &mut bytes)?;
    Ok(bytes)
}

fn write_default(
    default: &Json,
    schema: &Schema,
    whole: &AvroSchema,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let schema = whole.resolved(schema);
    let misfit = || format!("its default {default} is no value of {}", schema.describe());
    match (schema, default) {
        // The default of a union is a value of its first type; newer writers take the first that fits.
        (Schema::Union(variants), _) => {
            for (variant, branch) in variants.iter().zip(0i64..) {
                let start = out.len();
                write_zigzag(branch, out);
                if write_default(default, variant, whole, out).is_ok() {
                    return Ok(());
                }
                out.truncate(start);
            }
            return Err(misfit());
        }
        (Schema::Null, Json::Null) => {}
        (Schema::Boolean, Json::Bool(value)) => out.push(u8::from(*value)),
        (Schema::Int | Schema::Long | Schema::Date | Schema::Timestamp(_), Json::Number(number)) => {
            write_zigzag(number.as_i64().ok_or_else(misfit)?, out);
        }
        (Schema::Float, Json::Number(number)) => {
            out.extend_from_slice(&(number.as_f64().ok_or_else(misfit)? as f32).to_le_bytes());
        }
        (Schema::Double, Json::Number(number)) => {
            out.extend_from_slice(&number.as_f64().ok_or_else(misfit)?.to_le_bytes());
        }
        (Schema::String, Json::String(text)) => prefixed(text.as_bytes(), out),
        (Schema::Bytes | Schema::Fixed(_) | Schema::Decimal { .. }, Json::String(text)) => {
            // Each character stands for a byte.
            let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
            let bytes = bytes.ok_or_else(misfit)?;
            match schema {
                Schema::Fixed(size) | Schema::Decimal { size: Some(size), .. } if bytes.len() == *size => {
                    out.extend_from_slice(&bytes);
                }
                Schema::Bytes | Schema::Decimal { size: None, .. } => prefixed(&bytes, out),
                _ => return Err(misfit()),
            }
        }
        (Schema::Enum(_, symbols), Json::String(text)) => {
            let symbol = symbols.iter().zip(0i64..).find(|(symbol, _)| *symbol == text);
            write_zigzag(symbol.ok_or_else(misfit)?.1, out);
        }
        (Schema::Array(schema), Json::Array(items)) => {
            if !items.is_empty() {
                write_zigzag(i64::try_from(items.len()).unwrap_or(i64::MAX), out);
                items.iter().try_for_each(|item| write_default(item, schema, whole, out))?;
            }
            out.push(0);
        }
        (Schema::Map(schema), Json::Object(entries)) => {
            if !entries.is_empty() {
                write_zigzag(i64::try_from(entries.len()).unwrap_or(i64::MAX), out);
                for (key, value) in entries {
                    prefixed(key.as_bytes(), out);
                    write_default(value, schema, whole, out)?;
                }
            }
            out.push(0);
        }
        (Schema::Record(_, fields), Json::Object(values)) => {
            for field in fields {
                let value = values.get(&field.name).or(field.default.as_ref()).ok_or_else(misfit)?;
                write_default(value, &field.schema, whole, out)?;
            }
        }
        _ => return Err(misfit()),
    }
    Ok(())
}

fn node(schema: &Schema, whole: &AvroSchema, layout: &FieldLayout) -> Result<Node, String> {
    let schema = whole.resolved(schema);
    let wanted = &layout.data_type;
    let misfit = || format!("{} cannot be written as {}", type_name(wanted), schema.describe());
    Ok(match (schema, wanted) {
        (Schema::Union(variants), _) => {
            let null = variants.iter().zip(0i64..).find(|(variant, _)| matches!(variant, Schema::Null));
            let null = null.map(|(_, branch)| branch);
            let mut why = None;
            for (variant, branch) in variants.iter().zip(0i64..) {
                if Some(branch) == null {
                    continue;
                }
                match node(variant, whole, layout) {
                    Ok(value) => return Ok(Node::Union { null, branch, value: Box::new(value) }),
                    Err(error) => why = why.or(Some(error)),
                }
            }
            return Err(why.unwrap_or_else(misfit));
        }
        (Schema::Boolean, DataType::Boolean) => Node::Bool,
        (Schema::Int, DataType::Int32)
        | (Schema::Long, DataType::Int32 | DataType::Int64)
        | (Schema::Date, DataType::Date32) => Node::Integer,
        (Schema::Float, DataType::Float32) => Node::Float,
        (Schema::Double, DataType::Float32 | DataType::Float64) => Node::Double,
        (Schema::String, DataType::Utf8) | (Schema::Bytes, DataType::Binary | DataType::Utf8) => Node::Bytes,
        (Schema::Fixed(size), DataType::Binary) => Node::Fixed(*size),
        (Schema::Enum(_, symbols), DataType::Utf8) => {
            Node::Enum(symbols.iter().cloned().zip(0i64..).collect())
        }
        (Schema::Long, DataType::Timestamp(..)) => Node::Timestamp(1),
        (Schema::Timestamp(unit), DataType::Timestamp(..)) => Node::Timestamp(*unit),
        (Schema::Decimal { size, precision, scale }, DataType::Decimal128(..)) => {
            Node::Decimal { size: *size, precision: (*precision).min(38), scale: *scale }
        }
        (Schema::Array(items), DataType::List(_)) => {
            let item = layout.children.first().ok_or_else(misfit)?;
            Node::List(Box::new(node(items, whole, item).map_err(|why| format!("item: {why}"))?))
        }
        (Schema::Record(..), DataType::Struct(_)) => {
            let children: Vec<(usize, &FieldLayout)> = layout.children.iter().enumerate().collect();
            Node::Record(record(schema, whole, &children)?)
        }
        _ => return Err(misfit()),
    })
}

fn write_record(
    fields: &[Field],
    columns: &[Column<'_>],
    row: usize,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    for field in fields {
        match &field.source {
            Source::Column(column, node) => {
                let value = columns.get(*column).map_or(Value::Null, |column| column.value(row));
                node.write(value, out).map_err(|why| format!("field `{}`: {why}", field.name))?;
            }
            Source::Constant(bytes) => out.extend_from_slice(bytes),
        }
    }
    Ok(())
}

impl Node {
    fn write(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match (self, value) {
            (Node::Union { null: Some(null), .. }, Value::Null) => write_zigzag(*null, out),
            (Node::Union { branch, value: node, .. }, value) => {
                write_zigzag(*branch, out);
                node.write(value, out)?;
            }
            (_, Value::Null) => {
                return Err("the value is null, which the schema does not allow: give it a value (`coalesce`), or make \
                            the field a union with null"
                    .to_owned());
            }
            (Node::Bool, Value::Bool(value)) => out.push(u8::from(value)),
            (Node::Integer, Value::Int32(value) | Value::Date(value)) => write_zigzag(i64::from(value), out),
            (Node::Integer, Value::Int64(value)) => write_zigzag(value, out),
            (Node::Float, Value::Float32(value)) => out.extend_from_slice(&value.to_le_bytes()),
            (Node::Double, Value::Float32(value)) => out.extend_from_slice(&f64::from(value).to_le_bytes()),
            (Node::Double, Value::Float64(value)) => out.extend_from_slice(&value.to_le_bytes()),
            (Node::Bytes, Value::String(text)) => prefixed(text.as_bytes(), out),
            (Node::Bytes, Value::Bytes(bytes)) => prefixed(bytes, out),
            (Node::Fixed(size), Value::Bytes(bytes)) => {
                if bytes.len() != *size {
                    return Err(format!("the value has {} bytes, and the schema says {size}", bytes.len()));
                }
                out.extend_from_slice(bytes);
            }
            (Node::Enum(symbols), Value::String(text)) => match symbols.get(text) {
                Some(symbol) => write_zigzag(*symbol, out),
                None => return Err(format!("the schema's enum has no symbol {text:?}")),
            },
            (Node::Timestamp(unit), Value::Timestamp(millis)) => {
                let units = millis.checked_mul(*unit);
                write_zigzag(
                    units.ok_or_else(|| format!("the timestamp {millis} ms is out of the schema's range"))?,
                    out,
                );
            }
            (Node::Decimal { size, precision, scale }, Value::Decimal(number, from)) => {
                let bytes = rescaled(number, from, *scale, *precision)?.to_be_bytes();
                let minimal = minimal(&bytes);
                match size {
                    None => prefixed(minimal, out),
                    Some(size) if minimal.len() <= *size => {
                        let sign = if number < 0 { 0xff } else { 0 };
                        out.resize(out.len() + size - minimal.len(), sign);
                        out.extend_from_slice(minimal);
                    }
                    Some(size) => {
                        return Err(format!("the decimal needs more than the schema's {size} bytes"));
                    }
                }
            }
            (Node::List(node), Value::List(items, from, to)) => {
                if to > from {
                    write_zigzag(i64::try_from(to - from).unwrap_or(i64::MAX), out);
                    for item in from..to {
                        node.write(items.value(item), out)
                            .map_err(|why| format!("item {}: {why}", item - from))?;
                    }
                }
                out.push(0);
            }
            (Node::Record(fields), Value::Struct(columns, row)) => write_record(fields, columns, row, out)?,
            _ => return Err("the value has a type that the schema does not allow".to_owned()),
        }
        Ok(())
    }
}

fn prefixed(bytes: &[u8], out: &mut Vec<u8>) {
    write_zigzag(i64::try_from(bytes.len()).unwrap_or(i64::MAX), out);
    out.extend_from_slice(bytes);
}

/// The fewest bytes in two's complement, as Java's `BigInteger.toByteArray` gives them.
fn minimal(bytes: &[u8; 16]) -> &[u8] {
    let redundant = bytes.windows(2).take_while(|pair| {
        matches!(pair, [0x00, next] if next & 0x80 == 0) || matches!(pair, [0xff, next] if next & 0x80 != 0)
    });
    bytes.get(redundant.count()..).unwrap_or_default()
}
