//! What is where: source, target, backup, lake, last run.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::push::target_of;
use super::{Context, PipelineError, RunRecord, history};
use crate::config::ConfigError;
use crate::lake::{Origin, Version};
use crate::pg::{DatabaseUrl, Session};
use crate::push::{self, BackupStatus, Leftover, PushError, TargetOptions, TargetStatus, target_status};

const PURPOSE: &str = "status";
/// How often the target's tables are read at most; a push changes them twice within milliseconds, then not for long.
const READS_MAX: usize = 5;

/// The state of everything a rebuild touches.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    /// The source server.
    pub source: ServerStatus,
    /// The target server.
    pub target: ServerStatus,
    /// The live table, when the target can be reached and has it.
    pub live: Option<TargetStatus>,
    /// The backup that a rollback puts back, when there is one.
    pub backup: Option<BackupStatus>,
    /// Older backups, newest first.
    pub older_backups: Vec<BackupStatus>,
    /// What pushes left on the target that did not end.
    pub leftovers: Vec<Leftover>,
    /// The lake's folder.
    pub lake: String,
    /// Its latest version, when anything was pulled.
    pub version: Option<Version>,
    /// Its tables.
    pub tables: Vec<LakeTableStatus>,
    /// The last run.
    pub last_run: Option<RunRecord>,
}

/// Whether a server answers.
#[derive(Debug, Clone, Serialize)]
pub struct ServerStatus {
    /// `user@host:port/database`, without the password; nothing when it is not configured.
    pub server: Option<String>,
    /// Whether a session could be opened.
    pub reachable: bool,
    /// The server's version, or why it could not be reached.
    pub detail: String,
}

/// A lake table.
#[derive(Debug, Clone, Serialize)]
pub struct LakeTableStatus {
    /// Its name.
    pub name: String,
    /// The version whose run wrote it.
    pub version: Version,
    /// When.
    pub created: DateTime<Utc>,
    /// Its rows.
    pub rows: u64,
    /// Its columns.
    pub columns: usize,
    /// Bytes of its files.
    pub bytes: u64,
    /// Its files.
    pub files: usize,
    /// Where the rows come from.
    pub origin: String,
}

/// Looks at source, target and lake; what cannot be reached is part of the answer.
///
/// # Errors
/// [`PipelineError::Lake`] when the lake itself cannot be read.
pub async fn status(context: &Context) -> Result<StatusReport, PipelineError> {
    let (source, _) = look(context.settings.source()).await;
    let (target, session) = look(context.settings.target()).await;
    let (_, options) = target_of(context, None)?;
    let TargetTables { live, backups, leftovers } = match &session {
        Some(session) => target_tables(session, &options, context.settings.target()?).await?,
        None => TargetTables::default(),
    };
    let (newest, older_backups): (Vec<_>, _) =
        backups.into_iter().partition(|backup| backup.table == options.backup_table());
    let manifest = context.lake()?.latest().await?;
    let tables = manifest.iter().flat_map(|manifest| &manifest.tables).map(|(name, table)| LakeTableStatus {
        name: name.clone(),
        version: table.version,
        created: table.created,
        rows: table.rows,
        columns: table.schema.fields().len(),
        bytes: table.bytes,
        files: table.files.len(),
        origin: match &table.origin {
            Origin::Source { table, .. } => table.clone(),
            Origin::Dataset { from, .. } => format!("phases over version {from}"),
        },
    });
    Ok(StatusReport {
        source,
        target,
        live,
        backup: newest.into_iter().next(),
        older_backups,
        leftovers,
        lake: context.lake()?.root().display().to_string(),
        version: manifest.as_ref().map(|manifest| manifest.version),
        tables: tables.collect(),
        last_run: history(context, 1).await?.pop(),
    })
}

/// What the target holds.
#[derive(Debug, Default)]
struct TargetTables {
    live: Option<TargetStatus>,
    backups: Vec<BackupStatus>,
    leftovers: Vec<Leftover>,
}

/// Reads them, again with a new snapshot when a push dropped or renamed one while it was read: the catalogues' functions
/// look at the tables of now, not at those of the snapshot, and fail for one that is gone.
async fn target_tables(
    session: &Session,
    options: &TargetOptions,
    url: &DatabaseUrl,
) -> Result<TargetTables, PipelineError> {
    let read = async || {
        Ok::<_, PushError>(TargetTables {
            live: target_status(session, options).await?,
            backups: push::backups(session, options).await?,
            leftovers: push::leftovers(session, url).await?,
        })
    };
    for _ in 1..READS_MAX {
        match read().await {
            // Without a session the failure stands.
            Err(error) if error.is_table_gone() => session.begin_read_only_again().await.map_err(|_| error)?,
            other => return Ok(other?),
        }
    }
    Ok(read().await?)
}

async fn look(url: Result<&DatabaseUrl, ConfigError>) -> (ServerStatus, Option<Session>) {
    let url = match url {
        Ok(url) => url,
        Err(error) => {
            return (ServerStatus { server: None, reachable: false, detail: error.to_string() }, None);
        }
    };
    let (reachable, detail, session) = match Session::open(url, PURPOSE).await {
        Ok(session) => {
            let detail = match version(&session).await {
                Ok(version) => format!("PostgreSQL {version}"),
                Err(error) => error.to_string(),
            };
            (true, detail, Some(session))
        }
        Err(error) => (false, error.to_string(), None),
    };
    (ServerStatus { server: Some(url.to_string()), reachable, detail }, session)
}

/// Begins the transaction in which the session is asked; behind a pooler only that stays on one server session.
async fn version(session: &Session) -> Result<String, tokio_postgres::Error> {
    session.begin_read_only(None).await?;
    Ok(session.query_typed_one("SHOW server_version", &[]).await?.get(0))
}
