//! Finding the installed server programs.
//!
//! Searched in this order, the first folder that holds all of [`PROGRAMS`] wins: the one that the caller names, or `PG_BIN`
//! (which must be right when they are set), `PATH`, the folder `pg_config` names, the newest of the places where packages put them. Client-only
//! installations have a `pg_config` and a `psql` but no server, so a folder counts only when it is complete.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::LocalServerError;

/// What a folder must hold to run a server from it; `pg_ctl` and `initdb` look for `postgres` beside themselves.
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// The oldest major version that the rest of the program supports.
const OLDEST_MAJOR: u32 = 13;

/// Where packages put server programs: a folder, the start of the name of a version's folder in it, and the way from there.
const PACKAGE_PLACES: [(&str, &str, &str); 4] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
];

/// A folder of server programs and the version they report.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    pub(super) folder: PathBuf,
    /// As printed, without the words around it: `15.18`, `19beta1`.
    pub(super) version: String,
    pub(super) major: u32,
}

impl Binaries {
    /// Finds the programs in the folder that is named, or else those of this machine.
    ///
    /// # Errors
    /// [`LocalServerError::NotInstalled`], [`LocalServerError::WrongFolder`] for a wrong name or `PG_BIN`, and
    /// [`LocalServerError::TooOld`] or [`LocalServerError::UnknownVersion`] for what was found.
    pub(super) fn find(named: Option<&Path>) -> Result<Self, LocalServerError> {
        let variable = || env::var_os("PG_BIN").filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = match named.map(Path::to_owned).or_else(variable) {
            Some(named) => named_folder(named)?,
            None => env::var_os("PATH")
                .and_then(|path| in_path(&path))
                .or_else(from_pg_config)
                .or_else(|| newest_package(Path::new("/")))
                .ok_or(LocalServerError::NotInstalled)?,
        };
        let version = reported_version(&folder.join("postgres"))?;
        match major_of(&version) {
            Some(major) if major >= OLDEST_MAJOR => Ok(Self { folder, version, major }),
            _ => Err(LocalServerError::TooOld { folder, found: version, oldest: OLDEST_MAJOR }),
        }
    }
}

/// Accepts what the caller or `PG_BIN` names only if it is complete: falling back to another version would hide the mistake.
fn named_folder(folder: PathBuf) -> Result<PathBuf, LocalServerError> {
    match missing_program(&folder) {
        None => fs::canonicalize(&folder).map_err(|source| LocalServerError::Folder { folder, source }),
        Some(program) => Err(LocalServerError::WrongFolder { folder, program }),
    }
}

/// Looks through `PATH`. A link to one program (`/usr/local/bin/postgres`) counts for the folder it leads to.
fn in_path(path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path).filter(|folder| folder.is_absolute()).find_map(|folder| {
        let linked = fs::canonicalize(folder.join("postgres")).ok()?;
        [linked.parent()?, folder.as_path()].into_iter().find(|place| is_complete(place)).map(Path::to_owned)
    })
}

fn from_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let folder = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end());
    is_complete(&folder).then_some(folder)
}

/// The highest version among the packages' places below `root`.
fn newest_package(root: &Path) -> Option<PathBuf> {
    PACKAGE_PLACES
        .iter()
        .flat_map(|(place, prefix, rest)| {
            let place = root.join(place.trim_start_matches('/'));
            fs::read_dir(place).into_iter().flatten().flatten().filter_map(move |entry| {
                let version = major_of(entry.file_name().to_str()?.strip_prefix(prefix)?)?;
                let folder = entry.path().join(rest);
                is_complete(&folder).then_some((version, folder))
            })
        })
        .max_by_key(|(version, _)| *version)
        .map(|(_, folder)| folder)
}

fn is_complete(folder: &Path) -> bool {
    missing_program(folder).is_none()
}

fn missing_program(folder: &Path) -> Option<&'static str> {
    PROGRAMS.into_iter().find(|program| !folder.join(program).is_file())
}

/// Asks for `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` and keeps `15.18`.
fn reported_version(program: &Path) -> Result<String, LocalServerError> {
    let unknown = |source| LocalServerError::UnknownVersion { program: program.to_owned(), source };
    let output = Command::new(program).arg("--version").output().map_err(unknown)?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace()
        .find(|word| major_of(word).is_some())
        .map(str::to_owned)
        .ok_or_else(|| unknown(io::Error::new(io::ErrorKind::InvalidData, text.trim().to_owned())))
}

/// The number that `15.18`, `19beta1` or `17` starts with.
fn major_of(version: &str) -> Option<u32> {
    let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    /// Creates `programs` as empty files in `root/folder`.
    fn install(root: &Path, folder: &str, programs: &[&str]) -> PathBuf {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        for program in programs {
            fs::write(folder.join(program), "").unwrap();
        }
        folder
    }

    #[test]
    fn the_major_version_is_the_leading_number() {
        assert_eq!(major_of("15.18"), Some(15));
        assert_eq!(major_of("19beta1"), Some(19));
        assert_eq!(major_of("17"), Some(17));
        assert_eq!(major_of("(PostgreSQL)"), None);
        assert_eq!(major_of(""), None);
    }

    #[test]
    fn the_newest_complete_package_wins_by_number_not_by_text() {
        let root = tempfile::tempdir().unwrap();
        install(root.path(), "usr/lib/postgresql/9/bin", &PROGRAMS);
        install(root.path(), "usr/pgsql-16/bin", &PROGRAMS);
        install(root.path(), "opt/homebrew/opt/postgresql@18/bin", &["psql", "pg_config"]);
        let expected = install(root.path(), "usr/local/opt/postgresql@17/bin", &PROGRAMS);
        assert_eq!(newest_package(root.path()), Some(expected));
    }

    #[test]
    fn a_link_in_path_leads_to_the_folder_of_its_program() {
        let root = tempfile::tempdir().unwrap();
        let server = install(root.path(), "server/bin", &PROGRAMS);
        let links = install(root.path(), "links", &[]);
        let client = install(root.path(), "client", &["psql", "pg_config"]);
        std::os::unix::fs::symlink(server.join("postgres"), links.join("postgres")).unwrap();
        let path = env::join_paths([client, links]).unwrap();
        assert_eq!(in_path(&path), Some(fs::canonicalize(server).unwrap()));
    }

    #[test]
    fn a_wrong_pg_bin_is_refused_by_the_missing_program() {
        let root = tempfile::tempdir().unwrap();
        let client = install(root.path(), "client", &["psql", "initdb"]);
        let error = named_folder(client).unwrap_err();
        assert!(matches!(error, LocalServerError::WrongFolder { program: "pg_ctl", .. }), "{error}");
    }
}
