//! Opens tasks: their databases, and what their changelogs know beyond them.
//!
//! It runs in threads of its own, so that neither the member nor a worker waits for it. A restore ends where the changelog
//! ended when the offsets of the inputs had been read; records of transactions that were open then are waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use millstream_state::{Changelog, StoreId, TaskState, fail_point};

use super::assignment::TaskId;
use super::commit_metadata::{CommitMetadata, CommittedStore};
use super::error::{RuntimeError, Trouble};
use super::{OpenTask, Shared, clock, threads};
use crate::http::RestoreProgress;
use crate::kafka::{OffsetSpec, TopicPartition};
use crate::metrics::Owner;
use crate::plan::SubTopology;
use crate::task::Task;
use crate::topology::Guarantee;

/// How many records are taken from the client at once, and how long it is waited for them.
const RECORDS: usize = 10_000;
const PATIENCE: Duration = Duration::from_millis(100);

/// How often a restore is spoken of.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// A task to be opened.
pub(super) struct Open {
    pub id: TaskId,
    /// The number of the assignment it belongs to.
    pub assignment: u64,
    /// Per input, the next offset to read.
    pub offsets: Vec<i64>,
    /// Whether the group has committed none of them.
    pub is_new: bool,
    /// What was committed last with each input: where inputs of several tasks have come together, each knows a part.
    pub committed: Vec<CommitMetadata>,
    /// Set when nobody wants the task any more.
    pub cancelled: Arc<AtomicBool>,
}

/// What became of a task.
pub(super) struct Opened {
    pub id: TaskId,
    pub assignment: u64,
    /// `None`: it was cancelled.
    pub outcome: Result<Option<OpenTask>, Trouble>,
}

/// Opens tasks until nobody asks for any.
pub(super) fn open_all(shared: &Arc<Shared>, requests: &Receiver<Box<Open>>, opened: &Sender<Opened>) {
    while let Some(open) = threads::next(requests) {
        let Open { id, assignment, .. } = *open;
        let outcome = Opening { shared, open: &open }.run();
        // Whoever has stopped listening does not want it any more.
        let _ = opened.send(Opened { id, assignment, outcome });
    }
}

struct Opening<'a> {
    shared: &'a Arc<Shared>,
    open: &'a Open,
}

/// A store and its part of a changelog.
struct Part {
    store: StoreId,
    from: i64,
    target: i64,
    /// What was read and is not in the store.
    batch: Changelog,
}

impl Opening<'_> {
    fn cancelled(&self) -> bool {
        self.open.cancelled.load(Ordering::Relaxed)
    }

    fn run(&self) -> Result<Option<OpenTask>, Trouble> {
        let Open { id, offsets, committed, .. } = self.open;
        let Some(sub) = self.shared.plan.sub_topologies.get(id.sub).cloned() else {
            return Err(RuntimeError::Internal("a task of no sub-topology".to_owned()).into());
        };
        let name = id.name(&self.shared.plan);
        self.check_layout(&sub, &name)?;
        let Some(place) = self.shared.places.take(*id, &|| self.cancelled()) else { return Ok(None) };
        let mut state = self.state(&sub, &name)?;
        let Some(restored) = self.restore(&sub, &name, &mut state)? else { return Ok(None) };
        let has_state = restored > 0 || !state.checkpoint().input_offsets.is_empty();
        // With at-least-once the changelog may have what no offset was committed for.
        if self.open.is_new && has_state && self.shared.guarantee == Guarantee::ExactlyOnce {
            let topics = sub.inputs.iter().map(|input| input.topic.clone()).collect();
            return Err(RuntimeError::OffsetsForgotten {
                task: name,
                group: self.shared.app.clone(),
                topics,
            }
            .into());
        }
        let positions: Vec<&[u8]> =
            committed.iter().map(|committed| committed.positions.as_slice()).collect();
        let fold = self.shared.settings.max_batch_rows > 1;
        let task = Task::open(
            sub,
            id.partition,
            state,
            offsets.clone(),
            &positions,
            self.shared.globals.clone(),
            fold,
        );
        let failed = |error| RuntimeError::Task { task: name.clone(), error };
        let mut task = task.map_err(failed)?;
        if fold {
            task.let_rows_wait().map_err(failed)?;
        }
        let committed = committed.first().map(|committed| committed.id);
        Ok(Some(OpenTask { id: *id, name, task, committed, _place: place }))
    }

    /// Whether the state that was committed last is of this topology.
    fn check_layout(&self, sub: &SubTopology, name: &str) -> Result<(), Trouble> {
        for committed in self.committed_stores() {
            let planned = sub.stores.iter().find(|planned| planned.spec.name == committed.name);
            let Some(planned) = planned else { continue };
            self.shared.check_id(&planned.changelog, &committed.changelog_id)?;
            if planned.spec.fingerprint != committed.fingerprint {
                let (task, store) = (name.to_owned(), committed.name.clone());
                return Err(RuntimeError::Layout { task, store }.into());
            }
        }
        Ok(())
    }

    fn state(&self, sub: &SubTopology, name: &str) -> Result<TaskState, Trouble> {
        let opened = self.shared.disk.open(name, &Task::store_specs(sub));
        // A new one that is damaged at once would be so again.
        opened.map_err(|error| Trouble::Failed(Box::new(error.into())))
    }

    fn changelogs(&self, sub: &SubTopology) -> Vec<TopicPartition> {
        let partition = self.open.id.partition;
        sub.stores.iter().map(|store| TopicPartition { topic: store.changelog.clone(), partition }).collect()
    }

    fn committed_stores(&self) -> impl Iterator<Item = &CommittedStore> {
        self.open.committed.iter().flat_map(|committed| &committed.stores)
    }

    /// How long the changelog of a store was at least when it was committed last.
    fn written(&self, store: &str) -> i64 {
        let stores = self.committed_stores().filter(|committed| committed.name == store);
        stores.map(|committed| committed.changelog_offset).max().unwrap_or_default()
    }

    /// Reads what the changelogs know beyond the database; says how many records that were. `None`: it was cancelled.
    fn restore(&self, sub: &SubTopology, name: &str, state: &mut TaskState) -> Result<Option<u64>, Trouble> {
        let changelogs = self.changelogs(sub);
        if changelogs.is_empty() {
            return Ok(Some(0));
        }
        let ends = |spec| {
            let offsets = self.shared.brokers.offsets(&changelogs, spec);
            offsets
                .map_err(|error| Trouble::kafka(format!("find the ends of the changelogs of {name}"), error))
        };
        let targets = ends(OffsetSpec::Latest)?;
        let starts = ends(OffsetSpec::Earliest)?;
        let mut from = state.checkpoint().changelog_offsets.clone();
        for (((store, offset), end), changelog) in sub.stores.iter().zip(&from).zip(&targets).zip(&changelogs)
        {
            let written = self.written(&store.spec.name).max(*offset);
            if written > *end {
                return Err(RuntimeError::ChangelogEnds {
                    task: name.to_owned(),
                    topic: changelog.topic.to_string(),
                    partition: changelog.partition,
                    end: *end,
                    offset: written,
                }
                .into());
            }
        }
        let cut = from.iter().zip(&starts).any(|(offset, start)| *offset > 0 && offset < start);
        if cut {
            // What was removed in between could have deleted entries that the database still has.
            tracing::warn!(
                task = name,
                "the changelog begins after what is on disk: the state is restored from its start"
            );
            self.start_empty(sub, name, state)?;
            from.clone_from(&state.checkpoint().changelog_offsets);
        }
        let mut parts: Vec<Part> = from
            .iter()
            .zip(targets)
            .zip(&starts)
            .enumerate()
            .map(|(store, ((from, target), start))| Part {
                store: StoreId(store),
                from: (*from).max(*start),
                target,
                batch: Changelog::default(),
            })
            .collect();
        self.read(name, state, &mut parts, &changelogs)
    }

    fn start_empty(&self, sub: &SubTopology, name: &str, state: &mut TaskState) -> Result<(), Trouble> {
        // The database must be closed before it can go.
        let old = std::mem::replace(state, TaskState::in_memory(&[]));
        old.close().map_err(RuntimeError::from)?;
        self.shared.disk.remove(name).map_err(RuntimeError::from)?;
        *state = self.state(sub, name)?;
        Ok(())
    }

    fn read(
        &self,
        name: &str,
        state: &mut TaskState,
        parts: &mut [Part],
        changelogs: &[TopicPartition],
    ) -> Result<Option<u64>, Trouble> {
        let total: i64 = parts.iter().map(|part| (part.target - part.from).max(0)).sum();
        if total == 0 {
            return Ok(Some(0));
        }
        let sub = self.shared.sub_name(self.open.id);
        let since = Instant::now();
        let show = |restored: i64| {
            let (restored, total) = (restored.unsigned_abs(), total.unsigned_abs());
            self.shared.status.update_task(sub, self.open.id.partition, |task| {
                task.restore = Some(RestoreProgress { restored, total, since });
            });
        };
        show(0);
        let counted = self.shared.plan.sub_topologies.get(self.open.id.sub);
        let counted = counted.map(|sub| self.shared.metrics.restore(sub, self.open.id.partition)).transpose();
        let counted = counted.map_err(RuntimeError::from)?;
        let mut memory = self.shared.metrics.memory(Owner::Restores).map_err(RuntimeError::from)?;
        let trouble = |error| Trouble::kafka(format!("restore {name}"), error);
        let most = self.shared.restored_bytes_per_restorer();
        let from: Vec<(TopicPartition, i64)> =
            changelogs.iter().zip(parts.iter()).map(|(log, part)| (log.clone(), part.from)).collect();
        let reader =
            self.shared.brokers.changelogs(&format!("restore-{name}"), most / parts.len().max(1), &from);
        let mut reader = reader.map_err(trouble)?;
        let (start, mut logged) = (clock::instant(), clock::instant());
        let mut records: u64 = 0;
        loop {
            if self.cancelled() {
                return Ok(None);
            }
            let mut bytes = 0;
            let taken = reader.take(RECORDS, PATIENCE, &mut |number, key, value| {
                let (Some(part), Some(key)) = (parts.get_mut(number), key) else { return };
                bytes += key.len() + value.map_or(0, <[u8]>::len);
                part.batch.push(part.store, key, value);
            });
            let taken = taken.map_err(trouble)? as u64;
            records += taken;
            let held: usize = parts.iter().map(|part| part.batch.bytes()).sum();
            memory.set(held + reader.queued_bytes());
            // One large batch is better than some small ones.
            let largest = parts.iter().map(|part| part.batch.bytes()).max().unwrap_or_default();
            let mut remaining = 0;
            for (number, part) in parts.iter_mut().enumerate() {
                let position = reader.position(number).unwrap_or_default().max(part.from);
                let done = position >= part.target;
                let full = held >= most && part.batch.bytes() == largest;
                if full || (done && (!part.batch.is_empty() || position > part.from)) {
                    let next = if done { part.target.max(position) } else { position };
                    let records = part.batch.iter().map(|record| (record.key, record.value));
                    state.restore(part.store, records, next).map_err(RuntimeError::from)?;
                    fail_point("restored-some");
                    part.batch.clear();
                    part.from = next;
                }
                remaining += (part.target - position).max(0);
            }
            show(total - remaining);
            if let Some(counted) = &counted {
                counted.read(taken, bytes as u64, remaining);
            }
            if remaining == 0 {
                break;
            }
            if clock::since(logged) >= LOG_EVERY {
                logged = clock::instant();
                let rate = (total - remaining) as f64 / clock::since(start).as_secs_f64();
                tracing::info!(
                    task = name,
                    records,
                    remaining,
                    rate = rate as u64,
                    seconds_left = (remaining as f64 / rate.max(1.0)) as u64,
                    "restoring"
                );
            }
        }
        if let Some(counted) = counted {
            counted.done(clock::since(start));
        }
        let seconds = clock::since(start).as_secs_f64();
        tracing::info!(task = name, records, seconds, rate = (records as f64 / seconds) as u64, "restored");
        Ok(Some(records))
    }
}
