//! Statements outside the swap that need a lock others use: each waits for it briefly, and tries again.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use crate::pg::quote_literal;

/// How long one attempt waits for its lock; whoever comes after it waits as long.
const LOCK_BUDGET: &str = "200ms";
/// Attempts before the statement counts as failed.
const ATTEMPTS_MAX: u32 = 50;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(400);

/// Whether the server ended a statement because others hold a lock.
pub(super) fn is_blocked(error: &Error) -> bool {
    let blocked = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| blocked.contains(code))
}

/// A statement that runs others, each of which waits for a lock, within one budget for all of them. A transaction whose
/// locks are all had within it makes nobody else the victim of a deadlock.
pub(super) fn all_within(budget: Duration, statements: &[String]) -> String {
    let statements: Vec<String> = statements.iter().map(|statement| quote_literal(statement)).collect();
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
    format!("DO {}", quote_literal(&body))
}

/// Runs a statement in a transaction of its own that waits only briefly for locks, until it could have them.
pub(super) async fn execute(client: &Client, statement: &str) -> Result<(), Error> {
    let sql = format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_BUDGET}'; {statement}; COMMIT");
    let mut attempt = 1;
    loop {
        let Err(error) = client.batch_execute(&sql).await else { return Ok(()) };
        if !client.is_closed() {
            client.batch_execute("ROLLBACK").await?;
        }
        if !is_blocked(&error) || attempt >= ATTEMPTS_MAX {
            return Err(error);
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}
