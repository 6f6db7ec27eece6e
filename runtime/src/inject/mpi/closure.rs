//! All that a library of the host's asks for, found as the host's linker finds it (ld.so(8)).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use super::Error;
use crate::inject::{elf::Library, ldcache::Cache};

const CACHE: &str = "/etc/ld.so.cache";
/// Where a linker looks at last. Debian's, by machine, are in every cache.
pub(super) const DEFAULT_DIRS: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// The C library's parts: they belong to the linker, and so to the image.
const GLIBC: [&str; 12] = [
    "ld-linux",
    "ld64.so",
    "libBrokenLocale.so",
    "libanl.so",
    "libc.so",
    "libdl.so",
    "libm.so",
    "libmvec.so",
    "libpthread.so",
    "libresolv.so",
    "librt.so",
    "libutil.so",
];
/// More than any program has.
const MAX_DEPTH: usize = 64;

/// A library of the host's.
#[derive(Debug)]
pub(super) struct Dependency {
    /// By which it is asked for.
    pub(super) name: String,
    /// Where the host's linker finds it.
    pub(super) path: PathBuf,
    /// What it says of itself.
    pub(super) library: Library,
}

/// Whether a library comes with the C library.
pub(super) fn is_glibc(name: &str) -> bool {
    GLIBC.iter().any(|part| name.starts_with(part))
}

/// The linker of where this process is: the host's, or once a container is entered, its.
pub(super) struct Linker {
    cache: Cache,
    /// `LD_LIBRARY_PATH`.
    library_path: Vec<PathBuf>,
}

impl Linker {
    pub(super) fn of_host() -> Linker {
        Linker::with_path("")
    }

    /// The same for a program with this `LD_LIBRARY_PATH`.
    pub(super) fn with_path(library_path: &str) -> Linker {
        let cache = fs::read(CACHE).ok().and_then(|file| Cache::parse(&file));
        let dirs = library_path.split([':', ';']).filter(|dir| !dir.is_empty());
        Linker { cache: cache.unwrap_or_default(), library_path: dirs.map(PathBuf::from).collect() }
    }

    /// These libraries and all that they ask for, each before those that ask for it, without the C
    /// library's.
    pub(super) fn closure(&self, stack: &str, roots: &[PathBuf]) -> Result<Vec<Dependency>, Error> {
        // Of what several of these are linked with, they are themselves what is meant.
        let mut named = BTreeMap::new();
        let mut names = Vec::new();
        for path in roots {
            let library = Library::open(path);
            let library = library.ok_or_else(|| Error::NoLibrary { path: path.clone() })?;
            let name = library.soname.clone().unwrap_or_else(|| file_name(path));
            names.push(name.clone());
            named.entry(name).or_insert((path.clone(), library));
        }
        let mut walk =
            Walk { linker: self, stack, named, seen: BTreeSet::new(), found: Vec::new() };
        for name in names {
            if walk.seen.insert(name.clone())
                && let Some((path, library)) = walk.named.get(&name).cloned()
            {
                walk.add(Dependency { name, path, library }, &mut Vec::new())?;
            }
        }
        Ok(walk.found)
    }

    /// The library of a name that any program gets.
    pub(super) fn cached(&self, name: &OsStr, flags: i32) -> Option<PathBuf> {
        let cached = self.cache.find(name, flags).map(Path::to_path_buf);
        let defaults = DEFAULT_DIRS.iter().map(|dir| Path::new(dir).join(name));
        let fits =
            |path: &PathBuf| Library::open(path).is_some_and(|library| library.flags == flags);
        cached.into_iter().chain(defaults).find(fits)
    }

    /// The library of a name, for the last of those that ask for one another (`by`).
    pub(super) fn find(
        &self,
        name: &str,
        by: &[(PathBuf, Library)],
        flags: i32,
    ) -> Option<(PathBuf, Library)> {
        let fits = |path: PathBuf| {
            let library = Library::open(&path).filter(|library| library.flags == flags)?;
            Some((path, library))
        };
        if name.contains('/') {
            return fits(name.into());
        }
        let (_, asking) = by.last()?;
        // ld.so(8): RUNPATH is for what the library itself asks for, and hides RPATH, which is for
        // all below it.
        let variable = self.library_path.iter().cloned();
        let dirs: Vec<PathBuf> = match &asking.runpath {
            Some(runpath) => {
                let own = by.last().map(|(path, _)| search_path(runpath, path));
                variable.chain(own.into_iter().flatten()).collect()
            }
            None => {
                let with_rpath = by.iter().rev().filter(|(_, library)| library.runpath.is_none());
                let paths = with_rpath.filter_map(|(path, library)| {
                    library.rpath.as_deref().map(|rpath| search_path(rpath, path))
                });
                paths.flatten().chain(variable).collect()
            }
        };
        let cached = self.cache.find(OsStr::new(name), flags).map(Path::to_path_buf);
        let defaults = DEFAULT_DIRS.iter().map(|dir| Path::new(dir).join(name));
        let all = dirs.into_iter().map(|dir| dir.join(name)).chain(cached).chain(defaults);
        all.into_iter().find_map(fits)
    }
}

/// The directories of a RUNPATH or RPATH of the library at `path`.
fn search_path(text: &str, path: &Path) -> Vec<PathBuf> {
    let origin = path.parent().unwrap_or(Path::new("/")).to_string_lossy();
    let dirs = text.split(':').filter(|dir| !dir.is_empty());
    dirs.map(|dir| dir.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin).into()).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

struct Walk<'a> {
    linker: &'a Linker,
    stack: &'a str,
    /// Libraries of the stack, by name.
    named: BTreeMap<String, (PathBuf, Library)>,
    seen: BTreeSet<String>,
    found: Vec<Dependency>,
}

impl Walk<'_> {
    fn add(
        &mut self,
        dependency: Dependency,
        above: &mut Vec<(PathBuf, Library)>,
    ) -> Result<(), Error> {
        above.push((dependency.path.clone(), dependency.library.clone()));
        for name in &dependency.library.needed {
            if is_glibc(name) || above.len() > MAX_DEPTH || !self.seen.insert(name.clone()) {
                continue;
            }
            let found = self.named.get(name).cloned();
            let found = found.or_else(|| self.linker.find(name, above, dependency.library.flags));
            let (path, library) = found.ok_or_else(|| Error::MissingLibrary {
                stack: self.stack.to_owned(),
                name: name.clone(),
                by: dependency.path.clone(),
            })?;
            self.add(Dependency { name: name.clone(), path, library }, above)?;
        }
        above.pop();
        self.found.push(dependency);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closure_is_what_the_linker_loads() {
        // What the test's own program loads, but for the C library.
        let closure = Linker::of_host().closure("x", &["/proc/self/exe".into()]).unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        for dependency in &closure[..closure.len() - 1] {
            let real = fs::canonicalize(&dependency.path).unwrap();
            assert!(maps.contains(&*real.to_string_lossy()), "{dependency:?}");
        }
        assert!(closure.iter().any(|found| found.name.starts_with("libgcc_s")), "{closure:?}");
        assert!(!closure.iter().any(|found| is_glibc(&found.name)));
    }

    #[test]
    fn a_library_that_is_named_is_the_one_that_is_used() {
        let linker = Linker::of_host();
        let own = Library::open(Path::new("/proc/self/exe")).unwrap();
        let find = |name: &str| linker.cache.find(OsStr::new(name), own.flags);
        let Some((cpp, gcc)) = find("libstdc++.so.6").zip(find("libgcc_s.so.1")) else { return };
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("libgcc_s.so.1");
        fs::copy(gcc, &other).unwrap();
        let closure = linker.closure("x", &[cpp.to_owned(), other.clone()]).unwrap();
        let paths: Vec<&Path> = closure.iter().map(|found| found.path.as_path()).collect();
        assert_eq!(paths, [&*other, cpp], "not in the order in which they are needed");
    }

    #[test]
    fn search_paths_know_their_origin() {
        let path = Path::new("/opt/a/lib/libx.so");
        let dirs = search_path("$ORIGIN/mpich:${ORIGIN}/..::/b", path);
        assert_eq!(dirs, ["/opt/a/lib/mpich", "/opt/a/lib/..", "/b"].map(PathBuf::from));
    }
}
