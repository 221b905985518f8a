//! Written records as people read them: columns by name.

use arrow::array::RecordBatch;

use super::Written;
use crate::codec::by_name::RowWriter;
use crate::codec::decode::SourceDecoder;
use crate::codec::layout::{SinkLayout, SourceLayout};
use crate::codec::line::{self, write_line};
use crate::record::Record;
use crate::task::TaskError;
use crate::topology::Topology;

/// Writes what sinks wrote as JSON lines. Records are read back from their bytes, as a consumer of the topic would.
pub struct LineWriter {
    sinks: Vec<SinkReader>,
    partitions: bool,
}

struct SinkReader {
    decoder: SourceDecoder,
    writer: RowWriter,
}

impl LineWriter {
    /// For the sinks of `topology`; `partitions` says whether lines name the partition.
    pub fn new(topology: &Topology, partitions: bool) -> Result<Self, TaskError> {
        let sinks = topology.sinks.iter().map(|sink| {
            let layout = reading(&sink.layout);
            Ok(SinkReader {
                decoder: SourceDecoder::new(&layout, "")?,
                writer: RowWriter::of_sink(&sink.layout),
            })
        });
        Ok(LineWriter { sinks: sinks.collect::<Result<_, TaskError>>()?, partitions })
    }

    /// A line for each record, in order. The records of a sink are read back together.
    pub fn lines(&mut self, written: &[Written]) -> Result<Vec<Vec<u8>>, TaskError> {
        let mut parts: Vec<Option<(Vec<u8>, Vec<u8>)>> = vec![None; written.len()];
        for (number, sink) in self.sinks.iter_mut().enumerate() {
            let of_sink = written.iter().enumerate().filter(|(_, written)| written.sink == Some(number));
            let (places, records): (Vec<usize>, Vec<&Record>) =
                of_sink.map(|(place, written)| (place, &written.record)).unzip();
            if records.is_empty() {
                continue;
            }
            let decoded = sink.decoder.decode(&records, 0)?;
            let rows = sink.writer.rows(&decoded.columns)?;
            for (row, record) in decoded.rows.iter().enumerate() {
                let Some(part) = places.get(*record).and_then(|place| parts.get_mut(*place)) else {
                    continue;
                };
                let (key, value) = part.get_or_insert_default();
                rows.write_key(row, key);
                rows.write_value(row, value);
            }
        }
        let lines = written.iter().zip(&parts).map(|(written, part)| self.line(written, part.as_ref()));
        Ok(lines.collect())
    }

    fn line(&self, written: &Written, part: Option<&(Vec<u8>, Vec<u8>)>) -> Vec<u8> {
        let record = &written.record;
        let headers = record.headers.iter().map(|header| (header.name.as_str(), header.value.as_deref()));
        let partition = self.partitions.then_some(written.partition);
        let (key, value) = match part {
            Some((key, _)) if record.value.is_none() => {
                (line::Written::Json(key), line::Written::Json(b"null"))
            }
            Some((key, value)) => (line::Written::Json(key), line::Written::Json(value)),
            // Dead letters are bytes.
            None => {
                (line::Written::Bytes(record.key.as_deref()), line::Written::Bytes(record.value.as_deref()))
            }
        };
        let mut line = Vec::new();
        write_line(&written.topic, record.timestamp, key, value, headers, partition, &mut line);
        line.push(b'\n');
        line
    }

    /// The row of a sink's record; `None` if it cannot be read back.
    pub fn row(&mut self, written: &Written) -> Result<Option<RecordBatch>, TaskError> {
        let Some(sink) = written.sink.and_then(|sink| self.sinks.get_mut(sink)) else { return Ok(None) };
        let decoded = sink.decoder.decode(&[&written.record], 0)?;
        Ok((decoded.columns.num_rows() == 1).then_some(decoded.columns))
    }
}

/// How the records of a sink are read back.
fn reading(sink: &SinkLayout) -> SourceLayout {
    SourceLayout {
        schema: sink.schema.clone(),
        key: sink.key.clone(),
        key_format: sink.key_format.clone(),
        value: sink.value.clone(),
        value_format: sink.value_format.clone(),
        headers: Vec::new(),
        metadata: Vec::new(),
        time: None,
    }
}
