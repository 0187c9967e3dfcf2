//! Cutting a heap into ctid ranges that connections copy one by one.

use serde::{Deserialize, Serialize};

use crate::pg::{RelationInfo, has_heap};

/// Heap pages of one range at most: 16 MiB with the usual 8 KiB pages. Small enough that connections finish together,
/// large enough that starting a COPY does not count.
const RANGE_PAGES_MAX: u64 = 2048;
/// And at least, so that small tables are not cut into crumbs.
const RANGE_PAGES_MIN: u64 = 256;
/// Before this version the server answers a ctid range by reading the whole table.
const TID_RANGE_SCAN_VERSION: u32 = 140_000;

/// Pages `from..to` of a heap; no end means up to the last page, whenever it was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRange {
    /// The first page.
    pub from: u64,
    /// The page after the last, or none for the open end.
    pub to: Option<u64>,
}

impl CopyRange {
    /// The whole relation.
    pub const ALL: Self = Self { from: 0, to: None };

    /// The condition on `ctid`, or none for the whole relation.
    pub(super) fn condition(self) -> Option<String> {
        match self {
            Self { from: 0, to: None } => None,
            Self { from, to: None } => Some(format!("ctid >= '({from},0)'")),
            Self { from, to: Some(to) } => Some(format!("ctid >= '({from},0)' AND ctid < '({to},0)'")),
        }
    }
}

impl CopyRange {
    /// What is left of it without the pages of others.
    pub fn minus(self, others: &[Self]) -> Vec<Self> {
        let without = |left: Vec<Self>, other: &Self| left.iter().flat_map(|range| range.without(*other)).collect();
        others.iter().fold(vec![self], without)
    }

    fn without(self, other: Self) -> impl Iterator<Item = Self> {
        let end = |range: Self| range.to.unwrap_or(u64::MAX);
        let before = Self { from: self.from, to: Some(end(self).min(other.from)) };
        let after = Self { from: self.from.max(end(other)), to: self.to };
        [before, after].into_iter().filter(move |range| range.from < end(*range))
    }

    /// Two ranges that cover the same pages of a heap of `pages`; none where there is only one page, or no heap.
    pub fn halves(self, pages: u64) -> Option<[Self; 2]> {
        let middle = self.from.midpoint(self.to.unwrap_or(pages));
        let halves = [Self { to: Some(middle), ..self }, Self { from: middle, ..self }];
        (middle > self.from).then_some(halves)
    }
}

/// Cuts a relation into ranges that `connections` can share; one range where ctid cannot serve (views, partitioned
/// tables, servers before 14).
pub fn plan_ranges(relation: &RelationInfo, server_version: u32, connections: u64) -> Vec<CopyRange> {
    if server_version < TID_RANGE_SCAN_VERSION || !has_heap(relation.kind) {
        return vec![CopyRange::ALL];
    }
    let pages = relation.pages.div_ceil(connections.max(1)).clamp(RANGE_PAGES_MIN, RANGE_PAGES_MAX);
    let starts = relation.pages.div_ceil(pages).max(1);
    (0..starts)
        .map(|index| CopyRange { from: index * pages, to: (index + 1 < starts).then(|| (index + 1) * pages) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{TableName, TableSchema};

    fn relation(kind: char, pages: u64) -> RelationInfo {
        let schema = TableSchema { table: TableName::new("public", "t"), columns: Vec::new() };
        RelationInfo { schema, oid: 1, kind, pages, rows_estimated: None, rows_hidden_from: None }
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
        let open = CopyRange { from: 10, to: None };
        assert_eq!(open.halves(20), Some([CopyRange { from: 10, to: Some(15) }, CopyRange { from: 15, to: None }]));
        assert_eq!(CopyRange { from: 10, to: Some(11) }.halves(20), None);
        assert_eq!(CopyRange::ALL.halves(0), None);
        assert_eq!(open.halves(11), None);
    }

    #[test]
    fn what_is_left_and_what_was_taken_cover_every_page_once() {
        let range = |from, to| CopyRange { from, to };
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
    }

    #[test]
    fn what_has_no_pages_of_its_own_may_be_the_largest() {
        let sizes = [('v', 0), ('p', 0), ('r', 9), ('r', 0)].map(|(kind, pages)| relation(kind, pages).size());
        assert_eq!(sizes, [u64::MAX, u64::MAX, 9, 0]);
    }

    #[test]
    fn views_and_old_servers_are_copied_whole() {
        assert_eq!(plan_ranges(&relation('v', 0), 150_000, 2), [CopyRange::ALL]);
        assert_eq!(plan_ranges(&relation('r', 90_000), 130_000, 2), [CopyRange::ALL]);
    }
}
