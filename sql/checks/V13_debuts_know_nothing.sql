-- id: V13
-- severity: error
-- why: a horse without a prior run has no form. Any trace of it would come from the race itself.
SELECT race_id, horse_slug, total_races, is_first_timer, last_5_avg_position, form_momentum, elo_races_count, is_elo_default, horse_elo
FROM race_training_dataset
WHERE is_first_timer <> (total_races = 0)
  OR (total_races = 0 AND (last_5_avg_position IS NOT NULL OR days_since_last_race IS NOT NULL OR form_momentum <> 0 OR wins + places <> 0))
  OR is_elo_default <> (elo_races_count = 0)
  OR (is_elo_default AND horse_elo <> 1200);
