//! Source to lake: several sessions share a snapshot and take ranges of tables from one queue; each decodes, and hands
//! record batches to an encoder thread of its own over a bounded queue.
//!
//! ```text
//! session 1 ── COPY ──▶ decode ──▶ [1 batch] ──▶ Parquet encoder ──▶ object store
//! session 2 ── COPY ──▶ decode ──▶ [1 batch] ──▶ Parquet encoder ──▶ object store
//! coordinator: exports the snapshot
//! ```
//!
//! A session that is lost takes nothing along but the files that its worker had not completed: these are removed, and
//! their ranges are copied again over another session of the same snapshot. When the snapshot itself is lost, so is all
//! that was read from it, and the pull starts over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::drift::{self, ColumnDrift};
use super::incremental::{Candidate, Increment, Merge, Merged, PullMode, column_numbers};
use super::pull_journal::{Asked, Journal, Kept, Noted, remove_journal};
use super::pull_queue::PieceQueue;
use super::pull_table::{Part, Pulling, Share, TablePull, lake_table, made_null_in};
use super::pull_worker::{Patience, Worker, join, unless_cancelled};
use super::run::{Interrupted, remove_interrupted, with_run_after};
use super::{Context, PipelineError, Run};
use crate::columnar::schema_for;
use crate::config::Pipeline;
use crate::lake::{DataFile, Lake, Manifest, Publication, SnapshotMark, SourceMark, TableLayout, TableWriter, Version};
use crate::pg::{DatabaseUrl, RelationInfo};
use crate::progress::{Progress, Step};
use crate::source::{
    Backoff, CopyRange, RateLimit, Remedy, SharedSnapshot, SnapshotInfo, SourceError, Split, has_pages, plan_ranges,
    plan_split, split_kind,
};
use crate::transform::EngineLimits;

/// Snapshots that one pull may begin with.
const SNAPSHOTS_MAX: u32 = 5;
/// Times that the first session is asked for again where the server is not ready: eleven seconds or so.
const FIRST_FAILURES_MAX: u32 = 6;
/// How long a server that went away in the middle of a pull may take to come back.
const RETURN_PATIENCE: Duration = Duration::from_secs(120);

/// What a pull did.
#[derive(Debug, Clone, Serialize)]
pub struct PullReport {
    /// The lake version with the new tables.
    pub version: Version,
    /// The point in the source's history.
    pub snapshot: SnapshotInfo,
    /// The tables by name.
    pub tables: BTreeMap<String, PulledTable>,
    /// How long it took.
    pub seconds: f64,
    /// Connections used.
    pub connections: usize,
    /// Ranges that were copied again because a connection was lost or a statement took too long.
    pub repeated_ranges: u64,
    /// Snapshots that were lost, each with all that had been read from it.
    pub lost_snapshots: u32,
    /// Files that a pull of the same snapshot had completed before it was killed.
    pub kept_files: usize,
}

/// What a pull did to one table.
#[derive(Debug, Clone, Serialize)]
pub struct PulledTable {
    /// Rows.
    pub rows: u64,
    /// Bytes of its Parquet files.
    pub parquet_bytes: u64,
    /// Bytes from the server.
    pub wire_bytes: u64,
    /// Its files.
    pub files: usize,
    /// Whether all rows were pulled or those that changed.
    #[serde(flatten)]
    pub mode: PullMode,
    /// Columns that changed since its last version in the lake.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<ColumnDrift>,
    /// Values that became null because their column cannot hold them and its setting says so.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub made_null: BTreeMap<String, u64>,
}

/// What is pulled of the tables.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Only rows that changed since the last pull, of tables with a watermark.
    pub incremental: bool,
    /// Also compares all keys, to find rows that are gone.
    pub detect_deletes: bool,
    /// A snapshot that another session has exported and keeps, instead of one of the pull's own.
    pub snapshot: Option<String>,
}

/// Pulls tables, all or those named, and publishes them together.
///
/// # Errors
/// [`PipelineError`]; the lake's previous version stays as it was.
pub async fn pull(context: &Context, only: &[String], options: PullOptions) -> Result<PullReport, PipelineError> {
    let tables = chosen(&context.pipeline, only)?;
    context.settings.source()?;
    let steps = async |run: &Run| pull_tables(context, run, &tables, options).await;
    with_run_after(context, "pull", Interrupted::Kept, steps).await
}

fn chosen(pipeline: &Pipeline, only: &[String]) -> Result<Vec<TablePull>, PipelineError> {
    let unknown: Vec<&str> = only.iter().map(String::as_str).filter(|name| pipeline.table(name).is_none()).collect();
    if let [first, ..] = unknown.as_slice() {
        let known: Vec<&str> = pipeline.tables.iter().map(|table| table.name.as_str()).collect();
        return Err(PipelineError::Usage(format!(
            "the pipeline file has no table {first}; it has {}",
            known.join(", ")
        )));
    }
    let wanted = pipeline.tables.iter().filter(|table| only.is_empty() || only.contains(&table.name));
    Ok(wanted.map(TablePull::from).collect())
}

/// Pulls all tables of the pipeline as a step of a run.
pub(super) async fn pull_all(context: &Context, run: &Run) -> Result<PullReport, PipelineError> {
    pull_tables(context, run, &chosen(&context.pipeline, &[])?, PullOptions::default()).await
}

async fn pull_tables(
    context: &Context,
    run: &Run,
    tables: &[TablePull],
    options: PullOptions,
) -> Result<PullReport, PipelineError> {
    let check_drift = |drift: &Drifts| match drift.is_empty() {
        true => Ok(()),
        false => drift::refuse(&context.pipeline, &context.phases()?, drift),
    };
    let url = context.settings.source()?;
    let job = PullJob {
        url,
        lake: &run.lake,
        run_id: run.id.as_str(),
        connections: context.settings.jobs,
        rate: context.settings.rate_limit(),
        progress: &context.progress,
        step: Step::Pull,
        cancel: &context.cancel,
        limits: context.engine_limits(&run.lake),
        options,
        check_drift: &check_drift,
    };
    let started = Instant::now();
    let report = job.pull(tables).await?;
    let rows = report.tables.values().map(|table| table.rows).sum();
    let bytes = report.tables.values().map(|table| table.wire_bytes).sum();
    run.record(Step::Pull, started, rows, bytes);
    Ok(report)
}

/// One pull of some tables into a lake.
pub(super) struct PullJob<'a> {
    pub(super) url: &'a DatabaseUrl,
    pub(super) lake: &'a Lake,
    pub(super) run_id: &'a str,
    pub(super) connections: usize,
    /// What all connections together may take.
    pub(super) rate: Option<Arc<RateLimit>>,
    pub(super) progress: &'a Progress,
    pub(super) step: Step,
    pub(super) cancel: &'a CancellationToken,
    /// What a merge may use.
    pub(super) limits: EngineLimits,
    pub(super) options: PullOptions,
    /// Decides whether columns may have changed as they did.
    pub(super) check_drift: &'a (dyn Fn(&Drifts) -> Result<(), PipelineError> + Sync),
}

/// Changed columns by table, with the version that had them otherwise.
pub(super) type Drifts = BTreeMap<String, (Version, Vec<ColumnDrift>)>;

/// What all workers together came to.
struct Copied {
    /// Each table's shares.
    shares: Vec<(usize, Share)>,
    connections: usize,
    /// The session that holds the snapshot, unless the only worker had it.
    snapshot: Option<Arc<SharedSnapshot>>,
    /// Numbers the writers, so that no two files have one name.
    writers: Arc<AtomicUsize>,
}

impl PullJob<'_> {
    /// Pulls the tables and publishes them as the lake's next version; starts over when the snapshot is lost.
    pub(super) async fn pull(&self, tables: &[TablePull]) -> Result<PullReport, PipelineError> {
        let started = Instant::now();
        let (mut snapshot, mut noted) = self.begin(tables).await?;
        let mut lost = 0;
        let can_start_over =
            |error: &SourceError| error.remedy() == Remedy::StartOver && self.options.snapshot.is_none();
        loop {
            match self.pull_at(snapshot, noted, tables).await {
                Err(PipelineError::Source(error)) if can_start_over(&error) && lost + 1 < SNAPSHOTS_MAX => {
                    lost += 1;
                    let message = format!("{error}; starting over with another ({} of {SNAPSHOTS_MAX})", lost + 1);
                    self.progress.warn(self.step, message);
                    remove_interrupted(self.lake).await?;
                    snapshot = self.open_again().await?;
                    noted = Noted::new(self.asked(tables).await?, &snapshot);
                }
                outcome => {
                    let seconds = started.elapsed().as_secs_f64();
                    return outcome.map(|report| PullReport { seconds, lost_snapshots: lost, ..report });
                }
            }
        }
    }

    /// The snapshot to begin with, and what was completed of it: by a pull that was killed, where the same is asked for
    /// and somebody still has its snapshot.
    async fn begin(&self, tables: &[TablePull]) -> Result<(SharedSnapshot, Noted), PipelineError> {
        let asked = self.asked(tables).await?;
        if let Some(noted) = Noted::read(self.lake).await {
            let why = if noted.asked == asked {
                if let Some(mut snapshot) = self.adopt(&noted).await? {
                    snapshot.remember(noted.info.clone(), noted.watermark.clone());
                    return Ok((snapshot, noted));
                }
                "nobody has its snapshot any more"
            } else {
                "something else is asked for"
            };
            self.progress
                .warn(self.step, format!("starting over instead of going on with the interrupted pull: {why}"));
            remove_interrupted(self.lake).await?;
        }
        let snapshot = match &self.options.snapshot {
            Some(id) => unless_cancelled(self.cancel, SharedSnapshot::adopt(self.url, id)).await??,
            None => self.open_first().await?,
        };
        let noted = Noted::new(asked, &snapshot);
        Ok((snapshot, noted))
    }

    async fn asked(&self, tables: &[TablePull]) -> Result<Asked, PipelineError> {
        let base = self.lake.latest().await?.map(|base| base.version);
        Ok(Asked::new(base, &self.options, tables))
    }

    /// The snapshot of an interrupted pull, if somebody still has it.
    async fn adopt(&self, noted: &Noted) -> Result<Option<SharedSnapshot>, PipelineError> {
        for id in self.options.snapshot.iter().chain(&noted.snapshots) {
            match unless_cancelled(self.cancel, SharedSnapshot::adopt(self.url, id)).await? {
                Ok(snapshot) if snapshot.identity() == noted.identity => return Ok(Some(snapshot)),
                // Another snapshot was asked for.
                Ok(_) if self.options.snapshot.is_some() => return Ok(None),
                Ok(_) | Err(SourceError::UnknownSnapshot { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Opens the first snapshot. A server that is just starting, or has no connection left, is asked some more times; one
    /// that is not there is not.
    async fn open_first(&self) -> Result<SharedSnapshot, PipelineError> {
        let mut backoff = Backoff::default();
        loop {
            match unless_cancelled(self.cancel, SharedSnapshot::open(self.url)).await? {
                Err(error) if error.is_not_ready() && backoff.failures() < FIRST_FAILURES_MAX => {
                    self.progress.warn(self.step, format!("{error}; trying again"));
                    unless_cancelled(self.cancel, sleep(backoff.pause())).await?;
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Waits for a server that went away to come back.
    async fn open_again(&self) -> Result<SharedSnapshot, PipelineError> {
        let (started, mut backoff) = (Instant::now(), Backoff::default());
        loop {
            unless_cancelled(self.cancel, sleep(backoff.pause())).await?;
            match unless_cancelled(self.cancel, SharedSnapshot::open(self.url)).await? {
                Err(error) if error.remedy() == Remedy::Again && started.elapsed() < RETURN_PATIENCE => {}
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Pulls what one snapshot sees.
    async fn pull_at(
        &self,
        snapshot: SharedSnapshot,
        mut noted: Noted,
        tables: &[TablePull],
    ) -> Result<PullReport, PipelineError> {
        let started = Instant::now();
        let publication = Publication::prepare(self.lake, self.run_id).await?;
        let mut pulling = Vec::with_capacity(tables.len());
        for table in tables {
            let described = self.describe(&snapshot, table, &publication);
            let described = unless_cancelled(self.cancel, described).await?;
            pulling.extend(described.map_err(snapshot_lost)?);
        }
        let foreign = unless_cancelled(self.cancel, snapshot.foreign_tables()).await?;
        for table in foreign.map_err(|error| snapshot_lost(error.into()))? {
            let message =
                format!("{table} is a foreign table: its rows are not of the snapshot, but of when they are read");
            self.progress.warn(self.step, message);
        }
        self.report_drift(&publication, &pulling)?;
        if self.options.incremental {
            self.plan_increments(&snapshot, &publication, &mut pulling).await?;
        }
        let kept = noted.go_on(&pulling).map_err(|index| {
            PipelineError::from(SourceError::Rewritten { table: pulling[index].table.source.clone() })
        })?;
        let exported = Some(snapshot.info().id.clone()).filter(|id| !id.is_empty());
        noted.snapshots.extend(exported.into_iter().chain(self.options.snapshot.clone()));
        let kept_files = noted.files().len();
        for (table, kept) in pulling.iter().zip(&kept) {
            table.work.add(kept.shares.iter().map(|share| share.rows_sent).sum(), 0);
        }
        let journal = Arc::new(Journal::new(self.lake.clone(), noted));
        let pulling = Arc::new(pulling);
        let queue = Arc::new(self.queue(&pulling, &kept, snapshot.info().server_version));

        // A failure of one ends all.
        let all = self.cancel.child_token();
        let info = snapshot.info().clone();
        let copied = self.copy(snapshot, &pulling, &queue, &journal, &all).await;
        all.cancel();
        let mut copied = copied?;
        for (index, kept) in kept.into_iter().enumerate() {
            copied.shares.extend(kept.shares.into_iter().map(|share| (index, share)));
        }
        let connections = copied.connections;
        let (manifest, mut merged) = self.publish(publication, &info, &pulling, copied).await?;
        remove_journal(self.lake).await?;
        let pulling = Arc::into_inner(pulling).expect("all workers have ended");
        let mut report = BTreeMap::new();
        for done in pulling {
            let (name, wire_bytes) = (done.table.name.clone(), done.work.counters().bytes());
            let table = &manifest.tables[&name];
            let mode = match done.part {
                Part::Whole(why) => PullMode::Full { why },
                Part::Changed(_) => PullMode::Incremental(merged.remove(&name).unwrap_or_default()),
                Part::KeysOf(_) => {
                    // The table itself precedes.
                    report.entry(name).and_modify(|table: &mut PulledTable| table.wire_bytes += wire_bytes);
                    done.work.finish();
                    continue;
                }
            };
            let (rows, parquet_bytes, files) = (table.rows, table.bytes, table.files.len());
            let (drift, made_null) = (done.drift, made_null_in(table));
            for (column, count) in &made_null {
                let message = format!("{name}, column {column}: {count} values that it cannot hold became null");
                self.progress.warn(self.step, message);
            }
            report.insert(name, PulledTable { rows, parquet_bytes, wire_bytes, files, mode, drift, made_null });
            done.work.finish();
        }
        Ok(PullReport {
            version: manifest.version,
            snapshot: info,
            tables: report,
            seconds: started.elapsed().as_secs_f64(),
            connections,
            repeated_ranges: queue.repeated(),
            lost_snapshots: 0,
            kept_files,
        })
    }

    /// Prepares a table; none when it has nothing that could be pulled.
    async fn describe(
        &self,
        snapshot: &SharedSnapshot,
        table: &TablePull,
        publication: &Publication,
    ) -> Result<Option<Pulling>, PipelineError> {
        let last = publication.base().and_then(|base| base.tables.get(&table.name));
        let mut relation = snapshot.hold(&table.source).await?;
        apply_policies(&mut relation, table)?;
        if let Some(role) = &relation.rows_hidden_from {
            let message =
                format!("{} has row-level security: only the rows that role {role} may see are pulled", table.source);
            self.progress.warn(self.step, message);
        }
        if relation.schema.columns.is_empty() {
            let message = format!("table {} has no columns, so there is nothing to pull", table.source);
            if last.is_some() {
                return Err(PipelineError::Drift(message));
            }
            self.progress.warn(self.step, message);
            return Ok(None);
        }
        self.split(snapshot, table, &mut relation).await?;
        let rows_expected = relation.split.as_ref().map(|key| key.rows).or(relation.rows_estimated);
        let work = self.progress.start(self.step, &table.name, rows_expected);
        let mark = SourceMark {
            oid: relation.oid,
            columns: column_numbers(snapshot.session(), &relation).await?,
            key: table.key.clone(),
            partition_by: table.partition_by.clone(),
            watermark: snapshot.watermark().map(|seen| SnapshotMark {
                server: seen.server.clone(),
                xmin: seen.xmin,
                time: seen.time.clone(),
            }),
        };
        let drift = last.map(|last| drift::compare(last, &relation.schema, &mark)).unwrap_or_default();
        Ok(Some(Pulling {
            schema: schema_for(&relation.schema),
            layout: TableLayout {
                table: table.name.clone(),
                version: publication.version(),
                run_id: self.run_id.to_owned(),
                key: table.key.clone(),
                partition_by: table.partition_by.clone(),
                encoding: table.parquet.clone(),
            },
            table: table.clone(),
            relation,
            work,
            mark,
            drift,
            part: Part::Whole(None),
        }))
    }

    /// Finds ranges of the declared column for a relation that has no pages.
    async fn split(
        &self,
        snapshot: &SharedSnapshot,
        table: &TablePull,
        relation: &mut RelationInfo,
    ) -> Result<(), PipelineError> {
        let Some(name) = &table.split_by else { return Ok(()) };
        let Some(column) = relation.schema.columns.iter().find(|column| column.name == *name) else {
            return Err(PipelineError::Usage(format!(
                "{} lacks the column {name}, which is its split_by",
                table.source
            )));
        };
        let Some(kind) = split_kind(&column.pg_type) else {
            return Err(PipelineError::Usage(format!(
                "the split_by of {} is {name}, which is {} and neither an integer nor a date nor a uuid",
                table.source, column.type_name
            )));
        };
        if has_pages(relation, snapshot.info().server_version) {
            return Ok(());
        }
        match plan_split(snapshot.session(), relation, name, kind, self.connections as u64).await? {
            Split::By(key) => relation.split = Some(key),
            Split::Small => {}
            Split::Computed => {
                let message = format!(
                    "{} is copied in one piece: the server would compute all of it for each range of {name}",
                    table.source
                );
                self.progress.warn(self.step, message);
            }
        }
        Ok(())
    }

    /// Says what changed in the tables' columns before any row is pulled, or refuses it.
    fn report_drift(&self, publication: &Publication, pulling: &[Pulling]) -> Result<(), PipelineError> {
        let Some(base) = publication.base() else { return Ok(()) };
        let changed = pulling.iter().filter(|table| !table.drift.is_empty());
        let drift: Drifts = changed
            .filter_map(|table| {
                let name = &table.table.name;
                Some((name.clone(), (base.tables.get(name)?.version, table.drift.clone())))
            })
            .collect();
        (self.check_drift)(&drift)?;
        for (name, (version, changes)) in drift {
            for change in changes {
                self.progress.warn(self.step, format!("{name}: {change} since lake version {version}"));
            }
        }
        Ok(())
    }

    /// Decides for each table whether only changed rows are pulled, and adds the keys of those whose rows may be gone.
    async fn plan_increments(
        &self,
        snapshot: &SharedSnapshot,
        publication: &Publication,
        pulling: &mut Vec<Pulling>,
    ) -> Result<(), PipelineError> {
        let mut keys = Vec::new();
        for (index, table) in pulling.iter_mut().enumerate() {
            let candidate = Candidate {
                relation: &table.relation,
                schema: &table.schema,
                by: table.table.watermark.as_deref(),
                mark: &table.mark,
                watermark: snapshot.watermark(),
                last: publication.base().and_then(|base| base.tables.get(&table.table.name)),
            };
            let planned = unless_cancelled(self.cancel, candidate.plan(snapshot.session())).await?;
            let planned = planned.map_err(|error| snapshot_lost(error.into()))?;
            table.part = match planned {
                Ok(increment) => {
                    if self.options.detect_deletes {
                        let name = format!("{} keys", table.table.name);
                        keys.push(table.keys(index, self.progress.start(self.step, name, Some(increment.rows()))));
                    }
                    Part::Changed(Box::new(increment))
                }
                Err(why) => Part::Whole(Some(why)),
            };
        }
        pulling.extend(keys);
        Ok(())
    }

    /// Ranges of the largest table first, and before them what is copied whole however large it is, so that the connections end together.
    fn queue(&self, pulling: &[Pulling], kept: &[Kept], server_version: u32) -> PieceQueue {
        let mut order: Vec<usize> = (0..pulling.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(pulling[*index].relation.size()));
        let ranges = order.into_iter().flat_map(|index| {
            let ranges = match &pulling[index].part {
                Part::Changed(increment) if increment.by_index => vec![CopyRange::ALL],
                _ => plan_ranges(&pulling[index].relation, server_version, self.connections as u64),
            };
            let left = ranges.into_iter().flat_map(move |range| range.minus(&kept[index].ranges));
            left.map(move |range| (index, range))
        });
        PieceQueue::new(ranges)
    }

    /// Runs the workers until the queue is empty.
    async fn copy(
        &self,
        snapshot: SharedSnapshot,
        pulling: &Arc<Vec<Pulling>>,
        queue: &Arc<PieceQueue>,
        journal: &Arc<Journal>,
        all: &CancellationToken,
    ) -> Result<Copied, PipelineError> {
        let mut workers = JoinSet::new();
        let mut failure = None;
        let writers = Arc::new(AtomicUsize::new(0));
        let worker = |session, snapshot| Worker {
            session,
            snapshot,
            rate: self.rate.clone(),
            lake: self.lake.clone(),
            pulling: Arc::clone(pulling),
            queue: Arc::clone(queue),
            journal: Arc::clone(journal),
            writers: Arc::clone(&writers),
            progress: self.progress.clone(),
            step: self.step,
            cancel: all.clone(),
        };
        let mut snapshot = Some(Arc::new(snapshot));
        let mut connections = 0;
        while let Some(shared) = snapshot.as_ref().filter(|_| connections < self.connections) {
            // Only without the first is there nothing to do meanwhile.
            let patience = if connections == 0 && !shared.is_pooled() { Patience::FIRST } else { Patience::NONE };
            match join(shared, all, patience).await {
                Ok(session) => {
                    workers.spawn(worker(session, Some(Arc::clone(shared))).run());
                    connections += 1;
                }
                // The pull goes on with the connections it could get.
                Err(error @ PipelineError::Source(_)) if connections > 0 => {
                    self.progress.warn(self.step, format!("pulling with {connections} connections: {error}"));
                    break;
                }
                Err(error @ PipelineError::Source(_)) if can_go_alone(shared, &error) => {
                    let message = format!("pulling with one connection, as no other can share its snapshot: {error}");
                    self.progress.warn(self.step, message);
                    if let Some(alone) = snapshot.take().and_then(Arc::into_inner) {
                        workers.spawn(worker(alone.into_session(), None).run());
                    }
                    connections = 1;
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let mut shares = Vec::new();
        while let Some(ended) = workers.join_next().await {
            match ended.map_err(PipelineError::from).and_then(|result| result) {
                Ok(done) => shares.extend(done),
                Err(error) => {
                    all.cancel();
                    // The first error is the cause; the others were cancelled by it.
                    failure.get_or_insert(error);
                }
            }
        }
        match failure {
            _ if self.cancel.is_cancelled() => Err(PipelineError::Cancelled),
            Some(error) => Err(error),
            None => Ok(Copied { shares, connections, snapshot, writers }),
        }
    }

    async fn publish(
        &self,
        publication: Publication,
        snapshot: &SnapshotInfo,
        pulling: &[Pulling],
        copied: Copied,
    ) -> Result<(Manifest, BTreeMap<String, Merged>), PipelineError> {
        // Only if nobody could rewrite a table meanwhile were the ranges of all sessions parts of one whole.
        if let Some(held) = &copied.snapshot {
            let relations = pulling.iter().map(|table| &table.relation);
            unless_cancelled(self.cancel, held.check(relations)).await??;
        }
        let next_writer = || copied.writers.fetch_add(1, Ordering::Relaxed);
        let mut joined: Vec<Share> = pulling.iter().map(|_| Share::default()).collect();
        for (index, share) in copied.shares {
            let into = &mut joined[index];
            into.files.extend(share.files);
            into.rows_sent += share.rows_sent;
            into.seen = match into.seen.as_slice() {
                [] => share.seen,
                seen => seen.iter().zip(share.seen).map(|(a, b)| Some(a.as_ref()?.union(b?))).collect(),
            };
            into.made_null.resize(share.made_null.len(), 0);
            into.made_null.iter_mut().zip(share.made_null).for_each(|(sum, count)| *sum += count);
        }
        for (table, share) in pulling.iter().zip(&joined) {
            check_split(table, share)?;
        }
        let mut present = BTreeMap::new();
        for (table, share) in pulling.iter().zip(&mut joined) {
            if let Part::KeysOf(index) = table.part {
                present.insert(index, std::mem::take(&mut share.files));
            }
        }
        let (mut tables, mut merges) = (BTreeMap::new(), BTreeMap::new());
        for (index, (table, mut share)) in pulling.iter().zip(joined).enumerate() {
            let (name, mut last) = (table.table.name.clone(), None);
            match &table.part {
                Part::KeysOf(_) => continue,
                Part::Whole(_) => {}
                Part::Changed(increment) => {
                    let merged =
                        self.merge(table, increment, &mut share, present.remove(&index), next_writer()).await?;
                    last = Some(increment.last()).filter(|_| merged.is_unchanged());
                    merges.insert(name.clone(), merged);
                }
            }
            if share.files.iter().all(|file| file.rows == 0) {
                share.files = self.write_empty(table, next_writer()).await?;
            }
            share.files.sort_by(|a, b| a.path.cmp(&b.path));
            let mut made = lake_table(table, share, publication.version(), self.run_id, snapshot);
            if let Some(last) = last {
                // The same files, known to be right at a later time: what was made of them is not stale.
                (made.version, made.run_id, made.created) = (last.version, last.run_id.clone(), last.created);
            }
            tables.insert(name, made);
        }
        if self.cancel.is_cancelled() {
            return Err(PipelineError::Cancelled);
        }
        Ok((publication.publish(tables).await?, merges))
    }

    /// Puts the rows received into the last version's table: `share` then has all its files, and the server's count.
    async fn merge(
        &self,
        table: &Pulling,
        increment: &Increment,
        share: &mut Share,
        present: Option<Vec<DataFile>>,
        writer: usize,
    ) -> Result<Merged, PipelineError> {
        let merge = Merge {
            lake: self.lake.clone(),
            runtime: Handle::current(),
            limits: self.limits.clone(),
            cancel: self.cancel.clone(),
            layout: table.layout.clone(),
            schema: Arc::clone(&table.schema),
            old: increment.last().files.clone(),
            received: std::mem::take(&mut share.files),
            present: present.clone(),
            writer,
            counted: increment.last_made_null(),
        };
        let (files, mut merged, nulls) = tokio::task::spawn_blocking(move || merge.run()).await??;
        for file in present.into_iter().flatten() {
            self.lake.delete(&file.object()?).await?;
        }
        let rows = files.iter().map(|file| file.rows).sum();
        increment.verify(&table.table.name, rows, &mut merged)?;
        if merged.surplus > 0 {
            self.progress.warn(
                self.step,
                format!(
                    "{}: {} rows were deleted at the source and are still in the lake; --detect-deletes removes them",
                    table.table.name, merged.surplus
                ),
            );
        }
        share.files = files;
        share.rows_sent = increment.rows();
        share.widen(&table.schema, increment.last(), &nulls);
        Ok(merged)
    }

    /// One file without rows, so that an empty table can be read like any other.
    async fn write_empty(&self, pulling: &Pulling, writer: usize) -> Result<Vec<DataFile>, PipelineError> {
        let layout = TableLayout { partition_by: Vec::new(), ..pulling.layout.clone() };
        let (lake, schema, runtime) = (self.lake.clone(), Arc::clone(&pulling.schema), Handle::current());
        let write = move || TableWriter::new(&lake, runtime, layout, schema, writer)?.finish(true);
        Ok(tokio::task::spawn_blocking(write).await??)
    }
}

/// Holds what came in ranges of a key against the server's count: a row that is in another range whenever it is read
/// comes twice or not at all.
fn check_split(pulling: &Pulling, share: &Share) -> Result<(), PipelineError> {
    match &pulling.relation.split {
        Some(key) if pulling.condition().is_none() && share.rows_sent != key.rows => Err(SourceError::Unsteady {
            table: pulling.table.source.clone(),
            column: key.column.clone(),
            counted: key.rows,
            copied: share.rows_sent,
        }
        .into()),
        _ => Ok(()),
    }
}

/// Whether the session that holds the snapshot can still pull when no other could join it.
fn can_go_alone(snapshot: &SharedSnapshot, error: &PipelineError) -> bool {
    let is_lost = matches!(error, PipelineError::Source(SourceError::SnapshotLost));
    !is_lost && !snapshot.is_lost()
}

/// A failure of the session that holds the snapshot: what may help there takes another snapshot.
fn snapshot_lost(error: PipelineError) -> PipelineError {
    match error {
        PipelineError::Source(error) if !matches!(error.remedy(), Remedy::None | Remedy::StartOver) => {
            SourceError::SnapshotLost.into()
        }
        error => error,
    }
}

/// Gives columns the types that the pipeline file asks for.
fn apply_policies(relation: &mut RelationInfo, table: &TablePull) -> Result<(), PipelineError> {
    for (name, policy) in &table.columns {
        let column = relation.schema.columns.iter_mut().find(|column| column.name == *name).ok_or_else(|| {
            PipelineError::Usage(format!(
                "the pipeline file has settings for column {name}, which {} lacks",
                table.source
            ))
        })?;
        policy.apply(column).map_err(|error| PipelineError::Usage(format!("table {}: {error}", table.source)))?;
    }
    Ok(())
}
