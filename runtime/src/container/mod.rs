//! A process in an image, as the user who calls.
//!
//! ```text
//! Image + Run + Config + Host + environment
//!   └─ plan ──► Plan          everything is decided here; prints for `--dry-run`
//!                ├─ build ──► Container    first rank: namespaces, root, mounts, pivot
//!                ├─ enter ─► Container    the same; one with a name is found again, or joined
//!                └─ Step::enter ► Container    later ranks of a step join the first one's
//!                              └─ exec ──► the user's program, same pid
//! ```
//!
//! What a launcher does for one rank of a step (for a single run, `plan.enter()` is enough):
//!
//! ```no_run
//! # fn launch(
//! #     image: runtime::Image,
//! #     run: runtime::container::Run,
//! #     config: runtime::Config,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use runtime::{Host, container};
//!
//! let host = Host::probe()?; // before anything of the image can answer in its place
//! let plan = container::plan(&image, &run, &config, &host, std::env::vars_os())?;
//! let key = container::join::Key::of_this_task(|name| std::env::var_os(name));
//! let mut step = container::join::Step::open(&config.node_dir, &key)?;
//! let container = step.enter(&plan)?;
//! let error = container.exec(); // does not return if all is well
//! std::process::exit(error.exit_code().into())
//! # }
//! ```
//!
//! Invariants:
//! - One user and one mount namespace per step and node, uid→same uid. Every other namespace is
//!   the host's: MPI's shared memory, PMI and Slurm's signals need them to be.
//! - The image is never written to: it is the lower layer of an overlay whose upper is memory that
//!   goes with the namespace, or the directory of a container that has a name. Mount points and
//!   `/etc` files are made there.
//! - Every mount target is resolved by the kernel with the new root as its root, and the last
//!   component is never followed ([`crate::sys::beneath`]).
//! - No process of ours stays behind. Only one that relays a terminal lives as long as the program, as
//!   does one that runs the host's commands for it ([`relay`]), and one that serves an image which is
//!   one file ([`fuse`]) as long as the container. One that saves it ([`save`]) outlives the program.

#![forbid(unsafe_code)]

mod command;
mod devices;
mod enter;
pub mod fuse;
mod ground;
mod identity;
pub mod join;
mod named;
mod plan;
mod print;
pub mod relay;
pub mod save;
mod target;
pub mod terminal;

use std::{
    ffi::{OsStr, OsString},
    fmt, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

pub use plan::{Mount, Plan, Presence, Workdir, check, explain_mpi, plan};

use crate::{
    Digest,
    inject::mpi::Unwired,
    options::{self, Options},
    squashfs,
};

/// What to run.
#[derive(Debug, Clone)]
pub enum Command {
    /// Exactly this, whatever the image says: `srun` was given a command.
    Given(Vec<OsString>),
    /// As docker does it: the image's `Entrypoint`, then these arguments or else its `Cmd`.
    Image(Vec<OsString>),
}

/// What is run: what the caller knows, and what somebody has asked for.
#[derive(Debug, Clone)]
pub struct Run {
    /// What to run.
    pub command: Command,
    /// A batch script of Slurm's: seen inside under the path that it has outside. Its steps
    /// inherit the request for a container.
    pub script: Option<PathBuf>,
    /// All that is asked for beyond the image.
    pub options: Options,
    /// A way to the host's Slurm, for what is a script of the job's.
    pub relay: Option<relay::Outlet>,
}

/// The calling process, inside; one step away from being the user's program.
#[derive(Debug)]
pub struct Container<'a> {
    plan: &'a Plan,
    hand: Option<save::Hand>,
}

impl Plan {
    /// Builds the container around the calling process, which must have one thread.
    pub fn build(&self) -> Result<Container<'_>, Error> {
        enter::build(self)?;
        Ok(Container::of(self))
    }

    /// Builds the container, or if it has a name and runs, joins it.
    pub fn enter(&self) -> Result<Container<'_>, Error> {
        match &self.options.name {
            Some(name) => named::enter(self, name)?,
            None => enter::build(self)?,
        }
        Ok(Container::of(self))
    }
}

impl<'a> Container<'a> {
    fn of(plan: &'a Plan) -> Container<'a> {
        Container { plan, hand: None }
    }

    /// Gives the container to the process that is to save it.
    pub fn give(&mut self, mut hand: save::Hand) -> Result<(), Error> {
        hand.give().map_err(io_error("give away to be saved", "/"))?;
        self.hand = Some(hand);
        Ok(())
    }

    /// Whether the program is one whose ranks will not find one another in this step.
    pub fn unwired(&self) -> Option<Unwired> {
        command::unwired(self.plan)
    }

    /// Becomes the program. Returns only if that fails.
    pub fn exec(self) -> Error {
        match command::exec(self.plan) {
            Ok(never) => match never {},
            Err(error) => {
                self.hand.into_iter().for_each(save::Hand::take_back);
                error
            }
        }
    }
}

/// Why a container could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel gives no user namespace.
    #[error("create user namespace: {cause}")]
    Namespace {
        /// What the kernel's settings say, else its own words.
        cause: String,
    },
    /// The kernel moves no process of several threads. Ours has one, but for those that a library
    /// of the user's starts in it.
    #[error("create user namespace: the process has more than one thread")]
    Threads,
    /// The kernel does not combine the image with memory on top.
    #[error("mount overlay on {}: {cause}", Plain(rootfs))]
    Overlay {
        /// The image's tree.
        rootfs: PathBuf,
        /// What it means.
        cause: String,
    },
    /// The image is one file, and cannot be mounted.
    #[error("mount {}: {cause}", Plain(path))]
    Squashfs {
        /// The file.
        path: PathBuf,
        /// What it means.
        cause: String,
        /// What is not here, if it is that.
        lack: Option<fuse::Lack>,
    },
    /// The image is one file, and nobody reads it any more.
    #[error("run {name:?} in {image}: the server of its squashfs was killed")]
    Unserved {
        /// The command.
        name: OsString,
        /// Which image.
        image: String,
    },
    /// The image is one file, and what is asked for takes an expanded one.
    #[error("mount {}: {problem}", Plain(path))]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is asked for.
        problem: String,
    },
    /// A mount point cannot be made.
    #[error("make mount point {} in {image}", Plain(path))]
    Target {
        /// Where.
        path: PathBuf,
        /// In which image.
        image: String,
        /// Why.
        source: io::Error,
    },
    /// What is to be mounted is not there, or not to be had.
    #[error("mount {} → {}", Plain(from), Plain(to))]
    Mount {
        /// On the host.
        from: PathBuf,
        /// Inside.
        to: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is asked for as a device is none, or not there.
    #[error("use device {}: {problem}", Plain(path))]
    NoDevice {
        /// On the host.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A name stands for a container with another image.
    #[error("run container {name}: it was made from {image} ({digest})")]
    OtherImage {
        /// Which container.
        name: String,
        /// What it was made from.
        image: String,
        /// The same.
        digest: Digest,
    },
    /// Devices, GPUs among them, cannot be had.
    #[error(transparent)]
    Inject(#[from] crate::inject::Error),
    /// The host's MPI cannot be had.
    #[error(transparent)]
    Mpi(#[from] crate::inject::mpi::Error),
    /// A container that runs cannot become what is asked for.
    #[error("join container {name}: it runs {lacks}")]
    Lacks {
        /// Which container.
        name: String,
        /// `with` or `without` what.
        lacks: String,
    },
    /// A path for our own use is not as it must be.
    #[error("use {}: {problem}", Plain(path))]
    Untrusted {
        /// Which.
        path: PathBuf,
        /// Not a directory, another user's, open to others.
        problem: &'static str,
    },
    /// What has become of the container cannot be written to a file.
    #[error("save {}", Plain(path))]
    Save {
        /// Which.
        path: PathBuf,
        /// Why.
        source: squashfs::Error,
    },
    /// What has become of the container is not written to a file.
    #[error("save {}: {problem}", Plain(path))]
    NotSaved {
        /// Which.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// Any other operation on a path.
    #[error("{op} {}", Plain(path))]
    Io {
        /// Verb and noun.
        op: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A mount of the site's is not written as one.
    #[error(transparent)]
    MountSpec(#[from] options::ParseError),
    /// Nobody says what to run.
    #[error("run {image}: the image names no command, and none was given")]
    NoCommand {
        /// Which image.
        image: String,
    },
    /// A NUL byte cannot be part of an argument or variable.
    #[error("read {what}: {text:?} holds a NUL byte")]
    Nul {
        /// Argument or environment.
        what: &'static str,
        /// The text.
        text: OsString,
    },
    /// The directory that was asked for cannot be started in.
    #[error("enter working directory {} in {image}", Plain(path))]
    Workdir {
        /// Which.
        path: PathBuf,
        /// In which image.
        image: String,
        /// Why.
        source: io::Error,
    },
    /// No such command inside.
    #[error("run {name:?}: not found in {image}{searched}")]
    NotFound {
        /// As given.
        name: OsString,
        /// In which image.
        image: String,
        /// ` (PATH …)`, where that was searched.
        searched: String,
    },
    /// It is there and cannot be run.
    #[error("run {}: {cause}", Plain(path))]
    NotExecutable {
        /// Where it was found.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

impl Error {
    /// The exit status that stands for this error: as in a shell, 127 for a command that is not
    /// there, 126 for one that does not run; 125, as in docker, for all that is ours.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::NotFound { .. } => 127,
            Error::NotExecutable { .. } => 126,
            _ => 125,
        }
    }
}

/// Names the operation that failed.
fn io_error(op: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { op, path: path.as_ref().to_owned(), source }
}

/// Text from outside: in quotes and with escapes as soon as it is more than plain words
/// (SECURITY R17).
struct Plain<T>(T);

impl<T: AsRef<OsStr>> fmt::Display for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.as_ref();
        let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        if !text.is_empty() && text.as_bytes().iter().all(is_plain) {
            write!(f, "{}", text.display())
        } else {
            write!(f, "{text:?}")
        }
    }
}
