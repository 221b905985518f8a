//! `[sinks]`.

use arrow::datatypes::{DataType, FieldRef};
use millstream_operators::config::{Fields, Text};
use millstream_operators::diagnostic::{Code, Diagnostic, Span, did_you_mean, listed};
use millstream_operators::operator::{Arity, report_sql};
use millstream_operators::schema::{Schema, column};
use millstream_operators::sql::{self, Expression, Scope};

use super::formats::{Direction, Part};
use super::read::{Reader, Written};
use super::sources::{ColumnAt, check_header, time};
use super::steps::inputs;
use super::types::shown;
use super::variables::find;
use super::{Sink, SinkTopic};
use crate::codec::layout::{FieldLayout, HeaderLayout, SinkLayout};

/// The rows of a sink while it is read: the columns of its node, or those that `columns` makes of them.
struct Rows<'s> {
    /// The columns of the node that is read.
    input: &'s Schema,
    /// The value columns that go into the record's value.
    value: Vec<FieldRef>,
    /// How they are made; `None`: they are the node's.
    expressions: Option<Vec<(String, Expression)>>,
    /// Columns of the node that only headers or the time need.
    extra: Vec<FieldRef>,
}

impl Rows<'_> {
    /// Every column there is, key first.
    fn columns(&self) -> impl Iterator<Item = &FieldRef> {
        self.input.key_fields().iter().chain(&self.value).chain(&self.extra)
    }

    /// Makes a column of the node available that `columns` left out.
    fn want(&mut self, name: &str) {
        let known = self.columns().any(|column| column.name() == name);
        let Some(index) = self.input.index_of(name).filter(|_| !known) else { return };
        let expression = Expression::column(self.input, index);
        if let (Some(field), Some(expression), Some(expressions)) =
            (self.input.columns.fields().get(index), expression, &mut self.expressions)
        {
            expressions.push((name.to_owned(), expression));
            self.extra.push(field.clone());
        }
    }
}

impl<'a> Reader<'a> {
    /// A sink, if its columns are known.
    pub(super) fn sink(&mut self, name: &Text, fields: &Fields<'a>) -> Option<Sink> {
        fields.deny_unknown([
            "description",
            "from",
            "topic",
            "format",
            "key-format",
            "columns",
            "include-key",
            "time",
            "headers",
        ]);
        let description = fields.text("description").map(|text| text.value);
        let include_key = fields.boolean("include-key");
        let fixed = self.fixed_topic(name, fields);
        let said = inputs(fields, Some(Arity::One)).and_then(|inputs| inputs.into_iter().next())?;
        let (from, input) = self.find(&said.from)?;
        self.deny_global(&said.from, &from)?;
        let scope = Scope::new(self.registry.functions(), &[(said.qualifier().as_str(), &input)]);
        let topic = match fixed {
            Some(topic) => SinkTopic::Fixed(topic),
            None => SinkTopic::Expression(self.topic_expression(fields, &scope)?),
        };
        let mut rows = Rows {
            input: &input,
            value: input.value_fields().to_vec(),
            expressions: None,
            extra: Vec::new(),
        };
        if fields.has("columns") {
            let columns = self.sink_columns(fields, &input, &scope)?;
            rows.value = columns.iter().map(|(name, made)| column(name, made.data_type().clone())).collect();
            rows.expressions = Some(columns);
        }
        if let Some(key) = include_key.as_ref().filter(|include| include.value && input.key == 0) {
            self.diagnostics.push(
                Diagnostic::error(
                    Code::NoKey,
                    key.span.clone(),
                    format!("`{}` has no key to include", said.from.value),
                )
                .help("remove `include-key`, or put a `rekey` step before"),
            );
        }
        let written = match &topic {
            SinkTopic::Fixed(topic) => Some(topic.as_str()),
            SinkTopic::Expression(_) => None,
        };
        let include_key = include_key.is_some_and(|include| include.value);
        let layout = self.sink_layout(fields, &mut rows, include_key, written);
        Some(Sink {
            name: name.value.clone(),
            description,
            from,
            topic,
            taken: self.taken.clone(),
            columns: rows.expressions,
            layout,
        })
    }

    /// The topic, unless it is `{ expression = … }`.
    fn fixed_topic(&mut self, name: &Text, fields: &Fields<'a>) -> Option<String> {
        let (topic, span) = match fields.get("topic") {
            None => (name.value.clone(), name.span.clone()),
            Some(value) if value.get_ref().is_table() => return None,
            Some(value) if value.get_ref().is_str() => self.topic(fields, "topic").unwrap_or_default(),
            Some(value) => {
                fields.wrong_type("topic", value, "a string, or `{ expression = \"…\" }`");
                Default::default()
            }
        };
        self.writes(&topic, &span, name, Written::Sink);
        Some(topic)
    }

    fn topic_expression(&self, fields: &Fields<'a>, scope: &Scope) -> Option<Expression> {
        let table = fields.table("topic", format!("`topic` of {}", fields.what))?;
        table.deny_unknown(["expression"]);
        let text =
            table.require_text("expression", "add `expression = \"…\"`: SQL that gives the topic's name")?;
        let expression = self.expression(&text, scope)?;
        if *expression.data_type() != DataType::Utf8 {
            let message = format!("the topic's name is {}, expected string", shown(expression.data_type()));
            self.diagnostics.push(
                Diagnostic::error(Code::SqlTypes, text.span.clone(), message)
                    .help("cast it: `cast(… as string)`"),
            );
        }
        Some(expression)
    }

    fn expression(&self, text: &Text, scope: &Scope) -> Option<Expression> {
        if find(text).is_some() {
            return None;
        }
        sql::compile(text, scope).map_err(|errors| report_sql(self.diagnostics, text, errors)).ok()
    }

    /// The value columns that `columns` makes; a key column may stand there as itself, and is left out.
    fn sink_columns(
        &self,
        fields: &Fields<'a>,
        input: &Schema,
        scope: &Scope,
    ) -> Option<Vec<(String, Expression)>> {
        let said = fields.text_table("columns")?;
        let mut columns = Vec::with_capacity(said.len());
        let mut complete = true;
        if said.is_empty() {
            self.diagnostics.push(
                Diagnostic::error(Code::NoColumns, fields.key_span("columns"), "`columns` is empty")
                    .help("name at least one column, or remove `columns` to write all"),
            );
            complete = false;
        }
        for (name, text) in said {
            let Some(expression) = self.expression(&text, scope) else {
                complete = false;
                continue;
            };
            match input.index_of(&name).filter(|index| *index < input.key) {
                Some(index) if expression.as_column() == Some(index) => {}
                Some(_) => {
                    self.diagnostics.push(
                        Diagnostic::error(
                            Code::ColumnClash,
                            name.span.clone(),
                            format!("`{}` is a key column", name.value),
                        )
                        .help("key columns are written to the key as they are: choose another name, or change the key with `rekey`"),
                    );
                    complete = false;
                }
                None => columns.push((name.value, expression)),
            }
        }
        complete.then_some(columns)
    }

    fn sink_layout(
        &mut self,
        fields: &Fields<'a>,
        rows: &mut Rows<'_>,
        include_key: bool,
        topic: Option<&str>,
    ) -> SinkLayout {
        let headers =
            if fields.has("headers") { fields.text_table("headers").unwrap_or_default() } else { Vec::new() };
        for (_, column) in &headers {
            rows.want(column);
        }
        if let Some(name) = fields.get("time").and_then(|value| value.get_ref().as_str()) {
            rows.want(name);
        }
        let rows = &*rows;
        let headers =
            headers.iter().filter_map(|(header, column)| self.header(header, column, rows)).collect();
        let place = fields.key_span("from");
        let time = time(fields, &rows.columns().map(|column| placed_at(column, &place)).collect::<Vec<_>>());
        let key: Vec<&FieldRef> = rows.input.key_fields().iter().collect();
        let included = if include_key { key.clone() } else { Vec::new() };
        let value: Vec<&FieldRef> = included.into_iter().chain(&rows.value).collect();
        let layouts = |columns: &[&FieldRef]| -> Vec<FieldLayout> {
            columns.iter().map(|column| FieldLayout::of_column(column.name(), column.data_type())).collect()
        };
        let (key_layouts, value_layouts) = (layouts(&key), layouts(&value));
        let mut format = |option, columns: &[&FieldRef], layouts: &[FieldLayout], exists| {
            let placed: Vec<ColumnAt> = columns.iter().map(|column| placed_at(column, &place)).collect();
            let part = Part { option, direction: Direction::Write, topic, columns: &placed, layouts, exists };
            self.format(fields, &part)
        };
        let key_format = format("key-format", &key, &key_layouts, rows.input.key > 0);
        let value_format = format("format", &value, &value_layouts, true);
        let all_value = rows.value.iter().chain(&rows.extra).cloned().collect();
        let schema = Schema {
            windowed: rows.input.windowed,
            ..Schema::new(rows.input.kind, rows.input.key_fields().to_vec(), all_value)
        };
        SinkLayout { schema, key: key_layouts, key_format, value: value_layouts, value_format, headers, time }
    }

    /// A header that is written from a column.
    fn header(&self, header: &Text, column: &Text, rows: &Rows<'_>) -> Option<HeaderLayout> {
        let Some(field) = rows.columns().find(|field| *field.name() == column.value) else {
            let names: Vec<&str> = rows.columns().map(|field| field.name().as_str()).collect();
            self.diagnostics.push(
                Diagnostic::error(
                    Code::UnknownColumn,
                    column.span.clone(),
                    format!("there is no column `{}`", column.value),
                )
                .help(
                    did_you_mean(column, names.iter().copied())
                        .unwrap_or_else(|| format!("columns are {}", listed(names))),
                ),
            );
            return None;
        };
        check_header(column, field.data_type(), &column.span, self.diagnostics);
        Some(HeaderLayout {
            name: column.value.clone(),
            header: header.value.clone(),
            data_type: field.data_type().clone(),
        })
    }
}

fn placed_at(column: &FieldRef, place: &Span) -> ColumnAt {
    ColumnAt { name: column.name().clone(), data_type: column.data_type().clone(), span: place.clone() }
}
