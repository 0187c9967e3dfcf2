//! What a push would do: read from the catalogues, decided without effects.

use arrow::datatypes::Schema;
use serde::Serialize;
use tokio_postgres::Client;

use crate::pg::Session;
use crate::schema::TableName;

use super::attributes::{self, Attributes};
use super::backup::{self, BackupStatus};
use super::blockers::{self, SEE_ALL_ROWS};
use super::columns::ColumnMatch;
use super::error::{Blocker, PushError};
use super::followers;
use super::generations::Generations;
use super::insert_missing;
use super::merge;
use super::options::{TargetMode, TargetOptions};

/// How the dataset gets in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PushMode {
    /// The table does not exist yet and is created from the dataset's columns.
    First,
    /// A staging table takes the live table's place, which becomes the backup.
    Swap,
    /// Rows that differ are deleted, updated and inserted; the table stays itself.
    Merge,
    /// Rows whose key the live table lacks are inserted.
    InsertMissing,
}

/// What a push would do. It writes nothing.
#[derive(Debug, Clone, Serialize)]
pub struct PushPlan {
    /// The live table.
    pub table: TableName,
    /// How the dataset gets in place.
    pub mode: PushMode,
    /// Whether there is a live table.
    pub live_exists: bool,
    /// Which column goes where.
    pub columns: ColumnMatch,
    /// What is attached to the live table and carried over, one line each.
    pub carried: Vec<String>,
    /// What makes the push impossible; empty when it can go ahead.
    pub blockers: Vec<Blocker>,
    /// The planner's estimate of the live table's rows.
    pub live_rows_estimated: Option<u64>,
    /// What the live table takes on disk, indexes included.
    pub live_bytes: u64,
    /// The backup that the push would remove.
    pub replaces_backup: Option<BackupStatus>,
    /// What the push needs on the server's disk for a while, about: a staging table as large as live, and as much
    /// again of write-ahead log.
    pub disk_bytes_needed: u64,
    /// Things worth knowing, one sentence each.
    pub notes: Vec<String>,
}

/// A plan with what it was made from.
#[derive(Debug)]
pub(super) struct Inspection {
    pub(super) plan: PushPlan,
    /// The dataset's columns.
    pub(super) dataset: Schema,
    /// The live table, unless this is the first push.
    pub(super) live: Option<Attributes>,
    /// Its backups.
    pub(super) backups: Generations,
    /// A hash of the live table's catalogue rows.
    pub(super) fingerprint: Option<String>,
}

/// Decides what a push of a dataset with these columns would do.
///
/// # Errors
/// [`PushError`] when the catalogue cannot be read. What stands in the way of the push is not an error here; it is
/// listed in [`PushPlan::blockers`].
pub async fn plan(session: &Session, options: &TargetOptions, dataset: &Schema) -> Result<PushPlan, PushError> {
    match options.mode {
        TargetMode::Swap => inspect(session, options, dataset).await.map(|inspection| inspection.plan),
        TargetMode::Merge => merge::plan_merge(session, options, dataset).await,
        TargetMode::Auto => merge::plan_auto(session, options, dataset).await,
        TargetMode::InsertMissing => insert_missing::plan(session, options, dataset).await,
    }
}

pub(super) async fn inspect(
    client: &Session,
    options: &TargetOptions,
    dataset: &Schema,
) -> Result<Inspection, PushError> {
    let table = &options.table;
    let (live, fingerprint) = match attributes::read(client, table).await? {
        Some(found) => {
            // What is read must not be older than the fingerprint, or a change between the two would go unnoticed.
            let fingerprint = fingerprint(client, table, found.oid).await?;
            (attributes::read(client, table).await?, Some(fingerprint))
        }
        None => (None, None),
    };
    let mut blockers = permissions(client, options).await?;
    let backups = Generations::read(client, options).await?;
    let backup_status = backup::backup_status(client, options).await?;
    let (mode, columns) = if let Some(live) = &live {
        blockers.extend(blockers::find(client, options, table, live).await?);
        let (columns, mismatches) = ColumnMatch::with_table(options, dataset, live);
        if live.kind == 'r' {
            blockers.extend(mismatches);
            blockers.extend(hidden_rows(client, options, live, &columns).await?);
        }
        blockers.extend(backups.blockers(options.keep_backups));
        (PushMode::Swap, columns)
    } else {
        let (columns, mismatches) = ColumnMatch::first(options, dataset);
        blockers.extend(mismatches);
        (PushMode::First, columns)
    };
    let live_bytes = live.as_ref().map_or(0, |live| live.bytes);
    let mut notes = notes(options, mode);
    if let Some(live) = &live {
        notes.extend(live.dependents.notes());
        notes.extend(followers::of_realtime(live));
        notes.extend(followers::of_slots(client, table, live_bytes).await?);
    }
    for (names, why) in [
        (&columns.cast_by_server, "are loaded as text and cast by the server"),
        (&columns.kept, "are taken from the rows that are there"),
    ] {
        if !names.is_empty() {
            notes.push(format!(
                "columns {} {why}; a transaction that began before the swap and first reads the table after it sees it \
                 empty",
                names.join(", ")
            ));
        }
    }
    let plan = PushPlan {
        table: table.clone(),
        mode,
        live_exists: live.is_some(),
        carried: live.as_ref().map(carried).unwrap_or_default(),
        columns,
        blockers,
        live_rows_estimated: live.as_ref().and_then(backup::rows),
        live_bytes,
        replaces_backup: backup_status.filter(|_| live.is_some() && options.keep_backups == 1),
        disk_bytes_needed: live_bytes.saturating_mul(2),
        notes,
    };
    Ok(Inspection { plan, dataset: dataset.clone(), live, backups, fingerprint })
}

fn notes(options: &TargetOptions, mode: PushMode) -> Vec<String> {
    match mode {
        PushMode::Swap | PushMode::Merge | PushMode::InsertMissing => Vec::new(),
        PushMode::First => vec![format!(
            "{} does not exist and is created from the dataset, with row-level security on and no grants: nobody but \
             its owner sees it until somebody grants access and adds policies",
            options.table
        )],
    }
}

pub(super) async fn fingerprint(client: &Client, table: &TableName, oid: u32) -> Result<String, PushError> {
    let failed = |source| PushError::at("take the table's fingerprint", table, source);
    let row = client.query_one(&attributes::fingerprint_sql(oid), &[]).await.map_err(failed)?;
    Ok(row.get::<_, Option<String>>(0).unwrap_or_default())
}

/// What a push has to read of the live table, when row-level security hides rows of it from our role.
async fn hidden_rows(
    client: &Client,
    options: &TargetOptions,
    live: &Attributes,
    columns: &ColumnMatch,
) -> Result<Option<Blocker>, PushError> {
    let failed = |source| PushError::at("read whether rows are hidden", &options.table, source);
    let row = client.query_one("SELECT row_security_active($1::oid)", &[&live.oid]).await.map_err(failed)?;
    let read = if !columns.kept.is_empty() {
        format!("the values of {} cannot be kept", columns.kept.join(", "))
    } else if options.min_rows_of_live > 0.0 {
        "its rows cannot be counted".to_owned()
    } else if live.dependents.foreign_keys.iter().any(|key| key.validated && key.enforced) {
        "the foreign keys that refer to it cannot be checked".to_owned()
    } else {
        return Ok(None);
    };
    Ok(row.get::<_, bool>(0).then(|| Blocker {
        object: format!("table {}", options.table),
        why: format!("row-level security hides rows of it from our role, so {read}"),
        alternative: SEE_ALL_ROWS.to_owned(),
    }))
}

/// What our role must be allowed to do besides owning the table.
pub(super) async fn permissions(client: &Client, options: &TargetOptions) -> Result<Vec<Blocker>, PushError> {
    let schema = options.table.schema();
    let row = client
        .query_one(
            "SELECT has_database_privilege(current_database(), 'CREATE'), \
                    (SELECT has_schema_privilege(n.oid, 'CREATE') FROM pg_namespace n WHERE n.nspname = $1), \
                    current_user::text, current_database()::text",
            &[&schema],
        )
        .await
        .map_err(|source| PushError::at("read our privileges", &options.table, source))?;
    let (database, in_schema): (bool, Option<bool>) = (row.get(0), row.get(1));
    let (role, name): (String, String) = (row.get(2), row.get(3));
    let mut blockers = Vec::new();
    if !database {
        blockers.push(Blocker {
            object: format!("database {name}"),
            why: format!("role {role} may not create a schema in it, which every push loads into"),
            alternative: format!("GRANT CREATE ON DATABASE {name} TO {role}"),
        });
    }
    match in_schema {
        Some(true) => {}
        Some(false) => blockers.push(Blocker {
            object: format!("schema {schema}"),
            why: format!("role {role} may not create tables in it"),
            alternative: format!("GRANT CREATE ON SCHEMA {schema} TO {role}"),
        }),
        None => blockers.push(Blocker {
            object: format!("schema {schema}"),
            why: "it does not exist".to_owned(),
            alternative: "create it, or name another target table".to_owned(),
        }),
    }
    Ok(blockers)
}

/// One line per thing that is carried over.
fn carried(live: &Attributes) -> Vec<String> {
    let mut lines: Vec<String> = live.indexes.iter().map(|index| format!("index {}", index.name)).collect();
    let keys = live.constraints.iter().filter(|constraint| matches!(constraint.kind, 'p' | 'u' | 'c' | 'x' | 'f'));
    lines.extend(keys.map(|constraint| format!("constraint {} {}", constraint.name, constraint.definition)));
    lines.extend(live.policies.iter().map(|policy| format!("policy {}", policy.name)));
    lines.extend(live.statistics.iter().map(|statistics| format!("statistics {}", statistics.name)));
    lines.extend(live.triggers.iter().map(|trigger| format!("trigger {}", trigger.name)));
    lines.extend(live.dependents.lines());
    lines.extend(live.publications.iter().map(|publication| format!("publication {}", publication.name)));
    lines.extend(live.sequences.iter().map(|sequence| format!("sequence {} of {}", sequence.name, sequence.column)));
    let mut grantees: Vec<&str> = live
        .privileges
        .iter()
        .chain(live.columns.iter().flat_map(|column| &column.privileges))
        .map(|privilege| privilege.grantee.as_deref().unwrap_or("PUBLIC"))
        .filter(|grantee| *grantee != live.owner)
        .collect();
    grantees.sort_unstable();
    grantees.dedup();
    lines.extend(grantees.iter().map(|grantee| format!("privileges of {grantee}")));
    if live.row_security {
        lines.push("row-level security".to_owned());
    }
    lines.extend(live.options.iter().map(|option| format!("option {option}")));
    lines
}
