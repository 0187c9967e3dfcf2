//! The command line: arguments in, results and exit codes out.

mod args;
mod bars;
mod commands;
mod exit;
mod housekeeping;
mod output;
mod preview_view;
mod serve_command;
mod signals;
mod views;

use std::process::ExitCode;

use args::Arguments;
use output::Output;

/// Threads of the runtime: connections wait, and encoding has threads of its own.
const RUNTIME_THREADS: usize = 2;

/// Parses the arguments, runs the command, prints its result.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse_all();
    let filter = crate::config::early_setting("RUST_LOG");
    crate::telemetry::start(filter.as_deref(), arguments.verbose, arguments.quiet);
    let output = Output::new(arguments.json, arguments.quiet);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(arguments, &output)),
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let code = exit::code_of(&error);
            output.error(&error, code);
            ExitCode::from(code)
        }
    }
}
