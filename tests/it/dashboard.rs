//! The API of the dashboard by a client: every route, every refusal, slow and hostile clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Answer, Served, TestDb, Workspace, eventually, racing};

const TARGET: &str = "public.race_training_dataset";

/// Checks an answer against what `/api/openapi.json` says of the route.
struct Contract(Value);

impl Contract {
    fn of(served: &Served) -> Result<Self> {
        Ok(Self(served.get("/api/openapi.json")?.json()?))
    }

    fn check(&self, method: &str, route: &str, answer: &Answer) -> Result<()> {
        let responses = &self.0["paths"][route][method]["responses"];
        let response = &responses[answer.status.to_string()];
        ensure!(response.is_object(), "{method} {route}: {} is not described: {answer:?}", answer.status);
        if answer.status == 204 {
            return Ok(());
        }
        let kind = answer.kind.split(';').next().unwrap_or_default();
        let content = &response["content"][kind];
        ensure!(content.is_object(), "{method} {route} {}: {kind} is not described", answer.status);
        if content["schema"].is_object() {
            let mut schema = content["schema"].clone();
            schema["components"] = self.0["components"].clone();
            let found: Vec<String> = jsonschema::validator_for(&schema)?
                .iter_errors(&answer.json()?)
                .map(|error| format!("{} at {}", error, error.instance_path))
                .collect();
            ensure!(found.is_empty(), "{method} {route} {}: {found:?}", answer.status);
        }
        Ok(())
    }
}

async fn started(name: &str, races: u64) -> Result<(TestDb, Workspace, Served)> {
    let db = racing(name, races).await?;
    let workspace = Workspace::at(db.url())?;
    let served = Served::start(&workspace, &["--schedule", "0 16 * * 6", "--zone", "Australia/Sydney"], &[])?;
    Ok((db, workspace, served))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_does_what_its_description_says() -> Result<()> {
    let (db, _workspace, served) = started("routes", 400).await?;
    let contract = Contract::of(&served)?;
    let get = |route: &str, path: &str, status: u16| -> Result<Answer> {
        let answer = served.get(path)?;
        ensure!(answer.status == status, "{path}: {answer:?}");
        contract.check("get", route, &answer)?;
        Ok(answer)
    };
    let post = |route: &str, body: Value, status: u16| -> Result<Answer> {
        let answer = served.post(route, &body)?;
        ensure!(answer.status == status, "{route} {body}: {answer:?}");
        contract.check("post", route, &answer)?;
        Ok(answer)
    };
    // An empty lake.
    get("/api/status", "/api/status", 200)?;
    get("/api/runs", "/api/runs", 200)?;
    for route in ["/api/validate", "/api/preview"] {
        get(route, route, 404)?;
        get(route, &format!("{route}?cached=true"), 204)?;
    }
    get("/api/tables/{table}", "/api/tables/races", 404)?;
    post("/api/cancel", json!({}), 404)?;
    post("/api/push", json!({"confirm": TARGET}), 404)?;
    post("/api/rebuild", json!({}), 422)?;
    post("/api/rebuild", json!({"confirm": TARGET, "sure": true}), 400)?;
    post("/api/pull", json!({"tables": ["nothing"]}), 422)?;

    post("/api/rebuild", json!({"confirm": TARGET}), 202)?;
    let refused = post("/api/pull", json!({}), 409)?.json()?;
    assert_eq!(refused["command"], "rebuild");
    assert!(refused["run_id"].is_string());
    assert_eq!(served.ended()?, "done");

    let runs = get("/api/runs", "/api/runs", 200)?.json()?;
    let id = runs[0]["id"].as_str().context("id")?;
    assert_eq!(Some(id), refused["run_id"].as_str());
    get("/api/runs/{id}", &format!("/api/runs/{id}"), 200)?;
    get("/api/runs/{id}", "/api/runs/never", 404)?;
    for route in ["session", "status", "pipeline", "features", "logs"] {
        let route = format!("/api/{route}");
        get(&route, &route, 200)?;
    }
    get("/api/logs", "/api/logs?level=loud", 400)?;
    // Refusals by the framework are problems like ours.
    get("/api/runs", "/api/runs?limit=many", 400)?;
    get("/api/validate", "/api/validate?cached=perhaps", 400)?;
    get("/api/export/{table}", "/api/export/races?format=xls", 400)?;
    get("/ws/progress", "/ws/progress", 400)?;
    get("/assets/{file}", "/assets/none.js", 404)?;
    post("/api/query", json!({"rows_max": 1}), 400)?;
    post("/api/query", json!({"sql": "x".repeat(300 << 10)}), 413)?;
    get("/api/openapi.json", "/api/openapi.json", 200)?;
    for route in ["/metrics", "/healthz", "/readyz"] {
        get(route, route, 200)?;
    }
    let table = get("/api/tables/{table}", "/api/tables/race_training_dataset", 200)?.json()?;
    for column in table["columns"].as_array().context("columns")? {
        let name = column["name"].as_str().context("name")?;
        let path = format!("/api/tables/race_training_dataset/columns/{name}");
        let look = get("/api/tables/{table}/columns/{column}", &path, 200)?.json()?;
        let counted: u64 =
            look["histogram"].as_array().into_iter().flatten().filter_map(|bar| bar["rows"].as_u64()).sum();
        assert!(counted <= look["rows"].as_u64().context("rows")? - look["nulls"].as_u64().context("nulls")?, "{look}");
    }
    get("/api/tables/{table}/columns/{column}", "/api/tables/races/columns/none", 404)?;

    // Push asks for the name, then for a preview of the same version; afterwards for a new one.
    let version = table["version"].clone();
    let push = json!({"confirm": TARGET, "version": version});
    post("/api/push", json!({"confirm": "public.other", "version": version}), 422)?;
    post("/api/push", push.clone(), 428)?;
    assert_eq!(get("/api/validate", "/api/validate", 200)?.json()?["blocked"], false);
    get("/api/preview", "/api/preview?cached=true", 204)?;
    assert_eq!(get("/api/preview", "/api/preview", 200)?.json()?["version"], version);
    assert_eq!(served.job("/api/push", &push)?, "done");
    post("/api/push", push, 428)?;
    get("/api/preview", "/api/preview?cached=true", 204)?;
    let client = db.client().await?;
    let count = async || {
        Ok::<i64, anyhow::Error>(client.query_one("SELECT count(*) FROM race_training_dataset", &[]).await?.get(0))
    };
    let pushed = count().await?;
    assert_eq!(served.job("/api/rollback", &json!({"confirm": TARGET}))?, "done");
    assert_eq!(count().await?, pushed, "the backup is the push before, of the same rows");
    let works = get("/api/runs/{id}", &format!("/api/runs/{id}"), 200)?.json()?["works"].clone();
    for (step, name) in [("pull", "races"), ("validate", "checks")] {
        let is_it = |work: &&Value| work["step"] == step && work["name"] == name;
        let work = works.as_array().and_then(|works| works.iter().find(is_it)).context("a piece of work")?;
        assert!(work["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{work}");
    }
    for (path, body) in [
        ("/api/pull", json!({"tables": ["races"], "incremental": true})),
        ("/api/transform", json!({"from": null})),
        ("/api/validate", json!({"audit": false})),
        ("/api/preview", json!({"mode": "merge"})),
    ] {
        post(path, body, 202)?;
        assert_eq!(served.ended()?, "done", "{path}");
    }
    for format in ["parquet", "csv", "arrow"] {
        get("/api/export/{table}", &format!("/api/export/races?format={format}"), 200)?;
    }
    get("/api/export/{table}", "/api/export/none", 404)?;
    for format in ["json", "csv", "parquet"] {
        post("/api/query", json!({"sql": "SELECT * FROM races", "format": format}), 200)?;
    }
    assert_eq!(served.get("/nowhere")?.status, 404);
    assert_eq!(served.send("PUT", "/api/pull", "", &[("x-racealpha", "1")])?.status, 405);
    assert_eq!(served.terminate()?, Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grid_shows_exact_values_and_only_the_lakes() -> Result<()> {
    let (_db, workspace, served) = started("grid", 20).await?;
    assert_eq!(served.job("/api/pull", &json!({}))?, "done");
    let ask = |sql: &str| served.post("/api/query", &json!({ "sql": sql }));
    let answer = ask(
        "SELECT 9007199254740993::BIGINT, 1.10::DECIMAL(5,2), 0.1::DOUBLE, 'nan'::DOUBLE, NULL, true, DATE '2020-02-29', 7 AS a, 8 AS a",
    )?;
    let rows = json!([["9007199254740993", "1.10", 0.1, "NaN", null, true, "2020-02-29", 7, 8]]);
    assert_eq!(answer.json()?["rows"], rows, "{answer:?}");
    let cut = served.post("/api/query", &json!({"sql": "SELECT * FROM range(50)", "rows_max": 7}))?.json()?;
    assert_eq!((cut["rows"].as_array().map(Vec::len), cut["more"].as_bool()), (Some(7), Some(true)));

    let secret = workspace.path().join("secret.csv");
    std::fs::write(&secret, "a\n1\n")?;
    let out = workspace.path().join("out.csv");
    for sql in [
        format!("SELECT * FROM read_csv('{}')", secret.display()),
        format!("SELECT * FROM '{}'", secret.display()),
        format!("COPY races TO '{}'", out.display()),
        format!("ATTACH '{}' AS other", workspace.path().join("other.db").display()),
        "SELECT * FROM read_text('/etc/passwd')".to_owned(),
        "SELECT * FROM glob('/etc/*')".to_owned(),
        "SET threads = 1".to_owned(),
        "PRAGMA database_list".to_owned(),
        "INSTALL httpfs".to_owned(),
        "CREATE TABLE t AS SELECT 1".to_owned(),
        "DROP VIEW races".to_owned(),
        "SELECT 1; SELECT 2".to_owned(),
        "SELECT * FROM read_parquet('https://example.com/x.parquet')".to_owned(),
        "SELECT getenv('DATABASE_URL')".to_owned(),
        String::new(),
    ] {
        let answer = ask(&sql)?;
        assert_eq!(answer.status, 400, "{sql}: {answer:?}");
    }
    assert!(!out.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_a_token_comes_in() -> Result<()> {
    let db = racing("tokens", 5).await?;
    let workspace = Workspace::at(db.url())?;
    let open = workspace.run(["serve", "--host", "0.0.0.0", "--port", "0"])?;
    assert_eq!(open.code, Some(2), "{open:?}");
    assert!(open.stderr.contains("RACEALPHA_TOKEN"), "{open:?}");

    let half = workspace.command(["serve", "--port", "0"]).env("RACEALPHA_VIEW_TOKEN", "look-token").output()?;
    assert_eq!(half.status.code(), Some(2), "{half:?}");

    let served =
        Served::start(&workspace, &[], &[("RACEALPHA_TOKEN", "s3cret-token"), ("RACEALPHA_VIEW_TOKEN", "look-token")])?;
    let send =
        |method: &str, path: &str, body: &str, headers: &[(&str, &str)]| served.send(method, path, body, headers);
    let (own, bearer) = (("x-racealpha", "1"), ("authorization", "Bearer s3cret-token"));
    let viewer = ("authorization", "Bearer look-token");
    assert_eq!(send("GET", "/healthz", "", &[])?.status, 200);
    assert_eq!(send("GET", "/", "", &[])?.status, 303);
    for path in ["/api/status", "/metrics", "/ws/progress", "/api/openapi.json"] {
        assert_eq!(send("GET", path, "", &[])?.status, 401, "{path}");
        assert_eq!(send("GET", path, "", &[("authorization", "Bearer wrong")])?.status, 401, "{path}");
    }
    assert_eq!(send("GET", "/api/session", "", &[viewer])?.json()?["role"], "viewer");
    assert_eq!(send("POST", "/api/pull", "", &[viewer, own])?.status, 403);
    assert_eq!(
        send("POST", "/api/query", r#"{"sql":"SELECT 1"}"#, &[viewer, own])?.status,
        404,
        "no lake yet, but allowed"
    );
    assert_eq!(send("GET", "/api/session", "", &[bearer])?.json()?["role"], "operator");

    let form = ("content-type", "application/x-www-form-urlencoded");
    let wrong = send("POST", "/login", "token=guess", &[form])?;
    assert_eq!((wrong.status, wrong.headers.contains_key("set-cookie")), (401, false));
    let login = send("POST", "/login", "token=s3cret-token", &[form, ("x-forwarded-proto", "https")])?;
    let cookie = login.headers["set-cookie"].to_str()?.to_owned();
    assert_eq!(login.status, 303);
    for part in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let session = ("cookie", cookie.split(';').next().context("cookie")?);
    let page = send("GET", "/", "", &[session])?;
    let policy = page.headers["content-security-policy"].to_str()?.to_owned();
    assert_eq!(page.status, 200);
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    // What another site could make the browser send.
    assert_eq!(send("POST", "/api/pull", "", &[session])?.status, 403);
    assert_eq!(send("POST", "/api/pull", "", &[session, own, ("origin", "https://evil.example")])?.status, 403);
    assert_eq!(send("POST", "/login", "token=s3cret-token", &[form, ("origin", "null")])?.status, 403);
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ];
    let foreign: Vec<_> = upgrade.into_iter().chain([session, ("origin", "https://evil.example")]).collect();
    assert_eq!(send("GET", "/ws/progress", "", &foreign)?.status, 403);
    assert_eq!(send("POST", "/logout", "", &[session])?.status, 303);
    assert_eq!(send("GET", "/api/session", "", &[session])?.status, 401);
    let log = served.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(!log.contains("token=") && !log.contains("s3cret"), "{log}");

    // Without a token a name that somebody else's DNS points here is no way in.
    let local = Served::start(&workspace, &[], &[])?;
    assert_eq!(local.send("GET", "/api/session", "", &[("host", "evil.example")])?.status, 403);
    assert_eq!(local.send("GET", "/api/session", "", &[("host", "localhost:1")])?.status, 200);
    for (host, forwarded) in [("evil.example", "localhost"), ("localhost", "evil.example"), ("evil.example", "")] {
        let headers = [("host", host), ("x-forwarded-host", forwarded)];
        assert_eq!(local.send("GET", "/api/session", "", &headers)?.status, 403, "{headers:?}");
    }
    // Nor is a picture or script that a page elsewhere asks for.
    for path in ["/api/session", "/api/validate", "/metrics"] {
        for site in ["cross-site", "same-site"] {
            assert_eq!(local.send("GET", path, "", &[("sec-fetch-site", site)])?.status, 403, "{path} {site}");
        }
    }
    for site in ["same-origin", "none"] {
        assert_eq!(local.send("GET", "/api/session", "", &[("sec-fetch-site", site)])?.status, 200, "{site}");
    }
    assert_eq!(local.send("GET", "/", "", &[("sec-fetch-site", "cross-site")])?.status, 200, "links may lead here");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_wait_and_only_so_many_at_once() -> Result<()> {
    const GUESSES: usize = 200;
    const DELAY: Duration = Duration::from_secs(1);
    let db = racing("guesses", 5).await?;
    let workspace = Workspace::at(db.url())?;
    let served = Served::start(&workspace, &[], &[("RACEALPHA_TOKEN", "right")])?;
    let form = ("content-type", "application/x-www-form-urlencoded");
    for (path, method, body, headers) in [
        ("/login", "POST", "token=wrong", [form].as_slice()),
        ("/api/session", "GET", "", [("authorization", "Bearer wrong")].as_slice()),
    ] {
        let asked = Instant::now();
        assert_eq!(served.send(method, path, body, headers)?.status, 401, "{path}");
        assert!(asked.elapsed() >= DELAY, "{path}: {:?}", asked.elapsed());
    }
    let address = served.url.trim_start_matches("http://").to_owned();
    let mut guesses = Vec::new();
    for _ in 0..GUESSES {
        let mut socket = TcpStream::connect(&address)?;
        socket.write_all(
            b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 11\r\n\r\ntoken=wrong",
        )?;
        guesses.push(socket);
    }
    let mut refused = 0;
    for mut socket in guesses {
        let mut answer = [0; 12];
        socket.read_exact(&mut answer)?;
        match &answer {
            b"HTTP/1.1 401" => {}
            b"HTTP/1.1 429" => refused += 1,
            other => anyhow::bail!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert!(refused > 0, "all of {GUESSES} guesses were looked at");
    assert_eq!(
        served.send("POST", "/login", "token=right", &[form])?.status,
        303,
        "who knows the token is not held up"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_holds_for_the_next_server_until_the_target_is_another() -> Result<()> {
    let (_db, workspace, served) = started("kept_preview", 60).await?;
    for path in ["/api/pull", "/api/transform", "/api/preview"] {
        assert_eq!(served.post(path, &json!({}))?.status, 202);
        served.ended()?;
    }
    let looked = served.get("/api/preview?cached=true")?;
    assert_eq!(looked.status, 200, "{looked:?}");
    let push = json!({"confirm": TARGET, "version": looked.json()?["version"]});
    drop(served);

    let elsewhere = Served::start(&workspace, &["--set", "target.table=public.another_dataset"], &[])?;
    assert_eq!(elsewhere.get("/api/preview?cached=true")?.status, 204, "of another table");
    drop(elsewhere);

    let again = Served::start(&workspace, &[], &[])?;
    let kept = again.get("/api/preview?cached=true")?;
    assert_eq!((kept.status, kept.json()?), (200, looked.json()?));
    Contract::of(&again)?.check("get", "/api/preview", &kept)?;
    assert_eq!(again.job("/api/push", &push)?, "done");
    drop(again);

    let after = Served::start(&workspace, &[], &[])?;
    assert_eq!(after.get("/api/preview?cached=true")?.status, 204, "the live table is another now");
    assert_eq!(after.post("/api/push", &push)?.status, 428);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilds_begin_at_their_times_and_those_that_could_not_are_told() -> Result<()> {
    let db = racing("schedule", 60).await?;
    let workspace = Workspace::at(db.url())?;
    let missed =
        |served: &Served| Ok::<_, anyhow::Error>(served.get("/api/pipeline")?.json()?["schedule"]["missed"].clone());
    // A lake without runs is new.
    let yearly = ["--schedule", "0 0 1 1 *"];
    let served = Served::start(&workspace, &yearly, &[])?;
    assert_eq!(missed(&served)?, Value::Null);
    drop(served);

    // A field more: every second. While the first rebuild works, the next one cannot begin.
    let served = Served::start(&workspace, &["--schedule", "* * * * * *"], &[])?;
    eventually("a rebuild begins and another is missed", || {
        let runs = served.get("/api/runs").and_then(|runs| runs.json()).unwrap_or_default();
        let is_rebuilt = |run: &Value| run["command"] == "rebuild" && run["state"] == "done";
        runs.as_array().is_some_and(|runs| runs.iter().any(is_rebuilt))
            && served.log.lock().unwrap_or_else(PoisonError::into_inner).contains("was missed: another run was at work")
    });
    drop(served);

    // What ran long ago and never since: the first of January passed without a rebuild.
    let folder = workspace.lake().join("runs");
    for file in workspace.lake_files("runs") {
        if file.parent() == Some(folder.as_path()) && file.extension().is_some_and(|kind| kind == "json") {
            let mut record: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
            record["started"] = json!("2001-01-01T00:00:00Z");
            std::fs::write(&file, record.to_string())?;
        }
    }
    let served = Served::start(&workspace, &yearly, &[])?;
    eventually("what was missed shows", || {
        missed(&served).is_ok_and(|time| time.as_str().is_some_and(|time| time.contains("-01-01T")))
    });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_dead_watchers_harm_nobody() -> Result<()> {
    const WATCHERS: usize = 200;
    /// Above what a rebuild of this size takes, which is mostly DuckDB's.
    #[cfg(target_os = "linux")]
    const MEMORY_MAX: u64 = 1 << 30;
    let (_db, _workspace, served) = started("watchers", 300).await?;
    let (mut deaf, mut readers) = (Vec::new(), Vec::new());
    for number in 0..WATCHERS {
        let (socket, _) = connect_async(served.socket_url()).await?;
        if number % 2 == 0 {
            deaf.push(socket);
        } else {
            readers.push(tokio::spawn(async move {
                let mut socket = socket;
                let mut kinds = Vec::new();
                while let Some(message) = socket.next().await {
                    let Message::Text(text) = message? else { continue };
                    let message: Value = serde_json::from_str(&text)?;
                    let kind = message["kind"].as_str().unwrap_or_default().to_owned();
                    let ended = kind == "run_ended";
                    kinds.push(kind);
                    if ended {
                        return Ok(kinds);
                    }
                }
                anyhow::bail!("cut off after {kinds:?}")
            }));
        }
    }
    assert_eq!(served.job("/api/rebuild", &json!({"confirm": TARGET}))?, "done");
    #[cfg(target_os = "linux")]
    assert!(served.memory()? < MEMORY_MAX, "{} bytes beside {WATCHERS} watchers", served.memory()?);
    for reader in readers {
        let kinds = reader.await??;
        assert_eq!(kinds.first().map(String::as_str), Some("snapshot"));
        for kind in ["run_started", "work"] {
            assert!(kinds.iter().any(|k| k == kind), "{kind}: {kinds:?}");
        }
    }
    let (mut late, _) = connect_async(served.socket_url()).await?;
    let Some(Ok(Message::Text(text))) = late.next().await else { anyhow::bail!("no snapshot") };
    let snapshot: Value = serde_json::from_str(&text)?;
    assert_eq!((&snapshot["running"], &snapshot["last"]["state"]), (&Value::Null, &json!("done")));
    assert!(snapshot["works"].as_array().is_some_and(|works| works.len() > 10), "{snapshot}");
    drop(deaf);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_are_answered_or_cut_off() -> Result<()> {
    const MALFORMED: usize = 10_000;
    /// A tenth of what the requests would take if 64 kB of each stayed.
    #[cfg(target_os = "linux")]
    const GROWTH_MAX: u64 = 64 << 20;
    let (_db, _workspace, served) = started("hostile", 5).await?;
    let address = served.url.trim_start_matches("http://").to_owned();
    // Heads that never end, and a body that never comes: they hold nobody up.
    let mut slow = Vec::new();
    for number in 0..200 {
        let mut socket = TcpStream::connect(&address)?;
        match number % 2 {
            0 => socket.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A")?,
            _ => socket.write_all(
                b"POST /api/query HTTP/1.1\r\nHost: localhost\r\nX-RaceAlpha: 1\r\nContent-Length: 99\r\n\r\n{",
            )?,
        }
        slow.push(socket);
    }
    let shapes: [&[u8]; 8] = [
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /api/query HTTP/1.1\r\nHost: localhost\r\nX-RaceAlpha: 1\r\nConnection: close\r\nContent-Length: 3\r\n\r\n{{{",
        b"GET /%ff%fe/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /assets/..%2f..%2fCargo.toml HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ];
    #[cfg(target_os = "linux")]
    let before = served.memory()?;
    for number in 0..MALFORMED {
        let mut socket = TcpStream::connect(&address)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        // The server may close before it has read everything.
        let _ = socket.write_all(shapes[number % shapes.len()]);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{number}: {answer}");
    }
    #[cfg(target_os = "linux")]
    assert!(served.memory()? < before + GROWTH_MAX, "{before} bytes before, {} after", served.memory()?);
    assert_eq!(served.send("GET", "/api/session", "", &[("x-long", &"x".repeat(60 << 10))])?.status, 431);
    let own = ("x-racealpha", "1");
    let large = served.send("POST", "/api/query", &"x".repeat(300 << 10), &[own])?;
    let forbidden = served.send("POST", "/api/query", "{}", &[])?;
    for (answer, status) in [(large, 413), (forbidden, 403), (served.get("/nowhere")?, 404)] {
        assert_eq!((answer.status, answer.kind.as_str()), (status, "application/problem+json"));
        for name in ["content-security-policy", "x-content-type-options", "cache-control"] {
            assert!(answer.headers.contains_key(name), "{name} of {status}: {answer:?}");
        }
    }
    assert_eq!(served.get("/healthz")?.text, "ok\n");
    eventually("slow clients are cut off", || {
        slow.retain_mut(|socket| {
            let waits = socket.set_nonblocking(true).is_ok();
            let mut byte = [0; 512];
            waits && matches!(socket.read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        });
        slow.is_empty()
    });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_cancelled_and_a_killed_servers_run_was_interrupted() -> Result<()> {
    let (db, workspace, served) = started("cancelled", 2000).await?;
    let accepted = served.post("/api/rebuild", &json!({"confirm": TARGET}))?.json()?;
    let cancelled = served.post("/api/cancel", &json!({"run_id": accepted["run_id"]}))?;
    assert_eq!(cancelled.status, 202);
    assert_eq!(served.ended()?, "interrupted");

    served.post("/api/rebuild", &json!({"confirm": TARGET}))?;
    eventually("the run is on record", || {
        served.get("/api/runs?limit=1").and_then(|runs| runs.json()).is_ok_and(|runs| runs[0]["state"] == "running")
    });
    drop(served);
    let again = Served::start(&workspace, &[], &[])?;
    let runs = again.get("/api/runs?limit=1")?.json()?;
    assert_eq!(runs[0]["state"], "interrupted", "{runs}");

    // SIGTERM in a run: it ends at a consistent point, and the program says that all went as asked.
    again.post("/api/pull", &json!({}))?;
    assert_eq!(again.terminate()?, Some(0));
    let client = db.client().await?;
    assert!(client.query_one("SELECT count(*) FROM race_training_dataset", &[]).await?.get::<_, i64>(0) > 0);
    Ok(())
}
