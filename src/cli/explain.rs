//! `explain`: the page of an error code, of an operator or of a table of the file.

use std::io::{self, Write};

use crate::engine::reference::{TABLES, operator_page, table_page};
use crate::engine::topology;
use crate::operators::diagnostic::{Code, did_you_mean};
use crate::operators::registry::Registry;
use serde_json::json;

use super::arguments::{Explain, Format};
use super::failure::{Exit, Failure};
use super::table::{Align, aligned};

pub fn explain(arguments: &Explain, registry: &Registry) -> Result<(), Failure> {
    let text = match arguments.what.as_deref() {
        Some(what) => page(what, registry)?,
        None if arguments.format == Format::Json => {
            let line =
                |kind, name, title| format!("{}\n", json!({ "kind": kind, "name": name, "title": title }));
            subjects(registry).map(|(kind, name, title)| line(kind, name, title)).collect()
        }
        None => list(registry),
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    Ok(())
}

fn page(what: &str, registry: &Registry) -> Result<String, Failure> {
    let code = Code::ALL.iter().find(|code| code.number().eq_ignore_ascii_case(what));
    if let Some(page) = code.and_then(|code| topology::explain(*code)) {
        return Ok(page.to_owned());
    }
    if let Some(spec) = registry.operator(what) {
        return Ok(operator_page(spec));
    }
    if let Some(table) = TABLES.iter().find(|table| table.name == what) {
        return Ok(table_page(table));
    }
    let names = subjects(registry).map(|(_, name, _)| name);
    let help =
        did_you_mean(what, names).unwrap_or_else(|| "`millstream explain` lists what there is".to_owned());
    Err(Failure::new(Exit::Usage, format!("there is no error code, operator or table `{what}`; {help}")))
}

/// What can be explained: kind, name and a few words.
fn subjects(registry: &Registry) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let operators = registry.operators().iter().map(|spec| ("operator", spec.name, spec.summary));
    let tables = TABLES.iter().map(|table| ("table", table.name, table.doc));
    let codes = Code::ALL.iter().map(|code| ("error", code.number(), code.title()));
    operators.chain(tables).chain(codes)
}

fn list(registry: &Registry) -> String {
    let mut text = String::new();
    for (kind, heading) in [("operator", "Operators"), ("table", "Tables of the file"), ("error", "Errors")] {
        let of_kind = subjects(registry).filter(|(of, _, _)| *of == kind);
        let rows: Vec<Vec<String>> =
            of_kind.map(|(_, name, title)| vec![name.to_owned(), title.to_owned()]).collect();
        text.push_str(&format!("{heading}\n{}\n", aligned(&rows, &[Align::Left, Align::Left], 2)));
    }
    text
}
