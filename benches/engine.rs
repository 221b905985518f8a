//! What a record costs in the engine alone: no broker, one core, memory stores, commits included.
//!
//! `make bench-engine` prints one line per workload. Records are JSON of about 110 bytes, in batches of 1,024. Arguments are
//! parts of workloads' names, and a number of records for all of them, which a profiler may want smaller.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run has nothing to say"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use millstream::engine::driver::{Driver, DriverOptions, SourceRecord};
use millstream::engine::plan::Plan;
use millstream::engine::record::Record;
use millstream::engine::topology;
use mimalloc::MiMalloc;

/// That of the binary.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const BATCH: usize = 1024;
const BATCHES_PER_COMMIT: usize = 20;

struct Workload {
    name: &'static str,
    steps: &'static str,
    keys: u64,
    records: usize,
    /// Microseconds a record that the engine must not exceed.
    target: f64,
    /// CPU microseconds a record of Kafka Streams with Kafka, measured on a machine of this kind.
    kafka_streams: f64,
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "json-filter",
        steps: "[steps.out]\nop = \"filter\"\nfrom = \"events\"\nwhere = \"amount > 500 and country <> 'FR'\"\n",
        keys: 100_000,
        records: 1_000_000,
        target: 0.7,
        kafka_streams: 7.5,
    },
    Workload {
        name: "keyed-count-100k",
        steps: "[steps.out]\nop = \"aggregate\"\nfrom = \"events\"\ncolumns = { rows = \"count(*)\" }\n",
        keys: 100_000,
        records: 1_000_000,
        target: 1.2,
        kafka_streams: 15.0,
    },
    Workload {
        name: "tumbling-count",
        steps: "[steps.out]\nop = \"aggregate\"\nfrom = \"events\"\nwindow = { tumbling = \"1m\" }\ncolumns = { rows = \"count(*)\" }\n",
        keys: 10_000,
        records: 1_000_000,
        target: 1.5,
        kafka_streams: 17.0,
    },
    Workload {
        name: "trailing-features",
        steps: "[steps.out]\nop = \"features\"\nfrom = \"events\"\n\
                columns.rows_10m = { value = \"count(*)\", last = \"10m\" }\n\
                columns.spend_1h = { value = \"sum(amount)\", last = \"1h\" }\n\
                columns.mean_1h = { value = \"avg(amount)\", last = \"1h\" }\n",
        keys: 100_000,
        records: 1_000_000,
        target: 2.5,
        kafka_streams: 31.0,
    },
    Workload {
        name: "trees-100x6",
        steps: "[models.risk]\npath = \"models/trees\"\nversion = \"1\"\n\n[steps.out]\nop = \"predict\"\nfrom = \"events\"\nmodel = \"risk\"\n\
                inputs = { features = [\"amount\", \"f1\", \"f2\", \"f3\", \"f4\", \"f5\", \"f6\", \"f7\", \"f8\", \"f9\"] }\n\
                outputs = { score = { tensor = \"probabilities\", class = \"1\" } }\n",
        keys: 100_000,
        records: 300_000,
        target: 3.0,
        kafka_streams: 22.0,
    },
];

fn topology_of(workload: &Workload) -> String {
    let features = if workload.name.starts_with("trees") {
        (1..10).map(|n| format!(", f{n} = \"float64\"")).collect::<String>()
    } else {
        String::new()
    };
    format!(
        "[app]\nid = \"bench\"\n\n[sources.events]\ntopic = \"events\"\nkey = {{ card = \"string\" }}\n\
         value = {{ amount = \"float64\", merchant = \"string\", country = \"string\", at = \"timestamp\"{features} }}\n\
         time = \"at\"\n\n{}\n[sinks.results]\nfrom = \"out\"\n",
        workload.steps
    )
}

/// Numbers that look random and are the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn records(workload: &Workload, count: usize) -> impl Iterator<Item = SourceRecord> {
    let mut numbers = Numbers(42);
    let countries = ["DE", "FR", "US", "GB"];
    (0..count).map(move |index| {
        let card = numbers.next() % workload.keys;
        let amount = (numbers.next() % 100_000) as f64 / 100.0;
        let country = countries[(numbers.next() % 4) as usize];
        let at = 1_767_225_600_000 + index as i64 * 2;
        let mut value = format!(
            "{{\"amount\":{amount},\"merchant\":\"merchant-{:05}\",\"country\":\"{country}\",\"at\":{at}",
            numbers.next() % 5000
        );
        if workload.name.starts_with("trees") {
            for n in 1..10 {
                value.push_str(&format!(",\"f{n}\":{}", (numbers.next() % 1000) as f64 / 10.0));
            }
        }
        value.push('}');
        let record = Record {
            key: Some(format!("card-{card:012}").into_bytes()),
            value: Some(value.into_bytes()),
            timestamp: at,
            headers: Vec::new(),
            offset: 0,
        };
        SourceRecord { source: 0, partition: Some(0), record }
    })
}

fn main() {
    let arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let (counts, only): (Vec<String>, Vec<String>) =
        arguments.partition(|argument| argument.parse::<usize>().is_ok());
    let count = counts.first().and_then(|count| count.parse().ok());
    let mut missed = Vec::new();
    for workload in WORKLOADS
        .iter()
        .filter(|workload| only.is_empty() || only.iter().any(|name| workload.name.contains(name)))
    {
        let text = topology_of(workload);
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        let (topology, findings) = topology::read(&text, &directory, &|_| None);
        let Some(topology) = topology else { panic!("{}: {findings:?}", workload.name) };
        let topology = Arc::new(topology);
        let plan = Arc::new(Plan::new(&topology).expect("the topology can be planned"));
        let mut driver =
            Driver::new(topology, plan, DriverOptions { fold: true, ..DriverOptions::default() })
                .expect("the driver opens");
        let count = count.unwrap_or(workload.records);
        let mut records = records(workload, count);
        let mut seconds = 0.0;
        let mut written = 0;
        for number in 0.. {
            let batch: Vec<SourceRecord> = records.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let start = Instant::now();
            let ran = driver.run(batch).expect("the batch runs");
            assert!(ran.stopped.is_none(), "{:?}", ran.stopped);
            if number % BATCHES_PER_COMMIT == 0 {
                driver.commit().expect("the commit succeeds");
            }
            written += black_box(ran).written.len();
            seconds += start.elapsed().as_secs_f64();
        }
        let micros = seconds * 1e6 / count as f64;
        println!(
            "{:<18} {:>10.0} records/s {:>7.0} ns/record  target {:>5.0} ns  kafka_streams {:>6.0} ns (with Kafka)  ratio {:>5.1}  written {written}",
            workload.name,
            count as f64 / seconds,
            micros * 1e3,
            workload.target * 1e3,
            workload.kafka_streams * 1e3,
            workload.kafka_streams / micros,
        );
        if micros > workload.target {
            missed.push(workload.name);
        }
    }
    if !missed.is_empty() {
        eprintln!("over the target: {}", missed.join(", "));
    }
}
