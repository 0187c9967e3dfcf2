-- id: V22
-- severity: warning
-- limit: 100
-- limits: wet specialists win more often there, told from {limit} runs of each kind
-- why: the preference is worth something only if it foretells results. If it does not, wet and dry were mixed up.
CREATE OR REPLACE TEMP TABLE specialists AS
SELECT
  wet_dry_preference_score > 0.05 AS prefers_wet,
  count(*) AS runs,
  count(CASE WHEN final_position = 1 THEN 1 END) AS wins
FROM race_training_dataset
WHERE is_wet_track AND final_position IS NOT NULL AND abs(wet_dry_preference_score) > 0.05
GROUP BY prefers_wet;

SELECT
  CAST(coalesce(sum(CASE WHEN prefers_wet THEN runs END), 0) AS BIGINT) AS wet_specialist_runs,
  rounded(100.0 * sum(CASE WHEN prefers_wet THEN wins END) / sum(CASE WHEN prefers_wet THEN runs END), 2)
    AS wet_specialist_win_percent,
  CAST(coalesce(sum(CASE WHEN NOT prefers_wet THEN runs END), 0) AS BIGINT) AS dry_specialist_runs,
  rounded(100.0 * sum(CASE WHEN NOT prefers_wet THEN wins END) / sum(CASE WHEN NOT prefers_wet THEN runs END), 2)
    AS dry_specialist_win_percent
FROM specialists;

SELECT
  wet.runs AS wet_specialist_runs,
  rounded(100.0 * wet.wins / wet.runs, 2) AS wet_specialist_win_percent,
  dry.runs AS dry_specialist_runs,
  rounded(100.0 * dry.wins / dry.runs, 2) AS dry_specialist_win_percent
FROM specialists AS wet
JOIN specialists AS dry ON wet.prefers_wet AND NOT dry.prefers_wet
WHERE wet.runs >= check_limit() AND dry.runs >= check_limit()
  AND wet.wins * dry.runs <= dry.wins * wet.runs;
