//! Places in running: the sectional row of each runner, and the places with 800 m and 400 m to go.

use super::form_book::{FIRST_CODE, Runner};
use super::world::{Margin, Millis, Sectional, World};

/// Places so many metres before the post.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Places {
    pub(super) at_800m: Option<i64>,
    pub(super) at_400m: Option<i64>,
}

impl Sectional {
    /// The place so many metres from the start; codes are none.
    pub(super) fn place_at(&self, metres: i64) -> Option<i64> {
        let index = usize::try_from(metres / 200 - 1).ok()?;
        self.places.get(index).copied().flatten().filter(|&place| place < FIRST_CODE)
    }
}

/// A time in milliseconds; "`<= 0` as null".
pub(super) fn time(time: Option<Millis>) -> Option<i64> {
    time.map(|time| time.0).filter(|&time| time > 0)
}

/// Gives the runners of one race their sectional rows: by saddle cloth, else by name. Of two starters with one saddle
/// cloth the finisher has it, then the first in the order of slugs.
pub(super) fn match_sectionals<'w>(world: &'w World, runners: &mut [Runner<'w>]) {
    let Some(race_id) = runners.first().map(|runner| &runner.race.row.race_id) else { return };
    let mut rows: Vec<&Sectional> = world.sectionals.iter().filter(|row| row.race_id == *race_id).collect();
    rows.sort_by_key(|row| {
        (
            nulls_last(row.horse_number),
            nulls_last(row.horse_name.as_ref()),
            nulls_last(row.scraped_at.map(std::cmp::Reverse)),
            nulls_last(row.finish_position),
            nulls_last(row.finish_time),
        )
    });
    runners.sort_by_key(|runner| (runner.finish.is_none(), runner.horse));
    let mut taken = Vec::new();
    for runner in runners.iter_mut().filter(|runner| runner.is_starter) {
        let own_number = runner.number.filter(|number| !taken.contains(number));
        taken.extend(own_number);
        let name = runner.row.horse_name.as_deref().map(matching_name);
        let by_number = rows.iter().find(|row| own_number.is_some() && row.horse_number == own_number);
        let by_name = rows.iter().find(|row| name.is_some() && row.horse_name.as_deref().map(matching_name) == name);
        runner.sectional = by_number.or(by_name).copied();
        runner.margins = runner.sectional.and_then(|row| margins(world, row));
    }
    for runner in runners {
        runner.places = Places { at_800m: place_to_go(runner, 800), at_400m: place_to_go(runner, 400) };
    }
}

/// The margins by race and saddle cloth, the smallest of several.
fn margins<'w>(world: &'w World, row: &Sectional) -> Option<&'w Margin> {
    let number = row.horse_number?;
    let is_same = |margin: &&Margin| margin.race_id == row.race_id && margin.horse_number == Some(number);
    let order = |margin: &&Margin| (nulls_last(margin.margin_400m), nulls_last(margin.margin_800m));
    world.margins.iter().filter(is_same).min_by_key(order)
}

/// A name as it is compared: "decode, replace, lower, trim".
fn matching_name(name: &str) -> String {
    let decoded = ["&#39;", "&#039;", "&apos;"].iter().fold(name.to_owned(), |name, entity| name.replace(entity, "'"));
    decoded.replace("E+", "E").trim().to_lowercase()
}

fn nulls_last<T>(value: Option<T>) -> (bool, Option<T>) {
    (value.is_none(), value)
}

/// "Resolving position with X m to go": the sectional place at the nearest checkpoint, else what the result says, else,
/// in Hong Kong only, the place at the nearest checkpoint that exists there.
fn place_to_go(runner: &Runner<'_>, to_go: i64) -> Option<i64> {
    let at = |mark: Option<i64>| runner.sectional?.place_at(mark?);
    let reported = if to_go == 800 { runner.row.position_800m } else { runner.row.position_400m };
    let distance = runner.race.row.race_distance;
    // "Snapped to the nearest 200 m, half up"; 800 m to go "in races under 1000 m is before the first checkpoint".
    let nearest = distance
        .filter(|&distance| to_go == 400 || distance >= 1000)
        .map(|distance| (distance - to_go + 100).div_euclid(200) * 200);
    let in_hong_kong = distance.filter(|_| runner.race.filed.location == "HK");
    at(nearest)
        .or(reported.filter(|&place| place < FIRST_CODE))
        .or_else(|| at(in_hong_kong.and_then(|distance| hong_kong_mark(distance, to_go))))
}

/// The table of source-schema section 6.
fn hong_kong_mark(distance: i64, to_go: i64) -> Option<i64> {
    let (at_800m, at_400m) = match distance {
        1000 | 1200 => (400, 800),
        1400 | 1600 | 1650 => (800, 1200),
        1800 | 2000 => (1200, 1600),
        2200 => (1200, 2000),
        2400 => (1600, 2000),
        _ => return None,
    };
    Some(if to_go == 800 { at_800m } else { at_400m })
}
