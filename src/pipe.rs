//! `pipe`: JSON lines through a topology.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use millstream::engine::driver::DriverOptions;
use millstream::engine::driver::pipe::{PipeOptions, pipe as run};
use millstream::engine::task::RecordError;
use millstream::engine::topology::OnError;

use crate::arguments::Pipe;
use crate::failure::Failure;
use crate::files::load;

pub fn pipe(arguments: &Pipe) -> Result<(), Failure> {
    let loaded = load(&arguments.file)?;
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
