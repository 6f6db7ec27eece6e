//! Mounts as file descriptors (Linux 5.2): what is to be seen is cloned by
//! [`open_tree(2)`](https://man7.org/linux/man-pages/man2/open_tree.2.html), adjusted while nobody
//! can see it, and put in place by [`move_mount(2)`](https://man7.org/linux/man-pages/man2/move_mount.2.html)
//! onto a target that was itself opened before. No path is walked twice, so none can change in
//! between (SECURITY R19).

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::statvfs::{FsFlags, fstatvfs},
};

/// Clones the mounts at `path` and below, detached. The clone is always recursive: a user
/// namespace may not lift what another mount covers (mount_namespaces(7), "locked").
pub fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    clone(path, libc::AT_RECURSIVE as libc::c_uint)
}

/// Clones the mount at `path`, detached, without those that cover something in it. They must be the
/// caller's own.
pub fn open_mount(path: &Path) -> io::Result<OwnedFd> {
    clone(path, 0)
}

fn clone(path: &Path, flags: libc::c_uint) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | flags;
    // SAFETY: `path` is a C string that outlives the call; the kernel writes to no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = Errno::result(fd)? as RawFd;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a detached tree in place. `tree` then refers to it there.
pub fn move_mount(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open, as their types promise, and both paths are C strings.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(done)?;
    Ok(())
}

/// Makes a tree read-only, mounts below it included
/// ([`mount_setattr(2)`](https://man7.org/linux/man-pages/man2/mount_setattr.2.html), Linux 5.12).
pub fn mount_setattr_readonly(tree: BorrowedFd<'_>) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a C string, and `attr` is a `struct mount_attr` of the size that is
    // given with it; the kernel only reads both.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done)?;
    Ok(())
}

/// Makes a mount in place read-only, as kernels before 5.12 can: this one, none below it.
pub fn remount_readonly(tree: BorrowedFd<'_>) -> io::Result<()> {
    // A remount states all flags anew, and a user namespace may drop none.
    let has = fstatvfs(tree)?.flags();
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    for (on, flag) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        flags.set(flag, has.contains(on));
    }
    mount(None::<&str>, proc_path(tree).as_str(), None::<&str>, flags, None::<&str>)?;
    Ok(())
}

/// A path that leads exactly to what `fd` refers to, for calls that want a path.
pub fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
