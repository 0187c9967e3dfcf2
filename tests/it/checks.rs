//! Every check can fail: the phases' tables of a small world, damaged in one way at a time.
//!
//! The world is the committed one of `fixtures/source`. Each case says what is done to its tables and what the check must
//! then report: verdict, what was observed, what is allowed, and one of the offending rows.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use chrono::DateTime;
use racealpha::lake::{LakeTable, Manifest, Origin, Version};
use racealpha::progress::Progress;
use racealpha::transform::{Engine, EngineLimits, PhaseSet, Severity, run_phases, select_phases};
use racealpha::validate::{Finding, Limits, Verdict, check_dataset};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Workspace, fill_from_csv, racing};

const DATASET: &str = "race_training_dataset";
/// The first row of the dataset, and with `race` alone the race of it.
const FIRST_ROW: &str = "race_id = 'ara82-20230710-1' AND horse_slug = 'ambers-abbey'";
const FIRST_RACE: &str = "race_id = 'ara82-20230710-1'";

/// One way to damage the tables, and what is then found.
#[derive(Debug)]
struct Case {
    id: &'static str,
    damage: String,
    /// Whether there is a previous dataset, the undamaged one.
    has_previous: bool,
    verdict: Verdict,
    /// How what was observed begins or ends.
    observed: &'static str,
    limit: &'static str,
    /// Some values of one of the rows in the sample.
    row: Value,
}

/// A case of a check that looks at one dataset alone.
fn case(id: &'static str, damage: impl Into<String>, row: Value) -> Case {
    let verdict = if id < "V16" { Verdict::Fail } else { Verdict::Warn };
    let (damage, observed, limit) = (damage.into(), "1 offending rows", "no offending row");
    Case { id, damage, has_previous: false, verdict, observed, limit, row }
}

fn cases() -> Vec<Case> {
    let set = |what: &str, rows: &str| format!("UPDATE {DATASET} SET {what} WHERE {rows}");
    // Two years of results elsewhere: places in running in the first, none in the second.
    let years = "INSERT INTO races BY NAME SELECT 'y' || y || '-' || n AS race_id, make_date(y, 6, 1) AS race_date, \
                   'Nowhere' AS track_name FROM (VALUES (1990), (1991)) AS years (y), range(500) AS numbers (n); \
                 INSERT INTO race_results BY NAME SELECT 100000 + row_number() OVER () AS id, race_id, \
                   'h-' || race_id AS horse_slug, 1 AS position, \
                   CASE WHEN race_date < DATE '1991-01-01' THEN 1 END AS position_800m FROM races WHERE race_id LIKE 'y%'";
    // So many winners that a screen of features has enough.
    let twice = format!("INSERT INTO {DATASET} SELECT * REPLACE (race_id || '-again' AS race_id) FROM clean.{DATASET}");
    let rated = "in every year 90 percent of the finishers rated, from 600 to 2200 and not all alike";
    let told = "no feature with an AUC against winning above 0.8, or as far below one half";
    let alike = "at most 5 percentage points shifted, no value gone";
    let filled = "no column more than 5 percentage points emptier, in all or in a year of 500 rows, and none constant";
    vec![
        Case {
            observed: "1 keys with several rows",
            limit: "0",
            ..case(
                "V04",
                format!("INSERT INTO {DATASET} SELECT * FROM clean.{DATASET} WHERE {FIRST_ROW}"),
                json!({"race_id": "ara82-20230710-1", "horse_slug": "ambers-abbey", "rows": 2}),
            )
        },
        case(
            "V05",
            format!("DELETE FROM {DATASET} WHERE {FIRST_ROW}"),
            json!({"race_id": "ara82-20230710-1", "horse_slug": "ambers-abbey", "expected_rows": 1, "found_rows": 0}),
        ),
        case(
            "V05",
            format!(
                "INSERT INTO {DATASET} SELECT * REPLACE ('nobody' AS horse_slug) FROM clean.{DATASET} WHERE {FIRST_ROW}"
            ),
            json!({"race_id": "ara82-20230710-1", "horse_slug": "nobody", "expected_rows": 0, "found_rows": 1}),
        ),
        case(
            "V05",
            format!("INSERT INTO {DATASET} SELECT * FROM clean.{DATASET} WHERE {FIRST_ROW}"),
            json!({"race_id": "ara82-20230710-1", "horse_slug": "ambers-abbey", "expected_rows": 1, "found_rows": 2}),
        ),
        // An upcoming runner makes the others of races without a result expected.
        Case {
            observed: "offending rows",
            ..case("V05", set("final_position = NULL", FIRST_ROW), json!({"expected_rows": 1, "found_rows": 0}))
        },
        case(
            "V13",
            set("form_momentum = 0.5", FIRST_ROW),
            json!({"race_id": "ara82-20230710-1", "horse_slug": "ambers-abbey", "total_races": 0, "form_momentum": 0.5}),
        ),
        case("V13", set("is_first_timer = false", FIRST_ROW), json!({"total_races": 0, "is_first_timer": false})),
        case("V13", set("last_5_avg_position = 3", FIRST_ROW), json!({"total_races": 0, "last_5_avg_position": 3.0})),
        case("V13", set("horse_elo = 1201", FIRST_ROW), json!({"is_elo_default": true, "horse_elo": 1201.0})),
        case("V13", set("elo_races_count = 1", FIRST_ROW), json!({"is_elo_default": true, "elo_races_count": 1})),
        case(
            "V14",
            set("total_races = total_races + 7", FIRST_ROW),
            json!({"race_id": "ara82-20230710-1", "total_races": 7, "expected": 0}),
        ),
        case(
            "V15",
            set("location = 'HK'", FIRST_ROW),
            json!({"horse_slug": "ambers-abbey", "track_name": "Ararat", "location": "HK"}),
        ),
        case("V15", set("track_name = 'Sha Tin'", FIRST_ROW), json!({"track_name": "Sha Tin", "location": "AU"})),
        case(
            "V15",
            set("trainer_location_slug = trainer_slug || '-UK'", FIRST_ROW),
            json!({"location": "AU", "horse_location_slug": "ambers-abbey-AU"}),
        ),
        case("V15", set("jockey_location_slug = NULL", FIRST_ROW), json!({"horse_slug": "ambers-abbey"})),
        Case {
            has_previous: true,
            observed: "6 offending rows; rows 504, races 45, horses 234",
            limit: alike,
            ..case(
                "V16",
                set("running_style = 'unknown'", "true"),
                json!({"spread": "rows per running_style", "value": "closer", "percent_before": 13.5, "percent_now": 0.0}),
            )
        },
        Case {
            has_previous: true,
            observed: "offending rows; rows 504, years 2, columns 246",
            limit: filled,
            ..case(
                "V17",
                set("jockey_win_rate = NULL", "race_date < DATE '2024-01-01'"),
                json!({"column_name": "jockey_win_rate", "race_year": "all", "finding": "filled less often",
                    "percent_before": 100.0, "percent_now": 49.8}),
            )
        },
        // What is wrong with one dataset alone is found in the first as well.
        Case {
            observed: "not compared: there is no previous dataset; 15 offending rows; rows 504, years 2, columns 246",
            limit: filled,
            ..case(
                "V17",
                set("trainer_win_rate = NULL, jockey_win_rate = 0.25", "true"),
                json!({"column_name": "trainer_win_rate", "race_year": "all", "finding": "always null", "percent_now": 0.0}),
            )
        },
        // A year is compared when both datasets have 500 rows of it.
        Case {
            has_previous: true,
            observed: "offending rows",
            limit: filled,
            ..case(
                "V17",
                format!(
                    "INSERT INTO clean.{DATASET} SELECT d.* FROM clean.{DATASET} AS d, range(2); \
                     CREATE OR REPLACE TABLE {DATASET} AS SELECT * REPLACE \
                       (CASE WHEN race_date >= DATE '2024-01-01' THEN jockey_win_rate END AS jockey_win_rate) \
                     FROM clean.{DATASET}"
                ),
                json!({"column_name": "jockey_win_rate", "race_year": "2023", "finding": "filled less often",
                    "percent_before": 100.0, "percent_now": 0.0}),
            )
        },
        Case {
            observed: "1 offending rows; finishers 1506, place_800m_percent 45.0",
            limit: "at most 20 percentage points less than in the year before, in years of 500 finishers",
            ..case(
                "V18",
                years,
                json!({"region": "elsewhere", "race_year": 1991, "measure": "results with a place 800 m out",
                    "percent_of_year_before": 100.0, "percent": 0.0}),
            )
        },
        Case {
            observed: "1 offending rows; ratings 253, horses 198",
            limit: rated,
            ..case(
                "V19",
                "DELETE FROM horse_elo_ratings WHERE race_date >= DATE '2024-01-01'",
                json!({"race_year": 2024, "finding": "no ratings", "ratings": 0, "finishers": 251}),
            )
        },
        Case {
            observed: "2 offending rows; ratings 504",
            limit: rated,
            ..case(
                "V19",
                "UPDATE horse_elo_ratings SET elo_after = 1200",
                json!({"race_year": 2023, "finding": "all ratings alike", "lowest": 1200.0, "highest": 1200.0}),
            )
        },
        Case {
            observed: "lowest 1161.6, highest 2300.0",
            limit: rated,
            ..case(
                "V19",
                "UPDATE horse_elo_ratings SET elo_after = 2300 WHERE race_date >= DATE '2024-01-01'",
                json!({"race_year": 2024, "finding": "ratings missing or outside 600 to 2200", "highest": 2300.0}),
            )
        },
        Case {
            observed: "1 offending rows; ratings 312",
            limit: rated,
            ..case(
                "V19",
                "DELETE FROM horse_elo_ratings WHERE race_date >= DATE '2024-02-01'",
                json!({"race_year": 2024, "finding": "finishers without a rating", "ratings": 59, "finishers": 251}),
            )
        },
        Case {
            observed: "2 offending rows",
            limit: rated,
            ..case(
                "V19",
                set("horse_elo = 1200", "true"),
                json!({"race_year": 2024, "finding": "all ratings alike in the dataset", "finishers": 251}),
            )
        },
        case(
            "V20",
            set("final_position = 2", &format!("{FIRST_RACE} AND final_position = 1")),
            json!({"race_id": "ara82-20230710-1", "finishers": 8, "winners": 0, "finding": "no winner"}),
        ),
        case(
            "V20",
            set("final_position = 1", &format!("{FIRST_RACE} AND final_position <= 2")),
            json!({"race_id": "ara82-20230710-1", "finishers": 8, "winners": 2, "finding": "dead heat"}),
        ),
        case(
            "V20",
            format!("DELETE FROM {DATASET} WHERE {FIRST_RACE} AND final_position <> 1"),
            json!({"finishers": 1, "winners": 1, "finding": "fewer than two finishers"}),
        ),
        Case {
            observed: "highest_auc 1.0, highest weight_carried_avg",
            limit: told,
            ..case(
                "V21",
                format!("{twice}; {}", set("weight_carried_avg = 70 - final_position", "true")),
                json!({"column_name": "weight_carried_avg", "told_by": "value", "auc": 1.0, "winners": 90, "losers": 918}),
            )
        },
        Case {
            observed: "1 offending rows; races 90",
            limit: told,
            ..case(
                "V21",
                format!("{twice}; {}", set("avg_pos_200m = CASE WHEN final_position = 1 THEN 3 END", "true")),
                json!({"column_name": "avg_pos_200m", "told_by": "presence", "auc": 1.0, "winners": 90, "losers": 0}),
            )
        },
        Case {
            observed: "1 offending rows; wet_specialist_runs 324, wet_specialist_win_percent 0.0, dry_specialist_runs 180",
            limit: "wet specialists win more often there, told from 100 runs of each kind",
            ..case(
                "V22",
                set(
                    "is_wet_track = true, \
                     wet_dry_preference_score = CASE WHEN final_position <= 4 THEN -0.5 ELSE 0.5 END",
                    "true",
                ),
                json!({"wet_specialist_runs": 324, "wet_specialist_win_percent": 0.0, "dry_specialist_runs": 180,
                    "dry_specialist_win_percent": 25.0}),
            )
        },
    ]
}

/// The tables of the small world, and the whole dataset in a schema of its own.
struct Tables {
    engine: Engine,
    set: PhaseSet,
}

impl Tables {
    fn make() -> Result<Self> {
        let set = PhaseSet::load(None)?;
        let limits = EngineLimits { threads: Some(2), ..EngineLimits::default() };
        let engine = Engine::open(None, &limits, CancellationToken::new())?;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/source");
        fill_from_csv(&engine, &folder, &set, false)?;
        run_phases(&engine, &select_phases(&set, None, None)?, &Progress::new())?;
        // The dataset as a table, which can be changed.
        engine.execute(&format!(
            "CREATE SCHEMA clean; CREATE TABLE clean.{DATASET} AS FROM {DATASET}; DROP VIEW {DATASET}; \
             CREATE TABLE {DATASET} AS FROM clean.{DATASET}"
        ))?;
        Ok(Self { engine, set })
    }

    /// What one check finds after the damage, which is undone before the next.
    fn find(&self, id: &str, damage: &str, has_previous: bool) -> Result<Finding> {
        self.engine.execute("BEGIN")?;
        let found = self.find_in_damaged(id, damage, has_previous);
        self.engine.execute("ROLLBACK")?;
        found.with_context(|| format!("{id} after {damage}"))
    }

    fn find_in_damaged(&self, id: &str, damage: &str, has_previous: bool) -> Result<Finding> {
        self.engine.execute(damage)?;
        if has_previous {
            self.engine.execute(&format!("CREATE VIEW previous_dataset AS FROM clean.{DATASET}"))?;
        }
        let schema = self.engine.query(&format!("FROM {DATASET} LIMIT 0"))?.0;
        let table = LakeTable {
            version: Version(2),
            run_id: String::new(),
            created: DateTime::default(),
            origin: Origin::Dataset { from: Version(1), phases: self.set.fingerprint.clone() },
            schema,
            rows: self.engine.count(&format!("SELECT count(*) FROM {DATASET}"))?,
            bytes: 0,
            files: Vec::new(),
        };
        let tables = BTreeMap::from([(DATASET.to_owned(), table.clone())]);
        let manifest = Manifest { version: Version(2), created: DateTime::default(), run_id: String::new(), tables };
        let limits = Limits {
            min_rows: 1,
            min_rows_of_previous: 0.9,
            key: vec!["race_id".to_owned(), "horse_slug".to_owned()],
            labels: ["final_position", "margin", "raw_time_seconds"].map(str::to_owned).to_vec(),
            of_checks: BTreeMap::new(),
        };
        let mut set = self.set.clone();
        set.checks.retain(|check| check.id == id);
        let previous = has_previous.then_some(table.rows);
        let report = check_dataset(&self.engine, &manifest, (DATASET, &table), previous, &limits, &set)?;
        report.findings.into_iter().find(|finding| finding.id == id).with_context(|| format!("there is no check {id}"))
    }
}

/// Whether a row has these values.
fn has_values(row: &serde_json::Map<String, Value>, wanted: &Value) -> bool {
    wanted.as_object().is_some_and(|wanted| wanted.iter().all(|(name, value)| row.get(name) == Some(value)))
}

#[test]
fn each_check_finds_the_damage_that_it_is_there_for() -> Result<()> {
    let tables = Tables::make()?;
    for case in cases() {
        let whole = tables.find(case.id, "SELECT 1", case.has_previous)?;
        ensure!(
            !whole.sample.iter().any(|row| has_values(row, &case.row)),
            "{case:#?} is found in whole tables: {whole:#?}"
        );
        ensure!(case.verdict == Verdict::Warn || whole.verdict == Verdict::Pass, "{whole:#?}");
        let found = tables.find(case.id, &case.damage, case.has_previous)?;
        ensure!(found.verdict == case.verdict, "{case:#?} gave {found:#?}");
        ensure!(found.observed.contains(case.observed), "{case:#?} gave {found:#?}");
        ensure!(found.limit == case.limit, "{case:#?} gave {found:#?}");
        ensure!(found.sample.iter().any(|row| has_values(row, &case.row)), "{case:#?} gave {found:#?}");
    }
    Ok(())
}

/// V12 names the column, whichever it is.
#[test]
fn every_range_is_watched() -> Result<()> {
    let tables = Tables::make()?;
    let check = tables.set.checks.iter().find(|check| check.id == "V12").context("V12")?;
    let watched: Vec<&str> = check
        .offending
        .split(" THEN '")
        .skip(1)
        .filter_map(|rest| rest.split_once('\'').map(|(name, _)| name))
        .collect();
    ensure!(watched.len() >= 45, "{watched:?}");
    for name in watched {
        let damage = match name {
            "wins, places, total_races" => "wins = places + 1".to_owned(),
            "win_percentage" | "place_percentage" => format!("{name} = 100.01"),
            "horse_elo" => "horse_elo = 599.99".to_owned(),
            "track_category" | "distance_range" | "location" | "running_style" | "barrier_position" => {
                format!("{name} = 'elsewhere'")
            }
            _ => format!("{name} = -0.0001"),
        };
        let found = tables.find("V12", &format!("UPDATE {DATASET} SET {damage} WHERE {FIRST_ROW}"), false)?;
        ensure!(found.verdict == Verdict::Fail && found.observed == "1 offending rows", "{name}: {found:#?}");
        let row = json!({"race_id": "ara82-20230710-1", "horse_slug": "ambers-abbey", "columns_out_of_range": name});
        ensure!(has_values(&found.sample[0], &row), "{name}: {found:#?}");
    }
    Ok(())
}

/// V07: a column too many, too few, one that leaks, and labels among the features.
#[test]
fn columns_that_are_not_the_dictionarys_are_named() -> Result<()> {
    let tables = Tables::make()?;
    let change = |what: &str| format!("ALTER TABLE {DATASET} {what}");
    let moved = format!("CREATE OR REPLACE TABLE {DATASET} AS SELECT margin, * EXCLUDE (margin) FROM clean.{DATASET}");
    for (damage, observed) in [
        (
            change("ADD COLUMN lucky_number INTEGER"),
            "lucky_number is not in the dictionary, labels are not grouped at the end",
        ),
        (change("ADD COLUMN speed_figure DOUBLE"), "speed_figure leaks its own race's outcome and is present"),
        (change("DROP COLUMN wins"), "wins is missing"),
        (change("DROP COLUMN margin"), "margin is missing, label margin is missing"),
        (moved, "labels are not grouped at the end"),
    ] {
        let found = tables.find("V07", &damage, false)?;
        ensure!(found.verdict == Verdict::Fail && found.observed.starts_with(observed), "{damage}: {found:#?}");
        ensure!(found.limit == "no difference", "{found:#?}");
    }
    let whole = tables.find("V07", "SELECT 1", false)?;
    ensure!(whole.verdict == Verdict::Pass && whole.observed == "246 columns, 3 of them labels", "{whole:#?}");
    Ok(())
}

/// `docs/checks.md` has a line for each of V01 to V25, and of a file its severity, limit and path.
#[test]
fn the_documentation_of_the_checks_is_complete() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/checks.md"))?;
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| V"))
        .map(|line| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    let ids: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(ids, (1..=25).map(|number| format!("V{number:02}")).collect::<Vec<_>>());
    for check in PhaseSet::load(None)?.checks {
        let row = rows.iter().find(|row| row[0] == check.id).context(check.id.clone())?;
        let file = format!("`sql/checks/{}.sql`", check.name);
        ensure!(row.last() == Some(&file.as_str()), "{row:?}");
        ensure!(row[1] == if check.severity == Severity::Error { "error" } else { "warning" }, "{row:?}");
        let limit = row[2].parse().ok();
        ensure!(limit == check.limit, "{row:?}, and the file says {:?}", check.limit);
    }
    // Every other line names files that are there.
    for name in text.split('`').filter(|name| name.starts_with("src/")) {
        ensure!(root.join(name).exists(), "{name} is not there");
    }
    Ok(())
}

/// What the program reports, and what settings change in it.
#[tokio::test(flavor = "multi_thread")]
async fn severities_and_limits_are_settings_and_the_previous_dataset_is_compared() -> Result<()> {
    let db = racing("checks", 60).await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    workspace.run(["run"])?.ok()?;
    let validate = |settings: &[&str]| {
        let mut arguments = vec!["--json", "--set", "validate.min_rows=1"];
        for setting in settings {
            arguments.extend(["--set", *setting]);
        }
        arguments.push("validate");
        workspace.run(arguments)
    };
    let finding = |report: &Value, id: &str| -> Result<Value> {
        let found = report["findings"].as_array().and_then(|all| all.iter().find(|finding| finding["id"] == id));
        found.cloned().with_context(|| format!("{id} is not in {report:#}"))
    };

    let ran = validate(&[])?.ok()?;
    let report = ran.json()?;
    let keys =
        |value: &Value| value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    assert_eq!(keys(&report), ["version", "rows", "blocked", "findings", "seconds"]);
    let findings = report["findings"].as_array().context("findings")?;
    let ids: Vec<&str> = findings.iter().filter_map(|finding| finding["id"].as_str()).collect();
    let expected: Vec<String> = (1..=7).chain(12..=22).map(|number| format!("V{number:02}")).collect();
    assert_eq!(ids, expected);
    for finding in findings {
        assert_eq!(keys(finding), ["id", "check", "severity", "observed", "limit", "verdict", "sample"]);
        assert_ne!(finding["verdict"], "fail", "{finding:#}");
    }
    let observed = finding(&report, "V16")?["observed"].as_str().context("text")?.to_owned();
    assert!(observed.starts_with("not compared: there is no previous dataset; rows "), "{observed}");
    let constant = finding(&report, "V17")?;
    assert_eq!(constant["verdict"], "warn", "a small world has no speed figures");
    let filled = validate(&["validate.checks.V17.severity=error"])?;
    assert_eq!((filled.code, &finding(&filled.json()?, "V17")?["verdict"]), (Some(3), &json!("fail")), "{filled:?}");

    // V06 blocks, unless it is to be a warning.
    let few = validate(&["validate.min_rows=1000000"])?;
    let found = finding(&few.json()?, "V06")?;
    assert_eq!(
        (few.code, &found["verdict"], &found["severity"]),
        (Some(3), &json!("fail"), &json!("error")),
        "{few:?}"
    );
    assert_eq!(found["limit"], "at least 1000000 (validate.min_rows)");
    let shown = validate(&["validate.min_rows=1000000", "validate.checks.V06.severity=warning"])?.ok()?.json()?;
    let found = finding(&shown, "V06")?;
    assert_eq!((&found["verdict"], &found["severity"]), (&json!("warn"), &json!("warning")));
    assert_eq!(shown["blocked"], false);

    let limited = validate(&["validate.checks.V22.limit=7"])?.ok()?.json()?;
    assert_eq!(
        finding(&limited, "V22")?["limit"],
        "wet specialists win more often there, told from 7 runs of each kind"
    );
    for (setting, message) in [
        ("validate.checks.v05.severity=warning", "there is no check v05; did you mean `V05`?"),
        ("validate.checks.nothing.severity=warning", "there is no check nothing; known: V01, V02,"),
        ("validate.checks.V05.limit=1", "validate.checks.V05: this check has no limit to set"),
    ] {
        let ran = validate(&[setting])?;
        assert!(ran.code == Some(2) && ran.stderr.contains(message), "{setting}: {ran:?}");
    }

    // Everything moves to Hong Kong, and the odds are gone.
    let client = db.client().await?;
    client.batch_execute("UPDATE races SET track_name = 'Sha Tin'; UPDATE race_results SET win_odds = NULL").await?;
    workspace.run(["pull"])?.ok()?;
    workspace.run(["run"])?.ok()?;
    let report = validate(&[])?.ok()?.json()?;
    let spreads = finding(&report, "V16")?;
    assert_eq!(spreads["verdict"], "warn");
    let sample = |finding: &Value| finding["sample"].as_array().cloned().unwrap_or_default();
    let moved = sample(&spreads).into_iter().find(|row| row["spread"] == "rows per location" && row["value"] == "HK");
    assert_eq!(moved.context("Hong Kong")?["percent_now"], 100.0);
    let filled = sample(&finding(&report, "V17")?);
    let gone = filled.iter().filter(|row| row["column_name"] == "win_odds").map(|row| row["finding"].clone());
    assert_eq!(gone.collect::<Vec<_>>(), ["always null", "filled less often"]);
    // A limit that nothing exceeds.
    let limits = ["validate.checks.V16.limit=100", "validate.checks.V17.limit=100"];
    let report = validate(&limits)?.ok()?.json()?;
    assert_eq!(finding(&report, "V16")?["limit"], "at most 100 percentage points shifted, no value gone");
    assert!(sample(&finding(&report, "V17")?).iter().all(|row| row["finding"] != "filled less often"));
    Ok(())
}
