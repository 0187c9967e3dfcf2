//! Why the lake could not be read or written.

use object_store::path::Path;

use super::Version;

/// Why the lake could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// The lake's URL names no store this program can open.
    #[error("cannot open the lake {url}; expected a local folder")]
    Open {
        /// The URL as given.
        url: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The lake's kind of store is not built in.
    #[error("a lake on {scheme}:// cannot be used yet; name a local folder")]
    Scheme {
        /// The URL's scheme.
        scheme: String,
    },
    /// The lake has no version yet.
    #[error("the lake {url} is empty; `racealpha pull` fills it")]
    Empty {
        /// The lake.
        url: String,
    },
    /// The latest version has no such table.
    #[error("the lake has no table {table} in version {version}; `racealpha {command}` makes it")]
    NoTable {
        /// The table.
        table: String,
        /// The version looked at.
        version: Version,
        /// The command that makes it.
        command: &'static str,
    },
    /// Another run published this version first; its data stands.
    #[error("version {0} of the lake was already published by another run; run the command again")]
    AlreadyPublished(Version),
    /// Another run works on the lake.
    #[error("another run works on this lake: {holder}")]
    Locked {
        /// Run id, command and process, as the holder wrote them.
        holder: String,
    },
    /// A manifest or run file is not what this program writes.
    #[error("{path} is not readable as JSON of this program")]
    Malformed {
        /// The object.
        path: Path,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The store refused a read.
    #[error("cannot read {path}")]
    Read {
        /// The object.
        path: Path,
        /// What the store said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store refused a write; a full disk is the usual reason.
    #[error("cannot write {path}")]
    Write {
        /// The object being written.
        path: Path,
        /// What the store said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A partition transform does not fit its column.
    #[error("cannot partition {table} by {transform}: {reason}")]
    Partition {
        /// The table.
        table: String,
        /// The transform as written in the pipeline file.
        transform: String,
        /// Why not.
        reason: String,
    },
    /// The settings for a table's files name a column that it does not have.
    #[error("the parquet settings of {table} name column {column}, which it does not have")]
    Encoding {
        /// The table.
        table: String,
        /// The name.
        column: String,
    },
}
