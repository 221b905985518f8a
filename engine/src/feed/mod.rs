//! Files as the records of a source, in event-time order: what `dev` and `feed` read.
//!
//! A file is CSV (its header names the columns) or JSON lines (as `pipe` reads them), plain or gzipped; its name's ending
//! says which. Records come ordered by event time, which is also their timestamp: up to [`SORTED_IN_MEMORY`] records a
//! file may be in any order, beyond that it has to be ordered itself.

mod csv;
mod json_lines;
mod merge;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use millstream_operators::columns::UnsupportedType;

use crate::codec::layout::SourceLayout;
use crate::record::Record;

pub use merge::Merge;

/// How many records of a file are sorted if they are not in order.
pub const SORTED_IN_MEMORY: usize = 500_000;

/// Records are made this many at a time.
const CHUNK: usize = 1_024;

/// How files are read.
#[derive(Clone, Debug, Default)]
pub struct FeedOptions {
    /// A word in CSV files that stands for null, as an empty cell does.
    pub null: Option<String>,
}

/// Why a file cannot be fed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The file's name does not say what is in it.
    #[error("`{0}` cannot be fed: expected a name that ends in .csv, .csv.gz, .jsonl or .jsonl.gz")]
    Format(PathBuf),
    /// The file cannot be opened or read.
    #[error("`{path}` cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in the file is wrong.
    #[error("{place}: {message}")]
    Content {
        /// Where.
        place: Place,
        /// What was found and what was expected.
        message: String,
    },
    /// A column's type that files cannot hold.
    #[error(transparent)]
    Type(#[from] UnsupportedType),
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// The column, in CSV files.
    pub column: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.path.display(), self.line)?;
        match &self.column {
            Some(column) => write!(f, ", column `{column}`"),
            None => Ok(()),
        }
    }
}

/// Reads records in the order of their file.
trait RecordReader: fmt::Debug + Send {
    /// Reads some more records, with the lines they are from. At the end of the file it adds none; an error comes after
    /// the records before it.
    fn read(&mut self, records: &mut VecDeque<(u64, Record)>) -> Result<(), FeedError>;
}

/// The records of a file, ordered by event time.
#[derive(Debug)]
pub struct Feed {
    path: PathBuf,
    reader: Box<dyn RecordReader>,
    ready: VecDeque<(u64, Record)>,
    /// Comes after what is ready.
    error: Option<FeedError>,
    is_read: bool,
    latest: i64,
}

impl Feed {
    /// Opens a file for a source.
    ///
    /// # Errors
    /// If the file cannot be read, or the CSV header does not name the source's columns.
    pub fn open(path: &Path, layout: &SourceLayout, options: &FeedOptions) -> Result<Self, FeedError> {
        Feed::open_sorting(path, layout, options, SORTED_IN_MEMORY)
    }

    fn open_sorting(
        path: &Path,
        layout: &SourceLayout,
        options: &FeedOptions,
        sorted: usize,
    ) -> Result<Self, FeedError> {
        let io = |source| FeedError::Io { path: path.to_owned(), source };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
        let (name, is_gzip) = match name.strip_suffix(".gz") {
            Some(name) => (name, true),
            None => (name.as_str(), false),
        };
        let open = || -> Result<Box<dyn BufRead + Send>, FeedError> {
            let file = File::open(path).map_err(io)?;
            Ok(if is_gzip {
                Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(BufReader::new(file))))
            } else {
                Box::new(BufReader::with_capacity(1 << 16, file))
            })
        };
        let reader: Box<dyn RecordReader> = if name.ends_with(".csv") {
            Box::new(csv::CsvReader::new(path, open()?, layout, options)?)
        } else if name.ends_with(".jsonl") {
            Box::new(json_lines::JsonLinesReader::new(path, open()?, layout)?)
        } else {
            return Err(FeedError::Format(path.to_owned()));
        };
        let ready = VecDeque::new();
        let mut feed =
            Feed { path: path.to_owned(), reader, ready, error: None, is_read: false, latest: i64::MIN };
        while !feed.is_read && feed.ready.len() < sorted {
            feed.fill();
        }
        let records = feed.ready.make_contiguous();
        if !records.is_sorted_by_key(|(_, record)| record.timestamp) {
            records.sort_by_key(|(_, record)| record.timestamp);
        }
        Ok(feed)
    }

    fn fill(&mut self) {
        let before = self.ready.len();
        let result = self.reader.read(&mut self.ready);
        self.is_read = result.is_err() || self.ready.len() == before;
        self.error = result.err();
    }
}

impl Iterator for Feed {
    type Item = Result<Record, FeedError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() && !self.is_read {
            self.fill();
        }
        let Some((line, record)) = self.ready.pop_front() else { return self.error.take().map(Err) };
        if record.timestamp < self.latest {
            self.ready.clear();
            self.is_read = true;
            let place = Place { path: self.path.clone(), line, column: None };
            let message = format!(
                "the record is {} ms earlier than one before it: sort the file by event time (only the first {SORTED_IN_MEMORY} records are sorted while reading)",
                self.latest.abs_diff(record.timestamp)
            );
            return Some(Err(FeedError::Content { place, message }));
        }
        self.latest = record.timestamp;
        Some(Ok(record))
    }
}

#[cfg(test)]
mod tests;
