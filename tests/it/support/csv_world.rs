//! The source tables in an engine, from the CSV files that `racealpha fixtures --out` makes, without a server.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use racealpha::pg::{quote_ident, quote_literal};
use racealpha::transform::{Engine, PhaseSet, load_data_tables};

const SCHEMA: &str = include_str!("../../../fixtures/sql/schema.sql");
/// The tables that phases read.
const TABLES: [&str; 4] = ["races", "race_results", "race_results_sectional_times", "races_derived_sectional_margins"];
/// The time that `build_time()` gives.
const BUILD_TIME: &str = "2024-07-01 00:00:00+00";

/// Gives the engine's current database the tables of a folder and all that phases rely on.
pub(crate) fn fill_from_csv(engine: &Engine, folder: &Path, set: &PhaseSet, with_upcoming: bool) -> Result<()> {
    engine.execute(SCHEMA)?;
    for table in TABLES {
        let csv = folder.join(format!("{table}.csv"));
        let known = engine.columns(table)?;
        let header = fs::read_to_string(&csv)?.lines().next().context("a header")?.to_owned();
        let columns = header.split(',').filter(|name| known.iter().any(|(known, _)| known == name));
        let columns = columns.map(quote_ident).collect::<Vec<_>>().join(", ");
        engine.execute(&format!(
            "INSERT INTO {table} ({columns}) SELECT {columns} FROM read_csv({}, header = true, all_varchar = true)",
            quote_literal(&csv.display().to_string())
        ))?;
    }
    load_data_tables(engine, set)?;
    engine.execute(&format!(
        "CREATE MACRO with_upcoming() AS {with_upcoming}; \
         CREATE MACRO build_time() AS CAST('{BUILD_TIME}' AS TIMESTAMPTZ)"
    ))?;
    Ok(())
}
