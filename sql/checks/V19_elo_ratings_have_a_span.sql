-- id: V19
-- severity: warning
-- limit: 90
-- limits: in every year {limit} percent of the finishers rated, from 600 to 2200 and not all alike
-- why: a rating run that broke off leaves years without ratings, or with everyone at the start value. The first is seen
--      in the ratings of the source, the second in both these and the ones that the dataset was built with.
WITH ratings AS (
  SELECT horse_slug, race_date, finite_number(elo_after) AS elo_after
  FROM horse_elo_ratings
)
SELECT
  count(*) AS ratings,
  count(DISTINCT horse_slug) AS horses,
  rounded(avg(elo_after), 2) AS mean,
  rounded(stddev_samp(elo_after), 2) AS deviation,
  min(elo_after) AS lowest,
  max(elo_after) AS highest,
  min(race_date) AS since,
  max(race_date) AS until
FROM ratings;

WITH ratings AS (
  SELECT
    CAST(extract(year FROM race_date) AS INTEGER) AS race_year,
    horse_slug,
    finite_number(elo_before) AS elo_before,
    finite_number(elo_after) AS elo_after
  FROM horse_elo_ratings
),
rating_years AS (
  SELECT
    race_year,
    count(*) AS ratings,
    count(DISTINCT horse_slug) AS horses,
    min(elo_after) AS lowest,
    max(elo_after) AS highest,
    avg(elo_after) AS mean,
    count(*) - count(CASE WHEN elo_before BETWEEN 600 AND 2200 AND elo_after BETWEEN 600 AND 2200 THEN 1 END) AS out_of_range
  FROM ratings
  GROUP BY race_year
),
finisher_years AS (
  SELECT
    CAST(extract(year FROM race_date) AS INTEGER) AS race_year,
    count(DISTINCT race_id) AS races,
    count(*) AS finishers,
    count(DISTINCT horse_slug) AS horses,
    min(horse_elo) AS lowest,
    max(horse_elo) AS highest,
    avg(horse_elo) AS mean
  FROM race_training_dataset
  WHERE final_position IS NOT NULL
  GROUP BY race_year
),
findings AS (
  SELECT
    race_year,
    CASE
      WHEN coalesce(r.ratings, 0) = 0 THEN 'no ratings'
      WHEN r.out_of_range > 0 THEN 'ratings missing or outside 600 to 2200'
      WHEN r.lowest = r.highest THEN 'all ratings alike'
      WHEN 100.0 * r.ratings / f.finishers < check_limit() THEN 'finishers without a rating'
    END AS finding,
    coalesce(r.ratings, 0) AS ratings,
    f.finishers,
    r.horses,
    r.lowest,
    r.highest,
    rounded(r.mean, 2) AS mean
  FROM finisher_years AS f
  FULL JOIN rating_years AS r USING (race_year)
  WHERE race_year >= (SELECT min(race_year) FROM rating_years)
  UNION ALL
  -- Ratings begin in 2017, so that from the next year on some horse has one.
  SELECT race_year, 'all ratings alike in the dataset', 0, finishers, horses, lowest, highest, rounded(mean, 2)
  FROM finisher_years
  WHERE race_year >= 2018 AND lowest = highest AND races > 1
)
SELECT race_year, finding, ratings, finishers, horses, lowest, highest, mean
FROM findings
WHERE finding IS NOT NULL
ORDER BY race_year, finding;
