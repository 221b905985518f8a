//! From the sums over the trees to the scores a model gives.

/// What is done with the scores of a row at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transform {
    None,
    Logistic,
    Softmax,
    /// A softmax in which a score of zero stays zero.
    SoftmaxZero,
}

impl Transform {
    pub fn parse(name: &[u8]) -> Result<Transform, String> {
        match name {
            b"" | b"NONE" => Ok(Transform::None),
            b"LOGISTIC" => Ok(Transform::Logistic),
            b"SOFTMAX" => Ok(Transform::Softmax),
            b"SOFTMAX_ZERO" => Ok(Transform::SoftmaxZero),
            other => Err(format!(
                "post_transform is {}, supported are NONE, LOGISTIC, SOFTMAX and SOFTMAX_ZERO",
                String::from_utf8_lossy(other)
            )),
        }
    }

    /// Transforms the scores of one row.
    pub fn apply(self, scores: &mut [f32]) {
        match self {
            Transform::None => {}
            Transform::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            Transform::Softmax | Transform::SoftmaxZero => softmax(scores, self == Transform::SoftmaxZero),
        }
    }
}

/// 1 / (1 + e⁻ˣ), computed so that e is never raised to a large power.
pub(super) fn logistic(x: f32) -> f32 {
    let y = 1.0 / (1.0 + (-x.abs()).exp());
    if x < 0.0 { 1.0 - y } else { y }
}

fn softmax(scores: &mut [f32], keep_zero: bool) {
    let largest = scores.iter().copied().fold(f32::MIN, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        if keep_zero && score.abs() <= 1e-7 {
            *score *= (-largest).exp();
        } else {
            *score = (*score - largest).exp();
            sum += *score;
        }
    }
    // With nothing but zeros there is nothing to divide by.
    if sum > 0.0 {
        scores.iter_mut().for_each(|score| *score /= sum);
    }
}
