//! Two tables of which the rows of the first name the key of the second: neither lies in the partitions of the other.
//!
//! As in Kafka Streams (KIP-213) the rows find each other through two topics. Where the rows of `from` are, each change of one
//! *subscribes* it to the key that it names, and unsubscribes it from the one that it named before. Where the rows of `with` are, a
//! store holds who has subscribed to which key; a subscription is *answered* with the row of that key, and so is each
//! subscriber when the row changes. The answer comes back to the row of `from`, and becomes the result if that row is still the
//! one that has subscribed: subscriptions and answers carry its digest. What was overtaken on its way is dropped, and what
//! overtook it has an answer of its own on its way, so that no result stays that is not of the newest rows.
//!
//! Kafka Streams leaves a subscription of a new row unanswered if an inner join finds nothing: then the result of a row that was
//! deleted and came again in the meantime would stay. Here each subscription is answered.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int32Array, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, FieldRef, Int32Type};
use md5::{Digest as _, Md5};
use millstream_state::value::{ValueReader, ValueWriter};

use super::{
    A_TABLE, Join, JoinKind, Marks, columns, in_order, key_example, key_expression, key_over_from, keys,
    kind, refuse, values,
};
use crate::batch::{Batch, RowKind, record_batch};
use crate::diagnostic::Code;
use crate::key::{KeyEncoder, normalised};
use crate::key_index::KeyIndex;
use crate::operator::{
    Context, Definition, Feed, Input, Operator, OperatorError, Output, Resolved, RowsOf, Stage, Step,
    StoreDeclaration, StoreKind, Wanted,
};
use crate::row::{RowCodec, RowEncoder};
use crate::schema::{Kind, Schema, column};
use crate::sql::{Expression, evaluate_all};
use crate::table_rows::{Following, RowAt, Stored, TableRows, declaration, gather};
use crate::to_table::ToTable;

/// Of the values in the store of subscriptions.
const LAYOUT: u8 = 1;

// What a subscription says.
/// The row no longer names this key.
const UNSUBSCRIBE: i32 = 0;
/// The same, and the row has no result any more.
const REMOVE: i32 = 1;
/// The row names this key; none, if the key is null.
const SUBSCRIBE: i32 = 2;

// What an answer says.
/// The row has no result.
const NO_RESULT: i32 = 0;
/// There is no row of `with` for it.
const NO_ROW: i32 = 1;
/// The row of `with` follows.
const ROW: i32 = 2;

/// A checked join by foreign key.
#[derive(Debug)]
struct ForeignKey {
    join: Join,
    /// The key of `with`, over the rows of `from`.
    keys: Vec<Expression>,
    /// `key | digest, what it says`, under the key of `with`.
    subscriptions: Schema,
    /// `digest, what it says, the row of with`, under the key of `from`.
    answers: Schema,
    /// How many rows of `from` one row of `with` may have.
    max_matches: Option<usize>,
}

pub(super) fn resolve(step: &Step<'_>, from: &Input, with: &Input) -> Option<Resolved> {
    let fields = &step.fields;
    for input in [from, with] {
        if input.schema.kind != Kind::Table {
            let message = format!("`{}` is a stream, and `foreign-key` joins two tables", input.from.value);
            let help = "make a table of it with `to-table`, or give the stream the other key with `rekey`";
            step.error(Code::WrongInputKind, input.from.span.clone(), message, help);
            return None;
        }
        step.require_key_of(input)?;
        if input.schema.windowed || input.schema.ranked {
            let message = format!("`{}` lies in the partitions of a part of its key", input.from.value);
            let help = "bring it under its whole key first: `to-stream`, `rekey`, `to-table`";
            step.error(Code::JoinKeys, input.from.span.clone(), message, help);
            return None;
        }
    }
    refuse(step, &["within", "grace"], A_TABLE)?;
    let no_outer = (
        "an outer join by foreign key",
        "a row of `with` that nobody names has no key of `from`: use `kind = \"left\"`",
    );
    let kind = kind(step, Some(no_outer))?;
    let keys = key_expressions(step, with)?;
    let max_matches = fields.integer("max-matches", 1..=super::MOST_MATCHES).map(|most| most.value as usize);
    let join = Join::new(from, with, kind, columns(step, from, with)?);
    let numbered = |prefix: &'static str, fields: &[FieldRef]| -> Vec<FieldRef> {
        let named = fields.iter().enumerate();
        named.map(|(number, field)| column(format!("{prefix}_{number}"), field.data_type().clone())).collect()
    };
    let mut subscription = numbered("from", from.schema.key_fields());
    subscription.push(column("digest", DataType::Binary));
    subscription.push(column("says", DataType::Int32));
    let mut answer = vec![column("digest", DataType::Binary), column("says", DataType::Int32)];
    answer.extend(numbered("with", with.schema.columns.fields()));
    let definition = Arc::new(ForeignKey {
        keys,
        subscriptions: Schema::new(Kind::Stream, with.schema.key_fields().to_vec(), subscription),
        answers: Schema::new(Kind::Stream, from.schema.key_fields().to_vec(), answer),
        max_matches,
        join,
    });
    let stages = vec![
        Stage {
            name: "subscribe",
            topic: "-subscription",
            reads: vec![Feed::Input(0)],
            schema: definition.subscriptions.clone(),
            partitions: None,
            definition: Arc::new(Subscribe(definition.clone())),
        },
        Stage {
            name: "answer",
            topic: "-response",
            reads: vec![Feed::Stage(0), Feed::Input(1)],
            schema: definition.answers.clone(),
            partitions: None,
            definition: Arc::new(Answer(definition.clone())),
        },
    ];
    Some(Resolved {
        outputs: vec![Output::main(definition.join.schema.clone())],
        stages,
        reads: vec![Feed::Stage(1), Feed::Input(0)],
        rekeys: None,
        definition: Arc::new(Respond(definition)),
    })
}

/// Reads `foreign-key`: an expression for each key column of `with`, in their order.
fn key_expressions(step: &Step<'_>, with: &Input) -> Option<Vec<Expression>> {
    const NAME: &str = "foreign-key";
    let example = format!("say what each of its key columns is: {}", key_example(NAME, with));
    let table = format!("`{}`", with.from.value);
    let value = step.fields.get(NAME)?;
    let said = if value.get_ref().is_table() {
        step.fields.text_table(NAME)?
    } else if value.get_ref().as_str().is_none() {
        step.fields.wrong_type(NAME, value, "an expression, or a table of key columns and expressions");
        return None;
    } else if let [column] = with.schema.key_fields() {
        let text = step.fields.text(NAME)?;
        return Some(vec![key_expression(step, column, &text, Code::JoinKeys)?]);
    } else {
        let message = format!("{table} has a key of several columns");
        step.error(Code::JoinKeys, step.fields.key_span(NAME), message, example);
        return None;
    };
    key_over_from(step, with, (NAME, Code::JoinKeys), &said, (&table, &example))
}

impl ForeignKey {
    fn facts(&self) -> Vec<(&'static str, String)> {
        let keys: Vec<&str> = self.keys.iter().map(Expression::text).collect();
        vec![("kind", self.join.kind.name().to_owned()), ("foreign key", keys.join(", "))]
    }

    /// Whether no change can fail, so that one that nobody sees could not have either.
    fn cannot_fail(&self) -> bool {
        self.keys.iter().all(Expression::cannot_fail) && self.join.cannot_fail() && self.max_matches.is_none()
    }

    fn is_left(&self) -> bool {
        self.join.kind == JoinKind::Left
    }
}

/// What tells one row of `from` from another.
fn digest(encoder: &RowEncoder<'_>, row: usize, buffer: &mut Vec<u8>) -> [u8; 16] {
    buffer.clear();
    encoder.encode(row, buffer);
    Md5::digest(&*buffer).into()
}

fn digest_of(bytes: &[u8]) -> Result<[u8; 16], OperatorError> {
    bytes.try_into().map_err(|_| OperatorError::Stored("a digest has another length".to_owned()))
}

/// The part that turns changes of `from` into subscriptions.
#[derive(Debug)]
struct Subscribe(Arc<ForeignKey>);

impl Definition for Subscribe {
    fn facts(&self) -> Vec<(&'static str, String)> {
        self.0.facts()
    }

    fn may_wait(&self) -> bool {
        self.0.cannot_fail()
    }

    fn needs_before(&self, _: &Wanted) -> bool {
        true
    }

    fn build(&self, _: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        let from = &self.0.join.from;
        Ok(Box::new(Subscriber {
            keys: KeyEncoder::of(&self.0.join.with)?,
            codec: RowCodec::new(&from.value_columns())?,
            of: self.0.clone(),
        }))
    }
}

struct Subscriber {
    of: Arc<ForeignKey>,
    keys: KeyEncoder,
    codec: RowCodec,
}

/// A subscription on its way into a batch.
struct Subscription {
    /// The row that names the key; `None`: no key.
    key: Option<usize>,
    /// The row that subscribes, or the one that was deleted.
    row: usize,
    digest: Option<[u8; 16]>,
    says: i32,
}

impl Subscriber {
    fn process_rows(&self, input: &Batch, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let from = &self.of.join.from;
        let (named, errors) = evaluate_all(&self.of.keys, &input.rows);
        let named: Vec<ArrayRef> = named.iter().map(normalised).collect();
        let without_error = context.without_errors(input, &errors);
        let has_failed = |row: usize| without_error.as_ref().is_some_and(|fine| !fine.value(row));
        let named_keys = self.keys.encode_all(&named, input.len())?;
        let names = |row: usize| !has_failed(row) && !named_keys.is_null(row);
        let encoder = self.codec.encoder(values(input, from))?;
        let mut buffer = Vec::new();
        let mut subscriptions = Vec::with_capacity(input.len());
        let mut replaced = None;
        for row in 0..input.len() {
            let (before, after) = match input.kind(row) {
                RowKind::UpdateBefore => {
                    replaced = Some(row);
                    continue;
                }
                RowKind::UpdateAfter => (replaced.take(), Some(row)),
                RowKind::Insert => (None, Some(row)),
                RowKind::Delete => (Some(row), None),
            };
            let digest = after.map(|row| digest(&encoder, row, &mut buffer));
            let mut push = |key, says| subscriptions.push(Subscription { key, row, digest, says });
            let named_before = before.filter(|before| names(*before));
            // A left join has results of rows that name nothing.
            let had_result = named_before.is_some()
                || self.of.is_left() && before.is_some_and(|before| !has_failed(before));
            match after {
                Some(after) if names(after) => {
                    if let Some(before) = named_before
                        && named_keys.get(before) != named_keys.get(after)
                    {
                        push(Some(before), UNSUBSCRIBE);
                    }
                    push(Some(after), SUBSCRIBE);
                }
                Some(after) if self.of.is_left() && !has_failed(after) => {
                    if named_before.is_some() {
                        push(named_before, UNSUBSCRIBE);
                    }
                    push(None, SUBSCRIBE);
                }
                _ if had_result => push(named_before, REMOVE),
                _ => {}
            }
        }
        self.batch(input, &named, &subscriptions)
    }

    fn batch(
        &self,
        input: &Batch,
        named: &[ArrayRef],
        subscriptions: &[Subscription],
    ) -> Result<Batch, OperatorError> {
        let keys_at: UInt32Array = subscriptions.iter().map(|of| of.key.map(|row| row as u32)).collect();
        let rows_at: UInt32Array = subscriptions.iter().map(|of| Some(of.row as u32)).collect();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.of.subscriptions.columns.fields().len());
        for column in named {
            arrays.push(take(column, &keys_at, None)?);
        }
        for column in keys(input, &self.of.join.from) {
            arrays.push(take(&column, &rows_at, None)?);
        }
        let digests = subscriptions.iter().map(|of| of.digest.as_ref().map(<[u8; 16]>::as_slice));
        arrays.push(Arc::new(digests.collect::<BinaryArray>()));
        arrays.push(Arc::new(subscriptions.iter().map(|of| Some(of.says)).collect::<Int32Array>()));
        let at = |of: &Subscription| input.time.get(of.row).copied().unwrap_or_default();
        let seq = |of: &Subscription| input.seq.get(of.row).copied().unwrap_or_default();
        Ok(Batch {
            rows: record_batch(&self.of.subscriptions.columns, arrays, subscriptions.len())?,
            time: subscriptions.iter().map(at).collect(),
            seq: subscriptions.iter().map(seq).collect(),
            kind: None,
            null_value: None,
        })
    }
}

impl Operator for Subscriber {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        match inputs.first() {
            Some(input) if !input.is_empty() => Ok(vec![self.process_rows(input, context)?]),
            _ => Ok(vec![Batch::empty(&self.of.subscriptions.columns)]),
        }
    }
}

/// The part that keeps subscriptions and answers them.
#[derive(Debug)]
struct Answer(Arc<ForeignKey>);

const SUBSCRIPTIONS: usize = 0;
const WITH: usize = 1;

impl Definition for Answer {
    fn stores(&self) -> Vec<StoreDeclaration> {
        let Join { from, with, .. } = &self.0.join;
        let mut parts = vec!["subscriptions 1".to_owned()];
        parts.extend(with.key_types());
        parts.extend(from.key_types());
        // Under another expression rows would have subscribed to other keys.
        parts.extend(self.0.keys.iter().map(Expression::canonical_text));
        vec![
            StoreDeclaration::new("-subscriptions", StoreKind::KeyValue, &parts),
            declaration(with, "-with", Some(RowsOf::Newest(1))),
        ]
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        self.0.facts()
    }

    fn may_wait(&self) -> bool {
        self.0.cannot_fail()
    }

    fn needs_before(&self, _: &Wanted) -> bool {
        false
    }

    fn build(&self, _: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        let Join { from, with, .. } = &self.0.join;
        Ok(Box::new(Answerer {
            subscriber_keys: KeyEncoder::of(from)?,
            rows: TableRows::new(with)?,
            of: self.0.clone(),
        }))
    }
}

struct Answerer {
    of: Arc<ForeignKey>,
    subscriber_keys: KeyEncoder,
    /// Of `with`.
    rows: TableRows,
}

/// Answers on their way into a batch.
#[derive(Default)]
struct Answers {
    /// Where the key of the subscriber is: a row of the subscriptions, or one that was read from the store.
    subscribers: Vec<(usize, usize)>,
    digests: Vec<Option<[u8; 16]>>,
    says: Vec<i32>,
    /// Where the key of the row of `with` is: a row of the subscriptions, or of its changes; or it is none.
    keys: Vec<(usize, usize)>,
    rows: Vec<Option<RowAt>>,
    time: Vec<i64>,
    seq: Vec<u32>,
}

impl Answers {
    fn push(&mut self, row: Option<RowAt>, key: (usize, usize), says: i32, time: i64, seq: u32) {
        self.rows.push(row);
        self.keys.push(if row.is_some() { key } else { (2, 0) });
        self.says.push(says);
        self.time.push(time);
        self.seq.push(seq);
    }

    /// Forgets all but the first `count`.
    fn truncate(&mut self, count: usize) {
        self.subscribers.truncate(count);
        self.digests.truncate(count);
        self.says.truncate(count);
        self.keys.truncate(count);
        self.rows.truncate(count);
        self.time.truncate(count);
        self.seq.truncate(count);
    }
}

impl Answerer {
    fn process_rows(
        &self,
        subscriptions: &Batch,
        changes: &Batch,
        context: &mut Context<'_>,
    ) -> Result<Batch, OperatorError> {
        let Join { from, with, .. } = &self.of.join;
        let named = self.rows.keys(subscriptions)?;
        let columns = values(subscriptions, with);
        let subscribers = self.subscriber_keys.encode_all(columns, subscriptions.len())?;
        let (Some(digests), Some(says)) = (columns.get(from.key), columns.get(from.key + 1)) else {
            return Err(OperatorError::Internal("a subscription has no digest".to_owned()));
        };
        let (digests, says) = (digests.as_binary::<i32>(), says.as_primitive::<Int32Type>());
        let changed = self.rows.keys(changes)?;

        let mut index = KeyIndex::default();
        let numbers: Vec<Option<usize>> = (0..subscriptions.len())
            .map(|row| (!named.is_null(row)).then(|| index.number_of(named.get(row))))
            .collect();
        let stored = self.rows.load(context.state, context.store(WITH), &index, true)?;
        let mut current = stored.found.clone();
        let mut answers = Answers::default();
        let mut read = self.subscriber_keys.decoder()?;
        let (mut store_key, mut value) = (Vec::new(), Vec::new());
        let store = context.store(SUBSCRIPTIONS);
        // Where both have waited the changes come first: who subscribes then gets the newest row, and gets it once.
        for (seq, side, row) in in_order([changes, subscriptions]) {
            if side == 0 {
                if changes.kind(row) == RowKind::UpdateBefore {
                    continue;
                }
                let now = (changes.kind(row) != RowKind::Delete).then_some(RowAt::Given(row));
                if let Some(current) = index.find(changed.get(row)).and_then(|number| current.get_mut(number))
                {
                    *current = now;
                }
                self.answer_all(changed.get(row), (now, row), changes, &mut answers, &mut read, context)?;
                continue;
            }
            let time = subscriptions.time.get(row).copied().unwrap_or_default();
            let says = says.value(row);
            if let Some(number) = numbers.get(row).copied().flatten() {
                store_key.clear();
                store_key.extend_from_slice(named.get(row));
                store_key.extend_from_slice(subscribers.get(row));
                if says == SUBSCRIBE {
                    ValueWriter::new(&mut value, LAYOUT).put_bytes(digests.value(row));
                    context.state.put(store, &store_key, &value);
                } else {
                    context.state.delete(store, &store_key);
                }
                if says == UNSUBSCRIBE {
                    continue;
                }
                let found = if says == SUBSCRIBE { current.get(number).copied().flatten() } else { None };
                let time = found.map_or(time, |found| time.max(stored.time(changes, found)));
                answers.push(found, (0, row), answer(says, found), time, seq);
            } else {
                answers.push(None, (0, row), answer(says, None), time, seq);
            }
            answers.subscribers.push((0, row));
            answers.digests.push(digests.is_valid(row).then(|| digest_of(digests.value(row))).transpose()?);
        }
        self.batch(subscriptions, changes, &stored, answers, read.finish()?)
    }

    /// Answers those that have subscribed to the key of a row that has changed.
    fn answer_all(
        &self,
        key: &[u8],
        (now, row): (Option<RowAt>, usize),
        changes: &Batch,
        answers: &mut Answers,
        read: &mut crate::key::KeyDecoder,
        context: &mut Context<'_>,
    ) -> Result<(), OperatorError> {
        let at = changes.time.get(row).copied().unwrap_or_default();
        let seq = changes.seq.get(row).copied().unwrap_or_default();
        // No key is the beginning of another, and none of these bytes begins a key's column.
        let end = [key, &[0xff]].concat();
        let store = context.store(SUBSCRIPTIONS);
        let first = answers.says.len();
        let most = self.of.max_matches.unwrap_or(usize::MAX);
        for entry in context.state.scan(store, key, &end)?.take(most.saturating_add(1)) {
            let (store_key, value) = entry?;
            let mut value = ValueReader::new(&value, LAYOUT)?;
            read.push(store_key.get(key.len()..).unwrap_or_default())?;
            answers.push(now, (1, row), answer(SUBSCRIBE, now), at, seq);
            answers.subscribers.push((1, read.len() - 1));
            answers.digests.push(Some(digest_of(value.get_bytes()?)?));
        }
        if answers.says.len() - first > most {
            answers.truncate(first);
            let message = format!("more than {most} rows of the other table name the row's key");
            context.fail(seq, Code::RecordMatches, message);
        }
        Ok(())
    }

    fn batch(
        &self,
        subscriptions: &Batch,
        changes: &Batch,
        stored: &Stored,
        answers: Answers,
        read: Vec<ArrayRef>,
    ) -> Result<Batch, OperatorError> {
        let Join { from, with, .. } = &self.of.join;
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.of.answers.columns.fields().len());
        for (given, read) in values(subscriptions, with).iter().take(from.key).zip(&read) {
            arrays.push(interleave(&[given.as_ref(), read.as_ref()], &answers.subscribers)?);
        }
        let digests = answers.digests.iter().map(|digest| digest.as_ref().map(<[u8; 16]>::as_slice));
        arrays.push(Arc::new(digests.collect::<BinaryArray>()));
        arrays.push(Arc::new(Int32Array::from(answers.says)));
        for (subscribed, changed) in keys(subscriptions, with).iter().zip(keys(changes, with)) {
            let none = arrow::array::new_null_array(subscribed.data_type(), 1);
            arrays.push(interleave(&[subscribed.as_ref(), changed.as_ref(), none.as_ref()], &answers.keys)?);
        }
        arrays.extend(gather(values(changes, with), stored.rows.columns(), &answers.rows)?);
        Ok(Batch {
            rows: record_batch(&self.of.answers.columns, arrays, answers.time.len())?,
            time: answers.time,
            seq: answers.seq,
            kind: None,
            null_value: None,
        })
    }
}

/// What is answered to a subscription that finds this row.
fn answer(says: i32, found: Option<RowAt>) -> i32 {
    match (says, found) {
        (REMOVE, _) => NO_RESULT,
        (_, None) => NO_ROW,
        (_, Some(_)) => ROW,
    }
}

impl Operator for Answerer {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let [subscriptions, changes] = inputs else { return Ok(Vec::new()) };
        let answers = self.process_rows(subscriptions, changes, context)?;
        if context.owns(WITH) && !changes.is_empty() {
            let store = context.store(WITH);
            self.rows.write_changes(context.state, store, changes)?;
        }
        Ok(vec![answers])
    }
}

/// The part that makes results of answers. Its store holds them: each is a row of a table.
#[derive(Debug)]
struct Respond(Arc<ForeignKey>);

/// The store of the rows of `from`, after that of the results.
const FROM: usize = 1;

impl Respond {
    /// What makes a table of the results.
    fn table(&self) -> ToTable {
        ToTable::new(&Schema { kind: Kind::Stream, ..self.0.join.schema.clone() }, None)
    }
}

impl Definition for Respond {
    fn stores(&self) -> Vec<StoreDeclaration> {
        let mut stores = self.table().stores();
        stores.push(declaration(&self.0.join.from, "-from", Some(RowsOf::Newest(1))));
        stores
    }

    fn keeps_rows(&self) -> bool {
        true
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        self.0.facts()
    }

    fn needs_before(&self, _: &Wanted) -> bool {
        false
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        let from = &self.0.join.from;
        Ok(Box::new(Responder {
            codec: RowCodec::new(&from.value_columns())?,
            rows: TableRows::new(from)?,
            table: self.table().build(wanted)?,
            of: self.0.clone(),
        }))
    }
}

struct Responder {
    of: Arc<ForeignKey>,
    /// Of `from`.
    rows: TableRows,
    codec: RowCodec,
    table: Box<dyn Operator>,
}

impl Responder {
    /// The results of answers, as a stream in which a null value deletes.
    fn results(
        &self,
        answers: &Batch,
        changes: &Batch,
        context: &mut Context<'_>,
    ) -> Result<Batch, OperatorError> {
        let Join { from, .. } = &self.of.join;
        let columns = values(answers, &self.of.answers);
        let [digests, says, with @ ..] = columns else {
            return Err(OperatorError::Internal("an answer has no digest".to_owned()));
        };
        let (digests, says) = (digests.as_binary::<i32>(), says.as_primitive::<Int32Type>());
        let answered = self.rows.keys(answers)?;
        let mut index = KeyIndex::default();
        let numbers: Vec<usize> = (0..answers.len()).map(|row| index.number_of(answered.get(row))).collect();
        let stored = self.rows.load(context.state, context.store(FROM), &index, true)?;
        let mut following = Following::new(&index, &stored, changes, self.rows.keys(changes)?);
        let given_rows = self.codec.encoder(values(changes, from))?;
        let stored_rows = self.codec.encoder(stored.rows.columns())?;
        let mut buffer = Vec::new();
        // Answers that still count, with the rows that they are for, and whether there is a result.
        let (mut kept, mut rows, mut has_result) = (Vec::new(), Vec::new(), Vec::new());
        for (row, number) in numbers.into_iter().enumerate() {
            following.go_to(answers.seq.get(row).copied().unwrap_or_default());
            let now = following.row(number);
            let now_digest = now.map(|now| match now {
                RowAt::Given(row) => digest(&given_rows, row, &mut buffer),
                RowAt::Stored(row) => digest(&stored_rows, row, &mut buffer),
            });
            let asked = digests.is_valid(row).then(|| digests.value(row));
            if now_digest.as_ref().map(<[u8; 16]>::as_slice) != asked {
                continue;
            }
            kept.push(row as u32);
            rows.push(now);
            has_result.push(match says.value(row) {
                NO_RESULT => false,
                NO_ROW => now.is_some() && self.of.is_left(),
                _ => now.is_some(),
            });
        }

        let at = UInt32Array::from(kept);
        let taken = |column: &ArrayRef| take(column, &at, None);
        let key: Vec<ArrayRef> =
            keys(answers, &self.of.answers).iter().map(taken).collect::<Result<_, _>>()?;
        let mut both = key.clone();
        both.extend(gather(values(changes, from), stored.rows.columns(), &rows)?);
        for column in with {
            both.push(taken(column)?);
        }
        let of = |row: &u32| *row as usize;
        let marks = Marks {
            time: at.values().iter().filter_map(|row| answers.time.get(of(row)).copied()).collect(),
            seq: at.values().iter().filter_map(|row| answers.seq.get(of(row)).copied()).collect(),
            kind: None,
        };
        let (results, errors) = self.of.join.results_of(key, both, marks)?;
        // A row that fails has no result, and neither has the row before it any longer.
        for (row, code, message) in errors {
            if let (Some(has_result), Some(seq)) = (has_result.get_mut(row), results.seq.get(row))
                && std::mem::take(has_result)
            {
                context.fail(*seq, code, message);
            }
        }
        let null_value = BooleanBuffer::collect_bool(rows.len(), |row| has_result.get(row) != Some(&true));
        Ok(Batch { null_value: Some(null_value), ..results })
    }
}

impl Operator for Responder {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let [answers, changes] = inputs else { return Ok(Vec::new()) };
        let results = match answers.is_empty() {
            true => Batch::empty(&self.of.join.schema.columns),
            false => self.results(answers, changes, context)?,
        };
        if context.owns(FROM) && !changes.is_empty() {
            let store = context.store(FROM);
            self.rows.write_changes(context.state, store, changes)?;
        }
        self.table.process(&[results], context)
    }
}
