//! `top`: the first rows of an order, as a table by rank.
//!
//! A ranking is one entry of the store, `0 | partition` → its first `n` rows with the times of their ranks. Of a table the rows behind
//! them are kept as well, `1 | partition | place in the order` → row, so that the next one moves up when one leaves: a row is in
//! one of the two. What is not among the first `n` costs one write, and is read again only when it moves up.

use arrow::array::{ArrayRef, Int64Array, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, FieldRef};
use millstream_state::value::{ValueReader, ValueWriter};
use millstream_state::{StoreId, TaskState};

use crate::batch::{Batch, RowKind, record_batch};
use crate::config::{Field, FieldKind, Text};
use crate::diagnostic::Code;
use crate::key::{KeyEncoder, Keys};
use crate::operator::{
    Arity, Context, Definition, DropReason, Operator, OperatorError, OperatorSpec, Resolved, Step,
    StoreDeclaration, StoreKind, Wanted,
};
use crate::rekey::Rekey;
use crate::row::{RowCodec, RowDecoder, RowEncoder};
use crate::schema::{Kind, Schema, column, described};
use crate::sql::{OrderBy, compile_order, first_of_rows};
use crate::touched::Touched;

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "top",
    summary: "The first rows of an order, for each partition of the rows, as a table by rank; ranks shift as rows come, change and go.",
    arity: Arity::One,
    keyed: true,
    fields: &[
        Field {
            name: "n",
            kind: FieldKind::Integer,
            required: true,
            doc: "How many ranks there are, from 1.",
        },
        Field {
            name: "order-by",
            kind: FieldKind::String,
            required: true,
            doc: "What comes first: SQL expressions, the more important ones first, each with `asc` (default) or `desc`. Nulls \
                  come last; rows that are equal are in the order of their keys, and of a stream as they came.",
        },
        Field {
            name: "partition-by",
            kind: FieldKind::Columns,
            required: false,
            doc: "One ranking for each combination of values of these columns; goes through a repartition topic unless the key's \
                  columns are among them. Default: one ranking of all rows, in one task.",
        },
    ],
    example: r#"[steps.largest]
op           = "top"
from         = "payments"
n            = 3
order-by     = "amount desc, at"
partition-by = ["country"]"#,
    resolve,
};

/// The column that counts from 1.
const RANK: &str = "rank";

/// More ranks than this are no longer kept in one entry.
const MOST: i64 = 10_000;

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    let fields = &step.fields;
    let from = step.input();
    if !fields.has("n") {
        fields.missing("n", "say how many ranks there are: n = 10");
    }
    let n = fields.integer("n", 1..=MOST);
    let order = fields.require_text("order-by", "say what comes first: order-by = \"amount desc\"");
    let names: Vec<Text> = match fields.has("partition-by") {
        true => fields.texts("partition-by")?,
        false => Vec::new(),
    };
    // Rows of one ranking are in one task already if those of one key are, and its columns decide the ranking.
    let decides = |field: &FieldRef| names.iter().any(|name| *field.name() == name.value);
    let partition_key = from.schema.key_fields().get(..from.schema.partition_key()).unwrap_or_default();
    let regroup = if names.is_empty() {
        Some(Rekey::to_one_partition(&from.schema)?)
    } else {
        let rekey = Rekey::resolve(step, "partition-by")?.of_kind(from.schema.kind);
        let is_there = !partition_key.is_empty() && partition_key.iter().all(decides);
        Some(rekey).filter(|_| !is_there)
    };
    let input = regroup.as_ref().map_or(&from.schema, |rekey| &rekey.schema).clone();
    if input.index_of(RANK).is_some() {
        step.error(
            Code::ColumnClash,
            from.from.span.clone(),
            format!("`{}` has a column `{RANK}`, which is a key column of the result", from.from.value),
            "give it another name with `select` first",
        );
        return None;
    }
    let order = order?;
    let order = step.located(&order, compile_order(&order, &step.scope_of(&input)))?;
    let position = |name: &str| input.index_of(name);
    let partition: Vec<usize> = names.iter().filter_map(|name| position(&name.value)).collect();
    let tie: Vec<usize> =
        from.schema.key_fields().iter().filter_map(|field| position(field.name())).collect();
    let rest: Vec<usize> =
        (0..input.columns.fields().len()).filter(|index| !partition.contains(index)).collect();
    let fields_at = |indices: &[usize]| -> Vec<FieldRef> {
        indices.iter().filter_map(|index| input.columns.fields().get(*index).cloned()).collect()
    };
    let mut key = fields_at(&partition);
    key.push(column(RANK, DataType::Int64));
    let schema = Schema { ranked: true, ..Schema::new(Kind::Table, key, fields_at(&rest)) };
    let definition = Top {
        needs_key: regroup.is_none(),
        input,
        schema: schema.clone(),
        n: usize::try_from(n?.value).ok()?,
        order,
        partition,
        tie,
        rest,
    };
    let resolved = Resolved::simple(schema, definition);
    Some(match regroup {
        Some(rekey) => rekey.before(resolved, names.is_empty().then_some(1)),
        None => resolved,
    })
}

/// A checked `top`. Columns are positions in the input.
#[derive(Clone, Debug)]
struct Top {
    input: Schema,
    schema: Schema,
    n: usize,
    order: Vec<OrderBy>,
    partition: Vec<usize>,
    /// What orders rows that are equal: the key that the rows had before they were brought together.
    tie: Vec<usize>,
    /// Whether it is that key which brings them together: rows without one are anywhere.
    needs_key: bool,
    /// What the result has besides `partition` and the rank.
    rest: Vec<usize>,
}

impl Top {
    fn encoder(&self, columns: &[usize]) -> Result<KeyEncoder, OperatorError> {
        let fields = self.input.columns.fields();
        let types = columns.iter().filter_map(|index| Some(fields.get(*index)?.data_type()));
        Ok(KeyEncoder::new(types)?)
    }

    fn names<'a>(&'a self, columns: &'a [usize]) -> impl Iterator<Item = &'a str> {
        let fields = self.input.columns.fields();
        columns.iter().filter_map(|index| Some(fields.get(*index)?.name().as_str()))
    }
}

impl Definition for Top {
    fn stores(&self) -> Vec<StoreDeclaration> {
        let mut parts = vec!["top 1".to_owned(), self.input.kind.name().to_owned(), self.n.to_string()];
        parts.extend(
            self.order.iter().map(|by| format!("{} {}", by.expression.canonical_text(), by.descending)),
        );
        parts.extend(self.names(&self.partition).map(|name| format!("partition {name}")));
        parts.extend(self.names(&self.tie).map(|name| format!("key {name}")));
        parts.extend(described(self.input.columns.fields()));
        vec![StoreDeclaration::new("", StoreKind::KeyValue, &parts)]
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let direction = |by: &OrderBy| if by.descending { " desc" } else { "" };
        let order = self.order.iter().map(|by| format!("{}{}", by.expression.text(), direction(by)));
        let mut facts = vec![("n", self.n.to_string()), ("order by", order.collect::<Vec<_>>().join(", "))];
        if !self.partition.is_empty() {
            facts.push(("partition by", self.names(&self.partition).collect::<Vec<_>>().join(", ")));
        }
        facts
    }

    // Where a row stood in the order is known by the row alone.
    fn needs_before(&self, _: &Wanted) -> bool {
        self.input.kind == Kind::Table
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        let columns: Result<Vec<KeyEncoder>, _> =
            self.order.iter().map(|by| KeyEncoder::new([by.expression.data_type()])).collect();
        Ok(Box::new(RunningTop {
            partitions: self.encoder(&self.partition)?,
            ties: self.encoder(&self.tie)?,
            columns: columns?,
            rows: RowCodec::new(&self.input.columns)?,
            definition: self.clone(),
            wanted: *wanted,
        }))
    }
}

struct RunningTop {
    definition: Top,
    partitions: KeyEncoder,
    ties: KeyEncoder,
    /// Of the order's expressions.
    columns: Vec<KeyEncoder>,
    rows: RowCodec,
    wanted: Wanted,
}

/// A row that is or was among the first.
struct Item {
    /// Its place in the order.
    place: Box<[u8]>,
    /// As it is stored.
    row: Box<[u8]>,
    /// Where it is among the rows to be sent, if it is there.
    sent: Option<u32>,
}

/// A rank: who has it, by number of the item, and the event time of the change that made it so.
type Rank = (usize, i64);

/// The first rows of a partition within an epoch.
#[derive(Default)]
struct Ranking {
    ranks: Vec<Rank>,
    /// Whether the store has an entry.
    stored: bool,
    /// Whether the store has something else.
    dirty: bool,
    /// With folding: what is to be sent when the epoch ends.
    pending: Option<Pending>,
}

/// Changes of a ranking that have not been sent yet.
struct Pending {
    /// What consumers know.
    known: Vec<Rank>,
    /// When the ranks behind the last one went.
    gone: Vec<i64>,
    /// Sequence number of the newest row that changed it.
    seq: u32,
}

const FIRST: u8 = 0;
const BEHIND: u8 = 1;

/// Changes of one ranking that are one to whoever looks at it.
#[derive(Default)]
struct Change {
    /// The place that a row leaves.
    leaves: Option<Box<[u8]>>,
    /// The row that comes, by number in the batch, and its place.
    comes: Option<(usize, Vec<u8>)>,
}

/// What the epoch works with.
struct Epoch<'a, 'b> {
    definition: &'a Top,
    given: RowEncoder<'a>,
    rankings: Touched<Ranking>,
    items: Vec<Item>,
    state: &'b mut TaskState,
    store: StoreId,
    outgoing: Outgoing,
    wanted: Wanted,
}

/// The changes that are sent.
struct Outgoing {
    rows: RowDecoder,
    places: Vec<u32>,
    ranks: Vec<i64>,
    kinds: Vec<RowKind>,
    times: Vec<i64>,
    seqs: Vec<u32>,
}

impl Outgoing {
    fn push(
        &mut self,
        item: Option<&mut Item>,
        rank: usize,
        (kind, time, seq): (RowKind, i64, u32),
    ) -> Result<(), OperatorError> {
        let Some(item) = item else { return Ok(()) };
        let place = match item.sent {
            Some(place) => place,
            None => {
                let place = self.rows.len() as u32;
                self.rows.push(&item.row)?;
                item.sent = Some(place);
                place
            }
        };
        self.places.push(place);
        self.ranks.push(rank as i64 + 1);
        self.kinds.push(kind);
        self.times.push(time);
        self.seqs.push(seq);
        Ok(())
    }
}

impl Epoch<'_, '_> {
    fn place(&self, item: usize) -> &[u8] {
        self.items.get(item).map(|item| &*item.place).unwrap_or_default()
    }

    fn row(&self, item: usize) -> &[u8] {
        self.items.get(item).map(|item| &*item.row).unwrap_or_default()
    }

    fn ranks(&self, ranking: usize) -> &[Rank] {
        self.rankings.all.get(ranking).map(|ranking| ranking.ranks.as_slice()).unwrap_or_default()
    }

    /// Where a place is among the first, or would be.
    fn find(&self, ranking: usize, place: &[u8]) -> Result<usize, usize> {
        self.ranks(ranking).binary_search_by(|(item, _)| self.place(*item).cmp(place))
    }

    /// The key in the store of a row behind the first.
    fn behind(&self, ranking: usize, place: &[u8]) -> Vec<u8> {
        let partition = self.rankings.keys.get(ranking).get(1..).unwrap_or_default();
        let mut key = Vec::with_capacity(1 + partition.len() + place.len());
        key.push(BEHIND);
        key.extend_from_slice(partition);
        key.extend_from_slice(place);
        key
    }

    fn add(&mut self, place: &[u8], row: Box<[u8]>) -> usize {
        self.items.push(Item { place: place.into(), row, sent: None });
        self.items.len() - 1
    }

    /// Reads all rankings, in one go.
    fn load(&mut self) -> Result<(), OperatorError> {
        let keys: Vec<&[u8]> = self.rankings.keys.iter().collect();
        for (ranking, found) in self.rankings.all.iter_mut().zip(self.state.multi_get(self.store, &keys)?) {
            let Some(bytes) = found else { continue };
            ranking.stored = true;
            let mut reader = ValueReader::new(&bytes, LAYOUT)?;
            while !reader.is_empty() {
                let time = reader.get_i64()?;
                let (place, row) = (reader.get_bytes()?.into(), reader.get_bytes()?.into());
                ranking.ranks.push((self.items.len(), time));
                self.items.push(Item { place, row, sent: None });
            }
        }
        Ok(())
    }

    /// Completes the place of a stream's row: behind those that are equal to it.
    fn number(&self, ranking: usize, place: &mut Vec<u8>) {
        let ranks = self.ranks(ranking);
        let behind = ranks.partition_point(|(item, _)| {
            let other = self.place(*item);
            other < place.as_slice() || other.starts_with(place)
        });
        let last = behind.checked_sub(1).and_then(|last| ranks.get(last)).map(|(item, _)| self.place(*item));
        let number =
            last.and_then(|last| last.strip_prefix(place.as_slice())).and_then(|number| number.first_chunk());
        let number = number.map_or(0, |number| u32::from_be_bytes(*number).saturating_add(1));
        place.extend_from_slice(&number.to_be_bytes());
    }

    /// Applies a change, and tells consumers of it.
    fn apply(&mut self, ranking: usize, change: Change, time: i64, seq: u32) -> Result<(), OperatorError> {
        let before = self.ranks(ranking).to_vec();
        let mut after: Vec<usize> = before.iter().map(|(item, _)| *item).collect();
        let (n, is_table) = (self.definition.n, self.definition.input.kind == Kind::Table);
        let was_full = after.len() == n;
        // Behind this place are the rows that are not among the first.
        let mut bound: Option<Box<[u8]>> = None;
        if let Some(place) = change.leaves {
            match self.find(ranking, &place) {
                Ok(rank) => {
                    after.remove(rank);
                    bound = Some(place);
                }
                Err(_) => {
                    let key = self.behind(ranking, &place);
                    self.state.delete(self.store, &key);
                }
            }
        }
        if let Some(last) = after.last().map(|item| self.place(*item))
            && bound.as_deref().is_some_and(|bound| bound < last)
        {
            bound = Some(last.into());
        }
        // Whether there may be rows behind of which one moves up.
        let mut moves_up = is_table && was_full && after.len() < n;
        if let Some((row, place)) = change.comes {
            let position = after.partition_point(|item| self.place(*item) < place.as_slice());
            let is_first = match (moves_up, &bound) {
                // What stands where a row has left is before all that are behind.
                (true, Some(bound)) => place.as_slice() <= &**bound,
                _ => position < n,
            };
            if is_first {
                let mut bytes = Vec::new();
                self.given.encode(row, &mut bytes);
                let item = self.add(&place, bytes.into());
                after.insert(position, item);
                moves_up = false;
            } else if is_table {
                let mut bytes = Vec::new();
                self.given.encode(row, &mut bytes);
                let key = self.behind(ranking, &place);
                self.state.put(self.store, &key, &bytes);
            }
        }
        if after.len() > n
            && let Some(last) = after.pop()
            && is_table
        {
            let key = self.behind(ranking, self.place(last));
            let row = self.items.get(last).map(|item| &*item.row).unwrap_or_default();
            self.state.put(self.store, &key, row);
        }
        if moves_up {
            after.extend(self.move_up(ranking, bound.as_deref().unwrap_or_default())?);
        }
        self.replace(ranking, before, &after, time, seq)
    }

    /// Takes the first of the rows that are behind `bound` in the order.
    fn move_up(&mut self, ranking: usize, bound: &[u8]) -> Result<Option<usize>, OperatorError> {
        let from = self.behind(ranking, bound);
        let to = self.behind(ranking, &[0xff]);
        let prefix = from.len() - bound.len();
        let mut rows = self.state.scan(self.store, &from, &to)?;
        let Some((key, row)) = rows.next_entry()? else { return Ok(None) };
        let (key, row): (Box<[u8]>, Box<[u8]>) = (key.into(), row.into());
        drop(rows);
        self.state.delete(self.store, &key);
        Ok(Some(self.add(key.get(prefix..).unwrap_or_default(), row)))
    }

    /// Makes `after` the first rows of a ranking. A rank that gets another row has the time of the change, or its old one if that
    /// is later.
    fn replace(
        &mut self,
        ranking: usize,
        before: Vec<Rank>,
        after: &[usize],
        time: i64,
        seq: u32,
    ) -> Result<(), OperatorError> {
        let mut ranks = Vec::with_capacity(after.len());
        let mut changed = before.len() != after.len();
        let mut dirty = changed;
        for (rank, item) in after.iter().enumerate() {
            let since = match before.get(rank) {
                Some((known, since)) if known == item || self.row(*known) == self.row(*item) => {
                    dirty |= known != item;
                    *since
                }
                Some((_, since)) => {
                    changed = true;
                    time.max(*since)
                }
                None => time,
            };
            ranks.push((*item, since));
        }
        let gone: Vec<i64> = before.iter().skip(after.len()).map(|(_, since)| time.max(*since)).collect();
        let length = before.len();
        let Some(found) = self.rankings.all.get_mut(ranking) else { return Ok(()) };
        found.dirty |= dirty || changed;
        found.ranks.clone_from(&ranks);
        if !changed {
            return Ok(());
        }
        if !self.wanted.fold {
            return self.send(&before, &ranks, &gone, seq);
        }
        let pending = found.pending.get_or_insert_with(|| Pending { known: before, gone: Vec::new(), seq });
        pending.seq = seq;
        // Those that have come back are not gone, and what goes now lies before what went earlier.
        let came_back = ranks.len().saturating_sub(length).min(pending.gone.len());
        pending.gone.drain(..came_back);
        pending.gone.splice(0..0, gone);
        Ok(())
    }

    /// Sends what has become of ranks; `gone` is when those behind the last one went.
    fn send(&mut self, before: &[Rank], after: &[Rank], gone: &[i64], seq: u32) -> Result<(), OperatorError> {
        for rank in 0..before.len().max(after.len()) {
            match (before.get(rank), after.get(rank)) {
                (Some((item, since)), None) => {
                    let time = gone.get(rank - after.len()).copied().unwrap_or(*since);
                    self.outgoing.push(self.items.get_mut(*item), rank, (RowKind::Delete, time, seq))?;
                }
                (None, Some((item, since))) => {
                    self.outgoing.push(self.items.get_mut(*item), rank, (RowKind::Insert, *since, seq))?;
                }
                (Some(old), Some(new)) => {
                    if old.1 == new.1 && (old.0 == new.0 || self.row(old.0) == self.row(new.0)) {
                        continue;
                    }
                    if self.wanted.before {
                        let sending = (RowKind::UpdateBefore, old.1, seq);
                        self.outgoing.push(self.items.get_mut(old.0), rank, sending)?;
                    }
                    let sending = (RowKind::UpdateAfter, new.1, seq);
                    self.outgoing.push(self.items.get_mut(new.0), rank, sending)?;
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Sends what was held back, in the order of the rows that caused it.
    fn send_pending(&mut self) -> Result<(), OperatorError> {
        let mut all = Vec::new();
        for (number, ranking) in self.rankings.all.iter_mut().enumerate() {
            all.extend(ranking.pending.take().map(|pending| (pending.seq, number, pending)));
        }
        all.sort_by_key(|(seq, number, _)| (*seq, *number));
        for (seq, number, Pending { known, gone, .. }) in all {
            let ranks = self.ranks(number).to_vec();
            self.send(&known, &ranks, &gone, seq)?;
        }
        Ok(())
    }

    /// Writes the rankings that have changed.
    fn write(&mut self) {
        let mut bytes = Vec::new();
        for (ranking, store_key) in self.rankings.all.iter().zip(self.rankings.keys.iter()) {
            if !ranking.dirty {
                continue;
            }
            if ranking.ranks.is_empty() {
                if ranking.stored {
                    self.state.delete(self.store, store_key);
                }
                continue;
            }
            let mut writer = ValueWriter::new(&mut bytes, LAYOUT);
            for (item, time) in &ranking.ranks {
                if let Some(item) = self.items.get(*item) {
                    writer.put_i64(*time).put_bytes(&item.place).put_bytes(&item.row);
                }
            }
            self.state.put(self.store, store_key, &bytes);
        }
    }
}

const LAYOUT: u8 = 1;

/// Places in the order as bytes that sort like them, in parts: of each of the order's expressions, then of the key.
struct Places<'a> {
    parts: Vec<(Keys, bool)>,
    ties: &'a Keys,
}

impl Places<'_> {
    /// The place of a row; of a stream what is equal to it has the same so far.
    fn of(&self, row: usize) -> Vec<u8> {
        let mut place = Vec::new();
        for (part, descending) in &self.parts {
            match part.get(row).split_first() {
                // Nulls come last, and the bytes of a key know them as the first.
                Some((1, value)) => {
                    place.push(0);
                    let turned = |byte: &u8| if *descending { !byte } else { *byte };
                    place.extend(value.iter().map(turned));
                }
                _ => place.push(1),
            }
        }
        place.extend_from_slice(self.ties.get(row));
        place
    }
}

impl RunningTop {
    fn process_rows(&mut self, input: &Batch, context: &mut Context<'_>) -> Result<Batch, OperatorError> {
        let definition = &self.definition;
        let columns_at = |indices: &[usize]| -> Vec<ArrayRef> {
            indices.iter().filter_map(|index| input.rows.columns().get(*index).cloned()).collect()
        };
        let is_table = definition.input.kind == Kind::Table;
        let mut errors = Vec::new();
        let mut parts = Vec::with_capacity(definition.order.len());
        for (by, encoder) in definition.order.iter().zip(&self.columns) {
            let evaluated = by.expression.evaluate(&input.rows);
            errors.extend(evaluated.errors.into_iter().filter(|(row, _, _)| !input.is_null_value(*row)));
            parts.push((encoder.encode_all(&[evaluated.values], input.len())?, by.descending));
        }
        let usable = context.without_errors(input, &first_of_rows(errors));
        let ties = self.ties.encode_all(&columns_at(&definition.tie), input.len())?;
        let places = Places { parts, ties: &ties };
        let partitions = self.partitions.encode_all(&columns_at(&definition.partition), input.len())?;

        // First the rankings of all rows, which are read in one go; then the rows, one after the other.
        let mut rankings: Touched<Ranking> = Touched::default();
        let mut numbers = Vec::with_capacity(input.len());
        let mut store_key = vec![FIRST];
        let (mut null_keys, mut null_values) = (0, 0);
        for row in 0..input.len() {
            let is_new = matches!(input.kind(row), RowKind::Insert | RowKind::UpdateAfter);
            let has_no_key = definition.needs_key && ties.is_null(row);
            let number = if has_no_key || partitions.is_null(row) {
                null_keys += u64::from(is_new);
                None
            } else if input.is_null_value(row) {
                null_values += 1;
                None
            } else if usable.as_ref().is_some_and(|usable| !usable.value(row)) {
                None
            } else {
                store_key.truncate(1);
                store_key.extend_from_slice(partitions.get(row));
                Some(rankings.number_of(&store_key))
            };
            numbers.push(number);
        }
        context.count(DropReason::NullKey, null_keys);
        context.count(DropReason::NullValue, null_values);
        let store = context.store(0);
        let mut epoch = Epoch {
            definition,
            given: self.rows.encoder(input.rows.columns())?,
            rankings,
            items: Vec::new(),
            state: &mut *context.state,
            store,
            outgoing: Outgoing {
                rows: self.rows.decoder()?,
                places: Vec::new(),
                ranks: Vec::new(),
                kinds: Vec::new(),
                times: Vec::new(),
                seqs: Vec::new(),
            },
            wanted: self.wanted,
        };
        epoch.load()?;

        // A row that is replaced leaves when the one that replaces it comes.
        let mut leaving: Option<(usize, Box<[u8]>)> = None;
        let rows = numbers.into_iter().zip(input.time.iter().zip(&input.seq)).enumerate();
        for (row, (number, (&time, &seq))) in rows {
            let kind = input.kind(row);
            let is_replaced = kind == RowKind::UpdateBefore && input.kind(row + 1) == RowKind::UpdateAfter;
            let Some(number) = number else {
                if let Some((ranking, place)) = leaving.take() {
                    let change = Change { leaves: Some(place), comes: None };
                    epoch.apply(ranking, change, time, seq)?;
                }
                continue;
            };
            let mut place = places.of(row);
            match kind {
                RowKind::UpdateBefore if is_replaced => leaving = Some((number, place.into())),
                RowKind::UpdateBefore | RowKind::Delete => {
                    let change = Change { leaves: Some(place.into()), comes: None };
                    epoch.apply(number, change, time, seq)?;
                }
                RowKind::Insert | RowKind::UpdateAfter => {
                    let mut leaves = None;
                    match leaving.take() {
                        Some((ranking, place)) if ranking == number => leaves = Some(place),
                        Some((ranking, place)) => {
                            let change = Change { leaves: Some(place), comes: None };
                            epoch.apply(ranking, change, time, seq)?;
                        }
                        None => {}
                    }
                    if !is_table {
                        epoch.number(number, &mut place);
                    }
                    epoch.apply(number, Change { leaves, comes: Some((row, place)) }, time, seq)?;
                }
            }
        }
        epoch.send_pending()?;
        epoch.write();
        definition.finish(epoch.outgoing)
    }
}

impl Top {
    fn finish(&self, mut outgoing: Outgoing) -> Result<Batch, OperatorError> {
        let rows = outgoing.rows.finish()?;
        let places = UInt32Array::from(outgoing.places);
        let at = |index: &usize| -> Result<ArrayRef, OperatorError> {
            Ok(take(rows.column(*index), &places, None)?)
        };
        let mut arrays: Vec<ArrayRef> = self.partition.iter().map(at).collect::<Result<_, _>>()?;
        arrays.push(std::sync::Arc::new(Int64Array::from(outgoing.ranks)));
        for index in &self.rest {
            arrays.push(at(index)?);
        }
        Ok(Batch {
            rows: record_batch(&self.schema.columns, arrays, outgoing.times.len())?,
            time: outgoing.times,
            seq: outgoing.seqs,
            kind: Some(outgoing.kinds),
            null_value: None,
        })
    }
}

impl Operator for RunningTop {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        match inputs.first() {
            Some(input) if !input.is_empty() => Ok(vec![self.process_rows(input, context)?]),
            _ => Ok(vec![Batch::empty(&self.definition.schema.columns)]),
        }
    }
}
