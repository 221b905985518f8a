//! `rekey`: puts a stream under another key; also the first half of a step with `group-by`.

use std::sync::Arc;

use arrow::datatypes::FieldRef;

use crate::batch::Batch;
use crate::config::{Field, FieldKind};
use crate::diagnostic::{Code, Diagnostic};
use crate::key::normalised;
use crate::operator::{
    Arity, Context, Definition, Feed, Operator, OperatorError, OperatorSpec, Rekeys, Resolved, Stage, Step,
    Wanted,
};
use crate::schema::{Kind, Schema, column};
use crate::sql::{Expression, evaluate_all};

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "rekey",
    summary: "Puts a stream under another key. A repartition topic follows where a later step finds rows by key.",
    arity: Arity::One,
    keyed: false,
    fields: &[
        Field {
            name: "key",
            kind: FieldKind::ColumnsOrSql,
            required: true,
            doc: "The new key: a list of columns, or name = expression. A value column that becomes key moves there; the \
                  old key's columns become value columns.",
        },
        Field {
            name: "partitions",
            kind: FieldKind::Integer,
            required: false,
            doc: "Partitions of the repartition topic; default: as many as the largest topic above it has.",
        },
    ],
    example: r#"[steps.by_merchant]
op   = "rekey"
from = "payments"
key  = ["merchant"]"#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    step.require_kind(Kind::Stream, "make a stream of the table with `to-stream` first")?;
    let partitions = step.fields.integer("partitions", 1..=100_000);
    if !step.fields.has("key") {
        step.fields.missing("key", "name the columns of the new key: key = [\"merchant\"]");
        return None;
    }
    let rekey = Rekey::resolve(step, "key")?;
    let partitions = partitions.map(|placed| placed.value as u32);
    let mut resolved = Resolved::simple(rekey.schema.clone(), rekey);
    resolved.rekeys = Some(Rekeys { partitions });
    Some(resolved)
}

/// New key columns, then the columns that are left.
#[derive(Clone, Debug)]
pub(crate) struct Rekey {
    /// Of the key columns, then of the value columns.
    expressions: Vec<Expression>,
    /// What comes out.
    pub schema: Schema,
}

impl Rekey {
    /// Reads the field `name`: a list of columns or names with expressions.
    pub fn resolve(step: &Step<'_>, name: &str) -> Option<Rekey> {
        let input = &step.input().schema;
        let mut key: Vec<(FieldRef, Expression)> = Vec::new();
        let mut complete = true;
        let value = step.fields.get(name)?;
        if value.get_ref().is_array() {
            for text in step.fields.texts(name)? {
                let Some(index) = step.column(&text, input) else {
                    complete = false;
                    continue;
                };
                if let Some(first) = key.iter().find(|(field, _)| *field.name() == text.value) {
                    step.error(
                        Code::ColumnClash,
                        text.span.clone(),
                        format!("`{}` is there twice", first.0.name()),
                        "remove one",
                    );
                    complete = false;
                } else if let (Some(field), Some(expression)) =
                    (input.columns.fields().get(index), Expression::column(input, index))
                {
                    key.push((field.clone(), expression));
                }
            }
        } else if value.get_ref().is_table() {
            let scope = step.scope();
            for (name, text) in step.fields.text_table(name)? {
                match step.located(&text, crate::sql::compile(&text, &scope)) {
                    Some(expression) => {
                        key.push((column(&name.value, expression.data_type().clone()), expression))
                    }
                    None => complete = false,
                }
            }
        } else {
            step.fields.wrong_type(name, value, "a list of columns, or a table of names and expressions");
            return None;
        }
        if !complete {
            return None;
        }
        if key.is_empty() {
            step.diagnostics().push(
                Diagnostic::error(Code::NoKey, value.span(), format!("`{name}` names no column"))
                    .help("name at least one column"),
            );
            return None;
        }
        let taken = |name: &str| key.iter().any(|(field, _)| field.name() == name);
        let rest: Vec<(FieldRef, Expression)> = input
            .columns
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| !taken(field.name()))
            .filter_map(|(index, field)| Some((field.clone(), Expression::column(input, index)?)))
            .collect();
        let (key_fields, key_expressions): (Vec<_>, Vec<_>) = key.into_iter().unzip();
        let (value_fields, value_expressions): (Vec<_>, Vec<_>) = rest.into_iter().unzip();
        let schema = Schema::new(Kind::Stream, key_fields, value_fields);
        Some(Rekey { expressions: key_expressions.into_iter().chain(value_expressions).collect(), schema })
    }

    /// No key at all: rows that are to meet in the one partition of a topic.
    pub fn to_one_partition(input: &Schema) -> Option<Rekey> {
        let fields = input.columns.fields();
        let expressions =
            (0..fields.len()).map(|index| Expression::column(input, index)).collect::<Option<_>>()?;
        Some(Rekey { expressions, schema: Schema::new(input.kind, Vec::new(), fields.to_vec()) })
    }

    /// Puts this and a repartition topic before a step (`group-by`, `partition-by`).
    pub fn before(self, step: Resolved, partitions: Option<u32>) -> Resolved {
        let stage = Stage {
            name: "group-by",
            topic: "",
            reads: vec![Feed::Input(0)],
            schema: self.schema.clone(),
            partitions,
            definition: Arc::new(self),
        };
        Resolved { stages: vec![stage], reads: vec![Feed::Stage(0)], ..step }
    }

    /// The same for the rows of a stream, or for the changes of a table.
    pub fn of_kind(self, kind: Kind) -> Rekey {
        Rekey { schema: Schema { kind, ..self.schema }, ..self }
    }
}

impl Definition for Rekey {
    fn facts(&self) -> Vec<(&'static str, String)> {
        let names: Vec<&str> = self.schema.key_fields().iter().map(|field| field.name().as_str()).collect();
        vec![("key", if names.is_empty() { "none".to_owned() } else { names.join(", ") })]
    }

    fn build(&self, _: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(RunningRekey { definition: self.clone() }))
    }
}

struct RunningRekey {
    definition: Rekey,
}

impl Operator for RunningRekey {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let Some(input) = inputs.first() else { return Ok(Vec::new()) };
        let Rekey { expressions, schema } = &self.definition;
        if input.is_empty() {
            return Ok(vec![Batch::empty(&schema.columns)]);
        }
        let (mut arrays, errors) = evaluate_all(expressions, &input.rows);
        // Equal keys must lie in one partition.
        for key in arrays.iter_mut().take(schema.key) {
            *key = normalised(key);
        }
        let keep = context.without_errors(input, &errors);
        Ok(vec![crate::filter::kept(input.with_columns(&schema.columns, arrays)?, keep)?])
    }
}
