//! Read-only SQL over the lake.

use std::io::Write;
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

/// The first `rows_max` rows of a query over the latest lake version, and whether there are more.
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
) -> Result<(SchemaRef, Vec<RecordBatch>, bool), PipelineError> {
    let query = Query::prepare(context, sql, limits).await?;
    let run = move || {
        let (mut batches, mut rows) = (Vec::new(), 0);
        let schema = query.stream(|_, batch| {
            let wanted = batch.num_rows().min(rows_max.saturating_sub(rows));
            rows += batch.num_rows();
            if wanted > 0 {
                batches.push(batch.slice(0, wanted));
            }
            Ok(())
        })?;
        Ok((schema, batches, rows > rows_max))
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
    let failed = |source: WriteError| PipelineError::Output { path: "standard output".to_owned(), source };
    let run = move || {
        let (mut writer, mut output) = (None, Some(output));
        let schema = query.stream(|schema, batch| {
            if let Some(output) = output.take() {
                writer = Some(RowWriter::new(output, format, schema).map_err(failed)?);
            }
            writer.as_mut().map_or(Ok(()), |writer| writer.write(&batch)).map_err(failed)
        })?;
        if let Some(output) = output {
            writer = Some(RowWriter::new(output, format, &schema).map_err(failed)?);
        }
        writer.map_or(Ok(()), RowWriter::finish).map_err(failed)
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

/// A query and what it runs on.
struct Query {
    lake: Lake,
    manifest: Manifest,
    limits: EngineLimits,
    time: Option<Duration>,
    context: Context,
    sql: String,
    runtime: Handle,
}

impl Query {
    async fn prepare(context: &Context, sql: &str, limits: &QueryLimits) -> Result<Self, PipelineError> {
        let lake = context.lake()?;
        let engine = context.engine_limits(&lake);
        Ok(Self {
            manifest: lake.require_latest().await?,
            limits: EngineLimits { memory: limits.memory.clone().or(engine.memory), ..engine },
            time: limits.time,
            lake,
            context: context.clone(),
            sql: sql.to_owned(),
            runtime: Handle::current(),
        })
    }

    fn stream(
        &self,
        take: impl FnMut(&SchemaRef, RecordBatch) -> Result<(), PipelineError>,
    ) -> Result<SchemaRef, PipelineError> {
        let cancel = self.context.cancel.child_token();
        let _clock = self.time.map(|time| self.end_after(time, cancel.clone()));
        let engine = Engine::open(None, &self.limits, cancel)?;
        let _watch = engine.watch_cancel(&self.runtime);
        let tables = self.manifest.tables.keys().map(String::as_str);
        create_views(&engine, &self.lake, &self.manifest, tables, None)?;
        engine.confine(&[self.lake.root()])?;
        if !engine.is_read_only(&self.sql)? {
            let message = "only one statement that reads is allowed: SELECT, FROM, WITH or VALUES";
            return Err(TransformError::Query(message.to_owned()).into());
        }
        engine.stream(&self.sql, take)
    }

    /// Cancels after a time, unless the answer is dropped before.
    fn end_after(&self, time: Duration, cancel: CancellationToken) -> DropGuard {
        let done = CancellationToken::new();
        let ended = done.clone();
        self.runtime.spawn(async move {
            // An error is the clock's ring.
            if tokio::time::timeout(time, ended.cancelled()).await.is_err() {
                cancel.cancel();
            }
        });
        done.drop_guard()
    }
}
