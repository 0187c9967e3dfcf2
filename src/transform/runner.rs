//! Running phases: order, statements, what they wrote.

use std::io::Write;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::relations::created_relation;
use super::statements::{Statement, statements};
use super::{Engine, Phase, PhaseSet, TransformError, rows_as_json};
use crate::pg::{quote_ident, quote_literal};
use crate::progress::{Progress, Step};
use crate::schema::RowValues;

/// Keys with several rows that an error shows.
const KEYS_SHOWN: usize = 3;
/// Numbers from the least to the greatest of a key for each of its rows, up to which marking a bit for each is the
/// cheapest way to find one twice.
const NUMBERS_PER_ROW_MAX: i64 = 64;
/// How DuckDB's messages about values in rows begin.
const ROW_ERRORS: [&str; 3] = ["Invalid Input Error", "Conversion Error", "Out of Range Error"];

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
/// [`TransformError::Key`], [`TransformError::NotWritten`], [`TransformError::Cancelled`].
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
    for (index, statement) in statements(&phase.sql).into_iter().enumerate() {
        run_statement(engine, &phase.file(), index + 1, &statement)?;
        let made = created_relation(statement.text).and_then(|table| phase.keys.get_key_value(&table));
        if let Some((table, key)) = made {
            // A view has rows only when it is read, which would be for nothing here.
            if !engine.is_view(table)? {
                check_key(engine, table, table, key, &place(&phase.file(), index + 1, statement.line))?;
            }
        }
    }
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
    statements(sql).iter().zip(1..).try_for_each(|(statement, number)| run_statement(engine, file, number, statement))
}

fn run_statement(engine: &Engine, file: &str, number: usize, statement: &Statement<'_>) -> Result<(), TransformError> {
    engine.execute(statement.text).map_err(|error| match error {
        TransformError::Query(message) => {
            TransformError::Statement { file: file.to_owned(), statement: number, line: statement.line, message }
        }
        other => other,
    })
}

fn place(file: &str, statement: usize, line: usize) -> String {
    format!("{file}, statement {statement} (line {line})")
}

/// The number of the statement with which a phase makes a table, from 1, and its line.
fn making_of(phase: &Phase, table: &str) -> Option<(usize, usize)> {
    let made = statements(&phase.sql);
    let made = made.iter().zip(1..).find(|(made, _)| created_relation(made.text).is_some_and(|name| name == table));
    made.map(|(statement, number)| (number, statement.line))
}

/// File, statement and line that make a table, as far as they can be told.
pub fn maker_of(set: &PhaseSet, table: &str) -> String {
    let Some(phase) = set.writer_of(table) else { return "the phases".to_owned() };
    match making_of(phase, table) {
        Some((statement, line)) => place(&phase.file(), statement, line),
        None => phase.file(),
    }
}

/// Looks for keys with several rows: a join that multiplied rows shows as such. `relation` has the rows of `table`,
/// which `place` made.
///
/// # Errors
/// [`TransformError::Key`]; [`TransformError::Query`], [`TransformError::Cancelled`].
pub fn check_key(
    engine: &Engine,
    relation: &str,
    table: &str,
    key: &[String],
    place: &str,
) -> Result<(), TransformError> {
    if is_unique_number(engine, relation, key)? {
        return Ok(());
    }
    let columns = key.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
    let (_, batches) = engine.query(&format!(
        "SELECT {columns}, count(*) AS rows FROM {} GROUP BY {columns} HAVING count(*) > 1 \
         ORDER BY {columns} LIMIT {KEYS_SHOWN}",
        quote_ident(relation)
    ))?;
    let mut several = Vec::new();
    for batch in &batches {
        several.extend(rows_as_json(batch)?.into_iter().map(|row| Value::Object(row).to_string()));
    }
    match several.as_slice() {
        [] => Ok(()),
        several => Err(TransformError::Key {
            place: place.to_owned(),
            table: table.to_owned(),
            key: key.join(", "),
            source: RowValues(several.join(", ")),
        }),
    }
}

/// Whether the key is one column of whole numbers, a different one in every row. To mark a bit for each number takes a
/// tenth of the time of grouping by them; numbers far apart are left to that.
fn is_unique_number(engine: &Engine, relation: &str, key: &[String]) -> Result<bool, TransformError> {
    let [column] = key else { return Ok(false) };
    let is_whole =
        |(name, data_type): &(String, String)| name == column && ["INTEGER", "BIGINT"].contains(&data_type.as_str());
    if !engine.columns(relation)?.iter().any(is_whole) {
        return Ok(false);
    }
    let (column, relation) = (quote_ident(column), quote_ident(relation));
    let (_, batches) = engine
        .query(&format!("SELECT min({column}) AS low, max({column}) AS high, count(*) AS rows FROM {relation}"))?;
    let row = batches.first().map(rows_as_json).transpose()?.and_then(|rows| rows.into_iter().next());
    let number = |name: &str| row.as_ref().and_then(|row| row.get(name)).and_then(Value::as_i64);
    let (Some(low), Some(high), Some(rows)) = (number("low"), number("high"), number("rows")) else {
        return Ok(false);
    };
    if high.checked_sub(low).is_none_or(|span| span / NUMBERS_PER_ROW_MAX > rows) {
        return Ok(false);
    }
    let sql =
        format!("SELECT CAST(count(*) = bit_count(bitstring_agg({column}, {low}, {high})) AS BIGINT) FROM {relation}");
    Ok(engine.count(&sql)? == 1)
}

/// Says which file is to blame when the rows of a table that the phases made could not all be read, given DuckDB's
/// message. Where views read each other, the first of them that cannot be read has the mistake.
pub fn late_failure(engine: &Engine, set: &PhaseSet, table: &str, message: String) -> TransformError {
    let mut blamed = set.writer_of(table).map(|phase| (phase, table));
    if ROW_ERRORS.iter().any(|kind| message.starts_with(kind)) {
        let lake = set.phases.iter().filter(|phase| phase.in_lake);
        for (phase, view) in lake.flat_map(|phase| phase.writes.iter().map(move |view| (phase, view))) {
            match read_through(engine, view) {
                Ok(()) => {}
                Err(TransformError::Cancelled) => return TransformError::Cancelled,
                Err(_) => {
                    blamed = Some((phase, view.as_str()));
                    break;
                }
            }
        }
    }
    match blamed.and_then(|(phase, table)| Some((phase.file(), making_of(phase, table)?))) {
        Some((file, (statement, line))) => TransformError::Statement { file, statement, line, message },
        None => TransformError::Query(message),
    }
}

/// Reads every value of a view; a table has its values already.
fn read_through(engine: &Engine, view: &str) -> Result<(), TransformError> {
    if engine.is_view(view)? {
        engine.count(&format!("SELECT count(*) FROM {} AS probed WHERE hash(probed) = 0", quote_ident(view)))?;
    }
    Ok(())
}
