-- grain: one row per starter in every table, except horse_runs with one per finish
-- reads: runners, elo_ratings
-- writes: horse_career, horse_runs, horse_ratings, jockey_career, trainer_career, horse_distance_career, horse_track_career, career_form
-- why: what was known about horse, jockey and trainer before the race. Earlier days count (first window), and of the
--      same day only lower race numbers at the same meeting (second window). RANGE over whole numbers leaves out all
--      peers, so no runner sees its own race.

-- Career of the horse in this location. `runs_on_earlier_days` is the number of its last run before today.
CREATE OR REPLACE TABLE horse_career AS
SELECT
  runner_id,
  horse_key,
  total(sum(finished) OVER earlier_days) AS runs_on_earlier_days,
  total(sum(finished) OVER earlier_days) + total(sum(finished) OVER earlier_today) AS total_races,
  total(sum(won) OVER earlier_days) + total(sum(won) OVER earlier_today) AS wins,
  total(sum(placed) OVER earlier_days) + total(sum(placed) OVER earlier_today) AS places
FROM runners
WHERE is_starter
WINDOW
  earlier_days AS (PARTITION BY horse_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  earlier_today AS (PARTITION BY horse_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING);

-- The runs of a horse, numbered in race order, each with the form of the last five runs up to and including it. A
-- runner whose horse has m runs on earlier days finds its previous run, and its form, at run number m.
CREATE OR REPLACE TABLE horse_runs AS
SELECT
  horse_key,
  CAST(row_number() OVER so_far AS INTEGER) AS run_number,
  runner_id,
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

-- The rating the horse brings to the race, whatever the location, and the locations it has raced in.
CREATE OR REPLACE TABLE horse_ratings AS
WITH seen AS (
  SELECT
    r.runner_id,
    r.horse_id,
    total(count(e.race_key) OVER earlier_days) AS rated_on_earlier_days,
    total(count(e.race_key) OVER earlier_today) AS rated_today,
    min(CASE WHEN r.finished = 1 THEN r.location_key END) OVER earlier_days AS lowest_location,
    max(CASE WHEN r.finished = 1 THEN r.location_key END) OVER earlier_days AS highest_location,
    min(CASE WHEN r.finished = 1 THEN r.location_key END) OVER earlier_today AS location_today
  FROM runners AS r
  LEFT JOIN elo_ratings AS e USING (race_key, horse_id)
  WINDOW
    earlier_days AS (PARTITION BY r.horse_id ORDER BY r.day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (PARTITION BY r.horse_id, r.meeting_key ORDER BY r.race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  seen.runner_id,
  coalesce(e.elo_after, CAST(1200 AS DOUBLE)) AS horse_elo,
  rated_on_earlier_days + rated_today = 0 AS is_elo_default,
  rated_on_earlier_days + rated_today AS elo_races_count,
  coalesce(least(lowest_location, location_today) <> greatest(highest_location, location_today), false) AS is_cross_region_horse
FROM seen
LEFT JOIN elo_ratings AS e ON e.horse_id = seen.horse_id AND e.rating_number = seen.rated_on_earlier_days;

-- Jockeys and trainers have thousands of runs, so their days are summed before the window runs over them.
-- `jockey_rides_on_earlier_days` is, as with the horse, the number of the last ride before today.
CREATE OR REPLACE TABLE jockey_career AS
WITH days AS (
  SELECT jockey_key, day_key, sum(finished) AS rides, sum(won) AS wins, sum(placed) AS places
  FROM runners
  WHERE is_starter
  GROUP BY jockey_key, day_key
),
before_today AS (
  SELECT
    jockey_key,
    day_key,
    total(sum(rides) OVER earlier_days) AS rides,
    total(sum(wins) OVER earlier_days) AS wins,
    total(sum(places) OVER earlier_days) AS places
  FROM days
  WINDOW earlier_days AS (PARTITION BY jockey_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
today AS (
  SELECT
    runner_id,
    jockey_key,
    day_key,
    total(sum(finished) OVER earlier_today) AS rides,
    total(sum(won) OVER earlier_today) AS wins,
    total(sum(placed) OVER earlier_today) AS places
  FROM runners
  WHERE is_starter
  WINDOW earlier_today AS (PARTITION BY jockey_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  runner_id,
  jockey_key,
  b.rides AS jockey_rides_on_earlier_days,
  b.rides + t.rides AS jockey_rides,
  b.wins + t.wins AS jockey_wins,
  b.places + t.places AS jockey_places
FROM today AS t
JOIN before_today AS b USING (jockey_key, day_key);

CREATE OR REPLACE TABLE trainer_career AS
WITH days AS (
  SELECT trainer_key, day_key, sum(finished) AS runs, sum(won) AS wins, sum(placed) AS places
  FROM runners
  WHERE is_starter
  GROUP BY trainer_key, day_key
),
before_today AS (
  SELECT
    trainer_key,
    day_key,
    total(sum(runs) OVER earlier_days) AS runs,
    total(sum(wins) OVER earlier_days) AS wins,
    total(sum(places) OVER earlier_days) AS places
  FROM days
  WINDOW earlier_days AS (PARTITION BY trainer_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
today AS (
  SELECT
    runner_id,
    trainer_key,
    day_key,
    total(sum(finished) OVER earlier_today) AS runs,
    total(sum(won) OVER earlier_today) AS wins,
    total(sum(placed) OVER earlier_today) AS places
  FROM runners
  WHERE is_starter
  WINDOW earlier_today AS (PARTITION BY trainer_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  runner_id,
  trainer_key,
  b.runs AS trainer_runs_on_earlier_days,
  b.runs + t.runs AS trainer_runs,
  b.wins + t.wins AS trainer_wins,
  b.places + t.places AS trainer_places
FROM today AS t
JOIN before_today AS b USING (trainer_key, day_key);

CREATE OR REPLACE TABLE horse_distance_career AS
SELECT
  runner_id,
  total(sum(finished) OVER earlier_days) + total(sum(finished) OVER earlier_today) AS races_at_distance,
  total(sum(won) OVER earlier_days) + total(sum(won) OVER earlier_today) AS wins_at_distance
FROM runners
WHERE is_starter
WINDOW
  earlier_days AS (PARTITION BY horse_key, distance_range ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  earlier_today AS (
    PARTITION BY horse_key, distance_range, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  );

CREATE OR REPLACE TABLE horse_track_career AS
SELECT
  runner_id,
  total(sum(finished) OVER earlier_days) + total(sum(finished) OVER earlier_today) AS races_at_track,
  total(sum(won) OVER earlier_days) + total(sum(won) OVER earlier_today) AS wins_at_track,
  total(sum(placed) OVER earlier_days) + total(sum(placed) OVER earlier_today) AS places_at_track
FROM runners
WHERE is_starter
WINDOW
  earlier_days AS (PARTITION BY horse_key, track_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  earlier_today AS (
    PARTITION BY horse_key, track_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  );

CREATE OR REPLACE TABLE career_form AS
SELECT
  runner_id,
  h.total_races,
  h.wins,
  h.places,
  coalesce(rounded(mean_of(100 * h.wins, h.total_races), 2), CAST(0 AS DOUBLE)) AS win_percentage,
  coalesce(rounded(mean_of(100 * h.places, h.total_races), 2), CAST(0 AS DOUBLE)) AS place_percentage,
  h.total_races = 0 AS is_first_timer,
  r.day_key - f.day_key AS days_since_last_race,
  rounded(mean_of(f.position_sum, f.runs), 2) AS last_5_avg_position,
  frac(coalesce(f.wins, 0), coalesce(f.runs, 0)) AS last_5_win_rate,
  frac(coalesce(f.places, 0), coalesce(f.runs, 0)) AS last_5_place_rate,
  frac(coalesce(f.weighted_places, 0), coalesce(f.runs * (f.runs + 1) / 2, 0)) AS form_momentum,
  CASE
    WHEN f.runs >= 2 THEN
      rounded(sqrt(CAST(f.runs * f.position_squares - f.position_sum * f.position_sum AS DOUBLE)) / f.runs, 2)
  END AS pos_volatility_last5,
  CASE
    WHEN f.day_key IS NULL THEN CAST(0.5 AS DOUBLE)
    WHEN r.day_key - f.day_key <= 14 THEN 1.0
    WHEN r.day_key - f.day_key <= 28 THEN 0.9
    WHEN r.day_key - f.day_key <= 42 THEN 0.8
    WHEN r.day_key - f.day_key <= 60 THEN 0.6
    WHEN r.day_key - f.day_key <= 90 THEN 0.4
    ELSE 0.2
  END AS form_recency_score,
  e.horse_elo,
  e.is_elo_default,
  e.elo_races_count,
  least(CAST(1 AS DOUBLE), ln(h.total_races + 1) / ln(21)) AS feature_maturity_score,
  frac(j.jockey_wins, j.jockey_rides) AS jockey_win_rate,
  frac(j.jockey_places, j.jockey_rides) AS jockey_place_rate,
  frac(t.trainer_wins, t.trainer_runs) AS trainer_win_rate,
  frac(t.trainer_places, t.trainer_runs) AS trainer_place_rate,
  frac(d.wins_at_distance, d.races_at_distance) AS distance_win_rate,
  d.races_at_distance,
  frac(k.wins_at_track, k.races_at_track) AS track_win_rate,
  k.races_at_track,
  e.is_cross_region_horse,
  h.total_races > 0 AND h.places = 0 AS never_placed_flag
FROM runners AS r
JOIN horse_career AS h USING (runner_id)
LEFT JOIN horse_runs AS f ON f.horse_key = h.horse_key AND f.run_number = h.runs_on_earlier_days
JOIN horse_ratings AS e USING (runner_id)
JOIN jockey_career AS j USING (runner_id)
JOIN trainer_career AS t USING (runner_id)
JOIN horse_distance_career AS d USING (runner_id)
JOIN horse_track_career AS k USING (runner_id);
