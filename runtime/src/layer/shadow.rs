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

/// Without recursion: how deep a tree is, is up to the archive.
impl Drop for Node {
    fn drop(&mut self) {
        let mut rest: Vec<Node> = self.dirs.drain().map(|(_, node)| node).collect();
        while let Some(mut node) = rest.pop() {
            rest.extend(node.dirs.drain().map(|(_, node)| node));
        }
    }
}
