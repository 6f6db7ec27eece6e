//! Layers into one tree, in order, by rename.

use std::{
    cell::RefCell,
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
    resolve::{Missing, make, open_dir, resolve},
    shadow::{Brought, Node, Part, Xattrs},
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
        let mut merge = Merge {
            root: self.root.as_fd(),
            staging: staging.as_fd(),
            dirs: &mut self.dirs,
            brought: Brought::default(),
            through: false,
        };
        let later = merge.link_to_lower(&layer)?;
        merge.remove_hidden(&layer)?;
        merge.check_left(&layer)?;
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
    brought: Brought,
    /// Whether names are at hand that lead through links of lower layers.
    through: bool,
}

/// What a whiteout takes away.
#[derive(Clone, Copy)]
enum Hides {
    /// What has this name.
    Name,
    /// All that the directory holds.
    Content,
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
                kind(own.as_fd(), base).is_ok_and(|kind| kind != SFlag::S_IFDIR).then_some(own)
            });
            let target = own.flatten().unwrap_or(lower_fd);
            if !link_file(target.as_fd(), base, place.as_fd(), &link.base, &path)? {
                later.push(link.clone());
            }
        }
        Ok(later)
    }

    /// Step 2: what this layer takes away. What lies above goes first, wherever it stands in the
    /// archive: below a link that goes, nothing is meant that the link led to.
    fn remove_hidden(&mut self, layer: &Expanded) -> Result<(), Error> {
        let whiteouts = layer.whiteouts.iter().map(|path| (path, Hides::Name));
        let opaque = layer.opaque.iter().map(|path| (path, Hides::Content));
        let mut hidden: Vec<_> = whiteouts.chain(opaque).collect();
        hidden.sort_by(|(a, _), (b, _)| name::components(a).cmp(name::components(b)));
        for (path, hides) in hidden {
            let (dir, base) = match hides {
                Hides::Name => name::split(path),
                Hides::Content => (path.as_slice(), b"".as_slice()),
            };
            let place = resolve(self.root, dir, Missing::Stop(Some(&layer.dirs)))
                .map_err(unreachable(path))?;
            let Some(fd) = place.fd else { continue };
            match hides {
                Hides::Name => {
                    remove_tree(fd.as_fd(), name::os(base)).map_err(failed("remove", path))?;
                    self.dirs.remove(&name::join(&place.path, base));
                }
                Hides::Content => {
                    let dir = open_dir(self.root, &place.path, OFlag::O_RDONLY)
                        .map_err(failed("open", path))?;
                    empty(dir).map_err(failed("empty", path))?;
                    self.dirs.at_mut(&place.path).dirs.clear();
                }
            }
        }
        Ok(())
    }

    /// Where a link of this layer led out of a directory by `..`, and that is a link of a lower
    /// layer, it led elsewhere. What lies there by now cannot be told from the rest.
    fn check_left(&self, layer: &Expanded) -> Result<(), Error> {
        for path in &layer.left {
            if layer.dirs.at(path).is_some_and(Node::is_explicit) {
                continue;
            }
            let (dir, base) = name::split(path);
            let place = resolve(self.root, dir, Missing::Stop(Some(&layer.dirs)))
                .map_err(unreachable(path))?;
            if place.fd.is_some_and(|fd| kind(fd.as_fd(), base) == Ok(SFlag::S_IFLNK)) {
                let problem = "a link that another one leads out of again, with entries below that";
                return Err(Error::Refused { entry: Name::new(path), problem });
            }
        }
        Ok(())
    }

    /// Step 3: what this layer brings.
    fn move_all(&mut self, mut root: Node) -> Result<(), Error> {
        self.describe(&mut root, &[], &[])?;
        let mut pairs = vec![Pair { from: Vec::new(), to: Vec::new(), node: root }];
        loop {
            let mut through_links = Vec::new();
            while let Some(pair) = pairs.pop() {
                self.move_dir(pair, &mut pairs, &mut through_links)?;
            }
            if through_links.is_empty() {
                return Ok(());
            }
            // Last, when all that a link may lead through is in its place. Where each of them
            // leads is asked before any of them is moved, so that their order says nothing.
            self.through = true;
            for pair in &mut through_links {
                let place = resolve(self.root, &pair.to, Missing::Imagine)
                    .map_err(unreachable(&pair.from))?;
                let link = std::mem::replace(&mut pair.to, place.path);
                self.brought.extend([(link, Part::Use)]);
            }
            for pair in &through_links {
                self.make_dir(pair)?;
            }
            pairs = through_links;
        }
    }

    /// Makes the directory that a link leads to.
    fn make_dir(&mut self, pair: &Pair) -> Result<(), Error> {
        let made = RefCell::new(Vec::new());
        let note = |path: &[u8]| {
            made.borrow_mut().push((path.to_vec(), Part::All));
            true
        };
        make(self.root, &pair.to, &note).map_err(unless_met("create", &pair.from))?;
        self.brought.extend(made.into_inner());
        Ok(())
    }

    fn move_dir(
        &mut self,
        mut pair: Pair,
        pairs: &mut Vec<Pair>,
        through_links: &mut Vec<Pair>,
    ) -> Result<(), Error> {
        let from = open_dir(self.staging, &pair.from, OFlag::O_RDONLY)
            .map_err(failed("open", &pair.from))?;
        let to = open_dir(self.root, &pair.to, OFlag::O_PATH);
        let to = to.map_err(unless_met("open", &pair.from))?;
        let names = list(&from).map_err(failed("read", &pair.from))?;
        for (entry, d_type) in names {
            let base = entry.to_bytes();
            let (path, to_path) = (name::join(&pair.from, base), name::join(&pair.to, base));
            let node = pair.node.dirs.remove(base);
            if !move_new(&from, &to, &entry).map_err(failed("move", &path))? {
                let ours = match d_type {
                    Some(Type::Directory) => SFlag::S_IFDIR,
                    Some(_) => SFlag::S_IFREG,
                    None => kind(from.as_fd(), base).map_err(failed("look at", &path))?,
                };
                let theirs = kind(to.as_fd(), base).map_err(failed("look at", &path))?;
                let explicit = node.as_ref().is_some_and(Node::is_explicit);
                let merges = ours == SFlag::S_IFDIR && (theirs == SFlag::S_IFDIR || !explicit);
                // Nothing says which of the two came later.
                let met = match theirs {
                    _ if !self.through => false,
                    _ if !merges => self.brought.touches(&to_path),
                    SFlag::S_IFDIR => false,
                    _ => self.brought.owns(&to_path),
                };
                if met {
                    return Err(meets(&path));
                }
                if merges {
                    let node = node.unwrap_or_default();
                    let mut pair = Pair { to: to_path, from: path, node };
                    match theirs {
                        SFlag::S_IFDIR => {
                            self.describe(&mut pair.node, &pair.from, &pair.to)?;
                            pairs.push(pair);
                        }
                        SFlag::S_IFLNK => through_links.push(pair),
                        _ => return Err(unreachable(&pair.from)(Errno::ENOTDIR)),
                    }
                    continue;
                }
                self.replace(&from, &to, &entry, [ours, theirs]).map_err(failed("move", &path))?;
                if theirs == SFlag::S_IFDIR {
                    self.dirs.remove(&to_path);
                }
            }
            self.brought.extend([(to_path, Part::All)]);
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
        if self.through && self.brought.owns(to) {
            let theirs = self.dirs.at(to).and_then(|node| node.meta);
            if theirs.is_some_and(|theirs| theirs.order > meta.order) {
                return Ok(());
            }
        }
        self.brought.extend([(to.to_vec(), Part::Metadata)]);
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
        let root = self.root;
        for link in links {
            let path = name::join(&link.dir, &link.base);
            let find = |dir, missing| resolve(root, dir, missing).map_err(unreachable(&path));
            let target = find(&link.target_dir, Missing::Stop(None))?;
            let place = find(&link.dir, Missing::Create(&|_| true))?;
            let (Some(target), Some(place_fd)) = (target.fd, place.fd) else {
                return Err(no_target(&path));
            };
            if kind(target.as_fd(), &link.target_base).is_err() {
                return Err(no_target(&path));
            }
            let (to, base) = (place_fd.as_fd(), link.base.as_slice());
            let to_path = name::join(&place.path, base);
            if self.through && kind(to, base).is_ok() && self.brought.touches(&to_path) {
                return Err(meets(&path));
            }
            remove_tree(to, name::os(base)).map_err(failed("replace", &path))?;
            self.dirs.remove(&to_path);
            self.brought.extend([(to_path, Part::All)]);
            if !link_file(target.as_fd(), &link.target_base, to, base, &path)? {
                return Err(no_target(&path));
            }
        }
        Ok(())
    }
}

/// Two names of a layer are one, by a link of a lower layer, and not both are directories.
fn meets(entry: &[u8]) -> Error {
    let problem = "leads through a link of a lower layer to another entry of its own layer";
    Error::Refused { entry: Name::new(entry), problem }
}

/// Words why a directory cannot be had that was found a moment ago: where it is none any more, an
/// entry of the same layer has taken its place.
fn unless_met(op: &'static str, entry: &[u8]) -> impl FnOnce(Errno) -> Error {
    move |errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => meets(entry),
        _ => failed(op, entry)(errno),
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
        Err(Errno::EINVAL | Errno::ENOSYS) => look_and_move(from, to, base),
        Err(error) => Err(error),
    }
}

/// As [`move_new`], in two steps: nobody else writes to the tree.
pub(super) fn look_and_move(from: &OwnedFd, to: &OwnedFd, base: &CStr) -> nix::Result<bool> {
    match kind(to.as_fd(), base.to_bytes()) {
        Ok(_) => Ok(false),
        Err(Errno::ENOENT) => renameat(from, base, to, base).map(|()| true),
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
