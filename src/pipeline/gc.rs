//! What nobody needs any more: old versions of the lake, and what dead pushes left on the target.

use chrono::Utc;
use serde::Serialize;

use super::run::with_run;
use super::{Context, PipelineError};
use crate::lake::LakeGarbage;
use crate::push::{self, Collected};

/// How a collection goes about.
#[derive(Debug, Clone, Copy)]
pub struct GcOptions {
    /// Versions of each table that stay; at least the latest does.
    pub keep: usize,
    /// Removes also what is young enough for a reader, or for a push to be resumed.
    pub now: bool,
    /// Removes nothing.
    pub dry_run: bool,
}

/// What a collection removed, or would have.
#[derive(Debug, Clone, Serialize)]
pub struct GcReport {
    /// Whether nothing was removed.
    pub dry_run: bool,
    /// The lake's part.
    pub lake: LakeGarbage,
    /// The target's part: every leftover of a push, with the reason if it stays.
    pub target: Vec<Collected>,
    /// Why the target was not looked at, when it was not.
    pub target_skipped: Option<String>,
}

/// Removes old versions and unreferenced files of the lake, and run schemas of dead pushes on the target. A target that
/// is not configured or not reached is said and does not keep the lake from being cleaned.
///
/// # Errors
/// [`PipelineError::Lake`]: a run holds the lock, or files cannot be read or removed.
pub async fn gc(context: &Context, options: GcOptions) -> Result<GcReport, PipelineError> {
    with_run(context, "gc", async |run| {
        let now = Utc::now();
        let lake = run.lake.garbage(options.keep, now, options.now).await?;
        if !options.dry_run {
            run.lake.remove_garbage(&lake).await?;
        }
        let (target, target_skipped) = match context.settings.target() {
            Err(error) => (Vec::new(), Some(error.to_string())),
            Ok(url) => match push::collect_garbage(url, run.id.as_str(), now, options.now, options.dry_run).await {
                Ok(collected) => (collected, None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            },
        };
        let report = GcReport { dry_run: options.dry_run, lake, target, target_skipped };
        tracing::info!(versions = report.lake.versions.len(), bytes = report.lake.bytes, "collected garbage");
        Ok(report)
    })
    .await
}
