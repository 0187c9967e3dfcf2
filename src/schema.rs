//! Names and types of tables, as the Postgres catalogue gives them. No I/O.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Field metadata: what a column means, in a sentence.
pub const DESCRIPTION_KEY: &str = "description";

/// Values of rows, as the cause of an error: for whoever ran the command. Records, logs and webhooks leave them out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RowValues(pub String);

/// A table's name with its schema, as stored in the catalogue: unquoted, case kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName {
    schema: String,
    name: String,
}

/// A table name that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a table name: expected NAME or SCHEMA.NAME")]
pub struct BadTableName(String);

impl TableName {
    /// A name in a schema.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// The schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The name without its schema.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for TableName {
    type Err = BadTableName;

    /// Reads `name` (in schema `public`) or `schema.name`; only the first dot separates.
    fn from_str(text: &str) -> Result<Self, BadTableName> {
        let (schema, name) = text.split_once('.').unwrap_or(("public", text));
        if schema.is_empty() || name.is_empty() || text.contains('\0') {
            return Err(BadTableName(text.to_owned()));
        }
        Ok(Self::new(schema, name))
    }
}

impl TryFrom<String> for TableName {
    type Error = BadTableName;

    fn try_from(text: String) -> Result<Self, BadTableName> {
        text.parse()
    }
}

impl From<TableName> for String {
    fn from(table: TableName) -> Self {
        table.to_string()
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A Postgres type this program reads and writes; the catalogue decides it, never the data. Types that consist of
/// others are a tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PgType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `oid`, `xid`, `cid`, and the `reg…` types: a number of 32 bits without a sign
    Oid,
    /// `xid8` and `pg_lsn`: a number of 64 bits without a sign
    Unsigned8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric` without a precision, or one that needs more than 38 digits
    NumericUnbounded,
    /// The same, kept as a floating-point number because the configuration says so
    NumericAsFloat,
    /// `numeric(precision, scale)` that fits 38 digits; the scale may be negative or above the precision
    Numeric {
        /// Digits in all.
        precision: u16,
        /// Digits after the point.
        scale: i16,
    },
    /// `money`
    Money {
        /// Digits after the point, a setting of the server.
        scale: u8,
    },
    /// `text`
    Text,
    /// `varchar` with its limit in characters, if it has one
    Varchar {
        /// The limit in characters.
        max_chars: Option<u32>,
    },
    /// `char(n)`, padded with spaces
    Bpchar {
        /// Its length in characters, if it has one.
        chars: Option<u32>,
    },
    /// `name`: text of at most 63 bytes
    Name,
    /// `citext`
    Citext,
    /// `"char"`: one byte
    SingleByte,
    /// `xml`
    Xml,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time` without time zone
    Time,
    /// `time` with time zone
    TimeTz,
    /// `timestamp` without time zone
    Timestamp,
    /// `timestamp` with time zone
    TimestampTz,
    /// `interval`
    Interval,
    /// `uuid`
    Uuid,
    /// `json`
    Json,
    /// `jsonb`
    Jsonb,
    /// `jsonpath`, `ltree`, `lquery`, `ltxtquery`: text after a version byte
    VersionedText,
    /// `inet`
    Inet,
    /// `cidr`
    Cidr,
    /// `macaddr`
    Macaddr,
    /// `macaddr8`
    Macaddr8,
    /// `bit(n)`
    Bit {
        /// Its length, if it is known.
        bits: Option<u32>,
    },
    /// `bit varying` with its limit, if it has one
    Varbit {
        /// The limit in bits.
        max_bits: Option<u32>,
    },
    /// `tid`
    Tid,
    /// An enum, whose values are text
    Enum {
        /// The labels in order.
        labels: Vec<String>,
    },
    /// `point`, `line`, `lseg`, `box` or `circle`: so many floating-point numbers
    Shape(ShapeKind),
    /// `path`
    Path,
    /// `polygon`
    Polygon,
    /// An array
    Array {
        /// What it consists of.
        element: Box<TypeRef>,
        /// Dimensions that every value has, unless it is empty.
        dimensions: u8,
        /// The number of the first element: 1, but 0 for `int2vector` and `oidvector`.
        lower_bound: i32,
    },
    /// A row type
    Composite {
        /// Its attributes in order.
        fields: Vec<CompositeField>,
    },
    /// A range
    Range(Box<TypeRef>),
    /// A multirange, with the type of its ranges' bounds
    Multirange(Box<TypeRef>),
    /// `hstore`
    Hstore,
    /// `vector` of the extension pgvector
    Vector {
        /// Its length, if it is declared.
        dimensions: Option<u32>,
    },
    /// `halfvec` of the extension pgvector
    HalfVector {
        /// Its length, if it is declared.
        dimensions: Option<u32>,
    },
    /// `geometry` or `geography` of PostGIS, as EWKB
    Geometry,
    /// A type without a binary form that this program knows: the server casts it to text and back
    ViaText,
}

/// The geometric types that are a fixed number of floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShapeKind {
    /// `point`
    Point,
    /// `line`
    Line,
    /// `lseg`
    Segment,
    /// `box`
    Box,
    /// `circle`
    Circle,
}

impl ShapeKind {
    /// The names of its numbers, in the order of the wire.
    pub const fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Point => &["x", "y"],
            Self::Line => &["a", "b", "c"],
            Self::Segment | Self::Box => &["x1", "y1", "x2", "y2"],
            Self::Circle => &["x", "y", "r"],
        }
    }
}

/// A type inside another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TypeRef {
    /// The oid that stands on the wire; of a domain, its own.
    pub oid: u32,
    /// The type modifier.
    pub typmod: i32,
    /// The type, a domain's resolved.
    pub pg_type: PgType,
}

/// One attribute of a row type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CompositeField {
    /// Its name, unquoted.
    pub name: String,
    /// Its type.
    pub of: TypeRef,
}

/// The `typmod` of a type without one.
pub const NO_TYPMOD: i32 = -1;
/// Bytes that a `typmod` of a type with a length or precision carries before it (`VARHDRSZ` in Postgres).
const TYPMOD_HEADER: i32 = 4;
/// The most digits that Arrow's `Decimal128` holds, and DuckDB's `DECIMAL`.
pub const DECIMAL_DIGITS_MAX: u8 = 38;
/// Postgres's own limit on the dimensions of an array, `MAXDIM`.
pub const ARRAY_DIMENSIONS_MAX: usize = 6;

impl PgType {
    /// The type of a built-in type's oid and a column's `typmod`; `None` when the oid alone does not tell it.
    ///
    /// # Source
    /// `pg_type.dat`; for `numeric` also `numerictypmodin` in `src/backend/utils/adt/numeric.c`: the scale is an
    /// eleven-bit signed number since PostgreSQL 15.
    pub fn from_catalogue(oid: u32, typmod: i32) -> Option<Self> {
        let length = u32::try_from(typmod - TYPMOD_HEADER).ok();
        let vector = |oid, pg_type| {
            let element = Box::new(TypeRef { oid, typmod: NO_TYPMOD, pg_type });
            Self::Array { element, dimensions: 1, lower_bound: 0 }
        };
        Some(match oid {
            16 => Self::Bool,
            17 => Self::Bytea,
            18 => Self::SingleByte,
            19 => Self::Name,
            20 => Self::Int8,
            21 => Self::Int2,
            22 => vector(21, Self::Int2),
            23 => Self::Int4,
            25 => Self::Text,
            27 => Self::Tid,
            // oid, xid, cid; regproc, regprocedure, regoper, regoperator, regclass, regtype; regrole, regnamespace;
            // regconfig, regdictionary; regcollation.
            26 | 28 | 29 | 24 | 2202..=2206 | 4089 | 4096 | 3734 | 3769 | 4191 => Self::Oid,
            30 => vector(26, Self::Oid),
            114 => Self::Json,
            142 => Self::Xml,
            600 => Self::Shape(ShapeKind::Point),
            601 => Self::Shape(ShapeKind::Segment),
            602 => Self::Path,
            603 => Self::Shape(ShapeKind::Box),
            604 => Self::Polygon,
            628 => Self::Shape(ShapeKind::Line),
            650 => Self::Cidr,
            700 => Self::Float4,
            701 => Self::Float8,
            718 => Self::Shape(ShapeKind::Circle),
            774 => Self::Macaddr8,
            829 => Self::Macaddr,
            869 => Self::Inet,
            1042 => Self::Bpchar { chars: length },
            1043 => Self::Varchar { max_chars: length },
            1082 => Self::Date,
            1083 => Self::Time,
            1114 => Self::Timestamp,
            1184 => Self::TimestampTz,
            1186 => Self::Interval,
            1266 => Self::TimeTz,
            1560 => Self::Bit { bits: u32::try_from(typmod).ok() },
            1562 => Self::Varbit { max_bits: u32::try_from(typmod).ok() },
            1700 => Self::numeric(typmod),
            2950 => Self::Uuid,
            // pg_lsn, xid8
            3220 | 5069 => Self::Unsigned8,
            3802 => Self::Jsonb,
            4072 => Self::VersionedText,
            _ => return None,
        })
    }

    fn numeric(typmod: i32) -> Self {
        if typmod < TYPMOD_HEADER {
            return Self::NumericUnbounded;
        }
        let packed = typmod - TYPMOD_HEADER;
        let precision = (packed >> 16) & 0xFFFF;
        let scale = ((packed & 0x7FF) ^ 0x400) - 0x400;
        let digits = match scale {
            ..0 => precision - scale,
            _ => precision.max(scale),
        };
        match (u16::try_from(precision), i16::try_from(scale)) {
            (Ok(precision), Ok(scale)) if digits <= i32::from(DECIMAL_DIGITS_MAX) => Self::Numeric { precision, scale },
            _ => Self::NumericUnbounded,
        }
    }

    /// Whether the type, or one that it consists of, is carried as text by a cast on the server.
    pub fn is_via_text(&self) -> bool {
        *self == Self::ViaText || self.parts().any(Self::is_via_text)
    }

    /// The types that this one directly consists of.
    pub fn parts(&self) -> impl Iterator<Item = &Self> {
        let (one, many): (Option<&TypeRef>, &[CompositeField]) = match self {
            Self::Array { element: of, .. } | Self::Range(of) | Self::Multirange(of) => (Some(of), &[]),
            Self::Composite { fields } => (None, fields),
            _ => (None, &[]),
        };
        one.into_iter().chain(many.iter().map(|field| &field.of)).map(|of| &of.pg_type)
    }

    /// Changes the types that this one consists of, and what they consist of, and at last this one.
    pub fn map(&mut self, change: &mut impl FnMut(&mut Self)) {
        match self {
            Self::Array { element: of, .. } | Self::Range(of) | Self::Multirange(of) => of.pg_type.map(change),
            Self::Composite { fields } => fields.iter_mut().for_each(|field| field.of.pg_type.map(change)),
            _ => {}
        }
        change(self);
    }
}

/// A column, as the catalogue describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnSchema {
    /// The name, unquoted.
    pub name: String,
    /// What `format_type` prints, such as `numeric(10,2)`.
    pub type_name: String,
    /// The type's oid; a domain's is resolved to its base type.
    pub type_oid: u32,
    /// The type modifier.
    pub typmod: i32,
    /// The type as this program knows it.
    pub pg_type: PgType,
    /// Whether the column refuses nulls.
    pub not_null: bool,
}

/// A table's columns in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// The table.
    pub table: TableName,
    /// Its columns in catalogue order, dropped ones left out.
    pub columns: Vec<ColumnSchema>,
}

impl TableSchema {
    /// A short hash that changes when a column's name, type, nullability or place does.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for column in &self.columns {
            hash.update(format!("{}\0{}\0{}\n", column.name, column.type_name, column.not_null));
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_table_name_is_in_public() {
        let table: TableName = "races".parse().expect("a plain name");
        assert_eq!((table.schema(), table.name()), ("public", "races"));
        let table: TableName = "Stud.Book.2024".parse().expect("a name with dots");
        assert_eq!((table.schema(), table.name()), ("Stud", "Book.2024"));
        assert!("x.".parse::<TableName>().is_err());
    }

    #[test]
    fn numeric_typmods_give_precision_and_scale() {
        // Typmods read from `pg_attribute` of PostgreSQL 15 for the types beside them.
        let cases = [
            (-1, PgType::NumericUnbounded),
            (655_366, PgType::Numeric { precision: 10, scale: 2 }),
            (327_686, PgType::Numeric { precision: 5, scale: 2 }),
            (2_490_372, PgType::Numeric { precision: 38, scale: 0 }),
            (2_555_908, PgType::NumericUnbounded),
            (198_657, PgType::Numeric { precision: 3, scale: -3 }),
        ];
        for (typmod, expected) in cases {
            assert_eq!(PgType::from_catalogue(1700, typmod), Some(expected), "typmod {typmod}");
        }
    }
}
