//! Which events are tried.

use super::events::{self, ENTRIES, EVENT, EVENTS};
use super::order::{TURNS, may_know};
use super::{AUDIT_SOURCES, AuditPlan};
use crate::pg::quote_ident;
use crate::transform::{Engine, TransformError};

/// What is tried: `pick`, the number of the try, `event` and `day`. The last try has all events of the last day.
pub(super) const PICKS: &str = "audit.picks";
/// The events of one try, whose outcomes are changed now: `event` and `day`.
pub(super) const PICKED: &str = "audit.picked";
/// How many values the first of an event shares with others of it: `event` and `shared`, values that the first usually
/// shares counting little.
const SHARES: &str = "audit.shares";

/// One try.
#[derive(Debug)]
pub(super) struct Pick {
    number: i64,
    /// The event, or what is said of the last day.
    pub(super) name: String,
    /// Whether it is the last day.
    pub(super) is_last_day: bool,
}

/// Makes [`PICKS`] by [`TURNS`]: events spread over time, and the last day.
///
/// In each stretch of time the event that tests most: rows that exist only afterwards, runners with another event that
/// day, an event before it that must not know it, events elsewhere that seem later by their turn alone, a large field,
/// and a first who shares its trainer or the like with others. The hash decides the rest.
///
/// An event with two rows of one runner is left out: which of them counts may depend on the outcome.
pub(super) fn pick(engine: &Engine, plan: &AuditPlan) -> Result<Vec<Pick>, TransformError> {
    engine.execute(&format!("CREATE TABLE {SHARES} AS {}", shares(plan)))?;
    engine.execute(&format!(
        "CREATE TABLE {PICKS} AS WITH doubled AS (SELECT {EVENT} FROM {ENTRIES} WHERE rows > 1 AND {EVENT} IS NOT NULL), \
         twice AS (SELECT DISTINCT one.{EVENT} FROM {ENTRIES} one JOIN {EVENTS} a USING ({EVENT}) \
           JOIN {ENTRIES} other ON other.runner = one.runner AND other.{EVENT} <> one.{EVENT} \
           JOIN {EVENTS} b ON b.{EVENT} = other.{EVENT} AND b.day = a.day), \
         near AS (SELECT mine.{EVENT}, bool_or({knows}) AS has_earlier, \
           bool_or(NOT {knows} AND NOT {known} AND coalesce(other.turn > mine.turn, true)) AS has_elsewhere \
           FROM {TURNS} AS mine JOIN {TURNS} AS other ON other.day = mine.day AND other.{EVENT} <> mine.{EVENT} \
           GROUP BY mine.{EVENT}), \
         over AS (SELECT {EVENT}, day, participants, \
           4 * CAST(later_rows > 0 AS INTEGER) + 2 * CAST({EVENT} IN (SELECT {EVENT} FROM twice) AS INTEGER) \
           + CAST(coalesce(has_earlier, false) AS INTEGER) + CAST(coalesce(has_elsewhere, false) AS INTEGER) \
           + CAST(participants >= avg(participants) OVER () AS INTEGER) + coalesce(shared, 0) AS score \
           FROM {EVENTS} LEFT JOIN near USING ({EVENT}) LEFT JOIN {SHARES} USING ({EVENT}) \
           WHERE participants > 0 AND {EVENT} NOT IN (SELECT {EVENT} FROM doubled)), \
         spread AS (SELECT *, ntile({events}) OVER (ORDER BY day, {EVENT}) AS stretch FROM over WHERE participants > 1), \
         best AS (SELECT {EVENT}, day FROM spread QUALIFY \
           row_number() OVER (PARTITION BY stretch ORDER BY score DESC, hash(CAST({EVENT} AS VARCHAR)), {EVENT}) = 1), \
         numbered AS (SELECT row_number() OVER (ORDER BY day, {EVENT}) AS pick, {EVENT}, day FROM best) \
         FROM numbered UNION ALL BY NAME SELECT (SELECT count(*) FROM best) + 1 AS pick, {EVENT}, day \
         FROM over WHERE day = (SELECT max(day) FROM over)",
        knows = may_know(plan, "mine", "other"),
        known = may_know(plan, "other", "mine"),
        events = plan.events
    ))?;
    let sql = format!(
        "SELECT pick, pick = max(pick) OVER () AS is_last_day, CASE WHEN pick = max(pick) OVER () \
           THEN 'the last day, ' || CAST(max(day) AS VARCHAR) ELSE CAST(min({EVENT}) AS VARCHAR) END AS name \
         FROM {PICKS} GROUP BY pick ORDER BY pick"
    );
    let picks = events::rows(engine, &sql)?.into_iter().filter_map(|row| {
        Some(Pick {
            number: row["pick"].as_i64()?,
            name: row["name"].as_str()?.to_owned(),
            is_last_day: row["is_last_day"].as_bool()?,
        })
    });
    Ok(picks.collect())
}

/// Makes [`PICKED`].
pub(super) fn set_picked(engine: &Engine, pick: &Pick) -> Result<(), TransformError> {
    engine.execute(&format!(
        "CREATE OR REPLACE TABLE {PICKED} AS SELECT {EVENT}, day FROM {PICKS} WHERE pick = {}",
        pick.number
    ))
}

/// The rows of [`SHARES`].
///
/// Nothing says which columns name a trainer or the like. Those are the ones in which the first of an event sometimes
/// equals another participant: what all have in common tells nothing, so each counts by how rarely it is so.
fn shares(plan: &AuditPlan) -> String {
    let event = quote_ident(&plan.event);
    let mut tables = Vec::new();
    for table in plan.tables.iter().filter(|table| table.columns.contains(&plan.event)) {
        let Some(outcome) = table.took_part(plan).map(|column| quote_ident(column)) else { continue };
        let name = quote_ident(&table.name);
        let is_plain = |column: &&String| {
            [&table.key, &table.outcomes, &plan.key].iter().all(|columns| !columns.contains(column))
                && **column != plan.event
        };
        let columns: Vec<String> = table.columns.iter().filter(is_plain).map(|column| quote_ident(column)).collect();
        if columns.is_empty() {
            continue;
        }
        let equal: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(n, column)| {
                format!("CAST(coalesce(bool_or(leader.{column} = other.{column}), false) AS INTEGER) AS s{n}")
            })
            .collect();
        let weighed: Vec<String> = (0..columns.len()).map(|n| format!("s{n} * (1 - avg(s{n}) OVER ())")).collect();
        tables.push(format!(
            "SELECT {EVENT}, {} AS shared FROM (SELECT leader.{event} AS {EVENT}, {} \
               FROM (SELECT {event}, min({outcome}) AS lowest FROM {AUDIT_SOURCES}.{name} GROUP BY {event}) AS best \
               JOIN {AUDIT_SOURCES}.{name} AS leader ON leader.{event} = best.{event} AND leader.{outcome} = best.lowest \
               JOIN {AUDIT_SOURCES}.{name} AS other ON other.{event} = best.{event} AND other.{outcome} > best.lowest \
               GROUP BY leader.{event})",
            weighed.join(" + "),
            equal.join(", ")
        ));
    }
    match tables.as_slice() {
        [] => format!("SELECT {EVENT}, CAST(0 AS DOUBLE) AS shared FROM {EVENTS} LIMIT 0"),
        tables => {
            format!("SELECT {EVENT}, sum(shared) AS shared FROM ({}) GROUP BY {EVENT}", tables.join(" UNION ALL "))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::transform::EngineLimits;
    use crate::validate::audit::order;

    /// Picks among races of four runners each; the rows are race, day, and the trainers in the order of the places.
    fn picked(races: &str, events: usize) -> String {
        let engine = Engine::open(None, &EngineLimits::default(), CancellationToken::new()).unwrap();
        engine
            .execute(&format!(
                "CREATE SCHEMA {AUDIT_SOURCES}; SET schema = '{AUDIT_SOURCES}'; \
                 CREATE TABLE fields AS SELECT * FROM (VALUES {races}) AS fields (race, day, trainers); \
                 CREATE TABLE races AS SELECT race, CAST(day AS DATE) AS day FROM fields; \
                 CREATE TABLE results AS SELECT race, race || place AS horse, 'turf' AS surface, trainers[place] AS trainer, place \
                   FROM fields, range(1, 5) AS places (place); \
                 CREATE TABLE d AS FROM results; SET schema = 'main'"
            ))
            .unwrap();
        let mut plan = AuditPlan { events, ..AuditPlan::of_races() };
        plan.tables[1].columns = ["race", "horse", "surface", "trainer", "place"].map(str::to_owned).to_vec();
        plan.tables.truncate(2);
        events::find(&engine, &plan).unwrap();
        order::find(&engine, &plan, AUDIT_SOURCES).unwrap();
        let picks = pick(&engine, &plan).unwrap();
        picks
            .iter()
            .map(|pick| format!("{}{}", pick.name, if pick.is_last_day { "!" } else { "" }))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn a_race_whose_winner_has_a_stablemate_is_tried_and_so_is_the_last_day() {
        let races = |shared: &str| {
            let race = |name: &str| {
                let trainers = if name == shared { "['x', 'y', 'z', 'x']" } else { "['x', 'y', 'y', 'z']" };
                format!("('{name}', '2024-01-0{}', {trainers})", &name[1..])
            };
            ["r1", "r2", "r3", "r4"].map(race).join(", ")
        };
        for name in ["r1", "r2", "r3", "r4"] {
            assert_eq!(picked(&races(name), 1), format!("{name} the last day, 2024-01-04!"));
        }
        assert!(picked(&races("r2"), 2).starts_with("r2 "), "one of each stretch of time");
        assert_eq!(picked("('r1', '2024-01-01', ['x', 'y', 'z', 'x'])", 8), "r1 the last day, 2024-01-01!");
    }
}
