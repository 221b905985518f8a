//! A stream looks up the rows of a table, as they are when its row comes. Only rows of the stream give results.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;

use super::{Join, JoinKind, Marks, Side, keys, values};
use crate::batch::{Batch, RowKind};
use crate::key::KeyEncoder;
use crate::key_index::KeyIndex;
use crate::operator::{Context, DropReason, Operator, OperatorError};
use crate::table_rows::{RowAt, TableRows, gather};

pub(super) struct StreamTable {
    join: Join,
    keys: KeyEncoder,
    table: TableRows,
}

impl StreamTable {
    pub fn new(join: Join) -> Result<Self, OperatorError> {
        Ok(StreamTable { keys: KeyEncoder::of(&join.from)?, table: TableRows::new(&join.with)?, join })
    }

    fn process_rows(
        &self,
        stream: &Batch,
        changes: &Batch,
        context: &mut Context<'_>,
    ) -> Result<Batch, OperatorError> {
        let left = self.join.kind == JoinKind::Left;
        let row_keys = self.keys.encode_all(stream.rows.columns(), stream.len())?;
        let mut index = KeyIndex::default();
        // The rows that may give a result, each with the number of its key.
        let mut asked: Vec<(usize, Option<usize>)> = Vec::with_capacity(stream.len());
        for row in 0..stream.len() {
            if stream.is_null_value(row) {
                context.count(DropReason::NullValue, 1);
            } else if !row_keys.is_null(row) {
                asked.push((row, Some(index.number_of(row_keys.get(row)))));
            } else if left {
                asked.push((row, None));
            } else {
                context.count(DropReason::NullKey, 1);
            }
        }
        let stored = self.table.load(context.state, context.store(0), &index, true)?;
        let change_keys = self.table.keys(changes)?;
        let mut current = stored.found.clone();
        let mut later = (0..changes.len()).peekable();
        let mut rows = Vec::with_capacity(asked.len());
        let mut found = Vec::with_capacity(asked.len());
        for (row, number) in asked {
            // At the same time the table's row comes first.
            let seq = stream.seq.get(row);
            while let Some(change) = later.next_if(|change| changes.seq.get(*change) <= seq) {
                let kind = changes.kind(change);
                if kind != RowKind::UpdateBefore
                    && let Some(number) = index.find(change_keys.get(change))
                    && let Some(current) = current.get_mut(number)
                {
                    *current = (kind != RowKind::Delete).then_some(RowAt::Given(change));
                }
            }
            let table_row = number.and_then(|number| current.get(number).copied().flatten());
            if left || table_row.is_some() {
                rows.push(row as u32);
                found.push(table_row);
            }
        }

        let marks = Marks {
            time: rows.iter().filter_map(|row| stream.time.get(*row as usize).copied()).collect(),
            seq: rows.iter().filter_map(|row| stream.seq.get(*row as usize).copied()).collect(),
            kind: None,
        };
        let rows = UInt32Array::from(rows);
        let taken = |column: &ArrayRef| take(column, &rows, None);
        let key = keys(stream, &self.join.from).iter().map(taken).collect::<Result<_, _>>()?;
        let of_from = values(stream, &self.join.from).iter().map(taken);
        let from = Side { values: of_from.collect::<Result<_, _>>()?, present: None };
        let of_with = gather(values(changes, &self.join.with), stored.rows.columns(), &found)?;
        let with = Side::new(of_with, found.iter().map(Option::is_some));
        let (results, errors) = self.join.results(key, [from, with], marks)?;
        let keep = context.without_errors(&results, &errors);
        crate::filter::kept(results, keep)
    }
}

impl Operator for StreamTable {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let [stream, changes] = inputs else { return Ok(Vec::new()) };
        let results = match stream.is_empty() {
            true => Batch::empty(&self.join.schema.columns),
            false => self.process_rows(stream, changes, context)?,
        };
        if context.owns(0) && !changes.is_empty() {
            let store = context.store(0);
            self.table.write_changes(context.state, store, changes)?;
        }
        Ok(vec![results])
    }
}
