//! The log: one line per event on stderr, filtered by `RUST_LOG` or `-v`, and the last lines for the dashboard.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, filter::Targets};

/// The filter at each `-v`; the first is the default.
const FILTERS: [&str; 4] = ["warn", "racealpha=info,warn", "racealpha=debug,info", "trace"];
/// Lines that the dashboard can show.
const LINES_KEPT: usize = 5000;
/// Characters of one such line.
const LINE_CHARS_MAX: usize = 2000;

static LINES: LazyLock<LogLines> = LazyLock::new(LogLines::default);

/// Starts the log. `filter`, the value of `RUST_LOG`, beats `-v`; a second call changes nothing.
pub fn start(filter: Option<&str>, verbosity: u8, quiet: bool) {
    let wanted = FILTERS[usize::from(verbosity).min(FILTERS.len() - 1)];
    let default = if quiet { "error" } else { wanted };
    let filter = EnvFilter::new(filter.unwrap_or(default));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .with_filter(filter);
    let kept = Targets::new().with_target("racealpha", Level::INFO).with_default(Level::WARN);
    let started = tracing_subscriber::registry().with(lines).with(Keep.with_filter(kept)).try_init();
    // An error only says that a log is there already.
    drop(started);
}

/// The last lines of this process's log, from `info` on.
pub fn log_lines() -> &'static LogLines {
    &LINES
}

/// One line of the log.
#[derive(Debug, Clone, Serialize)]
pub struct LogLine {
    /// Counts from 1.
    pub number: u64,
    /// When.
    pub time: DateTime<Utc>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// The sentence and its fields.
    pub message: String,
    #[serde(skip)]
    severity: Level,
}

impl LogLine {
    /// Whether the line matters at least as much.
    pub fn is_at_least(&self, level: Level) -> bool {
        self.severity <= level
    }
}

/// Some lines, and where to go on.
#[derive(Debug, Serialize)]
pub struct LogPage {
    /// In order.
    pub lines: Vec<LogLine>,
    /// The number to ask after next.
    pub next: u64,
}

/// A ring of lines.
#[derive(Debug, Default)]
pub struct LogLines {
    ring: Mutex<(u64, VecDeque<LogLine>)>,
}

impl LogLines {
    fn ring(&self) -> MutexGuard<'_, (u64, VecDeque<LogLine>)> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, severity: Level, message: String) {
        let mut ring = self.ring();
        ring.0 += 1;
        let number = ring.0;
        if ring.1.len() == LINES_KEPT {
            ring.1.pop_front();
        }
        let level = match severity {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        ring.1.push_back(LogLine { number, time: Utc::now(), level, message, severity });
    }

    /// The first `limit` wanted lines after the one of this number.
    pub fn page(&self, after: u64, limit: usize, is_wanted: impl Fn(&LogLine) -> bool) -> LogPage {
        let ring = self.ring();
        let newer = ring.1.iter().filter(|line| line.number > after);
        let lines: Vec<LogLine> = newer.filter(|line| is_wanted(line)).take(limit).cloned().collect();
        let next = if lines.len() < limit { ring.0 } else { lines.last().map_or(after, |line| line.number) };
        LogPage { lines, next }
    }

    /// The last `limit` wanted lines.
    pub fn newest(&self, limit: usize, is_wanted: impl Fn(&LogLine) -> bool) -> LogPage {
        let ring = self.ring();
        let mut lines: Vec<LogLine> = ring.1.iter().rev().filter(|line| is_wanted(line)).take(limit).cloned().collect();
        lines.reverse();
        LogPage { lines, next: ring.0 }
    }
}

/// Puts lines into the ring.
struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let Text { mut message, fields } = text;
        message.push_str(&fields);
        if let Some((end, _)) = message.char_indices().nth(LINE_CHARS_MAX) {
            message.truncate(end);
        }
        LINES.push(*event.metadata().level(), message);
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_and_skip_what_is_not_wanted() {
        let lines = LogLines::default();
        for number in 1..=10 {
            let level = if number % 2 == 0 { Level::WARN } else { Level::INFO };
            lines.push(level, format!("line {number}"));
        }
        let numbers = |page: &LogPage| page.lines.iter().map(|line| line.number).collect::<Vec<_>>();
        let first = lines.page(0, 3, |line| line.is_at_least(Level::WARN));
        assert_eq!((numbers(&first), first.next), (vec![2, 4, 6], 6));
        let rest = lines.page(first.next, 3, |line| line.is_at_least(Level::WARN));
        assert_eq!((numbers(&rest), rest.next), (vec![8, 10], 10));
        let newest = lines.newest(2, |line| line.is_at_least(Level::WARN));
        assert_eq!((numbers(&newest), newest.next), (vec![8, 10], 10));
    }

    #[test]
    fn the_ring_forgets_the_oldest() {
        let lines = LogLines::default();
        for number in 0..LINES_KEPT + 5 {
            lines.push(Level::INFO, number.to_string());
        }
        let page = lines.page(0, LINES_KEPT + 5, |_| true);
        assert_eq!((page.lines.len(), page.lines[0].number), (LINES_KEPT, 6));
    }
}
