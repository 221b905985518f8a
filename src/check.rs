//! `check`: says what is wrong with topologies.

use std::io::{self, Write};

use millstream::engine::plan::Plan;
use millstream::engine::topology::to_json;
use millstream::operators::diagnostic::Severity;

use crate::arguments::{Check, Format};
use crate::failure::{Exit, Failure};
use crate::files;
use crate::numbers::counted;

pub fn check(arguments: &Check) -> Result<(), Failure> {
    let mut wrong = false;
    for path in &arguments.files {
        let checked = files::check(path)?;
        let (errors, warnings) = (checked.count(Severity::Error), checked.count(Severity::Warning));
        wrong |= errors > 0 || (arguments.deny_warnings && warnings > 0);
        // What reads well can still be impossible to plan.
        let plan = checked.topology.as_ref().map(Plan::new).transpose()?;
        let name = path.display().to_string();
        if arguments.format == Format::Json {
            io::stdout().lock().write_all(to_json(&checked.findings, &name, &checked.text).as_bytes())?;
            continue;
        }
        io::stderr().lock().write_all(checked.render(path).as_bytes())?;
        match (&checked.topology, plan) {
            (Some(topology), Some(plan)) => {
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
