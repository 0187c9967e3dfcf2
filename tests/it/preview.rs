//! A preview says what a push would change, and the push then changes that.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::support::{Workspace, racing};

fn small<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["--set", "validate.min_rows=1"], arguments].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_says_what_the_push_then_does() -> Result<()> {
    let db = racing("preview", 400).await?;
    let client = db.client().await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(small(&["pull"]))?.ok()?;
    workspace.run(small(&["run"]))?.ok()?;
    workspace.run(small(&["push", "--force"]))?.ok()?;
    // The live table loses 5 rows, gains 3, and of the rest 7 change in one column and all are shifted in another.
    client
        .batch_execute(
            "CREATE TABLE moved AS SELECT ctid AS row, row_number() OVER (ORDER BY race_id, horse_slug) AS n FROM race_training_dataset; \
             DELETE FROM race_training_dataset USING moved WHERE race_training_dataset.ctid = row AND n <= 5; \
             UPDATE race_training_dataset SET horse_slug = 'nobody-' || n FROM moved WHERE race_training_dataset.ctid = row AND n BETWEEN 6 AND 8; \
             UPDATE race_training_dataset SET race_number = race_number + 1 FROM moved WHERE race_training_dataset.ctid = row AND n BETWEEN 9 AND 15",
        )
        .await?;
    let preview = workspace.run(small(&["--json", "preview", "--mode", "merge"]))?.ok()?.json()?;
    let counts = ["added", "removed", "changed"].map(|name| preview[name].as_u64());
    assert_eq!(counts, [Some(8), Some(3), Some(7)], "{preview:#}");
    let columns = preview["columns"].as_array().context("columns")?;
    let changed: Vec<&Value> = columns.iter().filter(|column| column["changed"].as_u64() != Some(0)).collect();
    assert_eq!(changed.iter().map(|column| column["name"].as_str()).collect::<Vec<_>>(), [Some("race_number")]);
    let index = changed[0]["stability_index"].as_f64().context("an index")?;
    assert!(index < 0.1, "{index}");
    assert!(changed[0]["quantiles_before"]["p50"].is_number(), "{:#}", changed[0]);
    assert!(preview["push_seconds_estimated"].as_f64().context("an estimate")? > 0.0);
    assert_eq!(preview["plan"]["mode"].as_str(), Some("merge"));
    let merged = workspace.run(small(&["--json", "push", "--mode", "merge"]))?.ok()?.json()?;
    let counts = ["inserted", "deleted", "updated"].map(|name| merged[name].as_u64());
    assert_eq!(counts, [Some(8), Some(3), Some(7)], "{merged:#}");
    let shown = workspace.run(small(&["push", "--mode", "merge"]))?.ok()?;
    assert!(shown.stdout.contains("0 inserted, 0 updated, 0 deleted"), "{}", shown.stdout);

    // Numbers that lie elsewhere are named, and so are rows that would be missing; a person reads both.
    client
        .batch_execute("UPDATE race_training_dataset SET race_number = race_number + 50; \
             INSERT INTO race_training_dataset (race_id, horse_slug, race_date) SELECT race_id, 'nobody-' || horse_slug, race_date FROM race_training_dataset")
        .await?;
    let shown = workspace.run(small(&["preview"]))?.ok()?.stdout;
    for part in [
        "mode      swap: readers and writers wait for milliseconds",
        "shifted   race_number",
        "a push is refused:",
        "push --force",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let refused = workspace.run(small(&["push"]))?;
    assert!(refused.stderr.contains("a push needs"), "{}", refused.stderr);
    workspace.run(small(&["push", "--force", "--mode", "auto"]))?.ok()?;
    Ok(())
}
