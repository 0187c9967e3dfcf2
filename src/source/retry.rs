//! What a failure of the source calls for, and how long to wait before it is tried again.

use std::time::Duration;

use rand::RngExt;
use tokio_postgres::error::SqlState;

use super::SourceError;
use crate::pg::{CatalogError, is_connection_lost};

/// The pause after the first failure; each further one is twice as long, give or take a fifth.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A transaction took longer than it may; the library has no name for it.
const TRANSACTION_TIMEOUT: &str = "25P04";

/// What may help after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The same over another session of the same snapshot.
    Again,
    /// The same in two halves: the statement took longer than it may.
    Halves,
    /// Everything with a new snapshot: this one is gone.
    StartOver,
    /// Nothing that a program could do.
    None,
}

impl SourceError {
    /// What may help.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::SnapshotLost | Self::Rewritten { .. } => Remedy::StartOver,
            Self::Stalled { .. } | Self::NoSessionLeft { .. } | Self::StandbyConflict { .. } => Remedy::Again,
            Self::Connect(error) if error.is_unreachable() => Remedy::Again,
            Self::Copy { source, .. } if source.code() == Some(&SqlState::QUERY_CANCELED) => Remedy::Halves,
            Self::Copy { source, .. } | Self::Snapshot(source) | Self::Catalog(CatalogError::Query { source, .. })
                if is_transient(source) =>
            {
                Remedy::Again
            }
            Self::Snapshot(source) if is_unknown_snapshot(source) => Remedy::StartOver,
            _ => Remedy::None,
        }
    }
}

/// Whether a server says that it does not, or no longer, have a snapshot.
pub(super) fn is_unknown_snapshot(error: &tokio_postgres::Error) -> bool {
    let words =
        [SqlState::INVALID_PARAMETER_VALUE, SqlState::UNDEFINED_OBJECT, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE];
    error.code().is_some_and(|code| words.contains(code))
}

/// Whether an error says nothing about what was asked: the connection or the server went, or has no room.
pub(super) fn is_transient(error: &tokio_postgres::Error) -> bool {
    let passing = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::OUT_OF_MEMORY,
        SqlState::CONFIGURATION_LIMIT_EXCEEDED,
    ];
    let is_passing = |code: &SqlState| passing.contains(code) || code.code() == TRANSACTION_TIMEOUT;
    is_connection_lost(error) || error.code().is_some_and(is_passing)
}

/// Pauses that grow.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Where so many failures have been already.
    pub fn after(failures: u32) -> Self {
        Self { failures }
    }

    /// Failures so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The pause after one more failure.
    pub fn pause(&mut self) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures += 1;
        doubled.min(PAUSE_MAX).mul_f64(rand::rng().random_range(0.8..1.2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let mut backoff = Backoff::default();
        let pauses: Vec<f64> = (0..40).map(|_| backoff.pause().as_secs_f64()).collect();
        assert!((0.16..0.24).contains(&pauses[0]) && (0.32..0.48).contains(&pauses[1]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= 6.0) && pauses[39] >= 4.0, "{pauses:?}");
        assert_eq!(backoff.failures(), 40);
        assert!((0.32..0.48).contains(&Backoff::after(1).pause().as_secs_f64()));
    }
}
