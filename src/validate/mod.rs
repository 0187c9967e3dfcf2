//! Checks of the lake's tables and of the dataset. Knows nothing about Postgres: what the source counted and what
//! the phases did comes from the manifest.

mod audit;
mod check;
mod report;

pub use audit::{AUDIT_SOURCES, AuditPlan, AuditTable, MakeDataset, audit};
pub use check::{BUILT_IN_CHECKS, Limits, Provenance, check_dataset, check_sources};
pub use report::{Finding, Report, Verdict};
