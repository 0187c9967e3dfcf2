-- grain: one row per starter
-- reads: races_derived_sectional_margins, cleaned_races, runners, checkpoints, sectional_matches
-- writes: horse_sectional_totals, horse_sectional_means, sectional_pattern_features
-- why: how a horse ran its earlier races, early and late. Every sum over earlier runs that needs a place in running is
--      taken here in one pass, for the later phases too.

-- Sums over the prior runs of the horse in this location. Places are counted back from the post: `early` with 800 m to
-- go, `late` with 400 m to go. A gain is places won up to the finish.
CREATE OR REPLACE TABLE horse_sectional_totals AS
WITH runs AS (
  SELECT
    r.runner_id,
    r.horse_key,
    r.day_key,
    r.meeting_key,
    r.race_order,
    r.total_runners,
    c.race_distance,
    r.finished,
    r.final_position,
    CASE WHEN r.finished = 1 THEN p.position_800m END AS early,
    CASE WHEN r.finished = 1 THEN p.position_400m END AS late
  FROM runners AS r
  JOIN cleaned_races AS c USING (race_key)
  LEFT JOIN checkpoints AS p USING (runner_id)
  WHERE r.is_starter
),
facts AS (
  SELECT
    runner_id,
    horse_key,
    day_key,
    meeting_key,
    race_order,
    early,
    late,
    CASE WHEN early IS NOT NULL THEN late END AS late_after_early,
    early - final_position AS early_gain,
    late - final_position AS late_gain,
    CASE WHEN late IS NOT NULL THEN coalesce(early, 0) - final_position END AS surge,
    CASE WHEN total_runners > 1 THEN early END AS early_in_field,
    CASE WHEN total_runners > 1 AND early * 4 <= total_runners THEN 1 END AS in_first_quarter,
    CASE WHEN race_distance <= 1200 AND finished = 1 THEN 1 END AS is_sprint,
    CASE WHEN race_distance > 2000 AND finished = 1 THEN 1 END AS is_long
  FROM runs
)
SELECT
  runner_id,
  total(count(early) OVER earlier_days) + total(count(early) OVER earlier_today) AS early_runs,
  total(sum(early) OVER earlier_days) + total(sum(early) OVER earlier_today) AS early_places,
  total(count(late_after_early) OVER earlier_days) + total(count(late_after_early) OVER earlier_today) AS late_after_early_runs,
  total(sum(late_after_early) OVER earlier_days) + total(sum(late_after_early) OVER earlier_today) AS late_after_early_places,
  total(sum(early_gain) OVER earlier_days) + total(sum(early_gain) OVER earlier_today) AS early_gains,
  total(sum(abs(early_gain)) OVER earlier_days) + total(sum(abs(early_gain)) OVER earlier_today) AS early_moves,
  total(count(early_in_field) OVER earlier_days) + total(count(early_in_field) OVER earlier_today) AS early_in_field_runs,
  total(sum(in_first_quarter) OVER earlier_days) + total(sum(in_first_quarter) OVER earlier_today) AS first_quarter_runs,
  total(count(late) OVER earlier_days) + total(count(late) OVER earlier_today) AS late_runs,
  total(sum(late) OVER earlier_days) + total(sum(late) OVER earlier_today) AS late_places,
  total(sum(surge) OVER earlier_days) + total(sum(surge) OVER earlier_today) AS surges,
  total(sum(late_gain) OVER earlier_days) + total(sum(late_gain) OVER earlier_today) AS late_gains,
  total(sum(late_gain * late_gain) OVER earlier_days) + total(sum(late_gain * late_gain) OVER earlier_today) AS late_gain_squares,
  total(sum(CAST(late_gain > 0 AS INTEGER)) OVER earlier_days)
    + total(sum(CAST(late_gain > 0 AS INTEGER)) OVER earlier_today) AS strong_finishes,
  total(sum(CAST(late_gain <= -2 AS INTEGER)) OVER earlier_days)
    + total(sum(CAST(late_gain <= -2 AS INTEGER)) OVER earlier_today) AS faded_runs,
  total(sum(CAST(late_gain >= 3 AS INTEGER)) OVER earlier_days)
    + total(sum(CAST(late_gain >= 3 AS INTEGER)) OVER earlier_today) AS closed_runs,
  total(sum(CAST(late <= 2 AS INTEGER)) OVER earlier_days)
    + total(sum(CAST(late <= 2 AS INTEGER)) OVER earlier_today) AS front_runs,
  total(sum(is_sprint) OVER earlier_days) + total(sum(is_sprint) OVER earlier_today) AS sprints,
  total(sum(is_sprint * CAST(late_gain <= -2 AS INTEGER)) OVER earlier_days)
    + total(sum(is_sprint * CAST(late_gain <= -2 AS INTEGER)) OVER earlier_today) AS faded_sprints,
  total(sum(is_long) OVER earlier_days) + total(sum(is_long) OVER earlier_today) AS long_runs,
  total(sum(is_long * CAST(late <= 2 AS INTEGER)) OVER earlier_days)
    + total(sum(is_long * CAST(late <= 2 AS INTEGER)) OVER earlier_today) AS front_long_runs
FROM facts
WINDOW
  earlier_days AS (PARTITION BY horse_key ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
  earlier_today AS (PARTITION BY horse_key, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING);

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
    hundred_millionths((s.first_place - 1) / CAST(nullif(r.total_runners - 1, 0) AS DOUBLE)) AS break_bias,
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
runs AS (
  SELECT r.horse_id, r.day_key, r.meeting_key, r.race_order, r.runner_id, f.* EXCLUDE (runner_id)
  FROM runners AS r
  LEFT JOIN facts AS f ON f.runner_id = r.runner_id
  WHERE r.is_starter
    AND r.horse_id IN (SELECT known.horse_id FROM runners AS known JOIN facts USING (runner_id))
),
sums AS (
  SELECT
    runner_id,
    total(count(margin_400m) OVER earlier_days) + total(count(margin_400m) OVER earlier_today) AS margin_400m_rows,
    coalesce(sum(margin_400m) OVER earlier_days, 0) + coalesce(sum(margin_400m) OVER earlier_today, 0) AS margin_400m,
    total(count(margin_800m) OVER earlier_days) + total(count(margin_800m) OVER earlier_today) AS margin_800m_rows,
    coalesce(sum(margin_800m) OVER earlier_days, 0) + coalesce(sum(margin_800m) OVER earlier_today, 0) AS margin_800m,
    total(count(margin_gain) OVER earlier_days) + total(count(margin_gain) OVER earlier_today) AS margin_gain_rows,
    coalesce(sum(margin_gain) OVER earlier_days, 0) + coalesce(sum(margin_gain) OVER earlier_today, 0) AS margin_gain,
    total(count(deceleration) OVER earlier_days) + total(count(deceleration) OVER earlier_today) AS deceleration_rows,
    coalesce(sum(deceleration) OVER earlier_days, 0) + coalesce(sum(deceleration) OVER earlier_today, 0) AS deceleration,
    total(count(break_bias) OVER earlier_days) + total(count(break_bias) OVER earlier_today) AS break_rows,
    coalesce(sum(break_place) OVER earlier_days, 0) + coalesce(sum(break_place) OVER earlier_today, 0) AS break_place,
    coalesce(sum(break_bias) OVER earlier_days, 0) + coalesce(sum(break_bias) OVER earlier_today, 0) AS break_bias,
    coalesce(sum(break_bias * break_bias) OVER earlier_days, 0)
      + coalesce(sum(break_bias * break_bias) OVER earlier_today, 0) AS break_squares,
    total(count(place_200m) OVER earlier_days) + total(count(place_200m) OVER earlier_today) AS place_200m_rows,
    total(sum(place_200m) OVER earlier_days) + total(sum(place_200m) OVER earlier_today) AS place_200m,
    total(count(split_400m) OVER earlier_days) + total(count(split_400m) OVER earlier_today) AS split_400m_rows,
    coalesce(sum(split_400m) OVER earlier_days, 0) + coalesce(sum(split_400m) OVER earlier_today, 0) AS split_400m,
    coalesce(sum(split_400m * split_400m) OVER earlier_days, 0)
      + coalesce(sum(split_400m * split_400m) OVER earlier_today, 0) AS split_400m_squares,
    total(count(split_800m) OVER earlier_days) + total(count(split_800m) OVER earlier_today) AS split_800m_rows,
    coalesce(sum(split_800m) OVER earlier_days, 0) + coalesce(sum(split_800m) OVER earlier_today, 0) AS split_800m,
    total(count(elapsed_800m) OVER earlier_days) + total(count(elapsed_800m) OVER earlier_today) AS elapsed_800m_rows,
    coalesce(sum(elapsed_800m) OVER earlier_days, 0) + coalesce(sum(elapsed_800m) OVER earlier_today, 0) AS elapsed_800m,
    total(count(slowed) OVER earlier_days) + total(count(slowed) OVER earlier_today) AS slowed_rows,
    coalesce(sum(slowed) OVER earlier_days, 0) + coalesce(sum(slowed) OVER earlier_today, 0) AS slowed,
    coalesce(sum(ahead_of_field) OVER earlier_days, 0) + coalesce(sum(ahead_of_field) OVER earlier_today, 0) AS ahead_of_field
  FROM runs
  WINDOW
    earlier_days AS (PARTITION BY horse_id ORDER BY day_key RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (PARTITION BY horse_id, meeting_key ORDER BY race_order RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
  runner_id,
  rounded(mean_of(margin_400m, margin_400m_rows) / 1000, 4) AS hist_margin_400m_avg,
  rounded(mean_of(margin_800m, margin_800m_rows) / 1000, 4) AS hist_margin_800m_avg,
  rounded(mean_of(margin_gain, margin_gain_rows) / 1000, 4) AS hist_margin_gain_800_to_400,
  rounded(mean_of(deceleration, deceleration_rows) / 1e8, 4) AS hist_deceleration_ratio,
  rounded(mean_of(break_place, break_rows) / exact_fraction(1), 4) AS hist_break_bias,
  rounded(sd_of(break_rows, break_bias, break_squares) / 1e8, 4) AS hist_break_consistency,
  rounded(mean_of(place_200m, place_200m_rows), 2) AS avg_pos_200m,
  rounded(mean_of(split_400m, split_400m_rows) / 1000, 3) AS avg_sectional_400m,
  rounded(mean_of(split_800m, split_800m_rows) / 1000, 3) AS avg_sectional_800m,
  rounded(mean_of(elapsed_800m, elapsed_800m_rows) / 1000, 3) AS avg_cumulative_800m,
  rounded(sd_of(split_400m_rows, split_400m, split_400m_squares) / 1000, 3) AS sectional_time_consistency,
  rounded(mean_of(slowed, slowed_rows) / 1000, 3) AS early_vs_mid_pace_change,
  rounded(mean_of(ahead_of_field, split_400m_rows) / exact_fraction(1) / 1000, 4) AS historical_speed_vs_field
FROM sums;

CREATE OR REPLACE TABLE sectional_pattern_features AS
SELECT
  runner_id,
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
  frac(t.front_long_runs, t.long_runs) AS staying_leader_rate,
  m.hist_margin_400m_avg,
  m.hist_margin_800m_avg,
  m.hist_margin_gain_800_to_400,
  m.hist_deceleration_ratio,
  m.hist_break_bias,
  m.hist_break_consistency
FROM horse_sectional_totals AS t
LEFT JOIN horse_sectional_means AS m USING (runner_id);
