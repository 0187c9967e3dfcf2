-- id: V12
-- severity: error
-- why: a rate outside 0..1, a percentage outside 0..100, a rating outside its limits or a word outside its list means
--      that a definition was broken, whatever the data looks like.
WITH ranges AS (
  SELECT race_id, horse_slug, 'win_percentage' AS column_name, win_percentage AS value, 0 AS lowest, 100 AS highest FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'place_percentage', place_percentage, 0, 100 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'last_5_win_rate', last_5_win_rate, 0, 1 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'last_5_place_rate', last_5_place_rate, 0, 1 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'form_momentum', form_momentum, 0, 1 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'form_recency_score', form_recency_score, 0, 1 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'feature_maturity_score', feature_maturity_score, 0, 1 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'jockey_win_rate', jockey_win_rate, 0, 1 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'jockey_place_rate', jockey_place_rate, 0, 1 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'trainer_win_rate', trainer_win_rate, 0, 1 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'trainer_place_rate', trainer_place_rate, 0, 1 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'distance_win_rate', distance_win_rate, 0, 1 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'track_win_rate', track_win_rate, 0, 1 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'horse_elo', horse_elo, 600, 2200 FROM race_training_dataset
  UNION ALL SELECT race_id, horse_slug, 'places (limited by total_races)', places, wins, total_races FROM race_training_dataset
),
words AS (
  SELECT race_id, horse_slug, 'barrier_position' AS column_name, barrier_position AS word
  FROM race_training_dataset
  WHERE barrier_position NOT IN ('inner', 'middle', 'outer', 'unknown')
  UNION ALL
  SELECT race_id, horse_slug, 'track_category', track_category
  FROM race_training_dataset
  WHERE track_category IS NULL OR track_category NOT IN ('Metro', 'Provincial', 'Country')
  UNION ALL
  SELECT race_id, horse_slug, 'distance_range', distance_range
  FROM race_training_dataset
  WHERE distance_range IS NULL OR distance_range NOT IN ('sprint', 'mile', 'middle', 'staying')
  UNION ALL
  SELECT race_id, horse_slug, 'location', location
  FROM race_training_dataset
  WHERE location IS NULL OR location NOT IN ('AU', 'HK', 'UK', 'IE', 'FR', 'JP', 'US', 'AE')
)
SELECT race_id, horse_slug, column_name, CAST(value AS VARCHAR) AS found
FROM ranges
WHERE value IS NULL OR value < lowest OR value > highest
UNION ALL
SELECT race_id, horse_slug, column_name, word FROM words;
