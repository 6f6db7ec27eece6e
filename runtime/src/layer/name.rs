//! Names from an archive: bytes, cleaned before use, escaped before they are shown.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt};

use crate::report::is_unprintable;

/// Longest path that is taken, in bytes: eight times what a single system call takes.
pub(super) const MAX_PATH: usize = 32 << 10;

/// An entry's name as people may see it: control and bidirectional characters and bytes that are
/// no UTF-8 are escaped (SECURITY R17), and a very long one is cut.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(Box<[u8]>);

impl Name {
    const SHOWN: usize = 512;

    pub(super) fn new(name: &[u8]) -> Name {
        Name(name.get(..Self::SHOWN).unwrap_or(name).into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    c if is_unprintable(c) => write!(f, "{}", c.escape_default())?,
                    c => fmt::Write::write_char(f, c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if self.0.len() == Self::SHOWN { f.write_str("…") } else { Ok(()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// The path without `.`, empty components and `..`, relative to the root, where `..` ends
/// (SECURITY R2). This is `path.Clean("/" + name)` of Go, which all peers use.
pub(super) fn clean(name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(name.len());
    for component in components(name) {
        match component {
            b"." => {}
            b".." => pop(&mut path),
            name => push(&mut path, name),
        }
    }
    path
}

/// The components that are not empty.
pub(super) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|component| !component.is_empty())
}

/// Appends one component.
pub(super) fn push(path: &mut Vec<u8>, component: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(component);
}

/// Drops the last component; at the root there is none.
pub(super) fn pop(path: &mut Vec<u8>) {
    path.truncate(split(path).0.len());
}

/// `directory/component`, as a path of its own.
pub(super) fn join(directory: &[u8], component: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + component.len());
    path.extend_from_slice(directory);
    push(&mut path, component);
    path
}

/// A clean path's directory and last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Whether a clean path is `dir` or lies below it.
pub(super) fn is_within(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}

/// For system calls.
pub(super) fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_as_go_does() {
        for (name, path) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/a", "a"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            ("a/..", ""),
            (".", ""),
            ("", ""),
            ("...", "..."),
            ("a/..b", "a/..b"),
        ] {
            assert_eq!(clean(name.as_bytes()), path.as_bytes(), "{name}");
        }
    }

    #[test]
    fn a_shown_name_cannot_drive_a_terminal() {
        let shown = Name::new(b"a\x1b[2J\n\xff\\\xe2\x80\xaeb\xc3\xa9").to_string();
        assert_eq!(shown, "a\\u{1b}[2J\\n\\xff\\\\\\u{202e}bé");
        assert!(Name::new(&[b'x'; 9999]).to_string().len() < 600);
    }
}
