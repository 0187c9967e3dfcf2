//! Rows for people: a result grid, and downloads that stream.

use std::io::Write;
use std::time::{Duration, Instant};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use super::Dashboard;
use super::problem::Problem;
use crate::lake::LakeError;
use crate::pipeline::{self, Context, PipelineError, QueryLimits, RowFormat};

/// Queries and exports at once.
pub(super) const READS_MAX: usize = 4;
/// How long a query of the SQL box may take, and DuckDB's memory for it.
const QUERY_TIME_MAX: Duration = Duration::from_secs(30);
const QUERY_MEMORY_MAX: &str = "1GB";
/// Rows of a grid, when the request names no number and at most.
const GRID_ROWS: usize = 1000;
const GRID_ROWS_MAX: usize = 10_000;
/// Characters of all cells of a grid; more is what a download is for.
const GRID_CHARS_MAX: usize = 8 << 20;
/// Bytes of one piece of a download, and pieces waiting for the client.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_MAX: usize = 8;
/// The largest integer that JavaScript tells from its neighbours.
const SAFE_INTEGER_MAX: f64 = 9_007_199_254_740_991.0;

/// A query as it is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    sql: String,
    rows_max: Option<usize>,
    #[serde(default)]
    format: Form,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    Json,
    Csv,
    Parquet,
}

/// A result as a grid.
#[derive(Debug, Serialize)]
pub(super) struct Grid {
    columns: Vec<GridColumn>,
    rows: Vec<Vec<Value>>,
    more: bool,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct GridColumn {
    name: String,
    r#type: String,
}

pub(super) async fn query(State(dashboard): State<Dashboard>, body: Bytes) -> Result<Response, Problem> {
    let question: Question = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body cannot be read: {error}")))?;
    let limits = QueryLimits { memory: Some(QUERY_MEMORY_MAX.to_owned()), time: Some(QUERY_TIME_MAX) };
    let (format, name) = match question.format {
        Form::Json => return grid(&dashboard, &question, &limits).await,
        Form::Csv => (RowFormat::Csv, "query.csv"),
        Form::Parquet => (RowFormat::Parquet, "query.parquet"),
    };
    download(&dashboard, format, name, async move |context, output| {
        pipeline::query_into(&context, &question.sql, &limits, format, output).await
    })
    .await
}

async fn grid(dashboard: &Dashboard, question: &Question, limits: &QueryLimits) -> Result<Response, Problem> {
    let _place = dashboard.reads.try_acquire().map_err(|_| too_many())?;
    let started = Instant::now();
    let rows_max = question.rows_max.unwrap_or(GRID_ROWS).min(GRID_ROWS_MAX);
    let context = abandoned_with_request(&dashboard.context);
    let asked = pipeline::query(&context.0, &question.sql, limits, rows_max).await;
    let (schema, batches, more) = asked.map_err(|error| slow(error, started))?;
    let (rows, cut) = cells(&schema, &batches)?;
    let columns = schema
        .fields()
        .iter()
        .map(|field| GridColumn { name: field.name().clone(), r#type: field.data_type().to_string() });
    let columns = columns.collect();
    Ok(Json(Grid { columns, rows, more: more || cut, seconds: started.elapsed().as_secs_f64() }).into_response())
}

/// A context whose work ends when the answer to the request is no longer wanted.
fn abandoned_with_request(context: &Context) -> (Context, DropGuard) {
    let cancel = context.cancel.child_token();
    (Context { cancel: cancel.clone(), ..context.clone() }, cancel.drop_guard())
}

fn too_many() -> Problem {
    Problem::busy("as many queries and downloads as the server allows are running; try again in a moment")
}

/// A query that was cut off by the clock says so.
fn slow(error: PipelineError, started: Instant) -> Problem {
    if started.elapsed() >= QUERY_TIME_MAX {
        let seconds = QUERY_TIME_MAX.as_secs();
        return Problem::timed_out(format!(
            "the query took longer than {seconds} s; `racealpha query` has no such limit"
        ));
    }
    error.into()
}

/// Cells of a grid, and whether they were too many. Numbers that JavaScript would change are texts.
fn cells(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<(Vec<Vec<Value>>, bool), Problem> {
    let failed = |error| PipelineError::from(crate::transform::TransformError::Query(format!("{error}")));
    let options = FormatOptions::default().with_display_error(false);
    let (mut rows, mut chars) = (Vec::new(), 0);
    for batch in batches {
        let formatters: Result<Vec<_>, _> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options)).collect();
        let formatters = formatters.map_err(failed)?;
        for row in 0..batch.num_rows() {
            let mut cells = Vec::with_capacity(formatters.len());
            for ((column, formatter), field) in batch.columns().iter().zip(&formatters).zip(schema.fields()) {
                // A column of nothing but nulls has no bits that say so.
                if column.is_null(row) || column.data_type().is_null() {
                    cells.push(Value::Null);
                    continue;
                }
                let text = formatter.value(row).try_to_string().map_err(failed)?;
                chars += text.len();
                cells.push(cell(field.data_type(), text));
            }
            if chars > GRID_CHARS_MAX {
                return Ok((rows, true));
            }
            rows.push(cells);
        }
    }
    Ok((rows, false))
}

fn cell(data_type: &DataType, text: String) -> Value {
    match data_type {
        DataType::Boolean => Value::Bool(text == "true"),
        // A decimal keeps its zeros.
        _ if data_type.is_integer() || data_type.is_floating() => {
            let is_safe = |number: f64| data_type.is_floating() || number.abs() <= SAFE_INTEGER_MAX;
            let number = text.parse().ok().filter(|number: &f64| number.is_finite() && is_safe(*number));
            number.and_then(|_| serde_json::from_str(&text).ok()).unwrap_or(Value::String(text))
        }
        _ => Value::String(text),
    }
}

/// How a table is downloaded.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    format: Option<RowFormat>,
}

pub(super) async fn export(
    State(dashboard): State<Dashboard>,
    Path(table): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let format = wanted.format.unwrap_or(RowFormat::Parquet);
    let manifest = dashboard.context.lake()?.require_latest().await.map_err(PipelineError::from)?;
    if !manifest.tables.contains_key(&table) {
        let command = if dashboard.context.pipeline.made().any(|made| made.name == table) { "run" } else { "pull" };
        let missing = LakeError::NoTable { table, version: manifest.version, command };
        return Err(PipelineError::from(missing).into());
    }
    let name = format!("{table}.{}", format.extension());
    download(&dashboard, format, &name, async move |context, output| {
        pipeline::export_into(&context, &table, format, output).await
    })
    .await
}

/// Streams what `work` writes. Until the first bytes a failure is a problem; after them the connection breaks off, so
/// that half a file is never taken for a whole one.
async fn download<F>(dashboard: &Dashboard, format: RowFormat, name: &str, work: F) -> Result<Response, Problem>
where
    F: AsyncFnOnce(Context, Pieces) -> Result<(), PipelineError> + Send + 'static,
{
    let dashboard = dashboard.clone();
    let (context, guard) = abandoned_with_request(&dashboard.context);
    let (pieces, mut received) = mpsc::channel(PIECES_MAX);
    let output = Pieces { pieces: pieces.clone(), buffer: Vec::with_capacity(PIECE_BYTES) };
    let runtime = tokio::runtime::Handle::current();
    let started = Instant::now();
    if dashboard.reads.available_permits() == 0 {
        return Err(too_many());
    }
    let job = tokio::task::spawn_blocking(move || {
        let _place = runtime.block_on(dashboard.reads.acquire()).ok();
        let result = runtime.block_on(work(context, output));
        if let Err(error) = result {
            // A client that has left needs no answer.
            let _ = pieces.blocking_send(Err(error));
        }
    });
    let first = match received.recv().await {
        Some(Ok(bytes)) => Some(bytes),
        Some(Err(error)) => return Err(slow(error, started)),
        None => {
            job.await.map_err(PipelineError::from)?;
            None
        }
    };
    let rest = futures::stream::unfold((received, guard), async |(mut received, guard)| {
        let piece = received.recv().await?;
        Some((piece.map_err(|error| std::io::Error::other(pipeline::chain(&error))), (received, guard)))
    });
    let body = futures::StreamExt::chain(futures::stream::iter(first.map(Ok)), rest);
    let kind = match format {
        RowFormat::Csv => "text/csv; charset=utf-8",
        RowFormat::Json => "application/json",
        RowFormat::Arrow => "application/vnd.apache.arrow.file",
        RowFormat::Parquet => "application/vnd.apache.parquet",
    };
    // The name is a table's: anything that a header or a file system could take for something else goes.
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Bytes on their way to a client; writing waits while it reads.
struct Pieces {
    pieces: mpsc::Sender<Result<Bytes, PipelineError>>,
    buffer: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.pieces.blocking_send(Ok(piece.into())).map_err(gone)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.send()
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        // A client that has left needs no more.
        let _ = self.send();
    }
}
