//! The race itself, the runner in its field, and the barrier at its track.

use chrono::Datelike;

use super::career::{self, wins};
use super::form_book::{FormBook, Runner};
use super::ratio::{Ratio, mean};
use super::sectionals::finish_time;
use super::{Row, count, elo, number_of, wording};

/// What is said of the race and the runner before the off.
pub(super) fn base(now: &Runner<'_>) -> Row {
    let race = now.race;
    let class = race.row.race_class.as_deref();
    let rail = wording::rail(race.row.track_info.as_deref());
    let barrier = now.row.barrier.map(|barrier| Ratio::from(barrier).to_f64());
    let located = |slug: Option<&str>| slug.map(|slug| format!("{slug}-{}", race.filed.location));
    let weather = race.row.race_weather.as_deref().unwrap_or_default().to_lowercase();
    Row::from([
        ("race_number", race.row.race_number.into()),
        ("track_name", race.track.clone().into()),
        ("location", race.filed.location.into()),
        ("track_direction", race.venue.direction.into()),
        ("track_category", race.venue.category.into()),
        ("track_type", surface(now).into()),
        ("distance_range", race.distance_range().into()),
        (
            "is_maiden_race",
            class.map(|class| ["maiden", "mdn"].iter().any(|word| class.to_lowercase().contains(word))).into(),
        ),
        ("is_handicap_race", wording::is_handicap(class).into()),
        ("age_restriction", wording::age_restriction(class).into()),
        ("sex_restriction", wording::sex_restriction(class).into()),
        ("horse_name", now.row.horse_name.as_deref().map(|name| name.replace("E+", "E")).into()),
        ("horse_number", now.number.into()),
        ("barrier", now.row.barrier.into()),
        ("weight", now.weight().into()),
        ("win_odds", now.odds().into()),
        ("horse_location_slug", located(Some(now.horse)).into()),
        ("jockey_location_slug", located(now.row.jockey_slug.as_deref()).into()),
        ("trainer_location_slug", located(now.row.trainer_slug.as_deref()).into()),
        // The purse, "0 if null".
        ("prize_money", race.row.total_prize_money.map_or(Ratio::ZERO, Ratio::from).into()),
        ("total_runners", now.field_size.into()),
        ("barrier_position", now.barrier_position().into()),
        ("track_condition_numeric", wording::going_number(race.row.track_condition.as_deref()).into()),
        ("rail_out_metres", rail.map(|(metres, _)| metres).into()),
        ("is_rail_true", rail.map(|(_, is_true)| f64::from(u8::from(is_true))).into()),
        // "max(1, `barrier` + `rail_out_metres`/3)".
        ("effective_barrier", barrier.zip(rail).map(|(barrier, (metres, _))| (barrier + metres / 3.0).max(1.0)).into()),
        ("is_wet_weather", i64::from(weather.contains("rain")).into()),
        ("estimated_temperature", temperature(now).into()),
        ("final_position", now.finish.into()),
        ("margin", now.finish.and(now.row.margin).map(Ratio::from).into()),
        ("raw_time_seconds", now.finish.and(finish_time(now)).into()),
    ])
}

/// "Any name containing 'synthetic' is Synthetic".
fn surface(now: &Runner<'_>) -> &'static str {
    if now.race.track.to_lowercase().contains("synthetic") { "Synthetic" } else { now.race.venue.surface }
}

/// The month table.
fn temperature(now: &Runner<'_>) -> i64 {
    let month = usize::try_from(now.race.row.race_date.month0()).expect("there are twelve");
    match now.race.filed.location {
        "HK" => [17, 17, 20, 24, 27, 29, 31, 31, 29, 26, 22, 18][month],
        "AU" => [28, 27, 24, 20, 16, 13, 12, 14, 17, 20, 23, 26][month],
        _ => 20,
    }
}

/// The runner against the other starters, on what was known before the race.
pub(super) fn comparison(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let field = book.field(now);
    let odds = |runner: &Runner<'_>, missing: i64| runner.odds().unwrap_or(Ratio::from(missing));
    let win_percentage = |runner: &Runner<'_>| career::win_percentage(&book.horse_runs(runner));
    let experience = |runner: &Runner<'_>| Ratio::from(count(&book.horse_runs(runner), |_| true));
    let last_five: Vec<&Runner<'_>> = book.earlier_days(now, Runner::local_horse).into_iter().rev().take(5).collect();
    let elo_percentile = percentile(&field, |rival| elo::horse_elo(book, rival) < elo::horse_elo(book, now));
    let odds_percentile = percentile(&field, |rival| odds(rival, 100) > odds(now, 100));
    let rank = 1 + count(&field, |rival| odds(rival, 999) < odds(now, 999));
    let vs_field = |of: &dyn Fn(&Runner<'_>) -> Ratio| {
        let average = mean(field.iter().map(|rival| of(rival))).filter(|&mean| mean > Ratio::ZERO);
        average.map_or(Ratio::ONE, |mean| (of(now) / mean).min(Ratio::from(5)).rounded(4))
    };
    let chance = now.odds().filter(|&odds| odds > Ratio::ZERO).map(|odds| Ratio::ONE / odds);
    let value = win_percentage(now) / Ratio::from(100) - chance.unwrap_or(Ratio::new(1, 10));
    Row::from([
        ("elo_percentile_in_race", elo_percentile.into()),
        ("odds_percentile_in_race", odds_percentile.into()),
        ("odds_rank_in_race", rank.into()),
        ("is_favorite", (rank == 1).into()),
        ("win_pct_vs_field_avg", vs_field(&win_percentage).into()),
        ("experience_vs_field_avg", vs_field(&experience).into()),
        ("odds_implied_probability", chance.map(|chance| chance.rounded(4)).into()),
        // "`win_percentage`/100 − q, q = 1/`win_odds` if odds > 0 else 0.1".
        ("value_indicator", value.rounded(4).into()),
        ("elo_vs_odds_gap", (elo_percentile - odds_percentile).into()),
        ("form_vs_odds_gap", (career::form_momentum(&last_five) - odds_percentile).into()),
    ])
}

/// "(rank − 1)/(runners − 1) …; ties share the lowest rank; 0 for one runner", to 4 decimals.
fn percentile<'w>(field: &[&Runner<'w>], is_ranked_below: impl Fn(&Runner<'w>) -> bool) -> Ratio {
    career::share(count(field, is_ranked_below), number_of(field) - 1)
}

/// "g = (track, barrier group). If n(g) >= 20: w(g)/n(g) − w(track)/n(track), else 0; null without a barrier group", and
/// "the ratio of the same two rates if n(g) >= 20 and w(track) > 0, else 1". Neither is bound to a horse.
pub(super) fn barrier_bias(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let at_track = book.prior(now, |run| Some(&run.race.track));
    let from_barrier = book.prior(now, |run| run.barrier_position().zip(Some(&run.race.track)));
    let rate = |runs: &[&Runner<'_>]| Ratio::new(wins(runs), number_of(runs));
    let is_known = from_barrier.len() >= 20;
    let advantage = if is_known { rate(&from_barrier) - rate(&at_track) } else { Ratio::ZERO };
    let is_won_at = is_known && wins(&at_track) > 0;
    let effectiveness = if is_won_at { rate(&from_barrier) / rate(&at_track) } else { Ratio::ONE };
    Row::from([
        ("barrier_advantage_at_track", now.barrier_position().map(|_| advantage.rounded(4)).into()),
        ("barrier_effectiveness_score", effectiveness.rounded(4).into()),
    ])
}
