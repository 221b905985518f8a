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
    let Some(mut bytes) = state.get(store, key)?.map(|before| before.to_vec()) else {
        put_first(state, store, key, row);
        return Ok(());
    };
    let mut added = Vec::new();
    ValueWriter::new(&mut added, LAYOUT).put_bytes(row);
    bytes.extend_from_slice(added.get(1..).unwrap_or_default());
    state.put(store, key, &bytes);
    Ok(())
}

/// Puts a row under a key that has none.
pub(crate) fn put_first(state: &mut TaskState, store: StoreId, key: &[u8], row: &[u8]) {
    let mut bytes = Vec::new();
    ValueWriter::new(&mut bytes, LAYOUT).put_bytes(row);
    state.put(store, key, &bytes);
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
