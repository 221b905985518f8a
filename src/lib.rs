//! Millstream: stateful stream processing with models in the stream.

pub use millstream_engine as engine;
