-- engine: duckdb
-- why: names that differ between engines, and small expressions that every phase uses, are defined here once. Another
--      engine needs only its own version of this file, and views of the lake's tables with the intervals, which Parquet
--      has as structs, as intervals again. `build_time()` and `with_upcoming()` come from the runner.
-- tried: with the macros written out, Apache DataFusion 55.2 (dialect DuckDB, texts not as views) runs every phase as it
--      is and makes each value of race_training_dataset, horse_elo_ratings and horse_careers as DuckDB 2.0 does, over two
--      real seasons and over 4000 races of the fixtures. Some whole numbers are in wider or unsigned columns there. It needs
--      its own `rounded` (signum), `finite_number` (no isfinite), `matches` (regexp_like), `captured` (regexp_match),
--      `round_half_even`, `title_case` (initcap), `assured` (a cast that fails), and with DECIMAL(38, 0) for HUGEINT
--      `wide`, `paired`, `low_of` and `high_of`. What else it does not share is refused by a test of the phases.

-- Rounds half away from zero. The slack of 1e-9 makes the decision on the value that is meant (1.00005) and not on
-- its nearest double (1.00004999…). Quotients of counts are never that close to a tie without being one.
CREATE OR REPLACE MACRO rounded(x, digits) AS
  sign(x) * floor(abs(x) * power(10.0, digits) + 0.5 + 1e-9) / power(10.0, digits) + 0.0;

-- A share of counts: 0 when there is nothing to divide by, else four decimals. As `rounded`, less what only negative
-- numbers need.
CREATE OR REPLACE MACRO frac(part, whole) AS
  CASE WHEN whole = 0 THEN CAST(0 AS DOUBLE) ELSE floor(CAST(part AS DOUBLE) / whole * 10000.0 + 0.5 + 1e-9) / 10000.0 END;

-- A mean of `n` values that add up to `total`: null when there is none.
CREATE OR REPLACE MACRO mean_of(total, n) AS
  CASE WHEN n > 0 THEN CAST(total AS DOUBLE) / n END;

-- Sample standard deviation from a count, a sum and a sum of squares: null for fewer than two values.
-- The sums are whole numbers, so neither the order of the rows nor the engine changes the result.
CREATE OR REPLACE MACRO sd_of(n, total, total_squares) AS
  CASE WHEN n > 1 THEN
    sqrt(greatest(CAST(n AS DOUBLE) * total_squares - CAST(total AS DOUBLE) * total, 0.0) / (CAST(n AS DOUBLE) * (n - 1)))
  END;

CREATE OR REPLACE MACRO clip(x) AS
  CASE WHEN x < 0 THEN CAST(0 AS DOUBLE) WHEN x > 1 THEN CAST(1 AS DOUBLE) ELSE x END;

-- A sum of whole numbers as an integer. A sum over no rows is 0.
CREATE OR REPLACE MACRO total(x) AS CAST(coalesce(x, 0) AS INTEGER);

-- Three whole numbers, none of them negative, as one: what their sums are is still to be read from the sum of such, as
-- long as each of them stays below 2^20 = 1048576. Who packs says why it does.
CREATE OR REPLACE MACRO packed(a, b, c) AS CAST(a AS BIGINT) + CAST(b AS BIGINT) * 1048576 + CAST(c AS BIGINT) * 1099511627776;

-- The number at place 0, 1 or 2 of a sum of packed ones.
CREATE OR REPLACE MACRO unpacked(x, place) AS CAST((x >> (20 * place)) & 1048575 AS INTEGER);

-- A whole number with room for more than 2^63.
CREATE OR REPLACE MACRO wide(x) AS CAST(x AS HUGEINT);

-- Two whole numbers as one, for one sum instead of two. The low one is never negative, and neither of its sums reaches 2^63.
CREATE OR REPLACE MACRO paired(low, high) AS wide(low) + wide(high) * 18446744073709551616;

-- The two sums in a sum of such. A sum over no rows is 0.
CREATE OR REPLACE MACRO low_of(x) AS CAST(coalesce(x, 0) & 18446744073709551615 AS BIGINT);

CREATE OR REPLACE MACRO high_of(x) AS CAST(coalesce(x, 0) >> 64 AS BIGINT);

-- A flag as one of four counters, by a key from 1 to 4, and the counter of a key in a sum of such. A counter has room for
-- 32767. Without a key there is nothing to count, and 0 counted.
CREATE OR REPLACE MACRO counted_by(flag, key) AS CASE WHEN key IS NULL THEN 0 ELSE CAST(flag AS BIGINT) << (16 * (key - 1)) END;

CREATE OR REPLACE MACRO counted(x, key) AS CASE WHEN key IS NULL THEN 0 ELSE CAST((x >> (16 * (key - 1))) & 65535 AS INTEGER) END;

-- True, or the run ends with this message: for what a statement relies on.
CREATE OR REPLACE MACRO assured(condition, message) AS CASE WHEN condition THEN true ELSE error(message) END;

-- A numeric source column as a double; NaN and the infinities are as good as missing.
CREATE OR REPLACE MACRO finite_number(x) AS
  CASE WHEN isfinite(TRY_CAST(x AS DOUBLE)) THEN TRY_CAST(x AS DOUBLE) END;

-- Thousandths of a unit as whole numbers (grams, milliseconds), so that sums are exact in any order.
CREATE OR REPLACE MACRO thousandths(x) AS CAST(round(x * 1000) AS BIGINT);

-- Seconds of an interval. A time that is not positive is missing.
CREATE OR REPLACE MACRO seconds_of(x) AS
  CASE WHEN date_part('epoch', x) > 0 THEN CAST(date_part('epoch', x) AS DOUBLE) END;

-- Days since 1970-01-01.
CREATE OR REPLACE MACRO day_number(d) AS CAST(d - DATE '1970-01-01' AS INTEGER);

CREATE OR REPLACE MACRO date_of(day_number) AS DATE '1970-01-01' + day_number;

CREATE OR REPLACE MACRO matches(text, pattern) AS regexp_matches(text, pattern);

-- The first group that a pattern captures, null when it does not match.
CREATE OR REPLACE MACRO captured(text, pattern) AS nullif(regexp_extract(text, pattern, 1), '');

-- A horse name as it is compared: the entity for an apostrophe decoded, `E+` as `E`, lower case, no blanks around it.
CREATE OR REPLACE MACRO matching_name(name) AS
  lower(trim(replace(regexp_replace(name, '&(#0*39|apos).', '''', 'g'), 'E+', 'E')));

-- A fraction whose denominator is at most 24, as many as a field has runners, is a whole number of these units, because
-- 5354228880 is a multiple of each of 1 to 24. Sums of such fractions are exact.
CREATE OR REPLACE MACRO exact_fraction(x) AS CAST(round(x * CAST(5354228880 AS DOUBLE)) AS BIGINT);

-- Any other ratio, in whole hundred-millionths.
CREATE OR REPLACE MACRO hundred_millionths(x) AS CAST(round(x * 1e8) AS BIGINT);

-- Rounds to a whole number, halves to the even one.
CREATE OR REPLACE MACRO round_half_even(x) AS round_even(x, 0);

-- Each word between blanks with a capital first letter.
CREATE OR REPLACE MACRO title_case(text) AS
  array_to_string(list_transform(string_split(text, ' '), lambda word: upper(left(word, 1)) || lower(substr(word, 2))), ' ');
