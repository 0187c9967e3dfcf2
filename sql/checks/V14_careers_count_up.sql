-- id: V14
-- severity: error
-- why: in race order the runs of a horse in one location count 0, 1, 2 … Runs on one day see each other only at the
--      same meeting and by race number.
WITH counted AS (
  SELECT
    race_id,
    race_date,
    race_number,
    horse_location_slug,
    total_races,
    count(final_position) OVER (
      PARTITION BY horse_location_slug ORDER BY CAST(race_date - DATE '1970-01-01' AS INTEGER)
      RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS runs_on_earlier_days,
    CASE WHEN race_number IS NULL THEN 0 ELSE
      count(CASE WHEN race_number IS NOT NULL THEN final_position END) OVER (
        PARTITION BY horse_location_slug, race_date, track_name, location ORDER BY coalesce(race_number, 0)
        RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
      )
    END AS runs_earlier_today
  FROM race_training_dataset
)
SELECT race_id, race_date, race_number, horse_location_slug, total_races, runs_on_earlier_days + runs_earlier_today AS expected
FROM counted
WHERE total_races <> runs_on_earlier_days + runs_earlier_today;
