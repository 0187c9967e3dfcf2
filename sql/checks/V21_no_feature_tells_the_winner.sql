-- id: V21
-- severity: warning
-- limit: 0.80
-- limits: no feature with an AUC against winning above {limit}, or as far below one half
-- why: an honest feature alone reaches an AUC of 0.7 or so. One that tells winners much better has seen the result, be
--      it by its values or by being filled at all. A fixed sample of 5000 races is enough to see that.

-- DuckDB only: COLUMNS(*) stands for every column, and UNPIVOT makes each value a row.
CREATE OR REPLACE TEMP TABLE screened_races AS
SELECT race_id
FROM (SELECT DISTINCT race_id FROM race_training_dataset WHERE final_position IS NOT NULL) AS races
ORDER BY md5(race_id)
LIMIT 5000;

-- How many winners and losers each feature tells, and how many losers a winner beats by it: all of a lower value, and half
-- of those of the same. Text and dates become null, and UNPIVOT leaves nulls out.
CREATE OR REPLACE TEMP TABLE screened_features AS
WITH cells AS (
  UNPIVOT (
    SELECT final_position = 1 AS "has won", TRY_CAST(COLUMNS(*) AS DOUBLE) AS "\0"
    FROM race_training_dataset
    WHERE final_position IS NOT NULL AND race_id IN (SELECT race_id FROM screened_races)
  ) ON COLUMNS(* EXCLUDE ("has won")) INTO NAME column_name VALUE cell
),
cell_counts AS (
  SELECT column_name, cell, count(CASE WHEN "has won" THEN 1 END) AS winners, count(CASE WHEN NOT "has won" THEN 1 END) AS losers
  FROM cells
  WHERE column_name IN (SELECT name FROM dictionary_columns WHERE role = 'feature')
  GROUP BY column_name, cell
),
ordered AS (
  SELECT
    *,
    sum(losers) OVER (PARTITION BY column_name ORDER BY cell ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS losers_so_far
  FROM cell_counts
)
SELECT
  column_name,
  CAST(sum(winners) AS BIGINT) AS winners,
  CAST(sum(losers) AS BIGINT) AS losers,
  sum(winners * (losers_so_far - losers / 2.0)) AS beaten
FROM ordered
GROUP BY column_name;

-- The features that tell the most by their values.
SELECT
  (SELECT count(*) FROM screened_races) AS races,
  count(*) AS features,
  rounded(max(auc), 3) AS highest_auc,
  max_by(column_name, auc) AS highest,
  rounded(min(auc), 3) AS lowest_auc,
  min_by(column_name, auc) AS lowest
FROM (
  SELECT column_name, beaten / (1.0 * winners * losers) AS auc
  FROM screened_features
  WHERE winners >= 50 AND losers >= 50
) AS told;

-- Those over the limit, by their values or by being filled at all.
WITH everyone AS (
  SELECT
    count(CASE WHEN final_position = 1 THEN 1 END) AS winners,
    count(CASE WHEN final_position > 1 THEN 1 END) AS losers
  FROM race_training_dataset
  WHERE race_id IN (SELECT race_id FROM screened_races)
),
screened AS (
  SELECT column_name, 'value' AS told_by, winners, losers, beaten / (1.0 * winners * losers) AS auc
  FROM screened_features
  WHERE winners >= 50 AND losers >= 50
  UNION ALL
  SELECT
    column_name,
    'presence',
    f.winners,
    f.losers,
    0.5 + (1.0 * f.winners / e.winners - 1.0 * f.losers / e.losers) / 2
  FROM screened_features AS f
  CROSS JOIN everyone AS e
  WHERE e.winners >= 50 AND e.losers >= 50
)
SELECT column_name, told_by, rounded(auc, 4) AS auc, winners, losers
FROM screened
WHERE auc > check_limit() OR auc < 1 - check_limit()
ORDER BY abs(auc - 0.5) DESC, column_name;
