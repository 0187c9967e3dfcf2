//! Framing: a byte stream in any pieces becomes blocks of complete tuples.

use super::{DecodeError, SIGNATURE};

/// Signature, flags and extension length.
const HEADER_BYTES: usize = SIGNATURE.len() + 8;
/// Flag bits 16 to 31 are critical: a reader must refuse those it does not know.
const CRITICAL_FLAGS: u32 = 0xFFFF_0000;
/// The field count that ends the stream.
const TRAILER: i16 = -1;
/// The field length that means NULL.
const NULL_LENGTH: i32 = -1;
/// Offsets are 32 bits wide, so that a block's index is small.
const BLOCK_BYTES_MAX: usize = i32::MAX as usize;

/// Where a field's bytes are in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    start: u32,
    /// Bytes, or -1 for NULL.
    length: i32,
}

/// Complete tuples and their bytes; fields are in row order.
#[derive(Debug, Clone, Copy)]
pub struct TupleBlock<'a> {
    bytes: &'a [u8],
    fields: &'a [Field],
    columns: usize,
    rows: usize,
    bytes_before: u64,
}

impl<'a> TupleBlock<'a> {
    /// Complete tuples in the block.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The same tuples in parts of about `fields` fields, in order.
    pub fn parts(self, fields: usize) -> impl Iterator<Item = Self> {
        let rows = (fields / self.columns.max(1)).max(1);
        let part = move |from| {
            let rows = rows.min(self.rows - from);
            let fields = self.fields.get(from * self.columns..(from + rows) * self.columns).unwrap_or_default();
            Self { fields, rows, ..self }
        };
        (0..self.rows).step_by(rows).map(part)
    }

    /// Where a field's bytes begin in the stream.
    pub fn position(&self, row: usize, column: usize) -> u64 {
        let field = self.fields.get(row * self.columns + column);
        self.bytes_before + field.map_or(0, |field| u64::from(field.start))
    }

    /// The values of one column, `None` for NULL.
    pub fn column(self, column: usize) -> impl Iterator<Item = Option<&'a [u8]>> {
        self.fields.iter().skip(column).step_by(self.columns.max(1)).map(move |field| {
            let length = usize::try_from(field.length).ok()?;
            // The decoder recorded only fields that lie inside the block.
            let start = field.start as usize;
            Some(self.bytes.get(start..start + length).unwrap_or_default())
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Extension(usize),
    Tuples,
    Done,
}

/// Cuts a COPY BINARY stream into tuples. Memory: the block being filled, which the caller empties.
#[derive(Debug)]
pub struct CopyDecoder {
    columns: usize,
    state: State,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that belong to the complete tuples of the block.
    parsed: usize,
    fields: Vec<Field>,
    rows: usize,
    tuples_before: u64,
    /// Bytes of the stream before the block.
    bytes_before: u64,
}

impl CopyDecoder {
    /// A decoder for tuples of `columns` fields.
    pub fn new(columns: usize) -> Self {
        Self {
            columns,
            state: State::Header,
            buffer: Vec::new(),
            parsed: 0,
            fields: Vec::new(),
            rows: 0,
            tuples_before: 0,
            bytes_before: 0,
        }
    }

    /// Takes the next bytes of the stream, cut anywhere.
    ///
    /// # Errors
    /// [`DecodeError`]; the stream cannot be continued after one.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.buffer.extend_from_slice(bytes);
        self.parse()
    }

    /// The same for bytes that are given away: they are not copied when the last block ended at a tuple's end.
    ///
    /// # Errors
    /// As [`CopyDecoder::push`].
    pub fn push_block(&mut self, bytes: Vec<u8>) -> Result<(), DecodeError> {
        if self.buffer.is_empty() {
            self.buffer = bytes;
        } else {
            self.buffer.extend_from_slice(&bytes);
        }
        self.parse()
    }

    fn parse(&mut self) -> Result<(), DecodeError> {
        loop {
            match self.state {
                State::Header => {
                    let Some(header) = self.buffer.get(self.parsed..self.parsed + HEADER_BYTES) else { return Ok(()) };
                    self.state = State::Extension(parse_header(header)?);
                    self.parsed += HEADER_BYTES;
                }
                State::Extension(length) => {
                    if self.buffer.len() < self.parsed + length {
                        return Ok(());
                    }
                    self.parsed += length;
                    self.state = State::Tuples;
                }
                State::Tuples => match self.next_tuple()? {
                    true => {}
                    false => return Ok(()),
                },
                State::Done if self.parsed < self.buffer.len() => return Err(DecodeError::AfterTrailer),
                State::Done => return Ok(()),
            }
        }
    }

    /// Records one complete tuple; `false` when the buffer ends inside it.
    fn next_tuple(&mut self) -> Result<bool, DecodeError> {
        let tuple = self.tuples_before + self.rows as u64;
        if self.buffer.len() > BLOCK_BYTES_MAX {
            return Err(DecodeError::TooLarge { tuple });
        }
        let Some(count) = read(&self.buffer, self.parsed) else { return Ok(false) };
        let count = i16::from_be_bytes(count);
        let mut at = self.parsed + 2;
        if count == TRAILER {
            self.parsed = at;
            self.state = State::Done;
            return Ok(true);
        }
        if usize::try_from(count) != Ok(self.columns) {
            let byte = self.bytes_before + self.parsed as u64;
            return Err(DecodeError::FieldCount { tuple, found: count, expected: self.columns, byte });
        }
        let fields_before = self.fields.len();
        for column in 0..self.columns {
            let length = read(&self.buffer, at).map(i32::from_be_bytes);
            let end = match length {
                None => None,
                Some(NULL_LENGTH) => Some(at + 4),
                Some(length) => {
                    let byte = self.bytes_before + at as u64;
                    let bytes = usize::try_from(length).map_err(|_| DecodeError::FieldLength {
                        tuple,
                        column,
                        length,
                        byte,
                    })?;
                    Some(at + 4 + bytes)
                }
            };
            match (end, length, u32::try_from(at + 4)) {
                (Some(end), Some(length), Ok(start)) if end <= self.buffer.len() => {
                    self.fields.push(Field { start, length });
                    at = end;
                }
                _ => {
                    self.fields.truncate(fields_before);
                    return Ok(false);
                }
            }
        }
        self.parsed = at;
        self.rows += 1;
        Ok(true)
    }

    /// The complete tuples taken so far.
    pub fn block(&self) -> TupleBlock<'_> {
        TupleBlock {
            bytes: &self.buffer,
            fields: &self.fields,
            columns: self.columns,
            rows: self.rows,
            bytes_before: self.bytes_before,
        }
    }

    /// Bytes of the complete tuples taken so far.
    pub fn block_bytes(&self) -> usize {
        self.parsed
    }

    /// Forgets the block's tuples and keeps the beginning of the next one.
    pub fn clear_block(&mut self) {
        self.buffer.drain(..self.parsed);
        self.bytes_before += self.parsed as u64;
        self.parsed = 0;
        self.fields.clear();
        self.tuples_before += self.rows as u64;
        self.rows = 0;
    }

    /// Ends the stream and gives the number of tuples it held.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] unless the trailer was the last thing in it.
    pub fn finish(self) -> Result<u64, DecodeError> {
        let tuples = self.tuples_before + self.rows as u64;
        match self.state {
            State::Done => Ok(tuples),
            _ => Err(DecodeError::Truncated { tuple: tuples }),
        }
    }
}

/// The `N` bytes at `at`, if they are all there.
fn read<const N: usize>(buffer: &[u8], at: usize) -> Option<[u8; N]> {
    buffer.get(at..)?.first_chunk().copied()
}

/// Checks signature and flags; gives the length of the header extension.
fn parse_header(header: &[u8]) -> Result<usize, DecodeError> {
    if !header.starts_with(SIGNATURE) {
        return Err(DecodeError::Signature);
    }
    let flags = read(header, SIGNATURE.len()).map_or(0, u32::from_be_bytes);
    if flags & CRITICAL_FLAGS != 0 {
        return Err(DecodeError::Flags(flags));
    }
    let length = read(header, SIGNATURE.len() + 4).map_or(0, i32::from_be_bytes);
    usize::try_from(length).map_err(|_| DecodeError::Extension(length))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    type Tuple = Vec<Option<Vec<u8>>>;

    fn stream(tuples: &[Tuple]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 8]);
        for tuple in tuples {
            bytes.extend(i16::try_from(tuple.len()).unwrap().to_be_bytes());
            for field in tuple {
                match field {
                    None => bytes.extend((-1_i32).to_be_bytes()),
                    Some(field) => {
                        bytes.extend(i32::try_from(field.len()).unwrap().to_be_bytes());
                        bytes.extend(field);
                    }
                }
            }
        }
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    }

    fn tuples_of(block: TupleBlock<'_>, columns: usize) -> Vec<Tuple> {
        let mut tuples = vec![Vec::new(); block.rows()];
        for column in 0..columns {
            for (tuple, value) in tuples.iter_mut().zip(block.column(column)) {
                tuple.push(value.map(<[u8]>::to_vec));
            }
        }
        tuples
    }

    proptest! {
        /// How the network cuts the stream, and when the caller empties the block, must not change what it decodes to.
        #[test]
        fn cuts_do_not_matter(
            tuples in vec(vec(proptest::option::of(vec(any::<u8>(), 0..9)), 3), 0..20),
            cuts in vec(any::<Index>(), 0..10),
        ) {
            let bytes = stream(&tuples);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut decoder = CopyDecoder::new(3);
            let mut decoded = Vec::new();
            for cut in cuts.windows(2) {
                decoder.push(&bytes[cut[0]..cut[1]]).unwrap();
                decoded.extend(tuples_of(decoder.block(), 3));
                decoder.clear_block();
            }
            prop_assert_eq!(decoder.finish().unwrap(), tuples.len() as u64);
            prop_assert_eq!(decoded, tuples);
        }

        /// Any bytes give tuples or an error, never a panic.
        #[test]
        fn any_bytes_are_decoded_or_refused(body in vec(any::<u8>(), 0..200), columns in 0_usize..5) {
            let mut bytes = SIGNATURE.to_vec();
            bytes.extend([0; 8]);
            bytes.extend(body);
            let mut decoder = CopyDecoder::new(columns);
            if decoder.push(&bytes).is_ok() {
                prop_assert!(decoder.block().rows() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_stream_without_its_trailer_is_truncated() {
        let bytes = stream(&[vec![Some(vec![1])]]);
        let mut decoder = CopyDecoder::new(1);
        decoder.push(&bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(decoder.finish(), Err(DecodeError::Truncated { tuple: 1 }));
    }

    #[test]
    fn wrong_counts_lengths_and_tails_are_named() {
        let mut decoder = CopyDecoder::new(2);
        assert_eq!(
            decoder.push(&stream(&[vec![None]])),
            Err(DecodeError::FieldCount { tuple: 0, found: 1, expected: 2, byte: 19 })
        );
        let mut bytes = stream(&[]);
        bytes.truncate(HEADER_BYTES);
        bytes.extend([0, 1, 0xFF, 0xFF, 0xFF, 0xFE]);
        assert_eq!(
            CopyDecoder::new(1).push(&bytes),
            Err(DecodeError::FieldLength { tuple: 0, column: 0, length: -2, byte: 21 })
        );
        let mut bytes = stream(&[]);
        bytes.push(0);
        assert_eq!(CopyDecoder::new(1).push(&bytes), Err(DecodeError::AfterTrailer));
        assert_eq!(CopyDecoder::new(1).push(&[b'x'; 19]), Err(DecodeError::Signature));
    }
}
