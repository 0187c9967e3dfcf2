//! The COPY BINARY codec: bytes to fields and fields to bytes. No I/O, no async, no Arrow; never panics, whatever
//! bytes arrive.
//!
//! ```text
//! header   "PGCOPY\n" FF "\r\n" 00 | flags i32 | extension length i32 | extension
//! tuple    field count i16 | per field: length i32 (-1 = NULL) | bytes
//! trailer  field count i16 = -1
//! ```
//! All integers are big-endian. CopyData messages are one byte stream: their boundaries mean nothing.
//!
//! Source: PostgreSQL documentation, "COPY", section "Binary Format".
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod decode;
mod encode;
mod error;
mod numeric;
mod parts;
mod temporal;
mod text_forms;

pub use decode::{CopyDecoder, Field, TupleBlock};
pub use encode::*;
pub use error::{DecodeError, FieldError};
pub use numeric::{DecimalText, NumericDigits, NumericSign};
pub use parts::*;
pub use temporal::{IntervalParts, date_from_wire, interval_from_wire, time_from_wire, timestamp_from_wire};
pub use text_forms::*;

/// The eleven bytes every binary COPY stream starts with.
pub(crate) const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
