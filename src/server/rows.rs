//! Rows for people: a result grid, and downloads that stream.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Dashboard;
use super::problem::Problem;
use crate::lake::LakeError;
use crate::pipeline::{self, ApartLimits, Context, PipelineError, RowFormat};

/// Queries and exports at once.
pub(super) const READS_MAX: usize = 4;
/// How long a query of the SQL box may take, and DuckDB's memory, disk and threads for it.
const QUERY_TIME_MAX: Duration = Duration::from_secs(30);
const QUERY_MEMORY_MAX: &str = "1GB";
const QUERY_SPILL_MAX: &str = "4GB";
const QUERY_THREADS: usize = 2;
/// Addresses of its process: that memory, as much again for what DuckDB does not count, and the program itself.
const QUERY_PROCESS_KILOBYTES: u64 = 3 << 20;
/// Rows of a grid, when the request names no number and at most.
const GRID_ROWS: usize = 1000;
const GRID_ROWS_MAX: usize = 10_000;
/// Characters of all cells of a grid; more is what a download is for.
const GRID_CHARS_MAX: usize = 8 << 20;
/// Bytes of one piece of a download, and pieces waiting for the client.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_MAX: usize = 8;
/// How long a piece may wait for its client.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest integer that JavaScript tells from its neighbours.
const SAFE_INTEGER_MAX: f64 = 9_007_199_254_740_991.0;

/// A query as it is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    sql: String,
    rows_max: Option<usize>,
    seconds_max: Option<u64>,
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
    let place = dashboard.place_to_read()?;
    let limits = limits(question.seconds_max)?;
    let (format, name) = match question.format {
        Form::Json => return grid(&dashboard, &question, &limits).await,
        Form::Csv => (RowFormat::Csv, "query.csv"),
        Form::Parquet => (RowFormat::Parquet, "query.parquet"),
    };
    let pieces = pipeline::query_apart_as(&dashboard.context, &question.sql, &limits, format).await?;
    download(place, format, name, pieces).await
}

fn limits(seconds_max: Option<u64>) -> Result<ApartLimits, Problem> {
    let time = seconds_max.map_or(QUERY_TIME_MAX, |seconds| Duration::from_secs(seconds).min(QUERY_TIME_MAX));
    let program = std::env::current_exe()
        .map_err(|error| PipelineError::Output { path: "the program's own path".to_owned(), source: error.into() })?;
    Ok(ApartLimits {
        program,
        memory: QUERY_MEMORY_MAX.to_owned(),
        spill: QUERY_SPILL_MAX.to_owned(),
        threads: QUERY_THREADS,
        process_kilobytes: QUERY_PROCESS_KILOBYTES,
        time,
    })
}

async fn grid(dashboard: &Dashboard, question: &Question, limits: &ApartLimits) -> Result<Response, Problem> {
    let started = Instant::now();
    let rows_max = question.rows_max.unwrap_or(GRID_ROWS).min(GRID_ROWS_MAX);
    let (schema, batches, more) = pipeline::query_apart(&dashboard.context, &question.sql, limits, rows_max).await?;
    let (rows, cut) = cells(&schema, &batches)?;
    let columns = schema
        .fields()
        .iter()
        .map(|field| GridColumn { name: field.name().clone(), r#type: field.data_type().to_string() });
    let columns = columns.collect();
    Ok(Json(Grid { columns, rows, more: more || cut, seconds: started.elapsed().as_secs_f64() }).into_response())
}

impl Dashboard {
    /// A place among those who read the lake, as long as the answer is kept.
    pub(super) fn place_to_read(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let place = Arc::clone(&self.reads).try_acquire_owned();
        place.map_err(|_| {
            Problem::busy("as many queries and downloads as the server allows are running; try again in a moment")
        })
    }
}

/// A context whose work ends when the answer to the request is no longer wanted.
fn abandoned_with_request(context: &Context) -> (Context, DropGuard) {
    let cancel = context.cancel.child_token();
    (Context { cancel: cancel.clone(), ..context.clone() }, cancel.drop_guard())
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
    let place = dashboard.place_to_read()?;
    download(place, format, &name, exported(&dashboard.context, table, format)).await
}

/// A table's rows in a format, made on a thread of its own as the reader takes them; they end when it leaves.
fn exported(context: &Context, table: String, format: RowFormat) -> BoxStream<'static, Result<Bytes, PipelineError>> {
    let (context, guard) = abandoned_with_request(context);
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    let way = Way { pieces, runtime: Handle::current(), cancel: context.cancel.clone(), patience: SEND_TIMEOUT };
    let output = Pieces { way: way.clone(), buffer: Vec::with_capacity(PIECE_BYTES) };
    tokio::task::spawn_blocking(move || {
        let written = way.runtime.block_on(pipeline::export_into(&context, &table, format, output));
        // A client that has left needs no answer.
        let _ = way.deliver(written.map(|()| Bytes::new()));
    });
    let pieces = futures::stream::unfold((received, Some(guard)), async |(mut received, guard)| {
        let guard = guard?;
        match received.recv().await {
            // The mark of the end; without it the rest is missing.
            Some(Ok(piece)) if piece.is_empty() => None,
            Some(Ok(piece)) => Some((Ok(piece), (received, Some(guard)))),
            Some(Err(error)) => Some((Err(error), (received, None))),
            None => Some((Err(PipelineError::Cancelled), (received, None))),
        }
    });
    pieces.boxed()
}

/// Streams pieces of a file. Until the first a failure is a problem; after it the connection breaks off, so that half a
/// file is never taken for a whole one. The place is given back when the client has all or has left.
async fn download(
    place: OwnedSemaphorePermit,
    format: RowFormat,
    name: &str,
    mut pieces: BoxStream<'static, Result<Bytes, PipelineError>>,
) -> Result<Response, Problem> {
    let first = pieces.next().await.transpose()?;
    let rest = pieces.map(move |piece| {
        let _held = &place;
        piece.map_err(|error| std::io::Error::other(pipeline::chain(&error)))
    });
    let body = futures::stream::iter(first.map(Ok)).chain(rest);
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

/// The way to a client. Whoever delivers waits while it reads, but neither for long nor when the server stops.
#[derive(Debug, Clone)]
struct Way {
    pieces: mpsc::Sender<Result<Bytes, PipelineError>>,
    runtime: Handle,
    cancel: CancellationToken,
    patience: Duration,
}

impl Way {
    fn deliver(&self, piece: Result<Bytes, PipelineError>) -> std::io::Result<()> {
        self.runtime.block_on(async {
            tokio::select! {
                // Who has left has cancelled too.
                () = self.cancel.cancelled() => Err(std::io::ErrorKind::BrokenPipe.into()),
                sent = self.pieces.send_timeout(piece, self.patience) => sent.map_err(|error| match error {
                    SendTimeoutError::Timeout(_) => std::io::ErrorKind::TimedOut.into(),
                    SendTimeoutError::Closed(_) => std::io::ErrorKind::BrokenPipe.into(),
                }),
            }
        })
    }
}

/// Bytes on their way to a client.
struct Pieces {
    way: Way,
    buffer: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        self.way.deliver(Ok(piece.into()))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    #[tokio::test]
    async fn a_writer_does_not_wait_for_ever() {
        let (pieces, _never_read) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        let patience = Duration::from_millis(10);
        let way = Way { pieces, runtime: Handle::current(), cancel: cancel.clone(), patience };
        let deliver = |way: Way| tokio::task::spawn_blocking(move || way.deliver(Ok(Bytes::from_static(b"rows"))));
        deliver(way.clone()).await.unwrap().unwrap();
        let late = deliver(way.clone()).await.unwrap().unwrap_err();
        assert_eq!(late.kind(), std::io::ErrorKind::TimedOut);
        cancel.cancel();
        let patient = Way { patience: Duration::MAX, ..way };
        let stopped = deliver(patient).await.unwrap().unwrap_err();
        assert_eq!(stopped.kind(), std::io::ErrorKind::BrokenPipe);
    }
}
