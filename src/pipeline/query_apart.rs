//! A query in a process of its own. DuckDB's limit of memory does not count the texts that functions make, and its
//! interrupts wait for the function to end: what a stranger asks runs where the operating system sets the limits, and
//! where a kill ends it.
//!
//! ```text
//! server ──task as JSON──▶ stdin │ racealpha query-worker │ stdout ──rows──▶ server
//!                                │  ulimit -v, no secrets │ stderr ──outcome as JSON, the last line──▶ server
//! ```

use std::io::{Cursor, Read, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use super::query::{FirstRows, Query};
use super::{Context, PipelineError, RowFormat};
use crate::lake::{Lake, Manifest};
use crate::transform::{EngineLimits, TransformError};

/// The hidden command that does the query's work.
pub const QUERY_WORKER: &str = "query-worker";

/// Bytes read at once from the worker.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of first rows that are kept, about.
const FIRST_BYTES_MAX: usize = 32 << 20;
/// Bytes of first rows that are taken from the worker: that, rows larger than others, and what the format adds.
const TAKEN_BYTES_MAX: usize = 128 << 20;
/// Bytes of the worker's last words.
const OUTCOME_BYTES_MAX: u64 = 64 << 10;

/// What a query in a process of its own may use.
#[derive(Debug, Clone)]
pub struct ApartLimits {
    /// This program.
    pub program: PathBuf,
    /// DuckDB's memory.
    pub memory: String,
    /// DuckDB's files of what did not fit there.
    pub spill: String,
    /// DuckDB's threads.
    pub threads: usize,
    /// Kilobytes of addresses that the process may have, so all its memory; on Linux.
    pub process_kilobytes: u64,
    /// How long it may work; time in which it waits for whoever reads its rows does not count.
    pub time: Duration,
}

/// What the worker is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    lake: PathBuf,
    manifest: Manifest,
    sql: String,
    memory: String,
    spill: String,
    threads: usize,
    wanted: Wanted,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Wanted {
    First { rows_max: usize },
    All(RowFormat),
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    Done {
        more: bool,
    },
    /// DuckDB's message about the query.
    Refused(String),
    Failed(String),
}

/// The first rows of a query, as [`super::query()`] gives them.
///
/// # Errors
/// As there, and [`PipelineError::QueryTime`], [`PipelineError::QueryMemory`].
pub async fn query_apart(
    context: &Context,
    sql: &str,
    limits: &ApartLimits,
    rows_max: usize,
) -> Result<FirstRows, PipelineError> {
    let mut worker = Worker::start(context, sql, limits, Wanted::First { rows_max }).await?;
    let mut text = BytesMut::new();
    let more = loop {
        match worker.next().await? {
            Next::Piece(piece) => text.extend_from_slice(&piece),
            Next::End { more } => break more,
        }
        if text.len() > TAKEN_BYTES_MAX {
            return Err(PipelineError::QueryMemory);
        }
    };
    let failed = |error: arrow::error::ArrowError| TransformError::Query(error.to_string());
    let reader = StreamReader::try_new(Cursor::new(text.freeze()), None).map_err(failed)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<_, _>>().map_err(failed)?;
    Ok((schema, batches, more))
}

/// All rows of a query as bytes in a format. The stream ends well only when the query did.
///
/// # Errors
/// As [`query_apart`]; the stream's items too.
pub async fn query_apart_as(
    context: &Context,
    sql: &str,
    limits: &ApartLimits,
    format: RowFormat,
) -> Result<BoxStream<'static, Result<Bytes, PipelineError>>, PipelineError> {
    let worker = Worker::start(context, sql, limits, Wanted::All(format)).await?;
    let pieces = futures::stream::try_unfold(worker, async |mut worker| match worker.next().await? {
        Next::Piece(piece) => Ok::<_, PipelineError>(Some((piece, worker))),
        Next::End { .. } => Ok(None),
    });
    Ok(pieces.boxed())
}

enum Next {
    Piece(Bytes),
    End { more: bool },
}

/// The process; dropping it kills it.
struct Worker {
    child: Child,
    output: ChildStdout,
    limits: ApartLimits,
    time_left: Duration,
    cancel: CancellationToken,
}

impl Worker {
    async fn start(context: &Context, sql: &str, limits: &ApartLimits, wanted: Wanted) -> Result<Self, PipelineError> {
        let lake = context.lake()?;
        let task = Task {
            lake: lake.root().to_owned(),
            manifest: lake.require_latest().await?,
            sql: sql.to_owned(),
            memory: limits.memory.clone(),
            spill: limits.spill.clone(),
            threads: limits.threads,
            wanted,
        };
        // Names and numbers: there is nothing that JSON cannot hold.
        let task = serde_json::to_vec(&task).unwrap_or_default();
        let mut command = command(limits);
        command.env_clear().kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| not_started(&source))?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are pipes")
        };
        // A worker that does not take its task has died, and its outcome says so.
        let _ = input.write_all(&task).await;
        drop(input);
        Ok(Self { child, output, limits: limits.clone(), time_left: limits.time, cancel: context.cancel.clone() })
    }

    /// The next bytes, or how it ended.
    async fn next(&mut self) -> Result<Next, PipelineError> {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let asked = Instant::now();
        let (cancel, left) = (self.cancel.clone(), self.time_left);
        let read = tokio::select! {
            () = cancel.cancelled() => return Err(PipelineError::Cancelled),
            read = tokio::time::timeout(left, self.output.read_buf(&mut piece)) => read,
        };
        self.time_left = self.time_left.saturating_sub(asked.elapsed());
        match read {
            Err(_) => Err(PipelineError::QueryTime { seconds: self.limits.time.as_secs() }),
            Ok(Ok(0)) => self.outcome().await.map(|more| Next::End { more }),
            Ok(Ok(_)) => Ok(Next::Piece(piece.freeze())),
            Ok(Err(source)) => Err(not_started(&source)),
        }
    }

    /// What the worker said at its end; whether there are more rows.
    async fn outcome(&mut self) -> Result<bool, PipelineError> {
        let mut said = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // What cannot be read was not said.
            let _ = stderr.take(OUTCOME_BYTES_MAX).read_to_end(&mut said).await;
        }
        let said = String::from_utf8_lossy(&said);
        match said.lines().last().and_then(|line| serde_json::from_str(line).ok()) {
            Some(Outcome::Done { more }) => Ok(more),
            Some(Outcome::Refused(message)) => Err(TransformError::Query(message).into()),
            Some(Outcome::Failed(message)) => {
                Err(PipelineError::Output { path: "the rows".to_owned(), source: message.into() })
            }
            // It died in the middle of its work, as a process does that gets no more memory.
            None => Err(PipelineError::QueryMemory),
        }
    }
}

/// The program under a limit of the operating system, which a shell sets: this process itself must not get it.
fn command(limits: &ApartLimits) -> Command {
    if !cfg!(target_os = "linux") {
        let mut command = Command::new(&limits.program);
        command.arg(QUERY_WORKER);
        return command;
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -v \"$1\" && shift && exec \"$@\"", "sh"]);
    command.arg(limits.process_kilobytes.to_string()).arg(&limits.program).arg(QUERY_WORKER);
    command
}

fn not_started(source: &std::io::Error) -> PipelineError {
    TransformError::Start(format!("a process of its own for the query: {source}")).into()
}

/// Does the work of a query worker: the task from `input`, rows to `output`, and the outcome to `last_words`.
///
/// # Errors
/// The streams' own; what is wrong with the query is part of the outcome.
pub fn work_apart(
    input: impl Read,
    output: impl Write + Send,
    mut last_words: impl Write,
) -> Result<(), std::io::Error> {
    // Where memory gets short on the whole machine, this process is the one to go. Not everywhere can it be said.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let task: Task = serde_json::from_reader(input)?;
    let outcome = match task.run(output) {
        Ok(more) => Outcome::Done { more },
        Err(PipelineError::Transform(TransformError::Query(message))) => Outcome::Refused(message),
        Err(error) => Outcome::Failed(super::chain(&error)),
    };
    // A line of its own, whatever was said before.
    last_words.write_all(format!("\n{}\n", serde_json::to_string(&outcome)?).as_bytes())
}

impl Task {
    /// Whether there are more rows than were wanted.
    fn run(self, output: impl Write + Send) -> Result<bool, PipelineError> {
        let failed = |error: arrow::error::ArrowError| TransformError::Query(error.to_string());
        let limits = EngineLimits {
            memory: Some(self.memory),
            threads: Some(self.threads),
            spill_max: Some(self.spill),
            spill_folder: None,
        };
        let lake = Lake::open(&self.lake.display().to_string())?;
        let query = Query { lake, manifest: self.manifest, limits, sql: self.sql };
        let engine = query.open(CancellationToken::new())?;
        let rows_max = match self.wanted {
            Wanted::All(format) => return query.write(&engine, format, output).map(|()| false),
            Wanted::First { rows_max } => rows_max,
        };
        let (schema, batches, more) = query.first_rows(&engine, rows_max, FIRST_BYTES_MAX)?;
        let mut writer = StreamWriter::try_new(output, &schema).map_err(failed)?;
        for batch in &batches {
            writer.write(batch).map_err(failed)?;
        }
        writer.finish().map_err(failed)?;
        Ok(more)
    }
}
