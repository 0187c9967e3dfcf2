//! Dates and times. Postgres counts from 2000-01-01, Arrow from 1970-01-01.

use super::FieldError;

/// Days from Arrow's epoch to Postgres's.
pub(crate) const PG_EPOCH_OFFSET_DAYS: i32 = 10_957;
/// Microseconds from Arrow's epoch to Postgres's.
pub(crate) const PG_EPOCH_OFFSET_US: i64 = 946_684_800_000_000;
/// `24:00:00`, the latest `time`.
pub(crate) const TIME_MAX_US: i64 = 86_400_000_000;
/// DuckDB's `-infinity`; Postgres uses `i32::MIN`, which DuckDB reads as a year BC.
pub(crate) const DATE_NEGATIVE_INFINITY: i32 = -i32::MAX;
/// DuckDB's `-infinity` of timestamps.
pub(crate) const TIMESTAMP_NEGATIVE_INFINITY: i64 = -i64::MAX;

/// The field's bytes as a fixed-size array.
pub(crate) fn fixed<const N: usize>(field: &[u8]) -> Result<[u8; N], FieldError> {
    field.try_into().map_err(|_| FieldError::Length { expected: N, found: field.len() })
}

/// Reads a `date` as days since 1970-01-01; infinities become DuckDB's: `i32::MAX` and `-i32::MAX`.
///
/// # Errors
/// [`FieldError::Length`] unless the field has 4 bytes; [`FieldError::OutOfRange`] beyond what Postgres can store.
/// # Source
/// `date_send` in Postgres `src/backend/utils/adt/date.c`.
/// # Examples
/// ```
/// # use racealpha::wire::date_from_wire;
/// assert_eq!(date_from_wire(&[0; 4])?, 10_957);
/// # Ok::<(), racealpha::wire::FieldError>(())
/// ```
pub fn date_from_wire(field: &[u8]) -> Result<i32, FieldError> {
    match i32::from_be_bytes(fixed(field)?) {
        i32::MAX => Ok(i32::MAX),
        i32::MIN => Ok(DATE_NEGATIVE_INFINITY),
        days => match days.checked_add(PG_EPOCH_OFFSET_DAYS) {
            Some(days) if days < i32::MAX => Ok(days),
            _ => Err(FieldError::OutOfRange("date")),
        },
    }
}

/// Reads a `timestamp` or `timestamptz` as microseconds since 1970-01-01T00:00:00 (UTC for the latter); infinities
/// become DuckDB's: `i64::MAX` and `-i64::MAX`.
///
/// # Errors
/// [`FieldError::Length`] unless the field has 8 bytes; [`FieldError::OutOfRange`] from
/// 294247-01-10T04:00:54.775807 on, which Postgres can store and Arrow cannot.
/// # Source
/// `timestamp_send` in Postgres `src/backend/utils/adt/timestamp.c`.
/// # Examples
/// ```
/// # use racealpha::wire::timestamp_from_wire;
/// // 2000-01-01T00:00:00 is Postgres's zero.
/// assert_eq!(timestamp_from_wire(&[0; 8])?, 946_684_800_000_000);
/// # Ok::<(), racealpha::wire::FieldError>(())
/// ```
pub fn timestamp_from_wire(field: &[u8]) -> Result<i64, FieldError> {
    match i64::from_be_bytes(fixed(field)?) {
        i64::MAX => Ok(i64::MAX),
        i64::MIN => Ok(TIMESTAMP_NEGATIVE_INFINITY),
        micros => match micros.checked_add(PG_EPOCH_OFFSET_US) {
            Some(micros) if micros < i64::MAX => Ok(micros),
            _ => Err(FieldError::OutOfRange("timestamp")),
        },
    }
}

/// Reads a `time` as microseconds since midnight, `24:00:00` included.
///
/// # Errors
/// [`FieldError::Length`] unless the field has 8 bytes; [`FieldError::Malformed`] outside a day.
pub fn time_from_wire(field: &[u8]) -> Result<i64, FieldError> {
    match i64::from_be_bytes(fixed(field)?) {
        micros @ 0..=TIME_MAX_US => Ok(micros),
        _ => Err(FieldError::Malformed("time")),
    }
}

/// The three parts of an `interval`, which Postgres never mixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntervalParts {
    /// Whole months.
    pub months: i32,
    /// Whole days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

/// Reads an `interval`.
///
/// # Shape
/// Microseconds (8 bytes), days (4), months (4).
/// # Errors
/// [`FieldError::Length`] unless the field has 16 bytes.
pub fn interval_from_wire(field: &[u8]) -> Result<IntervalParts, FieldError> {
    let bits = u128::from_be_bytes(fixed(field)?).to_be_bytes();
    let [micros @ .., _, _, _, _, _, _, _, _] = bits;
    let [_, _, _, _, _, _, _, _, d0, d1, d2, d3, m0, m1, m2, m3] = bits;
    Ok(IntervalParts {
        months: i32::from_be_bytes([m0, m1, m2, m3]),
        days: i32::from_be_bytes([d0, d1, d2, d3]),
        micros: i64::from_be_bytes(micros),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinities_become_duckdbs() {
        assert_eq!(date_from_wire(&i32::MIN.to_be_bytes()), Ok(-i32::MAX));
        assert_eq!(date_from_wire(&i32::MAX.to_be_bytes()), Ok(i32::MAX));
        assert_eq!(timestamp_from_wire(&i64::MIN.to_be_bytes()), Ok(-i64::MAX));
        assert_eq!(timestamp_from_wire(&i64::MAX.to_be_bytes()), Ok(i64::MAX));
    }

    #[test]
    fn the_last_timestamp_that_fits_is_one_below_infinity() {
        let last = i64::MAX - 1 - PG_EPOCH_OFFSET_US;
        assert_eq!(timestamp_from_wire(&last.to_be_bytes()), Ok(i64::MAX - 1));
        assert_eq!(timestamp_from_wire(&(last + 1).to_be_bytes()), Err(FieldError::OutOfRange("timestamp")));
    }

    #[test]
    fn an_interval_has_its_parts_in_wire_order() {
        let mut field = 3_i64.to_be_bytes().to_vec();
        field.extend((-2_i32).to_be_bytes());
        field.extend(1_i32.to_be_bytes());
        assert_eq!(interval_from_wire(&field), Ok(IntervalParts { months: 1, days: -2, micros: 3 }));
        assert_eq!(interval_from_wire(&field[1..]), Err(FieldError::Length { expected: 16, found: 15 }));
    }
}
