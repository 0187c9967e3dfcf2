//! What a snapshot has seen for sure, so that a later pull can ask for everything else.
//!
//! A row is visible or not by the transaction that wrote it. A transaction that was under way when the snapshot was
//! taken may commit rows later that carry an older time, and a lower transaction id, than rows the snapshot has. So
//! neither the greatest time nor the greatest id seen is a safe place to go on from; these are:
//!
//! - the snapshot's `xmin`: every transaction below it had ended, so all that it committed was seen;
//! - the start of the oldest transaction under way: who writes `now()` later than that writes a later time.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::SourceError;
use crate::pg::Session;

/// The first version with 64-bit transaction ids in SQL.
const VERSION_MIN: u32 = 130_000;

/// What was under way before the snapshot.
///
/// It is read before the snapshot is taken: a transaction that the snapshot does not see either was under way here, or
/// began later.
#[derive(Debug, Clone, Default)]
pub struct Activity {
    /// The server, its history and its database, where it tells them.
    server: Option<String>,
    /// When the oldest transaction under way began, or the present; none when not all sessions could be seen.
    oldest: Option<String>,
}

/// Where the next incremental pull begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// System identifier, timeline and database: on another server, or after a recovery to an older point, transaction
    /// ids mean something else.
    pub server: String,
    /// Every transaction below had ended; with its epoch, so it never wraps around.
    pub xmin: u64,
    /// The transaction id that would be given out next.
    pub xmax: u64,
    /// Every transaction that began earlier had ended: RFC 3339 in UTC. None when not all sessions could be seen.
    pub time: Option<String>,
}

impl Activity {
    /// Looks at the server's sessions, outside of any transaction. What cannot be seen is left out.
    ///
    /// # Errors
    /// [`SourceError::Snapshot`].
    pub async fn read(session: &Session) -> Result<Self, SourceError> {
        // Other roles' sessions are shown without their state unless ours may read all statistics. A replica does not
        // show the primary's sessions, and a prepared transaction not its start.
        let sql = "SELECT to_char(least(clock_timestamp(), min(a.xact_start)) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
                          coalesce(bool_or(a.pid <> pg_backend_pid() AND coalesce(a.state, 'disabled') = 'disabled'), false) \
                          OR EXISTS (SELECT FROM pg_prepared_xacts p WHERE p.database = current_database()) OR pg_is_in_recovery(), \
                          has_function_privilege('pg_control_system()', 'EXECUTE') AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE') \
                   FROM pg_stat_activity a \
                   WHERE a.datname = current_database() AND a.backend_type IS DISTINCT FROM 'autovacuum worker'";
        let row = session.query_typed_one(sql, &[]).await.map_err(SourceError::Snapshot)?;
        let (oldest, hidden, tells): (Option<String>, bool, bool) = (row.get(0), row.get(1), row.get(2));
        let server = if tells { Some(server(session).await?) } else { None };
        Ok(Self { server, oldest: oldest.filter(|_| !hidden) })
    }

    /// The server, its history and its database, where it tells them.
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// What it tells of a snapshot that was taken before: which server it is, and not what was under way.
    #[must_use]
    pub fn after_the_snapshot(self) -> Self {
        Self { oldest: None, ..self }
    }

    /// The watermark of the snapshot in whose transaction `session` is; none where the server is too old or does not
    /// tell which one it is.
    ///
    /// # Errors
    /// [`SourceError::Snapshot`].
    pub async fn watermark(self, session: &Client, server_version: u32) -> Result<Option<Watermark>, SourceError> {
        let Some(server) = self.server.filter(|_| server_version >= VERSION_MIN) else { return Ok(None) };
        let sql = "SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text FROM pg_current_snapshot() AS s";
        let row = session.query_typed_one(sql, &[]).await.map_err(SourceError::Snapshot)?;
        let id = |column: usize| row.get::<_, String>(column).parse::<u64>().ok();
        Ok(id(0).zip(id(1)).map(|(xmin, xmax)| Watermark { server, xmin, xmax, time: self.oldest }))
    }
}

async fn server(session: &Session) -> Result<String, SourceError> {
    let sql = "SELECT format('%s %s %s', s.system_identifier, \
                      CASE WHEN pg_is_in_recovery() THEN lpad(to_hex(c.timeline_id), 8, '0') \
                           ELSE lower(left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)) END, \
                      (SELECT oid FROM pg_database WHERE datname = current_database())) \
               FROM pg_control_system() AS s, pg_control_checkpoint() AS c";
    Ok(session.query_typed_one(sql, &[]).await.map_err(SourceError::Snapshot)?.get(0))
}
