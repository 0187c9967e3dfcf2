//! A slow, plain reference of the features: the sentences of the feature catalogue as loops over earlier runs.
//!
//! The phases compute histories with windows, running sums and integer keys. Here one rule, [`RaceFacts::precedes`], says
//! which race comes before which, every history is a filter by that rule, and all numbers are exact fractions until they
//! are rounded. Both get the same small worlds, made to contain every quirk of the sources, and must give the same values,
//! bit for bit. See `check.rs` for the comparison and `generate.rs` for the worlds.
//!
//! [`RaceFacts::precedes`]: form_book::RaceFacts::precedes

mod career;
mod check;
mod connections;
mod elo;
mod field;
mod form_book;
mod generate;
mod outlines;
mod ratio;
mod row_wise;
mod running;
mod sectionals;
mod tracks;
mod wording;
mod world;

use std::collections::BTreeMap;

use form_book::{FormBook, Runner};
use ratio::Ratio;
use world::World;

/// A value of the dataset.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

/// The values of one row by column.
pub(crate) type Row = BTreeMap<&'static str, Value>;

/// The columns that the reference leaves out: they are as the source has them, or the time of the run.
pub(crate) const AS_PULLED: [&str; 14] = [
    "race_id",
    "race_date",
    "race_distance",
    "race_class",
    "track_condition",
    "track_weather",
    "race_weather",
    "horse_slug",
    "jockey",
    "jockey_slug",
    "trainer",
    "trainer_slug",
    "created_at",
    "updated_at",
];

/// The columns that the reference covers: all others.
pub(crate) const COLUMNS: [&str; 232] = [
    // The race and the runner.
    "race_number",
    "track_name",
    "location",
    "track_direction",
    "track_category",
    "track_type",
    "distance_range",
    "is_maiden_race",
    "is_handicap_race",
    "age_restriction",
    "sex_restriction",
    "horse_name",
    "horse_number",
    "barrier",
    "weight",
    "win_odds",
    "horse_location_slug",
    "jockey_location_slug",
    "trainer_location_slug",
    "prize_money",
    "total_runners",
    "barrier_position",
    "track_condition_numeric",
    "rail_out_metres",
    "is_rail_true",
    "effective_barrier",
    "is_wet_weather",
    "estimated_temperature",
    "final_position",
    "margin",
    "raw_time_seconds",
    // The field and the market.
    "elo_percentile_in_race",
    "odds_percentile_in_race",
    "odds_rank_in_race",
    "is_favorite",
    "win_pct_vs_field_avg",
    "experience_vs_field_avg",
    "odds_implied_probability",
    "value_indicator",
    "elo_vs_odds_gap",
    "form_vs_odds_gap",
    // The barrier.
    "barrier_advantage_at_track",
    "barrier_effectiveness_score",
    // Career and form.
    "total_races",
    "wins",
    "places",
    "win_percentage",
    "place_percentage",
    "is_first_timer",
    "never_placed_flag",
    "days_since_last_race",
    "last_5_avg_position",
    "last_5_win_rate",
    "last_5_place_rate",
    "form_momentum",
    "pos_volatility_last5",
    "form_recency_score",
    "is_cross_region_horse",
    "runs_last_60_days",
    "runs_last_90_days",
    // Weight, class and distance.
    "weight_carried_avg",
    "weight_vs_avg",
    "class_rating",
    "prev_class_rating",
    "class_change",
    "class_level_numeric",
    "is_stepping_up",
    "is_stepping_down",
    "distance_variance",
    "optimal_distance_min",
    "optimal_distance_max",
    "horse_model_pos_error",
    "horse_model_win_bias",
    "horse_model_top3_bias",
    // Jockey and trainer.
    "jockey_win_rate",
    "jockey_place_rate",
    "jockey_model_win_bias",
    "jockey_model_top3_bias",
    "jockey_avg_position_20",
    "jockey_avg_position_50",
    "jockey_total_rides",
    "trainer_win_rate",
    "trainer_place_rate",
    "trainer_model_win_bias",
    "trainer_model_top3_bias",
    "trainer_avg_position_50",
    "trainer_avg_position_100",
    "trainer_total_runners",
    "debutant_x_jockey_wr",
    "debutant_predicted_ability",
    // Rating.
    "horse_elo",
    "is_elo_default",
    "elo_races_count",
    // Connections.
    "jockey_horse_connection_races",
    "jockey_horse_connection_wins",
    "jockey_horse_connection_win_rate",
    "strong_jockey_connection",
    "jockey_trainer_connection_races",
    "jockey_trainer_connection_wins",
    "jockey_trainer_connection_win_rate",
    "strong_trainer_connection",
    "total_connection_score",
    "jockey_track_win_rate",
    "trainer_track_win_rate",
    // The horse under the same circumstances.
    "races_at_distance",
    "distance_win_rate",
    "races_at_track",
    "track_win_rate",
    "track_place_rate",
    "track_category_win_rate",
    "track_distance_experience",
    "track_distance_win_rate_weighted",
    "horse_barrier_group_starts",
    "horse_barrier_group_win_rate",
    "track_condition_wins",
    "track_condition_advantage",
    // Wet and dry.
    "is_wet_track",
    "horse_wet_track_runs",
    "horse_dry_track_runs",
    "horse_wet_track_win_rate",
    "horse_dry_track_win_rate",
    "wet_dry_preference_score",
    "weather_condition_match",
    // Metro and similar wins.
    "has_won_at_metro",
    "days_since_metro_win",
    "metro_wins_count",
    "metro_win_rate",
    "has_won_at_track",
    "has_won_at_distance",
    "has_won_at_track_distance",
    // Places in running.
    "avg_early_position_800m",
    "avg_mid_position_400m",
    "historical_avg_improvement",
    "avg_pos_400m",
    "avg_late_surge",
    "running_style",
    "early_speed_pct",
    "strong_finish_pct",
    "pos_volatility_800",
    "finishing_kick_consistency",
    // Faders and closers.
    "fader_count",
    "fader_rate",
    "closer_count",
    "closer_rate",
    "front_count",
    "front_rate",
    "is_historical_fader",
    "avg_improvement_from_400m",
    "front_closer_score",
    "sprint_fader_rate",
    "staying_leader_rate",
    // Splits.
    "avg_pos_200m",
    "avg_sectional_400m",
    "avg_sectional_800m",
    "avg_cumulative_800m",
    "sectional_time_consistency",
    "early_vs_mid_pace_change",
    "historical_speed_vs_field",
    // Margins and the break.
    "hist_margin_400m_avg",
    "hist_margin_800m_avg",
    "hist_margin_gain_800_to_400",
    "hist_deceleration_ratio",
    "hist_break_bias",
    "hist_break_consistency",
    // Speed.
    "avg_speed_figure",
    "best_speed_figure",
    // What follows from other columns of the row.
    "elo_x_jockey_win_rate",
    "elo_x_trainer_win_rate",
    "weight_x_elo",
    "barrier_x_total_runners",
    "barrier_x_distance",
    "barrier_x_direction",
    "jockey_wr_x_trainer_wr",
    "jockey_place_x_trainer_place",
    "form_x_freshness",
    "track_wr_x_distance_wr",
    "historical_early_pos_x_distance",
    "competitive_level_score",
    "with_running_style",
    "speed_map_position",
    "running_style_x_direction",
    "running_style_x_distance_bucket",
    "running_style_x_barrier",
    "barrier_vs_run_style",
    "running_style_distance_fit",
    "leader_advantage_score",
    "closing_ability_score",
    "early_speed_score",
    "sustained_run_score",
    "historical_late_improvement",
    "avg_late_improvement",
    "strong_closer_flag",
    "barrier_track_condition_advantage",
    "rail_out_x_barrier",
    "barrier_advantage_rail_adjusted",
    "weight_relative_x_distance",
    "is_longshot",
    "odds_value_score",
    "market_undervalued",
    "improving_longshot",
    "class_drop_longshot",
    "connection_longshot",
    "against_grain_score",
    "longshot_value_profile",
    "historical_value_winner",
    "peak_performance_indicator",
    "class_drop",
    "class_rise",
    "is_class_drop",
    "distance_suited_score",
    "distance_experience_level",
    "track_experience_level",
    "race_experience_level",
    "distance_range_experience",
    "distance_range_win_rate",
    "has_recent_form",
    "has_winning_form",
    "avg_days_between_runs",
    "career_roi_estimate",
    "consistency_score",
    "specialization_score",
    "is_track_specialist",
    "track_distance_preference",
    "experienced_horse_flag",
    "horse_prediction_history_count",
    "feature_maturity_score",
    "extreme_staleness_flag",
    "low_sample_flag",
    "debutant_uncertainty_score",
    "new_jockey_flag",
    "new_trainer_flag",
    "debutant_x_trainer_wr",
];

/// The rows of the dataset by `race_id` and `horse_slug`: every finisher, and every declared runner of a race without a
/// result. Each row has exactly [`COLUMNS`].
pub(crate) fn reference(world: &World) -> BTreeMap<(String, String), Row> {
    let races = form_book::race_facts(world);
    let book = FormBook::new(world, &races);
    let rows = book.runners.iter().filter(|runner| runner.is_in_dataset());
    rows.map(|now| ((now.race.row.race_id.clone(), now.horse.to_owned()), features(&book, now))).collect()
}

fn features(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let groups = [
        field::base(now),
        field::comparison(book, now),
        field::barrier_bias(book, now),
        career::of_horse(book, now),
        career::profile(book, now),
        career::of_people(book, now),
        elo::features(book, now),
        connections::pairs(book, now),
        connections::circumstances(book, now),
        connections::weather_preference(book, now),
        connections::wins_anywhere(book, now),
        sectionals::running_style(book, now),
        sectionals::patterns(book, now),
        sectionals::splits(book, now),
        sectionals::margins_and_break(book, now),
        sectionals::speed(book, now),
    ];
    let mut row: Row = groups.into_iter().flatten().collect();
    row.extend(row_wise::features(&row, now));
    row
}

/// How many runs there are.
fn number_of(runs: &[&Runner<'_>]) -> i64 {
    count(runs, |_| true)
}

/// How many of some runs are so.
fn count<'w>(runs: &[&Runner<'w>], is_so: impl Fn(&Runner<'w>) -> bool) -> i64 {
    i64::try_from(runs.iter().filter(|run| is_so(run)).count()).expect("a small world")
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<Ratio> for Value {
    fn from(value: Ratio) -> Self {
        Self::Float(value.to_f64())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
