//! The user's image store: an OCI image layout.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{Blobs, Draft, Error, Room, blobs::sync_dir, draft::is_litter};
use crate::{digest::Digest, oci::Descriptor, reference::Reference};

/// The key of a name in index.json (annotations.md). The name is the whole canonical reference,
/// so that images of several registries lie side by side.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The digest that the tag had in the registry: an index's, where the image came out of one.
const RESOLVED: &str = "io.shifter.resolved";
/// What lies in `partial/` longer than this belongs to nobody any more. Compared with the file's
/// own age only; clocks of other nodes may be a few minutes off, not a day.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// A user's image store.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    blobs: Blobs,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Store {
    /// Opens the store at `root`, if there is one.
    pub fn open(root: &Path) -> Option<Store> {
        root.join("oci-layout").is_file().then(|| Store::at(root))
    }

    /// Opens the store at `root`, and makes it first if need be.
    pub fn create(root: &Path) -> Result<Store, Error> {
        let store = Store::at(root);
        for dir in [root.join("blobs/sha256"), root.join("partial")] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|e| Error::new("create", &dir, e))?;
        }
        if Store::open(root).is_none() {
            // Whoever else begins it may be done by now, and have put a name into it.
            let _lock = store.lock()?;
            if Store::open(root).is_some() {
                return Ok(store);
            }
            store.write_index(&Index { schema_version: 2, manifests: Vec::new() })?;
            store.replace("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        store.sweep();
        Ok(store)
    }

    fn at(root: &Path) -> Store {
        Store { root: root.to_owned(), blobs: Blobs::at(root) }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// What can still be written here. A quota says nothing before it is reached.
    pub fn room(&self) -> Result<Room, Error> {
        Room::of(&self.root).map_err(|e| Error::new("examine", &self.root, e))
    }

    /// The blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The manifest that `reference` names here, if any.
    pub fn find(&self, reference: &Reference) -> Result<Option<Digest>, Error> {
        let index = self.read_index()?;
        let name = reference.to_string();
        let found = index.manifests.into_iter().find(|d| match reference.digest() {
            Some(pinned) => d.digest == *pinned || resolved(d) == Some(pinned.as_str()),
            None => d.annotations.get(REF_NAME) == Some(&name),
        });
        Ok(found.map(|d| d.digest))
    }

    /// Whether a manifest has the name `reference` here, given it by [`Store::tag`].
    pub fn has(
        &self,
        reference: &Reference,
        manifest: &Descriptor,
        resolved: &Digest,
    ) -> Result<bool, Error> {
        let name = reference.to_string();
        Ok(self.read_index()?.manifests.iter().any(|d| {
            d.annotations.get(REF_NAME) == Some(&name)
                && d.digest == manifest.digest
                && d.annotations.get(RESOLVED).is_some_and(|d| d == resolved.as_str())
        }))
    }

    /// Gives a manifest that is here the name `reference`; what had the name loses it. `resolved`
    /// is the digest that the registry gave for the name.
    pub fn tag(
        &self,
        reference: &Reference,
        manifest: Descriptor,
        resolved: &Digest,
    ) -> Result<(), Error> {
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        let name = reference.to_string();
        index.manifests.retain(|d| d.annotations.get(REF_NAME) != Some(&name));
        index.manifests.push(Descriptor {
            annotations: BTreeMap::from([
                (REF_NAME.to_owned(), name),
                (RESOLVED.to_owned(), resolved.to_string()),
            ]),
            ..manifest
        });
        self.write_index(&index)
    }

    /// Becomes the only process that pulls the image `manifest` into this store, until the file is
    /// dropped. `waiting` is called if another one is at it, before the wait for it.
    ///
    /// Without flock (some Lustre mounts) two may be at it, and each downloads for itself.
    pub fn lock_image(&self, manifest: &Digest, waiting: impl FnOnce()) -> Result<File, Error> {
        let lock = self.lock_file(&format!("{}.lock", manifest.hex()))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            waiting();
            let _ = lock.lock();
        }
        Ok(lock)
    }

    /// Becomes the only writer of the index, until the file is dropped.
    fn lock(&self) -> Result<File, Error> {
        let lock = self.lock_file("index.lock")?;
        // Without flock two writers at the same moment can lose one name, never break the file: it
        // is replaced whole.
        let _ = lock.lock();
        Ok(lock)
    }

    fn lock_file(&self, name: &str) -> Result<File, Error> {
        let path = self.root.join("partial").join(name);
        let lock =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        lock.map_err(|e| Error::new("create", &path, e))
    }

    fn read_index(&self) -> Result<Index, Error> {
        let path = self.root.join("index.json");
        let read = || -> io::Result<Index> { Ok(serde_json::from_slice(&fs::read(&path)?)?) };
        read().map_err(|e| Error::new("read", &path, e))
    }

    fn write_index(&self, index: &Index) -> Result<(), Error> {
        let bytes = serde_json::to_vec_pretty(index).expect("plain data serialises");
        self.replace("index.json", &bytes)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let name = self.root.join(name);
        Draft::create(&self.root.join("partial"), &name)?.commit_with(bytes)?;
        sync_dir(&self.root)
    }

    /// Removes what dead processes left in `partial/` and nobody will use. Best effort: nothing
    /// depends on it.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.root.join("partial")) else { return };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let age =
                metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            let is_litter = is_litter(&entry.file_name().to_string_lossy(), metadata.len());
            if is_litter || age.is_some_and(|age| age > STALE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn resolved(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations.get(RESOLVED).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn manifest(store: &Store, bytes: &[u8]) -> Descriptor {
        let digest = Digest::of(bytes);
        store.blobs().put_document(&digest, bytes).expect("put");
        Descriptor {
            media_type: crate::oci::MANIFEST_TYPES[0].to_owned(),
            digest,
            size: bytes.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn a_name_means_the_manifest_that_it_was_given_last() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path().join("a/store");
        let store = Store::create(&root).expect("create");
        let (old, new) = (manifest(&store, b"old"), manifest(&store, b"new"));
        let name: Reference = "alpine:3".parse().expect("name");
        let other: Reference = "ghcr.io/library/alpine:3".parse().expect("name");
        let index = Digest::of(b"index");
        store.tag(&name, old.clone(), &old.digest).expect("tag");
        store.tag(&other, old.clone(), &old.digest).expect("tag");
        store.tag(&name, new.clone(), &index).expect("tag");
        let store = Store::open(&root).expect("open");
        assert_eq!(store.find(&name).expect("find"), Some(new.digest.clone()));
        assert_eq!(store.find(&other).expect("find"), Some(old.digest));
        let pinned: Reference = format!("alpine@{index}").parse().expect("name");
        assert_eq!(store.find(&pinned).expect("find"), Some(new.digest));
        assert_eq!(store.find(&"alpine:4".parse().expect("name")).expect("find"), None);
    }

    #[test]
    fn what_a_dead_process_of_the_same_number_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::create(dir.path()).expect("create");
        let digest = Digest::of(b"content");
        for count in 0..1000 {
            let left = format!("partial/{}.x.{}.{count}", digest.hex(), std::process::id());
            fs::write(dir.path().join(left), b"half").expect("write");
        }
        store.blobs().put_document(&digest, b"content").expect("put");
        assert_eq!(store.blobs().document(&digest).as_deref(), Some(&b"content"[..]));
    }

    /// SECURITY R26.
    #[test]
    fn a_blob_is_complete_or_absent() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::create(dir.path()).expect("create");
        let descriptor = manifest(&store, b"content");
        assert!(store.blobs().find(&descriptor).is_some());
        let longer = Descriptor { size: 8, ..descriptor.clone() };
        assert!(store.blobs().find(&longer).is_none(), "a blob of another size was taken");
        let absent = Descriptor { digest: Digest::of(b"absent"), size: 6, ..descriptor.clone() };
        let mut writer = store.blobs().writer(&absent).expect("writer");
        writer.write_all(b"abs").expect("write");
        drop(writer);
        assert!(store.blobs().find(&absent).is_none());
        let left = fs::read_dir(dir.path().join("partial")).expect("partial").flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["index.lock"], "an abandoned blob stays on disk");
    }
}
