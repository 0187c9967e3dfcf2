//! A push into a table that others own inserts what it lacks and touches nothing that is there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use futures::stream;
use racealpha::pg::DatabaseUrl;
use racealpha::progress::Progress;
use racealpha::push::{self, Dataset, InsertReport, PushError, TargetMode, TargetOptions};
use racealpha::schema::TableName;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::support::{TestDb, Workspace, racing};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a target of this mode is in the tests below: a table with a key, a number of its own and columns the dataset lacks.
const STABLE: &str = "CREATE TABLE public.stable (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slug text UNIQUE, runs int, \
     owner text, made timestamptz DEFAULT now()); \
     INSERT INTO public.stable (slug, runs, owner) VALUES ('b', 7, 'Ann')";

fn options() -> TargetOptions {
    let mut options = TargetOptions::new(TableName::new("public", "stable"), vec!["slug".to_owned()]);
    options.mode = TargetMode::InsertMissing;
    options
}

fn rows(slugs: &[Option<&str>]) -> RecordBatch {
    let runs: Vec<i32> = (0..slugs.len()).map(|row| i32::try_from(row).unwrap()).collect();
    let columns: [(&str, ArrayRef); 2] =
        [("slug", Arc::new(StringArray::from(slugs.to_vec()))), ("runs", Arc::new(Int32Array::from(runs)))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

async fn insert(url: &str, options: &TargetOptions, batch: RecordBatch) -> Result<InsertReport, PushError> {
    let rows = u64::try_from(batch.num_rows()).unwrap();
    let dataset = Dataset { schema: batch.schema(), rows, batches: stream::iter([Ok(batch)]) };
    let url: DatabaseUrl = url.parse().unwrap();
    push::insert_missing(&url, options, dataset, "r1", &Progress::new(), &CancellationToken::new()).await
}

async fn texts(client: &Client, sql: &str) -> Result<Vec<String>> {
    Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

const SHOWN: &str = "SELECT format('%s %s %s %s', id, slug, runs, owner) FROM public.stable ORDER BY id";

#[tokio::test(flavor = "multi_thread")]
async fn horses_that_the_application_lacks_are_inserted_and_all_others_stay() -> Result<()> {
    let db = racing("horses", 300).await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "DELETE FROM horses WHERE id % 5 = 0; UPDATE horses SET total_races = -1 WHERE id % 7 = 0; \
             CREATE TABLE before AS TABLE horses",
        )
        .await?;
    let number = async |sql: &str| Ok::<i64, anyhow::Error>(client.query_one(sql, &[]).await?.get(0));
    let missing = "SELECT count(DISTINCT horse_slug) FROM race_results JOIN races USING (race_id) \
                   WHERE horse_slug IS NOT NULL AND horse_slug NOT IN (SELECT horse_slug FROM before)";
    let missing = number(missing).await?;
    assert!(missing > 20, "{missing}");
    let last: i64 = number("SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM horses_id_seq").await?;

    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    workspace.run(["run"])?.ok()?;
    let preview = workspace.run(["--json", "preview", "horse_careers"])?.ok()?.json()?;
    let counts = ["added", "removed", "changed"].map(|name| preview[name].as_i64());
    assert_eq!(counts, [Some(missing), Some(0), Some(0)], "{preview:#}");
    let shown = workspace.run(["preview", "horse_careers"])?.ok()?;
    assert!(shown.stdout.contains("`racealpha push horse_careers` goes ahead"), "{}", shown.stdout);
    let new = "SELECT count(*) FROM horses WHERE horse_slug NOT IN (SELECT horse_slug FROM before)";
    assert_eq!(number(new).await?, 0, "a preview writes nothing");

    let push = ["--json", "push", "horse_careers", "--set", "validate.min_rows=1"];
    let report = workspace.run(push)?.ok()?.json()?;
    assert_eq!(report["inserted"].as_i64(), Some(missing), "{report:#}");
    assert_eq!(
        number("SELECT count(*) FROM (TABLE before EXCEPT TABLE horses) gone").await?,
        0,
        "rows are as they were"
    );
    assert_eq!(number(new).await?, missing);
    // No number of the sequence was used up by a horse that was there.
    assert_eq!(number("SELECT max(id) FROM horses").await?, last + missing);
    let wrong = "SELECT count(*) FROM horses h WHERE h.id > $1 AND (h.created_at IS NULL \
                 OR h.horse_name <> initcap(replace(h.horse_slug, '-', ' ')) \
                 OR h.win_percentage <> coalesce(round(100.0 * h.wins / nullif(h.total_races, 0)), 0) \
                 OR h.total_races <> (SELECT count(DISTINCT race_id) FROM race_results r JOIN races USING (race_id) \
                                      WHERE r.horse_slug = h.horse_slug AND r.position < 50))";
    assert_eq!(client.query_one(wrong, &[&last]).await?.get::<_, i64>(0), 0);

    let again = workspace.run(push)?.ok()?.json()?;
    assert_eq!(again["inserted"].as_i64(), Some(0), "{again:#}");
    let undone = workspace.run(["rollback", "horse_careers"])?;
    assert!(undone.code == Some(2) && undone.stderr.contains("nothing to roll back to"), "{undone:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_others_insert_meanwhile_stays_theirs() -> Result<()> {
    let db = TestDb::new("insert_meanwhile").await?;
    let (client, other) = (db.client().await?, db.client().await?);
    client.batch_execute(STABLE).await?;
    other.batch_execute("BEGIN; INSERT INTO public.stable (slug, runs) VALUES ('a', 99)").await?;
    let url = db.url().to_owned();
    let push = tokio::spawn(async move { insert(&url, &options(), rows(&[Some("a"), Some("b"), Some("c")])).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + PATIENCE;
    while client.query_one(waits, &[]).await?.get::<_, i64>(0) == 0 {
        assert!(Instant::now() < deadline, "the push never met the other row");
        tokio::task::yield_now().await;
    }
    other.batch_execute("COMMIT").await?;
    let report = push.await??;
    assert_eq!((report.inserted, report.present), (1, 2));
    let shown = texts(&client, "SELECT format('%s %s', slug, runs) FROM public.stable ORDER BY slug").await?;
    assert_eq!(shown, ["a 99", "b 7", "c 2"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_missing_rows_are_inserted_or_none() -> Result<()> {
    let db = TestDb::new("insert_all").await?;
    let client = db.client().await?;
    client.batch_execute(STABLE).await?;
    let before = texts(&client, SHOWN).await?;

    let error = insert(db.url(), &options(), rows(&[Some("a"), None])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the load of public.stable is not what the lake holds: 1 rows have no slug, which is part of the key; nothing was changed"
    );
    client.batch_execute("ALTER TABLE public.stable ADD CHECK (runs <> 2)").await?;
    let error = insert(db.url(), &options(), rows(&[Some("a"), Some("b"), Some("c")])).await.unwrap_err();
    assert!(matches!(error, PushError::ServerRefused { step: "insert the missing rows", .. }), "{error:?}");
    client.batch_execute("ALTER TABLE public.stable DROP CONSTRAINT stable_runs_check, ADD UNIQUE (runs)").await?;
    // The eighth row has the runs of `b`.
    let eight = ["c", "d", "e", "f", "g", "h", "i", "j"].map(Some);
    let error = anyhow::Error::new(insert(db.url(), &options(), rows(&eight)).await.unwrap_err());
    assert!(format!("{error:#}").contains("stable_runs_key"), "another key's conflict is an error: {error:#}");
    assert_eq!(texts(&client, SHOWN).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_named_before_anything_is_sent() -> Result<()> {
    let db = TestDb::new("insert_blocked").await?;
    let client = db.client().await?;
    let blocked = async |options: &TargetOptions| match insert(db.url(), options, rows(&[Some("a")])).await {
        Err(error @ PushError::Blocked { .. }) => Ok(error.to_string()),
        other => Err(anyhow::anyhow!("{other:?}")),
    };
    let missing = blocked(&options()).await?;
    assert!(missing.contains("does not exist, and mode insert_missing creates no table"), "{missing}");
    client
        .batch_execute(
            "CREATE TABLE public.stable (slug text, owner text NOT NULL); \
             CREATE UNIQUE INDEX ON public.stable (slug) WHERE owner <> ''; CREATE UNIQUE INDEX ON public.stable (slug, owner)",
        )
        .await?;
    let several = blocked(&options()).await?;
    for part in
        ["column runs: public.stable does not have it", "column owner: it is not null", "no unique index over (slug)"]
    {
        assert!(several.contains(part), "{part}: {several}");
    }
    client
        .batch_execute("DROP TABLE public.stable; CREATE VIEW public.stable AS SELECT 'a'::text AS slug, 1 AS runs")
        .await?;
    assert!(blocked(&options()).await?.contains("it is not a table"));

    // A role that may read and not insert, and one from which policies hide rows.
    client.batch_execute(&format!("DROP VIEW public.stable; {STABLE}")).await?;
    client
        .batch_execute(
            "DO $$ BEGIN CREATE ROLE stable_hand LOGIN PASSWORD 'hand'; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
             GRANT SELECT ON public.stable TO stable_hand",
        )
        .await?;
    let mut url: url::Url = db.url().parse()?;
    url.set_username("stable_hand").ok().context("a user name")?;
    url.set_password(Some("hand")).ok().context("a password")?;
    let refused = insert(url.as_str(), &options(), rows(&[Some("a")])).await.unwrap_err().to_string();
    assert!(refused.contains("GRANT SELECT, INSERT ON \"public\".\"stable\" TO \"stable_hand\""), "{refused}");
    client
        .batch_execute(
            "GRANT INSERT ON public.stable TO stable_hand; ALTER TABLE public.stable ENABLE ROW LEVEL SECURITY",
        )
        .await?;
    let refused = insert(url.as_str(), &options(), rows(&[Some("a")])).await.unwrap_err().to_string();
    assert!(refused.contains("row-level security hides rows from role stable_hand"), "{refused}");
    Ok(())
}
