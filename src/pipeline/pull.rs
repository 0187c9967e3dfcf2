//! Source to lake: several sessions share a snapshot and take ctid ranges from one queue; each decodes, and hands
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

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use chrono::Utc;
use object_store::path::Path;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::drift::{self, ColumnDrift};
use super::incremental::{Candidate, Increment, Merge, Merged, PullMode, column_numbers};
use super::pull_queue::{PIECE_FAILURES_MAX, Piece, PieceQueue};
use super::run::with_run;
use super::{Context, PipelineError, Run};
use crate::columnar::{BatchBuilder, ColumnPolicy, NumericSeen, schema_for};
use crate::config::{Pipeline, TableConfig};
use crate::lake::{
    DataFile, Lake, LakeError, LakeTable, Manifest, Origin, PartitionTransform, Publication, SnapshotMark, SourceMark,
    TableLayout, TableWriter, Version,
};
use crate::pg::{DatabaseUrl, RelationInfo, Session};
use crate::progress::{Progress, Step, Work};
use crate::schema::TableName;
use crate::source::{
    Backoff, CopyRange, CopyStream, RateLimit, Remedy, SharedSnapshot, SnapshotInfo, SourceError, plan_ranges,
};
use crate::transform::EngineLimits;
use crate::wire::CopyDecoder;

/// Rows of a record batch at most.
const BATCH_ROWS_MAX: usize = 16_384;
/// Wire bytes of a record batch at most.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// What the folder of a table's keys has after the table's name; no lake table can be called so.
const KEYS: &str = "@keys";
/// Batches that wait for the encoder; a slow disk then slows the server down instead of filling memory.
const QUEUED_BATCHES_MAX: usize = 1;
/// Wire bytes after which a worker completes its files of a table, so that a lost connection costs no more than these.
const SHARE_BYTES_MAX: u64 = 1 << 30;
/// Snapshots that one pull may begin with.
const SNAPSHOTS_MAX: u32 = 5;
/// Times that a worker tries to open another session before the pull fails.
const REJOINS_MAX: u32 = 10;
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
#[derive(Debug, Clone, Copy, Default)]
pub struct PullOptions {
    /// Only rows that changed since the last pull, of tables with a watermark.
    pub incremental: bool,
    /// Also compares all keys, to find rows that are gone.
    pub detect_deletes: bool,
}

/// A table to pull.
#[derive(Debug, Clone)]
pub(super) struct TablePull {
    pub(super) name: String,
    pub(super) source: TableName,
    pub(super) key: Vec<String>,
    pub(super) partition_by: Vec<PartitionTransform>,
    /// `xmin`, a column, or nothing.
    pub(super) watermark: Option<String>,
    pub(super) columns: BTreeMap<String, ColumnPolicy>,
}

impl From<&TableConfig> for TablePull {
    fn from(table: &TableConfig) -> Self {
        Self {
            name: table.name.clone(),
            source: table.source_table(),
            key: table.key.clone(),
            partition_by: table.partition_by.clone(),
            watermark: table.watermark.clone(),
            columns: table.columns.clone(),
        }
    }
}

/// Pulls tables, all or those named, and publishes them together.
///
/// # Errors
/// [`PipelineError`]; the lake's previous version stays as it was.
pub async fn pull(context: &Context, only: &[String], options: PullOptions) -> Result<PullReport, PipelineError> {
    let tables = chosen(&context.pipeline, only)?;
    context.settings.source()?;
    with_run(context, "pull", async |run| pull_tables(context, run, &tables, options).await).await
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

/// A table that is being pulled, shared by all workers.
struct Pulling {
    table: TablePull,
    relation: RelationInfo,
    schema: SchemaRef,
    layout: TableLayout,
    work: Work,
    mark: SourceMark,
    drift: Vec<ColumnDrift>,
    part: Part,
}

/// Which rows are pulled.
enum Part {
    /// All; with the reason why it is not only those that changed, when that was asked for.
    Whole(Option<String>),
    /// Those that changed.
    Changed(Box<Increment>),
    /// The keys of all rows of the table at this place, which precedes.
    KeysOf(usize),
}

impl Pulling {
    fn condition(&self) -> Option<&str> {
        match &self.part {
            Part::Changed(increment) => Some(&increment.condition),
            Part::Whole(_) | Part::KeysOf(_) => None,
        }
    }

    /// The keys of all rows, as a table of their own that no manifest names.
    fn keys(&self, index: usize, work: Work) -> Self {
        let mut relation = self.relation.clone();
        relation.schema.columns.retain(|column| self.table.key.contains(&column.name));
        let layout = TableLayout {
            table: format!("{}{KEYS}", self.table.name),
            partition_by: Vec::new(),
            ..self.layout.clone()
        };
        Self {
            table: self.table.clone(),
            schema: schema_for(&relation.schema),
            relation,
            layout,
            work,
            mark: self.mark.clone(),
            drift: Vec::new(),
            part: Part::KeysOf(index),
        }
    }
}

/// What one worker's share of a table came to.
#[derive(Default)]
struct Share {
    files: Vec<DataFile>,
    /// Rows that the server says it sent.
    rows_sent: u64,
    seen: Vec<Option<NumericSeen>>,
    /// Values that became null, by column.
    made_null: Vec<u64>,
}

impl Share {
    /// Takes in what unbounded numerics of the last version needed, and what became null in it: its rows are part of
    /// the table.
    fn widen(&mut self, schema: &SchemaRef, last: &LakeTable) {
        let Origin::Source { numeric_seen, made_null, .. } = &last.origin else { return };
        self.made_null.resize(schema.fields().len(), 0);
        for (count, field) in self.made_null.iter_mut().zip(schema.fields()) {
            *count += made_null.get(field.name()).copied().unwrap_or(0);
        }
        self.seen.resize(schema.fields().len(), None);
        for (seen, field) in self.seen.iter_mut().zip(schema.fields()) {
            if let Some((integer_digits, scale, special)) = numeric_seen.get(field.name()).copied() {
                let before = NumericSeen { integer_digits, scale, special };
                *seen = Some(seen.as_ref().map_or(before, |seen| seen.union(before)));
            }
        }
    }
}

/// What all workers together came to.
struct Copied {
    /// Each table's shares.
    shares: Vec<(usize, Share)>,
    connections: usize,
    /// The session that holds the snapshot, unless the only worker had it.
    snapshot: Option<Arc<SharedSnapshot>>,
}

impl PullJob<'_> {
    /// Pulls the tables and publishes them as the lake's next version; starts over when the snapshot is lost.
    pub(super) async fn pull(&self, tables: &[TablePull]) -> Result<PullReport, PipelineError> {
        let started = Instant::now();
        let mut snapshot = unless_cancelled(self.cancel, SharedSnapshot::open(self.url)).await??;
        let mut lost = 0;
        loop {
            match self.pull_at(snapshot, tables).await {
                Err(PipelineError::Source(error @ SourceError::SnapshotLost)) if lost + 1 < SNAPSHOTS_MAX => {
                    lost += 1;
                    let message = format!("{error}; starting over with another ({} of {SNAPSHOTS_MAX})", lost + 1);
                    self.progress.warn(self.step, message);
                    snapshot = self.open_again().await?;
                }
                outcome => {
                    let seconds = started.elapsed().as_secs_f64();
                    return outcome.map(|report| PullReport { seconds, lost_snapshots: lost, ..report });
                }
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
    async fn pull_at(&self, snapshot: SharedSnapshot, tables: &[TablePull]) -> Result<PullReport, PipelineError> {
        let started = Instant::now();
        let publication = Publication::prepare(self.lake, self.run_id).await?;
        let mut pulling = Vec::with_capacity(tables.len());
        for table in tables {
            let described = self.describe(&snapshot, table, &publication);
            let described = unless_cancelled(self.cancel, described).await?;
            pulling.push(described.map_err(|error| match error {
                PipelineError::Source(error) if error.remedy() != Remedy::None => SourceError::SnapshotLost.into(),
                error => error,
            })?);
        }
        self.report_drift(&publication, &pulling)?;
        if self.options.incremental {
            self.plan_increments(&snapshot, &publication, &mut pulling).await?;
        }
        let pulling = Arc::new(pulling);
        let queue = Arc::new(self.queue(&pulling, snapshot.info().server_version));

        // A failure of one ends all.
        let all = self.cancel.child_token();
        let info = snapshot.info().clone();
        let copied = self.copy(snapshot, &pulling, &queue, &all).await;
        all.cancel();
        let result = match copied {
            Ok(copied) => {
                let connections = copied.connections;
                self.publish(publication, &info, &pulling, copied).await.map(|published| (published, connections))
            }
            Err(error) => Err(error),
        };
        let ((manifest, mut merged), connections) = match result {
            Ok(published) => published,
            Err(error) => {
                if let Err(error) = self.lake.remove_unpublished().await {
                    tracing::warn!(%error, "files of the failed pull remain; the next run removes them");
                }
                return Err(error);
            }
        };
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
        })
    }

    async fn describe(
        &self,
        snapshot: &SharedSnapshot,
        table: &TablePull,
        publication: &Publication,
    ) -> Result<Pulling, PipelineError> {
        let mut relation = snapshot.hold(&table.source).await?;
        apply_policies(&mut relation, table)?;
        if let Some(role) = &relation.rows_hidden_from {
            let message =
                format!("{} has row-level security: only the rows that role {role} may see are pulled", table.source);
            self.progress.warn(self.step, message);
        }
        if relation.schema.columns.is_empty() {
            return Err(PipelineError::Usage(format!(
                "table {} has no columns, so there is nothing to pull",
                table.source
            )));
        }
        let work = self.progress.start(self.step, &table.name, relation.rows_estimated);
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
        let last = publication.base().and_then(|base| base.tables.get(&table.name));
        let drift = last.map(|last| drift::compare(last, &relation.schema, &mark)).unwrap_or_default();
        Ok(Pulling {
            schema: schema_for(&relation.schema),
            layout: TableLayout {
                table: table.name.clone(),
                version: publication.version(),
                run_id: self.run_id.to_owned(),
                key: table.key.clone(),
                partition_by: table.partition_by.clone(),
            },
            table: table.clone(),
            relation,
            work,
            mark,
            drift,
            part: Part::Whole(None),
        })
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
            let planned = unless_cancelled(self.cancel, candidate.plan(snapshot.session())).await??;
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

    /// Ranges of the largest table first, so that the connections end together.
    fn queue(&self, pulling: &[Pulling], server_version: u32) -> PieceQueue {
        let mut order: Vec<usize> = (0..pulling.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(pulling[*index].relation.pages));
        let ranges = order.into_iter().flat_map(|index| {
            let ranges = match &pulling[index].part {
                Part::Changed(increment) if increment.by_index => vec![CopyRange::ALL],
                _ => plan_ranges(&pulling[index].relation, server_version, self.connections as u64),
            };
            ranges.into_iter().map(move |range| (index, range))
        });
        PieceQueue::new(ranges)
    }

    /// Runs the workers until the queue is empty.
    async fn copy(
        &self,
        snapshot: SharedSnapshot,
        pulling: &Arc<Vec<Pulling>>,
        queue: &Arc<PieceQueue>,
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
            writers: Arc::clone(&writers),
            progress: self.progress.clone(),
            step: self.step,
            cancel: all.clone(),
        };
        let mut snapshot = Some(Arc::new(snapshot));
        let mut connections = 0;
        while let Some(shared) = snapshot.as_ref().filter(|_| connections < self.connections) {
            // Only without the first is there nothing to do meanwhile.
            let failures_max = if connections == 0 && !shared.is_pooled() { REJOINS_MAX } else { 0 };
            match join(shared, all, failures_max).await {
                Ok(session) => {
                    workers.spawn(worker(session, Some(Arc::clone(shared))).run());
                    connections += 1;
                }
                // The pull goes on with the connections it could get.
                Err(error @ PipelineError::Source(_)) if connections > 0 => {
                    self.progress.warn(self.step, format!("pulling with {connections} connections: {error}"));
                    break;
                }
                Err(error @ PipelineError::Source(_)) if shared.is_pooled() && !shared.is_lost() => {
                    let message =
                        format!("pulling with one connection, as the pooler lets no two share a snapshot: {error}");
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
            None => Ok(Copied { shares, connections, snapshot }),
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
            unless_cancelled(self.cancel, held.check()).await??;
        }
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
                    let merged = self.merge(table, increment, &mut share, present.remove(&index)).await?;
                    last = Some(increment.last()).filter(|_| merged.is_unchanged());
                    merges.insert(name.clone(), merged);
                }
            }
            if share.files.iter().all(|file| file.rows == 0) {
                share.files = self.write_empty(table).await?;
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
        };
        let (files, mut merged) = tokio::task::spawn_blocking(move || merge.run()).await??;
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
        share.widen(&table.schema, increment.last());
        Ok(merged)
    }

    /// One file without rows, so that an empty table can be read like any other.
    async fn write_empty(&self, pulling: &Pulling) -> Result<Vec<DataFile>, PipelineError> {
        let layout = TableLayout { partition_by: Vec::new(), ..pulling.layout.clone() };
        let (lake, schema, runtime) = (self.lake.clone(), Arc::clone(&pulling.schema), Handle::current());
        let write = move || TableWriter::new(&lake, runtime, layout, schema, 0)?.finish(true);
        Ok(tokio::task::spawn_blocking(write).await??)
    }
}

fn lake_table(pulling: &Pulling, share: Share, version: Version, run_id: &str, snapshot: &SnapshotInfo) -> LakeTable {
    let fields = pulling.schema.fields().iter();
    let made_null = fields.clone().zip(share.made_null).filter(|(_, count)| *count > 0);
    let made_null = made_null.map(|(field, count)| (field.name().clone(), count)).collect();
    let numeric_seen = fields
        .zip(share.seen)
        .filter_map(|(field, seen)| {
            let seen = seen?;
            Some((field.name().clone(), (seen.integer_digits, seen.scale, seen.special)))
        })
        .collect();
    LakeTable {
        version,
        run_id: run_id.to_owned(),
        created: Utc::now(),
        origin: Origin::Source {
            table: pulling.table.source.to_string(),
            fingerprint: pulling.relation.schema.fingerprint(),
            pg_snapshot: snapshot.id.clone(),
            time: snapshot.time.clone(),
            wal_position: snapshot.wal_position.clone(),
            source_rows: share.rows_sent,
            numeric_seen,
            mark: Some(Box::new(pulling.mark.clone())),
            made_null,
        },
        schema: Arc::clone(&pulling.schema),
        rows: share.files.iter().map(|file| file.rows).sum(),
        bytes: share.files.iter().map(|file| file.bytes).sum(),
        files: share.files,
    }
}

/// Values of a table that became null, by column.
fn made_null_in(table: &LakeTable) -> BTreeMap<String, u64> {
    match &table.origin {
        Origin::Source { made_null, .. } => made_null.clone(),
        Origin::Dataset { .. } => BTreeMap::new(),
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

/// Waits for an answer of the server no longer than the run goes on.
async fn unless_cancelled<T>(cancel: &CancellationToken, answer: impl Future<Output = T>) -> Result<T, PipelineError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(PipelineError::Cancelled),
        answer = answer => Ok(answer),
    }
}

/// Another session of a snapshot, after so many failures at most.
async fn join(
    snapshot: &SharedSnapshot,
    cancel: &CancellationToken,
    failures_max: u32,
) -> Result<Session, PipelineError> {
    let mut backoff = Backoff::default();
    loop {
        match unless_cancelled(cancel, snapshot.join()).await? {
            Err(error) if error.remedy() == Remedy::Again && backoff.failures() < failures_max => {
                tracing::debug!(%error, "cannot open another session yet");
                unless_cancelled(cancel, sleep(backoff.pause())).await?;
            }
            Err(error) if error.remedy() == Remedy::StartOver => return Err(SourceError::SnapshotLost.into()),
            outcome => return Ok(outcome?),
        }
    }
}

/// One connection and its encoder.
struct Worker {
    session: Session,
    /// Where another session can be had; nowhere for the only one that has the snapshot.
    snapshot: Option<Arc<SharedSnapshot>>,
    rate: Option<Arc<RateLimit>>,
    lake: Lake,
    pulling: Arc<Vec<Pulling>>,
    queue: Arc<PieceQueue>,
    /// Numbers the writers of all workers, so that no two files have one name.
    writers: Arc<AtomicUsize>,
    progress: Progress,
    step: Step,
    cancel: CancellationToken,
}

/// A worker's share of one table, under construction.
struct TableShare {
    index: usize,
    /// What is completely in it.
    pieces: Vec<Piece>,
    bytes: u64,
    rows_sent: u64,
    builder: BatchBuilder,
    encoder: Encoder,
}

impl Worker {
    /// Copies pieces until the queue is empty.
    async fn run(mut self) -> Result<Vec<(usize, Share)>, PipelineError> {
        let mut shares = Vec::new();
        let mut current: Option<TableShare> = None;
        while let Some(piece) = self.queue.next() {
            if let Some(done) = current.take_if(|share| !share.takes(piece)) {
                shares.push(done.finish(&self.pulling).await?);
            }
            let mut share = match current.take() {
                Some(share) => share,
                None => self.begin(piece.table)?,
            };
            match self.copy(&mut share, piece.range).await {
                Ok(()) => {
                    share.pieces.push(piece);
                    current = Some(share);
                }
                Err(error) => {
                    let pieces = share.discard(&self.lake).await?;
                    self.recover(pieces, piece, error).await?;
                }
            }
        }
        if let Some(done) = current {
            shares.push(done.finish(&self.pulling).await?);
        }
        Ok(shares)
    }

    /// Puts back the pieces whose files are thrown away, and opens another session.
    async fn recover(&mut self, pieces: Vec<Piece>, failed: Piece, error: PipelineError) -> Result<(), PipelineError> {
        let PipelineError::Source(error) = error else { return Err(error) };
        let failed = Piece { failures: failed.failures + 1, ..failed };
        let again = match error.remedy() {
            Remedy::Again if failed.failures < PIECE_FAILURES_MAX => vec![failed],
            Remedy::Halves => {
                let halves = failed.range.halves(self.pulling[failed.table].relation.pages);
                halves.into_iter().flatten().map(|range| Piece { range, ..failed }).collect()
            }
            _ => Vec::new(),
        };
        if again.is_empty() {
            return Err(error.into());
        }
        let Some(snapshot) = &self.snapshot else { return Err(SourceError::SnapshotLost.into()) };
        let count = pieces.len() + again.len();
        self.progress.warn(self.step, format!("{error}; copying {count} ranges of it again"));
        self.queue.put_back(pieces.into_iter().chain(again));
        self.session = join(snapshot, &self.cancel, REJOINS_MAX).await?;
        Ok(())
    }

    fn begin(&self, index: usize) -> Result<TableShare, PipelineError> {
        let pulling = &self.pulling[index];
        let (schema, layout) = (Arc::clone(&pulling.schema), pulling.layout.clone());
        let number = self.writers.fetch_add(1, Ordering::Relaxed);
        let writer = TableWriter::new(&self.lake, Handle::current(), layout, schema, number)?;
        Ok(TableShare {
            index,
            pieces: Vec::new(),
            bytes: 0,
            rows_sent: 0,
            builder: BatchBuilder::with_policies(&pulling.relation.schema, &pulling.table.columns),
            encoder: Encoder::start(writer),
        })
    }

    async fn copy(&mut self, share: &mut TableShare, range: CopyRange) -> Result<(), PipelineError> {
        let pulling = Arc::clone(&self.pulling);
        let pulling = &pulling[share.index];
        let table = &pulling.relation.schema;
        let decode_failed = |source| PipelineError::Decode { table: table.table.clone(), source };
        let mut decoder = CopyDecoder::new(table.columns.len());
        let (condition, rate) = (pulling.condition(), self.rate.clone());
        let mut stream = CopyStream::open(&mut self.session, table, range, condition, rate, &self.cancel).await?;
        while let Some(bytes) = stream.next().await? {
            decoder.push_block(bytes).map_err(decode_failed)?;
            share.take_block(&mut decoder, pulling, range).await?;
        }
        let (received, sent) = (decoder.finish().map_err(decode_failed)?, stream.rows());
        if received != sent {
            return Err(SourceError::Incomplete { table: table.table.clone(), sent, received }.into());
        }
        share.rows_sent += sent;
        Ok(())
    }
}

impl TableShare {
    /// Whether a piece goes into the same files as those before it.
    fn takes(&self, piece: Piece) -> bool {
        let is_first_try = !piece.is_repeated && self.pieces.iter().all(|piece| !piece.is_repeated);
        self.index == piece.table && self.bytes < SHARE_BYTES_MAX && is_first_try
    }

    /// Removes the files; gives the pieces that were in them. The encoder's error, if it has one, is the reason why it
    /// took no more batches.
    async fn discard(self, lake: &Lake) -> Result<Vec<Piece>, PipelineError> {
        for file in self.encoder.finish().await? {
            lake.delete(&Path::from(file.path)).await?;
        }
        Ok(self.pieces)
    }

    /// Moves the decoder's tuples into the batch, and a full batch to the encoder.
    async fn take_block(
        &mut self,
        decoder: &mut CopyDecoder,
        pulling: &Pulling,
        range: CopyRange,
    ) -> Result<(), PipelineError> {
        let (block, bytes) = (decoder.block(), decoder.block_bytes());
        self.builder.append(block, bytes).map_err(|source| value_error(pulling, range, source))?;
        pulling.work.add(block.rows() as u64, bytes as u64);
        self.bytes += bytes as u64;
        decoder.clear_block();
        if self.builder.rows() >= BATCH_ROWS_MAX || self.builder.bytes() >= BATCH_BYTES_MAX {
            let batch = self.builder.finish().map_err(|source| value_error(pulling, range, source))?;
            self.encoder.send(batch).await?;
        }
        Ok(())
    }

    /// Encodes the rest and closes the files.
    async fn finish(mut self, pulling: &[Pulling]) -> Result<(usize, Share), PipelineError> {
        let failed = |source| value_error(&pulling[self.index], CopyRange::ALL, source);
        let last = self.builder.finish().map_err(failed)?;
        // An encoder that failed takes no more, and has the reason.
        let _closed = self.encoder.send(last).await;
        let share = Share {
            files: self.encoder.finish().await?,
            rows_sent: self.rows_sent,
            seen: self.builder.numeric_seen(),
            made_null: self.builder.replaced(),
        };
        Ok((self.index, share))
    }
}

fn value_error(pulling: &Pulling, range: CopyRange, source: crate::columnar::BuildError) -> PipelineError {
    let place = match (range.from, range.to) {
        (0, None) => "a value cannot be held".to_owned(),
        (from, None) => format!("a value in the pages from {from} on cannot be held"),
        (from, Some(to)) => format!("a value in the pages {from} to {} cannot be held", to - 1),
    };
    PipelineError::Value { table: pulling.table.source.clone(), place, source }
}

/// A thread that encodes the batches sent to it.
struct Encoder {
    batches: mpsc::Sender<RecordBatch>,
    thread: JoinHandle<Result<Vec<DataFile>, LakeError>>,
}

impl Encoder {
    fn start(mut writer: TableWriter) -> Self {
        let (batches, mut queue) = mpsc::channel(QUEUED_BATCHES_MAX);
        let thread = tokio::task::spawn_blocking(move || {
            while let Some(batch) = queue.blocking_recv() {
                writer.write(batch)?;
            }
            writer.finish(false)
        });
        Self { batches, thread }
    }

    /// Waits while the queue is full. An encoder that failed takes no more; [`Encoder::finish`] has its error.
    async fn send(&self, batch: RecordBatch) -> Result<(), PipelineError> {
        self.batches.send(batch).await.map_err(|_| PipelineError::Cancelled)
    }

    async fn finish(self) -> Result<Vec<DataFile>, PipelineError> {
        drop(self.batches);
        Ok(self.thread.await??)
    }
}
