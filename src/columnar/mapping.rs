//! The one table of pairs: Postgres type, Arrow type.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};

use crate::schema::{ColumnSchema, DECIMAL_DIGITS_MAX, PgType, ShapeKind, TableSchema};

/// Field metadata: what `format_type` prints.
pub const PG_TYPE_KEY: &str = "pg.type";
/// Field metadata: the type as this program knows it, domains resolved; on the fields inside nested ones too.
pub const PG_KIND_KEY: &str = "pg.kind";
const PG_OID_KEY: &str = "pg.oid";
const PG_TYPMOD_KEY: &str = "pg.typmod";
const PG_NOT_NULL_KEY: &str = "pg.not_null";
const PG_CLASS_KEY: &str = "pg.class";
const PG_ENUM_LABELS_KEY: &str = "pg.enum_labels";
const PG_DIMENSIONS_KEY: &str = "pg.ndims";
/// Field metadata: the declared length of a vector.
pub const PG_VECTOR_LENGTH_KEY: &str = "pg.vector_length";
const PG_MONEY_SCALE_KEY: &str = "pg.money_scale";
/// Arrow's key for canonical extension types; the Parquet writer turns them into logical types.
const EXTENSION_KEY: &str = "ARROW:extension:name";
/// Arrow's key for their parameters, which `arrow.json` must have though it has none.
const EXTENSION_METADATA_KEY: &str = "ARROW:extension:metadata";
/// Arrow's name of JSON.
const JSON_EXTENSION: &str = "arrow.json";
/// Decimal digits of 64 bits, which is what `money` is.
const MONEY_DIGITS: u8 = 19;

/// How views and phases are told about types that Parquet cannot tell apart.
pub mod kind {
    /// `char(n)`: the spaces at its end mean nothing in Postgres.
    pub const BPCHAR: &str = "bpchar";
    /// `citext`: upper and lower case are alike.
    pub const CITEXT: &str = "citext";
    /// `timetz` as text.
    pub const TIMETZ: &str = "timetz";
}

/// The fields of an `interval`: Parquet's own INTERVAL is unsigned with millisecond precision, so it is not used.
pub(crate) fn interval_fields() -> Fields {
    Fields::from(vec![
        Field::new("months", DataType::Int32, false),
        Field::new("days", DataType::Int32, false),
        Field::new("micros", DataType::Int64, false),
    ])
}

/// Precision and scale of the `Decimal128` for `numeric(precision, scale)`; Arrow wants `0 <= scale <= precision`.
pub(crate) fn decimal_shape(precision: u16, scale: i16) -> (u8, i8) {
    let digits = i32::from(precision);
    let (precision, scale) = match i32::from(scale) {
        scale @ ..0 => (digits - scale, 0),
        scale => (digits.max(scale), scale),
    };
    // `PgType::Numeric` exists only for shapes within 38 digits.
    (u8::try_from(precision).unwrap_or(DECIMAL_DIGITS_MAX), i8::try_from(scale).unwrap_or(0))
}

/// The Arrow type that holds every value of a Postgres type, or refuses it.
pub(crate) fn data_type(pg_type: &PgType) -> DataType {
    match pg_type {
        PgType::Bool => DataType::Boolean,
        PgType::Int2 => DataType::Int16,
        PgType::Int4 => DataType::Int32,
        PgType::Int8 => DataType::Int64,
        PgType::Oid => DataType::UInt32,
        PgType::Unsigned8 => DataType::UInt64,
        PgType::Float4 => DataType::Float32,
        PgType::Float8 | PgType::NumericAsFloat => DataType::Float64,
        PgType::Numeric { precision, scale } => {
            let (precision, scale) = decimal_shape(*precision, *scale);
            DataType::Decimal128(precision, scale)
        }
        PgType::Money { scale } => DataType::Decimal128(MONEY_DIGITS, i8::try_from(*scale).unwrap_or(0)),
        PgType::NumericUnbounded
        | PgType::Text
        | PgType::Varchar { .. }
        | PgType::Bpchar { .. }
        | PgType::Name
        | PgType::Citext
        | PgType::SingleByte
        | PgType::Xml
        | PgType::TimeTz
        | PgType::Json
        | PgType::Jsonb
        | PgType::VersionedText
        | PgType::Inet
        | PgType::Cidr
        | PgType::Macaddr
        | PgType::Macaddr8
        | PgType::Bit { .. }
        | PgType::Varbit { .. }
        | PgType::Enum { .. }
        | PgType::ViaText => DataType::Utf8,
        PgType::Bytea | PgType::Geometry => DataType::Binary,
        PgType::Date => DataType::Date32,
        PgType::Time => DataType::Time64(TimeUnit::Microsecond),
        PgType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        PgType::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        PgType::Interval => DataType::Struct(interval_fields()),
        PgType::Uuid => DataType::FixedSizeBinary(16),
        PgType::Tid | PgType::Shape(_) | PgType::Path | PgType::Composite { .. } | PgType::Range(_) => {
            DataType::Struct(struct_fields(pg_type))
        }
        PgType::Polygon => DataType::List(element_field(&PgType::Shape(ShapeKind::Point))),
        PgType::Array { element, dimensions, .. } => {
            let inner = DataType::List(element_field(&element.pg_type));
            (1..*dimensions).fold(inner, |inner, _| DataType::List(Arc::new(Field::new(ELEMENT, inner, true))))
        }
        PgType::Multirange(of) => DataType::List(element_field(&PgType::Range(of.clone()))),
        PgType::Hstore => DataType::Map(hstore_entries(), false),
        // Not a list of fixed size, in which every null would take as much memory as a value.
        PgType::Vector { .. } | PgType::HalfVector { .. } => DataType::List(element_field(&PgType::Float4)),
    }
}

/// What Parquet calls the field inside a list.
const ELEMENT: &str = "element";

/// The field of a list's elements.
pub(crate) fn element_field(pg_type: &PgType) -> FieldRef {
    Arc::new(part_field(ELEMENT, pg_type))
}

/// The one field of a map of `hstore`: pairs of text.
pub(crate) fn hstore_entries() -> FieldRef {
    let pair = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)];
    Arc::new(Field::new("key_value", DataType::Struct(Fields::from(pair)), false))
}

/// The fields of a type that is a group.
pub(crate) fn struct_fields(pg_type: &PgType) -> Fields {
    let fixed = |name: &str, data_type| Field::new(name, data_type, true);
    match pg_type {
        PgType::Tid => vec![fixed("block", DataType::UInt32), fixed("offset", DataType::UInt16)].into(),
        PgType::Shape(kind) => kind.parts().iter().map(|part| fixed(part, DataType::Float64)).collect(),
        PgType::Path => {
            let points = DataType::List(element_field(&PgType::Shape(ShapeKind::Point)));
            vec![fixed("closed", DataType::Boolean), fixed("points", points)].into()
        }
        PgType::Composite { fields } => fields.iter().map(|field| part_field(&field.name, &field.of.pg_type)).collect(),
        PgType::Range(of) => {
            let mut fields = vec![part_field("lower", &of.pg_type), part_field("upper", &of.pg_type)];
            fields.extend(["lower_inc", "upper_inc", "empty"].map(|name| fixed(name, DataType::Boolean)));
            fields.into()
        }
        _ => Fields::empty(),
    }
}

/// A field inside a nested one.
fn part_field(name: &str, pg_type: &PgType) -> Field {
    Field::new(name, data_type(pg_type), true).with_metadata(type_metadata(pg_type))
}

/// What the Arrow type alone does not say.
fn type_metadata(pg_type: &PgType) -> HashMap<String, String> {
    let extension = match pg_type {
        PgType::Uuid => Some("arrow.uuid"),
        PgType::Json | PgType::Jsonb => Some(JSON_EXTENSION),
        _ => None,
    };
    let kind = match pg_type {
        PgType::Bpchar { .. } => Some(kind::BPCHAR),
        PgType::Citext => Some(kind::CITEXT),
        PgType::TimeTz => Some(kind::TIMETZ),
        _ => None,
    };
    let labels = match pg_type {
        PgType::Enum { labels } => serde_json::to_string(labels).ok(),
        _ => None,
    };
    let dimensions = match pg_type {
        PgType::Array { dimensions, .. } => Some(dimensions.to_string()),
        _ => None,
    };
    let vector_length = match pg_type {
        PgType::Vector { dimensions } | PgType::HalfVector { dimensions } => {
            dimensions.map(|length| length.to_string())
        }
        _ => None,
    };
    let money_scale = match pg_type {
        PgType::Money { scale } => Some(scale.to_string()),
        _ => None,
    };
    let entries = [
        (EXTENSION_KEY, extension.map(str::to_owned)),
        (EXTENSION_METADATA_KEY, extension.filter(|name| *name == JSON_EXTENSION).map(|_| String::new())),
        (PG_KIND_KEY, kind.map(str::to_owned)),
        (PG_ENUM_LABELS_KEY, labels),
        (PG_DIMENSIONS_KEY, dimensions),
        (PG_VECTOR_LENGTH_KEY, vector_length),
        (PG_MONEY_SCALE_KEY, money_scale),
    ];
    entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// How a column travels: as its own bytes (N), as text after a version byte (V), or by a cast to text (T).
fn class(pg_type: &PgType) -> &'static str {
    match pg_type {
        PgType::ViaText => "T",
        PgType::Jsonb | PgType::VersionedText => "V",
        _ => "N",
    }
}

/// The Arrow field of a Postgres column, with its Postgres type in the metadata.
pub fn field_for(column: &ColumnSchema) -> Field {
    let mut metadata = type_metadata(&column.pg_type);
    let entries = [
        (PG_TYPE_KEY, column.type_name.clone()),
        (PG_OID_KEY, column.type_oid.to_string()),
        (PG_TYPMOD_KEY, column.typmod.to_string()),
        (PG_CLASS_KEY, class(&column.pg_type).to_owned()),
        (PG_NOT_NULL_KEY, column.not_null.to_string()),
    ];
    metadata.extend(entries.map(|(key, value)| (key.to_owned(), value)));
    // A view's or an inherited column's NOT NULL is not the data's promise, so every field may be null.
    Field::new(&column.name, data_type(&column.pg_type), true).with_metadata(metadata)
}

/// The Arrow schema of a Postgres table.
pub fn schema_for(table: &TableSchema) -> SchemaRef {
    Arc::new(Schema::new(table.columns.iter().map(field_for).collect::<Vec<_>>()))
}
