-- grain: one row per starter
-- reads: interaction_features
-- writes: weather_features
-- why: some horses prefer wet ground. Wet is a going of 5 or more on the scale of phase 1, dry is 3 or less, and 4 is
--      neither.

-- The row of phase 4 and the features of this phase.
CREATE OR REPLACE VIEW weather_features AS
WITH rates AS (
  SELECT
    i.*,
    i.track_condition_numeric >= 5 AS is_wet_track,
    i.track_condition_numeric <= 3 AS is_dry_track,
    frac(i.wet_wins, i.wet_runs) AS wet_win_rate,
    frac(i.dry_wins, i.dry_runs) AS dry_win_rate
  FROM interaction_features AS i
)
SELECT
  *,
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
