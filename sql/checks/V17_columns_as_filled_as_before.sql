-- id: V17
-- severity: warning
-- compares: previous_dataset
-- limit: 5
-- limits: no column more than {limit} percentage points emptier, in all or in a year of 500 rows, and none constant
-- why: a source that stops, or a join that no longer matches, empties its columns or leaves only their default. Years
--      are compared one by one, because a gap in one of them drowns in the total.

-- DuckDB only: COLUMNS(*) stands for every column, so that the check needs no list of them.
SELECT
  count(*) AS rows,
  count(DISTINCT extract(year FROM race_date)) AS years,
  (SELECT count(*) FROM dictionary_columns WHERE role <> 'dropped') AS columns,
  rounded(100.0 * count(last_5_avg_position) / nullif(count(*), 0), 1) AS last_5_avg_position_percent,
  rounded(100.0 * count(avg_early_position_800m) / nullif(count(*), 0), 1) AS avg_early_position_800m_percent,
  rounded(100.0 * count(avg_speed_figure) / nullif(count(*), 0), 1) AS avg_speed_figure_percent,
  rounded(100.0 * count(barrier_advantage_at_track) / nullif(count(*), 0), 1) AS barrier_advantage_at_track_percent,
  rounded(100.0 * count(CASE WHEN running_style <> 'unknown' THEN 1 END) / nullif(count(*), 0), 1) AS running_style_percent,
  rounded(100.0 * count(CASE WHEN NOT is_elo_default THEN 1 END) / nullif(count(*), 0), 1) AS rated_percent
FROM race_training_dataset;

WITH now_by_year AS MATERIALIZED (
  UNPIVOT (
    SELECT
      extract(year FROM race_date) AS "the year",
      count(*) AS "the rows",
      struct_pack(
        filled := count(COLUMNS(*)), low := CAST(min(COLUMNS(*)) AS VARCHAR), high := CAST(max(COLUMNS(*)) AS VARCHAR)
      ) AS "\0"
    FROM race_training_dataset
    GROUP BY "the year"
  ) ON COLUMNS(* EXCLUDE ("the year", "the rows")) INTO NAME column_name VALUE facts
),
before_by_year AS MATERIALIZED (
  UNPIVOT (
    SELECT extract(year FROM race_date) AS "the year", count(*) AS "the rows", count(COLUMNS(*)) AS "\0"
    FROM previous_dataset
    GROUP BY "the year"
  ) ON COLUMNS(* EXCLUDE ("the year", "the rows")) INTO NAME column_name VALUE filled
),
years AS (
  SELECT
    column_name,
    CAST(n."the year" AS VARCHAR) AS race_year,
    n."the rows" AS rows_now,
    n.facts.filled AS filled_now,
    b."the rows" AS rows_before,
    b.filled AS filled_before
  FROM now_by_year AS n
  JOIN before_by_year AS b USING (column_name, "the year")
  WHERE n."the rows" >= 500 AND b."the rows" >= 500
),
all_years AS (
  SELECT n.column_name, 'all' AS race_year, n.rows_now, n.filled_now, b.rows_before, b.filled_before
  FROM (SELECT column_name, sum("the rows") AS rows_now, sum(facts.filled) AS filled_now FROM now_by_year GROUP BY column_name) AS n
  JOIN (SELECT column_name, sum("the rows") AS rows_before, sum(filled) AS filled_before FROM before_by_year GROUP BY column_name) AS b
    USING (column_name)
),
shares AS (
  SELECT column_name, race_year, 100.0 * filled_before / rows_before AS percent_before, 100.0 * filled_now / rows_now AS percent_now
  FROM (SELECT * FROM years UNION ALL SELECT * FROM all_years) AS compared
),
findings AS (
  SELECT 'filled less often' AS finding, column_name, race_year, percent_before, percent_now
  FROM shares
  WHERE percent_before - percent_now > check_limit()
  UNION ALL
  -- The build times are of one value by design, so what is only about the row does not count.
  SELECT
    CASE WHEN sum(facts.filled) = 0 THEN 'always null' ELSE 'one value: ' || min(facts.low) END,
    column_name,
    'all',
    NULL,
    100.0 * sum(facts.filled) / sum("the rows")
  FROM now_by_year
  WHERE column_name NOT IN (SELECT name FROM dictionary_columns WHERE role = 'meta')
  GROUP BY column_name
  HAVING sum(facts.filled) = 0
    OR (min(facts.low) = max(facts.low) AND min(facts.high) = max(facts.high) AND min(facts.low) = min(facts.high))
)
SELECT column_name, race_year, finding, rounded(percent_before, 1) AS percent_before, rounded(percent_now, 1) AS percent_now
FROM findings
ORDER BY finding, percent_now - percent_before, column_name, race_year;
