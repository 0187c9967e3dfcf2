-- grain: one row per starter
-- reads: runners, race_conditions
-- writes: weather_features
-- why: some horses prefer wet ground. Wet is a going of 5 or more on the scale of phase 4, dry is 3 or less, and 4 is
--      neither.

CREATE OR REPLACE TABLE weather_features AS
WITH runs AS (
  SELECT
    r.runner_id,
    r.horse_key,
    r.day_key,
    r.meeting_key,
    r.race_order,
    c.track_condition_numeric >= 5 AS is_wet_track,
    r.finished * CAST(c.track_condition_numeric >= 5 AS INTEGER) AS wet_run,
    r.won * CAST(c.track_condition_numeric >= 5 AS INTEGER) AS wet_win,
    r.finished * CAST(c.track_condition_numeric <= 3 AS INTEGER) AS dry_run,
    r.won * CAST(c.track_condition_numeric <= 3 AS INTEGER) AS dry_win,
    c.track_condition_numeric <= 3 AS is_dry_track
  FROM runners AS r
  JOIN race_conditions AS c USING (race_key)
  WHERE r.is_starter
),
counts AS (
  SELECT
    runner_id,
    is_wet_track,
    is_dry_track,
    total(sum(wet_run) OVER earlier_days) + total(sum(wet_run) OVER earlier_today) AS wet_runs,
    total(sum(wet_win) OVER earlier_days) + total(sum(wet_win) OVER earlier_today) AS wet_wins,
    total(sum(dry_run) OVER earlier_days) + total(sum(dry_run) OVER earlier_today) AS dry_runs,
    total(sum(dry_win) OVER earlier_days) + total(sum(dry_win) OVER earlier_today) AS dry_wins
  FROM runs
  WINDOW
    earlier_days AS (PARTITION BY horse_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (PARTITION BY horse_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
rates AS (
  SELECT *, frac(wet_wins, wet_runs) AS wet_win_rate, frac(dry_wins, dry_runs) AS dry_win_rate
  FROM counts
)
SELECT
  runner_id,
  is_wet_track,
  wet_runs AS horse_wet_track_runs,
  dry_runs AS horse_dry_track_runs,
  wet_win_rate AS horse_wet_track_win_rate,
  dry_win_rate AS horse_dry_track_win_rate,
  rounded(wet_win_rate - dry_win_rate, 4) AS wet_dry_preference_score,
  CAST(CASE
    WHEN is_wet_track THEN CASE WHEN wet_win_rate > dry_win_rate THEN 0.8 ELSE -0.3 END
    WHEN is_dry_track THEN CASE WHEN dry_win_rate > wet_win_rate THEN 0.5 ELSE -0.1 END
    ELSE 0
  END AS DOUBLE) AS weather_condition_match
FROM rates;
