//! The point-in-time audit: proves on the data at hand that no feature knows its own event's outcome or a later one's.
//!
//! It changes the source tables in ways that no feature may notice, makes the dataset anew from them with the same
//! phases, and compares every feature of every row that must not have changed:
//!
//! | id | change | rows compared |
//! | --- | --- | --- |
//! | V08 | all events after a date vanish | those of the events up to it |
//! | V09 | the outcomes of one event are dealt out anew among its rows | those of the event, and of all that must not know it |
//! | V10 | the outcomes of one event are blanked, the rows that exist only after it removed; and so for the whole last day | the same |
//! | V11 | the rows of all tables are shuffled, the engine has another number of threads | all, labels too |
//!
//! Events up to the day of an event must not know it, except those that follow it in the declared order of that day. So
//! V09 and V10 also see what V08 cannot: leaks from later events of the same day.
//!
//! V08 and V11 compare with the dataset in the lake. V09 and V10 compare within a small world: some
//! events spread over time, the other events of their days, and earlier ones that their runners took part in.

mod compare;
mod events;
mod order;
mod picks;
mod tally;
mod worlds;

use compare::{Comparison, Rule};
use tally::Tally;
use worlds::{BASE, Change, Worlds};

use super::{Finding, Report};
use crate::progress::{Progress, Step};
use crate::transform::{Engine, Severity, TransformError};

/// The schema in which the engine sees the source tables and the dataset of the lake.
pub const AUDIT_SOURCES: &str = "audit_sources";

/// What V08 checks.
const TRUNCATION: &str = "no feature changes when all later events vanish";

/// What V09 and V10 allow where nothing says which events of a day come first.
const UNORDERED: &str = "no difference, in other events of the day neither: dataset.event has no order";

/// What the audit has to know about a pipeline.
#[derive(Debug, Clone)]
pub struct AuditPlan {
    /// The dataset.
    pub dataset: String,
    /// Columns that tell its rows apart.
    pub key: Vec<String>,
    /// Its columns that are outcomes.
    pub labels: Vec<String>,
    /// The column of dataset and sources that names the event of a row.
    pub event: String,
    /// The source table with one row per event.
    pub event_table: String,
    /// Its column with the date of the event.
    pub event_date: String,
    /// The column of the dataset that orders the events of a day; without it none may know another.
    pub event_order: Option<String>,
    /// Columns of the dataset in which events must agree to be ordered.
    pub event_within: Vec<String>,
    /// The source tables that the phases read, and the table of events.
    pub tables: Vec<AuditTable>,
    /// Dates at which the sources are cut.
    pub dates: usize,
    /// Events whose outcomes are changed.
    pub events: usize,
}

/// A source table.
#[derive(Debug, Clone)]
pub struct AuditTable {
    /// Its name.
    pub name: String,
    /// Columns that tell its rows apart.
    pub key: Vec<String>,
    /// Its columns.
    pub columns: Vec<String>,
    /// Columns that are known only when the event is over; the first is null for rows that took no part.
    pub outcomes: Vec<String>,
    /// Whether its rows exist only after the event.
    pub after_event: bool,
}

impl AuditTable {
    /// The outcome that is null for rows that took no part, in a table of runners.
    fn took_part(&self, plan: &AuditPlan) -> Option<&String> {
        self.outcomes.first().filter(|_| !self.after_event && self.name != plan.event_table)
    }
}

/// Makes the dataset, with rows for declared runners of events to come, from the source tables of the current schema.
pub type MakeDataset<'a> = dyn Fn(&Engine) -> Result<(), TransformError> + 'a;

/// V08 to V11, over the lake tables and the dataset that the engine sees in [`AUDIT_SOURCES`].
///
/// # Errors
/// [`TransformError`] when a phase or a comparison fails, [`TransformError::Cancelled`].
pub fn audit(
    engine: &Engine,
    plan: &AuditPlan,
    make_dataset: &MakeDataset<'_>,
    progress: &Progress,
) -> Result<Report, TransformError> {
    let worlds = Worlds { engine, plan, make_dataset };
    let comparison = Comparison::new(engine, plan)?;
    let doubled = comparison.doubled_rows()?;
    if doubled > 0 {
        let observed = format!("{doubled} rows share their key with another, so none can be compared (see V04)");
        let finding = Finding::new("V08", TRUNCATION, Severity::Error, false, observed, "0");
        return Ok(Report { findings: vec![finding] });
    }
    events::find(engine, plan)?;
    let audit = Audit { worlds, comparison, plan, progress };
    let mut findings = vec![audit.truncation()?];
    findings.extend(audit.permutation_and_presence()?);
    findings.push(audit.row_order()?);
    Ok(Report { findings: findings.into_iter().map(Tally::into_finding).collect() })
}

struct Audit<'a> {
    worlds: Worlds<'a>,
    comparison: Comparison<'a>,
    plan: &'a AuditPlan,
    progress: &'a Progress,
}

impl Audit<'_> {
    /// V08.
    fn truncation(&self) -> Result<Tally, TransformError> {
        let mut tally = Tally::new("V08", TRUNCATION, "dates");
        for date in events::cuts(self.worlds.engine, self.plan.dates)? {
            let label = format!("V08 events up to {date}");
            self.try_change(&mut tally, &label, &Change::After(&date), Rule::UpTo(&date))?;
        }
        Ok(tally)
    }

    /// V09 and V10, which share a small world.
    fn permutation_and_presence(&self) -> Result<[Tally; 2], TransformError> {
        let (engine, plan) = (self.worlds.engine, self.plan);
        let mut permuted = Tally::new("V09", "no feature knows the outcome of its own event or a later one", "events");
        let mut blanked = Tally::new("V10", "features are there before the outcome, and the same", "tries");
        if plan.event_order.is_none() {
            (permuted, blanked) = (permuted.with_limit(UNORDERED), blanked.with_limit(UNORDERED));
        }
        order::find(engine, plan, AUDIT_SOURCES)?;
        let picks = picks::pick(engine, plan)?;
        if !picks.is_empty() {
            let work = self.progress.start(Step::Validate, "V09 V10 before any change", None);
            self.worlds.slice()?;
            // The dataset in the lake may lack the events to come of these days.
            order::find(engine, plan, BASE)?;
            work.finish();
        }
        for pick in picks {
            picks::set_picked(engine, &pick)?;
            order::find_unreached(engine, plan)?;
            if !pick.is_last_day {
                let label = format!("V09 {}", pick.name);
                self.try_change(&mut permuted, &label, &Change::Permuted, Rule::InBoth)?;
            }
            let label = format!("V10 {}", pick.name);
            self.try_change(&mut blanked, &label, &Change::Blanked, Rule::OfBase)?;
        }
        Ok([permuted, blanked])
    }

    /// V11.
    fn row_order(&self) -> Result<Tally, TransformError> {
        let mut tally = Tally::new("V11", "neither the order of source rows nor threads change a value", "shuffles");
        self.worlds.with_another_thread(|| {
            self.try_change(&mut tally, "V11 shuffled sources", &Change::Shuffled, Rule::Everything)
        })?;
        Ok(tally)
    }

    fn try_change(
        &self,
        tally: &mut Tally,
        label: &str,
        change: &Change<'_>,
        rule: Rule<'_>,
    ) -> Result<(), TransformError> {
        let work = self.progress.start(Step::Validate, label, None);
        self.worlds.make(change)?;
        let compared = self.comparison.compare(rule, label)?;
        work.add(compared.rows, 0);
        work.finish();
        tally.add(compared);
        Ok(())
    }
}

#[cfg(test)]
impl AuditPlan {
    /// A small plan for tests.
    fn of_races() -> Self {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let table = |name: &str, columns: &[&str], outcomes: &[&str], after_event| AuditTable {
            name: name.to_owned(),
            key: texts(&columns[..2]),
            columns: texts(columns),
            outcomes: texts(outcomes),
            after_event,
        };
        Self {
            dataset: "d".to_owned(),
            key: texts(&["race", "horse"]),
            labels: texts(&["place"]),
            event: "race".to_owned(),
            event_table: "races".to_owned(),
            event_date: "day".to_owned(),
            event_order: None,
            event_within: Vec::new(),
            tables: vec![
                table("races", &["race", "day"], &[], false),
                table("results", &["race", "horse", "weight", "place", "margin"], &["place", "margin"], false),
                table("times", &["race", "horse", "seconds"], &[], true),
            ],
            dates: 3,
            events: 2,
        }
    }
}
