//! Where a database is and how to log in, in the form that opening a session needs.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use nix::unistd::{Uid, User};
use tokio_postgres::config::{ChannelBinding, SslNegotiation};

use super::connect::ConnectError;
use super::conninfo::{Parameters, Variables, unusable};
use super::encryption::{EncryptionOptions, SslMode};
use super::password_file::PasswordFile;

const DEFAULT_PORT: u16 = 5432;
/// Where servers put their socket files: Debian's and Red Hat's packages, the sources' own.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// The host of a password file's lines that are for the default socket.
const LOCAL_HOST: &str = "localhost";
/// What sessions are called in `pg_stat_activity` unless told otherwise.
const APPLICATION_NAME: &str = "racealpha";
/// A server that has not let us in within this time counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle time before the first TCP keepalive, so that a vanished server is noticed within about a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// Time between keepalives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Keepalives without an answer before the connection is given up.
const KEEPALIVE_COUNT: u32 = 3;
/// Unacknowledged data for this long means the peer is gone.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Characters of an application name that leave room for what a session is for; the server keeps 63 bytes.
const APPLICATION_NAME_CHARS_MAX: usize = 20;

/// Where a database is and how to log in. Its `Debug` and `Display` never show the password.
#[derive(Clone)]
pub struct DatabaseUrl {
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) options: Option<String>,
    application_name: String,
    /// For one address of one host, login included; none waits for ever.
    pub(super) connect_timeout: Option<Duration>,
    pub(super) tcp: TcpOptions,
    pub(super) encryption: EncryptionOptions,
    pub(super) channel_binding: ChannelBinding,
    pub(super) wanted: Wanted,
    /// Whether hosts and addresses are tried in random order.
    pub(super) is_shuffled: bool,
}

/// One place to try.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) place: Place,
    pub(super) port: u16,
    pub(super) password: Option<String>,
}

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A name, for look-ups and certificates, and the address where it is known.
    Tcp { name: String, address: Option<IpAddr> },
    /// A socket file in this folder, or in the abstract name space where it begins with `@`.
    Unix(PathBuf),
}

/// How a vanished peer is noticed.
#[derive(Clone, Copy)]
pub(super) struct TcpOptions {
    pub(super) keepalive: Option<Keepalive>,
    pub(super) user_timeout: Option<Duration>,
}

#[derive(Clone, Copy)]
pub(super) struct Keepalive {
    pub(super) idle: Duration,
    pub(super) interval: Duration,
    pub(super) count: u32,
}

/// Which kind of server a session needs: `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        })
    }
}

impl FromStr for DatabaseUrl {
    type Err = ConnectError;

    /// Reads a URL or `key=value` text that says everything: no environment, no files in the home folder.
    fn from_str(text: &str) -> Result<Self, ConnectError> {
        Self::resolve(text, &|_| None)
    }
}

impl DatabaseUrl {
    /// Reads `postgres://user:password@host:port/database?sslmode=…`, or libpq's `key=value` form, and completes it as
    /// libpq does: from the service file, from `PG…` variables, then from defaults; the password also from `~/.pgpass`.
    ///
    /// # Errors
    /// [`ConnectError::Unusable`].
    pub fn resolve(text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConnectError> {
        let parameters = Parameters::resolve(text, variables)?;
        let text = |name: &str| parameters.get(name).map(str::to_owned);
        let user = text("user").or_else(|| User::from_uid(Uid::effective()).ok().flatten().map(|user| user.name));
        let user = user.ok_or_else(|| unusable("there is no user; add one"))?;
        let database = text("dbname").unwrap_or_else(|| user.clone());
        let mut hosts = hosts(&parameters)?;
        let passwords = PasswordFile::read(parameters.get("passfile"), variables);
        for host in &mut hosts {
            host.password = text("password")
                .or_else(|| passwords.password(&host.name_in_password_file(), host.port, &database, &user));
        }
        let application_name = text("application_name")
            .or_else(|| text("fallback_application_name"))
            .unwrap_or(APPLICATION_NAME.to_owned());
        Ok(Self {
            hosts,
            user,
            database,
            options: text("options"),
            application_name: application_name.chars().take(APPLICATION_NAME_CHARS_MAX).collect(),
            connect_timeout: seconds(&parameters, "connect_timeout", CONNECT_TIMEOUT)?,
            tcp: tcp_options(&parameters)?,
            encryption: encryption(&parameters, variables)?,
            channel_binding: choice(
                &parameters,
                "channel_binding",
                &[
                    ("prefer", ChannelBinding::Prefer),
                    ("disable", ChannelBinding::Disable),
                    ("require", ChannelBinding::Require),
                ],
            )?,
            wanted: choice(
                &parameters,
                "target_session_attrs",
                &[
                    ("any", Wanted::Any),
                    ("read-write", Wanted::ReadWrite),
                    ("read-only", Wanted::ReadOnly),
                    ("primary", Wanted::Primary),
                    ("standby", Wanted::Standby),
                    ("prefer-standby", Wanted::PreferStandby),
                ],
            )?,
            is_shuffled: choice(&parameters, "load_balance_hosts", &[("disable", false), ("random", true)])?,
        })
    }

    /// The database's name: the URL's, or the user's as Postgres assumes.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// What a session for `purpose` is called in `pg_stat_activity`.
    pub fn application_name(&self, purpose: &str) -> String {
        format!("{} {purpose}", self.application_name)
    }

    /// The same database at one place only, where a session has found it.
    pub(super) fn at(&self, host: Host) -> Self {
        Self { hosts: vec![host], wanted: Wanted::Any, ..self.clone() }
    }
}

impl fmt::Display for DatabaseUrl {
    /// `user@host:port/database`, which names a server without its secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        write!(f, "{}@{}/{}", self.user, hosts.join(","), self.database)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Place::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
            Place::Unix(folder) => write!(f, "{}:{}", folder.display(), self.port),
        }
    }
}

impl Host {
    fn name_in_password_file(&self) -> String {
        match &self.place {
            Place::Tcp { name, .. } => name.clone(),
            Place::Unix(folder) if SOCKET_FOLDERS.iter().any(|default| folder == Path::new(default)) => {
                LOCAL_HOST.to_owned()
            }
            Place::Unix(folder) => folder.display().to_string(),
        }
    }
}

/// Hosts, addresses and ports, which are lists of equal length, except that one port may serve all.
fn hosts(parameters: &Parameters) -> Result<Vec<Host>, ConnectError> {
    let list = |name: &str| parameters.get(name).map(|text| text.split(',').map(str::trim).collect::<Vec<_>>());
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = addresses.as_ref().or(names.as_ref()).map_or(1, Vec::len);
    if names.as_ref().is_some_and(|names| names.len() != count) {
        return Err(unusable("host and hostaddr do not name equally many hosts"));
    }
    if ports.as_ref().is_some_and(|ports| ports.len() != count && ports.len() != 1) {
        return Err(unusable("port and host do not name equally many hosts"));
    }
    let item = |list: &Option<Vec<&str>>, index: usize| {
        let list = list.as_ref()?;
        list.get(if list.len() == 1 { 0 } else { index }).filter(|text| !text.is_empty()).map(|text| (*text).to_owned())
    };
    (0..count)
        .map(|index| {
            let port = match item(&ports, index) {
                Some(text) => text.parse().ok().filter(|port| *port > 0),
                None => Some(DEFAULT_PORT),
            };
            let port = port.ok_or_else(|| unusable("port is not a number from 1 to 65535"))?;
            let address = item(&addresses, index)
                .map(|text| text.parse::<IpAddr>().map_err(|_| unusable("hostaddr is not an IP address")))
                .transpose()?;
            let place = match (item(&names, index), address) {
                (Some(name), None) if name.starts_with(['/', '@']) => Place::Unix(PathBuf::from(name)),
                (Some(name), address) => Place::Tcp { name, address },
                (None, Some(address)) => Place::Tcp { name: address.to_string(), address: Some(address) },
                (None, None) => default_place(port),
            };
            Ok(Host { place, port, password: None })
        })
        .collect()
}

/// The socket of this machine's server, else `localhost`.
fn default_place(port: u16) -> Place {
    let folder = SOCKET_FOLDERS.iter().map(Path::new).find(|folder| socket_file(folder, port).exists());
    match folder {
        Some(folder) => Place::Unix(folder.to_owned()),
        None => Place::Tcp { name: LOCAL_HOST.to_owned(), address: None },
    }
}

/// The file of a server's socket.
pub(super) fn socket_file(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!(".s.PGSQL.{port}"))
}

fn tcp_options(parameters: &Parameters) -> Result<TcpOptions, ConnectError> {
    let idle = seconds(parameters, "keepalives_idle", KEEPALIVE_IDLE)?.unwrap_or(KEEPALIVE_IDLE);
    let interval = seconds(parameters, "keepalives_interval", KEEPALIVE_INTERVAL)?.unwrap_or(KEEPALIVE_INTERVAL);
    let count = number(parameters, "keepalives_count")?.filter(|count| *count > 0);
    let count = count.map_or(Ok(KEEPALIVE_COUNT), |count| {
        u32::try_from(count).map_err(|_| unusable("keepalives_count is too large"))
    })?;
    let user_timeout = match number(parameters, "tcp_user_timeout")? {
        None => Some(TCP_USER_TIMEOUT),
        Some(milliseconds) => u64::try_from(milliseconds).ok().filter(|ms| *ms > 0).map(Duration::from_millis),
    };
    let is_kept_alive = number(parameters, "keepalives")?.is_none_or(|value| value != 0);
    Ok(TcpOptions { keepalive: is_kept_alive.then_some(Keepalive { idle, interval, count }), user_timeout })
}

fn encryption(parameters: &Parameters, variables: Variables<'_>) -> Result<EncryptionOptions, ConnectError> {
    let path = |name: &str| parameters.get(name).map(str::to_owned);
    let root_certificates = path("sslrootcert").or_else(|| usual(variables, "root.crt"));
    let trusts_system = root_certificates.as_deref() == Some(EncryptionOptions::SYSTEM);
    let mode = match parameters.get("sslmode") {
        None if trusts_system => SslMode::VerifyFull,
        _ => choice(
            parameters,
            "sslmode",
            &[
                ("prefer", SslMode::Prefer),
                ("disable", SslMode::Disable),
                ("allow", SslMode::Allow),
                ("require", SslMode::Require),
                ("verify-ca", SslMode::VerifyCa),
                ("verify-full", SslMode::VerifyFull),
            ],
        )?,
    };
    if trusts_system && mode != SslMode::VerifyFull {
        return Err(unusable("sslrootcert=system needs sslmode=verify-full: anybody can have a certificate it trusts"));
    }
    let negotiation = choice(
        parameters,
        "sslnegotiation",
        &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)],
    )?;
    if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
        return Err(unusable("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full"));
    }
    Ok(EncryptionOptions {
        mode,
        negotiation,
        root_certificates,
        certificate: path("sslcert").or_else(|| usual(variables, "postgresql.crt")),
        key: path("sslkey").or_else(|| usual(variables, "postgresql.key")),
        tells_server_name: choice(parameters, "sslsni", &[("1", true), ("0", false)])?,
    })
}

/// A file of libpq's folder in the home folder, where it exists.
fn usual(variables: Variables<'_>, file: &str) -> Option<String> {
    let path = Path::new(&variables("HOME")?).join(".postgresql").join(file);
    path.exists().then(|| path.display().to_string())
}

/// The value that a word stands for; the first where the parameter is absent.
fn choice<T: Copy>(parameters: &Parameters, name: &str, words: &[(&str, T)]) -> Result<T, ConnectError> {
    let found = match parameters.get(name) {
        None => words.first(),
        Some(text) => words.iter().find(|(word, _)| *word == text),
    };
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        unusable(format!("{name} is none of {}", words.join(", ")))
    })
}

fn number(parameters: &Parameters, name: &str) -> Result<Option<i64>, ConnectError> {
    let parse = |text: &str| text.trim().parse().map_err(|_| unusable(format!("{name} is not a whole number")));
    parameters.get(name).map(parse).transpose()
}

/// A time; none where zero or less says that there is no limit.
fn seconds(parameters: &Parameters, name: &str, default: Duration) -> Result<Option<Duration>, ConnectError> {
    Ok(match number(parameters, name)? {
        None => Some(default),
        Some(seconds) => u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<DatabaseUrl>().unwrap_err().to_string()
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        let url: DatabaseUrl = "postgres://ann:s3cret@db.example.com:6000/stud?sslmode=verify-full".parse().unwrap();
        assert_eq!(url.to_string(), "ann@db.example.com:6000/stud");
        assert!(!format!("{url:?}").contains("s3cret"));
        assert_eq!(url.encryption.mode, SslMode::VerifyFull);
        let error = refused("postgres://ann:s3cret@host:notaport/x");
        assert!(error.contains("port is not a number") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn several_hosts_have_a_port_each_or_share_one() {
        let shown = |text: &str| text.parse::<DatabaseUrl>().unwrap().to_string();
        assert_eq!(shown("postgres://u@a:1,b,[::1]:3/d"), "u@a:1,b:5432,[::1]:3/d");
        assert_eq!(shown("host=a,b port=7 user=u"), "u@a:7,b:7/u");
        assert_eq!(shown("host=/run/x,@abstract user=u dbname=d"), "u@/run/x:5432,@abstract:5432/d");
        assert_eq!(shown("hostaddr=127.0.0.1 user=u dbname=d"), "u@127.0.0.1:5432/d");
        assert!(refused("host=a,b port=1,2,3").contains("equally many"));
        assert!(refused("host=a hostaddr=127.0.0.1,::1").contains("equally many"));
        assert!(refused("hostaddr=localhost").contains("not an IP address"));
    }

    #[test]
    fn values_out_of_their_range_are_refused() {
        assert!(refused("sslmode=maybe").contains("sslmode is none of prefer, disable, allow"));
        assert!(refused("target_session_attrs=writer").contains("is none of any, read-write"));
        assert!(refused("connect_timeout=soon").contains("connect_timeout is not a whole number"));
        assert!(refused("sslrootcert=system sslmode=require").contains("needs sslmode=verify-full"));
        assert!(refused("sslnegotiation=direct").contains("needs sslmode=require"));
    }

    #[test]
    fn limits_can_be_set_and_lifted() {
        let url: DatabaseUrl = "host=h connect_timeout=0 keepalives=0 tcp_user_timeout=0".parse().unwrap();
        assert_eq!((url.connect_timeout, url.tcp.user_timeout, url.tcp.keepalive.is_none()), (None, None, true));
        let url: DatabaseUrl = "host=h connect_timeout=3".parse().unwrap();
        assert_eq!((url.connect_timeout, url.tcp.user_timeout), (Some(Duration::from_secs(3)), Some(TCP_USER_TIMEOUT)));
    }

    #[test]
    fn the_password_comes_from_the_file_last_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".pgpass");
        std::fs::write(&path, "a:1:d:u:of-a\nlocalhost:*:*:*:local\n*:*:*:*:any\n").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let home = |name: &str| (name == "HOME").then(|| folder.path().display().to_string());
        let passwords = |text: &str| {
            let url = DatabaseUrl::resolve(text, &home).unwrap();
            url.hosts.into_iter().map(|host| host.password.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(passwords("postgres://u@a:1,b:2/d"), ["of-a", "any"]);
        assert_eq!(passwords("postgres://u:own@a:1/d"), ["own"]);
        assert_eq!(passwords("host=/tmp user=u"), ["local"]);
        assert_eq!(passwords("host=/elsewhere user=u"), ["any"]);
    }
}
