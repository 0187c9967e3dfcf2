//! The dataset to Postgres: loaded beside the live table, dressed in everything attached to it, and put in its place by
//! one transaction that renames.
//!
//! ```text
//!            run schema _push_<run>                        schema of the live table
//!   COPY ──▶ staging table ── indexes, grants, … ──┐
//!                                                  │  one message, locks for milliseconds
//!                                    verified ─────┴──▶ staging becomes live
//!                                                       live becomes the backup
//!   dropped ◀────────────────────────────────────────── the former backup
//! ```
//!
//! Promises:
//! - Readers never see an error, an empty or half-loaded table, or none; they wait at most for the lock budget and the
//!   batch.
//! - What is attached to the live table is on the new one, or the push is refused before anything is loaded, with the
//!   full list of what stands in the way.
//! - A fault at any moment leaves the old state or the new state, and the program finds out which.
//! - The former live table is the backup until the next push, and [`rollback()`] puts it back.
//!
//! A target can also be one that other programs own and write ([`TargetMode::InsertMissing`]): then rows whose key it
//! lacks are inserted in one transaction, and there is nothing to swap or to roll back.
//!
//! Where something attached to the table cannot be carried over, [`merge()`] changes only rows that differ, in one
//! transaction that readers do not wait for; its backup is a copy, and a rollback merges it back.
//!
//! Absent on purpose: nothing here truncates the live table, ends other people's sessions, or drops anything
//! with `CASCADE`.

mod after;
mod attributes;
mod backup;
mod batch;
mod blockers;
mod carried;
mod columns;
mod copy_in;
mod dependents;
mod error;
mod followers;
mod foreign_keys;
mod gc;
mod generations;
mod insert_missing;
mod key_index;
mod live_views;
mod lock_retry;
mod materialized_views;
mod merge;
mod misfits;
mod options;
mod orphans;
mod plan;
mod rebind;
mod replace;
mod resume;
mod rollback;
mod run_schema;
mod session;
mod staging;
mod swap;
mod tally;
mod verify;
mod writes;

pub use backup::{BackupStatus, TargetStatus, backup_status, target_status};
pub use columns::{ColumnMatch, Converted};
pub use copy_in::Dataset;
pub use error::{Blocker, BoxError, PushError};
pub use gc::{Collected, RETENTION, collect_garbage, leftovers};
pub use generations::{DropReport, backups, drop_backups};
pub use insert_missing::{InsertReport, insert_missing};
pub use live_views::{LiveViews, ViewsReport, update_views};
pub use merge::{MergeCounts, MergeReport, choose, merge};
pub use misfits::Misfits;
pub use options::{MergeOptions, MissingColumns, NewColumns, TargetMode, TargetOptions};
pub use orphans::{LeftAt, Leftover};
pub use plan::{PushMode, PushPlan, plan};
pub use replace::{BackupMade, PushReport, push};
pub use resume::resume;
pub use rollback::{RollbackReport, rollback};
pub use swap::SwapReport;
pub use verify::least_rows;
