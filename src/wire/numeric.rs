//! `numeric` fields: base-10000 digits to an exact integer or to exact decimal text.
//!
//! ```text
//! ndigits i16 | weight i16 | sign u16 | dscale u16 | ndigits × digit i16
//! value = sum of digit[i] × 10000^(weight - i)
//! ```
//! Source: `numeric_send` in Postgres `src/backend/utils/adt/numeric.c`.

use std::iter;

use super::FieldError;

const SIGN_NEGATIVE: u16 = 0x4000;
const SIGN_NAN: u16 = 0xC000;
const SIGN_INFINITY: u16 = 0xD000;
const SIGN_NEGATIVE_INFINITY: u16 = 0xF000;
const HEADER_BYTES: usize = 8;
/// Decimal digits in one wire digit.
const GROUP_DIGITS: i32 = 4;
const GROUP_BASE: i16 = 10_000;
/// Wire digits of a number that is scaled in 64 bits, and the powers of ten by which it then may be: together 18 digits.
const SHORT_GROUPS_MAX: usize = 3;
const SHORT_POWERS: [u64; 7] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];
/// The most digits that Arrow's `Decimal128` holds.
const DECIMAL128_LIMIT: u128 = 10_u128.pow(38);

/// A numeric's sign, or what it is instead of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumericSign {
    /// Zero or more.
    Positive,
    /// Below zero.
    Negative,
    /// `NaN`, `Infinity` or `-Infinity`.
    Special(&'static str),
}

/// One `numeric` field, checked and not yet converted.
#[derive(Debug, Clone, Copy)]
pub struct NumericDigits<'a> {
    sign: NumericSign,
    /// The exponent of the first digit, base 10000.
    weight: i32,
    /// Digits after the decimal point to show.
    display_scale: u16,
    digits: &'a [u8],
}

/// How wide a decimal text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecimalText {
    /// A number with this many digits before and after the point.
    Finite {
        /// Digits before the point; 0 below one.
        integer_digits: u32,
        /// Digits after the point.
        scale: u32,
    },
    /// `NaN` or an infinity.
    Special,
}

impl<'a> NumericDigits<'a> {
    /// Reads the field's header and checks its digits.
    ///
    /// # Errors
    /// [`FieldError::Malformed`] for bytes that Postgres never sends.
    pub fn parse(field: &'a [u8]) -> Result<Self, FieldError> {
        let malformed = FieldError::Malformed("numeric");
        let (&[n0, n1, w0, w1, s0, s1, d0, d1], digits) =
            field.split_first_chunk::<HEADER_BYTES>().ok_or(FieldError::Malformed("numeric"))?;
        let sign = match u16::from_be_bytes([s0, s1]) {
            0 => NumericSign::Positive,
            SIGN_NEGATIVE => NumericSign::Negative,
            // Weight and scale mean nothing for these.
            SIGN_NAN => return Ok(Self::special("NaN")),
            SIGN_INFINITY => return Ok(Self::special("Infinity")),
            SIGN_NEGATIVE_INFINITY => return Ok(Self::special("-Infinity")),
            _ => return Err(malformed),
        };
        if usize::try_from(i16::from_be_bytes([n0, n1])).ok() != Some(digits.len() / 2) || digits.len() % 2 != 0 {
            return Err(malformed);
        }
        let numeric = Self {
            sign,
            weight: i32::from(i16::from_be_bytes([w0, w1])),
            display_scale: u16::from_be_bytes([d0, d1]),
            digits,
        };
        if numeric.groups().any(|group| !(0..GROUP_BASE).contains(&group)) {
            return Err(malformed);
        }
        Ok(numeric)
    }

    fn special(name: &'static str) -> Self {
        Self { sign: NumericSign::Special(name), weight: 0, display_scale: 0, digits: &[] }
    }

    fn groups(&self) -> impl Iterator<Item = i16> + 'a {
        self.digits.as_chunks::<2>().0.iter().map(|digit| i16::from_be_bytes(*digit))
    }

    /// The sign, or the name of a special value.
    pub fn sign(&self) -> NumericSign {
        self.sign
    }

    /// The value times `10^scale`, exactly.
    ///
    /// # Errors
    /// [`FieldError::NotFinite`] for special values; [`FieldError::Digits`] when digits lie beyond `scale` or the
    /// result has more than 38 digits.
    pub fn to_scaled(self, scale: i32) -> Result<i128, FieldError> {
        if let NumericSign::Special(name) = self.sign {
            return Err(FieldError::NotFinite(name));
        }
        let unscaled = match self.to_scaled_short(scale) {
            Some(unscaled) => i128::from(unscaled),
            None => self.to_scaled_long(scale)?,
        };
        Ok(if self.sign == NumericSign::Negative { -unscaled } else { unscaled })
    }

    /// The magnitude times `10^scale` in 64 bits, as most numbers allow; nothing when it takes more or is not whole.
    #[inline]
    fn to_scaled_short(self, scale: i32) -> Option<u64> {
        let count = self.digits.len() / 2;
        if count > SHORT_GROUPS_MAX {
            return None;
        }
        let unscaled = self.groups().fold(0, |value, group| value * 10_000 + u64::from(group.unsigned_abs()));
        let exponent = (self.weight + 1 - i32::try_from(count).ok()?) * GROUP_DIGITS + scale;
        let power = SHORT_POWERS.get(usize::try_from(exponent.unsigned_abs()).ok()?)?;
        match exponent >= 0 {
            true => Some(unscaled * power),
            false => (unscaled % power == 0).then(|| unscaled / power),
        }
    }

    /// The same for any number of digits.
    fn to_scaled_long(self, scale: i32) -> Result<i128, FieldError> {
        let mut unscaled: u128 = 0;
        // The power of ten that the last group read so far stands for.
        let mut exponent = (self.weight + 1) * GROUP_DIGITS;
        for group in self.groups() {
            exponent -= GROUP_DIGITS;
            let mut group = u128::from(group.unsigned_abs());
            let mut shift = GROUP_DIGITS;
            if exponent < -scale {
                // Only the last kept group is cut, and what is cut must be zeros.
                let cut = (-scale - exponent).min(GROUP_DIGITS);
                let divisor = pow10(cut);
                if group % divisor != 0 {
                    return Err(FieldError::Digits);
                }
                group /= divisor;
                shift -= cut;
            }
            unscaled = unscaled
                .checked_mul(pow10(shift))
                .and_then(|value| value.checked_add(group))
                .filter(|value| *value < DECIMAL128_LIMIT)
                .ok_or(FieldError::Digits)?;
        }
        let missing = exponent + scale;
        if unscaled != 0 && missing > 0 {
            let factor = u32::try_from(missing).ok().and_then(|digits| 10_u128.checked_pow(digits));
            unscaled = factor
                .and_then(|factor| unscaled.checked_mul(factor))
                .filter(|value| *value < DECIMAL128_LIMIT)
                .ok_or(FieldError::Digits)?;
        }
        i128::try_from(unscaled).map_err(|_| FieldError::Digits)
    }

    /// Appends the exact decimal text that `numeric::text` gives in Postgres, display scale kept.
    pub fn write_text(self, out: &mut Vec<u8>) -> DecimalText {
        match self.sign {
            NumericSign::Special(name) => {
                out.extend_from_slice(name.as_bytes());
                return DecimalText::Special;
            }
            NumericSign::Negative => out.push(b'-'),
            NumericSign::Positive => {}
        }
        let integer_start = out.len();
        let mut groups = self.groups();
        for position in 0..=self.weight {
            let group = groups.next().unwrap_or(0);
            push_group(out, group, position > 0);
        }
        let integer_digits = out.len() - integer_start;
        if integer_digits == 0 {
            out.push(b'0');
        }
        let scale = usize::from(self.display_scale);
        if scale > 0 {
            out.push(b'.');
            let end = out.len() + scale;
            // Groups between the point and the first digit are zeros that the wire leaves out.
            let zeros = usize::try_from(-1 - self.weight).unwrap_or(0);
            for group in iter::repeat_n(0, zeros).chain(groups).chain(iter::repeat(0)) {
                if out.len() >= end {
                    break;
                }
                push_group(out, group, true);
            }
            out.truncate(end);
        }
        DecimalText::Finite {
            integer_digits: u32::try_from(integer_digits).unwrap_or(u32::MAX),
            scale: u32::from(self.display_scale),
        }
    }
}

fn pow10(digits: i32) -> u128 {
    10_u128.pow(digits.unsigned_abs())
}

/// Appends four digits, leading zeros only when `padded`.
#[inline]
fn push_group(out: &mut Vec<u8>, group: i16, padded: bool) {
    let group = group.unsigned_abs();
    let digits =
        [group / 1000, group / 100 % 10, group / 10 % 10, group % 10].map(|digit| b'0' + digit.to_le_bytes()[0]);
    let leading_zeros =
        usize::from(group < 1000) + usize::from(group < 100) + usize::from(group < 10) + usize::from(group == 0);
    match padded {
        true => out.extend_from_slice(&digits),
        false => out.extend_from_slice(digits.get(leading_zeros..).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn field(weight: i16, sign: u16, dscale: u16, digits: &[i16]) -> Vec<u8> {
        let mut bytes = i16::try_from(digits.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(weight.to_be_bytes());
        bytes.extend(sign.to_be_bytes());
        bytes.extend(dscale.to_be_bytes());
        bytes.extend(digits.iter().flat_map(|digit| digit.to_be_bytes()));
        bytes
    }

    fn text(field: &[u8]) -> String {
        let mut out = Vec::new();
        NumericDigits::parse(field).unwrap().write_text(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// Fields as `numeric_send` of PostgreSQL 15 gives them, and the text the server prints.
    #[test]
    fn text_is_what_postgres_prints() {
        let cases: [(&str, Vec<u8>); 8] = [
            ("0", field(0, 0, 0, &[])),
            ("1.00001234", field(0, 0, 8, &[1, 0, 1234])),
            ("100000000", field(2, 0, 0, &[1])),
            ("-0.000012", field(-2, 0x4000, 6, &[1200])),
            ("1.10", field(0, 0, 2, &[1, 1000])),
            ("12345.678", field(1, 0, 3, &[1, 2345, 6780])),
            ("0.00", field(0, 0, 2, &[])),
            ("NaN", field(0, 0xC000, 0, &[])),
        ];
        for (expected, field) in cases {
            assert_eq!(text(&field), expected);
        }
    }

    #[test]
    fn scaled_values_are_exact() {
        let numeric = |field: &[u8], scale| NumericDigits::parse(field).unwrap().to_scaled(scale);
        assert_eq!(numeric(&field(0, 0, 8, &[1, 0, 1234]), 8), Ok(100_001_234));
        assert_eq!(numeric(&field(2, 0, 0, &[1]), 2), Ok(10_000_000_000));
        assert_eq!(numeric(&field(-2, 0x4000, 6, &[1200]), 6), Ok(-12));
        assert_eq!(numeric(&field(1, 0, 0, &[12, 3000]), -3), Ok(123));
        assert_eq!(numeric(&field(0, 0, 2, &[]), 2), Ok(0));
        assert_eq!(numeric(&field(0, 0, 3, &[1, 2340]), 2), Err(FieldError::Digits));
        assert_eq!(numeric(&field(9, 0, 0, &[1; 10]), 2), Err(FieldError::Digits));
        assert_eq!(numeric(&field(0, 0xF000, 32, &[]), 2), Err(FieldError::NotFinite("-Infinity")));
    }

    proptest! {
        #[test]
        fn short_numbers_are_scaled_as_long_ones(
            weight in -4_i16..4, digits in vec(0_i16..10_000, 0..4), scale in -8_i32..12,
        ) {
            let field = field(weight, 0, 0, &digits);
            let number = NumericDigits::parse(&field).unwrap();
            prop_assert_eq!(number.to_scaled(scale), number.to_scaled_long(scale));
        }
    }

    #[test]
    fn bytes_postgres_never_sends_are_refused() {
        for bytes in [vec![0; 7], field(0, 0x1234, 0, &[]), field(0, 0, 0, &[10_000]), field(0, 0, 0, &[-1])] {
            assert_eq!(NumericDigits::parse(&bytes).err(), Some(FieldError::Malformed("numeric")));
        }
    }
}
