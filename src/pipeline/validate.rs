//! All checks over the latest lake version.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::audit::AuditJob;
use super::run::{keep_report, newest_report, with_run};
use super::{Context, PipelineError, Run};
use crate::config::{CheckConfig, ValidateConfig, nearest};
use crate::lake::{Lake, LakeError, LakeTable, Manifest, Version};
use crate::progress::Step;
use crate::transform::{Engine, PhaseSet, Severity, create_view, create_views, load_data_tables};
use crate::validate::{BUILT_IN_CHECKS, Finding, Limits, Report, check_dataset, check_sources};

/// The name under which a run keeps what validation found.
const REPORT: &str = "validation";
/// Older versions looked through for the previous dataset.
const VERSIONS_BACK_MAX: usize = 50;
/// The name under which checks see the previous dataset, where there is one.
const PREVIOUS_DATASET: &str = "previous_dataset";

/// What is checked besides tables and dataset.
#[derive(Debug, Clone, Default)]
pub struct ValidateOptions {
    /// The point-in-time audit, which makes the dataset anew from changed sources many times.
    pub audit: bool,
}

/// What validation found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ValidateReport {
    /// The lake version checked.
    pub version: Version,
    /// Rows of the dataset.
    pub rows: u64,
    /// Whether a finding blocks the push.
    pub blocked: bool,
    /// The findings in the order of their ids.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub seconds: f64,
}

/// Checks the sources and the dataset of the latest lake version.
///
/// # Errors
/// [`PipelineError`] when a check cannot run; findings are no error here.
pub async fn validate(context: &Context, options: &ValidateOptions) -> Result<ValidateReport, PipelineError> {
    with_run(context, "validate", async |run| {
        let audit = if options.audit { Some(AuditJob::plan(context, run).await?) } else { None };
        let report = validate_in(context, run).await?;
        match audit {
            Some(audit) => audited(run, audit, report, &severities(&context.pipeline.validate)).await,
            None => Ok(report),
        }
    })
    .await
}

/// What the last validation found, by whichever command it was made, when the lake still is of the version it looked at.
///
/// # Errors
/// [`PipelineError::Lake`].
pub async fn last_validation(context: &Context, version: Version) -> Result<Option<ValidateReport>, PipelineError> {
    let report: Option<ValidateReport> = newest_report(&context.lake()?, REPORT).await?;
    Ok(report.filter(|report| report.version == version))
}

/// The report with the audit's findings.
async fn audited(
    run: &Run,
    audit: AuditJob,
    mut report: ValidateReport,
    severities: &BTreeMap<String, Severity>,
) -> Result<ValidateReport, PipelineError> {
    let started = Instant::now();
    let audit = tokio::task::spawn_blocking(move || audit.run()).await??.with_severities(severities);
    report.blocked |= audit.is_blocked();
    report.findings.extend(audit.findings);
    report.findings.sort_by(|a, b| a.id.cmp(&b.id));
    report.seconds += started.elapsed().as_secs_f64();
    run.record(Step::Validate, started, report.rows, 0);
    keep_report(run, REPORT, &report).await?;
    Ok(report)
}

/// The same as a step of a run.
pub(super) async fn validate_in(context: &Context, run: &Run) -> Result<ValidateReport, PipelineError> {
    let started = Instant::now();
    let manifest = run.lake.require_latest().await?;
    let name = context.pipeline.dataset.name.clone();
    let table = dataset_of(&manifest, &name)?.clone();
    let previous = previous_dataset(&run.lake, &manifest, &name, table.version).await?;
    let tables: Vec<(&str, bool)> =
        context.pipeline.tables.iter().map(|table| (table.name.as_str(), table.required)).collect();
    let mut findings = check_sources(&manifest, &tables).findings;
    let (version, rows) = (manifest.version, table.rows);

    let (job, lake, phases) = (context.clone(), run.lake.clone(), context.phases()?);
    known_checks(&context.pipeline.validate.checks, &phases)?;
    let runtime = Handle::current();
    let check = move || -> Result<Report, PipelineError> {
        let work = job.progress.start(Step::Validate, "checks", None);
        let engine = Engine::open(None, &job.engine_limits(&lake), job.cancel.clone())?;
        let _watch = engine.watch_cancel(&runtime);
        let made = job.pipeline.made().map(|made| made.name);
        let names = job.pipeline.tables.iter().map(|table| table.name.as_str()).chain(made);
        create_views(&engine, &lake, &manifest, names, None)?;
        if let Some(previous) = &previous {
            create_view(&engine, &lake, PREVIOUS_DATASET, previous)?;
        }
        load_data_tables(&engine, &phases)?;
        let limits = Limits {
            min_rows: job.pipeline.validate.min_rows,
            min_rows_of_previous: job.pipeline.validate.min_rows_of_previous,
            key: job.pipeline.dataset.key.clone(),
            labels: job.pipeline.dataset.labels.clone(),
            of_checks: limits_of_checks(&job.pipeline.validate.checks),
        };
        let previous_rows = previous.map(|table| table.rows);
        let report = check_dataset(&engine, &manifest, (&name, &table), previous_rows, &limits, &phases)?;
        work.add(table.rows, 0);
        work.finish();
        Ok(report)
    };
    findings.extend(tokio::task::spawn_blocking(check).await??.findings);
    run.record(Step::Validate, started, rows, 0);
    let report = Report { findings }.with_severities(&severities(&context.pipeline.validate));
    let report = ValidateReport {
        version,
        rows,
        blocked: report.is_blocked(),
        findings: report.findings,
        seconds: started.elapsed().as_secs_f64(),
    };
    keep_report(run, REPORT, &report).await?;
    Ok(report)
}

/// The dataset in a version.
pub(super) fn dataset_of<'a>(manifest: &'a Manifest, name: &str) -> Result<&'a LakeTable, LakeError> {
    manifest.tables.get(name).ok_or_else(|| LakeError::NoTable {
        table: name.to_owned(),
        version: manifest.version,
        command: "run",
    })
}

/// The dataset before this one.
async fn previous_dataset(
    lake: &Lake,
    manifest: &Manifest,
    name: &str,
    current: Version,
) -> Result<Option<LakeTable>, PipelineError> {
    let oldest = manifest.version.0.saturating_sub(VERSIONS_BACK_MAX as u64).max(1);
    for version in (oldest..manifest.version.0).rev() {
        let Some(mut older) = lake.manifest(Version(version)).await? else { continue };
        match older.tables.remove(name) {
            Some(table) if table.version != current => return Ok(Some(table)),
            _ => {}
        }
    }
    Ok(None)
}

fn severities(config: &ValidateConfig) -> BTreeMap<String, Severity> {
    config.checks.iter().filter_map(|(id, check)| Some((id.clone(), check.severity?))).collect()
}

fn limits_of_checks(checks: &BTreeMap<String, CheckConfig>) -> BTreeMap<String, f64> {
    checks.iter().filter_map(|(id, check)| Some((id.clone(), check.limit?))).collect()
}

/// A setting for a check that does not exist would be silently without effect.
fn known_checks(checks: &BTreeMap<String, CheckConfig>, phases: &PhaseSet) -> Result<(), PipelineError> {
    for (id, check) in checks {
        let file = phases.checks.iter().find(|file| file.id == *id);
        if file.is_none() && !BUILT_IN_CHECKS.contains(&id.as_str()) {
            let files = phases.checks.iter().map(|file| file.id.as_str());
            let known: Vec<&str> = BUILT_IN_CHECKS.into_iter().chain(files).collect();
            let help = match nearest(&id.to_uppercase(), known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known: {}", known.join(", ")),
            };
            return Err(PipelineError::Usage(format!("validate.checks: there is no check {id}; {help}")));
        }
        if check.limit.is_some() && file.is_none_or(|file| file.limit.is_none()) {
            return Err(PipelineError::Usage(format!("validate.checks.{id}: this check has no limit to set")));
        }
    }
    Ok(())
}
