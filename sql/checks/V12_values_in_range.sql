-- id: V12
-- severity: error
-- why: a rate outside 0..1, a percentage outside 0..100, a rating outside its limits or a word outside its list means
--      that a definition was broken, whatever the data looks like. Only the last group may be null.
WITH judged AS (
  SELECT
    race_id,
    horse_slug,
    concat_ws(', ',
      CASE WHEN last_5_win_rate IS NULL OR last_5_win_rate NOT BETWEEN 0 AND 1 THEN 'last_5_win_rate' END,
      CASE WHEN last_5_place_rate IS NULL OR last_5_place_rate NOT BETWEEN 0 AND 1 THEN 'last_5_place_rate' END,
      CASE WHEN form_momentum IS NULL OR form_momentum NOT BETWEEN 0 AND 1 THEN 'form_momentum' END,
      CASE WHEN form_recency_score IS NULL OR form_recency_score NOT BETWEEN 0 AND 1 THEN 'form_recency_score' END,
      CASE WHEN feature_maturity_score IS NULL OR feature_maturity_score NOT BETWEEN 0 AND 1 THEN 'feature_maturity_score' END,
      CASE WHEN jockey_win_rate IS NULL OR jockey_win_rate NOT BETWEEN 0 AND 1 THEN 'jockey_win_rate' END,
      CASE WHEN jockey_place_rate IS NULL OR jockey_place_rate NOT BETWEEN 0 AND 1 THEN 'jockey_place_rate' END,
      CASE WHEN trainer_win_rate IS NULL OR trainer_win_rate NOT BETWEEN 0 AND 1 THEN 'trainer_win_rate' END,
      CASE WHEN trainer_place_rate IS NULL OR trainer_place_rate NOT BETWEEN 0 AND 1 THEN 'trainer_place_rate' END,
      CASE WHEN distance_win_rate IS NULL OR distance_win_rate NOT BETWEEN 0 AND 1 THEN 'distance_win_rate' END,
      CASE WHEN track_win_rate IS NULL OR track_win_rate NOT BETWEEN 0 AND 1 THEN 'track_win_rate' END,
      CASE WHEN closing_ability_score IS NULL OR closing_ability_score NOT BETWEEN 0 AND 1 THEN 'closing_ability_score' END,
      CASE WHEN early_speed_score IS NULL OR early_speed_score NOT BETWEEN 0 AND 1 THEN 'early_speed_score' END,
      CASE WHEN sustained_run_score IS NULL OR sustained_run_score NOT BETWEEN 0 AND 1 THEN 'sustained_run_score' END,
      CASE WHEN elo_percentile_in_race IS NULL OR elo_percentile_in_race NOT BETWEEN 0 AND 1 THEN 'elo_percentile_in_race' END,
      CASE WHEN odds_percentile_in_race IS NULL OR odds_percentile_in_race NOT BETWEEN 0 AND 1 THEN 'odds_percentile_in_race' END,
      CASE WHEN distance_suited_score IS NULL OR distance_suited_score NOT BETWEEN 0 AND 1 THEN 'distance_suited_score' END,
      CASE WHEN distance_range_win_rate IS NULL OR distance_range_win_rate NOT BETWEEN 0 AND 1 THEN 'distance_range_win_rate' END,
      CASE WHEN jockey_horse_connection_win_rate IS NULL OR jockey_horse_connection_win_rate NOT BETWEEN 0 AND 1 THEN 'jockey_horse_connection_win_rate' END,
      CASE WHEN jockey_trainer_connection_win_rate IS NULL OR jockey_trainer_connection_win_rate NOT BETWEEN 0 AND 1 THEN 'jockey_trainer_connection_win_rate' END,
      CASE WHEN total_connection_score IS NULL OR total_connection_score NOT BETWEEN 0 AND 1 THEN 'total_connection_score' END,
      CASE WHEN jockey_track_win_rate IS NULL OR jockey_track_win_rate NOT BETWEEN 0 AND 1 THEN 'jockey_track_win_rate' END,
      CASE WHEN trainer_track_win_rate IS NULL OR trainer_track_win_rate NOT BETWEEN 0 AND 1 THEN 'trainer_track_win_rate' END,
      CASE WHEN track_category_win_rate IS NULL OR track_category_win_rate NOT BETWEEN 0 AND 1 THEN 'track_category_win_rate' END,
      CASE WHEN track_place_rate IS NULL OR track_place_rate NOT BETWEEN 0 AND 1 THEN 'track_place_rate' END,
      CASE WHEN consistency_score IS NULL OR consistency_score NOT BETWEEN 0 AND 1 THEN 'consistency_score' END,
      CASE WHEN horse_barrier_group_win_rate IS NULL OR horse_barrier_group_win_rate NOT BETWEEN 0 AND 1 THEN 'horse_barrier_group_win_rate' END,
      CASE WHEN fader_rate IS NULL OR fader_rate NOT BETWEEN 0 AND 1 THEN 'fader_rate' END,
      CASE WHEN closer_rate IS NULL OR closer_rate NOT BETWEEN 0 AND 1 THEN 'closer_rate' END,
      CASE WHEN front_rate IS NULL OR front_rate NOT BETWEEN 0 AND 1 THEN 'front_rate' END,
      CASE WHEN sprint_fader_rate IS NULL OR sprint_fader_rate NOT BETWEEN 0 AND 1 THEN 'sprint_fader_rate' END,
      CASE WHEN staying_leader_rate IS NULL OR staying_leader_rate NOT BETWEEN 0 AND 1 THEN 'staying_leader_rate' END,
      CASE WHEN horse_wet_track_win_rate IS NULL OR horse_wet_track_win_rate NOT BETWEEN 0 AND 1 THEN 'horse_wet_track_win_rate' END,
      CASE WHEN horse_dry_track_win_rate IS NULL OR horse_dry_track_win_rate NOT BETWEEN 0 AND 1 THEN 'horse_dry_track_win_rate' END,
      CASE WHEN win_percentage IS NULL OR win_percentage NOT BETWEEN 0 AND 100 THEN 'win_percentage' END,
      CASE WHEN place_percentage IS NULL OR place_percentage NOT BETWEEN 0 AND 100 THEN 'place_percentage' END,
      CASE WHEN horse_elo IS NULL OR horse_elo NOT BETWEEN 600 AND 2200 THEN 'horse_elo' END,
      CASE WHEN total_races IS NULL OR wins > places OR places > total_races THEN 'wins, places, total_races' END,
      CASE WHEN track_category IS NULL OR track_category NOT IN ('Metro', 'Provincial', 'Country') THEN 'track_category' END,
      CASE WHEN distance_range IS NULL OR distance_range NOT IN ('sprint', 'mile', 'middle', 'staying') THEN 'distance_range' END,
      CASE WHEN location IS NULL OR location NOT IN ('AU', 'HK', 'UK', 'IE', 'FR', 'JP', 'US', 'AE') THEN 'location' END,
      CASE WHEN running_style IS NULL OR running_style NOT IN ('leader', 'on_pace', 'midfield', 'off_pace', 'closer', 'unknown') THEN 'running_style' END,
      CASE WHEN barrier_position NOT IN ('inner', 'middle', 'outer', 'unknown') THEN 'barrier_position' END,
      CASE WHEN early_speed_pct NOT BETWEEN 0 AND 1 THEN 'early_speed_pct' END,
      CASE WHEN strong_finish_pct NOT BETWEEN 0 AND 1 THEN 'strong_finish_pct' END,
      CASE WHEN metro_win_rate NOT BETWEEN 0 AND 1 THEN 'metro_win_rate' END,
      CASE WHEN debutant_x_jockey_wr NOT BETWEEN 0 AND 1 THEN 'debutant_x_jockey_wr' END,
      CASE WHEN debutant_x_trainer_wr NOT BETWEEN 0 AND 1 THEN 'debutant_x_trainer_wr' END
    ) AS columns_out_of_range
  FROM race_training_dataset
)
SELECT race_id, horse_slug, columns_out_of_range
FROM judged
WHERE columns_out_of_range <> '';
