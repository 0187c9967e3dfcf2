//! Pull, run, validate and push in one go.

use std::time::Instant;

use chrono::Utc;
use serde::Serialize;

use super::notify::{Notice, notify};
use super::pull::pull_all;
use super::push::{PushOptions, Pushed, push_in};
use super::run::with_run;
use super::transform::transform_in;
use super::validate::validate_in;
use super::{
    Context, PipelineError, PullReport, Run, RunId, RunRecord, TransformOptions, TransformReport, ValidateReport,
};
use crate::validate::Report;

/// The name of the command in records.
pub const REBUILD: &str = "rebuild";

/// What a rebuild did.
#[derive(Debug, Clone, Serialize)]
pub struct RebuildReport {
    /// The run.
    pub run_id: RunId,
    /// Source to lake.
    pub pull: PullReport,
    /// Phases.
    pub run: TransformReport,
    /// Checks.
    pub validate: ValidateReport,
    /// Dataset to target.
    pub push: Pushed,
    /// How long all of it took.
    pub seconds: f64,
}

/// Pulls, runs the phases, validates and pushes; the first failure ends it. Whoever calls this tells the webhook, with
/// [`super::notify()`].
///
/// # Errors
/// [`PipelineError`]; what was published before the failure stays in the lake, and the live table as it was.
pub async fn rebuild(context: &Context) -> Result<RebuildReport, PipelineError> {
    // A wrong setting is better found before the long steps than after them.
    context.settings.source()?;
    context.settings.target()?;
    with_run(context, REBUILD, async |run| rebuild_in(context, run).await).await
}

/// The same, and the webhook is told before it answers.
///
/// # Errors
/// As [`rebuild`].
pub async fn rebuild_and_notify(context: &Context) -> Result<RebuildReport, PipelineError> {
    let started = Utc::now();
    let id = context.run_id.clone().unwrap_or_else(RunId::for_now);
    let context = Context { run_id: Some(id.clone()), ..context.clone() };
    let result = rebuild(&context).await;
    let record = RunRecord::of_ended(&context, &id, REBUILD, started, &result).await;
    notify(&context, Notice::Ended(record)).await;
    result
}

async fn rebuild_in(context: &Context, run: &Run) -> Result<RebuildReport, PipelineError> {
    let started = Instant::now();
    let pull = pull_all(context, run).await?;
    let transform = transform_in(context, run, &TransformOptions::default()).await?;
    let validate = validate_in(context, run).await?;
    if validate.blocked {
        return Err(PipelineError::Blocked(Report { findings: validate.findings }.blockers()));
    }
    let push = push_in(context, run, None, PushOptions::default()).await?;
    Ok(RebuildReport {
        run_id: run.id.clone(),
        pull,
        run: transform,
        validate,
        push,
        seconds: started.elapsed().as_secs_f64(),
    })
}
