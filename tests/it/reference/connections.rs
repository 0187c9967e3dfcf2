//! The horse, its jockey and its trainer together, and each of them under the same circumstances as today.

use super::career::{place_rate, share, weighted_win_rate, win_percentage, win_rate, wins};
use super::form_book::{FormBook, Runner, Runs};
use super::ratio::Ratio;
use super::{Row, count, number_of, wording};

/// Pairs of horse, jockey, trainer and track. Only the horse is bound to the location.
pub(super) fn pairs(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let with_jockey = book.prior(now, |run| run.local_horse().zip(run.jockey()));
    let jockey_and_trainer = book.prior(now, |run| run.jockey().zip(run.trainer()));
    let jockey_at_track = book.prior(now, |run| run.jockey().zip(Some(&run.race.track)));
    let trainer_at_track = book.prior(now, |run| run.trainer().zip(Some(&run.race.track)));
    // "n >= 3 and w/n > 0.2", "n >= 5 and w/n > 0.15".
    let is_strong_jockey = with_jockey.len() >= 3 && exact_win_rate(&with_jockey) > Ratio::new(1, 5);
    let is_strong_trainer = jockey_and_trainer.len() >= 5 && exact_win_rate(&jockey_and_trainer) > Ratio::new(3, 20);
    let score = Ratio::new(5, 10) * win_rate(&with_jockey)
        + Ratio::new(3, 10) * win_rate(&jockey_and_trainer)
        + Ratio::new(1, 10) * Ratio::from(is_strong_jockey)
        + Ratio::new(1, 10) * Ratio::from(is_strong_trainer);
    Row::from([
        ("jockey_horse_connection_races", number_of(&with_jockey).into()),
        ("jockey_horse_connection_wins", wins(&with_jockey).into()),
        ("jockey_horse_connection_win_rate", win_rate(&with_jockey).into()),
        ("strong_jockey_connection", is_strong_jockey.into()),
        ("jockey_trainer_connection_races", number_of(&jockey_and_trainer).into()),
        ("jockey_trainer_connection_wins", wins(&jockey_and_trainer).into()),
        ("jockey_trainer_connection_win_rate", win_rate(&jockey_and_trainer).into()),
        ("strong_trainer_connection", is_strong_trainer.into()),
        ("total_connection_score", score.rounded(4).into()),
        ("jockey_track_win_rate", win_rate(&jockey_at_track).into()),
        ("trainer_track_win_rate", win_rate(&trainer_at_track).into()),
    ])
}

/// w / n, not rounded; 0 without runs.
fn exact_win_rate(runs: &[&Runner<'_>]) -> Ratio {
    if runs.is_empty() { Ratio::ZERO } else { Ratio::new(wins(runs), number_of(runs)) }
}

/// The horse at this distance, track, barrier and going. Key H and one thing more.
pub(super) fn circumstances(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let runs = book.horse_runs(now);
    let alike = |is_alike: &dyn Fn(&Runner<'_>) -> bool| -> Runs<'_, '_> {
        runs.iter().filter(|run| is_alike(run)).copied().collect()
    };
    let is_same_range = |run: &Runner<'_>| run.race.distance_range() == now.race.distance_range();
    let is_same_track = |run: &Runner<'_>| run.race.track == now.race.track;
    let at_distance = alike(&is_same_range);
    let at_track = alike(&is_same_track);
    let at_both = alike(&|run| is_same_track(run) && is_same_range(run));
    let in_category = alike(&|run| run.race.venue.category == now.race.venue.category);
    let barrier = now.barrier_position();
    let from_barrier = alike(&|run| barrier.is_some() && run.barrier_position() == barrier);
    let going = now.race.row.track_condition.as_ref();
    let on_going = alike(&|run| going.is_some() && run.race.row.track_condition.as_ref() == going);
    let group = |run: &Runner<'_>| wording::going_group(run.race.row.track_condition.as_deref());
    let in_group = alike(&|run| group(run) == group(now));
    // "If n(H, g) >= 2: w/n − `win_percentage`/100, else 0; null if going is null".
    let advantage = match in_group.len() {
        0 | 1 => Ratio::ZERO,
        _ => exact_win_rate(&in_group) - win_percentage(&runs) / Ratio::from(100),
    };
    Row::from([
        ("races_at_distance", number_of(&at_distance).into()),
        ("distance_win_rate", win_rate(&at_distance).into()),
        ("races_at_track", number_of(&at_track).into()),
        ("track_win_rate", win_rate(&at_track).into()),
        ("track_place_rate", place_rate(&at_track).into()),
        ("track_category_win_rate", win_rate(&in_category).into()),
        ("track_distance_experience", number_of(&at_both).into()),
        ("track_distance_win_rate_weighted", weighted_win_rate(&at_both).into()),
        ("horse_barrier_group_starts", number_of(&from_barrier).into()),
        ("horse_barrier_group_win_rate", win_rate(&from_barrier).into()),
        ("track_condition_wins", wins(&on_going).into()),
        ("track_condition_advantage", group(now).map(|_| advantage.rounded(4)).into()),
    ])
}

/// Wet and dry runs of the horse: "c >= 5" and "c <= 3 (c = 4 is neither)".
pub(super) fn weather_preference(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let going = |run: &Runner<'_>| wording::going_number(run.race.row.track_condition.as_deref());
    let is_wet = |run: &Runner<'_>| going(run).map(|going| going >= 5);
    let is_dry = |run: &Runner<'_>| going(run).map(|going| going <= 3);
    let runs = book.horse_runs(now);
    let wet: Runs<'_, '_> = runs.iter().filter(|run| is_wet(run) == Some(true)).copied().collect();
    let dry: Runs<'_, '_> = runs.iter().filter(|run| is_dry(run) == Some(true)).copied().collect();
    let (wet_rate, dry_rate) = (win_rate(&wet), win_rate(&dry));
    let matched = match (is_wet(now), is_dry(now)) {
        (Some(true), _) if wet_rate > dry_rate => 0.8,
        (Some(true), _) => -0.3,
        (_, Some(true)) if dry_rate > wet_rate => 0.5,
        (_, Some(true)) => -0.1,
        _ => 0.0,
    };
    Row::from([
        ("is_wet_track", is_wet(now).into()),
        ("horse_wet_track_runs", number_of(&wet).into()),
        ("horse_dry_track_runs", number_of(&dry).into()),
        ("horse_wet_track_win_rate", wet_rate.into()),
        ("horse_dry_track_win_rate", dry_rate.into()),
        ("wet_dry_preference_score", (wet_rate - dry_rate).into()),
        ("weather_condition_match", matched.into()),
    ])
}

/// Metro wins, and wins at the same track (as filed), distance bucket or both, wherever the horse ran. Key h, over all
/// starts, codes for not finishing included.
pub(super) fn wins_anywhere(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let starts = book.prior_entries(now, |run| run.is_starter.then_some(run.horse));
    let metro_wins: Runs<'_, '_> =
        starts.iter().filter(|run| run.race.filed.is_metro_venue && run.has_won()).copied().collect();
    let metro_starts = count(&starts, |run| run.race.filed.is_metro_venue && run.row.position.is_some());
    let bucket = |run: &Runner<'_>| run.race.row.race_distance.map(|distance| distance / 200);
    let track = now.race.row.track_name.as_ref();
    let is_same_track = |run: &Runner<'_>| track.is_some() && run.race.row.track_name.as_ref() == track;
    let is_same_bucket = |run: &Runner<'_>| bucket(now).is_some() && bucket(run) == bucket(now);
    let has_won = |is_alike: &dyn Fn(&Runner<'_>) -> bool| starts.iter().any(|run| run.has_won() && is_alike(run));
    let metro_wins_count = number_of(&metro_wins);
    Row::from([
        ("has_won_at_metro", i64::from(metro_wins_count > 0).into()),
        ("days_since_metro_win", metro_wins.iter().map(|run| now.race.days_since(run.race)).min().into()),
        ("metro_wins_count", metro_wins_count.into()),
        ("metro_win_rate", (metro_starts > 0).then(|| share(metro_wins_count, metro_starts)).into()),
        ("has_won_at_track", has_won(&is_same_track).into()),
        ("has_won_at_distance", has_won(&is_same_bucket).into()),
        ("has_won_at_track_distance", has_won(&|run| is_same_track(run) && is_same_bucket(run)).into()),
    ])
}
