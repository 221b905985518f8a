//! `pipe`: JSON lines through a topology.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use crate::engine::driver::DriverOptions;
use crate::engine::driver::pipe::{PipeOptions, pipe as run};
use crate::engine::task::RecordError;
use crate::engine::topology::OnError;
use crate::operators::registry::Registry;

use super::arguments::Pipe;
use super::failure::Failure;
use super::files::load;

pub fn pipe(arguments: &Pipe, registry: &Registry) -> Result<(), Failure> {
    let loaded = load(&arguments.file, registry)?;
    let options = PipeOptions {
        driver: DriverOptions {
            partitions: arguments.partitions,
            state: None,
            fold: arguments.max_batch_rows.get() > 1,
        },
        max_batch_rows: arguments.max_batch_rows.get(),
        restart_every: arguments.restart_every.map(NonZeroUsize::get),
        until_end: arguments.until_end,
    };
    let mut tell = |error: &RecordError| {
        let done = match error.on_error {
            OnError::Fail => "stopped",
            OnError::Skip => "skipped",
            OnError::DeadLetter => "sent to the dead letters",
        };
        let _ = writeln!(io::stderr().lock(), "{error} ({done})");
    };
    let (input, mut output) = (io::stdin().lock(), io::stdout().lock());
    Ok(run(loaded.topology, loaded.plan, &options, input, &mut output, &mut tell)?)
}
