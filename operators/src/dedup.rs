//! `dedup`: drops a row that is too near to one that was kept.
//!
//! Kept rows that are the same to `distinct-on` are at least `within` apart in event time, so that a bucket as long as `within`
//! holds one of them at most. The store has `bucket | key and distinct values` → time within the bucket: a row is decided by its own
//! bucket and the two beside it, and buckets that are over expire as one range.
//!
//! Remembered is a kept row that is later than stream time − 2 `within`, whatever was physically pruned. That is what it takes
//! to decide every row that is not late, which is: not older than stream time − `within`.

use arrow::array::{ArrayRef, BooleanArray};
use millstream_state::value::{ValueReader, ValueWriter};
use millstream_state::{StoreId, TaskState};

use crate::batch::Batch;
use crate::columns::{Column, all_null};
use crate::config::{Field, FieldKind, format_duration};
use crate::diagnostic::{Code, Diagnostic};
use crate::hash::hash_bytes;
use crate::key::KeyEncoder;
use crate::keys_in_use::KeysInUse;
use crate::operator::{
    Advance, Arity, Context, Definition, DropReason, Operator, OperatorError, OperatorSpec, Resolved, Step,
    StoreDeclaration, StoreKind, Wanted,
};
use crate::schema::{Kind, Schema, type_name};
use crate::touched::Touched;

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "dedup",
    summary: "Drops rows that are too near to one that was kept: with the same key, and the same values of some columns.",
    arity: Arity::One,
    keyed: true,
    fields: &[
        Field {
            name: "within",
            kind: FieldKind::Duration,
            required: true,
            doc: "A row is dropped if its event time is less than this before or after that of a row that was kept. What is \
                  dropped does not count for the rows after it.",
        },
        Field {
            name: "distinct-on",
            kind: FieldKind::Columns,
            required: false,
            doc: "Only rows with equal values of these columns, and an equal key, are duplicates; default: the key decides \
                  alone. Null equals null.",
        },
        Field {
            name: "keep",
            kind: FieldKind::Choice(&["first"]),
            required: false,
            doc: "Which row is kept: `first` (default), the one that came first.",
        },
    ],
    example: r#"[steps.once]
op          = "dedup"
from        = "payments"
within      = "10m"
distinct-on = ["payment_id"]"#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    let help = "a table has one row per key already: make a stream of its changes with `to-stream`";
    step.require_kind(Kind::Stream, help)?;
    step.require_key()?;
    let fields = &step.fields;
    let input = &step.input().schema;
    fields.choice("keep", &["first"]);
    let distinct = distinct_columns(step);
    if !fields.has("within") {
        fields.missing("within", "say how near to each other rows are duplicates: within = \"10m\"");
    }
    let within = fields.duration("within")?;
    if within.value == 0 {
        let help = "say how near to each other rows are duplicates: \"10m\"";
        step.error(Code::InvalidWindow, within.span, "no two rows are nearer than that", help);
        return None;
    }
    let definition = Dedup { input: input.clone(), distinct: distinct?, within: within.value };
    Some(Resolved::simple(input.clone(), definition))
}

/// The positions of the columns by which rows are told apart: those of the key, then those of `distinct-on`.
fn distinct_columns(step: &Step<'_>) -> Option<Vec<usize>> {
    let input = &step.input().schema;
    let mut named: Vec<usize> = Vec::new();
    if step.fields.has("distinct-on") {
        let names = step.fields.texts("distinct-on")?;
        if names.is_empty() {
            let place = step.fields.get("distinct-on").map_or(0..0, |value| value.span());
            step.diagnostics().push(
                Diagnostic::error(Code::NoColumns, place, "`distinct-on` names no column")
                    .help("remove it: rows are then told apart by their key alone"),
            );
            return None;
        }
        let mut complete = true;
        for name in &names {
            match step.column(name, input) {
                Some(index) if named.contains(&index) => {
                    let message = format!("`{}` is there twice", name.value);
                    step.error(Code::ColumnClash, name.span.clone(), message, "remove one");
                    complete = false;
                }
                Some(index) => named.push(index),
                None => complete = false,
            }
        }
        if !complete {
            return None;
        }
    }
    named.retain(|index| *index >= input.key);
    // Their order means nothing.
    named.sort_unstable();
    Some((0..input.key).chain(named).collect())
}

/// A checked `dedup`.
#[derive(Clone, Debug)]
struct Dedup {
    input: Schema,
    /// The columns by which rows are told apart, by position.
    distinct: Vec<usize>,
    /// In milliseconds; also the length of a bucket.
    within: i64,
}

impl Dedup {
    /// How far back kept rows are remembered.
    fn remembered(&self) -> i64 {
        self.within.saturating_mul(2)
    }
}

impl Definition for Dedup {
    fn stores(&self) -> Vec<StoreDeclaration> {
        let fields = self.input.columns.fields();
        let mut parts = vec!["dedup 1".to_owned(), self.within.to_string()];
        parts.extend(self.distinct.iter().filter_map(|index| {
            let field = fields.get(*index)?;
            let name = if *index < self.input.key { "" } else { field.name().as_str() };
            Some(format!("{name} {}", type_name(field.data_type())))
        }));
        vec![StoreDeclaration::new("", StoreKind::Window { retention: self.remembered() }, &parts)]
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let fields = self.input.columns.fields();
        let names: Vec<&str> =
            self.distinct.iter().filter_map(|index| Some(fields.get(*index)?.name().as_str())).collect();
        vec![("distinct on", names.join(", ")), ("within", format_duration(self.within))]
    }

    fn build(&self, _: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        let fields = self.input.columns.fields();
        let types = self.distinct.iter().filter_map(|index| Some(fields.get(*index)?.data_type()));
        Ok(Box::new(RunningDedup {
            identities: KeyEncoder::new(types)?,
            definition: self.clone(),
            stream_time: None,
            first: 0,
            kept: KeysInUse::default(),
        }))
    }
}

struct RunningDedup {
    definition: Dedup,
    identities: KeyEncoder,
    stream_time: Option<i64>,
    /// No bucket of the store is earlier.
    first: i64,
    /// Which identities have a kept row in which bucket.
    kept: KeysInUse,
}

/// A bucket of the store: the time of the row that was kept in it.
#[derive(Debug, Default)]
struct Bucket {
    kept: Option<i64>,
    /// Whether the store lacks it.
    dirty: bool,
}

/// A row that is to be decided.
struct Candidate {
    row: usize,
    /// Its bucket, by number among the touched ones.
    own: usize,
    /// The buckets beside it in which a row may be remembered.
    beside: [Option<usize>; 2],
    /// Kept rows at or before this time are not remembered.
    over: i64,
}

impl RunningDedup {
    fn process_rows(&mut self, input: &Batch, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let Dedup { distinct, within, .. } = &self.definition;
        let within = *within;
        let store = context.store(0);
        let columns = input.rows.columns();
        let key_columns = Column::all(columns.get(..self.definition.input.key).unwrap_or_default())?;
        let distinct: Vec<ArrayRef> =
            distinct.iter().filter_map(|index| columns.get(*index).cloned()).collect();
        let identities = self.identities.encode_all(&distinct, input.len())?;

        // First the buckets of all rows, which are read in one go; then the rows, one after the other.
        let mut buckets: Touched<Bucket> = Touched::default();
        let mut candidates = Vec::with_capacity(input.len());
        let mut store_key = Vec::new();
        let (mut null_keys, mut late) = (0, 0);
        for (row, &time) in input.time.iter().enumerate() {
            if all_null(&key_columns, row) {
                null_keys += 1;
                continue;
            }
            let stream_time = self.stream_time.map_or(time, |stream_time| stream_time.max(time));
            self.stream_time = Some(stream_time);
            late += u64::from(time < stream_time.saturating_sub(within));
            let over = stream_time.saturating_sub(self.definition.remembered());
            let bucket = time.div_euclid(within);
            let mut number = |bucket: i64| {
                store_key.clear();
                store_key.extend_from_slice(&bucket.to_be_bytes());
                store_key.extend_from_slice(identities.get(row));
                buckets.number_of(&store_key)
            };
            let own = number(bucket);
            // Nothing is remembered in a bucket that is over, and nothing was kept in one that stream time has not reached.
            let before = bucket > 0 && bucket.saturating_mul(within) - 1 > over;
            let after = stream_time.div_euclid(within) > bucket;
            let beside = [before.then(|| number(bucket - 1)), after.then(|| number(bucket + 1))];
            candidates.push(Candidate { row, own, beside, over });
        }
        context.count(DropReason::NullKey, null_keys);
        context.count(DropReason::Late, late);
        self.load(&mut buckets, context.state, store)?;

        let mut keep = vec![false; input.len()];
        let mut duplicates = 0;
        for Candidate { row, own, beside, over } in candidates {
            let Some(&time) = input.time.get(row) else { continue };
            let is_near = |number: usize| {
                let kept = buckets.all.get(number).and_then(|bucket| bucket.kept);
                kept.is_some_and(|kept| kept > over && kept.abs_diff(time) < within.unsigned_abs())
            };
            if is_near(own) || beside.into_iter().flatten().any(is_near) {
                duplicates += 1;
                continue;
            }
            if let Some(keep) = keep.get_mut(row) {
                *keep = true;
            }
            if let Some(bucket) = buckets.all.get_mut(own).filter(|_| time > over) {
                *bucket = Bucket { kept: Some(time), dirty: true };
            }
        }
        context.count(DropReason::Duplicate, duplicates);

        let mut value = Vec::new();
        for (bucket, store_key) in buckets.all.iter().zip(buckets.keys.iter()) {
            if let Bucket { kept: Some(kept), dirty: true } = bucket {
                ValueWriter::new(&mut value, LAYOUT).put_i64(kept.rem_euclid(within));
                context.state.put(store, store_key, &value);
                let (number, hash) = numbered(store_key);
                self.kept.insert(number, hash);
            }
        }
        self.expire(store, context.state);
        Ok(input.filter(&BooleanArray::from(keep))?)
    }

    /// Prunes the buckets in which nothing is remembered.
    fn expire(&mut self, store: StoreId, state: &mut TaskState) {
        let Some(stream_time) = self.stream_time else { return };
        let over = stream_time.saturating_sub(self.definition.remembered());
        let first = over.saturating_add(1).max(0) / self.definition.within;
        if first > self.first {
            self.first = first;
            self.kept.drop_before(first);
            state.expire(store, &[], &first.to_be_bytes());
        }
    }

    /// Reads the buckets that may be in the store, in one go.
    fn load(
        &self,
        buckets: &mut Touched<Bucket>,
        state: &TaskState,
        store: StoreId,
    ) -> Result<(), OperatorError> {
        let within = self.definition.within;
        let all = buckets.all.iter_mut().zip(buckets.keys.iter());
        let (sought, keys): (Vec<&mut Bucket>, Vec<&[u8]>) = all
            .filter(|(_, store_key)| {
                let (number, hash) = numbered(store_key);
                self.kept.may_have(number, hash)
            })
            .unzip();
        for ((bucket, store_key), found) in sought.into_iter().zip(&keys).zip(state.multi_get(store, &keys)?)
        {
            let Some(bytes) = found else { continue };
            let mut reader = ValueReader::new(&bytes, LAYOUT)?;
            let offset = reader.get_i64()?;
            reader.finish()?;
            let (number, _) = numbered(store_key);
            bucket.kept = Some(number.saturating_mul(within).saturating_add(offset));
        }
        Ok(())
    }
}

const LAYOUT: u8 = 1;

/// The number of a bucket, and the hash of the identity whose it is.
fn numbered(store_key: &[u8]) -> (i64, u64) {
    let (number, identity) = store_key.split_first_chunk().unwrap_or((&[0; 8], &[]));
    (i64::from_be_bytes(*number), hash_bytes(identity))
}

impl Operator for RunningDedup {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        match inputs.first() {
            Some(input) if !input.is_empty() => Ok(vec![self.process_rows(input, context)?]),
            _ => Ok(vec![Batch::empty(&self.definition.input.columns)]),
        }
    }

    fn advance(
        &mut self,
        to: Advance,
        _: u32,
        context: &mut Context<'_>,
    ) -> Result<Vec<Batch>, OperatorError> {
        if let Advance::To(time) = to {
            self.stream_time = self.stream_time.max(Some(time));
            self.expire(context.store(0), context.state);
        }
        Ok(Vec::new())
    }

    fn position(&self) -> Option<i64> {
        self.stream_time
    }

    fn reset(&mut self, position: Option<i64>) {
        self.stream_time = position;
        self.first = 0;
        self.kept =
            KeysInUse::empty_from(position.map_or(0, |time| time.div_euclid(self.definition.within) + 1));
    }
}
