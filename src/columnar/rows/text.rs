//! Text that Postgres would refuse or cut: NUL characters, and more characters than the column holds.

use arrow::array::{ArrayAccessor, GenericByteArray, GenericByteViewArray};
use arrow::datatypes::{ArrowNativeType, ByteArrayType, ByteViewType};

use crate::wire::ValueError;

use super::BlockError;

/// Whether a text array may contain a NUL: exact for a column in one buffer, a guess to be checked for views.
pub(super) trait HasNul {
    fn has_nul(&self) -> bool;
}

impl<T: ByteArrayType> HasNul for GenericByteArray<T> {
    fn has_nul(&self) -> bool {
        let offsets = self.value_offsets();
        let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return false };
        self.value_data().get(first.as_usize()..last.as_usize()).is_some_and(|bytes| bytes.contains(&0))
    }
}

impl<T: ByteViewType + ?Sized> HasNul for GenericByteViewArray<T> {
    fn has_nul(&self) -> bool {
        true
    }
}

pub(super) fn check_text<'a, A: ArrayAccessor<Item = &'a str> + Copy>(
    array: A,
    has_nul: bool,
    limit: Option<usize>,
) -> Result<(), BlockError> {
    if !has_nul && limit.is_none() {
        return Ok(());
    }
    for row in (0..array.len()).filter(|row| array.is_valid(*row)) {
        check_text_value(array.value(row), limit).map_err(|reason| (row, reason))?;
    }
    Ok(())
}

pub(super) fn check_text_value(text: &str, limit: Option<usize>) -> Result<(), ValueError> {
    if text.as_bytes().contains(&0) {
        return Err(ValueError::Nul);
    }
    match limit {
        // Bytes are never fewer than characters.
        Some(limit) if text.len() > limit => match text.chars().count() {
            chars if chars > limit => Err(ValueError::TooLong { chars, limit }),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}
