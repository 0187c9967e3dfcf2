//! Reading a relation's columns and size from the Postgres catalogue.

use tokio_postgres::{Client, error::SqlState, types::Type};

use super::types::TypeCatalog;
use crate::schema::{ColumnSchema, TableName, TableSchema};

/// `relkind` of an ordinary table and of a materialized view.
const HEAP_KINDS: [char; 2] = ['r', 'm'];

/// What the catalogue knows about one relation that can be read.
#[derive(Debug, Clone)]
pub struct RelationInfo {
    /// Columns in order.
    pub schema: TableSchema,
    /// `pg_class.oid`.
    pub oid: u32,
    /// `pg_class.relkind`: `r` for a plain table, `p` partitioned, `v` view, …
    pub kind: char,
    /// Heap pages right now, not the planner's estimate; 0 where there is no heap.
    pub pages: u64,
    /// The planner's estimate of rows, if the table was ever analyzed.
    pub rows_estimated: Option<u64>,
    /// The role whose sight of the table its row-level security narrows; none when the role sees every row.
    pub rows_hidden_from: Option<String>,
    /// The tables that hold the rows of a partitioned one, where each can be read by itself with the same result.
    pub leaves: Vec<Leaf>,
    /// The column by whose values it is cut where it has no pages to be cut by.
    pub split: Option<SplitKey>,
}

/// A column by whose values rows are told apart in ranges.
#[derive(Debug, Clone)]
pub struct SplitKey {
    /// Its name.
    pub column: String,
    /// How its values are numbers.
    pub kind: SplitKind,
    /// About the lowest and the highest value, as places.
    pub ends: [u64; 2],
    /// Places between which there are about as many rows, ascending.
    pub bounds: Vec<u64>,
    /// Rows in the snapshot, those without a value, too.
    pub rows: u64,
}

/// How a column's values are numbers: each has a place, and places are in the order of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitKind {
    /// Whole numbers.
    Integer,
    /// Days.
    Date,
    /// By their first half.
    Uuid,
}

/// A table at the bottom of a partitioned one.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Its name.
    pub table: TableName,
    /// `pg_class.oid`.
    pub oid: u32,
    /// Heap pages right now.
    pub pages: u64,
}

impl RelationInfo {
    /// What one may expect of it, for comparison: its pages, and more than any where they are not known, as of a view.
    pub fn size(&self) -> u64 {
        match self.leaves.as_slice() {
            [] if has_heap(self.kind) => self.pages,
            [] => u64::MAX,
            leaves => leaves.iter().map(|leaf| leaf.pages).sum(),
        }
    }

    /// A leaf by its oid.
    pub fn leaf(&self, oid: u32) -> Option<&Leaf> {
        self.leaves.iter().find(|leaf| leaf.oid == oid)
    }
}

/// Whether relations of a kind have a heap of their own, in which rows have a `ctid`.
pub fn has_heap(kind: char) -> bool {
    HEAP_KINDS.contains(&kind)
}

/// Why a relation could not be described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// There is no such relation, or the role may not see it.
    #[error("table {0} does not exist on the server")]
    Missing(TableName),
    /// The server did not answer a catalogue query.
    #[error("cannot read the catalogue entry of {table}")]
    Query {
        /// The table.
        table: TableName,
        /// The server's message.
        source: tokio_postgres::Error,
    },
}

/// Describes one relation: columns with types resolved through domains, pages and estimated rows.
///
/// # Errors
/// [`CatalogError::Missing`], [`CatalogError::Query`].
pub async fn describe_table(client: &Client, table: &TableName) -> Result<RelationInfo, CatalogError> {
    let failed = |source| CatalogError::Query { table: table.clone(), source };
    let relation = client
        .query_typed_opt(
            "SELECT c.oid, c.relkind, c.reltuples, \
                    CASE WHEN c.relkind IN ('r', 'm', 't') \
                         THEN coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::bigint ELSE 0 END, \
                    CASE WHEN row_security_active(c.oid) THEN current_user::text END \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
            &[(&table.schema(), Type::NAME), (&table.name(), Type::NAME)],
        )
        .await
        .map_err(|source| match source.code() {
            Some(code) if *code == SqlState::UNDEFINED_TABLE => CatalogError::Missing(table.clone()),
            _ => failed(source),
        })?
        .ok_or_else(|| CatalogError::Missing(table.clone()))?;
    let oid: u32 = relation.get(0);
    let kind: i8 = relation.get(1);
    let tuples: f32 = relation.get(2);
    let pages: i64 = relation.get(3);

    let rows = client
        .query_typed(
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid, a.atttypmod, a.attndims::int, a.attnotnull \
             FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            &[(&oid, Type::OID)],
        )
        .await
        .map_err(failed)?;
    let oids: Vec<u32> = rows.iter().map(|row| row.get(2)).collect();
    let types = TypeCatalog::load(client, &oids).await.map_err(failed)?;
    let columns = rows
        .iter()
        .map(|row| {
            let resolved = types.resolve(row.get(2), row.get(3), row.get(4));
            ColumnSchema {
                name: row.get(0),
                type_name: row.get(1),
                type_oid: resolved.oid,
                typmod: resolved.typmod,
                pg_type: resolved.pg_type,
                not_null: row.get(5),
            }
        })
        .collect();
    Ok(RelationInfo {
        schema: TableSchema { table: table.clone(), columns },
        oid,
        kind: char::from(u8::try_from(kind).unwrap_or(b'?')),
        pages: u64::try_from(pages).unwrap_or(0),
        rows_estimated: estimated_rows(tuples),
        rows_hidden_from: relation.get(4),
        leaves: Vec::new(),
        split: None,
    })
}

/// Finds the tables that hold the rows of a partitioned one. None where one of them is foreign, has policies, or may not
/// be read but through the whole: then the whole is read.
///
/// # Errors
/// [`CatalogError::Query`].
pub async fn leaves(client: &Client, relation: &RelationInfo) -> Result<Vec<Leaf>, CatalogError> {
    let sql = "WITH RECURSIVE tree AS (SELECT $1::oid AS oid UNION ALL \
                                       SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid \
                                       WHERE (to_jsonb(i) ->> 'inhdetachpending') IS DISTINCT FROM 'true') \
               SELECT c.oid, n.nspname, c.relname, \
                      CASE WHEN c.relkind = 'r' THEN coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::bigint ELSE 0 END, \
                      c.relkind = 'r' AND has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') \
                      AND NOT row_security_active(c.oid) \
                      AND to_regclass(format('%I.%I', n.nspname, c.relname))::oid = c.oid \
               FROM tree JOIN pg_class c ON c.oid = tree.oid JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind <> 'p' ORDER BY c.oid";
    let failed = |source| CatalogError::Query { table: relation.schema.table.clone(), source };
    let rows = client.query_typed(sql, &[(&relation.oid, Type::OID)]).await.map_err(failed)?;
    if relation.rows_hidden_from.is_some() || !rows.iter().all(|row| row.get::<_, Option<bool>>(4) == Some(true)) {
        return Ok(Vec::new());
    }
    let leaf = |row: &tokio_postgres::Row| Leaf {
        table: TableName::new(row.get::<_, &str>(1), row.get::<_, &str>(2)),
        oid: row.get(0),
        pages: u64::try_from(row.get::<_, i64>(3)).unwrap_or(0),
    };
    Ok(rows.iter().map(leaf).collect())
}

/// `reltuples` is -1 before the first `ANALYZE`.
fn estimated_rows(tuples: f32) -> Option<u64> {
    // Formatting avoids a lossy cast; the planner's estimate is a whole number below 2^63.
    (tuples >= 0.0).then(|| format!("{tuples:.0}").parse().ok()).flatten()
}
