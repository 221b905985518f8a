//! `[sources]` and `[tables]`.

use std::sync::Arc;

use arrow::datatypes::DataType;
use millstream_operators::config::{Fields, Text};
use millstream_operators::diagnostic::{Code, Diagnostic, Diagnostics, Span, did_you_mean, listed};
use millstream_operators::schema::{Kind, Schema, TIMESTAMP, column};
use millstream_operators::to_table::ToTable;

use super::formats::{Direction, Part};
use super::read::{Node, Reader, Written};
use super::times;
use super::types::{Column, shown};
use super::{OnError, Source, Start};
use crate::codec::layout::{FieldLayout, HeaderLayout, Metadata, SourceLayout};

const METADATA: [(&str, Metadata, DataType); 4] = [
    ("topic", Metadata::Topic, DataType::Utf8),
    ("partition", Metadata::Partition, DataType::Int32),
    ("offset", Metadata::Offset, DataType::Int64),
    ("timestamp", Metadata::Timestamp, TIMESTAMP),
];

/// The keys that sources and tables have.
const KEYS: [&str; 13] = [
    "description",
    "topic",
    "key",
    "value",
    "format",
    "key-format",
    "time",
    "headers",
    "metadata",
    "idle-after",
    "max-ahead",
    "on-error",
    "dead-letter",
];

/// A column with the place in the file that decides its type.
#[derive(Clone)]
pub(super) struct ColumnAt {
    pub name: String,
    pub data_type: DataType,
    pub span: Span,
}

impl<'a> Reader<'a> {
    /// A source, if its columns are known. Everything else that is wrong with it is reported and does not keep those who read
    /// it from being checked.
    pub(super) fn source(&mut self, name: &Text, fields: &Fields<'a>) -> Option<Source> {
        fields.deny_unknown(KEYS.into_iter().chain(["start"]));
        let source = self.records(name, fields)?;
        self.define(name, Node::Source(source.schema().clone()));
        Some(source)
    }

    /// A table, likewise.
    pub(super) fn table(&mut self, name: &Text, fields: &Fields<'a>) -> Option<Source> {
        fields.deny_unknown(KEYS.into_iter().chain(["history", "scope"]));
        let scope = fields.choice("scope", &["global"]);
        if !fields.has("key") {
            fields.missing("key", "add the columns that tell its rows apart: `key = { card = \"string\" }`");
        }
        let records = self.records(name, fields)?;
        let history = positive(fields, "history");
        if let Some(scope) = &scope {
            self.globals.insert(name.value.clone());
            check_global(fields, &records, &scope.span);
        }
        if let Some(history) = history {
            self.histories.insert(name.value.clone(), history);
        }
        let table = Arc::new(ToTable::new(&records.layout.schema, history));
        let table = Source { table: Some(table), global: scope.is_some(), ..records };
        if table.schema().key > 0 {
            self.define(name, Node::Source(table.schema().clone()));
        }
        Some(table)
    }

    /// The records of a topic.
    fn records(&mut self, name: &Text, fields: &Fields<'a>) -> Option<Source> {
        if !fields.has("topic") {
            fields.missing("topic", "add `topic = \"…\"`: the topic to read");
        }
        let topic = self.topic(fields, "topic");
        if let Some((topic, span)) = &topic {
            self.reads(topic, span, name);
        }
        let (on_error, dead_letter) = self.on_error(name, fields);
        let start = start(fields).unwrap_or_default();
        let idle_after = positive(fields, "idle-after");
        let max_ahead = fields.duration("max-ahead").map(|duration| duration.value);
        let description = fields.text("description").map(|text| text.value);
        let read = topic.as_ref().map_or("", |(topic, _)| topic);
        let layout = self.source_layout(fields, read)?;
        Some(Source {
            name: name.value.clone(),
            description,
            topic: topic.map(|(topic, _)| topic).unwrap_or_default(),
            layout,
            start,
            idle_after,
            max_ahead,
            on_error,
            dead_letter,
            table: None,
            global: false,
        })
    }

    fn source_layout(&mut self, fields: &Fields<'a>, topic: &str) -> Option<SourceLayout> {
        if !fields.has("value") {
            fields.missing("value", "add the columns: `value = { name = \"string\", amount = \"float64\" }`");
        }
        let key = if fields.has("key") { self.types.columns_at(fields, "key") } else { Some(Vec::new()) };
        let value = self.types.columns_at(fields, "value");
        let headers = self.headers(fields);
        let metadata = metadata(fields);
        let (key, value, headers, metadata) = (key?, value?, headers?, metadata?);

        let diagnostics = fields.diagnostics();
        check_key_and_value(fields, &key, &value);
        if fields.has("key") && key.is_empty() {
            diagnostics.push(
                Diagnostic::error(Code::NoColumns, fields.key_span("key"), "`key` is empty")
                    .help("name its columns, or remove `key`: the source is unkeyed then"),
            );
        }
        let mut columns: Vec<ColumnAt> = Vec::new();
        for column in key.iter().chain(&value) {
            if !columns.iter().any(|other| other.name == column.layout.name) {
                columns.push(column_at(column));
            }
        }
        let of_headers = headers.iter().map(|(header, span)| (&header.name, &header.data_type, span));
        let of_metadata = metadata.iter().map(|(name, _, data_type, span)| (name, data_type, span));
        for (name, data_type, span) in of_headers.chain(of_metadata) {
            let column = ColumnAt { name: name.clone(), data_type: data_type.clone(), span: span.clone() };
            match columns.iter().find(|other| other.name == column.name) {
                Some(other) => diagnostics.push(
                    Diagnostic::error(
                        Code::ColumnClash,
                        column.span,
                        format!("there is a column `{name}` already"),
                    )
                    .also(other.span.clone(), "the other column")
                    .help("give one of them another name"),
                ),
                None => columns.push(column),
            }
        }
        if columns.is_empty() {
            diagnostics.push(
                Diagnostic::error(
                    Code::NoColumns,
                    fields.header.clone(),
                    format!("{} has no column", fields.what),
                )
                .help("add columns to `value`: `value = { name = \"string\" }`"),
            );
        }

        let placed = |columns: &[Column]| -> Vec<ColumnAt> { columns.iter().map(column_at).collect() };
        let has_key = fields.has("key");
        let mut format = |option, columns: &[Column], exists| {
            let layouts: Vec<FieldLayout> = columns.iter().map(|column| column.layout.clone()).collect();
            let part = Part {
                option,
                direction: Direction::Read,
                topic: Some(topic),
                columns: &placed(columns),
                layouts: &layouts,
                exists,
            };
            self.format(fields, &part)
        };
        let key_format = format("key-format", &key, has_key);
        let value_format = format("format", &value, true);
        let time = time(fields, &columns);
        let (of_key, of_value) = columns.split_at(key.len().min(columns.len()));
        let arrow = |columns: &[ColumnAt]| {
            columns.iter().map(|at| column(at.name.clone(), at.data_type.clone())).collect()
        };
        Some(SourceLayout {
            schema: Schema::new(Kind::Stream, arrow(of_key), arrow(of_value)),
            key: layouts(key),
            key_format,
            value: layouts(value),
            value_format,
            headers: headers.into_iter().map(|(header, _)| header).collect(),
            metadata: metadata.into_iter().map(|(name, what, ..)| (name, what)).collect(),
            time,
        })
    }

    /// Columns that are read from headers; `None` if a type is wrong.
    fn headers(&mut self, fields: &Fields<'a>) -> Option<Vec<(HeaderLayout, Span)>> {
        if !fields.has("headers") {
            return Some(Vec::new());
        }
        let columns = self.types.columns_at(fields, "headers")?;
        for column in &columns {
            check_header(&column.layout.name, &column.layout.data_type, &column.span, fields.diagnostics());
        }
        let header = |Column { layout, span }: Column| {
            (HeaderLayout { name: layout.name, header: layout.field, data_type: layout.data_type }, span)
        };
        Some(columns.into_iter().map(header).collect())
    }

    /// `on-error`, and the topic of dead letters.
    pub(super) fn on_error(&mut self, name: &Text, fields: &Fields<'a>) -> (OnError, String) {
        let choice = fields.choice("on-error", &["fail", "skip", "dead-letter"]);
        let on_error = match choice.as_ref().map(|choice| choice.value) {
            Some("skip") => OnError::Skip,
            Some("dead-letter") => OnError::DeadLetter,
            _ => OnError::Fail,
        };
        let topic = self.topic(fields, "dead-letter");
        if on_error != OnError::DeadLetter
            && (choice.is_some() || !fields.has("on-error"))
            && fields.has("dead-letter")
        {
            let diagnostic = Diagnostic::error(
                Code::KeysExclude,
                fields.key_span("dead-letter"),
                "`dead-letter` names a topic, but no record is sent there",
            )
            .help("add `on-error = \"dead-letter\"`, or remove the topic");
            fields.diagnostics().push(match choice {
                Some(choice) => diagnostic.also(choice.span, "this decides what happens"),
                None => diagnostic,
            });
        }
        let default = format!("{}-{}-dead-letter", self.app.id, name.value);
        let span = topic.as_ref().map_or(name.span.clone(), |(_, span)| span.clone());
        let topic = topic.map_or(default, |(topic, _)| topic);
        if on_error == OnError::DeadLetter {
            self.writes(&topic, &span, name, Written::DeadLetters);
        }
        (on_error, topic)
    }
}

/// Reports what a global table cannot have. `scope` is the place where it is said to be one.
fn check_global(fields: &Fields<'_>, records: &Source, scope: &Span) {
    let report = |key: &str, why: &str, help: &str| {
        let diagnostic = Diagnostic::error(
            Code::GlobalField,
            fields.key_span(key),
            format!("`{key}` of a global table: {why}"),
        );
        let diagnostic = diagnostic.also(scope.clone(), "it is one").help(help);
        fields.diagnostics().push(diagnostic);
    };
    if fields.has("history") {
        let why = "rows are joined with it as it is when they come, whatever their time";
        report(
            "history",
            why,
            "remove `history`, or let a `join` read the table by its key, without `scope`",
        );
    }
    if fields.has("idle-after") {
        report("idle-after", "it moves no stream time", "remove `idle-after`");
    }
    if records.on_error == OnError::DeadLetter {
        let why = "every process reads all records, and each would write the dead letter";
        report("on-error", why, "use `fail` or `skip`: what is skipped is logged and counted");
    }
}

fn column_at(column: &Column) -> ColumnAt {
    ColumnAt {
        name: column.layout.name.clone(),
        data_type: column.layout.data_type.clone(),
        span: column.span.clone(),
    }
}

fn layouts(columns: Vec<Column>) -> Vec<FieldLayout> {
    columns.into_iter().map(|column| column.layout).collect()
}

/// Reports a column that no header can hold: a header is the text of one value.
pub(super) fn check_header(name: &str, data_type: &DataType, place: &Span, diagnostics: &Diagnostics) {
    if matches!(data_type, DataType::List(_) | DataType::Struct(_)) {
        let message = format!("a header cannot hold the column `{name}`");
        diagnostics.push(
            Diagnostic::error(Code::FormatTypeMismatch, place.clone(), message)
                .label(format!("`{name}` is {}", shown(data_type)))
                .help("a header is the text of one value: use a column that is no list and no struct"),
        );
    }
}

/// A name may stand in key and value, with one type.
fn check_key_and_value(fields: &Fields<'_>, key: &[Column], value: &[Column]) {
    for column in value {
        let same = |other: &&Column| other.layout.name == column.layout.name;
        let Some(other) = key.iter().find(same) else { continue };
        let (in_key, in_value) = (&other.layout.data_type, &column.layout.data_type);
        if in_key != in_value {
            fields.diagnostics().push(
                Diagnostic::error(
                    Code::KeyValueTypeClash,
                    column.span.clone(),
                    format!("`{}` has one type in the key and another in the value", column.layout.name),
                )
                .label(format!("{} here", shown(in_value)))
                .also(other.span.clone(), format!("{} here", shown(in_key)))
                .help("give both the same type, or take it out of the value: the key's is used"),
            );
        }
    }
}

fn metadata(fields: &Fields<'_>) -> Option<Vec<(String, Metadata, DataType, Span)>> {
    if !fields.has("metadata") {
        return Some(Vec::new());
    }
    let said = fields.text_table("metadata")?;
    let count = said.len();
    let mut columns = Vec::with_capacity(count);
    for (name, what) in said {
        match METADATA.iter().find(|(word, ..)| *word == what.value) {
            Some((_, metadata, data_type)) => {
                columns.push((name.value, *metadata, data_type.clone(), name.span))
            }
            None => {
                let words = METADATA.iter().map(|(word, ..)| *word);
                fields.diagnostics().push(
                    Diagnostic::error(
                        Code::InvalidChoice,
                        what.span.clone(),
                        format!("a record has no metadata `{}`", what.value),
                    )
                    .help(
                        did_you_mean(&what, words.clone())
                            .unwrap_or_else(|| format!("choices are {}", listed(words))),
                    ),
                );
            }
        }
    }
    (columns.len() == count).then_some(columns)
}

/// The position of the column that `time` names.
pub(super) fn time(fields: &Fields<'_>, columns: &[ColumnAt]) -> Option<usize> {
    let text = fields.text("time")?;
    let Some(position) = columns.iter().position(|column| column.name == text.value) else {
        let names = || columns.iter().map(|column| column.name.as_str());
        let timestamps =
            columns.iter().filter(|column| column.data_type == TIMESTAMP).map(|column| column.name.as_str());
        let timestamps = || format!("columns of type timestamp: {}", listed(timestamps));
        fields.diagnostics().push(
            Diagnostic::error(
                Code::UnknownColumn,
                text.span.clone(),
                format!("there is no column `{}`", text.value),
            )
            .help(did_you_mean(&text, names()).unwrap_or_else(timestamps)),
        );
        return None;
    };
    let column = columns.get(position)?;
    if column.data_type != TIMESTAMP {
        fields.diagnostics().push(
            Diagnostic::error(
                Code::TimeColumn,
                text.span.clone(),
                format!("`{}` cannot serve as event time", column.name),
            )
            .also(
                column.span.clone(),
                format!("`{}` is {}, not timestamp", column.name, shown(&column.data_type)),
            )
            .help(
                "an event time has the type `timestamp`; in JSON it is RFC 3339 text or epoch milliseconds",
            ),
        );
        return None;
    }
    Some(position)
}

/// A duration of at least a millisecond.
fn positive(fields: &Fields<'_>, key: &str) -> Option<i64> {
    let duration = fields.duration(key)?;
    if duration.value < 1 {
        fields.diagnostics().push(
            Diagnostic::error(Code::OutOfRange, duration.span, format!("`{key}` is out of range"))
                .label("expected more than nothing"),
        );
    }
    Some(duration.value)
}

fn start(fields: &Fields<'_>) -> Option<Start> {
    let value = fields.get("start")?;
    if let Some(text) = fields.as_text(value)
        && !text.starts_with(|c: char| c.is_ascii_digit())
    {
        return fields.choice("start", &["earliest", "latest"]).map(|choice| match choice.value {
            "latest" => Start::Latest,
            _ => Start::Earliest,
        });
    }
    times::at(fields, "start").map(Start::At)
}
