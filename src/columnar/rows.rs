//! Record batches as COPY BINARY tuples.
//!
//! How each column is encoded is decided once, from its pair of types; a pair that is not allowed is refused before
//! any data moves. A batch is then encoded a few hundred rows at a time in two passes over its columns: the first
//! adds up how long each tuple gets, the second writes every column's fields into the places so found. Inner loops
//! therefore run over one column with one known type, and what they write stays in the processor's cache.
//!
//! Nothing is rounded, cut or replaced: a value that the target column would change is an error that names column
//! and row.

use arrow::array::{
    Array, ArrayAccessor, ArrayRef, AsArray, GenericByteArray, PrimitiveArray, RecordBatch, StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowNativeType, ArrowPrimitiveType, ByteArrayType, ByteViewType, DataType, Date32Type, Decimal128Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use bytes::BytesMut;

use crate::schema::{ColumnSchema, PgType};
use crate::wire::{
    NULL_FIELD, NumericLimits, ValueError, bool_field, date_to_wire, date_to_wire_timestamp, float4_field,
    float8_field, int2_field, int4_field, int8_field, interval_field, length_word, put_numeric, put_numeric_text,
    time_to_wire, timestamp_to_wire, tuple_start, uuid_field, uuid_from_text,
};

/// Rows encoded at once: few enough that the tuples of a wide table stay in the second-level cache, enough that the
/// cost per column disappears.
const BLOCK_ROWS: usize = 256;
/// The greatest whole number up to which `real` holds every whole number.
const FLOAT4_EXACT_MAX: u64 = 1 << 24;
/// The greatest whole number up to which `double precision` holds every whole number.
const FLOAT8_EXACT_MAX: u64 = 1 << 53;
/// The `typmod` of a type without one.
const NO_TYPMOD: i32 = -1;
/// Microseconds in a day.
const DAY_US: i64 = 86_400_000_000;

/// A pair of columns that cannot be pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedPair {
    /// The target column.
    pub column: String,
    /// The dataset's type.
    pub from: DataType,
    /// The target's type, as Postgres prints it.
    pub to: String,
}

impl std::fmt::Display for RefusedPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} into {})", self.column, self.from, self.to)
    }
}

/// Why a dataset's columns cannot be written into a table's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodePlanError {
    /// Types that do not go together without a cast.
    #[error("no conversion for column {}; cast it in the phase", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Pairs(Vec<RefusedPair>),
    /// Not every target column has a dataset column.
    #[error("the dataset has {dataset} columns for {target} target columns")]
    Count {
        /// Columns on the dataset's side.
        dataset: usize,
        /// Columns on the target's side.
        target: usize,
    },
}

/// Why a batch could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The target column cannot hold a value.
    #[error("column {column}, row {row}: {reason}")]
    Value {
        /// The target column.
        column: String,
        /// The row within the whole load, from 0.
        row: u64,
        /// The row within the batch, from 0.
        batch_row: usize,
        /// What does not fit.
        reason: ValueError,
    },
    /// A batch whose columns are not those of the plan.
    #[error("column {column} of a batch has type {found}, not {planned}")]
    Schema {
        /// The target column.
        column: String,
        /// The type in the batch; `Null` when the column is missing.
        found: DataType,
        /// The type in the plan.
        planned: DataType,
    },
}

/// Encodes record batches as tuples of one target table.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use arrow::array::{ArrayRef, Int64Array, RecordBatch};
/// use racealpha::columnar::RowEncoder;
/// use racealpha::schema::{ColumnSchema, PgType};
///
/// let batch = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![7])) as ArrayRef)])?;
/// let target = ColumnSchema {
///     name: "a".into(), type_name: "smallint".into(), type_oid: 21, typmod: -1, pg_type: PgType::Int2, not_null: true,
/// };
/// let mut encoder = RowEncoder::new(&batch.schema(), &[target])?;
/// let mut out = bytes::BytesMut::new();
/// encoder.encode(&batch, &mut out)?;
/// assert_eq!(out.as_ref(), [0, 1, 0, 0, 0, 2, 0, 7]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RowEncoder {
    columns: Vec<Column>,
    rows: u64,
    /// Where each row of a block starts, then where its next field goes; kept to keep its memory.
    places: Vec<usize>,
}

#[derive(Debug)]
struct Column {
    name: String,
    index: usize,
    data_type: DataType,
    not_null: bool,
    form: Form,
    nulls: u64,
    prepared: Prepared,
}

/// Fields of one column of a block that had to be built before their length was known.
#[derive(Debug, Default)]
struct Prepared {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// How a column's values become fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
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
enum Fixed {
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
    const fn width(self) -> usize {
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
enum Prepare {
    IntAsNumeric(Option<NumericLimits>),
    Decimal { scale: u8, limits: Option<NumericLimits> },
    FloatAsNumeric(Option<NumericLimits>),
    TextAsNumeric(Option<NumericLimits>),
    UuidAsText { limit: Option<usize> },
}

/// A failed row of a block.
type BlockError = (usize, ValueError);

impl RowEncoder {
    /// Plans to encode all columns of a dataset into as many target columns, by position.
    ///
    /// # Errors
    /// [`EncodePlanError`] for pairs of types that need a cast, and for different numbers of columns.
    pub fn new(batch_schema: &Schema, target: &[ColumnSchema]) -> Result<Self, EncodePlanError> {
        let all: Vec<usize> = (0..batch_schema.fields().len()).collect();
        Self::with_columns(batch_schema, &all, target)
    }

    /// Plans to encode the dataset columns at `indices` into the target columns, in this order.
    ///
    /// # Errors
    /// As [`RowEncoder::new`].
    pub fn with_columns(
        batch_schema: &Schema,
        indices: &[usize],
        target: &[ColumnSchema],
    ) -> Result<Self, EncodePlanError> {
        let fields = batch_schema.fields();
        if indices.len() != target.len() || indices.iter().any(|index| *index >= fields.len()) {
            return Err(EncodePlanError::Count { dataset: indices.len().min(fields.len()), target: target.len() });
        }
        let mut refused = Vec::new();
        let mut columns = Vec::with_capacity(target.len());
        for (&index, target) in indices.iter().zip(target) {
            let data_type = fields[index].data_type().clone();
            match Form::of(&data_type, target) {
                Some(form) => columns.push(Column {
                    name: target.name.clone(),
                    index,
                    data_type,
                    not_null: target.not_null,
                    form,
                    nulls: 0,
                    prepared: Prepared::default(),
                }),
                None => refused.push(RefusedPair {
                    column: target.name.clone(),
                    from: data_type,
                    to: target.type_name.clone(),
                }),
            }
        }
        if !refused.is_empty() {
            return Err(EncodePlanError::Pairs(refused));
        }
        Ok(Self { columns, rows: 0, places: Vec::new() })
    }

    /// Appends the batch's rows as tuples. After an error `out` is as long as before.
    ///
    /// # Errors
    /// [`EncodeError::Value`] for the first value, by block of rows and then by column, that its target cannot hold.
    pub fn encode(&mut self, batch: &RecordBatch, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.check_schema(batch)?;
        let start = out.len();
        let mut done = 0;
        while done < batch.num_rows() {
            let block = batch.slice(done, BLOCK_ROWS.min(batch.num_rows() - done));
            if let Err((column, (row, reason))) = self.encode_block(&block, out) {
                out.truncate(start);
                return Err(EncodeError::Value {
                    column: self.columns.get(column).map(|column| column.name.clone()).unwrap_or_default(),
                    row: self.rows + u64::try_from(row).unwrap_or(u64::MAX),
                    batch_row: done + row,
                    reason,
                });
            }
            done += block.num_rows();
            self.rows += u64::try_from(block.num_rows()).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    /// Rows encoded so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Nulls encoded so far, by target column in order.
    pub fn null_counts(&self) -> impl ExactSizeIterator<Item = u64> {
        self.columns.iter().map(|column| column.nulls)
    }

    fn check_schema(&self, batch: &RecordBatch) -> Result<(), EncodeError> {
        for column in &self.columns {
            let found = batch.columns().get(column.index).map_or(&DataType::Null, |array| array.data_type());
            if *found != column.data_type {
                return Err(EncodeError::Schema {
                    column: column.name.clone(),
                    found: found.clone(),
                    planned: column.data_type.clone(),
                });
            }
        }
        Ok(())
    }

    fn encode_block(&mut self, block: &RecordBatch, out: &mut BytesMut) -> Result<(), (usize, BlockError)> {
        let rows = block.num_rows();
        let fields = i16::try_from(self.columns.len()).map_err(|_| (0, (0, ValueError::TooBig)))?;
        let start = tuple_start(fields);
        self.places.clear();
        self.places.resize(rows, start.len());
        for (index, column) in self.columns.iter_mut().enumerate() {
            let array = block.column(column.index);
            column.measure(array, &mut self.places).map_err(|error| (index, error))?;
        }
        let mut end = out.len();
        for place in &mut self.places {
            let length = *place;
            *place = end;
            end += length;
        }
        out.resize(end, 0);
        let mut slots = Slots { bytes: out, places: &mut self.places };
        slots.fill(None, std::iter::repeat_n((), rows), |()| Ok(start)).map_err(|error| (0, error))?;
        for (index, column) in self.columns.iter().enumerate() {
            column.write(block.column(column.index), &mut slots).map_err(|error| (index, error))?;
        }
        for (column, array) in
            self.columns.iter_mut().map(|column| (column.index, column)).map(|(i, c)| (c, block.column(i)))
        {
            let nulls = if column.form == Form::Nulls { rows } else { array.null_count() };
            column.nulls += u64::try_from(nulls).unwrap_or(u64::MAX);
        }
        Ok(())
    }
}

/// The bytes of a block, and where each row's next field goes.
struct Slots<'a> {
    bytes: &'a mut BytesMut,
    places: &'a mut [usize],
}

impl Slots<'_> {
    fn put(bytes: &mut [u8], place: &mut usize, field: &[u8]) {
        bytes[*place..*place + field.len()].copy_from_slice(field);
        *place += field.len();
    }

    /// Writes one field per row, all of one length.
    #[inline]
    fn fill<T, const N: usize>(
        &mut self,
        nulls: Option<&NullBuffer>,
        values: impl Iterator<Item = T>,
        field: impl Fn(T) -> Result<[u8; N], ValueError>,
    ) -> Result<(), BlockError> {
        let bytes = self.bytes.as_mut();
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
    fn fill_bytes<'v>(
        &mut self,
        nulls: Option<&NullBuffer>,
        values: impl Iterator<Item = &'v [u8]>,
        prefix: &[u8],
    ) -> Result<(), BlockError> {
        let bytes = self.bytes.as_mut();
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

/// Runs an expression with `$array` bound to the array as one of the integer types.
macro_rules! with_integers {
    ($source:expr, $array:ident => $body:expr) => {
        match $source.data_type() {
            DataType::Int8 => {
                let $array = $source.as_primitive::<Int8Type>();
                $body
            }
            DataType::Int16 => {
                let $array = $source.as_primitive::<Int16Type>();
                $body
            }
            DataType::Int32 => {
                let $array = $source.as_primitive::<Int32Type>();
                $body
            }
            DataType::Int64 => {
                let $array = $source.as_primitive::<Int64Type>();
                $body
            }
            DataType::UInt8 => {
                let $array = $source.as_primitive::<UInt8Type>();
                $body
            }
            DataType::UInt16 => {
                let $array = $source.as_primitive::<UInt16Type>();
                $body
            }
            DataType::UInt32 => {
                let $array = $source.as_primitive::<UInt32Type>();
                $body
            }
            _ => {
                let $array = $source.as_primitive::<UInt64Type>();
                $body
            }
        }
    };
}

/// Runs an expression with `$array` bound to the array as one of the float types.
macro_rules! with_floats {
    ($source:expr, $array:ident => $body:expr) => {
        match $source.data_type() {
            DataType::Float32 => {
                let $array = $source.as_primitive::<Float32Type>();
                $body
            }
            _ => {
                let $array = $source.as_primitive::<Float64Type>();
                $body
            }
        }
    };
}

/// Runs an expression with `$array` bound to the array as one of the text types.
macro_rules! with_text {
    ($source:expr, $array:ident => $body:expr) => {
        match $source.data_type() {
            DataType::Utf8 => {
                let $array = $source.as_string::<i32>();
                $body
            }
            DataType::LargeUtf8 => {
                let $array = $source.as_string::<i64>();
                $body
            }
            _ => {
                let $array = $source.as_string_view();
                $body
            }
        }
    };
}

/// Runs an expression with `$array` bound to the array as one of the binary types.
macro_rules! with_bytes {
    ($source:expr, $array:ident => $body:expr) => {
        match $source.data_type() {
            DataType::Binary => {
                let $array = $source.as_binary::<i32>();
                $body
            }
            DataType::LargeBinary => {
                let $array = $source.as_binary::<i64>();
                $body
            }
            _ => {
                let $array = $source.as_binary_view();
                $body
            }
        }
    };
}

impl Column {
    /// Adds the length of each row's field, length word included, to `lengths`; finds values that do not fit where
    /// that is cheapest here.
    fn measure(&mut self, array: &ArrayRef, lengths: &mut [usize]) -> Result<(), BlockError> {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        if self.not_null {
            let first = match self.form {
                Form::Nulls => (!lengths.is_empty()).then_some(0),
                _ => nulls.and_then(|nulls| nulls.iter().position(|valid| !valid)),
            };
            if let Some(row) = first {
                return Err((row, ValueError::Null));
            }
        }
        match self.form {
            Form::Nulls => add_fixed(lengths, None, 0),
            Form::Fixed(fixed) => add_fixed(lengths, nulls, fixed.width()),
            Form::Text { limit, versioned } => {
                with_text!(array, array => {
                    check_text(array, array.has_nul(), limit)?;
                    add_lengths(lengths, nulls, rows_of(array).map(str::len), usize::from(versioned));
                });
            }
            Form::Bytes => {
                with_bytes!(array, array => add_lengths(lengths, nulls, rows_of(array).map(<[u8]>::len), 0));
            }
            Form::Prepared(prepare) => {
                self.prepared.fill(prepare, array)?;
                let mut start = 0;
                for (length, end) in lengths.iter_mut().zip(&self.prepared.ends) {
                    *length += end - start;
                    start = *end;
                }
            }
        }
        Ok(())
    }

    /// Writes each row's field.
    fn write(&self, array: &ArrayRef, slots: &mut Slots<'_>) -> Result<(), BlockError> {
        let nulls = array.nulls();
        match self.form {
            Form::Nulls => slots.fill(None, std::iter::repeat(()), |()| Ok(NULL_FIELD)),
            Form::Fixed(fixed) => write_fixed(fixed, array, slots),
            Form::Text { versioned, .. } => {
                /// The version of the format that `jsonb_recv` knows.
                const JSONB_VERSION: &[u8] = &[1];
                let prefix = if versioned { JSONB_VERSION } else { &[] };
                with_text!(array, array => slots.fill_bytes(nulls, rows_of(array).map(str::as_bytes), prefix))
            }
            Form::Bytes => with_bytes!(array, array => slots.fill_bytes(nulls, rows_of(array), &[])),
            Form::Prepared(_) => {
                let mut start = 0;
                for (place, end) in slots.places.iter_mut().zip(&self.prepared.ends) {
                    Slots::put(slots.bytes, place, &self.prepared.bytes[start..*end]);
                    start = *end;
                }
                Ok(())
            }
        }
    }
}

/// All values of an array, whatever stands in the null slots too.
fn rows_of<A: ArrayAccessor + Copy>(array: A) -> impl Iterator<Item = A::Item> {
    (0..array.len()).map(move |row| array.value(row))
}

fn add_fixed(lengths: &mut [usize], nulls: Option<&NullBuffer>, width: usize) {
    match nulls {
        None => lengths.iter_mut().for_each(|length| *length += NULL_FIELD.len() + width),
        Some(nulls) => {
            for (length, valid) in lengths.iter_mut().zip(nulls.iter()) {
                *length += NULL_FIELD.len() + if valid { width } else { 0 };
            }
        }
    }
}

fn add_lengths(lengths: &mut [usize], nulls: Option<&NullBuffer>, values: impl Iterator<Item = usize>, prefix: usize) {
    for (row, (length, value)) in lengths.iter_mut().zip(values).enumerate() {
        let null = nulls.is_some_and(|nulls| nulls.is_null(row));
        *length += NULL_FIELD.len() + if null { 0 } else { prefix + value };
    }
}

/// Whether a text array may contain a NUL: exact for a column in one buffer, a guess to be checked for views.
trait HasNul {
    fn has_nul(&self) -> bool;
}

impl<T: ByteArrayType> HasNul for GenericByteArray<T> {
    fn has_nul(&self) -> bool {
        let offsets = self.value_offsets();
        let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return false };
        self.value_data().get(first.as_usize()..last.as_usize()).is_some_and(|bytes| bytes.contains(&0))
    }
}

impl<T: ByteViewType + ?Sized> HasNul for arrow::array::GenericByteViewArray<T> {
    fn has_nul(&self) -> bool {
        true
    }
}

fn check_text<'a, A: ArrayAccessor<Item = &'a str> + Copy>(
    array: A,
    has_nul: bool,
    limit: Option<usize>,
) -> Result<(), BlockError> {
    if !has_nul && limit.is_none() {
        return Ok(());
    }
    for row in (0..array.len()).filter(|row| array.is_valid(*row)) {
        check_text_value(array.value(row), limit).map_err(|reason| (row, reason))?;
    }
    Ok(())
}

fn check_text_value(text: &str, limit: Option<usize>) -> Result<(), ValueError> {
    if text.as_bytes().contains(&0) {
        return Err(ValueError::Nul);
    }
    match limit {
        // Bytes are never fewer than characters.
        Some(limit) if text.len() > limit => match text.chars().count() {
            chars if chars > limit => Err(ValueError::TooLong { chars, limit }),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn write_fixed(fixed: Fixed, array: &ArrayRef, slots: &mut Slots<'_>) -> Result<(), BlockError> {
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
        Fixed::DecimalAsInt2 { scale } => write_decimal_as_int(array, slots, scale, int2_field),
        Fixed::DecimalAsInt4 { scale } => write_decimal_as_int(array, slots, scale, int4_field),
        Fixed::DecimalAsInt8 { scale } => write_decimal_as_int(array, slots, scale, int8_field),
        Fixed::Date => {
            let values = array.as_primitive::<Date32Type>().values().iter();
            slots.fill(nulls, values, |days| date_to_wire(*days).map(int4_field))
        }
        Fixed::DateAsTimestamp => {
            let values = array.as_primitive::<Date32Type>().values().iter();
            slots.fill(nulls, values, |days| date_to_wire_timestamp(*days).map(int8_field))
        }
        Fixed::Time { fraction_digits } => {
            let values = array.as_primitive::<Time64MicrosecondType>().values().iter();
            slots.fill(nulls, values, |micros| {
                check_fraction(*micros, fraction_digits)?;
                time_to_wire(*micros).map(int8_field)
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
        Fixed::Timestamp { fraction_digits } => write_timestamps(array, slots, |micros| {
            if micros.unsigned_abs() != i64::MAX.unsigned_abs() {
                check_fraction(micros, fraction_digits)?;
            }
            timestamp_to_wire(micros).map(int8_field)
        }),
        Fixed::Interval { fraction_digits } => write_intervals(array.as_struct(), slots, fraction_digits),
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

fn write_decimal_as_int<I: TryFrom<i128>, const N: usize>(
    array: &ArrayRef,
    slots: &mut Slots<'_>,
    scale: u8,
    field: impl Fn(I) -> [u8; N],
) -> Result<(), BlockError> {
    let unit = 10_i128.pow(u32::from(scale));
    slots.fill(array.nulls(), array.as_primitive::<Decimal128Type>().values().iter(), |value| {
        if value % unit != 0 {
            return Err(ValueError::Fraction);
        }
        I::try_from(value / unit).map(&field).map_err(|_| ValueError::OutOfRange)
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

fn write_intervals(array: &StructArray, slots: &mut Slots<'_>, fraction_digits: u32) -> Result<(), BlockError> {
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
        check_fraction(micros.value(row), fraction_digits)?;
        Ok(interval_field(months.value(row), days.value(row), micros.value(row)))
    })
}

/// Refuses digits of a second that the server would round.
fn check_fraction(micros: i64, digits: u32) -> Result<(), ValueError> {
    if digits >= 6 || micros % 10_i64.pow(6 - digits) == 0 { Ok(()) } else { Err(ValueError::FinerThan { digits }) }
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

impl Prepared {
    fn fill(&mut self, prepare: Prepare, array: &ArrayRef) -> Result<(), BlockError> {
        match prepare {
            Prepare::IntAsNumeric(limits) => with_integers!(array, array => {
                self.build(array.nulls(), array.values().iter(), |out, value| {
                    put_numeric(out, i128::from(*value), 0, limits)
                })
            }),
            Prepare::Decimal { scale, limits } => {
                let values = array.as_primitive::<Decimal128Type>().values().iter();
                self.build(array.nulls(), values, |out, value| put_numeric(out, *value, scale, limits))
            }
            Prepare::FloatAsNumeric(limits) => {
                let mut text = String::new();
                with_floats!(array, array => self.build(array.nulls(), array.values().iter(), |out, value| {
                    use std::fmt::Write;
                    text.clear();
                    // The shortest digits that read back as the same number; writing to a String cannot fail.
                    if value.is_finite() {
                        let _ = write!(text, "{value:e}");
                    } else {
                        let _ = write!(text, "{value}");
                    }
                    put_numeric_text(out, &text, limits)
                }))
            }
            Prepare::TextAsNumeric(limits) => with_text!(array, array => {
                self.build(array.nulls(), rows_of(array), |out, text| put_numeric_text(out, text, limits))
            }),
            Prepare::UuidAsText { limit } => {
                self.build(array.nulls(), rows_of(array.as_fixed_size_binary()), |out, bytes| {
                    let mut text = String::with_capacity(36);
                    for (at, byte) in bytes.iter().enumerate() {
                        use std::fmt::Write;
                        let hyphen = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
                        let _ = write!(text, "{hyphen}{byte:02x}");
                    }
                    check_text_value(&text, limit)?;
                    out.extend_from_slice(&length_word(text.len())?);
                    out.extend_from_slice(text.as_bytes());
                    Ok(())
                })
            }
        }
    }

    fn build<T>(
        &mut self,
        nulls: Option<&NullBuffer>,
        values: impl Iterator<Item = T>,
        mut put: impl FnMut(&mut Vec<u8>, T) -> Result<(), ValueError>,
    ) -> Result<(), BlockError> {
        self.bytes.clear();
        self.ends.clear();
        for (row, value) in values.enumerate() {
            if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                self.bytes.extend_from_slice(&NULL_FIELD);
            } else {
                put(&mut self.bytes, value).map_err(|reason| (row, reason))?;
            }
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }
}

impl Form {
    /// How a dataset column of this type becomes fields of the target column; `None` when it must be cast first.
    fn of(from: &DataType, target: &ColumnSchema) -> Option<Self> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Int16Array, Int64Array, NullArray, StringArray, StringViewArray};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn column(name: &str, pg_type: PgType, not_null: bool) -> ColumnSchema {
        let (name, type_name) = (name.to_owned(), format!("{pg_type:?}"));
        ColumnSchema { name, type_name, type_oid: 0, typmod: NO_TYPMOD, pg_type, not_null }
    }

    /// Splits encoded tuples into fields.
    fn fields(mut bytes: &[u8]) -> Vec<Vec<Option<Vec<u8>>>> {
        let mut take = |count: usize| {
            let (taken, rest) = bytes.split_at(count);
            bytes = rest;
            (taken.to_vec(), bytes.is_empty())
        };
        let mut tuples = Vec::new();
        loop {
            let (count, mut at_end) = take(2);
            let count = i16::from_be_bytes(count.try_into().expect("two bytes"));
            let mut tuple = Vec::new();
            for _ in 0..count {
                let (length, end) = take(4);
                at_end = end;
                tuple.push(usize::try_from(i32::from_be_bytes(length.try_into().expect("four bytes"))).ok().map(
                    |length| {
                        let (value, end) = take(length);
                        at_end = end;
                        value
                    },
                ));
            }
            tuples.push(tuple);
            if at_end {
                return tuples;
            }
        }
    }

    type Row = (Option<i64>, Option<String>, Option<i64>);

    proptest! {
        /// Whatever the lengths and nulls, however a batch is cut, each field is where its row is.
        #[test]
        fn every_field_is_in_its_place(rows in vec((option::of(any::<i64>()), option::of("[a-zä🐎]{0,20}"), option::of(-999_i64..999)), 1..600), cut in 1_usize..600) {
            let rows: Vec<Row> = rows;
            let numbers: Int64Array = rows.iter().map(|row| row.0).collect();
            let texts: StringArray = rows.iter().map(|row| row.1.as_deref()).collect();
            let views: StringViewArray = rows.iter().map(|row| row.1.as_deref()).collect();
            let decimals: Decimal128Array = rows.iter().map(|row| row.2.map(i128::from)).collect();
            let decimals = decimals.with_precision_and_scale(38, 2).expect("a legal scale");
            let batch = RecordBatch::try_from_iter_with_nullable([
                ("a", Arc::new(numbers) as ArrayRef, true),
                ("b", Arc::new(texts), true),
                ("c", Arc::new(views), true),
                ("d", Arc::new(decimals), true),
                ("e", Arc::new(NullArray::new(rows.len())), true),
            ]).expect("equal lengths");
            let target = [
                column("a", PgType::Int8, false),
                column("b", PgType::Text, false),
                column("c", PgType::Jsonb, false),
                column("d", PgType::NumericUnbounded, false),
                column("e", PgType::Date, false),
            ];
            let mut encoder = RowEncoder::new(&batch.schema(), &target).expect("pairs that go together");
            let mut out = BytesMut::new();
            let cut = cut.min(rows.len());
            encoder.encode(&batch.slice(0, cut), &mut out).expect("values that fit");
            encoder.encode(&batch.slice(cut, rows.len() - cut), &mut out).expect("values that fit");
            let expected: Vec<Vec<Option<Vec<u8>>>> = rows.iter().map(|(number, text, decimal)| vec![
                number.map(|number| number.to_be_bytes().to_vec()),
                text.as_ref().map(|text| text.as_bytes().to_vec()),
                text.as_ref().map(|text| [&[1], text.as_bytes()].concat()),
                decimal.map(|decimal| {
                    let mut field = Vec::new();
                    put_numeric(&mut field, i128::from(decimal), 2, None).expect("no limits");
                    field.split_off(4)
                }),
                None,
            ]).collect();
            prop_assert_eq!(fields(&out), expected);
            let nulls = |of: fn(&Row) -> bool| rows.iter().filter(|row| of(row)).count() as u64;
            let counts = [nulls(|row| row.0.is_none()), nulls(|row| row.1.is_none()), nulls(|row| row.1.is_none()), nulls(|row| row.2.is_none()), rows.len() as u64];
            prop_assert_eq!(encoder.null_counts().collect::<Vec<_>>(), counts);
            prop_assert_eq!(encoder.rows(), rows.len() as u64);
        }
    }

    #[test]
    fn an_error_names_the_row_of_the_whole_load_and_appends_nothing() {
        let good =
            RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1; 300])) as ArrayRef)]).expect("a batch");
        let mut values = vec![1; 600];
        values[500] = 1 << 20;
        let bad = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(values)) as ArrayRef)]).expect("a batch");
        let mut encoder = RowEncoder::new(&good.schema(), &[column("b", PgType::Int2, true)]).expect("a pair");
        let mut out = BytesMut::new();
        encoder.encode(&good, &mut out).expect("values that fit");
        let before = out.len();
        let error = encoder.encode(&bad, &mut out).expect_err("a value out of range");
        assert_eq!(error.to_string(), "column b, row 800: the value is out of range");
        assert_eq!(out.len(), before);
    }

    #[test]
    fn pairs_that_need_a_cast_are_refused_together() {
        let batch = RecordBatch::try_from_iter([
            ("a", Arc::new(Int16Array::from(vec![1])) as ArrayRef),
            ("b", Arc::new(StringArray::from(vec!["1"]))),
            ("c", Arc::new(StringArray::from(vec!["x"]))),
        ])
        .expect("a batch");
        let target =
            [column("a", PgType::Text, false), column("b", PgType::Int4, false), column("c", PgType::Text, false)];
        let error = RowEncoder::new(&batch.schema(), &target).expect_err("two pairs that need a cast");
        assert_eq!(
            error.to_string(),
            "no conversion for column a (Int16 into Text), b (Utf8 into Int4); cast it in the phase"
        );
        let error = RowEncoder::new(&batch.schema(), &target[..2]).expect_err("a column too many");
        assert_eq!(error, EncodePlanError::Count { dataset: 3, target: 2 });
    }

    #[test]
    fn a_batch_with_other_columns_is_refused() {
        let planned =
            RecordBatch::try_from_iter([("a", Arc::new(Int16Array::from(vec![1])) as ArrayRef)]).expect("a batch");
        let other =
            RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).expect("a batch");
        let mut encoder = RowEncoder::new(&planned.schema(), &[column("a", PgType::Int8, false)]).expect("a pair");
        let error = encoder.encode(&other, &mut BytesMut::new()).expect_err("another type");
        assert_eq!(error.to_string(), "column a of a batch has type Int64, not Int16");
    }
}
