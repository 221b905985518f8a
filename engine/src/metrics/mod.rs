//! Every metric of the engine: its name, its labels and what it says, and the handles that count.
//!
//! Names follow Prometheus: `millstream_<what>_<unit>`, with `_total` for what only grows; units are seconds, bytes, records and
//! rows. Handles are made when something begins, a task or a worker, and hold the series they count in: counting is an addition
//! for each batch, without a lock and without a look-up. The series of a task end with its handle, so that a partition that
//! another process has taken over is not seen here any more; what counts rows of nodes goes on for all tasks of a process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream_operators::operator::DropReason;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::plan::{PREDICT, PlanOutput, SubTopology};
use crate::task::{Epoch, NodeCounters, Rank, RecordError, Updated};
use crate::topology::OnError;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often which values were seen: `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl MetricKind {
    /// As Prometheus calls it.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

/// A metric as it is documented.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// The name.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// Its labels, besides `app`, which all have.
    pub labels: &'static [&'static str],
    /// What it says, in a sentence.
    pub help: &'static str,
}

/// Declares the metrics: field, kind, name, labels and help.
macro_rules! metrics {
    ($($field:ident: $family:ident, $name:literal, [$($label:literal),*], $help:literal $(, $buckets:expr)?;)*) => {
        /// Every metric, grouped by what it is about.
        pub const DEFINITIONS: &[Definition] = &[$(Definition {
            name: $name,
            kind: metrics!(@kind $family),
            labels: &[$($label),*],
            help: $help,
        },)*];

        struct Families {
            $($field: $family,)*
        }

        impl Families {
            fn register(app: &str, registry: &Registry) -> Result<Self, prometheus::Error> {
                $(
                    let opts = metrics!(@opts $family, $name, $help $(, $buckets)?).const_label("app", app);
                    let $field = $family::new(opts, &[$($label),*])?;
                    registry.register(Box::new($field.clone()))?;
                )*
                Ok(Families { $($field,)* })
            }
        }
    };
    (@kind IntCounterVec) => { MetricKind::Counter };
    (@kind GaugeVec) => { MetricKind::Gauge };
    (@kind IntGaugeVec) => { MetricKind::Gauge };
    (@kind HistogramVec) => { MetricKind::Histogram };
    (@opts HistogramVec, $name:literal, $help:literal, $buckets:expr) => {
        HistogramOpts::new($name, $help).buckets($buckets.to_vec())
    };
    (@opts $family:ident, $name:literal, $help:literal) => { Opts::new($name, $help) };
}

/// Seconds of what takes a network's round trips.
const COMMIT_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds of what takes a processor.
const MODEL_SECONDS: &[f64] =
    &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
const RESTORE_SECONDS: &[f64] = &[0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];
const BATCH_ROWS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];

metrics! {
    // Nodes: the rows of all tasks of the process.
    node_in: IntCounterVec, "millstream_node_in_rows_total", ["sub_topology", "node"],
        "Rows that went into a step.";
    node_out: IntCounterVec, "millstream_node_out_rows_total", ["sub_topology", "node"],
        "Rows that came out of a step, all its outputs together.";
    node_dropped: IntCounterVec, "millstream_node_dropped_rows_total", ["sub_topology", "node", "reason"],
        "Rows that a step dropped, or counted as late: `null-key`, `null-value`, `late`, `duplicate`.";
    node_errors: IntCounterVec, "millstream_node_error_records_total", ["node", "code", "outcome"],
        "Records that failed in a source, step or sink, by the code that `millstream explain` knows; the outcome is `fail`, `skip` or `dead-letter`.";
    written_records: IntCounterVec, "millstream_written_records_total", ["sub_topology", "kind", "node"],
        "Records given to the producer: the kind is `sink`, `repartition`, `changelog` or `dead-letter`, the node its sink, step or store (dead letters have none).";
    written_bytes: IntCounterVec, "millstream_written_bytes_total", ["sub_topology", "kind", "node"],
        "Bytes of keys and values of those records.";
    model_seconds: HistogramVec, "millstream_model_latency_seconds", ["sub_topology", "node"],
        "How long a `predict` step took for a batch.", MODEL_SECONDS;
    model_rows: HistogramVec, "millstream_model_batch_rows", ["sub_topology", "node"],
        "How many rows a `predict` step had in a batch.", BATCH_ROWS;

    // Tasks: each ends with its task.
    task_records: IntCounterVec, "millstream_task_processed_records_total", ["sub_topology", "partition"],
        "Input records that a task has processed.";
    task_epochs: IntCounterVec, "millstream_task_epochs_total", ["sub_topology", "partition"],
        "Batches in which a task has processed them.";
    task_lag: IntGaugeVec, "millstream_task_input_lag_records", ["sub_topology", "partition", "topic"],
        "Records of an input partition that wait to be processed, as of the last commit.";
    task_stream_time: GaugeVec, "millstream_task_stream_time_seconds", ["sub_topology", "partition"],
        "The largest event time that a task has seen, in seconds since 1970.";
    tasks: IntGaugeVec, "millstream_tasks", ["state"],
        "Tasks that this process owns: the state is `restoring` or `running`.";

    // Commits.
    commits: IntCounterVec, "millstream_commits_total", [],
        "Commits that succeeded, of all workers.";
    commit_seconds: HistogramVec, "millstream_commit_duration_seconds", [],
        "How long a commit took, from the end of the last batch to the state on disk.", COMMIT_SECONDS;
    aborts: IntCounterVec, "millstream_transactions_aborted_total", ["reason"],
        "Transactions that were given up; their records are read again. Reasons: `rebalance`, `assignment-lost`, `produce-error`, `fenced`, `timeout`, `failed-record`, `other`.";
    unknown_outcomes: IntCounterVec, "millstream_transactions_unknown_total", ["outcome"],
        "Commits whose answer was lost, by what the committed offsets said afterwards: `committed`, `aborted`, or `unresolved` where other processes have the tasks or have committed since.";
    producers_replaced: IntCounterVec, "millstream_producers_replaced_total", [],
        "Producers that were given up after a doubtful request, as a late answer to it could end a later transaction.";

    // Restore.
    restored_records: IntCounterVec, "millstream_restored_records_total", [],
        "Changelog records that were read into stores.";
    restored_bytes: IntCounterVec, "millstream_restored_bytes_total", [],
        "Bytes of keys and values of those records.";
    restore_remaining: IntGaugeVec, "millstream_restore_remaining_records", ["sub_topology", "partition"],
        "Offsets that a task's restore still has to pass; gone once it is restored.";
    restore_seconds: HistogramVec, "millstream_restore_duration_seconds", [],
        "How long a task's restore took.", RESTORE_SECONDS;

    // Global tables.
    global_records: IntCounterVec, "millstream_global_table_records_total", ["table"],
        "Records of a global table's topic that this process has read.";
    global_lag: IntGaugeVec, "millstream_global_table_lag_records", ["table"],
        "Offsets of a global table's topic that this process still has to pass, as of some seconds ago.";

    // The cluster.
    produce_errors: IntCounterVec, "millstream_produce_errors_total", ["error"],
        "Records that the brokers did not take, by the client library's name of the error. Each ends its transaction.";
    client_errors: IntCounterVec, "millstream_client_errors_total", ["client", "error"],
        "Errors that a client reported and went on from, such as a broker that is away: the client is `consumer`, `producer`, `restore` or `admin`.";
    rebalances: IntCounterVec, "millstream_rebalances_total", ["kind"],
        "Changes of this process' partitions: `assigned`, `revoked`, or `lost` when the group had given it up.";

    // The process.
    memory: IntGaugeVec, "millstream_memory_bytes", ["owner"],
        "Memory by what holds it: `staged` writes, `state-cache`, `block-cache`, `write-buffers`, `input-queues`, `producer-buffers`, `restores`.";
    memory_limit: IntGaugeVec, "millstream_memory_limit_bytes", [],
        "The budget: `runtime.memory`.";
    resident: IntGaugeVec, "millstream_resident_memory_bytes", [],
        "The memory of the process as the operating system counts it (Linux).";
    watchdog: IntCounterVec, "millstream_watchdog_trips_total", ["loop"],
        "Times a loop made no progress for longer than it may.";
    build: IntGaugeVec, "millstream_build_info", ["version", "process"],
        "1, with the version of Millstream and the name of the process (`runtime.instance`).";
}

/// Why a transaction was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// Partitions were revoked before it could be committed.
    Rebalance,
    /// The group has given this process up.
    AssignmentLost,
    /// A record could not be produced.
    ProduceError,
    /// Another producer has the transactional id.
    Fenced,
    /// The brokers ended it, or did not answer in time.
    Timeout,
    /// A record failed that must stop the process.
    FailedRecord,
    /// Anything else.
    Other,
}

impl AbortReason {
    const ALL: [AbortReason; 7] = [
        AbortReason::Rebalance,
        AbortReason::AssignmentLost,
        AbortReason::ProduceError,
        AbortReason::Fenced,
        AbortReason::Timeout,
        AbortReason::FailedRecord,
        AbortReason::Other,
    ];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            AbortReason::Rebalance => "rebalance",
            AbortReason::AssignmentLost => "assignment-lost",
            AbortReason::ProduceError => "produce-error",
            AbortReason::Fenced => "fenced",
            AbortReason::Timeout => "timeout",
            AbortReason::FailedRecord => "failed-record",
            AbortReason::Other => "other",
        }
    }
}

/// What the committed offsets said about a commit whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It had succeeded.
    Committed,
    /// It had not.
    Aborted,
    /// Neither can be said.
    Unresolved,
}

impl Outcome {
    const ALL: [Outcome; 3] = [Outcome::Committed, Outcome::Aborted, Outcome::Unresolved];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Committed => "committed",
            Outcome::Aborted => "aborted",
            Outcome::Unresolved => "unresolved",
        }
    }
}

/// How the partitions of a process changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebalance {
    /// It got some.
    Assigned,
    /// It gave some back.
    Revoked,
    /// The group took them from it.
    Lost,
}

impl Rebalance {
    const ALL: [Rebalance; 3] = [Rebalance::Assigned, Rebalance::Revoked, Rebalance::Lost];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Rebalance::Assigned => "assigned",
            Rebalance::Revoked => "revoked",
            Rebalance::Lost => "lost",
        }
    }
}

/// Which client of the process reports an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The member of the group.
    Consumer,
    /// A worker's producer.
    Producer,
    /// The reader of changelogs.
    Restore,
    /// What makes and checks topics.
    Admin,
}

impl Client {
    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Client::Consumer => "consumer",
            Client::Producer => "producer",
            Client::Restore => "restore",
            Client::Admin => "admin",
        }
    }
}

/// What holds memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Writes of stores that are not committed.
    Staged,
    /// Rows of stores that were read or committed lately.
    StateCache,
    /// Blocks of stores that were read from disk.
    BlockCache,
    /// Writes of stores that are not on disk.
    WriteBuffers,
    /// Records that were fetched and not processed.
    InputQueues,
    /// Records that were given to the producer and not taken by the brokers.
    ProducerBuffers,
    /// Records of changelogs that were fetched and not written to their stores.
    Restores,
}

impl Owner {
    const ALL: [Owner; 7] = [
        Owner::Staged,
        Owner::StateCache,
        Owner::BlockCache,
        Owner::WriteBuffers,
        Owner::InputQueues,
        Owner::ProducerBuffers,
        Owner::Restores,
    ];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Owner::Staged => "staged",
            Owner::StateCache => "state-cache",
            Owner::BlockCache => "block-cache",
            Owner::WriteBuffers => "write-buffers",
            Owner::InputQueues => "input-queues",
            Owner::ProducerBuffers => "producer-buffers",
            Owner::Restores => "restores",
        }
    }
}

/// The metrics cannot be made: two of them contradict each other.
#[derive(Debug, thiserror::Error)]
#[error("internal error in the metrics (please report it): {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// The metrics of a process. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    families: Families,
    commits: IntCounter,
    commit_seconds: Histogram,
    restored_records: IntCounter,
    restored_bytes: IntCounter,
    restore_seconds: Histogram,
    producers_replaced: IntCounter,
    memory_limit: IntGauge,
    resident: IntGauge,
    /// How many handles each task has: its series end with the last.
    open: Mutex<BTreeMap<(String, String), usize>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// No labels.
const NONE: &[&str] = &[];

impl Metrics {
    /// The metrics of the process `instance` of the application `app`.
    ///
    /// # Errors
    /// Never, unless the definitions contradict each other.
    pub fn new(app: &str, instance: &str) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let families = Families::register(app, &registry)?;
        let inner = Inner {
            commits: families.commits.get_metric_with_label_values(NONE)?,
            commit_seconds: families.commit_seconds.get_metric_with_label_values(NONE)?,
            restored_records: families.restored_records.get_metric_with_label_values(NONE)?,
            restored_bytes: families.restored_bytes.get_metric_with_label_values(NONE)?,
            restore_seconds: families.restore_seconds.get_metric_with_label_values(NONE)?,
            producers_replaced: families.producers_replaced.get_metric_with_label_values(NONE)?,
            memory_limit: families.memory_limit.get_metric_with_label_values(NONE)?,
            resident: families.resident.get_metric_with_label_values(NONE)?,
            registry,
            families,
            open: Mutex::default(),
        };
        let families = &inner.families;
        families.build.get_metric_with_label_values(&[env!("CARGO_PKG_VERSION"), instance])?.set(1);
        // What has not happened yet is 0, not absent: a rate needs a beginning.
        for reason in AbortReason::ALL {
            families.aborts.get_metric_with_label_values(&[reason.name()])?;
        }
        for outcome in Outcome::ALL {
            families.unknown_outcomes.get_metric_with_label_values(&[outcome.name()])?;
        }
        for kind in Rebalance::ALL {
            families.rebalances.get_metric_with_label_values(&[kind.name()])?;
        }
        for owner in Owner::ALL {
            families.memory.get_metric_with_label_values(&[owner.name()])?;
        }
        for state in ["restoring", "running"] {
            families.tasks.get_metric_with_label_values(&[state])?;
        }
        Ok(Metrics(Arc::new(inner)))
    }

    /// What a scrape gets, in Prometheus' text format.
    ///
    /// # Errors
    /// Never, unless a series is malformed.
    pub fn render(&self) -> Result<String, MetricsError> {
        if let Some(bytes) = resident_bytes() {
            self.0.resident.set(bytes);
        }
        Ok(TextEncoder::new().encode_to_string(&self.0.registry.gather())?)
    }

    /// The handle of a task that is opened.
    ///
    /// # Errors
    /// Never, unless the definitions contradict each other.
    pub fn task(&self, sub: &SubTopology, partition: i32) -> Result<TaskMetrics, MetricsError> {
        TaskMetrics::new(self.clone(), sub, partition)
    }

    /// The handle of a restore of a task; drop it when the task is restored or given up.
    ///
    /// # Errors
    /// Never, unless the definitions contradict each other.
    pub fn restore(&self, sub: &SubTopology, partition: i32) -> Result<RestoreMetrics, MetricsError> {
        let labels = [sub.name.clone(), partition.to_string()];
        let families = &self.0.families;
        let remaining = families.restore_remaining.get_metric_with_label_values(&labels)?;
        let restoring = Share::of(families.tasks.get_metric_with_label_values(&["restoring"])?, 1);
        Ok(RestoreMetrics { metrics: self.clone(), labels, remaining, _restoring: restoring })
    }

    /// The handle of a global table.
    ///
    /// # Errors
    /// Never, unless the definitions contradict each other.
    pub fn global(&self, table: &str) -> Result<GlobalMetrics, MetricsError> {
        let families = &self.0.families;
        Ok(GlobalMetrics {
            metrics: self.clone(),
            records: families.global_records.get_metric_with_label_values(&[table])?,
            lag: families.global_lag.get_metric_with_label_values(&[table])?,
        })
    }

    /// A record failed.
    fn failed(&self, error: &RecordError) {
        let outcome = match error.on_error {
            OnError::Fail => "fail",
            OnError::Skip => "skip",
            OnError::DeadLetter => "dead-letter",
        };
        count(&self.0.families.node_errors, &[&error.node, error.code.number(), outcome]);
    }

    /// A commit succeeded, after so long.
    pub fn committed(&self, took: Duration) {
        self.0.commits.inc();
        self.0.commit_seconds.observe(took.as_secs_f64());
    }

    /// A transaction was given up.
    pub fn aborted(&self, reason: AbortReason) {
        count(&self.0.families.aborts, &[reason.name()]);
    }

    /// The outcome of a commit was unknown, and is known now as far as it can be.
    pub fn resolved(&self, outcome: Outcome) {
        count(&self.0.families.unknown_outcomes, &[outcome.name()]);
    }

    /// A producer was given up, and another took its place.
    pub fn producer_replaced(&self) {
        self.0.producers_replaced.inc();
    }

    /// The brokers did not take a record; `error` is the client library's name.
    pub fn produce_error(&self, error: &str) {
        count(&self.0.families.produce_errors, &[error]);
    }

    /// A client reported an error and went on; `error` is the client library's name.
    pub fn client_error(&self, client: Client, error: &str) {
        count(&self.0.families.client_errors, &[client.name(), error]);
    }

    /// The partitions of this process changed.
    pub fn rebalanced(&self, kind: Rebalance) {
        count(&self.0.families.rebalances, &[kind.name()]);
    }

    /// A loop made no progress for longer than it may.
    pub fn watchdog_tripped(&self, name: &str) {
        count(&self.0.families.watchdog, &[name]);
    }

    /// The budget of memory, in bytes.
    pub fn memory_limit(&self, bytes: usize) {
        self.0.memory_limit.set(signed(bytes));
    }

    /// A part of what an owner holds; it counts as long as it is kept.
    ///
    /// # Errors
    /// Never, unless the definitions contradict each other.
    pub fn memory(&self, owner: Owner) -> Result<Share, MetricsError> {
        Ok(Share::of(self.0.families.memory.get_metric_with_label_values(&[owner.name()])?, 0))
    }
}

/// Counts something that is rare.
fn count(family: &IntCounterVec, labels: &[&str]) {
    if let Ok(counter) = family.get_metric_with_label_values(labels) {
        counter.inc();
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Memory of the process, where the operating system says it.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// A part of a gauge that several set; it is taken away again when this is dropped.
#[derive(Debug)]
pub struct Share {
    gauge: IntGauge,
    value: i64,
}

impl Share {
    fn of(gauge: IntGauge, value: i64) -> Self {
        gauge.add(value);
        Share { gauge, value }
    }

    /// Sets this part, in bytes.
    pub fn set(&mut self, bytes: usize) {
        let value = signed(bytes);
        self.gauge.add(value - self.value);
        self.value = value;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.gauge.sub(self.value);
    }
}

/// What a restore counts in.
#[derive(Debug)]
pub struct RestoreMetrics {
    metrics: Metrics,
    labels: [String; 2],
    remaining: IntGauge,
    _restoring: Share,
}

impl RestoreMetrics {
    /// Some records were read; `remaining` offsets are left.
    pub fn read(&self, records: u64, bytes: u64, remaining: i64) {
        self.metrics.0.restored_records.inc_by(records);
        self.metrics.0.restored_bytes.inc_by(bytes);
        self.remaining.set(remaining);
    }

    /// The task is restored, after so long.
    pub fn done(self, took: Duration) {
        self.metrics.0.restore_seconds.observe(took.as_secs_f64());
    }
}

impl Drop for RestoreMetrics {
    fn drop(&mut self) {
        let _ = self.metrics.0.families.restore_remaining.remove_label_values(&self.labels);
    }
}

/// What a global table counts in.
#[derive(Debug)]
pub struct GlobalMetrics {
    metrics: Metrics,
    records: IntCounter,
    lag: IntGauge,
}

impl GlobalMetrics {
    /// So many records were read.
    pub fn updated(&self, records: u64, updated: &Updated) {
        self.records.inc_by(records);
        for error in updated.errors.iter().chain(&updated.stopped) {
            self.metrics.failed(error);
        }
    }

    /// So many offsets are left.
    pub fn lag(&self, offsets: i64) {
        self.lag.set(offsets);
    }
}

/// Two counters of records that were written.
#[derive(Debug)]
struct Written {
    records: IntCounter,
    bytes: IntCounter,
}

impl Written {
    fn new(families: &Families, sub: &str, kind: &str, node: &str) -> Result<Self, prometheus::Error> {
        let labels = [sub, kind, node];
        Ok(Written {
            records: families.written_records.get_metric_with_label_values(&labels)?,
            bytes: families.written_bytes.get_metric_with_label_values(&labels)?,
        })
    }

    fn count(&self, records: u64, bytes: u64) {
        self.records.inc_by(records);
        self.bytes.inc_by(bytes);
    }
}

/// The series of a node, and what of its counters they hold already.
#[derive(Debug)]
struct NodeMetrics {
    name: String,
    rows_in: IntCounter,
    rows_out: IntCounter,
    dropped: BTreeMap<DropReason, IntCounter>,
    model: Option<(Histogram, Histogram)>,
    seen: NodeCounters,
}

/// What a task counts in. Dropping it ends the series of the task.
#[derive(Debug)]
pub struct TaskMetrics {
    metrics: Metrics,
    sub: String,
    partition: String,
    records: IntCounter,
    epochs: IntCounter,
    /// `None` until there is one.
    stream_time: Option<Gauge>,
    topics: Vec<String>,
    lags: Vec<IntGauge>,
    nodes: Vec<NodeMetrics>,
    sinks: BTreeMap<usize, Written>,
    repartitions: BTreeMap<usize, Written>,
    dead_letters: Option<Written>,
    changelogs: Vec<Written>,
    staged: Share,
    cached: Share,
    queued: Share,
    _running: Share,
}

impl TaskMetrics {
    fn new(metrics: Metrics, sub: &SubTopology, partition: i32) -> Result<Self, MetricsError> {
        let families = &metrics.0.families;
        let name = sub.name.as_str();
        let partition = partition.to_string();
        let labels = [name, &partition];
        let mut nodes = Vec::with_capacity(sub.nodes.len());
        for node in &sub.nodes {
            let of_node = node.label();
            let labels = [name, of_node.as_str()];
            let model = match node.op {
                PREDICT => Some((
                    families.model_seconds.get_metric_with_label_values(&labels)?,
                    families.model_rows.get_metric_with_label_values(&labels)?,
                )),
                _ => None,
            };
            nodes.push(NodeMetrics {
                rows_in: families.node_in.get_metric_with_label_values(&labels)?,
                rows_out: families.node_out.get_metric_with_label_values(&labels)?,
                name: of_node,
                dropped: BTreeMap::new(),
                model,
                seen: NodeCounters::default(),
            });
        }
        let mut sinks = BTreeMap::new();
        let mut repartitions = BTreeMap::new();
        for output in &sub.outputs {
            match output {
                PlanOutput::Sink { sink, position, .. } => {
                    sinks.insert(*position, Written::new(families, name, "sink", &sink.name)?);
                }
                PlanOutput::Repartition { node, slot, .. } => {
                    repartitions.insert(*slot, Written::new(families, name, "repartition", node)?);
                }
            }
        }
        let mut changelogs = Vec::with_capacity(sub.stores.len());
        for store in &sub.stores {
            changelogs.push(Written::new(families, name, "changelog", &store.spec.name)?);
        }
        let topics: Vec<String> = sub.inputs.iter().map(|input| input.topic.clone()).collect();
        let mut lags = Vec::with_capacity(topics.len());
        for topic in &topics {
            lags.push(families.task_lag.get_metric_with_label_values(&[name, &partition, topic.as_str()])?);
        }
        let running = Share::of(families.tasks.get_metric_with_label_values(&["running"])?, 1);
        let handle = TaskMetrics {
            records: families.task_records.get_metric_with_label_values(&labels)?,
            epochs: families.task_epochs.get_metric_with_label_values(&labels)?,
            stream_time: None,
            staged: metrics.memory(Owner::Staged)?,
            cached: metrics.memory(Owner::StateCache)?,
            queued: metrics.memory(Owner::InputQueues)?,
            sub: name.to_owned(),
            topics,
            lags,
            nodes,
            sinks,
            repartitions,
            dead_letters: None,
            changelogs,
            _running: running,
            partition,
            metrics,
        };
        let mut open = handle.metrics.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open.entry((handle.sub.clone(), handle.partition.clone())).or_default() += 1;
        drop(open);
        Ok(handle)
    }

    /// An epoch is over; `counters` and `stream_time` are the task's after it.
    pub fn epoch(&mut self, epoch: &Epoch, counters: &[NodeCounters], stream_time: Option<i64>) {
        let families = &self.metrics.0.families;
        self.records.inc_by(epoch.processed as u64);
        self.epochs.inc();
        if let Some(millis) = stream_time {
            let labels = [self.sub.as_str(), &self.partition];
            if self.stream_time.is_none() {
                self.stream_time = families.task_stream_time.get_metric_with_label_values(&labels).ok();
            }
            if let Some(gauge) = &self.stream_time {
                gauge.set(millis as f64 / 1000.0);
            }
        }
        for (node, counted) in self.nodes.iter_mut().zip(counters) {
            node.count(families, &self.sub, counted);
        }
        for scored in &epoch.scored {
            let model = self.nodes.get(scored.node).and_then(|node| node.model.as_ref());
            if let Some((seconds, rows)) = model {
                seconds.observe(scored.took.as_secs_f64());
                rows.observe(scored.rows as f64);
            }
        }
        for error in epoch.errors.iter().chain(&epoch.stopped) {
            self.metrics.failed(error);
        }
    }

    /// Records were given to the producer: how many of an output, and the bytes of their keys and values.
    pub fn wrote(&mut self, rank: Rank, records: u64, bytes: u64) {
        let written = match rank {
            Rank::Sink(position) => self.sinks.get(&position),
            Rank::Repartition(slot) => self.repartitions.get(&slot),
            Rank::DeadLetter => {
                if self.dead_letters.is_none() {
                    let families = &self.metrics.0.families;
                    self.dead_letters = Written::new(families, &self.sub, "dead-letter", "").ok();
                }
                self.dead_letters.as_ref()
            }
        };
        if let Some(written) = written {
            written.count(records, bytes);
        }
    }

    /// Changes of a store, by its position in the sub-topology, were given to the producer.
    pub fn wrote_changelog(&self, store: usize, records: u64, bytes: u64) {
        if let Some(written) = self.changelogs.get(store) {
            written.count(records, bytes);
        }
    }

    /// Records of an input that wait, by its position in the sub-topology.
    pub fn lag(&self, input: usize, records: i64) {
        if let Some(lag) = self.lags.get(input) {
            lag.set(records.max(0));
        }
    }

    /// Bytes of memory: of writes that are not committed, of what the stores keep of what is, and of records that were
    /// fetched and not processed.
    pub fn memory(&mut self, staged: usize, cached: usize, queued: usize) {
        self.staged.set(staged);
        self.cached.set(cached);
        self.queued.set(queued);
    }
}

impl NodeMetrics {
    /// Adds what was counted since the last time.
    fn count(&mut self, families: &Families, sub: &str, counted: &NodeCounters) {
        if counted.rows_in != self.seen.rows_in || counted.rows_out != self.seen.rows_out {
            self.rows_in.inc_by(counted.rows_in.saturating_sub(self.seen.rows_in));
            self.rows_out.inc_by(counted.rows_out.saturating_sub(self.seen.rows_out));
            self.seen.rows_in = counted.rows_in;
            self.seen.rows_out = counted.rows_out;
        }
        for (reason, rows) in &counted.dropped {
            let seen = self.seen.dropped.entry(*reason).or_default();
            if rows == seen {
                continue;
            }
            if !self.dropped.contains_key(reason)
                && let Ok(counter) =
                    families.node_dropped.get_metric_with_label_values(&[sub, &self.name, reason.name()])
            {
                self.dropped.insert(*reason, counter);
            }
            if let Some(counter) = self.dropped.get(reason) {
                counter.inc_by(rows.saturating_sub(*seen));
            }
            *seen = *rows;
        }
    }
}

impl Drop for TaskMetrics {
    fn drop(&mut self) {
        let Inner { families, open, .. } = &*self.metrics.0;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.sub.clone(), self.partition.clone());
        let left = open.get(&key).copied().unwrap_or_default().saturating_sub(1);
        if left > 0 {
            open.insert(key, left);
            return;
        }
        open.remove(&key);
        let labels = [&self.sub, &self.partition];
        // A series that was never made cannot be removed, which is as well.
        let _ = families.task_records.remove_label_values(&labels);
        let _ = families.task_epochs.remove_label_values(&labels);
        let _ = families.task_stream_time.remove_label_values(&labels);
        for topic in &self.topics {
            let _ = families.task_lag.remove_label_values(&[&self.sub, &self.partition, topic]);
        }
    }
}

/// The reference of the metrics, in Markdown: `docs/metrics.md`.
pub fn metrics_page() -> String {
    use std::fmt::Write as _;

    let mut page = "# Metrics\n\n\
        This page is made by `millstream` from what it knows itself. `millstream run` serves the metrics at `runtime.listen`, by \
        default at `http://127.0.0.1:7780/metrics`, in Prometheus' text format. Every metric has the label `app`, which is the \
        application's id; Prometheus itself adds the process, as `instance`. Times are seconds. What is counted per task ends \
        when the process gives the task up.\n\n\
        [grafana-dashboard.json](grafana-dashboard.json) shows them, [alerts.yaml](alerts.yaml) watches over them.\n\n\
        | metric | kind | labels | |\n|---|---|---|---|\n"
        .to_owned();
    for Definition { name, kind, labels, help } in DEFINITIONS {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(page, "| `{name}` | {} | {} | {help} |", kind.name(), labels.join(", "));
    }
    page
}

#[cfg(test)]
mod tests;
