//! Opening sessions: the URL with its secret, TLS, and errors that say what to do.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};
use url::Url;

use super::copy_tap::{CopyOut, block_queue};
use super::encryption::{Encryption, TappedConnect, Verify, tls_config};

const DEFAULT_PORT: u16 = 5432;
/// A server that does not answer within this time counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle time before the first TCP keepalive, so that a vanished server is noticed within about a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// Time between keepalives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Keepalives without an answer before the connection is given up.
const KEEPALIVE_RETRIES: u32 = 3;
/// Unacknowledged data for this long means the peer is gone.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// What every session sets: text forms that do not depend on the server's configuration, no JIT (it makes a wide
/// COPY up to four times slower), and no limit on how long a COPY may take.
const SESSION_SETTINGS: &str = "SET client_encoding = 'UTF8'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; \
     SET TimeZone = 'UTC'; SET bytea_output = 'hex'; SET extra_float_digits = 1; \
     SET standard_conforming_strings = on; SET jit = off; SET statement_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; SET search_path = pg_catalog";

/// Where a database is and how to log in. Its `Debug` and `Display` never show the password.
#[derive(Clone)]
pub struct DatabaseUrl {
    config: Config,
    verify: Verify,
    root_certificate: Option<String>,
    shown: String,
}

impl FromStr for DatabaseUrl {
    type Err = ConnectError;

    /// Reads `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`, or libpq's `key=value` form.
    fn from_str(text: &str) -> Result<Self, ConnectError> {
        let mut verify = Verify::Nothing;
        let mut root_certificate = None;
        let mut plain = text.to_owned();
        if let Ok(mut url) = Url::parse(text) {
            let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            url.set_query(None);
            for (key, value) in pairs {
                match (key.as_str(), value.as_str()) {
                    ("sslmode", "verify-ca") => verify = Verify::Chain,
                    ("sslmode", "verify-full") => verify = Verify::ChainAndHost,
                    ("sslrootcert", path) => root_certificate = Some(path.to_owned()),
                    _ => {
                        url.query_pairs_mut().append_pair(&key, &value);
                    }
                }
            }
            plain = url.to_string();
        }
        let mut config: Config = plain.parse().map_err(|source| ConnectError::BadUrl { source })?;
        if config.get_hosts().is_empty() {
            config.host("localhost");
        }
        if verify != Verify::Nothing {
            config.ssl_mode(SslMode::Require);
        }
        config
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .tcp_user_timeout(TCP_USER_TIMEOUT);
        let shown = shown(&config);
        Ok(Self { config, verify, root_certificate, shown })
    }
}

impl DatabaseUrl {
    /// The database's name: the URL's, or the user's as Postgres assumes.
    pub fn database(&self) -> &str {
        self.config.get_dbname().or(self.config.get_user()).unwrap_or("postgres")
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({})", self.shown)
    }
}

/// `user@host:port/database`, which names a server without its secrets.
fn shown(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(DEFAULT_PORT);
    let user = config.get_user().unwrap_or("");
    format!("{user}@{host}:{port}/{}", config.get_dbname().unwrap_or(user))
}

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text is not a connection URL.
    #[error("the database URL cannot be read; expected postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    BadUrl {
        /// What the parser said; it never quotes the text.
        source: tokio_postgres::Error,
    },
    /// Nobody answers there.
    #[error("cannot reach {server}; is it running, and are host and port right?")]
    Unreachable {
        /// `user@host:port/database`.
        server: String,
        /// The network's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server refused the login.
    #[error("{server} refuses the login; check user, password and database name")]
    LoginRefused {
        /// `user@host:port/database`.
        server: String,
        /// The server's message.
        source: tokio_postgres::Error,
    },
    /// The certificates for `sslmode=verify-*` could not be read.
    #[error("cannot read the trusted certificates{}", .path.as_ref().map(|path| format!(" of {path}")).unwrap_or_default())]
    Certificates {
        /// The value of `sslrootcert`.
        path: Option<String>,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
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
        matches!(self, Self::Unreachable { .. } | Self::SetUp { .. })
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

/// An open session; the task that drives its socket ends with it.
#[derive(Debug)]
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
    /// Rows of the running COPY.
    copied: mpsc::Receiver<Vec<u8>>,
}

impl Session {
    /// Opens a session named `application` in `pg_stat_activity`.
    ///
    /// # Errors
    /// [`ConnectError`] by what a person can do about it.
    pub async fn open(url: &DatabaseUrl, application: &str) -> Result<Self, ConnectError> {
        let (blocks, copied) = block_queue();
        let encryption = Encryption { mode: url.config.get_ssl_mode(), negotiation: url.config.get_ssl_negotiation() };
        let tapped = TappedConnect::new(tls_config(url.verify, url.root_certificate.as_deref())?, encryption, blocks);
        let mut config = url.config.clone();
        // The tap negotiates the encryption itself, because it sits above it; the library must leave that alone.
        config.application_name(application).ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        let (client, driver) = if let Some(Host::Unix(folder)) = config.get_hosts().first() {
            let stream = connect_unix(url, folder).await?;
            let connected = config.connect_raw(stream, tapped.plain()).await;
            let (client, connection) = connected.map_err(|source| login_error(url, source))?;
            (client, tokio::spawn(drive(connection)))
        } else {
            let (client, connection) = config.connect(tapped).await.map_err(|source| login_error(url, source))?;
            (client, tokio::spawn(drive(connection)))
        };
        let session = Self { client, driver, copied };
        session
            .client
            .batch_execute(SESSION_SETTINGS)
            .await
            .map_err(|source| ConnectError::SetUp { server: url.to_string(), source })?;
        Ok(session)
    }

    /// Runs `COPY … TO STDOUT`.
    ///
    /// # Errors
    /// The server's error, or the network's.
    pub async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>, tokio_postgres::Error> {
        Ok(CopyOut::new(&mut self.copied, self.client.simple_query_raw(sql).await?))
    }
}

/// Runs the connection until it ends.
async fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection ended");
    }
}

async fn connect_unix(url: &DatabaseUrl, folder: &Path) -> Result<UnixStream, ConnectError> {
    let port = url.config.get_ports().first().copied().unwrap_or(DEFAULT_PORT);
    let connect = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}")));
    let connected = timeout(CONNECT_TIMEOUT, connect).await.map_err(io::Error::from).and_then(|stream| stream);
    connected.map_err(|source| ConnectError::Unreachable { server: url.to_string(), source: source.into() })
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Closing the socket at once makes the server end whatever this session still runs.
        self.driver.abort();
    }
}

fn login_error(url: &DatabaseUrl, source: tokio_postgres::Error) -> ConnectError {
    let server = url.to_string();
    match source.code() {
        Some(code)
            if *code == SqlState::INVALID_PASSWORD
                || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
                || *code == SqlState::INVALID_CATALOG_NAME =>
        {
            ConnectError::LoginRefused { server, source }
        }
        _ => ConnectError::Unreachable { server, source: source.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        let url: DatabaseUrl =
            "postgres://ann:s3cret@db.example.com:6000/stud?sslmode=verify-full".parse().expect("a good URL");
        assert_eq!(url.to_string(), "ann@db.example.com:6000/stud");
        assert!(!format!("{url:?}").contains("s3cret"));
        assert_eq!(url.verify, Verify::ChainAndHost);
    }

    #[test]
    fn a_bad_url_is_refused_without_quoting_it() {
        let error = "postgres://ann:s3cret@host:notaport/x".parse::<DatabaseUrl>().expect_err("a bad port");
        assert!(!format!("{error}{error:?}").contains("s3cret"));
    }
}
