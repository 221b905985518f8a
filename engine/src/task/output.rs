//! What a task writes: records of sinks, of repartition topics, and dead letters.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use millstream_operators::batch::{Batch, RowKind};
use millstream_operators::columns::UnsupportedType;
use millstream_operators::diagnostic::Code;
use millstream_operators::row::{RowCodec, RowDecoder, RowEncoder};
use millstream_operators::schema::Kind;
use millstream_operators::sql::Expression;

use super::{RecordError, TaskError};
use crate::codec::encode::SinkEncoder;
use crate::codec::layout::{FieldLayout, Format, SinkLayout};
use crate::partitioner::hash;
use crate::plan::PlanOutput;
use crate::record::{Header, Record};
use crate::topology::{Sink, SinkTopic};

/// The order of records that one input record caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Sinks in the order of the file.
    Sink(usize),
    /// Repartition topics in the order of their steps: the slot that is written.
    Repartition(usize),
    /// Dead letters.
    DeadLetter,
}

/// A record to be written.
#[derive(Clone, Debug)]
pub struct OutputRecord {
    /// The topic.
    pub topic: Arc<str>,
    /// The hash of the key that decides the partition; `None`: the partition of the task, modulo the topic's.
    pub hash: Option<u32>,
    /// The record; its offset is not known yet.
    pub record: Record,
    /// Sequence number of the input record that caused it.
    pub seq: u32,
    /// Where it came from.
    pub rank: Rank,
    /// Whether it is a change of a table.
    pub kind: Kind,
    /// Whether the table had no row of this key.
    pub is_new: bool,
}

impl OutputRecord {
    /// Whether it is the dead letter of this record and node already.
    pub(super) fn is_letter_of(&self, error: &RecordError) -> bool {
        let node = self.record.headers.iter().rev().find(|header| header.name == "millstream.error.node");
        self.seq == error.seq && node.and_then(|node| node.value.as_deref()) == Some(error.node.as_bytes())
    }
}

/// Makes records of the rows of a slot.
pub(super) struct OutputWriter {
    slot: usize,
    node: String,
    form: Form,
    rank: Rank,
}

enum Form {
    Sink { sink: Arc<Sink>, encoder: Box<SinkEncoder>, topic: Topic, kind: Kind },
    Repartition { topic: Arc<str>, keys: Box<SinkEncoder>, rows: RowCodec, kind: Kind },
}

enum Topic {
    Fixed(Arc<str>),
    Expression(Expression),
}

type RowErrors = Vec<(u32, Code, String)>;

impl OutputWriter {
    pub fn new(output: &PlanOutput) -> Result<Self, UnsupportedType> {
        Ok(match output {
            PlanOutput::Sink { sink, position, slot, schema } => OutputWriter {
                slot: *slot,
                node: sink.name.clone(),
                rank: Rank::Sink(*position),
                form: Form::Sink {
                    encoder: Box::new(SinkEncoder::new(&sink.layout)),
                    topic: match &sink.topic {
                        SinkTopic::Fixed(name) => Topic::Fixed(Arc::from(name.as_str())),
                        SinkTopic::Expression(expression) => Topic::Expression(expression.clone()),
                    },
                    sink: sink.clone(),
                    kind: schema.kind,
                },
            },
            PlanOutput::Repartition { node, topic, slot, schema } => {
                // The key is written as a user's topic would have it, so that both put a key into the same partition.
                let fields = schema.key_fields().iter();
                let key: Vec<FieldLayout> =
                    fields.map(|field| FieldLayout::of_column(field.name(), field.data_type())).collect();
                let layout = SinkLayout {
                    schema: schema.clone(),
                    key_format: Format::default_for_key(&key),
                    key,
                    value: Vec::new(),
                    value_format: Format::Json,
                    headers: Vec::new(),
                    time: None,
                };
                OutputWriter {
                    slot: *slot,
                    node: node.clone(),
                    rank: Rank::Repartition(*slot),
                    form: Form::Repartition {
                        topic: Arc::from(topic.as_str()),
                        keys: Box::new(SinkEncoder::new(&layout)),
                        rows: RowCodec::new(&schema.columns)?,
                        kind: schema.kind,
                    },
                }
            }
        })
    }

    pub fn slot(&self) -> usize {
        self.slot
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    /// Adds the records of `batch`; gives the errors of rows that have none.
    pub fn write(&mut self, batch: &Batch, records: &mut Vec<OutputRecord>) -> Result<RowErrors, TaskError> {
        match &mut self.form {
            Form::Sink { sink, encoder, topic, kind } => {
                // Consumers of a topic see what a row is now, not what it was.
                let current = batch.kind.as_ref().filter(|kinds| kinds.contains(&RowKind::UpdateBefore));
                let current = match current {
                    Some(kinds) => {
                        let keep = kinds.iter().map(|kind| Some(*kind != RowKind::UpdateBefore)).collect();
                        &batch.filter(&keep)?
                    }
                    None => batch,
                };
                write_sink(sink, encoder, topic, *kind, self.rank, current, records)
            }
            Form::Repartition { topic, keys, rows, kind } => {
                let keys = keys.encode(&batch.rows, |_| true)?;
                let encoder = rows.encoder(batch.rows.columns())?;
                let mut errors = RowErrors::new();
                let key_of = |row: usize| keys.get(row).and_then(Result::ok).map(|key| key.key);
                for (row, ((key, time), seq)) in keys.iter().zip(&batch.time).zip(&batch.seq).enumerate() {
                    // A row without key stays in its partition: who needs a key drops it, others do not.
                    let key = match key {
                        Ok(key) => key.key,
                        Err((code, message)) => {
                            errors.push((*seq, *code, message.clone()));
                            continue;
                        }
                    };
                    let mut time = *time;
                    let value = match (*kind, batch.kind(row)) {
                        (Kind::Stream, _) => {
                            let mut value = vec![u8::from(batch.is_null_value(row))];
                            encoder.encode(row, &mut value);
                            value
                        }
                        // Where both rows of an update have the same key, they are one record: nobody is to see the time between.
                        (Kind::Table, RowKind::UpdateBefore) if replaces(batch, row) => {
                            if key_of(row) == key_of(row + 1) {
                                continue;
                            }
                            time = batch.time.get(row + 1).copied().unwrap_or(time);
                            change(REMOVED, &encoder, row)
                        }
                        (Kind::Table, RowKind::UpdateBefore | RowKind::Delete) => {
                            change(REMOVED, &encoder, row)
                        }
                        (Kind::Table, RowKind::Insert | RowKind::UpdateAfter) => match row.checked_sub(1) {
                            Some(before) if replaces(batch, before) && key_of(before) == key_of(row) => {
                                replacement(&encoder, before, row)
                            }
                            _ => change(ADDED, &encoder, row),
                        },
                    };
                    records.push(OutputRecord {
                        topic: topic.clone(),
                        hash: key.map(hash),
                        record: Record {
                            key: key.map(<[u8]>::to_vec),
                            value: Some(value),
                            timestamp: time,
                            headers: Vec::new(),
                            offset: -1,
                        },
                        seq: *seq,
                        rank: self.rank,
                        kind: Kind::Stream,
                        is_new: false,
                    });
                }
                Ok(errors)
            }
        }
    }
}

fn write_sink(
    sink: &Sink,
    encoder: &mut SinkEncoder,
    topic: &Topic,
    kind: Kind,
    rank: Rank,
    batch: &Batch,
    records: &mut Vec<OutputRecord>,
) -> Result<RowErrors, TaskError> {
    let mut errors: Vec<(usize, Code, String)> = Vec::new();
    let is_null = |row: usize| batch.is_null_value(row) || batch.kind(row) == RowKind::Delete;
    let topics = match topic {
        Topic::Fixed(_) => None,
        Topic::Expression(expression) => {
            let evaluated = expression.evaluate(&batch.rows);
            errors.extend(evaluated.errors);
            Some(evaluated.values)
        }
    };
    let rows = match &sink.columns {
        None => batch.rows.clone(),
        Some(columns) => {
            let mut arrays: Vec<_> =
                batch.rows.columns().iter().take(sink.layout.schema.key).cloned().collect();
            for (_, expression) in columns {
                let evaluated = expression.evaluate(&batch.rows);
                errors.extend(evaluated.errors.into_iter().filter(|(row, _, _)| !is_null(*row)));
                arrays.push(evaluated.values);
            }
            millstream_operators::batch::record_batch(&sink.layout.schema.columns, arrays, batch.len())?
        }
    };
    let encoded = encoder.encode(&rows, is_null)?;
    for (row, (record, (time, seq))) in encoded.iter().zip(batch.time.iter().zip(&batch.seq)).enumerate() {
        if errors.iter().any(|(failed, _, _)| *failed == row) {
            continue;
        }
        let record = match record {
            Ok(record) => record,
            Err((code, message)) => {
                errors.push((row, *code, message.clone()));
                continue;
            }
        };
        let topic = match (topic, &topics) {
            (Topic::Fixed(name), _) => name.clone(),
            (Topic::Expression(_), Some(names)) if names.is_valid(row) => {
                let name = names.as_string::<i32>().value(row);
                if let Some(reason) = crate::topology::topic_name_error(name) {
                    errors.push((row, Code::RecordEncode, format!("`{name}` cannot be a topic: {reason}")));
                    continue;
                }
                if let Some(taken) = sink.taken.taken(name) {
                    let message = format!("the sink cannot write to the topic `{name}`: {taken}");
                    errors.push((row, Code::RecordEncode, message));
                    continue;
                }
                Arc::from(name)
            }
            (Topic::Expression(_), _) => {
                errors.push((row, Code::RecordEncode, "the topic's name is null".to_owned()));
                continue;
            }
        };
        let headers = record.headers();
        records.push(OutputRecord {
            topic,
            hash: record.partition_key.map(hash),
            record: Record {
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                timestamp: record.time.unwrap_or(*time),
                headers: headers
                    .map(|(name, value)| Header { name: name.to_owned(), value: Some(value.to_vec()) })
                    .collect(),
                offset: -1,
            },
            seq: *seq,
            rank,
            kind,
            is_new: kind == Kind::Table && batch.kind(row) == RowKind::Insert,
        });
    }
    let seq_of = |row: usize| batch.seq.get(row).copied().unwrap_or_default();
    Ok(errors.into_iter().map(|(row, code, message)| (seq_of(row), code, message)).collect())
}

// How the value of a record of a repartition topic begins: of streams with 0, or with 1 for a null value, of tables with what
// became of the row that follows.
const ADDED: u8 = 2;
const REMOVED: u8 = 3;
/// The length of the old row follows, then the old and the new row.
const REPLACED: u8 = 4;

/// Whether the row after `row` is the one that replaces it.
fn replaces(batch: &Batch, row: usize) -> bool {
    batch.kind(row) == RowKind::UpdateBefore
        && row + 1 < batch.len()
        && batch.kind(row + 1) == RowKind::UpdateAfter
}

fn change(what: u8, encoder: &RowEncoder<'_>, row: usize) -> Vec<u8> {
    let mut value = vec![what];
    encoder.encode(row, &mut value);
    value
}

fn replacement(encoder: &RowEncoder<'_>, before: usize, after: usize) -> Vec<u8> {
    let mut value = vec![REPLACED, 0, 0, 0, 0];
    let start = value.len();
    encoder.encode(before, &mut value);
    let length = (value.len() - start) as u32;
    if let Some(place) = value.get_mut(1..start) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    encoder.encode(after, &mut value);
    value
}

/// Reads a record of a table's repartition topic into `decoder`, one row or two, and appends what they say to `kinds`.
pub(super) fn read_change(
    record: &Record,
    decoder: &mut RowDecoder,
    kinds: &mut Vec<RowKind>,
) -> Result<(), String> {
    let mut push = |row: &[u8], kind: RowKind| {
        decoder.push(row).map_err(|error| error.to_string())?;
        kinds.push(kind);
        Ok(())
    };
    match record.value.as_deref().and_then(<[u8]>::split_first) {
        Some((&ADDED, row)) => push(row, RowKind::Insert),
        Some((&REMOVED, row)) => push(row, RowKind::Delete),
        Some((&REPLACED, rest)) => {
            let cut = "a record of a repartition topic ends too early";
            let (length, rows) = rest.split_first_chunk().ok_or(cut)?;
            let (before, after) = rows.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(cut)?;
            push(before, RowKind::UpdateBefore)?;
            push(after, RowKind::UpdateAfter)
        }
        Some((other, _)) => Err(format!("a record of a repartition topic begins with {other}")),
        None => Err("a record of a repartition topic is empty".to_owned()),
    }
}

/// Reads a record of a stream's repartition topic into `decoder`; says whether the row's value is null.
pub(super) fn read_repartitioned(record: &Record, decoder: &mut RowDecoder) -> Result<bool, String> {
    match record.value.as_deref().and_then(<[u8]>::split_first) {
        Some((is_null, row)) => {
            decoder.push(row).map_err(|error| error.to_string())?;
            Ok(*is_null != 0)
        }
        None => Err("a record of a repartition topic is empty".to_owned()),
    }
}

/// The dead letter of `record`: as it came, and headers that say what was wrong.
pub(super) fn dead_letter(topic: Arc<str>, record: &Record, error: &RecordError) -> OutputRecord {
    let mut letter = record.clone();
    letter.offset = -1;
    for (name, value) in [
        ("code", error.code.number().to_owned()),
        ("node", error.node.clone()),
        ("topic", error.topic.clone()),
        ("partition", error.partition.to_string()),
        ("offset", error.offset.to_string()),
        ("message", error.message.clone()),
    ] {
        letter
            .headers
            .push(Header { name: format!("millstream.error.{name}"), value: Some(value.into_bytes()) });
    }
    OutputRecord {
        topic,
        hash: None,
        record: letter,
        seq: error.seq,
        rank: Rank::DeadLetter,
        kind: Kind::Stream,
        is_new: false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    /// They lie in topics: other bytes would be read wrongly.
    #[test]
    fn changes_of_a_table_are_pinned_and_come_back() {
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "a", "b"]));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let rows = RecordBatch::try_from_iter([("k", keys), ("n", numbers)]).unwrap();
        let codec = RowCodec::new(&rows.schema()).unwrap();
        let encoder = codec.encoder(rows.columns()).unwrap();
        let one = [1, 0b11, 1, b'a', 1, 0, 0, 0, 0, 0, 0, 0];
        let two = [1, 0b11, 1, b'a', 2, 0, 0, 0, 0, 0, 0, 0];
        let added = change(ADDED, &encoder, 0);
        assert_eq!(added, [&[2], one.as_slice()].concat());
        let removed = change(REMOVED, &encoder, 0);
        assert_eq!(removed, [&[3], one.as_slice()].concat());
        let replaced = replacement(&encoder, 0, 1);
        assert_eq!(replaced, [&[4, 12, 0, 0, 0], one.as_slice(), two.as_slice()].concat());

        let record = |value: &[u8]| Record {
            key: None,
            value: Some(value.to_vec()),
            timestamp: 0,
            headers: Vec::new(),
            offset: 0,
        };
        let (mut decoder, mut kinds) = (codec.decoder().unwrap(), Vec::new());
        for value in [&added, &removed, &replaced] {
            read_change(&record(value), &mut decoder, &mut kinds).unwrap();
        }
        let expected = [RowKind::Insert, RowKind::Delete, RowKind::UpdateBefore, RowKind::UpdateAfter];
        assert_eq!(kinds, expected);
        let read = decoder.finish().unwrap();
        assert_eq!(read.column(1).as_primitive::<Int64Type>().values().to_vec(), [1, 1, 1, 2]);
        for end in 0..replaced.len() {
            // What was read of it has a kind: rows and kinds stay as many.
            let (mut decoder, mut kinds) = (codec.decoder().unwrap(), Vec::new());
            assert!(read_change(&record(&replaced[..end]), &mut decoder, &mut kinds).is_err());
            assert_eq!(decoder.len(), kinds.len());
        }
    }
}
