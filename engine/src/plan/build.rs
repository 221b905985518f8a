//! Cuts the graph at its topics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_operators::operator::{Definition, Feed, Stage, Wanted};
use millstream_operators::schema::{Kind, Schema};
use millstream_state::StoreSpec;

use super::{
    Origin, Plan, PlanError, PlanGlobal, PlanInput, PlanNode, PlanOutput, PlanSlot, PlanStore, SubTopology,
    TABLE,
};
use crate::topology::{OnError, OutputRef, SinkTopic, Source, StepNode, Topology, rekeys_with_topic};

/// Something that fills slots.
enum Vertex<'a> {
    /// The records of a source or table, by position.
    Source(usize),
    /// What makes a table of them.
    Table { source: &'a Source, definition: Arc<dyn Definition> },
    /// What a repartition topic brings.
    Topic(Topic<'a>),
    /// A part of a step before a topic of its own.
    Stage { step: &'a StepNode, stage: &'a Stage },
    /// A step, or what comes after its stages.
    Step(&'a StepNode),
}

/// A repartition topic, and the step it belongs to.
struct Topic<'a> {
    step: &'a StepNode,
    /// Between the step's name and `-repartition` in the topic's name.
    part: &'a str,
    schema: &'a Schema,
    partitions: Option<u32>,
}

impl Topic<'_> {
    fn name(&self, app: &str) -> String {
        format!("{app}-{}{}-repartition", self.step.name, self.part)
    }

    /// Whether it only connects the parts of its step, so that nothing is named after it.
    fn is_between_parts(&self) -> bool {
        !self.part.is_empty()
    }
}

/// What a vertex runs.
struct Runs<'a> {
    name: &'a str,
    op: &'static str,
    is_stage: bool,
    definition: &'a Arc<dyn Definition>,
    outputs: Vec<(Option<String>, Schema)>,
    /// The global table that it looks up.
    global: Option<&'a str>,
    on_error: OnError,
    dead_letter: &'a str,
}

impl Vertex<'_> {
    /// What runs here; `None`: rows come from a topic.
    fn runs(&self) -> Option<Runs<'_>> {
        Some(match self {
            Vertex::Source(_) | Vertex::Topic(_) => return None,
            Vertex::Table { source, definition } => Runs {
                name: &source.name,
                op: TABLE,
                is_stage: false,
                definition,
                outputs: [(None, source.schema().clone())]
                    .into_iter()
                    .chain(source.versions().map(|schema| (Some(VERSIONS.to_owned()), schema.clone())))
                    .collect(),
                global: None,
                on_error: source.on_error,
                dead_letter: &source.dead_letter,
            },
            Vertex::Stage { step, stage } => Runs {
                name: &step.name,
                op: stage.name,
                is_stage: true,
                definition: &stage.definition,
                outputs: vec![(None, stage.schema.clone())],
                global: None,
                on_error: step.on_error,
                dead_letter: &step.dead_letter,
            },
            Vertex::Step(step) => Runs {
                name: &step.name,
                op: step.spec.name,
                is_stage: false,
                definition: &step.resolved.definition,
                outputs: step
                    .resolved
                    .outputs
                    .iter()
                    .map(|output| (output.name.clone(), output.schema.clone()))
                    .collect(),
                global: step.global.as_deref(),
                on_error: step.on_error,
                dead_letter: &step.dead_letter,
            },
        })
    }
}

/// The output of a table with history that has each version as it comes.
const VERSIONS: &str = "versions";

/// Where rows come from: a vertex and the number of its output.
type Port = (usize, usize);

struct Graph<'a> {
    vertices: Vec<Vertex<'a>>,
    /// Per vertex, the ports it reads.
    inputs: Vec<Vec<Port>>,
    /// The ports that fill a repartition topic, with the vertex that reads it.
    topics: Vec<(Port, usize)>,
    /// What an output of a source or step stands for.
    ports: BTreeMap<OutputRef, Port>,
    globals: Vec<Arc<PlanGlobal>>,
}

impl Plan {
    /// Plans a checked topology.
    ///
    /// # Errors
    /// Only [`PlanError::Internal`].
    pub fn new(topology: &Topology) -> Result<Plan, PlanError> {
        Graph::new(topology)?.cut(topology)
    }
}

impl<'a> Graph<'a> {
    fn new(topology: &'a Topology) -> Result<Self, PlanError> {
        let with_topic = rekeys_with_topic(&topology.steps);
        let mut graph = Graph {
            vertices: Vec::new(),
            inputs: Vec::new(),
            topics: Vec::new(),
            ports: BTreeMap::new(),
            globals: globals(topology),
        };
        for (position, source) in topology.sources.iter().enumerate().filter(|(_, source)| !source.global) {
            let mut vertex = graph.add(Vertex::Source(position), Vec::new());
            if let Some(table) = &source.table {
                let table = Vertex::Table { source, definition: table.clone() };
                vertex = graph.add(table, vec![(vertex, 0)]);
            }
            graph.ports.insert(OutputRef { node: source.name.clone(), output: None }, (vertex, 0));
        }
        for step in &topology.steps {
            let port = |(number, input)| {
                let (vertex, output) = graph.ports.get(input).copied()?;
                let reads_versions = step.resolved.definition.reads_versions(number);
                Some((vertex, if reads_versions { 1 } else { output }))
            };
            let ports: Option<Vec<Port>> = step.inputs.iter().enumerate().map(port).collect();
            let inputs =
                ports.ok_or_else(|| PlanError::Internal(format!("`{}` reads from nowhere", step.name)))?;
            let mut topics = Vec::new();
            let ports = |reads: &[Feed], topics: &[Port]| -> Option<Vec<Port>> {
                let port = |feed: &Feed| match feed {
                    Feed::Input(number) => inputs.get(*number).copied(),
                    Feed::Stage(number) => topics.get(*number).copied(),
                };
                reads.iter().map(port).collect()
            };
            let no_port = || PlanError::Internal(format!("a part of `{}` reads from nowhere", step.name));
            for stage in &step.resolved.stages {
                let reads = ports(&stage.reads, &topics).ok_or_else(no_port)?;
                let writer = graph.add(Vertex::Stage { step, stage }, reads);
                let Stage { topic: part, schema, partitions, .. } = stage;
                let topic = Topic { step, part, schema, partitions: *partitions };
                let topic = graph.add(Vertex::Topic(topic), Vec::new());
                graph.topics.push(((writer, 0), topic));
                topics.push((topic, 0));
            }
            let reads = match topics.is_empty() {
                true => inputs,
                false => ports(&step.resolved.reads, &topics).ok_or_else(no_port)?,
            };
            let vertex = graph.add(Vertex::Step(step), reads);
            for (number, output) in step.resolved.outputs.iter().enumerate() {
                let mut port = (vertex, number);
                if let (Some(rekeys), true) = (step.resolved.rekeys, with_topic.contains(step.name.as_str()))
                {
                    let partitions = rekeys.partitions;
                    let topic = Topic { step, part: "", schema: &output.schema, partitions };
                    let topic = graph.add(Vertex::Topic(topic), Vec::new());
                    graph.topics.push((port, topic));
                    port = (topic, 0);
                }
                graph.ports.insert(OutputRef { node: step.name.clone(), output: output.name.clone() }, port);
            }
        }
        Ok(graph)
    }

    fn add(&mut self, vertex: Vertex<'a>, inputs: Vec<Port>) -> usize {
        self.vertices.push(vertex);
        self.inputs.push(inputs);
        self.vertices.len() - 1
    }

    /// For each vertex, the smallest vertex it is connected with other than through a topic.
    fn components(&self) -> Vec<usize> {
        let mut component: Vec<usize> = (0..self.vertices.len()).collect();
        for (vertex, inputs) in self.inputs.iter().enumerate() {
            for (input, _) in inputs {
                let (Some(&a), Some(&b)) = (component.get(vertex), component.get(*input)) else { continue };
                let (from, to) = (a.max(b), a.min(b));
                component.iter_mut().filter(|found| **found == from).for_each(|found| *found = to);
            }
        }
        component
    }

    fn cut(&self, topology: &Topology) -> Result<Plan, PlanError> {
        let components = self.components();
        let component = |vertex: usize| components.get(vertex).copied().unwrap_or_default();
        // A component comes after those that write its topics; a topic that leads back is no step further.
        let mut depths: BTreeMap<usize, usize> = components.iter().map(|component| (*component, 0)).collect();
        let forward = self.forward(&component);
        for _ in 0..depths.len() {
            for (from, to) in &forward {
                let depth = depths.get(from).copied().unwrap_or_default() + 1;
                if let Some(known) = depths.get_mut(to) {
                    *known = depth.max(*known);
                }
            }
        }
        let mut order: Vec<(usize, String, usize)> = depths
            .iter()
            .filter_map(|(component, depth)| {
                Some((*depth, self.name(&components, *component, topology)?, *component))
            })
            .collect();
        order.sort();
        let positions: BTreeMap<usize, usize> =
            order.iter().enumerate().map(|(position, (_, _, component))| (*component, position)).collect();
        let mut sub_topologies = Vec::with_capacity(order.len());
        for (depth, name, number) in order {
            let members: Vec<usize> =
                (0..self.vertices.len()).filter(|vertex| component(*vertex) == number).collect();
            sub_topologies.push(Arc::new(self.sub_topology(topology, name, depth, &members, &|vertex| {
                positions.get(&component(vertex)).copied().unwrap_or_default()
            })?));
        }
        let mut plan = Plan { app: topology.app.id.clone(), sub_topologies, globals: self.globals.clone() };
        plan.inherit_idle();
        plan.decide_waiting();
        Ok(plan)
    }

    /// The components that topics lead from and to, without those topics that lead back to where others come from.
    fn forward(&self, component: &dyn Fn(usize) -> usize) -> BTreeSet<(usize, usize)> {
        let mut forward: BTreeSet<(usize, usize)> = BTreeSet::new();
        for (port, topic) in &self.topics {
            let (from, to) = (component(port.0), component(*topic));
            let mut reached = BTreeSet::from([to]);
            let mut count = 0;
            while count < reached.len() {
                count = reached.len();
                let next: Vec<usize> =
                    forward.iter().filter(|(from, _)| reached.contains(from)).map(|(_, to)| *to).collect();
                reached.extend(next);
            }
            if !reached.contains(&from) {
                forward.insert((from, to));
            }
        }
        forward
    }

    /// The alphabetically first input of a component.
    fn name(&self, components: &[usize], component: usize, topology: &Topology) -> Option<String> {
        self.vertices
            .iter()
            .zip(components)
            .filter(|(_, found)| **found == component)
            .filter_map(|(vertex, _)| match vertex {
                Vertex::Source(position) => topology.sources.get(*position).map(|source| source.name.clone()),
                Vertex::Topic(topic) if !topic.is_between_parts() => Some(topic.step.name.clone()),
                Vertex::Topic(_) | Vertex::Table { .. } | Vertex::Stage { .. } | Vertex::Step(_) => None,
            })
            .min()
    }

    fn schema(&self, topology: &Topology, port: Port) -> Result<Schema, PlanError> {
        let schema = match self.vertices.get(port.0) {
            Some(Vertex::Source(position)) => {
                topology.sources.get(*position).map(|source| &source.layout.schema)
            }
            Some(Vertex::Table { source, .. }) if port.1 > 0 => source.versions(),
            Some(Vertex::Table { source, .. }) => Some(source.schema()),
            Some(Vertex::Topic(Topic { schema, .. })) => Some(*schema),
            Some(Vertex::Stage { stage, .. }) => Some(&stage.schema),
            Some(Vertex::Step(step)) => step.resolved.outputs.get(port.1).map(|output| &output.schema),
            None => None,
        };
        schema.cloned().ok_or_else(|| PlanError::Internal("an output does not exist".to_owned()))
    }

    fn sub_topology(
        &self,
        topology: &Topology,
        name: String,
        depth: usize,
        members: &[usize],
        position: &dyn Fn(usize) -> usize,
    ) -> Result<SubTopology, PlanError> {
        let app = &topology.app.id;
        let mut slots: BTreeMap<Port, usize> = BTreeMap::new();
        for vertex in members {
            let runs = self.vertices.get(*vertex).and_then(Vertex::runs);
            let outputs = runs.map_or(1, |runs| runs.outputs.len());
            for output in 0..outputs {
                let next = slots.len();
                slots.insert((*vertex, output), next);
            }
        }
        let slot = |port: &Port| slots.get(port).copied().unwrap_or_default();

        let mut outputs = Vec::new();
        for (number, sink) in topology.sinks.iter().enumerate() {
            if let Some(port) = self.ports.get(&sink.from).filter(|port| slots.contains_key(port)) {
                outputs.push(PlanOutput::Sink {
                    sink: Arc::new(sink.clone()),
                    position: number,
                    slot: slot(port),
                    schema: self.schema(topology, *port)?,
                });
            }
        }
        let mut inputs = Vec::new();
        for (port, topic) in &self.topics {
            let Some(Vertex::Topic(of)) = self.vertices.get(*topic) else { continue };
            let Topic { step, schema, partitions, .. } = of;
            let topic_name = of.name(app);
            if slots.contains_key(port) {
                outputs.push(PlanOutput::Repartition {
                    node: step.name.clone(),
                    topic: topic_name.clone(),
                    slot: slot(port),
                    schema: (*schema).clone(),
                });
            }
            if let Some(slot) = slots.get(&(*topic, 0)) {
                let origin = Origin::Repartition {
                    schema: (*schema).clone(),
                    partitions: *partitions,
                    from: position(port.0),
                };
                inputs.push(PlanInput { node: step.name.clone(), topic: topic_name, slot: *slot, origin });
            }
        }
        let sources = members.iter().filter_map(|vertex| match self.vertices.get(*vertex) {
            Some(Vertex::Source(position)) => Some((slot(&(*vertex, 0)), topology.sources.get(*position)?)),
            _ => None,
        });
        let mut all_inputs: Vec<PlanInput> = sources
            .map(|(slot, source)| PlanInput {
                node: source.name.clone(),
                topic: source.topic.clone(),
                slot,
                origin: Origin::Source(Arc::new(source.clone())),
            })
            .collect();
        all_inputs.extend(inputs);

        let mut nodes = Vec::new();
        let mut stores = Vec::new();
        // The stores in which the rows of a vertex's output are kept.
        let mut kept: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for vertex in members {
            let Some(of) = self.vertices.get(*vertex).and_then(Vertex::runs) else { continue };
            let mut own_stores = Vec::new();
            let mut borrowed = Vec::new();
            for store in of.definition.stores() {
                let above = store.rows_of.and_then(|rows| {
                    let (above, _) = self.inputs.get(*vertex)?.get(rows.input())?;
                    kept.get(above)?.get(rows.position()).copied()
                });
                if let Some(above) = above {
                    borrowed.push(own_stores.len());
                    own_stores.push(above);
                    continue;
                }
                let name = format!("{}{}", of.name, store.suffix);
                own_stores.push(stores.len());
                stores.push(PlanStore {
                    changelog: Arc::from(format!("{app}-{name}-changelog")),
                    spec: StoreSpec { name, fingerprint: store.fingerprint },
                    kind: store.kind,
                });
            }
            if of.definition.keeps_rows() {
                kept.insert(*vertex, own_stores.clone());
            }
            let outputs = of.outputs.into_iter().enumerate().map(|(number, (name, schema))| PlanSlot {
                name,
                slot: slot(&(*vertex, number)),
                schema,
                used: false,
            });
            nodes.push(PlanNode {
                name: of.name.to_owned(),
                op: of.op,
                is_stage: of.is_stage,
                definition: of.definition.clone(),
                inputs: self
                    .inputs
                    .get(*vertex)
                    .map(|ports| ports.iter().map(slot).collect())
                    .unwrap_or_default(),
                outputs: outputs.collect(),
                stores: own_stores,
                borrowed,
                waits: false,
                global: of
                    .global
                    .and_then(|name| self.globals.iter().position(|table| table.source.name == name)),
                wanted: Wanted { fold: true, before: false },
                on_error: of.on_error,
                dead_letter: of.dead_letter.to_owned(),
            });
        }
        let mut sub = SubTopology {
            name,
            depth,
            inputs: all_inputs,
            nodes,
            outputs,
            stores,
            slots: slots.len(),
            idle_after: None,
        };
        sub.decide_wanted();
        Ok(sub)
    }
}

/// The global tables of a topology.
fn globals(topology: &Topology) -> Vec<Arc<PlanGlobal>> {
    let tables = topology.sources.iter().filter(|source| source.global);
    let planned = tables.filter_map(|source| {
        let definition = source.table.clone()?;
        let fingerprint = definition.stores().first()?.fingerprint;
        let store = StoreSpec { name: source.name.clone(), fingerprint };
        Some(Arc::new(PlanGlobal { source: Arc::new(source.clone()), definition, store }))
    });
    planned.collect()
}

impl SubTopology {
    /// Against the flow: what each node's consumers want of it. Sinks of tables can be folded, unless a change that is folded
    /// away could have failed, and need no replaced row, unless their topic depends on it.
    fn decide_wanted(&mut self) {
        let mut wanted: BTreeMap<usize, Wanted> = BTreeMap::new();
        for output in &self.outputs {
            let (sink, slot) = match output {
                PlanOutput::Sink { sink, slot, .. } => (sink, slot),
                // Who reads the topic may be in the partition of one row and not of the other.
                PlanOutput::Repartition { slot, schema, .. } => {
                    if schema.kind == Kind::Table {
                        wanted.insert(*slot, Wanted { fold: false, before: true });
                    }
                    continue;
                }
            };
            let topic_varies = matches!(sink.topic, SinkTopic::Expression(_));
            let columns = sink.columns.iter().flatten();
            let can_fail =
                topic_varies || columns.into_iter().any(|(_, expression)| !expression.cannot_fail());
            let known = wanted.entry(*slot).or_insert(Wanted { fold: true, before: false });
            known.fold &= !can_fail;
            known.before |= topic_varies;
        }
        let mut used: BTreeSet<usize> = self
            .outputs
            .iter()
            .map(|output| match output {
                PlanOutput::Sink { slot, .. } | PlanOutput::Repartition { slot, .. } => *slot,
            })
            .collect();
        for node in self.nodes.iter_mut().rev() {
            for output in &mut node.outputs {
                output.used = used.contains(&output.slot);
                if let Some(found) = wanted.get(&output.slot).filter(|_| output.schema.kind == Kind::Table) {
                    node.wanted.fold &= found.fold;
                    node.wanted.before |= found.before;
                }
            }
            let asks = Wanted {
                fold: node.definition.folds_through() && node.wanted.fold,
                before: node.definition.needs_before(&node.wanted),
            };
            for slot in &node.inputs {
                used.insert(*slot);
                let known = wanted.entry(*slot).or_insert(Wanted { fold: true, before: false });
                known.fold &= asks.fold;
                known.before |= asks.before;
            }
        }
    }
}

impl Plan {
    /// What goes into a topic of a step may wait before it if changes of the step's own output may be folded.
    fn decide_waiting(&mut self) {
        let nodes = self.sub_topologies.iter().flat_map(|sub| &sub.nodes);
        let folded: BTreeSet<String> =
            nodes.filter(|node| !node.is_stage && node.wanted.fold).map(|node| node.name.clone()).collect();
        for sub in self.sub_topologies.iter_mut().filter_map(Arc::get_mut) {
            for node in sub.nodes.iter_mut().filter(|node| node.is_stage && folded.contains(&node.name)) {
                node.waits = node.definition.may_wait();
            }
        }
    }

    /// A repartition topic inherits the largest `idle-after` above it, and none if a source above has none.
    fn inherit_idle(&mut self) {
        let mut known: Vec<Option<i64>> = Vec::new();
        for sub in &mut self.sub_topologies {
            // What leads back brings nothing that is not above already.
            let above = sub.inputs.iter().filter_map(|input| match &input.origin {
                Origin::Source(source) => Some(source.idle_after),
                Origin::Repartition { from, .. } => known.get(*from).copied(),
            });
            let idle_after = above.collect::<Option<Vec<i64>>>().and_then(|all| all.into_iter().max());
            if let Some(sub) = Arc::get_mut(sub) {
                sub.idle_after = idle_after;
            }
            known.push(idle_after);
        }
    }
}
