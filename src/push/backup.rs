//! The former live table: its marker, and what is known about it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use crate::pg::{quote_ident, quote_literal, quote_table};
use crate::schema::TableName;

use super::attributes::{self, Attributes};
use super::error::PushError;
use super::options::TargetOptions;

/// Says in a marker that the table is a backup of ours.
const TOOL: &str = "racealpha backup";
/// The longest name that Postgres keeps (`NAMEDATALEN - 1`).
const NAME_BYTES_MAX: usize = 63;
/// What names of a backup's indexes and sequences begin with: they share a schema with live's, and with those of other
/// backups, so digits of the run's hash follow.
const PREFIX: &str = "_bk_";
/// Bytes of that hash, which become two digits each.
const HASH_BYTES: usize = 3;

/// The comment on a backup: written in the swap's transaction, so it is there exactly when the backup is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) tool: String,
    pub(super) run: String,
    /// When it stopped being live.
    pub(super) since: String,
    pub(super) table: TableName,
    /// The backup's own oid.
    pub(super) oid: u32,
    /// The table that took its place.
    pub(super) replaced_by: u32,
    /// Original names of indexes and sequences by the names they have now.
    pub(super) names: BTreeMap<String, String>,
    /// `serial` columns whose default the swap took away, with the sequence.
    pub(super) serials: BTreeMap<String, TableName>,
    /// Foreign keys of other tables that held before the swap and are still to be validated after it.
    #[serde(default)]
    pub(super) to_validate: Vec<(TableName, String)>,
    /// Whether it is a copy that a merge made, and not the former live table itself.
    #[serde(default)]
    pub(super) merged: bool,
    /// Its rows, where they were counted.
    #[serde(default)]
    pub(super) rows: Option<u64>,
}

impl Marker {
    pub(super) fn new(run_id: &str, table: &TableName, oid: u32, replaced_by: u32) -> Self {
        Self {
            tool: TOOL.to_owned(),
            run: run_id.to_owned(),
            since: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            table: table.clone(),
            oid,
            replaced_by,
            names: BTreeMap::new(),
            serials: BTreeMap::new(),
            to_validate: Vec::new(),
            merged: false,
            rows: None,
        }
    }

    /// The marker in a table's comment, if it is one of ours for this very table.
    pub(super) fn read(comment: Option<&str>, table: &TableName) -> Option<Self> {
        let marker: Self = serde_json::from_str(comment?).ok()?;
        (marker.tool == TOOL && marker.table == *table).then_some(marker)
    }

    /// The statement that writes the marker.
    pub(super) fn comment_on(&self, backup: &TableName) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        format!("COMMENT ON TABLE {} IS {}", quote_table(backup), quote_literal(&text))
    }

    /// A name for an index or sequence of the backup: unique as the original is, and never too long.
    pub(super) fn backup_name(&mut self, original: &str) -> String {
        let digest = Sha256::digest(&self.run);
        let hash: String = digest.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
        let prefix = format!("{PREFIX}{hash}_");
        let mut name = format!("{prefix}{original}");
        let mut number = 0;
        while name.len() > NAME_BYTES_MAX || self.names.contains_key(&name) {
            number += 1;
            let suffix = format!("_{number}");
            let mut stem = original.to_owned();
            while prefix.len() + stem.len() + suffix.len() > NAME_BYTES_MAX {
                stem.pop();
            }
            name = format!("{prefix}{stem}{suffix}");
        }
        self.names.insert(name.clone(), original.to_owned());
        name
    }

    /// The name it had while live, of an index or sequence of the backup.
    pub(super) fn original_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.names.get(name).map_or(name, String::as_str)
    }
}

/// A backup, for people.
#[derive(Debug, Clone, Serialize)]
pub struct BackupStatus {
    /// The backup's name.
    pub table: TableName,
    /// Its rows: as counted at the push, or the planner's estimate.
    pub rows_estimated: Option<u64>,
    /// What it takes on disk, indexes included.
    pub bytes: u64,
    /// When it stopped being live.
    pub since: String,
    /// The push that replaced it.
    pub run_id: String,
}

/// The live table, for people.
#[derive(Debug, Clone, Serialize)]
pub struct TargetStatus {
    /// The live table's name.
    pub table: TableName,
    /// The planner's estimate of its rows.
    pub rows_estimated: Option<u64>,
    /// What it takes on disk, indexes included.
    pub bytes: u64,
}

/// The backup of a table; `None` when there is none of ours.
///
/// # Errors
/// [`PushError`] when the catalogue cannot be read.
pub async fn backup_status(client: &Client, options: &TargetOptions) -> Result<Option<BackupStatus>, PushError> {
    let table = options.backup_table();
    let Some(attributes) = attributes::read(client, &table).await? else { return Ok(None) };
    let marker = Marker::read(attributes.comment.as_deref(), &options.table);
    Ok(marker.map(|marker| BackupStatus {
        table,
        rows_estimated: marker.rows.or_else(|| rows(&attributes)),
        bytes: attributes.bytes,
        since: marker.since,
        run_id: marker.run,
    }))
}

/// The live table; `None` when it does not exist.
///
/// # Errors
/// [`PushError`] when the catalogue cannot be read.
pub async fn target_status(client: &Client, options: &TargetOptions) -> Result<Option<TargetStatus>, PushError> {
    let attributes = attributes::read(client, &options.table).await?;
    Ok(attributes.map(|attributes| TargetStatus {
        table: options.table.clone(),
        rows_estimated: rows(&attributes),
        bytes: attributes.bytes,
    }))
}

/// The planner's estimate as a whole number.
pub(super) fn rows(attributes: &Attributes) -> Option<u64> {
    // Formatting avoids a lossy cast; the planner's estimate is a whole number below 2^63.
    attributes.rows_estimated.and_then(|rows| format!("{rows:.0}").parse().ok())
}

/// Renames an index or sequence.
pub(super) fn rename_sql(kind: &str, schema: &str, from: &str, to: &str) -> String {
    format!("ALTER {kind} {}.{} RENAME TO {}", quote_ident(schema), quote_ident(from), quote_ident(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_names_are_unique_and_short_enough() {
        let mut marker = Marker::new("r", &TableName::new("public", "t"), 1, 2);
        let long = "é".repeat(31);
        let names: Vec<String> =
            [long.clone(), format!("{long}x")].iter().map(|name| marker.backup_name(name)).collect();
        assert!(names.iter().all(|name| name.len() <= NAME_BYTES_MAX));
        assert_ne!(names[0], names[1]);
        assert_eq!(marker.original_name(&names[0]), long);
        assert_eq!(marker.original_name("elsewhere"), "elsewhere");
    }
}
