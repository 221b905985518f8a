//! What runs a model, and which of the backends does.

use std::sync::Arc;

use super::ModelError;
use super::graph::Graph;
use super::neural::Neural;
use super::tensor::{ElementType, Tensor};
use super::trees::{Trees, is_ensemble};

/// A model that is ready to run. It holds what all tasks share.
pub trait Backend: Send + Sync {
    /// What runs it: `trees` or `tract`.
    fn name(&self) -> &'static str;

    /// What a run gives, in the order of the outputs in `model.toml`.
    fn outputs(&self) -> &[OutputShape];

    /// Something to run the model with; each task has its own.
    fn session(self: Arc<Self>) -> Result<Box<dyn Session>, ModelError>;
}

/// One task's use of a model. A run remembers nothing of the runs before it.
pub trait Session: Send {
    /// Runs the model over rows: one tensor per input of `model.toml`, in its order, all with the same rows.
    /// A row's result does not depend on the rows beside it. No rows give no rows.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, ModelError>;
}

/// What an output gives for each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputShape {
    /// The type of the elements.
    pub element_type: ElementType,
    /// Their number in a row.
    pub width: usize,
}

/// An input of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSpec {
    /// Its name in the graph.
    pub tensor: String,
    /// The type of its elements.
    pub element_type: ElementType,
    /// What each element of a row is, in order.
    pub columns: Vec<String>,
}

/// Builds the backend that the graph needs: tree ensembles run natively, everything else in tract.
pub(super) fn open(
    graph: &Graph,
    inputs: &[InputSpec],
    outputs: &[&str],
) -> Result<Arc<dyn Backend>, ModelError> {
    if graph.needed(outputs).into_iter().any(is_ensemble) {
        Ok(Arc::new(Trees::new(graph, inputs, outputs)?))
    } else {
        Ok(Arc::new(Neural::new(graph, inputs, outputs)?))
    }
}

/// Checks the tensors of a run against the inputs of the model; gives the number of rows.
pub(super) fn check_inputs(specs: &[InputSpec], inputs: &[Tensor]) -> Result<usize, ModelError> {
    let fail = |message| Err(ModelError::Input { message });
    if inputs.len() != specs.len() {
        return fail(format!("{} tensors were given for {} inputs", inputs.len(), specs.len()));
    }
    let rows = inputs.first().map_or(0, Tensor::rows);
    for (spec, input) in specs.iter().zip(inputs) {
        let (found, expected) = (input.data().element_type(), spec.element_type);
        if found != expected || input.width() != spec.columns.len() || input.rows() != rows {
            return fail(format!(
                "`{}` takes {rows} rows of {} {expected}, given are {} rows of {} {found}",
                spec.tensor,
                spec.columns.len(),
                input.rows(),
                input.width(),
            ));
        }
    }
    Ok(rows)
}
