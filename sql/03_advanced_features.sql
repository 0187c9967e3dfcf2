-- grain: race_classes one row per race, the other tables one row per starter
-- reads: cleaned_races, runners, sectional_matches, horse_career, horse_runs, career_form, horse_track_career, horse_sectional_totals
-- writes: race_classes, speed_history, horse_workload, connection_career, field_comparison, advanced_features
-- why: running style, speed, class, the field, the market, distance, weight and connections. As everywhere, the history
--      is earlier days plus lower race numbers at the same meeting, and runners of one race are only compared on what
--      was known before it.

-- Class of the race, first match wins. The rating rises with the class, the level falls.
CREATE OR REPLACE TABLE race_classes AS
WITH worded AS (
  SELECT race_key, track_category, lower(race_class) AS class_text FROM cleaned_races
)
SELECT
  race_key,
  CASE
    WHEN matches(class_text, 'group 1|g1') THEN 100
    WHEN matches(class_text, 'group 2|g2') THEN 90
    WHEN matches(class_text, 'group 3|g3') THEN 80
    WHEN matches(class_text, 'listed') THEN 75
    WHEN matches(class_text, '(bm|benchmark) *9[0-9]') THEN 70
    WHEN matches(class_text, '(bm|benchmark) *8[0-9]') THEN 60
    WHEN matches(class_text, '(bm|benchmark) *7[0-9]') THEN 50
    WHEN matches(class_text, '(bm|benchmark) *6[0-9]') THEN 40
    WHEN matches(class_text, '(bm|benchmark) *5[0-9]') THEN 35
    WHEN matches(class_text, 'bm|benchmark') THEN 30
    WHEN matches(class_text, 'class 1|c1') THEN 50
    WHEN matches(class_text, 'class 2|c2') THEN 45
    WHEN matches(class_text, 'class 3|c3') THEN 40
    WHEN matches(class_text, 'class 4|c4') THEN 35
    WHEN matches(class_text, 'class 5|c5') THEN 30
    WHEN matches(class_text, 'class 6|c6') THEN 25
    WHEN matches(class_text, 'maiden|mdn') THEN 20
    WHEN matches(class_text, '2yo|2-y-o') THEN 35
    WHEN matches(class_text, '3yo|3-y-o') THEN 40
    WHEN track_category = 'Metro' THEN 45
    WHEN track_category = 'Provincial' THEN 35
    ELSE 25
  END AS class_rating,
  CASE
    WHEN matches(class_text, 'group 1|g1') THEN 1
    WHEN matches(class_text, 'group 2|g2') THEN 2
    WHEN matches(class_text, 'group 3|g3') THEN 3
    WHEN matches(class_text, 'listed') THEN 4
    WHEN matches(class_text, 'open') THEN 5
    WHEN matches(class_text, '(bm|benchmark) *9[0-9]') THEN 6
    WHEN matches(class_text, '(bm|benchmark) *8[0-9]') THEN 8
    WHEN matches(class_text, '(bm|benchmark) *7[0-9]') THEN 10
    WHEN matches(class_text, '(bm|benchmark) *6[0-9]') THEN 14
    WHEN matches(class_text, '(bm|benchmark) *5[0-9]') THEN 17
    WHEN matches(class_text, 'maiden') THEN 20
    ELSE 15
  END AS class_level_numeric
FROM worded;

-- Speed figure of a run: its time against the top-three times at exactly this distance in races before it, which takes
-- at least ten of them. It is an outcome of the run, so only later runs of the horse get to see it, as a mean and a maximum.
CREATE OR REPLACE TABLE speed_history AS
WITH times AS (
  SELECT
    r.runner_id,
    r.day_key,
    r.meeting_key,
    r.race_order,
    c.race_distance,
    r.finished,
    r.placed,
    thousandths(s.raw_time_seconds) AS ms
  FROM runners AS r
  JOIN cleaned_races AS c USING (race_key)
  JOIN sectional_matches AS s USING (runner_id)
  WHERE c.race_distance IS NOT NULL AND s.raw_time_seconds IS NOT NULL
),
races AS (
  SELECT
    race_distance,
    day_key,
    meeting_key,
    race_order,
    sum(placed) AS times,
    sum(placed * ms) AS ms,
    sum(placed * ms * ms) AS ms_squares
  FROM times
  GROUP BY race_distance, day_key, meeting_key, race_order
),
standards AS (
  SELECT
    race_distance,
    day_key,
    meeting_key,
    race_order,
    coalesce(sum(times) OVER earlier_days, 0) + coalesce(sum(times) OVER earlier_today, 0) AS times,
    coalesce(sum(ms) OVER earlier_days, 0) + coalesce(sum(ms) OVER earlier_today, 0) AS ms,
    coalesce(sum(ms_squares) OVER earlier_days, 0) + coalesce(sum(ms_squares) OVER earlier_today, 0) AS ms_squares
  FROM races
  WINDOW
    earlier_days AS (PARTITION BY race_distance ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (
      PARTITION BY race_distance, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
),
figures AS (
  SELECT
    t.runner_id,
    CASE
      WHEN s.times >= 10 AND sd_of(s.times, s.ms, s.ms_squares) > 0 THEN
        rounded(100 - 10 * (t.ms - mean_of(s.ms, s.times)) / sd_of(s.times, s.ms, s.ms_squares), 2)
    END AS speed_figure
  FROM times AS t
  JOIN standards AS s USING (race_distance, day_key, meeting_key, race_order)
  WHERE t.finished = 1
),
runs AS (
  SELECT
    r.runner_id,
    r.horse_key,
    r.day_key,
    r.meeting_key,
    r.race_order,
    f.speed_figure,
    CAST(round(f.speed_figure * 100) AS BIGINT) AS hundredths
  FROM runners AS r
  LEFT JOIN figures AS f USING (runner_id)
  WHERE r.is_starter
),
history AS (
  SELECT
    runner_id,
    total(count(hundredths) OVER earlier_days) + total(count(hundredths) OVER earlier_today) AS figures,
    coalesce(sum(hundredths) OVER earlier_days, 0) + coalesce(sum(hundredths) OVER earlier_today, 0) AS hundredths,
    max(speed_figure) OVER earlier_days AS best_on_earlier_days,
    max(speed_figure) OVER earlier_today AS best_today
  FROM runs
  WINDOW
    earlier_days AS (PARTITION BY horse_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (PARTITION BY horse_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  runner_id,
  rounded(mean_of(hundredths, figures) / 100, 2) AS avg_speed_figure,
  greatest(best_on_earlier_days, best_today) AS best_speed_figure
FROM history;

-- How often the horse ran of late, and what it carried, in grams.
CREATE OR REPLACE TABLE horse_workload AS
WITH runs AS (
  SELECT
    runner_id, horse_key, day_key, meeting_key, race_order, finished,
    CASE WHEN finished = 1 THEN thousandths(weight) END AS grams
  FROM runners
  WHERE is_starter
)
SELECT
  runner_id,
  total(sum(finished) OVER sixty_days) + total(sum(finished) OVER earlier_today) AS runs_last_60_days,
  total(sum(finished) OVER ninety_days) + total(sum(finished) OVER earlier_today) AS runs_last_90_days,
  total(count(grams) OVER earlier_days) + total(count(grams) OVER earlier_today) AS weighed_runs,
  coalesce(sum(grams) OVER earlier_days, 0) + coalesce(sum(grams) OVER earlier_today, 0) AS grams
FROM runs
WINDOW
  sixty_days AS (PARTITION BY horse_key ORDER BY day_key RANGE BETWEEN 60 PRECEDING AND 1 PRECEDING),
  ninety_days AS (PARTITION BY horse_key ORDER BY day_key RANGE BETWEEN 90 PRECEDING AND 1 PRECEDING),
  earlier_days AS (PARTITION BY horse_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  earlier_today AS (PARTITION BY horse_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING);

-- Runs and wins of the pairs: horse and jockey, jockey and trainer, jockey and track, trainer and track, horse and track
-- category. Only the horse is bound to the location.
CREATE OR REPLACE TABLE connection_career AS
WITH runs AS (
  SELECT
    r.runner_id, r.day_key, r.meeting_key, r.race_order, r.finished, r.won,
    r.horse_key, r.jockey_id, r.trainer_id, r.track_key, c.track_category
  FROM runners AS r
  JOIN cleaned_races AS c USING (race_key)
  WHERE r.is_starter
)
SELECT
  runner_id,
  total(sum(finished) OVER horse_jockey) + total(sum(finished) OVER horse_jockey_today) AS horse_jockey_runs,
  total(sum(won) OVER horse_jockey) + total(sum(won) OVER horse_jockey_today) AS horse_jockey_wins,
  total(sum(finished) OVER jockey_trainer) + total(sum(finished) OVER jockey_trainer_today) AS jockey_trainer_runs,
  total(sum(won) OVER jockey_trainer) + total(sum(won) OVER jockey_trainer_today) AS jockey_trainer_wins,
  total(sum(finished) OVER jockey_track) + total(sum(finished) OVER jockey_track_today) AS jockey_track_runs,
  total(sum(won) OVER jockey_track) + total(sum(won) OVER jockey_track_today) AS jockey_track_wins,
  total(sum(finished) OVER trainer_track) + total(sum(finished) OVER trainer_track_today) AS trainer_track_runs,
  total(sum(won) OVER trainer_track) + total(sum(won) OVER trainer_track_today) AS trainer_track_wins,
  total(sum(finished) OVER horse_category) + total(sum(finished) OVER horse_category_today) AS horse_category_runs,
  total(sum(won) OVER horse_category) + total(sum(won) OVER horse_category_today) AS horse_category_wins
FROM runs
WINDOW
  horse_jockey AS (PARTITION BY horse_key, jockey_id ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  horse_jockey_today AS (
    PARTITION BY horse_key, jockey_id, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ),
  jockey_trainer AS (PARTITION BY jockey_id, trainer_id ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  jockey_trainer_today AS (
    PARTITION BY jockey_id, trainer_id, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ),
  jockey_track AS (PARTITION BY jockey_id, track_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  jockey_track_today AS (
    PARTITION BY jockey_id, track_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ),
  trainer_track AS (PARTITION BY trainer_id, track_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  trainer_track_today AS (
    PARTITION BY trainer_id, track_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  ),
  horse_category AS (PARTITION BY horse_key, track_category ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  horse_category_today AS (
    PARTITION BY horse_key, track_category, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  );

-- The runner against the field of its race, on what was known before it. Percentages are compared as whole hundredths.
CREATE OR REPLACE TABLE field_comparison AS
WITH field AS (
  SELECT
    r.runner_id,
    r.race_key,
    r.win_odds,
    f.horse_elo,
    f.total_races,
    CAST(round(f.win_percentage * 100) AS INTEGER) AS win_hundredths
  FROM runners AS r
  JOIN career_form AS f USING (runner_id)
)
SELECT
  runner_id,
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
WINDOW race AS (PARTITION BY race_key);

CREATE OR REPLACE TABLE advanced_features AS
WITH histories AS (
  SELECT
    r.runner_id,
    r.total_runners,
    r.weight,
    r.win_odds,
    r.win_odds > 0 AS has_odds,
    f.* EXCLUDE (runner_id),
    rounded(mean_of(s.early_places, s.early_runs), 2) AS avg_early_position_800m,
    rounded(mean_of(s.late_after_early_places, s.late_after_early_runs), 2) AS avg_mid_position_400m,
    rounded(mean_of(s.early_gains, s.early_runs), 2) AS historical_avg_improvement,
    rounded(mean_of(s.late_places, s.late_runs), 2) AS avg_pos_400m,
    rounded(mean_of(s.surges, s.late_runs), 2) AS avg_late_surge,
    v.avg_speed_figure,
    v.best_speed_figure,
    class.class_rating,
    previous_class.class_rating AS prev_class_rating,
    class.class_rating - coalesce(previous_class.class_rating, class.class_rating) AS class_change,
    p.* EXCLUDE (runner_id),
    w.* EXCLUDE (runner_id),
    n.* EXCLUDE (runner_id),
    k.races_at_track AS runs_at_track,
    k.places_at_track
  FROM runners AS r
  JOIN career_form AS f USING (runner_id)
  JOIN horse_career AS h USING (runner_id)
  JOIN horse_track_career AS k USING (runner_id)
  JOIN horse_sectional_totals AS s USING (runner_id)
  JOIN speed_history AS v USING (runner_id)
  JOIN horse_workload AS w USING (runner_id)
  JOIN connection_career AS n USING (runner_id)
  JOIN field_comparison AS p USING (runner_id)
  JOIN race_classes AS class USING (race_key)
  LEFT JOIN horse_runs AS previous ON previous.horse_key = h.horse_key AND previous.run_number = h.runs_on_earlier_days
  LEFT JOIN race_classes AS previous_class ON previous_class.race_key = previous.race_key
),
-- The limits are compared as products, so that 4.2 of 12 runners is exactly 0.35.
styled AS (
  SELECT
    *,
    CASE
      WHEN avg_early_position_800m IS NULL OR total_runners < 2 THEN 'unknown'
      WHEN avg_early_position_800m <= 0.20 * total_runners + 1e-9 THEN 'leader'
      WHEN avg_early_position_800m <= 0.35 * total_runners + 1e-9 THEN 'on_pace'
      WHEN avg_early_position_800m <= 0.55 * total_runners + 1e-9 THEN 'midfield'
      WHEN avg_early_position_800m <= 0.75 * total_runners + 1e-9 THEN 'off_pace'
      ELSE 'closer'
    END AS running_style,
    frac(horse_jockey_wins, horse_jockey_runs) AS jockey_horse_connection_win_rate,
    horse_jockey_runs >= 3 AND horse_jockey_wins * 5 > horse_jockey_runs AS strong_jockey_connection,
    frac(jockey_trainer_wins, jockey_trainer_runs) AS jockey_trainer_connection_win_rate,
    jockey_trainer_runs >= 5 AND jockey_trainer_wins * 100 > jockey_trainer_runs * 15 AS strong_trainer_connection
  FROM histories
)
SELECT
  runner_id,
  -- Running style
  avg_early_position_800m,
  avg_mid_position_400m,
  historical_avg_improvement,
  avg_pos_400m,
  avg_late_surge,
  running_style,
  CAST(CASE WHEN running_style <> 'unknown' THEN 1 ELSE 0 END AS DOUBLE) AS with_running_style,
  coalesce(clip(0.5 + historical_avg_improvement / 10), CAST(0.5 AS DOUBLE)) AS closing_ability_score,
  coalesce(clip(1 - CASE WHEN total_runners > 1 THEN avg_early_position_800m END / total_runners), CAST(0.5 AS DOUBLE)) AS early_speed_score,
  coalesce(clip(0.5 + (avg_early_position_800m - avg_mid_position_400m) / 10), CAST(0.5 AS DOUBLE)) AS sustained_run_score,
  coalesce(historical_avg_improvement, CAST(0 AS DOUBLE)) AS historical_late_improvement,
  coalesce(historical_avg_improvement, CAST(0 AS DOUBLE)) AS avg_late_improvement,
  CASE running_style
    WHEN 'leader' THEN 'leading'
    WHEN 'on_pace' THEN 'prominent'
    WHEN 'midfield' THEN 'midfield'
    WHEN 'off_pace' THEN 'back'
    WHEN 'closer' THEN 'back'
    ELSE 'unknown'
  END AS speed_map_position,
  -- Speed
  avg_speed_figure,
  best_speed_figure,
  -- Class
  class_rating,
  prev_class_rating,
  class_change,
  class_change < 0 AS class_drop,
  class_change > 0 AS class_rise,
  class_change < 0 AS is_class_drop,
  -- Field and market
  elo_percentile_in_race,
  odds_percentile_in_race,
  win_pct_vs_field_avg,
  experience_vs_field_avg,
  odds_rank_in_race,
  odds_rank_in_race = 1 AS is_favorite,
  CASE WHEN has_odds THEN rounded(1 / win_odds, 4) END AS odds_implied_probability,
  CASE WHEN has_odds AND win_percentage > 0 THEN rounded(win_percentage / 100 - 1 / win_odds, 4) ELSE CAST(0 AS DOUBLE) END
    AS odds_value_score,
  coalesce(win_odds > 20, false) AS is_longshot,
  rounded(win_percentage / 100 - CASE WHEN has_odds THEN 1 / win_odds ELSE CAST(0.1 AS DOUBLE) END, 4) AS value_indicator,
  CASE WHEN has_odds THEN win_percentage * win_odds > 120 + 1e-9 ELSE win_percentage > 0 END AS market_undervalued,
  rounded(elo_percentile_in_race - odds_percentile_in_race, 4) AS elo_vs_odds_gap,
  rounded(form_momentum - odds_percentile_in_race, 4) AS form_vs_odds_gap,
  coalesce(form_momentum > 0.6 AND win_odds > 10, false) AS improving_longshot,
  coalesce(class_change < 0 AND win_odds > 10, false) AS class_drop_longshot,
  coalesce((jockey_win_rate > 0.15 OR trainer_win_rate > 0.15) AND win_odds > 10, false) AS connection_longshot,
  -- Distance, form and weight
  CASE
    WHEN races_at_distance > 0 AND distance_win_rate > 0 THEN least(CAST(1 AS DOUBLE), 0.5 + distance_win_rate)
    ELSE CAST(0.5 AS DOUBLE)
  END AS distance_suited_score,
  CASE WHEN races_at_distance >= 10 THEN 3 WHEN races_at_distance >= 5 THEN 2 WHEN races_at_distance >= 1 THEN 1 ELSE 0 END
    AS distance_experience_level,
  CASE WHEN races_at_track >= 10 THEN 3 WHEN races_at_track >= 5 THEN 2 WHEN races_at_track >= 1 THEN 1 ELSE 0 END
    AS track_experience_level,
  races_at_distance AS distance_range_experience,
  distance_win_rate AS distance_range_win_rate,
  coalesce(days_since_last_race <= 30, false) AS has_recent_form,
  last_5_win_rate > 0 AS has_winning_form,
  runs_last_60_days,
  runs_last_90_days,
  CASE WHEN runs_last_90_days > 1 THEN rounded(90 / CAST(runs_last_90_days AS DOUBLE), 1) END AS avg_days_between_runs,
  rounded(mean_of(grams, weighed_runs) / 1000, 1) AS weight_carried_avg,
  CASE
    WHEN weight IS NULL THEN NULL
    WHEN grams > 0 THEN rounded((weight * 1000 * weighed_runs - grams) / (weighed_runs * CAST(1000 AS DOUBLE)), 2)
    ELSE CAST(0 AS DOUBLE)
  END AS weight_vs_avg,
  -- Connections
  horse_jockey_runs AS jockey_horse_connection_races,
  horse_jockey_wins AS jockey_horse_connection_wins,
  jockey_horse_connection_win_rate,
  strong_jockey_connection,
  jockey_trainer_runs AS jockey_trainer_connection_races,
  jockey_trainer_wins AS jockey_trainer_connection_wins,
  jockey_trainer_connection_win_rate,
  strong_trainer_connection,
  rounded(
    0.5 * jockey_horse_connection_win_rate + 0.3 * jockey_trainer_connection_win_rate
      + 0.1 * CAST(strong_jockey_connection AS INTEGER) + 0.1 * CAST(strong_trainer_connection AS INTEGER), 4
  ) AS total_connection_score,
  frac(jockey_track_wins, jockey_track_runs) AS jockey_track_win_rate,
  frac(trainer_track_wins, trainer_track_runs) AS trainer_track_win_rate,
  frac(horse_category_wins, horse_category_runs) AS track_category_win_rate,
  frac(places_at_track, runs_at_track) AS track_place_rate,
  -- Summary
  CASE WHEN wins > 0 THEN rounded(win_percentage / 10 - 1, 4) ELSE CAST(-1 AS DOUBLE) END AS career_roi_estimate,
  rounded(place_percentage / 100, 4) AS consistency_score,
  CASE WHEN total_races >= 30 THEN 4 WHEN total_races >= 15 THEN 3 WHEN total_races >= 5 THEN 2 WHEN total_races >= 1 THEN 1 ELSE 0 END
    AS race_experience_level,
  CAST(CASE
    WHEN elo_percentile_in_race > 0.7 AND odds_rank_in_race > 3 THEN 0.8
    WHEN elo_percentile_in_race > 0.5 AND odds_rank_in_race > 5 THEN 0.5
    ELSE 0.2
  END AS DOUBLE) AS against_grain_score,
  CAST(CASE
    WHEN win_odds > 15 AND form_momentum > 0.5 THEN 0.8
    WHEN win_odds > 10 AND form_momentum > 0.4 THEN 0.5
    ELSE 0.2
  END AS DOUBLE) AS longshot_value_profile,
  win_percentage > 20 AND coalesce(CASE WHEN has_odds THEN rounded(1 / win_odds, 4) END, 1) < 0.15 AS historical_value_winner,
  rounded(0.4 * form_momentum + 0.3 * elo_percentile_in_race + 0.3 * win_pct_vs_field_avg / 5, 4) AS peak_performance_indicator
FROM styled;
