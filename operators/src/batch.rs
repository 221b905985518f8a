//! A batch: rows of one node within one epoch.

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

/// What a table's row says (Flink's terms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// The key had no row; also every row of a stream.
    Insert,
    /// The row that is about to be replaced; only where a consumer asked for it.
    UpdateBefore,
    /// The row that replaces it.
    UpdateAfter,
    /// The key's last row is gone; the columns hold the row that was deleted where it is known, else only the key.
    Delete,
}

/// Rows of one node within one epoch, ordered by `seq`; rows of one `seq` are in the order of their making.
///
/// Per row there are, besides the user's columns: the event time in milliseconds since 1970, the sequence number of the
/// input record that caused it, for tables the row kind, and for streams whether the value is null.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The user's columns, key columns first.
    pub rows: RecordBatch,
    /// Event time, milliseconds since 1970 UTC.
    pub time: Vec<i64>,
    /// Sequence number within the epoch of the input record that caused the row.
    pub seq: Vec<u32>,
    /// Tables: what each row says. `None` for streams.
    pub kind: Option<Vec<RowKind>>,
    /// Streams: rows whose value is null (not a row of nulls). `None` if there is none.
    pub null_value: Option<BooleanBuffer>,
}

impl Batch {
    /// A batch without rows.
    pub fn empty(columns: &SchemaRef) -> Self {
        Batch {
            rows: RecordBatch::new_empty(columns.clone()),
            time: Vec::new(),
            seq: Vec::new(),
            kind: None,
            null_value: None,
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.time.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    /// What row `row` says; rows of streams are inserts.
    pub fn kind(&self, row: usize) -> RowKind {
        self.kind.as_ref().and_then(|kinds| kinds.get(row)).copied().unwrap_or(RowKind::Insert)
    }

    /// Whether the value of row `row` is null.
    pub fn is_null_value(&self, row: usize) -> bool {
        self.null_value.as_ref().is_some_and(|nulls| row < nulls.len() && nulls.value(row))
    }

    /// The same rows with other columns.
    pub fn with_columns(&self, columns: &SchemaRef, arrays: Vec<ArrayRef>) -> Result<Self, ArrowError> {
        Ok(Batch { rows: record_batch(columns, arrays, self.len())?, ..self.clone_marks() })
    }

    fn clone_marks(&self) -> Self {
        Batch {
            rows: RecordBatch::new_empty(self.rows.schema()),
            time: self.time.clone(),
            seq: self.seq.clone(),
            kind: self.kind.clone(),
            null_value: self.null_value.clone(),
        }
    }

    /// The rows for which `keep` is true.
    pub fn filter(&self, keep: &BooleanArray) -> Result<Self, ArrowError> {
        let kept = |row: &usize| keep.is_valid(*row) && keep.value(*row);
        let indices: Vec<usize> = (0..self.len()).filter(kept).collect();
        if indices.len() == self.len() {
            return Ok(self.clone());
        }
        Ok(Batch { rows: filter_record_batch(&self.rows, keep)?, ..self.marks_at(&indices) })
    }

    /// The rows at `indices`, in that order; a row may be taken several times.
    pub fn take(&self, indices: &[usize]) -> Result<Self, ArrowError> {
        let positions = UInt32Array::from_iter_values(indices.iter().map(|index| *index as u32));
        Ok(Batch { rows: take_record_batch(&self.rows, &positions)?, ..self.marks_at(indices) })
    }

    fn marks_at(&self, indices: &[usize]) -> Self {
        fn pick<T: Copy>(from: &[T], indices: &[usize]) -> Vec<T> {
            indices.iter().filter_map(|index| from.get(*index).copied()).collect()
        }
        Batch {
            rows: RecordBatch::new_empty(self.rows.schema()),
            time: pick(&self.time, indices),
            seq: pick(&self.seq, indices),
            kind: self.kind.as_ref().map(|kinds| pick(kinds, indices)),
            null_value: self
                .null_value
                .as_ref()
                .map(|_| indices.iter().map(|index| self.is_null_value(*index)).collect()),
        }
    }

    /// All rows of `batches`, which share their columns, ordered by `seq`; on a tie rows of an earlier batch come first.
    pub fn interleave(columns: &SchemaRef, batches: &[Batch]) -> Result<Self, ArrowError> {
        let filled: Vec<&Batch> = batches.iter().filter(|batch| !batch.is_empty()).collect();
        match filled.as_slice() {
            [] => return Ok(Batch::empty(columns)),
            [one] => return one.with_columns(columns, one.rows.columns().to_vec()),
            _ => {}
        }
        let mut all = Batch::empty(columns);
        let mut arrays = Vec::with_capacity(filled.len());
        let has_kind = filled.iter().any(|batch| batch.kind.is_some());
        let has_null = filled.iter().any(|batch| batch.null_value.is_some());
        let mut kinds = Vec::new();
        let mut nulls = Vec::new();
        for batch in &filled {
            arrays.push(record_batch(columns, batch.rows.columns().to_vec(), batch.len())?);
            all.time.extend_from_slice(&batch.time);
            all.seq.extend_from_slice(&batch.seq);
            if has_kind {
                kinds.extend((0..batch.len()).map(|row| batch.kind(row)));
            }
            if has_null {
                nulls.extend((0..batch.len()).map(|row| batch.is_null_value(row)));
            }
        }
        all.rows = arrow::compute::concat_batches(columns, &arrays)?;
        all.kind = has_kind.then_some(kinds);
        all.null_value = has_null.then(|| BooleanBuffer::from(nulls));
        if all.seq.is_sorted() {
            return Ok(all);
        }
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by_key(|row| all.seq.get(*row).copied());
        all.take(&order)
    }
}

/// A record batch of `count` rows, also where there is no column.
pub fn record_batch(
    columns: &SchemaRef,
    arrays: Vec<ArrayRef>,
    count: usize,
) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new_with_options(
        columns.clone(),
        arrays,
        &RecordBatchOptions::new().with_row_count(Some(count)),
    )
}
