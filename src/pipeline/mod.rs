//! Joins the steps: each command of the program is one function here, over one [`Context`]. Knows nothing about
//! arguments and HTTP.

mod audit;
mod demo;
mod drift;
mod error;
mod export;
mod features;
mod gc;
mod incremental;
mod notify;
mod preview;
mod pull;
mod pull_journal;
mod pull_queue;
mod pull_table;
mod pull_worker;
mod push;
mod query;
mod rebuild;
mod rows;
mod run;
mod shift;
mod status;
mod table_files;
mod test_phase;
mod transform;
mod validate;

pub use demo::{DemoOptions, DemoReport, KeptServer, TargetLook, demo};
pub use drift::ColumnDrift;
pub use error::{Failure, PipelineError};
pub use export::{ExportReport, export, export_into};
pub use features::{FeatureReport, features};
pub use gc::{GcOptions, GcReport, gc};
pub use incremental::{Merged, PullMode};
pub use preview::{ColumnChange, PreviewReport, preview};
pub use pull::{PullOptions, PullReport, PulledTable, pull};
pub use push::{PushOptions, Pushed, drop_backups, push, resume, rollback};
pub use query::{QueryLimits, query, query_into};
pub use rebuild::{RebuildReport, rebuild};
pub use rows::RowFormat;
pub use run::{Context, Run, RunId, RunRecord, RunState, StepRecord, chain, history, run_record};
pub use shift::Quantiles;
pub use status::{LakeTableStatus, ServerStatus, StatusReport, status};
pub use test_phase::{ColumnNulls, TestReport, TestedTable, test_phase};
pub use transform::{DatasetReport, TransformOptions, TransformReport, transform};
pub use validate::{ValidateOptions, ValidateReport, validate};
