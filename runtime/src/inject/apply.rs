//! What edits mean for one image: what its linker has to be told.
//!
//! Images are of any distribution, and drivers lie where the host has them: `/usr/lib64` is no
//! directory that Debian's linker searches. Nothing is run to tell it: a new `ld.so.cache` is made
//! from the image's ([`super::ldcache`]).

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Seek as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::OFlag,
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::Mode,
    },
};

use super::{
    Bind, Edits, Link,
    elf::Library,
    ldcache::{Cache, Entry},
};
use crate::{
    squashfs::{Kind, Squashfs},
    sys::{beneath, mount::proc_path},
};

pub(super) const CACHE: &str = "/etc/ld.so.cache";
/// What `ldconfig` reads when a package manager runs it inside: the cache is then made anew.
const CONFIG_DIR: &str = "/etc/ld.so.conf.d";
/// The first in it, by name.
const CONFIG: &str = "/etc/ld.so.conf.d/000-shifter.conf";
/// The largest cache that is read from an image, in bytes.
pub(super) const MAX_CACHE: u64 = 16 << 20;
/// The largest library that is read from an image that is one file, in bytes.
const MAX_LIBRARY: u64 = 128 << 20;
/// Where images of NVIDIA's have a libcuda for drivers that are older than it.
const COMPAT_DIR: &str = "/usr/local/cuda/compat";

/// The tree of an image, the layers that were written later first. It is somebody else's: what is
/// read of it is data, and found beneath its root (SECURITY R18).
pub(crate) struct Tree<'a> {
    dirs: Vec<&'a File>,
    /// The image, where it is one file and not mounted yet.
    packed: Option<&'a Squashfs>,
}

impl<'a> Tree<'a> {
    /// Of these directories, one over the other.
    pub(crate) fn of(dirs: impl IntoIterator<Item = &'a File>) -> Tree<'a> {
        Tree { dirs: dirs.into_iter().collect(), packed: None }
    }

    /// Of an image that is one file.
    pub(crate) fn packed(image: &'a Squashfs) -> Tree<'a> {
        Tree { dirs: Vec::new(), packed: Some(image) }
    }

    fn open(&self, path: &Path, flags: OFlag) -> Option<OwnedFd> {
        let open = |root: &&File| beneath::open(root.as_fd(), path, flags, Mode::empty()).ok();
        self.dirs.iter().find_map(open)
    }

    /// A regular file; a fifo would wait for ever.
    pub(super) fn file(&self, path: &Path) -> Option<File> {
        if let Some(image) = self.packed {
            return unpacked(image, path).ok();
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::from(self.open(path, flags)?);
        file.metadata().ok()?.is_file().then_some(file)
    }

    pub(super) fn read(&self, path: &str, limit: u64) -> Option<Vec<u8>> {
        let file = self.file(Path::new(path))?;
        let mut content = Vec::new();
        file.take(limit).read_to_end(&mut content).ok()?;
        Some(content)
    }

    /// Names in a directory; none if there is none.
    pub(super) fn list(&self, dir: &str) -> BTreeSet<OsString> {
        if let Some(image) = self.packed {
            return image.list(Path::new(dir)).unwrap_or_default().into_iter().collect();
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let open =
            |root: &&File| beneath::open(root.as_fd(), Path::new(dir), flags, Mode::empty()).ok();
        let dirs = self.dirs.iter().filter_map(open);
        let entries = dirs.filter_map(|dir| fs::read_dir(proc_path(dir.as_fd())).ok());
        entries.flatten().flatten().map(|entry| entry.file_name()).collect()
    }

    /// The path of what is at `path` when its links are followed; `None` if there is nothing.
    pub(super) fn real(&self, path: &Path) -> Option<PathBuf> {
        if let Some(image) = self.packed {
            return image.real(path).ok()?;
        }
        self.dirs.iter().find_map(|root| {
            let found = beneath::open(root.as_fd(), path, OFlag::O_PATH, Mode::empty()).ok()?;
            let at = |fd: BorrowedFd<'_>| fs::read_link(proc_path(fd)).ok();
            let within = at(found.as_fd())?.strip_prefix(at(root.as_fd())?).ok()?.to_path_buf();
            Some(Path::new("/").join(within))
        })
    }

    fn has_dir(&self, path: &str) -> bool {
        if let Some(image) = self.packed {
            let kind = image.kind(Path::new(path));
            return matches!(kind, Ok(Some(Kind::Directory | Kind::EmptyDirectory)));
        }
        self.open(Path::new(path), OFlag::O_PATH | OFlag::O_DIRECTORY).is_some()
    }

    /// Whether the image's linker is musl's: it knows no cache.
    fn is_musl(&self) -> bool {
        let mut names: Vec<_> = ["/lib", "/lib64"].iter().flat_map(|dir| self.list(dir)).collect();
        names.retain(|name| name.as_bytes().starts_with(b"ld"));
        let begins = |with: &str| names.iter().any(|n| n.as_bytes().starts_with(with.as_bytes()));
        begins("ld-musl-") && !begins("ld-linux") && !begins("ld64.so")
    }
}

/// A regular file of an image that is one file, copied to memory. Libraries are the largest.
fn unpacked(image: &Squashfs, path: &Path) -> io::Result<File> {
    let content = image.read(path, MAX_LIBRARY)?;
    if content.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut file = File::from(memfd_create(c"unpacked", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&content)?;
    file.rewind()?;
    Ok(file)
}

/// What is added to a plan besides the edits' own mounts and devices.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
    pub(crate) links: Vec<Link>,
    /// What goes before the image's `LD_LIBRARY_PATH`.
    pub(crate) library_path: Vec<PathBuf>,
    /// The version of the libcuda that programs load, where there is one of a driver's.
    pub(crate) libcuda: Option<String>,
    pub(crate) warnings: Vec<String>,
}

/// Makes the edits' libraries known to the programs of this image.
pub(crate) fn apply(edits: &Edits, tree: &Tree<'_>) -> Applied {
    let mut applied = Applied { links: edits.symlinks.clone(), ..Applied::default() };
    let mut entries = Vec::new();
    if let Some(version) = &edits.cuda_compat {
        let own = compat(version, tree);
        applied.libcuda = Some(own.as_ref().map_or(version, |(own, _)| own).clone());
        entries.extend(own.into_iter().flat_map(|(_, entries)| entries));
    }
    let has_compat = !entries.is_empty();
    for dir in &edits.ld_dirs {
        for mount in &edits.mounts {
            let (found, links) = libraries(mount, dir);
            entries.extend(found);
            applied.links.extend(links);
        }
    }
    let is_mounted = |link: &Link| edits.mounts.iter().any(|mount| mount.target == link.path);
    let mut seen = BTreeSet::new();
    applied.links.retain(|link| !is_mounted(link) && seen.insert(link.path.clone()));
    if entries.is_empty() {
        return applied;
    }
    let compat = has_compat.then(|| PathBuf::from(COMPAT_DIR));
    let dirs: Vec<PathBuf> = compat.into_iter().chain(edits.ld_dirs.clone()).collect();
    if tree.is_musl() {
        applied.library_path = dirs;
        applied.warnings.push(
            "the image's C library is musl, which the driver's libraries are not made for; \
             use an image with glibc"
                .to_owned(),
        );
        return applied;
    }
    let mut cache = tree.read(CACHE, MAX_CACHE).and_then(|file| Cache::parse(&file));
    let cache = cache.get_or_insert_default();
    cache.put(entries);
    applied.files.push((CACHE.into(), cache.to_bytes()));
    if tree.has_dir(CONFIG_DIR) {
        let mut config = Vec::new();
        for dir in &dirs {
            config.extend(dir.as_os_str().as_bytes());
            config.push(b'\n');
        }
        applied.files.push((CONFIG.into(), config));
    }
    applied
}

/// The libraries that a mount brings into a directory, and links by which they are asked for.
fn libraries(mount: &Bind, dir: &Path) -> (Vec<Entry>, Vec<Link>) {
    let (mut entries, mut links) = (Vec::new(), Vec::new());
    if mount.target.parent() == Some(dir) {
        let Some(name) = mount.target.file_name().filter(|name| is_library(name)) else {
            return (entries, links);
        };
        let Some(library) = Library::open(&mount.source) else { return (entries, links) };
        let soname = library.soname.map_or_else(|| name.to_owned(), OsString::from);
        let path = dir.join(&soname);
        if soname != name && !soname.as_bytes().contains(&b'/') {
            links.push(Link { path: path.clone(), target: name.into() });
        }
        entries.push(Entry { name: soname, path, flags: library.flags, hwcap: 0 });
        return (entries, links);
    }
    // A directory of the host is as it is: no links are made there.
    let Ok(within) = dir.strip_prefix(&mount.target) else { return (entries, links) };
    let mut names: Vec<OsString> = match fs::read_dir(mount.source.join(within)) {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect(),
        Err(_) => return (entries, links),
    };
    names.sort();
    for name in names.into_iter().filter(|name| is_library(name)) {
        let Some(library) = Library::open(&mount.source.join(within).join(&name)) else { continue };
        let soname = library.soname.map_or_else(|| name.clone(), OsString::from);
        let path = dir.join(name);
        entries.push(Entry { name: soname, path, flags: library.flags, hwcap: 0 });
    }
    (entries, links)
}

/// `lib*.so*`, as `ldconfig` wants it.
fn is_library(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"lib") && name.windows(3).any(|part| part == b".so")
}

/// The image's own libcuda and its kin, if they are newer than the host's driver and can work with it
/// ([CUDA Compatibility](https://docs.nvidia.com/deploy/cuda-compatibility/)). They say so
/// themselves, or their version does, which comes along.
fn compat(host: &str, tree: &Tree<'_>) -> Option<(String, Vec<Entry>)> {
    let major = |version: &str| version.split('.').next().and_then(|n| n.parse::<u32>().ok());
    let host = major(host)?;
    let names = tree.list(COMPAT_DIR);
    let version = |name: &OsString| {
        let version = name.to_str()?.strip_prefix("libcuda.so.")?;
        version.contains('.').then(|| Some((version.to_owned(), major(version)?)))?
    };
    let (libcuda, (version, own)) = names.iter().find_map(|name| Some((name, version(name)?)))?;
    let read = |name: &OsString| Library::read(tree.file(&Path::new(COMPAT_DIR).join(name))?);
    let fits = match read(libcuda)?.drivers.as_slice() {
        [] => own > host,
        drivers => drivers.contains(&host),
    };
    if !fits {
        return None;
    }
    let entry = |name: &OsString| {
        let library = read(name)?;
        let soname = OsString::from(library.soname?);
        let file = if names.contains(&soname) { &soname } else { name };
        let path = Path::new(COMPAT_DIR).join(file);
        Some(Entry { name: soname, path, flags: library.flags, hwcap: 0 })
    };
    let libraries = names.iter().filter(|name| is_library(name));
    let entries: Vec<_> = libraries.filter_map(entry).collect();
    (!entries.is_empty()).then_some((version, entries))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::options::Access;

    /// The C library that this test runs with: a real library with a name of its own.
    fn libc() -> Option<PathBuf> {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.split_whitespace().find(|word| word.contains("/libc.so.6")).map(PathBuf::from)
    }

    fn image() -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["etc/ld.so.conf.d", "lib", "lib64", "usr/local/cuda-12/compat"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let root = File::open(dir.path()).unwrap();
        (dir, root)
    }

    fn edits(source: &Path) -> Edits {
        let target = "/drv/libthere.so.1.2".into();
        Edits {
            mounts: vec![Bind { source: source.into(), target, access: Access::ReadOnly }],
            ld_dirs: vec!["/drv".into()],
            ..Edits::default()
        }
    }

    fn cache(applied: &Applied) -> Cache {
        let file = applied.files.iter().find(|(path, _)| path == Path::new(CACHE)).unwrap();
        Cache::parse(&file.1).unwrap()
    }

    #[test]
    fn a_library_is_found_by_the_name_that_it_gives_itself() {
        let Some(libc) = libc() else { return };
        let (dir, root) = image();
        let applied = apply(&edits(&libc), &Tree::of([&root]));
        let link = Link { path: "/drv/libc.so.6".into(), target: "libthere.so.1.2".into() };
        assert_eq!(applied.links, [link]);
        let entries = cache(&applied).entries().to_vec();
        assert_eq!(entries[0].path, Path::new("/drv/libc.so.6"));
        assert_eq!(applied.files[1], (CONFIG.into(), b"/drv\n".to_vec()));
        // The image's own entries stay; a fifo in their place is none, and does not wait.
        let mut own = Cache::default();
        own.put([Entry { name: "libown.so".into(), path: "/own".into(), flags: 3, hwcap: 0 }]);
        fs::write(dir.path().join("etc/ld.so.cache"), own.to_bytes()).unwrap();
        let applied = apply(&edits(&libc), &Tree::of([&root]));
        assert_eq!(cache(&applied).entries().len(), 2);
        fs::remove_file(dir.path().join("etc/ld.so.cache")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("etc/ld.so.cache"), Mode::S_IRWXU).unwrap();
        let applied = apply(&edits(&libc), &Tree::of([&root]));
        assert_eq!(cache(&applied).entries().len(), 1);
    }

    #[test]
    fn an_image_that_is_one_file_is_told_the_same() {
        let Some(libc) = libc() else { return };
        let (dir, root) = image();
        let mut own = Cache::default();
        own.put([Entry { name: "libown.so".into(), path: "/own".into(), flags: 3, hwcap: 0 }]);
        fs::write(dir.path().join("etc/ld.so.cache"), own.to_bytes()).unwrap();
        fs::copy(&libc, dir.path().join("usr/local/cuda-12/compat/libcuda.so.550.54")).unwrap();
        symlink("cuda-12", dir.path().join("usr/local/cuda")).unwrap();
        let copy = |tree: &Path| {
            let mut copy = std::process::Command::new("cp");
            copy.args(["-a", "-T"]).arg(dir.path()).arg(tree);
            assert!(copy.status().unwrap().success());
        };
        let Some((_file, packed)) = crate::squashfs::made(copy) else { return };
        let packed = Squashfs::open(&packed).unwrap();
        let (tree, packed) = (Tree::of([&root]), Tree::packed(&packed));
        let [one, other] = [&tree, &packed].map(|tree| apply(&edits(&libc), tree));
        assert_eq!(cache(&one).entries().len(), 2);
        assert_eq!((one.files, one.links), (other.files, other.links));
        let names = [&tree, &packed].map(|tree| tree.list(COMPAT_DIR));
        assert_eq!(names[0], names[1]);
        let path = Path::new(COMPAT_DIR).join("libcuda.so.550.54");
        let name = |tree: &Tree<'_>| Library::read(tree.file(&path).unwrap()).unwrap().soname;
        assert_eq!((name(&tree), name(&packed)), (Some("libc.so.6".into()), name(&tree)));
        assert!(packed.file(Path::new("/etc/none")).is_none());
    }

    #[test]
    fn a_directory_of_libraries_gets_no_links() {
        let Some(libc) = libc() else { return };
        let (_dir, root) = image();
        let host = tempfile::tempdir().unwrap();
        fs::create_dir(host.path().join("lib")).unwrap();
        fs::copy(libc, host.path().join("lib/libthere.so.1.2")).unwrap();
        fs::write(host.path().join("lib/libtext.so"), "no library").unwrap();
        let mut edits = edits(host.path());
        edits.mounts[0].target = "/drv".into();
        edits.ld_dirs = vec!["/drv/lib".into()];
        let applied = apply(&edits, &Tree::of([&root]));
        assert!(applied.links.is_empty());
        assert_eq!(cache(&applied).entries()[0].path, Path::new("/drv/lib/libthere.so.1.2"));
    }

    #[test]
    fn an_image_of_musl_is_told_by_a_variable() {
        let Some(libc) = libc() else { return };
        let (dir, root) = image();
        fs::write(dir.path().join("lib/ld-musl-x86_64.so.1"), "").unwrap();
        let applied = apply(&edits(&libc), &Tree::of([&root]));
        assert_eq!(applied.library_path, [Path::new("/drv")]);
        assert!(applied.files.is_empty() && applied.warnings[0].contains("musl"));
        fs::write(dir.path().join("lib64/ld-linux-x86-64.so.2"), "").unwrap();
        assert!(apply(&edits(&libc), &Tree::of([&root])).library_path.is_empty(), "both");
    }

    #[test]
    fn a_newer_libcuda_of_the_images_goes_before_the_drivers() {
        let Some(libc) = libc() else { return };
        let (dir, root) = image();
        symlink("/usr/local/cuda-12", dir.path().join("usr/local/cuda")).unwrap();
        let compat = dir.path().join("usr/local/cuda-12/compat");
        fs::copy(&libc, compat.join("libcuda.so.545.23.08")).unwrap();
        symlink("libcuda.so.545.23.08", compat.join("libc.so.6")).unwrap();
        let found = |host: &str| {
            let mut edits = edits(&libc);
            edits.cuda_compat = Some(host.to_owned());
            let entries = cache(&apply(&edits, &Tree::of([&root]))).entries().to_vec();
            assert_eq!(entries.len(), 1);
            entries[0].path.display().to_string()
        };
        assert_eq!(found("535.54.03"), "/usr/local/cuda/compat/libc.so.6");
        for host in ["545.1", "550.54.15", "odd"] {
            assert_eq!(found(host), "/drv/libc.so.6", "{host}");
        }
    }

    #[test]
    fn a_link_gives_way_to_a_mount() {
        let (_dir, root) = image();
        let link = |path: &str| Link { path: path.into(), target: "x".into() };
        let mut edits = edits(Path::new("/no/such"));
        edits.symlinks = vec![link("/drv/libthere.so.1.2"), link("/drv/a"), link("/drv/a")];
        assert_eq!(apply(&edits, &Tree::of([&root])).links, [link("/drv/a")]);
    }
}
