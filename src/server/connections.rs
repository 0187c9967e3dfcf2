//! Accepts connections: a bounded number, none of which may dawdle, all of which end well.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::SHUTDOWN_TIMEOUT;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// How long a client may take to send a request's head, and to stay silent between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// The pause after the system refused a connection, as when it has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The least that a client must take of what is ready for it: so many bytes within so much time of waiting for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// Serves until cancelled. A client that is slower than `pace` is cut off.
pub(super) async fn serve(listener: TcpListener, router: Router, cancel: &CancellationToken, pace: Pace) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    while !cancel.is_cancelled() {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        let (stream, place) = match accepted {
            (Ok((stream, _)), place) => (stream, place),
            (Err(error), _) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = server.serve_connection(TokioIo::new(Moving::new(stream, pace)), service).with_upgrades();
        let stop = cancel.clone();
        connections.spawn(async move {
            let mut connection = pin!(connection);
            // Clients break off; that is no error of ours.
            tokio::select! {
                _ = connection.as_mut() => {}
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(place);
        });
    }
    drop(listener);
    // Who is not done by then is cut off when the runtime ends.
    connections.close();
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, connections.wait()).await;
}

/// A connection whose writes fail when the client does not keep the pace: what its answer holds, such as the place of a
/// download, is free again. Time in which nothing waits for the client does not count.
struct Moving {
    stream: TcpStream,
    pace: Pace,
    /// Bytes that it took, and how long it was waited for, since it last had taken enough.
    taken: usize,
    waited: Duration,
    /// Since when it is waited for now, and until when it may be.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Moving {
    fn new(stream: TcpStream, pace: Pace) -> Self {
        Self { stream, pace, taken: 0, waited: Duration::ZERO, waiting: None }
    }

    fn watch(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Poll::Ready(result) = written else {
            let left = self.pace.time.saturating_sub(self.waited);
            let begun = || (Instant::now(), Box::pin(tokio::time::sleep(left)));
            let (_, end) = self.waiting.get_or_insert_with(begun);
            return end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()));
        };
        if let Some((since, _)) = self.waiting.take() {
            self.waited += since.elapsed();
        }
        self.taken += result.as_ref().copied().unwrap_or(0);
        if self.taken >= self.pace.bytes {
            (self.taken, self.waited) = (0, Duration::ZERO);
        }
        Poll::Ready(result)
    }
}

impl AsyncRead for Moving {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Moving {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const TIME: Duration = Duration::from_millis(100);
    /// Far above that, so that only a connection that stays meets it.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// What a client reads at once.
    const PIECE: usize = 1024;

    /// A server of one endless download at this pace, a client that asked for it, and the place that it takes.
    struct Endless {
        client: TcpStream,
        places: Arc<Semaphore>,
        cancel: CancellationToken,
        served: tokio::task::JoinHandle<()>,
    }

    impl Endless {
        async fn download(pace: Pace) -> Self {
            let places = Arc::new(Semaphore::new(1));
            let held = Arc::clone(&places);
            let endless = move || {
                let place = Arc::clone(&held).try_acquire_owned();
                let pieces = futures::stream::repeat_with(move || {
                    let _held = &place;
                    Ok::<_, io::Error>(Bytes::from(vec![0; 64 << 10]))
                });
                std::future::ready(Body::from_stream(pieces))
            };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let cancel = CancellationToken::new();
            let stop = cancel.clone();
            let router = Router::new().route("/", get(endless));
            let served = tokio::spawn(async move { serve(listener, router, &stop, pace).await });
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            client.read_exact(&mut [0; PIECE]).await.unwrap();
            Self { client, places, cancel, served }
        }

        async fn end(self) {
            drop(self.client);
            self.cancel.cancel();
            self.served.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_gives_its_place_back() {
        let endless = Endless::download(Pace { bytes: 1, time: TIME }).await;
        let free = tokio::time::timeout(PATIENCE, endless.places.acquire()).await;
        assert!(free.is_ok(), "the download still has its place");
        drop(free);
        endless.end().await;
    }

    #[tokio::test]
    async fn a_client_that_reads_too_slowly_is_cut_off() {
        let mut endless = Endless::download(Pace { bytes: usize::MAX, time: TIME }).await;
        let read = async { while matches!(endless.client.read(&mut [0; PIECE]).await, Ok(1..)) {} };
        assert!(tokio::time::timeout(PATIENCE, read).await.is_ok(), "it is still served");
        endless.end().await;
    }

    #[tokio::test]
    async fn a_client_that_keeps_the_pace_is_served_for_as_long_as_it_likes() {
        let mut endless = Endless::download(Pace { bytes: 1, time: PATIENCE }).await;
        let begun = Instant::now();
        while begun.elapsed() < 3 * TIME {
            assert!(endless.client.read(&mut [0; PIECE]).await.unwrap() > 0);
        }
        assert_eq!(endless.places.available_permits(), 0);
        endless.end().await;
    }
}
