-- grain: one row per horse ever entered
-- reads: runners, horse_ids
-- writes: horse_careers
-- key: horse_careers (horse_slug)
-- why: the application keeps a list of horses of its own. Those that it lacks get a row with what is known of them:
--      counts over all finishes, wherever they were. `racealpha push horse_careers` inserts them.

CREATE OR REPLACE TABLE horse_careers AS
WITH careers AS (
  SELECT
    horse_id,
    CAST(sum(finished) AS INTEGER) AS total_races,
    CAST(sum(won) AS INTEGER) AS wins,
    CAST(sum(placed) AS INTEGER) AS places,
    max(CASE WHEN finished = 1 THEN race_date END) AS last_race_date
  FROM runners
  GROUP BY horse_id
)
SELECT
  title_case(replace(h.horse_slug, '-', ' ')) AS horse_name,
  h.horse_slug,
  c.total_races,
  c.wins,
  c.places,
  c.last_race_date,
  CAST(CASE WHEN c.total_races > 0 THEN rounded(100.0 * c.wins / c.total_races, 0) ELSE 0 END AS SMALLINT) AS win_percentage,
  CAST(CASE WHEN c.total_races > 0 THEN rounded(100.0 * c.places / c.total_races, 0) ELSE 0 END AS SMALLINT) AS place_percentage
FROM careers AS c
JOIN horse_ids AS h USING (horse_id);
