//! Record bytes to Arrow columns and back.

pub mod by_name;
pub mod decode;
pub mod encode;
mod json_read;
mod json_write;
pub mod layout;
pub mod line;
mod plain_text;
pub mod text;

pub use decode::{Decoded, SourceDecoder};
pub use encode::{Encoded, EncodedRecord, SinkEncoder};
pub use json_read::Fault;
pub(crate) use plain_text::TextReader;

#[cfg(test)]
mod tests;
