//! Why the source could not be read.

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
    /// Whether the server could not be reached or went away, so that trying again may help.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_unreachable(),
            Self::Copy { source, .. } | Self::Snapshot(source) | Self::Catalog(CatalogError::Query { source, .. }) => {
                is_connection_lost(source)
            }
            Self::Stalled { .. } => true,
            _ => false,
        }
    }
}
