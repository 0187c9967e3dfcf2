//! What a version of the lake consists of.

use std::collections::BTreeMap;
use std::fmt;

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::{LakeError, PartitionTransform};

/// A version of the lake; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The whole truth about every table in one version. Created once, never changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// This version.
    pub version: Version,
    /// When it was published.
    pub created: DateTime<Utc>,
    /// The run that published it.
    pub run_id: String,
    /// Its tables by name.
    pub tables: BTreeMap<String, LakeTable>,
}

/// One table in a version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LakeTable {
    /// The version whose run wrote the files.
    pub version: Version,
    /// The run that wrote the files.
    pub run_id: String,
    /// When they were published.
    pub created: DateTime<Utc>,
    /// Where the rows come from.
    pub origin: Origin,
    /// Columns: Arrow types, with the Postgres types in the fields' metadata.
    pub schema: SchemaRef,
    /// Rows in all files.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The files.
    pub files: Vec<DataFile>,
}

/// Where a table's rows come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Origin {
    /// Pulled from a database.
    Source {
        /// `schema.table` there.
        table: String,
        /// Fingerprint of its columns.
        fingerprint: String,
        /// The exported Postgres snapshot.
        pg_snapshot: String,
        /// The server's time of the snapshot, RFC 3339.
        time: String,
        /// The write-ahead log's position, where known.
        wal_position: Option<String>,
        /// Rows that the server counted in the same snapshot.
        source_rows: u64,
        /// The widest value of each unbounded numeric column: digits before and after the point, and whether NaN or
        /// an infinity occurred.
        numeric_seen: BTreeMap<String, (u32, u32, bool)>,
        /// What the next pull of the table compares with and goes on from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mark: Option<Box<SourceMark>>,
        /// Values that became null because their column cannot hold them and its setting says so.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        made_null: BTreeMap<String, u64>,
    },
    /// Made by the phases from the tables of a lake version.
    Dataset {
        /// The version whose tables were read.
        from: Version,
        /// Fingerprint of the phase files.
        phases: String,
    },
}

/// What a pull noted of a source table besides its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceMark {
    /// The table's oid, which a table made anew under the same name does not have.
    pub oid: u32,
    /// The numbers of its columns, which they keep when they are renamed.
    pub columns: BTreeMap<String, i16>,
    /// The columns that tell its rows apart.
    pub key: Vec<String>,
    /// How its rows are spread over folders.
    pub partition_by: Vec<PartitionTransform>,
    /// What the snapshot had seen for sure; none where the server did not tell.
    pub watermark: Option<SnapshotMark>,
}

/// What a snapshot had seen for sure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotMark {
    /// The server, its history and the database.
    pub server: String,
    /// Every transaction below had ended; 64 bits, so it never wraps around.
    pub xmin: u64,
    /// Every transaction that began earlier had ended: RFC 3339 in UTC; none when not all sessions could be seen.
    pub time: Option<String>,
}

/// One Parquet file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// The path inside the lake.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Partition keys and values, such as `race_date_year` and `2024`.
    pub partition: BTreeMap<String, String>,
    /// Least and greatest value of the key and date columns, where the file has any.
    pub ranges: BTreeMap<String, ValueRange>,
}

impl DataFile {
    /// The object that holds it. Its path is what the store said, so it is not encoded again.
    ///
    /// # Errors
    /// [`LakeError::Read`] for a path that no store would give.
    pub fn object(&self) -> Result<Path, LakeError> {
        let failed = |source: object_store::path::Error| LakeError::Read {
            path: Path::from(self.path.as_str()),
            source: source.into(),
        };
        Path::parse(&self.path).map_err(failed)
    }
}

/// Least and greatest value of a column in a file: numbers as themselves, dates and times as days or microseconds
/// since 1970-01-01, text as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueRange {
    /// The least value.
    pub min: serde_json::Value,
    /// The greatest value.
    pub max: serde_json::Value,
}
