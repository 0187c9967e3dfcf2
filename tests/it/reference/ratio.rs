//! Exact fractions, so that a tie is a tie and rounding has one answer.

use std::cmp::Ordering;
use std::iter::Sum;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A fraction in lowest terms with a positive denominator.
///
/// The numbers of a small world fit with room to spare; if they ever did not, the overflow would fail the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ratio {
    top: i128,
    bottom: i128,
}

impl Ratio {
    pub(super) const ZERO: Self = Self { top: 0, bottom: 1 };
    pub(super) const ONE: Self = Self { top: 1, bottom: 1 };

    /// `top` / `bottom`. `bottom` is not 0.
    pub(super) fn new(top: impl Into<i128>, bottom: impl Into<i128>) -> Self {
        let (top, bottom) = (top.into(), bottom.into());
        let divisor = greatest_common_divisor(top.abs(), bottom.abs()) * bottom.signum();
        Self { top: top / divisor, bottom: bottom / divisor }
    }

    /// The nearest multiple of 10^-`digits`; a tie goes away from zero.
    pub(super) fn rounded(self, digits: u32) -> Self {
        let scale = 10_i128.pow(digits);
        let nearest = (2 * self.top.abs() * scale + self.bottom) / (2 * self.bottom);
        Self::new(self.top.signum() * nearest, scale)
    }

    /// The square root, rounded as in [`Ratio::rounded`] without ever being computed: k is the whole number with
    /// (k − 1/2)² <= x < (k + 1/2)².
    pub(super) fn rounded_root(self, digits: u32) -> Self {
        let scale = 10_i128.pow(digits);
        let (top, bottom) = (self.top * scale * scale, self.bottom);
        let below = (top / bottom).isqrt();
        let is_nearer_to_next = (2 * below + 1).pow(2) * bottom <= 4 * top;
        Self::new(below + i128::from(is_nearer_to_next), scale)
    }

    /// The nearest double.
    #[expect(clippy::cast_precision_loss, reason = "both are far below 2^53 once rounded, so the quotient is exact")]
    pub(super) fn to_f64(self) -> f64 {
        self.top as f64 / self.bottom as f64
    }

    /// The decimal of at most six digits after the point whose nearest double this is.
    #[expect(clippy::cast_possible_truncation, reason = "the features are small numbers")]
    pub(super) fn of_decimal(x: f64) -> Self {
        Self::new((x * 1e6).round() as i64, 1_000_000)
    }

    /// A whole number.
    pub(super) fn to_i64(self) -> i64 {
        assert_eq!(self.bottom, 1, "{self:?} is not whole");
        i64::try_from(self.top).expect("numbers of a small world fit")
    }
}

/// A double rounded to a decimal, for the few features with a logarithm or a quotient of roots in them. The slack makes
/// a decimal tie (1.00005) one although its nearest double is below it.
#[expect(clippy::cast_possible_truncation, reason = "the features are small numbers")]
pub(super) fn rounded_double(x: f64, digits: u32) -> Ratio {
    let scale = 10_i64.pow(digits);
    let nearest = (x.abs() * Ratio::from(scale).to_f64() + 0.5 + 1e-9).floor() as i64;
    Ratio::new(if x < 0.0 { -nearest } else { nearest }, scale)
}

/// The mean; none of no values.
pub(super) fn mean<T: Into<Ratio>>(values: impl IntoIterator<Item = T>) -> Option<Ratio> {
    let values: Vec<Ratio> = values.into_iter().map(Into::into).collect();
    let count = i64::try_from(values.len()).expect("a small world");
    (count > 0).then(|| values.into_iter().sum::<Ratio>() / Ratio::from(count))
}

/// The sample standard deviation, rounded; none for fewer than two values.
pub(super) fn rounded_deviation<T: Into<Ratio>>(values: impl IntoIterator<Item = T>, digits: u32) -> Option<Ratio> {
    let values: Vec<Ratio> = values.into_iter().map(Into::into).collect();
    Some(variance(&values)?.rounded_root(digits))
}

/// The square of the sample standard deviation; none for fewer than two values.
pub(super) fn variance(values: &[Ratio]) -> Option<Ratio> {
    let mean = mean(values.iter().copied())?;
    let squares: Ratio = values.iter().map(|&value| (value - mean) * (value - mean)).sum();
    let others = i64::try_from(values.len() - 1).expect("a small world");
    (others > 0).then(|| squares / Ratio::from(others))
}

fn greatest_common_divisor(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl From<i64> for Ratio {
    fn from(whole: i64) -> Self {
        Self { top: i128::from(whole), bottom: 1 }
    }
}

impl From<bool> for Ratio {
    /// 1 if it holds, else 0.
    fn from(holds: bool) -> Self {
        Self::from(i64::from(holds))
    }
}

impl Add for Ratio {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self::new(self.top * other.bottom + other.top * self.bottom, self.bottom * other.bottom)
    }
}

impl Sub for Ratio {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Ratio {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        Self::new(self.top * other.top, self.bottom * other.bottom)
    }
}

impl Div for Ratio {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        Self::new(self.top * other.bottom, self.bottom * other.top)
    }
}

impl Neg for Ratio {
    type Output = Self;
    fn neg(self) -> Self {
        Self { top: -self.top, ..self }
    }
}

impl Sum for Ratio {
    fn sum<I: Iterator<Item = Self>>(values: I) -> Self {
        values.fold(Self::ZERO, Add::add)
    }
}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ratio {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.top * other.bottom).cmp(&(other.top * self.bottom))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_away_from_zero() {
        let rounded = |top: i64, bottom: i64| Ratio::new(top, bottom).rounded(2).to_f64();
        assert_eq!(
            [rounded(1, 200), rounded(-1, 200), rounded(1, 3)].map(f64::to_bits),
            [0.01, -0.01, 0.33].map(f64::to_bits)
        );
        assert_eq!(rounded(-1, 1000).to_bits(), 0.0_f64.to_bits(), "no negative zero");
    }

    #[test]
    fn roots_are_rounded_exactly() {
        assert_eq!(Ratio::from(2).rounded_root(4), Ratio::new(14_142, 10_000));
        assert_eq!(Ratio::new(1, 4).rounded_root(0), Ratio::ONE, "0.5 is a tie");
        assert_eq!(Ratio::new(249, 1000).rounded_root(0), Ratio::ZERO);
    }
}
