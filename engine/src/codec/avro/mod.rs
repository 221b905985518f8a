//! Avro, in the wire format of Confluent's serializers or bare.

mod read;
mod schema;
mod write;

pub(crate) use self::read::AvroReader;
pub(crate) use self::schema::AvroSchema;
pub(crate) use self::write::{AvroWriter, derived};
