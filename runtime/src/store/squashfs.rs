//! Images as single files: `squashfs/HEX.sqfs`, HEX the digest of the manifest.
//!
//! One stays as long as its manifest does. It is made of the tree that the manifest's layers make, and
//! belongs to the store's user and the group under which it was written, as all files in it do.

use std::{
    fs::{self, DirBuilder, Metadata},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::PathBuf,
};

use nix::unistd::{getegid, geteuid};

use super::{Draft, Error, Lease, Store, blobs::sync_dir};
use crate::digest::Digest;

/// What the names end in.
const SUFFIX: &str = "sqfs";

/// An image that is one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Squashfs {
    /// Where.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// Whether its files are the caller's, of the caller's group.
    ///
    /// A user namespace knows one user and one group. Of what is anybody else's, an overlay can copy
    /// nothing up (EOVERFLOW).
    pub is_own: bool,
}

impl Squashfs {
    fn of(path: PathBuf, metadata: &Metadata) -> Squashfs {
        let owner = (metadata.uid(), metadata.gid());
        let is_own = owner == (geteuid().as_raw(), getegid().as_raw());
        Squashfs { path, size: metadata.len(), is_own }
    }
}

impl Store {
    /// The single file of an image, if there is one.
    pub fn squashfs(&self, manifest: &Digest) -> Option<Squashfs> {
        let path = self.squashfs_path(manifest);
        let metadata = fs::symlink_metadata(&path).ok().filter(Metadata::is_file)?;
        Some(Squashfs::of(path, &metadata))
    }

    /// Becomes the only process that writes the single file of an image, until the lease is dropped.
    /// `waiting` is called if another one is at it, before the wait for it.
    pub fn lock_squashfs(&self, manifest: &Digest, waiting: impl FnOnce()) -> Result<Lease, Error> {
        self.lease(&format!("squashfs-{}", manifest.hex()), &[manifest], waiting)
    }

    /// Makes a single file visible, which is whole. Returns false if its image is gone meanwhile.
    pub(crate) fn admit_squashfs(&self, manifest: &Digest, draft: Draft) -> Result<bool, Error> {
        let dir = self.squashfs_dir();
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::new("create", dir, e));
            }
            _ => {}
        }
        let draft = draft.renamed(&self.squashfs_path(manifest));
        // Written out before others have to wait.
        draft.sync()?;
        // Whoever removes images waits for this lease.
        let _lease = self.lock()?;
        if self.blobs().document(manifest).is_none() {
            return Ok(false);
        }
        draft.commit()?;
        sync_dir(&dir)?;
        Ok(true)
    }

    /// The images that are single files here.
    pub(super) fn squashfs_list(&self) -> Vec<Digest> {
        let entries = fs::read_dir(self.squashfs_dir()).into_iter().flatten().flatten();
        let digest = |path: PathBuf| {
            let hex = path.file_stem()?.to_str()?;
            let digest = Digest::parse(&format!("sha256:{hex}")).ok()?;
            // What has another name is not ours.
            (self.squashfs_path(&digest) == path).then_some(digest)
        };
        entries.filter_map(|entry| digest(entry.path())).collect()
    }

    /// Where the single file of an image lies, or would.
    pub(super) fn squashfs_path(&self, manifest: &Digest) -> PathBuf {
        self.squashfs_dir().join(manifest.hex()).with_extension(SUFFIX)
    }

    fn squashfs_dir(&self) -> PathBuf {
        self.path().join("squashfs")
    }
}
