//! Lake tables as DuckDB views over exactly the files of one version.

use arrow::datatypes::{DataType, Field};

use super::{Engine, TransformError};
use crate::lake::{Lake, LakeTable, Manifest, Origin};
use crate::pg::{quote_ident, quote_literal};

/// The most digits of a DuckDB decimal.
const DECIMAL_DIGITS_MAX: u32 = 38;

/// A random but repeatable choice of key values, such as some races.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The lake table whose key is sampled.
    pub table: String,
    /// The column, which every table that has it is cut down by.
    pub column: String,
    /// How many values of it.
    pub count: u64,
}

/// Creates a view for each of `tables` of the manifest; with a sample, only rows that belong to it.
///
/// # Errors
/// [`TransformError::Query`].
pub fn create_views<'a>(
    engine: &Engine,
    lake: &Lake,
    manifest: &'a Manifest,
    tables: impl Iterator<Item = &'a str>,
    sample: Option<&Sample>,
) -> Result<(), TransformError> {
    let known: Vec<(&str, &LakeTable)> = tables.filter_map(|name| Some((name, manifest.tables.get(name)?))).collect();
    let sampled = sample.filter(|sample| known.iter().any(|(name, _)| *name == sample.table));
    if let Some((sample, table)) = sampled.and_then(|sample| Some((sample, manifest.tables.get(&sample.table)?))) {
        let column = quote_ident(&sample.column);
        engine.execute(&format!(
            "CREATE OR REPLACE TEMP TABLE sampled_keys AS SELECT DISTINCT {column} FROM ({}) \
             ORDER BY hash({column}), {column} LIMIT {}",
            select_files(lake, table),
            sample.count
        ))?;
    }
    for (name, table) in known {
        let condition = sampled
            .filter(|sample| table.schema.column_with_name(&sample.column).is_some())
            .map(|sample| {
                let column = quote_ident(&sample.column);
                format!(" WHERE {column} IN (SELECT {column} FROM sampled_keys)")
            })
            .unwrap_or_default();
        // A view may not read a temporary table, so a sample is copied.
        let kind = if condition.is_empty() { "VIEW" } else { "TEMP TABLE" };
        let name = quote_ident(name);
        engine.execute(&format!("CREATE OR REPLACE {kind} {name} AS {}{condition}", select_files(lake, table)))?;
    }
    Ok(())
}

/// Creates one view under a name of its own, such as that of an older version.
///
/// # Errors
/// [`TransformError::Query`].
pub fn create_view(engine: &Engine, lake: &Lake, name: &str, table: &LakeTable) -> Result<(), TransformError> {
    engine.execute(&format!("CREATE OR REPLACE VIEW {} AS {}", quote_ident(name), select_files(lake, table)))
}

/// The query over a table's files that restores the types Parquet cannot carry.
fn select_files(lake: &Lake, table: &LakeTable) -> String {
    let columns: Vec<String> = table.schema.fields().iter().map(|field| column(field, &table.origin)).collect();
    let files: Vec<String> =
        table.files.iter().map(|file| quote_literal(&lake.local_path(&file.path).display().to_string())).collect();
    format!("SELECT {} FROM read_parquet([{}], hive_partitioning = false)", columns.join(", "), files.join(", "))
}

fn column(field: &Field, origin: &Origin) -> String {
    let name = quote_ident(field.name());
    match (field.data_type(), decimal_type(field, origin)) {
        (DataType::Utf8, Some(decimal)) => format!("CAST({name} AS {decimal}) AS {name}"),
        (DataType::Struct(parts), _)
            if parts.iter().map(|part| part.name().as_str()).eq(["months", "days", "micros"]) =>
        {
            format!(
                "CASE WHEN {name} IS NOT NULL THEN \
                 to_months({name}.months) + to_days({name}.days) + to_microseconds({name}.micros) END AS {name}"
            )
        }
        _ => name,
    }
}

/// The decimal type that holds every value of an unbounded numeric column, by what the pull saw; none where there is
/// none, and the column stays text.
fn decimal_type(field: &Field, origin: &Origin) -> Option<String> {
    let Origin::Source { numeric_seen, .. } = origin else { return None };
    let (integer_digits, scale, special) = *numeric_seen.get(field.name())?;
    let precision = (integer_digits + scale).max(1);
    (!special && precision <= DECIMAL_DIGITS_MAX).then(|| format!("DECIMAL({precision}, {scale})"))
}
