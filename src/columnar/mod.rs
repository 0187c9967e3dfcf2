//! Wire fields to Arrow arrays and back. Never does I/O and never panics, whatever bytes arrive.

mod builder;
mod mapping;
mod order;
mod rows;

pub use builder::{BatchBuilder, BuildError, NumericSeen};
pub use mapping::{PG_TYPE_KEY, field_for, schema_for};
pub use order::sort_batches;
pub use rows::*;
