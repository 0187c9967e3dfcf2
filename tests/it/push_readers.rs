//! What others notice of a push: readers, writers and vacuum go on while tables change places.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use racealpha::pg::{DatabaseUrl, LocalServer, ServerOptions};
use racealpha::progress::Progress;
use racealpha::push::{self, TargetOptions};
use racealpha::schema::TableName;
use tokio_util::sync::CancellationToken;

use crate::push::{HeldPush, Hosted, NO_PUSH_WAITS, PUSH_WAITS, dataset, options, rows, until};
use crate::support::{Fault, Proxy, cluster, connect};

/// A table that others read and write in every way.
const SHARED: &str = "CREATE TABLE public.dataset (id bigint PRIMARY KEY, name text, round int NOT NULL);
     INSERT INTO public.dataset SELECT i, 'old ' || i, 0 FROM generate_series(1, 500) i;
     CREATE TABLE public.child (id bigint REFERENCES public.dataset ON DELETE CASCADE);
     CREATE VIEW public.through AS SELECT * FROM public.dataset;
     CREATE VIEW public.above AS SELECT t.id, d.round FROM public.through t JOIN public.dataset d USING (id);
     CREATE MATERIALIZED VIEW public.rounds AS SELECT round, count(*) AS runs FROM public.dataset GROUP BY round;
     CREATE FUNCTION public.body() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM public.dataset; END;
     CREATE FUNCTION public.plain() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM public.dataset); END';";

/// What a push may add to the longest read.
const SWAP_WAIT_MAX: Duration = Duration::from_millis(100);
/// The same while somebody's SELECT keeps the swap from its lock: the lock budget, and the rest.
const HELD_WAIT_MAX: Duration = Duration::from_millis(500);

/// How late a processor may be that other tests use at the same time, at least.
const LATE_MIN: Duration = Duration::from_millis(100);

/// The longest that a read may take, on a machine that other tests use at the same time: `alike` is the longest one
/// during pushes to another table, which take as much of the machine and no lock that readers need. Without care for
/// readers a read would take seconds.
fn bound(added: Duration, alike: Duration) -> Duration {
    added + 4 * alike.max(LATE_MIN)
}

/// A table of the same form that nobody reads.
const UNREAD: &str = "CREATE TABLE public.unread (id bigint PRIMARY KEY, name text, round int NOT NULL);
     INSERT INTO public.unread SELECT * FROM public.dataset;";

fn unread() -> TargetOptions {
    TargetOptions { backup: "unread_before".to_owned(), table: TableName::new("public", "unread"), ..options() }
}

/// A division by zero when a read meets anything but one full round.
const READS: &str = "SELECT 1 / (count(*) = 500 AND count(DISTINCT round) = 1)::int FROM public.dataset;
SELECT 1 / (count(*) = 500)::int FROM public.through;
SELECT 1 / (count(*) = 500)::int FROM public.above;
SELECT 1 / (sum(runs) = 500)::int FROM public.rounds;
SELECT 1 / (public.body() = 500)::int;
SELECT 1 / (public.plain() = 500)::int;
";

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_reads_in_every_mode_without_an_error_while_tables_change_places() -> Result<()> {
    let hosted = Hosted::new("push_pgbench").await?;
    hosted.owner.batch_execute(SHARED).await?;
    hosted.owner.batch_execute(UNREAD).await?;
    hosted.owner.batch_execute("SELECT pg_stat_force_next_flush()").await?;
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("reads.sql");
    std::fs::write(&script, READS)?;
    let program = cluster().bin_dir().join("pgbench");
    ensure!(program.exists(), "there is no {}; script/bootstrap installs PostgreSQL with it", program.display());
    let stop = CancellationToken::new();
    let mut readers = Vec::new();
    for mode in ["simple", "extended", "prepared"] {
        let (folder, program, script, url) =
            (folder.path().to_owned(), program.clone(), script.clone(), hosted.url_text.clone());
        let stop = stop.clone();
        readers.push(tokio::spawn(async move {
            let mut number = 0;
            while !stop.is_cancelled() {
                number += 1;
                let ran = tokio::process::Command::new(&program)
                    .args(["--no-vacuum", "--client=1", "--rate=100", "--time=3", "--log", "--protocol", mode])
                    .arg(format!("--log-prefix={mode}-{number}"))
                    .arg(format!("--file={}", script.display()))
                    .arg(&url)
                    .current_dir(&folder)
                    .kill_on_drop(true)
                    .output()
                    .await?;
                let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
                ensure!(ran.status.success() && said.contains("number of failed transactions: 0 "), "{mode}: {said}");
            }
            anyhow::Ok(())
        }));
    }
    let reading =
        "SELECT count(*) = 3 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgbench'";
    until(&hosted.admin, "all read", reading).await?;
    let mut ends = Vec::new();
    for round in 1..=10 {
        hosted.push(&unread(), &format!("u{round}"), rows(1, 501, round)).await?;
    }
    ends.push(SystemTime::now());
    for round in 1..=20 {
        let report = hosted.push(&options(), &format!("r{round}"), rows(1, 501, round)).await?;
        assert_eq!(report.warnings, Vec::<String>::new());
    }
    hosted.rollback(&options(), "r21").await?;
    ends.push(SystemTime::now());
    // Readers go on while the swap cannot have its lock, however often it tries.
    hosted.owner.batch_execute("BEGIN; SELECT count(*) FROM public.above").await?;
    let held = HeldPush::start(&hosted, &options(), "r22", rows(1, 251, 22), rows(251, 501, 22));
    held.go_on.send(()).ok();
    for _ in 0..4 {
        until(&hosted.admin, "the push waits for the lock", PUSH_WAITS).await?;
        until(&hosted.admin, "the push has given up waiting", NO_PUSH_WAITS).await?;
    }
    hosted.owner.batch_execute("COMMIT").await?;
    held.task.await??;
    ends.push(SystemTime::now());
    stop.cancel();
    for reader in readers {
        reader.await??;
    }
    let [alike, swapping, held] = longest_reads(folder.path(), &ends)?;
    assert!(swapping < bound(SWAP_WAIT_MAX, alike), "{swapping:?}, and {alike:?} beside pushes elsewhere");
    assert!(held < bound(HELD_WAIT_MAX, alike), "{held:?}, and {alike:?} beside pushes elsewhere");
    Ok(())
}

/// The longest of pgbench's reads that ended in each of the periods with these ends.
fn longest_reads<const PERIODS: usize>(folder: &Path, ends: &[SystemTime]) -> Result<[Duration; PERIODS]> {
    let mut longest = [Duration::ZERO; PERIODS];
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            // Client, number, microseconds with the lag behind the schedule, script, seconds and microseconds of the
            // end, lag.
            let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap_or(0)).collect();
            let &[_, _, total, _, seconds, micros, lag] = numbers.as_slice() else { continue };
            let ended = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
            let period = ends.iter().position(|end| ended <= *end);
            if let Some(longest) = period.and_then(|period| longest.get_mut(period)) {
                *longest = (*longest).max(Duration::from_micros(total.saturating_sub(lag)));
            }
        }
    }
    ensure!(longest.iter().all(|longest| !longest.is_zero()), "no reads in one of the periods: {longest:?}");
    Ok(longest)
}

/// Between the beginnings of two transactions of one client, as clients with work of their own have it.
const BETWEEN_TRANSACTIONS: Duration = Duration::from_millis(25);

/// Transactions that reach the table in every order, and write to it and to the table that refers to it.
const HOSTILE: [&str; 6] = [
    "BEGIN; SELECT count(*) FROM public.dataset; SELECT count(*) FROM public.above; COMMIT",
    "BEGIN; SELECT count(*) FROM public.above; SELECT count(*) FROM public.dataset; COMMIT",
    "BEGIN; SELECT count(*) FROM public.rounds; SELECT count(*) FROM public.child; SELECT public.body(); COMMIT",
    "BEGIN; INSERT INTO public.child VALUES (7); SELECT count(*) FROM public.through; COMMIT",
    "BEGIN; SELECT count(*) FROM public.through; INSERT INTO public.child VALUES (8); SELECT count(*) FROM public.rounds; COMMIT",
    "BEGIN; UPDATE public.dataset SET name = 'x' WHERE id = 9; SELECT count(*) FROM public.child; COMMIT",
];

#[tokio::test(flavor = "multi_thread")]
async fn nobody_runs_into_a_deadlock_whatever_the_order_of_locks() -> Result<()> {
    let hosted = Hosted::new("push_hostile").await?;
    hosted.owner.batch_execute(SHARED).await?;
    let stop = CancellationToken::new();
    let mut others = Vec::new();
    for sql in HOSTILE {
        let (client, stop) = (connect(&hosted.url_text).await?, stop.clone());
        others.push(tokio::spawn(async move {
            let mut transactions = 0_u32;
            let mut pace = tokio::time::interval(BETWEEN_TRANSACTIONS);
            while !stop.is_cancelled() {
                pace.tick().await;
                client.batch_execute(sql).await.context(sql)?;
                transactions += 1;
            }
            anyhow::Ok(transactions)
        }));
    }
    for round in 1..=5 {
        hosted.push(&options(), &format!("r{round}"), rows(1, 501, round)).await?;
    }
    hosted.rollback(&options(), "r6").await?;
    stop.cancel();
    for other in others {
        let transactions = other.await??;
        assert!(transactions > 5, "{transactions}");
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(hosted.number(deadlocks).await?, 0);
    assert_eq!(
        hosted.number("SELECT count(*) FROM pg_constraint WHERE conname = 'child_id_fkey' AND convalidated").await?,
        1
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_is_not_waited_for_under_the_lock() -> Result<()> {
    let hosted = Hosted::new("push_slow").await?;
    hosted.owner.batch_execute(SHARED).await?;
    let mut url: url::Url = hosted.url_text.parse()?;
    let delay = Duration::from_millis(50);
    let proxy = Proxy::start(url.port().context("a port")?, move |_| Fault::Slow(delay)).await?;
    url.set_port(Some(proxy.port)).ok().context("a port")?;
    let url: DatabaseUrl = url.as_str().parse()?;
    hosted.owner.batch_execute(UNREAD).await?;
    let beside = async |options: &TargetOptions, run: &str| {
        let (stop, reader) = (CancellationToken::new(), connect(&hosted.url_text).await?);
        let stopped = stop.clone();
        let reading = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !stopped.is_cancelled() {
                let started = Instant::now();
                reader.query_one("SELECT count(*) FROM public.above", &[]).await?;
                longest = longest.max(started.elapsed());
            }
            anyhow::Ok(longest)
        });
        let cancel = CancellationToken::new();
        let report = push::push(&url, options, dataset(rows(1, 501, 1)), run, &Progress::new(), &cancel).await?;
        stop.cancel();
        anyhow::Ok((report.swap, reading.await??))
    };
    let (_, alike) = beside(&unread(), "u1").await?;
    let (swap, longest) = beside(&options(), "r1").await?;
    // The batch holds some sixty statements: one by one, they alone would take three seconds.
    assert!(swap.batch_ms < 1000.0, "{swap:?}");
    assert!(longest < bound(SWAP_WAIT_MAX, alike), "{longest:?}, and {alike:?} beside a push elsewhere");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_autovacuum_leaves_the_table_to_the_swap() -> Result<()> {
    let server = LocalServer::start(&ServerOptions::default().set("autovacuum", "on").set("autovacuum_naptime", "1s"))?;
    let url_text = server.create_database("vacuumed").await?;
    let client = connect(url_text.as_str()).await?;
    client
        .batch_execute(
            "CREATE TABLE public.dataset (id bigint PRIMARY KEY, name text, round int NOT NULL) WITH (autovacuum_vacuum_threshold = 1,
               autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
             INSERT INTO public.dataset SELECT i, repeat('old', 300), 0 FROM generate_series(1, 5000) i;
             DELETE FROM public.dataset WHERE id % 2 = 0",
        )
        .await?;
    let vacuums = "SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE relid = 'public.dataset'::regclass)";
    until(&client, "autovacuum works on the table", vacuums).await?;
    let url: DatabaseUrl = url_text.as_str().parse()?;
    let options = TargetOptions { lock_budget: Duration::from_millis(400), ..options() };
    let cancel = CancellationToken::new();
    let started = Instant::now();
    let report = push::push(&url, &options, dataset(rows(0, 100, 1)), "r1", &Progress::new(), &cancel).await?;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(report.swap.attempts, 1, "{:?}", report.swap);
    Ok(())
}
