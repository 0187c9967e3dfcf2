-- id: V16
-- severity: warning
-- compares: previous_dataset
-- limit: 5
-- limits: at most {limit} percentage points shifted, no value gone
-- why: the mix of track categories, running styles and locations hardly moves between two rebuilds. When it does, part
--      of a source is missing or a rule changed.
SELECT
  count(*) AS rows,
  count(DISTINCT race_id) AS races,
  count(DISTINCT horse_slug) AS horses,
  count(DISTINCT jockey_slug) AS jockeys,
  count(DISTINCT trainer_slug) AS trainers,
  count(DISTINCT track_name) AS tracks,
  min(race_date) AS since,
  max(race_date) AS until
FROM race_training_dataset;

WITH counts_before AS (
  SELECT track_category, running_style, location, count(*) AS members
  FROM previous_dataset
  GROUP BY track_category, running_style, location
),
counts_now AS (
  SELECT track_category, running_style, location, count(*) AS members
  FROM race_training_dataset
  GROUP BY track_category, running_style, location
),
-- A horse that ran in several locations counts in each.
horses_before AS (
  SELECT location, count(*) AS members
  FROM (SELECT DISTINCT location, horse_slug FROM previous_dataset) AS horses
  GROUP BY location
),
horses_now AS (
  SELECT location, count(*) AS members
  FROM (SELECT DISTINCT location, horse_slug FROM race_training_dataset) AS horses
  GROUP BY location
),
spreads AS (
  SELECT 'rows per track_category' AS spread, track_category AS value, members AS before, 0 AS now FROM counts_before
  UNION ALL SELECT 'rows per track_category', track_category, 0, members FROM counts_now
  UNION ALL SELECT 'rows per running_style', running_style, members, 0 FROM counts_before
  UNION ALL SELECT 'rows per running_style', running_style, 0, members FROM counts_now
  UNION ALL SELECT 'rows per location', location, members, 0 FROM counts_before
  UNION ALL SELECT 'rows per location', location, 0, members FROM counts_now
  UNION ALL SELECT 'horses per location', location, members, 0 FROM horses_before
  UNION ALL SELECT 'horses per location', location, 0, members FROM horses_now
),
totals AS (
  SELECT spread, value, sum(before) AS before, sum(now) AS now
  FROM spreads
  GROUP BY spread, value
),
shares AS (
  SELECT
    spread,
    value,
    100.0 * before / nullif(sum(before) OVER (PARTITION BY spread), 0) AS percent_before,
    100.0 * now / nullif(sum(now) OVER (PARTITION BY spread), 0) AS percent_now
  FROM totals
)
SELECT spread, value, rounded(percent_before, 1) AS percent_before, rounded(percent_now, 1) AS percent_now
FROM shares
WHERE abs(percent_now - percent_before) > check_limit() OR (percent_before > 0 AND percent_now = 0)
ORDER BY abs(percent_now - percent_before) DESC, spread, value;
