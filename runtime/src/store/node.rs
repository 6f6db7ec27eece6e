//! The node directory: expanded images on this node's tmpfs.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;

use super::{
    Blobs, Error, Room,
    draft::{fresh_path, is_being_written},
};
use crate::{digest::Digest, image::Hold, layer};

/// The image's root, in its tree. A folder of its own, since an image's root may forbid writing,
/// and a directory that its owner cannot write to cannot be moved.
pub(crate) const ROOTFS: &str = "rootfs";

/// What lies in it, in the order in which it is made. The last one is empty, and the first that those go for
/// who remove what is empty and old.
const PLACES: [&str; 6] = ["blobs/sha256", "trees", "partial", "locks", "steps", "mnt"];

/// The node directory of one user.
#[derive(Debug, Clone)]
pub struct Node {
    root: PathBuf,
    blobs: Blobs,
}

impl Node {
    /// Opens the node directory, and makes it first if need be.
    ///
    /// Its name can be guessed and its parent is often world-writable: it is used only if it is a
    /// directory of the caller that is closed to all others (SECURITY A3).
    pub fn open(root: &Path) -> Result<Node, Error> {
        make(root, false)?;
        match Node::existing(root)? {
            Some(node) => Ok(node),
            None => {
                let gone = io::Error::from(io::ErrorKind::NotFound);
                Err(Error::new("open node directory", root, gone))
            }
        }
    }

    /// The same, if there is one.
    pub fn existing(root: &Path) -> Result<Option<Node>, Error> {
        let failed = |error| Error::new("open node directory", root, error);
        let refuse = |why: &str| Err(failed(io::Error::other(why.to_owned())));
        let metadata = match fs::symlink_metadata(root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata.map_err(failed)?,
        };
        if !metadata.is_dir() {
            return refuse("not a directory");
        }
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            return refuse("belongs to another user");
        }
        if metadata.mode() & 0o077 != 0 {
            return refuse("open to other users; it must have mode 0700");
        }
        if metadata.mode() & 0o2000 != 0 {
            // Inherited from a directory that a group shares; it would give that group to all
            // that is made here.
            fs::set_permissions(root, fs::Permissions::from_mode(0o700))
                .map_err(|e| Error::new("set mode of node directory", root, e))?;
        }
        // One after the other: where the last one is, are all.
        if !root.join(PLACES[PLACES.len() - 1]).is_dir() {
            PLACES.iter().try_for_each(|dir| make(&root.join(dir), true))?;
        }
        Ok(Some(Node { root: root.to_owned(), blobs: Blobs::at(root) }))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Manifests and configurations of the images that are here.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Makes a place for layers that are on their way to other nodes.
    pub(crate) fn outbox(&self) -> Result<Outbox, Error> {
        let root = fresh_path(&self.root.join("outbox"), Path::new("out"));
        for part in ["blobs/sha256", "partial"] {
            let path = root.join(part);
            let made = DirBuilder::new().mode(0o700).recursive(true).create(&path);
            made.map_err(|e| Error::new("create", &path, e))?;
        }
        Ok(Outbox { blobs: Blobs::at(&root), root })
    }

    /// The expanded image whose manifest has this digest, if it is here.
    pub fn tree(&self, manifest: &Digest) -> Option<PathBuf> {
        let path = self.tree_dir(manifest).join(ROOTFS);
        path.is_dir().then_some(path)
    }

    /// One for each group that the user works under (newgrp, sbatch --gid): a user namespace knows
    /// one group, and of another one's tree the overlay can copy nothing up (EOVERFLOW).
    pub(super) fn tree_dir(&self, manifest: &Digest) -> PathBuf {
        let (path, gid) = (self.root.join("trees").join(manifest.hex()), nix::unistd::getegid());
        match fs::symlink_metadata(&path) {
            Ok(other) if other.gid() != gid.as_raw() => path.with_extension(gid.to_string()),
            _ => path,
        }
    }

    /// What can still be written here.
    pub fn room(&self) -> Result<Room, Error> {
        Room::of(&self.root).map_err(|e| Error::new("examine", &self.root, e))
    }

    /// Whether a limit to the number of files is reached; tmpfs has one (`nr_inodes`).
    pub fn is_out_of_files(&self) -> bool {
        // Where there is no limit, both numbers are 0.
        statvfs(&self.root).is_ok_and(|stat| stat.files() > 0 && stat.files_available() == 0)
    }

    /// Becomes the one process on this node that makes the image `manifest`. `waiting` is called
    /// if another one is at it, before the wait for it.
    pub fn lock(&self, manifest: &Digest, waiting: impl FnOnce()) -> Result<Lock, Error> {
        let file = self.lock_file(manifest)?;
        let failed = |e| Error::new("lock", self.lock_path(manifest), e);
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                // The kernel lets go of a dead holder's lock: there are no stale ones.
                file.lock().map_err(failed)?;
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        Ok(Lock { _file: file, manifest: manifest.clone() })
    }

    /// The expanded image whose manifest has this digest, if it is here, and what keeps it here.
    /// Waits for who is about to remove it, and not for who is about to make it.
    pub fn hold(&self, manifest: &Digest) -> Result<Option<(PathBuf, Hold)>, Error> {
        let Some(tree) = self.tree(manifest) else { return Ok(None) };
        let file = self.lock_file(manifest)?;
        file.lock_shared().map_err(|e| Error::new("lock", self.lock_path(manifest), e))?;
        Ok(tree.is_dir().then(|| (tree, Hold::from(file))))
    }

    /// Becomes the one process that has to do with the image, unless there is another one.
    pub(super) fn try_lock(&self, manifest: &Digest) -> Result<Option<Lock>, Error> {
        let file = self.lock_file(manifest)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file, manifest: manifest.clone() })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::new("lock", self.lock_path(manifest), e)),
        }
    }

    /// Begins to make a tree.
    pub fn stage<'l>(&self, lock: &'l Lock) -> Result<Stage<'l>, Error> {
        self.sweep(Some(&lock.manifest));
        let partial = self.root.join("partial");
        let parent = File::open(&partial).map_err(|e| Error::new("open", &partial, e))?;
        let name = lock.manifest.hex();
        let path = partial.join(name);
        // Whoever made it is gone: the lock is ours.
        layer::remove_tree(parent.as_fd(), name.as_ref())
            .map_err(|e| Error::new("remove", &path, e))?;
        let create = |path: &Path| {
            DirBuilder::new().mode(0o700).create(path).map_err(|e| Error::new("create", path, e))
        };
        create(&path)?;
        let tree = self.tree_dir(&lock.manifest);
        Ok(Stage { _lock: lock, parent, path, tree, done: false })
    }

    /// Removes what dead processes left in `partial/` and `outbox/`: memory, here. `except` is being made.
    /// Best effort: nothing depends on it.
    pub(super) fn sweep(&self, except: Option<&Digest>) {
        for entry in fs::read_dir(self.root.join("outbox")).into_iter().flatten().flatten() {
            if !is_being_written(&entry.file_name().to_string_lossy()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let Ok(entries) = fs::read_dir(self.root.join("partial")) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let text = name.to_string_lossy();
            // A document on its way in.
            if text.contains('.') {
                if !is_being_written(&text) {
                    let _ = fs::remove_file(entry.path());
                }
                continue;
            }
            let digest = Digest::parse(&format!("sha256:{text}")).ok();
            let Some(digest) = digest.filter(|digest| Some(digest) != except) else { continue };
            let Ok(file) = self.lock_file(&digest) else { continue };
            if file.try_lock().is_ok()
                && let Ok(parent) = File::open(self.root.join("partial"))
            {
                let _ = layer::remove_tree(parent.as_fd(), &name);
            }
        }
    }

    fn lock_path(&self, manifest: &Digest) -> PathBuf {
        self.root.join("locks").join(manifest.hex())
    }

    fn lock_file(&self, manifest: &Digest) -> Result<File, Error> {
        let path = self.lock_path(manifest);
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        file.map_err(|e| Error::new("lock", path, e))
    }
}

/// Makes a directory that nobody else can enter, unless there is one.
fn make(dir: &Path, recursive: bool) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).recursive(recursive).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::new("create node directory", dir, e))
        }
        _ => Ok(()),
    }
}

/// Layers on their way to other nodes, which go when it is dropped.
#[derive(Debug)]
pub(crate) struct Outbox {
    root: PathBuf,
    blobs: Blobs,
}

impl Outbox {
    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// Where layers are put.
    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        // Best effort: what stays is removed by the next one.
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// The right to make one image on this node; let go when dropped or when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    manifest: Digest,
}

/// A tree in the making. Dropped before [`Stage::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Stage<'l> {
    /// Without it the next one to come sweeps the tree away.
    _lock: &'l Lock,
    parent: File,
    path: PathBuf,
    tree: PathBuf,
    done: bool,
}

impl Stage<'_> {
    /// Makes the directory that becomes the image's root, and opens it.
    pub fn rootfs(&self) -> Result<OwnedFd, Error> {
        self.create(ROOTFS)
    }

    /// Makes an empty directory for passing use, and opens it. What has the name goes.
    pub fn create(&self, name: &str) -> Result<OwnedFd, Error> {
        let path = self.path.join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(name)?;
                self.create(name)
            }
            Err(e) => Err(Error::new("create", path, e)),
            Ok(()) => self.open(name),
        }
    }

    /// Where it is made.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory that was made.
    pub fn open(&self, name: &str) -> Result<OwnedFd, Error> {
        let path = self.path.join(name);
        let opened = File::open(&path).map_err(|e| Error::new("open", path, e))?;
        Ok(opened.into())
    }

    /// Removes a directory that has served.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let remove = || layer::remove_tree(File::open(&self.path)?.as_fd(), name.as_ref());
        remove().map_err(|e| Error::new("remove", self.path.join(name), e))
    }

    /// Publishes the image, and returns where its root is.
    pub fn commit(mut self) -> Result<PathBuf, Error> {
        fs::rename(&self.path, &self.tree).map_err(|e| Error::new("publish", &self.tree, e))?;
        self.done = true;
        Ok(self.tree.join(ROOTFS))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if !self.done {
            let name = self.path.file_name().expect("made by joining a name");
            // Best effort: what stays is removed by the next pull.
            let _ = layer::remove_tree(self.parent.as_fd(), name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SECURITY R22.
    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path().join("node");
        Node::open(&root).expect("made");
        Node::open(&root).expect("opened again");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("chmod");
        let error = Node::open(&root).expect_err("0755");
        let error = crate::report::chain(&error);
        assert!(error.ends_with("it must have mode 0700"), "{error}");
        fs::remove_dir_all(&root).expect("remove");
        std::os::unix::fs::symlink(dir.path(), &root).expect("symlink");
        let error = Node::open(&root).expect_err("link");
        let error = crate::report::chain(&error);
        assert!(error.ends_with("not a directory"), "{error}");
    }

    /// SECURITY R26.
    #[test]
    fn a_tree_is_complete_or_absent() {
        let dir = tempfile::tempdir().expect("tempdir");
        let node = Node::open(&dir.path().join("node")).expect("node");
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let lock = node.lock(&one, || panic!("nobody else is here")).expect("lock");
        let stage = node.stage(&lock).expect("stage");
        stage.rootfs().expect("rootfs");
        assert_eq!(node.tree(&one), None);
        // Another process that died in the middle of another image.
        fs::create_dir(node.path().join("partial").join(two.hex())).expect("leftover");
        let document = format!("{}.x.{}.0", two.hex(), i32::MAX);
        fs::write(node.path().join("partial").join(document), "").expect("leftover");
        drop(stage);
        let left = || fs::read_dir(node.path().join("partial")).expect("partial").count();
        assert_eq!(left(), 2);
        let stage = node.stage(&lock).expect("stage");
        stage.rootfs().expect("rootfs");
        stage.create("0").expect("layer");
        stage.remove("0").expect("layer");
        let tree = stage.commit().expect("commit");
        assert_eq!(node.tree(&one), Some(tree));
        assert_eq!(left(), 0, "leftovers stay");
    }
}
