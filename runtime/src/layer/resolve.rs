//! Finding directories in a tree that is being written, and where they truly lie.
//!
//! A path is walked with the tree as its root: links in it are followed inside, `..` ends at the
//! root (SECURITY R1, R2). The answer is the directory and its *canonical* path, the one without
//! links: it is the key into the [shadow](super::shadow), and opening it again cannot go astray.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat},
    sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat},
};

use super::{name, shadow::Node};

/// As many links as the kernel follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// As many `..` as there may be in all of them: more than any image has, and few to remember.
const MAX_LEFT: usize = 256;
/// A system call takes paths shorter than this.
const PATH_MAX: usize = 4096;

/// What to do about a directory that is not there.
#[derive(Clone, Copy)]
pub(super) enum Missing<'a> {
    /// Make it and all below: somebody declared an entry in it. The caller is told of each before,
    /// by its canonical path, and may say that it is one too many.
    Create(&'a dyn Fn(&[u8]) -> bool),
    /// Go on by name alone: in another layer it may exist.
    Imagine,
    /// Give up. So too at a link in whose place the given layer puts a directory of its own: what
    /// the link leads to is not what that layer speaks of.
    Stop(Option<&'a Node>),
}

/// A directory of the tree.
#[derive(Debug)]
pub(super) struct Place {
    /// Canonical, relative to the root.
    pub(super) path: Vec<u8>,
    /// None: it is not there.
    pub(super) fd: Option<OwnedFd>,
    /// The directories that links led out of by `..`. Another layer may have links in their place,
    /// and then `..` is not what it seemed.
    pub(super) left: Vec<Vec<u8>>,
}

/// Opens the directory at a canonical path; a link in it is an error.
pub(super) fn open_dir(root: BorrowedFd<'_>, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    if path.is_empty() {
        return openat2(root, ".", how);
    }
    if path.len() < PATH_MAX {
        return openat2(root, path, how);
    }
    // Longer than one system call takes: in pieces that end between two components.
    let slash = path[..PATH_MAX - 1].iter().rposition(|b| *b == b'/').ok_or(Errno::ENAMETOOLONG)?;
    let near = openat2(
        root,
        &path[..slash],
        how.flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC),
    )?;
    open_dir(near.as_fd(), &path[slash + 1..], flags)
}

/// Finds the directory that the clean path `path` leads to.
///
/// `ENOTDIR`: something else is in the way. `ELOOP`: too many links. `ENAMETOOLONG`: the canonical
/// path exceeds [`name::MAX_PATH`]. `E2BIG`, which the kernel gives for none of this: the caller
/// does not want any more directories.
pub(super) fn resolve(
    root: BorrowedFd<'_>,
    path: &[u8],
    missing: Missing<'_>,
) -> Result<Place, Errno> {
    // Most paths have no links in them and exist.
    match open_dir(root, path, OFlag::O_PATH) {
        Ok(fd) => Ok(Place { path: path.to_vec(), fd: Some(fd), left: Vec::new() }),
        Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => walk(root, path, missing),
        Err(error) => Err(error),
    }
}

fn walk(root: BorrowedFd<'_>, path: &[u8], missing: Missing<'_>) -> Result<Place, Errno> {
    let start = || open_dir(root, b"", OFlag::O_PATH);
    let mut at = Place { path: Vec::with_capacity(path.len()), fd: None, left: Vec::new() };
    // The last directory on the way that is there, and how many levels below it the walk is.
    let (mut fd, mut below) = (start()?, 0_usize);
    let mut ahead: Vec<Vec<u8>> = name::components(path).rev().map(<[u8]>::to_vec).collect();
    let mut links = 0;
    while let Some(component) = ahead.pop() {
        match &component[..] {
            b"." => continue,
            b".." => {
                if at.left.len() == MAX_LEFT {
                    return Err(Errno::ELOOP);
                }
                if at.path.is_empty() {
                    continue;
                }
                at.left.push(at.path.clone());
                name::pop(&mut at.path);
                // One step, however deep it is. The tree is this process's alone: nothing in it
                // moves meanwhile.
                match below.checked_sub(1) {
                    Some(less) => below = less,
                    None => fd = open_child(fd.as_fd(), b"..", OFlag::O_PATH)?,
                }
                continue;
            }
            _ => {}
        }
        match if below > 0 { Ok(Step::Missing) } else { step(&fd, &component) } {
            // A link may lead out of it again.
            Ok(Step::Missing) => below += 1,
            Ok(Step::Other) => match missing {
                Missing::Create(_) | Missing::Imagine => return Err(Errno::ENOTDIR),
                Missing::Stop(_) => return Ok(at),
            },
            Ok(Step::Directory(next)) => fd = next,
            Ok(Step::Link(target)) => {
                if let Missing::Stop(Some(layer)) = missing
                    && layer.at(&name::join(&at.path, &component)).is_some_and(Node::is_explicit)
                {
                    return Ok(at);
                }
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP);
                }
                if target.starts_with(b"/") {
                    at.path.clear();
                    (fd, below) = (start()?, 0);
                }
                ahead.extend(name::components(&target).rev().map(<[u8]>::to_vec));
                continue;
            }
            Err(error) => return Err(error),
        }
        name::push(&mut at.path, &component);
        if at.path.len() > name::MAX_PATH {
            return Err(Errno::ENAMETOOLONG);
        }
    }
    at.fd = match missing {
        _ if below == 0 => Some(fd),
        // Not before it is known where the path ends.
        Missing::Create(may) => Some(make(root, &at.path, may)?),
        Missing::Imagine | Missing::Stop(_) => None,
    };
    Ok(at)
}

/// Makes what is missing of the canonical path `path`; a link in it is an error. `may` as in
/// [`Missing::Create`].
pub(super) fn make(
    root: BorrowedFd<'_>,
    path: &[u8],
    may: &dyn Fn(&[u8]) -> bool,
) -> Result<OwnedFd, Errno> {
    let mut at = open_dir(root, b"", OFlag::O_PATH)?;
    let mut made = Vec::with_capacity(path.len());
    for component in name::components(path) {
        name::push(&mut made, component);
        at = match open_child(at.as_fd(), component, OFlag::O_PATH) {
            Err(Errno::ENOENT) if may(&made) => create(at.as_fd(), component)?,
            Err(Errno::ENOENT) => return Err(Errno::E2BIG),
            other => other?,
        };
    }
    Ok(at)
}

enum Step {
    Directory(OwnedFd),
    Link(Vec<u8>),
    Other,
    Missing,
}

/// Looks at one component, without following it.
fn step(dir: &OwnedFd, component: &[u8]) -> Result<Step, Errno> {
    match open_child(dir.as_fd(), component, OFlag::O_PATH) {
        Ok(fd) => Ok(Step::Directory(fd)),
        Err(Errno::ENOENT) => Ok(Step::Missing),
        Err(Errno::ENOTDIR | Errno::ELOOP) => match readlinkat(dir, component) {
            Ok(target) => Ok(Step::Link(target.into_encoded_bytes())),
            Err(Errno::EINVAL) => Ok(Step::Other),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Makes an implicit directory. Its mode is 0755 whatever the umask, and nobody's set-group-ID bit
/// is inherited.
fn create(dir: BorrowedFd<'_>, component: &[u8]) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_bits_truncate(0o755);
    mkdirat(dir, component, mode)?;
    // By name, but of what was made a moment ago in a tree that is this process's alone.
    fchmodat(dir, component, mode, FchmodatFlags::FollowSymlink)?;
    open_child(dir, component, OFlag::O_PATH)
}

/// Opens a directory right below `dir`, never through a link.
pub(super) fn open_child(
    dir: BorrowedFd<'_>,
    component: &[u8],
    flags: OFlag,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, component, flags, Mode::empty())
}
