//! The one table of pairs: Postgres type, Arrow type.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::schema::{ColumnSchema, PgType, TableSchema};

/// Field metadata: what `format_type` prints.
pub const PG_TYPE_KEY: &str = "pg.type";
const PG_OID_KEY: &str = "pg.oid";
const PG_TYPMOD_KEY: &str = "pg.typmod";
const PG_NOT_NULL_KEY: &str = "pg.not_null";
/// Arrow's key for canonical extension types; the Parquet writer turns them into logical types.
const EXTENSION_KEY: &str = "ARROW:extension:name";

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
    (u8::try_from(precision).unwrap_or(38), i8::try_from(scale).unwrap_or(0))
}

/// The Arrow type that holds every value of a Postgres type, or refuses it.
fn data_type(pg_type: PgType) -> DataType {
    match pg_type {
        PgType::Bool => DataType::Boolean,
        PgType::Int2 => DataType::Int16,
        PgType::Int4 => DataType::Int32,
        PgType::Int8 => DataType::Int64,
        PgType::Float4 => DataType::Float32,
        PgType::Float8 => DataType::Float64,
        PgType::Numeric { precision, scale } => {
            let (precision, scale) = decimal_shape(precision, scale);
            DataType::Decimal128(precision, scale)
        }
        PgType::NumericUnbounded | PgType::Text | PgType::Varchar { .. } | PgType::Json | PgType::Jsonb => {
            DataType::Utf8
        }
        PgType::Bytea => DataType::Binary,
        PgType::Date => DataType::Date32,
        PgType::Time => DataType::Time64(TimeUnit::Microsecond),
        PgType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        PgType::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        PgType::Interval => DataType::Struct(interval_fields()),
        PgType::Uuid => DataType::FixedSizeBinary(16),
    }
}

/// The Arrow field of a Postgres column, with its Postgres type in the metadata.
pub fn field_for(column: &ColumnSchema) -> Field {
    let mut metadata = HashMap::from([
        (PG_TYPE_KEY.to_owned(), column.type_name.clone()),
        (PG_OID_KEY.to_owned(), column.type_oid.to_string()),
        (PG_TYPMOD_KEY.to_owned(), column.typmod.to_string()),
        (PG_NOT_NULL_KEY.to_owned(), column.not_null.to_string()),
    ]);
    let extension = match column.pg_type {
        PgType::Uuid => Some("arrow.uuid"),
        PgType::Json | PgType::Jsonb => Some("arrow.json"),
        _ => None,
    };
    metadata.extend(extension.map(|name| (EXTENSION_KEY.to_owned(), name.to_owned())));
    // A view's or an inherited column's NOT NULL is not the data's promise, so every field may be null.
    Field::new(&column.name, data_type(column.pg_type), true).with_metadata(metadata)
}

/// The Arrow schema of a Postgres table.
pub fn schema_for(table: &TableSchema) -> SchemaRef {
    Arc::new(Schema::new(table.columns.iter().map(field_for).collect::<Vec<_>>()))
}
