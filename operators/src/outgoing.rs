//! Rows that an operator sends some time after they came: they stand in the batch of the epoch, or come from a store.

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat, take};

use crate::batch::{Batch, RowKind, record_batch};
use crate::columns::UnsupportedType;
use crate::operator::OperatorError;
use crate::row::{RowCodec, RowDecoder, RowEncoder};

/// A row, where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// In the batch.
    Given(usize),
    /// As it is stored.
    Stored(Box<[u8]>),
}

impl Row {
    /// Appends the row as it is stored.
    pub fn write(&self, given: &RowEncoder<'_>, out: &mut Vec<u8>) {
        match self {
            Row::Given(row) => given.encode(*row, out),
            Row::Stored(bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// Why a row is sent, and when it counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    pub kind: RowKind,
    /// Event time.
    pub time: i64,
    /// Sequence number of the row that causes it.
    pub seq: u32,
}

/// A batch of rows to be sent, under construction.
pub(crate) struct Outgoing<'a> {
    given: &'a RecordBatch,
    stored: RowDecoder,
    /// Where the rows are: first those that were given are counted, then those that were stored.
    places: Vec<u32>,
    kinds: Vec<RowKind>,
    times: Vec<i64>,
    seqs: Vec<u32>,
}

impl<'a> Outgoing<'a> {
    /// For rows of `given`, and for rows that are stored in the form of `codec`.
    pub fn new(given: &'a RecordBatch, codec: &RowCodec) -> Result<Self, UnsupportedType> {
        Ok(Outgoing {
            given,
            stored: codec.decoder()?,
            places: Vec::new(),
            kinds: Vec::new(),
            times: Vec::new(),
            seqs: Vec::new(),
        })
    }

    /// Adds a row.
    pub fn push(&mut self, row: &Row, sending: Sending) -> Result<(), OperatorError> {
        let place = match row {
            Row::Given(row) => *row,
            Row::Stored(bytes) => {
                self.stored.push(bytes)?;
                self.given.num_rows() + self.stored.len() - 1
            }
        };
        self.places.push(place as u32);
        self.kinds.push(sending.kind);
        self.times.push(sending.time);
        self.seqs.push(sending.seq);
        Ok(())
    }

    /// The batch of all rows, in the order in which they were added; they have the columns of those that were given.
    pub fn finish(mut self) -> Result<Batch, OperatorError> {
        let places = UInt32Array::from(self.places);
        let from_store = !self.stored.is_empty();
        let stored = self.stored.finish()?;
        let columns = self.given.columns().iter().zip(stored.columns());
        let arrays = columns.map(|(given, stored)| -> Result<ArrayRef, OperatorError> {
            let all = if from_store { &concat(&[given.as_ref(), stored.as_ref()])? } else { given };
            Ok(take(all, &places, None)?)
        });
        let arrays = arrays.collect::<Result<_, _>>()?;
        Ok(Batch {
            rows: record_batch(&self.given.schema(), arrays, self.times.len())?,
            time: self.times,
            seq: self.seqs,
            kind: Some(self.kinds),
            null_value: None,
        })
    }
}
