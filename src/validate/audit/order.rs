//! Which events of one day may know which, and so which events a change must leave as they are.

use super::AuditPlan;
use super::events::{EVENT, EVENTS};
use super::picks::PICKED;
use crate::pg::quote_ident;
use crate::transform::{Engine, TransformError};

/// Where each event stands in its day: `event`, `day`, `turn`, and the columns within which turns are compared. An event
/// whose rows do not agree on it is not there, so it may know no other of its day, and no other may know it.
pub(super) const TURNS: &str = "audit.turns";
/// The events that the outcomes of [`PICKED`] must not reach.
pub(super) const UNREACHED: &str = "audit.unreached";

/// Makes [`TURNS`] by the dataset of a schema.
pub(super) fn find(engine: &Engine, plan: &AuditPlan, schema: &str) -> Result<(), TransformError> {
    let mut places: Vec<String> = plan
        .event_within
        .iter()
        .enumerate()
        .map(|(n, column)| format!("{} AS {}", quote_ident(column), within(n)))
        .collect();
    places.push(
        plan.event_order.as_ref().map_or_else(|| "CAST(NULL AS INTEGER)".to_owned(), |c| quote_ident(c)) + " AS turn",
    );
    let kept: String = (0..plan.event_within.len()).map(|n| format!(", any_value({0}) AS {0}", within(n))).collect();
    engine.execute(&format!(
        "CREATE OR REPLACE TABLE {TURNS} AS \
         SELECT {EVENT}, any_value(day) AS day, any_value(turn) AS turn{kept} \
         FROM (SELECT DISTINCT {} AS {EVENT}, {} FROM {schema}.{}) JOIN {EVENTS} USING ({EVENT}) \
         GROUP BY {EVENT} HAVING count(*) = 1",
        quote_ident(&plan.event),
        places.join(", "),
        quote_ident(&plan.dataset),
    ))
}

/// Makes [`UNREACHED`]: the events up to the day of the picked ones, these included, without those that may know a
/// picked one.
pub(super) fn find_unreached(engine: &Engine, plan: &AuditPlan) -> Result<(), TransformError> {
    engine.execute(&format!(
        "CREATE OR REPLACE TABLE {UNREACHED} AS \
         SELECT {EVENT} FROM {EVENTS} WHERE day <= (SELECT max(day) FROM {PICKED}) \
         EXCEPT SELECT later.{EVENT} FROM {TURNS} AS later JOIN {TURNS} AS earlier ON {} \
         WHERE earlier.{EVENT} IN (SELECT {EVENT} FROM {PICKED})",
        may_know(plan, "later", "earlier")
    ))
}

/// Whether an event may know one of its day, as a condition over two rows of [`TURNS`]. Without an order, or where a
/// value is missing, it may not.
pub(super) fn may_know(plan: &AuditPlan, later: &str, earlier: &str) -> String {
    let same: String =
        (0..plan.event_within.len()).map(|n| format!(" AND {later}.{0} = {earlier}.{0}", within(n))).collect();
    format!("coalesce({later}.day = {earlier}.day AND {later}.turn > {earlier}.turn{same}, false)")
}

fn within(n: usize) -> String {
    format!("within_{n}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::transform::EngineLimits;
    use crate::validate::audit::events;

    /// The events that a change of `picked` must not reach, in a world of two halls and days.
    fn unreached(picked: &str, order: Option<&str>, within: &[&str]) -> String {
        let engine = Engine::open(None, &EngineLimits::default(), CancellationToken::new()).unwrap();
        engine
            .execute(&format!(
                "CREATE SCHEMA audit; CREATE TABLE audit.events AS SELECT * FROM (VALUES ('d1', DATE '2024-01-01'), \
                   ('a1', DATE '2024-01-02'), ('a2', DATE '2024-01-02'), ('a3', DATE '2024-01-02'), ('a', DATE '2024-01-02'), \
                   ('b2', DATE '2024-01-02'), ('odd', DATE '2024-01-02'), ('d3', DATE '2024-01-03')) AS events (event, day); \
                 CREATE TABLE audit.picked AS SELECT event, day FROM audit.events WHERE event IN ({picked}); \
                 CREATE TABLE d AS SELECT * FROM (VALUES ('d1', 'a', 9), ('a1', 'a', 1), ('a2', 'a', 2), ('a2', 'a', 2), \
                   ('a3', 'a', 3), ('a', 'a', NULL), ('b2', 'b', 2), ('odd', 'a', 4), ('odd', 'b', 4), ('d3', 'a', 3)) \
                   AS d (race, hall, number)"
            ))
            .unwrap();
        let plan = AuditPlan {
            event_order: order.map(str::to_owned),
            event_within: within.iter().map(|column| (*column).to_owned()).collect(),
            ..AuditPlan::of_races()
        };
        find(&engine, &plan, "main").unwrap();
        find_unreached(&engine, &plan).unwrap();
        let rows = events::rows(&engine, &format!("SELECT event FROM {UNREACHED} ORDER BY event")).unwrap();
        rows.iter().map(|row| row["event"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_later_turns_of_the_day_in_the_same_place_may_know_an_event() {
        let all = "a a1 a2 a3 b2 d1 odd";
        assert_eq!(unreached("'a2'", Some("number"), &["hall"]), "a a1 a2 b2 d1 odd");
        assert_eq!(unreached("'a1'", Some("number"), &["hall"]), "a a1 b2 d1 odd");
        assert_eq!(unreached("'a1'", Some("number"), &[]), "a a1 d1", "one order for the whole day");
        assert_eq!(unreached("'a1'", None, &[]), all, "no order");
        assert_eq!(unreached("'a'", Some("number"), &["hall"]), all, "an event without a number");
        assert_eq!(unreached("'odd'", Some("number"), &["hall"]), all, "one in two places");
        assert_eq!(unreached("'a1', 'a2', 'a3', 'b2'", Some("number"), &["hall"]), "a a1 b2 d1 odd", "several at once");
        assert_eq!(unreached("'d1'", Some("number"), &["hall"]), "d1", "later days may know it");
    }
}
