//! Programs that a test starts and that never outlive it.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Runs `$@` until the input ends, which it does when this process goes, however it goes.
const GUARD: &str = r#"signal=$1; shift; "$@" & child=$!; read -r _; kill -s "$signal" "$child"; wait "$child""#;

/// A running program; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Guarded {
    guard: Child,
}

impl Guarded {
    /// Starts a program in `folder`, as the folder's owner; `signal` ends it. Its output goes to `FOLDER/output`.
    pub(crate) fn start(folder: &Path, signal: &str, command: &[&str]) -> Result<Self> {
        let output = fs::File::create(folder.join("output"))?;
        let mut guard = as_owner(Command::new("/bin/sh"), folder)?;
        guard.args(["-c", GUARD, "guard", signal]).args(command).stdin(Stdio::piped());
        guard.stderr(output.try_clone()?).stdout(output);
        Ok(Self { guard: guard.spawn().with_context(|| format!("cannot start {command:?}"))? })
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // It has been told to end; how it ended does not matter.
        let _ = self.guard.wait();
    }
}

/// A temporary folder of the user that a server runs as.
pub(crate) fn folder_of(server: &racealpha::pg::LocalServer) -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("racealpha-test-").tempdir_in("/tmp")?;
    let owner = fs::metadata(server.folder())?;
    chown(folder.path(), Some(owner.uid()), Some(owner.gid()))?;
    Ok(folder)
}

/// The command, run in the folder by its owner.
pub(crate) fn as_owner(mut command: Command, folder: &Path) -> Result<Command> {
    let owner = fs::metadata(folder)?;
    if nix::unistd::Uid::effective().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.current_dir(folder);
    Ok(command)
}
