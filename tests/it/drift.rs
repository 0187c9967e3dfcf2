//! Columns of the source that change between two pulls are reported before any row moves, or refused.

use anyhow::{Context, Result};

use crate::support::{Workspace, racing};

#[tokio::test(flavor = "multi_thread")]
async fn changed_columns_follow_the_policies() -> Result<()> {
    let db = racing("drift", 40).await?;
    let client = db.client().await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;

    // Nobody reads it, so it is pulled and reported.
    client.batch_execute("ALTER TABLE races ADD steward text; ALTER TABLE horses ADD colour text").await?;
    let report = workspace.run(["--json", "pull"])?.ok()?.json()?;
    let drift = report["tables"]["races"]["drift"].as_array().context("a report")?;
    assert_eq!(serde_json::to_string(drift)?, r#"[{"change":"added","column":"steward","to":"text"}]"#);
    assert!(report["tables"]["race_results"].get("drift").is_none(), "{report:#}");
    let again = workspace.run(["--json", "pull"])?.ok()?.json()?;
    assert!(again["tables"]["races"].get("drift").is_none(), "known by now: {again:#}");

    // Renames are told from drops; no phase reads these.
    client
        .batch_execute(
            "ALTER TABLE races RENAME steward TO chief_steward; ALTER TABLE horses DROP colour; \
             ALTER TABLE horses ALTER wins TYPE bigint",
        )
        .await?;
    let ran = workspace.run(["pull"])?.ok()?;
    for part in [
        "races: column steward was renamed to chief_steward",
        "horses: column colour text was dropped",
        "horses: column wins changed its type from integer to bigint",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }

    // What phases and settings name is refused, all of it at once and before anything is pulled.
    client
        .batch_execute(
            "ALTER TABLE races RENAME track_condition TO going; ALTER TABLE races ALTER race_distance TYPE bigint; \
             ALTER TABLE race_results DROP barrier; ALTER TABLE race_meetings RENAME track_name TO track",
        )
        .await?;
    let manifests = workspace.lake_files("manifest").len();
    let ran = workspace.run(["pull"])?;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    for part in [
        "the source changed, and nothing was pulled: ",
        "public.races: column track_condition was renamed to going since lake version 4, and 01_base_rebuild.sql reads it; \
         pull.on_dropped = \"accept\" pulls it all the same",
        "public.races: column race_distance changed its type from integer to bigint since lake version 4, and 01_base_rebuild.sql reads it; \
         pull.on_retyped = \"accept\"",
        "public.race_results: column barrier integer was dropped",
        "public.race_meetings: column track_name was renamed to track since lake version 4, and the table's key names it",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    assert_eq!(workspace.lake_files("manifest").len(), manifests);
    let accepted = ["pull", "races", "--set", "pull.on_dropped=accept", "--set", "pull.on_retyped=accept"];
    workspace.run(accepted)?.ok()?;

    client.batch_execute("ALTER TABLE races ADD another text").await?;
    let ran = workspace.run(["--set", "pull.on_added=error", "pull", "races"])?;
    assert!(ran.code == Some(3) && ran.stderr.contains("column another text was added"), "{ran:?}");

    // A table made anew has other column numbers, so a name that is gone is a drop.
    client.batch_execute("CREATE TABLE r2 AS TABLE races; ALTER TABLE r2 RENAME another TO other").await?;
    workspace.run(["pull", "races"])?.ok()?;
    client.batch_execute("DROP TABLE races CASCADE; ALTER TABLE r2 RENAME TO races").await?;
    let report = workspace.run(["--json", "pull", "races"])?.ok()?.json()?;
    let changes: Vec<_> = report["tables"]["races"]["drift"].as_array().context("a report")?.iter().collect();
    assert!(changes.iter().any(|change| change["change"] == "dropped" && change["column"] == "another"), "{changes:?}");
    Ok(())
}
