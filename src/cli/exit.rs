//! Errors to exit codes.

use crate::pipeline::{Failure, PipelineError};

/// The exit code of a failed command: 1 failed, 2 wrong usage or settings, 3 blocked by validation, 4 a server could
/// not be reached, 5 another run holds the lock, 6 loaded and not swapped, 130 interrupted.
pub(super) fn code_of(error: &anyhow::Error) -> u8 {
    let failure = error
        .downcast_ref::<PipelineError>()
        .map(PipelineError::failure)
        .or_else(|| error.downcast_ref::<crate::config::ConfigError>().map(|_| Failure::Usage));
    match failure {
        None | Some(Failure::Failed) => 1,
        Some(Failure::Usage) => 2,
        Some(Failure::Blocked) => 3,
        Some(Failure::Unreachable) => 4,
        Some(Failure::Locked) => 5,
        Some(Failure::NotSwapped) => 6,
        Some(Failure::Interrupted) => 130,
    }
}
