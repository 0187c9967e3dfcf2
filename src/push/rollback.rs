//! A rollback: the same swap with the backup as the candidate. Rolling back twice brings the push back.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::pg::{DatabaseUrl, Session};
use crate::progress::{Progress, Step};
use crate::schema::TableName;

use super::attributes::{self, Attributes};
use super::backup::{self, Marker};
use super::batch::{Candidate, Swap};
use super::blockers;
use super::error::{Blocker, PushError};
use super::options::TargetOptions;
use super::plan;
use super::replace;
use super::run_schema::{self, RunSchema};
use super::session::{self, LockKey};
use super::swap::{self, SwapReport};

/// What a rollback did.
#[derive(Debug, Clone, Serialize)]
pub struct RollbackReport {
    /// The live table, which was the backup before.
    pub table: TableName,
    /// The planner's estimate of its rows.
    pub rows_estimated: Option<u64>,
    /// The backup, which was the live table before.
    pub backup: TableName,
    /// The push that had replaced the table that is live again.
    pub undone_run: String,
    /// How the swap went.
    pub swap: SwapReport,
    /// What did not go as it should and does not undo the rollback.
    pub warnings: Vec<String>,
}

/// Puts the backup back in place of the live table, which becomes the backup.
///
/// As in a push, readers see the one or the other and wait no longer than the lock budget and the batch together.
/// Policies, privileges, the comment and row-level security are those of the live table, so what was tightened since
/// the push stays tight.
///
/// # Errors
/// [`PushError::NoBackup`] when there is none of ours, otherwise as for a push.
pub async fn rollback(
    url: &DatabaseUrl,
    options: &TargetOptions,
    run_id: &str,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<RollbackReport, PushError> {
    let table = &options.table;
    let (mut session, server) = session::open(url, table, run_id).await?;
    let lock = LockKey::of(url, table);
    session::take_lock(&session, lock, table).await?;
    let mut warnings = Vec::new();
    for (schema, error) in run_schema::remove_orphans(&session, table).await? {
        warnings.push(format!("schema {schema}, left by an earlier push, could not be removed: {error}"));
    }
    let found = inspect(&session, options).await?;
    warnings.extend(differences(&found.live, &found.backup, &found.marker));
    let sequences = replace::sequences(&session, table, &options.backup_table(), &found.live).await?;
    let schema = RunSchema::new(run_id, table);
    session
        .batch_execute(&format!("BEGIN; {}; COMMIT", schema.create_sql()))
        .await
        .map_err(|source| PushError::at("create the run schema", table, source))?;
    let swap = Swap {
        options,
        run_id,
        run_schema: schema.name(),
        live: Some(&found.live),
        fingerprint: Some(&found.fingerprint),
        candidate: Candidate::Backup { attributes: &found.backup, marker: &found.marker },
        candidate_oid: found.backup.oid,
        sequences,
        lock,
    };
    let work = progress.start(Step::Push, "rollback", None);
    let swapped = swap::run(url, &mut session, &server, &swap, cancel).await;
    let removed = schema.remove(&session, table).await;
    session::release_lock(&session, lock).await;
    let swap = swapped?;
    work.finish();
    if let Err(error) = removed {
        warnings.push(format!("schema {} could not be removed: {error}", schema.name()));
    }
    for warning in &warnings {
        progress.warn(Step::Push, warning.clone());
    }
    tracing::info!(%table, lock_wait_ms = swap.lock_wait_ms, "rolled back");
    Ok(RollbackReport {
        table: table.clone(),
        rows_estimated: backup::rows(&found.backup),
        backup: options.backup_table(),
        undone_run: found.marker.run,
        swap,
        warnings,
    })
}

/// The two tables that change places.
struct Pair {
    live: Attributes,
    fingerprint: String,
    backup: Attributes,
    marker: Marker,
}

async fn inspect(session: &Session, options: &TargetOptions) -> Result<Pair, PushError> {
    let table = &options.table;
    let no_backup = || PushError::NoBackup { table: table.clone(), backup: options.backup_table() };
    let backup = attributes::read(session, &options.backup_table()).await?.ok_or_else(no_backup)?;
    let marker = Marker::read(backup.comment.as_deref(), table).ok_or_else(no_backup)?;
    let blocked = |blockers| PushError::Blocked { table: table.clone(), blockers };
    let missing = || {
        blocked(vec![Blocker {
            object: format!("table {table}"),
            why: "it does not exist".to_owned(),
            alternative: format!("rename {} to it, and grant what it needs", options.backup_table()),
        }])
    };
    let oid = attributes::read(session, table).await?.ok_or_else(missing)?.oid;
    let fingerprint = plan::fingerprint(session, table, oid).await?;
    let live = attributes::read(session, table).await?.ok_or_else(missing)?;
    let mut found = blockers::find(session, table, &live).await?;
    found.extend(blockers::find(session, &options.backup_table(), &backup).await?);
    found.extend(lost_columns(&live, &backup));
    if found.is_empty() { Ok(Pair { live, fingerprint, backup, marker }) } else { Err(blocked(found)) }
}

/// Columns with privileges or comments of their own that the backup does not have.
fn lost_columns(live: &Attributes, backup: &Attributes) -> Vec<Blocker> {
    live.columns
        .iter()
        .filter(|column| !column.privileges.is_empty())
        .filter(|column| !backup.columns.iter().any(|other| other.name == column.name))
        .map(|column| Blocker {
            object: format!("column {}", column.name),
            why: "privileges were granted on it, and the backup does not have it".to_owned(),
            alternative: "revoke them first".to_owned(),
        })
        .collect()
}

/// What the live table has gained since the push, or lost, that a rollback does not carry over.
fn differences(live: &Attributes, backup: &Attributes, marker: &Marker) -> Vec<String> {
    let of = |attributes: &Attributes| -> Vec<String> {
        let columns = attributes.columns.iter().map(|column| format!("column {}", column.name));
        let name = |name: &String| marker.original_name(name).to_owned();
        let indexes = attributes.indexes.iter().map(|index| format!("index {}", name(&index.name)));
        let checks = attributes.constraints.iter().map(|check| format!("constraint {}", name(&check.name)));
        columns.chain(indexes).chain(checks).collect()
    };
    let (now, then) = (of(live), of(backup));
    let gone = now
        .iter()
        .filter(|item| !then.contains(item))
        .map(|item| format!("{item} is not on the table that is live again"));
    let back = then
        .iter()
        .filter(|item| !now.contains(item))
        .map(|item| format!("{item} is back with the table that is live again"));
    gone.chain(back).collect()
}
