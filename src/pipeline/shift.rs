//! How the numbers of a column lie, before and after: quantiles, and how far the one distribution is from the other.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use serde::Serialize;

/// Into how many equally filled parts the former values are cut.
const BINS: u32 = 10;
/// What an empty part counts as, as a share of all: its logarithm would be infinite.
const LEAST_SHARE: f64 = 0.0005;
/// Values below which a distribution says nothing.
const VALUES_MIN: usize = 20;

/// Where a column's numbers lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// One in twenty is below.
    pub p05: f64,
    /// Half are below.
    pub p50: f64,
    /// One in twenty is above.
    pub p95: f64,
}

/// Numbers in order, without nulls and NaN.
#[derive(Debug, Default)]
pub(super) struct Sample(Vec<f64>);

impl Sample {
    /// The numbers of one column of doubles.
    pub(super) fn of(batches: &[RecordBatch], column: usize) -> Self {
        let mut values: Vec<f64> = Vec::new();
        for batch in batches {
            if let Some(array) = batch.columns().get(column).and_then(|array| array.as_primitive_opt::<Float64Type>()) {
                values.extend(array.iter().flatten().filter(|value| !value.is_nan()));
            }
        }
        values.sort_unstable_by(f64::total_cmp);
        Self(values)
    }

    pub(super) fn quantiles(&self) -> Option<Quantiles> {
        Some(Quantiles { p05: self.quantile(5, 100)?, p50: self.quantile(50, 100)?, p95: self.quantile(95, 100)? })
    }

    fn quantile(&self, part: usize, whole: usize) -> Option<f64> {
        let last = self.0.len().checked_sub(1)?;
        self.0.get(last * part / whole).copied()
    }

    /// The population stability index of `after` against this: the sum, over tenths of this, of
    /// `(after - before) * ln(after / before)`. Below 0.1 nothing to speak of, above 0.25 another distribution.
    /// `None` when there are too few numbers to tell.
    pub(super) fn stability_index(&self, after: &Self) -> Option<f64> {
        if self.0.len() < VALUES_MIN || after.0.len() < VALUES_MIN {
            return None;
        }
        let cuts = (1..BINS).map_while(|bin| self.quantile(usize::try_from(bin).ok()?, usize::try_from(BINS).ok()?));
        let mut cuts: Vec<f64> = cuts.collect();
        cuts.dedup();
        let (before, after) = (self.shares(&cuts), after.shares(&cuts));
        Some(before.iter().zip(&after).map(|(before, after)| (after - before) * (after / before).ln()).sum())
    }

    /// The share of numbers up to each cut and beyond the one before it.
    fn shares(&self, cuts: &[f64]) -> Vec<f64> {
        let up_to = |cut: &f64| self.0.partition_point(|value| value <= cut);
        let ends = cuts.iter().map(up_to).chain([self.0.len()]);
        let mut start = 0;
        ends.map(|end| {
            let share = ratio(end - start, self.0.len());
            start = end;
            share.max(LEAST_SHARE)
        })
        .collect()
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    let float = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    float(part) / float(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: impl Iterator<Item = u32>) -> Sample {
        let mut values: Vec<f64> = values.map(f64::from).collect();
        values.sort_unstable_by(f64::total_cmp);
        Sample(values)
    }

    #[test]
    fn the_index_tells_same_from_shifted() {
        let before = sample(0..1000);
        assert_eq!(before.quantiles().map(|at| (at.p05, at.p50, at.p95)), Some((49.0, 499.0, 949.0)));
        let index = |after: Sample| before.stability_index(&after).unwrap_or(f64::NAN);
        assert!(index(sample(0..1000)) < 0.001);
        assert!(index(sample((0..1000).map(|value| value + 20))) < 0.1);
        assert!(index(sample((0..1000).map(|value| value + 400))) > 0.25);
        assert!(index(sample((0..1000).map(|_| 5))) > 0.25, "all in one place");
        let constant = sample((0..100).map(|_| 1));
        assert_eq!(constant.stability_index(&sample((0..100).map(|_| 1))), Some(0.0));
        assert_eq!(constant.stability_index(&sample(0..3)), None);
    }
}
