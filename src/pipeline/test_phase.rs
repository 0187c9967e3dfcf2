//! One phase and what it needs on a sample, published nowhere.

use std::collections::BTreeSet;
use std::time::Instant;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use serde::Serialize;
use tokio::runtime::Handle;

use super::transform::prepare_session;
use super::{Context, PipelineError};
use crate::pg::quote_ident;
use crate::transform::{Engine, Phase, PhaseReport, Sample, create_views, run_phases, select_phases};

/// What testing a phase found.
#[derive(Debug, Clone, Serialize)]
pub struct TestReport {
    /// The phases that ran, the tested one last.
    pub phases: Vec<PhaseReport>,
    /// The tables of the tested phase.
    pub tables: Vec<TestedTable>,
    /// Values of the first key column that were sampled.
    pub sample: u64,
    /// How long it took.
    pub seconds: f64,
}

/// A table of the tested phase.
#[derive(Debug, Clone, Serialize)]
pub struct TestedTable {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its new columns: those that no earlier phase's table has which this phase reads.
    pub columns: Vec<ColumnNulls>,
}

/// How much of a column is null.
#[derive(Debug, Clone, Serialize)]
pub struct ColumnNulls {
    /// The column.
    pub name: String,
    /// Its DuckDB type.
    pub data_type: String,
    /// Rows without a value.
    pub nulls: u64,
}

/// Runs a phase, and those whose tables it needs, on `sample` values of the dataset's first key column.
///
/// # Errors
/// [`PipelineError::Transform`] when the phase is unknown or fails.
pub async fn test_phase(context: &Context, number: &str, sample: u64) -> Result<TestReport, PipelineError> {
    let started = Instant::now();
    let lake = context.lake()?;
    let manifest = lake.require_latest().await?;
    let phases = context.phases()?;
    let (context, number, runtime) = (context.clone(), number.to_owned(), Handle::current());
    let run = move || -> Result<TestReport, PipelineError> {
        let asked = select_phases(&phases, Some(&number), Some(&number))?[0];
        let needed = needed_for(asked, &select_phases(&phases, None, None)?);
        let engine = Engine::open(None, &context.engine_limits(&lake), context.cancel.clone())?;
        let _watch = engine.watch_cancel(&runtime);
        let column = context.pipeline.dataset.key[0].clone();
        let holder = context.pipeline.tables.iter().find(|table| table.key == [column.clone()]);
        let sampled = holder.map(|table| Sample { table: table.name.clone(), column, count: sample });
        let names = context.pipeline.tables.iter().map(|table| table.name.as_str());
        create_views(&engine, &lake, &manifest, names, sampled.as_ref())?;
        prepare_session(&engine, &phases, &manifest, false)?;
        let reports = run_phases(&engine, &needed, &context.progress)?;
        // What a phase makes of the sources is new, under whatever name.
        let mut known = BTreeSet::new();
        for table in asked.reads.iter().filter(|table| phases.writer_of(table).is_some()) {
            known.extend(engine.columns(table)?.into_iter().map(|(name, _)| name));
        }
        let tables = asked.writes.iter().map(|table| tested_table(&engine, table, &known)).collect::<Result<_, _>>()?;
        Ok(TestReport { phases: reports, tables, sample, seconds: started.elapsed().as_secs_f64() })
    };
    tokio::task::spawn_blocking(run).await?
}

/// The phase itself and, before it, those that write what it or they read.
fn needed_for<'a>(phase: &'a Phase, all: &[&'a Phase]) -> Vec<&'a Phase> {
    let mut reads: Vec<&String> = phase.reads.iter().collect();
    let before = all.iter().position(|other| other.name == phase.name).unwrap_or(0);
    let mut needed = vec![phase];
    for other in all[..before].iter().rev() {
        if other.writes.iter().any(|table| reads.contains(&table)) {
            reads.extend(&other.reads);
            needed.insert(0, other);
        }
    }
    needed
}

/// The rows of a table and the nulls of its columns, but for those that are `known` from earlier phases.
fn tested_table(engine: &Engine, name: &str, known: &BTreeSet<String>) -> Result<TestedTable, PipelineError> {
    let columns: Vec<_> = engine.columns(name)?.into_iter().filter(|(column, _)| !known.contains(column)).collect();
    let nulls = columns.iter().map(|(column, _)| format!("count(*) - count({})", quote_ident(column)));
    let counts: Vec<String> = std::iter::once("count(*)".to_owned()).chain(nulls).collect();
    let sql = format!("SELECT {} FROM {}", counts.join(", "), quote_ident(name));
    let (_, batches) = engine.query(&sql)?;
    let value = |index: usize| {
        let column = batches.first().map(|batch| batch.column(index).as_primitive::<Int64Type>().value(0));
        column.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
    };
    let nulls = columns.into_iter().enumerate().map(|(index, (name, data_type))| ColumnNulls {
        name,
        data_type,
        nulls: value(index + 1),
    });
    Ok(TestedTable { name: name.to_owned(), rows: value(0), columns: nulls.collect() })
}
