//! The dataset to the target, and back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::Serialize;

use super::run::with_run;
use super::validate::{dataset_of, validate_in};
use super::{Context, PipelineError, Run};
use crate::config::Made;
use crate::lake::{LakeTable, read_table};
use crate::progress::Step;
use crate::push::{
    self, Dataset, DropReport, InsertReport, LiveViews, MergeReport, PushMode, PushReport, RollbackReport, TargetMode,
    TargetOptions, ViewsReport,
};

/// What a push did, by the target's mode.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Pushed {
    /// The live table was replaced, or created.
    Swapped(Box<PushReport>),
    /// Rows of the live table that differed were changed.
    Merged(Box<MergeReport>),
    /// Rows that the live table lacked were inserted.
    Inserted(InsertReport),
}

impl Pushed {
    /// Rows and bytes that went to the server's table.
    fn amount(&self) -> (u64, u64) {
        match self {
            Self::Swapped(report) => (report.rows, report.bytes),
            Self::Merged(report) => (report.rows, report.bytes),
            Self::Inserted(report) => (report.inserted, report.bytes),
        }
    }

    /// The views beside the live table, when they were asked for.
    pub(super) fn views(&self) -> Option<&ViewsReport> {
        match self {
            Self::Swapped(report) => report.views.as_ref(),
            Self::Merged(report) => report.views.as_ref(),
            Self::Inserted(report) => report.views.as_ref(),
        }
    }

    fn set_views(&mut self, views: ViewsReport) {
        match self {
            Self::Swapped(report) => report.views = Some(views),
            Self::Merged(report) => report.views = Some(views),
            Self::Inserted(report) => report.views = Some(views),
        }
    }
}

/// The table that a command means, the dataset when it names none, and its target as the push takes it.
pub(super) fn target_of<'a>(
    context: &'a Context,
    table: Option<&str>,
) -> Result<(Made<'a>, TargetOptions), PipelineError> {
    let mut known = context.pipeline.made();
    let found = known.find(|made| table.is_none_or(|table| made.name == table));
    let (made, target) = found.and_then(|made| Some((made, made.target?))).ok_or_else(|| {
        let targets = context.pipeline.made().filter(|made| made.target.is_some()).map(|made| made.name);
        PipelineError::Usage(format!(
            "the pipeline file gives {} no target; it has targets for {}",
            table.unwrap_or_default(),
            targets.collect::<Vec<_>>().join(", ")
        ))
    })?;
    let mut options = TargetOptions::new(target.table.clone(), made.key.to_vec());
    options.mode = target.mode;
    if let Some(backup) = &target.backup {
        options.backup.clone_from(backup);
    }
    options.new_columns = target.new_columns;
    options.missing_columns = target.missing_columns;
    options.missing.clone_from(&target.missing);
    options.merge.clone_from(&target.merge);
    options.min_rows_of_live = target.min_rows_of_live;
    options.columns.clone_from(&target.columns);
    if let Some(keep) = context.settings.keep_backups.or(target.keep_backups) {
        options.keep_backups = keep;
    }
    if let Some(seconds) = target.swap_deadline_seconds {
        options.swap_deadline = Duration::from_secs(seconds);
    }
    options.publications.clone_from(&target.publications);
    Ok((made, options))
}

/// What the operator decides for one push.
#[derive(Debug, Clone, Copy, Default)]
pub struct PushOptions {
    /// Pushes in spite of error-level findings and of missing rows.
    pub force: bool,
    /// Another mode than the pipeline file's.
    pub mode: Option<TargetMode>,
}

/// The target of a push, with what the operator decides for this one.
pub(super) fn target_for<'a>(
    context: &'a Context,
    table: Option<&str>,
    decided: PushOptions,
) -> Result<(Made<'a>, TargetOptions), PipelineError> {
    let (made, mut options) = target_of(context, table)?;
    if let Some(mode) = decided.mode {
        if options.mode == TargetMode::InsertMissing {
            return Err(PipelineError::Usage(format!(
                "the target of {} is a table of others, into which a push only inserts; it has no other mode",
                made.name
            )));
        }
        options.mode = mode;
    }
    if decided.force {
        options.min_rows_of_live = 0.0;
    }
    Ok((made, options))
}

/// Validates the latest dataset and puts it, or the output named, in its target's place.
///
/// # Errors
/// [`PipelineError::Blocked`], [`PipelineError::Push`]; the live table stays as it was.
pub async fn push(context: &Context, table: Option<&str>, decided: PushOptions) -> Result<Pushed, PipelineError> {
    context.settings.target()?;
    target_for(context, table, decided)?;
    with_run(context, "push", async |run| {
        let report = validate_in(context, run).await?;
        let blockers = crate::validate::Report { findings: report.findings };
        if blockers.is_blocked() && !decided.force {
            return Err(PipelineError::Blocked(blockers.blockers()));
        }
        push_in(context, run, table, decided).await
    })
    .await
}

/// The push alone, as a step of a run.
pub(super) async fn push_in(
    context: &Context,
    run: &Run,
    table: Option<&str>,
    decided: PushOptions,
) -> Result<Pushed, PipelineError> {
    let started = Instant::now();
    let (made, mut options) = target_for(context, table, decided)?;
    let manifest = run.lake.require_latest().await?;
    let table = dataset_of(&manifest, made.name)?;
    options.snapshot = Some(snapshot_of(table));
    let dataset = Dataset {
        schema: Arc::clone(&table.schema),
        rows: table.rows,
        batches: read_table(&run.lake, table).map(|batch| batch.map_err(Into::into)).boxed(),
    };
    let url = context.settings.target()?;
    let (id, progress, cancel) = (run.id.as_str(), &context.progress, &context.cancel);
    let mode = match options.mode {
        TargetMode::Swap => PushMode::Swap,
        TargetMode::InsertMissing => PushMode::InsertMissing,
        TargetMode::Merge | TargetMode::Auto => push::choose(url, &options, &table.schema, id).await?,
    };
    let mut pushed = match mode {
        PushMode::First | PushMode::Swap => {
            Pushed::Swapped(Box::new(push::push(url, &options, dataset, id, progress, cancel).await?))
        }
        PushMode::Merge => Pushed::Merged(Box::new(push::merge(url, &options, dataset, id, progress, cancel).await?)),
        PushMode::InsertMissing => {
            Pushed::Inserted(push::insert_missing(url, &options, dataset, id, progress, cancel).await?)
        }
    };
    if let Some(views) = update_views(context, run, made, &options).await? {
        pushed.set_views(views);
    }
    let (rows, bytes) = pushed.amount();
    run.record_push(made.name, started, rows, bytes);
    Ok(pushed)
}

/// What a push of this lake table loads, in words.
fn snapshot_of(table: &LakeTable) -> String {
    format!("lake version {}", table.version)
}

/// Brings the views beside the live table up to date, where the target asks for it.
async fn update_views(
    context: &Context,
    run: &Run,
    made: Made<'_>,
    options: &TargetOptions,
) -> Result<Option<ViewsReport>, PipelineError> {
    let mut updated = None;
    if made.target.is_some_and(|target| target.views) {
        let url = context.settings.target()?;
        for phase in context.phases()?.phases.iter().filter(|phase| !phase.in_lake) {
            let views = LiveViews { sql: &phase.sql, names: &phase.writes };
            let (id, table) = (run.id.as_str(), &options.table);
            let report = push::update_views(url, table, views, id, &context.progress, &context.cancel).await;
            updated = Some(report.map_err(|source| PipelineError::Views { table: table.clone(), source })?);
        }
    }
    Ok(updated)
}

/// Swaps in what an earlier push loaded and could not swap.
///
/// # Errors
/// [`PipelineError::Push`]; the live table stays as it was.
pub async fn resume(context: &Context, table: Option<&str>) -> Result<Pushed, PipelineError> {
    context.settings.target()?;
    target_of(context, table)?;
    with_run(context, "push --resume", async |run| {
        let started = Instant::now();
        let (made, mut options) = target_of(context, table)?;
        let manifest = run.lake.require_latest().await?;
        let table = dataset_of(&manifest, made.name)?;
        options.snapshot = Some(snapshot_of(table));
        let (url, id) = (context.settings.target()?, run.id.as_str());
        let report = push::resume(url, &options, &table.schema, id, &context.progress, &context.cancel).await?;
        let mut pushed = Pushed::Swapped(Box::new(report));
        if let Some(views) = update_views(context, run, made, &options).await? {
            pushed.set_views(views);
        }
        let (rows, _) = pushed.amount();
        run.record(Step::Push, started, rows, 0);
        Ok(pushed)
    })
    .await
}

/// Removes the former live tables that pushes have kept.
///
/// # Errors
/// [`PipelineError::Push`]; the live table stays as it was.
pub async fn drop_backups(context: &Context, table: Option<&str>) -> Result<DropReport, PipelineError> {
    context.settings.target()?;
    let (_, options) = target_of(context, table)?;
    with_run(context, "push --drop-backup", async |run| {
        let url = context.settings.target()?;
        Ok(push::drop_backups(url, &options, run.id.as_str(), &context.cancel).await?)
    })
    .await
}

/// Puts the backup back in the live table's place; doing it twice is a redo.
///
/// # Errors
/// [`PipelineError::Push`]; the live table stays as it was.
pub async fn rollback(context: &Context, table: Option<&str>) -> Result<RollbackReport, PipelineError> {
    context.settings.target()?;
    let (made, options) = target_of(context, table)?;
    if options.mode == TargetMode::InsertMissing {
        return Err(PipelineError::Usage(format!(
            "a push of {} only inserts rows into {} and keeps no backup, so there is nothing to roll back to",
            made.name, options.table
        )));
    }
    with_run(context, "rollback", async |run| {
        let url = context.settings.target()?;
        Ok(push::rollback(url, &options, run.id.as_str(), &context.progress, &context.cancel).await?)
    })
    .await
}
