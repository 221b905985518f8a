//! The changes that an aggregate sends in one epoch.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMillisecondArray, UInt32Array};
use arrow::compute::{concat, take};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;

use super::groups::{Entry, Group};
use crate::aggregates::{AggregatePlan, GroupState, ResultBuilder};
use crate::batch::{Batch, RowKind};
use crate::diagnostic::Code;
use crate::key::{KeyDecoder, KeyEncoder};
use crate::operator::{Context, OperatorError};
use crate::schema::Schema;

/// Where a change's key comes from.
#[derive(Clone, Copy)]
pub(super) enum Key<'a> {
    /// A row of the input.
    Row(usize),
    /// The store: the encoded key.
    Stored(&'a [u8]),
}

/// A change's row: the key of the group, and where and when it counts.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub key: Key<'a>,
    /// Start and end of the window, where there is one.
    pub window: Option<(i64, i64)>,
    /// Event time of the change.
    pub time: i64,
    /// Sequence number of the row that caused it.
    pub seq: u32,
}

/// Collects changes; they may come in any order of `seq`.
pub(super) struct Changes<'a> {
    input: &'a Batch,
    /// Keys that no row of the input has to have.
    stored: KeyDecoder,
    /// Where the keys are: first those of the input's rows are counted, then the stored ones.
    keys: Vec<u32>,
    windows: Vec<(i64, i64)>,
    kinds: Vec<RowKind>,
    times: Vec<i64>,
    seqs: Vec<u32>,
    results: ResultBuilder,
}

impl<'a> Changes<'a> {
    /// For changes that rows of `input` cause.
    pub fn new(input: &'a Batch, keys: &KeyEncoder, plan: &AggregatePlan) -> Result<Self, OperatorError> {
        Ok(Changes {
            input,
            stored: keys.decoder()?,
            keys: Vec::new(),
            windows: Vec::new(),
            kinds: Vec::new(),
            times: Vec::new(),
            seqs: Vec::new(),
            results: plan.results(),
        })
    }

    /// Adds a row; without a state its value columns are null.
    pub fn push(
        &mut self,
        place: Place<'_>,
        kind: RowKind,
        state: Option<&GroupState>,
    ) -> Result<(), OperatorError> {
        let key = match place.key {
            Key::Row(row) => row,
            Key::Stored(key) => {
                self.stored.push(key)?;
                self.input.len() + self.stored.len() - 1
            }
        };
        self.keys.push(key as u32);
        self.windows.extend(place.window);
        self.kinds.push(kind);
        self.times.push(place.time);
        self.seqs.push(place.seq);
        match state {
            Some(state) => self.results.push(state),
            None => self.results.push_null(),
        }
        Ok(())
    }

    /// Adds the change of a row: an insert, or an update with the row it replaces where that is known.
    pub fn push_update(
        &mut self,
        place: Place<'_>,
        existed: bool,
        before: Option<&Entry>,
        after: &Entry,
    ) -> Result<(), OperatorError> {
        if let Some(before) = before {
            self.push(Place { time: before.time, ..place }, RowKind::UpdateBefore, Some(&before.state))?;
        }
        let kind = if existed { RowKind::UpdateAfter } else { RowKind::Insert };
        self.push(place, kind, Some(&after.state))
    }

    /// Adds the change that a group holds back, if it holds one.
    pub fn push_pending(
        &mut self,
        group: &mut Group,
        window: Option<(i64, i64)>,
    ) -> Result<(), OperatorError> {
        let (Some(pending), Some(entry)) = (group.pending.take(), &group.entry) else { return Ok(()) };
        let place = Place { key: Key::Row(pending.row), window, time: entry.time, seq: pending.seq };
        self.push_update(place, pending.existed, pending.before.as_ref(), entry)
    }

    /// The batch of all changes, by `seq`.
    pub fn finish(self, schema: &Schema, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let (batch, errors) = self.batch(schema)?;
        let keep = context.without_errors(&batch, &errors);
        in_order(crate::filter::kept(batch, keep)?)
    }

    /// The same for changes that rows of other groups bring to light: a failure is not the fault of these rows.
    pub fn finish_closed(self, schema: &Schema, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let (batch, errors) = self.batch(schema)?;
        let mut keep = vec![true; batch.len()];
        for (row, code, message) in errors {
            let key: Vec<String> = (0..schema.key)
                .map(|column| {
                    let value = array_value_to_string(batch.rows.column(column), row)?;
                    Ok(format!("{} = {value}", schema.columns.field(column).name()))
                })
                .collect::<Result<_, ArrowError>>()?;
            let message = format!("the window with {} closes without a result: {message}", key.join(", "));
            if let (Some(keep), Some(seq)) = (keep.get_mut(row), batch.seq.get(row)) {
                *keep = false;
                context.fail_blameless(*seq, code, message);
            }
        }
        in_order(batch.filter(&keep.into())?)
    }

    #[expect(clippy::type_complexity, reason = "rows and the errors of some, as everywhere")]
    fn batch(mut self, schema: &Schema) -> Result<(Batch, Vec<(usize, Code, String)>), OperatorError> {
        if self.times.is_empty() {
            return Ok((Batch::empty(&schema.columns), Vec::new()));
        }
        let count = self.times.len();
        let mut arrays = self.key_columns()?;
        if !self.windows.is_empty() {
            let (starts, ends): (Vec<i64>, Vec<i64>) = self.windows.into_iter().unzip();
            arrays.push(Arc::new(TimestampMillisecondArray::from(starts)));
            arrays.push(Arc::new(TimestampMillisecondArray::from(ends)));
        }
        let (results, errors) = self.results.finish();
        arrays.extend(results);
        let batch = Batch {
            rows: crate::batch::record_batch(&schema.columns, arrays, count)?,
            time: self.times,
            seq: self.seqs,
            kind: Some(self.kinds),
            null_value: None,
        };
        Ok((batch, errors))
    }

    fn key_columns(&mut self) -> Result<Vec<ArrayRef>, OperatorError> {
        let rows = UInt32Array::from(std::mem::take(&mut self.keys));
        let from_store = !self.stored.is_empty();
        let columns = self.input.rows.columns().iter().zip(self.stored.finish()?);
        columns
            .map(|(given, stored)| {
                let given = crate::key::normalised(given);
                let all = if from_store { concat(&[given.as_ref(), stored.as_ref()])? } else { given };
                Ok(take(&all, &rows, None)?)
            })
            .collect()
    }
}

fn in_order(batch: Batch) -> Result<Batch, OperatorError> {
    if batch.seq.is_sorted() {
        return Ok(batch);
    }
    let mut order: Vec<usize> = (0..batch.len()).collect();
    order.sort_by_key(|row| batch.seq.get(*row).copied());
    Ok(batch.take(&order)?)
}
