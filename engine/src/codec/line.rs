//! The lines of `pipe` and of JSON-lines files: one record, or one command, as a JSON object.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::json_read::{Fault, Scanner, clipped};
use super::json_write::write_json;
use crate::record::Header;

/// A line of input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A record of a topic.
    Record(RecordLine<'a>),
    /// `{"wall-clock": "10s"}`
    WallClock(Cow<'a, str>),
    /// `{"advance": "5m"}`
    Advance(Cow<'a, str>),
    /// `{"restart": true}`
    Restart,
}

/// A record as a line says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordLine<'a> {
    /// The topic, if the line names one.
    pub topic: Option<Cow<'a, str>>,
    /// Milliseconds since 1970, if the line says when.
    pub timestamp: Option<i64>,
    /// The key.
    pub key: Part<'a>,
    /// The value.
    pub value: Part<'a>,
    /// Headers, in order.
    pub headers: Vec<Header>,
    /// The partition, if the line names one.
    pub partition: Option<i32>,
}

/// The key or the value of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Part<'a> {
    /// The line does not name it.
    #[default]
    Absent,
    /// It is null.
    Null,
    /// Columns by name: a JSON object that begins at byte `at` of `text`.
    Columns {
        /// The text around the object.
        text: &'a str,
        /// Where the object begins.
        at: usize,
    },
    /// Bytes as they stand in the record.
    Bytes(Vec<u8>),
}

impl<'a> Part<'a> {
    /// Columns by name, given as a JSON object; or `null`.
    pub fn columns(json: &'a str) -> Self {
        Part::Columns { text: json, at: 0 }
    }
}

/// What a line may hold, for messages.
const FIELDS: &str = "`topic`, `timestamp`, `key`, `value`, `key-bytes`, `value-bytes`, `headers`, `partition`, \
                      `wall-clock`, `advance` or `restart`";

impl<'a> Line<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// If it is no JSON object of the known fields.
    pub fn parse(text: &'a str) -> Result<Self, Fault> {
        let mut record = RecordLine::default();
        let mut command = None;
        let mut fields = 0;
        let mut scanner = Scanner::new(text);
        scanner.object(|scanner, name| {
            fields += 1;
            match name.as_ref() {
                "topic" => record.topic = Some(scanner.text("the topic's name")?),
                "timestamp" => {
                    record.timestamp = Some(scanner.integer("the timestamp in milliseconds since 1970")?);
                }
                "partition" => {
                    let start = scanner.clone();
                    let partition = i32::try_from(scanner.integer("the partition's number")?);
                    let partition = partition.ok().filter(|partition| *partition >= 0);
                    record.partition =
                        Some(partition.ok_or_else(|| start.clone().unexpected("the partition's number"))?);
                }
                "key" => record.key = part(scanner, text, &record.key)?,
                "value" => record.value = part(scanner, text, &record.value)?,
                "key-bytes" => record.key = bytes_part(scanner, &record.key)?,
                "value-bytes" => record.value = bytes_part(scanner, &record.value)?,
                "headers" => scanner.list(|scanner, _| {
                    record.headers.push(header(scanner)?);
                    Ok(())
                })?,
                "wall-clock" => command = Some(Line::WallClock(scanner.text("a duration, as \"10s\"")?)),
                "advance" => command = Some(Line::Advance(scanner.text("a duration, as \"5m\"")?)),
                "restart" => {
                    let mut start = scanner.clone();
                    if scanner.bool() != Some(true) {
                        return Err(start.unexpected("true"));
                    }
                    command = Some(Line::Restart);
                }
                other => {
                    let message = format!("found the field `{}`, expected {FIELDS}", clipped(other));
                    return Err(Fault::at(scanner.place(), message));
                }
            }
            Ok(())
        })?;
        scanner.end()?;
        match command {
            None => Ok(Line::Record(record)),
            Some(command) if fields == 1 => Ok(command),
            Some(_) => Err(Fault::at(
                0,
                "found a command with other fields beside it, expected it alone on its line",
            )),
        }
    }
}

fn part<'a>(scanner: &mut Scanner<'a>, text: &'a str, before: &Part<'a>) -> Result<Part<'a>, Fault> {
    if *before != Part::Absent {
        return Err(scanner.unexpected("key and value only once each"));
    }
    if scanner.null() {
        return Ok(Part::Null);
    }
    if scanner.peek() != Some(b'{') {
        return Err(scanner.unexpected("an object of columns, or null"));
    }
    Ok(Part::Columns { text, at: scanner.any()? })
}

fn bytes_part<'a>(scanner: &mut Scanner<'a>, before: &Part<'a>) -> Result<Part<'a>, Fault> {
    if *before != Part::Absent {
        return Err(scanner.unexpected("key and value only once each"));
    }
    if scanner.null() {
        return Ok(Part::Null);
    }
    base64(scanner).map(Part::Bytes)
}

fn base64(scanner: &mut Scanner<'_>) -> Result<Vec<u8>, Fault> {
    scanner.peek();
    let mut start = scanner.clone();
    let text = scanner.text("bytes in base64")?;
    BASE64.decode(text.as_bytes()).map_err(|_| start.unexpected("bytes in base64"))
}

/// `["name", "text"]`, `["name", {"base64": "…"}]` or `["name", null]`.
fn header(scanner: &mut Scanner<'_>) -> Result<Header, Fault> {
    const EXPECTED: &str = "a header as [\"name\", \"text\"] or [\"name\", {\"base64\": \"…\"}]";
    let mut start = scanner.clone();
    let (mut name, mut value, mut items) = (String::new(), None, 0);
    scanner.list(|scanner, index| {
        items = index + 1;
        match (index, scanner.peek()) {
            (0, Some(b'"')) => name = scanner.string()?.into_owned(),
            (1, Some(b'"')) => value = Some(scanner.string()?.into_owned().into_bytes()),
            (1, Some(b'{')) => scanner.object(|scanner, field| {
                if field != "base64" {
                    return Err(scanner.unexpected(EXPECTED));
                }
                value = Some(base64(scanner)?);
                Ok(())
            })?,
            (1, _) if scanner.null() => {}
            _ => return Err(scanner.unexpected(EXPECTED)),
        }
        Ok(())
    })?;
    if items == 2 { Ok(Header { name, value }) } else { Err(start.unexpected(EXPECTED)) }
}

/// The key or the value of a record that is written as a line.
#[derive(Clone, Copy, Debug)]
pub enum Written<'a> {
    /// JSON that has been written already: an object of columns, or `null`.
    Json(&'a [u8]),
    /// Bytes as they stand in the record; `None` is null.
    Bytes(Option<&'a [u8]>),
}

/// Appends a record as a line, without the line's end.
pub fn write_line<'h>(
    topic: &str,
    timestamp: i64,
    key: Written<'_>,
    value: Written<'_>,
    headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
    partition: Option<u32>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"topic\":");
    write_json(topic, out);
    out.extend_from_slice(b",\"timestamp\":");
    write_json(&timestamp, out);
    write_part("key", key, out);
    write_part("value", value, out);
    let mut count = 0;
    for (name, value) in headers {
        out.extend_from_slice(if count == 0 { b",\"headers\":[[" } else { b",[" });
        count += 1;
        write_json(name, out);
        out.push(b',');
        match value.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => out.extend_from_slice(b"null"),
            Some((_, Ok(text))) => write_json(text, out),
            Some((bytes, Err(_))) => {
                out.extend_from_slice(b"{\"base64\":");
                write_json(&BASE64.encode(bytes), out);
                out.push(b'}');
            }
        }
        out.push(b']');
    }
    if count > 0 {
        out.push(b']');
    }
    if let Some(partition) = partition {
        out.extend_from_slice(b",\"partition\":");
        write_json(&partition, out);
    }
    out.push(b'}');
}

fn write_part(name: &str, part: Written<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    match part {
        Written::Json(json) => {
            out.extend_from_slice(b"\":");
            out.extend_from_slice(json);
        }
        Written::Bytes(None) => out.extend_from_slice(b"\":null"),
        Written::Bytes(Some(bytes)) => {
            out.extend_from_slice(b"-bytes\":");
            write_json(&BASE64.encode(bytes), out);
        }
    }
}
