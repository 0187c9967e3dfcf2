//! The events of the sources: when they were, which are over, where to cut, which are near others.

use serde_json::{Map, Value};

use super::picks::PICKS;
use super::{AUDIT_SOURCES, AuditPlan};
use crate::pg::quote_ident;
use crate::transform::{Engine, TransformError, rows_as_json};

/// `event`, `day`, `participants` (rows with an outcome) and `later_rows` (rows that exist only afterwards).
pub(super) const EVENTS: &str = "audit.events";
/// The distinct runners of each event: the event, and the other columns of the dataset's key.
pub(super) const ENTRIES: &str = "audit.entries";

/// The column of all tables of the audit that names the event.
pub(super) const EVENT: &str = "event";

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
         CAST(sum(later_rows) AS BIGINT) AS later_rows FROM ({}) WHERE {EVENT} IS NOT NULL \
         GROUP BY {EVENT} HAVING min(day) IS NOT NULL; \
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
/// The first half, because there most of the future vanishes; the last day, because there the least does. Where all
/// outcomes are of one day, that day: only events to come vanish.
pub(super) fn cuts(engine: &Engine, dates: usize) -> Result<Vec<String>, TransformError> {
    let quantiles: String = (1..dates)
        .map(|n| {
            format!(
                "SELECT quantile_disc(day, {n} / {}.0) AS day FROM days UNION ALL ",
                2 * dates.saturating_sub(1).max(1)
            )
        })
        .collect();
    let sql = format!(
        "WITH days AS (SELECT day FROM {EVENTS} WHERE participants > 0), \
         earlier AS (SELECT day FROM days WHERE day < (SELECT max(day) FROM days)) \
         SELECT DISTINCT CAST(day AS VARCHAR) AS day \
         FROM ({quantiles}SELECT coalesce((SELECT max(day) FROM earlier), max(day)) AS day FROM days) \
         WHERE day IN (SELECT day FROM earlier) OR (day IS NOT NULL AND NOT EXISTS (SELECT 1 FROM earlier)) ORDER BY 1"
    );
    Ok(rows(engine, &sql)?.iter().filter_map(|row| row["day"].as_str().map(str::to_owned)).collect())
}

/// The events of the small world: for each try all events of its day, then earlier events of its runners, then other
/// earlier ones, the newest first, up to `each`.
pub(super) fn window(each: usize) -> String {
    format!(
        "WITH known AS (SELECT DISTINCT pick, earlier.{EVENT} FROM {PICKS} JOIN {ENTRIES} mine USING ({EVENT}) \
           JOIN {ENTRIES} earlier ON earlier.runner = mine.runner), \
         tries AS (SELECT DISTINCT pick, day FROM {PICKS}) \
         SELECT DISTINCT {EVENT} FROM ( \
           SELECT {EVENTS}.{EVENT} FROM tries JOIN {EVENTS} ON {EVENTS}.day <= tries.day \
           LEFT JOIN known ON known.pick = tries.pick AND known.{EVENT} = {EVENTS}.{EVENT} \
           QUALIFY {EVENTS}.day = tries.day OR row_number() OVER (PARTITION BY tries.pick \
             ORDER BY {EVENTS}.day < tries.day, known.pick IS NULL, {EVENTS}.day DESC, {EVENTS}.{EVENT}) <= {each})"
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
