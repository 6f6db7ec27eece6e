//! Why there is no image.

use std::path::{Path, PathBuf};

use super::{bytes, fan::Failure};
use crate::{
    digest::Digest,
    layer, oci, registry, squashfs,
    store::{self, Limit, Node, Room},
};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The manifest or the configuration.
    #[error(transparent)]
    Document(#[from] oci::Error),
    /// The disk with the store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The node directory.
    #[error(transparent)]
    Node(store::Error),
    /// A layer that is no valid archive, or not a harmless one.
    #[error("layer {digest}")]
    Layer {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        source: layer::Error,
    },
    /// A layer that does not decompress.
    #[error("decompress layer {digest}")]
    Inflate {
        /// Which.
        digest: Digest,
        /// The decompressor's account.
        source: std::io::Error,
    },
    /// A layer in the store is not what its name says.
    #[error("stored layer {}: damaged: its content has digest {got}", path.display())]
    StoredBlob {
        /// Where it lies; its name is the digest that it should have.
        path: PathBuf,
        /// The digest of what is there.
        got: Digest,
    },
    /// A layer in a file is not what its name says.
    #[error("layer {digest} in {}: damaged: its content has digest {got}", path.display())]
    Content {
        /// Which.
        digest: Digest,
        /// The file that it was read from.
        path: PathBuf,
        /// The digest of what is there.
        got: Digest,
    },
    /// There is no registry that could have what the file lacks.
    #[error("the image is not complete")]
    Nowhere,
    /// A layer whose content is not what the configuration says.
    #[error("layer {digest}: uncompressed content: expected {expected}, got {got}")]
    DiffId {
        /// Which, by its compressed digest.
        digest: Digest,
        /// The configuration's diff_id.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// Space ran out, or would.
    #[error("{} is full: the image needs more than {}, {} are free", path.display(), bytes(*.needed), bytes(*.free))]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// The variable that names another one.
        setting: &'static str,
        /// Bytes that the image takes at least.
        needed: u64,
        /// Bytes that were free before.
        free: u64,
    },
    /// The memory in which images are expanded runs out, or would.
    #[error("{whose} has {} of memory, {} were free: the image needs more than {}", bytes(*.limit), bytes(*.free), bytes(*.needed))]
    NoMemory {
        /// The job or the node.
        whose: &'static str,
        /// Bytes of memory in all.
        limit: u64,
        /// Bytes that the image takes at least.
        needed: u64,
        /// Bytes that were free before.
        free: u64,
    },
    /// There is space, and a limit to the number of files is reached.
    #[error("{} is full: it takes no more files", path.display())]
    NoFiles {
        /// The directory.
        path: PathBuf,
    },
    /// Memory is about to run out. How much it would have taken is said by what this becomes.
    #[error("out of memory")]
    Full,
    /// Others remove as fast as it comes.
    #[error("image {digest}: it is removed while it is pulled")]
    Removed {
        /// Which.
        digest: Digest,
    },
    /// The image could not be written as one file.
    #[error("write squashfs")]
    Squash(#[source] squashfs::Error),
    /// The image's single file is to be mounted, and what is written to it could not be copied.
    #[error("mount {}: it belongs to another user or group", path.display())]
    Foreign {
        /// Where it lies.
        path: PathBuf,
    },
    /// The node that was bringing it for all has failed.
    #[error("{}", .0.line)]
    Elsewhere(Failure),
    /// The node that was bringing it for all is gone.
    #[error("the node that was pulling the image is gone")]
    Orphaned,
    /// SIGINT, SIGTERM or SIGHUP.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// Given up because another layer failed, which is the error that is reported.
    #[error("cancelled")]
    Cancelled,
    /// The executor could not be started.
    #[error("start network threads")]
    Threads(#[source] std::io::Error),
}

impl Error {
    /// Whether other bytes came than the digest promised: another try may bring the right ones.
    pub(super) fn is_other_content(&self) -> bool {
        matches!(self, Error::Registry(error) if matches!(error.root(), registry::Error::Digest { .. }))
    }

    /// Whether the next pull may succeed with what has come so far. Space that ran out is needed
    /// for something else.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Error::Registry(error) => !error.is_other_content(),
            Error::Interrupted(_) | Error::Cancelled => true,
            _ => false,
        }
    }

    /// Whether the space of the node directory ran out.
    pub(super) fn is_no_space_in(&self, node: &Node) -> bool {
        match self {
            Error::Layer { source, .. } => source.is_no_space(),
            Error::Full => true,
            Error::Store(error) | Error::Node(error) => {
                error.is_no_space() && error.path.starts_with(node.path())
            }
            _ => false,
        }
    }
}

/// A file system that is full may have room, and only take no more files.
pub(super) fn no_files(error: Error, node: &Node) -> Error {
    match error.is_no_space_in(node) && node.is_out_of_files() {
        true => Error::NoFiles { path: node.path().to_owned() },
        false => error,
    }
}

/// Words that there is not enough room.
pub(crate) fn no_space(path: &Path, setting: &'static str, needed: u64, room: Room) -> Error {
    let (path, free) = (path.to_owned(), room.free);
    match room.limit {
        Limit::FileSystem => Error::NoSpace { path, setting, needed, free },
        Limit::Job(limit) => Error::NoMemory { whose: "the job", limit, needed, free },
        Limit::Node(limit) => Error::NoMemory { whose: "this node", limit, needed, free },
    }
}
