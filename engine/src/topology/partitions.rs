//! Partition counts that the file itself gives: rows that meet in one task come from topics with equal counts.

use std::collections::{BTreeMap, BTreeSet};

use millstream_operators::config::Fields;
use millstream_operators::diagnostic::{Code, Diagnostic, Diagnostics, Span};
use millstream_operators::operator::Feed;

use super::StepNode;

/// A count with the place where it is given.
type Count = (u32, Span);

/// The `rekey` steps after which a repartition topic follows: a path leads from them to a step that finds rows by key. `steps`
/// come after their inputs.
pub(crate) fn rekeys_with_topic(steps: &[StepNode]) -> BTreeSet<&str> {
    let mut with_topic = BTreeSet::new();
    // Against the flow: whether rows of a step's output must lie in the partition of their key.
    let mut needed: BTreeMap<&str, bool> = BTreeMap::new();
    for step in steps.iter().rev() {
        let needs = steps
            .iter()
            .filter(|consumer| {
                let mut inputs = consumer.inputs.iter().enumerate();
                inputs.any(|(number, input)| input.node == step.name && consumer.resolved.reads_input(number))
            })
            .any(|consumer| {
                let by_key = consumer.spec.keyed && consumer.global.is_none();
                let rekeys = consumer.resolved.rekeys.is_some();
                by_key || (!rekeys && needed.get(consumer.name.as_str()) == Some(&true))
            });
        needed.insert(&step.name, needs);
        if needs && step.resolved.rekeys.is_some() {
            with_topic.insert(step.name.as_str());
        }
    }
    with_topic
}

/// Reports steps at which rows meet that come from repartition topics with different `partitions`. How many partitions a
/// source's topic has is only known to the brokers.
pub(super) fn check(steps: &[StepNode], placed: &BTreeMap<&str, &Fields<'_>>, diagnostics: &Diagnostics) {
    let with_topic = rekeys_with_topic(steps);
    let place = |step: &StepNode, key: &str| {
        placed.get(step.name.as_str()).map_or(0..0, |fields| fields.key_span(key))
    };
    let mut parts = Parts::default();
    // The part of the graph to which the outputs of a source or step belong.
    let mut outputs: BTreeMap<&str, usize> = BTreeMap::new();
    for step in steps {
        let inputs: Vec<usize> = step
            .inputs
            .iter()
            .map(|input| *outputs.entry(&input.node).or_insert_with(|| parts.add(None)))
            .collect();
        // What reads a repartition topic is another part.
        let mut topics = Vec::new();
        let all: Vec<Feed> = (0..inputs.len()).map(Feed::Input).collect();
        let stages = step.resolved.stages.iter().map(|stage| (&stage.reads, Some(stage)));
        let last = if step.resolved.stages.is_empty() { &all } else { &step.resolved.reads };
        let mut output = None;
        for (reads, stage) in stages.chain([(last, None)]) {
            let part = parts.add(None);
            for feed in reads {
                let from = match feed {
                    Feed::Input(number) => inputs.get(*number),
                    Feed::Stage(number) => topics.get(*number),
                };
                let met = from.map_or(Ok(()), |from| parts.join(part, *from));
                if let Err((one, other)) = met {
                    let message = format!(
                        "rows from {} and from {} partitions meet in `{}`",
                        one.0, other.0, step.name
                    );
                    diagnostics.push(
                        Diagnostic::error(Code::PartitionCounts, place(step, "from"), message)
                            .also(one.1, "one count")
                            .also(other.1, "the other count")
                            .help("give both the same `partitions`"),
                    );
                }
            }
            match stage {
                Some(stage) => {
                    topics.push(parts.add(stage.partitions.map(|count| (count, place(step, "op")))));
                }
                None => output = Some(part),
            }
        }
        let count = step.resolved.rekeys.and_then(|rekeys| rekeys.partitions);
        let output = match output.filter(|_| !with_topic.contains(step.name.as_str())) {
            Some(part) => part,
            None => parts.add(count.map(|count| (count, place(step, "partitions")))),
        };
        outputs.insert(&step.name, output);
    }
}

/// Parts of the graph between topics, which steps join.
#[derive(Default)]
struct Parts {
    /// Per part the one that it was joined with; itself, if with none.
    parents: Vec<usize>,
    counts: Vec<Option<Count>>,
}

impl Parts {
    fn add(&mut self, count: Option<Count>) -> usize {
        self.parents.push(self.parents.len());
        self.counts.push(count);
        self.parents.len() - 1
    }

    fn root(&self, part: usize) -> usize {
        match self.parents.get(part) {
            Some(parent) if *parent != part => self.root(*parent),
            _ => part,
        }
    }

    /// Joins two parts.
    ///
    /// # Errors
    /// Their counts, if these differ; the second is forgotten.
    fn join(&mut self, one: usize, other: usize) -> Result<(), (Count, Count)> {
        let (one, other) = (self.root(one), self.root(other));
        if one == other {
            return Ok(());
        }
        let count = self.counts.get_mut(other).and_then(Option::take);
        if let Some(parent) = self.parents.get_mut(other) {
            *parent = one;
        }
        match (self.counts.get_mut(one), count) {
            (Some(Some(known)), Some(count)) if known.0 != count.0 => Err((known.clone(), count)),
            (Some(known @ None), count) => {
                *known = count;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
