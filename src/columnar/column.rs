//! One column under construction: fields of one type become an Arrow array.

use std::iter;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, FixedSizeBinaryBuilder, Int32Builder, Int64Builder, NullBufferBuilder, StructArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, Time64MicrosecondType, TimestampMicrosecondType, UInt16Type, UInt32Type, UInt64Type,
};
use half::f16;

use super::builder::NumericSeen;
use super::mapping::{data_type, decimal_shape, interval_fields};
use super::nested::{ListBuilder, StructBuilder};
use super::policy::Misfits;
use super::values::{Bytes, Primitives};
use crate::schema::{DECIMAL_DIGITS_MAX, PgType};
use crate::wire::{
    DecimalText, FieldError, NumericDigits, bits_text, cidr_text, date_from_wire, inet_text, interval_from_wire,
    macaddr_text, single_byte_text, time_from_wire, timestamp_from_wire, timetz_text,
};

/// One column under construction.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a table has few columns, and a box would cost an indirection a value")]
pub(super) enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int2(Primitives<Int16Type>),
    Unsigned2(Primitives<UInt16Type>),
    Unsigned4(Primitives<UInt32Type>),
    Unsigned8(Primitives<UInt64Type>),
    Int4(Primitives<Int32Type>),
    Int8(Primitives<Int64Type>),
    Float4(Primitives<Float32Type>),
    Float8(Primitives<Float64Type>),
    /// Two bytes each, widened.
    Float2(Primitives<Float32Type>),
    NumericFloat {
        builder: Primitives<Float64Type>,
        text: Vec<u8>,
    },
    Decimal {
        builder: Primitives<Decimal128Type>,
        scale: i32,
        /// The first number with a digit too many.
        limit: i128,
        misfits: Misfits,
    },
    Money(Primitives<Decimal128Type>),
    NumericText {
        builder: Bytes,
        seen: NumericSeen,
    },
    /// Bytes until the batch is finished: one check of all of them is much faster than one for each.
    Text(Bytes),
    /// Text after a version byte.
    Versioned {
        builder: Bytes,
        what: &'static str,
    },
    /// Text that is made from bytes.
    Rendered {
        builder: Bytes,
        form: TextForm,
        text: String,
    },
    Bytea(Bytes),
    Date(Primitives<Date32Type>),
    Time(Primitives<Time64MicrosecondType>),
    Timestamp {
        builder: Primitives<TimestampMicrosecondType>,
        misfits: Misfits,
    },
    Interval {
        months: Int32Builder,
        days: Int32Builder,
        micros: Int64Builder,
        validity: NullBufferBuilder,
    },
    Uuid(FixedSizeBinaryBuilder),
    List(Box<ListBuilder>),
    Struct(Box<StructBuilder>),
}

/// Appends a field's text.
type TextForm = fn(&[u8], &mut String) -> Result<(), FieldError>;

impl ColumnBuilder {
    pub(super) fn new(pg_type: &PgType, misfits: Misfits) -> Self {
        let rendered = |form| Self::Rendered { builder: Bytes::new(), form, text: String::new() };
        let decimal = |precision: u8, scale: i8| Primitives::of(DataType::Decimal128(precision, scale));
        match pg_type {
            PgType::Bool => Self::Bool(BooleanBuilder::new()),
            PgType::Int2 => Self::Int2(Primitives::new()),
            PgType::Int4 => Self::Int4(Primitives::new()),
            PgType::Int8 => Self::Int8(Primitives::new()),
            PgType::Oid => Self::Unsigned4(Primitives::new()),
            PgType::Unsigned8 => Self::Unsigned8(Primitives::new()),
            PgType::Float4 => Self::Float4(Primitives::new()),
            PgType::Float8 => Self::Float8(Primitives::new()),
            PgType::NumericAsFloat => Self::NumericFloat { builder: Primitives::new(), text: Vec::new() },
            PgType::Numeric { precision, scale: declared } => {
                let (precision, scale) = decimal_shape(*precision, *declared);
                Self::Decimal {
                    builder: decimal(precision, scale),
                    scale: i32::from(scale),
                    limit: 10_i128.pow(u32::from(precision.min(DECIMAL_DIGITS_MAX))),
                    misfits,
                }
            }
            PgType::NumericUnbounded => Self::NumericText { builder: Bytes::new(), seen: NumericSeen::default() },
            PgType::Money { .. } => Self::Money(Primitives::of(data_type(pg_type))),
            PgType::Text
            | PgType::Varchar { .. }
            | PgType::Bpchar { .. }
            | PgType::Name
            | PgType::Citext
            | PgType::Xml
            | PgType::Json
            | PgType::Enum { .. }
            | PgType::ViaText => Self::Text(Bytes::new()),
            PgType::Jsonb => Self::Versioned { builder: Bytes::new(), what: "jsonb" },
            PgType::VersionedText => Self::Versioned { builder: Bytes::new(), what: "versioned text" },
            PgType::SingleByte => rendered(single_byte_text),
            PgType::TimeTz => rendered(timetz_text),
            PgType::Inet => rendered(inet_text),
            PgType::Cidr => rendered(cidr_text),
            PgType::Macaddr => rendered(macaddr_text::<6>),
            PgType::Macaddr8 => rendered(macaddr_text::<8>),
            PgType::Bit { .. } | PgType::Varbit { .. } => rendered(bits_text),
            PgType::Bytea | PgType::Geometry => Self::Bytea(Bytes::new()),
            PgType::Date => Self::Date(Primitives::new()),
            PgType::Time => Self::Time(Primitives::new()),
            PgType::Timestamp => Self::Timestamp { builder: Primitives::new(), misfits },
            PgType::TimestampTz => Self::Timestamp { builder: Primitives::of(data_type(pg_type)), misfits },
            PgType::Interval => Self::Interval {
                months: Int32Builder::new(),
                days: Int32Builder::new(),
                micros: Int64Builder::new(),
                validity: NullBufferBuilder::new(0),
            },
            PgType::Uuid => Self::Uuid(FixedSizeBinaryBuilder::new(16)),
            PgType::Array { .. }
            | PgType::Multirange(_)
            | PgType::Hstore
            | PgType::Polygon
            | PgType::Vector { .. }
            | PgType::HalfVector { .. } => Self::List(Box::new(ListBuilder::new(pg_type, misfits))),
            PgType::Composite { .. } | PgType::Range(_) | PgType::Path | PgType::Tid | PgType::Shape(_) => {
                Self::Struct(Box::new(StructBuilder::new(pg_type, misfits)))
            }
        }
    }

    /// A builder of half-precision numbers.
    pub(super) fn float2() -> Self {
        Self::Float2(Primitives::new())
    }

    /// A builder of numbers of two bytes without a sign.
    pub(super) fn unsigned2() -> Self {
        Self::Unsigned2(Primitives::new())
    }

    /// The widest values of an unbounded `numeric` column so far.
    pub(super) fn numeric_seen(&self) -> Option<NumericSeen> {
        match self {
            Self::NumericText { seen, .. } => Some(*seen),
            _ => None,
        }
    }

    /// How many values a policy has replaced by null so far.
    pub(super) fn replaced(&self) -> u64 {
        match self {
            Self::Decimal { misfits, .. } | Self::Timestamp { misfits, .. } => misfits.replaced,
            Self::List(list) => list.replaced(),
            Self::Struct(parts) => parts.replaced(),
            _ => 0,
        }
    }

    /// Appends a column of values; the error carries the value's place in it.
    pub(super) fn append<'a>(
        &mut self,
        values: impl Iterator<Item = Option<&'a [u8]>>,
    ) -> Result<(), (usize, FieldError)> {
        match self {
            Self::Bool(builder) => each(values, |value| {
                builder.append_option(value.map(|field| bytes(field).map(|[bit]: [u8; 1]| bit != 0)).transpose()?);
                Ok(())
            }),
            Self::Int2(builder) => primitives(values, builder, |field| bytes(field).map(i16::from_be_bytes)),
            Self::Int4(builder) => primitives(values, builder, |field| bytes(field).map(i32::from_be_bytes)),
            Self::Int8(builder) => primitives(values, builder, |field| bytes(field).map(i64::from_be_bytes)),
            Self::Float4(builder) => primitives(values, builder, |field| bytes(field).map(f32::from_be_bytes)),
            Self::Float8(builder) => primitives(values, builder, |field| bytes(field).map(f64::from_be_bytes)),
            Self::Unsigned2(builder) => primitives(values, builder, |field| bytes(field).map(u16::from_be_bytes)),
            Self::Unsigned4(builder) => primitives(values, builder, |field| bytes(field).map(u32::from_be_bytes)),
            Self::Unsigned8(builder) => primitives(values, builder, |field| bytes(field).map(u64::from_be_bytes)),
            Self::Float2(builder) => {
                primitives(values, builder, |field| bytes(field).map(|bytes| f16::from_be_bytes(bytes).to_f32()))
            }
            Self::NumericFloat { builder, text } => primitives(values, builder, |field| numeric_as_float(field, text)),
            Self::Decimal { builder, scale, limit, misfits } => fitting(values, builder, misfits, |field| {
                let unscaled = NumericDigits::parse(field)?.to_scaled(*scale)?;
                if unscaled.unsigned_abs() < limit.unsigned_abs() { Ok(unscaled) } else { Err(FieldError::Digits) }
            }),
            Self::Money(builder) => {
                primitives(values, builder, |field| bytes(field).map(|bytes| i128::from(i64::from_be_bytes(bytes))))
            }
            Self::Date(builder) => primitives(values, builder, date_from_wire),
            Self::Time(builder) => primitives(values, builder, time_from_wire),
            Self::Timestamp { builder, misfits } => fitting(values, builder, misfits, timestamp_from_wire),
            Self::NumericText { builder, seen } => each(values, |value| {
                let Some(field) = value else {
                    builder.push_null();
                    return Ok(());
                };
                let number = NumericDigits::parse(field)?;
                *seen = match builder.push_rendered(|out| Ok(number.write_text(out)))? {
                    DecimalText::Finite { integer_digits, scale } => {
                        seen.union(NumericSeen { integer_digits, scale, special: false })
                    }
                    DecimalText::Special => NumericSeen { special: true, ..*seen },
                };
                Ok(())
            }),
            Self::Rendered { builder, form, text } => each(values, |value| {
                let Some(field) = value else {
                    builder.push_null();
                    return Ok(());
                };
                text.clear();
                form(field, text)?;
                builder.push_rendered(|out| {
                    out.extend_from_slice(text.as_bytes());
                    Ok(())
                })
            }),
            Self::Text(builder) => builder.extend_text(values),
            Self::Bytea(builder) => builder.extend(values).map_err(|reason| (0, reason)),
            Self::Versioned { builder, what } => each(values, |value| {
                let text = value.map(|field| versioned(field, what)).transpose()?;
                builder.extend_text(iter::once(text)).map_err(|(_, reason)| reason)
            }),
            Self::Interval { months, days, micros, validity } => each(values, |value| {
                validity.append(value.is_some());
                let parts = value.map(interval_from_wire).transpose()?;
                months.append_value(parts.map_or(0, |parts| parts.months));
                days.append_value(parts.map_or(0, |parts| parts.days));
                micros.append_value(parts.map_or(0, |parts| parts.micros));
                Ok(())
            }),
            Self::Uuid(builder) => each(values, |value| match value {
                None => {
                    builder.append_null();
                    Ok(())
                }
                Some(field) => {
                    builder.append_value(field).map_err(|_| FieldError::Length { expected: 16, found: field.len() })
                }
            }),
            Self::List(list) => list.append(values),
            Self::Struct(parts) => parts.append(values),
        }
    }

    /// Takes the values; the error of a text that is not UTF-8 carries its place.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, (usize, FieldError)> {
        Ok(match self {
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Int2(builder) => Arc::new(builder.finish()),
            Self::Int4(builder) => Arc::new(builder.finish()),
            Self::Int8(builder) => Arc::new(builder.finish()),
            Self::Float4(builder) | Self::Float2(builder) => Arc::new(builder.finish()),
            Self::Float8(builder) | Self::NumericFloat { builder, .. } => Arc::new(builder.finish()),
            Self::Unsigned2(builder) => Arc::new(builder.finish()),
            Self::Unsigned4(builder) => Arc::new(builder.finish()),
            Self::Unsigned8(builder) => Arc::new(builder.finish()),
            Self::Decimal { builder, .. } | Self::Money(builder) => Arc::new(builder.finish()),
            Self::NumericText { builder, .. }
            | Self::Rendered { builder, .. }
            | Self::Text(builder)
            | Self::Versioned { builder, .. } => Arc::new(builder.finish_text()?),
            Self::Bytea(builder) => Arc::new(builder.finish()),
            Self::Date(builder) => Arc::new(builder.finish()),
            Self::Time(builder) => Arc::new(builder.finish()),
            Self::Timestamp { builder, .. } => Arc::new(builder.finish()),
            Self::List(list) => list.finish()?,
            Self::Struct(parts) => parts.finish()?,
            Self::Uuid(builder) => Arc::new(builder.finish()),
            Self::Interval { months, days, micros, validity } => Arc::new(StructArray::new(
                interval_fields(),
                vec![Arc::new(months.finish()), Arc::new(days.finish()), Arc::new(micros.finish())],
                validity.finish(),
            )),
        })
    }
}

fn bytes<const N: usize>(field: &[u8]) -> Result<[u8; N], FieldError> {
    field.try_into().map_err(|_| FieldError::Length { expected: N, found: field.len() })
}

/// Text after the one version there is.
fn versioned<'a>(field: &'a [u8], what: &'static str) -> Result<&'a [u8], FieldError> {
    field.strip_prefix(&[1]).ok_or(FieldError::Malformed(what))
}

/// The nearest floating-point number.
fn numeric_as_float(field: &[u8], text: &mut Vec<u8>) -> Result<f64, FieldError> {
    text.clear();
    let form = NumericDigits::parse(field)?.write_text(text);
    match (form, str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok())) {
        (DecimalText::Finite { .. }, Some(value)) if value.is_infinite() => Err(FieldError::BeyondFloat),
        (_, Some(value)) => Ok(value),
        (_, None) => Err(FieldError::Malformed("numeric")),
    }
}

#[inline]
fn each<'a>(
    values: impl Iterator<Item = Option<&'a [u8]>>,
    mut append: impl FnMut(Option<&'a [u8]>) -> Result<(), FieldError>,
) -> Result<(), (usize, FieldError)> {
    for (row, value) in values.enumerate() {
        append(value).map_err(|reason| (row, reason))?;
    }
    Ok(())
}

fn primitives<'a, T: ArrowPrimitiveType>(
    values: impl Iterator<Item = Option<&'a [u8]>>,
    builder: &mut Primitives<T>,
    mut read: impl FnMut(&[u8]) -> Result<T::Native, FieldError>,
) -> Result<(), (usize, FieldError)> {
    builder.reserve(values.size_hint().0);
    each(values, |value| {
        builder.push(value.map(&mut read).transpose()?);
        Ok(())
    })
}

/// The same for values that a policy may replace by null when they do not fit.
fn fitting<'a, T: ArrowPrimitiveType>(
    values: impl Iterator<Item = Option<&'a [u8]>>,
    builder: &mut Primitives<T>,
    misfits: &mut Misfits,
    read: impl Fn(&[u8]) -> Result<T::Native, FieldError>,
) -> Result<(), (usize, FieldError)> {
    each(values, |value| {
        match value.map(&read) {
            Some(Ok(value)) => builder.push(Some(value)),
            Some(Err(reason)) if !misfits.replace(&reason) => return Err(reason),
            Some(Err(_)) | None => builder.push(None),
        }
        Ok(())
    })
}
