//! The demo shows everything and leaves nothing behind, and its dashboard has data in it.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::support::{Ran, Served, Workspace};

const VIEWS: [&str; 6] = [
    "runner_history",
    "horse_current_form",
    "jockey_current_form",
    "trainer_current_form",
    "jockey_horse_connection_stats",
    "jockey_trainer_connection_stats",
];

/// A small demo, with its temporary folders in the workspace.
fn demo(workspace: &Workspace, flags: &[&str], more: &[&str]) -> Command {
    let mut command = workspace.command(flags.iter().chain(&["demo", "--races", "300"]).chain(more));
    command.env("TMPDIR", workspace.path());
    command
}

/// The phases by their files.
fn phase_files() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("sql"))? {
        let name = file?.file_name().to_string_lossy().into_owned();
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            names.extend(name.strip_suffix(".sql").map(str::to_owned));
        }
    }
    Ok(names)
}

fn nothing_is_left(workspace: &Workspace) -> Result<()> {
    let left: Vec<_> = fs::read_dir(workspace.path())?.flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

/// The cells of the first row of a table that has this cell in this column.
fn cells(text: &str, column: usize, cell: &str) -> Option<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with('│'));
    let mut cells =
        rows.map(|row| row.trim_matches('│').split('┆').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    cells.find(|cells| cells.get(column).is_some_and(|found| found == cell))
}

#[test]
fn a_demo_shows_every_phase_and_the_views_that_the_server_made() -> Result<()> {
    let workspace = Workspace::new()?;
    let ran: Ran = demo(&workspace, &[], &[]).output()?.into();
    let text = ran.ok()?.stdout;
    let phases = phase_files()?;
    assert!(phases.len() >= 10, "{phases:?}");
    for phase in &phases {
        let row = cells(&text, 0, phase).with_context(|| format!("{phase} is not shown in {text}"))?;
        assert!(row[1].ends_with(" s"), "{phase} says how long it took: {row:?}");
        assert!(!row[2].is_empty() && !row[3].is_empty(), "{phase} says what it made: {row:?}");
    }
    for view in VIEWS {
        let row = cells(&text, 2, view).with_context(|| format!("{view} is not shown in {text}"))?;
        assert!(row[3].starts_with(|digit: char| ('1'..='9').contains(&digit)), "it has rows: {row:?}");
    }
    assert!(
        text.contains("07_current_form_views ran on the server after the push: 6 materialized views with "),
        "{text}"
    );
    nothing_is_left(&workspace)
}

#[test]
fn a_served_demo_has_data_in_its_dashboard_until_it_is_ended() -> Result<()> {
    let workspace = Workspace::new()?;
    let served = Served::of(demo(&workspace, &["--json"], &["--serve"]), None)?;
    let status = served.get("/api/status")?.json()?;
    assert_eq!(status["last_run"]["command"], "rebuild", "{status:#}");
    assert_eq!(status["last_run"]["state"], "done", "{status:#}");
    assert!(status["backup"].is_object(), "{status:#}");
    let dataset = served.get("/api/tables/race_training_dataset")?;
    assert_eq!(dataset.status, 200, "{dataset:?}");
    let lake = Path::new(status["lake"].as_str().context("lake")?).to_owned();
    assert!(lake.canonicalize()?.starts_with(workspace.path().canonicalize()?), "{}", lake.display());
    // As `user@host:port/database`.
    let server = status["source"]["server"].as_str().and_then(|url| url.split(['@', '/']).nth(1)).context("server")?;
    TcpStream::connect(server).with_context(|| format!("nobody answers at {server}"))?;

    let (code, rest) = served.end()?;
    assert_eq!(code, Some(0), "{rest}");
    assert!(TcpStream::connect(server).is_err(), "the server is still there");
    nothing_is_left(&workspace)?;

    let report: Value = serde_json::from_str(&rest).with_context(|| format!("not JSON: {rest}"))?;
    let (in_lake, views) = (&report["rebuild"]["run"]["phases"], &report["views"]);
    let made = in_lake.as_array().context("phases")?.iter().chain([views]);
    let made: BTreeSet<_> = made.filter_map(|phase| phase["phase"].as_str().map(str::to_owned)).collect();
    assert_eq!(made, phase_files()?);
    let views = views["tables"].as_array().context("views")?;
    let names: Vec<_> = views.iter().filter_map(|view| view["name"].as_str()).collect();
    assert_eq!(names, VIEWS);
    assert!(views.iter().all(|view| view["rows"].as_u64().is_some_and(|rows| rows > 0)), "{views:?}");
    assert_eq!(report["rebuild"]["push"]["views"]["created"], true);
    assert_eq!(report["after"]["rows"], report["rebuild"]["run"]["dataset"]["rows"]);
    Ok(())
}
