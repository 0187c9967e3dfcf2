//! Wire fields to Arrow arrays and back. Never does I/O and never panics, whatever bytes arrive.

mod builder;
mod column;
mod mapping;
mod nested;
mod order;
mod policy;
mod rows;
mod values;

pub use builder::{BatchBuilder, BuildError, NumericSeen};
pub use mapping::{PG_KIND_KEY, PG_TYPE_KEY, PG_VECTOR_LENGTH_KEY, field_for, kind, schema_for};
pub use order::{SortedBatches, sort_batches};
pub use policy::{ArrayShape, ColumnPolicy, OnMisfit, PolicyError, UnboundedNumeric};
pub use rows::*;
