//! What can be wrong with bytes from the server.

/// The stream is not the COPY BINARY that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The stream does not begin with the COPY signature.
    #[error("the stream does not begin with the COPY BINARY signature")]
    Signature,
    /// A critical flag is set that this program does not know.
    #[error("the COPY header has unknown critical flags {0:#x}")]
    Flags(u32),
    /// The header extension's length is negative.
    #[error("the COPY header extension has length {0}")]
    Extension(i32),
    /// A tuple has another number of fields than columns were asked for.
    #[error("tuple {tuple} has {found} fields instead of {expected} (byte {byte} of the stream)")]
    FieldCount {
        /// Tuples before this one.
        tuple: u64,
        /// The count in the stream.
        found: i16,
        /// The columns asked for.
        expected: usize,
        /// Where the count is in the stream.
        byte: u64,
    },
    /// A field's length is negative and does not mean NULL.
    #[error(
        "tuple {tuple}, column {column}: field length {length} is negative and not NULL (byte {byte} of the stream)"
    )]
    FieldLength {
        /// Tuples before this one.
        tuple: u64,
        /// The column, from 0.
        column: usize,
        /// The length in the stream.
        length: i32,
        /// Where the length is in the stream.
        byte: u64,
    },
    /// Bytes follow the trailer.
    #[error("bytes follow the end of the COPY stream")]
    AfterTrailer,
    /// The stream ended before its trailer.
    #[error("the COPY stream ended inside tuple {tuple}")]
    Truncated {
        /// Complete tuples before the end.
        tuple: u64,
    },
    /// One block of tuples outgrew what offsets can address.
    #[error("tuple {tuple} is larger than 2 GiB")]
    TooLarge {
        /// Tuples before this one.
        tuple: u64,
    },
}

/// Why one field's bytes are not a value of its type, or not one that its Arrow type can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// The field has the wrong number of bytes for its type.
    #[error("{found} bytes instead of {expected}")]
    Length {
        /// Bytes the type has.
        expected: usize,
        /// Bytes in the field.
        found: usize,
    },
    /// The bytes break the type's format.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// Text that is not UTF-8.
    #[error("text that is not valid UTF-8")]
    Utf8,
    /// `NaN` or an infinity in a decimal column.
    #[error(
        "{0}, which a decimal column cannot hold (the column's setting numeric_special = \"null\" or \"text\" changes that)"
    )]
    NotFinite(&'static str),
    /// More digits than the declared precision and scale, which for a column that declares them only a damaged stream
    /// can bring.
    #[error(
        "a numeric with more digits than its column declares, or than the column's setting numeric_unbounded allows"
    )]
    Digits,
    /// A numeric beyond the range of floating-point numbers.
    #[error("a numeric beyond the range of double (the column's setting numeric_unbounded = \"text\" changes that)")]
    BeyondFloat,
    /// A date or time beyond the range of Arrow.
    #[error(
        "a {0} later than Arrow can hold (the column's setting out_of_range_time = \"null\" or \"text\" changes that)"
    )]
    OutOfRange(&'static str),
    /// An array with another number of dimensions than expected.
    #[error(
        "an array of {found} dimensions where {expected} was expected (the column's settings array_dimensions or array_shape = \"text\" change that)"
    )]
    ArrayShape {
        /// Dimensions of the value.
        found: usize,
        /// Dimensions of the column.
        expected: usize,
    },
    /// An array whose first element has an unusual number.
    #[error(
        "an array whose first element has the number {0} (the column's setting array_shape = \"text\" changes that)"
    )]
    ArrayBound(i32),
    /// A vector of another length than declared, which only a damaged stream can bring.
    #[error("a vector of {found} elements instead of {expected}")]
    VectorLength {
        /// Elements of the value.
        found: usize,
        /// Elements that the column declares.
        expected: usize,
    },
    /// Values that are short on the wire and enormous as text or lists.
    #[error("more than {0} MiB of decoded values in one batch")]
    Enormous(usize),
}
