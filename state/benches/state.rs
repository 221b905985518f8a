//! What state access costs: points, scans and commits, in memory and on RocksDB, at 1, 64 and 1024 keys an epoch.
//!
//! The stores hold 100 thousand keys; the keys of an epoch are spread over them.

#![expect(clippy::expect_used, reason = "a benchmark that fails has to stop")]

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream_state::{
    Checkpoint, Fingerprint, StateDirectory, StateOptions, StoreId, StoreSpec, TaskState,
    key::{KeyWriter, prefix_end},
};
use tempfile::TempDir;

const STORE: StoreId = StoreId(0);
const KEYS: u64 = 100_000;
const SIZES: [u64; 3] = [1, 64, 1024];

struct Place {
    name: &'static str,
    state: TaskState,
    _disk: Option<(TempDir, StateDirectory)>,
}

fn places() -> [Place; 2] {
    let specs = [StoreSpec { name: "bench".to_owned(), fingerprint: Fingerprint::of(&[]) }];
    let folder = TempDir::new().expect("a temporary directory");
    let directory = StateDirectory::open(folder.path(), "bench").expect("a new state directory");
    let rocksdb = TaskState::open(&directory, "bench-0", &specs, &StateOptions::new(256 << 20))
        .expect("a new database");
    [
        Place { name: "memory", state: TaskState::in_memory(&specs), _disk: None },
        Place { name: "rocksdb", state: rocksdb, _disk: Some((folder, directory)) },
    ]
}

/// The n-th key of a walk that spreads over all of them, and ten entries below each.
fn key(buffer: &mut Vec<u8>, n: u64) {
    let card = n.wrapping_mul(7919) % (KEYS / 10);
    KeyWriter::new(buffer).put_i64(card as i64).put_i64((n % 10) as i64);
}

fn prefix(buffer: &mut Vec<u8>, n: u64) {
    KeyWriter::new(buffer).put_i64((n.wrapping_mul(7919) % (KEYS / 10)) as i64);
}

fn commit(state: &mut TaskState) {
    black_box(state.changelog());
    let checkpoint = Checkpoint { changelog_offsets: vec![0], ..Checkpoint::default() };
    state.promote(checkpoint).expect("a commit");
}

fn fill(state: &mut TaskState) {
    let mut buffer = Vec::new();
    for card in 0..KEYS / 10 {
        for n in 0..10 {
            KeyWriter::new(&mut buffer).put_i64(card as i64).put_i64(n);
            state.put(STORE, &buffer, &card.to_le_bytes());
        }
    }
    commit(state);
    state.flush().expect("a flush");
}

fn count(state: &mut TaskState, buffer: &mut Vec<u8>, from: u64, keys: u64) {
    for n in from..from + keys {
        key(buffer, n);
        let old = state.get(STORE, buffer).expect("a read");
        let old = old.and_then(|value| value.first_chunk().copied()).map_or(0, u64::from_le_bytes);
        state.put(STORE, buffer, &(old + 1).to_le_bytes());
    }
    state.end_epoch();
}

fn access(criterion: &mut Criterion) {
    for mut place in places() {
        fill(&mut place.state);
        let mut group = criterion.benchmark_group(place.name);
        group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1));
        let state = &mut place.state;
        let mut buffer = Vec::new();
        let mut next = 0;
        for keys in SIZES {
            group.throughput(Throughput::Elements(keys));
            group.bench_function(BenchmarkId::new("get", keys), |bencher| {
                bencher.iter(|| {
                    for n in next..next + keys {
                        key(&mut buffer, n);
                        black_box(state.get(STORE, &buffer).expect("a read"));
                    }
                    next += keys;
                });
            });
            group.bench_function(BenchmarkId::new("multi_get", keys), |bencher| {
                bencher.iter(|| {
                    let owned: Vec<Vec<u8>> = (next..next + keys)
                        .map(|n| {
                            key(&mut buffer, n);
                            buffer.clone()
                        })
                        .collect();
                    let keys: Vec<&[u8]> = owned.iter().map(Vec::as_slice).collect();
                    black_box(state.multi_get(STORE, &keys).expect("a read").len());
                    next += keys.len() as u64;
                });
            });
            // The keyed count: an epoch of reads and writes. A commit every 100 thousand keys is part of it.
            let mut uncommitted = 0;
            group.bench_function(BenchmarkId::new("get and put", keys), |bencher| {
                bencher.iter(|| {
                    count(state, &mut buffer, next, keys);
                    next += keys;
                    uncommitted += keys;
                    if uncommitted >= KEYS {
                        uncommitted = 0;
                        commit(state);
                    }
                });
            });
            commit(state);
            group.bench_function(BenchmarkId::new("get, put and promote", keys), |bencher| {
                bencher.iter(|| {
                    count(state, &mut buffer, next, keys);
                    next += keys;
                    commit(state);
                });
            });
            // Ten entries each.
            let mut end = Vec::new();
            group.bench_function(BenchmarkId::new("scan", keys), |bencher| {
                bencher.iter(|| {
                    for n in next..next + keys {
                        prefix(&mut buffer, n);
                        prefix_end(&buffer, &mut end);
                        let mut scan = state.scan(STORE, &buffer, &end).expect("a read");
                        while let Some(entry) = scan.next_entry().expect("a read") {
                            black_box(entry);
                        }
                    }
                    next += keys;
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, access);
criterion_main!(benches);
