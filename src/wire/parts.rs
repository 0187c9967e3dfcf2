//! Fields that hold other fields: arrays, rows, ranges and the like, cut into the bytes of their parts. Nothing is
//! copied, and no length from the wire is believed before its bytes are there.

use super::FieldError;
use super::temporal::fixed;
use crate::schema::ARRAY_DIMENSIONS_MAX;

/// Flags of a range.
const RANGE_EMPTY: u8 = 0x01;
const RANGE_LOWER_INCLUSIVE: u8 = 0x02;
const RANGE_UPPER_INCLUSIVE: u8 = 0x04;
const RANGE_LOWER_INFINITE: u8 = 0x08;
const RANGE_UPPER_INFINITE: u8 = 0x10;
/// Bytes of one point of a path or polygon.
const POINT_BYTES: usize = 16;

/// Takes bytes from the front of a field.
#[derive(Debug, Clone, Copy)]
struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    fn new(field: &'a [u8], what: &'static str) -> Self {
        Self { rest: field, what }
    }

    fn malformed(&self) -> FieldError {
        FieldError::Malformed(self.what)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], FieldError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FieldError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn int4(&mut self) -> Result<i32, FieldError> {
        self.array().map(i32::from_be_bytes)
    }

    /// A count of things of at least `least` bytes each, which must all be there.
    fn count(&mut self, least: usize) -> Result<usize, FieldError> {
        let count = usize::try_from(self.int4()?).map_err(|_| self.malformed())?;
        if count > self.rest.len() / least { Err(self.malformed()) } else { Ok(count) }
    }

    /// A length word and as many bytes; `None` for NULL.
    fn part(&mut self) -> Result<Option<&'a [u8]>, FieldError> {
        match self.int4()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| self.malformed())?;
                self.take(length).map(Some)
            }
        }
    }

    fn finish(self) -> Result<(), FieldError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }
}

/// Cuts an array into its elements, in row-major order.
///
/// # Shape
/// Dimensions i32, null flag i32, element oid u32; per dimension length i32 and lower bound i32; then the elements.
/// Gives the lengths of the dimensions, none for an empty array.
/// # Errors
/// [`FieldError::Malformed`]; [`FieldError::ArrayShape`] for a lower bound other than the one given or another number
/// of dimensions.
pub fn array_parts<'a>(
    field: &'a [u8],
    element_oid: u32,
    dimensions: usize,
    lower_bound: i32,
    elements: &mut Vec<Option<&'a [u8]>>,
) -> Result<ArrayLengths, FieldError> {
    let mut reader = Reader::new(field, "array");
    let found = usize::try_from(reader.int4()?).map_err(|_| reader.malformed())?;
    let flag = reader.int4()?;
    let oid = u32::from_be_bytes(reader.array()?);
    if found > ARRAY_DIMENSIONS_MAX || !(0..=1).contains(&flag) || oid != element_oid {
        return Err(reader.malformed());
    }
    let mut lengths = ArrayLengths::default();
    if found == 0 {
        reader.finish()?;
        return Ok(lengths);
    }
    if found != dimensions {
        return Err(FieldError::ArrayShape { found, expected: dimensions });
    }
    let mut count = 1_usize;
    let mut shifted = None;
    for slot in lengths.lengths.iter_mut().take(found) {
        // An empty `int2vector` has a dimension without elements; other empty arrays have no dimension.
        let length = usize::try_from(reader.int4()?).ok().filter(|length| *length > 0 || found == 1);
        let bound = reader.int4()?;
        *slot = length.ok_or(FieldError::Malformed("array"))?;
        count = count.checked_mul(*slot).ok_or(FieldError::Malformed("array"))?;
        shifted = shifted.or((bound != lower_bound).then_some(bound));
    }
    lengths.dimensions = found;
    // Every element has a length word.
    if count > reader.rest.len() / 4 {
        return Err(reader.malformed());
    }
    if let Some(bound) = shifted {
        return Err(FieldError::ArrayBound(bound));
    }
    for _ in 0..count {
        elements.push(reader.part()?);
    }
    reader.finish()?;
    Ok(lengths)
}

/// The lengths of an array's dimensions, outermost first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArrayLengths {
    lengths: [usize; ARRAY_DIMENSIONS_MAX],
    dimensions: usize,
}

impl ArrayLengths {
    /// The length of each dimension; none for an empty array.
    pub fn as_slice(&self) -> &[usize] {
        self.lengths.get(..self.dimensions).unwrap_or_default()
    }
}

/// Cuts a row into its attributes.
///
/// # Shape
/// Count i32, then per attribute its type's oid u32, length i32 (-1 = NULL), bytes.
/// # Errors
/// [`FieldError::Malformed`], also when attributes or their types are not those expected.
pub fn composite_parts<'a>(
    field: &'a [u8],
    oids: &[u32],
    mut attribute: impl FnMut(usize, Option<&'a [u8]>),
) -> Result<(), FieldError> {
    let mut reader = Reader::new(field, "row");
    if usize::try_from(reader.int4()?) != Ok(oids.len()) {
        return Err(reader.malformed());
    }
    for (index, oid) in oids.iter().enumerate() {
        if u32::from_be_bytes(reader.array()?) != *oid {
            return Err(reader.malformed());
        }
        attribute(index, reader.part()?);
    }
    reader.finish()
}

/// A range's parts. A bound that is missing has no end; one that is there may be the value infinity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RangeParts<'a> {
    /// The lower bound's bytes.
    pub lower: Option<&'a [u8]>,
    /// The upper bound's bytes.
    pub upper: Option<&'a [u8]>,
    /// Whether the lower bound belongs to the range.
    pub lower_inclusive: bool,
    /// Whether the upper bound belongs to the range.
    pub upper_inclusive: bool,
    /// Whether nothing belongs to it.
    pub empty: bool,
}

/// Cuts a range into its bounds.
///
/// # Shape
/// Flags u8 (1 empty, 2 lower inclusive, 4 upper inclusive, 8 no lower bound, 16 no upper bound), then the bounds there
/// are, each with its length.
/// # Errors
/// [`FieldError::Malformed`].
pub fn range_parts(field: &[u8]) -> Result<RangeParts<'_>, FieldError> {
    let mut reader = Reader::new(field, "range");
    let [flags] = reader.array()?;
    let has = |flag| flags & flag != 0;
    if flags >= RANGE_UPPER_INFINITE << 1 {
        return Err(reader.malformed());
    }
    let mut bound = |infinite| match has(RANGE_EMPTY) || has(infinite) {
        true => Ok(None),
        false => reader.part().and_then(|part| part.map(Some).ok_or(FieldError::Malformed("range"))),
    };
    let (lower, upper) = (bound(RANGE_LOWER_INFINITE)?, bound(RANGE_UPPER_INFINITE)?);
    reader.finish()?;
    Ok(RangeParts {
        lower,
        upper,
        lower_inclusive: has(RANGE_LOWER_INCLUSIVE),
        upper_inclusive: has(RANGE_UPPER_INCLUSIVE),
        empty: has(RANGE_EMPTY),
    })
}

/// The flags byte of a range.
pub(crate) fn range_flags(range: &RangeParts<'_>) -> u8 {
    if range.empty {
        return RANGE_EMPTY;
    }
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    flag(range.lower.is_none(), RANGE_LOWER_INFINITE)
        | flag(range.upper.is_none(), RANGE_UPPER_INFINITE)
        | flag(range.lower_inclusive && range.lower.is_some(), RANGE_LOWER_INCLUSIVE)
        | flag(range.upper_inclusive && range.upper.is_some(), RANGE_UPPER_INCLUSIVE)
}

/// Cuts a multirange into its ranges: count i32, then each with its length.
///
/// # Errors
/// [`FieldError::Malformed`].
pub fn multirange_parts<'a>(field: &'a [u8], ranges: &mut Vec<Option<&'a [u8]>>) -> Result<(), FieldError> {
    let mut reader = Reader::new(field, "multirange");
    for _ in 0..reader.count(4)? {
        let range = reader.part()?.ok_or(FieldError::Malformed("multirange"))?;
        ranges.push(Some(range));
    }
    reader.finish()
}

/// Cuts an `hstore` into its pairs: count i32, then each key and value with their lengths.
///
/// # Errors
/// [`FieldError::Malformed`].
pub fn hstore_parts<'a>(field: &'a [u8], pairs: &mut Vec<Option<&'a [u8]>>) -> Result<(), FieldError> {
    let mut reader = Reader::new(field, "hstore");
    for _ in 0..reader.count(8)? {
        let pair = reader.rest;
        reader.part()?.ok_or(FieldError::Malformed("hstore"))?;
        reader.part()?;
        pairs.push(pair.get(..pair.len() - reader.rest.len()));
    }
    reader.finish()
}

/// Key and value of one pair of an `hstore`.
///
/// # Errors
/// [`FieldError::Malformed`].
pub fn hstore_pair(pair: &[u8]) -> Result<(&[u8], Option<&[u8]>), FieldError> {
    let mut reader = Reader::new(pair, "hstore");
    let key = reader.part()?.ok_or(FieldError::Malformed("hstore"))?;
    let value = reader.part()?;
    reader.finish()?;
    Ok((key, value))
}

/// Cuts a `polygon` into its points: count i32, then 16 bytes each.
///
/// # Errors
/// [`FieldError::Malformed`].
pub fn polygon_parts<'a>(field: &'a [u8], points: &mut Vec<Option<&'a [u8]>>) -> Result<(), FieldError> {
    let mut reader = Reader::new(field, "polygon");
    for _ in 0..reader.count(POINT_BYTES)? {
        points.push(Some(reader.take(POINT_BYTES)?));
    }
    reader.finish()
}

/// Cuts a `path` into the byte that says whether it is closed and the rest, which is like a polygon.
///
/// # Errors
/// [`FieldError::Malformed`].
pub fn path_parts(field: &[u8]) -> Result<(&[u8], &[u8]), FieldError> {
    field.split_at_checked(1).ok_or(FieldError::Malformed("path"))
}

/// Cuts a `vector` of pgvector into elements of `width` bytes: count u16, zero u16, elements.
///
/// # Errors
/// [`FieldError::Malformed`]; [`FieldError::ArrayShape`] when a declared length is another.
pub fn vector_parts<'a>(
    field: &'a [u8],
    width: usize,
    declared: Option<usize>,
    elements: &mut Vec<Option<&'a [u8]>>,
) -> Result<(), FieldError> {
    let mut reader = Reader::new(field, "vector");
    let count = usize::from(u16::from_be_bytes(reader.array()?));
    reader.take(2)?;
    if reader.rest.len() != count * width {
        return Err(reader.malformed());
    }
    if let Some(expected) = declared.filter(|expected| *expected != count) {
        return Err(FieldError::VectorLength { found: count, expected });
    }
    elements.extend(reader.rest.chunks_exact(width).map(Some));
    Ok(())
}

/// Cuts a `tid` into block number and offset.
///
/// # Errors
/// [`FieldError::Length`] unless the field has 6 bytes.
pub fn tid_parts(field: &[u8]) -> Result<(&[u8], &[u8]), FieldError> {
    fixed::<6>(field)?;
    field.split_at_checked(4).ok_or(FieldError::Malformed("tid"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    fn ints(values: &[i32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_be_bytes()).collect()
    }

    #[test]
    fn an_array_has_the_shape_it_says() {
        let field = ints(&[2, 1, 23, 2, 1, 1, 1, 4, 7, -1]);
        let mut elements = Vec::new();
        let lengths = array_parts(&field, 23, 2, 1, &mut elements).unwrap();
        assert_eq!(
            (lengths.as_slice(), elements.as_slice()),
            ([2, 1].as_slice(), [Some(&field[32..36]), None].as_slice())
        );
        let parse = |field: &[i32], dimensions| {
            let field = ints(field);
            array_parts(&field, 23, dimensions, 1, &mut Vec::new()).map(|lengths| lengths.as_slice().len())
        };
        assert_eq!(parse(&[0, 0, 23], 3), Ok(0));
        assert_eq!(parse(&[1, 0, 23, 0, 1], 1), Ok(1));
        assert_eq!(parse(&[1, 0, 23, 0, 1], 2), Err(FieldError::ArrayShape { found: 1, expected: 2 }));
        assert_eq!(parse(&[1, 0, 23, 1, 0, 0], 1), Err(FieldError::ArrayBound(0)));
        // Lengths that no bytes follow, another element type, bytes that are too many.
        for bad in
            [&[1, 0, 23, i32::MAX, 1][..], &[1, 0, 25, 1, 1, 0], &[1, 0, 23, 1, 1, 0, 9], &[7, 0, 23], &[-1, 0, 23]]
        {
            assert_eq!(parse(bad, 1), Err(FieldError::Malformed("array")), "{bad:?}");
        }
        assert_eq!(parse(&[2, 0, 23, i32::MAX, 1, i32::MAX, 1], 2), Err(FieldError::Malformed("array")));
    }

    #[test]
    fn a_missing_bound_differs_from_an_empty_range() {
        let range = range_parts(&[0x08 | 0x04, 0, 0, 0, 1, 9]).unwrap();
        assert_eq!((range.lower, range.upper, range.upper_inclusive), (None, Some([9].as_slice()), true));
        assert_eq!(range_parts(&[1]).unwrap(), RangeParts { empty: true, ..RangeParts::default() });
        for flags in [&[0x20][..], &[0x18, 0], &[0], &[0x08, 255, 255, 255, 255]] {
            assert_eq!(range_parts(flags), Err(FieldError::Malformed("range")));
        }
    }

    #[test]
    fn a_vector_has_its_declared_length() {
        let field = [0, 2, 0, 0, 1, 2, 3, 4];
        let mut elements = Vec::new();
        assert_eq!(vector_parts(&field, 2, Some(2), &mut elements), Ok(()));
        assert_eq!(elements, [Some([1, 2].as_slice()), Some([3, 4].as_slice())]);
        let refused = vector_parts(&field, 2, Some(3), &mut elements);
        assert_eq!(refused, Err(FieldError::VectorLength { found: 2, expected: 3 }));
        assert_eq!(vector_parts(&field, 4, None, &mut elements), Err(FieldError::Malformed("vector")));
    }
}
