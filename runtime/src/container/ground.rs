//! What is put into the upper layer before the overlay is mounted.
//!
//! A user namespace knows one user and one group. What belongs to others, as in a root file system
//! that root has made and everybody may read, an overlay shows and cannot copy up: nothing can be made
//! in such a directory (`EACCES`, or `EOVERFLOW` to root inside). But one that is in the upper layer
//! before the overlay is mounted is merged with the one of that name below it, and is the caller's.
//! So those in which something has to be made are put there.
//!
//! So are the files that every container gets, whoever's their directories are: by way of the overlay each
//! takes six times as long.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat, mkdirat},
};

use super::{Error, Mount, Plan, enter::target_error};
use crate::{
    options::Ids,
    sys::{beneath, mount::proc_path},
};

/// The two layers, before they are one.
pub(super) struct Ground<'a> {
    plan: &'a Plan,
    lower: &'a OwnedFd,
    upper: &'a OwnedFd,
    /// Where the lower one is.
    root: PathBuf,
}

/// A directory that files are written to, in both layers.
struct Parent<'a> {
    path: &'a Path,
    below: OwnedFd,
    above: OwnedFd,
}

impl<'a> Ground<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        lower: &'a OwnedFd,
        upper: &'a OwnedFd,
    ) -> io::Result<Ground<'a>> {
        Ok(Ground { plan, lower, upper, root: fs::read_link(proc_path(lower.as_fd()))? })
    }

    /// Writes the files that the plan begins with into an upper layer that is new, as far as there are
    /// directories for them in the image. Returns how many.
    pub(super) fn lay_files(&self) -> Result<usize, Error> {
        let mut parents: Vec<Parent<'_>> = Vec::new();
        for (number, mount) in self.plan.mounts.iter().enumerate() {
            let Mount::File { target, content } = mount else { return Ok(number) };
            match self.lay_file(target, content, &mut parents) {
                Ok(true) => {}
                Ok(false) => return Ok(number),
                Err(error) => return Err(target_error(self.plan, target)(error)),
            }
        }
        Ok(self.plan.mounts.len())
    }

    /// Returns false if the file needs the overlay.
    fn lay_file<'t>(
        &self,
        target: &'t Path,
        content: &[u8],
        parents: &mut Vec<Parent<'t>>,
    ) -> io::Result<bool> {
        let (Some(path), Some(name)) = (target.parent(), target.file_name()) else {
            return Ok(false);
        };
        if parents.iter().all(|parent| parent.path != path) {
            let Some(below) = self.directory(path) else { return Ok(false) };
            let Some(real) = self.path_of(&below)? else { return Ok(false) };
            let Some(above) = self.put(&real)? else { return Ok(false) };
            parents.push(Parent { path, below, above });
        }
        let parent = parents.iter().find(|parent| parent.path == path).expect("there by now");
        // One with something in it is not to be replaced, and here it would be hidden.
        if is_directory(&parent.below, name) {
            return Ok(false);
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        match openat(&parent.above, name, flags, Mode::from_bits_retain(0o644)) {
            // The last of two of one name is the one that counts.
            Err(Errno::EEXIST) => Ok(false),
            file => File::from(file?).write_all(content).map(|()| true),
        }
    }

    /// Makes the directories that the places of these mounts lie in, where they are not the caller's.
    pub(super) fn lay_directories(&self, mounts: &[Mount]) -> io::Result<()> {
        let mut done: Vec<PathBuf> = Vec::new();
        // The root is the upper layer's own.
        let mut parents = BTreeSet::from([Some(Path::new("/"))]);
        for target in mounts.iter().map(Mount::target) {
            if !parents.insert(target.parent()) {
                continue;
            }
            // The directory that is to hold it, or the next one above that there is.
            let mut above = target.ancestors().skip(1);
            let Some(dir) = above.find_map(|dir| self.directory(dir)) else { continue };
            if self.is_own(&fstat(&dir)?) {
                continue;
            }
            let Some(path) = self.path_of(&dir)? else { continue };
            if !done.contains(&path) {
                self.put(&path)?;
                done.push(path);
            }
        }
        Ok(())
    }

    /// A directory of the image.
    fn directory(&self, path: &Path) -> Option<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        beneath::open(self.lower.as_fd(), path, flags, Mode::empty()).ok()
    }

    /// Its path in the image by its own names: links on the way are the image's layout.
    fn path_of(&self, dir: &OwnedFd) -> io::Result<Option<PathBuf>> {
        let path = fs::read_link(proc_path(dir.as_fd()))?;
        Ok(path.strip_prefix(&self.root).ok().map(Path::to_owned))
    }

    /// Whether what a stat(2) inside the user namespace says is the caller's.
    fn is_own(&self, stat: &FileStat) -> bool {
        let inside = |outside| if self.plan.options.ids == Some(Ids::Root) { 0 } else { outside };
        let (uid, gid) = (inside(self.plan.uid.as_raw()), inside(self.plan.gid.as_raw()));
        stat.st_uid == uid && stat.st_gid == gid
    }

    /// Makes a directory and all above it in the upper layer, with the modes that they have below; what
    /// is somebody else's there, its new owner may write to. Returns it; `None`: a container with a name
    /// has something else in its place.
    fn put(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let (mut below, mut above) = (self.lower.try_clone()?, self.upper.try_clone()?);
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            below = openat(&below, name, flags, Mode::empty())?;
            let stat = fstat(&below)?;
            let mut mode = Mode::from_bits_truncate(stat.st_mode);
            if !self.is_own(&stat) {
                mode |= Mode::S_IRWXU;
            }
            match mkdirat(&above, name, mode) {
                // The mask takes bits away that belong to the directory.
                Ok(()) if !(mode - Mode::from_bits_truncate(0o755)).is_empty() => {
                    fchmodat(&above, name, mode, FchmodatFlags::FollowSymlink)?;
                }
                // What a container with a name has there: the same directory, or something else that
                // was put in its place.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(e) => return Err(e.into()),
            }
            above = match openat(&above, name, flags, Mode::empty()) {
                Ok(dir) => dir,
                Err(Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
                Err(e) => return Err(e.into()),
            };
        }
        Ok(Some(above))
    }
}

fn is_directory(dir: &OwnedFd, name: &OsStr) -> bool {
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}
