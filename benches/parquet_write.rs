//! Writing record batches into the lake: encoding and the local store.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot run should stop")]

use std::sync::Arc;

use arrow::array::{Date32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use racealpha::lake::{FileEncoding, Lake, TableLayout, TableWriter, Version};
use tokio::runtime::Runtime;

const ROWS: i64 = 16_384;
const BATCHES: i64 = 8;

/// A key, a name that repeats, a date, a number that hardly does.
fn batch(first: i64) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("horse_slug", DataType::Utf8, true),
        Field::new("race_date", DataType::Date32, true),
        Field::new("win_odds", DataType::Float64, true),
    ]));
    let ids = first..first + ROWS;
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(StringArray::from_iter_values(ids.clone().map(|id| format!("horse-number-{}", id * 7919 % 13_007)))),
        Arc::new(Date32Array::from_iter_values(ids.clone().map(|id| i32::try_from(id / 90).expect("a small id")))),
        Arc::new(Float64Array::from_iter_values(
            ids.map(|id| f64::from(i32::try_from(id * 31 % 9973).expect("small")) / 7.0),
        )),
    ];
    RecordBatch::try_new(schema, columns).expect("columns of equal length")
}

fn parquet_write(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let batches: Vec<RecordBatch> = (0..BATCHES).map(|index| batch(index * ROWS)).collect();
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    let mut group = criterion.benchmark_group("parquet_write");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(20);
    for (name, partition_by) in [("mixed_4col_131k", vec![]), ("mixed_4col_131k_by_year", vec!["year(race_date)"])] {
        let partition_by: Vec<_> = partition_by.iter().map(|text| text.parse().expect("a transform")).collect();
        let start = || {
            let folder = tempfile::tempdir().expect("a folder");
            let lake = Lake::open(&folder.path().display().to_string()).expect("a lake");
            let layout = TableLayout {
                table: "t".to_owned(),
                version: Version(1),
                run_id: "bench".to_owned(),
                key: vec!["id".to_owned()],
                partition_by: partition_by.clone(),
                encoding: FileEncoding::default(),
            };
            let writer = TableWriter::new(&lake, runtime.handle().clone(), layout, batches[0].schema(), 0);
            (folder, writer.expect("a writer"))
        };
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                start,
                |(folder, mut writer)| {
                    for batch in &batches {
                        writer.write(batch.clone()).expect("space on the disk");
                    }
                    let files = writer.finish(false).expect("space on the disk");
                    let rows: u64 = files.iter().map(|file| file.rows).sum();
                    assert_eq!(rows, ROWS.unsigned_abs() * BATCHES.unsigned_abs());
                    folder
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, parquet_write);
criterion_main!(benches);
