//! JSON text to columns, for a schema that is known.
//!
//! The text is read once from left to right, straight into the columns; no tree is built. Numbers are taken from their
//! digits, so that decimals and floats are exact. The reader is as strict as RFC 8259; what it does beyond that:
//! unknown fields are skipped, a missing field is null, a field that is read may stand only once.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

use arrow::datatypes::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hashbrown::HashMap;
use millstream_operators::columns::{ColumnBuilder, Values};
use millstream_operators::diagnostic::did_you_mean;
use millstream_operators::schema::type_name;

use super::layout::FieldLayout;
use super::text::{DecimalError, parse_date, parse_decimal, parse_timestamp};

/// How deep skipped values may be nested.
const MAX_DEPTH: usize = 128;

/// What was wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(Box<FaultParts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FaultParts {
    message: String,
    byte: usize,
    /// From the innermost outwards.
    path: Vec<PathPart>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PathPart {
    Field(String),
    Item(usize),
}

impl Fault {
    /// A fault of the text as a whole.
    pub(crate) fn at(byte: usize, message: impl Display) -> Self {
        Fault::new(byte, message.to_string())
    }

    fn new(byte: usize, message: String) -> Self {
        Fault(Box::new(FaultParts { message, byte, path: Vec::new() }))
    }

    fn within(mut self, part: PathPart) -> Self {
        self.0.path.push(part);
        self
    }

    /// The fault of a field's value.
    pub(crate) fn within_field(self, name: &str) -> Self {
        self.within(PathPart::Field(name.to_owned()))
    }

    /// The fault of a list's item.
    pub(crate) fn within_item(self, index: usize) -> Self {
        self.within(PathPart::Item(index))
    }

    /// The place of the first wrong byte in the text.
    pub fn byte(&self) -> usize {
        self.0.byte
    }

    /// The path to the field, as `order.items[2]`; empty for the text as a whole.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for part in self.0.path.iter().rev() {
            match part {
                PathPart::Field(name) => {
                    path.push_str(if path.is_empty() { "" } else { "." });
                    path.push_str(name);
                }
                PathPart::Item(index) => {
                    let _ = write!(path, "[{index}]");
                }
            }
        }
        path
    }

    /// What was found and what was expected, without the place.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.path.is_empty() {
            write!(f, "field `{}`: ", self.path())?;
        }
        write!(f, "{}, at byte {}", self.0.message, self.0.byte)
    }
}

/// The beginning of a text that is quoted in a message.
pub(crate) fn clipped(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}

/// A place in a JSON text. Its methods read one thing at the place and move behind it.
#[derive(Clone, Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Scanner { text, at: 0 }
    }

    /// The place at a byte, which has to be the first of a value.
    pub(crate) fn at(text: &'a str, at: usize) -> Self {
        Scanner { text, at }
    }

    /// The bytes of a record as text.
    pub(crate) fn of_bytes(bytes: &'a [u8]) -> Result<Self, Fault> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Scanner::new(text)),
            Err(error) => {
                let byte = error.valid_up_to();
                let found = bytes.get(byte).copied().unwrap_or_default();
                Err(Fault::new(byte, format!("found the byte 0x{found:02x}, which is not UTF-8")))
            }
        }
    }

    /// How many bytes have been read.
    pub(crate) fn place(&self) -> usize {
        self.at
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no white space, without moving behind it.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    #[inline]
    fn accept(&mut self, byte: u8) -> bool {
        let accepted = self.peek() == Some(byte);
        self.at += usize::from(accepted);
        accepted
    }

    /// A fault at the next thing in the text, which is none of what was expected.
    #[cold]
    pub(crate) fn unexpected(&mut self, expected: impl Display) -> Fault {
        let byte = match self.peek() {
            Some(_) => self.at,
            None => self.text.len(),
        };
        Fault::new(byte, format!("found {}, expected {expected}", self.describe()))
    }

    /// Names the next thing in the text.
    fn describe(&self) -> String {
        let mut ahead = self.clone();
        match ahead.byte() {
            None => "the end of the text".to_owned(),
            Some(b'{') => "an object".to_owned(),
            Some(b'[') => "a list".to_owned(),
            Some(b'"') => match ahead.string() {
                Ok(text) => format!("the string {:?}", clipped(&text)),
                Err(_) => "a string that does not end".to_owned(),
            },
            Some(b'-' | b'0'..=b'9') => match ahead.number() {
                Ok(number) => format!("the number {}", clipped(number)),
                Err(_) => "a broken number".to_owned(),
            },
            Some(_) => {
                let rest = self.text.get(self.at..).unwrap_or_default();
                let word = rest.split(|c: char| !c.is_alphanumeric()).next().filter(|word| !word.is_empty());
                match word {
                    Some("null") => "null".to_owned(),
                    Some(word) => format!("`{}`", clipped(word)),
                    None => format!("{:?}", rest.chars().next().unwrap_or_default()),
                }
            }
        }
    }

    #[inline]
    fn word(&mut self, word: &str) -> bool {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let found = rest.starts_with(word.as_bytes());
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// Accepts `null`.
    #[inline]
    pub(crate) fn null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.word("null")
    }

    /// Accepts `true` or `false`.
    pub(crate) fn bool(&mut self) -> Option<bool> {
        match self.peek() {
            Some(b't') if self.word("true") => Some(true),
            Some(b'f') if self.word("false") => Some(false),
            _ => None,
        }
    }

    #[inline]
    fn digits(&mut self) -> bool {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at > start
    }

    /// A number as it is written; the scanner stands at a digit or minus.
    #[inline]
    fn number(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        let broken = |at| Fault::new(at, "found a broken number, expected a digit".to_owned());
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else if !self.digits() {
            return Err(broken(self.at));
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            if !self.digits() {
                return Err(broken(self.at));
            }
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            if !self.digits() {
                return Err(broken(self.at));
            }
        }
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    /// How many bytes of a string follow that stand for themselves.
    #[inline]
    fn plain(&self) -> &'a str {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len());
        self.text.get(self.at..self.at + end).unwrap_or_default()
    }

    /// A string, which the scanner stands at; borrowed unless it has escapes.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        let start = self.at;
        self.at += 1;
        let plain = self.plain();
        self.at += plain.len();
        if self.byte() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(plain));
        }
        self.at = start;
        let mut bytes = Vec::new();
        self.string_into(&mut bytes)?;
        // Plain parts and escapes are whole characters, so what was put together is text.
        Ok(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Appends a string, which the scanner stands at.
    #[inline]
    fn string_into(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.at += 1;
        loop {
            let plain = self.plain();
            out.extend_from_slice(plain.as_bytes());
            self.at += plain.len();
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape(out)?,
                Some(control) => {
                    let message = format!("found the byte 0x{control:02x} in a string, expected it escaped");
                    return Err(Fault::new(self.at, message));
                }
                None => {
                    return Err(Fault::new(
                        self.at,
                        "found the end of the text, expected the end of a string".to_owned(),
                    ));
                }
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let start = self.at;
        self.at += 1;
        let plain = match self.byte() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let broken = || {
                    Fault::new(start, "found a broken escape, expected `\\uXXXX` of a character".to_owned())
                };
                self.at += 1;
                let first = self.hex().ok_or_else(broken)?;
                let code = if (0xd800..0xdc00).contains(&first) {
                    let second = if self.word("\\u") { self.hex() } else { None };
                    let low = second.filter(|second| (0xdc00..0xe000).contains(second)).ok_or_else(broken)?;
                    0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    first
                };
                let character = char::from_u32(code).ok_or_else(broken)?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(Fault::new(start, "found an unknown escape in a string".to_owned())),
        };
        out.push(plain);
        self.at += 1;
        Ok(())
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.at += 4;
        if all_hex { u32::from_str_radix(digits, 16).ok() } else { None }
    }

    /// Any value; returns where it begins.
    pub(crate) fn any(&mut self) -> Result<usize, Fault> {
        self.peek();
        let start = self.at;
        self.skip(0)?;
        Ok(start)
    }

    /// A whole number.
    pub(crate) fn integer(&mut self, expected: &str) -> Result<i64, Fault> {
        let start = self.at;
        let number = match self.peek() {
            Some(b'-' | b'0'..=b'9') => integer(self.number()?).ok(),
            _ => None,
        };
        number.ok_or_else(|| Scanner::at(self.text, start).unexpected(expected))
    }

    /// A string where nothing else may stand.
    pub(crate) fn text(&mut self, expected: &str) -> Result<Cow<'a, str>, Fault> {
        match self.peek() {
            Some(b'"') => self.string(),
            _ => Err(self.unexpected(expected)),
        }
    }

    fn skip(&mut self, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::new(self.at, format!("found more than {MAX_DEPTH} levels of nesting")));
        }
        match self.peek() {
            Some(b'{') => self.object(|scanner, _| scanner.skip(depth + 1)),
            Some(b'[') => self.list(|scanner, _| scanner.skip(depth + 1)),
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            _ if self.null() || self.bool().is_some() => Ok(()),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// An object; `member` reads the value of each name.
    #[inline]
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if !self.accept(b'{') {
            return Err(self.unexpected("an object"));
        }
        if self.accept(b'}') {
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a field's name"));
            }
            let name = self.string()?;
            if !self.accept(b':') {
                return Err(self.unexpected("`:`"));
            }
            member(self, name)?;
            if self.accept(b',') {
                continue;
            }
            return if self.accept(b'}') { Ok(()) } else { Err(self.unexpected("`,` or `}`")) };
        }
    }

    /// A list; `item` reads each item.
    #[inline]
    pub(crate) fn list(
        &mut self,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if !self.accept(b'[') {
            return Err(self.unexpected("a list"));
        }
        if self.accept(b']') {
            return Ok(());
        }
        for index in 0.. {
            item(self, index)?;
            if self.accept(b',') {
                continue;
            }
            return if self.accept(b']') { Ok(()) } else { Err(self.unexpected("`,` or `]`")) };
        }
        Ok(())
    }

    /// Nothing but white space.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end of the text")),
        }
    }
}

/// What happens to a field that no column is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnknownFields {
    Skip,
    Refuse,
}

/// The fields of an object, and the columns they go to.
#[derive(Debug)]
pub(crate) struct ObjectReader {
    fields: Vec<FieldReader>,
    by_name: HashMap<String, usize>,
    unknown: UnknownFields,
}

#[derive(Debug)]
struct FieldReader {
    name: String,
    column: usize,
    value: ValueReader,
}

/// How the values of a type are read.
#[derive(Debug)]
pub(crate) struct ValueReader {
    /// In messages: what was expected.
    data_type: DataType,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Bool,
    Int32,
    Int64,
    Float32,
    Float64,
    Decimal(u8, i8),
    String,
    Bytes,
    Date,
    Timestamp,
    List(Box<ValueReader>),
    Struct(ObjectReader),
    /// A type that no column can have.
    None,
}

/// Whether the names of a layout's fields or of its columns stand in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// The record's own field names.
    Fields,
    /// The columns' names.
    Columns,
}

impl Names {
    pub(crate) fn of(self, layout: &FieldLayout) -> &str {
        match self {
            Names::Fields => &layout.field,
            Names::Columns => &layout.name,
        }
    }
}

impl ObjectReader {
    /// For fields and the columns they go to.
    pub(crate) fn new<'f>(
        fields: impl IntoIterator<Item = (usize, &'f FieldLayout)>,
        names: Names,
        unknown: UnknownFields,
    ) -> Self {
        let fields: Vec<FieldReader> = fields
            .into_iter()
            .map(|(column, field)| FieldReader {
                name: names.of(field).to_owned(),
                column,
                value: ValueReader::new(field, names, unknown),
            })
            .collect();
        let by_name = fields.iter().enumerate().map(|(index, field)| (field.name.clone(), index)).collect();
        ObjectReader { fields, by_name, unknown }
    }

    /// Reads an object into row `row` of its columns, all of which have exactly `row` rows.
    #[inline]
    pub(crate) fn read(
        &self,
        scanner: &mut Scanner<'_>,
        columns: &mut [ColumnBuilder],
        row: usize,
    ) -> Result<(), Fault> {
        // Writers mostly keep the order of fields: the one after the last is tried before the map is asked.
        let mut next = 0;
        scanner.object(|scanner, name| {
            let expected = self.fields.get(next).filter(|field| field.name == *name);
            let field = expected.or_else(|| {
                next = *self.by_name.get(name.as_ref())?;
                self.fields.get(next)
            });
            let Some(field) = field else { return self.unknown(scanner, &name) };
            next += 1;
            let Some(column) = columns.get_mut(field.column) else { return scanner.skip(0) };
            let result = if column.len() > row {
                let message = "found the field a second time, expected it once".to_owned();
                Err(Fault::new(scanner.at, message))
            } else {
                field.value.read(scanner, column)
            };
            result.map_err(|fault| fault.within(PathPart::Field(field.name.clone())))
        })?;
        for field in &self.fields {
            if let Some(column) = columns.get_mut(field.column)
                && column.len() == row
            {
                column.null();
            }
        }
        Ok(())
    }

    #[cold]
    fn unknown(&self, scanner: &mut Scanner<'_>, name: &str) -> Result<(), Fault> {
        if self.unknown == UnknownFields::Skip {
            return scanner.skip(0);
        }
        let names = || self.fields.iter().map(|field| field.name.as_str());
        let help = did_you_mean(name, names())
            .unwrap_or_else(|| format!("expected {}", millstream_operators::diagnostic::listed(names())));
        Err(Fault::new(scanner.at, format!("found the unknown column `{}`, {help}", clipped(name))))
    }
}

impl ValueReader {
    pub(crate) fn new(layout: &FieldLayout, names: Names, unknown: UnknownFields) -> Self {
        let form = match &layout.data_type {
            DataType::Boolean => Form::Bool,
            DataType::Int32 => Form::Int32,
            DataType::Int64 => Form::Int64,
            DataType::Float32 => Form::Float32,
            DataType::Float64 => Form::Float64,
            DataType::Decimal128(precision, scale) => Form::Decimal(*precision, *scale),
            DataType::Utf8 => Form::String,
            DataType::Binary => Form::Bytes,
            DataType::Date32 => Form::Date,
            DataType::Timestamp(_, _) => Form::Timestamp,
            DataType::List(_) => match layout.children.first() {
                Some(item) => Form::List(Box::new(ValueReader::new(item, names, unknown))),
                None => Form::None,
            },
            DataType::Struct(_) => {
                Form::Struct(ObjectReader::new(layout.children.iter().enumerate(), names, unknown))
            }
            _ => Form::None,
        };
        ValueReader { data_type: layout.data_type.clone(), form }
    }

    /// Reads a value into the column's next row.
    #[inline]
    pub(crate) fn read(&self, scanner: &mut Scanner<'_>, column: &mut ColumnBuilder) -> Result<(), Fault> {
        let first = scanner.peek();
        let start = scanner.at;
        if scanner.null() {
            column.null();
            return Ok(());
        }
        let row = column.len();
        let is_number = matches!(first, Some(b'-' | b'0'..=b'9'));
        let is_string = first == Some(b'"');
        match (&self.form, column.values()) {
            (Form::Bool, Values::Bool(values)) => match scanner.bool() {
                Some(value) => values.append(value),
                None => return Err(self.unexpected(scanner)),
            },
            (Form::Int32, Values::Int32(values)) if is_number => {
                let number = integer(scanner.number()?)
                    .and_then(|number| i32::try_from(number).map_err(|_| DecimalError::Range));
                values.push(number.map_err(|error| self.number_fault(scanner, start, error))?);
            }
            (Form::Int64, Values::Int64(values)) if is_number => {
                let number = integer(scanner.number()?);
                values.push(number.map_err(|error| self.number_fault(scanner, start, error))?);
            }
            (Form::Float32, Values::Float32(values)) if is_number => {
                let number: f32 = scanner.number()?.parse().unwrap_or(f32::NAN);
                if !number.is_finite() {
                    return Err(self.number_fault(scanner, start, DecimalError::Range));
                }
                values.push(number);
            }
            (Form::Float64, Values::Float64(values)) if is_number => {
                let number: f64 = scanner.number()?.parse().unwrap_or(f64::NAN);
                if !number.is_finite() {
                    return Err(self.number_fault(scanner, start, DecimalError::Range));
                }
                values.push(number);
            }
            (Form::Decimal(precision, scale), Values::Decimal(values)) if is_number || is_string => {
                let text = if is_string { scanner.string()? } else { Cow::Borrowed(scanner.number()?) };
                let number = parse_decimal(&text, *precision, *scale);
                values.push(number.map_err(|error| self.number_fault(scanner, start, error))?);
            }
            (Form::String, Values::Bytes(values)) if is_string => scanner.string_into(&mut values.data)?,
            (Form::Bytes, Values::Bytes(values)) if is_string => {
                let text = scanner.string()?;
                if BASE64.decode_vec(text.as_bytes(), &mut values.data).is_err() {
                    return Err(self.unexpected_at(scanner, start));
                }
            }
            (Form::Date, Values::Int32(values)) if is_string => match parse_date(&scanner.string()?) {
                Some(days) => values.push(days),
                None => return Err(self.unexpected_at(scanner, start)),
            },
            (Form::Timestamp, Values::Int64(values)) if is_string => {
                match parse_timestamp(&scanner.string()?) {
                    Some(millis) => values.push(millis),
                    None => return Err(self.unexpected_at(scanner, start)),
                }
            }
            (Form::Timestamp, Values::Int64(values)) if is_number => {
                let number = integer(scanner.number()?);
                values.push(number.map_err(|error| self.number_fault(scanner, start, error))?);
            }
            (Form::List(reader), Values::List(list)) => scanner.list(|scanner, index| {
                reader.read(scanner, &mut list.items).map_err(|fault| fault.within(PathPart::Item(index)))
            })?,
            (Form::Struct(reader), Values::Struct(fields)) => reader.read(scanner, fields, row)?,
            _ => return Err(self.unexpected(scanner)),
        }
        column.valid().map_err(|error| Fault::new(start, error.to_string()))
    }

    #[cold]
    fn unexpected(&self, scanner: &mut Scanner<'_>) -> Fault {
        let expected = match &self.form {
            Form::Bytes => "bytes in base64".to_owned(),
            Form::Date => "a date as \"YYYY-MM-DD\"".to_owned(),
            Form::Timestamp => {
                "a timestamp as \"YYYY-MM-DDThh:mm:ssZ\" (RFC 3339) or epoch milliseconds".to_owned()
            }
            Form::Struct(_) => "an object".to_owned(),
            _ => type_name(&self.data_type),
        };
        scanner.unexpected(expected)
    }

    /// A fault at a value that has been read.
    #[cold]
    fn unexpected_at(&self, scanner: &Scanner<'_>, start: usize) -> Fault {
        self.unexpected(&mut Scanner { text: scanner.text, at: start })
    }

    #[cold]
    fn number_fault(&self, scanner: &Scanner<'_>, start: usize, error: DecimalError) -> Fault {
        let name = type_name(&self.data_type);
        let found = Scanner { text: scanner.text, at: start }.describe();
        match error {
            DecimalError::Syntax => self.unexpected_at(scanner, start),
            DecimalError::Inexact => {
                Fault::new(start, format!("found {found}, which {name} cannot hold without loss"))
            }
            DecimalError::Range => {
                Fault::new(start, format!("found {found}, which is out of the range of {name}"))
            }
        }
    }
}

/// A whole number, however it is written: `1`, `1.0` and `10e-1` are the same number.
#[inline]
pub(crate) fn integer(number: &str) -> Result<i64, DecimalError> {
    number.parse().or_else(|_| {
        parse_decimal(number, 38, 0).and_then(|number| i64::try_from(number).map_err(|_| DecimalError::Range))
    })
}
