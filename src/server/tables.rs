//! Lake tables: their columns, what these mean, and how their values lie.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use axum::Json;
use axum::extract::{Path, State};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Dashboard;
use super::problem::Problem;
use crate::lake::{LakeError, LakeTable, Origin, Version};
use crate::pg::quote_ident;
use crate::pipeline::{self, PipelineError, QueryLimits};
use crate::transform::{DictionaryColumn, rows_as_json};

/// Bars of a histogram, and values of a list of the most frequent.
const BARS: usize = 20;
const TOP_VALUES: usize = 10;
/// Characters of a value that a label shows.
const LABEL_CHARS: usize = 40;
/// How long the look at one column may take.
const TIME_MAX: Duration = Duration::from_secs(20);
/// DuckDB's memory for it.
const MEMORY_MAX: &str = "512MB";

/// A lake table.
#[derive(Debug, Serialize)]
pub(super) struct TableView {
    name: String,
    version: Version,
    created: DateTime<Utc>,
    rows: u64,
    bytes: u64,
    files: usize,
    origin: Origin,
    columns: Vec<ColumnView>,
}

#[derive(Debug, Serialize)]
struct ColumnView {
    name: String,
    r#type: String,
    nullable: bool,
    group: Option<String>,
    definition: Option<String>,
    is_label: bool,
}

async fn lake_table(dashboard: &Dashboard, name: &str) -> Result<LakeTable, Problem> {
    let manifest = dashboard.context.lake()?.require_latest().await.map_err(PipelineError::from)?;
    let missing = || {
        let made = dashboard.context.pipeline.made().any(|made| made.name == name);
        let command = if made { "run" } else { "pull" };
        PipelineError::from(LakeError::NoTable { table: name.to_owned(), version: manifest.version, command })
    };
    Ok(manifest.tables.get(name).ok_or_else(missing)?.clone())
}

pub(super) async fn table(
    State(dashboard): State<Dashboard>,
    Path(name): Path<String>,
) -> Result<Json<TableView>, Problem> {
    let table = lake_table(&dashboard, &name).await?;
    let dataset = &dashboard.context.pipeline.dataset;
    let dictionary: BTreeMap<String, DictionaryColumn> = if name == dataset.name {
        let columns = dashboard.context.phases()?.dictionary;
        columns.into_iter().map(|column| (column.name.clone(), column)).collect()
    } else {
        BTreeMap::new()
    };
    let columns = table.schema.fields().iter().map(|field| {
        let known = dictionary.get(field.name());
        ColumnView {
            name: field.name().clone(),
            r#type: field.data_type().to_string(),
            nullable: field.is_nullable(),
            group: known.map(|column| column.group.clone()),
            definition: known.map(|column| column.description.clone()),
            is_label: name == dataset.name && dataset.labels.contains(field.name()),
        }
    });
    Ok(Json(TableView {
        version: table.version,
        created: table.created,
        rows: table.rows,
        bytes: table.bytes,
        files: table.files.len(),
        columns: columns.collect(),
        origin: table.origin,
        name,
    }))
}

/// How a column's values lie.
#[derive(Debug, Serialize)]
pub(super) struct ColumnLook {
    name: String,
    r#type: String,
    rows: u64,
    nulls: u64,
    /// About.
    distinct: u64,
    min: Option<String>,
    max: Option<String>,
    mean: Option<f64>,
    histogram: Vec<Bar>,
}

#[derive(Debug, Serialize)]
struct Bar {
    label: String,
    rows: u64,
}

pub(super) async fn column(
    State(dashboard): State<Dashboard>,
    Path((name, column)): Path<(String, String)>,
) -> Result<Json<ColumnLook>, Problem> {
    let table = lake_table(&dashboard, &name).await?;
    let field = table.schema.field_with_name(&column);
    let field = field.map_err(|_| Problem::not_found(format!("{name} has no column {column}")))?;
    let _place = dashboard.place_to_read()?;
    let data_type = field.data_type();
    let (from, value) = (quote_ident(&name), quote_ident(&column));
    // Where a value lies on a line of numbers; nothing for types that have no such line.
    let place = match data_type {
        _ if data_type.is_numeric() => Some(format!("CAST({value} AS DOUBLE)")),
        _ if data_type.is_temporal() && !data_type.is_nested() => Some(format!("epoch(CAST({value} AS TIMESTAMP))"))
            .filter(|_| !matches!(data_type, arrow::datatypes::DataType::Time64(_))),
        _ => None,
    };
    let mean = if data_type.is_numeric() { format!("avg(CAST({value} AS DOUBLE))") } else { "NULL".to_owned() };
    let facts = first(&dashboard, &format!(
        "SELECT count(*) AS \"rows\", count(*) - count({value}) AS nulls, approx_count_distinct({value}) AS \"distinct\", \
         left(CAST(min({value}) AS VARCHAR), {LABEL_CHARS}) AS min, left(CAST(max({value}) AS VARCHAR), {LABEL_CHARS}) AS max, \
         {mean} AS mean FROM {from}"
    ))
    .await?;
    let number = |name: &str| facts.get(name).and_then(Value::as_u64).unwrap_or(0);
    let text = |name: &str| facts.get(name).and_then(Value::as_str).map(str::to_owned);
    let bars = match place {
        Some(place) if number("distinct") > TOP_VALUES as u64 => format!(
            "WITH placed AS (SELECT {value} AS v, {place} AS place FROM {from}), \
             bounds AS (SELECT min(place) AS lo, max(place) AS hi FROM placed WHERE isfinite(place)), \
             barred AS (SELECT v, least({BARS} - 1, CAST(floor((place - lo) / (hi - lo) * {BARS}) AS INTEGER)) AS bar \
               FROM placed CROSS JOIN bounds WHERE isfinite(place) AND hi > lo) \
             SELECT CASE WHEN min(v) = max(v) THEN CAST(min(v) AS VARCHAR) \
               ELSE CAST(min(v) AS VARCHAR) || ' – ' || CAST(max(v) AS VARCHAR) END AS label, count(*) AS \"rows\" \
             FROM barred GROUP BY bar ORDER BY bar"
        ),
        _ => format!(
            "SELECT left(CAST({value} AS VARCHAR), {LABEL_CHARS}) AS label, count(*) AS \"rows\" FROM {from} \
             WHERE {value} IS NOT NULL GROUP BY {value} ORDER BY 2 DESC, 1 LIMIT {TOP_VALUES}"
        ),
    };
    let histogram = rows(&dashboard, &bars).await?.into_iter().map(|row| Bar {
        label: row.get("label").and_then(Value::as_str).unwrap_or_default().to_owned(),
        rows: row.get("rows").and_then(Value::as_u64).unwrap_or(0),
    });
    Ok(Json(ColumnLook {
        r#type: data_type.to_string(),
        rows: number("rows"),
        nulls: number("nulls"),
        distinct: number("distinct"),
        min: text("min"),
        max: text("max"),
        mean: facts.get("mean").and_then(Value::as_f64),
        histogram: histogram.collect(),
        name: column,
    }))
}

async fn rows(dashboard: &Dashboard, sql: &str) -> Result<Vec<Map<String, Value>>, Problem> {
    let limits = QueryLimits { memory: Some(MEMORY_MAX.to_owned()), time: Some(TIME_MAX) };
    let (_, batches, _) = pipeline::query(&dashboard.context, sql, &limits, BARS).await?;
    let rows: Result<Vec<_>, _> = batches.iter().map(|batch: &RecordBatch| rows_as_json(batch)).collect();
    Ok(rows.map_err(PipelineError::from)?.into_iter().flatten().collect())
}

async fn first(dashboard: &Dashboard, sql: &str) -> Result<Map<String, Value>, Problem> {
    Ok(rows(dashboard, sql).await?.into_iter().next().unwrap_or_default())
}
