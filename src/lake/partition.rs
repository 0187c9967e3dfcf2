//! Partition transforms, as in Apache Iceberg: which folder a row belongs to.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, RecordBatch};
use arrow::compute::{DatePart, SortColumn, date_part};
use arrow::compute::{cast, lexsort_to_indices, partition, take_record_batch};
use arrow::datatypes::{DataType, Int64Type, Schema};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::{Deserialize, Serialize};

/// The folder of rows whose value is null.
const NULL_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";
/// A batch with more runs of equal partition values than this is sorted by them first.
const RUNS_UNSORTED_MAX: usize = 32;

/// How a column's value becomes a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PartitionTransform {
    /// The value itself.
    Identity(String),
    /// The year of a date or timestamp.
    Year(String),
    /// Year and month.
    Month(String),
    /// The day.
    Day(String),
    /// One of `n` buckets, by Iceberg's hash.
    Bucket(u32, String),
}

/// A partition transform that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a partition transform: expected identity(c), year(c), month(c), day(c) or bucket(n, c)")]
pub struct BadTransform(String);

impl FromStr for PartitionTransform {
    type Err = BadTransform;

    fn from_str(text: &str) -> Result<Self, BadTransform> {
        let bad = || BadTransform(text.to_owned());
        let (name, rest) = text.split_once('(').ok_or_else(bad)?;
        let column = rest.strip_suffix(')').map(str::trim).filter(|column| !column.is_empty()).ok_or_else(bad)?;
        Ok(match name.trim() {
            "identity" => Self::Identity(column.to_owned()),
            "year" => Self::Year(column.to_owned()),
            "month" => Self::Month(column.to_owned()),
            "day" => Self::Day(column.to_owned()),
            "bucket" => {
                let (count, column) = column.split_once(',').ok_or_else(bad)?;
                let count = count.trim().parse().ok().filter(|count| *count > 0).ok_or_else(bad)?;
                Self::Bucket(count, column.trim().to_owned())
            }
            _ => return Err(bad()),
        })
    }
}

impl TryFrom<String> for PartitionTransform {
    type Error = BadTransform;

    fn try_from(text: String) -> Result<Self, BadTransform> {
        text.parse()
    }
}

impl From<PartitionTransform> for String {
    fn from(transform: PartitionTransform) -> Self {
        transform.to_string()
    }
}

impl fmt::Display for PartitionTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(column) => write!(f, "identity({column})"),
            Self::Year(column) => write!(f, "year({column})"),
            Self::Month(column) => write!(f, "month({column})"),
            Self::Day(column) => write!(f, "day({column})"),
            Self::Bucket(count, column) => write!(f, "bucket({count}, {column})"),
        }
    }
}

impl PartitionTransform {
    /// The column whose value it takes.
    pub fn column(&self) -> &str {
        match self {
            Self::Identity(c) | Self::Year(c) | Self::Month(c) | Self::Day(c) | Self::Bucket(_, c) => c,
        }
    }

    /// The folder's key: the column for the identity, otherwise column and transform.
    fn key(&self) -> String {
        match self {
            Self::Identity(column) => column.clone(),
            Self::Year(column) => format!("{column}_year"),
            Self::Month(column) => format!("{column}_month"),
            Self::Day(column) => format!("{column}_day"),
            Self::Bucket(_, column) => format!("{column}_bucket"),
        }
    }

    /// Checks that the schema has the column and the transform takes its type.
    ///
    /// # Errors
    /// Why not, as a sentence's end.
    pub(super) fn check(&self, schema: &Schema) -> Result<(), String> {
        let field =
            schema.field_with_name(self.column()).map_err(|_| format!("there is no column {}", self.column()))?;
        let temporal = matches!(field.data_type(), DataType::Date32 | DataType::Timestamp(_, _));
        let fits = match self {
            Self::Identity(_) => !field.data_type().is_nested(),
            Self::Bucket(_, _) => field.data_type().is_integer() || *field.data_type() == DataType::Utf8,
            Self::Year(_) | Self::Month(_) | Self::Day(_) => temporal,
        };
        fits.then_some(()).ok_or_else(|| format!("column {} has type {}", self.column(), field.data_type()))
    }

    /// The folder value of each row, as text.
    fn apply(&self, batch: &RecordBatch) -> Result<ArrayRef, ArrowError> {
        let column = batch.column(batch.schema_ref().index_of(self.column())?);
        match self {
            Self::Identity(_) => cast(column, &DataType::Utf8),
            Self::Year(_) => cast(&date_part(column, DatePart::Year)?, &DataType::Utf8),
            Self::Month(_) => formatted(column, "%Y-%m"),
            Self::Day(_) => formatted(column, "%Y-%m-%d"),
            Self::Bucket(count, _) => cast(&bucket(column, *count)?, &DataType::Utf8),
        }
    }
}

fn formatted(column: &ArrayRef, format: &str) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default()
        .with_date_format(Some(format))
        .with_timestamp_format(Some(format))
        .with_timestamp_tz_format(Some(format));
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let texts = (0..column.len()).map(|row| column.is_valid(row).then(|| formatter.value(row).to_string()));
    Ok(Arc::new(texts.collect::<arrow::array::StringArray>()))
}

/// Iceberg's bucket: Murmur3 of the UTF-8 bytes or of the integer as 8 little-endian bytes, sign bit cleared.
fn bucket(column: &ArrayRef, count: u32) -> Result<ArrayRef, ArrowError> {
    let of = |bytes: &[u8]| i32::try_from((murmur3(bytes) & 0x7FFF_FFFF) % count).unwrap_or(0);
    Ok(Arc::new(if *column.data_type() == DataType::Utf8 {
        column.as_string::<i32>().iter().map(|value| value.map(|text| of(text.as_bytes()))).collect::<Int32Array>()
    } else {
        let wide = cast(column, &DataType::Int64)?;
        wide.as_primitive::<Int64Type>().iter().map(|value| value.map(|n| of(&n.to_le_bytes()))).collect()
    }))
}

/// Murmur3, 32 bits, x86 variant, seed 0.
///
/// # Source
/// Apache Iceberg specification, appendix B.
fn murmur3(bytes: &[u8]) -> u32 {
    let scramble = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (blocks, tail) = bytes.as_chunks::<4>();
    let mut hash = blocks.iter().fold(0_u32, |hash, block| {
        (hash ^ scramble(u32::from_le_bytes(*block))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
    });
    let rest = tail.iter().rev().fold(0_u32, |rest, byte| (rest << 8) | u32::from(*byte));
    hash ^= scramble(rest);
    hash ^= u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// Folder keys and values of one partition, in transform order.
pub(super) type PartitionKey = Vec<(String, String)>;

/// Cuts a batch into one piece per run of equal partition values; without transforms it stays whole.
pub(super) fn split(
    batch: RecordBatch,
    transforms: &[PartitionTransform],
) -> Result<Vec<(PartitionKey, RecordBatch)>, ArrowError> {
    if transforms.is_empty() {
        return Ok(vec![(PartitionKey::new(), batch)]);
    }
    let mut batch = batch;
    let mut values = transforms.iter().map(|transform| transform.apply(&batch)).collect::<Result<Vec<_>, _>>()?;
    let mut ranges = partition(&values)?.ranges();
    if ranges.len() > RUNS_UNSORTED_MAX {
        let columns: Vec<SortColumn> =
            values.iter().map(|values| SortColumn { values: Arc::clone(values), options: None }).collect();
        batch = take_record_batch(&batch, &lexsort_to_indices(&columns, None)?)?;
        values = transforms.iter().map(|transform| transform.apply(&batch)).collect::<Result<Vec<_>, _>>()?;
        ranges = partition(&values)?.ranges();
    }
    let value_at = |values: &ArrayRef, row: usize| match values.is_valid(row) {
        true => values.as_string::<i32>().value(row).to_owned(),
        false => NULL_VALUE.to_owned(),
    };
    Ok(ranges
        .into_iter()
        .map(|range| {
            let key = transforms
                .iter()
                .zip(&values)
                .map(|(transform, values)| (transform.key(), value_at(values, range.start)))
                .collect();
            (key, batch.slice(range.start, range.len()))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use arrow::array::{Date32Array, StringArray};
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn transforms_are_read_and_printed_alike() {
        for text in ["identity(location)", "year(race_date)", "month(d)", "day(d)", "bucket(16, horse_slug)"] {
            assert_eq!(text.parse::<PartitionTransform>().unwrap().to_string(), text);
        }
        for text in ["race_date", "year()", "bucket(0, c)", "week(d)", "year(d"] {
            assert!(text.parse::<PartitionTransform>().is_err(), "{text}");
        }
    }

    /// The values of the Iceberg specification, appendix B.
    #[test]
    fn the_hash_is_icebergs() {
        assert_eq!(murmur3(&34_i64.to_le_bytes()), 2_017_239_379);
        assert_eq!(murmur3(b"iceberg"), 1_210_000_089);
    }

    #[test]
    fn rows_go_to_the_folder_of_their_year_and_nulls_to_their_own() {
        let schema =
            Arc::new(Schema::new(vec![Field::new("d", DataType::Date32, true), Field::new("t", DataType::Utf8, true)]));
        let days = Date32Array::from(vec![Some(0), Some(364), Some(365), None]);
        let texts = StringArray::from(vec!["a", "b", "c", "d"]);
        let batch = RecordBatch::try_new(schema, vec![Arc::new(days), Arc::new(texts)]).unwrap();
        let pieces = split(batch, &[PartitionTransform::Year("d".into())]).unwrap();
        let rows: Vec<(String, usize)> =
            pieces.into_iter().map(|(key, piece)| (key[0].1.clone(), piece.num_rows())).collect();
        assert_eq!(rows, [("1970".into(), 2), ("1971".into(), 1), (NULL_VALUE.into(), 1)]);
    }
}
