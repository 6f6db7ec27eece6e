//! Mounting an image that is one file, without root.
//!
//! ```text
//!   first rank ── splits off ──────► server-to-be: no child of anybody's, in the host's namespaces
//!     │ new user and mount namespace     │
//!     │ opens /dev/fuse, mounts it       │ waits
//!     │ sends the descriptor ──────────► │
//!     │ overlay above it, pivot, exec    └─ squashfuse_ll FILE /dev/fd/N
//!     ▼
//!   the last process of the container ends: so does its mount namespace, the mount in it, and
//!   with that the server, whose next read(2) of /dev/fuse says ENODEV
//! ```
//!
//! A user namespace may mount FUSE (Linux 4.18), from a /dev/fuse that was opened in it; fusermount,
//! which is root's, has no part in this. The server keeps nothing of the container alive, and is
//! in the control group of who started it: under Slurm, the step's. It serves all ranks that join the
//! container, whichever ends first. What is sent to all processes of a step, as `scancel` sends
//! SIGTERM, is for the program: the server ignores it. If somebody kills the server, what is read
//! afterwards fails with ENOTCONN.
//!
//! A user-writable squashfs is never read by the kernel itself, whose reader is not made for hostile
//! ones; and the server can do no more than its user.

use std::{
    env,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open, openat},
    mount::{MsFlags, mount},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::{Mode, fstat},
    },
    unistd::{AccessFlags, access, setsid},
};

use super::{Error, Plan, enter::DIR};
use crate::{
    config::SquashfsRun,
    options::{Ids, Options},
    report::chain,
    request::front,
    sys::{
        mount::proc_path,
        pass,
        process::{Side, detach, hide_descriptors, ignore_signals, quit, use_all_cores},
    },
};

/// What serves a squashfs.
pub const PROGRAM: &str = "squashfuse_ll";
/// Debian's package of it, and everybody else's.
pub const PACKAGE: &str = "squashfuse";
/// Where FUSE begins.
pub const DEVICE: &str = "/dev/fuse";

/// Why a squashfs cannot be mounted here.
#[derive(Debug, thiserror::Error)]
pub enum Lack {
    /// The caller may not use FUSE, or the kernel has none.
    #[error("open {DEVICE}")]
    Device(#[source] io::Error),
    /// There is no server.
    #[error("{PROGRAM}: not found")]
    Program,
}

/// Whether the caller can mount a squashfs.
pub fn check() -> Result<(), Lack> {
    // It may be open to all by its mode, and closed by the job's control group.
    open_device().map_err(|e| Lack::Device(e.into()))?;
    program().map(drop).ok_or(Lack::Program)
}

/// How an image that has a squashfs is to come here, for a container with these options: "auto" is
/// decided.
pub fn choose(run: SquashfsRun, options: &Options) -> SquashfsRun {
    match run {
        SquashfsRun::Auto if is_unfit(options).is_some() || check().is_err() => SquashfsRun::Expand,
        chosen => chosen,
    }
}

/// Why a container with these options cannot be built on a squashfs, if it cannot.
pub(super) fn is_unfit(options: &Options) -> Option<String> {
    // The files in it have the caller's number, and that is nobody's where the caller's is 0.
    if options.ids == Some(Ids::Root) {
        let remap_root = front().spell("container-remap-root");
        return Some(format!("with {remap_root}, nothing in it would belong to you"));
    }
    if options.save.is_some() {
        return Some("a container that is saved needs an expanded image".to_owned());
    }
    // What was written lies over the expanded image already.
    let unfit = "a container with a name needs an expanded image";
    options.name.is_some().then(|| unfit.to_owned())
}

fn open_device() -> nix::Result<OwnedFd> {
    open(DEVICE, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
}

fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut found = env::split_paths(&path).map(|dir| dir.join(PROGRAM));
    found.find(|path| access(path, AccessFlags::X_OK).is_ok() && path.is_file())
}

/// A server that waits to be given a mount.
#[derive(Debug)]
pub(super) struct Server {
    socket: UnixStream,
    /// What it says.
    said: File,
    image: PathBuf,
}

impl Server {
    /// Starts one, before there are namespaces that it could be in. It ends if this process does
    /// before [`Server::mount`].
    pub(super) fn start(plan: &Plan) -> Result<Server, Error> {
        let image = plan.rootfs.as_path();
        let failed = |source: io::Error| no_squashfs(image, chain(&source));
        let program = program().ok_or_else(|| lacks(image, Lack::Program))?;
        open_device().map_err(|e| lacks(image, Lack::Device(e.into())))?;
        let file = File::open(image).map_err(failed)?;
        let said = memfd_create(c"said", MFdFlags::MFD_CLOEXEC).map_err(|e| failed(e.into()))?;
        let said = File::from(said);
        let (near, far) = UnixStream::pair().map_err(failed)?;
        match detach().map_err(failed)? {
            Side::Near => Ok(Server { socket: near, said, image: image.to_owned() }),
            Side::Far => {
                drop(near);
                if let Err(error) = serve(&program, plan.digest.as_str(), &file, &far, &said) {
                    // Who reads it finds out by the mount's end that there is something to read.
                    let _ = writeln!(&said, "{}", chain(&error));
                }
                quit(1)
            }
        }
    }

    /// Mounts the image on the directory `name` in `parent`, in the namespaces that the calling process
    /// is in by now, and returns its root.
    pub(super) fn mount(
        mut self,
        plan: &Plan,
        parent: &OwnedFd,
        name: &str,
    ) -> Result<OwnedFd, Error> {
        let device = open_device().map_err(|e| lacks(&self.image, Lack::Device(e.into())))?;
        // Without allow_other, it is for the processes of this user alone.
        let options = format!(
            "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
            device.as_raw_fd(),
            plan.uid,
            plan.gid
        );
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let kind = format!("fuse.{PROGRAM}");
        let open = || openat(parent, name, DIR, Mode::empty());
        let place = open().map_err(|e| no_squashfs(&self.image, e.desc().to_lowercase()))?;
        let (source, target) = (plan.digest.as_str(), proc_path(place.as_fd()));
        mount(Some(source), &*target, Some(&*kind), flags, Some(&*options))
            .map_err(|e| no_squashfs(&self.image, e.desc().to_lowercase()))?;
        // From now on the server alone has it: its end is the mount's, and nobody waits for ever.
        let sent = pass::send(&self.socket, &device);
        sent.map_err(|e| no_squashfs(&self.image, chain(&e)))?;
        drop(device);
        // The first question to it.
        let root = open().and_then(|root| Ok((fstat(&root)?, root)));
        let (owner, root) = root.map_err(|errno| {
            let cause = self.account(errno);
            no_squashfs(&self.image, cause)
        })?;
        match (owner.st_uid, owner.st_gid) == (plan.uid.as_raw(), plan.gid.as_raw()) {
            true => Ok(root),
            false => {
                Err(no_squashfs(&self.image, "it belongs to another user or group".to_owned()))
            }
        }
    }

    /// Why the server has ended, in its own words if it left any.
    fn account(&mut self, errno: Errno) -> String {
        let mut said = String::new();
        let read = self.said.rewind().and_then(|()| self.said.read_to_string(&mut said));
        let line = said.lines().map(str::trim).find(|line| !line.is_empty());
        let own = line.filter(|_| read.is_ok()).map(str::to_owned);
        format!("{PROGRAM}: {}", own.unwrap_or_else(|| errno.desc().to_lowercase()))
    }
}

fn no_squashfs(image: &Path, cause: String) -> Error {
    Error::Squashfs { path: image.to_owned(), cause, lack: None }
}

fn lacks(image: &Path, lack: Lack) -> Error {
    Error::Squashfs { path: image.to_owned(), cause: chain(&lack), lack: Some(lack) }
}

/// The other side: waits for a mount, and becomes its server.
fn serve(
    program: &Path,
    name: &str,
    image: &File,
    socket: &UnixStream,
    said: &File,
) -> io::Result<()> {
    // Away from the terminal, whose signals are not for it; nor are those that a step is sent.
    setsid()?;
    ignore_signals();
    let device = pass::receive(socket)?;
    // Neither a rank's cores nor its descriptors: who waits for the end of a pipe need not wait for
    // the server.
    use_all_cores();
    hide_descriptors()?;
    for fd in [device.as_fd(), image.as_fd()] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    let path = |fd: i32| format!("/dev/fd/{fd}");
    let mut command = Command::new(program);
    command
        // The name is for who looks at processes.
        .args(["-f", "-o", &format!("fsname={name}")])
        .args([path(image.as_raw_fd()), path(device.as_raw_fd())])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone()?);
    // What finds programs and libraries of the site's.
    for name in ["PATH", "LD_LIBRARY_PATH"] {
        command.envs(env::var_os(name).map(|value| (name, value)));
    }
    Err(command.exec())
}
