//! The command line, which a program with operators and functions of its own has, too. Data goes to stdout, everything else to
//! stderr; exit codes are in [`failure::Exit`].

mod arguments;
mod check;
mod describe;
mod dev;
mod diff;
mod explain;
mod failure;
mod feed;
pub(crate) mod files;
mod interrupt;
mod new;
mod numbers;
mod pipe;
mod progress;
mod run;
mod summary;
mod table;
mod test;

use std::io::{self, IsTerminal, Write};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Mutex;

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use self::arguments::{Arguments, Command};
use self::failure::{Exit, Failure};
use crate::operators::registry::Registry;

/// The last panic: what and where. A panic that something catches, as damaged models may cause, is nobody's business.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs the command that the process was started with, for topologies of the operators and functions of `registry`. Gives what
/// `main` returns.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     millstream::cli::main(millstream::Registry::new())
/// }
/// ```
pub fn main(registry: Registry) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or("no reason given");
        let place = panic
            .location()
            .map(|place| format!(" at {}:{}", place.file(), place.line()))
            .unwrap_or_default();
        if let Ok(mut last) = PANIC.lock() {
            *last = format!("{what}{place}");
        }
    }));
    let arguments = Arguments::parse();
    log_to_stderr();
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| run(arguments.command, &registry)))
        .unwrap_or_else(|_| {
            let what = PANIC.lock().map(|last| last.clone()).unwrap_or_default();
            let version = env!("CARGO_PKG_VERSION");
            Err(Failure::new(
                Exit::Failed,
                format!("internal error in millstream {version}, please report it: {what}"),
            ))
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command, registry: &Registry) -> Result<(), Failure> {
    match command {
        Command::Check(arguments) => check::check(&arguments, registry),
        Command::Test(arguments) => test::test(&arguments, registry),
        Command::Pipe(arguments) => pipe::pipe(&arguments, registry),
        Command::Dev(arguments) => dev::dev(&arguments, registry),
        Command::Run(arguments) => run::run(&arguments, registry),
        Command::Feed(arguments) => feed::feed(&arguments, registry),
        Command::New(arguments) => new::new(&arguments),
        Command::Describe(arguments) => describe::describe(&arguments, registry),
        Command::Diff(arguments) => diff::diff(&arguments, registry),
        Command::Explain(arguments) => explain::explain(&arguments, registry),
        Command::Schema => {
            let schema = crate::engine::reference::json_schema(registry);
            writeln!(io::stdout().lock(), "{schema:#}").map_err(Failure::from)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "millstream", &mut script);
            io::stdout().lock().write_all(&script).map_err(Failure::from)
        }
    }
}

/// Whether what is written to stderr may have colours.
fn color() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb") && io::stderr().is_terminal()
}

/// `MILLSTREAM_LOG=debug` shows more of what the engine does.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("MILLSTREAM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(color()).init();
}
