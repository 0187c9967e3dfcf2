//! The `.slt` cases of `fixtures/sql`: phases over a few hand-made rows, answers worked out by hand.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use racealpha::fixtures::{FixtureOptions, write_csv};
use racealpha::pg::{quote_ident, quote_literal};
use racealpha::progress::Progress;
use racealpha::transform::{
    Engine, EngineLimits, PhaseSet, TransformError, load_data_tables, run_phases, select_phases,
};
use sqllogictest::{DB, DBOutput, DefaultColumnType, Runner};
use tokio_util::sync::CancellationToken;

use crate::support::fill_from_csv;

/// The time that `build_time()` gives in every case.
const BUILD_TIME: &str = "2024-07-01 00:00:00+00";
/// A statement that means: this phase and all before it.
const RUN_PHASE: &str = "run phase ";

/// An engine with the case's rows.
struct Case {
    engine: Engine,
    phases: PhaseSet,
}

impl Case {
    fn open(script: &Path) -> Result<Self, TransformError> {
        let phases = PhaseSet::load(None)?;
        let limits = EngineLimits { threads: Some(2), ..EngineLimits::default() };
        let engine = Engine::open(None, &limits, CancellationToken::new())?;
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| TransformError::Read { path: path.to_path_buf(), source })
        };
        engine.execute(&read(&script.with_file_name("schema.sql"))?)?;
        for csv in csv_files(&script.with_extension("")) {
            let table = csv.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let header = read(&csv)?.lines().next().unwrap_or_default().to_owned();
            let columns: Vec<String> = header.split(',').map(|name| quote_ident(name.trim())).collect();
            engine.execute(&format!(
                "INSERT INTO {} ({}) SELECT * FROM read_csv({}, header = true, all_varchar = true)",
                quote_ident(table),
                columns.join(", "),
                quote_literal(&csv.display().to_string())
            ))?;
        }
        load_data_tables(&engine, &phases)?;
        engine.execute(&format!(
            "CREATE MACRO with_upcoming() AS true; CREATE MACRO build_time() AS CAST('{BUILD_TIME}' AS TIMESTAMPTZ)"
        ))?;
        Ok(Self { engine, phases })
    }
}

fn csv_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "csv")).collect()
}

impl DB for Case {
    type Error = TransformError;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, TransformError> {
        if let Some(phase) = sql.trim().strip_prefix(RUN_PHASE) {
            let wanted = select_phases(&self.phases, None, Some(phase.trim()))?;
            run_phases(&self.engine, &wanted, &Progress::new())?;
            return Ok(DBOutput::StatementComplete(0));
        }
        let (schema, batches) = self.engine.query(sql)?;
        let options = FormatOptions::default().with_null("NULL");
        let shown = |error: arrow::error::ArrowError| TransformError::Query(error.to_string());
        let mut rows = Vec::new();
        for batch in &batches {
            let columns: Vec<_> = batch
                .columns()
                .iter()
                .map(|c| ArrayFormatter::try_new(c, &options))
                .collect::<Result<_, _>>()
                .map_err(shown)?;
            rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|c| c.value(row).to_string()).collect()));
        }
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; schema.fields().len()], rows })
    }

    fn engine_name(&self) -> &'static str {
        "duckdb"
    }

    fn shutdown(&mut self) {}
}

#[test]
fn phases_give_the_answers_worked_out_by_hand() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sql");
    let mut scripts: Vec<PathBuf> =
        fs::read_dir(&folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "slt"));
    scripts.sort();
    assert!(scripts.len() >= 5, "the cases are in {}", folder.display());
    for script in scripts {
        let name = script.display().to_string();
        let mut runner = Runner::new(|| {
            let script = script.clone();
            async move { Case::open(&script) }
        });
        runner.run_file(&script).with_context(|| name.clone())?;
    }
    Ok(())
}

/// DuckDB spreads work over threads by row groups, so these are small enough for all threads to have some.
#[test]
fn the_number_of_threads_changes_no_value() -> Result<()> {
    let folder = tempfile::tempdir()?;
    write_csv(&FixtureOptions { races: 1500, seed: 3 }, folder.path())?;
    let phases = PhaseSet::load(None)?;
    let engine = Engine::open(None, &EngineLimits::default(), CancellationToken::new())?;
    engine.execute(&format!(
        "ATTACH {} AS small (ROW_GROUP_SIZE 2048); USE small",
        quote_literal(&folder.path().join("small.duckdb").display().to_string())
    ))?;
    fill_from_csv(&engine, folder.path(), &phases, true)?;
    let tables = ["race_training_dataset", "horse_elo_ratings"];
    for threads in [1, 2, 8] {
        engine.execute(&format!("SET threads = {threads}"))?;
        run_phases(&engine, &select_phases(&phases, None, None)?, &Progress::new())?;
        for table in tables {
            engine.execute(&format!("CREATE TABLE {table}_{threads} AS FROM {table}"))?;
            let rows = engine.count(&format!("SELECT count(*) FROM {table}"))?;
            assert!(rows > 3 * 2048, "{rows} rows are too few to be shared");
            for (one, other) in [(1, threads), (threads, 1)] {
                let differing = format!("FROM {table}_{one} EXCEPT ALL FROM {table}_{other}");
                let count = engine.count(&format!("SELECT count(*) FROM ({differing})"))?;
                assert_eq!(count, 0, "{table} with {one} and {other} threads");
            }
        }
    }
    Ok(())
}
