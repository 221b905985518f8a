//! The member: this process's place in the consumer group, from joining it to leaving it.
//!
//! A revocation is a barrier: the group hears of it only after every worker has committed and handed its tasks back. Tasks that
//! come back with the next assignment go on as they are, if nobody has committed for them in between.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::assignment::{TaskId, tasks_of};
use super::brokers::GroupMember;
use super::chores::{self, Chore};
use super::commit_metadata::CommitMetadata;
use super::error::{RuntimeError, Trouble};
use super::globals::{self, Globals};
use super::inputs::RecordQueue;
use super::restore::{self, Open, Opened};
use super::threads::{self, Thread};
use super::topics::ANSWER;
use super::worker::{Assigned, Command, Worker};
use super::{COUNT_MEMORY_EVERY, Cancelled, OpenTask, Shared, Shutdown, clock};
use crate::http::{Pending, TaskState, TaskStatus};
use crate::kafka::{Committed, GroupEvent, GroupMetadata, GroupOptions, OffsetSpec, TopicPartition, Wake};
use crate::metrics::{Client, Owner, Rebalance, Share};
use crate::plan::{Origin, PlanInput};
use crate::topology::Start;

/// How long the group is listened to at once.
const LISTEN: Duration = Duration::from_millis(20);

/// How long a worker may take to commit and to hand its tasks back.
const HAND_BACK: Duration = Duration::from_secs(90);

/// How long leaving the group may take.
const LEAVE: Duration = Duration::from_secs(10);

/// The same without partitions, which others might wait for. While the group is being joined the brokers do not answer.
const LEAVE_WITHOUT_PARTITIONS: Duration = Duration::from_millis(500);

/// How often consumed records of repartition topics are removed.
const REMOVE_EVERY: Duration = Duration::from_secs(30);

/// How long a worker that has nothing to do any more may take to end. Each of the calls that it may be in has a time-out; all of
/// them together are shorter than this.
const LAST_CALLS: Duration = Duration::from_secs(180);

/// How often it is asked whether the topics are still the same.
const EXAMINE_EVERY: Duration = Duration::from_secs(10);

/// Joins the group and works until the process is asked to end, which is no error, or something ends the session.
pub(super) fn session(shared: &Arc<Shared>, joining: Pending, shutdown: Shutdown<'_>) -> Result<(), Trouble> {
    let Some(globals) = Globals::restore(shared, shutdown)? else { return Ok(()) };
    let outcome = Member::join(shared, joining).and_then(|mut member| {
        let outcome = member.keep(globals).and_then(|()| member.serve(shutdown));
        member.leave(outcome)
    });
    globals::close(shared);
    outcome
}

struct WorkerHandle {
    commands: Sender<Command>,
    wake: Wake,
    thread: Thread,
}

/// A task that is being opened.
struct Opening {
    inputs: Vec<Box<dyn RecordQueue>>,
    cancelled: Cancelled,
}

struct Member {
    shared: Arc<Shared>,
    consumer: Arc<dyn GroupMember>,
    workers: Vec<WorkerHandle>,
    /// The restorers, and who does the chores.
    helpers: Vec<Thread>,
    /// Set when the session is over: who begins something need not go on.
    over: Cancelled,
    failures: Receiver<Trouble>,
    failed: Sender<Trouble>,
    examiner: Option<Thread>,
    requests: Sender<Box<Open>>,
    chores: Sender<Chore>,
    opened: Receiver<Opened>,
    /// Counts the assignments.
    assignment: u64,
    /// Until the first one the process is not ready.
    joining: Option<Pending>,
    metadata: Option<GroupMetadata>,
    opening: BTreeMap<TaskId, Opening>,
    /// Tasks between two assignments.
    parked: BTreeMap<TaskId, OpenTask>,
    removed_at: Instant,
    block_cache: Share,
    write_buffers: Share,
    memory_counted: Instant,
    examined_at: Instant,
}

impl Member {
    fn join(shared: &Arc<Shared>, joining: Pending) -> Result<Self, Trouble> {
        let tasks = shared.tasks();
        let (failed, failures) = bounded(shared.settings.threads * 2 + shared.restorers() + 5);
        let (requests, requested) = bounded(tasks * 2 + 16);
        let (opened_by, opened) = bounded(tasks * 2 + 16);
        let over = Cancelled::default();
        let mut workers = Vec::new();
        for number in 0..shared.settings.threads {
            workers.push(start_worker(shared, number, tasks, &over, failed.clone())?);
        }
        let (chores, to_do) = bounded(tasks * 2 + 16);
        let mut helpers = Vec::new();
        for number in 0..shared.restorers() {
            let (shared, requested, opened_by) = (shared.clone(), requested.clone(), opened_by.clone());
            let body = move || restore::open_all(&shared, &requested, &opened_by);
            helpers.push(start_thread(format!("restorer-{number}"), &failed, body)?);
        }
        let shared_too = shared.clone();
        let body = move || chores::do_all(&shared_too, &to_do);
        helpers.push(start_thread("chores".to_owned(), &failed, body)?);
        let settings = &shared.settings;
        let inputs: Vec<&PlanInput> = shared.plan.sub_topologies.iter().flat_map(|sub| &sub.inputs).collect();
        let options = GroupOptions {
            group: shared.app.clone(),
            session_timeout: settings.session_timeout,
            max_poll_interval: settings.max_poll_interval,
            queued_bytes_per_partition: shared.fetched_bytes_per_partition(),
            wait: None,
        };
        let trouble = |error| Trouble::kafka(format!("join the consumer group `{}`", shared.app), error);
        let topics: Vec<&str> = inputs.iter().map(|input| input.topic.as_str()).collect();
        let consumer = shared.brokers.member(&options, &topics).map_err(trouble)?;
        Ok(Member {
            shared: shared.clone(),
            consumer,
            workers,
            helpers,
            over,
            failures,
            failed,
            examiner: None,
            requests,
            chores,
            opened,
            assignment: 0,
            joining: Some(joining),
            metadata: None,
            opening: BTreeMap::new(),
            parked: BTreeMap::new(),
            removed_at: clock::instant(),
            block_cache: shared.metrics.memory(Owner::BlockCache).map_err(RuntimeError::from)?,
            write_buffers: shared.metrics.memory(Owner::WriteBuffers).map_err(RuntimeError::from)?,
            memory_counted: clock::instant(),
            examined_at: clock::instant(),
        })
    }

    /// Has the global tables kept up to date as long as the session lasts.
    fn keep(&mut self, globals: Globals) -> Result<(), Trouble> {
        if self.shared.plan.globals.is_empty() {
            return Ok(());
        }
        let (over, failed) = (self.over.clone(), self.failed.clone());
        let body = move || {
            if let Err(trouble) = globals.keep(&over) {
                let _ = failed.send(trouble);
            }
        };
        self.helpers.push(start_thread("global-tables".to_owned(), &self.failed, body)?);
        Ok(())
    }

    fn serve(&mut self, shutdown: Shutdown<'_>) -> Result<(), Trouble> {
        loop {
            if shutdown() {
                tracing::info!("asked to end: committing and leaving the group");
                return Ok(());
            }
            match self.consumer.poll(LISTEN) {
                Some(GroupEvent::Assigned { partitions, metadata }) => {
                    self.assigned(&partitions, metadata)?
                }
                Some(GroupEvent::Revoked { lost, .. }) => self.revoked(lost)?,
                Some(GroupEvent::Error(error)) => self.group_error(error)?,
                None => {}
            }
            if let Ok(trouble) = self.failures.try_recv() {
                return Err(trouble);
            }
            while let Ok(opened) = self.opened.try_recv() {
                self.opened(opened)?;
            }
            self.watch()?;
            self.remove_consumed();
            self.count_memory();
            self.examine_topics()?;
        }
    }

    /// What the group consumer says that is no assignment. It mends most of it by itself.
    fn group_error(&self, error: crate::kafka::KafkaError) -> Result<(), Trouble> {
        let action = format!("stay in the consumer group `{}`", self.shared.app);
        if error.is_authorization() || error.is_authentication() || error.is_unknown_topic() {
            return Err(RuntimeError::Kafka { action, error }.into());
        }
        if error.is_fatal() {
            return Err(Trouble::kafka(action, error));
        }
        self.shared.metrics.client_error(Client::Consumer, error.name());
        tracing::warn!(%error, "the connection to the brokers is disturbed; it is tried again");
        Ok(())
    }

    fn assigned(&mut self, partitions: &[TopicPartition], metadata: GroupMetadata) -> Result<(), Trouble> {
        self.assignment += 1;
        let named: Vec<(String, i32)> =
            partitions.iter().map(|found| (found.topic.to_string(), found.partition)).collect();
        let ids = tasks_of(&self.shared.plan, &self.shared.counts, &named).map_err(RuntimeError::from)?;
        let names: Vec<String> = ids.iter().map(|id| id.name(&self.shared.plan)).collect();
        tracing::info!(tasks = names.join(" "), generation = metadata.generation(), "assigned");
        self.shared.metrics.rebalanced(Rebalance::Assigned);
        self.metadata = Some(metadata);
        let gone = self.parked.extract_if(.., |id, _| !ids.contains(id)).collect::<Vec<_>>();
        for (id, task) in gone {
            self.shared.status.remove_task(self.shared.sub_name(id), id.partition);
            self.close(task)?;
        }
        let plan = self.shared.plan.clone();
        let mut positions = Vec::new();
        for id in &ids {
            let Some(sub) = plan.sub_topologies.get(id.sub) else { continue };
            for input in &sub.inputs {
                let topic = Arc::from(input.topic.as_str());
                positions.push((*id, input, TopicPartition { topic, partition: id.partition }));
            }
        }
        let asked: Vec<TopicPartition> =
            positions.iter().map(|(_, _, partition)| partition.clone()).collect();
        let committed = self.consumer.committed(&asked, ANSWER);
        let committed = committed.map_err(|error| Trouble::kafka("read committed offsets", error))?;
        let offsets = self.offsets(&positions, &committed)?;
        let assign: Vec<(TopicPartition, i64)> = asked.iter().cloned().zip(offsets.iter().copied()).collect();
        let wake = |number: usize| -> Wake {
            let worker = positions.get(number).map(|(id, _, _)| self.worker_of(*id));
            match worker.and_then(|worker| self.workers.get(worker)) {
                Some(worker) => worker.wake.clone(),
                None => Arc::new(|| {}),
            }
        };
        let queues = self.consumer.clone().assign(&assign, &wake);
        let queues = queues.map_err(|error| Trouble::kafka("take up an assignment", error))?;
        let mut fetched: HashMap<TaskId, Vec<Box<dyn RecordQueue>>> = HashMap::new();
        for ((id, _, _), queue) in positions.iter().zip(queues) {
            fetched.entry(*id).or_default().push(queue);
        }
        let mut last_commits = Vec::new();
        for id in ids {
            let own = || {
                positions
                    .iter()
                    .enumerate()
                    .filter(move |(_, (of, _, _))| *of == id)
                    .map(|(number, _)| number)
            };
            let task_offsets: Vec<i64> = own().filter_map(|number| offsets.get(number).copied()).collect();
            let mut last = Vec::new();
            for number in own() {
                let Some((found, partition)) = committed.get(number).zip(asked.get(number)) else { continue };
                last.extend(self.metadata_of(found, partition)?);
            }
            let last_commit = last.first().map(|metadata| metadata.id);
            last_commits.push((id, last_commit));
            let inputs = fetched.remove(&id).unwrap_or_default();
            match self.parked.remove(&id) {
                Some(task) if task.committed == last_commit && task.task.offsets() == task_offsets => {
                    self.start(task, inputs)?;
                    continue;
                }
                Some(task) => self.close(task)?,
                None => {}
            }
            self.show(id, TaskState::Restoring);
            let cancelled: Cancelled = Arc::new(AtomicBool::new(false));
            self.opening.insert(id, Opening { inputs, cancelled: cancelled.clone() });
            let assignment = self.assignment;
            let is_new = own().all(|number| committed.get(number).is_none_or(|known| known.offset.is_none()));
            let open = Open { id, assignment, offsets: task_offsets, is_new, committed: last, cancelled };
            let asked = self.requests.send_timeout(Box::new(open), HAND_BACK);
            asked.map_err(|_| RuntimeError::Internal("the restorers do not answer".to_owned()))?;
        }
        self.shared.resolve(&last_commits);
        // The tasks are shown now: who asks whether the process is ready hears of them.
        self.joining = None;
        Ok(())
    }

    fn show(&self, id: TaskId, state: TaskState) {
        self.shared.status.update_task(self.shared.sub_name(id), id.partition, |task| {
            *task = TaskStatus { state, ..TaskStatus::default() };
        });
    }

    /// Where each input goes on.
    fn offsets(
        &self,
        positions: &[(TaskId, &PlanInput, TopicPartition)],
        committed: &[Committed],
    ) -> Result<Vec<i64>, Trouble> {
        let mut offsets: Vec<Option<i64>> = committed.iter().map(|committed| committed.offset).collect();
        let mut wanted: Vec<(OffsetSpec, Vec<usize>)> = Vec::new();
        for (number, (_, input, _)) in positions.iter().enumerate() {
            if offsets.get(number).is_some_and(Option::is_none) {
                let spec = match &input.origin {
                    Origin::Repartition { .. } => OffsetSpec::Earliest,
                    Origin::Source(source) => match source.start {
                        Start::Earliest => OffsetSpec::Earliest,
                        Start::Latest => OffsetSpec::Latest,
                        Start::At(time) => OffsetSpec::AtTime(time),
                    },
                };
                match wanted.iter_mut().find(|(known, _)| *known == spec) {
                    Some((_, numbers)) => numbers.push(number),
                    None => wanted.push((spec, vec![number])),
                }
            }
        }
        for (spec, numbers) in wanted {
            let partitions: Vec<TopicPartition> = numbers
                .iter()
                .filter_map(|number| positions.get(*number))
                .map(|(_, _, partition)| partition.clone())
                .collect();
            let found = self.shared.brokers.offsets(&partitions, spec);
            let found = found.map_err(|error| Trouble::kafka("find where to start", error))?;
            for (number, offset) in numbers.into_iter().zip(found) {
                if let Some(slot) = offsets.get_mut(number) {
                    *slot = Some(offset);
                }
            }
        }
        Ok(offsets.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// A restorer is done with a task.
    fn opened(&mut self, opened: Opened) -> Result<(), Trouble> {
        let Opened { id, assignment, outcome } = opened;
        let Some(task) = outcome? else { return Ok(()) };
        let opening = if assignment == self.assignment { self.opening.remove(&id) } else { None };
        match opening {
            Some(Opening { inputs, .. }) => self.start(task, inputs),
            None => self.close(task),
        }
    }

    fn start(&mut self, open: OpenTask, inputs: Vec<Box<dyn RecordQueue>>) -> Result<(), Trouble> {
        let Some(metadata) = self.metadata.clone() else {
            return Err(RuntimeError::Internal("a task without an assignment".to_owned()).into());
        };
        let worker = self.worker_of(open.id);
        let assigned = Assigned { open, inputs, consumer: self.consumer.clone(), metadata };
        self.command(worker, Command::Run(Box::new(assigned)))
    }

    fn command(&self, worker: usize, command: Command) -> Result<(), Trouble> {
        let sent = self.workers.get(worker).map(|worker| worker.commands.try_send(command));
        match sent {
            Some(Ok(())) => Ok(()),
            // A worker that has ended has said why.
            _ => Err(self.failure(worker)),
        }
    }

    fn failure(&self, worker: usize) -> Trouble {
        let answer = threads::receive(&self.failures, Duration::from_secs(1));
        answer.unwrap_or_else(|_| RuntimeError::Internal(format!("worker {worker} does not answer")).into())
    }

    fn close(&self, task: OpenTask) -> Result<(), Trouble> {
        let asked = self.chores.send_timeout(Chore::Close(Box::new(task)), HAND_BACK);
        Ok(asked.map_err(|_| RuntimeError::Internal("tasks cannot be closed".to_owned()))?)
    }

    fn revoked(&mut self, lost: bool) -> Result<(), Trouble> {
        tracing::info!(lost, "revoked");
        self.shared.metrics.rebalanced(if lost { Rebalance::Lost } else { Rebalance::Revoked });
        for (id, opening) in mem::take(&mut self.opening) {
            opening.cancelled.store(true, Ordering::Relaxed);
            self.shared.status.remove_task(self.shared.sub_name(id), id.partition);
        }
        // Tasks that are restored after this belong to no assignment.
        self.assignment += 1;
        for task in self.take_back(lost)? {
            self.show(task.id, TaskState::Closed);
            self.parked.insert(task.id, task);
        }
        self.metadata = None;
        self.consumer.unassign().map_err(|error| Trouble::kafka("give an assignment up", error))
    }

    /// Every worker commits and hands its tasks back; if the assignment is lost it aborts and drops them.
    fn take_back(&self, lost: bool) -> Result<Vec<OpenTask>, Trouble> {
        let mut replies = Vec::new();
        for number in 0..self.workers.len() {
            let (reply, replied) = bounded(1);
            self.command(number, if lost { Command::Abandon(reply) } else { Command::Release(reply) })?;
            replies.push(replied);
        }
        let deadline = clock::instant() + HAND_BACK;
        let mut tasks = Vec::new();
        let mut trouble = None;
        for (number, replied) in replies.into_iter().enumerate() {
            match self.reply(number, &replied, deadline) {
                Some(handed) => tasks.extend(handed),
                // The others still commit.
                None => trouble = trouble.or_else(|| Some(self.failure(number))),
            }
        }
        match trouble {
            Some(trouble) => Err(trouble),
            None => Ok(tasks),
        }
    }

    /// What a worker hands back. One that ends without having looked at its commands does not answer, and they stay in their
    /// channel.
    fn reply(
        &self,
        worker: usize,
        replied: &Receiver<Vec<OpenTask>>,
        deadline: Instant,
    ) -> Option<Vec<OpenTask>> {
        loop {
            let ended = self.workers.get(worker).is_none_or(|worker| worker.thread.is_finished());
            match threads::receive(replied, LISTEN) {
                Ok(handed) => return Some(handed),
                Err(RecvTimeoutError::Timeout) if !ended && clock::instant() < deadline => {}
                Err(_) => return None,
            }
        }
    }

    /// A worker that makes no progress keeps its partitions from others.
    fn watch(&self) -> Result<(), Trouble> {
        for (worker, heartbeat) in self.shared.heartbeats.iter().enumerate() {
            let idle = heartbeat.silence();
            if idle > self.shared.settings.max_poll_interval {
                self.shared.metrics.watchdog_tripped(&format!("worker-{worker}"));
                let rows = self.shared.settings.max_batch_rows;
                return Err(RuntimeError::Stuck { worker, idle, rows }.into());
            }
        }
        Ok(())
    }

    fn count_memory(&mut self) {
        if clock::since(self.memory_counted) >= COUNT_MEMORY_EVERY {
            self.memory_counted = clock::instant();
            self.block_cache.set(self.shared.disk.block_cache_bytes());
            self.write_buffers.set(self.shared.disk.write_buffer_bytes());
        }
    }

    /// What was committed with an offset; nothing where another program has set it. The topic must be the one that was read.
    fn metadata_of(
        &self,
        committed: &Committed,
        partition: &TopicPartition,
    ) -> Result<Option<CommitMetadata>, Trouble> {
        let Some(text) = committed.metadata.as_ref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let metadata = CommitMetadata::decode(text).map_err(|error| RuntimeError::Metadata {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            group: self.shared.app.clone(),
            cause: error.to_string(),
        })?;
        self.shared.check_id(&partition.topic, &metadata.topic_id)?;
        Ok(Some(metadata))
    }

    /// Sees whether the topics are still those with which the run began. Nobody waits for that: brokers may take their time.
    fn examine_topics(&mut self) -> Result<(), Trouble> {
        let busy = self.examiner.as_ref().is_some_and(|examiner| !examiner.is_finished());
        if busy || clock::since(self.examined_at) < EXAMINE_EVERY {
            return Ok(());
        }
        self.examined_at = clock::instant();
        let (shared, failed) = (self.shared.clone(), self.failed.clone());
        let body = move || {
            let same = shared.brokers.still_exist(&shared.plan, &shared.counts, &shared.settings.topics);
            // Whoever uses a topic notices that it is gone, not that it is another one. Who is about to end does not listen.
            if let Err(Trouble::Failed(error)) = same {
                if error.topics_were_made_anew() {
                    let _ = failed.try_send(Trouble::Failed(error));
                } else if error.global_tables_were_made_anew() {
                    let _ = failed.try_send(Trouble::Again(error.to_string()));
                }
            }
        };
        self.examiner = Some(start_thread("examiner".to_owned(), &self.failed, body)?);
        Ok(())
    }

    fn remove_consumed(&mut self) {
        if clock::since(self.removed_at) < REMOVE_EVERY {
            return;
        }
        self.removed_at = clock::instant();
        let mut consumed = self.shared.consumed.lock().unwrap_or_else(PoisonError::into_inner);
        if !consumed.is_empty() {
            // If there is too much to do it is done the next time.
            let _ = self.chores.try_send(Chore::Remove(consumed.drain().collect()));
        }
    }

    /// Ends the session: commits what can be committed, closes what is open, leaves the group.
    fn leave(mut self, outcome: Result<(), Trouble>) -> Result<(), Trouble> {
        self.over.store(true, Ordering::Relaxed);
        for (_, opening) in mem::take(&mut self.opening) {
            opening.cancelled.store(true, Ordering::Relaxed);
        }
        let patience = if self.metadata.is_some() { LEAVE } else { LEAVE_WITHOUT_PARTITIONS };
        let stuck =
            matches!(&outcome, Err(Trouble::Failed(error)) if matches!(**error, RuntimeError::Stuck { .. }));
        let mut tasks: Vec<OpenTask> = mem::take(&mut self.parked).into_values().collect();
        let released = match &outcome {
            _ if stuck => Ok(Vec::new()),
            // Offsets that would be committed now are those of topics that are no more.
            Err(Trouble::Failed(error)) if error.topics_were_made_anew() => self.take_back(true),
            // The other workers may know nothing of a record that failed.
            Ok(()) | Err(Trouble::Failed(_)) => self.take_back(false),
            Err(Trouble::Again(_)) => self.take_back(true),
        };
        let outcome = match (outcome, released) {
            (outcome, Ok(released)) => {
                tasks.extend(released);
                outcome
            }
            (Ok(()), Err(trouble)) => Err(trouble),
            (outcome, Err(_)) => outcome,
        };
        let Member { consumer, workers, helpers, requests, chores, opened, .. } = self;
        // First the group learns that others may go on; then there is time for the disk.
        if !stuck {
            let _ = consumer.unassign();
            for (number, worker) in workers.into_iter().enumerate() {
                drop(worker.commands);
                if !worker.thread.ends_within(LAST_CALLS) {
                    tracing::error!(
                        "worker {number} hangs in a call to the brokers: the process ends without it"
                    );
                }
            }
        }
        consumer.close(patience);
        drop((requests, chores));
        if !stuck {
            for helper in helpers {
                helper.join();
            }
        }
        tasks.extend(opened.try_iter().filter_map(|opened| opened.outcome.ok().flatten()));
        tasks.into_iter().for_each(OpenTask::close);
        outcome
    }

    fn worker_of(&self, id: TaskId) -> usize {
        let before: usize = self.shared.counts.iter().take(id.sub).map(|count| *count as usize).sum();
        (before + id.partition.unsigned_abs() as usize) % self.workers.len().max(1)
    }
}

fn start_worker(
    shared: &Arc<Shared>,
    number: usize,
    tasks: usize,
    over: &Cancelled,
    failed: Sender<Trouble>,
) -> Result<WorkerHandle, Trouble> {
    let (commands, commanded) = bounded(tasks + 8);
    let (waker, wake) = bounded(1);
    shared.heartbeat(number);
    let (shared, over) = (shared.clone(), over.clone());
    let failures = failed.clone();
    let body = move || match Worker::new(number, shared, commanded, wake, &over, failures.clone()) {
        Ok(worker) => worker.run(),
        Err(trouble) => {
            let _ = failures.send(trouble);
        }
    };
    let thread = start_thread(format!("worker-{number}"), &failed, body)?;
    let wake = move || {
        // A worker that is to wake already need not be told again.
        let _: Result<(), TrySendError<()>> = waker.try_send(());
    };
    Ok(WorkerHandle { commands, wake: Arc::new(wake), thread })
}

/// Starts a thread whose panic ends the session.
fn start_thread(
    name: String,
    failed: &Sender<Trouble>,
    work: impl FnOnce() + Send + 'static,
) -> Result<Thread, Trouble> {
    let (failed, who) = (failed.clone(), name.clone());
    let body = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            let _ = failed.send(panicked(&who, &*panic));
        }
    };
    let started = Thread::start(name.clone(), body);
    started.map_err(|source| RuntimeError::Io { action: format!("start the thread {name}"), source }.into())
}

fn panicked(who: &str, panic: &(dyn std::any::Any + Send)) -> Trouble {
    let what = panic.downcast_ref::<String>().map(String::as_str);
    let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
    RuntimeError::Internal(format!("{who} panicked: {what}")).into()
}
