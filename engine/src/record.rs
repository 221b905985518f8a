//! A record of a topic, as bytes.

/// A record header; Kafka allows a null value and repeated names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: String,
    /// The value.
    pub value: Option<Vec<u8>>,
}

/// A record of a topic partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key, if there is one.
    pub key: Option<Vec<u8>>,
    /// The value; `None` deletes on a table.
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Headers, in order.
    pub headers: Vec<Header>,
    /// Its offset in the partition.
    pub offset: i64,
}
