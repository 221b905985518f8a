//! `run`: one process of an application on Kafka.

use std::io::{self, Write};

use millstream::engine::runtime::{self, RuntimeError};
use millstream::engine::settings::RunSettings;

use crate::arguments::Run;
use crate::failure::{Exit, Failure};
use crate::files::load;
use crate::interrupt::{self, interrupted};

pub fn run(arguments: &Run) -> Result<(), Failure> {
    let loaded = load(&arguments.file)?;
    let settings = RunSettings::resolve(&loaded.topology, &arguments.flags(), &|name| std::env::var(name).ok());
    let settings = settings.map_err(|errors| -> Failure {
        let mut stderr = io::stderr().lock();
        for error in &errors {
            let _ = writeln!(stderr, "error[{}]: {error}", error.code());
        }
        Failure::said(Exit::Usage)
    })?;
    interrupt::listen();
    runtime::run(&loaded.topology, loaded.plan, settings, arguments.create_topics, &interrupted).map_err(failure)
}

fn failure(error: RuntimeError) -> Failure {
    match error {
        RuntimeError::Stopped(error) => Failure::stopped(&error),
        RuntimeError::Plan(error) => error.into(),
        error => {
            let exit = if error.is_refusal() { Exit::Refused } else { Exit::Failed };
            Failure::new(exit, error.to_string()).code(error.code())
        }
    }
}
