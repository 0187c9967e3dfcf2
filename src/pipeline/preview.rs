//! What a push would change: the plan, and the dataset compared with the live table row by row.
//!
//! The live table is pulled once into a throw-away lake beside the real one, and DuckDB compares the two.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::runtime::Handle;

use super::preview_rows::{Compared, RowChange, RowSample};
use super::pull::{PullJob, PullOptions};
use super::pull_table::TablePull;
use super::push::{PushOptions, target_for};
use super::run::{RunState, history, keep_report_of, newest_report_of, runs_since};
use super::shift::{Quantiles, Sample};
use super::validate::dataset_of;
use super::{Context, PipelineError, REBUILD, RunId};
use crate::lake::{FileEncoding, Lake, LakeTable, Manifest, Version, read_table};
use crate::pg::{Session, quote_ident};
use crate::progress::Step;
use crate::push::{self, Blocker, Misfits, PushMode, PushPlan, TargetMode};
use crate::schema::TableName;
use crate::source::SourceError;
use crate::transform::{Engine, create_views, rows_as_json};

const PURPOSE: &str = "preview";
/// Rows whose numbers are looked at one by one: enough for quantiles that a person compares.
const SAMPLE_ROWS: u32 = 10_000;
/// Runs among which the last push of the table is looked for.
const RUNS_LOOKED_AT: usize = 20;
/// The live table's name beside the dataset's.
const LIVE: &str = "live_table";
/// Types whose mean says something.
const NUMBER_TYPES: [&str; 8] = ["TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "BOOLEAN", "DECIMAL"];

/// What a push would change.
#[derive(Debug, Clone, Serialize)]
pub struct PreviewReport {
    /// The dataset or the output.
    pub name: String,
    /// The lake version of the dataset.
    pub version: Version,
    /// Rows of the dataset.
    pub dataset_rows: u64,
    /// Rows of the live table; 0 when there is none yet.
    pub live_rows: u64,
    /// Rows whose key only the dataset has.
    pub added: u64,
    /// Rows whose key only the live table has, and that a swap would remove.
    pub removed: u64,
    /// Rows in both with a difference in any matching column.
    pub changed: u64,
    /// The matching columns, those that change in most rows first.
    pub columns: Vec<ColumnChange>,
    /// Some of the rows added, removed and changed.
    pub samples: Vec<RowSample>,
    /// Seconds that the push takes, from the rows per second of the last one of the same table; `None` before the first.
    pub push_seconds_estimated: Option<f64>,
    /// Who waits for what during the push.
    pub locks: String,
    /// Values of the dataset that do not fit into their column, by column that has any.
    pub misfits: BTreeMap<String, u64>,
    /// Columns matched and not, what is attached, what stands in the way.
    pub plan: PushPlan,
    /// How long it took.
    pub seconds: f64,
}

/// How a column changes.
#[derive(Debug, Clone, Serialize)]
pub struct ColumnChange {
    /// The column.
    pub name: String,
    /// Rows in both tables whose value differs.
    pub changed: u64,
    /// Nulls in the live table.
    pub nulls_before: u64,
    /// Nulls in the dataset.
    pub nulls_after: u64,
    /// Mean of the live table's numbers.
    pub mean_before: Option<f64>,
    /// Mean of the dataset's numbers.
    pub mean_after: Option<f64>,
    /// Where the live table's numbers lie, from a sample.
    pub quantiles_before: Option<Quantiles>,
    /// Where the dataset's numbers lie, from a sample.
    pub quantiles_after: Option<Quantiles>,
    /// The population stability index of the two samples: from 0.25 on the numbers are distributed otherwise.
    pub stability_index: Option<f64>,
}

/// The name under which a preview is kept beside the runs.
const REPORT: &str = "preview";
/// Commands after which the live table is another one, or may be.
const CHANGES_LIVE: [&str; 4] = ["push", "push --resume", "rollback", REBUILD];

/// A preview of the dataset as it lies beside the runs.
#[derive(Debug, Serialize, Deserialize)]
struct KeptPreview<R> {
    /// The lake version of the dataset.
    version: Version,
    /// The mode that was asked for.
    mode: Option<TargetMode>,
    /// The live table.
    table: TableName,
    /// Its server, `user@host:port/database`.
    server: String,
    report: R,
}

/// Compares the latest dataset with the live table as [`preview()`] does, and keeps what it finds beside the runs.
///
/// # Errors
/// [`PipelineError`].
pub async fn preview_and_keep(context: &Context, mode: Option<TargetMode>) -> Result<(), PipelineError> {
    // Named before it looks: what changes the live table meanwhile comes after it.
    let id = context.run_id.clone().unwrap_or_else(RunId::for_now);
    let report = preview(context, None, mode).await?;
    let (version, table) = (report.version, report.plan.table.clone());
    let server = context.settings.target()?.to_string();
    keep_report_of(&context.lake()?, &id, REPORT, &KeptPreview { version, mode, table, server, report }).await
}

/// The last [`PreviewReport`] that was kept, as JSON, when dataset, mode and target are still those it is about and no
/// run has changed the live table since.
///
/// # Errors
/// [`PipelineError::Lake`].
pub async fn last_preview(
    context: &Context,
    version: Version,
    mode: Option<TargetMode>,
) -> Result<Option<Value>, PipelineError> {
    let lake = context.lake()?;
    let Some((id, kept)) = newest_report_of::<KeptPreview<Value>>(&lake, REPORT).await? else { return Ok(None) };
    let server = context.settings.target().ok().map(ToString::to_string);
    let is_of_target = kept.table == context.pipeline.target.table && Some(kept.server) == server;
    if kept.version != version || kept.mode != mode || !is_of_target {
        return Ok(None);
    }
    let runs = runs_since(&lake, &id).await?;
    let is_changed = runs.iter().any(|run| CHANGES_LIVE.contains(&run.command.as_str()));
    Ok((!is_changed).then_some(kept.report))
}

/// Compares the latest dataset, or the output named, with the live table; writes nothing anywhere.
///
/// # Errors
/// [`PipelineError`].
pub async fn preview(
    context: &Context,
    table: Option<&str>,
    mode: Option<TargetMode>,
) -> Result<PreviewReport, PipelineError> {
    let started = Instant::now();
    let lake = context.lake()?;
    let manifest = lake.require_latest().await?;
    let (made, options) = target_for(context, table, PushOptions { mode, force: false })?;
    let name = made.name.to_owned();
    let dataset = dataset_of(&manifest, &name)?;
    let (version, dataset_rows) = (dataset.version, dataset.rows);
    let url = context.settings.target()?;
    let session = Session::open(url, PURPOSE).await?;
    // Behind a pooler only a transaction's settings hold, and only within it every statement meets the same server.
    session.begin_read_only(None).await.map_err(SourceError::Snapshot)?;
    let plan = push::plan(&session, &options, &dataset.schema).await?;
    drop(session);

    let mut report = PreviewReport {
        name: name.clone(),
        version,
        dataset_rows,
        live_rows: 0,
        added: dataset_rows,
        removed: 0,
        changed: 0,
        columns: Vec::new(),
        samples: Vec::new(),
        push_seconds_estimated: seconds_estimated(context, &name, dataset_rows).await?,
        locks: locks(plan.mode).to_owned(),
        misfits: BTreeMap::new(),
        plan,
        seconds: 0.0,
    };
    if report.plan.live_exists {
        let folder = tempfile::tempdir_in(lake.root()).map_err(|source| PipelineError::Output {
            path: lake.root().display().to_string(),
            source: source.into(),
        })?;
        let beside = Lake::open(&folder.path().display().to_string())?;
        let job = PullJob {
            url,
            lake: &beside,
            run_id: "preview",
            connections: context.settings.jobs,
            rate: context.settings.rate_limit(),
            progress: &context.progress,
            step: Step::Preview,
            cancel: &context.cancel,
            limits: context.engine_limits(&lake),
            options: PullOptions::default(),
            check_drift: &|_| Ok(()),
        };
        let table = TablePull {
            name: LIVE.to_owned(),
            source: options.table.clone(),
            key: options.key.clone(),
            partition_by: Vec::new(),
            watermark: None,
            split_by: None,
            columns: BTreeMap::new(),
            parquet: FileEncoding::default(),
        };
        job.pull(&[table]).await?;
        let live = beside.require_latest().await?;
        report.live_rows = live.tables[LIVE].rows;
        report.find_misfits(&lake, dataset).await?;
        report.plan.blockers.extend(too_few_rows(&report, options.min_rows_of_live));
        // Rows that are there stay as they are, so there is nothing to compare.
        let inserts_only = report.plan.mode == PushMode::InsertMissing;
        let columns = if inserts_only { Vec::new() } else { report.plan.columns.matched.clone() };
        let comparison = Comparison {
            context: context.clone(),
            lake,
            manifest,
            beside,
            live,
            name,
            columns,
            runtime: Handle::current(),
        };
        let key = options.key;
        let counted = tokio::task::spawn_blocking(move || comparison.run(&key)).await??;
        report.take(&counted);
        report.samples = counted.rows;
        if inserts_only {
            report.removed = 0;
            report.samples.retain(|row| row.change == RowChange::Added);
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The rows per second of the last push of the table that went well, applied to as many rows.
async fn seconds_estimated(context: &Context, table: &str, rows: u64) -> Result<Option<f64>, PipelineError> {
    let runs = history(context, RUNS_LOOKED_AT).await?;
    let mut pushes = runs.iter().filter(|run| run.state == RunState::Done).flat_map(|run| &run.steps);
    let last = pushes.find(|step| step.table.as_deref() == Some(table) && step.rows > 0);
    let float = |rows: u64| rows.to_string().parse::<f64>().unwrap_or(0.0);
    Ok(last.map(|step| step.seconds * float(rows) / float(step.rows)))
}

/// Who waits for what during a push.
const fn locks(mode: PushMode) -> &'static str {
    match mode {
        PushMode::First => "nobody waits",
        PushMode::Swap => "readers and writers wait for milliseconds, once, at the end",
        PushMode::Merge => "readers do not wait; writers wait while rows are compared and changed",
        PushMode::InsertMissing => "nobody waits; writers of the same keys do until the end",
    }
}

/// What a push says of a dataset that is much smaller than the live table.
fn too_few_rows(report: &PreviewReport, share: f64) -> Option<Blocker> {
    if report.plan.mode == PushMode::InsertMissing {
        return None;
    }
    let least = push::least_rows(report.live_rows, share);
    (report.dataset_rows < least).then(|| Blocker {
        object: format!("table {}", report.plan.table),
        why: format!("it has {} rows and the dataset {}, less than {least}", report.live_rows, report.dataset_rows),
        alternative: "push --force, or lower min_rows_of_live".to_owned(),
    })
}

/// Both tables and what is compared.
struct Comparison {
    context: Context,
    lake: Lake,
    manifest: Manifest,
    beside: Lake,
    live: Manifest,
    name: String,
    columns: Vec<String>,
    runtime: Handle,
}

/// Counts by name, and the columns they belong to.
struct Counted {
    columns: Vec<String>,
    counts: Map<String, Value>,
    /// Samples of the live table's and of the dataset's numbers, by column.
    samples: BTreeMap<String, (Sample, Sample)>,
    /// Some of the rows that differ.
    rows: Vec<RowSample>,
}

impl Comparison {
    fn run(&self, key: &[String]) -> Result<Counted, PipelineError> {
        let work = self.context.progress.start(Step::Preview, "compare", None);
        let engine = Engine::open(None, &self.context.engine_limits(&self.lake), self.context.cancel.clone())?;
        let _watch = engine.watch_cancel(&self.runtime);
        create_views(&engine, &self.lake, &self.manifest, [self.name.as_str()].into_iter(), None)?;
        create_views(&engine, &self.beside, &self.live, [LIVE].into_iter(), None)?;
        let types: BTreeMap<String, String> = engine.columns(LIVE)?.into_iter().collect();
        let compared: Vec<(&String, &String)> = self
            .columns
            .iter()
            .filter(|column| !key.contains(column))
            .filter_map(|column| Some((column, types.get(column)?)))
            .collect();
        let (_, batches) = engine.query(&self.statement(key, &compared))?;
        let rows = batches.first().map(rows_as_json).transpose()?.unwrap_or_default();
        let counts = rows.into_iter().next().unwrap_or_default();
        let samples = self.samples(&engine, &compared)?;
        let rows = Compared { dataset: &self.name, live: LIVE, key, columns: &compared }.sample(&engine)?;
        work.finish();
        Ok(Counted { columns: compared.iter().map(|(column, _)| (*column).clone()).collect(), counts, samples, rows })
    }

    /// Rows of both tables, picked evenly, with the columns that are numbers.
    fn samples(
        &self,
        engine: &Engine,
        compared: &[(&String, &String)],
    ) -> Result<BTreeMap<String, (Sample, Sample)>, PipelineError> {
        let numbers: Vec<&String> =
            compared.iter().filter(|(_, data_type)| is_number(data_type)).map(|(column, _)| *column).collect();
        let values: Vec<String> =
            numbers.iter().map(|column| format!("TRY_CAST({} AS DOUBLE)", quote_ident(column))).collect();
        if values.is_empty() {
            return Ok(BTreeMap::new());
        }
        let pick = |table: &str| {
            let table = quote_ident(table);
            let sql = format!(
                "SELECT {} FROM {table} USING SAMPLE reservoir({SAMPLE_ROWS} ROWS) REPEATABLE (1)",
                values.join(", ")
            );
            engine.query(&sql).map(|(_, batches)| batches)
        };
        let (before, after) = (pick(LIVE)?, pick(&self.name)?);
        let pair = |index| (Sample::of(&before, index), Sample::of(&after, index));
        Ok(numbers.iter().enumerate().map(|(index, column)| ((*column).clone(), pair(index))).collect())
    }

    /// One pass over both tables. Values are compared as the live column's type stores them.
    fn statement(&self, key: &[String], columns: &[(&String, &String)]) -> String {
        let keys: Vec<String> = key.iter().map(|column| quote_ident(column)).collect();
        let mut answers = vec![
            "count(*) FILTER (WHERE l.present IS NULL) AS added".to_owned(),
            "count(*) FILTER (WHERE d.present IS NULL) AS removed".to_owned(),
        ];
        let mut differs = Vec::with_capacity(columns.len());
        for (index, (column, data_type)) in columns.iter().enumerate() {
            let column = quote_ident(column);
            let after = format!("TRY_CAST(d.{column} AS {data_type})");
            let both = "d.present IS NOT NULL AND l.present IS NOT NULL";
            let differ = format!("{after} IS DISTINCT FROM l.{column}");
            answers.push(format!("count(*) FILTER (WHERE {both} AND {differ}) AS changed_{index}"));
            answers.push(format!("count(l.present) - count(l.{column}) AS nulls_before_{index}"));
            answers.push(format!("count(d.present) - count(d.{column}) AS nulls_after_{index}"));
            if is_number(data_type) {
                answers.push(format!("avg(CAST(l.{column} AS DOUBLE)) AS mean_before_{index}"));
                answers.push(format!("avg(CAST({after} AS DOUBLE)) AS mean_after_{index}"));
            }
            differs.push(differ);
        }
        let any = if differs.is_empty() { "false".to_owned() } else { differs.join(" OR ") };
        answers.push(format!(
            "count(*) FILTER (WHERE d.present IS NOT NULL AND l.present IS NOT NULL AND ({any})) AS changed"
        ));
        format!(
            "SELECT {} FROM (SELECT true AS present, * FROM {}) d FULL JOIN (SELECT true AS present, * FROM {}) l USING ({})",
            answers.join(", "),
            quote_ident(&self.name),
            quote_ident(LIVE),
            keys.join(", ")
        )
    }
}

fn is_number(data_type: &str) -> bool {
    // A list of numbers is not one.
    NUMBER_TYPES.iter().any(|number| data_type.starts_with(number)) && !data_type.ends_with(']')
}

impl PreviewReport {
    /// Runs the dataset through the encoder of a push, which tells what the target's columns cannot hold.
    async fn find_misfits(&mut self, lake: &Lake, dataset: &LakeTable) -> Result<(), PipelineError> {
        // A pair of types that does not go together is a blocker already.
        let Ok(mut misfits) = Misfits::new(&self.plan.columns, &dataset.schema) else { return Ok(()) };
        let mut batches = std::pin::pin!(read_table(lake, dataset));
        while let Some(batch) = batches.next().await {
            if let Err(error) = misfits.add(&batch?) {
                self.plan.blockers.push(Blocker {
                    object: format!("the dataset {}", self.name),
                    why: format!("a value does not fit: {error}"),
                    alternative: "correct it in the phase, or say what is to become of it".to_owned(),
                });
                break;
            }
        }
        self.misfits = misfits.counts();
        self.plan.blockers.extend(misfits.blockers());
        Ok(())
    }

    fn take(&mut self, counted: &Counted) {
        let count = |name: &str| counted.counts.get(name).and_then(Value::as_u64).unwrap_or(0);
        let mean = |name: &str| counted.counts.get(name).and_then(Value::as_f64);
        (self.added, self.removed, self.changed) = (count("added"), count("removed"), count("changed"));
        self.columns = counted
            .columns
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let samples = counted.samples.get(name);
                ColumnChange {
                    quantiles_before: samples.and_then(|(before, _)| before.quantiles()),
                    quantiles_after: samples.and_then(|(_, after)| after.quantiles()),
                    stability_index: samples.and_then(|(before, after)| before.stability_index(after)),
                    name: name.clone(),
                    changed: count(&format!("changed_{index}")),
                    nulls_before: count(&format!("nulls_before_{index}")),
                    nulls_after: count(&format!("nulls_after_{index}")),
                    mean_before: mean(&format!("mean_before_{index}")),
                    mean_after: mean(&format!("mean_after_{index}")),
                }
            })
            .collect();
        self.columns.sort_by_key(|column| std::cmp::Reverse(column.changed));
    }
}
