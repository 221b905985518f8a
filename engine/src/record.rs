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

impl Record {
    /// What it occupies in memory, about.
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self.headers.iter();
        let headers = headers.map(|header| size_of::<Header>() + header.name.len() + length(&header.value));
        size_of::<Self>() + length(&self.key) + length(&self.value) + headers.sum::<usize>()
    }
}
