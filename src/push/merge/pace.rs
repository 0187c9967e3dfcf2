//! How fast a merge writes: where there is a limit, its batches are small, and after each it waits until the write-ahead
//! log of the batch is within the limit.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::push::error::PushError;
use crate::schema::TableName;

use super::wal_position;

/// Rows changed by one statement: few enough that what the server keeps in memory for it, such as the checks of foreign
/// keys, stays small.
const BATCH_ROWS: i64 = 20_000;
/// The same where the rate is limited: a few megabytes of log, which is what comes without a pause.
const LIMITED_BATCH_ROWS: i64 = 1_000;
/// The longest wait after a batch; the server ends a transaction that is idle for a minute.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The pace of one attempt.
#[derive(Debug)]
pub(super) struct Pace {
    /// Megabytes of log per second.
    rate: Option<NonZeroU32>,
    /// The time waited so far.
    pub(super) paused: Duration,
}

impl Pace {
    pub(super) fn new(rate: Option<NonZeroU32>) -> Self {
        Self { rate, paused: Duration::ZERO }
    }

    /// Rows to change at once.
    pub(super) fn batch_rows(&self) -> i64 {
        if self.rate.is_some() { LIMITED_BATCH_ROWS } else { BATCH_ROWS }
    }

    /// Runs one batch, and waits until its log is within the limit. What others write meanwhile counts too, for the
    /// disk is the same. Answers the rows that changed.
    pub(super) async fn change(
        &mut self,
        client: &Client,
        table: &TableName,
        step: &'static str,
        sql: &str,
    ) -> Result<u64, PushError> {
        let failed = |source| PushError::at(step, table, source);
        let Some(rate) = self.rate else { return client.execute(sql, &[]).await.map_err(failed) };
        let (started, before) = (Instant::now(), wal_position(client, table).await?);
        let rows = client.execute(sql, &[]).await.map_err(failed)?;
        let written = wal_position(client, table).await?.saturating_sub(before);
        let pause = due(written, rate).saturating_sub(started.elapsed()).min(PAUSE_MAX);
        tokio::time::sleep(pause).await;
        self.paused += pause;
        Ok(rows)
    }

    /// What to tell about the limit.
    pub(super) fn note(&self) -> Option<String> {
        self.rate.filter(|_| !self.paused.is_zero()).map(|rate| {
            let seconds = self.paused.as_secs_f64();
            format!("paused for {seconds:.1} s between batches, for at most {rate} MB of write-ahead log per second")
        })
    }
}

/// How long bytes take at a rate in megabytes per second, which is bytes per microsecond.
pub(in crate::push) fn due(bytes: u64, rate: NonZeroU32) -> Duration {
    Duration::from_micros(bytes / u64::from(rate.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time() {
        let rate = NonZeroU32::new(5).expect("more than nothing");
        assert_eq!(due(10_000_000, rate), Duration::from_secs(2));
    }
}
