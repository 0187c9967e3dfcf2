//! `WS /ws/progress`: a snapshot, then every message. Who is too slow gets a new snapshot; who is gone is dropped.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;

use super::Dashboard;
use super::problem::Problem;

/// Sockets at once.
pub(super) const SOCKETS_MAX: usize = 512;
/// Bytes that a client may send in one message; it has nothing to say.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// Bytes waiting for a client's network; beyond them it counts as slow.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// How long one message may take to leave before the client counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a silent connection is tried, so that proxies keep it and the dead are found.
const PING_EVERY: Duration = Duration::from_secs(20);

pub(super) async fn progress(
    State(dashboard): State<Dashboard>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let place = Arc::clone(&dashboard.sockets).try_acquire_owned();
    let place = place.map_err(|_| Problem::unavailable("too many dashboards are open"))?;
    let upgrade = upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BYTES_MAX);
    Ok(upgrade.on_upgrade(async move |socket| watch(dashboard, socket, place).await))
}

async fn watch(dashboard: Dashboard, mut socket: WebSocket, _place: OwnedSemaphorePermit) {
    let stopped = dashboard.context.cancel.clone();
    let (snapshot, mut messages) = dashboard.jobs.live().watch();
    if !send(&mut socket, Message::text(snapshot)).await {
        return;
    }
    let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
    loop {
        let message = tokio::select! {
            () = stopped.cancelled() => {
                // The client hears of the end either way.
                let _ = send(&mut socket, Message::Close(None)).await;
                return;
            }
            message = messages.recv() => match message {
                Ok(text) => Message::text(text.as_ref()),
                Err(RecvError::Lagged(_)) => {
                    let (snapshot, fresh) = dashboard.jobs.live().watch();
                    messages = fresh;
                    Message::text(snapshot)
                }
                Err(RecvError::Closed) => return,
            },
            // Pongs and chatter; an end or an error ends the loop.
            received = socket.recv() => match received {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
            _ = ping.tick() => Message::Ping(Vec::new().into()),
        };
        if !send(&mut socket, message).await {
            return;
        }
    }
}

/// Whether the client took it in time.
async fn send(socket: &mut WebSocket, message: Message) -> bool {
    matches!(tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await, Ok(Ok(())))
}
