//! What a push would change: the plan, and the dataset compared with the live table row by row.
//!
//! The live table is pulled once into a throw-away lake beside the real one, and DuckDB compares the two.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::runtime::Handle;

use super::pull::{PullJob, PullOptions};
use super::pull_table::TablePull;
use super::push::target_of;
use super::validate::dataset_of;
use super::{Context, PipelineError};
use crate::lake::{FileEncoding, Lake, Manifest, Version};
use crate::pg::{Session, quote_ident};
use crate::progress::Step;
use crate::push::{self, PushMode, PushPlan};
use crate::source::SourceError;
use crate::transform::{Engine, create_views, rows_as_json};

const PURPOSE: &str = "preview";
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
}

/// Compares the latest dataset, or the output named, with the live table; writes nothing anywhere.
///
/// # Errors
/// [`PipelineError`].
pub async fn preview(context: &Context, table: Option<&str>) -> Result<PreviewReport, PipelineError> {
    let started = Instant::now();
    let lake = context.lake()?;
    let manifest = lake.require_latest().await?;
    let (made, options) = target_of(context, table)?;
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
            columns: BTreeMap::new(),
            parquet: FileEncoding::default(),
        };
        job.pull(&[table]).await?;
        let live = beside.require_latest().await?;
        report.live_rows = live.tables[LIVE].rows;
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
        if inserts_only {
            report.removed = 0;
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
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
        work.finish();
        Ok(Counted {
            columns: compared.iter().map(|(column, _)| (*column).clone()).collect(),
            counts: rows.into_iter().next().unwrap_or_default(),
        })
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
            if NUMBER_TYPES.iter().any(|number| data_type.starts_with(number)) {
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

impl PreviewReport {
    fn take(&mut self, counted: &Counted) {
        let count = |name: &str| counted.counts.get(name).and_then(Value::as_u64).unwrap_or(0);
        let mean = |name: &str| counted.counts.get(name).and_then(Value::as_f64);
        (self.added, self.removed, self.changed) = (count("added"), count("removed"), count("changed"));
        self.columns = counted
            .columns
            .iter()
            .enumerate()
            .map(|(index, name)| ColumnChange {
                name: name.clone(),
                changed: count(&format!("changed_{index}")),
                nulls_before: count(&format!("nulls_before_{index}")),
                nulls_after: count(&format!("nulls_after_{index}")),
                mean_before: mean(&format!("mean_before_{index}")),
                mean_after: mean(&format!("mean_after_{index}")),
            })
            .collect();
        self.columns.sort_by_key(|column| std::cmp::Reverse(column.changed));
    }
}
