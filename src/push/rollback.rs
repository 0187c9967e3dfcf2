//! A rollback: the same swap with the backup as the candidate. Rolling back twice brings the push back.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::pg::{DatabaseUrl, Session};
use crate::progress::{Progress, Step};
use crate::schema::TableName;

use super::after;
use super::attributes::{self, Attributes};
use super::backup::{self, Marker};
use super::batch::{Candidate, SequencePosition, Swap};
use super::blockers;
use super::carried;
use super::error::{Blocker, PushError};
use super::foreign_keys;
use super::materialized_views;
use super::merge::{self, MergeCounts};
use super::options::TargetOptions;
use super::orphans;
use super::plan;
use super::replace;
use super::run_schema::RunSchema;
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
    /// What happened to rows, when the push was a merge and was merged back.
    pub merged: Option<MergeCounts>,
    /// Things worth knowing, one sentence each.
    pub notes: Vec<String>,
    /// What did not go as it should and does not undo the rollback.
    pub warnings: Vec<String>,
}

/// Puts the backup back in place of the live table, which becomes the backup.
///
/// As in a push, readers see the one or the other and wait no longer than the lock budget and the batch together.
/// Owner, policies, privileges, comments and row-level security are those of the live table, so what was tightened
/// since the push stays tight. What a push has loaded and could not swap is removed.
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
    let lock = LockKey::of(table);
    session::take_lock(&session, lock, table).await?;
    // What a push has loaded and not swapped goes too: it was to follow the table that is now given up.
    let orphans::Settled { mut notes, mut warnings, .. } = orphans::settle(&session, table, false).await?;
    warnings.extend(after::finish(&session, table, &options.backup_table()).await?);
    if let Some(merged) = merge::find_merged(&session, options).await? {
        let locked = merge::Locked { url, session, server, lock, run_id, notes, warnings };
        return merge::roll_back(locked, options, merged, progress, cancel).await;
    }
    let found = inspect(&session, options).await?;
    warnings.extend(differences(&found.live, &found.backup, &found.marker));
    let sequences = sequences(&session, options, &found).await?;
    foreign_keys::check_orphans(&session, table, &options.backup_table(), &found.live).await?;
    let schema = RunSchema::new(run_id, table);
    session
        .batch_execute(&format!("BEGIN; {}; COMMIT", schema.create_sql()))
        .await
        .map_err(|source| PushError::at("create the run schema", table, source))?;
    let work = progress.start(Step::Push, "rollback", None);
    let prepared = prepare(&session, options, &schema, &found).await;
    let swap = Swap {
        options,
        run_id,
        run_schema: schema.name(),
        live: Some(&found.live),
        fingerprint: Some(&found.fingerprint),
        candidate: Candidate::Backup { attributes: &found.backup, marker: &found.marker },
        candidate_oid: found.backup.oid,
        sequences,
        rows_before: None,
        lock,
    };
    let swapped = match prepared {
        Ok(said) => {
            warnings.extend(said);
            swap::run(url, &mut session, &server, &swap, cancel).await
        }
        Err(error) => Err(error),
    };
    let removed = schema.remove(&session, table).await;
    let finished = after::finish(&session, table, &options.backup_table()).await;
    let now = attributes::read(&session, table).await;
    session::release_lock(&session, lock).await;
    let swap = swapped?;
    work.finish();
    match finished {
        Ok(said) => warnings.extend(said),
        Err(error) => warnings.push(format!("what follows the swap was not done: {error}")),
    }
    match now {
        Ok(now) => warnings.extend(now.map(|now| untold(&warnings, &found.live, &now)).unwrap_or_default()),
        Err(error) => warnings.push(format!("what is attached to {table} now could not be read: {error}")),
    }
    if swap.answer_lost {
        notes.push("the connection was lost during the swap; the server says that it had happened".to_owned());
    }
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
        merged: None,
        notes,
        warnings,
    })
}

/// How far the values of the backup's columns go that have a sequence.
async fn sequences(
    session: &Session,
    options: &TargetOptions,
    found: &Pair,
) -> Result<Vec<SequencePosition>, PushError> {
    let mut live = found.live.clone();
    live.sequences.retain(|sequence| found.backup.columns.iter().any(|column| column.name == sequence.column));
    replace::sequences(session, &options.table, &options.backup_table(), &live).await
}

/// What is attached to the table now and was not before the rollback, or otherwise, and was not told yet.
fn untold(told: &[String], before: &Attributes, now: &Attributes) -> Vec<String> {
    let is_told = |thing: &str| told.iter().any(|told| format!("{told} ").contains(&format!("{thing} ")));
    let lost = carried::differences(before, now).into_iter().filter(|lost| !is_told(&lost.singular()));
    lost.map(|lost| lost.after("rollback")).collect()
}

/// Gives the backup what the live table has that stands on other relations: foreign keys, and materialized views over
/// it in the run schema. Foreign keys that its rows do not keep are attached for new rows only, and said: a rollback
/// must not depend on them.
async fn prepare(
    session: &Session,
    options: &TargetOptions,
    schema: &RunSchema,
    found: &Pair,
) -> Result<Vec<String>, PushError> {
    let (table, backup) = (&options.table, options.backup_table());
    let failed = |step| move |source| PushError::at(step, table, source);
    let keys = foreign_keys::attach(session, &backup, &found.live, Some(&found.backup)).await;
    let mut warnings = Vec::new();
    for name in keys.map_err(failed("attach the foreign keys"))? {
        if let Err(error) = foreign_keys::validate(session, &backup, &name).await {
            warnings.push(format!("constraint {name} of {table} holds for new rows only: {}", after::said(&error)));
        }
    }
    let build = materialized_views::build_over_backup(schema.name(), table, &backup, &found.live);
    if !build.is_empty() {
        let failed = failed("make the materialized views over the backup");
        session.batch_execute(&format!("BEGIN;{};COMMIT", build.join(";"))).await.map_err(&failed)?;
        materialized_views::check(session, schema.name(), table, &found.live).await?;
        for analyze in materialized_views::analyze(schema.name(), &found.live) {
            session.batch_execute(&analyze).await.map_err(&failed)?;
        }
    }
    Ok(warnings)
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
    let mut found = blockers::find(session, options, table, &live).await?;
    found.extend(blockers::find(session, options, &options.backup_table(), &backup).await?);
    found.extend(lost_columns(session, table, &live, &backup).await?);
    if found.is_empty() { Ok(Pair { live, fingerprint, backup, marker }) } else { Err(blocked(found)) }
}

/// What stands on columns that the backup does not have.
async fn lost_columns(
    session: &Session,
    table: &TableName,
    live: &Attributes,
    backup: &Attributes,
) -> Result<Vec<Blocker>, PushError> {
    let is_lost = |name: &str| !backup.columns.iter().any(|other| other.name == name);
    let lost: Vec<&str> = live.columns.iter().map(|column| column.name.as_str()).filter(|name| is_lost(name)).collect();
    let rows = session
        .query(
            "SELECT pg_describe_object(d.classid, d.objid, 0), a.attname FROM pg_depend d \
             JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
             LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid \
             WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND a.attname = ANY($2) \
               AND (d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_trigger'::regclass, 'pg_proc'::regclass, \
                                  'pg_publication_rel'::regclass) OR k.conrelid <> $1) ORDER BY 2, 1",
            &[&live.oid, &lost],
        )
        .await
        .map_err(|source| PushError::at("look at the columns that the backup lacks", table, source))?;
    let mut blockers: Vec<Blocker> = rows
        .iter()
        .map(|row| Blocker {
            object: row.get(0),
            why: format!("it stands on column {}, which the backup does not have", row.get::<_, String>(1)),
            alternative: "drop it before the rollback".to_owned(),
        })
        .collect();
    let granted = live.columns.iter().filter(|column| !column.privileges.is_empty() && is_lost(&column.name));
    blockers.extend(granted.map(|column| Blocker {
        object: format!("column {}", column.name),
        why: "privileges were granted on it, and the backup does not have it".to_owned(),
        alternative: "revoke them first".to_owned(),
    }));
    Ok(blockers)
}

/// What the live table has gained since the push, or lost, that a rollback does not carry over.
fn differences(live: &Attributes, backup: &Attributes, marker: &Marker) -> Vec<String> {
    let of = |attributes: &Attributes| -> Vec<String> {
        let columns = attributes.columns.iter().map(|column| format!("column {}", column.name));
        let name = |name: &String| marker.original_name(name).to_owned();
        let indexes = attributes.indexes.iter().map(|index| format!("index {}", name(&index.name)));
        // Foreign keys are attached again.
        let checks = attributes
            .constraints
            .iter()
            .filter(|check| check.kind != 'f')
            .map(|check| format!("constraint {}", name(&check.name)));
        let statistics = attributes.statistics.iter().map(|of| format!("statistics {}", name(&of.name)));
        columns.chain(indexes).chain(checks).chain(statistics).collect()
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
