//! Why the source could not be read.

use tokio_postgres::error::SqlState;

use crate::pg::{CatalogError, ConnectError, is_connection_lost};
use crate::schema::TableName;

/// Why the source could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// No session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The table cannot be described.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The server cannot give or share a snapshot.
    #[error("cannot share one snapshot of the source between connections")]
    Snapshot(#[source] tokio_postgres::Error),
    /// The server keeps its snapshots to their sessions.
    #[error("the server exports no snapshot")]
    NotShared,
    /// The pooler has no further server session.
    #[error("the pooler gave no further server session within {seconds} seconds")]
    NoSessionLeft {
        /// How long it was asked.
        seconds: u64,
    },
    /// Nobody has the snapshot that was asked for.
    #[error("no open transaction of this server and database has the snapshot {id}")]
    UnknownSnapshot {
        /// Its name.
        id: String,
        /// The server's message.
        source: tokio_postgres::Error,
    },
    /// The session that holds the snapshot has ended, and the snapshot with it.
    #[error("the session that held the source's snapshot has ended")]
    SnapshotLost,
    /// The table is not the one that the snapshot knows.
    #[error("{table} was truncated, rewritten or replaced since the snapshot was taken")]
    Rewritten {
        /// The table, or the view that reads it.
        table: TableName,
    },
    /// A standby could not wait for the pull.
    #[error(
        "copying {table} was cancelled by the standby, which had to remove rows that the pull still reads; set \
         hot_standby_feedback = on there, or raise max_standby_streaming_delay"
    )]
    StandbyConflict {
        /// The table.
        table: TableName,
        /// The server's message.
        source: tokio_postgres::Error,
    },
    /// The server or the network ended a copy.
    #[error("copying {table} was cut off by the server or the network")]
    Copy {
        /// The table.
        table: TableName,
        /// What the server or the network said.
        source: tokio_postgres::Error,
    },
    /// The server sent more or fewer rows than it said.
    #[error("copying {table}: {received} of {sent} rows arrived")]
    Incomplete {
        /// The table.
        table: TableName,
        /// What the server said.
        sent: u64,
        /// What came.
        received: u64,
    },
    /// Ranges of a key did not have all rows together.
    #[error(
        "{table}: {copied} rows came in ranges of {column}, and it has {counted}: its rows are not the same whenever they \
         are read, so it cannot have split_by"
    )]
    Unsteady {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
        /// What the server counted before.
        counted: u64,
        /// What came.
        copied: u64,
    },
    /// The server went silent in the middle of a copy.
    #[error("copying {table} stalled: no data from the server for {seconds} seconds")]
    Stalled {
        /// The table.
        table: TableName,
        /// The limit.
        seconds: u64,
    },
    /// The run was cancelled.
    #[error("interrupted")]
    Cancelled,
}

impl SourceError {
    /// What the server or the network said in the middle of a copy.
    pub(super) fn copy(table: &TableName, source: tokio_postgres::Error) -> Self {
        let table = table.clone();
        match source.code() {
            Some(code) if *code == SqlState::T_R_SERIALIZATION_FAILURE => Self::StandbyConflict { table, source },
            _ => Self::Copy { table, source },
        }
    }

    /// Whether the server is there, and is just starting or has no connection left.
    pub fn is_not_ready(&self) -> bool {
        matches!(self, Self::Connect(ConnectError::NotReady { .. }))
    }

    /// Whether the server could not be reached or went away, so that trying again may help.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_unreachable(),
            Self::Copy { source, .. } | Self::Snapshot(source) | Self::Catalog(CatalogError::Query { source, .. }) => {
                is_connection_lost(source)
            }
            Self::Stalled { .. }
            | Self::SnapshotLost
            | Self::Rewritten { .. }
            | Self::StandbyConflict { .. }
            | Self::NoSessionLeft { .. } => true,
            _ => false,
        }
    }
}
