//! What a plan is made of, as text for people, as JSON for tools, and as a drawing in DOT or Mermaid.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use millstream_operators::config::format_duration;
use millstream_operators::operator::StoreKind;
use millstream_operators::schema::Kind;
use serde::{Serialize, Serializer};

use super::{Origin, Plan, PlanError, PlanGlobal, PlanNode, PlanOutput, SubTopology, internal};
use crate::topology::{Guarantee, OnError, SinkTopic, Topology};

/// What runs for a topology, in names and numbers.
#[derive(Debug, Serialize)]
pub struct Description {
    /// `[app] id`.
    pub app: String,
    /// What the application is for.
    pub description: Option<String>,
    /// `exactly-once` or `at-least-once`.
    pub guarantee: &'static str,
    /// Every sub-topology after those that write its repartition topics.
    pub sub_topologies: Vec<SubTopologyDescription>,
    /// The tables that every process holds whole.
    pub global_tables: Vec<GlobalDescription>,
    /// The topics that belong to the application.
    pub internal_topics: Vec<InternalTopic>,
}

/// A global table: every process reads all partitions of its topic, before its tasks start and on while they run.
#[derive(Debug, Serialize)]
pub struct GlobalDescription {
    /// Its name, which is also that of its store.
    pub name: String,
    /// The topic it reads.
    pub topic: String,
    /// The steps that look rows up.
    pub read_by: Vec<String>,
    /// What happens to a record that cannot be read.
    pub on_error: &'static str,
}

/// A sub-topology; it has a task for each partition.
#[derive(Debug, Serialize)]
pub struct SubTopologyDescription {
    /// Its name.
    pub name: String,
    /// The tasks, `<sub-topology>-<partition>`.
    pub tasks: Vec<String>,
    /// Milliseconds of silence after which stream time follows the wall clock; `None`: it does not.
    pub idle_after: Option<i64>,
    /// The topics it reads.
    pub inputs: Vec<InputDescription>,
    /// The running steps, each after those it reads from.
    pub steps: Vec<StepDescription>,
    /// The stores of each task.
    pub stores: Vec<StoreDescription>,
    /// The topics it writes.
    pub outputs: Vec<OutputDescription>,
}

/// A topic that is read.
#[derive(Debug, Serialize)]
pub struct InputDescription {
    /// The source, or the step whose repartition topic it is.
    pub node: String,
    /// The topic.
    pub topic: String,
    /// Whether the topic is one of the application's own.
    pub repartition: bool,
    /// What happens to a record that cannot be read.
    pub on_error: &'static str,
    /// The topic of those that are set aside.
    pub dead_letter: Option<String>,
    #[serde(skip)]
    slot: usize,
}

/// A running step.
#[derive(Debug, Serialize)]
pub struct StepDescription {
    /// Its name.
    pub name: String,
    /// Its operator; `group-by` for what a step does before its repartition topic.
    pub op: &'static str,
    /// What it reads.
    pub from: Vec<String>,
    /// What the operator tells of itself: its window, say.
    #[serde(serialize_with = "as_map")]
    pub facts: Vec<(&'static str, String)>,
    /// What happens to a record on which it fails.
    pub on_error: &'static str,
    /// The topic of those that are set aside.
    pub dead_letter: Option<String>,
    /// Whether changes of one key within a batch are sent as one.
    pub folds: bool,
    #[serde(skip)]
    stores: Vec<usize>,
    #[serde(skip)]
    inputs: Vec<usize>,
    #[serde(skip)]
    global: Option<usize>,
    #[serde(skip)]
    outputs: Vec<usize>,
}

/// A store.
#[derive(Debug, Serialize)]
pub struct StoreDescription {
    /// Its name.
    pub name: String,
    /// The topic of its changes.
    pub changelog: String,
    /// `key-value` or `window`.
    pub kind: &'static str,
    /// How long a window store keeps an entry, in milliseconds of stream time.
    pub retention: Option<i64>,
    /// The step that writes it, then those that only read it.
    pub steps: Vec<String>,
    /// What its bytes mean: state is only taken up by a store of the same name and fingerprint.
    pub fingerprint: String,
}

impl StoreDescription {
    /// `window, kept 1h`.
    fn kept(&self) -> String {
        match self.retention {
            Some(retention) => format!("{}, kept {}", self.kind, format_duration(retention)),
            None => self.kind.to_owned(),
        }
    }
}

/// A topic that is written.
#[derive(Debug, Serialize)]
pub struct OutputDescription {
    /// The sink, or the step whose repartition topic it is.
    pub node: String,
    /// The topic; `None` if an expression chooses it for each row.
    pub topic: Option<String>,
    /// Whether the topic is one of the application's own.
    pub repartition: bool,
    /// What is written.
    pub from: String,
    #[serde(skip)]
    slot: usize,
}

/// A topic of the application's own.
#[derive(Debug, Serialize)]
pub struct InternalTopic {
    /// Its name.
    pub topic: String,
    /// The source or step that it belongs to.
    pub node: String,
    /// `repartition`, `changelog` or `dead-letter`.
    pub kind: &'static str,
    /// Its partitions.
    pub partitions: u32,
    /// The settings with which it is made, besides those of `[kafka.topics]`.
    #[serde(serialize_with = "as_map")]
    pub settings: Vec<(&'static str, String)>,
}

impl InternalTopic {
    fn new(internal: internal::InternalTopic) -> Self {
        InternalTopic {
            kind: internal.purpose.name(),
            settings: internal.purpose.settings().collect(),
            topic: internal.topic,
            node: internal.node,
            partitions: internal.partitions,
        }
    }

    /// `4 partitions`.
    fn partitions(&self) -> String {
        let count = self.partitions as usize;
        format!("{count} {}", plural(count, "partition"))
    }

    /// The settings as `kafka-topics.sh --config` takes them.
    fn settings(&self) -> impl Iterator<Item = String> {
        self.settings.iter().map(|(setting, value)| format!("{setting}={value}"))
    }
}

/// Pairs as a JSON object, in their order.
fn as_map<S: Serializer>(pairs: &[(&'static str, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

impl Description {
    /// Describes a plan whose sources' topics have `partitions` partitions each.
    ///
    /// # Errors
    /// If inputs that meet in one task would have different partition counts.
    pub fn new(topology: &Topology, plan: &Plan, partitions: u32) -> Result<Self, PlanError> {
        let counts = plan.partitions(|_| partitions)?;
        let internal_topics = plan.internal_topics(&counts).into_iter().map(InternalTopic::new).collect();
        let sub_topologies = plan.sub_topologies.iter().zip(&counts);
        Ok(Description {
            app: plan.app.clone(),
            description: topology.app.description.clone(),
            guarantee: match topology.app.guarantee {
                Guarantee::ExactlyOnce => "exactly-once",
                Guarantee::AtLeastOnce => "at-least-once",
            },
            sub_topologies: sub_topologies
                .map(|(sub, count)| SubTopologyDescription::new(sub, *count, &plan.globals))
                .collect(),
            global_tables: plan
                .globals
                .iter()
                .enumerate()
                .map(|(number, table)| {
                    let nodes = plan.sub_topologies.iter().flat_map(|sub| &sub.nodes);
                    let readers = nodes.filter(|node| node.global == Some(number));
                    GlobalDescription {
                        name: table.source.name.clone(),
                        topic: table.source.topic.clone(),
                        read_by: readers.map(|node| node.name.clone()).collect(),
                        on_error: on_error(table.source.on_error),
                    }
                })
                .collect(),
            internal_topics,
        })
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists always have a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// As text.
    pub fn to_text(&self) -> String {
        let mut text = self.app.clone();
        if let Some(description) = &self.description {
            let _ = write!(text, ": {description}");
        }
        let _ = writeln!(text, "\n{}", self.guarantee);
        for sub in &self.sub_topologies {
            let tasks = sub.tasks.len();
            let _ = write!(text, "\nsub-topology {}, {tasks} {}", sub.name, plural(tasks, "task"));
            if let Some(idle_after) = sub.idle_after {
                let _ = write!(text, ", follows the clock after {}", format_duration(idle_after));
            }
            text.push('\n');
            let mut rows: Vec<[String; 4]> = Vec::new();
            for (number, input) in sub.inputs.iter().enumerate() {
                let topic =
                    if input.topic == input.node { String::new() } else { format!("topic {}", input.topic) };
                let rest = match input.on_error {
                    "fail" => String::new(),
                    on_error => format!("on error {on_error}"),
                };
                rows.push([first(number, "reads"), input.node.clone(), topic, rest]);
            }
            for (number, step) in sub.steps.iter().enumerate() {
                let mut rest = format!("from {}", step.from.join(", "));
                for (name, value) in &step.facts {
                    let _ = write!(rest, "; {name} {value}");
                }
                if step.on_error != "fail" {
                    let _ = write!(rest, "; on error {}", step.on_error);
                }
                rows.push([first(number, "steps"), step.name.clone(), step.op.to_owned(), rest]);
            }
            for (number, store) in sub.stores.iter().enumerate() {
                rows.push([
                    first(number, "stores"),
                    store.name.clone(),
                    store.kept(),
                    format!("of {}; changelog {}", store.steps.join(", read by "), store.changelog),
                ]);
            }
            for (number, output) in sub.outputs.iter().enumerate() {
                let topic = match &output.topic {
                    Some(topic) => format!("topic {topic}"),
                    None => "topic chosen for each row".to_owned(),
                };
                let node = if output.repartition { String::new() } else { output.node.clone() };
                rows.push([first(number, "writes"), node, topic, format!("from {}", output.from)]);
            }
            write_table(&rows, &mut text);
        }
        for table in &self.global_tables {
            let _ = writeln!(text, "\nglobal table {}, whole in every process", table.name);
            let topic =
                if table.topic == table.name { String::new() } else { format!("topic {}", table.topic) };
            let mut rows = vec![
                [first(0, "reads"), table.name.clone(), topic, String::new()],
                [first(0, "stores"), table.name.clone(), "key-value".to_owned(), String::new()],
            ];
            for (number, step) in table.read_by.iter().enumerate() {
                rows.push([first(number, "read by"), step.clone(), String::new(), String::new()]);
            }
            if table.on_error != "fail" {
                rows.push([first(0, "on error"), table.on_error.to_owned(), String::new(), String::new()]);
            }
            write_table(&rows, &mut text);
        }
        if !self.internal_topics.is_empty() {
            text.push_str("\ninternal topics\n");
            let rows: Vec<[String; 4]> = self
                .internal_topics
                .iter()
                .map(|internal| {
                    let settings: Vec<String> = internal.settings().collect();
                    let kind = format!("{}, {}", internal.kind, internal.partitions());
                    [String::new(), internal.topic.clone(), kind, settings.join(" ")]
                })
                .collect();
            write_table(&rows, &mut text);
        }
        text
    }

    /// As a drawing for Graphviz.
    pub fn to_dot(&self) -> String {
        let drawing = Drawing::new(self);
        let mut text = format!(
            "digraph {} {{\n  rankdir = LR;\n  node [fontname = \"sans-serif\"];\n",
            quoted(&self.app)
        );
        for (number, group) in drawing.groups.iter().enumerate() {
            let _ = writeln!(text, "  subgraph cluster_{number} {{\n    label = {};", quoted(&group.title));
            for index in &group.boxes {
                let Some(shape) = drawing.boxes.get(*index) else { continue };
                let _ = writeln!(
                    text,
                    "    n{index} [label = {}, shape = {}];",
                    quoted(&shape.label),
                    shape.kind.dot()
                );
            }
            text.push_str("  }\n");
        }
        for (index, shape) in drawing.loose() {
            let _ = writeln!(
                text,
                "  n{index} [label = {}, shape = {}];",
                quoted(&shape.label),
                shape.kind.dot()
            );
        }
        for (from, to) in &drawing.arrows {
            let _ = writeln!(text, "  n{from} -> n{to};");
        }
        text.push_str("}\n");
        text
    }

    /// As a drawing for Mermaid, which Markdown viewers show.
    pub fn to_mermaid(&self) -> String {
        let drawing = Drawing::new(self);
        let mut text = "flowchart LR\n".to_owned();
        for (number, group) in drawing.groups.iter().enumerate() {
            let _ = writeln!(text, "  subgraph s{number}[{}]", quoted(&group.title));
            for index in &group.boxes {
                let Some(shape) = drawing.boxes.get(*index) else { continue };
                let _ = writeln!(text, "    n{index}{}", shape.mermaid());
            }
            text.push_str("  end\n");
        }
        for (index, shape) in drawing.loose() {
            let _ = writeln!(text, "  n{index}{}", shape.mermaid());
        }
        for (from, to) in &drawing.arrows {
            let _ = writeln!(text, "  n{from} --> n{to}");
        }
        text
    }
}

impl SubTopologyDescription {
    fn new(sub: &SubTopology, partitions: u32, globals: &[Arc<PlanGlobal>]) -> Self {
        let names = slot_names(sub);
        let name_of = |slot: &usize| names.get(slot).cloned().unwrap_or_default();
        let step = |node: &PlanNode| StepDescription {
            name: node.name.clone(),
            op: node.op,
            from: {
                let global = node.global.and_then(|global| globals.get(global));
                let global = global.map(|table| table.source.name.clone());
                node.inputs.iter().map(name_of).chain(global).collect()
            },
            facts: node.definition.facts(),
            on_error: on_error(node.on_error),
            dead_letter: dead_letter(node.on_error, &node.dead_letter),
            folds: node.wanted.fold && node.outputs.iter().any(|output| output.schema.kind == Kind::Table),
            stores: node.stores.clone(),
            inputs: node.inputs.clone(),
            global: node.global,
            outputs: node.outputs.iter().map(|output| output.slot).collect(),
        };
        let outputs = sub.outputs.iter().map(|output| match output {
            PlanOutput::Sink { sink, slot, .. } => OutputDescription {
                node: sink.name.clone(),
                topic: match &sink.topic {
                    SinkTopic::Fixed(topic) => Some(topic.clone()),
                    SinkTopic::Expression(_) => None,
                },
                repartition: false,
                from: name_of(slot),
                slot: *slot,
            },
            PlanOutput::Repartition { node, topic, slot, .. } => OutputDescription {
                node: node.clone(),
                topic: Some(topic.clone()),
                repartition: true,
                from: name_of(slot),
                slot: *slot,
            },
        });
        SubTopologyDescription {
            name: sub.name.clone(),
            tasks: (0..partitions).map(|partition| format!("{}-{partition}", sub.name)).collect(),
            idle_after: sub.idle_after,
            inputs: sub
                .inputs
                .iter()
                .map(|input| {
                    let (on_failure, letters) = match &input.origin {
                        Origin::Source(source) => (source.on_error, source.dead_letter.as_str()),
                        Origin::Repartition { .. } => (OnError::Fail, ""),
                    };
                    InputDescription {
                        node: input.node.clone(),
                        topic: input.topic.clone(),
                        repartition: matches!(input.origin, Origin::Repartition { .. }),
                        on_error: on_error(on_failure),
                        dead_letter: dead_letter(on_failure, letters),
                        slot: input.slot,
                    }
                })
                .collect(),
            steps: sub.nodes.iter().map(step).collect(),
            stores: sub
                .stores
                .iter()
                .enumerate()
                .map(|(number, store)| StoreDescription {
                    name: store.spec.name.clone(),
                    changelog: store.changelog.to_string(),
                    kind: match store.kind {
                        StoreKind::KeyValue => "key-value",
                        StoreKind::Window { .. } => "window",
                    },
                    retention: match store.kind {
                        StoreKind::KeyValue => None,
                        StoreKind::Window { retention } => Some(retention),
                    },
                    steps: sub.keepers(number).map(|node| node.name.clone()).collect(),
                    fingerprint: store.spec.fingerprint.to_string(),
                })
                .collect(),
            outputs: outputs.collect(),
        }
    }
}

fn on_error(on_error: OnError) -> &'static str {
    match on_error {
        OnError::Fail => "fail",
        OnError::Skip => "skip",
        OnError::DeadLetter => "dead-letter",
    }
}

fn dead_letter(on_error: OnError, topic: &str) -> Option<String> {
    (on_error == OnError::DeadLetter).then(|| topic.to_owned())
}

/// What fills each slot of a sub-topology.
fn slot_names(sub: &SubTopology) -> BTreeMap<usize, String> {
    let inputs = sub.inputs.iter().map(|input| (input.slot, input.node.clone()));
    let outputs = sub.nodes.iter().flat_map(|node| {
        node.outputs.iter().map(|output| match &output.name {
            Some(name) => (output.slot, format!("{}.{name}", node.name)),
            None => (output.slot, node.name.clone()),
        })
    });
    inputs.chain(outputs).collect()
}

/// A drawing has no room for longer facts, in characters.
const LONGEST_FACT: usize = 40;

/// Boxes and arrows, the same for every form of drawing.
struct Drawing {
    boxes: Vec<Shape>,
    groups: Vec<Group>,
    arrows: Vec<(usize, usize)>,
}

struct Shape {
    label: String,
    kind: ShapeKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ShapeKind {
    Topic,
    Step,
    Store,
}

struct Group {
    title: String,
    boxes: Vec<usize>,
}

impl Drawing {
    fn new(description: &Description) -> Self {
        let mut drawing = Drawing { boxes: Vec::new(), groups: Vec::new(), arrows: Vec::new() };
        let mut topics: BTreeMap<String, usize> = BTreeMap::new();
        let internal = |topic: &str| description.internal_topics.iter().find(|found| found.topic == topic);
        let label = |topic: &str| {
            let mut lines = vec![topic.to_owned()];
            if let Some(internal) = internal(topic) {
                lines.push(format!("{}, {}", internal.kind, internal.partitions()));
                lines.extend(internal.settings());
            }
            lines.join("\n")
        };
        let mut globals = Vec::new();
        for table in &description.global_tables {
            let topic = drawing.topic(&mut topics, &table.topic);
            let store = drawing.add(table.name.clone(), ShapeKind::Store);
            drawing.arrows.push((topic, store));
            let title = format!("{}, global table", table.name);
            drawing.groups.push(Group { title, boxes: vec![store] });
            globals.push(store);
        }
        for sub in &description.sub_topologies {
            let mut filled: BTreeMap<usize, usize> = BTreeMap::new();
            let mut members = Vec::new();
            for input in &sub.inputs {
                let topic = drawing.topic(&mut topics, &label(&input.topic));
                filled.insert(input.slot, topic);
                if let Some(letters) = &input.dead_letter {
                    let letters = drawing.topic(&mut topics, &label(letters));
                    drawing.arrows.push((topic, letters));
                }
            }
            for step in &sub.steps {
                let mut lines = vec![step.name.clone(), step.op.to_owned()];
                let facts = step.facts.iter().filter(|(_, value)| value.chars().count() <= LONGEST_FACT);
                lines.extend(facts.map(|(name, value)| format!("{name} {value}")));
                let index = drawing.add(lines.join("\n"), ShapeKind::Step);
                members.push(index);
                for from in step.inputs.iter().filter_map(|slot| filled.get(slot)) {
                    drawing.arrows.push((*from, index));
                }
                let global = step.global.and_then(|global| globals.get(global));
                drawing.arrows.extend(global.map(|store| (*store, index)));
                filled.extend(step.outputs.iter().map(|slot| (*slot, index)));
                if let Some(letters) = &step.dead_letter {
                    let letters = drawing.topic(&mut topics, &label(letters));
                    drawing.arrows.push((index, letters));
                }
            }
            for (number, store) in sub.stores.iter().enumerate() {
                let mut lines = vec![store.name.clone(), store.kept()];
                if let Some(changelog) = internal(&store.changelog) {
                    lines.push(format!("{}, {}", changelog.kind, changelog.partitions()));
                    lines.extend(changelog.settings());
                }
                let index = drawing.add(lines.join("\n"), ShapeKind::Store);
                let boxes = members.clone();
                for (step, shape) in sub.steps.iter().zip(boxes) {
                    match step.stores.contains(&number) {
                        true if store.steps.first() == Some(&step.name) => {
                            drawing.arrows.push((shape, index))
                        }
                        true => drawing.arrows.push((index, shape)),
                        false => {}
                    }
                }
                members.push(index);
            }
            for output in &sub.outputs {
                let name =
                    output.topic.clone().unwrap_or_else(|| format!("{} (chosen for each row)", output.node));
                let topic = drawing.topic(&mut topics, &label(&name));
                if let Some(from) = filled.get(&output.slot) {
                    drawing.arrows.push((*from, topic));
                }
            }
            let tasks = sub.tasks.len();
            let title = format!("{}, {tasks} {}", sub.name, plural(tasks, "task"));
            drawing.groups.push(Group { title, boxes: members });
        }
        drawing
    }

    fn add(&mut self, label: String, kind: ShapeKind) -> usize {
        self.boxes.push(Shape { label, kind });
        self.boxes.len() - 1
    }

    fn topic(&mut self, topics: &mut BTreeMap<String, usize>, name: &str) -> usize {
        *topics.entry(name.to_owned()).or_insert_with(|| self.add(name.to_owned(), ShapeKind::Topic))
    }

    /// Boxes outside of any group: topics lie between sub-topologies.
    fn loose(&self) -> impl Iterator<Item = (usize, &Shape)> {
        self.boxes.iter().enumerate().filter(|(_, shape)| shape.kind == ShapeKind::Topic)
    }
}

impl ShapeKind {
    fn dot(self) -> &'static str {
        match self {
            ShapeKind::Topic => "cds",
            ShapeKind::Step => "box",
            ShapeKind::Store => "cylinder",
        }
    }
}

impl Shape {
    fn mermaid(&self) -> String {
        let label = quoted(&self.label.replace('\n', "<br>"));
        match self.kind {
            ShapeKind::Topic => format!("([{label}])"),
            ShapeKind::Step => format!("[{label}]"),
            ShapeKind::Store => format!("[({label})]"),
        }
    }
}

/// A label in quotes. Names of nodes and topics hold nothing that needs more care.
fn quoted(label: &str) -> String {
    format!("\"{}\"", label.replace('"', "'").replace('\n', "\\n"))
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// The heading of a group of rows stands in its first row only.
fn first(number: usize, heading: &str) -> String {
    if number == 0 { heading.to_owned() } else { String::new() }
}

/// Columns under each other, indented, without spaces at the ends of lines.
pub(super) fn write_table(rows: &[[String; 4]], text: &mut String) {
    let mut widths = [0; 4];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(widths).filter(|(_, width)| *width > 0) {
            let _ = write!(line, " {cell:width$} ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}
