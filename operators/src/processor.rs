//! Operators that see one row at a time, for programs that add their own: Kafka Streams' `Processor`, Flink's
//! `KeyedProcessFunction`.
//!
//! A [`Processor`] says what a row does, and what a timer does, to what is remembered of the row's key; everything else is done here.
//! The step's store has `0 | key` → state and `1 | time | key` → nothing, by which timers that are due are found, in the order of
//! their times.
//!
//! A timer is due when stream time, the largest event time that the step has seen, has come to it: before the row that brings it
//! there is processed, or, if a row sets a timer for a time that has come already, right after that row.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use millstream_state::{StoreId, TaskState};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::{Batch, record_batch};
use crate::columns::{Column, UnsupportedType, Value, all_null};
use crate::datum::{Datum, DatumBuilder};
use crate::diagnostic::{Code, listed};
use crate::key::{KeyDecoder, KeyEncoder};
use crate::operator::{
    Advance, Context, Definition, DropReason, Operator, OperatorError, Resolved, Step, StoreDeclaration,
    StoreKind, Wanted,
};
use crate::schema::{Kind, Schema, type_name};
use crate::touched::Touched;

/// What a step does with the rows of a key. It is shared by all tasks and has nothing that changes: all that is remembered is the
/// state of the key, which is committed with what comes of it.
pub trait Processor: Debug + Send + Sync + 'static {
    /// What is remembered of a key; stored as [bincode](https://docs.rs/bincode) with its standard configuration.
    type State: Serialize + DeserializeOwned;

    /// Changes when stored bytes of a [`State`](Self::State) would be read wrongly.
    const STATE_VERSION: u32;

    /// A row has come.
    ///
    /// # Errors
    /// Why the row fails: its path ends here, what has been done for it is undone, and the step's `on-error` decides what becomes of
    /// its record.
    fn process(&self, row: &Row<'_>, context: &mut KeyContext<'_, Self::State>) -> Result<(), String>;

    /// A timer is due that was [scheduled](KeyContext::schedule) for `time`, in milliseconds since 1970.
    ///
    /// # Errors
    /// Why it fails: what has been done for it is undone, and the timer is gone.
    fn on_timer(&self, time: i64, context: &mut KeyContext<'_, Self::State>) -> Result<(), String> {
        let _ = (time, context);
        Ok(())
    }

    /// What `describe` shows besides the name: `("after", "10m")`.
    fn facts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// A row of a stream.
#[derive(Debug)]
pub struct Row<'a> {
    schema: &'a Schema,
    arrays: &'a [ArrayRef],
    columns: &'a [Column<'a>],
    row: usize,
    time: i64,
}

impl Row<'_> {
    /// The event time, in milliseconds since 1970.
    pub fn time(&self) -> i64 {
        self.time
    }

    /// The value of a column of the key or of the value.
    ///
    /// # Errors
    /// If there is no such column.
    pub fn value(&self, column: &str) -> Result<Datum, String> {
        let (index, _) = self.find(column)?;
        Ok(self.arrays.get(index).map_or(Datum::Null, |array| Datum::from_array(array, self.row)))
    }

    /// The value of a column of int32 or int64; `None` for null.
    ///
    /// # Errors
    /// If there is no such column.
    pub fn int64(&self, column: &str) -> Result<Option<i64>, String> {
        self.typed(column, "int64", |value| match value {
            Value::Int32(value) => Some(i64::from(value)),
            Value::Int64(value) => Some(value),
            _ => None,
        })
    }

    /// The value of a column of float32 or float64; `None` for null.
    ///
    /// # Errors
    /// If there is no such column.
    pub fn float64(&self, column: &str) -> Result<Option<f64>, String> {
        self.typed(column, "float64", |value| match value {
            Value::Float32(value) => Some(f64::from(value)),
            Value::Float64(value) => Some(value),
            _ => None,
        })
    }

    /// The value of a column of bool; `None` for null.
    ///
    /// # Errors
    /// If there is no such column.
    pub fn bool(&self, column: &str) -> Result<Option<bool>, String> {
        self.typed(column, "bool", |value| match value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// The value of a column of string; `None` for null.
    ///
    /// # Errors
    /// If there is no such column.
    pub fn string(&self, column: &str) -> Result<Option<&str>, String> {
        self.typed(column, "string", |value| match value {
            Value::String(value) => Some(value),
            _ => None,
        })
    }

    fn find(&self, name: &str) -> Result<(usize, &DataType), String> {
        let fields = self.schema.columns.fields();
        let found =
            self.schema.index_of(name).and_then(|index| Some((index, fields.get(index)?.data_type())));
        found.ok_or_else(|| {
            format!("there is no column `{name}`; columns are {}", listed(self.schema.names()))
        })
    }

    fn typed<'r, T>(
        &'r self,
        name: &str,
        wanted: &str,
        value: impl FnOnce(Value<'r>) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let (index, data_type) = self.find(name)?;
        match self.columns.get(index).map_or(Value::Null, |column| column.value(self.row)) {
            Value::Null => Ok(None),
            found => value(found).map(Some).ok_or_else(|| {
                format!("the column `{name}` is of {}, and not of {wanted}", type_name(data_type))
            }),
        }
    }
}

/// What a processor knows of the key at hand and does about it. Nothing is done if it fails.
#[derive(Debug)]
pub struct KeyContext<'a, S> {
    state: &'a Option<S>,
    stream_time: i64,
    done: Done<S>,
}

#[derive(Debug)]
struct Done<S> {
    /// `Some(None)`: forget it.
    state: Option<Option<S>>,
    /// Times, and whether there is to be a timer.
    timers: Vec<(i64, bool)>,
    forwarded: Vec<Vec<Datum>>,
}

impl<'a, S> KeyContext<'a, S> {
    fn new(state: &'a Option<S>, stream_time: i64) -> Self {
        let done = Done { state: None, timers: Vec::new(), forwarded: Vec::new() };
        KeyContext { state, stream_time, done }
    }

    /// What is remembered of the key.
    pub fn state(&self) -> Option<&S> {
        self.done.state.as_ref().unwrap_or(self.state).as_ref()
    }

    /// Remembers this of the key, in place of what was.
    pub fn put(&mut self, state: S) {
        self.done.state = Some(Some(state));
    }

    /// Forgets the key; its timers stay.
    pub fn delete(&mut self) {
        self.done.state = Some(None);
    }

    /// The largest event time that the step has seen, in milliseconds since 1970. It may be later than the row's.
    pub fn stream_time(&self) -> i64 {
        self.stream_time
    }

    /// Sets a timer of the key, in milliseconds since 1970. A key has one timer for a time at most.
    pub fn schedule(&mut self, time: i64) {
        self.done.timers.push((time, true));
    }

    /// Takes back a timer of the key, if there is one for this time.
    pub fn cancel(&mut self, time: i64) {
        self.done.timers.push((time, false));
    }

    /// Sends a row with the columns of the key and these values, in the order of the step's columns. It has the event time of the row
    /// at hand, or that of the timer.
    pub fn forward(&mut self, values: impl IntoIterator<Item = Datum>) {
        self.done.forwarded.push(values.into_iter().collect());
    }
}

impl Resolved {
    /// A step that processes the rows of a stream under its key. It gives the columns of the key and `columns`.
    ///
    /// Reports an input that is no stream or has no key, and then answers `None`.
    pub fn of_processor(
        step: &Step<'_>,
        columns: Vec<FieldRef>,
        processor: impl Processor,
    ) -> Option<Resolved> {
        step.require_kind(Kind::Stream, "make a stream of the table's changes with `to-stream`")?;
        step.require_key()?;
        let input = &step.input().schema;
        let clash =
            columns.iter().find(|column| input.key_fields().iter().any(|key| key.name() == column.name()));
        if let Some(column) = clash {
            let message =
                format!("the step gives a column `{}`, and the key has one of that name", column.name());
            let help = "give the key another name with a `rekey` step before";
            step.error(Code::ColumnClash, step.input().from.span.clone(), message, help);
            return None;
        }
        let output = Schema::new(Kind::Stream, input.key_fields().to_vec(), columns);
        let shared = Shared { input: input.clone(), output: output.clone(), processor };
        Some(Resolved::simple(output, Processing(Arc::new(shared))))
    }
}

#[derive(Debug)]
struct Shared<P> {
    input: Schema,
    output: Schema,
    processor: P,
}

/// A checked step.
#[derive(Debug)]
struct Processing<P>(Arc<Shared<P>>);

impl<P: Processor> Definition for Processing<P> {
    fn stores(&self) -> Vec<StoreDeclaration> {
        let mut parts = vec!["processor 1".to_owned(), P::STATE_VERSION.to_string()];
        parts.extend(self.0.input.key_fields().iter().map(|field| type_name(field.data_type())));
        vec![StoreDeclaration::new("", StoreKind::KeyValue, &parts)]
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        self.0.processor.facts()
    }

    fn build(&self, _: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        let keys = KeyEncoder::of(&self.0.input)?;
        Ok(Box::new(Running { shared: self.0.clone(), keys, stream_time: None, next_timer: i64::MIN }))
    }
}

struct Running<P> {
    shared: Arc<Shared<P>>,
    keys: KeyEncoder,
    stream_time: Option<i64>,
    /// No timer in the store is earlier.
    next_timer: i64,
}

/// What is known of a key in an epoch.
struct Entry<S> {
    state: Option<S>,
    /// Whether the store has another state.
    dirty: bool,
}

impl<S> Default for Entry<S> {
    fn default() -> Self {
        Entry { state: None, dirty: false }
    }
}

/// The entry of a key's state.
const STATE: u8 = 0;
/// The entry of a timer.
const TIMER: u8 = 1;

fn state_key(key: &[u8]) -> Vec<u8> {
    [&[STATE], key].concat()
}

/// Sorts by time, also before 1970.
fn timer_key(time: i64, key: &[u8]) -> Vec<u8> {
    [&[TIMER], (time ^ i64::MIN).to_be_bytes().as_slice(), key].concat()
}

/// The time and the key of a timer.
fn timer_of(entry: &[u8]) -> Option<(i64, &[u8])> {
    let (time, key) = entry.strip_prefix(&[TIMER])?.split_first_chunk()?;
    Some((i64::from_be_bytes(*time) ^ i64::MIN, key))
}

/// What an epoch makes.
struct Out {
    keys: KeyDecoder,
    values: Vec<DatumBuilder>,
    times: Vec<i64>,
    seqs: Vec<u32>,
}

impl Out {
    fn new(output: &Schema, keys: &KeyEncoder) -> Result<Self, UnsupportedType> {
        let values = output.value_fields().iter().map(|field| DatumBuilder::new(field.data_type()));
        let values = values.collect::<Result<_, _>>()?;
        Ok(Out { keys: keys.decoder()?, values, times: Vec::new(), seqs: Vec::new() })
    }

    fn finish(mut self, output: &Schema) -> Result<Batch, OperatorError> {
        let mut arrays: Vec<ArrayRef> = self.keys.finish()?;
        for builder in self.values {
            arrays.push(builder.finish()?);
        }
        let rows = record_batch(&output.columns, arrays, self.times.len())?;
        Ok(Batch { rows, time: self.times, seq: self.seqs, kind: None, null_value: None })
    }
}

/// A call of the processor: a row, or a timer.
#[derive(Clone, Copy)]
enum Call<'a> {
    Row(&'a Row<'a>),
    Timer(i64),
}

/// The work of one call of the operator.
struct Epoch<'a, 'c, P: Processor> {
    running: &'a mut Running<P>,
    context: &'a mut Context<'c>,
    store: StoreId,
    entries: Touched<Entry<P::State>>,
    out: Out,
}

impl<'a, 'c, P: Processor> Epoch<'a, 'c, P> {
    fn new(running: &'a mut Running<P>, context: &'a mut Context<'c>) -> Result<Self, OperatorError> {
        let (store, out) = (context.store(0), Out::new(&running.shared.output, &running.keys)?);
        Ok(Epoch { running, context, store, entries: Touched::default(), out })
    }

    fn rows(&mut self, input: &Batch) -> Result<(), OperatorError> {
        let shared = self.running.shared.clone();
        let columns = Column::all(input.rows.columns())?;
        let keys = self.running.keys.encode_all(input.rows.columns(), input.len())?;
        let key_columns = columns.get(..shared.input.key).unwrap_or_default();
        let mut numbers = Vec::with_capacity(input.len());
        for row in 0..input.len() {
            let number = (!all_null(key_columns, row)).then(|| self.entries.number_of(keys.get(row)));
            numbers.push(number);
        }
        self.load(0)?;
        let mut null_keys = 0;
        let rows = numbers.into_iter().zip(&input.time).zip(&input.seq).enumerate();
        for (row, ((number, &time), &seq)) in rows {
            let Some(number) = number else {
                null_keys += 1;
                continue;
            };
            let stream_time = self.running.stream_time.map_or(time, |stream_time| stream_time.max(time));
            self.running.stream_time = Some(stream_time);
            self.fire(stream_time, seq)?;
            let arrays = input.rows.columns();
            let row = Row { schema: &shared.input, arrays, columns: &columns, row, time };
            self.call(number, Call::Row(&row), stream_time, seq)?;
            self.fire(stream_time, seq)?;
        }
        self.context.count(DropReason::NullKey, null_keys);
        Ok(())
    }

    /// Reads the states of the keys from the one with number `first` on, in one go.
    fn load(&mut self, first: usize) -> Result<(), OperatorError> {
        let keys: Vec<Vec<u8>> = self.entries.keys.iter().skip(first).map(state_key).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let entries = self.entries.all.iter_mut().skip(first);
        for (entry, found) in entries.zip(self.context.state.multi_get(self.store, &keys)?) {
            if let Some(bytes) = found {
                let decoded = bincode::serde::decode_from_slice(&bytes, bincode::config::standard());
                let (state, _) = decoded.map_err(|error| OperatorError::Stored(error.to_string()))?;
                entry.state = Some(state);
            }
        }
        Ok(())
    }

    /// Runs the timers that are due.
    fn fire(&mut self, stream_time: i64, seq: u32) -> Result<(), OperatorError> {
        loop {
            if self.running.next_timer > stream_time {
                return Ok(());
            }
            let first = first_timers(self.context.state, self.store, self.running.next_timer, 1)?;
            match first.into_iter().next() {
                Some((time, key)) if time <= stream_time => self.timer(time, &key, stream_time, seq)?,
                later => {
                    self.running.next_timer = later.map_or(i64::MAX, |(time, _)| time);
                    return Ok(());
                }
            }
        }
    }

    fn timer(&mut self, time: i64, key: &[u8], stream_time: i64, seq: u32) -> Result<(), OperatorError> {
        self.context.state.delete(self.store, &timer_key(time, key));
        let known = self.entries.all.len();
        let number = self.entries.number_of(key);
        if number == known {
            self.load(known)?;
        }
        self.call(number, Call::Timer(time), stream_time, seq)
    }

    /// Lets the processor do its work on a key, and takes over what it did.
    fn call(
        &mut self,
        number: usize,
        call: Call<'_>,
        stream_time: i64,
        seq: u32,
    ) -> Result<(), OperatorError> {
        let Some(entry) = self.entries.all.get_mut(number) else { return Ok(()) };
        let shared = self.running.shared.clone();
        let mut context = KeyContext::new(&entry.state, stream_time);
        let outcome = match call {
            Call::Row(row) => shared.processor.process(row, &mut context),
            Call::Timer(time) => shared.processor.on_timer(time, &mut context),
        };
        let outcome = outcome.and_then(|()| fits(&context.done, call, &shared.output));
        let done = context.done;
        if let Err(message) = outcome {
            match call {
                Call::Row(_) => self.context.fail(seq, Code::RecordProcessor, message),
                Call::Timer(_) => self.context.fail_blameless(seq, Code::RecordProcessor, message),
            }
            return Ok(());
        }
        if let Some(state) = done.state {
            entry.dirty = true;
            entry.state = state;
        }
        let key = self.entries.keys.get(number);
        for (time, wanted) in done.timers {
            let timer = timer_key(time, key);
            if wanted {
                self.context.state.put(self.store, &timer, &[]);
                self.running.next_timer = self.running.next_timer.min(time);
            } else {
                self.context.state.delete(self.store, &timer);
            }
        }
        let time = match call {
            Call::Row(row) => row.time,
            Call::Timer(time) => time,
        };
        for values in done.forwarded {
            self.out.keys.push(key)?;
            for (builder, value) in self.out.values.iter_mut().zip(&values) {
                builder.append(value).map_err(|error| OperatorError::Internal(error.to_string()))?;
            }
            self.out.times.push(time);
            self.out.seqs.push(seq);
        }
        Ok(())
    }

    /// Writes the states that have changed, and gives what was made.
    fn finish(self) -> Result<Batch, OperatorError> {
        for (entry, key) in self.entries.all.iter().zip(self.entries.keys.iter()) {
            match &entry.state {
                _ if !entry.dirty => {}
                None => self.context.state.delete(self.store, &state_key(key)),
                Some(state) => {
                    let bytes = bincode::serde::encode_to_vec(state, bincode::config::standard()).map_err(
                        |error| OperatorError::Internal(format!("a state cannot be stored: {error}")),
                    )?;
                    self.context.state.put(self.store, &state_key(key), &bytes);
                }
            }
        }
        self.out.finish(&self.running.shared.output)
    }
}

/// Whether what a processor did can be done.
fn fits<S>(done: &Done<S>, call: Call<'_>, output: &Schema) -> Result<(), String> {
    // Else it might go on for ever.
    if let Call::Timer(now) = call
        && let Some((time, _)) = done.timers.iter().find(|(time, wanted)| *wanted && *time <= now)
    {
        return Err(format!(
            "a timer sets another one for {time}, which is not later than its own time, {now}"
        ));
    }
    let fields = output.value_fields();
    for values in &done.forwarded {
        if values.len() != fields.len() {
            return Err(format!("a row of {} values is forwarded to {} columns", values.len(), fields.len()));
        }
        let misfit = values.iter().zip(fields).find(|(value, field)| !value.is_of(field.data_type()));
        if let Some((value, field)) = misfit {
            let (name, data_type) = (field.name(), type_name(field.data_type()));
            return Err(format!("{value:?} is forwarded to the column `{name}`, which is of {data_type}"));
        }
    }
    Ok(())
}

/// The first `most` timers, in the order of their times: time and key. There are none before `from`; what has been deleted there would
/// be passed over one by one.
fn first_timers(
    state: &mut TaskState,
    store: StoreId,
    from: i64,
    most: usize,
) -> Result<Vec<(i64, Vec<u8>)>, OperatorError> {
    let timers = state.scan(store, &timer_key(from, &[]), &[TIMER + 1])?.take(most);
    timers
        .map(|entry| {
            let (entry, _) = entry?;
            let timer = timer_of(&entry).map(|(time, key)| (time, key.to_vec()));
            timer.ok_or_else(|| OperatorError::Stored("a timer has no time".to_owned()))
        })
        .collect()
}

impl<P: Processor> Operator for Running<P> {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let Some(input) = inputs.first().filter(|input| !input.is_empty()) else {
            return Ok(vec![Batch::empty(&self.shared.output.columns)]);
        };
        let mut epoch = Epoch::new(self, context)?;
        epoch.rows(input)?;
        Ok(vec![epoch.finish()?])
    }

    fn advance(
        &mut self,
        to: Advance,
        seq: u32,
        context: &mut Context<'_>,
    ) -> Result<Vec<Batch>, OperatorError> {
        let mut epoch = Epoch::new(self, context)?;
        match to {
            Advance::To(time) => {
                let stream_time = epoch.running.stream_time.map_or(time, |stream_time| stream_time.max(time));
                epoch.running.stream_time = Some(stream_time);
                epoch.fire(stream_time, seq)?;
            }
            // All that there are, but not what they set: that would never end.
            Advance::End => {
                let from = epoch.running.next_timer;
                let all = first_timers(epoch.context.state, epoch.store, from, usize::MAX)?;
                let stream_time = epoch.running.stream_time.unwrap_or_default();
                for (time, key) in all {
                    epoch.timer(time, &key, stream_time.max(time), seq)?;
                }
            }
        }
        Ok(vec![epoch.finish()?])
    }

    fn position(&self) -> Option<i64> {
        self.stream_time
    }

    fn reset(&mut self, position: Option<i64>) {
        self.stream_time = position;
        self.next_timer = i64::MIN;
    }
}
