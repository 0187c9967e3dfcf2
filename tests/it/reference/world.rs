//! The rows of the source tables, as `fixtures/sql/schema.sql` has them, and as SQL.
#![allow(clippy::struct_field_names, reason = "fields have the names of columns")]

use std::fmt;

use chrono::{NaiveDate, NaiveDateTime};

/// All rows of the source tables that the phases read. Prints as the statements that insert them.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) races: Vec<Race>,
    pub(crate) results: Vec<RaceResult>,
    pub(crate) sectionals: Vec<Sectional>,
    pub(crate) margins: Vec<Margin>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&insert_statements(self))
    }
}

/// A decimal with two digits after the point, as a whole number of hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hundredths(pub(crate) i64);

impl fmt::Display for Hundredths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:02}", self.0.abs() / 100, self.0.abs() % 100)
    }
}

/// An interval in thousandths of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(pub(crate) i64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "INTERVAL '{} milliseconds'", self.0)
    }
}

/// A row of `races`.
#[derive(Debug, Clone)]
pub(crate) struct Race {
    pub(crate) race_id: String,
    pub(crate) race_date: NaiveDate,
    pub(crate) race_number: Option<i64>,
    pub(crate) track_name: Option<String>,
    pub(crate) race_distance: Option<i64>,
    pub(crate) race_class: Option<String>,
    pub(crate) track_condition: Option<String>,
    pub(crate) track_weather: Option<String>,
    pub(crate) race_weather: Option<String>,
    pub(crate) location: Option<String>,
    pub(crate) track_info: Option<String>,
    pub(crate) total_prize_money: Option<Hundredths>,
}

/// A row of `race_results`.
#[derive(Debug, Clone)]
pub(crate) struct RaceResult {
    pub(crate) id: i64,
    pub(crate) race_id: String,
    pub(crate) horse_name: Option<String>,
    pub(crate) horse_slug: Option<String>,
    pub(crate) horse_number: Option<String>,
    pub(crate) barrier: Option<i64>,
    pub(crate) original_weight: Option<Hundredths>,
    pub(crate) position: Option<i64>,
    pub(crate) margin: Option<Hundredths>,
    pub(crate) finish_status: Option<String>,
    pub(crate) jockey: Option<String>,
    pub(crate) jockey_slug: Option<String>,
    pub(crate) trainer: Option<String>,
    pub(crate) trainer_slug: Option<String>,
    pub(crate) win_odds: Option<Hundredths>,
    pub(crate) prize_money: Option<Hundredths>,
    pub(crate) position_800m: Option<i64>,
    pub(crate) position_400m: Option<i64>,
}

/// How many checkpoints a sectional row has: every 200 m up to 2800 m from the start.
pub(crate) const CHECKPOINTS: usize = 14;

/// A row of `race_results_sectional_times`.
#[derive(Debug, Clone)]
pub(crate) struct Sectional {
    pub(crate) race_id: String,
    pub(crate) horse_number: Option<i64>,
    pub(crate) horse_name: Option<String>,
    pub(crate) finish_position: Option<i64>,
    pub(crate) race_distance: Option<i64>,
    pub(crate) scraped_at: Option<NaiveDateTime>,
    pub(crate) finish_time: Option<Millis>,
    pub(crate) sectional_400m: Option<Millis>,
    pub(crate) sectional_800m: Option<Millis>,
    pub(crate) cumulative_800m: Option<Millis>,
    /// `position_200m`, `position_400m`, … `position_2800m`.
    pub(crate) places: [Option<i64>; CHECKPOINTS],
}

/// A row of `races_derived_sectional_margins`.
#[derive(Debug, Clone)]
pub(crate) struct Margin {
    pub(crate) race_id: String,
    pub(crate) horse_number: Option<i64>,
    pub(crate) margin_400m: Option<Hundredths>,
    pub(crate) margin_800m: Option<Hundredths>,
}

/// One `INSERT` for each table that has rows.
pub(crate) fn insert_statements(world: &World) -> String {
    let races = world.races.iter().map(race_values).collect();
    let results = world.results.iter().map(result_values).collect();
    let sectionals = world.sectionals.iter().map(sectional_values).collect();
    let margins = world.margins.iter().map(margin_values).collect();
    [
        insert("races", races),
        insert("race_results", results),
        insert("race_results_sectional_times", sectionals),
        insert("races_derived_sectional_margins", margins),
    ]
    .concat()
}

fn insert(table: &str, rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let rows: Vec<String> = rows.into_iter().map(|values| format!("({})", values.join(", "))).collect();
    format!("INSERT INTO {table} VALUES\n{};\n", rows.join(",\n"))
}

fn race_values(race: &Race) -> Vec<String> {
    vec![
        quoted(&race.race_id),
        quoted(race.race_date),
        value(race.race_number),
        text(race.track_name.as_ref()),
        value(race.race_distance),
        text(race.race_class.as_ref()),
        text(race.track_condition.as_ref()),
        text(race.track_weather.as_ref()),
        text(race.race_weather.as_ref()),
        text(race.location.as_ref()),
        text(race.track_info.as_ref()),
        value(race.total_prize_money),
    ]
}

fn result_values(result: &RaceResult) -> Vec<String> {
    vec![
        result.id.to_string(),
        quoted(&result.race_id),
        text(result.horse_name.as_ref()),
        text(result.horse_slug.as_ref()),
        text(result.horse_number.as_ref()),
        value(result.barrier),
        value(result.original_weight),
        value(result.position),
        value(result.margin),
        text(result.finish_status.as_ref()),
        text(result.jockey.as_ref()),
        text(result.jockey_slug.as_ref()),
        text(result.trainer.as_ref()),
        text(result.trainer_slug.as_ref()),
        value(result.win_odds),
        value(result.prize_money),
        value(result.position_800m),
        value(result.position_400m),
    ]
}

fn sectional_values(row: &Sectional) -> Vec<String> {
    let mut values = vec![
        quoted(&row.race_id),
        value(row.horse_number),
        text(row.horse_name.as_ref()),
        value(row.finish_position),
        value(row.race_distance),
        text(row.scraped_at.as_ref()),
        value(row.finish_time),
        value(row.sectional_400m),
        value(row.sectional_800m),
        value(row.cumulative_800m),
    ];
    values.extend(row.places.iter().map(|&place| value(place)));
    values
}

fn margin_values(margin: &Margin) -> Vec<String> {
    vec![quoted(&margin.race_id), value(margin.horse_number), value(margin.margin_400m), value(margin.margin_800m)]
}

fn quoted(text: impl fmt::Display) -> String {
    format!("'{}'", text.to_string().replace('\'', "''"))
}

fn text(text: Option<&impl fmt::Display>) -> String {
    text.map_or_else(|| "NULL".to_owned(), quoted)
}

fn value(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| value.to_string())
}
