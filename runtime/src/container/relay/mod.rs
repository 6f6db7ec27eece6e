//! The host's Slurm, for a job's script in a container.
//!
//! A script that runs in a container calls `srun` and `squeue`, and no image has a Slurm that fits the
//! cluster, its settings and its munge. So a process stays on the host, and the container has small
//! programs by these names, first in `PATH`, which ask it:
//!
//! ```text
//!   host                                         container
//!   launcher ── splits off ──► relay             the script
//!     │ namespaces, pivot, exec   │ listens        │ srun -n4 ./app
//!     └──► becomes the script     │                ▼
//!                                 │ ◄── socket ── /.shifter/bin/srun (sys/caller): directory, arguments,
//!                                 ▼               variables, standard streams, signals …
//!                        handler ─► /usr/bin/srun -n4 ./app
//!                           └── how it ended ───► ends so
//!
//!   <node_dir>/steps/<step>/relay/socket     seen inside as /.shifter/relay/socket
//!   /.shifter/bin/CALLER, srun → CALLER …    in the container's own memory
//!   /usr/local/bin/srun → …                  for shells that set PATH anew as they begin (bash -l)
//! ```
//!
//! The command is the host's and is as good as called there: in its mount namespace and the job's control
//! group, with the streams, the umask, the limits and the ignored signals of who calls, in the same
//! session and process group, so that a terminal's keys reach it. It has the job's variables with what was
//! changed inside ([`crate::environment::outside`]), and begins where the caller stands, if that is the
//! same directory on the host.
//!
//! The relay is the step's: it is in its control group, belongs to nobody's list of children, hears no
//! signal, keeps no file of anybody's open, and ends when the script does, however that ends; commands
//! that run then are told so (`SIGHUP`, `SIGTERM`). It obeys its own user alone, who could do all of this
//! anyway: it is a way out of the container, and the container is no wall against its user.

mod call;
mod serve;

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{Mode, mkdirat},
    unistd::{AccessFlags, Pid, UnlinkatFlags, access, unlinkat},
};

use super::{Mount, Plan, Presence, io_error, join::Step};
use crate::{
    config,
    environment::DEFAULT_PATH,
    inject::Link,
    options::Access,
    sys::{
        CALLER,
        mount::proc_path,
        process::{Side, detach, pidfd_open, quit},
    },
};

/// Where the commands are, inside.
pub(super) const BIN: &str = "/.shifter/bin";
/// What they lead to.
const PROGRAM: &str = "/.shifter/bin/CALLER";
/// Where the relay's directory is, inside.
const DIR: &str = "/.shifter/relay";
/// Its socket (`sys/caller`, `SOCKET`).
const SOCKET: &str = "socket";
/// Where a login shell of any distribution looks first.
const LOGIN_BIN: &str = "/usr/local/bin";

/// What became of a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The relay listens to nobody.
    #[error("{op} for the host's Slurm in the container")]
    Start {
        /// Verb and noun.
        op: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The name is not one of those that are relayed.
    #[error("run {name:?} on the host: not one of the commands that a container has of it")]
    Unknown {
        /// As it was called.
        name: std::ffi::OsString,
    },
    /// The command cannot be executed.
    #[error("run {} on the host", path.display())]
    Execute {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The relay's part of a container.
#[derive(Debug, Clone)]
pub struct Outlet {
    dir: PathBuf,
    commands: Vec<String>,
}

impl Outlet {
    pub(super) fn mounts(&self) -> Vec<Mount> {
        let mut mounts = vec![
            Mount::Program { target: PROGRAM.into(), content: CALLER },
            Mount::Bind {
                source: self.dir.clone(),
                target: DIR.into(),
                access: Access::ReadOnly,
                presence: Presence::Required,
            },
        ];
        for command in &self.commands {
            for dir in [BIN, LOGIN_BIN] {
                let path = Path::new(dir).join(command);
                mounts.push(Mount::Link(Link { path, target: PROGRAM.into() }));
            }
        }
        mounts
    }
}

/// A relay that has its socket, and does not listen yet.
#[derive(Debug)]
pub struct Relay {
    listener: UnixListener,
    /// The step's directory.
    step: OwnedFd,
    dir: PathBuf,
    commands: Vec<(String, PathBuf)>,
    env: Vec<(std::ffi::OsString, std::ffi::OsString)>,
}

impl Relay {
    /// Prepares a relay for the script of a step; `None` if that is not to have one, or if there is
    /// nothing that it could run. `env` is what the script would have on the host.
    pub fn open(
        step: &Step,
        config: &config::Relay,
        env: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Option<Relay>, Error> {
        let failed = |op| move |source: io::Error| Error::Start { op, source };
        if !config.enabled {
            return Ok(None);
        }
        let env: Vec<_> = env.into_iter().collect();
        let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_os_str());
        let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
        let found =
            config.commands.iter().filter_map(|name| Some((name.clone(), find(name, path)?)));
        let commands: Vec<_> = found.collect();
        if commands.is_empty() {
            return Ok(None);
        }
        let step = step.directory().map_err(failed("open a directory"))?;
        let dir = make_directory(&step).map_err(failed("make a directory"))?;
        // By way of its descriptor: a socket's path has 108 bytes (unix(7)).
        let socket = Path::new(&proc_path(dir.as_fd())).join(SOCKET);
        let listener = UnixListener::bind(socket).map_err(failed("make a socket"))?;
        let dir = std::fs::read_link(proc_path(dir.as_fd())).map_err(failed("find a directory"))?;
        Ok(Some(Relay { listener, step, dir, commands, env }))
    }

    /// What the container is to have of it.
    pub fn outlet(&self) -> Outlet {
        let commands = self.commands.iter().map(|(name, _)| name.clone()).collect();
        Outlet { dir: self.dir.clone(), commands }
    }

    /// Splits off the process that listens, before this one enters the container that is planned. It
    /// ends when this process does, whatever this becomes.
    pub fn start(self, plan: &Plan) -> Result<(), super::Error> {
        let failed = |op| io_error(op, "the relay of the host's commands");
        let script = pidfd_open(Pid::this()).map_err(failed("start"))?;
        match detach().map_err(failed("start"))? {
            Side::Near => Ok(()),
            // Nobody is left to tell: who calls finds out.
            Side::Far => quit(serve::run(&self, &script, &plan.env).is_err().into()),
        }
    }
}

/// Makes the relay's directory in the step's, with nothing in it.
fn make_directory(step: &OwnedFd) -> io::Result<OwnedFd> {
    match mkdirat(step, "relay", Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = openat(step, "relay", flags, Mode::empty())?;
    match unlinkat(&dir, SOCKET, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(dir),
        Err(e) => Err(e.into()),
    }
}

fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    let mut files = std::env::split_paths(path).map(|dir| dir.join(name));
    files.find(|file| {
        file.is_absolute() && file.is_file() && access(file, AccessFlags::X_OK).is_ok()
    })
}
