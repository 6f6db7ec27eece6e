//! One layer's stream into its staging directory.

use std::{
    cell::Cell,
    collections::BTreeSet,
    ffi::{CStr, CString},
    io::{self, BufRead},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::{
        stat::{
            FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens,
            mkdirat, utimensat,
        },
        time::TimeSpec,
    },
    unistd::{
        UnlinkatFlags, Whence, close, ftruncate, linkat, lseek, mkfifoat, symlinkat, unlinkat,
        write,
    },
};

use super::{
    Error, Limits, NO_TARGET, Name, Summary, failed, name,
    remove::remove_tree,
    resolve::{Missing, open_child, resolve},
    shadow::{Meta, Node, Xattrs},
    tar::{Entry, Kind, Reader},
    unreachable,
};
use crate::sys::xattr::{flistxattr, fremovexattr, fsetxattr};

/// What expanding a layer leaves to be done when it is merged.
#[derive(Debug, Default)]
pub struct Expanded {
    /// The layer's own directories.
    pub(super) dirs: Node,
    /// What it removes from lower layers.
    pub(super) whiteouts: Vec<Vec<u8>>,
    /// Directories in which nothing of lower layers remains.
    pub(super) opaque: Vec<Vec<u8>>,
    /// Directories that its links led out of by `..`, and that must not be links of lower layers.
    pub(super) left: BTreeSet<Vec<u8>>,
    /// Hard links to what is not in this layer, in the archive's order.
    pub(super) links: Vec<Link>,
    summary: Summary,
}

/// A hard link that waits for its target. It is in force while the node of its directory in
/// [`Expanded::dirs`] lists it: a later entry may have taken its place.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) dir: Vec<u8>,
    pub(super) base: Vec<u8>,
    /// The target's directory, as far as this layer knows, and its name in there.
    pub(super) target_dir: Vec<u8>,
    pub(super) target_base: Vec<u8>,
}

impl Expanded {
    /// What the layer holds.
    pub fn summary(&self) -> Summary {
        self.summary
    }
}

/// Expands a layer into `staging`, an empty directory.
///
/// The stream is read to its end, whatever follows the archive in it.
pub fn expand(
    stream: impl BufRead,
    staging: BorrowedFd<'_>,
    limits: &Limits,
) -> Result<Expanded, Error> {
    let mut reader = Reader::new(stream, limits);
    let mut writer = Writer::new(staging, *limits)?;
    while let Some(entry) = reader.next()? {
        writer.take(&entry, &mut reader)?;
    }
    reader.finish()?;
    Ok(writer.layer)
}

struct Writer<'a> {
    root: BorrowedFd<'a>,
    limits: Limits,
    layer: Expanded,
    /// Mode bits that the umask hides from new files.
    hidden: u32,
    /// The directory of the last entry: four out of five entries are in the same.
    last: Option<Rc<Parent>>,
}

/// A directory to put entries in.
struct Parent {
    /// Its canonical path.
    path: Vec<u8>,
    fd: OwnedFd,
}

/// An entry on its way to its place.
struct Target<'a> {
    entry: &'a Entry,
    parent: Rc<Parent>,
    base: &'a [u8],
}

impl Target<'_> {
    fn failed<E: Into<io::Error>>(&self, op: &'static str) -> impl FnOnce(E) -> Error {
        failed(op, &self.entry.name)
    }

    fn refused(&self, problem: &'static str) -> Error {
        refused(&self.entry.name, problem)
    }
}

fn refused(entry: &[u8], problem: &'static str) -> Error {
    Error::Refused { entry: Name::new(entry), problem }
}

/// What a name in a layer stands for (image-spec, layer.md, "Whiteouts").
enum Meaning<'a> {
    Entry,
    Whiteout(&'a [u8]),
    Opaque,
    /// Bookkeeping of aufs.
    Ignored,
}

fn meaning(path: &[u8]) -> Meaning<'_> {
    const OPAQUE: &[u8] = b".wh..wh..opq";
    let (_, base) = name::split(path);
    if base == OPAQUE {
        return Meaning::Opaque;
    }
    if name::components(path).any(|component| component.starts_with(b".wh..wh.")) {
        return Meaning::Ignored;
    }
    base.strip_prefix(b".wh.").map_or(Meaning::Entry, Meaning::Whiteout)
}

impl<'a> Writer<'a> {
    fn new(root: BorrowedFd<'a>, limits: Limits) -> Result<Writer<'a>, Error> {
        let hidden = hidden_bits(root).map_err(failed("write to", b""))?;
        Ok(Writer { root, limits, layer: Expanded::default(), hidden, last: None })
    }

    fn take(&mut self, entry: &Entry, data: &mut Reader<impl BufRead>) -> Result<(), Error> {
        let path = name::clean(&entry.name);
        let (dir, base) = name::split(&path);
        match meaning(&path) {
            Meaning::Entry => {}
            Meaning::Ignored => return Ok(()),
            Meaning::Opaque => {
                let dir = self.imagine(dir, entry)?;
                self.layer.opaque.extend(dir);
                return self.count(entry, |_| {});
            }
            // `.wh...` would remove the directory above (SECURITY R8).
            Meaning::Whiteout(b"" | b"." | b"..") => {
                return Err(refused(&entry.name, "a whiteout of no name"));
            }
            Meaning::Whiteout(base) => {
                let dir = self.imagine(dir, entry)?;
                self.layer.whiteouts.extend(dir.map(|dir| name::join(&dir, base)));
                return self.count(entry, |_| {});
            }
        }
        match entry.kind {
            Kind::Device | Kind::Other => return self.count(entry, |summary| summary.skipped += 1),
            _ => {}
        }
        if base.is_empty() {
            return self.root_entry(entry);
        }
        let parent = self.parent(dir, entry)?;
        let target = Target { entry, parent, base };
        // Whatever waits for its target under this name gives way.
        if !self.layer.links.is_empty() {
            self.layer.dirs.at_mut(&target.parent.path).links.remove(base);
        }
        match entry.kind {
            Kind::File => self.file(&target, data),
            Kind::Directory => self.directory(&target),
            Kind::Symlink => self.symlink(&target),
            Kind::HardLink => self.hard_link(&target),
            _ => self.fifo(&target),
        }
    }

    /// The root must stay the directory that it is (CVE-2021-29136); an entry may only describe it.
    fn root_entry(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind != Kind::Directory {
            return Err(refused(&entry.name, "the root must be a directory"));
        }
        self.last = None;
        let root = self.root;
        self.describe(entry, &[], || open_child(root, b".", OFlag::O_RDONLY))?;
        self.count(entry, |summary| summary.directories += 1)
    }

    fn file(&mut self, target: &Target<'_>, data: &mut Reader<impl BufRead>) -> Result<(), Error> {
        let entry = target.entry;
        self.count(entry, |summary| summary.files += 1)?;
        // Setting attributes takes the right to write; the kernel takes the set-ID bits from a
        // file that is written to; the umask took what it hides.
        let mode = if entry.xattrs.is_empty() { entry.mode & 0o777 } else { 0o600 };
        let late = mode != entry.mode || mode & self.hidden != 0;
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let fd = self.make(target, "create", |dir, base| openat(dir, base, flags, bits(mode)))?;

        match &entry.sparse {
            None => copy(data, entry.size, &fd, target)?,
            Some(sparse) => {
                for extent in &sparse.extents {
                    lseek(&fd, extent.offset.cast_signed(), Whence::SeekSet)
                        .map_err(target.failed("write"))?;
                    copy(data, extent.length, &fd, target)?;
                }
                ftruncate(&fd, sparse.size.cast_signed()).map_err(target.failed("write"))?;
            }
        }
        self.layer.summary.bytes += entry.size;
        self.set_xattrs(entry, &fd)?;
        if late {
            fchmod(&fd, bits(entry.mode)).map_err(target.failed("set mode of"))?;
        }
        futimens(&fd, &TimeSpec::UTIME_OMIT, &entry.mtime).map_err(target.failed("set time of"))?;
        // Network file systems tell only now that the quota is spent.
        close(fd).map_err(target.failed("write"))
    }

    fn directory(&mut self, target: &Target<'_>) -> Result<(), Error> {
        self.count(target.entry, |summary| summary.directories += 1)?;
        let (dir, base) = (&target.parent.fd, target.base);
        let mode = bits(target.entry.mode & 0o777 | 0o700);
        match mkdirat(dir, base, mode) {
            Ok(()) => {}
            // It keeps what this layer put into it already.
            Err(Errno::EEXIST) if is_directory(dir.as_fd(), base) => {}
            Err(Errno::EEXIST) => {
                self.clear(target)?;
                mkdirat(dir, base, mode).map_err(target.failed("create"))?;
            }
            Err(error) => return Err(target.failed("create")(error)),
        }
        let path = name::join(&target.parent.path, base);
        self.describe(target.entry, &path, || open_child(dir.as_fd(), base, OFlag::O_RDONLY))
    }

    /// Notes a directory's metadata; what it brings of attributes is set at once.
    fn describe(
        &mut self,
        entry: &Entry,
        path: &[u8],
        open: impl FnOnce() -> Result<OwnedFd, Errno>,
    ) -> Result<(), Error> {
        let mut xattrs = Xattrs::None;
        let again = self.layer.dirs.has_xattrs(path);
        if again || !entry.xattrs.is_empty() {
            let fd = open().map_err(failed("open", &entry.name))?;
            if again {
                clear_xattrs(&fd).map_err(failed("remove attributes of", &entry.name))?;
            }
            xattrs = self.set_xattrs(entry, &fd)?;
        }
        let order = self.layer.summary.entries();
        let meta = Meta { mode: entry.mode, mtime: entry.mtime, order, xattrs };
        self.layer.dirs.at_mut(path).meta = Some(meta);
        Ok(())
    }

    fn symlink(&mut self, target: &Target<'_>) -> Result<(), Error> {
        let entry = target.entry;
        self.count(entry, |summary| summary.symlinks += 1)?;
        self.drop_xattrs(entry);
        let to = name::os(&entry.link);
        self.make(target, "create link", |dir, base| symlinkat(to, dir, base))?;
        set_time(target)
    }

    fn fifo(&mut self, target: &Target<'_>) -> Result<(), Error> {
        let entry = target.entry;
        self.count(entry, |summary| summary.files += 1)?;
        self.drop_xattrs(entry);
        let mode = bits(entry.mode & 0o777);
        self.make(target, "create fifo", |dir, base| mkfifoat(dir, base, mode))?;
        if entry.mode & (self.hidden | 0o7000) != 0 {
            // By name, since opening it would wait; but it is the one that was just made, in a
            // tree that is this process's alone.
            let (dir, base) = (&target.parent.fd, target.base);
            fchmodat(dir, base, bits(entry.mode), FchmodatFlags::FollowSymlink)
                .map_err(target.failed("set mode of"))?;
        }
        set_time(target)
    }

    fn hard_link(&mut self, target: &Target<'_>) -> Result<(), Error> {
        self.count(target.entry, |summary| summary.hard_links += 1)?;
        let to = name::clean(&target.entry.link);
        let (to_dir, to_base) = name::split(&to);
        if to_base.is_empty() {
            return Err(target.refused("a hard link to the root"));
        }
        let place = match resolve(self.root, to_dir, Missing::Imagine) {
            Err(Errno::ENOTDIR) => return Err(target.refused(NO_TARGET)),
            other => other.map_err(unreachable(&target.entry.name))?,
        };
        self.note_left(place.left, target.entry)?;
        let at = name::join(&target.parent.path, target.base);
        let to_itself = name::join(&place.path, to_base) == at;
        if let Some(to_fd) = place.fd {
            match kind(to_fd.as_fd(), to_base) {
                // A directory that nobody declared may stand for a link of a lower layer.
                Ok(SFlag::S_IFDIR) if !self.is_explicit(&place.path, to_base) => {}
                Ok(SFlag::S_IFDIR) => return Err(target.refused("a hard link to a directory")),
                Ok(_) if to_itself => return Ok(()),
                // It would take the place of the directory that its target lies in.
                Ok(_) if name::is_within(&place.path, &at) => return Err(target.refused(NO_TARGET)),
                Ok(_) => {
                    let link = |dir: BorrowedFd<'_>, base: &[u8]| {
                        linkat(&to_fd, to_base, dir, base, AtFlags::empty())
                    };
                    return self.make(target, "link", link);
                }
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(target.failed("link")(error)),
            }
        }
        self.defer(target, place.path, to_base)
    }

    fn is_explicit(&self, dir: &[u8], base: &[u8]) -> bool {
        self.layer.dirs.at(&name::join(dir, base)).is_some_and(Node::is_explicit)
    }

    /// Leaves a hard link to the merge: only there its target can be.
    fn defer(&mut self, target: &Target<'_>, to_dir: Vec<u8>, to: &[u8]) -> Result<(), Error> {
        self.clear(target)?;
        let layer = &mut self.layer;
        let mut link = Link {
            dir: target.parent.path.clone(),
            base: target.base.to_vec(),
            target_dir: to_dir,
            target_base: to.to_vec(),
        };
        // A link to a link that waits too waits for the same.
        let waiting = layer.dirs.at(&link.target_dir).and_then(|node| node.links.get(to));
        if let Some(first) = waiting.and_then(|index| layer.links.get(*index)) {
            link.target_dir.clone_from(&first.target_dir);
            link.target_base.clone_from(&first.target_base);
        }
        let node = layer.dirs.at_mut(&link.dir);
        node.links.insert(link.base.as_slice().into(), layer.links.len());
        layer.links.push(link);
        Ok(())
    }

    /// Makes something new under the target's name, in place of whatever is there.
    fn make<T>(
        &mut self,
        target: &Target<'_>,
        op: &'static str,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> nix::Result<T>,
    ) -> Result<T, Error> {
        let dir = target.parent.fd.as_fd();
        let mut result = make(dir, target.base);
        if matches!(result, Err(Errno::EEXIST)) {
            self.clear(target)?;
            result = make(dir, target.base);
        }
        result.map_err(target.failed(op))
    }

    /// Removes what this layer put under the target's name before.
    fn clear(&mut self, target: &Target<'_>) -> Result<(), Error> {
        let (dir, base) = (target.parent.fd.as_fd(), target.base);
        match unlinkat(dir, base, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => return Ok(()),
            Ok(()) => {}
            Err(_) => {
                remove_tree(dir, name::os(base)).map_err(target.failed("replace"))?;
                self.layer.dirs.remove(&name::join(&target.parent.path, base));
            }
        }
        // A path that is known may have led through it (SECURITY R3).
        self.last = None;
        Ok(())
    }

    /// The directory that an entry belongs in, made if it is missing.
    fn parent(&mut self, dir: &[u8], entry: &Entry) -> Result<Rc<Parent>, Error> {
        if let Some(last) = &self.last
            && last.path == dir
        {
            return Ok(Rc::clone(last));
        }
        let made = Cell::new(0);
        let room = self.limits.entries.saturating_sub(self.layer.summary.entries());
        let may = |_: &[u8]| {
            made.set(made.get() + 1);
            made.get() <= room
        };
        let place = match resolve(self.root, dir, Missing::Create(&may)) {
            Err(Errno::E2BIG) => return Err(self.too_many(entry)),
            other => other.map_err(unreachable(&entry.name))?,
        };
        self.layer.summary.directories += made.get();
        self.note_left(place.left, entry)?;
        let fd = place.fd.ok_or(Errno::ENOENT).map_err(unreachable(&entry.name))?;
        let parent = Rc::new(Parent { path: place.path, fd });
        // Not by way of links: what they lead through may change without a look at this.
        self.last = (parent.path == dir).then(|| Rc::clone(&parent));
        Ok(parent)
    }

    /// The canonical path of a directory of which this layer may know only a part. None: this
    /// layer has something else in its place, so nothing of lower layers remains there.
    fn imagine(&mut self, dir: &[u8], entry: &Entry) -> Result<Option<Vec<u8>>, Error> {
        match resolve(self.root, dir, Missing::Imagine) {
            Ok(place) => {
                self.note_left(place.left, entry)?;
                Ok(Some(place.path))
            }
            Err(Errno::ENOTDIR) => Ok(None),
            Err(error) => Err(unreachable(&entry.name)(error)),
        }
    }

    /// Such directories cost memory, so they count as entries.
    fn note_left(&mut self, left: Vec<Vec<u8>>, entry: &Entry) -> Result<(), Error> {
        if left.is_empty() {
            return Ok(());
        }
        self.layer.left.extend(left);
        self.count(entry, |_| {})
    }

    fn count(&mut self, entry: &Entry, add: impl FnOnce(&mut Summary)) -> Result<(), Error> {
        add(&mut self.layer.summary);
        let layer = &self.layer;
        let other = layer.whiteouts.len() + layer.opaque.len() + layer.left.len();
        if self.layer.summary.entries() + other as u64 > self.limits.entries {
            return Err(self.too_many(entry));
        }
        Ok(())
    }

    fn too_many(&self, entry: &Entry) -> Error {
        let (entry, limit) = (Name::new(&entry.name), self.limits.entries);
        Error::TooMany { entry, limit }
    }

    fn drop_xattrs(&mut self, entry: &Entry) {
        self.layer.summary.dropped_xattrs += entry.xattrs.len() as u64;
    }

    /// Sets the attributes that may be set and that the file system takes; counts the others.
    fn set_xattrs(&mut self, entry: &Entry, fd: &OwnedFd) -> Result<Xattrs, Error> {
        let mut set = Xattrs::None;
        for (name, value) in &entry.xattrs {
            let result = match CString::new(name.as_slice()) {
                Ok(name) if is_allowed(name.as_bytes()) => fsetxattr(fd, &name, value),
                _ => Err(Errno::EPERM.into()),
            };
            match result {
                Ok(()) => set = Xattrs::Some,
                Err(error) if is_refusal(&error) => self.layer.summary.dropped_xattrs += 1,
                Err(error) => return Err(failed("set attribute of", &entry.name)(error)),
            }
        }
        Ok(set)
    }
}

/// Writes the next bytes of an entry's data to where the file is.
fn copy(
    data: &mut Reader<impl BufRead>,
    mut bytes: u64,
    file: &OwnedFd,
    target: &Target<'_>,
) -> Result<(), Error> {
    while bytes > 0 {
        let ready = data.data()?;
        let ready = &ready[..ready.len().min(usize::try_from(bytes).unwrap_or(usize::MAX))];
        match write(file, ready) {
            Ok(count) => {
                data.consume(count);
                bytes -= count as u64;
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(target.failed("write")(error)),
        }
    }
    Ok(())
}

/// `user.*`, but nothing that overlayfs takes for its own (SECURITY R7).
pub(super) fn is_allowed(xattr: &[u8]) -> bool {
    xattr.starts_with(b"user.")
        && !xattr.starts_with(b"user.overlay.")
        && !xattr.starts_with(b"user.fuseoverlayfs.")
}

/// Removes what [`is_allowed`] lets an entry set: another takes its place.
pub(super) fn clear_xattrs(fd: &OwnedFd) -> io::Result<()> {
    for name in flistxattr(fd)?.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if is_allowed(name.to_bytes()) {
            fremovexattr(fd, name)?;
        }
    }
    Ok(())
}

/// Answers that mean "not this attribute here": unsupported, or too large for where the file
/// system keeps them.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    use libc::{E2BIG, ENOSPC, EOPNOTSUPP, EPERM, ERANGE};
    matches!(error.raw_os_error(), Some(EOPNOTSUPP | EPERM | E2BIG | ENOSPC | ERANGE))
}

/// A link's own time, or a fifo's: neither can be opened.
fn set_time(target: &Target<'_>) -> Result<(), Error> {
    let (dir, base, flag) = (&target.parent.fd, target.base, UtimensatFlags::NoFollowSymlink);
    utimensat(dir, base, &TimeSpec::UTIME_OMIT, &target.entry.mtime, flag)
        .map_err(target.failed("set time of"))
}

/// What lies under a name, without following it.
pub(super) fn kind(dir: BorrowedFd<'_>, base: &[u8]) -> nix::Result<SFlag> {
    let stat = fstatat(dir, base, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT)
}

fn is_directory(dir: BorrowedFd<'_>, base: &[u8]) -> bool {
    kind(dir, base) == Ok(SFlag::S_IFDIR)
}

fn bits(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode)
}

/// Which mode bits a new file does not get. Asking for the umask changes it, for all threads; and
/// a directory's default ACL hides bits as well. So a file is made and looked at.
fn hidden_bits(dir: BorrowedFd<'_>) -> nix::Result<u32> {
    const PROBE: &[u8] = b".umask";
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let fd = openat(dir, PROBE, flags, bits(0o777))?;
    let mode = fstat(&fd)?.st_mode;
    unlinkat(dir, PROBE, UnlinkatFlags::NoRemoveDir)?;
    Ok(!mode & 0o777)
}
