//! Millstream's own binary: its command line, with the operators and functions that it has itself.

use std::process::ExitCode;

use millstream::{Registry, cli};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::main(Registry::new())
}
