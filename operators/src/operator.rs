//! What an operator is: a definition that `check` can ask, and a running part per task.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::error::ArrowError;
use millstream_state::value::ValueError;
use millstream_state::{Fingerprint, StateError, StoreId, TaskState};

use crate::batch::{Batch, RowKind};
use crate::config::{Field, Fields, Text};
use crate::datum::DecodeError;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Span, did_you_mean, listed};
use crate::key::KeyDecodeError;
use crate::row::RowDecodeError;
use crate::schema::{Kind, Schema};
use crate::sql::{self, Expression, Functions, Scope, SqlError};

/// How many inputs an operator takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// `from = "node"`.
    One,
    /// `from = ["a", "b"]`.
    Many,
    /// `from = "a"` and `with = "b"`.
    Two,
}

/// An operator as the topology language offers it: one line in the registry.
#[derive(Debug)]
pub struct OperatorSpec {
    /// The name in `op = "…"`.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// How many inputs it takes.
    pub arity: Arity,
    /// Whether it finds rows by key, so that an upstream change of key needs a repartition topic before it.
    pub keyed: bool,
    /// Its own fields; `op`, `from`, `description`, `on-error` and `dead-letter` are everyone's.
    pub fields: &'static [Field],
    /// A step that uses it, as TOML, for the reference.
    pub example: &'static str,
    /// From the fields to a definition. Reports what is wrong and then answers `None`.
    pub resolve: fn(&Step<'_>) -> Option<Resolved>,
}

/// A step as its operator sees it while the topology is checked.
pub struct Step<'a> {
    /// The step's name.
    pub name: &'a str,
    /// Its inputs, in the order of `from`; at least one.
    pub inputs: Vec<Input>,
    /// Its fields.
    pub fields: Fields<'a>,
    /// The models of the topology, by name; `None` for one that could not be loaded (already reported).
    pub models: &'a BTreeMap<String, Option<Arc<crate::model::Model>>>,
    /// What expressions may call.
    pub functions: &'a Arc<Functions>,
}

impl Step<'_> {
    /// The first input.
    #[expect(clippy::indexing_slicing, reason = "a step without input is never resolved")]
    pub fn input(&self) -> &Input {
        &self.inputs[0]
    }

    /// Where findings go.
    pub fn diagnostics(&self) -> &Diagnostics {
        self.fields.diagnostics()
    }

    /// The columns of the first input, as its expressions see them.
    pub fn scope(&self) -> Scope {
        self.scope_of(&self.input().schema)
    }

    /// Expressions over `schema`, qualified as the first input is.
    pub fn scope_of(&self, schema: &Schema) -> Scope {
        self.scope_over(&[(self.input().qualifier.as_str(), schema)])
    }

    /// Expressions over several schemas, each with its qualifier.
    pub fn scope_over(&self, inputs: &[(&str, &Schema)]) -> Scope {
        Scope::new(self.functions, inputs)
    }

    /// A scalar expression over the first input.
    pub fn expression(&self, text: &Text) -> Option<Expression> {
        self.located(text, sql::compile(text, &self.scope()))
    }

    /// A condition over the first input.
    pub fn condition(&self, text: &Text) -> Option<Expression> {
        self.located(text, sql::compile_condition(text, &self.scope()))
    }

    /// The outcome of compiling `text`, its errors reported at their places in the file.
    pub fn located<T>(&self, text: &Text, outcome: Result<T, Vec<SqlError>>) -> Option<T> {
        outcome.map_err(|errors| report_sql(self.diagnostics(), text, errors)).ok()
    }

    /// Reports an error.
    pub fn error(&self, code: Code, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.diagnostics().push(Diagnostic::error(code, span, message).help(help));
    }

    /// A column of `schema` by name; reports an unknown one.
    pub fn column(&self, name: &Text, schema: &Schema) -> Option<usize> {
        let index = schema.index_of(name);
        if index.is_none() {
            let help = did_you_mean(name, schema.names())
                .unwrap_or_else(|| format!("columns are {}", listed(schema.names())));
            self.error(
                Code::UnknownColumn,
                name.span.clone(),
                format!("no column `{}` in `{}`", name.value, self.input().from.value),
                help,
            );
        }
        index
    }

    /// Whether every input is of `kind`; reports the first that is not.
    pub fn require_kind(&self, kind: Kind, help: &str) -> Option<()> {
        for input in &self.inputs {
            if input.schema.kind != kind {
                let message = format!(
                    "`{}` is a {}, expected a {}",
                    input.from.value,
                    input.schema.kind.name(),
                    kind.name()
                );
                self.error(Code::WrongInputKind, input.from.span.clone(), message, help);
                return None;
            }
        }
        Some(())
    }

    /// Whether the first input has a key; reports that it has none.
    pub fn require_key(&self) -> Option<()> {
        self.require_key_of(self.input())
    }

    /// Whether an input has a key; reports that it has none.
    pub fn require_key_of(&self, input: &Input) -> Option<()> {
        if input.schema.key > 0 {
            return Some(());
        }
        self.error(
            Code::NoKey,
            input.from.span.clone(),
            format!("`{}` has no key", input.from.value),
            "give its source a `key`, or put a `rekey` step before this one",
        );
        None
    }
}

/// Reports the errors of an expression at their places in the file.
pub fn report_sql(diagnostics: &Diagnostics, text: &Text, errors: Vec<SqlError>) {
    for error in errors {
        diagnostics
            .push(Diagnostic::error(error.code, text.place(error.span), error.message).help_if(error.help));
    }
}

/// One input of a step.
#[derive(Clone, Debug)]
pub struct Input {
    /// As written in `from`.
    pub from: Text,
    /// By which its columns may be qualified in expressions.
    pub qualifier: String,
    /// Its columns.
    pub schema: Schema,
    /// How many milliseconds of history the table keeps that it is; `None`: it keeps none.
    pub history: Option<i64>,
    /// Whether it is a global table: none of its rows come as input, all of them can be looked up.
    pub global: bool,
}

/// What a step means.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Its outputs: the unnamed one first; branches and `late` by name.
    pub outputs: Vec<Output>,
    /// What runs before the repartition topics that the step needs for itself, in the order in which it runs.
    pub stages: Vec<Stage>,
    /// What its definition reads. Without stages: the step's inputs, in their order.
    pub reads: Vec<Feed>,
    /// Whether the output is under another key than the input, so that keyed steps after it need a repartition topic.
    pub rekeys: Option<Rekeys>,
    /// What runs.
    pub definition: Arc<dyn Definition>,
}

impl Resolved {
    /// A step that needs nothing special.
    pub fn new(outputs: Vec<Output>, definition: Arc<dyn Definition>) -> Self {
        Resolved { outputs, stages: Vec::new(), reads: Vec::new(), rekeys: None, definition }
    }

    /// A step with one output that needs nothing special.
    pub fn simple(schema: Schema, definition: impl Definition + 'static) -> Self {
        Resolved::new(vec![Output::main(schema)], Arc::new(definition))
    }

    /// Whether its definition reads this input itself, not only what comes before its topics.
    pub fn reads_input(&self, number: usize) -> bool {
        self.stages.is_empty() || self.reads.contains(&Feed::Input(number))
    }
}

/// A part of a step that writes a repartition topic for what comes after it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// What it does; stands after the step's name where the part has one of its own: `spend/group-by`.
    pub name: &'static str,
    /// Between the step's name and `-repartition` in the topic's name.
    pub topic: &'static str,
    /// What it reads.
    pub reads: Vec<Feed>,
    /// The rows in the topic.
    pub schema: Schema,
    /// The topic's partition count, if it has to have one of its own.
    pub partitions: Option<u32>,
    /// What makes them.
    pub definition: Arc<dyn Definition>,
}

/// What a part of a step reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// An input of the step.
    Input(usize),
    /// The topic of a stage that comes before it.
    Stage(usize),
}

/// A change of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rekeys {
    /// The partition count of the repartition topic, if the user gave one.
    pub partitions: Option<u32>,
}

/// One output of a node.
#[derive(Clone, Debug)]
pub struct Output {
    /// `None` for the output that the node's own name stands for.
    pub name: Option<String>,
    /// Its columns.
    pub schema: Schema,
    /// Whether nothing is wrong if nobody reads it.
    pub optional: bool,
}

impl Output {
    /// The output that the node's own name stands for.
    pub fn main(schema: Schema) -> Self {
        Output { name: None, schema, optional: false }
    }
}

/// What a store holds; decides how its changelog topic is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Newest value per key.
    KeyValue,
    /// Entries that expire by stream time after this many milliseconds.
    Window {
        /// Milliseconds an entry is kept.
        retention: i64,
    },
}

/// A store that an operator needs.
#[derive(Clone, Debug)]
pub struct StoreDeclaration {
    /// Appended to the node's name: `-with`; empty for the operator's only store.
    pub suffix: &'static str,
    /// How it is kept.
    pub kind: StoreKind,
    /// Changes when old bytes would be read wrongly.
    pub fingerprint: Fingerprint,
    /// Whose rows it holds. If the node that makes them keeps them already, its store takes the place of this one, which is only
    /// read then.
    pub rows_of: Option<RowsOf>,
}

impl StoreDeclaration {
    /// A store of its own, whose bytes are read rightly by whoever names the same `parts`.
    pub fn new(suffix: &'static str, kind: StoreKind, parts: &[String]) -> Self {
        let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        StoreDeclaration { suffix, kind, fingerprint: Fingerprint::of(&parts), rows_of: None }
    }
}

/// Rows of an input, as the node above keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsOf {
    /// The newest ones of this input.
    Newest(usize),
    /// The versions of this input.
    Versions(usize),
}

impl RowsOf {
    /// The input.
    pub fn input(self) -> usize {
        match self {
            RowsOf::Newest(input) | RowsOf::Versions(input) => input,
        }
    }

    /// The position among the stores of a node that [keeps rows](Definition::keeps_rows).
    pub fn position(self) -> usize {
        match self {
            RowsOf::Newest(_) => 0,
            RowsOf::Versions(_) => 1,
        }
    }
}

/// A checked step: immutable, shared by all tasks.
pub trait Definition: Debug + Send + Sync {
    /// The stores it needs, in the order in which [`Context::stores`] has them.
    fn stores(&self) -> Vec<StoreDeclaration> {
        Vec::new()
    }

    /// Whether its stores hold the rows of its output, as [`StoreDeclaration::rows_of`] has them: the newest, then the versions.
    fn keeps_rows(&self) -> bool {
        false
    }

    /// Whether it reads the versions of an input that is a table with history, each as it comes, instead of the changes.
    fn reads_versions(&self, input: usize) -> bool {
        let _ = input;
        false
    }

    /// What `describe` shows besides the name: `("window", "tumbling 1m")`.
    fn facts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Whether it passes changes of a table on one for one (filter, select) and fails on none, so that its own input may be
    /// folded if all its consumers allow it: a change that is folded away could not fail.
    fn folds_through(&self) -> bool {
        false
    }

    /// Whether what it reads may wait for the commit: of each key of a table come then the first row before and the last one after,
    /// and a `delete` of a row that came and went meanwhile. For stages that fail on no row.
    fn may_wait(&self) -> bool {
        false
    }

    /// Whether it needs the row that a change replaces (`update-before`) in its input.
    fn needs_before(&self, wanted: &Wanted) -> bool {
        wanted.before
    }

    /// The running part for one task.
    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError>;
}

/// What a node's consumers want of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Changes of one key within an epoch may be folded into one (first before, last after): nobody downstream can tell.
    pub fold: bool,
    /// The row that a change replaces is needed (`update-before`, and the columns of deleted rows).
    pub before: bool,
}

/// An error of one row: its path ends here, and the step's `on-error` decides what happens to its input record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Sequence number of the input record.
    pub seq: u32,
    /// Stable code.
    pub code: Code,
    /// What was wrong, with the values concerned.
    pub message: String,
    /// Whether the record is to blame. If not, it goes on whatever `on-error` says, unless that is `fail`.
    pub of_record: bool,
}

/// Why a row was dropped without being an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// A key is needed and the row has none.
    NullKey,
    /// A value is needed and the row has none.
    NullValue,
    /// The row is older than the operator's grace allows.
    Late,
    /// The row is too near to one that was kept.
    Duplicate,
}

impl DropReason {
    /// The label in metrics and summaries.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::NullKey => "null-key",
            DropReason::NullValue => "null-value",
            DropReason::Late => "late",
            DropReason::Duplicate => "duplicate",
        }
    }
}

/// What an operator works with during one call.
pub struct Context<'a> {
    /// The task's stores.
    pub state: &'a mut TaskState,
    /// The operator's stores, as its definition declared them.
    pub stores: &'a [StoreId],
    /// Those of them that belong to the nodes above: their positions.
    pub borrowed: &'a [usize],
    /// The rows of the global table that it looks up, in the only store there.
    pub global: Option<&'a TaskState>,
    /// Errors of rows.
    pub errors: Vec<RowError>,
    /// Rows dropped or counted, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl<'a> Context<'a> {
    /// A context over `state` and the operator's `stores`.
    pub fn new(state: &'a mut TaskState, stores: &'a [StoreId]) -> Self {
        Context { state, stores, borrowed: &[], global: None, errors: Vec::new(), dropped: BTreeMap::new() }
    }

    /// Reports an error of the row.
    pub fn fail(&mut self, seq: u32, code: Code, message: impl Into<String>) {
        self.errors.push(RowError { seq, code, message: message.into(), of_record: true });
    }

    /// Reports an error of a row that the record with this sequence number only brought to light.
    pub fn fail_blameless(&mut self, seq: u32, code: Code, message: impl Into<String>) {
        self.errors.push(RowError { seq, code, message: message.into(), of_record: false });
    }

    /// Takes over the errors of an expression and answers which rows are without one; `None` if all are.
    pub fn without_errors(
        &mut self,
        batch: &Batch,
        errors: &[(usize, Code, String)],
    ) -> Option<BooleanArray> {
        if errors.is_empty() {
            return None;
        }
        let mut keep = vec![true; batch.len()];
        for (row, code, message) in errors {
            if let (Some(seq), Some(kept)) = (batch.seq.get(*row), keep.get_mut(*row)) {
                *kept = false;
                // What a change replaces or deletes failed when it was new, and that was said then.
                if matches!(batch.kind(*row), RowKind::Insert | RowKind::UpdateAfter) {
                    self.fail(*seq, *code, message.as_str());
                }
            }
        }
        Some(BooleanArray::from(keep))
    }

    /// Counts rows that were dropped, or that are late.
    pub fn count(&mut self, reason: DropReason, rows: u64) {
        if rows > 0 {
            *self.dropped.entry(reason).or_default() += rows;
        }
    }

    /// The store at position `index` of the definition's list.
    #[expect(
        clippy::indexing_slicing,
        reason = "the planner gives every operator the stores that it declared"
    )]
    pub fn store(&self, index: usize) -> StoreId {
        self.stores[index]
    }

    /// Whether the store at position `index` is the operator's own, to be written by it.
    pub fn owns(&self, index: usize) -> bool {
        !self.borrowed.contains(&index)
    }
}

/// How far stream time goes without a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// To this time, in milliseconds since 1970.
    To(i64),
    /// To the end: open windows close and what is held back is sent; `retain` does not fire.
    End,
}

/// What stops a task: never the fault of a record.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// Arrays did not fit each other.
    #[error("internal error in an operator (please report it): {0}")]
    Arrow(#[from] ArrowError),
    /// Bytes in a store cannot be read.
    #[error(
        "an entry of a store cannot be read: {0}; the store is damaged or was written by another version"
    )]
    Stored(String),
    /// An invariant does not hold.
    #[error("internal error in an operator (please report it): {0}")]
    Internal(String),
}

/// Bytes of a store that cannot be read.
macro_rules! stored {
    ($($error:ty),*) => {$(
        impl From<$error> for OperatorError {
            fn from(error: $error) -> Self {
                OperatorError::Stored(error.to_string())
            }
        }
    )*};
}

stored!(ValueError, KeyDecodeError, RowDecodeError, DecodeError);

impl From<crate::columns::UnsupportedType> for OperatorError {
    fn from(unsupported: crate::columns::UnsupportedType) -> Self {
        OperatorError::Arrow(unsupported.into())
    }
}

/// The running part of a step in one task. Between two epochs everything it holds is a function of its stores and its
/// [position](Operator::position): a restart must not be visible.
pub trait Operator: Send {
    /// Processes the rows of one epoch: one batch per input, each ordered by `seq`; gives one batch per output of the step.
    /// Rows mean what they would mean one at a time, in the order of (`seq`, input).
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError>;

    /// Stream time goes on without a row; rows caused by it have sequence number `seq`. An empty answer stands for no rows.
    fn advance(
        &mut self,
        to: Advance,
        seq: u32,
        context: &mut Context<'_>,
    ) -> Result<Vec<Batch>, OperatorError> {
        let _ = (to, seq, context);
        Ok(Vec::new())
    }

    /// What must be committed besides the stores: the stream time, for operators that have one.
    fn position(&self) -> Option<i64> {
        None
    }

    /// Forgets everything that is not in the stores and takes up a committed position: at start, and when an epoch is undone.
    fn reset(&mut self, position: Option<i64>) {
        let _ = position;
    }
}
