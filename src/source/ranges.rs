//! Cutting a heap into ctid ranges that connections copy one by one.

use serde::{Deserialize, Serialize};

use crate::pg::{RelationInfo, has_heap};

/// Heap pages of one range at most: 16 MiB with the usual 8 KiB pages. Small enough that connections finish together,
/// large enough that starting a COPY does not count.
const RANGE_PAGES_MAX: u64 = 2048;
/// And at least, so that small tables are not cut into crumbs.
const RANGE_PAGES_MIN: u64 = 256;
/// Before this version the server answers a ctid range by reading the whole table.
pub(super) const TID_RANGE_SCAN_VERSION: u32 = 140_000;

/// Pages `from..to` of a heap, a table's own or a leaf's; no end means up to the last page, whenever it was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRange {
    /// The first page.
    pub from: u64,
    /// The page after the last, or none for the open end.
    pub to: Option<u64>,
    /// The oid of the leaf of a partitioned table.
    pub leaf: Option<u32>,
}

impl CopyRange {
    /// The whole relation.
    pub const ALL: Self = Self { from: 0, to: None, leaf: None };

    /// The condition on `ctid`, or none for the whole relation.
    pub(super) fn condition(self) -> Option<String> {
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

    /// Two ranges that cover the same pages of a relation; none where there is only one page, or no heap.
    pub fn halves(self, relation: &RelationInfo) -> Option<[Self; 2]> {
        let pages = match self.leaf {
            Some(leaf) => relation.leaf(leaf)?.pages,
            None => relation.pages,
        };
        let middle = self.from.midpoint(self.to.unwrap_or(pages));
        let halves = [Self { to: Some(middle), ..self }, Self { from: middle, ..self }];
        (middle > self.from).then_some(halves)
    }
}

/// Cuts a relation, or its leaves, into ranges that `connections` can share; one range where ctid cannot serve (views,
/// partitioned tables whose leaves cannot be read by themselves, servers before 14).
pub fn plan_ranges(relation: &RelationInfo, server_version: u32, connections: u64) -> Vec<CopyRange> {
    if server_version < TID_RANGE_SCAN_VERSION {
        return vec![CopyRange::ALL];
    }
    let heaps: Vec<(Option<u32>, u64)> = match relation.leaves.as_slice() {
        [] if has_heap(relation.kind) => vec![(None, relation.pages)],
        [] => return vec![CopyRange::ALL],
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
    use crate::pg::Leaf;
    use crate::schema::{TableName, TableSchema};

    fn relation(kind: char, pages: u64) -> RelationInfo {
        let schema = TableSchema { table: TableName::new("public", "t"), columns: Vec::new() };
        RelationInfo { schema, oid: 1, kind, pages, rows_estimated: None, rows_hidden_from: None, leaves: Vec::new() }
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
    fn views_and_old_servers_are_copied_whole() {
        assert_eq!(plan_ranges(&relation('v', 0), 150_000, 2), [CopyRange::ALL]);
        assert_eq!(plan_ranges(&relation('r', 90_000), 130_000, 2), [CopyRange::ALL]);
    }
}
