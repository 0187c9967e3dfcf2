//! Tells a webhook how a rebuild ended, or that none began.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::oneshot;

use super::{Context, RunRecord, RunState};
use crate::config::NotifyOn;

/// How often it is tried, how long one attempt takes at most, and the first pause between two; each further one is
/// twice as long.
const ATTEMPTS_MAX: u32 = 4;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How long the only attempt takes at most when the program is about to end.
const LAST_TIMEOUT: Duration = Duration::from_secs(3);

/// What the webhook is told.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A rebuild ended.
    Ended(RunRecord),
    /// No rebuild began at this time, and one should have.
    Missed(DateTime<Utc>),
}

/// What is posted, as JSON.
#[derive(Debug, Serialize)]
struct Summary {
    event: NotifyOn,
    #[serde(flatten)]
    run: Option<RunRecord>,
    /// When a rebuild should have begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<DateTime<Utc>>,
    /// `user@host:port/database` without the password.
    server: Option<String>,
    /// The live table.
    table: String,
}

/// Posts the summary where the pipeline file wants it. A webhook that does not answer fails nothing; the log says so.
///
/// When the context is cancelled meanwhile it is given up; when it was before, there is one short attempt.
pub async fn notify(context: &Context, notice: Notice) {
    let Some(notify) = &context.pipeline.notify else { return };
    let (event, run, missed) = match notice {
        Notice::Missed(time) => (NotifyOn::Missed, None, Some(time)),
        Notice::Ended(run) => {
            let event = match run.state {
                RunState::Done => NotifyOn::Success,
                RunState::Blocked => NotifyOn::Blocked,
                _ => NotifyOn::Failure,
            };
            (event, Some(run), None)
        }
    };
    if !notify.on.contains(&event) {
        return;
    }
    let server = context.settings.target().ok().map(ToString::to_string);
    let summary = Summary { event, run, missed, server, table: context.pipeline.target.table.to_string() };
    let told = if context.cancel.is_cancelled() {
        attempt(&notify.url, &Arc::new(summary), LAST_TIMEOUT).await.map_err(Refusal::reason)
    } else {
        tokio::select! {
            told = attempts(&notify.url, Arc::new(summary)) => told,
            () = context.cancel.cancelled() => Err("the program was told to end".to_owned()),
        }
    };
    match told {
        Ok(()) => tracing::info!("the webhook was told"),
        // The URL may hold a secret and the error may hold the URL: neither is shown.
        Err(reason) => tracing::warn!("the webhook of [notify] was not told: {reason}"),
    }
}

/// Why it was not told, and whether it may be later.
#[derive(Debug)]
enum Refusal {
    Final(String),
    ForNow(String),
}

impl Refusal {
    fn reason(self) -> String {
        match self {
            Self::Final(reason) | Self::ForNow(reason) => reason,
        }
    }
}

async fn attempts(url: &str, summary: Arc<Summary>) -> Result<(), String> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS_MAX {
        match attempt(url, &summary, ATTEMPT_TIMEOUT).await {
            Err(Refusal::ForNow(_)) => {}
            other => return other.map_err(Refusal::reason),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    let last = attempt(url, &summary, ATTEMPT_TIMEOUT).await;
    last.map_err(|refusal| format!("{}, {ATTEMPTS_MAX} times", refusal.reason()))
}

/// One attempt, on a thread that nobody has to wait for.
async fn attempt(url: &str, summary: &Arc<Summary>, timeout: Duration) -> Result<(), Refusal> {
    let (tell, told) = oneshot::channel();
    let (url, summary) = (url.to_owned(), Arc::clone(summary));
    std::thread::spawn(move || {
        // Who waits for it may have given up.
        let _ = tell.send(post(&url, &summary, timeout));
    });
    told.await.unwrap_or_else(|_| Err(Refusal::Final("the attempt was cut off".to_owned())))
}

fn post(url: &str, summary: &Summary, timeout: Duration) -> Result<(), Refusal> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(timeout)).build().into();
    match agent.post(url).send_json(summary) {
        Ok(_) => Ok(()),
        // What the receiver refuses it refuses again.
        Err(ureq::Error::StatusCode(status)) if (400..500).contains(&status) && status != 429 => {
            Err(Refusal::Final(format!("it answered {status}")))
        }
        Err(ureq::Error::StatusCode(status)) => Err(Refusal::ForNow(format!("it answered {status}"))),
        Err(ureq::Error::BadUri(_)) => Err(Refusal::Final("its URL cannot be read".to_owned())),
        Err(_) => Err(Refusal::ForNow("it could not be reached".to_owned())),
    }
}
