//! Rows to the records of a sink.

use std::ops::Range;

use arrow::array::RecordBatch;
use millstream_operators::columns::{Column, Value};
use millstream_operators::diagnostic::Code;

use super::CodecError;
use super::json_read::Names;
use super::json_write::{ObjectWriter, ValueWriter};
use super::layout::{FieldLayout, Format, SinkLayout};
use super::plain_text::write_header;
use super::schemas::SchemaWriter;
use crate::schema_registry::SchemaRegistryError;

/// Encodes the rows of one sink, in buffers that are used again and again.
#[derive(Debug)]
pub struct SinkEncoder {
    key: KeyWriter,
    /// Of windowed rows the key without the window, which decides the partition.
    partition_key: Option<KeyWriter>,
    value: PartWriter,
    headers: Vec<HeaderWriter>,
    time: Option<usize>,
    bytes: Vec<u8>,
    records: Vec<Result<Spans, (Code, String)>>,
    header_spans: Vec<(usize, Range<usize>)>,
}

/// Where the parts of a record lie in the buffer.
#[derive(Debug)]
struct Spans {
    key: Option<Range<usize>>,
    partition_key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Range<usize>,
    time: Option<i64>,
}

/// A key and the columns it is made of.
#[derive(Debug)]
pub(crate) struct KeyWriter {
    columns: Vec<usize>,
    part: PartWriter,
}

/// Writes the key or the value of records.
#[derive(Debug)]
pub(crate) enum PartWriter {
    Json(ObjectWriter),
    Raw(Format, usize, String),
    Schema(Box<SchemaWriter>),
}

#[derive(Debug)]
struct HeaderWriter {
    header: String,
    column: usize,
    json: ValueWriter,
}

impl SinkEncoder {
    /// An encoder for rows of the layout's schema.
    pub fn new(layout: &SinkLayout) -> Self {
        let schema = &layout.schema;
        let position = |name: &str| schema.index_of(name).unwrap_or(usize::MAX);
        let key = |fields: &[FieldLayout], format: &Format| {
            KeyWriter::new(fields.iter().map(|field| (position(&field.name), field)), format)
        };
        let partition_key = schema.windowed.then(|| {
            let window: Vec<&str> =
                schema.key_fields().iter().skip(schema.partition_key()).map(|f| f.name().as_str()).collect();
            let fields: Vec<FieldLayout> =
                layout.key.iter().filter(|field| !window.contains(&field.name.as_str())).cloned().collect();
            key(&fields, &Format::default_for_key(&fields))
        });
        let headers = layout.headers.iter().map(|header| HeaderWriter {
            header: header.header.clone(),
            column: position(&header.name),
            json: ValueWriter::new(&FieldLayout::of_column("", &header.data_type), Names::Columns),
        });
        let value = layout.value.iter().map(|field| (position(&field.name), field));
        SinkEncoder {
            key: key(&layout.key, &layout.key_format),
            partition_key,
            value: PartWriter::new(value, &layout.value_format, Names::Fields),
            headers: headers.collect(),
            time: layout.time,
            bytes: Vec::new(),
            records: Vec::new(),
            header_spans: Vec::new(),
        }
    }

    /// Encodes rows; `null_value` says for which the record's value is null (deletes, null values).
    ///
    /// # Errors
    /// If the schema registry has no answer, or the rows have a type that no column can have, which is a fault of this
    /// program.
    pub fn encode(
        &mut self,
        rows: &RecordBatch,
        null_value: impl Fn(usize) -> bool,
    ) -> Result<Encoded<'_>, CodecError> {
        let columns = Column::all(rows.columns())?;
        self.bytes.clear();
        self.records.clear();
        self.header_spans.clear();
        if rows.num_rows() > 0 {
            self.key.prepare()?;
            self.value.prepare()?;
        }
        for row in 0..rows.num_rows() {
            let (start, headers) = (self.bytes.len(), self.header_spans.len());
            let record = self.encode_row(&columns, row, null_value(row));
            if record.is_err() {
                self.bytes.truncate(start);
                self.header_spans.truncate(headers);
            }
            self.records.push(record);
        }
        Ok(Encoded { encoder: self })
    }

    fn encode_row(
        &mut self,
        columns: &[Column<'_>],
        row: usize,
        is_null: bool,
    ) -> Result<Spans, (Code, String)> {
        let bytes = &mut self.bytes;
        let key = self.key.write(columns, row, bytes)?;
        let partition_key = match &self.partition_key {
            Some(writer) => writer.write(columns, row, bytes)?,
            None => key.clone(),
        };
        let value = if is_null {
            None
        } else {
            Some(appended(bytes, |bytes| self.value.write(columns, row, bytes))?)
        };
        let first_header = self.header_spans.len();
        for (index, header) in self.headers.iter().enumerate() {
            let Some(column) = columns.get(header.column).filter(|column| !column.is_null(row)) else {
                continue;
            };
            let start = bytes.len();
            write_header(column.value(row), &header.json, bytes);
            self.header_spans.push((index, start..bytes.len()));
        }
        let time = match self.time.and_then(|index| columns.get(index)) {
            None => None,
            Some(column) => match column.value(row) {
                Value::Timestamp(time) | Value::Int64(time) if time >= 0 => Some(time),
                Value::Timestamp(time) | Value::Int64(time) => {
                    let message =
                        format!("the record's timestamp would be {time}, expected 0 (1970) or later");
                    return Err((Code::RecordTime, message));
                }
                // A null value has no columns to take the time from.
                _ if is_null => None,
                _ => {
                    let message =
                        "the record's timestamp would be null: the sink's `time` column needs a value";
                    return Err((Code::RecordTime, message.to_owned()));
                }
            },
        };
        Ok(Spans { key, partition_key, value, headers: first_header..self.header_spans.len(), time })
    }
}

fn appended<E>(
    bytes: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<Range<usize>, E> {
    let start = bytes.len();
    write(bytes)?;
    Ok(start..bytes.len())
}

impl KeyWriter {
    pub(crate) fn new<'f>(
        fields: impl Iterator<Item = (usize, &'f FieldLayout)> + Clone,
        format: &Format,
    ) -> Self {
        let columns = fields.clone().map(|(column, _)| column).collect();
        KeyWriter { columns, part: PartWriter::new(fields, format, Names::Fields) }
    }

    /// Learns what must be known before a key is written: the id of its schema.
    pub(crate) fn prepare(&mut self) -> Result<(), SchemaRegistryError> {
        if self.columns.is_empty() { Ok(()) } else { self.part.prepare() }
    }

    /// Appends a key, unless all its columns are null or it has none.
    pub(crate) fn write(
        &self,
        columns: &[Column<'_>],
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<Range<usize>>, (Code, String)> {
        let is_null = |index: &usize| columns.get(*index).is_none_or(|column| column.is_null(row));
        if self.columns.iter().all(is_null) {
            return Ok(None);
        }
        appended(out, |out| self.part.write(columns, row, out)).map(Some)
    }
}

impl PartWriter {
    pub(crate) fn new<'f>(
        fields: impl Iterator<Item = (usize, &'f FieldLayout)>,
        format: &Format,
        names: Names,
    ) -> Self {
        match format {
            Format::Json => PartWriter::Json(ObjectWriter::new(fields, names)),
            Format::Schema(format) => PartWriter::Schema(Box::new(SchemaWriter::new(format.clone(), fields))),
            raw => {
                let first = fields.map(|(column, field)| (column, field.name.clone())).next();
                let (column, name) = first.unwrap_or((usize::MAX, String::new()));
                PartWriter::Raw(raw.clone(), column, name)
            }
        }
    }

    /// Learns what must be known before a row is written: the id of its schema.
    pub(crate) fn prepare(&mut self) -> Result<(), SchemaRegistryError> {
        match self {
            PartWriter::Schema(writer) => writer.prepare(),
            PartWriter::Json(_) | PartWriter::Raw(..) => Ok(()),
        }
    }

    pub(crate) fn write(
        &self,
        columns: &[Column<'_>],
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), (Code, String)> {
        let (format, column, name) = match self {
            PartWriter::Json(writer) => {
                writer.write(columns, row, out);
                return Ok(());
            }
            PartWriter::Schema(writer) => {
                return writer.write(columns, row, out).map_err(|message| (Code::RecordEncode, message));
            }
            PartWriter::Raw(format, column, name) => (format, *column, name),
        };
        match (format, columns.get(column).map_or(Value::Null, |column| column.value(row))) {
            (Format::String, Value::String(text)) => out.extend_from_slice(text.as_bytes()),
            (Format::Bytes, Value::Bytes(bytes)) => out.extend_from_slice(bytes),
            (Format::Int32, Value::Int32(number)) => out.extend_from_slice(&number.to_be_bytes()),
            (Format::Int64, Value::Int64(number)) => out.extend_from_slice(&number.to_be_bytes()),
            (format, Value::Null) => {
                let format = format.name();
                let message = format!(
                    "column `{name}` is null, which the format {format} cannot write: give it a value (`coalesce`) or use the format json"
                );
                return Err((Code::RecordEncode, message));
            }
            (format, _) => {
                let message =
                    format!("column `{name}` has a type that the format {} cannot write", format.name());
                return Err((Code::RecordEncode, message));
            }
        }
        Ok(())
    }
}

/// Encoded rows, in order.
#[derive(Debug)]
pub struct Encoded<'a> {
    encoder: &'a SinkEncoder,
}

/// One encoded row.
#[derive(Clone, Copy, Debug)]
pub struct EncodedRecord<'a> {
    /// The key; `None` if all its columns are null or it has none.
    pub key: Option<&'a [u8]>,
    /// What decides the partition: the key, for windowed rows without the window.
    pub partition_key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// The record's timestamp, if the sink takes it from a column; else it is the row's event time.
    pub time: Option<i64>,
    encoder: &'a SinkEncoder,
    headers: (usize, usize),
}

impl<'a> Encoded<'a> {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.encoder.records.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.encoder.records.is_empty()
    }

    /// The record of a row, or why it has none; `None` beyond the last row.
    pub fn get(&self, row: usize) -> Option<Result<EncodedRecord<'a>, &'a (Code, String)>> {
        let encoder = self.encoder;
        let part = |span: &Option<Range<usize>>| encoder.bytes.get(span.clone()?);
        Some(encoder.records.get(row)?.as_ref().map(|spans| EncodedRecord {
            key: part(&spans.key),
            partition_key: part(&spans.partition_key),
            value: part(&spans.value),
            time: spans.time,
            encoder,
            headers: (spans.headers.start, spans.headers.end),
        }))
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = Result<EncodedRecord<'a>, &'a (Code, String)>> {
        (0..self.len()).filter_map(|row| self.get(row))
    }
}

impl<'a> EncodedRecord<'a> {
    /// Names and values of the headers; a header whose column is null is left out.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let encoder = self.encoder;
        let spans = encoder.header_spans.get(self.headers.0..self.headers.1).unwrap_or_default();
        spans.iter().filter_map(|(header, span)| {
            Some((encoder.headers.get(*header)?.header.as_str(), encoder.bytes.get(span.clone())?))
        })
    }
}
