//! What the metadata of a committed offset says: the truth of which the state directory is a cache.
//!
//! Every input of a task carries it all: the next topology may read another one first, or none of the others. Kafka wants a text,
//! so the bytes are base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millstream_state::Fingerprint;
use millstream_state::value::{ValueError, ValueReader, ValueWriter};

use crate::plan::SubTopology;

const LAYOUT: u8 = 3;

/// The layout before topics had their ids in it.
const WITHOUT_IDS: u8 = 2;

/// The layout before changelogs had offsets in it, either.
const WITHOUT_CHANGELOGS: u8 = 1;

/// The longest metadata that a broker takes by default (`offset.metadata.max.bytes`).
const LONGEST: usize = 4096;

/// What the id of a topic takes: sixteen bytes as base64, and the length.
const ID: usize = 25;

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
    /// The id of the topic that the offset is of; empty where it is not known.
    pub topic_id: String,
    /// Stream times, as the task encodes them.
    pub positions: Vec<u8>,
    /// The stores.
    pub stores: Vec<CommittedStore>,
}

/// A store at a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedStore {
    /// Its name.
    pub name: String,
    /// What its bytes mean.
    pub fingerprint: Fingerprint,
    /// Its changelog is at least so long: the next offset after the commit before.
    pub changelog_offset: i64,
    /// The id of that topic; empty where it is not known.
    pub changelog_id: String,
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
        writer
            .put_u64(self.id.producer)
            .put_u64(self.id.number)
            .put_str(&self.topic_id)
            .put_bytes(&self.positions);
        for CommittedStore { name, fingerprint, changelog_offset, changelog_id } in &self.stores {
            writer.put_str(name).put_bytes(&fingerprint.0).put_i64(*changelog_offset).put_str(changelog_id);
        }
        STANDARD.encode(bytes)
    }

    /// Reads what [`encode`](Self::encode) has written.
    ///
    /// # Errors
    /// If another program wrote it, or another version.
    pub fn decode(text: &str) -> Result<Self, MetadataError> {
        let bytes = STANDARD.decode(text).map_err(|_| MetadataError::Base64)?;
        let former = bytes.first().copied().filter(|layout| (WITHOUT_CHANGELOGS..LAYOUT).contains(layout));
        let layout = former.unwrap_or(LAYOUT);
        let (has_changelogs, has_ids) = (layout > WITHOUT_CHANGELOGS, layout > WITHOUT_IDS);
        let mut reader = ValueReader::new(&bytes, layout)?;
        let id = CommitId { producer: reader.get_u64()?, number: reader.get_u64()? };
        let topic_id = if has_ids { reader.get_str()?.to_owned() } else { String::new() };
        let positions = reader.get_bytes()?.to_vec();
        let mut stores = Vec::new();
        while !reader.is_empty() {
            let name = reader.get_str()?.to_owned();
            let bytes = reader.get_bytes()?;
            let fingerprint = bytes.try_into().map_err(|_| MetadataError::Fingerprint(bytes.len()))?;
            let fingerprint = Fingerprint(fingerprint);
            let changelog_offset = if has_changelogs { reader.get_i64()? } else { 0 };
            let changelog_id = if has_ids { reader.get_str()?.to_owned() } else { String::new() };
            stores.push(CommittedStore { name, fingerprint, changelog_offset, changelog_id });
        }
        Ok(CommitMetadata { id, topic_id, positions, stores })
    }

    /// Whether the metadata of this sub-topology's tasks always fits into what brokers take.
    pub fn fits(sub: &SubTopology) -> bool {
        // An id, a name with its length and a time for each step, a name, a fingerprint, an offset and an id for each store.
        let steps: usize = sub.nodes.iter().map(|node| node.label().len() + 3 + 10).sum();
        let stores: usize = sub.stores.iter().map(|store| store.spec.name.len() + 3 + 17 + 10 + ID).sum();
        (steps + stores + 32 + ID) * 4 / 3 + 4 <= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_comes_back_and_its_bytes_are_pinned() {
        let metadata = CommitMetadata {
            id: CommitId { producer: u64::MAX, number: 7 },
            topic_id: "topic".to_owned(),
            positions: vec![1, 2, 3],
            stores: vec![CommittedStore {
                name: "counts".to_owned(),
                fingerprint: Fingerprint([5; 16]),
                changelog_offset: 9,
                changelog_id: "log".to_owned(),
            }],
        };
        let text = metadata.encode();
        assert_eq!(CommitMetadata::decode(&text).unwrap(), metadata);
        assert_eq!(text, "A/3//////////wcFdG9waWMDAQIDBmNvdW50cxAFBQUFBQUFBQUFBQUFBQUFEgNsb2c=");
        let without_changelogs = "Af3//////////wcDAQIDBmNvdW50cxAFBQUFBQUFBQUFBQUFBQUF";
        let without_ids = "Av3//////////wcDAQIDBmNvdW50cxAFBQUFBQUFBQUFBQUFBQUFEg==";
        for (former, offset) in [(without_changelogs, 0), (without_ids, 9)] {
            let CommitMetadata { id, topic_id, stores, .. } = CommitMetadata::decode(former).unwrap();
            assert_eq!((id, topic_id.as_str()), (metadata.id, ""));
            assert_eq!((stores[0].changelog_offset, stores[0].changelog_id.as_str()), (offset, ""));
        }
        assert!(CommitMetadata::decode("not ours!").is_err());
        assert!(CommitMetadata::decode(&text[..8]).is_err());
    }
}
