//! Which columns a push fills and from where, what happens to values that do not fit, and how it knows that what arrived
//! is what the lake holds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array, Int8Array,
    Int32Array, Int64Array, RecordBatch, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::Int32Type;
use futures::stream;
use racealpha::columnar::{OnUnfit, PushPolicy};
use racealpha::pg::DatabaseUrl;
use racealpha::progress::Progress;
use racealpha::push::{self, Dataset, MissingColumns, PushError, PushReport, TargetOptions};
use racealpha::schema::TableName;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::support::TestDb;

fn options(key: &[&str]) -> TargetOptions {
    let key = key.iter().map(ToString::to_string).collect();
    TargetOptions::new(TableName::new("public", "dataset"), key)
}

fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(name, array)| (*name, Arc::clone(array), true)))
        .unwrap()
}

async fn push(db: &TestDb, options: &TargetOptions, run: &str, batch: RecordBatch) -> Result<PushReport, PushError> {
    let url: DatabaseUrl = db.url().parse().unwrap();
    let rows = u64::try_from(batch.num_rows()).unwrap();
    let dataset = Dataset { schema: batch.schema(), rows, batches: stream::iter([Ok(batch)]) };
    push::push(&url, options, dataset, run, &Progress::new(), &CancellationToken::new()).await
}

/// What the command line shows of a refusal.
fn told(error: PushError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

async fn texts(client: &Client, sql: &str) -> Result<Vec<String>> {
    Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_columns_stay_with_their_rows_and_new_rows_get_the_next_values() -> Result<()> {
    let db = TestDb::new("columns_kept").await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "CREATE TABLE dataset (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, race int NOT NULL, horse text NOT NULL, \
                points float8, created_at date NOT NULL DEFAULT '2030-01-01', note text, UNIQUE (race, horse)); \
             INSERT INTO dataset (race, horse, points, created_at, note) \
                VALUES (1, 'b', 1, '2020-01-01', 'first'), (1, 'a', 2, '2020-01-02', NULL), (2, 'a', 3, '2020-01-03', 'gone')",
        )
        .await?;
    let rows = batch(&[
        ("horse", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
        ("race", Arc::new(Int64Array::from(vec![1, 1, 9]))),
        ("points", Arc::new(Float64Array::from(vec![20.0, 10.0, 90.0]))),
    ]);
    let mut options = options(&["race", "horse"]);
    let refused = push(&db, &options, "r1", rows.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("column note: the dataset lacks it, so it would be null"), "{refused}");
    assert!(!refused.contains("created_at"), "the server fills it: {refused}");
    options.missing_columns = MissingColumns::Keep;
    let report = push(&db, &options, "r2", rows.clone()).await?;
    assert_eq!(
        report.notes.iter().filter(|note| note.contains("id, created_at, note are taken from the rows")).count(),
        1,
        "{:?}",
        report.notes
    );
    let shown = "SELECT concat_ws(' ', id, race, horse, points, created_at, note) FROM dataset ORDER BY id";
    assert_eq!(
        texts(&client, shown).await?,
        ["1 1 b 10 2020-01-01 first", "2 1 a 20 2020-01-02", "4 9 c 90 2030-01-01"]
    );
    client.batch_execute("INSERT INTO dataset (race, horse) VALUES (10, 'd')").await?;
    assert_eq!(texts(&client, "SELECT id::text FROM dataset WHERE race = 10").await?, ["5"]);

    // One column at a time, and never without a key to find its rows by.
    options.missing_columns = MissingColumns::Null;
    options.missing.insert("created_at".to_owned(), MissingColumns::Keep);
    push(&db, &options, "r3", rows.clone()).await?;
    let shown = "SELECT concat_ws(' ', race, horse, created_at, note) FROM dataset ORDER BY race, horse";
    assert_eq!(texts(&client, shown).await?, ["1 a 2020-01-02", "1 b 2020-01-01", "9 c 2030-01-01"]);
    options.key = vec!["nobody".to_owned()];
    options.missing.insert("nothing".to_owned(), MissingColumns::Null);
    let refused = push(&db, &options, "r4", rows).await.unwrap_err().to_string();
    assert!(refused.contains("column nobody: it is part of the key"), "{refused}");
    assert!(refused.contains("column nothing: a setting names it"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_is_an_error_or_null_and_counted() -> Result<()> {
    let db = TestDb::new("columns_misfit").await?;
    let client = db.client().await?;
    client
        .batch_execute("CREATE TABLE dataset (id int PRIMARY KEY, small smallint, price numeric(4,1), name varchar(3))")
        .await?;
    let ids: Vec<i64> = (0..600).collect();
    let rows = batch(&[
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("small", Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| if *id == 500 { 70_000 } else { *id })))),
        ("price", Arc::new(Float64Array::from_iter_values(ids.iter().map(|id| if id % 300 == 7 { 1e9 } else { 0.5 })))),
        ("name", Arc::new(StringArray::from_iter_values(ids.iter().map(|id| if *id == 3 { "long" } else { "ok" })))),
    ]);
    let mut options = options(&["id"]);
    let mut refusals = Vec::new();
    for column in ["name", "price", "small"] {
        refusals.push(told(push(&db, &options, "r1", rows.clone()).await.unwrap_err()));
        options.columns.insert(column.to_owned(), PushPolicy { misfit: OnUnfit::Null, ..PushPolicy::default() });
    }
    assert!(refusals[0].contains("the row has id=") && refusals[0].contains("nothing was changed"), "{refusals:?}");
    assert!(
        refusals[2].contains("public.dataset, column small, row 500: ") && refusals[2].ends_with("has id=500"),
        "{refusals:?}"
    );
    let report = push(&db, &options, "r2", rows.clone()).await?;
    let nulled: Vec<(&str, u64)> = report.nulled.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(nulled, [("name", 1), ("price", 2), ("small", 1)]);
    let shown = "SELECT concat_ws(' ', id, small, price, name) FROM dataset WHERE num_nulls(small, price, name) > 0 ORDER BY id";
    assert_eq!(texts(&client, shown).await?, ["3 3 0.5", "7 7 ok", "307 307 ok", "500 0.5 ok"]);

    // Where null is not allowed either, the value is the error.
    client
        .batch_execute("UPDATE dataset SET small = 0 WHERE small IS NULL; ALTER TABLE dataset ALTER small SET NOT NULL")
        .await?;
    let refused = told(push(&db, &options, "r3", rows).await.unwrap_err());
    assert!(refused.contains("column small, row 500: ") && refused.ends_with("has id=500"), "{refused}");
    Ok(())
}

/// Changes one row of a staging table as soon as it has an index, which no count of rows or nulls would notice.
const TAMPER: &str = "CREATE FUNCTION tamper() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE place text; BEGIN \
        FOR place IN SELECT nspname FROM pg_catalog.pg_namespace WHERE pg_catalog.starts_with(nspname, '_push_') LOOP \
            EXECUTE pg_catalog.format('UPDATE %I.dataset SET CHANGE WHERE id = 50', place); \
        END LOOP; END $$; \
     CREATE EVENT TRIGGER tampering ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION tamper()";

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_otherwise_than_the_lake_holds_it_is_found_in_every_column() -> Result<()> {
    let db = TestDb::new("columns_verify").await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "CREATE TABLE dataset (id bigint PRIMARY KEY, name text, points float8, light float4, price numeric(12,3), day date, won bool); \
             INSERT INTO dataset (id) VALUES (-1)",
        )
        .await?;
    let ids: Vec<i64> = (0..100).collect();
    let numbers = || ids.iter().map(|id| f64::from(i32::try_from(*id).unwrap()));
    let points = numbers().map(|number| match number {
        90.0 => f64::NAN,
        91.0 => f64::NEG_INFINITY,
        92.0 => -0.0,
        number => number / 7.0,
    });
    let rows = batch(&[
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("name", Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("é{id:03}"))))),
        ("points", Arc::new(Float64Array::from_iter_values(points))),
        ("light", Arc::new(Float64Array::from_iter_values(numbers().map(|number| number / 8.0)))),
        (
            "price",
            Arc::new(
                Decimal128Array::from_iter_values((0..100).map(|cents| cents * 1_001 - 50_000))
                    .with_precision_and_scale(12, 3)?,
            ),
        ),
        ("day", Arc::new(Date32Array::from_iter_values(-50..50))),
        ("won", Arc::new(BooleanArray::from(ids.iter().map(|id| id % 3 == 0).collect::<Vec<bool>>()))),
    ]);
    push(&db, &options(&["id"]), "r0", rows.clone()).await?;
    let cases = [
        ("points = points + 0.001", "column points has another sum"),
        ("points = NULL", "column points has 1 nulls instead of 0"),
        ("light = 1000", "column light has another least or greatest value"),
        ("light = light + 0.5", "column light has another sum"),
        ("price = price + 0.001", "column price has another sum"),
        ("day = ''2999-01-01''", "column day has another least or greatest value"),
        ("name = ''~''", "column name has another least or greatest value"),
        ("name = name || 1", "column name has another number of bytes in its texts"),
        ("won = NOT won", "column won has another sum"),
    ];
    for (index, (change, expected)) in cases.into_iter().enumerate() {
        client.batch_execute(&TAMPER.replace("CHANGE", change)).await?;
        let error = push(&db, &options(&["id"]), &format!("r{}", index + 1), rows.clone()).await.unwrap_err();
        let found = error.to_string();
        assert!(matches!(error, PushError::Verify { .. }) && found.contains(expected), "{change}: {found}");
        client.batch_execute("DROP EVENT TRIGGER tampering; DROP FUNCTION tamper").await?;
    }
    assert_eq!(texts(&client, "SELECT count(*)::text FROM dataset").await?, ["100"]);
    Ok(())
}

/// Changes of one row by pairs of types, of which each is found.
const PAIRS: [(&str, &str, &str); 14] = [
    ("whole", "numeric", "whole + 1"),
    ("tiny", "int8", "tiny + 1"),
    ("counted", "float4", "counted + 1"),
    ("round", "int4", "round + 1"),
    ("narrow", "float4", "narrow * 2"),
    ("digits", "numeric", "digits + 0.001"),
    ("short", "numeric(20,12)", "short + 0.001"),
    ("money", "numeric", "money + 0.001"),
    ("written", "numeric", "written * 2"),
    ("noon", "date", "DATE 'infinity'"),
    ("morning", "timestamp", "TIMESTAMP 'infinity'"),
    ("instant", "timestamptz", "TIMESTAMPTZ '-infinity'"),
    ("clock", "time", "TIME '24:00'"),
    ("word", "varchar(20)", "word || 'x'"),
];

#[tokio::test(flavor = "multi_thread")]
async fn values_that_become_another_types_are_compared_with_those_of_the_lake() -> Result<()> {
    let db = TestDb::new("columns_pairs").await?;
    let client = db.client().await?;
    let columns: Vec<String> = PAIRS.iter().map(|(name, to, _)| format!("{name} {to}")).collect();
    client.batch_execute(&format!("CREATE TABLE dataset (id int PRIMARY KEY, {})", columns.join(", "))).await?;
    let floats = |of: fn(f64) -> f64| (0..100).map(f64::from).map(of);
    let micros = |step: i64| (0..100).map(move |row| row * step - 7 * step);
    // Nulls between the values, so that not all of them lie side by side.
    let dates = (0..100).map(|row| match row {
        0 => Some(-i32::MAX),
        row => (row % 3 != 1).then_some(row * 300 - 9_000),
    });
    let words = ["b", "a", "é", "ab"].map(str::to_owned);
    let words = (0..100).map(|row| (row % 5 != 2).then(|| words[row % 4].as_str()));
    let word: DictionaryArray<Int32Type> = words.collect();
    let rows = batch(&[
        ("id", Arc::new(Int64Array::from_iter_values(0..100))),
        ("whole", Arc::new(UInt64Array::from_iter_values((0..100).map(|row| u64::MAX - row)))),
        ("tiny", Arc::new((-50..50).map(|row| (row % 7 != 3).then_some(row)).collect::<Int8Array>())),
        ("counted", Arc::new(Int32Array::from_iter_values(-50..50))),
        ("round", Arc::new(Float64Array::from_iter_values(floats(|row| row - 30.0)))),
        ("narrow", Arc::new(Float64Array::from_iter_values(floats(|row| row / 7.0 + 0.1)))),
        ("digits", Arc::new(Float64Array::from_iter_values(floats(|row| (row - 50.0).exp())))),
        ("short", Arc::new(Float32Array::from_iter_values((0_i16..100).map(|row| f32::from(row) / 8.0)))),
        ("money", Arc::new(Decimal128Array::from_iter_values(-50..50).with_precision_and_scale(30, 4)?)),
        (
            "written",
            Arc::new(StringArray::from_iter_values((0..100).map(|row| match row {
                0 => "NaN".to_owned(),
                row => format!("{row}123456789012345678901234567890.{row:05}"),
            }))),
        ),
        ("noon", Arc::new(TimestampMicrosecondArray::from_iter_values(micros(86_400_000_000)))),
        ("morning", Arc::new(dates.collect::<Date32Array>())),
        (
            "instant",
            Arc::new(TimestampMicrosecondArray::from_iter_values(micros(1_234_567_890_123)).with_timezone("UTC")),
        ),
        ("clock", Arc::new(Time64MicrosecondArray::from_iter_values((0..100).map(|row| row * 863_999_999)))),
        ("word", Arc::new(word)),
    ]);
    let report = push(&db, &options(&["id"]), "r0", rows.clone()).await?;
    assert_eq!(report.rows, 100);
    for (index, (column, _, change)) in PAIRS.into_iter().enumerate() {
        let change = format!("{column} = {}", change.replace('\'', "''"));
        client.batch_execute(&TAMPER.replace("CHANGE", &change)).await?;
        let error = push(&db, &options(&["id"]), &format!("r{}", index + 1), rows.clone()).await.unwrap_err();
        let found = error.to_string();
        let named = format!("is not what the lake holds: column {column} has another ");
        assert!(matches!(error, PushError::Verify { .. }) && found.contains(&named), "{change}: {found}");
        client.batch_execute("DROP EVENT TRIGGER tampering; DROP FUNCTION tamper").await?;
    }
    Ok(())
}
