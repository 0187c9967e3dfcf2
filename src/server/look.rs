//! What is where: status, pipeline, runs, features, log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Path, Query, State};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::Dashboard;
use super::live::Running;
use super::problem::Problem;
use crate::pipeline::{self, FeatureReport, PipelineError, RunId, RunRecord, StatusReport};
use crate::push::TargetMode;
use crate::telemetry::{self, LogLine, LogPage};
use crate::transform::Phase;

/// Runs of one answer.
const RUNS_MAX: usize = 500;
/// Log lines of one answer.
const LOG_LINES_MAX: usize = 1000;

/// How long a look at the servers holds: each opens two sessions, and every open page asks.
const STATUS_HOLDS: Duration = Duration::from_secs(2);

/// The last look at the servers. Who asks while another looks waits for what that one finds.
#[derive(Debug, Default)]
pub(super) struct LastStatus(Mutex<Option<(Instant, u64, Arc<StatusReport>)>>);

impl LastStatus {
    /// The last look, or a new one when it is old or a job began or ended since.
    async fn get(&self, dashboard: &Dashboard) -> Result<Arc<StatusReport>, PipelineError> {
        let mut last = self.0.lock().await;
        let changes = dashboard.jobs.changes();
        match &*last {
            Some((at, then, report)) if at.elapsed() < STATUS_HOLDS && *then == changes => Ok(Arc::clone(report)),
            _ => {
                let report = Arc::new(pipeline::status(&dashboard.context).await?);
                *last = Some((Instant::now(), changes, Arc::clone(&report)));
                Ok(report)
            }
        }
    }
}

/// As `racealpha status`, and what runs now.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    #[serde(flatten)]
    report: Arc<StatusReport>,
    running: Option<Running>,
}

pub(super) async fn status(State(dashboard): State<Dashboard>) -> Result<Json<Status>, Problem> {
    let report = dashboard.status.get(&dashboard).await?;
    Ok(Json(Status { report, running: dashboard.jobs.live().running() }))
}

/// What the pipeline file says.
#[derive(Debug, Serialize)]
pub(super) struct PipelineView {
    dataset: DatasetView,
    target: TargetView,
    sources: Vec<String>,
    phases: Vec<PhaseView>,
    schedule: Option<ScheduleView>,
}

#[derive(Debug, Serialize)]
struct DatasetView {
    name: String,
    key: Vec<String>,
    labels: Vec<String>,
}

#[derive(Debug, Serialize)]
struct TargetView {
    table: String,
    backup: Option<String>,
    mode: TargetMode,
    /// `user@host:port/database`, without the password.
    server: Option<String>,
}

#[derive(Debug, Serialize)]
struct PhaseView {
    number: String,
    engine: &'static str,
    #[serde(flatten)]
    phase: Phase,
}

#[derive(Debug, Serialize)]
struct ScheduleView {
    cron: String,
    zone: String,
    next: Option<DateTime<Utc>>,
    missed: Option<DateTime<Utc>>,
}

pub(super) async fn pipeline(State(dashboard): State<Dashboard>) -> Result<Json<PipelineView>, Problem> {
    let context = &dashboard.context;
    let (dataset, target) = (&context.pipeline.dataset, &context.pipeline.target);
    let phases = context.phases()?.phases;
    Ok(Json(PipelineView {
        dataset: DatasetView { name: dataset.name.clone(), key: dataset.key.clone(), labels: dataset.labels.clone() },
        target: TargetView {
            table: target.table.to_string(),
            backup: target.backup.clone(),
            mode: target.mode,
            server: context.settings.target().ok().map(ToString::to_string),
        },
        sources: context.pipeline.tables.iter().map(|table| table.name.clone()).collect(),
        phases: phases.into_iter().map(phase_view).collect(),
        schedule: dashboard.schedule.as_ref().map(|schedule| ScheduleView {
            cron: schedule.cron().to_owned(),
            zone: schedule.zone().to_owned(),
            next: schedule.next_after(Utc::now()),
            missed: schedule.missed(),
        }),
    }))
}

fn phase_view(phase: Phase) -> PhaseView {
    let engine = if phase.in_lake { "duckdb" } else { "postgres" };
    PhaseView { number: phase.number().to_owned(), engine, phase }
}

#[derive(Debug, Deserialize)]
pub(super) struct Limit {
    limit: Option<usize>,
}

pub(super) async fn runs(
    State(dashboard): State<Dashboard>,
    Query(Limit { limit }): Query<Limit>,
) -> Result<Json<Vec<RunRecord>>, Problem> {
    let mut runs = pipeline::history(&dashboard.context, limit.unwrap_or(50).min(RUNS_MAX)).await?;
    // Dozens a run; who wants them asks for the run.
    for run in &mut runs {
        run.works.clear();
    }
    Ok(Json(runs))
}

pub(super) async fn run(State(dashboard): State<Dashboard>, Path(id): Path<RunId>) -> Result<Json<RunRecord>, Problem> {
    let record = pipeline::run_record(&dashboard.context, &id).await?;
    record.map(Json).ok_or_else(|| Problem::not_found(format!("the lake knows no run {id}")))
}

pub(super) async fn features(State(dashboard): State<Dashboard>) -> Result<Json<FeatureReport>, Problem> {
    let context = dashboard.context.clone();
    let report = tokio::task::spawn_blocking(move || pipeline::features(&context)).await;
    Ok(Json(report.map_err(PipelineError::from)??))
}

/// Which lines of the log.
#[derive(Debug, Deserialize)]
pub(super) struct LogQuery {
    /// Lines after this one; without it the newest.
    after: Option<u64>,
    limit: Option<usize>,
    level: Option<String>,
}

pub(super) async fn logs(Query(wanted): Query<LogQuery>) -> Result<Json<LogPage>, Problem> {
    let level = wanted.level.as_deref().unwrap_or("trace");
    let level = level.parse().map_err(|_| Problem::bad_request("level is one of error, warn, info, debug, trace"))?;
    let is_wanted = |line: &LogLine| line.is_at_least(level);
    let limit = wanted.limit.unwrap_or(500).min(LOG_LINES_MAX);
    let lines = telemetry::log_lines();
    Ok(Json(match wanted.after {
        Some(after) => lines.page(after, limit, is_wanted),
        None => lines.newest(limit, is_wanted),
    }))
}
