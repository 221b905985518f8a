//! From a checked topology to what runs: sub-topologies, their tasks, internal topics and stores.
//!
//! A sub-topology is a connected part of the graph between topics. Its rows move through *slots*: each input and each output
//! of a node has one, and an epoch fills them in order.

mod build;
pub mod describe;
pub mod diff;
pub mod internal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_operators::operator::{Definition, StoreKind, Wanted};
use millstream_operators::schema::Schema;
use millstream_state::StoreSpec;

use crate::topology::{OnError, OutputRef, Sink, Source};

/// What runs.
#[derive(Debug)]
pub struct Plan {
    /// `[app] id`.
    pub app: String,
    /// Every sub-topology after those that write its repartition topics, then by name.
    pub sub_topologies: Vec<Arc<SubTopology>>,
    /// The global tables, in the order of the file. They belong to no sub-topology: each process holds them whole.
    pub globals: Vec<Arc<PlanGlobal>>,
}

/// A global table.
#[derive(Debug)]
pub struct PlanGlobal {
    /// Its topic, and how the records are read.
    pub source: Arc<Source>,
    /// What makes a table of them.
    pub definition: Arc<dyn Definition>,
    /// Where the rows are kept.
    pub store: StoreSpec,
}

impl PlanGlobal {
    /// What its state is called in logs and on disk.
    pub fn name(&self) -> String {
        format!("global-{}", self.source.name)
    }
}

/// A connected part of the graph between topics.
#[derive(Debug)]
pub struct SubTopology {
    /// The alphabetically first of its input nodes.
    pub name: String,
    /// How many repartition topics lie between the sources and it.
    pub depth: usize,
    /// The topics it reads: sources in the order of the file, then repartition topics.
    pub inputs: Vec<PlanInput>,
    /// The running steps, each after those it reads from.
    pub nodes: Vec<PlanNode>,
    /// The topics it writes: sinks in the order of the file, then repartition topics.
    pub outputs: Vec<PlanOutput>,
    /// Its stores.
    pub stores: Vec<PlanStore>,
    /// How many slots an epoch has.
    pub slots: usize,
    /// Milliseconds of silence after which stream time follows the wall clock, if all sources above allow it.
    pub idle_after: Option<i64>,
}

/// A topic that a sub-topology reads.
#[derive(Debug)]
pub struct PlanInput {
    /// The source, or the step whose repartition topic it is.
    pub node: String,
    /// The topic.
    pub topic: String,
    /// Where its rows go.
    pub slot: usize,
    /// How its records are read.
    pub origin: Origin,
}

/// Whose topic an input is.
#[derive(Debug)]
pub enum Origin {
    /// A topic of the user.
    Source(Arc<Source>),
    /// A topic of ours, written by the sub-topology at position `from` of the plan.
    Repartition {
        /// The rows.
        schema: Schema,
        /// The partition count that the user asked for.
        partitions: Option<u32>,
        /// The position in the plan of the sub-topology that writes it.
        from: usize,
    },
}

/// A running step.
#[derive(Debug)]
pub struct PlanNode {
    /// The step's name.
    pub name: String,
    /// The operator's name, or what a part of the step does.
    pub op: &'static str,
    /// Whether it is a part of the step before a topic of its own.
    pub is_stage: bool,
    /// What runs.
    pub definition: Arc<dyn Definition>,
    /// The slots it reads.
    pub inputs: Vec<usize>,
    /// Its outputs, and the slots it fills.
    pub outputs: Vec<PlanSlot>,
    /// Its stores: positions in [`SubTopology::stores`].
    pub stores: Vec<usize>,
    /// Which of `stores` belong to the nodes above and are only read: positions in it.
    pub borrowed: Vec<usize>,
    /// Whether what it reads waits for the commit.
    pub waits: bool,
    /// The global table that it looks up: the position in [`Plan::globals`].
    pub global: Option<usize>,
    /// What its consumers want.
    pub wanted: Wanted,
    /// What happens to a record on which it fails.
    pub on_error: OnError,
    /// The topic of dead letters.
    pub dead_letter: String,
}

/// An output of a running step.
#[derive(Debug)]
pub struct PlanSlot {
    /// The output's name, if it is not the one that the step's own name stands for.
    pub name: Option<String>,
    /// The slot.
    pub slot: usize,
    /// The rows.
    pub schema: Schema,
    /// Whether anything reads it.
    pub used: bool,
}

/// A topic that a sub-topology writes.
#[derive(Debug)]
pub enum PlanOutput {
    /// A sink.
    Sink {
        /// The sink.
        sink: Arc<Sink>,
        /// Its position in the file.
        position: usize,
        /// The slot it reads.
        slot: usize,
        /// The slot's rows.
        schema: Schema,
    },
    /// A repartition topic.
    Repartition {
        /// The step it belongs to.
        node: String,
        /// The topic.
        topic: String,
        /// The slot it reads.
        slot: usize,
        /// The slot's rows.
        schema: Schema,
    },
}

/// A store of a sub-topology: each of its tasks has one.
#[derive(Debug)]
pub struct PlanStore {
    /// Name and fingerprint.
    pub spec: StoreSpec,
    /// How it is kept.
    pub kind: StoreKind,
    /// The topic that holds its changes.
    pub changelog: Arc<str>,
}

/// A topology that cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The inputs of a sub-topology must have equally many partitions.
    #[error(
        "`{first}` has {first_count} partitions and `{second}` has {second_count}, but their rows meet in one task; \
         give both the same count, or put `rekey` with `partitions = {first_count}` after `{second}`"
    )]
    PartitionCounts {
        /// An input.
        first: String,
        /// Its partitions.
        first_count: u32,
        /// Another input of the same sub-topology.
        second: String,
        /// Its partitions.
        second_count: u32,
    },
    /// The planner broke a promise.
    #[error("internal error in the planner (please report it): {0}")]
    Internal(String),
}

impl Plan {
    /// Whether a sub-topology reads what it has caused itself, through one repartition topic or several.
    pub fn has_cycle(&self) -> bool {
        self.sub_topologies.iter().enumerate().any(|(position, sub)| {
            sub.inputs
                .iter()
                .any(|input| matches!(input.origin, Origin::Repartition { from, .. } if from >= position))
        })
    }

    /// Where the rows of a source or of a step's output are: the sub-topology's position, the slot, and the rows.
    pub fn find(&self, output: &OutputRef) -> Option<(usize, usize, &Schema)> {
        self.sub_topologies.iter().enumerate().find_map(|(position, sub)| {
            let source = sub.inputs.iter().find_map(|input| match &input.origin {
                // What is read of a table is what its step makes of the records.
                Origin::Source(source) if source.name == output.node && source.table.is_none() => {
                    Some((input.slot, &source.layout.schema))
                }
                _ => None,
            });
            let step = || {
                let nodes = sub.nodes.iter().filter(|node| node.name == output.node && !node.is_stage);
                nodes.flat_map(|node| &node.outputs).find(|found| found.name == output.output)
            };
            let (slot, schema) = source.or_else(|| step().map(|found| (found.slot, &found.schema)))?;
            Some((position, slot, schema))
        })
    }

    /// The step below a topic that looks back furthest by event time, and how far, in milliseconds.
    pub fn looks_back(&self, topic: &str) -> Option<(&str, i64)> {
        let mut furthest: Option<(&str, i64)> = None;
        let mut topics = vec![topic];
        let mut number = 0;
        while let Some(topic) = topics.get(number).copied() {
            number += 1;
            for sub in &self.sub_topologies {
                let inputs = sub.inputs.iter().filter(|input| input.topic == topic);
                let mut slots: BTreeSet<usize> = inputs.map(|input| input.slot).collect();
                for node in &sub.nodes {
                    if !node.inputs.iter().any(|slot| slots.contains(slot)) {
                        continue;
                    }
                    slots.extend(node.outputs.iter().map(|output| output.slot));
                    for store in node.stores.iter().filter_map(|store| sub.stores.get(*store)) {
                        if let StoreKind::Window { retention } = store.kind
                            && furthest.is_none_or(|(_, known)| known < retention)
                        {
                            furthest = Some((&node.name, retention));
                        }
                    }
                }
                for output in &sub.outputs {
                    if let PlanOutput::Repartition { topic, slot, .. } = output
                        && slots.contains(slot)
                        && !topics.contains(&topic.as_str())
                    {
                        topics.push(topic);
                    }
                }
            }
        }
        furthest
    }

    /// The partition count of each sub-topology, when the topics of sources have those of `source_partitions`.
    ///
    /// # Errors
    /// [`PlanError::PartitionCounts`] if inputs that meet in one task have different counts.
    pub fn partitions(&self, source_partitions: impl Fn(&str) -> u32) -> Result<Vec<u32>, PlanError> {
        let mut counts: BTreeMap<usize, u32> = BTreeMap::new();
        for (position, sub) in self.sub_topologies.iter().enumerate() {
            let mut fixed: Option<(&str, u32)> = None;
            let mut inherited = 1;
            for input in &sub.inputs {
                let count = match &input.origin {
                    Origin::Source(source) => Some(source_partitions(&source.topic)),
                    Origin::Repartition { partitions: Some(count), .. } => Some(*count),
                    Origin::Repartition { from, .. } => {
                        inherited = inherited.max(counts.get(from).copied().unwrap_or(1));
                        None
                    }
                };
                match (fixed, count) {
                    (Some((first, first_count)), Some(second_count)) if first_count != second_count => {
                        return Err(PlanError::PartitionCounts {
                            first: first.to_owned(),
                            first_count,
                            second: input.node.clone(),
                            second_count,
                        });
                    }
                    (None, Some(count)) => fixed = Some((&input.node, count)),
                    _ => {}
                }
            }
            counts.insert(position, fixed.map_or(inherited, |(_, count)| count));
        }
        Ok(counts.into_values().collect())
    }
}

/// The `op` of what makes a table of the records of a topic.
pub const TABLE: &str = "table";

/// The `op` of a step that asks a model.
pub const PREDICT: &str = "predict";

impl PlanNode {
    /// What tells it from the other nodes of its sub-topology: the step's name, and what a part of the step does.
    pub fn label(&self) -> String {
        if self.is_stage { format!("{}/{}", self.name, self.op) } else { self.name.clone() }
    }
}

impl SubTopology {
    /// The global tables that its nodes look up: positions in [`Plan::globals`].
    pub fn globals(&self) -> BTreeSet<usize> {
        self.nodes.iter().filter_map(|node| node.global).collect()
    }

    /// The nodes that use the store at this position: the one that writes it first.
    pub fn keepers(&self, store: usize) -> impl Iterator<Item = &PlanNode> {
        self.nodes.iter().filter(move |node| node.stores.contains(&store))
    }

    /// The rows of a slot.
    pub fn slot_schema(&self, slot: usize) -> Option<&Schema> {
        let inputs = self.inputs.iter().filter(|input| input.slot == slot).map(|input| match &input.origin {
            Origin::Source(source) => &source.layout.schema,
            Origin::Repartition { schema, .. } => schema,
        });
        let outputs = self.nodes.iter().flat_map(|node| &node.outputs).filter(|output| output.slot == slot);
        inputs.chain(outputs.map(|output| &output.schema)).next()
    }

    /// The columns of a slot's rows.
    pub fn slot_columns(&self, slot: usize) -> arrow::datatypes::SchemaRef {
        let schema = self.slot_schema(slot).map(|schema| schema.columns.clone());
        schema.unwrap_or_else(|| Arc::new(arrow::datatypes::Schema::empty()))
    }
}
