//! One field of every kind of type, as the server sends it, for the benches of both directions.

use racealpha::schema::{ColumnSchema, CompositeField, NO_TYPMOD, PgType, ShapeKind, TableName, TableSchema, TypeRef};
use racealpha::wire::{COPY_HEADER, COPY_TRAILER};

/// Rows of a stream.
pub(crate) const ROWS: usize = 100_000;
/// Columns of a row, all alike.
pub(crate) const COLUMNS: usize = 4;

/// A type's name, the type and one field of it.
pub(crate) fn cases() -> Vec<(&'static str, PgType, Vec<u8>)> {
    let numeric = [0, 2, 0, 1, 0, 0, 0, 3, 0x09, 0x29, 0x1A, 0x7C].to_vec();
    let of = |oid, pg_type| TypeRef { oid, typmod: NO_TYPMOD, pg_type };
    let array = |element| PgType::Array { element: Box::new(element), dimensions: 1, lower_bound: 1 };
    let fields = vec![
        CompositeField { name: "a".to_owned(), of: of(23, PgType::Int4) },
        CompositeField { name: "b".to_owned(), of: of(25, PgType::Text) },
    ];
    let words = |words: &[i32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let micros = 772_000_000_000_000_i64.to_be_bytes();
    vec![
        ("bool", PgType::Bool, vec![1]),
        ("int4", PgType::Int4, 918_273_i32.to_be_bytes().to_vec()),
        ("int8", PgType::Int8, 918_273_i64.to_be_bytes().to_vec()),
        ("float8", PgType::Float8, 58.5_f64.to_be_bytes().to_vec()),
        ("text", PgType::Text, b"shes-a-hustler".to_vec()),
        ("numeric_text", PgType::NumericUnbounded, numeric.clone()),
        ("numeric_decimal", PgType::Numeric { precision: 12, scale: 3 }, numeric),
        ("date", PgType::Date, 8841_i32.to_be_bytes().to_vec()),
        ("timestamptz", PgType::TimestampTz, micros.to_vec()),
        ("timetz", PgType::TimeTz, [&45_296_123_456_i64.to_be_bytes()[..], &(-20_700_i32).to_be_bytes()].concat()),
        ("interval", PgType::Interval, [&micros[..], &words(&[3, 14])].concat()),
        ("uuid", PgType::Uuid, (1..=16).collect()),
        ("bytea", PgType::Bytea, vec![7; 24]),
        ("jsonb", PgType::Jsonb, b"\x01{\"a\": [1.10, null]}".to_vec()),
        ("inet", PgType::Inet, vec![2, 24, 0, 4, 192, 168, 1, 1]),
        ("varbit", PgType::Varbit { max_bits: None }, vec![0, 0, 0, 16, 0xAB, 0xCD]),
        ("point", PgType::Shape(ShapeKind::Point), [1.5_f64.to_be_bytes(), (-2.0_f64).to_be_bytes()].concat()),
        ("int4_array", array(of(23, PgType::Int4)), words(&[1, 0, 23, 4, 1, 4, 1, 4, 2, 4, 3, 4, 4])),
        ("composite", PgType::Composite { fields }, [&words(&[2, 23, 4, 7, 25, 5])[..], b"shady"].concat()),
        ("int4range", PgType::Range(Box::new(of(23, PgType::Int4))), [&[2][..], &words(&[4, 1, 4, 5])].concat()),
        ("hstore", PgType::Hstore, [&words(&[1, 5])[..], b"going", &words(&[4]), b"firm"].concat()),
        (
            "vector_16",
            PgType::Vector { dimensions: Some(16) },
            [&[0, 16, 0, 0][..], &[0.25_f32.to_be_bytes(); 16].concat()].concat(),
        ),
    ]
}

/// A stream of rows of equal fields.
pub(crate) fn stream(field: &[u8]) -> Vec<u8> {
    let mut bytes = COPY_HEADER.to_vec();
    for _ in 0..ROWS {
        bytes.extend(i16::try_from(COLUMNS).expect("few columns").to_be_bytes());
        for _ in 0..COLUMNS {
            bytes.extend(i32::try_from(field.len()).expect("a short field").to_be_bytes());
            bytes.extend(field);
        }
    }
    bytes.extend(COPY_TRAILER);
    bytes
}

/// A table of such columns.
pub(crate) fn table(pg_type: &PgType) -> TableSchema {
    let column = |index: usize| ColumnSchema {
        name: format!("c{index}"),
        type_name: String::new(),
        type_oid: 0,
        typmod: NO_TYPMOD,
        pg_type: pg_type.clone(),
        not_null: false,
    };
    TableSchema { table: TableName::new("public", "t"), columns: (0..COLUMNS).map(column).collect() }
}
