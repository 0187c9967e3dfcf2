//! Whether a pooler keeps a server session for us or deals them out anew with every transaction.
//!
//! That there is a pooler shows at login: it announces another process than the one that answers. Its mode it does not
//! tell, so it is tried out: while this session is idle, others open transactions. A pooler that deals out server
//! sessions gives one of them ours, or gives us another one; a pooler that does not never does.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

use super::connect::ConnectError;
use super::database_url::DatabaseUrl;
use super::session::Session;

/// The port of hosted poolers in transaction mode.
const TRANSACTION_MODE_PORT: u16 = 6543;
/// Transactions opened beside an idle session. A pooler hands out the server session that was free last or first: two
/// are enough for either, where nobody else takes ours meanwhile, which then shows as well.
const PROBES: usize = 3;
/// How long a pooler may take to find a server session; longer than opening one takes.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// Whether every place of a URL is a pooler in transaction mode by convention.
pub(super) fn is_known_by_its_port(url: &DatabaseUrl) -> bool {
    url.hosts.iter().all(|host| host.port == TRANSACTION_MODE_PORT)
}

/// Whether the pooler of an idle session deals out server sessions by transaction.
///
/// # Errors
/// As [`Session::open`].
pub(super) async fn pools_transactions(session: &Session) -> Result<bool, ConnectError> {
    let Some(own) = process(session).await? else { return Ok(true) };
    let mut open = Vec::new();
    for _ in 0..PROBES {
        let probe = match timeout(PROBE_PATIENCE, session.open_beside("probe")).await {
            Ok(probe) => probe?,
            // The pooler has no server session left, and ours is not given away.
            Err(_) => break,
        };
        let taken = match timeout(PROBE_PATIENCE, probe.batch_execute("BEGIN")).await {
            Ok(begun) => {
                begun.map_err(|source| ConnectError::SetUp { server: "the pooler".to_owned(), source })?;
                process(&probe).await?
            }
            Err(_) => break,
        };
        // One that must wait for its own server session does not own it.
        if taken == Some(own) || process(session).await? != Some(own) {
            return Ok(true);
        }
        open.push(probe);
    }
    Ok(false)
}

/// The server's process that answers; none when none does in time.
async fn process(session: &Session) -> Result<Option<i32>, ConnectError> {
    let Ok(answer) = timeout(PROBE_PATIENCE, session.simple_query("SELECT pg_catalog.pg_backend_pid()")).await else {
        return Ok(None);
    };
    let messages = answer.map_err(|source| ConnectError::SetUp { server: "the pooler".to_owned(), source })?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    }))
}
