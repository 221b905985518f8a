//! A query in this process, without brokers.

use std::time::Instant;

use millstream::engine::driver::{Driver, DriverOptions, SourceRecord};
use millstream::engine::plan::Plan;
use millstream::engine::record::Record;
use millstream_topology_examples::nexmark::Event;

use super::{Query, Rate};

const BATCH: usize = 1_024;
const BATCHES_PER_COMMIT: usize = 20;

/// Runs a query over the events that it reads; answers its rate and how many records it wrote.
pub fn run(query: &Query, events: &[Event]) -> (Rate, u64) {
    let plan = Plan::new(&query.topology).unwrap().into();
    let options = DriverOptions { fold: true, ..DriverOptions::default() };
    let mut driver = Driver::new(query.topology.clone(), plan, options).unwrap();
    let source_of = |topic: &str| query.topology.sources.iter().position(|source| source.topic == topic);
    let mut records = events.iter().filter_map(|event| {
        let source = source_of(event.topic())?;
        let record = Record {
            key: Some(event.key().1.to_be_bytes().to_vec()),
            value: Some(event.json().into_bytes()),
            timestamp: event.time() as i64,
            headers: Vec::new(),
            offset: 0,
        };
        Some(SourceRecord { source, partition: Some(0), record })
    });
    let mut rate = Rate { events: 0, seconds: 0.0, cpu_seconds: 0.0, broker_seconds: 0.0 };
    let mut written = 0;
    for number in 0.. {
        let batch: Vec<SourceRecord> = records.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        rate.events += batch.len() as u64;
        let (start, cpu) = (Instant::now(), thread_seconds());
        let ran = driver.run(batch).unwrap();
        assert!(ran.stopped.is_none(), "{}: {:?}", query.name, ran.stopped);
        if number % BATCHES_PER_COMMIT == 0 {
            driver.commit().unwrap();
        }
        written += ran.written.len() as u64;
        drop(ran);
        rate.cpu_seconds += thread_seconds() - cpu;
        rate.seconds += start.elapsed().as_secs_f64();
    }
    (rate, written)
}

/// CPU time that this thread has used.
fn thread_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}
