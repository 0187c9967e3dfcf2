//! The rollback of a merge: a merge back from the backup. Doing it twice is a redo.

use std::time::Instant;

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::pg::{DatabaseUrl, Session, quote_ident, quote_table};
use crate::progress::{Progress, Step};
use crate::push::attributes::{self, Attributes};
use crate::push::backup::Marker;
use crate::push::error::{Blocker, PushError};
use crate::push::options::TargetOptions;
use crate::push::plan;
use crate::push::rollback::RollbackReport;
use crate::push::run_schema::RunSchema;
use crate::push::session::{LockKey, Server, release_lock};
use crate::push::swap::SwapReport;

use super::apply::{self, FORMER_BACKUP, Merge};
use super::plan::{Shape, Target, conditions};
use super::{analyze, clean_up, commit};

/// A live table, and the copy that a merge made of it.
pub(in crate::push) struct Merged {
    live: Attributes,
    backup: Attributes,
    marker: Marker,
}

/// The tables of a rollback, if it is a merge that is to be rolled back.
pub(in crate::push) async fn find_merged(
    client: &Client,
    options: &TargetOptions,
) -> Result<Option<Merged>, PushError> {
    let Some(backup) = attributes::read(client, &options.backup_table()).await? else { return Ok(None) };
    let marker = Marker::read(backup.comment.as_deref(), &options.table).filter(|marker| marker.merged);
    let Some(marker) = marker else { return Ok(None) };
    let live = attributes::read(client, &options.table).await?;
    Ok(live.map(|live| Merged { live, backup, marker }))
}

/// The session of a rollback that holds the push lock.
pub(in crate::push) struct Locked<'a> {
    pub(in crate::push) url: &'a DatabaseUrl,
    pub(in crate::push) session: Session,
    pub(in crate::push) server: Server,
    pub(in crate::push) lock: LockKey,
    pub(in crate::push) run_id: &'a str,
    /// What was said about earlier pushes.
    pub(in crate::push) notes: Vec<String>,
    pub(in crate::push) warnings: Vec<String>,
}

/// Merges the backup back into the live table; what the live table was becomes the backup.
pub(in crate::push) async fn roll_back(
    locked: Locked<'_>,
    options: &TargetOptions,
    merged: Merged,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<RollbackReport, PushError> {
    let Locked { url, session, server, lock, run_id, mut notes, mut warnings } = locked;
    let table = &options.table;
    let undone_run = merged.marker.run.clone();
    let (target, said) = inspect(&session, options, merged).await?;
    warnings.extend(said);
    let schema = RunSchema::new(run_id, table);
    session
        .batch_execute(&format!("BEGIN; {}; COMMIT", schema.create_sql()))
        .await
        .map_err(|source| PushError::at("create the run schema", table, source))?;
    let started = Instant::now();
    let merge = Merge {
        options,
        target: &target,
        source: &schema.table(FORMER_BACKUP),
        run_schema: &schema,
        run_id,
        lock_budget: server.lock_budget(options.lock_budget),
        make_room: vec![
            format!("ALTER TABLE {} SET SCHEMA {}", quote_table(&options.backup_table()), quote_ident(schema.name())),
            format!(
                "ALTER TABLE {} RENAME TO {}",
                quote_table(&schema.table(&options.backup)),
                quote_ident(FORMER_BACKUP)
            ),
        ],
        descriptions: Vec::new(),
    };
    let applied = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(PushError::Cancelled { table: table.clone() }),
        applied = merge.apply(&session, progress) => applied,
    };
    let applied = match applied {
        Ok(applied) => applied,
        Err(error) => {
            drop(session);
            clean_up(url, options, &schema, run_id, lock, server.pid).await;
            return Err(error);
        }
    };
    let (session, answer_lost) = commit(url, options, session, &schema, run_id, lock, server.pid).await?;
    notes.extend(applied.pace.note());
    notes.extend(answer_lost.then(apply::answer_lost));
    let batch_ms = 1000.0 * started.elapsed().as_secs_f64();
    if let Err(error) = analyze(&session, table).await {
        warnings.push(format!("{table} could not be analyzed: {error}"));
    }
    if let Err(error) = schema.remove(&session, table).await {
        warnings.push(format!("schema {} could not be removed: {error}", schema.name()));
    }
    release_lock(&session, lock).await;
    for warning in &warnings {
        progress.warn(Step::Push, warning.clone());
    }
    tracing::info!(%table, updated = applied.counts.updated, "merged back");
    let rows = applied.counts.unchanged + applied.counts.updated + applied.counts.inserted;
    Ok(RollbackReport {
        table: table.clone(),
        rows_estimated: Some(rows),
        backup: options.backup_table(),
        undone_run,
        swap: SwapReport { attempts: applied.attempts, batch_ms, answer_lost, ..SwapReport::default() },
        merged: Some(applied.counts),
        notes,
        warnings,
    })
}

async fn inspect(
    session: &Session,
    options: &TargetOptions,
    merged: Merged,
) -> Result<(Target, Vec<String>), PushError> {
    let Merged { live, backup, .. } = merged;
    let table = &options.table;
    let fingerprint = plan::fingerprint(session, table, live.oid).await?;
    let (mut shared, mut warnings, mut blockers) = (Vec::new(), Vec::new(), Vec::new());
    for column in live.columns.iter().filter(|column| !column.generated) {
        let object = format!("column {}", column.name);
        match backup.columns.iter().find(|other| other.name == column.name) {
            Some(then) if then.type_name == column.type_name => shared.push(column),
            Some(then) => blockers.push(Blocker {
                object,
                why: format!("it was {} when the backup was made and is {}", then.type_name, column.type_name),
                alternative: "give it its former type".to_owned(),
            }),
            None => warnings.push(format!("{object} is not in the backup and stays as it is")),
        }
    }
    let named = |columns: &[&attributes::ColumnAttributes]| -> Vec<String> {
        columns.iter().filter(|column| !options.key.contains(&column.name)).map(|column| column.name.clone()).collect()
    };
    let inserted = named(&shared);
    shared.retain(|column| !column.identity);
    let set = named(&shared);
    let shape = Shape { key: options.key.clone(), compared: set.clone(), set, inserted, ..Shape::default() };
    let (target, more) = conditions(session, options, live, fingerprint, shape).await?;
    blockers.extend(more);
    if blockers.is_empty() {
        Ok((target, warnings))
    } else {
        Err(PushError::Blocked { table: table.clone(), blockers })
    }
}
