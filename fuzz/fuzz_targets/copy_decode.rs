//! Any bytes after the first one, which chooses the type, are decoded or refused.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the modules are included whole")]

#[path = "../../src/columnar/mod.rs"]
mod columnar;
#[path = "../../src/schema.rs"]
mod schema;
#[path = "../../src/wire/mod.rs"]
mod wire;

use columnar::BatchBuilder;
use libfuzzer_sys::fuzz_target;
use schema::{ColumnSchema, CompositeField, NO_TYPMOD, PgType, TableName, TableSchema, TypeRef};
use wire::CopyDecoder;

include!("../types.rs");

fuzz_target!(|input: &[u8]| {
    let Some((number, stream)) = input.split_first() else { return };
    let mut types = types();
    let (name, pg_type) = types.swap_remove(usize::from(*number) % types.len());
    let column = ColumnSchema {
        name: name.to_owned(),
        type_name: String::new(),
        type_oid: 0,
        typmod: NO_TYPMOD,
        pg_type,
        not_null: false,
    };
    let table = TableSchema { table: TableName::new("public", "t"), columns: vec![column] };
    let (mut decoder, mut builder) = (CopyDecoder::new(1), BatchBuilder::new(&table));
    if decoder.push(stream).is_ok() && builder.append(decoder.block(), decoder.block_bytes()).is_ok() {
        let _ = builder.finish();
    }
});
