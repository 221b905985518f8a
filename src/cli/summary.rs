//! What `dev` says at its end: what was read, what happened to it, what was written and where.

use std::fmt::Write as _;
use std::time::Duration;

use crate::engine::codec::layout::FieldLayout;
use crate::engine::driver::dev::{Account, LastRows, file_of};
use crate::engine::topology::{Sink, Topology};
use serde_json::Value as Json;

use super::arguments::Dev;
use super::interrupt::interrupted;
use super::numbers::{grouped, time};
use super::table::{Align, aligned};

/// The account of a run for people.
pub fn text(topology: &Topology, account: &Account, took: Duration, arguments: &Dev) -> String {
    let records: u64 = account.read.iter().sum();
    let seconds = took.as_secs_f64();
    let rate = grouped((records as f64 / seconds.max(0.001)) as u64);
    let end = if interrupted() { "interrupted after" } else { "done:" };
    let mut text =
        format!("{} {end} {} records in {seconds:.1} s ({rate}/s)\n", topology.app.id, grouped(records));
    if let Some((first, last)) = account.times {
        let _ = writeln!(text, "event time {} to {} UTC", time(first), time(last));
    }
    text.push_str(&read(topology, account, arguments));
    text.push_str(&steps(account));
    text.push_str(&written(topology, account, arguments));
    text.push_str(&errors(account));
    for (sink, rows) in &account.tables {
        if let Some(sink) = topology.sinks.get(*sink) {
            text.push_str(&last_rows(sink, rows));
        }
    }
    let file = arguments.file.display();
    let _ = match &arguments.out {
        Some(out) => write!(text, "\nThe records are in {}/. ", out.display()),
        None => write!(text, "\nThe records were not kept: `--out DIR` writes them to files. "),
    };
    let _ = writeln!(
        text,
        "To change what is computed, edit {file}, try it with\n`millstream test {file}`, and run this again."
    );
    text
}

fn read(topology: &Topology, account: &Account, arguments: &Dev) -> String {
    let rows: Vec<Vec<String>> = topology
        .sources
        .iter()
        .zip(&account.read)
        .map(|(source, records)| {
            let files = arguments.feeds.iter().filter(|(name, _)| *name == source.name);
            let files: Vec<String> = files.map(|(_, path)| path.display().to_string()).collect();
            let from = if files.is_empty() { "nothing feeds it".to_owned() } else { files.join(", ") };
            vec![source.name.clone(), grouped(*records), from]
        })
        .collect();
    section("source", &["records", "from"], rows, &[Align::Left, Align::Right, Align::Left])
}

fn steps(account: &Account) -> String {
    let rows: Vec<Vec<String>> = account
        .steps
        .iter()
        .map(|(name, counters)| {
            let dropped: Vec<String> = counters
                .dropped
                .iter()
                .map(|(reason, rows)| format!("{} {}", grouped(*rows), reason.name()))
                .collect();
            let errors = if counters.errors == 0 { String::new() } else { grouped(counters.errors) };
            vec![
                name.clone(),
                grouped(counters.rows_in),
                grouped(counters.rows_out),
                dropped.join(", "),
                errors,
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let align = [Align::Left, Align::Right, Align::Right, Align::Left, Align::Right];
    section("step", &["rows in", "rows out", "dropped", "errors"], rows, &align)
}

fn written(topology: &Topology, account: &Account, arguments: &Dev) -> String {
    let place = |topic: &str| match &arguments.out {
        Some(out) => file_of(out, topic).display().to_string(),
        None => format!("topic {topic}"),
    };
    let mut rows = Vec::new();
    for (number, sink) in topology.sinks.iter().enumerate() {
        let topics: Vec<_> = account.written.iter().filter(|((of, _), _)| *of == Some(number)).collect();
        if topics.is_empty() {
            rows.push(vec![sink.name.clone(), "0".to_owned(), String::new()]);
        }
        for ((_, topic), records) in topics {
            rows.push(vec![sink.name.clone(), grouped(*records), place(topic)]);
        }
    }
    for ((_, topic), records) in account.written.iter().filter(|((sink, _), _)| sink.is_none()) {
        rows.push(vec!["dead letters".to_owned(), grouped(*records), place(topic)]);
    }
    section("sink", &["records", "to"], rows, &[Align::Left, Align::Right, Align::Left])
}

fn errors(account: &Account) -> String {
    if account.errors.is_empty() {
        return String::new();
    }
    let rows = account.errors.iter();
    let rows = rows.map(|((node, code), (count, first))| {
        vec![node.clone(), (*code).to_owned(), grouped(*count), format!("first: {first}")]
    });
    section(
        "failed in",
        &["code", "records", ""],
        rows.collect(),
        &[Align::Left, Align::Left, Align::Right, Align::Left],
    )
}

/// A heading of columns with the rows below it.
fn section(heading: &str, columns: &[&str], rows: Vec<Vec<String>>, align: &[Align]) -> String {
    let mut all =
        vec![std::iter::once(&heading).chain(columns).map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    all.extend(rows);
    format!("\n{}", aligned(&all, align, 0))
}

/// The rows of a table sink that changed last, under what the sink says of itself.
fn last_rows(sink: &Sink, last: &LastRows) -> String {
    let rows = last.rows();
    let heading = sink.description.as_deref().unwrap_or(&sink.name);
    let which =
        if last.more { format!(" (the {} rows that changed last)", rows.len()) } else { String::new() };
    if rows.is_empty() {
        return format!("\n{heading}: no rows\n");
    }
    let of_value = sink.layout.value.iter().map(|field| (false, field));
    let columns: Vec<_> = sink.layout.key.iter().map(|field| (true, field)).chain(of_value).collect();
    let numeric = |field: &FieldLayout| field.data_type.is_numeric();
    let align: Vec<Align> =
        columns.iter().map(|(_, field)| if numeric(field) { Align::Right } else { Align::Left }).collect();
    let mut table = vec![columns.iter().map(|(_, field)| field.name.clone()).collect::<Vec<_>>()];
    for (key, value) in &rows {
        let cell = |(is_key, field): &(bool, &FieldLayout)| {
            let part = if *is_key { key } else { value };
            part.get(&field.name).map(shown).unwrap_or_default()
        };
        table.push(columns.iter().map(cell).collect());
    }
    format!("\n{heading}{which}\n{}", aligned(&table, &align, 2))
}

/// A value in the width of a column: floats have up to four decimals, times no fraction where it is zero.
fn shown(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => {
            text.strip_suffix(".000Z").map_or_else(|| text.clone(), |time| format!("{time}Z"))
        }
        Json::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => grouped(whole),
            (None, Some(float)) if number.is_f64() && float.abs() >= 0.001 && float.abs() < 1e15 => {
                let text = format!("{float:.4}");
                let digits = text.trim_end_matches('0');
                if digits.ends_with('.') { format!("{digits}0") } else { digits.to_owned() }
            }
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}
