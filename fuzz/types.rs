// The types of the corpus in `fuzz/corpus/copy_decode`: the first byte of an input says which, the rest is a COPY BINARY
// stream of one column. Included by the fuzz target and by `tests/codec`.

/// Name and type, in the order of the numbers.
pub(crate) fn types() -> Vec<(&'static str, PgType)> {
    let of = |oid| PgType::from_catalogue(oid, NO_TYPMOD).unwrap_or(PgType::ViaText);
    let part = |oid| Box::new(TypeRef { oid, typmod: NO_TYPMOD, pg_type: of(oid) });
    let array = |oid, dimensions| PgType::Array { element: part(oid), dimensions, lower_bound: 1 };
    let field = |name: &str, oid| CompositeField { name: name.to_owned(), of: *part(oid) };
    vec![
        ("bool", of(16)),
        ("int2", of(21)),
        ("int4", of(23)),
        ("int8", of(20)),
        ("float4", of(700)),
        ("float8", of(701)),
        ("numeric", of(1700)),
        ("decimal", PgType::Numeric { precision: 12, scale: 3 }),
        ("numeric_as_float", PgType::NumericAsFloat),
        ("money", PgType::Money { scale: 2 }),
        ("text", of(25)),
        ("char", of(18)),
        ("bytea", of(17)),
        ("date", of(1082)),
        ("time", of(1083)),
        ("timetz", of(1266)),
        ("timestamptz", of(1184)),
        ("interval", of(1186)),
        ("uuid", of(2950)),
        ("jsonb", of(3802)),
        ("inet", of(869)),
        ("macaddr", of(829)),
        ("varbit", of(1562)),
        ("oid", of(26)),
        ("pg_lsn", of(3220)),
        ("tid", of(27)),
        ("box", of(603)),
        ("path", of(602)),
        ("polygon", of(604)),
        ("int4_array", array(23, 1)),
        ("text_matrix", array(25, 2)),
        ("numrange", PgType::Range(part(1700))),
        ("int4multirange", PgType::Multirange(part(23))),
        ("int2vector", of(22)),
        ("row", PgType::Composite { fields: vec![field("a", 23), field("b", 25), field("c", 1700)] }),
        ("hstore", PgType::Hstore),
        ("vector", PgType::Vector { dimensions: None }),
        ("halfvec", PgType::HalfVector { dimensions: None }),
    ]
}
