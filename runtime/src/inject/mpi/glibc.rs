//! The C library: the image's, or where it is too old and somebody asks for it, the host's.
//!
//! All of the container's programs run on it then, not those alone that have an MPI. glibc keeps
//! symbols for ever, so that what was linked with an older one runs with a newer; but its parts and
//! its linker must be of one build, so either all of them are the host's or none. They are mounted
//! over the image's files, whatever these are called (`libc-2.31.so`): the cache, links and
//! `PT_INTERP` of programs lead there.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
};

use super::{
    Error,
    closure::{Dependency, Linker, is_glibc},
    image::Image,
    symbols::Symbols,
};
use crate::{
    inject::{Bind, Edits, Injection, Plain, elf::Library},
    options::Access,
};

const LIBC: &str = "libc.so.6";
/// What a C library consists of, if it has all of it. What is opened at run time (libnss_*) is of one
/// build with the rest as well.
const PARTS: [&str; 17] = [
    LIBC,
    "libBrokenLocale.so.1",
    "libanl.so.1",
    "libc_malloc_debug.so.0",
    "libdl.so.2",
    "libm.so.6",
    "libmvec.so.1",
    "libnsl.so.1",
    "libnss_compat.so.2",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libnss_hesiod.so.2",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
    "libthread_db.so.1",
    "libutil.so.1",
];

/// Whether the image's C library has the versions that the host's libraries were linked with.
pub(super) fn check(stack: &str, image: &Image<'_>, used: &[&Dependency]) -> Result<(), Error> {
    let mut known: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
    for own in used {
        let Some(symbols) = File::open(&own.path).ok().and_then(Symbols::read) else {
            continue;
        };
        for (library, wanted) in symbols.version_needs {
            if !is_glibc(&library) {
                continue;
            }
            let versions = known.entry(library.clone()).or_insert_with(|| {
                let path = image.find(&library, own.library.flags)?;
                Some(image.symbols(&path)?.versions)
            });
            let has = |version: &String| {
                versions.as_ref().is_some_and(|versions| versions.contains(version))
            };
            if let Some(version) = wanted.into_iter().rev().find(|version| !has(version)) {
                let (stack, by) = (stack.to_owned(), own.path.clone());
                if image.find(LIBC, own.library.flags).is_none() {
                    return Err(Error::OtherLibc { stack, by });
                }
                return Err(Error::Glibc { stack, by, library, version });
            }
        }
    }
    Ok(())
}

/// Mounts the host's C library over the image's.
pub(super) fn bring(stack: &str, image: &Image<'_>, flags: i32) -> Result<Injection, Error> {
    let fail = |problem: String| Error::NoGlibc { stack: stack.to_owned(), problem };
    let linker = Linker::of_host();
    let on_host = |name: &str| linker.cached(OsStr::new(name), flags);
    let libc = on_host(LIBC).ok_or_else(|| fail(format!("{LIBC} is not found on this node")))?;
    // The linker goes by the one name that is in every program, and lies where it says.
    let interpreter = Library::open(&libc)
        .and_then(|library| library.needed.into_iter().find(|name| name.starts_with("ld")))
        .ok_or_else(|| fail(format!("{} asks for no linker", Plain(&libc))))?;
    let other = || Error::OtherLibc { stack: stack.to_owned(), by: libc.clone() };
    let inside = image.find(LIBC, flags).ok_or_else(other)?;
    let own = image.symbols(&inside).map(|symbols| symbols.versions).unwrap_or_default();
    let has = File::open(&libc).ok().and_then(Symbols::read).unwrap_or_default().versions;
    if let Some(version) = own.difference(&has).next() {
        return Err(fail(format!("{} of the host lacks {version}, which it has", Plain(&libc))));
    }
    let dir = inside.parent().unwrap_or(Path::new("/"));
    let mut edits = Edits::default();
    for name in PARTS.into_iter().chain([&*interpreter]) {
        let Some(source) = on_host(name) else { continue };
        // What the image has not, a library of the host's may ask for.
        let target = match image.find(name, flags) {
            Some(path) => path,
            None if name == interpreter => {
                return Err(fail(format!("{name} is not found in the image")));
            }
            None => dir.join(name),
        };
        edits.mounts.push(bind(source, target));
    }
    let told = format!(
        "MPI {stack:?}: {} and all of its C library in the place of the image's {}",
        Plain(&libc),
        Plain(&inside)
    );
    Ok(Injection { edits, told: vec![told], warnings: Vec::new() })
}

fn bind(source: PathBuf, target: PathBuf) -> Bind {
    Bind { source, target, access: Access::ReadOnly }
}
