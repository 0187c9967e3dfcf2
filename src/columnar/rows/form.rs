//! Which pairs of dataset and target types go together, and how each pair's values become fields.

use arrow::datatypes::{DataType, TimeUnit};

use crate::schema::{ColumnSchema, PgType};
use crate::wire::NumericLimits;

/// The `typmod` of a type without one.
pub(super) const NO_TYPMOD: i32 = -1;

/// How a column's values become fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Fields of one length.
    Fixed(Fixed),
    /// Text whose bytes are sent as they are, after a version byte for `jsonb`.
    Text { limit: Option<usize>, versioned: bool },
    /// Bytes as they are.
    Bytes,
    /// Fields built in the first pass and copied in the second.
    Prepared(Prepare),
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
    DecimalAsInt2 { scale: u8 },
    DecimalAsInt4 { scale: u8 },
    DecimalAsInt8 { scale: u8 },
    Date,
    DateAsTimestamp,
    TimestampAsDate,
    Time { fraction_digits: u32 },
    Timestamp { fraction_digits: u32 },
    Interval { fraction_digits: u32 },
    Uuid,
    TextAsUuid,
}

impl Fixed {
    /// Bytes of a field's value.
    pub(super) const fn width(self) -> usize {
        match self {
            Self::Bool => 1,
            Self::Int2 | Self::FloatAsInt2 | Self::DecimalAsInt2 { .. } => 2,
            Self::Int4
            | Self::FloatAsInt4
            | Self::DecimalAsInt4 { .. }
            | Self::IntAsFloat4
            | Self::Float4
            | Self::Float8AsFloat4
            | Self::Date
            | Self::TimestampAsDate => 4,
            Self::Int8
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prepare {
    IntAsNumeric(Option<NumericLimits>),
    Decimal { scale: u8, limits: Option<NumericLimits> },
    FloatAsNumeric(Option<NumericLimits>),
    TextAsNumeric(Option<NumericLimits>),
    UuidAsText { limit: Option<usize> },
}

impl Form {
    /// How a dataset column of this type becomes fields of the target column; `None` when it must be cast first.
    pub(super) fn of(from: &DataType, target: &ColumnSchema) -> Option<Self> {
        use DataType as D;
        let to = target.pg_type;
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
                PgType::Float4 => Self::Fixed(Fixed::IntAsFloat4),
                PgType::Float8 => Self::Fixed(Fixed::IntAsFloat8),
                PgType::Numeric { .. } | PgType::NumericUnbounded => {
                    Self::Prepared(Prepare::IntAsNumeric(numeric_limits(target)))
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
                    Self::Prepared(Prepare::FloatAsNumeric(numeric_limits(target)))
                }
                _ => return None,
            },
            D::Decimal128(_, scale) => {
                let scale = u8::try_from(*scale).ok().filter(|scale| *scale <= 38)?;
                match to {
                    PgType::Int2 => Self::Fixed(Fixed::DecimalAsInt2 { scale }),
                    PgType::Int4 => Self::Fixed(Fixed::DecimalAsInt4 { scale }),
                    PgType::Int8 => Self::Fixed(Fixed::DecimalAsInt8 { scale }),
                    PgType::Numeric { .. } | PgType::NumericUnbounded => {
                        Self::Prepared(Prepare::Decimal { scale, limits: numeric_limits(target) })
                    }
                    _ => return None,
                }
            }
            D::Utf8 | D::LargeUtf8 | D::Utf8View => match to {
                PgType::Text | PgType::Json => Self::Text { limit: None, versioned: false },
                PgType::Varchar { max_chars } => Self::Text { limit: max_chars.and_then(chars), versioned: false },
                PgType::Jsonb => Self::Text { limit: None, versioned: true },
                PgType::Uuid => Self::Fixed(Fixed::TextAsUuid),
                PgType::Numeric { .. } | PgType::NumericUnbounded => {
                    Self::Prepared(Prepare::TextAsNumeric(numeric_limits(target)))
                }
                _ => return None,
            },
            D::Binary | D::LargeBinary | D::BinaryView => match to {
                PgType::Bytea => Self::Bytes,
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
                PgType::Time => Self::Fixed(Fixed::Time { fraction_digits: fraction_digits(target)? }),
                _ => return None,
            },
            D::Timestamp(_, None) => match to {
                PgType::Timestamp => Self::Fixed(Fixed::Timestamp { fraction_digits: fraction_digits(target)? }),
                PgType::Date => Self::Fixed(Fixed::TimestampAsDate),
                _ => return None,
            },
            D::Timestamp(_, Some(_)) => match to {
                PgType::TimestampTz => Self::Fixed(Fixed::Timestamp { fraction_digits: fraction_digits(target)? }),
                _ => return None,
            },
            D::Struct(_) if is_interval(from) && to == PgType::Interval => {
                Self::Fixed(Fixed::Interval { fraction_digits: interval_digits(target)? })
            }
            _ => return None,
        })
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
fn numeric_limits(target: &ColumnSchema) -> Option<NumericLimits> {
    /// `VARHDRSZ`, which every such `typmod` carries.
    const HEADER: i32 = 4;
    let packed = target.typmod.checked_sub(HEADER).filter(|packed| *packed >= 0)?;
    let (precision, scale) = ((packed >> 16) & 0xFFFF, ((packed & 0x7FF) ^ 0x400) - 0x400);
    Some(NumericLimits { integer_digits: precision - scale, scale })
}

/// Digits of a second that a time or timestamp column keeps.
fn fraction_digits(target: &ColumnSchema) -> Option<u32> {
    if target.typmod == NO_TYPMOD { Some(6) } else { u32::try_from(target.typmod).ok() }
}

/// Digits of a second that an interval column keeps; `None` when it keeps only some fields, such as `year to month`.
fn interval_digits(target: &ColumnSchema) -> Option<u32> {
    /// `INTERVAL_FULL_RANGE` and `INTERVAL_FULL_PRECISION` in Postgres's `timestamp.h`.
    const FULL_RANGE: i32 = 0x7FFF;
    const FULL_PRECISION: i32 = 0xFFFF;
    match target.typmod {
        NO_TYPMOD => Some(6),
        typmod if (typmod >> 16) & FULL_RANGE != FULL_RANGE => None,
        typmod if typmod & FULL_PRECISION == FULL_PRECISION => Some(6),
        typmod => u32::try_from(typmod & FULL_PRECISION).ok(),
    }
}
