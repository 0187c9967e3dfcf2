//! A table or view of the engine to Parquet files of the lake, slice by slice.
//!
//! One `ORDER BY` over all rows would hold all of them at once, and DuckDB's moves every column of wide rows twice. A
//! table that is partitioned by year, month or day of a column is read some days at a time instead: a slice is sorted
//! here by positions, and two are on their way at once, so that reading, sorting and encoding overlap.

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
    /// What is known of its columns.
    pub(super) dictionary: &'a [DictionaryColumn],
    /// The table of events behind a view, whose dates tell how its rows are spread over time.
    pub(super) events: Option<&'a EventConfig>,
}

/// A part of the table that is read by one query.
enum Slice {
    /// All of it, sorted by DuckDB, which can spill.
    Whole,
    /// The rows that meet a condition on the date.
    Days(String),
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

    /// Slices that have each row exactly once together, and about how many rows there are in all.
    fn slices(&self, engine: &Engine) -> Result<(Vec<Slice>, u64), PipelineError> {
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
            return Ok((vec![Slice::Whole], rows));
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
        let in_slice_min = SLICE_ROWS.saturating_mul(counted) / rows.max(1);
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
        Ok((conditions.into_iter().map(Slice::Days).collect(), rows))
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
        slices: &Mutex<VecDeque<Slice>>,
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

    /// Reads, sorts and encodes one slice.
    fn write_slice(
        &self,
        engine: &Engine,
        number: usize,
        slice: &Slice,
        writer: &mut Option<TableWriter>,
        work: &Work,
    ) -> Result<SchemaRef, PipelineError> {
        let table = quote_ident(&self.layout.table);
        let mut write = |schema: &SchemaRef, batch: RecordBatch| {
            work.add(batch.num_rows() as u64, batch.get_array_memory_size() as u64);
            let writer = match writer {
                Some(writer) => writer,
                None => writer.insert(self.writer(schema, number)?),
            };
            writer.write(batch).map_err(PipelineError::from)
        };
        match slice {
            Slice::Days(condition) => {
                let (schema, batches) = engine.query(&format!("SELECT * FROM {table} WHERE {condition}"))?;
                for batch in sort_batches(batches, self.order_by)
                    .map_err(|source| TransformError::Query(format!("cannot sort {}: {source}", self.layout.table)))?
                {
                    write(&schema, batch)?;
                }
                Ok(schema)
            }
            Slice::Whole => {
                let order = self.order_by.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
                engine.stream(&format!("SELECT * FROM {table} ORDER BY {order}"), write)
            }
        }
    }
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
