//! What a user must be allowed, as in "Permissions" of docs/kafka.md.

use std::collections::BTreeSet;

use crate::kafka::{KafkaError, Security};
use crate::plan::{Origin, Plan, PlanOutput};
use crate::topology::SinkTopic;

/// What the user needs for what was refused, and the command that gives it. `action` and the error name the topics. `creates`:
/// whether topics of sources and sinks are made, too.
pub(super) fn missing(
    action: &str,
    error: &KafkaError,
    plan: &Plan,
    creates: bool,
    brokers: &str,
    security: &Security,
) -> String {
    let (operations, resource, options) = if error.is_topic_authorization() {
        topics(&format!("{action}: {error}"), plan, creates)
    } else if error.is_transactional_id_authorization() {
        let own = format!("{}-", plan.app);
        let options = format!("--transactional-id {own} --resource-pattern-type prefixed");
        (vec!["Describe", "Write"], format!("the transactional ids that begin with `{own}`"), options)
    } else if error.is_group_authorization() {
        (vec!["Read"], format!("the group `{}`", plan.app), format!("--group {}", plan.app))
    } else {
        (vec!["IdempotentWrite"], "the cluster".to_owned(), "--cluster".to_owned())
    };
    let user = security.username.as_deref().unwrap_or("…");
    let listed = operations.join(" and ");
    let flags: String = operations.iter().map(|operation| format!(" --operation {operation}")).collect();
    format!(
        "the user needs {listed} on {resource}: kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal \
         User:{user}{flags} {options}"
    )
}

/// The topics of sources and sinks that are named; if none is, it is one of the application's own.
fn topics(said: &str, plan: &Plan, creates: bool) -> (Vec<&'static str>, String, String) {
    let mut named = BTreeSet::new();
    let mut operations = BTreeSet::new();
    let mut add = |topic: &str, operation| {
        if is_named(said, topic) {
            named.insert(topic.to_owned());
            operations.insert(operation);
        }
    };
    for table in &plan.globals {
        add(&table.source.topic, "Read");
    }
    for sub in &plan.sub_topologies {
        for input in &sub.inputs {
            if let Origin::Source(source) = &input.origin {
                add(&source.topic, "Read");
            }
        }
        for output in &sub.outputs {
            if let PlanOutput::Sink { sink, .. } = output
                && let SinkTopic::Fixed(topic) = &sink.topic
            {
                add(topic, "Write");
            }
        }
    }
    if named.is_empty() {
        let own = format!("{}-", plan.app);
        return (
            vec!["Create", "Read", "Write", "Delete", "DescribeConfigs"],
            format!("the topics that begin with `{own}`"),
            format!("--topic {own} --resource-pattern-type prefixed"),
        );
    }
    operations.extend(creates.then_some("Create"));
    let each: Vec<String> = named.iter().map(|topic| format!("`{topic}`")).collect();
    let flags: Vec<String> = named.iter().map(|topic| format!("--topic {topic}")).collect();
    (operations.into_iter().collect(), format!("topic {}", each.join(", ")), flags.join(" "))
}

/// Whether a text has this topic's name as a whole.
fn is_named(text: &str, topic: &str) -> bool {
    let part = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    text.match_indices(topic).any(|(start, _)| {
        let before = text.get(..start).and_then(|before| before.chars().next_back());
        let after = text.get(start + topic.len()..).and_then(|after| after.chars().next());
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}
