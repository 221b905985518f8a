//! `dev`: a whole application in this process, fed from files.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use crate::engine::driver::dev::{Dev as Run, DevError, DevOptions};
use crate::engine::driver::{DriverOptions, StateLocation};
use crate::engine::feed::{Feed, FeedError, FeedOptions, Merge};
use crate::engine::record::Record;
use crate::operators::registry::Registry;

use super::arguments::Dev;
use super::failure::Failure;
use super::files::{load, sources_of};
use super::interrupt::{self, interrupted};
use super::progress::{Pace, Progress, REDRAW};
use super::summary;

/// How many records may pass between two looks at the clock.
const LOOK_EVERY: u32 = 64;

pub fn dev(arguments: &Dev, registry: &Registry) -> Result<(), Failure> {
    let loaded = load(&arguments.file, registry)?;
    let topology = &loaded.topology;
    let sources = sources_of(&arguments.feeds, topology)?;
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
        pace: Pace::new(arguments.speed),
        commit_every: Duration::from_millis(commit_every.unsigned_abs()),
        start: Instant::now(),
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

/// A run with its pace and what is seen of it.
struct Replay {
    run: Run,
    progress: Progress,
    pace: Pace,
    commit_every: Duration,
    start: Instant,
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
        let (records, last) = self.run.progress();
        self.progress.show(records, last);
        Ok(())
    }

    /// With a speed, waits until the record is due; records that are there already do not wait for it.
    fn wait_for(&mut self, time: i64) -> Result<(), Failure> {
        let mut processed = false;
        loop {
            let left = self.pace.left(time);
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
