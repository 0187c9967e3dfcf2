//! A preview as text for a person who has to decide.

use super::output::{bytes, count, seconds, table};
use super::views::{line, percent};
use crate::pipeline::{ColumnChange, PreviewReport, Quantiles};
use crate::push::PushMode;

/// Columns that are shown; the rest is counted.
const COLUMNS_MAX: usize = 25;
/// The stability index from which a column's numbers count as distributed otherwise.
const SHIFTED: f64 = 0.25;

pub(super) fn preview(report: &PreviewReport) -> String {
    let plan = &report.plan;
    let mut text = String::new();
    match plan.mode {
        PushMode::First => line(&mut text, "target", &format!("{} does not exist; the push creates it", plan.table)),
        _ if !plan.live_exists => line(&mut text, "target", &format!("{} does not exist", plan.table)),
        _ => line(
            &mut text,
            "target",
            &format!("{}, {} rows, {}", plan.table, count(report.live_rows), bytes(plan.live_bytes)),
        ),
    }
    line(&mut text, "dataset", &format!("lake version {}, {} rows", report.version, count(report.dataset_rows)));
    let (added, removed, changed) = (count(report.added), count(report.removed), count(report.changed));
    match plan.mode {
        PushMode::InsertMissing => line(&mut text, "rows", &format!("{added} inserted, all others as they are")),
        _ => line(&mut text, "rows", &format!("{added} added, {removed} removed, {changed} changed")),
    }
    let mode = match plan.mode {
        PushMode::First => "first push",
        PushMode::Swap => "swap",
        PushMode::Merge => "merge",
        PushMode::InsertMissing => "insert missing rows",
    };
    line(&mut text, "mode", &format!("{mode}: {}", report.locks));
    let time = report.push_seconds_estimated.map_or_else(String::new, |time| format!(", and {}", seconds(time)));
    line(
        &mut text,
        "needs",
        &format!("about {} of the server's disk for a while{time}", bytes(plan.disk_bytes_needed)),
    );
    let columns = &plan.columns;
    let converted = columns.converted.iter().map(|of| format!("{} from {} to {}", of.column, of.from, of.to));
    let converted: Vec<String> = converted.collect();
    let misfits: Vec<String> =
        report.misfits.iter().map(|(column, values)| format!("{} values of {column}", count(*values))).collect();
    let added_columns: Vec<String> = columns.added.iter().map(|(name, of)| format!("{name} {of}")).collect();
    for (name, list) in [
        ("new", &added_columns),
        ("ignored", &columns.ignored),
        ("server's", &columns.filled_by_server),
        ("kept", &columns.kept),
        ("null", &columns.left_null),
        ("types", &converted),
        ("misfits", &misfits),
        ("carried", &plan.carried),
    ] {
        if !list.is_empty() {
            line(&mut text, name, &list.join(", "));
        }
    }
    if let Some(backup) = &plan.replaces_backup {
        line(&mut text, "replaces", &format!("the backup {} since {}", backup.table, backup.since));
    }
    for note in &plan.notes {
        line(&mut text, "note", note);
    }
    changes(&mut text, report);
    if plan.blockers.is_empty() {
        text.push_str(&format!("nothing stands in the way; `racealpha push {}` goes ahead", report.name));
    } else {
        text.push_str("a push is refused:");
        for blocker in &plan.blockers {
            text.push_str(&format!("\n  {blocker}"));
        }
    }
    text
}

/// The columns that change, and those whose numbers lie elsewhere.
fn changes(text: &mut String, report: &PreviewReport) {
    let both = report.live_rows.saturating_sub(report.removed);
    let changing: Vec<_> = report.columns.iter().filter(|column| column.changed > 0 || is_shifted(column)).collect();
    if changing.is_empty() {
        return;
    }
    let rows = changing.iter().take(COLUMNS_MAX).map(|column| {
        vec![
            column.name.clone(),
            count(column.changed),
            percent(column.changed, both),
            arrow(&percent(column.nulls_before, report.live_rows), &percent(column.nulls_after, report.dataset_rows)),
            column
                .mean_before
                .zip(column.mean_after)
                .map_or(String::new(), |(before, after)| arrow(&number(before), &number(after))),
            column
                .quantiles_before
                .zip(column.quantiles_after)
                .map_or(String::new(), |(before, after)| arrow(&spread(before), &spread(after))),
            column.stability_index.map_or(String::new(), |index| format!("{index:.2}")),
        ]
    });
    let header = ["column", "#rows changed", "#share", "#nulls", "#mean", "#5 %, half, 95 %", "#shift"];
    text.push_str(&table(&header, rows));
    if changing.len() > COLUMNS_MAX {
        text.push_str(&format!("\nand {} more columns; --json shows all", changing.len() - COLUMNS_MAX));
    }
    text.push('\n');
    let shifted: Vec<&str> =
        report.columns.iter().filter(|column| is_shifted(column)).map(|column| column.name.as_str()).collect();
    if !shifted.is_empty() {
        line(text, "shifted", &format!("{} (stability index of {SHIFTED} or more)", shifted.join(", ")));
    }
}

fn is_shifted(column: &ColumnChange) -> bool {
    column.stability_index.is_some_and(|index| index >= SHIFTED)
}

/// Before and after, or what both are.
fn arrow(before: &str, after: &str) -> String {
    if before == after { before.to_owned() } else { format!("{before} → {after}") }
}

fn spread(quantiles: Quantiles) -> String {
    format!("{} {} {}", number(quantiles.p05), number(quantiles.p50), number(quantiles.p95))
}

/// Four digits that count, as a person reads them.
fn number(value: f64) -> String {
    let text = if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
