//! Whose a topic is: what sinks and dead letters must not be written to.

use std::collections::BTreeMap;

/// The topics that a topology reads or fills by itself.
#[derive(Clone, Debug, Default)]
pub struct TakenTopics {
    app: String,
    /// Topics that sources read, with the source.
    read: BTreeMap<String, String>,
    /// Topics of dead letters, with the first node whose they are.
    dead_letters: BTreeMap<String, String>,
}

/// What keeps a topic from being written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A source reads it.
    Read(String),
    /// It holds the dead letters of a node.
    DeadLetters(String),
    /// Its name is one of a repartition or changelog topic.
    Internal,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Taken::Read(source) => write!(f, "the source `{source}` reads it, so the record would come back"),
            Taken::DeadLetters(node) => write!(f, "it holds the dead letters of `{node}`"),
            Taken::Internal => f.write_str("repartition and changelog topics are the application's own"),
        }
    }
}

impl TakenTopics {
    /// For the application `app`.
    pub fn new(app: &str) -> Self {
        TakenTopics { app: app.to_owned(), ..TakenTopics::default() }
    }

    pub(super) fn add_source(&mut self, topic: &str, source: &str) {
        self.read.insert(topic.to_owned(), source.to_owned());
    }

    pub(super) fn add_dead_letters(&mut self, topic: &str, node: &str) {
        self.dead_letters.entry(topic.to_owned()).or_insert_with(|| node.to_owned());
    }

    /// Whether a topic's name is one that the application gives its repartition and changelog topics.
    pub fn is_internal(&self, topic: &str) -> bool {
        let rest = topic.strip_prefix(self.app.as_str()).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| rest.ends_with("-repartition") || rest.ends_with("-changelog"))
    }

    /// Why a sink may not write to a topic; `None`: it may.
    pub fn taken(&self, topic: &str) -> Option<Taken> {
        let read = self.read.get(topic).map(|source| Taken::Read(source.clone()));
        let dead_letters = || self.dead_letters.get(topic).map(|node| Taken::DeadLetters(node.clone()));
        read.or_else(dead_letters).or_else(|| self.is_internal(topic).then_some(Taken::Internal))
    }
}
