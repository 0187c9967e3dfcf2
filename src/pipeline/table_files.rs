//! A table or view of the engine to Parquet files of the lake, slice by slice.
//!
//! DuckDB's `ORDER BY` moves every column of wide rows twice. A table that is partitioned by year, month or day of a
//! column is read some days at a time instead: a slice is sorted here by positions, and two are on their way at once, so
//! that reading, sorting and encoding overlap. A slice that turns out too large to be held, because its days have more
//! rows than was thought, is left to DuckDB, which can spill.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Date32Type, Int64Type, SchemaRef};
use tokio::runtime::Handle;

use super::PipelineError;
use crate::columnar::sort_batches;
use crate::config::EventConfig;
use crate::lake::{DataFile, Lake, PartitionTransform, TableLayout, TableWriter};
use crate::pg::quote_ident;
use crate::progress::{Progress, Step, Work};
use crate::transform::{DictionaryColumn, Engine, TransformError, describe_fields};

/// Slices that are sorted and encoded at once.
const SLICES_AT_ONCE: usize = 2;
/// Rows of a slice, about: as many days as have them. Few enough to hold in memory, many enough that planning a query
/// for each does not count.
const SLICE_ROWS: u64 = 200_000;
/// However little memory there is: to plan a query costs as much as to read so many rows.
const SLICE_ROWS_MIN: u64 = 20_000;
/// Bytes of a value in memory, about.
const VALUE_BYTES: u64 = 8;
/// Times the planned bytes that a slice may take: rows are counted by the day, and only about.
const SLICE_SLACK: u64 = 2;
/// Bytes of memory that writing takes at most.
const WRITING_BYTES_MAX: u64 = 2 << 30;
/// Types that can be compared with dates, without a time zone.
const DATE_TYPES: [&str; 2] = ["DATE", "TIMESTAMP"];

/// Where a table goes.
pub(super) struct TableFiles<'a> {
    pub(super) lake: &'a Lake,
    pub(super) runtime: &'a Handle,
    pub(super) progress: &'a Progress,
    pub(super) layout: TableLayout,
    /// The order of rows in the files.
    pub(super) order_by: &'a [String],
    /// Bytes of memory that a slice should take: see [`share_memory`].
    pub(super) slice_bytes_max: u64,
    /// What is known of its columns.
    pub(super) dictionary: &'a [DictionaryColumn],
    /// The table of events behind a view, whose dates tell how its rows are spread over time.
    pub(super) events: Option<&'a EventConfig>,
}

/// Why a slice cannot be sorted here.
enum NotHeld {
    /// It is too large to be held.
    TooLarge,
    Failed(TransformError),
}

impl From<TransformError> for NotHeld {
    fn from(error: TransformError) -> Self {
        Self::Failed(error)
    }
}

/// Takes a third of the engine's memory for writing. Gives the bytes that a slice should take: half of it is for the
/// slices, the other half for the rows being gathered and encoded.
pub(super) fn share_memory(engine: &Engine) -> Result<u64, TransformError> {
    let limit = engine.memory_limit()?;
    let writing = (limit / 3).min(WRITING_BYTES_MAX);
    engine.limit_memory(limit - writing)?;
    Ok(writing / 2 / SLICES_AT_ONCE as u64)
}

/// What one writer made; no schema when it got no slice.
type Written = (Option<SchemaRef>, Vec<DataFile>);

impl TableFiles<'_> {
    /// Writes all rows of the table named as the layout's.
    pub(super) fn write(&self, engine: &Engine) -> Result<(SchemaRef, Vec<DataFile>), PipelineError> {
        let table = &self.layout.table;
        let (slices, rows) = self.slices(engine)?;
        let work = self.progress.start(Step::Transform, format!("write {table}"), Some(rows));
        let slices = Mutex::new(VecDeque::from(slices));
        let engines = (0..SLICES_AT_ONCE).map(|_| engine.another()).collect::<Result<Vec<_>, _>>()?;
        let written = thread::scope(|scope| {
            let writers: Vec<_> = engines
                .into_iter()
                .enumerate()
                .map(|(number, engine)| {
                    let (slices, work) = (&slices, &work);
                    scope.spawn(move || self.write_slices(&engine, number, slices, work))
                })
                .collect();
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<Written>, PipelineError>>()
        })?;
        let mut schema = None;
        let mut files = Vec::new();
        for (of_writer, its_files) in written {
            schema = schema.or(of_writer);
            files.extend(its_files);
        }
        let schema = schema.expect("there is at least one slice, and each has a schema");
        let schema = describe_fields(&schema, self.dictionary);
        if files.is_empty() {
            files = self.writer(&schema, 0)?.finish(true)?;
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        work.expect_rows(files.iter().map(|file| file.rows).sum());
        work.finish();
        Ok((schema, files))
    }

    /// Conditions of which each row meets exactly one, and about how many rows there are in all.
    fn slices(&self, engine: &Engine) -> Result<(Vec<String>, u64), PipelineError> {
        let table = &self.layout.table;
        let dated = self.layout.partition_by.first().and_then(|transform| match transform {
            PartitionTransform::Year(column) | PartitionTransform::Month(column) | PartitionTransform::Day(column) => {
                Some(column)
            }
            _ => None,
        });
        let columns = engine.columns(table)?;
        let dated = dated.filter(|dated| {
            columns.iter().any(|(name, data_type)| name == *dated && DATE_TYPES.contains(&data_type.as_str()))
        });
        let Some(column) = dated else {
            let rows = engine.count(&format!("SELECT count(*) FROM {}", quote_ident(table)))?;
            return Ok((vec!["true".to_owned()], rows));
        };
        let is_view = engine.is_view(table)?;
        // To count the rows of a view is half the work of reading them. Those of its events stand for them.
        let events = self.events.filter(|_| is_view);
        let days = match events {
            Some(events) => days(engine, &events.table, &events.date)?,
            None => days(engine, table, column)?,
        };
        let counted: u64 = days.iter().map(|(_, rows)| rows).sum();
        let rows = match events {
            Some(_) => engine.count("SELECT max(estimated_size) FROM duckdb_tables()")?,
            None => counted,
        };
        let held_rows = self.slice_bytes_max / VALUE_BYTES / columns.len().max(1) as u64;
        let in_slice_min = held_rows.clamp(SLICE_ROWS_MIN, SLICE_ROWS).saturating_mul(counted) / rows.max(1);
        // The days that slices begin with, but for the first.
        let mut begins: Vec<i32> = Vec::new();
        let mut in_slice = 0;
        for (day, rows) in days {
            if in_slice > in_slice_min {
                begins.push(day);
                in_slice = 0;
            }
            in_slice += rows;
        }
        // Dates as literals: only they rule out row groups of the tables below a view.
        let column = quote_ident(column);
        let from = |day: &i32| format!("{column} >= make_date({day})");
        let before = |day: &i32| format!("{column} < make_date({day})");
        let mut conditions = vec![format!("{column} IS NULL")];
        match (begins.first(), begins.last()) {
            (Some(first), Some(last)) => {
                conditions.push(before(first));
                conditions.extend(begins.windows(2).map(|pair| format!("{} AND {}", from(&pair[0]), before(&pair[1]))));
                conditions.push(from(last));
            }
            _ => conditions.push(format!("{column} IS NOT NULL")),
        }
        Ok((conditions, rows))
    }

    fn writer(&self, schema: &SchemaRef, number: usize) -> Result<TableWriter, PipelineError> {
        let schema = describe_fields(schema, self.dictionary);
        Ok(TableWriter::new(self.lake, self.runtime.clone(), self.layout.clone(), schema, number)?)
    }

    /// Writes slices until none is left; a failure leaves none for the others.
    fn write_slices(
        &self,
        engine: &Engine,
        number: usize,
        slices: &Mutex<VecDeque<String>>,
        work: &Work,
    ) -> Result<Written, PipelineError> {
        let _watch = engine.watch_cancel(self.runtime);
        let next = || slices.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let (mut writer, mut schema) = (None, None);
        while let Some(slice) = next() {
            match self.write_slice(engine, number, &slice, &mut writer, work) {
                Ok(found) => schema = Some(found),
                Err(error) => {
                    slices.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    return Err(error);
                }
            }
        }
        let files = writer.map(|writer| writer.finish(false)).transpose()?;
        Ok((schema, files.unwrap_or_default()))
    }

    /// Reads, sorts and encodes the rows that meet a condition.
    fn write_slice(
        &self,
        engine: &Engine,
        number: usize,
        condition: &str,
        writer: &mut Option<TableWriter>,
        work: &Work,
    ) -> Result<SchemaRef, PipelineError> {
        let mut write = |schema: &SchemaRef, batch: RecordBatch| {
            work.add(batch.num_rows() as u64, batch.get_array_memory_size() as u64);
            let writer = match writer {
                Some(writer) => writer,
                None => writer.insert(self.writer(schema, number)?),
            };
            writer.write(batch).map_err(PipelineError::from)
        };
        let sql = format!("SELECT * FROM {} WHERE {condition}", quote_ident(&self.layout.table));
        match hold(engine, &sql, self.slice_bytes_max.saturating_mul(SLICE_SLACK)) {
            Ok((schema, batches)) => {
                let failed = |source| TransformError::Query(format!("cannot sort {}: {source}", self.layout.table));
                for batch in sort_batches(batches, self.order_by).map_err(failed)? {
                    write(&schema, batch.map_err(failed)?)?;
                }
                Ok(schema)
            }
            Err(NotHeld::TooLarge) => {
                let order = self.order_by.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
                engine.stream(&format!("{sql} ORDER BY {order}"), write)
            }
            Err(NotHeld::Failed(error)) => Err(error.into()),
        }
    }
}

/// All rows of a query, as long as they have no more bytes.
fn hold(engine: &Engine, sql: &str, bytes_max: u64) -> Result<(SchemaRef, Vec<RecordBatch>), NotHeld> {
    let (mut batches, mut bytes) = (Vec::new(), 0);
    let schema = engine.stream(sql, |_, batch| {
        bytes += batch.get_array_memory_size() as u64;
        if bytes > bytes_max {
            return Err(NotHeld::TooLarge);
        }
        batches.push(batch);
        Ok(())
    })?;
    Ok((schema, batches))
}

/// The rows of a table per day, in order of the days since 1970-01-01. Rows without a finite date are left out.
fn days(engine: &Engine, table: &str, column: &str) -> Result<Vec<(i32, u64)>, PipelineError> {
    let (table, column) = (quote_ident(table), quote_ident(column));
    let (_, batches) = engine.query(&format!(
        "SELECT CAST({column} AS DATE) AS day, count(*) AS rows FROM {table} WHERE isfinite({column}) GROUP BY day ORDER BY day"
    ))?;
    let mut days = Vec::new();
    for batch in &batches {
        let day = batch.column(0).as_primitive::<Date32Type>().values();
        let rows = batch.column(1).as_primitive::<Int64Type>().values();
        days.extend(day.iter().copied().zip(rows.iter().map(|rows| u64::try_from(*rows).unwrap_or(0))));
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use futures::{StreamExt, TryStreamExt};
    use tokio::runtime::Runtime;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::lake::{Version, read_file};
    use crate::transform::EngineLimits;

    /// The names in each file after rows of two years were written.
    fn written(slice_bytes_max: u64) -> Vec<Vec<String>> {
        let runtime = Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open(&folder.path().display().to_string()).unwrap();
        let engine = Engine::open(None, &EngineLimits::default(), CancellationToken::new()).unwrap();
        engine
            .execute(
                "CREATE TABLE t AS SELECT * FROM (VALUES (DATE '2021-03-01', 'c'), (DATE '2020-05-02', 'b'), (NULL, 'z'), \
                 (DATE '2021-02-01', 'd'), (DATE 'infinity', 'e'), (DATE '2020-05-02', 'a')) AS rows (day, name)",
            )
            .unwrap();
        let files = TableFiles {
            lake: &lake,
            runtime: runtime.handle(),
            progress: &Progress::new(),
            layout: TableLayout {
                table: "t".to_owned(),
                version: Version(1),
                run_id: "run".to_owned(),
                key: vec!["name".to_owned()],
                partition_by: vec!["year(day)".parse().unwrap()],
                encoding: crate::lake::FileEncoding::default(),
            },
            order_by: &["day".to_owned(), "name".to_owned()],
            slice_bytes_max,
            dictionary: &[],
            events: None,
        };
        let (_, files) = files.write(&engine).unwrap();
        let names = |file: &DataFile| {
            let batches = runtime.block_on(async {
                read_file(&lake, file).await.unwrap().boxed().try_collect::<Vec<RecordBatch>>().await.unwrap()
            });
            let of_batch = |batch: &RecordBatch| {
                batch.column(1).as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>()
            };
            batches.iter().flat_map(of_batch).collect::<Vec<_>>()
        };
        files.iter().map(names).collect()
    }

    #[test]
    fn rows_are_in_their_order_whoever_sorts_them() {
        for (slice_bytes_max, who) in [(u64::MAX, "here"), (0, "by DuckDB")] {
            let files = written(slice_bytes_max);
            assert!(files.contains(&vec!["a".to_owned(), "b".to_owned()]), "sorted {who}: {files:?}");
            assert!(files.contains(&vec!["d".to_owned(), "c".to_owned()]), "sorted {who}: {files:?}");
            // Without a year, so in files of their own, one or two as the writers took them.
            let mut names = files.concat();
            names.sort_unstable();
            assert_eq!(names, ["a", "b", "c", "d", "e", "z"], "sorted {who}");
        }
    }
}
