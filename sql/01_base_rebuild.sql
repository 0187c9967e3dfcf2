-- grain: cleaned_races one row per race, horse_ids one per horse_slug, runners one per race and horse
-- reads: races, race_results, tracks
-- writes: cleaned_races, horse_ids, runners
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
FROM placed;

CREATE OR REPLACE TABLE horse_ids AS
SELECT horse_slug, CAST(row_number() OVER (ORDER BY horse_slug) AS INTEGER) AS horse_id
FROM (SELECT DISTINCT horse_slug FROM race_results WHERE horse_slug IS NOT NULL);

-- One row per race and horse, in race order. Two kinds of columns serve the history windows:
--   keys: `horse_key`, `jockey_key`, `trainer_key` are aware of the location, `horse_id`, `jockey_id`, `trainer_id` are
--         not. A runner without a jockey gets a key nobody shares, so it has no history. Likewise the trainer.
--   outcomes: `finished`, `won`, `placed` are 0 or 1 and 0 for everyone who did not finish, so that a sum over earlier
--         rows is a count over earlier finishers.
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
    row_number() OVER (ORDER BY e.race_key, e.horse_id) AS runner_number,
    CASE WHEN f.has_result THEN e.position IS NOT NULL ELSE e.is_declared END AS is_starter,
    CASE WHEN f.has_result THEN coalesce(e.position < 50, false) ELSE with_upcoming() AND e.is_declared END AS in_dataset,
    f.total_runners
  FROM entries AS e
  JOIN fields AS f USING (race_key)
),
jockey_ids AS (
  SELECT jockey_slug, row_number() OVER (ORDER BY jockey_slug) AS jockey_number
  FROM (SELECT DISTINCT jockey_slug FROM race_results WHERE jockey_slug IS NOT NULL)
),
trainer_ids AS (
  SELECT trainer_slug, row_number() OVER (ORDER BY trainer_slug) AS trainer_number
  FROM (SELECT DISTINCT trainer_slug FROM race_results WHERE trainer_slug IS NOT NULL)
),
keyed AS (
  SELECT
    s.*,
    coalesce(j.jockey_number, -s.runner_number) AS jockey_id,
    coalesce(t.trainer_number, -s.runner_number) AS trainer_id,
    r.* EXCLUDE (id)
  FROM race_results AS r
  JOIN starters AS s USING (id)
  LEFT JOIN jockey_ids AS j USING (jockey_slug)
  LEFT JOIN trainer_ids AS t USING (trainer_slug)
)
SELECT
  CAST(k.runner_number AS INTEGER) AS runner_id,
  k.race_key,
  k.race_id,
  k.horse_slug,
  c.day_key,
  c.meeting_key,
  c.race_order,
  c.track_key,
  c.location_key,
  c.distance_range,
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
  -- `13e` is saddle cloth 13 after number formatting, not 13 times a power of ten.
  TRY_CAST(captured(regexp_replace(k.horse_number, '[eE][+]?[0-9]*$', ''), '([0-9]+)') AS INTEGER) AS horse_number,
  CAST(k.barrier AS INTEGER) AS barrier,
  finite_number(k.original_weight) AS weight,
  k.jockey,
  k.jockey_slug,
  k.trainer,
  k.trainer_slug,
  finite_number(k.win_odds) AS win_odds,
  finite_number(k.margin) AS margin,
  CAST(k.position_800m AS INTEGER) AS reported_position_800m,
  CAST(k.position_400m AS INTEGER) AS reported_position_400m,
  k.total_runners,
  CASE
    WHEN k.barrier IS NULL THEN NULL
    WHEN k.total_runners = 0 THEN 'unknown'
    WHEN k.barrier * 100 <= k.total_runners * 33 THEN 'inner'
    WHEN k.barrier * 100 <= k.total_runners * 66 THEN 'middle'
    ELSE 'outer'
  END AS barrier_position
FROM keyed AS k
JOIN cleaned_races AS c USING (race_key);
