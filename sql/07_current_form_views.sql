-- engine: postgres
-- grain: runner_history one row per entry, the others one per horse, jockey and trainer in a location, and per pair
-- reads: races, race_results, race_results_sectional_times, horse_elo_ratings
-- writes: runner_history, horse_current_form, jockey_current_form, trainer_current_form, jockey_horse_connection_stats, jockey_trainer_connection_stats
-- why: the live application shows, and a model is served, the form of today. Wherever a column has a counterpart in the
--      training dataset it is that feature, as a race run today after all results so far would have it: the same keys,
--      limits, windows, rounding and defaults. Horse, jockey and trainer have a row for each location they were entered
--      in, so a runner declared somewhere new has one as well. Who has no row has the values of a debut.

-- Every entry, cleaned once for the views below as phase 1 does (location, duplicates, fields) and phase 5 (places in
-- running). `final_position` is null for those who did not finish, `position_800m` and `position_400m` count back from the
-- post. The columns after them are from the sectional row of the runner, as far as it counts for the features of phase 6,
-- and times are in milliseconds, so that sums are exact.
CREATE MATERIALIZED VIEW runner_history AS
WITH venues AS (
  -- The location goes by the name of the track as it was filed. Every other track is in Australia.
  SELECT location, unnest(track_names) AS track_name
  FROM (
    VALUES
      ('HK', ARRAY['happy valley', 'sha tin']),
      ('UK', ARRAY[
        'aintree', 'cheltenham', 'chester', 'doncaster', 'down royal', 'epsom downs', 'goodwood', 'hamilton', 'haydock',
        'kempton', 'lingfield', 'musselburgh', 'newbury', 'newmarket', 'nottingham', 'plumpton', 'pontefract', 'royal ascot',
        'sandown park', 'sedgefield', 'southwell', 'wolverhampton', 'yarmouth', 'york'
      ]),
      ('IE', ARRAY[
        'cork', 'curragh', 'dundalk', 'fairyhouse', 'galway', 'gowran park', 'killarney', 'leopardstown', 'naas', 'navan',
        'punchestown', 'thurles'
      ]),
      ('FR', ARRAY[
        'bordeaux le bouscat', 'chantilly', 'clairefontaine', 'compiegne', 'deauville', 'fontainebleau', 'lyon-parilly',
        'nantes', 'parislongchamp', 'saint-cloud', 'vichy'
      ]),
      ('JP', ARRAY['chukyo', 'fukushima', 'hanshin', 'kokura', 'kyoto', 'nakayama', 'niigata', 'sapporo', 'tokyo']),
      ('US', ARRAY['churchill downs', 'gulfstream', 'keeneland', 'kentucky downs', 'saratoga', 'tampa bay downs']),
      ('AE', ARRAY['meydan'])
  ) AS countries (location, track_names)
),
cleaned_races AS (
  SELECT
    r.race_id,
    r.race_date,
    CAST(r.race_distance AS integer) AS race_distance,
    coalesce(v.location, 'AU') AS location,
    -- Texts are compared byte by byte throughout, as in the lake. It is also the fastest way.
    CAST(row_number() OVER (ORDER BY r.race_date, r.race_number, r.race_id COLLATE "C") AS integer) AS race_order
  FROM races AS r
  LEFT JOIN venues AS v ON v.track_name = lower(r.track_name)
),
entries AS (
  -- A finish beats a code, a code beats no position, then the lowest id counts.
  SELECT DISTINCT ON (c.race_order, r.horse_slug COLLATE "C")
    c.race_order,
    c.race_id,
    c.race_date,
    c.race_distance,
    c.location,
    r.horse_slug COLLATE "C" AS horse_slug,
    r.jockey_slug COLLATE "C" AS jockey_slug,
    r.trainer_slug COLLATE "C" AS trainer_slug,
    r.horse_number,
    r.horse_name,
    r.position,
    r.position_800m,
    r.position_400m,
    coalesce(upper(r.finish_status), '') <> 'SCRATCHED' AS is_declared
  FROM race_results AS r
  JOIN cleaned_races AS c USING (race_id)
  WHERE r.horse_slug IS NOT NULL
  ORDER BY
    c.race_order,
    r.horse_slug COLLATE "C",
    CASE WHEN r.position < 50 THEN 0 WHEN r.position >= 50 THEN 1 ELSE 2 END,
    r.id
),
fields AS (
  SELECT
    *,
    count(position) OVER race > 0 AS has_result,
    -- Who ran, or who is declared while the race has no result.
    CAST(coalesce(nullif(count(position) OVER race, 0), count(*) FILTER (WHERE is_declared) OVER race) AS integer)
      AS total_runners
  FROM entries
  WINDOW race AS (PARTITION BY race_order)
),
runners AS (
  SELECT *, CASE WHEN has_result THEN position IS NOT NULL ELSE is_declared END AS is_starter
  FROM fields
),
sectionals AS (
  SELECT
    named.*,
    -- One row stands for a saddle cloth, one for a name: usually the latest.
    row_number() OVER (
      PARTITION BY race_order, horse_number
      ORDER BY horse_name COLLATE "C", scraped_at DESC NULLS LAST, finish_position, finish_time
    ) = 1 AS stands_for_number,
    row_number() OVER (
      PARTITION BY race_order, name
      ORDER BY horse_number, horse_name COLLATE "C", scraped_at DESC NULLS LAST, finish_position, finish_time
    ) = 1 AS stands_for_name
  FROM (
    SELECT
      c.race_order,
      date_part('epoch', s.sectional_400m) * 1000 AS ms_400m,
      date_part('epoch', s.sectional_800m) * 1000 AS ms_800m,
      date_part('epoch', s.cumulative_800m) * 1000 AS ms_to_800m,
      -- As it is compared: the entity for an apostrophe decoded, `E+` as `E`, lower case, no blanks around it.
      lower(btrim(replace(regexp_replace(s.horse_name, '&(#0*39|apos).', '''', 'g'), 'E+', 'E'), ' ' || chr(160)))
        AS name,
      s.horse_number,
      s.horse_name,
      s.scraped_at,
      s.finish_position,
      s.finish_time,
      -- Places from the start, every 200 m.
      ARRAY[
        s.position_200m, s.position_400m, s.position_600m, s.position_800m, s.position_1000m, s.position_1200m,
        s.position_1400m, s.position_1600m, s.position_1800m, s.position_2000m, s.position_2200m, s.position_2400m,
        s.position_2600m, s.position_2800m
      ] AS places
    FROM race_results_sectional_times AS s
    JOIN cleaned_races AS c USING (race_id)
  ) AS named
),
timed_starters AS (
  SELECT
    race_order,
    horse_slug,
    -- Two runners with one number: the finisher, then the first in order, keeps it.
    CASE
      WHEN row_number() OVER (PARTITION BY race_order, horse_number ORDER BY finished DESC, horse_slug) = 1 THEN horse_number
    END AS horse_number,
    name
  FROM (
    SELECT
      race_order,
      horse_slug,
      coalesce(position < 50, false) AS finished,
      -- `13e` is saddle cloth 13 after number formatting, not 13 times a power of ten.
      CAST(substring(regexp_replace(horse_number, '[eE][+]?[0-9]*$', '') FROM '[0-9]+') AS numeric) AS horse_number,
      lower(btrim(replace(regexp_replace(horse_name, '&(#0*39|apos).', '''', 'g'), 'E+', 'E'), ' ' || chr(160))) AS name
    FROM runners
    WHERE is_starter AND race_order IN (SELECT race_order FROM sectionals)
  ) AS parsed
),
-- The sectional row of each starter: by saddle cloth, because late replacements keep the number, else by name.
matches AS (
  SELECT DISTINCT ON (r.race_order, r.horse_slug)
    r.race_order,
    r.horse_slug,
    s.finish_position BETWEEN 1 AND 20 AND s.places[4] < 50 AS counts,
    CASE WHEN s.ms_400m > 0 THEN floor(s.ms_400m + 0.5) END AS ms_400m,
    CASE WHEN s.ms_800m > 0 THEN floor(s.ms_800m + 0.5) END AS ms_800m,
    CASE WHEN s.ms_to_800m > 0 THEN floor(s.ms_to_800m + 0.5) END AS ms_to_800m,
    s.places
  FROM timed_starters AS r
  JOIN sectionals AS s
    ON s.race_order = r.race_order
    AND ((s.stands_for_number AND s.horse_number = r.horse_number) OR (s.stands_for_name AND s.name = r.name))
  ORDER BY r.race_order, r.horse_slug, (s.stands_for_number AND s.horse_number = r.horse_number) IS TRUE DESC
),
times AS (
  SELECT *, avg(ms_400m) OVER (PARTITION BY race_order) - ms_400m AS ms_ahead_of_field
  FROM matches
),
-- The places 800 m and 400 m before the post, at the nearest multiple of 200 m from the start, half up, and in Hong Kong
-- at the nearest checkpoint that exists there. Below 1000 m the 800 m post comes before the first checkpoint.
checkpoints AS (
  SELECT
    r.*,
    t.counts,
    t.places[1] AS place_200m,
    t.ms_400m,
    t.ms_800m,
    t.ms_to_800m,
    t.ms_ahead_of_field,
    CASE WHEN r.race_distance >= 1000 THEN t.places[(r.race_distance - 700) / 200] END AS place_800m,
    t.places[(r.race_distance - 300) / 200] AS place_400m,
    CASE WHEN r.location = 'HK' THEN
      t.places[CASE
        WHEN r.race_distance IN (1000, 1200) THEN 2
        WHEN r.race_distance IN (1400, 1600, 1650) THEN 4
        WHEN r.race_distance IN (1800, 2000, 2200) THEN 6
        WHEN r.race_distance = 2400 THEN 8
      END]
    END AS hong_kong_place_800m,
    CASE WHEN r.location = 'HK' THEN
      t.places[CASE
        WHEN r.race_distance IN (1000, 1200) THEN 4
        WHEN r.race_distance IN (1400, 1600, 1650) THEN 6
        WHEN r.race_distance IN (1800, 2000) THEN 8
        WHEN r.race_distance IN (2200, 2400) THEN 10
      END]
    END AS hong_kong_place_400m
  FROM runners AS r
  LEFT JOIN times AS t USING (race_order, horse_slug)
)
SELECT
  race_order,
  race_id,
  race_date,
  location,
  horse_slug,
  jockey_slug,
  trainer_slug,
  has_result,
  is_starter,
  total_runners,
  CASE WHEN position < 50 THEN CAST(position AS integer) END AS final_position,
  CASE WHEN is_starter THEN
    CAST(coalesce(
      CASE WHEN place_800m < 50 THEN place_800m END,
      CASE WHEN position_800m < 50 THEN position_800m END,
      CASE WHEN hong_kong_place_800m < 50 THEN hong_kong_place_800m END
    ) AS integer)
  END AS position_800m,
  CASE WHEN is_starter THEN
    CAST(coalesce(
      CASE WHEN place_400m < 50 THEN place_400m END,
      CASE WHEN position_400m < 50 THEN position_400m END,
      CASE WHEN hong_kong_place_400m < 50 THEN hong_kong_place_400m END
    ) AS integer)
  END AS position_400m,
  CASE WHEN counts AND place_200m < 50 THEN CAST(place_200m AS integer) END AS place_200m_from_start,
  CASE WHEN counts THEN CAST(ms_400m AS bigint) END AS sectional_400m_ms,
  CASE WHEN counts THEN CAST(ms_800m AS bigint) END AS sectional_800m_ms,
  CASE WHEN counts THEN CAST(ms_to_800m AS bigint) END AS cumulative_800m_ms,
  CASE WHEN counts THEN ms_ahead_of_field END AS ahead_of_field_400m_ms
FROM checkpoints;

CREATE UNIQUE INDEX runner_history_key ON runner_history (race_id, horse_slug);

-- Counts and means over all runs in the location, the newest five for the form.
CREATE MATERIALIZED VIEW horse_current_form AS
WITH runs AS (
  SELECT
    *,
    position_800m - final_position AS early_gain,
    position_400m - final_position AS late_gain,
    final_position IS NOT NULL AS finished,
    row_number() OVER (PARTITION BY horse_slug, location ORDER BY final_position IS NULL, race_order DESC) AS recency
  FROM runner_history
),
sums AS (
  SELECT
    horse_slug,
    location,
    CAST(count(final_position) AS integer) AS total_races,
    CAST(count(*) FILTER (WHERE final_position = 1) AS integer) AS wins,
    CAST(count(*) FILTER (WHERE final_position <= 3) AS integer) AS places,
    max(race_date) FILTER (WHERE finished) AS last_race_date,
    max(total_runners) FILTER (WHERE finished AND recency = 1) AS last_total_runners,
    CAST(count(*) FILTER (WHERE finished AND race_date >= CURRENT_DATE - 60) AS integer) AS runs_last_60_days,
    CAST(count(*) FILTER (WHERE finished AND race_date >= CURRENT_DATE - 90) AS integer) AS runs_last_90_days,
    count(*) FILTER (WHERE finished AND recency <= 5) AS last_runs,
    avg(final_position) FILTER (WHERE recency <= 5) AS last_position,
    count(*) FILTER (WHERE final_position = 1 AND recency <= 5) AS last_wins,
    count(*) FILTER (WHERE final_position <= 3 AND recency <= 5) AS last_places,
    coalesce(sum(recency) FILTER (WHERE final_position <= 3 AND recency <= 5), 0) AS last_places_recency,
    avg(position_800m) FILTER (WHERE finished) AS early_place,
    avg(early_gain) AS early_gain,
    avg(abs(early_gain)) AS early_move,
    avg(CAST(position_800m * 4 <= total_runners AS integer)) FILTER (WHERE finished AND total_runners > 1)
      AS early_in_first_quarter,
    avg(position_400m) FILTER (WHERE finished) AS late_place,
    avg(coalesce(position_800m, 0) - final_position) FILTER (WHERE position_400m IS NOT NULL) AS surge,
    avg(CAST(late_gain > 0 AS integer)) AS strong_finish,
    stddev_samp(late_gain) AS late_gain_deviation
  FROM runs
  GROUP BY horse_slug, location
),
-- The field that the horse meets next: it decides what counts as running in front.
next_starts AS (
  SELECT DISTINCT ON (horse_slug, location) horse_slug, location, total_runners
  FROM runner_history
  WHERE NOT has_result AND is_starter AND race_date >= CURRENT_DATE
  ORDER BY horse_slug, location, race_order
),
-- Sectional rows and ratings are those of the horse wherever it ran. 5354228880 is a multiple of every field size up to 24,
-- so the sums of the distances to the mean of a field are exact.
sectionals AS (
  SELECT
    horse_slug,
    round(avg(place_200m_from_start), 2) AS avg_pos_200m,
    round(avg(sectional_400m_ms) / 1000, 3) AS avg_sectional_400m,
    round(avg(sectional_800m_ms) / 1000, 3) AS avg_sectional_800m,
    round(avg(cumulative_800m_ms) / 1000, 3) AS avg_cumulative_800m,
    round(stddev_samp(sectional_400m_ms) / 1000, 3) AS sectional_time_consistency,
    round(avg(sectional_800m_ms - sectional_400m_ms) / 1000, 3) AS early_vs_mid_pace_change,
    round(avg(CAST(ahead_of_field_400m_ms * 5354228880 AS bigint)) / 5354228880000, 4) AS historical_speed_vs_field
  FROM runner_history
  WHERE place_200m_from_start IS NOT NULL
    OR sectional_400m_ms IS NOT NULL
    OR sectional_800m_ms IS NOT NULL
    OR cumulative_800m_ms IS NOT NULL
  GROUP BY horse_slug
),
ratings AS (
  SELECT DISTINCT ON (horse_slug COLLATE "C") horse_slug COLLATE "C" AS horse_slug, elo_after
  FROM horse_elo_ratings
  ORDER BY horse_slug COLLATE "C", race_date DESC, race_id COLLATE "C" DESC NULLS LAST, id DESC
),
features AS (
  SELECT
    s.*,
    coalesce(n.total_runners, s.last_total_runners) AS total_runners,
    coalesce(round(100.0 * s.places / nullif(s.total_races, 0), 2), 0) AS place_percentage,
    CAST(round(s.early_place, 2) AS double precision) AS avg_early_position_800m,
    CAST(round(s.early_gain, 2) AS double precision) AS historical_avg_improvement,
    coalesce(e.elo_after, 1200) AS current_elo,
    t.avg_pos_200m,
    t.avg_sectional_400m,
    t.avg_sectional_800m,
    t.avg_cumulative_800m,
    t.sectional_time_consistency,
    t.early_vs_mid_pace_change,
    t.historical_speed_vs_field
  FROM sums AS s
  LEFT JOIN next_starts AS n USING (horse_slug, location)
  LEFT JOIN sectionals AS t USING (horse_slug)
  LEFT JOIN ratings AS e USING (horse_slug)
)
SELECT
  horse_slug || '-' || location AS horse_location_slug,
  horse_slug,
  location,
  CAST(coalesce(round(1.0 * last_wins / nullif(last_runs, 0), 4), 0) AS double precision) AS last_5_win_rate,
  CAST(coalesce(round(1.0 * last_places / nullif(last_runs, 0), 4), 0) AS double precision) AS last_5_place_rate,
  CAST(round(last_position, 2) AS double precision) AS last_5_avg_position,
  -- Of m runs the latest weighs m and the oldest 1.
  CAST(
    coalesce(round(2.0 * ((last_runs + 1) * last_places - last_places_recency) / nullif(last_runs * (last_runs + 1), 0), 4), 0)
    AS double precision
  ) AS form_momentum,
  last_race_date,
  CURRENT_DATE - last_race_date AS days_since_last_race,
  total_races,
  wins,
  places,
  CAST(coalesce(round(100.0 * wins / nullif(total_races, 0), 2), 0) AS double precision) AS win_percentage,
  CAST(place_percentage AS double precision) AS place_percentage,
  CAST(round(place_percentage / 100, 4) AS double precision) AS consistency_score,
  runs_last_60_days,
  runs_last_90_days,
  CASE WHEN runs_last_90_days > 1 THEN CAST(round(90.0 / runs_last_90_days, 1) AS double precision) END
    AS avg_days_between_runs,
  CAST(current_elo AS double precision) AS current_elo,
  -- The field of the next race that the horse is declared for in this location, else that of its last run.
  total_runners,
  -- The limits are compared as products, so that 4.2 of 12 runners is exactly 0.35.
  CASE
    WHEN avg_early_position_800m IS NULL OR total_runners < 2 THEN 'unknown'
    WHEN avg_early_position_800m <= 0.20 * total_runners + 1e-9 THEN 'leader'
    WHEN avg_early_position_800m <= 0.35 * total_runners + 1e-9 THEN 'on_pace'
    WHEN avg_early_position_800m <= 0.55 * total_runners + 1e-9 THEN 'midfield'
    WHEN avg_early_position_800m <= 0.75 * total_runners + 1e-9 THEN 'off_pace'
    ELSE 'closer'
  END AS running_style,
  avg_early_position_800m,
  CAST(round(late_place, 2) AS double precision) AS avg_pos_400m,
  CAST(round(surge, 2) AS double precision) AS avg_late_surge,
  least(1, greatest(0, coalesce(1 - CASE WHEN total_runners > 1 THEN avg_early_position_800m END / total_runners, 0.5)))
    AS early_speed_score,
  least(1, greatest(0, coalesce(0.5 + historical_avg_improvement / 10, 0.5))) AS closing_ability_score,
  CAST(avg_pos_200m AS double precision) AS avg_pos_200m,
  CAST(round(early_in_first_quarter, 4) AS double precision) AS early_speed_pct,
  CAST(round(strong_finish, 4) AS double precision) AS strong_finish_pct,
  CAST(round(early_move, 2) AS double precision) AS pos_volatility_800,
  CAST(round(late_gain_deviation, 4) AS double precision) AS finishing_kick_consistency,
  CAST(avg_sectional_400m AS double precision) AS avg_sectional_400m,
  CAST(avg_sectional_800m AS double precision) AS avg_sectional_800m,
  CAST(avg_cumulative_800m AS double precision) AS avg_cumulative_800m,
  CAST(sectional_time_consistency AS double precision) AS sectional_time_consistency,
  CAST(early_vs_mid_pace_change AS double precision) AS early_vs_mid_pace_change,
  CAST(historical_speed_vs_field AS double precision) AS historical_speed_vs_field
FROM features;

CREATE UNIQUE INDEX horse_current_form_key ON horse_current_form (horse_location_slug);

-- Wins, places and rates are those of the finishes in the location. The rides in total are the entries of the jockey
-- wherever they were, with or without a place, to races that have a result or were due before today. Likewise the
-- runners of a trainer. The entries to the earlier races of a meeting, which the dataset knows, come with their results.
CREATE MATERIALIZED VIEW jockey_current_form AS
WITH rides AS (
  SELECT
    *,
    has_result OR race_date < CURRENT_DATE AS is_over,
    row_number() OVER (
      PARTITION BY jockey_slug, location ORDER BY final_position IS NULL, race_order DESC, horse_slug DESC
    ) AS recency
  FROM runner_history
  WHERE jockey_slug IS NOT NULL
),
sums AS (
  SELECT
    jockey_slug,
    location,
    CAST(sum(count(*) FILTER (WHERE is_over)) OVER (PARTITION BY jockey_slug) AS integer) AS total_rides,
    CAST(count(final_position) AS integer) AS finished_rides,
    CAST(count(*) FILTER (WHERE final_position = 1) AS integer) AS wins,
    CAST(count(*) FILTER (WHERE final_position <= 3) AS integer) AS places,
    avg(final_position) FILTER (WHERE recency <= 20) AS position_20,
    avg(final_position) FILTER (WHERE recency <= 50) AS position_50,
    avg(CAST(final_position = 1 AS integer)) FILTER (WHERE recency <= 20) AS win_rate_20,
    avg(CAST(final_position = 1 AS integer)) FILTER (WHERE recency <= 50) AS win_rate_50,
    max(race_date) FILTER (WHERE final_position IS NOT NULL) AS last_ride_date
  FROM rides
  GROUP BY jockey_slug, location
)
SELECT
  jockey_slug || '-' || location AS jockey_location_slug,
  jockey_slug,
  location,
  total_rides,
  finished_rides,
  wins,
  places,
  coalesce(CAST(100 AS double precision) * wins / nullif(finished_rides, 0), 0) AS win_percentage,
  coalesce(CAST(100 AS double precision) * places / nullif(finished_rides, 0), 0) AS place_percentage,
  CAST(coalesce(round(1.0 * wins / nullif(finished_rides, 0), 4), 0) AS double precision) AS jockey_win_rate,
  CAST(coalesce(round(1.0 * places / nullif(finished_rides, 0), 4), 0) AS double precision) AS jockey_place_rate,
  CAST(coalesce(round(position_20, 2), 6) AS double precision) AS avg_position_20,
  CAST(coalesce(round(position_50, 2), 6) AS double precision) AS avg_position_50,
  CAST(coalesce(round(win_rate_20, 4), 0) AS double precision) AS last_20_win_rate,
  CAST(coalesce(round(win_rate_50, 4), 0) AS double precision) AS last_50_win_rate,
  CURRENT_DATE - last_ride_date AS days_since_last_ride
FROM sums;

CREATE UNIQUE INDEX jockey_current_form_key ON jockey_current_form (jockey_location_slug);

CREATE MATERIALIZED VIEW trainer_current_form AS
WITH runners AS (
  SELECT
    *,
    has_result OR race_date < CURRENT_DATE AS is_over,
    row_number() OVER (
      PARTITION BY trainer_slug, location ORDER BY final_position IS NULL, race_order DESC, horse_slug DESC
    ) AS recency
  FROM runner_history
  WHERE trainer_slug IS NOT NULL
),
sums AS (
  SELECT
    trainer_slug,
    location,
    CAST(sum(count(*) FILTER (WHERE is_over)) OVER (PARTITION BY trainer_slug) AS integer) AS total_runners,
    CAST(count(final_position) AS integer) AS finished_runners,
    CAST(count(*) FILTER (WHERE final_position = 1) AS integer) AS wins,
    CAST(count(*) FILTER (WHERE final_position <= 3) AS integer) AS places,
    avg(final_position) FILTER (WHERE recency <= 50) AS position_50,
    avg(final_position) FILTER (WHERE recency <= 100) AS position_100,
    avg(CAST(final_position = 1 AS integer)) FILTER (WHERE recency <= 50) AS win_rate_50,
    avg(CAST(final_position = 1 AS integer)) FILTER (WHERE recency <= 100) AS win_rate_100,
    max(race_date) FILTER (WHERE final_position IS NOT NULL) AS last_runner_date
  FROM runners
  GROUP BY trainer_slug, location
)
SELECT
  trainer_slug || '-' || location AS trainer_location_slug,
  trainer_slug,
  location,
  total_runners,
  finished_runners,
  wins,
  places,
  coalesce(CAST(100 AS double precision) * wins / nullif(finished_runners, 0), 0) AS win_percentage,
  coalesce(CAST(100 AS double precision) * places / nullif(finished_runners, 0), 0) AS place_percentage,
  CAST(coalesce(round(1.0 * wins / nullif(finished_runners, 0), 4), 0) AS double precision) AS trainer_win_rate,
  CAST(coalesce(round(1.0 * places / nullif(finished_runners, 0), 4), 0) AS double precision) AS trainer_place_rate,
  CAST(coalesce(round(position_50, 2), 6) AS double precision) AS avg_position_50,
  CAST(coalesce(round(position_100, 2), 6) AS double precision) AS avg_position_100,
  CAST(coalesce(round(win_rate_50, 4), 0) AS double precision) AS last_50_win_rate,
  CAST(coalesce(round(win_rate_100, 4), 0) AS double precision) AS last_100_win_rate,
  CURRENT_DATE - last_runner_date AS days_since_last_runner
FROM sums;

CREATE UNIQUE INDEX trainer_current_form_key ON trainer_current_form (trainer_location_slug);

-- Pairs that finished together at least once. Any other pair has no races, no wins and rates of 0.
CREATE MATERIALIZED VIEW jockey_horse_connection_stats AS
WITH sums AS (
  SELECT
    horse_slug,
    location,
    jockey_slug,
    CAST(count(*) AS integer) AS races,
    CAST(count(*) FILTER (WHERE final_position = 1) AS integer) AS wins,
    CAST(count(*) FILTER (WHERE final_position <= 3) AS integer) AS places,
    max(race_date) AS last_ride_together
  FROM runner_history
  WHERE final_position IS NOT NULL AND jockey_slug IS NOT NULL
  GROUP BY horse_slug, location, jockey_slug
)
SELECT
  horse_slug || '-' || location AS horse_location_slug,
  horse_slug,
  location,
  jockey_slug,
  races AS connection_races,
  wins AS connection_wins,
  places AS connection_places,
  CAST(round(1.0 * wins / races, 4) AS double precision) AS connection_win_rate,
  CAST(round(1.0 * places / races, 4) AS double precision) AS connection_place_rate,
  last_ride_together,
  races >= 3 AND wins * 5 > races AS strong_connection
FROM sums;

CREATE UNIQUE INDEX jockey_horse_connection_stats_key ON jockey_horse_connection_stats (horse_location_slug, jockey_slug);

-- Jockey and trainer count together wherever it was.
CREATE MATERIALIZED VIEW jockey_trainer_connection_stats AS
WITH sums AS (
  SELECT
    jockey_slug,
    trainer_slug,
    CAST(count(*) AS integer) AS races,
    CAST(count(*) FILTER (WHERE final_position = 1) AS integer) AS wins,
    CAST(count(*) FILTER (WHERE final_position <= 3) AS integer) AS places,
    max(race_date) AS last_ride_together
  FROM runner_history
  WHERE final_position IS NOT NULL AND jockey_slug IS NOT NULL AND trainer_slug IS NOT NULL
  GROUP BY jockey_slug, trainer_slug
)
SELECT
  jockey_slug,
  trainer_slug,
  races AS connection_races,
  wins AS connection_wins,
  places AS connection_places,
  CAST(round(1.0 * wins / races, 4) AS double precision) AS connection_win_rate,
  CAST(round(1.0 * places / races, 4) AS double precision) AS connection_place_rate,
  last_ride_together,
  races >= 5 AND wins * 100 > races * 15 AS strong_connection
FROM sums;

CREATE UNIQUE INDEX jockey_trainer_connection_stats_key ON jockey_trainer_connection_stats (jockey_slug, trainer_slug);
