-- grain: race_classes one row per race, advanced_features one per starter
-- reads: cleaned_races, sectional_pattern_features
-- writes: race_classes, advanced_features
-- why: running style, speed, class, the field, the market, distance, weight and connections, all from the histories of
--      phase 2 and the class of the race.

-- Class of the race, first match wins. The rating rises with the class, the level falls.
CREATE OR REPLACE TABLE race_classes AS
WITH worded AS (
  SELECT race_key, race_date, track_category, lower(race_class) AS class_text FROM cleaned_races
)
SELECT
  race_key,
  race_date,
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
FROM worded
ORDER BY race_key;

-- The row of phase 6 and the features of this phase.
CREATE OR REPLACE VIEW advanced_features AS
WITH histories AS (
  SELECT
    s.*,
    s.win_odds > 0 AS has_odds,
    rounded(mean_of(s.early_places, s.early_runs), 2) AS avg_early_position_800m,
    rounded(mean_of(s.late_after_early_places, s.late_after_early_runs), 2) AS avg_mid_position_400m,
    rounded(mean_of(s.early_gains, s.early_runs), 2) AS historical_avg_improvement,
    rounded(mean_of(s.late_places, s.late_runs), 2) AS avg_pos_400m,
    rounded(mean_of(s.surges, s.late_runs), 2) AS avg_late_surge,
    rounded(mean_of(s.figure_hundredths, s.figures) / 100, 2) AS avg_speed_figure,
    class.class_rating,
    class.class_level_numeric,
    previous_class.class_rating AS prev_class_rating,
    previous_class.class_level_numeric AS previous_class_level,
    class.class_rating - coalesce(previous_class.class_rating, class.class_rating) AS class_change
  FROM sectional_pattern_features AS s
  LEFT JOIN race_classes AS class USING (race_key, race_date)
  LEFT JOIN race_classes AS previous_class ON previous_class.race_key = s.previous_race_key
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
  *,
  -- Running style
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
  -- Class
  class_change < 0 AS class_drop,
  class_change > 0 AS class_rise,
  class_change < 0 AS is_class_drop,
  -- Field and market
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
  jockey_trainer_runs AS jockey_trainer_connection_races,
  jockey_trainer_wins AS jockey_trainer_connection_wins,
  rounded(
    0.5 * jockey_horse_connection_win_rate + 0.3 * jockey_trainer_connection_win_rate
      + 0.1 * CAST(strong_jockey_connection AS INTEGER) + 0.1 * CAST(strong_trainer_connection AS INTEGER), 4
  ) AS total_connection_score,
  frac(jockey_track_wins, jockey_track_rides) AS jockey_track_win_rate,
  frac(trainer_track_wins, trainer_track_runs) AS trainer_track_win_rate,
  frac(horse_category_wins, horse_category_runs) AS track_category_win_rate,
  frac(places_at_track, races_at_track) AS track_place_rate,
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
