//! The only place that reads the wall clock, and where the runtime gets its time from.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 UTC.
#[expect(clippy::disallowed_methods, reason = "this is the clock module")]
pub fn now() -> i64 {
    #[cfg(test)]
    if let Some(simulated) = super::simulation::current() {
        return simulated.wall_clock();
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The time that passes.
pub(super) fn instant() -> Instant {
    #[cfg(test)]
    if let Some(simulated) = super::simulation::current() {
        return simulated.instant();
    }
    Instant::now()
}

/// How long ago something was.
pub(super) fn since(start: Instant) -> Duration {
    instant().saturating_duration_since(start)
}
