//! Reading Postgres: one snapshot shared by several sessions, tables cut into ranges, COPY BINARY streams.

mod copy_out;
mod error;
mod held;
mod ranges;
mod rate;
mod retry;
mod snapshot;
mod split;
mod watermark;

pub use copy_out::{CopyLimits, CopyStream};
pub use error::SourceError;
pub use ranges::{CopyRange, has_pages, plan_ranges};
pub use rate::RateLimit;
pub use retry::{Backoff, Remedy};
pub use snapshot::{SharedSnapshot, SnapshotInfo};
pub use split::{Split, plan_split, split_kind};
pub use watermark::{Activity, Watermark};
