//! The dataset to the target, and back.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;

use super::run::with_run;
use super::validate::{dataset_of, validate_in};
use super::{Context, PipelineError, Run};
use crate::config::Made;
use crate::lake::read_table;
use crate::progress::Step;
use crate::push::{self, Dataset, LiveViews, PushReport, RollbackReport, TargetOptions};

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
    options.backup.clone_from(&target.backup);
    options.new_columns = target.new_columns;
    options.missing_columns = target.missing_columns;
    Ok((made, options))
}

/// Validates the latest dataset and puts it, or the output named, in its target's place. `force` pushes in spite of
/// error-level findings.
///
/// # Errors
/// [`PipelineError::Blocked`], [`PipelineError::Push`]; the live table stays as it was.
pub async fn push(context: &Context, table: Option<&str>, force: bool) -> Result<PushReport, PipelineError> {
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
pub(super) async fn push_in(context: &Context, run: &Run, table: Option<&str>) -> Result<PushReport, PipelineError> {
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
    let mut report = push::push(url, &options, dataset, run.id.as_str(), &context.progress, &context.cancel).await?;
    if made.target.is_some_and(|target| target.views) {
        for phase in context.phases()?.phases.iter().filter(|phase| !phase.in_lake) {
            let views = LiveViews { sql: &phase.sql, names: &phase.writes };
            let (progress, cancel) = (&context.progress, &context.cancel);
            let updated = push::update_views(url, &options.table, views, run.id.as_str(), progress, cancel).await;
            report.views =
                Some(updated.map_err(|source| PipelineError::Views { table: options.table.clone(), source })?);
        }
    }
    run.record(Step::Push, started, report.rows, report.bytes);
    Ok(report)
}

/// Puts the backup back in the live table's place; doing it twice is a redo.
///
/// # Errors
/// [`PipelineError::Push`]; the live table stays as it was.
pub async fn rollback(context: &Context, table: Option<&str>) -> Result<RollbackReport, PipelineError> {
    context.settings.target()?;
    let (_, options) = target_of(context, table)?;
    with_run(context, "rollback", async |run| {
        let url = context.settings.target()?;
        Ok(push::rollback(url, &options, run.id.as_str(), &context.progress, &context.cancel).await?)
    })
    .await
}
