//! The tables of numbers that go into a model and come out of it.

use std::fmt;

use serde::Deserialize;

use super::ModelError;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ElementType {
    /// 32-bit floating point.
    Float32,
    /// 64-bit floating point.
    Float64,
    /// 64-bit integer.
    Int64,
    /// 32-bit integer.
    Int32,
    /// True or false.
    Bool,
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ElementType::Float32 => "float32",
            ElementType::Float64 => "float64",
            ElementType::Int64 => "int64",
            ElementType::Int32 => "int32",
            ElementType::Bool => "bool",
        })
    }
}

/// The elements of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// 32-bit floating point.
    Float32(Vec<f32>),
    /// 64-bit floating point.
    Float64(Vec<f64>),
    /// 64-bit integers.
    Int64(Vec<i64>),
    /// 32-bit integers.
    Int32(Vec<i32>),
    /// True or false.
    Bool(Vec<bool>),
}

impl Data {
    /// The type of the elements.
    pub fn element_type(&self) -> ElementType {
        match self {
            Data::Float32(_) => ElementType::Float32,
            Data::Float64(_) => ElementType::Float64,
            Data::Int64(_) => ElementType::Int64,
            Data::Int32(_) => ElementType::Int32,
            Data::Bool(_) => ElementType::Bool,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::Float32(data) => data.len(),
            Data::Float64(data) => data.len(),
            Data::Int64(data) => data.len(),
            Data::Int32(data) => data.len(),
            Data::Bool(data) => data.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element as a number: a bool is 0 or 1.
    pub fn get(&self, index: usize) -> Option<f64> {
        match self {
            Data::Float32(data) => data.get(index).map(|value| f64::from(*value)),
            Data::Float64(data) => data.get(index).copied(),
            Data::Int64(data) => data.get(index).map(|value| *value as f64),
            Data::Int32(data) => data.get(index).map(|value| f64::from(*value)),
            Data::Bool(data) => data.get(index).map(|value| f64::from(u8::from(*value))),
        }
    }

    /// Adds the elements of `other`, which has to have the same type; another type adds nothing.
    pub fn append(&mut self, other: Data) {
        match (self, other) {
            (Data::Float32(all), Data::Float32(more)) => all.extend(more),
            (Data::Float64(all), Data::Float64(more)) => all.extend(more),
            (Data::Int64(all), Data::Int64(more)) => all.extend(more),
            (Data::Int32(all), Data::Int32(more)) => all.extend(more),
            (Data::Bool(all), Data::Bool(more)) => all.extend(more),
            _ => {}
        }
    }

    /// Keeps the first `len` elements.
    pub fn truncate(&mut self, len: usize) {
        match self {
            Data::Float32(data) => data.truncate(len),
            Data::Float64(data) => data.truncate(len),
            Data::Int64(data) => data.truncate(len),
            Data::Int32(data) => data.truncate(len),
            Data::Bool(data) => data.truncate(len),
        }
    }

    /// No elements, with room for `capacity` of them.
    pub fn with_capacity(element_type: ElementType, capacity: usize) -> Data {
        match element_type {
            ElementType::Float32 => Data::Float32(Vec::with_capacity(capacity)),
            ElementType::Float64 => Data::Float64(Vec::with_capacity(capacity)),
            ElementType::Int64 => Data::Int64(Vec::with_capacity(capacity)),
            ElementType::Int32 => Data::Int32(Vec::with_capacity(capacity)),
            ElementType::Bool => Data::Bool(Vec::with_capacity(capacity)),
        }
    }
}

/// A table of numbers in row-major order. It always holds exactly rows × width elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    rows: usize,
    width: usize,
    data: Data,
}

impl Tensor {
    /// A tensor of `rows` rows with `width` elements each.
    pub fn new(rows: usize, width: usize, data: Data) -> Result<Tensor, ModelError> {
        if rows.checked_mul(width) != Some(data.len()) {
            let message = format!("{} elements are not {rows} rows of {width}", data.len());
            return Err(ModelError::Input { message });
        }
        Ok(Tensor { rows, width, data })
    }

    /// A tensor of zeros.
    pub(super) fn zeros(rows: usize, width: usize, element_type: ElementType) -> Tensor {
        let count = rows * width;
        let data = match element_type {
            ElementType::Float32 => Data::Float32(vec![0.0; count]),
            ElementType::Float64 => Data::Float64(vec![0.0; count]),
            ElementType::Int64 => Data::Int64(vec![0; count]),
            ElementType::Int32 => Data::Int32(vec![0; count]),
            ElementType::Bool => Data::Bool(vec![false; count]),
        };
        Tensor { rows, width, data }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of elements in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All elements, row by row.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements themselves.
    pub fn into_data(self) -> Data {
        self.data
    }

    /// One element as a number.
    pub fn get(&self, row: usize, index: usize) -> Option<f64> {
        if index >= self.width { None } else { self.data.get(row.checked_mul(self.width)? + index) }
    }

    /// The rows from `start`, `rows` of them; fewer where the tensor ends.
    pub fn slice(&self, start: usize, rows: usize) -> Tensor {
        fn part<T: Copy>(data: &[T], start: usize, end: usize) -> Vec<T> {
            data.get(start..end).unwrap_or_default().to_vec()
        }
        let start = start.min(self.rows);
        let rows = rows.min(self.rows - start);
        let (from, to) = (start * self.width, (start + rows) * self.width);
        let data = match &self.data {
            Data::Float32(data) => Data::Float32(part(data, from, to)),
            Data::Float64(data) => Data::Float64(part(data, from, to)),
            Data::Int64(data) => Data::Int64(part(data, from, to)),
            Data::Int32(data) => Data::Int32(part(data, from, to)),
            Data::Bool(data) => Data::Bool(part(data, from, to)),
        };
        Tensor { rows, width: self.width, data }
    }
}
