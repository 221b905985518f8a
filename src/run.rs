//! `run`: one process of an application on Kafka.

use millstream::engine::runtime;

use crate::arguments::Run;
use crate::failure::Failure;
use crate::files::{load, settings};
use crate::interrupt::{self, interrupted};

pub fn run(arguments: &Run) -> Result<(), Failure> {
    // First of all: whoever ends a process that has just started wants it to say goodbye, too.
    interrupt::listen();
    let loaded = load(&arguments.file)?;
    let settings = settings(&arguments.file, &loaded.topology, &arguments.flags())?;
    runtime::run(&loaded.topology, loaded.plan, settings, arguments.create_topics, &interrupted)?;
    Ok(())
}
