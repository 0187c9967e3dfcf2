//! What the dashboard lets others use: the SQL box, downloads, slow bodies, looks at the servers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::support::{Served, Workspace, eventually, racing};

/// Far below the time that a slow client gets, and above what an answer takes.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_at_its_limits_and_the_server_goes_on() -> Result<()> {
    let db = racing("box", 20).await?;
    let workspace = Workspace::at(db.url())?;
    let served = Served::start(&workspace, &[], &[])?;
    assert_eq!(served.job("/api/pull", &json!({}))?, "done");
    let ask = |body| served.post("/api/query", &body);

    let huge = "SELECT * FROM range(1000000) a, range(1000000) b, range(1000000) c";
    let first = ask(json!({"sql": huge, "rows_max": 5}))?.json()?;
    assert_eq!((first["rows"].as_array().map(Vec::len), first["more"].as_bool()), (Some(5), Some(true)));
    let exact = ask(json!({"sql": "SELECT * FROM range(5)", "rows_max": 5}))?.json()?;
    assert_eq!((exact["rows"].as_array().map(Vec::len), exact["more"].as_bool()), (Some(5), Some(false)));
    let wide = "SELECT repeat('x', 100000 + CAST(range % 2 AS INTEGER)) FROM range(100000)";
    let cut = ask(json!({"sql": wide}))?.json()?;
    let rows = cut["rows"].as_array().map_or(0, Vec::len);
    assert!((10..1000).contains(&rows) && cut["more"] == true, "{rows} rows");

    let slow = ask(json!({"sql": "SELECT sum(hash(range)) FROM range(1000000000000)", "seconds_max": 1}))?;
    assert_eq!(slow.status, 408, "{slow:?}");
    let limits = "SELECT current_setting('memory_limit'), current_setting('max_temp_directory_size')";
    assert_eq!(ask(json!({ "sql": limits }))?.json()?["rows"], json!([["953.6 MiB", "3.7 GiB"]]));
    // What DuckDB does not count: texts of functions, here of 100 GB together, and of one aggregate.
    for sql in [
        "SELECT max(length(repeat('x', 50000000 + CAST(range % 2 AS INTEGER)))) FROM range(2000)",
        "SELECT length(string_agg(repeat('x', 1000000), '')) FROM range(20000)",
    ] {
        let refused = ask(json!({ "sql": sql }))?;
        let why = refused.json()?["detail"].as_str().unwrap_or_default().to_lowercase();
        assert!(refused.status == 400 && (why.contains("memory") || why.contains("alloc")), "{sql}: {refused:?}");
    }
    let spilled =
        "SELECT count(*) FROM (SELECT DISTINCT range, repeat(CAST(range AS VARCHAR), 9) FROM range(20000000))";
    assert_eq!(ask(json!({ "sql": spilled, "seconds_max": 3 }))?.status, 408);
    eventually("what it spilled is gone", || {
        let mut names = std::fs::read_dir(workspace.lake()).into_iter().flatten().flatten();
        !names.any(|entry| entry.file_name().to_string_lossy().starts_with("spill-"))
    });
    assert_eq!(served.get("/readyz")?.status, 200);
    assert_eq!(ask(json!({"sql": "SELECT count(*) FROM races"}))?.json()?["rows"], json!([[20]]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_reads_the_tables_files_and_no_other_of_the_lake() -> Result<()> {
    let db = racing("box_files", 20).await?;
    let workspace = Workspace::at(db.url())?;
    let served = Served::start(&workspace, &[], &[])?;
    assert_eq!(served.job("/api/pull", &json!({}))?, "done");
    let lake = workspace.lake();
    std::fs::write(lake.join(".env"), "RACEALPHA_TOKEN=s3cret\n")?;
    let runs = workspace.lake_files("runs");
    for file in [runs.first().context("a run")?, &lake.join(".env"), &lake.join("lock")] {
        let sql = format!("SELECT * FROM read_text('{}')", file.display());
        let refused = served.post("/api/query", &json!({ "sql": sql }))?;
        assert_eq!(refused.status, 400, "{sql}: {refused:?}");
        let cli = workspace.run(["query", &sql])?;
        assert_ne!(cli.code, Some(0), "{sql}: {cli:?}");
    }
    let all = format!("SELECT * FROM glob('{}/**')", lake.display());
    assert_eq!(served.post("/api/query", &json!({ "sql": all }))?.status, 400);
    Ok(())
}

/// A POST of which only this much is sent; the server waits for the rest.
fn half_a_post(served: &Served, headers: &str) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(served.url.trim_start_matches("http://"))?;
    let head = format!(
        "POST /api/query HTTP/1.1\r\nHost: localhost\r\nX-RaceAlpha: 1\r\n{headers}Content-Length: 99\r\n\r\n{{"
    );
    socket.write_all(head.as_bytes())?;
    Ok(socket)
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_take_nobodys_place() -> Result<()> {
    const SLOW: usize = 400;
    let db = racing("slow_bodies", 5).await?;
    let workspace = Workspace::at(db.url())?;
    let served = Served::start(&workspace, &[], &[("RACEALPHA_TOKEN", "right")])?;
    let with_token = "Authorization: Bearer right\r\n";
    let slow: Vec<_> = (0..SLOW).map(|_| half_a_post(&served, with_token)).collect::<Result<_>>()?;
    let asked = Instant::now();
    assert_eq!(served.get("/healthz")?.status, 200);
    assert_eq!(served.get("/api/session")?.status, 200);
    // Without a token nobody waits for the body.
    let mut stranger = half_a_post(&served, "")?;
    stranger.set_read_timeout(Some(AT_ONCE))?;
    let mut answer = [0; 12];
    stranger.read_exact(&mut answer)?;
    assert_eq!(&answer, b"HTTP/1.1 401");
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    drop(slow);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_nobody_reads_are_counted_and_given_up() -> Result<()> {
    const READS_MAX: usize = 4;
    let db = racing("stalled", 5).await?;
    let workspace = Workspace::at(db.url())?;
    let served = Served::start(&workspace, &[], &[])?;
    assert_eq!(served.job("/api/pull", &json!({}))?, "done");
    let body = json!({"sql": "SELECT * FROM range(100000000000)", "format": "csv"}).to_string();
    let mut stalled = Vec::new();
    for _ in 0..READS_MAX {
        let mut socket = TcpStream::connect(served.url.trim_start_matches("http://"))?;
        let length = body.len();
        write!(
            socket,
            "POST /api/query HTTP/1.1\r\nHost: localhost\r\nX-RaceAlpha: 1\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = [0; 12];
        socket.read_exact(&mut answer)?;
        assert_eq!(&answer, b"HTTP/1.1 200");
        stalled.push(socket);
    }
    let one_more = served.post("/api/query", &json!({"sql": "SELECT 1"}))?;
    assert_eq!(one_more.status, 429, "{one_more:?}");
    eventually("the places are free, though nobody has left", || {
        served.post("/api/query", &json!({"sql": "SELECT 1"})).is_ok_and(|answer| answer.status == 200)
    });
    drop(stalled);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_looks_at_the_state_are_one_look_at_the_servers() -> Result<()> {
    const LOOKS: i64 = 40;
    let db = racing("looks", 5).await?;
    let workspace = Workspace::at(db.url())?;
    let served = Served::start(&workspace, &[], &[])?;
    let client = db.client().await?;
    let sessions = async || {
        let sql = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()";
        Ok::<i64, anyhow::Error>(client.query_one(sql, &[]).await?.get(0))
    };
    let before = sessions().await?;
    for _ in 0..LOOKS {
        assert_eq!(served.get("/api/status")?.status, 200);
    }
    let opened = sessions().await? - before;
    assert!(opened < LOOKS, "{opened} sessions for {LOOKS} looks, and a look alone takes two");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_starts_no_report() -> Result<()> {
    let db = racing("viewer", 20).await?;
    let workspace = Workspace::at(db.url())?;
    let tokens = [("RACEALPHA_TOKEN", "right"), ("RACEALPHA_VIEW_TOKEN", "look")];
    let served = Served::start(&workspace, &[], &tokens)?;
    assert_eq!(served.job("/api/pull", &json!({}))?, "done");
    assert_eq!(served.job("/api/transform", &json!({}))?, "done");
    let look = |path: &str| served.send("GET", path, "", &[("authorization", "Bearer look")]);
    for path in ["/api/validate", "/api/preview"] {
        assert_eq!(look(path)?.status, 403, "{path}");
        assert_eq!(look(&format!("{path}?cached=true"))?.status, 204, "{path}");
    }
    let runs = served.get("/api/runs")?.json()?;
    assert_eq!(runs.as_array().map(Vec::len), Some(2), "{runs}");
    assert_eq!(served.get("/api/validate")?.status, 200);
    assert_eq!(look("/api/validate")?.status, 200, "what is there may be looked at");
    Ok(())
}
