//! One execution of steps: its id, its lock on the lake, its record.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio_postgres::error::DbError;
use tokio_util::sync::CancellationToken;

use super::pull_journal::{Noted, remove_journal};
use super::{Failure, PipelineError};
use crate::config::{Pipeline, Settings};
use crate::lake::{Lake, LakeError, LakeLock, Version};
use crate::progress::{Event, Progress, Step};
use crate::schema::RowValues;
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
            spill_max: None,
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

/// One piece of a step: a table, a phase, the checks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkRecord {
    /// The step it belongs to.
    pub step: Step,
    /// A table, phase or check.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// Rows it moved or made.
    pub rows: u64,
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
    /// Pieces of the steps that ended well, in the order of their ends; older records have none.
    #[serde(default)]
    pub works: Vec<WorkRecord>,
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
            works: Vec::new(),
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
        works: Vec::new(),
        version_before: lake.latest().await?.map(|manifest| manifest.version),
        version_after: None,
    };
    let path = record_path(&id);
    lake.write_json(&path, &record).await?;

    let mut events = context.progress.subscribe();
    let run = Run { id, lake, steps: Arc::default(), _lock: lock };
    let result = steps(&run).await;

    if result.is_err()
        && let Err(error) = remove_interrupted(&run.lake).await
    {
        tracing::warn!(%error, "files of the failed run remain; the next run removes them");
    }
    record.finished = Some(Utc::now());
    record.steps = run.steps();
    record.works = finished(&mut events);
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

/// The pieces of work that ended well.
fn finished(events: &mut Receiver<Event>) -> Vec<WorkRecord> {
    let mut works = Vec::new();
    loop {
        match events.try_recv() {
            Ok(Event::Finished { step, name, counters, seconds }) => {
                works.push(WorkRecord { step, name, seconds, rows: counters.rows() });
            }
            // Of more events than are kept the oldest are lost.
            Ok(_) | Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return works,
        }
    }
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

/// The records' paths, oldest first; reports lie a folder deeper.
async fn record_paths(lake: &Lake) -> Result<Vec<Path>, PipelineError> {
    let mut paths = lake.list(RUNS).await?;
    paths.retain(|path| path.parts().count() == 2);
    Ok(paths)
}

/// Keeps what a run found out besides its record, under a name.
pub(super) async fn keep_report<T: Serialize + Sync>(run: &Run, name: &str, report: &T) -> Result<(), PipelineError> {
    keep_report_of(&run.lake, &run.id, name, report).await
}

/// The same of a command that keeps no record, such as a preview.
pub(super) async fn keep_report_of<T: Serialize + Sync>(
    lake: &Lake,
    id: &RunId,
    name: &str,
    report: &T,
) -> Result<(), PipelineError> {
    Ok(lake.write_json(&Path::from(format!("{RUNS}/{id}/{name}.json")), report).await?)
}

/// The newest kept report of this name; none when no run kept one, or when another version of the program wrote it.
pub(super) async fn newest_report<T: DeserializeOwned>(lake: &Lake, name: &str) -> Result<Option<T>, PipelineError> {
    Ok(newest_report_of(lake, name).await?.map(|(_, report)| report))
}

/// The same with the run that kept it.
pub(super) async fn newest_report_of<T: DeserializeOwned>(
    lake: &Lake,
    name: &str,
) -> Result<Option<(RunId, T)>, PipelineError> {
    let file = format!("{name}.json");
    let paths = lake.list(RUNS).await?;
    let newest = paths.iter().rfind(|path| path.parts().count() == 3 && path.filename() == Some(file.as_str()));
    let Some(path) = newest else { return Ok(None) };
    let id = path.parts().nth(1).map(|part| RunId(part.as_ref().to_owned()));
    match lake.read_json(path).await {
        Ok(report) => Ok(id.map(|id| (id, report))),
        Err(LakeError::Malformed { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Records of the runs that began after this one.
pub(super) async fn runs_since(lake: &Lake, id: &RunId) -> Result<Vec<RunRecord>, PipelineError> {
    let mut runs = Vec::new();
    for path in record_paths(lake).await?.iter().rev().take_while(|path| **path > record_path(id)) {
        runs.push(lake.read_json(path).await?);
    }
    Ok(runs)
}

/// An error with its causes, on one line, for records, logs and webhooks: without the values of rows that a server puts
/// into its details. The command line shows those to whoever ran the command.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = without_converted(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause.filter(|error| !error.is::<RowValues>()) {
        text.push_str(": ");
        match error.downcast_ref::<DbError>() {
            Some(said) => text.push_str(&without_values(said.code().code(), said.message())),
            None => text.push_str(&without_converted(&error.to_string())),
        }
        cause = error.source();
    }
    text
}

/// A server's message. That of a wrong value, whose code is of class 22, quotes the value.
fn without_values(code: &str, message: &str) -> String {
    if code.starts_with("22") { without_quoted(message, '"') } else { message.to_owned() }
}

/// A message of DuckDB's. Those about values begin so; they end here before the first word that could be one.
fn without_converted(message: &str) -> String {
    let about_values = ["Conversion Error:", "Invalid Input Error:", "Out of Range Error:", "Constraint Error:"];
    let Some(begin) = about_values.iter().find_map(|begin| Some(message.find(begin)? + begin.len())) else {
        return message.to_owned();
    };
    let is_value = |word: &&str| {
        let word = word.trim_start_matches(['(', '[', '{', '-', '+']);
        word.starts_with(|first: char| first.is_ascii_digit() || "'\"".contains(first))
    };
    let words: Vec<&str> = message[begin..].split(char::is_whitespace).collect();
    match words.iter().position(is_value) {
        Some(at) => format!("{}{} …", &message[..begin], words[..at].join(" ")),
        None => message.to_owned(),
    }
}

fn without_quoted(message: &str, quote: char) -> String {
    let parts = message.split(quote).enumerate();
    parts.map(|(index, part)| if index % 2 == 0 { part.to_owned() } else { format!("{quote}…{quote}") }).collect()
}

/// The last `limit` runs, newest first. A run without an end whose lock is free died.
///
/// # Errors
/// [`PipelineError::Lake`].
pub async fn history(context: &Context, limit: usize) -> Result<Vec<RunRecord>, PipelineError> {
    let lake = context.lake()?;
    let is_held = LakeLock::is_held(&lake);
    let mut records = Vec::new();
    for path in record_paths(&lake).await?.iter().rev().take(limit) {
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
    let paths = record_paths(&lake).await?;
    let Some(at) = paths.iter().position(|path| *path == record_path(id)) else { return Ok(None) };
    let record: RunRecord = lake.read_json(&paths[at]).await?;
    Ok(Some(record.seen_now(at + 1 == paths.len() && LakeLock::is_held(&lake))))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::push::PushError;
    use crate::schema::TableName;
    use crate::wire::ValueError;

    #[test]
    fn keys_that_a_push_names_are_for_who_ran_it() {
        let (table, child) = (TableName::new("public", "d"), TableName::new("public", "child"));
        let values = || RowValues("horse=comet".to_owned());
        let reason = ValueError::OutOfRange;
        let value = PushError::Value { table: table.clone(), column: "age".to_owned(), row: 3, reason, key: values() };
        let orphans = PushError::Orphans { table, child, constraint: "of_d".to_owned(), keys: values() };
        for (error, kept) in [(value, "public.d, column age, row 3: "), (orphans, "rows of public.child refer to ")] {
            assert_eq!(error.source().map(ToString::to_string), Some("horse=comet".to_owned()));
            let text = chain(&PipelineError::from(error));
            assert!(text.starts_with(kept) && !text.contains("comet"), "{text}");
        }
    }

    #[test]
    fn a_wrong_value_is_not_repeated() {
        assert_eq!(
            without_values("22P02", "invalid input syntax for type integer: \"4x\""),
            "invalid input syntax for type integer: \"…\""
        );
        assert_eq!(
            without_converted("20_form, statement 1 failed: Conversion Error: Could not convert string 'x y' to INT32"),
            "20_form, statement 1 failed: Conversion Error: Could not convert string …"
        );
        for (said, kept) in [
            (
                "Out of Range Error: Overflow in multiplication of INT32 (5 * 6)!",
                "Out of Range Error: Overflow in multiplication of INT32 …",
            ),
            ("Conversion Error: Type INT64 with value -7 can't be cast", "Conversion Error: Type INT64 with value …"),
            ("Constraint Error: Duplicate key \"a: 1\" violates", "Constraint Error: Duplicate key …"),
            ("Constraint Error: NOT NULL constraint failed: t.a", "Constraint Error: NOT NULL constraint failed: t.a"),
        ] {
            assert_eq!(without_converted(said), kept);
        }
        assert_eq!(without_values("42P01", "relation \"races\" does not exist"), "relation \"races\" does not exist");
    }
}
