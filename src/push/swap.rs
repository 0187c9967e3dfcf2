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

use crate::pg::{DatabaseUrl, Session, is_connection_lost, quote_table};

use super::batch::{Candidate, DRIFT, Swap};
use super::error::PushError;
use super::lock_retry;
use super::session::{self, Server};

/// Budgets of the first attempts; later ones use the configured budget.
const FIRST_BUDGETS: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(200)];
/// The pause after the first attempt; each further one is longer by half and a bit.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(15);
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
    /// Whether its answer was lost with the connection, and the server had to be asked whether it had committed; the
    /// times are unknown then.
    pub answer_lost: bool,
}

/// What one attempt came to.
enum Attempt {
    Done {
        lock_wait_ms: f64,
        batch_ms: f64,
    },
    Blocked,
    /// The connection ended or the server fell silent, and it may or may not have committed.
    Lost(Option<tokio_postgres::Error>),
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
        let attempted = {
            let mut attempt = std::pin::pin!(attempt(session, swap, budget, cancel));
            tokio::select! {
                attempted = &mut attempt => attempted,
                () = cancel.cancelled() => {
                    // It may be about to commit, so it is asked to stop, and its answer counts.
                    if let Err(error) = session::cancel_statement(url, table, swap.run_id, pid).await {
                        tracing::warn!(%error, "cannot stop the attempt to swap; waiting for it");
                    }
                    attempt.await
                }
            }
        };
        match attempted? {
            Attempt::Done { lock_wait_ms, batch_ms } => {
                return Ok(SwapReport { attempts, lock_wait_ms, batch_ms, answer_lost: false });
            }
            Attempt::Lost(source) => {
                let error = source.as_ref().map(ToString::to_string);
                tracing::warn!(error, "lost the connection during the swap; asking the server what became of it");
                (*session, pid) = session::reopen(url, swap.options, swap.run_id, swap.lock, pid).await?;
                if committed(session, swap).await? {
                    return Ok(SwapReport { attempts, answer_lost: true, ..SwapReport::default() });
                }
            }
            // The head of the loop ends it.
            Attempt::Blocked if cancel.is_cancelled() => {}
            Attempt::Blocked => {
                let blockers = blockers(session, swap).await;
                tracing::warn!(attempts, blockers = blockers.join(", "), "the table is in use; trying again");
                if started.elapsed() + pause > swap.options.swap_deadline {
                    let seconds = started.elapsed().as_secs();
                    let table = table.clone();
                    return Err(match swap.candidate {
                        Candidate::Staging { .. } => PushError::SwapTimedOut { table, attempts, seconds, blockers },
                        Candidate::Backup { .. } => PushError::LockTimedOut { table, attempts, seconds, blockers },
                    });
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

async fn attempt(
    session: &Session,
    swap: &Swap<'_>,
    budget: Duration,
    cancel: &CancellationToken,
) -> Result<Attempt, PushError> {
    let table = &swap.options.table;
    let batch = swap.batch(budget);
    let Ok(answer) = tokio::time::timeout(swap.options.silence_max, session.simple_query(&batch)).await else {
        return Ok(Attempt::Lost(None));
    };
    let error = match answer {
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
    let Some(code) = error.code().filter(|_| !is_connection_lost(&error)) else {
        return Ok(Attempt::Lost(Some(error)));
    };
    let blocked = lock_retry::is_blocked(&error);
    let stopped = *code == SqlState::QUERY_CANCELED && cancel.is_cancelled();
    let drifted = code.code() == DRIFT;
    // The server has released every lock already; this only makes the session usable again.
    if let Err(error) = session.batch_execute("ROLLBACK").await {
        return Ok(Attempt::Lost(Some(error)));
    }
    if blocked || stopped {
        return Ok(Attempt::Blocked);
    }
    if drifted {
        let what = error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
        return Err(PushError::Drifted { table: table.clone(), what });
    }
    Err(PushError::at("swap the tables", table, error))
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
    lock_holders(session, &oids).await
}

/// Who holds locks on tables, as far as we may see.
pub(super) async fn lock_holders(client: &Client, oids: &[u32]) -> Vec<String> {
    let rows = client
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
