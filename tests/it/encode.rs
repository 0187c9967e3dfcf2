//! What the encoder sends is what Postgres makes of the same value as text.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, StringViewArray,
    StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field};
use bytes::BytesMut;
use futures::SinkExt;
use racealpha::columnar::{EncodeError, RowEncoder};
use racealpha::pg::describe_table;
use racealpha::schema::TableName;
use racealpha::wire::{COPY_HEADER, COPY_TRAILER, ValueError};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::Client;

use crate::support::TestDb;

/// Microseconds from 1970 to 2000.
const Y2K_US: i64 = 946_684_800_000_000;

struct Oracle {
    client: Client,
    _db: TestDb,
}

impl Oracle {
    async fn new(name: &str) -> Result<Self> {
        let db = TestDb::new(name).await?;
        let client = db.client().await?;
        client
            .batch_execute("SET TimeZone = 'UTC'; SET IntervalStyle = 'postgres'; SET search_path = pg_catalog")
            .await?;
        Ok(Self { client, _db: db })
    }

    /// An encoder for one column of a new table of this type.
    async fn encoder(&self, pg_type: &str, array: &ArrayRef) -> Result<(RowEncoder, RecordBatch)> {
        self.client
            .batch_execute(&format!("DROP TABLE IF EXISTS public.v; CREATE TABLE public.v (v {pg_type}, id serial)"))
            .await?;
        let mut target = describe_table(&self.client, &TableName::new("public", "v")).await?.schema.columns;
        target.truncate(1);
        let batch = RecordBatch::try_from_iter_with_nullable([("v", Arc::clone(array), true)])?;
        let encoder = RowEncoder::new(&batch.schema(), &target)
            .with_context(|| format!("{} into {pg_type}", array.data_type()))?;
        Ok((encoder, batch))
    }

    /// Sends the array, and compares what arrived with what Postgres reads from the texts; `None` is NULL.
    async fn check(&self, pg_type: &str, array: ArrayRef, texts: &[Option<&str>]) -> Result<()> {
        let texts: Vec<Option<String>> = texts.iter().map(|text| text.map(str::to_owned)).collect();
        let (mut encoder, batch) = self.encoder(pg_type, &array).await?;
        let mut out = BytesMut::from(COPY_HEADER.as_slice());
        encoder.encode(&batch, &mut out).with_context(|| pg_type.to_owned())?;
        out.extend_from_slice(&COPY_TRAILER);
        let sink = self.client.copy_in("COPY public.v (v) FROM STDIN (FORMAT binary)").await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(out.freeze()).await?;
        let rows = sink.finish().await.with_context(|| format!("{} into {pg_type}", array.data_type()))?;
        assert_eq!(rows, u64::try_from(texts.len()).unwrap());
        let sql = format!(
            "SELECT v::text, t.t::{pg_type}::text, t.t FROM public.v, unnest($1::text[]) WITH ORDINALITY t(t, n)
             WHERE t.n = v.id AND v::text IS DISTINCT FROM t.t::{pg_type}::text"
        );
        let different = self.client.query(&sql, &[&texts]).await.with_context(|| pg_type.to_owned())?;
        let different: Vec<(Option<String>, Option<String>, Option<String>)> =
            different.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        assert_eq!(different, [], "{} into {pg_type}: what arrived, what Postgres reads, the text", array.data_type());
        Ok(())
    }

    /// What refuses the first value of the array.
    async fn refusal(&self, pg_type: &str, array: ArrayRef) -> Result<ValueError> {
        let (mut encoder, batch) = self.encoder(pg_type, &array).await?;
        match encoder.encode(&batch, &mut BytesMut::new()) {
            Err(EncodeError::Value { column, row: 0, reason, .. }) if column == "v" => Ok(reason),
            other => anyhow::bail!("{} into {pg_type}: {other:?}", array.data_type()),
        }
    }
}

fn array(array: impl arrow::array::Array + 'static) -> ArrayRef {
    Arc::new(array)
}

fn decimal(values: Vec<Option<i128>>, precision: u8, scale: i8) -> ArrayRef {
    array(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
}

fn interval(values: &[(i32, i32, i64)]) -> ArrayRef {
    let part = |name, array: ArrayRef| (Arc::new(Field::new(name, array.data_type().clone(), true)), array);
    array(StructArray::from(vec![
        part("months", array(Int32Array::from_iter_values(values.iter().map(|value| value.0)))),
        part("days", array(Int32Array::from_iter_values(values.iter().map(|value| value.1)))),
        part("micros", array(Int64Array::from_iter_values(values.iter().map(|value| value.2)))),
    ]))
}

#[tokio::test]
async fn numbers_arrive_as_postgres_reads_them() -> Result<()> {
    let oracle = Oracle::new("encode_numbers").await?;
    let check = |pg_type, array, texts| oracle.check(pg_type, array, texts);
    check("bool", array(BooleanArray::from(vec![Some(true), None, Some(false)])), &[Some("t"), None, Some("f")])
        .await?;
    check(
        "int2",
        array(Int64Array::from(vec![Some(-32768), Some(32767), None])),
        &[Some("-32768"), Some("32767"), None],
    )
    .await?;
    check("int4", array(Int8Array::from(vec![-128, 127])), &[Some("-128"), Some("127")]).await?;
    check("int8", array(UInt64Array::from(vec![u64::MAX >> 1, 0])), &[Some("9223372036854775807"), Some("0")]).await?;
    check(
        "float8",
        array(Float64Array::from(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 5e-324, f64::MAX])),
        &[Some("NaN"), Some("Infinity"), Some("-Infinity"), Some("-0"), Some("5e-324"), Some("1.7976931348623157e308")],
    )
    .await?;
    check(
        "float8",
        array(Float32Array::from(vec![0.5, f32::MIN_POSITIVE])),
        &[Some("0.5"), Some("1.1754943508222875e-38")],
    )
    .await?;
    check("float8", array(Int64Array::from(vec![1 << 53, -7])), &[Some("9007199254740992"), Some("-7")]).await?;
    check(
        "float4",
        array(Float64Array::from(vec![0.1, f64::NAN, f64::INFINITY])),
        &[Some("0.1"), Some("NaN"), Some("Infinity")],
    )
    .await?;
    check("int4", array(Float64Array::from(vec![2_147_483_647.0, -0.0])), &[Some("2147483647"), Some("0")]).await?;
    check(
        "int8",
        decimal(vec![Some(-9_223_372_036_854_775_808), Some(17)], 38, 0),
        &[Some("-9223372036854775808"), Some("17")],
    )
    .await?;
    check("int2", decimal(vec![Some(1200), None], 10, 2), &[Some("12"), None]).await?;

    assert_eq!(oracle.refusal("int2", array(Int32Array::from(vec![32768]))).await?, ValueError::OutOfRange);
    assert_eq!(oracle.refusal("int8", array(UInt64Array::from(vec![1 << 63]))).await?, ValueError::OutOfRange);
    assert_eq!(oracle.refusal("float4", array(Float64Array::from(vec![1e39]))).await?, ValueError::OutOfRange);
    assert_eq!(oracle.refusal("float4", array(Int32Array::from(vec![(1 << 24) + 1]))).await?, ValueError::Inexact);
    assert_eq!(oracle.refusal("int4", array(Float64Array::from(vec![1.5]))).await?, ValueError::Fraction);
    assert_eq!(oracle.refusal("int4", array(Float64Array::from(vec![f64::NAN]))).await?, ValueError::NotFinite);
    assert_eq!(oracle.refusal("int4", decimal(vec![Some(1201)], 10, 2)).await?, ValueError::Fraction);
    assert_eq!(oracle.refusal("int4 NOT NULL", array(Int32Array::from(vec![None]))).await?, ValueError::Null);
    Ok(())
}

#[tokio::test]
async fn numerics_arrive_digit_for_digit() -> Result<()> {
    let oracle = Oracle::new("encode_numerics").await?;
    let mut random = ChaCha8Rng::seed_from_u64(11);
    for scale in [0_i8, 1, 2, 3, 4, 5, 8, 11, 37, 38] {
        let mut values: Vec<i128> =
            vec![0, 1, -1, 10_i128.pow(37), 10_i128.pow(38) - 1, 1 - 10_i128.pow(38), 100_001_234];
        values.extend((0..300).map(|_| (random.random::<i128>() >> random.random_range(1..127)) % 10_i128.pow(38)));
        let places = usize::from(scale.unsigned_abs());
        let texts: Vec<String> = values
            .iter()
            .map(|value| {
                let digits = format!("{:0>width$}", value.unsigned_abs(), width = places + 1);
                let (integer, fraction) = digits.split_at(digits.len() - places);
                let (sign, point) = (if *value < 0 { "-" } else { "" }, if places > 0 { "." } else { "" });
                format!("{sign}{integer}{point}{fraction}")
            })
            .collect();
        let expected: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
        let decimals = decimal(values.into_iter().map(Some).collect(), 38, scale);
        oracle.check("numeric", Arc::clone(&decimals), &expected).await?;
        oracle.check(&format!("numeric(38,{scale})"), decimals, &expected).await?;
        oracle.check("numeric", array(expected.iter().copied().collect::<StringArray>()), &expected).await?;
    }
    let words = [
        "NaN",
        "Infinity",
        "-Infinity",
        "1.10",
        "-0.000",
        "1e-7",
        "12e5",
        "00012.50",
        ".5",
        "7.",
        "1e400",
        "0.0001e-3",
    ];
    let long = format!("{}.{}", "9".repeat(2000), "3".repeat(1999));
    let words: Vec<Option<&str>> = words.into_iter().map(Some).chain([None, Some(long.as_str())]).collect();
    oracle.check("numeric", array(words.iter().copied().collect::<StringViewArray>()), &words).await?;
    oracle
        .check(
            "numeric(50,3)",
            array(StringArray::from(vec!["1234567890123456789012345678901234567890.125"])),
            &[Some("1234567890123456789012345678901234567890.125")],
        )
        .await?;
    oracle
        .check("numeric(4,-2)", array(Int64Array::from(vec![123_400, -100])), &[Some("123400"), Some("-100")])
        .await?;
    oracle.check("numeric(2,5)", array(StringArray::from(vec!["0.00012"])), &[Some("0.00012")]).await?;
    let floats = [0.1, 1e22, -2.5e-9, f64::MAX, f64::NAN, 123_456_789.125, f64::INFINITY];
    let texts: Vec<String> = floats.iter().map(|value| format!("{value:e}")).collect();
    let texts: Vec<Option<&str>> =
        texts.iter().map(|text| Some(if text == "inf" { "Infinity" } else { text })).collect();
    oracle.check("numeric", array(Float64Array::from(floats.to_vec())), &texts).await?;

    let refused = |pg_type, text| oracle.refusal(pg_type, array(StringArray::from(vec![text])));
    assert_eq!(refused("numeric(5,2)", "1.239").await?, ValueError::Scale { scale: 2 });
    assert_eq!(refused("numeric(5,2)", "1000.0").await?, ValueError::Precision { limit: 3 });
    assert_eq!(refused("numeric(50,2)", "1.239").await?, ValueError::Scale { scale: 2 });
    assert_eq!(refused("numeric(4,-2)", "150").await?, ValueError::Scale { scale: -2 });
    assert_eq!(refused("numeric(2,5)", "0.001").await?, ValueError::Precision { limit: -3 });
    assert_eq!(refused("numeric(5,2)", "Infinity").await?, ValueError::NotFinite);
    assert_eq!(refused("numeric", "twelve").await?, ValueError::Unreadable);
    assert_eq!(
        oracle.refusal("numeric(5,2)", decimal(vec![Some(12_345)], 38, 3)).await?,
        ValueError::Scale { scale: 2 }
    );
    assert_eq!(
        oracle.refusal("numeric(2,5)", decimal(vec![Some(100)], 38, 5)).await?,
        ValueError::Precision { limit: -3 }
    );
    assert_eq!(
        oracle.refusal("numeric(3)", array(Int16Array::from(vec![1000]))).await?,
        ValueError::Precision { limit: 3 }
    );
    Ok(())
}

#[tokio::test]
async fn times_arrive_to_the_microsecond() -> Result<()> {
    let oracle = Oracle::new("encode_times").await?;
    let days = vec![Some(0), Some(i32::MAX), Some(-i32::MAX), Some(-2_440_588), None];
    let texts = [Some("1970-01-01"), Some("infinity"), Some("-infinity"), Some("4714-11-24 BC"), None];
    oracle.check("date", array(Date32Array::from(days.clone())), &texts).await?;
    oracle.check("timestamp", array(Date32Array::from(days)), &texts).await?;
    let ends = array(Date32Array::from(vec![2_145_042_905, -1]));
    oracle.check("date", ends, &[Some("5874897-12-31"), Some("1969-12-31")]).await?;
    assert_eq!(oracle.refusal("date", array(Date32Array::from(vec![2_145_042_906]))).await?, ValueError::OutOfRange);
    oracle.check("timestamptz", array(Date32Array::from(vec![19_000])), &[Some("2022-01-08 00:00:00+00")]).await?;
    let stamps = vec![Some(0), Some(Y2K_US), Some(i64::MAX), Some(-i64::MAX), Some(i64::MAX - 1), Some(-1), None];
    let texts = [
        Some("1970-01-01 00:00:00"),
        Some("2000-01-01 00:00:00"),
        Some("infinity"),
        Some("-infinity"),
        Some("294247-01-10 04:00:54.775806"),
        Some("1969-12-31 23:59:59.999999"),
        None,
    ];
    oracle.check("timestamp", array(TimestampMicrosecondArray::from(stamps.clone())), &texts).await?;
    oracle.check("timestamptz", array(TimestampMicrosecondArray::from(stamps).with_timezone("UTC")), &texts).await?;
    oracle
        .check("timestamp(3)", array(TimestampMicrosecondArray::from(vec![1000])), &[Some("1970-01-01 00:00:00.001")])
        .await?;
    oracle
        .check(
            "date",
            array(TimestampMicrosecondArray::from(vec![Some(-86_400_000_000), Some(i64::MAX)])),
            &[Some("1969-12-31"), Some("infinity")],
        )
        .await?;
    oracle
        .check(
            "time",
            array(Time64MicrosecondArray::from(vec![0, 86_400_000_000, 1])),
            &[Some("00:00"), Some("24:00"), Some("00:00:00.000001")],
        )
        .await?;
    let intervals = [(14, -3, 1_000_001), (i32::MIN + 1, i32::MAX, i64::MIN + 1), (0, 0, 0)];
    let texts = ["14 mons -3 days 1.000001 s", "-2147483647 mons 2147483647 days -2562047788:00:54.775807", "0"];
    oracle.check("interval", interval(&intervals), &texts.map(Some)).await?;

    assert_eq!(
        oracle.refusal("timestamp(3)", array(TimestampMicrosecondArray::from(vec![1]))).await?,
        ValueError::FinerThan { digits: 3 }
    );
    assert_eq!(
        oracle.refusal("time(0)", array(Time64MicrosecondArray::from(vec![1]))).await?,
        ValueError::FinerThan { digits: 0 }
    );
    assert_eq!(oracle.refusal("time", array(Time64MicrosecondArray::from(vec![-1]))).await?, ValueError::OutOfRange);
    assert_eq!(
        oracle.refusal("date", array(TimestampMicrosecondArray::from(vec![1]))).await?,
        ValueError::FinerThan { digits: 0 }
    );
    assert_eq!(oracle.refusal("date", array(Date32Array::from(vec![i32::MIN]))).await?, ValueError::OutOfRange);
    assert_eq!(
        oracle.refusal("timestamp", array(Date32Array::from(vec![i32::MAX - 1]))).await?,
        ValueError::OutOfRange
    );
    assert_eq!(
        oracle.refusal("timestamp", array(TimestampMicrosecondArray::from(vec![i64::MIN]))).await?,
        ValueError::OutOfRange
    );
    assert_eq!(oracle.refusal("interval(2)", interval(&[(0, 0, 1)])).await?, ValueError::FinerThan { digits: 2 });
    assert!(oracle.encoder("interval year to month", &interval(&[(1, 0, 0)])).await.is_err());
    assert!(oracle.encoder("timestamptz", &array(TimestampMicrosecondArray::from(vec![1]))).await.is_err());
    Ok(())
}

#[tokio::test]
async fn texts_and_bytes_arrive_unchanged() -> Result<()> {
    let oracle = Oracle::new("encode_texts").await?;
    let words = [Some("plain"), Some(""), None, Some("Ä🐎 \\ \" ' \t\r\n"), Some("NULL")];
    for pg_type in ["text", "varchar", "varchar(15)"] {
        oracle.check(pg_type, array(StringArray::from(words.to_vec())), &words).await?;
        oracle.check(pg_type, array(StringViewArray::from(words.to_vec())), &words).await?;
    }
    let documents = [Some(r#"{"b": 1.10, "a": [1e400, null], "b": 2}"#), Some("\"x\""), None];
    oracle.check("json", array(StringArray::from(documents.to_vec())), &documents).await?;
    let documents = [Some(r#"{"b": 1.10, "a": [true, null], "b": 2}"#), Some("12345678901234567890.10"), None];
    oracle.check("jsonb", array(StringArray::from(documents.to_vec())), &documents).await?;
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let bytes: Vec<u8> =
        (0..16).map(|at| u8::from_str_radix(&uuid.replace('-', "")[at * 2..at * 2 + 2], 16).unwrap()).collect();
    let uuids = array(FixedSizeBinaryArray::try_from_iter([bytes.clone()].into_iter()).unwrap());
    assert_eq!(uuids.data_type(), &DataType::FixedSizeBinary(16));
    for pg_type in ["uuid", "text", "varchar(36)"] {
        oracle.check(pg_type, Arc::clone(&uuids), &[Some(uuid)]).await?;
    }
    oracle
        .check(
            "uuid",
            array(StringArray::from(vec![Some("{A0EEBC999C0B4EF8BB6D6BB9BD380A11}"), None])),
            &[Some(uuid), None],
        )
        .await?;
    oracle
        .check(
            "bytea",
            array(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff\\"), None, Some(b"")])),
            &[Some("\\x00ff5c"), None, Some("")],
        )
        .await?;

    let refused = |pg_type, text| oracle.refusal(pg_type, array(StringArray::from(vec![text])));
    assert_eq!(refused("text", "a\0b").await?, ValueError::Nul);
    assert_eq!(oracle.refusal("json", array(StringViewArray::from(vec!["\0"]))).await?, ValueError::Nul);
    assert_eq!(refused("varchar(3)", "ÄÖÜß").await?, ValueError::TooLong { chars: 4, limit: 3 });
    // Postgres would cut trailing spaces without a word.
    assert_eq!(refused("varchar(3)", "abc  ").await?, ValueError::TooLong { chars: 5, limit: 3 });
    assert_eq!(refused("uuid", "a0eebc99").await?, ValueError::Unreadable);
    assert_eq!(oracle.refusal("varchar(35)", uuids).await?, ValueError::TooLong { chars: 36, limit: 35 });
    Ok(())
}
