//! What a row costs in each operator, by batch size: arrays in, arrays out, stores in memory. `make bench-operators` runs it, and
//! that of the stores.
//!
//! Only the operator itself is timed: what is above it gives it rows as they come, decoding and commits are not part of it. The
//! time of a batch of one row is what a call costs; at 1,024 rows it is what a row costs.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot run has nothing to say")]

use std::hint::black_box;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream_engine::codec::SourceDecoder;
use millstream_engine::plan::{Origin, Plan, PlanNode, SubTopology};
use millstream_engine::record::Record;
use millstream_engine::task::Task;
use millstream_engine::topology;
use millstream_operators::batch::Batch;
use millstream_operators::operator::{Context, Operator};
use millstream_state::{Checkpoint, StoreId, TaskState};

/// After so many rows, each with a key of its own, the same ones come again.
const KEYS: usize = 1024;

/// A commit comes after so many batches.
const BATCHES: i64 = 64;

const TABLE: &str = "[tables.cards]\ntopic = \"cards\"\nkey = { card = \"string\" }\n\
                     value = { amount = \"float64\", country = \"string\", items = \"list<int64>\" }\n";

/// The step `out`, which reads the streams `events` and `others`, or the table `cards`, and the steps above it.
const STEPS: &[(&str, &str)] = &[
    ("filter", "op = \"filter\"\nfrom = \"events\"\nwhere = \"amount > 500 and country <> 'FR'\""),
    ("filter-table", "op = \"filter\"\nfrom = \"cards\"\nwhere = \"amount > 500 and country <> 'FR'\""),
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
        "aggregate-table",
        "op = \"aggregate\"\nfrom = \"cards\"\ncolumns = { rows = \"count(*)\", total = \"sum(amount)\" }",
    ),
    (
        "aggregate-tumbling",
        "op = \"aggregate\"\nfrom = \"events\"\nwindow = { tumbling = \"1m\" }\ncolumns = { rows = \"count(*)\" }",
    ),
    (
        "aggregate-hopping",
        "op = \"aggregate\"\nfrom = \"events\"\nwindow = { hopping = \"5m\", every = \"1m\" }\ncolumns = { rows = \"count(*)\" }",
    ),
    (
        "aggregate-sliding",
        "op = \"aggregate\"\nfrom = \"events\"\nwindow = { sliding = \"5s\" }\ncolumns = { rows = \"count(*)\" }",
    ),
    (
        "aggregate-session",
        "op = \"aggregate\"\nfrom = \"events\"\nwindow = { session = \"5s\" }\ncolumns = { rows = \"count(*)\" }",
    ),
    (
        "features",
        "op = \"features\"\nfrom = \"events\"\ncolumns.rows_10s = { value = \"count(*)\", last = \"10s\" }\n\
         columns.mean_1m = { value = \"avg(amount)\", last = \"1m\" }",
    ),
    (
        "join-stream-table",
        "op = \"join\"\nfrom = { node = \"events\", as = \"e\" }\nwith = { node = \"cards\", as = \"c\" }\nkind = \"left\"\n\
         columns = { usage = \"e.amount / c.amount\" }",
    ),
    (
        "join-as-of",
        "op = \"join\"\nfrom = { node = \"events\", as = \"e\" }\nwith = { node = \"cards\", as = \"c\" }\nkind = \"left\"\n\
         columns = { usage = \"e.amount / c.amount\" }\n\n[tables.cards]\nhistory = \"1h\"",
    ),
    (
        "join-table-table",
        "op = \"join\"\nfrom = { node = \"cards\", as = \"c\" }\nwith = { node = \"newest\", as = \"n\" }\nkind = \"left\"\n\
         columns = { usage = \"n.amount / c.amount\" }\n\n[steps.newest]\nop = \"to-table\"\nfrom = \"events\"",
    ),
    (
        "join-stream-stream",
        "op = \"join\"\nfrom = { node = \"events\", as = \"e\" }\nwith = { node = \"others\", as = \"o\" }\nwithin = \"2s\"\n\
         columns = { usage = \"e.amount / o.amount\" }",
    ),
    ("dedup", "op = \"dedup\"\nfrom = \"events\"\nwithin = \"10s\"\ndistinct-on = [\"country\"]"),
    ("top", "op = \"top\"\nfrom = \"events\"\nn = 3\norder-by = \"amount desc\"\npartition-by = [\"card\"]"),
    (
        "top-table",
        "op = \"top\"\nfrom = \"cards\"\nn = 3\norder-by = \"amount desc\"\npartition-by = [\"card\"]",
    ),
    ("suppress-for", "op = \"suppress\"\nfrom = \"cards\"\nfor = \"1s\""),
    (
        "suppress-window",
        "op = \"suppress\"\nfrom = \"counts\"\nuntil = \"window-close\"\n\n[steps.counts]\nop = \"aggregate\"\nfrom = \"events\"\n\
         window = { tumbling = \"1s\" }\ncolumns = { rows = \"count(*)\" }",
    ),
    (
        "predict",
        "op = \"predict\"\nfrom = \"wide\"\nmodel = \"risk\"\n\
         inputs = { features = [\"amount\", \"f1\", \"f2\", \"f3\", \"f4\", \"f5\", \"f6\", \"f7\", \"f8\", \"f9\"] }\n\
         outputs = { score = { tensor = \"probabilities\", class = \"1\" } }\n\n\
         [steps.wide]\nop = \"select\"\nfrom = \"events\"\nadd = { f1 = \"amount\", f2 = \"amount\", f3 = \"amount\", \
         f4 = \"amount\", f5 = \"amount\", f6 = \"amount\", f7 = \"amount\", f8 = \"amount\", f9 = \"amount\" }\n\n\
         [models.risk]\npath = \"models/trees\"\nversion = \"1\"",
    ),
    ("to-stream", "op = \"to-stream\"\nfrom = \"cards\""),
    ("to-table", "op = \"to-table\"\nfrom = \"events\""),
];

fn operators(criterion: &mut Criterion) {
    for (name, step) in STEPS {
        let plan = plan(name, step);
        let (sub, node) = plan
            .sub_topologies
            .iter()
            .find_map(|sub| Some((sub, sub.nodes.iter().find(|node| node.name == "out")?)))
            .expect("the step runs");
        let mut group = criterion.benchmark_group(format!("operator/{name}"));
        group
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1))
            .sample_size(20);
        for rows in [1, 64, 1024] {
            let mut running = Running::new(sub, rows);
            group.throughput(Throughput::Elements((rows * node.inputs.len()) as u64));
            group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
                bencher.iter_custom(|batches| (0..batches).map(|_| running.batch()).sum());
            });
        }
        group.finish();
    }
}

fn plan(name: &str, step: &str) -> Plan {
    let stream = "key = { card = \"string\" }\nvalue = { amount = \"float64\", country = \"string\", items = \"list<int64>\" }";
    let (step, table) = match step.split_once("[tables.cards]\n") {
        Some((step, more)) => (step, format!("{TABLE}{more}\n")),
        None => (step, TABLE.to_owned()),
    };
    let text = format!(
        "[app]\nid = \"bench\"\n[sources.events]\ntopic = \"events\"\n{stream}\n[sources.others]\ntopic = \"others\"\n{stream}\n\
         {table}[steps.out]\n{step}\n"
    );
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches");
    let (topology, findings) = topology::read(&text, &models, &|_| None);
    let topology = topology.unwrap_or_else(|| {
        let messages: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
        panic!("{name}: {}", messages.join("; "))
    });
    Plan::new(&topology).expect("the topology can be planned")
}

/// A sub-topology with the step `out`, and the batches that it gets.
struct Running<'a> {
    sub: &'a SubTopology,
    operators: Vec<Box<dyn Operator>>,
    state: TaskState,
    /// By input: batches that come one after the other, again and again.
    inputs: Vec<Vec<Batch>>,
    rows: usize,
    number: i64,
}

impl<'a> Running<'a> {
    fn new(sub: &'a SubTopology, rows: usize) -> Self {
        let operators = sub.nodes.iter().map(|node| {
            let mut operator = node.definition.build(&node.wanted).expect("the operator can be built");
            operator.reset(None);
            operator
        });
        let inputs = sub.inputs.iter().map(|input| {
            let Origin::Source(source) = &input.origin else {
                panic!("{} is a topic of its own", input.node)
            };
            let mut decoder = SourceDecoder::new(&source.layout, &source.topic).expect("the types are known");
            (0..KEYS / rows).map(|number| batch(&mut decoder, number * rows..(number + 1) * rows)).collect()
        });
        let state = TaskState::in_memory(&Task::store_specs(sub));
        Running { operators: operators.collect(), state, inputs: inputs.collect(), rows, number: 0, sub }
    }

    /// Runs a batch through it; says how long `out` took.
    fn batch(&mut self) -> Duration {
        self.number += 1;
        let mut slots: Vec<Option<Batch>> = vec![None; self.sub.slots];
        for (input, batches) in self.sub.inputs.iter().zip(&self.inputs) {
            let mut batch = batches.get(self.number as usize % batches.len()).cloned().expect("there is one");
            let start = self.number * self.rows as i64;
            batch.time = (start..start + self.rows as i64).map(|time| 1_767_225_600_000 + time).collect();
            fill(&mut slots, input.slot, batch);
        }
        let mut took = Duration::ZERO;
        for (node, operator) in self.sub.nodes.iter().zip(&mut self.operators) {
            let inputs: Vec<Batch> = node
                .inputs
                .iter()
                .map(|slot| slots.get(*slot).cloned().flatten().expect("it is filled"))
                .collect();
            let start = Instant::now();
            let outputs = black_box(process(node, operator.as_mut(), &inputs, &mut self.state));
            if node.name == "out" {
                took = start.elapsed();
            }
            for (output, batch) in node.outputs.iter().zip(outputs) {
                fill(&mut slots, output.slot, batch);
            }
        }
        self.state.end_epoch();
        if self.number % BATCHES == 0 && !self.sub.stores.is_empty() {
            black_box(self.state.changelog());
            let changelog_offsets = vec![0; self.sub.stores.len()];
            let checkpoint = Checkpoint { changelog_offsets, ..Checkpoint::default() };
            self.state.promote(checkpoint).expect("memory suffices");
        }
        took
    }
}

fn fill(slots: &mut [Option<Batch>], slot: usize, batch: Batch) {
    if let Some(slot) = slots.get_mut(slot) {
        *slot = Some(batch);
    }
}

fn process(
    node: &PlanNode,
    operator: &mut dyn Operator,
    inputs: &[Batch],
    state: &mut TaskState,
) -> Vec<Batch> {
    let stores: Vec<StoreId> = node.stores.iter().map(|store| StoreId(*store)).collect();
    let mut context = Context { borrowed: &node.borrowed, ..Context::new(state, &stores) };
    operator.process(inputs, &mut context).expect("the rows can be processed")
}

/// Events with keys and values that look random and are the same in every run.
fn batch(decoder: &mut SourceDecoder, rows: Range<usize>) -> Batch {
    let records: Vec<Record> = rows
        .map(|row| Record {
            key: Some(format!("card-{:06}", row * 7919 % 10_000).into_bytes()),
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
        seq: (0..records.len() as u32).collect(),
        kind: None,
        null_value: decoded.null_value,
    }
}

criterion_group!(benches, operators);
criterion_main!(benches);
