//! Where images lie on disk. Everything belongs to the user and is closed to others (0700).
//!
//! ```text
//! Store: an OCI image layout (image-layout.md), on the user's filesystem; skopeo, umoci and
//! podman read it as it is
//!   oci-layout            {"imageLayoutVersion":"1.0.0"}
//!   index.json            one manifest descriptor per name, replaced by rename
//!   blobs/sha256/HEX      complete and verified, or absent
//!   partial/HEX           a layer, whole and verified, whose image is not complete yet
//!   partial/HEX.…         what has come of it; who is stopped leaves it, the next one goes on
//!   partial/HEX.lock      flock: one puller per image
//!
//! Node: expanded images, on a tmpfs of the node
//!   blobs/sha256/HEX      manifests and configurations of the trees
//!   trees/HEX/            the image whose manifest has that digest: complete, or absent
//!   trees/HEX.GID/        the same, where the first is of another group of the user's
//!   partial/HEX/          a tree in the making; belongs to the holder of locks/HEX
//!   locks/HEX             flock: one puller per image and node
//!   steps/                what the ranks of a step share (container::join)
//!   containers/           what was written in those that stay (kept)
//!   mnt/                  where each container's private mount namespace builds its root
//! ```
//!
//! Whatever becomes visible under its final name got there by one rename(2) of something complete.
//! A process that dies leaves things in `partial/` only, and the next one uses or removes them.

mod blobs;
mod containers;
mod draft;
mod layout;
mod node;
mod room;

use std::{io, path::PathBuf};

pub use self::{
    blobs::Blobs,
    containers::Container,
    draft::Draft,
    layout::Store,
    node::{Lock, Node, Stage},
    room::{Limit, Room},
};

/// Why the disk did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
#[error("{op} {}", path.display())]
pub struct Error {
    /// What was tried, as a verb and a noun.
    pub op: &'static str,
    /// With what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl Error {
    pub(crate) fn new(
        op: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Error {
        Error { op, path: path.into(), source: source.into() }
    }

    /// Whether space or a quota ran out.
    pub fn is_no_space(&self) -> bool {
        crate::sys::is_full(&self.source)
    }
}
