//! What can be wrong with a model folder, or with running a model.

use std::io;
use std::path::PathBuf;

use super::tensor::ElementType;

/// One problem of a model. Each message names the place, what was found, what was expected and the way out.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the folder cannot be read.
    #[error(
        "{}: cannot be read: {source}; a model folder holds `model.onnx`, `model.toml` and `golden.jsonl`",
        file.display()
    )]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// `model.toml` is not what it has to be.
    #[error("{}:{line}:{column}: {message}", file.display())]
    Manifest {
        /// The file.
        file: PathBuf,
        /// Line from 1.
        line: usize,
        /// Column from 1.
        column: usize,
        /// What is wrong, and what is expected.
        message: String,
    },

    /// `model.onnx` is not the file that `model.toml` speaks of.
    #[error(
        "{}: its sha256 is {found}, but `model.toml` expects {expected}: the file was changed or cut short; \
         restore it, or, if it was changed on purpose, write the new sum into `model.toml`",
        file.display()
    )]
    Checksum {
        /// The model file.
        file: PathBuf,
        /// The sum of the file.
        found: String,
        /// The sum in `model.toml`.
        expected: String,
    },

    /// `model.onnx` cannot be used, whatever the backend.
    #[error("{}: {message}", file.display())]
    Graph {
        /// The model file.
        file: PathBuf,
        /// What is wrong, and the way out.
        message: String,
    },

    /// No backend has all the operators that the outputs need.
    #[error(
        "{}: the {backend} backend has no operator {}; leave such steps out of the export and do them in the \
         topology (a `select` before or after `predict`)",
        file.display(),
        list(operators)
    )]
    MissingOperators {
        /// The model file.
        file: PathBuf,
        /// The backend that has all the others.
        backend: &'static str,
        /// The operators it lacks.
        operators: Vec<String>,
    },

    /// `model.toml` names a tensor that is not in the graph.
    #[error(
        "{}: the graph has no {side} `{tensor}` that `model.toml` names; it has {}",
        file.display(),
        list(known)
    )]
    UnknownTensor {
        /// The model file.
        file: PathBuf,
        /// `input` or `output`.
        side: &'static str,
        /// The name in `model.toml`.
        tensor: String,
        /// The names in the graph.
        known: Vec<String>,
    },

    /// The graph has an input that `model.toml` does not name.
    #[error("{}: the graph's input `{tensor}` is not among the `inputs` of `model.toml`; add it", file.display())]
    UnlistedInput {
        /// The model file.
        file: PathBuf,
        /// The input.
        tensor: String,
    },

    /// An input has another element type than `model.toml` says.
    #[error(
        "{}: input `{tensor}` holds {found}, but `model.toml` says `{expected}`; correct `type` in `model.toml`",
        file.display()
    )]
    InputType {
        /// The model file.
        file: PathBuf,
        /// The input.
        tensor: String,
        /// The type in the graph.
        found: String,
        /// The type in `model.toml`.
        expected: ElementType,
    },

    /// An input has another width than `model.toml` has columns.
    #[error(
        "{}: input `{tensor}` takes {width} values a row, but `model.toml` lists {columns} columns; \
         `columns` has to name every value, in the model's order",
        file.display()
    )]
    InputWidth {
        /// The model file.
        file: PathBuf,
        /// The input.
        tensor: String,
        /// The width in the graph.
        width: usize,
        /// How many columns `model.toml` lists.
        columns: usize,
    },

    /// An output has another width than `model.toml` has classes.
    #[error(
        "{}: output `{tensor}` gives {width} values a row, but `model.toml` lists {classes} classes; \
         `classes` has to name every value, in the model's order",
        file.display()
    )]
    OutputClasses {
        /// The model file.
        file: PathBuf,
        /// The output.
        tensor: String,
        /// The width the model has.
        width: usize,
        /// How many classes `model.toml` lists.
        classes: usize,
    },

    /// A tree ensemble that cannot be a set of trees.
    #[error("{}: node `{node}`: {message}; the file is damaged or its exporter is at fault: export it again", file.display())]
    Trees {
        /// The model file.
        file: PathBuf,
        /// The node of the graph.
        node: String,
        /// What is wrong.
        message: String,
    },

    /// `golden.jsonl` is not what it has to be.
    #[error("{}:{line}: {message}", file.display())]
    Golden {
        /// The file.
        file: PathBuf,
        /// Line from 1.
        line: usize,
        /// What is wrong, and what is expected.
        message: String,
    },

    /// The model answers a golden row otherwise than written.
    #[error(
        "{}:{line}: output `{tensor}`, value {index}: the model gives {found}, expected is {expected} \
         (tolerance {tolerance}); model and golden rows do not belong together, or the columns are in another order",
        file.display()
    )]
    GoldenMismatch {
        /// The file of golden rows.
        file: PathBuf,
        /// Line from 1.
        line: usize,
        /// The output.
        tensor: String,
        /// Position in the row, from 0.
        index: usize,
        /// What the model gives.
        found: f64,
        /// What is written.
        expected: f64,
        /// The tolerance of `model.toml`.
        tolerance: f64,
    },

    /// The tensors given to a session do not fit the model.
    #[error("the model cannot take its input: {message}")]
    Input {
        /// What was found and expected.
        message: String,
    },

    /// The model failed on its input.
    #[error("the model failed: {message}")]
    Run {
        /// What the backend says.
        message: String,
    },
}

/// Names as people write them: `a`, `b`.
fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
