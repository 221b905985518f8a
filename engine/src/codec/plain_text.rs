//! Values that stand alone as text: record headers and the cells of CSV files.
//!
//! Strings stand for themselves; lists and structs are JSON; everything else is written as in JSON, without quotes.

use arrow::datatypes::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use millstream_operators::columns::{ColumnBuilder, Value, Values};
use millstream_operators::schema::type_name;

use super::json_read::{Names, Scanner, UnknownFields, ValueReader, clipped, integer};
use super::json_write::{ValueWriter, write_json};
use super::layout::FieldLayout;
use super::text::{
    DecimalError, parse_date, parse_decimal, parse_timestamp, write_date, write_decimal, write_timestamp,
};

/// Reads the texts of one column.
#[derive(Debug)]
pub(crate) struct TextReader {
    data_type: DataType,
    json: ValueReader,
}

impl TextReader {
    pub(crate) fn new(data_type: &DataType) -> Self {
        let layout = FieldLayout::of_column("", data_type);
        let json = ValueReader::new(&layout, Names::Columns, UnknownFields::Skip);
        TextReader { data_type: data_type.clone(), json }
    }

    /// Adds a header's value to the column; bytes are taken as they are.
    pub(crate) fn read_header(&self, bytes: &[u8], column: &mut ColumnBuilder) -> Result<(), String> {
        if let (DataType::Binary, Values::Bytes(values)) = (&self.data_type, column.values()) {
            values.data.extend_from_slice(bytes);
            return column.valid().map_err(|error| error.to_string());
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.read(text, column),
            Err(error) => {
                let byte = error.valid_up_to();
                Err(format!("found bytes that are not UTF-8, at byte {byte}, expected {}", self.expected()))
            }
        }
    }

    /// Adds a value to the column; after an error the column has an open row.
    pub(crate) fn read(&self, text: &str, column: &mut ColumnBuilder) -> Result<(), String> {
        let syntax = || format!("found {:?}, expected {}", clipped(text), self.expected());
        let number = |error| match error {
            DecimalError::Syntax => syntax(),
            DecimalError::Inexact => {
                format!(
                    "found {}, which {} cannot hold without loss",
                    clipped(text),
                    type_name(&self.data_type)
                )
            }
            DecimalError::Range => {
                format!(
                    "found {}, which is out of the range of {}",
                    clipped(text),
                    type_name(&self.data_type)
                )
            }
        };
        // Infinity has to be written as a word.
        let overflows = |is_infinite: bool| is_infinite && text.bytes().any(|byte| byte.is_ascii_digit());
        match (&self.data_type, column.values()) {
            (DataType::Utf8, Values::Bytes(values)) => values.data.extend_from_slice(text.as_bytes()),
            (DataType::Binary, Values::Bytes(values)) => {
                BASE64.decode_vec(text.as_bytes(), &mut values.data).map_err(|_| syntax())?;
            }
            (DataType::Boolean, Values::Bool(values)) => {
                if text.eq_ignore_ascii_case("true") {
                    values.append(true);
                } else if text.eq_ignore_ascii_case("false") {
                    values.append(false);
                } else {
                    return Err(syntax());
                }
            }
            (DataType::Int32, Values::Int32(values)) => {
                let value = integer(text).map_err(number)?;
                values.push(i32::try_from(value).map_err(|_| number(DecimalError::Range))?);
            }
            (DataType::Int64, Values::Int64(values)) => values.push(integer(text).map_err(number)?),
            (DataType::Float32, Values::Float32(values)) => match text.parse::<f32>() {
                Ok(value) if !overflows(value.is_infinite()) => values.push(value),
                Ok(_) => return Err(number(DecimalError::Range)),
                Err(_) => return Err(syntax()),
            },
            (DataType::Float64, Values::Float64(values)) => match text.parse::<f64>() {
                Ok(value) if !overflows(value.is_infinite()) => values.push(value),
                Ok(_) => return Err(number(DecimalError::Range)),
                Err(_) => return Err(syntax()),
            },
            (DataType::Decimal128(precision, scale), Values::Decimal(values)) => {
                values.push(parse_decimal(text, *precision, *scale).map_err(number)?);
            }
            (DataType::Date32, Values::Int32(values)) => values.push(parse_date(text).ok_or_else(syntax)?),
            (DataType::Timestamp(_, _), Values::Int64(values)) => {
                let millis = parse_timestamp(text).or_else(|| integer(text).ok());
                values.push(millis.ok_or_else(syntax)?);
            }
            _ => {
                let mut scanner = Scanner::new(text);
                let read = self.json.read(&mut scanner, column).and_then(|()| scanner.end());
                return read.map_err(|fault| fault.to_string());
            }
        }
        column.valid().map_err(|error| error.to_string())
    }

    fn expected(&self) -> String {
        match &self.data_type {
            DataType::Boolean => "true or false".to_owned(),
            DataType::Date32 => "a date as YYYY-MM-DD".to_owned(),
            DataType::Timestamp(_, _) => {
                "a timestamp as YYYY-MM-DDThh:mm:ssZ (RFC 3339) or epoch milliseconds".to_owned()
            }
            DataType::Binary => "bytes in base64".to_owned(),
            other => type_name(other),
        }
    }
}

/// Appends a value as the text of a header; bytes are written as they are.
pub(crate) fn write_header(value: Value<'_>, json: &ValueWriter, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => out.extend_from_slice(text.as_bytes()),
        Value::Bytes(bytes) => out.extend_from_slice(bytes),
        Value::Date(days) => write_date(days, out),
        Value::Timestamp(millis) => write_timestamp(millis, out),
        Value::Decimal(digits, scale) => write_decimal(digits, scale, out),
        // JSON has no word for these.
        Value::Float32(number) if !number.is_finite() => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Float64(number) if !number.is_finite() => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Bool(value) => write_json(&value, out),
        other => json.write(other, out),
    }
}
