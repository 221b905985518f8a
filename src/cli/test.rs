//! `test`: runs the `[[tests]]` of topologies.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::engine::driver::cases::run_test;
use crate::operators::registry::Registry;

use super::arguments::Test;
use super::failure::{Exit, Failure};
use super::files::load_with_tests;
use super::numbers::counted;

/// The tests of a file, run.
struct Suite {
    name: String,
    cases: Vec<Case>,
}

/// A test, run.
struct Case {
    name: String,
    took: Duration,
    /// What differs, if it failed.
    failure: Option<String>,
}

pub fn test(arguments: &Test, registry: &Registry) -> Result<(), Failure> {
    let mut suites = Vec::new();
    for path in &arguments.files {
        suites.push(run_file(path, arguments.restart, registry)?);
    }
    let count = |failed| {
        suites.iter().flat_map(|suite| &suite.cases).filter(|case| case.failure.is_some() == failed).count()
    };
    let (passed, failed) = (count(false), count(true));
    writeln!(io::stdout().lock(), "{} passed, {failed} failed", counted(passed, "test"))?;
    if let Some(report) = &arguments.report {
        std::fs::write(report, junit(&suites)).map_err(|error| Failure::file("write", report, &error))?;
    }
    if failed > 0 { Err(Failure::said(Exit::Failed)) } else { Ok(()) }
}

fn run_file(path: &Path, restart: bool, registry: &Registry) -> Result<Suite, Failure> {
    let loaded = load_with_tests(path, registry)?;
    let mut suite = Suite { name: path.display().to_string(), cases: Vec::new() };
    if loaded.topology.tests.is_empty() {
        writeln!(io::stderr().lock(), "{}: there are no [[tests]] in it", suite.name)?;
    }
    for test in &loaded.topology.tests {
        let start = Instant::now();
        let outcome = run_test(&loaded.topology, &loaded.plan, test, restart)?;
        let case = Case { name: test.name.clone(), took: start.elapsed(), failure: outcome.err() };
        let mut stdout = io::stdout().lock();
        let word = if case.failure.is_some() { "FAILED" } else { "ok    " };
        writeln!(stdout, "{word}  {}: {}", suite.name, case.name)?;
        for line in case.failure.iter().flat_map(|failure| failure.lines()) {
            writeln!(stdout, "          {line}")?;
        }
        suite.cases.push(case);
    }
    Ok(suite)
}

/// The results as JUnit XML, which continuous integration shows.
fn junit(suites: &[Suite]) -> String {
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    for suite in suites {
        let failures = suite.cases.iter().filter(|case| case.failure.is_some()).count();
        let took: Duration = suite.cases.iter().map(|case| case.took).sum();
        let name = escaped(&suite.name);
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{failures}\" time=\"{:.3}\">",
            suite.cases.len(),
            took.as_secs_f64()
        );
        for case in &suite.cases {
            let time = case.took.as_secs_f64();
            let _ = write!(
                xml,
                "    <testcase classname=\"{name}\" name=\"{}\" time=\"{time:.3}\"",
                escaped(&case.name)
            );
            match &case.failure {
                None => xml.push_str("/>\n"),
                Some(failure) => {
                    let first = escaped(failure.lines().next().unwrap_or_default());
                    let _ = writeln!(
                        xml,
                        "><failure message=\"{first}\">{}</failure></testcase>",
                        escaped(failure)
                    );
                }
            }
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// Text within XML; characters that XML cannot hold are replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(character),
            control if control.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            other => escaped.push(other),
        }
    }
    escaped
}
