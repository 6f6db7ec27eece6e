//! Places in a new root: found, or made.
//!
//! The tree below is an image's and may hold anything: `/proc` a link to `..`, `/etc` a file. Each
//! walk is the kernel's, with the new root as its root; the last component is never followed, and
//! what is in the way there is replaced, in memory (SECURITY R19; runc CVE-2025-31133 and its kin
//! mounted through such links).

use std::{
    ffi::OsStr,
    fs::{File, Permissions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{Mode, SFlag, fstat, mkdirat},
    unistd::{UnlinkatFlags, symlinkat, unlinkat},
};

use crate::sys::beneath;

/// The new root: an overlay in which we may make things.
pub(super) struct Root<'a> {
    fd: BorrowedFd<'a>,
    /// Its device number, and those of memory that is mounted in it. Directories of an overlay all
    /// have the same; what is mounted from the host has another, and nothing is ever made or removed
    /// there.
    devices: Vec<u64>,
}

impl<'a> Root<'a> {
    pub(super) fn new(fd: BorrowedFd<'a>) -> io::Result<Root<'a>> {
        Ok(Root { fd, devices: vec![fstat(fd)?.st_dev] })
    }

    /// Lets things be made in what was mounted at `path`: it is not the host's.
    pub(super) fn admit(&mut self, path: &Path) -> io::Result<()> {
        let mounted = self.open(path, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
        self.devices.push(fstat(mounted)?.st_dev);
        Ok(())
    }

    /// The directory at `path`, made if need be.
    pub(super) fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open(path, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW) {
            Err(e) if is_missing(&e) => self.make_directory(path),
            other => other,
        }
    }

    /// The file at `path`, or whatever else a file can be mounted on; made if need be.
    pub(super) fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open(path, OFlag::O_NOFOLLOW) {
            Ok(found) if !is_directory_or_link(&found)? => Ok(found),
            Err(e) if !is_missing(&e) => Err(e),
            _ => Ok(self.make_file(path)?.into()),
        }
    }

    /// Puts a file of our own at `path`.
    pub(super) fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.make_file(path)?.write_all(content)
    }

    /// Puts a program of our own at `path`.
    pub(super) fn write_program(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = self.make_file(path)?;
        file.set_permissions(Permissions::from_mode(0o755))?;
        file.write_all(content)
    }

    /// Puts a symbolic link of our own at `path`.
    pub(super) fn link(&self, path: &Path, target: &Path) -> io::Result<()> {
        let (parent, name) = self.cleared(path)?;
        Ok(symlinkat(target, &parent, name)?)
    }

    fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        beneath::open(self.fd, path, OFlag::O_PATH | flags, Mode::empty())
    }

    fn make_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let (parent, name) = self.cleared(path)?;
        mkdirat(&parent, name, Mode::from_bits_retain(0o755))?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&parent, name, flags, Mode::empty())?)
    }

    fn make_file(&self, path: &Path) -> io::Result<File> {
        let (parent, name) = self.cleared(path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        Ok(openat(&parent, name, flags, Mode::from_bits_retain(0o644))?.into())
    }

    /// The directory that `path` is in, with nothing of that name left in it.
    fn cleared<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::EINVAL.into());
        };
        // Links on the way are the image's layout (`/var/run -> /run`) and are followed, inside.
        let parent = match self.open(parent, OFlag::O_DIRECTORY) {
            Err(e) if is_missing(&e) => self.make_directory(parent)?,
            other => other?,
        };
        if !self.devices.contains(&fstat(&parent)?.st_dev) {
            return Err(io::Error::other("not there, and it would lie in a directory of the host"));
        }
        match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => unlinkat(&parent, name, UnlinkatFlags::RemoveDir)?,
            Err(Errno::ENOENT) => {}
            other => other?,
        }
        Ok((parent, name))
    }
}

/// Nothing there, or nothing that a walk can go through: a file, a link to nowhere or to itself.
fn is_missing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP))
}

fn is_directory_or_link(fd: impl AsFd) -> io::Result<bool> {
    let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
    Ok(kind == SFlag::S_IFDIR || kind == SFlag::S_IFLNK)
}
