//! Record bytes to Arrow columns and back.

mod avro;
mod binary;
pub mod by_name;
pub mod decode;
pub mod encode;
mod json_read;
mod json_write;
pub mod layout;
pub mod line;
mod plain_text;
mod protobuf;
pub mod schemas;
pub mod text;

use arrow::error::ArrowError;
use millstream_operators::columns::UnsupportedType;

use crate::schema_registry::SchemaRegistryError;

pub use decode::{Decoded, SourceDecoder};
pub use encode::{Encoded, EncodedRecord, SinkEncoder};
pub use json_read::Fault;
pub(crate) use plain_text::TextReader;

/// Why records could not be decoded or rows not be encoded, although no record and no row is to blame.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Columns do not fit one another, which is a fault of this program.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    /// The schema registry has no answer.
    #[error(transparent)]
    Registry(#[from] SchemaRegistryError),
}

impl From<UnsupportedType> for CodecError {
    fn from(unsupported: UnsupportedType) -> Self {
        CodecError::Arrow(unsupported.into())
    }
}

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
