//! CSV files: the header names the columns, an empty cell is null.

use std::collections::VecDeque;
use std::fmt;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use ::csv::{Position, Reader, ReaderBuilder, StringRecord};
use millstream_operators::columns::ColumnBuilder;
use millstream_operators::diagnostic::{did_you_mean, listed};
use millstream_operators::schema::TIMESTAMP;

use super::{CHUNK, FeedError, FeedOptions, Place, RecordReader};
use crate::codec::TextReader;
use crate::codec::by_name::RecordBuilder;
use crate::codec::layout::{FieldLayout, Metadata, SourceLayout};
use crate::record::{Header, Record};

/// Names the event time in files of sources that have no column for it.
const TIMESTAMP_COLUMN: &str = "timestamp";

pub(super) struct CsvReader {
    path: PathBuf,
    input: Reader<Box<dyn BufRead + Send>>,
    names: StringRecord,
    null: Option<String>,
    builder: RecordBuilder,
    /// The cells of the key's and of the value's columns.
    key: Vec<Cell>,
    value: Vec<Cell>,
    /// Header names and the cells they come from.
    headers: Vec<(String, usize)>,
    time: Cell,
    /// Holds the event time of the row that is being read.
    time_column: ColumnBuilder,
    row: StringRecord,
    offset: i64,
}

#[derive(Debug)]
struct Cell {
    index: usize,
    reader: TextReader,
}

impl fmt::Debug for CsvReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsvReader")
            .field("path", &self.path)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl CsvReader {
    pub(super) fn new(
        path: &Path,
        input: Box<dyn BufRead + Send>,
        layout: &SourceLayout,
        options: &FeedOptions,
    ) -> Result<Self, FeedError> {
        let mut input = ReaderBuilder::new().from_reader(input);
        let names = input.headers().map_err(|error| content(path, &error))?.clone();
        let position = |name: &str| names.iter().position(|found| found == name);
        let find = |name: &str, why: &str| {
            position(name).ok_or_else(|| {
                let help = did_you_mean(name, &names).unwrap_or_else(|| format!("found {}", listed(&names)));
                let place = Place { path: path.to_owned(), line: 1, column: None };
                FeedError::Content {
                    place,
                    message: format!("the header lacks the column `{name}`{why}: {help}"),
                }
            })
        };
        let cells = |fields: &[FieldLayout]| {
            let cell = |field: &FieldLayout| {
                Ok(Cell { index: find(&field.name, "")?, reader: TextReader::new(&field.data_type) })
            };
            fields.iter().map(cell).collect::<Result<Vec<_>, FeedError>>()
        };
        let time_name = layout.time.and_then(|index| layout.schema.names().nth(index));
        let is_timestamp = |name: &str| layout.metadata.contains(&(name.to_owned(), Metadata::Timestamp));
        let time = match time_name.filter(|name| !is_timestamp(name)) {
            Some(name) => find(name, ", the event time")?,
            None => find(TIMESTAMP_COLUMN, ", which holds the event time since the source names no `time`")?,
        };
        let headers = layout.headers.iter();
        Ok(CsvReader {
            path: path.to_owned(),
            null: options.null.clone(),
            builder: RecordBuilder::new(layout)?,
            key: cells(&layout.key)?,
            value: cells(&layout.value)?,
            headers: headers
                .filter_map(|header| Some((header.header.clone(), position(&header.name)?)))
                .collect(),
            time: Cell { index: time, reader: TextReader::new(&TIMESTAMP) },
            time_column: ColumnBuilder::new(&TIMESTAMP)?,
            names,
            input,
            row: StringRecord::new(),
            offset: 0,
        })
    }

    fn error(&self, line: u64, cell: Option<usize>, message: String) -> FeedError {
        let column = cell.and_then(|index| self.names.get(index)).map(str::to_owned);
        FeedError::Content { place: Place { path: self.path.clone(), line, column }, message }
    }

    /// Reads a row into the columns; answers its event time. After an error the columns may have an open row.
    fn read_row(&mut self, line: u64) -> Result<i64, FeedError> {
        self.time_column.truncate(0);
        let (row, null) = (&self.row, self.null.as_deref());
        let fill = |cell: &Cell, column: &mut ColumnBuilder| {
            let text = row.get(cell.index).unwrap_or_default();
            if text.is_empty() || null == Some(text) {
                column.null();
                return Ok(());
            }
            cell.reader.read(text, column).map_err(|message| (cell.index, message))
        };
        let (key, value) = self.builder.parts();
        let result = fill(&self.time, &mut self.time_column)
            .and_then(|()| {
                self.key.iter().zip(&mut key.columns).try_for_each(|(cell, column)| fill(cell, column))
            })
            .and_then(|()| {
                self.value.iter().zip(&mut value.columns).try_for_each(|(cell, column)| fill(cell, column))
            });
        result.map_err(|(cell, message)| self.error(line, Some(cell), message))?;
        match self.time_column.int64(0) {
            Some(time) if time >= 0 => Ok(time),
            Some(time) => {
                let message = format!("found the event time {time}, expected 1970-01-01T00:00:00Z or later");
                Err(self.error(line, Some(self.time.index), message))
            }
            None => {
                Err(self.error(line, Some(self.time.index), "found no event time, expected one".to_owned()))
            }
        }
    }

    fn read_headers(&self) -> Vec<Header> {
        let header = |(name, index): &(String, usize)| {
            let text = self
                .row
                .get(*index)
                .filter(|text| !text.is_empty() && self.null.as_deref() != Some(*text))?;
            Some(Header { name: name.clone(), value: Some(text.as_bytes().to_vec()) })
        };
        self.headers.iter().filter_map(header).collect()
    }
}

fn content(path: &Path, error: &::csv::Error) -> FeedError {
    if let ::csv::ErrorKind::Io(source) = error.kind() {
        let source = std::io::Error::new(source.kind(), source.to_string());
        return FeedError::Io { path: path.to_owned(), source };
    }
    let place =
        Place { path: path.to_owned(), line: error.position().map_or(1, Position::line), column: None };
    let message = match error.kind() {
        ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("found {len} cells, expected {expected_len} as in the header")
        }
        ::csv::ErrorKind::Utf8 { err, .. } => {
            format!("found text that is not UTF-8, in cell {}", err.field() + 1)
        }
        _ => error.to_string(),
    };
    FeedError::Content { place, message }
}

impl RecordReader for CsvReader {
    fn read(&mut self, records: &mut VecDeque<(u64, Record)>) -> Result<(), FeedError> {
        let mut rows: Vec<(u64, i64, Vec<Header>)> = Vec::with_capacity(CHUNK);
        let mut result = Ok(());
        while rows.len() < CHUNK {
            match self.input.read_record(&mut self.row) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    result = Err(content(&self.path, &error));
                    break;
                }
            }
            let line = self.row.position().map_or(0, Position::line);
            match self.read_row(line) {
                Ok(time) => rows.push((line, time, self.read_headers())),
                Err(error) => {
                    let (key, value) = self.builder.parts();
                    key.columns
                        .iter_mut()
                        .chain(&mut value.columns)
                        .for_each(|column| column.truncate(rows.len()));
                    result = Err(error);
                    break;
                }
            }
        }
        let first = rows.first().map_or(1, |(line, _, _)| *line);
        let (key, value) = self.builder.parts();
        let parts = key.finish(rows.len()).and_then(|keys| Ok((keys, value.finish(rows.len())?)));
        let (keys, values) = parts.map_err(|message| self.error(first, None, message))?;
        for ((line, timestamp, headers), (key, value)) in rows.into_iter().zip(keys.into_iter().zip(values)) {
            let key = key.map_err(|message| self.error(line, None, message))?;
            let value = value.map_err(|message| self.error(line, None, message))?;
            records.push_back((line, Record { key, value, timestamp, headers, offset: self.offset }));
            self.offset += 1;
        }
        result
    }
}
