//! The changes that an aggregate sends in one epoch.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMillisecondArray};

use super::groups::{Entry, Group};
use crate::aggregates::{AggregatePlan, GroupState, ResultBuilder};
use crate::batch::{Batch, RowKind};
use crate::key::{KeyDecoder, KeyEncoder};
use crate::operator::{Context, OperatorError};
use crate::schema::Schema;

/// A change's row: the key of the group, and where and when it counts.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The encoded key.
    pub key: &'a [u8],
    /// Start and end of the window, where there is one.
    pub window: Option<(i64, i64)>,
    /// Event time of the change.
    pub time: i64,
    /// Sequence number of the row that caused it.
    pub seq: u32,
}

/// Collects changes; they may come in any order of `seq`.
pub(super) struct Changes {
    keys: KeyDecoder,
    windows: Vec<(i64, i64)>,
    kinds: Vec<RowKind>,
    times: Vec<i64>,
    seqs: Vec<u32>,
    results: ResultBuilder,
}

impl Changes {
    pub fn new(keys: &KeyEncoder, plan: &AggregatePlan) -> Result<Self, OperatorError> {
        Ok(Changes {
            keys: keys.decoder()?,
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
        self.keys.push(place.key).map_err(|error| OperatorError::Stored(error.to_string()))?;
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

    /// Adds the change that a group holds back, if it holds one; `split` gives key and window of its store key.
    pub fn push_pending(
        &mut self,
        group: &mut Group,
        split: impl for<'k> Fn(&'k [u8]) -> (&'k [u8], Option<(i64, i64)>),
    ) -> Result<(), OperatorError> {
        let (Some(pending), Some(entry)) = (group.pending.take(), &group.entry) else { return Ok(()) };
        let (key, window) = split(&group.store_key);
        let place = Place { key, window, time: entry.time, seq: pending.seq };
        self.push_update(place, pending.existed, pending.before.as_ref(), entry)
    }

    /// The batch of all changes, by `seq`.
    pub fn finish(mut self, schema: &Schema, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        if self.times.is_empty() {
            return Ok(Batch::empty(&schema.columns));
        }
        let count = self.times.len();
        let mut arrays: Vec<ArrayRef> = self.keys.finish()?;
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
        let keep = context.without_errors(&batch, &errors);
        let batch = crate::filter::kept(batch, keep)?;
        if batch.seq.is_sorted() {
            return Ok(batch);
        }
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.sort_by_key(|row| batch.seq.get(*row).copied());
        Ok(batch.take(&order)?)
    }
}
