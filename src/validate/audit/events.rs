//! The events of the sources: when they were, which are over, where to cut, which to try.

use serde_json::{Map, Value};

use super::{AUDIT_SOURCES, AuditPlan};
use crate::pg::{quote_ident, quote_literal};
use crate::transform::{Engine, TransformError, rows_as_json};

/// `event`, `day`, `participants` (rows with an outcome) and `later_rows` (rows that exist only afterwards).
pub(super) const EVENTS: &str = "audit.events";
/// The distinct runners of each event: the event, and the other columns of the dataset's key.
pub(super) const ENTRIES: &str = "audit.entries";
/// The events to try, with their days.
pub(super) const PICKS: &str = "audit.picks";
/// The one of them whose outcomes are changed now.
pub(super) const PICKED: &str = "audit.picked";

/// The column of all these tables that names the event.
const EVENT: &str = "event";

/// Makes [`EVENTS`] and [`ENTRIES`].
pub(super) fn find(engine: &Engine, plan: &AuditPlan) -> Result<(), TransformError> {
    let event = quote_ident(&plan.event);
    let mut parts = vec![format!(
        "SELECT {event} AS {EVENT}, CAST({} AS DATE) AS day, 0 AS participants, 0 AS later_rows FROM {AUDIT_SOURCES}.{}",
        quote_ident(&plan.event_date),
        quote_ident(&plan.event_table)
    )];
    for table in plan.tables.iter().filter(|table| table.columns.contains(&plan.event)) {
        let rows = match table.took_part(plan) {
            Some(outcome) => format!("count({}), 0", quote_ident(outcome)),
            None if table.after_event => "0, count(*)".to_owned(),
            None => continue,
        };
        parts.push(format!(
            "SELECT {event}, NULL, {rows} FROM {AUDIT_SOURCES}.{} GROUP BY {event}",
            quote_ident(&table.name)
        ));
    }
    engine.execute(&format!(
        "CREATE SCHEMA audit; \
         CREATE TABLE {EVENTS} AS SELECT {EVENT}, min(day) AS day, CAST(sum(participants) AS BIGINT) AS participants, \
         CAST(sum(later_rows) AS BIGINT) AS later_rows FROM ({}) GROUP BY {EVENT} HAVING min(day) IS NOT NULL; \
         CREATE TABLE {ENTRIES} AS {}",
        parts.join(" UNION ALL "),
        entries(plan)
    ))
}

/// Rows of participants: which runner took part in which event, with the number of rows that say so.
fn entries(plan: &AuditPlan) -> String {
    let event = quote_ident(&plan.event);
    let runner = runner_columns(plan);
    let holds_all = |columns: &[String]| runner.iter().chain([&plan.event]).all(|column| columns.contains(column));
    let tables: Vec<String> = plan
        .tables
        .iter()
        .filter(|table| !runner.is_empty() && holds_all(&table.columns))
        .filter_map(|table| {
            let outcome = quote_ident(table.took_part(plan)?);
            let name = quote_ident(&table.name);
            let columns: String = runner.iter().map(|column| format!(", {}", quote_ident(column))).collect();
            Some(format!(
                "SELECT {event} AS {EVENT}, [{}] AS runner, count(*) AS rows \
                 FROM {AUDIT_SOURCES}.{name} WHERE {outcome} IS NOT NULL GROUP BY {event}{columns}",
                texts(&runner)
            ))
        })
        .collect();
    match tables.as_slice() {
        [] => format!("SELECT {EVENT}, CAST(NULL AS VARCHAR[]) AS runner, 0 AS rows FROM {EVENTS} LIMIT 0"),
        tables => tables.join(" UNION ALL "),
    }
}

/// The columns of the dataset's key that name a runner within its event.
fn runner_columns(plan: &AuditPlan) -> Vec<String> {
    plan.key.iter().filter(|column| **column != plan.event).cloned().collect()
}

fn texts(columns: &[String]) -> String {
    columns.iter().map(|column| format!("CAST({} AS VARCHAR)", quote_ident(column))).collect::<Vec<_>>().join(", ")
}

/// Dates to cut at, the latest last: the day before the last with an outcome, and quantiles of the first half.
///
/// The first half, because there most of the future vanishes; the last day, because there the least does.
pub(super) fn cuts(engine: &Engine, dates: usize) -> Result<Vec<String>, TransformError> {
    let over = format!("SELECT day FROM {EVENTS} WHERE participants > 0");
    let quantiles: String = (1..dates)
        .map(|n| {
            format!(
                "SELECT quantile_disc(day, {n} / {}.0) AS day FROM ({over}) UNION ALL ",
                2 * dates.saturating_sub(1).max(1)
            )
        })
        .collect();
    let sql = format!(
        "SELECT DISTINCT CAST(day AS VARCHAR) AS day FROM ({quantiles}\
         SELECT max(day) AS day FROM ({over}) WHERE day < (SELECT max(day) FROM ({over}))) \
         WHERE day < (SELECT max(day) FROM ({over})) ORDER BY 1"
    );
    Ok(rows(engine, &sql)?.iter().filter_map(|row| row["day"].as_str().map(str::to_owned)).collect())
}

/// Makes [`PICKS`], and gives their names: events to try, spread over time. In each stretch of time the one that tests most: rows that exist only afterwards,
/// runners with another event that day, other events that day, a large field. The hash decides the rest.
///
/// An event with two rows of one runner is left out: which of them counts may depend on the outcome.
pub(super) fn pick(engine: &Engine, plan: &AuditPlan) -> Result<Vec<String>, TransformError> {
    engine.execute(&format!(
        "CREATE TABLE {PICKS} AS WITH doubled AS (SELECT {EVENT} FROM {ENTRIES} WHERE rows > 1), \
         twice AS (SELECT DISTINCT one.{EVENT} FROM {ENTRIES} one JOIN {EVENTS} a USING ({EVENT}) \
           JOIN {ENTRIES} other ON other.runner = one.runner AND other.{EVENT} <> one.{EVENT} \
           JOIN {EVENTS} b ON b.{EVENT} = other.{EVENT} AND b.day = a.day), \
         over AS (SELECT {EVENT}, day, \
           4 * CAST(later_rows > 0 AS INTEGER) + 2 * CAST({EVENT} IN (SELECT {EVENT} FROM twice) AS INTEGER) \
           + CAST(count(*) OVER (PARTITION BY day) > 1 AS INTEGER) \
           + CAST(participants >= avg(participants) OVER () AS INTEGER) AS score \
           FROM {EVENTS} WHERE participants > 1 AND {EVENT} NOT IN (SELECT {EVENT} FROM doubled WHERE {EVENT} IS NOT NULL)), \
         spread AS (SELECT *, ntile({}) OVER (ORDER BY day, {EVENT}) AS stretch FROM over) \
         SELECT {EVENT}, day FROM spread \
         QUALIFY row_number() OVER (PARTITION BY stretch ORDER BY score DESC, hash(CAST({EVENT} AS VARCHAR)), {EVENT}) = 1",
        plan.events
    ))?;
    let sql = format!("SELECT CAST({EVENT} AS VARCHAR) AS {EVENT} FROM {PICKS} ORDER BY day, {PICKS}.{EVENT}");
    Ok(rows(engine, &sql)?.iter().filter_map(|row| row[EVENT].as_str().map(str::to_owned)).collect())
}

/// Makes [`PICKED`].
pub(super) fn set_picked(engine: &Engine, event: &str) -> Result<(), TransformError> {
    engine.execute(&format!(
        "CREATE OR REPLACE TABLE {PICKED} AS SELECT {EVENT} FROM {PICKS} WHERE CAST({EVENT} AS VARCHAR) = {}",
        quote_literal(event)
    ))
}

/// The events of the small world: for each picked event its day, then earlier events of its runners, then other
/// earlier ones, the newest first, up to `each`.
pub(super) fn window(each: usize) -> String {
    format!(
        "WITH known AS (SELECT DISTINCT mine.{EVENT} AS pick, earlier.{EVENT} FROM {PICKS} JOIN {ENTRIES} mine USING ({EVENT}) \
           JOIN {ENTRIES} earlier ON earlier.runner = mine.runner) \
         SELECT DISTINCT {EVENT} FROM ( \
           SELECT {EVENTS}.{EVENT} FROM {PICKS} JOIN {EVENTS} ON {EVENTS}.day <= {PICKS}.day \
           LEFT JOIN known ON known.pick = {PICKS}.{EVENT} AND known.{EVENT} = {EVENTS}.{EVENT} \
           QUALIFY row_number() OVER (PARTITION BY {PICKS}.{EVENT} \
             ORDER BY {EVENTS}.day < {PICKS}.day, known.pick IS NULL, {EVENTS}.day DESC, {EVENTS}.{EVENT}) <= {each})"
    )
}

/// The rows of a small result as JSON.
pub(super) fn rows(engine: &Engine, sql: &str) -> Result<Vec<Map<String, Value>>, TransformError> {
    let mut rows = Vec::new();
    for batch in engine.query(sql)?.1 {
        rows.extend(rows_as_json(&batch)?);
    }
    Ok(rows)
}
