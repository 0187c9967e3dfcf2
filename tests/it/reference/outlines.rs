//! Worlds as they are drawn: what makes each race and each runner nasty. No rows yet.

use proptest::array::{uniform3, uniform14};
use proptest::bool::weighted;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::world::CHECKPOINTS;

/// The most horses of a world.
const HORSES: usize = 12;
/// The most jockeys and trainers. With one of them, histories become long enough for the longest windows.
const JOCKEYS: usize = 4;
const TRAINERS: usize = 3;
/// The most entries of a race.
const FIELD_MAX: usize = 10;

const TRACKS: [Option<&str>; 16] = [
    Some("Sha Tin"),
    Some("Randwick"),
    Some("Royal Randwick"),
    Some("Happy Valley"),
    Some("Newcastle"),
    Some("Flemington Racecourse"),
    Some("The Valley"),
    Some("Nowhere"),
    Some("York"),
    Some("Curragh"),
    Some("Tokyo"),
    Some("Ballarat Synthetic"),
    Some("Nowhere Synthetic"),
    Some("Kempton"),
    Some("sha tin"),
    None,
];
const DISTANCES: [Option<i64>; 15] = [
    Some(1200),
    Some(1000),
    Some(1100),
    Some(1199),
    Some(1400),
    Some(1600),
    Some(1650),
    Some(1800),
    Some(2000),
    Some(2200),
    Some(2400),
    Some(3200),
    Some(900),
    Some(1700),
    None,
];
const CLASSES: [Option<&str>; 26] = [
    Some("BM78"),
    Some("Benchmark 64"),
    Some("benchmark  9x"),
    Some("bm 95"),
    Some("Benchmark 58 Handicap"),
    Some("BM100"),
    Some("Class 4, Set Weights"),
    Some("Class 3"),
    Some("Class 1 sw"),
    Some("C5"),
    Some("Maiden Plate"),
    Some("MDN hcp"),
    Some("Group 1"),
    Some("G2"),
    Some("Group 3"),
    Some("Listed"),
    Some("Open"),
    Some("Rest. 62"),
    Some("0 - 58"),
    Some("2yo Fillies"),
    Some("3-Year-Old Fillies and Mares"),
    Some("2 y o"),
    Some("3-Y-O Plate"),
    Some("4yo Mares"),
    Some("Handicap"),
    None,
];
const GOINGS: [Option<&str>; 20] = [
    Some("Good 4"),
    Some("Good 3"),
    Some("Good"),
    Some("good 2"),
    Some("Good 1"),
    Some("Firm 2"),
    Some("Soft 5"),
    Some("SOFT 6"),
    Some("Soft 7"),
    Some("Soft"),
    Some("Heavy 8"),
    Some("Heavy 10"),
    Some("heavy"),
    Some("Synthetic"),
    Some("All Weather"),
    Some("Yielding"),
    Some("Wet Slow"),
    Some("Good To Firm"),
    Some("Fast"),
    None,
];
const WEATHERS: [Option<&str>; 4] = [Some("Fine"), Some("Light Rain"), Some("rain"), None];
const RAILS: [Option<&str>; 12] = [
    Some("RAIL - True Entire Course"),
    Some("RAIL - Out 3m 1200m-WP"),
    Some("RAIL - +4.5m"),
    Some("RAIL - True 1000m, Out 6m Remainder"),
    Some("rail - true"),
    Some("RAIL - C+3 Course"),
    Some("RAIL - A Course"),
    Some("Out 9m"),
    Some("Route 66, out 12.25 m"),
    Some("+"),
    Some("nonsense"),
    None,
];
/// Days since the race before: mostly the same day.
const GAPS: [u64; 12] = [0, 0, 0, 0, 0, 1, 2, 7, 15, 30, 60, 200];
/// How a saddle cloth is written; `#` is the number.
const CLOTHS: [Option<&str>; 9] =
    [Some("#"), Some("#"), Some("#"), Some("#e"), Some("#E3"), Some("#e+1"), Some("#EM"), Some(""), None];
/// In hundredths of a kilogram.
const WEIGHTS: [Option<i64>; 5] = [Some(5500), Some(5450), Some(5530), Some(6025), None];
const ODDS: [Option<i64>; 9] =
    [Some(460), Some(180), Some(300), Some(1000), Some(1050), Some(2100), Some(3400), Some(0), None];
const STATUSES: [Option<&str>; 6] =
    [Some("FINISHED"), None, Some("FELL"), Some("SCRATCHED"), Some("Scratched"), Some("finished")];
/// In milliseconds. Quotients with these as divisors end within eight decimals, so a mean of them that is a tie is one
/// for every way of adding them up.
const SPLITS_400M: [Option<i64>; 6] = [Some(25_000), Some(20_000), Some(32_000), Some(25_600), Some(0), None];

/// A race as it is drawn.
#[derive(Debug, Clone)]
pub(super) struct RaceOutline {
    pub(super) gap: u64,
    pub(super) number: Option<i64>,
    pub(super) track: usize,
    pub(super) distance: usize,
    pub(super) class: Option<&'static str>,
    pub(super) going: Option<&'static str>,
    pub(super) weather: Option<&'static str>,
    pub(super) rail: Option<&'static str>,
    pub(super) prize: Option<i64>,
    pub(super) has_result: bool,
    pub(super) runners: Vec<RunnerOutline>,
}

/// A runner as it is drawn. Runners finish in the order of the list.
#[derive(Debug, Clone)]
pub(super) struct RunnerOutline {
    pub(super) entry: EntryOutline,
    /// A second row of the same horse in the same race, which agrees with the first on nothing else.
    pub(super) twin: Option<EntryOutline>,
    pub(super) sectional: Option<SectionalOutline>,
    pub(super) second_sectional: Option<SectionalOutline>,
}

#[derive(Debug, Clone)]
pub(super) struct EntryOutline {
    pub(super) horse: usize,
    pub(super) has_slug: bool,
    pub(super) jockey: Option<usize>,
    pub(super) trainer: Option<usize>,
    pub(super) cloth: Option<&'static str>,
    pub(super) wrong_number: bool,
    pub(super) barrier: Option<i64>,
    pub(super) weight: Option<i64>,
    pub(super) odds: Option<i64>,
    pub(super) finish: Finish,
    pub(super) status: Option<&'static str>,
    pub(super) reported_800m: Option<i64>,
    pub(super) reported_400m: Option<i64>,
    pub(super) margin: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Finish {
    /// Behind the runner before it in the list.
    Next,
    /// Level with the runner before it.
    DeadHeat,
    Code(i64),
    None,
}

#[derive(Debug, Clone)]
pub(super) struct SectionalOutline {
    /// What is added to the runner's number; without it the row has no number.
    pub(super) number_off_by: Option<i64>,
    pub(super) name: NameStyle,
    pub(super) finish_position: Option<i64>,
    pub(super) finish_time: Option<i64>,
    pub(super) split_400m: Option<i64>,
    pub(super) split_800m: Option<i64>,
    pub(super) elapsed_800m: Option<i64>,
    pub(super) places: [Option<i64>; CHECKPOINTS],
    pub(super) margins: Option<(Option<i64>, Option<i64>)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum NameStyle {
    Same,
    Encoded,
    LowerCaseWithBlanks,
    Missing,
}

/// What all races of a world have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene {
    pub(super) tracks: [Option<&'static str>; 3],
    pub(super) distances: [Option<i64>; 3],
    pub(super) horses: usize,
    pub(super) jockeys: usize,
    pub(super) trainers: usize,
}

/// What all races of a world have in common.
pub(super) fn scene() -> impl Strategy<Value = Scene> {
    let places = (uniform3(select(TRACKS.to_vec())), uniform3(select(DISTANCES.to_vec())));
    (places, 3..=HORSES, people(JOCKEYS), people(TRAINERS)).prop_map(
        |((tracks, distances), horses, jockeys, trainers)| Scene { tracks, distances, horses, jockeys, trainers },
    )
}

/// Half of the worlds have one of them.
fn people(count_max: usize) -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 1..=count_max]
}

/// A race with up to as many runners as fit.
pub(super) fn race() -> impl Strategy<Value = RaceOutline> {
    let place = (select(GAPS.to_vec()), option::weighted(0.85, 1..=4_i64), 0..3_usize, 0..3_usize);
    let facts = (select(CLASSES.to_vec()), select(GOINGS.to_vec()), select(WEATHERS.to_vec()), select(RAILS.to_vec()));
    let rest = (option::of(0..=10_000_000_i64), weighted(0.93), vec(runner(), 0..=FIELD_MAX));
    (place, facts, rest).prop_map(
        |((gap, number, track, distance), (class, going, weather, rail), (prize, has_result, runners))| RaceOutline {
            gap,
            number,
            track,
            distance,
            class,
            going,
            weather,
            rail,
            prize,
            has_result,
            runners,
        },
    )
}

fn runner() -> impl Strategy<Value = RunnerOutline> {
    let second = option::weighted(0.05, sectional());
    (entry(), option::weighted(0.05, entry()), option::weighted(0.8, sectional()), second).prop_map(
        |(entry, twin, sectional, second_sectional)| RunnerOutline { entry, twin, sectional, second_sectional },
    )
}

fn entry() -> impl Strategy<Value = EntryOutline> {
    let people = (0..HORSES, weighted(0.97), option::weighted(0.9, 0..JOCKEYS), option::weighted(0.9, 0..TRAINERS));
    let finish = prop_oneof![
        16 => Just(Finish::Next),
        2 => Just(Finish::DeadHeat),
        1 => select(vec![50, 99]).prop_map(Finish::Code),
        1 => Just(Finish::None),
    ];
    let status = prop_oneof![9 => Just(STATUSES[0]), 1 => select(STATUSES.to_vec())];
    let number = (select(CLOTHS.to_vec()), weighted(0.1), option::weighted(0.9, 1..=14_i64));
    let place = || option::weighted(0.4, prop_oneof![9 => 1..=12_i64, 1 => Just(99)]);
    let market = (select(WEIGHTS.to_vec()), select(ODDS.to_vec()), option::of(0..=2000_i64));
    (people, (finish, status), number, market, place(), place()).prop_map(
        |(
            (horse, has_slug, jockey, trainer),
            (finish, status),
            (cloth, wrong_number, barrier),
            (weight, odds, margin),
            reported_800m,
            reported_400m,
        )| EntryOutline {
            horse,
            has_slug,
            jockey,
            trainer,
            cloth,
            wrong_number,
            barrier,
            weight,
            odds,
            finish,
            status,
            reported_800m,
            reported_400m,
            margin,
        },
    )
}

fn sectional() -> impl Strategy<Value = SectionalOutline> {
    let name = select(vec![NameStyle::Same, NameStyle::Encoded, NameStyle::LowerCaseWithBlanks, NameStyle::Missing]);
    let number_off_by = prop_oneof![6 => Just(Some(0)), 1 => Just(Some(1)), 2 => Just(None)];
    let finish_position = prop_oneof![8 => (1..=12_i64).prop_map(Some), 1 => select(vec![Some(25), Some(0), None])];
    let time = |halves_of_a_second: std::ops::RangeInclusive<i64>| {
        option::weighted(0.9, prop_oneof![15 => halves_of_a_second.prop_map(|halves| halves * 500), 1 => Just(0)])
    };
    let place = option::weighted(0.8, prop_oneof![15 => 1..=12_i64, 1 => Just(60)]);
    let margin = || option::weighted(0.8, 0..=900_i64);
    let times = (time(120..=130), select(SPLITS_400M.to_vec()), time(44..=50), time(90..=98));
    let margins = option::weighted(0.6, (margin(), margin()));
    ((number_off_by, name, finish_position), times, uniform14(place), margins).prop_map(
        |(
            (number_off_by, name, finish_position),
            (finish_time, split_400m, split_800m, elapsed_800m),
            places,
            margins,
        )| SectionalOutline {
            number_off_by,
            name,
            finish_position,
            finish_time,
            split_400m,
            split_800m,
            elapsed_800m,
            places,
            margins,
        },
    )
}
