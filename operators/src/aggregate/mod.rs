//! `aggregate`: SQL aggregates per key, or per key and window.

mod changes;
mod groups;
mod session_windows;
mod sliding_windows;
mod table_groups;
mod time_windows;
mod unwindowed;

use std::sync::Arc;

use self::changes::Changes;
use crate::aggregates::AggregatePlan;
use crate::batch::Batch;
use crate::config::{Field, FieldKind, format_duration};
use crate::diagnostic::{Code, Diagnostic};
use crate::operator::{
    Arity, Context, Definition, Operator, OperatorError, OperatorSpec, Output, Resolved, Step,
    StoreDeclaration, StoreKind, Wanted,
};
use crate::rekey::Rekey;
use crate::schema::{Kind, Schema, TIMESTAMP, column};

const fn length(name: &'static str, doc: &'static str) -> Field {
    Field::required(name, FieldKind::Duration, doc)
}

/// The kinds of windows.
const WINDOWS: &[FieldKind] = &[
    FieldKind::Keys(&[length("tumbling", "The length of windows that follow each other.")]),
    FieldKind::Keys(&[
        length("hopping", "The length of the windows."),
        length("every", "How far apart they begin; at most their length."),
    ]),
    FieldKind::Keys(&[length("sliding", "The length of windows around rows.")]),
    FieldKind::Keys(&[length("session", "The gap: a session ends when there is no row for this long.")]),
];

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "aggregate",
    summary: "SQL aggregates per key, or per key and window, of a stream, or per key of a table; the result is a table.",
    arity: Arity::One,
    keyed: true,
    fields: &[
        Field {
            name: "columns",
            kind: FieldKind::SqlTable,
            required: true,
            doc: "The result's columns: name = SQL with aggregates, such as `sum(amount) / count(*)` or \
                  `count(*) filter (where amount > 100)`.",
        },
        Field {
            name: "window",
            kind: FieldKind::OneOf(WINDOWS),
            required: false,
            doc: "One result per key and window; the key gains `window_start` and `window_end`. `{ tumbling = \"1m\" }` or \
                  `{ hopping = \"10m\", every = \"1m\" }`: windows [start, end) that begin at multiples of their length, or of \
                  `every`. `{ sliding = \"10m\" }`: windows [start, end] of this length, one for each set of rows that fits \
                  into one. `{ session = \"30m\" }`: rows that are no further apart than this, from the first to the last.",
        },
        Field {
            name: "grace",
            kind: FieldKind::Duration,
            required: false,
            doc: "How long after its end, in stream time, a window still takes rows; default: not at all. A session ends when \
                  it has had no row for its gap.",
        },
        Field {
            name: "group-by",
            kind: FieldKind::ColumnsOrSql,
            required: false,
            doc: "Aggregates by these columns or expressions instead of the key; goes through a repartition topic.",
        },
        Field {
            name: "emit",
            kind: FieldKind::Choice(&["update", "close"]),
            required: false,
            doc: "`update` (default) sends a result when it changes; `close` sends each window once, when it closes.",
        },
        Field {
            name: "retain",
            kind: FieldKind::Duration,
            required: false,
            doc: "Without a window: a key untouched for this long, in stream time, is deleted.",
        },
    ],
    example: r#"[steps.per_minute]
op      = "aggregate"
from    = "payments"
window  = { tumbling = "1m" }
grace   = "10s"
columns = { payments = "count(*)", spend = "sum(amount)" }"#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    let over_table = step.input().schema.kind == Kind::Table;
    let fields = &step.fields;
    let grouped = fields.has("group-by");
    let regroup = if grouped { Some(Rekey::resolve(step, "group-by")?) } else { None };
    if !grouped && step.input().schema.key == 0 {
        step.error(
            Code::NoKey,
            step.input().from.span.clone(),
            format!("`{}` has no key", step.input().from.value),
            "say by what to aggregate: group-by = [\"column\"]",
        );
        return None;
    }
    let input = regroup.as_ref().map_or(&step.input().schema, |rekey| &rekey.schema).clone();

    let window = if fields.has("window") { Some(window_of(step)?) } else { None };
    let emit_close = fields.choice("emit", &["update", "close"]).is_some_and(|emit| emit.value == "close");
    let grace = fields.duration("grace");
    let retain = fields.duration("retain");
    let mut fits = !over_table || fits_table(step);
    if window.is_none() {
        if emit_close {
            let place = fields.get("emit").map_or(fields.header.clone(), |value| value.span());
            step.error(
                Code::EmitCloseNeedsWindow,
                place,
                "`emit = \"close\"` without a window",
                "an aggregate without a window never closes: add `window = { tumbling = \"1m\" }` or remove `emit`",
            );
            fits = false;
        }
        if fields.has("grace") {
            step.error(
                Code::GraceNeedsWindow,
                fields.key_span("grace"),
                "`grace` without a window",
                "add `window = { tumbling = \"1m\" }` or remove `grace`",
            );
            fits = false;
        }
    } else if fields.has("retain") {
        step.error(
            Code::RetainNeedsNoWindow,
            fields.key_span("retain"),
            "`retain` with a window",
            "windows expire by themselves: remove `retain`, or say with `grace` how long they take late rows",
        );
        fits = false;
    }

    let columns = fields.has("columns").then(|| fields.text_table("columns"));
    let columns = match columns {
        Some(columns) => columns?,
        None => {
            fields.missing("columns", "name the results: columns = { total = \"sum(amount)\" }");
            return None;
        }
    };
    if columns.is_empty() {
        let place = fields.key_span("columns");
        step.diagnostics().push(
            Diagnostic::error(Code::NoColumns, place, "`columns` is empty")
                .help("name at least one result: columns = { rows = \"count(*)\" }"),
        );
        return None;
    }
    let mut key = input.key_fields().to_vec();
    if window.is_some() {
        for name in ["window_start", "window_end"] {
            if key.iter().any(|field| field.name() == name) {
                let message = format!("the key has a column `{name}` already, which windows add to it");
                let help = "give the key's column another name: with `group-by` or a `rekey` before, or `field` in its source";
                step.error(Code::ColumnClash, fields.key_span("window"), message, help);
                fits = false;
            }
            key.push(column(name, TIMESTAMP));
        }
    }
    for (name, _) in &columns {
        if key.iter().any(|field| *field.name() == name.value) {
            step.error(
                Code::ColumnClash,
                name.span.clone(),
                format!("`{}` is a key column of the result", name.value),
                "choose another name",
            );
            fits = false;
        }
    }
    let named: Vec<(&str, &str)> =
        columns.iter().map(|(name, text)| (name.value.as_str(), text.value.as_str())).collect();
    let compile = if over_table { AggregatePlan::compile_net } else { AggregatePlan::compile };
    let plan = match compile(&named, &step.scope_of(&input)) {
        Ok(plan) => plan,
        Err(errors) => {
            for (index, error) in errors {
                if let Some((_, text)) = columns.get(index) {
                    crate::operator::report_sql(step.diagnostics(), text, vec![error]);
                }
            }
            return None;
        }
    };
    if let (None, None, Some(index), false) = (window, &retain, plan.needs_window(), over_table)
        && let Some((_, text)) = columns.get(index)
    {
        step.error(
            Code::SqlNotAllowed,
            text.span.clone(),
            format!("`{}` without a window keeps every value for ever", text.value),
            "add `window = { tumbling = \"1h\" }`, or `retain = \"1d\"` to forget keys that are no longer used",
        );
        fits = false;
    }
    if !fits {
        return None;
    }
    let value = plan.output().into_iter().map(|(name, data_type)| column(name, data_type)).collect();
    let grace = grace.map_or(0, |placed| placed.value);
    let (windowed, closes_after) = match window {
        Some(shape) => (true, Some(grace.saturating_add(shape.stays_open()))),
        // The windows of a table's rows may be those of its groups.
        None => (over_table && input.windowed, input.closes_after),
    };
    let schema = Schema { windowed, closes_after, ..Schema::new(Kind::Table, key, value) };
    if over_table {
        return Some(table_groups::resolved(input, schema, plan, regroup));
    }
    let window = window.map(|shape| Window { shape, grace, emit_close });
    let mut outputs = vec![Output::main(schema.clone())];
    if window.is_some() {
        outputs.push(Output { name: Some("late".to_owned()), schema: input.clone(), optional: true });
    }
    let definition =
        Arc::new(Aggregate { input, schema, plan, window, retain: retain.map(|placed| placed.value) });
    let resolved = Resolved::new(outputs, definition);
    Some(match regroup {
        Some(rekey) => rekey.before(resolved, None),
        None => resolved,
    })
}

/// Whether all fields make sense for an aggregate over a table.
fn fits_table(step: &Step<'_>) -> bool {
    let mut fits = true;
    let mut refuse = |field, code, what: &str| {
        if step.fields.has(field) {
            let help = "make a stream of the table's changes with `to-stream` first, or remove it";
            step.error(code, step.fields.key_span(field), format!("`{field}` {what}"), help);
            fits = false;
        }
    };
    refuse("window", Code::InvalidWindow, "over a table: its rows do not happen at a time");
    refuse("retain", Code::RetainNeedsNoWindow, "over a table: a group goes with its last row");
    fits
}

/// In how many windows a row may be.
const MOST_WINDOWS: i64 = 10_000;

/// The keys of `window`, each a kind and its length.
const KINDS: [&str; 4] = ["tumbling", "hopping", "sliding", "session"];

/// Reads `window = { tumbling = "1m" }` and the other kinds.
fn window_of(step: &Step<'_>) -> Option<Shape> {
    let window = step.fields.table("window", "`window`")?;
    let known = || KINDS.into_iter().chain(["every"]);
    window.deny_unknown(known());
    let wrong = |place, what: String, help: &str| {
        step.error(Code::InvalidWindow, place, what, help);
        None
    };
    let mut kinds = KINDS.into_iter().filter(|kind| window.has(kind));
    let kind = match (kinds.next(), kinds.next()) {
        (Some(kind), None) => kind,
        (Some(one), Some(other)) => {
            let place = window.key_span(other);
            return wrong(place, format!("a window that is both {one} and {other}"), "keep one of the two");
        }
        // What it should have been was said.
        (None, _) if window.entries().iter().any(|(name, _)| known().all(|known| known != name.value)) => {
            return None;
        }
        (None, _) => {
            window.missing(
                "tumbling",
                "say what windows are like: window = { tumbling = \"1m\" }, { hopping = \"10m\", every = \"1m\" }, \
                 { sliding = \"10m\" } or { session = \"30m\" }",
            );
            return None;
        }
    };
    let size = window.duration(kind)?;
    if size.value == 0 {
        return match kind {
            "session" => wrong(
                size.span,
                "sessions without a gap".to_owned(),
                "say after how long without a row a session is over: \"30m\"",
            ),
            _ => wrong(size.span, "a window of no length".to_owned(), "say how long windows are: \"1m\""),
        };
    }
    if kind != "hopping" && window.has("every") {
        let place = window.key_span("every");
        let help = match kind {
            "tumbling" => "tumbling windows follow each other: remove `every`, or say `hopping`",
            _ => "rows decide where such windows begin: remove `every`, or say `hopping`",
        };
        return wrong(place, format!("`every` of a {kind} window"), help);
    }
    match kind {
        "tumbling" => return Some(Shape::Hopping { size: size.value, every: size.value }),
        "sliding" => return Some(Shape::Sliding { size: size.value }),
        "session" => return Some(Shape::Session { gap: size.value }),
        _ => {}
    }
    if !window.has("every") {
        window.missing("every", "say how far apart windows begin: { hopping = \"10m\", every = \"1m\" }");
        return None;
    }
    let every = window.duration("every")?;
    if every.value == 0 || every.value > size.value {
        let what =
            format!("windows of {} every {}", format_duration(size.value), format_duration(every.value));
        let help = "`every` is longer than nothing and at most as long as the window, or there are gaps between them";
        return wrong(every.span, what, help);
    }
    if size.value / every.value > MOST_WINDOWS {
        let what = format!("each row would be in {} windows", size.value / every.value);
        return wrong(every.span, what, "let `every` be at least a ten thousandth of the window");
    }
    Some(Shape::Hopping { size: size.value, every: every.value })
}

/// Which windows there are; all in milliseconds.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// [start, end) that begin at multiples of `every`; tumbling if that is their length.
    Hopping { size: i64, every: i64 },
    /// [start, end] around each row.
    Sliding { size: i64 },
    /// [first row, last row], no two rows further apart than `gap`.
    Session { gap: i64 },
}

impl Shape {
    /// With lengths as `show` writes them.
    fn describe(&self, show: impl Fn(i64) -> String) -> String {
        match *self {
            Shape::Hopping { size, every } if size == every => format!("tumbling {}", show(size)),
            Shape::Hopping { size, every } => format!("hopping {} every {}", show(size), show(every)),
            Shape::Sliding { size } => format!("sliding {}", show(size)),
            Shape::Session { gap } => format!("session {}", show(gap)),
        }
    }

    /// How long after its end a window may change without grace.
    fn stays_open(&self) -> i64 {
        match *self {
            Shape::Hopping { .. } => 0,
            // Until that time, and still then.
            Shape::Sliding { .. } => 1,
            Shape::Session { gap } => gap.saturating_add(1),
        }
    }

    /// How long after its start, or after its end for sessions, a window is of use if there is no grace.
    fn retention(&self) -> i64 {
        match *self {
            Shape::Hopping { size, .. } => size,
            // A row makes its windows from those that end before it.
            Shape::Sliding { size } => size.saturating_mul(2),
            Shape::Session { gap } => gap,
        }
    }
}

/// A window; times in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Window {
    shape: Shape,
    grace: i64,
    emit_close: bool,
}

impl Window {
    /// The batch of all changes. With `emit = "close"` rows of other groups bring them to light.
    fn finish(
        self,
        changes: Changes<'_>,
        schema: &Schema,
        context: &mut Context<'_>,
    ) -> Result<Batch, OperatorError> {
        if self.emit_close { changes.finish_closed(schema, context) } else { changes.finish(schema, context) }
    }
}

/// Before the groups of a store that has an index, too.
const GROUP: u8 = 0;
/// Before the entries of the index.
const INDEX: u8 = 1;

/// `1 | time | key`; times are not negative, so that big-endian bytes are in their order.
fn index_key(time: i64, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + key.len());
    bytes.push(INDEX);
    bytes.extend_from_slice(&time.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// A checked `aggregate`.
#[derive(Clone, Debug)]
struct Aggregate {
    input: Schema,
    schema: Schema,
    plan: AggregatePlan,
    window: Option<Window>,
    retain: Option<i64>,
}

impl Aggregate {
    /// No results, and no late rows.
    fn nothing(&self) -> Vec<Batch> {
        vec![Batch::empty(&self.schema.columns), Batch::empty(&self.input.columns)]
    }
}

impl Definition for Aggregate {
    fn stores(&self) -> Vec<StoreDeclaration> {
        let key: Vec<String> = self.input.key_types().collect();
        let (kind, window) = match self.window {
            None => (StoreKind::KeyValue, "none".to_owned()),
            Some(window) => {
                let retention = window.shape.retention().saturating_add(window.grace);
                (StoreKind::Window { retention }, window.shape.describe(|millis| millis.to_string()))
            }
        };
        let parts = ["aggregate 1".to_owned(), key.join(","), window, self.plan.fingerprint()];
        vec![StoreDeclaration::new("", kind, &parts)]
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        if let Some(window) = self.window {
            facts.push(("window", window.shape.describe(format_duration)));
            facts.push(("grace", format_duration(window.grace)));
            facts.push(("emit", if window.emit_close { "close" } else { "update" }.to_owned()));
        }
        if let Some(retain) = self.retain {
            facts.push(("retain", format_duration(retain)));
        }
        facts
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        // A result that is folded away could not fail.
        let wanted = Wanted { fold: wanted.fold && self.plan.results_cannot_fail(), ..*wanted };
        let Some(window) = self.window else {
            return Ok(Box::new(unwindowed::Unwindowed::new(self.clone(), wanted)?));
        };
        Ok(match window.shape {
            Shape::Hopping { size, every } => {
                Box::new(time_windows::TimeWindows::new(self.clone(), (size, every), window, wanted)?)
            }
            Shape::Sliding { size } => {
                Box::new(sliding_windows::SlidingWindows::new(self.clone(), size, window, wanted)?)
            }
            Shape::Session { gap } => {
                Box::new(session_windows::SessionWindows::new(self.clone(), gap, window, wanted)?)
            }
        })
    }
}
