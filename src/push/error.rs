//! What can go wrong with a push, by what a caller can do about it.

use serde::Serialize;
use tokio_postgres::error::SqlState;

use crate::columnar::EncodePlanError;
use crate::pg::{ConnectError, is_connection_lost};
use crate::schema::{RowValues, TableName};
use crate::wire::ValueError;

use super::lock_retry;

/// Something that makes a push impossible, found before anything is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// What stands in the way: a column, a trigger, a view, ….
    pub object: String,
    /// Why it does.
    pub why: String,
    /// What the operator can do instead.
    pub alternative: String,
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.object, self.why, self.alternative)
    }
}

/// Any error of the program that feeds batches into a push.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a push or rollback did not happen. Unless a variant says otherwise, the live table is untouched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// No session with the server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Things attached to the table, or its columns, stand in the way; all of them are listed.
    #[error("cannot push to {table}: {}", list(.blockers))]
    Blocked {
        /// The live table.
        table: TableName,
        /// What stands in the way.
        blockers: Vec<Blocker>,
    },
    /// Another push or rollback of the same table is under way.
    #[error(
        "{by} is already pushing to {table}, since {since}; wait for it, or end that session if its process is gone"
    )]
    Locked {
        /// The live table.
        table: TableName,
        /// Who, as `pg_stat_activity` shows them.
        by: String,
        /// Since when that session has been open.
        since: String,
    },
    /// The server takes no writes.
    #[error("{server} takes no writes: {why}")]
    ReadOnly {
        /// `user@host:port/database`.
        server: String,
        /// Which of the reasons.
        why: &'static str,
    },
    /// The server is too old for what a push does.
    #[error("the server is PostgreSQL {found}; a push needs 13 or newer")]
    OldServer {
        /// The server's version.
        found: String,
    },
    /// The target cannot hold a value.
    #[error("{table}, column {column}, row {row}: {reason}; nothing was changed")]
    Value {
        /// The live table.
        table: TableName,
        /// The column.
        column: String,
        /// The row of the dataset, from 0.
        row: u64,
        /// What does not fit.
        reason: ValueError,
        /// The row's key, `column=value` each.
        #[source]
        key: RowValues,
    },
    /// The dataset's columns and the table's do not go together.
    #[error("cannot encode the dataset for {table}")]
    Encode {
        /// The live table.
        table: TableName,
        /// Which columns.
        source: EncodePlanError,
    },
    /// The dataset could not be read, or a batch does not have the columns it should.
    #[error("cannot read the dataset for {table}")]
    Dataset {
        /// The live table.
        table: TableName,
        /// The reader's error.
        source: BoxError,
    },
    /// The catalogue answered in a form this program does not know.
    #[error("cannot make sense of what the catalogue says about {table}")]
    Catalogue {
        /// The live table.
        table: TableName,
        /// What was unexpected.
        source: serde_json::Error,
    },
    /// What arrived on the server is not what the lake holds.
    #[error("the load of {table} is not what the lake holds: {what}; nothing was changed")]
    Verify {
        /// The live table.
        table: TableName,
        /// What differs.
        what: String,
    },
    /// Rows of another table refer to keys that the new table lacks.
    #[error(
        "rows of {child} refer to keys that the new {table} lacks (constraint {constraint}); keep those rows in the \
         dataset, or change the rows that refer to them; nothing was changed"
    )]
    Orphans {
        /// The live table.
        table: TableName,
        /// The table whose rows refer to it.
        child: TableName,
        /// Its foreign key.
        constraint: String,
        /// The first of the keys.
        #[source]
        keys: RowValues,
    },
    /// So few rows that something must have gone wrong before the push.
    #[error(
        "the dataset has {rows} rows and {table} has {live}; a push needs {least} at least, unless it is forced or min_rows_of_live says otherwise"
    )]
    TooFewRows {
        /// The live table.
        table: TableName,
        /// Rows of the dataset.
        rows: u64,
        /// Rows of the live table.
        live: u64,
        /// The least that is allowed.
        least: u64,
    },
    /// The server refused a statement.
    #[error("the server refused to {step} for {table}; the live table is as it was")]
    ServerRefused {
        /// What the push was about to do.
        step: &'static str,
        /// The live table.
        table: TableName,
        /// The server's message.
        source: tokio_postgres::Error,
    },
    /// The server has no space left.
    #[error("the server's disk is full; {table} is as it was, and the load {load}")]
    DiskFull {
        /// The live table.
        table: TableName,
        /// What became of it, in words: it outlives a resumed push.
        load: &'static str,
        /// The server's message.
        source: tokio_postgres::Error,
    },
    /// The connection ended; the live table is as it was.
    #[error("lost the connection while trying to {step} for {table}; the live table is as it was")]
    Lost {
        /// What the push was doing.
        step: &'static str,
        /// The live table.
        table: TableName,
        /// The client's error, when it had one.
        source: Option<tokio_postgres::Error>,
    },
    /// The connection ended during the swap or the commit, and the server could not be asked whether it happened.
    #[error(
        "lost the connection while {table} was being changed and cannot tell whether it happened; `racealpha status` or \
         the next push finds out"
    )]
    OutcomeUnknown {
        /// The live table.
        table: TableName,
        /// Why the server could not be asked.
        source: Option<BoxError>,
    },
    /// Neither the old nor the new table stands under the live name after a lost connection.
    #[error(
        "{table} is neither the table from before the push (oid {before}) nor the new one (oid {staged}) but {found}; somebody else changed it"
    )]
    Interfered {
        /// The live table.
        table: TableName,
        /// Its oid before.
        before: u32,
        /// The new table's oid.
        staged: u32,
        /// What stands there: an oid, or nothing.
        found: String,
    },
    /// The table changed under the push again and again.
    #[error("{table} or something attached to it was changed while the push was under way ({what}); push again")]
    Drifted {
        /// The live table.
        table: TableName,
        /// What the guard found.
        what: String,
    },
    /// The lock could not be had within the time allowed. What was loaded stays, so that a resumed push can swap it in.
    #[error(
        "loaded but could not lock {table} for the swap in {attempts} attempts over {seconds} s{}; the loaded table is \
         kept, and `racealpha push --resume` swaps it in", held_by(.blockers)
    )]
    SwapTimedOut {
        /// The live table.
        table: TableName,
        /// Attempts made.
        attempts: u32,
        /// Seconds spent on them.
        seconds: u64,
        /// Who held the lock, as last seen.
        blockers: Vec<String>,
    },
    /// A merge or a rollback could not have its locks within the time allowed.
    #[error("could not lock {table} or rows of it in {attempts} attempts over {seconds} s{}; it is as it was", held_by(.blockers))]
    LockTimedOut {
        /// The live table.
        table: TableName,
        /// Attempts made.
        attempts: u32,
        /// Seconds spent on them.
        seconds: u64,
        /// Who held locks, as last seen.
        blockers: Vec<String>,
    },
    /// What earlier pushes left could not be looked at.
    #[error("cannot look for what earlier pushes left on {server}")]
    Leftovers {
        /// `user@host:port/database`.
        server: String,
        /// The server's message.
        source: tokio_postgres::Error,
    },
    /// There is no loaded table to go on with.
    #[error("cannot resume the push to {table}: {why}")]
    NothingToResume {
        /// The live table.
        table: TableName,
        /// Why not.
        why: String,
    },
    /// There is nothing to roll back to.
    #[error("there is no backup {backup} of {table} to roll back to")]
    NoBackup {
        /// The live table.
        table: TableName,
        /// The backup's name.
        backup: TableName,
    },
    /// The caller asked to stop.
    #[error("stopped before the swap; {table} is as it was")]
    Cancelled {
        /// The live table.
        table: TableName,
    },
}

impl PushError {
    /// Whether the same push may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_unreachable(),
            Self::Lost { .. }
            | Self::OutcomeUnknown { .. }
            | Self::SwapTimedOut { .. }
            | Self::LockTimedOut { .. }
            | Self::Drifted { .. } => true,
            _ => false,
        }
    }

    /// Whether a table went while the catalogue was being read: dropped, or renamed away, by somebody else.
    pub fn is_table_gone(&self) -> bool {
        let (Self::ServerRefused { source, .. } | Self::Leftovers { source, .. }) = self else { return false };
        // "could not open relation with OID …" and "cache lookup failed …" have no code of their own.
        let gone = [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_OBJECT, SqlState::INTERNAL_ERROR];
        source.code().is_some_and(|code| gone.contains(code))
    }

    /// Whether a statement was ended because others hold a lock.
    pub(super) fn is_blocked(&self) -> bool {
        matches!(self, Self::ServerRefused { source, .. } if lock_retry::is_blocked(source))
    }

    /// Sorts a client's error by what the operator can do.
    pub(super) fn at(step: &'static str, table: &TableName, source: tokio_postgres::Error) -> Self {
        let table = table.clone();
        match source.code() {
            Some(code) if *code == SqlState::DISK_FULL => Self::DiskFull { table, load: "was removed", source },
            _ if is_connection_lost(&source) => Self::Lost { step, table, source: Some(source) },
            _ => Self::ServerRefused { step, table, source },
        }
    }
}

fn list(blockers: &[Blocker]) -> String {
    blockers.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn held_by(blockers: &[String]) -> String {
    if blockers.is_empty() { String::new() } else { format!("; held by {}", blockers.join(", ")) }
}
