//! What the metadata of a committed offset says: the truth of which the state directory is a cache.
//!
//! The first input of a task carries it all; its other inputs carry the commit's id only. Kafka wants a text, so the bytes
//! are base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millstream_state::Fingerprint;
use millstream_state::value::{ValueError, ValueReader, ValueWriter};

use crate::plan::SubTopology;

const LAYOUT: u8 = 1;

/// The longest metadata that a broker takes by default (`offset.metadata.max.bytes`).
const LONGEST: usize = 4096;

/// Identifies a commit: who made it, and which of its commits it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitId {
    /// A random number that a worker draws for each producer.
    pub producer: u64,
    /// Counts the commits of that producer.
    pub number: u64,
}

/// The metadata of a committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitMetadata {
    /// The commit.
    pub id: CommitId,
    /// Stream times, as the task encodes them.
    pub positions: Vec<u8>,
    /// The stores and what their bytes mean.
    pub fingerprints: Vec<(String, Fingerprint)>,
}

/// Metadata that is none.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Not base64.
    #[error("it is not base64")]
    Base64,
    /// Not of this layout.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// A fingerprint has another length.
    #[error("a fingerprint has {0} bytes")]
    Fingerprint(usize),
}

impl CommitMetadata {
    /// As the metadata of an offset.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::new();
        let mut writer = ValueWriter::new(&mut bytes, LAYOUT);
        writer.put_u64(self.id.producer).put_u64(self.id.number).put_bytes(&self.positions);
        for (store, fingerprint) in &self.fingerprints {
            writer.put_str(store).put_bytes(&fingerprint.0);
        }
        STANDARD.encode(bytes)
    }

    /// Reads what [`encode`](Self::encode) has written.
    ///
    /// # Errors
    /// If another program wrote it, or another version.
    pub fn decode(text: &str) -> Result<Self, MetadataError> {
        let bytes = STANDARD.decode(text).map_err(|_| MetadataError::Base64)?;
        let mut reader = ValueReader::new(&bytes, LAYOUT)?;
        let id = CommitId { producer: reader.get_u64()?, number: reader.get_u64()? };
        let positions = reader.get_bytes()?.to_vec();
        let mut fingerprints = Vec::new();
        while !reader.is_empty() {
            let store = reader.get_str()?.to_owned();
            let bytes = reader.get_bytes()?;
            let fingerprint = bytes.try_into().map_err(|_| MetadataError::Fingerprint(bytes.len()))?;
            fingerprints.push((store, Fingerprint(fingerprint)));
        }
        Ok(CommitMetadata { id, positions, fingerprints })
    }

    /// Whether the metadata of this sub-topology's tasks always fits into what brokers take.
    pub fn fits(sub: &SubTopology) -> bool {
        // A name with its length and a time for each step, a name and a fingerprint for each store.
        let steps: usize = sub.nodes.iter().map(|node| node.name.len() + "/group-by".len() + 3 + 10).sum();
        let stores: usize = sub.stores.iter().map(|store| store.spec.name.len() + 3 + 17).sum();
        (steps + stores + 32) * 4 / 3 + 4 <= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_comes_back_and_its_bytes_are_pinned() {
        let metadata = CommitMetadata {
            id: CommitId { producer: u64::MAX, number: 7 },
            positions: vec![1, 2, 3],
            fingerprints: vec![("counts".to_owned(), Fingerprint([5; 16]))],
        };
        let text = metadata.encode();
        assert_eq!(CommitMetadata::decode(&text).unwrap(), metadata);
        assert_eq!(text, "Af3//////////wcDAQIDBmNvdW50cxAFBQUFBQUFBQUFBQUFBQUF");
        assert!(CommitMetadata::decode("not ours!").is_err());
        assert!(CommitMetadata::decode(&text[..8]).is_err());
    }
}
