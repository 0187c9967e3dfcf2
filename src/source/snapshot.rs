//! One consistent view of the source for all sessions of a pull.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::ranges::TID_RANGE_SCAN_VERSION;
use super::retry::{is_transient, is_unknown_snapshot};
use super::{Activity, SourceError, Watermark, held};
use crate::pg::{CatalogError, DatabaseUrl, RelationInfo, Session, describe_table, leaves};
use crate::schema::TableName;

const PURPOSE: &str = "pull";
/// `relkind` of a partitioned table.
const PARTITIONED: char = 'p';
/// How long a pooler may take to find another server session for a pull.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// How long the session that holds the snapshot may take to say that it still does.
const CHECK_PATIENCE: Duration = Duration::from_secs(30);

/// The point in the source's history that a pull reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// What `pg_export_snapshot` returned; empty where the server does not export it.
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
    info: SnapshotInfo,
    watermark: Option<Watermark>,
    identity: String,
}

impl SharedSnapshot {
    /// Opens the session whose snapshot the others share, if the server exports one.
    ///
    /// # Errors
    /// [`SourceError::Connect`] without a session, [`SourceError::Snapshot`] when the server cannot be asked.
    pub async fn open(url: &DatabaseUrl) -> Result<Self, SourceError> {
        Self::begin(url, None).await
    }

    /// The same for a snapshot that another session has exported and still has.
    ///
    /// # Errors
    /// As [`SharedSnapshot::open`]; [`SourceError::UnknownSnapshot`] when nobody has it any more.
    pub async fn adopt(url: &DatabaseUrl, id: &str) -> Result<Self, SourceError> {
        match Self::begin(url, Some(id)).await {
            Err(SourceError::Snapshot(source)) if is_unknown_snapshot(&source) => {
                Err(SourceError::UnknownSnapshot { id: id.to_owned(), source })
            }
            outcome => outcome,
        }
    }

    async fn begin(url: &DatabaseUrl, from: Option<&str>) -> Result<Self, SourceError> {
        let session = Session::open(url, PURPOSE).await?;
        let mut activity = Activity::read(&session).await?;
        if from.is_some() {
            activity = activity.after_the_snapshot();
        }
        session.begin_read_only(from).await.map_err(SourceError::Snapshot)?;
        let id = match session.query_typed_one("SELECT pg_export_snapshot()", &[]).await {
            Ok(row) => row.get(0),
            Err(error) if is_transient(&error) => return Err(SourceError::Snapshot(error)),
            // It has none to give, or not to us. Its transactions have one all the same.
            Err(error) => {
                tracing::debug!(%error, "the server exports no snapshot");
                session.batch_execute("ROLLBACK").await.map_err(SourceError::Snapshot)?;
                session.begin_read_only(from).await.map_err(SourceError::Snapshot)?;
                String::new()
            }
        };
        let row = session
            .query_typed_one(
                "SELECT to_char(now(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
                 CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_lsn()::text END, \
                 current_setting('server_version_num')::int, \
                 concat_ws(' ', txid_current_snapshot(), pg_postmaster_start_time(), \
                           (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))",
                &[],
            )
            .await
            .map_err(SourceError::Snapshot)?;
        let version: i32 = row.get(2);
        let info = SnapshotInfo {
            id,
            time: row.get(0),
            wal_position: row.get(1),
            server_version: u32::try_from(version).unwrap_or(0),
        };
        let identity = [row.get(3), activity.server().unwrap_or_default().to_owned()].join(" ");
        let watermark = activity.watermark(&session, info.server_version).await?;
        Ok(Self { session, info, watermark, identity })
    }

    /// Which snapshot of which server it is; another name for it makes no other one of it.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Takes over what was known of the snapshot when it was taken.
    pub fn remember(&mut self, info: SnapshotInfo, watermark: Option<Watermark>) {
        self.info = SnapshotInfo { id: std::mem::take(&mut self.info.id), ..info };
        self.watermark = watermark;
    }

    /// Describes a table as the snapshot sees it, and keeps it and all that is read with it as they are: until the session
    /// ends nobody can rewrite them, so that rows keep their `ctid` and a range copied again has the rows it had. Waits
    /// for those who rewrite them now.
    ///
    /// # Errors
    /// [`SourceError::Catalog`], [`SourceError::Copy`], [`SourceError::Rewritten`] when they are not what the snapshot
    /// knows any more.
    pub async fn hold(&self, table: &TableName) -> Result<RelationInfo, SourceError> {
        let relation = match describe_table(&self.session, table).await {
            Err(CatalogError::Missing(_)) if held::is_known(&self.session, table).await? => {
                return Err(SourceError::Rewritten { table: table.clone() });
            }
            relation => relation?,
        };
        held::hold(&self.session, &relation, self.info.server_version).await?;
        // Only now does it keep its size.
        let mut relation = describe_table(&self.session, table).await?;
        if relation.kind == PARTITIONED && self.info.server_version >= TID_RANGE_SCAN_VERSION {
            relation.leaves = leaves(&self.session, &relation).await?;
        }
        Ok(relation)
    }

    /// Proves that the snapshot and the locks of [`SharedSnapshot::hold`] have lasted until now, and that nothing came
    /// to what is read that the snapshot does not count in.
    ///
    /// # Errors
    /// [`SourceError::SnapshotLost`], [`SourceError::Rewritten`].
    pub async fn check(&self, relations: impl IntoIterator<Item = &RelationInfo>) -> Result<(), SourceError> {
        for relation in relations {
            let held = async {
                if relation.leaves.is_empty() {
                    return held::hold(&self.session, relation, self.info.server_version).await;
                }
                // Its leaves were read by themselves; others that came meanwhile were not.
                self.session.batch_execute("SELECT 1").await.map_err(SourceError::Snapshot)
            };
            match timeout(CHECK_PATIENCE, held).await {
                Ok(Ok(())) => {}
                Ok(Err(error @ SourceError::Rewritten { .. })) => return Err(error),
                _ => return Err(SourceError::SnapshotLost),
            }
        }
        Ok(())
    }

    /// Foreign tables among what is held, in order of their names: their rows are those of another server, or of a file,
    /// whenever they are read.
    ///
    /// # Errors
    /// [`SourceError::Snapshot`].
    pub async fn foreign_tables(&self) -> Result<Vec<String>, SourceError> {
        held::foreign_tables(&self.session).await
    }

    /// Whether the session that holds the snapshot is known to have ended.
    pub fn is_lost(&self) -> bool {
        self.session.is_closed()
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

    /// Whether a pooler stands between us and the server.
    pub fn is_pooled(&self) -> bool {
        self.session.is_pooled()
    }

    /// Gives up sharing: the session is the only one that sees these rows.
    pub fn into_session(self) -> Session {
        self.session
    }

    /// Opens another session that sees exactly the same rows.
    ///
    /// # Errors
    /// As [`SharedSnapshot::open`], [`SourceError::SnapshotLost`], [`SourceError::NotShared`], and
    /// [`SourceError::NoSessionLeft`] behind a pooler that has none to give.
    pub async fn join(&self) -> Result<Session, SourceError> {
        if self.is_lost() {
            return Err(SourceError::SnapshotLost);
        }
        if self.info.id.is_empty() {
            return Err(SourceError::NotShared);
        }
        if !self.session.is_pooled() {
            return self.open_joined().await;
        }
        timeout(JOIN_PATIENCE, self.open_joined())
            .await
            .map_err(|_| SourceError::NoSessionLeft { seconds: JOIN_PATIENCE.as_secs() })?
    }

    async fn open_joined(&self) -> Result<Session, SourceError> {
        let session = self.session.open_beside(PURPOSE).await?;
        session.begin_read_only(Some(&self.info.id)).await.map_err(SourceError::Snapshot)?;
        Ok(session)
    }
}
