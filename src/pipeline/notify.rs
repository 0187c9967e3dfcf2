//! Tells a webhook how a rebuild ended.

use std::time::Duration;

use serde::Serialize;

use super::{Context, RunRecord, RunState};
use crate::config::NotifyOn;

/// How often it is tried, how long one attempt takes at most, and the first pause between two; each further one is
/// twice as long.
const ATTEMPTS_MAX: u32 = 4;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// What is posted, as JSON.
#[derive(Debug, Serialize)]
struct Summary {
    #[serde(flatten)]
    run: RunRecord,
    /// `user@host:port/database` without the password.
    server: Option<String>,
    /// The live table.
    table: String,
}

/// Posts the summary where the pipeline file wants it. A webhook that does not answer fails no rebuild; the log says so.
pub(super) async fn notify(context: &Context, run: RunRecord) {
    let Some(notify) = &context.pipeline.notify else { return };
    let event = match run.state {
        RunState::Done => NotifyOn::Success,
        RunState::Blocked => NotifyOn::Blocked,
        _ => NotifyOn::Failure,
    };
    if !notify.on.contains(&event) {
        return;
    }
    let url = notify.url.clone();
    let server = context.settings.target().ok().map(ToString::to_string);
    let summary = Summary { run, server, table: context.pipeline.target.table.to_string() };
    match tokio::task::spawn_blocking(move || post(&url, &summary)).await {
        Ok(Ok(())) => tracing::info!("the webhook was told"),
        // The URL may hold a secret and the error may hold the URL: neither is shown.
        Ok(Err(reason)) => tracing::warn!("the webhook of [notify] was not told: {reason}"),
        Err(error) => tracing::warn!(%error, "the webhook of [notify] was not told"),
    }
}

fn post(url: &str, summary: &Summary) -> Result<(), String> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(ATTEMPT_TIMEOUT)).build().into();
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        let reason = match agent.post(url).send_json(summary) {
            Ok(_) => return Ok(()),
            // What the receiver refuses it refuses again.
            Err(ureq::Error::StatusCode(status)) if (400..500).contains(&status) && status != 429 => {
                return Err(format!("it answered {status}"));
            }
            Err(ureq::Error::StatusCode(status)) => format!("it answered {status}"),
            Err(ureq::Error::BadUri(_)) => return Err("its URL cannot be read".to_owned()),
            Err(_) => "it could not be reached".to_owned(),
        };
        if attempt == ATTEMPTS_MAX {
            return Err(format!("{reason}, {ATTEMPTS_MAX} times"));
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
    Ok(())
}
