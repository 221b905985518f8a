//! What a row costs in a model: trees and a neural network at 1, 64 and 1,024 rows a run.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot run has nothing to say")]

use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream_operators::model::{Data, Model, Tensor};

fn models(criterion: &mut Criterion) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // 100 trees of 6 levels, 12 small trees, and a network of 16 and 8 neurons.
    let folders =
        ["../benches/models/trees/1", "tests/models/lightgbm_binary", "tests/models/sklearn_mlp_binary"];
    for folder in folders {
        let model =
            Model::load(&root.join(folder)).unwrap_or_else(|problems| panic!("{folder}: {problems:?}"));
        let name = folder.rsplit('/').find(|part| part.len() > 1).unwrap_or(folder);
        let mut group = criterion.benchmark_group(format!("model/{}/{name}", model.backend()));
        for rows in [1, 64, 1024] {
            let inputs: Vec<Tensor> = model
                .inputs()
                .iter()
                .map(|input| {
                    let width = input.columns.len();
                    // Values on both sides of the splits, some of them missing.
                    let value = |index: usize| {
                        if index.is_multiple_of(17) {
                            f32::NAN
                        } else {
                            (index * 37 % 101) as f32 / 25.0 - 2.0
                        }
                    };
                    Tensor::new(rows, width, Data::Float32((0..rows * width).map(value).collect()))
                        .expect("it fits")
                })
                .collect();
            let mut session = model.session().expect("the model was loaded");
            group.throughput(Throughput::Elements(rows as u64));
            group.bench_with_input(BenchmarkId::from_parameter(rows), &inputs, |bencher, inputs| {
                bencher.iter(|| session.run(inputs).expect("the inputs fit"));
            });
        }
    }
}

criterion_group!(benches, models);
criterion_main!(benches);
