//! How the values of one array become fields: first how long they get, then what they are.

use arrow::array::{Array, ArrayAccessor, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::NullBuffer;
use arrow::compute::nullif;
use arrow::datatypes::DataType;

use crate::wire::{NULL_FIELD, ValueError};

use super::BlockError;
use super::form::Form;
use super::prepared::{Prepared, TEXT_VERSION};
use super::slots::{Slots, write_fixed};
use super::text::{HasNul, check_text};
use super::types::{with_bytes, with_text};

/// Encodes the values of one column, or of what is inside it.
#[derive(Debug)]
pub(super) struct FieldEncoder {
    pub(super) form: Form,
    not_null: bool,
    prepared: Prepared,
}

impl FieldEncoder {
    pub(super) fn new(form: Form, not_null: bool) -> Self {
        Self { form, not_null, prepared: Prepared::default() }
    }

    /// Adds the length of each row's field, length word included, to `lengths`; finds values that do not fit where
    /// that is cheapest here.
    pub(super) fn measure(&mut self, array: &ArrayRef, lengths: &mut [usize]) -> Result<(), BlockError> {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        if self.not_null {
            let first = match self.form {
                Form::Nulls => (!lengths.is_empty()).then_some(0),
                _ => nulls.and_then(|nulls| nulls.iter().position(|valid| !valid)),
            };
            if let Some(row) = first {
                return Err((row, ValueError::Null));
            }
        }
        match &mut self.form {
            Form::Nulls => add_fixed(lengths, None, 0),
            Form::Fixed(fixed) => add_fixed(lengths, nulls, fixed.width()),
            Form::Text { limit, versioned } => {
                with_text!(array, array => {
                    check_text(array, array.has_nul(), *limit)?;
                    add_lengths(lengths, nulls, rows_of(array).map(str::len), usize::from(*versioned));
                });
            }
            Form::Bytes => {
                with_bytes!(array, array => add_lengths(lengths, nulls, rows_of(array).map(<[u8]>::len), 0));
            }
            Form::Prepared(prepare) => {
                self.prepared.fill(prepare, array)?;
                self.prepared.add_lengths(lengths);
            }
            Form::List(list) => {
                list.fill(array, &mut self.prepared)?;
                self.prepared.add_lengths(lengths);
            }
            Form::Struct(group) => {
                group.fill(array, &mut self.prepared)?;
                self.prepared.add_lengths(lengths);
            }
        }
        Ok(())
    }

    /// Writes each row's field.
    pub(super) fn write(&self, array: &ArrayRef, slots: &mut Slots<'_>) -> Result<(), BlockError> {
        let nulls = array.nulls();
        match &self.form {
            Form::Nulls => slots.fill(None, std::iter::repeat(()), |()| Ok(NULL_FIELD)),
            Form::Fixed(fixed) => write_fixed(*fixed, array, slots),
            Form::Text { versioned, .. } => {
                let prefix: &[u8] = if *versioned { &[TEXT_VERSION] } else { &[] };
                with_text!(array, array => slots.fill_bytes(nulls, rows_of(array).map(str::as_bytes), prefix))
            }
            Form::Bytes => with_bytes!(array, array => slots.fill_bytes(nulls, rows_of(array), &[])),
            Form::Prepared(_) | Form::List(_) | Form::Struct(_) => {
                let mut start = 0;
                for (place, end) in slots.places.iter_mut().zip(&self.prepared.ends) {
                    Slots::put(slots.bytes, place, &self.prepared.bytes[start..*end]);
                    start = *end;
                }
                Ok(())
            }
        }
    }

    /// Puts null in the place of values that do not fit; answers how many there were.
    pub(super) fn null_misfits(&mut self, array: &mut ArrayRef) -> u64 {
        let mut misfits = vec![false; array.len()];
        let mut encoded = Prepared::default();
        let mut count = 0;
        while let Err((row, _)) = self.encode(array, &mut encoded) {
            // One that is null already does not fit for a reason that null does not mend; encoding it says which.
            let Some(misfit) = misfits.get_mut(row).filter(|misfit| !**misfit) else { break };
            *misfit = true;
            match nullif(array, &BooleanArray::from(misfits.clone())) {
                Ok(nulled) => *array = nulled,
                Err(_) => break,
            }
            count += 1;
        }
        count
    }

    /// Encodes a whole array: its fields one after another, and where each ends.
    pub(super) fn encode(&mut self, array: &ArrayRef, into: &mut Prepared) -> Result<(), BlockError> {
        into.ends.clear();
        into.ends.resize(array.len(), 0);
        self.measure(array, &mut into.ends)?;
        let mut end = 0;
        for place in &mut into.ends {
            let length = *place;
            *place = end;
            end += length;
        }
        into.bytes.clear();
        into.bytes.resize(end, 0);
        // Every field moves its row's place to the field's end.
        self.write(array, &mut Slots { bytes: &mut into.bytes, places: &mut into.ends })
    }
}

/// All values of an array, whatever stands in the null slots too.
pub(super) fn rows_of<A: ArrayAccessor + Copy>(array: A) -> impl Iterator<Item = A::Item> {
    (0..array.len()).map(move |row| array.value(row))
}

fn add_fixed(lengths: &mut [usize], nulls: Option<&NullBuffer>, width: usize) {
    match nulls {
        None => lengths.iter_mut().for_each(|length| *length += NULL_FIELD.len() + width),
        Some(nulls) => {
            for (length, valid) in lengths.iter_mut().zip(nulls.iter()) {
                *length += NULL_FIELD.len() + if valid { width } else { 0 };
            }
        }
    }
}

fn add_lengths(lengths: &mut [usize], nulls: Option<&NullBuffer>, values: impl Iterator<Item = usize>, prefix: usize) {
    for (row, (length, value)) in lengths.iter_mut().zip(values).enumerate() {
        let null = nulls.is_some_and(|nulls| nulls.is_null(row));
        *length += NULL_FIELD.len() + if null { 0 } else { prefix + value };
    }
}
