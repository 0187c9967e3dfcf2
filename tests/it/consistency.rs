//! A lake version is of one moment, whoever writes, truncates, rewrites or exchanges tables while it is pulled.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{Ran, TestDb, Workspace};

const REST: &str =
    "[dataset]\nname = \"d\"\nkey = [\"id\"]\nphases = \"sql\"\n[target]\ntable = \"d\"\nbackup = \"b\"\n";
/// How long a pull may take to get to where it is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A workspace whose pipeline file has these tables.
fn workspace(url: &str, tables: &[&str]) -> Result<Workspace> {
    let workspace = Workspace::at(url)?;
    let tables: String = tables.iter().map(|name| format!("[[tables]]\nname = \"{name}\"\n")).collect();
    std::fs::write(workspace.path().join("pipeline.toml"), format!("{tables}{REST}"))?;
    Ok(workspace)
}

/// Waits until a session of the pull is in a state that a condition on `pg_stat_activity` tells.
async fn pulling(watcher: &Client, child: &mut Child, condition: &str) -> Result<()> {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'racealpha pull' AND {condition}"
    );
    let deadline = Instant::now() + PATIENCE;
    while watcher.query_one(&sql, &[]).await?.get::<_, i64>(0) == 0 {
        ensure!(child.try_wait()?.is_none(), "the pull ended before {condition}");
        ensure!(Instant::now() < deadline, "never: {condition}");
    }
    Ok(())
}

/// One text that the lake and the server compute alike.
async fn assert_same(workspace: &Workspace, client: &Client, table: &str, what: &str) -> Result<()> {
    let sql =
        format!("SELECT count(*) || ' ' || coalesce(string_agg(id::text, ' ' ORDER BY id), '') AS v FROM {table}");
    let rows = workspace.run(["--json", "query", &sql])?.ok()?.json()?;
    let wanted: String = client.query_one(&sql, &[]).await?.get(0);
    assert_eq!(rows[0]["v"], Value::String(wanted), "{what}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_exchanged_before_it_is_locked_is_read_from_a_new_snapshot() -> Result<()> {
    let cases = [
        ("t", "TRUNCATE t; INSERT INTO t SELECT generate_series(50, 60)"),
        (
            "t",
            "DROP VIEW seen; DROP MATERIALIZED VIEW kept; ALTER TABLE t ALTER id TYPE bigint; INSERT INTO t VALUES (61)",
        ),
        ("t", "DROP TABLE t CASCADE; CREATE TABLE t (id int); INSERT INTO t VALUES (7)"),
        ("t", "ALTER TABLE t RENAME TO u; CREATE TABLE t (id int, big int); INSERT INTO t VALUES (7), (8)"),
        ("t", "ALTER TABLE t ADD more int, DROP big; INSERT INTO t VALUES (7), (8)"),
        ("seen", "TRUNCATE t; INSERT INTO t SELECT generate_series(50, 60)"),
        ("kept", "INSERT INTO t VALUES (62); REFRESH MATERIALIZED VIEW kept"),
        ("parent", "TRUNCATE child; INSERT INTO child VALUES (63)"),
        ("parent", "ALTER TABLE child NO INHERIT parent"),
        ("parted", "TRUNCATE part_1; INSERT INTO parted VALUES (3)"),
        ("parted", "ALTER TABLE parted DETACH PARTITION part_1"),
        ("parted", "LOCK parted; ALTER TABLE parted ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20)"),
        ("below", "TRUNCATE part_1; INSERT INTO parted VALUES (3)"),
    ];
    for (table, exchange) in cases {
        let db = TestDb::new("exchanged").await?;
        let (client, other) = (db.client().await?, db.client().await?);
        client
            .batch_execute(
                "CREATE TABLE t (id int, big int); INSERT INTO t SELECT generate_series(1, 40);
                 CREATE VIEW seen AS SELECT id FROM t WHERE id > 0; CREATE MATERIALIZED VIEW kept AS SELECT id FROM t;
                 CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
                 INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2), (3);
                 CREATE TABLE parted (id int) PARTITION BY RANGE (id);
                 CREATE TABLE part_1 PARTITION OF parted FOR VALUES FROM (0) TO (10); CREATE TABLE part_2 (id int);
                 INSERT INTO part_1 VALUES (4), (5); INSERT INTO part_2 VALUES (14), (15);
                 CREATE VIEW below AS SELECT id FROM parted;",
            )
            .await?;
        other.batch_execute(&format!("BEGIN; {exchange}")).await.context(exchange)?;
        let workspace = workspace(db.url(), &[table])?;
        let mut child = workspace.command(["--json", "pull"]).spawn()?;
        pulling(&client, &mut child, "wait_event_type = 'Lock'").await.context(exchange)?;
        other.batch_execute("COMMIT").await?;
        let ran = Ran::from(child.wait_with_output()?).ok().context(exchange)?;
        assert_eq!(ran.json()?["lost_snapshots"], 1, "{exchange}: {ran:?}");
        assert!(ran.stderr.contains("since the snapshot was taken; starting over"), "{exchange}: {ran:?}");
        assert_same(&workspace, &client, table, exchange).await?;
    }
    Ok(())
}

/// `ATTACH PARTITION` does not wait for readers. Leaves that are read by themselves are those of the snapshot; what is read
/// in one piece may have the new one in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_attached_while_its_table_is_copied_is_left_out_or_noticed() -> Result<()> {
    for (table, lost, rows) in [("parted", 0, 90_000), ("below", 1, 90_001)] {
        let db = TestDb::new("attached").await?;
        let client = db.client().await?;
        client
            .batch_execute(
                "CREATE TABLE parted (id int, pad text) PARTITION BY RANGE (id);
                 CREATE TABLE part_1 PARTITION OF parted FOR VALUES FROM (0) TO (100000);
                 CREATE TABLE part_2 (id int, pad text); INSERT INTO part_2 VALUES (100001, 'late');
                 INSERT INTO parted SELECT n, repeat('x', 60) FROM generate_series(1, 90000) n;
                 CREATE VIEW below AS SELECT id, pad FROM parted",
            )
            .await?;
        let workspace = workspace(db.url(), &[table])?;
        let mut child = workspace.command(["--json", "pull", "--max-rate", "2"]).spawn()?;
        pulling(&client, &mut child, "state = 'active' AND query LIKE 'COPY%'").await?;
        let attach = "ALTER TABLE parted ATTACH PARTITION part_2 FOR VALUES FROM (100000) TO (200000)";
        client.batch_execute(attach).await?;
        assert!(child.try_wait()?.is_none(), "{table}: the pull ended before the part was attached");
        let ran = Ran::from(child.wait_with_output()?).ok()?;
        let report = ran.json()?;
        assert_eq!(report["lost_snapshots"], lost, "{ran:?}");
        assert_eq!(report["tables"][table]["rows"], rows, "{ran:?}");
        workspace.run(["pull"])?.ok()?;
        assert_same(&workspace, &client, table, attach).await?;
    }
    Ok(())
}

/// Races come and go with their results, each in one transaction.
async fn write(client: Client, is_over: Arc<AtomicBool>, written: Arc<AtomicU64>) -> Result<()> {
    for number in 100_000_u64.. {
        if is_over.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (gone, moved) = (number % 20_000, number * 7 % 20_000);
        let statements = match number % 3 {
            0 => format!("DELETE FROM races WHERE id = {gone}; DELETE FROM results WHERE race = {gone}"),
            1 => format!(
                "UPDATE races SET id = {number} WHERE id = {moved}; UPDATE results SET race = {number} WHERE race = {moved}"
            ),
            _ => format!(
                "INSERT INTO results SELECT n, {number}, 'new' FROM generate_series(1, 3) n; INSERT INTO races VALUES ({number}, 'new')"
            ),
        };
        client.batch_execute(&format!("BEGIN; {statements}; COMMIT")).await?;
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_result_lacks_its_race_while_both_are_written() -> Result<()> {
    let db = TestDb::new("consistent").await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "CREATE TABLE races (id bigint, note text); CREATE TABLE results (id bigint, race bigint, note text);
             INSERT INTO races SELECT n, repeat('x', 60) FROM generate_series(0, 19999) n;
             INSERT INTO results SELECT i, n, repeat('x', 60) FROM generate_series(0, 19999) n, generate_series(1, 3) i;
             CREATE INDEX ON races (id); CREATE INDEX ON results (race); ANALYZE",
        )
        .await?;
    let (is_over, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writing = tokio::spawn(write(db.client().await?, Arc::clone(&is_over), Arc::clone(&written)));
    let workspace = workspace(db.url(), &["races", "results"])?;
    let orphans = "SELECT (SELECT count(*) FROM results WHERE race NOT IN (SELECT id FROM races)) AS orphans, \
                   (SELECT count(*) FROM races) AS races, (SELECT count(*) FROM results) AS results";
    for round in 0..4 {
        let before = written.load(Ordering::Relaxed);
        let child = workspace.command(["--json", "pull", "--jobs", "3", "--max-rate", "8"]).spawn()?;
        let ran = Ran::from(tokio::task::spawn_blocking(|| child.wait_with_output()).await??).ok()?;
        let during = written.load(Ordering::Relaxed) - before;
        assert!(during > 20, "only {during} transactions while it was pulled: {ran:?}");
        assert_eq!(ran.json()?["connections"], 3, "{ran:?}");
        let found = &workspace.run(["--json", "query", orphans])?.ok()?.json()?[0];
        assert_eq!(found["orphans"], 0, "round {round}: {found}");
        assert_eq!(found["results"].as_u64(), found["races"].as_u64().map(|races| 3 * races), "round {round}: {found}");
    }
    is_over.store(true, Ordering::Relaxed);
    writing.await??;
    Ok(())
}
