//! Integration tests against the real thing: private Postgres servers, the real program, real kills.

mod audit;
mod bad_input;
mod cli;
mod connections;
mod drift;
mod encode;
mod fixtures;
mod incremental;
mod insert_missing;
mod live_views;
mod local_server;
mod oracle;
mod poolers;
mod push;
mod rebuild;
mod reference;
mod retry;
mod sources;
mod sql_phases;
mod support;
mod types;
