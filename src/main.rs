//! Parses, starts telemetry, runs, and maps the error to an exit code; nothing else.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    racealpha::cli::main()
}
