//! `run`: one process of an application on Kafka.

use millstream::engine::runtime;

use crate::arguments::Run;
use crate::failure::Failure;
use crate::files::{load, settings};
use crate::interrupt::{self, interrupted};

pub fn run(arguments: &Run) -> Result<(), Failure> {
    let loaded = load(&arguments.file)?;
    let settings = settings(&arguments.file, &loaded.topology, &arguments.flags())?;
    interrupt::listen();
    runtime::run(&loaded.topology, loaded.plan, settings, arguments.create_topics, &interrupted)?;
    Ok(())
}
