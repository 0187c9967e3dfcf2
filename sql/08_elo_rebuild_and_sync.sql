-- grain: one row per race and rated horse
-- reads: race_results, cleaned_races, horse_ids
-- writes: elo_ratings, horse_elo_ratings
-- why: the rating after a race depends only on the finishing place, the size of the field and the class, never on the
--      opponents, so the whole history is one fold per horse: add the change, then limit to 600..2200.
--      Ratings are whole hundredths until the end, so the fold is exact.

CREATE OR REPLACE TABLE elo_ratings AS
WITH RECURSIVE
rated AS (
  -- Lowest id on duplicates, as everywhere.
  SELECT c.race_key, h.horse_id, CAST(r.position AS INTEGER) AS position
  FROM race_results AS r
  JOIN cleaned_races AS c USING (race_id)
  JOIN horse_ids AS h USING (horse_slug)
  WHERE c.race_date >= DATE '2017-01-01' AND r.position IS NOT NULL AND r.finish_status = 'FINISHED'
  QUALIFY row_number() OVER (PARTITION BY c.race_key, h.horse_id ORDER BY r.id) = 1
),
sizes AS (
  SELECT race_key, CAST(count(*) AS INTEGER) AS total_runners
  FROM rated
  GROUP BY race_key
),
fields AS (
  SELECT
    race_key,
    c.day_key,
    -- Races of a day are in the order of their ids, of which the windows need no more than the order.
    row_number() OVER (ORDER BY c.race_id) AS race_id_number,
    sizes.total_runners,
    CASE
      WHEN lower(c.race_class) LIKE '%group 1%' OR lower(c.race_class) LIKE '%g1%' THEN 1.5
      WHEN lower(c.race_class) LIKE '%group%' THEN 1.3
      WHEN lower(c.race_class) LIKE '%listed%' THEN 1.2
      ELSE 1.0
    END AS class_factor,
    CASE WHEN sizes.total_runners >= 14 THEN 1.2 WHEN sizes.total_runners <= 8 THEN 0.8 ELSE 1.0 END AS field_factor
  FROM sizes
  JOIN cleaned_races AS c USING (race_key)
),
changes AS (
  SELECT
    race_key,
    rated.horse_id,
    rated.position,
    fields.day_key,
    fields.race_id_number,
    fields.total_runners,
    CAST(rounded(
      rounded(
        CASE
          WHEN rated.position = 1 THEN 2560
          WHEN rated.position = 2 THEN 1280
          WHEN rated.position = 3 THEN 320
          WHEN rated.position <= floor(fields.total_runners / 2.0) THEN -640
          ELSE -1600
        END * CAST(class_factor AS DOUBLE), 0
      ) * CAST(field_factor AS DOUBLE), 0
    ) AS INTEGER) AS change,
    -- Two runs on one day both start from the earlier day. The next day starts from the later of them.
    coalesce(lead(fields.day_key) OVER (PARTITION BY rated.horse_id ORDER BY fields.day_key, fields.race_id_number) <> fields.day_key, true) AS is_last_of_day
  FROM rated
  JOIN fields USING (race_key)
),
unlimited AS (
  SELECT
    *,
    120000 + coalesce(sum(CASE WHEN is_last_of_day THEN change END) OVER earlier_days, 0) AS before_unlimited
  FROM changes
  WINDOW earlier_days AS (PARTITION BY horse_id ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
floored AS (
  -- With the lower limit alone the fold is a running sum, raised by the deepest it has fallen below the limit.
  SELECT
    *,
    before_unlimited
      + greatest(0, coalesce(max(CASE WHEN is_last_of_day THEN 60000 - (before_unlimited + change) END) OVER earlier_days, 0))
      AS before_floored
  FROM unlimited
  WINDOW earlier_days AS (PARTITION BY horse_id ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
-- The few horses that would pass the upper limit are folded race day by race day.
days_of_the_best AS (
  SELECT horse_id, day_key, change, row_number() OVER (PARTITION BY horse_id ORDER BY day_key) AS day_number_of_horse
  FROM floored
  WHERE is_last_of_day
    AND horse_id IN (SELECT horse_id FROM floored WHERE is_last_of_day AND before_floored + change > 220000)
),
folded AS (
  SELECT horse_id, day_key, day_number_of_horse, CAST(120000 AS BIGINT) AS before, CAST(change AS BIGINT) AS change
  FROM days_of_the_best
  WHERE day_number_of_horse = 1
  UNION ALL
  SELECT d.horse_id, d.day_key, d.day_number_of_horse, least(220000, greatest(60000, f.before + f.change)), CAST(d.change AS BIGINT)
  FROM folded AS f
  JOIN days_of_the_best AS d ON d.horse_id = f.horse_id AND d.day_number_of_horse = f.day_number_of_horse + 1
),
limited AS (
  SELECT floored.*, CAST(coalesce(folded.before, floored.before_floored) AS BIGINT) AS before
  FROM floored
  LEFT JOIN folded USING (horse_id, day_key)
)
SELECT
  race_key,
  horse_id,
  r.day_key,
  -- The last row of this number on a day is the rating that later days start from.
  CAST(row_number() OVER (PARTITION BY horse_id ORDER BY r.day_key, r.race_id_number) AS INTEGER) AS rating_number,
  h.horse_slug,
  c.race_date,
  c.race_id,
  before / CAST(100 AS DOUBLE) AS elo_before,
  least(220000, greatest(60000, before + change)) / CAST(100 AS DOUBLE) AS elo_after,
  position,
  r.total_runners
FROM limited AS r
JOIN cleaned_races AS c USING (race_key)
JOIN horse_ids AS h USING (horse_id);

-- The same for people and other programs: numbered in the order in which they came about.
CREATE OR REPLACE TABLE horse_elo_ratings AS
SELECT
  row_number() OVER (ORDER BY race_date, race_id, horse_id) AS id,
  horse_slug,
  race_date,
  race_id,
  CAST(elo_before AS DECIMAL(6, 2)) AS elo_before,
  CAST(elo_after AS DECIMAL(6, 2)) AS elo_after,
  position,
  total_runners,
  build_time() AS created_at,
  build_time() AS updated_at
FROM elo_ratings;
