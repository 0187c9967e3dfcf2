//! Features that are a function of others in the same row: interactions, scores and flags.
//!
//! They read the columns as they are, rounded; a column that the catalogue does not round is computed in doubles.

use super::form_book::Runner;
use super::ratio::Ratio;
use super::{Row, Value, wording};

/// The columns of a row that are known so far.
struct Known<'a>(&'a Row);

impl<'a> Known<'a> {
    fn value(&self, name: &str) -> &'a Value {
        self.0.get(name).unwrap_or_else(|| panic!("{name} is not known yet"))
    }

    /// A number exactly.
    fn number(&self, name: &str) -> Option<Ratio> {
        match self.value(name) {
            Value::Null => None,
            Value::Int(number) => Some(Ratio::from(*number)),
            Value::Float(number) => Some(Ratio::of_decimal(*number)),
            other => panic!("{name} is {other:?}"),
        }
    }

    /// A number that is never null.
    fn of(&self, name: &str) -> Ratio {
        self.number(name).unwrap_or_else(|| panic!("{name} is null"))
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.number(name).map(Ratio::to_i64)
    }

    /// Null does not hold.
    fn holds(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Bool(true))
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        match self.value(name) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

fn percent(percent: i64) -> Ratio {
    Ratio::new(percent, 100)
}

/// "x limited to 0..1".
fn clip(x: f64) -> f64 {
    x.clamp(0.0, 1.0)
}

/// Whether the price is longer than so much; no price is not.
fn is_longer(known: &Known<'_>, odds: i64) -> bool {
    known.number("win_odds").is_some_and(|price| price > Ratio::from(odds))
}

pub(super) fn features(row: &Row, now: &Runner<'_>) -> Row {
    let known = Known(row);
    [interactions(&known, now), style(&known, now), barrier(&known, now), market(&known), form(&known), people(&known)]
        .into_iter()
        .flatten()
        .collect()
}

/// Section 6.2, without the style. "E = nz(`horse_elo`, 1200); b = nz(`barrier`, 1); s = +1 clockwise, −1 anticlockwise".
fn interactions(known: &Known<'_>, now: &Runner<'_>) -> Row {
    let elo = known.of("horse_elo") / Ratio::from(1200);
    let stall = Ratio::from(now.row.barrier.unwrap_or(1));
    let field = Ratio::from(now.field_size);
    let distance = now.race.row.race_distance;
    let weight = known.number("weight").unwrap_or(Ratio::from(55)) / Ratio::from(55);
    let (jockey, trainer) = (known.of("jockey_win_rate"), known.of("trainer_win_rate"));
    let (momentum, vs_field) = (known.of("form_momentum"), known.of("win_pct_vs_field_avg"));
    let by_distance = distance.filter(|&distance| distance > 0).map(|distance| stall / Ratio::new(distance, 200));
    let product = |one: &str, other: &str| (known.of(one) * known.of(other)).rounded(4);
    let level = percent(30) * known.of("elo_percentile_in_race")
        + percent(25) * vs_field / Ratio::from(5)
        + percent(60) * jockey
        + percent(45) * trainer
        + percent(10) * momentum;
    let early = known.number("avg_early_position_800m").filter(|_| now.field_size > 1);
    let early = early.map(|place| place / field * Ratio::new(distance.unwrap_or(1200), 1200));
    Row::from([
        ("elo_x_jockey_win_rate", (elo * jockey).rounded(4).into()),
        ("elo_x_trainer_win_rate", (elo * trainer).rounded(4).into()),
        ("weight_x_elo", (weight * elo).rounded(4).into()),
        ("barrier_x_total_runners", (stall / field).rounded(4).into()),
        ("barrier_x_distance", by_distance.map_or(Ratio::ZERO, |quotient| quotient.rounded(4)).into()),
        ("barrier_x_direction", (direction(known) * (Ratio::ONE - stall / field)).rounded(4).into()),
        ("jockey_wr_x_trainer_wr", product("jockey_win_rate", "trainer_win_rate").into()),
        ("jockey_place_x_trainer_place", product("jockey_place_rate", "trainer_place_rate").into()),
        ("form_x_freshness", product("form_momentum", "form_recency_score").into()),
        ("track_wr_x_distance_wr", product("track_win_rate", "distance_win_rate").into()),
        ("historical_early_pos_x_distance", early.map_or(percent(50), |product| product.rounded(4)).into()),
        ("competitive_level_score", level.rounded(4).into()),
    ])
}

fn direction(known: &Known<'_>) -> Ratio {
    Ratio::from(if known.text("track_direction") == Some("clockwise") { 1 } else { -1 })
}

/// What follows from the running style. An unknown distance is within no limit.
#[expect(clippy::match_same_arms, reason = "the arms are in the catalogue's order")]
fn style(known: &Known<'_>, now: &Runner<'_>) -> Row {
    let style = known.text("running_style").unwrap_or_default();
    let barrier = known.text("barrier_position");
    let distance = now.race.row.race_distance;
    let at_most = |limit: i64| distance.is_some_and(|distance| distance <= limit);
    let below = |limit: i64| distance.is_some_and(|distance| distance < limit);
    let at_least = |limit: i64| distance.is_some_and(|distance| distance >= limit);
    let x_direction = match style {
        "leader" => percent(100),
        "on_pace" => percent(50),
        "off_pace" => percent(-50),
        "closer" => percent(-100),
        _ => Ratio::ZERO,
    };
    let x_distance = match style {
        "leader" if at_most(1200) => 1.0,
        "leader" if at_most(1600) => 0.75,
        "leader" => 0.4,
        "on_pace" if at_most(1400) => 0.8,
        "on_pace" if at_most(2000) => 0.7,
        "on_pace" => 0.55,
        "midfield" => 0.6,
        "off_pace" if at_least(1800) => 0.7,
        "off_pace" => 0.55,
        "closer" if at_least(2000) => 1.0,
        "closer" if at_least(1600) => 0.85,
        _ => 0.5,
    };
    let x_barrier = match (style, barrier) {
        ("leader", Some("inner")) => 1.0,
        ("leader", Some("middle")) => 0.5,
        ("leader", _) => 0.2,
        ("on_pace", Some("inner")) => 0.8,
        ("on_pace", Some("middle")) => 0.7,
        ("on_pace", _) => 0.4,
        ("closer", Some("middle")) => 0.5,
        ("closer", Some("outer")) => 0.6,
        ("closer", _) => 0.4,
        _ => 0.5,
    };
    let vs_barrier = match (style, barrier) {
        ("midfield", _) => 0.6,
        ("leader", Some("inner")) => 1.0,
        ("leader", Some("middle")) => 0.6,
        ("leader", Some("outer")) => 0.3,
        ("on_pace", Some("inner")) => 0.9,
        ("on_pace", Some("middle")) => 0.8,
        ("on_pace", Some("outer")) => 0.5,
        ("closer" | "off_pace", Some("inner")) => 0.5,
        ("closer" | "off_pace", Some("middle")) => 0.6,
        ("closer" | "off_pace", Some("outer")) => 0.7,
        _ => 0.5,
    };
    let fit = match style {
        "leader" if below(1200) => 0.9,
        "leader" if below(1600) => 0.7,
        "on_pace" if at_least(1200) && at_most(1800) => 0.85,
        "midfield" => 0.7,
        "closer" if at_least(2000) => 0.95,
        "closer" if at_least(1600) => 0.85,
        _ => 0.5,
    };
    let leading = match style {
        "leader" if below(1200) => 0.8,
        "leader" if below(1600) => 0.5,
        "leader" => 0.2,
        "closer" => -0.3,
        _ => 0.0,
    };
    let position = match style {
        "leader" => "leading",
        "on_pace" => "prominent",
        "midfield" => "midfield",
        "off_pace" | "closer" => "back",
        _ => "unknown",
    };
    let gain = known.number("historical_avg_improvement");
    let closing = gain.map_or(0.5, |gain| clip(0.5 + gain.to_f64() / 10.0));
    let early = known.number("avg_early_position_800m");
    let late = known.number("avg_mid_position_400m");
    let speed = early.filter(|_| now.field_size > 1);
    let speed = speed.map_or(0.5, |early| clip(1.0 - early.to_f64() / Ratio::from(now.field_size).to_f64()));
    let sustained = early.zip(late).map_or(0.5, |(early, late)| clip(0.5 + (early.to_f64() - late.to_f64()) / 10.0));
    Row::from([
        ("with_running_style", f64::from(u8::from(style != "unknown")).into()),
        ("speed_map_position", position.into()),
        ("running_style_x_direction", (direction(known) * x_direction).rounded(4).into()),
        ("running_style_x_distance_bucket", x_distance.into()),
        ("running_style_x_barrier", x_barrier.into()),
        ("barrier_vs_run_style", vs_barrier.into()),
        ("running_style_distance_fit", fit.into()),
        ("leader_advantage_score", leading.into()),
        ("closing_ability_score", closing.into()),
        ("early_speed_score", speed.into()),
        ("sustained_run_score", sustained.into()),
        ("historical_late_improvement", gain.unwrap_or(Ratio::ZERO).into()),
        ("avg_late_improvement", gain.unwrap_or(Ratio::ZERO).into()),
        ("strong_closer_flag", (closing > 0.7 && ["closer", "off_pace"].contains(&style)).into()),
    ])
}

/// Barrier, rail and weight.
fn barrier(known: &Known<'_>, now: &Runner<'_>) -> Row {
    let position = known.text("barrier_position");
    let going = known.int("track_condition_numeric");
    let distance = now.race.row.race_distance;
    let by_going = match (going, position) {
        (Some(..=2), Some("inner")) => 15,
        (Some(..=2), Some("middle")) => 10,
        (Some(4..), Some("outer")) => 8,
        _ => 0,
    };
    let by_distance = match (distance, position) {
        (Some(2001..), Some("inner")) => 10,
        (Some(2001..), Some("middle")) => 5,
        _ => 0,
    };
    let stall = now.row.barrier.map(|barrier| Ratio::from(barrier).to_f64());
    let rail = wording::rail(now.race.row.track_info.as_deref()).map(|(metres, _)| metres);
    let adjusted = stall.zip(rail).zip(distance).map(|((stall, rail), distance)| {
        f64::from(u8::from(distance <= 1200 && stall <= 6.0 + (rail / 3.0).round_ties_even()))
    });
    let weight = known.number("weight_vs_avg").unwrap_or(Ratio::ZERO) * Ratio::new(distance.unwrap_or(1400), 1400);
    Row::from([
        ("barrier_track_condition_advantage", percent(by_going + by_distance).into()),
        ("rail_out_x_barrier", stall.zip(rail).map(|(stall, rail)| rail * stall).into()),
        ("barrier_advantage_rail_adjusted", adjusted.into()),
        ("weight_relative_x_distance", weight.rounded(4).into()),
    ])
}

/// Price against form and rating.
fn market(known: &Known<'_>) -> Row {
    let won = known.of("win_percentage") / Ratio::from(100);
    let (momentum, elo) = (known.of("form_momentum"), known.of("elo_percentile_in_race"));
    let rank = known.int("odds_rank_in_race").unwrap_or_default();
    let chance = known.number("win_odds").filter(|&odds| odds > Ratio::ZERO).map(|odds| Ratio::ONE / odds);
    let value = chance.filter(|_| won > Ratio::ZERO).map_or(Ratio::ZERO, |chance| (won - chance).rounded(4));
    let rates = ["jockey_win_rate", "trainer_win_rate"];
    let against_grain = match () {
        () if elo > percent(70) && rank > 3 => 0.8,
        () if elo > percent(50) && rank > 5 => 0.5,
        () => 0.2,
    };
    let profile = match () {
        () if is_longer(known, 15) && momentum > percent(50) => 0.8,
        () if is_longer(known, 10) && momentum > percent(40) => 0.5,
        () => 0.2,
    };
    let is_unlikely = known.number("odds_implied_probability").is_some_and(|chance| chance < percent(15));
    let peak =
        percent(40) * momentum + percent(30) * elo + percent(30) * known.of("win_pct_vs_field_avg") / Ratio::from(5);
    Row::from([
        ("is_longshot", is_longer(known, 20).into()),
        ("odds_value_score", value.into()),
        ("market_undervalued", (won > Ratio::new(12, 10) * chance.unwrap_or(Ratio::ZERO)).into()),
        ("improving_longshot", (momentum > percent(60) && is_longer(known, 10)).into()),
        ("class_drop_longshot", (known.of("class_change") < Ratio::ZERO && is_longer(known, 10)).into()),
        ("connection_longshot", (rates.iter().any(|name| known.of(name) > percent(15)) && is_longer(known, 10)).into()),
        ("against_grain_score", against_grain.into()),
        ("longshot_value_profile", profile.into()),
        ("historical_value_winner", (won > percent(20) && is_unlikely).into()),
        ("peak_performance_indicator", peak.rounded(4).into()),
    ])
}

/// "By `races_at_distance`: >= 10 3, >= 5 2, >= 1 1, else 0", with other limits for a whole career.
fn level(runs: i64, limits: &[i64]) -> Value {
    i64::try_from(limits.iter().filter(|&&limit| runs >= limit).count()).expect("a few").into()
}

/// Class, distance, experience and freshness.
fn form(known: &Known<'_>) -> Row {
    let count = |name: &str| known.int(name).unwrap_or_default();
    let (runs, at_distance, at_track) = (count("total_races"), count("races_at_distance"), count("races_at_track"));
    let days = known.int("days_since_last_race");
    let in_90_days = count("runs_last_90_days");
    let distance_rate = known.of("distance_win_rate");
    let is_suited = at_distance > 0 && distance_rate > Ratio::ZERO;
    let roi = match known.of("wins") > Ratio::ZERO {
        true => (known.of("win_percentage") / Ratio::from(10) - Ratio::ONE).rounded(4),
        false => Ratio::from(-1),
    };
    // 0.3 for the track, 0.3 and 0.2 for the distance, 0.2 for the going.
    let special = Ratio::new(3, 10) * Ratio::from(at_track >= 5)
        + Ratio::new(5, 10) * Ratio::from(at_distance >= 5)
        + Ratio::new(2, 10) * Ratio::from(count("track_condition_wins") >= 2);
    let track_rate = known.of("track_win_rate");
    let is_above_average = track_rate > Ratio::new(15, 10) * known.of("win_percentage") / Ratio::from(100);
    let preference = match known.holds("has_won_at_track_distance") {
        true => 0.9,
        false if known.holds("has_won_at_track") || known.holds("has_won_at_distance") => 0.6,
        false => 0.3,
    };
    let maturity = Ratio::from(runs + 1).to_f64().ln() / 21.0_f64.ln();
    Row::from([
        ("class_drop", (known.of("class_change") < Ratio::ZERO).into()),
        ("class_rise", (known.of("class_change") > Ratio::ZERO).into()),
        ("is_class_drop", (known.of("class_change") < Ratio::ZERO).into()),
        ("distance_suited_score", (if is_suited { (0.5 + distance_rate.to_f64()).min(1.0) } else { 0.5 }).into()),
        ("distance_experience_level", level(at_distance, &[1, 5, 10])),
        ("track_experience_level", level(at_track, &[1, 5, 10])),
        ("race_experience_level", level(runs, &[1, 5, 15, 30])),
        ("distance_range_experience", at_distance.into()),
        ("distance_range_win_rate", distance_rate.into()),
        ("has_recent_form", days.is_some_and(|days| days <= 30).into()),
        ("has_winning_form", (known.of("last_5_win_rate") > Ratio::ZERO).into()),
        ("avg_days_between_runs", (in_90_days > 1).then(|| Ratio::new(90, in_90_days).rounded(1)).into()),
        ("career_roi_estimate", roi.into()),
        ("consistency_score", (known.of("place_percentage") / Ratio::from(100)).rounded(4).into()),
        ("specialization_score", special.into()),
        ("is_track_specialist", (is_above_average && track_rate > Ratio::ZERO && runs >= 5).into()),
        ("track_distance_preference", preference.into()),
        ("experienced_horse_flag", (runs >= 10).into()),
        ("horse_prediction_history_count", runs.into()),
        ("feature_maturity_score", maturity.min(1.0).into()),
        ("extreme_staleness_flag", (days.unwrap_or(0) > 180).into()),
        ("low_sample_flag", (runs < 3).into()),
        (
            "debutant_uncertainty_score",
            match runs {
                ..=0 => 1.0,
                1..=3 => 0.7,
                4..=6 => 0.4,
                _ => 0.1,
            }
            .into(),
        ),
    ])
}

/// Jockey and trainer.
fn people(known: &Known<'_>) -> Row {
    let few = |name: &str| known.of(name) < Ratio::from(10);
    let of_debut = known.holds("is_first_timer").then(|| known.of("trainer_win_rate"));
    Row::from([
        ("new_jockey_flag", few("jockey_total_rides").into()),
        ("new_trainer_flag", few("trainer_total_runners").into()),
        ("debutant_x_trainer_wr", of_debut.into()),
    ])
}
