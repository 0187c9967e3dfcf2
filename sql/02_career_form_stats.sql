-- grain: horse_runs, jockey_runs and trainer_runs one row per finish, barrier_bias one per race and third of the barriers, the other tables one per starter
-- reads: cleaned_races, race_conditions, runners, horse_starts, checkpoints, speed_figures, elo_ratings
-- writes: horse_runs, horse_anywhere, horse_history, horse_past_wins, horse_circumstances, jockey_runs, jockey_career, trainer_runs, trainer_career, jockey_trainer_career, barrier_bias, field_comparison, career_form
-- why: what was known about horse, jockey and trainer before the race. Earlier days count, and of the same day only
--      lower race numbers at the same meeting. Every history is taken here, the phases after this one only make features
--      of them, as views. The tables of starters are in the order of `runner_id` and have the date, so a year of
--      the dataset reads only that part of each.

-- The runs of a horse in this location, numbered in race order, each with the form of the last five runs up to and
-- including it. A runner whose horse has m runs on earlier days finds its previous run, and its form, at run number m.
CREATE OR REPLACE TABLE horse_runs AS
SELECT
  horse_key,
  CAST(row_number() OVER so_far AS INTEGER) AS run_number,
  race_key,
  day_key,
  total(count(*) OVER last_five) AS runs,
  total(sum(final_position) OVER last_five) AS position_sum,
  total(sum(final_position * final_position) OVER last_five) AS position_squares,
  total(sum(won) OVER last_five) AS wins,
  total(sum(placed) OVER last_five) AS places,
  -- Of m runs the latest weighs m and the oldest 1. Before the fifth run there are fewer to weigh.
  least(5, row_number() OVER so_far) * placed
    + greatest(least(5, row_number() OVER so_far) - 1, 0) * coalesce(lag(placed, 1) OVER so_far, 0)
    + greatest(least(5, row_number() OVER so_far) - 2, 0) * coalesce(lag(placed, 2) OVER so_far, 0)
    + greatest(least(5, row_number() OVER so_far) - 3, 0) * coalesce(lag(placed, 3) OVER so_far, 0)
    + greatest(least(5, row_number() OVER so_far) - 4, 0) * coalesce(lag(placed, 4) OVER so_far, 0) AS weighted_places
FROM runners
WHERE finished = 1
WINDOW
  so_far AS (PARTITION BY horse_key ORDER BY runner_id),
  last_five AS (PARTITION BY horse_key ORDER BY runner_id ROWS BETWEEN 4 PRECEDING AND CURRENT ROW);

-- What counts wherever the horse ran: its rating after the last rated run before today, its locations, and its starts
-- at metro tracks, codes for not finishing included.
CREATE OR REPLACE TABLE horse_anywhere AS
WITH seen AS (
  SELECT
    s.runner_id,
    s.race_date,
    s.horse_id,
    total(count(e.race_key) OVER earlier) AS rated,
    total(count(CASE WHEN s.is_same_day = 1 THEN e.race_key END) OVER earlier) AS rated_today,
    min(CASE WHEN s.finished = 1 THEN s.location_key END) OVER earlier AS lowest_location,
    max(CASE WHEN s.finished = 1 THEN s.location_key END) OVER earlier AS highest_location,
    total(count(CASE WHEN c.is_metro_venue THEN s.position_or_code END) OVER earlier) AS metro_starts
  FROM horse_starts AS s
  JOIN cleaned_races AS c USING (race_key)
  LEFT JOIN elo_ratings AS e USING (race_key, horse_id)
  WINDOW earlier AS (PARTITION BY s.career_id ORDER BY s.runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  QUALIFY s.is_subject
)
SELECT
  seen.runner_id,
  seen.race_date,
  coalesce(e.elo_after, CAST(1200 AS DOUBLE)) AS horse_elo,
  seen.rated = 0 AS is_elo_default,
  seen.rated AS elo_races_count,
  coalesce(seen.lowest_location <> seen.highest_location, false) AS is_cross_region_horse,
  seen.metro_starts
FROM seen
LEFT JOIN elo_ratings AS e ON e.horse_id = seen.horse_id AND e.rating_number = seen.rated - seen.rated_today
ORDER BY runner_id;

-- All prior runs of the horse in this location, in one pass: counts, places in running, speed figures, weights in grams,
-- distances, wet and dry tracks, and how far the finish was from what the rating (a win chance of 0.1 per 600 points
-- above 1100) and a plain guess (third) would have said. Places are counted back from the post: `early` with 800 m to
-- go, `late` with 400 m to go. A gain is places won up to the finish.
CREATE OR REPLACE TABLE horse_history AS
WITH runs AS (
  SELECT
    s.runner_id,
    s.race_date,
    s.horse_key,
    s.career_key,
    s.is_subject,
    s.is_same_day,
    s.day_key,
    s.total_runners,
    s.finished,
    s.won,
    s.placed,
    s.final_position,
    CASE WHEN s.finished = 1 THEN c.race_distance END AS distance,
    CASE WHEN s.finished = 1 THEN p.position_800m END AS early,
    CASE WHEN s.finished = 1 THEN p.position_400m END AS late,
    f.speed_figure,
    CASE WHEN s.finished = 1 THEN thousandths(s.weight) END AS grams,
    CASE WHEN s.finished = 1 THEN CAST(round((e.horse_elo - 1100) * 100) AS INTEGER) END AS rating_above_base,
    s.finished * CAST(coalesce(g.track_condition_numeric >= 5, false) AS INTEGER) AS wet_run,
    s.finished * CAST(coalesce(g.track_condition_numeric <= 3, false) AS INTEGER) AS dry_run
  FROM horse_starts AS s
  JOIN cleaned_races AS c USING (race_key)
  JOIN race_conditions AS g USING (race_key)
  JOIN horse_anywhere AS e USING (runner_id)
  LEFT JOIN checkpoints AS p USING (runner_id)
  LEFT JOIN speed_figures AS f USING (runner_id)
),
-- What a run adds, as flags of 0 or 1 and as places below 50, none of them null.
facts AS (
  SELECT
    *,
    CAST(round(speed_figure * 100) AS BIGINT) AS figure_hundredths,
    late - final_position AS late_gain,
    finished * is_same_day AS is_run_today,
    CAST(early IS NOT NULL AS INTEGER) AS has_early,
    CAST(late IS NOT NULL AS INTEGER) AS has_late,
    CAST(early IS NOT NULL AND late IS NOT NULL AS INTEGER) AS has_both,
    coalesce(early, 0) AS early_place,
    coalesce(late, 0) AS late_place,
    CASE WHEN early IS NOT NULL THEN final_position ELSE 0 END AS final_after_early,
    CASE WHEN late IS NOT NULL THEN final_position ELSE 0 END AS final_after_late,
    CASE WHEN early IS NOT NULL THEN abs(early - final_position) ELSE 0 END AS early_move,
    coalesce(abs(final_position - 3), 0) AS position_error,
    CAST(early IS NOT NULL AND total_runners > 1 AS INTEGER) AS has_early_in_field,
    CAST(coalesce(early * 4 <= total_runners AND total_runners > 1, false) AS INTEGER) AS is_in_first_quarter,
    CAST(coalesce(late > final_position, false) AS INTEGER) AS is_strong_finish,
    CAST(coalesce(late - final_position <= -2, false) AS INTEGER) AS has_faded,
    CAST(coalesce(late - final_position >= 3, false) AS INTEGER) AS has_closed,
    CAST(coalesce(late <= 2, false) AS INTEGER) AS is_in_front,
    CAST(coalesce(distance <= 1200, false) AS INTEGER) AS is_sprint,
    CAST(coalesce(distance > 2000, false) AS INTEGER) AS is_long,
    CAST(speed_figure IS NOT NULL AS INTEGER) AS has_figure,
    CAST(grams IS NOT NULL AS INTEGER) AS is_weighed,
    CAST(distance IS NOT NULL AS INTEGER) AS has_distance
  FROM runs
),
-- Most of the work is in the number of sums, so three small ones share one. A shared sum has room for a million each:
-- with places from 0 to 49 enough for 20000 starts, and both are assured.
sums AS (
  SELECT
    runner_id,
    race_date,
    horse_key,
    day_key,
    count(*) OVER earlier AS rows_before,
    sum(packed(finished, won, placed)) OVER earlier AS of_runs,
    sum(packed(is_run_today, wet_run, dry_run)) OVER earlier AS of_days,
    sum(packed(has_early, early_place, final_after_early)) OVER earlier AS of_early,
    sum(packed(early_move, has_early_in_field, is_in_first_quarter)) OVER earlier AS of_early_moves,
    sum(packed(has_both, has_early * late_place, has_late * early_place)) OVER earlier AS of_both,
    sum(packed(has_late, late_place, final_after_late)) OVER earlier AS of_late_places,
    sum(packed(is_strong_finish, has_faded, has_closed)) OVER earlier AS of_finishes,
    sum(packed(is_in_front, is_long, is_long * is_in_front)) OVER earlier AS of_fronts,
    sum(packed(is_sprint, is_sprint * has_faded, position_error)) OVER earlier AS of_sprints,
    sum(packed(has_figure, is_weighed, has_distance)) OVER earlier AS of_measures,
    total(sum(late_gain * late_gain) OVER earlier) AS late_gain_squares,
    CAST(sum(figure_hundredths) OVER earlier AS BIGINT) AS figure_hundredths,
    max(speed_figure) OVER earlier AS best_speed_figure,
    CAST(sum(grams) OVER earlier AS BIGINT) AS grams,
    total(sum(distance) OVER earlier) AS distance_sum,
    CAST(coalesce(sum(CAST(distance AS BIGINT) * distance) OVER earlier, 0) AS BIGINT) AS distance_squares,
    CAST(coalesce(sum(rating_above_base) OVER earlier, 0) AS BIGINT) AS ratings_above_base
  FROM facts
  WHERE assured(coalesce(least(final_position, early, late), 0) >= 0, 'a place is below 0')
  WINDOW earlier AS (PARTITION BY career_key ORDER BY runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  QUALIFY is_subject
),
histories AS (
  SELECT
    runner_id,
    race_date,
    horse_key,
    day_key,
    unpacked(of_runs, 0) AS total_races,
    unpacked(of_days, 0) AS runs_today,
    unpacked(of_runs, 1) AS wins,
    unpacked(of_runs, 2) AS places,
    unpacked(of_early, 0) AS early_runs,
    unpacked(of_early, 1) AS early_places,
    unpacked(of_both, 0) AS late_after_early_runs,
    unpacked(of_both, 1) AS late_after_early_places,
    unpacked(of_early, 1) - unpacked(of_early, 2) AS early_gains,
    unpacked(of_early_moves, 0) AS early_moves,
    unpacked(of_early_moves, 1) AS early_in_field_runs,
    unpacked(of_early_moves, 2) AS first_quarter_runs,
    unpacked(of_late_places, 0) AS late_runs,
    unpacked(of_late_places, 1) AS late_places,
    unpacked(of_both, 2) - unpacked(of_late_places, 2) AS surges,
    unpacked(of_late_places, 1) - unpacked(of_late_places, 2) AS late_gains,
    late_gain_squares,
    unpacked(of_finishes, 0) AS strong_finishes,
    unpacked(of_finishes, 1) AS faded_runs,
    unpacked(of_finishes, 2) AS closed_runs,
    unpacked(of_fronts, 0) AS front_runs,
    unpacked(of_sprints, 0) AS sprints,
    unpacked(of_sprints, 1) AS faded_sprints,
    unpacked(of_fronts, 1) AS long_runs,
    unpacked(of_fronts, 2) AS front_long_runs,
    unpacked(of_measures, 0) AS figures,
    figure_hundredths,
    best_speed_figure,
    unpacked(of_measures, 1) AS weighed_runs,
    grams,
    unpacked(of_measures, 2) AS distances,
    distance_sum,
    distance_squares,
    unpacked(of_sprints, 2) AS position_errors,
    ratings_above_base,
    unpacked(of_days, 1) AS wet_runs,
    unpacked(of_days, 2) AS dry_runs
  FROM sums
  WHERE assured(rows_before <= 20000, 'a horse has more than 20000 starts')
),
of_late AS (
  SELECT
    runner_id,
    total(sum(finished) OVER sixty_days) AS runs_in_60_days,
    total(sum(finished) OVER ninety_days) AS runs_in_90_days
  FROM runners
  WHERE is_starter
  WINDOW
    sixty_days AS (PARTITION BY horse_key ORDER BY day_key RANGE BETWEEN 60 PRECEDING AND 1 PRECEDING),
    ninety_days AS (PARTITION BY horse_key ORDER BY day_key RANGE BETWEEN 90 PRECEDING AND 1 PRECEDING)
)
SELECT
  h.* EXCLUDE (horse_key, day_key),
  coalesce(rounded(mean_of(100 * h.wins, h.total_races), 2), CAST(0 AS DOUBLE)) AS win_percentage,
  of_late.runs_in_60_days + h.runs_today AS runs_last_60_days,
  of_late.runs_in_90_days + h.runs_today AS runs_last_90_days,
  previous.race_key AS previous_race_key,
  h.day_key - previous.day_key AS days_since_last_race,
  previous.runs AS last_runs,
  previous.position_sum AS last_position_sum,
  previous.position_squares AS last_position_squares,
  previous.wins AS last_wins,
  previous.places AS last_places,
  previous.weighted_places AS last_weighted_places
FROM histories AS h
JOIN of_late USING (runner_id)
LEFT JOIN horse_runs AS previous
  ON previous.horse_key = h.horse_key AND previous.run_number = h.total_races - h.runs_today
ORDER BY runner_id;

-- The earlier wins of the horse, and how many of them were under today's circumstances. Wins are few, so each meets each
-- later start of the horse directly. Wins here are those in this location. A start without an earlier win has no row.
CREATE OR REPLACE TABLE horse_past_wins AS
WITH circumstances AS (
  SELECT
    r.runner_id, r.race_date, r.horse_id, r.day_key, r.meeting_key, r.race_order, r.is_starter, r.won,
    r.location_key, r.track_key, r.barrier_position, r.jockey_id,
    c.race_distance, g.distance_range_key, g.category_key,
    g.track_condition_key, g.going_group_key, g.track_condition_numeric, g.raw_track_key, g.distance_bucket, g.is_metro_venue
  FROM runners AS r
  JOIN cleaned_races AS c USING (race_key)
  JOIN race_conditions AS g USING (race_key)
),
past_wins AS (
  SELECT
    r.runner_id,
    r.race_date,
    w.location_key = r.location_key AS is_here,
    w.distance_range_key = r.distance_range_key AS at_distance_range,
    w.track_key = r.track_key AS at_track,
    w.jockey_id = r.jockey_id AS with_jockey,
    w.category_key = r.category_key AS at_category,
    w.track_condition_key = r.track_condition_key AS on_going,
    w.going_group_key = r.going_group_key AS on_going_group,
    w.barrier_position = r.barrier_position AS from_barrier,
    w.track_condition_numeric >= 5 AS on_wet,
    w.track_condition_numeric <= 3 AS on_dry,
    w.raw_track_key = r.raw_track_key AS at_raw_track,
    w.distance_bucket = r.distance_bucket AS at_distance_bucket,
    w.is_metro_venue AS at_metro,
    w.race_distance,
    w.day_key
  FROM circumstances AS r
  JOIN circumstances AS w
    ON w.horse_id = r.horse_id
    AND (w.day_key < r.day_key OR (w.meeting_key = r.meeting_key AND w.race_order < r.race_order))
  WHERE r.is_starter AND w.won = 1
)
SELECT
  runner_id,
  race_date,
  total(count(*) FILTER (WHERE is_here AND at_distance_range)) AS wins_at_distance,
  total(count(*) FILTER (WHERE is_here AND at_track)) AS wins_at_track,
  total(count(*) FILTER (WHERE is_here AND with_jockey)) AS horse_jockey_wins,
  total(count(*) FILTER (WHERE is_here AND at_category)) AS horse_category_wins,
  total(count(*) FILTER (WHERE is_here AND on_going)) AS going_wins,
  total(count(*) FILTER (WHERE is_here AND on_going_group)) AS going_group_wins,
  total(count(*) FILTER (WHERE is_here AND from_barrier)) AS barrier_group_wins,
  total(count(*) FILTER (WHERE is_here AND at_track AND at_distance_range)) AS track_distance_wins,
  total(count(*) FILTER (WHERE is_here AND on_wet)) AS wet_wins,
  total(count(*) FILTER (WHERE is_here AND on_dry)) AS dry_wins,
  min(race_distance) FILTER (WHERE is_here) AS shortest_win,
  max(race_distance) FILTER (WHERE is_here) AS longest_win,
  total(count(*) FILTER (WHERE at_metro)) AS metro_wins,
  max(day_key) FILTER (WHERE at_metro) AS last_metro_win_day,
  count(*) FILTER (WHERE at_raw_track) > 0 AS has_won_at_track,
  count(*) FILTER (WHERE at_distance_bucket) > 0 AS has_won_at_distance,
  count(*) FILTER (WHERE at_raw_track AND at_distance_bucket) > 0 AS has_won_at_track_distance
FROM past_wins
GROUP BY runner_id, race_date
ORDER BY runner_id;

-- Prior runs of the horse in this location under the same circumstances as today.
CREATE OR REPLACE TABLE horse_circumstances AS
WITH at_distance AS (
  SELECT
    runner_id,
    race_date,
    total(sum(finished) OVER earlier) AS races_at_distance
  FROM horse_starts
  WINDOW earlier AS (PARTITION BY career_key, distance_range_key ORDER BY runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  QUALIFY is_subject
),
at_track AS (
  SELECT
    runner_id,
    total(sum(finished) OVER earlier) AS races_at_track,
    total(sum(placed) OVER earlier) AS places_at_track
  FROM horse_starts
  WINDOW earlier AS (PARTITION BY career_key, track_key ORDER BY runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  QUALIFY is_subject
),
at_track_distance AS (
  SELECT
    runner_id,
    total(sum(finished) OVER earlier) AS track_distance_runs
  FROM horse_starts
  WINDOW earlier AS (PARTITION BY career_key, track_key, distance_range_key ORDER BY runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  QUALIFY is_subject
),
at_category AS (
  SELECT
    runner_id,
    total(sum(finished) OVER earlier) AS horse_category_runs
  FROM horse_starts
  WINDOW earlier AS (PARTITION BY career_key, category_key ORDER BY runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  QUALIFY is_subject
),
on_going AS (
  SELECT
    runner_id,
    total(sum(finished) OVER earlier) AS going_group_runs
  FROM horse_starts
  WINDOW earlier AS (PARTITION BY career_key, going_group_key ORDER BY runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  QUALIFY is_subject
),
-- A runner without a barrier has no such history.
from_barrier AS (
  SELECT
    runner_id,
    CASE WHEN barrier_group IS NULL THEN 0 ELSE total(sum(finished) OVER earlier) END AS barrier_group_runs
  FROM horse_starts
  WINDOW earlier AS (PARTITION BY career_key, barrier_group ORDER BY runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  QUALIFY is_subject
),
with_jockey AS (
  SELECT
    runner_id,
    total(sum(finished) OVER earlier) AS horse_jockey_runs
  FROM horse_starts
  WINDOW earlier AS (PARTITION BY career_key, jockey_id ORDER BY runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  QUALIFY is_subject
)
SELECT *
FROM at_distance
JOIN at_track USING (runner_id)
JOIN at_track_distance USING (runner_id)
JOIN at_category USING (runner_id)
JOIN on_going USING (runner_id)
JOIN from_barrier USING (runner_id)
JOIN with_jockey USING (runner_id)
ORDER BY runner_id;

-- The rides of a jockey in this location, numbered in race order, with the mean place of the last ones up to and including
-- each. Likewise the runners of a trainer.
CREATE OR REPLACE TABLE jockey_runs AS
SELECT
  jockey_key,
  CAST(row_number() OVER so_far AS INTEGER) AS run_number,
  rounded(avg(final_position) OVER last_20, 2) AS avg_position_20,
  rounded(avg(final_position) OVER last_50, 2) AS avg_position_50
FROM runners
WHERE finished = 1
WINDOW
  so_far AS (PARTITION BY jockey_key ORDER BY runner_id),
  last_20 AS (PARTITION BY jockey_key ORDER BY runner_id ROWS BETWEEN 19 PRECEDING AND CURRENT ROW),
  last_50 AS (PARTITION BY jockey_key ORDER BY runner_id ROWS BETWEEN 49 PRECEDING AND CURRENT ROW);

-- Jockeys and trainers have thousands of runs, so their meetings are summed before the windows over days run over them.
-- The windows end with the group before the own one: the earlier days, or the lower race numbers. Sums of counts as
-- doubles are as exact as those of integers, and half the work.
-- A meeting has one track and one location. Entries, unlike rides, count wherever they were and without a place too.
-- The last rides are those before today.
CREATE OR REPLACE TABLE jockey_career AS
WITH meetings AS (
  SELECT
    jockey_id,
    jockey_key,
    meeting_key,
    day_key,
    track_key,
    CAST(count(*) AS DOUBLE) AS entries,
    CAST(sum(finished) AS DOUBLE) AS rides,
    CAST(sum(won) AS DOUBLE) AS wins,
    CAST(sum(placed) AS DOUBLE) AS places
  FROM runners
  GROUP BY jockey_id, jockey_key, meeting_key, day_key, track_key
),
before_today AS (
  SELECT
    jockey_id,
    meeting_key,
    total(sum(entries) OVER anywhere) AS entries,
    total(sum(rides) OVER here) AS rides,
    total(sum(wins) OVER here) AS wins,
    total(sum(places) OVER here) AS places,
    total(sum(rides) OVER at_track) AS track_rides,
    total(sum(wins) OVER at_track) AS track_wins
  FROM meetings
  WINDOW
    anywhere AS (PARTITION BY jockey_id ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    here AS (PARTITION BY jockey_key ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    at_track AS (PARTITION BY jockey_id, track_key ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
today AS (
  SELECT
    runner_id,
    race_date,
    jockey_id,
    jockey_key,
    meeting_key,
    total(count(*) OVER earlier_today) AS entries,
    total(sum(finished) OVER earlier_today) AS rides,
    total(sum(won) OVER earlier_today) AS wins,
    total(sum(placed) OVER earlier_today) AS places
  FROM runners
  WINDOW earlier_today AS (PARTITION BY jockey_id, meeting_key ORDER BY race_order GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  QUALIFY is_starter
)
SELECT
  t.runner_id,
  t.race_date,
  b.entries + t.entries AS jockey_entries,
  b.rides + t.rides AS jockey_rides,
  b.wins + t.wins AS jockey_wins,
  b.places + t.places AS jockey_places,
  b.track_rides + t.rides AS jockey_track_rides,
  b.track_wins + t.wins AS jockey_track_wins,
  coalesce(last.avg_position_20, CAST(6 AS DOUBLE)) AS jockey_avg_position_20,
  coalesce(last.avg_position_50, CAST(6 AS DOUBLE)) AS jockey_avg_position_50
FROM today AS t
JOIN before_today AS b USING (jockey_id, meeting_key)
LEFT JOIN jockey_runs AS last ON last.jockey_key = t.jockey_key AND last.run_number = b.rides
ORDER BY runner_id;

CREATE OR REPLACE TABLE trainer_runs AS
SELECT
  trainer_key,
  CAST(row_number() OVER so_far AS INTEGER) AS run_number,
  rounded(avg(final_position) OVER last_50, 2) AS avg_position_50,
  rounded(avg(final_position) OVER last_100, 2) AS avg_position_100
FROM runners
WHERE finished = 1
WINDOW
  so_far AS (PARTITION BY trainer_key ORDER BY runner_id),
  last_50 AS (PARTITION BY trainer_key ORDER BY runner_id ROWS BETWEEN 49 PRECEDING AND CURRENT ROW),
  last_100 AS (PARTITION BY trainer_key ORDER BY runner_id ROWS BETWEEN 99 PRECEDING AND CURRENT ROW);

CREATE OR REPLACE TABLE trainer_career AS
WITH meetings AS (
  SELECT
    trainer_id,
    trainer_key,
    meeting_key,
    day_key,
    track_key,
    CAST(count(*) AS DOUBLE) AS entries,
    CAST(sum(finished) AS DOUBLE) AS runs,
    CAST(sum(won) AS DOUBLE) AS wins,
    CAST(sum(placed) AS DOUBLE) AS places
  FROM runners
  GROUP BY trainer_id, trainer_key, meeting_key, day_key, track_key
),
before_today AS (
  SELECT
    trainer_id,
    meeting_key,
    total(sum(entries) OVER anywhere) AS entries,
    total(sum(runs) OVER here) AS runs,
    total(sum(wins) OVER here) AS wins,
    total(sum(places) OVER here) AS places,
    total(sum(runs) OVER at_track) AS track_runs,
    total(sum(wins) OVER at_track) AS track_wins
  FROM meetings
  WINDOW
    anywhere AS (PARTITION BY trainer_id ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    here AS (PARTITION BY trainer_key ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    at_track AS (PARTITION BY trainer_id, track_key ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
today AS (
  SELECT
    runner_id,
    race_date,
    trainer_id,
    trainer_key,
    meeting_key,
    total(count(*) OVER earlier_today) AS entries,
    total(sum(finished) OVER earlier_today) AS runs,
    total(sum(won) OVER earlier_today) AS wins,
    total(sum(placed) OVER earlier_today) AS places
  FROM runners
  WINDOW earlier_today AS (PARTITION BY trainer_id, meeting_key ORDER BY race_order GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  QUALIFY is_starter
)
SELECT
  t.runner_id,
  t.race_date,
  b.entries + t.entries AS trainer_entries,
  b.runs + t.runs AS trainer_runs,
  b.wins + t.wins AS trainer_wins,
  b.places + t.places AS trainer_places,
  b.track_runs + t.runs AS trainer_track_runs,
  b.track_wins + t.wins AS trainer_track_wins,
  coalesce(last.avg_position_50, CAST(6 AS DOUBLE)) AS trainer_avg_position_50,
  coalesce(last.avg_position_100, CAST(6 AS DOUBLE)) AS trainer_avg_position_100
FROM today AS t
JOIN before_today AS b USING (trainer_id, meeting_key)
LEFT JOIN trainer_runs AS last ON last.trainer_key = t.trainer_key AND last.run_number = b.runs
ORDER BY runner_id;

-- Runs and wins of jockey and trainer together, wherever it was.
CREATE OR REPLACE TABLE jockey_trainer_career AS
SELECT
  runner_id,
  race_date,
  total(sum(finished) OVER earlier_days) + total(sum(finished) OVER earlier_today) AS jockey_trainer_runs,
  total(sum(won) OVER earlier_days) + total(sum(won) OVER earlier_today) AS jockey_trainer_wins
FROM runners
WHERE is_starter
WINDOW
  earlier_days AS (PARTITION BY jockey_id, trainer_id ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  earlier_today AS (
    PARTITION BY jockey_id, trainer_id, meeting_key ORDER BY race_order GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  )
ORDER BY runner_id;

-- How often a third of the barriers wins at a track, against all barriers there. Summed per race first.
CREATE OR REPLACE TABLE barrier_bias AS
WITH races AS (
  SELECT track_key, barrier_position, day_key, meeting_key, race_order, sum(finished) AS runs, sum(won) AS wins
  FROM runners
  WHERE is_starter
  GROUP BY track_key, barrier_position, day_key, meeting_key, race_order
),
whole_races AS (
  SELECT track_key, day_key, meeting_key, race_order, sum(runs) AS runs, sum(wins) AS wins
  FROM races
  GROUP BY track_key, day_key, meeting_key, race_order
),
at_track AS (
  SELECT
    track_key, meeting_key, race_order,
    total(sum(runs) OVER earlier_days) + total(sum(runs) OVER earlier_today) AS track_runs,
    total(sum(wins) OVER earlier_days) + total(sum(wins) OVER earlier_today) AS track_wins
  FROM whole_races
  WINDOW
    earlier_days AS (PARTITION BY track_key ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (PARTITION BY track_key, meeting_key ORDER BY race_order GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
at_barrier AS (
  SELECT
    track_key, barrier_position, meeting_key, race_order,
    total(sum(runs) OVER earlier_days) + total(sum(runs) OVER earlier_today) AS runs,
    total(sum(wins) OVER earlier_days) + total(sum(wins) OVER earlier_today) AS wins
  FROM races
  WHERE barrier_position IS NOT NULL
  WINDOW
    earlier_days AS (PARTITION BY track_key, barrier_position ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (
      PARTITION BY track_key, barrier_position, meeting_key ORDER BY race_order GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
)
SELECT
  c.race_key,
  c.race_date,
  barrier_position,
  CASE
    WHEN runs >= 20 THEN rounded(CAST(wins AS DOUBLE) / runs - CAST(track_wins AS DOUBLE) / track_runs, 4)
    ELSE CAST(0 AS DOUBLE)
  END AS barrier_advantage_at_track,
  CASE
    WHEN runs >= 20 AND track_wins > 0 THEN rounded((CAST(wins AS DOUBLE) * track_runs) / (CAST(runs AS DOUBLE) * track_wins), 4)
    ELSE CAST(1 AS DOUBLE)
  END AS barrier_effectiveness_score
FROM at_barrier
JOIN at_track USING (track_key, meeting_key, race_order)
JOIN cleaned_races AS c USING (track_key, meeting_key, race_order)
ORDER BY race_key;

-- The runner against the field of its race, on what was known before it. Percentages are compared as whole hundredths.
CREATE OR REPLACE TABLE field_comparison AS
WITH field AS (
  SELECT
    r.runner_id,
    r.race_date,
    r.race_key,
    r.win_odds,
    e.horse_elo,
    h.total_races,
    CAST(round(h.win_percentage * 100) AS INTEGER) AS win_hundredths
  FROM runners AS r
  JOIN horse_history AS h USING (runner_id)
  JOIN horse_anywhere AS e USING (runner_id)
)
SELECT
  runner_id,
  race_date,
  rounded(percent_rank() OVER (PARTITION BY race_key ORDER BY horse_elo), 4) AS elo_percentile_in_race,
  rounded(percent_rank() OVER (PARTITION BY race_key ORDER BY coalesce(win_odds, 100) DESC), 4) AS odds_percentile_in_race,
  CAST(rank() OVER (PARTITION BY race_key ORDER BY coalesce(win_odds, 999)) AS INTEGER) AS odds_rank_in_race,
  CASE
    WHEN sum(win_hundredths) OVER race = 0 THEN CAST(1 AS DOUBLE)
    ELSE rounded(least(5, win_hundredths * CAST(count(*) OVER race AS DOUBLE) / sum(win_hundredths) OVER race), 4)
  END AS win_pct_vs_field_avg,
  CASE
    WHEN sum(total_races) OVER race = 0 THEN CAST(1 AS DOUBLE)
    ELSE rounded(least(5, total_races * CAST(count(*) OVER race AS DOUBLE) / sum(total_races) OVER race), 4)
  END AS experience_vs_field_avg
FROM field
WINDOW race AS (PARTITION BY race_key)
ORDER BY runner_id;

-- The features of this phase, and the counts that later phases make features of. Each later phase adds its features to
-- the row. Whatever one runner needs is joined here, where the rows are narrow. Each history has one row per starter or
-- none, and the left joins keep the order of the joins as it is written. Every join names the date as well, so that the
-- dates which somebody asks for hold for each of the tables.
CREATE OR REPLACE VIEW career_form AS
SELECT
  r.runner_id,
  c.race_id,
  r.horse_slug,
  r.race_date,
  r.in_dataset,
  r.race_key,
  r.day_key,
  r.total_runners,
  r.barrier,
  r.barrier_position,
  r.weight,
  r.win_odds,
  c.race_distance,
  h.total_races,
  h.wins,
  h.places,
  h.win_percentage,
  coalesce(rounded(mean_of(100 * h.places, h.total_races), 2), CAST(0 AS DOUBLE)) AS place_percentage,
  h.total_races = 0 AS is_first_timer,
  h.days_since_last_race,
  rounded(mean_of(h.last_position_sum, h.last_runs), 2) AS last_5_avg_position,
  frac(coalesce(h.last_wins, 0), coalesce(h.last_runs, 0)) AS last_5_win_rate,
  frac(coalesce(h.last_places, 0), coalesce(h.last_runs, 0)) AS last_5_place_rate,
  frac(coalesce(h.last_weighted_places, 0), coalesce(h.last_runs * (h.last_runs + 1) / 2, 0)) AS form_momentum,
  CASE
    WHEN h.last_runs >= 2 THEN
      rounded(
        sqrt(CAST(h.last_runs * h.last_position_squares - h.last_position_sum * h.last_position_sum AS DOUBLE)) / h.last_runs, 2
      )
  END AS pos_volatility_last5,
  CASE
    WHEN h.days_since_last_race IS NULL THEN CAST(0.5 AS DOUBLE)
    WHEN h.days_since_last_race <= 14 THEN 1.0
    WHEN h.days_since_last_race <= 28 THEN 0.9
    WHEN h.days_since_last_race <= 42 THEN 0.8
    WHEN h.days_since_last_race <= 60 THEN 0.6
    WHEN h.days_since_last_race <= 90 THEN 0.4
    ELSE 0.2
  END AS form_recency_score,
  e.horse_elo,
  e.is_elo_default,
  e.elo_races_count,
  least(CAST(1 AS DOUBLE), ln(h.total_races + 1) / ln(21)) AS feature_maturity_score,
  j.* EXCLUDE (runner_id, race_date),
  frac(j.jockey_wins, j.jockey_rides) AS jockey_win_rate,
  frac(j.jockey_places, j.jockey_rides) AS jockey_place_rate,
  t.* EXCLUDE (runner_id, race_date),
  frac(t.trainer_wins, t.trainer_runs) AS trainer_win_rate,
  frac(t.trainer_places, t.trainer_runs) AS trainer_place_rate,
  frac(coalesce(w.wins_at_distance, 0), x.races_at_distance) AS distance_win_rate,
  x.races_at_distance,
  frac(coalesce(w.wins_at_track, 0), x.races_at_track) AS track_win_rate,
  x.races_at_track,
  e.is_cross_region_horse,
  h.total_races > 0 AND h.places = 0 AS never_placed_flag,
  e.metro_starts,
  coalesce(w.horse_jockey_wins, 0) AS horse_jockey_wins,
  coalesce(w.horse_category_wins, 0) AS horse_category_wins,
  coalesce(w.going_wins, 0) AS going_wins,
  coalesce(w.going_group_wins, 0) AS going_group_wins,
  coalesce(w.barrier_group_wins, 0) AS barrier_group_wins,
  coalesce(w.track_distance_wins, 0) AS track_distance_wins,
  coalesce(w.wet_wins, 0) AS wet_wins,
  coalesce(w.dry_wins, 0) AS dry_wins,
  w.shortest_win,
  w.longest_win,
  coalesce(w.metro_wins, 0) AS metro_wins,
  w.last_metro_win_day,
  coalesce(w.has_won_at_track, false) AS has_won_at_track,
  coalesce(w.has_won_at_distance, false) AS has_won_at_distance,
  coalesce(w.has_won_at_track_distance, false) AS has_won_at_track_distance,
  h.* EXCLUDE (
    runner_id, race_date, total_races, wins, places, win_percentage, days_since_last_race, last_runs, last_position_sum,
    last_position_squares, last_wins, last_places, last_weighted_places
  ),
  x.* EXCLUDE (runner_id, race_date, races_at_distance, races_at_track),
  jt.* EXCLUDE (runner_id, race_date),
  p.* EXCLUDE (runner_id, race_date),
  b.barrier_advantage_at_track,
  coalesce(b.barrier_effectiveness_score, CAST(1 AS DOUBLE)) AS barrier_effectiveness_score
FROM runners AS r
LEFT JOIN cleaned_races AS c USING (race_key, race_date)
LEFT JOIN horse_history AS h USING (runner_id, race_date)
LEFT JOIN horse_anywhere AS e USING (runner_id, race_date)
LEFT JOIN horse_circumstances AS x USING (runner_id, race_date)
LEFT JOIN jockey_career AS j USING (runner_id, race_date)
LEFT JOIN trainer_career AS t USING (runner_id, race_date)
LEFT JOIN jockey_trainer_career AS jt USING (runner_id, race_date)
LEFT JOIN field_comparison AS p USING (runner_id, race_date)
LEFT JOIN horse_past_wins AS w USING (runner_id, race_date)
LEFT JOIN barrier_bias AS b USING (race_key, race_date, barrier_position);
