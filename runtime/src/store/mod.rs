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
//!   squashfs/HEX.sqfs     the image whose manifest has that digest, as one file, if wanted
//!   locks/HEX             lease: one puller per image, and what it needs meanwhile
//!   locks/squashfs-HEX    lease: one writer of that file
//!   locks/lead-KEY        lease: who brings an image for all nodes of a job, and how far it is
//!   locks/lead-KEY-STEP   why it could not
//!   locks/index           lease: one writer of the index
//!   partial/spool.…       an archive that is being imported, a squashfs that is being written;
//!                         gone with the process
//!
//! Node: expanded images, on a tmpfs of the node
//!   blobs/sha256/HEX      manifests and configurations of the trees
//!   trees/HEX/            the image whose manifest has that digest: complete, or absent
//!   trees/HEX.GID/        the same, where the first is of another group of the user's
//!   partial/HEX/          a tree in the making; belongs to the holder of locks/HEX
//!   trees/HEX/names       by which it was asked for
//!   trees/HEX/files       of which it was made, so that they are not read again
//!   locks/HEX             flock: one puller per image and node; shared by who begins to use it
//!   steps/                what the ranks of a step share (container::join)
//!   containers/           what was written in those that stay (kept)
//!   outbox/               layers on their way to other nodes; gone with the process
//!   mnt/                  where each container's private mount namespace builds its root
//! ../.shifter-UID-…       what other nodes have sent (sent.rs)
//! ```
//!
//! Whatever becomes visible under its final name got there by one rename(2) of something complete.
//! A process that dies leaves things in `partial/` only, and the next one uses or removes them.

mod blobs;
mod containers;
mod draft;
mod gc;
mod index;
mod layout;
mod lease;
mod list;
mod node;
mod owner;
mod room;
pub(crate) mod sent;
mod squashfs;
mod trees;
mod usage;

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

pub use self::{
    blobs::Blobs,
    containers::Container,
    draft::Draft,
    gc::{Freed, Mode, Reach},
    index::Entry,
    layout::Store,
    lease::Lease,
    list::{State, Stored},
    node::{Lock, Node, Stage},
    room::{Limit, Room},
    squashfs::Squashfs,
    trees::{Removal, Tree, User},
};
pub(crate) use self::{
    lease::{Dead, Sight, Watch},
    node::ROOTFS,
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

    /// Whether what was asked for is not there.
    pub fn is_absent(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// The store or node directory that it happened in.
    pub fn place(&self) -> &Path {
        const FOLDERS: [&str; 5] = ["partial", "blobs", "locks", "trees", "squashfs"];
        let is_folder = |path: &&Path| FOLDERS.iter().any(|folder| path.ends_with(folder));
        let inner = self.path.ancestors().filter(is_folder).last();
        inner.and_then(Path::parent).unwrap_or(&self.path)
    }

    /// Where the file system is mounted that it happened on.
    pub fn mount_point(&self) -> PathBuf {
        let device = |path: &Path| fs::metadata(path).map(|file| file.dev()).ok();
        let place = fs::canonicalize(self.place()).unwrap_or_else(|_| self.place().to_owned());
        let own = device(&place);
        let same = place.ancestors().take_while(|path| device(path) == own);
        same.last().unwrap_or(&place).to_owned()
    }

    /// Whether space or a quota ran out.
    pub fn is_no_space(&self) -> bool {
        crate::sys::is_full(&self.source)
    }
}
