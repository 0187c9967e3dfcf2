//! The private server starts, answers, and is gone however its owner ends.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use racealpha::pg::{LocalServer, LocalServerError, ServerOptions};

use crate::support::{TestDb, cluster, connect, eventually};

/// Set in the processes that the tests start from their own binary to own a server and be ended.
const OWNER: &str = "RACEALPHA_TEST_OWNS_A_SERVER";

fn start() -> Result<LocalServer> {
    Ok(LocalServer::start(&ServerOptions::default())?)
}

fn answers(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[tokio::test]
async fn a_server_answers_and_leaves_nothing_behind() -> Result<()> {
    let server = start()?;
    let (port, folder) = (server.port(), server.folder().to_owned());
    let client = connect(server.url().as_str()).await?;
    let version: i32 = client.query_one("SELECT current_setting('server_version_num')::int / 10000", &[]).await?.get(0);
    assert_eq!(u32::try_from(version)?, server.major_version());
    assert!(server.version().starts_with(&version.to_string()));
    assert!(server.bin_dir().join("postgres").is_file());
    assert!(server.log_tail().contains("ready to accept connections"), "{}", server.log_tail());
    drop(server);
    assert!(client.simple_query("SELECT 1").await.is_err());
    assert!(!answers(port));
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_refused() -> Result<()> {
    let url = cluster().url();
    let colon = url.as_str().find('@').context("a URL with a password")?;
    let wrong = format!("{}x{}", &url.as_str()[..colon], &url.as_str()[colon..]);
    let error = connect(&wrong).await.err().context("the server let us in")?;
    assert!(format!("{error:#}").contains("password authentication failed"), "{error:#}");
    Ok(())
}

#[test]
fn the_password_is_in_no_file_and_not_in_debug() -> Result<()> {
    let url = cluster().url();
    let password = url.as_str().split([':', '@']).nth(2).context("a URL with a password")?;
    assert_eq!(password.len(), 48);
    assert!(!format!("{url:?} {:?}", cluster()).contains(password));
    for file in ["server.log", "tools.log", "data/postgresql.conf"] {
        assert!(!fs::read_to_string(cluster().folder().join(file))?.contains(password), "{file}");
    }
    assert!(!cluster().folder().join("password").exists());
    Ok(())
}

#[tokio::test]
async fn two_servers_run_side_by_side() -> Result<()> {
    let (one, two) = (start()?, start()?);
    assert_ne!(one.port(), two.port());
    assert_ne!(one.folder(), two.folder());
    let client = connect(two.url().as_str()).await?;
    drop(one);
    client.simple_query("SELECT 1").await?;
    Ok(())
}

#[tokio::test]
async fn a_restart_keeps_port_and_data() -> Result<()> {
    let mut server = start()?;
    let url = server.create_database("Kept, \"quoted\"").await?;
    connect(url.as_str()).await?.batch_execute("CREATE TABLE t AS SELECT 42 AS answer").await?;
    for crash in [false, true] {
        let port = server.port();
        if crash {
            server.stop_immediate()?;
            assert!(!answers(port));
        }
        server.restart()?;
        assert_eq!(server.port(), port);
        let answer: i32 = connect(url.as_str()).await?.query_one("SELECT answer FROM t", &[]).await?.get(0);
        assert_eq!(answer, 42);
    }
    Ok(())
}

#[tokio::test]
async fn a_stopped_server_says_so() -> Result<()> {
    let mut server = start()?;
    server.stop_immediate()?;
    assert!(matches!(server.stop_immediate(), Err(LocalServerError::Step { step: "stop", .. })));
    assert!(matches!(server.create_database("late").await, Err(LocalServerError::Connect(_))));
    Ok(())
}

#[tokio::test]
async fn chosen_settings_beat_the_defaults() -> Result<()> {
    let options = ServerOptions::default().set("shared_buffers", "16MB").set("application_name", "it's \\ odd");
    let server = LocalServer::start(&options)?;
    let client = connect(server.url().as_str()).await?;
    let row = client
        .query_one("SELECT current_setting('shared_buffers'), current_setting('fsync'), reset_val FROM pg_settings WHERE name = 'application_name'", &[])
        .await?;
    assert_eq!((row.get(0), row.get(1), row.get(2)), ("16MB", "off", "it's \\ odd"));
    Ok(())
}

#[test]
fn a_setting_the_server_does_not_know_fails_with_its_log() -> Result<()> {
    let error =
        LocalServer::start(&ServerOptions::default().set("no_such_setting", "1")).err().context("it started")?;
    assert!(error.to_string().contains("unrecognized configuration parameter \"no_such_setting\""), "{error}");
    Ok(())
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() -> Result<()> {
    let (one, two) = (TestDb::new("mine").await?, TestDb::new("mine").await?);
    assert_ne!(one.name(), two.name());
    let client = one.client().await?;
    let name: String = client.query_one("SELECT current_database()::text", &[]).await?.get(0);
    assert_eq!(name, one.name());
    drop(one);
    let admin = two.client().await?;
    let left: i64 = admin.query_one("SELECT count(*) FROM pg_database WHERE datname = $1", &[&name]).await?.get(0);
    assert_eq!(left, 0);
    Ok(())
}

#[test]
fn a_panic_takes_the_server_with_it() -> Result<()> {
    let server = start()?;
    let (port, folder) = (server.port(), server.folder().to_owned());
    let outcome = catch_unwind(AssertUnwindSafe(move || {
        let _owned = server;
        std::panic::resume_unwind(Box::new("as a panic would"));
    }));
    assert!(outcome.is_err());
    assert!(!answers(port) && !folder.exists());
    Ok(())
}

#[test]
fn a_kept_server_outlives_its_value_until_it_is_removed() -> Result<()> {
    let mut server = start()?;
    server.keep()?;
    let (port, folder, removal) = (server.port(), server.folder().to_owned(), server.removal_command());
    drop(server);
    let kept = answers(port) && folder.exists();
    let removed = Command::new("sh").args(["-c", &removal]).stdout(Stdio::null()).status()?;
    assert!(kept && removed.success());
    assert!(!answers(port) && !folder.exists());
    Ok(())
}

/// A process that owns a server, for a test to end.
struct Owner {
    process: Child,
    port: u16,
    folder: PathBuf,
}

impl Owner {
    /// Runs the one test `name` of this binary again, with [`OWNER`] set, in a process group of its own.
    fn start(name: &str) -> Result<Self> {
        let module = module_path!().split_once("::").context("a module of the test binary")?.1;
        let mut process = Command::new(env::current_exe()?)
            .args([&format!("{module}::{name}"), "--exact", "--nocapture"])
            .env(OWNER, "1")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(process.stdout.take().context("a pipe")?);
        let news = output.lines().map_while(Result::ok).find_map(|line| {
            let (port, folder) = line.split_once("owns port ")?.1.split_once(" in ")?;
            Some((port.parse().ok()?, PathBuf::from(folder)))
        });
        let (port, folder) = news.context("the owner ended before it had a server")?;
        ensure!(answers(port) && folder.is_dir(), "the owner's server is not there");
        Ok(Self { process, port, folder })
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.process.id())?))
    }

    /// Waits for the owner's end, and then for its server's.
    fn expect_gone_with_its_server(mut self) -> Result<()> {
        self.process.wait()?;
        eventually("the server's folder is removed", || !self.folder.exists());
        assert!(!answers(self.port));
        Ok(())
    }
}

/// In the owner's process: starts a server, says where, and waits to be ended. Returns at once in the test's process.
#[allow(clippy::print_stdout, reason = "the test that started this process reads it")]
fn own_a_server_if_told() -> Result<()> {
    if env::var_os(OWNER).is_some() {
        let server = start()?;
        println!("owns port {} in {}", server.port(), server.folder().display());
        // Without its test, nobody ends this process: then its standard input does.
        std::io::stdin().read_to_end(&mut Vec::new())?;
        std::process::exit(1);
    }
    Ok(())
}

#[test]
fn killing_the_owner_removes_the_server() -> Result<()> {
    own_a_server_if_told()?;
    let owner = Owner::start("killing_the_owner_removes_the_server")?;
    kill(owner.pid()?, Signal::SIGKILL)?;
    owner.expect_gone_with_its_server()
}

#[test]
fn ctrl_c_in_the_terminal_removes_the_server() -> Result<()> {
    own_a_server_if_told()?;
    let owner = Owner::start("ctrl_c_in_the_terminal_removes_the_server")?;
    // A terminal signals the whole foreground group, and so would reach a keeper that stayed in it.
    killpg(owner.pid()?, Signal::SIGINT)?;
    owner.expect_gone_with_its_server()
}

#[test]
fn a_process_that_exits_without_dropping_removes_the_server() -> Result<()> {
    own_a_server_if_told()?;
    let mut owner = Owner::start("a_process_that_exits_without_dropping_removes_the_server")?;
    drop(owner.process.stdin.take());
    owner.expect_gone_with_its_server()
}

#[test]
fn the_folder_is_closed_to_others() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
    assert_eq!(mode(cluster().folder())?, 0o700);
    assert_eq!(mode(&cluster().folder().join("data"))?, 0o700);
    Ok(())
}
