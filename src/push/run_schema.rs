//! The schema that one push loads into: its name, its marker, and its removal.
//!
//! Nobody but the owner can see into it. It is created and loaded in one transaction, so a load that fails leaves
//! nothing; what a push that was killed later leaves, `orphans.rs` finds by the marker.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::pg::{quote_ident, quote_literal, quote_table};
use crate::schema::TableName;

use super::error::PushError;

/// What every run schema's name begins with.
pub(super) const PREFIX: &str = "_push_";
/// The longest name that Postgres keeps (`NAMEDATALEN - 1`).
const NAME_BYTES_MAX: usize = 63;
/// Says in a marker that the schema is ours.
const TOOL: &str = "racealpha push";

/// The comment on a run schema.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Marker {
    tool: String,
    /// The run that made the schema.
    pub(super) run: String,
    /// The live table.
    pub(super) table: TableName,
    /// When the schema was made.
    pub(super) created: DateTime<Utc>,
    /// The staging table, from the moment when it lacks nothing but the swap.
    pub(super) ready: Option<Ready>,
}

/// A staging table that was loaded, dressed and verified.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ready {
    /// By this the swapped table is known again, whatever its name is then.
    pub(super) oid: u32,
    pub(super) rows: u64,
    /// COPY bytes.
    pub(super) bytes: u64,
    /// What was loaded, as the caller calls it.
    pub(super) snapshot: Option<String>,
    /// The live table's fingerprint when the staging table was dressed like it.
    pub(super) fingerprint: Option<String>,
}

impl Marker {
    /// The marker in a schema's comment, if it is one of ours.
    pub(super) fn read(comment: &str) -> Option<Self> {
        let marker: Self = serde_json::from_str(comment).ok()?;
        (marker.tool == TOOL).then_some(marker)
    }
}

/// The schema of one run.
#[derive(Debug, Clone)]
pub(super) struct RunSchema {
    name: String,
    marker: Marker,
}

impl RunSchema {
    pub(super) fn new(run_id: &str, table: &TableName) -> Self {
        let mut name = format!("{PREFIX}{run_id}");
        while name.len() > NAME_BYTES_MAX {
            name.pop();
        }
        let (run, table) = (run_id.to_owned(), table.clone());
        Self { name, marker: Marker { tool: TOOL.to_owned(), run, table, created: Utc::now(), ready: None } }
    }

    /// A schema that an earlier run made.
    pub(super) fn found(name: String, marker: Marker) -> Self {
        Self { name, marker }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn marker(&self) -> &Marker {
        &self.marker
    }

    /// A table's name in this schema.
    pub(super) fn table(&self, name: &str) -> TableName {
        TableName::new(self.name.as_str(), name)
    }

    /// Creates the schema, closed to everybody but its owner.
    pub(super) fn create_sql(&self) -> String {
        let schema = quote_ident(&self.name);
        format!("CREATE SCHEMA {schema}; REVOKE ALL ON SCHEMA {schema} FROM PUBLIC; {}", self.comment_sql())
    }

    fn comment_sql(&self) -> String {
        let marker = serde_json::to_string(&self.marker).unwrap_or_default();
        format!("COMMENT ON SCHEMA {} IS {}", quote_ident(&self.name), quote_literal(&marker))
    }

    /// Notes that the staging table lacks nothing but the swap: from here on a push can be resumed.
    pub(super) async fn mark_ready(&mut self, client: &Client, ready: Ready) -> Result<(), PushError> {
        self.marker.ready = Some(ready);
        let noted = client.batch_execute(&self.comment_sql()).await;
        noted.map_err(|source| PushError::at("note that the load is complete", &self.marker.table, source))
    }

    /// Removes the schema and the tables and materialized views in it. What somebody else built on them is never taken
    /// along: the tables then stay, and the server's message names what was built on them.
    pub(super) async fn remove(&self, client: &Client, table: &TableName) -> Result<(), PushError> {
        let failed = |source| PushError::at("remove the run schema", table, source);
        let tables = client
            .query(
                "SELECT c.relname, c.relkind = 'm' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1 AND c.relkind IN ('r', 'm') ORDER BY c.oid DESC",
                &[&self.name],
            )
            .await
            .map_err(failed)?;
        for row in tables {
            let dropped = self.table(row.get(0));
            let kind = if row.get(1) { "MATERIALIZED VIEW" } else { "TABLE" };
            let sql = format!("DROP {kind} IF EXISTS {} RESTRICT", quote_table(&dropped));
            client.batch_execute(&sql).await.map_err(failed)?;
        }
        let sql = format!("DROP SCHEMA IF EXISTS {} RESTRICT", quote_ident(&self.name));
        client.batch_execute(&sql).await.map_err(failed)
    }
}
