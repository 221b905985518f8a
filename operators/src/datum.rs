//! One value outside of an array: what an aggregate remembers, and what is stored of a row.
//!
//! Equality, order and hash agree with each other: null first, numbers by value, `-0.0` before `0.0`, NaN after every other
//! number and equal to itself whatever its bits, strings and bytes bytewise, lists and structs element by element. Bytes
//! written by [`Datum::write`] are read back to the same bits.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMillisecondType,
};
use arrow::error::ArrowError;

use crate::columns::{ColumnBuilder, ColumnFull, UnsupportedType, Values};
use crate::schema::type_name;

/// One value. Its type is known from elsewhere: a decimal has no scale of its own, null has no type.
#[derive(Clone, Debug, Default)]
pub enum Datum {
    /// No value.
    #[default]
    Null,
    /// `bool`.
    Bool(bool),
    /// `int32`.
    Int32(i32),
    /// `int64`.
    Int64(i64),
    /// `float32`.
    Float32(f32),
    /// `float64`.
    Float64(f64),
    /// `decimal(p,s)`, as a number of 10^-s.
    Decimal(Int128),
    /// `date`, days since 1970.
    Date(i32),
    /// `timestamp`, milliseconds since 1970 UTC.
    Timestamp(i64),
    /// `string`.
    String(Arc<str>),
    /// `bytes`.
    Bytes(Arc<[u8]>),
    /// `list<T>`.
    List(Arc<[Datum]>),
    /// A struct: its fields in order.
    Struct(Arc<[Datum]>),
}

/// An `i128` that may lie at any multiple of 8 bytes: so a [`Datum`] has 24 bytes, not 32.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed(8))]
pub struct Int128(i128);

impl From<i128> for Int128 {
    fn from(value: i128) -> Self {
        Int128(value)
    }
}

impl From<Int128> for i128 {
    fn from(value: Int128) -> Self {
        value.0
    }
}

/// A value that still lies in an array or in a [`Datum`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum DatumRef<'a> {
    Null,
    Bool(bool),
    Int32(i32),
    Int64(i64),
    Float32(f32),
    Float64(f64),
    Decimal(i128),
    Date(i32),
    Timestamp(i64),
    String(&'a str),
    Bytes(&'a [u8]),
    /// A list or struct.
    Nested(&'a Datum),
}

/// Stored bytes that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the stored value ends too early")]
    Truncated,
    /// Something follows after the end.
    #[error("the stored value is followed by {0} unknown bytes")]
    Trailing(usize),
    /// Written by another version.
    #[error("the stored value has layout version {found}, this program reads {expected}")]
    Version {
        /// In the bytes.
        found: u8,
        /// Of this program.
        expected: u8,
    },
    /// Bytes that no value has.
    #[error("the stored value is damaged: {0}")]
    Damaged(&'static str),
}

/// NaN is the greatest number and equal to itself.
fn float_order(left: f64, right: f64) -> Ordering {
    match (left.is_nan(), right.is_nan()) {
        (false, false) => left.total_cmp(&right),
        (left, right) => left.cmp(&right),
    }
}

impl DatumRef<'_> {
    pub(crate) fn is_null(&self) -> bool {
        matches!(self, DatumRef::Null)
    }

    pub(crate) fn to_datum(self) -> Datum {
        match self {
            DatumRef::Null => Datum::Null,
            DatumRef::Bool(value) => Datum::Bool(value),
            DatumRef::Int32(value) => Datum::Int32(value),
            DatumRef::Int64(value) => Datum::Int64(value),
            DatumRef::Float32(value) => Datum::Float32(value),
            DatumRef::Float64(value) => Datum::Float64(value),
            DatumRef::Decimal(value) => Datum::Decimal(value.into()),
            DatumRef::Date(value) => Datum::Date(value),
            DatumRef::Timestamp(value) => Datum::Timestamp(value),
            DatumRef::String(value) => Datum::String(Arc::from(value)),
            DatumRef::Bytes(value) => Datum::Bytes(Arc::from(value)),
            DatumRef::Nested(value) => value.clone(),
        }
    }

    /// The place of the variant in the order: null first. Values of one column share a variant, null aside.
    fn rank(&self) -> u8 {
        match self {
            DatumRef::Null => 0,
            DatumRef::Bool(_) => 1,
            DatumRef::Int32(_) => 2,
            DatumRef::Int64(_) => 3,
            DatumRef::Float32(_) => 4,
            DatumRef::Float64(_) => 5,
            DatumRef::Decimal(_) => 6,
            DatumRef::Date(_) => 7,
            DatumRef::Timestamp(_) => 8,
            DatumRef::String(_) => 9,
            DatumRef::Bytes(_) => 10,
            DatumRef::Nested(_) => 11,
        }
    }

    pub(crate) fn compare(&self, other: &DatumRef<'_>) -> Ordering {
        use DatumRef::*;
        match (self, other) {
            (Bool(left), Bool(right)) => left.cmp(right),
            (Int32(left), Int32(right)) | (Date(left), Date(right)) => left.cmp(right),
            (Int64(left), Int64(right)) | (Timestamp(left), Timestamp(right)) => left.cmp(right),
            (Float32(left), Float32(right)) => float_order(f64::from(*left), f64::from(*right)),
            (Float64(left), Float64(right)) => float_order(*left, *right),
            (Decimal(left), Decimal(right)) => left.cmp(right),
            (String(left), String(right)) => left.cmp(right),
            (Bytes(left), Bytes(right)) => left.cmp(right),
            (Nested(left), Nested(right)) => match (left, right) {
                (Datum::List(left), Datum::List(right)) | (Datum::Struct(left), Datum::Struct(right)) => {
                    left.cmp(right)
                }
                (left, _) => {
                    if matches!(left, Datum::List(_)) {
                        Ordering::Less
                    } else {
                        Ordering::Greater
                    }
                }
            },
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl Datum {
    /// Whether there is no value.
    pub fn is_null(&self) -> bool {
        matches!(self, Datum::Null)
    }

    pub(crate) fn by_ref(&self) -> DatumRef<'_> {
        match self {
            Datum::Null => DatumRef::Null,
            Datum::Bool(value) => DatumRef::Bool(*value),
            Datum::Int32(value) => DatumRef::Int32(*value),
            Datum::Int64(value) => DatumRef::Int64(*value),
            Datum::Float32(value) => DatumRef::Float32(*value),
            Datum::Float64(value) => DatumRef::Float64(*value),
            Datum::Decimal(value) => DatumRef::Decimal((*value).into()),
            Datum::Date(value) => DatumRef::Date(*value),
            Datum::Timestamp(value) => DatumRef::Timestamp(*value),
            Datum::String(value) => DatumRef::String(value),
            Datum::Bytes(value) => DatumRef::Bytes(value),
            Datum::List(_) | Datum::Struct(_) => DatumRef::Nested(self),
        }
    }

    /// The value at `row` of an array of one of the language's types; null for any other type.
    pub fn from_array(array: &dyn Array, row: usize) -> Datum {
        if row >= array.len() || array.is_null(row) {
            return Datum::Null;
        }
        match array.data_type() {
            DataType::Boolean => Datum::Bool(array.as_boolean().value(row)),
            DataType::Int32 => Datum::Int32(array.as_primitive::<Int32Type>().value(row)),
            DataType::Int64 => Datum::Int64(array.as_primitive::<Int64Type>().value(row)),
            DataType::Float32 => Datum::Float32(array.as_primitive::<Float32Type>().value(row)),
            DataType::Float64 => Datum::Float64(array.as_primitive::<Float64Type>().value(row)),
            DataType::Decimal128(_, _) => {
                Datum::Decimal(array.as_primitive::<Decimal128Type>().value(row).into())
            }
            DataType::Date32 => Datum::Date(array.as_primitive::<Date32Type>().value(row)),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                Datum::Timestamp(array.as_primitive::<TimestampMillisecondType>().value(row))
            }
            DataType::Utf8 => Datum::String(Arc::from(array.as_string::<i32>().value(row))),
            DataType::Binary => Datum::Bytes(Arc::from(array.as_binary::<i32>().value(row))),
            DataType::List(_) => {
                let items = array.as_list::<i32>().value(row);
                Datum::List((0..items.len()).map(|item| Datum::from_array(&items, item)).collect())
            }
            DataType::Struct(_) => {
                let columns = array.as_struct().columns();
                Datum::Struct(columns.iter().map(|column| Datum::from_array(column, row)).collect())
            }
            _ => Datum::Null,
        }
    }

    /// Whether the value can stand in a column of the type; null can in every column.
    pub fn is_of(&self, data_type: &DataType) -> bool {
        match (self, data_type) {
            (Datum::Null, _)
            | (Datum::Bool(_), DataType::Boolean)
            | (Datum::Int32(_), DataType::Int32)
            | (Datum::Int64(_), DataType::Int64)
            | (Datum::Float32(_), DataType::Float32)
            | (Datum::Float64(_), DataType::Float64)
            | (Datum::Decimal(_), DataType::Decimal128(_, _))
            | (Datum::Date(_), DataType::Date32)
            | (Datum::Timestamp(_), DataType::Timestamp(TimeUnit::Millisecond, _))
            | (Datum::String(_), DataType::Utf8)
            | (Datum::Bytes(_), DataType::Binary) => true,
            (Datum::List(items), DataType::List(item)) => {
                items.iter().all(|datum| datum.is_of(item.data_type()))
            }
            (Datum::Struct(values), DataType::Struct(fields)) => {
                values.len() == fields.len()
                    && values.iter().zip(fields).all(|(datum, field)| datum.is_of(field.data_type()))
            }
            _ => false,
        }
    }

    /// Appends the value: a tag, then integers as variable-length, floats as little-endian bits, the rest with its length.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.by_ref().write(out);
    }

    /// Reads one value and moves `bytes` behind it.
    pub fn read(bytes: &mut &[u8]) -> Result<Datum, DecodeError> {
        read_datum(&mut Reader::new(bytes), 0)
    }
}

/// The deepest nesting of lists and structs that is read; types of the language stay far below.
const MAX_DEPTH: usize = 64;

impl DatumRef<'_> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            DatumRef::Null => out.push(0),
            DatumRef::Bool(false) => out.push(1),
            DatumRef::Bool(true) => out.push(2),
            DatumRef::Int32(value) => {
                out.push(3);
                put_signed(out, i128::from(*value));
            }
            DatumRef::Int64(value) => {
                out.push(4);
                put_signed(out, i128::from(*value));
            }
            DatumRef::Float32(value) => {
                out.push(5);
                out.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            DatumRef::Float64(value) => {
                out.push(6);
                out.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            DatumRef::Decimal(value) => {
                out.push(7);
                put_signed(out, *value);
            }
            DatumRef::Date(value) => {
                out.push(8);
                put_signed(out, i128::from(*value));
            }
            DatumRef::Timestamp(value) => {
                out.push(9);
                put_signed(out, i128::from(*value));
            }
            DatumRef::String(value) => {
                out.push(10);
                put_bytes(out, value.as_bytes());
            }
            DatumRef::Bytes(value) => {
                out.push(11);
                put_bytes(out, value);
            }
            DatumRef::Nested(value) => {
                let (tag, items) = match value {
                    Datum::List(items) => (12, items),
                    Datum::Struct(items) => (13, items),
                    scalar => return scalar.write(out),
                };
                out.push(tag);
                put_unsigned(out, items.len() as u128);
                items.iter().for_each(|item| item.write(out));
            }
        }
    }
}

fn read_datum(reader: &mut Reader<'_, '_>, depth: usize) -> Result<Datum, DecodeError> {
    fn items(reader: &mut Reader<'_, '_>, depth: usize) -> Result<Arc<[Datum]>, DecodeError> {
        if depth >= MAX_DEPTH {
            return Err(DecodeError::Damaged("nested too deeply"));
        }
        let count = reader.length()?;
        (0..count).map(|_| read_datum(reader, depth + 1)).collect()
    }
    Ok(match reader.byte()? {
        0 => Datum::Null,
        1 => Datum::Bool(false),
        2 => Datum::Bool(true),
        3 => Datum::Int32(reader.integer()?),
        4 => Datum::Int64(reader.integer()?),
        5 => Datum::Float32(f32::from_bits(u32::from_le_bytes(reader.array()?))),
        6 => Datum::Float64(f64::from_bits(u64::from_le_bytes(reader.array()?))),
        7 => Datum::Decimal(reader.integer::<i128>()?.into()),
        8 => Datum::Date(reader.integer()?),
        9 => Datum::Timestamp(reader.integer()?),
        10 => {
            let text = std::str::from_utf8(reader.bytes()?)
                .map_err(|_| DecodeError::Damaged("a string is not UTF-8"))?;
            Datum::String(Arc::from(text))
        }
        11 => Datum::Bytes(Arc::from(reader.bytes()?)),
        12 => Datum::List(items(reader, depth)?),
        13 => Datum::Struct(items(reader, depth)?),
        _ => return Err(DecodeError::Damaged("a value of an unknown kind")),
    })
}

/// Appends values one after the other, to be read by [`read_values`].
pub fn write_values(values: &[Datum], out: &mut Vec<u8>) {
    values.iter().for_each(|value| value.write(out));
}

/// Reads all values that `bytes` hold.
pub fn read_values(mut bytes: &[u8]) -> Result<Vec<Datum>, DecodeError> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        values.push(Datum::read(&mut bytes)?);
    }
    Ok(values)
}

impl PartialEq for Datum {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Datum {}

impl PartialOrd for Datum {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Datum {
    fn cmp(&self, other: &Self) -> Ordering {
        self.by_ref().compare(&other.by_ref())
    }
}

impl Hash for Datum {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.by_ref().rank().hash(state);
        match self {
            Datum::Null => {}
            Datum::Bool(value) => value.hash(state),
            Datum::Int32(value) | Datum::Date(value) => value.hash(state),
            Datum::Int64(value) | Datum::Timestamp(value) => value.hash(state),
            Datum::Float32(value) => if value.is_nan() { f32::NAN } else { *value }.to_bits().hash(state),
            Datum::Float64(value) => if value.is_nan() { f64::NAN } else { *value }.to_bits().hash(state),
            Datum::Decimal(value) => i128::from(*value).hash(state),
            Datum::String(value) => value.hash(state),
            Datum::Bytes(value) => value.hash(state),
            Datum::List(values) | Datum::Struct(values) => values.hash(state),
        }
    }
}

// ---- bytes

/// Appends an integer in 7-bit groups, the lowest first.
pub(crate) fn put_unsigned(out: &mut Vec<u8>, mut value: u128) {
    while value > u128::from(u64::MAX) {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    // Arithmetic of 64 bits is cheaper.
    let mut value = value as u64;
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends an integer so that small negative numbers are as short as positive ones.
pub(crate) fn put_signed(out: &mut Vec<u8>, value: i128) {
    put_unsigned(out, ((value << 1) ^ (value >> 127)) as u128);
}

/// Appends bytes behind their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_unsigned(out, bytes.len() as u128);
    out.extend_from_slice(bytes);
}

/// Takes values from the front of a slice.
pub(crate) struct Reader<'s, 'b>(&'s mut &'b [u8]);

impl<'s, 'b> Reader<'s, 'b> {
    pub(crate) fn new(bytes: &'s mut &'b [u8]) -> Self {
        Reader(bytes)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.0.split_first().ok_or(DecodeError::Truncated)?;
        *self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        *self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn unsigned(&mut self) -> Result<u128, DecodeError> {
        // Most numbers are small.
        if let Some((&byte @ 0..0x80, rest)) = self.0.split_first() {
            *self.0 = rest;
            return Ok(u128::from(byte));
        }
        let mut value = 0u128;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Damaged("a number is too long"))
    }

    pub(crate) fn integer<T: TryFrom<i128>>(&mut self) -> Result<T, DecodeError> {
        let value = self.unsigned()?;
        let value = (value >> 1) as i128 ^ -((value & 1) as i128);
        T::try_from(value).map_err(|_| DecodeError::Damaged("a number is out of range"))
    }

    /// A count of things that take at least a byte each.
    pub(crate) fn length(&mut self) -> Result<usize, DecodeError> {
        let length = usize::try_from(self.unsigned()?).map_err(|_| DecodeError::Truncated)?;
        if length > self.0.len() { Err(DecodeError::Truncated) } else { Ok(length) }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'b [u8], DecodeError> {
        let length = self.length()?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        *self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn datum(&mut self) -> Result<Datum, DecodeError> {
        read_datum(self, 0)
    }

    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.0.len())) }
    }
}

// ---- arrays

/// Why a value does not go into a column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatumError {
    /// It has another type.
    #[error("a value of another type stands in a column of type {}", type_name(.0))]
    Type(DataType),
    /// There is no room.
    #[error(transparent)]
    Full(#[from] ColumnFull),
}

/// Collects values into an array.
#[derive(Debug)]
pub struct DatumBuilder {
    column: ColumnBuilder,
}

impl DatumBuilder {
    /// A builder without values.
    pub fn new(data_type: &DataType) -> Result<Self, UnsupportedType> {
        Ok(DatumBuilder { column: ColumnBuilder::new(data_type)? })
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.column.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.column.is_empty()
    }

    /// Adds a null.
    pub fn append_null(&mut self) {
        self.column.null();
    }

    /// Adds a value. One that does not fit is refused, and a null added in its place.
    pub fn append(&mut self, datum: &Datum) -> Result<(), DatumError> {
        let rows = self.column.len();
        append(&mut self.column, datum).inspect_err(|_| {
            self.column.truncate(rows);
            self.column.null();
        })
    }

    /// The array.
    pub fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        self.column.finish()
    }
}

fn append(column: &mut ColumnBuilder, datum: &Datum) -> Result<(), DatumError> {
    match (column.values(), datum) {
        (_, Datum::Null) => {
            column.null();
            return Ok(());
        }
        (Values::Bool(values), Datum::Bool(value)) => values.append(*value),
        (Values::Int32(values), Datum::Int32(value) | Datum::Date(value)) => values.push(*value),
        (Values::Int64(values), Datum::Int64(value) | Datum::Timestamp(value)) => values.push(*value),
        (Values::Float32(values), Datum::Float32(value)) => values.push(*value),
        (Values::Float64(values), Datum::Float64(value)) => values.push(*value),
        (Values::Decimal(values), Datum::Decimal(value)) => values.push((*value).into()),
        (Values::Bytes(values), Datum::String(value)) => values.data.extend_from_slice(value.as_bytes()),
        (Values::Bytes(values), Datum::Bytes(value)) => values.data.extend_from_slice(value),
        (Values::List(list), Datum::List(items)) => {
            items.iter().try_for_each(|item| append(&mut list.items, item))?;
        }
        (Values::Struct(fields), Datum::Struct(values)) if fields.len() == values.len() => {
            fields.iter_mut().zip(values.iter()).try_for_each(|(field, value)| append(field, value))?;
        }
        _ => return Err(DatumError::Type(column.data_type().clone())),
    }
    Ok(column.valid()?)
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use arrow::datatypes::{Field, Fields};
    use proptest::prelude::*;

    use super::*;

    fn any_datum() -> impl Strategy<Value = Datum> {
        let scalar = prop_oneof![
            Just(Datum::Null),
            any::<bool>().prop_map(Datum::Bool),
            any::<i32>().prop_map(Datum::Int32),
            any::<i64>().prop_map(Datum::Int64),
            any::<u32>().prop_map(|bits| Datum::Float32(f32::from_bits(bits))),
            any::<u64>().prop_map(|bits| Datum::Float64(f64::from_bits(bits))),
            prop_oneof![Just(f64::NAN), Just(-f64::NAN), Just(0.0), Just(-0.0)].prop_map(Datum::Float64),
            any::<i128>().prop_map(|value| Datum::Decimal(value.into())),
            any::<i32>().prop_map(Datum::Date),
            any::<i64>().prop_map(Datum::Timestamp),
            ".{0,5}".prop_map(|text| Datum::String(text.into())),
            proptest::collection::vec(any::<u8>(), 0..5).prop_map(|bytes| Datum::Bytes(bytes.into())),
        ];
        scalar.prop_recursive(3, 12, 4, |inner| {
            let items = proptest::collection::vec(inner, 0..4);
            prop_oneof![
                items.clone().prop_map(|items| Datum::List(items.into())),
                items.prop_map(|items| Datum::Struct(items.into())),
            ]
        })
    }

    fn written(datum: &Datum) -> Vec<u8> {
        let mut bytes = Vec::new();
        datum.write(&mut bytes);
        bytes
    }

    #[test]
    fn bytes_are_fixed() {
        let table: &[(Datum, &[u8])] = &[
            (Datum::Null, &[0]),
            (Datum::Bool(false), &[1]),
            (Datum::Bool(true), &[2]),
            (Datum::Int32(-1), &[3, 1]),
            (Datum::Int64(300), &[4, 0xd8, 4]),
            (Datum::Float32(1.5), &[5, 0, 0, 0xc0, 0x3f]),
            (Datum::Float64(-0.0), &[6, 0, 0, 0, 0, 0, 0, 0, 0x80]),
            (Datum::Decimal((-150).into()), &[7, 0xab, 2]),
            (Datum::Date(1), &[8, 2]),
            (Datum::Timestamp(64), &[9, 0x80, 1]),
            (Datum::String("ä".into()), &[10, 2, 0xc3, 0xa4]),
            (Datum::Bytes([7].as_slice().into()), &[11, 1, 7]),
            (Datum::List([Datum::Int32(1), Datum::Null].as_slice().into()), &[12, 2, 3, 2, 0]),
            (Datum::Struct([Datum::Bool(true)].as_slice().into()), &[13, 1, 2]),
        ];
        for (datum, bytes) in table {
            assert_eq!(written(datum), *bytes, "{datum:?}");
        }
    }

    #[test]
    fn numbers_are_ordered_with_nan_last() {
        let order = [f64::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0, f64::INFINITY, f64::NAN].map(Datum::Float64);
        assert!(order.is_sorted_by(|left, right| left < right));
        assert_eq!(Datum::Float64(-f64::NAN), Datum::Float64(f64::NAN));
        assert!(Datum::Null < Datum::Float64(f64::NEG_INFINITY));
    }

    proptest! {
        #[test]
        fn bytes_come_back_as_they_were(datums in proptest::collection::vec(any_datum(), 0..5)) {
            let mut bytes = Vec::new();
            write_values(&datums, &mut bytes);
            let read = read_values(&bytes).unwrap();
            let mut again = Vec::new();
            write_values(&read, &mut again);
            prop_assert_eq!(&read, &datums);
            prop_assert_eq!(again, bytes);
        }

        #[test]
        fn order_equality_and_hash_agree(one in any_datum(), two in any_datum(), three in any_datum()) {
            prop_assert_eq!(one.cmp(&two), two.cmp(&one).reverse());
            if one <= two && two <= three {
                prop_assert!(one <= three);
            }
            if one == two {
                let hasher = foldhash::fast::FixedState::default();
                prop_assert_eq!(hasher.hash_one(&one), hasher.hash_one(&two));
            }
        }

        #[test]
        fn arrays_hold_what_was_appended(values in proptest::collection::vec(
            proptest::option::of((any::<Option<i32>>(), proptest::option::of(".{0,3}"))), 0..8,
        )) {
            let fields = Fields::from(vec![
                Field::new("n", DataType::Int32, true),
                Field::new("texts", DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))), true),
            ]);
            let datums: Vec<Datum> = values
                .into_iter()
                .map(|value| value.map_or(Datum::Null, |(number, text)| {
                    let number = number.map_or(Datum::Null, Datum::Int32);
                    let texts = text.map_or(Datum::Null, |text| Datum::List([Datum::String(text.into()), Datum::Null].into()));
                    Datum::Struct([number, texts].into())
                }))
                .collect();
            let data_type = DataType::Struct(fields);
            let mut builder = DatumBuilder::new(&data_type).unwrap();
            for datum in &datums {
                builder.append(datum).unwrap();
            }
            let array = builder.finish().unwrap();
            prop_assert_eq!(array.data_type(), &data_type);
            let read: Vec<Datum> = (0..datums.len()).map(|row| Datum::from_array(&array, row)).collect();
            prop_assert_eq!(read, datums);
        }
    }

    #[test]
    fn a_value_of_another_type_leaves_a_null() {
        let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
        let mut builder = DatumBuilder::new(&list).unwrap();
        let wrong = Datum::List([Datum::Int64(1), Datum::Bool(true)].into());
        assert_eq!(builder.append(&wrong), Err(DatumError::Type(DataType::Int64)));
        builder.append(&Datum::List([Datum::Int64(2)].into())).unwrap();
        let array = builder.finish().unwrap();
        assert_eq!(Datum::from_array(&array, 0), Datum::Null);
        assert_eq!(Datum::from_array(&array, 1), Datum::List([Datum::Int64(2)].into()));
    }
}
