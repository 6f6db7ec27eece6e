//! The MPIs of an image: their libraries, wherever its programs may find them.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use super::{NAMES, Name, closure::DEFAULT_DIRS, symbols::Symbols};
use crate::inject::{
    apply::{CACHE, MAX_CACHE, Tree},
    elf::Library,
    ldcache::Cache,
};

/// A library of an MPI in an image.
#[derive(Debug)]
pub(super) struct Copy {
    /// By which name programs ask for it, and what it is.
    pub(super) name: &'static Name,
    /// The file, links followed, inside.
    pub(super) path: PathBuf,
    /// For which machine.
    pub(super) flags: i32,
}

/// Where an image's linker looks.
pub(super) struct Image<'a> {
    tree: &'a Tree<'a>,
    cache: Cache,
    /// In order, those of its `LD_LIBRARY_PATH` first.
    dirs: Vec<PathBuf>,
}

impl<'a> Image<'a> {
    /// `library_path` is the image's variable; `search` are further directories, with `*` for a name.
    pub(super) fn new(tree: &'a Tree<'a>, library_path: &str) -> Image<'a> {
        let cache = tree.read(CACHE, MAX_CACHE).and_then(|file| Cache::parse(&file));
        let own = library_path.split(':').filter(|dir| dir.starts_with('/')).map(PathBuf::from);
        let dirs = own.chain(DEFAULT_DIRS.map(PathBuf::from)).collect();
        Image { tree, cache: cache.unwrap_or_default(), dirs }
    }

    /// All libraries of MPIs in it, each file once for each name that it has. Those come first that
    /// the linker finds.
    pub(super) fn copies(&self, search: &[String]) -> Vec<Copy> {
        let named = |soname: &OsStr| NAMES.iter().find(|name| name.soname == soname);
        let cached = self.cache.entries().iter();
        let cached = cached.filter_map(|entry| Some((named(&entry.name)?, entry.path.clone())));
        let searched = search.iter().flat_map(|pattern| self.expand(pattern));
        let dirs = self.dirs.iter().cloned().chain(searched);
        let in_dirs =
            dirs.flat_map(|dir| NAMES.iter().map(move |name| (name, dir.join(name.soname))));
        let mut seen = BTreeSet::new();
        let mut copies = Vec::new();
        for (name, path) in cached.chain(in_dirs) {
            let Some((path, library)) = self.open(&path) else { continue };
            if seen.insert((name.soname, path.clone())) {
                copies.push(Copy { name, path, flags: library.flags });
            }
        }
        copies
    }

    /// What the image's programs get that ask for a library by name, the directories of their own
    /// `RUNPATH` left out.
    pub(super) fn find(&self, name: &str, flags: i32) -> Option<PathBuf> {
        let cached = self.cache.find(name.as_ref(), flags).map(Path::to_path_buf);
        let dirs = self.dirs.iter().map(|dir| dir.join(name));
        cached.into_iter().chain(dirs).find_map(|path| {
            let (path, library) = self.open(&path)?;
            (library.flags == flags).then_some(path)
        })
    }

    /// The symbols of a library in the image.
    pub(super) fn symbols(&self, path: &Path) -> Option<Symbols> {
        Symbols::read(self.tree.file(path)?)
    }

    /// What a library in the image says of itself.
    pub(super) fn library(&self, path: &Path) -> Option<Library> {
        Library::read(self.tree.file(path)?)
    }

    /// Whether there is something of this name.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.tree.real(path).is_some()
    }

    fn open(&self, path: &Path) -> Option<(PathBuf, Library)> {
        let path = self.tree.real(path)?;
        let library = Library::read(self.tree.file(&path)?)?;
        Some((path, library))
    }

    /// The directories that a pattern means: `*` in a name stands for any part of one.
    fn expand(&self, pattern: &str) -> Vec<PathBuf> {
        let mut dirs = vec![PathBuf::from("/")];
        for part in Path::new(pattern).components() {
            let Component::Normal(part) = part else { continue };
            let Some((before, after)) = part.to_str().and_then(|part| part.split_once('*')) else {
                dirs.iter_mut().for_each(|dir| dir.push(part));
                continue;
            };
            let fits = |name: &OsString| {
                let name = name.as_bytes();
                name.len() >= before.len() + after.len()
                    && name.starts_with(before.as_bytes())
                    && name.ends_with(after.as_bytes())
                    && (before.is_empty() <= !name.starts_with(b"."))
            };
            let below = |dir: PathBuf| {
                let names = self.tree.list(&dir.to_string_lossy());
                names.into_iter().filter(fits).map(move |name| dir.join(name)).collect::<Vec<_>>()
            };
            dirs = dirs.into_iter().flat_map(below).collect();
        }
        dirs
    }
}
