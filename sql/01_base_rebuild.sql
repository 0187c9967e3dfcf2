-- grain: cleaned_races and race_conditions one row per race, horse_ids one per horse_slug, jockeys and trainers one per name and slug, runners one per race and horse, horse_starts one per start in a career
-- reads: races, race_results, tracks
-- writes: cleaned_races, race_conditions, horse_ids, jockeys, trainers, runners, horse_starts
-- key: cleaned_races (race_id), runners (runner_id)
-- why: every later phase reads these cleaned sources, so duplicates, wrong locations and position codes are
--      settled once. Integer keys make the history windows cheap.

-- One row per race. The location follows the name as it was filed, everything else the standardised name.
CREATE OR REPLACE TABLE cleaned_races AS
WITH named AS (
  SELECT
    race_id,
    race_date,
    CAST(race_number AS INTEGER) AS race_number,
    track_name AS raw_track_name,
    CASE
      WHEN track_name IS NULL THEN 'Unknown'
      WHEN lower(track_name) LIKE '%randwick%' THEN 'Randwick'
      WHEN lower(track_name) LIKE '%moonee valley%' THEN 'Moonee Valley'
      WHEN lower(track_name) LIKE '%flemington%racecourse%' THEN 'Flemington'
      WHEN lower(track_name) LIKE '%caulfield%racecourse%' THEN 'Caulfield'
      ELSE track_name
    END AS track_name,
    CAST(race_distance AS INTEGER) AS race_distance,
    race_class,
    lower(race_class) AS class_text,
    track_condition,
    track_weather,
    race_weather,
    track_info,
    finite_number(total_prize_money) AS total_prize_money
  FROM races
),
placed AS (
  SELECT
    named.*,
    coalesce(filed.location, 'AU') AS location,
    coalesce(venue.direction, 'anticlockwise') AS track_direction,
    coalesce(venue.category, 'Country') AS track_category,
    CASE WHEN lower(named.track_name) LIKE '%synthetic%' THEN 'Synthetic' ELSE coalesce(venue.type, 'Turf') END AS track_type,
    coalesce(filed.is_metro_venue, 'false') = 'true' AS is_metro_venue
  FROM named
  LEFT JOIN tracks AS filed ON lower(filed.track_name) = lower(named.raw_track_name)
  LEFT JOIN tracks AS venue ON lower(venue.track_name) = lower(named.track_name)
)
SELECT
  CAST(row_number() OVER (ORDER BY race_date, race_number, race_id) AS INTEGER) AS race_key,
  day_number(race_date) AS day_key,
  -- Races of one meeting see each other by race number. A race without a number is a meeting of its own.
  CAST(dense_rank() OVER (
    ORDER BY race_date, track_name, location, CASE WHEN race_number IS NULL THEN race_id END
  ) AS INTEGER) AS meeting_key,
  coalesce(race_number, 0) AS race_order,
  CAST(dense_rank() OVER (ORDER BY track_name) AS INTEGER) AS track_key,
  CAST(dense_rank() OVER (ORDER BY location) AS INTEGER) AS location_key,
  placed.* EXCLUDE (class_text),
  class_text LIKE '%maiden%' OR class_text LIKE '%mdn%' AS is_maiden_race,
  coalesce(
    class_text LIKE '%handicap%'
    OR class_text LIKE '%hcp%'
    OR (matches(class_text, '^class [0-9]') AND class_text NOT LIKE '%set weights%' AND class_text NOT LIKE '%sw%')
    OR matches(class_text, 'bm[0-9]|0 - [0-9]|rest\. [0-9]'), false
  ) AS is_handicap_race,
  CASE
    WHEN matches(class_text, '2[ -]?y(ear)?[ -]?o(ld)?') THEN '2yo'
    WHEN matches(class_text, '3[ -]?y(ear)?[ -]?o(ld)?') THEN '3yo'
    ELSE 'open'
  END AS age_restriction,
  CASE
    WHEN class_text LIKE '%fillies%' AND class_text LIKE '%mares%' THEN 'fillies_mares'
    WHEN class_text LIKE '%fillies%' THEN 'fillies'
    WHEN class_text LIKE '%mares%' THEN 'mares'
    ELSE 'open'
  END AS sex_restriction,
  CASE
    WHEN race_distance < 1200 THEN 'sprint'
    WHEN race_distance < 1600 THEN 'mile'
    WHEN race_distance < 2000 THEN 'middle'
    ELSE 'staying'
  END AS distance_range
FROM placed
ORDER BY race_key;

-- What the source says about going, weather and rail, as numbers.
CREATE OR REPLACE TABLE race_conditions AS
WITH worded AS (
  SELECT
    race_key,
    race_date,
    location,
    race_distance,
    distance_range,
    track_category,
    is_metro_venue,
    raw_track_name,
    track_condition,
    race_weather,
    lower(track_condition) AS going,
    matches(lower(track_info), '^rail - true') AS leads_with_true,
    TRY_CAST(captured(lower(track_info), '(?:\bout\b|\+)[^0-9]*([0-9]+(?:\.[0-9]+)?)') AS DOUBLE) AS metres_out
  FROM cleaned_races
),
grouped AS (
  SELECT
    *,
    CASE
      WHEN going IS NULL THEN NULL
      WHEN matches(going, '^soft') THEN 'soft'
      WHEN matches(going, '^heavy') THEN 'heavy'
      WHEN matches(going, '^(synthetic|all weather)') THEN 'synthetic'
      ELSE 'good'
    END AS going_group
  FROM worded
)
SELECT
  race_key,
  race_date,
  CASE
    WHEN going IS NULL THEN NULL
    WHEN matches(going, '^(firm|good 1|good 2)') THEN 1
    WHEN matches(going, '^(good 3|good 4)') THEN 3
    WHEN matches(going, '^good') THEN 2
    WHEN matches(going, '^(soft 5|soft 6|yielding)') THEN 4
    WHEN matches(going, '^(soft|wet)') THEN 5
    WHEN matches(going, '^heavy 8') THEN 6
    WHEN matches(going, '^heavy') THEN 7
    ELSE 3
  END AS track_condition_numeric,
  going_group,
  -- Text that leads with True means the true rail, whatever follows.
  CASE WHEN leads_with_true THEN CAST(0 AS DOUBLE) ELSE metres_out END AS rail_out_metres,
  CASE WHEN leads_with_true THEN CAST(1 AS DOUBLE) WHEN metres_out IS NOT NULL THEN CAST(0 AS DOUBLE) END AS is_rail_true,
  CAST(coalesce(lower(race_weather) LIKE '%rain%', false) AS INTEGER) AS is_wet_weather,
  CASE location
    WHEN 'HK' THEN
      CASE extract(month FROM race_date)
        WHEN 1 THEN 17 WHEN 2 THEN 17 WHEN 3 THEN 20 WHEN 4 THEN 24 WHEN 5 THEN 27 WHEN 6 THEN 29
        WHEN 7 THEN 31 WHEN 8 THEN 31 WHEN 9 THEN 29 WHEN 10 THEN 26 WHEN 11 THEN 22 ELSE 18
      END
    WHEN 'AU' THEN
      CASE extract(month FROM race_date)
        WHEN 1 THEN 28 WHEN 2 THEN 27 WHEN 3 THEN 24 WHEN 4 THEN 20 WHEN 5 THEN 16 WHEN 6 THEN 13
        WHEN 7 THEN 12 WHEN 8 THEN 14 WHEN 9 THEN 17 WHEN 10 THEN 20 WHEN 11 THEN 23 ELSE 26
      END
    ELSE 20
  END AS estimated_temperature,
  -- Keys of their own where the source says nothing: what is not known equals nothing.
  CAST(CASE WHEN track_condition IS NULL THEN -race_key ELSE dense_rank() OVER (ORDER BY track_condition) END AS INTEGER)
    AS track_condition_key,
  CAST(CASE WHEN raw_track_name IS NULL THEN -race_key ELSE dense_rank() OVER (ORDER BY raw_track_name) END AS INTEGER)
    AS raw_track_key,
  CAST(CASE WHEN race_distance IS NULL THEN -race_key ELSE floor(race_distance / 200.0) END AS INTEGER) AS distance_bucket,
  CAST(dense_rank() OVER (ORDER BY distance_range) AS INTEGER) AS distance_range_key,
  CAST(dense_rank() OVER (ORDER BY track_category) AS INTEGER) AS category_key,
  CASE WHEN going_group IS NOT NULL THEN CAST(dense_rank() OVER (ORDER BY going_group) AS INTEGER) END AS going_group_key,
  is_metro_venue
FROM grouped
ORDER BY race_key;

CREATE OR REPLACE TABLE horse_ids AS
SELECT horse_slug, CAST(row_number() OVER (ORDER BY horse_slug) AS INTEGER) AS horse_id
FROM (SELECT DISTINCT horse_slug FROM race_results WHERE horse_slug IS NOT NULL);

-- Names and slugs as they were filed. The id follows the slug, however the name is spelled: no slug, no id.
CREATE OR REPLACE TABLE jockeys AS
SELECT
  CAST(row_number() OVER (ORDER BY jockey_slug, jockey) AS INTEGER) AS jockey_name_id,
  CASE WHEN jockey_slug IS NOT NULL THEN CAST(dense_rank() OVER (ORDER BY jockey_slug NULLS LAST) AS INTEGER) END AS jockey_id,
  jockey,
  jockey_slug
FROM (SELECT DISTINCT jockey, jockey_slug FROM race_results);

CREATE OR REPLACE TABLE trainers AS
SELECT
  CAST(row_number() OVER (ORDER BY trainer_slug, trainer) AS INTEGER) AS trainer_name_id,
  CASE WHEN trainer_slug IS NOT NULL THEN CAST(dense_rank() OVER (ORDER BY trainer_slug NULLS LAST) AS INTEGER) END AS trainer_id,
  trainer,
  trainer_slug
FROM (SELECT DISTINCT trainer, trainer_slug FROM race_results);

-- One row per race and horse, in race order. Two kinds of columns serve the history windows:
--   keys: `horse_key`, `jockey_key`, `trainer_key` are aware of the location, `horse_id`, `jockey_id`, `trainer_id` are
--         not. A runner without a jockey gets a key nobody shares, so it has no history. Likewise the trainer.
--   outcomes: `finished`, `won`, `placed` are 0 or 1 and 0 for everyone who did not finish, so that a sum over earlier
--         rows is a count over earlier finishers.
-- Texts that repeat stand in tables of their own: `jockey_name_id` and `trainer_name_id` find them. `barrier_group` is the
-- third of the field that the barrier is in, from the inner one, 1, to the outer one, 3, or 4 if there is no field.
-- `is_starter` marks the field of the race: who ran, or who is declared while the race has no result.
-- `in_dataset` marks the finishers, and on request the declared runners of a race to come: `with_upcoming()` comes
-- from the runner.
CREATE OR REPLACE TABLE runners AS
WITH entries AS (
  -- A finish beats a code, a code beats no position, then the lowest id counts.
  SELECT
    r.id,
    r.position,
    coalesce(upper(r.finish_status), '') <> 'SCRATCHED' AS is_declared,
    c.race_key,
    h.horse_id
  FROM race_results AS r
  JOIN cleaned_races AS c USING (race_id)
  JOIN horse_ids AS h USING (horse_slug)
  QUALIFY row_number() OVER (
    PARTITION BY c.race_key, h.horse_id
    ORDER BY CASE WHEN r.position < 50 THEN 0 WHEN r.position >= 50 THEN 1 ELSE 2 END, r.id
  ) = 1
),
fields AS (
  SELECT
    race_key,
    count(position) > 0 AS has_result,
    CAST(CASE WHEN count(position) > 0 THEN count(position) ELSE count(*) FILTER (WHERE is_declared) END AS INTEGER)
      AS total_runners
  FROM entries
  GROUP BY race_key
),
starters AS (
  SELECT
    e.id,
    e.race_key,
    e.horse_id,
    CAST(row_number() OVER (ORDER BY e.race_key, e.horse_id) AS INTEGER) AS runner_number,
    CASE WHEN f.has_result THEN e.position IS NOT NULL ELSE e.is_declared END AS is_starter,
    CASE WHEN f.has_result THEN coalesce(e.position < 50, false) ELSE with_upcoming() AND e.is_declared END AS in_dataset,
    f.total_runners
  FROM entries AS e
  JOIN fields AS f USING (race_key)
),
-- `13e` is saddle cloth 13 after number formatting, not 13 times a power of ten.
horse_numbers AS (
  SELECT
    horse_number,
    TRY_CAST(captured(regexp_replace(horse_number, '[eE][+]?[0-9]*$', ''), '([0-9]+)') AS INTEGER) AS saddle_cloth
  FROM (SELECT DISTINCT horse_number FROM race_results)
),
keyed AS (
  SELECT
    s.*,
    j.jockey_name_id,
    t.trainer_name_id,
    coalesce(j.jockey_id, -s.runner_number) AS jockey_id,
    coalesce(t.trainer_id, -s.runner_number) AS trainer_id,
    r.* EXCLUDE (id)
  FROM race_results AS r
  JOIN starters AS s USING (id)
  JOIN jockeys AS j ON (j.jockey IS NOT DISTINCT FROM r.jockey) AND (j.jockey_slug IS NOT DISTINCT FROM r.jockey_slug)
  JOIN trainers AS t ON (t.trainer IS NOT DISTINCT FROM r.trainer) AND (t.trainer_slug IS NOT DISTINCT FROM r.trainer_slug)
)
SELECT
  k.runner_number AS runner_id,
  k.race_key,
  k.race_id,
  c.race_date,
  k.horse_slug,
  c.day_key,
  c.meeting_key,
  c.race_order,
  c.track_key,
  c.location_key,
  k.horse_id,
  CAST(k.jockey_id AS INTEGER) AS jockey_id,
  CAST(k.trainer_id AS INTEGER) AS trainer_id,
  CAST(k.horse_id * 100 + c.location_key AS INTEGER) AS horse_key,
  CAST(k.jockey_id * 100 + c.location_key AS INTEGER) AS jockey_key,
  CAST(k.trainer_id * 100 + c.location_key AS INTEGER) AS trainer_key,
  k.is_starter,
  k.in_dataset,
  CAST(coalesce(k.position < 50, false) AS INTEGER) AS finished,
  CAST(coalesce(k.position = 1, false) AS INTEGER) AS won,
  CAST(coalesce(k.position <= 3, false) AS INTEGER) AS placed,
  CASE WHEN k.position < 50 THEN CAST(k.position AS INTEGER) END AS final_position,
  CAST(k.position AS INTEGER) AS position_or_code,
  replace(k.horse_name, 'E+', 'E') AS horse_name,
  n.saddle_cloth AS horse_number,
  CAST(k.barrier AS INTEGER) AS barrier,
  finite_number(k.original_weight) AS weight,
  k.jockey_name_id,
  k.trainer_name_id,
  finite_number(k.win_odds) AS win_odds,
  finite_number(k.margin) AS margin,
  CAST(k.position_800m AS INTEGER) AS reported_position_800m,
  CAST(k.position_400m AS INTEGER) AS reported_position_400m,
  k.total_runners,
  CASE
    WHEN k.barrier IS NULL THEN NULL
    WHEN k.total_runners = 0 THEN 4
    WHEN k.barrier * 100 <= k.total_runners * 33 THEN 1
    WHEN k.barrier * 100 <= k.total_runners * 66 THEN 2
    ELSE 3
  END AS barrier_group
FROM keyed AS k
JOIN cleaned_races AS c USING (race_key)
LEFT JOIN horse_numbers AS n USING (horse_number)
ORDER BY runner_id;

-- The starts of every horse, arranged so that one plain window gives what was known before each: in a career the rows
-- before the row of a start are exactly the runs that count for it. Where a horse starts once a day that is its own order
-- of races. A start on a day with several (two meetings do not see each other) gets a career of its own, made of
-- the earlier days, the lower race numbers at the same meeting, and the start itself as the last row.
-- `is_subject` marks the row whose history the career tells, `is_same_day` the runs on the subject's own day.
-- `career_id` is the horse wherever it ran, `career_key` the horse in the location.
CREATE OR REPLACE TABLE horse_starts AS
WITH starts AS (
  SELECT *, count(*) OVER (PARTITION BY horse_id, day_key) > 1 AS starts_again
  FROM runners
  WHERE is_starter
),
careers AS (
  SELECT horse_id AS career_id, NOT starts_again AS is_subject, 0 AS is_same_day, starts.*
  FROM starts
  UNION ALL
  SELECT -s.runner_id, e.runner_id = s.runner_id, CAST(e.day_key = s.day_key AS INTEGER), e.*
  FROM starts AS s
  JOIN starts AS e ON e.horse_id = s.horse_id
  WHERE s.starts_again
    AND (
      e.day_key < s.day_key
      OR (e.meeting_key = s.meeting_key AND e.race_order < s.race_order)
      OR e.runner_id = s.runner_id
    )
)
SELECT
  r.career_id,
  CAST(r.career_id * 100 + r.location_key AS INTEGER) AS career_key,
  r.is_subject,
  r.is_same_day,
  r.runner_id,
  r.race_date,
  r.race_key,
  r.day_key,
  r.track_key,
  r.location_key,
  r.horse_id,
  r.horse_key,
  r.jockey_id,
  r.barrier_group,
  r.total_runners,
  r.finished,
  r.won,
  r.placed,
  r.final_position,
  r.position_or_code,
  r.weight,
  g.distance_range_key,
  g.category_key,
  g.going_group_key
FROM careers AS r
JOIN race_conditions AS g USING (race_key);
