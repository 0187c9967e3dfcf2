//! Keeping what is read as the snapshot knows it.
//!
//! A snapshot decides which rows are seen, and not in which file they are: `TRUNCATE`, a rewriting `ALTER TABLE` and
//! `REFRESH MATERIALIZED VIEW` give a table a new file, in which an older snapshot sees nothing. The catalogue's tables show
//! the snapshot, its functions the present; once a table is locked they must agree.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::SourceError;
use crate::pg::{CatalogError, RelationInfo, Session, quote_ident, quote_table};
use crate::schema::TableName;

/// The first version that tells a partitioned table's parts, and in which one can come without waiting for readers.
const PARTITION_TREE_VERSION: u32 = 120_000;
/// What the session has locked, by which it is not told whether a table was asked for or is a part of one.
const HELD: &str = "WITH held AS (SELECT DISTINCT l.relation AS oid FROM pg_locks l WHERE l.locktype = 'relation' \
     AND l.pid = pg_backend_pid() AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))";
/// Whether the name means another table now, or a table held has another file now. Tables without a file of their own,
/// and those whose file the catalogue does not know, have file 0.
const CHANGED: &str = "to_regclass($2)::oid IS DISTINCT FROM $1 \
     OR EXISTS (SELECT FROM held JOIN pg_class c ON c.oid = held.oid \
                WHERE c.relkind IN ('r', 'm') AND c.relfilenode <> 0 AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid))";
/// Whether a partitioned table held has lost a part, or got one that had rows before. One that was made since has none that
/// the snapshot sees, and one that is being detached has left already.
const PARTS_CHANGED: &str = "EXISTS (SELECT FROM held JOIN pg_class c ON c.oid = held.oid, \
     LATERAL (SELECT array_agg(i.inhrelid) AS parts FROM pg_inherits i \
              WHERE i.inhparent = c.oid AND (to_jsonb(i) ->> 'inhdetachpending') IS DISTINCT FROM 'true') AS before, \
     LATERAL (SELECT array_agg(t.relid::oid) AS parts FROM pg_partition_tree(c.oid) t \
              WHERE t.parentrelid = c.oid AND t.relid::oid IN (SELECT k.oid FROM pg_class k)) AS now \
     WHERE c.relkind = 'p' AND NOT (coalesce(before.parts, '{}') <@ coalesce(now.parts, '{}') \
                                    AND coalesce(now.parts, '{}') <@ coalesce(before.parts, '{}')))";

/// The children of a table that the snapshot knows, at any depth. Those of other sessions' temporary tables nobody else reads.
const CHILDREN: &str = "WITH RECURSIVE tree AS (SELECT $1::oid AS oid UNION \
                                        SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid) \
     SELECT n.nspname, c.relname FROM tree JOIN pg_class c ON c.oid = tree.oid JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.oid <> $1 AND c.relpersistence <> 't'";
/// `relkind` of an ordinary table, which may have children by inheritance.
const ORDINARY: char = 'r';

/// Tables by schema and name.
type Tables = BTreeSet<(String, String)>;

/// Locks a relation and all that is read with it: parts, children, and what is below a view.
///
/// # Errors
/// [`SourceError::Copy`] when it cannot be read, [`SourceError::Rewritten`] when it is not what the snapshot knows.
pub(super) async fn hold(session: &Session, relation: &RelationInfo, server_version: u32) -> Result<(), SourceError> {
    let table = &relation.schema.table;
    let columns: Vec<String> = relation.schema.columns.iter().map(|column| quote_ident(&column.name)).collect();
    // Planning to read it locks all that reading it would, also where `LOCK TABLE` does not work, and reads nothing.
    let plan = |options: &str| format!("EXPLAIN {options} SELECT {} FROM {}", columns.join(", "), quote_table(table));
    let rewritten = || SourceError::Rewritten { table: table.clone() };
    session.batch_execute(&plan("")).await.map_err(|source| match source.code() {
        Some(code) if [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN].contains(code) => rewritten(),
        _ => SourceError::copy(table, source),
    })?;
    let parts = if server_version < PARTITION_TREE_VERSION { "false" } else { PARTS_CHANGED };
    let name = quote_table(table);
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&relation.oid, Type::OID), (&name, Type::TEXT)];
    let row = session
        .query_typed_one(&format!("{HELD} SELECT {CHANGED} OR {parts}"), &parameters)
        .await
        .map_err(|source| CatalogError::Query { table: table.clone(), source })?;
    if row.get(0) {
        return Err(rewritten());
    }
    // Policies read other tables, and a table with policies is hardly one with children.
    if relation.kind == ORDINARY && relation.rows_hidden_from.is_none() {
        // The first plan may have waited for a child that has left by now; that one is locked, and not read.
        let plan = plan("(VERBOSE, FORMAT JSON)");
        let answer = session.simple_query(&plan).await.map_err(|source| SourceError::copy(table, source))?;
        let before = children(session, relation).await?;
        if planned_children(&answer, table).is_some_and(|now| now != before) {
            return Err(rewritten());
        }
    }
    Ok(())
}

/// Schemas and names of a table's children, as the snapshot knows them.
async fn children(session: &Session, relation: &RelationInfo) -> Result<Tables, SourceError> {
    let rows = session.query_typed(CHILDREN, &[(&relation.oid, Type::OID)]).await.map_err(SourceError::Snapshot)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The nodes of a plan, as `EXPLAIN (FORMAT JSON)` answers.
pub(super) fn plan_nodes(answer: &[SimpleQueryMessage]) -> Option<Vec<Value>> {
    let text = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    })?;
    let mut left = vec![serde_json::from_str::<Value>(text).ok()?.get_mut(0)?.get_mut("Plan")?.take()];
    let mut nodes = Vec::new();
    while let Some(mut node) = left.pop() {
        if let Some(Value::Array(below)) = node.get_mut("Plans").map(Value::take) {
            left.extend(below);
        }
        nodes.push(node);
    }
    Some(nodes)
}

/// Those that a plan reads; none when it has nodes of an extension, which may read anything.
fn planned_children(answer: &[SimpleQueryMessage], table: &TableName) -> Option<Tables> {
    let mut tables = Tables::new();
    for node in plan_nodes(answer)? {
        if node["Node Type"] == "Custom Scan" {
            return None;
        }
        if let (Some(schema), Some(name)) = (node["Schema"].as_str(), node["Relation Name"].as_str()) {
            tables.insert((schema.to_owned(), name.to_owned()));
        }
    }
    tables.remove(&(table.schema().to_owned(), table.name().to_owned()));
    Some(tables)
}

/// Whether the snapshot knows a relation of this name.
///
/// # Errors
/// [`SourceError::Snapshot`].
pub(super) async fn is_known(session: &Session, table: &TableName) -> Result<bool, SourceError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f'))";
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&table.schema(), Type::NAME), (&table.name(), Type::NAME)];
    match session.query_typed_one(sql, &parameters).await {
        // It went while it was looked at.
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => Ok(true),
        row => Ok(row.map_err(SourceError::Snapshot)?.get(0)),
    }
}

/// Foreign tables among what the session has locked.
///
/// # Errors
/// [`SourceError::Snapshot`].
pub(super) async fn foreign_tables(session: &Session) -> Result<Vec<String>, SourceError> {
    let sql = format!(
        "{HELD} SELECT c.oid::regclass::text FROM held JOIN pg_class c ON c.oid = held.oid WHERE c.relkind = 'f' ORDER BY 1"
    );
    let rows = session.query_typed(&sql, &[]).await.map_err(SourceError::Snapshot)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
