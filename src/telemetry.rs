//! The log: one line per event on stderr, filtered by `RUST_LOG` or `-v`.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// The filter at each `-v`; the first is the default.
const FILTERS: [&str; 4] = ["warn", "racealpha=info,warn", "racealpha=debug,info", "trace"];

/// Starts the log. `filter`, the value of `RUST_LOG`, beats `-v`; a second call changes nothing.
pub fn start(filter: Option<&str>, verbosity: u8, quiet: bool) {
    let wanted = FILTERS[usize::from(verbosity).min(FILTERS.len() - 1)];
    let default = if quiet { "error" } else { wanted };
    let filter = EnvFilter::new(filter.unwrap_or(default));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    // An error only says that a log is there already.
    drop(started);
}
