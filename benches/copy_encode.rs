//! How fast record batches become COPY BINARY tuples, in bytes sent per second.
//!
//! Names are the measurement: what a row consists of, and the rows per iteration. `copy_encode_type` encodes what the
//! decoder makes of one field of every type.
//!
//! Where the time goes: fields of fixed length are written straight into their places, two passes over each column;
//! text is copied; numerics are divided into base-10000 digits; what has another text form is parsed. Nested values are
//! encoded part by part and copied into their rows.

mod wire_cases;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use racealpha::columnar::{BatchBuilder, RowEncoder};
use racealpha::schema::{ColumnSchema, PgType};
use racealpha::wire::{COPY_HEADER, COPY_TRAILER, CopyDecoder};

const ROWS: usize = 100_000;

fn target(name: &str, pg_type: PgType, type_oid: u32, typmod: i32) -> ColumnSchema {
    ColumnSchema { name: name.to_owned(), type_name: String::new(), type_oid, typmod, pg_type, not_null: false }
}

fn int8_columns(count: usize, nulls: bool) -> (RecordBatch, Vec<ColumnSchema>) {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut column = || -> ArrayRef {
        let values = (0..ROWS).map(|_| Some(random.random::<i64>()).filter(|value| !nulls || value % 5 != 0));
        Arc::new(values.collect::<Int64Array>())
    };
    let columns: Vec<(String, ArrayRef, bool)> =
        (0..count).map(|index| (format!("c{index}"), column(), true)).collect();
    let targets = columns.iter().map(|(name, ..)| target(name, PgType::Int8, 20, -1)).collect();
    (RecordBatch::try_from_iter_with_nullable(columns).expect("equal lengths"), targets)
}

fn text_columns() -> (RecordBatch, Vec<ColumnSchema>) {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut column = || -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..ROWS).map(|_| "x".repeat(random.random_range(0..40)))))
    };
    let columns: Vec<(String, ArrayRef)> = (0..4).map(|index| (format!("c{index}"), column())).collect();
    let targets = columns.iter().map(|(name, _)| target(name, PgType::Text, 25, -1)).collect();
    (RecordBatch::try_from_iter(columns).expect("equal lengths"), targets)
}

fn numeric_columns() -> (RecordBatch, Vec<ColumnSchema>) {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut column = || -> ArrayRef {
        let values = (0..ROWS).map(|_| random.random_range(-9_999_999_999_i128..9_999_999_999));
        Arc::new(Decimal128Array::from_iter_values(values).with_precision_and_scale(12, 2).expect("a legal scale"))
    };
    let columns: Vec<(String, ArrayRef)> = (0..4).map(|index| (format!("c{index}"), column())).collect();
    let numeric = PgType::Numeric { precision: 12, scale: 2 };
    let targets = columns.iter().map(|(name, _)| target(name, numeric.clone(), 1700, (12 << 16 | 2) + 4)).collect();
    (RecordBatch::try_from_iter(columns).expect("equal lengths"), targets)
}

/// The shape of a training table: keys and names, a date and a time, many numbers with nulls.
fn mixed_columns() -> (RecordBatch, Vec<ColumnSchema>) {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut columns: Vec<(String, ArrayRef, bool)> = Vec::new();
    let mut targets = Vec::new();
    let mut add = |pg_type, oid, array: ArrayRef| {
        let name = format!("c{}", columns.len());
        targets.push(target(&name, pg_type, oid, -1));
        columns.push((name, array, true));
    };
    let ids = (0..ROWS).map(|row| format!("rw-20240316-{:06}", row / 10));
    add(PgType::Text, 25, Arc::new(StringArray::from_iter_values(ids)));
    let slugs = (0..ROWS).map(|row| format!("some-horse-{row}"));
    add(PgType::Text, 25, Arc::new(StringArray::from_iter_values(slugs)));
    add(
        PgType::Date,
        1082,
        Arc::new(Date32Array::from_iter_values((0..ROWS).map(|_| random.random_range(10_000..20_000)))),
    );
    let times = (0..ROWS).map(|_| random.random_range(0..1_700_000_000_000_000));
    add(PgType::Timestamp, 1114, Arc::new(TimestampMicrosecondArray::from_iter_values(times)));
    for _ in 0..30 {
        let values = (0..ROWS).map(|_| random.random_bool(0.8).then(|| random.random::<f64>()));
        add(PgType::Float8, 701, Arc::new(values.collect::<Float64Array>()));
        let values = (0..ROWS).map(|_| random.random_bool(0.8).then(|| random.random_range(0..100)));
        add(PgType::Int4, 23, Arc::new(values.collect::<Int32Array>()));
    }
    (RecordBatch::try_from_iter_with_nullable(columns).expect("equal lengths"), targets)
}

fn copy_encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("copy_encode");
    group.sample_size(20);
    let cases = [
        ("int8_4col_100k", int8_columns(4, false)),
        ("int8_4col_nulls_100k", int8_columns(4, true)),
        ("text_4col_100k", text_columns()),
        ("numeric_4col_100k", numeric_columns()),
        ("mixed_64col_100k", mixed_columns()),
    ];
    for (name, (batch, targets)) in cases {
        // Batches as a dataset's reader gives them.
        let batches: Vec<RecordBatch> =
            (0..ROWS).step_by(4096).map(|at| batch.slice(at, 4096.min(ROWS - at))).collect();
        let mut out = BytesMut::new();
        let mut encode = || {
            let mut encoder = RowEncoder::new(&batch.schema(), &targets).expect("pairs that go together");
            let mut bytes = 0;
            for batch in &batches {
                out.clear();
                encoder.encode(batch, &mut out).expect("values that fit");
                bytes += out.len();
            }
            assert_eq!(encoder.rows(), ROWS as u64);
            bytes
        };
        let bytes = encode();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(&mut encode));
    }
    group.finish();
}

/// One type at a time, through the decoder and back.
fn copy_encode_type(c: &mut Criterion) {
    let mut group = c.benchmark_group("copy_encode_type");
    group.sample_size(20);
    for (name, pg_type, field) in wire_cases::cases() {
        let (bytes, table) = (wire_cases::stream(&field), wire_cases::table(&pg_type));
        let mut decoder = CopyDecoder::new(wire_cases::COLUMNS);
        let mut builder = BatchBuilder::new(&table);
        decoder.push(&bytes).expect("our own stream");
        builder.append(decoder.block(), decoder.block_bytes()).expect("good values");
        let batch = builder.finish().expect("a batch");
        let mut encoder = RowEncoder::new(&batch.schema(), &table.columns).expect("a pair");
        let mut out = BytesMut::new();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{name}_4col_100k")), |bencher| {
            bencher.iter(|| {
                out.clear();
                encoder.encode(&batch, &mut out).expect("values that fit");
                assert_eq!(out.len() + COPY_HEADER.len() + COPY_TRAILER.len(), bytes.len());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, copy_encode, copy_encode_type);
criterion_main!(benches);
