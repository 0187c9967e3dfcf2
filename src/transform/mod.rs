//! The phases: SQL files over views of one lake version, run by DuckDB in dependency order.
//!
//! The engine boundary is narrow: SQL text and table names go in, record batches come out.

mod check_file;
mod dictionary;
mod engine;
mod error;
mod memory;
mod phase;
mod relations;
mod runner;
mod statements;
mod views;

pub use check_file::{CheckFile, Severity};
pub use dictionary::describe_fields;
pub use engine::{Engine, EngineLimits, rows_as_json};
pub use error::TransformError;
pub use memory::KeptPages;
pub use phase::{DictionaryColumn, Phase, PhaseSet, Role};
pub use runner::{
    PhaseReport, WrittenTable, check_key, late_failure, load_data_tables, maker_of, run_phases, select_phases,
};
pub use views::{Sample, create_view, create_views};
