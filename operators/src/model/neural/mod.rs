//! The backend for neural networks and linear models, on tract.
//!
//! The batch dimension is free: one plan takes any number of rows. A graph that cannot be planned so (some shapes
//! are computed, or the file fixes the batch at one) is planned for one row and run row by row. So is one whose
//! answers depend on the batch in the last digits, since batching may not be visible: a trial at the start shows it.

mod softmax;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::{
    Datum, DatumType, Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, TValue, TVec,
    Tensor as TractTensor, ToDim, TractResult, TypedRunnableModel, TypedSimpleState, tvec,
};
use tract_onnx::tract_core::internal::EvalContext;

use super::ModelError;
use super::backend::{Backend, InputSpec, OutputShape, Session, check_inputs};
use super::graph::{Graph, operator};
use super::tensor::{Data, ElementType, Tensor};

/// A model planned by tract.
pub(super) struct Neural {
    plan: Plan,
    outputs: Vec<OutputShape>,
}

struct Plan {
    model: Arc<TypedRunnableModel>,
    inputs: Vec<InputSpec>,
    /// The inputs as tract has them: which of ours, and the shape of a row.
    order: Vec<(usize, Vec<usize>)>,
    /// One row at a time, or any number of rows.
    one_by_one: bool,
    /// Some operators keep something from one run to the next; then every run begins anew.
    stateful: bool,
}

impl Neural {
    /// Plans the graph down to `outputs`.
    pub fn new(graph: &Graph, inputs: &[InputSpec], outputs: &[&str]) -> Result<Neural, ModelError> {
        let outputs: Vec<&str> = outputs.iter().map(|output| without_zip_map(graph, output)).collect();
        check_operators(graph, &outputs)?;
        let batches: Vec<Option<i64>> = graph.inputs().iter().map(|input| input.batch).collect();
        if let Some(batch) = batches.iter().flatten().find(|batch| **batch != 1) {
            return Err(graph.error(format!(
                "its inputs take exactly {batch} rows; export it with a free first dimension (the batch)"
            )));
        }
        let free = if batches.iter().all(Option::is_none) {
            Neural::plan(graph, inputs, &outputs, false)
        } else {
            Err("its inputs take one row".to_owned())
        };
        free.or_else(|free| {
            Neural::plan(graph, inputs, &outputs, true).map_err(|fixed| {
                graph.error(format!("tract cannot run it: {free}; nor one row at a time: {fixed}"))
            })
        })
    }

    fn plan(
        graph: &Graph,
        inputs: &[InputSpec],
        outputs: &[&str],
        one_by_one: bool,
    ) -> Result<Neural, String> {
        let mut plan = guard(|| build(graph, inputs, outputs, one_by_one))?;
        // The shapes of the outputs are what trial runs give; several sizes show that the batch is the first dimension.
        let mut shapes = None;
        for rows in if one_by_one { 1..=1 } else { 1..=3 } {
            let trial: Vec<Tensor> = inputs.iter().map(|input| zeros(input, rows)).collect();
            let found = guard(|| plan.run_rows(&mut plan.model.spawn()?, &trial, rows))?;
            let found: Vec<OutputShape> =
                found.into_iter().map(|(data, width)| shape(&data, width)).collect();
            if shapes.replace(found.clone()).is_some_and(|before| before != found) {
                return Err("the width of its outputs changes with the number of rows".to_owned());
            }
        }
        if !one_by_one {
            plan.one_by_one = !guard(|| plan.treats_rows_alone()).unwrap_or(false);
        }
        Ok(Neural { plan, outputs: shapes.unwrap_or_default() })
    }
}

fn shape(data: &Data, width: usize) -> OutputShape {
    OutputShape { element_type: data.element_type(), width }
}

/// The tensor behind a `ZipMap`, which makes a list of maps of it.
fn without_zip_map<'a>(graph: &'a Graph, output: &'a str) -> &'a str {
    match graph.producer(output) {
        Some((node, _)) if node.op_type == "ZipMap" => node.input.first().map_or(output, String::as_str),
        _ => output,
    }
}

/// Refuses what tract does not have, and what gives another answer each time.
fn check_operators(graph: &Graph, outputs: &[&str]) -> Result<(), ModelError> {
    fn missing(node: &NodeProto, known: &dyn Fn(&str) -> bool, operators: &mut BTreeSet<String>) {
        if !known(&node.op_type) {
            operators.insert(operator(node));
        }
        for attribute in &node.attribute {
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                graph.node.iter().for_each(|inner| missing(inner, known, operators));
            }
        }
    }
    let registry = tract_onnx::onnx().op_register.0;
    // Random numbers differ from run to run, so nothing could be replayed.
    let random = |name: &str| name.starts_with("Random") || matches!(name, "Multinomial" | "Bernoulli");
    let known = |name: &str| registry.contains_key(name) && !random(name);
    let mut operators = BTreeSet::new();
    graph.needed(outputs).into_iter().for_each(|node| missing(node, &known, &mut operators));
    if operators.is_empty() {
        return Ok(());
    }
    let operators = operators.into_iter().collect();
    Err(ModelError::MissingOperators { file: graph.file().to_owned(), backend: "tract", operators })
}

fn build(graph: &Graph, inputs: &[InputSpec], outputs: &[&str], one_by_one: bool) -> TractResult<Plan> {
    let onnx = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let mut model = onnx.model_for_proto_model(&graph.reduced(outputs))?;
    let batch = if one_by_one { 1.to_dim() } else { model.symbols.new_with_prefix("rows").to_dim() };
    let declared = graph.inputs();
    let mut order = Vec::new();
    for (index, outlet) in model.input_outlets()?.to_vec().into_iter().enumerate() {
        let name = model.node(outlet.node).name.clone();
        let position = inputs.iter().position(|input| input.tensor == name);
        let Some((position, spec)) = position.and_then(|position| Some((position, inputs.get(position)?)))
        else {
            return Err(tract_onnx::prelude::TractError::msg(format!(
                "nothing is given for its input `{name}`"
            )));
        };
        let row = declared.iter().find(|input| input.name == name).and_then(|input| input.row_shape.clone());
        let row = row.unwrap_or_else(|| vec![spec.columns.len()]);
        let mut shape = tvec![batch.clone()];
        shape.extend(row.iter().map(|size| size.to_dim()));
        model.set_input_fact(index, InferenceFact::dt_shape(datum_type(spec.element_type), shape))?;
        order.push((position, row));
    }
    let mut model = model.into_optimized()?;
    softmax::replace(&mut model)?;
    let model = model.into_runnable()?;
    let mut stateful = false;
    for node in &model.model().nodes {
        stateful |= node.op.state(&EvalContext::out_of_plan())?.is_some();
    }
    Ok(Plan { model, inputs: inputs.to_vec(), order, one_by_one, stateful })
}

impl Plan {
    /// Runs the plan once; gives the elements of each output and how many of them a row has.
    fn run_rows(
        &self,
        state: &mut TypedSimpleState,
        inputs: &[Tensor],
        rows: usize,
    ) -> TractResult<Vec<(Data, usize)>> {
        let mut values: TVec<TValue> = tvec![];
        for (position, row) in &self.order {
            let mut shape = vec![rows];
            shape.extend(row);
            if let Some(input) = inputs.get(*position) {
                values.push(to_tract(&shape, input.data())?.into_tvalue());
            }
        }
        state.run(values)?.iter().map(|output| from_tract(output, rows)).collect()
    }
}

impl Plan {
    /// Whether rows get the same answers, to the last digit, alone and beside others.
    fn treats_rows_alone(&self) -> TractResult<bool> {
        const ROWS: usize = 19;
        let trial: Vec<Tensor> = self.inputs.iter().map(|input| varied(input, ROWS)).collect();
        let mut state = self.model.spawn()?;
        let mut answers = Vec::new();
        // A batch that is one larger is one in which the rows lie elsewhere.
        for size in [1, 2, 7, 8, ROWS] {
            let mut bits: Vec<Vec<u64>> = Vec::new();
            for start in (0..ROWS).step_by(size) {
                let rows: Vec<Tensor> = trial.iter().map(|input| input.slice(start, size)).collect();
                let outputs = self.run_rows(&mut state, &rows, size.min(ROWS - start))?;
                bits.resize(outputs.len(), Vec::new());
                for (all, (data, _)) in bits.iter_mut().zip(&outputs) {
                    all.extend((0..data.len()).filter_map(|index| data.get(index)).map(f64::to_bits));
                }
            }
            answers.push(bits);
        }
        Ok(answers.windows(2).all(|pair| pair.first() == pair.last()))
    }
}

impl Backend for Neural {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn outputs(&self) -> &[OutputShape] {
        &self.outputs
    }

    fn session(self: Arc<Self>) -> Result<Box<dyn Session>, ModelError> {
        Ok(Box::new(NeuralSession { model: self, state: None }))
    }
}

struct NeuralSession {
    model: Arc<Neural>,
    /// tract's buffers; absent before the first run and after one that failed.
    state: Option<TypedSimpleState>,
}

impl NeuralSession {
    fn run_rows(&mut self, inputs: &[Tensor], rows: usize) -> Result<Vec<Tensor>, ModelError> {
        let plan = &self.model.plan;
        let state = self.state.take();
        let (state, outputs) = guard(|| {
            let mut state = match state {
                Some(state) => state,
                None => plan.model.spawn()?,
            };
            let outputs = plan.run_rows(&mut state, inputs, rows)?;
            Ok((state, outputs))
        })
        .map_err(|message| ModelError::Run { message })?;
        if !plan.stateful {
            self.state = Some(state);
        }
        let found = outputs.iter().map(|(data, width)| shape(data, *width));
        if !found.eq(self.model.outputs.iter().copied()) {
            return Err(ModelError::Run {
                message: "its outputs have another shape than in the trial run".into(),
            });
        }
        outputs.into_iter().map(|(data, width)| Tensor::new(rows, width, data)).collect()
    }
}

impl Session for NeuralSession {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, ModelError> {
        let rows = check_inputs(&self.model.plan.inputs, inputs)?;
        if rows > 0 && (!self.model.plan.one_by_one || rows == 1) {
            return self.run_rows(inputs, rows);
        }
        let empty = |shape: &OutputShape| Data::with_capacity(shape.element_type, rows * shape.width);
        let mut all: Vec<Data> = self.model.outputs.iter().map(empty).collect();
        for row in 0..rows {
            let one: Vec<Tensor> = inputs.iter().map(|input| input.slice(row, 1)).collect();
            for (all, one) in all.iter_mut().zip(self.run_rows(&one, 1)?) {
                all.append(one.into_data());
            }
        }
        let widths = self.model.outputs.iter().map(|shape| shape.width);
        all.into_iter().zip(widths).map(|(data, width)| Tensor::new(rows, width, data)).collect()
    }
}

/// Runs tract's code. It answers a broken model with an error; should it panic all the same, that is one as well.
fn guard<T>(run: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "it panicked".to_owned())),
    }
}

fn datum_type(element_type: ElementType) -> DatumType {
    match element_type {
        ElementType::Float32 => f32::datum_type(),
        ElementType::Float64 => f64::datum_type(),
        ElementType::Int64 => i64::datum_type(),
        ElementType::Int32 => i32::datum_type(),
        ElementType::Bool => bool::datum_type(),
    }
}

fn zeros(input: &InputSpec, rows: usize) -> Tensor {
    Tensor::zeros(rows, input.columns.len(), input.element_type)
}

/// Rows of numbers that differ: between -2 and 2 for floats, 0 and 1 for the others, which may be indices.
fn varied(input: &InputSpec, rows: usize) -> Tensor {
    let number = |index: usize| (index * 37 % 101) as f64 / 25.0 - 2.0;
    let count = rows * input.columns.len();
    let data = match input.element_type {
        ElementType::Float32 => Data::Float32((0..count).map(|index| number(index) as f32).collect()),
        ElementType::Float64 => Data::Float64((0..count).map(number).collect()),
        ElementType::Int64 => Data::Int64((0..count).map(|index| i64::from(number(index) > 0.0)).collect()),
        ElementType::Int32 => Data::Int32((0..count).map(|index| i32::from(number(index) > 0.0)).collect()),
        ElementType::Bool => Data::Bool((0..count).map(|index| number(index) > 0.0).collect()),
    };
    Tensor::new(rows, input.columns.len(), data).unwrap_or_else(|_| zeros(input, rows))
}

fn to_tract(shape: &[usize], data: &Data) -> TractResult<TractTensor> {
    match data {
        Data::Float32(data) => TractTensor::from_shape(shape, data),
        Data::Float64(data) => TractTensor::from_shape(shape, data),
        Data::Int64(data) => TractTensor::from_shape(shape, data),
        Data::Int32(data) => TractTensor::from_shape(shape, data),
        Data::Bool(data) => TractTensor::from_shape(shape, data),
    }
}

fn from_tract(output: &TractTensor, rows: usize) -> TractResult<(Data, usize)> {
    let fail = |message: String| Err(tract_onnx::prelude::TractError::msg(message));
    let found = output.shape();
    if found.first() != Some(&rows) {
        return fail(format!(
            "an output has the shape {found:?} for {rows} rows; its first dimension has to be the batch"
        ));
    }
    let view = output.try_as_plain_ram()?;
    let data = match output.datum_type() {
        DatumType::F32 => Data::Float32(view.as_slice()?.to_vec()),
        DatumType::F64 => Data::Float64(view.as_slice()?.to_vec()),
        DatumType::I64 => Data::Int64(view.as_slice()?.to_vec()),
        DatumType::I32 => Data::Int32(view.as_slice()?.to_vec()),
        DatumType::Bool => Data::Bool(view.as_slice()?.to_vec()),
        other => {
            return fail(format!(
                "an output holds {other:?}, which no column can have; if it is the label of a classifier, \
                 leave it out of `outputs`: `{{ label = true }}` in a `predict` step gives the class with the highest score"
            ));
        }
    };
    let width = data.len() / rows;
    Ok((data, width))
}
