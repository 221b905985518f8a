//! `run`: one process of an application on Kafka.

use crate::engine::runtime;
use crate::operators::registry::Registry;

use super::arguments::Run;
use super::failure::Failure;
use super::files::{load, settings};
use super::interrupt::{self, interrupted};

pub fn run(arguments: &Run, registry: &Registry) -> Result<(), Failure> {
    // First of all: whoever ends a process that has just started wants it to say goodbye, too.
    interrupt::listen();
    let loaded = load(&arguments.file, registry)?;
    let settings = settings(&arguments.file, &loaded.topology, &arguments.flags())?;
    runtime::run(&loaded.topology, loaded.plan, settings, arguments.create_topics, &interrupted)?;
    Ok(())
}
