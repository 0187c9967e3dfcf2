//! What the integration tests share: one throw-away Postgres cluster, one fresh database per test, waiting for a condition.

mod binary;
mod browser;
mod csv_world;
mod dashboard;
mod guarded;
mod held;
mod proxy;
mod servers;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use racealpha::pg::{LocalServer, ServerOptions, ServerUrl};
use tokio_postgres::{Client, NoTls};

pub(crate) use binary::{Ran, Workspace};
pub(crate) use browser::{Browser, ConsoleLines};
pub(crate) use csv_world::fill_from_csv;
pub(crate) use dashboard::{Answer, Served};
pub(crate) use held::{DIGEST, HeldTarget, OLD_ROWS, STEPS, Step, text};
pub(crate) use proxy::{Fault, Proxy};
pub(crate) use servers::{Bouncer, Standby, password};

/// How long [`eventually`] waits. Far above what anything here takes, so that only a real hang meets it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often [`eventually`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The cluster that all tests of this binary share, started by the first that asks.
///
/// A static is never dropped; the server goes because its keeper sees this process end.
pub(crate) fn cluster() -> &'static LocalServer {
    static CLUSTER: OnceLock<LocalServer> = OnceLock::new();
    CLUSTER.get_or_init(|| match LocalServer::start(&ServerOptions::default()) {
        Ok(server) => server,
        // Not skipped: a machine that cannot run these tests has not passed them.
        Err(error) => panic!("{:#}", anyhow::Error::new(error)),
    })
}

/// An empty database of its own for one test, dropped when the test ends.
#[derive(Debug)]
pub(crate) struct TestDb {
    name: String,
    url: ServerUrl,
}

impl TestDb {
    /// Creates a database whose name starts with `name`.
    pub(crate) async fn new(name: &str) -> Result<Self> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}_{}", CREATED.fetch_add(1, Ordering::Relaxed));
        let url = cluster().create_database(&name).await?;
        Ok(Self { name, url })
    }

    /// The database's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The URL with its password, as a user would put it into `DATABASE_URL`.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Opens a plain session, with the server's own settings.
    pub(crate) async fn client(&self) -> Result<Client> {
        connect(self.url()).await
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        // A thread of its own: this one may be inside a runtime. A failure only means that the folder is larger until
        // the cluster goes.
        thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(cluster().drop_database(&self.name)).map_err(anyhow::Error::new)
            });
        });
    }
}

/// Opens a plain session to a local server; its connection ends with the client.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("the local server refused us")?;
    tokio::spawn(async move {
        // An error here is one that the client's next call reports.
        let _ = connection.await;
    });
    Ok(client)
}

/// Waits until `condition` holds.
///
/// # Panics
/// Naming `what`, when it does not within a minute.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// A database with the synthetic source of `races` races.
pub(crate) async fn racing(name: &str, races: u64) -> Result<TestDb> {
    let db = TestDb::new(name).await?;
    let url: racealpha::pg::DatabaseUrl = db.url().parse()?;
    let mut session = racealpha::pg::Session::open(&url, "test").await?;
    let options = racealpha::fixtures::FixtureOptions { races, seed: 11 };
    let (progress, cancel) = (racealpha::progress::Progress::new(), tokio_util::sync::CancellationToken::new());
    racealpha::fixtures::load(&mut session, &options, &progress, &cancel).await?;
    Ok(db)
}
