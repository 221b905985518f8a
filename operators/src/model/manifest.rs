//! `model.toml`: what a model takes and gives.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::ModelError;
use super::tensor::ElementType;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub sha256: Spanned<String>,
    pub inputs: Spanned<Vec<Input>>,
    pub outputs: Spanned<Vec<Output>>,
    #[serde(default = "default_tolerance")]
    tolerance: Spanned<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    pub tensor: Spanned<String>,
    #[serde(rename = "type")]
    pub element_type: ElementType,
    pub columns: Spanned<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Output {
    pub tensor: Spanned<String>,
    pub classes: Option<Spanned<Vec<String>>>,
}

fn default_tolerance() -> Spanned<f64> {
    Spanned::new(0..0, 1e-5)
}

impl Manifest {
    /// Reads the text of `file`; a manifest whose syntax is right still tells of all its other problems.
    pub fn read(file: &Path, text: &str) -> Result<Manifest, Vec<ModelError>> {
        let at = |offset: usize, message: String| {
            let before = text.get(..offset).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            ModelError::Manifest { file: file.to_owned(), line, column, message }
        };
        let manifest: Manifest = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            vec![at(offset, error.message().replace('\n', "; "))]
        })?;
        let problems: Vec<ModelError> =
            manifest.problems().into_iter().map(|(offset, message)| at(offset, message)).collect();
        if problems.is_empty() { Ok(manifest) } else { Err(problems) }
    }

    /// How far the model may be from the golden rows.
    pub fn tolerance(&self) -> f64 {
        *self.tolerance.get_ref()
    }

    /// What is wrong with the values, and where.
    fn problems(&self) -> Vec<(usize, String)> {
        let mut problems = Vec::new();
        let sum = self.sha256.get_ref();
        if sum.len() != 64 || !sum.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let message = format!(
                "`sha256` is `{sum}`, expected are 64 lower-case hexadecimal digits (`sha256sum model.onnx`)"
            );
            problems.push((self.sha256.span().start, message));
        }
        let tolerance = self.tolerance();
        if !(0.0..=1.0).contains(&tolerance) {
            let message =
                format!("`tolerance` is {tolerance}, expected is a number from 0 to 1, such as 1e-5");
            problems.push((self.tolerance.span().start, message));
        }
        let inputs = self.inputs.get_ref();
        if inputs.is_empty() {
            problems
                .push((self.inputs.span().start, "`inputs` is empty, a model has at least one".to_owned()));
        }
        if self.outputs.get_ref().is_empty() {
            problems
                .push((self.outputs.span().start, "`outputs` is empty, a model has at least one".to_owned()));
        }
        let lists = inputs.iter().map(|input| ("columns", &input.columns));
        let classes =
            self.outputs.get_ref().iter().filter_map(|output| Some(("classes", output.classes.as_ref()?)));
        for (name, list) in lists.chain(classes) {
            let start = list.span().start;
            if list.get_ref().is_empty() {
                problems.push((start, format!("`{name}` is empty, it names each value of a row")));
            }
            if let Some(twice) = first_twice(list.get_ref()) {
                problems
                    .push((start, format!("`{name}` names `{twice}` twice, every value needs its own name")));
            }
        }
        let tensors = inputs.iter().map(|input| &input.tensor);
        let mut seen = HashSet::new();
        for tensor in tensors.chain(self.outputs.get_ref().iter().map(|output| &output.tensor)) {
            if !seen.insert(tensor.get_ref()) {
                problems.push((
                    tensor.span().start,
                    format!("the tensor `{}` is listed twice", tensor.get_ref()),
                ));
            }
        }
        problems
    }
}

fn first_twice(names: &[String]) -> Option<&String> {
    let mut seen = HashSet::new();
    names.iter().find(|name| !seen.insert(*name))
}
