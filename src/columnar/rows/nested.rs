//! Lists and groups, built from the fields of what is inside them: the elements of a whole block are encoded by the
//! encoder of their type, and each list or group then takes its share of those bytes.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, FieldRef, Fields, Float32Type};

use crate::schema::{ARRAY_DIMENSIONS_MAX, NO_TYPMOD, PgType};
use crate::wire::{NULL_FIELD, RangeParts, ValueError, range_flags};

use super::BlockError;
use super::field::FieldEncoder;
use super::form::{Fixed, Form};
use super::policy::PushPolicy;
use super::prepared::{Prepared, put_field};

/// Bytes of a length word.
const WORD: usize = 4;

/// What a list becomes.
#[derive(Debug)]
enum ListTarget {
    Array { element_oid: u32, lower_bound: i32 },
    Multirange,
    Pairs,
    Points,
    Vector { length: Option<usize> },
}

/// How lists become fields.
#[derive(Debug)]
pub(super) struct ListForm {
    target: ListTarget,
    depth: usize,
    element: FieldEncoder,
    elements: Prepared,
}

/// The lists of one level.
struct Lists {
    ends: Vec<usize>,
    nulls: Option<NullBuffer>,
}

impl Lists {
    /// The elements of list `index`.
    fn range(&self, index: usize) -> std::ops::Range<usize> {
        let end = |index: usize| self.ends.get(index).copied().unwrap_or(0);
        end(index)..end(index + 1)
    }
}

/// The element type of a list, if it is one.
fn inner(list: &DataType) -> Option<&FieldRef> {
    match list {
        DataType::List(inner) | DataType::LargeList(inner) | DataType::FixedSizeList(inner, _) => Some(inner),
        _ => None,
    }
}

/// The lists of an array, with ends that count from the first list's beginning, and their elements.
fn lists(array: &ArrayRef) -> Result<(Lists, ArrayRef), ValueError> {
    let (ends, values): (Vec<usize>, ArrayRef) = match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let ends = list.value_offsets().iter().map(|end| usize::try_from(*end).unwrap_or(0)).collect();
            (ends, Arc::clone(list.values()))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let ends = list.value_offsets().iter().map(|end| usize::try_from(*end).unwrap_or(0)).collect();
            (ends, Arc::clone(list.values()))
        }
        DataType::FixedSizeList(_, length) => {
            let length = usize::try_from(*length).map_err(|_| ValueError::OutOfRange)?;
            ((0..=array.len()).map(|index| index * length).collect(), Arc::clone(array.as_fixed_size_list().values()))
        }
        _ => {
            let map = array.as_map();
            let ends = map.value_offsets().iter().map(|end| usize::try_from(*end).unwrap_or(0)).collect();
            (ends, Arc::new(map.entries().clone()))
        }
    };
    let (first, last) = (ends.first().copied().unwrap_or(0), ends.last().copied().unwrap_or(0));
    let values = values.slice(first, last - first);
    let ends = ends.into_iter().map(|end| end - first).collect();
    Ok((Lists { ends, nulls: array.nulls().cloned() }, values))
}

impl ListForm {
    pub(super) fn of(from: &DataType, to: &PgType, policy: PushPolicy) -> Option<Self> {
        let (target, depth, element) = match to {
            PgType::Array { element, lower_bound, .. } => {
                let mut depth = 1;
                let mut values = inner(from)?.data_type();
                // An array whose elements are arrays too, by way of a domain, keeps their level.
                while let Some(next) = inner(values).filter(|_| !element.pg_type.is_list()) {
                    values = next.data_type();
                    depth += 1;
                }
                let target = ListTarget::Array { element_oid: element.oid, lower_bound: *lower_bound };
                (target, depth, Form::encoder(values, &element.pg_type, element.typmod, policy)?)
            }
            PgType::Multirange(of) => {
                let ranges = Form::encoder(inner(from)?.data_type(), &PgType::Range(of.clone()), NO_TYPMOD, policy)?;
                (ListTarget::Multirange, 1, ranges)
            }
            PgType::Hstore => {
                let DataType::Map(entries, _) = from else { return None };
                let DataType::Struct(pair) = entries.data_type() else { return None };
                (
                    ListTarget::Pairs,
                    1,
                    FieldEncoder::new(Form::Struct(Box::new(StructForm::pair(pair, policy)?)), false),
                )
            }
            PgType::Polygon => (ListTarget::Points, 1, Form::point(inner(from)?.data_type())?),
            PgType::Vector { dimensions } | PgType::HalfVector { dimensions } => {
                let numbers = inner(from)?.data_type();
                let is_half = matches!(to, PgType::HalfVector { .. });
                let element = match (numbers, is_half) {
                    (DataType::Float32, true) => FieldEncoder::new(Form::Fixed(Fixed::HalfFloat), false),
                    (_, true) => return None,
                    (_, false) => Form::encoder(numbers, &PgType::Float4, NO_TYPMOD, policy)?,
                };
                let length = dimensions.and_then(|length| usize::try_from(length).ok());
                (ListTarget::Vector { length }, 1, element)
            }
            _ => return None,
        };
        // Only vectors have no level of their own on the wire that could be too deep.
        (depth <= ARRAY_DIMENSIONS_MAX).then(|| Self { target, depth, element, elements: Prepared::default() })
    }

    /// Builds the fields of a block's lists.
    pub(super) fn fill(&mut self, array: &ArrayRef, into: &mut Prepared) -> Result<(), BlockError> {
        let mut levels = Vec::with_capacity(self.depth);
        let mut values = Arc::clone(array);
        for _ in 0..self.depth {
            let (level, inner) = lists(&values).map_err(|reason| (0, reason))?;
            levels.push(level);
            values = inner;
        }
        let row_of = |element: usize| {
            let up = |at: usize, level: &Lists| level.ends.partition_point(|end| *end <= at).saturating_sub(1);
            levels.iter().rev().fold(element, up)
        };
        self.element.encode(&values, &mut self.elements).map_err(|(at, reason)| (row_of(at), reason))?;
        let (target, elements) = (&self.target, &self.elements);
        into.build(array.nulls(), 0..array.len(), |out, row| {
            put_field(out, |out| target.put(out, row, &levels, &values, elements))
        })
    }
}

impl ListTarget {
    fn put(
        &self,
        out: &mut Vec<u8>,
        row: usize,
        levels: &[Lists],
        values: &ArrayRef,
        elements: &Prepared,
    ) -> Result<(), ValueError> {
        let mut lengths = [0_usize; ARRAY_DIMENSIONS_MAX];
        let range = extent(row, levels, &mut lengths)?;
        let has_null = values.nulls().is_some_and(|nulls| range.clone().any(|index| nulls.is_null(index)));
        let count = |count: usize| i32::try_from(count).map(i32::to_be_bytes).map_err(|_| ValueError::TooBig);
        if let Self::Array { element_oid, lower_bound } = self {
            let dimensions = if range.is_empty() { 0 } else { levels.len() };
            if dimensions == 0 && *lower_bound == 0 {
                return Err(ValueError::EmptyVector);
            }
            out.extend_from_slice(&count(dimensions)?);
            out.extend_from_slice(&i32::from(has_null).to_be_bytes());
            out.extend_from_slice(&element_oid.to_be_bytes());
            for length in lengths.iter().take(dimensions) {
                out.extend_from_slice(&count(*length)?);
                out.extend_from_slice(&lower_bound.to_be_bytes());
            }
            out.extend_from_slice(elements.fields(range.start, range.end));
            return Ok(());
        }
        if has_null {
            return Err(ValueError::NullPart);
        }
        match self {
            Self::Multirange => {
                out.extend_from_slice(&count(range.len())?);
                out.extend_from_slice(elements.fields(range.start, range.end));
            }
            Self::Pairs => {
                let entries = values.as_struct();
                let mut keys = HashSet::with_capacity(range.len());
                out.extend_from_slice(&count(range.len())?);
                for index in range {
                    let pair = without_length(elements.field(index));
                    let key = pair.get(..WORD + length_of(pair)).unwrap_or_default();
                    if entries.column(0).is_null(index) {
                        return Err(ValueError::NullPart);
                    }
                    if !keys.insert(key) {
                        return Err(ValueError::DuplicateKey);
                    }
                    out.extend_from_slice(pair);
                }
            }
            Self::Vector { length } => {
                if let Some(expected) = length.filter(|expected| *expected != range.len()) {
                    return Err(ValueError::VectorLength { found: range.len(), expected });
                }
                let numbers = values.as_primitive_opt::<Float32Type>();
                if numbers.is_some_and(|numbers| range.clone().any(|index| !numbers.value(index).is_finite())) {
                    return Err(ValueError::NotFinite);
                }
                out.extend_from_slice(&u16::try_from(range.len()).map_err(|_| ValueError::TooBig)?.to_be_bytes());
                out.extend_from_slice(&[0, 0]);
                range.for_each(|index| out.extend_from_slice(without_length(elements.field(index))));
            }
            Self::Points | Self::Array { .. } => {
                out.extend_from_slice(&count(range.len())?);
                range.for_each(|index| out.extend_from_slice(without_length(elements.field(index))));
            }
        }
        Ok(())
    }
}

/// The elements of a row, and the lengths of its dimensions, which must be equal all over a level.
fn extent(
    row: usize,
    levels: &[Lists],
    lengths: &mut [usize; ARRAY_DIMENSIONS_MAX],
) -> Result<std::ops::Range<usize>, ValueError> {
    let mut range = row..row + 1;
    for (depth, (level, slot)) in levels.iter().zip(lengths).enumerate() {
        if depth > 0 && level.nulls.as_ref().is_some_and(|nulls| range.clone().any(|list| nulls.is_null(list))) {
            return Err(ValueError::NullPart);
        }
        let first = level.range(range.start).len();
        if range.clone().any(|list| level.range(list).len() != first) || depth > 0 && first == 0 {
            return Err(ValueError::Ragged);
        }
        *slot = first;
        range = level.range(range.start).start..level.range(range.end - 1).end;
        if range.is_empty() {
            break;
        }
    }
    Ok(range)
}

fn length_of(field: &[u8]) -> usize {
    let word = field.first_chunk().copied().map_or(0, i32::from_be_bytes);
    usize::try_from(word).unwrap_or(0)
}

fn without_length(field: &[u8]) -> &[u8] {
    field.get(WORD..).unwrap_or_default()
}

/// What a group becomes.
#[derive(Debug)]
enum StructTarget {
    Composite {
        oids: Vec<u32>,
    },
    Range,
    /// The members' bytes without their lengths; none may be null.
    Joined,
    /// Key and value with their lengths.
    Pair,
}

/// How groups become fields.
#[derive(Debug)]
pub(super) struct StructForm {
    target: StructTarget,
    members: Vec<(FieldEncoder, Prepared)>,
}

impl StructForm {
    pub(super) fn of(from: &Fields, to: &PgType, policy: PushPolicy) -> Option<Self> {
        let (target, types): (_, Vec<(&str, &PgType, i32)>) = match to {
            PgType::Composite { fields } => (
                StructTarget::Composite { oids: fields.iter().map(|field| field.of.oid).collect() },
                fields.iter().map(|field| (field.name.as_str(), &field.of.pg_type, field.of.typmod)).collect(),
            ),
            PgType::Range(of) => {
                let bound = |name| (name, &of.pg_type, of.typmod);
                let flag = |name| (name, &PgType::Bool, NO_TYPMOD);
                let parts = [bound("lower"), bound("upper"), flag("lower_inc"), flag("upper_inc"), flag("empty")];
                (StructTarget::Range, parts.into())
            }
            PgType::Shape(kind) => {
                (StructTarget::Joined, kind.parts().iter().map(|part| (*part, &PgType::Float8, NO_TYPMOD)).collect())
            }
            PgType::Path => (
                StructTarget::Joined,
                vec![("closed", &PgType::Bool, NO_TYPMOD), ("points", &PgType::Polygon, NO_TYPMOD)],
            ),
            PgType::Tid => {
                (StructTarget::Joined, vec![("block", &PgType::Oid, NO_TYPMOD), ("offset", &PgType::Int2, NO_TYPMOD)])
            }
            _ => return None,
        };
        if from.len() != types.len() || from.iter().zip(&types).any(|(field, (name, ..))| field.name() != name) {
            return None;
        }
        let members = from.iter().zip(&types).map(|(field, (name, pg_type, typmod))| match (*name, to) {
            // A number of two bytes without a sign, which is no type of its own.
            ("offset", PgType::Tid) => Some(FieldEncoder::new(Form::Fixed(Fixed::Unsigned2), false)),
            _ => Form::encoder(field.data_type(), pg_type, *typmod, policy),
        });
        Some(Self {
            target,
            members: members.map(|member| Some((member?, Prepared::default()))).collect::<Option<_>>()?,
        })
    }

    /// Key and value of a map.
    fn pair(from: &Fields, policy: PushPolicy) -> Option<Self> {
        let member = |field: &FieldRef| {
            Some((Form::encoder(field.data_type(), &PgType::Text, NO_TYPMOD, policy)?, Prepared::default()))
        };
        let members: Vec<_> = from.iter().map(member).collect::<Option<_>>()?;
        (members.len() == 2).then_some(Self { target: StructTarget::Pair, members })
    }

    /// Builds the fields of a block's groups.
    pub(super) fn fill(&mut self, array: &ArrayRef, into: &mut Prepared) -> Result<(), BlockError> {
        let group = array.as_struct();
        for ((member, fields), values) in self.members.iter_mut().zip(group.columns()) {
            member.encode(values, fields)?;
        }
        let (target, members) = (&self.target, &self.members);
        into.build(array.nulls(), 0..array.len(), |out, row| {
            put_field(out, |out| {
                let fields = members.iter().map(|(_, fields)| fields.field(row));
                match target {
                    StructTarget::Composite { oids } => {
                        let count = i32::try_from(oids.len()).map_err(|_| ValueError::TooBig)?;
                        out.extend_from_slice(&count.to_be_bytes());
                        for (oid, field) in oids.iter().zip(fields) {
                            out.extend_from_slice(&oid.to_be_bytes());
                            out.extend_from_slice(field);
                        }
                    }
                    StructTarget::Range => return put_range(out, fields),
                    StructTarget::Joined => {
                        for field in fields {
                            if field == NULL_FIELD {
                                return Err(ValueError::NullPart);
                            }
                            out.extend_from_slice(without_length(field));
                        }
                    }
                    StructTarget::Pair => fields.for_each(|field| out.extend_from_slice(field)),
                }
                Ok(())
            })
        })
    }
}

/// Appends a range from its bounds and flags as fields.
fn put_range<'a>(out: &mut Vec<u8>, mut fields: impl Iterator<Item = &'a [u8]>) -> Result<(), ValueError> {
    let mut next = || fields.next().unwrap_or(&NULL_FIELD);
    let [lower, upper] = [next(), next()].map(|bound| Some(bound).filter(|bound| *bound != NULL_FIELD));
    let mut flag = || match next() {
        [.., value] if *value <= 1 => Ok(*value == 1),
        _ => Err(ValueError::NullPart),
    };
    let (lower_inclusive, upper_inclusive, empty) = (flag()?, flag()?, flag()?);
    let range = RangeParts { lower, upper, lower_inclusive, upper_inclusive, empty };
    out.push(range_flags(&range));
    if !empty {
        lower.into_iter().chain(upper).for_each(|bound| out.extend_from_slice(bound));
    }
    Ok(())
}

impl PgType {
    /// Whether values become lists.
    fn is_list(&self) -> bool {
        matches!(
            self,
            Self::Array { .. } | Self::Multirange(_) | Self::Polygon | Self::Vector { .. } | Self::HalfVector { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Int32Array, ListArray, new_null_array};
    use arrow::datatypes::{Field, Int32Type};

    use super::*;
    use crate::schema::ShapeKind;

    fn fields(array: &ArrayRef, to: &PgType) -> Result<Prepared, BlockError> {
        let mut encoder = Form::encoder(array.data_type(), to, NO_TYPMOD, PushPolicy::default()).expect("a pair");
        let mut fields = Prepared::default();
        encoder.encode(array, &mut fields).map(|()| fields)
    }

    fn vector(values: Vec<f32>) -> ArrayRef {
        let field = Arc::new(Field::new("element", DataType::Float32, true));
        let ends = arrow::buffer::OffsetBuffer::from_lengths([values.len()]);
        Arc::new(ListArray::new(field, ends, Arc::new(Float32Array::from(values)), None))
    }

    #[test]
    fn vectors_are_a_count_and_numbers() {
        let to = PgType::Vector { dimensions: Some(2) };
        let found = fields(&vector(vec![1.0, -2.5]), &to).expect("two numbers");
        let expected = [&[0, 0, 0, 12, 0, 2, 0, 0][..], &1.0_f32.to_be_bytes(), &(-2.5_f32).to_be_bytes()].concat();
        assert_eq!(found.bytes, expected);
        let refused = |values, to: &PgType| fields(&vector(values), to).expect_err("a misfit").1;
        assert_eq!(refused(vec![1.0], &to), ValueError::VectorLength { found: 1, expected: 2 });
        assert_eq!(refused(vec![1.0, f32::NAN], &to), ValueError::NotFinite);
        let half = PgType::HalfVector { dimensions: None };
        assert_eq!(fields(&vector(vec![1.0]), &half).expect("exact").bytes, [0, 0, 0, 6, 0, 1, 0, 0, 0x3C, 0]);
        assert_eq!(refused(vec![0.1], &half), ValueError::Inexact);
    }

    #[test]
    fn a_list_that_is_no_box_has_no_array() {
        let inner = |lists: Vec<Option<Vec<Option<i32>>>>| ListArray::from_iter_primitive::<Int32Type, _, _>(lists);
        let outer = |lists: ListArray| -> ArrayRef {
            let field = Arc::new(Field::new("element", lists.data_type().clone(), true));
            let ends = arrow::buffer::OffsetBuffer::from_lengths([lists.len()]);
            Arc::new(ListArray::new(field, ends, Arc::new(lists), None))
        };
        let element = crate::schema::TypeRef { oid: 23, typmod: NO_TYPMOD, pg_type: PgType::Int4 };
        let to = PgType::Array { element: Box::new(element), dimensions: 2, lower_bound: 1 };
        let one = || Some(vec![Some(1)]);
        let refused = |lists| fields(&outer(inner(lists)), &to).expect_err("no box").1;
        assert_eq!(refused(vec![one(), Some(vec![])]), ValueError::Ragged);
        assert_eq!(refused(vec![Some(vec![]), Some(vec![])]), ValueError::Ragged);
        assert_eq!(refused(vec![one(), None]), ValueError::NullPart);
        let good = fields(&outer(inner(vec![one(), one()])), &to).expect("a box");
        assert_eq!(good.bytes.len(), 4 + 12 + 16 + 16);
        let empty = fields(&outer(inner(vec![])), &to).expect("an empty array");
        assert_eq!(empty.bytes, [0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23]);
    }

    #[test]
    fn a_shape_without_a_coordinate_is_refused() {
        let to = PgType::Shape(ShapeKind::Point);
        let fields_of = super::super::super::mapping::struct_fields(&to);
        let columns = fields_of.iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let array: ArrayRef = Arc::new(arrow::array::StructArray::new(fields_of, columns, None));
        assert_eq!(fields(&array, &to).expect_err("nulls").1, ValueError::NullPart);
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        assert!(Form::of(numbers.data_type(), &to, NO_TYPMOD, PushPolicy::default()).is_none());
    }
}
