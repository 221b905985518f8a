//! `join`: rows of two inputs that have the same key.
//!
//! Each pair of kinds is a file: two streams meet within a window of time, a stream looks up the rows of a table as they are when it
//! comes, or as they were at its event time, and the rows of two tables meet as long as they are there, under one key or where those
//! of one name the key of the other. Streams and tables look up the rows of a global table under any key.

mod as_of;
mod foreign_key;
mod global;
mod stream_stream;
mod stream_table;
mod table_table;

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::{not, nullif};
use arrow::datatypes::{FieldRef, Schema as ArrowSchema, SchemaRef};

use crate::batch::{Batch, RowKind, record_batch};
use crate::config::{Field, FieldKind, Text, format_duration};
use crate::diagnostic::{Code, Diagnostic, did_you_mean, listed};
use crate::operator::{
    Arity, Definition, Input, Operator, OperatorError, OperatorSpec, Resolved, RowsOf, Step,
    StoreDeclaration, Wanted,
};
use crate::schema::{Kind, Schema, column, type_name};
use crate::sql::{self, Expression, RowErrors};
use crate::table_rows;

/// The keys of `within` as a table.
const BOUNDS: &[Field] = &[
    Field::required("before", FieldKind::Duration, "How far before the row of `from`."),
    Field::required("after", FieldKind::Duration, "How far after it."),
];

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "join",
    summary: "Rows of two inputs with the same key: of two streams within a time, of a stream with a table, of two tables.",
    arity: Arity::Two,
    keyed: true,
    fields: &[
        Field {
            name: "with",
            kind: FieldKind::Node,
            required: true,
            doc: "The other input, under the same key, or a global table. A stream in `from` may be joined with a table, not the other way round.",
        },
        Field {
            name: "kind",
            kind: FieldKind::Choice(&["inner", "left", "outer"]),
            required: false,
            doc: "`inner` (default) gives rows that match; `left` those of `from` without a match, too; `outer` those of both, \
                  where both are streams or both tables.",
        },
        Field {
            name: "columns",
            kind: FieldKind::SqlTable,
            required: false,
            doc: "The value's columns: name = expression over both inputs, `p.amount / c.credit`. Default: the value columns of \
                  `from`, then those of `with`.",
        },
        Field {
            name: "on",
            kind: FieldKind::SqlTable,
            required: false,
            doc: "With a global table, and required there: each of its key columns = expression over `from`, `{ airport = \"origin\" }`. \
                  That is the row which is looked up; `from` may have any key, or none.",
        },
        Field {
            name: "within",
            kind: FieldKind::OneOf(&[FieldKind::Duration, FieldKind::Keys(BOUNDS)]),
            required: false,
            doc: "Of two streams: how far apart in event time rows match, `\"10m\"`, or `{ before = \"10m\", after = \"0s\" }`: how far \
                  before and after the row of `from` that of `with` may be. Both bounds count.",
        },
        Field {
            name: "grace",
            kind: FieldKind::Duration,
            required: false,
            doc: "Of two streams: how much later than stream time rows may come and still match. Of a stream with a table that keeps \
                  `history`: how long a row waits, in stream time, for versions that come late. Default: not at all.",
        },
        Field {
            name: "foreign-key",
            kind: FieldKind::OneOf(&[FieldKind::Sql, FieldKind::Named(&FieldKind::Sql)]),
            required: false,
            doc: "Of two tables: the key of `with` that a row of `from` names, as an expression over `from`; for a key of several \
                  columns a table, column = expression. The tables need no equal keys and no equal numbers of partitions: rows find \
                  each other through two topics of the application.",
        },
        Field {
            name: "max-matches",
            kind: FieldKind::Integer,
            required: false,
            doc: "How many matches a row may have; with more it fails. Of two streams: 10,000 if it is not said. With `foreign-key`: \
                  how many rows of `from` one of `with` may have, any number if it is not said.",
        },
    ],
    example: r#"[steps.known]
op      = "join"
from    = { node = "payments", as = "p" }
with    = { node = "cards", as = "c" }
kind    = "left"
columns = { amount = "p.amount", abroad = "p.country <> c.home" }"#,
    resolve,
};

/// How many matches a row of a stream has at most, if nobody says.
const MAX_MATCHES: i64 = 10_000;

/// How many it may be allowed.
const MOST_MATCHES: i64 = 10_000_000;

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    let [from, with] = step.inputs.as_slice() else { return None };
    let fields = &step.fields;
    if with.global {
        return global::resolve(step, from, with);
    }
    if fields.has("on") {
        let message = format!("`on` of a join with `{}`, which is no global table", with.from.value);
        let help = "rows are joined that have the same key: bring `from` under it with `rekey`, or give the table `scope = \"global\"`";
        step.error(Code::GlobalKey, fields.key_span("on"), message, help);
        return None;
    }
    if fields.has("foreign-key") {
        return foreign_key::resolve(step, from, with);
    }
    let kinds = (from.schema.kind, with.schema.kind);
    if kinds == (Kind::Table, Kind::Stream) {
        let message = format!("`{}` is a table and `{}` a stream", from.from.value, with.from.value);
        let help = format!(
            "join the stream with the table: from = \"{}\", with = \"{}\"",
            with.from.value, from.from.value
        );
        step.error(Code::WrongInputKind, with.from.span.clone(), message, help);
        return None;
    }
    let of_streams = kinds == (Kind::Stream, Kind::Stream);
    same_keys(step, from, with)?;
    let no_outer = (kinds == (Kind::Stream, Kind::Table)).then_some((
        "an outer join of a stream with a table",
        "a row of a table is no event that could come without a match: use `kind = \"left\"`",
    ));
    let kind = kind(step, no_outer)?;
    let history = if kinds == (Kind::Stream, Kind::Table) { with.history } else { None };
    if !of_streams {
        refuse(step, &["within"], A_TABLE)?;
        if kinds.0 == Kind::Stream && history.is_none() && fields.has("grace") {
            let message = "`grace` of a join with a table";
            let help = "rows are joined with the table as it is when they come: remove `grace`, or give the table a `history`";
            step.error(Code::Within, fields.key_span("grace"), message, help);
            return None;
        }
        refuse(step, if history.is_some() { &["max-matches"] } else { &["grace", "max-matches"] }, A_TABLE)?;
    }
    let history = match history {
        Some(history) => Some(History { history, grace: grace_within(step, history)? }),
        None => None,
    };
    let join = Join {
        window: if of_streams { Some(window(step)?) } else { None },
        history,
        ..Join::new(from, with, kind, columns(step, from, with)?)
    };
    Some(Resolved::simple(join.schema.clone(), join))
}

/// What rows are joined with, and why they wait for nothing.
type With = (&'static str, &'static str);

const A_TABLE: With = ("a table", "rows of a table are joined as long as they are there");

/// Reports fields that mean nothing in such a join.
fn refuse(step: &Step<'_>, fields: &[&str], (with, why): With) -> Option<()> {
    let Some(field) = fields.iter().find(|field| step.fields.has(field)) else { return Some(()) };
    let message = format!("`{field}` of a join with {with}");
    step.error(Code::Within, step.fields.key_span(field), message, format!("{why}: remove `{field}`"));
    None
}

/// Reads `kind`. If there are no outer joins of such inputs, `no_outer` says so, and what to do.
fn kind(step: &Step<'_>, no_outer: Option<(&str, &str)>) -> Option<JoinKind> {
    let Some(choice) = step.fields.choice("kind", &["inner", "left", "outer"]) else {
        return Some(JoinKind::Inner);
    };
    Some(match (choice.value, no_outer) {
        ("outer", Some((message, help))) => {
            step.error(Code::InvalidChoice, choice.span, message, help);
            return None;
        }
        ("outer", None) => JoinKind::Outer,
        ("left", _) => JoinKind::Left,
        _ => JoinKind::Inner,
    })
}

/// What each key column of `with` is, over the rows of `from`: an expression for each, in their order. `table` is what `with` is
/// called in messages, `example` how the field that says it is written.
fn key_over_from(
    step: &Step<'_>,
    with: &Input,
    (field, code): (&str, Code),
    said: &[(Text, Text)],
    (table, example): (&str, &str),
) -> Option<Vec<Expression>> {
    let key = with.schema.key_fields();
    let names = || key.iter().map(|field| field.name().as_str());
    let mut complete = true;
    for (name, _) in said.iter().filter(|(name, _)| !names().any(|column| column == name.value)) {
        let message = format!("`{}` is no key column of {table}", name.value);
        let help =
            did_you_mean(name, names()).unwrap_or_else(|| format!("its key columns are {}", listed(names())));
        step.error(code, name.span.clone(), message, help);
        complete = false;
    }
    let missing: Vec<&str> =
        names().filter(|column| !said.iter().any(|(name, _)| name.value == *column)).collect();
    if !missing.is_empty() && complete {
        let message = format!("`{field}` does not say {} of {table}", listed(missing));
        step.error(code, step.fields.key_span(field), message, example);
        complete = false;
    }
    let expressions = key.iter().filter_map(|column| {
        let (_, text) = said.iter().find(|(name, _)| name.value == *column.name())?;
        key_expression(step, column, text, code)
    });
    let expressions: Vec<Expression> = expressions.collect();
    (complete && expressions.len() == key.len()).then_some(expressions)
}

/// An expression over the rows of `from` that has the type of a key column of `with`.
fn key_expression(step: &Step<'_>, column: &FieldRef, text: &Text, code: Code) -> Option<Expression> {
    let expression = step.expression(text)?;
    if expression.data_type() == column.data_type() {
        return Some(expression);
    }
    let (found, expected) = (type_name(expression.data_type()), type_name(column.data_type()));
    let message = format!("`{}` is {expected}, but this is {found}", column.name());
    let help = "both must have the same type: convert it with `cast(… as …)`";
    step.error(code, text.span.clone(), message, help);
    None
}

/// How the key of `with` is said by a table of its columns.
fn key_example(field: &str, with: &Input) -> String {
    let columns = with.schema.key_fields().iter();
    let columns: Vec<String> = columns.map(|column| format!("{} = \"…\"", column.name())).collect();
    format!("{field} = {{ {} }}", columns.join(", "))
}

/// Whether rows of both inputs can have the same key; reports that they cannot.
fn same_keys(step: &Step<'_>, from: &Input, with: &Input) -> Option<()> {
    step.require_key_of(from)?;
    step.require_key_of(with)?;
    let key = |input: &Input| {
        let fields = input.schema.key_fields().iter();
        fields.map(|field| type_name(field.data_type())).collect::<Vec<_>>().join(", ")
    };
    if key(from) == key(with) && from.schema.windowed == with.schema.windowed {
        // Rows of one key must lie in one partition.
        let (ranked, other) = if from.schema.ranked { (from, with) } else { (with, from) };
        if from.schema.ranked == with.schema.ranked {
            return Some(());
        }
        let message = format!(
            "the rows of `{}` lie in the partitions of its key without the rank, those of `{}` in that of the whole key",
            ranked.from.value, other.from.value
        );
        let help = "bring them under the whole key: make a stream of the ranks with `to-stream` and give it the key with `rekey`";
        step.error(Code::JoinKeys, ranked.from.span.clone(), message, help);
        return None;
    }
    let said = |input: &Input| {
        let fields = input.schema.key_fields().iter();
        let fields = fields.map(|field| format!("{} {}", field.name(), type_name(field.data_type())));
        fields.collect::<Vec<_>>().join(", ")
    };
    let message = format!(
        "the key of `{}` is ({}), that of `{}` is ({})",
        from.from.value,
        said(from),
        with.from.value,
        said(with)
    );
    let diagnostic = Diagnostic::error(Code::JoinKeys, with.from.span.clone(), message)
        .also(from.from.span.clone(), "the other input")
        .help("rows are joined that have the same key, of the same types: bring one under the key of the other with `rekey`");
    step.diagnostics().push(diagnostic);
    None
}

/// The value columns of results.
fn columns(step: &Step<'_>, from: &Input, with: &Input) -> Option<Vec<(FieldRef, Expression)>> {
    let fields = &step.fields;
    let key = from.schema.key_fields();
    if fields.has("columns") {
        let said = fields.text_table("columns")?;
        if said.is_empty() {
            let help = "name at least one column, or remove `columns` for those of both inputs";
            step.error(Code::NoColumns, fields.key_span("columns"), "`columns` is empty", help);
            return None;
        }
        let scope = step
            .scope_over(&[(from.qualifier.as_str(), &from.schema), (with.qualifier.as_str(), &with.schema)]);
        let mut columns = Vec::with_capacity(said.len());
        for (name, text) in &said {
            if key.iter().any(|field| *field.name() == name.value) {
                step.error(
                    Code::ColumnClash,
                    name.span.clone(),
                    format!("`{}` is a key column of the result", name.value),
                    "the key columns of `from` are kept as they are; choose another name",
                );
                continue;
            }
            if let Some(expression) = step.located(text, sql::compile(text, &scope)) {
                columns.push((column(&name.value, expression.data_type().clone()), expression));
            }
        }
        return (columns.len() == said.len()).then_some(columns);
    }
    // The columns of `with` come after those of `from`.
    let first = from.schema.columns.fields().len();
    let both = from.schema.columns.fields().iter().chain(with.schema.columns.fields());
    let both = Schema::new(Kind::Stream, Vec::new(), both.cloned().collect());
    let of_from = from.schema.key..first;
    let of_with = first + with.schema.key..both.columns.fields().len();
    let mut columns: Vec<(FieldRef, Expression)> = Vec::new();
    for index in of_from.chain(of_with) {
        let field = both.columns.fields().get(index)?;
        let taken = key.iter().chain(columns.iter().map(|(field, _)| field));
        if taken.into_iter().any(|other| other.name() == field.name()) {
            let message = format!(
                "`{}` and `{}` both have a column `{}`",
                from.from.value,
                with.from.value,
                field.name()
            );
            let diagnostic = Diagnostic::error(Code::ColumnClash, with.from.span.clone(), message)
                .also(from.from.span.clone(), "the other input")
                .help(format!(
                    "say which columns there are: columns = {{ {name} = \"{}.{name}\", … }}",
                    from.qualifier,
                    name = field.name()
                ));
            step.diagnostics().push(diagnostic);
            return None;
        }
        columns.push((field.clone(), Expression::column(&both, index)?));
    }
    Some(columns)
}

/// Reads `grace` of a join with a table that keeps so much history.
fn grace_within(step: &Step<'_>, history: i64) -> Option<i64> {
    let Some(grace) = step.fields.duration("grace") else { return Some(0) };
    if grace.value > history {
        let message = format!(
            "rows wait for {}, but the table keeps {} of history",
            format_duration(grace.value),
            format_duration(history)
        );
        step.error(
            Code::InvalidWindow,
            grace.span,
            message,
            "let the table keep at least as much `history` as the `grace` of those that look it up",
        );
        return None;
    }
    Some(grace.value)
}

/// Reads `within`, `grace` and `max-matches`.
fn window(step: &Step<'_>) -> Option<Window> {
    let fields = &step.fields;
    let Some(within) = fields.get("within") else {
        step.error(
            Code::Within,
            fields.header.clone(),
            "a join of two streams without `within`",
            "say how far apart rows match, or both would be kept for ever: within = \"10m\"",
        );
        return None;
    };
    let (before, after) = if within.get_ref().is_table() {
        let table = fields.table("within", "`within`")?;
        table.deny_unknown(BOUNDS.iter().map(|field| field.name));
        let bound = |key: &str| match table.has(key) {
            true => table.duration(key).map(|bound| bound.value),
            false => {
                table.missing(key, &format!("say how far {key} the row of `from`: {key} = \"0s\""));
                None
            }
        };
        let (before, after) = (bound("before"), bound("after"));
        (before?, after?)
    } else {
        let within = fields.duration("within")?.value;
        (within, within)
    };
    let grace = fields.duration("grace").map_or(0, |grace| grace.value);
    let max_matches = fields.integer("max-matches", 1..=MOST_MATCHES).map_or(MAX_MATCHES, |most| most.value);
    Some(Window { before, after, grace, max_matches: max_matches as usize })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JoinKind {
    Inner,
    Left,
    Outer,
}

impl JoinKind {
    fn name(self) -> &'static str {
        match self {
            JoinKind::Inner => "inner",
            JoinKind::Left => "left",
            JoinKind::Outer => "outer",
        }
    }

    /// Whether there is a result of what is there of both inputs.
    fn has_result(self, from: bool, with: bool) -> bool {
        match self {
            JoinKind::Inner => from && with,
            JoinKind::Left => from,
            JoinKind::Outer => from || with,
        }
    }
}

/// Of two streams; times in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// How far before a row of `from` that of `with` may be.
    before: i64,
    /// How far after it.
    after: i64,
    grace: i64,
    max_matches: usize,
}

/// Of a stream with a table that keeps its history; times in milliseconds.
#[derive(Clone, Copy, Debug)]
struct History {
    history: i64,
    /// How long rows of the stream wait for versions that come late.
    grace: i64,
}

/// A checked `join`.
#[derive(Clone, Debug)]
struct Join {
    from: Schema,
    with: Schema,
    /// The columns of both inputs, which `columns` see.
    both: SchemaRef,
    schema: Schema,
    kind: JoinKind,
    /// Of the value columns, in order.
    columns: Vec<Expression>,
    /// Of two streams.
    window: Option<Window>,
    /// Of a stream with a table that keeps its history.
    history: Option<History>,
}

/// What one input has for results: a row each, or none.
struct Side {
    /// The value columns.
    values: Vec<ArrayRef>,
    /// Where there is a row; `None`: everywhere.
    present: Option<BooleanArray>,
}

impl Side {
    /// `present` says where there is a row.
    fn new(values: Vec<ArrayRef>, present: impl Iterator<Item = bool>) -> Self {
        let present: BooleanArray = present.map(Some).collect();
        Side { values, present: (present.true_count() < present.len()).then_some(present) }
    }
}

/// When and why results are there.
struct Marks {
    time: Vec<i64>,
    seq: Vec<u32>,
    /// `None` for streams.
    kind: Option<Vec<RowKind>>,
}

impl Join {
    fn cannot_fail(&self) -> bool {
        self.columns.iter().all(Expression::cannot_fail)
    }

    /// Of inputs whose rows have the same key, or name each other.
    fn new(from: &Input, with: &Input, kind: JoinKind, columns: Vec<(FieldRef, Expression)>) -> Self {
        let (names, columns): (Vec<FieldRef>, Vec<Expression>) = columns.into_iter().unzip();
        let schema = Schema {
            windowed: from.schema.windowed,
            ranked: from.schema.ranked,
            // A row changes until both of its inputs no longer do.
            closes_after: from
                .schema
                .closes_after
                .zip(with.schema.closes_after)
                .map(|(from, with)| from.max(with)),
            ..Schema::new(from.schema.kind, from.schema.key_fields().to_vec(), names)
        };
        let both = from.schema.columns.fields().iter().chain(with.schema.columns.fields());
        Join {
            both: Arc::new(ArrowSchema::new(both.cloned().collect::<Vec<_>>())),
            from: from.schema.clone(),
            with: with.schema.clone(),
            schema,
            kind,
            columns,
            window: None,
            history: None,
        }
    }

    /// Results under `key` of what both inputs have, and the errors of some.
    fn results(
        &self,
        key: Vec<ArrayRef>,
        sides: [Side; 2],
        marks: Marks,
    ) -> Result<(Batch, RowErrors), OperatorError> {
        let mut both = Vec::with_capacity(self.both.fields().len());
        for side in sides {
            match &side.present {
                None => both.extend(key.iter().cloned()),
                Some(present) => {
                    let absent = not(present)?;
                    for column in &key {
                        both.push(nullif(column, &absent)?);
                    }
                }
            }
            both.extend(side.values);
        }
        self.results_of(key, both, marks)
    }

    /// Results under `key` of the columns of both inputs, and the errors of some.
    fn results_of(
        &self,
        key: Vec<ArrayRef>,
        both: Vec<ArrayRef>,
        marks: Marks,
    ) -> Result<(Batch, RowErrors), OperatorError> {
        let count = marks.time.len();
        let both = record_batch(&self.both, both, count)?;
        let (columns, errors) = sql::evaluate_all(&self.columns, &both);
        let arrays = key.into_iter().chain(columns).collect();
        let batch = Batch {
            rows: record_batch(&self.schema.columns, arrays, count)?,
            time: marks.time,
            seq: marks.seq,
            kind: marks.kind,
            null_value: None,
        };
        Ok((batch, errors))
    }
}

impl Definition for Join {
    fn stores(&self) -> Vec<StoreDeclaration> {
        match (self.window, self.from.kind) {
            (Some(window), _) => stream_stream::stores(self, window),
            (None, Kind::Stream) => match self.history {
                Some(history) => as_of::stores(self, history),
                None => vec![table_rows::declaration(&self.with, "-with", Some(RowsOf::Newest(1)))],
            },
            (None, Kind::Table) => vec![
                table_rows::declaration(&self.from, "-from", Some(RowsOf::Newest(0))),
                table_rows::declaration(&self.with, "-with", Some(RowsOf::Newest(1))),
            ],
        }
    }

    fn reads_versions(&self, input: usize) -> bool {
        input == 1 && self.history.is_some()
    }

    // What a change replaces is read from the stores.
    fn needs_before(&self, _: &Wanted) -> bool {
        false
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![("kind", self.kind.name().to_owned())];
        if let Some(Window { before, after, grace, .. }) = self.window {
            facts.push(("before", format_duration(before)));
            facts.push(("after", format_duration(after)));
            facts.push(("grace", format_duration(grace)));
        }
        if let Some(History { history, grace }) = self.history {
            facts.push(("history", format_duration(history)));
            facts.push(("grace", format_duration(grace)));
        }
        facts
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(match (self.window, self.from.kind) {
            (Some(window), _) => Box::new(stream_stream::StreamStream::new(self.clone(), window)?),
            (None, Kind::Stream) => match self.history {
                Some(history) => Box::new(as_of::AsOf::new(self.clone(), history)?),
                None => Box::new(stream_table::StreamTable::new(self.clone())?),
            },
            (None, Kind::Table) => Box::new(table_table::TableTable::new(self.clone(), *wanted)?),
        })
    }
}

/// The value columns of a batch of an input.
fn values<'b>(batch: &'b Batch, schema: &Schema) -> &'b [ArrayRef] {
    batch.rows.columns().get(schema.key..).unwrap_or_default()
}

/// The key columns of a batch of an input, in the form in which equal keys have equal bytes.
fn keys(batch: &Batch, schema: &Schema) -> Vec<ArrayRef> {
    batch.rows.columns().iter().take(schema.key).map(crate::key::normalised).collect()
}

/// The rows of both inputs in the order of their coming: sequence number, side, row.
fn in_order(inputs: [&Batch; 2]) -> Vec<(u32, usize, usize)> {
    let mut rows = Vec::with_capacity(inputs.iter().map(|batch| batch.len()).sum());
    for (side, batch) in inputs.iter().enumerate() {
        rows.extend(batch.seq.iter().enumerate().map(|(row, seq)| (*seq, side, row)));
    }
    rows.sort_unstable();
    rows
}
