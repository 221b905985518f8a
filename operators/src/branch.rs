//! `branch`: sends each row to the first branch whose condition is true.

use crate::batch::Batch;
use crate::config::{Field, FieldKind, is_word};
use crate::diagnostic::{Code, Diagnostic};
use crate::filter::matching;
use crate::operator::{
    Arity, Context, Definition, Operator, OperatorError, OperatorSpec, Output, Resolved, Step, Wanted,
};
use crate::schema::Kind;
use crate::sql::Expression;

/// The keys of a branch.
const BRANCH: &[Field] = &[
    Field::required("name", FieldKind::String, "The branch's name: `STEP.NAME` is its stream."),
    Field::required("where", FieldKind::Sql, "The condition."),
];

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "branch",
    summary: "Sends each row to the first branch whose condition is true; `STEP.BRANCH` is a branch's stream.",
    arity: Arity::One,
    keyed: false,
    fields: &[
        Field {
            name: "branches",
            kind: FieldKind::List(&FieldKind::Keys(BRANCH)),
            required: true,
            doc: "The branches in the order in which they are tried: `{ name, where }`.",
        },
        Field {
            name: "otherwise",
            kind: FieldKind::String,
            required: false,
            doc: "The name of the branch for rows that match none; without it they are left out.",
        },
    ],
    example: r#"[steps.route]
op        = "branch"
from      = "scored"
branches  = [{ name = "alert", where = "score >= 0.9" }, { name = "review", where = "score >= 0.5" }]
otherwise = "fine""#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    step.require_kind(
        Kind::Stream,
        "branches of a table are `filter` steps; or make a stream of it with `to-stream`",
    )?;
    let fields = &step.fields;
    let Some(list) = fields.get("branches") else {
        fields.missing("branches", "add branches = [{ name = \"…\", where = \"…\" }]");
        return None;
    };
    let Some(list) = list.get_ref().as_array().filter(|list| !list.is_empty()) else {
        fields.wrong_type("branches", list, "a list of `{ name, where }` with at least one entry");
        return None;
    };
    let mut names = Vec::new();
    let mut conditions = Vec::new();
    for item in list.iter() {
        let Some(branch) = fields.as_table(item.span(), item, "a branch") else {
            fields.wrong_type("branches", item, "`{ name, where }`");
            continue;
        };
        branch.deny_unknown(BRANCH.iter().map(|field| field.name));
        let name = branch.require_text("name", "add a name for the branch");
        let condition = branch.require_text("where", "add a condition; for all other rows use `otherwise`");
        if let (Some(name), Some(text)) = (name, condition) {
            conditions.extend(step.condition(&text));
            names.push(name);
        }
    }
    let complete = conditions.len() == list.len();
    let otherwise = fields.text("otherwise");
    let has_otherwise = otherwise.is_some();
    names.extend(otherwise);
    for (index, name) in names.iter().enumerate() {
        if !is_word(name) || name.value == "late" {
            step.error(
                Code::InvalidName,
                name.span.clone(),
                format!("`{}` cannot name a branch", name.value),
                "a name is lower-case letters, digits and `_`, starts with a letter and is not `late`",
            );
            return None;
        }
        if let Some(first) = names.iter().take(index).find(|first| first.value == name.value) {
            step.diagnostics().push(
                Diagnostic::error(
                    Code::DuplicateBranch,
                    name.span.clone(),
                    format!("branch `{}` is there twice", name.value),
                )
                .also(first.span.clone(), "first here")
                .help("give each branch a name of its own"),
            );
            return None;
        }
    }
    if !complete {
        return None;
    }
    let outputs = names
        .iter()
        .map(|name| Output {
            name: Some(name.value.clone()),
            schema: step.input().schema.clone(),
            optional: true,
        })
        .collect();
    let definition = std::sync::Arc::new(Branch { conditions, otherwise: has_otherwise });
    Some(Resolved::new(outputs, definition))
}

#[derive(Clone, Debug)]
struct Branch {
    conditions: Vec<Expression>,
    otherwise: bool,
}

impl Definition for Branch {
    fn build(&self, _: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(RunningBranch { definition: self.clone() }))
    }
}

struct RunningBranch {
    definition: Branch,
}

impl Operator for RunningBranch {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let Some(input) = inputs.first() else { return Ok(Vec::new()) };
        let mut outputs = Vec::with_capacity(self.definition.conditions.len() + 1);
        let mut rest = input.clone();
        for condition in &self.definition.conditions {
            // A row that has found its branch is not asked further: a later condition may fail on it.
            let (matches, failed) = matching(condition, &rest, context);
            outputs.push(rest.filter(&matches)?);
            let others =
                (0..rest.len()).map(|row| Some(!matches.value(row) && !failed.contains(&row))).collect();
            rest = rest.filter(&others)?;
        }
        if self.definition.otherwise {
            outputs.push(rest);
        }
        Ok(outputs)
    }
}
