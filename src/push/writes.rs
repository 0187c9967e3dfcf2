//! Writes of others to the live table while a push is under way: a swap leaves them in the backup.

use tokio_postgres::{Client, Error};

use crate::schema::TableName;

use super::session::Server;

/// The version from which a session can be made to hand in its counters.
const VERSION_WITH_FLUSH: i32 = 150_000;

/// The server's counters of a table. Sessions hand theirs in with a delay of some seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Writes {
    inserted: i64,
    updated: i64,
    deleted: i64,
}

impl Writes {
    /// The counters of the table `oid`, whatever its name is by now.
    pub(super) async fn of(client: &Client, oid: u32) -> Result<Self, Error> {
        let sql =
            "SELECT pg_stat_get_tuples_inserted($1), pg_stat_get_tuples_updated($1), pg_stat_get_tuples_deleted($1)";
        let row = client.query_one(sql, &[&oid]).await?;
        Ok(Self { inserted: row.get(0), updated: row.get(1), deleted: row.get(2) })
    }

    /// A sentence about what was written since `before`, if anything was.
    pub(super) fn since(self, before: Self, table: &TableName, backup: &TableName) -> Option<String> {
        let (inserted, updated, deleted) =
            (self.inserted - before.inserted, self.updated - before.updated, self.deleted - before.deleted);
        // Somebody may have set the counters to zero.
        (inserted.max(updated).max(deleted) > 0).then(|| {
            format!(
                "while the push was under way, or seconds before it, others inserted {} rows into {table}, updated {} and \
                 deleted {}; that is in {backup} only",
                inserted.max(0),
                updated.max(0),
                deleted.max(0)
            )
        })
    }
}

/// Hands in the session's own counters, or the next push takes the load for writes of others.
pub(super) async fn hand_in(client: &Client, server: &Server) -> Result<(), Error> {
    if server.version >= VERSION_WITH_FLUSH {
        client.batch_execute("SELECT pg_stat_force_next_flush()").await?;
    }
    Ok(())
}
