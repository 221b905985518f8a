//! The stream times of a task's operators as the metadata of its committed offset.

use std::collections::BTreeMap;

use millstream_state::value::{ValueError, ValueReader, ValueWriter};

const LAYOUT: u8 = 1;

pub(super) fn encode(positions: &BTreeMap<String, i64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ValueWriter::new(&mut bytes, LAYOUT);
    for (name, time) in positions {
        writer.put_str(name).put_i64(*time);
    }
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<BTreeMap<String, i64>, ValueError> {
    let mut reader = ValueReader::new(bytes, LAYOUT)?;
    let mut positions = BTreeMap::new();
    while !reader.is_empty() {
        let name = reader.get_str()?.to_owned();
        positions.insert(name, reader.get_i64()?);
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back() {
        let positions = BTreeMap::from([("a".to_owned(), 17), ("recent".to_owned(), 1_767_225_600_000)]);
        assert_eq!(decode(&encode(&positions)).unwrap(), positions);
        assert_eq!(decode(&encode(&BTreeMap::new())).unwrap(), BTreeMap::new());
    }
}
