//! A push puts the dataset in the live table's place: nothing attached is lost, readers never notice, and whatever
//! fails on the way leaves the live table as it was.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Schema;
use futures::{Stream, stream};
use racealpha::pg::{ConnectError, DatabaseUrl, LocalServer, ServerOptions, Session};
use racealpha::progress::Progress;
use racealpha::push::{
    self, BoxError, Dataset, MissingColumns, NewColumns, PushError, PushMode, PushReport, TargetMode, TargetOptions,
};
use racealpha::schema::TableName;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::support::{TestDb, connect};

/// Gives up on anything that should have happened by now.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database whose owner is no superuser and has what a hosted one has: three API roles, and default privileges that
/// open every new table in `public` to them.
pub(crate) struct Hosted {
    /// A superuser's session.
    pub(crate) admin: Client,
    /// The owner's session.
    pub(crate) owner: Client,
    pub(crate) url: DatabaseUrl,
    pub(crate) url_text: String,
    _db: TestDb,
}

impl Hosted {
    pub(crate) async fn new(name: &str) -> Result<Self> {
        let db = TestDb::new(name).await?;
        let admin = db.client().await?;
        // Roles belong to the whole cluster, and several tests may make them at once.
        for role in ["anon", "authenticated", "service_role", "team", "app LOGIN PASSWORD 'app'"] {
            let create = format!(
                "DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
            );
            admin.batch_execute(&create).await?;
        }
        admin
            .batch_execute(&format!(
                "ALTER DATABASE \"{}\" OWNER TO app; GRANT ALL ON SCHEMA public TO app;
                 GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role",
                db.name()
            ))
            .await?;
        let mut url: url::Url = db.url().parse()?;
        url.set_username("app").ok().context("a user name")?;
        url.set_password(Some("app")).ok().context("a password")?;
        let url_text = url.to_string();
        let owner = connect(&url_text).await?;
        owner
            .batch_execute(
                "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
                 ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
                 ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO anon",
            )
            .await?;
        Ok(Self { admin, owner, url: url_text.parse()?, url_text, _db: db })
    }

    pub(crate) async fn push(
        &self,
        options: &TargetOptions,
        run: &str,
        batch: RecordBatch,
    ) -> Result<PushReport, PushError> {
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        push::push(&self.url, options, dataset(batch), run, &progress, &cancel).await
    }

    pub(crate) async fn rollback(&self, options: &TargetOptions, run: &str) -> Result<push::RollbackReport, PushError> {
        push::rollback(&self.url, options, run, &Progress::new(), &CancellationToken::new()).await
    }

    pub(crate) async fn texts(&self, sql: &str) -> Result<Vec<String>> {
        let rows = self.admin.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    pub(crate) async fn number(&self, sql: &str) -> Result<i64> {
        Ok(self.admin.query_one(sql, &[]).await?.get(0))
    }

    /// Everything attached to a table, one fact a line, without oids and positions of sequences.
    pub(crate) async fn facts(&self, table: &str) -> Result<Vec<String>> {
        let mut facts = Vec::new();
        self.admin.batch_execute("SET search_path = pg_catalog").await?;
        for sql in FACTS {
            let rows = self.admin.query(*sql, &[&table]).await.with_context(|| (*sql).to_owned())?;
            facts.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        }
        for view in self.texts("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace ORDER BY oid").await? {
            let sql = "SELECT format('view %s oid %s reads %s as %s options %s owner %s privileges %s comment %s', $1::text, c.oid, pg_get_viewdef(c.oid),
                    (SELECT array_agg(DISTINCT d.refobjid::regclass::text ORDER BY d.refobjid::regclass::text) FROM pg_rewrite w JOIN pg_depend d ON d.objid = w.oid
                      WHERE w.ev_class = c.oid AND d.refclassid = 'pg_class'::regclass), reloptions, pg_get_userbyid(relowner), relacl,
                    obj_description(c.oid, 'pg_class')) FROM pg_class c WHERE oid = $1::text::regclass";
            facts.push(self.admin.query_one(sql, &[&view]).await?.get(0));
        }
        Ok(facts)
    }

    pub(crate) async fn run_schemas(&self) -> Result<Vec<String>> {
        self.texts("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE '\\_push\\_%'").await
    }
}

/// Queries that together say everything attached to the table `$1`.
const FACTS: &[&str] = &[
    "SELECT format('table kind %s owner %s persistence %s rls %s force %s identity %s options %s toast %s comment %s', relkind,
            pg_get_userbyid(relowner), relpersistence, relrowsecurity, relforcerowsecurity, relreplident,
            (SELECT array_agg(o ORDER BY o) FROM unnest(reloptions) o),
            (SELECT t.reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid), obj_description(oid, 'pg_class'))
       FROM pg_class c WHERE oid = $1::text::regclass",
    "SELECT format('column %s %s %s notnull %s default %s identity %s generated %s collation %s storage %s compression %s target %s options %s comment %s',
            row_number() OVER (ORDER BY attnum), attname, format_type(atttypid, atttypmod), attnotnull,
            (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum), attidentity,
            attgenerated, attcollation::regcollation, attstorage, attcompression, attstattarget,
            (SELECT array_agg(o) FROM unnest(attoptions) o WHERE NOT starts_with(o, 'pg_')), col_description(attrelid, attnum))
       FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    "SELECT format('constraint %s %s valid %s deferrable %s %s comment %s', conname, pg_get_constraintdef(oid), convalidated,
            condeferrable, condeferred, obj_description(oid, 'pg_constraint'))
       FROM pg_constraint WHERE conrelid = $1::text::regclass ORDER BY conname",
    "SELECT format('index %s unique %s primary %s valid %s clustered %s identity %s comment %s targets %s', pg_get_indexdef(indexrelid),
            indisunique, indisprimary, indisvalid, indisclustered, indisreplident, obj_description(indexrelid, 'pg_class'),
            (SELECT array_agg(attstattarget ORDER BY attnum) FROM pg_attribute WHERE attrelid = indexrelid))
       FROM pg_index WHERE indrelid = $1::text::regclass ORDER BY indexrelid::regclass::text",
    "SELECT format('policy %s permissive %s command %s roles %s using %s check %s comment %s', polname, polpermissive, polcmd,
            (SELECT array_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r) END ORDER BY r) FROM unnest(polroles) r),
            pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid), obj_description(oid, 'pg_policy'))
       FROM pg_policy WHERE polrelid = $1::text::regclass ORDER BY polname",
    "SELECT format('statistics %s target %s owner %s filled %s comment %s', pg_get_statisticsobjdef(oid), stxstattarget,
            pg_get_userbyid(stxowner), EXISTS (SELECT FROM pg_statistic_ext_data WHERE stxoid = oid), obj_description(oid, 'pg_statistic_ext'))
       FROM pg_statistic_ext WHERE stxrelid = $1::text::regclass ORDER BY stxname",
    "SELECT format('publication %s %s', pubname, to_jsonb(t)) FROM pg_publication_tables t
      WHERE format('%I.%I', schemaname, tablename)::regclass = $1::text::regclass ORDER BY 1",
    "SELECT format('trigger %s enabled %s comment %s', pg_get_triggerdef(oid), tgenabled, obj_description(oid, 'pg_trigger')) FROM pg_trigger
      WHERE tgrelid = $1::text::regclass AND NOT tgisinternal ORDER BY tgname",
    "SELECT format('privilege %s to %s by %s grantable %s', e.privilege_type,
            CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee) END, pg_get_userbyid(e.grantor), e.is_grantable)
       FROM pg_class c, aclexplode(coalesce(relacl, acldefault('r', relowner))) e WHERE c.oid = $1::text::regclass ORDER BY 1",
    "SELECT format('privilege %s on %s to %s by %s grantable %s', e.privilege_type, a.attname,
            CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee) END, pg_get_userbyid(e.grantor), e.is_grantable)
       FROM pg_attribute a, aclexplode(a.attacl) e WHERE a.attrelid = $1::text::regclass ORDER BY 1",
    "SELECT format('sequence %s owned %s as %s start %s by %s from %s to %s cache %s cycle %s owner %s comment %s privileges %s',
            s.oid::regclass, d.deptype, format_type(q.seqtypid, NULL), seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle,
            pg_get_userbyid(s.relowner), obj_description(s.oid, 'pg_class'),
            (SELECT array_agg(format('%s to %s', e.privilege_type, e.grantee::regrole) ORDER BY e.grantee, e.privilege_type)
               FROM aclexplode(coalesce(s.relacl, acldefault('s', s.relowner))) e))
       FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_sequence q ON q.seqrelid = s.oid
      WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::text::regclass
        AND d.deptype IN ('a', 'i') ORDER BY 1",
];

/// One batch as a finished dataset.
pub(crate) fn dataset(batch: RecordBatch) -> Dataset<impl Stream<Item = Result<RecordBatch, BoxError>> + Send> {
    let rows = u64::try_from(batch.num_rows()).unwrap();
    Dataset { schema: batch.schema(), rows, batches: stream::iter([Ok(batch)]) }
}

/// Rows `from..to` with a key, a name and points, which name the round of pushes they come from.
pub(crate) fn rows(from: i64, to: i64, round: i32) -> RecordBatch {
    let ids: Vec<i64> = (from..to).collect();
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("name", Arc::new(ids.iter().map(|id| (id % 7 != 0).then(|| format!("horse {id}"))).collect::<StringArray>())),
        ("round", Arc::new(Int32Array::from(vec![round; ids.len()]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

pub(crate) fn options() -> TargetOptions {
    TargetOptions::new(TableName::new("public", "dataset"), vec!["id".to_owned()])
}

const PLAIN: &str = "CREATE TABLE public.dataset (id bigint PRIMARY KEY, name text, round int NOT NULL);
     INSERT INTO public.dataset SELECT i, 'old ' || i, 0 FROM generate_series(1, 100) i;";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_push_creates_the_table_closed_to_everybody() -> Result<()> {
    let hosted = Hosted::new("push_first").await?;
    let report = hosted.push(&options(), "r1", rows(0, 1000, 1)).await?;
    assert_eq!((report.mode, report.rows, report.backup.is_none()), (PushMode::First, 1000, true));
    assert_eq!(report.notes.len(), 1, "says so");
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset").await?, 1000);
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE name IS NULL").await?, 143);
    let facts = hosted.facts("public.dataset").await?;
    assert!(facts[0].contains("rls t"), "{}", facts[0]);
    assert!(facts.iter().any(|fact| fact.contains("PRIMARY KEY (id)")), "{facts:#?}");
    let strangers = facts.iter().filter(|fact| fact.starts_with("privilege") && !fact.contains("to app"));
    assert_eq!(strangers.count(), 0, "{facts:#?}");
    assert_eq!(hosted.run_schemas().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_swaps_and_a_rollback_brings_the_old_rows_back() -> Result<()> {
    let hosted = Hosted::new("push_swap").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    let report = hosted.push(&options(), "r1", rows(0, 1000, 1)).await?;
    assert_eq!((report.mode, report.rows), (PushMode::Swap, 1000));
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 1").await?, 1000);
    assert_eq!(hosted.number("SELECT count(*) FROM public._backup_training_push WHERE round = 0").await?, 100);
    let undone = hosted.rollback(&options(), "r2").await?;
    assert_eq!(undone.undone_run, "r1");
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 0").await?, 100);
    assert_eq!(hosted.number("SELECT count(*) FROM public._backup_training_push").await?, 1000);
    hosted.rollback(&options(), "r3").await?;
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 1").await?, 1000, "redo");
    assert_eq!(hosted.run_schemas().await?, Vec::<String>::new());
    Ok(())
}

/// What differs between two lists of facts.
pub(crate) fn difference(before: &[String], after: &[String]) -> Vec<String> {
    let lost = before.iter().filter(|fact| !after.contains(fact)).map(|fact| format!("- {fact}"));
    lost.chain(after.iter().filter(|fact| !before.contains(fact)).map(|fact| format!("+ {fact}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_survive() -> Result<()> {
    let hosted = Hosted::new("push_odd").await?;
    let long = "Ä".repeat(31);
    hosted
        .owner
        .batch_execute(&format!(
            r#"CREATE SCHEMA "Odd ""one"""; CREATE TABLE "Odd ""one"""."it's %s {{a}} $$table" (id bigint GENERATED ALWAYS AS IDENTITY,
                 "na""me" text, "round" int, CONSTRAINT "{long}" PRIMARY KEY (id));
               CREATE INDEX "{long}x" ON "Odd ""one"""."it's %s {{a}} $$table" ("na""me");
               CREATE INDEX "{long}y" ON "Odd ""one"""."it's %s {{a}} $$table" ("round") WHERE "na""me" <> '$$ it''s';
               GRANT SELECT ("na""me") ON "Odd ""one"""."it's %s {{a}} $$table" TO anon;
               CREATE POLICY "it's %s" ON "Odd ""one"""."it's %s {{a}} $$table" USING ("na""me" <> 'a''b');
               COMMENT ON COLUMN "Odd ""one"""."it's %s {{a}} $$table"."na""me" IS 'it''s \ a "comment" $$'"#
        ))
        .await?;
    let mut options = TargetOptions::new(TableName::new("Odd \"one\"", "it's %s {a} $$table"), vec!["id".to_owned()]);
    options.backup = "back\"up 'it's".to_owned();
    let batch = rows(1, 50, 1);
    let columns = ["id", "na\"me", "round"].into_iter().zip(batch.columns().iter().map(Arc::clone));
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)))?;
    let table = "\"Odd \"\"one\"\"\".\"it's %s {a} $$table\"";
    let before = hosted.facts(table).await?;
    hosted.push(&options, "Run-1 with \"odd' name", batch.clone()).await?;
    hosted.push(&options, "r2", batch).await?;
    assert_eq!(difference(&before, &hosted.facts(table).await?), Vec::<String>::new());
    hosted.rollback(&options, "r3").await?;
    assert_eq!(difference(&before, &hosted.facts(table).await?), Vec::<String>::new());
    assert_eq!(hosted.number(&format!("SELECT count(*) FROM {table}")).await?, 49);
    Ok(())
}

/// Waits until a query answers true.
pub(crate) async fn until(admin: &Client, what: &str, sql: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !admin.query_one(sql, &[]).await?.get::<_, bool>(0) {
        anyhow::ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Whether a push of this database waits for a lock.
pub(crate) const PUSH_WAITS: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
     AND application_name LIKE 'racealpha push%' AND wait_event_type = 'Lock')";
pub(crate) const NO_PUSH_WAITS: &str =
    "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
     AND application_name LIKE 'racealpha push%' AND wait_event_type = 'Lock')";
pub(crate) const NO_PUSH_SESSION: &str =
    "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
     AND application_name LIKE 'racealpha push%')";

/// A push on a task of its own, whose dataset stops half-way until it is told to go on.
pub(crate) struct HeldPush {
    pub(crate) task: tokio::task::JoinHandle<Result<PushReport, PushError>>,
    pub(crate) reached: tokio::sync::oneshot::Receiver<()>,
    pub(crate) go_on: tokio::sync::oneshot::Sender<()>,
    pub(crate) cancel: CancellationToken,
}

impl HeldPush {
    pub(crate) fn start(
        hosted: &Hosted,
        options: &TargetOptions,
        run: &'static str,
        first: RecordBatch,
        rest: RecordBatch,
    ) -> Self {
        let (reached_sender, reached) = tokio::sync::oneshot::channel();
        let (go_on, wait) = tokio::sync::oneshot::channel();
        let cancel = CancellationToken::new();
        let (url, options, token) = (hosted.url.clone(), options.clone(), cancel.clone());
        let rows = u64::try_from(first.num_rows() + rest.num_rows()).unwrap();
        let schema = first.schema();
        let task = tokio::spawn(async move {
            let held = stream::once(async move {
                let _ = reached_sender.send(());
                let _ = wait.await;
                Ok(rest)
            });
            let batches = futures::StreamExt::chain(stream::iter([Ok(first)]), held);
            let dataset = Dataset { schema, rows, batches };
            push::push(&url, &options, dataset, run, &Progress::new(), &token).await
        });
        Self { task, reached, go_on, cancel }
    }
}

/// The live table, its backup and the schemas, for "nothing was changed".
async fn state(hosted: &Hosted) -> Result<Vec<String>> {
    let mut state = hosted.facts("public.dataset").await?;
    state.extend(hosted.texts("SELECT format('oid %s', 'public.dataset'::regclass::oid)").await?);
    state.extend(hosted.texts("SELECT format('row %s', d) FROM public.dataset d ORDER BY id").await?);
    state.extend(hosted.texts("SELECT 'relation ' || oid || relname FROM pg_class WHERE relkind IN ('r', 'i', 'S') AND relnamespace = 'public'::regnamespace ORDER BY 1").await?);
    state.extend(hosted.run_schemas().await?);
    Ok(state)
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_an_error_or_an_empty_table() -> Result<()> {
    let hosted = Hosted::new("push_readers").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.owner.batch_execute("CREATE VIEW public.through AS SELECT * FROM public.dataset").await?;
    let stop = CancellationToken::new();
    let mut readers = Vec::new();
    for reader in 0..4 {
        let (client, stop) = (connect(&hosted.url_text).await?, stop.clone());
        readers.push(tokio::spawn(async move {
            let relation = if reader < 2 { "dataset" } else { "through" };
            let sql = &format!("SELECT count(*), count(DISTINCT round), max(name) FROM public.{relation}");
            let statement = client.prepare(sql).await?;
            let (mut reads, mut longest) = (0_u32, Duration::ZERO);
            while !stop.is_cancelled() {
                let started = Instant::now();
                let (rows, rounds): (i64, i64) = if reader % 2 == 0 {
                    let row = client.query_one(&statement, &[]).await?;
                    (row.get(0), row.get(1))
                } else {
                    let messages = client.simple_query(sql).await?;
                    let row = messages.iter().find_map(|message| match message {
                        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                        _ => None,
                    });
                    let row = row.context("a row")?;
                    (row.get(0).unwrap_or("0").parse()?, row.get(1).unwrap_or("0").parse()?)
                };
                longest = longest.max(started.elapsed());
                anyhow::ensure!((rows == 100 || rows == 2000) && rounds == 1, "{rows} rows of {rounds} rounds");
                reads += 1;
            }
            anyhow::Ok((reads, longest))
        }));
    }
    for round in 1..=5 {
        hosted.push(&options(), &format!("r{round}"), rows(0, 2000, round)).await?;
    }
    hosted.rollback(&options(), "r6").await?;
    stop.cancel();
    for reader in readers {
        let (reads, longest) = reader.await??;
        assert!(reads > 10, "{reads}");
        assert!(longest < Duration::from_secs(2), "{longest:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_snapshot_sees_a_full_table() -> Result<()> {
    let hosted = Hosted::new("push_snapshot").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.admin.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_snapshot()").await?;
    hosted.push(&options(), "r1", rows(0, 1000, 1)).await?;
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset").await?, 1000);
    hosted.admin.batch_execute("COMMIT").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_behind_a_long_select_tries_again() -> Result<()> {
    let hosted = Hosted::new("push_retry").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.owner.batch_execute("BEGIN; SELECT count(*) FROM public.dataset").await?;
    let (url, options) = (hosted.url.clone(), options());
    let pushing = tokio::spawn(async move {
        let cancel = CancellationToken::new();
        push::push(&url, &options, dataset(rows(0, 10, 1)), "r1", &Progress::new(), &cancel).await
    });
    until(&hosted.admin, "the push waits for the lock", PUSH_WAITS).await?;
    until(&hosted.admin, "the push has given up waiting", NO_PUSH_WAITS).await?;
    // While the select goes on, other readers come and go.
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset").await?, 100);
    // Nobody but the owner sees what is being prepared.
    let exposed = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_roles r
         WHERE n.nspname = '_push_r1' AND c.relkind IN ('r', 'S') AND r.rolname IN ('anon', 'authenticated', 'service_role')
           AND (has_schema_privilege(r.oid, n.oid, 'USAGE') OR c.relkind = 'r' AND NOT has_table_privilege('app', c.oid, 'SELECT'))";
    assert_eq!(hosted.number(exposed).await?, 0);
    hosted.owner.batch_execute("COMMIT").await?;
    let report = pushing.await??;
    assert!(report.swap.attempts >= 2, "{:?}", report.swap);
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset").await?, 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_never_gets_its_lock_changes_nothing_and_says_who_holds_it() -> Result<()> {
    let hosted = Hosted::new("push_timeout").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    let before = state(&hosted).await?;
    hosted
        .owner
        .batch_execute("SET application_name = 'a long report'; BEGIN; SELECT count(*) FROM public.dataset")
        .await?;
    let mut options = options();
    options.swap_deadline = Duration::from_millis(100);
    let error = hosted.push(&options, "r1", rows(0, 10, 1)).await.unwrap_err();
    let PushError::SwapTimedOut { attempts: 1, blockers, .. } = &error else { panic!("{error:?}") };
    assert!(blockers.iter().any(|blocker| blocker.contains("a long report")), "{blockers:?}");
    let mut after = state(&hosted).await?;
    assert_eq!(after.pop().as_deref(), Some("_push_r1"), "what was loaded is kept");
    assert_eq!(after, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_push_says_who_is_pushing() -> Result<()> {
    let hosted = Hosted::new("push_locked").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    let held = HeldPush::start(&hosted, &options(), "first", rows(0, 10, 1), rows(10, 20, 1));
    held.reached.await?;
    let error = hosted.push(&options(), "second", rows(0, 10, 2)).await.unwrap_err();
    let PushError::Locked { by, .. } = &error else { panic!("{error:?}") };
    assert!(by.contains("racealpha push first"), "{by}");
    let error = hosted.rollback(&options(), "third").await.unwrap_err();
    assert!(matches!(error, PushError::Locked { .. }), "{error:?}");
    held.go_on.send(()).ok();
    assert_eq!(held.task.await??.rows, 20);
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 1").await?, 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_killed_while_loading_changes_nothing() -> Result<()> {
    let hosted = Hosted::new("push_killed").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    let before = state(&hosted).await?;
    let held = HeldPush::start(&hosted, &options(), "r1", rows(0, 10, 1), rows(10, 20, 1));
    held.reached.await?;
    let kill = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'racealpha push r1'";
    assert_eq!(hosted.number(kill).await?, 1);
    held.go_on.send(()).ok();
    let error = held.task.await?.unwrap_err();
    assert!(matches!(error, PushError::Lost { .. }), "{error:?}");
    assert!(error.is_transient());
    assert_eq!(state(&hosted).await?, before);
    assert_eq!(hosted.push(&options(), "r2", rows(0, 10, 2)).await?.rows, 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_load_changes_nothing() -> Result<()> {
    let hosted = Hosted::new("push_cancel").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    let before = state(&hosted).await?;
    let held = HeldPush::start(&hosted, &options(), "r1", rows(0, 10, 1), rows(10, 20, 1));
    held.reached.await?;
    let asked = Instant::now();
    held.cancel.cancel();
    let error = held.task.await?.unwrap_err();
    assert!(matches!(error, PushError::Cancelled { .. }), "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(state(&hosted).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_killed_while_it_waits_for_the_swap_is_replaced() -> Result<()> {
    let hosted = Hosted::new("push_swap_killed").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.owner.batch_execute("BEGIN; SELECT count(*) FROM public.dataset").await?;
    let held = HeldPush::start(&hosted, &options(), "r1", rows(0, 10, 1), rows(10, 20, 1));
    held.go_on.send(()).ok();
    until(&hosted.admin, "the push waits for the lock", PUSH_WAITS).await?;
    let kill = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'racealpha push r1' AND wait_event_type = 'Lock'";
    hosted.number(kill).await?;
    hosted.owner.batch_execute("COMMIT").await?;
    assert_eq!(held.task.await??.rows, 20);
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 1").await?, 20);
    assert_eq!(hosted.run_schemas().await?, Vec::<String>::new());
    Ok(())
}

/// Where a proxy cuts the client off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// At the first message that ends with COMMIT once the client has sent this.
    pub(crate) after: &'static str,
    /// Whether the server gets the message.
    pub(crate) arrives: bool,
    /// Whether the server cannot be reached from then on.
    pub(crate) for_good: bool,
}

/// The last text that a client sends before the COMMIT of a swap.
pub(crate) const SWAP: &str = "NOTIFY pgrst";
/// A text that a client sends before the COMMIT of a merge.
pub(crate) const MERGE: &str = "SHARE ROW EXCLUSIVE MODE";

/// The server as it is reached through a proxy that passes everything on until it is to cut the client off, once: then
/// it lets the server finish and passes on nothing of its answer.
pub(crate) async fn behind_cutting_proxy(url_text: &str, cut: Cut) -> Result<DatabaseUrl> {
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut url: url::Url = url_text.parse()?;
    let server_port = url.port().context("a port")?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    url.set_port(Some(listener.local_addr()?.port())).ok().context("a port")?;
    let has_cut = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            if cut.for_good && has_cut.load(Ordering::SeqCst) {
                return;
            }
            let Ok(server) = tokio::net::TcpStream::connect(("127.0.0.1", server_port)).await else { return };
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let done = CancellationToken::new();
            let (has_cut, closing) = (Arc::clone(&has_cut), done.clone());
            let answered = CancellationToken::new();
            let answer = answered.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 20];
                let mut seen = Vec::new();
                while let Ok(count) = from_client.read(&mut buffer).await {
                    if count == 0 {
                        return;
                    }
                    seen.extend_from_slice(&buffer[..count]);
                    let is_after = seen.windows(cut.after.len()).any(|window| window == cut.after.as_bytes());
                    let is_due = is_after && seen.ends_with(b"COMMIT\0") && !has_cut.swap(true, Ordering::SeqCst);
                    if is_due && !cut.arrives {
                        return;
                    }
                    if is_due {
                        closing.cancel();
                    }
                    if to_server.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                    if is_due {
                        // Hold the server's side open until it has answered, or on, as a network that only we lost.
                        answered.cancelled().await;
                        if cut.for_good {
                            return;
                        }
                        std::future::pending::<()>().await;
                    }
                    if seen.len() > 1 << 20 {
                        seen.clear();
                    }
                }
            });
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                loop {
                    match from_server.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        // The answer to the message: both sides close now.
                        Ok(_) if done.is_cancelled() => return answer.cancel(),
                        Ok(count) => {
                            if to_client.write_all(&buffer[..count]).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            });
        }
    });
    Ok(url.as_str().parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_whose_answer_was_lost_is_found_to_have_happened() -> Result<()> {
    let hosted = Hosted::new("push_answer_lost").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    let lost = Cut { after: SWAP, arrives: true, for_good: false };
    let url = behind_cutting_proxy(&hosted.url_text, lost).await?;
    let cancel = CancellationToken::new();
    let report = push::push(&url, &options(), dataset(rows(0, 10, 1)), "r1", &Progress::new(), &cancel).await?;
    assert_eq!((report.rows, report.swap.attempts), (10, 1));
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 1").await?, 10);
    assert_eq!(hosted.run_schemas().await?, Vec::<String>::new());

    // The same for a rollback; one that the server never got is sent again.
    let rolled_back = async |run, cut, options: &TargetOptions| {
        let url = behind_cutting_proxy(&hosted.url_text, cut).await?;
        anyhow::Ok(push::rollback(&url, options, run, &Progress::new(), &cancel).await)
    };
    let report = rolled_back("r2", lost, &options()).await??;
    assert!(report.swap.answer_lost && report.notes.iter().any(|note| note.contains("had happened")), "{report:?}");
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 0").await?, 100);
    let report = rolled_back("r3", Cut { arrives: false, ..lost }, &options()).await??;
    assert_eq!((report.swap.attempts, report.swap.answer_lost), (2, false));
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 1").await?, 10);

    // Where the server cannot be asked, the next command tells.
    let impatient = TargetOptions { outcome_patience: Duration::from_millis(300), ..options() };
    let error = rolled_back("r4", Cut { for_good: true, ..lost }, &impatient).await?.unwrap_err();
    assert!(matches!(error, PushError::OutcomeUnknown { .. }), "{error:?}");
    until(&hosted.admin, "the lost session has ended", NO_PUSH_SESSION).await?;
    let left = push::leftovers(&hosted.owner, &hosted.url).await?;
    assert_eq!(left.iter().map(|left| left.left_at).collect::<Vec<_>>(), [push::LeftAt::RolledBack]);
    let report = hosted.rollback(&options(), "r5").await?;
    assert_eq!(report.notes, ["run r4 had rolled public.dataset back; it is finished now"]);
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 1").await?, 10, "redone");
    assert_eq!(hosted.run_schemas().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_gets_no_lock_says_so_and_no_older_load_comes_back() -> Result<()> {
    let hosted = Hosted::new("push_rollback_locked").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.push(&options(), "r1", rows(0, 10, 1)).await?;
    hosted.owner.batch_execute("BEGIN; SELECT count(*) FROM public.dataset").await?;
    let options = TargetOptions { swap_deadline: Duration::ZERO, ..options() };
    let error = hosted.push(&options, "r2", rows(0, 20, 2)).await.unwrap_err();
    assert!(matches!(error, PushError::SwapTimedOut { .. }), "{error:?}");
    let error = hosted.rollback(&options, "r3").await.unwrap_err();
    assert!(matches!(error, PushError::LockTimedOut { attempts: 1, .. }) && error.is_transient(), "{error:?}");
    assert!(!error.to_string().contains("--resume"), "{error}");
    assert_eq!(hosted.run_schemas().await?, Vec::<String>::new());
    hosted.owner.batch_execute("COMMIT").await?;
    let resumed = resume(hosted.url.clone(), "r4", CancellationToken::new()).await;
    let error = resumed.unwrap_err();
    assert!(matches!(error, PushError::NothingToResume { .. }), "{error:?}");
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 1").await?, 10);
    Ok(())
}

async fn resume(url: DatabaseUrl, run: &str, cancel: CancellationToken) -> Result<PushReport, PushError> {
    push::resume(&url, &options(), &rows(0, 1, 1).schema(), run, &Progress::new(), &cancel).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_push_that_is_stopped_keeps_what_was_loaded() -> Result<()> {
    let hosted = Hosted::new("push_resume_stopped").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.owner.batch_execute("BEGIN; SELECT count(*) FROM public.dataset").await?;
    let hasty = TargetOptions { swap_deadline: Duration::ZERO, ..options() };
    hosted.push(&hasty, "r1", rows(0, 20, 1)).await.unwrap_err();
    let cancel = CancellationToken::new();
    let resuming = tokio::spawn(resume(hosted.url.clone(), "r2", cancel.clone()));
    until(&hosted.admin, "the push waits for the lock", PUSH_WAITS).await?;
    cancel.cancel();
    let error = resuming.await?.unwrap_err();
    assert!(matches!(error, PushError::Cancelled { .. }), "{error:?}");
    hosted.owner.batch_execute("COMMIT").await?;

    // Nor does a refused statement take it away.
    hosted
        .admin
        .batch_execute(
            "CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
               IF coalesce(current_setting('racealpha.locked', true), '') <> '' THEN RAISE 'no' USING ERRCODE = '53100'; END IF; END $$;
             CREATE EVENT TRIGGER refused ON ddl_command_start EXECUTE FUNCTION public.refuse()",
        )
        .await?;
    let error = resume(hosted.url.clone(), "r3", CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "the server's disk is full; public.dataset is as it was, and the load is kept");
    hosted.admin.batch_execute("DROP EVENT TRIGGER refused").await?;
    assert_eq!(resume(hosted.url.clone(), "r4", CancellationToken::new()).await?.rows, 20);
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 1").await?, 20);
    assert_eq!(hosted.run_schemas().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_makes_up_for_what_a_swap_that_died_after_its_commit_left_undone() -> Result<()> {
    let hosted = Hosted::new("push_gc_finish").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted
        .owner
        .batch_execute(
            "CREATE TABLE public.a (round int PRIMARY KEY); CREATE TABLE public.b (round int PRIMARY KEY);
             INSERT INTO public.a VALUES (0), (1); INSERT INTO public.b VALUES (0), (1);
             ALTER TABLE public.dataset ADD CONSTRAINT to_a FOREIGN KEY (round) REFERENCES public.a,
               ADD CONSTRAINT to_b FOREIGN KEY (round) REFERENCES public.b;
             CREATE TABLE public.child (id bigint CONSTRAINT of_dataset REFERENCES public.dataset); INSERT INTO public.child VALUES (7)",
        )
        .await?;
    let reader = connect(&hosted.url_text).await?;
    reader.batch_execute("BEGIN; SELECT count(*) FROM public.dataset").await?;
    let held = HeldPush::start(&hosted, &options(), "r1", rows(0, 10, 1), rows(10, 20, 1));
    held.go_on.send(()).ok();
    until(&hosted.admin, "the push waits for the lock", PUSH_WAITS).await?;
    hosted.owner.batch_execute("BEGIN; SELECT count(*) FROM public.b").await?;
    reader.batch_execute("COMMIT").await?;
    // The one after the other: a lock that others wait for is not held while another is waited for.
    let waits_for_b_alone = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'public.b'::regclass AND NOT granted)
         AND NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'public.a'::regclass AND mode = 'AccessExclusiveLock')
         AND to_regclass('public._backup_training_push') IS NOT NULL";
    until(&hosted.admin, "a key's table is waited for", waits_for_b_alone).await?;
    held.task.abort();
    until(&hosted.admin, "the killed push's session has ended", NO_PUSH_SESSION).await?;
    hosted.owner.batch_execute("COMMIT").await?;
    let undone = "SELECT (SELECT count(*) FROM pg_constraint WHERE conrelid = 'public._backup_training_push'::regclass AND contype = 'f')
         + (SELECT count(*) FROM pg_constraint WHERE conname = 'of_dataset' AND NOT convalidated)";
    assert_eq!(hosted.number(undone).await?, 2);
    let collected = push::collect_garbage(&hosted.url, "g1", chrono::Utc::now(), false, false).await?;
    assert_eq!(collected.len(), 1);
    assert!(collected[0].kept.is_none() && collected[0].unfinished.is_empty(), "{collected:?}");
    assert_eq!(hosted.number(undone).await?, 0);
    assert_eq!(hosted.run_schemas().await?, Vec::<String>::new());
    Ok(())
}

/// What was done to the live table since the push is there after the rollback, or said to be gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_follows_what_changed_since_the_push() -> Result<()> {
    let hosted = Hosted::new("push_since").await?;
    hosted
        .admin
        .batch_execute(
            "DO $$ BEGIN GRANT team TO app; EXCEPTION WHEN unique_violation THEN NULL; END $$; GRANT ALL ON SCHEMA public TO team",
        )
        .await?;
    hosted
        .owner
        .batch_execute(
            "CREATE TABLE public.dataset (id bigint PRIMARY KEY, name text, round int, nr int GENERATED ALWAYS AS IDENTITY, ticket serial);
             INSERT INTO public.dataset VALUES (1, 'old', 0); GRANT USAGE ON SEQUENCE public.dataset_nr_seq TO anon;
             CREATE STATISTICS public.dropped ON id, round FROM public.dataset; CREATE STATISTICS public.kept ON id, name FROM public.dataset",
        )
        .await?;
    hosted.push(&options(), "r1", rows(0, 10, 1)).await?;
    hosted
        .owner
        .batch_execute(
            "DROP STATISTICS public.dropped; CREATE STATISTICS public.created ON name, round FROM public.dataset;
             REVOKE ALL ON SEQUENCE public.dataset_nr_seq FROM anon; GRANT SELECT ON SEQUENCE public.dataset_nr_seq TO service_role;
             COMMENT ON SEQUENCE public.dataset_nr_seq IS 'numbers'; COMMENT ON COLUMN public.dataset.name IS 'late';
             ALTER SEQUENCE public.dataset_nr_seq RENAME TO numbers; ALTER TABLE public.dataset OWNER TO team",
        )
        .await?;
    let mut before = hosted.facts("public.dataset").await?;
    let report = hosted.rollback(&options(), "r2").await?;
    let mut after = hosted.facts("public.dataset").await?;
    for facts in [&mut before, &mut after] {
        facts.retain(|fact| !fact.starts_with("statistics"));
    }
    assert_eq!(difference(&before, &after), Vec::<String>::new());
    assert_eq!(
        report.warnings,
        [
            "statistics created is not on the table that is live again",
            "statistics dropped is back with the table that is live again"
        ]
    );
    let statistics = "SELECT format('%s %s', stxname, stxrelid::regclass) FROM pg_statistic_ext WHERE stxnamespace = 'public'::regnamespace AND stxname NOT LIKE '\\_bk%' ORDER BY 1";
    assert_eq!(hosted.texts(statistics).await?, ["dropped public.dataset", "kept public.dataset"]);
    assert_eq!(hosted.run_schemas().await?, Vec::<String>::new());
    // Nobody but the owner gets at the backup's sequence.
    let exposed = "SELECT count(*) FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S', aclexplode(coalesce(s.relacl, acldefault('s', s.relowner))) e
         WHERE d.refobjid = 'public._backup_training_push'::regclass AND d.deptype = 'i' AND e.grantee <> s.relowner";
    assert_eq!(hosted.number(exposed).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_is_far_enough_is_not_touched() -> Result<()> {
    let hosted = Hosted::new("push_sequence").await?;
    hosted
        .owner
        .batch_execute(
            "CREATE TABLE public.dataset (id bigserial PRIMARY KEY, name text, round int);
             SELECT setval('public.dataset_id_seq', 100); SELECT nextval('public.dataset_id_seq')",
        )
        .await?;
    // Whoever sets a sequence makes it forget what it has logged ahead.
    let logged = "SELECT log_cnt FROM public.dataset_id_seq";
    let before = hosted.number(logged).await?;
    assert!(before > 0, "{before}");
    hosted.push(&options(), "r1", rows(0, 50, 1)).await?;
    hosted.rollback(&options(), "r2").await?;
    assert_eq!(hosted.number(logged).await?, before);
    hosted.push(&options(), "r3", rows(0, 500, 1)).await?;
    assert_eq!(hosted.number("SELECT nextval('public.dataset_id_seq')").await?, 500);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_during_a_push_is_told_with_numbers() -> Result<()> {
    let hosted = Hosted::new("push_written").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.owner.batch_execute("SELECT pg_stat_force_next_flush()").await?;
    let counted = TargetOptions { min_rows_of_live: 0.1, ..options() };
    let held = HeldPush::start(&hosted, &counted, "r1", rows(0, 10, 1), rows(10, 20, 1));
    held.reached.await?;
    hosted
        .owner
        .batch_execute(
            "INSERT INTO public.dataset VALUES (201, 'new', 0), (202, 'new', 0), (203, 'new', 0);
             UPDATE public.dataset SET name = 'x' WHERE id < 3; DELETE FROM public.dataset WHERE id = 9; SELECT pg_stat_force_next_flush()",
        )
        .await?;
    held.go_on.send(()).ok();
    let report = held.task.await??;
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    let said = "others inserted 3 rows into public.dataset, updated 2 and deleted 1; that is in public._backup_training_push only";
    assert!(report.warnings[0].ends_with(said), "{:?}", report.warnings);
    assert_eq!(hosted.number("SELECT count(*) FROM public._backup_training_push WHERE name IN ('new', 'x')").await?, 5);
    // The rows were counted, so the backup shows how many.
    let backup = push::backup_status(&hosted.owner, &counted).await?.context("a backup")?;
    assert_eq!(backup.rows_estimated, Some(100));
    assert_eq!(hosted.push(&options(), "r2", rows(0, 10, 2)).await?.warnings, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_hidden_from_the_role_are_refused_by_name_and_never_lost() -> Result<()> {
    let hosted = Hosted::new("push_hidden").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted
        .owner
        .batch_execute(
            "ALTER TABLE public.dataset ADD COLUMN note text DEFAULT 'x', ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
             CREATE POLICY few ON public.dataset USING (id < 5)",
        )
        .await?;
    // Nothing of the table is read, so nothing can be lost.
    let filled = options();
    hosted.push(&filled, "r1", rows(0, 100, 1)).await?;
    let mut keep = options();
    keep.missing.insert("note".to_owned(), MissingColumns::Keep);
    let count = TargetOptions { min_rows_of_live: 0.9, ..options() };
    for (options, why) in [(&keep, "the values of note cannot be kept"), (&count, "its rows cannot be counted")] {
        let error = hosted.push(options, "r2", rows(0, 100, 2)).await.unwrap_err().to_string();
        assert!(
            error.contains("table public.dataset: row-level security hides rows") && error.contains(why),
            "{error}"
        );
    }
    hosted
        .owner
        .batch_execute(
            "ALTER TABLE public.dataset NO FORCE ROW LEVEL SECURITY;
             CREATE TABLE public.child (id bigint CONSTRAINT of_dataset REFERENCES public.dataset ON DELETE CASCADE);
             INSERT INTO public.child VALUES (7); ALTER TABLE public.child ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        )
        .await?;
    let before = state(&hosted).await?;
    for mode in [push::TargetMode::Swap, push::TargetMode::Merge] {
        let options = TargetOptions { mode, ..options() };
        let batch = rows(10, 20, 3);
        let error = match mode {
            push::TargetMode::Merge => {
                let (progress, cancel) = (Progress::new(), CancellationToken::new());
                push::merge(&hosted.url, &options, dataset(batch), "r3", &progress, &cancel).await.map(drop)
            }
            _ => hosted.push(&options, "r3", batch).await.map(drop),
        };
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("of_dataset") && error.contains("row-level security hides rows of its table"),
            "{error}"
        );
    }
    assert_eq!(state(&hosted).await?, before);
    assert_eq!(hosted.number("SELECT count(*) FROM public.child").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_push_left_is_removed_by_the_next() -> Result<()> {
    let hosted = Hosted::new("push_orphan").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.owner.batch_execute("BEGIN; SELECT count(*) FROM public.dataset").await?;
    let held = HeldPush::start(&hosted, &options(), "r1", rows(0, 10, 1), rows(10, 20, 1));
    held.go_on.send(()).ok();
    until(&hosted.admin, "the push waits for the lock", PUSH_WAITS).await?;
    held.task.abort();
    hosted.owner.batch_execute("COMMIT").await?;
    until(&hosted.admin, "the killed push's session has ended", NO_PUSH_SESSION).await?;
    if hosted.run_schemas().await?.is_empty() {
        // The server may finish a swap whose client has died; then there is nothing left to remove but the backup.
        assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 1").await?, 20);
    }
    // Somebody else's schema with such a name is none of ours.
    hosted.owner.batch_execute("CREATE SCHEMA _push_of_somebody_else").await?;
    hosted.push(&options(), "r2", rows(0, 30, 2)).await?;
    assert_eq!(hosted.run_schemas().await?, ["_push_of_somebody_else"]);
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 2").await?, 30);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_a_push_is_under_way_is_carried_too() -> Result<()> {
    let hosted = Hosted::new("push_drift").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.owner.batch_execute("COMMENT ON COLUMN public.dataset.name IS 'old'; CREATE INDEX gone ON public.dataset (round); ALTER TABLE public.dataset SET (fillfactor = 50)").await?;
    let held = HeldPush::start(&hosted, &options(), "r1", rows(0, 10, 1), rows(10, 20, 1));
    held.reached.await?;
    hosted
        .owner
        .batch_execute(
            "GRANT INSERT ON public.dataset TO anon; COMMENT ON TABLE public.dataset IS 'new';
             COMMENT ON COLUMN public.dataset.name IS NULL; CREATE INDEX added ON public.dataset (name);
             BEGIN; SELECT count(*) FROM public.dataset",
        )
        .await?;
    held.go_on.send(()).ok();
    until(&hosted.admin, "the push waits for the lock", PUSH_WAITS).await?;
    hosted
        .owner
        .batch_execute(
            "DROP INDEX public.gone; ALTER TABLE public.dataset RESET (fillfactor), ENABLE ROW LEVEL SECURITY;
             CREATE POLICY late ON public.dataset USING (round > 0); COMMIT",
        )
        .await?;
    let before = hosted.facts("public.dataset").await?;
    assert_eq!(held.task.await??.rows, 20);
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset WHERE round = 1").await?, 20);
    assert_eq!(difference(&before, &hosted.facts("public.dataset").await?), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_the_target_cannot_hold_names_its_row_and_changes_nothing() -> Result<()> {
    let hosted = Hosted::new("push_value").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    let before = state(&hosted).await?;
    let batch = rows(0, 70_000, 1);
    let mut rounds = vec![1_i64; 70_000];
    rounds[66_666] = 1 << 40;
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::clone(batch.column(0))),
        ("name", Arc::clone(batch.column(1))),
        ("round", Arc::new(Int64Array::from(rounds))),
    ];
    let batch = RecordBatch::try_from_iter(columns)?;
    let error = hosted.push(&options(), "r1", batch).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "public.dataset, column round, row 66666: the value is out of range; nothing was changed"
    );
    assert!(matches!(&error, PushError::Value { key, .. } if key.0 == "the row has id=66666"), "{error:?}");
    assert_eq!(state(&hosted).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_the_server_refuses_change_nothing() -> Result<()> {
    let hosted = Hosted::new("push_refused").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted
        .owner
        .batch_execute(
            "ALTER TABLE public.dataset ADD CONSTRAINT small CHECK (round < 5);
             CREATE FUNCTION public.disk(round int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
               IF round = 4 THEN RAISE 'no space left on device' USING ERRCODE = '53100'; END IF; RETURN true; END $$;
             ALTER TABLE public.dataset ADD CONSTRAINT space CHECK (public.disk(round));",
        )
        .await?;
    let before = state(&hosted).await?;
    let error = hosted.push(&options(), "r1", rows(0, 10, 9)).await.unwrap_err();
    assert!(matches!(error, PushError::ServerRefused { .. }), "{error:?}");
    let error = hosted.push(&options(), "r2", rows(0, 10, 4)).await.unwrap_err();
    assert!(matches!(error, PushError::DiskFull { .. }), "{error:?}");
    let twice = arrow::compute::concat_batches(&rows(0, 1, 1).schema(), [&rows(0, 10, 1), &rows(3, 4, 1)])?;
    let error = hosted.push(&options(), "r3", twice).await.unwrap_err();
    assert!(matches!(error, PushError::ServerRefused { step: "build an index", .. }), "{error:?}");
    let mut short = dataset(rows(0, 10, 1));
    short.rows = 11;
    let cancel = CancellationToken::new();
    let error = push::push(&hosted.url, &options(), short, "r4", &Progress::new(), &cancel).await.unwrap_err();
    assert!(matches!(error, PushError::Verify { .. }), "{error:?}");
    assert_eq!(state(&hosted).await?, before);
    Ok(())
}

/// The objects that block a push.
fn blocked(error: PushError) -> Vec<String> {
    match error {
        PushError::Blocked { blockers, .. } => blockers.into_iter().map(|blocker| blocker.object).collect(),
        error => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_is_refused_by_name() -> Result<()> {
    let hosted = Hosted::new("push_blocked").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.admin.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA public").await?;
    let cases = [
        ("CREATE VIEW public.v AS SELECT d FROM public.dataset d", "DROP VIEW public.v", "view public.v"),
        (
            "CREATE SCHEMA elsewhere; CREATE MATERIALIZED VIEW elsewhere.m AS SELECT id FROM public.dataset",
            "DROP SCHEMA elsewhere CASCADE",
            "materialized view elsewhere.m",
        ),
        (
            "CREATE MATERIALIZED VIEW public.m AS WITH dataset AS (SELECT 1) SELECT d.id FROM public.dataset d, dataset",
            "DROP MATERIALIZED VIEW public.m",
            "materialized view public.m",
        ),
        (
            "CREATE MATERIALIZED VIEW public.m AS SELECT id FROM public.dataset; CREATE FUNCTION public.f(public.m) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW public.v AS SELECT public.f(m) FROM public.m",
            "DROP MATERIALIZED VIEW public.m CASCADE",
            "function public.f(public.m)",
        ),
        (
            "CREATE TABLE public.child (id bigint REFERENCES public.dataset) PARTITION BY LIST (id)",
            "DROP TABLE public.child",
            "constraint child_id_fkey on table public.child",
        ),
        (
            "CREATE TABLE public.heir () INHERITS (public.dataset)",
            "DROP TABLE public.heir",
            "inheritance between public.heir and public.dataset",
        ),
        ("CREATE PUBLICATION p FOR TABLE public.dataset", "DROP PUBLICATION p", "publication p"),
        (
            "CREATE FUNCTION public.whole(d public.dataset) RETURNS text LANGUAGE sql AS 'SELECT $1.name'; CREATE VIEW public.v AS SELECT public.whole(d) FROM public.dataset d",
            "DROP FUNCTION public.whole CASCADE",
            "function public.whole(public.dataset)",
        ),
        (
            "CREATE AGGREGATE public.gather(public.dataset) (SFUNC = array_append, STYPE = public.dataset[])",
            "DROP AGGREGATE public.gather(public.dataset)",
            "function public.gather(public.dataset)",
        ),
        (
            "CREATE FUNCTION public.same(public.dataset, public.dataset) RETURNS bool LANGUAGE sql AS 'SELECT true'; CREATE OPERATOR public.=== (LEFTARG = public.dataset, RIGHTARG = public.dataset, FUNCTION = public.same)",
            "DROP FUNCTION public.same CASCADE",
            "operator public.===(public.dataset,public.dataset)",
        ),
        (
            "CREATE FUNCTION public.shown(public.dataset) RETURNS json LANGUAGE sql AS 'SELECT null::json'; CREATE CAST (public.dataset AS json) WITH FUNCTION public.shown(public.dataset)",
            "DROP FUNCTION public.shown CASCADE",
            "cast from public.dataset to json",
        ),
        ("CREATE TABLE public.other (d public.dataset)", "DROP TABLE public.other", "column d of table public.other"),
        (
            "CREATE TYPE public.pair AS (d public.dataset, n int)",
            "DROP TYPE public.pair",
            "column d of composite type public.pair",
        ),
        (
            "ALTER TABLE public.dataset ADD nr int GENERATED ALWAYS AS IDENTITY; CREATE TABLE public.other (id int DEFAULT nextval('public.dataset_nr_seq'))",
            "DROP TABLE public.other; ALTER TABLE public.dataset DROP nr",
            "default value for column id of table public.other",
        ),
    ];
    for (create, drop, object) in cases {
        hosted.owner.batch_execute(create).await.context(create)?;
        let before = state(&hosted).await?;
        let objects = blocked(hosted.push(&options(), "r1", rows(0, 10, 1)).await.unwrap_err());
        assert!(objects.iter().any(|found| found == object), "{object}: {objects:?}");
        assert_eq!(state(&hosted).await?, before, "{object}");
        hosted.owner.batch_execute(drop).await.context(drop)?;
    }
    hosted.admin.batch_execute("CREATE PUBLICATION everything FOR ALL TABLES").await?;
    assert_eq!(blocked(hosted.push(&options(), "r1", rows(0, 10, 1)).await.unwrap_err()), ["publication everything"]);
    hosted
        .admin
        .batch_execute(
            "DROP PUBLICATION everything; CREATE ROLE stranger; ALTER TABLE public.dataset OWNER TO stranger",
        )
        .await?;
    assert_eq!(blocked(hosted.push(&options(), "r1", rows(0, 10, 1)).await.unwrap_err()), ["table public.dataset"]);
    hosted.admin.batch_execute("ALTER TABLE public.dataset OWNER TO app; DROP ROLE stranger").await?;
    hosted.owner.batch_execute("CREATE TABLE public._backup_training_push (mine int)").await?;
    let objects = blocked(hosted.push(&options(), "r1", rows(0, 10, 1)).await.unwrap_err());
    assert_eq!(objects, ["table public._backup_training_push"]);
    let error = hosted.rollback(&options(), "r1").await.unwrap_err();
    assert!(matches!(error, PushError::NoBackup { .. }), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_superuser_did_to_the_table_is_refused_by_name_too() -> Result<()> {
    let hosted = Hosted::new("push_blocked_by_admin").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.owner.batch_execute("CREATE INDEX by_name ON public.dataset (name)").await?;
    hosted
        .admin
        .batch_execute("CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA public; SET allow_in_place_tablespaces = on")
        .await?;
    let drop_space: &[&str] = &["ALTER TABLE public.dataset SET TABLESPACE pg_default", "DROP TABLESPACE push_blocked"];
    let cases: [(&[&str], &[&str], &str, &str); 6] = [
        (
            &["CREATE SUBSCRIPTION push_blocked CONNECTION 'host=127.0.0.1 port=1 dbname=none' PUBLICATION p WITH (connect = false, slot_name = NONE);
               INSERT INTO pg_subscription_rel SELECT oid, 'public.dataset'::regclass, 'r', NULL FROM pg_subscription WHERE subname = 'push_blocked'"],
            &["DROP SUBSCRIPTION push_blocked"],
            "subscription ",
            "it writes into the table",
        ),
        (
            &["CREATE TABLESPACE push_blocked LOCATION ''", "ALTER TABLE public.dataset SET TABLESPACE push_blocked"],
            drop_space,
            "table public.dataset",
            "it is in tablespace push_blocked",
        ),
        (
            &["CREATE TABLESPACE push_blocked LOCATION ''", "ALTER INDEX public.by_name SET TABLESPACE push_blocked"],
            &["ALTER INDEX public.by_name SET TABLESPACE pg_default", "DROP TABLESPACE push_blocked"],
            "index by_name",
            "it is in tablespace push_blocked",
        ),
        (
            &["ALTER TABLE public.dataset SET UNLOGGED"],
            &["ALTER TABLE public.dataset SET LOGGED"],
            "table public.dataset",
            "it is unlogged",
        ),
        (
            &["UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.by_name'::regclass"],
            &["REINDEX INDEX public.by_name"],
            "index by_name",
            "it is not valid",
        ),
        (
            &["ALTER INDEX public.by_name DEPENDS ON EXTENSION pg_trgm"],
            &["ALTER INDEX public.by_name NO DEPENDS ON EXTENSION pg_trgm"],
            "index public.by_name",
            "it is tied to an extension",
        ),
    ];
    for (done, undone, object, why) in cases {
        for sql in done {
            hosted.admin.batch_execute(sql).await.context(*sql)?;
        }
        let before = state(&hosted).await?;
        let error = hosted.push(&options(), "r1", rows(0, 10, 1)).await.unwrap_err();
        let PushError::Blocked { blockers, .. } = &error else { panic!("{object}: {error:?}") };
        let found = blockers.iter().any(|found| found.object.starts_with(object) && found.why.starts_with(why));
        assert!(found, "{object}: {blockers:?}");
        assert_eq!(state(&hosted).await?, before, "{object}");
        for sql in undone {
            hosted.admin.batch_execute(sql).await.context(*sql)?;
        }
    }
    assert_eq!(hosted.push(&options(), "r2", rows(0, 10, 1)).await?.rows, 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_do_not_match_are_listed_together() -> Result<()> {
    let hosted = Hosted::new("push_columns").await?;
    hosted
        .owner
        .batch_execute(
            "CREATE TABLE public.dataset (id bigint PRIMARY KEY, name int, made timestamptz DEFAULT now(),
               twice bigint GENERATED ALWAYS AS (id * 2) STORED, needed int NOT NULL, wanted int)",
        )
        .await?;
    let objects = blocked(hosted.push(&options(), "r1", rows(0, 10, 1)).await.unwrap_err());
    assert_eq!(objects, ["column round", "column needed", "column wanted", "column name"]);
    hosted.owner.batch_execute("ALTER TABLE public.dataset DROP needed, DROP name").await?;
    let mut options = options();
    (options.missing_columns, options.new_columns) = (MissingColumns::Null, NewColumns::Ignore);
    hosted.push(&options, "r1", rows(0, 10, 1)).await?;
    let before = hosted.facts("public.dataset").await?;
    options.new_columns = NewColumns::Add;
    let plan = push::plan(&Session::open(&hosted.url, "test").await?, &options, &rows(0, 1, 1).schema()).await?;
    let added = [("name".to_owned(), "text".to_owned()), ("round".to_owned(), "integer".to_owned())];
    assert_eq!(plan.columns.added, added);
    hosted.push(&options, "r2", rows(0, 10, 1)).await?;
    let after = hosted.facts("public.dataset").await?;
    let difference = difference(&before, &after);
    assert_eq!(difference.len(), 2, "{difference:#?}");
    assert!(difference.iter().all(|line| line.starts_with("+ column")), "{difference:#?}");
    assert_eq!(hosted.number("SELECT sum(round)::int8 FROM public.dataset").await?, 10);
    // The backup lacks them; the rollback says so.
    let report = hosted.rollback(&options, "r3").await?;
    assert_eq!(report.warnings.len(), 2, "{:?}", report.warnings);
    Ok(())
}

/// The same rows, with a definition of the column `name`.
fn described(batch: &RecordBatch) -> RecordBatch {
    let said = [("description".to_owned(), "The horse's \"name\".".to_owned())];
    let fields = batch.schema_ref().fields().iter().map(|field| match field.name().as_str() {
        "name" => field.as_ref().clone().with_metadata(said.clone()),
        _ => field.as_ref().clone(),
    });
    let schema = Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_become_comments_and_other_comments_are_carried_over() -> Result<()> {
    let hosted = Hosted::new("push_comments").await?;
    hosted.push(&options(), "r1", described(&rows(0, 10, 1))).await?;
    let shown = "SELECT coalesce(col_description('public.dataset'::regclass, attnum), 'none') FROM pg_attribute
                  WHERE attrelid = 'public.dataset'::regclass AND attnum > 0 ORDER BY attnum";
    assert_eq!(hosted.texts(shown).await?, ["none", "The horse's \"name\".", "none"]);
    hosted
        .owner
        .batch_execute(
            "COMMENT ON COLUMN public.dataset.name IS 'by hand'; COMMENT ON COLUMN public.dataset.round IS 'by hand'",
        )
        .await?;
    hosted.push(&options(), "r2", described(&rows(0, 10, 2))).await?;
    assert_eq!(hosted.texts(shown).await?, ["none", "The horse's \"name\".", "by hand"]);
    hosted.push(&options(), "r3", rows(0, 10, 3)).await?;
    assert_eq!(hosted.texts(shown).await?, ["none", "The horse's \"name\".", "by hand"], "no definition, no change");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_a_member_of_the_owner_may_push() -> Result<()> {
    let hosted = Hosted::new("push_member").await?;
    hosted
        .admin
        .batch_execute(
            "DO $$ BEGIN GRANT team TO app; EXCEPTION WHEN unique_violation THEN NULL; END $$;
             GRANT ALL ON SCHEMA public TO team;
             CREATE TABLE public.dataset (id bigint PRIMARY KEY, name text, round int, nr int GENERATED ALWAYS AS IDENTITY);
             INSERT INTO public.dataset VALUES (1, 'old', 0); ALTER TABLE public.dataset OWNER TO team;
             ALTER TABLE public.dataset ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        )
        .await?;
    let before = hosted.facts("public.dataset").await?;
    hosted.push(&options(), "r1", rows(0, 10, 1)).await?;
    assert_eq!(difference(&before, &hosted.facts("public.dataset").await?), Vec::<String>::new());
    hosted.rollback(&options(), "r2").await?;
    assert_eq!(difference(&before, &hosted.facts("public.dataset").await?), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_table_and_backup() -> Result<()> {
    let hosted = Hosted::new("push_status").await?;
    assert!(push::target_status(&hosted.owner, &options()).await?.is_none());
    assert!(push::backup_status(&hosted.owner, &options()).await?.is_none());
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.push(&options(), "r1", rows(0, 1000, 1)).await?;
    let target = push::target_status(&hosted.owner, &options()).await?.context("a target")?;
    assert_eq!(target.rows_estimated, Some(1000));
    assert!(target.bytes > 0);
    let backup = push::backup_status(&hosted.owner, &options()).await?.context("a backup")?;
    assert_eq!((backup.run_id.as_str(), backup.table), ("r1", options().backup_table()));
    let error = hosted.rollback(&TargetOptions { backup: "none".to_owned(), ..options() }, "r2").await.unwrap_err();
    assert!(matches!(error, PushError::NoBackup { .. }), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_pooler_is_refused_before_it_is_asked() {
    let url: DatabaseUrl = "postgres://app@127.0.0.1:6543/postgres".parse().unwrap();
    let cancel = CancellationToken::new();
    let error =
        push::push(&url, &options(), dataset(rows(0, 1, 1)), "r1", &Progress::new(), &cancel).await.unwrap_err();
    assert!(matches!(error, PushError::Connect(ConnectError::TransactionPooler { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_built_on_the_backup_is_kept_and_reported() -> Result<()> {
    let hosted = Hosted::new("push_kept").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    hosted.push(&options(), "r1", rows(0, 10, 1)).await?;
    hosted.owner.batch_execute("CREATE VIEW public.compare AS SELECT * FROM public._backup_training_push").await?;
    let report = hosted.push(&options(), "r2", rows(0, 20, 2)).await?;
    assert!(report.warnings.iter().any(|warning| warning.contains("_push_r2")), "{:?}", report.warnings);
    assert_eq!(hosted.number("SELECT count(*) FROM public.compare").await?, 100, "the backup it was made on");
    assert_eq!(hosted.number("SELECT count(*) FROM public._backup_training_push").await?, 10);
    hosted.owner.batch_execute("DROP VIEW public.compare").await?;
    assert_eq!(hosted.push(&options(), "r3", rows(0, 30, 3)).await?.warnings, Vec::<String>::new());
    assert_eq!(hosted.run_schemas().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_cancelled_while_it_tries_to_swap_changes_nothing() -> Result<()> {
    let hosted = Hosted::new("push_cancel_swap").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    let before = state(&hosted).await?;
    // The swap waits longer behind such a lock than behind a reader.
    hosted.owner.batch_execute("BEGIN; LOCK TABLE public.dataset IN SHARE UPDATE EXCLUSIVE MODE").await?;
    let held = HeldPush::start(&hosted, &options(), "r1", rows(0, 10, 1), rows(10, 20, 1));
    held.go_on.send(()).ok();
    until(&hosted.admin, "the push waits for the lock", PUSH_WAITS).await?;
    let asked = Instant::now();
    held.cancel.cancel();
    let error = held.task.await?.unwrap_err();
    assert!(matches!(error, PushError::Cancelled { .. }), "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    hosted.owner.batch_execute("COMMIT").await?;
    assert_eq!(state(&hosted).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_dataset_and_a_table_without_key_are_pushed_as_they_are() -> Result<()> {
    let hosted = Hosted::new("push_empty").await?;
    let options = TargetOptions::new(TableName::new("public", "dataset"), Vec::new());
    assert_eq!(hosted.push(&options, "r1", rows(0, 0, 1)).await?.rows, 0);
    assert_eq!(hosted.push(&options, "r2", rows(0, 5, 2)).await?.rows, 5);
    assert_eq!(hosted.push(&options, "r3", rows(0, 0, 3)).await?.rows, 0);
    assert_eq!(hosted.number("SELECT count(*) FROM public.dataset").await?, 0);
    assert_eq!(hosted.number("SELECT count(*) FROM public._backup_training_push").await?, 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_and_a_read_only_one_are_told_apart() -> Result<()> {
    let hosted = Hosted::new("push_read_only").await?;
    hosted.owner.batch_execute(PLAIN).await?;
    let database: String = hosted.admin.query_one("SELECT current_database()::text", &[]).await?.get(0);
    let read_only = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
    hosted.admin.batch_execute(&read_only).await?;
    let error = hosted.push(&options(), "r1", rows(0, 10, 1)).await.unwrap_err();
    assert!(matches!(error, PushError::ReadOnly { .. }), "{error:?}");
    let url: DatabaseUrl = "postgres://app@127.0.0.1:1/postgres".parse()?;
    let cancel = CancellationToken::new();
    let error =
        push::push(&url, &options(), dataset(rows(0, 1, 1)), "r1", &Progress::new(), &cancel).await.unwrap_err();
    assert!(error.is_transient() && matches!(error, PushError::Connect(_)), "{error:?}");
    Ok(())
}

/// On a server of its own, whose slots nobody else minds.
#[tokio::test(flavor = "multi_thread")]
async fn slots_that_a_push_could_cut_off_are_named_before_it() -> Result<()> {
    let settings = ServerOptions::default().set("max_slot_wal_keep_size", "4MB");
    let server = tokio::task::spawn_blocking(move || LocalServer::start(&settings)).await??;
    let url = server.create_database("racing").await?;
    let client = connect(url.as_str()).await?;
    client.batch_execute("SELECT pg_create_physical_replication_slot('follower', true)").await?;
    client.batch_execute(PLAIN).await?;
    let session = Session::open(&url.as_str().parse()?, "test").await?;
    let small = push::plan(&session, &options(), &rows(0, 1, 1).schema()).await?;
    assert_eq!(small.notes, Vec::<String>::new());
    client
        .batch_execute("INSERT INTO public.dataset SELECT i, repeat('x', 900), 0 FROM generate_series(1000, 4000) i")
        .await?;
    for mode in [TargetMode::Swap, TargetMode::Merge] {
        let options = TargetOptions { mode, ..options() };
        let large = push::plan(&session, &options, &rows(0, 1, 1).schema()).await?;
        let named = |note: &&String| note.contains("replication slots (follower) that fall more than 4 MB behind");
        assert_eq!(large.notes.iter().filter(named).count(), 1, "{:?}", large.notes);
    }
    drop((client, session));
    tokio::task::spawn_blocking(move || drop(server)).await?;
    Ok(())
}
