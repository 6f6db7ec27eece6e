//! A tree to lay layers into, and beside it what none of them may touch.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{PermissionsExt, chown},
        },
    },
    path::Path,
    sync::OnceLock,
    thread,
    time::Duration,
};

use nix::{
    dir::Dir,
    fcntl::{AtFlags, OFlag, open, openat},
    sys::stat::{FileStat, Mode, fstatat, mkdirat},
    unistd::{Gid, Uid, dup, geteuid, setfsgid, setfsuid},
};
use runtime::layer::remove_tree;

use crate::scratch;

/// The image's root directory.
pub const ROOT: &str = "root";
/// Where layers are expanded.
pub const STAGING: [&str; 5] = ["staging-0", "staging-1", "staging-2", "staging-3", "staging-4"];
/// What has to stay as it is. Links of layers lead there: `../outside` is the way from the root.
const OUTSIDE: [&str; 5] =
    ["outside", "outside/secret", "outside/f", "outside/sub", "outside/sub/f"];
/// What is not root cannot do all that root can: what a tree takes for granted has to be true for
/// everybody.
const NOBODY: u32 = 65534;

struct Site {
    base: OwnedFd,
    before: Vec<State>,
    /// The lowest number that no descriptor has.
    free: i32,
}

/// All of a file that a change of it changes; the kernel sees to the last one.
type State = (u32, u64, u64, i64, (i64, i64));

impl Site {
    fn get() -> &'static Site {
        static SITE: OnceLock<Site> = OnceLock::new();
        SITE.get_or_init(|| {
            // There, /proc/self/cwd/outside is a name for it that could be followed.
            env::set_current_dir(scratch()).expect("enter the scratch directory");
            for name in ["outside", "outside/sub"] {
                fs::create_dir(name).expect("make a directory");
            }
            for name in ["secret", "f", "sub/f"] {
                fs::write(Path::new("outside").join(name), "secret").expect("write a file");
            }
            // Who follows a link to there may do harm.
            for name in OUTSIDE.iter().copied().chain(["."]) {
                let mode = if Path::new(name).is_dir() { 0o755 } else { 0o644 };
                fs::set_permissions(name, PermissionsExt::from_mode(mode)).expect("set mode");
                if geteuid().is_root() {
                    chown(name, Some(NOBODY), Some(NOBODY)).expect("give away");
                }
            }
            // The clock of files is a coarse one.
            thread::sleep(Duration::from_millis(50));
            let base = open(".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).expect("open");
            Site { before: state(base.as_fd()), free: free(base.as_fd()), base }
        })
    }
}

/// Runs `build` with [`ROOT`] and so many of [`STAGING`] in the directory that it is given, all of
/// them empty. Asserts that everything can be removed afterwards, and that nothing else has changed.
pub fn with_trees<T>(stagings: usize, build: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    let site = Site::get();
    let base = site.base.as_fd();
    let trees = || STAGING[..stagings].iter().chain([&ROOT]);
    become_user(NOBODY);
    for name in trees() {
        mkdirat(base, *name, Mode::S_IRWXU).expect("make a directory");
    }
    let built = build(base);
    for name in trees() {
        remove_tree(base, OsStr::new(name)).expect("remove a tree");
    }
    become_user(0);
    assert_eq!(state(base), site.before, "THE HOST WAS CHANGED: a layer got out of its tree");
    assert_eq!(names(base, "."), ["outside"], "something is left");
    assert_eq!(names(base, "outside"), ["f", "secret", "sub"], "something is new");
    assert_eq!(free(base), site.free, "a descriptor is left open");
    built
}

/// Files are made and met as this user; threads have each their own (setfsuid(2)).
fn become_user(id: u32) {
    if geteuid().is_root() {
        setfsgid(Gid::from_raw(id));
        setfsuid(Uid::from_raw(id));
    }
}

fn state(base: BorrowedFd<'_>) -> Vec<State> {
    let tell = |name: &&str| {
        let stat = look(base, *name);
        let changed = (stat.st_ctime, stat.st_ctime_nsec);
        (stat.st_mode, stat.st_ino, stat.st_nlink, stat.st_size, changed)
    };
    OUTSIDE.iter().map(tell).collect()
}

fn free(fd: BorrowedFd<'_>) -> i32 {
    dup(fd).expect("a descriptor").as_raw_fd()
}

/// What lies under a name, itself.
pub fn look<P: ?Sized + nix::NixPath>(dir: BorrowedFd<'_>, name: &P) -> FileStat {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).expect("look at what is there")
}

/// Opens a directory.
pub fn directory(base: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> OwnedFd {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(base, name.as_ref(), flags, Mode::empty())
        .expect("open a directory that its owner can open")
}

/// The names in a directory, sorted.
pub fn names(base: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Vec<OsString> {
    let mut dir = Dir::from_fd(directory(base, name)).expect("read a directory");
    let names = dir.iter().map(|entry| entry.expect("read a directory"));
    let names = names.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
    let mut names: Vec<_> = names.filter(|name| name != "." && name != "..").collect();
    names.sort();
    names
}
