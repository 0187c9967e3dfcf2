//! Fields whose length is known only once they are built: numerics, and UUIDs as text.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};

use crate::wire::{NULL_FIELD, ValueError, length_word, put_numeric, put_numeric_text};

use super::form::Prepare;
use super::text::check_text_value;
use super::types::{with_floats, with_integers, with_text};
use super::{BlockError, rows_of};

/// Fields of one column of a block that had to be built before their length was known.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) bytes: Vec<u8>,
    pub(super) ends: Vec<usize>,
}

impl Prepared {
    pub(super) fn fill(&mut self, prepare: Prepare, array: &ArrayRef) -> Result<(), BlockError> {
        match prepare {
            Prepare::IntAsNumeric(limits) => with_integers!(array, array => {
                self.build(array.nulls(), array.values().iter(), |out, value| {
                    put_numeric(out, i128::from(*value), 0, limits)
                })
            }),
            Prepare::Decimal { scale, limits } => {
                let values = array.as_primitive::<Decimal128Type>().values().iter();
                self.build(array.nulls(), values, |out, value| put_numeric(out, *value, scale, limits))
            }
            Prepare::FloatAsNumeric(limits) => {
                let mut text = String::new();
                with_floats!(array, array => self.build(array.nulls(), array.values().iter(), |out, value| {
                    use std::fmt::Write;
                    text.clear();
                    // The shortest digits that read back as the same number; writing to a String cannot fail.
                    if value.is_finite() {
                        let _ = write!(text, "{value:e}");
                    } else {
                        let _ = write!(text, "{value}");
                    }
                    put_numeric_text(out, &text, limits)
                }))
            }
            Prepare::TextAsNumeric(limits) => with_text!(array, array => {
                self.build(array.nulls(), rows_of(array), |out, text| put_numeric_text(out, text, limits))
            }),
            Prepare::UuidAsText { limit } => {
                self.build(array.nulls(), rows_of(array.as_fixed_size_binary()), |out, bytes| {
                    let mut text = String::with_capacity(36);
                    for (at, byte) in bytes.iter().enumerate() {
                        use std::fmt::Write;
                        let hyphen = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
                        let _ = write!(text, "{hyphen}{byte:02x}");
                    }
                    check_text_value(&text, limit)?;
                    out.extend_from_slice(&length_word(text.len())?);
                    out.extend_from_slice(text.as_bytes());
                    Ok(())
                })
            }
        }
    }

    fn build<T>(
        &mut self,
        nulls: Option<&NullBuffer>,
        values: impl Iterator<Item = T>,
        mut put: impl FnMut(&mut Vec<u8>, T) -> Result<(), ValueError>,
    ) -> Result<(), BlockError> {
        self.bytes.clear();
        self.ends.clear();
        for (row, value) in values.enumerate() {
            if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                self.bytes.extend_from_slice(&NULL_FIELD);
            } else {
                put(&mut self.bytes, value).map_err(|reason| (row, reason))?;
            }
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }
}
