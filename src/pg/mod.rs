//! What reading and writing Postgres share: sessions, quoting, the catalogue, and a private server for demo and tests.

mod catalog;
mod connect;
mod conninfo;
mod copy_tap;
mod database_url;
mod encryption;
mod ident;
mod local_server;
mod password_file;
mod pooler;
mod service_file;
mod session;
mod types;

pub use catalog::{CatalogError, Leaf, RelationInfo, SplitKey, SplitKind, describe_table, has_heap, leaves};
pub use connect::{ConnectError, is_connection_lost};
pub use copy_tap::CopyOut;
pub use database_url::DatabaseUrl;
pub use ident::{quote_ident, quote_literal, quote_table};
pub use local_server::*;
pub use session::Session;
pub use types::{ResolvedType, TypeCatalog};
