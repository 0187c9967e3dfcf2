//! The main job, start to end, with the real program on a real server.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it could not try")]

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::support::{TestDb, Workspace, racing};

const SMALL: [&str; 2] = ["--set", "validate.min_rows=1"];

fn small<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&SMALL, arguments].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_replaces_the_live_table_and_can_be_undone() -> Result<()> {
    let db = racing("rebuild", 800).await?;
    let client = db.client().await?;
    let count = async || {
        Ok::<i64, anyhow::Error>(client.query_one("SELECT count(*) FROM race_training_dataset", &[]).await?.get(0))
    };
    let before = count().await?;
    let workspace = Workspace::at(db.url())?;

    let report = workspace.run(small(&["--json", "rebuild"]))?.ok()?.json()?;
    let rows = report["push"]["rows"].as_i64().context("rows")?;
    assert_eq!(count().await?, rows);
    assert_ne!(before, rows);
    assert_eq!(report["validate"]["blocked"], Value::Bool(false));
    for (name, table) in report["pull"]["tables"].as_object().context("tables")? {
        let source: i64 = client.query_one(&format!("SELECT count(*) FROM {name}"), &[]).await?.get(0);
        assert_eq!(table["rows"].as_i64(), Some(source), "{name}");
    }

    // What was pushed is what the lake holds: nothing would change.
    let preview = workspace.run(small(&["--json", "preview"]))?.ok()?.json()?;
    let changes = ["added", "removed", "changed"].map(|name| preview[name].as_u64());
    assert_eq!(changes, [Some(0); 3], "{preview:#}");

    // What the dictionary says of a column is in the files, in the manifest and on the server.
    let says = "The number of the race within its meeting.";
    let file = workspace.lake_files("tables/race_training_dataset").into_iter().next().context("a file")?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(file)?)?;
    let metadata = reader.schema().field_with_name("race_number")?.metadata().clone();
    let in_file = ["description", "group", "role", "null_meaning"].map(|key| metadata.get(key).map(String::as_str));
    assert_eq!(in_file, [Some(says), Some("race"), Some("feature"), Some("the source gives no number")]);
    let manifest = workspace.lake_files("manifest").into_iter().next_back().context("a manifest")?;
    assert!(std::fs::read_to_string(manifest)?.contains(says));
    let comment = "SELECT col_description('race_training_dataset'::regclass, attnum) FROM pg_attribute \
                   WHERE attrelid = 'race_training_dataset'::regclass AND attname = 'race_number'";
    assert_eq!(client.query_one(comment, &[]).await?.get::<_, Option<String>>(0).as_deref(), Some(says));

    workspace.run(small(&["rollback"]))?.ok()?;
    assert_eq!(count().await?, before);
    workspace.run(small(&["rollback"]))?.ok()?;
    assert_eq!(count().await?, rows);

    let history = workspace.run(["--json", "history"])?.ok()?.json()?;
    let commands: Vec<&str> =
        history.as_array().context("runs")?.iter().filter_map(|run| run["command"].as_str()).collect();
    assert_eq!(commands, ["rollback", "rollback", "rebuild"]);
    let status = workspace.run(["--json", "status"])?.ok()?.json()?;
    assert_eq!(status["version"].as_u64(), Some(2));
    assert!(status["backup"]["run_id"].is_string(), "{status:#}");
    Ok(())
}

/// The same tables give the same dataset, whatever the number of connections was.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_rebuild_of_the_same_source_changes_no_value() -> Result<()> {
    let db = racing("again", 400).await?;
    let digest = "SELECT md5(string_agg(d::text, E'\\n' ORDER BY race_id, horse_slug)) FROM \
                  (SELECT (to_jsonb(t) - 'id' - 'created_at' - 'updated_at') AS d, race_id, horse_slug FROM race_training_dataset t) x";
    let client = db.client().await?;
    let (one, other) = (Workspace::at(db.url())?, Workspace::at(db.url())?);
    one.run(small(&["rebuild", "--jobs", "1"]))?.ok()?;
    let first: String = client.query_one(digest, &[]).await?.get(0);
    other.run(small(&["rebuild", "--jobs", "3"]))?.ok()?;
    let second: String = client.query_one(digest, &[]).await?.get(0);
    assert_eq!(first, second);
    Ok(())
}

/// Phase tables are reused for the same tables and phase files, and only for those.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_from_a_later_phase_gives_the_same_dataset() -> Result<()> {
    let db = racing("from", 300).await?;
    let workspace = Workspace::at(db.url())?;
    let refused = |ran: &crate::support::Ran| ran.code == Some(2) && ran.stderr.contains("run without --from first");
    workspace.run(["pull"])?.ok()?;
    let ran = workspace.run(["run", "--from", "2"])?;
    assert!(refused(&ran), "{ran:?}");
    let digest = "SELECT sum(hash(r)) AS digest FROM race_training_dataset r";
    workspace.run(["run"])?.ok()?;
    let whole = workspace.run(["--json", "query", digest])?.ok()?.stdout;
    workspace.run(["run", "--from", "2"])?.ok()?;
    assert_eq!(workspace.run(["--json", "query", digest])?.ok()?.stdout, whole);
    workspace.run(["pull"])?.ok()?;
    let ran = workspace.run(["run", "--from", "2"])?;
    assert!(refused(&ran), "{ran:?}");
    Ok(())
}

/// Two real seasons, where the machine has them.
#[tokio::test(flavor = "multi_thread")]
async fn real_seasons_are_rebuilt() -> Result<()> {
    let Some(folder) = env::var_os("RACEALPHA_SAMPLE") else {
        // Said, not hidden: the synthetic source has every known quirk, real data may have more.
        eprintln!("RACEALPHA_SAMPLE names no folder with a load.sh, so no real data was tried");
        return Ok(());
    };
    let db = TestDb::new("sample").await?;
    let loaded = Command::new("bash").arg(Path::new(&folder).join("load.sh")).arg(db.url()).output()?;
    assert!(loaded.status.success(), "{loaded:?}");
    let workspace = Workspace::at(db.url())?;
    let report = workspace.run(small(&["--json", "rebuild"]))?.ok()?.json()?;
    assert_eq!(report["push"]["mode"], "first");
    let expected: i64 = db
        .client()
        .await?
        .query_one(
            "SELECT count(DISTINCT (race_id, horse_slug)) FROM race_results WHERE position < 50 AND horse_slug IS NOT NULL",
            &[],
        )
        .await?
        .get(0);
    assert_eq!(report["push"]["rows"].as_i64(), Some(expected));
    println!("rebuilt {expected} real runners");
    Ok(())
}
