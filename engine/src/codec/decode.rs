//! Records of a source to rows.

use std::borrow::Borrow;
use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::SchemaRef;
use millstream_operators::batch::record_batch;
use millstream_operators::columns::{ColumnBuilder, UnsupportedType, Values};
use millstream_operators::diagnostic::Code;
use millstream_operators::schema::type_name;

use super::CodecError;
use super::json_read::{Fault, Names, ObjectReader, Scanner, UnknownFields};
use super::layout::{FieldLayout, Format, HeaderLayout, Metadata, SourceLayout};
use super::plain_text::TextReader;
use super::schemas::{ReadError, SchemaReader};
use crate::record::Record;
use crate::schema_registry::SchemaRegistryError;

/// Decodes the records of one source.
#[derive(Debug)]
pub struct SourceDecoder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    key: Option<PartReader>,
    value: PartReader,
    headers: Vec<HeaderReader>,
    metadata: Vec<(usize, Metadata)>,
    time: Option<usize>,
    topic: String,
}

/// What became of some records.
#[derive(Debug)]
pub struct Decoded {
    /// One row for each record that could be decoded, in order.
    pub columns: RecordBatch,
    /// The rows' event times.
    pub time: Vec<i64>,
    /// Rows whose record value is null; `None` if there is none.
    pub null_value: Option<BooleanBuffer>,
    /// For each row its record's index.
    pub rows: Vec<usize>,
    /// For each record that could not be decoded its index, and why, in order.
    pub errors: Vec<(usize, Code, String)>,
}

impl Decoded {
    /// What became of the records with these indexes.
    pub fn part(&self, records: Range<usize>) -> Decoded {
        let before = |record: usize| self.rows.partition_point(|index| *index < record);
        let rows = before(records.start)..before(records.end);
        let nulls = self.null_value.as_ref().map(|nulls| nulls.slice(rows.start, rows.len()));
        let errors = self.errors.iter().filter(|(index, ..)| records.contains(index));
        Decoded {
            columns: self.columns.slice(rows.start, rows.len()),
            time: self.time.get(rows.clone()).unwrap_or_default().to_vec(),
            null_value: nulls.filter(|nulls| nulls.count_set_bits() > 0),
            rows: self
                .rows
                .iter()
                .take(rows.end)
                .skip(rows.start)
                .map(|index| index - records.start)
                .collect(),
            errors: errors
                .map(|(index, code, message)| (index - records.start, *code, message.clone()))
                .collect(),
        }
    }
}

/// Reads the key or the value of records.
#[derive(Debug)]
enum PartReader {
    Json(ObjectReader),
    /// One column in a raw format; `None` if it is read from somewhere else.
    Raw(Format, Option<usize>),
    Schema(Box<SchemaReader>),
}

#[derive(Debug)]
struct HeaderReader {
    column: usize,
    header: String,
    text: TextReader,
}

/// Why a record has no row.
enum Failure {
    Record(Code, String),
    Registry(SchemaRegistryError),
}

impl Failure {
    fn of_part(error: ReadError, code: Code, part: &str) -> Self {
        match error {
            ReadError::Record(fault) => Failure::Record(code, format!("the record's {part}: {fault}")),
            ReadError::Registry(error) => Failure::Registry(error),
        }
    }
}

impl SourceDecoder {
    /// A decoder for records of `topic`.
    pub fn new(layout: &SourceLayout, topic: &str) -> Result<Self, UnsupportedType> {
        let schema = &layout.schema;
        let types = schema.columns.fields().iter().map(|field| field.data_type());
        let position = |field: &FieldLayout| schema.index_of(&field.name).unwrap_or(usize::MAX);
        let key_fields = layout.key.iter().map(|field| (position(field), field));
        let in_key = |name: &str| layout.key.iter().any(|key| key.name == name);
        let value_fields =
            layout.value.iter().filter(|field| !in_key(&field.name)).map(|field| (position(field), field));
        let metadata = layout.metadata.iter();
        Ok(SourceDecoder {
            schema: schema.columns.clone(),
            columns: ColumnBuilder::all(types)?,
            key: (!layout.key.is_empty()).then(|| PartReader::new(&layout.key_format, key_fields)),
            value: PartReader::new(&layout.value_format, value_fields),
            headers: layout.headers.iter().filter_map(|header| HeaderReader::new(header, layout)).collect(),
            metadata: metadata.filter_map(|(name, what)| Some((schema.index_of(name)?, *what))).collect(),
            time: layout.time,
            topic: topic.to_owned(),
        })
    }

    /// Decodes records of one partition. A record that fails gives an error and no row, and changes nothing for the others.
    ///
    /// # Errors
    /// If the schema registry has no answer, or the columns do not fit one another, which is a fault of this program.
    pub fn decode<R: Borrow<Record>>(
        &mut self,
        records: &[R],
        partition: i32,
    ) -> Result<Decoded, CodecError> {
        let mut time = Vec::with_capacity(records.len());
        let mut rows = Vec::with_capacity(records.len());
        let mut errors = Vec::new();
        let mut null_rows = Vec::new();
        for (index, record) in records.iter().map(Borrow::borrow).enumerate() {
            let row = rows.len();
            match self.decode_record(record, partition, row) {
                Ok(event_time) => {
                    if record.value.is_none() {
                        null_rows.push(row);
                    }
                    time.push(event_time);
                    rows.push(index);
                }
                Err(Failure::Record(code, message)) => {
                    self.columns.iter_mut().for_each(|column| column.truncate(row));
                    errors.push((index, code, message));
                }
                Err(Failure::Registry(error)) => {
                    self.columns.iter_mut().for_each(|column| column.truncate(0));
                    return Err(error.into());
                }
            }
        }
        let arrays: Result<Vec<_>, _> = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let null_value = (!null_rows.is_empty()).then(|| {
            let mut null_rows = null_rows.iter().copied().peekable();
            BooleanBuffer::collect_bool(rows.len(), |row| null_rows.next_if_eq(&row).is_some())
        });
        Ok(Decoded {
            columns: record_batch(&self.schema, arrays?, rows.len())?,
            time,
            null_value,
            rows,
            errors,
        })
    }

    fn decode_record(&mut self, record: &Record, partition: i32, row: usize) -> Result<i64, Failure> {
        if let (Some(reader), Some(key)) = (&mut self.key, &record.key) {
            reader
                .read(key, &mut self.columns, row)
                .map_err(|error| Failure::of_part(error, Code::RecordKey, "key"))?;
        }
        if let Some(value) = &record.value {
            self.value
                .read(value, &mut self.columns, row)
                .map_err(|error| Failure::of_part(error, Code::RecordDecode, "value"))?;
        }
        for header in &self.headers {
            header.read(record, &mut self.columns)?;
        }
        for (index, what) in &self.metadata {
            if let Some(column) = self.columns.get_mut(*index) {
                add_metadata(column, *what, record, partition, &self.topic)
                    .map_err(|message| Failure::Record(Code::RecordDecode, message))?;
            }
        }
        // Columns of a null key, of a null value and of missing headers.
        for column in &mut self.columns {
            if column.len() == row {
                column.null();
            }
        }
        self.event_time(record, row)
    }

    fn event_time(&self, record: &Record, row: usize) -> Result<i64, Failure> {
        let column_time = self.time.map(|index| self.columns.get(index).and_then(|column| column.int64(row)));
        let (time, of_column) = match column_time {
            Some(Some(time)) => (time, true),
            // A null value has no columns to take the time from: deletes are timed by their record.
            Some(None) if record.value.is_none() => (record.timestamp, false),
            Some(None) => {
                let message =
                    format!("the event time is null: column `{}` needs a timestamp", self.time_name());
                return Err(Failure::Record(Code::RecordTime, message));
            }
            None => (record.timestamp, false),
        };
        if time < 0 {
            let origin = if of_column {
                format!("column `{}`", self.time_name())
            } else {
                "record's timestamp".into()
            };
            let message = format!("the event time is {time} (from the {origin}), expected 0 (1970) or later");
            return Err(Failure::Record(Code::RecordTime, message));
        }
        Ok(time)
    }

    fn time_name(&self) -> &str {
        let field = self.time.and_then(|index| self.schema.fields().get(index));
        field.map_or("", |field| field.name())
    }
}

fn add_metadata(
    column: &mut ColumnBuilder,
    what: Metadata,
    record: &Record,
    partition: i32,
    topic: &str,
) -> Result<(), String> {
    match (what, column.values()) {
        (Metadata::Topic, Values::Bytes(values)) => values.data.extend_from_slice(topic.as_bytes()),
        (Metadata::Partition, Values::Int32(values)) => values.push(partition),
        (Metadata::Offset, Values::Int64(values)) => values.push(record.offset),
        (Metadata::Timestamp, Values::Int64(values)) => values.push(record.timestamp),
        (what, _) => {
            return Err(format!("{what:?} does not fit a column of type {}", type_name(column.data_type())));
        }
    }
    column.valid().map_err(|error| error.to_string())
}

impl PartReader {
    fn new<'f>(format: &Format, fields: impl Iterator<Item = (usize, &'f FieldLayout)>) -> Self {
        match format {
            Format::Json => PartReader::Json(ObjectReader::new(fields, Names::Fields, UnknownFields::Skip)),
            Format::Schema(format) => PartReader::Schema(Box::new(SchemaReader::new(format.clone(), fields))),
            raw => PartReader::Raw(raw.clone(), fields.map(|(column, _)| column).next()),
        }
    }

    #[inline]
    fn read(&mut self, bytes: &[u8], columns: &mut [ColumnBuilder], row: usize) -> Result<(), ReadError> {
        match self {
            PartReader::Json(reader) => {
                read_object(reader, bytes, columns, row).map_err(|fault| ReadError::Record(fault.to_string()))
            }
            PartReader::Raw(format, column) => match column.and_then(|column| columns.get_mut(column)) {
                Some(column) => read_raw(format, bytes, column).map_err(ReadError::Record),
                None => Ok(()),
            },
            PartReader::Schema(reader) => reader.read(bytes, columns, row),
        }
    }
}

fn read_object(
    reader: &ObjectReader,
    bytes: &[u8],
    columns: &mut [ColumnBuilder],
    row: usize,
) -> Result<(), Fault> {
    let mut scanner = Scanner::of_bytes(bytes)?;
    if scanner.clone().null() {
        return Err(scanner.unexpected("an object (a null key or value has no bytes at all)"));
    }
    reader.read(&mut scanner, columns, row)?;
    scanner.end()
}

fn read_raw(format: &Format, bytes: &[u8], column: &mut ColumnBuilder) -> Result<(), String> {
    fn exactly<const N: usize>(bytes: &[u8], format: &Format) -> Result<[u8; N], String> {
        bytes.try_into().map_err(|_| format!("found {} bytes, expected {N} ({})", bytes.len(), format.name()))
    }
    match (format, column.values()) {
        (Format::String, Values::Bytes(values)) => {
            let scanner = Scanner::of_bytes(bytes).map_err(|fault| fault.to_string());
            scanner.map(|_| values.data.extend_from_slice(bytes))?;
        }
        (Format::Bytes, Values::Bytes(values)) => values.data.extend_from_slice(bytes),
        (Format::Int32, Values::Int32(values)) => values.push(i32::from_be_bytes(exactly(bytes, format)?)),
        (Format::Int64, Values::Int64(values)) => values.push(i64::from_be_bytes(exactly(bytes, format)?)),
        _ => {
            let data_type = type_name(column.data_type());
            return Err(format!("the format {} does not fit a column of type {data_type}", format.name()));
        }
    }
    column.valid().map_err(|error| error.to_string())
}

impl HeaderReader {
    fn new(header: &HeaderLayout, layout: &SourceLayout) -> Option<Self> {
        let column = layout.schema.index_of(&header.name)?;
        Some(HeaderReader { column, header: header.header.clone(), text: TextReader::new(&header.data_type) })
    }

    /// The last header of the name counts; without one the column stays for later to be made null.
    fn read(&self, record: &Record, columns: &mut [ColumnBuilder]) -> Result<(), Failure> {
        let Some(header) = record.headers.iter().rev().find(|header| header.name == self.header) else {
            return Ok(());
        };
        let (Some(value), Some(column)) = (&header.value, columns.get_mut(self.column)) else {
            return Ok(());
        };
        self.text.read_header(value, column).map_err(|message| {
            Failure::Record(Code::RecordHeader, format!("the record's header `{}`: {message}", self.header))
        })
    }
}
