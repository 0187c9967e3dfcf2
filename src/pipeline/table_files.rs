//! A table or view of the engine to Parquet files of the lake, slice by slice.
//!
//! One `ORDER BY` over all rows would hold all of them at once. A table that is partitioned by year, month or day of a
//! column is read a year at a time instead: each slice is sorted on its own, and two are on their way at once, so that
//! sorting and encoding overlap.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, SchemaRef};
use tokio::runtime::Handle;

use super::PipelineError;
use crate::lake::{DataFile, Lake, PartitionTransform, TableLayout, TableWriter};
use crate::pg::quote_ident;
use crate::progress::{Progress, Step, Work};
use crate::transform::Engine;

/// Slices that are sorted and encoded at once.
const SLICES_AT_ONCE: usize = 2;
/// Rows of a slice at least, so that small tables are not read in crumbs: planning a query takes its time, too.
const SLICE_ROWS_MIN: u64 = 100_000;
/// Types whose years can be compared as dates, without a time zone.
const DATE_TYPES: [&str; 2] = ["DATE", "TIMESTAMP"];

/// Where a table goes.
pub(super) struct TableFiles<'a> {
    pub(super) lake: &'a Lake,
    pub(super) runtime: &'a Handle,
    pub(super) progress: &'a Progress,
    pub(super) layout: TableLayout,
    /// The order of rows in the files.
    pub(super) order_by: &'a [String],
}

/// What one writer made; no schema when it got no slice.
type Written = (Option<SchemaRef>, Vec<DataFile>);

impl TableFiles<'_> {
    /// Writes all rows of the table named as the layout's.
    pub(super) fn write(&self, engine: &Engine) -> Result<(SchemaRef, Vec<DataFile>), PipelineError> {
        let table = &self.layout.table;
        let (conditions, rows) = self.slices(engine)?;
        let work = self.progress.start(Step::Transform, format!("write {table}"), Some(rows));
        let slices = Mutex::new(VecDeque::from(conditions));
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
        let found: u64 = files.iter().map(|file| file.rows).sum();
        if found != rows {
            return Err(PipelineError::Blocked(format!(
                "table {table} gave {rows} rows at first and {found} when written"
            )));
        }
        if files.is_empty() {
            files = self.writer(&schema, 0)?.finish(true)?;
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        work.finish();
        Ok((schema, files))
    }

    /// Conditions that each row meets exactly one of, and the rows in all.
    fn slices(&self, engine: &Engine) -> Result<(Vec<String>, u64), PipelineError> {
        let table = quote_ident(&self.layout.table);
        let dated = self.layout.partition_by.first().and_then(|transform| match transform {
            PartitionTransform::Year(column) | PartitionTransform::Month(column) | PartitionTransform::Day(column) => {
                Some(column)
            }
            _ => None,
        });
        let columns = engine.columns(&self.layout.table)?;
        let dated = dated.filter(|dated| {
            columns.iter().any(|(name, data_type)| name == *dated && DATE_TYPES.contains(&data_type.as_str()))
        });
        let Some(column) = dated else {
            return Ok((vec!["true".to_owned()], engine.count(&format!("SELECT count(*) FROM {table}"))?));
        };
        let column = quote_ident(column);
        let (_, batches) = engine.query(&format!(
            "SELECT CAST(date_part('year', {column}) AS BIGINT) AS year, count(*) AS rows FROM {table} GROUP BY year ORDER BY year"
        ))?;
        // The years that slices begin with.
        let mut years: Vec<i64> = Vec::new();
        let (mut rows, mut in_slice) = (0, SLICE_ROWS_MIN);
        for batch in &batches {
            let year = batch.column(0).as_primitive::<Int64Type>();
            let count = batch.column(1).as_primitive::<Int64Type>();
            for (year, count) in year.iter().zip(count) {
                let count = count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
                rows += count;
                // Infinity has no year; it is in the last slice, which is open.
                let Some(year) = year else { continue };
                if in_slice >= SLICE_ROWS_MIN {
                    years.push(year);
                    in_slice = 0;
                }
                in_slice += count;
            }
        }
        // Dates as literals: only they rule out row groups of the tables below a view.
        let date = |year: &i64| format!("make_date({year}, 1, 1)");
        let from = |year: &i64| format!("{column} >= {}", date(year));
        let before = |year: &i64| format!("{column} < {}", date(year));
        let mut slices = vec![format!("{column} IS NULL")];
        slices.extend(match years.as_slice() {
            [] => vec![format!("{column} IS NOT NULL")],
            [first, ..] => {
                let between =
                    years.windows(2).skip(1).map(|pair| format!("{} AND {}", from(&pair[0]), before(&pair[1])));
                let ends = match years.get(1) {
                    None => vec![format!("{column} IS NOT NULL")],
                    Some(second) => vec![before(second), from(years.last().unwrap_or(first))],
                };
                between.chain(ends).collect()
            }
        });
        Ok((slices, rows))
    }

    fn writer(&self, schema: &SchemaRef, number: usize) -> Result<TableWriter, PipelineError> {
        Ok(TableWriter::new(self.lake, self.runtime.clone(), self.layout.clone(), Arc::clone(schema), number)?)
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
        let order = self.order_by.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
        let next = || slices.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let (mut writer, mut schema) = (None, None);
        while let Some(slice) = next() {
            let sql = format!("SELECT * FROM {} WHERE {slice} ORDER BY {order}", quote_ident(&self.layout.table));
            let written = engine.stream(&sql, |schema, batch| {
                let writer = match &mut writer {
                    Some(writer) => writer,
                    None => writer.insert(self.writer(schema, number)?),
                };
                work.add(batch.num_rows() as u64, batch.get_array_memory_size() as u64);
                writer.write(batch).map_err(PipelineError::from)
            });
            match written {
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
}
