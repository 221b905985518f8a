//! What can be said on the command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::engine::settings::Flags;
use crate::engine::topology::{Misfit, Runtime, RuntimeKey};
use crate::operators::config::parse_duration;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Stateful stream processing with models in it, from a TOML file.
#[derive(Debug, Parser)]
#[command(
    name = "millstream",
    version,
    styles = STYLES,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  millstream new payments               a folder with a topology, data and a test
  millstream check topology.toml        what is wrong, with place and likely fix
  millstream test topology.toml         runs its [[tests]]
  millstream dev topology.toml --feed payments=payments.csv --out out

Exit codes: 0 done, 1 failed, 2 wrong usage or topology, 3 refused because it would lose data.
Environment: NO_COLOR=1 turns colours off, MILLSTREAM_LOG=debug shows more of the engine."
)]
pub struct Arguments {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Says what is wrong with a topology, all of it at once
    Check(Check),
    /// Runs the [[tests]] of topologies
    Test(Test),
    /// Sends JSON lines from stdin through a topology, its output to stdout
    Pipe(Pipe),
    /// Runs a topology in this process, fed from files, and gives an account at the end
    Dev(Dev),
    /// Runs a topology against Kafka, until it is asked to end
    Run(Run),
    /// Writes files to the topics of a cluster, as the sources of a topology read them
    Feed(Feed),
    /// Makes a folder with a commented topology, data and a test that passes
    New(New),
    /// Shows what runs: sub-topologies, tasks, stores, internal topics
    Describe(Describe),
    /// Says what a change of a topology does to its state
    Diff(Diff),
    /// Explains an error code or an operator
    Explain(Explain),
    /// Prints the JSON Schema of topology files, for editors
    #[command(after_help = "\
Example:
  millstream schema > topology.schema.json

Then, in the first line of a topology, for editors with Tombi or Taplo (Even Better TOML):
  #:schema ./topology.schema.json")]
    Schema,
    /// Prints the completions for a shell
    #[command(after_help = "\
Examples:
  source <(millstream completions bash)
  millstream completions zsh > ~/.zfunc/_millstream
  millstream completions fish > ~/.config/fish/completions/millstream.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// `check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream check topology.toml
  millstream check --format json topology.toml | jq -r '.message'
  millstream check --deny-warnings topology-examples/*/topology.toml
  millstream check --brokers topology.toml
  millstream check --brokers=127.0.0.1:9092 topology.toml")]
pub struct Check {
    /// The topologies
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// `json` gives one object a line on stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Warnings fail, too
    #[arg(long)]
    pub deny_warnings: bool,
    /// Looks at the topics of the cluster, too: that they exist, partitions, settings, permissions, retention against windows.
    /// ADDRESSES as in `run`; without, where the file or the environment says
    #[arg(long, value_name = "ADDRESSES", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub brokers: Option<String>,
}

/// How something is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// `test`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream test topology.toml
  millstream test --restart topology.toml              state is restored between every two records
  millstream test --report report.xml */topology.toml  and a report for continuous integration")]
pub struct Test {
    /// The topologies
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Commits, drops the process with its state, and restores it between every two records
    #[arg(long)]
    pub restart: bool,
    /// Writes the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// `pipe`.
#[derive(Debug, Args)]
#[command(after_help = "\
A line is a record:
  {\"topic\": \"payments\", \"timestamp\": 1767225600000, \"key\": {\"card\": \"c1\"}, \"value\": {\"amount\": 12.0}}
or a command: {\"advance\": \"5m\"} moves stream time, {\"wall-clock\": \"10s\"} the clock, {\"restart\": true} restarts.

Examples:
  millstream pipe topology.toml < records.jsonl
  millstream pipe topology.toml --restart-every 1 --partitions 4 < records.jsonl
  echo '{\"key\": {\"card\": \"c1\"}, \"value\": {\"amount\": 12.0}}' | millstream pipe topology.toml --until-end")]
pub struct Pipe {
    /// The topology
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Records that are processed at once; with 1 every single update is seen
    #[arg(long, value_name = "N", default_value = "1")]
    pub max_batch_rows: NonZeroUsize,
    /// Partitions of the sources' topics
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub partitions: u32,
    /// Restarts after every N records
    #[arg(long, value_name = "N")]
    pub restart_every: Option<NonZeroUsize>,
    /// The end of the input closes windows and sends what is held back
    #[arg(long)]
    pub until_end: bool,
}

/// `dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
Files are CSV (the header names the columns) or JSON lines as `pipe` reads them, plain or gzipped. Records of all files go
through in the order of their event time.

Examples:
  millstream dev topology.toml --feed payments=payments.csv --out out
  millstream dev topology.toml --feed departures=d.csv.gz --feed arrivals=a.csv.gz --speed 3600
  millstream dev topology.toml --feed payments=big.jsonl.gz --state-dir state --partitions 4")]
pub struct Dev {
    /// The topology
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// A file with the records of a source; may be repeated
    #[arg(long = "feed", value_name = "SOURCE=FILE", value_parser = feed)]
    pub feeds: Vec<(String, PathBuf)>,
    /// Writes what goes to each topic into DIR/<topic>.jsonl; files of an earlier run are overwritten
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// How many seconds of event time pass in one second; default: as fast as possible
    #[arg(long, value_name = "N", value_parser = speed)]
    pub speed: Option<f64>,
    /// Partitions of the sources' topics
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub partitions: u32,
    /// A word in CSV files that stands for null, as an empty cell does
    #[arg(long, value_name = "WORD")]
    pub null: Option<String>,
    /// The end of the files closes windows and sends what is held back
    #[arg(long)]
    pub until_end: bool,
    /// Keeps state in this folder instead of memory; a run begins with empty state
    #[arg(long, value_name = "DIR", env = "MILLSTREAM_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Largest number of records that are processed at once; default: as the topology says, or 1024
    #[arg(long, value_name = "N", env = "MILLSTREAM_MAX_BATCH_ROWS")]
    pub max_batch_rows: Option<NonZeroUsize>,
    /// The time between two commits; default: as the topology says, or 100ms
    #[arg(long, value_name = "DURATION", env = "MILLSTREAM_COMMIT_EVERY", value_parser = duration)]
    pub commit_every: Option<i64>,
}

/// `run`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
#[command(after_help = "\
The topology runs against a Kafka cluster until it is asked to end: Ctrl-C or SIGTERM commits what is done and leaves.
Processes with one `app.id` share the work; each needs a state directory of its own.

Settings are keys of [runtime], too, and environment variables: MILLSTREAM_STATE_DIR is --state-dir, MILLSTREAM_BROKERS is
--brokers. A flag beats the environment, which beats the file. User, password and certificates stand in [kafka.security].

Examples:
  millstream run topology.toml
  millstream run topology.toml --brokers 127.0.0.1:9092 --create-topics
  millstream run topology.toml --threads 4 --memory 4GiB --state-dir /var/lib/millstream --instance payments-0
  millstream run topology.toml --listen 0.0.0.0:7780 --format json 2> log.jsonl

While it runs, http://127.0.0.1:7780 answers /healthz, /readyz, /metrics and /tasks.")]
pub struct Run {
    /// The topology
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Makes topics of sources and sinks that are missing, as [kafka.topics] says; their records are kept for ever
    #[arg(long)]
    pub create_topics: bool,
    /// How the log is written on stderr; `json` gives one object a line
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Where the cluster is: HOST:PORT, several separated by commas
    #[arg(long, value_name = "ADDRESSES", help_heading = "Settings")]
    pub brokers: Option<String>,
    /// The keys of [runtime].
    #[command(flatten)]
    pub runtime: RuntimeFlags,
}

impl Run {
    /// What the flags say of settings.
    pub fn flags(&self) -> Flags {
        Flags { brokers: self.brokers.clone(), runtime: self.runtime.given() }
    }
}

/// The keys of `[runtime]` as flags: what they mean, the environment and the file say together is decided elsewhere.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub struct RuntimeFlags {
    /// Worker threads; default: the cores available
    #[arg(long, value_name = "N", value_parser = setting(RuntimeKey::Threads))]
    pub threads: Option<String>,
    /// Where local state lives; default: .millstream
    #[arg(long, value_name = "DIR", value_parser = setting(RuntimeKey::StateDir))]
    pub state_dir: Option<String>,
    /// The name of this process, unique in the application; default: made once in the state directory
    #[arg(long, value_name = "NAME", value_parser = setting(RuntimeKey::Instance))]
    pub instance: Option<String>,
    /// The time between two commits; default: 100ms
    #[arg(long, value_name = "DURATION", value_parser = setting(RuntimeKey::CommitEvery))]
    pub commit_every: Option<String>,
    /// One budget for caches, write buffers, staged writes and queues; default: 1GiB
    #[arg(long, value_name = "SIZE", value_parser = setting(RuntimeKey::Memory))]
    pub memory: Option<String>,
    /// The address of health, metrics and tasks; default: 127.0.0.1:7780
    #[arg(long, value_name = "ADDRESS", value_parser = setting(RuntimeKey::Listen))]
    pub listen: Option<String>,
    /// Largest number of records that are processed at once; default: 1024
    #[arg(long, value_name = "N", value_parser = setting(RuntimeKey::MaxBatchRows))]
    pub max_batch_rows: Option<String>,
    /// How long a partition without lag is waited for; default: not at all
    #[arg(long, value_name = "DURATION", value_parser = setting(RuntimeKey::MaxTaskIdle))]
    pub max_task_idle: Option<String>,
    /// Without progress for so long a process leaves the group; default: 5m
    #[arg(long, value_name = "DURATION", value_parser = setting(RuntimeKey::MaxPollInterval))]
    pub max_poll_interval: Option<String>,
    /// After so long a silence the group takes a process for gone; default: 45s
    #[arg(long, value_name = "DURATION", value_parser = setting(RuntimeKey::SessionTimeout))]
    pub session_timeout: Option<String>,
    /// After so long the brokers end a transaction that nobody ends; default: 30s
    #[arg(long, value_name = "DURATION", value_parser = setting(RuntimeKey::TransactionTimeout))]
    pub transaction_timeout: Option<String>,
}

impl RuntimeFlags {
    fn given(&self) -> Vec<(RuntimeKey, String)> {
        let text = |key: &RuntimeKey| match key {
            RuntimeKey::Threads => &self.threads,
            RuntimeKey::StateDir => &self.state_dir,
            RuntimeKey::Instance => &self.instance,
            RuntimeKey::CommitEvery => &self.commit_every,
            RuntimeKey::Memory => &self.memory,
            RuntimeKey::Listen => &self.listen,
            RuntimeKey::MaxBatchRows => &self.max_batch_rows,
            RuntimeKey::MaxTaskIdle => &self.max_task_idle,
            RuntimeKey::MaxPollInterval => &self.max_poll_interval,
            RuntimeKey::SessionTimeout => &self.session_timeout,
            RuntimeKey::TransactionTimeout => &self.transaction_timeout,
        };
        RuntimeKey::ALL.iter().filter_map(|key| Some((*key, text(key).clone()?))).collect()
    }
}

/// A flag with the text of a setting, if it is one.
fn setting(key: RuntimeKey) -> impl Fn(&str) -> Result<String, Misfit> + Clone + Send + Sync + 'static {
    move |text| Runtime::default().set(key, text).map(|()| text.to_owned())
}

/// `feed`.
#[derive(Debug, Args)]
#[command(after_help = "\
Files are read as `dev` reads them, and their records are written to the topics of the sources: in the order of their event
time, which is their timestamp, and to the partitions that Java's client would choose; records without a key go round.

Examples:
  millstream feed topology.toml --feed payments=payments.csv
  millstream feed topology.toml --feed payments=payments.csv --brokers 127.0.0.1:9092 --partitions 4
  millstream feed topology.toml --feed departures=d.csv.gz --feed arrivals=a.csv.gz --speed 3600")]
pub struct Feed {
    /// The topology
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// A file with the records of a source; may be repeated
    #[arg(long = "feed", value_name = "SOURCE=FILE", value_parser = feed)]
    pub feeds: Vec<(String, PathBuf)>,
    /// Where the cluster is: HOST:PORT, several separated by commas; default: as MILLSTREAM_BROKERS or the topology says
    #[arg(long, value_name = "ADDRESSES")]
    pub brokers: Option<String>,
    /// Makes topics that are missing, with so many partitions; their records are kept for ever, as old as they may be
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub partitions: Option<u32>,
    /// How many seconds of event time pass in one second; default: as fast as possible
    #[arg(long, value_name = "N", value_parser = speed)]
    pub speed: Option<f64>,
    /// A word in CSV files that stands for null, as an empty cell does
    #[arg(long, value_name = "WORD")]
    pub null: Option<String>,
}

/// `new`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  millstream new payments && cd payments
  millstream test topology.toml
  millstream dev topology.toml --feed payments=payments.csv --out out --until-end")]
pub struct New {
    /// The application's name, and the folder that is made: letters, digits, `.`, `_` and `-`
    pub name: String,
}

/// `describe`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream describe topology.toml
  millstream describe topology.toml --format json --partitions 8 | jq '.internal_topics'
  millstream describe topology.toml --format dot | dot -Tsvg > topology.svg")]
pub struct Describe {
    /// The topology
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How it is shown
    #[arg(long, value_enum, default_value_t)]
    pub format: DescribeFormat,
    /// Partitions of the sources' topics
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub partitions: u32,
}

/// How a plan is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DescribeFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// A drawing for Graphviz
    Dot,
    /// A drawing that Markdown viewers show
    Mermaid,
}

/// `diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
OLD is the topology that has run, NEW the one that is to take its place. The exit code is 3 where state would be lost or a start
be refused, and 0 where NEW goes on with everything.

Examples:
  millstream diff old.toml topology.toml
  git show HEAD:topology.toml > old.toml && millstream diff old.toml topology.toml
  millstream diff --partitions 8 --format json old.toml topology.toml | jq -r '.findings[].message'")]
pub struct Diff {
    /// The topology that has run
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// The topology that is to take its place
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// How it is shown
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Partitions of the sources' topics
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub partitions: u32,
}

/// `explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream explain M0402       the page of an error
  millstream explain aggregate   the page of an operator
  millstream explain sources     the keys of a table of the file
  millstream explain             what there is to explain")]
pub struct Explain {
    /// A code such as M0402, an operator, or a table of the file
    pub what: Option<String>,
    /// How the list of what there is to explain is shown
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

fn feed(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((source, file)) if !source.is_empty() && !file.is_empty() => {
            Ok((source.to_owned(), PathBuf::from(file)))
        }
        _ => Err("write the source's name and the file: `payments=payments.csv`".to_owned()),
    }
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: Result<f64, _> = text.parse();
    speed
        .ok()
        .filter(|speed| speed.is_finite() && *speed > 0.0)
        .ok_or_else(|| "write a number above 0, such as `60`".to_owned())
}

fn duration(text: &str) -> Result<i64, String> {
    let millis = parse_duration(text).filter(|millis| *millis > 0);
    millis.ok_or_else(|| "write a number and a unit, such as `100ms`, `5s` or `1m`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not among the commands yet.
    #[derive(Debug, Parser)]
    enum Cluster {
        Run(Run),
    }

    /// The examples of a command's help, up to what the shell does.
    fn examples(command: &clap::Command) -> Vec<Vec<String>> {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = help.lines().filter_map(|line| line.trim().strip_prefix("millstream "));
        let words = |line: &str| {
            let words = line.split("  ").next().unwrap_or_default().split(' ');
            let shell = |word: &&str| !matches!(*word, "|" | "<" | ">" | "2>" | "&&");
            std::iter::once("millstream").chain(words.take_while(shell)).map(str::to_owned).collect()
        };
        lines.map(words).collect()
    }

    #[test]
    fn examples_of_the_help_are_commands() {
        fn check<P: Parser>(least: usize) {
            P::command().debug_assert();
            let command = P::command();
            let all = std::iter::once(&command).chain(command.get_subcommands());
            let examples: Vec<Vec<String>> = all.flat_map(examples).collect();
            assert!(examples.len() >= least, "{examples:?}");
            for example in examples {
                if let Err(error) = P::try_parse_from(&example) {
                    panic!("{example:?}: {error}");
                }
            }
        }
        check::<Arguments>(18);
        check::<Cluster>(4);
    }

    #[test]
    fn settings_are_flags_of_run() {
        let flags: Vec<String> = RuntimeKey::ALL.iter().map(|key| format!("--{}", key.name())).collect();
        let value = |key: &RuntimeKey| match key {
            RuntimeKey::Threads | RuntimeKey::MaxBatchRows => "7",
            RuntimeKey::Memory => "64MiB",
            RuntimeKey::Listen => "127.0.0.1:0",
            RuntimeKey::StateDir | RuntimeKey::Instance => "a",
            _ => "7s",
        };
        let mut line = vec!["millstream", "run", "t.toml", "--brokers", "a:1"];
        for (key, flag) in RuntimeKey::ALL.iter().zip(&flags) {
            line.extend([flag.as_str(), value(key)]);
        }
        let Ok(Cluster::Run(run)) = Cluster::try_parse_from(line) else { panic!("these are flags of run") };
        let flags = run.flags();
        assert_eq!(flags.brokers.as_deref(), Some("a:1"));
        let expected: Vec<(RuntimeKey, String)> =
            RuntimeKey::ALL.iter().map(|key| (*key, value(key).to_owned())).collect();
        assert_eq!(flags.runtime, expected);
    }

    #[test]
    fn what_is_no_setting_is_said_with_the_fix() {
        let run = |line: &[&str]| Cluster::try_parse_from(line).unwrap_err().to_string();
        let said = |line: &[&str]| Arguments::try_parse_from(line).unwrap_err().to_string();
        let error = run(&["millstream", "run", "t.toml", "--memory", "1 gig"]);
        assert!(error.contains("'--memory <SIZE>': `1 gig` is not a size; write a whole number"), "{error}");
        let error = run(&["millstream", "run", "t.toml", "--session-timeout", "2h"]);
        assert!(error.contains("it is out of range: expected 1s to 1h"), "{error}");
        let error = said(&["millstream", "feed", "t.toml", "--feed", "payments.csv"]);
        assert!(error.contains("`payments=payments.csv`"), "{error}");
        let error = said(&["millstream", "feed", "t.toml", "--partitions", "0"]);
        assert!(error.contains("1..=100000"), "{error}");
    }
}
