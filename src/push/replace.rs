//! A push from beginning to end.

use std::time::Instant;

use arrow::record_batch::RecordBatch;
use futures::Stream;
use serde::Serialize;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::pg::{DatabaseUrl, Session, quote_ident, quote_table};
use crate::progress::{Progress, Step};
use crate::schema::TableName;

use super::attributes::{self, Attributes};
use super::batch::{Candidate, SequencePosition, Swap};
use super::copy_in::{self, Dataset, Loaded};
use super::error::{BoxError, PushError};
use super::live_views::ViewsReport;
use super::options::TargetOptions;
use super::plan::{self, Inspection, PushMode};
use super::run_schema::{self, RunSchema};
use super::session::{self, LockKey, Server};
use super::staging;
use super::swap::{self, SwapReport};
use super::verify;

/// Memory for building an index; the server's default makes large sorts spill.
const INDEX_MEMORY: &str = "256MB";

/// What takes rows that the server has to cast, in the run schema; the other name is for a target of this name.
const RAW_TABLE: &str = "_raw";
const OTHER_RAW_TABLE: &str = "_raw_rows";

/// Changes of the live table during one push that are followed before the push gives up.
const DRIFTS_MAX: u32 = 3;

/// What a push did.
#[derive(Debug, Clone, Serialize)]
pub struct PushReport {
    /// The live table.
    pub table: TableName,
    /// Whether the table was created or swapped.
    pub mode: PushMode,
    /// Rows in the live table now.
    pub rows: u64,
    /// COPY bytes sent.
    pub bytes: u64,
    /// Seconds of the COPY alone.
    pub copy_seconds: f64,
    /// Seconds for indexes and everything else attached.
    pub index_seconds: f64,
    /// Seconds for `VACUUM (ANALYZE)`.
    pub analyze_seconds: f64,
    /// Seconds for counting what arrived.
    pub verify_seconds: f64,
    /// How the swap went.
    pub swap: SwapReport,
    /// The former live table, unless this was the first push.
    pub backup: Option<BackupMade>,
    /// The views beside the live table, when they were asked for.
    pub views: Option<ViewsReport>,
    /// Things worth knowing, one sentence each.
    pub notes: Vec<String>,
    /// What did not go as it should and does not undo the push.
    pub warnings: Vec<String>,
}

/// The backup that a push made of the former live table.
#[derive(Debug, Clone, Serialize)]
pub struct BackupMade {
    /// Its name.
    pub table: TableName,
    /// The planner's estimate of its rows.
    pub rows_estimated: Option<u64>,
}

/// A staging table, loaded, dressed and verified.
#[derive(Debug)]
struct Staged {
    oid: u32,
    loaded: Loaded,
    index_seconds: f64,
    analyze_seconds: f64,
    verify_seconds: f64,
    sequences: Vec<SequencePosition>,
}

/// Puts the dataset in place of the live table, which becomes the backup; creates the table if there is none.
///
/// Readers of the live table see the old rows until the swap and the new ones after it; none of them gets an error or
/// waits longer than the lock budget and the batch together. Whatever fails before the swap leaves the live table and
/// its backup as they were.
///
/// # Errors
/// [`PushError`], by what the caller can do about it.
pub async fn push<S>(
    url: &DatabaseUrl,
    options: &TargetOptions,
    dataset: Dataset<S>,
    run_id: &str,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<PushReport, PushError>
where
    S: Stream<Item = Result<RecordBatch, BoxError>> + Send,
{
    let table = &options.table;
    let (mut session, server) = session::open(url, table, run_id).await?;
    let lock = LockKey::of(url, table);
    session::take_lock(&session, lock, table).await?;
    let mut warnings = Vec::new();
    for (schema, error) in run_schema::remove_orphans(&session, table).await? {
        warnings.push(format!("schema {schema}, left by an earlier push, could not be removed: {error}"));
    }
    let inspection = plan::inspect(&session, options, &dataset.schema).await?;
    if !inspection.plan.blockers.is_empty() {
        return Err(PushError::Blocked { table: table.clone(), blockers: inspection.plan.blockers });
    }
    let schema = RunSchema::new(run_id, table);
    let mut run = Run { options, inspection, schema: &schema, server: &server, progress };
    let staged = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(PushError::Cancelled { table: table.clone() }),
        staged = run.stage(&session, dataset) => staged,
    };
    let swapped = match &staged {
        Ok(staged) => run.swap_in(url, &mut session, run_id, lock, staged, cancel).await,
        Err(_) => Ok(SwapReport::default()),
    };
    let (staged, swapped) = match (staged, swapped) {
        (Ok(staged), Ok(swapped)) => (staged, swapped),
        (Err(error), _) | (_, Err(error)) => {
            // Closing the socket ends whatever the server still does for us.
            drop(session);
            clean_up(url, &run, run_id, lock, server.pid).await;
            return Err(error);
        }
    };
    if let Err(error) = schema.remove(&session, table).await {
        warnings.push(format!("schema {} with the former backup could not be removed: {error}", schema.name()));
    }
    session::release_lock(&session, lock).await;
    for warning in &warnings {
        progress.warn(Step::Push, warning.clone());
    }
    let report = run.report(&staged, swapped, warnings);
    tracing::info!(%table, rows = report.rows, bytes = report.bytes, lock_wait_ms = report.swap.lock_wait_ms, "pushed");
    Ok(report)
}

/// Removes the run schema of a push that failed, over a session of its own, once the failed one has ended. What cannot
/// be removed now, the next push removes.
async fn clean_up(url: &DatabaseUrl, run: &Run<'_>, run_id: &str, lock: LockKey, pid: i32) {
    let table = &run.options.table;
    if let Err(error) = try_clean_up(url, run, run_id, lock, pid).await {
        tracing::warn!(%table, %error, schema = run.schema.name(), "the run schema stays until the next push");
    }
}

async fn try_clean_up(
    url: &DatabaseUrl,
    run: &Run<'_>,
    run_id: &str,
    lock: LockKey,
    pid: i32,
) -> Result<(), PushError> {
    let table = &run.options.table;
    let (session, _) = session::open(url, table, run_id).await?;
    session::end_lost(&session, url, table, run_id, pid, false).await?;
    session::wait_for_lock(&session, lock, table, swap::OUTCOME_PATIENCE).await?;
    let removed = run.schema.remove(&session, table).await;
    session::release_lock(&session, lock).await;
    removed
}

/// What the steps of one push share.
#[derive(Debug)]
struct Run<'a> {
    options: &'a TargetOptions,
    inspection: Inspection,
    schema: &'a RunSchema,
    server: &'a Server,
    progress: &'a Progress,
}

impl Run<'_> {
    fn live(&self) -> Option<&Attributes> {
        self.inspection.live.as_ref()
    }

    fn staging_table(&self) -> TableName {
        self.schema.table(self.options.table.name())
    }

    /// Where rows go that the server has to cast first.
    fn raw_table(&self) -> TableName {
        let name = if self.options.table.name() == RAW_TABLE { OTHER_RAW_TABLE } else { RAW_TABLE };
        self.schema.table(name)
    }

    fn failed(&self, step: &'static str) -> impl Fn(tokio_postgres::Error) -> PushError {
        let table = self.options.table.clone();
        move |source| PushError::at(step, &table, source)
    }

    /// S2 to S4: a staging table, loaded, dressed and verified.
    async fn stage<S>(&self, session: &Session, dataset: Dataset<S>) -> Result<Staged, PushError>
    where
        S: Stream<Item = Result<RecordBatch, BoxError>> + Send,
    {
        let staging = self.staging_table();
        let loaded = self.load(session, dataset).await?;
        let started = Instant::now();
        self.dress(session).await?;
        let index_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        session
            .batch_execute(&format!("VACUUM (ANALYZE) {}", quote_table(&staging)))
            .await
            .map_err(self.failed("analyze the staging table"))?;
        let analyze_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let work = self.progress.start(Step::Push, "verify", None);
        verify::check(session, &self.options.table, &staging, &self.inspection.plan.columns, &loaded).await?;
        let sequences = self.sequences(session).await?;
        work.finish();
        let verify_seconds = started.elapsed().as_secs_f64();
        let oid = session
            .query_one("SELECT to_regclass($1)::oid", &[&quote_table(&staging)])
            .await
            .map_err(self.failed("find the staging table"))?
            .get(0);
        Ok(Staged { oid, loaded, index_seconds, analyze_seconds, verify_seconds, sequences })
    }

    /// Creates and loads in one transaction: a load that fails leaves nothing behind, and `FREEZE`, which it allows,
    /// is what makes the rows visible to transactions that began before the swap.
    async fn load<S>(&self, session: &Client, dataset: Dataset<S>) -> Result<Loaded, PushError>
    where
        S: Stream<Item = Result<RecordBatch, BoxError>> + Send,
    {
        let staging = self.staging_table();
        let columns = &self.inspection.plan.columns;
        let mut sql = vec!["BEGIN".to_owned(), self.schema.create_sql()];
        match self.live() {
            Some(live) => {
                sql.extend(staging::create_like(&staging, &self.options.table, live, columns, self.server.version));
                for sequence in live.sequences.iter().filter(|sequence| sequence.identity) {
                    sql.push(staging::position_identity(self.schema.name(), &staging, sequence));
                }
            }
            None => sql.push(staging::create_first(&staging, columns)),
        }
        let raw = (!columns.cast_by_server.is_empty()).then(|| self.raw_table());
        sql.extend(raw.as_ref().map(|raw| columns.create_raw(raw)));
        session.batch_execute(&sql.join(";")).await.map_err(self.failed("create the staging table"))?;
        let work = self.progress.start(Step::Push, self.options.table.to_string(), Some(dataset.rows));
        let into = raw.as_ref().unwrap_or(&staging);
        let loaded = copy_in::load(session, self.options, into, columns, dataset, &work).await?;
        if let Some(raw) = &raw {
            let cast = format!("{};DROP TABLE {}", columns.cast_statement(raw, &staging), quote_table(raw));
            session.batch_execute(&cast).await.map_err(self.failed("cast the columns loaded as text"))?;
        }
        session.batch_execute("COMMIT").await.map_err(self.failed("commit the load"))?;
        work.finish();
        Ok(loaded)
    }

    async fn dress(&self, session: &Client) -> Result<(), PushError> {
        let staging = self.staging_table();
        let set_memory = format!("SET maintenance_work_mem = '{INDEX_MEMORY}'");
        session.batch_execute(&set_memory).await.map_err(self.failed("prepare the indexes"))?;
        let Some(live) = self.live() else { return self.dress_first(session).await };
        for (name, definition) in staging::build_indexes(&staging, live) {
            let work = self.progress.start(Step::Push, format!("index {name}"), None);
            session.batch_execute(&definition).await.map_err(self.failed("build an index"))?;
            work.finish();
        }
        let dress = staging::dress(&staging, live, self.descriptions()).join(";");
        session.batch_execute(&dress).await.map_err(self.failed("attach what the live table has"))
    }

    fn descriptions(&self) -> Vec<String> {
        staging::descriptions(&self.staging_table(), &self.inspection.plan.columns, &self.inspection.dataset)
    }

    /// A first push: comments, a primary key, row-level security, and no privileges for anybody.
    async fn dress_first(&self, session: &Client) -> Result<(), PushError> {
        let staging = quote_table(&self.staging_table());
        let mut sql = vec![staging::revoke_all_but_owner("TABLE", "r", &staging)];
        if !self.options.key.is_empty() {
            let key: Vec<String> = self.options.key.iter().map(|column| quote_ident(column)).collect();
            sql.push(format!("ALTER TABLE {staging} ADD PRIMARY KEY ({})", key.join(", ")));
        }
        sql.extend(self.descriptions());
        sql.push(format!("ALTER TABLE {staging} ENABLE ROW LEVEL SECURITY"));
        session.batch_execute(&sql.join(";")).await.map_err(self.failed("attach the primary key"))
    }

    /// How far the values of columns with a sequence go.
    async fn sequences(&self, session: &Client) -> Result<Vec<SequencePosition>, PushError> {
        let Some(live) = self.live() else { return Ok(Vec::new()) };
        sequences(session, &self.options.table, &self.staging_table(), live).await
    }

    /// S5: swaps, and dresses the staging table anew when the live table was changed in the meantime.
    async fn swap_in(
        &mut self,
        url: &DatabaseUrl,
        session: &mut Session,
        run_id: &str,
        lock: LockKey,
        staged: &Staged,
        cancel: &CancellationToken,
    ) -> Result<SwapReport, PushError> {
        let work = self.progress.start(Step::Push, "swap", None);
        let mut drifts = 0;
        loop {
            let swap = Swap {
                options: self.options,
                run_id,
                run_schema: self.schema.name(),
                live: self.live(),
                fingerprint: self.inspection.fingerprint.as_deref(),
                candidate: Candidate::Staging {
                    table: self.staging_table(),
                    old_backup: self.inspection.backup.as_ref(),
                },
                candidate_oid: staged.oid,
                sequences: staged.sequences.clone(),
                lock,
            };
            match swap::run(url, session, self.server, &swap, cancel).await {
                Err(PushError::Drifted { what, table }) if drifts < DRIFTS_MAX => {
                    drifts += 1;
                    tracing::info!(%table, what, "the live table was changed meanwhile; looking again");
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return Err(PushError::Cancelled { table }),
                        dressed = self.dress_again(session, &what) => dressed?,
                    }
                }
                swapped => {
                    if swapped.is_ok() {
                        work.finish();
                    }
                    return swapped;
                }
            }
        }
    }

    /// Looks at the live table again, and gives the staging table what is attached to it by now.
    async fn dress_again(&mut self, session: &Session, what: &str) -> Result<(), PushError> {
        let table = &self.options.table;
        let inspection = plan::inspect(session, self.options, &self.inspection.dataset).await?;
        if !inspection.plan.blockers.is_empty() {
            return Err(PushError::Blocked { table: table.clone(), blockers: inspection.plan.blockers });
        }
        let same = match (&self.inspection.live, &inspection.live) {
            (Some(before), Some(now)) => before.is_made_like(now),
            (None, None) => true,
            _ => false,
        };
        if !same {
            return Err(PushError::Drifted { table: table.clone(), what: what.to_owned() });
        }
        self.inspection = inspection;
        let staging = self.staging_table();
        let staged = attributes::read(session, &staging).await?;
        if let (Some(live), Some(staged)) = (self.live(), staged) {
            let undress = staging::undress(&staging, &staged, live).join(";");
            session.batch_execute(&undress).await.map_err(self.failed("dress the staging table again"))?;
            self.dress(session).await?;
            let sql = format!("VACUUM (ANALYZE) {}", quote_table(&staging));
            session.batch_execute(&sql).await.map_err(self.failed("analyze the staging table"))?;
        }
        Ok(())
    }

    fn report(&self, staged: &Staged, swap: SwapReport, warnings: Vec<String>) -> PushReport {
        let plan = &self.inspection.plan;
        let backup = self
            .live()
            .map(|_| BackupMade { table: self.options.backup_table(), rows_estimated: plan.live_rows_estimated });
        PushReport {
            table: self.options.table.clone(),
            mode: plan.mode,
            rows: staged.loaded.rows,
            bytes: staged.loaded.bytes,
            copy_seconds: staged.loaded.seconds,
            index_seconds: staged.index_seconds,
            analyze_seconds: staged.analyze_seconds,
            verify_seconds: staged.verify_seconds,
            swap,
            backup,
            views: None,
            notes: plan.notes.clone(),
            warnings,
        }
    }
}

/// How far the values of columns with a sequence go in a table that is to become live.
pub(super) async fn sequences(
    session: &Client,
    table: &TableName,
    candidate: &TableName,
    live: &Attributes,
) -> Result<Vec<SequencePosition>, PushError> {
    let mut positions = Vec::new();
    for sequence in &live.sequences {
        let function = if sequence.ascending { "max" } else { "min" };
        let column = quote_ident(&sequence.column);
        let sql = format!("SELECT {function}({column})::bigint FROM {}", quote_table(candidate));
        let row = session
            .query_one(&sql, &[])
            .await
            .map_err(|source| PushError::at("read the values of a sequence's column", table, source))?;
        positions.push(SequencePosition { sequence: sequence.clone(), furthest: row.get(0) });
    }
    Ok(positions)
}
