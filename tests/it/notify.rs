//! Whom a rebuild tells of its end, and what it tells nobody.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::PoisonError;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Served, Workspace, eventually, racing};

const TARGET: &str = "public.race_training_dataset";

/// A webhook that gives these answers, one after the other, and keeps what it was told.
struct Hook {
    setting: String,
    told: JoinHandle<Result<Vec<Value>>>,
}

impl Hook {
    fn answering(answers: &'static [&'static str]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let setting = format!("notify.url=http://{}/hook?key=s3cret", listener.local_addr()?);
        let told = std::thread::spawn(move || answers.iter().map(|answer| hear(&listener, answer)).collect());
        Ok(Self { setting, told })
    }

    /// The last thing it was told, when it gave its last answer.
    fn last(self) -> Result<Value> {
        let told = self.told.join().map_err(|_| anyhow::anyhow!("the receiver failed"))??;
        told.into_iter().next_back().context("nothing was told")
    }
}

fn hear(listener: &TcpListener, answer: &str) -> Result<Value> {
    let (mut socket, _) = listener.accept()?;
    let mut text = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = socket.read(&mut piece)?;
        ensure!(read > 0, "cut off: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..read]);
        let all = String::from_utf8_lossy(&text).into_owned();
        if let Some((_, body)) = all.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            write!(socket, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            return Ok(body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_hears_how_a_rebuild_ended() -> Result<()> {
    let db = racing("webhook", 50).await?;
    let workspace = Workspace::at(db.url())?;
    // Fails once, then takes it.
    let hook = Hook::answering(&["503 Service Unavailable", "200 OK"])?;
    let ran = workspace.run(["--set", "validate.min_rows=1", "--set", &hook.setting, "-v", "rebuild"])?.ok()?;
    let told = hook.last()?;
    let event = ["event", "state", "table"].map(|name| told[name].as_str());
    assert_eq!(event, [Some("success"), Some("done"), Some(TARGET)]);
    assert_eq!(told["steps"].as_array().map(Vec::len), Some(4));
    let all = format!("{told} {} {}", ran.stdout, ran.stderr);
    assert!(!all.contains("s3cret"), "{all}");

    let hook = Hook::answering(&["200 OK"])?;
    let ran = workspace.run(["--set", "validate.min_rows=1000000", "--set", &hook.setting, "rebuild"])?;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    let told = hook.last()?;
    assert_eq!((told["event"].as_str(), told["state"].as_str()), (Some("blocked"), Some("blocked")));
    assert!(told["error"].as_str().is_some_and(|error| error.contains("V06")), "{told}");
    Ok(())
}

#[test]
fn a_webhook_hears_of_wrong_settings_and_is_not_asked_twice_what_it_refused() -> Result<()> {
    let workspace = Workspace::new()?;
    let hook = Hook::answering(&["410 Gone"])?;
    let ran = workspace.run(["--set", &hook.setting, "rebuild"])?;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("was not told: it answered 410") && !ran.stderr.contains("times"), "{ran:?}");
    let told = hook.last()?;
    assert_eq!((told["event"].as_str(), told["state"].as_str()), (Some("failure"), Some("failed")));
    assert!(told["error"].as_str().is_some_and(|error| error.contains("DATABASE_URL")), "{told}");

    let only_blocked =
        workspace.run(["--set", &hook_setting_of_nobody()?, "--set", "notify.on=[\"blocked\"]", "-v", "rebuild"])?;
    assert!(!only_blocked.stderr.contains("webhook"), "{only_blocked:?}");
    Ok(())
}

/// The address of a webhook that is not there.
fn hook_setting_of_nobody() -> Result<String> {
    Ok(format!("notify.url=http://{}/", TcpListener::bind("127.0.0.1:0")?.local_addr()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_never_answers_holds_up_neither_runs_nor_the_end() -> Result<()> {
    const AT_ONCE: Duration = Duration::from_secs(9);
    let db = racing("dead_webhook", 20).await?;
    let workspace = Workspace::at(db.url())?;
    let deaf = TcpListener::bind("127.0.0.1:0")?;
    let setting = format!("notify.url=http://{}/", deaf.local_addr()?);
    let served = Served::start(&workspace, &["--set", &setting], &[])?;
    assert_eq!(served.job("/api/rebuild", &json!({"confirm": TARGET}))?, "done");
    let record = served.get("/api/runs?limit=1")?.json()?[0].clone();
    let finished: chrono::DateTime<chrono::Utc> = record["finished"].as_str().context("finished")?.parse()?;
    let held = (chrono::Utc::now() - finished).to_std()?;
    assert!(held < AT_ONCE, "the job ended {held:?} after its record");
    assert_eq!(served.job("/api/pull", &json!({"tables": ["races"]}))?, "done");
    let asked = Instant::now();
    assert_eq!(served.terminate()?, Some(0));
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_hears_of_a_missed_rebuild() -> Result<()> {
    let db = racing("missed", 5).await?;
    let workspace = Workspace::at(db.url())?;
    // A run before the last time of the schedule, and none after it.
    let record = json!({
        "id": "20200101T000000000-0000", "command": "rebuild", "started": "2020-01-01T00:00:00Z",
        "finished": "2020-01-01T00:00:01Z", "state": "done", "error": null, "steps": [],
        "version_before": null, "version_after": null
    });
    std::fs::create_dir_all(workspace.lake().join("runs"))?;
    std::fs::write(workspace.lake().join("runs/20200101T000000000-0000.json"), record.to_string())?;
    let hook = Hook::answering(&["200 OK"])?;
    let served = Served::start(&workspace, &["--schedule", "0 16 * * 6", "--set", &hook.setting], &[])?;
    let told = hook.last()?;
    assert_eq!((told["event"].as_str(), told["table"].as_str()), (Some("missed"), Some(TARGET)));
    assert!(told["missed"].is_string(), "{told}");
    assert_eq!(served.terminate()?, Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_of_a_row_is_logged_recorded_or_posted() -> Result<()> {
    let db = racing("values", 60).await?;
    let client = db.client().await?;
    // The dataset has a horse several times; the server names one of them in the details of its refusal.
    client
        .batch_execute("DELETE FROM race_training_dataset; CREATE UNIQUE INDEX ON race_training_dataset (horse_slug)")
        .await?;
    let names = client.query("SELECT DISTINCT horse_slug FROM race_results WHERE horse_slug IS NOT NULL", &[]).await?;
    let names: Vec<String> = names.iter().map(|row| row.get(0)).collect();
    let workspace = Workspace::at(db.url())?;
    let hook = Hook::answering(&["200 OK"])?;
    let served = Served::start(&workspace, &["--set", &hook.setting, "-vv"], &[])?;
    assert_eq!(served.job("/api/rebuild", &json!({"confirm": TARGET}))?, "failed");
    let told = hook.last()?;
    let error = told["error"].as_str().context("why it failed")?;
    assert!(error.contains("unique"), "{error}");
    let id = told["id"].as_str().context("id")?;
    eventually("the log says that the webhook was told", || {
        served.get("/api/logs").is_ok_and(|log| log.text.contains("the webhook was told"))
    });
    let log = served.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut places = vec![("webhook", told.to_string()), ("stderr", log)];
    let run = format!("/api/runs/{id}");
    for path in ["/api/logs?limit=1000", "/metrics", "/api/runs", &run, "/api/status"] {
        places.push((path, served.get(path)?.text));
    }
    for file in workspace.lake_files("runs").iter().filter(|file| file.parent().is_some_and(|p| p.ends_with("runs"))) {
        places.push(("record", std::fs::read_to_string(file)?));
    }
    for (place, text) in &places {
        let shown: Vec<&String> = names.iter().filter(|name| text.contains(name.as_str())).collect();
        assert!(shown.is_empty(), "{place} shows {shown:?}: {text}");
    }
    Ok(())
}
