//! Reading a relation's columns and size from the Postgres catalogue.

use tokio_postgres::{Client, error::SqlState, types::Type};

use crate::schema::{ColumnSchema, PgType, TableName, TableSchema};

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
}

/// Why a relation could not be described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// There is no such relation, or the role may not see it.
    #[error("table {0} does not exist on the server")]
    Missing(TableName),
    /// A column's type has no mapping.
    #[error(
        "column {column} of {table} has type {type_name}, which cannot be pulled or pushed yet; leave the table out, or cast the column in a view"
    )]
    UnknownType {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
        /// What `format_type` prints.
        type_name: String,
    },
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
/// [`CatalogError::Missing`], [`CatalogError::UnknownType`] for a type without a mapping, [`CatalogError::Query`].
pub async fn describe_table(client: &Client, table: &TableName) -> Result<RelationInfo, CatalogError> {
    let failed = |source| CatalogError::Query { table: table.clone(), source };
    let relation = client
        .query_typed_opt(
            "SELECT c.oid, c.relkind, c.reltuples, \
                    CASE WHEN c.relkind IN ('r', 'm', 't') \
                         THEN pg_relation_size(c.oid) / current_setting('block_size')::bigint ELSE 0 END \
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
            "WITH RECURSIVE base AS ( \
                 SELECT a.attnum, a.atttypid AS type, a.atttypmod AS typmod FROM pg_attribute a \
                 WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
               UNION ALL \
                 SELECT b.attnum, t.typbasetype, CASE WHEN t.typtypmod >= 0 THEN t.typtypmod ELSE b.typmod END \
                 FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd') \
             SELECT a.attname, format_type(a.atttypid, a.atttypmod), b.type, b.typmod, a.attnotnull \
             FROM pg_attribute a JOIN base b ON b.attnum = a.attnum \
             JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd' \
             WHERE a.attrelid = $1 ORDER BY a.attnum",
            &[(&oid, Type::OID)],
        )
        .await
        .map_err(failed)?;
    let columns = rows
        .iter()
        .map(|row| {
            let (name, type_name): (String, String) = (row.get(0), row.get(1));
            let (type_oid, typmod): (u32, i32) = (row.get(2), row.get(3));
            match PgType::from_catalogue(type_oid, typmod) {
                Some(pg_type) => Ok(ColumnSchema { name, type_name, type_oid, typmod, pg_type, not_null: row.get(4) }),
                None => Err(CatalogError::UnknownType { table: table.clone(), column: name, type_name }),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(RelationInfo {
        schema: TableSchema { table: table.clone(), columns },
        oid,
        kind: char::from(u8::try_from(kind).unwrap_or(b'?')),
        pages: u64::try_from(pages).unwrap_or(0),
        rows_estimated: estimated_rows(tuples),
    })
}

/// `reltuples` is -1 before the first `ANALYZE`.
fn estimated_rows(tuples: f32) -> Option<u64> {
    // Formatting avoids a lossy cast; the planner's estimate is a whole number below 2^63.
    (tuples >= 0.0).then(|| format!("{tuples:.0}").parse().ok()).flatten()
}
