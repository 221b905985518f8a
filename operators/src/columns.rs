//! Reading and building columns value by value, without knowing Arrow's array types.
//!
//! [`Column`] looks an array's type up once and then answers by row; [`ColumnBuilder`] takes values row by row and can be
//! brought back to an earlier row, so that a row that fails half-way leaves nothing behind. Both know exactly the types
//! of the topology language.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, BooleanBufferBuilder, ListArray, NullBufferBuilder,
    PrimitiveArray, StringArray, StructArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
    TimeUnit, TimestampMillisecondType,
};
use arrow::error::ArrowError;

use crate::schema::type_name;

/// A type that the topology language has no column for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no column type", type_name(.0))]
pub struct UnsupportedType(pub DataType);

impl From<UnsupportedType> for ArrowError {
    fn from(error: UnsupportedType) -> Self {
        ArrowError::ExternalError(Box::new(error))
    }
}

/// One value of a column.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// No value.
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
    /// `decimal`: the digits without the point, and how many of them come after it.
    Decimal(i128, i8),
    /// `string`.
    String(&'a str),
    /// `bytes`.
    Bytes(&'a [u8]),
    /// `date`: days since 1970.
    Date(i32),
    /// `timestamp`: milliseconds since 1970.
    Timestamp(i64),
    /// `list`: the items' column, its first row of the list and the first after it.
    List(&'a Column<'a>, usize, usize),
    /// A struct: its fields, and their row.
    Struct(&'a [Column<'a>], usize),
}

/// An array whose type has been looked up.
#[derive(Debug)]
pub struct Column<'a> {
    nulls: Option<&'a NullBuffer>,
    data: Data<'a>,
}

#[derive(Debug)]
enum Data<'a> {
    Bool(&'a BooleanBuffer),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Decimal(&'a [i128], i8),
    String(&'a StringArray),
    Bytes(&'a BinaryArray),
    Date(&'a [i32]),
    Timestamp(&'a [i64]),
    List(&'a [i32], Box<Column<'a>>),
    Struct(Vec<Column<'a>>),
}

impl<'a> Column<'a> {
    /// Looks the array's type up.
    pub fn new(array: &'a dyn Array) -> Result<Self, UnsupportedType> {
        fn values<T: ArrowPrimitiveType>(array: &dyn Array) -> &[T::Native] {
            array.as_primitive::<T>().values()
        }
        let data = match array.data_type() {
            DataType::Boolean => Data::Bool(array.as_boolean().values()),
            DataType::Int32 => Data::Int32(values::<Int32Type>(array)),
            DataType::Int64 => Data::Int64(values::<Int64Type>(array)),
            DataType::Float32 => Data::Float32(values::<Float32Type>(array)),
            DataType::Float64 => Data::Float64(values::<Float64Type>(array)),
            DataType::Decimal128(_, scale) => Data::Decimal(values::<Decimal128Type>(array), *scale),
            DataType::Utf8 => Data::String(array.as_string()),
            DataType::Binary => Data::Bytes(array.as_binary()),
            DataType::Date32 => Data::Date(values::<Date32Type>(array)),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                Data::Timestamp(values::<TimestampMillisecondType>(array))
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Data::List(list.value_offsets(), Box::new(Column::new(list.values().as_ref())?))
            }
            DataType::Struct(_) => {
                let fields: Result<_, _> =
                    array.as_struct().columns().iter().map(|field| Column::new(field.as_ref())).collect();
                Data::Struct(fields?)
            }
            other => return Err(UnsupportedType(other.clone())),
        };
        Ok(Column { nulls: array.nulls(), data })
    }

    /// Looks the types of several arrays up.
    pub fn all(arrays: &'a [ArrayRef]) -> Result<Vec<Self>, UnsupportedType> {
        arrays.iter().map(|array| Column::new(array.as_ref())).collect()
    }

    /// Whether a row has no value.
    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    /// The value of a row.
    ///
    /// # Panics
    ///
    /// If the column has no such row.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "the hot path of every codec; rows are counted by the same batch"
    )]
    pub fn value(&self, row: usize) -> Value<'_> {
        if self.is_null(row) {
            return Value::Null;
        }
        match &self.data {
            Data::Bool(values) => Value::Bool(values.value(row)),
            Data::Int32(values) => Value::Int32(values[row]),
            Data::Int64(values) => Value::Int64(values[row]),
            Data::Float32(values) => Value::Float32(values[row]),
            Data::Float64(values) => Value::Float64(values[row]),
            Data::Decimal(values, scale) => Value::Decimal(values[row], *scale),
            Data::String(values) => Value::String(values.value(row)),
            Data::Bytes(values) => Value::Bytes(values.value(row)),
            Data::Date(values) => Value::Date(values[row]),
            Data::Timestamp(values) => Value::Timestamp(values[row]),
            Data::List(offsets, item) => Value::List(item, offsets[row] as usize, offsets[row + 1] as usize),
            Data::Struct(fields) => Value::Struct(fields, row),
        }
    }
}

/// A column under construction.
///
/// A value is added in two steps: to [`values`](Self::values), then [`valid`](Self::valid) closes the row. What was added
/// but not closed is taken back by [`truncate`](Self::truncate).
#[derive(Debug)]
pub struct ColumnBuilder {
    data_type: DataType,
    nulls: NullBufferBuilder,
    values: Values,
}

/// The values of a column under construction, one per row, also for null rows.
#[derive(Debug)]
pub enum Values {
    /// `bool`.
    Bool(BooleanBufferBuilder),
    /// `int32` and `date`.
    Int32(Vec<i32>),
    /// `int64` and `timestamp`.
    Int64(Vec<i64>),
    /// `float32`.
    Float32(Vec<f32>),
    /// `float64`.
    Float64(Vec<f64>),
    /// `decimal`.
    Decimal(Vec<i128>),
    /// `string` and `bytes`: the bytes of the open row are appended to the buffer.
    Bytes(BytesBuilder),
    /// `list`: the items of the open row are appended to the item column.
    List(ListBuilder),
    /// A struct: each field gets one row per row.
    Struct(Vec<ColumnBuilder>),
}

/// Strings or byte strings under construction.
#[derive(Debug)]
pub struct BytesBuilder {
    /// The bytes of all rows one after the other; the open row's are at the end.
    pub data: Vec<u8>,
    ends: Vec<i32>,
}

/// Lists under construction.
#[derive(Debug)]
pub struct ListBuilder {
    /// The items of all rows one after the other; the open row's are at the end.
    pub items: Box<ColumnBuilder>,
    ends: Vec<i32>,
}

/// A column passed 2 GiB, or two billion list items, within one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the column passes 2 GiB within one batch; a smaller `max-batch-rows` keeps it below")]
pub struct ColumnFull;

impl ColumnBuilder {
    /// A column without rows.
    pub fn new(data_type: &DataType) -> Result<Self, UnsupportedType> {
        let values = match data_type {
            DataType::Boolean => Values::Bool(BooleanBufferBuilder::new(0)),
            DataType::Int32 | DataType::Date32 => Values::Int32(Vec::new()),
            DataType::Int64 | DataType::Timestamp(TimeUnit::Millisecond, _) => Values::Int64(Vec::new()),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Decimal128(_, _) => Values::Decimal(Vec::new()),
            DataType::Utf8 | DataType::Binary => {
                Values::Bytes(BytesBuilder { data: Vec::new(), ends: vec![0] })
            }
            DataType::List(item) => Values::List(ListBuilder {
                items: Box::new(ColumnBuilder::new(item.data_type())?),
                ends: vec![0],
            }),
            DataType::Struct(fields) => {
                Values::Struct(ColumnBuilder::all(fields.iter().map(|f| f.data_type()))?)
            }
            other => return Err(UnsupportedType(other.clone())),
        };
        Ok(ColumnBuilder { data_type: data_type.clone(), nulls: NullBufferBuilder::new(0), values })
    }

    /// One column for each type.
    pub fn all<'t>(types: impl IntoIterator<Item = &'t DataType>) -> Result<Vec<Self>, UnsupportedType> {
        types.into_iter().map(ColumnBuilder::new).collect()
    }

    /// The column's type.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// How many rows are closed.
    #[inline]
    pub fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Whether no row is closed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the open row's value goes: exactly one per row.
    #[inline]
    pub fn values(&mut self) -> &mut Values {
        &mut self.values
    }

    /// Closes the open row.
    #[inline]
    pub fn valid(&mut self) -> Result<(), ColumnFull> {
        match &mut self.values {
            Values::Bytes(bytes) => bytes.ends.push(i32::try_from(bytes.data.len()).map_err(|_| ColumnFull)?),
            Values::List(list) => list.ends.push(i32::try_from(list.items.len()).map_err(|_| ColumnFull)?),
            _ => {}
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Adds a null row.
    pub fn null(&mut self) {
        match &mut self.values {
            Values::Bool(values) => values.append(false),
            Values::Int32(values) => values.push(0),
            Values::Int64(values) => values.push(0),
            Values::Float32(values) => values.push(0.0),
            Values::Float64(values) => values.push(0.0),
            Values::Decimal(values) => values.push(0),
            Values::Bytes(BytesBuilder { ends, .. }) | Values::List(ListBuilder { ends, .. }) => {
                ends.push(ends.last().copied().unwrap_or(0));
            }
            Values::Struct(fields) => fields.iter_mut().for_each(ColumnBuilder::null),
        }
        self.nulls.append_null();
    }

    /// Takes back everything after the first `rows` rows, an open row too.
    pub fn truncate(&mut self, rows: usize) {
        self.nulls.truncate(rows);
        match &mut self.values {
            Values::Bool(values) => {
                if values.len() > rows {
                    values.truncate(rows);
                }
            }
            Values::Int32(values) => values.truncate(rows),
            Values::Int64(values) => values.truncate(rows),
            Values::Float32(values) => values.truncate(rows),
            Values::Float64(values) => values.truncate(rows),
            Values::Decimal(values) => values.truncate(rows),
            Values::Bytes(bytes) => {
                bytes.ends.truncate(rows + 1);
                bytes.data.truncate(bytes.ends.last().map_or(0, |end| *end as usize));
            }
            Values::List(list) => {
                list.ends.truncate(rows + 1);
                list.items.truncate(list.ends.last().map_or(0, |end| *end as usize));
            }
            Values::Struct(fields) => fields.iter_mut().for_each(|field| field.truncate(rows)),
        }
    }

    /// The value of a closed row of an `int64` or `timestamp` column.
    pub fn int64(&self, row: usize) -> Option<i64> {
        match &self.values {
            Values::Int64(values) if row < self.len() && self.nulls.is_valid(row) => values.get(row).copied(),
            _ => None,
        }
    }

    /// The array of all closed rows; the builder is empty afterwards and expects about as many rows again.
    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        fn taken<T>(values: &mut Vec<T>) -> Vec<T> {
            let next = Vec::with_capacity(values.len());
            std::mem::replace(values, next)
        }
        fn offsets(ends: &mut Vec<i32>) -> OffsetBuffer<i32> {
            let offsets = taken(ends);
            ends.push(0);
            OffsetBuffer::new(offsets.into())
        }
        fn primitive<T: ArrowPrimitiveType>(
            values: &mut Vec<T::Native>,
            nulls: Option<NullBuffer>,
            data_type: &DataType,
        ) -> Result<ArrayRef, ArrowError> {
            let array = PrimitiveArray::<T>::try_new(taken(values).into(), nulls)?;
            Ok(Arc::new(array.with_data_type(data_type.clone())))
        }
        let rows = self.len();
        let nulls = self.nulls.finish();
        Ok(match &mut self.values {
            Values::Bool(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int32(values) => match self.data_type {
                DataType::Date32 => primitive::<Date32Type>(values, nulls, &self.data_type)?,
                _ => primitive::<Int32Type>(values, nulls, &self.data_type)?,
            },
            Values::Int64(values) => match self.data_type {
                DataType::Int64 => primitive::<Int64Type>(values, nulls, &self.data_type)?,
                _ => primitive::<TimestampMillisecondType>(values, nulls, &self.data_type)?,
            },
            Values::Float32(values) => primitive::<Float32Type>(values, nulls, &self.data_type)?,
            Values::Float64(values) => primitive::<Float64Type>(values, nulls, &self.data_type)?,
            Values::Decimal(values) => primitive::<Decimal128Type>(values, nulls, &self.data_type)?,
            Values::Bytes(bytes) => {
                let (offsets, data) = (offsets(&mut bytes.ends), taken(&mut bytes.data).into());
                match self.data_type {
                    DataType::Utf8 => Arc::new(StringArray::try_new(offsets, data, nulls)?),
                    _ => Arc::new(BinaryArray::try_new(offsets, data, nulls)?),
                }
            }
            Values::List(list) => {
                let DataType::List(field) = &self.data_type else {
                    return Err(ArrowError::InvalidArgumentError("a list column of another type".to_owned()));
                };
                let offsets = offsets(&mut list.ends);
                Arc::new(ListArray::try_new(field.clone(), offsets, list.items.finish()?, nulls)?)
            }
            Values::Struct(fields) => {
                let arrays: Result<Vec<_>, _> = fields.iter_mut().map(ColumnBuilder::finish).collect();
                let DataType::Struct(names) = &self.data_type else {
                    return Err(ArrowError::InvalidArgumentError(
                        "a struct column of another type".to_owned(),
                    ));
                };
                Arc::new(StructArray::try_new_with_length(names.clone(), arrays?, nulls, rows)?)
            }
        })
    }
}

/// Whether all columns are null in a row; false where there is no column.
pub fn all_null(columns: &[Column<'_>], row: usize) -> bool {
    !columns.is_empty() && columns.iter().all(|column| column.is_null(row))
}
