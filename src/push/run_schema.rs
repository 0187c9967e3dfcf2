//! The schema that one push loads into: its name, its marker, and its removal.
//!
//! Nobody but the owner can see into it. It is created and loaded in one transaction, so a load that fails leaves
//! nothing; a push killed later leaves a schema that the next push of the table removes.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::pg::{quote_ident, quote_literal, quote_table};
use crate::schema::TableName;

use super::error::PushError;

/// What every run schema's name begins with.
const PREFIX: &str = "_push_";
/// The longest name that Postgres keeps (`NAMEDATALEN - 1`).
const NAME_BYTES_MAX: usize = 63;
/// Says in a marker that the schema is ours.
const TOOL: &str = "racealpha push";

/// The comment on a run schema.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Marker {
    tool: String,
    run: String,
    table: TableName,
}

/// The schema of one run.
#[derive(Debug, Clone)]
pub(super) struct RunSchema {
    name: String,
    marker: String,
}

impl RunSchema {
    pub(super) fn new(run_id: &str, table: &TableName) -> Self {
        let mut name = format!("{PREFIX}{run_id}");
        while name.len() > NAME_BYTES_MAX {
            name.pop();
        }
        let marker = Marker { tool: TOOL.to_owned(), run: run_id.to_owned(), table: table.clone() };
        let marker = serde_json::to_string(&marker).unwrap_or_default();
        Self { name, marker }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A table's name in this schema.
    pub(super) fn table(&self, name: &str) -> TableName {
        TableName::new(self.name.as_str(), name)
    }

    /// Creates the schema, closed to everybody but its owner.
    pub(super) fn create_sql(&self) -> String {
        let schema = quote_ident(&self.name);
        format!(
            "CREATE SCHEMA {schema}; REVOKE ALL ON SCHEMA {schema} FROM PUBLIC; COMMENT ON SCHEMA {schema} IS {}",
            quote_literal(&self.marker)
        )
    }

    /// Removes the schema and the tables and materialized views in it. What somebody else built on them is never taken along: the tables then
    /// stay, and the answer names the schema's remains.
    pub(super) async fn remove(&self, client: &Client, table: &TableName) -> Result<(), PushError> {
        remove(client, &self.name, table).await
    }
}

async fn remove(client: &Client, schema: &str, table: &TableName) -> Result<(), PushError> {
    let failed = |source| PushError::at("remove the run schema", table, source);
    let tables = client
        .query(
            "SELECT c.relname, c.relkind = 'm' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relkind IN ('r', 'm') ORDER BY c.oid DESC",
            &[&schema],
        )
        .await
        .map_err(failed)?;
    for row in tables {
        let dropped = TableName::new(schema, row.get::<_, String>(0));
        let kind = if row.get(1) { "MATERIALIZED VIEW" } else { "TABLE" };
        let sql = format!("DROP {kind} IF EXISTS {} RESTRICT", quote_table(&dropped));
        client.batch_execute(&sql).await.map_err(failed)?;
    }
    let sql = format!("DROP SCHEMA IF EXISTS {} RESTRICT", quote_ident(schema));
    client.batch_execute(&sql).await.map_err(failed)
}

/// Removes what killed pushes of this table left behind. The caller holds the push lock, so none of them is alive.
/// Answers the names of schemas that could not be removed, with the reason.
pub(super) async fn remove_orphans(client: &Client, table: &TableName) -> Result<Vec<(String, PushError)>, PushError> {
    let rows = client
        .query(
            "SELECT n.nspname, obj_description(n.oid, 'pg_namespace') FROM pg_namespace n \
             WHERE starts_with(n.nspname, $1) AND n.nspowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)",
            &[&PREFIX],
        )
        .await
        .map_err(|source| PushError::at("look for leftovers of earlier pushes", table, source))?;
    let mut kept = Vec::new();
    for row in rows {
        let (schema, comment): (String, Option<String>) = (row.get(0), row.get(1));
        let marker = comment.and_then(|comment| serde_json::from_str::<Marker>(&comment).ok());
        if marker.is_some_and(|marker| marker.tool == TOOL && marker.table == *table) {
            match remove(client, &schema, table).await {
                Ok(()) => tracing::info!(%schema, "removed the leftovers of an earlier push"),
                Err(error) => kept.push((schema, error)),
            }
        }
    }
    Ok(kept)
}
