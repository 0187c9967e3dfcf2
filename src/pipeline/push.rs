//! The dataset to the target, and back.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use serde::Serialize;

use super::run::with_run;
use super::validate::{dataset_of, validate_in};
use super::{Context, PipelineError, Run};
use crate::config::Made;
use crate::lake::read_table;
use crate::progress::Step;
use crate::push::{
    self, Dataset, InsertReport, LiveViews, PushReport, RollbackReport, TargetMode, TargetOptions, ViewsReport,
};

/// What a push did, by the target's mode.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Pushed {
    /// The live table was replaced, or created.
    Swapped(Box<PushReport>),
    /// Rows that the live table lacked were inserted.
    Inserted(InsertReport),
}

impl Pushed {
    /// Rows and bytes that went to the server's table.
    fn amount(&self) -> (u64, u64) {
        match self {
            Self::Swapped(report) => (report.rows, report.bytes),
            Self::Inserted(report) => (report.inserted, report.bytes),
        }
    }

    fn set_views(&mut self, views: ViewsReport) {
        match self {
            Self::Swapped(report) => report.views = Some(views),
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
    options.columns.clone_from(&target.columns);
    Ok((made, options))
}

/// Validates the latest dataset and puts it, or the output named, in its target's place. `force` pushes in spite of
/// error-level findings.
///
/// # Errors
/// [`PipelineError::Blocked`], [`PipelineError::Push`]; the live table stays as it was.
pub async fn push(context: &Context, table: Option<&str>, force: bool) -> Result<Pushed, PipelineError> {
    context.settings.target()?;
    target_of(context, table)?;
    with_run(context, "push", async |run| {
        let report = validate_in(context, run).await?;
        let blockers = crate::validate::Report { findings: report.findings };
        if blockers.is_blocked() && !force {
            return Err(PipelineError::Blocked(blockers.blockers()));
        }
        push_in(context, run, table).await
    })
    .await
}

/// The push alone, as a step of a run.
pub(super) async fn push_in(context: &Context, run: &Run, table: Option<&str>) -> Result<Pushed, PipelineError> {
    let started = Instant::now();
    let (made, options) = target_of(context, table)?;
    let manifest = run.lake.require_latest().await?;
    let table = dataset_of(&manifest, made.name)?;
    let dataset = Dataset {
        schema: Arc::clone(&table.schema),
        rows: table.rows,
        batches: read_table(&run.lake, table).map(|batch| batch.map_err(Into::into)).boxed(),
    };
    let url = context.settings.target()?;
    let (id, progress, cancel) = (run.id.as_str(), &context.progress, &context.cancel);
    let mut pushed = match options.mode {
        TargetMode::Swap => Pushed::Swapped(Box::new(push::push(url, &options, dataset, id, progress, cancel).await?)),
        TargetMode::InsertMissing => {
            Pushed::Inserted(push::insert_missing(url, &options, dataset, id, progress, cancel).await?)
        }
    };
    if made.target.is_some_and(|target| target.views) {
        for phase in context.phases()?.phases.iter().filter(|phase| !phase.in_lake) {
            let views = LiveViews { sql: &phase.sql, names: &phase.writes };
            let updated = push::update_views(url, &options.table, views, id, progress, cancel).await;
            pushed.set_views(updated.map_err(|source| PipelineError::Views { table: options.table.clone(), source })?);
        }
    }
    let (rows, bytes) = pushed.amount();
    run.record(Step::Push, started, rows, bytes);
    Ok(pushed)
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
