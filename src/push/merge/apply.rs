//! The transaction of a merge: it stops writers, compares, keeps the rows from before, and changes those that differ.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::pg::{DatabaseUrl, Session, quote_ident, quote_literal, quote_table};
use crate::progress::{Progress, Step};
use crate::push::backup::Marker;
use crate::push::error::{Blocker, PushError};
use crate::push::options::TargetOptions;
use crate::push::run_schema::RunSchema;
use crate::push::session::{self, LockKey};
use crate::push::{orphans, plan, replace, staging, swap};
use crate::schema::TableName;

use super::MergeCounts;
use super::pace::Pace;
use super::plan::{Target, fires};
use super::sql::{Kind, Statements};

/// Memory for comparing and sorting; beyond it the server writes temporary files.
const COMPARE_MEMORY: &str = "128MB";
/// How long the first lock may be waited for; it makes a running autovacuum leave and holds nobody up.
const FIRST_LOCK_TIMEOUT: &str = "5s";
/// How long a client that has gone silent may hold up writers.
const IDLE_MAX: &str = "60s";
/// The pause after the first attempt to get the lock; each further one is longer by half and a bit.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Rows named in an error at most.
const ROWS_NAMED: u32 = 10;

/// The tables of the run schema besides the source.
const CHANGES: &str = "_changes";
const MOVED: &str = "_moved";
/// The former backup, once the new one has its name.
pub(super) const FORMER_BACKUP: &str = "_former_backup";
/// The new backup, until the former one has made room.
const NEW_BACKUP: &str = "_new_backup";

/// One merge of a source table into the live table.
#[derive(Debug)]
pub(super) struct Merge<'a> {
    pub(super) options: &'a TargetOptions,
    pub(super) target: &'a Target,
    /// A table of the run schema, or the former backup once it is there.
    pub(super) source: &'a TableName,
    pub(super) run_schema: &'a RunSchema,
    pub(super) run_id: &'a str,
    /// The longest that writers queue behind one attempt to lock.
    pub(super) lock_budget: Duration,
    /// What takes the backups that are there out of the new one's place.
    pub(super) make_room: Vec<String>,
    /// Comments of columns.
    pub(super) descriptions: Vec<String>,
}

/// What a merge did; it is there after the commit.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) counts: MergeCounts,
    pub(super) rows_before: u64,
    pub(super) attempts: u32,
    pub(super) pace: Pace,
}

impl Merge<'_> {
    /// Does everything but the commit, anew when others hold a lock that it needs, until the deadline passes. What is
    /// merged stays loaded meanwhile.
    pub(super) async fn apply(&self, client: &Client, progress: &Progress) -> Result<Applied, PushError> {
        let table = &self.options.table;
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut pace = Pace::new(self.options.merge.max_wal_rate);
            let error = match self.attempt(client, progress, &mut pace).await {
                Ok((counts, rows_before)) => return Ok(Applied { counts, rows_before, attempts, pace }),
                Err(error) => error,
            };
            if !error.is_blocked() {
                return Err(error);
            }
            let undone = client.batch_execute("ROLLBACK").await;
            undone.map_err(|source| PushError::at("undo the attempt to merge", table, source))?;
            let blockers = swap::lock_holders(client, &[self.target.live.oid]).await;
            tracing::warn!(attempts, %error, blockers = blockers.join(", "), "the table is in use; trying again");
            if started.elapsed() + pause > self.options.swap_deadline {
                let seconds = started.elapsed().as_secs();
                return Err(PushError::LockTimedOut { table: table.clone(), attempts, seconds, blockers });
            }
            tokio::time::sleep(pause).await;
            pause = pause.mul_f64(1.6).min(PAUSE_MAX);
        }
    }

    async fn attempt(
        &self,
        client: &Client,
        progress: &Progress,
        pace: &mut Pace,
    ) -> Result<(MergeCounts, u64), PushError> {
        let table = &self.options.table;
        let failed = |step| move |source| PushError::at(step, table, source);
        self.lock(client).await?;
        self.guard(client).await?;
        let work = progress.start(Step::Push, "backup", None);
        let rows_before = self.back_up(client).await?;
        work.finish();
        let [changes, moved] = [CHANGES, MOVED].map(|name| self.run_schema.table(name));
        let statements = Statements::new(table, self.source, &changes, &moved, &self.target.shape);
        let work = progress.start(Step::Push, "compare", None);
        client.batch_execute(&statements.compare()).await.map_err(failed("compare the rows"))?;
        let rows = client.query(&statements.count_changes(), &[]).await.map_err(failed("count the changes"))?;
        let mut found = Vec::new();
        for kind in Kind::ALL {
            let row = rows.iter().find(|row| row.get::<_, String>(0) == kind.letter().to_string());
            found.extend(row.map(|row| Changes { kind, rows: row.get(1), first: row.get(2), last: row.get(3) }));
        }
        self.check_children(client, &statements).await?;
        work.finish();
        let total = found.iter().map(|changes| to_u64(changes.rows)).sum();
        let limit = self.options.merge.max_wal_rate.map(|rate| format!(", at most {rate} MB/s of log"));
        let work = progress.start(Step::Push, format!("merge{}", limit.unwrap_or_default()), Some(total));
        let triggers = self.triggers();
        client.batch_execute(&triggers.disable).await.map_err(failed("disable the table's triggers"))?;
        if found.iter().any(|changes| changes.kind == Kind::Move) {
            client.batch_execute(&statements.keep_moving()).await.map_err(failed("keep rows that change places"))?;
        }
        for changes in &found {
            self.change(client, &statements, changes, pace, |rows| work.add(rows, 0)).await?;
        }
        client.batch_execute(&triggers.enable).await.map_err(failed("enable the table's triggers again"))?;
        let described = self.descriptions.join(";");
        client.batch_execute(&described).await.map_err(failed("comment the columns"))?;
        self.advance_sequences(client).await?;
        work.finish();
        let of = |kind| found.iter().find(|changes| changes.kind == kind).map_or(0, |changes| to_u64(changes.rows));
        let (updated, deleted) = (of(Kind::Update) + of(Kind::Move), of(Kind::Delete));
        let unchanged = rows_before.saturating_sub(updated + deleted);
        let counts = MergeCounts { inserted: of(Kind::Insert), updated, deleted, unchanged };
        Ok((counts, rows_before))
    }

    /// Begins the transaction with the lock that stops writers, who queue for the lock budget at most. No later lock is
    /// waited for longer either.
    async fn lock(&self, client: &Client) -> Result<(), PushError> {
        let table = &self.options.table;
        let name = quote_table(table);
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL search_path = ''; SET LOCAL synchronous_commit = on; \
             SET LOCAL idle_in_transaction_session_timeout = '{IDLE_MAX}'; SET LOCAL work_mem = '{COMPARE_MEMORY}'; \
             SET LOCAL lock_timeout = '{FIRST_LOCK_TIMEOUT}'; LOCK TABLE ONLY {name} IN SHARE UPDATE EXCLUSIVE MODE; \
             SET LOCAL lock_timeout = {}; LOCK TABLE ONLY {name} IN SHARE ROW EXCLUSIVE MODE",
            self.lock_budget.as_millis().max(1)
        );
        let locked = client.batch_execute(&begin).await;
        locked.map_err(|source| PushError::at("lock the table against writers", table, source))
    }

    /// The table must be the one that was inspected.
    async fn guard(&self, client: &Client) -> Result<(), PushError> {
        let table = &self.options.table;
        let drifted = |what: &str| PushError::Drifted { table: table.clone(), what: what.to_owned() };
        let failed = |source| PushError::at("look at the table again", table, source);
        let row = client.query_one("SELECT to_regclass($1)::oid", &[&quote_table(table)]).await.map_err(failed)?;
        if row.get::<_, Option<u32>>(0) != Some(self.target.live.oid) {
            return Err(drifted("another table has its name"));
        }
        if plan::fingerprint(client, table, self.target.live.oid).await? != self.target.fingerprint {
            return Err(drifted("its catalogue entries are others"));
        }
        Ok(())
    }

    /// Copies the live table to the backup: without grants, closed, marked, and with nothing attached. Answers how many
    /// rows it has.
    async fn back_up(&self, client: &Client) -> Result<u64, PushError> {
        let live = &self.target.live;
        let (table, backup) = (&self.options.table, self.options.backup_table());
        let failed = |source| PushError::at("back the table up", table, source);
        let run_schema = quote_ident(self.run_schema.name());
        let copy = self.run_schema.table(NEW_BACKUP);
        client.batch_execute(&self.make_room.join(";")).await.map_err(failed)?;
        let name = quote_table(&copy);
        let rows = client
            .execute(&format!("CREATE TABLE {name} AS SELECT * FROM ONLY {}", quote_table(table)), &[])
            .await
            .map_err(failed)?;
        let mut marker = Marker::new(self.run_id, table, 0, live.oid);
        (marker.merged, marker.rows) = (true, Some(rows));
        let marker = serde_json::to_string(&marker).unwrap_or_default();
        let owner = quote_ident(&live.owner);
        // The names are changed where nobody else has any.
        let in_the_way = self.run_schema.table(backup.name());
        let close = [
            staging::revoke_all_but_owner("TABLE", "r", &name),
            format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"),
            format!("COMMENT ON TABLE {name} IS {}", quote_literal(&marker)),
            format!("GRANT USAGE, CREATE ON SCHEMA {run_schema} TO {owner}"),
            format!("ALTER TABLE {name} OWNER TO {owner}"),
            format!("ALTER TABLE IF EXISTS {} RENAME TO {FORMER_BACKUP}", quote_table(&in_the_way)),
            format!("ALTER TABLE {name} RENAME TO {}", quote_ident(backup.name())),
            format!("ALTER TABLE {} SET SCHEMA {}", quote_table(&in_the_way), quote_ident(backup.schema())),
        ];
        client.batch_execute(&close.join(";")).await.map_err(failed)?;
        Ok(rows)
    }

    /// A row that others refer to is not deleted: whatever the foreign key says, it would take them along, change them
    /// or fail. The rows are locked first, so that nobody can refer to one of them between the look and the deletion.
    async fn check_children(&self, client: &Client, statements: &Statements<'_>) -> Result<(), PushError> {
        let table = &self.options.table;
        let mut blockers = Vec::new();
        if !self.target.children.is_empty() {
            let locked = client.batch_execute(&statements.lock_deleted()).await;
            locked.map_err(|source| PushError::at("lock rows that are to be deleted", table, source))?;
        }
        for child in &self.target.children {
            let rows = client
                .query(&statements.children_left(&child.table, &child.columns, ROWS_NAMED), &[])
                .await
                .map_err(|source| PushError::at("look for rows that refer to deleted ones", table, source))?;
            if !rows.is_empty() {
                let keys: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                blockers.push(Blocker {
                    object: format!("foreign key {} of {}", child.constraint, child.table),
                    why: format!("it refers to rows that the new rows lack, such as {}", keys.join("; ")),
                    alternative: format!("delete those rows of {} first, or keep the rows in the dataset", child.table),
                });
            }
        }
        if blockers.is_empty() { Ok(()) } else { Err(PushError::Blocked { table: table.clone(), blockers }) }
    }

    async fn change(
        &self,
        client: &Client,
        statements: &Statements<'_>,
        changes: &Changes,
        pace: &mut Pace,
        mut done: impl FnMut(u64),
    ) -> Result<(), PushError> {
        let table = &self.options.table;
        let step = match changes.kind {
            Kind::Delete => "delete rows that are gone",
            Kind::Move | Kind::Update => "update rows that differ",
            Kind::Insert => "insert new rows",
        };
        let mut changed = 0;
        let mut first = changes.first;
        while first <= changes.last {
            let last = changes.last.min(first + pace.batch_rows() - 1);
            let sql = statements.change(changes.kind, &(first..=last));
            let rows = pace.change(client, table, step, &sql).await?;
            changed += rows;
            done(rows);
            first = last + 1;
        }
        if changes.kind == Kind::Move {
            let back = client.execute(&statements.bring_back(), &[]).await;
            changed = changed.min(back.map_err(|source| PushError::at(step, table, source))?);
        }
        if changed != to_u64(changes.rows) {
            let what = format!("it was about to {step}, {} of them, and met {changed}", changes.rows);
            return Err(PushError::Verify { table: table.clone(), what });
        }
        Ok(())
    }

    /// Triggers would change the rows once more; each gets back the state that it had.
    fn triggers(&self) -> Triggers {
        let live = &self.target.live;
        let table = quote_table(&self.options.table);
        let (mut disable, mut enable) = (Vec::new(), Vec::new());
        for trigger in live.triggers.iter().filter(|trigger| fires(trigger.enabled)) {
            let name = quote_ident(&trigger.name);
            let always = if trigger.enabled == 'A' { "ALWAYS " } else { "" };
            disable.push(format!("ALTER TABLE ONLY {table} DISABLE TRIGGER {name}"));
            enable.push(format!("ALTER TABLE ONLY {table} ENABLE {always}TRIGGER {name}"));
        }
        Triggers { disable: disable.join(";"), enable: enable.join(";") }
    }

    async fn advance_sequences(&self, client: &Client) -> Result<(), PushError> {
        let table = &self.options.table;
        for position in replace::sequences(client, table, table, &self.target.live).await? {
            let Some(sql) = position.setval(table.schema(), None) else { continue };
            let failed = |source| PushError::at("advance a sequence", table, source);
            client.batch_execute(&sql).await.map_err(failed)?;
        }
        Ok(())
    }
}

/// The rows of one kind, with their numbers.
struct Changes {
    kind: Kind,
    rows: i64,
    first: i64,
    last: i64,
}

struct Triggers {
    disable: String,
    enable: String,
}

fn to_u64(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or(0)
}

/// Commits. When the connection ends meanwhile, the marker of the backup, which is part of the transaction, tells what
/// became of it. Answers a session that holds the push lock, and whether the server had to be asked.
pub(super) async fn commit(
    url: &DatabaseUrl,
    options: &TargetOptions,
    session: Session,
    run_id: &str,
    lock: LockKey,
    pid: i32,
) -> Result<(Session, bool), PushError> {
    let table = &options.table;
    let lost = match session.batch_execute("COMMIT").await {
        Ok(()) => return Ok((session, false)),
        Err(error) => match PushError::at("commit the merge", table, error) {
            PushError::Lost { source, .. } => source,
            refused => return Err(refused),
        },
    };
    drop(session);
    let error = lost.as_ref().map(ToString::to_string);
    tracing::warn!(error, "lost the connection at the commit; asking the server what became of it");
    let (session, _) = session::reopen(url, options, run_id, lock, pid).await?;
    let unknown = |source| PushError::OutcomeUnknown { table: table.clone(), source: Some(Box::new(source)) };
    if orphans::backup_of(&session, table, run_id).await.map_err(unknown)?.is_some() {
        return Ok((session, true));
    }
    Err(PushError::Lost { step: "commit the merge", table: table.clone(), source: lost })
}

/// What a report says of a commit whose answer was lost.
pub(super) fn answer_lost() -> String {
    "the connection was lost at the commit; the server says that it had happened".to_owned()
}
