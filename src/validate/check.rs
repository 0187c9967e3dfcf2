//! What is checked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Finding, Report};
use crate::lake::{LakeTable, Manifest, Origin, Version};
use crate::pg::quote_ident;
use crate::transform::{CheckFile, DictionaryColumn, Engine, PhaseSet, Role, Severity, TransformError, rows_as_json};

/// Offending rows kept of each check.
const SAMPLE_ROWS: usize = 10;

/// Checks that need no file, because they look at more than the dataset.
pub const BUILT_IN_CHECKS: [&str; 10] = ["V01", "V02", "V03", "V04", "V06", "V07", "V08", "V09", "V10", "V11"];

/// Limits that the pipeline file sets.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The least rows of the dataset.
    pub min_rows: u64,
    /// The least share of the previous dataset's rows.
    pub min_rows_of_previous: f64,
    /// Columns that tell rows apart.
    pub key: Vec<String>,
    /// Columns that are outcomes.
    pub labels: Vec<String>,
    /// Limits of check files that are not their own, by id.
    pub of_checks: BTreeMap<String, f64>,
}

/// V01 and V02: whether the pulled tables are there, filled and complete. `required` names those that need rows.
pub fn check_sources(manifest: &Manifest, tables: &[(&str, bool)]) -> Report {
    let missing: Vec<String> = tables
        .iter()
        .filter_map(|(name, required)| match manifest.tables.get(*name) {
            None => Some(format!("{name} was not pulled")),
            Some(table) if *required && table.rows == 0 => Some(format!("{name} is empty")),
            Some(_) => None,
        })
        .collect();
    let incomplete: Vec<String> = tables
        .iter()
        .filter_map(|(name, _)| match manifest.tables.get(*name) {
            Some(LakeTable { rows, origin: Origin::Source { source_rows, .. }, .. }) if rows != source_rows => {
                Some(format!("{name} has {rows} of {source_rows} rows"))
            }
            _ => None,
        })
        .collect();
    let observed = |problems: &[String]| match problems {
        [] => format!("{} tables", tables.len()),
        problems => problems.join(", "),
    };
    Report {
        findings: vec![
            Finding::new(
                "V01",
                "source tables are there and not empty",
                Severity::Error,
                missing.is_empty(),
                observed(&missing),
                "every required table has rows",
            ),
            Finding::new(
                "V02",
                "pulled rows equal the source's in one snapshot",
                Severity::Error,
                incomplete.is_empty(),
                observed(&incomplete),
                "no difference",
            ),
        ],
    }
}

/// V03 to V07 and the pipeline's own check files, over a dataset that the engine sees under its name.
///
/// # Errors
/// [`TransformError::Query`] when a check's query fails, [`TransformError::Cancelled`].
pub fn check_dataset(
    engine: &Engine,
    manifest: &Manifest,
    dataset: (&str, &LakeTable),
    previous_rows: Option<u64>,
    limits: &Limits,
    phases: &PhaseSet,
) -> Result<Report, TransformError> {
    let (name, table) = dataset;
    let mut findings = vec![
        check_provenance(manifest, table, phases),
        check_key(engine, name, &limits.key)?,
        check_rows(table.rows, previous_rows, limits),
        check_columns(table, limits, &phases.dictionary),
    ];
    let absent = stand_in_for_absent(engine, name, &phases.checks)?;
    for check in &phases.checks {
        findings.push(run_check_file(engine, check, limits.of_checks.get(&check.id).copied(), &absent)?);
    }
    for table in &absent {
        engine.execute(&format!("DROP VIEW {}", quote_ident(table)))?;
    }
    findings.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Report { findings })
}

/// Whether a table of the lake is what the present phases make of the present source tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// It is, and was made from this version.
    UpToDate(Version),
    /// It is not: why, and what helps.
    Stale(String),
    /// The phases did not make it.
    Pulled,
}

impl Provenance {
    /// Looks at a table of the manifest.
    pub fn of(manifest: &Manifest, table: &LakeTable, phases: &PhaseSet) -> Self {
        let Origin::Dataset { from, phases: fingerprint } = &table.origin else { return Self::Pulled };
        let is_newer = |other: &LakeTable| matches!(other.origin, Origin::Source { .. }) && other.version > *from;
        let tables = manifest.tables.iter().filter(|(_, other)| is_newer(other));
        let newer: Vec<&str> = tables.map(|(name, _)| name.as_str()).collect();
        if !newer.is_empty() {
            Self::Stale(format!("{} pulled since; `racealpha run` makes it anew", newer.join(", ")))
        } else if *fingerprint != phases.fingerprint {
            Self::Stale("the phase files changed since; `racealpha run` makes it anew".to_owned())
        } else {
            Self::UpToDate(*from)
        }
    }
}

/// V03. A dataset exists only when no statement failed; it may still be older than the tables or the phases.
fn check_provenance(manifest: &Manifest, table: &LakeTable, phases: &PhaseSet) -> Finding {
    // A stale dataset is whole and consistent: worth a warning, and not an error.
    let (severity, fresh, observed) = match Provenance::of(manifest, table, phases) {
        Provenance::UpToDate(from) => {
            (Severity::Error, true, format!("made from version {from} by the present phases"))
        }
        Provenance::Stale(why) => (Severity::Warning, false, why),
        Provenance::Pulled => (Severity::Error, false, "the table was pulled, not made by the phases".to_owned()),
    };
    Finding::new(
        "V03",
        "every phase ran without a failure",
        severity,
        fresh,
        observed,
        "no failed statement, up to date",
    )
}

/// V04.
fn check_key(engine: &Engine, dataset: &str, key: &[String]) -> Result<Finding, TransformError> {
    let columns = key.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT {columns}, count(*) AS rows FROM {} GROUP BY {columns} HAVING count(*) > 1 ORDER BY {columns}",
        quote_ident(dataset)
    );
    let (count, sample) = offending_rows(engine, &sql)?;
    let title = format!("({}) is unique", key.join(", "));
    let mut finding =
        Finding::new("V04", &title, Severity::Error, count == 0, format!("{count} keys with several rows"), "0");
    finding.sample = sample;
    Ok(finding)
}

/// V06.
fn check_rows(rows: u64, previous_rows: Option<u64>, limits: &Limits) -> Finding {
    let least_of_previous = previous_rows.map(|previous| share(previous, limits.min_rows_of_previous));
    let least = limits.min_rows.max(least_of_previous.unwrap_or(0));
    let limit = match previous_rows {
        Some(previous) => format!(
            "at least {least} (validate.min_rows {}, and {} of the previous {previous})",
            limits.min_rows, limits.min_rows_of_previous
        ),
        None => format!("at least {least} (validate.min_rows)"),
    };
    Finding::new("V06", "the dataset is large enough", Severity::Error, rows >= least, format!("{rows} rows"), &limit)
}

/// `rows` times `share`, rounded down, in parts per million: exact for every row count a table can have.
fn share(rows: u64, share: f64) -> u64 {
    let parts: u128 = format!("{:.0}", (share * 1e6).max(0.0)).parse().unwrap_or(0);
    u64::try_from(u128::from(rows) * parts / 1_000_000).unwrap_or(u64::MAX)
}

/// V07.
fn check_columns(table: &LakeTable, limits: &Limits, dictionary: &[DictionaryColumn]) -> Finding {
    let columns: Vec<&str> = table.schema.fields().iter().map(|field| field.name().as_str()).collect();
    let present: BTreeSet<&str> = columns.iter().copied().collect();
    let mut problems = Vec::new();
    for column in dictionary {
        let name = column.name.as_str();
        match (column.role, present.contains(name)) {
            (Role::Dropped, true) => problems.push(format!("{name} leaks its own race's outcome and is present")),
            (Role::Dropped, false) | (_, true) => {}
            (_, false) => problems.push(format!("{name} is missing")),
        }
        if column.role == Role::Label && !limits.labels.contains(&column.name) {
            problems.push(format!("{name} is a label and not declared as one in dataset.labels"));
        }
    }
    let known: BTreeSet<&str> = dictionary.iter().map(|column| column.name.as_str()).collect();
    if !dictionary.is_empty() {
        problems.extend(
            columns.iter().filter(|name| !known.contains(*name)).map(|name| format!("{name} is not in the dictionary")),
        );
    }
    for label in &limits.labels {
        if !present.contains(label.as_str()) {
            problems.push(format!("label {label} is missing"));
        }
    }
    let first_label = columns.iter().position(|name| limits.labels.iter().any(|label| label == name));
    let labels_last = first_label.is_none_or(|first| columns.len() - first == limits.labels.len());
    if !labels_last {
        problems.push("labels are not grouped at the end".to_owned());
    }
    let observed = match problems.as_slice() {
        [] => format!("{} columns, {} of them labels", columns.len(), limits.labels.len()),
        problems => problems.join(", "),
    };
    Finding::new(
        "V07",
        "columns are those of the dictionary, none leaks, labels stand apart",
        Severity::Error,
        problems.is_empty(),
        observed,
        "no difference",
    )
}

/// Gives checks an empty table like the dataset for each one that they compare it with and that is not there, and names
/// those: a comparison then finds nothing, and what a check says of the dataset alone is still said.
fn stand_in_for_absent<'a>(
    engine: &Engine,
    dataset: &str,
    checks: &'a [CheckFile],
) -> Result<BTreeSet<&'a String>, TransformError> {
    let mut absent = BTreeSet::new();
    for table in checks.iter().flat_map(|check| &check.compares) {
        if engine.columns(table)?.is_empty() {
            engine.execute(&format!(
                "CREATE TEMP VIEW {} AS SELECT * FROM {} WHERE false",
                quote_ident(table),
                quote_ident(dataset)
            ))?;
            absent.insert(table);
        }
    }
    Ok(absent)
}

/// Runs a check file with its own limit or the pipeline file's. `absent` are the tables that empty ones stand for.
fn run_check_file(
    engine: &Engine,
    check: &CheckFile,
    limit: Option<f64>,
    absent: &BTreeSet<&String>,
) -> Result<Finding, TransformError> {
    let failed = |error| match error {
        TransformError::Query(message) => {
            TransformError::Statement { file: format!("checks/{}.sql", check.name), statement: 1, line: 1, message }
        }
        other => other,
    };
    let limit = limit.or(check.limit);
    if let Some(limit) = limit {
        engine.execute(&format!("CREATE OR REPLACE MACRO check_limit() AS CAST({limit} AS DOUBLE)"))?;
    }
    for statement in &check.prepares {
        engine.execute(statement).map_err(failed)?;
    }
    let seen = check.observation.as_deref().map(|query| observe(engine, query)).transpose().map_err(failed)?;
    let (count, sample) = offending_rows(engine, &check.offending).map_err(failed)?;
    let not_compared = check.compares.iter().find(|table| absent.contains(table));
    let not_compared = not_compared.map(|table| format!("not compared: there is no {}", table.replace('_', " ")));
    let counted = match count {
        0 if seen.is_some() || not_compared.is_some() => None,
        count => Some(format!("{count} offending rows")),
    };
    let observed = not_compared.into_iter().chain(counted).chain(seen).collect::<Vec<_>>().join("; ");
    let allowed = check.allowed.replace("{limit}", &limit.map(|limit| limit.to_string()).unwrap_or_default());
    let mut finding = Finding::new(&check.id, &check.title(), check.severity, count == 0, observed, &allowed);
    finding.sample = sample;
    Ok(finding)
}

/// A query's first row as `name value, name value`.
fn observe(engine: &Engine, query: &str) -> Result<String, TransformError> {
    let (_, batches) = engine.query(query)?;
    let row = batches.first().map(rows_as_json).transpose()?.unwrap_or_default().into_iter().next();
    let shown = |(name, value): (String, Value)| match value {
        Value::String(text) => format!("{name} {text}"),
        other => format!("{name} {other}"),
    };
    Ok(row.into_iter().flatten().map(shown).collect::<Vec<_>>().join(", "))
}

/// How many rows a query returns, and the first of them.
fn offending_rows(engine: &Engine, sql: &str) -> Result<(u64, Vec<Map<String, Value>>), TransformError> {
    let (mut count, mut sample) = (0, Vec::new());
    engine.stream(sql, |_, batch| {
        count += batch.num_rows() as u64;
        let wanted = SAMPLE_ROWS.saturating_sub(sample.len()).min(batch.num_rows());
        sample.extend(rows_as_json(&batch.slice(0, wanted))?);
        Ok::<(), TransformError>(())
    })?;
    Ok((count, sample))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_rows_is_rounded_down() {
        assert_eq!(share(1001, 0.9), 900);
        assert_eq!(share(u64::MAX, 0.5), u64::MAX / 2);
        assert_eq!(share(10, -1.0), 0);
    }
}
