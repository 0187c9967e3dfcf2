//! Small nasty worlds: few horses that meet often, and every quirk of the sources.
//!
//! A world is drawn as outlines of races and runners, which shrink: races and runners disappear, and values become the
//! first of their lists. Building rows from an outline draws nothing, so what fails is repeatable.

use chrono::{Days, NaiveDate, TimeDelta};
use proptest::collection::vec;
use proptest::prelude::*;

use super::outlines::{EntryOutline, Finish, NameStyle, RaceOutline, Scene, SectionalOutline, race, scene};
use super::world::{Hundredths, Margin, Millis, Race, RaceResult, Sectional, World};

/// The first race day is this many days after the start of 2016, so that some races come before ratings begin.
const FIRST_DAY: u64 = 330;

/// Worlds of 5 to 30 races at three tracks, over three distances.
pub(crate) fn worlds() -> impl Strategy<Value = World> {
    (scene(), vec(race(), 5..=30)).prop_map(|(scene, races)| build(scene, &races))
}

fn build(scene: Scene, races: &[RaceOutline]) -> World {
    let mut world = World::default();
    let mut day = NaiveDate::from_ymd_opt(2016, 1, 1).expect("a date") + Days::new(FIRST_DAY);
    for (index, outline) in races.iter().enumerate() {
        day = day + Days::new(outline.gap);
        // The text order of the ids is not the order of the races.
        let race_id = format!("r{:02}", (index * 37 + 11) % 101);
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let race = Race {
            race_id,
            race_date: day,
            race_number: outline.number,
            track_name: owned(scene.tracks[outline.track]),
            race_distance: scene.distances[outline.distance],
            race_class: owned(outline.class),
            track_condition: owned(outline.going),
            track_weather: owned(outline.weather),
            race_weather: owned(outline.weather),
            location: Some("HK".to_owned()),
            track_info: owned(outline.rail),
            total_prize_money: outline.prize.map(Hundredths),
        };
        add_runners(&mut world, scene, &race, outline);
        world.races.push(race);
    }
    world
}

/// Adds the rows of the race's runners, until the horses run out: none is drawn twice, except as a twin.
fn add_runners(world: &mut World, scene: Scene, race: &Race, outline: &RaceOutline) {
    let mut horses: Vec<usize> = (0..scene.horses).collect();
    let (mut place, mut behind) = (1, 0);
    for (runner, number) in outline.runners.iter().take(scene.horses).zip(1..) {
        let horse = horses.remove(runner.entry.horse % horses.len());
        let position = match runner.entry.finish {
            _ if !outline.has_result => None,
            Finish::Next => {
                (place, behind) = (place + behind, 1);
                Some(place)
            }
            Finish::DeadHeat => {
                behind += 1;
                Some(place)
            }
            Finish::Code(code) => Some(code),
            Finish::None => None,
        };
        let first = result(world, scene, race, &runner.entry, (horse, number, position));
        let name = first.horse_name.clone().unwrap_or_default();
        world.results.push(first);
        if let Some(twin) = &runner.twin {
            let position = match twin.finish {
                _ if !outline.has_result => None,
                Finish::Code(code) => Some(code),
                Finish::None => None,
                Finish::Next | Finish::DeadHeat => Some(2),
            };
            let twin = result(world, scene, race, twin, (horse, number, position));
            world.results.push(twin);
        }
        for sectional in [&runner.sectional, &runner.second_sectional].into_iter().flatten() {
            add_sectional(world, race, sectional, number, &name);
        }
    }
}

fn result(
    world: &World,
    scene: Scene,
    race: &Race,
    entry: &EntryOutline,
    (horse, number, position): (usize, i64, Option<i64>),
) -> RaceResult {
    let jockey = entry.jockey.map(|jockey| jockey % scene.jockeys);
    let trainer = entry.trainer.map(|trainer| trainer % scene.trainers);
    let name = if horse.is_multiple_of(3) { "SHE'S A H" } else { "E+RNIE H" };
    let cloth_number = if entry.wrong_number { number + 1 } else { number };
    // Unique, but not in order: 1009 is a prime, and no world has as many rows.
    let serial = i64::try_from(world.results.len()).expect("a small world");
    RaceResult {
        id: serial * 700 % 1009,
        race_id: race.race_id.clone(),
        horse_name: Some(format!("{name}{horse}")),
        horse_slug: entry.has_slug.then(|| format!("h-{horse}")),
        horse_number: entry.cloth.map(|cloth| cloth.replace('#', &cloth_number.to_string())),
        barrier: entry.barrier,
        original_weight: entry.weight.map(Hundredths),
        position,
        margin: entry.margin.map(Hundredths),
        finish_status: entry.status.map(str::to_owned),
        jockey: jockey.map(|jockey| format!("J {jockey}")),
        jockey_slug: jockey.map(|jockey| format!("j-{jockey}")),
        trainer: trainer.map(|trainer| format!("T {trainer}")),
        trainer_slug: trainer.map(|trainer| format!("t-{trainer}")),
        win_odds: entry.odds.map(Hundredths),
        prize_money: None,
        position_800m: entry.reported_800m,
        position_400m: entry.reported_400m,
    }
}

fn add_sectional(world: &mut World, race: &Race, outline: &SectionalOutline, number: i64, name: &str) {
    let horse_number = outline.number_off_by.map(|off_by| number + off_by);
    let horse_name = match outline.name {
        NameStyle::Same => Some(name.to_owned()),
        NameStyle::Encoded => Some(name.replace('\'', "&#039;").replace("E+", "E")),
        NameStyle::LowerCaseWithBlanks => {
            Some(format!(" {} ", name.replace('\'', "&#39;").replace("E+", "E").to_lowercase()))
        }
        NameStyle::Missing => None,
    };
    // No two rows were scraped at the same time, so which of two counts is never left to chance.
    let serial = i64::try_from(world.sectionals.len()).expect("a small world");
    let first_scrape = NaiveDate::from_ymd_opt(2020, 1, 1).expect("a date").and_hms_opt(0, 0, 0).expect("a time");
    let is_run = |metres: usize| {
        race.race_distance.is_some_and(|distance| metres * 200 < usize::try_from(distance).unwrap_or(0))
    };
    let places = std::array::from_fn(|index| outline.places[index].filter(|_| is_run(index + 1)));
    world.sectionals.push(Sectional {
        race_id: race.race_id.clone(),
        horse_number,
        horse_name,
        finish_position: outline.finish_position,
        race_distance: race.race_distance,
        scraped_at: Some(first_scrape + TimeDelta::minutes(serial * 7919 % 10_007)),
        finish_time: outline.finish_time.map(Millis),
        sectional_400m: outline.split_400m.map(Millis),
        sectional_800m: outline.split_800m.map(Millis),
        cumulative_800m: outline.elapsed_800m.map(Millis),
        places,
    });
    if let Some((margin_400m, margin_800m)) = outline.margins {
        world.margins.push(Margin {
            race_id: race.race_id.clone(),
            horse_number,
            margin_400m: margin_400m.map(Hundredths),
            margin_800m: margin_800m.map(Hundredths),
        });
    }
}
