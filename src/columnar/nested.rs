//! Columns whose fields hold other fields. A block's fields are cut into the bytes of their parts, and the parts go to
//! builders of their own, column by column like the rest: every type has one builder, wherever it stands.

use std::mem;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, ListArray, MapArray, NullBufferBuilder, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, FieldRef, Fields};

use super::column::ColumnBuilder;
use super::mapping::{data_type, hstore_entries, struct_fields};
use super::policy::Misfits;
use crate::schema::{PgType, ShapeKind};
use crate::wire::{
    FieldError, array_parts, composite_parts, hstore_pair, hstore_parts, multirange_parts, path_parts, polygon_parts,
    range_parts, tid_parts, vector_parts,
};

/// Elements of one column and batch at most: Arrow's lists count with 32 bits.
const ELEMENTS_MAX: usize = i32::MAX as usize;

type Parts<'a> = Vec<Option<&'a [u8]>>;
/// The place of a bad value among those appended, or in the batch, and what is wrong with it.
type Misplaced = (usize, FieldError);

/// The same memory for parts of another block.
fn recycled<'a>(mut parts: Parts<'_>) -> Parts<'a> {
    parts.clear();
    // Nothing is there to be mapped; collecting in place keeps the memory.
    parts.into_iter().map(|_| None).collect()
}

/// How a field is cut into elements.
#[derive(Debug)]
enum ListShape {
    Array { element_oid: u32, lower_bound: i32 },
    Multirange,
    Pairs,
    Points,
    Vector { width: usize, length: Option<usize> },
}

/// The lists of one dimension: where each begins and ends.
#[derive(Debug)]
struct Level {
    offsets: Vec<i32>,
    element: FieldRef,
}

impl Level {
    fn new(element: FieldRef) -> Self {
        Self { offsets: vec![0], element }
    }

    fn push(&mut self, length: usize) -> Result<(), FieldError> {
        let last = self.offsets.last().copied().unwrap_or(0);
        let end = usize::try_from(last).ok().and_then(|last| i32::try_from(last + length).ok());
        self.offsets.push(end.ok_or(FieldError::Enormous(ELEMENTS_MAX >> 20))?);
        Ok(())
    }

    /// The list that holds an element.
    fn list_of(&self, element: usize) -> usize {
        let begins_by = |offset: &i32| usize::try_from(*offset).is_ok_and(|offset| offset <= element);
        self.offsets.partition_point(begins_by).saturating_sub(1)
    }

    fn lists(&self) -> usize {
        self.offsets.len() - 1
    }

    fn last(&self) -> usize {
        self.offsets.last().and_then(|last| usize::try_from(*last).ok()).unwrap_or(0)
    }

    fn take(&mut self) -> OffsetBuffer<i32> {
        let offsets = mem::replace(&mut self.offsets, vec![0]);
        OffsetBuffer::new(ScalarBuffer::from(offsets))
    }
}

/// Builds lists: arrays of any dimension, multiranges, `hstore`, polygons, vectors.
#[derive(Debug)]
pub(super) struct ListBuilder {
    shape: ListShape,
    /// One per dimension, outermost first.
    levels: Vec<Level>,
    validity: NullBufferBuilder,
    element: ColumnBuilder,
    scratch: Parts<'static>,
}

impl ListBuilder {
    pub(super) fn new(pg_type: &PgType, misfits: Misfits) -> Self {
        let (shape, element) = match pg_type {
            PgType::Array { element, lower_bound, .. } => (
                ListShape::Array { element_oid: element.oid, lower_bound: *lower_bound },
                ColumnBuilder::new(&element.pg_type, misfits),
            ),
            PgType::Multirange(of) => (ListShape::Multirange, ColumnBuilder::new(&PgType::Range(of.clone()), misfits)),
            PgType::Hstore => (ListShape::Pairs, ColumnBuilder::Struct(Box::new(StructBuilder::pair(misfits)))),
            PgType::HalfVector { dimensions } => {
                (ListShape::Vector { width: 2, length: length(*dimensions) }, ColumnBuilder::float2())
            }
            PgType::Vector { dimensions } => (
                ListShape::Vector { width: 4, length: length(*dimensions) },
                ColumnBuilder::new(&PgType::Float4, misfits),
            ),
            _ => (ListShape::Points, ColumnBuilder::new(&PgType::Shape(ShapeKind::Point), misfits)),
        };
        let mut levels = Vec::new();
        let mut list = data_type(pg_type);
        while let DataType::List(inner) | DataType::Map(inner, _) = list {
            levels.push(Level::new(Arc::clone(&inner)));
            // What is below the dimensions of this type belongs to the element.
            list = match pg_type {
                PgType::Array { dimensions, .. } if levels.len() < usize::from(*dimensions) => {
                    inner.data_type().clone()
                }
                _ => break,
            };
        }
        Self { shape, levels, validity: NullBufferBuilder::new(0), element, scratch: Parts::new() }
    }

    pub(super) fn replaced(&self) -> u64 {
        self.element.replaced()
    }

    pub(super) fn append<'a>(&mut self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Result<(), Misplaced> {
        let rows_before = self.levels.first().map_or(0, Level::lists);
        let elements_before = self.levels.last().map_or(0, Level::last);
        let mut elements: Parts<'a> = recycled(mem::take(&mut self.scratch));
        for (row, value) in values.enumerate() {
            self.validity.append(value.is_some());
            self.split(value, &mut elements).map_err(|reason| (row, reason))?;
        }
        self.element
            .append(elements.iter().copied())
            .map_err(|(at, reason)| (self.row_of(elements_before + at) - rows_before, reason))?;
        self.scratch = recycled(elements);
        Ok(())
    }

    /// Cuts one field into elements, and notes the lists they are in.
    fn split<'a>(&mut self, value: Option<&'a [u8]>, elements: &mut Parts<'a>) -> Result<(), FieldError> {
        let before = elements.len();
        let Some(field) = value else { return self.push_list(0) };
        match &self.shape {
            ListShape::Array { element_oid, lower_bound } => {
                let lengths = array_parts(field, *element_oid, self.levels.len(), *lower_bound, elements)?;
                if lengths.as_slice().is_empty() {
                    return self.push_list(0);
                }
                let mut lists = 1;
                for (level, length) in self.levels.iter_mut().zip(lengths.as_slice()) {
                    for _ in 0..lists {
                        level.push(*length)?;
                    }
                    lists *= length;
                }
                return Ok(());
            }
            ListShape::Multirange => multirange_parts(field, elements)?,
            ListShape::Pairs => hstore_parts(field, elements)?,
            ListShape::Points => polygon_parts(field, elements)?,
            ListShape::Vector { width, length } => vector_parts(field, *width, *length, elements)?,
        }
        self.push_list(elements.len() - before)
    }

    /// A list of the outermost dimension; an empty one has none of the inner ones.
    fn push_list(&mut self, length: usize) -> Result<(), FieldError> {
        self.levels.first_mut().map_or(Ok(()), |level| level.push(length))
    }

    /// The row of the batch that an element belongs to.
    fn row_of(&self, element: usize) -> usize {
        self.levels.iter().rev().fold(element, |at, level| level.list_of(at))
    }

    pub(super) fn finish(&mut self) -> Result<ArrayRef, Misplaced> {
        let mut array = self.element.finish().map_err(|(at, reason)| (self.row_of(at), reason))?;
        let mut nulls: Option<NullBuffer> = self.validity.finish();
        for (depth, level) in self.levels.iter_mut().enumerate().rev() {
            let nulls = if depth == 0 { nulls.take() } else { None };
            let offsets = level.take();
            array = match self.shape {
                ListShape::Pairs => {
                    Arc::new(MapArray::new(hstore_entries(), offsets, array.as_struct().clone(), nulls, false))
                }
                _ => Arc::new(ListArray::new(Arc::clone(&level.element), offsets, array, nulls)),
            };
        }
        Ok(array)
    }
}

fn length(dimensions: Option<u32>) -> Option<usize> {
    dimensions.and_then(|dimensions| usize::try_from(dimensions).ok())
}

/// How a field is cut into one part per member.
#[derive(Debug)]
enum StructShape {
    Composite { oids: Vec<u32> },
    Range,
    Path,
    Tid,
    Numbers,
    Pair,
}

/// Builds groups: rows, ranges, geometric types, pairs of `hstore`.
#[derive(Debug)]
pub(super) struct StructBuilder {
    shape: StructShape,
    fields: Fields,
    validity: NullBufferBuilder,
    members: Vec<ColumnBuilder>,
    scratch: Vec<Parts<'static>>,
}

impl StructBuilder {
    pub(super) fn new(pg_type: &PgType, misfits: Misfits) -> Self {
        let member = |pg_type: &PgType| ColumnBuilder::new(pg_type, misfits);
        let (shape, members) = match pg_type {
            PgType::Composite { fields } => (
                StructShape::Composite { oids: fields.iter().map(|field| field.of.oid).collect() },
                fields.iter().map(|field| member(&field.of.pg_type)).collect(),
            ),
            PgType::Range(of) => {
                let bounds = [&of.pg_type, &of.pg_type, &PgType::Bool, &PgType::Bool, &PgType::Bool];
                (StructShape::Range, bounds.into_iter().map(member).collect())
            }
            PgType::Path => (StructShape::Path, vec![member(&PgType::Bool), member(&PgType::Polygon)]),
            PgType::Tid => (StructShape::Tid, vec![member(&PgType::Oid), ColumnBuilder::unsigned2()]),
            PgType::Shape(kind) => {
                (StructShape::Numbers, kind.parts().iter().map(|_| member(&PgType::Float8)).collect::<Vec<_>>())
            }
            _ => return Self::pair(misfits),
        };
        Self::of(shape, struct_fields(pg_type), members)
    }

    /// Key and value of an `hstore`.
    pub(super) fn pair(misfits: Misfits) -> Self {
        let member = || ColumnBuilder::new(&PgType::Text, misfits);
        let fields = match hstore_entries().data_type() {
            DataType::Struct(fields) => fields.clone(),
            _ => Fields::empty(),
        };
        Self::of(StructShape::Pair, fields, vec![member(), member()])
    }

    fn of(shape: StructShape, fields: Fields, members: Vec<ColumnBuilder>) -> Self {
        let scratch = members.iter().map(|_| Parts::new()).collect();
        Self { shape, fields, validity: NullBufferBuilder::new(0), members, scratch }
    }

    pub(super) fn replaced(&self) -> u64 {
        self.members.iter().map(ColumnBuilder::replaced).sum()
    }

    pub(super) fn append<'a>(&mut self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Result<(), Misplaced> {
        let mut parts: Vec<Parts<'a>> = mem::take(&mut self.scratch).into_iter().map(recycled).collect();
        for (row, value) in values.enumerate() {
            self.validity.append(value.is_some());
            match value {
                Some(field) => self.shape.split(field, &mut parts).map_err(|reason| (row, reason))?,
                None => parts.iter_mut().for_each(|part| part.push(None)),
            }
        }
        for (member, part) in self.members.iter_mut().zip(&parts) {
            member.append(part.iter().copied())?;
        }
        self.scratch = parts.into_iter().map(recycled).collect();
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<ArrayRef, Misplaced> {
        let members = self.members.iter_mut().map(ColumnBuilder::finish).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(StructArray::new(self.fields.clone(), members, self.validity.finish())))
    }
}

impl StructShape {
    /// Adds one part to every member.
    fn split<'a>(&self, field: &'a [u8], members: &mut [Parts<'a>]) -> Result<(), FieldError> {
        let bool_field = |value: bool| -> Option<&'static [u8]> { Some(if value { &[1] } else { &[0] }) };
        match self {
            Self::Composite { oids } => composite_parts(field, oids, |index, part| {
                if let Some(member) = members.get_mut(index) {
                    member.push(part);
                }
            }),
            Self::Range => {
                let range = range_parts(field)?;
                let flags = [range.lower_inclusive, range.upper_inclusive, range.empty].map(bool_field);
                let parts = [range.lower, range.upper].into_iter().chain(flags);
                members.iter_mut().zip(parts).for_each(|(member, part)| member.push(part));
                Ok(())
            }
            Self::Path => {
                let (closed, points) = path_parts(field)?;
                members.iter_mut().zip([closed, points]).for_each(|(member, part)| member.push(Some(part)));
                Ok(())
            }
            Self::Tid => {
                let (block, offset) = tid_parts(field)?;
                members.iter_mut().zip([block, offset]).for_each(|(member, part)| member.push(Some(part)));
                Ok(())
            }
            Self::Numbers => {
                let (expected, numbers) = (8 * members.len(), field.chunks_exact(8));
                if field.len() != expected {
                    return Err(FieldError::Length { expected, found: field.len() });
                }
                members.iter_mut().zip(numbers).for_each(|(member, number)| member.push(Some(number)));
                Ok(())
            }
            Self::Pair => {
                let (key, value) = hstore_pair(field)?;
                members.iter_mut().zip([Some(key), value]).for_each(|(member, part)| member.push(part));
                Ok(())
            }
        }
    }
}
