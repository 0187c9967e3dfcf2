-- grain: one row per race and horse: every finisher, and every declared runner of a race without a result
-- reads: cleaned_races, runners, sectional_matches, horse_career, horse_runs, horse_ratings, jockey_career, trainer_career, horse_distance_career, horse_track_career
-- writes: race_training_dataset
-- why: the dataset is put together once, here, and names each of its columns. What happens during a race (places at
--      the checkpoints, times, ratings of the performance) is not on the list, so it cannot leak. The labels come last.

CREATE OR REPLACE TABLE race_training_dataset AS
SELECT
  -- Base
  r.race_id,
  c.race_date,
  c.race_number,
  c.track_name,
  c.race_distance,
  c.race_class,
  c.track_condition,
  c.track_weather,
  r.horse_name,
  r.horse_slug,
  r.horse_number,
  r.barrier,
  r.weight,
  r.jockey,
  r.jockey_slug,
  r.trainer,
  r.trainer_slug,
  r.win_odds,
  coalesce(c.total_prize_money, CAST(0 AS DOUBLE)) AS prize_money,
  c.location,
  r.horse_slug || '-' || c.location AS horse_location_slug,
  r.jockey_slug || '-' || c.location AS jockey_location_slug,
  r.trainer_slug || '-' || c.location AS trainer_location_slug,
  build_time() AS created_at,
  build_time() AS updated_at,
  c.track_direction,
  c.track_category,
  c.track_type,
  c.is_maiden_race,
  c.is_handicap_race,
  c.age_restriction,
  c.sex_restriction,
  c.distance_range,
  r.total_runners,
  r.barrier_position,
  -- Career, form and rating
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
  h.total_races > 0 AND h.places = 0 AS never_placed_flag,
  -- Labels
  r.final_position,
  r.margin,
  s.raw_time_seconds
FROM runners AS r
JOIN cleaned_races AS c USING (race_key)
JOIN horse_career AS h USING (runner_id)
LEFT JOIN horse_runs AS f ON f.horse_key = h.horse_key AND f.run_number = h.runs_on_earlier_days
JOIN horse_ratings AS e USING (runner_id)
JOIN jockey_career AS j USING (runner_id)
JOIN trainer_career AS t USING (runner_id)
JOIN horse_distance_career AS d USING (runner_id)
JOIN horse_track_career AS k USING (runner_id)
LEFT JOIN sectional_matches AS s USING (runner_id)
WHERE r.in_dataset;
