//! TOML text to a tree in which every key and value knows its place.

use millstream_operators::diagnostic::{Code, Diagnostic, Diagnostics, Span};
use toml::de::{DeTable, DeValue};

/// The tree of a text. With syntax errors there is none: they are all reported, but what follows a broken line can not be
/// trusted to mean what it seems to mean.
pub(super) fn parse<'a>(text: &'a str, diagnostics: &Diagnostics) -> Option<DeTable<'a>> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let tree = tree.into_inner();
    if errors.is_empty() {
        return Some(tree);
    }
    let mut merged = Vec::new();
    let mut broken_line = None;
    for error in &errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        if error.message() != "duplicate key" {
            // After its first mistake the rest of a line is guesswork.
            let (start, _) = line(text, span.start.min(text.len().saturating_sub(1)));
            if broken_line.replace(start) == Some(start) {
                continue;
            }
            diagnostics.push(Diagnostic::error(Code::Syntax, span, error.message()));
            continue;
        }
        // Under a second header of one table its keys clash with those of the first: that follows from the header.
        let (start, line) = line(text, span.start);
        if line.starts_with('[') {
            merged.push(start);
        } else if last_header(text, start).is_some_and(|header| merged.contains(&header)) {
            continue;
        }
        diagnostics.push(duplicate(text, &tree, span));
    }
    None
}

/// Where the last line before `before` starts that is the header of a table.
fn last_header(text: &str, before: usize) -> Option<usize> {
    let mut end = before;
    while end > 0 {
        let (start, line) = line(text, end - 1);
        if line.starts_with('[') {
            return Some(start);
        }
        end = start;
    }
    None
}

/// A key, or the header of a table, that stands twice.
fn duplicate(text: &str, tree: &DeTable<'_>, span: Span) -> Diagnostic {
    let name = text.get(span.clone()).unwrap_or_default();
    let header = line(text, span.start).1;
    let (message, first) = if header.starts_with('[') {
        (format!("the table `{name}` stands twice"), earlier_header(text, span.start, header))
    } else {
        let mut first = None;
        earlier_key(tree, name.trim_matches(['"', '\'']), span.start, &mut first);
        (format!("the key `{name}` stands twice in one table"), first)
    };
    let diagnostic = Diagnostic::error(Code::DuplicateName, span, message)
        .label("second time")
        .help("rename one of them, or put both into one");
    match first {
        Some(first) => diagnostic.also(first, "first time"),
        None => diagnostic,
    }
}

/// The start and the trimmed text of the line around `at`.
fn line(text: &str, at: usize) -> (usize, &str) {
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let rest = text.get(start..).unwrap_or_default();
    (start, rest.lines().next().unwrap_or_default().trim())
}

/// The same header on an earlier line.
fn earlier_header(text: &str, before: usize, header: &str) -> Option<Span> {
    let header = header.split_inclusive(']').next()?;
    let mut start = 0;
    for line in text.get(..before)?.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start().starts_with(header) && start + line.len() <= before {
            return Some(start + indent..start + indent + header.len());
        }
        start += line.len();
    }
    None
}

/// The nearest key of that name before a place.
fn earlier_key(table: &DeTable<'_>, name: &str, before: usize, nearest: &mut Option<Span>) {
    for (key, value) in table {
        let span = key.span();
        let nearer = nearest.as_ref().is_none_or(|nearest| nearest.start < span.start);
        if key.get_ref() == name && span.end <= before && nearer {
            *nearest = Some(span);
        }
        match value.get_ref() {
            DeValue::Table(table) => earlier_key(table, name, before, nearest),
            DeValue::Array(items) => {
                let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                tables.for_each(|table| earlier_key(table, name, before, nearest));
            }
            _ => {}
        }
    }
}
