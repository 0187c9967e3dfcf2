//! Why there is no local server.

use std::io;
use std::path::PathBuf;

use crate::pg::ConnectError;

/// Why a local server could not be started, steered or asked for a database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalServerError {
    /// No folder with the server's programs was found.
    #[error(
        "no PostgreSQL server programs in PG_BIN, PATH, pg_config's folder or the usual places; install them with \
         `apt-get install postgresql` or `brew install postgresql@17`"
    )]
    NotInstalled,
    /// The folder that the caller or `PG_BIN` names lacks a program.
    #[error("{folder} has no {program}; PG_BIN must name the folder that holds initdb, pg_ctl and postgres", folder = .folder.display())]
    WrongFolder {
        /// What is named.
        folder: PathBuf,
        /// The first program that is missing there.
        program: &'static str,
    },
    /// `postgres --version` failed or printed something else.
    #[error("cannot learn the version of {program}", program = .program.display())]
    UnknownVersion {
        /// The program that was asked.
        program: PathBuf,
        /// Why it could not be run; the output, when it ran.
        source: io::Error,
    },
    /// The server is older than this program supports.
    #[error("the server programs in {folder} are version {found}; {oldest} or newer is needed (PG_BIN names another folder)", folder = .folder.display())]
    TooOld {
        /// Where the programs are.
        folder: PathBuf,
        /// Their version.
        found: String,
        /// The oldest major version that will do.
        oldest: u32,
    },
    /// The server refuses to run as root and nobody else is there to run it.
    #[error("PostgreSQL refuses to run as root, and there is neither a user `postgres` nor a user `nobody`")]
    NoServerUser,
    /// The user that runs the server may not enter the folder of its programs, or its own data folder.
    #[error("the user that runs the server cannot use {bin_dir} or {folder}; both must be readable to everyone", bin_dir = .bin_dir.display(), folder = .folder.display())]
    Unreachable {
        /// The folder of the programs.
        bin_dir: PathBuf,
        /// The server's private folder.
        folder: PathBuf,
    },
    /// The private folder could not be created or filled.
    #[error("cannot prepare the server's folder in {folder}", folder = .folder.display())]
    Folder {
        /// The folder, or the one that was to hold it.
        folder: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The process that watches over the server could not be started or no longer answers.
    #[error("lost the process that runs the local server")]
    Keeper(#[source] io::Error),
    /// `initdb` or `pg_ctl` failed; `log` says why.
    #[error("the local server's {step} failed: {log}")]
    Step {
        /// `initdb`, `start` or `stop`.
        step: &'static str,
        /// The last lines that the tool and the server wrote.
        log: String,
    },
    /// No free port was found in several attempts.
    #[error("no free TCP port for the local server in {attempts} attempts")]
    NoPort {
        /// How many ports were tried.
        attempts: u32,
    },
    /// The server cannot be reached, for example because it is stopped.
    #[error("the local server does not answer")]
    Connect(#[from] ConnectError),
    /// The running server refused to create or drop a database.
    #[error("the local server did not change database {name}")]
    Database {
        /// The database.
        name: String,
        /// What the server said.
        source: tokio_postgres::Error,
    },
}
