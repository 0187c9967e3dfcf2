//! Where fields go: the bytes of a block of rows, and in them the place of each row's next field.

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use half::f16;

use crate::wire::{
    NULL_FIELD, Rounding, ValueError, bool_field, date_to_wire, date_to_wire_timestamp, float4_field, float8_field,
    half_field, int2_field, int4_field, int8_field, interval_field, length_word, time_to_wire, timestamp_to_wire,
    uuid_field, uuid_from_text,
};

use super::BlockError;
use super::field::rows_of;
use super::form::Fixed;
use super::types::{with_floats, with_integers, with_text};

/// The greatest whole number up to which `real` holds every whole number.
const FLOAT4_EXACT_MAX: u64 = 1 << 24;

/// The greatest whole number up to which `double precision` holds every whole number.
const FLOAT8_EXACT_MAX: u64 = 1 << 53;

/// Microseconds in a day.
const DAY_US: i64 = 86_400_000_000;

/// The bytes of a block, and where each row's next field goes.
pub(super) struct Slots<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) places: &'a mut [usize],
}

impl Slots<'_> {
    pub(super) fn put(bytes: &mut [u8], place: &mut usize, field: &[u8]) {
        bytes[*place..*place + field.len()].copy_from_slice(field);
        *place += field.len();
    }

    /// Writes one field per row, all of one length.
    #[inline]
    pub(super) fn fill<T, const N: usize>(
        &mut self,
        nulls: Option<&NullBuffer>,
        values: impl Iterator<Item = T>,
        field: impl Fn(T) -> Result<[u8; N], ValueError>,
    ) -> Result<(), BlockError> {
        let bytes = &mut *self.bytes;
        let rows = self.places.iter_mut().zip(values).enumerate();
        match nulls.filter(|nulls| nulls.null_count() > 0) {
            None => {
                for (row, (place, value)) in rows {
                    let field = field(value).map_err(|reason| (row, reason))?;
                    Self::put(bytes, place, &field);
                }
            }
            Some(nulls) => {
                for ((row, (place, value)), valid) in rows.zip(nulls.iter()) {
                    if valid {
                        let field = field(value).map_err(|reason| (row, reason))?;
                        Self::put(bytes, place, &field);
                    } else {
                        Self::put(bytes, place, &NULL_FIELD);
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes one field of any length per row: length word, prefix, bytes.
    pub(super) fn fill_bytes<'v>(
        &mut self,
        nulls: Option<&NullBuffer>,
        values: impl Iterator<Item = &'v [u8]>,
        prefix: &[u8],
    ) -> Result<(), BlockError> {
        let bytes = &mut *self.bytes;
        for (row, (place, value)) in self.places.iter_mut().zip(values).enumerate() {
            if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                Self::put(bytes, place, &NULL_FIELD);
                continue;
            }
            let length = length_word(prefix.len() + value.len()).map_err(|reason| (row, reason))?;
            Self::put(bytes, place, &length);
            Self::put(bytes, place, prefix);
            Self::put(bytes, place, value);
        }
        Ok(())
    }
}

pub(super) fn write_fixed(fixed: Fixed, array: &ArrayRef, slots: &mut Slots<'_>) -> Result<(), BlockError> {
    let nulls = array.nulls();
    match fixed {
        Fixed::Bool => slots.fill(nulls, array.as_boolean().values().iter(), |value| Ok(bool_field(value))),
        Fixed::Int2 => with_integers!(array, array => write_int(array, slots, int2_field)),
        Fixed::Int4 => with_integers!(array, array => write_int(array, slots, int4_field)),
        Fixed::Int8 => with_integers!(array, array => write_int(array, slots, int8_field)),
        Fixed::IntAsFloat4 => with_integers!(array, array => slots.fill(nulls, array.values().iter(), |value| {
            int_to_float(i128::from(*value), FLOAT4_EXACT_MAX).and_then(float8_to_float4).map(float4_field)
        })),
        Fixed::IntAsFloat8 => with_integers!(array, array => slots.fill(nulls, array.values().iter(), |value| {
            int_to_float(i128::from(*value), FLOAT8_EXACT_MAX).map(float8_field)
        })),
        Fixed::FloatAsInt2 => with_floats!(array, array => write_float_as_int(array, slots, int2_field)),
        Fixed::FloatAsInt4 => with_floats!(array, array => write_float_as_int(array, slots, int4_field)),
        Fixed::FloatAsInt8 => with_floats!(array, array => write_float_as_int(array, slots, int8_field)),
        Fixed::Float4 => {
            let values = array.as_primitive::<Float32Type>().values().iter();
            slots.fill(nulls, values, |value| Ok(float4_field(*value)))
        }
        Fixed::Float8AsFloat4 => {
            let values = array.as_primitive::<Float64Type>().values().iter();
            slots.fill(nulls, values, |value| float8_to_float4(*value).map(float4_field))
        }
        Fixed::Float4AsFloat8 => {
            let values = array.as_primitive::<Float32Type>().values().iter();
            slots.fill(nulls, values, |value| Ok(float8_field(f64::from(*value))))
        }
        Fixed::Float8 => {
            let values = array.as_primitive::<Float64Type>().values().iter();
            slots.fill(nulls, values, |value| Ok(float8_field(*value)))
        }
        Fixed::DecimalAsInt2 { scale, rounding } => {
            write_decimal_as_int(array, slots, (scale, 0), rounding, int2_field)
        }
        Fixed::DecimalAsInt4 { scale, rounding } => {
            write_decimal_as_int(array, slots, (scale, 0), rounding, int4_field)
        }
        Fixed::DecimalAsInt8 { scale, rounding } => {
            write_decimal_as_int(array, slots, (scale, 0), rounding, int8_field)
        }
        Fixed::DecimalAsMoney { scale, money_scale, rounding } => {
            write_decimal_as_int(array, slots, (scale, money_scale), rounding, int8_field)
        }
        Fixed::Unsigned2 => with_integers!(array, array => write_int(array, slots, |value: u16| {
            int2_field(value.cast_signed())
        })),
        Fixed::Unsigned4 => with_integers!(array, array => write_int(array, slots, |value: u32| {
            int4_field(value.cast_signed())
        })),
        Fixed::Unsigned8 => with_integers!(array, array => write_int(array, slots, |value: u64| {
            int8_field(value.cast_signed())
        })),
        Fixed::HalfFloat => {
            let values = array.as_primitive::<Float32Type>().values().iter();
            slots.fill(nulls, values, |value| {
                let half = f16::from_f32(*value);
                if half.to_f32().to_bits() == value.to_bits() {
                    Ok(half_field(half.to_be_bytes()))
                } else {
                    Err(ValueError::Inexact)
                }
            })
        }
        Fixed::Date => {
            let values = array.as_primitive::<Date32Type>().values().iter();
            slots.fill(nulls, values, |days| date_to_wire(*days).map(int4_field))
        }
        Fixed::DateAsTimestamp => {
            let values = array.as_primitive::<Date32Type>().values().iter();
            slots.fill(nulls, values, |days| date_to_wire_timestamp(*days).map(int8_field))
        }
        Fixed::Time { fraction_digits, rounding } => {
            let values = array.as_primitive::<Time64MicrosecondType>().values().iter();
            slots.fill(nulls, values, |micros| {
                time_to_wire(rounding.fraction(*micros, fraction_digits)?).map(int8_field)
            })
        }
        Fixed::TimestampAsDate => write_timestamps(array, slots, |micros| {
            let days = match micros {
                i64::MAX => i32::MAX,
                _ if micros == -i64::MAX => -i32::MAX,
                _ if micros.rem_euclid(DAY_US) != 0 => return Err(ValueError::FinerThan { digits: 0 }),
                _ => i32::try_from(micros.div_euclid(DAY_US)).map_err(|_| ValueError::OutOfRange)?,
            };
            date_to_wire(days).map(int4_field)
        }),
        Fixed::Timestamp { fraction_digits, rounding } => write_timestamps(array, slots, |micros| {
            let is_infinite = micros.unsigned_abs() == i64::MAX.unsigned_abs();
            let kept = if is_infinite { micros } else { rounding.fraction(micros, fraction_digits)? };
            timestamp_to_wire(kept).map(int8_field)
        }),
        Fixed::Interval { fraction_digits, rounding } => {
            write_intervals(array.as_struct(), slots, fraction_digits, rounding)
        }
        Fixed::Uuid => {
            let values = array.as_fixed_size_binary();
            slots.fill(nulls, rows_of(values), |value| {
                value.try_into().map(uuid_field).map_err(|_| ValueError::Unreadable)
            })
        }
        Fixed::TextAsUuid => with_text!(array, array => {
            slots.fill(nulls, rows_of(array), |text| uuid_from_text(text).map(uuid_field))
        }),
    }
}

fn write_int<T: ArrowPrimitiveType, I: TryFrom<T::Native>, const N: usize>(
    array: &PrimitiveArray<T>,
    slots: &mut Slots<'_>,
    field: impl Fn(I) -> [u8; N],
) -> Result<(), BlockError> {
    slots.fill(array.nulls(), array.values().iter(), |value| {
        I::try_from(*value).map(&field).map_err(|_| ValueError::OutOfRange)
    })
}

fn write_float_as_int<T: ArrowPrimitiveType, I: TryFrom<i128>, const N: usize>(
    array: &PrimitiveArray<T>,
    slots: &mut Slots<'_>,
    field: impl Fn(I) -> [u8; N],
) -> Result<(), BlockError>
where
    f64: From<T::Native>,
{
    slots.fill(array.nulls(), array.values().iter(), |value| {
        let whole = float_to_whole(f64::from(*value))?;
        I::try_from(whole).map(&field).map_err(|_| ValueError::OutOfRange)
    })
}

/// Writes decimals as whole numbers of a unit: of one, or of the smallest unit of money.
fn write_decimal_as_int<I: TryFrom<i128>, const N: usize>(
    array: &ArrayRef,
    slots: &mut Slots<'_>,
    (scale, kept_scale): (u8, u8),
    rounding: Rounding,
    field: impl Fn(I) -> [u8; N],
) -> Result<(), BlockError> {
    slots.fill(array.nulls(), array.as_primitive::<Decimal128Type>().values().iter(), |value| {
        let scaled = match i32::from(scale) - i32::from(kept_scale) {
            dropped @ 1.. => rounding.whole(*value, dropped.unsigned_abs()).ok_or(ValueError::Fraction)?,
            missing => 10_i128
                .checked_pow(missing.unsigned_abs())
                .and_then(|unit| value.checked_mul(unit))
                .ok_or(ValueError::OutOfRange)?,
        };
        I::try_from(scaled).map(&field).map_err(|_| ValueError::OutOfRange)
    })
}

/// Runs over timestamps of any unit as microseconds.
fn write_timestamps<const N: usize>(
    array: &ArrayRef,
    slots: &mut Slots<'_>,
    field: impl Fn(i64) -> Result<[u8; N], ValueError>,
) -> Result<(), BlockError> {
    let nulls = array.nulls();
    let scaled = |value: i64, unit: i64| match value {
        // The infinities are the same number in every unit.
        i64::MAX => Ok(i64::MAX),
        _ if value == -i64::MAX => Ok(-i64::MAX),
        _ => value.checked_mul(unit).ok_or(ValueError::OutOfRange),
    };
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            let values = array.as_primitive::<TimestampSecondType>().values().iter();
            slots.fill(nulls, values, |value| scaled(*value, 1_000_000).and_then(&field))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            let values = array.as_primitive::<TimestampMillisecondType>().values().iter();
            slots.fill(nulls, values, |value| scaled(*value, 1_000).and_then(&field))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let values = array.as_primitive::<TimestampNanosecondType>().values().iter();
            slots.fill(nulls, values, |value| match *value {
                infinite if infinite.unsigned_abs() == i64::MAX.unsigned_abs() => field(infinite),
                value if value % 1_000 == 0 => field(value / 1_000),
                _ => Err(ValueError::FinerThan { digits: 6 }),
            })
        }
        _ => {
            let values = array.as_primitive::<TimestampMicrosecondType>().values().iter();
            slots.fill(nulls, values, |value| field(*value))
        }
    }
}

fn write_intervals(
    array: &StructArray,
    slots: &mut Slots<'_>,
    fraction_digits: u32,
    rounding: Rounding,
) -> Result<(), BlockError> {
    let parts = |name| array.column_by_name(name);
    let (Some(months), Some(days), Some(micros)) = (parts("months"), parts("days"), parts("micros")) else {
        return Err((0, ValueError::Unreadable));
    };
    let months = months.as_primitive::<Int32Type>();
    let days = days.as_primitive::<Int32Type>();
    let micros = micros.as_primitive::<Int64Type>();
    slots.fill(array.nulls(), 0..array.len(), |row| {
        if months.is_null(row) || days.is_null(row) || micros.is_null(row) {
            return Err(ValueError::Null);
        }
        let micros = rounding.fraction(micros.value(row), fraction_digits)?;
        Ok(interval_field(months.value(row), days.value(row), micros))
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the one narrowing that rounds; overflow is refused after it")]
fn float8_to_float4(value: f64) -> Result<f32, ValueError> {
    let narrow = value as f32;
    if narrow.is_infinite() && value.is_finite() { Err(ValueError::OutOfRange) } else { Ok(narrow) }
}

#[expect(clippy::cast_precision_loss, reason = "the limit keeps whole numbers exact")]
fn int_to_float(value: i128, exact_max: u64) -> Result<f64, ValueError> {
    if value.unsigned_abs() <= u128::from(exact_max) { Ok(value as f64) } else { Err(ValueError::Inexact) }
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be whole and within 64 bits first")]
fn float_to_whole(value: f64) -> Result<i128, ValueError> {
    if !value.is_finite() {
        return Err(ValueError::NotFinite);
    }
    if value.fract() != 0.0 {
        return Err(ValueError::Fraction);
    }
    // The type's own limits are checked by the caller; beyond 2^64 no integer type reaches.
    if value.abs() > 18_446_744_073_709_551_616.0 { Err(ValueError::OutOfRange) } else { Ok(value as i128) }
}
