//! `predict`: asks a model about each row.
//!
//! The rows of an epoch go through the model together. A row's answer does not depend on the rows beside it (see
//! [`Session`]), and where a run fails every row of it is tried alone, so that only those at fault fail.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, StringArray};
use arrow::datatypes::DataType;

use crate::batch::{Batch, RowKind};
use crate::columns::{Column, Value};
use crate::config::{Field, FieldKind, Fields, Text};
use crate::diagnostic::{Code, Diagnostic, did_you_mean, listed};
use crate::filter::{kept, table_changes};
use crate::model::{Data, ElementType, InputSpec, Model, ModelError, OutputSpec, Session, Tensor};
use crate::operator::{
    Arity, Context, Definition, Operator, OperatorError, OperatorSpec, Resolved, Step, Wanted,
};
use crate::schema::{Kind, Schema, column, type_name};

/// The keys of an output.
const OUTPUT: &[Field] = &[
    Field::required("tensor", FieldKind::String, "An output of the model."),
    Field::optional("class", FieldKind::String, "The value of this class, a label in `model.toml`."),
    Field::optional("index", FieldKind::Integer, "The value at this position, from 0."),
    Field::optional("label", FieldKind::Boolean, "The class with the highest value."),
];

/// The registry's entry.
pub const SPEC: OperatorSpec = OperatorSpec {
    name: "predict",
    summary: "Adds what a model says about each row. A null value passes without being scored.",
    arity: Arity::One,
    keyed: false,
    fields: &[
        Field { name: "model", kind: FieldKind::String, required: true, doc: "A model of `[models]`." },
        Field {
            name: "inputs",
            kind: FieldKind::Named(&FieldKind::Columns),
            required: false,
            doc: "The columns of each input tensor, in the model's order: `{ features = [\"amount\", \"usage\"] }`; \
                  default: the columns with the names in `model.toml`. A bool becomes 0 or 1, integers and float64 \
                  become float32 where the tensor asks for it, and null is a missing value (NaN) of a float tensor.",
        },
        Field {
            name: "outputs",
            kind: FieldKind::Named(&FieldKind::Keys(OUTPUT)),
            required: true,
            doc: "The columns to add: `NAME = { tensor = \"probabilities\", class = \"1\" }`. One of `class` (a label in \
                  `model.toml`), `index` (from 0) and `label = true` (the class with the highest score) says which value; \
                  none is needed if the tensor has one.",
        },
        Field {
            name: "batch",
            kind: FieldKind::Integer,
            required: false,
            doc: "The most rows that go through the model at once; default: all that an epoch holds.",
        },
    ],
    example: r#"[steps.scored]
op      = "predict"
from    = "recent"
model   = "fraud"
inputs  = { features = ["amount", "usage", "payments_10m"] }
outputs = { score = { tensor = "probabilities", class = "1" } }"#,
    resolve,
};

fn resolve(step: &Step<'_>) -> Option<Resolved> {
    let batch = step.fields.integer("batch", 1..=65_536);
    let name = step.fields.require_text("model", "name a model of `[models]`: model = \"fraud\"")?;
    let Some(model) = step.models.get(&name.value) else {
        let names = || step.models.keys().map(String::as_str);
        let help = did_you_mean(&name, names()).unwrap_or_else(|| match step.models.is_empty() {
            true => format!("declare it: [models.{}] with its `path` and `version`", name.value),
            false => format!("models are {}", listed(names())),
        });
        step.error(Code::UnknownModel, name.span.clone(), format!("no model `{}`", name.value), help);
        return None;
    };
    // What is wrong with a model that could not be loaded has been said at its own place.
    let model = model.as_ref()?;
    let inputs = inputs(step, &name, model);
    let (outputs, columns): (Vec<Pick>, Vec<_>) = outputs(step, model)?.into_iter().unzip();
    let input = &step.input().schema;
    let value = input.value_fields().iter().cloned().chain(columns).collect();
    let Schema { kind, windowed, ranked, closes_after, .. } = *input;
    let marks = Schema::new(kind, input.key_fields().to_vec(), value);
    let schema = Schema { windowed, ranked, closes_after, ..marks };
    let batch = batch.and_then(|batch| usize::try_from(batch.value).ok()).unwrap_or(usize::MAX);
    Some(Resolved::simple(
        schema.clone(),
        Predict { model: Arc::clone(model), inputs: inputs?, outputs, schema, batch },
    ))
}

/// The columns of each of the model's inputs.
fn inputs(step: &Step<'_>, model_name: &Text, model: &Model) -> Option<Vec<Vec<usize>>> {
    if !step.fields.has("inputs") {
        let columns = model.inputs().iter().map(|input| columns_of_model(step, model_name, input));
        return columns.collect::<Vec<_>>().into_iter().collect();
    }
    let tensors = step.fields.table("inputs", "`inputs`")?;
    tensors.deny_unknown(model.inputs().iter().map(|input| input.tensor.as_str()));
    let columns = model.inputs().iter().map(|input| given_columns(step, &tensors, input));
    columns.collect::<Vec<_>>().into_iter().collect()
}

/// The columns that have the names of the model's.
fn columns_of_model(step: &Step<'_>, model_name: &Text, input: &InputSpec) -> Option<Vec<usize>> {
    let schema = &step.input().schema;
    let (found, missing): (Vec<_>, Vec<_>) = input
        .columns
        .iter()
        .map(|name| (name.as_str(), schema.index_of(name)))
        .partition(|(_, index)| index.is_some());
    if let Some((first, _)) = missing.first() {
        let (from, asked) = (&step.input().from.value, listed(missing.iter().map(|(name, _)| *name)));
        let message = format!("model `{}` asks for {asked}, which `{from}` does not have", model_name.value);
        let near = did_you_mean(first, schema.names()).map_or_else(String::new, |near| format!("{near} "));
        let help = format!("{near}add it in a step before this one, or name the columns with `inputs`");
        step.error(Code::ModelInputs, model_name.span.clone(), message, help);
        return None;
    }
    let fit = |(_, index): (&str, Option<usize>)| index.filter(|index| fits(step, model_name, *index, input));
    found.into_iter().map(fit).collect::<Vec<_>>().into_iter().collect()
}

/// The columns that the step lists.
fn given_columns(step: &Step<'_>, tensors: &Fields<'_>, input: &InputSpec) -> Option<Vec<usize>> {
    let expected = || listed(input.columns.iter().map(String::as_str));
    let tensor = &input.tensor;
    if !tensors.has(tensor) {
        let message = format!("`inputs` has no `{tensor}`, which the model takes");
        step.error(
            Code::ModelInputs,
            tensors.header.clone(),
            message,
            format!("its columns are {}", expected()),
        );
        return None;
    }
    let columns = tensors.texts(tensor)?;
    if columns.len() != input.columns.len() {
        let message =
            format!("`{tensor}` has {} columns, the model takes {}", columns.len(), input.columns.len());
        step.error(
            Code::ModelInputs,
            tensors.key_span(tensor),
            message,
            format!("its columns are {}", expected()),
        );
        return None;
    }
    let mut complete = true;
    for (name, own) in columns.iter().zip(&input.columns) {
        // Other names may stand for the same things, but the same names in another order cannot be meant.
        if name.value != *own && input.columns.contains(&name.value) {
            let message = format!("`{}` stands where the model takes `{own}`", name.value);
            step.error(Code::ModelInputs, name.span.clone(), message, format!("its order is {}", expected()));
            complete = false;
        }
    }
    let schema = &step.input().schema;
    let find = |name: &Text| step.column(name, schema).filter(|index| fits(step, name, *index, input));
    let found: Vec<_> = columns.iter().map(find).collect();
    complete.then(|| found.into_iter().collect()).flatten()
}

/// Whether a column can be an element of the tensor; reports that it cannot.
fn fits(step: &Step<'_>, place: &Text, index: usize, input: &InputSpec) -> bool {
    let Some(field) = step.input().schema.columns.fields().get(index) else { return false };
    let fits = match input.element_type {
        ElementType::Float32 | ElementType::Float64 => matches!(
            field.data_type(),
            DataType::Boolean | DataType::Int32 | DataType::Int64 | DataType::Float32 | DataType::Float64
        ),
        ElementType::Int64 => {
            matches!(field.data_type(), DataType::Boolean | DataType::Int32 | DataType::Int64)
        }
        ElementType::Int32 => matches!(field.data_type(), DataType::Boolean | DataType::Int32),
        ElementType::Bool => matches!(field.data_type(), DataType::Boolean),
    };
    if !fits {
        step.error(
            Code::ModelInputs,
            place.span.clone(),
            format!(
                "`{}` is {}, the tensor `{}` holds {}",
                field.name(),
                type_name(field.data_type()),
                input.tensor,
                input.element_type
            ),
            "convert it in a `select` step before this one",
        );
    }
    fits
}

/// The columns to add, with what each of them takes.
fn outputs(step: &Step<'_>, model: &Model) -> Option<Vec<(Pick, arrow::datatypes::FieldRef)>> {
    let example =
        "name the columns to add: outputs = { score = { tensor = \"probabilities\", class = \"1\" } }";
    if !step.fields.has("outputs") {
        step.fields.missing("outputs", example);
    }
    let table = step.fields.table("outputs", "`outputs`")?;
    if table.entries().is_empty() {
        step.error(Code::ModelOutputs, step.fields.key_span("outputs"), "`outputs` is empty", example);
        return None;
    }
    let mut outputs = Vec::new();
    let mut complete = true;
    for (name, value) in table.entries() {
        complete &= table.check_column_name(&name);
        let Some(fields) = table.as_table(name.span.clone(), value, format!("output `{}`", name.value))
        else {
            table.wrong_type(&name, value, "a table");
            complete = false;
            continue;
        };
        if step.input().schema.index_of(&name).is_some() {
            step.error(
                Code::ColumnClash,
                name.span.clone(),
                format!("`{}` has a column `{}` already", step.input().from.value, name.value),
                "choose another name",
            );
            complete = false;
        }
        match pick(step, &fields, model) {
            Some((pick, data_type)) => outputs.push((pick, column(&name.value, data_type))),
            None => complete = false,
        }
    }
    complete.then_some(outputs)
}

/// What one output takes.
fn pick(step: &Step<'_>, fields: &Fields<'_>, model: &Model) -> Option<(Pick, DataType)> {
    const WHICH: [&str; 3] = ["class", "index", "label"];
    fields.deny_unknown(OUTPUT.iter().map(|field| field.name));
    let names = || model.outputs().iter().map(|output| output.tensor.as_str());
    let name = fields.require_text("tensor", &format!("the model's outputs are {}", listed(names())))?;
    let Some((tensor, output)) =
        model.outputs().iter().enumerate().find(|(_, output)| output.tensor == name.value)
    else {
        let help =
            did_you_mean(&name, names()).unwrap_or_else(|| format!("its outputs are {}", listed(names())));
        step.error(
            Code::ModelOutputs,
            name.span.clone(),
            format!("the model has no output `{}`", name.value),
            help,
        );
        return None;
    };
    if let [first, second, ..] =
        WHICH.into_iter().filter(|key| fields.has(key)).collect::<Vec<_>>().as_slice()
    {
        let message = format!("`{first}` and `{second}` exclude each other");
        step.diagnostics().push(
            Diagnostic::error(Code::KeysExclude, fields.key_span(second), message).help("keep one of them"),
        );
        return None;
    }
    let element_type = match output.element_type {
        ElementType::Float32 => DataType::Float32,
        ElementType::Float64 => DataType::Float64,
        ElementType::Int64 => DataType::Int64,
        ElementType::Int32 => DataType::Int32,
        ElementType::Bool => DataType::Boolean,
    };
    let what = if fields.has("class") {
        let class = fields.text("class")?;
        let classes = classes(step, fields, "class", output)?;
        let Some(index) = classes.iter().position(|known| *known == class.value) else {
            let names = || classes.iter().map(String::as_str);
            let help = did_you_mean(&class, names())
                .unwrap_or_else(|| format!("its classes are {}", listed(names())));
            step.error(
                Code::ModelOutputs,
                class.span.clone(),
                format!("`{}` has no class `{}`", output.tensor, class.value),
                help,
            );
            return None;
        };
        What::Value(index)
    } else if fields.has("index") {
        let largest = i64::try_from(output.width).unwrap_or(i64::MAX).saturating_sub(1);
        What::Value(usize::try_from(fields.integer("index", 0..=largest)?.value).ok()?)
    } else if fields.boolean("label").is_some_and(|label| label.value) {
        classes(step, fields, "label", output)?;
        return Some((Pick { tensor, what: What::Label }, DataType::Utf8));
    } else if output.width == 1 {
        What::Value(0)
    } else {
        let help = match &output.classes {
            Some(classes) => {
                format!(
                    "choose one with `class` ({}), or take `label = true`",
                    listed(classes.iter().map(String::as_str))
                )
            }
            None => "choose one with `index`, from 0".to_owned(),
        };
        let message = format!("`{}` has {} values a row", output.tensor, output.width);
        step.error(Code::ModelOutputs, name.span.clone(), message, help);
        return None;
    };
    Some((Pick { tensor, what }, element_type))
}

/// The class labels of an output; reports that it has none.
fn classes<'m>(
    step: &Step<'_>,
    fields: &Fields<'_>,
    key: &str,
    output: &'m OutputSpec,
) -> Option<&'m [String]> {
    if output.classes.is_none() {
        step.error(
            Code::ModelOutputs,
            fields.key_span(key),
            format!("`{}` has no classes in `model.toml`", output.tensor),
            "list them there, or choose a value with `index`",
        );
    }
    output.classes.as_deref()
}

/// What an output column takes from a tensor.
#[derive(Clone, Copy, Debug)]
struct Pick {
    tensor: usize,
    what: What,
}

impl Pick {
    /// Where the values of a row lie that was answered at `place`, in a tensor with `width` values a row.
    fn range(self, place: usize, width: usize) -> Range<usize> {
        match self.what {
            What::Value(index) => place * width + index..place * width + index + 1,
            What::Label => place * width..(place + 1) * width,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// The value at a position of the row.
    Value(usize),
    /// The label of the highest score; of equal ones the first.
    Label,
}

#[derive(Clone, Debug)]
struct Predict {
    model: Arc<Model>,
    /// Per input of the model its columns.
    inputs: Vec<Vec<usize>>,
    outputs: Vec<Pick>,
    schema: Schema,
    batch: usize,
}

impl Definition for Predict {
    fn facts(&self) -> Vec<(&'static str, String)> {
        let model = &self.model;
        vec![
            ("model", format!("{} {}", model.name(), model.version())),
            ("sha256", model.sha256().to_owned()),
            ("backend", model.backend().to_owned()),
        ]
    }

    // Whether the replaced row had failed decides between an update, an insert, a delete and nothing. Any row may fail, so
    // that changes of a table are not folded before a model.
    fn needs_before(&self, wanted: &Wanted) -> bool {
        wanted.before || self.schema.kind == Kind::Table
    }

    fn build(&self, wanted: &Wanted) -> Result<Box<dyn Operator>, OperatorError> {
        let session = self.model.session().map_err(|error| OperatorError::Internal(error.to_string()))?;
        Ok(Box::new(RunningPredict { definition: self.clone(), session, before: wanted.before }))
    }
}

struct RunningPredict {
    definition: Predict,
    session: Box<dyn Session>,
    before: bool,
}

impl Operator for RunningPredict {
    fn process(&mut self, inputs: &[Batch], context: &mut Context<'_>) -> Result<Vec<Batch>, OperatorError> {
        let Some(input) = inputs.first() else { return Ok(Vec::new()) };
        if input.is_empty() {
            return Ok(vec![Batch::empty(&self.definition.schema.columns)]);
        }
        let columns = Column::all(input.rows.columns())?;
        let mut scored = Scored::new(&self.definition.model, input.len());
        // Of a row that is replaced, it counts only whether it had failed, unless somebody wants its columns: it is scored
        // where its new row fails.
        let before = self.before;
        let is_replaced = |row: &usize| !before && input.kind(*row) == RowKind::UpdateBefore;
        let rows = (0..input.len()).filter(|row| !input.is_null_value(*row) && !is_replaced(row));
        self.score(rows.collect(), &columns, &mut scored)?;
        let failed: BTreeSet<usize> = scored.errors.iter().map(|(row, _)| *row).collect();
        let replaced = (0..input.len()).filter(|row| is_replaced(row) && failed.contains(&(row + 1)));
        self.score(replaced.collect(), &columns, &mut scored)?;

        let schema = &self.definition.schema;
        let mut arrays = input.rows.columns().to_vec();
        for pick in &self.definition.outputs {
            arrays.push(scored.column(*pick, &self.definition.model));
        }
        let output = input.with_columns(&schema.columns, arrays)?;
        let keep = scored.report(input, context);
        Ok(vec![match schema.kind {
            Kind::Table => table_changes(&output, keep.as_ref(), self.before)?,
            Kind::Stream => kept(output, keep)?,
        }])
    }
}

impl RunningPredict {
    /// Sends rows through the model.
    fn score(
        &mut self,
        rows: Vec<usize>,
        columns: &[Column<'_>],
        scored: &mut Scored,
    ) -> Result<(), OperatorError> {
        let mut pending = Pending::new(&self.definition.model);
        for &row in &rows {
            match pending.add(row, &self.definition, columns) {
                Ok(()) if pending.rows.len() >= self.definition.batch => {
                    pending.run(self.session.as_mut(), &self.definition.model, scored)?;
                }
                Ok(()) => {}
                Err(message) => scored.errors.push((row, message)),
            }
        }
        pending.run(self.session.as_mut(), &self.definition.model, scored)?;
        for pick in &self.definition.outputs {
            scored.check(*pick, &self.definition.model, &rows);
        }
        Ok(())
    }
}

/// Rows that wait for their run through the model.
struct Pending {
    rows: Vec<usize>,
    /// Per input of the model the elements of these rows.
    inputs: Vec<Data>,
}

impl Pending {
    fn new(model: &Model) -> Self {
        let inputs = model.inputs().iter().map(|input| Data::with_capacity(input.element_type, 0)).collect();
        Pending { rows: Vec::new(), inputs }
    }

    /// Adds a row; one that cannot be an input leaves nothing behind.
    fn add(&mut self, row: usize, definition: &Predict, columns: &[Column<'_>]) -> Result<(), String> {
        for (position, (data, indices)) in self.inputs.iter_mut().zip(&definition.inputs).enumerate() {
            for (element, index) in indices.iter().enumerate() {
                let value = columns.get(*index).map_or(Value::Null, |column| column.value(row));
                if let Err(problem) = push(data, value) {
                    let spec = definition.model.inputs().get(position);
                    let name = definition.schema.names().nth(*index).unwrap_or_default();
                    let own = spec.and_then(|spec| spec.columns.get(element)).map_or("", String::as_str);
                    let own = if own == name { String::new() } else { format!(" (the model's `{own}`)") };
                    for (data, spec) in self.inputs.iter_mut().zip(definition.model.inputs()) {
                        data.truncate(self.rows.len() * spec.columns.len());
                    }
                    return Err(format!("`{name}`{own} {problem}"));
                }
            }
        }
        self.rows.push(row);
        Ok(())
    }

    /// Runs all rows together, or, if that fails, one by one.
    fn run(
        &mut self,
        session: &mut dyn Session,
        model: &Model,
        scored: &mut Scored,
    ) -> Result<(), OperatorError> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        let mut tensors = Vec::with_capacity(self.inputs.len());
        for (data, spec) in self.inputs.iter_mut().zip(model.inputs()) {
            let data = std::mem::replace(data, Data::with_capacity(spec.element_type, 0));
            let tensor = Tensor::new(rows.len(), spec.columns.len(), data);
            tensors.push(tensor.map_err(|error| OperatorError::Internal(error.to_string()))?);
        }
        let together: Result<Vec<Tensor>, ModelError> = session.run(&tensors);
        match together {
            Ok(outputs) => scored.add(&rows, outputs),
            Err(error) if rows.len() == 1 => {
                scored.errors.extend(rows.into_iter().map(|row| (row, error.to_string())))
            }
            Err(_) => {
                for (position, row) in rows.into_iter().enumerate() {
                    let alone: Vec<Tensor> = tensors.iter().map(|tensor| tensor.slice(position, 1)).collect();
                    match session.run(&alone) {
                        Ok(outputs) => scored.add(&[row], outputs),
                        Err(error) => scored.errors.push((row, error.to_string())),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Adds a column's value to a tensor.
fn push(data: &mut Data, value: Value<'_>) -> Result<(), String> {
    fn finite<T>(into: &mut Vec<T>, value: T, infinite: bool) -> Result<(), String> {
        if infinite {
            return Err("is infinite, or too large for the model's float32".to_owned());
        }
        into.push(value);
        Ok(())
    }
    match (data, value) {
        (Data::Float32(data), value) => {
            let value = match value {
                Value::Bool(value) => f32::from(u8::from(value)),
                Value::Int32(value) => value as f32,
                Value::Int64(value) => value as f32,
                Value::Float32(value) => value,
                Value::Float64(value) => value as f32,
                _ => f32::NAN,
            };
            finite(data, value, value.is_infinite())
        }
        (Data::Float64(data), value) => {
            let value = match value {
                Value::Bool(value) => f64::from(u8::from(value)),
                Value::Int32(value) => f64::from(value),
                Value::Int64(value) => value as f64,
                Value::Float32(value) => f64::from(value),
                Value::Float64(value) => value,
                _ => f64::NAN,
            };
            finite(data, value, value.is_infinite())
        }
        (Data::Int64(data), Value::Int64(value)) => finite(data, value, false),
        (Data::Int64(data), Value::Int32(value)) => finite(data, i64::from(value), false),
        (Data::Int64(data), Value::Bool(value)) => finite(data, i64::from(value), false),
        (Data::Int32(data), Value::Int32(value)) => finite(data, value, false),
        (Data::Int32(data), Value::Bool(value)) => finite(data, i32::from(value), false),
        (Data::Bool(data), Value::Bool(value)) => finite(data, value, false),
        (data, _) => Err(format!("is null, and a tensor of {} has no missing value", data.element_type())),
    }
}

/// What the model said.
struct Scored {
    /// Per output of the model the elements of the rows that it answered.
    outputs: Vec<Data>,
    /// Per row of the batch its place in `outputs`, if it was answered.
    places: Vec<Option<usize>>,
    answered: usize,
    /// Rows that failed, and why; a row may be there twice.
    errors: Vec<(usize, String)>,
}

impl Scored {
    fn new(model: &Model, rows: usize) -> Self {
        let empty = |output: &OutputSpec| Data::with_capacity(output.element_type, rows * output.width);
        let outputs = model.outputs().iter().map(empty).collect();
        Scored { outputs, places: vec![None; rows], answered: 0, errors: Vec::new() }
    }

    fn add(&mut self, rows: &[usize], outputs: Vec<Tensor>) {
        for (all, output) in self.outputs.iter_mut().zip(outputs) {
            all.append(output.into_data());
        }
        for row in rows {
            if let Some(place) = self.places.get_mut(*row) {
                *place = Some(self.answered);
            }
            self.answered += 1;
        }
    }

    /// The rows, of `rows`, in which an output column is no number fail.
    fn check(&mut self, pick: Pick, model: &Model, rows: &[usize]) {
        let (Some(data), Some(spec)) = (self.outputs.get(pick.tensor), model.outputs().get(pick.tensor))
        else {
            return;
        };
        let finite = |index: usize| data.get(index).is_some_and(f64::is_finite);
        for row in rows {
            let place = self.places.get(*row).copied().flatten();
            if let Some(wrong) = place.and_then(|place| pick.range(place, spec.width).find(|at| !finite(*at)))
            {
                let value = data.get(wrong).unwrap_or(f64::NAN);
                self.errors.push((*row, format!("the model's output `{}` is {value}", spec.tensor)));
            }
        }
    }

    /// An output column: null for rows that were not answered.
    fn column(&self, pick: Pick, model: &Model) -> ArrayRef {
        let (Some(data), Some(spec)) = (self.outputs.get(pick.tensor), model.outputs().get(pick.tensor))
        else {
            return Arc::new(BooleanArray::new_null(self.places.len()));
        };
        let width = spec.width;
        let at = |index: usize| self.places.iter().map(move |place| place.map(|place| place * width + index));
        match (data, pick.what) {
            (data, What::Label) => {
                let classes = spec.classes.as_deref().unwrap_or_default();
                let label = |place: &Option<usize>| {
                    classes.get(best(data, pick.range((*place)?, width))?).map(String::as_str)
                };
                Arc::new(self.places.iter().map(label).collect::<StringArray>())
            }
            (Data::Float32(data), What::Value(index)) => {
                Arc::new(taken(data, at(index)).collect::<Float32Array>())
            }
            (Data::Float64(data), What::Value(index)) => {
                Arc::new(taken(data, at(index)).collect::<Float64Array>())
            }
            (Data::Int64(data), What::Value(index)) => {
                Arc::new(taken(data, at(index)).collect::<Int64Array>())
            }
            (Data::Int32(data), What::Value(index)) => {
                Arc::new(taken(data, at(index)).collect::<Int32Array>())
            }
            (Data::Bool(data), What::Value(index)) => {
                Arc::new(taken(data, at(index)).collect::<BooleanArray>())
            }
        }
    }

    /// Reports the rows that failed, each once; answers which rows are without an error, `None` for all.
    fn report(mut self, input: &Batch, context: &mut Context<'_>) -> Option<BooleanArray> {
        if self.errors.is_empty() {
            return None;
        }
        self.errors.sort_by_key(|(row, _)| *row);
        self.errors.dedup_by_key(|(row, _)| *row);
        let mut keep = vec![true; input.len()];
        for (row, message) in self.errors {
            if let Some(kept) = keep.get_mut(row) {
                *kept = false;
            }
            // What is taken back had failed when it came, and this was said then.
            if let (RowKind::Insert | RowKind::UpdateAfter, Some(seq)) = (input.kind(row), input.seq.get(row))
            {
                context.fail(*seq, Code::RecordPrediction, message);
            }
        }
        Some(BooleanArray::from(keep))
    }
}

fn taken<T: Copy>(data: &[T], at: impl Iterator<Item = Option<usize>>) -> impl Iterator<Item = Option<T>> {
    at.map(|index| data.get(index?).copied())
}

/// The position in the row of the highest score; of equal ones the first.
fn best(data: &Data, row: std::ops::Range<usize>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (position, index) in row.enumerate() {
        let score = data.get(index)?;
        if best.is_none_or(|(_, highest)| score > highest) {
            best = Some((position, score));
        }
    }
    best.map(|(position, _)| position)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use arrow::array::{Array, RecordBatch, UInt32Array};
    use arrow::buffer::BooleanBuffer;
    use arrow::compute::{concat, take};
    use arrow::datatypes::{Field as ArrowField, Schema as ArrowSchema};
    use millstream_state::TaskState;
    use proptest::prelude::*;

    use super::*;
    use crate::diagnostic::Diagnostics;
    use crate::operator::Input;
    use crate::schema::Kind;
    use crate::sql::Functions;

    fn model(name: &str) -> Arc<Model> {
        Arc::new(Model::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)).unwrap())
    }

    fn schema(kind: Kind, columns: &[(&str, DataType)]) -> Schema {
        Schema::new(
            kind,
            Vec::new(),
            columns.iter().map(|(name, data_type)| column(*name, data_type.clone())).collect(),
        )
    }

    /// Resolves a step over `input`; otherwise what is said about it.
    fn step(text: &str, model_folder: &str, input: Schema) -> Result<Resolved, Vec<String>> {
        let diagnostics = Diagnostics::default();
        let table = toml::de::DeTable::parse(text).unwrap();
        let from = Text::new("rows", 0..0, text);
        let models =
            BTreeMap::from([("m".to_owned(), Some(model(model_folder))), ("broken".to_owned(), None)]);
        let step = Step {
            name: "scored",
            inputs: vec![Input {
                from,
                qualifier: "rows".to_owned(),
                schema: input,
                history: None,
                global: false,
            }],
            fields: Fields::new(table.get_ref(), 0..0, text, &diagnostics, "step `scored`"),
            models: &models,
            functions: &Functions::built_in(),
        };
        let resolved = (SPEC.resolve)(&step);
        let said: Vec<String> = diagnostics
            .into_sorted()
            .into_iter()
            .map(|found| format!("{} {}: {}", found.code, found.message, found.help.unwrap_or_default()))
            .collect();
        if said.is_empty() { Ok(resolved.unwrap()) } else { Err(said) }
    }

    /// A model over the columns f, d, l, i, b, of those types, that gives their sum and ln(f - d + b).
    const TYPES: &str = r#"
        model   = "m"
        inputs  = { f = ["f"], d = ["d"], l = ["l"], i = ["i"], b = ["b"] }
        outputs = { sum = { tensor = "sum" }, log = { tensor = "log", index = 0 } }"#;

    fn types() -> [(&'static str, DataType); 5] {
        [
            ("f", DataType::Float64),
            ("d", DataType::Int32),
            ("l", DataType::Int64),
            ("i", DataType::Int32),
            ("b", DataType::Boolean),
        ]
    }

    type TypesRow = (Option<f64>, Option<i32>, Option<i64>, Option<i32>, Option<bool>);

    fn types_batch(rows: &[TypesRow], kind: Option<Vec<RowKind>>) -> Batch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|row| row.1).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.3).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|row| row.4).collect::<BooleanArray>()),
        ];
        let fields: Vec<ArrowField> =
            types().into_iter().map(|(name, data_type)| ArrowField::new(name, data_type, true)).collect();
        let count = u32::try_from(rows.len()).unwrap();
        Batch {
            rows: RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns).unwrap(),
            time: vec![0; rows.len()],
            seq: (0..count).collect(),
            kind,
            null_value: None,
        }
    }

    /// Runs a batch; gives the output and the errors by sequence number.
    fn process(operator: &mut dyn Operator, input: Batch) -> (Batch, Vec<(u32, String)>) {
        let mut state = TaskState::in_memory(&[]);
        let mut context = Context::new(&mut state, &[]);
        let output = operator.process(&[input], &mut context).unwrap().remove(0);
        (output, context.errors.into_iter().map(|error| (error.seq, error.message)).collect())
    }

    fn build(resolved: &Resolved, before: bool) -> Box<dyn Operator> {
        resolved.definition.build(&Wanted { fold: false, before }).unwrap()
    }

    fn float32(batch: &Batch, name: &str) -> Vec<Option<f32>> {
        batch
            .rows
            .column_by_name(name)
            .unwrap()
            .as_any()
            .downcast_ref::<Float32Array>()
            .unwrap()
            .iter()
            .collect()
    }

    #[test]
    fn columns_become_what_the_tensors_hold() {
        let resolved = step(TYPES, "handmade_types", schema(Kind::Stream, &types())).unwrap();
        let names: Vec<_> = resolved.outputs[0].schema.names().map(str::to_owned).collect();
        assert_eq!(names, ["f", "d", "l", "i", "b", "sum", "log"]);
        let batch = types_batch(&[(Some(1.5), Some(1), Some(10), Some(100), Some(true))], None);
        let (output, errors) = process(build(&resolved, false).as_mut(), batch);
        assert_eq!(errors, []);
        assert_eq!(float32(&output, "sum"), [Some(113.5)]);
        assert_eq!(float32(&output, "log"), [Some(1.5_f32.ln())]);
    }

    #[test]
    fn rows_that_cannot_be_scored_fail_alone() {
        let resolved = step(TYPES, "handmade_types", schema(Kind::Stream, &types())).unwrap();
        let good = (Some(1.0), Some(1), Some(1), Some(1), Some(true));
        let rows = [
            good,
            (Some(f64::INFINITY), Some(1), Some(1), Some(1), Some(true)),
            (Some(1e39), Some(1), Some(1), Some(1), Some(true)),
            (Some(1.0), Some(1), None, Some(1), Some(true)),
            (Some(1.0), Some(1), Some(1), Some(1), None),
            (Some(1.0), Some(1), Some(1), Some(1), Some(false)),
            (None, Some(1), Some(1), Some(1), Some(true)),
            good,
        ];
        let (output, errors) = process(build(&resolved, false).as_mut(), types_batch(&rows, None));
        assert_eq!(output.seq, [0, 7]);
        assert_eq!(float32(&output, "sum"), [Some(5.0), Some(5.0)]);
        let expected = [
            (1, "`f` (the model's `f0`) is infinite, or too large for the model's float32"),
            (2, "`f` (the model's `f0`) is infinite, or too large for the model's float32"),
            (3, "`l` (the model's `l0`) is null, and a tensor of int64 has no missing value"),
            (4, "`b` (the model's `b0`) is null, and a tensor of bool has no missing value"),
            (5, "the model's output `log` is -inf"),
            (6, "the model's output `sum` is NaN"),
        ];
        assert_eq!(errors, expected.map(|(seq, message)| (seq, message.to_owned())));
    }

    #[test]
    fn a_null_value_passes_unscored() {
        let resolved = step(TYPES, "handmade_types", schema(Kind::Stream, &types())).unwrap();
        let null = (None, None, None, None, None);
        let mut batch = types_batch(&[null, (Some(1.0), Some(1), Some(1), Some(1), Some(true))], None);
        batch.null_value = Some(BooleanBuffer::from(vec![true, false]));
        let (output, errors) = process(build(&resolved, false).as_mut(), batch);
        assert_eq!(errors, []);
        assert!(output.is_null_value(0) && !output.is_null_value(1));
        assert_eq!(float32(&output, "sum"), [None, Some(5.0)]);
    }

    #[test]
    fn a_row_that_cannot_be_scored_is_not_there() {
        use RowKind::{Delete, Insert, UpdateAfter, UpdateBefore};
        let resolved = step(TYPES, "handmade_types", schema(Kind::Table, &types())).unwrap();
        let (good, bad) = (
            (Some(1.0), Some(1), Some(1), Some(1), Some(true)),
            (Some(1.0), Some(1), None, Some(1), Some(true)),
        );
        // What comes in, what goes out with the columns of replaced rows and without, and how many rows are at fault.
        let update = |old, new| vec![(UpdateBefore, old), (UpdateAfter, new)];
        let cases = [
            (vec![(Insert, good)], vec![Insert], vec![Insert], 0),
            (vec![(Insert, bad)], vec![], vec![], 1),
            (update(good, good), vec![UpdateBefore, UpdateAfter], vec![UpdateAfter], 0),
            (update(good, bad), vec![Delete], vec![Delete], 1),
            // Without replaced rows nobody can tell an update from an insert.
            (update(bad, good), vec![Insert], vec![UpdateAfter], 0),
            (update(bad, bad), vec![], vec![], 1),
            (vec![(Delete, good)], vec![Delete], vec![Delete], 0),
            (vec![(Delete, bad)], vec![], vec![], 0),
        ];
        for (input, with_before, without, at_fault) in cases {
            let (kinds, rows): (Vec<RowKind>, Vec<TypesRow>) = input.into_iter().unzip();
            for (before, expected) in [(true, with_before), (false, without)] {
                let batch = types_batch(&rows, Some(kinds.clone()));
                let (output, errors) = process(build(&resolved, before).as_mut(), batch);
                assert_eq!(output.kind, Some(expected), "{kinds:?} {rows:?} {before}");
                assert_eq!(errors.len(), at_fault, "{kinds:?} {rows:?} {before}");
                // Each row has its score, the old ones too.
                assert!(float32(&output, "sum").iter().all(|sum| *sum == Some(5.0)));
            }
        }
    }

    const WINE: &str = r#"
        model   = "m"
        outputs = { label = { tensor = "probabilities", label = true }, first = { tensor = "probabilities", class = "0" },
                    third = { tensor = "probabilities", index = 2 } }"#;

    /// The first rows that the wine models are compared on.
    fn wine(rows: usize) -> (Schema, Batch) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/inputs/wine_missing.f32");
        let data: Vec<f32> = std::fs::read(path)
            .unwrap()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        let names: Vec<String> = (0..13).map(|index| format!("x{index}")).collect();
        let columns: Vec<(&str, DataType)> =
            names.iter().map(|name| (name.as_str(), DataType::Float32)).collect();
        let schema = schema(Kind::Stream, &columns);
        let array = |index: usize| -> ArrayRef {
            // A missing value is null in every other column and NaN in the others.
            let value = |row: usize| {
                Some(data[row * 13 + index]).filter(|value| index.is_multiple_of(2) || !value.is_nan())
            };
            Arc::new((0..rows).map(value).collect::<Float32Array>())
        };
        let batch = Batch {
            rows: RecordBatch::try_new(schema.columns.clone(), (0..13).map(array).collect()).unwrap(),
            time: vec![0; rows],
            seq: (0..u32::try_from(rows).unwrap()).collect(),
            kind: None,
            null_value: None,
        };
        (schema, batch)
    }

    #[test]
    fn labels_classes_and_indices_are_those_of_the_scores() {
        let (schema, batch) = wine(50);
        let resolved = step(WINE, "lightgbm_multi", schema).unwrap();
        let (output, errors) = process(build(&resolved, false).as_mut(), batch);
        assert_eq!(errors, []);
        let (first, third) = (float32(&output, "first"), float32(&output, "third"));
        let labels = output.rows.column_by_name("label").unwrap();
        let labels = labels.as_any().downcast_ref::<StringArray>().unwrap();
        let mut seen = BTreeMap::<&str, usize>::new();
        for row in 0..50 {
            let (first, third) = (first[row].unwrap(), third[row].unwrap());
            let second = 1.0 - first - third;
            let best = if first > second && first > third {
                "0"
            } else if second > third {
                "1"
            } else {
                "2"
            };
            assert_eq!(labels.value(row), best, "row {row}");
            *seen.entry(best).or_default() += 1;
        }
        assert_eq!(seen.len(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        /// However the rows are divided into epochs and runs of the model, they come out the same.
        #[test]
        fn batching_is_not_visible(
            model in prop_oneof![Just("lightgbm_multi"), Just("sklearn_mlp_multi")],
            batch in 1..50_usize,
            mut cuts in proptest::collection::vec(0..=60_usize, 0..6),
        ) {
            let (schema, rows) = wine(60);
            // Rows with missing values fail in the network: NaN goes through it.
            let whole = step(WINE, model, schema.clone()).unwrap();
            let (expected, expected_errors) = process(build(&whole, false).as_mut(), rows.clone());
            let divided = step(&format!("{WINE}\nbatch = {batch}"), model, schema).unwrap();
            let mut operator = build(&divided, false);
            cuts.extend([0, 60]);
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let mut errors = Vec::new();
            for cut in cuts.windows(2) {
                let indices: Vec<usize> = (cut[0]..cut[1]).collect();
                let (output, failed) = process(operator.as_mut(), rows.take(&indices).unwrap());
                parts.push(output);
                errors.extend(failed);
            }
            prop_assert_eq!(errors, expected_errors);
            for index in 0..expected.rows.num_columns() {
                let arrays: Vec<&dyn Array> = parts.iter().map(|part| part.rows.column(index).as_ref()).collect();
                let found = concat(&arrays).unwrap();
                // Compared by their bits: NaN inputs pass on.
                let all = UInt32Array::from_iter_values(0..u32::try_from(found.len()).unwrap());
                prop_assert_eq!(found.to_data(), take(expected.rows.column(index), &all, None).unwrap().to_data());
            }
        }
    }

    #[track_caller]
    fn assert_says(text: &str, model_folder: &str, input: Schema, expected: &[&str]) {
        assert_eq!(step(text, model_folder, input).unwrap_err(), expected);
    }

    #[test]
    fn mistakes_in_a_step_are_reported() {
        let cancer = |last: DataType| {
            let names: Vec<String> = (0..8).map(|index| format!("x{index}")).collect();
            let mut columns: Vec<(&str, DataType)> =
                names.iter().map(|name| (name.as_str(), DataType::Float32)).collect();
            columns[7].1 = last;
            schema(Kind::Stream, &columns)
        };
        let all = || cancer(DataType::Float32);
        let with =
            |line: &str, outputs: &str| format!("model = \"m\"\n{line}\noutputs = {{ score = {outputs} }}");
        let class = "{ tensor = \"probabilities\", class = \"1\" }";
        let folder = "xgboost_binary";

        assert_says(
            "model = \"n\"\noutputs = {}",
            folder,
            all(),
            &["M0601 no model `n`: models are `broken` and `m`"],
        );
        assert_says(
            &with("", class),
            folder,
            schema(Kind::Stream, &[("x0", DataType::Float32)]),
            &[
                "M0603 model `m` asks for `x1`, `x2`, `x3`, `x4`, `x5`, `x6` and `x7`, which `rows` does not have: \
               did you mean `x0`? add it in a step before this one, or name the columns with `inputs`",
            ],
        );
        assert_says(
            &with("", class),
            folder,
            cancer(DataType::Utf8),
            &[
                "M0603 `x7` is string, the tensor `X` holds float32: convert it in a `select` step before this one",
            ],
        );
        assert_says(
            &with("inputs = { Y = [] }", class),
            folder,
            all(),
            &[
                "M0603 `inputs` has no `X`, which the model takes: its columns are `x0`, `x1`, `x2`, `x3`, `x4`, `x5`, `x6` and `x7`",
                "M0102 unknown key `Y` in `inputs`: known keys are `X`",
            ],
        );
        assert_says(
            &with("inputs = { X = [\"x0\"] }", class),
            folder,
            all(),
            &[
                "M0603 `X` has 1 columns, the model takes 8: its columns are `x0`, `x1`, `x2`, `x3`, `x4`, `x5`, `x6` and `x7`",
            ],
        );
        let order = "its order is `x0`, `x1`, `x2`, `x3`, `x4`, `x5`, `x6` and `x7`";
        assert_says(
            &with("inputs = { X = [\"x1\", \"x0\", \"x2\", \"x3\", \"x4\", \"x5\", \"x6\", \"x7\"] }", class),
            folder,
            all(),
            &[
                &format!("M0603 `x1` stands where the model takes `x0`: {order}"),
                &format!("M0603 `x0` stands where the model takes `x1`: {order}"),
            ],
        );
        for (output, said) in [
            (
                "{ tensor = \"probability\" }",
                "M0604 the model has no output `probability`: did you mean `probabilities`?",
            ),
            (
                "{ tensor = \"probabilities\" }",
                "M0604 `probabilities` has 2 values a row: choose one with `class` (`0` and `1`), or take `label = true`",
            ),
            (
                "{ tensor = \"probabilities\", class = \"yes\" }",
                "M0604 `probabilities` has no class `yes`: its classes are `0` and `1`",
            ),
            ("{ tensor = \"probabilities\", index = 2 }", "M0109 `index` is out of range: "),
            (
                "{ tensor = \"probabilities\", index = 1, label = true }",
                "M0110 `index` and `label` exclude each other: keep one of them",
            ),
        ] {
            assert_says(&with("", output), folder, all(), &[said]);
        }
        assert_says(
            "model = \"m\"\noutputs = { x0 = { tensor = \"probabilities\", index = 0 } }",
            folder,
            all(),
            &["M0207 `rows` has a column `x0` already: choose another name"],
        );
        assert_says(
            "model = \"m\"\ninputs = { f = [\"f\"], d = [\"d\"], l = [\"f\"], i = [\"i\"], b = [\"b\"] }\n\
             outputs = { score = { tensor = \"sum\", label = true } }",
            "handmade_types",
            schema(Kind::Stream, &types()),
            &[
                "M0603 `f` is float64, the tensor `l` holds int64: convert it in a `select` step before this one",
                "M0604 `sum` has no classes in `model.toml`: list them there, or choose a value with `index`",
            ],
        );
    }

    #[test]
    fn a_model_that_could_not_be_loaded_is_not_reported_again() {
        let text = "model = \"broken\"\noutputs = { score = { tensor = \"y\" } }";
        let diagnostics = Diagnostics::default();
        let table = toml::de::DeTable::parse(text).unwrap();
        let models = BTreeMap::from([("broken".to_owned(), None)]);
        let input = schema(Kind::Stream, &types());
        let step = Step {
            name: "scored",
            inputs: vec![Input {
                from: Text::new("rows", 0..0, text),
                qualifier: "rows".to_owned(),
                schema: input,
                history: None,
                global: false,
            }],
            fields: Fields::new(table.get_ref(), 0..0, text, &diagnostics, "step `scored`"),
            models: &models,
            functions: &Functions::built_in(),
        };
        assert!((SPEC.resolve)(&step).is_none());
        assert!(diagnostics.into_sorted().is_empty());
    }
}
