//! A stream looks up the rows of a table, as they are when its row comes. Only rows of the stream give results.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;

use super::{Join, JoinKind, Marks, Side, keys, values};
use crate::batch::Batch;
use crate::key::KeyEncoder;
use crate::key_index::KeyIndex;
use crate::operator::{Context, DropReason, Operator, OperatorError};
use crate::table_rows::{Following, TableRows, gather};

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
        let mut following = Following::new(&index, &stored, changes, self.table.keys(changes)?);
        let mut rows = Vec::with_capacity(asked.len());
        let mut found = Vec::with_capacity(asked.len());
        for (row, number) in asked {
            following.go_to(stream.seq.get(row).copied().unwrap_or_default());
            let table_row = number.and_then(|number| following.row(number));
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
