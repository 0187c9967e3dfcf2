//! The statements of a merge. Rows are found by their place in the two tables, which nobody else can change meanwhile.

use std::ops::RangeInclusive;

use crate::pg::{quote_ident, quote_table};
use crate::schema::TableName;

use super::plan::Shape;

/// What happens to a row, as the table of changes says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only the live table has the key.
    Delete,
    /// A column of another unique index differs, so the row leaves before others come.
    Move,
    /// The row differs.
    Update,
    /// Only the source has the key.
    Insert,
}

impl Kind {
    /// In the order in which they are done: who leaves makes room for who comes.
    pub(super) const ALL: [Self; 4] = [Self::Delete, Self::Move, Self::Update, Self::Insert];

    /// Its letter.
    pub(super) const fn letter(self) -> char {
        match self {
            Self::Delete => 'd',
            Self::Move => 'm',
            Self::Update => 'u',
            Self::Insert => 'i',
        }
    }
}

/// The tables of one merge, quoted, and its columns.
#[derive(Debug)]
pub(super) struct Statements<'a> {
    live: String,
    source: String,
    /// Which rows change, and how.
    changes: String,
    /// Rows that left to come back.
    moved: String,
    shape: &'a Shape,
}

/// Names as a list of a statement.
pub(super) fn name_list(names: &[String]) -> String {
    names.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(", ")
}

impl<'a> Statements<'a> {
    pub(super) fn new(
        live: &TableName,
        source: &TableName,
        changes: &TableName,
        moved: &TableName,
        shape: &'a Shape,
    ) -> Self {
        let [live, source, changes, moved] = [live, source, changes, moved].map(quote_table);
        Self { live, source, changes, moved, shape }
    }

    /// Compares the tables by key, and numbers the rows that differ in the order in which they are changed. They are
    /// of use in this transaction only, so they need no log.
    ///
    /// Rows are compared as the server stores them, so that what some type calls equal and prints differently counts,
    /// and types without a comparison can be compared.
    pub(super) fn compare(&self) -> String {
        let changed = differs(&self.shape.compared, "l", "s");
        let moves = if self.shape.moving.is_empty() {
            String::new()
        } else {
            format!("WHEN {} THEN 'm' ", differs(&self.shape.moving, "l", "s"))
        };
        format!(
            "CREATE UNLOGGED TABLE {changes} AS SELECT pg_catalog.row_number() OVER (ORDER BY pg_catalog.array_position('{{d,m,u,i}}'::\"char\"[], kind), live_row, new_row) AS n, \
                kind, live_row, new_row \
             FROM (SELECT (CASE WHEN s.ctid IS NULL THEN 'd' WHEN l.ctid IS NULL THEN 'i' {moves}ELSE 'u' END)::\"char\" AS kind, \
                     l.ctid AS live_row, s.ctid AS new_row \
                   FROM ONLY {live} AS l FULL JOIN ONLY {source} AS s ON {same_key} \
                   WHERE l.ctid IS NULL OR s.ctid IS NULL OR {changed}) AS found; \
             ALTER TABLE {changes} ADD PRIMARY KEY (n); ANALYZE {changes}",
            changes = self.changes,
            live = self.live,
            source = self.source,
            same_key = self.same_key("l", "s"),
        )
    }

    /// Answers kind, rows, first and last number.
    pub(super) fn count_changes(&self) -> String {
        format!(
            "SELECT kind::text, pg_catalog.count(*), pg_catalog.min(n), pg_catalog.max(n) FROM {} GROUP BY kind",
            self.changes
        )
    }

    /// Locks the rows about to be deleted, against whoever wants to refer to one of them.
    pub(super) fn lock_deleted(&self) -> String {
        format!(
            "SELECT pg_catalog.count(*) FROM (SELECT FROM ONLY {} AS l JOIN {} AS c ON c.live_row = l.ctid \
             WHERE c.kind = 'd' FOR UPDATE OF l) AS locked",
            self.live, self.changes
        )
    }

    /// Keeps rows that leave to come back, with the columns that the source does not have.
    pub(super) fn keep_moving(&self) -> String {
        format!(
            "CREATE UNLOGGED TABLE {} AS SELECT l.* FROM ONLY {} AS l JOIN {} AS c ON l.ctid = c.live_row WHERE c.kind = 'm'",
            self.moved, self.live, self.changes
        )
    }

    /// Changes the rows of one range of numbers.
    pub(super) fn change(&self, kind: Kind, range: &RangeInclusive<i64>) -> String {
        let (first, last) = (range.start(), range.end());
        let (live, source, changes) = (&self.live, &self.source, &self.changes);
        match kind {
            Kind::Delete | Kind::Move => format!(
                "DELETE FROM ONLY {live} AS l USING {changes} AS c WHERE c.n BETWEEN {first} AND {last} AND l.ctid = c.live_row"
            ),
            Kind::Update => {
                let set = self.shape.set.iter().map(|name| quote_ident(name));
                let set: Vec<String> = set.map(|name| format!("{name} = s.{name}")).collect();
                format!(
                    "UPDATE ONLY {live} AS l SET {} FROM {changes} AS c JOIN ONLY {source} AS s ON s.ctid = c.new_row \
                     WHERE c.n BETWEEN {first} AND {last} AND l.ctid = c.live_row",
                    set.join(", ")
                )
            }
            Kind::Insert => {
                let columns = self.shape.key.iter().chain(&self.shape.inserted).cloned().collect::<Vec<_>>();
                let values: Vec<String> = columns.iter().map(|name| format!("s.{}", quote_ident(name))).collect();
                format!(
                    "INSERT INTO {live} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {changes} AS c \
                     JOIN ONLY {source} AS s ON s.ctid = c.new_row WHERE c.n BETWEEN {first} AND {last}",
                    name_list(&columns),
                    values.join(", ")
                )
            }
        }
    }

    /// Brings back rows that left, as they now are.
    pub(super) fn bring_back(&self) -> String {
        let shape = self.shape;
        let values = shape.stored.iter().map(|name| {
            let of = if shape.set.contains(name) { "s" } else { "m" };
            format!("{of}.{}", quote_ident(name))
        });
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS m JOIN ONLY {} AS s ON {}",
            self.live,
            name_list(&shape.stored),
            values.collect::<Vec<_>>().join(", "),
            self.moved,
            self.source,
            self.same_key("m", "s")
        )
    }

    /// Finds rows of another table that refer to rows about to be deleted.
    pub(super) fn children_left(&self, child: &str, columns: &[(String, String)], shown_max: u32) -> String {
        let same = columns.iter().map(|(from, to)| format!("child.{} = l.{}", quote_ident(from), quote_ident(to)));
        let key: Vec<String> = self.shape.key.iter().map(|key| format!("l.{}", quote_ident(key))).collect();
        format!(
            "SELECT DISTINCT pg_catalog.concat_ws(', ', {}) FROM {} AS c JOIN ONLY {} AS l ON l.ctid = c.live_row \
             JOIN {child} AS child ON {} WHERE c.kind = 'd' LIMIT {shown_max}",
            key.join(", "),
            self.changes,
            self.live,
            same.collect::<Vec<_>>().join(" AND ")
        )
    }

    fn same_key(&self, left: &str, right: &str) -> String {
        let same = self.shape.key.iter().map(|key| quote_ident(key)).map(|key| format!("{left}.{key} = {right}.{key}"));
        same.collect::<Vec<_>>().join(" AND ")
    }
}

/// `*<>` compares two rows byte by byte.
fn differs(columns: &[String], left: &str, right: &str) -> String {
    if columns.is_empty() {
        return "false".to_owned();
    }
    let row = |of: &str| {
        let values: Vec<String> = columns.iter().map(|name| format!("{of}.{}", quote_ident(name))).collect();
        format!("ROW({})::pg_catalog.record", values.join(", "))
    };
    format!("{} OPERATOR(pg_catalog.*<>) {}", row(left), row(right))
}
