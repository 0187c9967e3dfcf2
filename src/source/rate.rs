//! A bound on what a pull takes from the server per second, over all its connections.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Shares so many bytes per second between connections. Time that nobody uses is not saved up.
#[derive(Debug)]
pub struct RateLimit {
    bytes_per_second: f64,
    /// When all bytes so far are paid for.
    paid: Mutex<Instant>,
}

impl RateLimit {
    /// A limit of so many bytes per second; more than nothing.
    pub fn new(bytes_per_second: f64) -> Self {
        Self { bytes_per_second, paid: Mutex::new(Instant::now()) }
    }

    /// Waits until these bytes, and all that others took before, are within the limit.
    pub async fn spend(&self, bytes: u64) {
        sleep_until(self.charge(Instant::now(), bytes)).await;
    }

    /// When bytes that came `now` are paid for.
    fn charge(&self, now: Instant, bytes: u64) -> Instant {
        #[allow(clippy::cast_precision_loss, reason = "a few bytes more or less in 2^53 do not count")]
        let price = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = (*paid).max(now) + price;
        *paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_for_those_before_them_and_idle_time_is_not_saved() {
        let limit = RateLimit::new(1000.0);
        let start = Instant::now() + Duration::from_secs(60);
        let after = |bytes| limit.charge(start, bytes).duration_since(start).as_millis();
        assert_eq!([after(100), after(400), after(500)], [100, 500, 1000]);
        let later = start + Duration::from_secs(3600);
        assert_eq!(limit.charge(later, 2000).duration_since(later).as_secs(), 2);
    }
}
