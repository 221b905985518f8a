//! Models: folders with an ONNX file, and what runs it.
//!
//! A model folder holds `model.onnx`, `model.toml` (what goes in and comes out, and the checksum) and `golden.jsonl`
//! (rows with the expected answers). [`Model::load`] checks all three against each other, so a [`Model`] that
//! exists has the signature it states and gives the answers it gave where it was trained.
//!
//! Two backends run models, chosen by the graph: tree ensembles natively, neural networks and linear models in
//! tract. Neither reads other files, and neither panics or loops on a damaged one.

mod backend;
mod error;
mod golden;
mod graph;
mod manifest;
mod neural;
mod tensor;
#[cfg(test)]
mod tests;
mod trees;

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use backend::{Backend, InputSpec, OutputShape, Session};
pub use error::ModelError;
pub use tensor::{Data, ElementType, Tensor};

use graph::Graph;
use manifest::Manifest;

/// A model that was loaded and checked. Cloning is cheap: what runs it is shared.
#[derive(Clone)]
pub struct Model {
    name: String,
    version: String,
    sha256: String,
    inputs: Vec<InputSpec>,
    outputs: Vec<OutputSpec>,
    backend: Arc<dyn Backend>,
}

/// An output of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSpec {
    /// Its name in the graph.
    pub tensor: String,
    /// The type of its elements.
    pub element_type: ElementType,
    /// Their number in a row.
    pub width: usize,
    /// The label of each element, if they are scores of classes.
    pub classes: Option<Vec<String>>,
}

impl Model {
    /// Loads the model in `folder`, `…/NAME/VERSION`, and checks it: the checksum, the signature against the
    /// graph, and the golden rows. All problems that can be found at once are given at once.
    pub fn load(folder: &Path) -> Result<Model, Vec<ModelError>> {
        let mut problems = Vec::new();
        let mut read = |name: &str| {
            let file = folder.join(name);
            match std::fs::read(&file) {
                Ok(bytes) => Some((file, bytes)),
                Err(source) => {
                    problems.push(ModelError::Read { file, source });
                    None
                }
            }
        };
        let files = (read("model.toml"), read("model.onnx"), read("golden.jsonl"));
        let (Some((toml, text)), Some((onnx, bytes)), Some((jsonl, rows))) = files else {
            return Err(problems);
        };
        let manifest = Manifest::read(&toml, &utf8(&toml, &text).map_err(|error| vec![error])?)?;
        let rows = utf8(&jsonl, &rows).map_err(|error| vec![error])?;

        let found = hex(&Sha256::digest(&bytes));
        let expected = manifest.sha256.get_ref();
        if found != *expected {
            // Nothing else that could be said of a file that is not the right one would help.
            return Err(vec![ModelError::Checksum { file: onnx, found, expected: expected.clone() }]);
        }
        let graph = Graph::read(&onnx, &bytes).map_err(|error| vec![error])?;
        let model = Model::from_graph(folder, &manifest, &graph, found)?;
        golden::check(&model, &jsonl, &rows, manifest.tolerance())?;
        tracing::info!(
            model = model.name(),
            version = model.version(),
            sha256 = model.sha256(),
            backend = %model.backend(),
            "model loaded, golden rows agree"
        );
        Ok(model)
    }

    /// Checks the signature and builds the backend.
    fn from_graph(
        folder: &Path,
        manifest: &Manifest,
        graph: &Graph,
        sha256: String,
    ) -> Result<Model, Vec<ModelError>> {
        let problems = signature_problems(manifest, graph);
        if !problems.is_empty() {
            return Err(problems);
        }
        let input = |input: &manifest::Input| InputSpec {
            tensor: input.tensor.get_ref().clone(),
            element_type: input.element_type,
            columns: input.columns.get_ref().clone(),
        };
        let inputs: Vec<InputSpec> = manifest.inputs.get_ref().iter().map(input).collect();
        let names: Vec<&str> =
            manifest.outputs.get_ref().iter().map(|output| output.tensor.get_ref().as_str()).collect();
        let backend = backend::open(graph, &inputs, &names).map_err(|error| vec![error])?;

        let output = |(output, shape): (&manifest::Output, &OutputShape)| OutputSpec {
            tensor: output.tensor.get_ref().clone(),
            element_type: shape.element_type,
            width: shape.width,
            classes: output.classes.as_ref().map(|classes| classes.get_ref().clone()),
        };
        let outputs: Vec<OutputSpec> =
            manifest.outputs.get_ref().iter().zip(backend.outputs()).map(output).collect();
        let mismatch = |output: &OutputSpec| {
            let classes = output.classes.as_ref().map(Vec::len).filter(|classes| *classes != output.width)?;
            let (file, tensor) = (graph.file().to_owned(), output.tensor.clone());
            Some(ModelError::OutputClasses { file, tensor, width: output.width, classes })
        };
        let problems: Vec<ModelError> = outputs.iter().filter_map(mismatch).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let part = |path: Option<&Path>| {
            path.and_then(Path::file_name)
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        };
        let (name, version) = (part(folder.parent()), part(Some(folder)));
        Ok(Model { name, version, sha256, inputs, outputs, backend })
    }

    /// The name of the model: that of the folder above its versions.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version: the name of its folder.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The SHA-256 of `model.onnx` in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What the model takes.
    pub fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    /// What the model gives.
    pub fn outputs(&self) -> &[OutputSpec] {
        &self.outputs
    }

    /// What runs it: `trees` or `tract`.
    pub fn backend(&self) -> &'static str {
        self.backend.name()
    }

    /// Something to run the model with, for one task.
    pub fn session(&self) -> Result<Box<dyn Session>, ModelError> {
        Arc::clone(&self.backend).session()
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("sha256", &self.sha256)
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .field("backend", &self.backend())
            .finish()
    }
}

/// Where the inputs and outputs of `model.toml` differ from those of the graph.
fn signature_problems(manifest: &Manifest, graph: &Graph) -> Vec<ModelError> {
    let mut problems = Vec::new();
    let file = || graph.file().to_owned();
    let declared = graph.inputs();
    for input in manifest.inputs.get_ref() {
        let tensor = input.tensor.get_ref().clone();
        let Some(found) = declared.iter().find(|declared| declared.name == tensor) else {
            let known = declared.iter().map(|declared| declared.name.to_owned()).collect();
            problems.push(ModelError::UnknownTensor { file: file(), side: "input", tensor, known });
            continue;
        };
        if found.element_type != Ok(input.element_type) {
            let found = match &found.element_type {
                Ok(element_type) => element_type.to_string(),
                Err(other) => other.clone(),
            };
            let (tensor, expected) = (tensor.clone(), input.element_type);
            problems.push(ModelError::InputType { file: file(), tensor, found, expected });
        }
        let columns = input.columns.get_ref().len();
        // Sizes that overflow fit no list of columns.
        let product = |shape: &Vec<usize>| shape.iter().try_fold(1_usize, |all, size| all.checked_mul(*size));
        if let Some(width) = found.row_shape.as_ref().map(|shape| product(shape).unwrap_or(usize::MAX))
            && width != columns
        {
            problems.push(ModelError::InputWidth { file: file(), tensor, width, columns });
        }
    }
    for found in declared {
        if !manifest.inputs.get_ref().iter().any(|input| input.tensor.get_ref() == found.name) {
            problems.push(ModelError::UnlistedInput { file: file(), tensor: found.name.to_owned() });
        }
    }
    let known = graph.outputs();
    for output in manifest.outputs.get_ref() {
        let tensor = output.tensor.get_ref().clone();
        if !known.contains(&tensor.as_str()) {
            let known = known.iter().map(|name| (*name).to_owned()).collect();
            problems.push(ModelError::UnknownTensor { file: file(), side: "output", tensor, known });
        }
    }
    problems
}

fn utf8(file: &Path, bytes: &[u8]) -> Result<String, ModelError> {
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.map_err(|error| ModelError::Manifest {
        file: file.to_owned(),
        line: bytes
            .get(..error.valid_up_to())
            .unwrap_or_default()
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1,
        column: 1,
        message: "this line is not UTF-8 text; save the file as UTF-8".to_owned(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
