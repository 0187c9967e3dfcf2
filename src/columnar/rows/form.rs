//! Which pairs of dataset and target types go together, and how each pair's values become fields.

use arrow::datatypes::{DataType, TimeUnit};

use crate::schema::{NO_TYPMOD, PgType, ShapeKind};
use crate::wire::{NumericLimits, Rounding};

use super::field::FieldEncoder;
use super::nested::{ListForm, StructForm};
use super::policy::PushPolicy;

/// How a column's values become fields.
#[derive(Debug)]
pub(super) enum Form {
    /// Fields of one length.
    Fixed(Fixed),
    /// Text whose bytes are sent as they are, after a version byte for `jsonb` and others.
    Text { limit: Option<usize>, versioned: bool },
    /// Bytes as they are.
    Bytes,
    /// Fields built in the first pass and copied in the second.
    Prepared(Prepare),
    /// Lists, built from the fields of their elements.
    List(Box<ListForm>),
    /// Groups, built from the fields of their members.
    Struct(Box<StructForm>),
    /// A column of nulls without a type.
    Nulls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fixed {
    Bool,
    Int2,
    Int4,
    Int8,
    IntAsFloat4,
    IntAsFloat8,
    FloatAsInt2,
    FloatAsInt4,
    FloatAsInt8,
    Float4,
    Float8,
    Float8AsFloat4,
    Float4AsFloat8,
    DecimalAsInt2 { scale: u8, rounding: Rounding },
    DecimalAsInt4 { scale: u8, rounding: Rounding },
    DecimalAsInt8 { scale: u8, rounding: Rounding },
    Date,
    DateAsTimestamp,
    TimestampAsDate,
    Time { fraction_digits: u32, rounding: Rounding },
    Timestamp { fraction_digits: u32, rounding: Rounding },
    Interval { fraction_digits: u32, rounding: Rounding },
    Uuid,
    TextAsUuid,
    Unsigned2,
    Unsigned4,
    Unsigned8,
    DecimalAsMoney { scale: u8, money_scale: u8, rounding: Rounding },
    HalfFloat,
}

impl Fixed {
    /// Bytes of a field's value.
    pub(super) const fn width(self) -> usize {
        match self {
            Self::Bool => 1,
            Self::Int2 | Self::FloatAsInt2 | Self::DecimalAsInt2 { .. } | Self::HalfFloat | Self::Unsigned2 => 2,
            Self::Int4
            | Self::Unsigned4
            | Self::FloatAsInt4
            | Self::DecimalAsInt4 { .. }
            | Self::IntAsFloat4
            | Self::Float4
            | Self::Float8AsFloat4
            | Self::Date
            | Self::TimestampAsDate => 4,
            Self::Int8
            | Self::Unsigned8
            | Self::DecimalAsMoney { .. }
            | Self::FloatAsInt8
            | Self::DecimalAsInt8 { .. }
            | Self::IntAsFloat8
            | Self::Float8
            | Self::Float4AsFloat8
            | Self::DateAsTimestamp
            | Self::Time { .. }
            | Self::Timestamp { .. } => 8,
            Self::Interval { .. } | Self::Uuid | Self::TextAsUuid => 16,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Prepare {
    IntAsNumeric {
        limits: Option<NumericLimits>,
        rounding: Rounding,
    },
    Decimal {
        scale: u8,
        limits: Option<NumericLimits>,
        rounding: Rounding,
    },
    FloatAsNumeric {
        limits: Option<NumericLimits>,
        rounding: Rounding,
    },
    TextAsNumeric {
        limits: Option<NumericLimits>,
        rounding: Rounding,
    },
    UuidAsText {
        limit: Option<usize>,
    },
    Parsed(TextTarget),
    /// Text without its NUL characters.
    Stripped {
        limit: Option<usize>,
        versioned: bool,
    },
}

/// What text is read as before it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TextTarget {
    Name,
    Label(Vec<String>),
    SingleByte,
    TimeTz { fraction_digits: u32, rounding: Rounding },
    Inet,
    Cidr,
    Macaddr,
    Macaddr8,
    Bits { bits: Option<u32>, max_bits: Option<u32> },
}

impl Form {
    /// How a dataset column of this type becomes fields of the target type; `None` when it must be cast first.
    pub(super) fn of(from: &DataType, to: &PgType, typmod: i32, policy: PushPolicy) -> Option<Self> {
        use DataType as D;
        let rounding = policy.rounding;
        let text = |limit, versioned| match policy.strip_nul {
            true => Self::Prepared(Prepare::Stripped { limit, versioned }),
            false => Self::Text { limit, versioned },
        };
        Some(match from {
            D::Null => Self::Nulls,
            D::Boolean => match to {
                PgType::Bool => Self::Fixed(Fixed::Bool),
                _ => return None,
            },
            D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32 | D::UInt64 => match to {
                PgType::Int2 => Self::Fixed(Fixed::Int2),
                PgType::Int4 => Self::Fixed(Fixed::Int4),
                PgType::Int8 => Self::Fixed(Fixed::Int8),
                PgType::Oid => Self::Fixed(Fixed::Unsigned4),
                PgType::Unsigned8 => Self::Fixed(Fixed::Unsigned8),
                PgType::Float4 => Self::Fixed(Fixed::IntAsFloat4),
                PgType::Float8 => Self::Fixed(Fixed::IntAsFloat8),
                PgType::Numeric { .. } | PgType::NumericUnbounded => {
                    Self::Prepared(Prepare::IntAsNumeric { limits: numeric_limits(typmod), rounding })
                }
                _ => return None,
            },
            D::Float32 | D::Float64 => match to {
                PgType::Int2 => Self::Fixed(Fixed::FloatAsInt2),
                PgType::Int4 => Self::Fixed(Fixed::FloatAsInt4),
                PgType::Int8 => Self::Fixed(Fixed::FloatAsInt8),
                PgType::Float4 if *from == D::Float32 => Self::Fixed(Fixed::Float4),
                PgType::Float4 => Self::Fixed(Fixed::Float8AsFloat4),
                PgType::Float8 if *from == D::Float32 => Self::Fixed(Fixed::Float4AsFloat8),
                PgType::Float8 => Self::Fixed(Fixed::Float8),
                PgType::Numeric { .. } | PgType::NumericUnbounded => {
                    Self::Prepared(Prepare::FloatAsNumeric { limits: numeric_limits(typmod), rounding })
                }
                _ => return None,
            },
            D::Decimal128(_, scale) => {
                let scale = u8::try_from(*scale).ok().filter(|scale| *scale <= 38)?;
                match to {
                    PgType::Int2 => Self::Fixed(Fixed::DecimalAsInt2 { scale, rounding }),
                    PgType::Int4 => Self::Fixed(Fixed::DecimalAsInt4 { scale, rounding }),
                    PgType::Int8 => Self::Fixed(Fixed::DecimalAsInt8 { scale, rounding }),
                    PgType::Money { scale: money_scale } => {
                        Self::Fixed(Fixed::DecimalAsMoney { scale, money_scale: *money_scale, rounding })
                    }
                    PgType::Numeric { .. } | PgType::NumericUnbounded => {
                        Self::Prepared(Prepare::Decimal { scale, limits: numeric_limits(typmod), rounding })
                    }
                    _ => return None,
                }
            }
            D::Utf8 | D::LargeUtf8 | D::Utf8View => {
                let parsed = |target| Self::Prepared(Prepare::Parsed(target));
                match to {
                    PgType::Text | PgType::Json | PgType::Citext | PgType::Xml => text(None, false),
                    PgType::Varchar { max_chars: limit } | PgType::Bpchar { chars: limit } => {
                        text(limit.and_then(chars), false)
                    }
                    PgType::Jsonb | PgType::VersionedText => text(None, true),
                    PgType::Uuid => Self::Fixed(Fixed::TextAsUuid),
                    PgType::Numeric { .. } | PgType::NumericUnbounded => {
                        Self::Prepared(Prepare::TextAsNumeric { limits: numeric_limits(typmod), rounding })
                    }
                    PgType::Name => parsed(TextTarget::Name),
                    PgType::Enum { labels } => parsed(TextTarget::Label(labels.clone())),
                    PgType::SingleByte => parsed(TextTarget::SingleByte),
                    PgType::TimeTz => {
                        parsed(TextTarget::TimeTz { fraction_digits: fraction_digits(typmod)?, rounding })
                    }
                    PgType::Inet => parsed(TextTarget::Inet),
                    PgType::Cidr => parsed(TextTarget::Cidr),
                    PgType::Macaddr => parsed(TextTarget::Macaddr),
                    PgType::Macaddr8 => parsed(TextTarget::Macaddr8),
                    PgType::Bit { bits } => parsed(TextTarget::Bits { bits: *bits, max_bits: None }),
                    PgType::Varbit { max_bits } => parsed(TextTarget::Bits { bits: None, max_bits: *max_bits }),
                    _ => return None,
                }
            }
            D::Binary | D::LargeBinary | D::BinaryView => match to {
                PgType::Bytea | PgType::Geometry => Self::Bytes,
                _ => return None,
            },
            D::FixedSizeBinary(16) => match to {
                PgType::Uuid => Self::Fixed(Fixed::Uuid),
                PgType::Text => Self::Prepared(Prepare::UuidAsText { limit: None }),
                PgType::Varchar { max_chars } => {
                    Self::Prepared(Prepare::UuidAsText { limit: max_chars.and_then(chars) })
                }
                _ => return None,
            },
            D::Date32 => match to {
                PgType::Date => Self::Fixed(Fixed::Date),
                PgType::Timestamp | PgType::TimestampTz => Self::Fixed(Fixed::DateAsTimestamp),
                _ => return None,
            },
            D::Time64(TimeUnit::Microsecond) => match to {
                PgType::Time => Self::Fixed(Fixed::Time { fraction_digits: fraction_digits(typmod)?, rounding }),
                _ => return None,
            },
            D::Timestamp(_, zone) => match (to, zone) {
                (PgType::Timestamp, None) | (PgType::TimestampTz, Some(_)) => {
                    Self::Fixed(Fixed::Timestamp { fraction_digits: fraction_digits(typmod)?, rounding })
                }
                (PgType::Date, None) => Self::Fixed(Fixed::TimestampAsDate),
                _ => return None,
            },
            D::Struct(_) if is_interval(from) && *to == PgType::Interval => {
                Self::Fixed(Fixed::Interval { fraction_digits: interval_digits(typmod)?, rounding })
            }
            D::List(_) | D::LargeList(_) | D::FixedSizeList(_, _) | D::Map(_, _) => {
                Self::List(Box::new(ListForm::of(from, to, policy)?))
            }
            D::Struct(fields) => Self::Struct(Box::new(StructForm::of(fields, to, policy)?)),
            _ => return None,
        })
    }

    /// The same for an element or member: its own encoder.
    pub(super) fn encoder(from: &DataType, to: &PgType, typmod: i32, policy: PushPolicy) -> Option<FieldEncoder> {
        Self::of(from, to, typmod, policy).map(|form| FieldEncoder::new(form, false))
    }

    /// How numbers become the points of a geometric type.
    pub(super) fn point(from: &DataType) -> Option<FieldEncoder> {
        Self::encoder(from, &PgType::Shape(ShapeKind::Point), NO_TYPMOD, PushPolicy::default())
    }
}

fn chars(limit: u32) -> Option<usize> {
    usize::try_from(limit).ok()
}

/// Whether this is how the lake stores intervals: a struct of months, days and microseconds.
pub fn is_interval(data_type: &DataType) -> bool {
    let DataType::Struct(fields) = data_type else { return false };
    let parts: Vec<(&str, &DataType)> = fields.iter().map(|field| (field.name().as_str(), field.data_type())).collect();
    parts == [("months", &DataType::Int32), ("days", &DataType::Int32), ("micros", &DataType::Int64)]
}

/// What a declared numeric column keeps, from its `typmod`; `None` for one without a precision.
fn numeric_limits(typmod: i32) -> Option<NumericLimits> {
    /// `VARHDRSZ`, which every such `typmod` carries.
    const HEADER: i32 = 4;
    let packed = typmod.checked_sub(HEADER).filter(|packed| *packed >= 0)?;
    let (precision, scale) = ((packed >> 16) & 0xFFFF, ((packed & 0x7FF) ^ 0x400) - 0x400);
    Some(NumericLimits { integer_digits: precision - scale, scale })
}

/// Digits of a second that a time or timestamp column keeps.
fn fraction_digits(typmod: i32) -> Option<u32> {
    if typmod == NO_TYPMOD { Some(6) } else { u32::try_from(typmod).ok() }
}

/// Digits of a second that an interval column keeps; `None` when it keeps only some fields, such as `year to month`.
fn interval_digits(typmod: i32) -> Option<u32> {
    /// `INTERVAL_FULL_RANGE` and `INTERVAL_FULL_PRECISION` in Postgres's `timestamp.h`.
    const FULL_RANGE: i32 = 0x7FFF;
    const FULL_PRECISION: i32 = 0xFFFF;
    match typmod {
        NO_TYPMOD => Some(6),
        typmod if (typmod >> 16) & FULL_RANGE != FULL_RANGE => None,
        typmod if typmod & FULL_PRECISION == FULL_PRECISION => Some(6),
        typmod => u32::try_from(typmod & FULL_PRECISION).ok(),
    }
}
