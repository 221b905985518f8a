//! The backend for tree ensembles: random forests, gradient boosting, single decision trees.
//!
//! It runs graphs in which every output is the scores of a `TreeEnsembleClassifier` or `TreeEnsembleRegressor`,
//! with the operators around them that exporters add and that change no score (`Identity`, `Cast`, `ZipMap`) or
//! only its scale (`Mul` by a number). Answers are those of ONNX Runtime, in float32 and summed in the same order.

mod ensemble;
mod forest;
mod scores;

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;

use super::backend::{Backend, InputSpec, OutputShape, Session, check_inputs};
use super::graph::{Graph, attribute, operator};
use super::tensor::{Data, ElementType, Tensor};
use super::{ModelError, graph};
use ensemble::Ensemble;
use forest::Memory;

/// Whether an operator is a tree ensemble.
pub(super) fn is_ensemble(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "TreeEnsembleClassifier" | "TreeEnsembleRegressor")
}

/// A model made of tree ensembles.
pub(super) struct Trees {
    inputs: Vec<InputSpec>,
    members: Vec<Member>,
    outputs: Vec<OutputShape>,
}

/// One output: an ensemble over one of the inputs.
struct Member {
    input: usize,
    ensemble: Ensemble,
    /// The constants that the scores are multiplied with, one after the other.
    factors: Vec<f32>,
}

impl Trees {
    /// Builds the ensembles behind `outputs`.
    pub fn new(graph: &Graph, inputs: &[InputSpec], outputs: &[&str]) -> Result<Trees, ModelError> {
        let known = |node: &&NodeProto| is_ensemble(node) || is_transparent(node) || node.op_type == "Mul";
        let mut operators: Vec<_> =
            graph.needed(outputs).iter().filter(|node| !known(node)).map(|node| operator(node)).collect();
        operators.sort_unstable();
        operators.dedup();
        if !operators.is_empty() {
            return Err(ModelError::MissingOperators {
                file: graph.file().to_owned(),
                backend: "trees",
                operators,
            });
        }
        let members =
            outputs.iter().map(|output| Member::new(graph, inputs, output)).collect::<Result<Vec<_>, _>>()?;
        let shape = |member: &Member| OutputShape {
            element_type: ElementType::Float32,
            width: member.ensemble.width(),
        };
        Ok(Trees { inputs: inputs.to_vec(), outputs: members.iter().map(shape).collect(), members })
    }
}

impl Member {
    fn new(graph: &Graph, inputs: &[InputSpec], output: &str) -> Result<Member, ModelError> {
        let (node, factors) = find_ensemble(graph, output)?;
        let source = node.input.first().map_or("", String::as_str);
        let (input, cast) = find_input(graph, inputs, source)?;
        let spec = inputs.get(input).ok_or_else(|| graph.error("an input is missing"))?;
        if spec.element_type == ElementType::Float64 && !cast {
            return Err(graph.error(format!(
                "`{}` compares float64 values; export the model with float32 inputs",
                operator(node)
            )));
        }
        let error =
            |message| ModelError::Trees { file: graph.file().to_owned(), node: node.name.clone(), message };
        Ok(Member { input, ensemble: Ensemble::new(node, spec.columns.len()).map_err(error)?, factors })
    }
}

/// Whether an operator hands on the numbers it gets.
fn is_transparent(node: &NodeProto) -> bool {
    match node.op_type.as_str() {
        "Identity" | "ZipMap" => true,
        "Cast" => attribute(node, "to").is_some_and(|to| to.i == i64::from(DataType::Float as i32)),
        _ => false,
    }
}

/// The ensemble whose scores a tensor holds.
fn find_ensemble<'a>(graph: &'a Graph, output: &'a str) -> Result<(&'a NodeProto, Vec<f32>), ModelError> {
    let mut tensor = output;
    let mut factors = Vec::new();
    loop {
        let Some((node, index)) = graph.producer(tensor) else {
            return Err(graph.error(format!("output `{output}` does not come from a tree ensemble")));
        };
        let operands = || -> Option<(&str, f32)> {
            let [a, b] = node.input.as_slice() else { return None };
            graph.scalar(b).map(|b| (a.as_str(), b)).or_else(|| graph.scalar(a).map(|a| (b.as_str(), a)))
        };
        if is_ensemble(node) {
            if index == 0 && node.op_type == "TreeEnsembleClassifier" {
                return Err(graph.error(format!(
                    "output `{output}` is the label of a classifier; take its scores instead: \
                     `{{ label = true }}` in a `predict` step gives the class with the highest one"
                )));
            }
            factors.reverse();
            return Ok((node, factors));
        } else if is_transparent(node) {
            tensor = node.input.first().map_or("", String::as_str);
        } else if let Some((scores, factor)) = operands() {
            factors.push(factor);
            tensor = scores;
        } else {
            return Err(graph.error(format!(
                "output `{output}` passes `{}` with something other than one number; leave it out of the export",
                operator(node)
            )));
        }
    }
}

/// The input that a tensor holds, and whether it was cast to float32 on the way.
fn find_input(graph: &Graph, inputs: &[InputSpec], tensor: &str) -> Result<(usize, bool), ModelError> {
    let mut tensor = tensor;
    let mut cast = false;
    loop {
        if let Some(index) = inputs.iter().position(|input| input.tensor == tensor) {
            return Ok((index, cast));
        }
        match graph.producer(tensor) {
            Some((node, _)) if is_transparent(node) && node.op_type != "ZipMap" => {
                cast |= node.op_type == "Cast";
                tensor = node.input.first().map_or("", String::as_str);
            }
            Some((node, _)) => {
                return Err(ModelError::MissingOperators {
                    file: graph.file().to_owned(),
                    backend: "trees",
                    operators: vec![graph::operator(node)],
                });
            }
            None => return Err(graph.error(format!("the trees read `{tensor}`, which is no input"))),
        }
    }
}

impl Backend for Trees {
    fn name(&self) -> &'static str {
        "trees"
    }

    fn outputs(&self) -> &[OutputShape] {
        &self.outputs
    }

    fn session(self: Arc<Self>) -> Result<Box<dyn Session>, ModelError> {
        Ok(Box::new(TreesSession { trees: self, memory: Memory::default() }))
    }
}

struct TreesSession {
    trees: Arc<Trees>,
    memory: Memory,
}

impl Session for TreesSession {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, ModelError> {
        check_inputs(&self.trees.inputs, inputs)?;
        let mut outputs = Vec::with_capacity(self.trees.members.len());
        for member in &self.trees.members {
            let ensemble = &member.ensemble;
            let Some(input) = inputs.get(member.input) else { continue };
            let mut scores = match input.data() {
                Data::Float32(rows) => ensemble.scores(rows, &mut self.memory),
                other => ensemble.scores(&to_float32(other), &mut self.memory),
            };
            for factor in &member.factors {
                scores.iter_mut().for_each(|score| *score *= factor);
            }
            outputs.push(Tensor::new(input.rows(), ensemble.width(), Data::Float32(scores))?);
        }
        Ok(outputs)
    }
}

fn to_float32(data: &Data) -> Vec<f32> {
    match data {
        Data::Float32(data) => data.clone(),
        Data::Float64(data) => data.iter().map(|value| *value as f32).collect(),
        Data::Int64(data) => data.iter().map(|value| *value as f32).collect(),
        Data::Int32(data) => data.iter().map(|value| *value as f32).collect(),
        Data::Bool(data) => data.iter().map(|value| f32::from(u8::from(*value))).collect(),
    }
}
