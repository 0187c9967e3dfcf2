//! Columns of a source table that changed since the lake's last version of it, and what the pipeline file says of that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::PipelineError;
use crate::columnar::PG_TYPE_KEY;
use crate::config::{DriftPolicy, Pipeline, PullConfig, TableConfig};
use crate::lake::{LakeTable, Origin, SourceMark, Version};
use crate::schema::TableSchema;
use crate::transform::PhaseSet;

/// What happened to a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum ColumnDrift {
    /// It is new.
    Added {
        /// The column.
        column: String,
        /// Its type.
        to: String,
    },
    /// It is gone.
    Dropped {
        /// The column.
        column: String,
        /// Its type.
        from: String,
    },
    /// It has another name.
    Renamed {
        /// The column's former name.
        column: String,
        /// Its name now.
        name: String,
    },
    /// It has another type.
    Retyped {
        /// The column.
        column: String,
        /// Its former type.
        from: String,
        /// Its type now.
        to: String,
    },
}

impl fmt::Display for ColumnDrift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { column, to } => write!(f, "column {column} {to} was added"),
            Self::Dropped { column, from } => write!(f, "column {column} {from} was dropped"),
            Self::Renamed { column, name } => write!(f, "column {column} was renamed to {name}"),
            Self::Retyped { column, from, to } => write!(f, "column {column} changed its type from {from} to {to}"),
        }
    }
}

impl ColumnDrift {
    /// The column, by the name that phases know.
    fn column(&self) -> &str {
        match self {
            Self::Added { column, .. }
            | Self::Dropped { column, .. }
            | Self::Renamed { column, .. }
            | Self::Retyped { column, .. } => column,
        }
    }

    fn policy(&self, config: &PullConfig) -> (&'static str, DriftPolicy) {
        match self {
            Self::Added { .. } => ("on_added", config.on_added),
            Self::Dropped { .. } | Self::Renamed { .. } => ("on_dropped", config.on_dropped),
            Self::Retyped { .. } => ("on_retyped", config.on_retyped),
        }
    }
}

/// Compares a table with its last version in the lake. A column's number in the catalogue tells a rename from a drop,
/// unless the table was made anew since.
pub(super) fn compare(last: &LakeTable, now: &TableSchema, mark: &SourceMark) -> Vec<ColumnDrift> {
    let nothing = BTreeMap::new();
    let then_numbers = match &last.origin {
        Origin::Source { mark: Some(then), .. } if then.oid == mark.oid => &then.columns,
        _ => &nothing,
    };
    let now_numbers = &mark.columns;
    let types: BTreeMap<&str, &str> = last
        .schema
        .fields()
        .iter()
        .filter_map(|field| Some((field.name().as_str(), field.metadata().get(PG_TYPE_KEY)?.as_str())))
        .collect();
    let present: BTreeSet<&str> = now.columns.iter().map(|column| column.name.as_str()).collect();
    let mut drift = Vec::new();
    let mut former_names: BTreeMap<&str, &str> = BTreeMap::new();
    for (column, from) in types.iter().filter(|(column, _)| !present.contains(*column)) {
        let same = then_numbers.get(*column).and_then(|number| {
            now_numbers.iter().find(|(name, now)| *now == number && !types.contains_key(name.as_str()))
        });
        drift.push(match same {
            Some((name, _)) => {
                former_names.insert(name, column);
                ColumnDrift::Renamed { column: (*column).to_owned(), name: name.clone() }
            }
            None => ColumnDrift::Dropped { column: (*column).to_owned(), from: (*from).to_owned() },
        });
    }
    for column in &now.columns {
        let former = former_names.get(column.name.as_str()).copied().unwrap_or(&column.name);
        match types.get(former) {
            None => drift.push(ColumnDrift::Added { column: column.name.clone(), to: column.type_name.clone() }),
            Some(from) if *from != column.type_name => drift.push(ColumnDrift::Retyped {
                column: former.to_owned(),
                from: (*from).to_owned(),
                to: column.type_name.clone(),
            }),
            Some(_) => {}
        }
    }
    drift
}

/// Who needs a column of a source table: a key of the pipeline file, or a SQL file.
fn reader(pipeline: &Pipeline, table: &TableConfig, phases: &PhaseSet, column: &str) -> Option<String> {
    let named = |names: &[String]| names.iter().any(|name| name == column);
    let event = pipeline
        .dataset
        .event
        .as_ref()
        .filter(|event| (event.table == table.name && event.date == column) || event.column == column);
    let setting = if named(&table.key) {
        "key"
    } else if table.partition_by.iter().any(|transform| transform.column() == column) {
        "partition_by"
    } else if named(&table.outcomes) {
        "outcomes"
    } else if event.is_some() {
        return Some("dataset.event names it".to_owned());
    } else {
        return phases.reader_of(&table.name, column).map(|file| format!("{file} reads it"));
    };
    Some(format!("the table's {setting} names it"))
}

/// Refuses the changes that the policies do not allow, all of them in one error.
///
/// # Errors
/// [`PipelineError::Drift`].
pub(super) fn refuse(
    pipeline: &Pipeline,
    phases: &PhaseSet,
    drift: &BTreeMap<String, (Version, Vec<ColumnDrift>)>,
) -> Result<(), PipelineError> {
    let mut refused = Vec::new();
    for (name, (version, changes)) in drift {
        let Some(table) = pipeline.table(name) else { continue };
        for change in changes {
            let (setting, policy) = change.policy(&pipeline.pull);
            let reason = match policy {
                DriftPolicy::Accept => None,
                DriftPolicy::Error => Some(String::new()),
                DriftPolicy::ErrorIfRead => {
                    reader(pipeline, table, phases, change.column()).map(|reader| format!(", and {reader}"))
                }
            };
            if let Some(reason) = reason {
                let source = table.source_table();
                refused.push(format!(
                    "{source}: {change} since lake version {version}{reason}; pull.{setting} = \"accept\" pulls it all the same"
                ));
            }
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(PipelineError::Drift(refused.join("; "))) }
}
