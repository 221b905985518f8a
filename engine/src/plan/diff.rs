//! What becomes of an application's state when another topology takes the place of the one that has run.
//!
//! State follows names: stores, their changelogs and repartition topics are named after steps, offsets belong to topics, and
//! folders of local state to sub-topologies. So two plans say all of it, but for the partitions of the sources' topics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, SecondsFormat};
use millstream_operators::config::format_duration;
use millstream_operators::diagnostic::{Code, listed};
use millstream_operators::operator::StoreKind;
use millstream_operators::schema::{Kind, Schema};
use serde::{Serialize, Serializer};

use super::describe::write_table;
use super::internal::{InternalTopic, Purpose};
use super::{Origin, Plan, PlanError, PlanNode, PlanOutput, PlanStore, SubTopology, TABLE};
use crate::topology::{Guarantee, Sink, SinkTopic, Source, Start, Topology};

/// What a topology does to the state of another one.
#[derive(Debug, Serialize)]
pub struct Diff {
    /// `[app] id` of the new topology.
    pub app: String,
    /// `[app] id` of the old one.
    pub old_app: String,
    /// Whether processes may be replaced one after the other, so that both topologies run for a while. Otherwise all have to be
    /// stopped before the first is started.
    pub rolling: bool,
    /// The stores.
    pub stores: Vec<Entry>,
    /// The topics of the application's own.
    pub internal_topics: Vec<Entry>,
    /// The sub-topologies.
    pub sub_topologies: Vec<Entry>,
    /// Sources and tables.
    pub sources: Vec<Entry>,
    /// The sinks.
    pub sinks: Vec<Entry>,
    /// What follows from it, the worst first.
    pub findings: Vec<Finding>,
}

/// Something that either topology has.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub change: Change,
    /// What it is, and what it was.
    pub detail: String,
}

/// What becomes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It goes on as it was.
    Kept,
    /// Only the new topology has it.
    New,
    /// It goes on, otherwise than it was.
    Changed,
    /// It goes on under another name.
    Renamed,
    /// Several have become this one.
    Merged,
    /// One has become several, of which this is one.
    Split,
    /// The new topology has none of this name: what it holds is left behind.
    Orphaned,
    /// Only the old topology has it.
    Removed,
    /// What it holds cannot be read by the new topology.
    Incompatible,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Change::Kept => "kept",
            Change::New => "new",
            Change::Changed => "changed",
            Change::Renamed => "renamed",
            Change::Merged => "merged",
            Change::Split => "split",
            Change::Orphaned => "orphaned",
            Change::Removed => "removed",
            Change::Incompatible => "incompatible",
        }
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// The new topology does not start where there is state of the old one.
    Refused,
    /// It starts, and something is lost.
    Lost,
    /// Nothing is lost.
    Note,
}

/// What follows from a change.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub effect: Effect,
    /// The code with which a start is refused.
    #[serde(serialize_with = "number")]
    pub code: Option<Code>,
    /// What it is about: `store totals`.
    pub subject: String,
    /// Cause and effect.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

#[expect(clippy::ref_option, reason = "serde passes a field by reference")]
fn number<S: Serializer>(code: &Option<Code>, serializer: S) -> Result<S::Ok, S::Error> {
    code.map(Code::number).serialize(serializer)
}

/// One of the two topologies.
struct Side<'a> {
    topology: &'a Topology,
    plan: &'a Plan,
    internal: Vec<InternalTopic>,
}

impl<'a> Side<'a> {
    fn new(topology: &'a Topology, plan: &'a Plan, partitions: u32) -> Result<Self, PlanError> {
        let counts = plan.partitions(|_| partitions)?;
        Ok(Side { topology, plan, internal: plan.internal_topics(&counts) })
    }

    fn stores(&self) -> impl Iterator<Item = Placed<'a>> + use<'a> {
        let plan: &'a Plan = self.plan;
        plan.sub_topologies.iter().flat_map(|sub| {
            sub.stores.iter().enumerate().map(move |(number, store)| Placed {
                sub,
                store,
                owner: sub.keepers(number).next(),
            })
        })
    }

    fn store(&self, name: &str) -> Option<Placed<'a>> {
        self.stores().find(|placed| placed.store.spec.name == name)
    }

    fn sub(&self, name: &str) -> Option<&'a SubTopology> {
        self.plan.sub_topologies.iter().map(|sub| &**sub).find(|sub| sub.name == name)
    }

    /// The rows of each repartition topic: their kind, how many columns are the key, and the columns.
    fn repartitions(&self) -> BTreeMap<&'a str, (Kind, usize, SchemaRef)> {
        let inputs = self.plan.sub_topologies.iter().flat_map(|sub| &sub.inputs);
        let of = inputs.filter_map(|input| match &input.origin {
            Origin::Repartition { schema, .. } => {
                Some((input.topic.as_str(), (schema.kind, schema.key, schema.columns.clone())))
            }
            Origin::Source(_) => None,
        });
        of.collect()
    }

    /// The topics that it reads.
    fn topics(&self) -> BTreeSet<&'a str> {
        self.plan.sub_topologies.iter().flat_map(|sub| topics(sub)).collect()
    }

    /// The rows that a sink is given.
    fn written(&self, sink: &str) -> Option<&'a Schema> {
        let outputs = self.plan.sub_topologies.iter().flat_map(|sub| &sub.outputs);
        outputs.into_iter().find_map(|output| match output {
            PlanOutput::Sink { sink: found, schema, .. } if found.name == sink => Some(schema),
            _ => None,
        })
    }
}

/// A store, and where it is.
#[derive(Clone, Copy)]
struct Placed<'a> {
    sub: &'a SubTopology,
    store: &'a PlanStore,
    owner: Option<&'a PlanNode>,
}

fn topics(sub: &SubTopology) -> impl Iterator<Item = &str> {
    sub.inputs.iter().map(|input| input.topic.as_str())
}

impl Diff {
    /// What `new` does to the state of `old`, when the topics of sources have `partitions` partitions each.
    ///
    /// # Errors
    /// If inputs of one of them that meet in one task would have different partition counts.
    pub fn new(old: (&Topology, &Plan), new: (&Topology, &Plan), partitions: u32) -> Result<Self, PlanError> {
        let (old, new) = (Side::new(old.0, old.1, partitions)?, Side::new(new.0, new.1, partitions)?);
        let mut comparison =
            Comparison { same_app: old.plan.app == new.plan.app, old, new, findings: Vec::new() };
        comparison.app();
        let stores = comparison.stores();
        let internal_topics = comparison.internal_topics();
        let sub_topologies = comparison.sub_topologies();
        let sources = comparison.sources();
        let sinks = comparison.sinks();
        let Comparison { same_app, old, new, mut findings } = comparison;
        findings.sort_by_key(|finding| finding.effect);
        let loses = findings.first().is_some_and(|worst| worst.effect != Effect::Note);
        let all_kept = |entries: &[Entry]| entries.iter().all(|entry| entry.change == Change::Kept);
        let rolling = same_app
            && !loses
            && old.topology.app.guarantee == new.topology.app.guarantee
            && all_kept(&stores)
            && all_kept(&sub_topologies)
            && old.repartitions() == new.repartitions();
        Ok(Diff {
            app: new.plan.app.clone(),
            old_app: old.plan.app.clone(),
            rolling,
            stores,
            internal_topics,
            sub_topologies,
            sources,
            sinks,
            findings,
        })
    }

    /// Whether the new topology goes on where the old one has stopped, with all of its state.
    pub fn loses_nothing(&self) -> bool {
        self.findings.iter().all(|finding| finding.effect == Effect::Note)
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        // Strings and lists always have a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// As text.
    pub fn to_text(&self) -> String {
        let mut text = self.app.clone();
        if self.app != self.old_app {
            let _ = write!(text, ", was {}", self.old_app);
        }
        text.push('\n');
        for (title, entries) in [
            ("stores", &self.stores),
            ("internal topics", &self.internal_topics),
            ("sub-topologies", &self.sub_topologies),
            ("sources", &self.sources),
            ("sinks", &self.sinks),
        ] {
            if entries.is_empty() {
                continue;
            }
            let _ = writeln!(text, "\n{title}");
            let rows = entries.iter().map(|entry| {
                [String::new(), entry.name.clone(), entry.change.name().to_owned(), entry.detail.clone()]
            });
            write_table(&rows.collect::<Vec<_>>(), &mut text);
        }
        if !self.findings.is_empty() {
            text.push('\n');
        }
        for Finding { effect, code, subject, message, help } in &self.findings {
            let effect = match effect {
                Effect::Refused => "refused",
                Effect::Lost => "lost",
                Effect::Note => "note",
            };
            let code = code.map(|code| format!("[{code}]")).unwrap_or_default();
            let _ = writeln!(text, "{effect}{code}: {subject}: {message}");
            if let Some(help) = help {
                let _ = writeln!(text, "  {help}");
            }
        }
        text.push_str(if self.rolling {
            "\nProcesses can be replaced one after the other.\n"
        } else {
            "\nStop all processes of the old topology before the first of the new one starts.\n"
        });
        text
    }
}

/// The work of a comparison.
struct Comparison<'a> {
    same_app: bool,
    old: Side<'a>,
    new: Side<'a>,
    findings: Vec<Finding>,
}

impl<'a> Comparison<'a> {
    fn say(
        &mut self,
        effect: Effect,
        code: Option<Code>,
        subject: String,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        let (message, help) = (message.into(), help.into());
        self.findings.push(Finding { effect, code, subject, message, help });
    }

    fn note(&mut self, subject: String, message: impl Into<String>) {
        self.say(Effect::Note, None, subject, message, None);
    }

    /// The topics for which the group has offsets already.
    fn read_before(&self) -> BTreeSet<&'a str> {
        if self.same_app { self.old.topics() } else { BTreeSet::new() }
    }

    fn app(&mut self) {
        let (was, is) = (&self.old.plan.app, &self.new.plan.app);
        if !self.same_app {
            let message = format!(
                "it was `{was}`, it is `{is}`: the consumer group, every internal topic and all state are new; sources are read from \
                 their `start`, and what the old application has written is written again"
            );
            let help = format!("keep `app.id = \"{was}\"` to go on with its state and its offsets");
            self.say(Effect::Lost, None, "app.id".to_owned(), message, help);
            return;
        }
        let message = match (self.old.topology.app.guarantee, self.new.topology.app.guarantee) {
            (Guarantee::ExactlyOnce, Guarantee::AtLeastOnce) => {
                "from now on a crash repeats what was processed since the last commit"
            }
            (Guarantee::AtLeastOnce, Guarantee::ExactlyOnce) => {
                "from now on a record counts once; what has been counted twice before stays in the state"
            }
            _ => return,
        };
        self.note("app.guarantee".to_owned(), message);
    }

    fn stores(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for new in self.new.stores() {
            let name = new.store.spec.name.clone();
            let old = if self.same_app { self.old.store(&name) } else { None };
            let change = match old {
                None => {
                    self.new_store(&name, new);
                    Change::New
                }
                Some(old) if old.store.spec.fingerprint != new.store.spec.fingerprint => {
                    self.incompatible_store(&name, old, new);
                    Change::Incompatible
                }
                Some(old) => {
                    self.kept_store(&name, old, new);
                    Change::Kept
                }
            };
            let mut detail = kept(new.store.kind);
            match old {
                Some(old) if old.store.kind != new.store.kind => {
                    let _ = write!(detail, ", was {}", kept(old.store.kind));
                }
                _ => {}
            }
            entries.push(Entry { name, change, detail });
        }
        for old in self.old.stores() {
            let name = &old.store.spec.name;
            if self.same_app && self.new.store(name).is_some() {
                continue;
            }
            if self.same_app {
                self.orphaned_store(name, old);
            }
            entries.push(Entry {
                name: name.clone(),
                change: Change::Orphaned,
                detail: kept(old.store.kind),
            });
        }
        entries
    }

    fn new_store(&mut self, name: &str, new: Placed<'_>) {
        let before = self.read_before();
        let goes_on: Vec<&str> = topics(new.sub).filter(|topic| before.contains(topic)).collect();
        if goes_on.is_empty() {
            return;
        }
        let subject = format!("store {name}");
        if new.owner.is_some_and(|owner| owner.op == TABLE) {
            let (group, topic) = (&self.new.plan.app, self.new.topology.source(name));
            let topic = topic.map_or(name, |source| &source.topic);
            // Other tables and streams of the sub-topology have offsets of their own.
            if !goes_on.contains(&topic) {
                return;
            }
            let message = format!(
                "the table begins empty, and `{topic}` is read on from where the old topology stopped: rows that have been written before \
                 are missing until they are written again"
            );
            let help = format!(
                "to have them, read the topic again while no process runs: kafka-consumer-groups.sh --bootstrap-server … --group {group} \
                 --topic {topic} --reset-offsets --to-earliest --execute"
            );
            self.say(Effect::Note, None, subject, message, help);
            return;
        }
        let message = format!(
            "it begins empty: {} {} read on from where the old topology stopped, and what came before is not in it",
            listed(goes_on.iter().copied()),
            if goes_on.len() == 1 { "is" } else { "are" },
        );
        self.note(subject, message);
    }

    fn incompatible_store(&mut self, name: &str, old: Placed<'_>, new: Placed<'_>) {
        let changes = match (old.owner, new.owner) {
            (Some(old), Some(new)) => differences(old, new),
            _ => Vec::new(),
        };
        let cause = if changes.is_empty() {
            "what is stored in it has changed".to_owned()
        } else {
            changes.join(", ")
        };
        let message = format!("{cause}: what the old topology has stored would be misread");
        let help = format!(
            "go on with what `{}` was, or give the step another name: it begins with an empty store then",
            owner_name(new, name)
        );
        self.say(Effect::Refused, Some(Code::StateMismatch), format!("store {name}"), message, help);
    }

    fn kept_store(&mut self, name: &str, old: Placed<'_>, new: Placed<'_>) {
        let before = self.read_before();
        let subject = || format!("store {name}");
        if topics(new.sub).all(|topic| !before.contains(topic)) {
            let inputs = listed(topics(new.sub));
            match self.new.topology.app.guarantee {
                Guarantee::ExactlyOnce => {
                    let message = format!(
                        "its step reads {inputs} now, of which no offset is committed: nothing says which of the records are in the state \
                         already"
                    );
                    let help = format!(
                        "let `{0}` read what it has read, or give it another name: it begins with an empty store then",
                        owner_name(new, name)
                    );
                    self.say(Effect::Refused, Some(Code::OffsetsForgotten), subject(), message, help);
                }
                Guarantee::AtLeastOnce => self.note(
                    subject(),
                    format!("its step reads {inputs} now, from the start: what is in the state already counts again"),
                ),
            }
        } else if topics(old.sub).all(|topic| topics(new.sub).all(|other| other != topic)) {
            let message = format!(
                "its step has moved from sub-topology `{}` to `{}`, which reads other topics: its state goes on, its stream time begins anew",
                old.sub.name, new.sub.name
            );
            self.note(subject(), message);
        }
    }

    fn orphaned_store(&mut self, name: &str, old: Placed<'_>) {
        let changelog = &old.store.changelog;
        let same = self.new.stores().find(|new| {
            new.store.spec.fingerprint == old.store.spec.fingerprint
                && self.old.store(&new.store.spec.name).is_none()
        });
        let help = match same {
            Some(same) => format!(
                "if `{}` is what `{}` was called, keep the name: state follows names",
                owner_name(same, &same.store.spec.name),
                owner_name(old, name)
            ),
            None => format!(
                "if that is meant, delete the topic `{changelog}` once the new topology runs: a step that takes the name again would \
                 take up its old state"
            ),
        };
        let message =
            "no step of the new topology has it: its state is left behind and no longer kept up to date";
        self.say(Effect::Lost, None, format!("store {name}"), message, help);
    }

    fn internal_topics(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut repartitioned: BTreeMap<(u32, u32), Vec<String>> = BTreeMap::new();
        for new in self.new.internal.clone() {
            let old = self.old.internal.iter().find(|old| old.topic == new.topic).cloned();
            let detail = |topic: &InternalTopic| match topic.partitions {
                1 => format!("{}, 1 partition", topic.purpose.name()),
                count => format!("{}, {count} partitions", topic.purpose.name()),
            };
            let (change, detail) = match old {
                None => (Change::New, detail(&new)),
                Some(old) if old.partitions != new.partitions => {
                    let counts = (old.partitions, new.partitions);
                    repartitioned.entry(counts).or_default().push(old.topic.clone());
                    (Change::Incompatible, format!("{}, had {}", detail(&new), old.partitions))
                }
                Some(_) if !self.is_readable(&new) => (Change::Incompatible, detail(&new)),
                Some(old) => (self.internal_topic(&old, &new), detail(&new)),
            };
            entries.push(Entry { name: new.topic, change, detail });
        }
        for ((was, is), topics) in repartitioned {
            self.repartitioned(was, is, &topics);
        }
        for old in self.old.internal.clone() {
            if self.new.internal.iter().any(|new| new.topic == old.topic) {
                continue;
            }
            if self.same_app && old.purpose == Purpose::Repartition {
                let message = "the new topology does not read it: rows in it that the old one has not processed when it stops are lost";
                self.say(Effect::Lost, None, format!("topic {}", old.topic), message, drain());
            }
            entries.push(Entry {
                name: old.topic,
                change: Change::Orphaned,
                detail: old.purpose.name().to_owned(),
            });
        }
        entries
    }

    fn repartitioned(&mut self, was: u32, is: u32, topics: &[String]) {
        let message = format!(
            "{} would have {is} partitions instead of {was}: keys would be found in other partitions than their state",
            listed(topics.iter().map(String::as_str)),
        );
        let help = format!("keep the count of {was}, or start under another `app.id`");
        self.say(Effect::Refused, Some(Code::TopicPartitions), "partitions".to_owned(), message, help);
    }

    /// Whether the store of a changelog that both have can still be read.
    fn is_readable(&self, changelog: &InternalTopic) -> bool {
        let of = |side: &Side<'_>| {
            let store = side.stores().find(|placed| *placed.store.changelog == *changelog.topic);
            store.map(|placed| placed.store.spec.fingerprint)
        };
        of(&self.old) == of(&self.new)
    }

    /// A topic that both have, with as many partitions.
    fn internal_topic(&mut self, old: &InternalTopic, new: &InternalTopic) -> Change {
        let subject = format!("topic {}", new.topic);
        let made: BTreeMap<&str, String> = old.purpose.settings().collect();
        let wrong = new.purpose.needed().into_iter().find_map(|(setting, needed)| {
            let found = made.get(setting).filter(|found| !needed.fits(found))?;
            Some((setting, needed, found.clone()))
        });
        if let Some((setting, needed, found)) = wrong {
            let message = format!(
                "it was made with `{setting} = {found}`, the new topology needs {}",
                needed.expected()
            );
            let help = format!(
                "before the first start, run: kafka-configs.sh --bootstrap-server … --alter --topic {} --add-config {setting}={}",
                new.topic,
                needed.fix()
            );
            self.say(Effect::Refused, Some(Code::TopicSetting), subject, message, help);
            return Change::Changed;
        }
        if self.old.repartitions().get(&*new.topic) != self.new.repartitions().get(&*new.topic) {
            let message = "its rows have other columns now: those that the old topology has not processed when it stops would be misread";
            self.say(Effect::Lost, None, subject, message, drain());
            return Change::Incompatible;
        }
        Change::Kept
    }

    fn sub_topologies(&mut self) -> Vec<Entry> {
        let shares =
            |a: &SubTopology, b: &SubTopology| topics(a).any(|topic| topics(b).any(|other| other == topic));
        let mut entries = Vec::new();
        for new in &self.new.plan.sub_topologies {
            let from: Vec<&SubTopology> = match self.same_app {
                true => self
                    .old
                    .plan
                    .sub_topologies
                    .iter()
                    .map(|old| &**old)
                    .filter(|old| shares(old, new))
                    .collect(),
                false => Vec::new(),
            };
            let (change, detail) = match from.as_slice() {
                [] => (Change::New, String::new()),
                [one] => {
                    let others =
                        self.new.plan.sub_topologies.iter().filter(|other| shares(one, other)).count();
                    let same_topics = topics(one).collect::<BTreeSet<_>>() == topics(new).collect();
                    if others > 1 {
                        (Change::Split, format!("from {}", one.name))
                    } else if one.name != new.name {
                        (Change::Renamed, format!("was {}", one.name))
                    } else if same_topics {
                        (Change::Kept, String::new())
                    } else {
                        (Change::Changed, "reads other topics".to_owned())
                    }
                }
                several => {
                    let names: Vec<&str> = several.iter().map(|old| old.name.as_str()).collect();
                    (Change::Merged, format!("from {}", names.join(", ")))
                }
            };
            entries.push(Entry { name: new.name.clone(), change, detail });
        }
        for old in &self.old.plan.sub_topologies {
            let goes_on = self.same_app && self.new.plan.sub_topologies.iter().any(|new| shares(old, new));
            if !goes_on {
                entries.push(Entry {
                    name: old.name.clone(),
                    change: Change::Removed,
                    detail: String::new(),
                });
            }
        }
        self.moved_folders();
        entries
    }

    /// Local state lies in folders that are named after sub-topologies.
    fn moved_folders(&mut self) {
        if !self.same_app {
            return;
        }
        let mut moved: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for new in self.new.stores() {
            let name = &new.store.spec.name;
            let same = |old: &Placed<'_>| old.store.spec.fingerprint == new.store.spec.fingerprint;
            let old = self.old.store(name).filter(same);
            if let Some(old) = old.filter(|old| old.sub.name != new.sub.name) {
                let names = (old.sub.name.clone(), new.sub.name.clone());
                moved.entry(names).or_default().push(name.clone());
            }
        }
        for ((was, is), stores) in moved {
            let folder = format!("{}/{was}-<partition>", self.new.plan.app);
            let message = format!(
                "the stores {} were in sub-topology `{was}`: folders of local state are named after it, so that they are restored from \
                 their changelogs, which takes as long as reading them; offsets and stream times go on",
                listed(stores.iter().map(String::as_str)),
            );
            let gone = self.new.sub(&was).is_none();
            let help = gone.then(|| {
                format!("the folders `{folder}` in the state directories are not used again: remove them")
            });
            self.say(Effect::Note, None, format!("sub-topology {is}"), message, help);
        }
    }

    fn sources(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let (old, new) = (self.old.topology, self.new.topology);
        let named = |source: &Source| {
            let what = if source.table.is_some() { "table" } else { "stream" };
            if source.topic == source.name {
                what.to_owned()
            } else {
                format!("{what}, topic {}", source.topic)
            }
        };
        for source in &new.sources {
            let subject = format!("source {}", source.name);
            let before = old.sources.iter().find(|old| self.same_app && old.topic == source.topic);
            let mut detail = named(source);
            let change = match before {
                None => {
                    let _ = write!(detail, ", from {}", start(source.start));
                    match old.source(&source.name).filter(|_| self.same_app) {
                        None => Change::New,
                        Some(was) => {
                            let _ = write!(detail, ", topic was {}", was.topic);
                            let message = format!(
                                "it reads `{}` instead of `{}`, from {}; what has come from the other topic stays in the state",
                                source.topic,
                                was.topic,
                                start(source.start)
                            );
                            self.note(subject, message);
                            Change::Changed
                        }
                    }
                }
                Some(before) => self.source(before, source, &mut detail),
            };
            entries.push(Entry { name: source.name.clone(), change, detail });
        }
        for source in &old.sources {
            let read = self.same_app && new.sources.iter().any(|new| new.topic == source.topic);
            if read || new.source(&source.name).is_some() {
                continue;
            }
            if self.same_app {
                let message = format!(
                    "`{}` is read no more; its committed offsets stay until they expire, and a topology that reads it again before goes on \
                     there",
                    source.topic
                );
                self.note(format!("source {}", source.name), message);
            }
            entries.push(Entry { name: source.name.clone(), change: Change::Removed, detail: named(source) });
        }
        entries
    }

    /// A source whose topic was read before.
    fn source(&mut self, old: &Source, new: &Source, detail: &mut String) -> Change {
        let subject = || format!("source {}", new.name);
        let mut change = Change::Kept;
        if old.name != new.name {
            let _ = write!(detail, ", was {}", old.name);
            change = Change::Renamed;
        }
        if old.start != new.start {
            let message = format!(
                "`start` says {} now, which changes nothing: the topic is read on from the committed offsets",
                start(new.start)
            );
            self.note(subject(), message);
        }
        let is_table = |source: &Source| source.table.is_some();
        if is_table(old) != is_table(new) {
            let kind = |source| if is_table(source) { "a table" } else { "a stream" };
            self.note(subject(), format!("it was {}, it is {}", kind(old), kind(new)));
            change = Change::Changed;
        } else if old.layout != new.layout {
            let message = "records are read as the new topology says from where the old one has stopped; what came before stays in the \
                           state as it was read";
            self.note(subject(), message);
            change = Change::Changed;
        }
        change
    }

    fn sinks(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let (old, new) = (self.old.topology, self.new.topology);
        for sink in &new.sinks {
            let subject = format!("sink {}", sink.name);
            let mut detail = topic_of(sink);
            let change = match old.sink(&sink.name) {
                Some(before) if topic_of(before) != detail => {
                    let was = topic_of(before);
                    self.note(subject, format!("it writes to {detail} from now on; what is in {was} stays"));
                    let _ = write!(detail, ", was {was}");
                    Change::Changed
                }
                Some(before) if before.layout != sink.layout => {
                    self.note(
                        subject,
                        "records are written otherwise from now on; those that are there stay",
                    );
                    Change::Changed
                }
                Some(_) => Change::Kept,
                None => {
                    let written = self.new.written(&sink.name);
                    if self.same_app && written.is_some_and(|schema| schema.kind == Kind::Table) {
                        self.note(
                            subject,
                            "it gets changes from now on: rows that do not change are not written to it",
                        );
                    }
                    Change::New
                }
            };
            entries.push(Entry { name: sink.name.clone(), change, detail });
        }
        for sink in old.sinks.iter().filter(|sink| new.sink(&sink.name).is_none()) {
            entries.push(Entry { name: sink.name.clone(), change: Change::Removed, detail: topic_of(sink) });
        }
        entries
    }
}

/// How rows in a repartition topic come to be processed before they are given up.
fn drain() -> String {
    "before the old topology is stopped, stop what writes to its sources and wait until `/tasks` shows no lag"
        .to_owned()
}

fn owner_name<'a>(placed: Placed<'a>, otherwise: &'a str) -> &'a str {
    placed.owner.map_or(otherwise, |owner| owner.name.as_str())
}

/// What of a step has changed that `describe` shows.
fn differences(old: &PlanNode, new: &PlanNode) -> Vec<String> {
    if old.op != new.op {
        return vec![format!("`op` was `{}`, it is `{}`", old.op, new.op)];
    }
    let (was, is) = (old.definition.facts(), new.definition.facts());
    let mut changes = Vec::new();
    for (name, value) in &is {
        match was.iter().find(|(known, _)| known == name) {
            Some((_, before)) if before != value => {
                changes.push(format!("{name} was {before}, it is {value}"))
            }
            Some(_) => {}
            None => changes.push(format!("{name} is {value}")),
        }
    }
    for (name, before) in was.iter().filter(|(name, _)| !is.iter().any(|(known, _)| known == name)) {
        changes.push(format!("{name} was {before}"));
    }
    changes
}

fn kept(kind: StoreKind) -> String {
    match kind {
        StoreKind::KeyValue => "key-value".to_owned(),
        StoreKind::Window { retention } => format!("window, kept {}", format_duration(retention)),
    }
}

fn start(start: Start) -> String {
    match start {
        Start::Earliest => "earliest".to_owned(),
        Start::Latest => "latest".to_owned(),
        Start::At(millis) => DateTime::from_timestamp_millis(millis)
            .map_or_else(|| millis.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
    }
}

fn topic_of(sink: &Sink) -> String {
    match &sink.topic {
        SinkTopic::Fixed(topic) => format!("topic {topic}"),
        SinkTopic::Expression(expression) => format!("topic by {}", expression.text()),
    }
}
