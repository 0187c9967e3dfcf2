//! The point-in-time audit of the latest dataset: what the pipeline file says about events, DuckDB, the phases.

use std::path::{Path, PathBuf};

use tokio::runtime::Handle;

use super::transform::{prepare_session, remove_database};
use super::validate::dataset_of;
use super::{Context, PipelineError, Run};
use crate::lake::{Lake, LakeTable, Manifest};
use crate::pg::quote_ident;
use crate::progress::Progress;
use crate::transform::{Engine, PhaseSet, TransformError, create_views, run_phases, select_phases};
use crate::validate::{AUDIT_SOURCES, AuditPlan, AuditTable, Provenance, Report, audit};

/// DuckDB's file in the lake's folder while an audit runs.
const DATABASE_FILE: &str = "racealpha_audit.duckdb";

/// Everything the blocking part needs.
#[derive(Debug)]
pub(super) struct AuditJob {
    context: Context,
    lake: Lake,
    manifest: Manifest,
    phases: PhaseSet,
    plan: AuditPlan,
    runtime: Handle,
}

impl AuditJob {
    /// Decides what is tried, and refuses what cannot be: wrong settings are found before the long work.
    pub(super) async fn plan(context: &Context, run: &Run) -> Result<Self, PipelineError> {
        let (lake, manifest, phases) = (run.lake.clone(), run.lake.require_latest().await?, context.phases()?);
        let plan = plan(context, &manifest, &phases)?;
        refuse_stale(&manifest, dataset_of(&manifest, &plan.dataset)?, &phases)?;
        Ok(Self { context: context.clone(), lake, manifest, phases, plan, runtime: Handle::current() })
    }

    /// Runs it. The database file is gone afterwards, however it ends.
    pub(super) fn run(&self) -> Result<Report, PipelineError> {
        let file = TemporaryDatabase::new(self.lake.local_path(DATABASE_FILE))?;
        let limits = self.context.engine_limits(&self.lake);
        let engine = Engine::open(Some(file.path()), &limits, self.context.cancel.clone())?;
        let _watch = engine.watch_cancel(&self.runtime);
        engine.execute(&format!("CREATE SCHEMA {AUDIT_SOURCES}; SET schema = '{AUDIT_SOURCES}'"))?;
        let tables = self.plan.tables.iter().map(|table| table.name.as_str());
        let names = tables.chain([self.plan.dataset.as_str()]);
        create_views(&engine, &self.lake, &self.manifest, names, None)?;
        engine.execute("SET schema = 'main'")?;
        let phases = select_phases(&self.phases, None, None)?;
        // The audit reports each change; the same phases over and over would say nothing.
        let silent = Progress::new();
        let make_dataset = |engine: &Engine| -> Result<(), TransformError> {
            prepare_session(engine, &self.phases, &self.manifest, true)?;
            run_phases(engine, &phases, &silent)?;
            keep(engine, &self.plan.dataset)
        };
        Ok(audit(&engine, &self.plan, &make_dataset, &self.context.progress)?)
    }
}

/// Makes a dataset that is a view a table: it is compared in several passes.
fn keep(engine: &Engine, dataset: &str) -> Result<(), TransformError> {
    if !engine.is_view(dataset)? {
        return Ok(());
    }
    let (view, kept) = (quote_ident(dataset), quote_ident(&format!("{dataset}_kept")));
    engine.execute(&format!(
        "CREATE TABLE {kept} AS SELECT * FROM {view}; DROP VIEW {view}; ALTER TABLE {kept} RENAME TO {view}"
    ))
}

/// A DuckDB file that is removed when this is dropped, after the engine that was opened later.
struct TemporaryDatabase(PathBuf);

impl TemporaryDatabase {
    /// Removes what a process that died left behind.
    fn new(file: PathBuf) -> Result<Self, PipelineError> {
        remove_database(&file)?;
        Ok(Self(file))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDatabase {
    fn drop(&mut self) {
        if let Err(error) = remove_database(&self.0) {
            tracing::warn!(%error, "the audit's database could not be removed");
        }
    }
}

/// The audit compares with the dataset, so the dataset must be what the present phases make of the present tables.
fn refuse_stale(manifest: &Manifest, dataset: &LakeTable, phases: &PhaseSet) -> Result<(), PipelineError> {
    match Provenance::of(manifest, dataset, phases) {
        Provenance::UpToDate(_) => Ok(()),
        Provenance::Stale(_) | Provenance::Pulled => Err(PipelineError::Usage(
            "the dataset was not made from the present tables by the present phases; `racealpha run` first, then audit"
                .to_owned(),
        )),
    }
}

fn plan(context: &Context, manifest: &Manifest, phases: &PhaseSet) -> Result<AuditPlan, PipelineError> {
    let (pipeline, refused) = (&context.pipeline, |message: String| Err(PipelineError::Usage(message)));
    let Some(event) = &pipeline.dataset.event else {
        return refused(
            "the audit needs dataset.event in the pipeline file, such as \
             event = { column = \"race_id\", table = \"races\", date = \"race_date\" }"
                .to_owned(),
        );
    };
    let dataset = &pipeline.dataset.name;
    dataset_of(manifest, dataset)?;
    let columns_of = |table: &str| -> Vec<String> {
        let fields = manifest.tables.get(table).map(|table| table.schema.fields().iter());
        fields.into_iter().flatten().map(|field| field.name().clone()).collect()
    };
    let needed = [
        ("dataset.event.column", &event.column, dataset),
        ("dataset.event.column", &event.column, &event.table),
        ("dataset.event.date", &event.date, &event.table),
    ];
    let order = event.order.iter().map(|column| ("dataset.event.order", column, dataset));
    let within = event.within.iter().map(|column| ("dataset.event.within", column, dataset));
    for (setting, column, table) in needed.into_iter().chain(order.clone()).chain(within.clone()) {
        if !columns_of(table).contains(column) {
            return refused(format!("{setting} is {column}, which table {table} does not have"));
        }
    }
    for (setting, column, _) in order.chain(within) {
        if pipeline.dataset.labels.contains(column) {
            return refused(format!("{setting} is {column}, a label: the order must be known before the event"));
        }
    }
    let is_read = |name: &String| phases.phases.iter().any(|phase| phase.in_lake && phase.reads.contains(name));
    let mut tables = Vec::new();
    for table in pipeline.tables.iter().filter(|table| manifest.tables.contains_key(&table.name)) {
        let columns = columns_of(&table.name);
        if let Some(column) = table.outcomes.iter().find(|column| !columns.contains(column)) {
            return refused(format!("outcomes of table {} name {column}, which it does not have", table.name));
        }
        let is_marked = table.after_event || !table.outcomes.is_empty();
        if is_marked && !columns.contains(&event.column) {
            return refused(format!(
                "table {} has outcomes or after_event, and no column {} that tells of which event",
                table.name, event.column
            ));
        }
        if is_read(&table.name) || table.name == event.table {
            tables.push(AuditTable {
                name: table.name.clone(),
                key: table.key.clone(),
                columns,
                outcomes: table.outcomes.clone(),
                after_event: table.after_event,
            });
        }
    }
    if !tables.iter().any(|table| !table.outcomes.is_empty() && table.name != event.table) {
        return refused(
            "the audit needs to know what an outcome is: name the columns in `outcomes` of one of the [[tables]] that \
             the phases read"
                .to_owned(),
        );
    }
    Ok(AuditPlan {
        dataset: dataset.clone(),
        key: pipeline.dataset.key.clone(),
        labels: pipeline.dataset.labels.clone(),
        event: event.column.clone(),
        event_table: event.table.clone(),
        event_date: event.date.clone(),
        event_order: event.order.clone(),
        event_within: event.within.clone(),
        tables,
        dates: pipeline.validate.audit_dates,
        events: pipeline.validate.audit_events,
    })
}
