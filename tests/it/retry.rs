//! Pulls whose connections, statements, snapshots and servers are lost on the way: the lake has every row once.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use racealpha::pg::{LocalServer, ServerOptions, Session, describe_table};
use racealpha::schema::TableName;
use racealpha::source::{CopyLimits, CopyRange, CopyStream, SourceError};
use rand::{RngExt, SeedableRng, rngs::ChaCha12Rng};
use serde_json::Value;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::support::{Fault, Proxy, Ran, Standby, TestDb, Workspace, cluster, connect, password};

/// How long a pull may take to begin.
const PATIENCE: Duration = Duration::from_secs(60);
/// What tells two versions of the table apart, in the words of both engines.
const DIGEST: &str = "SELECT count(*) || ' ' || md5(string_agg(race_id || ',' || race_date || ',' || note, ';' ORDER BY race_id)) \
     AS digest FROM races";

/// A table of about a hundred bytes a row, in several ranges.
async fn create_races(client: &Client, rows: u32) -> Result<()> {
    let create = format!(
        "CREATE TABLE public.races AS SELECT n AS race_id, date '2020-01-01' + n % 700 AS race_date, \
                md5(n::text) || repeat('x', 60) AS note FROM generate_series(1, {rows}) AS n"
    );
    Ok(client.batch_execute(&create).await?)
}

async fn digest(client: &Client) -> Result<String> {
    Ok(client.query_one(DIGEST, &[]).await?.get(0))
}

/// What the lake says to the same question.
fn pulled_digest(workspace: &Workspace) -> Result<String> {
    let rows = workspace.run(["query", DIGEST, "--format", "json"])?.ok()?.json()?;
    Ok(rows[0]["digest"].as_str().with_context(|| format!("no digest: {rows}"))?.to_owned())
}

/// Waits until a session of the pull copies.
async fn copying(watcher: &Client, name: &str) -> Result<i32> {
    let busy = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1 \
                AND state = 'active' AND query LIKE 'COPY%'";
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(row) = watcher.query(busy, &[&name]).await?.first() {
            return Ok(row.get(0));
        }
        ensure!(Instant::now() < deadline, "no session copies");
    }
}

/// Reads what a program says until a line has the text; then goes on in the background, so that it is not held up.
fn said(child: &mut Child, text: &str) -> Result<String> {
    let mut lines = BufReader::new(child.stderr.take().context("its messages")?).lines();
    let mut seen = String::new();
    for line in lines.by_ref() {
        seen.push_str(&line?);
        if seen.contains(text) {
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(seen);
        }
    }
    anyhow::bail!("it never said {text}: {seen}")
}

/// What the first connections of a pull meet.
fn faults(seed: u64) -> Vec<Fault> {
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    (0..8)
        .map(|number| {
            let most = if random.random_bool(0.3) { 12_000 } else { 3_000_000 };
            let bytes = random.random_range(0..most);
            match random.random_range(0..4) {
                // The first connection has the snapshot; it lives to see others, or there is no pull yet.
                kind if number == 0 => {
                    if kind == 0 {
                        Fault::None
                    } else {
                        Fault::ResetAt(1 + kind)
                    }
                }
                _ if number > 3 => Fault::None,
                0 => Fault::Slow(Duration::from_micros(random.random_range(0..500))),
                1 | 2 => Fault::Reset(bytes),
                _ => Fault::End(bytes),
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_arrives_once_however_connections_break() -> Result<()> {
    let db = TestDb::new("breaks").await?;
    let client = db.client().await?;
    create_races(&client, 100_000).await?;
    let wanted = digest(&client).await?;
    let (mut repeated, mut lost) = (0, 0);
    for seed in 0..30 {
        let faults = faults(seed);
        let planned = faults.clone();
        let proxy =
            Proxy::start(cluster().port(), move |number| planned.get(number).copied().unwrap_or(Fault::None)).await?;
        let workspace = Workspace::at(&db.url().replace(&cluster().port().to_string(), &proxy.port.to_string()))?;
        let ran = workspace.run(["--json", "pull", "races", "--jobs", "3"])?;
        assert_eq!(ran.code, Some(0), "seed {seed}, {faults:?}: {ran:?}");
        let report = ran.json()?;
        repeated += report["repeated_ranges"].as_u64().context("repeated_ranges")?;
        lost += report["lost_snapshots"].as_u64().context("lost_snapshots")?;
        assert_eq!(pulled_digest(&workspace)?, wanted, "seed {seed}, {faults:?}: {ran:?}");
        let files = report["tables"]["races"]["files"].as_u64().context("files")?;
        assert_eq!(workspace.lake_files("tables").len() as u64, files, "files that nobody names, seed {seed}: {ran:?}");
    }
    assert!(repeated > 0 && lost > 0, "{repeated} ranges repeated, {lost} snapshots lost: the seeds try too little");
    Ok(())
}

/// Its key is null for some rows, and one value for many.
#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_a_view_in_ranges_arrives_once_however_connections_break() -> Result<()> {
    const SUMS: &str = "SELECT count(*) || ' ' || count(DISTINCT n) || ' ' || sum(n) || ' ' || count(id) || ' ' || sum(id) AS v FROM seen";
    let db = TestDb::new("view_breaks").await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "CREATE TABLE base AS SELECT n, CASE WHEN n % 10 = 0 THEN NULL WHEN n % 3 = 0 THEN 7 ELSE n END AS id, \
                    repeat('x', 60) AS note FROM generate_series(1, 200000) AS n;
             CREATE VIEW seen AS SELECT id, n, upper(note) AS note FROM base",
        )
        .await?;
    let wanted: String = client.query_one(SUMS, &[]).await?.get(0);
    let pipeline = "[[tables]]\nname = \"seen\"\nsplit_by = \"id\"\n[dataset]\nname = \"d\"\nkey = [\"id\"]\nphases = \"sql\"\n\
        [target]\ntable = \"d\"\nbackup = \"b\"\n";
    let pull = |url: &str, jobs: &str| {
        let workspace = Workspace::at(url)?;
        std::fs::write(workspace.path().join("pipeline.toml"), pipeline)?;
        let child = workspace.command(["--json", "pull", "--jobs", jobs, "--max-rate", "8"]).spawn()?;
        anyhow::Ok((workspace, child))
    };
    let check = |workspace: &Workspace, child: Child| {
        let report = Ran::from(child.wait_with_output()?).ok()?.json()?;
        let found = workspace.run(["query", SUMS, "--format", "json"])?.ok()?.json()?;
        assert_eq!(found[0]["v"], wanted.as_str(), "{report}");
        let files = report["tables"]["seen"]["files"].as_u64().context("files")?;
        assert_eq!(workspace.lake_files("tables").len() as u64, files, "files that nobody names: {report}");
        report["repeated_ranges"].as_u64().context("repeated_ranges")
    };
    let mut repeated = 0;
    for seed in 0..6 {
        let planned = faults(seed);
        let proxy =
            Proxy::start(cluster().port(), move |number| planned.get(number).copied().unwrap_or(Fault::None)).await?;
        let (workspace, child) = pull(&db.url().replace(&cluster().port().to_string(), &proxy.port.to_string()), "3")?;
        repeated += check(&workspace, child).with_context(|| format!("seed {seed}, {:?}", faults(seed)))?;
    }
    assert!(repeated > 0, "the seeds try too little");

    // A statement that takes too long is halved.
    let (workspace, child) = pull(db.url(), "1")?;
    let process = copying(&client, "racealpha pull").await?;
    client.execute("SELECT pg_cancel_backend($1)", &[&process]).await?;
    assert!(check(&workspace, child)? >= 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_halved() -> Result<()> {
    let db = TestDb::new("halves").await?;
    let client = db.client().await?;
    create_races(&client, 50_000).await?;
    let workspace = Workspace::at(db.url())?;
    let child = workspace.command(["--json", "pull", "races", "--jobs", "1", "--max-rate", "4"]).spawn()?;
    let process = copying(&client, "racealpha pull").await?;
    client.execute("SELECT pg_cancel_backend($1)", &[&process]).await?;
    let ran = Ran::from(child.wait_with_output()?).ok()?;
    assert!(ran.json()?["repeated_ranges"].as_u64() >= Some(2), "{ran:?}");
    assert_eq!(pulled_digest(&workspace)?, digest(&client).await?);
    Ok(())
}

/// A server that has no room, or lets others go first, is asked again after a pause.
#[tokio::test(flavor = "multi_thread")]
async fn errors_that_pass_are_waited_out() -> Result<()> {
    let db = TestDb::new("passing").await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "CREATE FUNCTION one(code text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                 IF EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objid = 7
                            AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
                 THEN RAISE EXCEPTION USING ERRCODE = code, MESSAGE = 'not now'; END IF;
                 RETURN 1; END $$",
        )
        .await?;
    for code in ["53200", "53400", "40P01", "25P04", "25P03"] {
        client
            .batch_execute(&format!(
                "CREATE OR REPLACE VIEW races AS SELECT public.one('{code}') AS race_id, date '2020-01-01' AS race_date"
            ))
            .await?;
        client.query_one("SELECT pg_advisory_lock(7)", &[]).await?;
        let workspace = Workspace::at(db.url())?;
        let mut child = workspace.command(["--json", "pull", "races"]).spawn()?;
        said(&mut child, "; copying 1 ranges of it again").context(code)?;
        client.query_one("SELECT pg_advisory_unlock(7)", &[]).await?;
        let report = Ran::from(child.wait_with_output()?).ok()?.json()?;
        assert_eq!(
            (&report["tables"]["races"]["rows"], &report["lost_snapshots"]),
            (&1.into(), &0.into()),
            "{code}: {report}"
        );
        assert!(report["repeated_ranges"].as_u64() >= Some(1), "{code}: {report}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_think_before_its_first_row_and_not_fall_silent_after_it() -> Result<()> {
    let db = TestDb::new("silent").await?;
    let client = db.client().await?;
    create_races(&client, 200_000).await?;
    let thinks = "CREATE VIEW thinks AS SELECT n AS id, t.s FROM generate_series(1, 3) n, (SELECT pg_sleep(1)::text AS s OFFSET 0) AS t";
    client.batch_execute(thinks).await?;
    let proxy = Proxy::start(cluster().port(), |_| Fault::None).await?;
    let url = db.url().replace(&cluster().port().to_string(), &proxy.port.to_string()).parse()?;
    let limits = CopyLimits { rate: None, stall: Duration::from_millis(300) };
    let cancel = CancellationToken::new();

    let mut session = Session::open(&url, "test").await?;
    let table = describe_table(&session, &TableName::new("public", "thinks")).await?;
    let mut stream = CopyStream::open(&mut session, &table, CopyRange::ALL, None, limits.clone(), &cancel).await?;
    assert!(stream.next().await?.is_some_and(|block| !block.is_empty()));
    assert_eq!((stream.next().await?, stream.rows()), (None, 3));

    let table = describe_table(&session, &TableName::new("public", "races")).await?;
    let mut stream = CopyStream::open(&mut session, &table, CopyRange::ALL, None, limits, &cancel).await?;
    stream.next().await?.context("the first rows")?;
    proxy.freeze();
    let error = loop {
        // What was on its way still comes.
        match stream.next().await {
            Ok(block) => drop(block.context("the server was cut off before its last row")?),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SourceError::Stalled { .. }), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_connection_left_is_asked_again_and_one_that_refuses_is_not() -> Result<()> {
    let db = TestDb::new("full").await?;
    let client = db.client().await?;
    create_races(&client, 1000).await?;
    let role = format!("narrow_{}", db.name());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'p' CONNECTION LIMIT 1; GRANT SELECT ON races TO {role}"
        ))
        .await?;
    let url = format!("postgres://{role}:p@127.0.0.1:{}/{}", cluster().port(), db.name());
    let other = connect(&url).await?;
    let workspace = Workspace::at(&url)?;
    let mut child = workspace.command(["--json", "pull", "races"]).spawn()?;
    said(&mut child, "is just starting, or has no connection left; trying again")?;
    drop(other);
    let report = Ran::from(child.wait_with_output()?).ok()?.json()?;
    assert_eq!(report["tables"]["races"]["rows"], 1000, "{report}");
    let refused = Workspace::at("postgres://u:p@127.0.0.1:1/d")?.run(["pull"])?;
    assert!(refused.code == Some(4) && !refused.stderr.contains("trying again"), "{refused:?}");
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await?;
    Ok(())
}

/// A role with one connection, and one that may not export its snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_two_sessions_can_share_a_snapshot_one_pulls_and_says_so() -> Result<()> {
    let db = TestDb::new("alone").await?;
    let client = db.client().await?;
    create_races(&client, 20_000).await?;
    let refusal = "REVOKE EXECUTE ON FUNCTION pg_export_snapshot() FROM PUBLIC";
    for (kind, limit, refusal) in [("single", "CONNECTION LIMIT 1", ""), ("silent", "", refusal)] {
        client.batch_execute(refusal).await?;
        let role = format!("{kind}_{}", db.name());
        client
            .batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'p' {limit}; GRANT SELECT ON races TO {role}"))
            .await?;
        let workspace = Workspace::at(&format!("postgres://{role}:p@127.0.0.1:{}/{}", cluster().port(), db.name()))?;
        let ran = workspace.run(["--json", "pull", "races", "--jobs", "3"])?.ok()?;
        let report = ran.json()?;
        assert_eq!((&report["connections"], &report["lost_snapshots"]), (&1.into(), &0.into()), "{kind}: {ran:?}");
        assert_eq!(
            ran.stderr
                .matches("pull       warning: pulling with one connection, as no other can share its snapshot")
                .count(),
            1,
            "{ran:?}"
        );
        assert_eq!(pulled_digest(&workspace)?, digest(&client).await?, "{kind}");
        client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await?;
    }
    Ok(())
}

/// Rows keep their places while a pull goes by them, and a lost session is replaced by one of the same snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_is_replaced_while_the_table_changes_and_cannot_be_rewritten() -> Result<()> {
    let db = TestDb::new("replaced").await?;
    let (client, writer) = (db.client().await?, db.client().await?);
    // More than the network's buffers hold, so that the server cannot be done before its client is.
    create_races(&client, 200_000).await?;
    let wanted = digest(&client).await?;
    writer.batch_execute("BEGIN; DELETE FROM races WHERE race_id % 3 = 0; UPDATE races SET note = 'changed'").await?;
    let workspace = Workspace::at(db.url())?;
    let child = workspace.command(["--json", "pull", "races", "--max-rate", "6"]).spawn()?;
    let process = copying(&client, "racealpha pull").await?;
    writer.batch_execute("COMMIT").await?;
    client.execute("SELECT pg_terminate_backend($1)", &[&process]).await?;
    client.batch_execute("SET lock_timeout = '100ms'").await?;
    let rewrite = client.batch_execute("VACUUM FULL races").await.expect_err("the pull holds the table as it is");
    assert_eq!(rewrite.code().map(tokio_postgres::error::SqlState::code), Some("55P03"));
    let ran = Ran::from(child.wait_with_output()?).ok()?;
    let report = ran.json()?;
    assert!(report["repeated_ranges"].as_u64() >= Some(1), "{ran:?}");
    assert_eq!(report["lost_snapshots"].as_u64(), Some(0), "{ran:?}");
    assert_eq!(pulled_digest(&workspace)?, wanted);
    assert_ne!(digest(&client).await?, wanted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_is_waited_for() -> Result<()> {
    let mut server = tokio::task::spawn_blocking(|| LocalServer::start(&ServerOptions::default())).await??;
    let client = connect(server.url().as_str()).await?;
    create_races(&client, 40_000).await?;
    let wanted = digest(&client).await?;
    let workspace = Workspace::at(server.url().as_str())?;
    let child = workspace.command(["--json", "pull", "races", "--max-rate", "3"]).spawn()?;
    copying(&client, "racealpha pull").await?;
    let server = tokio::task::spawn_blocking(move || {
        server.stop_immediate()?;
        server.restart()?;
        Ok::<_, anyhow::Error>(server)
    })
    .await??;
    let ran = Ran::from(child.wait_with_output()?).ok()?;
    assert_eq!(ran.json()?["lost_snapshots"].as_u64(), Some(1), "{ran:?}");
    assert_eq!(pulled_digest(&workspace)?, wanted);
    tokio::task::spawn_blocking(move || drop(server)).await?;
    Ok(())
}

/// A standby that does not wait for its readers cancels them when the primary removes what they read.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_cancels_a_pull_is_read_again_or_named() -> Result<()> {
    let primary = LocalServer::start(&ServerOptions::default())?;
    let client = connect(primary.url().as_str()).await?;
    // More than the sockets' buffers take, so that the server is still copying when it is looked at.
    create_races(&client, 240_000).await?;
    let settings = ["-c", "max_standby_streaming_delay=50ms", "-c", "hot_standby_feedback=off"];
    let standby = Standby::of(&primary, &settings).await?;
    let url = format!("postgres://postgres:{}@127.0.0.1:{}/postgres", password(&primary)?, standby.port);
    let watcher = connect(&url).await?;
    let workspace = Workspace::at(&url)?;
    let child = workspace.command(["--json", "pull", "races", "--max-rate", "10"]).spawn()?;
    copying(&watcher, "racealpha pull").await?;
    client.batch_execute("DELETE FROM races WHERE race_id % 2 = 0").await?;
    client.batch_execute("VACUUM races").await?;
    let ran = Ran::from(child.wait_with_output()?);
    let reason = "set hot_standby_feedback = on there, or raise max_standby_streaming_delay";
    if ran.code == Some(0) {
        let report: Value = ran.json()?;
        assert!(report["lost_snapshots"].as_u64() >= Some(1), "{ran:?}");
        assert_eq!(pulled_digest(&workspace)?, digest(&watcher).await?);
    } else {
        assert!(ran.code == Some(4) && ran.stderr.contains(reason), "{ran:?}");
    }
    Ok(())
}
