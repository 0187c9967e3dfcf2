//! A preview says what a push would change, and the push then changes that.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::support::{TestDb, Workspace, racing};

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
    let samples = preview["samples"].as_array().context("samples")?;
    let of = |change: &str| samples.iter().filter(|row| row["change"] == change).collect::<Vec<_>>();
    assert_eq!([of("added").len(), of("removed").len(), of("changed").len()], [5, 3, 5], "{samples:?}");
    assert!(
        of("removed").iter().all(|row| row["key"]["horse_slug"].as_str().is_some_and(|s| s.starts_with("nobody-")))
    );
    for row in of("changed") {
        let [column] = row["columns"].as_array().context("columns")?.as_slice() else { anyhow::bail!("{row}") };
        let number = |side: &str| column[side].as_str().and_then(|text| text.parse::<i64>().ok());
        assert_eq!(column["name"], "race_number");
        assert_eq!(number("before").context("before")?, number("after").context("after")? + 1, "{row}");
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_counts_what_does_not_fit_and_says_what_happens_to_each_dependent() -> Result<()> {
    const PIPELINE: &str = "[[tables]]\nname = 'races'\n[dataset]\nname = 'd'\nkey = ['race_id']\nphases = 'phases'\n\
         [target]\ntable = 'public.d'\nbackup = 'd_backup'\nmin_rows_of_live = 0.0\n";
    let db = TestDb::new("preview_misfits").await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "CREATE TABLE public.races (race_id text PRIMARY KEY, number int, place int);
             INSERT INTO public.races SELECT 'race ' || i, CASE WHEN i > 47 THEN 40000 ELSE i END, nullif(i, 9) FROM generate_series(1, 50) i;
             CREATE TABLE public.d (race_id text PRIMARY KEY, number smallint, place int NOT NULL);
             INSERT INTO public.d SELECT race_id, 1, 1 FROM public.races WHERE number < 20;
             CREATE VIEW public.numbers AS SELECT number FROM public.d;
             CREATE MATERIALIZED VIEW public.most AS SELECT max(number) FROM public.d;
             CREATE TABLE public.child (race_id text CONSTRAINT of_race REFERENCES public.d)",
        )
        .await?;
    let workspace = Workspace::at(db.url())?;
    let folder = workspace.path().join("phases");
    std::fs::create_dir_all(&folder)?;
    let phase = "-- grain: race\n-- reads: races\n-- writes: d\n-- why: a test\nCREATE TABLE d AS SELECT race_id, number, place FROM races;";
    std::fs::write(folder.join("01_d.sql"), phase)?;
    let dictionary = "name,pg_type,group,role,description\nrace_id,text,race,key,The race.\nnumber,integer,race,feature,Its number.\nplace,integer,race,feature,A place.\n";
    std::fs::write(folder.join("dictionary.csv"), dictionary)?;
    let pipeline = workspace.path().join("pipeline.toml");
    std::fs::write(&pipeline, PIPELINE)?;
    workspace.run(["pull"])?.ok()?;
    workspace.run(["run"])?.ok()?;

    let preview = workspace.run(["--json", "preview"])?.ok()?.json()?;
    assert_eq!(preview["misfits"], serde_json::json!({ "number": 3, "place": 1 }), "{preview:#}");
    let converted = serde_json::json!([{ "column": "number", "from": "integer", "to": "smallint" }]);
    assert_eq!(preview["plan"]["columns"]["converted"], converted);
    assert_eq!(preview["push_seconds_estimated"], Value::Null);
    let carried: Vec<&str> =
        preview["plan"]["carried"].as_array().context("carried")?.iter().filter_map(Value::as_str).collect();
    for line in [
        "view public.numbers: bound to the new table by the swap",
        "materialized view public.most: made anew over the new table before the swap, and exchanged by it",
        "constraint of_race on table public.child: bound to the new table by the swap, and validated after it",
    ] {
        assert!(carried.contains(&line), "{line}: {carried:#?}");
    }
    let shown = workspace.run(["preview"])?.ok()?.stdout;
    for part in [
        "types     number from integer to smallint",
        "misfits   3 values of number, 1 values of place",
        "column number: 3 values of the dataset do not fit into smallint (",
        "column place: 1 values of the dataset do not fit into integer NOT NULL (",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let refused = workspace.run(["push"])?;
    assert!(
        refused.stderr.contains("public.d, column place, row 49: the value is null")
            && refused.stderr.contains("the row has race_id=race 9"),
        "{refused:?}"
    );
    let recorded = workspace.run(["--json", "history"])?.ok()?.stdout;
    assert!(recorded.contains("column place, row 49: ") && !recorded.contains("race 9"), "{recorded}");

    // As the policy says, the same number of values becomes null.
    client.batch_execute("UPDATE public.races SET place = 9 WHERE place IS NULL").await?;
    std::fs::write(&pipeline, format!("{PIPELINE}[target.columns.number]\npush_misfit = 'null'\n"))?;
    workspace.run(["pull"])?.ok()?;
    workspace.run(["run"])?.ok()?;
    let preview = workspace.run(["--json", "preview"])?.ok()?.json()?;
    assert_eq!(preview["misfits"], serde_json::json!({ "number": 3 }), "{preview:#}");
    assert_eq!(preview["plan"]["blockers"], serde_json::json!([]));
    let pushed = workspace.run(["--json", "push"])?.ok()?.json()?;
    assert_eq!(pushed["nulled"], preview["misfits"]);
    let preview = workspace.run(["--json", "preview"])?.ok()?.json()?;
    assert!(preview["push_seconds_estimated"].as_f64().context("an estimate")? > 0.0);
    Ok(())
}
