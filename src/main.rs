//! The command line. Data goes to stdout, everything else to stderr; exit codes are in [`failure::Exit`].

mod arguments;
mod check;
mod describe;
mod dev;
mod diff;
mod explain;
mod failure;
mod feed;
mod files;
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
use std::process::ExitCode;
use std::sync::Mutex;

use clap::{CommandFactory, Parser};
use mimalloc::MiMalloc;
use tracing_subscriber::EnvFilter;

use crate::arguments::{Arguments, Command};
use crate::failure::{Exit, Failure};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The last panic: what and where. A panic that something catches, as damaged models may cause, is nobody's business.
static PANIC: Mutex<String> = Mutex::new(String::new());

fn main() -> ExitCode {
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
    let outcome = std::panic::catch_unwind(move || run(arguments.command)).unwrap_or_else(|_| {
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

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Check(arguments) => check::check(&arguments),
        Command::Test(arguments) => test::test(&arguments),
        Command::Pipe(arguments) => pipe::pipe(&arguments),
        Command::Dev(arguments) => dev::dev(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Feed(arguments) => feed::feed(&arguments),
        Command::New(arguments) => new::new(&arguments),
        Command::Describe(arguments) => describe::describe(&arguments),
        Command::Diff(arguments) => diff::diff(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Schema => {
            let schema = millstream::engine::reference::json_schema();
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
