//! Decoding COPY BINARY into Arrow, one type at a time: framing and columns, without network and Parquet.
//!
//! Where the time goes: a flat field of fixed length costs its length word, a bounds check and one store, so the framing
//! is most of it; text is checked for UTF-8 once per batch; decimals multiply 128-bit numbers, and what has a text form
//! (unbounded numerics, `inet`, `timetz`) is printed digit by digit. Nested types are cut into the fields inside them
//! first, which costs one slice per part, and then take as long as their parts do. `tests/codec` asserts that allocations
//! do not grow with the rows.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot run should stop")]

mod wire_cases;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use racealpha::columnar::BatchBuilder;
use racealpha::schema::TableSchema;
use racealpha::wire::CopyDecoder;

use wire_cases::{COLUMNS, ROWS, cases, stream, table};

/// What the pull hands over at once.
const BLOCK_BYTES: usize = 128 << 10;

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
        let (bytes, table) = (stream(&field), table(&pg_type));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{name}_4col_100k")), |bencher| {
            bencher.iter(|| assert_eq!(decode(&bytes, &table), ROWS));
        });
    }
    group.finish();
}

criterion_group!(benches, copy_decode);
criterion_main!(benches);
