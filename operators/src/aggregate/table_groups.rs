//! One group per key over the rows that a table has: what a change replaces is taken back, what it brings is added, and a group
//! that has lost its last row is deleted.
//!
//! The store holds `0 | key` → entry and, for `min`, `max` and `count(distinct)`, of each group and call every value that is
//! there: `1 | key | call | value` → how often, the extreme one first. So the next extreme is found by looking at the first
//! entry, and only when the last row with the present one goes.
//!
//! With `group-by` changes come through a repartition topic, an update of rows of one group as one record: such a change of the table is
//! one change of the group.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use hashbrown::HashMap;
use millstream_state::value::{ValueReader, ValueWriter};
use millstream_state::{StoreId, TaskState};

use super::changes::{Changes, Key, Place};
use super::{GROUP, Wanted};
use crate::aggregates::{AggregatePlan, Arguments, GroupState, Multiset, MultisetOf};
use crate::batch::{Batch, RowKind};
use crate::datum::Datum;
use crate::key::{KeyEncoder, Keys};
use crate::key_index::KeyIndex;
use crate::operator::{
    Context, Definition, DropReason, Operator, OperatorError, Output, Resolved, StoreDeclaration, StoreKind,
};
use crate::rekey::Rekey;
use crate::schema::{Kind, Schema};

const ELEMENT: u8 = 1;

/// An aggregate over a table, whose rows are those of `input`, perhaps under another key.
pub(super) fn resolved(
    input: Schema,
    schema: Schema,
    plan: AggregatePlan,
    regroup: Option<Rekey>,
) -> Resolved {
    let outputs = vec![Output::main(schema.clone())];
    let definition = Arc::new(TableAggregate { input, schema, plan });
    let resolved = Resolved::new(outputs, definition);
    match regroup {
        Some(rekey) => rekey.of_kind(Kind::Table).before(resolved, None),
        None => resolved,
    }
}

/// A change of a table's row: positions of the row before it and the row after it, and of the one that says when.
#[derive(Clone, Copy)]
struct RowChange {
    before: Option<usize>,
    after: Option<usize>,
    cause: usize,
}

/// The changes that a batch of a table holds.
fn row_changes(batch: &Batch) -> Vec<RowChange> {
    let mut replaced = None;
    let change = |row| match batch.kind(row) {
        RowKind::UpdateBefore => {
            replaced = Some(row);
            None
        }
        RowKind::Insert => Some(RowChange { before: None, after: Some(row), cause: row }),
        RowKind::UpdateAfter => Some(RowChange { before: replaced.take(), after: Some(row), cause: row }),
        RowKind::Delete => Some(RowChange { before: Some(row), after: None, cause: row }),
    };
    (0..batch.len()).filter_map(change).collect()
}

/// A checked `aggregate` over a table.
#[derive(Clone, Debug)]
struct TableAggregate {
    /// The table's rows, under the key of the groups.
    input: Schema,
    schema: Schema,
    plan: AggregatePlan,
}

impl Definition for TableAggregate {
    fn stores(&self) -> Vec<StoreDeclaration> {
        let key: Vec<String> = self.input.key_types().collect();
        let parts = ["aggregate of a table 1".to_owned(), key.join(","), self.plan.fingerprint()];
        vec![StoreDeclaration::new("", StoreKind::KeyValue, &parts)]
    }

    fn needs_before(&self, _: &Wanted) -> bool {
        true
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        // A result that is folded away could not fail; one that fails is not there, and then its old one goes.
        let certain = self.plan.results_cannot_fail();
        let wanted = Wanted { fold: wanted.fold && certain, before: wanted.before || !certain };
        let multisets = self.plan.multisets().into_iter();
        let multisets = multisets
            .map(|multiset| Ok((KeyEncoder::new([&multiset.data_type])?, multiset)))
            .collect::<Result<_, OperatorError>>()?;
        let keys = KeyEncoder::of(&self.input)?;
        Ok(Box::new(TableGroups { definition: self.clone(), wanted, keys, multisets }))
    }
}

struct TableGroups {
    definition: TableAggregate,
    wanted: Wanted,
    keys: KeyEncoder,
    /// With what encodes their values.
    multisets: Vec<(KeyEncoder, Multiset)>,
}

/// What is known of rows that come or go: what aggregates take of them, and per multiset the bytes of their values.
struct Rows {
    arguments: Arguments,
    values: Vec<Keys>,
    /// Rows that cannot be computed, in order.
    failed: Vec<usize>,
}

/// What a group holds.
#[derive(Clone)]
struct Held {
    /// The largest event time of its changes.
    time: i64,
    /// How many rows it has.
    rows: i64,
    state: GroupState,
}

#[derive(Default)]
struct Group {
    held: Option<Held>,
    dirty: bool,
    pending: Option<Pending>,
}

/// A change of a group that has not been sent yet.
struct Pending {
    /// Whether consumers know of the group, and what, if they want to be told.
    existed: bool,
    before: Option<Held>,
    /// The newest change: its sequence number, its row, and the time of the result.
    seq: u32,
    row: usize,
    time: i64,
}

/// How often values are there, by their keys in the store.
type Elements = HashMap<Vec<u8>, i64>;

impl TableGroups {
    fn prepared(&self, rows: &RecordBatch) -> Result<Rows, OperatorError> {
        let arguments = self.definition.plan.prepare(rows);
        let mut values = Vec::with_capacity(self.multisets.len());
        for (encoder, multiset) in &self.multisets {
            let array: Vec<ArrayRef> = arguments.array(multiset).cloned().into_iter().collect();
            values.push(encoder.encode_all(&array, rows.num_rows())?);
        }
        let failed = arguments.errors().iter().map(|(row, _, _)| *row).collect();
        Ok(Rows { arguments, values, failed })
    }

    fn process_rows(&self, input: &Batch, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let TableAggregate { plan, schema, .. } = &self.definition;
        let rows = self.prepared(&input.rows)?;
        let mut changes = row_changes(input);

        // A row that cannot be computed is not there; that is said when it comes.
        let mut said: Vec<usize> = Vec::new();
        for change in &mut changes {
            change.before = change.before.filter(|row| rows.failed.binary_search(row).is_err());
            if let Some(row) = change.after
                && let Ok(place) = rows.failed.binary_search(&row)
            {
                change.after = None;
                said.push(place);
            }
        }
        for (row, code, message) in said.into_iter().filter_map(|place| rows.arguments.errors().get(place)) {
            if let Some(seq) = input.seq.get(*row) {
                context.fail(*seq, *code, message.as_str());
            }
        }

        // First the groups and elements of all changes, each read in one go; then the changes, one after the other.
        let keys = self.keys.encode_all(input.rows.columns(), input.len())?;
        let null_keys = changes.iter().filter(|change| keys.is_null(change.cause)).count();
        context.count(DropReason::NullKey, null_keys as u64);
        changes.retain(|change| !keys.is_null(change.cause) && (change.before, change.after) != (None, None));
        let store = context.store(0);
        let mut numbers = KeyIndex::default();
        let mut touched: Vec<Vec<u8>> = Vec::new();
        for change in &changes {
            let key = keys.get(change.cause);
            numbers.number_of(&group_key(key));
            for row in [change.before, change.after] {
                touched.extend(row.into_iter().flat_map(|row| self.elements_of(key, &rows, row)));
            }
        }
        let mut groups: Vec<Group> = Vec::new();
        let store_keys: Vec<&[u8]> = numbers.iter().collect();
        for bytes in context.state.multi_get(store, &store_keys)? {
            let held = bytes.map(|bytes| decode(plan, &bytes)).transpose()?;
            groups.push(Group { held, ..Group::default() });
        }
        let element_keys: Vec<&[u8]> = touched.iter().map(Vec::as_slice).collect();
        let mut elements = Elements::new();
        for (key, bytes) in touched.iter().zip(context.state.multi_get(store, &element_keys)?) {
            let count = bytes.map_or(Ok(0), |bytes| decode_count(&bytes))?;
            elements.insert(key.clone(), count);
        }

        let mut sent = Changes::new(input, &self.keys, plan)?;
        for change in &changes {
            let key = keys.get(change.cause);
            let (Some(&time), Some(&seq)) = (input.time.get(change.cause), input.seq.get(change.cause))
            else {
                continue;
            };
            let Some(group) = numbers.find(&group_key(key)).and_then(|number| groups.get_mut(number)) else {
                continue;
            };
            let existed = group.held.is_some();
            let known = if self.wanted.before { group.held.clone() } else { None };
            let result_time = group.held.as_ref().map_or(time, |held| held.time.max(time));
            if let (Some(row), Some(held)) = (change.before, &mut group.held) {
                plan.take_back(&mut held.state, &rows.arguments, row);
                held.rows -= 1;
                self.change_elements(held, key, &rows, row, -1, &mut elements, context.state, store)?;
            }
            if let Some(row) = change.after {
                let new = || Held { time, rows: 0, state: plan.new_state() };
                let held = group.held.get_or_insert_with(new);
                plan.update(&mut held.state, &rows.arguments, row)
                    .map_err(|(_, message)| OperatorError::Internal(message))?;
                held.rows += 1;
                self.change_elements(held, key, &rows, row, 1, &mut elements, context.state, store)?;
            }
            if let Some(held) = &mut group.held {
                held.time = result_time;
            }
            group.held = group.held.take().filter(|held| held.rows > 0);
            group.dirty |= existed || group.held.is_some();
            match &mut group.pending {
                Some(pending) => {
                    (pending.seq, pending.row, pending.time) = (seq, change.cause, result_time);
                }
                None => {
                    group.pending =
                        Some(Pending { existed, before: known, seq, row: change.cause, time: result_time });
                }
            }
            if !self.wanted.fold {
                send(&mut sent, group)?;
            }
        }
        for group in &mut groups {
            send(&mut sent, group)?;
        }
        let (mut bytes, mut aggregates) = (Vec::new(), Vec::new());
        for (group, store_key) in groups.iter().zip(numbers.iter()).filter(|(group, _)| group.dirty) {
            match &group.held {
                Some(held) => {
                    encode(plan, held, &mut aggregates, &mut bytes);
                    context.state.put(store, store_key, &bytes);
                }
                None => context.state.delete(store, store_key),
            }
        }
        sent.finish(schema, context)
    }

    /// The keys in the store of a row's elements.
    fn elements_of<'a>(
        &'a self,
        key: &'a [u8],
        rows: &'a Rows,
        row: usize,
    ) -> impl Iterator<Item = Vec<u8>> + 'a {
        let multisets = self.multisets.iter().zip(&rows.values);
        multisets
            .filter(move |((_, multiset), _)| rows.arguments.is_in(multiset, row))
            .map(move |((_, multiset), values)| element_key(key, multiset, values.get(row)))
    }

    /// Counts the elements of a row that comes (1) or goes (-1).
    #[expect(clippy::too_many_arguments, reason = "a row, what it changes, and where that is kept")]
    fn change_elements(
        &self,
        held: &mut Held,
        key: &[u8],
        rows: &Rows,
        row: usize,
        more: i64,
        elements: &mut Elements,
        state: &mut TaskState,
        store: StoreId,
    ) -> Result<(), OperatorError> {
        let plan = &self.definition.plan;
        for ((encoder, multiset), values) in self.multisets.iter().zip(&rows.values) {
            if !rows.arguments.is_in(multiset, row) {
                continue;
            }
            let element = element_key(key, multiset, values.get(row));
            let count = elements.entry_ref(element.as_slice()).or_insert(0);
            let was = *count;
            *count = (was + more).max(0);
            let now = *count;
            match now {
                0 => state.delete(store, &element),
                now => state.put(store, &element, &encode_count(now)),
            }
            let came_or_went = i64::from(now > 0) - i64::from(was > 0);
            if multiset.of == MultisetOf::Distinct {
                plan.count_distinct(&mut held.state, multiset, came_or_went);
            } else if came_or_went < 0 && plan.is_extreme(&held.state, multiset, &rows.arguments, row) {
                let extreme = first_element(key, encoder, multiset, state, store)?;
                plan.set_extreme(&mut held.state, multiset, extreme);
            }
        }
        Ok(())
    }
}

/// Sends what a group holds back.
fn send(sent: &mut Changes<'_>, group: &mut Group) -> Result<(), OperatorError> {
    let Some(Pending { existed, before, seq, row, time }) = group.pending.take() else { return Ok(()) };
    let place = Place { key: Key::Row(row), window: None, time, seq };
    match (&group.held, existed) {
        (Some(held), false) => sent.push(place, RowKind::Insert, Some(&held.state)),
        (Some(held), true) => {
            if let Some(before) = before {
                let place = Place { time: before.time, ..place };
                sent.push(place, RowKind::UpdateBefore, Some(&before.state))?;
            }
            sent.push(place, RowKind::UpdateAfter, Some(&held.state))
        }
        (None, true) => sent.push(place, RowKind::Delete, before.map(|before| before.state).as_ref()),
        (None, false) => Ok(()),
    }
}

/// The extreme of a group's multiset, as it is in the store.
fn first_element(
    key: &[u8],
    encoder: &KeyEncoder,
    multiset: &Multiset,
    state: &mut TaskState,
    store: StoreId,
) -> Result<Datum, OperatorError> {
    let from = element_key(key, multiset, &[]);
    let mut to = from.clone();
    to.extend_from_slice(&[0xff; 2]);
    let mut found = state.scan(store, &from, &to)?;
    let Some((element, _)) = found.next_entry()? else { return Ok(Datum::Null) };
    let mut value = element.get(from.len()..).unwrap_or_default().to_vec();
    turn(multiset, &mut value);
    let mut decoder = encoder.decoder()?;
    decoder.push(&value)?;
    let columns = decoder.finish()?;
    Ok(columns.first().map_or(Datum::Null, |column| Datum::from_array(column, 0)))
}

/// `0 | key`.
fn group_key(key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + key.len());
    bytes.push(GROUP);
    bytes.extend_from_slice(key);
    bytes
}

/// `1 | key | call | value`.
fn element_key(key: &[u8], multiset: &Multiset, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 + key.len() + value.len());
    bytes.push(ELEMENT);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&(multiset.call as u16).to_be_bytes());
    let start = bytes.len();
    bytes.extend_from_slice(value);
    turn(multiset, bytes.get_mut(start..).unwrap_or_default());
    bytes
}

/// Turns the order of values around where the largest has to come first. No value's bytes are the beginning of another's.
fn turn(multiset: &Multiset, value: &mut [u8]) {
    if multiset.of == MultisetOf::Largest {
        value.iter_mut().for_each(|byte| *byte = !*byte);
    }
}

const LAYOUT: u8 = 1;

fn encode(plan: &AggregatePlan, held: &Held, aggregates: &mut Vec<u8>, bytes: &mut Vec<u8>) {
    aggregates.clear();
    plan.write(&held.state, aggregates);
    let mut writer = ValueWriter::new(bytes, LAYOUT);
    writer.put_i64(held.time).put_i64(held.rows).put_bytes(aggregates);
}

fn decode(plan: &AggregatePlan, bytes: &[u8]) -> Result<Held, OperatorError> {
    let mut reader = ValueReader::new(bytes, LAYOUT)?;
    let time = reader.get_i64()?;
    let rows = reader.get_i64()?;
    let aggregates = reader.get_bytes()?;
    let state = plan.read(aggregates)?;
    reader.finish()?;
    Ok(Held { time, rows, state })
}

fn encode_count(count: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    ValueWriter::new(&mut bytes, LAYOUT).put_i64(count);
    bytes
}

fn decode_count(bytes: &[u8]) -> Result<i64, OperatorError> {
    let mut reader = ValueReader::new(bytes, LAYOUT)?;
    let count = reader.get_i64()?;
    reader.finish()?;
    Ok(count)
}

impl Operator for TableGroups {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        match inputs.first() {
            Some(input) if !input.is_empty() => Ok(vec![self.process_rows(input, context)?]),
            _ => Ok(vec![Batch::empty(&self.definition.schema.columns)]),
        }
    }
}
