//! Removing trees that somebody else filled.

use std::{
    ffi::{CStr, OsStr},
    fs::{self, Permissions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{OFlag, RenameFlags, openat, renameat2},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, unlinkat},
};

/// Levels that are walked with a descriptor each. A directory below them is first moved up to the
/// top, so neither PATH_MAX nor the limit on open files bounds the depth of what can be removed.
const LEVELS: usize = 64;

/// Removes `name` in `parent` and, if it is a directory, all that it holds. Follows no link.
/// Directories that their owner may not read or change (0000, 0555) are made so on the way.
/// What is not there is removed already.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open(parent, name)?;
    empty(top.try_clone()?)?;
    ok_if_gone(unlinkat(parent, name, UnlinkatFlags::RemoveDir))
}

/// Removes all that `top` holds.
pub(super) fn empty(top: OwnedFd) -> io::Result<()> {
    let mut moved = 0;
    loop {
        let before = moved;
        sweep(top.try_clone()?, top.as_fd(), 0, &mut moved)?;
        if moved == before {
            return Ok(());
        }
    }
}

/// Removes what `dir` holds, but moves directories to `top` where the descent must end.
fn sweep(dir: OwnedFd, top: BorrowedFd<'_>, level: usize, moved: &mut u64) -> io::Result<()> {
    let mut dir = Dir::from_fd(dir)?;
    // What goes while a directory is read can make some file systems skip names: read again
    // until nothing is left to remove.
    loop {
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push((entry.file_name().to_owned(), entry.file_type()));
            }
        }
        // In the top directory itself, what was moved there is left to the next round.
        let before = *moved;
        for (name, kind) in &names {
            if *kind != Some(Type::Directory) {
                match unlinkat(&dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => continue,
                    Err(Errno::EISDIR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let child = open(dir.as_fd(), name.as_c_str())?;
            if level == LEVELS {
                move_up(dir.as_fd(), name, top, moved)?;
            } else {
                sweep(child, top, level + 1, moved)?;
                ok_if_gone(unlinkat(&dir, name.as_c_str(), UnlinkatFlags::RemoveDir))?;
            }
        }
        if names.is_empty() || (level == 0 && *moved != before) {
            return Ok(());
        }
    }
}

/// Moves a directory to `top` under a name that is free there.
fn move_up(
    dir: BorrowedFd<'_>,
    name: &CStr,
    top: BorrowedFd<'_>,
    moved: &mut u64,
) -> io::Result<()> {
    loop {
        *moved += 1;
        let free = format!(".removed.{moved}");
        match renameat2(dir, name, top, free.as_str(), RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EEXIST) => {}
            other => return Ok(other?),
        }
    }
}

/// Opens a directory for reading and makes it one whose entries its owner can remove.
fn open<P: ?Sized + nix::NixPath>(parent: BorrowedFd<'_>, name: &P) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let handle = openat(parent, name, flags | OFlag::O_PATH, Mode::empty())?;
    let mode = nix::sys::stat::fstat(&handle)?.st_mode;
    if mode & 0o700 != 0o700 {
        // fchmod does not take an O_PATH descriptor and the directory may not be readable. The
        // magic link names this very directory, whatever happened to its name since.
        let itself = format!("/proc/self/fd/{}", handle.as_raw_fd());
        fs::set_permissions(itself, Permissions::from_mode(mode & 0o7777 | 0o700))?;
    }
    Ok(openat(&handle, ".", flags | OFlag::O_RDONLY, Mode::empty())?)
}

fn ok_if_gone(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::ENOENT) => Ok(()),
        other => Ok(other?),
    }
}
