//! What is known of a tree's directories beyond what lies on disk.
//!
//! A directory's own mode and time can be set only after the last change inside it, so they wait
//! here. The shadow has the shape of the tree: what moves or goes there, moves or goes here, and
//! metadata never reaches a directory that only has the name of the one it was meant for
//! (SECURITY R4).

use std::collections::{BTreeMap, HashMap};

use nix::sys::time::TimeSpec;

use super::name;

/// What a directory entry says of its directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) mtime: TimeSpec,
    /// Later in a layer is more.
    pub(super) order: u64,
    /// Whether it brought extended attributes; they are on the directory already.
    pub(super) xattrs: Xattrs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Xattrs {
    None,
    Some,
}

/// One directory. Those that nobody declared, and that hold none that is declared, have no node.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// None: implicit, made because something lies below it.
    pub(super) meta: Option<Meta>,
    pub(super) dirs: HashMap<Box<[u8]>, Node>,
    /// Hard links in this directory that wait for their target, by index into the layer's list.
    pub(super) links: BTreeMap<Box<[u8]>, usize>,
}

impl Node {
    pub(super) fn at(&self, path: &[u8]) -> Option<&Node> {
        name::components(path).try_fold(self, |node, component| node.dirs.get(component))
    }

    /// The node at `path`, made if missing.
    pub(super) fn at_mut(&mut self, path: &[u8]) -> &mut Node {
        name::components(path).fold(self, |node, component| {
            if !node.dirs.contains_key(component) {
                node.dirs.insert(component.into(), Node::default());
            }
            node.dirs.get_mut(component).expect("it was inserted if it was missing")
        })
    }

    /// Forgets the directory at `path` and all below it.
    pub(super) fn remove(&mut self, path: &[u8]) {
        let (parent, base) = name::split(path);
        let parent =
            name::components(parent).try_fold(self, |node, component| node.dirs.get_mut(component));
        if let Some(parent) = parent {
            parent.dirs.remove(base);
        }
    }

    /// Whether the directory at `path` has attributes that its entry brought.
    pub(super) fn has_xattrs(&self, path: &[u8]) -> bool {
        let meta = self.at(path).and_then(|node| node.meta);
        meta.is_some_and(|meta| meta.xattrs == Xattrs::Some)
    }

    /// Whether a layer declares this directory itself.
    pub(super) fn is_explicit(&self) -> bool {
        self.meta.is_some()
    }
}

/// What one layer has put into the tree, by canonical path: looked at only where one of its names
/// led through a link of a lower layer, and so may be the same as another of its own.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// Not yet among the known: putting it in order costs more than the renames are worth.
    log: Vec<(Vec<u8>, Part)>,
    known: BTreeMap<Vec<u8>, Part>,
}

/// How much of a path is the layer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// It leads through it: a link of lower layers.
    Use,
    /// The metadata of a directory of lower layers.
    Metadata,
    /// It, and all that lies below it.
    All,
}

impl Brought {
    pub(super) fn extend(&mut self, parts: impl IntoIterator<Item = (Vec<u8>, Part)>) {
        self.log.extend(parts);
    }

    /// Whether what lies at `path` is the layer's.
    pub(super) fn owns(&mut self, path: &[u8]) -> bool {
        for (path, part) in self.log.drain(..) {
            let known = self.known.entry(path).or_insert(part);
            *known = part.max(*known);
        }
        let above = |end| self.known.get(&path[..end]) == Some(&Part::All);
        self.known.get(path).is_some_and(|part| *part > Part::Use)
            || path.iter().enumerate().any(|(end, byte)| *byte == b'/' && above(end))
    }

    /// Whether what lies at `path` is the layer's, or in its use, or holds anything that is.
    pub(super) fn touches(&mut self, path: &[u8]) -> bool {
        let below = name::join(path, b"");
        self.owns(path)
            || self.known.contains_key(path)
            || self.known.range(below.clone()..).next().is_some_and(|(p, _)| p.starts_with(&below))
    }
}

/// Without recursion: how deep a tree is, is up to the archive.
impl Drop for Node {
    fn drop(&mut self) {
        let mut rest: Vec<Node> = self.dirs.drain().map(|(_, node)| node).collect();
        while let Some(mut node) = rest.pop() {
            rest.extend(node.dirs.drain().map(|(_, node)| node));
        }
    }
}
