//! A push from beginning to end.

use std::collections::BTreeMap;
use std::time::Instant;

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use futures::Stream;
use serde::Serialize;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::pg::{DatabaseUrl, Session, quote_ident, quote_table};
use crate::progress::{Progress, Step};
use crate::schema::TableName;

use super::after;
use super::attributes::{self, Attributes};
use super::batch::{Candidate, SequencePosition, Swap};
use super::carried;
use super::copy_in::{self, Dataset, Loaded};
use super::error::{BoxError, PushError};
use super::foreign_keys;
use super::live_views::ViewsReport;
use super::materialized_views;
use super::options::TargetOptions;
use super::orphans;
use super::plan::{self, Inspection, PushMode};
use super::run_schema::{Ready, RunSchema};
use super::session::{self, LockKey, Server};
use super::staging;
use super::swap::{self, SwapReport};
use super::verify;
use super::writes::{self, Writes};

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
    /// Values that became null because they did not fit, by column.
    pub nulled: BTreeMap<String, u64>,
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
pub(super) struct Staged {
    pub(super) oid: u32,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) copy_seconds: f64,
    pub(super) index_seconds: f64,
    pub(super) analyze_seconds: f64,
    pub(super) verify_seconds: f64,
    pub(super) sequences: Vec<SequencePosition>,
    /// Values that became null because they do not fit, by column.
    pub(super) nulled: BTreeMap<String, u64>,
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
    let (session, server) = session::open(url, table, run_id).await?;
    session::take_lock(&session, LockKey::of(table), table).await?;
    let settled = orphans::settle(&session, table, false).await?;
    let unfinished = after::finish(&session, table, &options.backup_table()).await?;
    let schema = RunSchema::new(run_id, table);
    let mut run = Run::new(url, options, &dataset.schema, run_id, progress, schema, &session, server).await?;
    run.take_notes(settled.notes, [settled.warnings, unfinished].concat());
    if run.live().is_some() {
        run.rows_before = verify::enough_rows(&session, options, dataset.rows).await?;
    }
    let staged = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(PushError::Cancelled { table: table.clone() }),
        staged = run.stage(&session, dataset) => staged,
    };
    match staged {
        Ok(staged) => run.complete(session, staged, cancel).await,
        Err(error) => {
            // Closing the socket ends whatever the server still does for us.
            drop(session);
            run.clean_up().await;
            Err(error)
        }
    }
}

/// What the steps of one push share.
#[derive(Debug)]
pub(super) struct Run<'a> {
    url: &'a DatabaseUrl,
    pub(super) options: &'a TargetOptions,
    pub(super) inspection: Inspection,
    pub(super) schema: RunSchema,
    id: &'a str,
    lock: LockKey,
    server: Server,
    progress: &'a Progress,
    /// Whether it goes on with what an earlier push loaded, which then outlives it if it fails.
    is_resumed: bool,
    /// The live table's rows, where they were counted.
    rows_before: Option<u64>,
    /// What had been written to the live table when it was first inspected.
    writes_before: Option<Writes>,
    notes: Vec<String>,
    warnings: Vec<String>,
}

impl<'a> Run<'a> {
    /// S1: looks at the live table, and refuses what cannot be pushed. The session holds the push lock.
    #[expect(clippy::too_many_arguments, reason = "all of them are kept")]
    pub(super) async fn new(
        url: &'a DatabaseUrl,
        options: &'a TargetOptions,
        dataset: &Schema,
        run_id: &'a str,
        progress: &'a Progress,
        schema: RunSchema,
        session: &Session,
        server: Server,
    ) -> Result<Self, PushError> {
        let inspection = plan::inspect(session, options, dataset).await?;
        if !inspection.plan.blockers.is_empty() {
            return Err(PushError::Blocked { table: options.table.clone(), blockers: inspection.plan.blockers });
        }
        let lock = LockKey::of(&options.table);
        let notes = inspection.plan.notes.clone();
        let is_resumed = schema.marker().ready.is_some();
        let writes_before = match &inspection.live {
            Some(live) => {
                let failed = |source| PushError::at("read the counters of writes", &options.table, source);
                Some(Writes::of(session, live.oid).await.map_err(failed)?)
            }
            None => None,
        };
        Ok(Self {
            url,
            options,
            inspection,
            schema,
            id: run_id,
            lock,
            server,
            progress,
            is_resumed,
            rows_before: None,
            writes_before,
            notes,
            warnings: Vec::new(),
        })
    }

    /// Takes up what was said about earlier pushes.
    pub(super) fn take_notes(&mut self, notes: Vec<String>, warnings: Vec<String>) {
        self.notes.extend(notes);
        self.warnings.extend(warnings);
    }

    /// S5 and S6: swaps, and removes what makes room. A load that could not be swapped in time is kept.
    pub(super) async fn complete(
        mut self,
        mut session: Session,
        staged: Staged,
        cancel: &CancellationToken,
    ) -> Result<PushReport, PushError> {
        let table = self.options.table.clone();
        let swap = match self.swap_in(&mut session, &staged, cancel).await {
            Ok(swap) => swap,
            Err(error @ PushError::SwapTimedOut { .. }) => {
                session::release_lock(&session, self.lock).await;
                return Err(error);
            }
            // The next command finds out by what is left.
            Err(error @ PushError::OutcomeUnknown { .. }) => return Err(error),
            // An earlier push loaded it, and what stands in its way may go.
            Err(error) if self.is_resumed => {
                session::release_lock(&session, self.lock).await;
                return Err(error);
            }
            Err(error) => {
                drop(session);
                self.clean_up().await;
                return Err(error);
            }
        };
        if swap.answer_lost {
            self.notes.push("the connection was lost during the swap; the server says that it had happened".to_owned());
        }
        let finished = self.finish(&session).await;
        self.warnings.extend(finished);
        let removed = self.schema.remove(&session, &table).await;
        session::release_lock(&session, self.lock).await;
        let removed = match removed {
            Err(PushError::Lost { .. }) => {
                drop(session);
                self.try_clean_up().await
            }
            removed => removed,
        };
        if let Err(error) = removed {
            let name = self.schema.name();
            self.warnings.push(format!("schema {name} with the former backup could not be removed: {error}"));
        }
        for warning in &self.warnings {
            self.progress.warn(Step::Push, warning.clone());
        }
        let report = self.report(&staged, swap);
        tracing::info!(%table, rows = report.rows, bytes = report.bytes, lock_wait_ms = report.swap.lock_wait_ms, "pushed");
        Ok(report)
    }

    /// Removes the run schema over a session of its own, once the lost one has ended. What cannot be removed now, the
    /// next push removes.
    async fn clean_up(&self) {
        if let Err(error) = self.try_clean_up().await {
            let table = &self.options.table;
            tracing::warn!(%table, %error, schema = self.schema.name(), "the run schema stays until the next push");
        }
    }

    async fn try_clean_up(&self) -> Result<(), PushError> {
        let table = &self.options.table;
        let (session, _) = session::open(self.url, table, self.id).await?;
        session::end_lost(&session, self.url, table, self.id, self.server.pid, false).await?;
        session::wait_for_lock(&session, self.lock, table, self.options.outcome_patience).await?;
        let removed = self.schema.remove(&session, table).await;
        session::release_lock(&session, self.lock).await;
        removed
    }

    pub(super) fn live(&self) -> Option<&Attributes> {
        self.inspection.live.as_ref()
    }

    pub(super) fn staging_table(&self) -> TableName {
        self.schema.table(self.options.table.name())
    }

    /// Where rows go that the server has to cast first.
    fn raw_table(&self) -> TableName {
        let name = if self.options.table.name() == RAW_TABLE { OTHER_RAW_TABLE } else { RAW_TABLE };
        self.schema.table(name)
    }

    pub(super) fn failed(&self, step: &'static str) -> impl Fn(tokio_postgres::Error) -> PushError {
        let table = self.options.table.clone();
        move |source| PushError::at(step, &table, source)
    }

    /// S2 to S4: a staging table, loaded, dressed and verified.
    async fn stage<S>(&mut self, session: &Session, dataset: Dataset<S>) -> Result<Staged, PushError>
    where
        S: Stream<Item = Result<RecordBatch, BoxError>> + Send,
    {
        let staging = self.staging_table();
        let loaded = self.load(session, dataset).await?;
        let started = Instant::now();
        self.dress(session, None).await?;
        let index_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        session
            .batch_execute(&format!("VACUUM (ANALYZE) {}", quote_table(&staging)))
            .await
            .map_err(self.failed("analyze the staging table"))?;
        self.materialize(session).await?;
        let analyze_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let work = self.progress.start(Step::Push, "verify", None);
        verify::check(session, &self.options.table, &staging, &loaded).await?;
        let sequences = self.sequences(session).await?;
        if let Some(live) = self.live() {
            foreign_keys::check_orphans(session, &self.options.table, &staging, live).await?;
        }
        work.finish();
        let verify_seconds = started.elapsed().as_secs_f64();
        let oid = session
            .query_one("SELECT to_regclass($1)::oid", &[&quote_table(&staging)])
            .await
            .map_err(self.failed("find the staging table"))?
            .get(0);
        let Loaded { rows, bytes, seconds: copy_seconds, nulled, .. } = loaded;
        let snapshot = self.options.snapshot.clone();
        self.mark_ready(session, &Ready { oid, rows, bytes, snapshot, fingerprint: None }).await?;
        Ok(Staged { oid, rows, bytes, copy_seconds, index_seconds, analyze_seconds, verify_seconds, sequences, nulled })
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
        let raw = columns.needs_raw().then(|| self.raw_table());
        sql.extend(raw.as_ref().map(|raw| columns.create_raw(raw)));
        session.batch_execute(&sql.join(";")).await.map_err(self.failed("create the staging table"))?;
        let work = self.progress.start(Step::Push, self.options.table.to_string(), Some(dataset.rows));
        let into = raw.as_ref().unwrap_or(&staging);
        let loaded = copy_in::load(session, self.options, into, columns, dataset, &work, None).await?;
        if let Some(raw) = &raw {
            let fill = columns.fill_statement(raw, &staging, self.options);
            let fill = format!("{fill};DROP TABLE {}", quote_table(raw));
            session
                .batch_execute(&fill)
                .await
                .map_err(self.failed("fill the columns that were not loaded as they are"))?;
        }
        session.batch_execute("COMMIT").await.map_err(self.failed("commit the load"))?;
        work.finish();
        Ok(loaded)
    }

    /// Attaches what the live table has; `staged` is what the staging table has of it already.
    async fn dress(&self, session: &Client, staged: Option<&Attributes>) -> Result<(), PushError> {
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
        session.batch_execute(&dress).await.map_err(self.failed("attach what the live table has"))?;
        let failed = self.failed("attach the foreign keys");
        for name in foreign_keys::attach(session, &staging, live, staged).await.map_err(&failed)? {
            foreign_keys::validate(session, &staging, &name).await.map_err(&failed)?;
        }
        Ok(())
    }

    /// Makes the materialized views that read the live table over the staging table.
    async fn materialize(&self, session: &Client) -> Result<(), PushError> {
        let Some(live) = self.live().filter(|live| !live.dependents.materialized_views.is_empty()) else {
            return Ok(());
        };
        let work = self.progress.start(Step::Push, "materialized views", None);
        let (schema, table) = (self.schema.name(), &self.options.table);
        let failed = self.failed("make the materialized views over the staging table");
        let build = materialized_views::build(schema, table, live).join(";");
        session.batch_execute(&format!("BEGIN;{build};COMMIT")).await.map_err(&failed)?;
        materialized_views::check(session, schema, table, live).await?;
        for analyze in materialized_views::analyze(schema, live) {
            session.batch_execute(&analyze).await.map_err(&failed)?;
        }
        work.finish();
        Ok(())
    }

    /// S6: what the swap left to do, and whether it lost anything. Answers what did not go as it should.
    async fn finish(&self, session: &Client) -> Vec<String> {
        let table = &self.options.table;
        let finished = async {
            let mut warnings = after::finish(session, table, &self.options.backup_table()).await?;
            writes::hand_in(session, &self.server).await.map_err(self.failed("hand in the counters of the load"))?;
            if let (Some(live), Some(now)) = (self.live(), attributes::read(session, table).await?) {
                let dataset = &self.inspection.dataset;
                let columns = &self.inspection.plan.columns;
                let mut expected = live.clone();
                for (column, text) in staging::described(columns, dataset) {
                    if let Some(column) = expected.columns.iter_mut().find(|found| found.name == *column) {
                        column.comment = Some(text.clone());
                    }
                }
                let added: Vec<String> = columns.added.iter().map(|(column, _)| format!("columns {column}")).collect();
                let lost =
                    carried::differences(&expected, &now).into_iter().filter(|lost| !added.contains(&lost.thing));
                warnings.extend(lost.map(|lost| lost.after("push")));
                warnings.extend(self.written(session, live.oid).await?);
            }
            Ok::<_, PushError>(warnings)
        };
        finished.await.unwrap_or_else(|error| vec![format!("what follows the swap was not done: {error}")])
    }

    /// What others have written to the former live table since it was first inspected.
    async fn written(&self, session: &Client, former: u32) -> Result<Option<String>, PushError> {
        let Some(before) = self.writes_before else { return Ok(None) };
        let failed = self.failed("read the counters of writes");
        let now = Writes::of(session, former).await.map_err(failed)?;
        Ok(now.since(before, &self.options.table, &self.options.backup_table()))
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
    pub(super) async fn sequences(&self, session: &Client) -> Result<Vec<SequencePosition>, PushError> {
        let Some(live) = self.live() else { return Ok(Vec::new()) };
        sequences(session, &self.options.table, &self.staging_table(), live).await
    }

    /// S5: swaps, and dresses the staging table anew when the live table was changed in the meantime.
    async fn swap_in(
        &mut self,
        session: &mut Session,
        staged: &Staged,
        cancel: &CancellationToken,
    ) -> Result<SwapReport, PushError> {
        let work = self.progress.start(Step::Push, "swap", None);
        let mut drifts = 0;
        loop {
            let swap = Swap {
                options: self.options,
                run_id: self.id,
                run_schema: self.schema.name(),
                live: self.live(),
                fingerprint: self.inspection.fingerprint.as_deref(),
                candidate: Candidate::Staging { table: self.staging_table(), backups: &self.inspection.backups },
                candidate_oid: staged.oid,
                sequences: staged.sequences.clone(),
                rows_before: self.rows_before,
                lock: self.lock,
            };
            match swap::run(self.url, session, &self.server, &swap, cancel).await {
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
        self.discard_views(session).await?;
        self.inspection = inspection;
        self.redress(session).await?;
        match self.schema.marker().ready.clone() {
            Some(ready) => self.mark_ready(session, &ready).await,
            None => Ok(()),
        }
    }

    /// Drops the materialized views over the staging table, which are made anew with what it is dressed in.
    pub(super) async fn discard_views(&self, session: &Client) -> Result<(), PushError> {
        let Some(live) = self.live() else { return Ok(()) };
        let discard = materialized_views::discard(self.schema.name(), live).join(";");
        session.batch_execute(&discard).await.map_err(self.failed("dress the staging table again"))
    }

    /// Notes that the staging table is complete, dressed like the live table as it was last inspected.
    pub(super) async fn mark_ready(&mut self, session: &Client, ready: &Ready) -> Result<(), PushError> {
        let fingerprint = self.inspection.fingerprint.clone();
        self.schema.mark_ready(session, Ready { fingerprint, ..ready.clone() }).await
    }

    /// Takes off the staging table what was put on it, and puts on what the live table has now.
    pub(super) async fn redress(&self, session: &Client) -> Result<(), PushError> {
        let staging = self.staging_table();
        let staged = attributes::read_relation(session, &staging).await?;
        if let (Some(live), Some(mut staged)) = (self.live(), staged) {
            let undress = staging::undress(&staging, &staged, live).join(";");
            session.batch_execute(&undress).await.map_err(self.failed("dress the staging table again"))?;
            staged.constraints.retain(|constraint| !staging::is_to_itself(constraint));
            self.dress(session, Some(&staged)).await?;
            let sql = format!("VACUUM (ANALYZE) {}", quote_table(&staging));
            session.batch_execute(&sql).await.map_err(self.failed("analyze the staging table"))?;
            self.materialize(session).await?;
            foreign_keys::check_orphans(session, &self.options.table, &staging, live).await?;
        }
        Ok(())
    }

    fn report(self, staged: &Staged, swap: SwapReport) -> PushReport {
        let plan = &self.inspection.plan;
        let rows_estimated = self.rows_before.or(plan.live_rows_estimated);
        let backup = self.live().map(|_| BackupMade { table: self.options.backup_table(), rows_estimated });
        PushReport {
            table: self.options.table.clone(),
            mode: plan.mode,
            rows: staged.rows,
            bytes: staged.bytes,
            copy_seconds: staged.copy_seconds,
            index_seconds: staged.index_seconds,
            analyze_seconds: staged.analyze_seconds,
            verify_seconds: staged.verify_seconds,
            swap,
            backup,
            nulled: staged.nulled.clone(),
            views: None,
            notes: self.notes,
            warnings: self.warnings,
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
