//! Materialized views over the live tables: made anew when their SQL changed, else refreshed; readers are never without.
//!
//! They are built in a run schema, where nobody waits for them, and take the place of the old ones in one short
//! transaction. A comment on each tells by which SQL it was made.

use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::pg::{DatabaseUrl, quote_ident, quote_literal, quote_table};
use crate::progress::{Progress, Step};
use crate::schema::TableName;

use super::error::{Blocker, PushError};
use super::lock_retry;
use super::orphans;
use super::run_schema::RunSchema;
use super::session::{self, LockKey, Server};

/// How long one attempt to put the views in place waits for readers, who wait behind it.
const LOCK_BUDGET: Duration = Duration::from_millis(400);
/// Attempts before the views are left as they were.
const ATTEMPTS_MAX: u32 = 60;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// What the comment on a view of ours begins with; its SQL's fingerprint follows.
const COMMENT: &str = "racealpha views ";

/// The SQL of some views: `CREATE MATERIALIZED VIEW` and `CREATE UNIQUE INDEX` statements without schema names.
#[derive(Debug, Clone, Copy)]
pub struct LiveViews<'a> {
    /// The statements.
    pub sql: &'a str,
    /// The views in the order in which they are made.
    pub names: &'a [String],
}

/// What happened to the views.
#[derive(Debug, Clone, Serialize)]
pub struct ViewsReport {
    /// The views.
    pub views: Vec<TableName>,
    /// Whether they were made anew, and not only refreshed.
    pub created: bool,
    /// How long it took.
    pub seconds: f64,
}

/// Brings the views in the schema of `table` up to date with the tables there.
///
/// # Errors
/// [`PushError`]; the views then are what they were before, or partly refreshed.
pub async fn update_views(
    url: &DatabaseUrl,
    table: &TableName,
    views: LiveViews<'_>,
    run_id: &str,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<ViewsReport, PushError> {
    let started = Instant::now();
    let places: Vec<TableName> = views.names.iter().map(|name| TableName::new(table.schema(), name.as_str())).collect();
    let Some(first) = places.first() else {
        return Ok(ViewsReport { views: places, created: false, seconds: 0.0 });
    };
    let (session, server) = session::open(url, first, run_id).await?;
    let lock = LockKey::of(first);
    session::take_lock(&session, lock, first).await?;
    orphans::settle(&session, first, false).await?;
    let job = Job { session: &session, server: &server, first, places: &places, sql: views.sql, progress };
    let schema = RunSchema::new(run_id, first);
    let updated = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(PushError::Cancelled { table: first.clone() }),
        updated = job.update(&schema) => updated,
    };
    if updated.is_err() {
        // Closing the socket ends what the server still does; what is left then, this or the next run removes.
        drop(session);
        let (session, _) = session::open(url, first, run_id).await?;
        session::wait_for_lock(&session, lock, first, LOST_PATIENCE).await?;
        schema.remove(&session, first).await?;
        session::release_lock(&session, lock).await;
    } else {
        session::release_lock(&session, lock).await;
    }
    updated.map(|created| ViewsReport { views: places.clone(), created, seconds: started.elapsed().as_secs_f64() })
}

/// How long a session that was given up may take to end.
const LOST_PATIENCE: Duration = Duration::from_secs(60);

/// A view of today.
struct Existing {
    kind: String,
    comment: Option<String>,
    owner: String,
    /// `GRANT …` statements that give its successor the same privileges.
    grants: Vec<String>,
}

struct Job<'a> {
    session: &'a Client,
    server: &'a Server,
    first: &'a TableName,
    places: &'a [TableName],
    sql: &'a str,
    progress: &'a Progress,
}

impl Job<'_> {
    fn failed(&self, step: &'static str) -> impl Fn(tokio_postgres::Error) -> PushError {
        let table = self.first.clone();
        move |source| PushError::at(step, &table, source)
    }

    /// Whether the views were made anew.
    async fn update(&self, schema: &RunSchema) -> Result<bool, PushError> {
        let mut existing = Vec::with_capacity(self.places.len());
        for place in self.places {
            existing.push(self.look(place).await?);
        }
        let comment = format!("{COMMENT}{}", fingerprint(self.sql));
        if existing.iter().all(|view| view.as_ref().is_some_and(|view| view.comment.as_ref() == Some(&comment))) {
            for place in self.places {
                let work = self.progress.start(Step::Push, format!("refresh {place}"), None);
                let sql = format!("REFRESH MATERIALIZED VIEW CONCURRENTLY {}", quote_table(place));
                self.session.batch_execute(&sql).await.map_err(self.failed("refresh the views"))?;
                work.finish();
            }
            return Ok(false);
        }
        let work = self.progress.start(Step::Push, "make the views", None);
        self.build(schema).await?;
        self.put_in_place(schema, &existing, &comment).await?;
        schema.remove(self.session, self.first).await?;
        work.finish();
        Ok(true)
    }

    async fn look(&self, place: &TableName) -> Result<Option<Existing>, PushError> {
        let row = self
            .session
            .query_opt(
                "SELECT c.relkind::text, obj_description(c.oid, 'pg_class'), pg_get_userbyid(c.relowner), \
                        ARRAY(SELECT format('GRANT %s ON %%s TO %s%s', a.privilege_type, \
                                            CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, \
                                            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) \
                              FROM aclexplode(c.relacl) AS a WHERE a.grantee <> c.relowner) \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
                &[&place.schema(), &place.name()],
            )
            .await
            .map_err(self.failed("look at the views"))?;
        let Some(row) = row else { return Ok(None) };
        let view = Existing { kind: row.get(0), comment: row.get(1), owner: row.get(2), grants: row.get(3) };
        if view.kind != "m" {
            let blocker = Blocker {
                object: place.to_string(),
                why: "it has the name of a view, and is no materialized view".to_owned(),
                alternative: "rename it, or set target.views = false".to_owned(),
            };
            return Err(PushError::Blocked { table: self.first.clone(), blockers: vec![blocker] });
        }
        Ok(Some(view))
    }

    /// Makes all views in the run schema. Names without a schema mean the run schema, then the live tables.
    async fn build(&self, schema: &RunSchema) -> Result<(), PushError> {
        let path = format!("{}, {}", quote_ident(schema.name()), quote_ident(self.first.schema()));
        let sql = format!(
            "BEGIN; {}; SET LOCAL search_path = {path}; {}; COMMIT",
            schema.create_sql(),
            self.sql.trim_end().trim_end_matches(';')
        );
        self.session.batch_execute(&sql).await.map_err(self.failed("make the views"))
    }

    /// Drops the old views and moves the new ones to their names, in one transaction.
    async fn put_in_place(
        &self,
        schema: &RunSchema,
        existing: &[Option<Existing>],
        comment: &str,
    ) -> Result<(), PushError> {
        // Later views read earlier ones, so whoever reads them locks them in this order.
        let old = self.places.iter().zip(existing).filter_map(|(place, view)| Some((place, view.as_ref()?))).rev();
        let locks = old.clone().map(|(place, view)| {
            format!("ALTER MATERIALIZED VIEW {} OWNER TO {}", quote_table(place), quote_ident(&view.owner))
        });
        let mut sql = vec![
            "BEGIN".to_owned(),
            lock_retry::all_within(self.server.lock_budget(LOCK_BUDGET), &locks.collect::<Vec<_>>()),
        ];
        sql.extend(old.map(|(place, _)| format!("DROP MATERIALIZED VIEW {}", quote_table(place))));
        for (place, view) in self.places.iter().zip(existing) {
            let (new, live) = (quote_table(&schema.table(place.name())), quote_table(place));
            sql.push(format!("ALTER MATERIALIZED VIEW {new} SET SCHEMA {}", quote_ident(place.schema())));
            sql.push(format!("COMMENT ON MATERIALIZED VIEW {live} IS {}", quote_literal(comment)));
            if let Some(view) = view {
                sql.extend(view.grants.iter().map(|grant| grant.replacen("%s", &live, 1)));
                sql.push(format!("ALTER MATERIALIZED VIEW {live} OWNER TO {}", quote_ident(&view.owner)));
            }
        }
        sql.push("COMMIT".to_owned());
        let sql = sql.join("; ");
        let mut attempt = 1;
        loop {
            let Err(error) = self.session.batch_execute(&sql).await else { return Ok(()) };
            if !lock_retry::is_blocked(&error) || attempt >= ATTEMPTS_MAX {
                return Err(self.failed("put the views in place")(error));
            }
            self.session.batch_execute("ROLLBACK").await.map_err(self.failed("put the views in place"))?;
            tokio::time::sleep(PAUSE).await;
            attempt += 1;
        }
    }
}

fn fingerprint(sql: &str) -> String {
    Sha256::digest(sql).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
