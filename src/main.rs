//! Parses, starts telemetry, runs, and maps the error to an exit code; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    racealpha::cli::main()
}
