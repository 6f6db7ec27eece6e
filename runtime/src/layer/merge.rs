//! Layers into one tree, in order, by rename.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, OFlag, RenameFlags, renameat, renameat2},
    sys::{
        stat::{Mode, SFlag, fchmod, futimens},
        time::TimeSpec,
    },
    unistd::{UnlinkatFlags, linkat, unlinkat},
};

use super::{
    Error, Expanded, NO_TARGET, Name, Summary,
    expand::{Link, clear_xattrs, is_allowed, is_refusal, kind},
    failed, name,
    remove::{empty, remove_tree},
    resolve::{Missing, open_dir, resolve},
    shadow::{Node, Xattrs},
    unreachable,
};
use crate::sys::xattr::{fgetxattr, flistxattr, fsetxattr};

/// The layers merged so far.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    dirs: Node,
    summary: Summary,
}

impl Tree {
    /// Starts with `root`, an empty directory on the file system of the staging directories. It
    /// gets the mode that the image gives its root directory, often one that does not let its
    /// owner move it: publish by moving a directory above it. If no layer describes the root it
    /// keeps the mode that it has.
    pub fn new(root: OwnedFd) -> Tree {
        Tree { root, dirs: Node::default(), summary: Summary::default() }
    }

    /// Merges the next layer. Of its staging directory only directories are left, to be removed
    /// with [`remove_tree`].
    ///
    /// After an error the tree is good for nothing but removal.
    pub fn merge(&mut self, staging: impl AsFd, layer: Expanded) -> Result<(), Error> {
        self.summary += layer.summary();
        let mut merge =
            Merge { root: self.root.as_fd(), staging: staging.as_fd(), dirs: &mut self.dirs };
        let later = merge.link_to_lower(&layer)?;
        merge.remove_hidden(&layer)?;
        merge.move_all(layer.dirs)?;
        merge.link_in_tree(&later)
    }

    /// Gives the directories their own modes and times.
    pub fn finish(self) -> Result<Summary, Error> {
        let root = self.root.as_fd();
        let mut closed = Vec::new();
        let mut rest = vec![(Vec::new(), &self.dirs)];
        while let Some((path, node)) = rest.pop() {
            if let Some(meta) = &node.meta {
                let fd = open_dir(root, &path, OFlag::O_RDONLY).map_err(failed("open", &path))?;
                futimens(&fd, &TimeSpec::UTIME_OMIT, &meta.mtime)
                    .map_err(failed("set time of", &path))?;
                if meta.mode & 0o700 == 0o700 {
                    set_mode(&fd, meta.mode, &path)?;
                } else {
                    closed.push((path.clone(), meta.mode));
                }
            }
            rest.extend(node.dirs.iter().map(|(base, node)| (name::join(&path, base), node)));
        }
        // Those that lock out their owner come last, and what lies deeper before what leads there.
        for (path, mode) in closed.into_iter().rev() {
            let fd = open_dir(root, &path, OFlag::O_RDONLY).map_err(failed("open", &path))?;
            set_mode(&fd, mode, &path)?;
        }
        Ok(self.summary)
    }
}

fn set_mode(fd: &OwnedFd, mode: u32, path: &[u8]) -> Result<(), Error> {
    fchmod(fd, Mode::from_bits_truncate(mode)).map_err(failed("set mode of", path))
}

/// One layer on its way into the tree.
struct Merge<'a> {
    root: BorrowedFd<'a>,
    staging: BorrowedFd<'a>,
    /// The tree's directories.
    dirs: &'a mut Node,
}

/// A directory of the staging and the directory of the tree that it is merged into.
struct Pair {
    from: Vec<u8>,
    to: Vec<u8>,
    /// The layer's record of it.
    node: Node,
}

impl Merge<'_> {
    /// Step 1: hard links to what lower layers hold, as they were before this layer's whiteouts.
    /// Returns those whose target is not there.
    fn link_to_lower(&mut self, layer: &Expanded) -> Result<Vec<Link>, Error> {
        let mut later = Vec::new();
        for (index, link) in layer.links.iter().enumerate() {
            let node = layer.dirs.at(&link.dir);
            if node.and_then(|node| node.links.get(link.base.as_slice())) != Some(&index) {
                continue;
            }
            let path = name::join(&link.dir, &link.base);
            let place = open_dir(self.staging, &link.dir, OFlag::O_PATH)
                .map_err(failed("open directory of", &path))?;
            // What took its place later struck it off the list; this went on below it.
            if kind(place.as_fd(), &link.base).is_ok() {
                let problem = "a hard link with entries below it";
                return Err(Error::Refused { entry: Name::new(&path), problem });
            }
            let (dir, base) = (link.target_dir.as_slice(), link.target_base.as_slice());
            let lower = resolve(self.root, dir, Missing::Stop(Some(&layer.dirs)))
                .map_err(unreachable(&path))?;
            let Some(lower_fd) = lower.fd else {
                later.push(link.clone());
                continue;
            };
            // A lower link may lead to a directory that this layer brings files for: those then.
            let own = (lower.path != dir).then(|| {
                let own = open_dir(self.staging, &lower.path, OFlag::O_PATH).ok()?;
                kind(own.as_fd(), base).ok().map(|_| own)
            });
            let target = own.flatten().unwrap_or(lower_fd);
            if !link_file(target.as_fd(), base, place.as_fd(), &link.base, &path)? {
                later.push(link.clone());
            }
        }
        Ok(later)
    }

    /// Step 2: what this layer takes away.
    fn remove_hidden(&mut self, layer: &Expanded) -> Result<(), Error> {
        for path in &layer.opaque {
            let place = resolve(self.root, path, Missing::Stop(Some(&layer.dirs)))
                .map_err(unreachable(path))?;
            if place.fd.is_some() {
                let dir = open_dir(self.root, &place.path, OFlag::O_RDONLY)
                    .map_err(failed("open", path))?;
                empty(dir).map_err(failed("empty", path))?;
                self.dirs.at_mut(&place.path).dirs.clear();
            }
        }
        for path in &layer.whiteouts {
            let (dir, base) = name::split(path);
            let place = resolve(self.root, dir, Missing::Stop(Some(&layer.dirs)))
                .map_err(unreachable(path))?;
            if let Some(fd) = place.fd {
                remove_tree(fd.as_fd(), name::os(base)).map_err(failed("remove", path))?;
                self.dirs.remove(&name::join(&place.path, base));
            }
        }
        Ok(())
    }

    /// Step 3: what this layer brings.
    fn move_all(&mut self, mut root: Node) -> Result<(), Error> {
        let mut through_links = Vec::new();
        let mut pairs = Vec::new();
        self.describe(&mut root, &[], &[])?;
        pairs.push(Pair { from: Vec::new(), to: Vec::new(), node: root });
        loop {
            while let Some(pair) = pairs.pop() {
                self.move_dir(pair, &mut pairs, &mut through_links)?;
            }
            // Last, when all that a link may lead through is in its place.
            let Some(mut pair) = through_links.pop() else { return Ok(()) };
            pair.to = resolve(self.root, &pair.to, Missing::Create(&|| true))
                .map_err(unreachable(&pair.from))?
                .path;
            pairs.push(pair);
        }
    }

    fn move_dir(
        &mut self,
        mut pair: Pair,
        pairs: &mut Vec<Pair>,
        through_links: &mut Vec<Pair>,
    ) -> Result<(), Error> {
        let from = open_dir(self.staging, &pair.from, OFlag::O_RDONLY)
            .map_err(failed("open", &pair.from))?;
        let to = open_dir(self.root, &pair.to, OFlag::O_PATH).map_err(failed("open", &pair.to))?;
        let names = list(&from).map_err(failed("read", &pair.from))?;
        for (entry, d_type) in names {
            let base = entry.to_bytes();
            let path = name::join(&pair.from, base);
            let node = pair.node.dirs.remove(base);
            if !move_new(&from, &to, &entry).map_err(failed("move", &path))? {
                let ours = match d_type {
                    Some(Type::Directory) => SFlag::S_IFDIR,
                    Some(_) => SFlag::S_IFREG,
                    None => kind(from.as_fd(), base).map_err(failed("look at", &path))?,
                };
                let theirs = kind(to.as_fd(), base).map_err(failed("look at", &path))?;
                let explicit = node.as_ref().is_some_and(Node::is_explicit);
                if ours == SFlag::S_IFDIR && (theirs == SFlag::S_IFDIR || !explicit) {
                    let mut both = Pair {
                        to: name::join(&pair.to, base),
                        from: path,
                        node: node.unwrap_or_default(),
                    };
                    match theirs {
                        SFlag::S_IFDIR => {
                            self.describe(&mut both.node, &both.from, &both.to)?;
                            pairs.push(both);
                        }
                        SFlag::S_IFLNK => through_links.push(both),
                        _ => return Err(unreachable(&both.from)(Errno::ENOTDIR)),
                    }
                    continue;
                }
                self.replace(&from, &to, &entry, [ours, theirs]).map_err(failed("move", &path))?;
                if theirs == SFlag::S_IFDIR {
                    self.dirs.remove(&name::join(&pair.to, base));
                }
            }
            if let Some(node) = node {
                self.dirs.at_mut(&pair.to).dirs.insert(base.into(), node);
            }
        }
        Ok(())
    }

    /// Puts an entry in the place of a lower one that is not to be kept.
    fn replace(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        base: &CStr,
        [ours, theirs]: [SFlag; 2],
    ) -> io::Result<()> {
        if theirs == SFlag::S_IFDIR {
            remove_tree(to.as_fd(), name::os(base.to_bytes()))?;
        } else if ours == SFlag::S_IFDIR {
            unlinkat(to, base, UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(renameat(from, base, to, base)?)
    }

    /// A layer that declares a directory which is already there gives it its own metadata.
    fn describe(&mut self, node: &mut Node, from: &[u8], to: &[u8]) -> Result<(), Error> {
        let Some(meta) = node.meta.take() else { return Ok(()) };
        let (ours, theirs) = (meta.xattrs == Xattrs::Some, self.dirs.has_xattrs(to));
        if ours || theirs {
            let open = |root, path| open_dir(root, path, OFlag::O_RDONLY);
            let to_fd = open(self.root, to).map_err(failed("open", to))?;
            if theirs {
                clear_xattrs(&to_fd).map_err(failed("remove attributes of", from))?;
            }
            if ours {
                let from_fd = open(self.staging, from).map_err(failed("open", from))?;
                copy_xattrs(&from_fd, &to_fd).map_err(failed("copy attributes of", from))?;
            }
        }
        self.dirs.at_mut(to).meta = Some(meta);
        Ok(())
    }

    /// Step 4: hard links whose target is found only in the merged tree.
    fn link_in_tree(&mut self, links: &[Link]) -> Result<(), Error> {
        for link in links {
            let path = name::join(&link.dir, &link.base);
            let find = |dir, missing| resolve(self.root, dir, missing).map_err(unreachable(&path));
            let target = find(&link.target_dir, Missing::Stop(None))?;
            let place = find(&link.dir, Missing::Create(&|| true))?;
            let (Some(target), Some(place_fd)) = (target.fd, place.fd) else {
                return Err(no_target(&path));
            };
            if kind(target.as_fd(), &link.target_base).is_err() {
                return Err(no_target(&path));
            }
            let (to, base) = (place_fd.as_fd(), link.base.as_slice());
            remove_tree(to, name::os(base)).map_err(failed("replace", &path))?;
            self.dirs.remove(&name::join(&place.path, base));
            if !link_file(target.as_fd(), &link.target_base, to, base, &path)? {
                return Err(no_target(&path));
            }
        }
        Ok(())
    }
}

fn no_target(entry: &[u8]) -> Error {
    Error::Refused { entry: Name::new(entry), problem: NO_TARGET }
}

/// Makes a hard link to a file or a symbolic link itself. False: there is none.
fn link_file(
    from: BorrowedFd<'_>,
    target: &[u8],
    to: BorrowedFd<'_>,
    base: &[u8],
    entry: &[u8],
) -> Result<bool, Error> {
    match kind(from, target) {
        Err(Errno::ENOENT) => return Ok(false),
        Ok(SFlag::S_IFDIR) => {
            let problem = "a hard link to a directory";
            return Err(Error::Refused { entry: Name::new(entry), problem });
        }
        other => other.map_err(failed("link", entry))?,
    };
    linkat(from, target, to, base, AtFlags::empty()).map_err(failed("link", entry))?;
    Ok(true)
}

/// Moves an entry, a directory with all it holds, to where there is none. False: there is one.
fn move_new(from: &OwnedFd, to: &OwnedFd, base: &CStr) -> nix::Result<bool> {
    match renameat2(from, base, to, base, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        // File systems that do not know the flag, NFS for one.
        Err(Errno::EINVAL | Errno::ENOSYS) => match kind(to.as_fd(), base.to_bytes()) {
            Ok(_) => Ok(false),
            Err(Errno::ENOENT) => renameat(from, base, to, base).map(|()| true),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// The names in a directory, before anything is moved out of it.
fn list(dir: &OwnedFd) -> io::Result<Vec<(CString, Option<Type>)>> {
    let mut names = Vec::new();
    for entry in Dir::from_fd(dir.try_clone()?)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    for name in flistxattr(from)?.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if is_allowed(name.to_bytes()) {
            match fsetxattr(to, name, &fgetxattr(from, name)?) {
                Err(error) if !is_refusal(&error) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}
