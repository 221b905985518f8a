//! Columns to Protobuf bytes: a writer compiled from the columns and the message that is written. Fields are written in the
//! order of their numbers, as Java's and C++'s libraries do, so that equal keys are equal bytes.

use arrow::datatypes::DataType;
use hashbrown::HashMap;
use millstream_operators::columns::{Column, Value};
use millstream_operators::schema::type_name;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::super::binary::{write_varint, write_zigzag};
use super::super::layout::FieldLayout;
use super::read::describe;
use super::{FIXED32, FIXED64, PREFIXED, TIMESTAMP, VARINT, WRAPPERS, field_of};

/// Writes rows as one message.
#[derive(Debug)]
pub(crate) struct MessageWriter {
    /// By number.
    fields: Vec<FieldWriter>,
}

#[derive(Debug)]
struct FieldWriter {
    number: u32,
    name: String,
    column: usize,
    repeated: bool,
    packed: bool,
    required: bool,
    /// Whether a value that is the type's default is written too.
    presence: bool,
    node: Node,
}

#[derive(Debug)]
enum Node {
    Bool,
    Plain,
    Unsigned,
    ZigZag,
    Fixed32,
    Fixed64,
    UnsignedFixed32,
    UnsignedFixed64,
    Float,
    Double,
    Bytes,
    Enum(HashMap<String, i32>),
    Timestamp,
    Wrapper(Box<Node>),
    Message(MessageWriter),
}

impl MessageWriter {
    /// A writer of columns as a message.
    ///
    /// # Errors
    /// If the columns cannot be written so.
    pub(crate) fn new<'f>(
        message: &MessageDescriptor,
        columns: impl Iterator<Item = (usize, &'f FieldLayout)>,
    ) -> Result<Self, String> {
        let mut fields = Vec::new();
        for (column, layout) in columns {
            let field = field_of(message, layout)?;
            let within = |why: String| format!("field `{}`: {why}", layout.field);
            let repeated = field.cardinality() == prost_reflect::Cardinality::Repeated;
            let of = match (matches!(layout.data_type, DataType::List(_)), repeated) {
                (false, false) => layout,
                (true, true) => {
                    layout.children.first().ok_or_else(|| within("a list without items".into()))?
                }
                (false, true) => return Err(within("it is repeated, and the column is no list".into())),
                (true, false) => return Err(within("it is not repeated, and the column is a list".into())),
            };
            fields.push(FieldWriter {
                number: field.number(),
                name: field.name().to_owned(),
                column,
                repeated,
                packed: field.is_packed(),
                required: field.is_required(),
                presence: field.supports_presence(),
                node: node(&field, of).map_err(within)?,
            });
        }
        let is_written =
            |field: &FieldDescriptor| fields.iter().any(|written| written.number == field.number());
        if let Some(field) = message.fields().find(|field| field.is_required() && !is_written(field)) {
            return Err(format!("the field `{}` is required, and no column goes to it", field.name()));
        }
        fields.sort_by_key(|field| field.number);
        Ok(MessageWriter { fields })
    }

    /// Appends a row's message.
    ///
    /// # Errors
    /// If a value of the row does not fit the message.
    pub(crate) fn write(&self, columns: &[Column<'_>], row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        for field in &self.fields {
            let value = columns.get(field.column).map_or(Value::Null, |column| column.value(row));
            field.write(value, out).map_err(|why| format!("field `{}`: {why}", field.name))?;
        }
        Ok(())
    }
}

fn node(field: &FieldDescriptor, layout: &FieldLayout) -> Result<Node, String> {
    let wanted = &layout.data_type;
    let narrow = matches!(wanted, DataType::Int32);
    let wide = matches!(wanted, DataType::Int32 | DataType::Int64 | DataType::Timestamp(..));
    let unsigned = matches!(wanted, DataType::Int32 | DataType::Int64);
    let found = match (field.kind(), wanted) {
        (Kind::Bool, DataType::Boolean) => Some(Node::Bool),
        (Kind::Int32, _) => narrow.then_some(Node::Plain),
        (Kind::Int64, _) => wide.then_some(Node::Plain),
        (Kind::Uint32 | Kind::Uint64, _) => unsigned.then_some(Node::Unsigned),
        (Kind::Sint32, _) => narrow.then_some(Node::ZigZag),
        (Kind::Sint64, _) => wide.then_some(Node::ZigZag),
        (Kind::Sfixed32, _) => narrow.then_some(Node::Fixed32),
        (Kind::Sfixed64, _) => wide.then_some(Node::Fixed64),
        (Kind::Fixed32, _) => narrow.then_some(Node::UnsignedFixed32),
        (Kind::Fixed64, _) => unsigned.then_some(Node::UnsignedFixed64),
        (Kind::Float, DataType::Float32) => Some(Node::Float),
        (Kind::Double, DataType::Float32 | DataType::Float64) => Some(Node::Double),
        (Kind::String, DataType::Utf8) | (Kind::Bytes, DataType::Binary) => Some(Node::Bytes),
        (Kind::Enum(symbols), DataType::Utf8) => Some(Node::Enum(
            symbols.values().map(|value| (value.name().to_owned(), value.number())).collect(),
        )),
        (Kind::Message(message), DataType::Timestamp(..)) if message.full_name() == TIMESTAMP => {
            Some(Node::Timestamp)
        }
        (Kind::Message(message), _) if WRAPPERS.contains(&message.full_name()) => {
            match message.get_field(1) {
                Some(value) => Some(Node::Wrapper(Box::new(node(&value, layout)?))),
                None => None,
            }
        }
        (Kind::Message(message), DataType::Struct(_)) if !field.is_group() => {
            Some(Node::Message(MessageWriter::new(&message, layout.children.iter().enumerate())?))
        }
        _ => None,
    };
    found.ok_or_else(|| format!("{} cannot be written as {}", type_name(wanted), describe(field)))
}

impl FieldWriter {
    fn write(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match value {
            Value::Null if self.required => Err("the value is null, and the field is required".to_owned()),
            Value::Null => Ok(()),
            Value::List(items, from, to) if self.repeated => {
                let item = |index: usize, out: &mut Vec<u8>| match items.value(index) {
                    Value::Null => Err(format!("item {} is null, which Protobuf cannot write", index - from)),
                    value => self.node.write(value, out),
                };
                if self.packed && to > from {
                    tag(self.number, PREFIXED, out);
                    return prefixed(out, |out| (from..to).try_for_each(|index| item(index, out)));
                }
                (from..to).try_for_each(|index| {
                    tag(self.number, self.node.wire(), out);
                    item(index, out)
                })
            }
            value if !self.presence && self.node.is_default(value) => Ok(()),
            value => {
                tag(self.number, self.node.wire(), out);
                self.node.write(value, out)
            }
        }
    }
}

impl Node {
    fn wire(&self) -> u32 {
        match self {
            Node::Bool | Node::Plain | Node::Unsigned | Node::ZigZag | Node::Enum(_) => VARINT,
            Node::Fixed32 | Node::UnsignedFixed32 | Node::Float => FIXED32,
            Node::Fixed64 | Node::UnsignedFixed64 | Node::Double => FIXED64,
            Node::Bytes | Node::Timestamp | Node::Wrapper(_) | Node::Message(_) => PREFIXED,
        }
    }

    /// Whether a value is the one that an absent field has. Negative zero is not.
    fn is_default(&self, value: Value<'_>) -> bool {
        match (self, value) {
            (Node::Enum(names), Value::String(text)) => names.get(text) == Some(&0),
            (_, Value::Bool(value)) => !value,
            (_, Value::Int32(number)) => number == 0,
            (_, Value::Int64(number) | Value::Timestamp(number)) => number == 0,
            (_, Value::Float32(number)) => number.to_bits() == 0,
            (_, Value::Float64(number)) => number.to_bits() == 0,
            (_, Value::String(text)) => text.is_empty(),
            (_, Value::Bytes(bytes)) => bytes.is_empty(),
            _ => false,
        }
    }

    fn write(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match (self, value) {
            (Node::Bool, Value::Bool(value)) => out.push(u8::from(value)),
            (Node::Plain, Value::Int32(number)) => write_varint(i64::from(number) as u64, out),
            (Node::Plain, Value::Int64(number) | Value::Timestamp(number)) => {
                write_varint(number as u64, out)
            }
            (Node::Unsigned, Value::Int32(number)) => {
                write_varint(u32::try_from(number).map_err(|_| negative(number.into()))?.into(), out);
            }
            (Node::Unsigned, Value::Int64(number)) => {
                write_varint(u64::try_from(number).map_err(|_| negative(number))?, out);
            }
            (Node::ZigZag, Value::Int32(number)) => write_zigzag(number.into(), out),
            (Node::ZigZag, Value::Int64(number) | Value::Timestamp(number)) => write_zigzag(number, out),
            (Node::Fixed32, Value::Int32(number)) => out.extend_from_slice(&number.to_le_bytes()),
            (Node::Fixed64, Value::Int32(number)) => out.extend_from_slice(&i64::from(number).to_le_bytes()),
            (Node::Fixed64, Value::Int64(number) | Value::Timestamp(number)) => {
                out.extend_from_slice(&number.to_le_bytes());
            }
            (Node::UnsignedFixed32, Value::Int32(number)) => {
                let number = u32::try_from(number).map_err(|_| negative(number.into()))?;
                out.extend_from_slice(&number.to_le_bytes());
            }
            (Node::UnsignedFixed64, Value::Int32(number)) => {
                let number = u64::try_from(number).map_err(|_| negative(number.into()))?;
                out.extend_from_slice(&number.to_le_bytes());
            }
            (Node::UnsignedFixed64, Value::Int64(number)) => {
                let number = u64::try_from(number).map_err(|_| negative(number))?;
                out.extend_from_slice(&number.to_le_bytes());
            }
            (Node::Float, Value::Float32(number)) => out.extend_from_slice(&number.to_le_bytes()),
            (Node::Double, Value::Float32(number)) => out.extend_from_slice(&f64::from(number).to_le_bytes()),
            (Node::Double, Value::Float64(number)) => out.extend_from_slice(&number.to_le_bytes()),
            (Node::Bytes, Value::String(text)) => bytes(text.as_bytes(), out),
            (Node::Bytes, Value::Bytes(value)) => bytes(value, out),
            (Node::Enum(names), Value::String(text)) => match names.get(text) {
                Some(number) => write_varint(i64::from(*number) as u64, out),
                // As it was read from a schema that does not name it.
                None => match text.parse::<i32>() {
                    Ok(number) => write_varint(i64::from(number) as u64, out),
                    Err(_) => return Err(format!("the enum has no value {text:?}")),
                },
            },
            (Node::Timestamp, Value::Timestamp(millis)) => prefixed(out, |out| {
                let (seconds, nanos) = (millis.div_euclid(1_000), millis.rem_euclid(1_000) * 1_000_000);
                for (number, part) in [(1, seconds), (2, nanos)] {
                    if part != 0 {
                        tag(number, VARINT, out);
                        write_varint(part as u64, out);
                    }
                }
                Ok(())
            })?,
            (Node::Wrapper(node), value) => prefixed(out, |out| {
                if node.is_default(value) {
                    return Ok(());
                }
                tag(1, node.wire(), out);
                node.write(value, out)
            })?,
            (Node::Message(writer), Value::Struct(fields, row)) => {
                prefixed(out, |out| writer.write(fields, row, out))?;
            }
            _ => return Err("the value has a type that the message does not allow".to_owned()),
        }
        Ok(())
    }
}

fn negative(number: i64) -> String {
    format!("the value is {number}, and the field is unsigned")
}

fn tag(number: u32, wire: u32, out: &mut Vec<u8>) {
    write_varint(u64::from(number << 3 | wire), out);
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    write_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Appends what `write` appends, with its length before it.
fn prefixed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), String>) -> Result<(), String> {
    let start = out.len();
    write(out)?;
    let mut length = Vec::with_capacity(2);
    write_varint((out.len() - start) as u64, &mut length);
    out.splice(start..start, length);
    Ok(())
}
