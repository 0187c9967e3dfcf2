//! The session of a push: settings that keep it safe, and the lock that makes it the only one.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::pg::{DatabaseUrl, Session};
use crate::schema::TableName;

use super::error::PushError;
use super::options::TargetOptions;

/// How long a statement outside the swap may wait for a lock.
const LOCK_TIMEOUT: &str = "2s";
/// How long a push waits for another that is just ending: the server looks once a second whether a client is still there.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// How long a lost session may go on before it is looked at.
const LOST_SESSION_PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts to reach the server again.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);
/// How long the server goes on sending to a client that confirms nothing.
const LOST_CLIENT_TIMEOUT: &str = "60s";
/// The least version with every catalogue column and statement a push uses.
const VERSION_MIN: i32 = 130_000;
/// The version from which the server can notice a vanished client while it works.
const VERSION_WITH_CONNECTION_CHECK: i32 = 140_000;

/// What S0 learned about the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server {
    /// `server_version_num`.
    pub(super) version: i32,
    /// The backend's process id.
    pub(super) pid: i32,
    /// After this long in a wait, the server looks for deadlocks.
    pub(super) deadlock_timeout: Duration,
}

impl Server {
    /// The longest that one attempt to swap may wait for its locks. A session that always gives up before the server
    /// looks for deadlocks can never make somebody else the victim of one.
    pub(super) fn lock_budget(&self, configured: Duration) -> Duration {
        configured.min(self.deadlock_timeout / 2).max(Duration::from_millis(1))
    }
}

/// The advisory lock of a table's pushes.
#[derive(Debug, Clone, Copy)]
pub(super) struct LockKey(pub(super) i64);

impl LockKey {
    /// The server keeps such locks apart by database, whatever name leads to it.
    pub(super) fn of(table: &TableName) -> Self {
        let digest = Sha256::digest(format!("racealpha push\0{table}"));
        let bytes = digest.iter().take(8).fold(0_u64, |key, byte| key << 8 | u64::from(*byte));
        Self(bytes.cast_signed())
    }

    /// The lock's two halves, as `pg_locks` shows them.
    fn halves(self) -> (u32, u32) {
        let bits = self.0.cast_unsigned();
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
        (half(bits >> 32), half(bits))
    }
}

fn purpose(run_id: &str) -> String {
    format!("push {run_id}")
}

/// Opens a session, sets what a push needs, and refuses servers that take no writes.
pub(super) async fn open(url: &DatabaseUrl, table: &TableName, run_id: &str) -> Result<(Session, Server), PushError> {
    let session = Session::open_lasting(url, &purpose(run_id)).await?;
    let server = prepare(&session, url, table).await?;
    Ok((session, server))
}

/// Opens a session of a garbage collection, which is about no table in particular.
pub(super) async fn open_for_gc(url: &DatabaseUrl, run_id: &str) -> Result<Session, PushError> {
    let session = Session::open_lasting(url, &format!("gc {run_id}")).await?;
    let set = session.batch_execute(&format!("SET lock_timeout = '{LOCK_TIMEOUT}'")).await;
    set.map_err(|source| PushError::Leftovers { server: url.to_string(), source })?;
    Ok(session)
}

/// Takes the lock if nobody has it.
pub(super) async fn try_lock(client: &Client, key: LockKey) -> Result<bool, tokio_postgres::Error> {
    Ok(client.query_one("SELECT pg_try_advisory_lock($1)", &[&key.0]).await?.get(0))
}

/// Whether anybody has the lock.
pub(super) async fn is_locked(client: &Client, key: LockKey) -> Result<bool, tokio_postgres::Error> {
    let (high, low) = key.halves();
    let sql = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = $1 \
               AND objid = $2 AND objsubid = 1 \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    Ok(client.query_one(sql, &[&high, &low]).await?.get(0))
}

/// Sets what a push needs. Row-level security that would hide rows from a statement makes it fail instead.
async fn prepare(session: &Session, url: &DatabaseUrl, table: &TableName) -> Result<Server, PushError> {
    let failed = |source| PushError::at("set up the session", table, source);
    session
        .batch_execute(&format!(
            "SET statement_timeout = 0; SET lock_timeout = '{LOCK_TIMEOUT}'; SET row_security = off; \
             SET idle_in_transaction_session_timeout = 0; SET synchronous_commit = on; \
             SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; \
             SET tcp_user_timeout = '{LOST_CLIENT_TIMEOUT}'"
        ))
        .await
        .map_err(failed)?;
    let row = session
        .query_one(
            "SELECT current_setting('server_version_num')::int, pg_backend_pid(), \
                    (SELECT setting::int FROM pg_settings WHERE name = 'deadlock_timeout'), \
                    pg_is_in_recovery(), \
                    current_setting('transaction_read_only')::bool OR current_setting('default_transaction_read_only')::bool, \
                    current_setting('server_version'), \
                    (SELECT setting = '0' FROM pg_settings WHERE name = 'statement_timeout')",
            &[],
        )
        .await
        .map_err(failed)?;
    let deadlock_ms: i32 = row.get(2);
    let server = Server {
        version: row.get(0),
        pid: row.get(1),
        deadlock_timeout: Duration::from_millis(u64::try_from(deadlock_ms).unwrap_or(1)),
    };
    let read_only = |why| PushError::ReadOnly { server: url.to_string(), why };
    if row.get(3) {
        return Err(read_only("it is a read replica"));
    }
    if row.get(4) {
        return Err(read_only("transactions are read only; a hosted database over its disk limit is"));
    }
    if !row.get::<_, bool>(6) {
        return Err(read_only(
            "it does not let this session set its statement timeout; use a direct or session-mode connection",
        ));
    }
    if server.version < VERSION_MIN {
        return Err(PushError::OldServer { found: row.get(5) });
    }
    if server.version >= VERSION_WITH_CONNECTION_CHECK {
        session.batch_execute("SET client_connection_check_interval = '1s'").await.map_err(failed)?;
    }
    Ok(server)
}

/// Takes the lock that makes this the only push of the table, or says who has it.
pub(super) async fn take_lock(client: &Client, key: LockKey, table: &TableName) -> Result<(), PushError> {
    let failed = |source| PushError::at("take the push lock", table, source);
    match acquire(client, key, LOCK_PATIENCE).await {
        Ok(()) => return Ok(()),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {}
        Err(error) => return Err(failed(error)),
    }
    let (high, low) = key.halves();
    let holder = client
        .query_opt(
            "SELECT format('%s (role %s, pid %s)', nullif(a.application_name, ''), a.usename, a.pid), \
                    to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS \"UTC\"') \
             FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $1 AND l.objid = $2 AND l.objsubid = 1 \
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1",
            &[&high, &low],
        )
        .await
        .map_err(failed)?;
    let (by, since) = holder.map_or_else(
        || ("another session".to_owned(), "a moment ago".to_owned()),
        |row| (row.get(0), row.get::<_, Option<String>>(1).unwrap_or_else(|| "a time it does not show".to_owned())),
    );
    Err(PushError::Locked { table: table.clone(), by, since })
}

/// Gives the lock back, so that the next push need not wait until the server notices that this session has ended.
pub(super) async fn release_lock(client: &Client, key: LockKey) {
    if let Err(error) = client.execute("SELECT pg_advisory_unlock($1)", &[&key.0]).await {
        tracing::debug!(%error, "the push lock goes with the session");
    }
}

async fn acquire(client: &Client, key: LockKey, patience: Duration) -> Result<(), tokio_postgres::Error> {
    let wait = format!("SET lock_timeout = {}; SELECT pg_advisory_lock({})", patience.as_millis(), key.0);
    let acquired = client.batch_execute(&wait).await;
    client.batch_execute(&format!("SET lock_timeout = '{LOCK_TIMEOUT}'")).await?;
    acquired
}

/// Waits for the lock, so that whoever holds it has ended when this returns.
pub(super) async fn wait_for_lock(
    client: &Client,
    key: LockKey,
    table: &TableName,
    patience: Duration,
) -> Result<(), PushError> {
    let failed = |source| PushError::at("wait for the lost session to end", table, source);
    acquire(client, key, patience).await.map_err(failed)
}

/// A new session that holds the push lock, after a lost one: whoever had the lock before has ended, so what became of
/// its transaction is final. Answers the session's process id too.
pub(super) async fn reopen(
    url: &DatabaseUrl,
    options: &TargetOptions,
    run_id: &str,
    lock: LockKey,
    lost_pid: i32,
) -> Result<(Session, i32), PushError> {
    let table = &options.table;
    let deadline = Instant::now() + options.outcome_patience;
    loop {
        let error = match open_and_wait(url, table, run_id, lock, lost_pid).await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(PushError::OutcomeUnknown { table: table.clone(), source: Some(Box::new(error)) });
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
}

async fn open_and_wait(
    url: &DatabaseUrl,
    table: &TableName,
    run_id: &str,
    lock: LockKey,
    lost_pid: i32,
) -> Result<(Session, i32), PushError> {
    let (session, server) = open(url, table, run_id).await?;
    if let Err(error) = wait_for_lock(&session, lock, table, LOST_SESSION_PATIENCE).await {
        // It holds the lock and does nothing: its transaction is over, and the server has not noticed that we are gone.
        end_lost(&session, url, table, run_id, lost_pid, true).await?;
        return Err(error);
    }
    Ok((session, server.pid))
}

/// Ends the server's side of a session of this run that we have lost; with `idle_only`, only if it does nothing.
pub(super) async fn end_lost(
    client: &Client,
    url: &DatabaseUrl,
    table: &TableName,
    run_id: &str,
    pid: i32,
    idle_only: bool,
) -> Result<(), PushError> {
    client
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE pid = $1 AND left(application_name, 63) = left($2, 63) AND (state LIKE 'idle%' OR NOT $3)",
            &[&pid, &url.application_name(&purpose(run_id)), &idle_only],
        )
        .await
        .map(|_| ())
        .map_err(|source| PushError::at("end the lost session", table, source))
}

/// Ends the statement that a session of this run is waiting for, and not the session.
pub(super) async fn cancel_statement(
    url: &DatabaseUrl,
    table: &TableName,
    run_id: &str,
    pid: i32,
) -> Result<(), PushError> {
    let name = url.application_name(&purpose(run_id));
    let session = Session::open(url, "cancel").await?;
    session
        .execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND left(application_name, 63) = left($2, 63)",
            &[&pid, &name],
        )
        .await
        .map(|_| ())
        .map_err(|source| PushError::at("stop the swap", table, source))
}
