//! Statements outside the swap that need a lock others use: each waits for it briefly, and tries again.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

/// How long one attempt waits for its lock; whoever comes after it waits as long.
const LOCK_BUDGET: &str = "200ms";
/// Attempts before the statement counts as failed.
const ATTEMPTS_MAX: u32 = 50;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(400);

/// Runs a statement in a transaction of its own that waits only briefly for locks, until it could have them.
pub(super) async fn execute(client: &Client, statement: &str) -> Result<(), Error> {
    let sql = format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_BUDGET}'; {statement}; COMMIT");
    let mut attempt = 1;
    loop {
        let Err(error) = client.batch_execute(&sql).await else { return Ok(()) };
        if !client.is_closed() {
            client.batch_execute("ROLLBACK").await?;
        }
        let is_blocked = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED].iter();
        if !is_blocked.into_iter().any(|state| error.code() == Some(state)) || attempt >= ATTEMPTS_MAX {
            return Err(error);
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}
