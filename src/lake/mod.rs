//! The lake: Parquet files on an object store, made visible only by manifests that never change.
//!
//! ```text
//! <lake>/
//!   manifest/00000000000000000007.json                 version 7: the whole truth about every table
//!   tables/<table>/v=7/<key>=<value>/part-….parquet    written before the manifest that names them
//!   runs/<run id>.json, runs/<run id>/<report>.json    what each run did, and what it found out
//!   racealpha.duckdb, lock                             local only
//! ```
//! A reader that opened version 7 is never disturbed by version 8: versions carry unchanged tables over by
//! reference. What a crash leaves behind is named by no manifest. Knows nothing about Postgres and DuckDB.

mod encoding;
mod error;
mod gc;
mod lock;
mod manifest;
mod partition;
mod publish;
mod reader;
mod store;
mod writer;

pub use encoding::FileEncoding;
pub use error::LakeError;
pub use gc::{GarbageFile, LakeGarbage, READING_TIME};
pub use lock::LakeLock;
pub use manifest::{DataFile, LakeTable, Manifest, Origin, SnapshotMark, SourceMark, ValueRange, Version};
pub use partition::{BadTransform, PartitionTransform};
pub use publish::Publication;
pub use reader::{read_file, read_table};
pub use store::Lake;
pub use writer::{TableLayout, TableWriter};
