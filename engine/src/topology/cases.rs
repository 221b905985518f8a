//! `[[tests]]`.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use millstream_operators::config::{Fields, Text};
use millstream_operators::diagnostic::{Code, Diagnostic, Span, did_you_mean, listed};
use serde_json::{Map, Number, Value as Json};
use toml::Spanned;
use toml::de::DeValue;

use super::read::{Node, Reader};
use super::types::shown;
use super::{
    DEAD_LETTER, Expected, ExpectedLetter, OnError, Target, Test, TestInput, TestPart, TestRecord, Topology,
    times,
};
use crate::codec::by_name::read_column;
use crate::codec::layout::{FieldLayout, SourceLayout};

/// The columns that a record or row may name.
struct Named<'t> {
    /// `key` or `value`.
    part: &'static str,
    /// Whose columns they are.
    of: &'t str,
    columns: Vec<(&'t str, &'t DataType)>,
    /// What a misfit is.
    code: Code,
}

/// What a test looks at, with the columns it can compare.
struct TargetColumns {
    target: Target,
    key: Vec<(String, DataType)>,
    value: Vec<(String, DataType)>,
}

fn named(layouts: &[FieldLayout]) -> Vec<(String, DataType)> {
    layouts.iter().map(|column| (column.name.clone(), column.data_type.clone())).collect()
}

impl<'a> Reader<'a> {
    /// The tests of a topology.
    pub(super) fn tests(&self, root: &Fields<'a>, topology: &Topology) -> Vec<Test> {
        let Some(value) = root.get("tests") else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            root.wrong_type("tests", value, "a list of tables: `[[tests]]`");
            return Vec::new();
        };
        let mut tests: Vec<Test> = Vec::new();
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        for item in items.iter() {
            let Some(fields) = root.as_table(item.span(), item, "the test") else {
                root.wrong_type("tests", item, "a table");
                continue;
            };
            let Some((name, test)) = self.test(fields, topology) else { continue };
            if let Some(first) = names.get(&name.value) {
                self.diagnostics.push(
                    Diagnostic::error(Code::DuplicateName, name.span.clone(), "two tests have one name")
                        .also(first.clone(), "the other test")
                        .help("rename one of them"),
                );
            }
            names.insert(name.value, name.span);
            tests.push(test);
        }
        tests
    }

    fn test(&self, mut fields: Fields<'a>, topology: &Topology) -> Option<(Text, Test)> {
        if let Some(name) = fields.get("name").and_then(|name| name.get_ref().as_str()) {
            fields.what = format!("the test `{name}`");
        }
        fields.deny_unknown(["name", "input", "expect", "none", "partial", "error"]);
        let name = fields.require_text("name", "add `name = \"what is so\"`");
        let error = self.error_code(&fields, "error");
        let partial = fields.boolean("partial").is_some_and(|partial| partial.value);
        if !fields.has("input") {
            fields.missing("input", "add `input = [{ to = \"…\", value = { … } }]`");
        }
        let inputs = self.tables(&fields, "input", "an input", |item| self.input(item, topology));
        let expect = self.tables(&fields, "expect", "an expected row", |item| self.expected(item, topology));
        let none = self.none(&fields, &expect, topology);
        let expects_nothing = fields
            .get("expect")
            .is_none_or(|value| value.get_ref().as_array().is_some_and(|all| all.is_empty()));
        if expects_nothing && !fields.has("error") && !fields.has("none") {
            self.diagnostics.push(
                Diagnostic::error(
                    Code::TestEmpty,
                    fields.header.clone(),
                    format!("{} expects nothing", fields.what),
                )
                .help("add `expect = [{ from = \"…\", value = { … } }]`, `none = [\"…\"]` or `error = \"M0801\"`"),
            );
        }
        let span = fields.header.clone();
        let name = name?;
        Some((name.clone(), Test { name: name.value, span, inputs, expect, none, partial, error }))
    }

    /// The tables of the list at `key`, read one by one.
    fn tables<T>(
        &self,
        fields: &Fields<'a>,
        key: &str,
        what: &str,
        read: impl Fn(&Fields<'a>) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = fields.get(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            fields.wrong_type(key, value, "a list of tables");
            return Vec::new();
        };
        let mut all = Vec::with_capacity(items.len());
        for item in items.iter() {
            match fields.as_table(item.span(), item, format!("{what} of {}", fields.what)) {
                Some(table) => all.extend(read(&table)),
                None => fields.wrong_type(key, item, "a table"),
            }
        }
        all
    }

    /// The nodes that must give no row.
    fn none(&self, fields: &Fields<'a>, expect: &[Expected], topology: &Topology) -> Vec<Target> {
        let said = fields.has("none").then(|| fields.texts("none")).flatten().unwrap_or_default();
        let mut none = Vec::new();
        for name in said {
            let Some(named) = self.target(&name, topology) else { continue };
            if let Some(expected) = expect.iter().find(|expected| expected.from == named.target) {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::TestExpectation,
                        name.span.clone(),
                        format!("`{}` is expected to give no row and to give one", name.value),
                    )
                    .also(expected.span.clone(), "the row is here")
                    .help("remove it from `none` or from `expect`"),
                );
            }
            none.push(named.target);
        }
        none
    }

    /// The error of a record, by its code.
    fn error_code(&self, fields: &Fields<'a>, key: &str) -> Option<Code> {
        let text = fields.text(key)?;
        let of_records = || Code::ALL.iter().copied().filter(|code| code.number().starts_with("M08"));
        let code = Code::from_number(&text).filter(|code| of_records().any(|of_record| of_record == *code));
        if code.is_none() {
            let codes: Vec<String> =
                of_records().map(|code| format!("{} ({})", code.number(), code.title())).collect();
            self.diagnostics.push(
                Diagnostic::error(
                    Code::InvalidChoice,
                    text.span.clone(),
                    format!("`{}` is not the error of a record", text.value),
                )
                .help(format!("choices are {}", codes.join(", "))),
            );
        }
        code
    }

    fn input(&self, fields: &Fields<'a>, topology: &Topology) -> Option<TestInput> {
        const KINDS: [&str; 4] = ["to", "advance", "wall-clock", "restart"];
        let said: Vec<&str> = KINDS.into_iter().filter(|kind| fields.has(kind)).collect();
        match said.as_slice() {
            [one] => {
                let others = ["key", "key-bytes", "value", "value-bytes", "delete", "at", "headers"];
                let known = others.into_iter().filter(|_| *one == "to");
                fields.deny_unknown(known.chain([*one]));
            }
            [] => {
                fields.missing(
                    "to",
                    "name a source: `to = \"…\"`; or write `advance`, `wall-clock` or `restart`",
                );
                return None;
            }
            [first, second, ..] => {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::KeysExclude,
                        fields.key_span(second),
                        format!("`{first}` and `{second}` exclude each other"),
                    )
                    .also(fields.key_span(first), format!("`{first}` is here"))
                    .help("write them as two inputs, in the order in which they happen"),
                );
                return None;
            }
        }
        if fields.has("to") {
            return self.record(fields, topology).map(TestInput::Record);
        }
        if fields.has("restart") {
            let restart = fields.boolean("restart")?;
            if !restart.value {
                self.diagnostics.push(
                    Diagnostic::error(Code::TestRecord, restart.span, "`restart = false` does nothing")
                        .help("write `{ restart = true }`, or remove it"),
                );
            }
            return Some(TestInput::Restart);
        }
        match fields.has("advance") {
            true => fields.duration("advance").map(|duration| TestInput::Advance(duration.value)),
            false => fields.duration("wall-clock").map(|duration| TestInput::WallClock(duration.value)),
        }
    }

    fn record(&self, fields: &Fields<'a>, topology: &Topology) -> Option<TestRecord> {
        let to = fields.text("to")?;
        let at = times::at(fields, "at");
        let delete = fields.boolean("delete").is_some_and(|delete| delete.value);
        for value in ["value", "value-bytes"] {
            self.exclude_delete(fields, delete, value, "a record with a null value has nothing in it");
        }
        for part in ["key", "value"] {
            self.exclude_bytes(fields, part);
        }
        let source = match (self.node(&to), topology.source(&to)) {
            (Some(Node::Source(_)), Some(source)) => source,
            (Some(Node::Broken), _) => return None,
            (found, _) => {
                let names = || topology.sources.iter().map(|source| source.name.as_str());
                let message = match found {
                    None => format!("there is no source or table `{}`", to.value),
                    Some(_) => format!("`{}` is not a source or table", to.value),
                };
                let help = did_you_mean(&to, names())
                    .unwrap_or_else(|| format!("sources and tables are {}", listed(names())));
                self.diagnostics
                    .push(Diagnostic::error(Code::UnknownNode, to.span.clone(), message).help(help));
                return None;
            }
        };
        let part = |part, layouts: &'_ [FieldLayout]| -> Option<Vec<(String, Json)>> {
            let columns = layouts.iter().map(|column| (column.name.as_str(), &column.data_type)).collect();
            let of = format!("the source `{}`", to.value);
            self.columns(fields, &Named { part, of: &of, columns, code: Code::TestRecord })
        };
        let bytes = |part| self.bytes(fields, part, Code::TestRecord);
        let key = if let Some(bytes) = bytes("key-bytes") {
            TestPart::Bytes(bytes)
        } else if source.layout.key.is_empty() && fields.has("key") {
            self.diagnostics.push(
                Diagnostic::error(
                    Code::NoKey,
                    fields.key_span("key"),
                    format!("the source `{}` has no key", to.value),
                )
                .help("remove `key`, or give the source one"),
            );
            TestPart::Null
        } else {
            part("key", &source.layout.key).map_or(TestPart::Null, TestPart::Columns)
        };
        let value = match bytes("value-bytes") {
            Some(bytes) => TestPart::Bytes(bytes),
            None => part("value", &source.layout.value).map_or(TestPart::Null, TestPart::Columns),
        };
        if !fields.has("value") && !fields.has("value-bytes") && !delete {
            fields.missing("value", "add `value = { … }`, or `delete = true` for a null value");
        }
        let headers = if fields.has("headers") { fields.text_table("headers")? } else { Vec::new() };
        Some(TestRecord {
            to: to.value.clone(),
            key,
            value,
            headers: headers.into_iter().map(|(name, text)| (name.value, text.value)).collect(),
            at,
            span: fields.header.clone(),
        })
    }

    /// What a name in `expect` or `none` stands for, and its columns.
    fn target(&self, from: &Text, topology: &Topology) -> Option<TargetColumns> {
        if let Some(node) = from.strip_suffix(DEAD_LETTER) {
            return self.dead_letters(from, node, topology);
        }
        if matches!(self.node(from), Some(Node::Sink)) {
            let layout = &topology.sink(from)?.layout;
            let target = Target::Sink(from.value.clone());
            return Some(TargetColumns { target, key: named(&layout.key), value: named(&layout.value) });
        }
        let (output, schema) = self.find(from)?;
        self.deny_global(from, &output)?;
        let of = |fields: &[arrow::datatypes::FieldRef]| -> Vec<(String, DataType)> {
            fields.iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
        };
        Some(TargetColumns {
            target: Target::Output(output),
            key: of(schema.key_fields()),
            value: of(schema.value_fields()),
        })
    }

    /// The dead letters of a node. Their columns are those of its source, if there is one only.
    fn dead_letters(&self, from: &Text, node: &str, topology: &Topology) -> Option<TargetColumns> {
        let on_error = match self.node(node) {
            Some(Node::Source(_)) => topology.source(node)?.on_error,
            Some(Node::Step(_)) => topology.step(node)?.on_error,
            Some(Node::Broken) => return None,
            Some(Node::Sink) | None => {
                let names = topology.sources.iter().map(|source| source.name.as_str());
                let names = || names.clone().chain(topology.steps.iter().map(|step| step.name.as_str()));
                let help = did_you_mean(node, names())
                    .unwrap_or_else(|| format!("sources, tables and steps are {}", listed(names())));
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::UnknownNode,
                        from.place(0..node.len()),
                        format!("there is no source, table or step `{node}`"),
                    )
                    .help(help),
                );
                return None;
            }
        };
        if on_error != OnError::DeadLetter {
            self.diagnostics.push(
                Diagnostic::error(
                    Code::TestExpectation,
                    from.span.clone(),
                    format!("`{node}` writes no dead letters"),
                )
                .help(format!("add `on-error = \"dead-letter\"` to `{node}`")),
            );
            return None;
        }
        let layout = topology.letters_of(node).map(|source| &source.layout);
        let columns = |of: fn(&SourceLayout) -> &Vec<FieldLayout>| {
            layout.map_or_else(Vec::new, |layout| named(of(layout)))
        };
        let target = Target::DeadLetters(node.to_owned());
        Some(TargetColumns {
            target,
            key: columns(|layout| &layout.key),
            value: columns(|layout| &layout.value),
        })
    }

    fn expected(&self, fields: &Fields<'a>, topology: &Topology) -> Option<Expected> {
        const OF_LETTERS: [&str; 4] = ["code", "message", "key-bytes", "value-bytes"];
        let is_letter = fields
            .get("from")
            .is_some_and(|from| from.get_ref().as_str().is_some_and(|from| from.ends_with(DEAD_LETTER)));
        let of_letters = OF_LETTERS.into_iter().filter(|_| is_letter);
        fields.deny_unknown(["from", "key", "value", "null", "delete", "at"].into_iter().chain(of_letters));
        let at = times::at(fields, "at");
        let delete = fields.boolean("delete").is_some_and(|delete| delete.value);
        self.exclude_delete(fields, delete, "value", "a delete has no columns besides its key");
        let from = fields.require_text("from", "add `from = \"…\"`: a step, a sink or a source")?;
        let TargetColumns { target, key, value } = self.target(&from, topology)?;
        let letter = match is_letter {
            true => ExpectedLetter {
                code: fields.has("code").then(|| self.error_code(fields, "code")).flatten(),
                message: fields.text("message").map(|text| text.value),
                key: self.bytes(fields, "key-bytes", Code::TestExpectation),
                value: self.bytes(fields, "value-bytes", Code::TestExpectation),
            },
            false => ExpectedLetter::default(),
        };
        let part = |part, columns: &[(String, DataType)]| {
            let columns = columns.iter().map(|(name, data_type)| (name.as_str(), data_type)).collect();
            let of = format!("`{}`", from.value);
            self.columns(fields, &Named { part, of: &of, columns, code: Code::TestExpectation })
                .unwrap_or_default()
        };
        let (key_columns, value_columns) = (part("key", &key), part("value", &value));
        let null = fields.has("null").then(|| fields.texts("null")).flatten().unwrap_or_default();
        for name in &null {
            let known = || key.iter().chain(&value).map(|(name, _)| name.as_str());
            if !known().any(|known| known == name.value) {
                self.unknown_column(name, "columns", &format!("`{}`", from.value), known().collect());
            } else if value_columns.iter().any(|(column, _)| *column == name.value) {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::TestExpectation,
                        name.span.clone(),
                        format!("`{}` is expected to be null and to have a value", name.value),
                    )
                    .also(fields.key_span("value"), "its value is here")
                    .help("remove it from `null` or from `value`"),
                );
            }
        }
        Some(Expected {
            from: target,
            key: key_columns,
            value: value_columns,
            null: null.into_iter().map(|name| name.value).collect(),
            delete,
            at,
            letter,
            span: fields.header.clone(),
        })
    }

    fn exclude_delete(&self, fields: &Fields<'a>, delete: bool, value: &str, why: &str) {
        if delete && fields.has(value) {
            self.diagnostics.push(
                Diagnostic::error(
                    Code::KeysExclude,
                    fields.key_span("delete"),
                    format!("`delete = true` and `{value}` exclude each other"),
                )
                .also(fields.key_span(value), "the value is here")
                .help(format!("remove one of them: {why}")),
            );
        }
    }

    fn exclude_bytes(&self, fields: &Fields<'a>, part: &str) {
        let bytes = format!("{part}-bytes");
        if fields.has(part) && fields.has(&bytes) {
            self.diagnostics.push(
                Diagnostic::error(
                    Code::KeysExclude,
                    fields.key_span(&bytes),
                    format!("`{part}` and `{bytes}` exclude each other"),
                )
                .also(fields.key_span(part), format!("the {part} is here"))
                .help("keep one of them: bytes are the whole of it"),
            );
        }
    }

    /// Bytes, given in base64.
    fn bytes(&self, fields: &Fields<'a>, key: &str, code: Code) -> Option<Vec<u8>> {
        let text = fields.text(key)?;
        let bytes = BASE64.decode(text.as_bytes());
        if bytes.is_err() {
            self.diagnostics.push(
                Diagnostic::error(code, text.span.clone(), format!("`{key}` is not base64"))
                    .help("write the bytes in base64: \"eA==\" is the letter x"),
            );
        }
        bytes.ok()
    }

    /// The columns that a record or row names, as JSON.
    fn columns(&self, fields: &Fields<'a>, named: &Named<'_>) -> Option<Vec<(String, Json)>> {
        let table = fields.table(named.part, format!("`{}` of {}", named.part, fields.what))?;
        let mut columns = Vec::new();
        for (name, value) in table.entries() {
            match named.columns.iter().find(|(column, _)| *column == name.value) {
                Some((_, data_type)) => {
                    if let Some(json) = self.json(&table, &name, value, data_type, named.code) {
                        columns.push((name.value, json));
                    }
                }
                None => {
                    let known = named.columns.iter().map(|(column, _)| *column).collect();
                    self.unknown_column(&name, &format!("columns in the {}", named.part), named.of, known);
                }
            }
        }
        Some(columns)
    }

    fn unknown_column(&self, name: &Text, what: &str, of: &str, known: Vec<&str>) {
        let help = did_you_mean(name, known.iter().copied()).unwrap_or_else(|| match known.is_empty() {
            true => format!("{of} has no {what}"),
            false => format!("its {what} are {}", listed(known)),
        });
        self.diagnostics.push(
            Diagnostic::error(
                Code::UnknownColumn,
                name.span.clone(),
                format!("{of} has no column `{}` there", name.value),
            )
            .help(help),
        );
    }

    /// A value of the file as the JSON form of its column's type.
    fn json(
        &self,
        fields: &Fields<'a>,
        name: &str,
        value: &'a Spanned<DeValue<'a>>,
        data_type: &DataType,
        code: Code,
    ) -> Option<Json> {
        match (data_type, value.get_ref()) {
            (DataType::List(item), DeValue::Array(items)) => {
                let all: Vec<Json> = items
                    .iter()
                    .filter_map(|value| self.json(fields, name, value, item.data_type(), code))
                    .collect();
                return (all.len() == items.len()).then_some(Json::Array(all));
            }
            (DataType::Struct(children), DeValue::Table(_)) => {
                let table = fields.as_table(value.span(), value, format!("`{name}`"))?;
                return self.object(&table, name, children, code).map(Json::Object);
            }
            _ => {}
        }
        // Whatever records may hold in JSON may stand here.
        let json = scalar(value);
        let problem = match &json {
            None => "found a value that JSON does not know".to_owned(),
            Some(json) => match read_column(data_type, &json.to_string()) {
                Ok(_) => return Some(json.clone()),
                Err(fault) => fault.message().to_owned(),
            },
        };
        self.diagnostics.push(
            Diagnostic::error(
                code,
                value.span(),
                format!("the value does not fit the column `{name}`: {problem}"),
            )
            .label(form(data_type))
            .help("a column that is null is left out of an input, and named in `null` of an expectation"),
        );
        None
    }

    fn object(
        &self,
        table: &Fields<'a>,
        name: &str,
        children: &arrow::datatypes::Fields,
        code: Code,
    ) -> Option<Map<String, Json>> {
        let mut object = Map::new();
        let mut complete = true;
        for (field, value) in table.entries() {
            let child: Option<&Field> =
                children.iter().map(AsRef::as_ref).find(|child| *child.name() == field.value);
            let Some(child) = child else {
                let known = children.iter().map(|child| child.name().as_str()).collect();
                self.unknown_column(&field, "fields", &format!("`{name}`"), known);
                complete = false;
                continue;
            };
            match self.json(table, &field, value, child.data_type(), code) {
                Some(json) => {
                    object.insert(field.value, json);
                }
                None => complete = false,
            }
        }
        complete.then_some(object)
    }
}

/// A value of the file that is no list and no table, as JSON.
fn scalar(value: &Spanned<DeValue<'_>>) -> Option<Json> {
    match value.get_ref() {
        DeValue::String(text) => Some(Json::String(text.to_string())),
        DeValue::Boolean(boolean) => Some(Json::Bool(*boolean)),
        DeValue::Datetime(time) => Some(Json::String(time.to_string())),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(Json::from)
        }
        DeValue::Float(float) => float.as_str().parse().ok().and_then(Number::from_f64).map(Json::Number),
        DeValue::Array(_) => Some(Json::Array(Vec::new())),
        DeValue::Table(_) => Some(Json::Object(Map::new())),
    }
}

/// How a value of a type is written in a test.
fn form(data_type: &DataType) -> String {
    let name = shown(data_type);
    match data_type {
        DataType::Decimal128(..) => format!("{name} is written \"1.50\""),
        DataType::Binary => format!("{name} are written in base64"),
        DataType::Date32 => format!("{name} is written \"2026-01-31\""),
        DataType::Timestamp(..) => {
            format!("{name} is written \"2026-01-31T00:00:00Z\", or in epoch milliseconds")
        }
        DataType::List(_) => format!("{name} is written [ … ]"),
        DataType::Struct(_) => format!("{name} is written {{ … }}"),
        _ => format!("the column is {name}"),
    }
}
