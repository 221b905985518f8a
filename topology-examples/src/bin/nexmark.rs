//! Writes Nexmark's events into files that `millstream dev` and `feed` read.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use millstream_topology_examples::nexmark::{Config, Generator, SHUFFLE, TOPICS};

/// Writes Nexmark's events, people, auctions and bids, into `person.jsonl`, `auction.jsonl` and `bid.jsonl`.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many events: of fifty one is a person, three are auctions, the others bids.
    #[arg(long, default_value_t = 100_000)]
    events: usize,
    /// Other seeds give other events, the same seed the same ones.
    #[arg(long, default_value_t = Config::default().seed)]
    seed: u64,
    /// The time of the first event, in milliseconds since 1970.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = Config::default().start)]
    start: u64,
    /// From one event's time to the next one's.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = Config::default().delay)]
    delay: u64,
    /// Puts each group of so many events out of order.
    #[arg(long, value_name = "EVENTS", default_value_t = Config::default().group, value_parser = group)]
    group: u64,
    /// The folder for the files; it is made if it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn group(text: &str) -> Result<u64, String> {
    let group = text.parse::<u64>().map_err(|error| error.to_string())?;
    match group % SHUFFLE {
        0 => Err(format!("expected a number that is no multiple of {SHUFFLE}")),
        _ => Ok(group),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match write(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err((path, error)) => {
            let _ = writeln!(io::stderr(), "error: cannot write `{}`: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

/// Fails with the place that cannot be written, and why.
fn write(arguments: &Arguments) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    let &Arguments { seed, start, delay, group, .. } = arguments;
    fs::create_dir_all(&arguments.out).map_err(at(&arguments.out))?;
    let mut files = Vec::with_capacity(TOPICS.len());
    for topic in TOPICS {
        let path = arguments.out.join(format!("{topic}.jsonl"));
        let file = File::create(&path).map_err(at(&path))?;
        files.push((topic, BufWriter::new(file), path));
    }
    for event in Generator::new(Config { seed, start, delay, group }).take(arguments.events) {
        for (_, file, path) in files.iter_mut().filter(|(topic, ..)| *topic == event.topic()) {
            writeln!(file, "{}", event.line()).map_err(at(path))?;
        }
    }
    files.iter_mut().try_for_each(|(_, file, path)| file.flush().map_err(at(path)))
}
