//! The dataset to the target, and back.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;

use super::run::with_run;
use super::validate::{dataset_of, validate_in};
use super::{Context, PipelineError, Run};
use crate::lake::read_table;
use crate::progress::Step;
use crate::push::{self, Dataset, PushReport, RollbackReport, TargetOptions};

/// The pipeline file's target as the push takes it.
pub(super) fn target_options(context: &Context) -> TargetOptions {
    let (target, dataset) = (&context.pipeline.target, &context.pipeline.dataset);
    let mut options = TargetOptions::new(target.table.clone(), dataset.key.clone());
    options.backup.clone_from(&target.backup);
    options.new_columns = target.new_columns;
    options.missing_columns = target.missing_columns;
    options
}

/// Validates the latest dataset and puts it in the target's place. `force` pushes in spite of error-level findings.
///
/// # Errors
/// [`PipelineError::Blocked`], [`PipelineError::Push`]; the live table stays as it was.
pub async fn push(context: &Context, force: bool) -> Result<PushReport, PipelineError> {
    context.settings.target()?;
    with_run(context, "push", async |run| {
        let report = validate_in(context, run).await?;
        let blockers = crate::validate::Report { findings: report.findings };
        if blockers.is_blocked() && !force {
            return Err(PipelineError::Blocked(blockers.blockers()));
        }
        push_in(context, run).await
    })
    .await
}

/// The push alone, as a step of a run.
pub(super) async fn push_in(context: &Context, run: &Run) -> Result<PushReport, PipelineError> {
    let started = Instant::now();
    let manifest = run.lake.require_latest().await?;
    let table = dataset_of(&manifest, &context.pipeline.dataset.name)?;
    let dataset = Dataset {
        schema: Arc::clone(&table.schema),
        rows: table.rows,
        batches: read_table(&run.lake, table).map(|batch| batch.map_err(Into::into)).boxed(),
    };
    let url = context.settings.target()?;
    let options = target_options(context);
    let report = push::push(url, &options, dataset, run.id.as_str(), &context.progress, &context.cancel).await?;
    run.record(Step::Push, started, report.rows, report.bytes);
    Ok(report)
}

/// Puts the backup back in the live table's place; doing it twice is a redo.
///
/// # Errors
/// [`PipelineError::Push`]; the live table stays as it was.
pub async fn rollback(context: &Context) -> Result<RollbackReport, PipelineError> {
    context.settings.target()?;
    with_run(context, "rollback", async |run| {
        let (url, options) = (context.settings.target()?, target_options(context));
        Ok(push::rollback(url, &options, run.id.as_str(), &context.progress, &context.cancel).await?)
    })
    .await
}
