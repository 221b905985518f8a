//! Rows as JSON objects by column name, whatever their records look like: what `pipe`, tests and feeds show and take.

use std::ops::Range;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use millstream_operators::columns::{Column, ColumnBuilder, UnsupportedType};
use millstream_operators::schema::Schema;

use super::encode::{KeyWriter, PartWriter};
use super::json_read::{Fault, Names, ObjectReader, Scanner, UnknownFields, ValueReader};
use super::json_write::ObjectWriter;
use super::layout::{FieldLayout, Format, SinkLayout, SourceLayout};
use super::line::Part;

/// Writes rows as two objects: their key columns and their value columns.
#[derive(Debug)]
pub struct RowWriter {
    key: Vec<usize>,
    key_writer: ObjectWriter,
    value_writer: ObjectWriter,
}

/// The rows of a batch, ready to be written.
#[derive(Debug)]
pub struct NamedRows<'a> {
    writer: &'a RowWriter,
    columns: Vec<Column<'a>>,
}

impl RowWriter {
    /// For the rows of a node.
    pub fn new(schema: &Schema) -> Self {
        let (key, value) = (0..schema.key, schema.key..schema.columns.fields().len());
        RowWriter {
            key: key.clone().collect(),
            key_writer: object(schema, key),
            value_writer: object(schema, value),
        }
    }

    /// For the records of a sink.
    pub fn of_sink(layout: &SinkLayout) -> Self {
        let position = |field: &FieldLayout| layout.schema.index_of(&field.name).unwrap_or(usize::MAX);
        let object = |fields: &[FieldLayout]| {
            ObjectWriter::new(fields.iter().map(|field| (position(field), field)), Names::Columns)
        };
        RowWriter {
            key: layout.key.iter().map(position).collect(),
            key_writer: object(&layout.key),
            value_writer: object(&layout.value),
        }
    }

    /// Prepares the rows of a batch.
    pub fn rows<'a>(&'a self, rows: &'a RecordBatch) -> Result<NamedRows<'a>, UnsupportedType> {
        Ok(NamedRows { writer: self, columns: Column::all(rows.columns())? })
    }
}

fn object(schema: &Schema, range: Range<usize>) -> ObjectWriter {
    let columns = schema.columns.fields().get(range.clone()).unwrap_or_default();
    let fields: Vec<FieldLayout> =
        columns.iter().map(|field| FieldLayout::of_column(field.name(), field.data_type())).collect();
    ObjectWriter::new(range.zip(&fields), Names::Columns)
}

impl NamedRows<'_> {
    /// Appends the key of a row; `null` if it is null or the rows have none.
    pub fn write_key(&self, row: usize, out: &mut Vec<u8>) {
        let is_null = |index: &usize| self.columns.get(*index).is_none_or(|column| column.is_null(row));
        if self.writer.key.iter().all(is_null) {
            out.extend_from_slice(b"null");
        } else {
            self.writer.key_writer.write(&self.columns, row, out);
        }
    }

    /// Appends the value of a row; whether it is a null value is the caller's knowledge.
    pub fn write_value(&self, row: usize, out: &mut Vec<u8>) {
        self.writer.value_writer.write(&self.columns, row, out);
    }

    /// The key of a row as a tree.
    pub fn key(&self, row: usize) -> serde_json::Value {
        tree(|out| self.write_key(row, out))
    }

    /// The value of a row as a tree.
    pub fn value(&self, row: usize) -> serde_json::Value {
        tree(|out| self.write_value(row, out))
    }
}

fn tree(write: impl FnOnce(&mut Vec<u8>)) -> serde_json::Value {
    let mut text = Vec::new();
    write(&mut text);
    // What was just written is JSON.
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Reads one value, given as JSON by column names, into a column of one row.
///
/// # Errors
/// If the text is no value of the type.
pub fn read_column(data_type: &DataType, json: &str) -> Result<ArrayRef, Fault> {
    let layout = FieldLayout::of_column("", data_type);
    let reader = ValueReader::new(&layout, Names::Columns, UnknownFields::Refuse);
    let mut scanner = Scanner::new(json);
    let mut builder = ColumnBuilder::new(data_type).map_err(|error| Fault::at(0, error))?;
    reader.read(&mut scanner, &mut builder)?;
    scanner.end()?;
    builder.finish().map_err(|error| Fault::at(0, error))
}

/// Makes the keys and values of a source's records from JSON objects by column name.
#[derive(Debug)]
pub struct RecordBuilder {
    key: PartBuilder,
    value: PartBuilder,
}

impl RecordBuilder {
    /// For the records of a source. Unknown columns are refused, since such objects are written by hand.
    pub fn new(layout: &SourceLayout) -> Result<Self, UnsupportedType> {
        RecordBuilder::with(layout, UnknownFields::Refuse)
    }

    /// For the records of a source that come from a file of a whole topic: a value may have columns that the source does not name.
    pub fn of_file(layout: &SourceLayout) -> Result<Self, UnsupportedType> {
        RecordBuilder::with(layout, UnknownFields::Skip)
    }

    fn with(layout: &SourceLayout, unknown: UnknownFields) -> Result<Self, UnsupportedType> {
        Ok(RecordBuilder {
            // A part of a key would be another key.
            key: PartBuilder::new(&layout.key, &layout.key_format, true, UnknownFields::Refuse)?,
            value: PartBuilder::new(&layout.value, &layout.value_format, false, unknown)?,
        })
    }

    /// The bytes of a record's key.
    ///
    /// # Errors
    /// If the object does not fit the key's columns.
    pub fn key(&mut self, part: &Part<'_>) -> Result<Option<Vec<u8>>, Fault> {
        self.key.build(part)
    }

    /// The bytes of a record's value.
    ///
    /// # Errors
    /// If the object does not fit the value's columns, or they the format.
    pub fn value(&mut self, part: &Part<'_>) -> Result<Option<Vec<u8>>, Fault> {
        self.value.build(part)
    }

    /// The columns of the key, then those of the value, to be filled otherwise than from JSON.
    pub(crate) fn parts(&mut self) -> (&mut PartBuilder, &mut PartBuilder) {
        (&mut self.key, &mut self.value)
    }
}

/// A key or value, or why there is none.
type PartBytes = Result<Option<Vec<u8>>, String>;

/// Builds the keys or the values of records.
#[derive(Debug)]
pub(crate) struct PartBuilder {
    pub(crate) columns: Vec<ColumnBuilder>,
    reader: ObjectReader,
    writer: Writer,
}

#[derive(Debug)]
enum Writer {
    Key(KeyWriter),
    Value(PartWriter),
}

impl PartBuilder {
    fn new(
        fields: &[FieldLayout],
        format: &Format,
        is_key: bool,
        unknown: UnknownFields,
    ) -> Result<Self, UnsupportedType> {
        let columns = fields.iter().enumerate();
        Ok(PartBuilder {
            columns: ColumnBuilder::all(fields.iter().map(|field| &field.data_type))?,
            reader: ObjectReader::new(columns.clone(), Names::Columns, unknown),
            writer: if is_key {
                Writer::Key(KeyWriter::new(columns, format))
            } else {
                Writer::Value(PartWriter::new(columns, format, Names::Fields))
            },
        })
    }

    fn build(&mut self, part: &Part<'_>) -> Result<Option<Vec<u8>>, Fault> {
        let (text, at) = match part {
            Part::Absent | Part::Null => return Ok(None),
            Part::Bytes(bytes) => return Ok(Some(bytes.clone())),
            Part::Columns { text, at } => (*text, *at),
        };
        let mut scanner = Scanner::at(text, at);
        if scanner.null() {
            return Ok(None);
        }
        if self.columns.is_empty() && matches!(self.writer, Writer::Key(_)) {
            return Err(scanner.unexpected("null: the source has no key"));
        }
        if let Err(fault) = self.reader.read(&mut scanner, &mut self.columns, 0) {
            self.columns.iter_mut().for_each(|column| column.truncate(0));
            return Err(fault);
        }
        let mut records = self.finish(1).map_err(|message| Fault::at(at, message))?;
        records.pop().unwrap_or(Ok(None)).map_err(|message| Fault::at(at, message))
    }

    /// The bytes of the `rows` rows that the columns hold; rows fail one by one.
    pub(crate) fn finish(&mut self, rows: usize) -> Result<Vec<PartBytes>, String> {
        match &mut self.writer {
            Writer::Key(writer) => writer.prepare(),
            Writer::Value(writer) => writer.prepare(),
        }
        .map_err(|error| error.to_string())?;
        let arrays: Result<Vec<_>, _> = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let arrays = arrays.map_err(|error| error.to_string())?;
        let columns = Column::all(&arrays).map_err(|error| error.to_string())?;
        let write = |row| {
            let mut bytes = Vec::new();
            match &self.writer {
                Writer::Key(writer) => {
                    let written = writer.write(&columns, row, &mut bytes).map_err(|(_, message)| message)?;
                    return Ok(written.map(|_| bytes));
                }
                Writer::Value(writer) => {
                    writer.write(&columns, row, &mut bytes).map_err(|(_, message)| message)?
                }
            }
            Ok(Some(bytes))
        };
        Ok((0..rows).map(write).collect())
    }
}
