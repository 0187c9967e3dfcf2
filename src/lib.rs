//! RaceAlpha rebuilds a machine-learning table away from the production database.
//!
//! ```text
//!             pull                          run (transform)            validate        push
//! Postgres ───────────▶ lake tables ───────────────────────▶ dataset ─────────▶ ok? ─────────▶ Postgres
//!  COPY BINARY   Arrow   Parquet     DuckDB views + phases     Parquet   checks        COPY BINARY  staging → swap
//! ```
//!
//! # Code map, in the order data flows
//!
//! | module | job | imports | knows nothing about |
//! | --- | --- | --- | --- |
//! | [`schema`], [`progress`] | names and types of tables; events and counters of a run | - | I/O |
//! | [`wire`] | COPY BINARY bytes to fields and back | - | Arrow, sockets |
//! | [`columnar`] | fields to Arrow arrays and back | wire | connections, files |
//! | [`pg`] | sessions, quoting, the catalogue, a private server | - | Arrow, the lake |
//! | [`source`] | one snapshot and what it has seen, ctid ranges, COPY streams | pg | Arrow, the lake |
//! | [`lake`] | Parquet files and the manifests that make them visible | - | Postgres, DuckDB |
//! | [`transform`] | phases over views of the lake | lake, what columnar notes about types | Postgres |
//! | [`validate`] | checks of tables and dataset, the point-in-time audit | transform, lake | Postgres |
//! | [`push`] | staging table, swap, rollback, views beside the live table | pg, columnar | the source, DuckDB |
//! | [`fixtures`] | a synthetic source | pg | the lake |
//! | [`pipeline`] | joins the steps into commands; runs and their records | all of the above, [`config`] | arguments, HTTP |
//! | [`server`] | the dashboard and its API | pipeline, [`config`], [`telemetry`] | arguments, the steps |
//! | [`cli`] | arguments, terminal, exit codes | pipeline, [`config`], [`telemetry`] | the steps |
//!
//! # Invariants
//!
//! - `wire` and `columnar` do no I/O and do not panic, whatever bytes arrive.
//! - A table in the lake is visible only through a manifest; a manifest is created once and never changed.
//! - `push` never writes the live table that it replaces: one transaction renames, and the backup stays until the next push
//!   succeeds. Into a table that others own it inserts the rows that are missing, and touches no other.
//! - Only `pipeline` names two steps. Phases read and write DuckDB only, but for those marked for Postgres. No row value is ever logged.
//! - Every queue, batch, retry and timeout has a bound, and the bound has a name.

pub mod cli;
pub mod columnar;
pub mod config;
pub mod fixtures;
pub mod lake;
pub mod pg;
pub mod pipeline;
pub mod progress;
pub mod push;
pub mod schema;
pub mod server;
pub mod source;
pub mod telemetry;
pub mod transform;
pub mod validate;
pub mod wire;
