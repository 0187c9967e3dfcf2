//! What the lake holds, column by column: how many values, the least, the greatest and their sum, taken from the record
//! batches; and the SQL that asks the server for the same.
//!
//! Nothing here looks at the bytes that are sent, so a mistake of the encoder is found as well as one of the server.
//! Everything is exact and does not depend on the order of rows. Floats are not summed, since their sums do; what is
//! summed is a hash of each, the one that the server's hash partitioning uses and therefore keeps. Of text it is the
//! bytes that are summed, which the server knows without reading long values.

use std::cmp::Ordering;
use std::ops::Range as Rows;

use arrow::array::{
    Array, ArrayAccessor, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch, downcast_integer_array,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType,
};

use crate::columnar::PushPolicy;
use crate::pg::quote_ident;
use crate::schema::{ColumnSchema, PgType};
use crate::wire::Rounding;

/// What is tallied of a column, by its types in the lake and on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The number of values only.
    Count,
    Bool,
    /// Whole numbers, or decimals with this many digits after the point.
    Exact(i32),
    /// Floats, or what the server makes a float of by this cast.
    Float(&'static str),
    /// A number of days or microseconds.
    Time(TimeForm),
    /// Text in the order of its bytes, with or without its NUL characters.
    Text {
        stripped: bool,
    },
}

/// How a day or a time of the lake is found again in what the server sends for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TimeForm {
    /// The function that gives the server's bytes, and what the value is cast to for it.
    send: &'static str,
    cast: &'static str,
    /// The lake's `infinity`; the negative one is its negative.
    infinity: i128,
    /// The server's `-infinity` and `infinity`.
    infinities: (i128, i128),
    /// The server's units in one of the lake's.
    factor: i128,
    /// The server's zero, in its units after the lake's.
    epoch: i128,
}

const DAY_US: i128 = 86_400_000_000;
/// Days from 1970-01-01, the lake's zero, to 2000-01-01, the server's.
const EPOCH_DAYS: i128 = 10_957;

const DATE: TimeForm = TimeForm {
    send: "date_send",
    cast: "date",
    infinity: i32::MAX as i128,
    infinities: (i32::MIN as i128, i32::MAX as i128),
    factor: 1,
    epoch: EPOCH_DAYS,
};
const TIME: TimeForm =
    TimeForm { send: "time_send", cast: "time", infinity: i128::MAX, infinities: (0, 0), factor: 1, epoch: 0 };
const TIMESTAMP: TimeForm = TimeForm {
    send: "timestamp_send",
    cast: "timestamp",
    infinity: i64::MAX as i128,
    infinities: (i64::MIN as i128, i64::MAX as i128),
    factor: 1,
    epoch: EPOCH_DAYS * DAY_US,
};
const TIMESTAMPTZ: TimeForm = TimeForm { send: "timestamptz_send", cast: "timestamptz", ..TIMESTAMP };

impl TimeForm {
    /// For dates of the lake.
    const fn of_dates(self) -> Self {
        Self { infinity: DATE.infinity, factor: DAY_US, ..self }
    }

    fn on_server(self, value: i128) -> i128 {
        match value {
            value if value == self.infinity => self.infinities.1,
            value if value == -self.infinity => self.infinities.0,
            value => value * self.factor - self.epoch,
        }
    }
}

/// One column's values.
#[derive(Debug, Clone)]
pub(super) struct ColumnTally {
    name: String,
    /// The dataset column's place.
    index: usize,
    /// What the lake's values are read as.
    read_as: DataType,
    form: Form,
    /// Values that are not null.
    present: u64,
    range: Range,
    /// Of numbers, of hashes of floats, of bytes of text, or of the booleans that are true; `None` once it is not known.
    sum: Option<i128>,
}

/// The least and the greatest value, if there is any.
#[derive(Debug, Clone, PartialEq)]
enum Range {
    Exact(Option<(i128, i128)>),
    Floats(Option<(f64, f64)>),
    Texts(Option<(Vec<u8>, Vec<u8>)>),
}

impl Form {
    /// What can be compared of a column of this type in the lake that becomes one of the target's type, and what the
    /// lake's values are read as for it. Where the configuration lets values change, it is their number only.
    fn of(from: &DataType, to: &PgType, policy: PushPolicy) -> (Self, DataType) {
        use DataType as D;
        let as_it_is = |form| (form, from.clone());
        let numeric = matches!(to, PgType::Numeric { .. } | PgType::NumericUnbounded);
        let whole = matches!(to, PgType::Int2 | PgType::Int4 | PgType::Int8);
        let float = matches!(to, PgType::Float4 | PgType::Float8);
        let rounded = policy.rounding != Rounding::Error;
        match (from, to) {
            (D::Boolean, PgType::Bool) => as_it_is(Form::Bool),
            (from, _) if from.is_integer() && (whole || numeric && !rounded) => as_it_is(Form::Exact(0)),
            (from, _) if from.is_integer() && float => (Form::Float("float8"), D::Float64),
            (D::Float32 | D::Float64, _) if whole => (Form::Exact(0), D::Int64),
            (D::Float64, PgType::Float4) => (Form::Float("float8"), D::Float32),
            (D::Float32 | D::Float64, _) if float => as_it_is(Form::Float("float8")),
            // Their shortest digits are sent, which read back as the same float.
            (D::Float32, _) if numeric && !rounded => as_it_is(Form::Float("float4::float8")),
            (D::Float64 | D::Utf8 | D::LargeUtf8 | D::Utf8View, _) if numeric && !rounded => {
                as_it_is(Form::Float("float8"))
            }
            (D::Decimal128(_, scale), _) if (whole || numeric) && !rounded => as_it_is(Form::Exact(i32::from(*scale))),
            (D::Utf8 | D::LargeUtf8 | D::Utf8View, PgType::Text | PgType::Varchar { .. }) => {
                as_it_is(Form::Text { stripped: policy.strip_nul })
            }
            (D::Date32, PgType::Date) => as_it_is(Form::Time(DATE)),
            (D::Date32, PgType::Timestamp) => as_it_is(Form::Time(TIMESTAMP.of_dates())),
            (D::Date32, PgType::TimestampTz) => as_it_is(Form::Time(TIMESTAMPTZ.of_dates())),
            (D::Time64(TimeUnit::Microsecond), PgType::Time) if !rounded => as_it_is(Form::Time(TIME)),
            (D::Timestamp(TimeUnit::Microsecond, None), PgType::Date) => as_it_is(Form::Time(TIMESTAMP)),
            (D::Timestamp(TimeUnit::Microsecond, None), PgType::Timestamp) if !rounded => {
                as_it_is(Form::Time(TIMESTAMP))
            }
            (D::Timestamp(TimeUnit::Microsecond, Some(_)), PgType::TimestampTz) if !rounded => {
                as_it_is(Form::Time(TIMESTAMPTZ))
            }
            _ => as_it_is(Form::Count),
        }
    }
}

impl ColumnTally {
    /// A column without values, from the dataset's column at a place; `as_sent` tells whether the server stores what it
    /// is sent.
    pub(super) fn new(column: &ColumnSchema, index: usize, from: &DataType, policy: PushPolicy, as_sent: bool) -> Self {
        let from = match from {
            DataType::Dictionary(_, values) => values.as_ref(),
            plain => plain,
        };
        let (form, read_as) = Form::of(from, &column.pg_type, policy);
        let form = if as_sent { form } else { Form::Count };
        let range = match form {
            Form::Float(_) => Range::Floats(None),
            Form::Text { .. } => Range::Texts(None),
            _ => Range::Exact(None),
        };
        Self { name: column.name.clone(), index, read_as, form, present: 0, range, sum: Some(0) }
    }

    /// The target column.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Takes values that became null on the way out of the count; which they were is not known, so nothing else can be
    /// compared.
    pub(super) fn without(&mut self, nulled: u64) {
        self.present = self.present.saturating_sub(nulled);
        self.form = Form::Count;
    }

    /// Counts a batch's values.
    pub(super) fn add(&mut self, batch: &RecordBatch) {
        let Some(array) = batch.columns().get(self.index) else { return };
        let nulls = array.logical_null_count();
        self.present += u64::try_from(array.len() - nulls).unwrap_or(0);
        if self.form == Form::Count || nulls == array.len() {
            return;
        }
        let read;
        let array = if *array.data_type() == self.read_as {
            array
        } else {
            let Ok(cast) = cast(array, &self.read_as) else {
                self.form = Form::Count;
                return;
            };
            read = cast;
            &read
        };
        match self.form {
            Form::Count => {}
            Form::Bool => self.add_to_sum(array.as_boolean().true_count()),
            Form::Exact(_) => match array.data_type() {
                DataType::Decimal128(..) => self.add_exact(array.as_primitive::<Decimal128Type>()),
                _ => downcast_integer_array!(
                    array => { self.add_exact(array) }
                    _ => { self.form = Form::Count }
                ),
            },
            Form::Float(_) => self.add_floats(array),
            Form::Time(_) => match array.data_type() {
                DataType::Date32 => self.range.add_exact(array.as_primitive::<Date32Type>()),
                DataType::Time64(_) => self.range.add_exact(array.as_primitive::<Time64MicrosecondType>()),
                _ => self.range.add_exact(array.as_primitive::<TimestampMicrosecondType>()),
            },
            Form::Text { stripped } => match array.data_type() {
                DataType::Utf8 => self.add_texts(&array.as_string::<i32>(), stripped),
                DataType::LargeUtf8 => self.add_texts(&array.as_string::<i64>(), stripped),
                _ => self.add_texts(&array.as_string_view(), stripped),
            },
        }
    }

    fn add_to_sum(&mut self, value: impl TryInto<i128>) {
        self.sum = self.sum.zip(value.try_into().ok()).and_then(|(sum, value)| sum.checked_add(value));
    }

    fn add_exact<T: ArrowPrimitiveType<Native: Into<i128> + Ord>>(&mut self, array: &PrimitiveArray<T>) {
        self.range.add_exact(array);
        for rows in valid_rows(array) {
            let values = array.values().get(rows).unwrap_or_default().iter();
            let sum = values.map(|value| -> i128 { (*value).into() }).try_fold(0, i128::checked_add);
            self.sum = self.sum.zip(sum).and_then(|(all, sum)| all.checked_add(sum));
        }
    }

    fn add_floats(&mut self, array: &ArrayRef) {
        match array.data_type() {
            DataType::Float32 => {
                for rows in valid_rows(array) {
                    let values = array.as_primitive::<Float32Type>().values().get(rows).unwrap_or_default();
                    self.add_float_values(values.iter().map(|value| f64::from(*value)));
                }
            }
            DataType::Float64 => {
                for rows in valid_rows(array) {
                    let values = array.as_primitive::<Float64Type>().values().get(rows).unwrap_or_default();
                    self.add_float_values(values.iter().copied());
                }
            }
            DataType::Utf8 => self.add_numbers_in_texts(&array.as_string::<i32>()),
            DataType::LargeUtf8 => self.add_numbers_in_texts(&array.as_string::<i64>()),
            _ => self.add_numbers_in_texts(&array.as_string_view()),
        }
    }

    fn add_float_values(&mut self, values: impl Iterator<Item = f64>) {
        let mut sum = 0;
        for value in values {
            self.range.add_float(value);
            // The hashes of one batch are far too few to overflow it.
            sum += i128::from(hash_float8(value));
        }
        self.add_to_sum(sum);
    }

    /// Numbers that are kept as text because they may have any number of digits. One that no float comes near would be
    /// an error of the server's cast.
    fn add_numbers_in_texts<'a>(&mut self, array: &impl ArrayAccessor<Item = &'a str>) {
        for text in (0..array.len()).filter(|row| array.is_valid(*row)).map(|row| array.value(row)) {
            match text.trim().parse::<f64>() {
                Ok(value) if value.is_normal() || !text.contains(|digit| matches!(digit, '1'..='9')) => {
                    self.add_float_values(std::iter::once(value));
                }
                _ => {
                    self.form = Form::Count;
                    return;
                }
            }
        }
    }

    fn add_texts<'a>(&mut self, array: &impl ArrayAccessor<Item = &'a str>, stripped: bool) {
        let mut bytes = 0;
        for text in (0..array.len()).filter(|row| array.is_valid(*row)).map(|row| array.value(row)) {
            if stripped && text.contains('\0') {
                let text = text.replace('\0', "");
                bytes += text.len();
                self.range.add_text(text.as_bytes());
            } else {
                bytes += text.len();
                self.range.add_text(text.as_bytes());
            }
        }
        self.add_to_sum(bytes);
    }

    /// What the server is asked: the number of values, the least, the greatest, the sum, all as text.
    pub(super) fn expressions(&self) -> Vec<String> {
        let column = quote_ident(&self.name);
        let mut asked = vec![format!("count({column})::text")];
        let least_and_greatest = |value: &dyn Fn(&str) -> String| [value("min"), value("max")];
        match self.form {
            Form::Count => {}
            Form::Bool => asked.push(format!("count(*) FILTER (WHERE {column})::text")),
            Form::Exact(_) => {
                asked.extend(least_and_greatest(&|of| format!("{of}({column})::text")));
                asked.push(format!("sum({column})::text"));
            }
            Form::Float(cast) => {
                asked.extend(least_and_greatest(&|of| format!("{of}({column})::{cast}::text")));
                asked.push(format!("sum(hashfloat8extended({column}::{cast}, 0))::text"));
            }
            Form::Time(TimeForm { send, cast, .. }) => {
                asked.extend(least_and_greatest(&|of| format!("encode({send}({of}({column})::{cast}), 'hex')")));
            }
            Form::Text { .. } => {
                asked.extend(least_and_greatest(&|of| format!("{of}({column} COLLATE \"C\")")));
                asked.push(format!("sum(octet_length({column}))::text"));
            }
        }
        asked
    }

    /// Compares with the server's answers to [`ColumnTally::expressions`]; says what differs. Sums of hashes, and text,
    /// are compared only where the server makes them as we do.
    pub(super) fn difference(&self, rows: u64, answers: &[Option<String>], server: ServerForms) -> Option<String> {
        let name = &self.name;
        let answer = |index: usize| answers.get(index).and_then(Option::as_deref);
        let present: u64 = answer(0)?.parse().unwrap_or(0);
        if present != self.present {
            let (found, held) = (rows.saturating_sub(present), rows.saturating_sub(self.present));
            return Some(format!("column {name} has {found} nulls instead of {held}"));
        }
        if self.present == 0 {
            return None;
        }
        let (range, sum) = match self.form {
            Form::Count => return None,
            Form::Bool => (None, answer(1)),
            Form::Text { .. } if !server.utf8 => return None,
            Form::Time(_) => (Some((answer(1), answer(2))), None),
            Form::Float(_) if !server.same_hash => (Some((answer(1), answer(2))), None),
            Form::Exact(_) | Form::Float(_) | Form::Text { .. } => (Some((answer(1), answer(2))), answer(3)),
        };
        if let Some((least, greatest)) = range
            && !self.has_range(least?, greatest?)
        {
            return Some(format!("column {name} has another least or greatest value"));
        }
        let same = match (sum, self.sum) {
            (Some(found), Some(held)) => self.scaled(found) == Some(held),
            _ => true,
        };
        (!same).then(|| match self.form {
            Form::Text { .. } => format!("column {name} has another number of bytes in its texts"),
            _ => format!("column {name} has another sum"),
        })
    }

    fn has_range(&self, least: &str, greatest: &str) -> bool {
        match (&self.range, self.form) {
            (Range::Exact(Some(held)), Form::Time(form)) => {
                from_hex(least) == Some(form.on_server(held.0)) && from_hex(greatest) == Some(form.on_server(held.1))
            }
            (Range::Exact(Some(held)), _) => {
                self.scaled(least) == Some(held.0) && self.scaled(greatest) == Some(held.1)
            }
            (Range::Floats(Some(held)), _) => {
                let same = |text: &str, held: f64| text.parse().is_ok_and(|value| float_order(value, held).is_eq());
                same(least, held.0) && same(greatest, held.1)
            }
            (Range::Texts(Some(held)), _) => least.as_bytes() == held.0 && greatest.as_bytes() == held.1,
            _ => false,
        }
    }

    /// Decimal text as a whole number of the least digit in the lake.
    fn scaled(&self, text: &str) -> Option<i128> {
        let scale = match self.form {
            Form::Exact(scale) => usize::try_from(scale).ok()?,
            _ => 0,
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let fraction = fraction.trim_end_matches('0');
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
    fn add_exact<T: ArrowPrimitiveType<Native: Into<i128> + Ord>>(&mut self, array: &PrimitiveArray<T>) {
        let Self::Exact(range) = self else { return };
        for rows in valid_rows(array) {
            let values = array.values().get(rows).unwrap_or_default();
            let (Some(least), Some(greatest)) = (values.iter().min(), values.iter().max()) else { continue };
            let (least, greatest): (i128, i128) = ((*least).into(), (*greatest).into());
            let (all_least, all_greatest) = range.get_or_insert((least, greatest));
            *all_least = least.min(*all_least);
            *all_greatest = greatest.max(*all_greatest);
        }
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

/// Where values are that are not null, as runs of rows.
fn valid_rows(array: &dyn Array) -> impl Iterator<Item = Rows<usize>> {
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    let all = nulls.is_none().then_some(0..array.len());
    all.into_iter().chain(nulls.into_iter().flat_map(|nulls| nulls.valid_slices().map(|(from, to)| from..to)))
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
    use std::sync::Arc;

    use arrow::array::{Date32Array, Float64Array, Int32Array, StringArray};

    use super::*;
    use crate::schema::NO_TYPMOD;

    const SERVER: ServerForms = ServerForms { utf8: true, same_hash: true };

    fn tally(pg_type: PgType, array: ArrayRef) -> ColumnTally {
        let column = ColumnSchema {
            name: "c".into(),
            type_name: String::new(),
            type_oid: 0,
            typmod: NO_TYPMOD,
            pg_type,
            not_null: false,
        };
        let mut tally = ColumnTally::new(&column, 0, array.data_type(), PushPolicy::default(), true);
        let batch = RecordBatch::try_from_iter_with_nullable([("c", array, true)]).expect("one column");
        let first = batch.num_rows() / 2;
        tally.add(&batch.slice(0, first));
        tally.add(&batch.slice(first, batch.num_rows() - first));
        tally
    }

    fn answers(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    #[test]
    fn every_difference_is_found() {
        let ints = tally(PgType::Int2, Arc::new(Int32Array::from(vec![Some(-3), None, Some(5)])));
        let differs = |texts: &[&str]| ints.difference(3, &answers(texts), SERVER);
        assert_eq!(differs(&["2", "-3", "5", "2"]), None);
        assert_eq!(differs(&["1", "-3", "5", "2"]), Some("column c has 2 nulls instead of 1".into()));
        assert_eq!(differs(&["2", "-3", "4", "2"]), Some("column c has another least or greatest value".into()));
        assert_eq!(differs(&["2", "-3", "5", "3"]), Some("column c has another sum".into()));
        let texts = tally(PgType::Text, Arc::new(StringArray::from(vec!["b", "é", "a"])));
        let differs = |texts_of: &[&str]| texts.difference(3, &answers(texts_of), SERVER);
        assert_eq!(differs(&["3", "a", "é", "4"]), None);
        assert_eq!(differs(&["3", "a", "e", "4"]), Some("column c has another least or greatest value".into()));
        assert_eq!(differs(&["3", "a", "é", "5"]), Some("column c has another number of bytes in its texts".into()));
    }

    #[test]
    fn a_server_may_keep_more_digits_and_not_others() {
        let ints = tally(PgType::NumericUnbounded, Arc::new(Int32Array::from(vec![7, 8])));
        assert_eq!(ints.difference(2, &answers(&["2", "7.000", "8.0", "15.000"]), SERVER), None);
        assert!(ints.difference(2, &answers(&["2", "7.000", "8.0", "15.001"]), SERVER).is_some());
    }

    #[test]
    fn infinite_dates_are_the_servers() {
        let dates = tally(PgType::Date, Arc::new(Date32Array::from(vec![-i32::MAX, 0, i32::MAX])));
        assert!(dates.has_range("80000000", "7fffffff"));
        let times = tally(PgType::Timestamp, Arc::new(Date32Array::from(vec![0, 10_958])));
        assert!(times.has_range("fffca2fec4c82000", "000000141dd76000"));
    }

    #[test]
    fn floats_are_ordered_and_hashed_as_the_server_does() {
        let floats = tally(PgType::Float8, Arc::new(Float64Array::from(vec![1.5, f64::NAN, -0.0, f64::NEG_INFINITY])));
        assert!(floats.has_range("-Infinity", "NaN"));
        assert!(!floats.has_range("-Infinity", "1.5"));
        assert_eq!(hash_float8(-0.0), 0);
        // As a server answers.
        assert_eq!([1.5, f64::NAN].map(hash_float8), [6_158_159_405_676_898_674, 4_719_788_943_832_604_568]);
        assert_eq!(hash_float8(f64::NAN), hash_float8(-f64::NAN));
    }
}
