//! The topics of a run: those of the user are checked, those of the application are made.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use millstream_operators::operator::StoreKind;

use super::error::{RuntimeError, Trouble};
use crate::kafka::{Admin, ClientSettings, NewTopic};
use crate::plan::{Origin, Plan, PlanOutput};
use crate::topology::{OnError, SinkTopic, TopicDefaults};

const HOUR: i64 = 3_600_000;

/// The shortest time that a windowed store's changelog is kept.
const WEEK: i64 = 7 * 24 * HOUR;

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
        "the internal topic `{topic}` has {found} partitions, this topology needs {expected}: the partitions of its input have \
         changed since it was made. Keys would be found in other partitions than their state; refused because it would lose \
         data. Give the input its {found} partitions back, or start under another `app.id`"
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
    /// A topic that a row names does not exist.
    #[error(
        "topic `{0}`, which a sink computes for a row, does not exist: make it, or let the expression name topics that exist"
    )]
    Computed(String),
}

impl TopicError {
    /// Whether going on would lose data.
    pub fn is_refusal(&self) -> bool {
        matches!(self, TopicError::Partitions { .. } | TopicError::Setting { .. })
    }
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
}

/// How long a question to the brokers may take.
pub(super) const ANSWER: Duration = Duration::from_secs(15);

impl Topics {
    pub fn new(admin: Arc<Admin>) -> Self {
        Topics { admin: Mutex::new(admin), known: Mutex::default() }
    }

    /// The client that asks the brokers.
    pub fn admin(&self) -> Arc<Admin> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new client in its place: one that has seen leaders before a broker was away goes on asking them.
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
        let mut users: BTreeMap<&str, &str> = BTreeMap::new();
        for sub in &plan.sub_topologies {
            for input in &sub.inputs {
                if let Origin::Source(source) = &input.origin {
                    users.insert(&source.topic, &source.name);
                }
            }
            for output in &sub.outputs {
                if let PlanOutput::Sink { sink, .. } = output
                    && let SinkTopic::Fixed(topic) = &sink.topic
                {
                    users.entry(topic).or_insert(&sink.name);
                }
            }
        }
        let names: Vec<&str> = users.keys().copied().collect();
        let mut found = self.describe(&names)?;
        let absent: Vec<&str> = names.iter().copied().filter(|name| !found.contains_key(*name)).collect();
        if !absent.is_empty() {
            if !create {
                let named = |name: &&str| ((*name).to_owned(), users.get(name).map_or("", |n| n).to_owned());
                let topics = absent.iter().map(named).collect();
                return Err(RuntimeError::Topics(TopicError::Missing { topics }).into());
            }
            let topics = absent.iter().map(|name| NewTopic {
                name: (*name).to_owned(),
                partitions: defaults.partitions.unwrap_or(1) as i32,
                replication: defaults.replication(),
                config: defaults.config().chain([kept_for_ever()]).collect(),
            });
            self.create(&topics.collect::<Vec<_>>())?;
            found = self.describe(&names)?;
        }
        let counts = plan
            .partitions(|topic| found.get(topic).copied().unwrap_or(1))
            .map_err(|error| Trouble::from(RuntimeError::Plan(error)))?;
        self.prepare_internal(&internal_topics(plan, &counts, defaults))?;
        Ok(counts)
    }

    fn describe(&self, names: &[&str]) -> Result<BTreeMap<String, u32>, Trouble> {
        let found = self.admin().topics(names).map_err(|error| Trouble::kafka("describe topics", error))?;
        let found: BTreeMap<String, u32> = names
            .iter()
            .zip(found)
            .filter_map(|(name, topic)| Some(((*name).to_owned(), topic?.partitions as u32)))
            .collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(found.iter().map(|(name, count)| (name.clone(), *count)));
        Ok(found)
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
        for Internal { new, needed } in topics.iter().filter(|topic| found.contains_key(&topic.new.name)) {
            let count = found.get(&new.name).copied().unwrap_or_default();
            if i64::from(count) != i64::from(new.partitions) {
                let (topic, expected) = (new.name.clone(), new.partitions.unsigned_abs());
                return Err(
                    RuntimeError::Topics(TopicError::Partitions { topic, found: count, expected }).into()
                );
            }
            if !needed.is_empty() {
                let config = self.admin().topic_config(&new.name).map_err(|error| {
                    Trouble::kafka(format!("read the settings of topic `{}`", new.name), error)
                })?;
                check_settings(&new.name, needed, &config)?;
            }
        }
        Ok(())
    }

    /// Another process may have made them, and brokers learn of a new topic one after the other.
    fn await_topics(&self, topics: &[NewTopic]) -> Result<(), Trouble> {
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        for _ in 0..100 {
            let found = self.describe(&names)?;
            if topics.iter().all(|topic| found.get(&topic.name).is_some_and(|count| *count > 0)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(Trouble::Again("new topics do not appear".to_owned()))
    }
}

/// Brokers remove records by their timestamps, and events may be as old as they are.
fn kept_for_ever() -> (String, String) {
    ("retention.ms".to_owned(), "-1".to_owned())
}

/// What a setting of an internal topic must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Needed {
    /// A list with these items, in any order.
    Is(&'static str),
    /// At least so many milliseconds; negative is for ever.
    AtLeast(i64),
}

struct Internal {
    new: NewTopic,
    needed: Vec<(&'static str, Needed)>,
}

fn internal_topics(plan: &Plan, counts: &[u32], defaults: &TopicDefaults) -> Vec<Internal> {
    let mut topics = Vec::new();
    let mut add =
        |name: &str, partitions: u32, needed: Vec<(&'static str, Needed)>, more: Option<(String, String)>| {
            let mut config: Vec<(String, String)> = defaults.config().collect();
            config.extend(
                defaults.max_message_bytes.map(|bytes| ("max.message.bytes".to_owned(), bytes.to_string())),
            );
            config.extend(needed.iter().map(|(setting, needed)| ((*setting).to_owned(), needed.fix())));
            config.extend(more);
            let new = NewTopic {
                name: name.to_owned(),
                partitions: partitions as i32,
                replication: defaults.replication(),
                config,
            };
            topics.push(Internal { new, needed });
        };
    for (sub, count) in plan.sub_topologies.iter().zip(counts) {
        for input in &sub.inputs {
            match &input.origin {
                // Consumed records are removed by us: nothing else may.
                Origin::Repartition { .. } => add(
                    &input.topic,
                    *count,
                    vec![("cleanup.policy", Needed::Is("delete")), ("retention.ms", Needed::AtLeast(-1))],
                    None,
                ),
                Origin::Source(source) if source.on_error == OnError::DeadLetter => {
                    add(&source.dead_letter, *count, Vec::new(), Some(kept_for_ever()));
                }
                Origin::Source(_) => {}
            }
        }
        for node in sub.nodes.iter().filter(|node| node.on_error == OnError::DeadLetter) {
            add(&node.dead_letter, *count, Vec::new(), Some(kept_for_ever()));
        }
        for store in &sub.stores {
            let needed = match store.kind {
                StoreKind::KeyValue => vec![("cleanup.policy", Needed::Is("compact"))],
                StoreKind::Window { retention } => vec![
                    ("cleanup.policy", Needed::Is("compact,delete")),
                    ("message.timestamp.type", Needed::Is("LogAppendTime")),
                    (
                        "retention.ms",
                        Needed::AtLeast(retention.saturating_mul(2).saturating_add(24 * HOUR).max(WEEK)),
                    ),
                ],
            };
            // Brokers refuse a time that is far from theirs, and the clock of who writes says nothing here.
            let more = matches!(store.kind, StoreKind::KeyValue)
                .then(|| ("message.timestamp.type".to_owned(), "LogAppendTime".to_owned()));
            add(&store.changelog, *count, needed, more);
        }
    }
    topics.sort_by(|a, b| a.new.name.cmp(&b.new.name));
    topics.dedup_by(|a, b| a.new.name == b.new.name);
    topics
}

impl Needed {
    fn fix(&self) -> String {
        match self {
            Needed::Is(value) => (*value).to_owned(),
            Needed::AtLeast(millis) => millis.to_string(),
        }
    }

    fn fits(&self, found: &str) -> bool {
        match self {
            Needed::Is(value) => {
                let sorted = |text: &str| {
                    let mut items: Vec<String> = text.split(',').map(|item| item.trim().to_owned()).collect();
                    items.sort();
                    items
                };
                sorted(value) == sorted(found)
            }
            Needed::AtLeast(least) => match found.parse::<i64>() {
                Ok(found) => found < 0 || (*least >= 0 && found >= *least),
                Err(_) => false,
            },
        }
    }
}

fn check_settings(
    topic: &str,
    needed: &[(&'static str, Needed)],
    config: &BTreeMap<String, String>,
) -> Result<(), Trouble> {
    for (setting, needed) in needed {
        let Some(found) = config.get(*setting).filter(|found| !needed.fits(found)) else { continue };
        let expected = match needed {
            Needed::Is(value) => format!("`{value}`"),
            Needed::AtLeast(-1) => "-1 (for ever)".to_owned(),
            Needed::AtLeast(least) => format!("at least {least}"),
        };
        return Err(RuntimeError::Topics(TopicError::Setting {
            topic: topic.to_owned(),
            setting: (*setting).to_owned(),
            found: found.clone(),
            expected,
            fix: needed.fix(),
        })
        .into());
    }
    Ok(())
}
