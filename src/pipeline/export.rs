//! A lake table to files outside the lake.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use serde::Serialize;
use tokio::sync::mpsc;

use super::rows::RowWriter;
use super::{Context, PipelineError, RowFormat};
use crate::lake::{Lake, LakeError, LakeTable, read_table};
use crate::progress::{Step, Work};

/// Batches read ahead of the writer.
const QUEUED_BATCHES_MAX: usize = 4;

/// What an export wrote.
#[derive(Debug, Clone, Serialize)]
pub struct ExportReport {
    /// The lake table.
    pub table: String,
    /// The files.
    pub files: Vec<PathBuf>,
    /// Rows in them.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Writes a lake table to `destination`: a file when the name ends like the format, else a folder with one file per
/// file of the lake, in the same partition folders. A file appears only when it is complete.
///
/// # Errors
/// [`PipelineError::Output`] when the destination cannot be written, [`PipelineError::Lake`].
pub async fn export(
    context: &Context,
    table: &str,
    destination: &Path,
    format: RowFormat,
) -> Result<ExportReport, PipelineError> {
    let started = Instant::now();
    let lake = context.lake()?;
    let source = find(context, &lake, table).await?;
    let work = context.progress.start(Step::Transform, format!("export {table}"), Some(source.rows));
    let is_file = destination.extension().is_some_and(|extension| extension == format.extension());
    let parts: Vec<(PathBuf, LakeTable)> = if is_file {
        vec![(destination.to_path_buf(), source.clone())]
    } else {
        let of = |(index, file): (usize, &crate::lake::DataFile)| {
            let folders = file.partition.iter().map(|(key, value)| format!("{key}={value}"));
            let name = format!("part-{index:05}.{}", format.extension());
            let path = destination.join(folders.chain([name]).collect::<PathBuf>());
            (path, LakeTable { files: vec![file.clone()], ..source.clone() })
        };
        source.files.iter().enumerate().map(of).collect()
    };
    let (mut files, mut rows, mut bytes) = (Vec::new(), 0, 0);
    for (path, part) in parts {
        let (schema, target) = (Arc::clone(&part.schema), path.clone());
        let write = move |queue: &mut mpsc::Receiver<_>| write_file(&target, format, &schema, queue);
        let (written, sent) = copy_out(context, &lake, &part, &work, write).await?;
        bytes += written;
        rows += sent;
        files.push(path);
    }
    work.finish();
    Ok(ExportReport { table: table.to_owned(), files, rows, bytes, seconds: started.elapsed().as_secs_f64() })
}

/// Writes a lake table to `output` as one file; a reader that leaves early ends it without an error.
///
/// # Errors
/// As [`export`].
pub async fn export_into(
    context: &Context,
    table: &str,
    format: RowFormat,
    output: impl Write + Send + 'static,
) -> Result<(), PipelineError> {
    let lake = context.lake()?;
    let source = find(context, &lake, table).await?;
    let work = context.progress.start(Step::Transform, format!("export {table}"), Some(source.rows));
    let schema = Arc::clone(&source.schema);
    let failed = |source| PipelineError::Output { path: "the download".to_owned(), source };
    let write = move |queue: &mut mpsc::Receiver<_>| {
        let mut writer = RowWriter::new(output, format, &schema).map_err(failed)?;
        while let Some(Some(batch)) = queue.blocking_recv() {
            writer.write(&batch).map_err(failed)?;
        }
        writer.finish().map_err(failed)
    };
    copy_out(context, &lake, &source, &work, write).await?;
    work.finish();
    Ok(())
}

async fn find(context: &Context, lake: &Lake, table: &str) -> Result<LakeTable, PipelineError> {
    let manifest = lake.require_latest().await?;
    let missing = || LakeError::NoTable {
        table: table.to_owned(),
        version: manifest.version,
        command: if context.pipeline.made().any(|made| made.name == table) { "run" } else { "pull" },
    };
    Ok(manifest.tables.get(table).ok_or_else(missing)?.clone())
}

/// Reads a table's batches and hands them, and after the last one an end mark, to a writer on a thread of its own.
/// What the writer answered, and the rows.
async fn copy_out<T: Send + 'static>(
    context: &Context,
    lake: &Lake,
    part: &LakeTable,
    work: &Work,
    write: impl FnOnce(&mut mpsc::Receiver<Option<RecordBatch>>) -> Result<T, PipelineError> + Send + 'static,
) -> Result<(T, u64), PipelineError> {
    let (batches, mut queue) = mpsc::channel(QUEUED_BATCHES_MAX);
    let write = tokio::task::spawn_blocking(move || write(&mut queue));
    let mut stream = Box::pin(read_table(lake, part));
    let (mut rows, mut failure) = (0, None);
    while let Some(batch) = stream.next().await {
        let batch = match batch {
            _ if context.cancel.is_cancelled() => Err(PipelineError::Cancelled),
            batch => batch.map_err(PipelineError::from),
        };
        match batch {
            Ok(batch) => {
                rows += batch.num_rows() as u64;
                work.add(batch.num_rows() as u64, batch.get_array_memory_size() as u64);
                if batches.send(Some(batch)).await.is_err() {
                    // The writer failed; its answer says why.
                    break;
                }
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    if failure.is_none() {
        // Tells the end apart from a failure, after which no file may appear. A closed queue has its own error.
        let _ = batches.send(None).await;
    }
    drop(batches);
    let written = write.await?;
    failure.map_or(written, Err).map(|written| (written, rows))
}

/// Writes batches until the end mark; without one nothing appears.
fn write_file(
    path: &Path,
    format: RowFormat,
    schema: &SchemaRef,
    queue: &mut mpsc::Receiver<Option<RecordBatch>>,
) -> Result<u64, PipelineError> {
    fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(path: &Path) -> impl Fn(E) -> PipelineError {
        let path = path.display().to_string();
        move |source| PipelineError::Output { path: path.clone(), source: source.into() }
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed(path))?;
    let file = tempfile::Builder::new()
        .prefix(".racealpha-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(failed(path))?;
    let output = BufWriter::new(file.reopen().map_err(failed(path))?);
    let mut writer = RowWriter::new(output, format, schema).map_err(failed(path))?;
    let complete = loop {
        match queue.blocking_recv() {
            Some(Some(batch)) => writer.write(&batch).map_err(failed(path))?,
            Some(None) => break true,
            None => break false,
        }
    };
    writer.finish().map_err(failed(path))?;
    if !complete {
        return Ok(0);
    }
    let bytes = file.as_file().metadata().map_err(failed(path))?.len();
    file.persist(path).map_err(failed(path))?;
    Ok(bytes)
}
