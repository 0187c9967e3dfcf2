//! Fields as COPY BINARY bytes: one function per wire form, no I/O and no Arrow.
//!
//! A field is its length as a big-endian `i32` and that many bytes; NULL is the length -1 alone. The functions
//! whose field has a fixed length return it as an array, length word included, so that a caller can place it
//! anywhere; the others append to a buffer.
//!
//! ```text
//! header  "PGCOPY\n" FF "\r\n" 00 · flags i32 · extension length i32
//! tuple   field count i16 · per field: length i32 (-1 = NULL) · bytes
//! trailer -1 i16
//! ```

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::temporal::{PG_EPOCH_OFFSET_DAYS, PG_EPOCH_OFFSET_US, TIME_MAX_US};

/// What a COPY BINARY stream begins with: the signature, no flags, no extension.
pub const COPY_HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What a COPY BINARY stream ends with.
pub const COPY_TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// A NULL field.
pub const NULL_FIELD: [u8; 4] = (-1_i32).to_be_bytes();

/// The first microsecond that a timestamp holds, 4714-11-24 BC (`MIN_TIMESTAMP` in `timestamp.h`), from 2000.
const TIMESTAMP_MIN_US: i64 = -211_813_488_000_000_000;
/// The first day that a date holds, 4714-11-24 BC, from 2000.
const DATE_MIN_DAYS: i32 = -2_451_545;
/// The first day after the last that a date holds, 5874897-12-31, from 2000.
const DATE_END_DAYS: i32 = 2_147_483_494 - 2_451_545;

/// A value that a Postgres type cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Outside the type's range.
    #[error("the value is out of range")]
    OutOfRange,
    /// A number of more digits before the point than the column has.
    #[error("the number has more than {limit} digits before the point")]
    Precision {
        /// Digits before the point that the column keeps.
        limit: i32,
    },
    /// Digits after the point that the column would round away.
    #[error(
        "the number has digits beyond the column's {scale} decimal places, and nothing is rounded (the column's setting push_rounding changes that)"
    )]
    Scale {
        /// Digits after the point that the column keeps; negative for a column that keeps only tens, hundreds, ….
        scale: i32,
    },
    /// A whole number was needed.
    #[error("the number has a fraction, and nothing is rounded")]
    Fraction,
    /// A whole number that a floating-point column cannot hold exactly.
    #[error("the whole number cannot be held exactly by a floating-point column")]
    Inexact,
    /// NaN or an infinity where the type has none.
    #[error("the column holds neither infinity nor, unless it is numeric, NaN")]
    NotFinite,
    /// A time with a fraction of a second that the column would round.
    #[error(
        "the time is finer than the column's {digits} digits of a second, and nothing is rounded (the column's setting push_rounding changes that)"
    )]
    FinerThan {
        /// Digits of a second that the column keeps.
        digits: u32,
    },
    /// Text that is not a value of the type.
    #[error("the text is not a value of the column's type")]
    Unreadable,
    /// A byte 0 in text.
    #[error("the text contains a NUL character (the column's setting push_nul = \"strip\" removes it)")]
    Nul,
    /// A network address with bits beyond its mask.
    #[error("the network address has bits to the right of its mask")]
    HostBits,
    /// A bit string of another length than the column has.
    #[error("the bit string has {bits} bits, and the column holds {limit}")]
    Bits {
        /// Bits in the value.
        bits: u32,
        /// Bits that the column holds.
        limit: u32,
    },
    /// A text that is not one of an enum's labels.
    #[error("the text is not a label of the column's enum type")]
    Label,
    /// A name of more than 63 bytes.
    #[error("the text has {bytes} bytes, and a name holds 63")]
    LongName {
        /// Bytes in the value.
        bytes: usize,
    },
    /// Inner lists of different lengths, or more than six levels.
    #[error("the lists inside are not of equal length, which a Postgres array must have")]
    Ragged,
    /// An `int2vector` or `oidvector` without elements.
    #[error("the list is empty, and Postgres takes no empty int2vector or oidvector in binary form")]
    EmptyVector,
    /// A vector of another length than declared.
    #[error("the list has {found} elements, and the column's vectors have {expected}")]
    VectorLength {
        /// Elements of the value.
        found: usize,
        /// Elements that the column declares.
        expected: usize,
    },
    /// The same key twice in an `hstore`.
    #[error("the map has a key twice")]
    DuplicateKey,
    /// A part of a value, such as a coordinate, is null where Postgres has no null.
    #[error("a part of the value is null, which its type cannot hold")]
    NullPart,
    /// More characters than the column holds.
    #[error("the text has {chars} characters, and the column holds {limit}")]
    TooLong {
        /// Characters in the value.
        chars: usize,
        /// Characters that the column holds.
        limit: usize,
    },
    /// More bytes than a field can have.
    #[error("the value is longer than a gigabyte")]
    TooBig,
    /// A null where the column refuses nulls.
    #[error("the value is null, and the column is not null")]
    Null,
}

/// The start of a tuple of so many fields.
pub const fn tuple_start(fields: i16) -> [u8; 2] {
    fields.to_be_bytes()
}

/// The length word of a field of `bytes` bytes.
///
/// # Errors
/// [`ValueError::TooBig`] from one gigabyte on, which Postgres refuses.
pub fn length_word(bytes: usize) -> Result<[u8; 4], ValueError> {
    /// `MaxAllocSize` in Postgres.
    const FIELD_BYTES_MAX: usize = 0x3fff_ffff;
    match i32::try_from(bytes) {
        Ok(length) if bytes < FIELD_BYTES_MAX => Ok(length.to_be_bytes()),
        _ => Err(ValueError::TooBig),
    }
}

/// A field of `N` bytes, which its length word makes `M`.
const fn field<const N: usize, const M: usize>(value: [u8; N]) -> [u8; M] {
    const { assert!(M == N + 4 && N < 256, "a field is a length word and the value") };
    let mut field = [0; M];
    let (length, bytes) = field.split_at_mut(4);
    if let Some(last) = length.last_mut() {
        // Lossless: the assertion above bounds N.
        *last = N.to_le_bytes()[0];
    }
    bytes.copy_from_slice(&value);
    field
}

/// A `boolean` field.
pub const fn bool_field(value: bool) -> [u8; 5] {
    [0, 0, 0, 1, value as u8]
}

/// A `smallint` field.
pub const fn int2_field(value: i16) -> [u8; 6] {
    field(value.to_be_bytes())
}

/// A field of two bytes as they are, such as a half-precision number.
pub const fn half_field(value: [u8; 2]) -> [u8; 6] {
    field(value)
}

/// An `integer` field; also the form of a `date`.
pub const fn int4_field(value: i32) -> [u8; 8] {
    field(value.to_be_bytes())
}

/// A `bigint` field; also the form of `time` and of both timestamps.
pub const fn int8_field(value: i64) -> [u8; 12] {
    field(value.to_be_bytes())
}

/// A `real` field, bit for bit.
pub const fn float4_field(value: f32) -> [u8; 8] {
    field(value.to_be_bytes())
}

/// A `double precision` field, bit for bit.
pub const fn float8_field(value: f64) -> [u8; 12] {
    field(value.to_be_bytes())
}

/// A `uuid` field.
pub const fn uuid_field(value: [u8; 16]) -> [u8; 20] {
    field(value)
}

/// An `interval` field.
pub const fn interval_field(months: i32, days: i32, micros: i64) -> [u8; 20] {
    let mut value = [0; 16];
    let (first, rest) = value.split_at_mut(8);
    first.copy_from_slice(&micros.to_be_bytes());
    let (second, third) = rest.split_at_mut(4);
    second.copy_from_slice(&days.to_be_bytes());
    third.copy_from_slice(&months.to_be_bytes());
    field(value)
}

/// Days since 1970 as the wire counts them, since 2000. The two infinities (`i32::MAX` and `-i32::MAX`, as DuckDB
/// has them) become Postgres's.
///
/// # Errors
/// [`ValueError::OutOfRange`] before 4714-11-24 BC and after 5874897-12-31.
pub const fn date_to_wire(days: i32) -> Result<i32, ValueError> {
    match days {
        i32::MAX => Ok(i32::MAX),
        _ if days == -i32::MAX => Ok(i32::MIN),
        _ => match days.checked_sub(PG_EPOCH_OFFSET_DAYS) {
            Some(days) if days >= DATE_MIN_DAYS && days < DATE_END_DAYS => Ok(days),
            _ => Err(ValueError::OutOfRange),
        },
    }
}

/// Microseconds since 1970 as the wire counts them, since 2000. The two infinities (`i64::MAX` and `-i64::MAX`, as
/// DuckDB has them) become Postgres's.
///
/// # Errors
/// [`ValueError::OutOfRange`] before 4714-11-24 BC.
pub const fn timestamp_to_wire(micros: i64) -> Result<i64, ValueError> {
    match micros {
        i64::MAX => Ok(i64::MAX),
        i64::MIN => Err(ValueError::OutOfRange),
        _ if micros == -i64::MAX => Ok(i64::MIN),
        _ => match micros.checked_sub(PG_EPOCH_OFFSET_US) {
            Some(micros) if micros >= TIMESTAMP_MIN_US => Ok(micros),
            _ => Err(ValueError::OutOfRange),
        },
    }
}

/// Midnight of a day since 1970 as a wire timestamp; infinities stay infinite.
///
/// # Errors
/// [`ValueError::OutOfRange`] for days that a timestamp does not reach.
pub fn date_to_wire_timestamp(days: i32) -> Result<i64, ValueError> {
    match days {
        i32::MAX => Ok(i64::MAX),
        _ if days == -i32::MAX => Ok(i64::MIN),
        _ => i64::from(days).checked_mul(TIME_MAX_US).ok_or(ValueError::OutOfRange).and_then(timestamp_to_wire),
    }
}

/// Microseconds since midnight, checked: `24:00:00` is legal, anything above or below the day is not.
///
/// # Errors
/// [`ValueError::OutOfRange`].
pub const fn time_to_wire(micros: i64) -> Result<i64, ValueError> {
    if micros >= 0 && micros <= TIME_MAX_US { Ok(micros) } else { Err(ValueError::OutOfRange) }
}

/// A UUID read from the forms that Postgres reads: 32 hexadecimal digits, hyphens after any group of four, braces
/// around it all.
///
/// # Errors
/// [`ValueError::Unreadable`].
pub fn uuid_from_text(text: &str) -> Result<[u8; 16], ValueError> {
    let bare = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or(ValueError::Unreadable)?,
        None => text,
    };
    let mut uuid = [0_u8; 16];
    let mut digits = 0_usize;
    let mut after_hyphen = true;
    for byte in bare.bytes() {
        if byte == b'-' && !after_hyphen && digits.is_multiple_of(4) && digits < 32 {
            after_hyphen = true;
            continue;
        }
        let digit = char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (Some(digit), Some(slot)) = (digit, uuid.get_mut(digits / 2)) else { return Err(ValueError::Unreadable) };
        *slot = *slot << 4 | digit;
        digits += 1;
        after_hyphen = false;
    }
    if digits == 32 { Ok(uuid) } else { Err(ValueError::Unreadable) }
}

/// What a declared `numeric(precision, scale)` keeps. Postgres rounds what exceeds the scale without a word, so it
/// is refused here instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumericLimits {
    /// Digits before the point: precision minus scale.
    pub integer_digits: i32,
    /// Digits after the point; negative when the last digits before it are rounded too.
    pub scale: i32,
}

/// What happens to digits that a target column cannot keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// They are refused.
    #[default]
    Error,
    /// To the nearest; a half to the even neighbour.
    HalfEven,
    /// To the nearest; a half away from zero, as Postgres rounds numerics.
    HalfUp,
}

impl Rounding {
    /// Whether what is dropped moves the last kept digit up, by how it compares with a half.
    fn goes_up(self, dropped: Ordering, last_is_odd: bool) -> bool {
        match dropped {
            Ordering::Less => false,
            Ordering::Equal => self == Self::HalfUp || last_is_odd,
            Ordering::Greater => true,
        }
    }

    /// `value / 10^digits`, rounded; `None` when something would be dropped and may not be.
    pub fn whole(self, value: i128, digits: u32) -> Option<i128> {
        let Some(unit) = 10_i128.checked_pow(digits) else {
            // Whatever 128 bits hold is less than half of such a unit.
            return (value == 0 || self != Self::Error).then_some(0);
        };
        let (whole, rest) = (value / unit, (value % unit).unsigned_abs());
        if rest == 0 {
            return Some(whole);
        }
        let up = self.goes_up(rest.cmp(&(unit.unsigned_abs() / 2)), whole % 2 != 0);
        (self != Self::Error).then_some(if up { whole + value.signum() } else { whole })
    }

    /// Microseconds with so many digits of a second.
    ///
    /// # Errors
    /// [`ValueError::FinerThan`] when something would be dropped and may not be.
    pub fn fraction(self, micros: i64, digits: u32) -> Result<i64, ValueError> {
        let Some(dropped) = 6_u32.checked_sub(digits).filter(|dropped| *dropped > 0) else { return Ok(micros) };
        let unit = 10_i64.pow(dropped);
        if micros % unit == 0 {
            return Ok(micros);
        }
        let kept = self.whole(i128::from(micros), dropped).ok_or(ValueError::FinerThan { digits })?;
        i64::try_from(kept).ok().and_then(|kept| kept.checked_mul(unit)).ok_or(ValueError::OutOfRange)
    }
}

/// [`put_numeric`] of a number whose digits beyond the column's may be rounded.
///
/// # Errors
/// As [`put_numeric`].
pub fn put_rounded(
    out: &mut Vec<u8>,
    unscaled: i128,
    scale: u8,
    limits: Option<NumericLimits>,
    rounding: Rounding,
) -> Result<(), ValueError> {
    let dropped = limits.and_then(|limits| u32::try_from(i32::from(scale) - limits.scale).ok());
    let (Some(limits), Some(dropped)) = (limits, dropped.filter(|dropped| *dropped > 0 && rounding != Rounding::Error))
    else {
        return put_numeric(out, unscaled, scale, limits);
    };
    let rounded = rounding.whole(unscaled, dropped).unwrap_or(0);
    if let Ok(scale) = u8::try_from(limits.scale) {
        return put_numeric(out, rounded, scale, Some(limits));
    }
    // Whole tens, hundreds, …
    let whole = 10_i128.checked_pow(limits.scale.unsigned_abs()).and_then(|unit| rounded.checked_mul(unit));
    put_numeric(out, whole.ok_or(ValueError::OutOfRange)?, 0, Some(limits))
}

/// [`put_numeric_text`] of a number whose digits beyond the column's may be rounded.
///
/// # Errors
/// As [`put_numeric_text`].
pub fn put_rounded_text(
    out: &mut Vec<u8>,
    text: &str,
    limits: Option<NumericLimits>,
    rounding: Rounding,
) -> Result<(), ValueError> {
    match (put_numeric_text(out, text, limits), limits) {
        (Err(ValueError::Scale { scale }), Some(_)) if rounding != Rounding::Error => {
            let text = text.trim_ascii();
            let unsigned = text.trim_start_matches(['-', '+']);
            let sign = if text.starts_with('-') { "-" } else { "" };
            let rounded = Decimal::parse(unsigned.as_bytes())?.rounded(scale, rounding);
            put_numeric_text(out, &format!("{sign}{rounded}"), limits)
        }
        (result, _) => result,
    }
}

/// Zeros that rounding may add behind the digits of a text: as many as a numeric has digits before the point.
const ZEROS_ADDED_MAX: usize = 131_072;
/// Decimal digits in one digit of the wire format.
const GROUP_DIGITS: usize = 4;
/// Digits before the point that a numeric can have.
const NUMERIC_INTEGER_DIGITS_MAX: i64 = 131_072;
/// Digits after the point that a numeric can have.
const NUMERIC_SCALE_MAX: i64 = 16_383;
/// Sign words of the wire format.
const POSITIVE: u16 = 0;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// 10^n, or `None` when it exceeds every number of 128 bits.
fn power_of_ten(n: i32) -> Option<u128> {
    u32::try_from(n).ok().and_then(|n| 10_u128.checked_pow(n))
}

/// Whether a column keeps `unscaled · 10^-scale` unchanged.
fn check_limits(magnitude: u128, scale: u8, limits: NumericLimits) -> Result<(), ValueError> {
    let dropped = i32::from(scale) - limits.scale;
    if dropped > 0 && magnitude != 0 {
        match power_of_ten(dropped) {
            Some(power) if magnitude.is_multiple_of(power) => {}
            _ => return Err(ValueError::Scale { scale: limits.scale }),
        }
    }
    match power_of_ten(limits.integer_digits + i32::from(scale)) {
        Some(bound) if magnitude >= bound => Err(ValueError::Precision { limit: limits.integer_digits }),
        // A negative exponent: the column keeps only zeros after the point, so only zero fits.
        None if limits.integer_digits + i32::from(scale) < 0 && magnitude != 0 => {
            Err(ValueError::Precision { limit: limits.integer_digits })
        }
        _ => Ok(()),
    }
}

/// Appends a `numeric` field of `unscaled · 10^-scale`, shown with `scale` decimal places. Nothing is rounded.
///
/// # Errors
/// [`ValueError::Precision`] and [`ValueError::Scale`] when `limits` would change the value.
/// # Source
/// `numeric_recv` in Postgres `src/backend/utils/adt/numeric.c`: base-10000 digits, zero digits at either end left out.
pub fn put_numeric(
    out: &mut Vec<u8>,
    unscaled: i128,
    scale: u8,
    limits: Option<NumericLimits>,
) -> Result<(), ValueError> {
    let magnitude = unscaled.unsigned_abs();
    if let Some(limits) = limits {
        check_limits(magnitude, scale, limits)?;
    }
    let mut digits = GroupsFromTheRight::default();
    let partial = u32::from(scale) % 4;
    let mut rest = magnitude;
    if partial != 0 {
        let unit = 10_u128.pow(partial);
        digits.push(u16::try_from(rest % unit).unwrap_or(0) * 10_u16.pow(4 - partial));
        rest /= unit;
    }
    // Divisions of 128 bits are slow; four digits of the wire at a time leave at most two of them.
    while rest > u128::from(u64::MAX) {
        digits.push_four(u64::try_from(rest % 10_000_000_000_000_000).unwrap_or(0));
        rest /= 10_000_000_000_000_000;
    }
    digits.push_all(u64::try_from(rest).unwrap_or(0));
    let groups_after_point = i16::from(scale.div_ceil(4));
    let (digits, weight) = digits.stripped(groups_after_point);
    let sign = if unscaled < 0 { NEGATIVE } else { POSITIVE };
    put_numeric_parts(out, digits.iter().rev().copied(), weight, sign, u16::from(scale));
    Ok(())
}

/// Base-10000 digits, least significant first: 39 decimal digits and a group that the point splits need at most 11.
#[derive(Default)]
struct GroupsFromTheRight {
    groups: [u16; 16],
    len: usize,
}

impl GroupsFromTheRight {
    fn push(&mut self, group: u16) {
        if let Some(slot) = self.groups.get_mut(self.len) {
            *slot = group;
            self.len += 1;
        }
    }

    fn push_four(&mut self, mut value: u64) {
        for _ in 0..4 {
            self.push(u16::try_from(value % 10_000).unwrap_or(0));
            value /= 10_000;
        }
    }

    fn push_all(&mut self, mut value: u64) {
        while value != 0 {
            self.push(u16::try_from(value % 10_000).unwrap_or(0));
            value /= 10_000;
        }
    }

    /// The groups without zeros at either end, and the weight of the first on the wire.
    fn stripped(&self, groups_after_point: i16) -> (&[u16], i16) {
        let mut groups = self.groups.get(..self.len).unwrap_or_default();
        while let [rest @ .., 0] = groups {
            groups = rest;
        }
        let weight = i16::try_from(groups.len()).unwrap_or(0) - groups_after_point - 1;
        while let [0, rest @ ..] = groups {
            groups = rest;
        }
        if groups.is_empty() { (groups, 0) } else { (groups, weight) }
    }
}

fn put_numeric_parts(
    out: &mut Vec<u8>,
    groups: impl ExactSizeIterator<Item = u16>,
    weight: i16,
    sign: u16,
    display_scale: u16,
) {
    let count = u16::try_from(groups.len()).unwrap_or(u16::MAX);
    let mut head = [0_u8; 12];
    let (length, rest) = head.split_at_mut(4);
    length.copy_from_slice(&(8 + 2 * u32::from(count)).to_be_bytes());
    let words = [count.to_be_bytes(), weight.to_be_bytes(), sign.to_be_bytes(), display_scale.to_be_bytes()];
    rest.copy_from_slice(words.as_flattened());
    out.extend_from_slice(&head);
    for group in groups {
        out.extend_from_slice(&group.to_be_bytes());
    }
}

/// Appends a `numeric` field of a decimal number as text, with the decimal places the text shows (`1.10` keeps its
/// zero): digits with an optional sign, point and exponent, or `NaN`, `Infinity`, `-Infinity`. Nothing is rounded.
///
/// # Errors
/// [`ValueError::Unreadable`] for other text, [`ValueError::OutOfRange`] beyond what a numeric holds at all,
/// [`ValueError::Precision`], [`ValueError::Scale`] and [`ValueError::NotFinite`] when `limits` would change or refuse it.
pub fn put_numeric_text(out: &mut Vec<u8>, text: &str, limits: Option<NumericLimits>) -> Result<(), ValueError> {
    let text = text.trim_ascii();
    let (negative, unsigned) = match text.as_bytes() {
        [b'-', ..] => (true, text.get(1..).unwrap_or_default()),
        [b'+', ..] => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return put_numeric_word(out, text, unsigned, negative, limits);
    }
    let decimal = Decimal::parse(unsigned.as_bytes())?;
    decimal.check(limits)?;
    let sign = if negative && decimal.has_digits() { NEGATIVE } else { POSITIVE };
    decimal.put(out, sign)
}

fn put_numeric_word(
    out: &mut Vec<u8>,
    text: &str,
    unsigned: &str,
    negative: bool,
    limits: Option<NumericLimits>,
) -> Result<(), ValueError> {
    let sign = if text.eq_ignore_ascii_case("nan") {
        NAN
    } else if unsigned.eq_ignore_ascii_case("infinity") || unsigned.eq_ignore_ascii_case("inf") {
        if limits.is_some() {
            return Err(ValueError::NotFinite);
        }
        if negative { NEGATIVE_INFINITY } else { INFINITY }
    } else {
        return Err(ValueError::Unreadable);
    };
    put_numeric_parts(out, std::iter::empty(), 0, sign, 0);
    Ok(())
}

/// A decimal number in text: its digits without the point and without zeros at the left, and where the point stands.
struct Decimal<'a> {
    /// Digits before the point as written, then those after it.
    integer: &'a [u8],
    fraction: &'a [u8],
    /// Moves the point to the right.
    exponent: i64,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a [u8]) -> Result<Self, ValueError> {
        let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => {
                let (mantissa, tail) = text.split_at(at);
                let exponent = std::str::from_utf8(tail.get(1..).unwrap_or_default()).unwrap_or_default();
                (mantissa, exponent.parse::<i32>().map_err(|_| ValueError::Unreadable)?)
            }
            None => (text, 0),
        };
        let (integer, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
            Some(at) => (mantissa.get(..at).unwrap_or_default(), mantissa.get(at + 1..).unwrap_or_default()),
            None => (mantissa, [].as_slice()),
        };
        let all_digits = integer.iter().chain(fraction).all(u8::is_ascii_digit);
        if !all_digits || integer.is_empty() && fraction.is_empty() {
            return Err(ValueError::Unreadable);
        }
        let zeros = integer.iter().take_while(|digit| **digit == b'0').count();
        Ok(Self { integer: integer.get(zeros..).unwrap_or_default(), fraction, exponent: i64::from(exponent) })
    }

    fn len(&self) -> usize {
        self.integer.len() + self.fraction.len()
    }

    fn digit(&self, at: usize) -> u8 {
        let digit = match self.integer.get(at) {
            Some(digit) => Some(digit),
            None => self.fraction.get(at - self.integer.len()),
        };
        digit.map_or(0, |digit| digit - b'0')
    }

    fn has_digits(&self) -> bool {
        (0..self.len()).any(|at| self.digit(at) != 0)
    }

    /// Digits before the point after the exponent has moved it; negative for `0.00…1`.
    fn integer_digits(&self) -> i64 {
        i64::try_from(self.integer.len()).unwrap_or(i64::MAX).saturating_add(self.exponent)
    }

    /// Decimal places the text shows.
    fn scale(&self) -> i64 {
        i64::try_from(self.fraction.len()).unwrap_or(i64::MAX).saturating_sub(self.exponent).max(0)
    }

    /// Rounds to `scale` decimal places; gives text of whole units of the last place kept.
    fn rounded(&self, scale: i32, rounding: Rounding) -> String {
        let kept = self.integer_digits().saturating_add(i64::from(scale));
        let Ok(kept) = usize::try_from(kept) else { return "0".to_owned() };
        let mut digits: Vec<u8> = (0..kept.min(self.len())).map(|at| self.digit(at)).collect();
        digits.resize(kept.min(self.len() + ZEROS_ADDED_MAX), 0);
        let mut dropped = (kept..self.len()).map(|at| self.digit(at));
        let first = dropped.next().unwrap_or(0);
        let order =
            first.cmp(&5).then(if dropped.any(|digit| digit != 0) { Ordering::Greater } else { Ordering::Equal });
        if rounding.goes_up(order, digits.last().is_some_and(|digit| digit % 2 == 1)) {
            let mut carry = true;
            for digit in digits.iter_mut().rev() {
                if carry {
                    carry = *digit == 9;
                    *digit = if carry { 0 } else { *digit + 1 };
                }
            }
            if carry {
                digits.insert(0, 1);
            }
        }
        if digits.is_empty() {
            return "0".to_owned();
        }
        let digits: String = digits.into_iter().map(|digit| char::from(b'0' + digit)).collect();
        format!("{digits}e{}", -scale)
    }

    fn check(&self, limits: Option<NumericLimits>) -> Result<(), ValueError> {
        let first = (0..self.len()).find(|at| self.digit(*at) != 0);
        let last = (0..self.len()).rfind(|at| self.digit(*at) != 0);
        let (Some(first), Some(last)) = (first, last) else {
            return if self.scale() > NUMERIC_SCALE_MAX { Err(ValueError::OutOfRange) } else { Ok(()) };
        };
        // Places before the point of the first and after the point of the last digit that is not zero.
        let place = |at: usize| self.integer_digits().saturating_sub(i64::try_from(at).unwrap_or(i64::MAX));
        let (before, after) = (place(first), place(last).saturating_neg().saturating_add(1));
        if before > NUMERIC_INTEGER_DIGITS_MAX || after > NUMERIC_SCALE_MAX || self.scale() > NUMERIC_SCALE_MAX {
            return Err(ValueError::OutOfRange);
        }
        let Some(limits) = limits else { return Ok(()) };
        if after > i64::from(limits.scale) {
            return Err(ValueError::Scale { scale: limits.scale });
        }
        if before > i64::from(limits.integer_digits) {
            return Err(ValueError::Precision { limit: limits.integer_digits });
        }
        Ok(())
    }

    fn put(&self, out: &mut Vec<u8>, sign: u16) -> Result<(), ValueError> {
        let scale = u16::try_from(self.scale()).map_err(|_| ValueError::OutOfRange)?;
        if !self.has_digits() {
            put_numeric_parts(out, std::iter::empty(), 0, POSITIVE, scale);
            return Ok(());
        }
        let group_digits = i64::try_from(GROUP_DIGITS).unwrap_or(4);
        // Zeros to put before the first digit, so that the point stands between two groups.
        let padding = self.integer_digits().rem_euclid(group_digits);
        let padding = usize::try_from((group_digits - padding) % group_digits).unwrap_or(0);
        let groups = (padding + self.len()).div_ceil(GROUP_DIGITS);
        let group = |index: usize| {
            (0..GROUP_DIGITS).fold(0_u16, |group, place| {
                let at = (index * GROUP_DIGITS + place).checked_sub(padding);
                group * 10 + at.filter(|at| *at < self.len()).map_or(0, |at| u16::from(self.digit(at)))
            })
        };
        let first = (0..groups).find(|index| group(*index) != 0).unwrap_or(0);
        let end = (0..groups).rfind(|index| group(*index) != 0).map_or(0, |index| index + 1);
        let groups_before_point = self.integer_digits().div_euclid(group_digits)
            + i64::from(self.integer_digits().rem_euclid(group_digits) != 0);
        let weight = groups_before_point - 1 - i64::try_from(first).unwrap_or(0);
        let weight = i16::try_from(weight).map_err(|_| ValueError::OutOfRange)?;
        put_numeric_parts(out, (first..end).map(group), weight, sign, scale);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The parts of a numeric field.
    fn parts(field: &[u8]) -> (i16, u16, u16, Vec<u16>) {
        let words: Vec<u16> = field[4..].chunks(2).map(|word| u16::from_be_bytes([word[0], word[1]])).collect();
        assert_eq!(
            field.len() - 4,
            usize::try_from(u32::from_be_bytes(field[..4].try_into().expect("four"))).expect("fits")
        );
        assert_eq!(usize::from(words[0]), words.len() - 4, "digit count");
        (words[1].cast_signed(), words[2], words[3], words[4..].to_vec())
    }

    fn numeric(unscaled: i128, scale: u8) -> (i16, u16, u16, Vec<u16>) {
        let mut out = Vec::new();
        put_numeric(&mut out, unscaled, scale, None).expect("no limits");
        parts(&out)
    }

    fn text(text: &str) -> (i16, u16, u16, Vec<u16>) {
        let mut out = Vec::new();
        put_numeric_text(&mut out, text, None).expect(text);
        parts(&out)
    }

    #[test]
    fn zero_groups_inside_stay_and_at_the_ends_go() {
        assert_eq!(numeric(0, 2), (0, 0, 2, vec![]));
        assert_eq!(numeric(100_001_234, 8), (0, 0, 8, vec![1, 0, 1234]));
        assert_eq!(numeric(-100_000_000, 0), (2, 0x4000, 0, vec![1]));
        assert_eq!(numeric(12_345, 3), (0, 0, 3, vec![12, 3450]));
        assert_eq!(numeric(5, 9), (-3, 0, 9, vec![5000]));
        assert_eq!(text("0.00001"), (-2, 0, 5, vec![1000]));
        assert_eq!(text("1.00001234"), (0, 0, 8, vec![1, 0, 1234]));
        assert_eq!(text("-001e8"), (2, 0x4000, 0, vec![1]));
        assert_eq!(text("-0.00"), (0, 0, 2, vec![]));
        assert_eq!(text("NaN"), (0, 0xC000, 0, vec![]));
        assert_eq!(text("-Infinity"), (0, 0xF000, 0, vec![]));
    }

    #[test]
    fn nothing_is_rounded() {
        let limits = Some(NumericLimits { integer_digits: 3, scale: 2 });
        let mut out = Vec::new();
        assert_eq!(put_numeric(&mut out, 1_239, 3, limits), Err(ValueError::Scale { scale: 2 }));
        assert_eq!(put_numeric(&mut out, 1_230, 3, limits), Ok(()));
        assert_eq!(put_numeric(&mut out, 100_000, 2, limits), Err(ValueError::Precision { limit: 3 }));
        assert_eq!(put_numeric(&mut out, -99_999, 2, limits), Ok(()));
        assert_eq!(put_numeric_text(&mut out, "1.239", limits), Err(ValueError::Scale { scale: 2 }));
        assert_eq!(put_numeric_text(&mut out, "1.230", limits), Ok(()));
        assert_eq!(put_numeric_text(&mut out, "1e3", limits), Err(ValueError::Precision { limit: 3 }));
        assert_eq!(put_numeric_text(&mut out, "Infinity", limits), Err(ValueError::NotFinite));
        let thousands = Some(NumericLimits { integer_digits: 6, scale: -3 });
        assert_eq!(put_numeric(&mut out, 123_000, 0, thousands), Ok(()));
        assert_eq!(put_numeric(&mut out, 123_400, 0, thousands), Err(ValueError::Scale { scale: -3 }));
    }

    #[test]
    fn rounding_is_to_the_nearest() {
        let limits = Some(NumericLimits { integer_digits: 3, scale: 1 });
        let both = |unscaled, digits: &str, rounding| {
            let (mut from_digits, mut from_text) = (Vec::new(), Vec::new());
            put_rounded(&mut from_digits, unscaled, 2, limits, rounding).expect("fits");
            put_rounded_text(&mut from_text, digits, limits, rounding).expect("fits");
            assert_eq!(from_digits, from_text, "{digits}");
            parts(&from_digits)
        };
        assert_eq!(both(125, "1.25", Rounding::HalfEven), (0, 0, 1, vec![1, 2000]));
        assert_eq!(both(125, "1.25", Rounding::HalfUp), (0, 0, 1, vec![1, 3000]));
        assert_eq!(both(-135, "-1.35", Rounding::HalfEven), (0, 0x4000, 1, vec![1, 4000]));
        assert_eq!(both(-124, "-1.24", Rounding::HalfUp), (0, 0x4000, 1, vec![1, 2000]));
        assert_eq!(both(999, "9.99", Rounding::HalfEven), (0, 0, 1, vec![10]));
        assert_eq!(both(4, "0.04", Rounding::HalfUp), (0, 0, 1, vec![]));
        let overflow = put_rounded(&mut Vec::new(), 99_999, 2, limits, Rounding::HalfUp);
        assert_eq!(overflow, Err(ValueError::Precision { limit: 3 }));
        let hundreds = Some(NumericLimits { integer_digits: 5, scale: -2 });
        let mut out = Vec::new();
        assert_eq!(put_rounded(&mut out, 12_351, 0, hundreds, Rounding::HalfUp), Ok(()));
        assert_eq!(parts(&out), (1, 0, 0, vec![1, 2400]));
        assert_eq!(Rounding::HalfEven.fraction(-1_500_000, 0), Ok(-2_000_000));
        assert_eq!(Rounding::HalfEven.fraction(2_500_000, 0), Ok(2_000_000));
        assert_eq!(Rounding::Error.fraction(2_500_000, 0), Err(ValueError::FinerThan { digits: 0 }));
    }

    #[test]
    fn text_that_is_no_number_is_refused() {
        for bad in ["", "-", ".", "1.2.3", "1e", "e5", "12a", "0x1f", "1 2", "+nan", "--1", "1e5.5", "1-"] {
            assert_eq!(put_numeric_text(&mut Vec::new(), bad, None), Err(ValueError::Unreadable), "{bad:?}");
        }
        assert_eq!(put_numeric_text(&mut Vec::new(), "1e200000", None), Err(ValueError::OutOfRange));
        assert_eq!(put_numeric_text(&mut Vec::new(), "1e-20000", None), Err(ValueError::OutOfRange));
    }

    #[test]
    fn infinities_and_ends_of_time() {
        assert_eq!(date_to_wire(i32::MAX), Ok(i32::MAX));
        assert_eq!(date_to_wire(-i32::MAX), Ok(i32::MIN));
        assert_eq!(date_to_wire(i32::MIN), Err(ValueError::OutOfRange));
        assert_eq!(date_to_wire(10_957), Ok(0));
        assert_eq!(date_to_wire(DATE_MIN_DAYS + 10_957), Ok(DATE_MIN_DAYS));
        assert_eq!(date_to_wire(DATE_MIN_DAYS + 10_956), Err(ValueError::OutOfRange));
        assert_eq!(timestamp_to_wire(-i64::MAX), Ok(i64::MIN));
        assert_eq!(timestamp_to_wire(i64::MIN), Err(ValueError::OutOfRange));
        assert_eq!(timestamp_to_wire(i64::MAX - 1), Ok(i64::MAX - 1 - PG_EPOCH_OFFSET_US));
        assert_eq!(time_to_wire(TIME_MAX_US), Ok(TIME_MAX_US));
        assert_eq!(time_to_wire(TIME_MAX_US + 1), Err(ValueError::OutOfRange));
    }

    #[test]
    fn uuids_are_read_in_every_form_that_postgres_reads() {
        let expected = [0xa0, 0xee, 0xbc, 0x99, 0x9c, 0x0b, 0x4e, 0xf8, 0xbb, 0x6d, 0x6b, 0xb9, 0xbd, 0x38, 0x0a, 0x11];
        for good in [
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC999C0B4EF8BB6D6BB9BD380A11",
            "{a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11}",
        ] {
            assert_eq!(uuid_from_text(good), Ok(expected), "{good}");
        }
        for bad in [
            "",
            "a0eebc99",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a1g",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
        ] {
            assert_eq!(uuid_from_text(bad), Err(ValueError::Unreadable), "{bad}");
        }
    }

    proptest! {
        /// Both ways to write a number give the same bytes.
        #[test]
        fn digits_and_text_agree(unscaled in any::<i128>(), shift in 0_u32..120, scale in 0_u8..39) {
            let unscaled = unscaled >> shift;
            let digits = format!("{:0>1$}", unscaled.unsigned_abs(), usize::from(scale) + 1);
            let (integer, fraction) = digits.split_at(digits.len() - usize::from(scale));
            let sign = if unscaled < 0 { "-" } else { "" };
            prop_assert_eq!(numeric(unscaled, scale), text(&format!("{sign}{integer}.{fraction}")));
        }

        /// No text makes it panic.
        #[test]
        fn any_text_gives_a_field_or_an_error(input in "[-+0-9.eE]{0,12}|\\PC*") {
            let _ = put_numeric_text(&mut Vec::new(), &input, None);
            let _ = uuid_from_text(&input);
        }
    }
}
