//! Career, form and workload of the horse, and careers of its jockey and trainer.

use super::form_book::{FormBook, Runner, Runs};
use super::ratio::{Ratio, mean, rounded_deviation, rounded_double};
use super::{Row, count, elo, number_of, wording};

pub(super) fn wins(runs: &[&Runner<'_>]) -> i64 {
    count(runs, Runner::has_won)
}

pub(super) fn places(runs: &[&Runner<'_>]) -> i64 {
    count(runs, Runner::is_placed)
}

/// frac(a, b): "0 if b = 0, else a / b rounded to 4 decimals".
pub(super) fn share(part: i64, whole: i64) -> Ratio {
    if whole == 0 { Ratio::ZERO } else { Ratio::new(part, whole).rounded(4) }
}

/// `share` of the runs that were won.
pub(super) fn win_rate(runs: &[&Runner<'_>]) -> Ratio {
    share(wins(runs), number_of(runs))
}

/// `share` of the runs that were placed.
pub(super) fn place_rate(runs: &[&Runner<'_>]) -> Ratio {
    share(places(runs), number_of(runs))
}

/// "100 w / n, 0 if no prior run", to 2 decimals.
pub(super) fn win_percentage(runs: &[&Runner<'_>]) -> Ratio {
    percentage(runs, Runner::has_won)
}

fn percentage<'w>(runs: &[&Runner<'w>], holds: impl Fn(&Runner<'w>) -> bool) -> Ratio {
    mean(runs.iter().map(|run| holds(run))).map_or(Ratio::ZERO, |share| (share * Ratio::from(100)).rounded(2))
}

/// The last `length` of some runs, the most recent first.
fn last<'a, 'w>(length: usize, runs: &Runs<'a, 'w>) -> Runs<'a, 'w> {
    runs.iter().rev().take(length).copied().collect()
}

/// "Sum over i = 1..m of (m + 1 − i) [Li placed in top three], divided by m (m + 1) / 2; 0 if m = 0".
pub(super) fn form_momentum(last_five: &[&Runner<'_>]) -> Ratio {
    let weights = (1..=number_of(last_five)).rev();
    let all = weights.clone().sum();
    share(weights.zip(last_five).filter(|(_, run)| run.is_placed()).map(|(weight, _)| weight).sum(), all)
}

/// Counts, percentages, and the last five runs. Key H.
pub(super) fn of_horse(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let runs = book.horse_runs(now);
    let earlier = book.earlier_days(now, Runner::local_horse);
    let last_five = last(5, &earlier);
    let finishes = || last_five.iter().filter_map(|run| run.finish);
    let days = earlier.last().map(|run| now.race.days_since(run.race));
    let total = number_of(&runs);
    let locations = book.prior(now, Runner::horse);
    Row::from([
        ("total_races", total.into()),
        ("wins", wins(&runs).into()),
        ("places", places(&runs).into()),
        ("win_percentage", win_percentage(&runs).into()),
        ("place_percentage", percentage(&runs, Runner::is_placed).into()),
        ("is_first_timer", (total == 0).into()),
        ("never_placed_flag", (total > 0 && places(&runs) == 0).into()),
        ("days_since_last_race", days.into()),
        ("last_5_avg_position", mean(finishes()).map(|mean| mean.rounded(2)).into()),
        ("last_5_win_rate", win_rate(&last_five).into()),
        ("last_5_place_rate", place_rate(&last_five).into()),
        ("form_momentum", form_momentum(&last_five).into()),
        ("pos_volatility_last5", volatility(&finishes().collect::<Vec<_>>()).into()),
        ("form_recency_score", recency(days).into()),
        // "prior(h) holds at least two distinct locations".
        (
            "is_cross_region_horse",
            locations.iter().any(|run| run.race.filed.location != locations[0].race.filed.location).into(),
        ),
        ("runs_last_60_days", count(&runs, |run| now.race.days_since(run.race) <= 60).into()),
        ("runs_last_90_days", count(&runs, |run| now.race.days_since(run.race) <= 90).into()),
    ])
}

/// "Population standard deviation of L1..Lm, null if m < 2".
fn volatility(finishes: &[i64]) -> Option<Ratio> {
    let center = mean(finishes.iter().copied())?;
    let squares = finishes.iter().map(|&place| (Ratio::from(place) - center) * (Ratio::from(place) - center));
    (finishes.len() >= 2).then(|| mean(squares)).flatten().map(|variance| variance.rounded_root(2))
}

/// "By days since last race: null 0.5; <= 14 1.0; <= 28 0.9; …".
fn recency(days: Option<i64>) -> f64 {
    match days {
        None => 0.5,
        Some(..=14) => 1.0,
        Some(..=28) => 0.9,
        Some(..=42) => 0.8,
        Some(..=60) => 0.6,
        Some(..=90) => 0.4,
        Some(_) => 0.2,
    }
}

/// What the horse carried, and how its class and distance compare with earlier runs. Key H.
pub(super) fn profile(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let runs = book.horse_runs(now);
    let weight = mean(runs.iter().filter_map(|run| run.weight()));
    let weight_vs_avg =
        now.weight().map(|now| weight.filter(|&mean| mean > Ratio::ZERO).map_or(Ratio::ZERO, |mean| now - mean));
    let distances = || runs.iter().filter_map(|run| run.race.row.race_distance);
    let winning_distances = || runs.iter().filter(|run| run.has_won()).filter_map(|run| run.race.row.race_distance);
    let rating = |run: &Runner<'_>| wording::class_rating(run.race.row.race_class.as_deref(), run.race.venue.category);
    let level = |run: &Runner<'_>| wording::class_level(run.race.row.race_class.as_deref());
    let last_run = book.last_run(now);
    let last_rating = last_run.map(rating);
    let errors = runs.iter().filter_map(|run| run.finish).map(|place| (place - 3).abs());
    Row::from([
        ("weight_carried_avg", weight.map(|mean| mean.rounded(1)).into()),
        ("weight_vs_avg", weight_vs_avg.map(|difference| difference.rounded(2)).into()),
        ("class_rating", rating(now).into()),
        ("prev_class_rating", last_rating.into()),
        ("class_change", (rating(now) - last_rating.unwrap_or(rating(now))).into()),
        ("class_level_numeric", level(now).into()),
        ("is_stepping_up", last_run.is_some_and(|run| level(now) < level(run)).into()),
        ("is_stepping_down", last_run.is_some_and(|run| level(now) > level(run)).into()),
        ("distance_variance", rounded_deviation(distances(), 2).unwrap_or(Ratio::ZERO).into()),
        ("optimal_distance_min", winning_distances().min().unwrap_or(1000).into()),
        ("optimal_distance_max", winning_distances().max().unwrap_or(2400).into()),
        ("horse_model_pos_error", mean(errors).map_or(Ratio::new(7, 2), |mean| mean.rounded(4)).into()),
        ("horse_model_win_bias", win_bias(book, &runs).into()),
        ("horse_model_top3_bias", bias(&runs, Runner::is_placed, 3).into()),
    ])
}

/// "Mean over prior runs of [won] − 0.1 (E − 1100) / 600, E the rating before that run; 0 if none".
fn win_bias(book: &FormBook<'_>, runs: &[&Runner<'_>]) -> Ratio {
    let expected = |run: &Runner<'_>| (elo::horse_elo(book, run) - Ratio::from(1100)) / Ratio::from(6000);
    mean(runs.iter().map(|run| Ratio::from(run.has_won()) - expected(run))).map_or(Ratio::ZERO, |mean| mean.rounded(4))
}

/// Mean of what happened less so many tenths; 0 if there is no run.
fn bias<'w>(runs: &[&Runner<'w>], happened: impl Fn(&Runner<'w>) -> bool, tenths: i64) -> Ratio {
    let share = mean(runs.iter().map(|run| happened(run)));
    share.map_or(Ratio::ZERO, |share| (share - Ratio::new(tenths, 10)).rounded(4))
}

/// Rates and volumes of jockey and trainer, and what a debutant gets from them.
pub(super) fn of_people(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let rides = book.prior(now, Runner::local_jockey);
    let runs = book.prior(now, Runner::local_trainer);
    let last_rides = book.earlier_days(now, Runner::local_jockey);
    let last_runs = book.earlier_days(now, Runner::local_trainer);
    // "Mean final position of the last 20 …, 6.0 if none".
    let average = |length: usize, runs: &Runs<'_, '_>| {
        let recent = last(length, runs);
        mean(recent.iter().filter_map(|run| run.finish)).map_or(Ratio::from(6), |mean| mean.rounded(2))
    };
    let is_debut = book.horse_runs(now).is_empty();
    let ability = Ratio::new(1, 2) + win_rate(&runs) * Ratio::new(3, 10) + win_rate(&rides) * Ratio::new(2, 10);
    Row::from([
        ("jockey_win_rate", win_rate(&rides).into()),
        ("jockey_place_rate", place_rate(&rides).into()),
        ("jockey_model_win_bias", bias(&rides, Runner::has_won, 1).into()),
        ("jockey_model_top3_bias", bias(&rides, Runner::is_placed, 3).into()),
        ("jockey_avg_position_20", average(20, &last_rides).into()),
        ("jockey_avg_position_50", average(50, &last_rides).into()),
        // "Count of priorRR(j), any position, null included".
        ("jockey_total_rides", number_of(&book.prior_entries(now, Runner::jockey)).into()),
        ("trainer_win_rate", win_rate(&runs).into()),
        ("trainer_place_rate", place_rate(&runs).into()),
        ("trainer_model_win_bias", bias(&runs, Runner::has_won, 1).into()),
        ("trainer_model_top3_bias", bias(&runs, Runner::is_placed, 3).into()),
        ("trainer_avg_position_50", average(50, &last_runs).into()),
        ("trainer_avg_position_100", average(100, &last_runs).into()),
        ("trainer_total_runners", number_of(&book.prior_entries(now, Runner::trainer)).into()),
        ("debutant_x_jockey_wr", is_debut.then(|| win_rate(&rides)).into()),
        ("debutant_predicted_ability", is_debut.then(|| ability.rounded(4)).into()),
    ])
}

/// `track_distance_win_rate_weighted`: "(w/n) (1 + ln(n + 1) / 5); 0 if n = 0".
pub(super) fn weighted_win_rate(runs: &[&Runner<'_>]) -> Ratio {
    let total = number_of(runs);
    if total == 0 {
        return Ratio::ZERO;
    }
    let runs_and_one = Ratio::from(total + 1).to_f64();
    rounded_double(Ratio::new(wins(runs), total).to_f64() * (1.0 + runs_and_one.ln() / 5.0), 4)
}
