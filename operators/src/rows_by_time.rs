//! Several rows under one key of a store, in the order of their coming: a version byte, then each row with its length.

use millstream_state::value::{ValueReader, ValueWriter};
use millstream_state::{StoreId, TaskState};

use crate::operator::OperatorError;

const LAYOUT: u8 = 1;

/// Adds a row to those under a key.
pub(crate) fn append(
    state: &mut TaskState,
    store: StoreId,
    key: &[u8],
    row: &[u8],
) -> Result<(), OperatorError> {
    let mut bytes = match state.get(store, key)? {
        Some(bytes) => bytes.to_vec(),
        None => vec![LAYOUT],
    };
    let mut added = Vec::new();
    ValueWriter::new(&mut added, LAYOUT).put_bytes(row);
    bytes.extend_from_slice(added.get(1..).unwrap_or_default());
    state.put(store, key, &bytes);
    Ok(())
}

/// Calls `row` with the bytes of each row under a key.
pub(crate) fn each(
    bytes: &[u8],
    mut row: impl FnMut(&[u8]) -> Result<(), OperatorError>,
) -> Result<(), OperatorError> {
    let mut reader = ValueReader::new(bytes, LAYOUT)?;
    while !reader.is_empty() {
        row(reader.get_bytes()?)?;
    }
    Ok(())
}
