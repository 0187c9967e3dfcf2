-- id: V05
-- severity: error
-- why: joins must neither multiply nor lose rows. The dataset holds each (race, horse) that finished, once, and when
--      it was made with upcoming races also each declared one of a race without a result.
WITH entries AS (
  SELECT race_id, horse_slug, r.position, coalesce(upper(r.finish_status), '') <> 'SCRATCHED' AS is_declared
  FROM race_results AS r
  JOIN races USING (race_id)
  WHERE horse_slug IS NOT NULL
),
resulted AS (
  SELECT race_id, count(entries.position) > 0 AS has_result FROM entries GROUP BY race_id
),
expected AS (
  SELECT race_id, horse_slug, max(1) AS expected_rows
  FROM entries
  JOIN resulted USING (race_id)
  WHERE (has_result AND entries.position < 50) OR (NOT has_result AND is_declared AND EXISTS (SELECT 1 FROM race_training_dataset WHERE final_position IS NULL))
  GROUP BY race_id, horse_slug
),
found AS (
  SELECT race_id, horse_slug, count(*) AS found_rows FROM race_training_dataset GROUP BY race_id, horse_slug
)
SELECT race_id, horse_slug, coalesce(expected_rows, 0) AS expected_rows, coalesce(found_rows, 0) AS found_rows
FROM expected
FULL JOIN found USING (race_id, horse_slug)
WHERE coalesce(expected_rows, 0) <> coalesce(found_rows, 0);
