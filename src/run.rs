//! `run`: one process of an application on Kafka.

use std::io::{self, Write};

use millstream::engine::runtime::{self, RuntimeError};
use millstream::engine::settings::{Flags, RunSettings};
use millstream::engine::topology::RuntimeKey;

use crate::arguments::Run;
use crate::failure::{Exit, Failure};
use crate::files::load;
use crate::interrupt::{self, interrupted};

pub fn run(arguments: &Run) -> Result<(), Failure> {
    let loaded = load(&arguments.file)?;
    let settings = RunSettings::resolve(&loaded.topology, &flags(arguments), &|name| std::env::var(name).ok());
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

fn flags(arguments: &Run) -> Flags {
    let Run {
        file: _,
        brokers,
        create_topics: _,
        threads,
        state_dir,
        instance,
        commit_every,
        memory,
        listen,
        max_batch_rows,
        max_task_idle,
        max_poll_interval,
        session_timeout,
        transaction_timeout,
    } = arguments;
    let runtime = [
        (RuntimeKey::Threads, threads),
        (RuntimeKey::StateDir, state_dir),
        (RuntimeKey::Instance, instance),
        (RuntimeKey::CommitEvery, commit_every),
        (RuntimeKey::Memory, memory),
        (RuntimeKey::Listen, listen),
        (RuntimeKey::MaxBatchRows, max_batch_rows),
        (RuntimeKey::MaxTaskIdle, max_task_idle),
        (RuntimeKey::MaxPollInterval, max_poll_interval),
        (RuntimeKey::SessionTimeout, session_timeout),
        (RuntimeKey::TransactionTimeout, transaction_timeout),
    ];
    let said = runtime.into_iter().filter_map(|(key, flag)| Some((key, flag.clone()?)));
    Flags { brokers: brokers.clone(), runtime: said.collect() }
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
