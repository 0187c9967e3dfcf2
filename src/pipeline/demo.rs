//! Everything on a private server: a production-like source, a live table with readers' grants, the whole rebuild, and
//! the views beside the live table.

use std::time::Instant;

use serde::Serialize;

use super::rebuild::rebuild;
use super::{Context, PipelineError, Pushed, RebuildReport};
use crate::config::{Pipeline, Settings};
use crate::fixtures::{self, FixtureOptions, FixtureReport};
use crate::pg::{DatabaseUrl, LocalServer, ServerOptions, Session, quote_ident, quote_table};
use crate::schema::TableName;
use crate::transform::{PhaseReport, WrittenTable};

const PURPOSE: &str = "demo";
const DATABASE: &str = "racing";
/// Roles as a hosted Postgres has them: the live table is open to the second and third.
const ROLES: [&str; 3] = ["anon", "authenticated", "service_role"];
/// Columns whose filling tells whether the table was rebuilt, where it has them.
const TELLING_COLUMNS: [&str; 5] =
    ["total_races", "win_percentage", "horse_elo", "last_5_avg_position", "jockey_win_rate"];

/// What a demo is made of.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Races of the synthetic source.
    pub races: u64,
    /// Decides everything about it.
    pub seed: u64,
    /// Leaves server and lake in place.
    pub keep: bool,
    /// The lake to use; a throw-away one when not set.
    pub lake: Option<String>,
}

/// What a demo did.
#[derive(Debug, Clone, Serialize)]
pub struct DemoReport {
    /// The server's version.
    pub postgres: String,
    /// The synthetic source.
    pub fixtures: FixtureReport,
    /// The rebuild.
    pub rebuild: RebuildReport,
    /// The phase that the server itself ran: the views that the push made, with their rows.
    pub views: Option<PhaseReport>,
    /// The live table before it.
    pub before: TargetLook,
    /// The live table after it.
    pub after: TargetLook,
    /// How to reach the kept server, password included, and how to remove it.
    pub kept: Option<KeptServer>,
    /// How long all of it took.
    pub seconds: f64,
}

/// A server left running.
#[derive(Debug, Clone, Serialize)]
pub struct KeptServer {
    /// Its URL.
    pub url: String,
    /// The lake's folder.
    pub lake: String,
    /// The command that stops and removes it.
    pub removal: String,
}

/// A look at the live table.
#[derive(Debug, Clone, Serialize)]
pub struct TargetLook {
    /// Its rows.
    pub rows: u64,
    /// Its columns.
    pub columns: u64,
    /// The first and last race date.
    pub dates: Option<(String, String)>,
    /// Indexes, keys included.
    pub indexes: u64,
    /// Row-level security policies.
    pub policies: u64,
    /// Privileges granted to others than the owner.
    pub grants: u64,
    /// Rows in which a telling column has a value other than null and zero.
    pub filled: Vec<(String, u64)>,
}

/// Starts a private server, fills it with the synthetic source and runs a rebuild on it, views included.
///
/// `base` gives the pipeline, the progress and the cancellation; its settings are not used. `visit` may look at all of
/// it before the server is stopped.
///
/// # Errors
/// [`PipelineError`]; server and lake are removed in any case but a kept success.
pub async fn demo(
    base: &Context,
    options: &DemoOptions,
    visit: impl AsyncFnOnce(&Context),
) -> Result<DemoReport, PipelineError> {
    let started = Instant::now();
    let mut server = tokio::task::spawn_blocking(|| LocalServer::start(&ServerOptions::default())).await??;
    let url = server.create_database(DATABASE).await?;
    let database: DatabaseUrl = url.as_str().parse()?;
    let folder = match &options.lake {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("racealpha-demo-lake-").tempdir().map_err(|source| {
            PipelineError::Output { path: std::env::temp_dir().display().to_string(), source: source.into() }
        })?),
    };
    let lake = options.lake.clone().or_else(|| folder.as_ref().map(|folder| folder.path().display().to_string()));
    let context = Context {
        pipeline: demo_pipeline(&base.pipeline),
        settings: Settings::for_server(database.clone(), lake.clone().unwrap_or_default(), base.settings.jobs),
        ..base.clone()
    };

    let mut session = Session::open(&database, PURPOSE).await?;
    let source = FixtureOptions { races: options.races, seed: options.seed };
    let made = fixtures::load(&mut session, &source, &base.progress, &base.cancel).await?;
    let table = context.pipeline.target.table.clone();
    open_to_readers(&session, &table).await?;
    let before = look(&session, &table).await?;
    let report = rebuild(&context).await?;
    let after = look(&session, &table).await?;
    let views = views(&session, &context, &report.push).await?;
    drop(session);
    let seconds = started.elapsed().as_secs_f64();
    visit(&context).await;

    let postgres = server.version().to_owned();
    let kept = if options.keep {
        let removal = server.removal_command();
        tokio::task::spawn_blocking(move || server.keep()).await??;
        let lake = folder.map_or(lake.unwrap_or_default(), |folder| folder.keep().display().to_string());
        Some(KeptServer { url: url.as_str().to_owned(), lake, removal })
    } else {
        tokio::task::spawn_blocking(move || drop(server)).await?;
        None
    };
    Ok(DemoReport { postgres, fixtures: made, rebuild: report, views, before, after, kept, seconds })
}

/// A demo shows every phase, and may be smaller than a production dataset is allowed to be.
fn demo_pipeline(pipeline: &Pipeline) -> Pipeline {
    let mut pipeline = pipeline.clone();
    pipeline.validate.min_rows = 1;
    pipeline.target.views = true;
    pipeline
}

/// What the push made of the phase for Postgres, where the pipeline has one.
async fn views(session: &Session, context: &Context, pushed: &Pushed) -> Result<Option<PhaseReport>, PipelineError> {
    let phases = context.phases()?.phases;
    let Some((phase, made)) = phases.into_iter().rfind(|phase| !phase.in_lake).zip(pushed.views()) else {
        return Ok(None);
    };
    let mut tables = Vec::with_capacity(made.views.len());
    for view in &made.views {
        let counted = session.query_one(&format!("SELECT count(*) FROM {}", quote_table(view)), &[]).await;
        let rows = counted.map_err(|source| fixture_error("the look at the views", source))?.get(0);
        tables.push(WrittenTable { name: view.name().to_owned(), rows: Some(number(rows)) });
    }
    Ok(Some(PhaseReport { phase: phase.name, seconds: made.seconds, tables }))
}

/// Roles, grants and a row-level security policy, as a hosted database has them.
async fn open_to_readers(session: &Session, table: &TableName) -> Result<(), PipelineError> {
    let name = quote_table(table);
    let mut sql = String::new();
    for role in ROLES {
        sql.push_str(&format!("CREATE ROLE {} NOLOGIN; ", quote_ident(role)));
    }
    sql.push_str(&format!(
        "ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; \
         GRANT SELECT ON {name} TO \"authenticated\"; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO \"service_role\"; \
         CREATE POLICY \"members read\" ON {name} FOR SELECT TO \"authenticated\" USING (true); \
         CREATE POLICY \"service writes\" ON {name} TO \"service_role\" USING (true) WITH CHECK (true)"
    ));
    session.batch_execute(&sql).await.map_err(|source| fixture_error("the readers' grants", source))
}

fn fixture_error(what: &str, source: tokio_postgres::Error) -> PipelineError {
    PipelineError::Fixtures(fixtures::FixtureError::Load { table: what.to_owned(), source })
}

async fn look(session: &Session, table: &TableName) -> Result<TargetLook, PipelineError> {
    let failed = |source| fixture_error("the look at the live table", source);
    let facts = session
        .query_one(
            "SELECT (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
                    (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid), \
                    (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid), \
                    (SELECT count(*) FROM aclexplode(c.relacl) g WHERE g.grantee <> c.relowner), \
                    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = ANY ($3)) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
            &[&table.schema(), &table.name(), &TELLING_COLUMNS.as_slice()],
        )
        .await
        .map_err(failed)?;
    let present: Vec<String> = facts.get(4);
    let telling: Vec<&str> = TELLING_COLUMNS.into_iter().filter(|column| present.iter().any(|p| p == column)).collect();
    let filled: String =
        telling.iter().map(|column| format!(", count(*) FILTER (WHERE {} <> 0)", quote_ident(column))).collect();
    let sql =
        format!("SELECT count(*), min(race_date)::text, max(race_date)::text{filled} FROM {}", quote_table(table));
    let row = session.query_one(&sql, &[]).await.map_err(failed)?;
    Ok(TargetLook {
        rows: number(row.get(0)),
        columns: number(facts.get(0)),
        dates: row.get::<_, Option<String>>(1).zip(row.get(2)),
        indexes: number(facts.get(1)),
        policies: number(facts.get(2)),
        grants: number(facts.get(3)),
        filled: telling.into_iter().enumerate().map(|(i, name)| (name.to_owned(), number(row.get(i + 3)))).collect(),
    })
}

/// A count of the server's.
fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
