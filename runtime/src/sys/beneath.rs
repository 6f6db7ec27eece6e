//! Opening what lies beneath a directory that somebody else filled.
//!
//! An image's tree is hostile input. A path in it is resolved by the kernel, by
//! [`openat2(2)`](https://man7.org/linux/man-pages/man2/openat2.2.html), with the tree as its root:
//! `..` and absolute links stay inside, `/proc`'s magic links are not followed (SECURITY R1).

use std::{
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
};

/// Opens `path` as a process would whose root directory is `root`. With `O_NOFOLLOW` the last
/// component is not followed; all others are, inside.
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    // openat2 refuses an empty path; here it means the root itself.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let mut how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // openat2 refuses a mode where none is used.
    if flags.intersects(OFlag::O_CREAT | OFlag::O_TMPFILE) {
        how = how.mode(mode);
    }
    loop {
        // A rename anywhere makes the kernel give up a walk over `..`: EAGAIN asks to try again.
        match openat2(root, path.as_os_str().as_bytes(), how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}
