//! What a run tells the world while it works: typed events and live counters.
//!
//! Steps report into a [`Progress`]; terminal bars, log lines and the run file read from it, and none of them is
//! known to the steps. Row and byte counts are atomic counters that a reader samples when it likes, so a fast
//! producer never waits for a slow consumer; only starts, ends and warnings travel through the bounded channel.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Events that a slow consumer may fall behind by before it loses the oldest. A run has a few hundred events in all.
const EVENTS_KEPT: usize = 4096;

/// One of the four steps of a rebuild, or the making of the synthetic source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Making the synthetic source.
    Fixtures,
    /// Postgres to the lake.
    Pull,
    /// Phases over the lake.
    Transform,
    /// Checks over the dataset.
    Validate,
    /// What a push would change.
    Preview,
    /// The dataset to Postgres.
    Push,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fixtures => "fixtures",
            Self::Pull => "pull",
            Self::Transform => "run",
            Self::Validate => "validate",
            Self::Preview => "preview",
            Self::Push => "push",
        })
    }
}

/// Rows and bytes done so far in one piece of work: a table, a phase, a load.
#[derive(Debug)]
pub struct Counters {
    rows: AtomicU64,
    bytes: AtomicU64,
    /// Rows expected in all; 0 when unknown. An estimate until the end.
    rows_expected: AtomicU64,
    started: Instant,
}

impl Counters {
    /// Rows done so far.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes done so far: wire bytes for a pull or push.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Rows expected in all, if anybody knows.
    pub fn rows_expected(&self) -> Option<u64> {
        Some(self.rows_expected.load(Ordering::Relaxed)).filter(|rows| *rows > 0)
    }

    /// Time since the work began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Something that happened in a run.
#[derive(Debug, Clone)]
pub enum Event {
    /// A piece of work began; its counters live on for whoever shows them.
    Started {
        /// The step it belongs to.
        step: Step,
        /// A table, phase or check.
        name: String,
        /// Rows and bytes so far.
        counters: Arc<Counters>,
    },
    /// It ended well.
    Finished {
        /// The step it belongs to.
        step: Step,
        /// A table, phase or check.
        name: String,
        /// The final counts.
        counters: Arc<Counters>,
        /// How long it took.
        seconds: f64,
    },
    /// It ended without finishing: an error or a cancellation, reported by whoever handles it.
    Stopped {
        /// The step it belongs to.
        step: Step,
        /// A table, phase or check.
        name: String,
    },
    /// Something a person should know and the run survives.
    Warning {
        /// The step it belongs to.
        step: Step,
        /// One sentence.
        message: String,
    },
}

/// Where steps report to. Clones share one channel.
#[derive(Debug, Clone)]
pub struct Progress {
    events: broadcast::Sender<Event>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// A progress channel; without subscribers its events go nowhere.
    pub fn new() -> Self {
        Self { events: broadcast::Sender::new(EVENTS_KEPT) }
    }

    /// All events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Begins a piece of work; dropping the answer without [`Work::finish`] reports it as stopped.
    pub fn start(&self, step: Step, name: impl Into<String>, rows_expected: Option<u64>) -> Work {
        let name = name.into();
        let counters = Arc::new(Counters {
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rows_expected: AtomicU64::new(rows_expected.unwrap_or(0)),
            started: Instant::now(),
        });
        self.send(Event::Started { step, name: name.clone(), counters: Arc::clone(&counters) });
        Work { progress: self.clone(), step, name, counters, finished: false }
    }

    /// Reports something a person should know and the run survives.
    pub fn warn(&self, step: Step, message: impl Into<String>) {
        let message = message.into();
        tracing::warn!(%step, "{message}");
        self.send(Event::Warning { step, message });
    }

    fn send(&self, event: Event) {
        // An error only says that nobody listens.
        let _ = self.events.send(event);
    }
}

/// One piece of work under way.
#[derive(Debug)]
pub struct Work {
    progress: Progress,
    step: Step,
    name: String,
    counters: Arc<Counters>,
    finished: bool,
}

impl Work {
    /// Adds to the counts; cheap enough to call per batch from any thread.
    pub fn add(&self, rows: u64, bytes: u64) {
        self.counters.rows.fetch_add(rows, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Corrects the number of rows expected in all.
    pub fn expect_rows(&self, rows: u64) {
        self.counters.rows_expected.store(rows, Ordering::Relaxed);
    }

    /// Rows and bytes so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Reports the work as done.
    pub fn finish(mut self) {
        self.finished = true;
        self.progress.send(Event::Finished {
            step: self.step,
            name: self.name.clone(),
            counters: Arc::clone(&self.counters),
            seconds: self.counters.elapsed().as_secs_f64(),
        });
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.finished {
            self.progress.send(Event::Stopped { step: self.step, name: self.name.clone() });
        }
    }
}
