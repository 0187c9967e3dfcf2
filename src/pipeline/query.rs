//! Read-only SQL over the lake.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::rows::{RowWriter, WriteError};
use super::{Context, PipelineError, RowFormat};
use crate::lake::{Lake, Manifest};
use crate::transform::{Engine, EngineLimits, TransformError, create_views};

/// What a query may use.
#[derive(Debug, Clone, Default)]
pub struct QueryLimits {
    /// DuckDB's memory, when less than a run's.
    pub memory: Option<String>,
    /// How long it may take; then it ends as if it had been cancelled.
    pub time: Option<Duration>,
}

/// The schema of a result, its first rows, and whether there are more.
pub type FirstRows = (SchemaRef, Vec<RecordBatch>, bool);

/// The first `rows_max` rows of a query over the latest lake version, and whether there are more; it ends there.
///
/// The query sees the lake's tables by their names and nothing else: no other files, no network, no settings.
///
/// # Errors
/// [`PipelineError::Transform`] with DuckDB's message.
pub async fn query(
    context: &Context,
    sql: &str,
    limits: &QueryLimits,
    rows_max: usize,
) -> Result<FirstRows, PipelineError> {
    let query = Query::prepare(context, sql, limits).await?;
    let (cancel, runtime, time) = (context.cancel.child_token(), Handle::current(), limits.time);
    let run = move || {
        let _clock = time.map(|time| end_after(time, cancel.clone(), &runtime));
        let engine = query.open(cancel)?;
        let _watch = engine.watch_cancel(&runtime);
        query.first_rows(&engine, rows_max, usize::MAX)
    };
    tokio::task::spawn_blocking(run).await?
}

/// Writes all rows of a query to `output` as they come; a reader that leaves early is no error.
///
/// # Errors
/// As [`query`], and [`PipelineError::Output`].
pub async fn query_into(
    context: &Context,
    sql: &str,
    limits: &QueryLimits,
    format: RowFormat,
    output: impl Write + Send + 'static,
) -> Result<(), PipelineError> {
    let query = Query::prepare(context, sql, limits).await?;
    let (cancel, runtime, time) = (context.cancel.child_token(), Handle::current(), limits.time);
    let run = move || {
        let _clock = time.map(|time| end_after(time, cancel.clone(), &runtime));
        let engine = query.open(cancel)?;
        let _watch = engine.watch_cancel(&runtime);
        query.write(&engine, format, output)
    };
    match tokio::task::spawn_blocking(run).await? {
        Err(PipelineError::Output { source, .. }) if is_broken_pipe(source.as_ref()) => Ok(()),
        result => result,
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.to_string().to_lowercase().contains("broken pipe"))
}

/// Cancels after a time, unless the answer is dropped before.
fn end_after(time: Duration, cancel: CancellationToken, runtime: &Handle) -> DropGuard {
    let done = CancellationToken::new();
    let ended = done.clone();
    runtime.spawn(async move {
        // An error is the clock's ring.
        if tokio::time::timeout(time, ended.cancelled()).await.is_err() {
            cancel.cancel();
        }
    });
    done.drop_guard()
}

/// A query and what it runs on.
pub(super) struct Query {
    pub(super) lake: Lake,
    pub(super) manifest: Manifest,
    pub(super) limits: EngineLimits,
    pub(super) sql: String,
}

/// Why the rows of a query end before its own end.
enum Stop {
    Enough,
    Failed(PipelineError),
}

impl From<TransformError> for Stop {
    fn from(error: TransformError) -> Self {
        Self::Failed(error.into())
    }
}

impl Query {
    async fn prepare(context: &Context, sql: &str, limits: &QueryLimits) -> Result<Self, PipelineError> {
        let lake = context.lake()?;
        let engine = context.engine_limits(&lake);
        Ok(Self {
            manifest: lake.require_latest().await?,
            limits: EngineLimits { memory: limits.memory.clone().or(engine.memory), ..engine },
            lake,
            sql: sql.to_owned(),
        })
    }

    /// An engine that can read the version's tables and nothing else.
    pub(super) fn open(&self, cancel: CancellationToken) -> Result<ConfinedEngine, PipelineError> {
        // Not the folder of a run: it would be readable, and DuckDB removes what it finds there.
        let spill = SpillFolder(self.lake.local_path(&format!("spill-{:016x}", rand::random::<u64>())));
        let limits = EngineLimits { spill_folder: Some(spill.0.clone()), ..self.limits.clone() };
        let engine = Engine::open(None, &limits, cancel)?;
        let tables = self.manifest.tables.keys().map(String::as_str);
        create_views(&engine, &self.lake, &self.manifest, tables, None)?;
        let files = self.manifest.tables.values().flat_map(|table| &table.files);
        let files: Vec<PathBuf> = files.map(|file| self.lake.local_path(&file.path)).collect();
        engine.confine(&files)?;
        if !engine.is_read_only(&self.sql)? {
            let message = "only one statement that reads is allowed: SELECT, FROM, WITH or VALUES";
            return Err(TransformError::Query(message.to_owned()).into());
        }
        Ok(ConfinedEngine { engine, _spill: spill })
    }

    /// The first rows, up to about so many bytes; what comes after them is not computed.
    pub(super) fn first_rows(
        &self,
        engine: &Engine,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<FirstRows, PipelineError> {
        let (mut batches, mut rows, mut bytes, mut known) = (Vec::new(), 0, 0, None);
        let ended = engine.stream(&self.sql, |schema, batch| {
            let (size, left) = (batch.get_array_memory_size(), bytes_max.saturating_sub(bytes));
            // Of a batch that is too large, about the rows that fit, and one in any case.
            let fit = if size <= left { batch.num_rows() } else { (batch.num_rows() * left / size).max(1) };
            let wanted = batch.num_rows().min(rows_max - rows).min(fit);
            rows += wanted;
            bytes += size;
            let is_cut = wanted < batch.num_rows();
            if wanted > 0 {
                batches.push(batch.slice(0, wanted));
            }
            known = Some(SchemaRef::clone(schema));
            if is_cut { Err(Stop::Enough) } else { Ok(()) }
        });
        match (ended, known) {
            (Ok(schema), _) => Ok((schema, batches, false)),
            (Err(Stop::Enough), Some(schema)) => Ok((schema, batches, true)),
            (Err(Stop::Enough), None) => unreachable!("only a batch is enough, and it has a schema"),
            (Err(Stop::Failed(error)), _) => Err(error),
        }
    }

    /// Writes all rows.
    pub(super) fn write(
        &self,
        engine: &Engine,
        format: RowFormat,
        output: impl Write + Send,
    ) -> Result<(), PipelineError> {
        let failed = |source: WriteError| PipelineError::Output { path: "standard output".to_owned(), source };
        let (mut writer, mut output) = (None, Some(output));
        let schema = engine.stream(&self.sql, |schema, batch| {
            if let Some(output) = output.take() {
                writer = Some(RowWriter::new(output, format, schema).map_err(failed)?);
            }
            writer.as_mut().map_or(Ok(()), |writer| writer.write(&batch)).map_err(failed)
        })?;
        if let Some(output) = output {
            writer = Some(RowWriter::new(output, format, &schema).map_err(failed)?);
        }
        writer.map_or(Ok(()), RowWriter::finish).map_err(failed)
    }
}

/// An engine and the folder it spills to, which goes with it.
pub(super) struct ConfinedEngine {
    engine: Engine,
    _spill: SpillFolder,
}

impl std::ops::Deref for ConfinedEngine {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

/// A folder that DuckDB makes when it needs it.
struct SpillFolder(PathBuf);

impl Drop for SpillFolder {
    fn drop(&mut self) {
        // Most queries do not spill, and then there is none.
        let _ = fs::remove_dir_all(&self.0);
    }
}
