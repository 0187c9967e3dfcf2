//! Cutting a heap into ctid ranges, and what has none into ranges of a key, that connections copy one by one.

use serde::{Deserialize, Serialize};

use super::split::key_condition;
use crate::pg::{RelationInfo, SplitKey, has_heap};

/// Heap pages of one range at most: 16 MiB with the usual 8 KiB pages. Small enough that connections finish together,
/// large enough that starting a COPY does not count.
const RANGE_PAGES_MAX: u64 = 2048;
/// And at least, so that small tables are not cut into crumbs.
const RANGE_PAGES_MIN: u64 = 256;
/// Before this version the server answers a ctid range by reading the whole table.
pub(super) const TID_RANGE_SCAN_VERSION: u32 = 140_000;

/// Pages `from..to` of a heap, a table's own or a leaf's; no end means up to the last page, whenever it was added. Of a
/// relation that is split by a key, places of its values, and the range from 0 has the rows without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRange {
    /// The first page, or place.
    pub from: u64,
    /// The one after the last, or none for the open end.
    pub to: Option<u64>,
    /// The oid of the leaf of a partitioned table.
    pub leaf: Option<u32>,
}

impl CopyRange {
    /// The whole relation.
    pub const ALL: Self = Self { from: 0, to: None, leaf: None };

    /// The condition on `ctid` or on the key, or none for the whole relation.
    pub(super) fn condition(self, relation: &RelationInfo) -> Option<String> {
        if let (Some(key), None, true) = (&relation.split, self.leaf, self != Self::ALL) {
            return Some(key_condition(key, self.from, self.to));
        }
        match self {
            Self { from: 0, to: None, .. } => None,
            Self { from, to: None, .. } => Some(format!("ctid >= '({from},0)'")),
            Self { from, to: Some(to), .. } => Some(format!("ctid >= '({from},0)' AND ctid < '({to},0)'")),
        }
    }
}

impl CopyRange {
    /// What is left of it without the pages of others.
    pub fn minus(self, others: &[Self]) -> Vec<Self> {
        let without = |left: Vec<Self>, other: &Self| left.iter().flat_map(|range| range.without(*other)).collect();
        others.iter().fold(vec![self], without)
    }

    fn without(self, other: Self) -> Vec<Self> {
        if self.leaf != other.leaf {
            return vec![self];
        }
        let end = |range: Self| range.to.unwrap_or(u64::MAX);
        let before = Self { to: Some(end(self).min(other.from)), ..self };
        let after = Self { from: self.from.max(end(other)), ..self };
        [before, after].into_iter().filter(|range| range.from < end(*range)).collect()
    }

    /// Two ranges that cover the same rows of a relation; none where there is only one page or value, or neither heap
    /// nor key.
    pub fn halves(self, relation: &RelationInfo) -> Option<[Self; 2]> {
        let [first, end] = match (self.leaf, &relation.split) {
            (Some(leaf), _) => [0, relation.leaf(leaf)?.pages],
            (None, Some(SplitKey { ends: [lowest, highest], .. })) => [*lowest, *highest],
            (None, None) => [0, relation.pages],
        };
        let first = self.from.max(first);
        let middle = first.midpoint(self.to.unwrap_or(end));
        let halves = [Self { to: Some(middle), ..self }, Self { from: middle, ..self }];
        (middle > first).then_some(halves)
    }
}

/// Whether a relation, or each of its leaves, can be read by pages: not so views, foreign tables, partitioned tables
/// whose leaves cannot be read by themselves, and servers before 14.
pub fn has_pages(relation: &RelationInfo, server_version: u32) -> bool {
    server_version >= TID_RANGE_SCAN_VERSION && (has_heap(relation.kind) || !relation.leaves.is_empty())
}

/// Cuts a relation, or its leaves, into ranges that `connections` can share; where it has no pages, by its key if it has
/// one, and else one range.
pub fn plan_ranges(relation: &RelationInfo, server_version: u32, connections: u64) -> Vec<CopyRange> {
    if let Some(key) = &relation.split {
        let starts = std::iter::once(0).chain(key.bounds.iter().copied());
        let ends = key.bounds.iter().copied().map(Some).chain([None]);
        return starts.zip(ends).map(|(from, to)| CopyRange { from, to, leaf: None }).collect();
    }
    if !has_pages(relation, server_version) {
        return vec![CopyRange::ALL];
    }
    let heaps: Vec<(Option<u32>, u64)> = match relation.leaves.as_slice() {
        [] => vec![(None, relation.pages)],
        leaves => leaves.iter().map(|leaf| (Some(leaf.oid), leaf.pages)).collect(),
    };
    let of_heap = |(leaf, heap): (Option<u32>, u64)| {
        let pages = heap.div_ceil(connections.max(1)).clamp(RANGE_PAGES_MIN, RANGE_PAGES_MAX);
        let starts = heap.div_ceil(pages).max(1);
        let to = move |index| (index + 1 < starts).then(|| (index + 1) * pages);
        (0..starts).map(move |index| CopyRange { from: index * pages, to: to(index), leaf })
    };
    heaps.into_iter().flat_map(of_heap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{Leaf, SplitKind};
    use crate::schema::{TableName, TableSchema};

    fn relation(kind: char, pages: u64) -> RelationInfo {
        let schema = TableSchema { table: TableName::new("public", "t"), columns: Vec::new() };
        let (rows_estimated, rows_hidden_from, leaves, split) = (None, None, Vec::new(), None);
        RelationInfo { schema, oid: 1, kind, pages, rows_estimated, rows_hidden_from, leaves, split }
    }

    #[test]
    fn ranges_cover_every_page_once_and_the_last_is_open() {
        for pages in [0, 1, RANGE_PAGES_MIN, RANGE_PAGES_MIN + 1, RANGE_PAGES_MAX, 5 * RANGE_PAGES_MAX + 1] {
            let ranges = plan_ranges(&relation('r', pages), 150_000, 2);
            let mut next = 0;
            for (index, range) in ranges.iter().enumerate() {
                assert_eq!(range.from, next, "{pages} pages");
                assert_eq!(range.to.is_none(), index + 1 == ranges.len());
                next = range.to.unwrap_or(next);
            }
        }
    }

    #[test]
    fn halves_cover_the_same_pages_until_there_is_one() {
        let range = |from, to| CopyRange { from, to, leaf: None };
        let heap = |pages| relation('r', pages);
        assert_eq!(range(10, None).halves(&heap(20)), Some([range(10, Some(15)), range(15, None)]));
        assert_eq!(range(10, Some(11)).halves(&heap(20)), None);
        assert_eq!(CopyRange::ALL.halves(&heap(0)), None);
        assert_eq!(range(10, None).halves(&heap(11)), None);
    }

    #[test]
    fn what_is_left_and_what_was_taken_cover_every_page_once() {
        let range = |from, to| CopyRange { from, to, leaf: None };
        let done = [range(0, Some(3)), range(5, Some(9)), range(20, None)];
        for whole in [CopyRange::ALL, range(2, Some(30)), range(6, Some(7)), range(4, None), range(21, None)] {
            let left = whole.minus(&done);
            let has = |range: &CopyRange, page| range.from <= page && range.to.is_none_or(|to| page < to);
            for page in 0..100 {
                let count = left.iter().filter(|range| has(range, page)).count();
                let expected = has(&whole, page) && !done.iter().any(|range| has(range, page));
                assert_eq!(count, usize::from(expected), "page {page} of {whole:?}: {left:?}");
            }
        }
        assert_eq!(CopyRange::ALL.minus(&[]), [CopyRange::ALL]);
        assert_eq!(CopyRange::ALL.minus(&[CopyRange::ALL]), []);
        let leaf = CopyRange { leaf: Some(7), ..CopyRange::ALL };
        assert_eq!(leaf.minus(&done), [leaf]);
    }

    #[test]
    fn what_has_no_pages_of_its_own_may_be_the_largest() {
        let sizes = [('v', 0), ('p', 0), ('r', 9), ('r', 0)].map(|(kind, pages)| relation(kind, pages).size());
        assert_eq!(sizes, [u64::MAX, u64::MAX, 9, 0]);
    }

    #[test]
    fn leaves_are_cut_each_by_itself() {
        let mut parted = relation('p', 0);
        parted.leaves = [(7, 1), (9, 2 * RANGE_PAGES_MIN)]
            .map(|(oid, pages)| Leaf { table: TableName::new("public", "leaf"), oid, pages })
            .to_vec();
        let range = |leaf, from, to| CopyRange { from, to, leaf: Some(leaf) };
        let middle = RANGE_PAGES_MIN;
        let expected = [range(7, 0, None), range(9, 0, Some(middle)), range(9, middle, None)];
        assert_eq!(plan_ranges(&parted, 150_000, 2), expected);
        assert_eq!(
            range(9, middle, None).halves(&parted).map(|[half, _]| half),
            Some(range(9, middle, Some(middle * 3 / 2)))
        );
        assert_eq!(range(7, 0, None).halves(&parted), None);
        assert_eq!((plan_ranges(&parted, 130_000, 2), parted.size()), (vec![CopyRange::ALL], 1 + 2 * RANGE_PAGES_MIN));
    }

    #[test]
    fn a_view_with_a_key_is_cut_by_it_and_halved_down_to_one_value() {
        let mut view = relation('v', 0);
        let place = |value: u64| (1 << 63) + value;
        view.split = Some(SplitKey {
            column: "Id".to_owned(),
            kind: SplitKind::Integer,
            ends: [place(10), place(41)],
            bounds: vec![place(20), place(30)],
            rows: 3,
        });
        let range = |from, to| CopyRange { from, to, leaf: None };
        let ranges = plan_ranges(&view, 130_000, 2);
        assert_eq!(ranges, [range(0, Some(place(20))), range(place(20), Some(place(30))), range(place(30), None)]);
        let conditions: Vec<_> = ranges.iter().map(|range| range.condition(&view).unwrap_or_default()).collect();
        assert_eq!(
            conditions,
            [r#"("Id" < '20' OR "Id" IS NULL)"#, r#"("Id" >= '20' AND "Id" < '30')"#, r#"("Id" >= '30')"#]
        );
        assert_eq!(CopyRange::ALL.condition(&view), None);
        let mut left = vec![CopyRange::ALL];
        let mut whole = Vec::new();
        while let Some(range) = left.pop() {
            match range.halves(&view) {
                Some(halves) => left.extend(halves),
                None => whole.push(range),
            }
        }
        for value in 10..41 {
            let place = place(value);
            let with = |range: &&CopyRange| range.from <= place && range.to.is_none_or(|to| place < to);
            assert_eq!(whole.iter().filter(with).count(), 1, "{value} in {whole:?}");
        }
        assert!((30..40).contains(&whole.len()) && whole.iter().any(|range| range.from == 0), "{whole:?}");
        assert!(whole.iter().any(|range| range.to.is_none()));
    }

    #[test]
    fn views_and_old_servers_are_copied_whole() {
        assert_eq!(plan_ranges(&relation('v', 0), 150_000, 2), [CopyRange::ALL]);
        assert_eq!(plan_ranges(&relation('r', 90_000), 130_000, 2), [CopyRange::ALL]);
    }
}
