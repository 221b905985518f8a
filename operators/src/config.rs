//! Reads the fields of a table of the topology file and reports what is wrong with them, each at its place.
//!
//! Every reader takes a key, checks the type, and pushes a [`Diagnostic`] when it does not fit; the caller gets `None` and goes on,
//! so that one run finds all mistakes.

use std::collections::BTreeSet;

use datafusion_sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use serde_json::{Map, Value as Json, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Code, Diagnostic, Diagnostics, Span, did_you_mean, did_you_mean_this, listed};

/// A value and its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub span: Span,
}

/// A string of the file; positions inside of it can be traced back to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The string, escapes resolved.
    pub value: String,
    /// The place of the whole literal, quotes included.
    pub span: Span,
    /// For each byte of `value` and its end, the offset in the file; empty where the string has no literal of its own.
    offsets: Vec<usize>,
}

impl Text {
    /// A string literal at `span` of `source`.
    pub fn new(value: &str, span: Span, source: &str) -> Self {
        let raw = source.get(span.clone()).unwrap_or_default();
        Text { value: value.to_owned(), offsets: literal_offsets(raw, span.start, value), span }
    }

    /// The place in the file of the bytes `range` of the value.
    pub fn place(&self, range: Span) -> Span {
        match (self.offsets.get(range.start), self.offsets.get(range.end)) {
            (Some(start), Some(end)) if start <= end => *start..*end,
            _ => self.span.clone(),
        }
    }
}

impl std::ops::Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.value
    }
}

/// Where each byte of a TOML string's value stands in the file; empty if the literal is of a form that is not understood.
fn literal_offsets(raw: &str, base: usize, value: &str) -> Vec<usize> {
    let (quote, basic) = if raw.starts_with("\"\"\"") {
        (3, true)
    } else if raw.starts_with("'''") {
        (3, false)
    } else if raw.starts_with('"') {
        (1, true)
    } else if raw.starts_with('\'') {
        (1, false)
    } else {
        return Vec::new();
    };
    let mut rest = raw.get(quote..raw.len().saturating_sub(quote)).unwrap_or_default();
    let mut at = base + quote;
    if quote == 3 {
        let first_line = if rest.starts_with("\r\n") { 2 } else { usize::from(rest.starts_with('\n')) };
        at += first_line;
        rest = rest.get(first_line..).unwrap_or_default();
    }
    let mut offsets = Vec::with_capacity(value.len() + 1);
    let mut characters = rest.char_indices().peekable();
    while let Some((index, character)) = characters.next() {
        if !(basic && character == '\\') {
            offsets.extend((0..character.len_utf8()).map(|byte| at + index + byte));
            continue;
        }
        let digits = match characters.next().map(|(_, escape)| escape) {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(space) if space.is_whitespace() => {
                while characters.next_if(|(_, next)| next.is_whitespace()).is_some() {}
                continue;
            }
            _ => 0,
        };
        let hex: String = (0..digits).filter_map(|_| characters.next().map(|(_, digit)| digit)).collect();
        let width = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32).map_or(1, char::len_utf8);
        offsets.extend(std::iter::repeat_n(at + index, width));
    }
    offsets.push(at + rest.len());
    if offsets.len() == value.len() + 1 { offsets } else { Vec::new() }
}

/// What kind of value a field takes; for the generated reference and JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Any string.
    String,
    /// The name of a node or of a node's output.
    Node,
    /// A list of nodes.
    Nodes,
    /// A scalar SQL expression.
    Sql,
    /// Names with SQL expressions.
    SqlTable,
    /// A list of column names.
    Columns,
    /// A list of column names, or names with SQL expressions.
    ColumnsOrSql,
    /// A duration: `"10s"`.
    Duration,
    /// A size in bytes: `"64MiB"`.
    Size,
    /// A point in time: RFC 3339 text, or TOML's own.
    Time,
    /// An integer.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// One of the given words.
    Choice(&'static [&'static str]),
    /// A table whose content the documentation of the field explains.
    Table,
    /// Columns with their types, or the name of such a table.
    Types,
    /// A table with these keys.
    Keys(&'static [Field]),
    /// A table of names, each with a value of this kind.
    Named(&'static FieldKind),
    /// A list of values of this kind.
    List(&'static FieldKind),
    /// One of these kinds.
    OneOf(&'static [FieldKind]),
}

/// A field that a table of the file may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// What it takes.
    pub kind: FieldKind,
    /// Whether it must be there.
    pub required: bool,
    /// What it means: one or two sentences in Markdown.
    pub doc: &'static str,
}

impl Field {
    /// A field that must be there.
    pub const fn required(name: &'static str, kind: FieldKind, doc: &'static str) -> Self {
        Field { name, kind, required: true, doc }
    }

    /// A field that may be left out.
    pub const fn optional(name: &'static str, kind: FieldKind, doc: &'static str) -> Self {
        Field { name, kind, required: false, doc }
    }
}

/// A table of the file, as its reader sees it.
#[derive(Clone)]
pub struct Fields<'a> {
    table: &'a DeTable<'a>,
    /// The place to point at when a key is missing: the header or the name.
    pub header: Span,
    source: &'a str,
    diagnostics: &'a Diagnostics,
    /// What the table is, for messages: `step `valid``.
    pub what: String,
}

impl<'a> Fields<'a> {
    /// A reader of `table`; `header` is where a missing key is reported, `what` names the table in messages.
    pub fn new(
        table: &'a DeTable<'a>,
        header: Span,
        source: &'a str,
        diagnostics: &'a Diagnostics,
        what: impl Into<String>,
    ) -> Self {
        Fields { table, header, source, diagnostics, what: what.into() }
    }

    /// Where findings go.
    pub fn diagnostics(&self) -> &'a Diagnostics {
        self.diagnostics
    }

    /// The text of the file.
    pub fn source(&self) -> &'a str {
        self.source
    }

    /// Reports keys that are not among `known`.
    pub fn deny_unknown<'k>(&self, known: impl IntoIterator<Item = &'k str>) {
        let known: BTreeSet<&str> = known.into_iter().collect();
        for (key, _) in self.entries() {
            if !known.contains(key.value.as_str()) {
                let help = did_you_mean(&key.value, known.iter().copied())
                    .unwrap_or_else(|| format!("known keys are {}", listed(known.iter().copied())));
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::UnknownKey,
                        key.span.clone(),
                        format!("unknown key `{}` in {}", key.value, self.what),
                    )
                    .help(help),
                );
            }
        }
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The raw value of a key.
    pub fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    /// The place of a key's name, or the header.
    pub fn key_span(&self, key: &str) -> Span {
        self.table.get_key_value(key).map_or(self.header.clone(), |(name, _)| name.span())
    }

    /// Keys and values in the order of the file.
    pub fn entries(&self) -> Vec<(Text, &'a Spanned<DeValue<'a>>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| {
                (Text { value: key.get_ref().to_string(), span: key.span(), offsets: Vec::new() }, value)
            })
            .collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        entries
    }

    /// Reports that a key is missing, unless it is there mistyped and has been reported as unknown.
    pub fn missing(&self, key: &str, help: &str) {
        let meant = did_you_mean_this(key);
        let is_mistyped = |name: &Text| {
            self.diagnostics.any(|found| {
                found.code == Code::UnknownKey
                    && found.span == name.span
                    && found.help.as_ref() == Some(&meant)
            })
        };
        if self.entries().iter().any(|(name, _)| is_mistyped(name)) {
            return;
        }
        self.diagnostics.push(
            Diagnostic::error(Code::MissingKey, self.header.clone(), format!("{} has no `{key}`", self.what))
                .help(help),
        );
    }

    /// Reports that the value of a key has the wrong type.
    pub fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.diagnostics.push(
            Diagnostic::error(Code::WrongType, value.span(), format!("`{key}` is {found}"))
                .label(format!("expected {expected}")),
        );
    }

    /// A string.
    pub fn text(&self, key: &str) -> Option<Text> {
        let value = self.get(key)?;
        let text = self.as_text(value);
        if text.is_none() {
            self.wrong_type(key, value, "a string");
        }
        text
    }

    /// A value as a string, if it is one.
    pub fn as_text(&self, value: &Spanned<DeValue<'_>>) -> Option<Text> {
        value.get_ref().as_str().map(|text| Text::new(text, value.span(), self.source))
    }

    /// A string that must be there.
    pub fn require_text(&self, key: &str, help: &str) -> Option<Text> {
        if !self.has(key) {
            self.missing(key, help);
        }
        self.text(key)
    }

    /// One of `choices`.
    pub fn choice(&self, key: &str, choices: &[&'static str]) -> Option<Placed<&'static str>> {
        let text = self.text(key)?;
        match choices.iter().find(|choice| **choice == text.value) {
            Some(choice) => Some(Placed { value: choice, span: text.span }),
            None => {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::InvalidChoice,
                        text.span.clone(),
                        format!("`{}` is not a choice for `{key}`", text.value),
                    )
                    .help(
                        did_you_mean(&text, choices.iter().copied())
                            .unwrap_or_else(|| format!("choices are {}", listed(choices.iter().copied()))),
                    ),
                );
                None
            }
        }
    }

    /// An integer within `range`.
    pub fn integer(&self, key: &str, range: std::ops::RangeInclusive<i64>) -> Option<Placed<i64>> {
        let value = self.get(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "an integer");
            return None;
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(Placed { value: number, span: value.span() }),
            _ => {
                self.diagnostics.push(
                    Diagnostic::error(Code::OutOfRange, value.span(), format!("`{key}` is out of range"))
                        .label(format!("expected {} to {}", range.start(), range.end())),
                );
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &str) -> Option<Placed<bool>> {
        let value = self.get(key)?;
        match value.get_ref().as_bool() {
            Some(boolean) => Some(Placed { value: boolean, span: value.span() }),
            None => {
                self.wrong_type(key, value, "`true` or `false`");
                None
            }
        }
    }

    /// A duration in milliseconds: `"250ms" "10s" "5m" "1h30m" "7d"`.
    pub fn duration(&self, key: &str) -> Option<Placed<i64>> {
        let value = self.get(key)?;
        let Some(text) = self.as_text(value) else {
            self.wrong_type(key, value, "a duration, such as \"30s\"");
            return None;
        };
        let millis = parse_duration(&text);
        if millis.is_none() {
            self.report_duration(&text, text.span.clone());
        }
        millis.map(|value| Placed { value, span: text.span })
    }

    /// Reports that a text is no duration.
    pub fn report_duration(&self, text: &str, span: Span) {
        // The same with other numbers would be one.
        let ones: String = text
            .split(|c: char| c.is_ascii_digit())
            .filter(|unit| !unit.is_empty())
            .fold(String::new(), |ones, unit| ones + "1" + unit);
        let (message, help) = match parse_duration(&ones) {
            Some(_) if text.starts_with(|c: char| c.is_ascii_digit()) => (
                format!("`{text}` is too long"),
                format!("the longest duration is {}", format_duration(i64::MAX)),
            ),
            _ => (format!("`{text}` is not a duration"), DURATION_HELP.to_owned()),
        };
        self.diagnostics.push(Diagnostic::error(Code::InvalidDuration, span, message).help(help));
    }

    /// A size in bytes, more than none: `"512MiB" "2GB"`.
    pub fn size(&self, key: &str) -> Option<Placed<u64>> {
        let value = self.get(key)?;
        let Some(text) = self.as_text(value) else {
            self.wrong_type(key, value, "a size, such as \"64MiB\"");
            return None;
        };
        match parse_size(&text) {
            Some(0) => {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::OutOfRange,
                        text.span.clone(),
                        format!("`{key}` is out of range"),
                    )
                    .label("expected at least 1B"),
                );
                None
            }
            Some(bytes) => Some(Placed { value: bytes, span: text.span }),
            None => {
                let message = format!("`{}` is not a size", text.value);
                self.diagnostics
                    .push(Diagnostic::error(Code::InvalidSize, text.span.clone(), message).help(SIZE_HELP));
                None
            }
        }
    }

    /// A list of strings.
    pub fn texts(&self, key: &str) -> Option<Vec<Text>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of strings");
            return None;
        };
        let mut texts = Vec::with_capacity(array.len());
        for item in array.iter() {
            match self.as_text(item) {
                Some(text) => texts.push(text),
                None => self.wrong_type(key, item, "a string"),
            }
        }
        (texts.len() == array.len()).then_some(texts)
    }

    /// A table; `what` names it in messages.
    pub fn table(&self, key: &str, what: impl Into<String>) -> Option<Fields<'a>> {
        let value = self.get(key)?;
        let fields = self.as_table(self.key_span(key), value, what);
        if fields.is_none() {
            self.wrong_type(key, value, "a table");
        }
        fields
    }

    /// A value as a table, if it is one.
    pub fn as_table(
        &self,
        header: Span,
        value: &'a Spanned<DeValue<'a>>,
        what: impl Into<String>,
    ) -> Option<Fields<'a>> {
        value.get_ref().as_table().map(|table| Fields {
            table,
            header,
            source: self.source,
            diagnostics: self.diagnostics,
            what: what.into(),
        })
    }

    /// Whether a column or header has a name; reports that it has none.
    pub fn check_column_name(&self, name: &Text) -> bool {
        if name.is_empty() {
            self.diagnostics.push(
                Diagnostic::error(Code::InvalidName, name.span.clone(), "the name is empty")
                    .help("give it a name"),
            );
        }
        !name.is_empty()
    }

    /// Names with strings, in the order of the file: `{ total = "sum(x)", … }`.
    pub fn text_table(&self, key: &str) -> Option<Vec<(Text, Text)>> {
        let fields = self.table(key, format!("`{key}`"))?;
        let mut pairs = Vec::new();
        let entries = fields.entries();
        let count = entries.len();
        for (name, value) in entries {
            let named = self.check_column_name(&name);
            match self.as_text(value) {
                Some(text) if named => pairs.push((name, text)),
                Some(_) => {}
                None => self.wrong_type(&name, value, "a string"),
            }
        }
        (pairs.len() == count).then_some(pairs)
    }
}

/// Reports a name that nodes, their outputs and input qualifiers may not have; `what` says whose name it is.
pub fn check_name(name: &Text, what: &str, diagnostics: &Diagnostics) {
    check_word(name, what, diagnostics);
    if is_reserved(name) {
        diagnostics.push(
            Diagnostic::error(
                Code::InvalidName,
                name.span.clone(),
                format!("`{}` is a reserved word and cannot name a {what}", name.value),
            )
            .help(format!("choose another name, such as `{}_{what}`", name.value)),
        );
    }
}

/// Reports a name that is not made of lower-case letters, digits and `_`.
pub fn check_word(name: &Text, what: &str, diagnostics: &Diagnostics) {
    if is_word(name) {
        return;
    }
    let lower = name.to_lowercase();
    let likely = lower.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let likely: String = likely.chars().map(|c| if is_word_letter(c) { c } else { '_' }).collect();
    let example = if likely.is_empty() { String::new() } else { format!(", such as `{likely}`") };
    diagnostics.push(
        Diagnostic::error(
            Code::InvalidName,
            name.span.clone(),
            format!("`{}` is not a name for a {what}", name.value),
        )
        .help(format!("names are lower-case letters, digits and `_`, and start with a letter{example}")),
    );
}

/// Whether a name is made of lower-case letters, digits and `_`, and starts with a letter.
pub fn is_word(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.chars().all(is_word_letter)
}

fn is_word_letter(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_'
}

/// Whether a word has a meaning of its own where the name of a node may stand.
fn is_reserved(word: &str) -> bool {
    let keyword = |keyword: &Keyword| keyword.to_string().eq_ignore_ascii_case(word);
    word == "late" || RESERVED_FOR_TABLE_ALIAS.iter().any(keyword)
}

/// How a duration is written, for messages.
pub const DURATION_HELP: &str =
    "write a number and a unit, largest unit first: \"250ms\", \"10s\", \"5m\", \"1h30m\", \"7d\"";

/// Milliseconds of a duration such as `"1h30m"`; units `d h m s ms`, each at most once, largest first. `None` if it is none.
pub fn parse_duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut rest = text;
    let mut next_unit = 0;
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let number: i64 = number.parse().ok()?;
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let position = UNITS.iter().position(|(name, _)| *name == unit)?;
        if position < next_unit {
            return None;
        }
        next_unit = position + 1;
        total = total.checked_add(number.checked_mul(UNITS.get(position)?.1)?)?;
        rest = tail;
    }
    Some(total)
}

/// A duration as it is written in a topology: `90000` is `1m30s`.
pub fn format_duration(millis: i64) -> String {
    const UNITS: [(&str, i64); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut rest = millis;
    let mut text = String::new();
    for (unit, size) in UNITS {
        if rest / size > 0 {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// How a size is written, for messages.
pub const SIZE_HELP: &str =
    "write a whole number and a unit: \"512MiB\", \"2GiB\" (powers of 1024), \"2GB\" (powers of 1000)";

/// Bytes of a size such as `512MiB`; `None` if it is none.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// A size in the largest binary unit that holds it whole: `2097152` is `2MiB`.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// The JSON Schema of a field, with what it means.
pub fn json_schema(field: &Field) -> Json {
    let mut schema = kind_schema(field.kind);
    if let Json::Object(map) = &mut schema {
        map.insert("description".to_owned(), Json::String(field.doc.to_owned()));
    }
    schema
}

/// The JSON Schema of a table with these keys and no others.
pub fn table_schema(fields: &[Field]) -> Json {
    let properties: Map<String, Json> =
        fields.iter().map(|field| (field.name.to_owned(), json_schema(field))).collect();
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// `#/$defs/input` and `#/$defs/columns` are parts of the whole schema.
fn kind_schema(kind: FieldKind) -> Json {
    match kind {
        FieldKind::String | FieldKind::Sql => json!({ "type": "string" }),
        FieldKind::Node => json!({ "$ref": "#/$defs/input" }),
        FieldKind::Nodes | FieldKind::Columns => json!({ "type": "array", "items": { "type": "string" } }),
        FieldKind::SqlTable => kind_schema(FieldKind::Named(&FieldKind::Sql)),
        FieldKind::ColumnsOrSql => kind_schema(FieldKind::OneOf(&[FieldKind::Columns, FieldKind::SqlTable])),
        FieldKind::Duration => json!({ "type": "string", "pattern": DURATION_PATTERN }),
        // TOML has times of its own, which are no strings.
        FieldKind::Time => json!({ "anyOf": [
            { "type": "string", "format": "date-time" },
            { "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]" },
        ] }),
        FieldKind::Size => json!({ "type": "string", "pattern": "^0*[1-9][0-9]* *([KMGT]i|[kKMGT])?B$" }),
        FieldKind::Integer => json!({ "type": "integer" }),
        FieldKind::Boolean => json!({ "type": "boolean" }),
        FieldKind::Choice(choices) => json!({ "type": "string", "enum": choices }),
        FieldKind::Table => json!({ "type": "object", "additionalProperties": true }),
        FieldKind::Types => json!({ "oneOf": [{ "type": "string" }, { "$ref": "#/$defs/columns" }] }),
        FieldKind::Keys(fields) => table_schema(fields),
        FieldKind::Named(kind) => json!({ "type": "object", "additionalProperties": kind_schema(*kind) }),
        FieldKind::List(kind) => json!({ "type": "array", "items": kind_schema(*kind) }),
        FieldKind::OneOf(kinds) => {
            let kinds: Vec<Json> = kinds.iter().map(|kind| kind_schema(*kind)).collect();
            json!({ "oneOf": kinds })
        }
    }
}

/// Each unit at most once, the largest first, and one at least.
const DURATION_PATTERN: &str = "^([0-9]+d([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?\
                                 |[0-9]+h([0-9]+m)?([0-9]+s)?([0-9]+ms)?\
                                 |[0-9]+m([0-9]+s)?([0-9]+ms)?\
                                 |[0-9]+s([0-9]+ms)?\
                                 |[0-9]+ms)$";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip_and_reject_nonsense() {
        for (text, millis) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Some(millis), "{text}");
            assert_eq!(format_duration(millis), text);
        }
        for text in ["", "5", "m", "5 m", "-5m", "1m1h", "5min", "1s1s", "99999999999999999999d", "1.5h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("1GiB", 1 << 30), ("512 MiB", 512 << 20), ("2GB", 2_000_000_000), ("7B", 7)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "1", "GiB", "1.5GiB", "-1GiB", "99999999999TiB", "1 gib"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!([16 << 20, 3 << 30, 1000].map(format_size), ["16MiB", "3GiB", "1000B"]);
    }

    #[test]
    fn places_inside_strings_survive_escapes() {
        let place = |literal: &str, needle: &str| {
            let source = format!("where = {literal} # end");
            let table = DeTable::parse(&source).unwrap().into_inner();
            let diagnostics = Diagnostics::default();
            let fields = Fields::new(&table, 0..0, &source, &diagnostics, "test");
            let text = fields.text("where").unwrap();
            let start = text.value.find(needle).unwrap();
            source[text.place(start..start + needle.len())].to_owned()
        };
        assert_eq!(place(r#""a > bcd""#, "bcd"), "bcd");
        assert_eq!(place(r#""\"a\" > bcd""#, "bcd"), "bcd");
        assert_eq!(place(r#""\u00e9\t> bcd and x""#, "bcd"), "bcd");
        assert_eq!(place("'é > bcd'", "bcd"), "bcd");
        assert_eq!(place("\"\"\"\na >\\\n     bcd\"\"\"", "bcd"), "bcd");
        assert_eq!(place("'''\na > bcd'''", "bcd"), "bcd");
    }
}
