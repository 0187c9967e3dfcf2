//! A live table at which a push can be stopped at every step: functions in a default, an index and an event trigger wait
//! for an advisory lock, and the swap for locks on the table.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio_postgres::Client;

use super::{Workspace, connect};

/// Gives up on anything that should have happened by now.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a push can be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Before the run schema is made.
    Create = 1,
    /// In the first row that the server stores.
    Copy = 2,
    /// In an index of the staging table.
    Index = 3,
    /// Before the swap's first lock.
    FirstLock = 4,
    /// In the swap, waiting for the live table's lock.
    LastLock = 5,
    /// In the swap, with all locks.
    Batch = 6,
    /// After the swap's commit, in the removal of the former backup.
    Finish = 7,
}

pub(crate) const STEPS: [Step; 7] =
    [Step::Create, Step::Copy, Step::Index, Step::FirstLock, Step::LastLock, Step::Batch, Step::Finish];

/// A live table whose every step can be stopped.
const HELD: &str = "
    CREATE SCHEMA hold;
    CREATE TABLE hold.full_disk (step int);
    CREATE TABLE hold.settings (name text PRIMARY KEY, setting text);
    CREATE FUNCTION hold.at(step int) RETURNS bool LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
        PERFORM pg_advisory_xact_lock_shared(77, step);
        IF EXISTS (SELECT FROM hold.full_disk f WHERE f.step = $1) THEN
            RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100';
        END IF;
        IF step = 2 AND current_setting('application_name') LIKE 'racealpha push%' THEN
            DELETE FROM hold.settings;
            INSERT INTO hold.settings SELECT name, setting FROM pg_settings
             WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'synchronous_commit', 'tcp_user_timeout',
                            'client_connection_check_interval') OR name LIKE 'tcp_keepalives%';
        END IF;
        RETURN true;
    END $$;
    CREATE FUNCTION hold.indexed(value text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN hold.at(3); END';
    CREATE FUNCTION hold.ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        IF tg_tag = 'CREATE SCHEMA' THEN PERFORM hold.at(1);
        ELSIF tg_tag = 'DROP TABLE' THEN PERFORM hold.at(7);
        ELSIF coalesce(current_setting('racealpha.locked', true), '') <> '' THEN PERFORM hold.at(6);
        END IF;
    END $$;
    CREATE EVENT TRIGGER held ON ddl_command_start WHEN TAG IN ('CREATE SCHEMA', 'DROP TABLE', 'COMMENT', 'ALTER TABLE')
        EXECUTE FUNCTION hold.ddl();
    CREATE TABLE public.races (race_id text PRIMARY KEY);
    INSERT INTO public.races SELECT 'race ' || i FROM generate_series(1, 50) i;
    CREATE TABLE public.d (race_id text PRIMARY KEY, held bool DEFAULT hold.at(2));
    CREATE INDEX ON public.d (hold.indexed(race_id));
    INSERT INTO public.d SELECT 'older ' || i FROM generate_series(1, 40) i;";

/// Rows that no push makes, so that old and new rows are told apart; there must be a backup for the swap to move.
pub(crate) const OLD_ROWS: &str =
    "DELETE FROM public.d; INSERT INTO public.d SELECT 'old ' || i FROM generate_series(1, 30) i";

/// A changes-with-everything digest of the rows that readers see.
pub(crate) const DIGEST: &str =
    "SELECT count(*) || ' ' || md5(string_agg(race_id, ',' ORDER BY race_id)) FROM public.d";

/// A server with the table, and a workspace whose lake holds its next rows.
#[derive(Debug)]
pub(crate) struct HeldTarget {
    pub(crate) admin: Client,
    /// Waits for what the admin session cannot see while it holds locks in a transaction.
    pub(crate) watcher: Client,
    pub(crate) url: String,
    pub(crate) workspace: Workspace,
    pub(crate) old: String,
    pub(crate) new: String,
}

impl HeldTarget {
    /// `reached_at` is where the program finds the server.
    pub(crate) async fn new(url: &str, reached_at: &str) -> Result<Self> {
        let admin = connect(url).await?;
        admin.batch_execute(HELD).await?;
        let workspace = Workspace::at(reached_at)?;
        let folder = workspace.path().join("phases");
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join("01_d.sql"),
            "-- grain: race\n-- reads: races\n-- writes: d\n-- why: a test\nCREATE TABLE d AS SELECT race_id FROM races;",
        )?;
        let dictionary = "name,pg_type,group,role,description\nrace_id,text,race,key,The race.\n";
        fs::write(folder.join("dictionary.csv"), dictionary)?;
        fs::write(
            workspace.path().join("pipeline.toml"),
            "[[tables]]\nname = 'races'\n[dataset]\nname = 'd'\nkey = ['race_id']\nphases = 'phases'\n\
             [target]\ntable = 'public.d'\nbackup = 'd_backup'\nmissing_columns = 'null'\n",
        )?;
        workspace.run(["rebuild"])?.ok()?;
        let new = text(&admin, DIGEST).await?;
        admin.batch_execute(OLD_ROWS).await?;
        let old = text(&admin, DIGEST).await?;
        ensure!(old != new);
        Ok(Self { watcher: connect(url).await?, admin, url: url.to_owned(), workspace, old, new })
    }

    /// Makes the next push stop at a step; the admin session's COMMIT lets it go on.
    pub(crate) async fn hold(&self, step: Step) -> Result<()> {
        let hold = match step {
            Step::FirstLock => "BEGIN; LOCK TABLE public.d IN SHARE UPDATE EXCLUSIVE MODE".to_owned(),
            Step::LastLock => "BEGIN; LOCK TABLE public.d IN ACCESS SHARE MODE".to_owned(),
            step => format!("BEGIN; SELECT pg_advisory_xact_lock(77, {})", step as i32),
        };
        Ok(self.admin.batch_execute(&hold).await?)
    }

    /// A push that has come to the step and waits there.
    pub(crate) async fn push_stopped_at(&self, step: Step) -> Result<Child> {
        self.stopped_at(step, &["push"]).await
    }

    /// A command that has come to the step and waits there.
    pub(crate) async fn stopped_at(&self, step: Step, command: &[&str]) -> Result<Child> {
        self.hold(step).await?;
        let child = self.workspace.command(command).spawn()?;
        self.until_a_push_waits().await?;
        Ok(child)
    }

    pub(crate) async fn until_a_push_waits(&self) -> Result<()> {
        self.until(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                AND application_name LIKE 'racealpha push%' AND wait_event_type = 'Lock')",
        )
        .await
    }

    pub(crate) async fn assert_no_run_schema(&self) -> Result<()> {
        let left =
            "SELECT coalesce(string_agg(nspname, ', '), 'none') FROM pg_namespace WHERE nspname LIKE '\\_push\\_%'";
        let left = text(&self.admin, left).await?;
        ensure!(left == "none", "run schemas left: {left}");
        Ok(())
    }

    pub(crate) async fn until(&self, condition: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.watcher.query_one(condition, &[]).await?.get::<_, bool>(0) {
            ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {condition}");
        }
        Ok(())
    }
}

/// The one value of a query, as text.
pub(crate) async fn text(client: &Client, sql: &str) -> Result<String> {
    Ok(client.query_one(sql, &[]).await?.get(0))
}
