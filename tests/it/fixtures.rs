//! The synthetic source arrives complete, with keys and quirks, the same each time, or not at all.

use anyhow::{Context, Result, ensure};
use racealpha::fixtures::{FixtureError, FixtureOptions, FixtureReport, load};
use racealpha::pg::Session;
use racealpha::progress::{Event, Progress, Step};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::support::{TestDb, Workspace};

/// A world that loads in a fraction of a second and has every table.
const SMALL: FixtureOptions = FixtureOptions { races: 300, seed: 7 };

async fn session(database: &TestDb) -> Result<Session> {
    Ok(Session::open(&database.url().parse()?, "fixtures test").await?)
}

async fn load_small(database: &TestDb) -> Result<FixtureReport> {
    let mut session = session(database).await?;
    Ok(load(&mut session, &SMALL, &Progress::new(), &CancellationToken::new()).await?)
}

async fn count(client: &Client, sql: &str) -> Result<i64> {
    let row = client.query_one(&format!("SELECT count(*) FROM {sql}"), &[]).await.with_context(|| sql.to_owned())?;
    Ok(row.get(0))
}

async fn tables(client: &Client) -> Result<i64> {
    count(client, "pg_tables WHERE schemaname = 'public'").await
}

/// A password is not for the list of processes, so the database need not be named there.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_loads_into_the_database_of_the_environment_or_one_that_is_named() -> Result<()> {
    let (ours, named) = (TestDb::new("fixtures_env").await?, TestDb::new("fixtures_url").await?);
    let workspace = Workspace::at(ours.url())?;
    for (database, arguments) in [(&ours, vec!["--load", "--seed", "3"]), (&named, vec!["--load", named.url()])] {
        let client = database.client().await?;
        ensure!(tables(&client).await? == 0, "another database was loaded");
        workspace.run([vec!["fixtures", "--races", "20"], arguments].concat())?.ok()?;
        assert_eq!(count(&client, "races").await?, 20);
    }
    Ok(())
}

#[tokio::test]
async fn every_table_has_the_rows_that_the_report_and_the_progress_say() -> Result<()> {
    let database = TestDb::new("fixtures_rows").await?;
    let progress = Progress::new();
    let mut events = progress.subscribe();
    let mut session = session(&database).await?;
    let report = load(&mut session, &SMALL, &progress, &CancellationToken::new()).await?;
    let client = database.client().await?;
    assert_eq!(report.tables.len(), 8);
    for table in &report.tables {
        assert_eq!(count(&client, &table.table).await?, i64::try_from(table.rows)?, "{}", table.table);
        assert!(table.rows > 0, "{} is empty", table.table);
    }
    assert_eq!(count(&client, "races").await?, 300);
    let mut finished = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event {
            Event::Finished { step: Step::Fixtures, name, counters, .. } => finished.push((name, counters.rows())),
            Event::Started { .. } => {}
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }
    for table in &report.tables {
        assert!(finished.contains(&(table.table.clone(), table.rows)), "no end of {} in {finished:?}", table.table);
    }
    Ok(())
}

#[tokio::test]
async fn keys_indexes_and_the_former_dataset_are_as_in_production() -> Result<()> {
    let database = TestDb::new("fixtures_keys").await?;
    load_small(&database).await?;
    let client = database.client().await?;
    let constraints = "pg_constraint c JOIN pg_class t ON t.oid = c.conrelid WHERE c.convalidated";
    for (table, kind, least) in [
        ("races", "p", 1),
        ("race_results", "p", 1),
        ("race_results", "f", 1),
        ("horse_elo_ratings", "p", 1),
        ("horses", "u", 1),
        ("race_training_dataset", "p", 1),
        ("race_training_dataset", "u", 1),
    ] {
        let found =
            count(&client, &format!("{constraints} AND t.relname = '{table}' AND c.contype = '{kind}'")).await?;
        assert_eq!(found, least, "constraints of kind {kind} on {table}");
    }
    for index in ["race_results (race_id)", "race_results (horse_slug)", "horse_elo_ratings (horse_slug, race_date)"] {
        let (table, columns) = index.split_once(' ').context("a table and its columns")?;
        let sql = format!("pg_indexes WHERE tablename = '{table}' AND indexdef LIKE '%{columns}'");
        assert!(count(&client, &sql).await? > 0, "no index on {index}");
    }
    let analysed = "pg_stats WHERE schemaname = 'public' AND tablename = 'race_results'";
    assert_eq!(count(&client, analysed).await?, 18);
    // The former pipeline last ran sixty days before the last results, and knew the first row of each finisher.
    let known = "race_training_dataset d WHERE d.race_date > (SELECT max(race_date) - 60 FROM races WHERE race_date <= '2024-06-30')";
    assert_eq!(count(&client, known).await?, 0);
    let expected = "(SELECT DISTINCT x.race_id, x.horse_slug FROM race_results x JOIN races r USING (race_id) \
                    WHERE x.position < 50 AND x.horse_slug IS NOT NULL AND r.race_date <= date '2024-06-30' - 60) s";
    assert_eq!(count(&client, "race_training_dataset").await?, count(&client, expected).await?);
    // New rows find free keys.
    client.execute("INSERT INTO horses (horse_name, horse_slug) VALUES ('New', 'new')", &[]).await?;
    let dataset = "INSERT INTO race_training_dataset (race_id, horse_slug, race_date) VALUES ('x', 'y', now())";
    client.execute(dataset, &[]).await?;
    Ok(())
}

#[tokio::test]
async fn quirks_are_visible_to_sql() -> Result<()> {
    let database = TestDb::new("fixtures_quirks").await?;
    load_small(&database).await?;
    let client = database.client().await?;
    let sectional = "race_results_sectional_times s JOIN races r USING (race_id)";
    let hong_kong = "r.track_name IN ('Sha Tin', 'Happy Valley')";
    for (quirk, sql) in [
        ("Q1", "race_results WHERE horse_number !~ '^[0-9]+$'".to_owned()),
        (
            "Q2",
            "race_results x JOIN race_results_sectional_times s ON s.race_id = x.race_id \
             AND s.horse_number::text = x.horse_number WHERE s.position_800m <> x.position_800m"
                .to_owned(),
        ),
        ("Q3", format!("{sectional} WHERE {hong_kong} AND s.position_200m IS NULL AND s.position_400m IS NOT NULL")),
        ("Q4", "race_results WHERE position >= 50".to_owned()),
        (
            "Q5",
            format!(
                "{sectional} JOIN race_results x ON x.race_id = s.race_id AND s.horse_number::text = x.horse_number \
                 WHERE {hong_kong} AND lower(trim(x.horse_name)) <> lower(trim(replace(s.horse_name, '&#039;', '''')))"
            ),
        ),
        ("Q6", "race_results_sectional_times WHERE horse_name LIKE '%&#039;%'".to_owned()),
        ("Q7", "(SELECT FROM race_results GROUP BY race_id, horse_slug HAVING count(*) > 1) s".to_owned()),
        ("Q8", "race_results_sectional_times WHERE finish_time <= interval '0'".to_owned()),
        ("Q11", "races WHERE track_condition ~* '^(good|soft|heavy|firm)$'".to_owned()),
        ("Q12", "races WHERE track_info LIKE '%True%Out%'".to_owned()),
        ("Q14", "race_results WHERE barrier IS NULL".to_owned()),
        ("Q15", "race_meetings WHERE meeting_id ~ '^[0-9]+$'".to_owned()),
        ("Q16", "race_meetings WHERE is_night IS NULL".to_owned()),
    ] {
        assert!(count(&client, &sql).await? > 0, "{quirk} does not occur");
    }
    let text_ids = "race_meetings WHERE pg_typeof(meeting_id) <> 'text'::regtype OR meeting_id !~ '^[0-9]+$'";
    assert_eq!(count(&client, text_ids).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_seed_gives_the_same_tables_each_time() -> Result<()> {
    let mut sums: Vec<Vec<String>> = Vec::new();
    for name in ["fixtures_first", "fixtures_second"] {
        let database = TestDb::new(name).await?;
        let report = load_small(&database).await?;
        let client = database.client().await?;
        let mut of_this = Vec::new();
        for table in &report.tables {
            let sql = format!("SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} t", table.table);
            of_this.push(client.query_one(&sql, &[]).await?.get(0));
        }
        sums.push(of_this);
    }
    assert_eq!(sums[0], sums[1]);
    Ok(())
}

#[tokio::test]
async fn a_database_that_has_one_of_the_tables_is_refused_and_unchanged() -> Result<()> {
    let database = TestDb::new("fixtures_refused").await?;
    let client = database.client().await?;
    client.batch_execute("CREATE TABLE horses (mine text); INSERT INTO horses VALUES ('kept')").await?;
    let mut session = session(&database).await?;
    let loaded = load(&mut session, &SMALL, &Progress::new(), &CancellationToken::new()).await;
    ensure!(matches!(&loaded, Err(FixtureError::TableExists(name)) if name == "horses"), "{loaded:?}");
    assert_eq!(tables(&client).await?, 1);
    assert_eq!(count(&client, "horses WHERE mine = 'kept'").await?, 1);
    // The session is still good for other work.
    session.batch_execute("SELECT 1").await?;
    Ok(())
}

#[tokio::test]
async fn stopping_leaves_nothing_behind_and_the_next_load_works() -> Result<()> {
    let database = TestDb::new("fixtures_stopped").await?;
    let client = database.client().await?;
    let mut session = session(&database).await?;
    // Stopped before it begins, when the first rows have arrived, and while keys are made.
    for stop_at in ["", "races", "keys and indexes"] {
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        let mut events = progress.subscribe();
        let stopper = cancel.clone();
        if stop_at.is_empty() {
            cancel.cancel();
        }
        let watch = tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                if matches!(&event, Event::Started { name, .. } if name == stop_at) {
                    stopper.cancel();
                }
            }
        });
        let options = FixtureOptions { races: 3_000, seed: 7 };
        let loaded = load(&mut session, &options, &progress, &cancel).await;
        ensure!(matches!(loaded, Err(FixtureError::Cancelled)), "stop at '{stop_at}': {loaded:?}");
        watch.abort();
        assert_eq!(tables(&client).await?, 0, "stop at '{stop_at}'");
    }
    let report = load(&mut session, &SMALL, &Progress::new(), &CancellationToken::new()).await?;
    assert_eq!(report.tables.len(), 8);
    Ok(())
}

#[tokio::test]
async fn a_lost_session_leaves_nothing_behind() -> Result<()> {
    let database = TestDb::new("fixtures_lost").await?;
    let client = database.client().await?;
    let mut session = session(&database).await?;
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let progress = Progress::new();
    let mut events = progress.subscribe();
    let options = FixtureOptions { races: 3_000, seed: 7 };
    let cancel = CancellationToken::new();
    let loading = load(&mut session, &options, &progress, &cancel);
    let kill = async {
        while let Ok(event) = events.recv().await {
            if matches!(&event, Event::Started { name, .. } if name == "races") {
                client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await?;
                break;
            }
        }
        Ok::<(), anyhow::Error>(())
    };
    let (loaded, killed) = tokio::join!(loading, kill);
    killed?;
    ensure!(matches!(loaded, Err(FixtureError::Load { .. })), "{loaded:?}");
    assert_eq!(tables(&client).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_world_without_races_has_empty_tables() -> Result<()> {
    let database = TestDb::new("fixtures_empty").await?;
    let mut session = session(&database).await?;
    let options = FixtureOptions { races: 0, seed: 7 };
    let report = load(&mut session, &options, &Progress::new(), &CancellationToken::new()).await?;
    assert!(report.tables.iter().all(|table| table.rows == 0));
    assert_eq!(tables(&database.client().await?).await?, 8);
    Ok(())
}
