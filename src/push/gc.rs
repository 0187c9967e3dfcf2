//! Removes what dead pushes left on the target, and never what a live one uses.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use tokio_postgres::Client;

use crate::pg::DatabaseUrl;
use crate::schema::TableName;

use super::after;
use super::error::PushError;
use super::orphans::{self, Leftover};
use super::session::{self, LockKey};

/// How long what a dead push loaded is kept, so that it can be resumed or looked at.
pub const RETENTION: TimeDelta = TimeDelta::hours(24);

/// A leftover, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Collected {
    /// The leftover.
    #[serde(flatten)]
    pub leftover: Leftover,
    /// Why it stays; nothing when it is removed, or would be in a dry run.
    pub kept: Option<String>,
    /// What the push's end still lacks, when it had swapped; the next push tries again.
    pub unfinished: Vec<String>,
}

/// What dead pushes left on the target.
///
/// # Errors
/// [`PushError::Leftovers`] when the catalogue cannot be read.
pub async fn leftovers(client: &Client, url: &DatabaseUrl) -> Result<Vec<Leftover>, PushError> {
    let failed = |source: tokio_postgres::Error| PushError::Leftovers { server: url.to_string(), source };
    let mut leftovers = Vec::new();
    for orphan in orphans::find(client).await.map_err(failed)? {
        let leftover = orphan.leftover();
        // Of a push that is under way nothing is left over.
        if !session::is_locked(client, LockKey::of(&leftover.table)).await.map_err(failed)? {
            leftovers.push(leftover);
        }
    }
    Ok(leftovers)
}

/// Removes what dead pushes of our role left in this database: at once when the push had swapped, whose end is then made
/// up for, else when it is older than [`RETENTION`] or `at_once` says so. A push that is under way holds its table's lock and is not touched.
///
/// # Errors
/// [`PushError`] when the target cannot be reached or read; what cannot be removed is part of the answer.
pub async fn collect_garbage(
    url: &DatabaseUrl,
    run_id: &str,
    now: DateTime<Utc>,
    at_once: bool,
    dry_run: bool,
) -> Result<Vec<Collected>, PushError> {
    let session = session::open_for_gc(url, run_id).await?;
    let failed = |source: tokio_postgres::Error| PushError::Leftovers { server: url.to_string(), source };
    let mut collected = Vec::new();
    for orphan in orphans::find(&session).await.map_err(failed)? {
        let leftover = orphan.leftover();
        let table = leftover.table.clone();
        let lock = LockKey::of(&table);
        let mut unfinished = Vec::new();
        let kept = if session::try_lock(&session, lock).await.map_err(failed)? {
            let is_young = now - leftover.since < RETENTION && !leftover.left_at.is_done();
            let kept = if is_young && !at_once {
                Some(format!("younger than {} hours; --now removes it", RETENTION.num_hours()))
            } else if dry_run {
                None
            } else {
                if leftover.left_at.is_done() {
                    unfinished = finish(&session, &table, &leftover.run_id).await;
                }
                orphan.schema.remove(&session, &table).await.err().map(|error| said(&error))
            };
            session::release_lock(&session, lock).await;
            kept
        } else {
            Some(format!("a push of {table} is under way"))
        };
        collected.push(Collected { leftover, kept, unfinished });
    }
    Ok(collected)
}

/// What follows a swap, for one whose program died after its commit.
async fn finish(client: &Client, table: &TableName, run_id: &str) -> Vec<String> {
    let finished = async {
        let made = orphans::backup_of(client, table, run_id).await;
        match made.map_err(|source| PushError::at("look for the backup", table, source))? {
            Some((backup, _)) => after::finish(client, table, &backup).await,
            None => Ok(Vec::new()),
        }
    };
    finished.await.unwrap_or_else(|error| vec![said(&error)])
}

/// The error and its cause: the server's message names what was built on the tables.
fn said(error: &PushError) -> String {
    let cause = std::error::Error::source(error).and_then(std::error::Error::source);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
