//! Formats with schemas: which schema a record has, and the readers and writers that are made of it.
//!
//! A record starts with its schema's id, as Confluent's serializers write it: a zero byte, the id as four bytes, for Protobuf
//! the place of the message in its file, then the body. A reader is compiled once per schema and then only looked up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_operators::columns::{Column, ColumnBuilder};
use prost_reflect::MessageDescriptor;

use super::avro::{self, AvroReader, AvroSchema, AvroWriter};
use super::json_read::Fault;
use super::layout::FieldLayout;
use super::protobuf::{self, MessageReader, MessageWriter, ProtobufSchema};
use crate::schema_registry::{SchemaKind, SchemaRegistry, SchemaRegistryError, SchemaText};

/// How long a schema that the registry does not know is not asked for again.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// The zero byte and the id.
const HEAD: usize = 5;

/// How keys or values are written in a format with schemas.
#[derive(Clone, Debug)]
pub struct SchemaFormat {
    /// The language of the schemas.
    pub kind: SchemaKind,
    /// The subject of what is written.
    pub subject: String,
    /// The name of a schema that is made of columns.
    pub name: String,
    /// The schema that the user gave.
    pub given: Option<SchemaText>,
    /// Of a Protobuf schema the message; `None`: its only one.
    pub message: Option<String>,
    /// Whether records start with the id of their schema.
    pub framed: bool,
    /// Where ids come from.
    pub registry: Arc<SchemaRegistry>,
}

impl PartialEq for SchemaFormat {
    fn eq(&self, other: &Self) -> bool {
        let parts = |format: &SchemaFormat| {
            let SchemaFormat { kind, subject, name, given, message, framed, .. } = format.clone();
            (kind, subject, name, given, message, framed)
        };
        parts(self) == parts(other)
    }
}

impl Eq for SchemaFormat {}

impl SchemaFormat {
    /// Reads the schema that a file holds; a Protobuf file is read with what it imports.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub fn read_file(
        kind: SchemaKind,
        path: &std::path::Path,
        message: Option<&str>,
    ) -> Result<SchemaText, String> {
        match kind {
            SchemaKind::Avro => {
                let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
                AvroSchema::parse(&text, std::iter::empty())?;
                Ok(SchemaText::new(kind, text))
            }
            SchemaKind::Protobuf => protobuf::read_file(path, message),
        }
    }

    /// Whether records with the given schema can be read into columns.
    ///
    /// # Errors
    /// If not, with the reason.
    pub fn check_read(&self, fields: &[FieldLayout]) -> Result<(), String> {
        match &self.given {
            Some(given) => self.check_read_of(given, fields),
            None => Ok(()),
        }
    }

    /// Whether records with a schema can be read into columns.
    ///
    /// # Errors
    /// If not, with the reason.
    pub fn check_read_of(&self, writer: &SchemaText, fields: &[FieldLayout]) -> Result<(), String> {
        let fields = fields.iter().enumerate();
        let given = self.given.as_ref().map(|given| self.parsed(given, None)).transpose()?;
        BodyReader::new(&self.parsed(writer, None)?, given.as_ref(), fields).map(drop)
    }

    /// Whether columns can be written with the given schema, or one be made of them.
    ///
    /// # Errors
    /// If not, with the reason.
    pub fn check_write(&self, fields: &[FieldLayout]) -> Result<(), String> {
        let schema = self.written(fields.iter())?;
        BodyWriter::new(&self.parsed(&schema, None)?, fields.iter().enumerate()).map(drop)
    }

    /// What the registry says against the schema that columns are written with.
    ///
    /// # Errors
    /// If it has no answer.
    pub fn check_registration(&self, fields: &[FieldLayout]) -> Result<Option<String>, SchemaRegistryError> {
        match self.written(fields.iter()) {
            Ok(schema) => self.registry.fits(&self.subject, &schema),
            Err(why) => Ok(Some(why)),
        }
    }

    /// The schema that columns are written with.
    fn written<'f>(
        &self,
        fields: impl Iterator<Item = &'f FieldLayout> + Clone,
    ) -> Result<SchemaText, String> {
        if let Some(given) = &self.given {
            return Ok(given.clone());
        }
        check_names(fields.clone(), self.kind)?;
        let text = match self.kind {
            SchemaKind::Avro => avro::derived(&self.name, fields).to_string(),
            SchemaKind::Protobuf => protobuf::derived(&self.name, fields)?,
        };
        Ok(SchemaText::new(self.kind, text))
    }

    /// A schema's meaning; `indexes` are the place of the message, where a record says it.
    fn parsed(&self, schema: &SchemaText, indexes: Option<&[usize]>) -> Result<Parsed, String> {
        if schema.kind != self.kind {
            let (found, expected) = (schema.kind.name(), self.kind.name());
            return Err(format!("the schema is one of {found}, expected {expected}"));
        }
        match schema.kind {
            SchemaKind::Avro => {
                let references = schema.references.iter().map(|(_, text)| text.as_str());
                AvroSchema::parse(&schema.text, references).map(Parsed::Avro)
            }
            SchemaKind::Protobuf => {
                let parsed = ProtobufSchema::parse(schema)?;
                let message = match indexes {
                    Some(indexes) => parsed
                        .at(indexes)
                        .ok_or_else(|| format!("the schema has no message at {indexes:?}"))?,
                    // A schema that is made of columns starts with its message.
                    None if self.given.is_none() && self.message.is_none() => {
                        parsed.at(&[0]).ok_or_else(|| "the schema has no message".to_owned())?
                    }
                    None => parsed.message(self.message.as_deref())?,
                };
                Ok(Parsed::Protobuf(message))
            }
        }
    }
}

/// Reports a name that no schema can have.
fn check_names<'f>(fields: impl Iterator<Item = &'f FieldLayout>, kind: SchemaKind) -> Result<(), String> {
    for field in fields {
        let name = &field.field;
        let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
        let fits = name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit());
        if !fits {
            return Err(format!(
                "`{name}` cannot be the name of a field in {}: it takes letters, digits and `_`",
                kind.name()
            ));
        }
        // The item of a list has no name in a schema.
        let is_list = matches!(field.data_type, arrow::datatypes::DataType::List(_));
        match (is_list, field.children.first()) {
            (true, Some(item)) => check_names(item.children.iter(), kind)?,
            _ => check_names(field.children.iter(), kind)?,
        }
    }
    Ok(())
}

/// A schema that has been read.
enum Parsed {
    Avro(AvroSchema),
    Protobuf(MessageDescriptor),
}

#[derive(Debug)]
enum BodyReader {
    Avro(AvroReader),
    Protobuf(MessageReader),
}

impl BodyReader {
    /// A reader of what was written with a schema; `given` is the schema of the user.
    fn new<'f>(
        writer: &Parsed,
        given: Option<&Parsed>,
        fields: impl Iterator<Item = (usize, &'f FieldLayout)>,
    ) -> Result<Self, String> {
        match (writer, given) {
            (Parsed::Avro(writer), Some(Parsed::Avro(given))) => {
                AvroReader::new(writer, Some(given), fields).map(BodyReader::Avro)
            }
            (Parsed::Avro(writer), _) => AvroReader::new(writer, None, fields).map(BodyReader::Avro),
            (Parsed::Protobuf(writer), Some(Parsed::Protobuf(given))) => {
                if writer.full_name() != given.full_name() {
                    return Err(format!(
                        "it is the message `{}`, expected `{}`",
                        writer.full_name(),
                        given.full_name()
                    ));
                }
                // Fields are known by their numbers: what the user gave reads what others wrote.
                MessageReader::new(given, true, fields).map(BodyReader::Protobuf)
            }
            (Parsed::Protobuf(writer), _) => {
                MessageReader::new(writer, false, fields).map(BodyReader::Protobuf)
            }
        }
    }

    #[inline]
    fn read(&self, body: &[u8], columns: &mut [ColumnBuilder], row: usize) -> Result<(), Fault> {
        match self {
            BodyReader::Avro(reader) => reader.read(body, columns, row),
            BodyReader::Protobuf(reader) => reader.read(body, columns, row),
        }
    }
}

#[derive(Debug)]
enum BodyWriter {
    Avro(AvroWriter),
    Protobuf(MessageWriter),
}

impl BodyWriter {
    fn new<'f>(
        schema: &Parsed,
        fields: impl Iterator<Item = (usize, &'f FieldLayout)>,
    ) -> Result<Self, String> {
        match schema {
            Parsed::Avro(schema) => AvroWriter::new(schema, fields).map(BodyWriter::Avro),
            Parsed::Protobuf(message) => MessageWriter::new(message, fields).map(BodyWriter::Protobuf),
        }
    }
}

/// Why bytes were not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The record is to blame.
    Record(String),
    /// The registry has no answer.
    Registry(SchemaRegistryError),
}

/// Reads keys or values into their columns.
#[derive(Debug)]
pub(crate) struct SchemaReader {
    format: Arc<SchemaFormat>,
    fields: Vec<(usize, FieldLayout)>,
    /// By the bytes before the body; the last that was used is the first.
    known: Vec<(Vec<u8>, Known)>,
}

#[derive(Debug)]
enum Known {
    Reader(BodyReader),
    /// The schema cannot be read into the columns.
    Misfit(String),
    /// The registry did not know the schema at this time.
    Unknown(String, Instant),
}

impl SchemaReader {
    pub(crate) fn new<'f>(
        format: Arc<SchemaFormat>,
        fields: impl Iterator<Item = (usize, &'f FieldLayout)>,
    ) -> Self {
        let fields = fields.map(|(column, field)| (column, field.clone())).collect();
        SchemaReader { format, fields, known: Vec::new() }
    }

    #[inline]
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        columns: &mut [ColumnBuilder],
        row: usize,
    ) -> Result<(), ReadError> {
        let is_of = |(head, known): &(Vec<u8>, Known)| {
            bytes.starts_with(head) && !matches!(known, Known::Unknown(_, at) if at.elapsed() > UNKNOWN_FOR)
        };
        match self.known.iter().position(is_of) {
            Some(0) => {}
            Some(place) => self.known.swap(0, place),
            None => self.learn(bytes)?,
        }
        match self.known.first() {
            Some((head, Known::Reader(reader))) => {
                let body = bytes.get(head.len()..).unwrap_or_default();
                reader.read(body, columns, row).map_err(|fault| self.fault(bytes, &fault))
            }
            Some((_, Known::Misfit(why) | Known::Unknown(why, _))) => Err(ReadError::Record(why.clone())),
            None => Ok(()),
        }
    }

    #[cold]
    fn fault(&self, bytes: &[u8], fault: &Fault) -> ReadError {
        // What has no id but was expected to often shows only here.
        let hint = match bytes.first() {
            Some(0) if !self.format.framed && bytes.len() > HEAD => {
                " (it starts like a record with a schema id: `registry = false` is for records without)"
            }
            _ => "",
        };
        ReadError::Record(format!("{fault} of the body{hint}"))
    }

    /// Makes the reader of a record's schema, and puts it first.
    #[cold]
    fn learn(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        let format = self.format.clone();
        let (head, known) = if format.framed {
            let frame = frame(bytes, format.kind).map_err(ReadError::Record)?;
            let head = bytes.get(..frame.length).unwrap_or_default().to_vec();
            let known = match format.registry.schema(frame.id) {
                Ok(schema) => match self.reader(&schema, frame.indexes.as_deref()) {
                    Ok(reader) => Known::Reader(reader),
                    Err(why) => Known::Misfit(format!("the schema with the id {}: {why}", frame.id)),
                },
                Err(error @ SchemaRegistryError::Unknown(_)) => {
                    Known::Unknown(error.to_string(), Instant::now())
                }
                Err(error) => return Err(ReadError::Registry(error)),
            };
            (head, known)
        } else {
            let reader = match &format.given {
                Some(given) => self.reader(given, None),
                None => Err("no schema is given, and records have none".to_owned()),
            };
            (Vec::new(), reader.map_or_else(Known::Misfit, Known::Reader))
        };
        self.known.retain(|(of, _)| *of != head);
        self.known.insert(0, (head, known));
        Ok(())
    }

    fn reader(&self, schema: &SchemaText, indexes: Option<&[usize]>) -> Result<BodyReader, String> {
        let writer = self.format.parsed(schema, indexes)?;
        let given = self.format.given.as_ref().map(|given| self.format.parsed(given, None)).transpose()?;
        let fields = self.fields.iter().map(|(column, field)| (*column, field));
        BodyReader::new(&writer, given.as_ref(), fields)
    }
}

/// What stands before a body.
struct Frame {
    id: u32,
    indexes: Option<Vec<usize>>,
    length: usize,
}

fn frame(bytes: &[u8], kind: SchemaKind) -> Result<Frame, String> {
    let Some((&[0, a, b, c, d], rest)) = bytes.split_first_chunk::<HEAD>() else {
        return Err(format!(
            "found {}, expected a zero byte and the id of a schema, as a registry's serializers write them",
            seems(bytes)
        ));
    };
    let id = u32::from_be_bytes([a, b, c, d]);
    if kind == SchemaKind::Avro {
        return Ok(Frame { id, indexes: None, length: HEAD });
    }
    let mut at = 0;
    let mut next = || {
        let mut number = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = rest.get(at)?;
            at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let number = (number >> 1) as i64 ^ -((number & 1) as i64);
                return usize::try_from(number).ok();
            }
        }
        None
    };
    let broken = || "found no place of a message after the schema's id".to_owned();
    let count = next().filter(|count| *count <= 64).ok_or_else(broken)?;
    // None stands for the first message.
    let indexes = match count {
        0 => vec![0],
        count => (0..count).map(|_| next()).collect::<Option<Vec<usize>>>().ok_or_else(broken)?,
    };
    Ok(Frame { id, indexes: Some(indexes), length: HEAD + at })
}

/// What bytes without a schema's id look like.
fn seems(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).ok();
    let printable = text.filter(|text| !text.chars().any(|c| c.is_control() && !c.is_whitespace()));
    match (bytes, printable) {
        ([], _) => "no bytes".to_owned(),
        ([b'O', b'b', b'j', 1, ..], _) => "an Avro container file".to_owned(),
        ([0, ..], _) => format!("{} bytes, too few for a schema's id", bytes.len()),
        ([b'{' | b'[', ..], Some(_)) => "what looks like JSON".to_owned(),
        (_, Some(text)) => format!("the text {:?}", super::json_read::clipped(text)),
        ([first, ..], None) => format!("{} bytes that start with 0x{first:02x}", bytes.len()),
    }
}

/// Writes keys or values of columns.
#[derive(Debug)]
pub(crate) struct SchemaWriter {
    format: Arc<SchemaFormat>,
    writer: Result<(BodyWriter, SchemaText, Vec<u8>), String>,
    /// What stands before a body, once it is known.
    head: Option<Vec<u8>>,
}

impl SchemaWriter {
    pub(crate) fn new<'f>(
        format: Arc<SchemaFormat>,
        fields: impl Iterator<Item = (usize, &'f FieldLayout)>,
    ) -> Self {
        let fields: Vec<(usize, &FieldLayout)> = fields.collect();
        let made = format.written(fields.iter().map(|(_, field)| *field)).and_then(|schema| {
            let parsed = format.parsed(&schema, None)?;
            let place = match &parsed {
                Parsed::Avro(_) => Vec::new(),
                Parsed::Protobuf(message) => place(message),
            };
            Ok((BodyWriter::new(&parsed, fields.iter().copied())?, schema, place))
        });
        let head = (!format.framed).then(Vec::new);
        SchemaWriter { format, writer: made, head }
    }

    /// Asks for the id of the schema, once.
    pub(crate) fn prepare(&mut self) -> Result<(), SchemaRegistryError> {
        if let (None, Ok((_, schema, place))) = (&self.head, &self.writer) {
            let id = self.format.registry.id(&self.format.subject, schema)?;
            let mut head = vec![0];
            head.extend_from_slice(&id.to_be_bytes());
            head.extend_from_slice(place);
            self.head = Some(head);
        }
        Ok(())
    }

    /// Appends a row's key or value.
    pub(crate) fn write(&self, columns: &[Column<'_>], row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let (writer, ..) = self.writer.as_ref().map_err(Clone::clone)?;
        out.extend_from_slice(self.head.as_deref().unwrap_or_default());
        match writer {
            BodyWriter::Avro(writer) => writer.write(columns, row, out),
            BodyWriter::Protobuf(writer) => writer.write(columns, row, out),
        }
    }
}

/// The place of a message in its file, as records have it.
fn place(message: &MessageDescriptor) -> Vec<u8> {
    // The path goes through field numbers and indexes in turn.
    let indexes: Vec<i32> = message.path().iter().skip(1).step_by(2).copied().collect();
    if indexes == [0] {
        return vec![0];
    }
    let mut bytes = Vec::new();
    let count = i32::try_from(indexes.len()).unwrap_or_default();
    for number in std::iter::once(count).chain(indexes) {
        let mut rest = (number as u32) << 1;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    bytes
}
