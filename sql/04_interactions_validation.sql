-- grain: race_conditions one row per race, jockey_runs and trainer_runs one per finish, the other tables one row per starter
-- reads: cleaned_races, runners, race_classes, career_form, horse_career, horse_runs, jockey_career, trainer_career, horse_sectional_totals, horse_sectional_means, advanced_features
-- writes: race_conditions, horse_profile, horse_fit, horse_entries, jockey_runs, trainer_runs, jockey_volume, trainer_volume, barrier_bias, interaction_features
-- why: the remaining histories (volume, bias, distance, barrier, going, metro, last rides), and the interactions
--      of features of the same row. As everywhere, the history is earlier days plus lower race numbers at the meeting.

-- What the source says about going, weather and rail, as numbers.
CREATE OR REPLACE TABLE race_conditions AS
WITH worded AS (
  SELECT
    race_key,
    race_date,
    location,
    race_distance,
    is_metro_venue,
    raw_track_name,
    track_condition,
    race_weather,
    lower(track_condition) AS going,
    matches(lower(track_info), '^rail - true') AS leads_with_true,
    TRY_CAST(captured(lower(track_info), '(?:\bout\b|\+)[^0-9]*([0-9]+(?:\.[0-9]+)?)') AS DOUBLE) AS metres_out
  FROM cleaned_races
)
SELECT
  race_key,
  CASE
    WHEN going IS NULL THEN NULL
    WHEN matches(going, '^(firm|good 1|good 2)') THEN 1
    WHEN matches(going, '^(good 3|good 4)') THEN 3
    WHEN matches(going, '^good') THEN 2
    WHEN matches(going, '^(soft 5|soft 6|yielding)') THEN 4
    WHEN matches(going, '^(soft|wet)') THEN 5
    WHEN matches(going, '^heavy 8') THEN 6
    WHEN matches(going, '^heavy') THEN 7
    ELSE 3
  END AS track_condition_numeric,
  CASE
    WHEN going IS NULL THEN NULL
    WHEN matches(going, '^soft') THEN 'soft'
    WHEN matches(going, '^heavy') THEN 'heavy'
    WHEN matches(going, '^(synthetic|all weather)') THEN 'synthetic'
    ELSE 'good'
  END AS going_group,
  -- Text that leads with True means the true rail, whatever follows.
  CASE WHEN leads_with_true THEN CAST(0 AS DOUBLE) ELSE metres_out END AS rail_out_metres,
  CASE WHEN leads_with_true THEN CAST(1 AS DOUBLE) WHEN metres_out IS NOT NULL THEN CAST(0 AS DOUBLE) END AS is_rail_true,
  CAST(coalesce(lower(race_weather) LIKE '%rain%', false) AS INTEGER) AS is_wet_weather,
  CASE location
    WHEN 'HK' THEN
      CASE extract(month FROM race_date)
        WHEN 1 THEN 17 WHEN 2 THEN 17 WHEN 3 THEN 20 WHEN 4 THEN 24 WHEN 5 THEN 27 WHEN 6 THEN 29
        WHEN 7 THEN 31 WHEN 8 THEN 31 WHEN 9 THEN 29 WHEN 10 THEN 26 WHEN 11 THEN 22 ELSE 18
      END
    WHEN 'AU' THEN
      CASE extract(month FROM race_date)
        WHEN 1 THEN 28 WHEN 2 THEN 27 WHEN 3 THEN 24 WHEN 4 THEN 20 WHEN 5 THEN 16 WHEN 6 THEN 13
        WHEN 7 THEN 12 WHEN 8 THEN 14 WHEN 9 THEN 17 WHEN 10 THEN 20 WHEN 11 THEN 23 ELSE 26
      END
    ELSE 20
  END AS estimated_temperature,
  -- Keys of their own where the source says nothing: what is not known equals nothing.
  CAST(CASE WHEN track_condition IS NULL THEN -race_key ELSE dense_rank() OVER (ORDER BY track_condition) END AS INTEGER)
    AS track_condition_key,
  CAST(CASE WHEN raw_track_name IS NULL THEN -race_key ELSE dense_rank() OVER (ORDER BY raw_track_name) END AS INTEGER)
    AS raw_track_key,
  CAST(CASE WHEN race_distance IS NULL THEN -race_key ELSE floor(race_distance / 200.0) END AS INTEGER) AS distance_bucket,
  is_metro_venue
FROM worded;

-- Over all prior runs of the horse in this location: distances, winning distances, and how far the finish was from what
-- the rating (a win chance of 0.1 per 600 points above 1100) and a plain guess (third) would have said.
CREATE OR REPLACE TABLE horse_profile AS
WITH runs AS (
  SELECT
    r.runner_id, r.horse_key, r.day_key, r.meeting_key, r.race_order,
    CASE WHEN r.finished = 1 THEN c.race_distance END AS distance,
    CASE WHEN r.won = 1 THEN c.race_distance END AS winning_distance,
    abs(r.final_position - 3) AS position_error,
    CASE WHEN r.finished = 1 THEN CAST(round((e.horse_elo - 1100) * 100) AS INTEGER) END AS rating_above_base
  FROM runners AS r
  JOIN cleaned_races AS c USING (race_key)
  JOIN career_form AS e USING (runner_id)
  WHERE r.is_starter
)
SELECT
  runner_id,
  total(count(distance) OVER earlier_days) + total(count(distance) OVER earlier_today) AS distances,
  coalesce(sum(distance) OVER earlier_days, 0) + coalesce(sum(distance) OVER earlier_today, 0) AS distance_sum,
  coalesce(sum(CAST(distance AS BIGINT) * distance) OVER earlier_days, 0)
    + coalesce(sum(CAST(distance AS BIGINT) * distance) OVER earlier_today, 0) AS distance_squares,
  least(min(winning_distance) OVER earlier_days, min(winning_distance) OVER earlier_today) AS shortest_win,
  greatest(max(winning_distance) OVER earlier_days, max(winning_distance) OVER earlier_today) AS longest_win,
  total(sum(position_error) OVER earlier_days) + total(sum(position_error) OVER earlier_today) AS position_errors,
  coalesce(sum(rating_above_base) OVER earlier_days, 0) + coalesce(sum(rating_above_base) OVER earlier_today, 0) AS ratings_above_base
FROM runs
WINDOW
  earlier_days AS (PARTITION BY horse_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  earlier_today AS (PARTITION BY horse_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING);

-- Runs and wins of the horse under the same circumstances as today: the same going as worded, the same going group, the
-- same third of the barriers, the same track and distance range.
CREATE OR REPLACE TABLE horse_fit AS
WITH runs AS (
  SELECT
    r.runner_id, r.day_key, r.meeting_key, r.race_order, r.finished, r.won,
    r.horse_key, r.track_key, r.distance_range, r.barrier_position, c.track_condition_key, c.going_group
  FROM runners AS r
  JOIN race_conditions AS c USING (race_key)
  WHERE r.is_starter
)
SELECT
  runner_id,
  total(sum(won) OVER same_going) + total(sum(won) OVER same_going_today) AS going_wins,
  going_group IS NOT NULL AS has_going,
  total(sum(finished) OVER same_group) + total(sum(finished) OVER same_group_today) AS going_group_runs,
  total(sum(won) OVER same_group) + total(sum(won) OVER same_group_today) AS going_group_wins,
  CASE WHEN barrier_position IS NULL THEN 0
    ELSE total(sum(finished) OVER same_barrier) + total(sum(finished) OVER same_barrier_today) END AS barrier_group_runs,
  CASE WHEN barrier_position IS NULL THEN 0
    ELSE total(sum(won) OVER same_barrier) + total(sum(won) OVER same_barrier_today) END AS barrier_group_wins,
  total(sum(finished) OVER same_track_distance) + total(sum(finished) OVER same_track_distance_today) AS track_distance_runs,
  total(sum(won) OVER same_track_distance) + total(sum(won) OVER same_track_distance_today) AS track_distance_wins
FROM runs
WINDOW
  same_going AS (PARTITION BY horse_key, track_condition_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  same_going_today AS (
    PARTITION BY horse_key, track_condition_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ),
  same_group AS (PARTITION BY horse_key, going_group ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  same_group_today AS (
    PARTITION BY horse_key, going_group, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ),
  same_barrier AS (PARTITION BY horse_key, barrier_position ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  same_barrier_today AS (
    PARTITION BY horse_key, barrier_position, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ),
  same_track_distance AS (
    PARTITION BY horse_key, track_key, distance_range ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ),
  same_track_distance_today AS (
    PARTITION BY horse_key, track_key, distance_range, meeting_key ORDER BY race_order
    RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  );

-- Metro starts and wins, and wins at the same track, distance bucket or both, of the horse wherever it ran. These count
-- every entry with a position, codes for not finishing included.
CREATE OR REPLACE TABLE horse_entries AS
WITH runs AS (
  SELECT
    r.runner_id, r.day_key, r.meeting_key, r.race_order, r.won, r.horse_id,
    c.raw_track_key, c.distance_bucket,
    CASE WHEN c.is_metro_venue AND r.position_or_code IS NOT NULL THEN 1 END AS metro_start,
    CASE WHEN c.is_metro_venue AND r.won = 1 THEN r.day_key END AS metro_win_day
  FROM runners AS r
  JOIN race_conditions AS c USING (race_key)
  WHERE r.is_starter
)
SELECT
  runner_id,
  total(sum(metro_start) OVER earlier_days) + total(sum(metro_start) OVER earlier_today) AS metro_starts,
  total(count(metro_win_day) OVER earlier_days) + total(count(metro_win_day) OVER earlier_today) AS metro_wins,
  greatest(max(metro_win_day) OVER earlier_days, max(metro_win_day) OVER earlier_today) AS last_metro_win_day,
  total(sum(won) OVER at_track) + total(sum(won) OVER at_track_today) > 0 AS has_won_at_track,
  total(sum(won) OVER at_distance) + total(sum(won) OVER at_distance_today) > 0 AS has_won_at_distance,
  total(sum(won) OVER at_both) + total(sum(won) OVER at_both_today) > 0 AS has_won_at_track_distance
FROM runs
WINDOW
  earlier_days AS (PARTITION BY horse_id ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  earlier_today AS (PARTITION BY horse_id, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  at_track AS (PARTITION BY horse_id, raw_track_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  at_track_today AS (
    PARTITION BY horse_id, raw_track_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ),
  at_distance AS (PARTITION BY horse_id, distance_bucket ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  at_distance_today AS (
    PARTITION BY horse_id, distance_bucket, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ),
  at_both AS (
    PARTITION BY horse_id, raw_track_key, distance_bucket ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ),
  at_both_today AS (
    PARTITION BY horse_id, raw_track_key, distance_bucket, meeting_key ORDER BY race_order
    RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  );

-- The rides of a jockey and the runners of a trainer, numbered in race order, with the mean place of the last ones up to
-- and including each.
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

-- All entries of the jockey wherever it was, with or without a position, and the mean place of its last rides.
CREATE OR REPLACE TABLE jockey_volume AS
WITH days AS (
  SELECT jockey_id, day_key, count(*) AS entries FROM runners GROUP BY jockey_id, day_key
),
before_today AS (
  SELECT jockey_id, day_key, total(sum(entries) OVER earlier_days) AS entries
  FROM days
  WINDOW earlier_days AS (PARTITION BY jockey_id ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
today AS (
  SELECT runner_id, jockey_id, day_key, is_starter, total(sum(1) OVER earlier_today) AS entries
  FROM runners
  WINDOW earlier_today AS (PARTITION BY jockey_id, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  t.runner_id,
  b.entries + t.entries AS jockey_total_rides,
  coalesce(r.avg_position_20, CAST(6 AS DOUBLE)) AS jockey_avg_position_20,
  coalesce(r.avg_position_50, CAST(6 AS DOUBLE)) AS jockey_avg_position_50
FROM today AS t
JOIN before_today AS b USING (jockey_id, day_key)
JOIN jockey_career AS c USING (runner_id)
LEFT JOIN jockey_runs AS r ON r.jockey_key = c.jockey_key AND r.run_number = c.jockey_rides_on_earlier_days
WHERE t.is_starter;

CREATE OR REPLACE TABLE trainer_volume AS
WITH days AS (
  SELECT trainer_id, day_key, count(*) AS entries FROM runners GROUP BY trainer_id, day_key
),
before_today AS (
  SELECT trainer_id, day_key, total(sum(entries) OVER earlier_days) AS entries
  FROM days
  WINDOW earlier_days AS (PARTITION BY trainer_id ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
today AS (
  SELECT runner_id, trainer_id, day_key, is_starter, total(sum(1) OVER earlier_today) AS entries
  FROM runners
  WINDOW earlier_today AS (PARTITION BY trainer_id, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  t.runner_id,
  b.entries + t.entries AS trainer_total_runners,
  coalesce(r.avg_position_50, CAST(6 AS DOUBLE)) AS trainer_avg_position_50,
  coalesce(r.avg_position_100, CAST(6 AS DOUBLE)) AS trainer_avg_position_100
FROM today AS t
JOIN before_today AS b USING (trainer_id, day_key)
JOIN trainer_career AS c USING (runner_id)
LEFT JOIN trainer_runs AS r ON r.trainer_key = c.trainer_key AND r.run_number = c.trainer_runs_on_earlier_days
WHERE t.is_starter;

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
    earlier_days AS (PARTITION BY track_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (PARTITION BY track_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
at_barrier AS (
  SELECT
    track_key, barrier_position, meeting_key, race_order,
    total(sum(runs) OVER earlier_days) + total(sum(runs) OVER earlier_today) AS runs,
    total(sum(wins) OVER earlier_days) + total(sum(wins) OVER earlier_today) AS wins
  FROM races
  WHERE barrier_position IS NOT NULL
  WINDOW
    earlier_days AS (PARTITION BY track_key, barrier_position ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (
      PARTITION BY track_key, barrier_position, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
)
SELECT
  track_key,
  barrier_position,
  meeting_key,
  race_order,
  CASE
    WHEN runs >= 20 THEN rounded(CAST(wins AS DOUBLE) / runs - CAST(track_wins AS DOUBLE) / track_runs, 4)
    ELSE CAST(0 AS DOUBLE)
  END AS barrier_advantage_at_track,
  CASE
    WHEN runs >= 20 AND track_wins > 0 THEN rounded((CAST(wins AS DOUBLE) * track_runs) / (CAST(runs AS DOUBLE) * track_wins), 4)
    ELSE CAST(1 AS DOUBLE)
  END AS barrier_effectiveness_score
FROM at_barrier
JOIN at_track USING (track_key, meeting_key, race_order);

CREATE OR REPLACE TABLE interaction_features AS
WITH histories AS (
  SELECT
    r.runner_id,
    r.day_key,
    r.total_runners,
    r.barrier,
    r.barrier_position,
    coalesce(r.barrier, 1) AS stall,
    r.weight,
    c.race_distance,
    c.race_weather,
    CASE c.track_direction WHEN 'clockwise' THEN 1 WHEN 'anticlockwise' THEN -1 ELSE 0 END AS direction_sign,
    f.* EXCLUDE (runner_id),
    coalesce(f.horse_elo, 1200) / 1200 AS elo_share,
    a.running_style,
    a.avg_early_position_800m,
    a.closing_ability_score,
    a.elo_percentile_in_race,
    a.win_pct_vs_field_avg,
    a.weight_vs_avg,
    g.track_condition_numeric,
    g.rail_out_metres,
    g.is_rail_true,
    g.is_wet_weather,
    g.estimated_temperature,
    class.class_level_numeric,
    previous_class.class_level_numeric AS previous_class_level,
    p.* EXCLUDE (runner_id),
    x.* EXCLUDE (runner_id),
    m.* EXCLUDE (runner_id),
    jv.* EXCLUDE (runner_id),
    tv.* EXCLUDE (runner_id),
    z.* EXCLUDE (runner_id),
    b.barrier_advantage_at_track,
    b.barrier_effectiveness_score,
    s.early_runs,
    s.early_moves,
    s.early_in_field_runs,
    s.first_quarter_runs,
    s.late_runs,
    s.late_gains,
    s.late_gain_squares,
    s.strong_finishes,
    jc.jockey_rides,
    jc.jockey_wins,
    jc.jockey_places,
    tc.trainer_runs,
    tc.trainer_wins,
    tc.trainer_places
  FROM runners AS r
  JOIN cleaned_races AS c USING (race_key)
  JOIN race_conditions AS g USING (race_key)
  JOIN race_classes AS class USING (race_key)
  JOIN career_form AS f USING (runner_id)
  JOIN advanced_features AS a USING (runner_id)
  JOIN horse_sectional_totals AS s USING (runner_id)
  JOIN horse_profile AS p USING (runner_id)
  JOIN horse_fit AS x USING (runner_id)
  JOIN horse_entries AS m USING (runner_id)
  JOIN jockey_volume AS jv USING (runner_id)
  JOIN trainer_volume AS tv USING (runner_id)
  LEFT JOIN horse_sectional_means AS z USING (runner_id)
  JOIN horse_career AS h USING (runner_id)
  JOIN jockey_career AS jc USING (runner_id)
  JOIN trainer_career AS tc USING (runner_id)
  LEFT JOIN barrier_bias AS b
    ON b.track_key = r.track_key AND b.meeting_key = r.meeting_key AND b.race_order = r.race_order
    AND b.barrier_position = r.barrier_position
  LEFT JOIN horse_runs AS previous ON previous.horse_key = h.horse_key AND previous.run_number = h.runs_on_earlier_days
  LEFT JOIN race_classes AS previous_class ON previous_class.race_key = previous.race_key
)
SELECT
  runner_id,
  -- Going and volume
  track_condition_numeric,
  going_wins AS track_condition_wins,
  jockey_total_rides,
  trainer_total_runners,
  -- Interactions
  rounded(elo_share * jockey_win_rate, 4) AS elo_x_jockey_win_rate,
  rounded(elo_share * trainer_win_rate, 4) AS elo_x_trainer_win_rate,
  rounded(coalesce(weight, 55) / 55 * elo_share, 4) AS weight_x_elo,
  CASE WHEN total_runners = 0 THEN CAST(0.5 AS DOUBLE) ELSE rounded(CAST(stall AS DOUBLE) / total_runners, 4) END AS barrier_x_total_runners,
  CASE WHEN race_distance > 0 THEN rounded(stall * CAST(200 AS DOUBLE) / race_distance, 4) ELSE CAST(0 AS DOUBLE) END AS barrier_x_distance,
  rounded(direction_sign * (1 - CAST(stall AS DOUBLE) / total_runners), 4) AS barrier_x_direction,
  rounded(
    direction_sign
      * CASE running_style WHEN 'leader' THEN 1 WHEN 'on_pace' THEN 0.5 WHEN 'off_pace' THEN -0.5 WHEN 'closer' THEN -1 ELSE 0 END, 4
  ) AS running_style_x_direction,
  rounded(jockey_win_rate * trainer_win_rate, 4) AS jockey_wr_x_trainer_wr,
  rounded(jockey_place_rate * trainer_place_rate, 4) AS jockey_place_x_trainer_place,
  rounded(form_momentum * form_recency_score, 4) AS form_x_freshness,
  rounded(track_win_rate * distance_win_rate, 4) AS track_wr_x_distance_wr,
  CASE
    WHEN avg_early_position_800m IS NULL OR total_runners < 2 THEN CAST(0.5 AS DOUBLE)
    ELSE rounded(avg_early_position_800m / total_runners * coalesce(race_distance, 1200) / 1200, 4)
  END AS historical_early_pos_x_distance,
  CAST(CASE running_style
    WHEN 'leader' THEN CASE WHEN race_distance <= 1200 THEN 1.0 WHEN race_distance <= 1600 THEN 0.75 ELSE 0.4 END
    WHEN 'on_pace' THEN CASE WHEN race_distance <= 1400 THEN 0.8 WHEN race_distance <= 2000 THEN 0.7 ELSE 0.55 END
    WHEN 'midfield' THEN 0.6
    WHEN 'off_pace' THEN CASE WHEN race_distance >= 1800 THEN 0.7 ELSE 0.55 END
    WHEN 'closer' THEN CASE WHEN race_distance >= 2000 THEN 1.0 WHEN race_distance >= 1600 THEN 0.85 ELSE 0.5 END
    ELSE 0.5
  END AS DOUBLE) AS running_style_x_distance_bucket,
  CAST(CASE running_style
    WHEN 'leader' THEN CASE barrier_position WHEN 'inner' THEN 1.0 WHEN 'middle' THEN 0.5 ELSE 0.2 END
    WHEN 'on_pace' THEN CASE barrier_position WHEN 'inner' THEN 0.8 WHEN 'middle' THEN 0.7 ELSE 0.4 END
    WHEN 'closer' THEN CASE barrier_position WHEN 'middle' THEN 0.5 WHEN 'outer' THEN 0.6 ELSE 0.4 END
    ELSE 0.5
  END AS DOUBLE) AS running_style_x_barrier,
  rounded(
    0.3 * elo_percentile_in_race + 0.25 * win_pct_vs_field_avg / 5 + 0.6 * jockey_win_rate + 0.45 * trainer_win_rate
      + 0.1 * form_momentum, 4
  ) AS competitive_level_score,
  -- Barrier and rail
  barrier_advantage_at_track,
  coalesce(barrier_effectiveness_score, CAST(1 AS DOUBLE)) AS barrier_effectiveness_score,
  barrier_group_runs AS horse_barrier_group_starts,
  frac(barrier_group_wins, barrier_group_runs) AS horse_barrier_group_win_rate,
  CAST(CASE
    WHEN running_style = 'midfield' THEN 0.6
    WHEN barrier_position NOT IN ('inner', 'middle', 'outer') OR barrier_position IS NULL THEN 0.5
    WHEN running_style = 'leader' THEN CASE barrier_position WHEN 'inner' THEN 1.0 WHEN 'middle' THEN 0.6 ELSE 0.3 END
    WHEN running_style = 'on_pace' THEN CASE barrier_position WHEN 'inner' THEN 0.9 WHEN 'middle' THEN 0.8 ELSE 0.5 END
    WHEN running_style IN ('closer', 'off_pace') THEN CASE barrier_position WHEN 'inner' THEN 0.5 WHEN 'middle' THEN 0.6 ELSE 0.7 END
    ELSE 0.5
  END AS DOUBLE) AS barrier_vs_run_style,
  rounded(
    CASE
      WHEN track_condition_numeric <= 2 AND barrier_position = 'inner' THEN 0.15
      WHEN track_condition_numeric <= 2 AND barrier_position = 'middle' THEN 0.10
      WHEN track_condition_numeric >= 4 AND barrier_position = 'outer' THEN 0.08
      ELSE 0
    END + CASE
      WHEN race_distance > 2000 AND barrier_position = 'inner' THEN 0.10
      WHEN race_distance > 2000 AND barrier_position = 'middle' THEN 0.05
      ELSE 0
    END, 4
  ) AS barrier_track_condition_advantage,
  rail_out_metres,
  is_rail_true,
  rail_out_metres * barrier AS rail_out_x_barrier,
  CASE WHEN barrier + rail_out_metres / 3 < 1 THEN CAST(1 AS DOUBLE) ELSE barrier + rail_out_metres / 3 END AS effective_barrier,
  CAST(CASE
    WHEN race_distance IS NULL OR barrier IS NULL OR rail_out_metres IS NULL THEN NULL
    WHEN race_distance <= 1200 AND barrier <= 6 + round_half_even(rail_out_metres / 3) THEN 1
    ELSE 0
  END AS DOUBLE) AS barrier_advantage_rail_adjusted,
  -- Flags and bias
  coalesce(days_since_last_race > 180, false) AS extreme_staleness_flag,
  total_races < 3 AS low_sample_flag,
  jockey_total_rides < 10 AS new_jockey_flag,
  trainer_total_runners < 10 AS new_trainer_flag,
  coalesce(rounded(mean_of(wins * 600000 - ratings_above_base, total_races) / 600000, 4), CAST(0 AS DOUBLE)) AS horse_model_win_bias,
  coalesce(rounded(mean_of(places, total_races) - 0.3, 4), CAST(0 AS DOUBLE)) AS horse_model_top3_bias,
  coalesce(rounded(mean_of(jockey_wins, jockey_rides) - 0.1, 4), CAST(0 AS DOUBLE)) AS jockey_model_win_bias,
  coalesce(rounded(mean_of(jockey_places, jockey_rides) - 0.3, 4), CAST(0 AS DOUBLE)) AS jockey_model_top3_bias,
  coalesce(rounded(mean_of(trainer_wins, trainer_runs) - 0.1, 4), CAST(0 AS DOUBLE)) AS trainer_model_win_bias,
  coalesce(rounded(mean_of(trainer_places, trainer_runs) - 0.3, 4), CAST(0 AS DOUBLE)) AS trainer_model_top3_bias,
  -- Closing, weight, class step
  closing_ability_score > 0.7 AND running_style IN ('closer', 'off_pace') AS strong_closer_flag,
  rounded(coalesce(weight_vs_avg, 0) * coalesce(race_distance, 1400) / 1400, 4) AS weight_relative_x_distance,
  class_level_numeric,
  coalesce(class_level_numeric < previous_class_level, false) AS is_stepping_up,
  coalesce(class_level_numeric > previous_class_level, false) AS is_stepping_down,
  -- Distance profile and history counters
  track_distance_runs AS track_distance_experience,
  CASE
    WHEN track_distance_runs = 0 THEN CAST(0 AS DOUBLE)
    ELSE rounded(CAST(track_distance_wins AS DOUBLE) / track_distance_runs * (1 + ln(track_distance_runs + 1) / 5), 4)
  END AS track_distance_win_rate_weighted,
  coalesce(rounded(sd_of(distances, distance_sum, distance_squares), 2), CAST(0 AS DOUBLE)) AS distance_variance,
  coalesce(shortest_win, 1000) AS optimal_distance_min,
  coalesce(longest_win, 2400) AS optimal_distance_max,
  total_races AS horse_prediction_history_count,
  coalesce(rounded(mean_of(position_errors, total_races), 4), CAST(3.5 AS DOUBLE)) AS horse_model_pos_error,
  rounded(
    0.3 * CAST(races_at_track >= 5 AS INTEGER) + 0.3 * CAST(races_at_distance >= 5 AS INTEGER) + 0.2 * CAST(going_wins >= 2 AS INTEGER)
      + 0.2 * CAST(races_at_distance >= 5 AS INTEGER), 4
  ) AS specialization_score,
  CASE WHEN is_first_timer THEN rounded(0.5 + 0.3 * trainer_win_rate + 0.2 * jockey_win_rate, 4) END AS debutant_predicted_ability,
  -- Sectional history
  avg_pos_200m,
  avg_sectional_400m,
  avg_sectional_800m,
  avg_cumulative_800m,
  sectional_time_consistency,
  early_vs_mid_pace_change,
  historical_speed_vs_field,
  rounded(mean_of(first_quarter_runs, early_in_field_runs), 4) AS early_speed_pct,
  rounded(mean_of(strong_finishes, late_runs), 4) AS strong_finish_pct,
  rounded(mean_of(early_moves, early_runs), 2) AS pos_volatility_800,
  rounded(sd_of(late_runs, late_gains, late_gain_squares), 4) AS finishing_kick_consistency,
  CAST(CASE
    WHEN running_style = 'leader' THEN CASE WHEN race_distance < 1200 THEN 0.9 WHEN race_distance < 1600 THEN 0.7 ELSE 0.5 END
    WHEN running_style = 'on_pace' AND race_distance BETWEEN 1200 AND 1800 THEN 0.85
    WHEN running_style = 'midfield' THEN 0.7
    WHEN running_style = 'closer' AND race_distance >= 2000 THEN 0.95
    WHEN running_style = 'closer' AND race_distance >= 1600 THEN 0.85
    ELSE 0.5
  END AS DOUBLE) AS running_style_distance_fit,
  CAST(CASE running_style
    WHEN 'leader' THEN CASE WHEN race_distance < 1200 THEN 0.8 WHEN race_distance < 1600 THEN 0.5 ELSE 0.2 END
    WHEN 'closer' THEN -0.3
    ELSE 0
  END AS DOUBLE) AS leader_advantage_score,
  -- Metro, weather, specialists, debutants, last rides
  CAST(metro_wins > 0 AS INTEGER) AS has_won_at_metro,
  day_key - last_metro_win_day AS days_since_metro_win,
  metro_wins AS metro_wins_count,
  rounded(mean_of(metro_wins, metro_starts), 4) AS metro_win_rate,
  race_weather,
  is_wet_weather,
  estimated_temperature,
  has_won_at_track,
  has_won_at_distance,
  has_won_at_track_distance,
  track_win_rate > 0 AND track_win_rate * 200 > win_percentage * 3 + 1e-9 AND total_races >= 5 AS is_track_specialist,
  CAST(CASE WHEN has_won_at_track_distance THEN 0.9 WHEN has_won_at_track OR has_won_at_distance THEN 0.6 ELSE 0.3 END AS DOUBLE)
    AS track_distance_preference,
  total_races >= 10 AS experienced_horse_flag,
  CASE WHEN is_first_timer THEN jockey_win_rate END AS debutant_x_jockey_wr,
  CASE WHEN is_first_timer THEN trainer_win_rate END AS debutant_x_trainer_wr,
  CAST(CASE WHEN is_first_timer THEN 1.0 WHEN total_races <= 3 THEN 0.7 WHEN total_races <= 6 THEN 0.4 ELSE 0.1 END AS DOUBLE)
    AS debutant_uncertainty_score,
  jockey_avg_position_20,
  jockey_avg_position_50,
  trainer_avg_position_50,
  trainer_avg_position_100,
  CASE
    WHEN NOT has_going THEN NULL
    WHEN going_group_runs >= 2 THEN rounded(CAST(going_group_wins AS DOUBLE) / going_group_runs - win_percentage / 100, 4)
    ELSE CAST(0 AS DOUBLE)
  END AS track_condition_advantage
FROM histories;
