//! How the horse ran its earlier races: places in running, splits, margins, times.

use super::career::share;
use super::form_book::{FormBook, Runner, Runs};
use super::ratio::{Ratio, mean, rounded_deviation, rounded_double, variance};
use super::running::time;
use super::world::{Margin, Millis, Sectional};
use super::{Row, count, number_of};

fn early(run: &Runner<'_>) -> Option<i64> {
    run.places.at_800m
}

fn late(run: &Runner<'_>) -> Option<i64> {
    run.places.at_400m
}

/// Places won between a place in running and the post. Prior runs have finished.
fn gain(place: Option<i64>, run: &Runner<'_>) -> Option<i64> {
    Some(place? - run.finish?)
}

/// Places with 800 m and 400 m to go in prior runs. Key H.
pub(super) fn running_style(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let runs = book.horse_runs(now);
    let known_early: Runs<'_, '_> = runs.iter().filter(|run| early(run).is_some()).copied().collect();
    let known_late: Runs<'_, '_> = runs.iter().filter(|run| late(run).is_some()).copied().collect();
    let average = |values: &mut dyn Iterator<Item = i64>| mean(values).map(|mean| mean.rounded(2));
    let avg_early = average(&mut runs.iter().filter_map(|run| early(run)));
    // A missing 800 m place counts as 0.
    let mut surges = known_late.iter().filter_map(|run| gain(Some(early(run).unwrap_or(0)), run));
    let in_fields = known_early.iter().filter(|run| run.field_size > 1);
    let in_first_quarter =
        in_fields.filter_map(|run| early(run).map(|place| Ratio::new(place, run.field_size) <= Ratio::new(1, 4)));
    let strong_finishes = known_late.iter().filter_map(|run| gain(late(run), run)).map(|gain| gain > 0);
    let kicks = known_late.iter().filter_map(|run| gain(late(run), run));
    Row::from([
        ("avg_early_position_800m", avg_early.into()),
        ("avg_mid_position_400m", average(&mut known_early.iter().filter_map(|run| late(run))).into()),
        ("historical_avg_improvement", average(&mut runs.iter().filter_map(|run| gain(early(run), run))).into()),
        ("avg_pos_400m", average(&mut runs.iter().filter_map(|run| late(run))).into()),
        ("avg_late_surge", average(&mut surges).into()),
        ("running_style", style(avg_early, now.field_size).into()),
        ("early_speed_pct", mean(in_first_quarter).map(|mean| mean.rounded(4)).into()),
        ("strong_finish_pct", mean(strong_finishes).map(|mean| mean.rounded(4)).into()),
        (
            "pos_volatility_800",
            average(&mut known_early.iter().filter_map(|run| gain(early(run), run)).map(i64::abs)).into(),
        ),
        ("finishing_kick_consistency", rounded_deviation(kicks, 4).into()),
    ])
}

/// "q = `avg_early_position_800m` / `total_runners` (needs more than 1 runner): <= 0.20 leader, <= 0.35 on_pace, …".
fn style(avg_early: Option<Ratio>, field_size: i64) -> &'static str {
    let Some(place) = avg_early.filter(|_| field_size > 1) else { return "unknown" };
    let limits = [("leader", 20), ("on_pace", 35), ("midfield", 55), ("off_pace", 75)];
    let is_within = |percent: i64| place / Ratio::from(field_size) <= Ratio::new(percent, 100);
    limits.iter().find(|(_, percent)| is_within(*percent)).map_or("closer", |(style, _)| style)
}

/// Faders, closers and leaders. "N = prior runs with `position_400m` known; G = `position_400m` − `final_position`". Key H.
pub(super) fn patterns(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let runs = book.horse_runs(now);
    let known: Runs<'_, '_> = runs.iter().filter(|run| late(run).is_some()).copied().collect();
    let n = number_of(&known);
    let has_faded = |run: &Runner<'_>| gain(late(run), run).is_some_and(|gain| gain <= -2);
    let has_closed = |run: &Runner<'_>| gain(late(run), run).is_some_and(|gain| gain >= 3);
    let was_in_front = |run: &Runner<'_>| late(run).is_some_and(|place| place <= 2);
    let faded = count(&known, has_faded);
    let mean_gain = mean(known.iter().filter_map(|run| gain(late(run), run))).unwrap_or(Ratio::ZERO);
    // "(1 − mean `position_400m`/10)(1 + max(mean G/5, 0)); 0 if N = 0".
    let front_closer_score = mean(known.iter().filter_map(|run| late(run))).map_or(Ratio::ZERO, |mean_place| {
        let front = Ratio::ONE - mean_place / Ratio::from(10);
        front * (Ratio::ONE + (mean_gain / Ratio::from(5)).max(Ratio::ZERO))
    });
    // "Over all prior runs" of the distance, with or without sectionals.
    let faded_sprints = count(&runs, |run| run.race.is_at_most(1200) && has_faded(run));
    let front_long_runs = count(&runs, |run| run.race.is_longer_than(2000) && was_in_front(run));
    Row::from([
        ("fader_count", faded.into()),
        ("fader_rate", share(faded, n).into()),
        ("closer_count", count(&known, has_closed).into()),
        ("closer_rate", share(count(&known, has_closed), n).into()),
        ("front_count", count(&known, was_in_front).into()),
        ("front_rate", share(count(&known, was_in_front), n).into()),
        ("is_historical_fader", (n >= 3 && Ratio::new(faded, n) >= Ratio::new(3, 10)).into()),
        ("avg_improvement_from_400m", mean_gain.rounded(3).into()),
        ("front_closer_score", front_closer_score.rounded(4).into()),
        ("sprint_fader_rate", share(faded_sprints, count(&runs, |run| run.race.is_at_most(1200))).into()),
        ("staying_leader_rate", share(front_long_runs, count(&runs, |run| run.race.is_longer_than(2000))).into()),
    ])
}

/// priorS(h): "sectional rows with `finish_position` 1 to 20, joined to a runner with a slug". Key h, starters only.
fn prior_sectionals<'a, 'w>(book: &'a FormBook<'w>, now: &Runner<'w>) -> Vec<(&'a Runner<'w>, &'w Sectional)> {
    let has_place = |row: &Sectional| row.finish_position.is_some_and(|place| (1..=20).contains(&place));
    let starts = book.prior_entries(now, |run| run.is_starter.then_some(run.horse));
    starts.into_iter().filter_map(|run| Some((run, run.sectional.filter(|row| has_place(row))?))).collect()
}

fn seconds(millis: i64) -> Ratio {
    Ratio::new(millis, 1000)
}

/// The finishing time in the runner's sectional row.
pub(super) fn finish_time(run: &Runner<'_>) -> Option<Ratio> {
    time(run.sectional?.finish_time).map(seconds)
}

/// Mean splits, "rows whose sectional `position_800m` (from start) is known".
pub(super) fn splits(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let mut prior = prior_sectionals(book, now);
    prior.retain(|(_, row)| row.place_at(800).is_some());
    let times =
        |of: fn(&Sectional) -> Option<Millis>| prior.iter().filter_map(move |(_, row)| time(of(row))).map(seconds);
    let average = |of: fn(&Sectional) -> Option<Millis>| mean(times(of)).map(|mean| mean.rounded(3));
    let slowed =
        prior.iter().filter_map(|(_, row)| Some(seconds(time(row.sectional_800m)? - time(row.sectional_400m)?)));
    // "Mean (field mean `sectional_400m` of that race − own)".
    let ahead = prior.iter().filter_map(|(run, row)| {
        let own = time(row.sectional_400m)?;
        let field = book.field(run);
        let of_field = field.iter().filter_map(|rival| time(rival.sectional?.sectional_400m)).map(seconds);
        Some(mean(of_field)? - seconds(own))
    });
    Row::from([
        (
            "avg_pos_200m",
            mean(prior.iter().filter_map(|(_, row)| row.place_at(200))).map(|mean| mean.rounded(2)).into(),
        ),
        ("avg_sectional_400m", average(|row| row.sectional_400m).into()),
        ("avg_sectional_800m", average(|row| row.sectional_800m).into()),
        ("avg_cumulative_800m", average(|row| row.cumulative_800m).into()),
        ("sectional_time_consistency", rounded_deviation(times(|row| row.sectional_400m), 3).into()),
        ("early_vs_mid_pace_change", mean(slowed).map(|mean| mean.rounded(3)).into()),
        ("historical_speed_vs_field", mean(ahead).map(|mean| mean.rounded(4)).into()),
    ])
}

/// Margins, deceleration and the break, over all of priorS(h).
pub(super) fn margins_and_break(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let prior = prior_sectionals(book, now);
    let average = |values: &mut dyn Iterator<Item = Ratio>| mean(values).map(|mean| mean.rounded(4));
    let margins = || prior.iter().filter_map(|(run, _)| run.margins);
    let at_400m = |margin: &Margin| margin.margin_400m.map(Ratio::from);
    let at_800m = |margin: &Margin| margin.margin_800m.map(Ratio::from);
    let mut gains = margins().filter_map(|margin| Some(at_800m(margin)? - at_400m(margin)?));
    let mut slowing =
        prior.iter().filter_map(|(_, row)| Some(Ratio::new(time(row.sectional_800m)?, time(row.sectional_400m)?)));
    // "Mean q; q = (place − 1)/(`total_runners` − 1) of that race, place = sectional 200 m else 400 m from start".
    let breaks: Vec<Ratio> = prior
        .iter()
        .filter(|(run, _)| run.field_size > 1)
        .filter_map(|(run, row)| Some(Ratio::new(row.place_at(200).or(row.place_at(400))? - 1, run.field_size - 1)))
        .collect();
    Row::from([
        ("hist_margin_400m_avg", average(&mut margins().filter_map(at_400m)).into()),
        ("hist_margin_800m_avg", average(&mut margins().filter_map(at_800m)).into()),
        ("hist_margin_gain_800_to_400", average(&mut gains).into()),
        ("hist_deceleration_ratio", average(&mut slowing).into()),
        ("hist_break_bias", average(&mut breaks.iter().copied()).into()),
        ("hist_break_consistency", rounded_deviation(breaks, 4).into()),
    ])
}

/// Mean and best of the speed figures of prior runs. Key H.
pub(super) fn speed(book: &FormBook<'_>, now: &Runner<'_>) -> Row {
    let figures: Vec<Ratio> = book.horse_runs(now).into_iter().filter_map(|run| speed_figure(book, run)).collect();
    Row::from([
        ("avg_speed_figure", mean(figures.iter().copied()).map(|mean| mean.rounded(2)).into()),
        ("best_speed_figure", figures.iter().max().copied().into()),
    ])
}

/// "100 − 10 (time − mu) / sigma; mu, sigma = mean and sd of top-three finishers' times at exactly this `race_distance`
/// in races before this one; null unless there are at least 10 such times and sigma > 0".
fn speed_figure(book: &FormBook<'_>, run: &Runner<'_>) -> Option<Ratio> {
    let own = finish_time(run)?;
    let prior = book.prior(run, |run| run.race.row.race_distance);
    let times: Vec<Ratio> = prior.iter().filter(|run| run.is_placed()).filter_map(|run| finish_time(run)).collect();
    let variance = variance(&times).filter(|&variance| times.len() >= 10 && variance > Ratio::ZERO)?;
    let behind = own - mean(times)?;
    Some(rounded_double(100.0 - 10.0 * behind.to_f64() / variance.to_f64().sqrt(), 2))
}
