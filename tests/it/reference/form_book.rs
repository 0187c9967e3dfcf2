//! The cleaned sources: one runner per race and horse, who ran, who finished, and which race came before which.

use std::collections::BTreeMap;

use super::elo::{self, Rating};
use super::ratio::Ratio;
use super::running::{self, Places};
use super::tracks::{self, Track};
use super::world::{Hundredths, Margin, Race, RaceResult, Sectional, World};

/// Positions from here on are codes for not finishing.
pub(super) const FIRST_CODE: i64 = 50;

/// A race and what its track's name says.
#[derive(Debug)]
pub(super) struct RaceFacts<'w> {
    pub(super) row: &'w Race,
    /// The standardised name.
    pub(super) track: String,
    /// What the standardised name says.
    pub(super) venue: Track,
    /// What the name as filed says: where the race was run, and whether at a metro venue.
    pub(super) filed: Track,
}

impl<'w> RaceFacts<'w> {
    fn new(row: &'w Race) -> Self {
        let track = tracks::standard_name(row.track_name.as_deref());
        let venue = tracks::track(&track);
        let filed = tracks::track(row.track_name.as_deref().unwrap_or_default());
        Self { row, track, venue, filed }
    }

    /// The point-in-time rule: an earlier day; or the same day, track and location, and a lower race number.
    pub(super) fn precedes(&self, other: &Self) -> bool {
        let is_same_meeting = self.row.race_date == other.row.race_date
            && self.track == other.track
            && self.filed.location == other.filed.location;
        let has_lower_number =
            self.row.race_number.zip(other.row.race_number).is_some_and(|(number, other)| number < other);
        self.is_on_earlier_day_than(other) || (is_same_meeting && has_lower_number)
    }

    /// The first part of the rule alone, for last runs.
    pub(super) fn is_on_earlier_day_than(&self, other: &Self) -> bool {
        self.row.race_date < other.row.race_date
    }

    pub(super) fn days_since(&self, other: &Self) -> i64 {
        (self.row.race_date - other.row.race_date).num_days()
    }

    /// "`sprint` < 1200, `mile` < 1600, `middle` < 2000, else `staying`".
    pub(super) fn distance_range(&self) -> &'static str {
        match self.row.race_distance {
            Some(..1200) => "sprint",
            Some(..1600) => "mile",
            Some(..2000) => "middle",
            _ => "staying",
        }
    }

    pub(super) fn is_at_most(&self, metres: i64) -> bool {
        self.row.race_distance.is_some_and(|distance| distance <= metres)
    }

    pub(super) fn is_longer_than(&self, metres: i64) -> bool {
        self.row.race_distance.is_some_and(|distance| distance > metres)
    }
}

/// One horse in one race.
#[derive(Debug)]
pub(super) struct Runner<'w> {
    pub(super) row: &'w RaceResult,
    pub(super) race: &'w RaceFacts<'w>,
    pub(super) horse: &'w str,
    /// The saddle cloth.
    pub(super) number: Option<i64>,
    /// Whether it belongs to the field: it has a position or a code, or is declared while the race has no result.
    pub(super) is_starter: bool,
    /// Starters of the race.
    pub(super) field_size: i64,
    /// The place, of those who finished.
    pub(super) finish: Option<i64>,
    pub(super) sectional: Option<&'w Sectional>,
    pub(super) margins: Option<&'w Margin>,
    /// Places with 800 m and 400 m to go.
    pub(super) places: Places,
}

impl Runner<'_> {
    pub(super) fn has_won(&self) -> bool {
        self.finish == Some(1)
    }

    pub(super) fn is_placed(&self) -> bool {
        self.finish.is_some_and(|place| place <= 3)
    }

    /// Finishers, and the declared runners of races without a result.
    pub(super) fn is_in_dataset(&self) -> bool {
        self.finish.is_some() || (self.is_starter && self.row.position.is_none())
    }

    pub(super) fn weight(&self) -> Option<Ratio> {
        self.row.original_weight.map(Ratio::from)
    }

    pub(super) fn odds(&self) -> Option<Ratio> {
        self.row.win_odds.map(Ratio::from)
    }

    /// "q = barrier / `total_runners`: `inner` q <= 0.33, `middle` q <= 0.66, else `outer`; null if no barrier".
    pub(super) fn barrier_position(&self) -> Option<&'static str> {
        let share = Ratio::new(self.row.barrier?, self.field_size.max(1));
        Some(match () {
            () if self.field_size == 0 => "unknown",
            () if share <= Ratio::new(33, 100) => "inner",
            () if share <= Ratio::new(66, 100) => "middle",
            () => "outer",
        })
    }
}

/// The keys of histories. A key with something missing equals nothing.
#[expect(clippy::unnecessary_wraps, reason = "keys that always exist have the type of those that may not")]
impl<'w> Runner<'w> {
    /// H: the horse at this location.
    pub(super) fn local_horse(&self) -> Option<(&'w str, &'w str)> {
        Some((self.horse, self.race.filed.location))
    }

    /// J: the jockey at this location.
    pub(super) fn local_jockey(&self) -> Option<(&'w str, &'w str)> {
        Some((self.jockey()?, self.race.filed.location))
    }

    /// T: the trainer at this location.
    pub(super) fn local_trainer(&self) -> Option<(&'w str, &'w str)> {
        Some((self.trainer()?, self.race.filed.location))
    }

    /// h: the horse wherever it ran.
    pub(super) fn horse(&self) -> Option<&'w str> {
        Some(self.horse)
    }

    /// j: the jockey wherever it rode.
    pub(super) fn jockey(&self) -> Option<&'w str> {
        self.row.jockey_slug.as_deref()
    }

    /// t: the trainer wherever its runners ran.
    pub(super) fn trainer(&self) -> Option<&'w str> {
        self.row.trainer_slug.as_deref()
    }
}

impl From<Hundredths> for Ratio {
    fn from(hundredths: Hundredths) -> Self {
        Self::new(hundredths.0, 100)
    }
}

/// All runners in race order, and all ratings.
#[derive(Debug)]
pub(super) struct FormBook<'w> {
    pub(super) runners: Vec<Runner<'w>>,
    pub(super) ratings: Vec<Rating<'w>>,
}

/// Some earlier runs, in race order.
pub(super) type Runs<'a, 'w> = Vec<&'a Runner<'w>>;

impl<'w> FormBook<'w> {
    pub(super) fn new(world: &'w World, races: &'w [RaceFacts<'w>]) -> Self {
        let mut runners: Vec<Runner<'w>> = races.iter().flat_map(|race| field(world, race)).collect();
        runners.sort_by_key(|runner| {
            let race = runner.race.row;
            (race.race_date, race.race_number.is_none(), race.race_number, &race.race_id, runner.horse)
        });
        Self { runners, ratings: elo::ratings(world, races) }
    }

    /// prior(K): finishes with the same key in races before this one.
    pub(super) fn prior<K: PartialEq>(&self, now: &Runner<'w>, key: impl Fn(&Runner<'w>) -> Option<K>) -> Runs<'_, 'w> {
        self.prior_entries(now, key).into_iter().filter(|run| run.finish.is_some()).collect()
    }

    /// As [`FormBook::prior`], but on earlier days only: for the last run and the last so many.
    pub(super) fn earlier_days<K: PartialEq>(
        &self,
        now: &Runner<'w>,
        key: impl Fn(&Runner<'w>) -> Option<K>,
    ) -> Runs<'_, 'w> {
        self.prior(now, key).into_iter().filter(|run| run.race.is_on_earlier_day_than(now.race)).collect()
    }

    /// As [`FormBook::prior`], but over all entries, whether they finished, started, or neither.
    pub(super) fn prior_entries<K: PartialEq>(
        &self,
        now: &Runner<'w>,
        key: impl Fn(&Runner<'w>) -> Option<K>,
    ) -> Runs<'_, 'w> {
        let Some(wanted) = key(now) else { return Vec::new() };
        let is_wanted = |run: &&Runner<'w>| key(run).as_ref() == Some(&wanted) && run.race.precedes(now.race);
        self.runners.iter().filter(is_wanted).collect()
    }

    /// prior(H).
    pub(super) fn horse_runs(&self, now: &Runner<'w>) -> Runs<'_, 'w> {
        self.prior(now, Runner::local_horse)
    }

    /// L1: the horse's last finish on an earlier day.
    pub(super) fn last_run(&self, now: &Runner<'w>) -> Option<&Runner<'w>> {
        self.earlier_days(now, Runner::local_horse).pop()
    }

    /// The starters of the race.
    pub(super) fn field(&self, now: &Runner<'w>) -> Runs<'_, 'w> {
        let is_rival = |runner: &&Runner<'w>| runner.is_starter && runner.race.row.race_id == now.race.row.race_id;
        self.runners.iter().filter(is_rival).collect()
    }
}

/// The races with what their tracks' names say.
pub(super) fn race_facts(world: &World) -> Vec<RaceFacts<'_>> {
    world.races.iter().map(RaceFacts::new).collect()
}

/// The runners of a race. Of several rows for a horse, a finish counts before a code and a code before nothing, then the
/// lowest id.
fn field<'w>(world: &'w World, race: &'w RaceFacts<'w>) -> Vec<Runner<'w>> {
    let mut entries: BTreeMap<&str, &RaceResult> = BTreeMap::new();
    let rank =
        |row: &RaceResult| (row.position.is_none(), row.position.is_some_and(|place| place >= FIRST_CODE), row.id);
    for row in world.results.iter().filter(|row| row.race_id == race.row.race_id) {
        let Some(horse) = row.horse_slug.as_deref() else { continue };
        let kept = entries.entry(horse).or_insert(row);
        if rank(row) < rank(kept) {
            *kept = row;
        }
    }
    let has_result = entries.values().any(|row| row.position.is_some());
    let is_scratched =
        |row: &RaceResult| row.finish_status.as_ref().is_some_and(|status| status.to_uppercase() == "SCRATCHED");
    let is_starter = |row: &RaceResult| if has_result { row.position.is_some() } else { !is_scratched(row) };
    let field_size = i64::try_from(entries.values().filter(|row| is_starter(row)).count()).expect("a small world");
    let mut runners: Vec<Runner<'w>> = entries
        .into_iter()
        .map(|(horse, row)| Runner {
            row,
            race,
            horse,
            number: row.horse_number.as_deref().and_then(saddle_cloth),
            is_starter: is_starter(row),
            field_size,
            finish: row.position.filter(|&place| place < FIRST_CODE),
            sectional: None,
            margins: None,
            places: Places::default(),
        })
        .collect();
    running::match_sectionals(world, &mut runners);
    runners
}

/// "Strip a trailing `[eE][+]?digits*`, then take the remaining digits": `13e` is 13, and so is `13EM`.
fn saddle_cloth(text: &str) -> Option<i64> {
    let before_digits = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let before_sign = before_digits.strip_suffix('+').unwrap_or(before_digits);
    let plain = before_sign.strip_suffix(['e', 'E']).unwrap_or(text);
    let digits = plain.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::saddle_cloth;

    #[test]
    fn saddle_cloths_are_never_read_as_floats() {
        let read = |text| saddle_cloth(text);
        assert_eq!([read("13"), read("13e"), read("1e1"), read("13e+1"), read("13EM")], [13, 13, 1, 13, 13].map(Some));
        assert_eq!([read(""), read("e1"), read("E")], [None; 3]);
    }
}
