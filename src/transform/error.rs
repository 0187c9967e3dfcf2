//! Why the dataset could not be made.

use std::path::PathBuf;

use crate::schema::RowValues;

/// Why the dataset could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransformError {
    /// A phase or check file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A phase file's header is not complete.
    #[error("{file}: {reason}")]
    Header {
        /// The file.
        file: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// Phases read each other's tables in a circle.
    #[error("the phases {0} read each other's tables in a circle")]
    Circle(String),
    /// A phase reads a table that nobody has.
    #[error("phase {phase} reads table {table}, which neither the lake nor an earlier phase has")]
    NoTable {
        /// The phase.
        phase: String,
        /// The table.
        table: String,
    },
    /// No phase has this number or name.
    #[error("there is no phase {asked}; the phases are {known}")]
    NoPhase {
        /// What was asked for.
        asked: String,
        /// The phases in run order.
        known: String,
    },
    /// A statement of a phase failed.
    #[error("{file}, statement {statement} (line {line}) failed: {message}")]
    Statement {
        /// The file.
        file: String,
        /// Its place in the file, from 1.
        statement: usize,
        /// The line where it begins.
        line: usize,
        /// DuckDB's message.
        message: String,
    },
    /// A statement of a phase gave several rows for one key.
    #[error("{place} gave {table} several rows for one ({key})")]
    Key {
        /// The file, with statement and line.
        place: String,
        /// The table.
        table: String,
        /// The columns that tell its rows apart.
        key: String,
        /// Some of the keys with the number of their rows, as JSON.
        source: RowValues,
    },
    /// A phase did not write what its header promises.
    #[error("{file} did not write table {table}, which its header names")]
    NotWritten {
        /// The file.
        file: String,
        /// The table.
        table: String,
    },
    /// A query of the program's own, or of the user, failed.
    #[error("{0}")]
    Query(String),
    /// The engine could not be started.
    #[error("cannot start DuckDB: {0}")]
    Start(String),
    /// The run was cancelled.
    #[error("interrupted")]
    Cancelled,
}
