//! A real TCP proxy before a server, whose connections break as networks do.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes forwarded at once at most.
const PIECE_BYTES: usize = 16 << 10;

/// What becomes of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    None,
    /// It is reset once the server has sent so many bytes.
    Reset(usize),
    /// It ends as if the server had closed it after so many bytes.
    End(usize),
    /// It is reset once so many connections have been opened.
    ResetAt(usize),
    /// Every piece from the server is late by so much.
    Slow(Duration),
}

/// What strikes the connections that are open at one moment; later ones are not touched.
#[derive(Debug, Clone, Copy)]
enum Strike {
    /// The network is gone: both ends are reset.
    Cut,
    /// Nothing passes any more, and nobody is told.
    Freeze,
}

/// A running proxy; it ends with this value.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    task: JoinHandle<()>,
    opened: watch::Sender<usize>,
    /// What strikes, and how many connections had been opened by then.
    struck: watch::Sender<Option<(Strike, usize)>>,
}

impl Proxy {
    /// Stands before the server on `port`; `fault` is asked for each connection by its number.
    pub(crate) async fn start(port: u16, fault: impl Fn(usize) -> Fault + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let own_port = listener.local_addr()?.port();
        let (opened, struck) = (watch::Sender::new(0), watch::Sender::new(None));
        let (counter, strikes) = (opened.clone(), struck.clone());
        let task = tokio::spawn(async move {
            for number in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                let (fault, count) = (fault(number), counter.subscribe());
                let mut strikes = strikes.subscribe();
                counter.send_replace(number + 1);
                let is_struck = async move {
                    let hits = |struck: &Option<(Strike, usize)>| struck.is_some_and(|(_, opened)| number < opened);
                    match strikes.wait_for(hits).await.map(|struck| *struck) {
                        Ok(Some((strike, _))) => strike,
                        _ => std::future::pending().await,
                    }
                };
                // How a broken connection broke is for its two ends to find out.
                tokio::spawn(async move { drop(serve(client, port, fault, count, is_struck).await) });
            }
        });
        Ok(Self { port: own_port, task, opened, struck })
    }

    /// Resets every connection that is open now.
    pub(crate) fn cut(&self) {
        self.struck.send_replace(Some((Strike::Cut, *self.opened.borrow())));
    }

    /// Lets nothing through any more on the connections that are open now, and tells nobody.
    pub(crate) fn freeze(&self) {
        self.struck.send_replace(Some((Strike::Freeze, *self.opened.borrow())));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    client: TcpStream,
    port: u16,
    fault: Fault,
    mut opened: watch::Receiver<usize>,
    is_struck: impl Future<Output = Strike>,
) -> io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    if let Fault::Reset(_) | Fault::ResetAt(_) = fault {
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    }
    let (mut from_server, mut to_server) = server.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    let upwards = async {
        // The server hears that the client has ended, and may still answer.
        drop(tokio::io::copy(&mut from_client, &mut to_server).await);
        drop(to_server.shutdown().await);
        std::future::pending::<()>().await;
    };
    let is_due = async {
        match fault {
            Fault::ResetAt(count) => drop(opened.wait_for(|opened| *opened >= count).await),
            _ => std::future::pending().await,
        }
    };
    // A strike comes before all that happens after it: a client that is killed next must not be heard any more.
    let struck = tokio::select! {
        biased;
        struck = is_struck => struck,
        ended = forward(&mut from_server, &mut to_client, fault) => return ended,
        () = upwards => return Ok(()),
        () = is_due => return Ok(()),
    };
    match struck {
        Strike::Cut => {
            for socket in [from_client.as_ref(), from_server.as_ref()] {
                SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
            }
            Ok(())
        }
        // Both sockets stay open until the proxy goes.
        Strike::Freeze => std::future::pending().await,
    }
}

async fn forward(server: &mut OwnedReadHalf, client: &mut OwnedWriteHalf, fault: Fault) -> io::Result<()> {
    let mut left = match fault {
        Fault::Reset(bytes) | Fault::End(bytes) => bytes,
        Fault::None | Fault::ResetAt(_) | Fault::Slow(_) => usize::MAX,
    };
    let mut piece = vec![0; PIECE_BYTES];
    while left > 0 {
        let room = left.min(PIECE_BYTES);
        let count = server.read(&mut piece[..room]).await?;
        if count == 0 {
            break;
        }
        if let Fault::Slow(pause) = fault {
            tokio::time::sleep(pause).await;
        }
        client.write_all(&piece[..count]).await?;
        left -= count;
    }
    Ok(())
}
