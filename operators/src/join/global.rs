//! Rows look up those of a global table, as they are when they come, under a key that `on` computes. Changes of the global table
//! give no results.
//!
//! Results of a stream are a stream. Results of a table are a table, and since the global table changes unnoticed, what a row
//! gave when it came cannot be computed again when it goes: the newest results are kept in a store, and what a change replaces or
//! deletes is read from there.

use arrow::array::{ArrayRef, BooleanArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{not, nullif, take};
use millstream_state::StoreId;

use super::{Join, JoinKind, Marks, columns, key_example, key_over_from, keys, kind, refuse, values};
use crate::batch::{Batch, RowKind, record_batch};
use crate::diagnostic::Code;
use crate::filter::kept;
use crate::key::{KeyEncoder, normalised};
use crate::key_index::KeyIndex;
use crate::operator::{
    Context, Definition, DropReason, Input, Operator, OperatorError, Resolved, Step, StoreDeclaration, Wanted,
};
use crate::schema::{Kind, Schema};
use crate::sql::{Expression, evaluate_all};
use crate::table_rows::{RowAt, TableRows, gather};
use crate::to_table::{RunningToTable, ToTable};

pub(super) fn resolve(step: &Step<'_>, from: &Input, with: &Input) -> Option<Resolved> {
    let fields = &step.fields;
    refuse(
        step,
        &["within", "grace", "max-matches"],
        ("a global table", "rows are joined with the global table as it is when they come"),
    )?;
    if fields.has("foreign-key") {
        let message = "`foreign-key` of a join with a global table";
        let help = "say by `on` which row of it is meant";
        step.error(Code::GlobalKey, fields.key_span("foreign-key"), message, help);
        return None;
    }
    let no_outer = (
        "an outer join with a global table",
        "changes of a global table give no results that could be without a match: use `kind = \"left\"`",
    );
    let kind = kind(step, Some(no_outer))?;
    let (on, columns) = (on(step, with), columns(step, from, with));
    let on = on?;
    let join = Join::new(from, with, kind, columns?);
    // Its changes give no results.
    let schema = Schema { closes_after: from.schema.closes_after, ..join.schema };
    let join = Join { schema: schema.clone(), ..join };
    Some(Resolved::simple(schema, GlobalJoin { join, on }))
}

/// Reads `on`: an expression for each key column of the global table, in their order.
fn on(step: &Step<'_>, with: &Input) -> Option<Vec<Expression>> {
    let example = format!("say which row of it is meant, by its key: {}", key_example("on", with));
    let table = format!("the global table `{}`", with.from.value);
    if !step.fields.has("on") {
        let message = format!("a join with {table} without `on`");
        step.error(Code::GlobalKey, with.from.span.clone(), message, example);
        return None;
    }
    let said = step.fields.text_table("on")?;
    key_over_from(step, with, ("on", Code::GlobalKey), &said, (&table, &example))
}

/// A checked join with a global table.
#[derive(Debug)]
struct GlobalJoin {
    join: Join,
    /// Of the key columns of the global table, in order.
    on: Vec<Expression>,
}

impl GlobalJoin {
    /// The table of the results, if they are one.
    fn results(&self) -> Option<ToTable> {
        (self.join.from.kind == Kind::Table).then(|| ToTable::new(&self.join.schema, None))
    }
}

impl Definition for GlobalJoin {
    fn stores(&self) -> Vec<StoreDeclaration> {
        self.results().map(|results| results.stores()).unwrap_or_default()
    }

    fn keeps_rows(&self) -> bool {
        self.join.from.kind == Kind::Table
    }

    // What a change replaces is read from the store.
    fn needs_before(&self, _: &Wanted) -> bool {
        false
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![("kind", self.join.kind.name().to_owned())]
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Global {
            on: self.on.clone(),
            keys: KeyEncoder::of(&self.join.with)?,
            table: TableRows::new(&self.join.with)?,
            results: self.results().map(|results| results.running(wanted)).transpose()?,
            join: self.join.clone(),
        }))
    }
}

struct Global {
    join: Join,
    on: Vec<Expression>,
    keys: KeyEncoder,
    table: TableRows,
    /// Where the results are a table.
    results: Option<RunningToTable>,
}

impl Global {
    /// The results of those of `rows` that have one, and the numbers of these rows.
    fn look_up(&self, rows: &Batch, context: &mut Context<'_>) -> Result<(Batch, Vec<u32>), OperatorError> {
        let Some(global) = context.global else {
            return Err(OperatorError::Internal("a join without its global table".to_owned()));
        };
        let left = self.join.kind == JoinKind::Left;
        let (on, errors) = evaluate_all(&self.on, &rows.rows);
        let on: Vec<ArrayRef> = on.iter().map(normalised).collect();
        let valid = context.without_errors(rows, &errors);
        let on_keys = self.keys.encode_all(&on, rows.len())?;
        let mut index = KeyIndex::default();
        // The rows that may give a result, each with the number of the key that it looks up.
        let mut asked: Vec<(u32, Option<usize>)> = Vec::with_capacity(rows.len());
        for row in (0..rows.len()).filter(|row| valid.as_ref().is_none_or(|valid| valid.value(*row))) {
            if !on_keys.is_null(row) {
                asked.push((row as u32, Some(index.number_of(on_keys.get(row)))));
            } else if left {
                asked.push((row as u32, None));
            } else if self.results.is_none() {
                context.count(DropReason::NullKey, 1);
            }
        }
        let stored = self.table.load(global, StoreId(0), &index, true)?;
        let found = asked.into_iter().map(|(row, number)| {
            (row, number.and_then(|number| stored.found.get(number).copied().flatten()))
        });
        let (numbers, found): (Vec<u32>, Vec<Option<RowAt>>) =
            found.filter(|(_, found)| left || found.is_some()).unzip();

        let marks = Marks {
            time: numbers.iter().filter_map(|row| rows.time.get(*row as usize).copied()).collect(),
            seq: numbers.iter().filter_map(|row| rows.seq.get(*row as usize).copied()).collect(),
            kind: None,
        };
        let places = UInt32Array::from(numbers.clone());
        let taken = |column: &ArrayRef| take(column, &places, None);
        let key: Vec<ArrayRef> = keys(rows, &self.join.from).iter().map(taken).collect::<Result<_, _>>()?;
        let mut both = key.clone();
        for column in values(rows, &self.join.from) {
            both.push(taken(column)?);
        }
        let absent = not(&found.iter().map(|found| Some(found.is_some())).collect::<BooleanArray>())?;
        for column in &on {
            both.push(nullif(&taken(column)?, &absent)?);
        }
        let of_with = stored.rows.columns();
        both.extend(gather(of_with, of_with, &found)?);
        let (results, errors) = self.join.results_of(key, both, marks)?;
        match context.without_errors(&results, &errors) {
            None => Ok((results, numbers)),
            Some(keep) => {
                let numbers = numbers.iter().zip(keep.values()).filter(|(_, keep)| *keep);
                let numbers = numbers.map(|(number, _)| *number).collect();
                Ok((kept(results, Some(keep))?, numbers))
            }
        }
    }

    fn process_stream(&self, stream: &Batch, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let with_value: Vec<usize> = (0..stream.len()).filter(|row| !stream.is_null_value(*row)).collect();
        if with_value.len() == stream.len() {
            return Ok(self.look_up(stream, context)?.0);
        }
        context.count(DropReason::NullValue, (stream.len() - with_value.len()) as u64);
        let stream = Batch { null_value: None, ..stream.take(&with_value)? };
        Ok(self.look_up(&stream, context)?.0)
    }

    /// The results that the changes of a table leave under its keys: a null value where there is none.
    fn newest_results(&self, changes: &Batch, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let rows: Vec<usize> =
            (0..changes.len()).filter(|row| changes.kind(*row) != RowKind::UpdateBefore).collect();
        let changes = changes.take(&rows)?;
        let rows: Vec<usize> =
            (0..changes.len()).filter(|row| changes.kind(*row) != RowKind::Delete).collect();
        let (results, numbers) = self.look_up(&changes.take(&rows)?, context)?;
        let mut found: Vec<Option<RowAt>> = vec![None; changes.len()];
        for (result, number) in numbers.iter().enumerate() {
            let row = rows.get(*number as usize).and_then(|row| found.get_mut(*row));
            if let Some(row) = row {
                *row = Some(RowAt::Given(result));
            }
        }
        let results = values(&results, &self.join.schema);
        let mut arrays = keys(&changes, &self.join.from);
        arrays.extend(gather(results, results, &found)?);
        Ok(Batch {
            rows: record_batch(&self.join.schema.columns, arrays, changes.len())?,
            null_value: Some(BooleanBuffer::from_iter(found.iter().map(Option::is_none))),
            kind: None,
            ..changes
        })
    }
}

impl Operator for Global {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let Some(from) = inputs.first().filter(|from| !from.is_empty()) else {
            return Ok(vec![Batch::empty(&self.join.schema.columns)]);
        };
        if self.results.is_none() {
            return Ok(vec![self.process_stream(from, context)?]);
        }
        let newest = self.newest_results(from, context)?;
        match &mut self.results {
            Some(results) => results.process(&[newest], context),
            None => Ok(Vec::new()),
        }
    }
}
