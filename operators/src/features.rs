//! `features`: aggregates over trailing windows of a key, one output row per input row.
//!
//! A row at time t sees the rows of its key in (t − last, t] that came before it, and itself. Every row's contribution is kept
//! as an entry of the store, `time bucket | key | time | n`, until stream time has left it behind: a key is read with a few
//! short scans, and buckets that are over expire as one range. Rows of keys in use are also held in memory, as they are in the
//! store; which of them count is decided by their time alone, so that nobody can tell what was pruned when.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use millstream_state::{StoreId, TaskState};

use crate::aggregates::{AggregatePlan, Arguments, GroupState, ResultBuilder};
use crate::batch::Batch;
use crate::config::{Field, FieldKind, Fields, Text, format_duration};
use crate::datum::{Datum, read_values};
use crate::diagnostic::{Code, Diagnostic};
use crate::key::KeyEncoder;
use crate::operator::{
    Advance, Arity, Context, Definition, DropReason, Operator, OperatorError, OperatorSpec, Resolved, Step,
    StoreDeclaration, StoreKind, Wanted,
};
use crate::schema::{Kind, Schema, column};
use crate::sql::{Expression, first_of_rows};

/// The keys of a feature.
const FEATURE: &[Field] = &[
    Field::required("value", FieldKind::Sql, "SQL with aggregates: `count(*)`."),
    Field::required("last", FieldKind::Duration, "How far back the window reaches."),
    Field::optional("where", FieldKind::Sql, "Which rows count; default: all."),
];

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "features",
    summary: "Adds aggregates over trailing windows of the row's key: one output row per input row.",
    arity: Arity::One,
    keyed: true,
    fields: &[
        Field {
            name: "columns",
            kind: FieldKind::Named(&FieldKind::Keys(FEATURE)),
            required: true,
            doc: "The columns to add: `NAME = { value = \"sum(amount)\", last = \"1h\", where = \"…\" }`. `value` is SQL with \
                  aggregates, `last` how far back the window reaches, `where` which rows count.",
        },
        Field {
            name: "grace",
            kind: FieldKind::Duration,
            required: false,
            doc: "How much older than stream time a row may be and still find all the rows of its windows; default: not at \
                  all. Older rows still give an output row and are counted as late.",
        },
        Field {
            name: "include-current",
            kind: FieldKind::Boolean,
            required: false,
            doc: "Whether a row sees itself; default: true.",
        },
    ],
    example: r#"[steps.recent]
op   = "features"
from = "payments"
columns.payments_10m = { value = "count(*)", last = "10m" }
columns.spend_1h     = { value = "sum(amount)", last = "1h" }
columns.abroad_24h   = { value = "count(*)", last = "24h", where = "country <> 'DE'" }"#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    step.require_kind(Kind::Stream, "features are of events: make a stream of the table with `to-stream`")?;
    step.require_key()?;
    let fields = &step.fields;
    let input = &step.input().schema;
    let grace = fields.duration("grace").map_or(0, |placed| placed.value);
    let include_current = fields.boolean("include-current").is_none_or(|placed| placed.value);
    if !fields.has("columns") {
        fields.missing("columns", "add columns: columns.rows_1h = { value = \"count(*)\", last = \"1h\" }");
        return None;
    }
    let columns = fields.table("columns", "`columns`")?;
    let entries = columns.entries();
    if entries.is_empty() {
        step.diagnostics().push(
            Diagnostic::error(Code::NoColumns, fields.key_span("columns"), "`columns` is empty")
                .help("add a feature: columns.rows_1h = { value = \"count(*)\", last = \"1h\" }"),
        );
        return None;
    }
    let mut features = Vec::new();
    for (name, value) in &entries {
        if !columns.check_column_name(name) {
            continue;
        }
        if input.index_of(name).is_some() {
            step.error(
                Code::ColumnClash,
                name.span.clone(),
                format!("`{}` has a column `{}` already", step.input().from.value, name.value),
                "choose another name for the feature",
            );
            continue;
        }
        match columns.as_table(name.span.clone(), value, format!("feature `{}`", name.value)) {
            Some(fields) => features.extend(said(step, name, &fields)),
            None => columns.wrong_type(name, value, "a table: { value = \"count(*)\", last = \"1h\" }"),
        }
    }
    let named: Vec<(&str, &str, Option<Expression>)> = features
        .iter()
        .map(|said| (said.name.as_str(), said.value.value.as_str(), said.condition.clone()))
        .collect();
    let plan = match AggregatePlan::compile_where(&named, &step.scope()) {
        Ok(plan) => plan,
        Err(errors) => {
            for (index, error) in errors {
                if let Some(said) = features.get(index) {
                    crate::operator::report_sql(step.diagnostics(), &said.value, vec![error]);
                }
            }
            return None;
        }
    };
    if features.len() != entries.len() {
        return None;
    }
    let mut windows: Vec<Trailing> = Vec::new();
    let mut lasts: Vec<i64> = features.iter().map(|said| said.last).collect();
    lasts.sort_unstable();
    lasts.dedup();
    for last in lasts {
        let columns: Vec<usize> = features
            .iter()
            .enumerate()
            .filter(|(_, said)| said.last == last)
            .map(|(column, _)| column)
            .collect();
        windows.push(Trailing { last, plan: plan.part(&columns), columns });
    }
    let added = plan.output().into_iter().map(|(name, data_type)| column(name, data_type));
    let value = input.value_fields().iter().cloned().chain(added).collect();
    let schema =
        Schema { windowed: input.windowed, ..Schema::new(Kind::Stream, input.key_fields().to_vec(), value) };
    let longest = windows.last().map_or(0, |window| window.last);
    let definition = Features {
        input: input.clone(),
        schema: schema.clone(),
        plan,
        windows,
        longest,
        grace,
        include_current,
    };
    Some(Resolved::simple(schema, definition))
}

/// A feature as the file says it.
struct Said {
    name: String,
    value: Text,
    condition: Option<Expression>,
    last: i64,
}

fn said(step: &Step<'_>, name: &Text, fields: &Fields<'_>) -> Option<Said> {
    fields.deny_unknown(FEATURE.iter().map(|field| field.name));
    let value = fields.require_text("value", "say what to compute: value = \"count(*)\"");
    let condition = match fields.text("where") {
        Some(text) => Some(step.condition(&text)?),
        None if fields.has("where") => return None,
        None => None,
    };
    if !fields.has("last") {
        fields.missing("last", "say how far back the window reaches: last = \"1h\"");
    }
    let last = fields.duration("last");
    let (value, last) = (value?, last?);
    if last.value == 0 {
        step.error(
            Code::InvalidWindow,
            last.span,
            "a window of no length",
            "say how far back it reaches: \"1h\"",
        );
        return None;
    }
    Some(Said { name: name.value.clone(), value, condition, last: last.value })
}

/// The features that reach equally far back.
#[derive(Clone, Debug)]
struct Trailing {
    /// How far, in milliseconds.
    last: i64,
    /// Their part of the whole plan.
    plan: AggregatePlan,
    /// Their positions among all features.
    columns: Vec<usize>,
}

/// A checked `features`; times in milliseconds.
#[derive(Clone, Debug)]
struct Features {
    input: Schema,
    schema: Schema,
    /// All features: what has to be kept of a row.
    plan: AggregatePlan,
    /// By length, shortest first.
    windows: Vec<Trailing>,
    longest: i64,
    grace: i64,
    include_current: bool,
}

impl Features {
    /// Length of a bucket of the store: a window spans about five.
    fn bucket(&self) -> i64 {
        (self.longest / 4).max(1)
    }

    /// How many cells a row has in memory.
    fn width(&self) -> usize {
        self.plan.value_count() + 1
    }
}

impl Definition for Features {
    fn stores(&self) -> Vec<StoreDeclaration> {
        let mut parts =
            vec!["features 2".to_owned(), self.longest.to_string(), self.plan.values_fingerprint()];
        parts.extend(self.input.key_types());
        vec![StoreDeclaration::new(
            "",
            StoreKind::Window { retention: self.longest.saturating_add(self.grace) },
            &parts,
        )]
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let lengths: Vec<String> = self.windows.iter().map(|window| format_duration(window.last)).collect();
        let mut facts = vec![("windows", lengths.join(", "))];
        if self.grace > 0 {
            facts.push(("grace", format_duration(self.grace)));
        }
        facts
    }

    fn build(&self, _: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(RunningFeatures {
            keys: KeyEncoder::of(&self.input)?,
            definition: Arc::new(self.clone()),
            stream_time: None,
            recent: Generation::default(),
            older: Generation::default(),
            earliest: i64::MAX,
            recent_is_complete: true,
        }))
    }
}

/// The rows of a key that later ones may see, in order of time, equal times in order of arrival.
///
/// One buffer, for a key is met in a random place of memory: of each row its time and then what the features' aggregates take
/// of it. `width` is how many cells that are.
#[derive(Debug, Default)]
struct KeyRows {
    cells: Vec<Datum>,
    /// The cells before are of rows that have been dropped.
    first: usize,
}

impl KeyRows {
    fn cells(&self) -> &[Datum] {
        self.cells.get(self.first..).unwrap_or_default()
    }

    fn len(&self, width: usize) -> usize {
        self.cells().len() / width
    }

    fn time(&self, row: usize, width: usize) -> Option<i64> {
        match self.cells().get(row * width) {
            Some(Datum::Timestamp(time)) => Some(*time),
            _ => None,
        }
    }

    fn last_time(&self, width: usize) -> Option<i64> {
        self.len(width).checked_sub(1).and_then(|last| self.time(last, width))
    }

    /// The cells of some rows.
    fn range(&self, rows: Range<usize>, width: usize) -> &[Datum] {
        self.cells().get(rows.start * width..rows.end * width).unwrap_or_default()
    }

    /// How many rows are not later than `time`.
    fn until(&self, time: i64, width: usize) -> usize {
        // Mostly all are.
        if self.last_time(width).is_none_or(|last| last <= time) {
            return self.len(width);
        }
        let (mut earlier, mut later) = (0, self.len(width));
        while earlier < later {
            let middle = earlier.midpoint(later);
            match self.time(middle, width) {
                Some(other) if other <= time => earlier = middle + 1,
                _ => later = middle,
            }
        }
        earlier
    }

    fn insert(&mut self, row: usize, time: i64, values: impl ExactSizeIterator<Item = Datum>) {
        let start = self.first + row * (values.len() + 1);
        let cells = std::iter::once(Datum::Timestamp(time)).chain(values);
        if start >= self.cells.len() {
            self.cells.extend(cells);
        } else {
            self.cells.splice(start..start, cells);
        }
    }

    /// Drops the rows that are not later than `time` and says how many they were.
    fn drop_until(&mut self, time: i64, width: usize) -> usize {
        // Mostly there is none.
        if self.time(0, width).is_none_or(|first| first > time) {
            return 0;
        }
        let dropped = self.until(time, width);
        self.first += dropped * width;
        // Moving the rest forward is paid by what was dropped.
        if self.first >= self.cells.len() / 2 {
            self.cells.drain(..std::mem::take(&mut self.first));
        }
        dropped
    }
}

struct RunningFeatures {
    definition: Arc<Features>,
    keys: KeyEncoder,
    stream_time: Option<i64>,
    /// Rows of keys that were in use, as they are in the store.
    recent: Generation,
    /// What was recent before; a key that is in use again becomes recent.
    older: Generation,
    /// No bucket of the store is earlier.
    earliest: i64,
    /// Whether a key that is in neither has no rows in the store either.
    recent_is_complete: bool,
}

/// The rows of keys that came into use in the same time.
#[derive(Default)]
struct Generation {
    keys: HashMap<Box<[u8]>, KeyRows, foldhash::fast::FixedState>,
    rows: usize,
}

impl Generation {
    /// Forgets keys whose rows are not later than `time`.
    fn drop_until(&mut self, time: i64, width: usize) {
        self.rows = 0;
        self.keys.retain(|_, rows| {
            let is_used = rows.last_time(width).is_some_and(|last| last > time);
            self.rows += if is_used { rows.len(width) } else { 0 };
            is_used
        });
    }
}

/// How many rows are held in memory, about. With more of them, those of the keys that are in use longest ago are read from the
/// store again when they are needed.
const ROWS: usize = 1 << 20;

impl RunningFeatures {
    /// Rows at or before this time are kept no longer.
    fn over(&self) -> i64 {
        let Features { longest, grace, .. } = *self.definition;
        self.stream_time.map_or(i64::MIN, |time| time.saturating_sub(grace).saturating_sub(longest))
    }

    fn process_rows(&mut self, input: &Batch, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let definition = self.definition.clone();
        let width = definition.width();
        let store = context.store(0);
        let keys = self.keys.encode_all(input.rows.columns(), input.len())?;
        let arguments = definition.plan.prepare(&input.rows);
        let usable = context.without_errors(input, arguments.errors());
        let mut results: Vec<ResultBuilder> =
            definition.windows.iter().map(|window| window.plan.results()).collect();
        let mut kept = Vec::with_capacity(input.len());
        let mut states: Vec<GroupState> =
            definition.windows.iter().map(|window| window.plan.new_state()).collect();
        let (mut store_key, mut value) = (Vec::new(), Vec::new());
        for (row, (&time, &seq)) in input.time.iter().zip(&input.seq).enumerate() {
            if keys.is_null(row) {
                context.count(DropReason::NullKey, 1);
                continue;
            }
            if input.is_null_value(row) {
                context.count(DropReason::NullValue, 1);
                continue;
            }
            if usable.as_ref().is_some_and(|usable| !usable.value(row)) {
                continue;
            }
            self.pass_time(time, store, context.state);
            if self.stream_time.is_some_and(|stream_time| time < stream_time.saturating_sub(definition.grace))
            {
                context.count(DropReason::Late, 1);
            }
            let over = self.over();
            let key = keys.get(row);
            let rows = match self.recent.keys.entry_ref(key) {
                EntryRef::Occupied(known) => known.into_mut(),
                EntryRef::Vacant(unknown) => {
                    let rows = if let Some(rows) = self.older.keys.remove(key) {
                        self.older.rows -= rows.len(width);
                        rows
                    } else if self.recent_is_complete {
                        KeyRows::default()
                    } else {
                        let buckets = over.saturating_add(1).max(0)..=self.stream_time.unwrap_or_default();
                        stored_rows(key, buckets, &definition, context.state, store)?
                    };
                    self.recent.rows += rows.len(width);
                    unknown.insert_with_key(key.into(), rows)
                }
            };
            self.recent.rows -= rows.drop_until(over, width);
            let position = rows.until(time, width);
            let current = Current { time, arguments: &arguments, row };
            if let Err((code, message)) = fold(&definition, rows, position, &current, over, &mut states) {
                context.fail(seq, code, message);
                continue;
            }
            for (result, state) in results.iter_mut().zip(&states) {
                result.push(state);
            }
            kept.push(row);
            if time > over {
                let is_equal = |row: &usize| rows.time(*row, width) == Some(time);
                let equal = (0..position).rev().take_while(is_equal).count();
                self.earliest = self.earliest.min(time.div_euclid(definition.bucket()));
                row_key(&mut store_key, definition.bucket(), key, time, equal as u32);
                value.clear();
                arguments.write_row(row, &mut value);
                context.state.put(store, &store_key, &value);
                rows.insert(position, time, arguments.row(row));
                self.recent.rows += 1;
            }
        }
        if self.recent.rows > ROWS / 2 && self.recent.rows + self.older.rows > ROWS {
            self.recent_is_complete &= self.older.keys.is_empty();
            self.older = std::mem::take(&mut self.recent);
        }

        let mut features = vec![None; definition.schema.columns.fields().len() - input.rows.num_columns()];
        let mut errors = Vec::new();
        for (window, result) in definition.windows.iter().zip(results) {
            let (columns, failed) = result.finish();
            for (position, array) in window.columns.iter().zip(columns) {
                if let Some(feature) = features.get_mut(*position) {
                    *feature = Some(array);
                }
            }
            errors.extend(failed);
        }
        let rows = if kept.len() == input.len() { input.clone() } else { input.take(&kept)? };
        let arrays = rows.rows.columns().iter().cloned().chain(features.into_iter().flatten()).collect();
        let output = rows.with_columns(&definition.schema.columns, arrays)?;
        let keep = context.without_errors(&output, &first_of_rows(errors));
        crate::filter::kept(output, keep)
    }

    /// Stream time reaches `time`: buckets that are over expire.
    fn pass_time(&mut self, time: i64, store: StoreId, state: &mut TaskState) {
        if self.stream_time.is_some_and(|stream_time| time <= stream_time) {
            return;
        }
        let bucket = self.definition.bucket();
        self.stream_time = Some(time);
        let over = self.over();
        let first = over.saturating_add(1).max(0) / bucket;
        if first > self.earliest {
            self.earliest = first;
            state.expire(store, &[], &first.to_be_bytes());
            let width = self.definition.width();
            self.recent.drop_until(over, width);
            self.older.drop_until(over, width);
        }
    }
}

/// The row that is being processed.
struct Current<'a> {
    time: i64,
    arguments: &'a Arguments,
    row: usize,
}

/// Makes `states` those of the windows for a row that would stand at `position`.
fn fold(
    definition: &Features,
    rows: &KeyRows,
    position: usize,
    current: &Current<'_>,
    over: i64,
    states: &mut [GroupState],
) -> Result<(), (Code, String)> {
    let width = definition.width();
    for (window, state) in definition.windows.iter().zip(states) {
        window.plan.reset(state);
        let after = over.max(current.time.saturating_sub(window.last));
        let first = rows.until(after, width).min(position);
        window.plan.update_rows(state, rows.range(first..position, width), width)?;
        if definition.include_current {
            window.plan.update(state, current.arguments, current.row)?;
        }
    }
    Ok(())
}

/// Reads the rows of a key whose times lie within the buckets of `times`.
fn stored_rows(
    key: &[u8],
    times: RangeInclusive<i64>,
    definition: &Features,
    state: &mut TaskState,
    store: StoreId,
) -> Result<KeyRows, OperatorError> {
    let (bucket, width) = (definition.bucket(), definition.width());
    let mut rows = KeyRows::default();
    let mut from = Vec::new();
    for number in times.start() / bucket..=times.end() / bucket {
        from.clear();
        from.extend_from_slice(&number.to_be_bytes());
        from.extend_from_slice(key);
        let mut to = from.clone();
        to.extend_from_slice(&[0xff; 8 + 4]);
        let mut stored = state.scan(store, &from, &to)?;
        while let Some((store_key, bytes)) = stored.next_entry()? {
            let within = store_key.get(from.len()..).and_then(|rest| offset(rest, bucket));
            let within =
                within.ok_or_else(|| OperatorError::Stored("a row's key is too short".to_owned()))?;
            let values = read_values(bytes)?;
            if values.len() + 1 != width {
                return Err(OperatorError::Stored("a row has another number of values".to_owned()));
            }
            rows.insert(rows.len(width), number * bucket + within, values.into_iter());
        }
    }
    Ok(rows)
}

/// `bucket | key | time within the bucket | n`, n only if it is not 0; big-endian bytes are in the order of the numbers, which
/// are not negative.
fn row_key(bytes: &mut Vec<u8>, bucket: i64, key: &[u8], time: i64, n: u32) {
    bytes.clear();
    bytes.extend_from_slice(&time.div_euclid(bucket).to_be_bytes());
    bytes.extend_from_slice(key);
    let within = time.rem_euclid(bucket);
    match is_short(bucket) {
        true => bytes.extend_from_slice(&(within as u32).to_be_bytes()),
        false => bytes.extend_from_slice(&within.to_be_bytes()),
    }
    if n > 0 {
        bytes.extend_from_slice(&n.to_be_bytes());
    }
}

/// The time within the bucket from the end of a row's key.
fn offset(bytes: &[u8], bucket: i64) -> Option<i64> {
    match is_short(bucket) {
        true => bytes.first_chunk().map(|bytes| i64::from(u32::from_be_bytes(*bytes))),
        false => bytes.first_chunk().map(|bytes| i64::from_be_bytes(*bytes)),
    }
}

/// Whether four bytes are enough for a time within a bucket of this length.
fn is_short(bucket: i64) -> bool {
    bucket <= i64::from(u32::MAX)
}

impl Operator for RunningFeatures {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        match inputs.first() {
            Some(input) if !input.is_empty() => Ok(vec![self.process_rows(input, context)?]),
            _ => Ok(vec![Batch::empty(&self.definition.schema.columns)]),
        }
    }

    fn advance(
        &mut self,
        to: Advance,
        _: u32,
        context: &mut Context<'_>,
    ) -> Result<Vec<Batch>, OperatorError> {
        if let Advance::To(time) = to {
            self.pass_time(time, context.store(0), context.state);
        }
        Ok(Vec::new())
    }

    fn position(&self) -> Option<i64> {
        self.stream_time
    }

    fn reset(&mut self, position: Option<i64>) {
        (self.recent, self.older) = (Generation::default(), Generation::default());
        self.stream_time = position;
        // An operator that has never seen a row has an empty store.
        self.earliest = if position.is_none() { i64::MAX } else { 0 };
        self.recent_is_complete = position.is_none();
    }
}
