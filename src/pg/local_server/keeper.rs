//! The process that runs the server's tools, and outlives us by the time it takes to clean up.
//!
//! A `Drop` does not run when we are killed, and a server that nobody stops stays for ever. So the tools are run by a
//! shell script (`keeper.sh`) that reads its steps from a socket of which only this process holds the other end: the
//! kernel closes that end however we die, the script sees its input end, stops the server and removes the folder. Drop,
//! panic, Ctrl-C and SIGKILL thus take the same way out.
//!
//! ```text
//! LocalServer ──"start"──▶ keeper.sh ──▶ initdb, pg_ctl ──▶ postgres
//!             ◀───"0"─────     └─ end of input: pg_ctl stop, rm -rf
//! ```

use std::env;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::unistd::User;

/// What the keeper runs.
const SCRIPT: &str = include_str!("keeper.sh");

/// How long one step may take. `pg_ctl` gives up after 60 s; `initdb` needs one or two, more on a busy machine.
const STEP_SECONDS_MAX: u64 = 120;

/// The variables the tools get. Neither `PG*` ones, which would redirect them, nor secrets of ours.
const PASSED_ON: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZDIR"];

/// One thing the keeper can be told to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Can the server's user run the programs and write the folder?
    Probe,
    Initdb,
    /// Starts the server and waits until it accepts connections.
    Start,
    /// Stops the server after its sessions were told to leave.
    StopFast,
    /// Stops the server as a crash would; the next start recovers.
    StopImmediate,
    /// Leaves the server and its folder alone at the end.
    Keep,
}

impl Step {
    /// What an error calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Initdb => "initdb",
            Self::Start => "start",
            Self::StopFast | Self::StopImmediate => "stop",
            Self::Keep => "keep",
        }
    }

    /// The line that the script reads.
    fn line(self) -> &'static str {
        match self {
            Self::Probe => "probe\n",
            Self::Initdb => "initdb\n",
            Self::Start => "start\n",
            Self::StopFast => "stop fast\n",
            Self::StopImmediate => "stop immediate\n",
            Self::Keep => "keep\n",
        }
    }
}

/// Our end of a running keeper. Dropping it waits until the server and its folder are gone.
#[derive(Debug)]
pub(super) struct Keeper {
    socket: UnixStream,
    process: Child,
}

impl Keeper {
    /// Starts the script as `user` (as us when `None`); from here on it owns `folder`.
    pub(super) fn start(bin_dir: &Path, folder: &Path, user: Option<&User>) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_read_timeout(Some(Duration::from_secs(STEP_SECONDS_MAX)))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "racealpha-server-keeper"]).arg(bin_dir).arg(folder);
        // Away from the terminal's process group, so that Ctrl-C reaches only us, and from a folder that someone may
        // want to unmount; with messages that the log readers expect.
        command.process_group(0).current_dir("/").env_clear().env("LC_ALL", "C").env("TZ", "UTC");
        command.envs(PASSED_ON.iter().filter_map(|name| Some((name, env::var_os(name)?))));
        command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs)).stderr(Stdio::null());
        if let Some(user) = user {
            // As root, this also drops the supplementary groups.
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let process = command.spawn()?;
        Ok(Self { socket, process })
    }

    /// Has one step done and tells whether it succeeded.
    ///
    /// # Errors
    /// When the keeper is gone, or took longer than its bound; nothing more can be asked of it then.
    pub(super) fn tell(&mut self, step: Step) -> io::Result<bool> {
        self.socket.write_all(step.line().as_bytes())?;
        let mut answer = Vec::new();
        let mut byte = [0];
        loop {
            self.socket.read_exact(&mut byte)?;
            match byte {
                [b'\n'] => return Ok(answer == b"0"),
                [digit] => answer.push(digit),
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // End of input is the order to clean up; the keeper's end of the socket closes when it has.
        let finished = self.socket.shutdown(Shutdown::Write).and_then(|()| {
            let mut rest = Vec::new();
            self.socket.read_to_end(&mut rest)
        });
        match finished.and_then(|_| self.process.wait()) {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::warn!(%status, "local server's folder was not removed"),
            Err(error) => tracing::warn!(%error, "local server is still being stopped"),
        }
    }
}
