//! `[steps]`: reads them, orders them, and lets each operator check its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use millstream_operators::config::{Fields, Text, check_name};
use millstream_operators::diagnostic::{Code, Diagnostic, did_you_mean, listed};
use millstream_operators::model::Model;
use millstream_operators::operator::{Arity, Input, OperatorSpec, Step};
use toml::Spanned;
use toml::de::DeValue;

use super::read::{Node, Reader, split};
use super::variables::has_denied;
use super::{StepNode, partitions};

/// Fields that every step may have.
const COMMON: [&str; 5] = ["op", "from", "description", "on-error", "dead-letter"];

/// An input as it is written: a name, or `{ node = "valid", as = "v" }`.
pub(super) struct SaidInput {
    /// The node or the output.
    pub from: Text,
    /// The qualifier in expressions.
    pub alias: Option<Text>,
}

impl SaidInput {
    /// By which columns may be qualified.
    pub fn qualifier(&self) -> String {
        let name = self.alias.as_ref().unwrap_or(&self.from);
        name.rsplit('.').next().unwrap_or_default().to_owned()
    }
}

/// A step as it is written.
struct SaidStep<'s, 'a> {
    name: &'s Text,
    fields: &'s Fields<'a>,
    spec: Option<&'static OperatorSpec>,
    inputs: Option<Vec<SaidInput>>,
}

impl<'a> Reader<'a> {
    /// The steps that could be resolved, each after its inputs.
    pub(super) fn steps(
        &mut self,
        said: &[(Text, Fields<'a>)],
        models: &BTreeMap<String, Option<Arc<Model>>>,
    ) -> Vec<StepNode> {
        let said: Vec<SaidStep<'_, 'a>> =
            said.iter().map(|(name, fields)| self.said_step(name, fields)).collect();
        let order = self.order(&said);
        let mut steps = Vec::with_capacity(order.len());
        for step in order.into_iter().filter_map(|index| said.get(index)) {
            if let Some(resolved) = self.step(step, models) {
                self.define(step.name, Node::Step(resolved.resolved.outputs.clone()));
                steps.push(resolved);
            }
        }
        let placed = said.iter().map(|step| (step.name.value.as_str(), step.fields));
        partitions::check(&steps, &placed.collect(), self.diagnostics);
        steps
    }

    fn said_step<'s>(&self, name: &'s Text, fields: &'s Fields<'a>) -> SaidStep<'s, 'a> {
        let names = || self.registry.operators().iter().map(|spec| spec.name);
        let op = fields.require_text("op", &format!("add `op = \"…\"`: one of {}", listed(names())));
        let spec = op.as_deref().and_then(|op| self.registry.operator(op));
        if let (Some(op), None) = (&op, spec) {
            let help =
                did_you_mean(op, names()).unwrap_or_else(|| format!("operators are {}", listed(names())));
            self.diagnostics.push(
                Diagnostic::error(
                    Code::UnknownOperator,
                    op.span.clone(),
                    format!("there is no operator `{}`", op.value),
                )
                .help(help),
            );
        }
        if let Some(spec) = spec {
            fields.deny_unknown(COMMON.into_iter().chain(spec.fields.iter().map(|field| field.name)));
        }
        let inputs = inputs(fields, spec.map(|spec| spec.arity));
        SaidStep { name, fields, spec, inputs }
    }

    /// The positions of the steps, each after the steps that it reads, otherwise as in the file. Steps in a cycle are reported
    /// and left out with all that reads them.
    fn order(&self, said: &[SaidStep<'_, 'a>]) -> Vec<usize> {
        let owners = said.iter().enumerate().filter(|(_, step)| self.owns(step.name));
        let positions: BTreeMap<&str, usize> =
            owners.map(|(position, step)| (step.name.value.as_str(), position)).collect();
        let reads = |step: &SaidStep<'_, 'a>| -> Vec<usize> {
            let inputs = step.inputs.iter().flatten();
            inputs.filter_map(|input| positions.get(split(&input.from).0).copied()).collect()
        };
        let inputs: Vec<Vec<usize>> = said.iter().map(reads).collect();
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); said.len()];
        let mut waiting: Vec<usize> = vec![0; said.len()];
        for (step, inputs) in inputs.iter().enumerate() {
            for input in inputs {
                if let (Some(readers), Some(waiting)) = (readers.get_mut(*input), waiting.get_mut(step)) {
                    readers.push(step);
                    *waiting += 1;
                }
            }
        }
        let free = waiting.iter().enumerate().filter(|(_, waiting)| **waiting == 0);
        let mut ready: BinaryHeap<Reverse<usize>> = free.map(|(step, _)| Reverse(step)).collect();
        let mut order = Vec::with_capacity(said.len());
        while let Some(Reverse(step)) = ready.pop() {
            order.push(step);
            for reader in readers.get(step).into_iter().flatten() {
                if let Some(waiting) = waiting.get_mut(*reader) {
                    *waiting -= 1;
                    if *waiting == 0 {
                        ready.push(Reverse(*reader));
                    }
                }
            }
        }
        self.report_cycles(said, &inputs, &waiting);
        order
    }

    /// Steps that still wait are in a cycle or read from one. Each has an input that waits, so following those inputs ends in a
    /// cycle.
    fn report_cycles(&self, said: &[SaidStep<'_, 'a>], inputs: &[Vec<usize>], waiting: &[usize]) {
        let waits = |step: &usize| waiting.get(*step).is_some_and(|waiting| *waiting > 0);
        let mut seen = vec![false; said.len()];
        for start in 0..said.len() {
            let mut path = Vec::new();
            let mut next = Some(start).filter(waits);
            while let Some(step) = next
                && let Some(seen) = seen.get_mut(step)
                && !std::mem::replace(seen, true)
            {
                path.push(step);
                next = inputs.get(step).and_then(|inputs| inputs.iter().copied().find(waits));
            }
            let Some(entry) = next.and_then(|step| path.iter().position(|on_path| *on_path == step)) else {
                continue;
            };
            let mut cycle: Vec<&SaidStep<'_, 'a>> =
                path.iter().skip(entry).rev().filter_map(|step| said.get(*step)).collect();
            if let Some(first) =
                cycle.iter().enumerate().min_by_key(|(_, step)| step.name.span.start).map(|(at, _)| at)
            {
                cycle.rotate_left(first);
            }
            let Some((first, others)) = cycle.split_first() else { continue };
            let names: Vec<&str> = cycle.iter().chain([first]).map(|step| step.name.value.as_str()).collect();
            let message = match others {
                [] => format!("the step `{}` reads itself", first.name.value),
                _ => format!("steps form a cycle: {}", names.join(" → ")),
            };
            let mut diagnostic = Diagnostic::error(Code::Cycle, first.fields.key_span("from"), message)
                .help("a topology flows one way: let one of them read something else");
            for step in others {
                diagnostic =
                    diagnostic.also(step.fields.key_span("from"), format!("`{}` reads on", step.name.value));
            }
            self.diagnostics.push(diagnostic);
        }
    }

    /// A step, if its inputs are known and its operator accepts it.
    fn step(
        &mut self,
        said: &SaidStep<'_, 'a>,
        models: &BTreeMap<String, Option<Arc<Model>>>,
    ) -> Option<StepNode> {
        let (on_error, dead_letter) = self.on_error(said.name, said.fields);
        let description = said.fields.text("description").map(|text| text.value);
        let found: Vec<_> =
            said.inputs.as_ref()?.iter().map(|input| (input, self.find(&input.from))).collect();
        let mut refs = Vec::with_capacity(found.len());
        let mut inputs = Vec::with_capacity(found.len());
        let mut looked_up = None;
        for (number, (input, found)) in found.into_iter().enumerate() {
            let (output, schema) = found?;
            let history = self.histories.get(&output.node).copied();
            let global = self.globals.contains(&output.node);
            let joins = said.spec.is_some_and(|spec| spec.arity == Arity::Two) && number == 1;
            if global && joins {
                looked_up = Some(output.node);
            } else {
                self.deny_global(&input.from, &output)?;
                refs.push(output);
            }
            inputs.push(Input {
                from: input.from.clone(),
                qualifier: input.qualifier(),
                schema,
                history,
                global,
            });
        }
        let spec = said.spec.filter(|_| !has_denied(said.fields))?;
        let step = Step {
            name: &said.name.value,
            inputs,
            fields: said.fields.clone(),
            models,
            functions: self.registry.functions(),
        };
        let resolved = (spec.resolve)(&step)?;
        Some(StepNode {
            name: said.name.value.clone(),
            description,
            spec,
            inputs: refs,
            global: looked_up,
            resolved,
            on_error,
            dead_letter,
        })
    }
}

/// The inputs that `from` names. With an unknown operator both one and several are accepted.
pub(super) fn inputs(fields: &Fields<'_>, arity: Option<Arity>) -> Option<Vec<SaidInput>> {
    let Some(value) = fields.get("from") else {
        fields.missing("from", "add `from = \"…\"`: the source or step to read");
        return None;
    };
    let said: Vec<&Spanned<DeValue<'_>>> = match (value.get_ref().as_array(), arity) {
        (Some(items), Some(Arity::Many) | None) => items.iter().collect(),
        (None, Some(Arity::Many)) => {
            fields.wrong_type("from", value, "a list of nodes, such as [\"a\", \"b\"]");
            return None;
        }
        _ => vec![value],
    };
    if said.is_empty() {
        fields.diagnostics().push(
            Diagnostic::error(Code::OutOfRange, value.span(), "`from` is empty")
                .help("name at least one source or step"),
        );
        return None;
    }
    let mut inputs: Vec<SaidInput> = said.iter().filter_map(|value| input(fields, "from", value)).collect();
    if arity == Some(Arity::Two) {
        let Some(with) = fields.get("with") else {
            fields.missing("with", "add `with = \"…\"`: the node to join with");
            return None;
        };
        return both(fields, inputs.pop()?, input(fields, "with", with)?);
    }
    let mut taken: Vec<(String, &SaidInput)> = Vec::new();
    for input in &inputs {
        if let Some((_, other)) = taken.iter().find(|(_, other)| other.from.value == input.from.value) {
            fields.diagnostics().push(
                Diagnostic::error(Code::DuplicateInput, input.from.span.clone(), "an input is named twice")
                    .also(other.from.span.clone(), "first time")
                    .help("name each input once"),
            );
        }
        taken.push((input.qualifier(), input));
    }
    (inputs.len() == said.len()).then_some(inputs)
}

/// Two inputs, whose columns must be told apart.
fn both(fields: &Fields<'_>, from: SaidInput, with: SaidInput) -> Option<Vec<SaidInput>> {
    if from.qualifier() == with.qualifier() {
        let message = format!("both inputs are called `{}`", from.qualifier());
        let help = format!("name one of them: with = {{ node = \"{}\", as = \"other\" }}", with.from.value);
        fields.diagnostics().push(
            Diagnostic::error(Code::DuplicateInput, with.from.span.clone(), message)
                .also(from.from.span.clone(), "the other one")
                .help(help),
        );
        return None;
    }
    Some(vec![from, with])
}

fn input(fields: &Fields<'_>, key: &str, value: &Spanned<DeValue<'_>>) -> Option<SaidInput> {
    if let Some(from) = fields.as_text(value) {
        return Some(SaidInput { from, alias: None });
    }
    let Some(table) = value.get_ref().as_table() else {
        fields.wrong_type(key, value, "the name of a source, table or step");
        return None;
    };
    let table = Fields::new(
        table,
        value.span(),
        fields.source(),
        fields.diagnostics(),
        format!("`{key}` of {}", fields.what),
    );
    table.deny_unknown(["node", "as"]);
    let alias = table.text("as");
    if let Some(alias) = &alias {
        check_name(alias, "qualifier", fields.diagnostics());
    }
    Some(SaidInput {
        from: table.require_text("node", "add `node = \"…\"`: the source or step to read")?,
        alias,
    })
}

/// Every node that `from` and `with` mention, without a word about mistakes.
pub(super) fn mentioned(fields: &Fields<'_>) -> Vec<Text> {
    fn one(fields: &Fields<'_>, value: &Spanned<DeValue<'_>>) -> Option<Text> {
        let node = value.get_ref().as_table().and_then(|table| table.get("node"));
        fields.as_text(node.unwrap_or(value))
    }
    let values = ["from", "with"].into_iter().filter_map(|key| fields.get(key));
    let nodes = values.flat_map(|value| match value.get_ref().as_array() {
        Some(items) => items.iter().collect(),
        None => vec![value],
    });
    nodes.filter_map(|value| one(fields, value)).collect()
}
