//! `merge`: one stream of several.

use std::fmt::Write;

use arrow::datatypes::{FieldRef, SchemaRef};
use serde_json::Value as Json;

use crate::batch::Batch;
use crate::config::{Field, is_word};
use crate::diagnostic::{Code, Diagnostic};
use crate::operator::{
    Arity, Context, Definition, Input, Operator, OperatorError, OperatorSpec, Resolved, Step, Wanted,
};
use crate::schema::{Kind, Schema, type_name};
use crate::sql::{self, Scope};

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "merge",
    summary: "One stream of several with the same key and columns.",
    arity: Arity::Many,
    keyed: false,
    fields: &[] as &[Field],
    example: r#"[steps.all]
op   = "merge"
from = ["web", "mobile"]"#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    step.require_kind(Kind::Stream, "make a stream of a table with `to-stream`")?;
    let first = step.input();
    let mut same = true;
    for other in step.inputs.iter().skip(1) {
        if let Some(difference) = difference(&first.schema, &other.schema) {
            step.diagnostics().push(
                Diagnostic::error(
                    Code::SchemasDiffer,
                    other.from.span.clone(),
                    format!(
                        "`{}` and `{}` cannot be merged: {difference}",
                        first.from.value, other.from.value
                    ),
                )
                .also(first.from.span.clone(), "differs from this one")
                .help(fitting(step, first, other)),
            );
            same = false;
        }
    }
    same.then(|| {
        let columns = first.schema.columns.clone();
        let orders = step
            .inputs
            .iter()
            .map(|input| {
                columns.fields().iter().filter_map(|field| input.schema.index_of(field.name())).collect()
            })
            .collect();
        Resolved::simple(first.schema.clone(), Merge { columns, orders })
    })
}

/// The first thing in which two schemas differ; the order of value columns does not count.
fn difference(a: &Schema, b: &Schema) -> Option<String> {
    let keys = |schema: &Schema| {
        let names: Vec<&str> = schema.key_fields().iter().map(|field| field.name().as_str()).collect();
        if names.is_empty() { "no key".to_owned() } else { format!("the key `{}`", names.join(", ")) }
    };
    if keys(a) != keys(b) {
        return Some(format!("one has {}, the other {}", keys(a), keys(b)));
    }
    for (one, other) in [(a, b), (b, a)] {
        for field in one.columns.fields() {
            match other.index_of(field.name()).and_then(|index| other.columns.fields().get(index)) {
                None => return Some(format!("only one has a column `{}`", field.name())),
                Some(found) if found.data_type() != field.data_type() => {
                    let types = (type_name(field.data_type()), type_name(found.data_type()));
                    return Some(format!(
                        "`{}` is {} in one and {} in the other",
                        field.name(),
                        types.0,
                        types.1
                    ));
                }
                Some(_) => {}
            }
        }
    }
    None
}

/// Which step makes the rows of `other` fit those of `first`.
fn fitting(step: &Step<'_>, first: &Input, other: &Input) -> String {
    let (a, b) = (&first.schema, &other.schema);
    let scope = step.scope_over(&[(other.qualifier.as_str(), b)]);
    let all = |columns: &[FieldRef]| -> Option<Vec<(FieldRef, String)>> {
        columns.iter().map(|field| Some((field.clone(), made(field, b, &scope)?))).collect()
    };
    let same_key = a.key_fields() == b.key_fields();
    if !same_key {
        let key: Option<Vec<(FieldRef, String)>> = all(a.key_fields());
        return match key {
            Some(key)
                if !key.is_empty()
                    && a.key_fields().iter().all(|field| b.index_of(field.name()).is_some()) =>
            {
                let step = format!("op = \"rekey\", from = {}, key = {}", quoted(&other.from), keys(&key));
                format!("put `{}` under the same key: {}", other.from.value, instead(other, &step))
            }
            _ => "bring them under the same key with `rekey` first".to_owned(),
        };
    }
    // Columns that no expression can make can only be left out of the one that has them.
    let without: Vec<&FieldRef> =
        a.value_fields().iter().filter(|field| made(field, b, &scope).is_none()).collect();
    let kept = |field: &&FieldRef| !without.iter().any(|left_out| left_out.name() == field.name());
    let wanted: Vec<FieldRef> = a.value_fields().iter().filter(kept).cloned().collect();
    let columns = all(&wanted).unwrap_or_default();
    let differs = |field: &FieldRef| {
        b.index_of(field.name()).is_some_and(|index| {
            b.columns.fields().get(index).is_some_and(|found| found.data_type() != field.data_type())
        })
    };
    let mut step = format!("op = \"select\", from = {}", quoted(&other.from));
    if columns.iter().any(|(field, _)| differs(field)) {
        let _ = write!(step, ", columns = {}", table(&columns));
    } else {
        let add: Vec<(FieldRef, String)> =
            columns.into_iter().filter(|(field, _)| b.index_of(field.name()).is_none()).collect();
        let extra =
            b.value_fields().iter().filter(|field| !wanted.iter().any(|kept| kept.name() == field.name()));
        let drop: Vec<String> = extra.map(|field| quoted(field.name())).collect();
        if !add.is_empty() {
            let _ = write!(step, ", add = {}", table(&add));
        }
        if !drop.is_empty() {
            let _ = write!(step, ", drop = [{}]", drop.join(", "));
        }
    }
    let mut help = format!("make `{}` fit: {}", other.from.value, instead(other, &step));
    if !without.is_empty() {
        let names: Vec<String> = without.iter().map(|field| quoted(field.name())).collect();
        let step = format!("op = \"select\", from = {}, drop = [{}]", quoted(&first.from), names.join(", "));
        let _ = write!(help, "; and `{}`: {}", first.from.value, instead(first, &step));
    }
    help
}

/// SQL over `schema` that makes a column of this name and type; `None` if there is none.
fn made(field: &FieldRef, schema: &Schema, scope: &Scope) -> Option<String> {
    let fits = |sql: &String| {
        sql::compile(sql, scope).is_ok_and(|expression| expression.data_type() == field.data_type())
    };
    let name = Some(field.name().clone()).filter(|name| is_word(name) && sql::compile(name, scope).is_ok());
    let name = name.unwrap_or_else(|| format!("\"{}\"", field.name().replace('"', "\"\"")));
    let data_type = type_name(field.data_type());
    match schema.index_of(field.name()) {
        Some(_) => Some(name.clone())
            .filter(fits)
            .or_else(|| Some(format!("cast({name} as {data_type})")).filter(fits)),
        None => Some(format!("cast(null as {data_type})")).filter(fits),
    }
}

/// The step with these keys, as it is written below `[steps]`.
fn instead(input: &Input, keys: &str) -> String {
    let name = format!("{}_fitted", input.from.replace('.', "_"));
    format!("add `{name} = {{ {keys} }}` to `[steps]` and merge `{name}` instead")
}

/// The columns of a key: as a list, if all are there already.
fn keys(columns: &[(FieldRef, String)]) -> String {
    match columns.iter().all(|(field, made)| field.name() == made) {
        true => {
            let names: Vec<String> = columns.iter().map(|(field, _)| quoted(field.name())).collect();
            format!("[{}]", names.join(", "))
        }
        false => table(columns),
    }
}

fn table(columns: &[(FieldRef, String)]) -> String {
    let bare = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let one = |(field, made): &(FieldRef, String)| {
        let name = if bare(field.name()) { field.name().clone() } else { quoted(field.name()) };
        format!("{name} = {}", quoted(made))
    };
    format!("{{ {} }}", columns.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// A string as TOML writes it.
fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}

#[derive(Clone, Debug)]
struct Merge {
    columns: SchemaRef,
    /// Per input: where it has the columns of the output.
    orders: Vec<Vec<usize>>,
}

impl Definition for Merge {
    fn build(&self, _: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(RunningMerge { definition: self.clone() }))
    }
}

struct RunningMerge {
    definition: Merge,
}

impl Operator for RunningMerge {
    fn process(&mut self, inputs: &[Batch], _: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let Merge { columns, orders } = &self.definition;
        let mut batches = Vec::with_capacity(inputs.len());
        for (input, order) in inputs.iter().zip(orders) {
            let arrays = order.iter().filter_map(|index| input.rows.columns().get(*index).cloned()).collect();
            batches.push(input.with_columns(columns, arrays)?);
        }
        Ok(vec![Batch::interleave(columns, &batches)?])
    }
}
