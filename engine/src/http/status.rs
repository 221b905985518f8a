//! What a process says of itself. The runtime fills it: loops by a store to an atomic, tasks once a commit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat};
use millstream_operators::config::format_duration;
use serde_json::{Value as Json, json};

/// The state of a process, shared between its threads.
#[derive(Debug)]
pub struct Status {
    app: String,
    instance: String,
    start: Instant,
    loops: Mutex<Vec<Arc<Loop>>>,
    /// What has to happen before the process is ready, by number.
    pending: Mutex<(u64, BTreeMap<u64, String>)>,
    tasks: Mutex<BTreeMap<(String, i32), TaskStatus>>,
}

#[derive(Debug)]
struct Loop {
    name: String,
    limit: Duration,
    /// Milliseconds from the start of the process to the last beat.
    last: AtomicU64,
    /// Whether its thread is gone without having said so.
    gone: AtomicBool,
}

/// What a task does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskState {
    /// Its stores are read from their changelogs.
    #[default]
    Restoring,
    /// It processes records.
    Running,
    /// It was revoked; its database stays open until the next assignment decides.
    Closed,
}

impl TaskState {
    fn name(self) -> &'static str {
        match self {
            TaskState::Restoring => "restoring",
            TaskState::Running => "running",
            TaskState::Closed => "closed",
        }
    }
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Offsets that were passed.
    pub restored: u64,
    /// Offsets there are to pass.
    pub total: u64,
    /// When it began.
    pub since: Instant,
}

impl RestoreProgress {
    /// Offsets a second, so far.
    pub fn rate(&self) -> f64 {
        self.restored as f64 / self.since.elapsed().as_secs_f64().max(0.001)
    }

    /// How long it still takes at that rate; `None` as long as it has none.
    pub fn left(&self) -> Option<Duration> {
        let left = self.total.saturating_sub(self.restored) as f64 / self.rate();
        Duration::try_from_secs_f64(left).ok()
    }
}

/// Where a task is on one of its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputStatus {
    /// The topic.
    pub topic: String,
    /// The next offset to process.
    pub offset: i64,
    /// Records that wait; `None` as long as the end of the partition is not known.
    pub lag: Option<i64>,
}

/// A task as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskStatus {
    /// What it does.
    pub state: TaskState,
    /// The worker that has it.
    pub worker: Option<usize>,
    /// How far its restore is.
    pub restore: Option<RestoreProgress>,
    /// Its inputs.
    pub inputs: Vec<InputStatus>,
    /// The largest event time that it has seen, milliseconds since 1970.
    pub stream_time: Option<i64>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Status {
    /// The status of the process `instance` of the application `app`, before anything has begun.
    pub fn new(app: &str, instance: &str) -> Self {
        Status {
            app: app.to_owned(),
            instance: instance.to_owned(),
            start: Instant::now(),
            loops: Mutex::default(),
            pending: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// The application.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The name of the process.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Watches a loop from now on: it must beat at least every `limit`.
    pub fn watch(self: &Arc<Self>, name: &str, limit: Duration) -> Heartbeat {
        let watched = Arc::new(Loop {
            name: name.to_owned(),
            limit,
            last: AtomicU64::new(self.now()),
            gone: AtomicBool::new(false),
        });
        locked(&self.loops).push(watched.clone());
        Heartbeat { status: self.clone(), watched, ended: false }
    }

    /// The process is not ready until what this gives is dropped; `what` completes "waits for …".
    pub fn pending(self: &Arc<Self>, what: &str) -> Pending {
        let mut pending = locked(&self.pending);
        pending.0 += 1;
        let number = pending.0;
        pending.1.insert(number, what.to_owned());
        Pending { status: self.clone(), number }
    }

    /// Changes what is shown of a task; one that is not known yet begins as restoring.
    pub fn update_task(&self, sub_topology: &str, partition: i32, change: impl FnOnce(&mut TaskStatus)) {
        change(locked(&self.tasks).entry((sub_topology.to_owned(), partition)).or_default());
    }

    /// A task is not this process' any more.
    pub fn remove_task(&self, sub_topology: &str, partition: i32) {
        locked(&self.tasks).remove(&(sub_topology.to_owned(), partition));
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Every loop that has not made progress within its limit, in words; none if the process is healthy.
    pub fn unhealthy(&self) -> Vec<String> {
        let now = self.now();
        let shown =
            |duration: Duration| format_duration(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
        let wrong = |watched: &Arc<Loop>| {
            let Loop { name, limit, last, gone } = &**watched;
            if gone.load(Ordering::Acquire) {
                return Some(format!("`{name}` is gone"));
            }
            let silence = Duration::from_millis(now.saturating_sub(last.load(Ordering::Relaxed)));
            let message = || {
                format!("`{name}` has made no progress for {}, allowed are {}", shown(silence), shown(*limit))
            };
            (silence > *limit).then(message)
        };
        locked(&self.loops).iter().filter_map(wrong).collect()
    }

    /// What the process still waits for, in words; none if it is ready.
    pub fn missing(&self) -> Vec<String> {
        let pending = locked(&self.pending);
        let mut missing: Vec<String> = pending.1.values().map(|what| format!("waits for {what}")).collect();
        drop(pending);
        let tasks = locked(&self.tasks);
        let restoring = tasks.iter().filter(|(_, task)| task.state == TaskState::Restoring);
        missing.extend(restoring.map(|((sub, partition), task)| match &task.restore {
            Some(RestoreProgress { restored, total, .. }) => {
                format!("task {sub}-{partition} restores its state: {restored} of {total} records")
            }
            None => format!("task {sub}-{partition} waits for its restore"),
        }));
        missing
    }

    /// The tasks as JSON.
    pub fn tasks(&self) -> Json {
        let tasks = locked(&self.tasks);
        let tasks: Vec<Json> =
            tasks.iter().map(|((sub, partition), task)| task.json(sub, *partition)).collect();
        json!({ "app": self.app, "instance": self.instance, "tasks": tasks })
    }

    /// The number of tasks by state, for people.
    pub fn summary(&self) -> String {
        let tasks = locked(&self.tasks);
        let count = |state| tasks.values().filter(|task| task.state == state).count();
        let lag: i64 = tasks.values().flat_map(|task| &task.inputs).filter_map(|input| input.lag).sum();
        let (running, restoring) = (count(TaskState::Running), count(TaskState::Restoring));
        format!("{running} tasks run, {restoring} restore, {lag} records wait")
    }
}

impl TaskStatus {
    fn json(&self, sub_topology: &str, partition: i32) -> Json {
        let restore = self.restore.map(|restore| {
            json!({
                "restored": restore.restored,
                "total": restore.total,
                "records_per_second": restore.rate().round(),
                "seconds_left": restore.left().map(|left| left.as_secs_f64().ceil()),
            })
        });
        let input = |input: &InputStatus| json!({ "topic": input.topic, "partition": partition, "offset": input.offset, "lag": input.lag });
        let stream_time = self.stream_time.and_then(DateTime::from_timestamp_millis);
        json!({
            "task": format!("{sub_topology}-{partition}"),
            "sub_topology": sub_topology,
            "partition": partition,
            "state": self.state.name(),
            "worker": self.worker,
            "restore": restore,
            "inputs": self.inputs.iter().map(input).collect::<Vec<_>>(),
            "stream_time": stream_time.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
        })
    }
}

/// Shows that a loop goes on. Whoever drops it without [`end`](Heartbeat::end), as a panic does, leaves the process unhealthy.
#[derive(Debug)]
pub struct Heartbeat {
    status: Arc<Status>,
    watched: Arc<Loop>,
    ended: bool,
}

impl Heartbeat {
    /// The loop made progress.
    pub fn beat(&self) {
        self.watched.last.store(self.status.now(), Ordering::Relaxed);
    }

    /// How long ago it did.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.status.now().saturating_sub(self.watched.last.load(Ordering::Relaxed)))
    }

    /// The loop ends as it should.
    pub fn end(mut self) {
        self.ended = true;
        locked(&self.status.loops).retain(|watched| !Arc::ptr_eq(watched, &self.watched));
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        if !self.ended {
            self.watched.gone.store(true, Ordering::Release);
        }
    }
}

/// Something that a process waits for before it is ready.
#[derive(Debug)]
pub struct Pending {
    status: Arc<Status>,
    number: u64,
}

impl Drop for Pending {
    fn drop(&mut self) {
        locked(&self.status.pending).1.remove(&self.number);
    }
}
