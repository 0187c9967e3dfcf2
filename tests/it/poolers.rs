//! Reading and writing through PgBouncer, which keeps a server session for a client, or deals them out by transaction.

use anyhow::{Context, Result};
use racealpha::pg::{ConnectError, DatabaseUrl, Session};
use serde_json::Value;

use crate::support::{Bouncer, Workspace, cluster, connect, racing};

const SMALL: [&str; 2] = ["--set", "validate.min_rows=1"];

fn small<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&SMALL, arguments].concat()
}

/// The rows that a pull reports are the server's.
async fn assert_pulled(report: &Value, url: &str) -> Result<()> {
    let client = connect(url).await?;
    let tables = report["tables"].as_object().context("tables")?;
    assert_eq!(tables.len(), 6);
    for (name, table) in tables {
        let rows: i64 = client.query_one(&format!("SELECT count(*) FROM {name}"), &[]).await?.get(0);
        assert_eq!(table["rows"].as_i64(), Some(rows), "{name}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_through_a_pooler_that_keeps_sessions() -> Result<()> {
    let db = racing("session_pooler", 300).await?;
    let bouncer = Bouncer::start(cluster(), "session", 20).await?;
    let workspace = Workspace::at(&bouncer.url(db.name()))?;
    let report = workspace.run(small(&["--json", "rebuild"]))?.ok()?.json()?;
    assert_pulled(&report["pull"], db.url()).await?;
    assert_eq!(report["pull"]["connections"].as_u64(), Some(2));
    let preview = workspace.run(small(&["--json", "preview"]))?.ok()?.json()?;
    assert_eq!(preview["changed"].as_u64(), Some(0), "{preview:#}");
    workspace.run(small(&["rollback"]))?.ok()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_shares_its_snapshot_through_a_pooler_that_deals_sessions_out_and_leaves_no_settings() -> Result<()> {
    let db = racing("transaction_pooler", 300).await?;
    let bouncer = Bouncer::start(cluster(), "transaction", 20).await?;
    let url = bouncer.url(db.name());
    let workspace = Workspace::at(&url)?;
    let report = workspace.run(["--json", "pull"])?.ok()?.json()?;
    assert_pulled(&report, db.url()).await?;
    assert_eq!(report["connections"].as_u64(), Some(2));
    workspace.run(small(&["run"]))?.ok()?;
    workspace.run(small(&["--json", "preview"]))?.ok()?;
    let status = workspace.run(["--json", "status"])?.ok()?.json()?;
    assert_eq!(status["source"]["reachable"], Value::Bool(true), "{status:#}");

    // Whoever gets our server session next must not find our search path in it.
    let next: DatabaseUrl = url.parse()?;
    let next = Session::open(&next, "test").await?;
    assert!(next.is_pooled());
    let found: String = next.query_typed_one("SELECT current_setting('search_path')", &[]).await?.get(0);
    assert_ne!(found, "pg_catalog");

    // Settings and locks of a push would be lost on the way.
    let ran = workspace.run(small(&["push"]))?;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("is a pooler in transaction mode, which only reading can use"), "{ran:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_with_one_session_is_pulled_from_with_one_connection_and_says_so() -> Result<()> {
    let db = racing("narrow_pooler", 50).await?;
    let bouncer = Bouncer::start(cluster(), "transaction", 1).await?;
    let workspace = Workspace::at(&bouncer.url(db.name()))?;
    let ran = workspace.run(["--json", "pull"])?.ok()?;
    let report = ran.json()?;
    assert_pulled(&report, db.url()).await?;
    assert_eq!(report["connections"].as_u64(), Some(1));
    assert!(ran.stderr.contains("pulling with one connection"), "{ran:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_of_a_pooler_is_found_out_whatever_its_size() -> Result<()> {
    for (mode, sessions, is_refused) in
        [("session", 1, false), ("session", 5, false), ("transaction", 1, true), ("transaction", 5, true)]
    {
        let bouncer = Bouncer::start(cluster(), mode, sessions).await?;
        let url: DatabaseUrl = bouncer.url("postgres").parse()?;
        // Sessions of the server that are idle in the pool already.
        if mode == "transaction" {
            let mut idle = Vec::new();
            for _ in 0..sessions {
                let session = Session::open(&url, "test").await?;
                session.batch_execute("BEGIN").await?;
                idle.push(session);
            }
            for session in &idle {
                session.batch_execute("COMMIT").await?;
            }
        }
        let opened = Session::open_lasting(&url, "test").await;
        let refused = matches!(opened, Err(ConnectError::TransactionPooler { .. }));
        assert_eq!(refused, is_refused, "{mode} mode with {sessions} sessions: {opened:?}");
        if !is_refused {
            opened.context("a session pooler lets us write")?;
        }
    }
    Ok(())
}
