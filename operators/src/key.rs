//! Keys as bytes that sort like the values they were made from.
//!
//! Columns follow one another, as in a key of [`mod@millstream_state::key`] after its version byte. Each is a zero byte for null, or a one and the value: integers, decimals, dates and
//! timestamps big-endian with the sign bit turned, floats in their order (-inf, …, 0.0, …, inf, NaN; as SQL does, a key knows
//! one zero and one NaN),
//! strings and bytes with each zero byte followed by 0xff and ended by two zero bytes, lists as items that each have a one
//! before them, ended by a zero, structs as their fields. No key is the beginning of another of the same columns, so keys
//! can be followed by more (a window's start, an offset) and still sort by key first.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, ListArray, StructArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::error::ArrowError;

use crate::columns::{Column, ColumnBuilder, ColumnFull, UnsupportedType, Value, Values, all_null};
use crate::schema::Schema;

const ABSENT: u8 = 0;
const PRESENT: u8 = 1;
/// Follows a zero byte that is part of a string.
const ESCAPE: u8 = 0xff;

/// Makes keys of the first columns of batches.
#[derive(Clone, Debug)]
pub struct KeyEncoder {
    types: Vec<DataType>,
}

impl KeyEncoder {
    /// For keys of these types.
    pub fn new<'t>(types: impl IntoIterator<Item = &'t DataType>) -> Result<Self, UnsupportedType> {
        let types: Vec<DataType> = types.into_iter().cloned().collect();
        ColumnBuilder::all(&types)?;
        Ok(KeyEncoder { types })
    }

    /// For the key columns of a schema.
    pub fn of(schema: &Schema) -> Result<Self, UnsupportedType> {
        KeyEncoder::new(schema.key_fields().iter().map(|field| field.data_type()))
    }

    /// The keys of `rows` rows. Of `columns` the first are the key's; others may follow.
    pub fn encode_all(&self, columns: &[ArrayRef], rows: usize) -> Result<Keys, UnsupportedType> {
        let columns = Column::all(columns.get(..self.types.len()).unwrap_or(columns))?;
        let mut keys =
            Keys { bytes: Vec::with_capacity(rows * 12), ends: Vec::with_capacity(rows), null: Vec::new() };
        for row in 0..rows {
            if all_null(&columns, row) {
                keys.null.resize(row, false);
                keys.null.push(true);
            }
            for column in &columns {
                write(column.value(row), &mut keys.bytes);
            }
            keys.ends.push(keys.bytes.len());
        }
        Ok(keys)
    }

    /// Reads keys back into columns.
    pub fn decoder(&self) -> Result<KeyDecoder, UnsupportedType> {
        Ok(KeyDecoder { builders: ColumnBuilder::all(&self.types)?, rows: 0 })
    }
}

/// The keys of a batch's rows.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Rows whose columns are all null; as long as its last `true` needs.
    null: Vec<bool>,
}

impl Keys {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Adds a row with this key.
    pub fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The key of a row; empty for a row beyond the last and where there is no key column.
    #[inline]
    pub fn get(&self, row: usize) -> &[u8] {
        let start = row.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(row).and_then(|end| self.bytes.get(start..*end)).unwrap_or_default()
    }

    /// Whether the key of a row is null: all its columns are.
    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        self.null.get(row).copied().unwrap_or(false)
    }

    /// The keys in the order of the rows.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|row| self.get(row))
    }
}

fn write(value: Value<'_>, out: &mut Vec<u8>) {
    if matches!(value, Value::Null) {
        out.push(ABSENT);
        return;
    }
    out.push(PRESENT);
    match value {
        Value::Null => {}
        Value::Bool(value) => out.push(u8::from(value)),
        Value::Int32(value) | Value::Date(value) => out.extend_from_slice(&ordered_i32(value)),
        Value::Int64(value) | Value::Timestamp(value) => out.extend_from_slice(&ordered_i64(value)),
        Value::Float32(value) => out.extend_from_slice(&ordered_f32(value)),
        Value::Float64(value) => out.extend_from_slice(&ordered_f64(value)),
        Value::Decimal(value, _) => out.extend_from_slice(&(value ^ i128::MIN).to_be_bytes()),
        Value::String(value) => write_bytes(value.as_bytes(), out),
        Value::Bytes(value) => write_bytes(value, out),
        Value::List(items, start, end) => {
            for item in start..end {
                out.push(PRESENT);
                write(items.value(item), out);
            }
            out.push(ABSENT);
        }
        Value::Struct(fields, row) => fields.iter().for_each(|field| write(field.value(row), out)),
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.contains(&0) {
        for byte in bytes {
            out.push(*byte);
            if *byte == 0 {
                out.push(ESCAPE);
            }
        }
    } else {
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&[0, 0]);
}

fn ordered_i32(value: i32) -> [u8; 4] {
    (value ^ i32::MIN).to_be_bytes()
}

fn ordered_i64(value: i64) -> [u8; 8] {
    (value ^ i64::MIN).to_be_bytes()
}

/// Negative floats sort against their bits, so all but their sign are turned; the step is its own inverse.
fn total_order_f32(bits: i32) -> i32 {
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

fn total_order_f64(bits: i64) -> i64 {
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

fn ordered_f32(value: f32) -> [u8; 4] {
    ordered_i32(total_order_f32(same_f32(value).to_bits() as i32))
}

fn ordered_f64(value: f64) -> [u8; 8] {
    ordered_i64(total_order_f64(same_f64(value).to_bits() as i64))
}

/// The one form of floats that are the same to SQL: -0.0 is 0.0, and every NaN is one.
fn same_f32(value: f32) -> f32 {
    if value.is_nan() { f32::NAN } else { value + 0.0 }
}

fn same_f64(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}

/// A key column in the form in which equal keys have equal bytes, in records too.
pub fn normalised(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float32 => Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(same_f32)),
        DataType::Float64 => Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(same_f64)),
        DataType::List(item) if has_float(item.data_type()) => {
            let lists = array.as_list::<i32>();
            let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
            Arc::new(ListArray::new(item.clone(), offsets, normalised(lists.values()), nulls))
        }
        DataType::Struct(fields) if has_float(array.data_type()) => {
            let columns = array.as_struct().columns().iter().map(normalised).collect();
            Arc::new(StructArray::new(fields.clone(), columns, array.nulls().cloned()))
        }
        _ => array.clone(),
    }
}

fn has_float(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float32 | DataType::Float64 => true,
        DataType::List(item) => has_float(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_float(field.data_type())),
        _ => false,
    }
}

/// Bytes that are no key of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyDecodeError {
    /// No key of these columns.
    #[error("the key's bytes do not fit its columns")]
    Invalid,
    /// Too much for one batch.
    #[error(transparent)]
    Full(#[from] ColumnFull),
}

/// Keys being read back.
#[derive(Debug)]
pub struct KeyDecoder {
    builders: Vec<ColumnBuilder>,
    rows: usize,
}

impl KeyDecoder {
    /// Adds a key and returns the bytes that follow it; after an error the key has left nothing behind.
    pub fn push<'a>(&mut self, key: &'a [u8]) -> Result<&'a [u8], KeyDecodeError> {
        let mut rest = key;
        match self.builders.iter_mut().try_for_each(|builder| read(&mut rest, builder)) {
            Ok(()) => {
                self.rows += 1;
                Ok(rest)
            }
            Err(error) => {
                self.builders.iter_mut().for_each(|builder| builder.truncate(self.rows));
                Err(error)
            }
        }
    }

    /// How many keys have been added.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether no key has been added.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The key columns of the keys added since the last call.
    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.rows = 0;
        self.builders.iter_mut().map(ColumnBuilder::finish).collect()
    }
}

fn read(rest: &mut &[u8], builder: &mut ColumnBuilder) -> Result<(), KeyDecodeError> {
    if !flag(rest)? {
        builder.null();
        return Ok(());
    }
    let is_string = *builder.data_type() == DataType::Utf8;
    match builder.values() {
        Values::Bool(values) => values.append(flag(rest)?),
        Values::Int32(values) => values.push(i32::from_be_bytes(array(rest)?) ^ i32::MIN),
        Values::Int64(values) => values.push(i64::from_be_bytes(array(rest)?) ^ i64::MIN),
        Values::Float32(values) => {
            let bits = total_order_f32(i32::from_be_bytes(array(rest)?) ^ i32::MIN);
            values.push(f32::from_bits(bits as u32));
        }
        Values::Float64(values) => {
            let bits = total_order_f64(i64::from_be_bytes(array(rest)?) ^ i64::MIN);
            values.push(f64::from_bits(bits as u64));
        }
        Values::Decimal(values) => values.push(i128::from_be_bytes(array(rest)?) ^ i128::MIN),
        Values::Bytes(values) => {
            let start = values.data.len();
            read_bytes(rest, &mut values.data)?;
            let read = values.data.get(start..).unwrap_or_default();
            if is_string && std::str::from_utf8(read).is_err() {
                return Err(KeyDecodeError::Invalid);
            }
        }
        Values::List(list) => {
            while flag(rest)? {
                read(rest, &mut list.items)?;
            }
        }
        Values::Struct(fields) => fields.iter_mut().try_for_each(|field| read(rest, field))?,
    }
    Ok(builder.valid()?)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], KeyDecodeError> {
    let (array, after) = rest.split_first_chunk().ok_or(KeyDecodeError::Invalid)?;
    *rest = after;
    Ok(*array)
}

fn flag(rest: &mut &[u8]) -> Result<bool, KeyDecodeError> {
    match array(rest)? {
        [ABSENT] => Ok(false),
        [PRESENT] => Ok(true),
        _ => Err(KeyDecodeError::Invalid),
    }
}

fn read_bytes(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), KeyDecodeError> {
    loop {
        let zero = rest.iter().position(|byte| *byte == 0).ok_or(KeyDecodeError::Invalid)?;
        let (before, after) = rest.split_at(zero);
        out.extend_from_slice(before);
        *rest = after;
        match array(rest)? {
            [0, ESCAPE] => out.push(0),
            [0, 0] => return Ok(()),
            _ => return Err(KeyDecodeError::Invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use arrow::array::{BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::any_batch;

    fn keys(rows: &RecordBatch) -> (KeyEncoder, Keys) {
        let schema = rows.schema();
        let encoder = KeyEncoder::new(schema.fields().iter().map(|field| field.data_type())).unwrap();
        let keys = encoder.encode_all(rows.columns(), rows.num_rows()).unwrap();
        (encoder, keys)
    }

    /// The order of the language, value by value.
    fn order(left: Value<'_>, right: Value<'_>) -> Ordering {
        match (left, right) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) => Ordering::Less,
            (_, Value::Null) => Ordering::Greater,
            (Value::Bool(a), Value::Bool(b)) => a.cmp(&b),
            (Value::Int32(a), Value::Int32(b)) | (Value::Date(a), Value::Date(b)) => a.cmp(&b),
            (Value::Int64(a), Value::Int64(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(&b),
            (Value::Float32(a), Value::Float32(b)) => float_order(a.into(), b.into()),
            (Value::Float64(a), Value::Float64(b)) => float_order(a, b),
            (Value::Decimal(a, _), Value::Decimal(b, _)) => a.cmp(&b),
            (Value::String(a), Value::String(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            (Value::List(a, a_start, a_end), Value::List(b, b_start, b_end)) => {
                let items = (a_start..a_end).zip(b_start..b_end);
                items
                    .map(|(i, j)| order(a.value(i), b.value(j)))
                    .find(|order| order.is_ne())
                    .unwrap_or((a_end - a_start).cmp(&(b_end - b_start)))
            }
            (Value::Struct(a, i), Value::Struct(b, j)) => row_order(a, i, b, j),
            other => panic!("two types: {other:?}"),
        }
    }

    /// NaN is the largest, and equal to itself.
    fn float_order(a: f64, b: f64) -> Ordering {
        a.partial_cmp(&b).unwrap_or(a.is_nan().cmp(&b.is_nan()))
    }

    fn row_order(a: &[Column<'_>], i: usize, b: &[Column<'_>], j: usize) -> Ordering {
        a.iter()
            .zip(b)
            .map(|(a, b)| order(a.value(i), b.value(j)))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_columns(rows in any_batch()) {
            let (_, keys) = keys(&rows);
            let columns = Column::all(rows.columns()).unwrap();
            for i in 0..rows.num_rows() {
                prop_assert_eq!(keys.is_null(i), columns.iter().all(|column| column.is_null(i)));
                for j in 0..rows.num_rows() {
                    let expected = row_order(&columns, i, &columns, j);
                    prop_assert_eq!(keys.get(i).cmp(keys.get(j)), expected, "{} {}", i, j);
                    // No key is the beginning of another, so that what follows a key does not disturb the order.
                    prop_assert!(expected.is_eq() || !keys.get(j).starts_with(keys.get(i)));
                }
            }
        }

        #[test]
        fn keys_come_back(rows in any_batch(), cut in any::<prop::sample::Index>()) {
            let (encoder, keys) = keys(&rows);
            let mut decoder = encoder.decoder().unwrap();
            for key in keys.iter() {
                prop_assert!(decoder.push(&key[..cut.index(key.len())]).is_err());
                let mut followed = key.to_vec();
                followed.extend_from_slice(&[7, 7]);
                prop_assert_eq!(decoder.push(&followed), Ok(&[7u8, 7][..]));
            }
            prop_assert_eq!(decoder.len(), rows.num_rows());
            let arrays = decoder.finish().unwrap();
            // Equal keys come back equal, and as columns of records they have equal bytes.
            let columns: Vec<ArrayRef> = rows.columns().iter().map(normalised).collect();
            for (column, array) in columns.iter().zip(&arrays) {
                prop_assert_eq!(format!("{column:?}"), format!("{array:?}"));
            }
            let again = encoder.encode_all(&arrays, rows.num_rows()).unwrap();
            prop_assert!(again.iter().eq(keys.iter()));
        }
    }

    /// Keys lie in stores and changelogs: these bytes may not change.
    #[test]
    fn the_bytes_are_pinned() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("a\0b"), None])),
            Arc::new(Int64Array::from(vec![Some(-1), None])),
        ];
        let encoder = KeyEncoder::new([&DataType::Utf8, &DataType::Int64]).unwrap();
        let keys = encoder.encode_all(&columns, 2).unwrap();
        let first = [1, b'a', 0, 0xff, b'b', 0, 0, 1, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(keys.get(0), first);
        assert_eq!(keys.get(1), [0, 0]);
        assert_eq!((keys.is_null(0), keys.is_null(1)), (false, true));
        assert_eq!(columns[0].len(), keys.len());
    }

    #[test]
    fn keys_are_those_of_the_state() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["a\0\0b"])),
            Arc::new(Int64Array::from(vec![-5])),
            Arc::new(Float64Array::from(vec![-1.5])),
            Arc::new(BooleanArray::from(vec![None])),
        ];
        let encoder = KeyEncoder::new(columns.iter().map(|column| column.data_type())).unwrap();
        let mut expected = Vec::new();
        millstream_state::key::KeyWriter::new(&mut expected)
            .put_str("a\0\0b")
            .put_i64(-5)
            .put_f64(-1.5)
            .put_null();
        assert_eq!(encoder.encode_all(&columns, 1).unwrap().get(0), &expected[1..]);
    }

    #[test]
    fn a_stream_without_key_has_empty_keys() {
        let keys = KeyEncoder::new([]).unwrap().encode_all(&[], 3).unwrap();
        assert_eq!((keys.len(), keys.get(2), keys.is_null(2)), (3, &[][..], false));
    }
}
