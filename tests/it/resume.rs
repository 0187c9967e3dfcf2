//! A pull whose program is killed: the next goes on where it was while its snapshot is there, and starts over otherwise.

use std::process::Child;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{Fault, Proxy, Ran, TestDb, Workspace, cluster, eventually};

const PIPELINE: &str = "[[tables]]\nname = \"large\"\n[[tables]]\nname = \"small\"\n\
    [dataset]\nname = \"d\"\nkey = [\"id\"]\nphases = \"sql\"\n[target]\ntable = \"d\"\nbackup = \"b\"\n";

/// A database whose tables have about so many million bytes.
async fn tables(name: &str, large: u32, small: u32) -> Result<(TestDb, Client)> {
    let db = TestDb::new(name).await?;
    let client = db.client().await?;
    for (table, megabytes) in [("large", large), ("small", small)] {
        let sql = format!(
            "CREATE TABLE {table} AS SELECT n AS id, repeat('x', 1000) AS pad FROM generate_series(1, {}) n",
            megabytes * 1000
        );
        client.batch_execute(&sql).await?;
    }
    Ok((db, client))
}

fn workspace(url: &str) -> Result<Workspace> {
    let workspace = Workspace::at(url)?;
    std::fs::write(workspace.path().join("pipeline.toml"), PIPELINE)?;
    Ok(workspace)
}

/// A session that has exported its snapshot, and the snapshot's name.
async fn holder(db: &TestDb) -> Result<(Client, String)> {
    let holder = db.client().await?;
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    let id = holder.query_one("SELECT pg_export_snapshot()", &[]).await?.get(0);
    Ok((holder, id))
}

/// Runs a pull until it has noted completed files, then does something and kills it.
fn kill_midway(workspace: &Workspace, arguments: &[&str], before: impl FnOnce()) -> Result<()> {
    let mut child: Child = workspace.command([["pull", "--jobs", "1"].as_slice(), arguments].concat()).spawn()?;
    let journal = workspace.lake().join("journal/pull.json");
    eventually("the pull notes completed files", || journal.exists());
    before();
    child.kill()?;
    let ran = Ran::from(child.wait_with_output()?);
    ensure!(ran.code.is_none(), "it ended before it was killed: {ran:?}");
    ensure!(journal.exists() && workspace.lake_files("manifest").is_empty());
    Ok(())
}

/// The lake has what a session sees, and no other files than it needs.
async fn assert_same(workspace: &Workspace, report: &Value, session: &Client) -> Result<()> {
    for table in ["large", "small"] {
        let sql =
            format!("SELECT count(*) || ' ' || coalesce(sum(id), 0) || ' ' || count(DISTINCT id) AS v FROM {table}");
        let wanted: String = session.query_one(&sql, &[]).await?.get(0);
        let rows = workspace.run(["--json", "query", &sql])?.ok()?.json()?;
        assert_eq!(rows[0]["v"], Value::String(wanted), "{table}: {report:#}");
    }
    let files: u64 = ["large", "small"].iter().filter_map(|table| report["tables"][table]["files"].as_u64()).sum();
    assert_eq!(workspace.lake_files("tables").len() as u64, files, "{report:#}");
    assert_eq!(workspace.lake_files("journal"), Vec::<std::path::PathBuf>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pull_goes_on_with_the_ranges_it_had_completed() -> Result<()> {
    let (db, client) = tables("killed", 220, 1).await?;
    let (holder, id) = holder(&db).await?;
    client
        .batch_execute(
            "DELETE FROM large WHERE id % 3 = 0; INSERT INTO large SELECT n, 'new' FROM generate_series(-99, 0) n",
        )
        .await?;
    let workspace = workspace(db.url())?;
    kill_midway(&workspace, &["--snapshot", &id, "--max-rate", "40"], || {})?;
    let ran = workspace.run(["--json", "pull", "--jobs", "3"])?.ok()?;
    let report = ran.json()?;
    assert!(report["kept_files"].as_u64() >= Some(1), "{report:#}");
    assert_eq!(report["lost_snapshots"], 0, "{ran:?}");
    let bytes = report["tables"]["large"]["wire_bytes"].as_u64().context("wire_bytes")?;
    assert!(bytes > 1_000_000 && bytes < 100_000_000, "what was completed is not copied again: {report:#}");
    assert_same(&workspace, &report, &holder).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_while_the_server_has_not_noticed_that_its_client_is_gone() -> Result<()> {
    let (db, client) = tables("frozen", 16, 8).await?;
    let proxy = Proxy::start(cluster().port(), |_| Fault::None).await?;
    let workspace = workspace(&db.url().replace(&cluster().port().to_string(), &proxy.port.to_string()))?;
    let (watcher, _) = holder(&db).await?;
    client.batch_execute("SELECT 1").await?;
    kill_midway(&workspace, &["--max-rate", "8"], || proxy.freeze())?;
    client.batch_execute("DELETE FROM large WHERE id % 3 = 0; DELETE FROM small WHERE id % 3 = 0").await?;
    let report = workspace.run(["--json", "pull"])?.ok()?.json()?;
    assert!(report["kept_files"].as_u64() >= Some(1), "{report:#}");
    assert_eq!(report["tables"]["large"]["wire_bytes"], 0, "{report:#}");
    assert_same(&workspace, &report, &watcher).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_cannot_go_on_starts_over_and_says_why() -> Result<()> {
    let (db, client) = tables("over", 16, 8).await?;
    let gone = "starting over instead of going on with the interrupted pull: nobody has its snapshot any more";
    let other = "starting over instead of going on with the interrupted pull: something else is asked for";
    for (change, is_released, arguments, why) in [
        ("DELETE FROM large WHERE id % 7 = 1", true, vec!["large", "small"], gone),
        ("DELETE FROM large WHERE id % 7 = 2", false, vec!["small", "--max-rate", "999"], other),
        (
            "TRUNCATE small; INSERT INTO small VALUES (1, 'x')",
            false,
            vec![],
            "small was truncated, rewritten or replaced",
        ),
    ] {
        let (holder, id) = holder(&db).await?;
        let workspace = workspace(db.url())?;
        kill_midway(&workspace, &["--snapshot", &id, "--max-rate", "8"], || {})?;
        client.batch_execute(change).await?;
        if is_released {
            holder.batch_execute("COMMIT").await?;
        }
        let ran = workspace.run([vec!["--json", "pull"], arguments.clone()].concat())?.ok()?;
        assert!(ran.stderr.contains(why), "{change}: {ran:?}");
        let mut report = ran.json()?;
        if arguments.first() == Some(&"small") {
            let left = workspace
                .lake_files("tables")
                .iter()
                .filter(|file| file.display().to_string().contains("large"))
                .count();
            assert_eq!(left, 0, "{report:#}");
            let small = report["tables"]["small"].take();
            report = workspace.run(["--json", "pull", "large"])?.ok()?.json()?;
            report["tables"]["small"] = small;
        }
        assert_eq!(report["kept_files"], 0, "{change}: {report:#}");
        assert_same(&workspace, &report, &client).await.context(change)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_command_removes_what_a_killed_pull_left_and_a_snapshot_must_be_there() -> Result<()> {
    let (db, _client) = tables("left", 8, 4).await?;
    let (holder, id) = holder(&db).await?;
    let workspace = workspace(db.url())?;
    kill_midway(&workspace, &["--snapshot", &id, "--max-rate", "4"], || {})?;
    workspace.run(["gc"])?.ok()?;
    assert!(workspace.lake_files("tables").is_empty() && workspace.lake_files("journal").is_empty());
    holder.batch_execute("COMMIT").await?;
    let ran = workspace.run(["pull", "--snapshot", &id])?;
    let said = format!("no open transaction of this server and database has the snapshot {id}");
    assert!(ran.code == Some(2) && ran.stderr.contains(&said), "{ran:?}");
    Ok(())
}
