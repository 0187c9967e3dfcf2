-- grain: sectional_matches one row per runner with a sectional row, checkpoints one per runner with a known place, speed_figures one per timed finish, in_race_facts one per starter
-- reads: race_results_sectional_times, runners, cleaned_races
-- writes: sectional_matches, checkpoints, speed_figures, in_race_facts
-- key: sectional_matches (runner_id), speed_figures (runner_id)
-- why: the sources count checkpoints from the start, the features count them back from the post, and Hong Kong has only
--      every second one. The places are settled here once, before any history reads them. They describe the current
--      race, so no later phase may pass them on except as history, and the time only as a label. What an analyst wants to
--      know of the race itself is in in_race_facts, which no phase reads.

-- The sectional row of each runner: by saddle cloth, because late replacements keep the number, else by name.
CREATE OR REPLACE TABLE sectional_matches AS
WITH sectionals AS (
  SELECT
    row_number() OVER (
      ORDER BY s.race_id, s.horse_number, s.horse_name, s.scraped_at DESC NULLS LAST, s.finish_position, s.finish_time
    ) AS sectional_id,
    c.race_key,
    matching_name(s.horse_name) AS name,
    s.* EXCLUDE (race_id, race_distance)
  FROM race_results_sectional_times AS s
  JOIN cleaned_races AS c USING (race_id)
),
numbered_rows AS (
  SELECT race_key, horse_number, min(sectional_id) AS sectional_id
  FROM sectionals
  WHERE horse_number IS NOT NULL
  GROUP BY race_key, horse_number
),
named_rows AS (
  SELECT race_key, name, min(sectional_id) AS sectional_id
  FROM sectionals
  WHERE name IS NOT NULL
  GROUP BY race_key, name
),
starters AS (
  SELECT
    runner_id,
    race_key,
    race_date,
    -- Two runners with one number: the finisher, then the first in order, keeps it.
    CASE
      WHEN row_number() OVER (PARTITION BY race_key, horse_number ORDER BY finished DESC NULLS LAST, runner_id) = 1 THEN horse_number
    END AS horse_number,
    matching_name(horse_name) AS name
  FROM runners
  WHERE is_starter AND race_key IN (SELECT race_key FROM sectionals)
),
matches AS (
  SELECT r.runner_id, r.race_date, coalesce(by_number.sectional_id, by_name.sectional_id) AS sectional_id
  FROM starters AS r
  LEFT JOIN numbered_rows AS by_number ON by_number.race_key = r.race_key AND by_number.horse_number = r.horse_number
  LEFT JOIN named_rows AS by_name ON by_name.race_key = r.race_key AND by_name.name = r.name
  WHERE by_number.sectional_id IS NOT NULL OR by_name.sectional_id IS NOT NULL
)
SELECT
  m.runner_id,
  m.race_date,
  s.race_key,
  CAST(s.horse_number AS INTEGER) AS horse_number,
  CAST(s.finish_position AS INTEGER) AS finish_position,
  seconds_of(s.finish_time) AS raw_time_seconds,
  seconds_of(s.sectional_400m) AS sectional_400m,
  seconds_of(s.sectional_800m) AS sectional_800m,
  seconds_of(s.cumulative_800m) AS cumulative_800m,
  CASE WHEN s.position_200m < 50 THEN CAST(s.position_200m AS INTEGER) END AS from_start_200m,
  CASE WHEN s.position_400m < 50 THEN CAST(s.position_400m AS INTEGER) END AS from_start_400m,
  CASE WHEN s.position_600m < 50 THEN CAST(s.position_600m AS INTEGER) END AS from_start_600m,
  CASE WHEN s.position_800m < 50 THEN CAST(s.position_800m AS INTEGER) END AS from_start_800m,
  CASE WHEN s.position_1000m < 50 THEN CAST(s.position_1000m AS INTEGER) END AS from_start_1000m,
  CASE WHEN s.position_1200m < 50 THEN CAST(s.position_1200m AS INTEGER) END AS from_start_1200m,
  CASE WHEN s.position_1400m < 50 THEN CAST(s.position_1400m AS INTEGER) END AS from_start_1400m,
  CASE WHEN s.position_1600m < 50 THEN CAST(s.position_1600m AS INTEGER) END AS from_start_1600m,
  CASE WHEN s.position_1800m < 50 THEN CAST(s.position_1800m AS INTEGER) END AS from_start_1800m,
  CASE WHEN s.position_2000m < 50 THEN CAST(s.position_2000m AS INTEGER) END AS from_start_2000m,
  CASE WHEN s.position_2200m < 50 THEN CAST(s.position_2200m AS INTEGER) END AS from_start_2200m,
  CASE WHEN s.position_2400m < 50 THEN CAST(s.position_2400m AS INTEGER) END AS from_start_2400m,
  CASE WHEN s.position_2600m < 50 THEN CAST(s.position_2600m AS INTEGER) END AS from_start_2600m,
  CASE WHEN s.position_2800m < 50 THEN CAST(s.position_2800m AS INTEGER) END AS from_start_2800m
FROM matches AS m
JOIN sectionals AS s USING (sectional_id);

-- Places 800 m and 400 m before the post: the sectional row at the nearest checkpoint, else what the result says, else,
-- in Hong Kong, the nearest checkpoint that exists there.
CREATE OR REPLACE TABLE checkpoints AS
WITH known_places AS (
  SELECT
    runner_id,
    from_start,
    CASE from_start
      WHEN 200 THEN from_start_200m
      WHEN 400 THEN from_start_400m
      WHEN 600 THEN from_start_600m
      WHEN 800 THEN from_start_800m
      WHEN 1000 THEN from_start_1000m
      WHEN 1200 THEN from_start_1200m
      WHEN 1400 THEN from_start_1400m
      WHEN 1600 THEN from_start_1600m
      WHEN 1800 THEN from_start_1800m
      WHEN 2000 THEN from_start_2000m
      WHEN 2200 THEN from_start_2200m
      WHEN 2400 THEN from_start_2400m
      WHEN 2600 THEN from_start_2600m
      WHEN 2800 THEN from_start_2800m
    END AS place
  FROM sectional_matches
  CROSS JOIN (
    VALUES (200), (400), (600), (800), (1000), (1200), (1400), (1600), (1800), (2000), (2200), (2400), (2600), (2800)
  ) AS marks (from_start)
),
wanted AS (
  SELECT
    runner_id,
    reported_position_800m,
    reported_position_400m,
    -- The nearest multiple of 200, half up: 1100 m less 800 m is 300 m, hence 400 m.
    -- Below 1000 m the 800 m post comes before the first checkpoint.
    CASE WHEN race_distance >= 1000 THEN CAST(floor((race_distance - 800 + 100) / 200.0) AS INTEGER) * 200 END AS mark_800m,
    CAST(floor((race_distance - 400 + 100) / 200.0) AS INTEGER) * 200 AS mark_400m,
    CASE WHEN location = 'HK' THEN
      CASE
        WHEN race_distance IN (1000, 1200) THEN 400
        WHEN race_distance IN (1400, 1600, 1650) THEN 800
        WHEN race_distance IN (1800, 2000, 2200) THEN 1200
        WHEN race_distance = 2400 THEN 1600
      END
    END AS hong_kong_mark_800m,
    CASE WHEN location = 'HK' THEN
      CASE
        WHEN race_distance IN (1000, 1200) THEN 800
        WHEN race_distance IN (1400, 1600, 1650) THEN 1200
        WHEN race_distance IN (1800, 2000) THEN 1600
        WHEN race_distance IN (2200, 2400) THEN 2000
      END
    END AS hong_kong_mark_400m
  FROM runners
  JOIN cleaned_races USING (race_key)
  WHERE is_starter
),
candidates AS (
  SELECT
    w.runner_id,
    min(w.reported_position_800m) AS reported_position_800m,
    min(w.reported_position_400m) AS reported_position_400m,
    max(CASE WHEN p.from_start = w.mark_800m THEN p.place END) AS place_800m,
    max(CASE WHEN p.from_start = w.mark_400m THEN p.place END) AS place_400m,
    max(CASE WHEN p.from_start = w.hong_kong_mark_800m THEN p.place END) AS hong_kong_place_800m,
    max(CASE WHEN p.from_start = w.hong_kong_mark_400m THEN p.place END) AS hong_kong_place_400m
  FROM wanted AS w
  LEFT JOIN known_places AS p
    ON p.runner_id = w.runner_id
    AND p.from_start IN (w.mark_800m, w.mark_400m, w.hong_kong_mark_800m, w.hong_kong_mark_400m)
  GROUP BY w.runner_id
),
resolved AS (
  SELECT
    runner_id,
    coalesce(place_800m, CASE WHEN reported_position_800m < 50 THEN reported_position_800m END, hong_kong_place_800m)
      AS position_800m,
    coalesce(place_400m, CASE WHEN reported_position_400m < 50 THEN reported_position_400m END, hong_kong_place_400m)
      AS position_400m
  FROM candidates
)
SELECT runner_id, position_800m, position_400m
FROM resolved
WHERE position_800m IS NOT NULL OR position_400m IS NOT NULL;

-- Speed figure of a run: its time against the top-three times at exactly this distance in races before it, which takes
-- at least ten of them. It is an outcome of the run, so only later runs of the horse get to see it.
CREATE OR REPLACE TABLE speed_figures AS
WITH times AS (
  SELECT
    r.runner_id,
    r.day_key,
    r.meeting_key,
    r.race_order,
    c.race_distance,
    r.finished,
    r.placed,
    thousandths(s.raw_time_seconds) AS ms
  FROM runners AS r
  JOIN cleaned_races AS c USING (race_key)
  JOIN sectional_matches AS s USING (runner_id)
  WHERE c.race_distance IS NOT NULL AND s.raw_time_seconds IS NOT NULL
),
races AS (
  SELECT
    race_distance,
    day_key,
    meeting_key,
    race_order,
    sum(placed) AS times,
    sum(placed * ms) AS ms,
    sum(placed * ms * ms) AS ms_squares
  FROM times
  GROUP BY race_distance, day_key, meeting_key, race_order
),
standards AS (
  SELECT
    race_distance,
    day_key,
    meeting_key,
    race_order,
    coalesce(sum(times) OVER earlier_days, 0) + coalesce(sum(times) OVER earlier_today, 0) AS times,
    coalesce(sum(ms) OVER earlier_days, 0) + coalesce(sum(ms) OVER earlier_today, 0) AS ms,
    coalesce(sum(ms_squares) OVER earlier_days, 0) + coalesce(sum(ms_squares) OVER earlier_today, 0) AS ms_squares
  FROM races
  WINDOW
    earlier_days AS (PARTITION BY race_distance ORDER BY day_key GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    earlier_today AS (
      PARTITION BY race_distance, meeting_key ORDER BY race_order GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
)
SELECT
  t.runner_id,
  CASE
    WHEN s.times >= 10 AND sd_of(s.times, s.ms, s.ms_squares) > 0 THEN
      rounded(100 - 10 * (t.ms - mean_of(s.ms, s.times)) / sd_of(s.times, s.ms, s.ms_squares), 2)
  END AS speed_figure
FROM times AS t
JOIN standards AS s USING (race_distance, day_key, meeting_key, race_order)
WHERE t.finished = 1;

-- What happened in the race: the columns of the catalogue that must not be features. A view, so it costs nothing until
-- somebody reads it. The features count places back from the post, these of the sectional rows from the start.
CREATE OR REPLACE VIEW in_race_facts AS
WITH known AS (
  SELECT
    r.runner_id,
    r.race_id,
    r.horse_slug,
    r.final_position,
    r.total_runners - 1 AS rivals,
    p.position_800m,
    p.position_400m,
    f.speed_figure,
    s.from_start_200m AS sectional_position_200m,
    s.from_start_400m AS sectional_position_400m,
    s.from_start_800m AS sectional_position_800m,
    s.finish_position AS position_at_end,
    coalesce(s.sectional_400m, CAST(0 AS DOUBLE)) AS sectional_400m,
    coalesce(s.sectional_800m, CAST(0 AS DOUBLE)) AS sectional_800m
  FROM runners AS r
  LEFT JOIN checkpoints AS p ON p.runner_id = r.runner_id
  LEFT JOIN speed_figures AS f ON f.runner_id = r.runner_id
  LEFT JOIN sectional_matches AS s ON s.runner_id = r.runner_id
  WHERE r.is_starter
)
SELECT
  * EXCLUDE (rivals),
  position_800m - position_400m AS pos_improvement_800_400,
  position_400m - final_position AS pos_improvement_400_finish,
  position_800m - final_position AS pos_improvement_800_finish,
  coalesce(position_800m - final_position, 0) AS best_late_improvement,
  coalesce(speed_figure, CAST(80 AS DOUBLE)) AS speed_rating,
  sectional_position_800m AS position_at_800,
  sectional_position_400m AS position_at_400,
  sectional_position_800m - sectional_position_400m AS position_change_800_400,
  sectional_position_400m - final_position AS position_change_400_finish,
  CASE WHEN rivals > 0 THEN rounded(1 - CAST(sectional_position_800m - 1 AS DOUBLE) / rivals, 4) END AS early_speed_rating,
  CASE WHEN rivals > 0 THEN rounded(1 - CAST(final_position - 1 AS DOUBLE) / rivals, 4) END AS finish_speed_rating,
  position_400m IS NOT NULL AS has_400m,
  position_800m IS NOT NULL AS has_800m
FROM known;
