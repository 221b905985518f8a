//! From a text to a topology: reads the tables of the file in the order in which they depend on each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use millstream_operators::config::{Fields, Text, check_name, check_word};
use millstream_operators::diagnostic::{Code, Diagnostic, Diagnostics, Span, did_you_mean, listed};
use millstream_operators::model::Model;
use millstream_operators::operator::Output;
use millstream_operators::registry::Registry;
use millstream_operators::schema::Schema;

use super::settings::topic_name_error;
use super::types::Types;
use super::variables::{Filled, Variables};
use super::{App, OutputRef, Taken, TakenTopics, Topology, kafka, settings, syntax, variables};
use crate::schema_registry::SchemaRegistry;

/// Reads and checks a topology of Millstream's own operators and functions, its tests too. Models and `${file:…}` are looked up
/// from `directory`; `environment` answers `${VAR}`.
///
/// Gives the topology if there is no error, and all findings by position in the file, warnings among them.
pub fn read(
    text: &str,
    directory: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> (Option<Topology>, Vec<Diagnostic>) {
    read_with(&Registry::default(), text, directory, environment, Tests::Read)
}

/// What is done about the `[[tests]]` of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tests {
    /// They are read and checked.
    Read,
    /// They are left alone: a test that no longer fits keeps nothing from running.
    Leave,
}

/// As [`read`], of the operators and functions of `registry`.
pub fn read_with(
    registry: &Registry,
    text: &str,
    directory: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    tests: Tests,
) -> (Option<Topology>, Vec<Diagnostic>) {
    let diagnostics = Diagnostics::default();
    let topology = syntax::parse(text, &diagnostics).map(|tree| {
        let root = Fields::new(&tree, 0..0, text, &diagnostics, "the topology");
        topology(registry, &root, &Variables { directory, environment }, tests)
    });
    let topology = topology.filter(|_| !diagnostics.has_errors());
    (topology, diagnostics.into_sorted())
}

/// Where `key` of a source, step or sink stands in a text that could be read; where the node itself does, if it has no such
/// key.
pub fn place_of(text: &str, node: &str, key: &str) -> Span {
    let place = || {
        let tree = syntax::parse(text, &Diagnostics::default())?;
        ["sources", "tables", "steps", "sinks"].into_iter().find_map(|section| {
            let nodes = tree.get(section)?.get_ref().as_table()?;
            let (name, fields) = nodes.iter().find(|(name, _)| name.get_ref() == node)?;
            let value = fields.get_ref().as_table().and_then(|fields| fields.get(key));
            Some(value.map_or(name.span(), |value| value.span()))
        })
    };
    place().unwrap_or(0..0)
}

fn topology(registry: &Registry, root: &Fields<'_>, variables: &Variables<'_>, tests: Tests) -> Topology {
    root.deny_unknown([
        "app", "kafka", "runtime", "types", "sources", "tables", "models", "steps", "sinks", "tests",
    ]);
    variables::deny_elsewhere(root, &mut Vec::new());
    let app = settings::app(root);
    let deferred = Diagnostics::default();
    let kafka = kafka::kafka(root, variables, &deferred).unwrap_or_default();
    let runtime = settings::runtime(root, variables, &deferred).unwrap_or_default();
    let types = section(root, "types", "type");
    for (name, fields) in &types {
        check_word(name, "type", fields.diagnostics());
    }
    let said_models = section(root, "models", "model");
    let said_sources = section(root, "sources", "source");
    let said_tables = section(root, "tables", "table");
    let said_steps = section(root, "steps", "step");
    let said_sinks = section(root, "sinks", "sink");
    if said_sources.is_empty()
        && said_tables.is_empty()
        && root.get("sources").is_none_or(|value| value.get_ref().is_table())
    {
        root.diagnostics().push(
            Diagnostic::error(Code::EmptyTopology, root.key_span("sources"), "the topology has no source")
                .help("add a table `[sources.NAME]` with `topic` and `value`"),
        );
    }

    let mut reader = Reader {
        diagnostics: root.diagnostics(),
        variables,
        registry,
        types: Types::read(types),
        app: &app,
        names: BTreeMap::new(),
        names_twice: BTreeSet::new(),
        nodes: BTreeMap::new(),
        histories: BTreeMap::new(),
        globals: BTreeSet::new(),
        topics_read: Vec::new(),
        topics_written: Vec::new(),
        taken: Arc::default(),
        schema_registry: Arc::default(),
        registry_users: Vec::new(),
    };
    let all =
        [("source", &said_sources), ("table", &said_tables), ("step", &said_steps), ("sink", &said_sinks)];
    for (what, nodes) in all {
        for (name, fields) in nodes {
            reader.declare(name, what, fields);
        }
    }
    let models = reader.models(&said_models);
    let mut sources = Vec::new();
    for (name, fields) in &said_sources {
        sources.extend(reader.source(name, fields));
    }
    for (name, fields) in &said_tables {
        sources.extend(reader.table(name, fields));
    }
    let steps = reader.steps(&said_steps, &models);
    reader.note_topics();
    let sinks: Vec<_> = said_sinks.iter().filter_map(|(name, fields)| reader.sink(name, fields)).collect();
    reader.check_topics();
    if let (Some(place), None) = (reader.registry_users.first(), &kafka.registry) {
        deferred.push(
            Diagnostic::error(
                Code::RegistryMissing,
                place.clone(),
                "records have the ids of a schema registry, and the topology names none",
            )
            .help("add `[kafka.registry]` with `url = \"http://…:8081\"`, or `registry = false` to the format if records are bare"),
        );
    }
    let topology = Topology {
        app: app.clone(),
        kafka,
        runtime,
        deferred: deferred.into_sorted(),
        sources,
        steps,
        sinks,
        models,
        tests: Vec::new(),
        registry: reader.schema_registry.clone(),
    };
    let tests = if tests == Tests::Read { reader.tests(root, &topology) } else { Vec::new() };
    if !root.diagnostics().has_errors() {
        reader.warn_unused(&[&said_sources, &said_tables, &said_steps], &said_sinks, &said_models);
    }
    Topology { tests, ..topology }
}

/// Named tables, in the order of the file.
type Said<'a> = Vec<(Text, Fields<'a>)>;

/// The tables in a table of the file: names with their fields, in the order of the file.
fn section<'a>(root: &Fields<'a>, key: &str, what: &str) -> Said<'a> {
    let Some(section) = root.table(key, format!("`[{key}]`")) else { return Vec::new() };
    let mut tables = Vec::new();
    for (name, value) in section.entries() {
        match section.as_table(name.span.clone(), value, format!("{what} `{}`", name.value)) {
            Some(fields) => tables.push((name, fields)),
            None => section.wrong_type(&name, value, &format!("a table: `[{key}.{}]`", name.value)),
        }
    }
    tables
}

/// What is known of a name.
pub(super) enum Node {
    /// A source or table and its columns.
    Source(Schema),
    /// A step and its outputs.
    Step(Vec<Output>),
    /// A sink: nothing reads it.
    Sink,
    /// A source or step with errors: what reads it stays unchecked, since its errors would be follow-on errors.
    Broken,
}

/// A topic with the place where it is named, and the node that reads or writes it.
struct NamedTopic {
    topic: String,
    span: Span,
    node: String,
}

/// What is written to a topic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// The records of a sink.
    Sink,
    /// The dead letters of a source or step.
    DeadLetters,
}

/// What the parts of the reading share.
pub(super) struct Reader<'a> {
    pub diagnostics: &'a Diagnostics,
    pub variables: &'a Variables<'a>,
    /// Operators and functions.
    pub registry: &'a Registry,
    pub types: Types<'a>,
    pub app: &'a App,
    names: BTreeMap<String, (Span, &'static str)>,
    names_twice: BTreeSet<String>,
    nodes: BTreeMap<String, Node>,
    /// How many milliseconds of history tables keep, by name.
    pub histories: BTreeMap<String, i64>,
    /// The global tables.
    pub globals: BTreeSet<String>,
    topics_read: Vec<NamedTopic>,
    topics_written: Vec<(NamedTopic, Written)>,
    /// Where sinks must not write to; known once sources and steps are read.
    pub taken: Arc<TakenTopics>,
    /// The schemas of formats.
    pub schema_registry: Arc<SchemaRegistry>,
    /// Formats whose records have the ids of a registry.
    pub registry_users: Vec<Span>,
}

impl Reader<'_> {
    /// Takes a name for a node. Nodes are broken until they are defined.
    fn declare(&mut self, name: &Text, what: &'static str, fields: &Fields<'_>) {
        check_name(name, what, self.diagnostics);
        settings::check_topic_length(self.app, name, fields);
        if let Some((other, other_what)) = self.names.get(&name.value) {
            let (first, second) =
                if other.start < name.span.start { (other, &name.span) } else { (&name.span, other) };
            self.diagnostics.push(
                Diagnostic::error(
                    Code::DuplicateName,
                    second.clone(),
                    format!("the name `{}` is used by a {other_what} and a {what}", name.value),
                )
                .also(first.clone(), "first used here")
                .help("sources, tables, steps and sinks share one set of names: rename one of them"),
            );
            self.names_twice.insert(name.value.clone());
            self.nodes.insert(name.value.clone(), Node::Broken);
            return;
        }
        self.names.insert(name.value.clone(), (name.span.clone(), what));
        self.nodes.insert(name.value.clone(), if what == "sink" { Node::Sink } else { Node::Broken });
    }

    /// Says what a declared name means; a name that was declared twice stays broken.
    pub fn define(&mut self, name: &Text, node: Node) {
        if self.owns(name) && !self.names_twice.contains(&name.value) {
            self.nodes.insert(name.value.clone(), node);
        }
    }

    /// Whether a name belongs to the node at this place, and not to one that took it before.
    pub fn owns(&self, name: &Text) -> bool {
        self.names.get(&name.value).is_some_and(|(span, _)| *span == name.span)
    }

    /// What is known of a name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The output that `from` names, and its columns; reports what does not exist.
    pub fn find(&self, from: &Text) -> Option<(OutputRef, Schema)> {
        let (node, output) = split(from);
        let report = |code, span, message: String, help: String| {
            self.diagnostics.push(Diagnostic::error(code, span, message).help(help));
        };
        let outputs = match self.nodes.get(node) {
            Some(Node::Broken) => return None,
            Some(Node::Source(schema)) => &vec![Output::main(schema.clone())],
            Some(Node::Step(outputs)) => outputs,
            Some(Node::Sink) => {
                let help = "read the node that the sink reads".to_owned();
                report(
                    Code::UnknownNode,
                    from.place(0..node.len()),
                    format!("`{node}` is a sink and has no output"),
                    help,
                );
                return None;
            }
            None => {
                let candidates = || self.nodes.iter().filter(|(_, node)| !matches!(node, Node::Sink));
                let names = candidates().map(|(name, _)| name.as_str());
                let help = did_you_mean(node, names.clone()).unwrap_or_else(|| match candidates().count() {
                    0 => "there is no source and no step yet".to_owned(),
                    _ => format!("sources and steps are {}", listed(names)),
                });
                report(
                    Code::UnknownNode,
                    from.place(0..node.len()),
                    format!("there is no source, table or step `{node}`"),
                    help,
                );
                return None;
            }
        };
        if let Some(found) = outputs.iter().find(|found| found.name.as_deref() == output) {
            return Some((
                OutputRef { node: node.to_owned(), output: output.map(str::to_owned) },
                found.schema.clone(),
            ));
        }
        let named: Vec<&str> = outputs.iter().filter_map(|output| output.name.as_deref()).collect();
        match output {
            None => {
                let choices: Vec<String> = named.iter().map(|output| format!("{node}.{output}")).collect();
                let help = format!("name one: {}", listed(choices.iter().map(String::as_str)));
                report(Code::OutputNeeded, from.span.clone(), format!("`{node}` has several outputs"), help);
            }
            Some(output) => {
                let help =
                    did_you_mean(output, named.iter().copied()).unwrap_or_else(|| match named.is_empty() {
                        true => format!("write `{node}`: it has one output, which has no name"),
                        false => format!("its outputs are {}", listed(named.iter().copied())),
                    });
                let place = from.place(node.len() + 1..from.len());
                report(Code::UnknownOutput, place, format!("`{node}` has no output `{output}`"), help);
            }
        }
        None
    }

    /// Reports that a global table is read where its changes would be needed.
    pub fn deny_global(&self, from: &Text, output: &OutputRef) -> Option<()> {
        if !self.globals.contains(&output.node) {
            return Some(());
        }
        let message = format!("`{}` is a global table, which can only be looked up", output.node);
        self.diagnostics.push(
            Diagnostic::error(Code::GlobalRead, from.span.clone(), message)
                .label("its changes go nowhere: every process has all of them")
                .help("name it in `with` of a `join`, or remove `scope = \"global\"`"),
        );
        None
    }

    /// The topic at `key`, checked.
    pub fn topic(&self, fields: &Fields<'_>, key: &str) -> Option<(String, Span)> {
        let topic = self.variables.text(fields, key)?;
        self.check_topic(&topic);
        Some((topic.value, topic.text.span))
    }

    fn check_topic(&self, topic: &Filled) {
        if let Some(problem) = topic_name_error(&topic.value) {
            let message = format!("`{}` is not the name of a topic", topic.shown());
            self.diagnostics
                .push(Diagnostic::error(Code::TopicName, topic.text.span.clone(), message).label(problem));
        }
    }

    /// Notes that a source reads a topic; one topic is read once.
    pub fn reads(&mut self, topic: &str, span: &Span, source: &Text) {
        if let Some(other) = self.topics_read.iter().find(|other| other.topic == topic) {
            self.diagnostics.push(
                Diagnostic::error(Code::DuplicateTopic, span.clone(), "the topic is read twice")
                    .also(other.span.clone(), format!("the source `{}` reads it", other.node))
                    .help(format!("let what reads `{}` read `{}` instead", source.value, other.node)),
            );
        }
        self.topics_read.push(NamedTopic {
            topic: topic.to_owned(),
            span: span.clone(),
            node: source.value.clone(),
        });
    }

    /// Notes that a node writes to a topic.
    pub fn writes(&mut self, topic: &str, span: &Span, node: &Text, written: Written) {
        let named = NamedTopic { topic: topic.to_owned(), span: span.clone(), node: node.value.clone() };
        self.topics_written.push((named, written));
    }

    /// Once sources and steps are read: where sinks must not write to.
    fn note_topics(&mut self) {
        let mut taken = TakenTopics::new(&self.app.id);
        self.topics_read.iter().for_each(|read| taken.add_source(&read.topic, &read.node));
        for (letters, _) in self.topics_written.iter().filter(|(_, what)| *what == Written::DeadLetters) {
            taken.add_dead_letters(&letters.topic, &letters.node);
        }
        self.taken = Arc::new(taken);
    }

    /// Reports topics that are the application's own, and those that are read and written: their records would come back.
    fn check_topics(&self) {
        for read in self.topics_read.iter().filter(|read| self.taken.is_internal(&read.topic)) {
            self.diagnostics.push(
                Diagnostic::error(
                    Code::OwnTopic,
                    read.span.clone(),
                    format!("`{}` reads a topic that the application fills by itself", read.node),
                )
                .help("let a step read the step whose rows are wanted"),
            );
        }
        for (topic, written) in &self.topics_written {
            let what = match written {
                Written::Sink => "a sink is",
                Written::DeadLetters => "dead letters are",
            };
            let report = |code, message: String| Diagnostic::error(code, topic.span.clone(), message);
            let own = "write to another topic: `<app>-…-repartition` and `<app>-…-changelog` are the application's own";
            let found = match (self.taken.taken(&topic.topic), written) {
                (None, _) | (Some(Taken::DeadLetters(_)), Written::DeadLetters) => None,
                (Some(Taken::Read(source)), _) => {
                    let read = self.topics_read.iter().find(|read| read.topic == topic.topic);
                    let found = report(
                        Code::SinkWritesSource,
                        format!("{what} written to a topic that the topology reads"),
                    )
                    .help("write to another topic, or the records come back");
                    Some(match read {
                        Some(read) => found.also(read.span.clone(), format!("the source `{source}` reads it")),
                        None => found,
                    })
                }
                (Some(Taken::DeadLetters(node)), Written::Sink) => Some(
                    report(
                        Code::OwnTopic,
                        format!("a sink is written to the topic of the dead letters of `{node}`"),
                    )
                    .help("write to another topic: dead letters are records as they came, with headers of their own"),
                ),
                (Some(Taken::Internal), _) => Some(
                    report(
                        Code::OwnTopic,
                        format!("{what} written to a topic that the application fills by itself"),
                    )
                    .help(own),
                ),
            };
            found.into_iter().for_each(|found| self.diagnostics.push(found));
        }
    }

    /// `[models]`, loaded; `None` for one with errors.
    fn models(&self, said: &Said<'_>) -> BTreeMap<String, Option<Arc<Model>>> {
        let mut models = BTreeMap::new();
        for (name, fields) in said {
            check_word(name, "model", self.diagnostics);
            fields.deny_unknown(["description", "path", "version"]);
            fields.text("description");
            if !fields.has("path") {
                fields.missing("path", "add `path = \"models/NAME\"`: the folder with a folder per version");
            }
            let path = self.variables.text(fields, "path");
            let version = fields.require_text("version", "add `version = \"1\"`: the folder under `path`");
            let model = path.zip(version).and_then(|(path, version)| self.load(&path, &version));
            models.insert(name.value.clone(), model.map(Arc::new));
        }
        models
    }

    fn load(&self, path: &Filled, version: &Text) -> Option<Model> {
        let folder = self.variables.directory.join(&path.value);
        let report = |span: &Span, message: String, help: String| {
            self.diagnostics.push(Diagnostic::error(Code::ModelFolder, span.clone(), message).help(help));
        };
        if !folder.is_dir() {
            let help = "paths are relative to the folder of the topology file".to_owned();
            report(&path.text.span, format!("there is no folder `{}`", path.shown()), help);
            return None;
        }
        let of_version = folder.join(&version.value);
        if version.is_empty() || !of_version.is_dir() {
            let mut versions: Vec<String> = std::fs::read_dir(&folder)
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()))
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect();
            versions.sort();
            let help = format!("versions are {}", listed(versions.iter().map(String::as_str)));
            report(&version.span, format!("`{}` has no folder `{}`", path.shown(), version.value), help);
            return None;
        }
        match Model::load(&of_version) {
            Ok(model) => Some(model),
            Err(problems) => {
                for problem in problems {
                    // The message names files, and so the path.
                    let message =
                        if path.secret { "the model cannot be used".to_owned() } else { problem.to_string() };
                    let help =
                        "a model folder holds `model.onnx`, `model.toml` and `golden.jsonl`, made together"
                            .to_owned();
                    report(&path.text.span, message, help);
                }
                None
            }
        }
    }

    /// Warns of nodes and models that nothing reads.
    fn warn_unused(&self, readable: &[&Said<'_>], sinks: &Said<'_>, models: &Said<'_>) {
        let mut read: BTreeSet<(String, Option<String>)> = BTreeSet::new();
        let mut used_models: BTreeSet<String> = BTreeSet::new();
        for (_, fields) in readable.iter().copied().flatten().chain(sinks) {
            for from in super::steps::mentioned(fields) {
                let (node, output) = split(&from);
                read.insert((node.to_owned(), output.map(str::to_owned)));
            }
            used_models
                .extend(fields.get("model").and_then(|value| value.get_ref().as_str()).map(str::to_owned));
        }
        for (name, fields) in readable.iter().copied().flatten() {
            let is_read = |output: &Option<String>| read.contains(&(name.value.clone(), output.clone()));
            let unused = match self.nodes.get(&name.value) {
                Some(Node::Step(outputs)) => {
                    !outputs.iter().any(|output| is_read(&output.name))
                        || outputs.iter().any(|output| !output.optional && !is_read(&output.name))
                }
                _ => !is_read(&None),
            };
            if unused {
                self.diagnostics.push(
                    Diagnostic::warning(
                        Code::UnusedNode,
                        name.span.clone(),
                        format!("nothing reads {}", fields.what),
                    )
                    .help("let a step or a sink read it, or remove it"),
                );
            }
        }
        for (name, fields) in models.iter().filter(|(name, _)| !used_models.contains(&name.value)) {
            self.diagnostics.push(
                Diagnostic::warning(
                    Code::UnusedModel,
                    name.span.clone(),
                    format!("no step uses {}", fields.what),
                )
                .help("use it in a `predict` step, or remove it"),
            );
        }
    }
}

/// Node and output of a reference: `route.alert`.
pub(super) fn split(from: &Text) -> (&str, Option<&str>) {
    match from.split_once('.') {
        Some((node, output)) => (node, Some(output)),
        None => (from, None),
    }
}
