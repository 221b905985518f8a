//! Written records as people read them: columns by name.

use arrow::array::RecordBatch;

use super::Written;
use crate::codec::by_name::RowWriter;
use crate::codec::decode::SourceDecoder;
use crate::codec::layout::{SinkLayout, SourceLayout};
use crate::codec::line::{self, write_line};
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
            Ok(SinkReader { decoder: SourceDecoder::new(&layout, "")?, writer: RowWriter::of_sink(&sink.layout) })
        });
        Ok(LineWriter { sinks: sinks.collect::<Result<_, TaskError>>()?, partitions })
    }

    /// Appends `written` as a line.
    pub fn write(&mut self, written: &Written, out: &mut Vec<u8>) -> Result<(), TaskError> {
        let record = &written.record;
        let headers = record.headers.iter().map(|header| (header.name.as_str(), header.value.as_deref()));
        let partition = self.partitions.then_some(written.partition);
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let row = match written.sink.and_then(|sink| self.sinks.get_mut(sink)) {
            Some(sink) => sink.read(written, &mut key, &mut value)?,
            None => false,
        };
        let (key, value) = if row {
            let value = if record.value.is_none() { b"null".as_slice() } else { &value };
            (line::Written::Json(&key), line::Written::Json(value))
        } else {
            (line::Written::Bytes(record.key.as_deref()), line::Written::Bytes(record.value.as_deref()))
        };
        write_line(&written.topic, record.timestamp, key, value, headers, partition, out);
        out.push(b'\n');
        Ok(())
    }

    /// The row of a sink's record; `None` if it cannot be read back.
    pub fn row(&mut self, written: &Written) -> Result<Option<RecordBatch>, TaskError> {
        let Some(sink) = written.sink.and_then(|sink| self.sinks.get_mut(sink)) else { return Ok(None) };
        let decoded = sink.decoder.decode(&[&written.record], 0)?;
        Ok((decoded.columns.num_rows() == 1).then_some(decoded.columns))
    }
}

impl SinkReader {
    fn read(&mut self, written: &Written, key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<bool, TaskError> {
        let decoded = self.decoder.decode(&[&written.record], 0)?;
        if decoded.columns.num_rows() != 1 {
            return Ok(false);
        }
        let rows = self.writer.rows(&decoded.columns)?;
        rows.write_key(0, key);
        rows.write_value(0, value);
        Ok(true)
    }
}

/// How the records of a sink are read back.
fn reading(sink: &SinkLayout) -> SourceLayout {
    SourceLayout {
        schema: sink.schema.clone(),
        key: sink.key.clone(),
        key_format: sink.key_format,
        value: sink.value.clone(),
        value_format: sink.value_format,
        headers: Vec::new(),
        metadata: Vec::new(),
        time: None,
    }
}
