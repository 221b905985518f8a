//! `merge`: one stream of several.

use arrow::datatypes::SchemaRef;

use crate::batch::Batch;
use crate::config::Field;
use crate::diagnostic::{Code, Diagnostic};
use crate::operator::{
    Arity, Context, Definition, Operator, OperatorError, OperatorSpec, Resolved, Step, Wanted,
};
use crate::schema::{Kind, Schema, type_name};

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
                .help("bring them to the same key and columns with `select` or `rekey` first"),
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
