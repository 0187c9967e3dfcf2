//! Record batches as COPY BINARY tuples.
//!
//! How each column is encoded is decided once, from its pair of types; a pair that is not allowed is refused before
//! any data moves. A batch is then encoded a few hundred rows at a time in two passes over its columns: the first
//! adds up how long each tuple gets, the second writes every column's fields into the places so found. Inner loops
//! therefore run over one column with one known type, and what they write stays in the processor's cache.
//!
//! Nothing is rounded, cut or replaced unless the configuration says so: a value that the target column would change
//! is an error that names column and row.

mod field;
mod form;
mod nested;
mod policy;
mod prepared;
mod slots;
mod text;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use bytes::BytesMut;

use crate::schema::ColumnSchema;
use crate::wire::{ValueError, tuple_start};

use field::FieldEncoder;
use form::Form;
pub use form::is_interval;
pub use policy::{OnUnfit, PushPolicy};
use slots::Slots;

/// Rows encoded at once: few enough that the tuples of a wide table stay in the second-level cache, enough that the
/// cost per column disappears.
const BLOCK_ROWS: usize = 256;

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
    encoder: FieldEncoder,
    nulls: u64,
    /// Whether values that do not fit become null, and how many did.
    null_misfits: bool,
    nulled: u64,
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
        Self::with_columns(batch_schema, &all, target, &BTreeMap::new())
    }

    /// Plans to encode the dataset columns at `indices` into the target columns, in this order, with what the
    /// configuration says about values that do not fit, by target column.
    ///
    /// # Errors
    /// As [`RowEncoder::new`].
    pub fn with_columns(
        batch_schema: &Schema,
        indices: &[usize],
        target: &[ColumnSchema],
        policies: &BTreeMap<String, PushPolicy>,
    ) -> Result<Self, EncodePlanError> {
        let fields = batch_schema.fields();
        if indices.len() != target.len() || indices.iter().any(|index| *index >= fields.len()) {
            return Err(EncodePlanError::Count { dataset: indices.len().min(fields.len()), target: target.len() });
        }
        let mut refused = Vec::new();
        let mut columns = Vec::with_capacity(target.len());
        for (&index, target) in indices.iter().zip(target) {
            let data_type = fields[index].data_type().clone();
            let values = match &data_type {
                DataType::Dictionary(_, values) => values.as_ref(),
                plain => plain,
            };
            let policy = policies.get(&target.name).copied().unwrap_or_default();
            match Form::of(values, &target.pg_type, target.typmod, policy) {
                Some(form) => columns.push(Column {
                    name: target.name.clone(),
                    index,
                    data_type,
                    encoder: FieldEncoder::new(form, target.not_null),
                    nulls: 0,
                    null_misfits: policy.misfit == OnUnfit::Null && !target.not_null,
                    nulled: 0,
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
        let batch = &self.without_dictionaries(batch)?;
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

    /// Values that became null because their column cannot hold them, by target column that has any.
    pub fn nulled(&self) -> impl Iterator<Item = (&str, u64)> {
        self.columns.iter().filter(|column| column.nulled > 0).map(|column| (column.name.as_str(), column.nulled))
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

    /// The batch with the values of dictionaries in their places.
    fn without_dictionaries(&self, batch: &RecordBatch) -> Result<RecordBatch, EncodeError> {
        let mut batch = batch.clone();
        for column in &self.columns {
            let DataType::Dictionary(_, values) = &column.data_type else { continue };
            let other = |_| EncodeError::Schema {
                column: column.name.clone(),
                found: column.data_type.clone(),
                planned: values.as_ref().clone(),
            };
            let array = cast(batch.column(column.index), values).map_err(other)?;
            let (schema, mut arrays, _) = batch.into_parts();
            let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
            fields[column.index] =
                Arc::new(fields[column.index].as_ref().clone().with_data_type(values.as_ref().clone()));
            arrays[column.index] = array;
            batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(other)?;
        }
        Ok(batch)
    }

    /// The block's columns, with null in the place of values that do not fit where that is allowed.
    fn fitting(&mut self, block: &RecordBatch) -> Vec<ArrayRef> {
        let mut arrays = block.columns().to_vec();
        for column in self.columns.iter_mut().filter(|column| column.null_misfits) {
            if let Some(array) = arrays.get_mut(column.index) {
                column.nulled += column.encoder.null_misfits(array);
            }
        }
        arrays
    }

    fn encode_block(&mut self, block: &RecordBatch, out: &mut BytesMut) -> Result<(), (usize, BlockError)> {
        let rows = block.num_rows();
        let arrays = self.fitting(block);
        let fields = i16::try_from(self.columns.len()).map_err(|_| (0, (0, ValueError::TooBig)))?;
        let start = tuple_start(fields);
        self.places.clear();
        self.places.resize(rows, start.len());
        for (index, column) in self.columns.iter_mut().enumerate() {
            let array = &arrays[column.index];
            column.encoder.measure(array, &mut self.places).map_err(|error| (index, error))?;
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
            column.encoder.write(&arrays[column.index], &mut slots).map_err(|error| (index, error))?;
        }
        for column in &mut self.columns {
            let nulls = match column.encoder.form {
                Form::Nulls => rows,
                _ => arrays[column.index].null_count(),
            };
            column.nulls += u64::try_from(nulls).unwrap_or(u64::MAX);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal128Array, Int16Array, Int64Array, NullArray, StringArray, StringViewArray};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::schema::PgType;
    use crate::wire::put_numeric;

    fn column(name: &str, pg_type: PgType, not_null: bool) -> ColumnSchema {
        let (name, type_name) = (name.to_owned(), format!("{pg_type:?}"));
        ColumnSchema { name, type_name, type_oid: 0, typmod: -1, pg_type, not_null }
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
