//! What is left behind and what was removed of it, as text for people.

use super::output::{bytes, table};
use super::views::rows_about;
use crate::pipeline::GcReport;
use crate::push::{BackupStatus, DropReport, LeftAt, Leftover};

/// What a leftover is, in words.
pub(super) fn leftover(leftover: &Leftover) -> String {
    let what = match leftover.left_at {
        LeftAt::Loading => "interrupted before it was complete",
        LeftAt::Ready => "loaded and not swapped; `racealpha push --resume` swaps it in",
        LeftAt::Swapped => "swapped in; only the former backup is left to remove",
        LeftAt::Merged => "merged; only what it was merged from is left to remove",
        LeftAt::RolledBack => "rolled back; nothing is left to do",
    };
    format!(
        "{}  run {} of {}  {}  {what}",
        leftover.schema,
        leftover.run_id,
        leftover.since.format("%Y-%m-%d %H:%M"),
        bytes(leftover.bytes)
    )
}

/// A backup in one line.
pub(super) fn backup(backup: &BackupStatus) -> String {
    format!("{}  {}  {}  since {}", backup.table, rows_about(backup.rows_estimated), bytes(backup.bytes), backup.since)
}

pub(super) fn dropped(report: &DropReport) -> String {
    let lines = report.dropped.iter().map(|dropped| format!("dropped   {}\n", backup(dropped)));
    lines.collect::<String>() + &format!("{} is as it was; there is nothing to roll back to", report.table)
}

pub(super) fn gc(report: &GcReport) -> String {
    let removed = if report.dry_run { "would be removed" } else { "removed" };
    let lake = report.lake.files.iter().map(|file| vec![file.path.clone(), bytes(file.bytes), removed.to_owned()]);
    let target = report.target.iter().map(|collected| {
        let outcome = collected.kept.as_ref().map_or_else(|| removed.to_owned(), |why| format!("stays: {why}"));
        vec![collected.leftover.schema.clone(), bytes(collected.leftover.bytes), outcome]
    });
    let rows: Vec<_> = lake.chain(target).collect();
    let mut text = if rows.is_empty() { String::new() } else { table(&["what", "#size", "outcome"], rows) + "\n" };
    let gone = report.target.iter().filter(|collected| collected.kept.is_none());
    for unfinished in report.target.iter().flat_map(|collected| &collected.unfinished) {
        text.push_str(&format!("warning   {unfinished}\n"));
    }
    text.push_str(&format!(
        "lake: {} versions and {} files with {} {removed}, {} versions stay\n",
        report.lake.versions.len(),
        report.lake.files.len(),
        bytes(report.lake.bytes),
        report.lake.kept.len()
    ));
    text.push_str(&match &report.target_skipped {
        Some(why) => format!("target: not looked at: {why}"),
        None => format!(
            "target: {} of {} leftovers of pushes {removed}, {}",
            gone.clone().count(),
            report.target.len(),
            bytes(gone.map(|collected| collected.leftover.bytes).sum())
        ),
    });
    text
}
