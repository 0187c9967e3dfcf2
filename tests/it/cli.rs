//! The program as a user meets it: results, formats, exit codes, messages.

use std::fs;

use anyhow::{Context, Result};
use arrow::array::RecordBatchReader;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::support::{Workspace, racing};

#[tokio::test(flavor = "multi_thread")]
async fn queries_read_the_lake_and_nothing_else() -> Result<()> {
    let db = racing("query", 100).await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;

    let csv = workspace.run(["query", "SELECT count(*) AS races FROM races", "--format", "csv"])?.ok()?;
    assert_eq!(csv.stdout, "races\n100\n");
    let table = workspace.run(["query", "FROM races LIMIT 3"])?.ok()?;
    assert!(table.stdout.contains("race_id") && table.stdout.lines().count() > 5, "{}", table.stdout);
    let empty = workspace.run(["query", "SELECT race_id FROM races WHERE false", "--format", "csv"])?.ok()?;
    assert_eq!(empty.stdout, "race_id\n");

    let secret = workspace.path().join("secret.csv");
    fs::write(&secret, "a\n1\n")?;
    let outside = format!("SELECT * FROM read_csv('{}')", secret.display());
    let refused = [
        "DROP VIEW races",
        "CREATE TABLE t AS SELECT 1",
        "COPY races TO 'races.csv'",
        "ATTACH 'x.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT 1; DROP VIEW races",
        "SELECT * FROM no_such_table",
        outside.as_str(),
    ];
    for sql in refused {
        let ran = workspace.run(["query", sql])?;
        assert_eq!(ran.code, Some(1), "{sql}: {ran:?}");
        assert_eq!(ran.stdout, "", "{sql}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_hold_every_row_in_every_format() -> Result<()> {
    let db = racing("export", 100).await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    let rows =
        workspace.run(["--json", "query", "SELECT count(*) AS n FROM race_results_sectional_times"])?.ok()?.json()?;
    let rows = usize::try_from(rows[0]["n"].as_u64().context("a count")?)?;
    let table = ["--table", "race_results_sectional_times"];

    workspace.run(["export", "times.csv", "--format", "csv", table[0], table[1]])?.ok()?;
    let csv = fs::read_to_string(workspace.path().join("times.csv"))?;
    assert_eq!(csv.lines().count(), rows + 1);
    assert!(csv.contains(",P0M0DT"), "intervals are ISO 8601 durations: {:?}", csv.lines().nth(1));

    workspace.run(["export", "times.parquet", table[0], table[1]])?.ok()?;
    let file = fs::File::open(workspace.path().join("times.parquet"))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?.build()?;
    assert!(reader.schema().column_with_name("finish_time").is_some());
    let exported: usize = reader.map(|batch| batch.map(|batch| batch.num_rows())).sum::<Result<_, _>>()?;
    assert_eq!(exported, rows);

    workspace.run(["export", "times.arrow", "--format", "arrow", table[0], table[1]])?.ok()?;
    let file = fs::File::open(workspace.path().join("times.arrow"))?;
    let arrow = arrow::ipc::reader::FileReader::try_new(file, None)?;
    assert_eq!(arrow.map(|batch| batch.map(|batch| batch.num_rows())).sum::<Result<usize, _>>()?, rows);

    // A folder keeps the lake's partitions.
    workspace.run(["export", "races", "--table", "races"])?.ok()?;
    let years = fs::read_dir(workspace.path().join("races"))?.count();
    assert!(years >= 1, "one folder a year");
    let ran = workspace.run(["export", "/proc/no/such/place.csv", "--format", "csv", "--table", "races"])?;
    assert!(ran.code == Some(1) && ran.stderr.contains("cannot write /proc/no/such/place.csv"), "{ran:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phase_is_tested_on_a_sample_and_publishes_nothing() -> Result<()> {
    let db = racing("phase", 200).await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    let report = workspace.run(["--json", "test", "2", "--sample", "50"])?.ok()?.json()?;
    let tables = report["tables"].as_array().context("tables")?;
    assert!(tables.iter().all(|table| table["columns"].as_array().is_some_and(|columns| !columns.is_empty())));
    // What comes from tables of earlier phases is not new.
    let columns = |table: &str| -> Vec<String> {
        let found = tables.iter().filter(|found| found["name"] == table);
        let columns = found.flat_map(|found| found["columns"].as_array().into_iter().flatten());
        columns.filter_map(|column| Some(column["name"].as_str()?.to_owned())).collect()
    };
    assert_eq!(columns("field_comparison")[..2], ["elo_percentile_in_race", "odds_percentile_in_race"]);
    let of_form = columns("career_form");
    assert!(of_form.iter().any(|name| name == "win_percentage") && !of_form.iter().any(|name| name == "race_id"));
    assert_eq!(
        report["phases"].as_array().and_then(|all| all.last()).map(|p| &p["phase"]),
        Some(&"02_career_form_stats".into())
    );
    assert_eq!(workspace.lake_files("manifest").len(), 1);
    let ran = workspace.run(["test", "77"])?;
    assert!(
        ran.code == Some(2) && ran.stderr.contains("there is no phase 77; the phases are 01_base_rebuild"),
        "{ran:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_rows_of_races_to_come_only_when_asked() -> Result<()> {
    let db = racing("upcoming", 60).await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    let count = |sql: &str| -> Result<u64> {
        let rows = workspace.run(["--json", "query", &format!("SELECT count(*) AS n FROM {sql}")])?.ok()?.json()?;
        rows[0]["n"].as_u64().context("a count")
    };
    let declared = count(
        "(SELECT DISTINCT race_id, horse_slug FROM race_results JOIN races USING (race_id) \
         WHERE horse_slug IS NOT NULL AND coalesce(upper(finish_status), '') <> 'SCRATCHED' \
           AND race_id NOT IN (SELECT race_id FROM race_results WHERE position IS NOT NULL))",
    )?;
    assert!(declared > 0, "the source has no race to come");
    workspace.run(["run"])?.ok()?;
    let finished = count("race_training_dataset")?;
    assert_eq!(count("race_training_dataset WHERE final_position IS NULL")?, 0);

    workspace.run(["run", "--with-upcoming"])?.ok()?;
    assert_eq!(count("race_training_dataset WHERE final_position IS NOT NULL")?, finished);
    let upcoming = "race_training_dataset WHERE final_position IS NULL AND margin IS NULL AND raw_time_seconds IS NULL";
    assert_eq!(count(upcoming)?, declared);
    assert_eq!(count("race_training_dataset")?, finished + declared);
    Ok(())
}

#[test]
fn wrong_settings_are_named_with_what_to_do() -> Result<()> {
    let workspace = Workspace::new()?;
    let cases: [(&[&str], &str); 6] = [
        (&["pull"], "DATABASE_URL is not set"),
        (&["--set", "validate.min_row=3", "status"], "did you mean `min_rows`?"),
        (&["--pipeline", "nowhere.toml", "status"], "cannot read the pipeline file nowhere.toml"),
        (&["pull", "no_such_table", "--jobs", "2"], "the pipeline file has no table no_such_table; it has races,"),
        (&["pull", "--jobs", "0"], "expected a number from 1 to 32"),
        (&["--set", "tables=3", "status"], "tables"),
    ];
    for (arguments, message) in cases {
        let ran = workspace.run(arguments)?;
        assert!(ran.code == Some(2) && ran.stderr.contains(message), "{arguments:?}: {ran:?}");
    }
    let ran = workspace.run(["query", "SELECT 1"])?;
    assert!(ran.code == Some(1) && ran.stderr.contains("`racealpha pull` fills it"), "{ran:?}");
    let ran = workspace.run(["--json", "run"])?;
    assert_eq!(ran.json()?["exit_code"], 1);
    Ok(())
}

#[test]
fn a_dot_env_file_is_read_and_beaten_by_the_environment() -> Result<()> {
    let workspace = Workspace::new()?;
    fs::write(workspace.path().join(".env"), "DATABASE_URL=postgres://u:s3cret@127.0.0.1:1/from_file\n")?;
    let status = workspace.run(["--json", "status"])?.ok()?;
    assert_eq!(status.json()?["source"]["server"], "u@127.0.0.1:1/from_file");
    assert!(!format!("{status:?}").contains("s3cret"));
    let other =
        workspace.command(["--json", "status"]).env("DATABASE_URL", "postgres://u@127.0.0.1:1/other").output()?;
    assert_eq!(crate::support::Ran::from(other).json()?["source"]["server"], "u@127.0.0.1:1/other");
    Ok(())
}

#[test]
fn every_command_explains_itself_with_an_example() -> Result<()> {
    let workspace = Workspace::new()?;
    let help = workspace.run(["--help"])?.ok()?.stdout;
    let listed =
        help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> =
        listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|c| !c.is_empty()).collect();
    assert!(commands.len() >= 14 && !commands.contains(&"local-server"), "{commands:?}");
    for command in commands.into_iter().filter(|command| *command != "help") {
        let help = workspace.run([command, "--help"])?.ok()?.stdout;
        assert!(help.contains("Example"), "{command}");
    }
    Ok(())
}

#[test]
fn the_documentation_of_the_features_is_up_to_date() -> Result<()> {
    let made = Workspace::new()?.run(["features"])?.ok()?.stdout;
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/features.md");
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(made == kept, "docs/features.md is stale: racealpha features > docs/features.md");
    Ok(())
}
