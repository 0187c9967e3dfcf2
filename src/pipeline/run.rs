//! One execution of steps: its id, its lock on the lake, its record.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::pull_journal::{Noted, remove_journal};
use super::{Failure, PipelineError};
use crate::config::{Pipeline, Settings};
use crate::lake::{Lake, LakeError, LakeLock, Version};
use crate::progress::{Progress, Step};
use crate::transform::{EngineLimits, PhaseSet};

/// The folder of run files in the lake.
const RUNS: &str = "runs";

/// What every command works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// The name that the next run is to have, where one was promised to somebody; else it gets one of its own.
    pub run_id: Option<RunId>,
    /// The pipeline file.
    pub pipeline: Pipeline,
    /// What its relative paths mean; none for the built-in pipeline.
    pub folder: Option<PathBuf>,
    /// Settings of this machine.
    pub settings: Settings,
    /// Where steps report.
    pub progress: Progress,
    /// Ends the command at a consistent point.
    pub cancel: CancellationToken,
}

impl Context {
    /// Opens the lake.
    ///
    /// # Errors
    /// [`PipelineError::Lake`].
    pub fn lake(&self) -> Result<Lake, PipelineError> {
        Ok(Lake::open(&self.settings.lake)?)
    }

    /// Reads the pipeline's phase files.
    ///
    /// # Errors
    /// [`PipelineError::Transform`].
    pub fn phases(&self) -> Result<PhaseSet, PipelineError> {
        let folder = self.folder.as_ref().map(|folder| folder.join(&self.pipeline.dataset.phases));
        Ok(PhaseSet::load(folder.as_deref())?)
    }

    /// What DuckDB may use; it spills into the lake's folder.
    pub(super) fn engine_limits(&self, lake: &Lake) -> EngineLimits {
        EngineLimits {
            memory: Some(self.settings.memory.clone().unwrap_or_else(|| DEFAULT_MEMORY.to_owned())),
            threads: None,
            spill_folder: Some(lake.local_path("spill")),
        }
    }
}

/// DuckDB's memory when nothing sets it: of the container's limit, or of the machine's memory. The rest is for the
/// encoders and the page cache.
const DEFAULT_MEMORY: &str = "60%";

/// A run's name: its start in UTC and four random hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// A name for a run that starts now. Names sort by time, to the millisecond: runs may follow each other within a
    /// second.
    ///
    /// ```
    /// use racealpha::pipeline::RunId;
    /// let first = chrono::DateTime::from_timestamp_millis(1_767_225_600_000).ok_or("no such time")?;
    /// let second = first + chrono::Duration::milliseconds(7);
    /// assert!(RunId::new(first, 0xffff).as_str() < RunId::new(second, 0).as_str());
    /// # Ok::<(), &str>(())
    /// ```
    pub fn new(now: DateTime<Utc>, random: u16) -> Self {
        Self(format!("{}-{random:04x}", now.format("%Y%m%dT%H%M%S%3f")))
    }

    /// A name for a run that starts now, unlike any other.
    pub fn for_now() -> Self {
        Self::new(Utc::now(), rand::random())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// It works, or died without a word: then nobody holds the lake's lock.
    Running,
    /// All steps ended well.
    Done,
    /// A step failed.
    Failed,
    /// A check blocked it.
    Blocked,
    /// It was cancelled, or its process died.
    Interrupted,
}

impl RunState {
    /// The word that records use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
            Self::Interrupted => "interrupted",
        }
    }
}

/// One step of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step.
    pub step: Step,
    /// How long it took.
    pub seconds: f64,
    /// Rows it moved or made.
    pub rows: u64,
    /// Bytes it moved or wrote.
    pub bytes: u64,
    /// Of a whole push: the dataset or the output.
    #[serde(default)]
    pub table: Option<String>,
}

/// What is kept of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run.
    pub id: RunId,
    /// The command.
    pub command: String,
    /// Its start.
    pub started: DateTime<Utc>,
    /// Its end.
    pub finished: Option<DateTime<Utc>>,
    /// How it ended.
    pub state: RunState,
    /// Why it failed.
    pub error: Option<String>,
    /// Its steps so far.
    pub steps: Vec<StepRecord>,
    /// The lake version before it.
    pub version_before: Option<Version>,
    /// The lake version after it.
    pub version_after: Option<Version>,
}

impl RunRecord {
    /// The record that the lake keeps of a run that ended now, or one made up where it keeps none: of a preview, or of a
    /// run that could not begin.
    pub async fn of_ended<T>(
        context: &Context,
        id: &RunId,
        command: &str,
        started: DateTime<Utc>,
        result: &Result<T, PipelineError>,
    ) -> Self {
        if let Ok(Some(record)) = run_record(context, id).await {
            return record;
        }
        let (state, error) = outcome(result);
        Self {
            id: id.clone(),
            command: command.to_owned(),
            started,
            finished: Some(Utc::now()),
            state,
            error,
            steps: Vec::new(),
            version_before: None,
            version_after: None,
        }
    }

    /// The record as it is to be read: a run without an end whose process is gone was interrupted.
    fn seen_now(mut self, is_alive: bool) -> Self {
        if self.state == RunState::Running && !is_alive {
            self.state = RunState::Interrupted;
            self.error = Some("the process ended without finishing the run".to_owned());
        }
        self
    }
}

/// A run under way: holds the lake's lock.
#[derive(Debug)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The lake it works on.
    pub lake: Lake,
    steps: Arc<Mutex<Vec<StepRecord>>>,
    _lock: LakeLock,
}

impl Run {
    /// Notes a finished step.
    pub(super) fn record(&self, step: Step, started: Instant, rows: u64, bytes: u64) {
        self.add(StepRecord { step, seconds: started.elapsed().as_secs_f64(), rows, bytes, table: None });
    }

    /// Notes a finished push of a table, from its load to its end.
    pub(super) fn record_push(&self, table: &str, started: Instant, rows: u64, bytes: u64) {
        let (seconds, table) = (started.elapsed().as_secs_f64(), Some(table.to_owned()));
        self.add(StepRecord { step: Step::Push, seconds, rows, bytes, table });
    }

    fn add(&self, record: StepRecord) {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    fn steps(&self) -> Vec<StepRecord> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What becomes of the files that a pull had completed when it was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupted {
    Removed,
    /// They stay until the steps have looked at them.
    Kept,
}

/// Runs a command's steps under the lake's lock, with a record of how it went. Files of dead runs are removed first.
pub(super) async fn with_run<T>(
    context: &Context,
    command: &str,
    steps: impl AsyncFnOnce(&Run) -> Result<T, PipelineError>,
) -> Result<T, PipelineError> {
    with_run_after(context, command, Interrupted::Removed, steps).await
}

/// The same where an interrupted pull may be gone on with.
pub(super) async fn with_run_after<T>(
    context: &Context,
    command: &str,
    interrupted: Interrupted,
    steps: impl AsyncFnOnce(&Run) -> Result<T, PipelineError>,
) -> Result<T, PipelineError> {
    let lake = context.lake()?;
    let started = Utc::now();
    let id = context.run_id.clone().unwrap_or_else(RunId::for_now);
    let lock = LakeLock::take(&lake, &format!("{command}, run {id}, process {}", std::process::id()))?;
    let noted = if interrupted == Interrupted::Kept { Noted::read(&lake).await } else { None };
    let removed = match noted {
        Some(noted) => lake.remove_unpublished(&noted.files()).await?,
        None => remove_interrupted(&lake).await?,
    };
    if removed > 0 {
        tracing::info!(files = removed, "removed files of a run that died");
    }
    let mut record = RunRecord {
        id: id.clone(),
        command: command.to_owned(),
        started,
        finished: None,
        state: RunState::Running,
        error: None,
        steps: Vec::new(),
        version_before: lake.latest().await?.map(|manifest| manifest.version),
        version_after: None,
    };
    let path = record_path(&id);
    lake.write_json(&path, &record).await?;

    let run = Run { id, lake, steps: Arc::default(), _lock: lock };
    let result = steps(&run).await;

    if result.is_err()
        && let Err(error) = remove_interrupted(&run.lake).await
    {
        tracing::warn!(%error, "files of the failed run remain; the next run removes them");
    }
    record.finished = Some(Utc::now());
    record.steps = run.steps();
    record.version_after = run.lake.latest().await?.map(|manifest| manifest.version);
    (record.state, record.error) = outcome(&result);
    if let (Err(error), Err(_)) = (run.lake.write_json(&path, &record).await, &result) {
        // The command's own error says more; on a full disk the record is the second victim.
        tracing::warn!(%error, "the run's record could not be written");
    }
    result
}

/// Removes all that was not published.
pub(super) async fn remove_interrupted(lake: &Lake) -> Result<u64, LakeError> {
    remove_journal(lake).await?;
    lake.remove_unpublished(&BTreeSet::new()).await
}

/// How a run with this result ended, and why.
fn outcome<T>(result: &Result<T, PipelineError>) -> (RunState, Option<String>) {
    let Err(error) = result else { return (RunState::Done, None) };
    let state = match error.failure() {
        Failure::Interrupted => RunState::Interrupted,
        Failure::Blocked => RunState::Blocked,
        _ => RunState::Failed,
    };
    (state, Some(chain(error)))
}

fn record_path(id: &RunId) -> Path {
    Path::from(format!("{RUNS}/{id}.json"))
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The last `limit` runs, newest first. A run without an end whose lock is free died.
///
/// # Errors
/// [`PipelineError::Lake`].
pub async fn history(context: &Context, limit: usize) -> Result<Vec<RunRecord>, PipelineError> {
    let lake = context.lake()?;
    let is_held = LakeLock::is_held(&lake);
    let mut records = Vec::new();
    for path in lake.list(RUNS).await?.iter().rev().take(limit) {
        let record: RunRecord = lake.read_json(path).await?;
        let is_newest = records.is_empty();
        records.push(record.seen_now(is_newest && is_held));
    }
    Ok(records)
}

/// One run by its name; none when the lake has no record of it.
///
/// # Errors
/// [`PipelineError::Lake`].
pub async fn run_record(context: &Context, id: &RunId) -> Result<Option<RunRecord>, PipelineError> {
    let lake = context.lake()?;
    let paths = lake.list(RUNS).await?;
    let Some(at) = paths.iter().position(|path| *path == record_path(id)) else { return Ok(None) };
    let record: RunRecord = lake.read_json(&paths[at]).await?;
    Ok(Some(record.seen_now(at + 1 == paths.len() && LakeLock::is_held(&lake))))
}
