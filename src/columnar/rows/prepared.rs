//! Fields whose length is known only once they are built: numerics, and UUIDs as text.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};

use crate::wire::{
    NULL_FIELD, ValueError, length_word, put_address, put_bits, put_macaddr, put_rounded, put_rounded_text,
    single_byte_from_text, time_to_wire, timetz_from_text,
};

use super::BlockError;
use super::field::rows_of;
use super::form::{Prepare, TextTarget};
use super::text::check_text_value;
use super::types::{with_floats, with_integers, with_text};

/// Bytes of a `name` at most: `NAMEDATALEN` less the zero at its end.
const NAME_BYTES_MAX: usize = 63;
/// The version of the format that `jsonb_recv` and its like know.
pub(super) const TEXT_VERSION: u8 = 1;

/// Fields of one column of a block that had to be built before their length was known.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) bytes: Vec<u8>,
    pub(super) ends: Vec<usize>,
}

impl Prepared {
    pub(super) fn fill(&mut self, prepare: &Prepare, array: &ArrayRef) -> Result<(), BlockError> {
        match *prepare {
            Prepare::IntAsNumeric { limits, rounding } => with_integers!(array, array => {
                self.build(array.nulls(), array.values().iter(), |out, value| {
                    put_rounded(out, i128::from(*value), 0, limits, rounding)
                })
            }),
            Prepare::Decimal { scale, limits, rounding } => {
                let values = array.as_primitive::<Decimal128Type>().values().iter();
                self.build(array.nulls(), values, |out, value| put_rounded(out, *value, scale, limits, rounding))
            }
            Prepare::FloatAsNumeric { limits, rounding } => {
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
                    put_rounded_text(out, &text, limits, rounding)
                }))
            }
            Prepare::TextAsNumeric { limits, rounding } => with_text!(array, array => {
                self.build(array.nulls(), rows_of(array), |out, text| put_rounded_text(out, text, limits, rounding))
            }),
            Prepare::Parsed(ref target) => with_text!(array, array => {
                self.build(array.nulls(), rows_of(array), |out, text| put_field(out, |out| target.put(out, text)))
            }),
            Prepare::Stripped { limit, versioned } => with_text!(array, array => {
                self.build(array.nulls(), rows_of(array), |out, text| {
                    let text = text.replace('\0', "");
                    check_text_value(&text, limit)?;
                    put_field(out, |out| {
                        out.extend(versioned.then_some(TEXT_VERSION));
                        out.extend_from_slice(text.as_bytes());
                        Ok(())
                    })
                })
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

    /// Adds the length of each field to its row's.
    pub(super) fn add_lengths(&self, lengths: &mut [usize]) {
        let mut start = 0;
        for (length, end) in lengths.iter_mut().zip(&self.ends) {
            *length += end - start;
            start = *end;
        }
    }

    /// The bytes of a field, length word included.
    pub(super) fn field(&self, index: usize) -> &[u8] {
        self.fields(index, index + 1)
    }

    /// The bytes of some fields in a row, length words included.
    pub(super) fn fields(&self, from: usize, to: usize) -> &[u8] {
        let end = |index: usize| index.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0);
        self.bytes.get(end(from)..end(to)).unwrap_or_default()
    }

    pub(super) fn build<T>(
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

/// Appends a field whose length is known when it is written.
pub(super) fn put_field(
    out: &mut Vec<u8>,
    value: impl FnOnce(&mut Vec<u8>) -> Result<(), ValueError>,
) -> Result<(), ValueError> {
    let start = out.len();
    out.extend_from_slice(&NULL_FIELD);
    value(out)?;
    let length = length_word(out.len() - start - NULL_FIELD.len())?;
    out[start..start + length.len()].copy_from_slice(&length);
    Ok(())
}

impl TextTarget {
    /// Appends the value that the text stands for.
    fn put(&self, out: &mut Vec<u8>, text: &str) -> Result<(), ValueError> {
        match self {
            Self::Name => {
                check_text_value(text, None)?;
                if text.len() > NAME_BYTES_MAX {
                    return Err(ValueError::LongName { bytes: text.len() });
                }
                out.extend_from_slice(text.as_bytes());
                Ok(())
            }
            Self::Label(labels) => {
                let label = labels.iter().find(|label| *label == text).ok_or(ValueError::Label)?;
                out.extend_from_slice(label.as_bytes());
                Ok(())
            }
            Self::SingleByte => {
                out.push(single_byte_from_text(text)?);
                Ok(())
            }
            Self::TimeTz { fraction_digits, rounding } => {
                let (micros, west) = timetz_from_text(text)?;
                let micros = time_to_wire(rounding.fraction(micros, *fraction_digits)?)?;
                out.extend_from_slice(&micros.to_be_bytes());
                out.extend_from_slice(&west.to_be_bytes());
                Ok(())
            }
            Self::Inet => put_address(out, text, false),
            Self::Cidr => put_address(out, text, true),
            Self::Macaddr => put_macaddr::<6>(out, text),
            Self::Macaddr8 => put_macaddr::<8>(out, text),
            Self::Bits { bits, max_bits } => put_bits(out, text, *bits, *max_bits),
        }
    }
}
