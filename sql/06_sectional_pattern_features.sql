-- grain: one row per starter
-- reads: races_derived_sectional_margins, cleaned_races, runners, horse_starts, sectional_matches, career_form
-- writes: horse_sectional_means, sectional_pattern_features
-- key: horse_sectional_means (runner_id)
-- why: how a horse ran its earlier races, early and late. Few runs have a sectional row, so their sums are taken apart
--      from those of phase 2.

-- Means over the prior sectional rows of the horse, wherever it ran. Only horses with such rows are listed. Times are
-- summed in milliseconds and fractions as whole units, so that every sum is exact.
CREATE OR REPLACE TABLE horse_sectional_means AS
WITH margins AS (
  SELECT
    c.race_key,
    CAST(m.horse_number AS INTEGER) AS horse_number,
    thousandths(finite_number(m.margin_400m)) AS margin_400m,
    thousandths(finite_number(m.margin_800m)) AS margin_800m
  FROM races_derived_sectional_margins AS m
  JOIN cleaned_races AS c USING (race_id)
  QUALIFY row_number() OVER (PARTITION BY c.race_key, m.horse_number ORDER BY m.margin_400m, m.margin_800m) = 1
),
timed AS (
  SELECT
    runner_id,
    race_key,
    horse_number,
    finish_position,
    from_start_800m,
    from_start_200m,
    coalesce(from_start_200m, from_start_400m) AS first_place,
    thousandths(sectional_400m) AS split_400m,
    thousandths(sectional_800m) AS split_800m,
    thousandths(cumulative_800m) AS elapsed_800m,
    avg(thousandths(sectional_400m)) OVER (PARTITION BY race_key) AS field_split_400m
  FROM sectional_matches
),
-- The splits count where the place 800 m from the start is known, margins and the break in any row.
facts AS (
  SELECT
    s.runner_id,
    m.margin_400m,
    m.margin_800m,
    m.margin_800m - m.margin_400m AS margin_gain,
    hundred_millionths(CAST(s.split_800m AS DOUBLE) / s.split_400m) AS deceleration,
    exact_fraction((s.first_place - 1) / CAST(nullif(r.total_runners - 1, 0) AS DOUBLE)) AS break_place,
    CASE WHEN s.from_start_800m IS NOT NULL THEN s.from_start_200m END AS place_200m,
    CASE WHEN s.from_start_800m IS NOT NULL THEN s.split_400m END AS split_400m,
    CASE WHEN s.from_start_800m IS NOT NULL THEN s.split_800m END AS split_800m,
    CASE WHEN s.from_start_800m IS NOT NULL THEN s.elapsed_800m END AS elapsed_800m,
    CASE WHEN s.from_start_800m IS NOT NULL THEN s.split_800m - s.split_400m END AS slowed,
    CASE WHEN s.from_start_800m IS NOT NULL THEN exact_fraction(s.field_split_400m - s.split_400m) END AS ahead_of_field
  FROM timed AS s
  JOIN runners AS r USING (runner_id)
  LEFT JOIN margins AS m ON m.race_key = s.race_key AND m.horse_number = s.horse_number
  WHERE s.finish_position BETWEEN 1 AND 20
),
sums AS (
  SELECT
    career_id,
    row_number() OVER so_far AS measured_runs,
    total(count(margin_400m) OVER so_far) AS margin_400m_rows,
    sum(margin_400m) OVER so_far AS margin_400m,
    total(count(margin_800m) OVER so_far) AS margin_800m_rows,
    sum(margin_800m) OVER so_far AS margin_800m,
    total(count(margin_gain) OVER so_far) AS margin_gain_rows,
    sum(margin_gain) OVER so_far AS margin_gain,
    total(count(deceleration) OVER so_far) AS deceleration_rows,
    sum(deceleration) OVER so_far AS deceleration,
    total(count(break_place) OVER so_far) AS break_rows,
    sum(break_place) OVER so_far AS break_place,
    sum(wide(break_place) * break_place) OVER so_far AS break_squares,
    total(count(place_200m) OVER so_far) AS place_200m_rows,
    total(sum(place_200m) OVER so_far) AS place_200m,
    total(count(split_400m) OVER so_far) AS split_400m_rows,
    sum(split_400m) OVER so_far AS split_400m,
    sum(split_400m * split_400m) OVER so_far AS split_400m_squares,
    total(count(split_800m) OVER so_far) AS split_800m_rows,
    sum(split_800m) OVER so_far AS split_800m,
    total(count(elapsed_800m) OVER so_far) AS elapsed_800m_rows,
    sum(elapsed_800m) OVER so_far AS elapsed_800m,
    total(count(slowed) OVER so_far) AS slowed_rows,
    sum(slowed) OVER so_far AS slowed,
    sum(ahead_of_field) OVER so_far AS ahead_of_field
  FROM facts
  JOIN horse_starts USING (runner_id)
  WINDOW so_far AS (PARTITION BY career_id ORDER BY runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
),
-- A start after m measured runs finds their sums at number m.
counts AS (
  SELECT s.runner_id, s.race_date, s.career_id, s.is_subject, count(f.runner_id) OVER earlier AS measured_runs
  FROM horse_starts AS s
  LEFT JOIN facts AS f USING (runner_id)
  WINDOW earlier AS (PARTITION BY s.career_id ORDER BY s.runner_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  runner_id,
  race_date,
  rounded(mean_of(margin_400m, margin_400m_rows) / 1000, 4) AS hist_margin_400m_avg,
  rounded(mean_of(margin_800m, margin_800m_rows) / 1000, 4) AS hist_margin_800m_avg,
  rounded(mean_of(margin_gain, margin_gain_rows) / 1000, 4) AS hist_margin_gain_800_to_400,
  rounded(mean_of(deceleration, deceleration_rows) / 1e8, 4) AS hist_deceleration_ratio,
  rounded(mean_of(break_place, break_rows) / exact_fraction(1), 4) AS hist_break_bias,
  rounded(sd_of(break_rows, break_place, break_squares) / exact_fraction(1), 4) AS hist_break_consistency,
  rounded(mean_of(place_200m, place_200m_rows), 2) AS avg_pos_200m,
  rounded(mean_of(split_400m, split_400m_rows) / 1000, 3) AS avg_sectional_400m,
  rounded(mean_of(split_800m, split_800m_rows) / 1000, 3) AS avg_sectional_800m,
  rounded(mean_of(elapsed_800m, elapsed_800m_rows) / 1000, 3) AS avg_cumulative_800m,
  rounded(sd_of(split_400m_rows, split_400m, split_400m_squares) / 1000, 3) AS sectional_time_consistency,
  rounded(mean_of(slowed, slowed_rows) / 1000, 3) AS early_vs_mid_pace_change,
  rounded(mean_of(ahead_of_field, split_400m_rows) / exact_fraction(1) / 1000, 4) AS historical_speed_vs_field
FROM counts
JOIN sums USING (career_id, measured_runs)
WHERE counts.is_subject
ORDER BY runner_id;

-- The row of phase 2, the means, and the features of this phase.
CREATE OR REPLACE VIEW sectional_pattern_features AS
SELECT
  t.*,
  m.* EXCLUDE (runner_id, race_date),
  t.faded_runs AS fader_count,
  frac(t.faded_runs, t.late_runs) AS fader_rate,
  t.closed_runs AS closer_count,
  frac(t.closed_runs, t.late_runs) AS closer_rate,
  t.front_runs AS front_count,
  frac(t.front_runs, t.late_runs) AS front_rate,
  t.late_runs >= 3 AND t.faded_runs * 10 >= t.late_runs * 3 AS is_historical_fader,
  coalesce(rounded(mean_of(t.late_gains, t.late_runs), 3), CAST(0 AS DOUBLE)) AS avg_improvement_from_400m,
  coalesce(
    rounded(
      (1 - mean_of(t.late_places, t.late_runs) / 10) * (1 + greatest(mean_of(t.late_gains, t.late_runs) / 5, CAST(0 AS DOUBLE))), 4
    ), CAST(0 AS DOUBLE)
  ) AS front_closer_score,
  frac(t.faded_sprints, t.sprints) AS sprint_fader_rate,
  frac(t.front_long_runs, t.long_runs) AS staying_leader_rate
FROM career_form AS t
LEFT JOIN horse_sectional_means AS m USING (runner_id, race_date);
