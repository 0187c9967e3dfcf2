//! Running phases: order, statements, what they wrote.

use std::io::Write;
use std::time::Instant;

use serde::Serialize;

use super::statements::statements;
use super::{Engine, Phase, PhaseSet, TransformError};
use crate::pg::{quote_ident, quote_literal};
use crate::progress::{Progress, Step};

/// What one phase did.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseReport {
    /// The phase.
    pub phase: String,
    /// How long it took.
    pub seconds: f64,
    /// The tables it wrote.
    pub tables: Vec<WrittenTable>,
}

/// A table that a phase wrote.
#[derive(Debug, Clone, Serialize)]
pub struct WrittenTable {
    /// Its name.
    pub name: String,
    /// Its rows; none of a view, which has them only when it is read.
    pub rows: Option<u64>,
}

/// The phases from one to another in run order, those only for Postgres left out.
///
/// # Errors
/// [`TransformError::NoPhase`] when a number or name means none.
pub fn select_phases<'a>(
    set: &'a PhaseSet,
    from: Option<&str>,
    to: Option<&str>,
) -> Result<Vec<&'a Phase>, TransformError> {
    let lake: Vec<&Phase> = set.phases.iter().filter(|phase| phase.in_lake).collect();
    let find = |asked: &str| {
        let number = asked.trim_start_matches('0');
        lake.iter().position(|phase| phase.number() == number || phase.name == asked).ok_or_else(|| {
            let known: Vec<&str> = lake.iter().map(|phase| phase.name.as_str()).collect();
            TransformError::NoPhase { asked: asked.to_owned(), known: known.join(", ") }
        })
    };
    let from = from.map(find).transpose()?.unwrap_or(0);
    let to = to.map(find).transpose()?.unwrap_or(lake.len() - 1);
    Ok(lake.into_iter().take(to + 1).skip(from).collect())
}

/// Loads the pipeline's small CSV files as tables of text columns, and runs the prelude.
///
/// # Errors
/// [`TransformError::Statement`], [`TransformError::Query`].
pub fn load_data_tables(engine: &Engine, set: &PhaseSet) -> Result<(), TransformError> {
    run_statements(engine, "prelude.sql", &set.prelude)?;
    for (name, csv) in &set.data {
        let failed = |error: std::io::Error| TransformError::Query(format!("cannot stage data/{name}.csv: {error}"));
        let mut file = tempfile::NamedTempFile::with_suffix(".csv").map_err(failed)?;
        file.write_all(csv).map_err(failed)?;
        engine.execute(&format!(
            "CREATE OR REPLACE TABLE {} AS SELECT * FROM read_csv({}, header = true, all_varchar = true)",
            quote_ident(name),
            quote_literal(&file.path().display().to_string())
        ))?;
    }
    Ok(())
}

/// Runs phases in order; the first failure ends it.
///
/// # Errors
/// [`TransformError::NoTable`] before a phase whose input is missing, [`TransformError::Statement`],
/// [`TransformError::NotWritten`], [`TransformError::Cancelled`].
pub fn run_phases(engine: &Engine, phases: &[&Phase], progress: &Progress) -> Result<Vec<PhaseReport>, TransformError> {
    phases.iter().map(|phase| run_phase(engine, phase, progress)).collect()
}

fn run_phase(engine: &Engine, phase: &Phase, progress: &Progress) -> Result<PhaseReport, TransformError> {
    let started = Instant::now();
    let work = progress.start(Step::Transform, &phase.name, None);
    for table in &phase.reads {
        if engine.columns(table)?.is_empty() {
            return Err(TransformError::NoTable { phase: phase.name.clone(), table: table.clone() });
        }
    }
    run_statements(engine, &phase.file(), &phase.sql)?;
    let mut tables = Vec::with_capacity(phase.writes.len());
    for name in &phase.writes {
        if engine.columns(name)?.is_empty() {
            return Err(TransformError::NotWritten { file: phase.file(), table: name.clone() });
        }
        let rows = match engine.is_view(name)? {
            true => None,
            false => Some(engine.count(&format!("SELECT count(*) FROM {}", quote_ident(name)))?),
        };
        work.add(rows.unwrap_or(0), 0);
        tables.push(WrittenTable { name: name.clone(), rows });
    }
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(phase = phase.name, seconds, "phase finished");
    work.finish();
    Ok(PhaseReport { phase: phase.name.clone(), seconds, tables })
}

fn run_statements(engine: &Engine, file: &str, sql: &str) -> Result<(), TransformError> {
    for (index, statement) in statements(sql).into_iter().enumerate() {
        engine.execute(statement.text).map_err(|error| match error {
            TransformError::Query(message) => {
                TransformError::Statement { file: file.to_owned(), statement: index + 1, line: statement.line, message }
            }
            other => other,
        })?;
    }
    Ok(())
}
