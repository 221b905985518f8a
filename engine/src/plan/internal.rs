//! The topics of the application's own: what each is for, and how brokers must keep it.

use millstream_operators::operator::StoreKind;

use super::{Origin, Plan};
use crate::topology::OnError;

const HOUR: i64 = 3_600_000;

/// The shortest time that a windowed store's changelog is kept, in milliseconds.
const WEEK: i64 = 7 * 24 * HOUR;

/// A topic of the application's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalTopic {
    /// The topic.
    pub topic: String,
    /// The source or step that it belongs to.
    pub node: String,
    /// What it is for.
    pub purpose: Purpose,
    /// How many partitions it must have.
    pub partitions: u32,
}

/// What a topic of the application is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Rows on their way to the tasks of their keys.
    Repartition,
    /// The changes of a store.
    Changelog(StoreKind),
    /// Records that failed.
    DeadLetters,
}

/// What a setting of an internal topic must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needed {
    /// A list with these items, in any order.
    Is(&'static str),
    /// At least so many milliseconds; negative is for ever.
    AtLeast(i64),
}

impl Purpose {
    /// `repartition`, `changelog` or `dead-letter`.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Repartition => "repartition",
            Purpose::Changelog(_) => "changelog",
            Purpose::DeadLetters => "dead-letter",
        }
    }

    /// The settings without which records would go that are needed, or stay for ever.
    pub fn needed(self) -> Vec<(&'static str, Needed)> {
        match self {
            // Consumed records are removed by us: nothing else may.
            Purpose::Repartition => {
                vec![("cleanup.policy", Needed::Is("delete")), ("retention.ms", Needed::AtLeast(-1))]
            }
            Purpose::Changelog(StoreKind::KeyValue) => vec![("cleanup.policy", Needed::Is("compact"))],
            Purpose::Changelog(StoreKind::Window { retention }) => vec![
                ("cleanup.policy", Needed::Is("compact,delete")),
                ("message.timestamp.type", Needed::Is("LogAppendTime")),
                (
                    "retention.ms",
                    Needed::AtLeast(retention.saturating_mul(2).saturating_add(24 * HOUR).max(WEEK)),
                ),
            ],
            Purpose::DeadLetters => Vec::new(),
        }
    }

    /// The settings with which it is made.
    pub fn settings(self) -> impl Iterator<Item = (&'static str, String)> {
        let wanted = match self {
            // Brokers refuse a time that is far from theirs, and the clock of who writes says nothing here.
            Purpose::Changelog(StoreKind::KeyValue) => Some(("message.timestamp.type", "LogAppendTime")),
            // Brokers remove records by their timestamps, and events may be as old as they are.
            Purpose::DeadLetters => Some(("retention.ms", "-1")),
            Purpose::Repartition | Purpose::Changelog(_) => None,
        };
        let needed = self.needed().into_iter().map(|(setting, needed)| (setting, needed.fix()));
        needed.chain(wanted.map(|(setting, value)| (setting, value.to_owned())))
    }
}

impl Needed {
    /// A value that is right.
    pub fn fix(&self) -> String {
        match self {
            Needed::Is(value) => (*value).to_owned(),
            Needed::AtLeast(millis) => millis.to_string(),
        }
    }

    /// Whether a value is right.
    pub fn fits(&self, found: &str) -> bool {
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

    /// What is right, in words.
    pub fn expected(&self) -> String {
        match self {
            Needed::Is(value) => format!("`{value}`"),
            Needed::AtLeast(-1) => "-1 (for ever)".to_owned(),
            Needed::AtLeast(least) => format!("at least {least}"),
        }
    }
}

impl Plan {
    /// The topics of the application's own, when its sub-topologies have `counts` partitions.
    pub fn internal_topics(&self, counts: &[u32]) -> Vec<InternalTopic> {
        let mut topics: Vec<InternalTopic> = Vec::new();
        for (sub, partitions) in self.sub_topologies.iter().zip(counts) {
            let mut add = |node: &str, topic: &str, purpose| {
                // Nodes may share a topic of dead letters.
                if !topics.iter().any(|known| known.topic == topic) {
                    let (node, topic) = (node.to_owned(), topic.to_owned());
                    topics.push(InternalTopic { topic, node, purpose, partitions: *partitions });
                }
            };
            for input in &sub.inputs {
                match &input.origin {
                    Origin::Repartition { .. } => add(&input.node, &input.topic, Purpose::Repartition),
                    Origin::Source(source) if source.on_error == OnError::DeadLetter => {
                        add(&source.name, &source.dead_letter, Purpose::DeadLetters);
                    }
                    Origin::Source(_) => {}
                }
            }
            for node in sub.nodes.iter().filter(|node| node.on_error == OnError::DeadLetter) {
                add(&node.name, &node.dead_letter, Purpose::DeadLetters);
            }
            for (number, store) in sub.stores.iter().enumerate() {
                let owner = sub.keepers(number).next().map_or("", |node| &node.name);
                add(owner, &store.changelog, Purpose::Changelog(store.kind));
            }
        }
        topics
    }
}
