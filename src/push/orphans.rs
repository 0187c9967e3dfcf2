//! What pushes that died left on the target, and what became of them: told by the marker, never guessed.
//!
//! A schema is ours when its name has our prefix, its comment is a marker of ours, and its owner is our role. It is in
//! use as long as somebody holds the push lock of the table in its marker.

use serde::Serialize;
use tokio_postgres::Client;

use crate::schema::TableName;

use super::backup;
use super::error::PushError;
use super::run_schema::{Marker, PREFIX, RunSchema};

/// How far a push or a rollback came that did not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftAt {
    /// Loaded at best: nothing can be done with it.
    Loading,
    /// Loaded, dressed and verified; a resumed push can swap it in.
    Ready,
    /// Swapped in; what is left is the former backup.
    Swapped,
    /// Merged; what is left is what was merged, and the former backup.
    Merged,
    /// A rollback that has happened; nothing of use is left.
    RolledBack,
}

impl LeftAt {
    /// Whether the live table is what the run was to make of it.
    pub(super) fn is_done(self) -> bool {
        matches!(self, Self::Swapped | Self::Merged | Self::RolledBack)
    }
}

/// What a push left on the target.
#[derive(Debug, Clone, Serialize)]
pub struct Leftover {
    /// The run schema.
    pub schema: String,
    /// The push.
    pub run_id: String,
    /// Its live table.
    pub table: TableName,
    /// When it began.
    pub since: chrono::DateTime<chrono::Utc>,
    /// How far it came.
    pub left_at: LeftAt,
    /// What its tables take on disk, indexes included.
    pub bytes: u64,
}

/// A run schema and what is known about it.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) schema: RunSchema,
    pub(super) left_at: LeftAt,
    bytes: u64,
}

impl Orphan {
    pub(super) fn leftover(&self) -> Leftover {
        let marker = self.schema.marker();
        Leftover {
            schema: self.schema.name().to_owned(),
            run_id: marker.run.clone(),
            table: marker.table.clone(),
            since: marker.created,
            left_at: self.left_at,
            bytes: self.bytes,
        }
    }
}

/// Every run schema of our role in this database, the oldest first.
pub(super) async fn find(client: &Client) -> Result<Vec<Orphan>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT n.nspname, obj_description(n.oid, 'pg_namespace'), \
                    coalesce(array_agg(c.oid) FILTER (WHERE c.oid IS NOT NULL), '{}'), \
                    coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint \
             FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'm') \
             WHERE starts_with(n.nspname, $1) AND n.nspowner = (SELECT oid FROM pg_roles WHERE rolname = current_user) \
             GROUP BY n.oid, n.nspname",
            &[&PREFIX],
        )
        .await?;
    let mut orphans = Vec::new();
    for row in rows {
        let (name, comment): (String, Option<String>) = (row.get(0), row.get(1));
        let Some(marker) = comment.as_deref().and_then(Marker::read) else { continue };
        let tables: Vec<u32> = row.get(2);
        let left_at = match &marker.ready {
            Some(ready) if tables.contains(&ready.oid) => LeftAt::Ready,
            Some(ready) if oid(client, &marker.table).await? == Some(ready.oid) => LeftAt::Swapped,
            ready => match backup_of(client, &marker.table, &marker.run).await? {
                Some((_, made)) if made.merged => LeftAt::Merged,
                Some(_) if ready.is_some() => LeftAt::Swapped,
                Some(_) => LeftAt::RolledBack,
                None => LeftAt::Loading,
            },
        };
        let bytes = u64::try_from(row.get::<_, i64>(3)).unwrap_or(0);
        orphans.push(Orphan { schema: RunSchema::found(name, marker), left_at, bytes });
    }
    orphans.sort_by_key(|orphan| orphan.schema.marker().created);
    Ok(orphans)
}

/// The backup of a table that a run made, with its marker: it is part of the transaction that changed the table, so it
/// is there exactly when that has committed.
pub(super) async fn backup_of(
    client: &Client,
    table: &TableName,
    run_id: &str,
) -> Result<Option<(TableName, backup::Marker)>, tokio_postgres::Error> {
    let sql = "SELECT c.relname, obj_description(c.oid, 'pg_class') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relkind = 'r' AND obj_description(c.oid, 'pg_class') IS NOT NULL ORDER BY 1";
    let rows = client.query(sql, &[&table.schema()]).await?;
    let made = rows.iter().find_map(|row| {
        let (name, comment): (String, String) = (row.get(0), row.get(1));
        let marker = backup::Marker::read(Some(&comment), table).filter(|marker| marker.run == run_id)?;
        Some((TableName::new(table.schema(), name), marker))
    });
    Ok(made)
}

/// The oid of what stands under a table's name.
async fn oid(client: &Client, table: &TableName) -> Result<Option<u32>, tokio_postgres::Error> {
    let sql = "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2";
    let row = client.query_opt(sql, &[&table.schema(), &table.name()]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// What became of the leftovers of a table.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// The last push that can be resumed, unless it was removed too.
    pub(super) ready: Option<RunSchema>,
    /// What was done, one sentence each.
    pub(super) notes: Vec<String>,
    /// What could not be removed, and why.
    pub(super) warnings: Vec<String>,
}

/// Finishes pushes of this table that had swapped and removes what the others left; with `keep_ready`, all but the
/// last that can be resumed. The caller holds the push lock, so none of them is alive.
pub(super) async fn settle(client: &Client, table: &TableName, keep_ready: bool) -> Result<Settled, PushError> {
    let failed = |source| PushError::at("look for leftovers of earlier pushes", table, source);
    let mut orphans = find(client).await.map_err(failed)?;
    orphans.retain(|orphan| orphan.schema.marker().table == *table);
    let mut settled = Settled::default();
    if keep_ready && let Some(last) = orphans.iter().rposition(|orphan| orphan.left_at == LeftAt::Ready) {
        settled.ready = Some(orphans.remove(last).schema);
    }
    for orphan in orphans {
        let (name, run) = (orphan.schema.name(), &orphan.schema.marker().run);
        if let Err(error) = orphan.schema.remove(client, table).await {
            settled.warnings.push(format!("schema {name}, left by run {run}, could not be removed: {error}"));
            continue;
        }
        let what = match orphan.left_at {
            LeftAt::Swapped => format!("run {run} had put its table in place of {table}; it is finished now"),
            LeftAt::Merged => format!("run {run} had merged its rows into {table}; it is finished now"),
            LeftAt::RolledBack => format!("run {run} had rolled {table} back; it is finished now"),
            LeftAt::Ready => format!("what run {run} had loaded and not swapped was removed"),
            LeftAt::Loading => format!("what run {run} left when it was interrupted was removed"),
        };
        if orphan.left_at.is_done() {
            tracing::warn!(schema = name, "{what}");
        } else {
            tracing::info!(schema = name, "{what}");
        }
        settled.notes.push(what);
    }
    Ok(settled)
}
