-- grain: one row per starter
-- reads: cleaned_races, race_conditions, advanced_features
-- writes: interaction_features
-- why: bias, distance, barrier and going, and the interactions of features of the same row.

-- The row of phase 3 and the features of this phase.
CREATE OR REPLACE VIEW interaction_features AS
WITH histories AS (
  SELECT
    a.*,
    coalesce(a.barrier, 1) AS stall,
    coalesce(a.horse_elo, 1200) / 1200 AS elo_share,
    CASE c.track_direction WHEN 'clockwise' THEN 1 WHEN 'anticlockwise' THEN -1 ELSE 0 END AS direction_sign,
    c.race_weather,
    g.track_condition_numeric,
    g.going_group IS NOT NULL AS has_going,
    g.rail_out_metres,
    g.is_rail_true,
    g.is_wet_weather,
    g.estimated_temperature
  FROM advanced_features AS a
  LEFT JOIN cleaned_races AS c USING (race_key, race_date)
  LEFT JOIN race_conditions AS g USING (race_key, race_date)
)
SELECT
  *,
  -- Going and volume
  going_wins AS track_condition_wins,
  jockey_entries AS jockey_total_rides,
  trainer_entries AS trainer_total_runners,
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
  jockey_entries < 10 AS new_jockey_flag,
  trainer_entries < 10 AS new_trainer_flag,
  coalesce(rounded(mean_of(wins * 600000 - ratings_above_base, total_races) / 600000, 4), CAST(0 AS DOUBLE)) AS horse_model_win_bias,
  coalesce(rounded(mean_of(places, total_races) - 0.3, 4), CAST(0 AS DOUBLE)) AS horse_model_top3_bias,
  coalesce(rounded(mean_of(jockey_wins, jockey_rides) - 0.1, 4), CAST(0 AS DOUBLE)) AS jockey_model_win_bias,
  coalesce(rounded(mean_of(jockey_places, jockey_rides) - 0.3, 4), CAST(0 AS DOUBLE)) AS jockey_model_top3_bias,
  coalesce(rounded(mean_of(trainer_wins, trainer_runs) - 0.1, 4), CAST(0 AS DOUBLE)) AS trainer_model_win_bias,
  coalesce(rounded(mean_of(trainer_places, trainer_runs) - 0.3, 4), CAST(0 AS DOUBLE)) AS trainer_model_top3_bias,
  -- Closing, weight, class step
  rounded(
    0.5 * closing_ability_score + 0.3 * sustained_run_score + 0.2 * CAST(running_style IN ('closer', 'off_pace') AS INTEGER), 4
  ) AS closing_power_score,
  closing_ability_score > 0.7 AND running_style IN ('closer', 'off_pace') AS strong_closer_flag,
  rounded(coalesce(weight_vs_avg, 0) * coalesce(race_distance, 1400) / 1400, 4) AS weight_relative_x_distance,
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
  track_win_rate > 0 AND track_win_rate * 200 > win_percentage * 3 + 1e-9 AND total_races >= 5 AS is_track_specialist,
  CAST(CASE WHEN has_won_at_track_distance THEN 0.9 WHEN has_won_at_track OR has_won_at_distance THEN 0.6 ELSE 0.3 END AS DOUBLE)
    AS track_distance_preference,
  total_races >= 10 AS experienced_horse_flag,
  CASE WHEN is_first_timer THEN jockey_win_rate END AS debutant_x_jockey_wr,
  CASE WHEN is_first_timer THEN trainer_win_rate END AS debutant_x_trainer_wr,
  CAST(CASE WHEN is_first_timer THEN 1.0 WHEN total_races <= 3 THEN 0.7 WHEN total_races <= 6 THEN 0.4 ELSE 0.1 END AS DOUBLE)
    AS debutant_uncertainty_score,
  CASE
    WHEN NOT has_going THEN NULL
    WHEN going_group_runs >= 2 THEN rounded(CAST(going_group_wins AS DOUBLE) / going_group_runs - win_percentage / 100, 4)
    ELSE CAST(0 AS DOUBLE)
  END AS track_condition_advantage
FROM histories;
