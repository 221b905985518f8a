//! A checked topology: what a TOML text means.
//!
//! [`read`] turns a text into a [`Topology`] or into findings. Nothing in a `Topology` is text of the file or TOML: names are
//! resolved, expressions are typed, durations are milliseconds. Whoever holds one need not check it again.

mod cases;
pub mod explain;
mod formats;
mod kafka;
mod partitions;
mod read;
mod render;
mod settings;
mod sinks;
mod sources;
mod steps;
mod syntax;
mod times;
mod topics;
mod types;
mod values;
mod variables;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use millstream_operators::diagnostic::{Code, Diagnostic, Span};
use millstream_operators::model::Model;
use millstream_operators::operator::{OperatorSpec, Resolved};
use millstream_operators::schema::Schema;
use millstream_operators::sql::Expression;
use millstream_operators::to_table::ToTable;
use serde_json::Value as Json;

pub use self::explain::explain;
pub(crate) use self::partitions::rekeys_with_topic;
pub use self::read::{Tests, place_of, read, read_with};
pub use self::render::{render, to_json};
pub use self::settings::topic_name_error;
pub use self::topics::{Taken, TakenTopics};
pub use self::values::{Misfit, RuntimeKey, brokers, variable};
use crate::codec::layout::{Format, SinkLayout, SourceLayout};
use crate::kafka::Security;
use crate::schema_registry::{SchemaRegistry, SchemaRegistryError, SchemaRegistrySettings};

/// A checked topology.
#[derive(Debug)]
pub struct Topology {
    /// `[app]`.
    pub app: App,
    /// `[kafka]`.
    pub kafka: Kafka,
    /// `[runtime]`.
    pub runtime: Runtime,
    /// What this machine lacks for `[kafka]` and `[runtime]`: variables and files. Whoever connects to the cluster must refuse
    /// to as long as there is any; all others need not care.
    pub deferred: Vec<Diagnostic>,
    /// `[sources]` in the order of the file, then `[tables]`.
    pub sources: Vec<Source>,
    /// `[steps]`, each after its inputs, otherwise in the order of the file.
    pub steps: Vec<StepNode>,
    /// `[sinks]`, in the order of the file.
    pub sinks: Vec<Sink>,
    /// `[models]` by name; in a topology without errors each is loaded.
    pub models: BTreeMap<String, Option<Arc<Model>>>,
    /// `[[tests]]`, in the order of the file.
    pub tests: Vec<Test>,
    /// The schemas of formats; in memory until it is connected.
    pub registry: Arc<SchemaRegistry>,
}

impl Topology {
    /// Takes the schemas of formats from the server of `[kafka.registry]` from now on, if there is one.
    ///
    /// # Errors
    /// If its settings cannot be used; the server is not asked yet.
    pub fn connect_registry(&self) -> Result<(), SchemaRegistryError> {
        self.kafka.registry.as_ref().map_or(Ok(()), |settings| self.registry.connect(settings))
    }

    /// What the registry has that does not fit the columns: the node, its option, and why. The registry must be connected.
    ///
    /// # Errors
    /// If it has no answer.
    pub fn check_registry(&self) -> Result<Vec<(String, &'static str, String)>, SchemaRegistryError> {
        let mut found = Vec::new();
        for source in &self.sources {
            let layout = &source.layout;
            let parts = [
                ("key-format", &layout.key_format, &layout.key),
                ("format", &layout.value_format, &layout.value),
            ];
            for (option, format, fields) in parts {
                let Format::Schema(format) = format else { continue };
                if !format.framed {
                    continue;
                }
                let why = match self.registry.latest(&format.subject) {
                    Ok(schema) => format.check_read_of(&schema, fields).err().map(|why| {
                        format!("the newest schema of `{}` does not fit the columns: {why}", format.subject)
                    }),
                    // Who writes to the topic may come later.
                    Err(SchemaRegistryError::Unknown(_)) => None,
                    Err(error) => return Err(error),
                };
                found.extend(why.map(|why| (source.name.clone(), option, why)));
            }
        }
        for sink in &self.sinks {
            let layout = &sink.layout;
            let parts = [
                ("key-format", &layout.key_format, &layout.key),
                ("format", &layout.value_format, &layout.value),
            ];
            for (option, format, fields) in parts {
                let Format::Schema(format) = format else { continue };
                let why = if format.framed { format.check_registration(fields)? } else { None };
                found.extend(why.map(|why| (sink.name.clone(), option, why)));
            }
        }
        Ok(found)
    }

    /// The columns of a source, or of an output of a step.
    pub fn output(&self, output: &OutputRef) -> Option<&Schema> {
        match self.source(&output.node) {
            Some(source) => output.output.is_none().then(|| source.schema()),
            None => self.step(&output.node)?.output(output.output.as_deref()),
        }
    }

    /// The source of this name.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// The step of this name.
    pub fn step(&self, name: &str) -> Option<&StepNode> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// The source whose records are the dead letters of a source or step; `None` if they come from several topics, or from a
    /// repartition topic.
    pub fn letters_of(&self, node: &str) -> Option<&Source> {
        if let Some(source) = self.source(node) {
            return Some(source);
        }
        let with_topic = rekeys_with_topic(&self.steps);
        let step = self.step(node)?;
        let mut sources = step.inputs.iter().map(|input| match self.step(&input.node) {
            Some(above) if !above.resolved.stages.is_empty() || with_topic.contains(above.name.as_str()) => {
                None
            }
            _ => self.letters_of(&input.node),
        });
        let first = sources.next()??;
        sources.all(|other| other.is_some_and(|other| other.name == first.name)).then_some(first)
    }

    /// The sink of this name.
    pub fn sink(&self, name: &str) -> Option<&Sink> {
        self.sinks.iter().find(|sink| sink.name == name)
    }
}

/// `[app]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Prefix of the group, the transactional ids and every internal topic.
    pub id: String,
    /// What a crash may do to results.
    pub guarantee: Guarantee,
    /// For readers.
    pub description: Option<String>,
}

/// What a crash may do to results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guarantee {
    /// Each input record counts once.
    #[default]
    ExactlyOnce,
    /// An input record may count again.
    AtLeastOnce,
}

/// `[kafka]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kafka {
    /// Bootstrap servers, `host:port,host:port`.
    pub brokers: Option<Setting>,
    /// `[kafka.security]`.
    pub security: Security,
    /// `[kafka.properties]`: allowed properties of the client library, in the order of the file.
    pub properties: Vec<(String, Setting)>,
    /// `[kafka.topics]`.
    pub topics: TopicDefaults,
    /// `[kafka.registry]`.
    pub registry: Option<SchemaRegistrySettings>,
}

/// `[kafka.topics]`: how topics are made. What is absent is as the brokers have it by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicDefaults {
    /// Replicas of each partition.
    pub replication_factor: Option<u32>,
    /// Replicas that must have a record before it counts as written.
    pub min_insync_replicas: Option<u32>,
    /// Partitions of topics of sources and sinks that are made on request. Internal topics have as many as what writes them.
    pub partitions: Option<u32>,
    /// The largest batch of records, in bytes, of internal topics.
    pub max_message_bytes: Option<u64>,
}

impl TopicDefaults {
    /// The replication factor as brokers take it: -1 is their default.
    pub fn replication(&self) -> i16 {
        self.replication_factor.and_then(|count| i16::try_from(count).ok()).unwrap_or(-1)
    }

    /// The configuration that every topic is made with.
    pub fn config(&self) -> impl Iterator<Item = (String, String)> {
        self.min_insync_replicas
            .map(|count| ("min.insync.replicas".to_owned(), count.to_string()))
            .into_iter()
    }
}

/// A setting that may come from a file with a secret; such a one is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    value: String,
    secret: bool,
}

impl Setting {
    /// A setting; `secret` hides it wherever it is printed.
    pub fn new(value: impl Into<String>, secret: bool) -> Self {
        Setting { value: value.into(), secret }
    }

    /// The value itself, for the one who uses it.
    pub fn reveal(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secret { "(secret)" } else { &self.value })
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Setting({self})")
    }
}

/// `[runtime]`: what the file says. The methods give the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Worker threads.
    pub threads: Option<NonZeroUsize>,
    /// Where local state lives.
    pub state_dir: Option<PathBuf>,
    /// Unique in the application; made once in the state directory if absent.
    pub instance: Option<String>,
    /// Milliseconds between two commits.
    pub commit_every: Option<i64>,
    /// Bytes of the one budget for caches, buffers and queues.
    pub memory: Option<u64>,
    /// Address of the HTTP server.
    pub listen: Option<String>,
    /// Largest number of records of an epoch.
    pub max_batch_rows: Option<NonZeroUsize>,
    /// Milliseconds to wait for a partition without lag.
    pub max_task_idle: Option<i64>,
    /// Milliseconds without progress after which a process leaves the group.
    pub max_poll_interval: Option<i64>,
    /// Milliseconds of silence after which the group takes a process for gone.
    pub session_timeout: Option<i64>,
    /// Milliseconds after which the brokers end a transaction that nobody ends.
    pub transaction_timeout: Option<i64>,
}

impl Runtime {
    /// Worker threads; by default the cores available.
    pub fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.threads.unwrap_or_else(cores).get()
    }

    /// Where local state lives.
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| PathBuf::from(".millstream"))
    }

    /// Milliseconds between two commits.
    pub fn commit_every(&self) -> i64 {
        self.commit_every.unwrap_or(100)
    }

    /// Bytes of the one budget for caches, buffers and queues.
    pub fn memory(&self) -> u64 {
        self.memory.unwrap_or(1 << 30)
    }

    /// Address of the HTTP server.
    pub fn listen(&self) -> &str {
        self.listen.as_deref().unwrap_or("127.0.0.1:7780")
    }

    /// Largest number of records of an epoch.
    pub fn max_batch_rows(&self) -> usize {
        self.max_batch_rows.map_or(1024, NonZeroUsize::get)
    }

    /// Milliseconds to wait for a partition without lag.
    pub fn max_task_idle(&self) -> i64 {
        self.max_task_idle.unwrap_or(0)
    }

    /// Milliseconds without progress after which a process leaves the group; Kafka's default.
    pub fn max_poll_interval(&self) -> i64 {
        self.max_poll_interval.unwrap_or(300_000)
    }

    /// Milliseconds of silence after which the group takes a process for gone; Kafka's default.
    pub fn session_timeout(&self) -> i64 {
        self.session_timeout.unwrap_or(45_000)
    }

    /// Milliseconds after which the brokers end a transaction that nobody ends: before the group would notice, so that who
    /// takes the tasks over need not wait twice.
    pub fn transaction_timeout(&self) -> i64 {
        self.transaction_timeout.unwrap_or(30_000)
    }
}

/// What happens to an input record that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The process stops before it.
    #[default]
    Fail,
    /// Its path ends, and it is counted.
    Skip,
    /// Its path ends, and it is written to the dead-letter topic.
    DeadLetter,
}

/// Where a source starts that has no committed offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record.
    #[default]
    Earliest,
    /// After the newest record.
    Latest,
    /// At the first record of this time or later, milliseconds since 1970.
    At(i64),
}

/// `[sources.NAME]` or `[tables.NAME]`: what is read from a topic.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name.
    pub name: String,
    /// For readers.
    pub description: Option<String>,
    /// The topic that is read.
    pub topic: String,
    /// How records become rows, and the columns.
    pub layout: SourceLayout,
    /// Where to start without a committed offset.
    pub start: Start,
    /// Milliseconds of silence after which stream time follows the wall clock.
    pub idle_after: Option<i64>,
    /// Milliseconds that an event time may lie beyond the wall clock.
    pub max_ahead: Option<i64>,
    /// What happens to a record that cannot be read.
    pub on_error: OnError,
    /// The topic of dead letters.
    pub dead_letter: String,
    /// What makes a table of the records; `None`: they are a stream.
    pub table: Option<Arc<ToTable>>,
    /// Whether it is a table that every process holds whole.
    pub global: bool,
}

impl Source {
    /// The columns of what others read.
    pub fn schema(&self) -> &Schema {
        self.table.as_ref().map_or(&self.layout.schema, |table| table.schema())
    }

    /// The columns of the versions of a table that keeps its history.
    pub fn versions(&self) -> Option<&Schema> {
        self.table.as_ref()?.history().map(|_| &self.layout.schema)
    }

    /// What its topic is made with. Brokers remove records by their timestamps, and events may be as old as they are; of a table
    /// only the newest record of a key is needed.
    pub fn kept(&self) -> (String, String) {
        let (setting, value) =
            if self.table.is_some() { ("cleanup.policy", "compact") } else { ("retention.ms", "-1") };
        (setting.to_owned(), value.to_owned())
    }
}

/// One output of a node: `route.alert`; `None` for the one that the node's own name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutputRef {
    /// A source or step.
    pub node: String,
    /// The name of the output.
    pub output: Option<String>,
}

impl fmt::Display for OutputRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.output {
            Some(output) => write!(f, "{}.{output}", self.node),
            None => f.write_str(&self.node),
        }
    }
}

/// `[steps.NAME]`: an operator between nodes.
#[derive(Clone, Debug)]
pub struct StepNode {
    /// The name.
    pub name: String,
    /// For readers.
    pub description: Option<String>,
    /// The operator.
    pub spec: &'static OperatorSpec,
    /// Its inputs, in the order of `from`.
    pub inputs: Vec<OutputRef>,
    /// The global table that it looks up, which is no input: its changes cause nothing.
    pub global: Option<String>,
    /// What it means: outputs and definition.
    pub resolved: Resolved,
    /// What happens to a record on which it fails.
    pub on_error: OnError,
    /// The topic of dead letters.
    pub dead_letter: String,
}

impl StepNode {
    /// The columns of an output.
    pub fn output(&self, name: Option<&str>) -> Option<&Schema> {
        let outputs = &self.resolved.outputs;
        outputs.iter().find(|output| output.name.as_deref() == name).map(|output| &output.schema)
    }
}

/// `[sinks.NAME]`: a topic that is written.
#[derive(Clone, Debug)]
pub struct Sink {
    /// The name.
    pub name: String,
    /// For readers.
    pub description: Option<String>,
    /// What is written.
    pub from: OutputRef,
    /// Where it is written to.
    pub topic: SinkTopic,
    /// Where it must not be written to, which matters to a topic that is chosen per row.
    pub taken: Arc<TakenTopics>,
    /// How the value columns of `layout.schema` are made, in its order, from the columns of `from`; the key columns stay.
    /// `None`: they are the columns of `from`. Columns that only headers or the time need stand here too.
    pub columns: Option<Vec<(String, Expression)>>,
    /// How rows become records. Its schema is that of the rows after `columns`.
    pub layout: SinkLayout,
}

/// Where a sink writes to.
#[derive(Clone, Debug)]
pub enum SinkTopic {
    /// One topic.
    Fixed(String),
    /// The topic is chosen per row: a string over the columns of `from`, before `columns`.
    Expression(Expression),
}

/// One of `[[tests]]`.
#[derive(Clone, Debug)]
pub struct Test {
    /// Its name.
    pub name: String,
    /// Its place in the file.
    pub span: Span,
    /// What goes in, in order.
    pub inputs: Vec<TestInput>,
    /// What must come out, in order per node.
    pub expect: Vec<Expected>,
    /// Where nothing may come out.
    pub none: Vec<Target>,
    /// Whether rows may come out that are not expected.
    pub partial: bool,
    /// The error that must happen.
    pub error: Option<Code>,
}

/// A line of a test's `input`.
#[derive(Clone, Debug, PartialEq)]
pub enum TestInput {
    /// A record of a source.
    Record(TestRecord),
    /// Stream time goes on by milliseconds.
    Advance(i64),
    /// The wall clock goes on by milliseconds.
    WallClock(i64),
    /// The process restarts from what it committed.
    Restart,
}

/// A record that a test gives to a source. Values have the JSON form of their columns' types.
#[derive(Clone, Debug, PartialEq)]
pub struct TestRecord {
    /// The source.
    pub to: String,
    /// The key.
    pub key: TestPart,
    /// The value.
    pub value: TestPart,
    /// Headers with their text.
    pub headers: Vec<(String, String)>,
    /// The record's timestamp; `None`: that of the input before it, at first 1970.
    pub at: Option<i64>,
    /// Its place in the file.
    pub span: Span,
}

/// The key or the value of a record that a test gives to a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TestPart {
    /// It is null.
    #[default]
    Null,
    /// Columns by name; those that are absent are null.
    Columns(Vec<(String, Json)>),
    /// Bytes as they stand in the record.
    Bytes(Vec<u8>),
}

/// A row that a test expects.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// Where.
    pub from: Target,
    /// Columns of the key that are compared.
    pub key: Vec<(String, Json)>,
    /// Columns of the value that are compared.
    pub value: Vec<(String, Json)>,
    /// Columns that must be null.
    pub null: Vec<String>,
    /// Whether the row must be a delete, or a null value; otherwise it must be none.
    pub delete: bool,
    /// The event time, if it is compared.
    pub at: Option<i64>,
    /// What is compared of a dead letter besides.
    pub letter: ExpectedLetter,
    /// Its place in the file.
    pub span: Span,
}

/// What a test expects of a dead letter besides its columns; only what is given is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedLetter {
    /// The code of the error.
    pub code: Option<Code>,
    /// A part of the error's message.
    pub message: Option<String>,
    /// The bytes of the key.
    pub key: Option<Vec<u8>>,
    /// The bytes of the value.
    pub value: Option<Vec<u8>>,
}

/// What a test looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A source, or an output of a step.
    Output(OutputRef),
    /// What a sink writes.
    Sink(String),
    /// The dead letters of a source or step: `NODE.dead-letter`.
    DeadLetters(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Output(output) => output.fmt(f),
            Target::Sink(sink) => f.write_str(sink),
            Target::DeadLetters(node) => write!(f, "{node}{DEAD_LETTER}"),
        }
    }
}

/// What stands behind a node's name where its dead letters are meant.
const DEAD_LETTER: &str = ".dead-letter";
