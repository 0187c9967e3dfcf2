-- id: V20
-- severity: warning
-- why: a race without a winner or with a single finisher is usually a race that was loaded in part. Dead heats occur
--      and are listed so that their number can be judged.
WITH results AS (
  SELECT race_id, count(*) AS finishers, count(*) FILTER (WHERE final_position = 1) AS winners
  FROM race_training_dataset
  WHERE final_position IS NOT NULL
  GROUP BY race_id
)
SELECT
  race_id,
  finishers,
  winners,
  CASE WHEN winners = 0 THEN 'no winner' WHEN winners > 1 THEN 'dead heat' ELSE 'fewer than two finishers' END AS finding
FROM results
WHERE winners <> 1 OR finishers < 2;
