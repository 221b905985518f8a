//! The topics of a run: those of the user are checked, those of the application are made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use millstream_operators::config::format_duration;
use millstream_operators::diagnostic::{Code, Severity, listed};

use super::error::{RuntimeError, Trouble};
use super::{Shutdown, threads};
use crate::kafka::{Admin, ClientSettings, NewTopic, Operation, TopicDescription};
use crate::plan::internal::{InternalTopic, Needed, Purpose};
use crate::plan::{Origin, Plan, PlanError, PlanOutput};
use crate::topology::{SinkTopic, Source, TopicDefaults};

/// Topics that are not as the topology needs them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Topics of sources or sinks do not exist.
    #[error("{}", missing(topics))]
    Missing {
        /// The topics, each with the node that names it.
        topics: Vec<(String, String)>,
    },
    /// An internal topic has another partition count.
    #[error(
        "the internal topic `{topic}` has {found} partitions, this topology needs {expected}: its partitions or those of its \
         input have changed since it was made. Keys would be found in other partitions than their state; refused because it \
         would lose data. Give the input its {found} partitions back, or start under another `app.id`"
    )]
    Partitions {
        /// The topic.
        topic: String,
        /// How many it has.
        found: u32,
        /// How many it must have.
        expected: u32,
    },
    /// An internal topic has other settings.
    #[error(
        "the internal topic `{topic}` has `{setting} = {found}`, it needs {expected}{}. Run: kafka-configs.sh --bootstrap-server … --alter \
         --topic {topic} --add-config {setting}={fix}",
        why(setting)
    )]
    Setting {
        /// The topic.
        topic: String,
        /// The setting.
        setting: String,
        /// What it is.
        found: String,
        /// What it must be, in words.
        expected: String,
        /// A value that is right.
        fix: String,
    },
    /// Internal topics were deleted while they were in use.
    #[error(
        "the internal topics {} were deleted while the application was running: what was in them is lost",
        listed(topics.iter().map(String::as_str))
    )]
    Deleted {
        /// The topics.
        topics: Vec<String>,
    },
    /// Topics that are read were deleted and made anew.
    #[error(
        "{} {} deleted and made anew since the application has read from there: its offsets and its state are those of the former \
         records; refused because it would lose data. Start under another `app.id`",
        listed(topics.iter().map(String::as_str)),
        if topics.len() == 1 { "was" } else { "were" }
    )]
    MadeAnew {
        /// The topics.
        topics: Vec<String>,
    },
    /// Topics of global tables were deleted and made anew.
    #[error("topics of global tables were deleted and made anew: {}", listed(topics.iter().map(String::as_str)))]
    GlobalMadeAnew {
        /// The topics.
        topics: Vec<String>,
    },
    /// A topic that a row names does not exist.
    #[error(
        "topic `{0}`, which a sink computes for a row, does not exist: make it, or let the expression name topics that exist"
    )]
    Computed(String),
}

impl TopicError {
    /// The stable code, if the error has one.
    pub fn code(&self) -> Option<Code> {
        match self {
            TopicError::Missing { .. } => Some(Code::TopicMissing),
            TopicError::Partitions { .. } => Some(Code::TopicPartitions),
            TopicError::Setting { .. } => Some(Code::TopicSetting),
            TopicError::Deleted { .. }
            | TopicError::MadeAnew { .. }
            | TopicError::GlobalMadeAnew { .. }
            | TopicError::Computed(_) => None,
        }
    }

    /// Whether going on would lose data.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            TopicError::Partitions { .. } | TopicError::Setting { .. } | TopicError::MadeAnew { .. }
        )
    }
}

/// A topic whose records are removed before what reads it has forgotten them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortRetention {
    /// The topic.
    pub topic: String,
    /// How long the brokers keep its records, in milliseconds.
    pub retention: i64,
    /// The step that looks back furthest.
    pub step: String,
    /// How far, in milliseconds.
    pub window: i64,
}

impl fmt::Display for ShortRetention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShortRetention { topic, retention, step, window } = self;
        let (kept, wanted) = (format_duration(*retention), format_duration(*window));
        write!(
            f,
            "topic `{topic}` keeps its records for {kept}, but `{step}` looks back {wanted}: an application that starts anew, \
             or was away, misses records that its windows should hold. Run: {}",
            set_retention(topic, *window)
        )
    }
}

/// The command that sets how long a topic keeps its records; -1 is for ever.
pub fn set_retention(topic: &str, millis: i64) -> String {
    format!(
        "kafka-configs.sh --bootstrap-server … --alter --topic {topic} --add-config retention.ms={millis}"
    )
}

/// How long the brokers keep the records of a topic with this configuration, in milliseconds; `None`: for ever.
pub fn retention(config: &BTreeMap<String, String>) -> Option<i64> {
    let removes = config.get("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
    let millis = config.get("retention.ms").and_then(|millis| millis.parse::<i64>().ok())?;
    (removes && millis >= 0).then_some(millis)
}

/// What is wrong with a topic of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFinding {
    /// The source, step or sink that the topic belongs to.
    pub node: String,
    /// The stable code.
    pub code: Code,
    /// Whether it could run all the same.
    pub severity: Severity,
    /// What was found, and the fix.
    pub message: String,
}

fn missing(topics: &[(String, String)]) -> String {
    let mut text = String::from("topics do not exist: ");
    for (number, (topic, node)) in topics.iter().enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}`{topic}` of `{node}`");
    }
    let first = topics.first().map_or("", |(topic, _)| topic.as_str());
    let _ = write!(
        text,
        ". Make them (kafka-topics.sh --bootstrap-server … --create --topic {first} --partitions 4), or let `millstream run \
         --create-topics` do it"
    );
    text
}

fn why(setting: &str) -> &'static str {
    match setting {
        "cleanup.policy" => {
            ", else the broker removes state that is still needed, or keeps all of it for ever"
        }
        "message.timestamp.type" => ", else the broker would remove state by event times of the past",
        _ => "",
    }
}

/// What is known of topics' partitions.
pub(super) struct Topics {
    admin: Mutex<Arc<Admin>>,
    known: Mutex<HashMap<String, u32>>,
    /// The ids of topics when they were seen first.
    ids: Mutex<HashMap<String, String>>,
}

/// How long a question to the brokers may take.
pub(super) const ANSWER: Duration = Duration::from_secs(15);

impl Topics {
    pub fn new(admin: Arc<Admin>) -> Self {
        Topics { admin: Mutex::new(admin), known: Mutex::default(), ids: Mutex::default() }
    }

    /// The client that asks the brokers.
    pub fn admin(&self) -> Arc<Admin> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new client in its place: one that has seen leaders, or who takes administrative requests, before a broker was away
    /// goes on asking them.
    pub fn renew(&self, settings: &ClientSettings) -> Result<(), Trouble> {
        let admin = Admin::new(settings, ANSWER);
        let admin = admin.map_err(|error| Trouble::kafka("make a client of the cluster", error))?;
        *self.admin.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(admin);
        Ok(())
    }

    /// How many partitions a topic has that is to be written.
    pub fn partitions(&self, name: &str) -> Result<u32, Trouble> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = known.get(name) {
            return Ok(*count);
        }
        let found = self.admin().topics(&[name]);
        let found = found.map_err(|error| Trouble::kafka(format!("describe topic `{name}`"), error))?;
        match found.into_iter().next().flatten() {
            Some(topic) => {
                let count = topic.partitions as u32;
                known.insert(name.to_owned(), count);
                Ok(count)
            }
            None => Err(RuntimeError::Topics(TopicError::Computed(name.to_owned())).into()),
        }
    }

    /// Checks the topics of the user, then makes or checks those of the application. Gives the partition counts of the
    /// sub-topologies.
    pub fn prepare(&self, plan: &Plan, defaults: &TopicDefaults, create: bool) -> Result<Vec<u32>, Trouble> {
        let users = topics_of_users(plan);
        let names: Vec<&str> = users.keys().copied().collect();
        let mut found = self.describe(&names)?;
        let absent: Vec<&str> = names.iter().copied().filter(|name| !found.contains_key(*name)).collect();
        if !absent.is_empty() {
            if !create {
                return Err(missing_of(&users, &absent).into());
            }
            let kept = |name: &str| {
                let source = sources(plan).find(|source| source.topic == name);
                source.map_or_else(kept_for_ever, Source::kept)
            };
            let topics = absent.iter().map(|name| NewTopic {
                name: (*name).to_owned(),
                partitions: defaults.partitions.unwrap_or(1) as i32,
                replication: defaults.replication(),
                config: defaults.config().chain([kept(name)]).collect(),
            });
            self.create(&topics.collect::<Vec<_>>())?;
            found = self.describe(&names)?;
        }
        let counts = plan
            .partitions(|topic| found.get(topic).map_or(1, |topic| topic.partitions as u32))
            .map_err(|error| Trouble::from(RuntimeError::Plan(error)))?;
        self.prepare_internal(&internal_topics(plan, &counts, defaults))?;
        for source in sources(plan) {
            match self.forgets(plan, source) {
                Ok(Some((_, forgets))) => tracing::warn!("{forgets}"),
                Ok(None) => {}
                // It could run all the same.
                Err(Trouble::Failed(error)) => {
                    tracing::warn!("how long topic `{}` keeps records is not known: {error}", source.topic)
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(counts)
    }

    /// Whether all topics that were there when the run began still are, and those that are read are the same. Brokers may learn
    /// late of a topic, so that one counts as deleted, or as another one, only when it stays so.
    pub fn still_exist(&self, plan: &Plan, counts: &[u32], defaults: &TopicDefaults) -> Result<(), Trouble> {
        let users = topics_of_users(plan);
        let internal = internal_topics(plan, counts, defaults);
        let internal: Vec<&str> = internal.iter().map(|internal| internal.new.name.as_str()).collect();
        let names: Vec<&str> = users.keys().copied().chain(internal.iter().copied()).collect();
        let mut absent = names;
        let mut others = topics_that_are_read(plan);
        others.extend(globals(plan).map(|source| &*source.topic));
        for _ in 0..3 {
            let asked: Vec<&str> =
                absent.iter().chain(&others).copied().collect::<BTreeSet<_>>().into_iter().collect();
            let found = self.describe(&asked)?;
            absent.retain(|name| !found.contains_key(*name));
            others.retain(|name| found.get(*name).is_some_and(|topic| topic.id != self.id(name)));
            if absent.is_empty() && others.is_empty() {
                return Ok(());
            }
            threads::sleep(Duration::from_millis(500));
        }
        let (anew, others): (Vec<&str>, Vec<&str>) =
            others.into_iter().partition(|topic| globals(plan).any(|source| source.topic == *topic));
        if !anew.is_empty() {
            self.forget(&anew);
            self.describe(&anew)?;
        }
        if !others.is_empty() {
            let topics = others.into_iter().map(str::to_owned).collect();
            return Err(RuntimeError::Topics(TopicError::MadeAnew { topics }).into());
        }
        if !anew.is_empty() {
            let topics = anew.into_iter().map(str::to_owned).collect();
            return Err(RuntimeError::Topics(TopicError::GlobalMadeAnew { topics }).into());
        }
        let (internal, absent): (Vec<&str>, Vec<&str>) =
            absent.into_iter().partition(|name| internal.contains(name));
        if !absent.is_empty() {
            return Err(missing_of(&users, &absent).into());
        }
        let topics = internal.into_iter().map(str::to_owned).collect();
        Err(RuntimeError::Topics(TopicError::Deleted { topics }).into())
    }

    /// The largest batch of records, in bytes, that all topics take which are written under a fixed name, so far as they say
    /// before the process is asked to end.
    pub fn largest_batch(
        &self,
        plan: &Plan,
        counts: &[u32],
        defaults: &TopicDefaults,
        shutdown: Shutdown<'_>,
    ) -> usize {
        let internal = internal_topics(plan, counts, defaults).into_iter().map(|internal| internal.new.name);
        let topics = internal.chain(sinks(plan).map(|(topic, _)| topic.to_owned()));
        let mut largest = usize::MAX;
        for topic in topics.take_while(|_| !shutdown()) {
            match self.admin().topic_config(&topic) {
                Ok(config) => {
                    let taken = config.get("max.message.bytes").and_then(|bytes| bytes.parse().ok());
                    largest = taken.map_or(largest, |taken| largest.min(taken));
                }
                // Most topics take as much as the brokers do: it is not worth waiting for each of them.
                Err(error) if error.is_timeout() => break,
                // It may not be allowed to know.
                Err(error) => tracing::debug!(topic, %error, "what batches a topic takes is not known"),
            }
        }
        largest
    }

    /// What a topic forgets that an application would miss that starts anew.
    fn forgets(&self, plan: &Plan, source: &Source) -> Result<Option<(Code, String)>, Trouble> {
        let topic = &source.topic;
        if source.table.is_some() {
            let kept = retention(&self.config(topic)?).is_none();
            let forgets = || {
                format!(
                    "topic `{topic}` removes old records, but `{}` is a table: an application that starts anew misses rows. Run: \
                     kafka-configs.sh --bootstrap-server … --alter --topic {topic} --add-config cleanup.policy=compact",
                    source.name
                )
            };
            return Ok((!kept).then(|| (Code::TableTopic, forgets())));
        }
        let Some((step, window)) = plan.looks_back(topic) else { return Ok(None) };
        let retention = retention(&self.config(topic)?).filter(|retention| *retention < window);
        let short =
            |retention| ShortRetention { topic: topic.clone(), retention, step: step.to_owned(), window };
        Ok(retention.map(|retention| (Code::TopicRetention, short(retention).to_string())))
    }

    fn config(&self, topic: &str) -> Result<BTreeMap<String, String>, Trouble> {
        let config = self.admin().topic_config(topic);
        config.map_err(|error| Trouble::kafka(format!("read the settings of topic `{topic}`"), error))
    }

    /// Everything that keeps [`prepare`](Self::prepare) from succeeding, and what it warns of. Nothing is made.
    pub fn examine(&self, plan: &Plan, defaults: &TopicDefaults) -> Result<Vec<TopicFinding>, Trouble> {
        let mut findings = Findings::default();
        let mut found = BTreeMap::new();
        let read: BTreeSet<&str> = sources(plan).map(|source| source.topic.as_str()).collect();
        for (topic, node) in topics_of_users(plan) {
            let described = self.look(topic).and_then(|found| {
                let missing = || TopicError::Missing { topics: vec![(topic.to_owned(), node.to_owned())] };
                found.ok_or_else(|| RuntimeError::Topics(missing()).into())
            });
            let Some(described) = findings.unless_said(node, described)? else { continue };
            let source = [Operation::Read, Operation::DescribeConfigs];
            let needed: &[Operation] = if read.contains(topic) { &source } else { &[Operation::Write] };
            findings.permissions(node, topic, &described, needed);
            found.insert(topic, described.partitions as u32);
        }
        for source in sources(plan).filter(|source| found.contains_key(&*source.topic)) {
            if let Some(Some((code, forgets))) =
                findings.unless_said(&source.name, self.forgets(plan, source))?
            {
                findings.say(&source.name, code, Severity::Warning, forgets);
            }
        }
        // What internal topics must be like follows from those of the sources.
        if read.iter().any(|topic| !found.contains_key(topic)) {
            return Ok(findings.0);
        }
        let counts = match plan.partitions(|topic| found.get(topic).copied().unwrap_or(1)) {
            Ok(counts) => counts,
            Err(error) => {
                let PlanError::PartitionCounts { second, .. } = &error else {
                    return Err(RuntimeError::Plan(error).into());
                };
                findings.say(second, Code::PartitionCounts, Severity::Error, error.to_string());
                return Ok(findings.0);
            }
        };
        for internal in internal_topics(plan, &counts, defaults) {
            let InternalTopic { topic, node, purpose, .. } = &internal.topic;
            let described = findings.unless_said(node, self.look(topic))?;
            // One that is missing is made.
            if let Some(Some(described)) = described {
                let checked = self.check_internal(&internal.topic, described.partitions as u32);
                findings.unless_said(node, checked)?;
                findings.permissions(node, topic, &described, operations(*purpose));
            }
        }
        Ok(findings.0)
    }

    fn look(&self, topic: &str) -> Result<Option<TopicDescription>, Trouble> {
        let found = self.admin().topics(&[topic]);
        let found = found.map_err(|error| Trouble::kafka(format!("describe topic `{topic}`"), error))?;
        Ok(found.into_iter().next().flatten())
    }

    fn describe(&self, names: &[&str]) -> Result<BTreeMap<String, TopicDescription>, Trouble> {
        let found = self.admin().topics(names).map_err(|error| Trouble::kafka("describe topics", error))?;
        let found: BTreeMap<String, TopicDescription> =
            names.iter().zip(found).filter_map(|(name, topic)| Some(((*name).to_owned(), topic?))).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(found.iter().map(|(name, topic)| (name.clone(), topic.partitions as u32)));
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, topic) in &found {
            ids.entry(name.clone()).or_insert_with(|| topic.id.clone());
        }
        Ok(found)
    }

    /// Lets topics be seen as if for the first time.
    fn forget(&self, names: &[&str]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            known.remove(*name);
            ids.remove(*name);
        }
    }

    /// The id that a topic had when it was described first; empty where it was not.
    pub fn id(&self, name: &str) -> String {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.get(name).cloned().unwrap_or_default()
    }

    fn create(&self, topics: &[NewTopic]) -> Result<(), Trouble> {
        for topic in topics {
            tracing::info!(topic = topic.name, partitions = topic.partitions, "making topic");
        }
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        self.admin()
            .create_topics(topics)
            .map_err(|error| Trouble::kafka(format!("make the topics {}", names.join(", ")), error))
    }

    fn prepare_internal(&self, topics: &[Internal]) -> Result<(), Trouble> {
        let names: Vec<&str> = topics.iter().map(|topic| topic.new.name.as_str()).collect();
        let found = self.describe(&names)?;
        let absent: Vec<NewTopic> = topics
            .iter()
            .filter(|topic| !found.contains_key(&topic.new.name))
            .map(|topic| topic.new.clone())
            .collect();
        if !absent.is_empty() {
            self.create(&absent)?;
            self.await_topics(&absent)?;
        }
        for topic in topics {
            if let Some(found) = found.get(&topic.new.name) {
                self.check_internal(&topic.topic, found.partitions as u32)?;
            }
        }
        Ok(())
    }

    /// Checks a topic of the application that exists, with `count` partitions.
    fn check_internal(&self, internal: &InternalTopic, count: u32) -> Result<(), Trouble> {
        let InternalTopic { topic, purpose, partitions, .. } = internal;
        if count != *partitions {
            let (topic, expected) = (topic.clone(), *partitions);
            return Err(RuntimeError::Topics(TopicError::Partitions { topic, found: count, expected }).into());
        }
        let needed = purpose.needed();
        if needed.is_empty() { Ok(()) } else { check_settings(topic, &needed, &self.config(topic)?) }
    }

    /// Another process may have made them, and brokers learn of a new topic one after the other.
    fn await_topics(&self, topics: &[NewTopic]) -> Result<(), Trouble> {
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        for _ in 0..100 {
            let found = self.describe(&names)?;
            if topics.iter().all(|topic| found.get(&topic.name).is_some_and(|found| found.partitions > 0)) {
                return Ok(());
            }
            threads::sleep(Duration::from_millis(100));
        }
        Err(Trouble::Again("new topics do not appear".to_owned()))
    }
}

/// The error that these topics of the user do not exist.
fn missing_of(users: &BTreeMap<&str, &str>, absent: &[&str]) -> RuntimeError {
    let node = |name: &str| users.get(name).copied().unwrap_or_default().to_owned();
    let topics = absent.iter().map(|name| ((*name).to_owned(), node(name))).collect();
    RuntimeError::Topics(TopicError::Missing { topics })
}

/// The topics that the user has named, each with a node that does.
fn topics_of_users(plan: &Plan) -> BTreeMap<&str, &str> {
    let mut users: BTreeMap<&str, &str> =
        sources(plan).map(|source| (source.topic.as_str(), source.name.as_str())).collect();
    for (topic, sink) in sinks(plan) {
        users.entry(topic).or_insert(sink);
    }
    users
}

/// The topics whose offsets the application keeps: sources, repartition topics and changelogs.
fn topics_that_are_read(plan: &Plan) -> BTreeSet<&str> {
    let inputs = plan.sub_topologies.iter().flat_map(|sub| &sub.inputs).map(|input| &*input.topic);
    let changelogs = plan.sub_topologies.iter().flat_map(|sub| &sub.stores).map(|store| &*store.changelog);
    inputs.chain(changelogs).collect()
}

/// The topics of sinks, each with its sink, but for those that are computed for each row.
fn sinks(plan: &Plan) -> impl Iterator<Item = (&str, &str)> {
    let outputs = plan.sub_topologies.iter().flat_map(|sub| &sub.outputs);
    outputs.filter_map(|output| {
        let PlanOutput::Sink { sink, .. } = output else { return None };
        let SinkTopic::Fixed(topic) = &sink.topic else { return None };
        Some((topic.as_str(), sink.name.as_str()))
    })
}

fn sources(plan: &Plan) -> impl Iterator<Item = &Source> {
    let inputs = plan.sub_topologies.iter().flat_map(|sub| &sub.inputs);
    let of_tasks = inputs.filter_map(|input| match &input.origin {
        Origin::Source(source) => Some(&**source),
        Origin::Repartition { .. } => None,
    });
    of_tasks.chain(globals(plan))
}

/// The global tables.
fn globals(plan: &Plan) -> impl Iterator<Item = &Source> {
    plan.globals.iter().map(|table| &*table.source)
}

/// What is found of topics.
#[derive(Default)]
struct Findings(Vec<TopicFinding>);

impl Findings {
    fn say(&mut self, node: &str, code: Code, severity: Severity, message: String) {
        self.0.push(TopicFinding { node: node.to_owned(), code, severity, message });
    }

    /// What was seen of a topic of `node`. That it is not as it should be, or may not be looked at, is a finding.
    fn unless_said<T>(&mut self, node: &str, outcome: Result<T, Trouble>) -> Result<Option<T>, Trouble> {
        let error = match outcome {
            Ok(seen) => return Ok(Some(seen)),
            Err(Trouble::Failed(error)) => error,
            Err(trouble) => return Err(trouble),
        };
        let code = match &*error {
            RuntimeError::Topics(error) => error.code(),
            RuntimeError::Kafka { error, .. } if error.is_authorization() => Some(Code::TopicPermission),
            _ => None,
        };
        let Some(code) = code else { return Err(Trouble::Failed(error)) };
        self.say(node, code, Severity::Error, error.to_string());
        Ok(None)
    }

    fn permissions(&mut self, node: &str, topic: &str, found: &TopicDescription, needed: &[Operation]) {
        let missing = needed.iter().filter(|operation| !found.allowed.contains(operation));
        let missing: Vec<&str> = missing.map(|operation| operation.name()).collect();
        if !missing.is_empty() {
            let message = format!(
                "the principal lacks {} on topic `{topic}`: see \"Permissions\" in docs/kafka.md. Run: kafka-acls.sh \
                 --bootstrap-server … --add --allow-principal User:… --operation {} --topic {topic}",
                listed(missing.iter().copied()),
                missing.join(" --operation "),
            );
            self.say(node, Code::TopicPermission, Severity::Error, message);
        }
    }
}

/// Brokers remove records by their timestamps, and events may be as old as they are.
fn kept_for_ever() -> (String, String) {
    ("retention.ms".to_owned(), "-1".to_owned())
}

/// A topic of the application's own, and what brokers are told of it.
struct Internal {
    topic: InternalTopic,
    new: NewTopic,
}

/// What the application does with a topic of its own.
fn operations(purpose: Purpose) -> &'static [Operation] {
    use Operation::{Delete, DescribeConfigs, Read, Write};
    match purpose {
        Purpose::Repartition => &[Read, Write, Delete, DescribeConfigs],
        Purpose::Changelog(_) => &[Read, Write, DescribeConfigs],
        Purpose::DeadLetters => &[Write],
    }
}

fn internal_topics(plan: &Plan, counts: &[u32], defaults: &TopicDefaults) -> Vec<Internal> {
    let made = |topic: InternalTopic| {
        let mut config: Vec<(String, String)> = defaults.config().collect();
        config.extend(
            defaults.max_message_bytes.map(|bytes| ("max.message.bytes".to_owned(), bytes.to_string())),
        );
        config.extend(topic.purpose.settings().map(|(setting, value)| (setting.to_owned(), value)));
        let new = NewTopic {
            name: topic.topic.clone(),
            partitions: topic.partitions as i32,
            replication: defaults.replication(),
            config,
        };
        Internal { topic, new }
    };
    plan.internal_topics(counts).into_iter().map(made).collect()
}

fn check_settings(
    topic: &str,
    needed: &[(&'static str, Needed)],
    config: &BTreeMap<String, String>,
) -> Result<(), Trouble> {
    for (setting, needed) in needed {
        let Some(found) = config.get(*setting).filter(|found| !needed.fits(found)) else { continue };
        return Err(RuntimeError::Topics(TopicError::Setting {
            topic: topic.to_owned(),
            setting: (*setting).to_owned(),
            found: found.clone(),
            expected: needed.expected(),
            fix: needed.fix(),
        })
        .into());
    }
    Ok(())
}
