-- engine: postgres
-- grain: one row per horse, jockey, trainer, horse and jockey, jockey and trainer, as of today
-- reads: races, race_results, race_results_sectional_times, horse_elo_ratings, horses
-- writes: horse_current_form, jockey_current_form, trainer_current_form, jockey_horse_connection_stats, jockey_trainer_connection_stats
-- why: the live application shows the form of today. These are not the training features: keys ignore the location, the
--      running style is absolute and an unrated horse has 1500, so a model must not be served from them.

DROP MATERIALIZED VIEW IF EXISTS horse_current_form;
DROP MATERIALIZED VIEW IF EXISTS jockey_current_form;
DROP MATERIALIZED VIEW IF EXISTS trainer_current_form;
DROP MATERIALIZED VIEW IF EXISTS jockey_horse_connection_stats;
DROP MATERIALIZED VIEW IF EXISTS jockey_trainer_connection_stats;

-- Newest run first. The sectional columns use the last ten runs only.
CREATE MATERIALIZED VIEW horse_current_form AS
WITH runs AS (
  SELECT
    r.horse_slug,
    r.race_id,
    CAST(substring(regexp_replace(r.horse_number, '[eE][+]?[0-9]*$', '') FROM '[0-9]{1,6}') AS integer) AS horse_number,
    CAST(r.position AS integer) AS place,
    CASE WHEN r.position_800m < 50 THEN CAST(r.position_800m AS integer) END AS early,
    CASE WHEN r.position_400m < 50 THEN CAST(r.position_400m AS integer) END AS late,
    c.race_date,
    row_number() OVER (PARTITION BY r.horse_slug ORDER BY c.race_date DESC, c.race_number DESC NULLS LAST, r.race_id DESC, r.id DESC) AS recency
  FROM race_results AS r
  JOIN races AS c USING (race_id)
  WHERE r.position IS NOT NULL AND r.position < 50 AND r.horse_slug IS NOT NULL
),
career AS (
  SELECT
    horse_slug,
    count(*) AS total_races,
    count(*) FILTER (WHERE place = 1) AS wins,
    count(*) FILTER (WHERE place <= 3) AS places,
    max(race_date) AS last_race_date,
    count(*) FILTER (WHERE race_date >= CURRENT_DATE - 60) AS runs_last_60_days,
    count(*) FILTER (WHERE race_date >= CURRENT_DATE - 90) AS runs_last_90_days
  FROM runs
  GROUP BY horse_slug
),
form AS (
  SELECT
    horse_slug,
    round(avg(CASE WHEN place = 1 THEN 1 ELSE 0 END), 4) AS last_5_win_rate,
    round(avg(CASE WHEN place <= 3 THEN 1 ELSE 0 END), 4) AS last_5_place_rate,
    round(avg(place), 2) AS last_5_avg_position,
    round(sum(CASE WHEN place <= 3 THEN 6 - recency ELSE 0 END) / 15, 4) AS form_momentum
  FROM runs
  WHERE recency <= 5
  GROUP BY horse_slug
),
sectionals AS (
  SELECT
    s.race_id,
    s.horse_number,
    avg(extract(epoch FROM s.sectional_400m)) AS split_400m,
    avg(extract(epoch FROM s.sectional_800m)) AS split_800m,
    avg(extract(epoch FROM s.cumulative_800m)) AS elapsed_800m,
    min(CASE WHEN s.position_200m < 50 THEN s.position_200m END) AS place_200m,
    min(CASE WHEN s.position_400m < 50 THEN s.position_400m END) AS place_400m
  FROM race_results_sectional_times AS s
  WHERE s.horse_number IS NOT NULL
  GROUP BY s.race_id, s.horse_number
),
fields AS (
  SELECT race_id, avg(split_400m) AS split_400m FROM sectionals GROUP BY race_id
),
last_ten AS (
  SELECT
    r.horse_slug,
    r.place,
    r.early,
    r.late,
    s.place_200m,
    s.place_400m,
    s.split_400m,
    s.split_800m,
    s.elapsed_800m,
    f.split_400m AS field_split_400m
  FROM runs AS r
  LEFT JOIN sectionals AS s USING (race_id, horse_number)
  LEFT JOIN fields AS f USING (race_id)
  WHERE r.recency <= 10
),
running AS (
  SELECT
    horse_slug,
    avg(early) AS early_place,
    avg(early - place) AS early_gain,
    round(avg(early), 2) AS avg_early_position_800m,
    round(avg(late), 2) AS avg_pos_400m,
    round(avg(coalesce(early, 0) - place) FILTER (WHERE late IS NOT NULL), 2) AS avg_late_surge,
    round(avg(place_200m), 2) AS avg_pos_200m,
    round(avg(CASE WHEN place_400m <= 3 THEN 1 ELSE 0 END) FILTER (WHERE place_400m IS NOT NULL), 4) AS early_speed_pct,
    round(avg(CASE WHEN early - place >= 3 THEN 1 ELSE 0 END) FILTER (WHERE early IS NOT NULL), 4) AS strong_finish_pct,
    round(stddev_samp(early), 2) AS pos_volatility_800,
    round(stddev_samp(early - place), 4) AS finishing_kick_consistency,
    round(avg(split_400m), 3) AS avg_sectional_400m,
    round(avg(split_800m), 3) AS avg_sectional_800m,
    round(avg(elapsed_800m), 3) AS avg_cumulative_800m,
    round(stddev_samp(split_400m), 3) AS sectional_time_consistency,
    round(avg(split_800m - split_400m), 3) AS early_vs_mid_pace_change,
    round(avg(field_split_400m - split_400m), 4) AS historical_speed_vs_field
  FROM last_ten
  GROUP BY horse_slug
),
ratings AS (
  SELECT DISTINCT ON (horse_slug) horse_slug, elo_after
  FROM horse_elo_ratings
  ORDER BY horse_slug, race_date DESC, id DESC
)
SELECT
  c.horse_slug,
  f.last_5_win_rate,
  f.last_5_place_rate,
  f.last_5_avg_position,
  f.form_momentum,
  c.last_race_date,
  CURRENT_DATE - c.last_race_date AS days_since_last_race,
  c.total_races,
  c.wins,
  c.places,
  round(100.0 * c.wins / c.total_races, 2) AS win_percentage,
  round(100.0 * c.places / c.total_races, 2) AS place_percentage,
  round(1.0 * c.places / c.total_races, 4) AS consistency_score,
  c.runs_last_60_days,
  c.runs_last_90_days,
  CASE WHEN c.runs_last_90_days > 1 THEN 90 / c.runs_last_90_days END AS avg_days_between_runs,
  coalesce(e.elo_after, 1500) AS current_elo,
  CASE
    WHEN r.early_place IS NULL THEN 'unknown'
    WHEN r.early_place <= 2 THEN 'leader'
    WHEN r.early_place <= 4 THEN 'on_pace'
    WHEN r.early_place <= 7 THEN 'midfield'
    ELSE 'closer'
  END AS running_style,
  r.avg_early_position_800m,
  r.avg_pos_400m,
  r.avg_late_surge,
  coalesce(round(least(1, greatest(0, 1 - r.early_place / 10)), 4), 0.5) AS early_speed_score,
  coalesce(round(least(1, greatest(0, 0.5 + r.early_gain / 10)), 4), 0.5) AS closing_ability_score,
  r.avg_pos_200m,
  r.early_speed_pct,
  r.strong_finish_pct,
  r.pos_volatility_800,
  r.finishing_kick_consistency,
  r.avg_sectional_400m,
  r.avg_sectional_800m,
  r.avg_cumulative_800m,
  r.sectional_time_consistency,
  r.early_vs_mid_pace_change,
  r.historical_speed_vs_field
FROM career AS c
JOIN form AS f USING (horse_slug)
JOIN running AS r USING (horse_slug)
LEFT JOIN ratings AS e USING (horse_slug);

CREATE UNIQUE INDEX horse_current_form_key ON horse_current_form (horse_slug);

CREATE MATERIALIZED VIEW jockey_current_form AS
WITH rides AS (
  SELECT
    r.jockey_slug,
    CAST(r.position AS integer) AS place,
    c.race_date,
    row_number() OVER (PARTITION BY r.jockey_slug ORDER BY c.race_date DESC, c.race_number DESC NULLS LAST, r.race_id DESC, r.id DESC) AS recency
  FROM race_results AS r
  JOIN races AS c USING (race_id)
  WHERE r.position IS NOT NULL AND r.position < 50 AND r.jockey_slug IS NOT NULL
)
SELECT
  jockey_slug,
  count(*) AS total_rides,
  count(*) FILTER (WHERE place = 1) AS wins,
  count(*) FILTER (WHERE place <= 3) AS places,
  100.0 * count(*) FILTER (WHERE place = 1) / count(*) AS win_percentage,
  100.0 * count(*) FILTER (WHERE place <= 3) / count(*) AS place_percentage,
  round(avg(place) FILTER (WHERE recency <= 20), 2) AS avg_position_20,
  round(avg(place) FILTER (WHERE recency <= 50), 2) AS avg_position_50,
  round(avg(CASE WHEN place = 1 THEN 1 ELSE 0 END) FILTER (WHERE recency <= 20), 4) AS last_20_win_rate,
  round(avg(CASE WHEN place = 1 THEN 1 ELSE 0 END) FILTER (WHERE recency <= 50), 4) AS last_50_win_rate,
  CURRENT_DATE - max(race_date) AS days_since_last_ride
FROM rides
GROUP BY jockey_slug;

CREATE UNIQUE INDEX jockey_current_form_key ON jockey_current_form (jockey_slug);

CREATE MATERIALIZED VIEW trainer_current_form AS
WITH runners AS (
  SELECT
    r.trainer_slug,
    CAST(r.position AS integer) AS place,
    c.race_date,
    row_number() OVER (PARTITION BY r.trainer_slug ORDER BY c.race_date DESC, c.race_number DESC NULLS LAST, r.race_id DESC, r.id DESC) AS recency
  FROM race_results AS r
  JOIN races AS c USING (race_id)
  WHERE r.position IS NOT NULL AND r.position < 50 AND r.trainer_slug IS NOT NULL
)
SELECT
  trainer_slug,
  count(*) AS total_runners,
  count(*) FILTER (WHERE place = 1) AS wins,
  count(*) FILTER (WHERE place <= 3) AS places,
  100.0 * count(*) FILTER (WHERE place = 1) / count(*) AS win_percentage,
  100.0 * count(*) FILTER (WHERE place <= 3) / count(*) AS place_percentage,
  round(avg(place) FILTER (WHERE recency <= 50), 2) AS avg_position_50,
  round(avg(place) FILTER (WHERE recency <= 100), 2) AS avg_position_100,
  round(avg(CASE WHEN place = 1 THEN 1 ELSE 0 END) FILTER (WHERE recency <= 50), 4) AS last_50_win_rate,
  round(avg(CASE WHEN place = 1 THEN 1 ELSE 0 END) FILTER (WHERE recency <= 100), 4) AS last_100_win_rate,
  CURRENT_DATE - max(race_date) AS days_since_last_runner
FROM runners
GROUP BY trainer_slug;

CREATE UNIQUE INDEX trainer_current_form_key ON trainer_current_form (trainer_slug);

CREATE MATERIALIZED VIEW jockey_horse_connection_stats AS
SELECT
  r.horse_slug,
  r.jockey_slug,
  count(*) AS connection_races,
  count(*) FILTER (WHERE r.position = 1) AS connection_wins,
  count(*) FILTER (WHERE r.position <= 3) AS connection_places,
  round(1.0 * count(*) FILTER (WHERE r.position = 1) / count(*), 4) AS connection_win_rate,
  round(1.0 * count(*) FILTER (WHERE r.position <= 3) / count(*), 4) AS connection_place_rate,
  max(c.race_date) AS last_ride_together,
  count(*) >= 3 AND count(*) FILTER (WHERE r.position = 1) * 5 > count(*) AS strong_connection
FROM race_results AS r
JOIN races AS c USING (race_id)
WHERE r.position IS NOT NULL AND r.position < 50 AND r.horse_slug IS NOT NULL AND r.jockey_slug IS NOT NULL
GROUP BY r.horse_slug, r.jockey_slug;

CREATE UNIQUE INDEX jockey_horse_connection_stats_key ON jockey_horse_connection_stats (horse_slug, jockey_slug);

CREATE MATERIALIZED VIEW jockey_trainer_connection_stats AS
SELECT
  r.jockey_slug,
  r.trainer_slug,
  count(*) AS connection_races,
  count(*) FILTER (WHERE r.position = 1) AS connection_wins,
  count(*) FILTER (WHERE r.position <= 3) AS connection_places,
  round(1.0 * count(*) FILTER (WHERE r.position = 1) / count(*), 4) AS connection_win_rate,
  round(1.0 * count(*) FILTER (WHERE r.position <= 3) / count(*), 4) AS connection_place_rate,
  max(c.race_date) AS last_ride_together,
  count(*) >= 5 AND count(*) FILTER (WHERE r.position = 1) * 100 > count(*) * 15 AS strong_connection
FROM race_results AS r
JOIN races AS c USING (race_id)
WHERE r.position IS NOT NULL AND r.position < 50 AND r.jockey_slug IS NOT NULL AND r.trainer_slug IS NOT NULL
GROUP BY r.jockey_slug, r.trainer_slug;

CREATE UNIQUE INDEX jockey_trainer_connection_stats_key ON jockey_trainer_connection_stats (jockey_slug, trainer_slug);

-- Each view is refreshed without locking its readers out, which the unique indexes make possible.
CREATE OR REPLACE FUNCTION refresh_horse_current_form() RETURNS void LANGUAGE sql
  AS 'REFRESH MATERIALIZED VIEW CONCURRENTLY horse_current_form';

CREATE OR REPLACE FUNCTION refresh_jockey_current_form() RETURNS void LANGUAGE sql
  AS 'REFRESH MATERIALIZED VIEW CONCURRENTLY jockey_current_form';

CREATE OR REPLACE FUNCTION refresh_trainer_current_form() RETURNS void LANGUAGE sql
  AS 'REFRESH MATERIALIZED VIEW CONCURRENTLY trainer_current_form';

CREATE OR REPLACE FUNCTION refresh_jockey_horse_connection_stats() RETURNS void LANGUAGE sql
  AS 'REFRESH MATERIALIZED VIEW CONCURRENTLY jockey_horse_connection_stats';

CREATE OR REPLACE FUNCTION refresh_jockey_trainer_connection_stats() RETURNS void LANGUAGE sql
  AS 'REFRESH MATERIALIZED VIEW CONCURRENTLY jockey_trainer_connection_stats';

-- Horses that have run and are not listed yet get an entry, named after the slug.
CREATE OR REPLACE FUNCTION sync_horses() RETURNS bigint LANGUAGE sql AS '
  WITH inserted AS (
    INSERT INTO horses (horse_name, horse_slug, total_races, wins, places, last_race_date, win_percentage, place_percentage)
    SELECT
      initcap(replace(f.horse_slug, ''-'', '' '')),
      f.horse_slug,
      f.total_races,
      f.wins,
      f.places,
      f.last_race_date,
      least(100, round(f.win_percentage)),
      least(100, round(f.place_percentage))
    FROM horse_current_form AS f
    WHERE NOT EXISTS (SELECT FROM horses AS h WHERE h.horse_slug = f.horse_slug)
    ON CONFLICT DO NOTHING
    RETURNING 1
  )
  SELECT count(*) FROM inserted';
