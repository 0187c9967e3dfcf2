//! The one place that prints: results to stdout, errors to stderr, or one JSON document.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this module is where the program prints")]

use std::io::{self, IsTerminal, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;
use serde_json::json;

/// Terminals at least this wide get long cells folded.
const FOLDED_WIDTH_MIN: u16 = 60;

/// How results are printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// Whether progress is shown as bars.
    pub(super) fn has_bars(self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Whether progress is shown as lines.
    pub(super) fn has_lines(self) -> bool {
        !self.quiet && !io::stderr().is_terminal()
    }

    /// Prints a result: the document for `--json`, else what `view` makes of it.
    pub(super) fn result<T: Serialize>(self, value: &T, view: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        Self::text(&if self.json { serde_json::to_string_pretty(value)? } else { view(value) })
    }

    /// Prints a text as the result.
    pub(super) fn text(text: &str) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
            // The reader of a pipe may leave early, as `head` does.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Prints why the command failed, causes included, once.
    pub(super) fn error(self, error: &anyhow::Error, code: u8) {
        let text = sentence(error);
        if self.json {
            println!("{:#}", json!({ "error": text, "exit_code": code }));
        }
        eprintln!("racealpha: {text}");
    }
}

/// An error and its causes, without what a cause only repeats.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// A table for people. Columns whose header begins with `#` hold numbers and are set right.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    // A terminal that reports hardly any width would get one letter a line.
    if table.width().is_some_and(|width| width >= FOLDED_WIDTH_MIN) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(header.iter().map(|name| name.trim_start_matches('#')));
    for row in rows {
        table.add_row(row);
    }
    for (index, name) in header.iter().enumerate() {
        if let (true, Some(column)) = (name.starts_with('#'), table.column_mut(index)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// A count with thin separators: `2 481 306`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Bytes in decimal units: `48.2 MB`.
pub(super) fn bytes(number: u64) -> String {
    indicatif::DecimalBytes(number).to_string()
}

/// Seconds with two digits below ten and one above.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.2} s") } else { format!("{seconds:.1} s") }
}

/// Bytes per second, as megabytes.
pub(super) fn rate(bytes: u64, seconds: f64) -> String {
    // Precision beyond 2^53 bytes does not show in a rate.
    let megabytes = indicatif::DecimalBytes(bytes).0.to_string().parse::<f64>().unwrap_or(0.0) / 1e6;
    if seconds > 0.0 { format!("{:.0} MB/s", megabytes / seconds) } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_three() {
        assert_eq!([count(0), count(999), count(1000), count(2_481_306)], ["0", "999", "1 000", "2 481 306"]);
    }

    #[test]
    fn a_cause_that_repeats_its_error_is_printed_once() {
        let error = anyhow::anyhow!("no space left").context("cannot write x: no space left");
        assert_eq!(sentence(&error), "cannot write x: no space left");
    }
}
