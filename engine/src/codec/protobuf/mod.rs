//! Protobuf, in the wire format of Confluent's serializers or bare.

mod read;
mod schema;
mod write;

use millstream_operators::diagnostic::listed;
use prost_reflect::{FieldDescriptor, MessageDescriptor};

use super::layout::FieldLayout;

pub(crate) use self::read::MessageReader;
pub(crate) use self::schema::{ProtobufSchema, derived, read_file};
pub(crate) use self::write::MessageWriter;

/// The full names of the well-known messages that are columns of their own.
const TIMESTAMP: &str = "google.protobuf.Timestamp";
const WRAPPERS: [&str; 9] = [
    "google.protobuf.BoolValue",
    "google.protobuf.Int32Value",
    "google.protobuf.Int64Value",
    "google.protobuf.UInt32Value",
    "google.protobuf.UInt64Value",
    "google.protobuf.FloatValue",
    "google.protobuf.DoubleValue",
    "google.protobuf.StringValue",
    "google.protobuf.BytesValue",
];

/// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const PREFIXED: u32 = 2;
const FIXED32: u32 = 5;

/// The field of a message that a column is read from or written to.
fn field_of(message: &MessageDescriptor, layout: &FieldLayout) -> Result<FieldDescriptor, String> {
    message.get_field_by_name(&layout.field).ok_or_else(|| {
        let names: Vec<String> = message.fields().map(|field| field.name().to_owned()).collect();
        format!(
            "the message `{}` has no field `{}` for the column; its fields are {}",
            message.full_name(),
            layout.field,
            listed(names.iter().map(String::as_str))
        )
    })
}
