//! Results as text for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::housekeeping;
use super::output::{bytes, count, rate, seconds, table};
use crate::fixtures::FixtureReport;
use crate::pipeline::{
    DemoReport, ExportReport, PullMode, PullReport, Pushed, RebuildReport, RunRecord, RunState, StatusReport,
    TargetLook, TestReport, TransformReport, ValidateReport,
};
use crate::push::{
    InsertReport, MergeCounts, MergeReport, PushMode, PushReport, RollbackReport, SwapReport, ViewsReport,
};
use crate::transform::PhaseReport;
use crate::validate::Verdict;

/// Sample rows of a finding that are shown.
const SAMPLE_ROWS_MAX: usize = 3;

pub(super) fn status(report: &StatusReport) -> String {
    let mut text = String::new();
    for (name, server) in [("source", &report.source), ("target", &report.target)] {
        let state = if server.reachable { "ok" } else { "not reachable" };
        line(&mut text, name, &format!("{state}  {}  {}", server.server.as_deref().unwrap_or("-"), server.detail));
    }
    match &report.live {
        Some(live) => line(
            &mut text,
            "live",
            &format!("{}  {}  {}", live.table, rows_about(live.rows_estimated), bytes(live.bytes)),
        ),
        None if report.target.reachable => line(&mut text, "live", "not there yet; the first push creates it"),
        None => {}
    }
    for backup in report.backup.iter().chain(&report.older_backups) {
        line(&mut text, "backup", &housekeeping::backup(backup));
    }
    if report.backup.is_none() && report.target.reachable {
        line(&mut text, "backup", "none");
    }
    for leftover in &report.leftovers {
        line(&mut text, "leftover", &housekeeping::leftover(leftover));
    }
    let version =
        report.version.map_or("empty; `racealpha pull` fills it".to_owned(), |version| format!("version {version}"));
    line(&mut text, "lake", &format!("{}  {version}", report.lake));
    if let Some(run) = &report.last_run {
        line(&mut text, "last run", &format!("{}  {}  {}", run.id, run.command, state(run.state)));
    }
    if !report.tables.is_empty() {
        let rows = report.tables.iter().map(|lake| {
            vec![
                lake.name.clone(),
                count(lake.rows),
                lake.columns.to_string(),
                bytes(lake.bytes),
                lake.files.to_string(),
                lake.version.to_string(),
                lake.created.format("%Y-%m-%d %H:%M").to_string(),
                lake.origin.clone(),
            ]
        });
        let header = ["table", "#rows", "#columns", "#size", "#files", "#version", "written (UTC)", "from"];
        text.push_str(&table(&header, rows));
    }
    text
}

pub(super) fn line(text: &mut String, name: &str, value: &str) {
    text.push_str(&format!("{name:<9} {value}\n"));
}

pub(super) fn rows_about(rows: Option<u64>) -> String {
    rows.map_or("rows unknown".to_owned(), |rows| format!("about {} rows", count(rows)))
}

fn state(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Done => "done",
        RunState::Failed => "failed",
        RunState::Blocked => "blocked by validation",
        RunState::Interrupted => "interrupted",
    }
}

pub(super) fn pull(report: &PullReport) -> String {
    let rows = report.tables.iter().map(|(name, table)| {
        vec![
            name.clone(),
            count(table.rows),
            bytes(table.wire_bytes),
            bytes(table.parquet_bytes),
            table.files.to_string(),
            pulled_how(&table.mode),
        ]
    });
    let changed = report
        .tables
        .iter()
        .flat_map(|(name, table)| table.drift.iter().map(move |change| format!("\n{name}: {change}")));
    let changed: String = changed.collect();
    let wire = report.tables.values().map(|table| table.wire_bytes).sum();
    let kept = match report.kept_files {
        0 => String::new(),
        files => format!("\n{files} files were there from a pull that was interrupted"),
    };
    format!(
        "{}{changed}{kept}\nlake version {}: snapshot of {}, {} over {} connections ({})",
        table(&["table", "#rows", "#from the server", "#in the lake", "#files", "how"], rows),
        report.version,
        report.snapshot.time,
        seconds(report.seconds),
        report.connections,
        rate(wire, report.seconds)
    )
}

fn pulled_how(mode: &PullMode) -> String {
    match mode {
        PullMode::Full { why: None } => "all rows".to_owned(),
        PullMode::Full { why: Some(why) } => format!("all rows: {why}"),
        PullMode::Incremental(merged) => {
            let new = merged.received - merged.replaced.min(merged.received);
            let removed = merged.removed.map_or(String::new(), |removed| format!(", {} removed", count(removed)));
            format!("{} new, {} changed{removed}", count(new), count(merged.replaced))
        }
    }
}

pub(super) fn transform(report: &TransformReport) -> String {
    let rows = report.phases.iter().map(|phase| {
        let tables: Vec<String> = phase
            .tables
            .iter()
            .map(|table| match table.rows {
                Some(rows) => format!("{} {}", table.name, count(rows)),
                None => format!("{} (view)", table.name),
            })
            .collect();
        vec![phase.phase.clone(), seconds(phase.seconds), tables.join(", ")]
    });
    let mut text = table(&["phase", "#time", "tables and rows"], rows);
    match &report.dataset {
        Some(dataset) => {
            text.push_str(&format!(
                "\nlake version {}: {} with {} rows, {} columns, {}, in {}",
                dataset.version,
                dataset.name,
                count(dataset.rows),
                dataset.columns,
                bytes(dataset.parquet_bytes),
                seconds(report.seconds)
            ));
            for output in &report.outputs {
                text.push_str(&format!("\nand {} with {} rows", output.name, count(output.rows)));
            }
        }
        None => text
            .push_str(&format!("\nno dataset was published, because not all phases ran; {}", seconds(report.seconds))),
    }
    text
}

pub(super) fn test(report: &TestReport) -> String {
    let mut text = String::new();
    for tested in &report.tables {
        let rows = tested.columns.iter().map(|column| {
            vec![column.name.clone(), column.data_type.clone(), count(column.nulls), percent(column.nulls, tested.rows)]
        });
        text.push_str(&format!("{}: {} rows\n", tested.name, count(tested.rows)));
        text.push_str(&table(&["column", "type", "#nulls", "#share"], rows));
        text.push('\n');
    }
    let phases: Vec<String> =
        report.phases.iter().map(|phase| format!("{} {}", phase.phase, seconds(phase.seconds))).collect();
    text.push_str(&format!("ran {} on a sample of {}; published nothing", phases.join(", "), count(report.sample)));
    text
}

/// A share in tenths of a percent, by whole numbers.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let tenths = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{} %", tenths / 10, tenths % 10)
}

pub(super) fn validate(report: &ValidateReport) -> String {
    let rows = report.findings.iter().map(|finding| {
        let verdict = match finding.verdict {
            Verdict::Pass => "ok",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        vec![
            finding.id.clone(),
            verdict.to_owned(),
            finding.check.clone(),
            finding.observed.clone(),
            finding.limit.clone(),
        ]
    });
    let mut text = table(&["id", "verdict", "check", "observed", "allowed"], rows);
    for finding in report.findings.iter().filter(|finding| !finding.sample.is_empty()) {
        text.push_str(&format!("\n{} {}:", finding.id, finding.check));
        for row in finding.sample.iter().take(SAMPLE_ROWS_MAX) {
            text.push_str(&format!("\n  {}", serde_json::Value::Object(row.clone())));
        }
    }
    text.push_str(&format!(
        "\nlake version {}: {} rows; {}",
        report.version,
        count(report.rows),
        if report.blocked { "a push is blocked" } else { "a push may go ahead" }
    ));
    text
}

fn swap_line(swap: &SwapReport) -> String {
    format!(
        "waited {:.1} ms for the lock and held it {:.1} ms, attempt {}",
        swap.lock_wait_ms, swap.batch_ms, swap.attempts
    )
}

pub(super) fn push(pushed: &Pushed) -> String {
    match pushed {
        Pushed::Swapped(report) => swapped(report),
        Pushed::Merged(report) => merged(report),
        Pushed::Inserted(report) => inserted(report),
    }
}

fn views_line(text: &mut String, views: &ViewsReport) {
    let names = views.views.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let what = if views.created { "made" } else { "refreshed" };
    line(text, "views", &format!("{what} {names} in {}", seconds(views.seconds)));
}

fn inserted(report: &InsertReport) -> String {
    let mut text = String::new();
    let (new, present) = (count(report.inserted), count(report.present));
    line(&mut text, "inserted", &format!("{new} rows into {}; {present} were there already", report.table));
    line(&mut text, "copy", &format!("{} in {}", bytes(report.bytes), seconds(report.seconds)));
    if let Some(views) = &report.views {
        views_line(&mut text, views);
    }
    for note in &report.notes {
        line(&mut text, "note", note);
    }
    text
}

fn merged(report: &MergeReport) -> String {
    let mut text = String::new();
    line(&mut text, "merged", &format!("{} has {} rows: {}", report.table, count(report.rows), counts(report.counts)));
    line(
        &mut text,
        "copy",
        &format!(
            "{} in {} ({}), verify {}",
            bytes(report.bytes),
            seconds(report.copy_seconds),
            rate(report.bytes, report.copy_seconds),
            seconds(report.verify_seconds)
        ),
    );
    line(
        &mut text,
        "merge",
        &format!("{}, attempt {}; {} of log", seconds(report.merge_seconds), report.attempts, bytes(report.wal_bytes)),
    );
    line(&mut text, "backup", &format!("{}; `racealpha rollback` merges it back", report.backup.table));
    nulled(&mut text, &report.nulled);
    if let Some(views) = &report.views {
        views_line(&mut text, views);
    }
    for note in &report.notes {
        line(&mut text, "note", note);
    }
    for warning in &report.warnings {
        line(&mut text, "warning", warning);
    }
    text
}

fn counts(counts: MergeCounts) -> String {
    format!(
        "{} inserted, {} updated, {} deleted, {} as they were",
        count(counts.inserted),
        count(counts.updated),
        count(counts.deleted),
        count(counts.unchanged)
    )
}

/// Values that became null because they did not fit.
fn nulled(text: &mut String, nulled: &BTreeMap<String, u64>) {
    for (column, values) in nulled {
        line(text, "null", &format!("{} values of {column} did not fit and are null", count(*values)));
    }
}

fn swapped(report: &PushReport) -> String {
    let mut text = String::new();
    let what = match report.mode {
        PushMode::First => "created",
        _ => "replaced",
    };
    line(&mut text, what, &format!("{} with {} rows", report.table, count(report.rows)));
    line(
        &mut text,
        "copy",
        &format!(
            "{} in {} ({})",
            bytes(report.bytes),
            seconds(report.copy_seconds),
            rate(report.bytes, report.copy_seconds)
        ),
    );
    line(
        &mut text,
        "indexes",
        &format!(
            "{}, analyze {}, verify {}",
            seconds(report.index_seconds),
            seconds(report.analyze_seconds),
            seconds(report.verify_seconds)
        ),
    );
    line(&mut text, "swap", &swap_line(&report.swap));
    nulled(&mut text, &report.nulled);
    if let Some(backup) = &report.backup {
        line(&mut text, "backup", &format!("{}; `racealpha rollback` puts it back", backup.table));
    }
    if let Some(views) = &report.views {
        views_line(&mut text, views);
    }
    for note in &report.notes {
        line(&mut text, "note", note);
    }
    for warning in &report.warnings {
        line(&mut text, "warning", warning);
    }
    text
}

pub(super) fn rollback(report: &RollbackReport) -> String {
    let mut text = String::new();
    line(&mut text, "live", &format!("{} is what it was before run {}", report.table, report.undone_run));
    line(&mut text, "backup", &format!("{}; `racealpha rollback` again is a redo", report.backup));
    match report.merged {
        Some(merged) => line(&mut text, "rows", &counts(merged)),
        None => line(&mut text, "swap", &swap_line(&report.swap)),
    }
    for note in &report.notes {
        line(&mut text, "note", note);
    }
    for warning in &report.warnings {
        line(&mut text, "warning", warning);
    }
    text
}

pub(super) fn rebuild(report: &RebuildReport) -> String {
    let pull_rows = report.pull.tables.values().map(|table| table.rows).sum();
    let pull_bytes = report.pull.tables.values().map(|table| table.wire_bytes).sum();
    let (made_rows, made_bytes) = report.run.dataset.as_ref().map_or((0, 0), |made| (made.rows, made.parquet_bytes));
    let step = |name: &str, rows: u64, size: u64, time: f64| {
        let (size, speed) = if size > 0 { (bytes(size), rate(size, time)) } else { (String::new(), String::new()) };
        vec![name.to_owned(), count(rows), size, seconds(time), speed]
    };
    let push = &report.push;
    let (push_rows, push_bytes, push_seconds) = match push {
        Pushed::Swapped(push) => {
            let seconds = push.copy_seconds + push.index_seconds + push.analyze_seconds + push.verify_seconds;
            (push.rows, push.bytes, seconds)
        }
        Pushed::Merged(push) => (push.rows, push.bytes, push.copy_seconds + push.verify_seconds + push.merge_seconds),
        Pushed::Inserted(push) => (push.inserted, push.bytes, push.seconds),
    };
    let rows = [
        step("pull", pull_rows, pull_bytes, report.pull.seconds),
        step("run", made_rows, made_bytes, report.run.seconds),
        step("validate", report.validate.rows, 0, report.validate.seconds),
        step("push", push_rows, push_bytes, push_seconds),
    ];
    let warnings = report.validate.findings.iter().filter(|finding| finding.verdict == Verdict::Warn).count();
    format!(
        "{}\n{}validate  {} checks, {warnings} warnings\nrun       {} in {}",
        table(&["step", "#rows", "#bytes", "#time", "#rate"], rows),
        self::push(push),
        report.validate.findings.len(),
        report.run_id,
        seconds(report.seconds)
    )
}

pub(super) fn export(report: &ExportReport) -> String {
    let place = match report.files.as_slice() {
        [file] => file.display().to_string(),
        files => format!("{} files", files.len()),
    };
    format!(
        "{}: {} rows, {}, {place}, in {}",
        report.table,
        count(report.rows),
        bytes(report.bytes),
        seconds(report.seconds)
    )
}

pub(super) fn query(schema: &SchemaRef, batches: &[RecordBatch], more: bool) -> anyhow::Result<String> {
    let options = FormatOptions::default().with_null("");
    let header: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| if field.data_type().is_numeric() { format!("#{}", field.name()) } else { field.name().clone() })
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayFormatter<'_>> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect::<Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>());
        }
    }
    let mut text = table(&header, rows);
    if more {
        text.push_str("\nthere are more rows; --format csv prints all");
    }
    Ok(text)
}

pub(super) fn history(runs: &[RunRecord]) -> String {
    let rows = runs.iter().map(|run| {
        let steps: Vec<String> =
            run.steps.iter().map(|step| format!("{} {}", step.step, seconds(step.seconds))).collect();
        let version = run.version_after.map_or(String::new(), |version| version.to_string());
        vec![
            run.id.to_string(),
            run.command.clone(),
            state(run.state).to_owned(),
            steps.join(", "),
            version,
            run.error.clone().unwrap_or_default(),
        ]
    });
    table(&["run", "command", "state", "steps", "#version", "error"], rows)
}

pub(super) fn fixtures(report: &FixtureReport) -> String {
    let rows = report.tables.iter().map(|made| vec![made.table.clone(), count(made.rows), bytes(made.bytes)]);
    format!("{}\nin {}", table(&["table", "#rows", "#as CSV"], rows), seconds(report.seconds))
}

pub(super) fn demo(report: &DemoReport) -> String {
    let mut text = format!(
        "PostgreSQL {}, private; synthetic source of {} rows loaded in {}\n\n{}\n\n{}\n\n{}\n",
        report.postgres,
        count(report.fixtures.tables.iter().map(|made| made.rows).sum()),
        seconds(report.fixtures.seconds),
        rebuild(&report.rebuild),
        phases(&report.rebuild.run.phases, report.views.as_ref()),
        before_and_after(&report.before, &report.after)
    );
    // Writing to a String cannot fail.
    let _ = match &report.kept {
        Some(kept) => write!(
            text,
            "\nThe server is still running. Try next:\n  export DATABASE_URL={} RACEALPHA_LAKE={}\n  \
             racealpha status\n  racealpha preview\n  racealpha rollback\n  \
             racealpha query \"SELECT location, count(*) AS runners FROM race_training_dataset GROUP BY ALL\"\n\
             To remove it: {}",
            kept.url, kept.lake, kept.removal
        ),
        None => write!(
            text,
            "\nThe server is removed again. Try next:\n  racealpha demo --keep      leaves it running, to look around\n  \
             DATABASE_URL=postgres://… racealpha status      looks at your own database"
        ),
    };
    text
}

/// The phases in the order in which they ran, a line for each table; the last are the views that the server made.
fn phases(in_lake: &[PhaseReport], views: Option<&PhaseReport>) -> String {
    let rows = in_lake.iter().chain(views).map(|phase| {
        let names: Vec<&str> = phase.tables.iter().map(|table| table.name.as_str()).collect();
        let made: Vec<String> = phase.tables.iter().map(|table| table.rows.map_or("view".to_owned(), count)).collect();
        vec![phase.phase.clone(), seconds(phase.seconds), names.join("\n"), made.join("\n")]
    });
    let mut text = table(&["phase", "#time", "tables", "#rows"], rows);
    if let Some(views) = views {
        text.push_str(&format!(
            "\n{} ran on the server after the push: {} materialized views with {} rows",
            views.phase,
            views.tables.len(),
            count(views.tables.iter().filter_map(|view| view.rows).sum())
        ));
    }
    text
}

fn before_and_after(before: &TargetLook, after: &TargetLook) -> String {
    let dates =
        |look: &TargetLook| look.dates.as_ref().map_or(String::new(), |(first, last)| format!("{first} to {last}"));
    let fact = |name: &str, before: String, after: String| vec![name.to_owned(), before, after];
    let mut rows = vec![
        fact("rows", count(before.rows), count(after.rows)),
        fact("races from", dates(before), dates(after)),
        fact("columns", before.columns.to_string(), after.columns.to_string()),
        fact("indexes", before.indexes.to_string(), after.indexes.to_string()),
        fact("policies", before.policies.to_string(), after.policies.to_string()),
        fact("grants", before.grants.to_string(), after.grants.to_string()),
    ];
    for ((name, old), (_, new)) in before.filled.iter().zip(&after.filled) {
        rows.push(fact(&format!("rows with {name}"), count(*old), count(*new)));
    }
    table(&["the live table", "#before", "#after"], rows)
}
