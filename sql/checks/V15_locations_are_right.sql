-- id: V15
-- severity: error
-- why: every history key ends in the location, so a race filed under the wrong one splits a career in two.
SELECT race_id, horse_slug, track_name, location, horse_location_slug, jockey_location_slug, trainer_location_slug
FROM race_training_dataset
WHERE (lower(track_name) IN ('sha tin', 'happy valley')) <> (location = 'HK')
  OR horse_location_slug <> horse_slug || '-' || location
  OR jockey_location_slug <> jockey_slug || '-' || location
  OR trainer_location_slug <> trainer_slug || '-' || location
  OR (jockey_slug IS NULL) <> (jockey_location_slug IS NULL)
  OR (trainer_slug IS NULL) <> (trainer_location_slug IS NULL);
