-- id: V18
-- severity: warning
-- limit: 20
-- limits: at most {limit} percentage points less than in the year before, in years of 500 finishers
-- why: sectionals come from sources of their own, which stop without notice. Running style and the sectional histories
--      then fade unseen. Hong Kong is apart, because it has them for nearly every race and the rest for a part.
WITH covered AS (
  SELECT DISTINCT race_id FROM race_results_sectional_times
),
hong_kong_tracks AS (
  SELECT lower(track_name) AS name FROM tracks WHERE location = 'HK'
),
finishers AS (
  SELECT
    lower(races.track_name) IN (SELECT name FROM hong_kong_tracks) AS is_hong_kong,
    CASE WHEN r.position_800m < 50 THEN 1 END AS has_800m,
    CASE WHEN r.position_400m < 50 THEN 1 END AS has_400m,
    covered.race_id AS covered_race
  FROM race_results AS r
  JOIN races USING (race_id)
  LEFT JOIN covered USING (race_id)
  WHERE r.position < 50 AND r.horse_slug IS NOT NULL
),
sources AS (
  SELECT
    count(*) AS finishers,
    rounded(100.0 * count(has_800m) / nullif(count(*), 0), 1) AS place_800m_percent,
    rounded(100.0 * count(has_400m) / nullif(count(*), 0), 1) AS place_400m_percent,
    rounded(100.0 * count(covered_race) / nullif(count(*), 0), 1) AS sectionals_percent,
    count(CASE WHEN is_hong_kong THEN 1 END) AS hong_kong_finishers,
    rounded(100.0 * count(CASE WHEN is_hong_kong THEN has_800m END) / nullif(count(CASE WHEN is_hong_kong THEN 1 END), 0), 1)
      AS hong_kong_place_800m_percent,
    rounded(100.0 * count(CASE WHEN is_hong_kong THEN has_400m END) / nullif(count(CASE WHEN is_hong_kong THEN 1 END), 0), 1)
      AS hong_kong_place_400m_percent,
    rounded(100.0 * count(CASE WHEN is_hong_kong THEN covered_race END) / nullif(count(CASE WHEN is_hong_kong THEN 1 END), 0), 1)
      AS hong_kong_sectionals_percent
  FROM finishers
),
histories AS (
  SELECT
    rounded(100.0 * count(CASE WHEN running_style <> 'unknown' THEN 1 END) / nullif(count(*), 0), 1) AS running_style_percent,
    rounded(
      100.0 * count(CASE WHEN location = 'HK' AND running_style <> 'unknown' THEN 1 END)
        / nullif(count(CASE WHEN location = 'HK' THEN 1 END), 0), 1
    ) AS hong_kong_running_style_percent
  FROM race_training_dataset
)
SELECT *
FROM sources
CROSS JOIN histories;

WITH covered AS (
  SELECT DISTINCT race_id FROM race_results_sectional_times
),
hong_kong_tracks AS (
  SELECT lower(track_name) AS name FROM tracks WHERE location = 'HK'
),
-- Year, region and what is covered, as counts.
source_years AS (
  SELECT
    coalesce(lower(races.track_name) IN (SELECT name FROM hong_kong_tracks), false) AS is_hong_kong,
    CAST(extract(year FROM races.race_date) AS INTEGER) AS race_year,
    count(*) AS members,
    count(CASE WHEN r.position_800m < 50 THEN 1 END) AS has_800m,
    count(CASE WHEN r.position_400m < 50 THEN 1 END) AS has_400m,
    count(covered.race_id) AS has_sectionals
  FROM race_results AS r
  JOIN races USING (race_id)
  LEFT JOIN covered USING (race_id)
  WHERE r.position < 50 AND r.horse_slug IS NOT NULL
  GROUP BY is_hong_kong, race_year
),
history_years AS (
  SELECT
    location = 'HK' AS is_hong_kong,
    CAST(extract(year FROM race_date) AS INTEGER) AS race_year,
    count(*) AS members,
    count(CASE WHEN running_style <> 'unknown' THEN 1 END) AS has_style
  FROM race_training_dataset
  GROUP BY is_hong_kong, race_year
),
measures AS (
  SELECT 'results with a place 800 m out' AS measure, is_hong_kong, race_year, members, has_800m AS covered FROM source_years
  UNION ALL SELECT 'results with a place 400 m out', is_hong_kong, race_year, members, has_400m FROM source_years
  UNION ALL SELECT 'results of races with sectionals', is_hong_kong, race_year, members, has_sectionals FROM source_years
  UNION ALL SELECT 'dataset rows with a running style', is_hong_kong, race_year, members, has_style FROM history_years
),
shares AS (
  SELECT measure, is_hong_kong, race_year, 100.0 * covered / members AS percent
  FROM measures
  WHERE members >= 500
)
SELECT
  CASE WHEN now.is_hong_kong THEN 'Hong Kong' ELSE 'elsewhere' END AS region,
  now.race_year,
  measure,
  rounded(before.percent, 1) AS percent_of_year_before,
  rounded(now.percent, 1) AS percent
FROM shares AS now
JOIN shares AS before USING (measure)
WHERE before.is_hong_kong = now.is_hong_kong
  AND before.race_year = now.race_year - 1
  AND before.percent - now.percent > check_limit()
ORDER BY now.race_year DESC, region, measure;
