//! Rows whose key the live table lacks, inserted in one transaction; nothing that is there is touched.
//!
//! For tables that other programs own and write, such as an application's list of entities: they are never replaced,
//! so there is no staging table in their place, no backup and no rollback.

use std::collections::BTreeMap;
use std::time::Instant;

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use futures::Stream;
use serde::Serialize;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::pg::{DatabaseUrl, quote_ident, quote_table};
use crate::progress::{Progress, Step};
use crate::schema::TableName;

use super::attributes::{self, Attributes};
use super::backup;
use super::columns::ColumnMatch;
use super::copy_in::{self, Dataset, Loaded};
use super::error::{Blocker, BoxError, PushError};
use super::key_index::UNIQUE_INDEX;
use super::live_views::ViewsReport;
use super::options::{MissingColumns, NewColumns, TargetOptions};
use super::plan::{PushMode, PushPlan};
use super::session::{self, LockKey};

/// The schema of temporary tables.
const TEMPORARY: &str = "pg_temp";

/// What a push of missing rows did.
#[derive(Debug, Clone, Serialize)]
pub struct InsertReport {
    /// The live table.
    pub table: TableName,
    /// Always [`PushMode::InsertMissing`].
    pub mode: PushMode,
    /// Rows inserted.
    pub inserted: u64,
    /// Rows of the dataset whose key was there already; they are as they were.
    pub present: u64,
    /// COPY bytes sent.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// The views beside the live table, when they were asked for.
    pub views: Option<ViewsReport>,
    /// Things worth knowing, one sentence each.
    pub notes: Vec<String>,
}

/// Inserts the rows of the dataset whose key the live table lacks, all of them or none.
///
/// The transaction takes the locks that any `INSERT` takes; readers and writers go on. Rows that others insert
/// meanwhile are met by the unique index over the key and stay theirs.
///
/// # Errors
/// [`PushError`]; unless it says otherwise, the live table is as it was.
pub async fn insert_missing<S>(
    url: &DatabaseUrl,
    options: &TargetOptions,
    dataset: Dataset<S>,
    run_id: &str,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<InsertReport, PushError>
where
    S: Stream<Item = Result<RecordBatch, BoxError>> + Send,
{
    let table = &options.table;
    let (session, _) = session::open(url, table, run_id).await?;
    let lock = LockKey::of(table);
    session::take_lock(&session, lock, table).await?;
    let plan = plan(&session, options, &dataset.schema).await?;
    if !plan.blockers.is_empty() {
        return Err(PushError::Blocked { table: table.clone(), blockers: plan.blockers });
    }
    let started = Instant::now();
    // Whatever ends early drops the session with its transaction, and the server undoes it.
    let (loaded, inserted) = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(PushError::Cancelled { table: table.clone() }),
        done = insert(&session, options, &plan.columns, dataset, progress) => done?,
    };
    session.batch_execute("COMMIT").await.map_err(|source| {
        match PushError::at("commit the new rows", table, source) {
            PushError::Lost { source, table, .. } => {
                PushError::OutcomeUnknown { table, source: source.map(BoxError::from) }
            }
            refused => refused,
        }
    })?;
    session::release_lock(&session, lock).await;
    tracing::info!(%table, rows = inserted, bytes = loaded.bytes, "inserted");
    Ok(InsertReport {
        table: table.clone(),
        mode: plan.mode,
        inserted,
        present: loaded.rows - inserted,
        bytes: loaded.bytes,
        seconds: started.elapsed().as_secs_f64(),
        views: None,
        notes: plan.notes,
    })
}

/// Loads into a temporary table and inserts from it; what is left to do is the commit.
async fn insert<S>(
    client: &Client,
    options: &TargetOptions,
    columns: &ColumnMatch,
    dataset: Dataset<S>,
    progress: &Progress,
) -> Result<(Loaded, u64), PushError>
where
    S: Stream<Item = Result<RecordBatch, BoxError>> + Send,
{
    let table = &options.table;
    let (live, staging) = (quote_table(table), TableName::new(TEMPORARY, table.name()));
    let names: Vec<String> = columns.load.iter().map(|(_, column)| quote_ident(&column.name)).collect();
    let names = names.join(", ");
    // Triggers run as for any other client, so what they read is not to fail where it would only be less.
    let create = format!(
        "BEGIN; SET LOCAL row_security = on; CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {live} WITH NO DATA",
        quote_table(&staging),
        columns.raw_values().join(", ")
    );
    client.batch_execute(&create).await.map_err(|source| PushError::at("create the temporary table", table, source))?;
    let work = progress.start(Step::Push, table.to_string(), Some(dataset.rows));
    let loaded = copy_in::load(client, options, &staging, columns, dataset, &work, None).await?;
    for ((_, column), nulls) in columns.load.iter().zip(&loaded.nulls) {
        if *nulls > 0 && options.key.contains(&column.name) {
            let what = format!("{nulls} rows have no {}, which is part of the key", column.name);
            return Err(PushError::Verify { table: table.clone(), what });
        }
    }
    let key: Vec<String> = options.key.iter().map(|column| quote_ident(column)).collect();
    let same: Vec<String> = key.iter().map(|column| format!("live.{column} = new.{column}")).collect();
    let key = key.join(", ");
    let names_of = columns.load.iter().map(|(_, column)| quote_ident(&column.name));
    let casts: Vec<String> =
        columns.cast_values().into_iter().zip(names_of).map(|(value, name)| format!("{value} AS {name}")).collect();
    // Looking first spares the numbers of an identity that a refused row would use up.
    let sql = format!(
        "INSERT INTO {live} ({names}) SELECT {names} FROM (SELECT {} FROM {}) AS new \
         WHERE NOT EXISTS (SELECT FROM {live} AS live WHERE {}) ORDER BY {key} ON CONFLICT ({key}) DO NOTHING",
        casts.join(", "),
        quote_table(&staging),
        same.join(" AND ")
    );
    let inserted =
        client.execute(&sql, &[]).await.map_err(|source| PushError::at("insert the missing rows", table, source))?;
    work.finish();
    Ok((loaded, inserted))
}

/// What [`insert_missing`] would do. It writes nothing.
pub(super) async fn plan(client: &Client, options: &TargetOptions, dataset: &Schema) -> Result<PushPlan, PushError> {
    let table = &options.table;
    let live = attributes::read(client, table).await?;
    let mut blockers = Vec::new();
    let columns = if let Some(live) = &live {
        let (columns, mismatches) = ColumnMatch::with_table(&column_options(options), dataset, live);
        blockers.extend(of_the_table(client, options, live).await?);
        blockers.extend(mismatches);
        blockers.extend(columns.missing_key(&options.key));
        columns
    } else {
        blockers.push(blocker(table, "it does not exist, and mode insert_missing creates no table", "create it"));
        ColumnMatch::default()
    };
    let live_bytes = live.as_ref().map_or(0, |live| live.bytes);
    let triggers = live.as_ref().map_or(0, |live| live.triggers.len());
    let mut notes = vec!["rows whose key is there stay as they are, whatever the dataset says of them".to_owned()];
    if triggers > 0 {
        notes.push(format!("{triggers} triggers of {table} run for the new rows"));
    }
    Ok(PushPlan {
        table: table.clone(),
        mode: PushMode::InsertMissing,
        live_exists: live.is_some(),
        columns,
        carried: Vec::new(),
        blockers,
        live_rows_estimated: live.as_ref().and_then(backup::rows),
        live_bytes,
        replaces_backup: None,
        // The temporary table holds some of the live table's columns, and no indexes.
        disk_bytes_needed: live_bytes,
        notes,
    })
}

/// Columns that the dataset lacks concern the new rows alone, and the table itself is not changed.
fn column_options(options: &TargetOptions) -> TargetOptions {
    let new_columns = match options.new_columns {
        NewColumns::Add => NewColumns::Error,
        other => other,
    };
    TargetOptions { new_columns, missing_columns: MissingColumns::Null, missing: BTreeMap::new(), ..options.clone() }
}

fn blocker(object: impl std::fmt::Display, why: &str, alternative: &str) -> Blocker {
    Blocker { object: format!("table {object}"), why: why.to_owned(), alternative: alternative.to_owned() }
}

/// What the table and our rights on it rule out.
async fn of_the_table(client: &Client, options: &TargetOptions, live: &Attributes) -> Result<Vec<Blocker>, PushError> {
    let table = &options.table;
    if !matches!(live.kind, 'r' | 'p') {
        return Ok(vec![blocker(table, "it is not a table", "push into a table")]);
    }
    let mut key = options.key.clone();
    key.sort_unstable();
    let row = client
        .query_one(
            &format!(
                "SELECT has_table_privilege($1::oid, 'SELECT') AND has_table_privilege($1::oid, 'INSERT'), \
                    has_database_privilege(current_database(), 'TEMPORARY'), row_security_active($1::oid), \
                    {UNIQUE_INDEX}, \
                    current_user::text, current_database()::text"
            ),
            &[&live.oid, &key],
        )
        .await
        .map_err(|source| PushError::at("read our privileges", table, source))?;
    let (role, database): (String, String) = (row.get(4), row.get(5));
    let mut blockers = Vec::new();
    if !row.get::<_, bool>(0) {
        blockers.push(blocker(
            table,
            &format!("role {role} may not read it and insert into it"),
            &format!("GRANT SELECT, INSERT ON {} TO {}", quote_table(table), quote_ident(&role)),
        ));
    }
    if !row.get::<_, bool>(1) {
        blockers.push(Blocker {
            object: format!("database {database}"),
            why: format!("role {role} may not create temporary tables in it"),
            alternative: format!("GRANT TEMPORARY ON DATABASE {} TO {}", quote_ident(&database), quote_ident(&role)),
        });
    }
    if row.get(2) {
        let why = format!("row-level security hides rows from role {role}, so it cannot tell which are missing");
        blockers.push(blocker(table, &why, "push as the owner or as a role with BYPASSRLS"));
    }
    if !row.get::<_, bool>(3) {
        let key = options.key.join(", ");
        let why = format!("no unique index over ({key}) keeps two rows with one key apart");
        blockers.push(blocker(table, &why, "create one, or correct the key in the pipeline file"));
    }
    Ok(blockers)
}
