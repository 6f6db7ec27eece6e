//! Directories of the image's tree that are somebody else's.
//!
//! A user namespace knows one user and one group. What belongs to others, as in a root file system
//! that root has made and everybody may read, an overlay shows and cannot copy up: nothing can be made
//! in such a directory (`EACCES`, or `EOVERFLOW` to root inside). But one that is in the upper layer
//! before the overlay is mounted is merged with the one of that name below it, and is the caller's.
//! So those in which something has to be made are put there.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{FileStat, Mode, fstat, mkdirat},
};

use super::{Mount, Plan};
use crate::sys::{beneath, mount::proc_path};

/// Makes the directories that mount points and files of the plan lie in, where they are not the
/// caller's.
pub(super) fn lay(plan: &Plan, lower: &OwnedFd, upper: &OwnedFd) -> io::Result<()> {
    let root = fs::read_link(proc_path(lower.as_fd()))?;
    let is_own =
        |stat: &FileStat| stat.st_uid == plan.uid.as_raw() && stat.st_gid == plan.gid.as_raw();
    let mut done: Vec<PathBuf> = Vec::new();
    let mut parents = BTreeSet::new();
    for target in plan.mounts.iter().map(Mount::target) {
        if !parents.insert(target.parent()) {
            continue;
        }
        let Some(dir) = nearest(lower.as_fd(), target) else { continue };
        if is_own(&fstat(&dir)?) {
            continue;
        }
        // By its own path: links on the way are the image's layout.
        let path = fs::read_link(proc_path(dir.as_fd()))?;
        let Ok(path) = path.strip_prefix(&root) else { continue };
        if !done.iter().any(|done| done == path) {
            put(path, lower, upper)?;
            done.push(path.to_owned());
        }
    }
    Ok(())
}

/// The directory that is to hold `target`, or the next one above it that there is.
fn nearest(root: BorrowedFd<'_>, target: &Path) -> Option<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let mut above = target.ancestors().skip(1);
    above.find_map(|dir| beneath::open(root, dir, flags, Mode::empty()).ok())
}

/// Makes a directory and all above it in the upper layer, with the modes that they have below.
fn put(path: &Path, lower: &OwnedFd, upper: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let (mut below, mut above) = (lower.try_clone()?, upper.try_clone()?);
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        below = openat(&below, name, flags, Mode::empty())?;
        let mode = Mode::from_bits_truncate(fstat(&below)?.st_mode) | Mode::S_IRWXU;
        match mkdirat(&above, name, mode) {
            // What a container with a name has there: the same directory, or something else that
            // was put in its place.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
        above = match openat(&above, name, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
    }
    Ok(())
}
