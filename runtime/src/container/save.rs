//! Writing into a file what a container has become, when its command has ended.
//!
//! ```text
//!   the process that there was ── splits off ──► the program's
//!     │ waits                                      │ enters the container
//!     │ ◄── its root, by itself; its namespaces ── │ open_tree(2) of "/"
//!     │                                            └─ exec
//!     │ the ranks of the step that are left end, too
//!     │ what only this run has put there goes, the image's own comes back
//!     │ mksquashfs ──► FILE.partial, and behind it how the image is run
//!     └─ rename to FILE; ends as the program has ended
//! ```
//!
//! It has to be the process that Slurm knows as its task, or that a shell waits for: what outlives that is
//! killed with the step. It stays on the host, and holds the container's overlay, which is there until
//! nobody has it open. What a step is sent goes to all of its processes (slurmstepd's
//! `proctrack_g_signal`), the program among them, and is not passed on; what `kill` sends to this process
//! alone is, outside of Slurm.
//!
//! A command that fails is no reason not to save: a shell fails with its last command. One that a signal
//! ends is, and one that ends after it was told to, by `scancel` or the time limit: there is no time then.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    process,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl, openat, readlinkat},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, raise},
        signalfd::{SfdFlags, SignalFd},
        stat::{Mode, SFlag, fstat},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{
        AccessFlags, Pid, UnlinkatFlags, access, dup2_stdin, dup2_stdout, symlinkat, unlinkat,
    },
};

use super::{Error, Mount, Plan, identity, io_error, join::Others, terminal::PASSED_ON};
use crate::{
    image::{Hold, Image},
    inject::Link,
    kept::Record,
    oci::RunConfig,
    options::{Access, Options},
    report::EXIT_RUNTIME,
    request::front,
    squashfs,
    sys::{
        beneath,
        interrupt::Caught,
        mount::{open_mount, proc_path},
        pass,
        process::{
            Fork, close_all_but, end_by, fork, ignore_signals, reset_sigchld, reset_signals,
            use_all_cores,
        },
    },
};

/// What a file is called until it is complete.
const PARTIAL: &str = ".partial";
/// How often it is looked whether others have ended.
const TICK: Duration = Duration::from_millis(20);
/// Slurm loses what a task has said last that ends by a signal: so long it takes to be heard.
const HEARING: Duration = Duration::from_millis(200);
/// What takes longer is told of when it begins.
const LONG: Duration = Duration::from_secs(2);

/// What the user hears.
#[derive(Debug)]
pub enum Event<'a> {
    /// It takes some time.
    Saving(&'a Path),
    /// It is done.
    Saved {
        /// The file.
        path: &'a Path,
        /// How long it is.
        bytes: u64,
    },
    /// There is no new file, and why.
    NotSaved(&'a Error),
}

/// What the program's process gives its container to, to be saved.
#[derive(Debug)]
pub struct Hand(UnixStream);

/// Makes sure, before anything long, that a file can be written at its end.
pub(super) fn check(options: &Options) -> Result<(), Error> {
    let Some(file) = &options.save else { return Ok(()) };
    let refuse = |problem: String| Err(Error::NotSaved { path: file.clone(), problem });
    if options.root == Some(Access::ReadOnly) {
        let readonly = front().spell("container-readonly");
        return refuse(format!("with {readonly}, nothing is written that could be saved"));
    }
    let Some(dir) = file.parent() else { return refuse("it is a directory".to_owned()) };
    if file.is_dir() {
        return refuse("it is a directory".to_owned());
    }
    let dir_is_writable = access(dir, AccessFlags::W_OK | AccessFlags::X_OK);
    dir_is_writable.map_err(|e| not_saved(file)(squashfs::Error::System(e.into())))?;
    squashfs::find_program().map(drop).ok_or(not_saved(file)(squashfs::Error::NoProgram))
}

/// Splits off the process that becomes the program, and returns in that one. The calling process waits
/// for it, saves what has become of its container, ends as it does, and does not return.
///
/// `others` are the ranks that share the container.
pub fn begin(
    plan: &Plan,
    image: &Image,
    others: Option<Others>,
    tell: &dyn Fn(Event<'_>),
) -> Result<Option<Hand>, Error> {
    let Some(file) = &plan.options.save else { return Ok(None) };
    let failed = || io_error("start a process to save", file);
    let (near, far) = UnixStream::pair().map_err(failed())?;
    reset_sigchld();
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let before = before.map_err(|e| failed()(e.into()))?;
    let forked = fork();
    if let Ok(Fork::Parent(child)) = forked {
        drop(far);
        let saver = Saver { plan, file, config: &image.config.config, child, others, tell };
        saver.run(near, &image.hold)
    }
    before.thread_set_mask().map_err(|e| failed()(e.into()))?;
    forked.map_err(failed())?;
    Ok(Some(Hand(far)))
}

impl Hand {
    /// Gives away the container that the calling process is in. Once it has been taken, others can join
    /// it though this process ends.
    pub(super) fn give(&mut self) -> io::Result<()> {
        let root = open_mount(Path::new("/"))?;
        let (user, mount) = (File::open("/proc/self/ns/user")?, File::open("/proc/self/ns/mnt")?);
        pass::send_all(&self.0, &[root.as_fd(), user.as_fd(), mount.as_fd()])?;
        self.0.read_exact(&mut [0])
    }

    /// Says that nothing has run in it.
    pub(super) fn take_back(mut self) {
        // Whoever does not hear it has ended.
        let _ = self.0.write_all(b"-");
    }
}

/// The process that waits.
struct Saver<'a> {
    plan: &'a Plan,
    file: &'a Path,
    config: &'a RunConfig,
    child: Pid,
    others: Option<Others>,
    tell: &'a dyn Fn(Event<'_>),
}

/// A container that was given away.
struct Given {
    root: OwnedFd,
    /// Keeps it open to ranks that come when the others have ended.
    _namespaces: [File; 2],
}

/// How the program has ended.
struct Ended {
    status: WaitStatus,
    /// Somebody had told it to.
    was_told_to: bool,
}

impl Saver<'_> {
    fn run(self, mut socket: UnixStream, hold: &Hold) -> ! {
        let result = self.wait(&mut socket, hold);
        let code = match result {
            Ok(code) => code,
            Err(error) => {
                (self.tell)(Event::NotSaved(&error));
                EXIT_RUNTIME.into()
            }
        };
        process::exit(code)
    }

    /// Returns the exit status that the program had.
    fn wait(&self, socket: &mut UnixStream, hold: &Hold) -> Result<i32, Error> {
        let failed = || io_error("wait for the command, to save", self.file);
        // Who waits for the end of a pipe, or for a lock, need not wait for this process.
        let null = File::options().read(true).write(true).open("/dev/null").map_err(failed())?;
        dup2_stdin(&null).map_err(|e| failed()(e.into()))?;
        dup2_stdout(&null).map_err(|e| failed()(e.into()))?;
        let kept = [Some(socket.as_fd()), hold.descriptor()];
        let kept: Vec<_> = kept.into_iter().flatten().collect();
        close_all_but(&kept).map_err(failed())?;

        // None comes if the other process does not get into its container; then it has said why.
        let given = self.take(socket).ok();
        let Ended { status, was_told_to } = self.end_of_child().map_err(failed())?;
        let code = match status {
            WaitStatus::Signaled(_, signal, _) => {
                if given.is_some() {
                    let problem = format!("the command was ended by {signal}");
                    self.refuse(problem);
                    if self.others.is_some() {
                        sleep(HEARING);
                    }
                }
                end_by(signal)
            }
            WaitStatus::Exited(_, code) => code,
            other => unreachable!("waited for an end, got {other:?}"),
        };
        let mut nothing_has_run = [0];
        let has_run = |_: &Given| matches!(socket.read(&mut nothing_has_run), Ok(0));
        let Some(given) = given.filter(has_run) else { return Ok(code) };
        if was_told_to {
            self.refuse("the command was told to end (SIGTERM)".to_owned());
            return Ok(code);
        }
        match self.save(&given.root) {
            Ok(bytes) => (self.tell)(Event::Saved { path: self.file, bytes }),
            Err(error) if code == 0 => return Err(error),
            Err(error) => (self.tell)(Event::NotSaved(&error)),
        }
        Ok(code)
    }

    fn take(&self, socket: &mut UnixStream) -> io::Result<Given> {
        let (_, fds) = pass::receive_with(socket, &mut [0])?;
        let fds: Result<[OwnedFd; 3], _> = fds.try_into();
        let [root, user, mount] = fds.map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let namespaces = [File::from(user), File::from(mount)];
        if let Some(others) = &self.others {
            others.keep_open(&namespaces)?;
        }
        socket.write_all(b"+")?;
        Ok(Given { root, _namespaces: namespaces })
    }

    fn refuse(&self, problem: String) {
        (self.tell)(Event::NotSaved(&Error::NotSaved { path: self.file.to_owned(), problem }));
    }

    /// Waits until the program has ended; stops and goes on as it does.
    fn end_of_child(&self) -> io::Result<Ended> {
        let mut wanted = SigSet::empty();
        wanted.extend(PASSED_ON.into_iter().chain([Signal::SIGCHLD]));
        let signals =
            SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut was_told_to = false;
        loop {
            // One may have ended before there was a descriptor to say so.
            let status = waitpid(self.child, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED))?;
            while let Some(info) = signals.read_signal()? {
                let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else { continue };
                was_told_to |= signal == Signal::SIGTERM;
                let is_for_it = signal != Signal::SIGCHLD && info.ssi_code == libc::SI_USER;
                if is_for_it && self.others.is_none() {
                    // It may have ended just now.
                    let _ = kill(self.child, signal);
                }
            }
            match status {
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    return Ok(Ended { status, was_told_to });
                }
                WaitStatus::Stopped(..) => {
                    // A shell sees its job stopped, and says to go on to whom it knows.
                    raise(Signal::SIGSTOP)?;
                    let _ = kill(self.child, Signal::SIGCONT);
                    continue;
                }
                _ => {}
            }
            match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Err(Errno::EINTR) | Ok(_) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Writes the file, and returns its length in bytes.
    fn save(&self, root: &OwnedFd) -> Result<u64, Error> {
        let failed = not_saved(self.file);
        let system = |e: io::Error| not_saved(self.file)(squashfs::Error::System(e));
        // What came until now was for the program.
        ignore_signals();
        reset_signals();
        let caught = Caught::install();
        let began = Instant::now();
        while self.others.as_ref().is_some_and(|others| others.are_there(began)) {
            if let Some(signal) = caught.signal() {
                return Err(failed(squashfs::Error::Interrupted(signal)));
            }
            sleep(TICK);
        }
        use_all_cores();
        if !self.is_shared() {
            put_back(self.plan, root);
        }
        let partial = Partial::create(self.file)?;
        // It is to be found in the program that reads it.
        fcntl(root, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| system(e.into()))?;
        // Without the dot, the path is a link.
        let tree = PathBuf::from(format!("{}/.", proc_path(root.as_fd())));
        let (began, mut told) = (Instant::now(), false);
        let written = squashfs::write(&tree, &partial.path, &caught, |_| {
            if !told && began.elapsed() > LONG {
                told = true;
                (self.tell)(Event::Saving(self.file));
            }
        });
        written.map_err(failed)?;
        partial.commit(self.config)
    }

    /// Whether somebody else is in the container, who needs what is there.
    fn is_shared(&self) -> bool {
        let node_dir = &self.plan.node_dir;
        self.plan.options.name.as_ref().is_some_and(|name| {
            Record::of(node_dir, name).is_some_and(|record| record.is_running(node_dir, name))
        })
    }
}

fn not_saved(file: &Path) -> impl FnOnce(squashfs::Error) -> Error {
    let path = file.to_owned();
    move |source| Error::Save { path, source }
}

/// The file until it is complete. Dropped before, it leaves nothing; what somebody has left who was
/// killed is written over.
struct Partial<'a> {
    file: File,
    path: PathBuf,
    name: &'a Path,
}

impl<'a> Partial<'a> {
    fn create(name: &'a Path) -> Result<Partial<'a>, Error> {
        let system = |e| not_saved(name)(squashfs::Error::System(e));
        let mut path = name.as_os_str().to_owned();
        path.push(PARTIAL);
        let path = PathBuf::from(path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o666);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(&path).map_err(system)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::NotSaved {
                path: name.to_owned(),
                problem: "another process is writing it".to_owned(),
            }),
            // Where there are no locks, nobody else is expected.
            _ => Ok(Partial { file, path, name }),
        }
    }

    /// Makes it visible, in the place of what had its name.
    fn commit(mut self, config: &RunConfig) -> Result<u64, Error> {
        let mut finish = || {
            // An image of which nothing is known may say so in its files: see `import::ensure`.
            if *config != RunConfig::default() {
                squashfs::append_config(&mut self.file, config)?;
            }
            // A full quota is told of only here on NFS and Lustre.
            self.file.sync_all()?;
            fs::rename(&self.path, self.name)?;
            Ok::<_, io::Error>(self.file.metadata()?.len())
        };
        finish().map_err(|error| {
            let full = crate::sys::is_full(&error);
            let kind = if full { squashfs::Error::Full } else { squashfs::Error::System };
            not_saved(self.name)(kind(error))
        })
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        // After a rename it is not there any more.
        let _ = fs::remove_file(&self.path);
    }
}

// ---- what is not the image's

/// Takes out of the tree what the plan has put there and nobody has changed, so that neither the
/// caller's name nor this host's settings go where the file goes; what the image had in its place is
/// there again. Of files that list users it is the caller's own lines.
///
/// What cannot be put back stays: it does no harm to whoever runs the file, for whom it is put there
/// anew.
fn put_back(plan: &Plan, root: &OwnedFd) {
    let Ok(lower) = File::open(&plan.rootfs) else { return };
    let trees = Trees { upper: root, lower: &lower };
    for mount in plan.mounts.iter().rev() {
        let target = mount.target();
        let _ = match mount {
            Mount::File { content, .. } => trees.put_back_file(target, content),
            Mount::Program { content, .. } => trees.put_back_file(target, content),
            Mount::Link(Link { target: to, .. }) => trees.put_back_link(target, to),
            Mount::Bind { .. } | Mount::Tmpfs(_) | Mount::Mask { .. } => trees.remove(target),
        };
        for dir in target.ancestors().skip(1) {
            if trees.remove(dir).is_err() {
                break;
            }
        }
    }
}

/// The container's tree, and the image's below it.
struct Trees<'a> {
    upper: &'a OwnedFd,
    lower: &'a File,
}

impl Trees<'_> {
    /// Opens the directory that a path is in.
    fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        let parent = path.parent().ok_or(Errno::EINVAL)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        beneath::open(self.upper.as_fd(), parent, flags, Mode::empty())
    }

    /// What the image has at a path, itself and not what it leads to.
    fn below(&self, path: &Path) -> Option<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        beneath::open(self.lower.as_fd(), path, flags, Mode::empty()).ok()
    }

    /// Removes an empty place for something that the image does not have.
    fn remove(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        if self.below(path).is_some() {
            return Err(Errno::EEXIST.into());
        }
        let parent = self.parent(path)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let place = fstat(openat(&parent, name, flags, Mode::empty())?)?;
        let how = match SFlag::from_bits_truncate(place.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => UnlinkatFlags::RemoveDir,
            SFlag::S_IFREG if place.st_size == 0 => UnlinkatFlags::NoRemoveDir,
            _ => return Err(Errno::EEXIST.into()),
        };
        Ok(unlinkat(&parent, name, how)?)
    }

    fn put_back_link(&self, path: &Path, target: &Path) -> io::Result<()> {
        let (parent, name) = (self.parent(path)?, path.file_name().ok_or(Errno::EINVAL)?);
        match readlinkat(&parent, name)? {
            there if there == target.as_os_str() => self.replace(path),
            _ => Ok(()),
        }
    }

    fn put_back_file(&self, path: &Path, ours: &[u8]) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let mut file = File::from(beneath::open(self.upper.as_fd(), path, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Ok(());
        }
        let mut there = Vec::new();
        (&mut file).take(identity::MAX_FILE).read_to_end(&mut there)?;
        if there == ours {
            return self.replace(path);
        }
        if identity::FILES.iter().any(|file| path == Path::new(file)) {
            let image = identity::read(self.lower.as_fd(), &path.to_string_lossy())?;
            let changed = identity::without(&there, ours, &image);
            let flags = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_NOFOLLOW;
            let file = beneath::open(self.upper.as_fd(), path, flags, Mode::empty())?;
            File::from(file).write_all(&changed)?;
        }
        Ok(())
    }

    /// Puts what the image has in the place of what is there; nothing, if it has nothing there.
    fn replace(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = (self.parent(path)?, path.file_name().ok_or(Errno::EINVAL)?);
        let Some(below) = self.below(path) else {
            return Ok(unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?);
        };
        match SFlag::from_bits_truncate(fstat(&below)?.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFLNK => {
                let to = readlinkat(&below, "")?;
                unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?;
                Ok(symlinkat(&*to, &parent, name)?)
            }
            SFlag::S_IFREG => {
                let mut from = File::open(proc_path(below.as_fd()))?;
                let meta = from.metadata()?;
                unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?;
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
                let mode = Mode::from_bits_retain(0o600);
                let mut to = File::from(openat(&parent, name, flags, mode)?);
                io::copy(&mut from, &mut to)?;
                to.set_permissions(Permissions::from_mode(meta.mode() & 0o7777))?;
                to.set_modified(meta.modified()?)
            }
            _ => Ok(()),
        }
    }
}
