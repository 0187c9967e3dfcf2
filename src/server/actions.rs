//! What the dashboard does: each POST starts one job of the pipeline.

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Dashboard;
use super::access::Role;
use super::jobs::{Jobs, Started};
use super::problem::Problem;
use crate::lake::Version;
use crate::pipeline::{self, PullOptions, PushOptions, RunId, TransformOptions, ValidateOptions, ValidateReport};
use crate::push::TargetMode;

/// A job that was started.
#[derive(Debug, Serialize)]
pub(super) struct Accepted {
    run_id: RunId,
}

type Answer = Result<(StatusCode, Json<Accepted>), Problem>;

fn accepted(started: Started) -> (StatusCode, Json<Accepted>) {
    (StatusCode::ACCEPTED, Json(Accepted { run_id: started.run_id }))
}

/// A body's settings; no body means all defaults.
fn settings<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, Problem> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| Problem::bad_request(format!("the body cannot be read: {error}")))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Pull {
    tables: Vec<String>,
    incremental: bool,
    detect_deletes: bool,
}

pub(super) async fn pull(State(dashboard): State<Dashboard>, body: Bytes) -> Answer {
    let wanted: Pull = settings(&body)?;
    for table in &wanted.tables {
        if dashboard.context.pipeline.table(table).is_none() {
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the pipeline has no table {table}")));
        }
    }
    let (incremental, detect_deletes) = (wanted.incremental, wanted.detect_deletes);
    let options = PullOptions { incremental, detect_deletes, snapshot: None };
    Ok(accepted(
        dashboard
            .jobs
            .start("pull", async move |context| pipeline::pull(context, &wanted.tables, options).await.map(drop))?,
    ))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Transform {
    from: Option<String>,
    to: Option<String>,
    with_upcoming: bool,
}

pub(super) async fn transform(State(dashboard): State<Dashboard>, body: Bytes) -> Answer {
    let Transform { from, to, with_upcoming } = settings(&body)?;
    let options = TransformOptions { from, to, with_upcoming };
    Ok(accepted(
        dashboard.jobs.start("run", async move |context| pipeline::transform(context, &options).await.map(drop))?,
    ))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Validate {
    audit: bool,
}

pub(super) async fn validate(State(dashboard): State<Dashboard>, body: Bytes) -> Answer {
    let Validate { audit } = settings(&body)?;
    Ok(accepted(start_validation(&dashboard, audit)?))
}

fn start_validation(dashboard: &Dashboard, audit: bool) -> Result<Started, Problem> {
    let options = ValidateOptions { audit };
    dashboard.jobs.start("validate", async move |context| pipeline::validate(context, &options).await.map(drop))
}

/// A report, or none where only a kept one is wanted and there is none.
type Kept<T> = Result<Result<Json<T>, StatusCode>, Problem>;

/// How a report is asked for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Cached {
    #[serde(default)]
    cached: bool,
}

/// The findings of the lake as it is; made now when nobody has.
pub(super) async fn validation(
    State(dashboard): State<Dashboard>,
    Extension(role): Extension<Role>,
    Query(wanted): Query<Cached>,
) -> Kept<ValidateReport> {
    let latest = dashboard.context.lake()?.latest().await.map_err(pipeline::PipelineError::from)?;
    let kept = match &latest {
        Some(manifest) => pipeline::last_validation(&dashboard.context, manifest.version).await?,
        None => None,
    };
    match kept {
        Some(report) => return Ok(Ok(Json(report))),
        None if wanted.cached => return Ok(Err(StatusCode::NO_CONTENT)),
        None => {}
    }
    let version = dashboard.context.lake()?.require_latest().await.map_err(pipeline::PipelineError::from)?.version;
    role.may_start()?;
    start_validation(&dashboard, false)?.ended().await;
    let report = pipeline::last_validation(&dashboard.context, version).await?;
    report.map(|report| Ok(Json(report))).ok_or_else(|| failed("validation"))
}

fn failed(what: &str) -> Problem {
    let detail = format!("the {what} did not end well; /api/runs and /api/logs say why");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Preview {
    mode: Option<TargetMode>,
}

pub(super) async fn preview(State(dashboard): State<Dashboard>, body: Bytes) -> Answer {
    let Preview { mode } = settings(&body)?;
    Ok(accepted(start_preview(&dashboard, mode)?))
}

fn start_preview(dashboard: &Dashboard, mode: Option<TargetMode>) -> Result<Started, Problem> {
    dashboard.jobs.start("preview", async move |context| pipeline::preview_and_keep(context, mode).await)
}

/// The dataset's version, which a preview belongs to.
async fn dataset_version(dashboard: &Dashboard) -> Result<Version, Problem> {
    let manifest = dashboard.context.lake()?.require_latest().await.map_err(pipeline::PipelineError::from)?;
    let name = &dashboard.context.pipeline.dataset.name;
    let dataset = manifest.tables.get(name);
    dataset
        .map(|table| table.version)
        .ok_or_else(|| Problem::not_found(format!("the lake has no {name} yet; run makes it")))
}

/// What a push of the dataset as it is would change; compared now when nobody has.
pub(super) async fn previewed(
    State(dashboard): State<Dashboard>,
    Extension(role): Extension<Role>,
    Query(wanted): Query<Cached>,
) -> Kept<Value> {
    let version = match dataset_version(&dashboard).await {
        Err(_) if wanted.cached => return Ok(Err(StatusCode::NO_CONTENT)),
        version => version?,
    };
    match pipeline::last_preview(&dashboard.context, version, None).await? {
        Some(report) => return Ok(Ok(Json(report))),
        None if wanted.cached => return Ok(Err(StatusCode::NO_CONTENT)),
        None => {}
    }
    role.may_start()?;
    start_preview(&dashboard, None)?.ended().await;
    let report = pipeline::last_preview(&dashboard.context, version, None).await?;
    report.map(|report| Ok(Json(report))).ok_or_else(|| failed("preview"))
}

/// What a dangerous action must name: the table that it replaces.
fn confirmed(dashboard: &Dashboard, confirm: &str) -> Result<(), Problem> {
    let target = dashboard.context.pipeline.target.table.to_string();
    if confirm == target {
        return Ok(());
    }
    let detail = format!("this replaces {target}: send its name as \"confirm\"");
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Push {
    version: Option<Version>,
    confirm: String,
    mode: Option<TargetMode>,
    force: bool,
}

pub(super) async fn push(State(dashboard): State<Dashboard>, body: Bytes) -> Answer {
    let Push { version, confirm, mode, force } = settings(&body)?;
    confirmed(&dashboard, &confirm)?;
    let latest = dataset_version(&dashboard).await?;
    if version != Some(latest) || pipeline::last_preview(&dashboard.context, latest, mode).await?.is_none() {
        let detail = format!("look at a preview of version {latest} of the dataset first, and send its version");
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, detail));
    }
    Ok(accepted(dashboard.jobs.start("push", async move |context| {
        pipeline::push(context, None, PushOptions { force, mode }).await.map(drop)
    })?))
}

/// What else changes the live table must be told its name.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Confirm {
    confirm: String,
}

pub(super) async fn rollback(State(dashboard): State<Dashboard>, body: Bytes) -> Answer {
    let Confirm { confirm } = settings(&body)?;
    confirmed(&dashboard, &confirm)?;
    let started =
        dashboard.jobs.start("rollback", async move |context| pipeline::rollback(context, None).await.map(drop));
    Ok(accepted(started?))
}

pub(super) async fn rebuild(State(dashboard): State<Dashboard>, body: Bytes) -> Answer {
    let Confirm { confirm } = settings(&body)?;
    confirmed(&dashboard, &confirm)?;
    Ok(accepted(start_rebuild(&dashboard.jobs)?))
}

/// The whole way, as the schedule starts it too.
pub(super) fn start_rebuild(jobs: &Jobs) -> Result<Started, Problem> {
    jobs.start(pipeline::REBUILD, async move |context| pipeline::rebuild(context).await.map(drop))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cancel {
    run_id: Option<RunId>,
}

pub(super) async fn cancel(State(dashboard): State<Dashboard>, body: Bytes) -> Answer {
    let Cancel { run_id } = settings(&body)?;
    let cancelled = dashboard.jobs.cancel(run_id.as_ref());
    let run_id = cancelled.ok_or_else(|| Problem::not_found("no such run is running"))?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { run_id })))
}
