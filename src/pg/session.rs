//! An open session: its settings, its transactions, and the rows of its COPY.

use std::ops::Deref;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::connect::{ConnectError, connect};
use super::copy_tap::CopyOut;
use super::database_url::DatabaseUrl;
use super::{pooler, quote_literal};

/// What every session sets: text forms that do not depend on the server's configuration, no JIT (it makes a wide
/// COPY up to four times slower), and no limit on how long a COPY may take.
const SETTINGS: [(&str, &str); 12] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("standard_conforming_strings", "on"),
    ("jit", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("search_path", "pg_catalog"),
];

/// A limit on a whole transaction, which older servers than 17 do not know.
const TRANSACTION_LIMIT: &str = "transaction_timeout";

/// Sets each of them, for the session or for the transaction.
fn settings(is_local: bool) -> String {
    let verb = if is_local { "SET LOCAL" } else { "SET" };
    let known = SETTINGS.iter().map(|(name, value)| format!("{verb} {name} = '{value}'; "));
    format!(
        "{}SELECT set_config('{TRANSACTION_LIMIT}', '0', {is_local}) WHERE current_setting('{TRANSACTION_LIMIT}', true) IS NOT NULL",
        known.collect::<String>()
    )
}

/// An open session; the task that drives its socket ends with it.
#[derive(Debug)]
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
    /// Rows of the running COPY.
    copied: mpsc::Receiver<Vec<u8>>,
    /// The one place where the server was found.
    place: DatabaseUrl,
    is_pooled: bool,
}

impl Session {
    /// Opens a session for `purpose`, which `pg_stat_activity` shows. Behind a pooler, which may give the next
    /// transaction another server session, nothing is set that would outlast a transaction.
    ///
    /// # Errors
    /// [`ConnectError`] by what a person can do about it.
    pub async fn open(url: &DatabaseUrl, purpose: &str) -> Result<Self, ConnectError> {
        let connected = connect(url, &url.application_name(purpose)).await?;
        let session = Self {
            client: connected.client,
            driver: connected.driver,
            copied: connected.copied,
            place: url.at(connected.host),
            is_pooled: connected.is_pooled,
        };
        if !session.is_pooled {
            session.set_up().await?;
        }
        Ok(session)
    }

    /// Opens a session whose settings and locks last: directly, or through a pooler that keeps it to itself.
    ///
    /// # Errors
    /// As [`Session::open`], and [`ConnectError::TransactionPooler`].
    pub async fn open_lasting(url: &DatabaseUrl, purpose: &str) -> Result<Self, ConnectError> {
        if pooler::is_known_by_its_port(url) {
            return Err(ConnectError::TransactionPooler { server: url.to_string() });
        }
        let session = Self::open(url, purpose).await?;
        if session.is_pooled {
            if pooler::pools_transactions(&session).await? {
                return Err(ConnectError::TransactionPooler { server: url.to_string() });
            }
            session.set_up().await?;
        }
        Ok(session)
    }

    /// Opens another session on the very server that this one is on.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn open_beside(&self, purpose: &str) -> Result<Self, ConnectError> {
        Self::open(&self.place, purpose).await
    }

    async fn set_up(&self) -> Result<(), ConnectError> {
        let set = self.client.batch_execute(&settings(false)).await;
        set.map_err(|source| ConnectError::SetUp { server: self.place.to_string(), source })
    }

    /// Begins a transaction that cannot write and sees one point in history: its own, or an exported snapshot's. Its
    /// settings are the transaction's, so they hold behind any pooler and leave nothing behind.
    ///
    /// # Errors
    /// The server's error, or the network's.
    pub async fn begin_read_only(&self, snapshot: Option<&str>) -> Result<(), tokio_postgres::Error> {
        let snapshot =
            snapshot.map(|id| format!("SET TRANSACTION SNAPSHOT {}; ", quote_literal(id))).unwrap_or_default();
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        self.client.batch_execute(&format!("{begin}; {snapshot}{}", settings(true))).await
    }

    /// The same after a transaction that is over or has failed.
    ///
    /// # Errors
    /// As [`Session::begin_read_only`].
    pub async fn begin_read_only_again(&self) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute("ROLLBACK").await?;
        self.begin_read_only(None).await
    }

    /// Whether a pooler stands between us and the server.
    pub fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// Runs `COPY … TO STDOUT`.
    ///
    /// # Errors
    /// The server's error, or the network's.
    pub async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>, tokio_postgres::Error> {
        Ok(CopyOut::new(&mut self.copied, self.client.simple_query_raw(sql).await?))
    }
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
