//! One consistent view of the source for all sessions of a pull.

use serde::{Deserialize, Serialize};

use super::{Activity, SourceError, Watermark};
use crate::pg::{DatabaseUrl, Session, quote_literal};

const APPLICATION: &str = "racealpha pull";

/// The point in the source's history that a pull reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// What `pg_export_snapshot` returned.
    pub id: String,
    /// The server's clock, RFC 3339 in UTC.
    pub time: String,
    /// The write-ahead log's position, where the server tells it.
    pub wal_position: Option<String>,
    /// `server_version_num`, such as 150018.
    pub server_version: u32,
}

/// A session that keeps an exported snapshot alive; others join it.
#[derive(Debug)]
pub struct SharedSnapshot {
    session: Session,
    url: DatabaseUrl,
    info: SnapshotInfo,
    watermark: Option<Watermark>,
}

impl SharedSnapshot {
    /// Opens the session whose snapshot the others share.
    ///
    /// # Errors
    /// [`SourceError::Connect`] without a session, [`SourceError::Snapshot`] when the server cannot export one.
    pub async fn open(url: &DatabaseUrl) -> Result<Self, SourceError> {
        let session = Session::open(url, APPLICATION).await?;
        let activity = Activity::read(&session).await?;
        session
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await
            .map_err(SourceError::Snapshot)?;
        let row = session
            .query_one(
                "SELECT pg_export_snapshot(), to_char(now(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
                 CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_lsn()::text END, \
                 current_setting('server_version_num')::int",
                &[],
            )
            .await
            .map_err(SourceError::Snapshot)?;
        let version: i32 = row.get(3);
        let info = SnapshotInfo {
            id: row.get(0),
            time: row.get(1),
            wal_position: row.get(2),
            server_version: u32::try_from(version).unwrap_or(0),
        };
        let watermark = activity.watermark(&session, info.server_version).await?;
        Ok(Self { session, url: url.clone(), info, watermark })
    }

    /// The point in history.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// What the snapshot has seen for sure; none where the server does not tell.
    pub fn watermark(&self) -> Option<&Watermark> {
        self.watermark.as_ref()
    }

    /// The session itself, inside the snapshot's transaction.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Opens another session that sees exactly the same rows.
    ///
    /// # Errors
    /// As [`SharedSnapshot::open`].
    pub async fn join(&self) -> Result<Session, SourceError> {
        let session = Session::open(&self.url, APPLICATION).await?;
        let statement = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            quote_literal(&self.info.id)
        );
        session.batch_execute(&statement).await.map_err(SourceError::Snapshot)?;
        Ok(session)
    }
}
