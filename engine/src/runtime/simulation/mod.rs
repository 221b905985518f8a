//! Processes of an application with simulated brokers, disks, threads and time: everything that happens is drawn from a seed.
//!
//! What runs is the runtime itself: members, workers, restorers and their protocol of commits. Simulated is what they wait for
//! ([`scheduler`]), Kafka ([`brokers`], and [`clients`] in the place of librdkafka), and the databases of tasks ([`disk`]).
//! Processes crash, stand still, are stopped and started, lose their disks; requests and answers are lost or arrive when nobody
//! waits for them any more; the group gives members up. Then all of that ends, and when everything is processed the
//! [`oracle`] says whether it is what an undisturbed run gives.
//!
//! `MILLSTREAM_SEEDS=FROM..TO` says which seeds are run; of a single one is told what happened.

mod brokers;
mod clients;
mod disk;
mod oracle;
mod scheduler;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::brokers::{Data, Network, Partition};
use self::clients::SimulatedKafka;
use self::disk::SimulatedDisk;
use self::scheduler::{EPOCH, Handle, Simulation};
use super::error::RuntimeError;
use super::places::Places;
use super::{GlobalStates, Shared, repartition_topics, sessions};
use crate::http::Status;
use crate::metrics::Metrics;
use crate::plan::{Plan, PlanOutput};
use crate::settings::{Flags, RunSettings};
use crate::testing::Random;
use crate::topology::{Guarantee, SinkTopic, Topology, read};

pub(super) use self::scheduler::{ThreadId, current};

const SOURCE: &str = r#"
    [app]
    id = "app"
    [sources.payments]
    topic = "payments"
    key   = { card = "string" }
    value = { amount = "int64" }
"#;

const TOPOLOGIES: [&str; 7] = [
    r#"
    [steps.large]
    op    = "filter"
    from  = "payments"
    where = "amount > 30"
    [steps.totals]
    op      = "aggregate"
    from    = "payments"
    columns = { payments = "count(*)", spend = "sum(amount)" }
    [sinks.large_payments]
    from  = "large"
    topic = "large"
    [sinks.totals_of_cards]
    from  = "totals"
    topic = "totals"
    "#,
    r#"
    [steps.minutes]
    op      = "aggregate"
    from    = "payments"
    window  = { tumbling = "2s" }
    columns = { payments = "count(*)", largest = "max(amount)" }
    [sinks.totals_of_minutes]
    from  = "minutes"
    topic = "minutes"
    "#,
    r#"
    [steps.recent]
    op   = "features"
    from = "payments"
    columns.payments_5s = { value = "count(*)", last = "5s" }
    columns.spend_5s    = { value = "sum(amount)", last = "5s" }
    [sinks.featured]
    from  = "recent"
    topic = "featured"
    "#,
    r#"
    [steps.buckets]
    op   = "select"
    from = "payments"
    columns = { bucket = "amount % 5", amount = "amount" }
    [steps.by_bucket]
    op   = "rekey"
    from = "buckets"
    key  = ["bucket"]
    [steps.totals]
    op      = "aggregate"
    from    = "by_bucket"
    columns = { payments = "count(*)", spend = "sum(amount)" }
    [sinks.totals_of_buckets]
    from  = "totals"
    topic = "totals"
    "#,
    r#"
    [sources.refunds]
    topic = "refunds"
    key   = { card = "string" }
    value = { amount = "int64" }
    [steps.moves]
    op   = "merge"
    from = ["payments", "refunds"]
    [steps.minutes]
    op      = "aggregate"
    from    = "moves"
    window  = { tumbling = "2s" }
    columns = { moves = "count(*)", largest = "max(amount)" }
    [sinks.all_moves]
    from  = "moves"
    topic = "moves"
    [sinks.totals_of_minutes]
    from  = "minutes"
    topic = "minutes"
    "#,
    r#"
    [sources.refunds]
    topic = "refunds"
    key   = { card = "string" }
    value = { amount = "int64" }
    [tables.limits]
    topic   = "limits"
    key     = { card = "string" }
    value   = { amount = "int64" }
    history = "3s"
    [steps.limited]
    op      = "join"
    from    = { node = "payments", as = "p" }
    with    = { node = "limits", as = "l" }
    kind    = "left"
    grace   = "500ms"
    columns = { amount = "p.amount", allowed = "l.amount" }
    [steps.refunded]
    op      = "join"
    from    = { node = "limited", as = "p" }
    with    = { node = "refunds", as = "r" }
    kind    = "outer"
    within  = "1s"
    grace   = "500ms"
    columns = { amount = "p.amount", allowed = "p.allowed", refund = "r.amount" }
    [steps.last_refunds]
    op   = "to-table"
    from = "refunds"
    [steps.few]
    op    = "filter"
    from  = "last_refunds"
    where = "amount < 50"
    [steps.cards]
    op      = "join"
    from    = { node = "limits", as = "l" }
    with    = { node = "few", as = "r" }
    kind    = "outer"
    columns = { allowed = "l.amount", refund = "r.amount" }
    [sinks.refunded_payments]
    from  = "refunded"
    topic = "refunded"
    [sinks.all_cards]
    from  = "cards"
    topic = "cards"
    "#,
    r#"
    [tables.limits]
    topic = "limits"
    key   = { card = "string" }
    value = { amount = "int64" }
    [tables.owners]
    topic = "owners"
    key   = { owner = "string" }
    value = { amount = "int64" }
    [steps.named]
    op      = "select"
    from    = "limits"
    columns = { amount = "amount", owner = "concat('card-', cast(amount % 5 as string))" }
    [steps.owned]
    op          = "join"
    from        = { node = "named", as = "l" }
    with        = { node = "owners", as = "o" }
    kind        = "left"
    foreign-key = "l.owner"
    columns     = { allowed = "l.amount", owned = "o.amount" }
    [sinks.owned_limits]
    from  = "owned"
    topic = "owned"
    [sinks.all_payments]
    from  = "payments"
    topic = "all"
    "#,
];

/// The first topology with several sources.
const MERGED: usize = 4;

const PARTITIONS: u32 = 2;

/// The topic in which tasks with several inputs say in which order they take their records.
pub(super) const ORDER: &str = "order";

/// How much time a run has for what is left when all disturbances are over.
const RECOVERY: Duration = Duration::from_secs(300);

/// Longer than any request is on its way.
const LATE: Duration = Duration::from_secs(30);

/// What every process of a run is made of.
struct Application {
    topology: Topology,
    plan: Arc<Plan>,
    counts: Vec<u32>,
}

impl Application {
    fn new(steps: &str, guarantee: Guarantee) -> Self {
        let (topology, findings) = read(&format!("{SOURCE}{steps}"), Path::new("."), &|_| None);
        let mut topology = topology.unwrap_or_else(|| panic!("{findings:?}"));
        topology.app.guarantee = guarantee;
        let plan = Arc::new(Plan::new(&topology).unwrap());
        let counts = plan.partitions(|_| PARTITIONS).unwrap();
        Application { topology, plan, counts }
    }

    fn topics(&self) -> Vec<(String, u32)> {
        let mut topics = vec![(ORDER.to_owned(), 1)];
        for (sub, count) in self.plan.sub_topologies.iter().zip(&self.counts) {
            topics.extend(sub.inputs.iter().map(|input| (input.topic.clone(), *count)));
            topics.extend(sub.stores.iter().map(|store| (store.changelog.to_string(), *count)));
            for output in &sub.outputs {
                if let PlanOutput::Sink { sink, .. } = output
                    && let SinkTopic::Fixed(topic) = &sink.topic
                {
                    topics.push((topic.clone(), PARTITIONS));
                }
            }
        }
        topics
    }

    /// What the threads of a process know.
    fn shared(&self, handle: &Handle, run: &Run) -> Arc<Shared> {
        let instance = format!("{}", handle.process);
        let flags = Flags { brokers: Some("simulated:9092".to_owned()), runtime: Vec::new() };
        let mut settings = RunSettings::resolve(&self.topology, &flags, &|_| None).unwrap();
        settings.threads = run.threads;
        settings.commit_every = run.commit_every;
        settings.max_batch_rows = run.max_batch_rows;
        settings.memory = 64 << 20;
        settings.transaction_timeout = run.transaction_timeout;
        let status = Arc::new(Status::new("app", &instance));
        Arc::new(Shared {
            app: "app".to_owned(),
            guarantee: self.topology.app.guarantee,
            plan: self.plan.clone(),
            counts: self.counts.clone(),
            largest_batch: 1_000_000,
            heartbeats: (0..settings.threads)
                .map(|number| status.watch(&format!("worker-{number}"), settings.max_poll_interval))
                .collect(),
            settings,
            metrics: Metrics::new("app", &instance).unwrap(),
            instance,
            brokers: Box::new(SimulatedKafka),
            disk: Box::new(SimulatedDisk::of(handle, run.state_memory)),
            places: Places::default(),
            globals: GlobalStates::new(&self.plan),
            status,
            consumed: Mutex::default(),
            repartitions: repartition_topics(&self.plan),
            in_doubt: Mutex::default(),
        })
    }
}

/// What is drawn once for a run.
#[derive(Clone, Copy, Debug)]
struct Run {
    seed: u64,
    topology: usize,
    processes: usize,
    threads: usize,
    commit_every: Duration,
    transaction_timeout: Duration,
    max_batch_rows: usize,
    /// For caches and writing behind.
    state_memory: usize,
    /// Whether the oracle has to notice changes.
    test_oracle: bool,
}

impl Run {
    fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Run {
            seed,
            topology: random.below(TOPOLOGIES.len() as u64) as usize,
            processes: 1 + random.below(3) as usize,
            threads: 1 + random.below(2) as usize,
            commit_every: random.millis(20, 300),
            transaction_timeout: Duration::from_secs([3, 10][random.below(2) as usize]),
            max_batch_rows: [1, 3, 1024][random.below(3) as usize],
            state_memory: [1024, 64 << 20][random.below(2) as usize],
            test_oracle: false,
        }
    }

    /// Runs it, and says what was wrong.
    fn go(
        self,
        applications: &[Arc<Application>],
        broken: Option<Break>,
        traced: bool,
    ) -> Result<Summary, String> {
        let application = applications[self.topology % applications.len()].clone();
        Simulation::run(self.seed, broken, traced, self.processes, move |handle| {
            let observer = Observer {
                handle: handle.clone(),
                run: self,
                application,
                random: Random::new(self.seed ^ 0xdead_beef),
                ends: Arc::default(),
                fed: 0,
            };
            let outcome = observer.observe();
            if let Some(trace) = handle.state().trace.take() {
                eprintln!("{self:?}\n{}", trace.join("\n"));
            }
            outcome
        })
    }
}

/// What a run saw.
#[derive(Clone, Copy, Debug, Default)]
struct Summary {
    fingerprint: u64,
    /// Processes that were started.
    starts: u64,
    /// Transactions.
    committed: u64,
    aborted: u64,
}

impl Summary {
    fn add(&mut self, other: Summary) {
        self.starts += other.starts;
        self.committed += other.committed;
        self.aborted += other.aborted;
    }
}

/// Starts, feeds and disturbs the processes.
struct Observer {
    handle: Handle,
    run: Run,
    application: Arc<Application>,
    random: Random,
    /// How processes have ended that nobody had asked to.
    ends: Arc<Mutex<Vec<String>>>,
    fed: i64,
}

impl Observer {
    fn observe(mut self) -> Result<Summary, String> {
        let network = self.drawn_network();
        let crashes = self.random.below(4);
        {
            let mut state = self.handle.state();
            for (topic, partitions) in self.application.topics() {
                state.world.create_topic(&topic, partitions);
            }
            state.world.network = network;
            state.spontaneous_crashes = crashes;
        }
        for _ in 0..10 + self.random.below(20) {
            self.disturb();
            self.start_those_that_are_gone(false);
            let pause = self.random.millis(0, 800);
            self.handle.sleep(pause);
        }
        {
            let mut state = self.handle.state();
            state.world.network = Network::default();
            state.spontaneous_crashes = 0;
            state.processes.iter_mut().for_each(|process| process.paused_until = Duration::ZERO);
            state.trace(|| "the disturbances are over".to_owned());
        }
        self.await_the_end()?;
        self.end_all()?;
        let mut state = self.handle.state();
        let processes = 0..=self.run.processes;
        let mut disks: Vec<_> = processes.map(|process| state.disks.content(process)).collect();
        let Application { plan, counts, .. } = &*self.application;
        match self.application.topology.app.guarantee {
            Guarantee::ExactlyOnce => oracle::check(&state.world, plan, counts, &disks)?,
            Guarantee::AtLeastOnce => oracle::check_at_least_once(&state.world, plan, counts)?,
        }
        let unnoticed = if self.run.test_oracle {
            oracle::unnoticed(&mut state.world, plan, counts, &mut disks, &mut self.random)
        } else {
            Vec::new()
        };
        if !unnoticed.is_empty() {
            return Err(format!("not noticed: {}", unnoticed.join("; ")));
        }
        let ends = self.ends.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(end) = ends.first() {
            return Err(end.clone());
        }
        Ok(Summary {
            fingerprint: state.fingerprint,
            starts: state.processes.iter().map(|process| process.life).sum(),
            committed: state.world.committed,
            aborted: state.world.aborted,
        })
    }

    fn drawn_network(&mut self) -> Network {
        match self.random.below(4) {
            0 => Network::default(),
            1 => Network { lost: 10, delayed: 10 },
            2 => Network { lost: 0, delayed: 60 },
            _ => Network { lost: 50, delayed: 50 },
        }
    }

    fn feed(&mut self) {
        for _ in 0..1 + self.random.below(6) {
            let card = format!("card-{}", self.random.below(5));
            let amount = self.random.below(100);
            self.fed += 1;
            let late = self.random.below(3000) as i64;
            let timestamp = EPOCH + self.fed * 200 - late;
            let partition = crate::partitioner::partition(card.as_bytes(), PARTITIONS) as i32;
            let data = Data {
                key: Some(card.into_bytes()),
                value: Some(format!("{{\"amount\":{amount}}}").into_bytes()),
                timestamp,
                headers: Vec::new(),
            };
            let sources = &self.application.topology.sources;
            let source = self.random.below(sources.len() as u64) as usize;
            let topic = sources[source].topic.clone();
            self.handle.state().world.write(&(topic, partition), data);
        }
    }

    fn disturb(&mut self) {
        let process = 1 + self.random.below(self.run.processes as u64) as usize;
        let drawn = self.random.below(16);
        let pause = self.random.millis(100, 15_000);
        let network = self.drawn_network();
        let mut state = self.handle.state();
        match drawn {
            0..7 => {
                drop(state);
                self.feed();
            }
            7 | 8 => state.crash(process),
            9 => {
                state.trace(|| format!("process {process} stands still for {pause:?}"));
                let until = state.now + pause;
                state.processes[process].paused_until = until;
                state.watch_session(process);
            }
            10 => {
                state.trace(|| format!("process {process} is asked to end"));
                state.processes[process].shutdown = true;
            }
            11 => state.world.compact(),
            12 => {
                state.trace(|| format!("{network:?}"));
                state.world.network = network;
            }
            13 => {
                for member in state.members_of(process) {
                    state.leave_group(&member);
                }
            }
            14 => state.processes[process].clock_off += (pause.as_secs() as i64 - 7) * 86_400_000,
            _ => {
                state.crash(process);
                state.disks.lose(process);
            }
        }
    }

    fn start_those_that_are_gone(&mut self, all: bool) {
        for process in 1..=self.run.processes {
            let gone = self.handle.state().is_gone(process);
            if gone && (all || self.random.chance(1, 2)) {
                self.start(process);
            }
        }
    }

    fn start(&self, process: usize) {
        {
            let mut state = self.handle.state();
            let started = &mut state.processes[process];
            started.crashed = false;
            started.shutdown = false;
            started.paused_until = Duration::ZERO;
            started.life += 1;
            state.trace(|| format!("process {process} starts"));
        }
        let (application, run, ends) = (self.application.clone(), self.run, self.ends.clone());
        let body = move || {
            let Some(handle) = current() else { return };
            let shared = application.shared(&handle, &run);
            let pending = shared.status.pending("nothing");
            let asked = handle.clone();
            let shutdown = move || asked.state().processes[asked.process].shutdown;
            if let Err(error) = sessions(&shared, pending, &shutdown) {
                handle.state().trace(|| format!("process {process} ends: {error}"));
                // A request of an earlier life that comes late fences its successor, as another process would; the brokers'
                // time-out does not.
                let taken_over = matches!(&*error, RuntimeError::Fenced { id, .. } if !handle.state().world.has_timed_out(id));
                if !taken_over {
                    ends.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(error.to_string());
                }
            }
        };
        self.handle.start_in(process, format!("process-{process}"), body).unwrap();
    }

    fn is_done(&self) -> bool {
        let state = self.handle.state();
        let plan = &self.application.plan;
        let inputs = plan.sub_topologies.iter().zip(&self.application.counts).flat_map(|(sub, count)| {
            let partitions = 0..*count as i32;
            sub.inputs.iter().flat_map(move |input| {
                partitions.clone().map(|partition| -> Partition { (input.topic.clone(), partition) })
            })
        });
        state.world.no_transaction_is_open()
            && inputs.into_iter().all(|input| {
                let last = state.world.log(&input).and_then(|log| log.all_committed().last());
                let committed = state.world.offsets.get(&input).map_or(0, |(offset, _)| *offset);
                last.is_none_or(|(offset, _)| committed > offset)
            })
    }

    fn await_the_end(&mut self) -> Result<(), String> {
        let deadline = self.handle.state().now + RECOVERY;
        while !self.is_done() {
            self.start_those_that_are_gone(true);
            if self.handle.state().now > deadline {
                return Err("it does not get to the end".to_owned());
            }
            self.handle.sleep(Duration::from_millis(250));
        }
        Ok(())
    }

    fn end_all(&self) -> Result<(), String> {
        let deadline = self.handle.state().now + RECOVERY;
        self.handle.state().processes.iter_mut().for_each(|process| process.shutdown = true);
        while !(1..=self.run.processes).all(|process| self.handle.state().is_gone(process)) {
            if self.handle.state().now > deadline {
                return Err("a process does not end".to_owned());
            }
            self.handle.sleep(Duration::from_millis(100));
        }
        // A request that comes now may open the transaction of a producer that is gone: the brokers' time-out ends it.
        self.handle.sleep(LATE);
        while !self.handle.state().world.no_transaction_is_open() {
            if self.handle.state().now > deadline {
                return Err("a transaction does not end".to_owned());
            }
            self.handle.sleep(Duration::from_secs(1));
        }
        Ok(())
    }
}

/// Mistakes that a commit protocol can make, to see that they are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// The stores get what was staged before the transaction has ended.
    PromoteBeforeCommit,
    /// The fence is what the client holds when it commits, not what the assignment came with.
    MetadataAtCommit,
    /// A restore does not wait for the transactions that were open.
    RestoreToStableEnd,
    /// A commit without an answer is taken for one that succeeded if the committed offsets have moved.
    OffsetsMoved,
    /// A producer goes on although a request of it got no answer.
    ReuseSpentProducer,
}

/// Whether this mistake is to be made.
pub(super) fn broken(what: Break) -> bool {
    current().is_some_and(|simulated| simulated.state().broken == Some(what))
}

fn applications(guarantee: Guarantee) -> Vec<Arc<Application>> {
    // Records that are processed again may be merged in another order, in which others are late.
    let count = if guarantee == Guarantee::AtLeastOnce { MERGED } else { TOPOLOGIES.len() };
    let new = |steps: &&str| Arc::new(Application::new(steps, guarantee));
    TOPOLOGIES.iter().take(count).map(new).collect()
}

fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("MILLSTREAM_SEEDS") else { return default };
    let (from, to) = text.split_once("..").unwrap_or((&text, ""));
    let from: u64 = from.parse().expect("MILLSTREAM_SEEDS is FROM..TO");
    let to = if to.is_empty() { from + 1 } else { to.parse().expect("MILLSTREAM_SEEDS is FROM..TO") };
    from..to
}

/// Runs seeds, as many at once as there are cores, until `stop` says so. Gives those that failed, and what the others saw.
fn run_all(
    seeds: std::ops::Range<u64>,
    guarantee: Guarantee,
    broken: Option<Break>,
    stop: impl Fn(&[String]) -> bool + Sync,
) -> (Vec<String>, Summary) {
    let applications = applications(guarantee);
    let traced = seeds.end - seeds.start == 1;
    let next = AtomicU64::new(seeds.start);
    let failed: Mutex<Vec<String>> = Mutex::default();
    let totals: Mutex<Summary> = Mutex::default();
    let work = || {
        while !stop(&failed.lock().unwrap()) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let went = catch_unwind(AssertUnwindSafe(|| Run::of(seed).go(&applications, broken, traced)));
            let went = went.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                Err(text.unwrap_or_else(|| "a panic".to_owned()))
            });
            match went {
                Ok(summary) => totals.lock().unwrap().add(summary),
                Err(what) => failed.lock().unwrap().push(format!("seed {seed}: {what}")),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    (failed.into_inner().unwrap(), totals.into_inner().unwrap())
}

#[test]
fn committed_results_are_those_of_an_undisturbed_run() {
    succeed(Guarantee::ExactlyOnce, 0..2000, "committed_results");
}

#[test]
fn nothing_is_lost_at_least_once() {
    succeed(Guarantee::AtLeastOnce, 0..500, "nothing_is_lost");
}

fn succeed(guarantee: Guarantee, default: std::ops::Range<u64>, test: &str) {
    let seeds = seeds(default);
    let count = seeds.end - seeds.start;
    let (mut failed, seen) = run_all(seeds, guarantee, None, |_| false);
    failed.sort();
    let Summary { starts, committed, aborted, .. } = seen;
    println!(
        "{count} seeds, {starts} processes, {committed} transactions committed, {aborted} aborted: {} failed",
        failed.len()
    );
    assert!(
        failed.is_empty(),
        "{} seeds failed:\n{}\nto see one again: MILLSTREAM_SEEDS=SEED cargo test --workspace --lib simulation::{test}",
        failed.len(),
        failed[..failed.len().min(20)].join("\n")
    );
}

fn is_found(broken: Break) {
    let (failed, _) = run_all(0..1000, Guarantee::ExactlyOnce, Some(broken), |failed| !failed.is_empty());
    println!("{broken:?}: {failed:?}");
    assert!(!failed.is_empty(), "{broken:?} is not found within 1000 seeds");
}

#[test]
fn it_is_found_when_stores_get_what_is_not_committed() {
    is_found(Break::PromoteBeforeCommit);
}

#[test]
fn it_is_found_when_the_fence_is_taken_at_the_commit() {
    is_found(Break::MetadataAtCommit);
}

#[test]
fn it_is_found_when_a_restore_does_not_wait_for_open_transactions() {
    is_found(Break::RestoreToStableEnd);
}

#[test]
fn it_is_found_when_moved_offsets_are_taken_for_a_commit() {
    is_found(Break::OffsetsMoved);
}

#[test]
fn it_is_found_when_a_spent_producer_goes_on() {
    is_found(Break::ReuseSpentProducer);
}

#[test]
fn every_lost_doubled_swapped_or_altered_record_or_entry_is_found() {
    let applications = applications(Guarantee::ExactlyOnce);
    for seed in 0..60 {
        let outcome = Run { test_oracle: true, ..Run::of(seed) }.go(&applications, None, false);
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
    }
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    let applications = applications(Guarantee::ExactlyOnce);
    for seed in 0..20 {
        let run = || Run::of(seed).go(&applications, None, false).unwrap().fingerprint;
        assert_eq!(run(), run(), "seed {seed}");
    }
}
