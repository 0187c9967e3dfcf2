//! A merge changes only rows that differ: the live table stays itself with all that is attached to it, readers do not
//! wait, and whatever fails leaves everything as it was.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use futures::stream;
use racealpha::pg::DatabaseUrl;
use racealpha::progress::Progress;
use racealpha::push::{
    self, BoxError, Dataset, MergeCounts, MergeReport, NewColumns, PushError, PushMode, RollbackReport, TargetMode,
    TargetOptions,
};
use racealpha::schema::TableName;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::push::{Cut, MERGE, NO_PUSH_SESSION, NO_PUSH_WAITS, PUSH_WAITS, behind_cutting_proxy, until};
use crate::support::TestDb;

/// A table with everything that a swap has to refuse, a trigger in each state, and more rows than one batch.
const RICH: &str = "CREATE TABLE public.dataset (serial bigint GENERATED ALWAYS AS IDENTITY UNIQUE, id bigint PRIMARY KEY, name text, points float8, \
        notes json, made timestamptz NOT NULL DEFAULT '2020-01-01', updated_at timestamptz, twice bigint GENERATED ALWAYS AS (id * 2) STORED); \
     INSERT INTO public.dataset (id, name, points, notes, updated_at) \
        SELECT i, 'horse ' || i, i / 8.0, '{}', '2020-01-01' FROM generate_series(0, 999) i; \
     CREATE VIEW whole_rows AS SELECT d FROM dataset d; \
     CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM dataset; \
     CREATE TABLE holder (of dataset); \
     CREATE TABLE child (dataset_id bigint REFERENCES dataset ON DELETE CASCADE); \
     INSERT INTO child VALUES (7), (8); \
     CREATE TABLE fired (what text); \
     CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO fired VALUES (TG_NAME); RETURN NEW; END $$; \
     CREATE TRIGGER a BEFORE UPDATE OR INSERT ON dataset FOR EACH ROW EXECUTE FUNCTION fire(); \
     CREATE TRIGGER b AFTER UPDATE ON dataset FOR EACH ROW EXECUTE FUNCTION fire(); \
     CREATE TRIGGER c AFTER UPDATE ON dataset FOR EACH ROW EXECUTE FUNCTION fire(); \
     CREATE TRIGGER d AFTER UPDATE ON dataset FOR EACH ROW EXECUTE FUNCTION fire(); \
     ALTER TABLE dataset ENABLE ALWAYS TRIGGER b; ALTER TABLE dataset ENABLE REPLICA TRIGGER c; ALTER TABLE dataset DISABLE TRIGGER d";

/// What must be the same before and after: identities, states, privileges.
const IDENTITY: &str = "SELECT format('%s %s %s', c.oid, c.relfilenode, c.relacl) FROM pg_class c WHERE c.oid = 'dataset'::regclass \
     UNION ALL SELECT format('%s %s', tgname, tgenabled) FROM pg_trigger WHERE tgrelid = 'dataset'::regclass AND NOT tgisinternal \
     UNION ALL SELECT format('%s %s', conname, convalidated) FROM pg_constraint WHERE 'dataset'::regclass IN (conrelid, confrelid) \
     UNION ALL SELECT format('%s %s', indexrelid, indisvalid) FROM pg_index WHERE indrelid = 'dataset'::regclass \
     UNION ALL SELECT format('%s %s', objid, deptype) FROM pg_depend WHERE refobjid IN ('dataset'::regclass, (SELECT reltype FROM pg_class WHERE oid = 'dataset'::regclass)) \
     ORDER BY 1";

fn options() -> TargetOptions {
    let mut options = TargetOptions::new(TableName::new("public", "dataset"), vec!["id".to_owned()]);
    options.mode = TargetMode::Merge;
    options
}

/// Rows with these keys; those that `changed` names have another name.
fn rows(ids: impl Iterator<Item = i64>, changed: impl Fn(i64) -> bool) -> RecordBatch {
    let ids: Vec<i64> = ids.collect();
    let names = ids.iter().map(|id| if changed(*id) { format!("new {id}") } else { format!("horse {id}") });
    let points = ids.iter().map(|id| f64::from(i32::try_from(*id).unwrap()) / 8.0);
    let notes = StringArray::from(vec!["{}"; ids.len()]);
    let columns: [(&str, ArrayRef); 4] = [
        ("name", Arc::new(StringArray::from_iter_values(names))),
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("points", Arc::new(points.collect::<Float64Array>())),
        ("notes", Arc::new(notes)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

fn dataset(batch: RecordBatch) -> Dataset<impl futures::Stream<Item = Result<RecordBatch, BoxError>> + Send> {
    let rows = u64::try_from(batch.num_rows()).unwrap();
    Dataset { schema: batch.schema(), rows, batches: stream::iter([Ok(batch)]) }
}

async fn merge(db: &TestDb, options: &TargetOptions, run: &str, batch: RecordBatch) -> Result<MergeReport, PushError> {
    let url: DatabaseUrl = db.url().parse().unwrap();
    push::merge(&url, options, dataset(batch), run, &Progress::new(), &CancellationToken::new()).await
}

async fn rollback(db: &TestDb, options: &TargetOptions, run: &str) -> Result<RollbackReport, PushError> {
    let url: DatabaseUrl = db.url().parse().unwrap();
    push::rollback(&url, options, run, &Progress::new(), &CancellationToken::new()).await
}

async fn texts(client: &Client, sql: &str) -> Result<Vec<String>> {
    Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

async fn number(client: &Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// Rows of one query that the other lacks, either way.
async fn difference(client: &Client, one: &str, other: &str) -> Result<i64> {
    number(client, &format!("SELECT count(*) FROM (({one} EXCEPT ALL {other}) UNION ALL ({other} EXCEPT ALL {one})) d"))
        .await
}

const CONTENT: &str = "SELECT serial, id, name, points, notes::text, made, updated_at, twice FROM";

#[tokio::test(flavor = "multi_thread")]
async fn only_rows_that_differ_change_and_everything_attached_stays() -> Result<()> {
    let db = TestDb::new("merge_rich").await?;
    let client = db.client().await?;
    client.batch_execute(RICH).await?;
    client.batch_execute("CREATE TABLE before AS TABLE dataset").await?;
    let identity = texts(&client, IDENTITY).await?;
    let mut options = options();
    options.missing.insert("updated_at".to_owned(), push::MissingColumns::Keep);
    // 0 to 9 without those that the children need go, 990 to 999 change, 1000 to 1099 come.
    let ids = || (7..9).chain(10..1100);
    let report = merge(&db, &options, "r1", rows(ids(), |id| (990..1000).contains(&id))).await?;
    let counts = MergeCounts { inserted: 100, updated: 10, deleted: 8, unchanged: 982 };
    assert_eq!((report.mode, report.rows, report.counts), (PushMode::Merge, 1092, counts));
    assert!(report.wal_bytes > report.bytes, "{} bytes of log for {} bytes", report.wal_bytes, report.bytes);
    assert_eq!(texts(&client, IDENTITY).await?, identity);
    let expected = "SELECT i, CASE WHEN i BETWEEN 990 AND 999 THEN 'new ' ELSE 'horse ' END || i, i / 8.0::float8, '{}' \
                    FROM (SELECT generate_series(10, 1099)::bigint UNION ALL VALUES (7::bigint), (8)) s(i)";
    assert_eq!(difference(&client, "SELECT id, name, points, notes::text FROM dataset", expected).await?, 0);
    let kept = "SELECT id, serial, made, updated_at FROM";
    let of = |table| format!("{kept} {table} WHERE id BETWEEN 10 AND 999");
    assert_eq!(difference(&client, &of("dataset"), &of("before")).await?, 0, "other columns are as they were");
    let untouched = "SELECT count(*) FROM dataset d WHERE xmin::text = (SELECT xmin::text FROM dataset WHERE id = 10)";
    assert_eq!(number(&client, untouched).await?, 982, "unchanged rows are the same versions");
    assert_eq!(number(&client, "SELECT min(serial) FROM dataset WHERE id >= 1000").await?, 1001);
    assert_eq!(number(&client, "SELECT count(*) FROM child").await?, 2);
    assert_eq!(number(&client, "SELECT count(*) FROM fired").await?, 0, "no trigger ran");
    assert_eq!(number(&client, "SELECT count(*) FROM whole_rows").await?, 1092);

    // The backup is an inert copy, and nothing else is left.
    assert_eq!(
        difference(&client, &format!("{CONTENT} before"), &format!("{CONTENT} _backup_training_push")).await?,
        0
    );
    let inert = "SELECT format('%s %s', c.relrowsecurity, (SELECT count(*) FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) WHERE grantee <> c.relowner)) \
                 FROM pg_class c WHERE c.oid = '_backup_training_push'::regclass";
    assert_eq!(texts(&client, inert).await?, ["t 0"]);
    let leftovers = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE '\\_push\\_%'";
    assert_eq!(texts(&client, leftovers).await?, [""; 0]);

    // The same rows again change nothing; a rollback merges back, and again is a redo.
    let again = merge(&db, &options, "r2", rows(ids(), |id| (990..1000).contains(&id))).await?;
    assert_eq!(again.counts, MergeCounts { unchanged: 1092, ..MergeCounts::default() });
    let none = rollback(&db, &options, "r3").await?;
    assert_eq!((none.undone_run.as_str(), none.merged.unwrap().unchanged), ("r2", 1092));
    merge(&db, &options, "r4", rows(0..1000, |id| id == 5)).await?;
    client.batch_execute("CREATE TABLE after AS TABLE dataset").await?;
    let back = rollback(&db, &options, "r5").await?.merged.unwrap();
    assert_eq!((back.inserted, back.deleted, back.updated), (100, 8, 10));
    assert_eq!(difference(&client, "SELECT id, name, points, notes::text FROM dataset", expected).await?, 0);
    let redo = rollback(&db, &options, "r6").await?;
    assert_eq!(redo.undone_run, "r5");
    assert_eq!(difference(&client, &format!("{CONTENT} dataset"), &format!("{CONTENT} after")).await?, 0);
    assert_eq!(texts(&client, IDENTITY).await?, identity);
    assert_eq!(texts(&client, leftovers).await?, [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_and_a_swap_make_the_same_table() -> Result<()> {
    let db = TestDb::new("merge_same").await?;
    let client = db.client().await?;
    let tables = ["merged", "swapped"];
    for table in tables {
        client
            .batch_execute(&format!(
                "CREATE TABLE {table} (id bigint PRIMARY KEY, name text UNIQUE, price numeric(10,2), points float8, at timestamptz); \
                 INSERT INTO {table} SELECT i, 'horse ' || i, i, i / 8.0, '2020-01-01' FROM generate_series(0, 99) i"
            ))
            .await?;
    }
    // Two names change places, which no order of updates could do under the unique index; a float changes its sign only.
    let ids: Vec<i64> = (0..100).collect();
    let name = |id: &i64| match id {
        3 => "horse 4".to_owned(),
        4 => "horse 3".to_owned(),
        id => format!("horse {id}"),
    };
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("name", Arc::new(StringArray::from_iter_values(ids.iter().map(name)))),
        (
            "points",
            Arc::new(
                ids.iter()
                    .map(|id| Some(if *id == 0 { -0.0 } else { f64::from(i32::try_from(*id).unwrap()) / 8.0 }))
                    .collect::<Float64Array>(),
            ),
        ),
        ("price", Arc::new(Int32Array::from_iter_values(0..100))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)))?;
    let url: DatabaseUrl = db.url().parse()?;
    let mut options = options();
    options.missing_columns = push::MissingColumns::Null;
    options.table = TableName::new("public", "swapped");
    options.backup = "swapped_before".to_owned();
    push::push(&url, &options, dataset(batch.clone()), "s1", &Progress::new(), &CancellationToken::new()).await?;
    options.table = TableName::new("public", "merged");
    options.backup = "merged_before".to_owned();
    let report = merge(&db, &options, "m1", batch).await?;
    assert_eq!(report.counts, MergeCounts { updated: 100, ..MergeCounts::default() });
    assert_eq!(report.notes.iter().filter(|note| note.contains("100 of 100 rows")).count(), 1, "{:?}", report.notes);
    let content = |table| format!("SELECT id, name, price, points::text, at FROM {table}");
    assert_eq!(difference(&client, &content("merged"), &content("swapped")).await?, 0);
    assert_eq!(number(&client, "SELECT count(*) FROM merged WHERE at IS NULL").await?, 100);
    assert_eq!(texts(&client, "SELECT points::text FROM merged WHERE id = 0").await?, ["-0"]);
    assert_eq!(texts(&client, "SELECT name FROM merged WHERE id IN (3, 4) ORDER BY id").await?, ["horse 4", "horse 3"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ignored_columns_alone_change_no_row() -> Result<()> {
    let db = TestDb::new("merge_ignored").await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "CREATE TABLE dataset (id bigint PRIMARY KEY, name text, updated_at timestamptz); \
             INSERT INTO dataset SELECT i, 'horse ' || i, '2020-01-01' FROM generate_series(0, 9) i",
        )
        .await?;
    let batch = |changed: i64| {
        let names = (0..10).map(|id| if id == changed { "new".to_owned() } else { format!("horse {id}") });
        let columns: [(&str, ArrayRef); 3] = [
            ("id", Arc::new(Int64Array::from_iter_values(0..10))),
            ("name", Arc::new(StringArray::from_iter_values(names))),
            ("updated_at", Arc::new(TimestampMicrosecondArray::from(vec![0; 10]).with_timezone("UTC"))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
    };
    let mut options = options();
    options.merge.ignore_columns = vec!["updated_at".to_owned()];
    assert_eq!(merge(&db, &options, "r1", batch(-1)).await?.counts.unchanged, 10);
    assert_eq!(merge(&db, &options, "r2", batch(4)).await?.counts.updated, 1);
    let stamped =
        "SELECT format('%s %s', id, extract(year FROM updated_at AT TIME ZONE 'UTC')) FROM dataset WHERE name = 'new'";
    assert_eq!(texts(&client, stamped).await?, ["4 1970"], "a changed row takes all columns");
    options.merge.ignore_columns = vec!["updated".to_owned()];
    let error = merge(&db, &options, "r3", batch(4)).await.unwrap_err().to_string();
    assert!(error.contains("column updated: a setting names it"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_do_not_wait_and_never_see_a_mix() -> Result<()> {
    const ROWS: i64 = 45_000;
    let db = TestDb::new("merge_readers").await?;
    let client = db.client().await?;
    client
        .batch_execute(&format!(
            "CREATE TABLE dataset (id bigint PRIMARY KEY, name text, points float8, notes json); \
             INSERT INTO dataset SELECT i, 'horse ' || i, i / 8.0, '{{}}' FROM generate_series(0, {}) i; ANALYZE dataset",
            ROWS - 1
        ))
        .await?;
    let (done, reader) = (Arc::new(AtomicBool::new(false)), db.client().await?);
    let over = Arc::clone(&done);
    let reading = tokio::spawn(async move {
        let (mut longest, mut seen) = (Duration::ZERO, Vec::new());
        while !over.load(Ordering::SeqCst) {
            let started = Instant::now();
            let row = reader.query_one("SELECT name FROM dataset WHERE id = 44999", &[]).await?;
            longest = longest.max(started.elapsed());
            seen.push(row.get::<_, String>(0));
            let sums: (i64, i64) = {
                let row = reader
                    .query_one("SELECT count(*), count(*) FILTER (WHERE name LIKE 'new%') FROM dataset", &[])
                    .await?;
                (row.get(0), row.get(1))
            };
            assert!(sums == (ROWS, 0) || sums == (ROWS, ROWS), "a mix: {sums:?}");
        }
        seen.dedup();
        Ok::<_, anyhow::Error>((longest, seen))
    });
    let report = merge(&db, &options(), "r1", rows(0..ROWS, |_| true)).await?;
    let after: i64 = number(&client, "SELECT count(*) FROM dataset WHERE name LIKE 'new%'").await?;
    done.store(true, Ordering::SeqCst);
    let (longest, seen) = reading.await??;
    assert_eq!((report.counts.updated, after), (45_000, ROWS));
    assert_eq!(seen.first().map(String::as_str), Some("horse 44999"));
    assert!(
        longest < Duration::from_secs_f64(report.merge_seconds.max(0.5) / 2.0),
        "{longest:?} of {}",
        report.merge_seconds
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_merge_cannot_do_is_refused_by_name_and_changes_nothing() -> Result<()> {
    let db = TestDb::new("merge_refused").await?;
    let client = db.client().await?;
    let refused = async |options: &TargetOptions, batch: RecordBatch| match merge(&db, options, "r1", batch).await {
        Err(error) => Ok(error.to_string()),
        Ok(report) => Err(anyhow::anyhow!("{report:?}")),
    };
    client
        .batch_execute(
            "CREATE TABLE dataset (id bigint, name text UNIQUE, points float8, notes json GENERATED ALWAYS AS (NULL) STORED); \
             CREATE TABLE child (name text CONSTRAINT by_name REFERENCES dataset (name)); \
             CREATE RULE quiet AS ON DELETE TO dataset DO INSTEAD NOTHING",
        )
        .await?;
    let mut all = options();
    all.new_columns = NewColumns::Add;
    let several = refused(&all, rows(0..1, |_| false)).await?;
    for part in [
        "no unique index over (id)",
        "column id: it is part of the key and may be null",
        "column notes: the server computes it",
        "rule quiet: it would change",
        "foreign key by_name of public.child: rows whose name changes leave",
    ] {
        assert!(several.contains(part), "{part}: {several}");
    }
    client.batch_execute("DROP TABLE dataset, child CASCADE").await?;

    // A child whose row would go; a failure in the middle; far too few rows.
    client.batch_execute(RICH).await?;
    client.batch_execute("ALTER TABLE dataset ADD CONSTRAINT short CHECK (length(name) < 11) NOT VALID; CREATE TABLE before AS TABLE dataset").await?;
    let mut options = options();
    options.missing.insert("updated_at".to_owned(), push::MissingColumns::Keep);
    let identity = texts(&client, IDENTITY).await?;
    let orphan = refused(&options, rows(8..1000, |_| true)).await?;
    assert!(
        orphan.contains("child_dataset_id_fkey of public.child: it refers to rows that the new rows lack, such as 7 "),
        "{orphan}"
    );
    let broken = rows((7..1000).chain([1_000_000]), |_| true);
    let failed = merge(&db, &options, "r2", broken).await.unwrap_err();
    assert!(matches!(&failed, PushError::ServerRefused { step: "insert new rows", .. }), "{failed:?}");
    options.min_rows_of_live = 0.9;
    let few = merge(&db, &options, "r3", rows(0..899, |_| true)).await.unwrap_err().to_string();
    assert!(few.contains("has 899 rows and public.dataset has 1000; a push needs 900 at least"), "{few}");
    assert_eq!(texts(&client, IDENTITY).await?, identity);
    assert_eq!(difference(&client, &format!("{CONTENT} dataset"), &format!("{CONTENT} before")).await?, 0);
    let left = "SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                WHERE nspname LIKE '\\_push\\_%' OR relname LIKE '\\_backup%'";
    assert_eq!(texts(&client, left).await?, [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_swaps_where_it_can_and_merges_where_it_must() -> Result<()> {
    let db = TestDb::new("merge_auto").await?;
    let client = db.client().await?;
    let url: DatabaseUrl = db.url().parse()?;
    let mut options = options();
    options.mode = TargetMode::Auto;
    let batch = rows(0..10, |_| false);
    let choose = async || push::choose(&url, &options, &batch.schema(), "r1").await;
    assert_eq!(choose().await?, PushMode::First);
    client.batch_execute("CREATE TABLE dataset (id bigint PRIMARY KEY, name text, points float8, notes json)").await?;
    assert_eq!(choose().await?, PushMode::Swap);
    client.batch_execute("CREATE TABLE holder (of dataset)").await?;
    assert_eq!(choose().await?, PushMode::Merge);
    client.batch_execute("ALTER TABLE dataset DROP CONSTRAINT dataset_pkey").await?;
    let both = choose().await.unwrap_err().to_string();
    assert!(both.contains("column of of table holder") || both.contains("column of"), "{both}");
    assert!(both.contains("for a merge, table public.dataset: no unique index over (id)"), "{both}");
    Ok(())
}

/// A merge on a task of its own.
fn merging(
    url: &str,
    options: TargetOptions,
    run: &'static str,
    batch: RecordBatch,
) -> tokio::task::JoinHandle<Result<MergeReport, PushError>> {
    let url: DatabaseUrl = url.parse().unwrap();
    tokio::spawn(async move {
        push::merge(&url, &options, dataset(batch), run, &Progress::new(), &CancellationToken::new()).await
    })
}

const PLAIN: &str = "CREATE TABLE dataset (id bigint PRIMARY KEY, name text, points float8, notes json); \
     INSERT INTO dataset SELECT i, 'horse ' || i, i / 8.0, '{}' FROM generate_series(0, 99) i; \
     CREATE TABLE child (dataset_id bigint CONSTRAINT of_dataset REFERENCES dataset ON DELETE CASCADE);";

const LEFTOVERS: &str = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE '\\_push\\_%'";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_refers_to_at_the_last_moment_is_not_deleted() -> Result<()> {
    let db = TestDb::new("merge_last_moment").await?;
    let (client, other) = (db.client().await?, db.client().await?);
    client.batch_execute(PLAIN).await?;
    // Not to be seen yet, and there when the row would be deleted.
    other.batch_execute("BEGIN; INSERT INTO child VALUES (5)").await?;
    let merging = merging(db.url(), options(), "r1", rows(10..100, |_| false));
    until(&client, "the merge waits for a lock", PUSH_WAITS).await?;
    other.batch_execute("COMMIT").await?;
    let error = merging.await?.unwrap_err();
    assert!(matches!(error, PushError::Blocked { .. }), "{error:?}");
    assert!(
        error.to_string().contains("of_dataset of public.child: it refers to rows that the new rows lack, such as 5")
    );
    assert_eq!(number(&client, "SELECT count(*) FROM child").await?, 1);
    assert_eq!(number(&client, "SELECT count(*) FROM dataset").await?, 100);
    assert_eq!(texts(&client, LEFTOVERS).await?, [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_makes_a_merge_try_again_and_in_the_end_say_who_holds_it() -> Result<()> {
    let db = TestDb::new("merge_row_lock").await?;
    let (client, other) = (db.client().await?, db.client().await?);
    client.batch_execute(PLAIN).await?;
    // Somebody else's table under a name that a merge once used in the open.
    client.batch_execute("CREATE TABLE _new_backup (mine int)").await?;
    let lock = "SET application_name = 'an editor'; BEGIN; SELECT FROM dataset WHERE id = 5 FOR UPDATE";
    other.batch_execute(lock).await?;
    let merging = merging(db.url(), options(), "r1", rows(0..100, |id| id == 5));
    until(&client, "the merge waits for a lock", PUSH_WAITS).await?;
    until(&client, "the merge has given up waiting", NO_PUSH_WAITS).await?;
    other.batch_execute("COMMIT").await?;
    let report = merging.await??;
    assert!(report.attempts >= 2, "{report:?}");
    assert_eq!(report.counts, MergeCounts { updated: 1, unchanged: 99, ..MergeCounts::default() });
    let status = push::backup_status(&client, &options()).await?.unwrap();
    assert_eq!(status.rows_estimated, Some(100));

    other.batch_execute(lock).await?;
    let hasty = TargetOptions { swap_deadline: Duration::ZERO, ..options() };
    let error = merge(&db, &hasty, "r2", rows(0..100, |_| false)).await.unwrap_err();
    let PushError::LockTimedOut { attempts: 1, blockers, .. } = &error else { panic!("{error:?}") };
    assert!(blockers.iter().any(|blocker| blocker.contains("an editor")), "{blockers:?}");
    assert!(!error.to_string().contains("--resume") && error.is_transient(), "{error}");
    assert_eq!(texts(&client, LEFTOVERS).await?, [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_whose_commit_was_not_answered_is_found_to_have_happened_or_not() -> Result<()> {
    let db = TestDb::new("merge_answer_lost").await?;
    let client = db.client().await?;
    client.batch_execute(PLAIN).await?;
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    let is_new = "SELECT count(*) FROM dataset WHERE name LIKE 'new%'";
    let lost = Cut { after: MERGE, arrives: true, for_good: false };
    let through = async |cut| behind_cutting_proxy(db.url(), cut).await;
    let merge_through = async |run, cut, options: &TargetOptions, changed: fn(i64) -> bool| {
        let dataset = dataset(rows(0..100, changed));
        anyhow::Ok(push::merge(&through(cut).await?, options, dataset, run, &progress, &cancel).await)
    };

    let error = merge_through("r1", Cut { arrives: false, ..lost }, &options(), |id| id < 10).await?.unwrap_err();
    assert!(matches!(error, PushError::Lost { step: "commit the merge", .. }), "{error:?}");
    assert_eq!(number(&client, is_new).await?, 0);
    assert_eq!(texts(&client, LEFTOVERS).await?, [""; 0]);

    let report = merge_through("r2", lost, &options(), |id| id < 10).await??;
    assert!(report.notes.iter().any(|note| note.contains("the server says that it had happened")), "{report:?}");
    assert_eq!(number(&client, is_new).await?, 10);
    let report = push::rollback(&through(lost).await?, &options(), "r3", &progress, &cancel).await?;
    assert!(report.swap.answer_lost && !report.notes.is_empty(), "{report:?}");
    assert_eq!(number(&client, is_new).await?, 0);
    assert_eq!(texts(&client, LEFTOVERS).await?, [""; 0]);

    // Where the server cannot be asked, the next command tells.
    let impatient = TargetOptions { outcome_patience: Duration::from_millis(300), ..options() };
    let error = merge_through("r4", Cut { for_good: true, ..lost }, &impatient, |id| id < 20).await?.unwrap_err();
    assert!(matches!(error, PushError::OutcomeUnknown { .. }), "{error:?}");
    until(&client, "the lost session has ended", NO_PUSH_SESSION).await?;
    let url: DatabaseUrl = db.url().parse()?;
    let left = push::leftovers(&client, &url).await?;
    assert_eq!(left.iter().map(|left| left.left_at).collect::<Vec<_>>(), [push::LeftAt::Merged]);
    let report = merge(&db, &options(), "r5", rows(0..100, |id| id < 20)).await?;
    assert_eq!(report.counts.unchanged, 100);
    let told = "run r4 had merged its rows into public.dataset; it is finished now";
    assert!(report.notes.iter().any(|note| note == told), "{:?}", report.notes);
    assert_eq!(texts(&client, LEFTOVERS).await?, [""; 0]);
    Ok(())
}

/// Six megabytes are loaded and as many inserted: at two per second that takes its time, however fast the machine is.
#[tokio::test(flavor = "multi_thread")]
async fn a_limited_merge_writes_no_faster_than_it_may() -> Result<()> {
    let db = TestDb::new("merge_pace").await?;
    let client = db.client().await?;
    client.batch_execute("CREATE TABLE dataset (id bigint PRIMARY KEY, name text)").await?;
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from_iter_values(0..6_000)) as ArrayRef),
        ("name", Arc::new(StringArray::from_iter_values((0..6_000).map(|id| format!("{id:01000}"))))),
    ])?;
    let mut options = options();
    options.merge.max_wal_rate = NonZeroU32::new(2);
    let report = merge(&db, &options, "r1", batch).await?;
    assert_eq!(report.counts.inserted, 6_000);
    assert!(report.copy_seconds > 2.0 && report.merge_seconds > 2.5, "{report:?}");
    assert!(report.notes.iter().any(|note| note.starts_with("paused for ")), "{:?}", report.notes);
    Ok(())
}
