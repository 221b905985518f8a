//! `dev`: a whole application in this process, fed from files.

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use millstream::engine::driver::dev::{Dev as Run, DevError, DevOptions};
use millstream::engine::driver::{DriverOptions, StateLocation};
use millstream::engine::feed::{Feed, FeedError, FeedOptions, Merge};
use millstream::engine::record::Record;
use millstream::engine::topology::Topology;
use millstream::operators::diagnostic::{did_you_mean, listed};

use crate::arguments::Dev;
use crate::failure::{Exit, Failure};
use crate::files::load;
use crate::interrupt::{self, interrupted};
use crate::numbers::{grouped, time};
use crate::summary;

/// How often progress is shown on a terminal, and as a log line elsewhere.
const REDRAW: Duration = Duration::from_millis(100);
const LOG_EVERY: Duration = Duration::from_secs(5);

/// How many records may pass between two looks at the clock.
const LOOK_EVERY: u32 = 64;

pub fn dev(arguments: &Dev) -> Result<(), Failure> {
    let loaded = load(&arguments.file)?;
    let topology = &loaded.topology;
    let sources = sources_of(arguments, topology)?;
    let mut feeds = Vec::with_capacity(sources.len());
    for (position, path) in &sources {
        let Some(source) = topology.sources.get(*position) else { continue };
        feeds.push(Feed::open(path, &source.layout, &FeedOptions { null: arguments.null.clone() })?);
    }
    let state = arguments.state_dir.clone();
    let max_batch_rows =
        arguments.max_batch_rows.map_or(topology.runtime.max_batch_rows(), NonZeroUsize::get);
    let options = DevOptions {
        driver: DriverOptions {
            fold: max_batch_rows > 1,
            partitions: arguments.partitions,
            state: state.map(|directory| StateLocation {
                directory,
                memory: usize::try_from(topology.runtime.memory()).unwrap_or(usize::MAX),
            }),
        },
        max_batch_rows,
        out: arguments.out.clone(),
    };
    let run = Run::new(topology, loaded.plan.clone(), options)?;
    interrupt::listen();
    let commit_every = arguments.commit_every.unwrap_or(topology.runtime.commit_every());
    let mut replay = Replay {
        run,
        progress: Progress::new(),
        speed: arguments.speed,
        commit_every: Duration::from_millis(commit_every.unsigned_abs()),
        start: Instant::now(),
        first_time: None,
        last_commit: Instant::now(),
    };
    let records = Merge::new(feeds).map(|next| {
        let (feed, record) = next?;
        Ok((sources.get(feed).map(|(source, _)| *source).unwrap_or_default(), record))
    });
    let outcome = replay.all(records, arguments.until_end);
    replay.progress.end();
    let took = replay.start.elapsed();
    let text = summary::text(topology, replay.run.account(), took, arguments);
    io::stdout().lock().write_all(text.as_bytes())?;
    outcome
}

/// The sources that are fed, by position, with their files.
fn sources_of(arguments: &Dev, topology: &Topology) -> Result<Vec<(usize, std::path::PathBuf)>, Failure> {
    let names = || topology.sources.iter().map(|source| source.name.as_str());
    let mut sources = Vec::new();
    for (name, path) in &arguments.feeds {
        let position = names().position(|source| source == name).ok_or_else(|| {
            let help =
                did_you_mean(name, names()).unwrap_or_else(|| format!("sources are {}", listed(names())));
            Failure::new(
                Exit::Usage,
                format!("`--feed {name}=…`: the topology has no source `{name}`; {help}"),
            )
        })?;
        sources.push((position, path.clone()));
    }
    let missing: Vec<&str> = names()
        .enumerate()
        .filter(|(index, _)| !sources.iter().any(|(fed, _)| fed == index))
        .map(|(_, name)| name)
        .collect();
    if sources.is_empty() {
        let flags: Vec<String> = missing.iter().map(|name| format!("--feed {name}=FILE")).collect();
        let message = format!("nothing to read: say where records come from, `{}`", flags.join(" "));
        return Err(Failure::new(Exit::Usage, message));
    }
    if !missing.is_empty() {
        writeln!(io::stderr().lock(), "note: nothing feeds {}", listed(missing.iter().copied()))?;
    }
    Ok(sources)
}

/// A run with its pace and what is seen of it.
struct Replay {
    run: Run,
    progress: Progress,
    speed: Option<f64>,
    commit_every: Duration,
    start: Instant,
    first_time: Option<i64>,
    last_commit: Instant,
}

impl Replay {
    /// Runs to the end of the records, to the first failure or to Ctrl-C; what was processed before is committed.
    fn all(
        &mut self,
        records: impl Iterator<Item = Result<(usize, Record), FeedError>>,
        until_end: bool,
    ) -> Result<(), Failure> {
        let outcome = self.each(records);
        match outcome {
            Ok(()) => {
                let until_end = until_end && !interrupted();
                Ok(self.run.end(until_end).or_else(|error| self.after(error))?)
            }
            Err(failure) => {
                self.run.commit()?;
                Err(failure)
            }
        }
    }

    /// A failure while the run ends: what was processed is committed.
    fn after(&mut self, error: DevError) -> Result<(), DevError> {
        self.run.commit()?;
        Err(error)
    }

    fn each(
        &mut self,
        records: impl Iterator<Item = Result<(usize, Record), FeedError>>,
    ) -> Result<(), Failure> {
        let mut since_look = 0;
        for next in records {
            let (source, record) = match next {
                Ok(next) => next,
                Err(error) => {
                    // The records before the broken one count.
                    self.run.process()?;
                    return Err(error.into());
                }
            };
            self.wait_for(record.timestamp)?;
            if interrupted() {
                break;
            }
            since_look += 1;
            if self.run.push(source, record)? || since_look >= LOOK_EVERY {
                since_look = 0;
                self.look()?;
            }
        }
        Ok(())
    }

    /// Commits and shows progress if it is time to.
    fn look(&mut self) -> Result<(), Failure> {
        if self.last_commit.elapsed() >= self.commit_every {
            self.run.commit()?;
            self.last_commit = Instant::now();
        }
        self.progress.show(&self.run, self.start.elapsed());
        Ok(())
    }

    /// With a speed, waits until the record is due; records that are there already do not wait for it.
    fn wait_for(&mut self, time: i64) -> Result<(), Failure> {
        let first = *self.first_time.get_or_insert(time);
        let Some(speed) = self.speed else { return Ok(()) };
        // A time that no clock reaches is never due; Ctrl-C still ends the wait.
        let after = Duration::try_from_secs_f64((time - first).max(0) as f64 / 1000.0 / speed)
            .unwrap_or(Duration::MAX);
        let mut processed = false;
        loop {
            let left = after.saturating_sub(self.start.elapsed());
            if left.is_zero() || interrupted() {
                return Ok(());
            }
            if !processed {
                processed = true;
                self.run.process()?;
            }
            self.look()?;
            std::thread::sleep(left.min(REDRAW));
        }
    }
}

/// What is seen of a run while it goes on: a line that changes on a terminal, else a line now and then.
struct Progress {
    bar: Option<ProgressBar>,
    shown: Instant,
    shown_records: u64,
}

impl Progress {
    fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let bar = is_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = if crate::color() { "{spinner:.cyan} {msg}" } else { "{spinner} {msg}" };
            bar.with_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_spinner()),
            )
        });
        Progress { bar, shown: Instant::now(), shown_records: 0 }
    }

    fn show(&mut self, run: &Run, elapsed: Duration) {
        let since = self.shown.elapsed();
        if since < if self.bar.is_some() { REDRAW } else { LOG_EVERY } {
            return;
        }
        let (records, last) = run.progress();
        let rate = (records - self.shown_records) as f64 / since.as_secs_f64();
        let reached = last.map(|last| format!(", event time {}", time(last))).unwrap_or_default();
        let message = format!("{} records, {}/s{reached}", grouped(records), grouped(rate as u64));
        match &self.bar {
            Some(bar) => {
                bar.set_message(message);
                bar.tick();
            }
            None => {
                let _ = writeln!(io::stderr().lock(), "{:>4} s  {message}", elapsed.as_secs());
            }
        }
        self.shown = Instant::now();
        self.shown_records = records;
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
