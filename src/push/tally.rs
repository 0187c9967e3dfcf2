//! What was sent, column by column: how many values, the least, the greatest and their sum, taken from the very bytes
//! of the COPY; and the SQL that asks the server for the same.
//!
//! Everything is exact and does not depend on the order of rows. Floats are not summed, since their sums do; what is
//! summed is a hash of each, the one that the server's hash partitioning uses and therefore keeps.

use std::cmp::Ordering;

use crate::pg::quote_ident;
use crate::schema::{ColumnSchema, PgType};
use crate::wire::NumericDigits;

/// What is tallied of a column, by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The number of values only.
    Count,
    Bool,
    Integer,
    Float4,
    Float8,
    /// A decimal with this many digits after the point.
    Decimal(i32),
    /// A number of days or microseconds, by the function that gives its bytes.
    Time(&'static str),
    /// Text in the order of its bytes.
    Text,
}

/// One column's values.
#[derive(Debug, Clone)]
pub(super) struct ColumnTally {
    name: String,
    form: Form,
    /// Values that are not null.
    present: u64,
    range: Range,
    /// Of numbers, of hashes of floats, or of the booleans that are true; `None` once it is not known.
    sum: Option<i128>,
}

/// The least and the greatest value, if there is any.
#[derive(Debug, Clone, PartialEq)]
enum Range {
    Integers(Option<(i128, i128)>),
    Floats(Option<(f64, f64)>),
    Texts(Option<(Vec<u8>, Vec<u8>)>),
}

impl ColumnTally {
    /// A column without values; `as_sent` tells whether the server stores what it is sent.
    pub(super) fn new(column: &ColumnSchema, as_sent: bool) -> Self {
        let form = match &column.pg_type {
            _ if !as_sent => Form::Count,
            PgType::Bool => Form::Bool,
            PgType::Int2 | PgType::Int4 | PgType::Int8 => Form::Integer,
            PgType::Float4 => Form::Float4,
            PgType::Float8 => Form::Float8,
            PgType::Numeric { scale, .. } if *scale >= 0 => Form::Decimal(i32::from(*scale)),
            PgType::Date => Form::Time("date_send"),
            PgType::Time => Form::Time("time_send"),
            PgType::Timestamp => Form::Time("timestamp_send"),
            PgType::TimestampTz => Form::Time("timestamptz_send"),
            PgType::Text | PgType::Varchar { .. } => Form::Text,
            _ => Form::Count,
        };
        let range = match form {
            Form::Float4 | Form::Float8 => Range::Floats(None),
            Form::Text => Range::Texts(None),
            _ => Range::Integers(None),
        };
        Self { name: column.name.clone(), form, present: 0, range, sum: Some(0) }
    }

    /// Counts one value by the bytes of its field.
    fn add(&mut self, field: &[u8]) {
        self.present += 1;
        match self.form {
            Form::Count => {}
            Form::Bool => self.add_to_sum(i128::from(field.first().copied().unwrap_or(0))),
            Form::Integer | Form::Time(_) => {
                let value = signed(field);
                self.range.add_integer(value);
                self.add_to_sum(value);
            }
            Form::Float4 => {
                let bits = field.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                self.add_float(f64::from(f32::from_bits(bits)));
            }
            Form::Float8 => {
                let bits = field.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                self.add_float(f64::from_bits(bits));
            }
            Form::Decimal(scale) => match NumericDigits::parse(field).and_then(|digits| digits.to_scaled(scale)) {
                Ok(value) => {
                    self.range.add_integer(value);
                    self.add_to_sum(value);
                }
                // NaN has no place among integers.
                Err(_) => self.form = Form::Count,
            },
            Form::Text => self.range.add_text(field),
        }
    }

    fn add_to_sum(&mut self, value: i128) {
        self.sum = self.sum.and_then(|sum| sum.checked_add(value));
    }

    fn add_float(&mut self, value: f64) {
        self.range.add_float(value);
        self.add_to_sum(i128::from(hash_float8(value)));
    }

    /// What the server is asked: the number of values, the least, the greatest, the sum, all as text.
    pub(super) fn expressions(&self) -> Vec<String> {
        let column = quote_ident(&self.name);
        let mut asked = vec![format!("count({column})::text")];
        let least_and_greatest = |value: &dyn Fn(&str) -> String| [value("min"), value("max")];
        match self.form {
            Form::Count => {}
            Form::Bool => asked.push(format!("count(*) FILTER (WHERE {column})::text")),
            Form::Integer | Form::Decimal(_) => {
                asked.extend(least_and_greatest(&|of| format!("{of}({column})::text")));
                asked.push(format!("sum({column})::text"));
            }
            Form::Float4 | Form::Float8 => {
                asked.extend(least_and_greatest(&|of| format!("{of}({column})::float8::text")));
                asked.push(format!("sum(hashfloat8extended({column}, 0))::text"));
            }
            Form::Time(send) => {
                asked.extend(least_and_greatest(&|of| format!("encode({send}({of}({column})), 'hex')")));
            }
            Form::Text => asked.extend(least_and_greatest(&|of| format!("{of}({column} COLLATE \"C\")"))),
        }
        asked
    }

    /// Compares with the server's answers to [`ColumnTally::expressions`]; says what differs. Sums of hashes and ranges
    /// of text are compared only where the server makes them as we do.
    pub(super) fn difference(&self, rows: u64, answers: &[Option<String>], server: ServerForms) -> Option<String> {
        let name = &self.name;
        let answer = |index: usize| answers.get(index).and_then(Option::as_deref);
        let present: u64 = answer(0)?.parse().unwrap_or(0);
        if present != self.present {
            let (found, sent) = (rows.saturating_sub(present), rows.saturating_sub(self.present));
            return Some(format!("column {name} has {found} nulls and was sent with {sent}"));
        }
        if self.present == 0 {
            return None;
        }
        let (range, sum) = match self.form {
            Form::Count => return None,
            Form::Bool => (None, answer(1)),
            Form::Text if !server.utf8 => return None,
            Form::Text | Form::Time(_) => (Some((answer(1), answer(2))), None),
            Form::Float4 | Form::Float8 if !server.same_hash => (Some((answer(1), answer(2))), None),
            Form::Integer | Form::Decimal(_) | Form::Float4 | Form::Float8 => (Some((answer(1), answer(2))), answer(3)),
        };
        if let Some((least, greatest)) = range
            && !self.has_range(least?, greatest?)
        {
            return Some(format!("column {name} lies between other values than those sent"));
        }
        let same = match (sum, self.sum) {
            (Some(found), Some(sent)) => self.scaled(found) == Some(sent),
            _ => true,
        };
        (!same).then(|| format!("column {name} has another sum than what was sent"))
    }

    fn has_range(&self, least: &str, greatest: &str) -> bool {
        match (&self.range, self.form) {
            (Range::Integers(Some(sent)), Form::Time(_)) => {
                from_hex(least) == Some(sent.0) && from_hex(greatest) == Some(sent.1)
            }
            (Range::Integers(Some(sent)), _) => {
                self.scaled(least) == Some(sent.0) && self.scaled(greatest) == Some(sent.1)
            }
            (Range::Floats(Some(sent)), _) => {
                let same = |text: &str, sent: f64| text.parse().is_ok_and(|value| float_order(value, sent).is_eq());
                same(least, sent.0) && same(greatest, sent.1)
            }
            (Range::Texts(Some(sent)), _) => least.as_bytes() == sent.0 && greatest.as_bytes() == sent.1,
            _ => false,
        }
    }

    /// Decimal text as a whole number of the column's least digit.
    fn scaled(&self, text: &str) -> Option<i128> {
        let scale = match self.form {
            Form::Decimal(scale) => usize::try_from(scale).ok()?,
            _ => 0,
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        format!("{whole}{fraction:0<scale$}").parse().ok().filter(|_| fraction.len() <= scale)
    }
}

/// How a server differs from others in what it is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerForms {
    /// Whether text is stored as it is sent.
    pub(super) utf8: bool,
    /// Whether its hash of a float is ours; one whose processor puts the high byte first has another.
    pub(super) same_hash: bool,
}

impl ServerForms {
    /// What tells it.
    pub(super) const SQL: &'static str = "(getdatabaseencoding() = 'UTF8')::text, hashfloat8extended(1.5, 0)::text";

    /// From the answers to [`ServerForms::SQL`].
    pub(super) fn of(answers: &[Option<String>]) -> Self {
        let is =
            |index: usize, expected: &str| answers.get(index).is_some_and(|found| found.as_deref() == Some(expected));
        Self { utf8: is(0, "true"), same_hash: is(1, &hash_float8(1.5).to_string()) }
    }
}

impl Range {
    fn add_integer(&mut self, value: i128) {
        let Self::Integers(range) = self else { return };
        let (least, greatest) = range.get_or_insert((value, value));
        *least = value.min(*least);
        *greatest = value.max(*greatest);
    }

    fn add_float(&mut self, value: f64) {
        let Self::Floats(range) = self else { return };
        let (least, greatest) = range.get_or_insert((value, value));
        if float_order(value, *least).is_lt() {
            *least = value;
        }
        if float_order(value, *greatest).is_gt() {
            *greatest = value;
        }
    }

    fn add_text(&mut self, value: &[u8]) {
        let Self::Texts(range) = self else { return };
        let (least, greatest) = range.get_or_insert_with(|| (value.to_vec(), value.to_vec()));
        if value < least.as_slice() {
            value.clone_into(least);
        } else if value > greatest.as_slice() {
            value.clone_into(greatest);
        }
    }
}

/// Adds the tuples of encoded COPY data to the tallies of their columns.
pub(super) fn add_tuples(tallies: &mut [ColumnTally], mut tuples: &[u8]) {
    while let Some((_, mut fields)) = tuples.split_first_chunk::<2>() {
        for tally in tallies.iter_mut() {
            let Some((length, rest)) = fields.split_first_chunk() else { return };
            fields = rest;
            // A negative length is a null.
            if let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) {
                let Some((field, rest)) = fields.split_at_checked(length) else { return };
                tally.add(field);
                fields = rest;
            }
        }
        tuples = fields;
    }
}

/// A big-endian number of up to eight bytes.
fn signed(field: &[u8]) -> i128 {
    let negative = field.first().is_some_and(|byte| byte & 0x80 != 0);
    field.iter().fold(if negative { -1 } else { 0 }, |value, byte| value << 8 | i128::from(*byte))
}

fn from_hex(text: &str) -> Option<i128> {
    let bytes: Option<Vec<u8>> = text
        .as_bytes()
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    bytes.map(|bytes| signed(&bytes))
}

/// The server's order: NaN is above everything and equal to itself, the zeros are equal.
fn float_order(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
}

/// `hashfloat8extended(value, 0)`: Bob Jenkins's hash over the eight bytes.
///
/// # Source
/// `hash_bytes_extended` in Postgres `src/common/hashfn.c`, `hashfloat8extended` in `src/backend/access/hash/hashfunc.c`.
fn hash_float8(value: f64) -> i64 {
    /// `0x9e3779b9 + 8 + 3923095`: what the hash of eight bytes begins with.
    const START: u32 = 0x9e37_79b9_u32.wrapping_add(8 + 3_923_095);
    if value == 0.0 {
        return 0;
    }
    let bits = if value.is_nan() { f64::NAN.to_bits() & !(1 << 63) } else { value.to_bits() };
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
    let (mut a, mut b, mut c) = (START.wrapping_add(half(bits)), START.wrapping_add(half(bits >> 32)), START);
    let step = |into: u32, from: u32, by: u32| (into ^ from).wrapping_sub(from.rotate_left(by));
    c = step(c, b, 14);
    a = step(a, c, 11);
    b = step(b, a, 25);
    c = step(c, b, 16);
    a = step(a, c, 4);
    b = step(b, a, 14);
    c = step(c, b, 24);
    (u64::from(b) << 32 | u64::from(c)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::NO_TYPMOD;

    fn tally(pg_type: PgType, fields: &[Option<&[u8]>]) -> ColumnTally {
        let column = ColumnSchema {
            name: "c".into(),
            type_name: String::new(),
            type_oid: 0,
            typmod: NO_TYPMOD,
            pg_type,
            not_null: false,
        };
        let mut tallies = [ColumnTally::new(&column, true)];
        for field in fields {
            let mut tuple = vec![0, 1];
            let length = field.map_or(-1, |field| i32::try_from(field.len()).unwrap_or(0));
            tuple.extend(length.to_be_bytes());
            tuple.extend(field.unwrap_or_default());
            add_tuples(&mut tallies, &tuple);
        }
        let [tally] = tallies;
        tally
    }

    fn answers(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    #[test]
    fn every_difference_is_found() {
        let server = ServerForms { utf8: true, same_hash: true };
        let ints = tally(PgType::Int2, &[Some(&(-3_i16).to_be_bytes()), None, Some(&5_i16.to_be_bytes())]);
        let differs = |texts: &[&str]| ints.difference(3, &answers(texts), server);
        assert_eq!(differs(&["2", "-3", "5", "2"]), None);
        assert_eq!(differs(&["1", "-3", "5", "2"]), Some("column c has 2 nulls and was sent with 1".into()));
        assert_eq!(differs(&["2", "-3", "4", "2"]), Some("column c lies between other values than those sent".into()));
        assert_eq!(differs(&["2", "-3", "5", "3"]), Some("column c has another sum than what was sent".into()));
        let texts = tally(PgType::Text, &[Some(b"b"), Some("é".as_bytes()), Some(b"a")]);
        assert_eq!(texts.difference(3, &answers(&["3", "a", "é"]), server), None);
        assert!(texts.difference(3, &answers(&["3", "a", "e"]), server).is_some());
    }

    #[test]
    fn floats_are_ordered_and_hashed_as_the_server_does() {
        let bytes: Vec<[u8; 8]> = [1.5, f64::NAN, -0.0, f64::NEG_INFINITY].map(f64::to_be_bytes).to_vec();
        let fields: Vec<Option<&[u8]>> = bytes.iter().map(|bytes| Some(bytes.as_slice())).collect();
        let floats = tally(PgType::Float8, &fields);
        assert!(floats.has_range("-Infinity", "NaN"));
        assert!(!floats.has_range("-Infinity", "1.5"));
        assert_eq!(hash_float8(-0.0), 0);
        // As a server answers.
        assert_eq!([1.5, f64::NAN].map(hash_float8), [6_158_159_405_676_898_674, 4_719_788_943_832_604_568]);
        assert_eq!(hash_float8(f64::NAN), hash_float8(-f64::NAN));
    }
}
