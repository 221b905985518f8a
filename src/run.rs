//! `run`: one process of an application on Kafka.

use millstream::engine::runtime::{self, RuntimeError};

use crate::arguments::Run;
use crate::failure::{Exit, Failure, of_state};
use crate::files::{load, settings};
use crate::interrupt::{self, interrupted};

pub fn run(arguments: &Run) -> Result<(), Failure> {
    let loaded = load(&arguments.file)?;
    let settings = settings(&arguments.file, &loaded.topology, &arguments.flags())?;
    interrupt::listen();
    runtime::run(&loaded.topology, loaded.plan, settings, arguments.create_topics, &interrupted)
        .map_err(|error| failure(*error))
}

fn failure(error: RuntimeError) -> Failure {
    match error {
        RuntimeError::Stopped(error) => Failure::stopped(&error),
        RuntimeError::Plan(error) => error.into(),
        error => {
            let exit = match error.state() {
                Some(state) => of_state(state),
                None if error.is_refusal() => Exit::Refused,
                None => Exit::Failed,
            };
            Failure::new(exit, error.to_string()).code(error.code())
        }
    }
}
