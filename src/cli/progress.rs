//! What is seen of a command that reads files while it goes on, and how fast it may.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::numbers::{grouped, time};

/// How often progress is shown on a terminal, and as a log line elsewhere.
pub const REDRAW: Duration = Duration::from_millis(100);
const LOG_EVERY: Duration = Duration::from_secs(5);

/// How fast event time passes.
pub struct Pace {
    speed: Option<f64>,
    start: Instant,
    first: Option<i64>,
}

impl Pace {
    /// So many seconds of event time in one second; `None`: as fast as possible.
    pub fn new(speed: Option<f64>) -> Self {
        Pace { speed, start: Instant::now(), first: None }
    }

    /// How long until the record of this event time is due. One that no clock reaches never is.
    pub fn left(&mut self, time: i64) -> Duration {
        let first = *self.first.get_or_insert(time);
        let Some(speed) = self.speed else { return Duration::ZERO };
        let after = Duration::try_from_secs_f64(time.saturating_sub(first).max(0) as f64 / 1000.0 / speed);
        after.unwrap_or(Duration::MAX).saturating_sub(self.start.elapsed())
    }
}

/// What is seen of a run while it goes on: a line that changes on a terminal, else a line now and then.
pub struct Progress {
    bar: Option<ProgressBar>,
    start: Instant,
    shown: Instant,
    shown_records: u64,
}

impl Progress {
    pub fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let bar = is_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = if super::color() { "{spinner:.cyan} {msg}" } else { "{spinner} {msg}" };
            bar.with_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_spinner()),
            )
        });
        let now = Instant::now();
        Progress { bar, start: now, shown: now, shown_records: 0 }
    }

    /// Shows how many records went through and the event time of the last, if it is time to.
    pub fn show(&mut self, records: u64, last: Option<i64>) {
        let since = self.shown.elapsed();
        if since < if self.bar.is_some() { REDRAW } else { LOG_EVERY } {
            return;
        }
        let rate = (records - self.shown_records) as f64 / since.as_secs_f64();
        let reached = last.map(|last| format!(", event time {}", time(last))).unwrap_or_default();
        let message = format!("{} records, {}/s{reached}", grouped(records), grouped(rate as u64));
        match &self.bar {
            Some(bar) => {
                bar.set_message(message);
                bar.tick();
            }
            None => {
                let _ = writeln!(io::stderr().lock(), "{:>4} s  {message}", self.start.elapsed().as_secs());
            }
        }
        self.shown = Instant::now();
        self.shown_records = records;
    }

    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
