//! Rebuilds at the times of a cron expression.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;

use super::Dashboard;
use super::actions::start_rebuild;
use crate::pipeline::{Notice, history};

/// The longest sleep: a clock that was set, or a machine that slept, is noticed within it.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How late a rebuild may start and still count as on time.
const GRACE: chrono::Duration = chrono::Duration::minutes(5);
/// Runs among which the last rebuild is looked for.
const RUNS_LOOKED_AT: usize = 100;

/// When to rebuild.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    zone: Tz,
    missed: Arc<Mutex<Option<DateTime<Utc>>>>,
}

/// Why a schedule makes no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The expression.
    #[error("`{0}` is no cron expression; an example for Saturdays at four in the afternoon is `0 16 * * 6`")]
    Cron(String),
    /// The zone.
    #[error("`{0}` is no time zone; examples are UTC and Australia/Sydney")]
    Zone(String),
}

impl Schedule {
    /// A cron expression of five fields, in a zone of the tz database.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn parse(cron: &str, zone: &str) -> Result<Self, ScheduleError> {
        Ok(Self {
            cron: cron.parse().map_err(|_| ScheduleError::Cron(cron.to_owned()))?,
            zone: zone.parse().map_err(|_| ScheduleError::Zone(zone.to_owned()))?,
            missed: Arc::default(),
        })
    }

    pub(super) fn cron(&self) -> &str {
        self.cron.pattern.as_str()
    }

    pub(super) fn zone(&self) -> &'static str {
        self.zone.name()
    }

    /// The first time after this one; none for a date that never comes, such as the 30th of February.
    pub(super) fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = time.with_timezone(&self.zone);
        self.cron.find_next_occurrence(&local, false).ok().map(|next| next.with_timezone(&Utc))
    }

    /// The last time before this one.
    fn last_before(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = time.with_timezone(&self.zone);
        self.cron.find_previous_occurrence(&local, false).ok().map(|last| last.with_timezone(&Utc))
    }

    /// A time at which no rebuild could start.
    pub(super) fn missed(&self) -> Option<DateTime<Utc>> {
        *self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_missed(&self, time: Option<DateTime<Utc>>) {
        *self.missed.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }
}

/// Starts rebuilds as long as the server lives.
pub(super) async fn keep(dashboard: Dashboard) {
    let Some(schedule) = &dashboard.schedule else { return };
    notice_missed(&dashboard, schedule).await;
    let mut due = schedule.next_after(Utc::now());
    while let Some(time) = due {
        let now = Utc::now();
        if now < time {
            let left = (time - now).to_std().unwrap_or_default();
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
            continue;
        }
        let started = if now - time > GRACE { None } else { start_rebuild(&dashboard.jobs).ok() };
        if started.is_some() {
            schedule.set_missed(None);
        } else {
            tracing::warn!("the rebuild of {time} was missed: another run was at work, or the machine asleep");
            schedule.set_missed(Some(time));
            dashboard.jobs.notify(Notice::Missed(time));
        }
        due = schedule.next_after(now.max(time));
    }
}

/// Whether the last time passed while no server ran; a lake without runs is new and missed nothing.
async fn notice_missed(dashboard: &Dashboard, schedule: &Schedule) {
    let Some(last) = schedule.last_before(Utc::now()) else { return };
    let runs = match history(&dashboard.context, RUNS_LOOKED_AT).await {
        Ok(runs) => runs,
        Err(error) => return tracing::warn!(%error, "whether a rebuild was missed is unknown"),
    };
    let existed = runs.iter().any(|run| run.started < last);
    let rebuilt = runs.iter().any(|run| run.command == "rebuild" && run.started >= last);
    if existed && !rebuilt {
        tracing::warn!("the rebuild of {last} was missed: nothing ran then");
        schedule.set_missed(Some(last));
        dashboard.jobs.notify(Notice::Missed(last));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    #[test]
    fn times_are_of_the_zone_through_a_change_of_clocks() {
        let schedule = Schedule::parse("30 16 * * 6", "Australia/Sydney").unwrap();
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        // Clocks go forward on 4 October 2026: 16:30 is 06:30 UTC before and 05:30 after.
        assert_eq!(schedule.next_after(at("2026-10-01T00:00:00Z")), Some(at("2026-10-03T06:30:00Z")));
        assert_eq!(schedule.next_after(at("2026-10-03T06:30:00Z")), Some(at("2026-10-10T05:30:00Z")));
        assert_eq!(schedule.last_before(at("2026-10-10T05:30:00Z")), Some(at("2026-10-03T06:30:00Z")));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        assert!(matches!(Schedule::parse("61 * * * *", "UTC"), Err(ScheduleError::Cron(_))));
        assert!(matches!(Schedule::parse("0 0 * * *", "Atlantis"), Err(ScheduleError::Zone(_))));
        assert_eq!(Schedule::parse("0 0 30 2 *", "UTC").unwrap().next_after(Utc::now()), None);
    }
}
