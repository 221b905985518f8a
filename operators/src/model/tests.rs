//! Model folders as users have them: answers beside those of ONNX Runtime, and folders that have to be refused.
//!
//! The folders are made by `tests/models/make.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{Data, ElementType, Model, ModelError, Tensor};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models")
}

#[derive(Deserialize)]
struct Case {
    inputs: String,
    backend: String,
    outputs: BTreeMap<String, usize>,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_str(&fs::read_to_string(models().join("cases.json")).unwrap()).unwrap()
}

fn floats(path: PathBuf) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn load(name: &str) -> Model {
    Model::load(&models().join(name)).unwrap_or_else(|problems| panic!("{name}: {problems:#?}"))
}

fn float32(tensor: &Tensor) -> &[f32] {
    match tensor.data() {
        Data::Float32(data) => data,
        other => panic!("{other:?}"),
    }
}

/// The outputs for all rows, asked for in batches.
fn run(model: &Model, inputs: &Tensor, batch: usize) -> Vec<Vec<f32>> {
    let mut session = model.session().unwrap();
    let mut outputs = vec![Vec::new(); model.outputs().len()];
    for start in (0..inputs.rows()).step_by(batch) {
        let results = session.run(&[inputs.slice(start, batch)]).unwrap();
        for (all, tensor) in outputs.iter_mut().zip(&results) {
            all.extend_from_slice(float32(tensor));
        }
    }
    outputs
}

fn case_rows(case: &Case, model: &Model) -> Tensor {
    let width = model.inputs()[0].columns.len();
    let data = floats(models().join("inputs").join(format!("{}.f32", case.inputs)));
    Tensor::new(data.len() / width, width, Data::Float32(data)).unwrap()
}

#[test]
fn answers_are_those_of_onnx_runtime() {
    for (name, case) in cases() {
        let model = load(&name);
        assert_eq!(model.backend(), case.backend, "{name}");
        let rows = case_rows(&case, &model);
        assert!(rows.rows() == 1000 || name.starts_with("handmade"), "{name}");
        let expected = floats(models().join(&name).join("expected.f32"));
        let widths: usize = model.outputs().iter().map(|output| output.width).sum();
        assert_eq!(widths, case.outputs.values().sum::<usize>(), "{name}");
        assert_eq!(expected.len(), widths * rows.rows(), "{name}");

        for batch in [1, 7, rows.rows()] {
            let mut expected = expected.as_slice();
            for (spec, found) in model.outputs().iter().zip(run(&model, &rows, batch)) {
                let (mine, rest) = expected.split_at(found.len());
                expected = rest;
                for (index, (found, expected)) in found.iter().zip(mine).enumerate() {
                    assert!(
                        (found - expected).abs() <= 1e-5,
                        "{name}, {}, row {}, batches of {batch}: {found}, ONNX Runtime says {expected}",
                        spec.tensor,
                        index / spec.width
                    );
                }
            }
        }
    }
}

/// Batching may not be visible, not even in the last digit, nor in a model in which rows influence each other.
#[test]
fn answers_do_not_depend_on_the_batch() {
    for (name, case) in cases() {
        let model = load(&name);
        let rows = case_rows(&case, &model);
        let bits = |batch| -> Vec<Vec<u32>> {
            run(&model, &rows, batch)
                .iter()
                .map(|all| all.iter().map(|value| value.to_bits()).collect())
                .collect()
        };
        let alone = bits(1);
        for batch in [2, 7, 64, rows.rows()] {
            assert_eq!(bits(batch), alone, "{name}, batches of {batch}");
        }
    }
}

#[test]
fn no_rows_give_no_rows() {
    for name in ["xgboost_multi", "sklearn_mlp_multi"] {
        let model = load(name);
        let none = Tensor::new(0, 13, Data::Float32(Vec::new())).unwrap();
        let outputs = model.session().unwrap().run(&[none]).unwrap();
        assert_eq!((outputs[0].rows(), outputs[0].width()), (0, 3));
    }
}

#[test]
fn a_loaded_model_states_its_signature() {
    let model = load("lightgbm_multi");
    assert_eq!((model.name(), model.version()), ("models", "lightgbm_multi"));
    assert_eq!(model.sha256().len(), 64);
    assert_eq!(model.inputs()[0].tensor, "X");
    assert_eq!(model.inputs()[0].element_type, ElementType::Float32);
    assert_eq!(model.inputs()[0].columns.len(), 13);
    assert_eq!(model.outputs()[0].width, 3);
    assert_eq!(model.outputs()[0].classes.as_deref().unwrap(), ["0", "1", "2"]);
}

#[test]
fn tensors_that_do_not_fit_are_an_error() {
    for name in ["xgboost_multi", "sklearn_mlp_multi"] {
        let mut session = load(name).session().unwrap();
        let narrow = Tensor::new(1, 2, Data::Float32(vec![0.0; 2])).unwrap();
        let wrong = Tensor::new(1, 13, Data::Float64(vec![0.0; 13])).unwrap();
        for inputs in [vec![], vec![narrow], vec![wrong]] {
            assert!(matches!(session.run(&inputs), Err(ModelError::Input { .. })));
        }
        // It works as before after an error.
        assert!(session.run(&[Tensor::new(1, 13, Data::Float32(vec![0.0; 13])).unwrap()]).is_ok());
    }
}

/// A copy of a model folder with changes.
struct Folder(TempDir);

impl Folder {
    fn copy(name: &str) -> Folder {
        let folder = tempfile::tempdir().unwrap();
        for file in ["model.onnx", "model.toml", "golden.jsonl"] {
            fs::copy(models().join(name).join(file), folder.path().join(file)).unwrap();
        }
        Folder(folder)
    }

    /// Writes the model and puts its checksum into `model.toml`.
    fn model(self, bytes: &[u8]) -> Folder {
        fs::write(self.0.path().join("model.onnx"), bytes).unwrap();
        let sum: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let text = fs::read_to_string(self.0.path().join("model.toml")).unwrap();
        let rest = text.split_once('\n').unwrap().1;
        fs::write(self.0.path().join("model.toml"), format!("sha256 = \"{sum}\"\n{rest}")).unwrap();
        self
    }

    fn replace(self, file: &str, from: &str, to: &str) -> Folder {
        let path = self.0.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
        self
    }

    fn load(&self) -> Result<Model, Vec<ModelError>> {
        Model::load(self.0.path())
    }

    /// What is said about the folder, without its place.
    fn problems(&self) -> Vec<String> {
        let place = format!("{}/", self.0.path().display());
        self.load().unwrap_err().iter().map(|problem| problem.to_string().replace(&place, "")).collect()
    }

    fn problem(&self) -> String {
        let problems = self.problems();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems.into_iter().next().unwrap()
    }
}

#[track_caller]
fn assert_says(found: &str, expected: &str) {
    assert!(found.contains(expected), "found:\n{found}\nexpected:\n{expected}");
}

#[test]
fn missing_files_are_all_named() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let problems = folder.problems();
    assert_eq!(problems.len(), 3);
    assert_says(&problems[0], "model.toml: cannot be read: No such file");
    assert_says(&problems[1], "model.onnx: cannot be read");
    assert_says(&problems[2], "golden.jsonl: cannot be read");
}

#[test]
fn a_changed_model_is_refused() {
    let folder = Folder::copy("sklearn_tree_binary");
    let file = folder.0.path().join("model.onnx");
    let mut bytes = fs::read(&file).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(file, bytes).unwrap();
    assert_says(&folder.problem(), "model.onnx: its sha256 is ");
    assert_says(&folder.problem(), "but `model.toml` expects ");
}

#[test]
fn a_truncated_model_is_refused_wherever_it_ends() {
    for name in ["sklearn_tree_binary", "sklearn_mlp_binary"] {
        let bytes = fs::read(models().join(name).join("model.onnx")).unwrap();
        for end in (0..bytes.len()).step_by(17) {
            assert!(Folder::copy(name).model(&bytes[..end]).load().is_err(), "{name} cut at {end}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Damage that the checksum does not show is an error or another answer, never a panic or an endless loop.
    #[test]
    fn damaged_models_do_no_harm(
        name in prop_oneof![Just("xgboost_binary"), Just("sklearn_mlp_binary"), Just("sklearn_logistic_multi")],
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = fs::read(models().join(name).join("model.onnx")).unwrap();
        for (place, value) in places {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let _ = Folder::copy(name).model(&bytes).load();
    }
}

#[test]
fn model_toml_is_read_strictly() {
    let copy = || Folder::copy("sklearn_tree_binary");
    let unknown = copy().replace("model.toml", "tolerance", "tolerence").problem();
    assert_says(
        &unknown,
        "model.toml:8:1: unknown field `tolerence`, expected one of `sha256`, `inputs`, `outputs`",
    );
    let syntax = copy().replace("model.toml", "inputs    =", "inputs").problem();
    assert_says(&syntax, "model.toml:2:");
    let kind = copy().replace("model.toml", "\"float32\"", "\"float\"").problem();
    assert_says(
        &kind,
        "unknown variant `float`, expected one of `float32`, `float64`, `int64`, `int32`, `bool`",
    );
    let problems = copy()
        .replace("model.toml", "sha256    = \"", "sha256    = \"x")
        .replace("model.toml", "1e-5", "-1.0")
        .replace("model.toml", "\"x0\"", "\"x1\"")
        .replace("model.toml", "[\"0\", \"1\"]", "[]")
        .problems();
    assert_eq!(problems.len(), 4, "{problems:#?}");
    assert_says(&problems[0], "model.toml:1:13: `sha256` is `x");
    assert_says(&problems[1], "model.toml:8:13: `tolerance` is -1");
    assert_says(&problems[2], "`columns` names `x1` twice");
    assert_says(&problems[3], "`classes` is empty");
}

#[test]
fn the_signature_is_checked_against_the_graph() {
    let problems = Folder::copy("sklearn_tree_binary")
        .replace("model.toml", "tensor = \"X\"", "tensor = \"features\"")
        .replace("model.toml", "tensor = \"probabilities\"", "tensor = \"scores\"")
        .problems();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert_says(
        &problems[0],
        "model.onnx: the graph has no input `features` that `model.toml` names; it has `X`",
    );
    assert_says(&problems[1], "the graph's input `X` is not among the `inputs`");
    assert_says(
        &problems[2],
        "the graph has no output `scores` that `model.toml` names; it has `label`, `probabilities`",
    );

    let problems = Folder::copy("sklearn_tree_binary")
        .replace("model.toml", "float32", "float64")
        .replace("model.toml", "\"x0\", ", "")
        .problems();
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert_says(&problems[0], "input `X` holds float32, but `model.toml` says `float64`");
    assert_says(&problems[1], "input `X` takes 8 values a row, but `model.toml` lists 7 columns");

    for name in ["sklearn_tree_binary", "sklearn_mlp_binary"] {
        let classes = Folder::copy(name).replace("model.toml", "\"1\"]", "\"1\", \"2\"]").problem();
        assert_says(
            &classes,
            "output `probabilities` gives 2 values a row, but `model.toml` lists 3 classes",
        );
        let label = Folder::copy(name)
            .replace("model.toml", "tensor = \"probabilities\"", "tensor = \"label\"")
            .problem();
        assert_says(&label, "label");
    }
}

#[test]
fn golden_rows_are_checked() {
    let copy = || Folder::copy("sklearn_tree_binary");
    fn golden(folder: Folder, text: &str) -> String {
        fs::write(folder.0.path().join("golden.jsonl"), text).unwrap();
        folder.problem()
    }
    assert_says(&golden(copy(), ""), "golden.jsonl:1: there is no golden row");
    assert_says(&golden(copy(), "{\"inputs\""), "golden.jsonl:1: EOF");
    assert_says(
        &golden(copy(), "\n{\"inputs\": {}, \"outputs\": {}}"),
        "golden.jsonl:2: input `X` is missing",
    );
    let row = |x: &str, y: &str| {
        format!("{{\"inputs\": {{\"X\": [{x}]}}, \"outputs\": {{\"probabilities\": [{y}]}}}}")
    };
    assert_says(&golden(copy(), &row("1, 2", "0, 1")), "input `X` has 2 values, the model has 8");
    assert_says(
        &golden(copy(), &row("0,0,0,0,0,0,0,\"a\"", "0, 1")),
        "input `X`, `x7`: \"a\", expected is float32",
    );
    let wrong = golden(copy(), &row("0,0,0,0,0,0,0,null", "0.25, 0.75"));
    assert_says(&wrong, "golden.jsonl:1: output `probabilities`, value 0: the model gives ");
    assert_says(&wrong, ", expected is 0.25 (tolerance 0.00001)");
}

#[test]
fn models_that_cannot_be_trusted_are_refused() {
    let scaler = Folder::copy("refused_scaler").problem();
    assert_says(&scaler, "model.onnx: the trees backend has no operator `ai.onnx.ml.Scaler`");
    let random = Folder::copy("refused_random").problem();
    assert_says(&random, "model.onnx: the tract backend has no operator `RandomUniformLike`");
}
