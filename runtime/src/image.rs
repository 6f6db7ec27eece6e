//! The one thing that the two halves of this library share.

use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    sync::Arc,
};

use crate::{digest::Digest, oci::ImageConfig, source::Source};

/// An image that lies complete and verified on this node. Holding one is the proof: only
/// `pull::ensure` and `import::ensure` make them.
#[derive(Debug, Clone)]
pub struct Image {
    /// What it was asked for by.
    pub source: Source,
    /// The digest of this platform's manifest. A directory that is run where it is has none: its
    /// device and inode make one, by which nobody finds it.
    pub digest: Digest,
    /// How to run it.
    pub config: ImageConfig,
    /// The expanded tree, or the squashfs: complete, owned by the caller, never written to again; or a
    /// directory of the caller's choice, which is not written to either.
    pub rootfs: PathBuf,
    /// Which of the two.
    pub form: Form,
    /// Keeps the tree where it is until the container's overlay shows that it is in use.
    pub hold: Hold,
}

impl Image {
    /// The digest of its manifest, if it has one.
    pub fn manifest(&self) -> Option<&Digest> {
        (self.form != Form::InPlace).then_some(&self.digest)
    }
}

/// How an image lies on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As a tree of files, expanded here.
    Tree,
    /// As a directory of somebody's, which has no manifest.
    InPlace,
    /// As one file, a squashfs, which is mounted by the container's first process.
    Squashfs,
}

/// A shared lock on a tree, if somebody could remove it. A program that is executed does not
/// inherit it.
#[derive(Debug, Clone, Default)]
pub struct Hold(Option<Arc<File>>);

impl Hold {
    /// The descriptor that keeps it, if there is one.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(|file| file.as_fd())
    }
}

impl From<File> for Hold {
    fn from(lock: File) -> Hold {
        Hold(Some(Arc::new(lock)))
    }
}
