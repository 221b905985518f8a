//! A Millstream with an operator of its own: `silence` says which keys have stopped sending.

use std::process::ExitCode;

use millstream::operators::config::{Field, FieldKind, format_duration};
use millstream::operators::datum::Datum;
use millstream::operators::operator::{Arity, OperatorSpec, Resolved, Step};
use millstream::operators::processor::{KeyContext, Processor, Row};
use millstream::operators::schema::{TIMESTAMP, column};
use millstream::{Registry, RegistryError, cli};

const SILENCE: OperatorSpec = OperatorSpec {
    name: "silence",
    summary: "Sends a row for each key that has sent nothing for a while.",
    arity: Arity::One,
    keyed: true,
    fields: &[Field {
        name: "after",
        kind: FieldKind::Duration,
        required: true,
        doc: "How long a key has to be silent, in event time.",
    }],
    example: "[steps.silent]\nop    = \"silence\"\nfrom  = \"heartbeats\"\nafter = \"10m\"",
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    if !step.fields.has("after") {
        step.fields.missing("after", "say how long a key has to be silent: after = \"10m\"");
    }
    let after = step.fields.duration("after")?.value;
    Resolved::of_processor(step, vec![column("last_heard", TIMESTAMP)], Silence { after })
}

#[derive(Debug)]
struct Silence {
    /// Milliseconds.
    after: i64,
}

impl Processor for Silence {
    /// When the key was heard last.
    type State = i64;
    const STATE_VERSION: u32 = 1;

    fn process(&self, row: &Row<'_>, context: &mut KeyContext<'_, i64>) -> Result<(), String> {
        let mut last_heard = row.time();
        if let Some(before) = context.state().copied() {
            context.cancel(before.saturating_add(self.after));
            last_heard = last_heard.max(before);
        }
        context.put(last_heard);
        context.schedule(last_heard.saturating_add(self.after));
        Ok(())
    }

    fn on_timer(&self, _: i64, context: &mut KeyContext<'_, i64>) -> Result<(), String> {
        if let Some(last_heard) = context.state().copied() {
            context.forward([Datum::Timestamp(last_heard)]);
        }
        context.delete();
        Ok(())
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![("after", format_duration(self.after))]
    }
}

fn registry() -> Result<Registry, RegistryError> {
    Registry::new().with_operator(&SILENCE)
}

fn main() -> ExitCode {
    match registry() {
        Ok(registry) => cli::main(registry),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
#[test]
fn the_tests_of_the_topology_pass() {
    millstream::testing::run_tests(&registry().unwrap(), "silence.toml").unwrap();
}
