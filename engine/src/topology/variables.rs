//! `${VAR}`, `${VAR:-default}` and `${file:PATH}` in the strings that may hold them.

use std::io::Read;
use std::path::Path;

use millstream_operators::config::{Fields, Text};
use millstream_operators::diagnostic::{Code, Diagnostic, Diagnostics, Span};
use toml::Spanned;
use toml::de::DeValue;

/// Largest file that `${file:PATH}` reads.
const LARGEST_FILE: u64 = 1 << 20;

/// A string after its variables have been replaced.
pub(super) struct Filled {
    /// As it is used.
    pub value: String,
    /// As it is written.
    pub text: Text,
    /// Whether a part comes from a file, and so must not be printed.
    pub secret: bool,
}

impl Filled {
    /// What messages may show: never a secret.
    pub fn shown(&self) -> &str {
        if self.secret { &self.text } else { &self.value }
    }
}

/// Replaces variables.
pub(super) struct Variables<'a> {
    pub directory: &'a Path,
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

/// What stands between `${` and `}`.
enum Variable<'t> {
    Environment { name: &'t str, default: Option<&'t str> },
    File(&'t str),
}

impl Variables<'_> {
    /// The string at `key`, its variables replaced.
    pub fn text(&self, fields: &Fields<'_>, key: &str) -> Option<Filled> {
        self.fill(fields.text(key)?, fields.diagnostics())
    }

    /// The string at `key`. What this machine lacks for it, a variable or a file, goes to `deferred`: it is no mistake of the
    /// file, and only a command that connects needs it. `None` then, too.
    pub fn deferred_text(&self, fields: &Fields<'_>, key: &str, deferred: &Diagnostics) -> Option<Filled> {
        self.deferred_fill(fields.text(key)?, fields.diagnostics(), deferred)
    }

    /// As [`Variables::deferred_text`], for a text that has been read.
    pub fn deferred_fill(
        &self,
        text: Text,
        diagnostics: &Diagnostics,
        deferred: &Diagnostics,
    ) -> Option<Filled> {
        let found = Diagnostics::default();
        let filled = self.fill(text, &found);
        for finding in found.into_sorted() {
            let of_machine = matches!(finding.code, Code::UndefinedVariable | Code::UnreadableFile);
            if of_machine { deferred } else { diagnostics }.push(finding);
        }
        filled
    }

    fn fill(&self, text: Text, diagnostics: &Diagnostics) -> Option<Filled> {
        let mut value = String::new();
        let mut secret = false;
        let mut complete = true;
        let mut at = 0;
        while let Some(start) = text.value.get(at..).and_then(|rest| rest.find("${")).map(|found| at + found)
        {
            value.push_str(text.value.get(at..start).unwrap_or_default());
            let Some(length) = text.value.get(start..).and_then(|rest| rest.find('}')) else {
                let place = text.place(start..text.value.len());
                let missing = Diagnostic::error(Code::InvalidVariable, place, "`${` has no closing `}`");
                diagnostics.push(missing.help("write `${NAME}`, `${NAME:-default}` or `${file:PATH}`"));
                return None;
            };
            let range = start..start + length + 1;
            at = range.end;
            match self.value_of(&text, range, diagnostics) {
                Some((replacement, from_file)) => {
                    value.push_str(&replacement);
                    secret |= from_file;
                }
                None => complete = false,
            }
        }
        value.push_str(text.value.get(at..).unwrap_or_default());
        complete.then_some(Filled { value, text, secret })
    }

    /// The value of the variable at `range` of `text`, and whether it comes from a file.
    fn value_of(&self, text: &Text, range: Span, diagnostics: &Diagnostics) -> Option<(String, bool)> {
        let place = text.place(range.clone());
        let inner = text.value.get(range.start + 2..range.end - 1).unwrap_or_default();
        let Some(variable) = variable(inner) else {
            diagnostics.push(
                Diagnostic::error(
                    Code::InvalidVariable,
                    place,
                    format!("`{inner}` is not the name of a variable"),
                )
                .help("write `${NAME}`, `${NAME:-default}` or `${file:PATH}`"),
            );
            return None;
        };
        match variable {
            Variable::Environment { name, default } => {
                let found = (self.environment)(name).filter(|value| default.is_none() || !value.is_empty());
                let value = found.or_else(|| default.map(str::to_owned));
                if value.is_none() {
                    let message = format!("the environment variable `{name}` is not set");
                    diagnostics.push(
                        Diagnostic::error(Code::UndefinedVariable, place, message)
                            .help(format!("set it, or give a default: `${{{name}:-default}}`")),
                    );
                }
                value.map(|value| (value, false))
            }
            Variable::File(path) => match read_small(&self.directory.join(path)) {
                Ok(content) => Some((content.trim_end_matches(['\n', '\r']).to_owned(), true)),
                Err(error) => {
                    diagnostics.push(
                        Diagnostic::error(
                            Code::UnreadableFile,
                            place,
                            format!("`{path}` cannot be read: {error}"),
                        )
                        .help("paths are relative to the folder of the topology file"),
                    );
                    None
                }
            },
        }
    }
}

fn read_small(path: &Path) -> std::io::Result<String> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut content = String::new();
    std::fs::File::open(path)?.take(LARGEST_FILE + 1).read_to_string(&mut content)?;
    if content.len() as u64 > LARGEST_FILE {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(content)
}

/// Understands what stands between `${` and `}`.
fn variable(inner: &str) -> Option<Variable<'_>> {
    if let Some(path) = inner.strip_prefix("file:") {
        return (!path.is_empty()).then_some(Variable::File(path));
    }
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (letters && starts).then_some(Variable::Environment { name, default })
}

/// Whether a text is `${file:PATH}` and nothing else.
pub(super) fn is_file(text: &str) -> bool {
    let inner = text.strip_prefix("${file:").and_then(|rest| rest.strip_suffix('}'));
    inner.is_some_and(|path| !path.is_empty() && !path.contains('}'))
}

/// Where a text holds something that reads as a variable.
pub(super) fn find(text: &str) -> Option<Span> {
    let mut at = 0;
    while let Some(start) = text.get(at..)?.find("${").map(|found| at + found) {
        let inner = text.get(start + 2..)?;
        match inner.find('}') {
            Some(length) if inner.get(..length).and_then(variable).is_some() => {
                return Some(start..start + length + 3);
            }
            _ => at = start + 2,
        }
    }
    None
}

/// Reports variables in keys and in strings where none is read. Tests hold data and descriptions prose: there it is text.
pub(super) fn deny_elsewhere(fields: &Fields<'_>, path: &mut Vec<String>) {
    for (key, value) in fields.entries() {
        path.push(key.value.clone());
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        let read = matches!(
            parts.as_slice(),
            ["kafka" | "runtime", ..]
                | ["sources" | "sinks", _, "topic"]
                | ["sources" | "steps", _, "dead-letter"]
                | ["models", _, "path"]
                | ["sources" | "tables" | "sinks", _, "format" | "key-format", "schema"]
        );
        let prose = matches!(parts.as_slice(), ["tests", ..] | [.., "description"]);
        if !prose {
            if find(&key).is_some() {
                report(fields, key.span.clone(), "a key");
            }
            if !read {
                deny_in_value(fields, value, path);
            }
        }
        path.pop();
    }
}

/// Whether a table holds a string that was reported by [`deny_elsewhere`]: its parts are not worth checking further.
pub(super) fn has_denied(fields: &Fields<'_>) -> bool {
    fields.diagnostics().any(|found| {
        found.code == Code::InterpolationNotAllowed
            && fields.entries().iter().any(|(_, value)| {
                let span = value.span();
                span.start <= found.span.start && found.span.end <= span.end
            })
    })
}

fn deny_in_value(fields: &Fields<'_>, value: &Spanned<DeValue<'_>>, path: &mut Vec<String>) {
    match value.get_ref() {
        DeValue::String(_) => {
            let found = fields.as_text(value).and_then(|text| find(&text).map(|range| text.place(range)));
            if let Some(place) = found {
                report(fields, place, "this string");
            }
        }
        DeValue::Array(items) => {
            for item in items.iter() {
                deny_in_value(fields, item, path);
            }
        }
        DeValue::Table(table) => {
            let inner =
                Fields::new(table, value.span(), fields.source(), fields.diagnostics(), String::new());
            deny_elsewhere(&inner, path);
        }
        _ => {}
    }
}

fn report(fields: &Fields<'_>, place: Span, whose: &str) {
    fields.diagnostics().push(
        Diagnostic::error(Code::InterpolationNotAllowed, place, format!("no variable is read in {whose}"))
            .help(
                "variables are read in `[kafka]`, `[runtime]`, topics and the paths of models; \
             in SQL write '$' || '{…}' for such a text",
            ),
    );
}
