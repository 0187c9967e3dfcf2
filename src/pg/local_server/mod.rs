//! A private, throw-away PostgreSQL server, started from the server programs that this machine has.
//!
//! The demo, the benchmark and the tests run against a real server that nobody had to set up and that nobody shares. It
//! listens on a free port of 127.0.0.1, asks for a random password, keeps everything in one folder, and is gone with
//! that folder when its [`LocalServer`] is dropped, and as well when this process panics, is interrupted or killed:
//! `keeper.rs` says how. PostgreSQL refuses to run as root, so root runs it as the user `postgres`, else `nobody`.
//!
//! It talks TCP only. A socket in the folder would need a path below some 100 bytes, which macOS's folders for temporary
//! files nearly fill, and would not meet TLS or a lost connection the way a real server's client does.

mod binaries;
mod error;
mod keeper;

use std::env;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use tempfile::TempDir;

use super::{DatabaseUrl, Session, quote_ident};
use binaries::Binaries;
pub use error::LocalServerError;
use keeper::{Keeper, Step};

/// The users root lets the server run as, in order; the second is macOS's name.
const SERVER_USERS: [&str; 3] = ["postgres", "_postgres", "nobody"];

/// Where ports are looked for: below the range from which Linux and macOS give ports to outgoing connections, so that
/// none of those takes the server's port while it restarts.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Ports tried before giving up. Another process may take one between our look and the server's start.
const PORT_ATTEMPTS: u32 = 16;

/// How many lines of a log an error or [`LocalServer::log_tail`] shows.
const LOG_LINES_MAX: usize = 20;

/// The settings of a throw-away server.
///
/// A crash of the machine may destroy it, so it never waits for the disk (`fsync`, `full_page_writes`). All else that a
/// load pays on a production server it pays here too: commits are synchronous, and `wal_level` is not `minimal`, which
/// would let a COPY into a new table skip the log. There is room for a few gigabytes of log, so that checkpoints do not
/// fall into measurements.
const SETTINGS: [(&str, &str); 14] = [
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "on"),
    ("wal_level", "replica"),
    ("max_wal_size", "4GB"),
    ("checkpoint_timeout", "30min"),
    ("shared_buffers", "256MB"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
    ("password_encryption", "scram-sha-256"),
];

/// What a caller can choose about a local server.
///
/// # Examples
/// ```
/// let options = racealpha::pg::ServerOptions::default().set("max_connections", "20").set("jit", "off");
/// ```
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    settings: Vec<(String, String)>,
    programs: Option<PathBuf>,
}

impl ServerOptions {
    /// Adds a line to `postgresql.conf`; it beats the defaults of a throw-away server.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Runs the programs in this folder, rather than those that `PG_BIN` names or this machine has installed.
    #[must_use]
    pub fn programs(mut self, folder: impl Into<PathBuf>) -> Self {
        self.programs = Some(folder.into());
        self
    }
}

/// The URL of a database on a local server, with its password. `Debug` does not show that.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    text: String,
    password: String,
}

impl ServerUrl {
    /// The whole URL, for a child's environment or for a person who asked for it; not for logs.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({})", self.text.replacen(&self.password, "***", 1))
    }
}

/// A running server that is stopped and removed when this value goes.
///
/// Starting, stopping and dropping block the thread for about a second; async code wraps them in
/// `tokio::task::spawn_blocking`. Databases are created and dropped with `async` methods.
///
/// # Examples
/// ```no_run
/// # use racealpha::pg::{LocalServer, ServerOptions};
/// let server = LocalServer::start(&ServerOptions::default())?;
/// println!("PostgreSQL {} on port {}", server.version(), server.port());
/// # Ok::<(), racealpha::pg::LocalServerError>(())
/// ```
pub struct LocalServer {
    keeper: Keeper,
    binaries: Binaries,
    /// Who runs the server, when we may not.
    user: Option<User>,
    folder: PathBuf,
    port: u16,
    password: String,
}

impl LocalServer {
    /// Finds the server programs, creates a cluster and starts it; it accepts connections when this returns.
    ///
    /// The superuser is `postgres`, the encoding UTF-8, the locale `C`, the time zone UTC.
    ///
    /// # Errors
    /// [`LocalServerError`], by what a person can do about it. Nothing is left behind.
    pub fn start(options: &ServerOptions) -> Result<Self, LocalServerError> {
        let binaries = Binaries::find(options.programs.as_deref())?;
        let user = server_user()?;
        let folder = private_folder(user.as_ref())?;
        let failed = |source| LocalServerError::Folder { folder: folder.path().to_owned(), source };
        let password = random_bytes::<24>().map_err(failed)?.map(|byte| format!("{byte:02x}")).concat();
        write_password(&folder.path().join("password"), &password, user.as_ref()).map_err(failed)?;

        let keeper = Keeper::start(&binaries.folder, folder.path(), user.as_ref()).map_err(LocalServerError::Keeper)?;
        // From here on the keeper removes the folder.
        let mut server = Self { keeper, binaries, user, folder: folder.keep(), port: 0, password };
        server.create_cluster(options)?;
        server.start_on_free_port()?;
        tracing::debug!(version = server.version(), port = server.port, "local server is ready");
        Ok(server)
    }

    /// The URL of the database `postgres`, as superuser.
    pub fn url(&self) -> ServerUrl {
        self.database_url("postgres")
    }

    /// The URL of a database, whether it exists or not.
    pub fn database_url(&self, name: &str) -> ServerUrl {
        let (password, port) = (&self.password, self.port);
        let text = format!("postgres://postgres:{password}@127.0.0.1:{port}/{}", percent_encoded(name));
        ServerUrl { text, password: password.clone() }
    }

    /// The port on 127.0.0.1; it stays the same through restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the programs it runs.
    pub fn bin_dir(&self) -> &Path {
        &self.binaries.folder
    }

    /// The private folder: the cluster in `data`, and the logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The version as the server reports it, such as `15.18`.
    pub fn version(&self) -> &str {
        &self.binaries.version
    }

    /// The major version, such as `15`.
    pub fn major_version(&self) -> u32 {
        self.binaries.major
    }

    /// The last lines of the server's log; empty when it has none. They may quote statements.
    pub fn log_tail(&self) -> String {
        tail(&self.read_log("server.log"))
    }

    /// Creates an empty database and returns its URL.
    ///
    /// # Errors
    /// [`LocalServerError::Connect`] when the server is stopped, [`LocalServerError::Database`] when it refuses.
    pub async fn create_database(&self, name: &str) -> Result<ServerUrl, LocalServerError> {
        self.change_databases("CREATE DATABASE", name, "").await?;
        Ok(self.database_url(name))
    }

    /// Drops a database and ends the sessions in it; one that does not exist is no error.
    ///
    /// # Errors
    /// As [`LocalServer::create_database`].
    pub async fn drop_database(&self, name: &str) -> Result<(), LocalServerError> {
        self.change_databases("DROP DATABASE IF EXISTS", name, "WITH (FORCE)").await
    }

    /// Stops the server as a crash would: every connection breaks, and the next start recovers from the log.
    ///
    /// # Errors
    /// [`LocalServerError::Step`] when it was not running.
    pub fn stop_immediate(&mut self) -> Result<(), LocalServerError> {
        self.run(Step::StopImmediate)
    }

    /// Stops the server if it runs, ending its sessions, and starts it again on the same port with the same data.
    ///
    /// # Errors
    /// [`LocalServerError::Step`] with the end of the log.
    pub fn restart(&mut self) -> Result<(), LocalServerError> {
        if self.folder.join("data/postmaster.pid").exists() {
            self.run(Step::StopFast)?;
        }
        self.run(Step::Start)
    }

    /// Leaves the server running and its folder in place, whatever ends this process. [`LocalServer::removal_command`]
    /// tells how to undo that.
    ///
    /// # Errors
    /// [`LocalServerError::Keeper`].
    pub fn keep(&mut self) -> Result<(), LocalServerError> {
        self.run(Step::Keep)
    }

    /// The shell command that stops a kept server and removes its folder.
    pub fn removal_command(&self) -> String {
        let pg_ctl = shell_quoted(&self.binaries.folder.join("pg_ctl"));
        let stop = format!("{pg_ctl} stop -m immediate -D {}", shell_quoted(&self.folder.join("data")));
        let stop = match &self.user {
            None => stop,
            Some(user) => format!("su -s /bin/sh {} -c {}", user.name, shell_quoted(Path::new(&stop))),
        };
        format!("{stop} && rm -rf {}", shell_quoted(&self.folder))
    }

    fn create_cluster(&mut self, options: &ServerOptions) -> Result<(), LocalServerError> {
        if !self.keeper.tell(Step::Probe).map_err(LocalServerError::Keeper)? {
            let (bin_dir, folder) = (self.binaries.folder.clone(), self.folder.clone());
            return Err(LocalServerError::Unreachable { bin_dir, folder });
        }
        self.run(Step::Initdb)?;
        let chosen = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        self.configure(SETTINGS.into_iter().chain(chosen))
    }

    /// Appends settings to `postgresql.conf`, where the last word counts.
    fn configure<'a>(&self, settings: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), LocalServerError> {
        let lines: Vec<String> = settings
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''")))
            .collect();
        OpenOptions::new()
            .append(true)
            .open(self.folder.join("data/postgresql.conf"))
            .and_then(|mut file| file.write_all(lines.concat().as_bytes()))
            .map_err(|source| LocalServerError::Folder { folder: self.folder.clone(), source })
    }

    fn start_on_free_port(&mut self) -> Result<(), LocalServerError> {
        for _ in 0..PORT_ATTEMPTS {
            let Some(port) = free_port() else { continue };
            self.port = port;
            self.configure([("port", port.to_string().as_str())].into_iter())?;
            let failures_before = self.bind_failures();
            match self.run(Step::Start) {
                Err(LocalServerError::Step { .. }) if self.bind_failures() > failures_before => {}
                outcome => return outcome,
            }
        }
        Err(LocalServerError::NoPort { attempts: PORT_ATTEMPTS })
    }

    /// How often the server found its port taken.
    fn bind_failures(&self) -> usize {
        self.read_log("server.log").matches("could not bind").count()
    }

    fn run(&mut self, step: Step) -> Result<(), LocalServerError> {
        if self.keeper.tell(step).map_err(LocalServerError::Keeper)? {
            return Ok(());
        }
        // When the server does not start, pg_ctl only says "examine the log output".
        let log = match step {
            Step::Start => self.log_tail(),
            _ => tail(&self.read_log("tools.log")),
        };
        Err(LocalServerError::Step { step: step.name(), log })
    }

    fn read_log(&self, name: &str) -> String {
        let bytes = fs::read(self.folder.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn change_databases(&self, verb: &str, name: &str, rest: &str) -> Result<(), LocalServerError> {
        let url: DatabaseUrl = self.url().as_str().parse()?;
        let session = Session::open(&url, "local server").await?;
        session
            .batch_execute(&format!("{verb} {} {rest}", quote_ident(name)))
            .await
            .map_err(|source| LocalServerError::Database { name: name.to_owned(), source })
    }
}

impl fmt::Debug for LocalServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalServer")
            .field("version", &self.binaries.version)
            .field("port", &self.port)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Who runs the server: ourselves (`None`), unless we are root.
fn server_user() -> Result<Option<User>, LocalServerError> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let known = SERVER_USERS.iter().find_map(|name| User::from_name(name).ok().flatten());
    known.map(Some).ok_or(LocalServerError::NoServerUser)
}

/// Creates a folder that only the server's user may enter, where that user can reach and remove it.
fn private_folder(user: Option<&User>) -> Result<TempDir, LocalServerError> {
    let mut parent = env::temp_dir();
    if user.is_some() && !open_to_everyone(&parent) {
        // Root's own temporary folder is often closed to others.
        let shared = ["/tmp", "/var/tmp"].map(PathBuf::from).into_iter().find(|place| open_to_everyone(place));
        parent = shared.unwrap_or(parent);
    }
    let owner_only = fs::Permissions::from_mode(0o700);
    tempfile::Builder::new()
        .prefix("racealpha-pg-")
        .permissions(owner_only)
        .tempdir_in(&parent)
        .and_then(|folder| give_to(user, folder.path()).map(|()| folder))
        .map_err(|source| LocalServerError::Folder { folder: parent, source })
}

/// Whether any user can enter this folder and create files in it.
fn open_to_everyone(folder: &Path) -> bool {
    const ENTER: u32 = 0o001;
    const ENTER_AND_WRITE: u32 = 0o003;
    let allows = |place: &Path, bits| fs::metadata(place).is_ok_and(|found| found.mode() & bits == bits);
    allows(folder, ENTER_AND_WRITE) && folder.ancestors().skip(1).all(|parent| allows(parent, ENTER))
}

fn give_to(user: Option<&User>, path: &Path) -> io::Result<()> {
    match user {
        Some(user) => chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())),
        None => Ok(()),
    }
}

/// Writes the file `initdb` reads the superuser's password from; the keeper removes it afterwards.
fn write_password(path: &Path, password: &str, user: Option<&User>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(password.as_bytes())?;
    give_to(user, path)
}

/// Picks a port nobody listens on at the moment; `None` when the picked one is taken.
fn free_port() -> Option<u16> {
    let offset = u16::from_le_bytes(random_bytes().ok()?) % (PORTS.end - PORTS.start);
    let port = PORTS.start + offset;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|_| port)
}

fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The last [`LOG_LINES_MAX`] lines.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(LOG_LINES_MAX)..).unwrap_or_default().join("\n")
}

/// Encodes what is not a letter, a digit, `-` or `_`, so that any database name fits into a URL.
fn percent_encoded(name: &str) -> String {
    name.bytes().fold(String::new(), |text, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => text + char::from(byte).encode_utf8(&mut [0; 4]),
        _ => text + &format!("%{byte:02X}"),
    })
}

fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_does_not_print_its_password() {
        let url = ServerUrl { text: "postgres://postgres:f00@127.0.0.1:5/a".to_owned(), password: "f00".to_owned() };
        assert_eq!(format!("{url:?}"), "ServerUrl(postgres://postgres:***@127.0.0.1:5/a)");
    }

    #[test]
    fn any_database_name_fits_into_a_url() {
        assert_eq!(percent_encoded("plain_name-1"), "plain_name-1");
        assert_eq!(percent_encoded("a/b?é"), "a%2Fb%3F%C3%A9");
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let log = (0..30).map(|line| line.to_string()).collect::<Vec<_>>().join("\n");
        assert!(tail(&log).starts_with("10\n") && tail(&log).ends_with("\n29"));
        assert_eq!(tail("one"), "one");
        assert_eq!(tail(""), "");
    }

    #[test]
    fn quotes_in_a_path_survive_the_shell() {
        assert_eq!(shell_quoted(Path::new("it's")), r"'it'\''s'");
    }

    #[test]
    fn a_closed_folder_is_not_open_to_everyone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(!open_to_everyone(folder.path()));
    }
}
