//! What reading and writing Postgres share: sessions, quoting, the catalogue, and a private server for demo and tests.

mod catalog;
mod connect;
mod copy_tap;
mod encryption;
mod ident;
mod local_server;

pub use catalog::{CatalogError, RelationInfo, describe_table};
pub use connect::{ConnectError, DatabaseUrl, Session, is_connection_lost};
pub use copy_tap::CopyOut;
pub use ident::{quote_ident, quote_literal, quote_table};
pub use local_server::*;
