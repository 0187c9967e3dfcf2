//! One job at a time, in the background: who asked may leave and come back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::live::{Live, Running};
use super::problem::Problem;
use crate::lake::LakeLock;
use crate::pipeline::{self, Context, Notice, PipelineError, RunId, RunRecord, notify};
use crate::progress::Progress;

/// How often counters are told.
const TICK: Duration = Duration::from_millis(250);

/// The job under way.
#[derive(Debug)]
struct Current {
    running: Running,
    cancel: CancellationToken,
    ended: watch::Receiver<bool>,
}

/// How many jobs ended how, and how long the last one of each command took.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) ended: BTreeMap<(String, &'static str), u64>,
    pub(super) seconds: BTreeMap<String, f64>,
}

/// The jobs of this server.
#[derive(Debug, Clone)]
pub(super) struct Jobs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    context: Context,
    live: Live,
    current: Mutex<Option<Current>>,
    tally: Mutex<Tally>,
    /// Counts starts and ends of jobs.
    changes: AtomicU64,
    /// Webhooks that are being told.
    notices: TaskTracker,
}

/// A job that was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) run_id: RunId,
    ended: watch::Receiver<bool>,
}

impl Started {
    /// Waits until the job has ended, however it ended.
    pub(super) async fn ended(mut self) {
        // An error says that the job is gone, which is an end too.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Jobs {
    pub(super) fn new(context: Context) -> Self {
        Self(Arc::new(Shared {
            context,
            live: Live::new(),
            current: Mutex::default(),
            tally: Mutex::default(),
            changes: AtomicU64::new(0),
            notices: TaskTracker::new(),
        }))
    }

    /// A number that is another one after each start and end of a job.
    pub(super) fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// Tells the webhook, beside whatever runs next.
    pub(super) fn notify(&self, notice: Notice) {
        let context = self.0.context.clone();
        self.0.notices.spawn(async move { notify(&context, notice).await });
    }

    pub(super) fn live(&self) -> &Live {
        &self.0.live
    }

    pub(super) fn tally(&self) -> Tally {
        lock(&self.0.tally).clone()
    }

    /// Starts a job unless one is running here or in another process.
    ///
    /// # Errors
    /// A problem that names the running one.
    pub(super) fn start<F>(&self, command: &str, job: F) -> Result<Started, Problem>
    where
        F: AsyncFnOnce(&Context) -> Result<(), PipelineError> + Send + 'static,
    {
        let mut current = lock(&self.0.current);
        if let Some(current) = &*current {
            return Err(Problem::running(Some(current.running.run_id.clone()), current.running.command.clone()));
        }
        if let Some(holder) = self.0.context.lake().ok().as_ref().and_then(LakeLock::holder) {
            return Err(Problem::running(None, holder));
        }
        if self.0.context.cancel.is_cancelled() {
            return Err(Problem::unavailable("the server is stopping"));
        }
        let run_id = RunId::for_now();
        let cancel = self.0.context.cancel.child_token();
        let context = Context {
            run_id: Some(run_id.clone()),
            progress: Progress::new(),
            cancel: cancel.clone(),
            ..self.0.context.clone()
        };
        let running = Running { run_id: run_id.clone(), command: command.to_owned(), started: Utc::now() };
        let (tell_end, ended) = watch::channel(false);
        *current = Some(Current { running: running.clone(), cancel, ended: ended.clone() });
        drop(current);
        tracing::info!("{command} begins, run {run_id}");
        self.0.changes.fetch_add(1, Ordering::AcqRel);
        self.0.live.begin(running.clone());
        let jobs = self.clone();
        tokio::spawn(async move {
            let shown = tokio::spawn(show(jobs.clone(), context.progress.subscribe()));
            // A thread of its own: a step that computes holds up no request, and a bug in one ends the job alone.
            let (job_context, runtime) = (context.clone(), Handle::current());
            let work = move || runtime.block_on(job(&job_context));
            let result = tokio::task::spawn_blocking(work).await;
            let result = result.unwrap_or_else(|error| Err(PipelineError::Worker(error)));
            let record =
                RunRecord::of_ended(&context, &running.run_id, &running.command, running.started, &result).await;
            // The last sender goes, and the reports end.
            drop(context);
            let _ = shown.await;
            jobs.end(record, &tell_end);
        });
        Ok(Started { run_id, ended })
    }

    fn end(&self, record: RunRecord, tell_end: &watch::Sender<bool>) {
        let seconds = record.finished.unwrap_or_else(Utc::now) - record.started;
        let mut tally = lock(&self.0.tally);
        *tally.ended.entry((record.command.clone(), record.state.name())).or_default() += 1;
        tally.seconds.insert(record.command.clone(), seconds.as_seconds_f64());
        drop(tally);
        match &record.error {
            None => tracing::info!("{} ended: {}", record.command, record.state.name()),
            Some(error) => tracing::warn!("{} ended: {}: {error}", record.command, record.state.name()),
        }
        if record.command == pipeline::REBUILD {
            self.notify(Notice::Ended(record.clone()));
        }
        self.0.changes.fetch_add(1, Ordering::AcqRel);
        // First the place is free, then clients hear of the end: they may start the next job at once.
        *lock(&self.0.current) = None;
        self.0.live.end(record);
        let _ = tell_end.send(true);
    }

    /// Cancels the running job, or only the one named; what was cancelled.
    pub(super) fn cancel(&self, run_id: Option<&RunId>) -> Option<RunId> {
        let current = lock(&self.0.current);
        let current = current.as_ref().filter(|job| run_id.is_none_or(|wanted| *wanted == job.running.run_id))?;
        current.cancel.cancel();
        Some(current.running.run_id.clone())
    }

    /// Waits for the running job and for the webhook to be told of it, but not for longer than this.
    pub(super) async fn ended(&self, at_most: Duration) {
        let ended = lock(&self.0.current).as_ref().map(|current| current.ended.clone());
        let wait = async {
            if let Some(mut ended) = ended {
                // An error says that the job is gone, which is an end too.
                let _ = ended.wait_for(|ended| *ended).await;
            }
            self.0.notices.close();
            self.0.notices.wait().await;
        };
        // Either way the server stops now; the lake stays consistent.
        let _ = tokio::time::timeout(at_most, wait).await;
    }
}

/// Passes the steps' reports on until the last reporter is gone.
async fn show(jobs: Jobs, mut events: tokio::sync::broadcast::Receiver<crate::progress::Event>) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => jobs.live().take(event),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = tick.tick() => jobs.live().tick(),
        }
    }
}
