//! Rows of record batches in the order of some of their columns.

use arrow::array::RecordBatch;
use arrow::compute::{SortOptions, interleave_record_batch};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

/// Rows of a sorted batch: enough to make the work per column small against the work per value, in gathering as in encoding.
const SORTED_BATCH_ROWS: usize = 65_536;

/// Rows of several batches in one order, gathered batch by batch.
#[derive(Debug)]
pub struct SortedBatches {
    batches: Vec<RecordBatch>,
    /// The place of each row, as batch and row, in the order; none when the batches are in it as they are.
    places: Option<Vec<(usize, usize)>>,
    /// Places, or batches, that were handed out.
    taken: usize,
}

/// The rows of all batches in ascending order of `columns`, nulls last, as DuckDB and Postgres sort; texts by their
/// bytes. Only the named columns are compared and only positions are moved, so wide rows cost little. The batches must
/// have one schema.
///
/// # Errors
/// [`ArrowError`] when a column is missing or has no order.
pub fn sort_batches(batches: Vec<RecordBatch>, columns: &[String]) -> Result<SortedBatches, ArrowError> {
    let Some(first) = batches.first() else { return Ok(SortedBatches { batches, places: None, taken: 0 }) };
    let schema = first.schema();
    let columns = columns.iter().map(|column| schema.index_of(column)).collect::<Result<Vec<_>, _>>()?;
    let ascending = SortOptions { descending: false, nulls_first: false };
    let fields =
        columns.iter().map(|column| SortField::new_with_options(schema.field(*column).data_type().clone(), ascending));
    let converter = RowConverter::new(fields.collect())?;
    let keys = batches
        .iter()
        .map(|batch| converter.convert_columns(batch.project(&columns)?.columns()))
        .collect::<Result<Vec<Rows>, _>>()?;
    let mut places: Vec<(usize, usize)> =
        keys.iter().enumerate().flat_map(|(batch, rows)| (0..rows.num_rows()).map(move |row| (batch, row))).collect();
    let key = |place: &(usize, usize)| keys[place.0].row(place.1);
    let is_sorted = places.is_sorted_by_key(key);
    if !is_sorted {
        places.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
    }
    Ok(SortedBatches { batches, places: (!is_sorted).then_some(places), taken: 0 })
}

impl Iterator for SortedBatches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(places) = &self.places else {
            let batch = self.batches.get(self.taken)?.clone();
            self.taken += 1;
            return Some(Ok(batch));
        };
        let rest = &places[self.taken..];
        let places = &rest[..rest.len().min(SORTED_BATCH_ROWS)];
        if places.is_empty() {
            return None;
        }
        self.taken += places.len();
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        Some(interleave_record_batch(&batches, places))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Date32Array, Int32Array, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn batch(days: Vec<Option<i32>>, names: Vec<Option<&str>>, numbers: Vec<i32>) -> RecordBatch {
        let columns: [(&str, ArrayRef, bool); 3] = [
            ("day", Arc::new(Date32Array::from(days)), true),
            ("name", Arc::new(StringArray::from(names)), true),
            ("number", Arc::new(Int32Array::from(numbers)), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    fn sorted(batches: Vec<RecordBatch>, columns: &[&str]) -> Vec<RecordBatch> {
        let columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
        sort_batches(batches, &columns).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn numbers(batches: &[RecordBatch]) -> Vec<i32> {
        batches.iter().flat_map(|batch| batch.column(2).as_primitive::<Int32Type>().values().to_vec()).collect()
    }

    #[test]
    fn rows_of_several_batches_are_sorted_with_nulls_last_and_texts_by_bytes() {
        let batches = vec![
            batch(vec![Some(2), None, Some(1)], vec![Some("b"), Some("a"), Some("é")], vec![4, 6, 3]),
            batch(vec![Some(1), Some(2), Some(1)], vec![Some("Z"), None, Some("a")], vec![1, 5, 2]),
        ];
        let sorted = sorted(batches, &["day", "name"]);
        assert_eq!(numbers(&sorted), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn sorted_rows_stay_in_their_batches() {
        let batches =
            vec![batch(vec![Some(1)], vec![Some("a")], vec![1]), batch(vec![Some(1)], vec![Some("b")], vec![2])];
        assert_eq!(sorted(batches.clone(), &["day", "name"]), batches);
    }

    #[test]
    fn many_rows_come_in_batches_of_bounded_size() {
        let rows = i32::try_from(SORTED_BATCH_ROWS).unwrap() + 1;
        let one =
            batch(vec![Some(1); SORTED_BATCH_ROWS + 1], vec![None; SORTED_BATCH_ROWS + 1], (0..rows).rev().collect());
        let sorted = sorted(vec![one], &["number"]);
        assert_eq!(sorted.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [SORTED_BATCH_ROWS, 1]);
        assert_eq!(numbers(&sorted), (0..rows).collect::<Vec<_>>());
    }

    #[test]
    fn a_missing_column_is_named() {
        let error = sort_batches(vec![batch(vec![None], vec![None], vec![1])], &["when".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("when"), "{error}");
    }
}
