//! Lake tables as DuckDB views over exactly the files of one version.

use std::collections::HashSet;

use arrow::datatypes::{DataType, Field};

use super::{Engine, TransformError};
use crate::columnar::{PG_KIND_KEY, PG_VECTOR_LENGTH_KEY, is_interval, kind};
use crate::lake::{Lake, LakeTable, Manifest, Origin};
use crate::pg::{quote_ident, quote_literal};
use crate::schema::DECIMAL_DIGITS_MAX;

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
    let fields = table.schema.fields();
    let names = distinct_names(fields.iter().map(|field| field.name().as_str()));
    // By position: DuckDB gives the second of two names that differ only in case another one.
    let positions: Vec<String> = (1..=fields.len()).map(|position| format!("c{position}")).collect();
    let columns = fields.iter().zip(&names).zip(&positions);
    let columns: Vec<String> = columns
        .map(|((field, name), position)| format!("{} AS {}", column(position, field, &table.origin), quote_ident(name)))
        .collect();
    let files: Vec<String> =
        table.files.iter().map(|file| quote_literal(&lake.local_path(&file.path).display().to_string())).collect();
    format!(
        "SELECT {} FROM read_parquet([{}], hive_partitioning = false) AS files({})",
        columns.join(", "),
        files.join(", "),
        positions.join(", ")
    )
}

/// Names that differ in more than case: a name that was there before gets `_1`, `_2`, ….
fn distinct_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let names: Vec<&str> = names.collect();
    let mut taken: HashSet<String> = HashSet::new();
    let is_own = |name: &str| names.iter().any(|own| own.to_lowercase() == name.to_lowercase());
    names
        .iter()
        .map(|name| {
            let numbered = (1..).map(|number| format!("{name}_{number}")).filter(|numbered| !is_own(numbered));
            let chosen =
                std::iter::once((*name).to_owned()).chain(numbered).find(|name| taken.insert(name.to_lowercase()));
            chosen.unwrap_or_else(|| (*name).to_owned())
        })
        .collect()
}

fn column(place: &str, field: &Field, origin: &Origin) -> String {
    match decimal_type(field, origin) {
        Some(decimal) => format!("CAST({place} AS {decimal})"),
        None => restored(place, field, 0).unwrap_or_else(|| place.to_owned()),
    }
}

/// The expression that gives a value its best type, if it is not there already; `depth` names the elements of lists.
fn restored(value: &str, field: &Field, depth: usize) -> Option<String> {
    if let Some(length) = field.metadata().get(PG_VECTOR_LENGTH_KEY) {
        return Some(format!("CAST({value} AS FLOAT[{length}])"));
    }
    match field.metadata().get(PG_KIND_KEY).map(String::as_str) {
        Some(kind::BPCHAR) => return Some(format!("rtrim({value}, ' ')")),
        Some(kind::CITEXT) => return Some(format!("({value} COLLATE NOCASE)")),
        Some(kind::TIMETZ) => return Some(format!("CAST({value} AS TIMETZ)")),
        _ => {}
    }
    match field.data_type() {
        interval if is_interval(interval) => Some(format!(
            "CASE WHEN {value} IS NOT NULL THEN \
             to_months({value}.months) + to_days({value}.days) + to_microseconds({value}.micros) END"
        )),
        DataType::List(element) => {
            let name = format!("e{depth}");
            let element = restored(&name, element, depth + 1)?;
            Some(format!("list_transform({value}, lambda {name}: {element})"))
        }
        DataType::Struct(members) => {
            let places = members.iter().map(|member| (member, format!("{value}.{}", quote_ident(member.name()))));
            let restored: Vec<_> =
                places.map(|(member, place)| (member, restored(&place, member, depth), place)).collect();
            if restored.iter().all(|(_, restored, _)| restored.is_none()) {
                return None;
            }
            let members: Vec<String> = restored
                .into_iter()
                .map(|(member, restored, place)| {
                    format!("{} := {}", quote_ident(member.name()), restored.unwrap_or(place))
                })
                .collect();
            Some(format!("CASE WHEN {value} IS NOT NULL THEN struct_pack({}) END", members.join(", ")))
        }
        _ => None,
    }
}

/// The decimal type that holds every value of an unbounded numeric column, by what the pull saw; none where there is
/// none, and the column stays text.
fn decimal_type(field: &Field, origin: &Origin) -> Option<String> {
    let Origin::Source { numeric_seen, .. } = origin else { return None };
    let (integer_digits, scale, special) = *numeric_seen.get(field.name())?;
    let precision = (integer_digits + scale).max(1);
    (!special && precision <= u32::from(DECIMAL_DIGITS_MAX)).then(|| format!("DECIMAL({precision}, {scale})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_only_in_case_are_told_apart() {
        let names = distinct_names(["a", "A", "a_1", "B", "ü"].into_iter());
        assert_eq!(names, ["a", "A_2", "a_1", "B", "ü"]);
    }
}
