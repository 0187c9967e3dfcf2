//! A push that was loaded and could not swap, brought to its end.

use std::collections::BTreeMap;
use std::time::Instant;

use arrow::datatypes::Schema;
use tokio_util::sync::CancellationToken;

use crate::pg::{DatabaseUrl, Session, quote_table};
use crate::progress::Progress;
use crate::schema::TableName;

use super::attributes;
use super::error::PushError;
use super::foreign_keys;
use super::options::TargetOptions;
use super::orphans;
use super::replace::{PushReport, Run, Staged};
use super::run_schema::RunSchema;
use super::session::{self, LockKey};

/// Swaps in what an earlier push of this table loaded and verified. Nothing is loaded; what was attached to the live
/// table in the meantime is attached to the new one too. The dataset's columns are those of that push.
///
/// # Errors
/// [`PushError::NothingToResume`] when there is no such push or the dataset is a newer one, otherwise as for a push.
pub async fn resume(
    url: &DatabaseUrl,
    options: &TargetOptions,
    dataset: &Schema,
    run_id: &str,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<PushReport, PushError> {
    let table = &options.table;
    let (session, server) = session::open(url, table, run_id).await?;
    let lock = LockKey::of(table);
    session::take_lock(&session, lock, table).await?;
    let settled = orphans::settle(&session, table, true).await?;
    let schema = newest(options, settled.ready, &settled.notes)?;
    let mut run = Run::new(url, options, dataset, run_id, progress, schema, &session, server).await?;
    run.take_notes(settled.notes, settled.warnings);
    let staged = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(PushError::Cancelled { table: table.clone() }),
        staged = run.stage_again(&session) => staged,
    };
    let pushed = match staged {
        Ok(staged) => run.complete(session, staged, cancel).await,
        Err(error) => Err(error),
    };
    // The load is worth keeping: what stands in its way may go.
    pushed.map_err(|error| match error {
        PushError::DiskFull { table, source, .. } => PushError::DiskFull { table, load: "is kept", source },
        error => error,
    })
}

/// The schema to go on with.
fn newest(options: &TargetOptions, ready: Option<RunSchema>, notes: &[String]) -> Result<RunSchema, PushError> {
    let nothing = |why| PushError::NothingToResume { table: options.table.clone(), why };
    let Some(schema) = ready else {
        return Err(nothing(
            notes.last().cloned().unwrap_or_else(|| "no push has loaded it and not swapped".to_owned()),
        ));
    };
    let marker = schema.marker();
    let loaded = marker.ready.as_ref().and_then(|ready| ready.snapshot.as_ref());
    if loaded != options.snapshot.as_ref() {
        let name = |snapshot: Option<&String>| snapshot.map_or("another dataset", String::as_str).to_owned();
        let (loaded, now) = (name(loaded), name(options.snapshot.as_ref()));
        return Err(nothing(format!("run {} loaded {loaded}, and the dataset is {now} now", marker.run)));
    }
    Ok(schema)
}

impl Run<'_> {
    /// S4 again, for a staging table that an earlier run made.
    async fn stage_again(&mut self, session: &Session) -> Result<Staged, PushError> {
        let table = self.options.table.clone();
        let staging = self.staging_table();
        let Some(ready) = self.schema.marker().ready.clone() else {
            return Err(PushError::NothingToResume {
                table,
                why: "its marker does not say what was loaded".to_owned(),
            });
        };
        let started = Instant::now();
        if self.inspection.fingerprint != ready.fingerprint {
            self.check_columns(session, &table, &staging).await?;
            self.discard_views(session).await?;
            self.redress(session).await?;
            self.mark_ready(session, &ready).await?;
        }
        let index_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let count = format!("SELECT count(*) FROM {}", quote_table(&staging));
        let row = session.query_one(&count, &[]).await.map_err(self.failed("count what was loaded"))?;
        let rows = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        if rows != ready.rows {
            let what = format!("{} rows were loaded, and {rows} are there", ready.rows);
            return Err(PushError::Verify { table, what });
        }
        if let Some(live) = self.live() {
            foreign_keys::check_orphans(session, &table, &staging, live).await?;
        }
        let sequences = self.sequences(session).await?;
        Ok(Staged {
            oid: ready.oid,
            rows,
            bytes: ready.bytes,
            copy_seconds: 0.0,
            index_seconds,
            analyze_seconds: 0.0,
            verify_seconds: started.elapsed().as_secs_f64(),
            sequences,
            nulled: BTreeMap::new(),
        })
    }

    /// Refuses when the live table's columns are no longer those that the staging table was made with.
    async fn check_columns(&self, session: &Session, table: &TableName, staging: &TableName) -> Result<(), PushError> {
        let staged = attributes::read(session, staging).await?;
        let same = match (self.live(), &staged) {
            (Some(live), Some(staged)) => staged.has_columns_of(live),
            (live, _) => live.is_none(),
        };
        if same {
            return Ok(());
        }
        let why = "the live table's columns have changed since it was loaded; push without --resume".to_owned();
        Err(PushError::NothingToResume { table: table.clone(), why })
    }
}
