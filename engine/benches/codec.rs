//! What a record costs from its bytes to columns and back, by format and batch size.

#![expect(clippy::expect_used, reason = "a benchmark that cannot run has nothing to say")]

use std::hint::black_box;
use std::sync::Arc;

use arrow::datatypes::DataType;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream_engine::codec::layout::{FieldLayout, Format, SinkLayout, SourceLayout};
use millstream_engine::codec::schemas::SchemaFormat;
use millstream_engine::codec::{SinkEncoder, SourceDecoder};
use millstream_engine::record::Record;
use millstream_engine::schema_registry::SchemaKind;
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

fn sink(layout: &SourceLayout) -> SinkLayout {
    SinkLayout {
        schema: layout.schema.clone(),
        key: layout.key.clone(),
        key_format: layout.key_format.clone(),
        value: layout.value.clone(),
        value_format: layout.value_format.clone(),
        headers: Vec::new(),
        time: None,
    }
}

/// The layout in another format, and the records in it.
fn converted(kind: SchemaKind, layout: &SourceLayout, records: &[Record]) -> (SourceLayout, Vec<Record>) {
    let format = SchemaFormat {
        kind,
        subject: "payments-value".to_owned(),
        name: "payments".to_owned(),
        given: None,
        message: None,
        framed: true,
        registry: Arc::default(),
    };
    let other = SourceLayout { value_format: Format::Schema(Arc::new(format)), ..layout.clone() };
    let rows = SourceDecoder::new(layout, "payments").expect("column types").decode(records, 0);
    let mut encoder = SinkEncoder::new(&sink(&other));
    let encoded = encoder.encode(&rows.expect("columns").columns, |_| false).expect("columns");
    let values = encoded.iter().map(|row| row.expect("a row").value.map(<[u8]>::to_vec));
    let records = records.iter().zip(values).map(|(record, value)| Record { value, ..record.clone() });
    let records = records.collect();
    (other, records)
}

fn codec(criterion: &mut Criterion) {
    let json = layout();
    let records: Vec<Record> = (0..1_024).map(record).collect();
    let avro = converted(SchemaKind::Avro, &json, &records);
    let protobuf = converted(SchemaKind::Protobuf, &json, &records);
    for (name, (layout, records)) in [("json", (json, records)), ("avro", avro), ("protobuf", protobuf)] {
        let mut decoder = SourceDecoder::new(&layout, "payments").expect("column types");
        let mut encoder = SinkEncoder::new(&sink(&layout));
        for count in [1, 64, 1_024] {
            let records = records.get(..count).unwrap_or_default();
            let mut group = criterion.benchmark_group(name);
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
}

criterion_group!(benches, codec);
criterion_main!(benches);
