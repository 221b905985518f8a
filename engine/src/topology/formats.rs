//! `format` and `key-format`.

use std::sync::Arc;

use millstream_operators::config::{Fields, Text};
use millstream_operators::diagnostic::{Code, Diagnostic, Span, did_you_mean, listed};

use super::read::Reader;
use super::sources::ColumnAt;
use super::types::shown;
use crate::codec::layout::{FieldLayout, Format};
use crate::codec::schemas::SchemaFormat;
use crate::schema_registry::SchemaKind;

/// What formats are called.
const NAMES: [&str; 7] = ["json", "avro", "protobuf", "string", "bytes", "int32", "int64"];

/// Whether records are read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

/// A key or value, and where it is.
pub(super) struct Part<'p> {
    /// `format` or `key-format`.
    pub option: &'static str,
    pub direction: Direction,
    /// The topic; `None` if each row chooses its own.
    pub topic: Option<&'p str>,
    /// The columns with their places.
    pub columns: &'p [ColumnAt],
    /// The columns as they lie in records.
    pub layouts: &'p [FieldLayout],
    /// Whether there is such a part at all.
    pub exists: bool,
}

impl Part<'_> {
    fn is_key(&self) -> bool {
        self.option == "key-format"
    }

    fn name(&self) -> &'static str {
        if self.is_key() { "key" } else { "value" }
    }
}

impl<'a> Reader<'a> {
    /// The format of a key or value: as said, else the default for its columns; reports columns that it cannot hold.
    pub(super) fn format(&mut self, fields: &Fields<'a>, part: &Part<'_>) -> Format {
        let default = match part.is_key() {
            true => Format::default_for_key(part.layouts),
            false => Format::Json,
        };
        let Some(value) = fields.get(part.option) else { return default };
        if !value.get_ref().is_str() && !value.get_ref().is_table() {
            fields.wrong_type(part.option, value, "a string, or a table such as `{ type = \"avro\" }`");
            return default;
        }
        let (table, name) = match value.get_ref().is_str() {
            true => (None, fields.choice(part.option, &NAMES).map(|choice| (choice.value, choice.span))),
            false => {
                let what = format!("`{}` of {}", part.option, fields.what);
                let table = fields.table(part.option, what);
                let name = table.as_ref().and_then(type_of);
                (table, name)
            }
        };
        let Some((name, span)) = name else { return default };
        if !part.exists {
            let message = format!("{} has no key that could have a format", fields.what);
            let help = format!("remove `{}`, or give it a key", part.option);
            self.diagnostics.push(Diagnostic::error(Code::NoKey, span, message).help(help));
            return default;
        }
        let kind = match name {
            "avro" => SchemaKind::Avro,
            "protobuf" => SchemaKind::Protobuf,
            name => {
                let format = match name {
                    "string" => Format::String,
                    "bytes" => Format::Bytes,
                    "int32" => Format::Int32,
                    "int64" => Format::Int64,
                    _ => Format::Json,
                };
                if let Some(table) = table {
                    table.deny_unknown(["type"]);
                }
                self.check_columns(part, &format, span);
                return format;
            }
        };
        self.schema_format(part, table, kind, span).unwrap_or(default)
    }

    fn check_columns(&self, part: &Part<'_>, format: &Format, span: Span) {
        // What a single column of a key is written as by default is the one format, besides JSON, that can hold it.
        let raw = || Format::default_for_key(part.layouts);
        let diagnostic = match part.columns {
            _ if *format == Format::Json => return,
            [_] if raw() == *format => return,
            [column] => Diagnostic::error(
                Code::FormatTypeMismatch,
                span,
                format!("the format `{}` cannot hold the column `{}`", format.name(), column.name),
            )
            .also(
                column.span.clone(),
                format!("`{}` is {}, not {}", column.name, shown(&column.data_type), format.name()),
            ),
            columns => Diagnostic::error(
                Code::FormatNeedsOneColumn,
                span,
                format!(
                    "the format `{}` holds exactly one column, and the {} has {}",
                    format.name(),
                    part.name(),
                    columns.len()
                ),
            ),
        };
        let one = if part.columns.len() == 1 { "a" } else { "a single" };
        let help = format!("use `{} = \"json\"`, or {one} column of type {}", part.option, format.name());
        self.diagnostics.push(diagnostic.help(help));
    }

    /// A format with schemas.
    fn schema_format(
        &mut self,
        part: &Part<'_>,
        table: Option<Fields<'a>>,
        kind: SchemaKind,
        span: Span,
    ) -> Option<Format> {
        let of_kind: &[&str] = match kind {
            SchemaKind::Avro => &["type", "schema", "subject", "registry"],
            SchemaKind::Protobuf => &["type", "schema", "message", "subject", "registry"],
        };
        if let Some(table) = &table {
            table.deny_unknown(of_kind.iter().copied());
        }
        let table = table.as_ref();
        let subject = table.and_then(|table| table.text("subject"));
        let message = table.and_then(|table| table.text("message"));
        let framed = table.and_then(|table| table.boolean("registry")).is_none_or(|framed| framed.value);
        let path = table
            .filter(|table| table.has("schema"))
            .map(|table| (table, self.variables.text(table, "schema")));
        let given = match path {
            None => None,
            Some((_, None)) => return None,
            Some((table, Some(path))) => {
                let file = self.variables.directory.join(&path.value);
                let message = message.as_ref().map(|message| message.value.as_str());
                match SchemaFormat::read_file(kind, &file, message) {
                    Ok(schema) => Some(schema),
                    Err(why) => {
                        let message = if path.secret {
                            "the schema cannot be used".to_owned()
                        } else {
                            format!("the schema `{}` cannot be used: {why}", path.shown())
                        };
                        let help = "paths are relative to the folder of the topology file";
                        table.diagnostics().push(
                            Diagnostic::error(Code::SchemaFile, path.text.span.clone(), message).help(help),
                        );
                        return None;
                    }
                }
            }
        };
        if !framed && given.is_none() {
            self.diagnostics.push(
                Diagnostic::error(
                    Code::SchemaFile,
                    span,
                    "the records have no schema's id, and no schema is given that they could have",
                )
                .help("name the file with the schema: `schema = \"schemas/….avsc\"` (for Protobuf a descriptor file)"),
            );
            return None;
        }
        let subject = match (subject, part.topic) {
            (Some(subject), _) => subject.value,
            (None, Some(topic)) => format!("{topic}-{}", part.name()),
            (None, None) if !framed => String::new(),
            (None, None) => {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::SchemaSubject,
                        span,
                        "each row chooses its topic, and so no topic names the schema's subject",
                    )
                    .help(format!(
                        "name the subject: `{} = {{ type = \"{}\", subject = \"…\" }}`",
                        part.option,
                        kind.name()
                    )),
                );
                return None;
            }
        };
        let format = SchemaFormat {
            kind,
            name: type_name(part.topic.unwrap_or(&subject), part.is_key()),
            subject,
            given,
            message: message.map(|message| message.value),
            framed,
            registry: self.schema_registry.clone(),
        };
        let fits = match part.direction {
            Direction::Read => format.check_read(part.layouts),
            Direction::Write => format.check_write(part.layouts),
        };
        if let Err(why) = fits {
            let message = format!("the {} does not fit its columns: {why}", schema_of(&format, part));
            let mut diagnostic = Diagnostic::error(Code::SchemaColumns, span.clone(), message);
            let named = part.columns.iter().zip(part.layouts).find(|(_, layout)| {
                why.contains(&format!("field `{}`", layout.field))
                    || why.contains(&format!("`{}` cannot be the", layout.field))
            });
            if let Some((column, _)) = named
                && (column.span.end <= span.start || span.end <= column.span.start)
            {
                let text = format!("`{}` is {}", column.name, shown(&column.data_type));
                diagnostic = diagnostic.also(column.span.clone(), text);
            }
            self.diagnostics.push(diagnostic.help(match part.direction {
                Direction::Read => "columns have the names and types of the schema's fields: `{ type = \"…\", field = \"…\" }` names another field",
                Direction::Write => "make columns of the schema's names and types with `columns`, or change the schema",
            }));
            return None;
        }
        if format.framed {
            self.registry_users.push(span);
        }
        Some(Format::Schema(Arc::new(format)))
    }
}

/// What a schema is, in messages.
fn schema_of(format: &SchemaFormat, part: &Part<'_>) -> String {
    match format.given {
        Some(_) => format!("{} schema of the {}", format.kind.name(), part.name()),
        None => format!("{} format of the {}", format.kind.name(), part.name()),
    }
}

/// `type` of a format's table.
fn type_of(table: &Fields<'_>) -> Option<(&'static str, Span)> {
    let text: Text = table.require_text("type", "add `type = \"avro\"` or `type = \"protobuf\"`")?;
    let found = NAMES.iter().find(|name| **name == text.value);
    if found.is_none() {
        let help = did_you_mean(&text, NAMES).unwrap_or_else(|| format!("choices are {}", listed(NAMES)));
        let message = format!("`{}` is not a choice for `type`", text.value);
        table
            .diagnostics()
            .push(Diagnostic::error(Code::InvalidChoice, text.span.clone(), message).help(help));
    }
    found.map(|name| (*name, text.span))
}

/// The name of a schema that is made of columns: the topic's, with what names may hold.
fn type_name(topic: &str, is_key: bool) -> String {
    let letters = topic.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    let mut name: String = letters.collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        name.insert(0, '_');
    }
    if is_key {
        name.push_str("_key");
    }
    name
}
