//! Reads topology files and says what is wrong with them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::plan::Plan;
use crate::engine::settings::{Flags, RunSettings};
use crate::engine::topology::{Tests, Topology, read_with, render};
use crate::operators::diagnostic::{Diagnostic, Severity, did_you_mean, listed};
use crate::operators::registry::Registry;

use super::failure::{Exit, Failure};

/// A topology file as it was read and checked.
pub struct Checked {
    /// The text.
    pub text: String,
    /// The topology, if there is no error.
    pub topology: Option<Topology>,
    /// What was found, by position.
    pub findings: Vec<Diagnostic>,
}

impl Checked {
    /// How many findings are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// The findings for people.
    pub fn render(&self, path: &Path) -> String {
        render(&self.findings, &path.display().to_string(), &self.text, super::color())
    }
}

/// Reads and checks a file, its tests too. Paths in it are relative to its folder.
pub fn check(path: &Path, registry: &Registry) -> Result<Checked, Failure> {
    checked(path, registry, Tests::Read)
}

fn checked(path: &Path, registry: &Registry, tests: Tests) -> Result<Checked, Failure> {
    read(path, registry, tests).map_err(|message| Failure::new(Exit::Usage, message))
}

/// As [`check`]; otherwise why the file cannot be read.
pub fn read(path: &Path, registry: &Registry, tests: Tests) -> Result<Checked, String> {
    let wrong = |why: String| format!("cannot read the topology `{}`: {why}", path.display());
    let bytes = std::fs::read(path).map_err(|error| {
        let hint = if path.is_dir() { "; name the file, such as `topology.toml` in it" } else { "" };
        wrong(format!("{error}{hint}"))
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
        wrong(format!("line {line} is not UTF-8 text"))
    })?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let environment = |name: &str| std::env::var(name).ok();
    let (topology, findings) = read_with(registry, &text, directory, &environment, tests);
    Ok(Checked { text, topology, findings })
}

/// A topology that can run.
pub struct Loaded {
    /// The topology.
    pub topology: Arc<Topology>,
    /// What runs.
    pub plan: Arc<Plan>,
}

/// Reads, checks and plans a file to run it: its tests are left alone. Findings go to stderr.
pub fn load(path: &Path, registry: &Registry) -> Result<Loaded, Failure> {
    loaded(path, checked(path, registry, Tests::Leave)?)
}

/// As [`load`], with its tests.
pub fn load_with_tests(path: &Path, registry: &Registry) -> Result<Loaded, Failure> {
    loaded(path, check(path, registry)?)
}

fn loaded(path: &Path, checked: Checked) -> Result<Loaded, Failure> {
    if !checked.findings.is_empty() {
        io::stderr().lock().write_all(checked.render(path).as_bytes())?;
    }
    let topology = checked.topology.ok_or_else(|| Failure::said(Exit::Usage))?;
    let plan = Plan::new(&topology)?;
    Ok(Loaded { topology: Arc::new(topology), plan: Arc::new(plan) })
}

/// The settings of a command that connects to the cluster. What the file takes from this machine must be there.
pub fn settings(path: &Path, topology: &Topology, flags: &Flags) -> Result<RunSettings, Failure> {
    if !topology.deferred.is_empty() {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
        let name = path.display().to_string();
        let rendered = render(&topology.deferred, &name, &text, super::color());
        io::stderr().lock().write_all(rendered.as_bytes())?;
        return Err(Failure::said(Exit::Usage));
    }
    topology.connect_registry()?;
    Ok(RunSettings::resolve(topology, flags, &|name| std::env::var(name).ok())?)
}

/// The sources and tables that are fed, by position, with their files.
pub fn sources_of(
    feeds: &[(String, PathBuf)],
    topology: &Topology,
) -> Result<Vec<(usize, PathBuf)>, Failure> {
    let names = || topology.sources.iter().map(|source| source.name.as_str());
    let mut sources = Vec::new();
    for (name, path) in feeds {
        let position = names().position(|source| source == name).ok_or_else(|| {
            let help = did_you_mean(name, names())
                .unwrap_or_else(|| format!("sources and tables are {}", listed(names())));
            Failure::new(
                Exit::Usage,
                format!("`--feed {name}=…`: the topology has no source or table `{name}`; {help}"),
            )
        })?;
        sources.push((position, path.clone()));
    }
    let missing: Vec<&str> = names()
        .enumerate()
        .filter(|(index, _)| !sources.iter().any(|(fed, _)| fed == index))
        .map(|(_, name)| name)
        .collect();
    if sources.is_empty() {
        let flags: Vec<String> = missing.iter().map(|name| format!("--feed {name}=FILE")).collect();
        let message = format!("nothing to read: say where records come from, `{}`", flags.join(" "));
        return Err(Failure::new(Exit::Usage, message));
    }
    if !missing.is_empty() {
        writeln!(io::stderr().lock(), "note: nothing feeds {}", listed(missing.iter().copied()))?;
    }
    Ok(sources)
}
