//! Ratings: one pass over the races in order. Whole hundredths throughout.

use std::collections::BTreeMap;

use chrono::NaiveDate;

use super::Row;
use super::form_book::{FormBook, RaceFacts, Runner};
use super::ratio::Ratio;
use super::world::{RaceResult, World};

/// What every horse starts from.
const START: i64 = 120_000;
/// No rating is below or above.
const LIMITS: (i64, i64) = (60_000, 220_000);

/// A horse's rating after a race.
#[derive(Debug)]
pub(super) struct Rating<'w> {
    horse: &'w str,
    race: &'w RaceFacts<'w>,
    after: i64,
}

/// All ratings, "by `race_date`, then `race_id`". Rated are results since 2017 with a position and the status FINISHED;
/// of several for one horse the lowest id.
pub(super) fn ratings<'w>(world: &'w World, races: &'w [RaceFacts<'w>]) -> Vec<Rating<'w>> {
    let first_day = NaiveDate::from_ymd_opt(2017, 1, 1).expect("a date");
    let mut rated: Vec<&RaceFacts<'w>> = races.iter().filter(|race| race.row.race_date >= first_day).collect();
    rated.sort_by_key(|race| (race.row.race_date, &race.row.race_id));
    let mut ratings: Vec<Rating<'w>> = Vec::new();
    for race in rated {
        let mut places: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for row in world.results.iter().filter(|row| row.race_id == race.row.race_id && is_finished(row)) {
            let Some((horse, place)) = row.horse_slug.as_deref().zip(row.position) else { continue };
            let lowest = places.entry(horse).or_insert((row.id, place));
            *lowest = (*lowest).min((row.id, place));
        }
        let runners = i64::try_from(places.len()).expect("a small world");
        for (horse, (_, place)) in places {
            let after = latest(&ratings, horse, race).unwrap_or(START) + change(place, runners, race);
            ratings.push(Rating { horse, race, after: after.clamp(LIMITS.0, LIMITS.1) });
        }
    }
    ratings
}

fn is_finished(row: &RaceResult) -> bool {
    row.finish_status.as_deref() == Some("FINISHED")
}

/// "`elo_after` of the horse's latest row with `race_date` strictly earlier".
fn latest(ratings: &[Rating<'_>], horse: &str, race: &RaceFacts<'_>) -> Option<i64> {
    let mut earlier = ratings.iter().filter(|rating| rating.horse == horse && rating.race.is_on_earlier_day_than(race));
    earlier.next_back().map(|rating| rating.after)
}

/// By place, size of the field and class, rounded after each factor.
fn change(place: i64, runners: i64, race: &RaceFacts<'_>) -> i64 {
    let change = match place {
        1 => 2560,
        2 => 1280,
        3 => 320,
        _ if place <= runners / 2 => -640,
        _ => -1600,
    };
    let class = race.row.race_class.as_deref().unwrap_or_default().to_lowercase();
    let class_tenths = match () {
        () if class.contains("group 1") || class.contains("g1") => 15,
        () if class.contains("group") => 13,
        () if class.contains("listed") => 12,
        () => 10,
    };
    let field_tenths = match runners {
        14.. => 12,
        ..=8 => 8,
        _ => 10,
    };
    let times_tenths = |change: i64, tenths: i64| Ratio::new(change * tenths, 10).rounded(0).to_i64();
    times_tenths(times_tenths(change, class_tenths), field_tenths)
}

/// "Rating after the horse's last rated race before this one, else 1200": on an earlier day, since runs of one day do
/// not see each other's ratings.
pub(super) fn horse_elo(book: &FormBook<'_>, now: &Runner<'_>) -> Ratio {
    Ratio::new(latest(&book.ratings, now.horse, now.race).unwrap_or(START), 100)
}

pub(super) fn features(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let is_prior = |rating: &&Rating<'_>| rating.horse == now.horse && rating.race.precedes(now.race);
    let prior = i64::try_from(book.ratings.iter().filter(is_prior).count()).expect("a small world");
    Row::from([
        ("horse_elo", horse_elo(book, now).into()),
        ("is_elo_default", (prior == 0).into()),
        ("elo_races_count", prior.into()),
    ])
}
