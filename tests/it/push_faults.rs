//! A push meets every fault at every step: readers have the old rows or the new ones and never a mix, one sentence says
//! what happened, the next push succeeds, and nothing is left behind.
//!
//! A push is stopped at a step by what it meets there: functions in a default, an index and an event trigger that wait
//! for an advisory lock, or a lock on the live table. Then the fault strikes, and the step is let go on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use futures::stream;
use racealpha::pg::{DatabaseUrl, LocalServer, ServerOptions};
use racealpha::pipeline::{Failure, PipelineError};
use racealpha::progress::Progress;
use racealpha::push::{self, Dataset, MissingColumns, PushError, PushReport, TargetOptions};
use racealpha::schema::TableName;
use tokio_util::sync::CancellationToken;

use crate::support::{
    DIGEST, Fault as NetworkFault, HeldTarget, OLD_ROWS, Proxy, Ran, STEPS, Step, TestDb, cluster, connect, text,
};

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// `kill -9` of the program.
    ClientKilled,
    /// `pg_terminate_backend`.
    BackendKilled,
    /// `pg_ctl stop -m immediate`, then a start.
    ServerCrashed,
    /// The network resets every connection; new ones work.
    NetworkCut,
    /// SQLSTATE 53100 where a step writes.
    DiskFull,
}

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Push,
    /// The push that creates the table.
    FirstPush,
    Merge,
    /// Of a push.
    Rollback,
}

impl Command {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Push | Self::FirstPush => &["push"],
            Self::Merge => &["push", "--mode", "merge"],
            Self::Rollback => &["rollback"],
        }
    }

    /// What the next command says of one whose program died after the commit.
    fn told(self) -> &'static str {
        match self {
            Self::Push | Self::FirstPush => "had put its table in place of public.d",
            Self::Merge => "had merged its rows into public.d",
            Self::Rollback => "had rolled public.d back",
        }
    }

    /// Where it can be stopped. A merge meets what stops the load and the index of a swap when it inserts.
    fn steps(self) -> &'static [Step] {
        match self {
            Self::Push => &STEPS,
            Self::FirstPush => &[Step::Create, Step::Batch],
            Self::Merge => &[Step::Create, Step::FirstLock, Step::Copy, Step::Index, Step::Finish],
            Self::Rollback => &[Step::Create, Step::FirstLock, Step::LastLock, Step::Batch],
        }
    }

    /// Whether it is one message of which nothing is known, if it is lost, until the server is asked.
    fn is_in_doubt(self, step: Step) -> bool {
        matches!(step, Step::FirstLock | Step::LastLock | Step::Batch) && self != Self::Merge
    }
}

/// Whose rows readers see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Live {
    Old,
    New,
    /// The server had the whole swap and no client: it may commit or not.
    OldOrNew,
}

/// What must come of a fault: rows, exit code (none for a killed program) and what the last line says.
fn expected(command: Command, step: Step, fault: Fault) -> (Live, Option<i32>, &'static str) {
    match fault {
        Fault::ClientKilled if command.is_in_doubt(step) => (Live::OldOrNew, None, ""),
        Fault::ClientKilled if step == Step::Finish => (Live::New, None, ""),
        Fault::ClientKilled => (Live::Old, None, ""),
        Fault::BackendKilled | Fault::ServerCrashed | Fault::NetworkCut
            if step == Step::Finish || command.is_in_doubt(step) =>
        {
            (Live::New, Some(0), "")
        }
        Fault::BackendKilled | Fault::ServerCrashed | Fault::NetworkCut => {
            (Live::Old, Some(4), "; the live table is as it was")
        }
        Fault::DiskFull if step == Step::Finish => (Live::New, Some(0), "disk is full"),
        Fault::DiskFull => (Live::Old, Some(1), "the server's disk is full; public.d is as it was"),
    }
}

/// What readers see, if there is a table.
async fn digest(target: &HeldTarget) -> Result<String> {
    match text(&target.admin, "SELECT coalesce(to_regclass('public.d')::text, 'no table')").await?.as_str() {
        "no table" => Ok("no table".to_owned()),
        _ => text(&target.admin, DIGEST).await,
    }
}

impl HeldTarget {
    async fn strike(&self, step: Step, fault: Fault, child: &mut Child, proxy: &Proxy) -> Result<()> {
        match fault {
            Fault::ClientKilled => child.kill()?,
            Fault::BackendKilled => {
                let kill = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name LIKE 'racealpha push%'";
                self.watcher.execute(kill, &[]).await?;
            }
            Fault::NetworkCut => proxy.cut(),
            Fault::DiskFull => {
                self.watcher.execute("INSERT INTO hold.full_disk VALUES ($1)", &[&(step as i32)]).await?;
            }
            Fault::ServerCrashed => anyhow::bail!("only on a server of its own"),
        }
        Ok(())
    }

    /// What must hold after a fault, and that the next push brings the new rows and leaves nothing behind.
    async fn assert_sound(&self, command: Command, step: Step, fault: Fault, ran: Ran) -> Result<()> {
        let (live, code, says) = expected(command, step, fault);
        let place = format!("{fault:?} of {command:?} at {step:?}");
        let (old, new) = match command {
            Command::Push | Command::Merge => (self.old.as_str(), self.new.as_str()),
            Command::FirstPush => ("no table", self.new.as_str()),
            Command::Rollback => (self.new.as_str(), self.old.as_str()),
        };
        // Whoever the server still works for ends first.
        self.until(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                AND application_name LIKE 'racealpha push%')",
        )
        .await
        .context(place.clone())?;
        let digest = digest(self).await?;
        let found = if digest == old { Live::Old } else { Live::New };
        assert!(digest == old || digest == new, "{place}: a mix");
        assert!(live == found || live == Live::OldOrNew, "{place}: {found:?} {ran:#?}");
        assert_eq!(ran.code, code, "{place}: {ran:#?}");
        let said = ran.stderr.lines().filter(|line| line.contains(says)).count();
        assert!(said > 0 || says.is_empty(), "{place}: {ran:#?}");
        let sentences = ran.stderr.lines().filter(|line| line.starts_with("racealpha: ")).count();
        assert_eq!(sentences, usize::from(code.is_some_and(|code| code != 0)), "{place}: {ran:#?}");

        self.admin.batch_execute("DELETE FROM hold.full_disk").await?;
        let next = self.workspace.run(["push"])?;
        assert_eq!(next.code, Some(0), "{place}, the next push: {next:#?}");
        if fault == Fault::ClientKilled && found == Live::New {
            assert!(next.stdout.contains(command.told()), "{place}: {next:#?}");
        }
        assert_eq!(text(&self.admin, DIGEST).await?, self.new, "{place}");
        self.assert_no_run_schema().await.context(place)?;
        self.admin.batch_execute(OLD_ROWS).await?;
        Ok(())
    }

    /// Makes the table what it is before the command.
    async fn prepare(&self, command: Command) -> Result<()> {
        match command {
            Command::Push | Command::Merge => {}
            Command::FirstPush => self.admin.batch_execute("DROP TABLE IF EXISTS public.d, public.d_backup").await?,
            Command::Rollback => drop(self.workspace.run(["push"])?.ok()?),
        }
        Ok(())
    }
}

/// A database, and the program's way to it through a proxy.
async fn behind_a_proxy(name: &str) -> Result<(TestDb, Proxy, HeldTarget, String)> {
    let db = TestDb::new(name).await?;
    let proxy = Proxy::start(cluster().port(), |_| NetworkFault::None).await?;
    let mut through: url::Url = db.url().parse()?;
    through.set_port(Some(proxy.port)).ok().context("a port")?;
    let target = HeldTarget::new(db.url(), through.as_str()).await?;
    Ok((db, proxy, target, through.into()))
}

/// Strikes at every step of a command that the fault can meet.
async fn strike_everywhere(name: &str, command: Command, fault: Fault) -> Result<()> {
    let (_db, proxy, target, _) = behind_a_proxy(name).await?;
    let writes = |step: &&Step| fault != Fault::DiskFull || !matches!(step, Step::FirstLock | Step::LastLock);
    for step in command.steps().iter().filter(writes) {
        target.prepare(command).await?;
        let mut child = target.stopped_at(*step, command.arguments()).await?;
        target.strike(*step, fault, &mut child, &proxy).await?;
        target.admin.batch_execute("COMMIT").await?;
        let ran = Ran::from(tokio::task::spawn_blocking(move || child.wait_with_output()).await??);
        target.assert_sound(command, *step, fault, ran).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_is_killed() -> Result<()> {
    strike_everywhere("fault_client", Command::Push, Fault::ClientKilled).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_process_is_killed() -> Result<()> {
    strike_everywhere("fault_backend", Command::Push, Fault::BackendKilled).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_cut() -> Result<()> {
    strike_everywhere("fault_network", Command::Push, Fault::NetworkCut).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_disk_is_full() -> Result<()> {
    strike_everywhere("fault_disk", Command::Push, Fault::DiskFull).await
}

const ON_EACH: [Fault; 4] = [Fault::ClientKilled, Fault::BackendKilled, Fault::NetworkCut, Fault::DiskFull];

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_meets_every_fault() -> Result<()> {
    for fault in ON_EACH {
        strike_everywhere(&format!("fault_merge_{fault:?}").to_lowercase(), Command::Merge, fault).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_meets_every_fault() -> Result<()> {
    for fault in ON_EACH {
        strike_everywhere(&format!("fault_rollback_{fault:?}").to_lowercase(), Command::Rollback, fault).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_push_meets_every_fault() -> Result<()> {
    for fault in ON_EACH {
        strike_everywhere(&format!("fault_first_{fault:?}").to_lowercase(), Command::FirstPush, fault).await?;
    }
    Ok(())
}

/// A push from within this process, with limits that a test can wait for.
fn push_here(
    url: &str,
    run: &'static str,
    patience: Duration,
) -> Result<tokio::task::JoinHandle<Result<PushReport, PushError>>> {
    let url: DatabaseUrl = url.parse()?;
    let mut options = TargetOptions::new(TableName::new("public", "d"), vec!["race_id".to_owned()]);
    "d_backup".clone_into(&mut options.backup);
    options.missing_columns = MissingColumns::Null;
    (options.silence_max, options.outcome_patience) = (patience, patience);
    let races: ArrayRef = Arc::new((1..=50).map(|race| Some(format!("race {race}"))).collect::<StringArray>());
    let batch = RecordBatch::try_from_iter([("race_id", races)])?;
    Ok(tokio::spawn(async move {
        let dataset = Dataset { schema: batch.schema(), rows: 50, batches: stream::iter([Ok(batch)]) };
        push::push(&url, &options, dataset, run, &Progress::new(), &CancellationToken::new()).await
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_crashes() -> Result<()> {
    let mut server = tokio::task::spawn_blocking(|| LocalServer::start(&ServerOptions::default())).await??;
    let url = server.create_database("racing").await?;
    let mut target = HeldTarget::new(url.as_str(), url.as_str()).await?;
    for step in STEPS {
        let child = target.push_stopped_at(step).await?;
        server = tokio::task::spawn_blocking(move || {
            server.stop_immediate()?;
            server.restart()?;
            anyhow::Ok(server)
        })
        .await??;
        (target.admin, target.watcher) = (connect(&target.url).await?, connect(&target.url).await?);
        let ran = Ran::from(tokio::task::spawn_blocking(move || child.wait_with_output()).await??);
        target.assert_sound(Command::Push, step, Fault::ServerCrashed, ran).await?;
    }

    // It stays away while the push wants to know what became of its swap.
    target.hold(Step::Batch).await?;
    let pushing = push_here(url.as_str(), "lost", Duration::from_millis(500))?;
    target.until_a_push_waits().await?;
    server = tokio::task::spawn_blocking(move || server.stop_immediate().map(|()| server)).await??;
    let error = pushing.await?.unwrap_err();
    assert!(matches!(error, PushError::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(PipelineError::from(error).failure(), Failure::Unreachable);
    server = tokio::task::spawn_blocking(move || server.restart().map(|()| server)).await??;
    (target.admin, target.watcher) = (connect(&target.url).await?, connect(&target.url).await?);
    assert_eq!(text(&target.admin, DIGEST).await?, target.old);
    let status = target.workspace.run(["status"])?.ok()?;
    assert!(status.stdout.contains("run lost of") && status.stdout.contains("loaded and not swapped"), "{status:#?}");
    let next = target.workspace.run(["push"])?.ok()?;
    assert!(next.stdout.contains("what run lost had loaded and not swapped was removed"), "{next:#?}");
    target.assert_no_run_schema().await?;
    tokio::task::spawn_blocking(move || drop(server)).await?;
    Ok(())
}

/// Nothing passes any more, and neither end is told: only a limit of our own ends the wait.
#[tokio::test(flavor = "multi_thread")]
async fn the_network_freezes() -> Result<()> {
    let (_db, proxy, target, through) = behind_a_proxy("fault_freeze").await?;
    target.hold(Step::Copy).await?;
    let pushing = push_here(&through, "frozen", Duration::from_millis(500))?;
    target.until_a_push_waits().await?;
    proxy.freeze();
    target.admin.batch_execute("COMMIT").await?;
    let error = pushing.await?.unwrap_err();
    assert!(matches!(error, PushError::Lost { step: "load the staging table", .. }), "{error:?}");
    assert_eq!(text(&target.admin, DIGEST).await?, target.old);
    target.assert_no_run_schema().await?;

    target.hold(Step::Batch).await?;
    let pushing = push_here(&through, "frozen_swap", Duration::from_secs(5))?;
    target.until_a_push_waits().await?;
    proxy.freeze();
    target.admin.batch_execute("COMMIT").await?;
    let report = pushing.await??;
    assert!(report.swap.answer_lost, "{report:?}");
    assert!(report.notes.iter().any(|note| note.contains("the server says that it had happened")), "{report:?}");
    assert_eq!(text(&target.admin, DIGEST).await?, target.new);
    target.assert_no_run_schema().await
}

/// What cannot be swapped in time is kept and resumed, with what was attached to the live table meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_was_loaded_and_not_swapped_is_resumed() -> Result<()> {
    let db = TestDb::new("resume").await?;
    let target = HeldTarget::new(db.url(), db.url()).await?;
    let not_swapped = async || {
        target.hold(Step::LastLock).await?;
        let ran = target.workspace.run(["--set", "target.swap_deadline_seconds=0", "push"])?;
        target.admin.batch_execute("COMMIT").await?;
        assert_eq!(ran.code, Some(6), "{ran:#?}");
        let sentence = ran.stderr.lines().last().unwrap_or_default();
        assert!(sentence.contains("`racealpha push --resume` swaps it in"), "{ran:#?}");
        assert_eq!(text(&target.admin, DIGEST).await?, target.old);
        anyhow::Ok(())
    };
    let refused = |why: &str| -> Result<()> {
        let ran = target.workspace.run(["push", "--resume"])?;
        assert!(ran.code == Some(1) && ran.stderr.contains(why), "{why}: {ran:#?}");
        Ok(())
    };
    refused("cannot resume the push to public.d: no push has loaded it and not swapped")?;

    not_swapped().await?;
    let status = target.workspace.run(["status"])?.ok()?;
    assert!(status.stdout.contains("loaded and not swapped; `racealpha push --resume`"), "{status:#?}");
    target
        .admin
        .batch_execute("CREATE INDEX made_meanwhile ON public.d (held); GRANT SELECT ON public.d TO PUBLIC")
        .await?;
    let resumed = target.workspace.run(["--json", "push", "--resume"])?.ok()?.json()?;
    assert_eq!((&resumed["rows"], &resumed["mode"]), (&50.into(), &"swap".into()), "{resumed:#}");
    assert_eq!(text(&target.admin, DIGEST).await?, target.new);
    let carried = "SELECT (SELECT count(*) FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'd' AND indexname = 'made_meanwhile')
                || ' ' || (SELECT relacl::text LIKE '%,=r/%' FROM pg_class WHERE oid = 'public.d'::regclass)";
    assert_eq!(text(&target.admin, carried).await?, "1 true");
    target.assert_no_run_schema().await?;
    target.workspace.run(["rollback"])?.ok()?;
    assert_eq!(text(&target.admin, DIGEST).await?, target.old);

    not_swapped().await?;
    target.admin.batch_execute("ALTER TABLE public.d ADD COLUMN more int").await?;
    refused("the live table's columns have changed since it was loaded")?;
    target.admin.batch_execute("ALTER TABLE public.d DROP COLUMN more").await?;
    target.workspace.run(["run"])?.ok()?;
    refused("loaded lake version 2, and the dataset is lake version 3 now")?;
    let anew = target.workspace.run(["push"])?.ok()?;
    assert!(anew.stdout.contains("had loaded and not swapped was removed"), "{anew:#?}");
    assert_eq!(text(&target.admin, DIGEST).await?, target.new);
    target.assert_no_run_schema().await
}

/// The second push changes nothing, says who is first, and what the first one's session is protected by shows there.
#[tokio::test(flavor = "multi_thread")]
async fn one_push_at_a_time_in_a_session_of_its_own_settings() -> Result<()> {
    let db = TestDb::new("one_push").await?;
    let target = HeldTarget::new(db.url(), db.url()).await?;
    let limits = format!("ALTER DATABASE \"{}\" SET statement_timeout = '50s'", db.name());
    target.admin.batch_execute(&limits).await?;
    let other_lake = target.workspace.path().join("other_lake");
    let copied =
        std::process::Command::new("cp").arg("-r").args([target.workspace.lake(), other_lake.clone()]).status()?;
    assert!(copied.success());
    let (heard, mut connection) = tokio_postgres::connect(db.url(), tokio_postgres::NoTls).await?;
    let (hears, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notification(notification) = message {
                drop(hears.send(notification));
            }
        }
    });
    heard.batch_execute("LISTEN pgrst").await?;

    let first = target.push_stopped_at(Step::Copy).await?;
    let holder = "SELECT format('(role %s, pid %s) is already pushing to public.d, since %s', usename, pid,
            to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'))
        FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'racealpha push%'";
    let holder = text(&target.watcher, holder).await?;
    let second = target.workspace.run(["--lake".as_ref(), other_lake.as_os_str(), "push".as_ref()])?;
    assert!(second.code == Some(5) && second.stderr.contains(&holder), "{holder}: {second:#?}");
    assert_eq!(text(&target.watcher, DIGEST).await?, target.old);
    target.admin.batch_execute("COMMIT").await?;
    Ran::from(first.wait_with_output()?).ok()?;
    assert_eq!(text(&target.admin, DIGEST).await?, target.new);

    let settings = "SELECT string_agg(name || ' ' || setting, ', ' ORDER BY name) FROM hold.settings";
    assert_eq!(
        text(&target.admin, settings).await?,
        "client_connection_check_interval 1000, idle_in_transaction_session_timeout 0, statement_timeout 0, \
         synchronous_commit on, tcp_keepalives_count 3, tcp_keepalives_idle 30, tcp_keepalives_interval 10, \
         tcp_user_timeout 60000"
    );
    // The API server is told that its picture of the schema is old.
    let told = told.recv().await.context("a notification")?;
    assert_eq!((told.channel(), told.payload()), ("pgrst", "reload schema"));
    Ok(())
}
