//! A program that sees everything and writes to one directory.

use std::{
    fs, io,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{prctl::set_pdeathsig, signal::Signal, stat::Mode},
    unistd::{getegid, geteuid, getpid, getppid},
};

use super::mount::{mount_setattr_readonly, move_mount, open_tree};

/// Who a program is in its namespace. Outside, it is the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The caller.
    Own,
    /// Root: it may read all of the caller's files, whatever their modes.
    Root,
}

/// Keeps a program to one directory: it runs in namespaces of its own, where everything else is
/// read-only. What it does to what it may not read, it does as the caller.
///
/// On kernels before 5.12 it is not kept: they cannot make what they show read-only at once.
pub fn confine(command: &mut Command, writable: &Path, identity: Identity) -> io::Result<()> {
    let writable: PathBuf = writable.canonicalize()?;
    let (uid, gid, parent) = (geteuid().as_raw(), getegid().as_raw(), getpid());
    let inside = |id: u32| if identity == Identity::Root { 0 } else { id };
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{} {uid} 1\n", inside(uid))),
        ("/proc/self/gid_map", format!("{} {gid} 1\n", inside(gid))),
    ];
    let enter = move || {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        for (file, text) in &maps {
            fs::write(file, text)?;
        }
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        // It ends with the caller, however that ends: else it went on writing to what the next one
        // removes. Said before, a new user namespace would have forgotten it (prctl(2)).
        set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        let tree = open_tree(&writable)?;
        let dir = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open("/", dir, Mode::empty())?;
        match mount_setattr_readonly(root.as_fd()) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOSYS as i32) => {
                return Ok(());
            }
            other => other?,
        }
        let place = open(&writable, dir, Mode::empty())?;
        move_mount(tree.as_fd(), place.as_fd())?;
        Ok(())
    };
    // SAFETY: between fork and exec only one thread is there. What runs in it makes system calls,
    // and takes memory for a path or two; glibc keeps its allocator usable across fork(3).
    unsafe { command.pre_exec(enter) };
    Ok(())
}
