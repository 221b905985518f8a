//! What a row costs in each operator, by batch size: arrays in, arrays out, stores in memory.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot run has nothing to say")]

use std::hint::black_box;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream_engine::codec::SourceDecoder;
use millstream_engine::plan::Plan;
use millstream_engine::record::Record;
use millstream_engine::task::Task;
use millstream_engine::topology;
use millstream_operators::batch::Batch;
use millstream_operators::operator::{Context, Wanted};
use millstream_state::{Checkpoint, StoreId, TaskState};

const KEYS: usize = 10_000;

/// A step under the name `out` that reads the stream `events`.
const STEPS: &[(&str, &str)] = &[
    ("filter", "op = \"filter\"\nfrom = \"events\"\nwhere = \"amount > 500 and country <> 'FR'\""),
    (
        "select",
        "op = \"select\"\nfrom = \"events\"\ncolumns = { double = \"amount * 2\", up = \"upper(country)\" }",
    ),
    ("explode", "op = \"explode\"\nfrom = \"events\"\ncolumn = \"items\""),
    ("rekey", "op = \"rekey\"\nfrom = \"events\"\nkey = [\"country\"]"),
    (
        "branch",
        "op = \"branch\"\nfrom = \"events\"\nbranches = [{ name = \"high\", where = \"amount > 500\" }]\notherwise = \"low\"",
    ),
    ("merge", "op = \"merge\"\nfrom = [\"events\", \"others\"]"),
    (
        "aggregate",
        "op = \"aggregate\"\nfrom = \"events\"\ncolumns = { rows = \"count(*)\", total = \"sum(amount)\" }",
    ),
    (
        "aggregate-tumbling",
        "op = \"aggregate\"\nfrom = \"events\"\nwindow = { tumbling = \"1m\" }\ncolumns = { rows = \"count(*)\" }",
    ),
    (
        "features",
        "op = \"features\"\nfrom = \"events\"\ncolumns.rows_10m = { value = \"count(*)\", last = \"10m\" }\n\
         columns.mean_1h = { value = \"avg(amount)\", last = \"1h\" }",
    ),
    (
        "to-stream",
        "op = \"to-stream\"\nfrom = \"counts\"\n\n[steps.counts]\nop = \"aggregate\"\nfrom = \"events\"\n\
         columns = { rows = \"count(*)\" }",
    ),
    (
        "predict",
        "op = \"predict\"\nfrom = \"events\"\nmodel = \"risk\"\n\
         inputs = { features = [\"amount\", \"amount\", \"amount\", \"amount\", \"amount\", \"amount\", \"amount\", \"amount\", \"amount\", \"amount\"] }\n\
         outputs = { score = { tensor = \"probabilities\", class = \"1\" } }\n\n\
         [models.risk]\npath = \"models/trees\"\nversion = \"1\"",
    ),
];

fn operators(criterion: &mut Criterion) {
    for (name, step) in STEPS {
        let source = "key = { card = \"string\" }\nvalue = { amount = \"float64\", country = \"string\", items = \"list<int64>\" }";
        let text = format!(
            "[app]\nid = \"bench\"\n[sources.events]\ntopic = \"events\"\n{source}\n[sources.others]\ntopic = \"others\"\n{source}\n\
             [steps.out]\n{step}\n"
        );
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches");
        let (topology, findings) = topology::read(&text, &models, &|_| None);
        let topology = topology.unwrap_or_else(|| unusable(name, &findings));
        let plan = Plan::new(&topology).expect("the topology can be planned");
        let (sub, node) = plan
            .sub_topologies
            .iter()
            .find_map(|sub| Some((sub, sub.nodes.iter().find(|node| node.name == "out")?)))
            .expect("the step runs");
        let stores: Vec<StoreId> = node.stores.iter().map(|store| StoreId(*store)).collect();
        let events = topology.source("events").expect("the source is there");
        let mut decoder = SourceDecoder::new(&events.layout, "events").expect("the types are known");
        let mut group = criterion.benchmark_group(format!("operator/{name}"));
        for rows in [1, 64, 1024] {
            let mut state = TaskState::in_memory(&Task::store_specs(sub));
            let mut operator = node
                .definition
                .build(&Wanted { fold: true, before: false })
                .expect("the operator can be built");
            operator.reset(None);
            let mut batch = batch(&mut decoder, rows);
            if *name == "to-stream" {
                batch = counted(&batch);
            }
            let inputs: Vec<Batch> = node.inputs.iter().map(|_| batch.clone()).collect();
            let mut number = 0;
            group.throughput(Throughput::Elements(rows as u64));
            group.bench_with_input(BenchmarkId::from_parameter(rows), &inputs, |bencher, inputs| {
                bencher.iter(|| {
                    number += 1;
                    let mut inputs = inputs.clone();
                    for input in &mut inputs {
                        input.time.iter_mut().for_each(|time| *time += number * rows as i64);
                    }
                    let mut context = Context::new(&mut state, &stores);
                    black_box(operator.process(&inputs, &mut context).expect("the rows can be processed"));
                    state.end_epoch();
                    if number % 64 == 0 && !stores.is_empty() {
                        black_box(state.changelog());
                        let changelog_offsets = vec![0; sub.stores.len()];
                        state
                            .promote(Checkpoint { changelog_offsets, ..Checkpoint::default() })
                            .expect("memory suffices");
                    }
                });
            });
        }
    }
}

fn unusable<T>(name: &str, findings: &[millstream_operators::diagnostic::Diagnostic]) -> T {
    let messages: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
    panic!("{name}: {}", messages.join("; "))
}

/// Events with keys and values that look random and are the same in every run.
fn batch(decoder: &mut SourceDecoder, rows: usize) -> Batch {
    let records: Vec<Record> = (0..rows)
        .map(|row| Record {
            key: Some(format!("card-{:06}", row * 7919 % KEYS).into_bytes()),
            value: Some(
                format!(
                    "{{\"amount\":{},\"country\":\"{}\",\"items\":[1,2,3]}}",
                    row * 37 % 1000,
                    ["DE", "FR", "US"].get(row % 3).copied().unwrap_or_default()
                )
                .into_bytes(),
            ),
            timestamp: 1_767_225_600_000 + row as i64,
            headers: Vec::new(),
            offset: row as i64,
        })
        .collect();
    let decoded = decoder.decode(&records, 0).expect("the records fit");
    Batch {
        rows: decoded.columns,
        time: decoded.time,
        seq: (0..rows as u32).collect(),
        kind: None,
        null_value: decoded.null_value,
    }
}

/// The rows as a table of counts would have them.
fn counted(events: &Batch) -> Batch {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Schema};
    use millstream_operators::batch::{RowKind, record_batch};
    use millstream_operators::schema::column;

    let columns =
        Arc::new(Schema::new(vec![column("card", DataType::Utf8), column("rows", DataType::Int64)]));
    let counts = Arc::new(Int64Array::from_iter_values(0..events.len() as i64));
    let card = events.rows.column(0).clone();
    Batch {
        rows: record_batch(&columns, vec![card, counts], events.len()).expect("the columns fit"),
        kind: Some(vec![RowKind::UpdateAfter; events.len()]),
        ..events.clone()
    }
}

criterion_group!(benches, operators);
criterion_main!(benches);
