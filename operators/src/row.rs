//! Rows as bytes, exactly: what goes through repartition topics.
//!
//! A row is a version byte, then its columns. Columns are a bitmap of those that have a value (first column: lowest bit of
//! the first byte), then those values one after the other: numbers little-endian (floats by their bits, so that NaN and
//! -0.0 come back as they were), bool as one byte, strings and bytes with their length before them, lists with their
//! count, then as columns, structs as columns. Lengths and counts are LEB128 varints.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

use crate::batch::record_batch;
use crate::columns::{Column, ColumnBuilder, ColumnFull, UnsupportedType, Value, Values};

const VERSION: u8 = 1;

/// Writes and reads the rows of one schema.
#[derive(Clone, Debug)]
pub struct RowCodec {
    columns: SchemaRef,
}

impl RowCodec {
    /// A codec for rows of these columns.
    pub fn new(columns: &SchemaRef) -> Result<Self, UnsupportedType> {
        ColumnBuilder::all(columns.fields().iter().map(|field| field.data_type()))?;
        Ok(RowCodec { columns: columns.clone() })
    }

    /// Prepares rows to be written, of which these are the columns.
    pub fn encoder<'a>(&self, columns: &'a [ArrayRef]) -> Result<RowEncoder<'a>, UnsupportedType> {
        Ok(RowEncoder { columns: Column::all(columns)? })
    }

    /// Prepares for rows to be read.
    pub fn decoder(&self) -> Result<RowDecoder, UnsupportedType> {
        let builders = ColumnBuilder::all(self.columns.fields().iter().map(|field| field.data_type()))?;
        Ok(RowDecoder { columns: self.columns.clone(), builders, rows: 0 })
    }
}

/// The rows of a batch, ready to be written.
#[derive(Debug)]
pub struct RowEncoder<'a> {
    columns: Vec<Column<'a>>,
}

impl RowEncoder<'_> {
    /// Appends a row.
    pub fn encode(&self, row: usize, out: &mut Vec<u8>) {
        out.push(VERSION);
        write_columns(self.columns.iter().map(|column| column.value(row)), out);
    }
}

fn write_columns<'a>(values: impl Iterator<Item = Value<'a>> + Clone, out: &mut Vec<u8>) {
    let mut bitmap = 0u8;
    let mut count = 0;
    for value in values.clone() {
        bitmap |= u8::from(!matches!(value, Value::Null)) << (count % 8);
        count += 1;
        if count % 8 == 0 {
            out.push(std::mem::take(&mut bitmap));
        }
    }
    if count % 8 != 0 {
        out.push(bitmap);
    }
    for value in values {
        write_value(value, out);
    }
}

fn write_value(value: Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Bool(value) => out.push(u8::from(value)),
        Value::Int32(value) | Value::Date(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Int64(value) | Value::Timestamp(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Float32(value) => out.extend_from_slice(&value.to_bits().to_le_bytes()),
        Value::Float64(value) => out.extend_from_slice(&value.to_bits().to_le_bytes()),
        Value::Decimal(value, _) => out.extend_from_slice(&value.to_le_bytes()),
        Value::String(value) => write_bytes(value.as_bytes(), out),
        Value::Bytes(value) => write_bytes(value, out),
        Value::List(items, start, end) => {
            write_length(end.saturating_sub(start), out);
            write_columns((start..end).map(|item| items.value(item)), out);
        }
        Value::Struct(fields, row) => write_columns(fields.iter().map(|field| field.value(row)), out),
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn write_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// Bytes that are no row of the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowDecodeError {
    /// The bytes end within a row.
    #[error("the row is cut off after {0} bytes")]
    Truncated(usize),
    /// Bytes follow the row.
    #[error("{0} bytes follow the row")]
    Trailing(usize),
    /// Written by another version.
    #[error("the row has format version {0}, this program reads {VERSION}")]
    Version(u8),
    /// A value that the column's type does not have.
    #[error("byte {0} of the row is no value of its column")]
    Invalid(usize),
    /// Too much for one batch.
    #[error(transparent)]
    Full(#[from] ColumnFull),
}

/// Rows being read.
#[derive(Debug)]
pub struct RowDecoder {
    columns: SchemaRef,
    builders: Vec<ColumnBuilder>,
    rows: usize,
}

impl RowDecoder {
    /// Adds a row; after an error the row has left nothing behind.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), RowDecodeError> {
        let result = self.read(bytes);
        match result {
            Ok(()) => self.rows += 1,
            Err(_) => self.builders.iter_mut().for_each(|column| column.truncate(self.rows)),
        }
        result
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), RowDecodeError> {
        let mut input = Input { bytes, at: 0 };
        match input.array::<1>()? {
            [VERSION] => {}
            [other] => return Err(RowDecodeError::Version(other)),
        }
        input.columns(&mut self.builders)?;
        match bytes.len() - input.at {
            0 => Ok(()),
            rest => Err(RowDecodeError::Trailing(rest)),
        }
    }

    /// How many rows have been added.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether no row has been added.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The rows added since the last call.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let arrays: Result<Vec<_>, _> = self.builders.iter_mut().map(ColumnBuilder::finish).collect();
        record_batch(&self.columns, arrays?, std::mem::take(&mut self.rows))
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], RowDecodeError> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(RowDecodeError::Truncated(self.bytes.len()))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RowDecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn length(&mut self) -> Result<usize, RowDecodeError> {
        let start = self.at;
        let mut length = 0u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            length |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return usize::try_from(length).map_err(|_| RowDecodeError::Invalid(start));
            }
        }
        Err(RowDecodeError::Invalid(start))
    }

    fn columns(&mut self, builders: &mut [ColumnBuilder]) -> Result<(), RowDecodeError> {
        let bitmap = self.take(builders.len().div_ceil(8))?;
        for (builder, present) in builders.iter_mut().zip(bits(bitmap)) {
            self.value_or_null(builder, present)?;
        }
        Ok(())
    }

    fn value_or_null(&mut self, builder: &mut ColumnBuilder, present: bool) -> Result<(), RowDecodeError> {
        if present {
            self.value(builder)
        } else {
            builder.null();
            Ok(())
        }
    }

    fn value(&mut self, builder: &mut ColumnBuilder) -> Result<(), RowDecodeError> {
        let start = self.at;
        let is_string = *builder.data_type() == DataType::Utf8;
        match builder.values() {
            Values::Bool(values) => match self.array()? {
                [byte @ (0 | 1)] => values.append(byte == 1),
                _ => return Err(RowDecodeError::Invalid(start)),
            },
            Values::Int32(values) => values.push(i32::from_le_bytes(self.array()?)),
            Values::Int64(values) => values.push(i64::from_le_bytes(self.array()?)),
            Values::Float32(values) => values.push(f32::from_bits(u32::from_le_bytes(self.array()?))),
            Values::Float64(values) => values.push(f64::from_bits(u64::from_le_bytes(self.array()?))),
            Values::Decimal(values) => values.push(i128::from_le_bytes(self.array()?)),
            Values::Bytes(values) => {
                let length = self.length()?;
                let bytes = self.take(length)?;
                if is_string && std::str::from_utf8(bytes).is_err() {
                    return Err(RowDecodeError::Invalid(start));
                }
                values.data.extend_from_slice(bytes);
            }
            Values::List(list) => {
                let count = self.length()?;
                let bitmap = self.take(count.div_ceil(8))?;
                for present in bits(bitmap).take(count) {
                    self.value_or_null(&mut list.items, present)?;
                }
            }
            Values::Struct(fields) => self.columns(fields)?,
        }
        Ok(builder.valid()?)
    }
}

fn bits(bitmap: &[u8]) -> impl Iterator<Item = bool> {
    bitmap.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, StringArray};
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::any_batch;

    fn encoded(rows: &RecordBatch) -> Vec<Vec<u8>> {
        let codec = RowCodec::new(&rows.schema()).unwrap();
        let encoder = codec.encoder(rows.columns()).unwrap();
        let encode = |row| {
            let mut bytes = Vec::new();
            encoder.encode(row, &mut bytes);
            bytes
        };
        (0..rows.num_rows()).map(encode).collect()
    }

    fn sample() -> RecordBatch {
        let columns: [(&str, ArrayRef); 4] = [
            ("flag", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("count", Arc::new(Int32Array::from(vec![Some(-2), Some(1)]))),
            ("mean", Arc::new(Float64Array::from(vec![None, Some(-0.0)]))),
            ("name", Arc::new(StringArray::from(vec![Some("zoë"), Some("")]))),
        ];
        let fields: Vec<Field> =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        RecordBatch::try_new(
            Arc::new(Schema::new(fields)),
            columns.into_iter().map(|(_, array)| array).collect(),
        )
        .unwrap()
    }

    /// Rows lie in topics: a change of these bytes needs a new version.
    #[test]
    fn the_bytes_are_pinned() {
        let rows = encoded(&sample());
        assert_eq!(rows[0], [1, 0b1011, 1, 0xfe, 0xff, 0xff, 0xff, 4, b'z', b'o', 0xc3, 0xab]);
        assert_eq!(rows[1], [1, 0b1110, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0]);
    }

    #[test]
    fn what_is_no_row_is_refused_and_leaves_nothing_behind() {
        let rows = sample();
        let bytes = encoded(&rows);
        let mut decoder = RowCodec::new(&rows.schema()).unwrap().decoder().unwrap();
        for end in 0..bytes[0].len() {
            assert_eq!(decoder.push(&bytes[0][..end]), Err(RowDecodeError::Truncated(end)));
        }
        let mut longer = bytes[0].clone();
        longer.push(0);
        assert_eq!(decoder.push(&longer), Err(RowDecodeError::Trailing(1)));
        let mut other = bytes[0].clone();
        other[0] = 2;
        assert_eq!(decoder.push(&other), Err(RowDecodeError::Version(2)));
        let mut broken = bytes[0].clone();
        broken[11] = b'x';
        assert_eq!(decoder.push(&broken), Err(RowDecodeError::Invalid(7)));
        for row in &bytes {
            decoder.push(row).unwrap();
        }
        assert_eq!(encoded(&decoder.finish().unwrap()), bytes);
    }

    proptest! {
        #[test]
        fn every_row_comes_back_bit_by_bit(rows in any_batch(), cut in any::<prop::sample::Index>()) {
            let bytes = encoded(&rows);
            let mut decoder = RowCodec::new(&rows.schema()).unwrap().decoder().unwrap();
            for row in &bytes {
                let cut = &row[..cut.index(row.len())];
                prop_assert!(decoder.push(cut).is_err());
                decoder.push(row).unwrap();
            }
            let read = decoder.finish().unwrap();
            prop_assert_eq!(read.num_rows(), rows.num_rows());
            // Arrow does not compare NaN by its bits; bytes do.
            prop_assert_eq!(encoded(&read), bytes);
            for (left, right) in read.columns().iter().zip(rows.columns()) {
                prop_assert_eq!(left.logical_nulls(), right.logical_nulls());
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(rows in any_batch(), bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut decoder = RowCodec::new(&rows.schema()).unwrap().decoder().unwrap();
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            let read = decoder.push(&bytes).is_ok();
            prop_assert_eq!(decoder.finish().unwrap().num_rows(), usize::from(read));
        }
    }
}
