//! One column under construction: fields of one type become an Arrow array.

use std::str;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, GenericByteArray,
    GenericByteBuilder, Int32Builder, Int64Builder, NullBufferBuilder, PrimitiveBuilder, StringArray, StringBuilder,
    StructArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, ByteArrayType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type,
    Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType, UInt16Type, UInt32Type, UInt64Type,
};
use half::f16;

use super::builder::NumericSeen;
use super::mapping::{data_type, decimal_shape, interval_fields};
use super::nested::{ListBuilder, StructBuilder};
use super::policy::Misfits;
use crate::schema::{DECIMAL_DIGITS_MAX, PgType};
use crate::wire::{
    DecimalText, FieldError, NumericDigits, bits_text, cidr_text, date_from_wire, inet_text, interval_from_wire,
    macaddr_text, single_byte_text, time_from_wire, timestamp_from_wire, timetz_text,
};

/// Text of one column and batch at most, where a short field can become a long text: `1e131071` is ten bytes.
const TEXT_BYTES_MAX: usize = 256 << 20;

/// One column under construction.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a table has few columns, and a box would cost an indirection a value")]
pub(super) enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int2(PrimitiveBuilder<Int16Type>),
    Unsigned2(PrimitiveBuilder<UInt16Type>),
    Unsigned4(PrimitiveBuilder<UInt32Type>),
    Unsigned8(PrimitiveBuilder<UInt64Type>),
    Int4(PrimitiveBuilder<Int32Type>),
    Int8(PrimitiveBuilder<Int64Type>),
    Float4(PrimitiveBuilder<Float32Type>),
    Float8(PrimitiveBuilder<Float64Type>),
    /// Two bytes each, widened.
    Float2(PrimitiveBuilder<Float32Type>),
    NumericFloat {
        builder: PrimitiveBuilder<Float64Type>,
        text: String,
    },
    Decimal {
        builder: PrimitiveBuilder<Decimal128Type>,
        scale: i32,
        /// The first number with a digit too many.
        limit: i128,
        misfits: Misfits,
    },
    Money(PrimitiveBuilder<Decimal128Type>),
    NumericText {
        builder: StringBuilder,
        seen: NumericSeen,
        text: String,
    },
    /// Bytes until the batch is finished: one check of all of them is much faster than one for each.
    Text(BinaryBuilder),
    /// Text after a version byte.
    Versioned {
        builder: BinaryBuilder,
        what: &'static str,
    },
    /// Text that is made from bytes.
    Rendered {
        builder: StringBuilder,
        form: TextForm,
        text: String,
    },
    Bytea(BinaryBuilder),
    Date(PrimitiveBuilder<Date32Type>),
    Time(PrimitiveBuilder<Time64MicrosecondType>),
    Timestamp {
        builder: PrimitiveBuilder<TimestampMicrosecondType>,
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
        let rendered = |form| Self::Rendered { builder: StringBuilder::new(), form, text: String::new() };
        let decimal =
            |precision: u8, scale: i8| PrimitiveBuilder::new().with_data_type(DataType::Decimal128(precision, scale));
        match pg_type {
            PgType::Bool => Self::Bool(BooleanBuilder::new()),
            PgType::Int2 => Self::Int2(PrimitiveBuilder::new()),
            PgType::Int4 => Self::Int4(PrimitiveBuilder::new()),
            PgType::Int8 => Self::Int8(PrimitiveBuilder::new()),
            PgType::Oid => Self::Unsigned4(PrimitiveBuilder::new()),
            PgType::Unsigned8 => Self::Unsigned8(PrimitiveBuilder::new()),
            PgType::Float4 => Self::Float4(PrimitiveBuilder::new()),
            PgType::Float8 => Self::Float8(PrimitiveBuilder::new()),
            PgType::NumericAsFloat => Self::NumericFloat { builder: PrimitiveBuilder::new(), text: String::new() },
            PgType::Numeric { precision, scale: declared } => {
                let (precision, scale) = decimal_shape(*precision, *declared);
                Self::Decimal {
                    builder: decimal(precision, scale),
                    scale: i32::from(scale),
                    limit: 10_i128.pow(u32::from(precision.min(DECIMAL_DIGITS_MAX))),
                    misfits,
                }
            }
            PgType::NumericUnbounded => {
                Self::NumericText { builder: StringBuilder::new(), seen: NumericSeen::default(), text: String::new() }
            }
            PgType::Money { .. } => Self::Money(PrimitiveBuilder::new().with_data_type(data_type(pg_type))),
            PgType::Text
            | PgType::Varchar { .. }
            | PgType::Bpchar { .. }
            | PgType::Name
            | PgType::Citext
            | PgType::Xml
            | PgType::Json
            | PgType::Enum { .. }
            | PgType::ViaText => Self::Text(BinaryBuilder::new()),
            PgType::Jsonb => Self::Versioned { builder: BinaryBuilder::new(), what: "jsonb" },
            PgType::VersionedText => Self::Versioned { builder: BinaryBuilder::new(), what: "versioned text" },
            PgType::SingleByte => rendered(single_byte_text),
            PgType::TimeTz => rendered(timetz_text),
            PgType::Inet => rendered(inet_text),
            PgType::Cidr => rendered(cidr_text),
            PgType::Macaddr => rendered(macaddr_text::<6>),
            PgType::Macaddr8 => rendered(macaddr_text::<8>),
            PgType::Bit { .. } | PgType::Varbit { .. } => rendered(bits_text),
            PgType::Bytea | PgType::Geometry => Self::Bytea(BinaryBuilder::new()),
            PgType::Date => Self::Date(PrimitiveBuilder::new()),
            PgType::Time => Self::Time(PrimitiveBuilder::new()),
            PgType::Timestamp => Self::Timestamp { builder: PrimitiveBuilder::new(), misfits },
            PgType::TimestampTz => Self::Timestamp { builder: PrimitiveBuilder::new().with_timezone("UTC"), misfits },
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
        Self::Float2(PrimitiveBuilder::new())
    }

    /// A builder of numbers of two bytes without a sign.
    pub(super) fn unsigned2() -> Self {
        Self::Unsigned2(PrimitiveBuilder::new())
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
            Self::NumericText { builder, seen, text } => each(values, |value| {
                let Some(field) = value else {
                    builder.append_null();
                    return Ok(());
                };
                text.clear();
                *seen = match NumericDigits::parse(field)?.write_text(text) {
                    DecimalText::Finite { integer_digits, scale } => {
                        seen.union(NumericSeen { integer_digits, scale, special: false })
                    }
                    DecimalText::Special => NumericSeen { special: true, ..*seen },
                };
                append_text(builder, text)
            }),
            Self::Rendered { builder, form, text } => each(values, |value| {
                let Some(field) = value else {
                    builder.append_null();
                    return Ok(());
                };
                text.clear();
                form(field, text)?;
                append_text(builder, text)
            }),
            Self::Text(builder) | Self::Bytea(builder) => each(values, |value| {
                builder.append_option(value);
                Ok(())
            }),
            Self::Versioned { builder, what } => each(values, |value| {
                builder.append_option(value.map(|field| versioned(field, what)).transpose()?);
                Ok(())
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
            Self::Int2(builder) => take_primitives(builder),
            Self::Int4(builder) => take_primitives(builder),
            Self::Int8(builder) => take_primitives(builder),
            Self::Float4(builder) | Self::Float2(builder) => take_primitives(builder),
            Self::Float8(builder) | Self::NumericFloat { builder, .. } => take_primitives(builder),
            Self::Unsigned2(builder) => take_primitives(builder),
            Self::Unsigned4(builder) => take_primitives(builder),
            Self::Unsigned8(builder) => take_primitives(builder),
            Self::Decimal { builder, .. } | Self::Money(builder) => take_primitives(builder),
            Self::NumericText { builder, .. } | Self::Rendered { builder, .. } => Arc::new(take_bytes(builder)),
            Self::Text(builder) | Self::Versioned { builder, .. } => Arc::new(checked_text(&take_bytes(builder))?),
            Self::Bytea(builder) => Arc::new(take_bytes(builder)),
            Self::Date(builder) => take_primitives(builder),
            Self::Time(builder) => take_primitives(builder),
            Self::Timestamp { builder, .. } => take_primitives(builder),
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

/// Room for as much as the last batch held and some more: growing while values come would copy them again and again.
fn room_for_next(last: usize) -> usize {
    last + last / 8
}

fn take_primitives<T: ArrowPrimitiveType>(builder: &mut PrimitiveBuilder<T>) -> ArrayRef {
    let array = builder.finish();
    *builder = PrimitiveBuilder::with_capacity(room_for_next(array.len())).with_data_type(array.data_type().clone());
    Arc::new(array)
}

fn take_bytes<T: ByteArrayType>(builder: &mut GenericByteBuilder<T>) -> GenericByteArray<T> {
    let array = builder.finish();
    *builder = GenericByteBuilder::with_capacity(room_for_next(array.len()), room_for_next(array.value_data().len()));
    array
}

fn bytes<const N: usize>(field: &[u8]) -> Result<[u8; N], FieldError> {
    field.try_into().map_err(|_| FieldError::Length { expected: N, found: field.len() })
}

/// Text after the one version there is.
fn versioned<'a>(field: &'a [u8], what: &'static str) -> Result<&'a [u8], FieldError> {
    field.strip_prefix(&[1]).ok_or(FieldError::Malformed(what))
}

/// Appends text that is longer than its field, within reason.
fn append_text(builder: &mut StringBuilder, text: &str) -> Result<(), FieldError> {
    if builder.values_slice().len() + text.len() > TEXT_BYTES_MAX {
        return Err(FieldError::Enormous(TEXT_BYTES_MAX >> 20));
    }
    builder.append_value(text);
    Ok(())
}

/// The nearest floating-point number.
fn numeric_as_float(field: &[u8], text: &mut String) -> Result<f64, FieldError> {
    text.clear();
    let form = NumericDigits::parse(field)?.write_text(text);
    match (form, text.parse::<f64>()) {
        (DecimalText::Finite { .. }, Ok(value)) if value.is_infinite() => Err(FieldError::BeyondFloat),
        (_, Ok(value)) => Ok(value),
        (_, Err(_)) => Err(FieldError::Malformed("numeric")),
    }
}

/// Checks all texts at once and looks for the bad one only when there is one.
fn checked_text(bytes: &BinaryArray) -> Result<StringArray, (usize, FieldError)> {
    StringArray::try_from_binary(bytes.clone()).map_err(|_| {
        let is_bad = |value: Option<&[u8]>| value.is_some_and(|value| str::from_utf8(value).is_err());
        (bytes.iter().position(is_bad).unwrap_or(0), FieldError::Utf8)
    })
}

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
    builder: &mut PrimitiveBuilder<T>,
    read: impl FnMut(&[u8]) -> Result<T::Native, FieldError>,
) -> Result<(), (usize, FieldError)> {
    let mut read = read;
    each(values, |value| {
        match value {
            Some(field) => builder.append_value(read(field)?),
            None => builder.append_null(),
        }
        Ok(())
    })
}

/// The same for values that a policy may replace by null when they do not fit.
fn fitting<'a, T: ArrowPrimitiveType>(
    values: impl Iterator<Item = Option<&'a [u8]>>,
    builder: &mut PrimitiveBuilder<T>,
    misfits: &mut Misfits,
    read: impl Fn(&[u8]) -> Result<T::Native, FieldError>,
) -> Result<(), (usize, FieldError)> {
    each(values, |value| {
        match value.map(&read) {
            Some(Ok(value)) => builder.append_value(value),
            Some(Err(reason)) if !misfits.replace(&reason) => return Err(reason),
            Some(Err(_)) | None => builder.append_null(),
        }
        Ok(())
    })
}
