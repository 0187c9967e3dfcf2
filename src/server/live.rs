//! What the running job does, for everybody who watches: a snapshot at any time, and messages from then on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::broadcast;

use crate::pipeline::{RunId, RunRecord};
use crate::progress::{Counters, Event, Step};

/// Messages that a slow client may fall behind by before it gets a new snapshot.
const MESSAGES_KEPT: usize = 256;
/// Pieces of work that a snapshot lists; a run has some dozens.
const WORKS_MAX: usize = 500;
/// Warnings that a snapshot lists.
const WARNINGS_MAX: usize = 100;

/// The job under way.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Running {
    pub(super) run_id: RunId,
    pub(super) command: String,
    pub(super) started: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum WorkState {
    Running,
    Done,
    Stopped,
}

/// A piece of work as clients see it.
#[derive(Debug, Serialize)]
struct WorkView<'a> {
    id: usize,
    step: Step,
    name: &'a str,
    state: WorkState,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Serialize)]
struct Counts {
    rows: u64,
    bytes: u64,
    rows_expected: Option<u64>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct IdentifiedCounts {
    id: usize,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Clone, Serialize)]
struct Warning {
    step: Step,
    message: String,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Message<'a> {
    Snapshot {
        running: Option<&'a Running>,
        works: Vec<WorkView<'a>>,
        warnings: &'a [Warning],
        last: Option<&'a RunRecord>,
    },
    RunStarted(&'a Running),
    Work {
        work: WorkView<'a>,
    },
    Counters {
        works: Vec<IdentifiedCounts>,
    },
    Warning(&'a Warning),
    RunEnded {
        run: &'a RunRecord,
    },
}

#[derive(Debug)]
struct Work {
    step: Step,
    name: String,
    state: WorkState,
    counters: Arc<Counters>,
    /// Fixed when it ended.
    seconds: Option<f64>,
}

impl Work {
    fn counts(&self) -> Counts {
        Counts {
            rows: self.counters.rows(),
            bytes: self.counters.bytes(),
            rows_expected: self.counters.rows_expected(),
            seconds: self.seconds.unwrap_or_else(|| self.counters.elapsed().as_secs_f64()),
        }
    }

    fn view(&self, id: usize) -> WorkView<'_> {
        WorkView { id, step: self.step, name: &self.name, state: self.state, counts: self.counts() }
    }
}

#[derive(Debug, Default)]
struct State {
    running: Option<Running>,
    works: Vec<Work>,
    warnings: Vec<Warning>,
    last: Option<RunRecord>,
}

/// The state of the job, and who watches it.
#[derive(Debug)]
pub(super) struct Live {
    state: Mutex<State>,
    messages: broadcast::Sender<Arc<str>>,
}

impl Live {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), messages: broadcast::Sender::new(MESSAGES_KEPT) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn running(&self) -> Option<Running> {
        self.state().running.clone()
    }

    /// A snapshot as a message, and all messages after it.
    pub(super) fn watch(&self) -> (String, broadcast::Receiver<Arc<str>>) {
        let state = self.state();
        // While the state is locked nothing is sent, so nothing is missed and nothing told twice.
        let messages = self.messages.subscribe();
        let message = Message::Snapshot {
            running: state.running.as_ref(),
            works: state.works.iter().enumerate().map(|(id, work)| work.view(id)).collect(),
            warnings: &state.warnings,
            last: state.last.as_ref(),
        };
        (as_text(&message), messages)
    }

    fn send(&self, message: &Message<'_>) {
        // An error only says that nobody watches.
        let _ = self.messages.send(as_text(message).into());
    }

    /// A job begins.
    pub(super) fn begin(&self, running: Running) {
        let mut state = self.state();
        self.send(&Message::RunStarted(&running));
        *state = State { running: Some(running), ..State::default() };
    }

    /// A step of it reported.
    pub(super) fn take(&self, event: Event) {
        let mut state = self.state();
        let (step, name, ended) = match event {
            Event::Started { step, name, counters } => {
                if state.works.len() < WORKS_MAX {
                    let work = Work { step, name, state: WorkState::Running, counters, seconds: None };
                    self.send(&Message::Work { work: work.view(state.works.len()) });
                    state.works.push(work);
                }
                return;
            }
            Event::Warning { step, message } => {
                let warning = Warning { step, message };
                self.send(&Message::Warning(&warning));
                if state.warnings.len() < WARNINGS_MAX {
                    state.warnings.push(warning);
                }
                return;
            }
            Event::Finished { step, name, .. } => (step, name, WorkState::Done),
            Event::Stopped { step, name } => (step, name, WorkState::Stopped),
        };
        let is_it = |work: &Work| work.step == step && work.name == name && work.state == WorkState::Running;
        if let Some(id) = state.works.iter().rposition(is_it) {
            let work = &mut state.works[id];
            work.state = ended;
            work.seconds = Some(work.counters.elapsed().as_secs_f64());
            tracing::info!(rows = work.counters.rows(), bytes = work.counters.bytes(), "{step} {name}: {ended:?}");
            self.send(&Message::Work { work: work.view(id) });
        }
    }

    /// Tells how far the running work is.
    pub(super) fn tick(&self) {
        let state = self.state();
        let open = state.works.iter().enumerate().filter(|(_, work)| work.state == WorkState::Running);
        let works: Vec<_> = open.map(|(id, work)| IdentifiedCounts { id, counts: work.counts() }).collect();
        if !works.is_empty() {
            self.send(&Message::Counters { works });
        }
    }

    /// The job ended.
    pub(super) fn end(&self, run: RunRecord) {
        let mut state = self.state();
        self.send(&Message::RunEnded { run: &run });
        state.running = None;
        state.last = Some(run);
    }
}

fn as_text(message: &Message<'_>) -> String {
    // Strings and numbers: there is nothing that JSON cannot hold.
    serde_json::to_string(message).unwrap_or_default()
}
