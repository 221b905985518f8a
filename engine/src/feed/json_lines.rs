//! JSON-lines files: a record a line, as `pipe` reads and writes them.

use std::collections::VecDeque;
use std::fmt;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use millstream_operators::columns::UnsupportedType;

use super::{CHUNK, FeedError, Place, RecordReader};
use crate::codec::SourceDecoder;
use crate::codec::by_name::RecordBuilder;
use crate::codec::layout::SourceLayout;
use crate::codec::line::Line;
use crate::record::Record;

pub(super) struct JsonLinesReader {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    builder: RecordBuilder,
    /// Finds out the event time.
    decoder: SourceDecoder,
    has_time: bool,
    line: u64,
    offset: i64,
    text: String,
}

impl fmt::Debug for JsonLinesReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLinesReader")
            .field("path", &self.path)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

impl JsonLinesReader {
    pub(super) fn new(
        path: &Path,
        input: Box<dyn BufRead + Send>,
        layout: &SourceLayout,
    ) -> Result<Self, UnsupportedType> {
        Ok(JsonLinesReader {
            path: path.to_owned(),
            input,
            builder: RecordBuilder::of_file(layout)?,
            decoder: SourceDecoder::new(layout, "")?,
            has_time: layout.time.is_some(),
            line: 0,
            offset: 0,
            text: String::new(),
        })
    }

    fn error(&self, line: u64, message: impl fmt::Display) -> FeedError {
        let place = Place { path: self.path.clone(), line, column: None };
        FeedError::Content { place, message: message.to_string() }
    }

    /// The next line's record, and whether the line says when it was.
    fn read_line(&mut self) -> Result<Option<(Record, bool)>, FeedError> {
        loop {
            self.text.clear();
            self.line += 1;
            let read = self.input.read_line(&mut self.text);
            match read {
                Ok(0) => return Ok(None),
                Ok(_) if self.text.trim().is_empty() => {}
                Ok(_) => break,
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    return Err(self.error(self.line, "found text that is not UTF-8"));
                }
                Err(source) => return Err(FeedError::Io { path: self.path.clone(), source }),
            }
        }
        let line = match Line::parse(&self.text) {
            Ok(Line::Record(line)) => line,
            Ok(_) => {
                return Err(
                    self.error(self.line, "found a command, which only `pipe` takes; expected a record")
                );
            }
            Err(fault) => return Err(self.error(self.line, fault)),
        };
        if line.timestamp.is_none() && !self.has_time {
            let message = "found no `timestamp`, which holds the event time since the source names no `time`";
            return Err(self.error(self.line, message));
        }
        let key = self.builder.key(&line.key).map_err(|fault| self.error(self.line, fault))?;
        let value = self.builder.value(&line.value).map_err(|fault| self.error(self.line, fault))?;
        if let Some(timestamp) = line.timestamp.filter(|timestamp| *timestamp < 0) {
            let message = format!("found the timestamp {timestamp}, expected 0 (1970) or later");
            return Err(self.error(self.line, message));
        }
        let timestamp = line.timestamp.unwrap_or(-1);
        let record = Record { key, value, timestamp, headers: line.headers, offset: self.offset };
        self.offset += 1;
        Ok(Some((record, line.timestamp.is_some())))
    }
}

impl RecordReader for JsonLinesReader {
    fn read(&mut self, ready: &mut VecDeque<(u64, Record)>) -> Result<(), FeedError> {
        let (mut records, mut lines) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
        let mut result = Ok(());
        while records.len() < CHUNK {
            match self.read_line() {
                Ok(Some((record, is_timed))) => {
                    records.push(record);
                    lines.push((self.line, is_timed));
                }
                Ok(None) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let decoded = self.decoder.decode(&records, 0).map_err(|error| self.error(self.line, error))?;
        for (index, time) in decoded.rows.iter().zip(&decoded.time) {
            if let Some(record) = records.get_mut(*index) {
                record.timestamp = *time;
            }
        }
        // A record that cannot be decoded is the topology's to judge, if only it is known when it comes.
        let untimed = decoded.errors.iter().find_map(|(index, _, message)| {
            let (line, is_timed) = lines.get(*index)?;
            (!is_timed).then_some((*index, *line, message))
        });
        let end = match untimed {
            Some((index, line, message)) => {
                result = Err(self.error(line, message));
                index
            }
            None => records.len(),
        };
        ready.extend(lines.into_iter().map(|(line, _)| line).zip(records).take(end));
        result
    }
}
