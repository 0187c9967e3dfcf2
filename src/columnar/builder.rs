//! Blocks of wire tuples to record batches, one column at a time.

use std::str;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, GenericByteArray,
    GenericByteBuilder, Int32Builder, Int64Builder, NullBufferBuilder, PrimitiveBuilder, RecordBatch, StringArray,
    StringBuilder, StructArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, ByteArrayType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type,
    Int32Type, Int64Type, SchemaRef, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow::error::ArrowError;

use super::mapping::{decimal_shape, interval_fields, schema_for};
use crate::schema::{PgType, TableSchema};
use crate::wire::{
    DecimalText, FieldError, NumericDigits, TupleBlock, date_from_wire, interval_from_wire, time_from_wire,
    timestamp_from_wire,
};

/// Why tuples could not become arrays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A value that its Arrow type cannot hold, or bytes that are no value.
    #[error("column {column}, row {row}: {reason}")]
    Value {
        /// The column's name.
        column: String,
        /// Rows of this stream before it.
        row: u64,
        /// What is wrong with the value.
        reason: FieldError,
    },
    /// Arrow refused the finished columns.
    #[error("cannot assemble a record batch")]
    Assemble(#[from] ArrowError),
}

/// The widest values an unbounded `numeric` column held, from which a reader may choose a decimal type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NumericSeen {
    /// Digits before the point at most.
    pub integer_digits: u32,
    /// Digits after the point at most.
    pub scale: u32,
    /// Whether `NaN` or an infinity occurred.
    pub special: bool,
}

impl NumericSeen {
    /// The widest of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            integer_digits: self.integer_digits.max(other.integer_digits),
            scale: self.scale.max(other.scale),
            special: self.special || other.special,
        }
    }
}

/// One column under construction.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a table has few columns, and a box would cost an indirection a value")]
enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int2(PrimitiveBuilder<Int16Type>),
    Int4(PrimitiveBuilder<Int32Type>),
    Int8(PrimitiveBuilder<Int64Type>),
    Float4(PrimitiveBuilder<Float32Type>),
    Float8(PrimitiveBuilder<Float64Type>),
    Decimal {
        builder: PrimitiveBuilder<Decimal128Type>,
        scale: i32,
    },
    NumericText {
        builder: StringBuilder,
        seen: NumericSeen,
        text: String,
    },
    /// Bytes until the batch is finished: one check of all of them is much faster than one for each.
    Text(BinaryBuilder),
    Jsonb(BinaryBuilder),
    Bytea(BinaryBuilder),
    Date(PrimitiveBuilder<Date32Type>),
    Time(PrimitiveBuilder<Time64MicrosecondType>),
    Timestamp(PrimitiveBuilder<TimestampMicrosecondType>),
    Interval {
        months: Int32Builder,
        days: Int32Builder,
        micros: Int64Builder,
        validity: NullBufferBuilder,
    },
    Uuid(FixedSizeBinaryBuilder),
}

impl ColumnBuilder {
    fn new(pg_type: PgType) -> Self {
        match pg_type {
            PgType::Bool => Self::Bool(BooleanBuilder::new()),
            PgType::Int2 => Self::Int2(PrimitiveBuilder::new()),
            PgType::Int4 => Self::Int4(PrimitiveBuilder::new()),
            PgType::Int8 => Self::Int8(PrimitiveBuilder::new()),
            PgType::Float4 => Self::Float4(PrimitiveBuilder::new()),
            PgType::Float8 => Self::Float8(PrimitiveBuilder::new()),
            PgType::Numeric { precision, scale: declared } => {
                let (precision, scale) = decimal_shape(precision, declared);
                Self::Decimal {
                    builder: PrimitiveBuilder::new().with_data_type(DataType::Decimal128(precision, scale)),
                    scale: i32::from(scale),
                }
            }
            PgType::NumericUnbounded => {
                Self::NumericText { builder: StringBuilder::new(), seen: NumericSeen::default(), text: String::new() }
            }
            PgType::Text | PgType::Varchar { .. } | PgType::Json => Self::Text(BinaryBuilder::new()),
            PgType::Jsonb => Self::Jsonb(BinaryBuilder::new()),
            PgType::Bytea => Self::Bytea(BinaryBuilder::new()),
            PgType::Date => Self::Date(PrimitiveBuilder::new()),
            PgType::Time => Self::Time(PrimitiveBuilder::new()),
            PgType::Timestamp => Self::Timestamp(PrimitiveBuilder::new()),
            PgType::TimestampTz => Self::Timestamp(PrimitiveBuilder::new().with_timezone("UTC")),
            PgType::Interval => Self::Interval {
                months: Int32Builder::new(),
                days: Int32Builder::new(),
                micros: Int64Builder::new(),
                validity: NullBufferBuilder::new(0),
            },
            PgType::Uuid => Self::Uuid(FixedSizeBinaryBuilder::new(16)),
        }
    }

    /// Appends a column of values; the error carries the value's place in it.
    fn append<'a>(&mut self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Result<(), (usize, FieldError)> {
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
            Self::Decimal { builder, scale } => {
                primitives(values, builder, |field| NumericDigits::parse(field)?.to_scaled(*scale))
            }
            Self::Date(builder) => primitives(values, builder, date_from_wire),
            Self::Time(builder) => primitives(values, builder, time_from_wire),
            Self::Timestamp(builder) => primitives(values, builder, timestamp_from_wire),
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
                builder.append_value(&*text);
                Ok(())
            }),
            Self::Text(builder) | Self::Bytea(builder) => each(values, |value| {
                builder.append_option(value);
                Ok(())
            }),
            Self::Jsonb(builder) => each(values, |value| {
                builder.append_option(value.map(jsonb).transpose()?);
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
        }
    }

    /// Takes the values; the error of a text that is not UTF-8 carries its place.
    fn finish(&mut self) -> Result<ArrayRef, (usize, FieldError)> {
        Ok(match self {
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Int2(builder) => take_primitives(builder),
            Self::Int4(builder) => take_primitives(builder),
            Self::Int8(builder) => take_primitives(builder),
            Self::Float4(builder) => take_primitives(builder),
            Self::Float8(builder) => take_primitives(builder),
            Self::Decimal { builder, .. } => take_primitives(builder),
            Self::NumericText { builder, .. } => Arc::new(take_bytes(builder)),
            Self::Text(builder) | Self::Jsonb(builder) => Arc::new(checked_text(&take_bytes(builder))?),
            Self::Bytea(builder) => Arc::new(take_bytes(builder)),
            Self::Date(builder) => take_primitives(builder),
            Self::Time(builder) => take_primitives(builder),
            Self::Timestamp(builder) => take_primitives(builder),
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

/// A `jsonb` field is a version byte and text.
fn jsonb(field: &[u8]) -> Result<&[u8], FieldError> {
    field.strip_prefix(&[1]).ok_or(FieldError::Malformed("jsonb"))
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
    read: impl Fn(&[u8]) -> Result<T::Native, FieldError>,
) -> Result<(), (usize, FieldError)> {
    each(values, |value| {
        match value {
            Some(field) => builder.append_value(read(field)?),
            None => builder.append_null(),
        }
        Ok(())
    })
}

/// Collects blocks of tuples into record batches of one table's schema.
#[derive(Debug)]
pub struct BatchBuilder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    rows: usize,
    bytes: usize,
    rows_before: u64,
}

impl BatchBuilder {
    /// A builder for a table's columns in order.
    pub fn new(table: &TableSchema) -> Self {
        Self {
            schema: schema_for(table),
            columns: table.columns.iter().map(|column| ColumnBuilder::new(column.pg_type)).collect(),
            rows: 0,
            bytes: 0,
            rows_before: 0,
        }
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Appends a block of tuples, column by column.
    ///
    /// # Errors
    /// [`BuildError::Value`] names the column and the row; the builder cannot be used after it.
    pub fn append(&mut self, block: TupleBlock<'_>, block_bytes: usize) -> Result<(), BuildError> {
        for (index, column) in self.columns.iter_mut().enumerate() {
            column.append(block.column(index)).map_err(|(row, reason)| BuildError::Value {
                column: self.schema.field(index).name().clone(),
                row: self.rows_before + (self.rows + row) as u64,
                reason,
            })?;
        }
        self.rows += block.rows();
        self.bytes += block_bytes;
        Ok(())
    }

    /// Rows in the unfinished batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Wire bytes in the unfinished batch.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes what was appended so far as one batch.
    ///
    /// # Errors
    /// [`BuildError::Value`] for text that is not UTF-8; [`BuildError::Assemble`] when Arrow refuses the columns,
    /// which would be our bug.
    pub fn finish(&mut self) -> Result<RecordBatch, BuildError> {
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (index, column) in self.columns.iter_mut().enumerate() {
            let array = column.finish().map_err(|(row, reason)| BuildError::Value {
                column: self.schema.field(index).name().clone(),
                row: self.rows_before + row as u64,
                reason,
            })?;
            arrays.push(array);
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?;
        self.rows_before += self.rows as u64;
        self.rows = 0;
        self.bytes = 0;
        Ok(batch)
    }

    /// The widest values of each unbounded `numeric` column so far, by column index.
    pub fn numeric_seen(&self) -> Vec<Option<NumericSeen>> {
        self.columns
            .iter()
            .map(|column| match column {
                ColumnBuilder::NumericText { seen, .. } => Some(*seen),
                _ => None,
            })
            .collect()
    }
}
