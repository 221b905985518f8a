//! Findings as text for people, and as JSON lines for tools.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use millstream_operators::diagnostic::{Diagnostic, Severity, Span};
use serde::Serialize;

/// The findings with the lines of the file that they are about, in the order given.
pub fn render(diagnostics: &[Diagnostic], file: &str, text: &str, color: bool) -> String {
    let text = &hide_passwords(text);
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut rendered = String::new();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let others = diagnostic.labels.iter().map(|label| {
            AnnotationKind::Context.span(visible(text, &label.span)).label(printable(&label.text))
        });
        let primary = AnnotationKind::Primary.span(visible(text, &diagnostic.span));
        let label = Some(printable(&diagnostic.label)).filter(|label| !label.is_empty());
        let snippet = Snippet::source(text).path(file).annotation(primary.label(label)).annotations(others);
        let title = level.primary_title(printable(&diagnostic.message)).id(diagnostic.code.number());
        let mut group = title.element(snippet);
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(printable(help)));
        }
        rendered.push_str(&renderer.render(&[group]));
        rendered.push_str("\n\n");
    }
    rendered
}

/// A finding as tools read it. Lines and columns count from 1, columns in characters; the end is the column after the last.
#[derive(Serialize)]
struct Finding<'a> {
    code: &'static str,
    severity: &'static str,
    message: &'a str,
    file: &'a str,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
    help: Option<&'a str>,
}

/// The findings as JSON, one object a line.
pub fn to_json(diagnostics: &[Diagnostic], file: &str, text: &str) -> String {
    let mut lines = String::new();
    for diagnostic in diagnostics {
        let span = inside(text, &diagnostic.span);
        let (line, column) = position(text, span.start);
        let (end_line, end_column) = position(text, span.end);
        let finding = Finding {
            code: diagnostic.code.number(),
            severity: match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            message: &diagnostic.message,
            file,
            line,
            column,
            end_line,
            end_column,
            help: diagnostic.help.as_deref(),
        };
        // Strings and numbers always have a JSON form.
        lines.push_str(&serde_json::to_string(&finding).unwrap_or_default());
        lines.push('\n');
    }
    lines
}

/// Line and column of a byte.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// The span within the text, at the borders of characters.
fn inside(text: &str, span: &Span) -> Span {
    let start = text.floor_char_boundary(span.start);
    start..text.ceil_char_boundary(span.end).max(start)
}

/// The span, at least one character long where there is one on its line.
fn visible(text: &str, span: &Span) -> Span {
    let span = inside(text, span);
    let next = text.get(span.start..).and_then(|rest| rest.chars().next()).filter(|next| *next != '\n');
    match next {
        Some(next) if span.is_empty() => span.start..span.start + next.len_utf8(),
        _ => span,
    }
}

/// The text with asterisks in place of passwords that stand in it: what is shown ends up in logs. Every byte keeps its place.
fn hide_passwords(text: &str) -> String {
    text.split_inclusive('\n').map(|line| hide_password(line).unwrap_or_else(|| line.to_owned())).collect()
}

/// A line with a key that ends with `password` and a string after it.
fn hide_password(line: &str) -> Option<String> {
    const WORD: &str = "password";
    let after_word = line.find(WORD)? + WORD.len();
    let after_equals = after_word + line.get(after_word..)?.find('=')? + 1;
    let quote = after_equals + line.get(after_equals..)?.find(['"', '\''])?;
    let start = quote + 1;
    let value = line.get(start..)?;
    let length = value.rfind(['"', '\'']).unwrap_or(value.trim_end().len());
    let (secret, rest) = value.split_at_checked(length)?;
    let is_file = secret.starts_with("${file:");
    (!is_file).then(|| format!("{}{}{rest}", line.get(..start).unwrap_or_default(), "*".repeat(length)))
}

/// Text without control characters, which could rewrite a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
