//! Worlds: a schema each, with source tables changed in one way, and the dataset that the phases make of them.

use super::events::{self, EVENT, EVENTS};
use super::picks::{PICKED, PICKS};
use super::{AUDIT_SOURCES, AuditPlan, AuditTable, MakeDataset};
use crate::pg::{quote_ident, quote_literal};
use crate::transform::{Engine, TransformError};

/// The sources of the small world around the events to try.
const SLICE: &str = "audit_slice";
/// Its events.
const WINDOW: &str = "audit.event_window";
/// The world of the slice as it is.
pub(super) const BASE: &str = "audit_base";
/// The world with a change.
pub(super) const VARIANT: &str = "audit_variant";

/// Events of the small world for each try, unless its day alone has more: some eight earlier runs of each runner of a large
/// field. Few enough that the phases take not much longer than for none.
const SLICE_EVENTS_EACH: usize = 100;

/// How the sources are changed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change<'a> {
    /// Events after this date vanish with all their rows.
    After(&'a str),
    /// In the slice, the outcomes of the picked event are dealt out anew.
    Permuted,
    /// In the slice, the picked events have no outcome yet.
    Blanked,
    /// All rows in another order.
    Shuffled,
}

/// Makes worlds.
pub(super) struct Worlds<'a> {
    pub(super) engine: &'a Engine,
    pub(super) plan: &'a AuditPlan,
    pub(super) make_dataset: &'a MakeDataset<'a>,
}

impl Worlds<'_> {
    /// Makes [`VARIANT`] with a change.
    pub(super) fn make(&self, change: &Change<'_>) -> Result<(), TransformError> {
        match change {
            Change::After(date) => self.world(VARIANT, "VIEW", |table| self.up_to(table, date)),
            Change::Permuted => self.world(VARIANT, "TABLE", |table| self.permuted(table)),
            Change::Blanked => self.world(VARIANT, "TABLE", |table| self.blanked(table)),
            Change::Shuffled => self.world(VARIANT, "TABLE", |table| {
                let name = quote_ident(&table.name);
                format!("SELECT source.* FROM {AUDIT_SOURCES}.{name} AS source ORDER BY hash(source)")
            }),
        }
    }

    /// Makes the slice around the events to try, and [`BASE`].
    pub(super) fn slice(&self) -> Result<(), TransformError> {
        self.engine.execute(&format!(
            "CREATE SCHEMA {SLICE}; \
             CREATE TABLE {WINDOW} AS {}",
            events::window(SLICE_EVENTS_EACH)
        ))?;
        for table in &self.plan.tables {
            let name = quote_ident(&table.name);
            let (kind, rows) = match self.event_of(table) {
                None => ("VIEW", String::new()),
                Some(event) => {
                    // A runner that took no part is as good as never declared, before the event and after it.
                    let took_part = table.took_part(self.plan).map_or_else(String::new, |outcome| {
                        format!(
                            " AND ({} IS NOT NULL OR {event} NOT IN (SELECT event FROM {PICKS}))",
                            quote_ident(outcome)
                        )
                    });
                    ("TABLE", format!(" WHERE {event} IN (SELECT event FROM {WINDOW}){took_part}"))
                }
            };
            self.engine
                .execute(&format!("CREATE {kind} {SLICE}.{name} AS SELECT * FROM {AUDIT_SOURCES}.{name}{rows}"))?;
        }
        self.world(BASE, "VIEW", |table| format!("SELECT * FROM {SLICE}.{}", quote_ident(&table.name)))
    }

    /// Runs `work` while the engine has one thread more than now.
    pub(super) fn with_another_thread(
        &self,
        work: impl FnOnce() -> Result<(), TransformError>,
    ) -> Result<(), TransformError> {
        let threads = self.engine.count("SELECT CAST(current_setting('threads') AS BIGINT)")?;
        self.engine.execute(&format!("SET threads = {}", threads + 1))?;
        work()?;
        self.engine.execute(&format!("SET threads = {threads}"))
    }

    /// A schema with each source table as `select` says, and the dataset made of them.
    fn world(&self, schema: &str, kind: &str, select: impl Fn(&AuditTable) -> String) -> Result<(), TransformError> {
        self.engine.execute(&format!(
            "DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; SET schema = '{schema}'"
        ))?;
        for table in &self.plan.tables {
            self.engine.execute(&format!("CREATE {kind} {} AS {}", quote_ident(&table.name), select(table)))?;
        }
        (self.make_dataset)(self.engine)?;
        self.engine.execute("SET schema = 'main'")
    }

    /// The quoted event column of a table that has it.
    fn event_of(&self, table: &AuditTable) -> Option<String> {
        table.columns.contains(&self.plan.event).then(|| quote_ident(&self.plan.event))
    }

    fn up_to(&self, table: &AuditTable, date: &str) -> String {
        let all = format!("SELECT * FROM {AUDIT_SOURCES}.{}", quote_ident(&table.name));
        match self.event_of(table) {
            None => all,
            // Rows of an event without a date stay: nobody can say that they are later.
            Some(event) => format!(
                "{all} AS source WHERE NOT EXISTS (SELECT 1 FROM {EVENTS} AS later \
                 WHERE later.event = source.{event} AND later.day > CAST({} AS DATE))",
                quote_literal(date)
            ),
        }
    }

    /// The rows of the picked event get the outcomes of the row half a field away: the winner's go to the middle, and
    /// whoever was placed is not any more.
    fn permuted(&self, table: &AuditTable) -> String {
        let name = format!("{SLICE}.{}", quote_ident(&table.name));
        let moved: Vec<&String> = match table.outcomes.as_slice() {
            [] if table.after_event => {
                table.columns.iter().filter(|c| **c != self.plan.event && !table.key.contains(c)).collect()
            }
            outcomes => outcomes.iter().collect(),
        };
        let Some(event) = self.event_of(table).filter(|_| !moved.is_empty()) else {
            return format!("SELECT * FROM {name}");
        };
        let of_event = format!("{event} = (SELECT {EVENT} FROM {PICKED})");
        let order: Vec<String> = table.outcomes.iter().chain(&table.key).map(|column| quote_ident(column)).collect();
        let order = if order.is_empty() { "rowid".to_owned() } else { order.join(", ") };
        let replaced: Vec<String> = moved.iter().map(|c| format!("giver.{0} AS {0}", quote_ident(c))).collect();
        format!(
            "WITH field AS (SELECT *, row_number() OVER (ORDER BY {order}, rowid) AS audit_place, \
               count(*) OVER () AS audit_size FROM {name} WHERE {of_event}) \
             SELECT * FROM {name} WHERE ({of_event}) IS NOT TRUE \
             UNION ALL BY NAME \
             SELECT taker.* EXCLUDE (audit_place, audit_size) REPLACE ({}) FROM field AS taker JOIN field AS giver \
               ON giver.audit_place = (taker.audit_place - 1 + taker.audit_size // 2) % taker.audit_size + 1",
            replaced.join(", ")
        )
    }

    fn blanked(&self, table: &AuditTable) -> String {
        let name = format!("{SLICE}.{}", quote_ident(&table.name));
        let Some(event) = self.event_of(table) else { return format!("SELECT * FROM {name}") };
        let of_event = format!("({event} IN (SELECT {EVENT} FROM {PICKED})) IS TRUE");
        if table.after_event {
            return format!("SELECT * FROM {name} WHERE NOT {of_event}");
        }
        let blanks: Vec<String> = table
            .outcomes
            .iter()
            .map(|column| format!("CASE WHEN NOT {of_event} THEN {0} END AS {0}", quote_ident(column)))
            .collect();
        match blanks.as_slice() {
            [] => format!("SELECT * FROM {name}"),
            blanks => format!("SELECT * REPLACE ({}) FROM {name}", blanks.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::transform::EngineLimits;

    /// The rows of a changed table, as text.
    fn changed(table: usize, change: Change<'_>) -> String {
        let engine = Engine::open(None, &EngineLimits::default(), CancellationToken::new()).unwrap();
        engine
            .execute(
                "CREATE SCHEMA audit; CREATE TABLE audit.picked AS SELECT 'r2' AS event; \
                 CREATE SCHEMA audit_slice; \
                 CREATE TABLE audit_slice.results (race TEXT, horse TEXT, weight INT, place INT, margin INT); \
                 INSERT INTO audit_slice.results VALUES ('r1', 'a', 50, 1, 0), (NULL, 'z', 9, 9, 9), ('r2', 'a', 51, 2, 7), \
                   ('r2', 'b', 52, 1, 0), ('r2', 'c', 53, 99, NULL), ('r2', 'd', 54, 3, 8); \
                 CREATE TABLE audit_slice.times (race TEXT, horse TEXT, seconds INT); \
                 INSERT INTO audit_slice.times VALUES ('r1', 'a', 60), ('r2', 'a', 61), ('r2', 'b', 62)",
            )
            .unwrap();
        let plan = AuditPlan::of_races();
        let worlds = Worlds { engine: &engine, plan: &plan, make_dataset: &|_| Ok(()) };
        let select = match change {
            Change::Permuted => worlds.permuted(&plan.tables[table]),
            _ => worlds.blanked(&plan.tables[table]),
        };
        let rows = events::rows(&engine, &format!("SELECT CAST(t AS VARCHAR) AS t FROM ({select}) AS t ORDER BY ALL"));
        rows.unwrap().iter().map(|row| row["t"].as_str().unwrap().replace('\'', "")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn outcomes_move_together_by_half_a_field_and_only_in_the_picked_event() {
        let rows = changed(1, Change::Permuted);
        let expected = [
            "{race: NULL, horse: z, weight: 9, place: 9, margin: 9}",
            "{race: r1, horse: a, weight: 50, place: 1, margin: 0}",
            "{race: r2, horse: a, weight: 51, place: 99, margin: NULL}",
            "{race: r2, horse: b, weight: 52, place: 3, margin: 8}",
            "{race: r2, horse: c, weight: 53, place: 2, margin: 7}",
            "{race: r2, horse: d, weight: 54, place: 1, margin: 0}",
        ];
        assert_eq!(rows.lines().collect::<Vec<_>>(), expected);
        let times = changed(2, Change::Permuted);
        let expected =
            "{race: r1, horse: a, seconds: 60}\n{race: r2, horse: a, seconds: 62}\n{race: r2, horse: b, seconds: 61}";
        assert_eq!(times, expected);
    }

    #[test]
    fn before_the_event_there_are_no_outcomes_and_no_later_rows() {
        let rows = changed(1, Change::Blanked);
        assert_eq!(rows.matches("race: r2").count(), 4);
        assert_eq!(rows.matches("place: NULL, margin: NULL").count(), 4, "{rows}");
        assert!(rows.contains("{race: r1, horse: a, weight: 50, place: 1, margin: 0}"), "{rows}");
        assert_eq!(changed(2, Change::Blanked), "{race: r1, horse: a, seconds: 60}");
    }
}
