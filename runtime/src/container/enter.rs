//! Carries out a plan.
//!
//! ```text
//! <node_dir>/mnt       tmpfs, seen in this mount namespace alone
//!   mask-N             a file to be shown in the place of one of the host's
//!   upper/  work/      what the container writes; one with a name has them elsewhere (kept)
//!   lower/             the image, if it is one file (fuse)
//!   root/              overlay: the image below, upper above ── becomes /
//! ```

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        stat::{Mode, SFlag, fstat, mkdirat, umask},
        statvfs::{FsFlags, fstatvfs},
        utsname::uname,
    },
    unistd::{chdir, chroot, fchdir, getuid, pivot_root},
};

use super::{Error, Mount, Plan, Presence, fuse::Server, ground::Ground, io_error, target::Root};
use crate::{
    image::Form,
    kept,
    options::{Access, ContainerName, Exec, Ids, Tmpfs},
    sys::mount::{mount_setattr_readonly, move_mount, open_tree, proc_path, remount_readonly},
};

/// How long to wait for threads that have ended to be gone from the kernel's books as well.
const REAPING: Duration = Duration::from_secs(1);

pub(super) const DIR: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Builds the container and moves the calling process into it.
pub(super) fn build(plan: &Plan) -> Result<(), Error> {
    own_directory(&plan.node_dir)?;
    let mount_point = plan.node_dir.join("mnt");
    own_directory(&mount_point)?;

    // 0. What serves the image, if that is one file: it stays outside.
    let server = match plan.form {
        Form::Tree | Form::InPlace => None,
        Form::Squashfs => Some(Server::start(plan)?),
    };
    // 1. Namespaces. In the new user namespace the process may do anything to what is its own.
    new_namespaces(plan)?;
    // 2. The host's part, cloned while there is nothing of ours that it could include.
    let trees = clone_trees(plan)?;
    // 3. The root.
    let old_umask = umask(Mode::from_bits_retain(0o022));
    let built = new_root(plan, &mount_point, server).and_then(|(root, filled)| {
        // 4. Everything else into its place.
        fill(plan, &mount_point, &root, trees, filled)?;
        if plan.options.root == Some(Access::ReadOnly) {
            remount_readonly(root.as_fd()).map_err(io_error("make read-only", "/"))?;
        }
        Ok(root)
    });
    umask(old_umask);
    // 5. In.
    pivot(built?.as_fd()).map_err(io_error("enter root", &mount_point))
}

/// Makes a directory for our own use, or makes sure that nobody else can have a hand in it: its
/// name can be guessed, and `/dev/shm` is everybody's (SECURITY A3).
pub(super) fn own_directory(path: &Path) -> Result<(), Error> {
    let refuse = |problem| Err(Error::Untrusted { path: path.to_owned(), problem });
    let found = || open(path, DIR | OFlag::O_NOFOLLOW, Mode::empty());
    let dir = match found() {
        Err(Errno::ENOENT) => {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(io_error("make directory", path))?;
            found()
        }
        other => other,
    };
    let dir = match dir {
        Ok(dir) => dir,
        Err(Errno::ELOOP | Errno::ENOTDIR) => return refuse("it is not a directory"),
        Err(e) => return Err(io_error("open directory", path)(e.into())),
    };
    let meta = File::from(dir).metadata().map_err(io_error("look at directory", path))?;
    match () {
        () if meta.uid() != getuid().as_raw() => refuse("it belongs to another user"),
        () if meta.mode() & 0o022 != 0 => refuse("others can write to it"),
        () => Ok(()),
    }
}

fn new_namespaces(plan: &Plan) -> Result<(), Error> {
    retry_while_reaped(|| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS))
        .map_err(no_namespace)?;
    let write = |file: &str, text: &str| {
        // The kernel wants each map in one write. Files of /proc are never created.
        fs::write(Path::new("/proc/self").join(file), text)
    };
    let map = |outside: u32| {
        let inside = if plan.options.ids == Some(Ids::Root) { 0 } else { outside };
        format!("{inside} {outside} 1\n")
    };
    // user_namespaces(7): without setgroups denied, an unprivileged gid_map is refused. It also
    // keeps the job's supplementary groups as they are (SECURITY R23).
    write("setgroups", "deny")
        .and_then(|()| write("uid_map", &map(plan.uid.as_raw())))
        .and_then(|()| write("gid_map", &map(plan.gid.as_raw())))
        .map_err(|e| no_namespace(errno(&e)))?;
    // Nothing of ours travels to the host; what the host mounts later, an automounted home among
    // it, still arrives here. AppArmor gives out powerless namespaces: it shows at this call.
    let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).map_err(no_namespace)
}

/// Repeats what the kernel refuses with `EINVAL` to processes of several threads: one that was
/// joined a moment ago still counts until the kernel has reaped it.
pub(super) fn retry_while_reaped(mut call: impl FnMut() -> nix::Result<()>) -> Result<(), Errno> {
    let start = Instant::now();
    loop {
        match call() {
            Err(Errno::EINVAL) if start.elapsed() < REAPING => sleep(Duration::from_millis(1)),
            other => return other,
        }
    }
}

/// Words a refusal. The errno says little; a setting is named if it was read and explains it.
fn no_namespace(errno: Errno) -> Error {
    let setting = |path: &str| {
        let text = fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?;
        text.trim().parse::<i64>().ok()
    };
    let limit = |name: &str| setting(&format!("user/{name}")).filter(|_| errno == Errno::ENOSPC);
    let denied = errno == Errno::EPERM || errno == Errno::EACCES;
    let cause = if errno == Errno::EINVAL && !Path::new("/proc/self/ns/user").exists() {
        "this kernel is built without them".to_owned()
    } else if errno == Errno::EINVAL {
        return Error::Threads;
    } else if limit("max_user_namespaces") == Some(0) {
        "they are disabled on this host (user.max_user_namespaces = 0)".to_owned()
    } else if limit("max_mnt_namespaces") == Some(0) {
        "mount namespaces are disabled on this host (user.max_mnt_namespaces = 0)".to_owned()
    } else if let Some(limit) = limit("max_user_namespaces") {
        format!("a limit is reached: nesting, or user.max_user_namespaces = {limit}")
    } else if denied && setting("kernel/unprivileged_userns_clone") == Some(0) {
        "they are disabled on this host (kernel.unprivileged_userns_clone = 0)".to_owned()
    } else if denied && setting("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        "AppArmor restricts them on this host \
         (kernel.apparmor_restrict_unprivileged_userns = 1)"
            .to_owned()
    } else {
        errno.desc().to_lowercase()
    };
    Error::Namespace { cause }
}

/// Clones the source of each bind mount; `None` for one that is not there and need not be.
fn clone_trees(plan: &Plan) -> Result<Vec<Option<OwnedFd>>, Error> {
    let clone = |mount: &Mount| match mount {
        Mount::File { .. }
        | Mount::Program { .. }
        | Mount::Tmpfs(_)
        | Mount::Link(_)
        | Mount::Mask { .. } => Ok(None),
        Mount::Bind { source, target, access, presence } => match clone_tree(source, *access) {
            Ok(tree) => Ok(Some(tree)),
            Err(e) if *presence == Presence::Optional && is_absent(&e) => Ok(None),
            Err(e) => Err(mount_error(source, target)(e)),
        },
    };
    plan.mounts.iter().map(clone).collect()
}

fn clone_tree(source: &Path, access: Access) -> io::Result<OwnedFd> {
    let tree = open_tree(source)?;
    if access == Access::ReadOnly {
        match mount_setattr_readonly(tree.as_fd()) {
            // Before 5.12 there is no such call: see `attach`.
            Err(e) if errno(&e) == Errno::ENOSYS => {}
            other => other?,
        }
    }
    Ok(tree)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(errno(error), Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES)
}

/// Mounts memory on `mount_point` and the overlay in it. Returns the overlay's root, and how many of the
/// plan's mounts are in it already.
fn new_root(
    plan: &Plan,
    mount_point: &Path,
    server: Option<Server>,
) -> Result<(OwnedFd, usize), Error> {
    let at = |e: Errno| io_error("mount tmpfs on", mount_point)(e.into());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // Before the name below is hidden by what is mounted here.
    let kept = plan.options.name.as_ref().map(|name| Kept::open(plan, name)).transpose()?;
    // Not by way of a link that someone has put there since it was looked at.
    let empty = open(mount_point, DIR | OFlag::O_NOFOLLOW, Mode::empty()).map_err(at)?;
    let target = proc_path(empty.as_fd());
    mount(Some("tmpfs"), target.as_str(), Some("tmpfs"), flags, Some("mode=0755")).map_err(at)?;
    let tmpfs = open(mount_point, DIR, Mode::empty()).map_err(at)?;
    let subdirectory = |name: &str| {
        mkdirat(&tmpfs, name, Mode::from_bits_retain(0o755))?;
        openat(&tmpfs, name, DIR, Mode::empty())
    };
    // A source is a mere name. By this one, others see in mountinfo which image is in use here.
    let is_new = kept.is_none();
    let Kept { upper, work, source } = match kept {
        Some(kept) => kept,
        None => Kept {
            upper: subdirectory("upper").map_err(at)?,
            work: subdirectory("work").map_err(at)?,
            source: plan.digest.to_string(),
        },
    };
    let root = subdirectory("root").map_err(at)?;
    let lower = match server {
        Some(server) => {
            subdirectory("lower").map_err(at)?;
            server.mount(plan, &tmpfs, "lower")?
        }
        None => open(&plan.rootfs, DIR, Mode::empty())
            .map_err(|e| io_error("open image", &plan.rootfs)(e.into()))?,
    };
    let failed = || io_error("make directories for", &plan.rootfs);
    let ground = Ground::new(plan, &lower, &upper).map_err(failed())?;
    let laid = if is_new { ground.lay_files()? } else { 0 };
    ground.lay_directories(&plan.mounts[laid..]).map_err(failed())?;

    // Descriptors as paths: nothing to escape, nothing too long for mount(2)'s one page, and no
    // second walk. userxattr is what the kernel lets a user namespace have (overlayfs.rst).
    let options = format!(
        "userxattr,lowerdir={},upperdir={},workdir={}",
        proc_path(lower.as_fd()),
        proc_path(upper.as_fd()),
        proc_path(work.as_fd()),
    );
    let target = proc_path(root.as_fd());
    mount(Some(source.as_str()), target.as_str(), Some("overlay"), flags, Some(options.as_str()))
        .map_err(|errno| no_overlay(plan, errno))?;
    Ok((openat(&tmpfs, "root", DIR, Mode::empty()).map_err(at)?, laid))
}

/// Where what is written goes, and what the overlay is mounted from.
struct Kept {
    upper: OwnedFd,
    work: OwnedFd,
    source: String,
}

impl Kept {
    fn open(plan: &Plan, name: &ContainerName) -> Result<Kept, Error> {
        let place = kept::place(&plan.node_dir, name);
        let open = |path: &Path| {
            open(path, DIR | OFlag::O_NOFOLLOW, Mode::empty())
                .map_err(|e| io_error("open directory", path)(e.into()))
        };
        Ok(Kept {
            upper: open(&place.join(kept::UPPER))?,
            work: open(&place.join(kept::WORK))?,
            source: kept::source(&plan.digest, open(&place)?)
                .map_err(io_error("look at", &place))?,
        })
    }
}

fn no_overlay(plan: &Plan, errno: Errno) -> Error {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let cause = match errno {
        Errno::ENODEV => format!("this kernel, {release}, has no overlayfs"),
        Errno::EPERM | Errno::EINVAL if version < (5, 11) => {
            format!("Linux {release} does not let users mount one: 5.11 or later is needed")
        }
        // mount(2) says "no space left on device" of a limit.
        Errno::ENOSPC => "too many mounts (fs.mount-max)".to_owned(),
        other => other.desc().to_lowercase(),
    };
    Error::Overlay { rootfs: plan.rootfs.clone(), cause }
}

/// Puts the plan's files and mounts into the root, but for the first ones, which are there.
fn fill(
    plan: &Plan,
    own: &Path,
    root: &OwnedFd,
    trees: Vec<Option<OwnedFd>>,
    filled: usize,
) -> Result<(), Error> {
    let mut root = Root::new(root.as_fd()).map_err(io_error("look at", "/"))?;
    for (number, (mount, tree)) in plan.mounts.iter().zip(trees).enumerate().skip(filled) {
        match (mount, tree) {
            (Mount::File { target, content }, _) => {
                root.write(target, content).map_err(target_error(plan, target))?;
            }
            (Mount::Program { target, content }, _) => {
                root.write_program(target, content).map_err(target_error(plan, target))?;
            }
            (Mount::Bind { source, target, access, .. }, Some(tree)) => {
                let place = if is_directory(&tree).map_err(mount_error(source, target))? {
                    root.directory(target)
                } else {
                    root.file(target)
                };
                let place = place.map_err(target_error(plan, target))?;
                attach(&tree, &place, *access).map_err(mount_error(source, target))?;
            }
            (Mount::Tmpfs(spec), _) => {
                let target = spec.target.as_ref();
                let place = root.directory(target).map_err(target_error(plan, target))?;
                mount_memory(spec, &place)
                    .and_then(|()| root.admit(target))
                    .map_err(io_error("mount tmpfs on", target))?;
            }
            (Mount::Link(link), _) => {
                root.link(&link.path, &link.target).map_err(target_error(plan, &link.path))?;
            }
            (Mount::Mask { target, content }, _) => {
                // A file in memory of our own: in procfs none can be made.
                let file = own.join(format!("mask-{number}"));
                let mask = fs::write(&file, content).and_then(|()| {
                    fs::set_permissions(&file, Permissions::from_mode(0o444))?;
                    clone_tree(&file, Access::ReadOnly)
                });
                let mask = mask.map_err(io_error("make file", &file))?;
                let place = root.file(target).map_err(target_error(plan, target))?;
                attach(&mask, &place, Access::ReadOnly).map_err(mount_error(&file, target))?;
            }
            (Mount::Bind { .. }, None) => {}
        }
    }
    Ok(())
}

/// Programs of the image could put `setuid` bits and devices there (SECURITY R22).
fn mount_memory(spec: &Tmpfs, place: &OwnedFd) -> io::Result<()> {
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_NOEXEC, spec.exec == Exec::Refused);
    let mut options = format!("mode={:o}", spec.mode.unwrap_or(0o1777));
    if let Some(size) = spec.size {
        options.push_str(&format!(",size={size}"));
    }
    let target = proc_path(place.as_fd());
    Ok(mount(Some("tmpfs"), target.as_str(), Some("tmpfs"), flags, Some(options.as_str()))?)
}

fn attach(tree: &OwnedFd, place: &OwnedFd, access: Access) -> io::Result<()> {
    move_mount(tree.as_fd(), place.as_fd())?;
    // What could not be made read-only before it was in place is made so now.
    if access == Access::ReadOnly && !fstatvfs(tree)?.flags().contains(FsFlags::ST_RDONLY) {
        remount_readonly(tree.as_fd())?;
    }
    Ok(())
}

fn is_directory(tree: &OwnedFd) -> io::Result<bool> {
    let kind = SFlag::from_bits_truncate(fstat(tree)?.st_mode) & SFlag::S_IFMT;
    Ok(kind == SFlag::S_IFDIR)
}

fn mount_error(source: &Path, target: &Path) -> impl FnOnce(io::Error) -> Error {
    let (from, to) = (source.to_owned(), target.to_owned());
    move |source| Error::Mount { from, to, source }
}

pub(super) fn target_error(plan: &Plan, target: &Path) -> impl FnOnce(io::Error) -> Error {
    let (path, image) = (target.to_owned(), plan.image.to_string());
    move |source| Error::Target { path, image, source }
}

/// Makes `root` the root of the mount namespace; the host's tree goes.
fn pivot(root: impl AsFd) -> io::Result<()> {
    fchdir(root)?;
    match pivot_root(".", ".") {
        // pivot_root(2), "NOTES": the old root is now mounted on the new one's `/`, and the
        // working directory is in it.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        // Diskless nodes run from the initial ramfs, which cannot be moved away: it is covered.
        Err(Errno::EINVAL) => {
            mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
            chroot(".")?;
        }
        Err(e) => return Err(e.into()),
    }
    Ok(chdir("/")?)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
