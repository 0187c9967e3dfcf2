-- grain: horse_runs, jockey_runs and trainer_runs one row per finish, barrier_bias one per race and third of the barriers, the other tables one per starter
-- reads: cleaned_races, race_conditions, runners, horse_starts, checkpoints, speed_figures, elo_ratings
-- writes: horse_runs, horse_anywhere, horse_history, horse_past_wins, horse_circumstances, jockey_runs, jockey_career, trainer_runs, trainer_career, jockey_trainer_career, barrier_bias, field_comparison, career_form
-- key: horse_history (runner_id), jockey_career (runner_id), trainer_career (runner_id), field_comparison (runner_id)
-- why: what was known about horse, jockey and trainer before the race. Earlier days count, and of the same day only
--      lower race numbers at the same meeting. Every history is taken here, the phases after this one only make features
--      of them, as views. The tables that the views join are in the order of `runner_id` and have the date, so a year
--      of the dataset reads only that part of each.

-- The runs of a horse in this location, numbered in race order, each with the form of the last five runs up to and
-- including it. A runner whose horse has m runs on earlier days finds its previous run, and its form, at run number m.
CREATE OR REPLACE TABLE horse_runs AS
WITH numbered AS (
  SELECT
    horse_key,
    CAST(row_number() OVER so_far AS INTEGER) AS run_number,
    race_key,
    day_key,
    sum(packed(final_position, final_position * final_position, won)) OVER last_five AS of_positions,
    placed,
    coalesce(lag(placed, 1) OVER so_far, 0) AS placed_before,
    coalesce(lag(placed, 2) OVER so_far, 0) AS placed_2_before,
    coalesce(lag(placed, 3) OVER so_far, 0) AS placed_3_before,
    coalesce(lag(placed, 4) OVER so_far, 0) AS placed_4_before
  FROM runners
  WHERE finished = 1
  WINDOW
    so_far AS (PARTITION BY horse_key ORDER BY runner_id),
    last_five AS (PARTITION BY horse_key ORDER BY runner_id ROWS BETWEEN 4 PRECEDING AND CURRENT ROW)
)
SELECT
  horse_key,
  run_number,
  race_key,
  day_key,
  -- Packed: the sum of the places, the sum of their squares, wins.
  CAST(of_positions AS BIGINT) AS of_last_positions,
  -- Packed: runs, places, weighted places. Of m runs the latest weighs m and the oldest 1. Before the fifth run there are
  -- fewer to weigh.
  packed(
    least(5, run_number),
    placed + placed_before + placed_2_before + placed_3_before + placed_4_before,
    least(5, run_number) * placed
      + greatest(least(5, run_number) - 1, 0) * placed_before
      + greatest(least(5, run_number) - 2, 0) * placed_2_before
      + greatest(least(5, run_number) - 3, 0) * placed_3_before
      + greatest(least(5, run_number) - 4, 0) * placed_4_before
  ) AS of_last_places
FROM numbered;

-- What counts wherever the horse ran: its rating after the last rated run before today, its locations, and its starts
-- at metro tracks, codes for not finishing included. Packed: rated runs, metro starts, whether it ran in several locations.
CREATE OR REPLACE TABLE horse_anywhere AS
WITH seen AS (
  SELECT
    s.runner_id,
    s.horse_id,
    s.is_subject,
    -- Packed: rated runs, those of them today, metro starts.
    CAST(coalesce(
      sum(packed(
        CASE WHEN e.race_key IS NULL THEN 0 ELSE 1 END,
        CASE WHEN e.race_key IS NULL THEN 0 ELSE s.is_same_day END,
        CASE WHEN c.is_metro_venue AND s.position_or_code IS NOT NULL THEN 1 ELSE 0 END
      )) OVER earlier, 0
    ) AS BIGINT) AS of_starts,
    min(CASE WHEN s.finished = 1 THEN s.location_key END) OVER earlier AS lowest_location,
    max(CASE WHEN s.finished = 1 THEN s.location_key END) OVER earlier AS highest_location
  FROM horse_starts AS s
  JOIN cleaned_races AS c USING (race_key)
  LEFT JOIN elo_ratings AS e USING (race_key, horse_id)
  WINDOW earlier AS (PARTITION BY s.career_id ORDER BY s.runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  seen.runner_id,
  coalesce(e.elo_after, CAST(1200 AS DOUBLE)) AS horse_elo,
  packed(
    unpacked(seen.of_starts, 0),
    unpacked(seen.of_starts, 2),
    coalesce(CAST(seen.lowest_location <> seen.highest_location AS INTEGER), 0)
  ) AS of_anywhere
FROM seen
LEFT JOIN elo_ratings AS e
  ON e.horse_id = seen.horse_id AND e.rating_number = unpacked(seen.of_starts, 0) - unpacked(seen.of_starts, 1)
WHERE seen.is_subject;

-- All prior runs of the horse in this location, in one pass: counts, places in running, speed figures, weights in grams,
-- distances, wet and dry tracks, ratings in hundredths, how far the finish was from a plain guess (third), and runs under
-- the same circumstances as today. Places are counted back from the post: `early` with 800 m to go, `late` with 400 m to
-- go. The sums stay as they are packed until somebody reads them, in `career_form`.
CREATE OR REPLACE TABLE horse_history AS
WITH runs AS (
  SELECT
    s.runner_id,
    s.horse_key,
    s.career_key,
    s.is_subject,
    s.day_key,
    s.total_runners,
    s.finished,
    s.won,
    s.placed,
    s.final_position,
    s.distance_range_key,
    s.category_key,
    s.going_group_key,
    s.barrier_group,
    s.finished * s.is_same_day AS is_run_today,
    CASE WHEN s.finished = 1 THEN c.race_distance END AS distance,
    CASE WHEN s.finished = 1 THEN p.position_800m END AS early,
    CASE WHEN s.finished = 1 THEN p.position_400m END AS late,
    f.speed_figure,
    e.horse_elo,
    e.of_anywhere,
    CASE WHEN s.finished = 1 THEN thousandths(s.weight) END AS grams,
    CASE WHEN s.finished = 1 THEN CAST(round(e.horse_elo * 100) AS INTEGER) ELSE 0 END AS rating,
    s.finished * CAST(coalesce(g.track_condition_numeric >= 5, false) AS INTEGER) AS wet_run,
    s.finished * CAST(coalesce(g.track_condition_numeric <= 3, false) AS INTEGER) AS dry_run
  FROM horse_starts AS s
  JOIN cleaned_races AS c USING (race_key)
  JOIN race_conditions AS g USING (race_key)
  JOIN horse_anywhere AS e USING (runner_id)
  LEFT JOIN checkpoints AS p ON p.runner_id = s.runner_id
  LEFT JOIN speed_figures AS f ON f.runner_id = s.runner_id
),
-- What a run adds, as flags of 0 or 1 and as places below 50, none of them null.
facts AS (
  SELECT
    *,
    CAST(early IS NOT NULL AS INTEGER) AS has_early,
    CAST(late IS NOT NULL AS INTEGER) AS has_late,
    CAST(early IS NOT NULL AND late IS NOT NULL AS INTEGER) AS has_both,
    coalesce(early, 0) AS early_place,
    coalesce(late, 0) AS late_place,
    CASE WHEN early IS NOT NULL THEN final_position ELSE 0 END AS final_after_early,
    CASE WHEN late IS NOT NULL THEN final_position ELSE 0 END AS final_after_late,
    CASE WHEN early IS NOT NULL THEN abs(early - final_position) ELSE 0 END AS early_move,
    coalesce(late - final_position, 0) AS late_gain,
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
  WHERE assured(coalesce(least(final_position, early, late), 0) >= 0, 'a place is below 0')
    AND assured(category_key <= 4, 'there are more than four categories of tracks')
),
-- Most of the work is in the number of sums, so three small ones share one, and two of those share one again. A small
-- one has room for a million: with places from 0 to 49 enough for 20000 starts, and both are assured.
additions AS (
  SELECT
    runner_id,
    horse_key,
    career_key,
    is_subject,
    day_key,
    finished,
    distance_range_key,
    category_key,
    going_group_key,
    barrier_group,
    horse_elo,
    of_anywhere,
    speed_figure,
    paired(packed(finished, won, placed), packed(is_run_today, wet_run, dry_run)) AS runs_days,
    paired(
      packed(has_early, early_place, final_after_early), packed(early_move, has_early_in_field, is_in_first_quarter)
    ) AS early_moves,
    paired(packed(has_late, late_place, final_after_late), packed(is_strong_finish, has_faded, has_closed)) AS late_finishes,
    paired(
      packed(has_both, has_early * late_place, has_late * early_place), packed(is_in_front, is_long, is_long * is_in_front)
    ) AS both_fronts,
    paired(packed(has_figure, is_weighed, has_distance), coalesce(CAST(round(speed_figure * 100) AS BIGINT), 0)) AS measures_figures,
    paired(packed(is_sprint, is_sprint * has_faded, position_error), coalesce(grams, 0)) AS sprints_grams,
    paired(late_gain * late_gain, coalesce(distance, 0)) AS gains_distances,
    paired(rating, coalesce(CAST(distance AS BIGINT) * distance, 0)) AS ratings_squares,
    paired(counted_by(finished, distance_range_key), counted_by(finished, category_key)) AS distances_categories,
    paired(counted_by(finished, going_group_key), counted_by(finished, barrier_group)) AS goings_barriers
  FROM facts
),
sums AS (
  SELECT
    runner_id,
    horse_key,
    is_subject,
    day_key,
    distance_range_key,
    category_key,
    going_group_key,
    barrier_group,
    horse_elo,
    of_anywhere,
    row_number() OVER earlier AS start_number,
    sum(runs_days) OVER earlier AS runs_days,
    sum(early_moves) OVER earlier AS early_moves,
    sum(late_finishes) OVER earlier AS late_finishes,
    sum(both_fronts) OVER earlier AS both_fronts,
    sum(measures_figures) OVER earlier AS measures_figures,
    max(speed_figure) OVER earlier AS best_speed_figure,
    sum(sprints_grams) OVER earlier AS sprints_grams,
    sum(gains_distances) OVER earlier AS gains_distances,
    sum(ratings_squares) OVER earlier AS ratings_squares,
    sum(distances_categories) OVER earlier AS distances_categories,
    sum(goings_barriers) OVER earlier AS goings_barriers,
    sum(finished) OVER sixty_days AS runs_in_60_days,
    sum(finished) OVER ninety_days AS runs_in_90_days
  FROM additions
  -- The days of a career go up with its runners, so one order serves all three.
  WINDOW
    earlier AS (PARTITION BY career_key ORDER BY day_key, runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    sixty_days AS (PARTITION BY career_key ORDER BY day_key RANGE BETWEEN 60 PRECEDING AND 1 PRECEDING),
    ninety_days AS (PARTITION BY career_key ORDER BY day_key RANGE BETWEEN 90 PRECEDING AND 1 PRECEDING)
),
histories AS (
  SELECT
    runner_id,
    horse_key,
    day_key,
    horse_elo,
    of_anywhere,
    low_of(runs_days) AS of_runs,
    high_of(runs_days) AS of_days,
    low_of(early_moves) AS of_early,
    high_of(early_moves) AS of_early_moves,
    low_of(late_finishes) AS of_late_places,
    high_of(late_finishes) AS of_finishes,
    low_of(both_fronts) AS of_both,
    high_of(both_fronts) AS of_fronts,
    low_of(measures_figures) AS of_measures,
    high_of(measures_figures) AS figure_hundredths,
    best_speed_figure,
    low_of(sprints_grams) AS of_sprints,
    high_of(sprints_grams) AS grams,
    low_of(gains_distances) AS late_gain_squares,
    high_of(gains_distances) AS distance_sum,
    low_of(ratings_squares) AS rating_sum,
    high_of(ratings_squares) AS distance_squares,
    packed(
      counted(low_of(distances_categories), distance_range_key),
      counted(high_of(distances_categories), category_key),
      counted(low_of(goings_barriers), going_group_key)
    ) AS of_circumstances,
    -- The days before today. The runs of today are to be added.
    packed(counted(high_of(goings_barriers), barrier_group), coalesce(runs_in_60_days, 0), coalesce(runs_in_90_days, 0)) AS of_late
  FROM sums
  WHERE is_subject AND assured(start_number <= 20000, 'a horse has more than 20000 starts')
)
SELECT
  h.* EXCLUDE (horse_key, day_key),
  date_of(h.day_key) AS race_date,
  previous.race_key AS previous_race_key,
  h.day_key - previous.day_key AS days_since_last_race,
  coalesce(previous.of_last_positions, 0) AS of_last_positions,
  coalesce(previous.of_last_places, 0) AS of_last_places
FROM histories AS h
LEFT JOIN horse_runs AS previous
  ON previous.horse_key = h.horse_key AND previous.run_number = unpacked(h.of_runs, 0) - unpacked(h.of_days, 0)
ORDER BY runner_id;

-- The earlier wins of the horse, and how many of them were under today's circumstances. Wins are few, so each meets each
-- later start of the horse directly. Wins here are those in this location. A start without an earlier win has no row.
CREATE OR REPLACE TABLE horse_past_wins AS
WITH circumstances AS (
  SELECT
    r.runner_id, r.race_date, r.horse_id, r.day_key, r.meeting_key, r.race_order, r.is_starter, r.won,
    r.location_key, r.track_key, r.barrier_group, r.jockey_id,
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
    w.barrier_group = r.barrier_group AS from_barrier,
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

-- Prior runs of the horse in this location at the track of today, at the distance too, and with the jockey of today.
CREATE OR REPLACE TABLE horse_circumstances AS
WITH sums AS (
  SELECT
    runner_id,
    race_date,
    is_subject,
    distance_range_key,
    CAST(coalesce(sum(packed(finished, placed, 0)) OVER at_track, 0) AS BIGINT) AS of_track,
    CAST(coalesce(sum(counted_by(finished, distance_range_key)) OVER at_track, 0) AS BIGINT) AS of_track_distances,
    total(sum(finished) OVER with_jockey) AS horse_jockey_runs
  FROM horse_starts
  WINDOW
    at_track AS (PARTITION BY career_key, track_key ORDER BY runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    with_jockey AS (PARTITION BY career_key, jockey_id ORDER BY runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  runner_id,
  race_date,
  unpacked(of_track, 0) AS races_at_track,
  unpacked(of_track, 1) AS places_at_track,
  counted(of_track_distances, distance_range_key) AS track_distance_runs,
  horse_jockey_runs
FROM sums
WHERE is_subject
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
-- The windows end with the group before the own one: the earlier days, or the lower race numbers. Runs, wins and places
-- are packed, with room for a million each, which is assured.
-- A meeting has one track and one location. Entries, unlike rides, count wherever they were and without a place too.
-- The last rides are those before today.
CREATE OR REPLACE TABLE jockey_career AS
WITH meetings AS (
  SELECT
    jockey_id,
    meeting_key,
    min(jockey_key) AS jockey_key,
    min(day_key) AS day_key,
    min(track_key) AS track_key,
    CAST(sum(packed(finished, won, placed)) AS BIGINT) AS results
  FROM runners
  GROUP BY jockey_id, meeting_key
),
before_today AS (
  SELECT
    jockey_id,
    meeting_key,
    CAST(coalesce(sum(results) OVER here, 0) AS BIGINT) AS results,
    CAST(coalesce(sum(results) OVER at_track, 0) AS BIGINT) AS results_at_track
  FROM meetings
  WINDOW
    here AS (PARTITION BY jockey_key ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    at_track AS (PARTITION BY jockey_id, track_key ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
results AS (
  SELECT runner_id, is_starter, day_key, meeting_key, race_order, jockey_id, jockey_key, packed(finished, won, placed) AS result
  FROM runners
),
today AS (
  SELECT
    runner_id,
    is_starter,
    day_key,
    meeting_key,
    jockey_id,
    jockey_key,
    -- A rank is one more than the number of entries before.
    CAST(rank() OVER days + rank() OVER races - 2 AS INTEGER) AS entries,
    CAST(coalesce(sum(result) OVER earlier_races, 0) AS BIGINT) AS results
  FROM results
  WINDOW
    days AS (PARTITION BY jockey_id ORDER BY day_key),
    races AS (PARTITION BY jockey_id, meeting_key ORDER BY race_order),
    earlier_races AS (PARTITION BY jockey_id, meeting_key ORDER BY race_order GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  t.runner_id,
  date_of(t.day_key) AS race_date,
  t.entries AS jockey_entries,
  b.results + t.results AS of_jockey,
  b.results_at_track + t.results AS of_jockey_at_track,
  coalesce(last.avg_position_20, CAST(6 AS DOUBLE)) AS jockey_avg_position_20,
  coalesce(last.avg_position_50, CAST(6 AS DOUBLE)) AS jockey_avg_position_50
FROM today AS t
JOIN before_today AS b USING (jockey_id, meeting_key)
LEFT JOIN jockey_runs AS last ON last.jockey_key = t.jockey_key AND last.run_number = unpacked(b.results, 0)
WHERE t.is_starter AND assured(t.entries <= 1000000, 'a jockey has more than a million runners')
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
    meeting_key,
    min(trainer_key) AS trainer_key,
    min(day_key) AS day_key,
    min(track_key) AS track_key,
    CAST(sum(packed(finished, won, placed)) AS BIGINT) AS results
  FROM runners
  GROUP BY trainer_id, meeting_key
),
before_today AS (
  SELECT
    trainer_id,
    meeting_key,
    CAST(coalesce(sum(results) OVER here, 0) AS BIGINT) AS results,
    CAST(coalesce(sum(results) OVER at_track, 0) AS BIGINT) AS results_at_track
  FROM meetings
  WINDOW
    here AS (PARTITION BY trainer_key ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    at_track AS (PARTITION BY trainer_id, track_key ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
results AS (
  SELECT runner_id, is_starter, day_key, meeting_key, race_order, trainer_id, trainer_key, packed(finished, won, placed) AS result
  FROM runners
),
today AS (
  SELECT
    runner_id,
    is_starter,
    day_key,
    meeting_key,
    trainer_id,
    trainer_key,
    -- A rank is one more than the number of entries before.
    CAST(rank() OVER days + rank() OVER races - 2 AS INTEGER) AS entries,
    CAST(coalesce(sum(result) OVER earlier_races, 0) AS BIGINT) AS results
  FROM results
  WINDOW
    days AS (PARTITION BY trainer_id ORDER BY day_key),
    races AS (PARTITION BY trainer_id, meeting_key ORDER BY race_order),
    earlier_races AS (PARTITION BY trainer_id, meeting_key ORDER BY race_order GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  t.runner_id,
  date_of(t.day_key) AS race_date,
  t.entries AS trainer_entries,
  b.results + t.results AS of_trainer,
  b.results_at_track + t.results AS of_trainer_at_track,
  coalesce(last.avg_position_50, CAST(6 AS DOUBLE)) AS trainer_avg_position_50,
  coalesce(last.avg_position_100, CAST(6 AS DOUBLE)) AS trainer_avg_position_100
FROM today AS t
JOIN before_today AS b USING (trainer_id, meeting_key)
LEFT JOIN trainer_runs AS last ON last.trainer_key = t.trainer_key AND last.run_number = unpacked(b.results, 0)
WHERE t.is_starter AND assured(t.entries <= 1000000, 'a trainer has more than a million runners')
ORDER BY runner_id;

-- Packed runs and wins of jockey and trainer together, wherever it was.
CREATE OR REPLACE TABLE jockey_trainer_career AS
WITH results AS (
  SELECT runner_id, race_date, day_key, meeting_key, race_order, jockey_id, trainer_id, packed(finished, won, 0) AS result
  FROM runners
  WHERE is_starter
)
SELECT
  runner_id,
  race_date,
  CAST(coalesce(sum(result) OVER earlier_days, 0) + coalesce(sum(result) OVER earlier_today, 0) AS BIGINT) AS of_both
FROM results
WINDOW
  earlier_days AS (PARTITION BY jockey_id, trainer_id ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  earlier_today AS (PARTITION BY jockey_id, trainer_id, meeting_key ORDER BY race_order GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
ORDER BY runner_id;

-- How often a third of the barriers wins at a track, against all barriers there. Summed per race first.
CREATE OR REPLACE TABLE barrier_bias AS
WITH races AS (
  SELECT track_key, barrier_group, day_key, meeting_key, race_order, paired(sum(won), sum(finished)) AS wins_runs
  FROM runners
  WHERE is_starter
  GROUP BY track_key, barrier_group, day_key, meeting_key, race_order
),
whole_races AS (
  SELECT track_key, day_key, meeting_key, race_order, sum(wins_runs) AS wins_runs
  FROM races
  GROUP BY track_key, day_key, meeting_key, race_order
),
at_track AS (
  SELECT
    track_key, meeting_key, race_order,
    coalesce(sum(wins_runs) OVER earlier_days, 0) + coalesce(sum(wins_runs) OVER earlier_today, 0) AS wins_runs
  FROM whole_races
  WINDOW
    earlier_days AS (PARTITION BY track_key ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (PARTITION BY track_key, meeting_key ORDER BY race_order GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
at_barrier AS (
  SELECT
    track_key, barrier_group, meeting_key, race_order,
    coalesce(sum(wins_runs) OVER earlier_days, 0) + coalesce(sum(wins_runs) OVER earlier_today, 0) AS wins_runs
  FROM races
  WHERE barrier_group IS NOT NULL
  WINDOW
    earlier_days AS (PARTITION BY track_key, barrier_group ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (
      PARTITION BY track_key, barrier_group, meeting_key ORDER BY race_order GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
),
counts AS (
  SELECT
    c.race_key,
    c.race_date,
    b.barrier_group,
    high_of(b.wins_runs) AS runs,
    low_of(b.wins_runs) AS wins,
    high_of(t.wins_runs) AS track_runs,
    low_of(t.wins_runs) AS track_wins
  FROM at_barrier AS b
  JOIN at_track AS t USING (track_key, meeting_key, race_order)
  JOIN cleaned_races AS c USING (track_key, meeting_key, race_order)
)
SELECT
  race_key,
  race_date,
  barrier_group,
  CASE
    WHEN runs >= 20 THEN rounded(CAST(wins AS DOUBLE) / runs - CAST(track_wins AS DOUBLE) / track_runs, 4)
    ELSE CAST(0 AS DOUBLE)
  END AS barrier_advantage_at_track,
  CASE
    WHEN runs >= 20 AND track_wins > 0 THEN rounded((CAST(wins AS DOUBLE) * track_runs) / (CAST(runs AS DOUBLE) * track_wins), 4)
    ELSE CAST(1 AS DOUBLE)
  END AS barrier_effectiveness_score
FROM counts
ORDER BY race_key;

-- The runner against the field of its race, on what was known before it. Percentages are compared as whole hundredths.
CREATE OR REPLACE TABLE field_comparison AS
WITH field AS (
  SELECT
    r.runner_id,
    r.race_date,
    r.race_key,
    r.win_odds,
    h.horse_elo,
    unpacked(h.of_runs, 0) AS total_races,
    CAST(round(coalesce(rounded(mean_of(100 * unpacked(h.of_runs, 1), unpacked(h.of_runs, 0)), 2), 0) * 100) AS INTEGER) AS win_hundredths
  FROM runners AS r
  JOIN horse_history AS h USING (runner_id)
),
compared AS (
  SELECT
    runner_id,
    race_date,
    total_races,
    win_hundredths,
    percent_rank() OVER (PARTITION BY race_key ORDER BY horse_elo) AS elo_percentile,
    percent_rank() OVER (PARTITION BY race_key ORDER BY coalesce(win_odds, 100) DESC NULLS LAST) AS odds_percentile,
    rank() OVER (PARTITION BY race_key ORDER BY coalesce(win_odds, 999)) AS odds_rank,
    count(*) OVER race AS field_size,
    sum(paired(win_hundredths, total_races)) OVER race AS of_race
  FROM field
  WINDOW race AS (PARTITION BY race_key)
)
SELECT
  runner_id,
  race_date,
  rounded(elo_percentile, 4) AS elo_percentile_in_race,
  rounded(odds_percentile, 4) AS odds_percentile_in_race,
  CAST(odds_rank AS INTEGER) AS odds_rank_in_race,
  CASE
    WHEN low_of(of_race) = 0 THEN CAST(1 AS DOUBLE)
    ELSE rounded(least(5, win_hundredths * CAST(field_size AS DOUBLE) / low_of(of_race)), 4)
  END AS win_pct_vs_field_avg,
  CASE
    WHEN high_of(of_race) = 0 THEN CAST(1 AS DOUBLE)
    ELSE rounded(least(5, total_races * CAST(field_size AS DOUBLE) / high_of(of_race)), 4)
  END AS experience_vs_field_avg
FROM compared
ORDER BY runner_id;

-- The features of this phase, and the counts that later phases make features of. Each later phase adds its features to
-- the row. Whatever one runner needs is joined here, where the rows are narrow. Each history has one row per starter or
-- none, and the left joins keep the order of the joins as it is written. Every join names the date as well, so that the
-- dates which somebody asks for hold for each of the tables.
CREATE OR REPLACE VIEW career_form AS
WITH known AS (
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
    CASE r.barrier_group WHEN 1 THEN 'inner' WHEN 2 THEN 'middle' WHEN 3 THEN 'outer' WHEN 4 THEN 'unknown' END AS barrier_position,
    r.weight,
    r.win_odds,
    c.race_distance,
    unpacked(h.of_runs, 0) AS total_races,
    unpacked(h.of_runs, 1) AS wins,
    unpacked(h.of_runs, 2) AS places,
    h.previous_race_key,
    h.days_since_last_race,
    unpacked(h.of_last_positions, 0) AS last_position_sum,
    unpacked(h.of_last_positions, 1) AS last_position_squares,
    unpacked(h.of_last_positions, 2) AS last_wins,
    unpacked(h.of_last_places, 0) AS last_runs,
    unpacked(h.of_last_places, 1) AS last_places,
    unpacked(h.of_last_places, 2) AS last_weighted_places,
    unpacked(h.of_days, 1) AS wet_runs,
    unpacked(h.of_days, 2) AS dry_runs,
    unpacked(h.of_late, 1) + unpacked(h.of_days, 0) AS runs_last_60_days,
    unpacked(h.of_late, 2) + unpacked(h.of_days, 0) AS runs_last_90_days,
    unpacked(h.of_early, 0) AS early_runs,
    unpacked(h.of_early, 1) AS early_places,
    -- A gain is places won up to the finish.
    unpacked(h.of_early, 1) - unpacked(h.of_early, 2) AS early_gains,
    unpacked(h.of_early_moves, 0) AS early_moves,
    unpacked(h.of_early_moves, 1) AS early_in_field_runs,
    unpacked(h.of_early_moves, 2) AS first_quarter_runs,
    unpacked(h.of_both, 0) AS late_after_early_runs,
    unpacked(h.of_both, 1) AS late_after_early_places,
    unpacked(h.of_late_places, 0) AS late_runs,
    unpacked(h.of_late_places, 1) AS late_places,
    unpacked(h.of_late_places, 1) - unpacked(h.of_late_places, 2) AS late_gains,
    h.late_gain_squares,
    unpacked(h.of_both, 2) - unpacked(h.of_late_places, 2) AS surges,
    unpacked(h.of_finishes, 0) AS strong_finishes,
    unpacked(h.of_finishes, 1) AS faded_runs,
    unpacked(h.of_finishes, 2) AS closed_runs,
    unpacked(h.of_fronts, 0) AS front_runs,
    unpacked(h.of_fronts, 1) AS long_runs,
    unpacked(h.of_fronts, 2) AS front_long_runs,
    unpacked(h.of_sprints, 0) AS sprints,
    unpacked(h.of_sprints, 1) AS faded_sprints,
    unpacked(h.of_sprints, 2) AS position_errors,
    unpacked(h.of_measures, 0) AS figures,
    unpacked(h.of_measures, 1) AS weighed_runs,
    unpacked(h.of_measures, 2) AS distances,
    h.figure_hundredths,
    h.best_speed_figure,
    h.grams,
    h.distance_sum,
    h.distance_squares,
    h.rating_sum,
    unpacked(h.of_circumstances, 0) AS races_at_distance,
    unpacked(h.of_circumstances, 1) AS horse_category_runs,
    unpacked(h.of_circumstances, 2) AS going_group_runs,
    unpacked(h.of_late, 0) AS barrier_group_runs,
    x.* EXCLUDE (runner_id, race_date),
    h.horse_elo,
    unpacked(h.of_anywhere, 0) AS elo_races_count,
    unpacked(h.of_anywhere, 1) AS metro_starts,
    unpacked(h.of_anywhere, 2) = 1 AS is_cross_region_horse,
    j.jockey_entries,
    unpacked(j.of_jockey, 0) AS jockey_rides,
    unpacked(j.of_jockey, 1) AS jockey_wins,
    unpacked(j.of_jockey, 2) AS jockey_places,
    unpacked(j.of_jockey_at_track, 0) AS jockey_track_rides,
    unpacked(j.of_jockey_at_track, 1) AS jockey_track_wins,
    j.jockey_avg_position_20,
    j.jockey_avg_position_50,
    t.trainer_entries,
    unpacked(t.of_trainer, 0) AS trainer_runs,
    unpacked(t.of_trainer, 1) AS trainer_wins,
    unpacked(t.of_trainer, 2) AS trainer_places,
    unpacked(t.of_trainer_at_track, 0) AS trainer_track_runs,
    unpacked(t.of_trainer_at_track, 1) AS trainer_track_wins,
    t.trainer_avg_position_50,
    t.trainer_avg_position_100,
    unpacked(jt.of_both, 0) AS jockey_trainer_runs,
    unpacked(jt.of_both, 1) AS jockey_trainer_wins,
    p.* EXCLUDE (runner_id, race_date),
    coalesce(w.wins_at_distance, 0) AS wins_at_distance,
    coalesce(w.wins_at_track, 0) AS wins_at_track,
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
    b.barrier_advantage_at_track,
    coalesce(b.barrier_effectiveness_score, CAST(1 AS DOUBLE)) AS barrier_effectiveness_score
  FROM runners AS r
  LEFT JOIN cleaned_races AS c ON c.race_key = r.race_key AND c.race_date = r.race_date
  LEFT JOIN horse_history AS h ON h.runner_id = r.runner_id AND h.race_date = r.race_date
  LEFT JOIN horse_circumstances AS x ON x.runner_id = r.runner_id AND x.race_date = r.race_date
  LEFT JOIN jockey_career AS j ON j.runner_id = r.runner_id AND j.race_date = r.race_date
  LEFT JOIN trainer_career AS t ON t.runner_id = r.runner_id AND t.race_date = r.race_date
  LEFT JOIN jockey_trainer_career AS jt ON jt.runner_id = r.runner_id AND jt.race_date = r.race_date
  LEFT JOIN field_comparison AS p ON p.runner_id = r.runner_id AND p.race_date = r.race_date
  LEFT JOIN horse_past_wins AS w ON w.runner_id = r.runner_id AND w.race_date = r.race_date
  LEFT JOIN barrier_bias AS b ON b.race_key = r.race_key AND b.race_date = r.race_date AND b.barrier_group = r.barrier_group
)
SELECT
  * EXCLUDE (
    wins_at_distance, wins_at_track, last_runs, last_position_sum, last_position_squares, last_wins, last_places,
    last_weighted_places, rating_sum
  ),
  coalesce(rounded(mean_of(100 * wins, total_races), 2), CAST(0 AS DOUBLE)) AS win_percentage,
  coalesce(rounded(mean_of(100 * places, total_races), 2), CAST(0 AS DOUBLE)) AS place_percentage,
  total_races = 0 AS is_first_timer,
  elo_races_count = 0 AS is_elo_default,
  total_races > 0 AND places = 0 AS never_placed_flag,
  -- A rating promises a win chance of 0.1 per 600 points above 1100.
  rating_sum - CAST(total_races AS BIGINT) * 110000 AS ratings_above_base,
  rounded(mean_of(last_position_sum, last_runs), 2) AS last_5_avg_position,
  frac(last_wins, last_runs) AS last_5_win_rate,
  frac(last_places, last_runs) AS last_5_place_rate,
  frac(last_weighted_places, last_runs * (last_runs + 1) / 2) AS form_momentum,
  CASE
    WHEN last_runs >= 2 THEN
      rounded(sqrt(CAST(last_runs * last_position_squares - last_position_sum * last_position_sum AS DOUBLE)) / last_runs, 2)
  END AS pos_volatility_last5,
  CASE
    WHEN days_since_last_race IS NULL THEN CAST(0.5 AS DOUBLE)
    WHEN days_since_last_race <= 14 THEN 1.0
    WHEN days_since_last_race <= 28 THEN 0.9
    WHEN days_since_last_race <= 42 THEN 0.8
    WHEN days_since_last_race <= 60 THEN 0.6
    WHEN days_since_last_race <= 90 THEN 0.4
    ELSE 0.2
  END AS form_recency_score,
  least(CAST(1 AS DOUBLE), ln(total_races + 1) / ln(21)) AS feature_maturity_score,
  frac(jockey_wins, jockey_rides) AS jockey_win_rate,
  frac(jockey_places, jockey_rides) AS jockey_place_rate,
  frac(trainer_wins, trainer_runs) AS trainer_win_rate,
  frac(trainer_places, trainer_runs) AS trainer_place_rate,
  frac(wins_at_distance, races_at_distance) AS distance_win_rate,
  frac(wins_at_track, races_at_track) AS track_win_rate
FROM known;
