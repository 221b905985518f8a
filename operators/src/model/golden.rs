//! `golden.jsonl`: rows with the answers that the model gave where it was trained.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::backend::{InputSpec, Session};
use super::tensor::{Data, Tensor};
use super::{Model, ModelError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    inputs: BTreeMap<String, Vec<Value>>,
    outputs: BTreeMap<String, Vec<Value>>,
}

/// A golden row: the inputs of the model, and the numbers that each of its outputs should give.
struct Row {
    line: usize,
    inputs: Vec<Data>,
    expected: Vec<Vec<f64>>,
}

/// Runs the golden rows and compares the answers.
pub(super) fn check(model: &Model, file: &Path, text: &str, tolerance: f64) -> Result<(), Vec<ModelError>> {
    let mut rows = Vec::new();
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match read(model, line) {
            Ok((inputs, expected)) => rows.push(Row { line: index + 1, inputs, expected }),
            Err(message) => {
                problems.push(ModelError::Golden { file: file.to_owned(), line: index + 1, message })
            }
        }
    }
    if rows.is_empty() && problems.is_empty() {
        let message =
            "there is no golden row; write at least one, with inputs and the outputs expected of them".into();
        problems.push(ModelError::Golden { file: file.to_owned(), line: 1, message });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut session = model.session().map_err(|error| vec![error])?;
    for row in &rows {
        match run(session.as_mut(), model.inputs(), &row.inputs) {
            Ok(outputs) => problems.extend(compare(model, file, row, &outputs, tolerance)),
            Err(error) => {
                let (file, message) = (file.to_owned(), error.to_string());
                problems.push(ModelError::Golden { file, line: row.line, message });
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Reads one line against the signature of the model.
fn read(model: &Model, line: &str) -> Result<(Vec<Data>, Vec<Vec<f64>>), String> {
    let mut line: Line = serde_json::from_str(line).map_err(|error| {
        format!(
            "{error}; expected is {{\"inputs\": {{TENSOR: [numbers]}}, \"outputs\": {{TENSOR: [numbers]}}}}"
        )
    })?;
    let mut inputs = Vec::new();
    for input in model.inputs() {
        let values = take(&mut line.inputs, "input", &input.tensor, input.columns.len())?;
        let mut data = Data::with_capacity(input.element_type, values.len());
        for (value, column) in values.iter().zip(&input.columns) {
            push(&mut data, value).map_err(|found| {
                format!("input `{}`, `{column}`: {found}, expected is {}", input.tensor, input.element_type)
            })?;
        }
        inputs.push(data);
    }
    let mut expected = Vec::new();
    for output in model.outputs() {
        let values = take(&mut line.outputs, "output", &output.tensor, output.width)?;
        let number = |value: &Value| {
            value.as_f64().or_else(|| value.as_bool().map(|value| f64::from(u8::from(value))))
        };
        let numbers: Option<Vec<f64>> = values.iter().map(number).collect();
        expected.push(
            numbers.ok_or_else(|| format!("output `{}` has a value that is no number", output.tensor))?,
        );
    }
    match line.inputs.keys().chain(line.outputs.keys()).next() {
        Some(name) => Err(format!("`{name}` is not in `model.toml`")),
        None => Ok((inputs, expected)),
    }
}

fn take(
    lists: &mut BTreeMap<String, Vec<Value>>,
    side: &str,
    tensor: &str,
    width: usize,
) -> Result<Vec<Value>, String> {
    let values = lists.remove(tensor).ok_or_else(|| format!("{side} `{tensor}` is missing"))?;
    if values.len() == width {
        Ok(values)
    } else {
        Err(format!("{side} `{tensor}` has {} values, the model has {width}", values.len()))
    }
}

/// Adds a JSON value to an input; a missing number of a float tensor is null.
fn push(data: &mut Data, value: &Value) -> Result<(), String> {
    let number = || match value {
        Value::Null => Some(f64::NAN),
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        value => value.as_f64(),
    };
    let fail = || value.to_string();
    match data {
        Data::Float32(data) => data.push(number().ok_or_else(fail)? as f32),
        Data::Float64(data) => data.push(number().ok_or_else(fail)?),
        Data::Int64(data) => data.push(value.as_i64().ok_or_else(fail)?),
        Data::Int32(data) => {
            data.push(value.as_i64().and_then(|value| value.try_into().ok()).ok_or_else(fail)?)
        }
        Data::Bool(data) => data.push(value.as_bool().ok_or_else(fail)?),
    }
    Ok(())
}

fn run(session: &mut dyn Session, specs: &[InputSpec], row: &[Data]) -> Result<Vec<Tensor>, ModelError> {
    let tensor = |(spec, data): (&InputSpec, &Data)| Tensor::new(1, spec.columns.len(), data.clone());
    session.run(&specs.iter().zip(row).map(tensor).collect::<Result<Vec<_>, _>>()?)
}

/// The first value of a row that is not as expected.
fn compare(model: &Model, file: &Path, row: &Row, outputs: &[Tensor], tolerance: f64) -> Option<ModelError> {
    for ((spec, output), expected) in model.outputs().iter().zip(outputs).zip(&row.expected) {
        for (position, expected) in expected.iter().enumerate() {
            let found = output.get(0, position).unwrap_or(f64::NAN);
            // Numbers beyond one are compared in proportion: float32 has seven digits, wherever the point is.
            let near = (found - expected).abs() <= tolerance * expected.abs().max(1.0);
            if !near {
                return Some(ModelError::GoldenMismatch {
                    file: file.to_owned(),
                    line: row.line,
                    tensor: spec.tensor.clone(),
                    index: position,
                    found,
                    expected: *expected,
                    tolerance,
                });
            }
        }
    }
    None
}
