//! One error for all commands, sorted by what a caller can do about it.

use crate::columnar::BuildError;
use crate::config::ConfigError;
use crate::fixtures::FixtureError;
use crate::lake::LakeError;
use crate::pg::{ConnectError, LocalServerError};
use crate::push::PushError;
use crate::schema::TableName;
use crate::source::SourceError;
use crate::transform::TransformError;
use crate::wire::DecodeError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The source could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The server's stream is broken.
    #[error("cannot decode {table}")]
    Decode {
        /// The table.
        table: TableName,
        /// What is wrong.
        source: DecodeError,
    },
    /// A value cannot be held.
    #[error("cannot pull {table}: {place}")]
    Value {
        /// The table.
        table: TableName,
        /// Where its rows lie in the heap, when it was copied in ranges.
        place: String,
        /// Column, row and reason.
        source: BuildError,
    },
    /// The lake could not be read or written.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The phases or checks could not run.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// Columns of the source changed in ways that the pipeline file does not accept.
    #[error("the source changed, and nothing was pulled: {0}")]
    Drift(String),
    /// A merge of changed rows lacks rows that the source has.
    #[error(
        "{table} has {sent} rows, and {rows} after the changed ones were merged: rows were written without moving its watermark; pull it without --incremental, or use watermark = \"xmin\""
    )]
    Watermark {
        /// The lake table.
        table: String,
        /// Rows after the merge.
        rows: u64,
        /// Rows of the source.
        sent: u64,
    },
    /// A check blocks the command.
    #[error("blocked by validation: {0}")]
    Blocked(String),
    /// The push or rollback failed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The push is done; the views beside the live table are not.
    #[error("{table} is up to date, and its views could not be brought up to date")]
    Views {
        /// The live table.
        table: TableName,
        /// Why not.
        source: PushError,
    },
    /// The synthetic source could not be made.
    #[error(transparent)]
    Fixtures(#[from] FixtureError),
    /// The private server could not be started.
    #[error(transparent)]
    LocalServer(#[from] LocalServerError),
    /// The command makes no sense as it was given.
    #[error("{0}")]
    Usage(String),
    /// The destination of an export cannot be written.
    #[error("cannot write {path}")]
    Output {
        /// The file or folder.
        path: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A query worked for longer than it may.
    #[error("the query took longer than {seconds} s; `racealpha query` has no such limit")]
    QueryTime {
        /// The limit.
        seconds: u64,
    },
    /// A query's process was ended by the system.
    #[error("the query needed more memory than it may have; `racealpha query` has no such limit")]
    QueryMemory,
    /// A worker thread panicked, which is a bug of ours.
    #[error("a worker stopped unexpectedly")]
    Worker(#[from] tokio::task::JoinError),
    /// The run was cancelled.
    #[error("interrupted; nothing was published")]
    Cancelled,
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Look at it.
    Failed,
    /// Correct the command or the settings.
    Usage,
    /// Look at the data.
    Blocked,
    /// Try again later.
    Unreachable,
    /// Wait for the other run.
    Locked,
    /// Resume: all is loaded, and the table was in use.
    NotSwapped,
    /// Nothing: it was asked for.
    Interrupted,
}

impl PipelineError {
    /// What a caller can do about it.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Config(_)
            | Self::Usage(_)
            | Self::Source(SourceError::UnknownSnapshot { .. })
            | Self::Transform(TransformError::NoPhase { .. }) => Failure::Usage,
            Self::Blocked(_)
            | Self::Drift(_)
            | Self::Watermark { .. }
            | Self::Transform(TransformError::Key { .. }) => Failure::Blocked,
            Self::Cancelled
            | Self::Source(SourceError::Cancelled)
            | Self::Transform(TransformError::Cancelled)
            | Self::Push(PushError::Cancelled { .. })
            | Self::Fixtures(FixtureError::Cancelled) => Failure::Interrupted,
            Self::Lake(LakeError::Locked { .. }) | Self::Push(PushError::Locked { .. }) => Failure::Locked,
            Self::Connect(error)
            | Self::Source(SourceError::Connect(error))
            | Self::Push(PushError::Connect(error)) => {
                if error.is_unreachable() {
                    Failure::Unreachable
                } else {
                    Failure::Usage
                }
            }
            Self::Push(PushError::SwapTimedOut { .. }) => Failure::NotSwapped,
            Self::Source(error) if error.is_unreachable() => Failure::Unreachable,
            Self::Push(PushError::Lost { .. } | PushError::OutcomeUnknown { .. } | PushError::LockTimedOut { .. }) => {
                Failure::Unreachable
            }
            _ => Failure::Failed,
        }
    }
}
