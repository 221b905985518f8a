//! A softmax whose result does not depend on where a row lies in memory.
//!
//! tract's sums the first values of a row up to an aligned address by themselves, so that a row gets another last
//! digit beside other rows than alone. This one adds each row from left to right.

use tract_onnx::prelude::{
    IntoTValue, TValue, TVec, Tensor, TractError, TractResult, TypedFact, TypedModel, TypedOp, tvec,
};
use tract_onnx::tract_core::internal::{EvalContext, EvalOp, IntoTensor, Op, StaticName};
use tract_onnx::tract_core::ops::nn::{Softmax, SoftmaxKind};

/// Puts a `RowSoftmax` in the place of every softmax over the last dimensions of a tensor.
pub(super) fn replace(model: &mut TypedModel) -> TractResult<()> {
    for index in 0..model.nodes().len() {
        let node = model.node(index);
        let Some(softmax) = node.op_as::<Softmax>().filter(|softmax| softmax.kind == SoftmaxKind::Softmax)
        else {
            continue;
        };
        let fact = model.outlet_fact(index.into())?;
        let mut axes = softmax.axes.to_vec();
        axes.sort_unstable();
        let last = (0..fact.rank()).rev().take(axes.len()).rev();
        if fact.datum_type.is::<f32>() && axes.iter().copied().eq(last) {
            let op = RowSoftmax { dimensions: axes.len() };
            model.node_mut(index).op = Box::new(op);
        }
    }
    Ok(())
}

/// The softmax over the last dimensions of a float32 tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RowSoftmax {
    dimensions: usize,
}

impl EvalOp for RowSoftmax {
    fn eval(&self, _: &EvalContext<'_>, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = inputs.pop().ok_or_else(|| TractError::msg("a softmax without input"))?;
        let mut tensor: Tensor = input.into_tensor();
        let row: usize = tensor.shape().iter().rev().take(self.dimensions).product();
        let mut view = tensor.try_as_plain_ram_mut()?;
        for row in view.as_slice_mut::<f32>()?.chunks_mut(row.max(1)) {
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            row.iter_mut().for_each(|value| *value = (*value - largest).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|value| *value /= sum);
        }
        Ok(tvec![tensor.into_tvalue()])
    }

    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        self.eval(&EvalContext::out_of_plan(), inputs).map(Some)
    }
}

impl Op for RowSoftmax {
    fn name(&self) -> StaticName {
        "RowSoftmax".into()
    }

    fn as_typed(&self) -> Option<&dyn TypedOp> {
        Some(self)
    }
}

impl TypedOp for RowSoftmax {
    fn as_op(&self) -> &dyn Op {
        self
    }

    fn as_op_mut(&mut self) -> &mut dyn Op {
        self
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(inputs.iter().map(|fact| fact.without_value()).collect())
    }
}
