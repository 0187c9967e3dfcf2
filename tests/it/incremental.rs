//! An incremental pull and a full one of the same state give the same rows, whatever happened in between.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use racealpha::config::{Pipeline, Settings};
use racealpha::pg::{LocalServer, ServerOptions};
use racealpha::pipeline::{self, Context, PullMode, PullOptions, PulledTable, QueryLimits, query};
use racealpha::progress::Progress;
use tempfile::TempDir;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::support::{TestDb, Workspace, connect, racing};

/// Sessions that write: the first commits every statement, the others when the history says so.
const SESSIONS: usize = 3;
const ROWS_MAX: usize = 1_000_000;
const ALL: PullOptions = PullOptions { incremental: false, detect_deletes: false, snapshot: None };
const CHANGED: PullOptions = PullOptions { incremental: true, detect_deletes: false, snapshot: None };
const CHANGED_AND_GONE: PullOptions = PullOptions { incremental: true, detect_deletes: true, snapshot: None };

const TABLE: &str = "DROP TABLE IF EXISTS t; \
    CREATE TABLE t (id bigint PRIMARY KEY, day date, note text, points numeric, updated_at timestamptz DEFAULT now())";
const TOUCH: &str = "CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS \
    'BEGIN NEW.updated_at := now(); RETURN NEW; END'; \
    CREATE TRIGGER touched BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch()";

/// A lake of its own for the table `t` of a database.
struct Puller {
    context: Context,
    _folder: TempDir,
}

impl Puller {
    fn new(url: &str, watermark: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("pipeline.toml");
        fs::create_dir(folder.path().join("phases"))?;
        fs::write(
            &file,
            format!(
                "[pull]\non_retyped = 'accept'\n[[tables]]\nname = 't'\nkey = ['id']\npartition_by = ['year(day)']\nwatermark = '{watermark}'\n\
                 [dataset]\nname = 'd'\nkey = ['id']\nphases = 'phases'\n[target]\ntable = 'd'\nbackup = 'd_backup'\n"
            ),
        )?;
        let (pipeline, base) = Pipeline::load(Some(&file), &[])?;
        let settings = Settings::for_server(url.parse()?, folder.path().join("lake").display().to_string(), 2);
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        Ok(Self {
            context: Context { run_id: None, pipeline, folder: base, settings, progress, cancel },
            _folder: folder,
        })
    }

    async fn pull(&self, options: PullOptions) -> Result<PulledTable> {
        let mut report = pipeline::pull(&self.context, &[], options).await?;
        report.tables.remove("t").context("the table")
    }

    async fn rows(&self) -> Result<Vec<String>> {
        let (_, batches, more) =
            query(&self.context, "SELECT * FROM t ORDER BY id", &QueryLimits::default(), ROWS_MAX).await?;
        ensure!(!more, "all rows");
        let options = FormatOptions::default().with_null("null");
        let mut rows = Vec::new();
        for batch in &batches {
            let columns: Vec<_> = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column, &options))
                .collect::<Result<_, _>>()?;
            rows.extend(
                (0..batch.num_rows()).map(|row| {
                    columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|")
                }),
            );
        }
        Ok(rows)
    }

    fn files(&self) -> BTreeSet<String> {
        let lake = self.context.lake().unwrap();
        let runtime = tokio::runtime::Handle::current();
        let manifest = tokio::task::block_in_place(|| runtime.block_on(lake.require_latest())).unwrap();
        manifest.tables["t"].files.iter().map(|file| file.path.clone()).collect()
    }
}

fn merged(table: &PulledTable) -> Result<pipeline::Merged> {
    match &table.mode {
        PullMode::Incremental(merged) => Ok(merged.clone()),
        full @ PullMode::Full { .. } => anyhow::bail!("{full:?}"),
    }
}

fn why_full(table: &PulledTable) -> Result<String> {
    match &table.mode {
        PullMode::Full { why: Some(why) } => Ok(why.clone()),
        other => anyhow::bail!("{other:?}"),
    }
}

/// What happens to the table. Rows belong to the session that their id leaves as a remainder, so no session waits.
#[derive(Debug, Clone)]
enum Step {
    Insert(usize, u8),
    Update(usize, u16),
    ChangeKey(usize, u16),
    MovePartition(usize, u16),
    Delete(usize, u16),
    Commit(usize),
    Rollback(usize),
    Vacuum,
    Pull { detect_deletes: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let session = || 0..SESSIONS;
    prop_oneof![
        4 => (session(), 1..20_u8).prop_map(|(session, rows)| Step::Insert(session, rows)),
        4 => (session(), any::<u16>()).prop_map(|(session, salt)| Step::Update(session, salt)),
        2 => (session(), any::<u16>()).prop_map(|(session, salt)| Step::ChangeKey(session, salt)),
        2 => (session(), any::<u16>()).prop_map(|(session, salt)| Step::MovePartition(session, salt)),
        3 => (session(), any::<u16>()).prop_map(|(session, salt)| Step::Delete(session, salt)),
        3 => (1..SESSIONS).prop_map(Step::Commit),
        1 => (1..SESSIONS).prop_map(Step::Rollback),
        1 => Just(Step::Vacuum),
        4 => any::<bool>().prop_map(|detect_deletes| Step::Pull { detect_deletes }),
    ]
}

/// The sessions, which of them has a transaction open, and the next unused number for a key.
struct Writers {
    clients: Vec<Client>,
    open: [bool; SESSIONS],
    next: i64,
}

impl Writers {
    async fn new(url: &str) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..SESSIONS {
            clients.push(connect(url).await?);
        }
        Ok(Self { clients, open: [false; SESSIONS], next: 0 })
    }

    async fn write(&mut self, session: usize, sql: &str) -> Result<()> {
        if session > 0 && !self.open[session] {
            self.clients[session].batch_execute("BEGIN").await?;
            self.open[session] = true;
        }
        self.clients[session].batch_execute(sql).await.with_context(|| sql.to_owned())
    }

    async fn end(&mut self, session: usize, how: &str) -> Result<()> {
        if std::mem::take(&mut self.open[session]) {
            self.clients[session].batch_execute(how).await?;
        }
        Ok(())
    }

    /// Some rows of a session, chosen by `salt`.
    fn some(session: usize, salt: u16) -> String {
        format!(
            "id IN (SELECT id FROM t WHERE id % {SESSIONS} = {session} ORDER BY md5(id::text || '{salt}') LIMIT {})",
            1 + salt % 4
        )
    }

    async fn run(&mut self, step: &Step) -> Result<()> {
        match *step {
            Step::Insert(session, rows) => {
                let (from, to) = (self.next, self.next + i64::from(rows) - 1);
                self.next = to + 1;
                let sql = format!(
                    "INSERT INTO t SELECT i * {SESSIONS} + {session}, DATE '2020-01-01' + (i * 37 % 1500)::int, 'row ' || i, i / 8.0 \
                     FROM generate_series({from}, {to}) AS i"
                );
                self.write(session, &sql).await
            }
            Step::Update(session, salt) => {
                let sql = format!(
                    "UPDATE t SET note = note || '{salt}', points = NULLIF(points, 1) * 10 WHERE {}",
                    Self::some(session, salt)
                );
                self.write(session, &sql).await
            }
            Step::ChangeKey(session, salt) => {
                let from = self.next;
                self.next += 8;
                let sql = format!(
                    "UPDATE t SET id = ({from} + o.n) * {SESSIONS} + {session} \
                     FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM t WHERE {}) AS o WHERE t.id = o.id",
                    Self::some(session, salt)
                );
                self.write(session, &sql).await
            }
            Step::MovePartition(session, salt) => {
                let sql = format!("UPDATE t SET day = day + {} WHERE {}", 300 + salt % 300, Self::some(session, salt));
                self.write(session, &sql).await
            }
            Step::Delete(session, salt) => {
                self.write(session, &format!("DELETE FROM t WHERE {}", Self::some(session, salt))).await
            }
            Step::Commit(session) => self.end(session, "COMMIT").await,
            Step::Rollback(session) => self.end(session, "ROLLBACK").await,
            Step::Vacuum => self.clients[0].batch_execute("VACUUM (FREEZE) t").await.context("vacuum"),
            Step::Pull { .. } => Ok(()),
        }
    }
}

/// Pulls only what changed into one lake and everything into another, and compares.
async fn compare(changed: &Puller, all: &Puller, detect_deletes: bool) -> Result<()> {
    let pulled = changed.pull(if detect_deletes { CHANGED_AND_GONE } else { CHANGED }).await?;
    all.pull(ALL).await?;
    let merged = merged(&pulled)?;
    let (found, expected) = (changed.rows().await?, all.rows().await?);
    if detect_deletes {
        ensure!(found == expected, "{merged:?}\nfound    {found:#?}\nexpected {expected:#?}");
        ensure!(merged.surplus == 0, "{merged:?}");
    } else {
        let found: BTreeSet<&String> = found.iter().collect();
        let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
        ensure!(missing.is_empty(), "{merged:?}: {missing:#?}");
        ensure!(found.len() as u64 == expected.len() as u64 + merged.surplus, "{merged:?}");
    }
    Ok(())
}

async fn history(db: &TestDb, watermark: &str, steps: &[Step]) -> Result<()> {
    let client = db.client().await?;
    client.batch_execute(&format!("{TABLE}; {TOUCH}")).await?;
    let mut writers = Writers::new(db.url()).await?;
    writers.run(&Step::Insert(0, 200)).await?;
    let (changed, all) = (Puller::new(db.url(), watermark)?, Puller::new(db.url(), watermark)?);
    changed.pull(ALL).await?;
    for step in steps {
        writers.run(step).await?;
        if let Step::Pull { detect_deletes } = *step {
            compare(&changed, &all, detect_deletes).await?;
        }
    }
    for session in 1..SESSIONS {
        writers.end(session, "COMMIT").await?;
    }
    compare(&changed, &all, true).await
}

fn histories(name: &str, watermark: &str, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let db = runtime.block_on(TestDb::new(name)).unwrap();
    let mut runner = TestRunner::new(Config { cases, max_shrink_iters: 64, ..Config::default() });
    let outcome = runner.run(&proptest::collection::vec(step(), 10..40), |steps| {
        runtime.block_on(history(&db, watermark, &steps)).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn by_transaction_ids_any_history_gives_the_rows_of_a_full_pull() {
    histories("changed_by_xmin", "xmin", 16);
}

#[test]
fn by_a_column_any_history_gives_the_rows_of_a_full_pull() {
    histories("changed_by_column", "updated_at", 8);
}

/// A server of its own: what others have under way on a shared one holds its transactions back, and a pull then takes
/// more than it needs to.
async fn quiet_server() -> Result<(LocalServer, String)> {
    let server = tokio::task::spawn_blocking(|| LocalServer::start(&ServerOptions::default())).await??;
    let url = server.create_database("quiet").await?.as_str().to_owned();
    Ok((server, url))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_received_and_only_its_files_are_written() -> Result<()> {
    let (_server, url) = quiet_server().await?;
    let client = connect(&url).await?;
    client.batch_execute(TABLE).await?;
    let fill = "INSERT INTO t SELECT i, make_date(2020 + i % 4, 1, 1), 'row', 0.5 FROM generate_series(1, 4000) i";
    client.batch_execute(fill).await?;
    let puller = Puller::new(&url, "xmin")?;
    puller.pull(ALL).await?;
    let before = puller.files();
    let version = || async { anyhow::Ok(puller.context.lake()?.require_latest().await?.tables["t"].version) };
    let first = version().await?;

    let nothing = merged(&puller.pull(CHANGED_AND_GONE).await?)?;
    assert_eq!((nothing.received, nothing.removed, nothing.files_kept), (0, Some(0), before.len()));
    assert_eq!((puller.files(), version().await?), (before.clone(), first), "what was made of the table is not stale");

    client.batch_execute("UPDATE t SET note = 'changed' WHERE id = 5; DELETE FROM t WHERE id = 9").await?;
    let pulled = puller.pull(CHANGED).await?;
    let changed = merged(&pulled)?;
    assert_eq!((changed.received, changed.replaced, changed.surplus, pulled.rows), (1, 1, 1, 4000));
    assert_eq!(changed.files_rewritten, 1, "{changed:?}");
    assert_eq!(puller.files().intersection(&before).count(), before.len() - 1);

    let gone = merged(&puller.pull(CHANGED_AND_GONE).await?)?;
    assert_eq!((gone.received, gone.removed, gone.surplus), (0, Some(1), 0));
    let left = puller.context.lake()?.list("tables").await?;
    assert!(left.iter().all(|path| !path.as_ref().contains('@')), "{left:?}");

    client.batch_execute("DELETE FROM t").await?;
    let emptied = puller.pull(CHANGED_AND_GONE).await?;
    assert_eq!((emptied.rows, merged(&emptied)?.removed), (0, Some(3999)));
    assert_eq!(puller.rows().await?, Vec::<String>::new());
    client.batch_execute("INSERT INTO t VALUES (1, NULL, NULL, NULL, NULL)").await?;
    assert_eq!(puller.pull(CHANGED_AND_GONE).await?.rows, 1);
    assert_eq!(puller.rows().await?, ["1|null|null|null|null"]);
    Ok(())
}

/// Files of more rows than are looked at together when some of them are taken out.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_taken_out_of_large_files_wherever_they_are() -> Result<()> {
    const SUMS: &str =
        "SELECT count(*) || ' ' || sum(id) || ' ' || sum(points) || ' ' || count(DISTINCT id) AS v FROM t";
    let (_server, url) = quiet_server().await?;
    let client = connect(&url).await?;
    client.batch_execute(TABLE).await?;
    client.batch_execute("INSERT INTO t SELECT i, '2020-01-01', NULL, 1 FROM generate_series(1, 300000) i").await?;
    let puller = Puller::new(&url, "xmin")?;
    puller.pull(ALL).await?;
    client
        .batch_execute(
            "DELETE FROM t WHERE id % 777 = 0 OR id BETWEEN 60000 AND 140000; UPDATE t SET points = 2 WHERE id % 1000 = 1",
        )
        .await?;
    let changed = puller.pull(CHANGED_AND_GONE).await?;
    let merged = merged(&changed)?;
    assert!(merged.files_rewritten > 0 && merged.removed >= Some(80_000) && merged.replaced >= 200, "{merged:?}");
    let wanted: String = client.query_one(SUMS, &[]).await?.get(0);
    let (_, batches, _) = query(&puller.context, SUMS, &QueryLimits::default(), ROWS_MAX).await?;
    let found = batches.iter().find(|batch| batch.num_rows() > 0).context("an answer")?;
    assert_eq!(arrow::util::display::array_value_to_string(found.column(0), 0)?, wanted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_partition_that_pile_up_become_one() -> Result<()> {
    let (_server, url) = quiet_server().await?;
    let client = connect(&url).await?;
    client.batch_execute(TABLE).await?;
    client.batch_execute("INSERT INTO t SELECT i, '2020-01-01', 'row', 0.5 FROM generate_series(1, 100) i").await?;
    let (puller, all) = (Puller::new(&url, "xmin")?, Puller::new(&url, "xmin")?);
    puller.pull(ALL).await?;
    let mut most = 0;
    for id in 101..=120 {
        client.execute("INSERT INTO t VALUES ($1, '2020-02-02', 'new', 1)", &[&i64::from(id)]).await?;
        most = most.max(puller.pull(CHANGED).await?.files);
    }
    assert_eq!(most, 16);
    assert!(puller.files().len() < 8, "{:?}", puller.files());
    compare(&puller, &all, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_merged_safely_is_pulled_in_full_and_says_why() -> Result<()> {
    let db = TestDb::new("changed_unsafe").await?;
    let client = db.client().await?;
    let puller = Puller::new(db.url(), "xmin")?;
    let fill = "INSERT INTO t SELECT i, '2020-01-01', 'row' FROM generate_series(1, 10) i";
    let cases = [
        ("CREATE TABLE t (id bigint PRIMARY KEY, day date, note text)", "the lake does not have it yet"),
        ("ALTER TABLE t ADD extra int DEFAULT 3", "its columns changed"),
        ("DROP TABLE t; CREATE TABLE t (id bigint PRIMARY KEY, day date, note text, extra int)", "it was created anew"),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey; CREATE UNIQUE INDEX part ON t (id) WHERE id > 5", "no unique index"),
        ("DROP INDEX part; CREATE UNIQUE INDEX whole ON t (id); ALTER TABLE t ALTER id DROP NOT NULL", "may be null"),
        ("ALTER TABLE t ALTER id SET NOT NULL; CREATE TABLE child () INHERITS (t)", "it is not a plain table"),
    ];
    for (sql, expected) in cases {
        client.batch_execute(sql).await?;
        client.batch_execute(&format!("DELETE FROM t; {fill}")).await?;
        if expected == "may be null" || expected == "it is not a plain table" {
            // The lake is to know the columns as they are.
            puller.pull(ALL).await?;
        }
        let why = why_full(&puller.pull(CHANGED).await?)?;
        assert!(why.contains(expected), "{sql}: {why}");
    }
    client.batch_execute("DROP TABLE child").await?;
    merged(&puller.pull(CHANGED).await?)?;

    // Keys that cannot be matched byte by byte, and a watermark that is no time.
    client.batch_execute("ALTER TABLE t ALTER id TYPE numeric").await?;
    puller.pull(ALL).await?;
    assert!(why_full(&puller.pull(CHANGED).await?)?.contains("whose values cannot be matched"));
    client.batch_execute("ALTER TABLE t ALTER id TYPE bigint, ADD updated_at date").await?;
    let by_column = Puller::new(db.url(), "updated_at")?;
    by_column.pull(ALL).await?;
    assert!(why_full(&by_column.pull(CHANGED).await?)?.contains("its watermark updated_at is date"));
    let none = Puller::new(db.url(), "nowhere")?;
    none.pull(ALL).await?;
    assert!(why_full(&none.pull(CHANGED).await?)?.contains("its watermark nowhere is not there"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_whose_names_the_merge_would_mistake_make_a_pull_full() -> Result<()> {
    let db = TestDb::new("changed_names").await?;
    let client = db.client().await?;
    for (column, expected) in [
        ("\"FileName\" text", "its column FileName has a name that the merge needs"),
        ("\"ID\" bigint", "another column has the name of its key column id in other case"),
    ] {
        let create = format!("DROP TABLE IF EXISTS t; CREATE TABLE t ({column}, id bigint PRIMARY KEY, day date)");
        client.batch_execute(&create).await?;
        let puller = Puller::new(db.url(), "xmin")?;
        puller.pull(ALL).await?;
        assert_eq!(why_full(&puller.pull(CHANGED).await?)?, expected);
    }
    Ok(())
}

/// A row that comes again has the values that became null once, however often it comes.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_became_null_are_not_counted_again_with_every_update() -> Result<()> {
    let db = TestDb::new("changed_null").await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "CREATE TABLE t (id bigint PRIMARY KEY, v numeric(6,2), note text);
             INSERT INTO t VALUES (1, 1.5), (2, 'NaN'), (3, 'NaN'), (4, 2)",
        )
        .await?;
    let workspace = Workspace::at(db.url())?;
    fs::write(
        workspace.path().join("pipeline.toml"),
        "[[tables]]\nname = 't'\nkey = ['id']\nwatermark = 'xmin'\n[tables.columns]\nv.numeric_special = 'null'\n\
         [dataset]\nname = 'd'\nkey = ['id']\nphases = 'sql'\n[target]\ntable = 'd'\nbackup = 'b'\n",
    )?;
    let report = workspace.run(["--json", "pull"])?.ok()?.json()?;
    assert_eq!(report["tables"]["t"]["made_null"]["v"], 2, "{report:#}");
    for (update, expected) in [
        ("UPDATE t SET note = 'a' WHERE id = 2", 2),
        ("UPDATE t SET note = 'b' WHERE id IN (2, 3)", 2),
        ("UPDATE t SET v = 7 WHERE id = 2", 1),
        ("UPDATE t SET v = 'NaN' WHERE id IN (1, 4)", 3),
    ] {
        client.batch_execute(update).await?;
        let report = workspace.run(["--json", "pull", "--incremental"])?.ok()?.json()?;
        assert_eq!(report["tables"]["t"]["mode"], "incremental", "{update}: {report:#}");
        assert_eq!(report["tables"]["t"]["made_null"]["v"], expected, "{update}: {report:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_committed_late_are_not_lost() -> Result<()> {
    let (_server, url) = quiet_server().await?;
    let (client, late) = (connect(&url).await?, connect(&url).await?);
    client.batch_execute(&format!("{TABLE}; INSERT INTO t VALUES (1, NULL, 'early', 1)")).await?;
    late.batch_execute("BEGIN; INSERT INTO t VALUES (2, NULL, 'late', 2)").await?;
    let began: String = late
        .query_one("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')", &[])
        .await?
        .get(0);
    // A later row with a later time is there before.
    client.batch_execute("INSERT INTO t VALUES (3, NULL, 'later', 3)").await?;
    for watermark in ["xmin", "updated_at"] {
        let puller = Puller::new(&url, watermark)?;
        puller.pull(ALL).await?;
        let manifest = puller.context.lake()?.require_latest().await?;
        let shown = serde_json::to_value(&manifest.tables["t"].origin)?;
        assert_eq!(shown["mark"]["watermark"]["time"].as_str(), Some(began.as_str()), "{shown:#}");
    }
    let by_xmin = Puller::new(&url, "xmin")?;
    by_xmin.pull(ALL).await?;
    late.batch_execute("COMMIT").await?;
    let found = merged(&by_xmin.pull(CHANGED).await?)?;
    assert_eq!((found.received, found.replaced, by_xmin.rows().await?.len()), (2, 1, 3), "and not the early row");

    // Who may not see other roles' sessions goes by transaction ids.
    client
        .batch_execute(
            "DO $$ BEGIN CREATE ROLE onlooker LOGIN PASSWORD 'onlooker'; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
             GRANT SELECT ON t TO onlooker",
        )
        .await?;
    let mut url: url::Url = url.parse()?;
    url.set_username("onlooker").ok().context("a user name")?;
    url.set_password(Some("onlooker")).ok().context("a password")?;
    let onlooker = Puller::new(url.as_str(), "updated_at")?;
    onlooker.pull(ALL).await?;
    client.batch_execute("INSERT INTO t VALUES (4, NULL, 'dated back', 4, '1999-01-01')").await?;
    assert_eq!(merged(&onlooker.pull(CHANGED).await?)?.received, 1);
    assert_eq!(onlooker.rows().await?.len(), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_move_the_watermark_are_an_error_and_not_lost_silently() -> Result<()> {
    let db = TestDb::new("changed_dated_back").await?;
    let client = db.client().await?;
    client.batch_execute(&format!("{TABLE}; INSERT INTO t VALUES (1, NULL, 'early', 1)")).await?;
    let puller = Puller::new(db.url(), "updated_at")?;
    puller.pull(ALL).await?;
    let before = puller.context.lake()?.require_latest().await?.version;
    client.batch_execute("INSERT INTO t VALUES (2, NULL, 'dated back', 2, '1999-01-01')").await?;
    let error = puller.pull(CHANGED).await.unwrap_err().to_string();
    assert!(error.contains("t has 2 rows, and 1 after the changed ones were merged"), "{error}");
    assert_eq!(puller.context.lake()?.require_latest().await?.version, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_racing_tables_are_pulled_incrementally_where_they_have_a_key() -> Result<()> {
    let db = racing("changed_races", 60).await?;
    let client = db.client().await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    client
        .batch_execute(
            "UPDATE races SET race_class = 'Group 1' WHERE race_id IN (SELECT race_id FROM races ORDER BY race_id LIMIT 3); \
             DELETE FROM race_results WHERE id = (SELECT min(id) FROM race_results); DELETE FROM race_results_sectional_times",
        )
        .await?;
    let ran = workspace.run(["pull", "--incremental"])?.ok()?;
    assert!(
        ran.stderr.contains("race_results: 1 rows were deleted at the source and are still in the lake"),
        "{ran:?}"
    );
    assert!(ran.stdout.contains("the pipeline file gives it no watermark"), "{}", ran.stdout);
    let blocked = workspace.run(["run"])?;
    assert!(
        blocked.code == Some(3) && blocked.stderr.contains("V02") && blocked.stderr.contains("race_results has"),
        "{blocked:?}"
    );

    let report = workspace.run(["--json", "pull", "--incremental", "--detect-deletes"])?.ok()?.json()?;
    let table = |name: &str| report["tables"][name].clone();
    assert_eq!(table("race_results")["removed"], 1, "{report:#}");
    assert_eq!(table("race_results_sectional_times")["mode"], "full", "{report:#}");
    for name in ["races", "race_results", "horses", "race_results_sectional_times"] {
        let rows: i64 = client.query_one(&format!("SELECT count(*) FROM {name}"), &[]).await?.get(0);
        assert_eq!(table(name)["rows"].as_i64(), Some(rows), "{name}");
    }
    let sql = "SELECT count(*) FROM races WHERE race_class = 'Group 1'";
    let shown = workspace.run(["query", sql, "--format", "csv"])?.ok()?;
    let on_server: i64 = client.query_one(sql, &[]).await?.get(0);
    assert_eq!(shown.stdout.lines().last(), Some(on_server.to_string().as_str()));
    let refused = workspace.run(["pull", "--detect-deletes"])?;
    assert!(refused.code == Some(2) && refused.stderr.contains("--incremental"), "{refused:?}");
    Ok(())
}
