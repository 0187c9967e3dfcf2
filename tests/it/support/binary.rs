//! The real program in a folder of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

/// Variables of the tester's machine that the program would read.
const SETTINGS: [&str; 18] = [
    "DATABASE_URL",
    "TARGET_DATABASE_URL",
    "RACEALPHA_LAKE",
    "RACEALPHA_JOBS",
    "RACEALPHA_MEMORY",
    "RACEALPHA_TOKEN",
    "RACEALPHA_VIEW_TOKEN",
    "PORT",
    "RUST_LOG",
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGPASSWORD",
    "PGSERVICE",
    "PGSSLMODE",
    "PGOPTIONS",
];

/// A folder to run the program in; its lake is `data_lake` below it.
#[derive(Debug)]
pub(crate) struct Workspace {
    folder: tempfile::TempDir,
    url: Option<String>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {self:?}"))
    }

    /// The result of a command that must have succeeded.
    pub(crate) fn ok(self) -> Result<Self> {
        anyhow::ensure!(self.code == Some(0), "{self:#?}");
        Ok(self)
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Workspace {
    /// A workspace without a database.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()?, url: None })
    }

    /// A workspace whose `DATABASE_URL` is `url`.
    pub(crate) fn at(url: &str) -> Result<Self> {
        Ok(Self { url: Some(url.to_owned()), ..Self::new()? })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn lake(&self) -> PathBuf {
        self.path().join("data_lake")
    }

    /// The program with these arguments, ready to be started.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_racealpha"));
        for name in SETTINGS {
            command.env_remove(name);
        }
        if let Some(url) = &self.url {
            command.env("DATABASE_URL", url);
        }
        command
            .args(arguments)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Ran> {
        Ok(self.command(arguments).output().context("the program did not start")?.into())
    }

    /// Files of the lake that no manifest names, and manifests: what a run left behind.
    pub(crate) fn lake_files(&self, folder: &str) -> Vec<PathBuf> {
        fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { walk(&path, files) } else { files.push(path) }
            }
        }
        let mut files = Vec::new();
        walk(&self.lake().join(folder), &mut files);
        files.sort();
        files
    }
}
