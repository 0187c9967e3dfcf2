//! The decoder against bytes that are not what they should be, with every allocation counted: a test binary of its
//! own, because the counting allocator serves the whole process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use allocation_counter::{AllocationInfo, measure};
use racealpha::columnar::{BatchBuilder, BuildError};
use racealpha::schema::{ColumnSchema, CompositeField, NO_TYPMOD, PgType, TableName, TableSchema, TypeRef};
use racealpha::wire::{COPY_HEADER, COPY_TRAILER, CopyDecoder, DecodeError};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

include!("../../fuzz/types.rs");

/// Mutated streams per type.
const MUTATIONS: usize = 8000;
/// Bytes that decoding a stream of a few hundred bytes may have allocated at once. A numeric of ten bytes may be a
/// number of 147 000 digits, so it is not a small multiple of the stream.
const MEMORY_MAX: u64 = 32 << 20;
/// Allocations by which a stream of a hundred times the rows may exceed another: every buffer doubles seven times, and a
/// range has some thirty of them.
const DOUBLINGS_MAX: u64 = 256;

fn table(pg_type: PgType) -> TableSchema {
    let column = ColumnSchema {
        name: "c".to_owned(),
        type_name: String::new(),
        type_oid: 0,
        typmod: NO_TYPMOD,
        pg_type,
        not_null: false,
    };
    TableSchema { table: TableName::new("public", "t"), columns: vec![column] }
}

/// The committed stream of a type, as the server sent it.
fn stream(number: usize, name: &str) -> Vec<u8> {
    let path = format!("{}/fuzz/corpus/copy_decode/{name}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let (first, stream) = bytes.split_first().unwrap();
    assert_eq!(usize::from(*first), number, "{name} has its number");
    stream.to_vec()
}

#[derive(Debug)]
enum Refused {
    Stream(DecodeError),
    Value(BuildError),
}

/// Decodes a stream in blocks of `block` bytes; gives the rows.
fn decode(table: &TableSchema, bytes: &[u8], block: usize) -> Result<usize, Refused> {
    let mut decoder = CopyDecoder::new(table.columns.len());
    let (mut builder, mut rows) = (BatchBuilder::new(table), 0);
    for piece in bytes.chunks(block) {
        decoder.push(piece).map_err(Refused::Stream)?;
        builder.append(decoder.block(), decoder.block_bytes()).map_err(Refused::Value)?;
        decoder.clear_block();
        rows += builder.finish().map_err(Refused::Value)?.num_rows();
    }
    decoder.finish().map_err(Refused::Stream)?;
    Ok(rows)
}

/// Changes a few bytes: anywhere, to anything, more likely to what lengths and counts are made of.
fn mutate(random: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..6) {
            0 => bytes[at] = random.random(),
            1 => bytes[at] ^= 1 << random.random_range(0..8),
            2 => {
                let word = [[0xFF; 4], [0x7F, 0xFF, 0xFF, 0xFF], [0; 4], [0, 0, 0, 1], [0x80, 0, 0, 0]];
                let word = word[random.random_range(0..word.len())];
                bytes.iter_mut().skip(at).zip(word).for_each(|(byte, new)| *byte = new);
            }
            3 => bytes.truncate(at.max(1)),
            4 => bytes.insert(at, random.random()),
            _ => {
                bytes.remove(at);
                bytes.resize(bytes.len().max(1), 0);
            }
        }
    }
}

#[test]
fn what_the_server_sent_is_decoded() {
    for (number, (name, pg_type)) in types().into_iter().enumerate() {
        let (table, bytes) = (table(pg_type), stream(number, name));
        for block in [1, 7, bytes.len()] {
            let rows = decode(&table, &bytes, block).unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert!((1..=6).contains(&rows), "{name}: {rows} rows");
        }
    }
}

/// Any bytes give values or an error that names their place; never a panic, never memory that no bytes stand for.
#[test]
fn any_bytes_give_values_or_a_named_error() {
    const SEED: u64 = 20_240_316;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let (mut refused, mut decoded) = (0, 0);
    for (number, (name, pg_type)) in types().into_iter().enumerate() {
        let (table, original) = (table(pg_type), stream(number, name));
        for round in 0..MUTATIONS {
            let mut bytes = original.clone();
            if round % 8 == 0 {
                bytes.truncate(COPY_HEADER.len());
                bytes.extend((0..random.random_range(0..300)).map(|_| random.random::<u8>()));
            } else {
                mutate(&mut random, &mut bytes);
            }
            let mut result = Ok(0);
            let used = measure(|| result = decode(&table, &bytes, 64));
            assert!(used.bytes_max < MEMORY_MAX, "{name}, round {round}, seed {SEED}: {used:?}");
            match result {
                Ok(_) => decoded += 1,
                Err(Refused::Value(BuildError::Value { column, byte, .. })) => {
                    assert_eq!(column, "c");
                    assert!(byte.is_some(), "{name}, round {round}, seed {SEED}: no place");
                    refused += 1;
                }
                Err(Refused::Value(error)) => panic!("{name}, round {round}, seed {SEED}: {error:?}"),
                Err(Refused::Stream(error)) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > MUTATIONS && decoded > MUTATIONS, "both happen: {refused} refused, {decoded} decoded");
}

/// A stream with the tuples of another one many times.
fn repeated(stream: &[u8], times: usize) -> Vec<u8> {
    let tuples = &stream[COPY_HEADER.len()..stream.len() - COPY_TRAILER.len()];
    [COPY_HEADER.as_slice(), &tuples.repeat(times), &COPY_TRAILER].concat()
}

/// The decoder allocates per batch and not per row, whatever the type.
#[test]
fn allocations_do_not_depend_on_the_rows() {
    for (number, (name, pg_type)) in types().into_iter().enumerate() {
        let (table, one) = (table(pg_type), stream(number, name));
        let count = |times: usize| -> AllocationInfo {
            let bytes = repeated(&one, times);
            let mut rows = 0;
            let used = measure(|| rows = decode(&table, &bytes, bytes.len()).unwrap());
            assert!(rows >= times, "{name}");
            used
        };
        let (few, many) = (count(50).count_total, count(5000).count_total);
        assert!(many <= few + DOUBLINGS_MAX, "{name}: {few} allocations for few rows and {many} for many");
    }
}

/// A wrong field is named with its column, row and byte.
#[test]
fn an_error_says_where() {
    let mut bytes = COPY_HEADER.to_vec();
    bytes.extend([0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 2, 9, 9]);
    let refused = decode(&table(PgType::Bool), &bytes, bytes.len()).unwrap_err();
    let Refused::Value(error) = refused else { panic!("{refused:?}") };
    assert_eq!(error.to_string(), "column c, row 1: 2 bytes instead of 1 (byte 32 of the stream)");

    // The halves of one character are no texts, though together they are one.
    let mut bytes = COPY_HEADER.to_vec();
    bytes.extend(b"\0\x01\0\0\0\x02ok\0\x01\0\0\0\x01\xC3\0\x01\0\0\0\x01\xA9");
    for text in [PgType::Text, PgType::ViaText] {
        let refused = decode(&table(text), &bytes, bytes.len()).unwrap_err();
        let Refused::Value(error) = refused else { panic!("{refused:?}") };
        assert_eq!(error.to_string(), "column c, row 1: text that is not valid UTF-8 (byte 33 of the stream)");
    }
}
