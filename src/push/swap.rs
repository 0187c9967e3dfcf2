//! The swap: one transaction, sent as one message, that renames live to backup and the candidate to live.
//!
//! The server runs the whole batch without waiting for the network, and a client that dies cannot leave a lock behind.
//! Locks are waited for within one small budget and all at once; when it is used up, the transaction ends, readers go
//! on, and the swap is tried again later.

use std::time::{Duration, Instant};

use rand::RngExt;
use serde::Serialize;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use crate::pg::{DatabaseUrl, Session, quote_ident, quote_literal, quote_table};
use crate::schema::TableName;

use super::attributes::{Attributes, OwnedSequence, fingerprint_sql};
use super::backup::{Marker, rename_sql};
use super::error::{PushError, is_shutdown};
use super::options::TargetOptions;
use super::session::{self, LockKey, Server};
use super::staging;

/// Raised by the guard when the table is not the one that was inspected.
const DRIFT: &str = "RA001";
/// Budgets of the first attempts; later ones use the configured budget.
const FIRST_BUDGETS: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(200)];
/// The pause after the first attempt; each further one is longer by half and a bit.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// How long a lost connection's backend gets to end before the outcome counts as unknown.
pub(super) const OUTCOME_PATIENCE: Duration = Duration::from_secs(30);
/// How long the lost backend gets before it is looked at.
const LOST_SESSION_PATIENCE: Duration = Duration::from_secs(2);
/// Blockers named in an error at most.
const BLOCKERS_NAMED: i64 = 5;

/// How the swap went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SwapReport {
    /// Attempts until the locks could be had.
    pub attempts: u32,
    /// What the successful attempt waited for its locks; readers wait behind it for as long.
    pub lock_wait_ms: f64,
    /// What the successful attempt did while it had the locks.
    pub batch_ms: f64,
}

/// A sequence that must not fall behind what was loaded into its column.
#[derive(Debug, Clone)]
pub(super) struct SequencePosition {
    pub(super) sequence: OwnedSequence,
    /// The largest value of the column, or the smallest if the sequence counts down.
    pub(super) furthest: Option<i64>,
}

/// What takes the live table's place.
#[derive(Debug)]
pub(super) enum Candidate<'a> {
    /// A staging table in the run schema, dressed.
    Staging {
        /// Where it is.
        table: TableName,
        /// The backup that makes room, with its oid.
        old_backup: Option<u32>,
    },
    /// The backup itself: a rollback.
    Backup {
        /// The backup.
        attributes: &'a Attributes,
        /// Its marker.
        marker: &'a Marker,
    },
}

/// Everything the batch is composed from.
#[derive(Debug)]
pub(super) struct Swap<'a> {
    pub(super) options: &'a TargetOptions,
    pub(super) run_id: &'a str,
    pub(super) run_schema: &'a str,
    /// The live table; `None` on the first push.
    pub(super) live: Option<&'a Attributes>,
    pub(super) fingerprint: Option<&'a str>,
    pub(super) candidate: Candidate<'a>,
    pub(super) candidate_oid: u32,
    pub(super) sequences: Vec<SequencePosition>,
    pub(super) lock: LockKey,
}

impl Swap<'_> {
    /// The whole transaction as one text.
    pub(super) fn batch(&self, budget: Duration) -> String {
        let mut sql = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;\
             SET LOCAL search_path = '';\
             SET LOCAL synchronous_commit = on;\
             SET LOCAL statement_timeout = '10s';\
             SET LOCAL idle_in_transaction_session_timeout = '5s';\
             SET LOCAL check_function_bodies = off;\
             SET LOCAL lock_timeout = '5s';"
            .to_owned();
        let live = quote_table(&self.options.table);
        if self.live.is_some() {
            // Makes a running autovacuum leave and holds off other DDL; readers and writers go on.
            sql += &format!("LOCK TABLE ONLY {live} IN SHARE UPDATE EXCLUSIVE MODE;");
        }
        sql += &self.guard();
        sql += &self.locks(budget);
        sql += "SET LOCAL lock_timeout = '50ms';";
        sql += &self.body();
        sql += "NOTIFY pgrst, 'reload schema';";
        sql += "SELECT 1000 * extract(epoch FROM current_setting('racealpha.locked')::timestamptz - \
                    current_setting('racealpha.waiting')::timestamptz) AS lock_wait_ms, \
                1000 * extract(epoch FROM clock_timestamp() - current_setting('racealpha.locked')::timestamptz) AS batch_ms;";
        sql += "COMMIT";
        sql
    }

    /// Raises unless everything is as it was inspected.
    fn guard(&self) -> String {
        let mut checks = format!(
            "IF NOT pg_try_advisory_xact_lock({}) THEN \
               RAISE EXCEPTION 'another session has taken the push lock' USING ERRCODE = '{DRIFT}'; END IF; ",
            self.lock.0
        );
        let mut same = |table: &TableName, oid: Option<u32>| {
            let expected = oid.map_or_else(|| "NULL::oid".to_owned(), |oid| format!("{oid}::oid"));
            checks += &format!(
                "IF to_regclass({})::oid IS DISTINCT FROM {expected} THEN \
                   RAISE EXCEPTION '%', {} USING ERRCODE = '{DRIFT}'; END IF; ",
                quote_literal(&quote_table(table)),
                quote_literal(&format!("{table} is not the table it was")),
            );
        };
        same(&self.options.table, self.live.map(|live| live.oid));
        match &self.candidate {
            Candidate::Staging { table, old_backup } => {
                same(table, Some(self.candidate_oid));
                if self.live.is_some() {
                    same(&self.options.backup_table(), *old_backup);
                }
            }
            Candidate::Backup { attributes, .. } => same(&self.options.backup_table(), Some(attributes.oid)),
        }
        if let (Some(live), Some(fingerprint)) = (self.live, self.fingerprint) {
            checks += &format!(
                "IF ({}) IS DISTINCT FROM {} THEN \
                   RAISE EXCEPTION 'something attached to it has changed' USING ERRCODE = '{DRIFT}'; END IF; ",
                fingerprint_sql(live.oid),
                quote_literal(fingerprint)
            );
        }
        format!("DO {};", quote_literal(&format!("BEGIN {checks} END")))
    }

    /// Takes the strong locks, the live table's last, within one budget for all of them.
    fn locks(&self, budget: Duration) -> String {
        let lock = |table: &TableName| {
            quote_literal(&format!("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE", quote_table(table)))
        };
        let mut statements = Vec::new();
        match &self.candidate {
            Candidate::Staging { old_backup: Some(_), .. } if self.live.is_some() => {
                statements.push(lock(&self.options.backup_table()));
            }
            Candidate::Staging { .. } => {}
            Candidate::Backup { .. } => statements.push(lock(&self.options.backup_table())),
        }
        if self.live.is_some() {
            statements.push(lock(&self.options.table));
        }
        let body = format!(
            "DECLARE statement text; remaining int; deadline timestamptz := clock_timestamp() + interval '{} milliseconds'; \
             BEGIN \
               PERFORM set_config('racealpha.waiting', clock_timestamp()::text, true); \
               FOREACH statement IN ARRAY ARRAY[{}]::text[] LOOP \
                 remaining := ceil(1000 * extract(epoch FROM deadline - clock_timestamp())); \
                 IF remaining <= 0 THEN RAISE EXCEPTION 'the lock budget is used up' USING ERRCODE = '55P03'; END IF; \
                 PERFORM set_config('lock_timeout', remaining || 'ms', true); \
                 EXECUTE statement; \
               END LOOP; \
               PERFORM set_config('racealpha.locked', clock_timestamp()::text, true); \
             END",
            budget.as_millis().max(1),
            statements.join(", ")
        );
        format!("DO {};", quote_literal(&body))
    }

    fn body(&self) -> String {
        let mut sql = String::new();
        let (schema, name) = (self.options.table.schema(), self.options.table.name());
        let run_schema = quote_ident(self.run_schema);
        match &self.candidate {
            Candidate::Staging { old_backup: Some(_), .. } if self.live.is_some() => {
                sql += &format!("ALTER TABLE {} SET SCHEMA {run_schema};", quote_table(&self.options.backup_table()));
            }
            Candidate::Staging { .. } => {}
            Candidate::Backup { attributes, marker } => sql += &self.bring_back(attributes, marker),
        }
        if let Some(live) = self.live {
            sql += &self.step_aside(live);
        }
        let staged = TableName::new(self.run_schema, name);
        sql += &format!("ALTER TABLE {} SET SCHEMA {};", quote_table(&staged), quote_ident(schema));
        sql += &self.take_over();
        sql
    }

    /// Rollback: moves the backup out of the way of its original names and gives them back to it.
    fn bring_back(&self, backup: &Attributes, marker: &Marker) -> String {
        let from = self.options.backup_table();
        let moved = TableName::new(self.run_schema, self.options.backup.as_str());
        let mut sql = String::new();
        // Made anew from live's, so that what was tightened after the push is not loosened again.
        for policy in &backup.policies {
            sql += &format!("DROP POLICY {} ON {};", quote_ident(&policy.name), quote_table(&from));
        }
        sql += &format!("ALTER TABLE {} SET SCHEMA {};", quote_table(&from), quote_ident(self.run_schema));
        sql += &format!("ALTER TABLE {} RENAME TO {};", quote_table(&moved), quote_ident(self.options.table.name()));
        for index in &backup.indexes {
            let original = marker.original_name(&index.name);
            if original != index.name {
                sql += &rename_sql("INDEX", self.run_schema, &index.name, original);
            }
        }
        for sequence in backup.sequences.iter().filter(|sequence| sequence.identity) {
            let original = marker.original_name(&sequence.name);
            if original != sequence.name {
                sql += &rename_sql("SEQUENCE", self.run_schema, &sequence.name, original);
            }
        }
        sql
    }

    /// Live becomes the backup: its name, the names that are unique per schema, its exposure.
    fn step_aside(&self, live: &Attributes) -> String {
        let schema = self.options.table.schema();
        let backup = quote_table(&self.options.backup_table());
        let mut marker = Marker::new(self.run_id, &self.options.table, live.oid, self.candidate_oid);
        let mut sql = format!(
            "ALTER TABLE {} RENAME TO {};",
            quote_table(&self.options.table),
            quote_ident(&self.options.backup)
        );
        for index in &live.indexes {
            let name = marker.backup_name(&index.name);
            sql += &rename_sql("INDEX", schema, &index.name, &name);
        }
        for sequence in &live.sequences {
            if sequence.identity {
                let name = marker.backup_name(&sequence.name);
                sql += &rename_sql("SEQUENCE", schema, &sequence.name, &name);
            } else {
                marker.serials.insert(sequence.column.clone(), sequence.table_name());
            }
        }
        sql += &staging::revoke_all_but_owner("TABLE", "r", &backup);
        sql += &format!(
            ";ALTER TABLE {backup} ENABLE ROW LEVEL SECURITY;COMMENT ON TABLE {backup} IS {};",
            quote_literal(&serde_json::to_string(&marker).unwrap_or_default())
        );
        sql
    }

    /// The candidate, under the live name now, gets what could not be attached before.
    fn take_over(&self) -> String {
        let table = &self.options.table;
        let (name, schema) = (quote_table(table), table.schema());
        let mut sql = String::new();
        if matches!(self.candidate, Candidate::Staging { .. }) {
            sql += &staging::restore_autovacuum(table, self.live);
        }
        let Some(live) = self.live else { return sql };
        for position in &self.sequences {
            let former = position.sequence.identity.then(|| self.former_name(&position.sequence.name));
            sql += &position.setval(schema, former.as_deref());
        }
        for sequence in live.sequences.iter().filter(|sequence| !sequence.identity) {
            let column = quote_ident(&sequence.column);
            sql += &format!("ALTER SEQUENCE {} OWNED BY {name}.{column};", quote_table(&sequence.table_name()));
            let default = live.columns.iter().find(|of| of.name == sequence.column).and_then(|of| of.default.as_ref());
            if let Some(default) = default {
                let backup = quote_table(&self.options.backup_table());
                sql += &format!("ALTER TABLE {backup} ALTER COLUMN {column} DROP DEFAULT;");
                sql += &format!("ALTER TABLE {name} ALTER COLUMN {column} SET DEFAULT {default};");
            }
        }
        for policy in &live.policies {
            sql += &staging::policy(table, policy);
        }
        if matches!(self.candidate, Candidate::Backup { .. }) {
            for statement in staging::privileges(table, live) {
                sql += &statement;
                sql.push(';');
            }
            let comment = live.comment.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal);
            sql += &format!("COMMENT ON TABLE {name} IS {comment};");
            let enable = if live.row_security { "ENABLE" } else { "DISABLE" };
            sql += &format!("ALTER TABLE {name} {enable} ROW LEVEL SECURITY;");
        }
        let force = if live.force_row_security { "FORCE" } else { "NO FORCE" };
        sql += &format!("ALTER TABLE {name} {force} ROW LEVEL SECURITY;");
        sql
    }

    /// What an identity sequence of live is called once live is the backup. Names are given in the same order as in
    /// [`Swap::step_aside`], so they come out the same.
    fn former_name(&self, original: &str) -> String {
        let Some(live) = self.live else { return original.to_owned() };
        let mut marker = Marker::new(self.run_id, &self.options.table, live.oid, self.candidate_oid);
        for index in &live.indexes {
            marker.backup_name(&index.name);
        }
        for sequence in live.sequences.iter().filter(|sequence| sequence.identity) {
            let name = marker.backup_name(&sequence.name);
            if sequence.name == original {
                return name;
            }
        }
        original.to_owned()
    }
}

impl SequencePosition {
    /// Positions the sequence at the furthest of where it is, where live's former one is, and the values in the table.
    /// A `serial` column's sequence stays, so it has no former one.
    fn setval(&self, schema: &str, former: Option<&str>) -> String {
        let sequence = match former {
            Some(_) => quote_table(&TableName::new(schema, self.sequence.name.as_str())),
            None => quote_table(&self.sequence.table_name()),
        };
        let direction = if self.sequence.ascending { "DESC" } else { "ASC" };
        let mut positions = format!("SELECT last_value, is_called FROM {sequence}");
        if let Some(former) = former {
            let former = quote_table(&TableName::new(schema, former));
            positions += &format!(" UNION ALL SELECT last_value, is_called FROM {former}");
        }
        if let Some(furthest) = self.furthest {
            positions += &format!(" UNION ALL SELECT {furthest}, true");
        }
        format!(
            "SELECT setval({literal}, p.last_value, p.is_called) FROM ({positions}) p, pg_sequence s \
             WHERE s.seqrelid = {literal}::regclass AND p.last_value BETWEEN s.seqmin AND s.seqmax \
             ORDER BY p.last_value {direction}, p.is_called DESC LIMIT 1;",
            literal = quote_literal(&sequence),
        )
    }
}

/// What one attempt came to.
enum Attempt {
    Done {
        lock_wait_ms: f64,
        batch_ms: f64,
    },
    Blocked,
    /// The connection ended, and the server may or may not have committed.
    Lost(tokio_postgres::Error),
}

/// Tries to swap until the locks can be had, the deadline passes, or the caller cancels. A lost connection is
/// answered by asking the server, by oid, which table stands under the live name.
pub(super) async fn run(
    url: &DatabaseUrl,
    session: &mut Session,
    server: &Server,
    swap: &Swap<'_>,
    cancel: &CancellationToken,
) -> Result<SwapReport, PushError> {
    let table = &swap.options.table;
    let budget_max = server.lock_budget(swap.options.lock_budget);
    let started = Instant::now();
    let mut attempts: u32 = 0;
    let mut pid = server.pid;
    let mut pause = FIRST_PAUSE;
    loop {
        if cancel.is_cancelled() {
            return Err(PushError::Cancelled { table: table.clone() });
        }
        let index = usize::try_from(attempts).unwrap_or(usize::MAX);
        let budget = FIRST_BUDGETS.get(index).map_or(budget_max, |budget| (*budget).min(budget_max));
        attempts += 1;
        match attempt(session, swap, budget).await? {
            Attempt::Done { lock_wait_ms, batch_ms } => return Ok(SwapReport { attempts, lock_wait_ms, batch_ms }),
            Attempt::Lost(source) => {
                tracing::warn!(error = %source, "lost the connection during the swap");
                (*session, pid) = reopen(url, swap, pid).await?;
                if committed(session, swap).await? {
                    return Ok(SwapReport { attempts, lock_wait_ms: 0.0, batch_ms: 0.0 });
                }
            }
            Attempt::Blocked => {
                let blockers = blockers(session, swap).await;
                tracing::warn!(attempts, blockers = blockers.join(", "), "the table is in use; trying again");
                if started.elapsed() + pause > swap.options.swap_deadline {
                    let seconds = started.elapsed().as_secs();
                    return Err(PushError::SwapTimedOut { table: table.clone(), attempts, seconds, blockers });
                }
                let jitter = rand::rng().random_range(0.7..1.3);
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = tokio::time::sleep(pause.mul_f64(jitter)) => {}
                }
                pause = pause.mul_f64(1.6).min(PAUSE_MAX);
            }
        }
    }
}

async fn attempt(session: &Session, swap: &Swap<'_>, budget: Duration) -> Result<Attempt, PushError> {
    let table = &swap.options.table;
    let error = match session.simple_query(&swap.batch(budget)).await {
        Ok(messages) => {
            let timing = messages.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((row.try_get("lock_wait_ms").ok()??, row.try_get("batch_ms").ok()??))
                }
                _ => None,
            });
            let (lock_wait_ms, batch_ms) = timing.unwrap_or(("", ""));
            return Ok(Attempt::Done {
                lock_wait_ms: lock_wait_ms.parse().unwrap_or(0.0),
                batch_ms: batch_ms.parse().unwrap_or(0.0),
            });
        }
        Err(error) => error,
    };
    let Some(code) = error.code().filter(|code| !is_shutdown(code)) else { return Ok(Attempt::Lost(error)) };
    let blocked = *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::T_R_DEADLOCK_DETECTED;
    let drifted = code.code() == DRIFT;
    // The server has released every lock already; this only makes the session usable again.
    if let Err(error) = session.batch_execute("ROLLBACK").await {
        return Ok(Attempt::Lost(error));
    }
    if blocked {
        return Ok(Attempt::Blocked);
    }
    if drifted {
        let what = error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
        return Err(PushError::Drifted { table: table.clone(), what });
    }
    Err(PushError::at("swap the tables", table, error))
}

/// A new session that holds the push lock: whoever had it before has ended, so the outcome is final. Answers the
/// session's process id too.
async fn reopen(url: &DatabaseUrl, swap: &Swap<'_>, lost_pid: i32) -> Result<(Session, i32), PushError> {
    let table = &swap.options.table;
    let deadline = Instant::now() + OUTCOME_PATIENCE;
    loop {
        let error = match open_and_wait(url, swap, lost_pid).await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(PushError::OutcomeUnknown { table: table.clone(), source: Some(Box::new(error)) });
        }
        tokio::time::sleep(FIRST_PAUSE).await;
    }
}

async fn open_and_wait(url: &DatabaseUrl, swap: &Swap<'_>, lost_pid: i32) -> Result<(Session, i32), PushError> {
    let table = &swap.options.table;
    let (session, server) = session::open(url, table, swap.run_id).await?;
    if let Err(error) = session::wait_for_lock(&session, swap.lock, table, LOST_SESSION_PATIENCE).await {
        // It holds the lock and does nothing: the batch is over, and the server has not noticed that we are gone.
        session::end_lost(&session, table, swap.run_id, lost_pid, true).await?;
        return Err(error);
    }
    Ok((session, server.pid))
}

/// Whether the batch committed, decided by which table stands under the live name.
async fn committed(session: &Client, swap: &Swap<'_>) -> Result<bool, PushError> {
    let table = &swap.options.table;
    let row = session
        .query_one("SELECT to_regclass($1)::oid", &[&quote_table(table)])
        .await
        .map_err(|source| PushError::OutcomeUnknown { table: table.clone(), source: Some(Box::new(source)) })?;
    let found: Option<u32> = row.get(0);
    let before = swap.live.map(|live| live.oid);
    match found {
        Some(oid) if oid == swap.candidate_oid => Ok(true),
        oid if oid == before => Ok(false),
        oid => Err(PushError::Interfered {
            table: table.clone(),
            before: before.unwrap_or(0),
            staged: swap.candidate_oid,
            found: oid.map_or_else(|| "nothing".to_owned(), |oid| format!("oid {oid}")),
        }),
    }
}

/// Who holds locks on the tables of the swap, as far as we may see.
async fn blockers(session: &Client, swap: &Swap<'_>) -> Vec<String> {
    let oids: Vec<u32> = swap.live.map(|live| live.oid).into_iter().collect();
    let rows = session
        .query(
            "SELECT DISTINCT format('pid %s (role %s%s, %s, transaction open for %s s)', a.pid, a.usename, \
                      ', ' || nullif(a.application_name, ''), coalesce(a.state, 'background'), \
                      extract(epoch FROM clock_timestamp() - a.xact_start)::int) \
             FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY($1) AND l.pid <> pg_backend_pid() \
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT $2",
            &[&oids, &BLOCKERS_NAMED],
        )
        .await;
    rows.map(|rows| rows.iter().map(|row| row.get(0)).collect()).unwrap_or_default()
}
