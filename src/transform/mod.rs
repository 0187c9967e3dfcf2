//! The phases: SQL files over views of one lake version, run by DuckDB in dependency order.
//!
//! The engine boundary is narrow: SQL text and table names go in, record batches come out.

mod engine;
mod error;
mod phase;
mod runner;
mod views;

pub use engine::{Engine, EngineLimits, rows_as_json};
pub use error::TransformError;
pub use phase::{CheckFile, DictionaryColumn, Phase, PhaseSet, Role, Severity};
pub use runner::{PhaseReport, WrittenTable, load_data_tables, run_phases, select_phases};
pub use views::{Sample, create_views};
