//! The point-in-time audit: the real phases pass, and a leak of each kind is caught and named.

#![allow(clippy::print_stderr, reason = "a test says what it could not try")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Ran, TestDb, Workspace, eventually, racing};

/// Few rows are enough here.
const SMALL: [&str; 3] = ["--json", "--set", "validate.min_rows=1"];
/// One date and one event are enough where the first already shows the leak.
const SHORT: [&str; 4] = ["--set", "validate.audit_dates=1", "--set", "validate.audit_events=1"];
/// The line of the last phase before which a leak can be planted.
const LABELS: &str = "  -- Labels\n";

fn audit(workspace: &Workspace, arguments: &[&str]) -> Result<Ran> {
    workspace.run([&SMALL, arguments, &["validate", "--audit"]].concat())
}

fn finding<'a>(report: &'a Value, id: &str) -> Result<&'a Value> {
    let mut findings = report["findings"].as_array().context("findings")?.iter();
    findings.find(|finding| finding["id"] == id).with_context(|| format!("{id} is not in {report:#}"))
}

fn assert_all_pass(report: &Value) -> Result<()> {
    for id in ["V08", "V09", "V10", "V11"] {
        let finding = finding(report, id)?;
        assert_eq!(finding["verdict"], "pass", "{finding:#}");
    }
    Ok(())
}

/// A leak of this name is the only one that a check found, and its race, its runner and the change are said.
fn assert_caught(report: &Value, id: &str, name: &str) -> Result<()> {
    let finding = finding(report, id)?;
    let observed = finding["observed"].as_str().context("text")?;
    assert_eq!(finding["verdict"], "fail", "{finding:#}");
    assert!(observed.starts_with(&format!("1 features differ: {name} (in ")), "{observed}");
    assert!(observed.contains("first: race_id ") && observed.contains(&format!(" by {id} ")), "{observed}");
    let row = &finding["sample"][0];
    assert_eq!(row["column"], name);
    assert!(row["event"].is_string() && row["event"] == row["key"]["race_id"], "{row:#}");
    assert!(row["key"]["horse_slug"].is_string() && row["base"] != row["variant"], "{row:#}");
    Ok(())
}

/// What an audit that ended leaves in the lake: nothing.
fn left_behind(workspace: &Workspace) -> Vec<PathBuf> {
    let mut files = workspace.lake_files("");
    files.retain(|file| file.to_string_lossy().contains("racealpha_audit"));
    files.extend(workspace.lake_files("spill"));
    files
}

/// A copy of the pipeline whose last phase has one more feature.
fn planted(workspace: &Workspace, name: &str, feature: &str) -> Result<String> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = workspace.path().join(name);
    for sub in ["sql", "sql/data", "sql/checks"] {
        fs::create_dir_all(folder.join(sub))?;
        for entry in fs::read_dir(repository.join(sub))? {
            let file = entry?.path();
            if file.is_file() {
                fs::copy(&file, folder.join(sub).join(file.file_name().context("a name")?))?;
            }
        }
    }
    let phase = folder.join("sql/09_remove_leakage_columns.sql");
    let text = fs::read_to_string(&phase)?;
    assert_eq!(text.matches(LABELS).count(), 1, "the place for a leak is gone");
    fs::write(&phase, text.replace(LABELS, &format!("  CAST({feature} AS REAL) AS {name},\n{LABELS}")))?;
    let dictionary = folder.join("sql/dictionary.csv");
    let described = format!(
        "{}{name},real,real,09,planted,feature,A planted leak.,row,never null\n",
        fs::read_to_string(&dictionary)?
    );
    fs::write(&dictionary, described)?;
    fs::copy(repository.join("pipeline.toml"), folder.join("pipeline.toml"))?;
    Ok(folder.join("pipeline.toml").display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_phases_pass_and_every_kind_of_leak_is_named() -> Result<()> {
    let db = racing("audit", 300).await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;

    workspace.run(["run"])?.ok()?;
    let report = audit(&workspace, &["--set", "validate.audit_events=2"])?.ok()?.json()?;
    assert_all_pass(&report)?;
    assert!(finding(&report, "V09")?["observed"].as_str().context("text")?.starts_with("2 events, "), "{report:#}");
    assert_eq!(left_behind(&workspace), Vec::<PathBuf>::new());

    let leaks: [(&str, &str, &[&str], &[&str]); 4] = [
        // Stablemates of the same race that are sorted before the runner. What is sorted how decides whom one change
        // reaches, so this takes as many events as an audit does unless told otherwise.
        (
            "leak_of_frame",
            "sum(r.won) OVER (PARTITION BY r.trainer_key ORDER BY r.day_key ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)",
            &["V09", "V10"],
            &[],
        ),
        // A whole career joined back without a date.
        (
            "leak_of_future",
            "(SELECT count(*) FROM runners AS career WHERE career.horse_id = r.horse_id)",
            &["V08"],
            &SHORT,
        ),
        // Only races that were run have sectionals.
        ("leak_of_presence", "s.runner_id IS NOT NULL", &["V10"], &SHORT),
        // Later races of the same meeting.
        (
            "leak_of_later_race",
            "(SELECT CAST(sum(x.barrier) AS INTEGER) FROM runners AS x WHERE x.meeting_key = r.meeting_key \
             AND x.race_order > r.race_order AND x.won = 1)",
            &["V09", "V10"],
            &["--set", "validate.audit_events=3"],
        ),
    ];
    for (name, feature, caught_by, tried) in leaks {
        let pipeline = planted(&workspace, name, feature)?;
        workspace.run(["--pipeline", &pipeline, "run"])?.ok()?;
        let ran = audit(&workspace, &[&["--pipeline", &pipeline], tried].concat())?;
        assert_eq!(ran.code, Some(3), "{ran:?}");
        let report = ran.json()?;
        for id in caught_by {
            assert_caught(&report, id, name)?;
        }
        assert_eq!(left_behind(&workspace), Vec::<PathBuf>::new());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leak_from_another_meeting_of_the_day_is_named() -> Result<()> {
    let db = racing("audit_meetings", 120).await?;
    // A small world has one meeting a day. Each second day becomes the one before, so that there are two.
    let together = "UPDATE races SET race_date = earlier.race_date FROM ( \
          SELECT race_date AS later, lag(race_date) OVER (ORDER BY race_date) AS race_date, \
            row_number() OVER (ORDER BY race_date) AS n FROM (SELECT DISTINCT race_date FROM races) AS days) AS earlier \
        WHERE races.race_date = earlier.later AND earlier.n % 2 = 0";
    db.client().await?.batch_execute(together).await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    let name = "leak_of_other_meeting";
    let feature = "(SELECT CAST(sum(x.barrier) AS INTEGER) FROM runners AS x WHERE x.day_key = r.day_key AND x.meeting_key <> r.meeting_key \
                   AND x.race_order > r.race_order AND x.won = 1)";
    let pipeline = planted(&workspace, name, feature)?;
    workspace.run(["--pipeline", &pipeline, "run"])?.ok()?;
    let report = audit(&workspace, &["--pipeline", &pipeline, "--set", "validate.audit_events=3"])?.json()?;
    for id in ["V09", "V10"] {
        assert_caught(&report, id, name)?;
    }
    for id in ["V08", "V11"] {
        assert_eq!(finding(&report, id)?["verdict"], "pass", "{report:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_that_makes_no_sense_is_refused_and_an_interrupted_one_leaves_nothing() -> Result<()> {
    let db = racing("audit_refused", 60).await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    workspace.run(["run"])?.ok()?;

    let refused = |arguments: &[&str], message: &str| -> Result<()> {
        let ran = audit(&workspace, arguments)?;
        assert!(ran.code == Some(2) && ran.stderr.contains(message), "{message}: {ran:?}");
        Ok(())
    };
    refused(&["--set", "dataset.event.date=day"], "dataset.event.date is day, which table races does not have")?;
    refused(&["--set", "dataset.event.table=horses"], "is race_id, which table horses does not have")?;
    refused(
        &["--set", "dataset.event.order=number"],
        "dataset.event.order is number, which table race_training_dataset does",
    )?;
    refused(
        &["--set", "dataset.event.within=['day']"],
        "dataset.event.within is day, which table race_training_dataset does",
    )?;
    refused(&["--set", "dataset.event.order=final_position"], "dataset.event.order is final_position, a label")?;
    refused(&["--set", "validate.audit_dates=0"], "expected a number from 1 to 100")?;
    let pipeline = workspace.path().join("pipeline.toml");
    let built_in = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipeline.toml"))?;
    for (old, new, message) in [
        ("outcomes = [\"position\"", "outcomes = [\"place\"", "outcomes of table race_results name place"),
        ("event = {", "# event = {", "needs dataset.event"),
        (
            "key = [\"race_date\", \"track_name\"]",
            "after_event = true",
            "table race_meetings has outcomes or after_event",
        ),
    ] {
        assert!(built_in.contains(old), "{old} is gone");
        fs::write(
            &pipeline,
            built_in.replacen(old, new, 1).replace(
                "phases = \"sql\"",
                &format!("phases = {:?}", Path::new(env!("CARGO_MANIFEST_DIR")).join("sql")),
            ),
        )?;
        refused(&[], message)?;
    }
    fs::remove_file(&pipeline)?;

    let child = workspace.command([&SMALL[..], &["validate", "--audit"]].concat()).spawn()?;
    let database = workspace.lake().join("racealpha_audit.duckdb");
    eventually("the audit has a database", || database.exists());
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
    let ran: Ran = child.wait_with_output()?.into();
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert_eq!(left_behind(&workspace), Vec::<PathBuf>::new());

    workspace.run(["pull"])?.ok()?;
    refused(&[], "`racealpha run` first, then audit")?;
    Ok(())
}

/// A source that has nothing to do with racing: examinations, by hall and time of day. `more` changes it.
async fn examinations(name: &str, more: &str) -> Result<(TestDb, Workspace)> {
    let db = TestDb::new(name).await?;
    let tables = "\
        CREATE TABLE sittings (sitting integer PRIMARY KEY, held_on date, hall text, slot integer); \
        INSERT INTO sittings SELECT n, DATE '2024-03-01' + n / 4, CASE n % 2 WHEN 0 THEN 'north' ELSE 'south' END, n % 4 / 2 + 1 \
          FROM generate_series(0, 31) AS n; \
        CREATE TABLE papers (sitting integer, candidate text, tutor text, grade integer, PRIMARY KEY (sitting, candidate)); \
        INSERT INTO papers SELECT n, 'candidate ' || (n * 3 + k * 7) % 20, 'tutor ' || (n + k) % 4, \
          CASE WHEN n < 30 THEN (n * 5 + k * 3 + n * k) % 10 + 1 END \
          FROM generate_series(0, 31) AS n, generate_series(0, 4) AS k; \
        CREATE TABLE remarks (sitting integer, candidate text, remark text, PRIMARY KEY (sitting, candidate)); \
        INSERT INTO remarks SELECT sitting, candidate, 'seen' FROM papers WHERE grade < 4;";
    db.client().await?.batch_execute(&format!("{tables} {more}")).await?;
    let workspace = Workspace::at(db.url())?;
    Ok((db, workspace))
}

/// Pulls and audits examinations. The honest features count earlier days, and earlier slots of the day in the same hall;
/// `leak` is one more feature, `order` what the pipeline file says of slots and halls.
fn audit_examinations(workspace: &Workspace, leak: &str, order: &str) -> Result<Value> {
    let phases = workspace.path().join("phases");
    fs::create_dir_all(&phases)?;
    let phase = format!(
        "-- grain: one row per paper\n-- reads: sittings, papers, remarks\n-- writes: chances\n-- why: a test\n\
         CREATE TABLE chances AS WITH taken AS (SELECT * FROM papers JOIN sittings USING (sitting)) \
         SELECT t.sitting, t.candidate, t.hall, t.slot, \
           (SELECT count(*) FROM taken AS e WHERE e.tutor = t.tutor AND e.grade > 5 AND (e.held_on < t.held_on \
             OR (e.held_on = t.held_on AND e.hall = t.hall AND e.slot < t.slot))) AS passes_of_tutor, \
           (SELECT count(*) FROM taken AS e JOIN remarks AS r USING (sitting, candidate) \
             WHERE e.candidate = t.candidate AND e.held_on < t.held_on) AS remarks_before, \
           {leak} t.grade \
         FROM taken AS t WHERE t.grade IS NOT NULL OR with_upcoming();"
    );
    fs::write(phases.join("01_chances.sql"), phase)?;
    let pipeline = workspace.path().join("examinations.toml");
    fs::write(
        &pipeline,
        format!(
            "[[tables]]\nname = 'sittings'\nkey = ['sitting']\n\
             [[tables]]\nname = 'papers'\nkey = ['sitting', 'candidate']\noutcomes = ['grade']\n\
             [[tables]]\nname = 'remarks'\nkey = ['sitting', 'candidate']\nafter_event = true\nrequired = false\n\
             [dataset]\nname = 'chances'\nkey = ['sitting', 'candidate']\nlabels = ['grade']\nphases = 'phases'\n\
             event = {{ column = 'sitting', table = 'sittings', date = 'held_on'{order} }}\n\
             [target]\ntable = 'public.chances'\nbackup = 'chances_backup'\n"
        ),
    )?;
    let pipeline = pipeline.display().to_string();
    workspace.run(["--pipeline", &pipeline, "pull"])?.ok()?;
    workspace.run(["--pipeline", &pipeline, "run"])?.ok()?;
    workspace.run(["--json", "--pipeline", &pipeline, "validate", "--audit"])?.json()
}

/// How examinations are ordered.
const BY_SLOT: &str = ", order = 'slot', within = ['hall']";

#[tokio::test(flavor = "multi_thread")]
async fn any_pipeline_file_can_be_audited() -> Result<()> {
    let (_db, workspace) = examinations("audit_examinations", "").await?;
    assert_all_pass(&audit_examinations(&workspace, "", BY_SLOT)?)?;

    // The slot alone, so that a slot in one hall knows earlier slots of the other.
    let leak = "(SELECT count(*) FROM taken AS e WHERE e.tutor = t.tutor AND e.grade > 5 AND e.held_on = t.held_on \
                AND e.slot < t.slot) AS passes_today,";
    let report = audit_examinations(&workspace, leak, BY_SLOT)?;
    for id in ["V09", "V10"] {
        let found = finding(&report, id)?;
        let observed = found["observed"].as_str().context("text")?;
        assert!(observed.starts_with("1 features differ: passes_today (in "), "{found:#}");
        assert!(observed.contains("first: sitting ") && observed.contains(", candidate candidate "), "{found:#}");
    }
    for id in ["V08", "V11"] {
        assert_eq!(finding(&report, id)?["verdict"], "pass", "{report:#}");
    }
    // With one order for all halls it is none.
    assert_all_pass(&audit_examinations(&workspace, leak, ", order = 'slot'")?)?;

    // Where nothing says which sittings of a day come first, none may know another.
    let report = audit_examinations(&workspace, "", "")?;
    let found = finding(&report, "V09")?;
    assert!(found["observed"].as_str().context("text")?.starts_with("1 features differ: passes_of_tutor"), "{found:#}");
    assert!(found["limit"].as_str().context("text")?.ends_with("dataset.event has no order"), "{found:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_event_and_events_without_a_place_in_their_day_can_be_audited() -> Result<()> {
    let more = "DELETE FROM remarks WHERE sitting <> 1; DELETE FROM papers WHERE sitting <> 1; DELETE FROM sittings WHERE sitting <> 1;";
    let (_db, workspace) = examinations("audit_single", more).await?;
    let report = audit_examinations(&workspace, "", BY_SLOT)?;
    assert_all_pass(&report)?;
    for (id, tried) in [
        ("V08", "1 dates, 5 rows"),
        ("V09", "1 events, 5 rows"),
        ("V10", "2 tries, 10 rows"),
        ("V11", "1 shuffles, 5 rows"),
    ] {
        let found = finding(&report, id)?;
        assert!(found["observed"].as_str().context("text")?.starts_with(tried), "{found:#}");
    }

    let (_db, workspace) =
        examinations("audit_placeless", "UPDATE sittings SET slot = NULL WHERE sitting % 4 > 1;").await?;
    assert_all_pass(&audit_examinations(&workspace, "", BY_SLOT)?)?;
    // What has no slot may know no other sitting of its day.
    let leak = "(SELECT count(*) FROM taken AS e WHERE e.held_on = t.held_on AND e.hall = t.hall AND t.slot IS NULL \
                AND e.sitting <> t.sitting AND e.grade > 5) AS passes_today,";
    let report = audit_examinations(&workspace, leak, BY_SLOT)?;
    let found = finding(&report, "V10")?;
    assert!(
        found["observed"].as_str().context("text")?.starts_with("1 features differ: passes_today (in "),
        "{found:#}"
    );
    Ok(())
}

/// Two real seasons, where the machine has them.
#[tokio::test(flavor = "multi_thread")]
async fn real_seasons_pass_the_audit() -> Result<()> {
    let Some(folder) = env::var_os("RACEALPHA_SAMPLE") else {
        // Said, not hidden: the synthetic source has every known quirk, real data may have more.
        eprintln!("RACEALPHA_SAMPLE names no folder with a load.sh, so no real data was audited");
        return Ok(());
    };
    let db = TestDb::new("audit_sample").await?;
    let loaded = Command::new("bash").arg(Path::new(&folder).join("load.sh")).arg(db.url()).output()?;
    assert!(loaded.status.success(), "{loaded:?}");
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    workspace.run(["run"])?.ok()?;
    assert_all_pass(&audit(&workspace, &["--set", "validate.audit_events=4"])?.json()?)
}
