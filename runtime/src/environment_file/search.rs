//! From what a file or a caller names to a path.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::Problem;
use crate::{config, suggest};

/// What an environment file's name ends with.
const SUFFIX: &str = ".toml";

/// Tells whether a name is a path to an environment file, and not an image's: `./x.toml`.
pub fn is_path(name: &str) -> bool {
    name.ends_with(SUFFIX) && !name.contains("://")
}

/// Tells whether a base is a path; others are names to be searched for.
pub(super) fn is_base_path(name: &str) -> bool {
    name.contains('/') || name.ends_with(SUFFIX)
}

/// The file of this name in the first directory that has one.
pub(super) fn find(name: &str, dirs: &[PathBuf]) -> Option<PathBuf> {
    let files = dirs.iter().map(|dir| dir.join(format!("{name}{SUFFIX}")));
    // One that cannot be looked at is not passed over: reading it says why.
    let mut files = files.filter(|file| !matches!(file.try_exists(), Ok(false)));
    files.next()
}

/// What may be meant by a name that is in no directory: a file beside the one that names it, or
/// another name.
pub(super) fn nearest(name: &str, dirs: &[PathBuf], beside: Option<&Path>) -> Option<String> {
    let file = format!("{name}{SUFFIX}");
    if beside.is_some_and(|dir| dir.join(&file).is_file()) {
        return Some(format!("./{file}"));
    }
    let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let names: Vec<_> =
        names.filter_map(|name| Some(name.strip_suffix(SUFFIX)?.to_owned())).collect();
    suggest::nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
}

/// A path that is relative to a file's directory, or to the caller's home (`~/x`), made absolute.
pub(super) fn absolute(path: &str, dir: &Path) -> Result<String, Problem> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let whole = match path.strip_prefix('~').map(|rest| (rest, rest.strip_prefix('/'))) {
        Some(("", _)) => home()?,
        Some((_, Some(rest))) => home()?.join(rest),
        _ => dir.join(path),
    };
    let whole = without_parents(&whole)
        .map_err(|source| Problem::Above { path: path.to_owned(), source })?;
    whole.into_os_string().into_string().map_err(|_| Problem::Encoding(path.to_owned()))
}

/// An absolute path without `..`. What that leaves is asked of the file system: behind a link it is
/// another directory than the one that the path reads like.
pub(super) fn without_parents(path: &Path) -> io::Result<PathBuf> {
    let parts: Vec<_> = path.components().collect();
    let Some(last) = parts.iter().rposition(|part| *part == Component::ParentDir) else {
        return Ok(parts.iter().collect());
    };
    let above: PathBuf = parts[..=last].iter().collect();
    Ok(parts[last + 1..].iter().fold(above.canonicalize()?, |path, part| path.join(part)))
}

fn home() -> Result<PathBuf, Problem> {
    config::home().ok_or(Problem::NoHome)
}

/// A file's text, if it is one: nothing is read that does not end, or never begins.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    /// More than anybody writes.
    const MAX_SIZE: u64 = 1 << 20;
    let meta = fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if meta.len() > MAX_SIZE {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    fs::read(path)
}
