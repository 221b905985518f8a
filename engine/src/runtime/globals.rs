//! Global tables: each process reads their topics whole before it joins the group, and on for as long as it has its place there.
//!
//! Of a table the process keeps the rows on its disk, with the offsets up to which they are those of the topic, so that the next
//! start reads on from there. All of it is in the topic: where the two do not fit each other the table is read anew.

use std::collections::BTreeMap;
use std::mem;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millstream_state::{StateError, TaskState, fail_point};

use super::brokers::ChangelogReader;
use super::error::{RuntimeError, Trouble};
use super::{Cancelled, Shared, Shutdown, clock};
use crate::kafka::{OffsetSpec, TopicPartition};
use crate::metrics::GlobalMetrics;
use crate::plan::PlanGlobal;
use crate::record::Record;
use crate::task::{GlobalTable, TaskError};

/// How many records are taken from the client at once while nothing waits for the tables, and while tasks do.
const RESTORED_AT_ONCE: usize = 10_000;
const UPDATED_AT_ONCE: usize = 1_000;

/// How long records are waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often a restore is spoken of.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// How often it is asked where the topics end, for the metrics.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// How often what was written becomes durable: a crash loses no more than that, and reads it again.
const FLUSH_EVERY: Duration = Duration::from_secs(30);

/// How many fetched bytes may wait, of all partitions together.
const QUEUED_BYTES: usize = 16 << 20;

/// The global tables of a session, as they stand in their topics.
pub(super) struct Globals {
    shared: Arc<Shared>,
    tables: Vec<Table>,
    parts: Vec<Part>,
    /// `None`: there is no global table.
    reader: Option<Box<dyn ChangelogReader>>,
}

struct Table {
    planned: Arc<PlanGlobal>,
    table: GlobalTable,
    metrics: GlobalMetrics,
    flushed: Instant,
}

/// A partition of a table's topic.
struct Part {
    table: usize,
    partition: TopicPartition,
    from: i64,
    /// The end of the partition, as it was asked for last.
    end: i64,
    taken: Vec<Record>,
}

impl Globals {
    /// Opens the tables and reads their topics to where they end now. `None`: the process was asked to end meanwhile.
    pub fn restore(shared: &Arc<Shared>, shutdown: Shutdown<'_>) -> Result<Option<Self>, Trouble> {
        let mut globals =
            Globals { shared: shared.clone(), tables: Vec::new(), parts: Vec::new(), reader: None };
        if shared.plan.globals.is_empty() {
            return Ok(Some(globals));
        }
        let _pending = shared.status.pending("the global tables");
        let outcome = globals.open().and_then(|()| globals.read_to_end(shutdown));
        match outcome {
            Ok(true) => Ok(Some(globals)),
            Ok(false) => {
                close(shared);
                Ok(None)
            }
            Err(trouble) => {
                close(shared);
                Err(trouble)
            }
        }
    }

    fn open(&mut self) -> Result<(), Trouble> {
        for (position, planned) in self.shared.plan.globals.clone().iter().enumerate() {
            self.parts.extend(self.open_table(position, planned)?);
            let name = planned.source.name.clone();
            self.tables.push(Table {
                table: GlobalTable::new(planned.clone()).map_err(|error| failed(planned, error))?,
                metrics: self.shared.metrics.global(&name).map_err(RuntimeError::from)?,
                planned: planned.clone(),
                flushed: clock::instant(),
            });
        }
        let from: Vec<_> = self.parts.iter().map(|part| (part.partition.clone(), part.from)).collect();
        let queued = QUEUED_BYTES / from.len().max(1);
        let reader = self.shared.brokers.changelogs("global-tables", queued, &from);
        self.reader = Some(reader.map_err(|error| Trouble::kafka("read the global tables", error))?);
        Ok(())
    }

    /// Opens the state of a table; says where each partition goes on and ends.
    fn open_table(&self, position: usize, planned: &Arc<PlanGlobal>) -> Result<Vec<Part>, Trouble> {
        let topic: Arc<str> = Arc::from(planned.source.topic.as_str());
        let count = self.shared.brokers.partitions(&topic)?;
        let partitions: Vec<TopicPartition> =
            (0..count as i32).map(|partition| TopicPartition { topic: topic.clone(), partition }).collect();
        let ends = self.offsets(planned, &partitions, OffsetSpec::Latest)?;
        let starts = self.offsets(planned, &partitions, OffsetSpec::Earliest)?;
        let mut state = self.state(planned)?;
        let id = self.shared.brokers.topic_id(&topic);
        let offset = |state: &TaskState, partition: i32| {
            state.checkpoint().input_offsets.get(&(topic.to_string(), partition)).copied()
        };
        let known = &state.checkpoint().metadata;
        let is_other = !known.is_empty() && !id.is_empty() && *known != id.as_bytes();
        let bounds = || partitions.iter().zip(starts.iter().zip(&ends));
        // What was removed in between could have deleted rows that are still on the disk.
        let is_cut = bounds().any(|(of, (start, end))| {
            offset(&state, of.partition).is_some_and(|offset| offset < *start || offset > *end)
        });
        if is_other || is_cut {
            let why = if is_other {
                "the topic was made anew"
            } else {
                "the topic does not begin and end around what is on disk"
            };
            tracing::warn!(
                table = planned.source.name,
                topic = &*topic,
                "{why}: the global table is read anew"
            );
            state.close().map_err(RuntimeError::from)?;
            self.shared.disk.remove(&planned.name()).map_err(RuntimeError::from)?;
            state = self.state(planned)?;
        }
        let mut checkpoint = state.checkpoint().clone();
        checkpoint.metadata = id.into_bytes();
        state.promote(checkpoint).map_err(RuntimeError::from)?;
        let parts = bounds().map(|(of, (start, end))| Part {
            table: position,
            partition: of.clone(),
            from: offset(&state, of.partition).unwrap_or(*start),
            end: *end,
            taken: Vec::new(),
        });
        let parts = parts.collect();
        if let Some(mut shared) = self.shared.globals.write(position) {
            *shared = state;
        }
        Ok(parts)
    }

    /// What is on disk; nothing, if its layout is another.
    fn state(&self, planned: &PlanGlobal) -> Result<TaskState, Trouble> {
        let name = planned.name();
        let open = || self.shared.disk.open(&name, slice::from_ref(&planned.store));
        let opened = match open() {
            Err(StateError::FingerprintMismatch { .. }) => {
                tracing::info!(
                    table = planned.source.name,
                    "the columns of the global table have changed: it is read anew"
                );
                self.shared.disk.remove(&name).and_then(|()| open())
            }
            opened => opened,
        };
        // A new one that is damaged at once would be so again.
        opened.map_err(|error| Trouble::Failed(Box::new(error.into())))
    }

    fn offsets(
        &self,
        planned: &PlanGlobal,
        partitions: &[TopicPartition],
        spec: OffsetSpec,
    ) -> Result<Vec<i64>, Trouble> {
        let offsets = self.shared.brokers.offsets(partitions, spec);
        offsets.map_err(|error| {
            Trouble::kafka(format!("find the ends of topic `{}`", planned.source.topic), error)
        })
    }

    /// How many offsets the tables lack, per table.
    fn remaining(&self) -> BTreeMap<usize, i64> {
        let mut remaining = BTreeMap::new();
        for (number, part) in self.parts.iter().enumerate() {
            let position = self.reader.as_ref().and_then(|reader| reader.position(number));
            let position = position.unwrap_or_default().max(part.from);
            *remaining.entry(part.table).or_default() += (part.end - position).max(0);
        }
        remaining
    }

    fn show_lag(&self) -> i64 {
        let remaining = self.remaining();
        for (table, remaining) in self.tables.iter().zip(remaining.values()) {
            table.metrics.lag(*remaining);
        }
        remaining.values().sum()
    }

    /// Reads to where the topics ended when the tables were opened; says whether it came to that.
    fn read_to_end(&mut self, shutdown: Shutdown<'_>) -> Result<bool, Trouble> {
        let total = self.show_lag();
        let (start, mut logged) = (clock::instant(), clock::instant());
        let mut records = 0;
        let mut remaining = total;
        while remaining > 0 {
            if shutdown() {
                return Ok(false);
            }
            // There are no workers yet that could show that the process is alive.
            (0..self.shared.settings.threads).for_each(|worker| self.shared.heartbeat(worker));
            records += self.update(RESTORED_AT_ONCE)?;
            fail_point("global-tables-restored-some");
            remaining = self.show_lag();
            if clock::since(logged) >= LOG_EVERY {
                logged = clock::instant();
                let rate = (total - remaining) as f64 / clock::since(start).as_secs_f64();
                let seconds_left = (remaining as f64 / rate.max(1.0)) as u64;
                tracing::info!(
                    records,
                    remaining,
                    rate = rate as u64,
                    seconds_left,
                    "restoring global tables"
                );
            }
        }
        for position in 0..self.tables.len() {
            if let Some(mut state) = self.shared.globals.write(position) {
                state.flush().map_err(RuntimeError::from)?;
            }
        }
        let names: Vec<&str> = self.tables.iter().map(|table| table.planned.source.name.as_str()).collect();
        let seconds = clock::since(start).as_secs_f64();
        tracing::info!(tables = names.join(" "), records, seconds, "global tables restored");
        Ok(true)
    }

    /// Takes what has been fetched into the tables; says how many records that were.
    fn update(&mut self, most: usize) -> Result<usize, Trouble> {
        let Some(reader) = &mut self.reader else { return Ok(0) };
        let parts = &mut self.parts;
        let taken = reader.take_records(most, PATIENCE, &mut |number, record| {
            if let Some(part) = parts.get_mut(number) {
                part.taken.push(record);
            }
        });
        let taken = taken.map_err(|error| Trouble::kafka("read the global tables", error))?;
        for part in self.parts.iter_mut().filter(|part| !part.taken.is_empty()) {
            let Some(Table { planned, table, metrics, .. }) = self.tables.get_mut(part.table) else {
                continue;
            };
            let records = mem::take(&mut part.taken);
            let states = &self.shared.globals;
            let updated = table.update(states, part.table, part.partition.partition, &records, clock::now());
            let updated = updated.map_err(|error| failed(planned, error))?;
            metrics.updated(records.len() as u64, &updated);
            for error in &updated.errors {
                tracing::warn!("{error}");
            }
            if let Some(stopped) = updated.stopped {
                return Err(RuntimeError::Stopped(Box::new(stopped)).into());
            }
        }
        Ok(taken)
    }

    /// Keeps the tables up to date until it is over.
    pub fn keep(mut self, over: &Cancelled) -> Result<(), Trouble> {
        let mut measured = clock::instant();
        while !over.load(Ordering::Relaxed) && self.reader.is_some() {
            self.update(UPDATED_AT_ONCE)?;
            if clock::since(measured) >= MEASURE_EVERY {
                measured = clock::instant();
                self.measure();
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Asks where the topics end. What is not answered is asked again later.
    fn measure(&mut self) {
        let partitions: Vec<TopicPartition> = self.parts.iter().map(|part| part.partition.clone()).collect();
        if let Ok(ends) = self.shared.brokers.offsets(&partitions, OffsetSpec::Latest) {
            for (part, end) in self.parts.iter_mut().zip(ends) {
                part.end = end;
            }
            self.show_lag();
        }
    }

    fn flush(&mut self) -> Result<(), Trouble> {
        for (position, table) in self.tables.iter_mut().enumerate() {
            if clock::since(table.flushed) < FLUSH_EVERY {
                continue;
            }
            table.flushed = clock::instant();
            if let Some(mut state) = self.shared.globals.write(position)
                && state.unflushed_bytes() > 0
            {
                state.flush_in_background().map_err(RuntimeError::from)?;
            }
        }
        Ok(())
    }
}

fn failed(planned: &PlanGlobal, error: TaskError) -> Trouble {
    RuntimeError::Task { task: planned.name(), error }.into()
}

/// Closes the tables, which nobody reads any more. A worker that hangs may: then they end with the process.
pub(super) fn close(shared: &Shared) {
    for (position, planned) in shared.plan.globals.iter().enumerate() {
        let Some(state) = shared.globals.take(position) else { continue };
        if let Err(error) = state.close() {
            let table = &planned.source.name;
            tracing::warn!(table, %error, "a global table could not be flushed; what is missing is read again");
        }
    }
}
