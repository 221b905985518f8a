//! An application on Kafka: one process of its group.
//!
//! Four kinds of threads share the work, and only messages pass between them. The thread that calls [`run`] is the *member*: it
//! holds the process's place in the consumer group and decides who works on what. *Workers* own tasks: they process and
//! commit. *Restorers* open tasks and bring their stores up to date. *Chores* are what nobody waits for, such as closing a
//! task that has gone. What goes wrong in a way that leaves the outcome of a commit unknown ends the *session*: everything is
//! dropped, and the next session opens it anew from what was committed.

pub mod assignment;
mod brokers;
mod chores;
pub mod clock;
mod commit_metadata;
mod error;
mod globals;
mod in_doubt;
mod inputs;
mod instance;
mod member;
mod permissions;
mod places;
mod record_cache;
mod restore;
#[cfg(test)]
mod simulation;
mod threads;
mod topics;
mod worker;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use millstream_state::{StateDirectory, fail_point};

use self::assignment::TaskId;
use self::brokers::{Brokers, Disk, Kafka, LocalDisk};
use self::commit_metadata::{CommitId, CommitMetadata, CommittedStore};
use self::error::Trouble;
use self::in_doubt::InDoubt;
use self::places::{Place, Places};
use self::topics::Topics;
use crate::http::{Heartbeat, Pending, Server, Status};
use crate::kafka::{Admin, OffsetAndMetadata, Security, TopicPartition};
use crate::metrics::Metrics;
use crate::plan::{Origin, Plan};
use crate::settings::RunSettings;
use crate::task::{GlobalStates, Task};
use crate::topology::{Guarantee, Topology};

pub use self::error::RuntimeError;
pub use self::topics::{ShortRetention, TopicError, TopicFinding, retention, set_retention};

/// How many tasks are restored at once, at most.
const RESTORERS: usize = 4;

/// How often the memory that is in use is counted.
const COUNT_MEMORY_EVERY: Duration = Duration::from_secs(1);

/// The longest pause before a session begins anew.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// An open task.
struct OpenTask {
    id: TaskId,
    name: String,
    task: Task,
    /// The commit that its state is that of.
    committed: Option<CommitId>,
    /// Dropped after the task: then others may open it.
    _place: Place,
}

impl OpenTask {
    fn stores(&self, brokers: &dyn Brokers) -> Vec<CommittedStore> {
        let stores = self.task.sub_topology().stores.iter().zip(self.task.changelog_offsets());
        let stores = stores.map(|(store, changelog_offset)| CommittedStore {
            name: store.spec.name.clone(),
            fingerprint: store.spec.fingerprint,
            changelog_offset: *changelog_offset,
            changelog_id: brokers.topic_id(&store.changelog),
        });
        stores.collect()
    }

    /// Makes what was committed durable, so that the next start has little to restore.
    fn close(self) {
        let OpenTask { name, task, _place, .. } = self;
        fail_point("task-closing");
        if let Err(error) = task.close() {
            tracing::warn!(task = name, %error, "the state could not be flushed; what is missing is restored");
        }
    }
}

/// What all threads of a process know.
struct Shared {
    app: String,
    guarantee: Guarantee,
    plan: Arc<Plan>,
    /// Partitions, and so tasks, of each sub-topology.
    counts: Vec<u32>,
    /// The largest batch of records that the topics take, in bytes.
    largest_batch: usize,
    settings: RunSettings,
    instance: String,
    brokers: Box<dyn Brokers>,
    disk: Box<dyn Disk>,
    places: Places,
    /// The global tables, which the tasks read.
    globals: GlobalStates,
    /// One of each worker.
    heartbeats: Vec<Heartbeat>,
    status: Arc<Status>,
    metrics: Metrics,
    /// Committed offsets of repartition topics: records before them can be removed.
    consumed: Mutex<HashMap<TopicPartition, i64>>,
    repartitions: Vec<String>,
    in_doubt: Mutex<Vec<InDoubt>>,
}

impl Shared {
    fn transactional_id(&self, worker: usize) -> String {
        format!("{}-{}-{worker}", self.app, self.instance)
    }

    fn heartbeat(&self, worker: usize) {
        if let Some(heartbeat) = self.heartbeats.get(worker) {
            heartbeat.beat();
        }
    }

    /// A tenth of the memory is for records that wait in producers, a fifth for fetched ones, a fifth for staged writes; the
    /// state has the rest. Changelogs are fetched while there is little else to fetch.
    fn producer_bytes_per_worker(&self) -> usize {
        (self.settings.memory / 10 / self.settings.threads.max(1)).max(1 << 20)
    }

    /// Half of what is for fetched records: as much may wait in the client, and as much with the task.
    fn fetched_bytes_per_partition(&self) -> usize {
        let inputs = self.plan.sub_topologies.iter().zip(&self.counts);
        let partitions: usize = inputs.map(|(sub, count)| sub.inputs.len() * *count as usize).sum();
        (self.settings.memory / 10 / partitions.max(1)).clamp(64 << 10, 64 << 20)
    }

    fn tasks(&self) -> usize {
        self.counts.iter().map(|count| *count as usize).sum()
    }

    /// How many tasks are restored at once.
    fn restorers(&self) -> usize {
        self.tasks().clamp(1, RESTORERS)
    }

    /// As much again may be fetched, and sorting takes nearly as much: the share of fetched records.
    fn restored_bytes_per_restorer(&self) -> usize {
        (self.settings.memory / 16 / self.restorers()).clamp(2 << 20, 64 << 20)
    }

    fn staged_bytes_per_worker(&self) -> usize {
        self.settings.memory / 5 / self.settings.threads.max(1)
    }

    /// A producer may hold records back for a part of the time until the next commit, which flushes it.
    fn linger(&self) -> Duration {
        (self.settings.commit_every / 4).min(Duration::from_millis(20))
    }

    fn committed(&self, offsets: &[OffsetAndMetadata]) {
        if self.repartitions.is_empty() {
            return;
        }
        let mut consumed = self.consumed.lock().unwrap_or_else(PoisonError::into_inner);
        for committed in offsets
            .iter()
            .filter(|committed| self.repartitions.iter().any(|topic| **topic == *committed.partition.topic))
        {
            consumed.insert(committed.partition.clone(), committed.offset);
        }
    }

    /// A commit's answer was lost.
    fn in_doubt(&self, commit: InDoubt) {
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner).push(commit);
    }

    /// Counts what became of the commits in doubt, now that the last commits of the tasks are known.
    fn resolve(&self, committed: &[(TaskId, Option<CommitId>)]) {
        for commit in self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let outcome = commit.outcome(committed);
            tracing::info!(outcome = outcome.name(), "a commit had got no answer");
            self.metrics.resolved(outcome);
        }
    }

    /// Whether a topic is the one that had this id, as far as that is known.
    fn check_id(&self, topic: &str, id: &str) -> Result<(), Trouble> {
        let found = self.brokers.topic_id(topic);
        if id.is_empty() || found.is_empty() || found == id {
            return Ok(());
        }
        Err(RuntimeError::Topics(TopicError::MadeAnew { topics: vec![topic.to_owned()] }).into())
    }

    /// The name of a task's sub-topology.
    fn sub_name(&self, id: TaskId) -> &str {
        self.plan.sub_topologies.get(id.sub).map_or("", |sub| &sub.name)
    }
}

/// Whether the process was asked to end.
pub type Shutdown<'a> = &'a (dyn Fn() -> bool + Sync);

/// Runs an application until `shutdown` says so, then commits and leaves the group.
///
/// # Errors
/// What ends the run although nobody asked for it. Whatever was processed before is committed.
pub fn run(
    topology: &Topology,
    plan: Arc<Plan>,
    settings: RunSettings,
    create_topics: bool,
    shutdown: Shutdown<'_>,
) -> Result<(), Box<RuntimeError>> {
    let (brokers, security) = (settings.brokers.to_string(), settings.security.clone());
    start(topology, plan.clone(), settings, create_topics, shutdown)
        .map_err(|error| with_permission(error, &plan, create_topics, &brokers, &security))
}

/// Where a permission is missing the error names it, and what gives it.
fn with_permission(
    error: Box<RuntimeError>,
    plan: &Plan,
    creates: bool,
    brokers: &str,
    security: &Security,
) -> Box<RuntimeError> {
    match *error {
        RuntimeError::Kafka { action, error } if error.is_authorization() => {
            let permission = permissions::missing(&action, &error, plan, creates, brokers, security);
            RuntimeError::Forbidden { action, error, permission }.into()
        }
        _ => error,
    }
}

fn start(
    topology: &Topology,
    plan: Arc<Plan>,
    settings: RunSettings,
    create_topics: bool,
    shutdown: Shutdown<'_>,
) -> Result<(), Box<RuntimeError>> {
    if let Some(sub) = plan.sub_topologies.iter().find(|sub| !CommitMetadata::fits(sub)) {
        return Err(RuntimeError::TooManySteps(sub.name.clone()).into());
    }
    let directory =
        StateDirectory::open(&settings.state_dir, &topology.app.id).map_err(RuntimeError::from)?;
    let instance = instance::instance(directory.path(), settings.instance.as_deref(), settings.threads)?;
    let status = Arc::new(Status::new(&topology.app.id, &instance.name));
    let metrics = Metrics::new(&topology.app.id, &instance.name).map_err(RuntimeError::from)?;
    metrics.memory_limit(settings.memory);
    let pending = status.pending("the brokers and the topics");
    let server =
        Server::start(&settings.listen, status.clone(), metrics.clone()).map_err(RuntimeError::from)?;
    tracing::info!(app = topology.app.id, instance = instance.name, http = %server.address(), "starting");
    let client = settings.client(&format!("{}-{}-admin", topology.app.id, instance.name));
    let admin =
        Arc::new(Admin::new(&client, topics::ANSWER).map_err(|error| RuntimeError::Kafka {
            action: "make a client of the cluster".to_owned(),
            error,
        })?);
    let topics = Topics::new(admin.clone());
    let reached = || {
        let answer = admin.check(&topology.app.id);
        answer.map_err(|error| Trouble::kafka(format!("work with the brokers {}", settings.brokers), error))
    };
    if patiently(shutdown, reached)?.is_none() {
        return Ok(());
    }
    let prepared = || {
        let prepared = topics.prepare(&plan, &settings.topics, create_topics);
        if let Err(Trouble::Again(_)) = prepared {
            topics.renew(&client)?;
        }
        prepared
    };
    let Some(counts) = patiently(shutdown, prepared)? else { return Ok(()) };
    let largest_batch = topics.largest_batch(&plan, &counts, &settings.topics, shutdown);
    let shared = Arc::new(Shared {
        app: topology.app.id.clone(),
        guarantee: topology.app.guarantee,
        repartitions: repartition_topics(&plan),
        globals: GlobalStates::new(&plan),
        plan,
        counts,
        largest_batch,
        brokers: Box::new(Kafka::new(client, format!("{}-{}", topology.app.id, instance.name), topics)),
        instance: instance.name,
        disk: Box::new(LocalDisk::new(directory, settings.memory / 2)),
        places: Places::default(),
        heartbeats: (0..settings.threads)
            .map(|number| status.watch(&format!("worker-{number}"), settings.max_poll_interval))
            .collect(),
        status,
        metrics,
        consumed: Mutex::default(),
        in_doubt: Mutex::default(),
        settings,
    });
    let former = shared.settings.threads..instance.workers_before;
    if patiently(shutdown, || worker::end_transactions(&shared, former.clone(), shutdown))?.is_none() {
        return Ok(());
    }
    sessions(&shared, pending, shutdown)
}

fn repartition_topics(plan: &Plan) -> Vec<String> {
    let inputs = plan.sub_topologies.iter().flat_map(|sub| &sub.inputs);
    let repartitions = inputs.filter(|input| matches!(input.origin, Origin::Repartition { .. }));
    repartitions.map(|input| input.topic.clone()).collect()
}

/// What keeps an application from running on the topics of its cluster, and what it would warn of. Nothing is changed.
///
/// # Errors
/// If the brokers cannot be asked.
pub fn check_topics(
    topology: &Topology,
    plan: &Plan,
    settings: &RunSettings,
) -> Result<Vec<TopicFinding>, Box<RuntimeError>> {
    let asked = || {
        let action = || format!("work with the brokers {}", settings.brokers);
        let trouble = |error| Trouble::kafka(action(), error);
        let client = settings.client(&format!("{}-check", topology.app.id));
        let admin = Admin::new(&client, topics::ANSWER).map_err(trouble)?;
        admin.check(&topology.app.id).map_err(trouble)?;
        Topics::new(Arc::new(admin)).examine(plan, &settings.topics)
    };
    asked().map_err(|trouble| match trouble {
        Trouble::Failed(error) => {
            with_permission(error, plan, false, &settings.brokers.to_string(), &settings.security)
        }
        Trouble::Again(why) => RuntimeError::Unanswered(why).into(),
    })
}

/// Sessions, one after the other, until one ends for good.
fn sessions(
    shared: &Arc<Shared>,
    mut pending: Pending,
    shutdown: Shutdown<'_>,
) -> Result<(), Box<RuntimeError>> {
    let mut pause = Duration::ZERO;
    loop {
        let start = clock::instant();
        // Nobody is ready between what was waited for before and this.
        let joining = shared.status.pending("its place in the consumer group");
        drop(pending);
        match member::session(shared, joining, shutdown) {
            Ok(()) => return Ok(()),
            Err(Trouble::Failed(error)) => return Err(error),
            Err(Trouble::Again(why)) => {
                // A session that has lived a while was not begun in vain.
                if clock::since(start) > Duration::from_secs(30) {
                    pause = Duration::ZERO;
                }
                pending = shared.status.pending("the next session");
                pause = (pause * 2).clamp(Duration::from_millis(250), LONGEST_PAUSE);
                tracing::warn!("{why}; everything is opened anew from what was committed, in {pause:?}");
                if let Err(Trouble::Failed(error)) = shared.brokers.renew() {
                    return Err(error);
                }
                if !sleep(pause, shutdown) {
                    return Ok(());
                }
                // What was deleted does not come back. That the brokers do not answer is the next session's business.
                let exist = shared.brokers.still_exist(&shared.plan, &shared.counts, &shared.settings.topics);
                if let Err(Trouble::Failed(error)) = exist
                    && !error.global_tables_were_made_anew()
                {
                    return Err(error);
                }
            }
        }
    }
}

/// Tries until it succeeds, fails for good, or the process is asked to end (`None`).
fn patiently<T>(
    shutdown: Shutdown<'_>,
    mut attempt: impl FnMut() -> Result<T, Trouble>,
) -> Result<Option<T>, Box<RuntimeError>> {
    let mut pause = Duration::from_millis(250);
    loop {
        match attempt() {
            Ok(value) => return Ok(Some(value)),
            Err(Trouble::Failed(error)) => return Err(error),
            Err(Trouble::Again(why)) => {
                tracing::warn!("{why}; trying again in {pause:?}");
                if !sleep(pause, shutdown) {
                    return Ok(None);
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Sleeps, unless the process is asked to end meanwhile: then `false`.
fn sleep(pause: Duration, shutdown: Shutdown<'_>) -> bool {
    let start = clock::instant();
    while clock::since(start) < pause {
        if shutdown() {
            return false;
        }
        threads::sleep(Duration::from_millis(50).min(pause));
    }
    !shutdown()
}

/// Set when nobody wants any more what is being begun.
type Cancelled = Arc<AtomicBool>;
