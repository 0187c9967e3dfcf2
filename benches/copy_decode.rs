//! Decoding COPY BINARY into Arrow: framing and columns, without network and Parquet.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot run should stop")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use racealpha::columnar::BatchBuilder;
use racealpha::schema::{ColumnSchema, PgType, TableName, TableSchema};
use racealpha::wire::{COPY_HEADER, COPY_TRAILER, CopyDecoder};

const ROWS: usize = 100_000;
const COLUMNS: usize = 4;
/// What the pull hands over at once.
const BLOCK_BYTES: usize = 128 << 10;

/// A column type and one field of it, as the server sends it.
fn cases() -> Vec<(&'static str, PgType, Vec<u8>)> {
    let numeric = [0, 2, 0, 1, 0, 0, 0, 3, 0x09, 0x29, 0x1A, 0x7C];
    vec![
        ("int8", PgType::Int8, 918_273_i64.to_be_bytes().to_vec()),
        ("float8", PgType::Float8, 58.5_f64.to_be_bytes().to_vec()),
        ("text", PgType::Text, b"shes-a-hustler".to_vec()),
        ("numeric_text", PgType::NumericUnbounded, numeric.to_vec()),
        ("numeric_decimal", PgType::Numeric { precision: 12, scale: 3 }, numeric.to_vec()),
        ("timestamptz", PgType::TimestampTz, 772_000_000_000_000_i64.to_be_bytes().to_vec()),
    ]
}

fn stream(field: &[u8]) -> Vec<u8> {
    let mut bytes = COPY_HEADER.to_vec();
    for _ in 0..ROWS {
        bytes.extend(i16::try_from(COLUMNS).expect("few columns").to_be_bytes());
        for _ in 0..COLUMNS {
            bytes.extend(i32::try_from(field.len()).expect("a short field").to_be_bytes());
            bytes.extend(field);
        }
    }
    bytes.extend(COPY_TRAILER);
    bytes
}

fn table(pg_type: PgType) -> TableSchema {
    let column = |index: usize| ColumnSchema {
        name: format!("c{index}"),
        type_name: String::new(),
        type_oid: 0,
        typmod: -1,
        pg_type,
        not_null: false,
    };
    TableSchema { table: TableName::new("public", "t"), columns: (0..COLUMNS).map(column).collect() }
}

fn decode(bytes: &[u8], table: &TableSchema) -> usize {
    let (mut decoder, mut builder, mut rows) = (CopyDecoder::new(COLUMNS), BatchBuilder::new(table), 0);
    for piece in bytes.chunks(BLOCK_BYTES) {
        decoder.push(piece).expect("our own stream");
        builder.append(decoder.block(), decoder.block_bytes()).expect("good values");
        decoder.clear_block();
        rows += builder.finish().expect("a batch").num_rows();
    }
    rows
}

fn copy_decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("copy_decode");
    for (name, pg_type, field) in cases() {
        let (bytes, table) = (stream(&field), table(pg_type));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{name}_4col_100k")), |bencher| {
            bencher.iter(|| assert_eq!(decode(&bytes, &table), ROWS));
        });
    }
    group.finish();
}

criterion_group!(benches, copy_decode);
criterion_main!(benches);
