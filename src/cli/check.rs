//! `check`: says what is wrong with topologies.

use std::io::{self, Write};
use std::path::Path;

use crate::engine::plan::Plan;
use crate::engine::runtime::check_topics;
use crate::engine::settings::Flags;
use crate::engine::topology::{Topology, place_of, to_json};
use crate::operators::diagnostic::{Code, Diagnostic, Severity};
use crate::operators::registry::Registry;

use super::arguments::{Check, Format};
use super::failure::{Exit, Failure};
use super::files::{self, settings};
use super::numbers::counted;

pub fn check(arguments: &Check, registry: &Registry) -> Result<(), Failure> {
    let mut wrong = false;
    for path in &arguments.files {
        let mut checked = files::check(path, registry)?;
        // What reads well can still be impossible to plan.
        let plan = checked.topology.as_ref().map(Plan::new).transpose()?;
        if let (Some(brokers), Some(topology), Some(plan)) = (&arguments.brokers, &checked.topology, &plan) {
            let found = on_cluster(brokers, path, topology, plan, &checked.text)?;
            checked.findings.extend(found);
            checked.findings.sort_by_key(|finding| finding.span.start);
        }
        let (errors, warnings) = (checked.count(Severity::Error), checked.count(Severity::Warning));
        wrong |= errors > 0 || (arguments.deny_warnings && warnings > 0);
        let name = path.display().to_string();
        if arguments.format == Format::Json {
            io::stdout().lock().write_all(to_json(&checked.findings, &name, &checked.text).as_bytes())?;
            continue;
        }
        io::stderr().lock().write_all(checked.render(path).as_bytes())?;
        match (&checked.topology, plan) {
            (Some(topology), Some(plan)) if errors == 0 => {
                let mut line = format!(
                    "{name}: ok, {}, {}, {} in {}",
                    counted(topology.sources.len(), "source"),
                    counted(topology.steps.len(), "step"),
                    counted(topology.sinks.len(), "sink"),
                    match plan.sub_topologies.len() {
                        1 => "one sub-topology".to_owned(),
                        count => format!("{count} sub-topologies"),
                    },
                );
                if warnings > 0 {
                    line = format!("{line}, {}", counted(warnings, "warning"));
                }
                writeln!(io::stdout().lock(), "{line}")?;
            }
            _ => writeln!(
                io::stderr().lock(),
                "{name}: {}, {}",
                counted(errors, "error"),
                counted(warnings, "warning")
            )?,
        }
    }
    if wrong { Err(Failure::said(Exit::Usage)) } else { Ok(()) }
}

/// What is wrong with the topics of the cluster, at the nodes that name them.
fn on_cluster(
    brokers: &str,
    path: &Path,
    topology: &Topology,
    plan: &Plan,
    text: &str,
) -> Result<Vec<Diagnostic>, Failure> {
    let brokers = (!brokers.is_empty()).then(|| brokers.to_owned());
    let settings = settings(path, topology, &Flags { brokers, runtime: Vec::new() })?;
    let found = check_topics(topology, plan, &settings)?;
    let diagnostics = found.into_iter().map(|finding| Diagnostic {
        severity: finding.severity,
        ..Diagnostic::error(finding.code, place_of(text, &finding.node, "topic"), finding.message)
    });
    let schemas = topology.check_registry()?;
    let of_schemas = schemas.into_iter().map(|(node, option, why)| {
        Diagnostic::error(Code::RegistrySchema, place_of(text, &node, option), why)
    });
    Ok(diagnostics.chain(of_schemas).collect())
}
