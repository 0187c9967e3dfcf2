//! Where the values of a column under construction are kept: plain vectors, because a value must not cost a call.

use arrow::array::{BinaryArray, PrimitiveArray, StringArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType};
use arrow::error::ArrowError;

use crate::wire::FieldError;

/// Bytes of one column and batch at most: a short field can become a long text (`1e131071` is ten bytes).
const RENDERED_BYTES_MAX: usize = 256 << 20;

/// Room for as much as the last batch held and some more: growing while values come would copy them again and again.
fn room_for_next<T>(last: usize) -> Vec<T> {
    Vec::with_capacity(last + last / 8)
}

/// Which values are not null, a byte each until the batch is finished: to set single bits costs more than all the rest.
#[derive(Debug, Default)]
struct Validity {
    is_valid: Vec<bool>,
    nulls: usize,
}

impl Validity {
    #[inline]
    fn push(&mut self, is_valid: bool) {
        self.is_valid.push(is_valid);
        self.nulls += usize::from(!is_valid);
    }

    fn finish(&mut self) -> Option<NullBuffer> {
        let next = room_for_next(self.is_valid.len());
        let is_valid = std::mem::replace(&mut self.is_valid, next);
        let nulls = std::mem::take(&mut self.nulls);
        (nulls > 0).then(|| is_valid.into())
    }
}

/// Values of one width.
#[derive(Debug)]
pub(super) struct Primitives<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    validity: Validity,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> Primitives<T> {
    pub(super) fn new() -> Self {
        Self::of(T::DATA_TYPE)
    }

    /// Values of a type with parameters.
    pub(super) fn of(data_type: DataType) -> Self {
        Self { values: Vec::new(), validity: Validity::default(), data_type }
    }

    /// Makes room for as many values.
    pub(super) fn reserve(&mut self, values: usize) {
        self.values.reserve(values);
        self.validity.is_valid.reserve(values);
    }

    #[inline]
    pub(super) fn push(&mut self, value: Option<T::Native>) {
        self.values.push(value.unwrap_or_default());
        self.validity.push(value.is_some());
    }

    pub(super) fn finish(&mut self) -> PrimitiveArray<T> {
        let next = room_for_next(self.values.len());
        let values = std::mem::replace(&mut self.values, next);
        PrimitiveArray::new(values.into(), self.validity.finish()).with_data_type(self.data_type.clone())
    }
}

/// Values of any length.
#[derive(Debug)]
pub(super) struct Bytes {
    values: Vec<u8>,
    /// Where each value ends; the first entry is where the first one begins.
    offsets: Vec<i32>,
    validity: Validity,
}

impl Bytes {
    pub(super) fn new() -> Self {
        Self { values: Vec::new(), offsets: vec![0], validity: Validity::default() }
    }

    /// Appends a column of values as they are.
    pub(super) fn extend<'a>(&mut self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Result<(), FieldError> {
        for value in values {
            self.values.extend_from_slice(value.unwrap_or_default());
            self.validity.push(value.is_some());
            self.end_value();
        }
        self.check(i32::MAX as usize)
    }

    /// Appends a column of texts, checked all at once while they are near; the error carries the bad one's place in it.
    pub(super) fn extend_text<'a>(
        &mut self,
        values: impl Iterator<Item = Option<&'a [u8]>>,
    ) -> Result<(), (usize, FieldError)> {
        let (begin, start) = (self.offsets.len() - 1, self.values.len());
        self.extend(values).map_err(|reason| (0, reason))?;
        let ends = &self.offsets[begin + 1..];
        let ends_well = |text: &str| ends.iter().all(|end| text.is_char_boundary(place(*end).saturating_sub(start)));
        if str::from_utf8(&self.values[start..]).is_ok_and(ends_well) {
            return Ok(());
        }
        Err((first_bad(&self.values, &self.offsets[begin..]), FieldError::Utf8))
    }

    pub(super) fn push_null(&mut self) {
        self.validity.push(false);
        self.end_value();
    }

    /// Appends what `render` writes at the end of all values.
    #[inline]
    pub(super) fn push_rendered<R>(
        &mut self,
        render: impl FnOnce(&mut Vec<u8>) -> Result<R, FieldError>,
    ) -> Result<R, FieldError> {
        let rendered = render(&mut self.values)?;
        self.check(RENDERED_BYTES_MAX)?;
        self.validity.push(true);
        self.end_value();
        Ok(rendered)
    }

    /// Notes where the last value ends. An end that is no offset is found out by [`Bytes::check`].
    #[inline]
    fn end_value(&mut self) {
        self.offsets.push(i32::try_from(self.values.len()).unwrap_or(i32::MAX));
    }

    #[inline]
    fn check(&self, bytes_max: usize) -> Result<(), FieldError> {
        if self.values.len() <= bytes_max { Ok(()) } else { Err(FieldError::Enormous(bytes_max >> 20)) }
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer, Option<NullBuffer>) {
        let mut offsets = room_for_next(self.offsets.len());
        offsets.push(0);
        let offsets = std::mem::replace(&mut self.offsets, offsets);
        let next = room_for_next(self.values.len());
        let values = std::mem::replace(&mut self.values, next);
        (OffsetBuffer::new(offsets.into()), values.into(), self.validity.finish())
    }

    pub(super) fn finish(&mut self) -> BinaryArray {
        let (offsets, values, nulls) = self.take();
        BinaryArray::new(offsets, values, nulls)
    }

    /// Checks all texts at once, which is much faster than one by one, and looks for the bad one only when there is one;
    /// its place comes with the error.
    pub(super) fn finish_text(&mut self) -> Result<StringArray, (usize, FieldError)> {
        let (offsets, values, nulls) = self.take();
        StringArray::try_new(offsets.clone(), values.clone(), nulls)
            .map_err(|_: ArrowError| (first_bad(&values, &offsets), FieldError::Utf8))
    }
}

fn place(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or(0)
}

/// The first value between two offsets that is not UTF-8.
fn first_bad(values: &[u8], offsets: &[i32]) -> usize {
    let is_bad = |ends: &[i32]| str::from_utf8(&values[place(ends[0])..place(ends[1])]).is_err();
    offsets.windows(2).position(is_bad).unwrap_or(0)
}
