//! Finding a server that lets us in: hosts, addresses and ways to encrypt are tried in turn, and errors say what to do.
//!
//! ```text
//! for each host ─▶ each of its addresses ─▶ each way of encryption: socket, TLS, login, kind of server
//! ```

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{Ready, ready};
use rand::seq::SliceRandom;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::TlsConnect;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use super::copy_tap::{AnnouncedProcess, CopyTap, block_queue};
use super::database_url::{DatabaseUrl, Host, Place, TcpOptions, Wanted, socket_file};
use super::encryption::{Encryptor, ServerStream, Way};

/// An error of any kind.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What every session is asked first: its process, and what `target_session_attrs` is about.
const LOOK: &str = "SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(), \
     pg_catalog.current_setting('transaction_read_only')";
/// What the client library says when a server asks for a password and there is none.
const NO_PASSWORD: &str = "password missing";

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The connection string, or what completes it, is wrong; no value is quoted.
    #[error("the connection string cannot be used: {what}")]
    Unusable {
        /// What is wrong with it.
        what: String,
    },
    /// Nobody answers there.
    #[error("cannot reach {server}; is it running, and are host and port right?")]
    Unreachable {
        /// `user@host:port/database`.
        server: String,
        /// The network's error, or each host's.
        source: BoxError,
    },
    /// A server is there, and is just starting or has no connection left.
    #[error("{server} is just starting, or has no connection left")]
    NotReady {
        /// `user@host:port/database`.
        server: String,
        /// The server's message.
        source: BoxError,
    },
    /// Servers answer, and none is of the kind that `target_session_attrs` asks for.
    #[error("{server}: no server there is {wanted}, as target_session_attrs asks for")]
    WrongKind {
        /// `user@host:port/database`.
        server: String,
        /// The parameter's value.
        wanted: String,
    },
    /// The connection cannot be encrypted as `sslmode` asks for.
    #[error("cannot make a connection to {server} that is as safe as sslmode asks for")]
    Encryption {
        /// `user@host:port/database`.
        server: String,
        /// What is wrong with the server's certificate, or that it has none.
        source: io::Error,
    },
    /// The server refused the login.
    #[error("{server} refuses the login; check user, password and database name")]
    LoginRefused {
        /// `user@host:port/database`.
        server: String,
        /// The server's message.
        source: tokio_postgres::Error,
    },
    /// The server asks for a password.
    #[error("{server} asks for a password; put it into the connection string, PGPASSWORD or ~/.pgpass")]
    NoPassword {
        /// `user@host:port/database`.
        server: String,
    },
    /// A certificate or key could not be read.
    #[error("cannot use the trusted certificates{}", .path.as_ref().map(|path| format!(" of {path}")).unwrap_or_default())]
    Certificates {
        /// The file.
        path: Option<String>,
        /// What went wrong.
        source: BoxError,
    },
    /// A pooler that gives every transaction another server session, on which a session's settings and locks are lost.
    #[error(
        "{server} is a pooler in transaction mode, which only reading can use; connect directly or in session mode \
         (port 5432 of hosted poolers)"
    )]
    TransactionPooler {
        /// `user@host:port/database`.
        server: String,
    },
    /// The server answered, but the session could not be set up.
    #[error("{server} ended the session while it was set up")]
    SetUp {
        /// `user@host:port/database`.
        server: String,
        /// The server's message.
        source: tokio_postgres::Error,
    },
}

impl ConnectError {
    /// Whether trying again later may help.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NotReady { .. } | Self::WrongKind { .. } | Self::SetUp { .. })
    }
}

/// Whether an error means that the server or the way to it is gone, so that trying again may help.
pub fn is_connection_lost(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => true,
        Some(code) => {
            let shutdown = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
            shutdown.contains(code) || code.code().starts_with("08")
        }
    }
}

/// A connection that a server has let in.
pub(super) struct Connected {
    pub(super) client: Client,
    /// Drives the socket.
    pub(super) driver: JoinHandle<()>,
    /// Rows of the running COPY.
    pub(super) copied: mpsc::Receiver<Vec<u8>>,
    /// Where it was found, with the address.
    pub(super) host: Host,
    /// Whether another process answers than the one that let us in, as behind a pooler.
    pub(super) is_pooled: bool,
}

/// Why one place was left for the next.
enum Failure {
    /// No connection, or none within the time.
    Socket(BoxError),
    /// The server wants less or more encryption, or its certificate is not good.
    Encryption(ConnectError),
    /// It is not the kind of server that is wanted.
    WrongKind,
    /// No other place will do better.
    Final(ConnectError),
}

impl Failure {
    /// Whether a server is there, and lets nobody in yet or nobody more.
    fn is_not_ready(&self) -> bool {
        let Self::Socket(error) = self else { return false };
        let error = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
        error.is_some_and(|code| [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS].contains(code))
    }

    fn says(&self, host: &Host) -> String {
        match self {
            Self::Socket(error) => format!("{host}: {}", chain(error.as_ref())),
            Self::WrongKind => format!("{host}: not the kind of server that is wanted"),
            Self::Encryption(error) | Self::Final(error) => format!("{host}: {}", chain(error)),
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Tries the hosts of a connection string until one lets us in.
///
/// # Errors
/// [`ConnectError`] by what a person can do about it.
pub(super) async fn connect(url: &DatabaseUrl, application: &str) -> Result<Connected, ConnectError> {
    let mut encryptor = url.encryption.encryptor()?;
    let passes: &[Wanted] = match url.wanted {
        Wanted::PreferStandby => &[Wanted::Standby, Wanted::Any],
        ref wanted => std::slice::from_ref(wanted),
    };
    let mut failures: Vec<(Host, Failure)> = Vec::new();
    for wanted in passes {
        failures.clear();
        let mut hosts = url.hosts.clone();
        if url.is_shuffled {
            hosts.shuffle(&mut rand::rng());
        }
        for host in hosts {
            let places = match places(url, host.clone()).await {
                Ok(places) => places,
                Err(error) => {
                    failures.push((host, Failure::Socket(error.into())));
                    continue;
                }
            };
            for place in places {
                match connect_place(url, &place, application, *wanted, &mut encryptor).await {
                    Ok(connected) => return Ok(connected),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(failure) => failures.push((place, failure)),
                }
            }
        }
    }
    let server = url.to_string();
    if failures.iter().any(|(_, failure)| matches!(failure, Failure::WrongKind)) {
        return Err(ConnectError::WrongKind { server, wanted: url.wanted.to_string() });
    }
    let is_not_ready = failures.iter().any(|(_, failure)| failure.is_not_ready());
    let source = match failures.pop() {
        Some((_, Failure::Socket(error))) if failures.is_empty() => error,
        last => {
            failures.iter().chain(&last).map(|(host, failure)| failure.says(host)).collect::<Vec<_>>().join("; ").into()
        }
    };
    Err(match is_not_ready {
        true => ConnectError::NotReady { server, source },
        false => ConnectError::Unreachable { server, source },
    })
}

/// The host once for each of its addresses.
async fn places(url: &DatabaseUrl, host: Host) -> io::Result<Vec<Host>> {
    let Place::Tcp { name, address: None } = &host.place else { return Ok(vec![host]) };
    let found = within(url.connect_timeout, lookup_host((name.as_str(), host.port))).await?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    if url.is_shuffled {
        addresses.shuffle(&mut rand::rng());
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    let place = |address: &SocketAddr| Place::Tcp { name: name.clone(), address: Some(address.ip()) };
    Ok(addresses.iter().map(|address| Host { place: place(address), ..host.clone() }).collect())
}

/// Tries the ways of encryption at one address.
async fn connect_place(
    url: &DatabaseUrl,
    host: &Host,
    application: &str,
    wanted: Wanted,
    encryptor: &mut Encryptor,
) -> Result<Connected, Failure> {
    let ways = match &host.place {
        Place::Tcp { .. } => url.encryption.mode.ways(),
        // What never leaves the machine is not encrypted.
        Place::Unix(_) => &[Way::Plain],
    };
    let mut last = None;
    for way in ways {
        let connecting = async { Ok(connect_once(url, host, application, wanted, encryptor, *way).await) };
        let outcome = within(url.connect_timeout, connecting).await;
        match outcome.unwrap_or_else(|error| Err(Failure::Socket(error.into()))) {
            Err(Failure::Encryption(error)) => last = Some(error),
            outcome => return outcome,
        }
    }
    Err(last.map_or(Failure::WrongKind, Failure::Final))
}

async fn connect_once(
    url: &DatabaseUrl,
    host: &Host,
    application: &str,
    wanted: Wanted,
    encryptor: &mut Encryptor,
    way: Way,
) -> Result<Connected, Failure> {
    let network = |error: io::Error| Failure::Socket(error.into());
    let stream = match &host.place {
        Place::Unix(folder) => {
            let stream = UnixStream::connect(socket_path(folder, host.port)).await.map_err(network)?;
            encryptor.begin(stream, way, "").await
        }
        Place::Tcp { name, address } => {
            let address = address.ok_or_else(|| Failure::Socket("the name has no address".into()))?;
            let stream = TcpStream::connect((address, host.port)).await.map_err(network)?;
            tune(&stream, url.tcp).map_err(network)?;
            encryptor.begin(stream, way, name).await
        }
    };
    let stream = stream.map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => {
            Failure::Encryption(ConnectError::Encryption { server: url.to_string(), source })
        }
        _ => Failure::Socket(source.into()),
    })?;
    login(url, host, application, wanted, stream).await
}

/// The file of the socket; the abstract name space's names begin with a NUL.
fn socket_path(folder: &Path, port: u16) -> PathBuf {
    let path = socket_file(folder, port);
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => PathBuf::from(format!("\0{name}")),
        None => path,
    }
}

fn tune(stream: &TcpStream, options: TcpOptions) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if let Some(keepalive) = options.keepalive {
        let keepalive = TcpKeepalive::new()
            .with_time(keepalive.idle)
            .with_interval(keepalive.interval)
            .with_retries(keepalive.count);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(options.user_timeout)?;
    Ok(())
}

async fn login(
    url: &DatabaseUrl,
    host: &Host,
    application: &str,
    wanted: Wanted,
    stream: Box<dyn ServerStream>,
) -> Result<Connected, Failure> {
    let mut config = Config::new();
    config.user(&url.user).dbname(&url.database).application_name(application).channel_binding(url.channel_binding);
    if let Some(password) = &host.password {
        config.password(password);
    }
    if let Some(options) = &url.options {
        config.options(options);
    }
    // The stream is as encrypted as it gets; told so, the library asks it for the channel binding.
    config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    let (blocks, copied) = block_queue();
    let announced = AnnouncedProcess::default();
    let tap = CopyTap::new(stream, blocks, AnnouncedProcess::clone(&announced));
    let refused = |error| refusal(url, host, error);
    let (client, connection) = config.connect_raw(tap, AlreadyEncrypted).await.map_err(refused)?;
    let driver = tokio::spawn(drive(connection));
    let messages = client.simple_query(LOOK).await.map_err(refused)?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let column = |index| row.and_then(|row| row.get(index)).unwrap_or_default();
    let (is_standby, is_read_only) = (column(1) == "t", column(2) == "on");
    let is_wanted = match wanted {
        Wanted::Any | Wanted::PreferStandby => true,
        Wanted::ReadWrite => !is_read_only,
        Wanted::ReadOnly => is_read_only,
        Wanted::Primary => !is_standby,
        Wanted::Standby => is_standby,
    };
    if !is_wanted {
        return Err(Failure::WrongKind);
    }
    let is_pooled = column(0).parse().ok().as_ref() != announced.get();
    Ok(Connected { client, driver, copied, host: host.clone(), is_pooled })
}

/// Runs the connection until it ends.
async fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection ended");
    }
}

fn refusal(url: &DatabaseUrl, host: &Host, error: tokio_postgres::Error) -> Failure {
    let source = std::error::Error::source(&error);
    let is_network = error.is_closed() || source.is_some_and(<dyn std::error::Error>::is::<io::Error>);
    let server = url.to_string();
    match error.code() {
        None if is_network => Failure::Socket(error.into()),
        None if host.password.is_none() && source.is_some_and(|source| source.to_string() == NO_PASSWORD) => {
            Failure::Final(ConnectError::NoPassword { server })
        }
        // No entry for a host with or without encryption; a pooler says the same as a breach of protocol.
        Some(code)
            if url.encryption.mode.ways().len() > 1
                && (*code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
                    || *code == SqlState::PROTOCOL_VIOLATION) =>
        {
            Failure::Encryption(ConnectError::LoginRefused { server, source: error })
        }
        Some(code) if is_connection_lost(&error) || *code == SqlState::TOO_MANY_CONNECTIONS => {
            Failure::Socket(error.into())
        }
        _ => Failure::Final(ConnectError::LoginRefused { server, source: error }),
    }
}

/// Hands the stream on as it is.
struct AlreadyEncrypted;

impl TlsConnect<CopyTap> for AlreadyEncrypted {
    type Stream = CopyTap;
    type Error = io::Error;
    type Future = Ready<io::Result<CopyTap>>;

    fn connect(self, stream: CopyTap) -> Self::Future {
        ready(Ok(stream))
    }
}

/// Waits no longer than the limit, if there is one.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match limit {
        Some(limit) => timeout(limit, work).await.map_err(io::Error::from).and_then(|outcome| outcome),
        None => work.await,
    }
}
