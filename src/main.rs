//! Parses, starts telemetry, runs, and maps the error to an exit code; nothing else.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    racealpha::cli::main()
}
