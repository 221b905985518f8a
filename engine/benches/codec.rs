//! What a record costs from JSON to columns and back, by batch size.

#![expect(clippy::expect_used, reason = "a benchmark that cannot run has nothing to say")]

use std::hint::black_box;

use arrow::datatypes::DataType;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream_engine::codec::layout::{FieldLayout, Format, SinkLayout, SourceLayout};
use millstream_engine::codec::{SinkEncoder, SourceDecoder};
use millstream_engine::record::Record;
use millstream_operators::schema::{Kind, Schema, TIMESTAMP, column};

fn layout() -> SourceLayout {
    let fields = |columns: &[(&str, DataType)]| -> Vec<FieldLayout> {
        columns.iter().map(|(name, data_type)| FieldLayout::of_column(name, data_type)).collect()
    };
    let key = fields(&[("card", DataType::Utf8)]);
    let value = fields(&[
        ("amount", DataType::Float64),
        ("merchant", DataType::Utf8),
        ("country", DataType::Utf8),
        ("count", DataType::Int64),
        ("at", TIMESTAMP),
    ]);
    let columns =
        |fields: &[FieldLayout]| fields.iter().map(|f| column(&f.name, f.data_type.clone())).collect();
    SourceLayout {
        schema: Schema::new(Kind::Stream, columns(&key), columns(&value)),
        key,
        key_format: Format::String,
        value,
        value_format: Format::Json,
        headers: Vec::new(),
        metadata: Vec::new(),
        time: Some(5),
    }
}

fn record(index: i64) -> Record {
    let value = format!(
        r#"{{"amount":{}.{:02},"merchant":"merchant-{}","country":"DE","count":{},"at":"2026-01-01T{:02}:15:30.250Z"}}"#,
        index % 900 + 100,
        index % 89 + 11,
        index % 9_000 + 1_000,
        index % 900 + 100,
        index % 24,
    );
    let key = format!("card-{:06}", index % 100_000);
    Record {
        key: Some(key.into()),
        value: Some(value.into()),
        timestamp: index,
        headers: Vec::new(),
        offset: index,
    }
}

fn codec(criterion: &mut Criterion) {
    let layout = layout();
    let records: Vec<Record> = (0..1_024).map(record).collect();
    let mut decoder = SourceDecoder::new(&layout, "payments").expect("column types");
    let mut encoder = SinkEncoder::new(&SinkLayout {
        schema: layout.schema.clone(),
        key: layout.key.clone(),
        key_format: layout.key_format,
        value: layout.value.clone(),
        value_format: layout.value_format,
        headers: Vec::new(),
        time: None,
    });
    for count in [1, 64, 1_024] {
        let records = records.get(..count).unwrap_or_default();
        let mut group = criterion.benchmark_group("json");
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("decode", count), records, |bench, records| {
            bench.iter(|| decoder.decode(black_box(records), 0).expect("columns"));
        });
        let rows = decoder.decode(records, 0).expect("columns").columns;
        assert_eq!(rows.num_rows(), count);
        group.bench_with_input(BenchmarkId::new("encode", count), &rows, |bench, rows| {
            bench.iter(|| encoder.encode(black_box(rows), |_| false).expect("columns").len());
        });
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
