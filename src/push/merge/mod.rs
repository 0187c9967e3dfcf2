//! A merge: only rows that differ are deleted, updated and inserted, so the live table stays itself and nothing
//! attached to it can be lost.
//!
//! The dataset is loaded beside the live table as for a swap. One transaction then stops writers, and not readers,
//! compares the two by key, copies the live table to the backup, and changes the rows that differ in batches. Readers
//! see all rows from before it or all rows from after it.

mod apply;
mod pace;
mod plan;
mod rollback;
mod sql;
mod stage;

use std::collections::BTreeMap;
use std::time::Instant;

use arrow::record_batch::RecordBatch;
use futures::Stream;
use serde::Serialize;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::pg::{DatabaseUrl, Session, quote_table};
use crate::progress::{Progress, Step};
use crate::schema::TableName;

pub(super) use pace::due;
pub use plan::choose;
pub(super) use plan::{plan_auto, plan_merge};
pub(super) use rollback::{Locked, find_merged, roll_back};

use super::after;
use super::copy_in::Dataset;
use super::error::{BoxError, PushError};
use super::live_views::ViewsReport;
use super::options::TargetOptions;
use super::orphans;
use super::plan::PushMode;
use super::replace::BackupMade;
use super::run_schema::RunSchema;
use super::session::{self, LockKey};
use super::{staging, verify};

use apply::Merge;

/// The share of rows from which a merge leaves so much dead space behind that it is worth knowing: one in three.
const LARGE_SHARE: u64 = 3;

/// What happened to rows, by key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MergeCounts {
    /// Rows that only the source had.
    pub inserted: u64,
    /// Rows that differed.
    pub updated: u64,
    /// Rows that only the live table had.
    pub deleted: u64,
    /// Rows that were the same and were not touched.
    pub unchanged: u64,
}

/// What a push by merge did.
#[derive(Debug, Clone, Serialize)]
pub struct MergeReport {
    /// The live table.
    pub table: TableName,
    /// Always [`PushMode::Merge`].
    pub mode: PushMode,
    /// Rows in the live table now.
    pub rows: u64,
    /// What happened to them.
    #[serde(flatten)]
    pub counts: MergeCounts,
    /// COPY bytes sent.
    pub bytes: u64,
    /// Write-ahead log that the server wrote meanwhile, the load, the backup and other sessions' writes included.
    pub wal_bytes: u64,
    /// Seconds of the COPY alone.
    pub copy_seconds: f64,
    /// Seconds for checking what arrived.
    pub verify_seconds: f64,
    /// Seconds of the transaction that changed the live table; writers waited for it, readers did not.
    pub merge_seconds: f64,
    /// Attempts until no lock of others was in the way.
    pub attempts: u32,
    /// The rows from before, as a table of their own.
    pub backup: BackupMade,
    /// Values that became null because they did not fit, by column.
    pub nulled: BTreeMap<String, u64>,
    /// The views beside the live table, when they were asked for.
    pub views: Option<ViewsReport>,
    /// Things worth knowing, one sentence each.
    pub notes: Vec<String>,
    /// What did not go as it should and does not undo the push.
    pub warnings: Vec<String>,
}

/// Changes the live table's rows into the dataset's, all of them or none.
///
/// Readers go on and see the old rows until the commit and the new ones after it; writers wait for the transaction.
///
/// # Errors
/// [`PushError`]; unless it says otherwise, the live table and its backup are as they were.
pub async fn merge<S>(
    url: &DatabaseUrl,
    options: &TargetOptions,
    dataset: Dataset<S>,
    run_id: &str,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<MergeReport, PushError>
where
    S: Stream<Item = Result<RecordBatch, BoxError>> + Send,
{
    let table = &options.table;
    let (session, server) = session::open(url, table, run_id).await?;
    let lock = LockKey::of(table);
    session::take_lock(&session, lock, table).await?;
    let settled = orphans::settle(&session, table, false).await?;
    let mut warnings = settled.warnings;
    warnings.extend(after::finish(&session, table, &options.backup_table()).await?);
    let found = plan::inspect(&session, options, &dataset.schema).await?;
    let (plan, target) = match (found.plan, found.target) {
        (plan, Some(target)) if plan.blockers.is_empty() => (plan, target),
        (plan, _) => return Err(PushError::Blocked { table: table.clone(), blockers: plan.blockers }),
    };
    verify::enough_rows(&session, options, dataset.rows).await?;
    let wal_before = wal_position(&session, table).await?;
    let schema = RunSchema::new(run_id, table);
    let staging = schema.table(table.name());
    let descriptions = staging::descriptions(table, &plan.columns, &dataset.schema);
    let work = async {
        let loaded = stage::stage(&session, options, &plan.columns, &schema, dataset, progress).await?;
        let started = Instant::now();
        verify::check(&session, table, &staging, &loaded).await?;
        let verify_seconds = started.elapsed().as_secs_f64();
        let merge = Merge {
            options,
            target: &target,
            source: &staging,
            run_schema: &schema,
            run_id,
            lock_budget: server.lock_budget(options.lock_budget),
            make_room: target.backups.make_room(options, schema.name()),
            descriptions,
        };
        let started = Instant::now();
        let applied = merge.apply(&session, progress).await?;
        Ok((loaded, verify_seconds, started, applied))
    };
    let worked = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(PushError::Cancelled { table: table.clone() }),
        worked = work => worked,
    };
    let (loaded, verify_seconds, started, applied) = match worked {
        Ok(worked) => worked,
        Err(error) => {
            // Closing the socket ends whatever the server still does for us, and it undoes the transaction.
            drop(session);
            clean_up(url, options, &schema, run_id, lock, server.pid).await;
            return Err(error);
        }
    };
    let (session, answer_lost) = commit(url, options, session, &schema, run_id, lock, server.pid).await?;
    let merge_seconds = started.elapsed().as_secs_f64();
    // It has happened, whatever fails from here on.
    let wal_bytes = match wal_position(&session, table).await {
        Ok(position) => position.saturating_sub(wal_before),
        Err(error) => {
            warnings.push(format!("how much log was written is not known: {error}"));
            0
        }
    };
    if let Err(error) = analyze(&session, table).await {
        warnings.push(format!("{table} could not be analyzed: {error}"));
    }
    if let Err(error) = schema.remove(&session, table).await {
        warnings.push(format!("schema {} with the former backup could not be removed: {error}", schema.name()));
    }
    session::release_lock(&session, lock).await;
    for warning in &warnings {
        progress.warn(Step::Push, warning.clone());
    }
    let mut notes = [plan.notes, settled.notes].concat();
    notes.extend(bloat(table, applied.counts));
    notes.extend(applied.pace.note());
    notes.extend(answer_lost.then(apply::answer_lost));
    tracing::info!(%table, rows = loaded.rows, bytes = loaded.bytes, wal_bytes, "merged");
    Ok(MergeReport {
        table: table.clone(),
        mode: PushMode::Merge,
        rows: loaded.rows,
        counts: applied.counts,
        bytes: loaded.bytes,
        wal_bytes,
        copy_seconds: loaded.seconds,
        verify_seconds,
        merge_seconds,
        attempts: applied.attempts,
        backup: BackupMade { table: options.backup_table(), rows_estimated: Some(applied.rows_before) },
        nulled: loaded.nulled,
        views: None,
        notes,
        warnings,
    })
}

/// Says when so many rows changed that the table has grown.
fn bloat(table: &TableName, counts: MergeCounts) -> Option<String> {
    let changed = counts.updated + counts.deleted;
    let before = counts.unchanged + changed;
    (changed * LARGE_SHARE > before).then(|| {
        format!(
            "{changed} of {before} rows were changed or deleted, and their old versions take space in {table} until \
             autovacuum has run; for changes of this size a swap is the better mode"
        )
    })
}

/// Commits, and removes the run schema where that failed; answers the session, and whether the server's answer was lost.
async fn commit(
    url: &DatabaseUrl,
    options: &TargetOptions,
    session: Session,
    schema: &RunSchema,
    run_id: &str,
    lock: LockKey,
    pid: i32,
) -> Result<(Session, bool), PushError> {
    let committed = apply::commit(url, options, session, run_id, lock, pid).await;
    match &committed {
        // Where nobody knows, the next command finds out by what is left.
        Ok(_) | Err(PushError::OutcomeUnknown { .. }) => {}
        Err(_) => clean_up(url, options, schema, run_id, lock, pid).await,
    }
    committed
}

/// Removes the run schema of a merge that failed, over a session of its own. What cannot be removed now, the next push
/// removes.
async fn clean_up(
    url: &DatabaseUrl,
    options: &TargetOptions,
    schema: &RunSchema,
    run_id: &str,
    lock: LockKey,
    pid: i32,
) {
    let table = &options.table;
    let removed = async {
        let (session, _) = session::open(url, table, run_id).await?;
        session::end_lost(&session, url, table, run_id, pid, false).await?;
        session::wait_for_lock(&session, lock, table, options.outcome_patience).await?;
        let removed = schema.remove(&session, table).await;
        session::release_lock(&session, lock).await;
        removed
    };
    if let Err(error) = removed.await {
        tracing::warn!(%table, %error, schema = schema.name(), "the run schema stays until the next push");
    }
}

async fn wal_position(client: &Client, table: &TableName) -> Result<u64, PushError> {
    let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";
    let failed = |source| PushError::at("read the position of the write-ahead log", table, source);
    Ok(u64::try_from(client.query_one(sql, &[]).await.map_err(failed)?.get::<_, i64>(0)).unwrap_or(0))
}

async fn analyze(client: &Client, table: &TableName) -> Result<(), PushError> {
    let sql = format!("ANALYZE {}", quote_table(table));
    client.batch_execute(&sql).await.map_err(|source| PushError::at("analyze the table", table, source))
}
