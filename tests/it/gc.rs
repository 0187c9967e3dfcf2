//! What runs leave behind is found, shown and removed, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::fs;

use anyhow::Result;
use serde_json::Value;

use crate::support::{HeldTarget, Ran, Step, TestDb, text};

/// What a collection says it removed.
fn removed(report: &Value) -> (Vec<u64>, usize, usize) {
    let versions = report["lake"]["versions"].as_array().unwrap();
    let gone = report["target"].as_array().unwrap().iter().filter(|found| found["kept"].is_null()).count();
    let files = report["lake"]["files"].as_array().unwrap().len();
    (versions.iter().map(|version| version.as_u64().unwrap()).collect(), files, gone)
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_go_and_the_newest_of_each_table_stay() -> Result<()> {
    let db = TestDb::new("gc_lake").await?;
    let target = HeldTarget::new(db.url(), db.url()).await?;
    let workspace = &target.workspace;
    let gc = |arguments: &[&str]| workspace.run([&["--json", "gc"], arguments].concat())?.ok()?.json();
    // Versions 1 and 2 are the first rebuild's: the source and the dataset.
    for command in ["pull", "run", "run", "run"] {
        workspace.run([command])?.ok()?;
    }
    let torn = workspace.lake().join("tables/races/v=3/part-torn.parquet#1");
    fs::write(&torn, "what a killed upload left")?;
    let (tables, manifests) = (workspace.lake_files("tables"), workspace.lake_files("manifest"));
    assert_eq!((tables.len(), manifests.len()), (7, 6));

    let young = gc(&["--keep", "1", "--dry-run"])?;
    assert_eq!(removed(&young), (vec![], 1, 0), "all versions were the latest within the hour: {young:#}");
    let dry = gc(&["--keep", "2", "--now", "--dry-run"])?;
    // Of races 1 and 3 stay, of the dataset 5 and 6; version 5 is the oldest with both.
    assert_eq!(removed(&dry), (vec![1, 2, 3, 4], 4, 0), "{dry:#}");
    assert!(dry["lake"]["bytes"].as_u64() > Some(0) && dry["dry_run"] == true, "{dry:#}");
    assert_eq!((workspace.lake_files("tables"), workspace.lake_files("manifest")), (tables, manifests));

    assert_eq!(gc(&["--keep", "2", "--now"])?["lake"], dry["lake"], "what the dry run said");
    assert_eq!((workspace.lake_files("tables").len(), workspace.lake_files("manifest").len()), (3, 2));
    assert!(!torn.exists() && !workspace.lake().join("tables/d/v=2").exists(), "and folders that became empty");
    assert_eq!(removed(&gc(&["--keep", "2", "--now"])?), (vec![], 0, 0), "nothing is left to remove");
    let rows = workspace.run(["query", "SELECT count(*) AS n FROM d JOIN races USING (race_id)", "--format", "csv"])?;
    assert_eq!(rows.ok()?.stdout.trim(), "n\n50");
    workspace.run(["push"])?.ok()?;
    let none = workspace.run(["gc", "--keep", "0"])?;
    assert_eq!(none.code, Some(2), "{none:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_dead_pushes_go_and_all_other_schemas_stay() -> Result<()> {
    let db = TestDb::new("gc_target").await?;
    let target = HeldTarget::new(db.url(), db.url()).await?;
    let other_lake = target.workspace.path().join("other_lake");
    let copied =
        std::process::Command::new("cp").arg("-r").args([target.workspace.lake(), other_lake.clone()]).status()?;
    assert!(copied.success());
    let gc = |arguments: &[&str]| {
        let other = other_lake.display().to_string();
        target.workspace.run([&["--lake", other.as_str(), "gc"], arguments].concat())?.ok()
    };
    let schemas = async || {
        let sql = "SELECT coalesce(string_agg(nspname, ' ' ORDER BY nspname), '') FROM pg_namespace WHERE nspname LIKE '\\_push\\_%'";
        text(&target.watcher, sql).await
    };
    // Schemas with such a name that are none of ours: no marker, another tool's, another role's.
    target
        .admin
        .batch_execute(
            r#"CREATE SCHEMA _push_plain; CREATE SCHEMA _push_tool; COMMENT ON SCHEMA _push_tool IS '{"tool": "another"}';
               DO $$ BEGIN CREATE ROLE gc_stranger; EXCEPTION WHEN duplicate_object THEN NULL; END $$"#,
        )
        .await?;
    let others = schemas().await?;

    // A push that is under way is not touched, whatever its age.
    let pushing = target.push_stopped_at(Step::LastLock).await?;
    let ran = gc(&["--now"])?;
    assert!(ran.stdout.contains("stays: a push of public.d is under way"), "{ran:#?}");
    let status = target.workspace.run(["status"])?.ok()?;
    assert!(!status.stdout.contains("leftover"), "{status:#?}");
    target.admin.batch_execute("COMMIT").await?;
    Ran::from(pushing.wait_with_output()?).ok()?;

    // One that was loaded and not swapped is kept for a day.
    target.hold(Step::LastLock).await?;
    let ran = target.workspace.run(["--set", "target.swap_deadline_seconds=0", "push"])?;
    target.admin.batch_execute("COMMIT").await?;
    assert_eq!(ran.code, Some(6), "{ran:#?}");
    let with_ours = schemas().await?;
    assert_ne!(with_ours, others);
    let ran = gc(&[])?;
    assert!(ran.stdout.contains("stays: younger than 24 hours; --now removes it"), "{ran:#?}");
    let ran = gc(&["--now", "--dry-run"])?;
    assert!(ran.stdout.contains("target: 1 of 1 leftovers of pushes would be removed"), "{ran:#?}");
    assert_eq!(schemas().await?, with_ours);
    // Its owner is somebody else for a moment, so it is not ours.
    let ours = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE '\\_push\\_2%'";
    let ours = text(&target.watcher, ours).await?;
    target.admin.batch_execute(&format!("ALTER SCHEMA \"{ours}\" OWNER TO gc_stranger")).await?;
    assert!(gc(&["--now"])?.stdout.contains("target: 0 of 0 leftovers"));
    target
        .admin
        .batch_execute(&format!("ALTER SCHEMA \"{ours}\" OWNER TO CURRENT_USER; DROP ROLE gc_stranger"))
        .await?;
    let ran = gc(&["--now"])?;
    assert!(ran.stdout.contains("target: 1 of 1 leftovers of pushes removed"), "{ran:#?}");
    assert_eq!(schemas().await?, others);

    // One that had swapped is finished at once.
    let mut pushing = target.push_stopped_at(Step::Finish).await?;
    pushing.kill()?;
    pushing.wait()?;
    target.admin.batch_execute("COMMIT").await?;
    target
        .until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'racealpha push%')")
        .await?;
    let ran = gc(&[])?;
    assert!(ran.stdout.contains("target: 1 of 1 leftovers of pushes removed"), "{ran:#?}");
    assert_eq!(schemas().await?, others);
    Ok(())
}
