//! What goes wrong in production, done on purpose: one clear sentence, the right exit code, nothing changed, and the
//! next run works.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use racealpha::pg::{LocalServer, ServerOptions};

use crate::support::{Ran, TestDb, Workspace, racing};

/// How long a condition is waited for; far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

const SMALL: [&str; 2] = ["--set", "validate.min_rows=1"];

/// What a failed command must be.
fn assert_fails(ran: &Ran, code: i32, sentence: &str) {
    assert!(ran.code == Some(code) && ran.stderr.contains(sentence), "expected {code} and {sentence:?}: {ran:#?}");
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("racealpha: ") && !last.contains("panicked"), "{ran:#?}");
}

fn rebuild(workspace: &Workspace) -> Result<Ran> {
    workspace.run(SMALL.iter().chain(&["rebuild"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_cannot_be_reached_or_refuse_the_login() -> Result<()> {
    let db = TestDb::new("login").await?;
    assert_fails(&Workspace::at("postgres://u:p@127.0.0.1:1/d")?.run(["pull"])?, 4, "cannot reach u@127.0.0.1:1/d");
    assert_fails(&Workspace::at("postgres://u:s3cret@h:port/d")?.run(["pull"])?, 2, "DATABASE_URL is wrong");
    let (user, rest) = db
        .url()
        .split_once(':')
        .and_then(|(scheme, rest)| {
            let (login, server) = rest.split_once('@')?;
            Some((format!("{scheme}:{}", login.rsplit_once(':')?.0), server.to_owned()))
        })
        .context("a URL with a login")?;
    let ran = Workspace::at(&format!("{user}:wr0ng@{rest}"))?.run(["pull"])?;
    assert_fails(&ran, 2, "refuses the login; check user, password and database name");
    assert!(!ran.stderr.contains("wr0ng"), "{ran:?}");
    let nowhere = db.url().rsplit_once('/').map(|(server, _)| format!("{server}/no_such_database")).context("a URL")?;
    assert_fails(&Workspace::at(&nowhere)?.run(["pull"])?, 2, "refuses the login");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_leaves_the_lake_as_it_was() -> Result<()> {
    let db = racing("missing", 60).await?;
    let client = db.client().await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    client.batch_execute("ALTER TABLE horses RENAME TO gone").await?;
    assert_fails(&workspace.run(["pull"])?, 1, "table public.horses does not exist on the server");
    assert_eq!(workspace.lake_files("manifest").len(), 1);
    client.batch_execute("ALTER TABLE gone RENAME TO horses").await?;
    workspace.run(["pull"])?.ok()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_column_is_named_with_file_statement_and_message() -> Result<()> {
    let db = racing("column", 60).await?;
    db.client().await?.batch_execute("ALTER TABLE race_results DROP COLUMN jockey_slug").await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    let ran = workspace.run(["run"])?;
    assert_fails(&ran, 1, "01_base_rebuild.sql, statement ");
    assert!(ran.stderr.contains("jockey_slug"), "{ran:?}");
    assert_eq!(workspace.lake_files("manifest").len(), 1);
    Ok(())
}

/// A pipeline of one phase, whose dataset's only described column is the race.
fn one_phase(workspace: &Workspace, sql: &str) -> Result<Ran> {
    one_phase_reading(workspace, "races", sql)
}

/// The same, where the phase reads another table.
fn one_phase_reading(workspace: &Workspace, reads: &str, sql: &str) -> Result<Ran> {
    let folder = workspace.path().join("phases");
    fs::create_dir_all(&folder)?;
    let header = format!("-- grain: race\n-- reads: {reads}\n-- writes: d\n-- why: a test\n");
    fs::write(folder.join("01_d.sql"), format!("{header}{sql}"))?;
    fs::write(folder.join("dictionary.csv"), "name,pg_type,group,role,description\nrace_id,text,race,key,The race.\n")?;
    let pipeline = workspace.path().join("one.toml");
    fs::write(
        &pipeline,
        "[[tables]]\nname = 'races'\n[dataset]\nname = 'd'\nkey = ['race_id']\nphases = 'phases'\n\
         [target]\ntable = 'public.d'\nbackup = 'd_backup'\n",
    )?;
    let pipeline = pipeline.display().to_string();
    workspace.run(["--pipeline", &pipeline, "pull"])?.ok()?;
    workspace.run(["--pipeline", &pipeline, "run"])
}

#[tokio::test(flavor = "multi_thread")]
async fn phases_that_multiply_rows_or_add_unknown_columns_publish_nothing() -> Result<()> {
    let db = racing("phases", 60).await?;
    let workspace = Workspace::at(db.url())?;
    let ran = one_phase(&workspace, "CREATE TABLE d AS SELECT race_id FROM races;")?.ok()?;
    assert!(ran.stdout.contains("d with 60 rows"), "{ran:?}");

    let twice = "CREATE TABLE d AS SELECT race_id FROM races CROSS JOIN (VALUES (1), (2)) AS twice (n);";
    let ran = one_phase(&workspace, twice)?;
    assert_fails(&ran, 3, "01_d.sql, statement 1 (line 5) gave d several rows for one (race_id): {\"race_id\":");
    assert_eq!(workspace.lake_files("tables/d").len(), 1, "the blocked run's files are gone");
    let more = "CREATE TABLE d AS SELECT race_id, race_date AS day FROM races;";
    assert_fails(&one_phase(&workspace, more)?, 3, "01_d.sql: d has column day, which the dictionary does not have");
    let others = "CREATE TABLE d AS SELECT length(race_id) AS race_id FROM races;";
    let message = "01_d.sql: column race_id of d is BIGINT, and the dictionary says VARCHAR";
    assert_fails(&one_phase(&workspace, others)?, 3, message);
    let fewer = "CREATE TABLE d AS SELECT race_date FROM races;";
    let message = "01_d.sql: d has column race_date, which the dictionary does not have as a column of the dataset; \
                   d lacks column race_id, which the dictionary has";
    assert_fails(&one_phase(&workspace, fewer)?, 3, message);
    let untrue = "CREATE TABLE d AS SELECT race_id FROM races JOIN race_results USING (race_id);";
    assert_fails(
        &one_phase(&workspace, untrue)?,
        1,
        "01_d.sql: it reads table race_results, which the line `-- reads:`",
    );
    Ok(())
}

/// Two phases: the first makes `a`, a table or view, and the dataset reads it.
#[tokio::test(flavor = "multi_thread")]
async fn mistakes_show_where_they_were_made() -> Result<()> {
    let db = racing("where", 60).await?;
    let workspace = Workspace::at(db.url())?;
    let last = "CREATE VIEW d AS SELECT race_id FROM a WHERE n >= 0;";
    let folder = workspace.path().join("phases");
    fs::create_dir_all(&folder)?;
    let first = |key: &str, sql: &str| -> Result<Ran> {
        let header = format!("-- grain: race\n-- reads: races\n-- writes: numbers, a\n{key}-- why: a test\n");
        fs::write(folder.join("00_a.sql"), format!("{header}CREATE TABLE numbers AS SELECT 1 AS n;\n{sql}"))?;
        one_phase_reading(&workspace, "a", last)
    };
    let key = "-- key: numbers (n), a (n)\n";
    let numbered = "CREATE TABLE a AS SELECT race_id, CAST(row_number() OVER () AS INTEGER) AS n FROM races";
    first(key, &format!("{numbered};"))?.ok()?;
    // Each number twice, found where the table is made and not when the dataset is written.
    let twice =
        format!("{numbered} CROSS JOIN (VALUES (1), (2)) AS twice (i);").replace("row_number()", "dense_rank()");
    let twice = twice.replace("OVER ()", "OVER (ORDER BY race_id)");
    let message =
        "00_a.sql, statement 2 (line 7) gave a several rows for one (n): {\"n\":1,\"rows\":2}, {\"n\":2,\"rows\":2}";
    assert_fails(&first(key, &twice)?, 3, message);
    let message = "01_d.sql, statement 1 (line 5) gave d several rows for one (race_id): {\"race_id\":";
    assert_fails(&first("", &twice)?, 3, message);
    // Numbers far apart and texts are grouped.
    let apart = twice.replace("AS INTEGER) AS n", "AS BIGINT) * 1000000000000 AS n");
    assert_fails(
        &first(key, &apart)?,
        3,
        "00_a.sql, statement 2 (line 7) gave a several rows for one (n): {\"n\":10000",
    );
    assert_fails(&first("-- key: a (race_id)\n", &twice)?, 3, "gave a several rows for one (race_id): {\"race_id\":");
    assert_fails(&first("-- key: a n\n", &twice)?, 1, "00_a.sql: the line `-- key:` is not TABLE (COLUMN, …)");

    // A view fails when the dataset is written.
    let late = "CREATE VIEW a AS SELECT race_id, CAST(race_id AS INTEGER) AS n FROM races;";
    let ran = first(key, late)?;
    assert_fails(&ran, 1, "00_a.sql, statement 2 (line 7) failed: Conversion Error");
    assert_eq!(workspace.lake_files("tables/d").len(), 1, "only the first run published");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_one_race_without_sectionals_and_odds_is_rebuilt() -> Result<()> {
    let db = racing("little", 60).await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "DELETE FROM race_results_sectional_times; DELETE FROM races_derived_sectional_margins; \
             DELETE FROM race_results WHERE race_id <> (SELECT race_id FROM race_results WHERE position = 1 ORDER BY 1 LIMIT 1); \
             DELETE FROM races WHERE race_id NOT IN (SELECT race_id FROM race_results); \
             UPDATE race_results SET win_odds = NULL, position_800m = NULL, position_400m = NULL",
        )
        .await?;
    let workspace = Workspace::at(db.url())?;
    // The live table was made from all sixty races, so far fewer rows are refused first.
    assert!(rebuild(&workspace)?.stderr.contains("a push needs"));
    let few = ["--set", "validate.min_rows=1", "--set", "target.min_rows_of_live=0", "rebuild"];
    let report = workspace.run(few)?.ok()?;
    let rows: i64 = client.query_one("SELECT count(*) FROM race_training_dataset", &[]).await?.get(0);
    let finishers =
        "SELECT count(DISTINCT horse_slug) FROM race_results WHERE position < 50 AND horse_slug IS NOT NULL";
    assert_eq!(rows, client.query_one(finishers, &[]).await?.get::<_, i64>(0), "{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_source_table_blocks_the_rebuild() -> Result<()> {
    let db = racing("empty", 60).await?;
    let client = db.client().await?;
    client.batch_execute("DELETE FROM race_results").await?;
    let before = live_digest(&client).await?;
    let workspace = Workspace::at(db.url())?;
    assert_fails(&rebuild(&workspace)?, 3, "V01 source tables are there and not empty: race_results is empty");
    assert_eq!(live_digest(&client).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_not_there_is_created_and_said() -> Result<()> {
    let db = racing("first", 60).await?;
    let client = db.client().await?;
    client.batch_execute("DROP TABLE race_training_dataset").await?;
    let workspace = Workspace::at(db.url())?;
    let ran = rebuild(&workspace)?.ok()?;
    assert!(ran.stdout.contains("created   public.race_training_dataset"), "{}", ran.stdout);
    // And replaced by the next.
    assert!(rebuild(&workspace)?.ok()?.stdout.contains("replaced  public.race_training_dataset"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_the_target_lacks_is_refused_unless_the_policy_says_otherwise() -> Result<()> {
    let db = racing("lacks", 60).await?;
    let client = db.client().await?;
    client.batch_execute("ALTER TABLE race_training_dataset DROP COLUMN win_percentage").await?;
    let before = live_digest(&client).await?;
    let workspace = Workspace::at(db.url())?;
    let ran = rebuild(&workspace)?;
    assert_fails(&ran, 1, "win_percentage");
    assert_eq!(live_digest(&client).await?, before);
    let preview = workspace.run(["preview"])?.ok()?;
    assert!(preview.stdout.contains("a push is refused:") && preview.stdout.contains("win_percentage"));
    let allowed = ["--set", "target.new_columns=add", "push"];
    workspace.run(SMALL.iter().chain(&allowed))?.ok()?;
    client.query("SELECT win_percentage FROM race_training_dataset LIMIT 1", &[]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_the_target_cannot_hold_is_named_and_nothing_changes() -> Result<()> {
    let db = racing("value", 60).await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "ALTER TABLE race_training_dataset ALTER COLUMN track_name TYPE varchar(5) USING left(track_name, 5)",
        )
        .await?;
    let before = live_digest(&client).await?;
    let workspace = Workspace::at(db.url())?;
    let ran = rebuild(&workspace)?;
    assert_fails(&ran, 1, "public.race_training_dataset, column track_name, row ");
    assert!(ran.stderr.contains("race_id="), "the row's key: {ran:?}");
    assert_eq!(live_digest(&client).await?, before);
    assert_no_run_schema(&client).await?;
    client.batch_execute("ALTER TABLE race_training_dataset ALTER COLUMN track_name TYPE text").await?;
    workspace.run(SMALL.iter().chain(&["push"]))?.ok()?;
    Ok(())
}

/// Ends all our sessions on the server while they copy: the snapshot is gone, and the pull starts over with another.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_killed_during_a_pull() -> Result<()> {
    let db = racing("killed", 400).await?;
    let client = db.client().await?;
    let workspace = Workspace::at(db.url())?;
    workspace.run(["pull"])?.ok()?;
    hold_copy(&client).await?;
    let child = workspace.command(["pull"]).spawn()?;
    let watcher = db.client().await?;
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND application_name = 'racealpha pull' AND wait_event_type = 'Lock'";
    wait_for(&watcher, blocked).await?;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE datname = current_database() AND application_name = 'racealpha pull'";
    watcher.execute(kill, &[]).await?;
    client.batch_execute("SELECT pg_advisory_unlock(42)").await?;
    let ran = Ran::from(child.wait_with_output()?).ok()?;
    assert!(ran.stderr.contains("starting over with another (2 of 5)"), "{ran:?}");
    assert_eq!(workspace.lake_files("manifest").len(), 2);
    Ok(())
}

/// Ctrl-C during a pull and during a push: exit code 130, nothing visible, nothing left.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_everything_as_it_was() -> Result<()> {
    let db = racing("ctrl_c", 200).await?;
    let client = db.client().await?;
    let watcher = db.client().await?;
    let workspace = Workspace::at(db.url())?;
    rebuild(&workspace)?.ok()?;
    let (before, files) = (live_digest(&client).await?, workspace.lake_files("tables"));

    hold_copy(&client).await?;
    let child = workspace.command(["pull"]).spawn()?;
    wait_for(&watcher, &blocked_by("racealpha pull")).await?;
    interrupt(child.id())?;
    let ran = Ran::from(child.wait_with_output()?);
    release_copy(&client).await?;
    assert_fails(&ran, 130, "interrupted");
    assert_eq!(workspace.lake_files("tables"), files);

    // The swap cannot have its lock and tries again and again.
    client.batch_execute("BEGIN; LOCK TABLE race_training_dataset IN ACCESS SHARE MODE").await?;
    let child = workspace.command(SMALL.iter().chain(&["push"])).spawn()?;
    wait_for(&watcher, &blocked_by("racealpha push %")).await?;
    interrupt(child.id())?;
    let ran = Ran::from(child.wait_with_output()?);
    client.batch_execute("COMMIT").await?;
    assert_fails(&ran, 130, "");
    assert_eq!(live_digest(&client).await?, before);
    assert_no_run_schema(&client).await?;
    rebuild(&workspace)?.ok()?;
    Ok(())
}

/// A lake on a disk of 300 kB: the pull says so and publishes nothing.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_nothing_is_published() -> Result<()> {
    let db = racing("full", 400).await?;
    let workspace = Workspace::at(db.url())?;
    fs::create_dir(workspace.lake())?;
    let program = env!("CARGO_BIN_EXE_racealpha");
    let script = format!(
        "mount -t tmpfs -o size=150k tmpfs data_lake && '{program}' pull; code=$?; \
         find data_lake/manifest data_lake/tables -type f 2>/dev/null; exit $code"
    );
    // A mount of its own needs a namespace of its own, and without being root also a user namespace.
    let user = if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" };
    let output = Command::new("unshare")
        .args([user, "sh", "-c", &script])
        .current_dir(workspace.path())
        .env("DATABASE_URL", db.url())
        .output()?;
    let ran = Ran::from(output);
    assert_fails(&ran, 1, "No space left on device");
    assert_eq!(ran.stdout, "", "files left behind");
    workspace.run(["pull"])?.ok()?;
    Ok(())
}

/// The server goes away under a push and comes back: the live table is the old one, and the next push works.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_during_a_push() -> Result<()> {
    let mut server = tokio::task::spawn_blocking(|| LocalServer::start(&ServerOptions::default())).await??;
    let url = server.create_database("racing").await?;
    let database: racealpha::pg::DatabaseUrl = url.as_str().parse()?;
    let mut session = racealpha::pg::Session::open(&database, "test").await?;
    let options = racealpha::fixtures::FixtureOptions { races: 200, seed: 5 };
    let (progress, cancel) = (racealpha::progress::Progress::new(), tokio_util::sync::CancellationToken::new());
    racealpha::fixtures::load(&mut session, &options, &progress, &cancel).await?;
    drop(session);
    let workspace = Workspace::at(url.as_str())?;
    rebuild(&workspace)?.ok()?;

    let client = crate::support::connect(url.as_str()).await?;
    let before = live_digest(&client).await?;
    client.batch_execute("BEGIN; LOCK TABLE race_training_dataset IN ACCESS SHARE MODE").await?;
    let child = workspace.command(SMALL.iter().chain(&["push"])).spawn()?;
    let watcher = crate::support::connect(url.as_str()).await?;
    wait_for(&watcher, &blocked_by("racealpha push %")).await?;
    let server = tokio::task::spawn_blocking(move || {
        server.stop_immediate()?;
        server.restart()?;
        Ok::<_, anyhow::Error>(server)
    })
    .await??;
    let ran = Ran::from(child.wait_with_output()?);
    // Either the push outlived the restart and the table is new, or it says what happened and the table is the old one.
    assert!(ran.code == Some(0) || ran.code == Some(1) || ran.code == Some(4), "{ran:?}");
    let client = crate::support::connect(url.as_str()).await?;
    assert_eq!(live_digest(&client).await? == before, ran.code != Some(0), "{ran:?}");
    workspace.run(SMALL.iter().chain(&["push"]))?.ok()?;
    assert_no_run_schema(&client).await?;
    tokio::task::spawn_blocking(move || drop(server)).await?;
    Ok(())
}

/// Two runs on one lake: the second says who works there.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_on_the_same_lake_is_told_who_is_first() -> Result<()> {
    let db = racing("second", 60).await?;
    let client = db.client().await?;
    let workspace = Workspace::at(db.url())?;
    hold_copy(&client).await?;
    let first = workspace.command(["pull"]).spawn()?;
    let watcher = db.client().await?;
    wait_for(&watcher, &blocked_by("racealpha pull")).await?;
    assert_fails(&workspace.run(["pull"])?, 5, "another run works on this lake: pull, run ");
    client.batch_execute("SELECT pg_advisory_unlock(42)").await?;
    Ran::from(first.wait_with_output()?).ok()?;
    Ok(())
}

/// Makes every copy of `race_results` stop in its middle and wait for a lock that this session holds.
async fn hold_copy(client: &tokio_postgres::Client) -> Result<()> {
    client
        .batch_execute(
            "SELECT pg_advisory_lock(42); ALTER TABLE race_results RENAME TO all_results; \
             CREATE VIEW race_results AS SELECT * FROM all_results \
             WHERE CASE WHEN id = (SELECT min(id) + 100 FROM all_results) \
                        THEN pg_advisory_lock_shared(42)::text = '' ELSE true END",
        )
        .await?;
    Ok(())
}

async fn release_copy(client: &tokio_postgres::Client) -> Result<()> {
    let sql = "SELECT pg_advisory_unlock(42); DROP VIEW race_results; ALTER TABLE all_results RENAME TO race_results";
    Ok(client.batch_execute(sql).await?)
}

fn interrupt(process: u32) -> Result<()> {
    let process = nix::unistd::Pid::from_raw(i32::try_from(process)?);
    Ok(nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT)?)
}

/// Counts sessions of an application that wait for a lock.
fn blocked_by(application: &str) -> String {
    format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name LIKE '{application}' AND wait_event_type = 'Lock'"
    )
}

/// Waits until a count is above zero.
async fn wait_for(client: &tokio_postgres::Client, count: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while client.query_one(count, &[]).await?.get::<_, i64>(0) == 0 {
        anyhow::ensure!(Instant::now() < deadline, "still nothing: {count}");
    }
    Ok(())
}

async fn assert_no_run_schema(client: &tokio_postgres::Client) -> Result<()> {
    let left = client.query("SELECT nspname FROM pg_namespace WHERE nspname LIKE '\\_push\\_%'", &[]).await?;
    assert!(left.is_empty(), "{} run schemas left", left.len());
    Ok(())
}

/// Changes with any value of the live table and with the table itself.
async fn live_digest(client: &tokio_postgres::Client) -> Result<String> {
    let sql = "SELECT 'race_training_dataset'::regclass::oid::text || coalesce(md5(string_agg(t::text, ',' ORDER BY id)), '') \
               FROM race_training_dataset t";
    Ok(client.query_one(sql, &[]).await?.get(0))
}
