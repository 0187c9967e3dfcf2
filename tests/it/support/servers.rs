//! What stands between or beside servers: poolers and standbys.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use racealpha::pg::{DatabaseUrl, LocalServer, Session};

use super::guarded::{Guarded, as_owner, folder_of};

/// Where Debian installs it, which is not in everybody's `PATH`.
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";
/// Attempts to start a program on a port that somebody else may take first.
const PORT_ATTEMPTS: usize = 5;

/// A port that nobody listens on right now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The server's password.
pub(crate) fn password(server: &LocalServer) -> Result<String> {
    let url: url::Url = server.url().as_str().parse()?;
    Ok(url.password().context("a URL with a password")?.to_owned())
}

/// Whether a login succeeds by now.
async fn lets_in(url: &str) -> Result<bool> {
    let url: DatabaseUrl = url.parse()?;
    Ok(Session::open(&url, "test").await.is_ok())
}

/// Waits until a program on a port lets us in, or has ended.
async fn ready(url: &str) -> Result<bool> {
    for _ in 0..600 {
        if lets_in(url).await? {
            return Ok(true);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(false)
}

/// A PgBouncer before a server.
#[derive(Debug)]
pub(crate) struct Bouncer {
    port: u16,
    password: String,
    _program: Guarded,
    _folder: tempfile::TempDir,
}

impl Bouncer {
    /// Starts one in `mode`, with at most `sessions` sessions of the server.
    pub(crate) async fn start(server: &LocalServer, mode: &str, sessions: usize) -> Result<Self> {
        ensure!(
            PathBuf::from(PGBOUNCER).exists(),
            "there is no {PGBOUNCER}; script/bootstrap installs the package pgbouncer"
        );
        let password = password(server)?;
        for _ in 0..PORT_ATTEMPTS {
            let folder = folder_of(server)?;
            let port = free_port()?;
            fs::write(folder.path().join("users"), format!("\"postgres\" \"{password}\"\n"))?;
            let settings = format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}/users\npool_mode = {mode}\n\
                 default_pool_size = {sessions}\n",
                server.port(),
                folder.path().display()
            );
            fs::write(folder.path().join("settings"), settings)?;
            let program = Guarded::start(folder.path(), "TERM", &[PGBOUNCER, "settings"])?;
            let bouncer = Self { port, password: password.clone(), _program: program, _folder: folder };
            if ready(&bouncer.url("postgres")).await? {
                return Ok(bouncer);
            }
        }
        anyhow::bail!("PgBouncer does not start")
    }

    /// A database of the server, through the pooler.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }
}

/// A hot standby of a server.
#[derive(Debug)]
pub(crate) struct Standby {
    pub(crate) port: u16,
    _program: Guarded,
    _folder: tempfile::TempDir,
}

impl Standby {
    /// Copies a server and follows it; ready when it lets us in.
    pub(crate) async fn of(primary: &LocalServer, settings: &[&str]) -> Result<Self> {
        let password = password(primary)?;
        let folder = folder_of(primary)?;
        let copied = as_owner(Command::new(primary.bin_dir().join("pg_basebackup")), folder.path())?
            .args(["-h", "127.0.0.1", "-U", "postgres", "-D", "data", "-R", "-X", "stream", "-c", "fast"])
            .args(["-p", &primary.port().to_string()])
            .env("PGPASSWORD", &password)
            .output()?;
        ensure!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let postgres = primary.bin_dir().join("postgres").display().to_string();
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port()?;
            let port_text = port.to_string();
            let command = [&[postgres.as_str(), "-D", "data", "-p", &port_text], settings].concat();
            let program = Guarded::start(folder.path(), "QUIT", &command)?;
            if ready(&format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres")).await? {
                return Ok(Self { port, _program: program, _folder: folder });
            }
        }
        anyhow::bail!("the standby does not start: {}", fs::read_to_string(folder.path().join("output"))?)
    }
}
